//! The daemon: a snapshot in force, workers over the devices that are there, and an ear for everything that
//! changes: files, devices, settings, signals, requests.
//!
//! Order is what keeps it closed. A port is guarded before anything listens to it, it is listened to only with a
//! snapshot in force, and on the way out workers end before guards are taken off.

mod accelerate;
mod events;
mod execute;
mod learning;
mod log;
mod metrics;
mod ports;
mod probe;
mod reload;
mod routing;
mod show;
mod signals;
mod staged;
mod underlay;
mod upkeep;
mod vdp;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use eastgate_api::{Done, ErrorCode, Failure, Reply, Request, Restored, Scope};
use eastgate_config::{Config, Loader};
use eastgate_dataplane::{
    attachments::Attachments,
    pipeline::{Shared, shared::lock},
    snapshot::state::StateRegistry,
};
use eastgate_wire::AttachmentId;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

pub use self::accelerate::Dataplane;
pub(crate) use self::accelerate::pin_folder;
use self::{
    events::{Collector, Recent},
    learning::Learner,
    metrics::{Reloads, Told},
    ports::OpenDevice,
    reload::{nothing_to_do, within_open_files},
    signals::Signals,
    staged::Staged,
    underlay::ActiveUnderlay,
    vdp::{Desk, Stations, terms::Terms},
};
use crate::{
    control::{
        ApiHealth,
        client::Presence,
        network::{Address, Network},
        server::{self, Server},
        socket::{self, SocketFile},
    },
    http,
    io::{
        fastpath::KernelPath,
        guard::{Attach, Hooks, HostTraffic},
        inject::Injector,
        lock::NamespaceLock,
        machine::{Machine, record_beside},
        netlink::{Link, LinkEvent, Netlink},
        worker::{Command, WorkerHandle},
    },
    plan::{Step, Undo, port_devices, wanted_ports},
};

/// How often settings are compared and failed devices tried again.
const TICK: Duration = Duration::from_secs(1);

/// What `run` was told.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file
    pub config: PathBuf,
    /// This host's name in it; the only host that runs eastgate, if none is given
    pub host: Option<String>,
    /// The control socket
    pub socket: PathBuf,
    /// Worker threads
    pub workers: usize,
    /// What carries frames
    pub dataplane: Dataplane,
    /// By what programs are attached to devices
    pub attach: Attach,
    /// What a stop leaves behind
    pub on_stop: OnStop,
    /// Where tables are pinned: a folder on a bpffs
    pub pin: Option<PathBuf>,
    /// Where metrics are served, if they are
    pub metrics: Option<SocketAddr>,
    /// Where the API is served over the network, if it is
    pub api: Option<Address>,
}

/// What a stop leaves of the fast path. A kill always keeps it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum OnStop {
    /// Nothing: the machine is as it was before `run`
    #[default]
    Restore,
    /// The programs go on with the flows they carry, for the `run` that follows; `teardown` restores
    Keep,
}

/// A configuration that was refused.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{text}")]
pub struct ConfigRefused {
    /// Rendered for a person
    pub text: String,
    /// The same for a program
    pub diagnostics: Value,
}

/// Loads a configuration, or says everything that is wrong with it.
///
/// # Errors
/// [`ConfigRefused`].
pub fn load(loader: &mut Loader, color: bool) -> Result<Arc<Config>, ConfigRefused> {
    loader.load().map_err(|diagnostics| ConfigRefused {
        text: diagnostics.render(color),
        diagnostics: json!(diagnostics),
    })
}

/// The host to be: the one named, or the only one that runs eastgate.
///
/// # Errors
/// When none is named and there are several.
pub fn choose_host(config: &Config, named: Option<&str>) -> Result<String> {
    if let Some(name) = named {
        return Ok(name.to_owned());
    }
    let ours: Vec<&str> = config.hosts.values().filter(|h| h.runs_eastgate()).map(|h| &*h.name).collect();
    match ours[..] {
        [only] => Ok(only.to_owned()),
        [] => Err(anyhow!("the configuration has no host that runs eastgate")),
        _ => Err(anyhow!("say which host this is: --host {}", ours.join(" | --host "))),
    }
}

/// Runs until a signal says to stop.
///
/// # Errors
/// Why it could not start, or what it could not undo.
pub fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let signals = Signals::hear()?;
        let mut daemon = Daemon::start(options).await?;
        match daemon.serve(signals).await {
            Ok(()) => daemon.stop().await,
            Err(error) => {
                daemon.abandon();
                Err(error)
            }
        }
    })
}

/// What requests can see; the daemon's own task changes it.
pub(crate) struct View {
    shared: Arc<Shared>,
    /// The way into the path for frames of probes; none without workers
    injector: Option<Injector>,
    /// The fast path, where there is one
    kernel: OnceLock<Arc<KernelPath>>,
    started: Instant,
    /// A number that no other daemon of this machine has
    instance: u64,
    config: PathBuf,
    state: Mutex<Visible>,
    /// What has happened of late
    events: Mutex<Recent>,
    /// A version that is tried beside the one in force
    staged: Mutex<Option<Staged>>,
    reloads: Reloads,
    /// What counters were told last
    told: Mutex<Told>,
    changes: mpsc::Sender<Change>,
    /// What stations may, and what they have associated
    desk: Arc<Desk>,
    /// How the API over the network is
    api: Arc<ApiHealth>,
}

/// What the daemon's task is asked to change, and where the outcome goes.
struct Change {
    request: Request,
    answer: oneshot::Sender<Result<Done, Failure>>,
}

/// What the daemon's task tells those who ask.
#[derive(Clone, Debug, Default)]
pub(crate) struct Visible {
    ready: bool,
    digest: String,
    control_restored: u64,
    reload_error: Option<String>,
    ports: BTreeMap<AttachmentId, PortState>,
    names: BTreeMap<AttachmentId, Arc<str>>,
    /// The devices behind which stations are
    segments: BTreeMap<Arc<str>, PortState>,
    /// The devices of the underlay that are there
    underlay: Vec<Link>,
    listening: bool,
    /// Why not, as far as it is known
    not_listening: Option<String>,
    settings_restored: u64,
    restored: Restored,
    /// What could not be put back, and why
    missing: BTreeMap<&'static str, String>,
    /// What the host has on devices of ports that does not hold
    notes: BTreeMap<Arc<str>, &'static str>,
    /// Devices of ports that somebody's packet socket listens to
    captured: BTreeSet<Arc<str>>,
    attached_by: &'static str,
    dataplane: String,
}

/// How a tenant port is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum PortState {
    Forwarding,
    /// Guarded and listened to, but administratively down
    Down,
    /// There is no such device yet.
    Absent,
    /// It cannot be served, and is closed; tried again every second.
    Failed(String),
}

struct Daemon {
    options: Options,
    host: String,
    loader: Option<Loader>,
    registry: Attachments,
    netlink: Netlink,
    links: BTreeMap<String, Link>,
    events: mpsc::UnboundedReceiver<LinkEvent>,
    machine: Option<Machine>,
    workers: Vec<WorkerHandle>,
    view: Arc<View>,
    changes: mpsc::Receiver<Change>,
    /// What is learned, and what is in force with it
    learner: Learner,
    /// Ports that are served, and the device they are on
    serving: BTreeMap<AttachmentId, u32>,
    /// Devices with guard and sockets
    devices: BTreeMap<u32, OpenDevice>,
    /// Those of them behind which stations are
    stations: BTreeMap<u32, Stations>,
    underlay: Option<ActiveUnderlay>,
    /// The devices that the underlay's program is on
    attached: BTreeSet<u32>,
    /// Interface settings that are held as they are to be
    settings: upkeep::HeldSettings,
    /// The kernel's routing, where networks ask for it
    routing: routing::Routing,
    /// The devices of the fast path, by name
    made: BTreeMap<&'static str, u32>,
    /// The programs that are being brought up
    loading: Option<Arc<KernelPath>>,
    /// Where the kernel's own vxlan device listens, if this daemon has made it
    tunnel_port: Option<u16>,
    /// What the host has of its own on devices of ports that are served
    host_traffic: BTreeMap<u32, HostTraffic>,
    _alone: NamespaceLock,
    /// None on the way out
    control: Option<Server>,
    /// Whoever serves metrics
    watched: Option<http::Server>,
    /// Whoever serves the API over the network
    network: Option<Network>,
    _collector: Collector,
    socket_file: SocketFile,
    /// It is gone and could not be made again, which was said.
    socket_missed: bool,
    sweeping: Option<tokio::task::JoinHandle<()>>,
}

impl Daemon {
    async fn start(options: &Options) -> Result<Self> {
        let pin = options.pin.as_deref().map(accelerate::pin_folder).transpose()?;
        let mut loader = Loader::new(&options.config);
        let config = load(&mut loader, std::io::IsTerminal::is_terminal(&std::io::stderr()))?;
        for warning in loader.warnings().iter() {
            tracing::warn!("{}", warning.problem);
        }
        let host = choose_host(&config, options.host.as_deref())?;
        let states = Arc::new(StateRegistry::new(config.limits));
        let mut registry = Attachments::default();
        let (affordable, warning) = within_open_files(&config);
        if let Some(warning) = warning {
            tracing::warn!("{warning}");
        }
        let (snapshot, effective, parted) =
            learning::first(&affordable, &host, &mut registry, &states, &options.socket)?;
        // First the socket: whoever has both is told of the one that was named.
        let (listener, socket_file) = socket::listen(&options.socket)
            .with_context(|| format!("cannot listen at {}", options.socket.display()))?;
        let alone = NamespaceLock::take().inspect_err(|_| socket_file.remove())?;
        let mut machine = Machine::take_over(record_beside(&options.socket))?;
        machine.attach_by(Hooks::choose(options.attach).context("--attach")?);
        let netlink = Netlink::connect()?;
        machine.list_qdiscs(&netlink).await;
        // Watching begins before listing, so that nothing that happens in between is missed.
        let events = Netlink::watch_links()?;
        let links = netlink.links().await?;

        let shared = Arc::new(Shared::new(snapshot, states, options.workers));
        let workers = (0..options.workers)
            .map(|index| WorkerHandle::start(index, shared.clone()))
            .collect::<Result<Vec<_>, _>>()
            .context("cannot start the workers")?;
        let (sender, changes) = mpsc::channel(1);
        let view = Arc::new(View {
            shared,
            injector: workers.first().map(WorkerHandle::injector),
            kernel: OnceLock::new(),
            started: Instant::now(),
            instance: crate::io::clock::now().micros(),
            config: options.config.clone(),
            state: Mutex::default(),
            events: Mutex::default(),
            staged: Mutex::default(),
            reloads: Reloads::default(),
            told: Mutex::default(),
            changes: sender,
            desk: Arc::new(Desk::new(Terms::new(effective.written().clone(), &host))),
            api: Arc::default(),
        });
        let collector = Collector::start(&view).context("cannot collect events")?;
        let control = Server::start(listener, view.clone()).context("cannot serve the control socket")?;
        let mut daemon = Self {
            options: Options { pin, ..options.clone() },
            host,
            loader: Some(loader),
            registry,
            netlink,
            links,
            events,
            machine: Some(machine),
            workers,
            view,
            changes,
            learner: Learner::new(&options.socket, effective, parted),
            serving: BTreeMap::new(),
            devices: BTreeMap::new(),
            stations: BTreeMap::new(),
            underlay: None,
            attached: BTreeSet::new(),
            settings: upkeep::HeldSettings::new(),
            routing: routing::Routing::default(),
            made: BTreeMap::new(),
            loading: None,
            tunnel_port: None,
            host_traffic: BTreeMap::new(),
            _alone: alone,
            control: Some(control),
            watched: None,
            network: None,
            _collector: collector,
            socket_file,
            socket_missed: false,
            sweeping: None,
        };
        Step::Serve { socket: options.socket.clone() }.done();
        // Before anything on the machine is changed: it may be that nobody can listen there.
        let metrics = options.metrics.map(|address| Step::ServeMetrics { address });
        let api = options.api.clone().map(|address| Step::ServeApi { address });
        for step in metrics.into_iter().chain(api) {
            if let Err(error) = daemon.execute(&step).await {
                daemon.abandon();
                return Err(error);
            }
        }
        // Before there are devices of its own, which no setting of `all` would then be kept from.
        daemon.apply_settings().await;
        let dataplane = daemon.choose_dataplane().await?;
        tracing::info!(dataplane);
        {
            let mut visible = lock(&daemon.view.state);
            visible.dataplane = dataplane;
            visible.digest = config.digest().to_string();
            visible.attached_by = daemon.machine.as_ref().map_or("", Machine::attaches_by);
        }
        if let Some(warning) = nothing_to_do(&daemon.view.shared.snapshot_arc()) {
            tracing::warn!("{warning}");
        }
        daemon.reconcile().await;
        daemon.go_live().await?;
        lock(&daemon.view.state).ready = true;
        // Without a service manager there is nobody to notify, which is no failure.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        tracing::info!(host = daemon.host, socket = %options.socket.display(), "ready");
        Ok(daemon)
    }

    async fn serve(&mut self, mut signals: Signals) -> Result<()> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut look = learning::look();
        loop {
            tokio::select! {
                // Whoever wants it to end does not wait behind what happens on the machine, nor do the clock and a reload.
                biased;
                _ = signals.terminate.recv() => return Ok(()),
                _ = signals.interrupt.recv() => return Ok(()),
                _ = tick.tick() => self.watch().await?,
                _ = signals.hangup.recv() => {
                    let _ = self.reload().await;
                }
                Some(change) = self.changes.recv() => self.carry_out(change).await,
                _ = look.tick(), if self.has_learners() || self.has_stations() => self.learn().await,
                event = self.events.recv() => {
                    let Some(event) = event else { return Err(anyhow!("the kernel's notifications ended")) };
                    let mut news = upkeep::News::default();
                    self.note(event, &mut news).await;
                    while let Ok(event) = self.events.try_recv() {
                        self.note(event, &mut news).await;
                    }
                    self.hear(news).await;
                }
            }
        }
    }

    /// Leaves the machine as it was (workers first, then guards and settings), unless told to keep the fast path.
    async fn stop(mut self) -> Result<()> {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        // What comes now may take as long as the kernel does.
        tracing::info!("stopping");
        self.save_learned();
        lock(&self.view.state).ready = false;
        (self.control, self.network) = (None, None);
        if self.options.on_stop == OnStop::Keep && self.view.kernel.get().is_some() {
            self.abandon();
            tracing::info!("stopped; flows go on without a daemon until `run` or `teardown`");
            return Ok(());
        }
        self.end_workers();
        let undone = match self.machine.take() {
            Some(machine) => machine.undo(&self.netlink).await,
            None => Ok(()),
        };
        self.socket_file.remove();
        Undo::Remove { socket: self.options.socket.clone() }.done();
        tracing::info!("stopped");
        Ok(undone?)
    }

    /// Guards and programs stay, as after a kill, and so does the record of changes, for the daemon that follows.
    fn abandon(mut self) {
        (self.control, self.network) = (None, None);
        self.end_workers();
        self.socket_file.remove();
    }

    /// All at once: the kernel takes its time for each socket that is closed.
    fn end_workers(&mut self) {
        self.stations.clear();
        self.workers.iter().for_each(|worker| worker.tell(Command::Stop));
        self.workers.clear();
    }

    async fn list_links(&mut self) {
        match self.netlink.links().await {
            Ok(links) => self.links = links,
            Err(error) => tracing::warn!(%error, "devices could not be listed"),
        }
    }

    /// Makes sockets and guards what the snapshot and the devices call for. Doing it twice is the same as once.
    async fn reconcile(&mut self) {
        let snapshot = self.view.shared.snapshot_arc();
        let Some(host) = snapshot.config.host(&self.host).cloned() else { return };
        let wanted = wanted_ports(&snapshot);
        // Those of ports that are gone stay: what was counted of them is still told. Their numbers are not given again.
        let names = wanted.iter().map(|port| (port.id, port.name().into()));
        lock(&self.view.state).names.extend(names);
        self.release_ports(&wanted, &host).await;
        self.make_routers(&snapshot).await;
        self.list_qdiscs().await;
        self.apply_settings().await;
        let (mut states, devices) = (BTreeMap::new(), port_devices(&host, &wanted));
        for port in &wanted {
            let state = match self.serve_port(port, &host, &devices).await {
                Ok(state) => state,
                Err(error) => PortState::Failed(format!("{error:#}")),
            };
            let before = lock(&self.view.state).ports.get(&port.id).cloned();
            if let PortState::Failed(error) = &state
                && before.as_ref() != Some(&state)
            {
                tracing::error!(port = port.name(), error, "a port cannot be served");
            }
            states.insert(port.id, state);
        }
        self.keep_routes(&snapshot).await;
        let segments = self.serve_stations(&host, &devices).await;
        self.serve_underlay(&snapshot, &host).await;
        if let Err(error) = self.attach_to_underlay(&snapshot, &host).await {
            tracing::error!("datagrams take the slow path: {error:#}");
        }
        let mut visible = lock(&self.view.state);
        let is_open = |name: &Arc<str>| self.devices.values().any(|device| device.name == *name);
        visible.notes.retain(|name, _| is_open(name));
        visible.captured.retain(is_open);
        visible.ports = states;
        visible.segments = segments;
        visible.underlay = self.underlay_links(&host).cloned().collect();
        visible.listening = self.underlay.is_some();
        if visible.listening {
            visible.not_listening = None;
        }
    }

    /// Does what was asked for. What takes as long as there are flows is done beside everything else.
    async fn carry_out(&mut self, Change { request, answer }: Change) {
        let result = match request {
            Request::Reload {} => self.reload().await,
            Request::FlowsKill(filter) => {
                let view = self.view.clone();
                tokio::task::spawn_blocking(move || drop(answer.send(view.flows_kill(&filter))));
                return;
            }
            Request::Stage { config } => {
                let view = self.view.clone();
                tokio::task::spawn_blocking(move || drop(answer.send(view.stage(config.as_ref()))));
                return;
            }
            Request::Unstage {} => Ok(self.view.unstage()),
            Request::FdbFlush(filter) => Ok(self.view.fdb_flush(&filter)),
            _ => Err(Failure::new(ErrorCode::NotApplicable, "this changes nothing")),
        };
        // Whoever asked may be gone.
        let _ = answer.send(result);
    }
}

impl server::Handler for View {
    fn query(&self, request: Request, scope: &Scope) -> Result<Reply, Failure> {
        self.show(request, scope)
    }

    async fn change(&self, mut request: Request, scope: &Scope) -> Result<Reply, Failure> {
        match request.filter_mut() {
            Some(filter) => filter.scope = scope.clone(),
            None if scope.is_all() => {}
            None => return Err(Failure::new(ErrorCode::Forbidden, "this is for all tenants")),
        }
        let (answer, result) = oneshot::channel();
        self.changes.send(Change { request, answer }).await.map_err(|_| Failure::stopping())?;
        result.await.map_err(|_| Failure::stopping())?.map(Reply::from)
    }
}

/// Undoes what a killed daemon left on the machine.
///
/// # Errors
/// When a daemon runs, or the kernel refuses.
pub fn teardown(socket: &std::path::Path) -> Result<bool> {
    let presence = Presence::of(socket)
        .with_context(|| format!("{} cannot be looked at, whether a daemon runs there", socket.display()))?;
    if presence == Presence::Alive {
        return Err(anyhow!(
            "a daemon runs at {}; stop it instead: it leaves the machine as it was",
            socket.display()
        ));
    }
    learning::forget(socket).context("what was learned cannot be forgotten")?;
    let machine = Machine::take_over(record_beside(socket))?;
    if machine.is_untouched() {
        return Ok(false);
    }
    // What one with another socket has attached by now is not to be taken away.
    let _alone = NamespaceLock::take()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let netlink = Netlink::connect()?;
        machine.undo(&netlink).await?;
        if presence == Presence::Dead {
            let _ = std::fs::remove_file(socket);
        }
        Ok(true)
    })
}
