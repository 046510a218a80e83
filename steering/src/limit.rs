//! How often a port may have the appliance speak: a token bucket, exact to the microsecond.

use eastgate_wire::{DropReason, Instant};

/// A rate with room for bursts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Answers a second, in the long run
    pub per_second: u32,
    /// Answers at once, after silence
    pub burst: u32,
}

impl Default for Rate {
    /// 100 a second and 200 at once: a host that comes up with a full subnet to resolve is not slowed down.
    fn default() -> Self {
        Self { per_second: 100, burst: 200 }
    }
}

/// One port's tokens. In any span of `t` seconds at most `burst + per_second * t` are handed out.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    rate: Rate,
    /// Millionths of a token: one second of a rate of one is a million of them, so nothing is rounded.
    micro_tokens: u64,
    filled: Instant,
}

const TOKEN: u64 = 1_000_000;

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub const fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, micro_tokens: rate.burst as u64 * TOKEN, filled: now }
    }

    /// Takes a token.
    ///
    /// # Errors
    /// [`DropReason::NeighborLimit`] when there is none.
    pub fn take(&mut self, now: Instant) -> Result<(), DropReason> {
        let passed = now.micros().saturating_sub(self.filled.micros());
        let gained = passed.saturating_mul(u64::from(self.rate.per_second));
        self.filled = self.filled.max(now);
        self.micro_tokens = self.micro_tokens.saturating_add(gained).min(u64::from(self.rate.burst) * TOKEN);
        self.micro_tokens = self.micro_tokens.checked_sub(TOKEN).ok_or(DropReason::NeighborLimit)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_burst_then_the_rate() {
        let mut bucket = Bucket::new(Rate { per_second: 10, burst: 3 }, Instant::ZERO);
        let taken = |bucket: &mut Bucket, micros| bucket.take(Instant::from_micros(micros)).is_ok();
        assert!((0..3).all(|_| taken(&mut bucket, 0)));
        assert_eq!(bucket.take(Instant::from_micros(99_999)), Err(DropReason::NeighborLimit));
        assert!(taken(&mut bucket, 100_000));
        assert!(!taken(&mut bucket, 100_000));
        assert!(
            !taken(&mut bucket, 50_000) && !taken(&mut bucket, 150_000),
            "a clock that goes back gives nothing"
        );
        assert!(taken(&mut bucket, 200_000));
    }

    #[test]
    fn nothing_at_all_is_a_rate_too() {
        let mut bucket = Bucket::new(Rate { per_second: 0, burst: 0 }, Instant::ZERO);
        assert!(bucket.take(Instant::from_secs(1_000_000)).is_err());
    }

    proptest! {
        #[test]
        fn never_more_than_the_bound(
            per_second in 0u32..1000,
            burst in 0u32..50,
            gaps in proptest::collection::vec(0u64..50_000, 1..300),
        ) {
            let mut bucket = Bucket::new(Rate { per_second, burst }, Instant::ZERO);
            let (mut now, mut taken) = (0u64, 0u64);
            for gap in gaps {
                now += gap;
                taken += u64::from(bucket.take(Instant::from_micros(now)).is_ok());
                prop_assert!(taken * TOKEN <= u64::from(burst) * TOKEN + now * u64::from(per_second));
            }
        }
    }
}
