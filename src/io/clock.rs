//! The one clock of the daemon.

use std::{sync::LazyLock, time};

use eastgate_wire::Instant;

static START: LazyLock<time::Instant> = LazyLock::new(time::Instant::now);

/// Microseconds since the process first asked. Monotonic.
#[must_use]
pub fn now() -> Instant {
    // One second is added so that a table that subtracts a short age from the first moment stays above zero.
    Instant::from_micros(START.elapsed().as_micros() as u64 + 1_000_000)
}
