//! Ctrl-C, `kill` and a closed terminal ask for an orderly end: the flag set here is looked at between steps, so
//! that what was built is taken down by its owners' `Drop` and nothing stays behind.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Makes the polite signals set the flag instead of ending the process.
pub(crate) fn on_signals() -> Result<()> {
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        #[expect(unsafe_code, reason = "installing a handler is unsafe")]
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        unsafe {
            sigaction(signal, &action)?;
        }
    }
    Ok(())
}

/// Whether an end was asked for.
pub(crate) fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// An error once an end was asked for.
pub(crate) fn check() -> Result<()> {
    if requested() {
        bail!("interrupted");
    }
    Ok(())
}

extern "C" fn note(_signal: nix::libc::c_int) {
    REQUESTED.store(true, Ordering::Relaxed);
}
