//! How many flows a rule grants each source, and how often one may begin: a registry for all shards, exact.
//!
//! A source is whoever opens the flow, or the prefix that it is in, and each endpoint whose rule it is counts for itself, so
//! that it makes no difference where endpoints run. A flow has a [`Grant`] before it exists and until it is gone or over: what
//! is closed waits for late segments alone, and Linux's connlimit does not count it either. Limits may be lowered below what
//! there is; nothing is cut then, and nothing new begins until there is less.
//!
//! Whoever opens a connection can send a reset that its receiver does not believe, behind a gap in what it sent, and go on. So a
//! connection that counts is over by a reset of its opener's only where its other end has acknowledged all that was sent: before
//! the reset, or after it while the opener says nothing more. Otherwise it is in doubt and goes on; it ends when both are silent
//! for [`DOUBT`]. An honest client's is too, whose last segment was under way when it gave up. An association of SCTP ends by its opener's
//! ABORT only where it is known by which tag its other end takes that.
//!
//! It promises that at no moment a source has more flows by [`SourceCounts::take`] than the limit, nor has begun more than the
//! rate lets it; and that a source is remembered only as long as it has a flow or owes the rate something. There are [`MOST`]
//! of them at most: a further one is granted nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use eastgate_wire::{
    Addr, EndpointId, Instant, Rate, TokenBucket,
    view::{Tcp, tcp_flags},
};

use super::{Direction, FlowId, FlowTable, tcp::Connection};

/// What a rule grants each source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SourceLimits {
    /// Flows at once
    pub connections: Option<u32>,
    /// Flows that begin
    pub new: Option<Rate>,
    /// How much of an address, IPv4 and IPv6, tells sources apart: lengths of prefixes, counted in the 128-bit form
    pub prefixes: [u8; 2],
}

/// How long a connection that counts for its source stays after a reset that its receiver may not have believed: as long as
/// Linux's conntrack keeps one whose last data nobody has acknowledged (`nf_conntrack_tcp_timeout_unacknowledged`).
pub const DOUBT: Duration = Duration::from_secs(300);

/// Sources that one rule can tell apart at a time
pub const MOST: usize = 65_536;

/// Whose rule it is, and the first address of a source's prefix
type Who = (EndpointId, Addr);

/// What the sources have that one rule lets in.
#[derive(Debug)]
pub struct SourceCounts(Mutex<Sources>);

/// What a flow holds of a rule's limits; given back when this is dropped.
#[derive(Debug)]
pub struct Grant {
    counts: Arc<SourceCounts>,
    who: Who,
}

/// What a flow holds of the limits of the rules that admitted it: egress and ingress.
pub type Grants = [Option<Grant>; 2];

/// What a flow of the table holds.
#[derive(Debug)]
pub(super) struct Held {
    grants: Grants,
    /// The number of a reset of its opener's that its receiver may not have believed, if nothing else came from there since
    doubt: Option<u32>,
}

#[derive(Debug)]
struct Sources {
    limits: SourceLimits,
    known: BTreeMap<Who, Source>,
    /// Those without flows, by when there is nothing to be known of them any more
    resting: BTreeSet<(Instant, Who)>,
}

#[derive(Debug, Default)]
struct Source {
    flows: u32,
    bucket: Option<TokenBucket>,
    rests_until: Option<Instant>,
}

impl SourceCounts {
    /// Nobody has anything yet.
    #[must_use]
    pub fn new(limits: SourceLimits) -> Self {
        Self(Mutex::new(Sources { limits, known: BTreeMap::new(), resting: BTreeSet::new() }))
    }

    /// Other limits from now on, for what there is.
    pub fn set_limits(&self, limits: SourceLimits) {
        self.lock().limits = limits;
    }

    /// One flow more from `source`, by the rule of the endpoint `whose`; nothing where that is too many.
    #[must_use]
    pub fn take(self: &Arc<Self>, whose: EndpointId, source: Addr, now: Instant) -> Option<Grant> {
        let mut sources = self.lock();
        let who = (whose, sources.limits.prefix_of(source));
        let grant = || Grant { counts: self.clone(), who };
        sources.take(who, now).then(grant)
    }

    /// The same for a flow that is there already: it counts, also beyond the limit.
    #[must_use]
    pub fn take_anyway(self: &Arc<Self>, whose: EndpointId, source: Addr) -> Grant {
        let mut sources = self.lock();
        let who = (whose, sources.limits.prefix_of(source));
        sources.begin(who);
        Grant { counts: self.clone(), who }
    }

    /// How many flows `source` has.
    #[must_use]
    pub fn flows(&self, whose: EndpointId, source: Addr) -> u32 {
        let sources = self.lock();
        let who = (whose, sources.limits.prefix_of(source));
        sources.known.get(&who).map_or(0, |source| source.flows)
    }

    /// How many sources are known.
    #[must_use]
    pub fn sources(&self) -> usize {
        self.lock().known.len()
    }

    fn lock(&self) -> MutexGuard<'_, Sources> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Grant {
    /// Is it about how many flows there are, and not only about how often they begin?
    fn counts_flows(&self) -> bool {
        self.counts.lock().limits.connections.is_some()
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.counts.lock().give(self.who);
    }
}

impl SourceLimits {
    fn prefix_of(&self, source: Addr) -> Addr {
        let len = self.prefixes[usize::from(!source.is_v4())].min(128);
        let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
        Addr::from_bits(source.bits() & mask)
    }
}

impl Sources {
    /// Of those that there is nothing to be known of any more, more are forgotten than may come.
    const FORGOTTEN: usize = 4;

    fn take(&mut self, who: Who, now: Instant) -> bool {
        self.forget_rested(now);
        let is_known = self.known.contains_key(&who);
        if !is_known && self.known.len() >= MOST {
            return false;
        }
        let source = self.known.entry(who).or_default();
        if self.limits.connections.is_some_and(|most| source.flows >= most) {
            return false;
        }
        if let Some(rate) = self.limits.new {
            let bucket = source.bucket.get_or_insert_with(|| TokenBucket::new(rate, now));
            bucket.set_rate(rate, now);
            if !bucket.take(now) {
                return false;
            }
        }
        self.begin(who);
        true
    }

    fn begin(&mut self, who: Who) {
        let source = self.known.entry(who).or_default();
        source.flows += 1;
        if let Some(until) = source.rests_until.take() {
            self.resting.remove(&(until, who));
        }
    }

    fn give(&mut self, who: Who) {
        let Some(source) = self.known.get_mut(&who) else { return };
        source.flows = source.flows.saturating_sub(1);
        if source.flows > 0 {
            return;
        }
        match &source.bucket {
            Some(bucket) => {
                let until = bucket.full_at();
                source.rests_until = Some(until);
                self.resting.insert((until, who));
            }
            None => drop(self.known.remove(&who)),
        }
    }

    fn forget_rested(&mut self, now: Instant) {
        for _ in 0..Self::FORGOTTEN {
            let Some(&(until, who)) = self.resting.first().filter(|(until, _)| *until <= now) else { return };
            self.resting.remove(&(until, who));
            self.known.remove(&who);
        }
    }
}

impl FlowTable {
    /// A flow that was opened or confirmed holds these from now on, until it is gone or over, and nothing else.
    pub fn hold(&mut self, flow: FlowId, grants: Grants) {
        let Some(index) = self.slab.index(flow) else { return };
        let is_over = self.slab.at(index).state.is_over();
        if is_over || grants.iter().all(Option::is_none) {
            self.grants.remove(&index);
        } else {
            self.grants.insert(index, Held { grants, doubt: None });
        }
    }

    /// Does a flow count in a limit of how many there are?
    pub(super) fn is_counted(&self, index: u32) -> bool {
        let held = self.grants.get(&index);
        held.is_some_and(|held| held.grants.iter().flatten().any(Grant::counts_flows))
    }

    /// The opener of a flow that counts has reset it with a number that its other end may not believe.
    pub(super) fn doubt(&mut self, index: u32, seq: u32, now: Instant) {
        if let Some(held) = self.grants.get_mut(&index) {
            held.doubt = Some(seq);
        }
        let before = self.slab.at(index).deadline();
        if self.at_most_in_doubt(index, before, now) < before {
            self.wheel.unhang(&mut self.slab, index);
            self.wheel.hang(&mut self.slab, index, now);
        }
    }

    /// A segment was taken in this direction, that neither opens nor resets. Whether it shows that a connection in doubt is over.
    #[inline]
    pub(super) fn ends_doubt(
        &mut self,
        index: u32,
        direction: Direction,
        tcp: &Tcp,
        connection: &mut Connection,
    ) -> bool {
        if self.grants.is_empty() {
            return false;
        }
        let doubt = self.grants.get(&index).and_then(|held| held.doubt);
        self.goes_on(index, direction);
        doubt.is_some_and(|seq| {
            direction == Direction::Reply
                && tcp.flags & tcp_flags::ACK != 0
                && tcp.ack == seq
                && connection.is_reset_at(seq)
        })
    }

    /// Something more came in this direction: an opener that goes on has reset nothing.
    pub(super) fn goes_on(&mut self, index: u32, direction: Direction) {
        if direction == Direction::Original
            && let Some(held) = self.grants.get_mut(&index)
        {
            held.doubt = None;
        }
    }

    /// When a flow ends that would end at `deadline`: one in doubt lasts no longer than that.
    #[inline]
    pub(super) fn at_most_in_doubt(&mut self, index: u32, deadline: Instant, now: Instant) -> Instant {
        let in_doubt = || self.grants.get(&index).is_some_and(|held| held.doubt.is_some());
        if self.grants.is_empty() || deadline <= now + DOUBT || !in_doubt() {
            return deadline;
        }
        self.slab.at_mut(index).seen(now, now + DOUBT);
        now + DOUBT
    }

    /// A flow is over, or gone.
    pub(super) fn let_go(&mut self, index: u32) {
        if !self.grants.is_empty() {
            self.grants.remove(&index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOSE: EndpointId = EndpointId(1);

    fn counts(connections: Option<u32>, new: Option<Rate>) -> Arc<SourceCounts> {
        Arc::new(SourceCounts::new(SourceLimits { connections, new, prefixes: [128, 64] }))
    }

    fn v4(last: u8) -> Addr {
        Addr::v4([10, 1, 0, last])
    }

    fn v6(net: u8, last: u8) -> Addr {
        Addr::v6([0xfd, 0, 0, 0, 0, 0, 0, net, 0, 0, 0, 0, 0, 0, 0, last])
    }

    #[test]
    fn each_source_has_so_many_at_each_endpoint() {
        let counts = counts(Some(2), None);
        let take = |whose, source| counts.take(whose, source, Instant::ZERO);
        let held = [take(WHOSE, v4(1)).unwrap(), take(WHOSE, v4(1)).unwrap()];
        assert!(take(WHOSE, v4(1)).is_none());
        let others = [take(WHOSE, v4(2)).unwrap(), take(EndpointId(2), v4(1)).unwrap()];
        assert_eq!((counts.flows(WHOSE, v4(1)), counts.sources()), (2, 3));
        // What was there before counts, and nothing begins until there is less than the limit.
        let more = counts.take_anyway(WHOSE, v4(1));
        drop(held);
        let _one = take(WHOSE, v4(1)).unwrap();
        assert!(take(WHOSE, v4(1)).is_none());
        drop((more, others));
        assert_eq!((counts.flows(WHOSE, v4(1)), counts.sources()), (1, 1));
        counts.set_limits(SourceLimits { connections: Some(1), new: None, prefixes: [128, 64] });
        assert!(take(WHOSE, v4(1)).is_none());
    }

    #[test]
    fn addresses_of_one_prefix_are_one_source() {
        let counts = counts(Some(1), None);
        let _held = counts.take(WHOSE, v6(1, 1), Instant::ZERO).unwrap();
        assert!(counts.take(WHOSE, v6(1, 2), Instant::ZERO).is_none());
        assert!(counts.take(WHOSE, v6(2, 1), Instant::ZERO).is_some());
        let _held = counts.take(WHOSE, v4(1), Instant::ZERO).unwrap();
        assert!(counts.take(WHOSE, v4(2), Instant::ZERO).is_some());
        let all = SourceLimits { connections: None, new: None, prefixes: [96, 0] };
        assert_eq!((all.prefix_of(v4(7)), all.prefix_of(v6(1, 7))), (Addr::v4([0; 4]), Addr::from_bits(0)));
    }

    #[test]
    fn a_source_that_owes_nothing_is_forgotten_and_one_that_does_is_not() {
        let counts = counts(None, Some(Rate { per_second: 10, burst: 3 }));
        let begin = |source, at| counts.take(WHOSE, source, Instant::from_micros(at)).is_some();
        let begun: Vec<bool> = (0..5).map(|_| begin(v4(1), 0)).collect();
        assert_eq!(begun, [true, true, true, false, false]);
        assert!(
            !begin(v4(1), 99_999) && begin(v4(1), 100_000),
            "its flows are gone, and it is known all the same"
        );
        assert!(begin(v4(2), 399_999), "another one");
        assert_eq!(counts.sources(), 2);
        assert!(begin(v4(3), 400_000));
        assert_eq!(counts.sources(), 2, "the first one has all its tokens again");
        assert_eq!((0..5).filter(|_| begin(v4(1), 400_000)).count(), 3);
    }

    #[test]
    fn a_rate_that_is_lowered_holds_for_whom_it_knows() {
        let counts = counts(None, Some(Rate { per_second: 1, burst: 100 }));
        assert!(counts.take(WHOSE, v4(1), Instant::ZERO).is_some());
        let new = Some(Rate { per_second: 1, burst: 2 });
        counts.set_limits(SourceLimits { connections: None, new, prefixes: [128; 2] });
        assert_eq!((0..5).filter(|_| counts.take(WHOSE, v4(1), Instant::ZERO).is_some()).count(), 2);
        // It rests until another moment than it did.
        assert!(counts.take(WHOSE, v4(2), Instant::from_secs(99)).is_some());
        assert!(counts.take(WHOSE, v4(2), Instant::from_secs(200)).is_some());
        assert_eq!(counts.sources(), 1);
    }

    #[test]
    fn sources_are_bounded() {
        let counts = counts(Some(1), None);
        let source = |n: usize| Addr::from_bits((u128::from(u64::MAX) << 64) | (n as u128 + 1));
        let narrow = SourceLimits { connections: Some(1), new: None, prefixes: [128; 2] };
        counts.set_limits(narrow);
        let held: Vec<Grant> =
            (0..MOST).map(|n| counts.take(WHOSE, source(n), Instant::ZERO).unwrap()).collect();
        assert!(counts.take(WHOSE, source(MOST), Instant::ZERO).is_none());
        drop(held);
        assert_eq!(counts.sources(), 0);
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "shards take grants from several threads")]
    fn threads_never_go_over_a_limit() {
        let counts = counts(Some(3), None);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5_000 {
                        let granted = counts.take(WHOSE, v4(1), Instant::ZERO);
                        assert!(counts.flows(WHOSE, v4(1)) <= 3);
                        drop(granted);
                    }
                });
            }
        });
        assert_eq!(counts.sources(), 0);
    }
}
