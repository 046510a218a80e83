//! What has happened to flows, and which frames were dropped, until somebody fetches it. Nobody has to: what is
//! too much is dropped and counted, and no packet waits for it.
//!
//! Flows of the table note it themselves. Flows that began elsewhere are found by the sweeps, one round after the other: what has
//! begun in the time between two rounds is told of in the second one, or as it goes. That time is taken a little before the rounds
//! begin ([`LATENESS`]), so that each flow of it is there for the whole of its round. One that the kernel's programs themselves have
//! put another in the place of is not told of.

use std::{
    collections::{HashSet, VecDeque},
    time::Duration,
};

use eastgate_conntrack::flow::{FlowEvent, FlowInfo, Happening};
use eastgate_wire::{FlowKey, Instant};

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

/// How much later than it is said to have begun a flow may be there to be met: the kernel's programs read the clock of the last
/// tick, and whatever they run on may be held up between that and the entry.
pub const LATENESS: Duration = Duration::from_millis(200);

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
    /// The flows that the newest round has told of
    told: HashSet<FlowKey>,
}

impl Happenings {
    /// False when there is no room for it.
    fn record(&mut self, event: FlowEvent) -> bool {
        let has_room = self.queue.len() < self.limit;
        if has_room {
            self.queue.push_back(event);
        } else {
            self.lost += 1;
        }
        has_room
    }

    /// A part of the table is looked at.
    pub(super) fn look(&mut self, now: Instant) {
        if !self.in_round {
            self.rounds = [self.rounds[1], now];
            self.in_round = true;
            self.told.clear();
        }
    }

    /// All of it was looked at.
    pub(super) const fn end_round(&mut self) {
        self.in_round = false;
    }

    /// A flow is there that began at `created`; `info` says more when that is news.
    pub(super) fn meet(&mut self, created: Instant, info: impl FnOnce() -> FlowInfo) {
        let [before, this] = self.rounds;
        let there = created + LATENESS;
        if self.limit > 0 && before < there && there <= this {
            let flow = info();
            if !self.told.contains(&flow.key)
                && self.record(FlowEvent { at: created, what: Happening::Opened, flow })
            {
                self.told.insert(flow.key);
            }
        }
    }

    /// A flow that began at `created` is about to go. What was not told of by then is told now.
    pub(super) fn leave(&mut self, created: Instant, info: impl FnOnce() -> FlowInfo) {
        let [before, this] = self.rounds;
        let there = created + LATENESS;
        if self.limit > 0 && there > before {
            let flow = info();
            // In this round somebody may have it in hand still, to be met.
            if there > this || self.told.insert(flow.key) {
                self.record(FlowEvent { at: created, what: Happening::Opened, flow });
            }
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

    fn millis(millis: u64) -> Instant {
        Instant::from_micros(millis * 1000)
    }

    /// One that is told apart from others by when it began
    fn flow(begun: u64) -> FlowInfo {
        let info = info(millis(begun));
        FlowInfo { key: FlowKey { sport: begun as u16, ..info.key }, ..info }
    }

    fn listening() -> Happenings {
        Happenings { limit: 100, rounds: [millis(0); 2], ..Happenings::default() }
    }

    /// When those began that were told of, in milliseconds
    fn begun(happenings: &Happenings) -> Vec<u64> {
        let opened = happenings.queue.iter().filter(|event| event.what == Happening::Opened);
        opened.map(|event| event.flow.created.micros() / 1000).collect()
    }

    #[test]
    fn a_beginning_is_told_once_however_many_rounds_meet_the_flow() {
        let mut elsewhere = listening();
        // A round comes to each flow in the middle of it, and some are there to be met later than they say.
        let flows =
            [(5, 5), (801, 1000), (999, 1150), (1000, 1000), (1500, 1650), (1999, 2190), (3900, 3900)];
        for round in 1..8u64 {
            elsewhere.look(millis(round * 1000));
            elsewhere.look(millis(round * 1000 + 50));
            for (created, _) in flows.iter().filter(|(_, there)| *there <= round * 1000 + 100) {
                elsewhere.meet(millis(*created), || flow(*created));
            }
            elsewhere.end_round();
        }
        assert_eq!(begun(&elsewhere), flows.map(|(created, _)| created));
    }

    #[test]
    fn a_flow_that_goes_has_been_told_of_once_whenever_that_is() {
        // It goes between two rounds, or in one before or after that has come to it.
        for created in [1100, 1750, 1850, 2050, 2950] {
            for (goes, meets_it_first) in
                [(1, true), (2, false), (2, true), (3, false), (3, true), (4, false)]
            {
                if created > goes * 1000 {
                    continue;
                }
                let mut elsewhere = listening();
                let ends = millis(goes * 1000 + 90);
                for round in 1..6 {
                    let is_there = created < round * 1000 + 90;
                    elsewhere.look(millis(round * 1000));
                    if is_there && (round < goes || round == goes && meets_it_first) {
                        elsewhere.meet(millis(created), || flow(created));
                    }
                    if round == goes {
                        elsewhere.end(ends, Happening::Ended(Ending::Closed), || flow(created));
                        // Somebody has read it before.
                        elsewhere.meet(millis(created), || flow(created));
                    }
                    elsewhere.end_round();
                }
                assert_eq!(begun(&elsewhere), [created], "gone in round {goes}, {meets_it_first}");
            }
        }
    }

    #[test]
    fn what_nobody_fetches_is_counted() {
        let mut elsewhere = Happenings { limit: 2, ..Happenings::default() };
        let (created, now) = (Instant::from_secs(5), Instant::from_secs(7));
        elsewhere.look(Instant::from_secs(6));
        elsewhere.meet(created, || info(created));
        for _ in 0..5 {
            elsewhere.end(now, Happening::Ended(Ending::Closed), || info(created));
        }
        assert_eq!((elsewhere.queue.len(), elsewhere.lost), (2, 4));
        let mut unheard = Happenings::default();
        unheard.end(now, Happening::Ended(Ending::Closed), || unreachable!("nobody keeps events"));
        assert_eq!((unheard.queue.len(), unheard.lost), (0, 0));
    }
}
