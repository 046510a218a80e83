//! Reads everything that `doctor` judges by. Nothing here writes, makes or sends anything; whether the kernel takes the fast path's
//! programs is found out by loading them for a moment, as `plan` does.

use std::{
    collections::BTreeSet,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::Result;
use eastgate_api::{DropRows, EndpointRow, Filter, List, Request, StagedRows, Status};
use eastgate_config::{Config, Diagnostic, Loader, Severity};
use eastgate_dataplane::{
    attachments::Attachments,
    snapshot::{Snapshot, state::StateRegistry},
};
use eastgate_fastpath::Limits;
use eastgate_wire::TableSizes;

use super::{Subject, site};
use crate::{
    cli::{args::Ask, commands::ask},
    control::client::{ClientError, Presence},
    daemon::{Dataplane, choose_host, pin_folder},
    doctor::facts::{Answers, Configuration, Daemon, Facts, Machine},
    io::{
        fastpath::KernelPath,
        machine::{self, record_beside},
        survey::{
            Look,
            clock::Clock,
            devices,
            process::{self, FOR_THE_FAST_PATH},
            system,
        },
    },
    plan::{OWN_DEVICES, taken_device, wanted_ports},
};

/// Where a configuration is unless told otherwise.
const USUAL: &str = "/etc/eastgate/eastgate.toml";

/// Entries of tables that are only made to see whether the kernel takes them.
const TRIAL: u32 = 1024;

pub(super) fn facts(subject: &Subject, options: &Ask) -> Result<Facts> {
    let daemon = daemon(options);
    let running = match &daemon {
        Daemon::Answers(answers) => Some(&**answers),
        _ => None,
    };
    let (configuration, snapshot) = configuration(subject, running);
    let record =
        machine::Machine::take_over(record_beside(&options.daemon.socket)).map_err(|error| error.to_string());
    let ours: Look<BTreeSet<u32>> =
        record.as_ref().map(|record| record.programs().clone()).map_err(Clone::clone);
    let wanted: BTreeSet<String> = snapshot.iter().flat_map(devices_of).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let devices = runtime
        .block_on(devices::look(|link| wanted.contains(&link.name), &ours))
        .map_err(|error| error.to_string());
    let site = snapshot.as_ref().and_then(|snapshot| site::of(snapshot, devices.as_ref().ok()));
    let strange = match (&devices, &record) {
        (Ok(devices), Ok(record)) => taken_device(&devices.links, |name| record.has_made(name)),
        _ => None,
    };
    let machine = Machine {
        kernel: system::Kernel::of_this_machine(),
        capabilities: process::capabilities(None),
        memory: system::memory(),
        clock: Clock::now(),
        open_files: match running.and_then(|answers| answers.pid) {
            Some(pid) => process::open_files(pid),
            None => system::open_files(),
        },
        bpf_mounts: system::bpf_mounts(),
        pin: subject.carrier.pin.as_ref().map(|folder| {
            (folder.clone(), pin_folder(folder).err().map(|error| format!("{:#}", error.root_cause())))
        }),
        tracked: system::tracked(),
        bridges_ask_iptables: system::bridges_ask_iptables().unwrap_or(false),
        trial: trial(subject, &daemon),
        left: record.as_ref().map(machine::Machine::to_undo).map_err(Clone::clone),
        strange_devices: strange.map(str::to_owned).into_iter().collect(),
    };
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Ok(Facts { machine, configuration, site, devices, daemon, version })
}

/// Whose programs and offloads are looked at.
fn devices_of(snapshot: &Snapshot) -> BTreeSet<String> {
    let host = snapshot.config.host(&snapshot.host);
    let underlay = host.into_iter().flat_map(|host| host.devices.iter().map(ToString::to_string));
    let ports = wanted_ports(snapshot).into_iter().map(|port| port.device().to_string());
    underlay.chain(ports).chain(OWN_DEVICES.map(str::to_owned)).collect()
}

/// Nothing tells whether the kernel takes the programs but giving them to it. A daemon that runs knows.
fn trial(subject: &Subject, daemon: &Daemon) -> Option<Look<()>> {
    let may = process::capabilities(None)
        .is_ok_and(|capabilities| capabilities.lacks(&FOR_THE_FAST_PATH).is_empty());
    let wanted = subject.carrier.dataplane != Dataplane::Userspace;
    if !may || !wanted || !matches!(daemon, Daemon::None { .. }) {
        return None;
    }
    let tables = TableSizes {
        networks: TRIAL,
        vteps: TRIAL,
        ports: TRIAL,
        endpoints: TRIAL,
        policy_mib: 1,
        policy_cache: TRIAL,
        neighbor_cache: TRIAL,
        closed_flows: TRIAL,
        policy_drops: TRIAL,
        datagrams: TRIAL,
    };
    let limits = Limits { flows: TRIAL, tables };
    Some(KernelPath::load(limits, 0, 0).map(drop).map_err(|error| error.to_string()))
}

fn daemon(options: &Ask) -> Daemon {
    let socket = &options.daemon.socket;
    match ask::<Status>(options, &Request::Status {}) {
        Ok(status) => Daemon::Answers(Box::new(answers(options, status))),
        Err(ClientError::Denied { source, .. }) => Daemon::Denied(format!("{}: {source}", socket.display())),
        Err(ClientError::Connect { source, .. }) => match Presence::of(socket) {
            Ok(Presence::Other) => {
                Daemon::Silent(format!("{} is no socket: no daemon can listen there", socket.display()))
            }
            Err(error) => Daemon::Denied(format!("{}: {error}", socket.display())),
            Ok(Presence::Alive) => Daemon::Silent(format!("{}: {source}", socket.display())),
            Ok(presence) => match process::namespace_holder() {
                Some(pid) => Daemon::Elsewhere { socket: socket.clone(), pid },
                None => Daemon::None { socket: socket.clone(), stale: presence == Presence::Dead },
            },
        },
        Err(error) => Daemon::Silent(error.to_string()),
    }
}

fn answers(options: &Ask, status: Status) -> Answers {
    let pid = process::listener(&options.daemon.socket);
    let unseen = || "its process has no number here".to_owned();
    let of_process = pid.ok_or_else(unseen);
    let endpoints: Result<List<EndpointRow>, _> = ask(options, &Request::Endpoints(Filter::default()));
    let drops: Result<DropRows, _> = ask(options, &Request::Drops(Filter::default()));
    let staged: Option<StagedRows> = ask(options, &Request::Staged(Filter::default())).ok();
    Answers {
        pid,
        same_namespace: of_process.clone().and_then(process::shares_namespace),
        endpoints: endpoints.map(|list| list.rows).map_err(|error| error.to_string()),
        drops: drops.map(|rows| rows.drops).map_err(|error| error.to_string()),
        staged: staged.and_then(|rows| rows.config),
        capabilities: of_process.clone().and_then(|pid| process::capabilities(Some(pid))),
        sockets: of_process.and_then(process::sockets),
        status,
    }
}

/// The file that is meant: the one that is named, the daemon's, or the usual one.
pub(in crate::cli) fn file(subject: &Subject, running: Option<&Answers>) -> PathBuf {
    if let Some(path) = &subject.config {
        return path.clone();
    }
    let of_daemon = running.map(|answers| Path::new(&answers.status.config));
    match (of_daemon, running.and_then(|answers| answers.pid)) {
        (Some(path), Some(pid)) => process::path_of(pid, path),
        (Some(path), None) => path.to_owned(),
        (None, _) => USUAL.into(),
    }
}

fn configuration(subject: &Subject, running: Option<&Answers>) -> (Configuration, Option<Snapshot>) {
    let path = file(subject, running);
    let mode = match std::fs::File::open(&path).and_then(|file| file.metadata()) {
        Ok(metadata) => metadata.permissions().mode(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && subject.config.is_none() => {
            return (Configuration::Absent(path), None);
        }
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return (Configuration::Hidden { path, why: error.to_string() }, None);
        }
        Err(_) => 0,
    };
    let mut loader = Loader::new(&path);
    let config = match loader.load() {
        Ok(config) => config,
        Err(diagnostics) => {
            let first = diagnostics.iter().find(|found| found.problem.severity() == Severity::Error);
            let (errors, first) = (diagnostics.count(Severity::Error), first.map_or_else(String::new, one));
            return (Configuration::Broken { path, errors, first }, None);
        }
    };
    let named = subject.host.as_deref().or(running.map(|answers| &*answers.status.host));
    let (snapshot, no_host) = match snapshot(&config, named) {
        Ok(snapshot) => (Some(snapshot), None),
        Err(error) => (None, Some(format!("{error:#}"))),
    };
    let good = Configuration::Good {
        warnings: loader.warnings().iter().map(one).collect(),
        digest: config.digest().to_string(),
        is_writable_by_all: mode & 0o002 != 0,
        no_host,
        path,
    };
    (good, snapshot)
}

fn snapshot(config: &std::sync::Arc<Config>, named: Option<&str>) -> Result<Snapshot> {
    let host = choose_host(config, named)?;
    let states = StateRegistry::new(config.limits);
    Ok(Snapshot::compile(config, &host, None, &mut Attachments::default(), &states)?)
}

/// A diagnostic on one line.
fn one(diagnostic: &Diagnostic) -> String {
    let text = diagnostic.problem.to_string();
    format!("{}: {}", diagnostic.at, text.split_whitespace().collect::<Vec<_>>().join(" "))
}
