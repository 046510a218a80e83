//! How many flows there may be: one book for all shards, exact.
//!
//! A flow holds one permit of its network and one of the host, in the population it belongs to: flows whose
//! opener alone was heard, and flows that were answered. A permit is taken before the flow exists and given
//! back after it is gone, so at no moment are there more flows than a limit says. A limit may be lowered below
//! what is in use; nothing is cut then, and nothing new fits until the use has fallen.
//!
//! Permits can be lent to someone who counts flows by himself ([`NetworkQuota::lend`]), up to half of each limit. They
//! count as used until they come back; where a limit is reached, the borrower is first asked for those that no flow
//! holds ([`Borrower`]).

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use eastgate_wire::Vni;

/// How many flows there may be, of a network or of the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowLimits {
    /// Flows that were answered
    pub answered: u32,
    /// Flows that were not, half-open TCP connections included
    pub unanswered: u32,
}

/// How many flows there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FlowUse {
    /// Flows that were answered
    pub answered: u32,
    /// Flows that were not
    pub unanswered: u32,
}

/// Who has borrowed permits.
pub trait Borrower: std::fmt::Debug + Send + Sync {
    /// Gives back permits that no flow holds: of this network, or of any. False when there were none.
    fn give_back(&self, vni: Option<Vni>, of: Population) -> bool;
}

/// The host's book of flows. Shared by all shards.
#[derive(Debug)]
pub struct Quota {
    total: Arc<Total>,
    networks: Mutex<BTreeMap<Vni, Arc<NetworkQuota>>>,
}

#[derive(Debug)]
struct Total {
    gauges: Gauges,
    /// Weak: what it was lent holds on to this.
    borrower: OnceLock<Weak<dyn Borrower>>,
}

/// A network's page in the book.
#[derive(Debug)]
pub struct NetworkQuota {
    vni: Vni,
    own: Gauges,
    total: Arc<Total>,
}

/// The two populations of flows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Population {
    /// Only the side that opened them was heard
    Unanswered,
    /// Both were
    Answered,
}

/// Whose limit is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Full {
    Network,
    Total,
}

impl Quota {
    /// An empty book with the host's limits.
    #[must_use]
    pub fn new(limits: FlowLimits) -> Self {
        let total = Total { gauges: Gauges::new(limits), borrower: OnceLock::new() };
        Self { total: Arc::new(total), networks: Mutex::default() }
    }

    /// Changes the host's limits.
    pub fn set_limits(&self, limits: FlowLimits) {
        self.total.gauges.set(limits);
    }

    /// Permits may be lent to `borrower` from here on, as long as someone else holds on to it; to one only.
    pub fn lend_to(&self, borrower: &Arc<dyn Borrower>) {
        let _ = self.total.borrower.set(Arc::downgrade(borrower));
    }

    /// The page of a network, with these limits from now on. It is the same page for as long as anyone holds it.
    #[must_use]
    pub fn network(&self, vni: Vni, limits: FlowLimits) -> Arc<NetworkQuota> {
        let mut networks = self.networks.lock().unwrap_or_else(PoisonError::into_inner);
        let page = networks.entry(vni).or_insert_with(|| {
            Arc::new(NetworkQuota { vni, own: Gauges::new(limits), total: self.total.clone() })
        });
        page.own.set(limits);
        page.clone()
    }

    /// Forgets the networks that neither a snapshot nor a flow names any more.
    pub fn prune(&self) {
        let mut networks = self.networks.lock().unwrap_or_else(PoisonError::into_inner);
        networks.retain(|_, page| Arc::strong_count(page) > 1);
    }

    /// How many flows the host has.
    #[must_use]
    pub fn in_use(&self) -> FlowUse {
        self.total.gauges.in_use()
    }
}

impl NetworkQuota {
    /// How many flows the network has.
    #[must_use]
    pub fn in_use(&self) -> FlowUse {
        self.own.in_use()
    }

    /// Lends up to `wanted` permits, as far as there are any and no more than half of a limit is lent. How many.
    #[must_use]
    pub fn lend(&self, of: Population, wanted: u32) -> u32 {
        let own = self.own.of(of).lend(wanted);
        let lent = self.total.gauges.of(of).lend(own);
        self.own.of(of).take_back(own - lent);
        lent
    }

    /// Is more in use than a limit says, because it was lowered? Nothing is to be kept for later then.
    #[must_use]
    pub fn is_over(&self, of: Population) -> bool {
        self.own.of(of).is_over() || self.total.gauges.of(of).is_over()
    }

    /// That many lent permits are free again.
    pub fn take_back(&self, of: Population, permits: u32) {
        self.total.gauges.of(of).take_back(permits);
        self.own.of(of).take_back(permits);
    }

    /// A lent permit stays with a flow that is no longer the borrower's.
    pub fn keep_lent(&self, of: Population) {
        self.total.gauges.of(of).keep_lent();
        self.own.of(of).keep_lent();
    }

    pub(super) fn take(&self, of: Population) -> Result<(), Full> {
        let full = match self.take_once(of) {
            Ok(()) => return Ok(()),
            Err(full) => full,
        };
        let asked = match full {
            Full::Network => Some(self.vni),
            Full::Total => None,
        };
        match self.total.borrower.get().and_then(Weak::upgrade) {
            Some(borrower) if borrower.give_back(asked, of) => self.take_once(of),
            _ => Err(full),
        }
    }

    fn take_once(&self, of: Population) -> Result<(), Full> {
        if !self.own.of(of).take() {
            return Err(Full::Network);
        }
        if !self.total.gauges.of(of).take() {
            self.own.of(of).give();
            return Err(Full::Total);
        }
        Ok(())
    }

    pub(super) fn give(&self, of: Population) {
        self.total.gauges.of(of).give();
        self.own.of(of).give();
    }
}

#[derive(Debug)]
struct Gauges {
    answered: Gauge,
    unanswered: Gauge,
}

impl Gauges {
    fn new(limits: FlowLimits) -> Self {
        Self { answered: Gauge::new(limits.answered), unanswered: Gauge::new(limits.unanswered) }
    }

    fn set(&self, limits: FlowLimits) {
        self.answered.limit.store(limits.answered, Relaxed);
        self.unanswered.limit.store(limits.unanswered, Relaxed);
    }

    fn of(&self, population: Population) -> &Gauge {
        match population {
            Population::Unanswered => &self.unanswered,
            Population::Answered => &self.answered,
        }
    }

    fn in_use(&self) -> FlowUse {
        FlowUse { answered: self.answered.used.load(Relaxed), unanswered: self.unanswered.used.load(Relaxed) }
    }
}

/// The counter alone carries the meaning and guards no other memory, so relaxed ordering is enough.
#[derive(Debug)]
struct Gauge {
    used: AtomicU32,
    limit: AtomicU32,
    /// How many of those in use are lent
    lent: AtomicU32,
}

impl Gauge {
    fn new(limit: u32) -> Self {
        Self { used: AtomicU32::new(0), limit: AtomicU32::new(limit), lent: AtomicU32::new(0) }
    }

    fn take(&self) -> bool {
        let limit = self.limit.load(Relaxed);
        self.used.fetch_update(Relaxed, Relaxed, |used| (used < limit).then(|| used + 1)).is_ok()
    }

    fn give(&self) {
        self.used.fetch_sub(1, Relaxed);
    }

    fn lend(&self, wanted: u32) -> u32 {
        let limit = self.limit.load(Relaxed);
        let lent = add_up_to(&self.lent, wanted, limit / 2);
        let used = add_up_to(&self.used, lent, limit);
        self.lent.fetch_sub(lent - used, Relaxed);
        used
    }

    fn take_back(&self, permits: u32) {
        self.used.fetch_sub(permits, Relaxed);
        self.lent.fetch_sub(permits, Relaxed);
    }

    fn keep_lent(&self) {
        self.lent.fetch_sub(1, Relaxed);
    }

    fn is_over(&self) -> bool {
        self.used.load(Relaxed) > self.limit.load(Relaxed)
    }
}

/// Adds as much of `wanted` as fits below `limit`. How much.
fn add_up_to(counter: &AtomicU32, wanted: u32, limit: u32) -> u32 {
    let fitting = |now: u32| wanted.min(limit.saturating_sub(now));
    counter.fetch_update(Relaxed, Relaxed, |now| Some(now + fitting(now))).map_or(0, fitting)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: FlowLimits = FlowLimits { answered: 3, unanswered: 2 };

    #[test]
    fn the_network_and_the_host_each_have_a_say() {
        let quota = Quota::new(LIMITS);
        let page =
            |vni| quota.network(Vni::new_checked(vni).unwrap(), FlowLimits { answered: 2, unanswered: 9 });
        let (a, b) = (page(1), page(2));
        assert_eq!((a.take(Population::Answered), a.take(Population::Answered)), (Ok(()), Ok(())));
        assert_eq!(a.take(Population::Answered), Err(Full::Network));
        assert_eq!(b.take(Population::Answered), Ok(()));
        assert_eq!(b.take(Population::Answered), Err(Full::Total));
        assert_eq!(b.in_use().answered, 1, "a refusal by the host keeps no permit of the network");
        a.give(Population::Answered);
        assert_eq!(b.take(Population::Answered), Ok(()));
        assert_eq!(quota.in_use(), FlowUse { answered: 3, unanswered: 0 });
    }

    #[test]
    fn a_page_lives_as_long_as_someone_holds_it() {
        let quota = Quota::new(LIMITS);
        let vni = Vni::new_checked(7).unwrap();
        let page = quota.network(vni, LIMITS);
        page.take(Population::Unanswered).unwrap();
        quota.prune();
        assert_eq!(quota.network(vni, LIMITS).in_use().unanswered, 1);
        page.give(Population::Unanswered);
        drop(page);
        quota.prune();
        assert_eq!(quota.networks.lock().unwrap().len(), 0);
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "shards take permits from several threads")]
    fn threads_never_go_over_a_limit() {
        let quota = Quota::new(FlowLimits { answered: 40, unanswered: 40 });
        let page = quota.network(Vni::new_checked(1).unwrap(), FlowLimits { answered: 30, unanswered: 30 });
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        if page.take(Population::Answered).is_ok() {
                            assert!(page.in_use().answered <= 30);
                            page.give(Population::Answered);
                        }
                    }
                });
            }
        });
        assert_eq!((page.in_use().answered, quota.in_use().answered), (0, 0));
    }
}
