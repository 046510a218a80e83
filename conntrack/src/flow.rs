//! The flow table: who speaks with whom, who allowed it, and whether a packet belongs there.
//!
//! One call a packet: [`FlowTable::track`]. It says that the packet passes as part of a flow ([`Tracked::Pass`]),
//! that it would begin one and has to be decided ([`Tracked::New`], then [`FlowTable::open`]), that its flow was
//! admitted under a policy that is no longer in force ([`Tracked::Stale`], then [`FlowTable::confirm`] and
//! `track` again, or [`FlowTable::refuse`]), that something faster has the flow's packets
//! ([`Tracked::Offloaded`], then [`FlowTable::reclaim`] and `track` again), or that it is dropped. ICMP errors go
//! to [`FlowTable::related`].
//!
//! # Promises
//! - Two networks share nothing: the VNI is part of every key.
//! - A packet passes without a new decision only when it is of the very flow that was decided: same ends, ports
//!   and protocol, and for an ICMP query same type, code, identifier and asker.
//! - A flow past its deadline is gone, whether or not [`FlowTable::handle_timeout`] has been by. Nothing ever
//!   walks the whole table; every call but the paged ones costs the same however many flows there are.
//! - Limits are exact over all shards (see [`Quota`]), for the endpoint that opened a flow, for its network and for
//!   the host. Flows that were not answered, half-open TCP included, are a population of their own. At a limit the
//!   cheapest flow makes room ([`Rank`]), of whose limit it is: of the unreplied the one that waited longest; of the
//!   others first those that are over, then single exchanges, then streams that were silent, of each the one that came
//!   to its rank first. A TCP connection that is not over is never put out.
//! - Flows of this shard make room, and those of a [`Carrier`]; [`FlowTable::put_out`] asks other shards. Where there is
//!   nothing to be put out, the packet is dropped (`flow-limit`): one that opens, an answer, the end of a handshake; the
//!   flow stays among the unreplied and its ends may try again. A `replied` flow of TCP is one whose handshake is
//!   complete, or one in whose place its opener has begun anew.
//! - Hashes are keyed; nobody outside can choose which flows collide.
//!
//! # Shards
//! A daemon with several workers runs several tables, each behind its lock, and sends a packet to the one that
//! [`Sharding`] names; both directions of a flow, and the errors and fragments that belong to it, meet there.

mod association;
mod economy;
mod follow;
mod moves;
mod offload;
mod quota;
mod rank;
mod related;
mod report;
mod segment;
mod settings;
mod sharding;
mod show;
mod slab;
mod source;
mod stateless;
mod tcp;
mod torn;
mod waiting;
mod wheel;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use ahash::RandomState;
use eastgate_wire::{
    DropReason, FlowKey, Instant, Vni,
    view::{HeaderBits, tcp_flags},
};
use hashbrown::HashTable;

use self::{
    association::Association,
    follow::Helpers,
    moves::Stepped,
    report::Events,
    segment::{Key, flags_make_sense},
    slab::{Entry, NONE, Slab},
    source::Held,
    tcp::Connection,
    waiting::{Queues, Waiting},
    wheel::Wheel,
};
pub use self::{
    follow::Unexpected,
    offload::{Created, Finished, Found, Offloaded, Progress, Recalled, Side},
    quota::{
        Account, Carrier, FlowLimits, FlowUse, Full, HOST, Ledger, NetworkQuota, Population, Quota, Start,
        give,
    },
    rank::{Rank, STREAM_AFTER, STREAM_IDLE},
    report::{Ending, FlowCounters, FlowEvent, FlowFilter, FlowInfo, Happening},
    segment::{Direction, Later, Query, Segment, SegmentKind, offload_key},
    settings::{FlowState, OnChange, StateSettings, Timeouts},
    sharding::Sharding,
    slab::Count,
    source::{DOUBT, Grant, Grants, MOST as MOST_SOURCES, SourceCounts, SourceLimits},
    tcp::SIDE_FLAGS,
    torn::Reset,
};

/// A flow that is in the table. Good until the flow ends; later calls with it do nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FlowId {
    index: u32,
    generation: u32,
}

/// What let a flow in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Admitted {
    /// Epoch of the policy
    pub epoch: u32,
    /// The sender's rule
    pub egress_rule: u32,
    /// The receiver's rule
    pub ingress_rule: u32,
    /// Which ends keep no state of it: the sender's, the receiver's
    pub stateless: [bool; 2],
}

/// The flow of a packet that passes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hit {
    /// The flow
    pub flow: FlowId,
    /// Which way the packet goes
    pub direction: Direction,
    /// What [`FlowTable::set_hint`] left for this direction, or 0
    pub hint: u64,
    /// The flow has settled: it may be offloaded.
    pub settled: bool,
    /// The flow is offloaded, and many of its packets came here all the same: is it carried there still? If not, it is to be
    /// [reclaimed](FlowTable::reclaim).
    pub strays: bool,
}

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Tracked {
    /// It passes as part of this flow.
    Pass(Hit),
    /// Its flow was admitted under another epoch, and the packet has not been looked at beyond that.
    Stale {
        /// The flow
        flow: FlowId,
        /// The key to decide about: that of the packet that opened the flow
        original: FlowKey,
        /// What [`FlowTable::set_hint`] left for the packet's direction under the other epoch, or 0
        hint: u64,
    },
    /// Its flow is offloaded, and the packet has not been looked at beyond that: [`FlowTable::reclaim`] the flow and
    /// ask again.
    Offloaded {
        /// The flow
        flow: FlowId,
        /// The key that it was offloaded under
        original: FlowKey,
    },
    /// It would begin a flow.
    New,
    /// It does not pass.
    Drop(DropReason),
}

/// The flows of one shard.
#[derive(Debug)]
pub struct FlowTable {
    hasher: RandomState,
    index: HashTable<u32>,
    slab: Slab,
    wheel: Wheel,
    waiting: Waiting,
    networks: HashMap<Vni, Group, RandomState>,
    /// Who pays, by the place of the account
    payers: HashMap<u32, Payer, RandomState>,
    counters: FlowCounters,
    events: Events,
    /// How many flows are offloaded
    away: u32,
    overdue: Vec<FlowId>,
    recalled: Vec<Recalled>,
    finished: Vec<Finished>,
    /// Place of a flow of SCTP -> what is known of its ends' tags; most flows are none
    associations: BTreeMap<u32, Association>,
    /// Place of a flow -> what of it was counted for those who admitted it before others did; of most there is nothing
    counted: BTreeMap<u32, Count>,
    /// Place of a flow -> what it holds of limits of the rules that admitted it; most hold nothing
    grants: BTreeMap<u32, Held>,
    helpers: Helpers,
    /// Someone wants to know what flows have come to.
    keeps_finished: bool,
    /// Someone keeps a place for each flow
    places_kept: bool,
}

/// The flows in this shard of a network, or of one that pays.
#[derive(Debug)]
struct Group {
    queues: Queues,
    flows: u32,
}

/// Someone whose flows are in this shard.
#[derive(Debug)]
struct Payer {
    account: Arc<Account>,
    group: Group,
}

impl FlowTable {
    /// An empty table with room in its index for `expected` flows; it grows beyond that, at the cost of a pause.
    #[must_use]
    pub fn new(hasher: RandomState, expected: u32) -> Self {
        Self {
            index: HashTable::with_capacity(expected as usize),
            slab: Slab::new(),
            wheel: Wheel::new(),
            waiting: Waiting::new(),
            networks: HashMap::with_hasher(hasher.clone()),
            payers: HashMap::with_hasher(hasher.clone()),
            counters: FlowCounters::default(),
            events: Events::default(),
            away: 0,
            overdue: Vec::new(),
            recalled: Vec::new(),
            finished: Vec::new(),
            associations: BTreeMap::new(),
            counted: BTreeMap::new(),
            grants: BTreeMap::new(),
            helpers: Helpers::default(),
            keeps_finished: false,
            places_kept: false,
            hasher,
        }
    }

    /// Finds the flow of a packet and holds the packet against its state.
    #[inline]
    pub fn track(
        &mut self,
        segment: &Segment,
        settings: &StateSettings,
        epoch: u32,
        now: Instant,
    ) -> Tracked {
        if let SegmentKind::Tcp(tcp) = &segment.kind
            && !flags_make_sense(tcp.flags)
        {
            return Tracked::Drop(DropReason::TcpFlags);
        }
        let (key, swapped) = Key::of_segment(segment);
        let Some(index) = self.live(&key, now) else { return unknown(segment, settings) };
        let entry = self.slab.at(index);
        let direction = entry.direction(swapped);
        let is_stale = is_stale(entry, settings, epoch);
        if entry.marks.is_away() {
            let entry = self.slab.at_mut(index);
            if is_stale || !Self::passes_beside(entry, segment, direction) {
                return Tracked::Offloaded { flow: flow_id(entry, index), original: original(entry) };
            }
        }
        let entry = self.slab.at(index);
        if is_stale {
            return stale(entry, index, direction);
        }
        let passed = match &segment.kind {
            SegmentKind::Tcp(tcp) => self.step(index, direction, tcp, settings, now),
            SegmentKind::Sctp(sctp) => self.step_sctp(index, direction, sctp, settings, now),
            SegmentKind::Later(later) => {
                self.continue_with(index, direction, later, settings, now).map(|()| Stepped::On)
            }
            SegmentKind::Udp | SegmentKind::Query(_) | SegmentKind::Other => {
                self.hear(index, direction, settings, now).map(|()| Stepped::On)
            }
        };
        match passed {
            Ok(Stepped::On) => {}
            // Where the next one may not begin, what comes late for this one still finds it.
            Ok(Stepped::Over) => return Tracked::New,
            Ok(Stepped::Gone(reason)) => {
                self.remove(index, Ending::Closed, now);
                return Tracked::Drop(reason);
            }
            Err(reason) => return Tracked::Drop(reason),
        }
        let entry = self.slab.at_mut(index);
        let strays = entry.count_strays(direction, segment.packets.into());
        entry.count(direction, segment.packets, segment.bytes);
        let settled = entry.settle_flow(segment);
        Tracked::Pass(Hit { settled, strays, ..hit(entry, index, direction) })
    }

    /// Opens a flow for a packet that is [`Tracked::New`] and was allowed. `account` is that of the packet's sender.
    ///
    /// # Errors
    /// `flow-limit` when there is no room; the reason [`FlowTable::track`] gives for a packet that cannot begin
    /// a flow.
    pub fn open(
        &mut self,
        segment: &Segment,
        admitted: &Admitted,
        settings: &StateSettings,
        account: &Arc<Account>,
        now: Instant,
    ) -> Result<Hit, DropReason> {
        self.open_as(Direction::Original, segment, admitted, settings, account, now)
    }

    /// Opens a flow for a segment in mid-stream that was not allowed to begin it, but would answer one that was.
    ///
    /// # Errors
    /// As [`FlowTable::open`].
    pub fn open_by_reply(
        &mut self,
        segment: &Segment,
        admitted: &Admitted,
        settings: &StateSettings,
        account: &Arc<Account>,
        now: Instant,
    ) -> Result<Hit, DropReason> {
        self.open_as(Direction::Reply, segment, admitted, settings, account, now)
    }

    fn open_as(
        &mut self,
        direction: Direction,
        segment: &Segment,
        admitted: &Admitted,
        settings: &StateSettings,
        account: &Arc<Account>,
        now: Instant,
    ) -> Result<Hit, DropReason> {
        if let Tracked::Drop(reason) = unknown(segment, settings) {
            return Err(reason);
        }
        let (key, swapped) = Key::of_segment(segment);
        if let Some(old) = self.find(&key) {
            self.remove(old, Ending::Closed, now);
        }
        let association = match &segment.kind {
            SegmentKind::Sctp(sctp) => Some(Association::opened(direction, sctp, settings.loose)),
            _ => None,
        };
        let (connection, state) = match &segment.kind {
            SegmentKind::Tcp(tcp) if tcp.flags & tcp_flags::SYN != 0 => Connection::opened(tcp),
            SegmentKind::Tcp(tcp) => Connection::picked_up(direction, tcp),
            _ => (Connection::default(), association.map_or(FlowState::Unreplied, |(_, state)| state)),
        };
        self.take_slot(account, Population::Unreplied, now)?;
        let opened_swapped = swapped == (direction == Direction::Original);
        let mut entry = Entry::new(key, opened_swapped, state, now);
        entry.connection = connection;
        entry.header = segment.header;
        entry.admit(admitted);
        entry.seen(now, now + settings.timeouts.of(key.proto(), state));
        entry.count(direction, segment.packets, segment.bytes);
        let index = self.insert(entry, account, now);
        self.associations.extend(association.map(|(association, _)| (index, association)));
        Ok(hit(self.slab.at(index), index, direction))
    }

    /// The policy in force allows a [`Tracked::Stale`] flow too. Its hints are forgotten: where it goes may have
    /// changed with the policy. False when it is gone.
    pub fn confirm(&mut self, flow: FlowId, admitted: &Admitted) -> bool {
        let Some(index) = self.slab.index(flow) else { return false };
        self.hand_down(index, admitted);
        let entry = self.slab.at_mut(index);
        entry.admit(admitted);
        entry.hints = [0; 2];
        true
    }

    /// The policy in force lets the packets of a [`Tracked::Stale`] flow pass without one: it ends. False when it is gone.
    pub fn close(&mut self, flow: FlowId, now: Instant) -> bool {
        let index = self.slab.index(flow);
        if let Some(index) = index {
            self.remove(index, Ending::Closed, now);
        }
        index.is_some()
    }

    /// The policy in force does not allow a [`Tracked::Stale`] flow: it ends. False when it is gone.
    pub fn refuse(&mut self, flow: FlowId, now: Instant) -> bool {
        let index = self.slab.index(flow);
        if let Some(index) = index {
            self.remove(index, Ending::Refused, now);
        }
        index.is_some()
    }

    /// Forgets a packet's flow when nothing was heard of it since `then`. False when there is none of that kind.
    pub fn forget_unheard(&mut self, segment: &Segment, then: Instant, now: Instant) -> bool {
        let (key, _) = Key::of_segment(segment);
        let unheard = self.find(&key).filter(|index| self.slab.at(*index).last_seen() <= then);
        if let Some(index) = unheard {
            self.remove(index, Ending::Closed, now);
        }
        unheard.is_some()
    }

    /// Leaves a note on a flow for the packets of one direction; what it means is the caller's business. False
    /// when the flow is gone.
    pub fn set_hint(&mut self, flow: FlowId, direction: Direction, hint: u64) -> bool {
        let Some(index) = self.slab.index(flow) else { return false };
        self.slab.at_mut(index).hints[direction.index()] = hint;
        true
    }

    /// What [`FlowTable::set_hint`] left for the packets of one direction, or 0.
    #[must_use]
    pub fn hint(&self, flow: FlowId, direction: Direction) -> u64 {
        self.slab.index(flow).map_or(0, |index| self.slab.at(index).hints[direction.index()])
    }

    /// What a flow's first packet had beside its key. Nothing special when the flow is gone.
    #[must_use]
    pub fn header(&self, flow: FlowId) -> HeaderBits {
        self.slab.index(flow).map_or(HeaderBits::default(), |index| self.slab.at(index).header)
    }

    /// When [`FlowTable::handle_timeout`] should be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.wheel.next_due()
    }

    /// Ends flows whose time is over, looking at no more than `budget` of them. How many were looked at; as many
    /// as the budget means that there may be more.
    pub fn handle_timeout(&mut self, now: Instant, budget: usize) -> usize {
        for visited in 0..budget {
            let Some(index) = self.wheel.due(now) else { return visited };
            let entry = self.slab.at(index);
            if entry.deadline() <= now && !entry.marks.is_away() {
                self.run_out(index, now);
            } else {
                if entry.deadline() <= now {
                    self.ask_owner(index, now);
                }
                self.wheel.unhang(&mut self.slab, index);
                self.wheel.hang(&mut self.slab, index, now);
            }
        }
        budget
    }
}

/// How flows come and go.
impl FlowTable {
    #[inline]
    fn find(&self, key: &Key) -> Option<u32> {
        let hash = self.hasher.hash_one(key);
        self.index.find(hash, |&index| self.slab.at(index).key == *key).copied()
    }

    /// The flow with a key, unless its time is over.
    #[inline]
    fn live(&mut self, key: &Key, now: Instant) -> Option<u32> {
        let index = self.find(key)?;
        let entry = self.slab.at(index);
        if entry.deadline() <= now && !entry.marks.is_away() {
            self.run_out(index, now);
            return None;
        }
        Some(index)
    }

    /// Puts a flow in for which a slot was taken.
    fn insert(&mut self, mut entry: Entry, account: &Arc<Account>, now: Instant) -> u32 {
        let hash = self.hasher.hash_one(entry.key);
        (entry.account, entry.waiting) = (account.place(), NONE);
        let index = self.slab.insert(entry);
        let (slab, hasher) = (&self.slab, &self.hasher);
        self.index.insert_unique(hash, index, |&other| hasher.hash_one(slab.at(other).key));
        self.line_up(index, account);
        self.wheel.hang(&mut self.slab, index, now);
        self.counters.opened += 1;
        self.note(Happening::Opened, index, now);
        index
    }

    /// Ends a flow whose time is over.
    fn run_out(&mut self, index: u32, now: Instant) {
        let ending = if self.slab.at(index).state.is_over() { Ending::Closed } else { Ending::Expired };
        self.remove(index, ending, now);
    }

    fn remove(&mut self, index: u32, ending: Ending, now: Instant) {
        self.recall(index);
        self.unfollow(index);
        self.finish(index);
        self.counters.end(ending);
        self.note(Happening::Ended(ending), index, now);
        self.wheel.unhang(&mut self.slab, index);
        let key = self.slab.at(index).key;
        let hash = self.hasher.hash_one(key);
        if let Ok(found) = self.index.find_entry(hash, |&other| other == index) {
            found.remove();
        }
        self.step_out(index);
        self.slab.remove(index);
        self.helpers.forget(index);
        self.associations.remove(&index);
        self.let_go(index);
    }

    fn note(&mut self, what: Happening, index: u32, at: Instant) {
        let entry = self.slab.at(index);
        self.events
            .record(|| FlowEvent { at, what, flow: self.helpers.info(index, entry) }, &mut self.counters);
    }
}

/// A table that goes gives back what its flows hold of the limits it shares with others.
impl Drop for FlowTable {
    fn drop(&mut self) {
        for entry in (0..self.slab.places()).filter_map(|index| self.slab.get(index)) {
            if let Some(payer) = self.payers.get(&entry.account) {
                payer.account.give(entry.population());
            }
        }
    }
}

impl Entry {
    const fn admitted(&self) -> Admitted {
        let Self { epoch, egress_rule, ingress_rule, stateless, .. } = *self;
        Admitted { epoch, egress_rule, ingress_rule, stateless }
    }

    fn admit(&mut self, admitted: &Admitted) {
        let Admitted { epoch, egress_rule, ingress_rule, stateless } = *admitted;
        (self.epoch, self.egress_rule, self.ingress_rule) = (epoch, egress_rule, ingress_rule);
        self.stateless = stateless;
    }
}

/// What becomes of a packet that no flow is known for.
fn unknown(segment: &Segment, settings: &StateSettings) -> Tracked {
    const CORE: u8 = tcp_flags::SYN | tcp_flags::FIN | tcp_flags::RST | tcp_flags::ACK;
    match &segment.kind {
        SegmentKind::Tcp(tcp) => match tcp.flags & CORE {
            tcp_flags::SYN => Tracked::New,
            tcp_flags::ACK if settings.loose => Tracked::New,
            _ if flags_make_sense(tcp.flags) => Tracked::Drop(DropReason::NotSyn),
            _ => Tracked::Drop(DropReason::TcpFlags),
        },
        SegmentKind::Sctp(sctp) => {
            association::may_begin(sctp, settings.loose).map_or_else(Tracked::Drop, |()| Tracked::New)
        }
        SegmentKind::Query(Query { request: false, .. }) => Tracked::Drop(DropReason::IcmpUnsolicited),
        SegmentKind::Later(_) => Tracked::Drop(DropReason::FragmentFirstMissing),
        SegmentKind::Udp | SegmentKind::Query(_) | SegmentKind::Other => Tracked::New,
    }
}

const fn flow_id(entry: &Entry, index: u32) -> FlowId {
    FlowId { index, generation: entry.generation }
}

fn original(entry: &Entry) -> FlowKey {
    entry.key.as_travelling(entry.marks.opened_swapped())
}

/// Has the policy in force still to decide about the flow, as decisions stand since an `epoch`? Nobody in this daemon has
/// decided about one of epoch 0.
fn is_stale(entry: &Entry, settings: &StateSettings, epoch: u32) -> bool {
    entry.epoch < epoch && (settings.on_change == OnChange::Recheck || entry.epoch == 0)
}

fn stale(entry: &Entry, index: u32, direction: Direction) -> Tracked {
    let hint = entry.hints[direction.index()];
    Tracked::Stale { flow: flow_id(entry, index), original: original(entry), hint }
}

fn hit(entry: &Entry, index: u32, direction: Direction) -> Hit {
    let (flow, hint) = (flow_id(entry, index), entry.hints[direction.index()]);
    Hit { flow, direction, hint, settled: false, strays: false }
}
