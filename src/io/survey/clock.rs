//! The clock of the wall, and whether somebody keeps it right.

#![allow(unsafe_code, reason = "adjtimex takes a pointer")]

use super::Look;

/// The clock of the wall.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Clock {
    /// Seconds since 1970
    pub unix_s: u64,
    /// Something (NTP, PTP) has set it and keeps it.
    pub synchronised: Look<bool>,
}

impl Clock {
    /// As it is now.
    #[must_use]
    pub fn now() -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self { unix_s: since.as_secs(), synchronised: synchronised() }
    }
}

/// Asks the kernel, which the program that sets the clock tells.
fn synchronised() -> Look<bool> {
    // SAFETY: all-zero is a value of this plain struct, and asks for no change (`modes` 0).
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: `state` is as large as the kernel expects and outlives the call.
    match unsafe { libc::adjtimex(&raw mut state) } {
        -1 => Err(format!("adjtimex: {}", std::io::Error::last_os_error())),
        libc::TIME_ERROR => Ok(false),
        _ => Ok(state.status & libc::STA_UNSYNC == 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_after_this_was_written() {
        let clock = Clock::now();
        assert!(clock.unix_s > 1_700_000_000, "{clock:?}");
        assert!(clock.synchronised.is_ok(), "{clock:?}");
    }
}
