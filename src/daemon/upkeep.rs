//! What eastgate has made on the machine stays as it made it: programs, devices, settings and files that someone else
//! takes away are put back within a second, counted and said.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::{Context, Result, anyhow, bail};
use eastgate_dataplane::pipeline::shared::lock;
use eastgate_fastpath::is_pinned;
use eastgate_steering::{
    kernel::is_entry,
    settings::{Key, Scope, Setting, SettingId},
};
use eastgate_wire::AttachmentId;

use super::{Daemon, PortState, Visible, accelerate::device};
use crate::{
    control::socket::SocketState,
    io::{
        clock,
        fastpath::KernelPath,
        guard::HostTraffic,
        netlink::{Link, LinkEvent},
    },
    plan::{
        OWN_DEVICES, PUNT_MTU, Place, Step, TUNNEL, UP, punt_devices, route_settings, setting_steps,
        tunnel_device, wanted_ports, wanted_settings,
    },
};

/// What the kernel has told of at one time.
#[derive(Default)]
pub(super) struct News {
    /// Devices or addresses have changed.
    devices: bool,
    /// Qdiscs or filters of these have.
    qdiscs: BTreeSet<u32>,
    /// Not everything was heard.
    lost: bool,
}

/// Settings, each of the device with an index, that are kept as they are to be.
pub(super) type HeldSettings = BTreeSet<(Key, u32)>;

/// What someone else took away.
#[derive(Clone, Copy)]
pub(super) enum Lost {
    Program,
    Device,
    File,
    Route,
}

/// Whether a setting that is not as it is to be was so when `before` was held: it is among these, or it is another
/// interface's or `all`, and nothing is held now that would call for writing it for the first time.
fn was_held(
    id: &SettingId,
    index: impl Fn(&str) -> Option<u32>,
    before: &HeldSettings,
    now: &HeldSettings,
) -> bool {
    if let Scope::Interface(name) = &id.scope
        && let Some(index) = index(name)
        && now.contains(&(id.key, index))
    {
        return before.contains(&(id.key, index));
    }
    now.difference(before).all(|(key, _)| *key != id.key)
}

impl Daemon {
    /// Takes in what has happened to devices.
    pub(super) async fn note(&mut self, event: LinkEvent, news: &mut News) {
        match event {
            LinkEvent::Qdiscs { index } => {
                news.qdiscs.insert(index);
                return;
            }
            LinkEvent::Is(link) => {
                self.links.retain(|_, known| known.index != link.index);
                self.links.insert(link.name.clone(), link);
            }
            LinkEvent::Gone { index } => self.links.retain(|_, known| known.index != index),
            LinkEvent::Addresses => {}
            LinkEvent::Lost => {
                news.lost = true;
                self.list_links().await;
            }
        }
        news.devices = true;
    }

    /// Does what the news calls for; what closes ports first.
    pub(super) async fn hear(&mut self, news: News) {
        if news.lost {
            self.list_qdiscs().await;
            self.host_traffic.clear();
            self.hold_all(None).await;
        } else if !news.qdiscs.is_empty() {
            self.hold_all(Some(&news.qdiscs)).await;
        }
        if news.devices {
            self.keep_devices().await;
            if self.view.kernel.get().is_some() {
                self.ask_routes().await;
            }
            self.reconcile().await;
        }
    }

    /// Reads qdiscs again that are not told of one by one.
    pub(super) async fn list_qdiscs(&mut self) {
        if let Some(machine) = &mut self.machine {
            machine.list_qdiscs(&self.netlink).await;
        }
    }

    /// Every second: what someone else changed is put right, what failed is tried again.
    pub(super) async fn watch(&mut self) -> Result<()> {
        if let Some(dead) = self.workers.iter().position(|worker| !worker.alive()) {
            return Err(anyhow!("worker {dead} died; nothing new passes until the daemon is started again"));
        }
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
        self.sweep();
        self.view.shared.keep_pairs(clock::now());
        self.keep_listening().await;
        // The kernel tells of filters, and neither of programs in the tcx lists nor of packet sockets.
        let is_accelerated = self.view.kernel.get().is_some();
        let is_to_be_asked = self.machine.as_mut().is_some_and(|machine| {
            let others_listen = is_accelerated && machine.list_captures();
            others_listen || machine.attaches_by() == "tcx"
        });
        if is_to_be_asked {
            self.hold_all(None).await;
        }
        self.keep_devices().await;
        self.keep_files();
        self.apply_settings().await;
        let snapshot = self.view.shared.snapshot_arc();
        self.keep_routes(&snapshot).await;
        let is_incomplete = |visible: &Visible| {
            let mut all = visible.ports.values().chain(visible.segments.values());
            all.any(|state| matches!(state, PortState::Failed(_)))
        };
        let incomplete = !self.routers_stand(&snapshot)
            || self.underlay.is_none()
            || is_incomplete(&lock(&self.view.state))
            || self.stations.values().any(|stations| !stations.is_alive());
        if incomplete {
            self.reconcile().await;
        }
        Ok(())
    }

    /// Puts settings right, and counts those that someone else has changed: whatever called for the look, which may be
    /// the second, a device that changed at that moment, or a reload.
    pub(super) async fn apply_settings(&mut self) {
        let snapshot = self.view.shared.snapshot_arc();
        let Some(host) = snapshot.config.host(&self.host) else { return };
        let wanted = wanted_settings(&snapshot, host, &wanted_ports(&snapshot), &self.links);
        if let Err(error) = self.apply(&wanted).await {
            tracing::error!("interface settings could not be applied: {error:#}");
        }
    }

    async fn apply(&mut self, wanted: &[Setting]) -> Result<()> {
        let (steps, affected) = setting_steps(wanted)?;
        for affected in &affected {
            tracing::warn!(setting = %affected.id, before = affected.before, after = affected.after,
                "a setting of another interface changes with `all`");
        }
        self.execute_all(&steps).await?;
        let index = |name: &str| self.links.get(name).map(|link| link.index);
        let held =
            wanted.iter().filter_map(|setting| Some((setting.key, index(&setting.interface)?))).collect();
        let changed = steps.iter().filter_map(|step| match step {
            Step::Set(change) => Some(&change.id),
            _ => None,
        });
        let restored = changed.filter(|id| was_held(id, index, &self.settings, &held)).count();
        self.settings = held;
        if restored > 0 {
            tracing::warn!(restored, "interface settings were changed by someone else and put right");
            lock(&self.view.state).settings_restored += restored as u64;
        }
        Ok(())
    }

    /// Makes the control socket again where someone has removed it. What stands in its place is left there.
    async fn keep_listening(&mut self) {
        if self.socket_file.state() == SocketState::There {
            return;
        }
        let made = self.execute(&Step::Serve { socket: self.options.socket.clone() }).await;
        match made {
            Ok(_) => {
                self.socket_missed = false;
                lock(&self.view.state).control_restored += 1;
                tracing::warn!(socket = %self.options.socket.display(), "the control socket was removed and is made again");
            }
            Err(error) if !std::mem::replace(&mut self.socket_missed, true) => {
                tracing::error!(socket = %self.options.socket.display(), "the control socket is gone: {error:#}");
            }
            Err(_) => {}
        }
    }

    /// Ends what has run out of time in the kernel, beside everything else; one sweep after the other.
    fn sweep(&mut self) {
        if self.sweeping.as_ref().is_none_or(tokio::task::JoinHandle::is_finished) {
            let shared = self.view.shared.clone();
            self.sweeping = Some(tokio::task::spawn_blocking(move || shared.sweep(clock::now())));
        }
    }

    /// Who turns forwarding off for all devices turns it off for the one by which frames are punted, too.
    async fn ask_routes(&mut self) {
        for step in route_settings() {
            let Step::SetOwn { file, to, .. } = &step else { continue };
            let is_off = |value: String| value.trim() != to.to_string();
            if std::fs::read_to_string(format!("/proc/sys/{file}")).is_ok_and(is_off)
                && let Err(error) = self.execute(&step).await
            {
                tracing::error!("programs cannot ask the host's routes: {error:#}");
            }
        }
    }

    /// Programs and filters on all devices, or on these.
    async fn hold_all(&mut self, only: Option<&BTreeSet<u32>>) {
        let kernel = self.view.kernel.get().cloned();
        if only.is_some() {
            self.list_qdiscs().await;
        }
        let is_asked = |link: &Link| only.is_none_or(|only| only.contains(&link.index));
        let by_index = |index: u32| self.links.values().find(|link| link.index == index);
        let devices = self.devices.keys().filter_map(|index| by_index(*index).cloned());
        for link in devices.filter(is_asked).collect::<Vec<_>>() {
            let accelerated = kernel.is_some() && !is_entry(&link.name);
            let held = self.hold_again(&link, Place::Port { accelerated }).await;
            if let Err(error) = held {
                self.close_for_good(&link, &error);
            } else if self.look_at_host(&link, only.is_some()).await {
                for id in self.served_at(link.index) {
                    if let Err(error) = self.open_in_kernel(id, &link) {
                        tracing::error!(
                            port = link.name,
                            "how frames get to a port is not known to the fast path: {error:#}"
                        );
                    }
                }
            }
        }
        if kernel.is_none() {
            return;
        }
        let underlay = self.links.values().filter(|link| self.attached.contains(&link.index));
        let shared = underlay.map(|link| (link.clone(), Place::Underlay));
        let shared: Vec<_> = shared.collect();
        let own = self.links.get(TUNNEL).filter(|link| self.made.get(TUNNEL) == Some(&link.index));
        let own = own.map(|link| (link.clone(), Place::Own));
        for (link, place) in shared.into_iter().chain(own).filter(|(link, _)| is_asked(link)) {
            if let Err(error) = self.hold_again(&link, place).await {
                tracing::error!(device = link.name, "programs could not be put back: {error:#}");
            }
        }
    }

    async fn hold_again(&mut self, link: &Link, place: Place) -> Result<()> {
        let step = Step::Attach { device: link.name.clone(), hook: self.hook(), place };
        for way in self.execute(&step).await? {
            self.count_restored(Lost::Program, format!("the program at {way} of {}", link.name));
        }
        Ok(())
    }

    fn served_at(&self, ifindex: u32) -> Vec<AttachmentId> {
        self.serving.iter().filter(|(_, at)| **at == ifindex).map(|(id, _)| *id).collect()
    }

    /// The ports of a device that cannot be guarded any more are served no more.
    fn close_for_good(&mut self, link: &Link, error: &anyhow::Error) {
        tracing::error!(port = link.name, "a port lost its guard and is closed: {error:#}");
        let failed = PortState::Failed(format!("{error:#}"));
        self.leave_stations(link.index);
        for id in self.served_at(link.index) {
            self.give_up(id, link.index);
            lock(&self.view.state).ports.insert(id, failed.clone());
        }
        self.close_unused(link.index);
        if let Some(segment) = lock(&self.view.state).segments.get_mut(&*link.name) {
            *segment = failed;
        }
    }

    /// What the host has on a device decides how frames get there: whether that has changed. The kernel has told of
    /// qdiscs and filters, or there is nothing new of these.
    pub(super) async fn look_at_host(&mut self, link: &Link, told: bool) -> bool {
        let Some(machine) = &self.machine else { return false };
        let known = self.host_traffic.get(&link.index);
        let found = match known {
            Some(known) if !told => machine.host_programs(link, known),
            _ => machine.host_traffic(&self.netlink, link).await,
        };
        if known == Some(&found) {
            return false;
        }
        let mut visible = lock(&self.view.state);
        let before = visible.notes.remove(&*link.name);
        if let Some(note) = found.note() {
            visible.notes.insert(link.name.as_str().into(), note);
            if before.is_none() {
                tracing::warn!(port = link.name, "{note}");
            }
        }
        if found.is_captured() {
            visible.captured.insert(link.name.as_str().into());
        } else {
            visible.captured.remove(&*link.name);
        }
        drop(visible);
        let wanted = found.wants_egress();
        self.host_traffic.insert(link.index, found).is_some_and(|before| before.wants_egress() != wanted)
    }

    pub(super) fn wants_egress(&self, ifindex: u32) -> bool {
        self.host_traffic.get(&ifindex).is_some_and(HostTraffic::wants_egress)
    }

    fn devices_stand(&self) -> bool {
        self.made.iter().all(|(name, index)| {
            let link = self.links.get(*name).filter(|link| link.index == *index);
            link.is_some_and(|link| link.up && (*name == TUNNEL || link.mtu == PUNT_MTU))
        })
    }

    /// The devices of the fast path are there, up, and have their names.
    async fn keep_devices(&mut self) {
        let Some(kernel) = self.view.kernel.get().cloned() else { return };
        if self.devices_stand() {
            return;
        }
        // They may only not have been heard of yet.
        self.list_links().await;
        if self.devices_stand() {
            return;
        }
        let result = self.remake_devices(&kernel).await;
        self.say_missing("devices of the fast path", result);
    }

    /// What cannot be put back is tried again every second, and said once.
    pub(super) fn say_missing(&self, what: &'static str, result: Result<()>) {
        let mut visible = lock(&self.view.state);
        match result {
            Ok(()) => drop(visible.missing.remove(what)),
            Err(error) => {
                let error = format!("{what}: {error:#}");
                if visible.missing.get(what) != Some(&error) {
                    tracing::error!("not put back yet: {error}");
                }
                visible.missing.insert(what, error);
            }
        }
    }

    async fn remake_devices(&mut self, kernel: &Arc<KernelPath>) -> Result<()> {
        let is_lost = |daemon: &Self, name: &str| {
            let link = daemon.links.get(name);
            link.map(|link| link.index) != daemon.made.get(name).copied()
        };
        let (up, tunnel) = (UP.into_iter().any(|name| is_lost(self, name)), is_lost(self, TUNNEL));
        // Under another name it is no use, and would be left behind.
        for name in OWN_DEVICES.into_iter().filter(|name| if *name == TUNNEL { tunnel } else { up }) {
            let renamed = self.links.values().find(|link| self.made.get(name) == Some(&link.index)).cloned();
            if let Some(renamed) = renamed {
                self.netlink.delete_device(&renamed).await?;
                self.links.remove(&renamed.name);
            }
            if self.links.get(name).is_some_and(|link| self.made.get(name) != Some(&link.index)) {
                bail!("there is a device {name} that eastgate has not made: delete or rename it");
            }
        }
        if up {
            self.execute_all(&punt_devices()).await?;
            self.execute_all(&route_settings()).await?;
            let link = device(&self.links, UP[0])?;
            kernel.reach(Some(link.index), None)?;
            self.execute(&Step::ListenForPunts { device: UP[1] }).await?;
            self.count_restored(Lost::Device, format!("{} and {}", UP[0], UP[1]));
        }
        if tunnel {
            let overlay = self.view.shared.snapshot().config.overlay.port;
            self.execute_all(&tunnel_device(overlay)).await?;
            let attach = Step::Attach { device: TUNNEL.into(), hook: self.hook(), place: Place::Own };
            self.execute(&attach).await?;
            kernel.reach(None, self.tunnel_port)?;
            self.count_restored(Lost::Device, TUNNEL.into());
        }
        for name in OWN_DEVICES {
            let link = device(&self.links, name)?;
            let mtu = if name == TUNNEL { link.mtu } else { PUNT_MTU };
            if !link.up || link.mtu != mtu {
                self.netlink.bring_up(name, mtu).await?;
                self.count_restored(Lost::Device, format!("{name} was down, or had another MTU"));
            }
        }
        self.list_links().await;
        Ok(())
    }

    /// Pinned tables, and the record of changes.
    fn keep_files(&mut self) {
        let (Some(machine), kernel) = (&self.machine, self.view.kernel.get()) else { return };
        let mut put_back = Vec::new();
        let mut keep = || -> Result<()> {
            if machine.keep_record()? {
                put_back.push("the record of changes".to_owned());
            }
            if let (Some(kernel), Some(folder)) = (kernel, machine.pins().filter(|folder| !is_pinned(folder)))
            {
                let pinned = eastgate_fastpath::unpin(folder).map_err(anyhow::Error::from);
                pinned
                    .and_then(|()| Ok(kernel.pin(folder)?))
                    .with_context(|| format!("pinned tables in {}", folder.display()))?;
                put_back.push(format!("pinned tables in {}", folder.display()));
            }
            Ok(())
        };
        self.say_missing("files", keep());
        for what in put_back {
            self.count_restored(Lost::File, what);
        }
    }

    pub(super) fn count_restored(&self, lost: Lost, what: String) {
        tracing::warn!("someone else took away {what}: put back");
        let mut visible = lock(&self.view.state);
        let restored = &mut visible.restored;
        match lost {
            Lost::Program => restored.programs += 1,
            Lost::Device => restored.devices += 1,
            Lost::File => restored.files += 1,
            Lost::Route => restored.routes += 1,
        }
        restored.last = Some(what);
    }
}
