//! How often flows may begin, in two words of memory that others change too: the programs of the fast path by the same steps
//! (`begin_at` in `fastpath/bpf/account.h`). It is the virtual scheduling of ITU-T I.371 annex A, which is a token bucket whose level is a
//! moment: each flow moves it on by the time between two, and it may be ahead of now by as many of these as may begin at once.
//!
//! The first word is that moment, in nanoseconds of [`Instant`]; the second one has in its lower half the time between two flows, in
//! nanoseconds, and in its upper half how many may begin at once; 0 is no limit. Times between flows are rounded up: never do more
//! begin than is allowed.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use eastgate_wire::Instant;

use super::word::Word;

/// What the programs add to their clock, in nanoseconds, so that it says what [`Instant`] does.
const SECOND: u64 = 1_000_000_000;

/// Both words
#[derive(Debug, Default)]
pub(super) struct Pace([AtomicU64; 2]);

/// The words of one pace, wherever they are
#[derive(Debug)]
pub(super) struct Words<'w, W = AtomicU64>(pub(super) [&'w W; 2]);

impl Pace {
    pub(super) fn words(&self) -> Words<'_> {
        Words(self.0.each_ref())
    }
}

/// The second word, for so many flows a second, and at once.
fn rate(per_second: Option<u32>) -> u64 {
    let Some(per_second) = per_second.map(u64::from).filter(|per_second| *per_second > 0) else { return 0 };
    per_second << 32 | SECOND.div_ceil(per_second)
}

impl<W: Word> Words<'_, W> {
    /// One flow begins, if it may.
    pub(super) fn begin(&self, now: Instant) -> bool {
        let rate = self.0[1].load();
        let (between, at_once) = (u64::from(rate as u32), rate >> 32);
        let now = now.micros().saturating_mul(1000);
        let most = between.saturating_mul(at_once);
        rate == 0
            || self.0[0].update(|next| {
                let then = next.max(now).saturating_add(between);
                (then - now <= most).then_some(then)
            })
    }

    /// One has not begun after all.
    pub(super) fn give_back(&self) {
        let between = u64::from(self.0[1].load() as u32);
        self.0[0].update(|next| Some(next.saturating_sub(between)));
    }
}

impl Words<'_> {
    pub(super) fn set(&self, per_second: Option<u32>) {
        self.0[1].store(rate(per_second), SeqCst);
    }

    /// Whoever has them from now on has no limit and owes nothing.
    pub(super) fn forget(&self) {
        self.0.iter().for_each(|word| word.store(0, SeqCst));
    }

    /// Goes on elsewhere.
    pub(super) fn move_to(&self, others: &Words<'_>) {
        self.0.iter().zip(&others.0).for_each(|(from, to)| to.store(from.load(SeqCst), SeqCst));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(pace: &Pace, times: impl Iterator<Item = u64>) -> usize {
        times.filter(|micros| pace.words().begin(Instant::from_micros(*micros))).count()
    }

    #[test]
    fn so_many_at_once_and_then_one_after_the_other() {
        let pace = Pace::default();
        assert_eq!(begun(&pace, (0..99).map(|_| 5)), 99, "no limit");
        pace.words().set(Some(10));
        assert_eq!(begun(&pace, (0..99).map(|_| 1_000_000)), 10);
        assert_eq!(begun(&pace, (0..99).map(|_| 1_099_999)), 0);
        assert_eq!(begun(&pace, (0..99).map(|_| 1_100_000)), 1);
        pace.words().give_back();
        assert_eq!(begun(&pace, (0..99).map(|_| 1_100_000)), 1);
        assert_eq!(begun(&pace, (0..3_000_000).map(|micros| 2_000_000 + micros)), 9 + 29, "as the rate is");
        pace.words().set(None);
        assert_eq!(begun(&pace, (0..99).map(|_| 0)), 99);
    }

    #[test]
    fn no_rate_is_rounded_up() {
        for per_second in [1, 3, 7, 999_983, 1_000_000] {
            let pace = Pace::default();
            pace.words().set(Some(per_second));
            let seconds = |n: u64| Instant::from_micros(n * 1_000_000);
            let all = (0..3).map(|n| (0..=per_second).filter(|_| pace.words().begin(seconds(n))).count());
            assert!(all.sum::<usize>() <= 3 * per_second as usize, "{per_second}");
        }
    }

    /// A flow that was to begin while there was no limit is given back when there is one.
    #[test]
    fn nothing_is_given_back_where_nothing_was_taken() {
        use loom::{sync::atomic::AtomicU64 as Shared, thread};
        use std::sync::Arc;

        /// `give_back_at` of `account.h`, step by step
        fn kernel_gives_back([next, pace]: [&Shared; 2]) {
            let between = u64::from(pace.load(SeqCst) as u32);
            for _ in 0..4 {
                let found = next.load(SeqCst);
                if found < between || next.compare_exchange(found, found - between, SeqCst, SeqCst).is_ok() {
                    return;
                }
            }
        }

        loom::model(|| {
            let words = Arc::new([Shared::new(0), Shared::new(0)]);
            let now = Instant::from_micros(1_000_000);
            assert!(Words(words.each_ref()).begin(now), "no limit");
            let other = words.clone();
            let thread = thread::spawn(move || kernel_gives_back(other.each_ref()));
            words[1].store(rate(Some(2)), SeqCst);
            Words(words.each_ref()).give_back();
            thread.join().unwrap();
            assert_eq!((0..5).filter(|_| Words(words.each_ref()).begin(now)).count(), 2);
        });
    }

    /// Every order in which the steps of daemon and programs can come
    #[test]
    fn two_who_begin_at_once_get_no_more_than_one() {
        use loom::{sync::atomic::AtomicU64 as Shared, thread};
        use std::sync::Arc;

        loom::model(|| {
            let words = Arc::new([Shared::new(0), Shared::new(rate(Some(2)))]);
            let begin = |words: &[Shared; 2]| Words(words.each_ref()).begin(Instant::from_micros(1_000_000));
            let other = words.clone();
            let thread = thread::spawn(move || u8::from(begin(&other)) + u8::from(begin(&other)));
            let here = u8::from(begin(&words));
            assert_eq!(here + thread.join().unwrap(), 2);
        });
    }
}
