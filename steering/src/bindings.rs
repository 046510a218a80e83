//! Which hosts a network that admits unknown ones has learned from their ARP and neighbour discovery.
//!
//! What this promises:
//! - Never more entries than the limits say, in total and at one place; at the limit a newcomer is refused
//!   and who is there stays, so that a flood of made-up addresses takes nobody's entry.
//! - An entry lives as long as it was heard from; a configured address is never learned and always wins.
//! - An address that moves more than [`MOVES`] times within [`WINDOW`] stays where it is for as long again.
//!
//! One table a network. Time is handed in; calls are given times that do not go back.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use ahash::RandomState;
use eastgate_wire::{Addr, Instant, Location, MacAddr};

use crate::responder::{Binding, Bindings};

/// How many moves within [`WINDOW`] are let through; the next one freezes the entry.
pub const MOVES: usize = 5;

/// Over how long moves are counted, and how long a frozen entry stays frozen.
pub const WINDOW: Duration = Duration::from_secs(180);

/// How much is learned and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LearnLimits {
    /// Entries in all
    pub total: usize,
    /// Entries at one port or VTEP
    pub per_location: usize,
    /// How long an entry lives without being heard from
    pub age: Duration,
}

impl Default for LearnLimits {
    /// 4,096 in all, 1,024 at a place, 20 minutes: longer than hosts keep a stale neighbour, so that an entry
    /// outlives the silence of a host that is still there.
    fn default() -> Self {
        Self { total: 4096, per_location: 1024, age: Duration::from_secs(1200) }
    }
}

/// What a claim did to the table.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Learn {
    /// The address is new.
    New,
    /// It is where it was.
    Refreshed,
    /// It has another MAC or place now. Report it: it may be an address used twice.
    Moved {
        /// The MAC it had
        mac: MacAddr,
        /// The place it had
        at: Location,
    },
    /// It moved too often and stays where it is.
    Frozen {
        /// This claim froze it: report it once.
        first: bool,
    },
    /// The network has as many entries as it may have.
    Full,
    /// The place has as many entries as it may have.
    LocationFull,
    /// A configured endpoint has the address: nothing learned.
    Configured,
}

/// A learned binding, as it is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shown {
    /// The address
    pub address: Addr,
    /// Who has it
    pub mac: MacAddr,
    /// Where
    pub at: Location,
    /// It moved too often and stays where it is for now.
    pub frozen: bool,
}

/// The learned bindings of one network.
#[derive(Debug)]
pub struct Learned {
    limits: LearnLimits,
    entries: HashMap<Addr, Entry, RandomState>,
    /// When each entry ends, soonest first
    ends: BTreeSet<(Instant, Addr)>,
    per_location: HashMap<Location, usize, RandomState>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    mac: MacAddr,
    at: Location,
    ends: Instant,
    /// The latest moves, oldest first
    moves: [Option<Instant>; MOVES],
    frozen_until: Option<Instant>,
}

impl Entry {
    fn is(&self, mac: MacAddr, at: Location) -> bool {
        self.mac == mac && self.at == at
    }

    fn is_frozen(&self, now: Instant) -> bool {
        self.frozen_until.is_some_and(|until| now < until)
    }

    /// Counts a move; false when it is one too many.
    fn may_move(&mut self, now: Instant) -> bool {
        if self.moves[0].is_some_and(|oldest| now.since(oldest) < WINDOW) {
            self.frozen_until = Some(now + WINDOW);
            return false;
        }
        self.moves.rotate_left(1);
        self.moves[MOVES - 1] = Some(now);
        true
    }
}

impl Learned {
    /// An empty table whose hashes are keyed at random.
    #[must_use]
    pub fn new(limits: LearnLimits) -> Self {
        Self {
            limits,
            entries: HashMap::with_hasher(RandomState::new()),
            ends: BTreeSet::new(),
            per_location: HashMap::with_hasher(RandomState::new()),
        }
    }

    /// How many addresses are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Is none known?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Who has `address`, as far as it was learned.
    #[must_use]
    pub fn by_address(&self, address: Addr, now: Instant) -> Option<Binding> {
        let entry = self.entries.get(&address).filter(|entry| now < entry.ends)?;
        Some(Binding { mac: entry.mac, endpoint: None, at: entry.at, router: false })
    }

    /// All that is known, by address.
    #[must_use]
    pub fn entries(&self, now: Instant) -> Vec<Shown> {
        let show = |(address, entry): (Addr, &Entry)| Shown {
            address,
            mac: entry.mac,
            at: entry.at,
            frozen: entry.is_frozen(now),
        };
        let live = self.ends.iter().filter(|(ends, _)| now < *ends);
        let mut shown: Vec<Shown> =
            live.filter_map(|&(_, address)| Some(show((address, self.entries.get(&address)?)))).collect();
        shown.sort_unstable_by_key(|entry| entry.address);
        shown
    }

    /// A host at `at` says that `mac` has `address`. `configured` are the network's configured bindings.
    pub fn learn(
        &mut self,
        address: Addr,
        mac: MacAddr,
        at: Location,
        configured: &impl Bindings,
        now: Instant,
    ) -> Learn {
        self.handle_timeout(now);
        if configured.by_address(address).is_some() {
            self.forget(address);
            return Learn::Configured;
        }
        let Some(mut entry) = self.entries.get(&address).copied() else {
            return self.add(address, mac, at, now);
        };
        if !entry.is(mac, at) {
            return self.relocate(address, entry, mac, at, now);
        }
        self.ends.remove(&(entry.ends, address));
        entry.ends = now + self.limits.age;
        self.ends.insert((entry.ends, address));
        self.entries.insert(address, entry);
        Learn::Refreshed
    }

    /// Forgets one address.
    pub fn forget(&mut self, address: Addr) {
        let Some(entry) = self.entries.remove(&address) else { return };
        self.ends.remove(&(entry.ends, address));
        self.leave(entry.at);
    }

    /// Forgets all that was learned at a place that is gone.
    pub fn forget_location(&mut self, at: Location) {
        let there = |(_, address): &(Instant, Addr)| self.entries.get(address).is_some_and(|e| e.at == at);
        let gone: Vec<Addr> =
            self.ends.iter().filter(|end| there(end)).map(|&(_, address)| address).collect();
        gone.into_iter().for_each(|address| self.forget(address));
    }

    /// When the next entry ends.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.ends.first().map(|&(ends, _)| ends)
    }

    /// Forgets the entries that have ended.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(ends, address)) = self.ends.first()
            && ends <= now
        {
            self.forget(address);
        }
    }

    fn add(&mut self, address: Addr, mac: MacAddr, at: Location, now: Instant) -> Learn {
        if self.entries.len() >= self.limits.total {
            return Learn::Full;
        }
        if !self.enter(at) {
            return Learn::LocationFull;
        }
        let ends = now + self.limits.age;
        self.entries.insert(address, Entry { mac, at, ends, moves: [None; MOVES], frozen_until: None });
        self.ends.insert((ends, address));
        Learn::New
    }

    fn relocate(
        &mut self,
        address: Addr,
        mut entry: Entry,
        mac: MacAddr,
        at: Location,
        now: Instant,
    ) -> Learn {
        if entry.is_frozen(now) {
            return Learn::Frozen { first: false };
        }
        if at != entry.at && self.count(at) >= self.limits.per_location {
            return Learn::LocationFull;
        }
        if !entry.may_move(now) {
            self.entries.insert(address, entry);
            return Learn::Frozen { first: true };
        }
        let moved = Learn::Moved { mac: entry.mac, at: entry.at };
        self.leave(entry.at);
        self.ends.remove(&(entry.ends, address));
        let _below_the_limit = self.enter(at);
        (entry.mac, entry.at, entry.ends) = (mac, at, now + self.limits.age);
        self.ends.insert((entry.ends, address));
        self.entries.insert(address, entry);
        moved
    }

    fn count(&self, at: Location) -> usize {
        self.per_location.get(&at).copied().unwrap_or_default()
    }

    fn enter(&mut self, at: Location) -> bool {
        let count = self.per_location.entry(at).or_default();
        let room = *count < self.limits.per_location;
        *count += usize::from(room);
        if *count == 0 {
            self.per_location.remove(&at);
        }
        room
    }

    fn leave(&mut self, at: Location) {
        if let Some(count) = self.per_location.get_mut(&at) {
            *count -= 1;
            if *count == 0 {
                self.per_location.remove(&at);
            }
        }
    }
}

/// The configured bindings of a network, and behind them the learned ones as they are `now`.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a, B> {
    /// They win.
    pub configured: &'a B,
    /// What was learned beside them
    pub learned: &'a Learned,
    /// The moment of the question
    pub now: Instant,
}

impl<B: Bindings> Bindings for Known<'_, B> {
    fn by_address(&self, address: Addr) -> Option<Binding> {
        self.configured.by_address(address).or_else(|| self.learned.by_address(address, self.now))
    }

    fn steered(&self, requester: &crate::Requester<'_>, target: &Binding) -> bool {
        self.configured.steered(requester, target)
    }

    fn may_be_held(&self, address: Addr) -> bool {
        self.configured.may_be_held(address)
    }
}

#[cfg(test)]
mod tests;
