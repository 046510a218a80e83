//! What has happened to flows, and which frames were dropped, until somebody fetches it. Nobody has to: what is
//! too much is dropped and counted, and no packet waits for it.
//!
//! Flows of the table note it themselves. Flows that began elsewhere are found by the sweeps, one round after the other: what has
//! begun between the beginnings of two rounds is met in the second one for the first time, unless it is gone by then.

use std::{collections::VecDeque, time::Duration};

use eastgate_conntrack::flow::{FlowEvent, FlowInfo, Happening};
use eastgate_wire::Instant;

use super::{
    counters::{DropKey, Seen},
    shared::{Shared, lock},
};

/// Something that happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// To a flow of the table
    Flow(FlowEvent),
    /// To a flow that began elsewhere, and has ended there if it has
    Elsewhere(FlowEvent),
    /// A frame of this kind was dropped, for the first time as far as that is remembered
    Dropped(DropKey, Seen),
    /// A packet of this kind passed, and would have been refused if the rule were not being tried out; for the first time
    WouldBeDenied(DropKey, Seen),
}

impl Event {
    /// When.
    #[must_use]
    pub const fn at(&self) -> Instant {
        match self {
            Self::Flow(event) | Self::Elsewhere(event) => event.at,
            Self::Dropped(_, seen) | Self::WouldBeDenied(_, seen) => seen.last_at,
        }
    }
}

/// What is known of when flows begin elsewhere: to a millisecond, rounded down.
const GRAIN: Duration = Duration::from_millis(1);

/// What happens to flows that began elsewhere.
#[derive(Debug, Default)]
pub(super) struct Happenings {
    queue: VecDeque<FlowEvent>,
    limit: usize,
    lost: u64,
    /// When the round before this one began, and this one
    rounds: [Instant; 2],
    /// A round has begun and is not over.
    in_round: bool,
}

impl Happenings {
    fn record(&mut self, event: FlowEvent) {
        if self.queue.len() < self.limit {
            self.queue.push_back(event);
        } else if self.limit > 0 {
            self.lost += 1;
        }
    }

    /// A part of the table is looked at.
    pub(super) const fn look(&mut self, now: Instant) {
        if !self.in_round {
            self.rounds = [self.rounds[1], now];
            self.in_round = true;
        }
    }

    /// All of it was looked at.
    pub(super) const fn end_round(&mut self) {
        self.in_round = false;
    }

    /// A flow is there that began at `created`; `info` says more when that is news.
    pub(super) fn meet(&mut self, created: Instant, info: impl FnOnce() -> FlowInfo) {
        let [before, this] = self.rounds;
        let surely = created + GRAIN;
        if self.limit > 0 && before < surely && surely <= this {
            self.record(FlowEvent { at: created, what: Happening::Opened, flow: info() });
        }
    }

    /// A flow that began at `created` is about to go. What no round can have met yet has not been told of.
    pub(super) fn leave(&mut self, created: Instant, info: impl FnOnce() -> FlowInfo) {
        if self.limit > 0 && created + GRAIN > self.rounds[1] {
            self.record(FlowEvent { at: created, what: Happening::Opened, flow: info() });
        }
    }

    /// A flow is there no more.
    pub(super) fn end(&mut self, at: Instant, what: Happening, info: impl FnOnce() -> FlowInfo) {
        if self.limit > 0 {
            let flow = info();
            self.leave(flow.created, || flow);
            self.record(FlowEvent { at, what, flow });
        }
    }
}

impl Shared {
    /// Keeps what happens from now on for [`Shared::take_events`]: of each part of the flow table and of each worker up to
    /// `limit` events, and as many as of all parts together of what is elsewhere.
    pub fn keep_events(&self, limit: usize, now: Instant) {
        let mut parts = 0;
        for flows in self.all_flows() {
            lock(flows).keep_events(limit);
            parts += 1;
        }
        for counters in &self.counters {
            counters.keep_drops(limit);
        }
        let mut elsewhere = lock(&self.elsewhere);
        elsewhere.limit = limit.saturating_mul(parts);
        elsewhere.rounds = [now; 2];
    }

    /// What has happened since it was asked before, in the order of time as far as it is known by now.
    #[must_use]
    pub fn take_events(&self) -> Vec<Event> {
        let mut events: Vec<Event> = lock(&self.elsewhere).queue.drain(..).map(Event::Elsewhere).collect();
        for flows in self.all_flows() {
            let mut flows = lock(flows);
            events.extend(std::iter::from_fn(|| flows.pop_event()).map(Event::Flow));
        }
        for counters in &self.counters {
            events.extend(counters.take_drops().into_iter().map(|(key, seen)| Event::Dropped(key, seen)));
            let would = counters.take_would_be_denied().into_iter();
            events.extend(would.map(|(key, seen)| Event::WouldBeDenied(key, seen)));
        }
        events.sort_by_key(Event::at);
        events
    }

    /// Events that nobody fetched in time, since the start.
    #[must_use]
    pub fn events_lost(&self) -> u64 {
        let drops: u64 = self.counters.iter().map(|counters| counters.drops_lost()).sum();
        self.flow_counters().events_lost + lock(&self.elsewhere).lost + drops
    }
}

#[cfg(test)]
mod tests {
    use eastgate_conntrack::flow::{Count, Ending, FlowState};
    use eastgate_wire::{Addr, FlowKey, Leg, Vni};

    use super::*;

    fn info(created: Instant) -> FlowInfo {
        let key = FlowKey {
            src: Addr::v4([10, 1, 0, 1]),
            dst: Addr::v4([10, 1, 0, 2]),
            vni: Vni::from_wire([0, 0, 1]),
            sport: 1,
            dport: 2,
            proto: 17,
            leg: Leg::DIRECT,
        };
        FlowInfo {
            key,
            state: FlowState::Unreplied,
            replied: false,
            offloaded: true,
            epoch: 1,
            egress_rule: 0,
            ingress_rule: 0,
            header: eastgate_wire::view::HeaderBits::default(),
            helper: None,
            related: None,
            query: None,
            original: Count::default(),
            reply: Count::default(),
            created,
            last_seen: created,
            deadline: created,
            counted: Count::default(),
        }
    }

    #[test]
    fn a_beginning_is_told_once_however_many_rounds_meet_the_flow() {
        let millis = |millis: u64| Instant::from_micros(millis * 1000);
        let mut elsewhere = Happenings { limit: 100, rounds: [millis(0); 2], ..Happenings::default() };
        // Each flow is there from its beginning on; a round meets those that are, in the middle of it.
        let begun: Vec<u64> = vec![5, 999, 1000, 1500, 1999, 2400, 3900];
        for round in 1..8u64 {
            elsewhere.look(millis(round * 1000));
            elsewhere.look(millis(round * 1000 + 200));
            for created in begun.iter().copied().filter(|created| *created <= round * 1000 + 500) {
                elsewhere.meet(millis(created), || info(millis(created)));
            }
            elsewhere.end_round();
            // One that comes and goes between two rounds.
            let short = millis(round * 1000 + 600);
            elsewhere.end(millis(round * 1000 + 700), Happening::Ended(Ending::Closed), || info(short));
        }
        let (told, gone): (Vec<&FlowEvent>, Vec<&FlowEvent>) =
            elsewhere.queue.iter().partition(|event| event.what == Happening::Opened);
        assert_eq!(gone.len(), 7);
        let (short, told): (Vec<&FlowEvent>, Vec<&FlowEvent>) =
            told.into_iter().partition(|event| event.at.micros() % 1_000_000 == 600_000);
        assert_eq!(short.len(), 7);
        let told: Vec<u64> = told.iter().map(|event| event.flow.created.micros() / 1000).collect();
        assert_eq!(told, begun);
    }

    #[test]
    fn what_nobody_fetches_is_counted() {
        let mut elsewhere = Happenings { limit: 2, ..Happenings::default() };
        let (created, now) = (Instant::from_secs(5), Instant::from_secs(7));
        elsewhere.look(Instant::from_secs(6));
        for _ in 0..5 {
            elsewhere.end(now, Happening::Ended(Ending::Closed), || info(created));
        }
        assert_eq!((elsewhere.queue.len(), elsewhere.lost), (2, 3));
        let mut unheard = Happenings::default();
        unheard.end(now, Happening::Ended(Ending::Closed), || unreachable!("nobody keeps events"));
        assert_eq!((unheard.queue.len(), unheard.lost), (0, 0));
    }
}
