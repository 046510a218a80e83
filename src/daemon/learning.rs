//! What the path has heard of addresses that are learned, and which machines stations have associated, is put in force: like a reload, in batches, and kept across restarts in a
//! file beside the control socket.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use eastgate_config::{AssociatedMachines, Config, Effective};
use eastgate_dataplane::{
    attachments::Attachments,
    pipeline::{
        shared::lock,
        snoop::{LearningEvent, LearningNews},
    },
    snapshot::{Snapshot, SnapshotError, state::StateRegistry},
};
use eastgate_steering::snooping::{By, Entry, SAID_AGAIN};
use eastgate_wire::{Addr, AttachmentId, Instant, MacAddr, Vni};
use serde::{Deserialize, Serialize};

use super::{Daemon, vdp::terms::is_machine_name};
use crate::io::clock::{now, unix_millis};

/// How often it is looked whether there is anything.
const LOOK: Duration = Duration::from_millis(20);
/// As many at most are put in force one after the other: what comes meanwhile is put in force together.
const APART: Duration = Duration::from_millis(150);
/// How often time is looked at.
const EXPIRE: Duration = Duration::from_secs(1);
/// Leases of machines that are not associated now, at most.
const PARTED: usize = 4096;
/// As large as the file may be.
const LARGEST: u64 = 64 << 20;

/// What the daemon knows about what was learned.
pub(super) struct Learner {
    file: PathBuf,
    /// What is in force
    pub(super) effective: Effective,
    /// Something was heard since.
    due: bool,
    in_force_at: Instant,
    expired_at: Instant,
    said_at: Instant,
    saved_at: Instant,
    /// The tables are not what is in force.
    stale: bool,
    /// What others are told of as soon as it is in force
    untold: Vec<LearningNews>,
    /// The file is not what the tables are.
    unsaved: bool,
    /// Leases of machines that are not associated now: one that is again has its address, of which it may not speak for hours.
    parted: Vec<Parted>,
}

/// What was learned of an endpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Parted {
    vni: Vni,
    endpoint: String,
    address: Addr,
    entry: Entry,
}

/// When to look.
pub(super) fn look() -> tokio::time::Interval {
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    look
}

/// Beside the control socket, as the record of changes.
pub(super) fn file_beside(socket: &Path) -> PathBuf {
    let mut name = socket.file_name().unwrap_or_default().to_owned();
    name.push(".learned.json");
    socket.with_file_name(name)
}

#[derive(Serialize, Deserialize)]
struct Saved {
    /// Milliseconds since 1970
    saved_at: u64,
    learned: Vec<SavedAddress>,
}

#[derive(Serialize, Deserialize)]
struct SavedAddress {
    vni: Vni,
    endpoint: String,
    mac: MacAddr,
    address: Addr,
    by: String,
    here: bool,
    /// Milliseconds that it had left; none where it has no end
    left: Option<u64>,
}

impl Learner {
    pub(super) fn new(socket: &Path, effective: Effective, parted: Vec<Parted>) -> Self {
        let now = now();
        Self {
            file: file_beside(socket),
            effective,
            due: false,
            in_force_at: Instant::ZERO,
            expired_at: now,
            // At once: others are told of what a daemon before has learned.
            said_at: Instant::ZERO,
            saved_at: Instant::ZERO,
            stale: false,
            unsaved: false,
            untold: Vec::new(),
            parted,
        }
    }

    /// Keeps the leases of machines that are no longer among those that are associated.
    fn part(&mut self, snapshot: &Snapshot, associated: &AssociatedMachines) {
        for (tenant, networks) in self.effective.machines() {
            for (name, machines) in networks {
                let left = associated.get(tenant).and_then(|networks| networks.get(name));
                let is_left = |mac| left.is_some_and(|left| left.iter().any(|machine| machine.mac == mac));
                let config = snapshot.config.tenant(tenant).and_then(|tenant| tenant.networks.get(name));
                let Some(network) = config.and_then(|network| snapshot.network(network.vni)) else {
                    continue;
                };
                let snooped = lock(&network.state.snooped);
                for machine in machines.iter().filter(|machine| !is_left(machine.mac)) {
                    let leases =
                        snooped.entries().filter(|(_, it)| it.endpoint == machine.mac && it.by == By::Dhcp);
                    let parted = leases.map(|(address, entry)| Parted {
                        vni: network.vni,
                        endpoint: machine.name.to_string(),
                        address,
                        entry: *entry,
                    });
                    self.parted.extend(parted);
                }
            }
        }
        let too_many = self.parted.len().saturating_sub(PARTED);
        self.parted.drain(..too_many);
    }
}

/// Takes into the tables what was learned of endpoints that are there. What is left is of machines that are not, and lasts.
fn give_back(snapshot: &Snapshot, parted: Vec<Parted>, at: Instant) -> Vec<Parted> {
    let is_left = |it: &Parted| {
        let Some(network) =
            snapshot.network(it.vni).filter(|_| it.entry.until.is_none_or(|until| at < until))
        else {
            return false;
        };
        let endpoint = network.by_mac(it.entry.endpoint).filter(|endpoint| *endpoint.name == *it.endpoint);
        let Some(endpoint) = endpoint else {
            return it.entry.by == By::Dhcp && is_machine_name(&it.endpoint, it.entry.endpoint);
        };
        let may = network.may_learn(&snapshot.site, endpoint, it.address, at).is_ok();
        if may && endpoint.terms().is_some_and(|terms| terms.keeps(&it.entry)) {
            lock(&network.state.snooped).restore(it.address, it.entry);
        }
        false
    };
    parted.into_iter().filter(is_left).collect()
}

/// Takes into the tables of a first snapshot what a daemon before has learned. What is left is of machines that may be associated again.
fn restore(snapshot: &Snapshot, socket: &Path) -> Vec<Parted> {
    let file = file_beside(socket);
    let saved = match read(&file) {
        Ok(saved) => saved,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tracing::warn!(file = %file.display(), "what was learned before is not known: {error}");
            return Vec::new();
        }
    };
    let at = now();
    let gone = Duration::from_millis(unix_millis(at).saturating_sub(saved.saved_at));
    let known = saved.learned.into_iter().filter_map(|it| {
        let until = it.left.map(|left| at + Duration::from_millis(left).saturating_sub(gone));
        let entry = Entry { endpoint: it.mac, by: By::from_name(&it.by)?, here: it.here, since: at, until };
        Some(Parted { vni: it.vni, endpoint: it.endpoint, address: it.address, entry })
    });
    give_back(snapshot, known.collect(), at)
}

fn read(file: &Path) -> io::Result<Saved> {
    if std::fs::metadata(file)?.len() > LARGEST {
        return Err(io::Error::other("it is larger than any that eastgate writes"));
    }
    Ok(serde_json::from_slice(&std::fs::read(file)?)?)
}

/// Removes the file, which `teardown` does.
pub(super) fn forget(socket: &Path) -> io::Result<()> {
    match std::fs::remove_file(file_beside(socket)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Daemon {
    /// Whether there is anything to learn from.
    pub(super) fn has_learners(&self) -> bool {
        self.view.shared.snapshot().learner_networks().next().is_some()
    }

    /// Puts in force what was heard since the last time.
    pub(super) async fn learn(&mut self) {
        let (at, shared) = (now(), self.view.shared.clone());
        self.learner.due |= shared.has_snooped() || self.view.desk.has_changed();
        let mut news = Vec::new();
        if self.learner.due && at.since(self.learner.in_force_at) >= APART {
            self.learner.due = false;
            news = shared.take_snooped(at);
        }
        if at.since(self.learner.expired_at) >= EXPIRE {
            self.learner.expired_at = at;
            let (view, due) = (self.view.clone(), shared.due_learned(at));
            // It takes as long as there are flows.
            let in_flows = tokio::task::spawn_blocking(move || view.in_flows(&due)).await;
            let in_flows = in_flows.unwrap_or_default();
            news.extend(shared.expire_learned(at, |vni, address| in_flows.contains(&(vni, address))));
        }
        if at.since(self.learner.said_at) >= SAID_AGAIN {
            self.learner.said_at = at;
            shared.tell_learned_again();
            self.learner.unsaved = true;
        }
        self.tell(&news);
        // What was found out less than a moment ago waits for what else there is.
        let machines = at.since(self.learner.in_force_at) >= APART && self.view.desk.has_changed();
        let addresses = std::mem::take(&mut self.learner.stale)
            && shared.snapshot_arc().learned_addresses() != *self.learner.effective.learned();
        if machines || addresses {
            self.put_learned_in_force().await;
        }
        shared.tell_of(&std::mem::take(&mut self.learner.untold));
        if at.since(self.learner.saved_at) >= EXPIRE {
            self.save_learned();
        }
    }

    /// The port of an endpoint is gone, and with it what the endpoint has said and done itself.
    pub(super) fn forget_learned_at(&mut self, id: AttachmentId) {
        let snapshot = self.view.shared.snapshot_arc();
        if let Some((network, endpoint)) = snapshot.at_attachment(id) {
            let news = self.view.shared.forget_learned_at(network, endpoint);
            self.tell(&news);
        }
    }

    /// After another configuration: what does not fit it is forgotten.
    pub(super) fn follow_learned(&mut self) {
        let news = self.view.shared.follow_learned(now());
        self.tell(&news);
    }

    async fn put_learned_in_force(&mut self) {
        let begun = now();
        let current = self.view.shared.snapshot_arc();
        let before = self.learner.effective.clone();
        let (host, states) = (self.host.clone(), self.view.shared.states.clone());
        let mut registry = std::mem::take(&mut self.registry);
        let machines = self.view.desk.take_endpoints();
        let moved = machines != *before.machines();
        let known = current.clone();
        let work = tokio::task::spawn_blocking(move || {
            let learned = current.learned_addresses();
            let effective = Effective::new(before.written().clone(), learned, machines, Some(&before));
            let snapshot =
                Snapshot::compile(effective.config(), &host, Some(&current), &mut registry, &states);
            (effective, snapshot, registry)
        });
        let Ok((effective, snapshot, registry)) = work.await else { return };
        self.registry = registry;
        match snapshot {
            Ok(snapshot) => {
                if moved {
                    self.learner.part(&known, effective.machines());
                }
                self.learner.effective = effective;
                self.install(snapshot);
                self.follow_learned();
                if moved {
                    self.give_leases_back();
                    self.serve_machines(&known).await;
                }
                self.view.desk.are_in_force(self.learner.effective.machines());
            }
            Err(error) => {
                tracing::error!("what was learned or associated cannot be put in force: {error}");
                self.view.desk.end_others();
            }
        }
        self.learner.in_force_at = now();
        tracing::debug!(after = ?now().since(begun), "what was learned is in force");
    }

    /// Machines that are associated again have what was leased to them. It is in force with the next look.
    fn give_leases_back(&mut self) {
        let (at, snapshot) = (now(), self.view.shared.snapshot_arc());
        let parted = std::mem::take(&mut self.learner.parted);
        let before = parted.len();
        self.learner.parted = give_back(&snapshot, parted, at);
        self.learner.stale |= self.learner.parted.len() < before;
        self.learner.unsaved = true;
    }

    /// After other machines are associated: their ports are opened and closed, and flows of those that are gone end.
    async fn serve_machines(&mut self, before: &Arc<Snapshot>) {
        self.reconcile().await;
        self.wait_for_workers().await;
        let (shared, before) = (self.view.shared.clone(), before.clone());
        let ended = tokio::task::spawn_blocking(move || {
            let after = shared.snapshot_arc();
            shared.renew_answers(now());
            shared.end_orphans(&before, &after, now())
        });
        tracing::debug!(flows_ended = ended.await.ok(), "machines are associated, or no more");
    }

    fn tell(&mut self, news: &[LearningNews]) {
        for LearningNews { network, endpoint, address, what } in news {
            let endpoint = format!("{}/{endpoint}", network.tenant.name);
            match what {
                LearningEvent::Learned { by, until, from } => {
                    let lasts_s = until.map(|until| until.since(now()).as_secs());
                    let from = from.as_deref();
                    tracing::info!(network = %network.name, %address, endpoint, by = by.name(), lasts_s, from,
                        "an address was learned");
                }
                LearningEvent::Ended(why) => {
                    tracing::info!(network = %network.name, %address, endpoint, why, "a learned address ended");
                }
                LearningEvent::Refused(why) => {
                    tracing::warn!(network = %network.name, %address, endpoint, why, "an address is not learned");
                }
            }
            let changes = !matches!(what, LearningEvent::Refused(_));
            self.learner.unsaved |= changes;
            self.learner.stale |= changes;
        }
        let learned = |it: &&LearningNews| matches!(it.what, LearningEvent::Learned { .. });
        self.learner.untold.extend(news.iter().filter(learned).cloned());
    }

    /// Writes the file in whole: a crash leaves the old one or the new one.
    pub(super) fn save_learned(&mut self) {
        if !std::mem::take(&mut self.learner.unsaved) {
            return;
        }
        self.learner.saved_at = now();
        let file = &self.learner.file;
        let mut saved = self.view.saved_learned();
        let at = now();
        saved.learned.extend(self.learner.parted.iter().map(|parted| parted.saved(at)));
        let written = if saved.learned.is_empty() {
            forget(&self.options.socket)
        } else {
            let beside = file.with_extension("new");
            serde_json::to_vec(&saved)
                .map_err(io::Error::from)
                .and_then(|bytes| std::fs::write(&beside, bytes))
                .and_then(|()| std::fs::rename(&beside, file))
        };
        if let Err(error) = written {
            tracing::warn!(file = %file.display(), "what was learned is not kept for the next daemon: {error}");
        }
    }
}

impl Parted {
    fn saved(&self, at: Instant) -> SavedAddress {
        let Self { vni, ref endpoint, address, entry } = *self;
        SavedAddress {
            vni,
            endpoint: endpoint.clone(),
            mac: entry.endpoint,
            address,
            by: entry.by.name().to_owned(),
            here: entry.here,
            left: entry.until.map(|until| until.since(at).as_millis() as u64),
        }
    }
}

impl super::View {
    fn saved_learned(&self) -> Saved {
        let (at, snapshot) = (now(), self.shared.snapshot_arc());
        let mut learned = Vec::new();
        for network in snapshot.learner_networks() {
            for (address, entry) in lock(&network.state.snooped).entries() {
                let Some(endpoint) = network.by_mac(entry.endpoint) else { continue };
                let endpoint = endpoint.name.to_string();
                learned.push(Parted { vni: network.vni, endpoint, address, entry: *entry }.saved(at));
            }
        }
        Saved { saved_at: unix_millis(at), learned }
    }

    /// How many addresses are learned, and how often one was not.
    pub(super) fn count_learned(&self, snapshot: &Snapshot) -> eastgate_api::LearnedCounts {
        let mut counts = eastgate_api::LearnedCounts::default();
        for network in snapshot.learner_networks() {
            let snooped = lock(&network.state.snooped);
            counts.addresses += snooped.entries().count() as u64;
            counts.refused += snooped.refused;
        }
        counts
    }
}

/// The first snapshot of a daemon, with what the one before has learned.
pub(super) fn first(
    written: &Arc<Config>,
    host: &str,
    registry: &mut Attachments,
    states: &StateRegistry,
    socket: &Path,
) -> Result<(Snapshot, Effective, Vec<Parted>), SnapshotError> {
    let snapshot = Snapshot::compile(written, host, None, registry, states)?;
    let parted = restore(&snapshot, socket);
    let effective = Effective::new(written.clone(), snapshot.learned_addresses(), <_>::default(), None);
    if effective.learned().is_empty() {
        return Ok((snapshot, effective, parted));
    }
    let snapshot = Snapshot::compile(effective.config(), host, Some(&snapshot), registry, states)?;
    Ok((snapshot, effective, parted))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use eastgate_config::load_str;
    use eastgate_dataplane::pipeline::shared::lock;

    use super::*;
    use crate::daemon::vdp::terms::machine_name;

    const TEXT: &str = r#"
[host.a]
vtep = "192.0.2.1"
device = "e"
[tenant.x.network.n]
vni = 1
subnets = ["10.1.0.0/24"]
neighbors = "proxy"
learn = "dhcp"
hosts = ["a"]
[tenant.x.group.all]
ingress = [{ from = "any" }]
[tenant.x.profile.web]
network = "n"
vsi_manager = "mgr"
vsi_type = 5
groups = ["all"]
"#;

    fn mac(last: u8) -> MacAddr {
        MacAddr([2, 0, 0, 0, 0, last])
    }

    /// What is in force while these machines are associated.
    fn with(machines: &[u8]) -> (Snapshot, Effective) {
        let written = load_str("any", TEXT).unwrap();
        let profile = &written.tenants["x"].profiles["web"];
        let machine = |last: &u8| {
            let attachment = eastgate_wire::Attachment::shared("seg0".into(), None, mac(*last));
            let mut machine = eastgate_config::Endpoint {
                name: machine_name(profile, mac(*last)),
                mac: mac(*last),
                attachment: Some(attachment),
                ..(*profile.machine).clone()
            };
            machine.host.host = "a".into();
            Arc::new(machine)
        };
        let of_network: Vec<_> = machines.iter().map(machine).collect();
        let associated = BTreeMap::from([("x".into(), BTreeMap::from([("n".into(), of_network)]))]);
        let effective = Effective::new(written, BTreeMap::new(), associated, None);
        let (mut registry, states) = (Attachments::default(), StateRegistry::new(effective.config().limits));
        let snapshot = Snapshot::compile(effective.config(), "a", None, &mut registry, &states).unwrap();
        (snapshot, effective)
    }

    fn lease(last: u8, endpoint: &str, by: By, until: Instant) -> Parted {
        let entry = Entry { endpoint: mac(last), by, here: true, since: Instant::ZERO, until: Some(until) };
        let vni = Vni::new_checked(1).unwrap();
        Parted { vni, endpoint: endpoint.into(), address: Addr::v4([10, 1, 0, last]), entry }
    }

    #[test]
    fn a_machine_that_is_associated_again_has_what_was_leased_to_it() {
        let at = Instant::from_micros(10_000_000);
        let later = at + Duration::from_secs(60);
        let here = lease(11, "web.02000000000b", By::Dhcp, later);
        let (both, effective) = with(&[11, 12]);
        assert_eq!(give_back(&both, vec![here.clone()], at), []);
        let network = both.network(here.vni).unwrap();
        assert!(lock(&network.state.snooped).get(here.address).is_some());

        let mut learner = Learner::new(Path::new("/nowhere/socket"), effective, Vec::new());
        let (one, of_one) = with(&[12]);
        learner.part(&both, of_one.machines());
        assert_eq!(learner.parted, std::slice::from_ref(&here), "its lease is kept");
        learner.part(&both, of_one.machines());
        let kept = give_back(&one, learner.parted, at);
        assert_eq!(kept.len(), 2, "as long as it is not associated");
        let others = [
            lease(12, "web.02000000000b", By::Dhcp, later),
            lease(13, "web1", By::Dhcp, later),
            lease(11, "web.02000000000b", By::Traffic, later),
            lease(11, "web.02000000000b", By::Dhcp, at),
            lease(12, "web.02000000000c", By::Traffic, later),
        ];
        assert_eq!(give_back(&one, others.into(), at), [], "nothing else is kept");
        let network = one.network(here.vni).unwrap();
        assert_eq!(lock(&network.state.snooped).entries().count(), 0, "nor given: it is on no such terms");
    }
}
