//! How long frames take to be decided, as a histogram.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Upper bounds of its buckets, in microseconds for each frame; what takes longer is in the last one.
pub const DECISION_BOUNDS: [u64; 9] = [1, 2, 5, 10, 20, 50, 100, 1_000, 10_000];

/// Frames by how long each took: of those that were at hand together, the mean.
#[derive(Debug, Default)]
pub struct DecisionTimes {
    buckets: [AtomicU64; DECISION_BOUNDS.len() + 1],
    micros: AtomicU64,
}

/// What was counted of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DecisionCounts {
    /// Frames that took no longer than each bound; the last number is of all
    pub up_to: [u64; DECISION_BOUNDS.len() + 1],
    /// The time of all together
    pub took: Duration,
}

impl DecisionTimes {
    /// So many frames were decided in this time.
    pub fn count(&self, frames: u64, took: Duration) {
        let micros = took.as_micros() as u64;
        let bucket = DECISION_BOUNDS.iter().position(|bound| micros <= bound.saturating_mul(frames));
        if let Some(count) = self.buckets.get(bucket.unwrap_or(DECISION_BOUNDS.len())) {
            count.fetch_add(frames, Relaxed);
        }
        self.micros.fetch_add(micros, Relaxed);
    }

    /// Adds what was counted here.
    pub fn add_to(&self, counts: &mut DecisionCounts) {
        let mut all = 0;
        for (bucket, up_to) in self.buckets.iter().zip(&mut counts.up_to) {
            all += bucket.load(Relaxed);
            *up_to += all;
        }
        counts.took += Duration::from_micros(self.micros.load(Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_counted_by_what_each_took() {
        let (one, other) = (DecisionTimes::default(), DecisionTimes::default());
        // 64 frames in 64 us are one each; another microsecond is more than that.
        one.count(64, Duration::from_micros(64));
        one.count(64, Duration::from_micros(65));
        other.count(1, Duration::from_micros(10_000));
        other.count(2, Duration::from_secs(7));
        other.count(3, Duration::ZERO);
        let mut counts = DecisionCounts::default();
        [&one, &other].iter().for_each(|times| times.add_to(&mut counts));
        assert_eq!(counts.up_to, [67, 131, 131, 131, 131, 131, 131, 131, 132, 134]);
        assert_eq!(counts.took, Duration::from_micros(129 + 10_000 + 7_000_000));
    }
}
