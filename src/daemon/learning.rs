//! What the path has heard of addresses that are learned is put in force: like a reload, in batches, and kept across restarts in a
//! file beside the control socket.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use eastgate_config::{Config, Effective};
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

use super::Daemon;
use crate::io::clock::{now, unix_millis};

/// How often it is looked whether there is anything.
const LOOK: Duration = Duration::from_millis(20);
/// As many at most are put in force one after the other: what comes meanwhile is put in force together.
const APART: Duration = Duration::from_millis(150);
/// How often time is looked at.
const EXPIRE: Duration = Duration::from_secs(1);
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
    pub(super) fn new(socket: &Path, effective: Effective) -> Self {
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
        }
    }
}

/// Takes into the tables of a first snapshot what a daemon before has learned.
fn restore(snapshot: &Snapshot, socket: &Path) {
    let file = file_beside(socket);
    let saved = match read(&file) {
        Ok(saved) => saved,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => {
            tracing::warn!(file = %file.display(), "what was learned before is not known: {error}");
            return;
        }
    };
    let at = now();
    let gone = Duration::from_millis(unix_millis(at).saturating_sub(saved.saved_at));
    for it in saved.learned {
        let Some(network) = snapshot.network(it.vni) else { continue };
        let endpoint = network.by_mac(it.mac).filter(|endpoint| *endpoint.name == *it.endpoint);
        let (Some(endpoint), Some(by)) = (endpoint, By::from_name(&it.by)) else { continue };
        let left = it.left.map(|left| Duration::from_millis(left).saturating_sub(gone));
        if left.is_some_and(|left| left.is_zero()) {
            continue;
        }
        if network.may_learn(&snapshot.site, endpoint, it.address, at).is_ok() {
            let until = left.map(|left| at + left);
            let entry = Entry { endpoint: it.mac, by, here: it.here, since: at, until };
            if !endpoint.terms().is_some_and(|terms| terms.keeps(&entry)) {
                continue;
            }
            lock(&network.state.snooped).restore(it.address, entry);
        }
    }
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
        self.learner.due |= shared.has_snooped();
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
        if std::mem::take(&mut self.learner.stale)
            && shared.snapshot_arc().learned_addresses() != *self.learner.effective.learned()
        {
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
        let work = tokio::task::spawn_blocking(move || {
            let learned = current.learned_addresses();
            let effective = Effective::new(before.written().clone(), learned, Some(&before));
            let snapshot =
                Snapshot::compile(effective.config(), &host, Some(&current), &mut registry, &states);
            (effective, snapshot, registry)
        });
        let Ok((effective, snapshot, registry)) = work.await else { return };
        self.registry = registry;
        match snapshot {
            Ok(snapshot) => {
                self.learner.effective = effective;
                self.install(snapshot);
                self.follow_learned();
            }
            Err(error) => tracing::error!("what was learned cannot be put in force: {error}"),
        }
        self.learner.in_force_at = now();
        tracing::debug!(after = ?now().since(begun), "what was learned is in force");
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
        let saved = self.view.saved_learned();
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

impl super::View {
    fn saved_learned(&self) -> Saved {
        let (at, snapshot) = (now(), self.shared.snapshot_arc());
        let mut learned = Vec::new();
        for network in snapshot.learner_networks() {
            for (address, entry) in lock(&network.state.snooped).entries() {
                let Some(endpoint) = network.by_mac(entry.endpoint) else { continue };
                learned.push(SavedAddress {
                    vni: network.vni,
                    endpoint: endpoint.name.to_string(),
                    mac: entry.endpoint,
                    address,
                    by: entry.by.name().to_owned(),
                    here: entry.here,
                    left: entry.until.map(|until| until.since(at).as_millis() as u64),
                });
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
) -> Result<(Snapshot, Effective), SnapshotError> {
    let snapshot = Snapshot::compile(written, host, None, registry, states)?;
    restore(&snapshot, socket);
    let effective = Effective::new(written.clone(), snapshot.learned_addresses(), None);
    if effective.learned().is_empty() {
        return Ok((snapshot, effective));
    }
    let snapshot = Snapshot::compile(effective.config(), host, Some(&snapshot), registry, states)?;
    Ok((snapshot, effective))
}
