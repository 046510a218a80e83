//! How many flows there may be: one registry for all shards, exact.
//!
//! A flow holds one slot of the endpoint that opened it, one of its network and one of the host, in the population it
//! belongs to: flows whose opener alone was heard, and replied flows. A slot is taken before the flow
//! exists and given back after it is gone, so at no moment are there more flows than a limit says. A limit may be
//! lowered below what is in use; nothing is cut then, and nothing new fits until the use has fallen.
//!
//! Each count is one word of memory, with its limit (`quota/word.rs`). Where someone else has flows of his own ([`Carrier`]), the words are
//! in memory that both have in their hands ([`Ledger`]), and both change them by atomic steps only.

mod pace;
mod word;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use eastgate_wire::{Instant, Vni};

use self::{
    pace::{Pace, Words},
    word::{Word, take_all},
};
use super::Rank;

/// How many flows there may be, of an endpoint, of a network or of the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowLimits {
    /// Replied flows
    pub replied: u32,
    /// Flows that were not, half-open TCP connections included
    pub unreplied: u32,
}

/// How many flows there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FlowUse {
    /// Replied flows
    pub replied: u32,
    /// Flows that were not
    pub unreplied: u32,
}

/// Where flows are counted, as someone else counts them too: a word for each place and population, the limit in its upper
/// half and the flows there are in its lower one.
pub trait Ledger: std::fmt::Debug + Send + Sync {
    /// The word at a place; nothing where there is no such place.
    fn word(&self, place: u32, of: Population) -> Option<&AtomicU64>;
    /// The words that say how often flows may begin that count at a place: see `quota/pace.rs`.
    fn pace(&self, place: u32) -> Option<[&AtomicU64; 2]>;
}

/// Who has flows of his own that count in the same limits.
pub trait Carrier: std::fmt::Debug + Send + Sync {
    /// Ends flows of this population and no higher rank than this one that count at a place of the [`Ledger`]. False when
    /// there were none.
    fn make_room(&self, place: u32, of: Population, rank: Rank) -> bool;
}

/// The place of the host's own count.
pub const HOST: u32 = 0;

/// The host's registry of flows. Shared by all shards.
#[derive(Debug)]
pub struct Quota {
    total: Arc<Total>,
    networks: Mutex<BTreeMap<Vni, Arc<NetworkQuota>>>,
}

#[derive(Debug)]
struct Total {
    gauges: Gauges,
    ledger: OnceLock<Arc<dyn Ledger>>,
    /// Weak: it may hold on to this.
    carrier: OnceLock<Weak<dyn Carrier>>,
    places: Mutex<Places>,
}

/// Who counts where.
#[derive(Debug, Default)]
struct Places {
    /// Places that were ever given, without the host's
    given: u32,
    /// Those of whom is gone
    free: VecDeque<u32>,
    accounts: BTreeMap<u32, Weak<Account>>,
}

/// A network's page in the registry.
#[derive(Debug)]
pub struct NetworkQuota {
    vni: Vni,
    entry: QuotaEntry,
    accounts: Mutex<BTreeMap<Arc<str>, Weak<Account>>>,
}

/// Who pays for flows: an endpoint of a network, or all its senders together that are none.
#[derive(Debug)]
pub struct Account {
    entry: QuotaEntry,
    network: Arc<NetworkQuota>,
    /// How often flows may begin at the cost of unreplied ones, by who sends: several may share an account. There is none before
    /// it has so many that it matters.
    replacing: OnceLock<Box<[[Pace; SENDERS]; 2]>>,
}

/// So many flows that begin each second at the cost of unreplied ones are nobody's flood, however small limits are.
const REPLACING_AT_LEAST: u32 = 1000;

/// Senders that are told apart, twice over: whoever shares one place with a flood has another.
const SENDERS: usize = 64;

/// The two populations of flows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Population {
    /// Only the side that opened them was heard
    Unreplied,
    /// Both were
    Replied,
}

impl Population {
    /// Both
    pub const ALL: [Self; 2] = [Self::Unreplied, Self::Replied];

    /// Which of its flows make room, the cheapest first.
    #[must_use]
    pub const fn making_room(self) -> &'static [Rank] {
        match self {
            Self::Unreplied => &[Rank::Unreplied],
            Self::Replied => &[Rank::Finished, Rank::Exchange, Rank::Stream],
        }
    }
}

/// Whose limit is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Full {
    /// The endpoint's
    Endpoint,
    /// The network's
    Network,
    /// The host's
    Total,
}

impl Quota {
    /// An empty registry with the host's limits.
    #[must_use]
    pub fn new(limits: FlowLimits) -> Self {
        let total = Total {
            gauges: Gauges::new(limits),
            ledger: OnceLock::new(),
            carrier: OnceLock::new(),
            places: Mutex::default(),
        };
        Self { total: Arc::new(total), networks: Mutex::default() }
    }

    /// Changes the host's limits.
    pub fn set_limits(&self, limits: FlowLimits) {
        Counter { total: &self.total, place: HOST, own: &self.total.gauges }.set(limits);
    }

    /// `carrier` has flows of his own from here on, as long as someone else holds on to him, and counts them in the
    /// `ledger`; one only, and before there is any flow.
    pub fn share(&self, ledger: Arc<dyn Ledger>, carrier: &Arc<dyn Carrier>) {
        if self.total.ledger.set(ledger).is_err() {
            return;
        }
        let _ = self.total.carrier.set(Arc::downgrade(carrier));
        let networks = locked(&self.networks);
        let accounts: Vec<_> = networks.values().flat_map(|network| network.accounts()).collect();
        let entries = networks.values().map(|network| &network.entry);
        entries.chain(accounts.iter().map(|account| &account.entry)).for_each(|entry| {
            entry.counter().move_over();
            entry.pace.words().move_to(&entry.pace());
        });
        Counter { total: &self.total, place: HOST, own: &self.total.gauges }.move_over();
    }

    /// The page of a network; where there is none yet, one that begins with these limits. It is the same page for as long as
    /// anyone holds it.
    #[must_use]
    pub fn network(&self, vni: Vni, limits: FlowLimits) -> Arc<NetworkQuota> {
        let mut networks = locked(&self.networks);
        let network = networks.entry(vni).or_insert_with(|| {
            let entry = QuotaEntry::new(&self.total, limits);
            Arc::new(NetworkQuota { vni, entry, accounts: Mutex::default() })
        });
        network.clone()
    }

    /// Forgets the networks that neither a snapshot nor a flow names any more.
    pub fn prune(&self) {
        locked(&self.networks).retain(|_, network| Arc::strong_count(network) > 1);
    }

    /// Who pays at a place.
    #[must_use]
    pub fn account(&self, place: u32) -> Option<Arc<Account>> {
        locked(&self.total.places).accounts.get(&place).and_then(Weak::upgrade)
    }

    /// How many flows the host has.
    #[must_use]
    pub fn in_use(&self) -> FlowUse {
        Counter { total: &self.total, place: HOST, own: &self.total.gauges }.in_use()
    }
}

impl NetworkQuota {
    /// Which network it is
    #[must_use]
    pub const fn vni(&self) -> Vni {
        self.vni
    }

    /// Other limits from now on, and so many flows that may begin each second, and at once; any number where that is none.
    pub fn set_limits(&self, limits: FlowLimits, new_flows: Option<u32>) {
        self.entry.set_limits(limits, new_flows);
    }

    /// How many flows the network has.
    #[must_use]
    pub fn in_use(&self) -> FlowUse {
        self.entry.counter().in_use()
    }

    /// Where its flows are counted.
    #[must_use]
    pub const fn place(&self) -> u32 {
        self.entry.place
    }

    /// The account of an endpoint by its name; where there is none yet, one that begins with these limits. The one without a
    /// name is for all senders that are no endpoint. It is the same one for as long as anyone holds it.
    #[must_use]
    pub fn account(self: &Arc<Self>, name: &str, limits: FlowLimits) -> Arc<Account> {
        let mut accounts = locked(&self.accounts);
        if let Some(account) = accounts.get(name).and_then(Weak::upgrade) {
            return account;
        }
        let entry = QuotaEntry::new(&self.entry.total, limits);
        let account = Arc::new(Account { entry, network: self.clone(), replacing: OnceLock::new() });
        accounts.insert(name.into(), Arc::downgrade(&account));
        locked(&self.entry.total.places).accounts.insert(account.entry.place, Arc::downgrade(&account));
        account
    }

    fn accounts(&self) -> Vec<Arc<Account>> {
        locked(&self.accounts).values().filter_map(Weak::upgrade).collect()
    }
}

impl Account {
    /// How many flows it pays for.
    #[must_use]
    pub fn in_use(&self) -> FlowUse {
        self.entry.counter().in_use()
    }

    /// Where its flows are counted.
    #[must_use]
    pub const fn place(&self) -> u32 {
        self.entry.place
    }

    /// Its network's page
    #[must_use]
    pub const fn network(&self) -> &Arc<NetworkQuota> {
        &self.network
    }

    /// Whose limit stands in the way of one flow more.
    #[must_use]
    pub fn full(&self, of: Population) -> Option<Full> {
        let scopes = [Full::Endpoint, Full::Network, Full::Total];
        self.counters().into_iter().zip(scopes).find(|(counter, _)| counter.is_full(of)).map(|(_, full)| full)
    }

    /// Other limits from now on, and so many flows that may begin each second, and at once; any number where that is none.
    pub fn set_limits(&self, limits: FlowLimits, new_flows: Option<u32>) {
        self.entry.set_limits(limits, new_flows);
    }

    /// Whether a flow of a sender may begin now, should an unreplied one have to make room for it: as often a second, and at once, as
    /// there may be such flows. Senders are told apart by a keyed hash, which is asked for where it matters. Who begins
    /// more flows than are answered loses his own; what they would cost everyone else on their way is not spent. Whose account has less than half of what it may have has filled nothing, and need not pay.
    #[must_use]
    pub fn may_replace(&self, sender: impl FnOnce() -> u64, now: Instant) -> bool {
        let (counters, of) = (self.counters(), Population::Unreplied);
        let words = counters.each_ref().map(|counter| counter.word(of));
        let [own, ..] = words;
        if !words.iter().any(|word| word.is_full()) || own.used() < own.limit() / 2 {
            return true;
        }
        let least = words.map(Word::limit).into_iter().min().unwrap_or(0);
        let rate = least.max(REPLACING_AT_LEAST).div_ceil(2);
        let none = || std::array::from_fn(|_| Pace::default());
        let places = self.replacing.get_or_init(|| Box::new([none(), none()]));
        let sender = sender();
        let mut both = places.iter().zip([sender, sender >> 32]);
        both.any(|(places, hash)| {
            let pace = places[hash as usize % SENDERS].words();
            pace.set(Some(rate));
            pace.begin(now)
        })
    }

    /// One flow begins, if endpoint and network may begin one now. Nothing where they may not.
    #[must_use]
    pub fn begin(&self, now: Instant) -> Option<Start<'_>> {
        let paces = [self.entry.pace(), self.network.entry.pace()];
        let begins = paces[0].begin(now) && {
            let begins = paces[1].begin(now);
            if !begins {
                paces[0].give_back();
            }
            begins
        };
        // Not made where it does not begin: what is dropped is given back.
        begins.then(|| Start { paces: Some(paces) })
    }

    pub(super) fn take(&self, of: Population) -> Result<(), Full> {
        let counters = self.counters();
        let scopes = [Full::Endpoint, Full::Network, Full::Total];
        let words = counters.each_ref().map(|counter| counter.word(of));
        take_all(words).map_err(|full| scopes.get(full).copied().unwrap_or(Full::Total))
    }

    pub(super) fn give(&self, of: Population) {
        self.counters().iter().for_each(|counter| counter.give(of));
    }

    /// Has whoever else has flows make room where it is `full`.
    pub(super) fn ask_carrier(&self, full: Full, of: Population, rank: Rank) -> bool {
        let place = match full {
            Full::Endpoint => self.entry.place,
            Full::Network => self.network.entry.place,
            Full::Total => HOST,
        };
        let carrier = self.entry.total.carrier.get().and_then(Weak::upgrade);
        carrier.is_some_and(|carrier| carrier.make_room(place, of, rank))
    }

    fn counters(&self) -> [Counter<'_>; 3] {
        let total = &self.entry.total;
        let host = Counter { total, place: HOST, own: &total.gauges };
        [self.entry.counter(), self.network.entry.counter(), host]
    }
}

/// A flow that is about to begin. It was none unless it [has begun](Start::has_begun).
#[derive(Debug)]
pub struct Start<'a> {
    paces: Option<[Words<'a>; 2]>,
}

impl Start<'_> {
    /// It has.
    pub fn has_begun(mut self) {
        self.paces = None;
    }
}

impl Drop for Start<'_> {
    fn drop(&mut self) {
        self.paces.iter().flatten().for_each(Words::give_back);
    }
}

/// The count of an endpoint or of a network, and where it is.
#[derive(Debug)]
struct QuotaEntry {
    place: u32,
    own: Gauges,
    pace: Pace,
    total: Arc<Total>,
}

impl QuotaEntry {
    fn new(total: &Arc<Total>, limits: FlowLimits) -> Self {
        let (place, own, pace) = (total.place(), Gauges::new(limits), Pace::default());
        let entry = Self { place, own, pace, total: total.clone() };
        entry.counter().set(limits);
        entry.pace().forget();
        entry
    }

    fn set_limits(&self, limits: FlowLimits, new_flows: Option<u32>) {
        self.counter().set(limits);
        self.pace().set(new_flows);
    }

    fn counter(&self) -> Counter<'_> {
        Counter { total: &self.total, place: self.place, own: &self.own }
    }

    fn pace(&self) -> Words<'_> {
        let shared = self.total.ledger.get().and_then(|ledger| ledger.pace(self.place));
        shared.map_or_else(|| self.pace.words(), Words)
    }
}

impl Drop for QuotaEntry {
    fn drop(&mut self) {
        let mut places = locked(&self.total.places);
        places.accounts.remove(&self.place);
        places.free.push_back(self.place);
    }
}

/// Places that are looked at for one that nobody counts at any more.
const LOOKED_AT: usize = 8;

impl Total {
    /// A place at which nobody counts: the flows of who is gone may outlive him.
    fn place(&self) -> u32 {
        let mut places = locked(&self.places);
        for _ in 0..places.free.len().min(LOOKED_AT) {
            let Some(place) = places.free.pop_front() else { break };
            let in_use = |of| self.word(place, of).is_some_and(|word| word.used() > 0);
            if !Population::ALL.into_iter().any(in_use) {
                return place;
            }
            places.free.push_back(place);
        }
        places.given += 1;
        places.given
    }

    fn word(&self, place: u32, of: Population) -> Option<&AtomicU64> {
        self.ledger.get().and_then(|ledger| ledger.word(place, of))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A count's words, by population, where nobody else counts
#[derive(Debug)]
struct Gauges([AtomicU64; 2]);

impl Gauges {
    fn new(limits: FlowLimits) -> Self {
        Self([limits.unreplied, limits.replied].map(|limit| AtomicU64::new(u64::from(limit) << 32)))
    }
}

/// A count, wherever its words are
struct Counter<'p> {
    total: &'p Total,
    place: u32,
    own: &'p Gauges,
}

impl Counter<'_> {
    fn word(&self, of: Population) -> &AtomicU64 {
        self.total.word(self.place, of).unwrap_or(&self.own.0[of as usize])
    }

    fn set(&self, limits: FlowLimits) {
        for (of, limit) in Population::ALL.into_iter().zip([limits.unreplied, limits.replied]) {
            self.word(of).set_limit(limit);
        }
    }

    /// What was counted here goes on where somebody else counts, too.
    fn move_over(&self) {
        for of in Population::ALL {
            self.word(of).store(self.own.0[of as usize].load(SeqCst), SeqCst);
        }
    }

    fn is_full(&self, of: Population) -> bool {
        self.word(of).is_full()
    }

    fn give(&self, of: Population) {
        self.word(of).give();
    }

    fn in_use(&self) -> FlowUse {
        let [unreplied, replied] = Population::ALL.map(|of| self.word(of).used());
        FlowUse { replied, unreplied }
    }
}

/// One flow less in a word of a [`Ledger`].
pub fn give(word: &AtomicU64) {
    word.give();
}

#[cfg(test)]
mod tests;
