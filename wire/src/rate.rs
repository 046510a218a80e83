//! A token bucket: how often something may happen. BUM frames of a network and answers the appliance makes
//! itself pass through one (attacks: a storm in one network must not become one in the others).

use crate::Instant;

/// Events a second and how many at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Events a second in the long run
    pub per_second: u32,
    /// Events at once after a pause
    pub burst: u32,
}

/// A token bucket, full at first. It counts in millionths of an event, so that no rate loses a fraction to
/// rounding however often it is asked.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    rate: Rate,
    level: u64,
    filled: Instant,
}

const MICRO: u64 = 1_000_000;

impl TokenBucket {
    /// A full bucket.
    #[must_use]
    pub const fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, level: rate.burst as u64 * MICRO, filled: now }
    }

    /// Takes one token; false when there is none.
    #[inline]
    #[must_use]
    pub fn take(&mut self, now: Instant) -> bool {
        self.take_many(1, now)
    }

    /// Takes `count` tokens, all or none: a GSO packet counts as the frames it will become.
    #[inline]
    #[must_use]
    pub fn take_many(&mut self, count: u32, now: Instant) -> bool {
        self.fill(now);
        let cost = u64::from(count) * MICRO;
        let enough = self.level >= cost;
        if enough {
            self.level -= cost;
        }
        enough
    }

    /// Takes up to `most` tokens, and leaves at least `reserve` of them. How many it took.
    #[must_use]
    pub fn take_some(&mut self, most: u32, reserve: u32, now: Instant) -> u32 {
        self.fill(now);
        let spare = self.level.saturating_sub(u64::from(reserve) * MICRO) / MICRO;
        let taken = most.min(u32::try_from(spare).unwrap_or(u32::MAX));
        self.level -= u64::from(taken) * MICRO;
        taken
    }

    /// When it is full if nothing more is taken; never where nothing flows into it.
    #[must_use]
    pub fn full_at(&self) -> Instant {
        let missing = (u64::from(self.rate.burst) * MICRO).saturating_sub(self.level);
        let micros = match (missing, u64::from(self.rate.per_second)) {
            (0, _) => 0,
            (_, 0) => u64::MAX,
            (missing, per_second) => missing.div_ceil(per_second),
        };
        Instant::from_micros(self.filled.micros().saturating_add(micros))
    }

    /// Takes a new rate over; what is in the bucket stays, up to the new burst.
    pub fn set_rate(&mut self, rate: Rate, now: Instant) {
        self.fill(now);
        self.rate = rate;
        self.level = self.level.min(u64::from(rate.burst) * MICRO);
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.micros().saturating_sub(self.filled.micros());
        let gained = elapsed.saturating_mul(u64::from(self.rate.per_second));
        self.level = self.level.saturating_add(gained).min(u64::from(self.rate.burst) * MICRO);
        self.filled = self.filled.max(now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn burst_then_rate() {
        let mut bucket = TokenBucket::new(Rate { per_second: 10, burst: 3 }, Instant::ZERO);
        assert_eq!((0..5).filter(|_| bucket.take(Instant::ZERO)).count(), 3);
        assert!(!bucket.take(Instant::from_micros(99_999)));
        assert!(bucket.take(Instant::from_micros(100_000)));
        assert!(!bucket.take(Instant::from_micros(100_000)));
        let later = Instant::from_secs(1000);
        assert_eq!((0..9).filter(|_| bucket.take(later)).count(), 3, "a pause fills no more than the burst");
    }

    #[test]
    fn a_storm_of_a_million_frames_is_cut_to_the_rate() {
        let mut bucket = TokenBucket::new(Rate { per_second: 1000, burst: 100 }, Instant::ZERO);
        let passed = (0..1_000_000u64).filter(|us| bucket.take(Instant::from_micros(*us))).count();
        assert_eq!(passed, 100 + 999, "one second of frames, one a microsecond");
    }

    #[test]
    fn zero_rate_and_extreme_times_do_not_overflow() {
        let mut bucket = TokenBucket::new(Rate { per_second: 0, burst: 0 }, Instant::ZERO);
        assert!(!bucket.take(Instant::from_micros(u64::MAX)));
        let mut bucket = TokenBucket::new(Rate { per_second: u32::MAX, burst: u32::MAX }, Instant::ZERO);
        assert!(bucket.take_many(u32::MAX, Instant::from_micros(u64::MAX)));
        assert!(!bucket.take(Instant::ZERO), "a clock that went back gives nothing");
    }

    #[test]
    fn some_are_taken_and_the_reserve_stays() {
        let mut bucket = TokenBucket::new(Rate { per_second: 1, burst: 10 }, Instant::ZERO);
        assert_eq!(bucket.take_some(4, 5, Instant::ZERO), 4);
        assert_eq!(bucket.take_some(4, 5, Instant::ZERO), 1);
        assert_eq!(bucket.take_some(4, 5, Instant::from_micros(999_999)), 0, "a fraction is none");
        assert_eq!((0..9).filter(|_| bucket.take(Instant::from_micros(999_999))).count(), 5);
        assert_eq!(bucket.take_some(4, 5, Instant::from_micros(999_999)), 0, "the reserve itself is used up");
        assert_eq!(bucket.take_some(u32::MAX, 0, Instant::from_secs(1000)), 10);
    }

    #[test]
    fn it_is_full_when_it_says_so() {
        let rate = Rate { per_second: 3, burst: 5 };
        let mut bucket = TokenBucket::new(rate, Instant::from_secs(1));
        assert_eq!(bucket.full_at(), Instant::from_secs(1));
        assert!(bucket.take_many(2, Instant::from_secs(1)));
        assert_eq!(bucket.full_at(), Instant::from_micros(1_666_667));
        let all = |at| bucket.clone().take_many(5, Instant::from_micros(at));
        assert!(!all(1_666_666) && all(1_666_667));
        let mut dry = TokenBucket::new(Rate { per_second: 0, burst: 1 }, Instant::ZERO);
        assert!(dry.take(Instant::ZERO));
        assert_eq!(dry.full_at(), Instant::from_micros(u64::MAX));
    }

    #[test]
    fn a_new_rate_cuts_what_is_there() {
        let mut bucket = TokenBucket::new(Rate { per_second: 1, burst: 100 }, Instant::ZERO);
        bucket.set_rate(Rate { per_second: 1, burst: 2 }, Instant::ZERO);
        assert_eq!((0..5).filter(|_| bucket.take(Instant::ZERO)).count(), 2);
    }

    proptest! {
        /// Over any stretch no more passes than burst + rate x time, and no less than the asked-for minimum.
        #[test]
        fn never_more_than_promised(per_second in 1u32..5000, burst in 1u32..50, gaps in proptest::collection::vec(0u64..5000, 1..300)) {
            let mut bucket = TokenBucket::new(Rate { per_second, burst }, Instant::ZERO);
            let (mut at, mut passed) = (0u64, 0u64);
            for gap in gaps {
                at += gap;
                passed += u64::from(bucket.take(Instant::from_micros(at)));
                prop_assert!(passed * 1_000_000 <= u64::from(burst) * 1_000_000 + at * u64::from(per_second));
            }
        }
    }
}
