//! Flows for those who collect them: what `eastgate export` sends and writes.
//!
//! It is made of what the daemon tells anybody who asks: events, and the flows that there are. An event tells a flow's whole count when it has
//! ended; of one that lives long, reports in between tell what has passed since the one before.

pub mod ipfix;
pub mod rotation;

use std::{collections::HashMap, net::IpAddr};

use eastgate_api::{EventKind, EventRow, FlowRow};
use eastgate_wire::{DropGroup, DropReason, Vni, names};

/// Why a record was made (RFC 5102, `flowEndReason`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum EndReason {
    /// Nothing was heard of it for its time-out.
    Idle = 1,
    /// It goes on, and this is what has passed since the record before.
    Active = 2,
    /// Its ends have closed it.
    Closed = 3,
    /// A policy, or somebody, has ended it. Of a packet that was dropped: there is no flow.
    Forced = 4,
    /// It had to make room.
    NoRoom = 5,
}

/// What became of the packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// They passed.
    Forwarded,
    /// They passed because the rule that refuses them is being tried out.
    Audited,
    /// They were dropped, for a reason of this group.
    Dropped(DropGroup),
}

/// One direction of a flow, or packets of one kind that were dropped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Network
    pub vni: Vni,
    /// Protocol number
    pub proto: u8,
    /// Source and port
    pub src: (IpAddr, u16),
    /// Destination and port
    pub dst: (IpAddr, u16),
    /// Type and code of an ICMP message that was dropped
    pub icmp: Option<(u8, u8)>,
    /// Since when, in milliseconds since 1970 (UTC)
    pub start_ms: u64,
    /// Until when
    pub end_ms: u64,
    /// Packets
    pub packets: u64,
    /// Bytes
    pub bytes: u64,
    /// Why now
    pub reason: EndReason,
    /// What became of them
    pub fate: Fate,
}

/// Between whom a flow is
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Key {
    vni: Vni,
    proto: u8,
    src: (IpAddr, u16),
    dst: (IpAddr, u16),
}

/// Packets and bytes there and back
type Counts = [(u64, u64); 2];

/// What has been told of a flow that lives.
#[derive(Clone, Debug)]
struct Told {
    counts: Counts,
    /// Until when that was
    until_ms: u64,
    /// The last round that it was in
    round: u64,
    /// When the first round was over that it was not in
    missed_ms: Option<u64>,
}

impl Told {
    const fn nothing(until_ms: u64, round: u64) -> Self {
        Self { counts: [(0, 0); 2], until_ms, round, missed_ms: None }
    }
}

/// How long after a flow is gone its end may still be told: ends are looked for once a second, in part of a large table.
const END_IS_TOLD_WITHIN_MS: u64 = 60_000;

/// How long a daemon may not know of a flow that the kernel has kept for it: it takes one over when a packet of it comes up.
const TAKEN_OVER_WITHIN_MS: u64 = 3_600_000;

/// Makes records of events and of flows that live: each packet of a flow is in one of them.
#[derive(Debug, Default)]
pub struct Accountant {
    /// By their ends and their number
    live: HashMap<(Key, u64), Told>,
    /// Those that a daemon before has told of: the next one takes them over, some under another number
    of_before: HashMap<Key, Told>,
    /// Of flows that live, only those are wanted that an event has told of.
    only_told: bool,
    /// None where flows are told of when they have ended only
    round: Option<u64>,
    /// There was a whole round: what it did not find has begun since.
    has_baseline: bool,
}

impl Accountant {
    /// One that also tells of flows that live, where there are `rounds` over them: of all, or of those that an event has told of.
    #[must_use]
    pub fn new(rounds: bool, only_told: bool) -> Self {
        Self { only_told, round: rounds.then_some(0), ..Self::default() }
    }

    /// The records of an event: none of a flow that only begins, nor of what is no IP packet of a network.
    pub fn event(&mut self, event: &EventRow) -> Vec<Record> {
        let Some(key) = Key::of_event(event) else { return Vec::new() };
        let count = |packets: Option<u64>, bytes: Option<u64>| (packets.unwrap_or(0), bytes.unwrap_or(0));
        let begun_ms = event.begun_ms.unwrap_or(event.time_ms);
        match event.event {
            EventKind::Begun => {
                if let Some((round, id)) = self.round.zip(event.id) {
                    // A round may have come to it before the event.
                    self.live.entry((key, id)).or_insert(Told::nothing(begun_ms, round));
                }
                Vec::new()
            }
            EventKind::Ended => {
                let counts =
                    [count(event.packets, event.bytes), count(event.reply_packets, event.reply_bytes)];
                let known = event.id.and_then(|id| self.live.remove(&(key.clone(), id)));
                let told = known.or_else(|| self.taken_over(&key, counts));
                let told = told.unwrap_or(Told::nothing(begun_ms, 0));
                // Its last packet, and not when it was forgotten.
                let end = event.lasted_ms.map_or(event.time_ms, |lasted| begun_ms.saturating_add(lasted));
                let reason = end_reason(event.reason.as_deref());
                key.records(less(counts, told.counts), (told.until_ms, end), reason)
            }
            EventKind::Denied | EventKind::Dropped | EventKind::WouldBeDenied => {
                let counts = (event.packets.unwrap_or(1), event.bytes.unwrap_or(0));
                let at = (event.time_ms, event.time_ms);
                let audited = event.event == EventKind::WouldBeDenied;
                let fate = if audited { Fate::Audited } else { Fate::Dropped(group_of(event)) };
                let record = key.record(counts, at, EndReason::Forced);
                vec![Record { icmp: event.icmp, fate, ..record }]
            }
        }
    }

    /// A round over all flows that live begins.
    pub fn begin_round(&mut self) {
        self.round = Some(self.round.unwrap_or(0) + 1);
    }

    /// The records of a flow that lives: what has passed since the ones before. Of one that was there before the first round, what
    /// passed until then is told by nobody.
    pub fn alive(&mut self, flow: &FlowRow, now_ms: u64) -> Vec<Record> {
        // A packet that an endpoint forwards is of a flow on either side of it, which look alike in events.
        let (Some(key), Some(round), None) = (Key::of_flow(flow), self.round, &flow.via) else {
            return Vec::new();
        };
        let counts = [(flow.packets, flow.bytes), (flow.reply_packets, flow.reply_bytes)];
        let id = (key.clone(), flow.id);
        let known = self.live.get(&id).cloned().or_else(|| self.taken_over(&key, counts));
        if self.only_told && known.is_none() {
            return Vec::new();
        }
        let (told, start) = match known {
            Some(known) => (known.counts, known.until_ms),
            None if !self.has_baseline => (counts, now_ms),
            None => ([(0, 0); 2], now_ms),
        };
        self.live.insert(id, Told { counts, until_ms: now_ms, round, missed_ms: None });
        key.records(less(counts, told), (start, now_ms), EndReason::Active)
    }

    /// What has been told of a flow by way of a daemon before, if it is one that was taken over: it has gone on, and not begun anew.
    fn taken_over(&mut self, key: &Key, counts: Counts) -> Option<Told> {
        self.of_before.remove(key).filter(|told| !is_less(counts, told.counts))
    }

    /// All flows that live were in this round: what was not is gone. That it has ended is told later, and where it is not, nobody
    /// will.
    pub fn end_round(&mut self, now_ms: u64) {
        self.has_baseline = true;
        let round = self.round;
        let stays = |told: &mut Told, within: u64| {
            if Some(told.round) == round {
                return true;
            }
            let missed = *told.missed_ms.get_or_insert(now_ms);
            now_ms.saturating_sub(missed) < within
        };
        self.live.retain(|_, told| stays(told, END_IS_TOLD_WITHIN_MS));
        self.of_before.retain(|_, told| stays(told, TAKEN_OVER_WITHIN_MS));
    }

    /// Another daemon tells from here on.
    pub fn follow_another(&mut self) {
        // What the one before this has not taken over itself it may still have.
        self.of_before.extend(self.live.drain().map(|((key, _), told)| (key, told)));
    }
}

impl Key {
    fn of_event(event: &EventRow) -> Option<Self> {
        let proto = names::protocol_number(event.proto.as_deref()?)?;
        let (src, dst) = (event.src?.to_ip(), event.dst?.to_ip());
        (src.is_ipv4() == dst.is_ipv4()).then_some(())?;
        Some(Self { vni: event.vni?, proto, src: (src, event.sport), dst: (dst, event.dport) })
    }

    fn of_flow(flow: &FlowRow) -> Option<Self> {
        let proto = names::protocol_number(&flow.proto)?;
        let (src, dst) = ((flow.src.to_ip(), flow.sport), (flow.dst.to_ip(), flow.dport));
        Some(Self { vni: flow.vni, proto, src, dst })
    }

    /// One for each direction that packets went in.
    fn records(&self, counts: Counts, time: (u64, u64), reason: EndReason) -> Vec<Record> {
        let [there, back] = counts;
        let there = (there.0 > 0).then(|| self.record(there, time, reason));
        let swapped = Self { src: self.dst, dst: self.src, ..self.clone() };
        let back = (back.0 > 0).then(|| swapped.record(back, time, reason));
        there.into_iter().chain(back).collect()
    }

    fn record(
        &self,
        (packets, bytes): (u64, u64),
        (start_ms, end_ms): (u64, u64),
        reason: EndReason,
    ) -> Record {
        let Self { vni, proto, src, dst } = *self;
        // Clocks are set, and two programs read them.
        let start_ms = start_ms.min(end_ms);
        let (icmp, fate) = (None, Fate::Forwarded);
        Record { vni, proto, src, dst, icmp, start_ms, end_ms, packets, bytes, reason, fate }
    }
}

/// A reason of a newer daemon that is not known here is the rules', which is what most of them are.
fn group_of(event: &EventRow) -> DropGroup {
    event.reason.as_deref().and_then(DropReason::from_name).map_or(DropGroup::Policy, DropReason::group)
}

fn end_reason(name: Option<&str>) -> EndReason {
    match name {
        Some("expired") => EndReason::Idle,
        Some("closed") => EndReason::Closed,
        Some("evicted") => EndReason::NoRoom,
        _ => EndReason::Forced,
    }
}

fn is_less(counts: Counts, than: Counts) -> bool {
    counts.iter().zip(&than).any(|(counts, than)| counts.0 < than.0)
}

/// Where an event tells less than was told before, there is nothing more to tell.
fn less(counts: Counts, told: Counts) -> Counts {
    let [there, back] = counts;
    let left =
        |now: (u64, u64), told: (u64, u64)| (now.0.saturating_sub(told.0), now.1.saturating_sub(told.1));
    [left(there, told[0]), left(back, told[1])]
}

#[cfg(test)]
mod tests;
