//! What all workers share: the snapshot in force, the flow table in shards, fragments, paths, counters.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use ahash::RandomState;
use arc_swap::{ArcSwap, Guard};
use eastgate_conntrack::{
    flow::{FlowCounters, FlowTable, Sharding},
    fragment::FragmentTable,
};
use eastgate_vtep::mtu::path::{PathSettings, Paths, Quote};
use eastgate_wire::{Cursor, FlowKey, Instant, VtepAddr};

use super::{
    batch::{NarrowPath, Report, Undelivered},
    counters::{Counters, DropCount, DropKey, Subject},
    events::Happenings,
    helpers::Helpers,
    offload::FlowOffload,
    probe::Probes,
    torn::Torn,
};
use crate::snapshot::{Snapshot, state::StateRegistry};

/// Shards of the flow table: enough that two workers seldom want the same one.
const SHARDS: u32 = 64;
/// Flows that one call may end.
const EXPIRY_BUDGET: usize = 256;
/// How often a worker looks for flows that have ended: time-outs are in seconds.
const EXPIRY_EVERY: Duration = Duration::from_millis(500);

/// What all workers share.
#[derive(Debug)]
pub struct Shared {
    snapshot: ArcSwap<Snapshot>,
    /// What outlives snapshots
    pub states: Arc<StateRegistry>,
    /// One for each worker
    pub counters: Box<[Counters]>,
    /// The underlay device's MTU in bytes
    pub link_mtu: AtomicU32,
    /// Bursts that the kernel did not take on the way to the underlay
    pub bursts_refused: AtomicU64,
    sharding: Sharding,
    flows: Box<[Mutex<FlowTable>]>,
    pub(super) fragments: Mutex<FragmentTable>,
    /// What helpers have found out. Locked behind a part of the flow table
    pub helpers: Helpers,
    paths: Mutex<Paths>,
    /// Some path is narrower than the link: only then is the table of paths asked.
    narrow: AtomicBool,
    pub(super) hasher: RandomState,
    expiry: Box<[Mutex<Instant>]>,
    /// Some address is elsewhere now, and others are to be told.
    pub(super) has_changed: AtomicBool,
    /// Something was heard that may be learned.
    pub(super) has_snooped: AtomicBool,
    /// Whoever carries packets of flows that have settled
    pub(super) fastpath: OnceLock<Arc<dyn FlowOffload>>,
    pub(super) offloads_since: OnceLock<Instant>,
    /// How far the last sweep of its flows came
    pub(super) swept: Mutex<Cursor>,
    /// What has happened to its flows
    pub(super) elsewhere: Mutex<Happenings>,
    /// Connections that were cut, whose ends are to be told
    pub(super) torn: Mutex<Torn>,
    /// What the appliance asks in the name of endpoints
    pub probes: Probes,
}

/// What its flows have come to is counted for rules when they end.
fn flow_table() -> FlowTable {
    let mut flows = FlowTable::new(RandomState::new(), 0);
    flows.keep_finished();
    flows
}

/// A poisoned lock means that a worker died between two of its writes. The tables keep their own bounds at every
/// step, and going on with them is safer than a data plane that stops for all tenants.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// For `workers` workers, with the first snapshot.
    #[must_use]
    pub fn new(snapshot: Snapshot, states: Arc<StateRegistry>, workers: usize) -> Self {
        let settings = PathSettings { vxlan_port: snapshot.config.overlay.port, ..PathSettings::default() };
        let limits = snapshot.config.limits;
        states.put_in_force(&snapshot, None);
        Self {
            paths: Mutex::new(Paths::new(settings, snapshot.ports, RandomState::new())),
            fragments: Mutex::new(FragmentTable::new(RandomState::new(), limits.fragments)),
            snapshot: ArcSwap::from_pointee(snapshot),
            states,
            counters: (0..workers).map(|_| Counters::default()).collect(),
            link_mtu: AtomicU32::new(1500),
            bursts_refused: AtomicU64::new(0),
            sharding: Sharding::new(RandomState::new(), SHARDS),
            helpers: Helpers::default(),
            flows: (0..SHARDS).map(|_| Mutex::new(flow_table())).collect(),
            narrow: AtomicBool::new(false),
            hasher: RandomState::new(),
            expiry: (0..workers).map(|_| Mutex::new(Instant::ZERO)).collect(),
            has_changed: AtomicBool::new(false),
            has_snooped: AtomicBool::new(false),
            fastpath: OnceLock::new(),
            offloads_since: OnceLock::new(),
            swept: Mutex::default(),
            elsewhere: Mutex::default(),
            torn: Mutex::default(),
            probes: Probes::default(),
        }
    }

    /// The snapshot in force.
    #[must_use]
    pub fn snapshot(&self) -> Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// The snapshot in force, to be kept.
    #[must_use]
    pub fn snapshot_arc(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Puts a snapshot in force. Frames that a worker has in hand are decided by the one before.
    pub fn install(&self, snapshot: Snapshot, now: Instant) {
        snapshot.note_moves(&self.snapshot(), now);
        lock(&self.fragments).set_limit(snapshot.config.limits.fragments);
        self.states.put_in_force(&snapshot, Some(&self.snapshot()));
        for network in snapshot.networks() {
            network.prune_holders();
            if let Some(before) = self.snapshot().network(network.vni) {
                network.note_changes(before);
            }
        }
        self.has_changed.store(true, Relaxed);
        self.snapshot.store(Arc::new(snapshot));
        self.states.prune();
    }

    /// Has machines told again that were seen to speak past the appliance. Called now and then.
    pub fn keep_pairs(&self, now: Instant) {
        let mut are_due = false;
        for network in self.snapshot().networks() {
            are_due |= lock(&network.state.pairs).look(now);
        }
        if are_due {
            self.has_changed.store(true, Relaxed);
        }
    }

    /// The part of the flow table that a flow is in.
    pub fn flows(&self, key: &FlowKey) -> MutexGuard<'_, FlowTable> {
        let shard = self.sharding.shard(key) as usize;
        lock(&self.flows[shard.min(self.flows.len() - 1)])
    }

    /// Every part of the flow table.
    pub fn all_flows(&self) -> impl Iterator<Item = &Mutex<FlowTable>> {
        self.flows.iter()
    }

    /// What the flow table has done so far.
    #[must_use]
    pub fn flow_counters(&self) -> FlowCounters {
        let mut sum = FlowCounters::default();
        for table in &self.flows {
            sum += lock(table).counters();
        }
        sum
    }

    /// A number that nobody outside can tell from this one.
    #[must_use]
    pub fn hash_of(&self, number: u64) -> u64 {
        self.hasher.hash_one(number)
    }

    /// The MTU of the path to a VTEP, in bytes of the outer packet.
    #[must_use]
    pub fn path_mtu_to(&self, to: VtepAddr, now: Instant) -> u16 {
        let link = u16::try_from(self.link_mtu.load(Relaxed)).unwrap_or(u16::MAX);
        if self.narrow.load(Relaxed) { lock(&self.paths).mtu(to, link, now) } else { link }
    }

    /// Takes the kernel's word that paths of datagrams are narrower than the link. The kernel believes an ICMP message
    /// that quotes an address and source port of this host, whoever the message is from; the table of paths adds its
    /// floor, and only VTEPs have paths.
    pub fn narrow_paths(&self, reports: &[NarrowPath], now: Instant) {
        let snapshot = self.snapshot();
        let hosts = &snapshot.config.hosts;
        let reports = reports.iter().filter(|report| hosts.values().any(|host| host.vtep == report.to));
        let narrower = reports.filter(|report| self.is_narrower(&snapshot, report, now)).count();
        // Once for all of them: every flow is punted again.
        if narrower > 0
            && let Some(fastpath) = self.fastpath.get()
        {
            fastpath.set_path_mtus(&|vtep| self.path_mtu_to(vtep, now));
            fastpath.forget_paths();
        }
    }

    fn is_narrower(&self, snapshot: &Snapshot, narrow: &NarrowPath, now: Instant) -> bool {
        let link = u16::try_from(self.link_mtu.load(Relaxed)).unwrap_or(u16::MAX);
        let quote = Quote {
            from: snapshot.vtep.0,
            to: narrow.to,
            len: u16::MAX,
            source_port: snapshot.ports.port(narrow.source.into()),
            destination_port: snapshot.config.overlay.port,
            vni: None,
        };
        let mut paths = lock(&self.paths);
        let before = paths.mtu(narrow.to, link, now);
        let _ = paths.send(narrow.to, narrow.source.into(), link, now);
        let Ok(mtu) = paths.too_big(&quote, narrow.mtu, link, now, |_| true, |_, _| true) else {
            return false;
        };
        self.narrow.store(true, Relaxed);
        if mtu < before {
            tracing::info!(vtep = %narrow.to, mtu, "the path to a VTEP is narrower than the link");
        }
        mtu < before
    }

    /// When worker `index` wants to be called for what has run out of time.
    #[must_use]
    pub fn poll_timeout(&self, index: usize) -> Option<Instant> {
        Some(*lock(self.expiry.get(index)?) + EXPIRY_EVERY)
    }

    /// Ends what has run out of time in worker `index`'s share of the tables.
    pub fn handle_timeout(&self, index: usize, now: Instant) {
        let Some(last) = self.expiry.get(index) else { return };
        if now.since(*lock(last)) < EXPIRY_EVERY {
            return;
        }
        let mut more = false;
        for table in self.flows.iter().skip(index).step_by(self.expiry.len()) {
            let mut table = lock(table);
            more |= table.handle_timeout(now, EXPIRY_BUDGET) == EXPIRY_BUDGET;
            self.ask_about_overdue(&mut table, &self.snapshot(), now);
            self.recall(&mut table);
        }
        if index == 0 {
            let mut fragments = lock(&self.fragments);
            fragments.handle_timeout(now, EXPIRY_BUDGET);
            if let Some(counters) = self.counters.get(index) {
                counters.count_lost_fragments(&mut fragments, now);
            }
            drop(fragments);
            self.forget_overdue(now);
            for network in self.snapshot().learning_networks() {
                lock(&network.state.fdb).expire(now, EXPIRY_BUDGET);
                lock(&network.state.learned).handle_timeout(now);
            }
        }
        if !more {
            *lock(last) = now;
        }
    }

    /// Counts what became of a worker's batch.
    pub fn count_sent(&self, index: usize, report: &Report, now: Instant) {
        let Some(counters) = self.counters.get(index) else { return };
        counters.to_ports.fetch_add(report.to_ports, Relaxed);
        counters.to_underlay.fetch_add(report.to_underlay, Relaxed);
        self.bursts_refused.fetch_add(report.bursts_refused, Relaxed);
        for Undelivered { vni, reason, frames, first } in &report.dropped {
            let key = DropKey { vni: Some(*vni), reason: *reason, from: None, by: None, rule: None };
            counters.drop_frame(key, 0, Some(*first), now);
            let others = u64::from(frames.saturating_sub(1));
            let count = DropCount { frames: others, bytes: 0, first_at: now, last_at: now, last: None };
            if others > 0 {
                counters.add(key, &count);
            }
        }
    }

    /// Counts frames that the kernel dropped before anyone saw them.
    pub fn count_drops(&self, index: usize, key: DropKey, frames: u32, now: Instant) {
        if let Some(counters) = self.counters.get(index) {
            let count =
                DropCount { frames: frames.into(), bytes: 0, first_at: now, last_at: now, last: None };
            counters.add(key, &count);
        }
    }

    /// Counts a frame on a trunk that is nobody's there, for the trunk.
    pub fn count_stray(&self, index: usize, key: DropKey, bytes: usize, subject: Subject, now: Instant) {
        if let Some(counters) = self.counters.get(index) {
            counters.from_ports.fetch_add(1, Relaxed);
            counters.drop_frame(key, bytes, Some(subject), now);
        }
    }

    /// Counts frames that were dropped elsewhere, where they are counted no more.
    pub fn add_drops(&self, key: DropKey, count: &DropCount) {
        if let Some(counters) = self.counters.first() {
            counters.add(key, count);
        }
    }

    /// Counts a frame that never reached the path.
    pub fn count_drop(&self, index: usize, key: DropKey, now: Instant) {
        if let Some(counters) = self.counters.get(index) {
            counters.drop_frame(key, 0, None, now);
        }
    }
}
