//! The one clock of the daemon.

use std::{sync::LazyLock, time};

use eastgate_fastpath::numbers::DAEMON_CLOCK_AHEAD;
use eastgate_wire::Instant;

/// The same moment by both clocks that eastgate hears of.
struct Start {
    at: time::Instant,
    /// `CLOCK_MONOTONIC` in nanoseconds, which the kernel's programs read
    monotonic: u64,
}

static START: LazyLock<Start> = LazyLock::new(|| {
    let monotonic = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map_or(0, |now| now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64);
    Start { at: time::Instant::now(), monotonic }
});

/// One second is added so that a table that subtracts a short age from a moment right after boot stays above zero.
const FIRST_MICROS: u64 = DAEMON_CLOCK_AHEAD / 1000;

/// Microseconds since the machine started. Monotonic, and the same for the daemon that follows this one.
#[must_use]
pub fn now() -> Instant {
    from_monotonic(monotonic())
}

/// Nanoseconds of `CLOCK_MONOTONIC`, as the kernel's programs note them
#[must_use]
pub fn monotonic() -> u64 {
    START.monotonic + START.at.elapsed().as_nanos() as u64
}

/// A moment by the clock of the wall, in milliseconds since 1970, as that clock is set now.
#[must_use]
pub fn unix_millis(at: Instant) -> u64 {
    let wall = time::SystemTime::now().duration_since(time::UNIX_EPOCH).unwrap_or_default();
    let then = wall.saturating_sub(now().since(at));
    u64::try_from(then.as_millis()).unwrap_or(u64::MAX)
}

/// A moment within the last weeks that the kernel noted in milliseconds of `CLOCK_MONOTONIC`, as far as they fit.
#[must_use]
pub fn from_wrapped_millis(millis: u32) -> Instant {
    let now = monotonic() / 1_000_000;
    // The kernel's clock may be a moment ahead of what was read here: that is no age.
    let age = (now as u32).wrapping_sub(millis).cast_signed().max(0).cast_unsigned();
    from_monotonic(now.saturating_sub(u64::from(age)) * 1_000_000)
}

/// A moment that the kernel noted, in nanoseconds of `CLOCK_MONOTONIC`.
#[must_use]
pub const fn from_monotonic(nanos: u64) -> Instant {
    Instant::from_micros(nanos / 1000 + FIRST_MICROS)
}
