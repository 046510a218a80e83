//! Waiting for a condition, within a bound.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How long something that must happen may take, on a machine that has other things to do. Nobody waits as long but where it
/// never happens.
pub const BOUND: Duration = Duration::from_secs(60);

/// How often a condition is looked at that costs little to look at.
pub const POLL: Duration = Duration::from_millis(5);

/// How often one is looked at for which a program has to be started.
pub const SLOW_POLL: Duration = Duration::from_millis(20);

/// Looks at `holds` until it does, at most `bound`; whether it does.
pub fn until(bound: Duration, holds: impl FnMut() -> bool) -> bool {
    until_every(POLL, bound, holds)
}

/// Looks at `holds` every `poll` until it does, at most `bound`; whether it does. It is looked at once in any case, and
/// for a last time when the bound is over.
pub fn until_every(poll: Duration, bound: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    loop {
        let over = begun.elapsed() >= bound;
        if holds() {
            return true;
        }
        if over {
            return false;
        }
        thread::sleep(poll);
    }
}

/// Waits until `holds`, and gives the time that took.
///
/// # Panics
/// When it does not hold within [`BOUND`].
pub fn wait_for(what: &str, holds: impl FnMut() -> bool) -> Duration {
    wait_within(BOUND, what, holds)
}

/// Waits until `holds`, and gives the time that took.
///
/// # Panics
/// When it does not hold within `bound`.
pub fn wait_within(bound: Duration, what: &str, holds: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    assert!(until(bound, holds), "{what}: not within {} ms", bound.as_millis());
    begun.elapsed()
}

/// Reads something until it `holds`, at most [`BOUND`], and gives what was read last: for comparing with what is
/// expected, so that the difference is told.
pub fn settle<T>(mut read: impl FnMut() -> T, mut holds: impl FnMut(&T) -> bool) -> T {
    let mut last = read();
    if holds(&last) {
        return last;
    }
    until(BOUND, || {
        last = read();
        holds(&last)
    });
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_late_is_seen_and_what_never_does_ends_the_wait() {
        let mut looked = 0;
        assert!(until(BOUND, || {
            looked += 1;
            looked == 3
        }));
        assert_eq!(looked, 3);
        let begun = Instant::now();
        assert!(!until(Duration::from_millis(20), || false));
        assert!(begun.elapsed() >= Duration::from_millis(20));
        assert!(until(Duration::ZERO, || true), "looked at once in any case");
    }

    #[test]
    fn what_was_read_last_is_given() {
        let mut reads = 0;
        let read = || {
            reads += 1;
            reads
        };
        assert_eq!(settle(read, |value| *value == 4), 4);
    }
}
