//! Machines of a shared segment that were seen to speak past the appliance: for some time they are told again and again that each other's
//! addresses are here, which holds against what they tell each other.

use std::{collections::BTreeMap, time::Duration};

use eastgate_wire::{Instant, MacAddr};

/// Pairs of one network that are remembered. Further ones are told when they are seen, as all are.
const MOST: usize = 256;
/// For how long after they were seen last
const KEPT: Duration = Duration::from_secs(600);
/// How often they are told: more often than a neighbour that is in use is asked for (Linux: 15 to 45 s).
const EVERY: Duration = Duration::from_secs(5);

/// Pairs of one network.
#[derive(Debug, Default)]
pub struct Pairs {
    /// When they were seen last; the smaller MAC first
    seen: BTreeMap<[MacAddr; 2], Instant>,
    told: Instant,
    due: bool,
}

impl Pairs {
    /// One was seen to speak to the other.
    pub fn note(&mut self, one: MacAddr, other: MacAddr, now: Instant) {
        let pair = [one.min(other), one.max(other)];
        if self.seen.len() < MOST || self.seen.contains_key(&pair) {
            if self.seen.is_empty() {
                // This time the one that was seen is told at once.
                self.told = now;
            }
            self.seen.insert(pair, now);
        }
    }

    /// Forgets those that were not seen for long; whether some are to be told.
    pub fn look(&mut self, now: Instant) -> bool {
        self.seen.retain(|_, seen| now.since(*seen) < KEPT);
        if !self.seen.is_empty() && now.since(self.told) >= EVERY {
            (self.told, self.due) = (now, true);
        }
        self.due
    }

    /// Those that are to be told now, once.
    pub fn take_due(&mut self) -> Vec<[MacAddr; 2]> {
        if std::mem::take(&mut self.due) { self.seen.keys().copied().collect() } else { Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_told_again_and_again_until_it_was_not_seen_for_long() {
        let at = |seconds: u64| Instant::from_secs(1000 + seconds);
        let [a, b] = [MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2])];
        let mut pairs = Pairs::default();
        assert!(!pairs.look(at(0)) && pairs.take_due().is_empty());
        pairs.note(b, a, at(0));
        pairs.note(a, b, at(1));
        assert!(!pairs.look(at(4)), "who was seen was told then");
        let told = (5..=700).filter(|second| {
            let due = pairs.look(at(*second));
            assert_eq!(pairs.take_due(), if due { vec![[a, b]] } else { Vec::new() });
            due
        });
        assert_eq!(told.collect::<Vec<_>>(), (5..=600).step_by(5).collect::<Vec<_>>());
        for number in 0..2 * MOST {
            let [.., high, low] = number.to_be_bytes();
            pairs.note(a, MacAddr([2, 0, 0, 1, high, low]), at(800));
        }
        assert!(pairs.look(at(805)));
        assert_eq!(pairs.take_due().len(), MOST);
    }
}
