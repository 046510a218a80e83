//! What each rule of a network has done on this host, by its number.
//!
//! A rule that is kept from one snapshot to the next goes on counting in the same place, whichever snapshot a worker has in hand.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use eastgate_policy::rule::{Action, RuleId, Then, Verdict};
use eastgate_wire::Instant;

use super::Network;

/// Rules whose counters are one piece of memory: most tenants have no more.
const CHUNK: usize = 16;

/// No time
const NEVER: u64 = u64::MAX;

/// The counters of a network's rules.
#[derive(Debug, Default)]
pub struct RuleCounts(Box<[Arc<[Cell; CHUNK]>]>);

#[derive(Debug)]
struct Cell {
    flows: AtomicU64,
    packets: AtomicU64,
    bytes: AtomicU64,
    would_deny: AtomicU64,
    first: AtomicU64,
    last: AtomicU64,
}

/// What one rule has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RuleCount {
    /// Flows that it admitted
    pub flows: u64,
    /// Packets of these flows, of both directions, and packets that it refused or let pass without a flow
    pub packets: u64,
    /// Their bytes
    pub bytes: u64,
    /// Packets that passed, and that it would have refused if it were not being tried out
    pub would_deny: u64,
    /// When a packet hit it first and last; nothing when none did
    pub hit: Option<(Instant, Instant)>,
}

impl RuleCount {
    /// Adds what is counted elsewhere.
    pub fn add(&mut self, other: &Self) {
        self.flows += other.flows;
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.would_deny += other.would_deny;
        self.hit = match (self.hit, other.hit) {
            (Some((first, last)), Some((earlier, later))) => Some((first.min(earlier), last.max(later))),
            (one, other) => one.or(other),
        };
    }
}

impl RuleCounts {
    /// For rules with numbers below `len`. Those that had numbers `before` go on.
    pub(super) fn following(len: usize, before: Option<&Self>) -> Self {
        let known = |chunk: usize| before.and_then(|before| before.0.get(chunk)).cloned();
        let chunks = 0..len.div_ceil(CHUNK);
        Self(chunks.map(|chunk| known(chunk).unwrap_or_else(|| Arc::new(cells()))).collect())
    }

    /// Counts; a number that no rule has counts for nobody.
    pub(crate) fn add(&self, rule: u32, more: &RuleCount) {
        let Some(cell) = self.cell(rule) else { return };
        for (cell, more) in [
            (&cell.flows, more.flows),
            (&cell.packets, more.packets),
            (&cell.bytes, more.bytes),
            (&cell.would_deny, more.would_deny),
        ] {
            if more > 0 {
                cell.fetch_add(more, Relaxed);
            }
        }
        if let Some((first, last)) = more.hit {
            cell.first.fetch_min(first.micros(), Relaxed);
            cell.last.fetch_max(last.micros(), Relaxed);
        }
    }

    /// What a rule has done, as far as it is counted by now.
    #[must_use]
    pub fn get(&self, rule: u32) -> RuleCount {
        let Some(cell) = self.cell(rule) else { return RuleCount::default() };
        let load = |counter: &AtomicU64| counter.load(Relaxed);
        let (first, last) = (load(&cell.first), load(&cell.last));
        RuleCount {
            flows: load(&cell.flows),
            packets: load(&cell.packets),
            bytes: load(&cell.bytes),
            would_deny: load(&cell.would_deny),
            hit: (first != NEVER).then(|| (Instant::from_micros(first), Instant::from_micros(last))),
        }
    }

    /// Has any rule done anything?
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        let mut cells = self.0.iter().flat_map(|chunk| chunk.iter());
        cells.all(|cell| cell.first.load(Relaxed) == NEVER && cell.flows.load(Relaxed) == 0)
    }

    fn cell(&self, rule: u32) -> Option<&Cell> {
        let rule = rule as usize;
        self.0.get(rule / CHUNK)?.get(rule % CHUNK)
    }
}

impl Network {
    /// Is what a rule admits or refuses to be logged?
    #[must_use]
    pub fn logs(&self, rule: u32) -> bool {
        self.settles(rule).is_some_and(|verdict| verdict.log)
    }

    /// Would a rule refuse what it lets pass, if it were not being tried out?
    #[must_use]
    pub fn tries_out(&self, rule: u32) -> bool {
        self.settles(rule).is_some_and(|verdict| verdict.audit && verdict.action != Action::Allow)
    }

    fn settles(&self, rule: u32) -> Option<Verdict> {
        match self.policy.does(RuleId(rule))? {
            Then::Settle(verdict) => Some(verdict),
            Then::Pass => None,
        }
    }
}

fn cells() -> [Cell; CHUNK] {
    std::array::from_fn(|_| Cell {
        flows: AtomicU64::new(0),
        packets: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        would_deny: AtomicU64::new(0),
        first: AtomicU64::new(NEVER),
        last: AtomicU64::new(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_goes_on_counting_where_it_did() {
        let at = |second| Instant::from_secs(second);
        let hit = |from, to| RuleCount {
            packets: 1,
            bytes: 60,
            hit: Some((at(from), at(to))),
            ..RuleCount::default()
        };
        let before = RuleCounts::following(3, None);
        assert!(before.is_untouched());
        before.add(2, &hit(5, 6));
        before.add(u32::MAX, &hit(1, 9));
        let after = RuleCounts::following(20, Some(&before));
        // A worker has the other one in hand for a moment.
        before.add(2, &hit(3, 4));
        after.add(2, &hit(7, 8));
        after.add(19, &RuleCount { flows: 1, ..hit(9, 9) });
        let counted = RuleCount { packets: 3, bytes: 180, hit: Some((at(3), at(8))), ..RuleCount::default() };
        assert_eq!((after.get(2), before.get(2)), (counted, counted));
        assert_eq!((after.get(19).flows, after.get(1)), (1, RuleCount::default()));
        assert_eq!(RuleCounts::following(20, None).get(2), RuleCount::default(), "other rules");
    }

    #[test]
    fn sums_know_the_first_and_the_last() {
        let at = |second| Instant::from_secs(second);
        let mut sum = RuleCount::default();
        for hit in [None, Some((at(4), at(5))), None, Some((at(2), at(3)))] {
            sum.add(&RuleCount { flows: 1, packets: 2, bytes: 3, would_deny: 4, hit });
        }
        assert_eq!(
            sum,
            RuleCount { flows: 4, packets: 8, bytes: 12, would_deny: 16, hit: Some((at(2), at(5))) }
        );
    }
}
