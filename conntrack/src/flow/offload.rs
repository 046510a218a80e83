//! Flows whose packets something faster takes: what it is told of a flow, and what it tells when the flow comes
//! back.
//!
//! An offloaded flow keeps its entry, its slot and its place in the queues; only its packets pass elsewhere. A
//! packet of it that comes here all the same makes [`FlowTable::track`] answer [`Tracked::Offloaded`], and the flow
//! is reclaimed before anything is decided about it. So there is one state of a flow at any time, and it is where
//! the packets are.

use std::sync::Arc;

use eastgate_wire::{
    DropReason, FlowKey, Instant, Vni,
    view::{HeaderBits, proto, tcp_flags},
};

use super::{
    Account, Admitted, Count, Direction, Ending, FlowId, FlowInfo, FlowState, FlowTable, Population, Query,
    Rank, Segment, SegmentKind, StateSettings, flow_id, segment::Key, slab::Entry, tcp::Connection,
    wheel::TICK,
};
use crate::expect::Related;

/// No rule is known to have admitted a flow.
const NO_RULE: u32 = u32::MAX;

/// Packets of a flow that are tracked here before it may be offloaded: a short exchange is not worth the effort.
const OFFLOAD_AFTER: u8 = 7;

/// Packets that must have passed elsewhere for it to have been worth the effort.
const WORTHWHILE: u64 = 4;

/// How often in a row it may not be worth the effort before a flow stays for a while: something about it is not for
/// the fast path. The packets that were on their way here when it was handed over bring it back a few times.
const BACK_OFF_AFTER: u8 = 7;

/// Packets that pass beside an offloaded flow for each of its threshold: all of them together are more than what a full receive
/// buffer of 32 MiB holds, at the 768 bytes that the kernel counts for the smallest datagram. A sender that nothing slows down
/// keeps it full until its flow is handed over.
const IN_FLIGHT: u64 = 8192;

/// Packets beside an offloaded flow after each of which whoever carries it is asked whether it does still
const STRAYS: u64 = 64;

/// One side of an established TCP connection: what it takes to hold segments to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Side {
    /// The sequence number behind the last byte it sent
    pub end: u32,
    /// The right edge of the widest window it was offered
    pub max_end: u32,
    /// The widest window it offered, in bytes
    pub max_window: u32,
    /// The furthest acknowledgement it sent; valid when it acknowledged anything
    pub max_ack: u32,
    /// Window scale from its SYN
    pub scale: u8,
    /// What else is remembered of it, as `tcp::Side` has it
    pub flags: u16,
}

/// What the fast path is told of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offloaded {
    /// The key of the packet that opened it
    pub key: FlowKey,
    /// Packets of the reply direction may pass too; otherwise the first of them comes back here, and counts as the
    /// answer.
    pub replied: bool,
    /// TCP: the opener's side and the other one
    pub sides: [Side; 2],
    /// Who admitted it
    pub admitted: Admitted,
    /// What it began with
    pub header: HeaderBits,
    /// What it follows from
    pub related: Option<Related>,
}

/// What the fast path tells of a flow that comes back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// TCP: as in [`Offloaded::sides`]
    pub sides: [Side; 2],
    /// What passed meanwhile, by [`Direction`]
    pub counts: [Count; 2],
    /// When the last packet passed; nothing when none did
    pub last_seen: Option<Instant>,
}

/// A flow that the fast path has and this table does not know: it began there, or its daemon is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// The key of the packet that opened it, as in [`super::offload_key`]
    pub key: FlowKey,
    /// Both sides were heard
    pub replied: bool,
    /// Where it has got to
    pub progress: Progress,
    /// What [`FlowTable::set_hint`] is to leave for each direction
    pub hints: [u64; 2],
    /// It began there
    pub created: Option<Created>,
    /// What it began with
    pub header: HeaderBits,
    /// What it follows from
    pub related: Option<Related>,
}

/// What is known of a flow that began elsewhere, by a decision of ours that was repeated there. It holds a slot of its
/// account; whoever takes the flow has the slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Created {
    /// Whose decision it was
    pub admitted: Admitted,
    /// When it began
    pub created: Instant,
    /// Place of the account that it is on
    pub account: u32,
    /// It is no longer a single exchange.
    pub goes_on: bool,
}

impl Progress {
    /// What passed, of both directions.
    #[must_use]
    pub const fn passed(&self) -> Count {
        let [there, back] = self.counts;
        Count { packets: there.packets + back.packets, bytes: there.bytes + back.bytes }
    }
}

impl Found {
    /// Its state.
    #[must_use]
    pub fn state(&self) -> FlowState {
        if self.key.proto == proto::TCP {
            let mut connection = Connection::default();
            connection.set_sides(&self.progress.sides);
            return connection.state();
        }
        match self.replied {
            true if self.created.is_some_and(|created| created.goes_on) => FlowState::Stream,
            true => FlowState::Replied,
            false => FlowState::Unreplied,
        }
    }

    /// The limits that it counts in.
    #[must_use]
    pub const fn population(&self) -> Population {
        if self.replied { Population::Replied } else { Population::Unreplied }
    }

    /// When it ends if nothing more is heard. `now` stands for when it was last seen where nobody knows that.
    #[must_use]
    pub fn deadline(&self, settings: &StateSettings, now: Instant) -> Instant {
        let state = self.state();
        let lasts = settings.timeouts.of(self.key.proto, state);
        match &self.created {
            Some(created) if state.is_half_open() => created.created + lasts,
            _ => self.progress.last_seen.unwrap_or(now).min(now) + lasts,
        }
    }

    /// As it is shown.
    #[must_use]
    pub fn info(&self, settings: &StateSettings, now: Instant) -> FlowInfo {
        let last_seen = self.progress.last_seen.unwrap_or(now);
        let admitted = self.admitted();
        FlowInfo {
            key: self.key,
            state: self.state(),
            replied: self.replied,
            offloaded: true,
            epoch: admitted.epoch,
            egress_rule: admitted.egress_rule,
            ingress_rule: admitted.ingress_rule,
            header: self.header,
            helper: None,
            related: self.related,
            original: self.progress.counts[0],
            reply: self.progress.counts[1],
            query: Query::echo(self.key.proto),
            created: self.created.map_or(last_seen, |created| created.created),
            last_seen,
            deadline: self.deadline(settings, now),
            counted: Count::default(),
        }
    }

    /// No epoch in force has let a flow in of which that is not known.
    fn admitted(&self) -> Admitted {
        let unknown =
            Admitted { epoch: 0, egress_rule: NO_RULE, ingress_rule: NO_RULE, stateless: [false; 2] };
        self.created.map_or(unknown, |created| created.admitted)
    }
}

/// A flow that has ended here and whose place elsewhere is to be given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Recalled {
    /// The key of the packet that opened it
    pub key: FlowKey,
    /// Who admitted it
    pub admitted: Admitted,
}

/// What a flow has come to that has ended, or that others admit from now on, for those who admitted it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Finished {
    /// Its network
    pub vni: Vni,
    /// Who admitted it
    pub admitted: Admitted,
    /// What passed here, of both directions
    pub count: Count,
    /// When it was opened
    pub created: Instant,
    /// When a packet of it last passed
    pub last_seen: Instant,
}

/// What an entry remembers in one byte, of which there are millions: who opened it, and how offloading went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Marks(u8);

impl Marks {
    const SWAPPED: u8 = 0x01;
    const AWAY: u8 = 0x02;
    /// Three bits: packets to be tracked here before it may go
    const OFFLOAD_AFTER_AT: u32 = 2;
    /// Three bits: how often in a row it came back too soon
    const RETURNS_AT: u32 = 5;

    pub(super) const fn new(opened_swapped: bool) -> Self {
        Self(if opened_swapped { Self::SWAPPED } else { 0 } | OFFLOAD_AFTER << Self::OFFLOAD_AFTER_AT)
    }

    /// The opener is the high end of the key.
    pub(super) const fn opened_swapped(self) -> bool {
        self.0 & Self::SWAPPED != 0
    }

    /// Its packets pass elsewhere.
    pub(super) const fn is_away(self) -> bool {
        self.0 & Self::AWAY != 0
    }

    const fn leave(&mut self) {
        self.0 =
            self.0 & !(7 << Self::OFFLOAD_AFTER_AT) | OFFLOAD_AFTER << Self::OFFLOAD_AFTER_AT | Self::AWAY;
    }

    /// One packet more, after `packets` others, that came here although its flow is elsewhere; false when there were
    /// too many for what was on its way when the flow left.
    const fn pass_beside(&mut self, packets: u64) -> bool {
        let some_left = self.0 >> Self::OFFLOAD_AFTER_AT & 7 > 0;
        if some_left && packets.is_multiple_of(IN_FLIGHT) {
            self.0 -= 1 << Self::OFFLOAD_AFTER_AT;
        }
        some_left
    }

    const fn come_back(&mut self, was_worth_it: bool) {
        let returns = self.0 >> Self::RETURNS_AT;
        let (returns, offload_after) = match (was_worth_it, returns) {
            (true, _) => (0, 0),
            (false, BACK_OFF_AFTER) => (returns, OFFLOAD_AFTER),
            (false, _) => (returns + 1, 0),
        };
        self.0 =
            self.0 & Self::SWAPPED | offload_after << Self::OFFLOAD_AFTER_AT | returns << Self::RETURNS_AT;
    }

    /// One packet more; true when it may go.
    const fn settle_flow(&mut self) -> bool {
        let offload_after = self.0 >> Self::OFFLOAD_AFTER_AT & 7;
        if offload_after > 0 {
            self.0 -= 1 << Self::OFFLOAD_AFTER_AT;
        }
        offload_after <= 1
    }
}

impl FlowTable {
    /// Hands a flow over: from here on its packets are expected to pass elsewhere. Nothing when it is gone, is
    /// offloaded already, or is in a state in which each packet matters.
    pub fn offload(&mut self, flow: FlowId) -> Option<Offloaded> {
        let index = self.slab.index(flow)?;
        let related = self.helpers.related_of(index);
        let entry = self.slab.at_mut(index);
        if entry.marks.is_away() {
            return None;
        }
        let sides = entry.steady_sides()?;
        entry.marks.leave();
        self.away += 1;
        // What its ends do from now on is not seen here.
        self.goes_on(index, Direction::Original);
        let entry = self.slab.at(index);
        Some(Offloaded {
            key: entry.key.as_travelling(entry.marks.opened_swapped()),
            replied: entry.is_replied(),
            sides,
            admitted: entry.admitted(),
            header: entry.header,
            related,
        })
    }

    /// The key of the packet that opened a flow
    #[must_use]
    pub fn opened(&self, flow: FlowId) -> Option<FlowKey> {
        Some(super::original(self.slab.at(self.slab.index(flow)?)))
    }

    /// Takes a flow back, with what happened to it meanwhile; nothing when the fast path does not know it (any
    /// more).
    pub fn reclaim(
        &mut self,
        flow: FlowId,
        progress: Option<&Progress>,
        settings: &StateSettings,
        now: Instant,
    ) {
        let Some(index) = self.slab.index(flow) else { return };
        let entry = self.slab.at_mut(index);
        if !entry.marks.is_away() {
            return;
        }
        let passed = progress.map_or(0, |progress| progress.counts.iter().map(|count| count.packets).sum());
        entry.marks.come_back(passed >= WORTHWHILE);
        self.away -= 1;
        let Some(progress) = progress else { return };
        let entry = self.slab.at_mut(index);
        entry.connection.set_sides(&progress.sides);
        for (count, more) in entry.counts.iter_mut().zip(&progress.counts) {
            count.packets += more.packets;
            count.bytes += more.bytes;
        }
        if let Some(last_seen) = progress.last_seen.filter(|seen| *seen > entry.last_seen()) {
            self.refresh(flow, last_seen.min(now), settings);
        }
    }

    /// Does the table know the flow with this [`super::offload_key`]?
    #[must_use]
    pub fn knows(&self, packet: &FlowKey) -> bool {
        self.find(&Key::of_offload(packet).0).is_some()
    }

    /// Goes on with a flow that it does not know, unless its time is over. Of a flow that did not begin there nobody
    /// knows who admitted it: no epoch in force has let it in. One that did is on the `account` already.
    ///
    /// # Errors
    /// `flow-limit` when there is no room; a flow that began there brings its slot with it.
    pub fn import(
        &mut self,
        found: &Found,
        settings: &StateSettings,
        account: &Arc<Account>,
        now: Instant,
    ) -> Result<(), DropReason> {
        let (key, swapped) = Key::of_offload(&found.key);
        let deadline = found.deadline(settings, now);
        if deadline <= now {
            if found.created.is_some() {
                account.give(found.population());
                self.bury(found, None);
                self.finish_found(found, now);
            }
            return Ok(());
        }
        if found.created.is_none() {
            self.take_slot(account, Population::Unreplied, now)?;
        }
        let mut entry = Entry::new(key, swapped, found.state(), now);
        entry.connection.set_sides(&found.progress.sides);
        entry.counts = found.progress.counts;
        entry.hints = found.hints;
        entry.header = found.header;
        entry.admit(&found.admitted());
        entry.created = found.created.map_or(now, |created| created.created);
        entry.seen(found.progress.last_seen.unwrap_or(now).min(now), deadline);
        let index = self.insert(entry, account, now);
        self.helpers.relate(index, found.related);
        if !found.replied {
            return Ok(());
        }
        if found.created.is_some() {
            self.count_replied(index);
            return Ok(());
        }
        let replied = self.answer(index, now);
        if replied.is_err() {
            self.remove(index, Ending::Evicted, now);
        }
        replied
    }

    /// Counts a flow that began elsewhere and is no longer there: because its time is over, if nothing else is said. Why it
    /// has ended.
    pub fn bury(&mut self, found: &Found, ending: Option<Ending>) -> Ending {
        if ending == Some(Ending::Evicted) {
            self.counters.made_room[Rank::of(found.state(), found.replied) as usize] += 1;
        }
        let over = if found.state().is_over() { Ending::Closed } else { Ending::Expired };
        self.counters.opened += 1;
        self.counters.replied += u64::from(found.replied);
        let ending = ending.unwrap_or(over);
        self.counters.end(ending);
        ending
    }

    /// Someone keeps a place for each flow that is here and may be offloaded, and hears of each that ends.
    pub const fn keep_places(&mut self) {
        self.places_kept = true;
    }

    /// A flow that is offloaded was seen at `last_seen`: its time begins anew.
    pub fn refresh(&mut self, flow: FlowId, last_seen: Instant, settings: &StateSettings) {
        let Some(index) = self.slab.index(flow) else { return };
        let entry = self.slab.at(index);
        let state = match entry.state {
            FlowState::Replied => entry.as_it_goes_on(last_seen),
            state => state,
        };
        self.enter(index, state, settings, last_seen);
    }

    /// An offloaded flow whose time is over as far as is known here: whoever has its packets knows when the last
    /// one was. Asked for again in a moment unless it is refreshed or reclaimed.
    pub fn pop_overdue(&mut self) -> Option<(FlowId, FlowKey)> {
        while let Some(flow) = self.overdue.pop() {
            if let Some(index) = self.slab.index(flow).filter(|index| self.slab.at(*index).marks.is_away()) {
                let entry = self.slab.at(index);
                return Some((flow, entry.key.as_travelling(entry.marks.opened_swapped())));
            }
        }
        None
    }

    /// A flow that ended here and was offloaded, or has a place kept for it elsewhere: its packets must not pass there any
    /// longer. When the table knows the key again by now, the place is that flow's.
    pub fn pop_recalled(&mut self) -> Option<Recalled> {
        self.recalled.pop()
    }

    /// Keeps what flows have come to that end, for [`FlowTable::pop_finished`].
    pub const fn keep_finished(&mut self) {
        self.keeps_finished = true;
    }

    /// What a flow has come to that has ended, or that others admit now.
    pub fn pop_finished(&mut self) -> Option<Finished> {
        self.finished.pop()
    }

    /// A flow that was found elsewhere has ended there.
    fn finish_found(&mut self, found: &Found, now: Instant) {
        if !self.keeps_finished {
            return;
        }
        let last_seen = found.progress.last_seen.unwrap_or(now);
        self.finished.push(Finished {
            vni: found.key.vni,
            admitted: found.admitted(),
            count: found.progress.passed(),
            created: found.created.map_or(last_seen, |created| created.created),
            last_seen,
        });
    }

    /// A flow is about to end.
    pub(super) fn finish(&mut self, index: u32) {
        if !self.keeps_finished {
            return;
        }
        let counted = self.counted.remove(&index).unwrap_or_default();
        self.count_up(index, counted);
    }

    /// Others admit a flow from here on: what has passed so far is for those who did.
    pub(super) fn hand_down(&mut self, index: u32, to: &Admitted) {
        let entry = self.slab.at(index);
        let rules = |admitted: &Admitted| (admitted.egress_rule, admitted.ingress_rule);
        if !self.keeps_finished || rules(&entry.admitted()) == rules(to) {
            return;
        }
        let counted = self.counted.insert(index, entry.passed()).unwrap_or_default();
        self.count_up(index, counted);
    }

    /// What of a flow was not `counted` before is for those who admit it.
    fn count_up(&mut self, index: u32, counted: Count) {
        let entry = self.slab.at(index);
        let Count { packets, bytes } = entry.passed();
        let count = Count {
            packets: packets.saturating_sub(counted.packets),
            bytes: bytes.saturating_sub(counted.bytes),
        };
        self.finished.push(Finished {
            vni: entry.key.vni(),
            admitted: entry.admitted(),
            count,
            created: entry.created,
            last_seen: entry.last_seen(),
        });
    }

    /// How many flows are offloaded.
    #[must_use]
    pub const fn offloaded(&self) -> u32 {
        self.away
    }

    /// The time of an offloaded flow seems to be over: its owner is asked before it ends.
    pub(super) fn ask_owner(&mut self, index: u32, now: Instant) {
        let entry = self.slab.at_mut(index);
        let flow = flow_id(entry, index);
        entry.postpone(now + TICK * 4);
        self.overdue.push(flow);
    }

    /// An entry goes while its packets pass elsewhere.
    pub(super) fn recall(&mut self, index: u32) {
        let entry = self.slab.at(index);
        let is_away = entry.marks.is_away();
        if is_away || self.places_kept && entry.key.may_be_offloaded() {
            let key = entry.key.as_travelling(entry.marks.opened_swapped());
            self.recalled.push(Recalled { key, admitted: entry.admitted() });
        }
        self.away -= u32::from(is_away);
    }

    /// Whether a packet of an offloaded flow can pass without taking the flow back: what was on its way here when the
    /// flow was handed over, where no state depends on it.
    pub(super) const fn passes_beside(entry: &mut Entry, segment: &Segment, direction: Direction) -> bool {
        has_no_connection(segment)
            && (entry.is_replied() || matches!(direction, Direction::Original))
            && entry.marks.pass_beside(entry.counts[direction.index()].packets)
    }
}

impl Entry {
    /// What passed, of both directions
    const fn passed(&self) -> Count {
        let [original, reply] = self.counts;
        Count { packets: original.packets + reply.packets, bytes: original.bytes + reply.bytes }
    }

    /// Are these, after those that are counted, as many beside the offloaded flow that its carrier is to be asked about it?
    pub(super) const fn count_strays(&self, direction: Direction, packets: u64) -> bool {
        let before = self.counts[direction.index()].packets;
        self.marks.is_away() && before / STRAYS < (before + packets) / STRAYS
    }

    /// Counts a packet towards the threshold; true when the flow may be offloaded now.
    pub(super) fn settle_flow(&mut self, segment: &Segment) -> bool {
        let plain = match &segment.kind {
            _ if has_no_connection(segment) => true,
            SegmentKind::Tcp(tcp) => {
                tcp.flags & (tcp_flags::SYN | tcp_flags::FIN | tcp_flags::RST) == 0
                    && self.state == FlowState::Established
            }
            _ => false,
        };
        plain && !self.marks.is_away() && self.marks.settle_flow()
    }

    fn steady_sides(&self) -> Option<[Side; 2]> {
        match self.key.proto() {
            proto::TCP if self.is_replied() => self.connection.steady_sides(),
            proto::TCP => None,
            _ => self.key.may_be_offloaded().then_some([Side::default(); 2]),
        }
    }
}

/// A whole packet of a flow that may be offloaded, where one packet is as good as another.
const fn has_no_connection(segment: &Segment) -> bool {
    match &segment.kind {
        SegmentKind::Udp => true,
        SegmentKind::Query(query) => query.is_echo(),
        _ => false,
    }
}
