//! What outlives snapshots: what networks have learned, and what endpoints have sent and received.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use ahash::RandomState;
use eastgate_config::{self as config, EndpointLimits, Name};
use eastgate_conntrack::flow::{Account, FlowLimits, NetworkQuota, Quota};
use eastgate_steering::{HolderLimits, Holders, LearnLimits, Learned, snooping::Snooped};
use eastgate_vtep::{
    fdb::{Fdb, FdbSettings},
    mtu::too_big::TooBig,
};
use eastgate_wire::{Addr, Instant, Rate, TokenBucket, Vni};

use super::{Endpoint, Network, Snapshot, pairs::Pairs, sought::Sought};

/// What a network has learned and used up.
#[derive(Debug)]
pub struct NetworkState {
    /// Where learned MACs are
    pub fdb: Mutex<Fdb>,
    /// Who holds addresses that move between endpoints
    pub holders: Mutex<Holders>,
    /// Addresses that are elsewhere now, or at another MAC, and that others are to be told of
    pub changed: Mutex<Changed>,
    /// Machines of shared segments that were seen to speak past the appliance
    pub pairs: Mutex<Pairs>,
    /// Addresses that were asked for on behalf of packets
    pub sought: Mutex<Sought>,
    /// Learned neighbours
    pub learned: Mutex<Learned>,
    /// Learned addresses of endpoints: whatever settings change, they stay.
    pub snooped: Arc<Mutex<Snooped>>,
    /// Of those, the ones that other hosts are to be told of
    pub untold: Mutex<Changed>,
    /// Broadcast, unknown unicast and multicast frames it may still send
    pub bum: Mutex<TokenBucket>,
    /// Tells senders what is too big, at a limited rate
    pub too_big: Mutex<TooBig>,
    /// Rejected packets of its unknown hosts that those may still be told of
    pub unknown_host_rejects: Mutex<TokenBucket>,
    /// Answers to ARP and ND that its unknown hosts may still ask for
    pub unknown_host_answers: Mutex<TokenBucket>,
    /// Attempts on others' addresses that may still be reported one by one
    pub thefts: Mutex<TokenBucket>,
    /// Its flows
    pub quota: Arc<NetworkQuota>,
    /// Those that are opened by whom it does not know
    pub unknown_hosts: Arc<Account>,
    /// Its datagrams in fragments, at most
    pub fragments: u32,
    settings: Settings,
    endpoints: Mutex<HashMap<Name, Weak<EndpointState>>>,
}

/// The settings that a state was made with; others make a new one.
#[derive(Clone, PartialEq, Debug)]
struct Settings {
    fdb: FdbSettings,
    bum: u32,
    limits: config::Limits,
}

/// Addresses that are waiting to be announced, each once.
#[derive(Debug, Default)]
pub struct Changed(BTreeSet<Addr>);

impl Changed {
    /// So many are waiting at most; what comes on top is found out by asking.
    const MOST: usize = 65_536;

    /// One more
    pub fn note(&mut self, address: Addr) {
        if self.0.len() < Self::MOST {
            self.0.insert(address);
        }
    }

    /// Up to so many of them, which are waiting no longer.
    pub fn take(&mut self, most: usize) -> Vec<Addr> {
        let taken: Vec<Addr> = self.0.iter().copied().take(most).collect();
        taken.iter().for_each(|address| _ = self.0.remove(address));
        taken
    }
}

/// What an endpoint has sent and received through eastgate on this host.
#[derive(Debug)]
pub struct EndpointState {
    /// Which one it is of all that there have been: with each, counters begin at 0.
    pub serial: u64,
    /// Frames it sent that passed
    pub tx_frames: AtomicU64,
    /// Their bytes
    pub tx_bytes: AtomicU64,
    /// Frames that were sent to it
    pub rx_frames: AtomicU64,
    /// Their bytes
    pub rx_bytes: AtomicU64,
    /// Answers to ARP and ND it may still ask for
    pub answers: Mutex<TokenBucket>,
    /// Rejected packets that it may still be told of
    pub rejects: Mutex<TokenBucket>,
    /// Announcements of what is known already that it may still have passed on
    pub announcements: Mutex<TokenBucket>,
    /// The flows that it has opened
    pub flows: Arc<Account>,
    /// When a reload gave it another place, in microseconds; 0: never
    moved_at: AtomicU64,
    /// When it was heard there first; [`NOT_HEARD`] until then
    heard_at: AtomicU64,
}

/// An endpoint has another place, and was not heard there yet.
const NOT_HEARD: u64 = u64::MAX;

impl EndpointState {
    fn new(flows: Arc<Account>) -> Self {
        static SERIALS: AtomicU64 = AtomicU64::new(0);
        Self {
            serial: SERIALS.fetch_add(1, Relaxed),
            flows,
            tx_frames: AtomicU64::new(0),
            tx_bytes: AtomicU64::new(0),
            rx_frames: AtomicU64::new(0),
            rx_bytes: AtomicU64::new(0),
            answers: Mutex::new(TokenBucket::new(ANSWERS, Instant::ZERO)),
            rejects: Mutex::new(TokenBucket::new(ERRORS, Instant::ZERO)),
            announcements: Mutex::new(TokenBucket::new(ANNOUNCEMENTS, Instant::ZERO)),
            moved_at: AtomicU64::new(0),
            heard_at: AtomicU64::new(0),
        }
    }

    /// It has another place from now on. Its connections began where nobody here saw them.
    pub fn moved(&self, now: Instant) {
        self.heard_at.store(NOT_HEARD, Relaxed);
        self.moved_at.store(now.micros().max(1), Relaxed);
    }

    /// A frame of it was admitted: if it had moved, it has arrived.
    pub fn is_heard(&self, now: Instant) {
        if self.heard_at.load(Relaxed) == NOT_HEARD {
            self.heard_at.store(now.micros(), Relaxed);
        }
    }

    /// When it moved, as long as its connections are picked up: until it was heard at its place for that long.
    #[must_use]
    pub fn just_moved(&self, window: Duration, now: Instant) -> Option<Instant> {
        let (moved, heard) = (self.moved_at.load(Relaxed), self.heard_at.load(Relaxed));
        let lasts = moved != 0
            && !window.is_zero()
            && match heard {
                NOT_HEARD => now.since(Instant::from_micros(moved)) < SILENCE,
                heard => now.since(Instant::from_micros(heard)) < window,
            };
        lasts.then(|| Instant::from_micros(moved))
    }

    /// Takes some of the answers that it may still ask for, to be given elsewhere. How many.
    #[must_use]
    pub fn take_answer_credit(&self, now: Instant) -> u32 {
        let mut bucket = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.take_some(ANSWER_CREDIT, RESERVED, now)
    }

    /// Counts frames that it sent.
    pub fn sent(&self, frames: u64, bytes: u64) {
        self.tx_frames.fetch_add(frames, Relaxed);
        self.tx_bytes.fetch_add(bytes, Relaxed);
    }

    /// Counts frames that were sent to it.
    pub fn received(&self, frames: u64, bytes: u64) {
        self.rx_frames.fetch_add(frames, Relaxed);
        self.rx_bytes.fetch_add(bytes, Relaxed);
    }
}

/// How long an endpoint that has another place is waited for: longer than a machine's memory takes to be copied.
const SILENCE: Duration = Duration::from_secs(3600);
/// Answers to ARP and ND that one endpoint may ask for: one that starts with a full subnet to resolve is not
/// slowed down.
const ANSWERS: Rate = Rate { per_second: 100, burst: 200 };
/// Announcements of an address that say what is known already: to one who comes back, others may still have what was so before.
const ANNOUNCEMENTS: Rate = Rate { per_second: 1, burst: 10 };
/// How many of them are granted at once, and how many are not: what is granted for one address is not there for another, of
/// which there may be many when a machine starts.
const ANSWER_CREDIT: u32 = 8;
const RESERVED: u32 = 150;
/// Attempts on others' addresses that are reported one by one, in one network; all are counted.
const REPORTS: Rate = Rate { per_second: 1, burst: 5 };
/// Errors that are told: a second of what is too big in one network, and of what is rejected to one endpoint.
const ERRORS: Rate = Rate { per_second: 100, burst: 100 };

impl NetworkState {
    fn new(settings: Settings, quota: Arc<NetworkQuota>, snooped: Arc<Mutex<Snooped>>) -> Self {
        let unknown_hosts = quota.account("", endpoint_limits(settings.limits.endpoint));
        let bum = Rate { per_second: settings.bum, burst: settings.bum };
        Self {
            fdb: Mutex::new(Fdb::new(settings.fdb, RandomState::new())),
            changed: Mutex::default(),
            pairs: Mutex::default(),
            sought: Mutex::default(),
            holders: Mutex::new(Holders::new(HolderLimits::default())),
            learned: Mutex::new(Learned::new(LearnLimits::default())),
            snooped,
            untold: Mutex::default(),
            bum: Mutex::new(TokenBucket::new(bum, Instant::ZERO)),
            too_big: Mutex::new(TooBig::new(ERRORS, Instant::ZERO)),
            thefts: Mutex::new(TokenBucket::new(REPORTS, Instant::ZERO)),
            unknown_host_rejects: Mutex::new(TokenBucket::new(ERRORS, Instant::ZERO)),
            unknown_host_answers: Mutex::new(TokenBucket::new(ANSWERS, Instant::ZERO)),
            quota,
            unknown_hosts,
            fragments: settings.limits.fragments,
            settings,
            endpoints: Mutex::default(),
        }
    }

    /// The state of the endpoint with this name: the same for as long as a snapshot names it. A new one begins with these limits.
    #[must_use]
    pub fn endpoint(&self, name: &Name, limits: EndpointLimits) -> Arc<EndpointState> {
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = endpoints.get(name).and_then(Weak::upgrade) {
            return state;
        }
        let account = self.quota.account(name, endpoint_limits(limits));
        let state = Arc::new(EndpointState::new(account));
        endpoints.insert(name.clone(), Arc::downgrade(&state));
        state
    }

    fn put_in_force(&self) {
        let limits = self.settings.limits;
        self.quota.set_limits(flow_limits(limits), limits.new_flows);
        self.unknown_hosts.set_limits(endpoint_limits(limits.endpoint), limits.endpoint.new_flows);
    }
}

/// The states of all networks of this host.
///
/// A snapshot that is being compiled finds here what it goes on with, and changes nothing of it: it may be refused yet.
#[derive(Debug)]
pub struct StateRegistry {
    /// All flows of the host
    pub quota: Quota,
    /// Of the snapshot in force
    networks: Mutex<HashMap<Vni, Arc<NetworkState>>>,
}

impl StateRegistry {
    /// An empty registry with the host's limits.
    #[must_use]
    pub fn new(limits: config::Limits) -> Self {
        Self { quota: Quota::new(flow_limits(limits)), networks: Mutex::default() }
    }

    /// What a snapshot was compiled with is in force from now on: the limits of the host, and of the networks that are others
    /// than `before`, their endpoints and their rules.
    pub fn put_in_force(&self, snapshot: &Snapshot, before: Option<&Snapshot>) {
        self.quota.set_limits(flow_limits(snapshot.config.limits));
        let mut networks = self.networks.lock().unwrap_or_else(PoisonError::into_inner);
        for network in snapshot.networks() {
            let kept = before.and_then(|before| before.network(network.vni));
            if kept.is_some_and(|kept| Arc::ptr_eq(kept, network)) {
                continue;
            }
            network.state.put_in_force();
            let is_kept = |endpoint: &&Endpoint| {
                let known = kept.and_then(|kept| kept.endpoint(endpoint.id));
                known.is_some_and(|known| std::ptr::eq(known, *endpoint))
            };
            for endpoint in network.endpoints().filter(|endpoint| !is_kept(endpoint)) {
                endpoint.state.flows.set_limits(endpoint_limits(endpoint.limits), endpoint.limits.new_flows);
            }
            network.limits.put_in_force();
            networks.insert(network.vni, network.state.clone());
        }
    }

    /// The state of a network that takes the place of one `before`. Learned entries are forgotten when its learning settings
    /// change.
    #[must_use]
    pub fn network(&self, network: &config::Network, before: Option<&Network>) -> Arc<NetworkState> {
        let settings = Settings {
            fdb: FdbSettings {
                limit: network.mac_limit as usize,
                age: network.mac_age,
                ..FdbSettings::default()
            },
            bum: network.bum_limit,
            limits: network.limits,
        };
        let networks = self.networks.lock().unwrap_or_else(PoisonError::into_inner);
        let known = before.map(|before| &before.state).or_else(|| networks.get(&network.vni));
        if let Some(state) = known.filter(|state| state.settings == settings) {
            return state.clone();
        }
        let quota = self.quota.network(network.vni, flow_limits(network.limits));
        let snooped = known.map(|before| before.snooped.clone()).unwrap_or_default();
        Arc::new(NetworkState::new(settings, quota, snooped))
    }

    /// Forgets networks that are in no snapshot any more.
    pub fn prune(&self) {
        let mut networks = self.networks.lock().unwrap_or_else(PoisonError::into_inner);
        networks.retain(|_, state| Arc::strong_count(state) > 1);
        drop(networks);
        self.quota.prune();
    }
}

fn flow_limits(limits: config::Limits) -> FlowLimits {
    FlowLimits { replied: limits.flows, unreplied: limits.unreplied }
}

fn endpoint_limits(limits: EndpointLimits) -> FlowLimits {
    FlowLimits { replied: limits.flows, unreplied: limits.unreplied }
}
