//! What the flow table tells people and collectors: flows, events, counters.

use std::collections::VecDeque;

use eastgate_wire::{Addr, FlowKey, Helper, Instant, Vni, view::HeaderBits};

use super::{
    FlowState, Query, Rank,
    slab::{Count, Entry},
};
use crate::expect::Related;

/// A flow, as it is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowInfo {
    /// The key of the packet that opened it
    pub key: FlowKey,
    /// State
    pub state: FlowState,
    /// Both sides were heard; for TCP, the handshake is complete
    pub replied: bool,
    /// Its packets pass in the fast path. What is said here of counts and times is as of when it went there.
    pub offloaded: bool,
    /// The epoch of the policy that admitted it
    pub epoch: u32,
    /// The egress rule that admitted it
    pub egress_rule: u32,
    /// The ingress rule that admitted it
    pub ingress_rule: u32,
    /// What it began with
    pub header: HeaderBits,
    /// Who follows it to find out what flows follow from it
    pub helper: Option<Helper>,
    /// What it follows from itself, where its rules alone would not have let it pass
    pub related: Option<Related>,
    /// What went the way of the packet that opened it
    pub original: Count,
    /// What went the other way
    pub reply: Count,
    /// What it asks, where it is an ICMP query
    pub query: Option<Query>,
    /// When it was opened
    pub created: Instant,
    /// When a packet of it last passed, to a millisecond
    pub last_seen: Instant,
    /// When it ends if nothing more is heard
    pub deadline: Instant,
    /// Of both directions together: what was counted for those who admitted it before others did, as far as a page of the
    /// table says it
    pub counted: Count,
}

impl FlowInfo {
    pub(super) fn of(entry: &Entry) -> Self {
        Self {
            key: entry.key.as_travelling(entry.marks.opened_swapped()),
            state: entry.state,
            replied: entry.is_replied(),
            offloaded: entry.marks.is_away(),
            epoch: entry.epoch,
            egress_rule: entry.egress_rule,
            ingress_rule: entry.ingress_rule,
            header: entry.header,
            helper: entry.helper,
            related: None,
            original: entry.counts[0],
            reply: entry.counts[1],
            query: entry.key.query(),
            created: entry.created,
            last_seen: entry.last_seen(),
            deadline: entry.deadline(),
            counted: Count::default(),
        }
    }
}

/// Which flows are meant: those that everything named here fits. The default means all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FlowFilter {
    /// Of this network
    pub vni: Option<Vni>,
    /// With this address at one end
    pub addr: Option<Addr>,
    /// With this address at the other end, when `addr` is named too
    pub peer: Option<Addr>,
    /// Of this protocol
    pub proto: Option<u8>,
    /// With this port (or ICMP identifier) at one end
    pub port: Option<u16>,
    /// Admitted by this rule, egress or ingress
    pub rule: Option<u32>,
    /// Answered, or not
    pub replied: Option<bool>,
}

impl FlowFilter {
    /// Is this flow meant?
    #[must_use]
    pub fn fits(&self, flow: &FlowInfo) -> bool {
        let key = &flow.key;
        let ends = [(key.src, key.dst), (key.dst, key.src)];
        self.vni.is_none_or(|vni| vni == key.vni)
            && ends.iter().any(|(one, other)| {
                self.addr.is_none_or(|addr| addr == *one) && self.peer.is_none_or(|peer| peer == *other)
            })
            && self.proto.is_none_or(|proto| proto == key.proto)
            && self.port.is_none_or(|port| port == key.sport || port == key.dport)
            && self.rule.is_none_or(|rule| rule == flow.egress_rule || rule == flow.ingress_rule)
            && self.replied.is_none_or(|replied| replied == flow.replied)
    }
}

/// Why a flow is no longer there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Ending {
    /// A TCP connection that was over: both FINs or a RST were seen
    Closed,
    /// Nothing was heard for as long as its state lasts
    Expired,
    /// It had to make room for a newer one
    Evicted,
    /// The policy in force does not allow it
    Refused,
    /// Someone asked for it
    Killed,
}

/// What happened to a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Happening {
    /// It was opened.
    Opened,
    /// It is no longer there.
    Ended(Ending),
}

/// Something that happened to a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowEvent {
    /// When
    pub at: Instant,
    /// What
    pub what: Happening,
    /// The flow as it was then
    pub flow: FlowInfo,
}

/// What a flow table has done since it was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FlowCounters {
    /// Flows opened
    pub opened: u64,
    /// Flows answered
    pub replied: u64,
    /// Flows by [`Ending::Closed`]
    pub closed: u64,
    /// Flows by [`Ending::Expired`]
    pub expired: u64,
    /// Flows by [`Ending::Evicted`]
    pub evicted: u64,
    /// The same, by [`Rank`]
    pub made_room: [u64; Rank::COUNT],
    /// Flows by [`Ending::Refused`]
    pub refused: u64,
    /// Flows by [`Ending::Killed`]
    pub killed: u64,
    /// Packets that found a limit reached
    pub limited: u64,
    /// Events that nobody fetched in time
    pub events_lost: u64,
}

impl FlowCounters {
    pub(super) const fn end(&mut self, ending: Ending) {
        match ending {
            Ending::Closed => self.closed += 1,
            Ending::Expired => self.expired += 1,
            Ending::Evicted => self.evicted += 1,
            Ending::Refused => self.refused += 1,
            Ending::Killed => self.killed += 1,
        }
    }
}

/// Events nobody has fetched yet; the newest are lost when there are too many.
#[derive(Debug, Default)]
pub(super) struct Events {
    queue: VecDeque<FlowEvent>,
    limit: usize,
}

impl Events {
    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
        self.queue.truncate(limit);
    }

    pub(super) fn record(&mut self, event: impl FnOnce() -> FlowEvent, counters: &mut FlowCounters) {
        if self.limit == 0 {
            return;
        }
        if self.queue.len() < self.limit {
            self.queue.push_back(event());
        } else {
            counters.events_lost += 1;
        }
    }

    pub(super) fn pop(&mut self) -> Option<FlowEvent> {
        self.queue.pop_front()
    }
}

impl std::ops::AddAssign for FlowCounters {
    fn add_assign(&mut self, other: Self) {
        self.opened += other.opened;
        self.replied += other.replied;
        self.closed += other.closed;
        self.expired += other.expired;
        self.evicted += other.evicted;
        self.made_room.iter_mut().zip(other.made_room).for_each(|(mine, other)| *mine += other);
        self.refused += other.refused;
        self.killed += other.killed;
        self.limited += other.limited;
        self.events_lost += other.events_lost;
    }
}
