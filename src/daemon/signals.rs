//! What the daemon is told by signals.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What it is told from outside of its socket.
pub(super) struct Signals {
    pub(super) terminate: Signal,
    pub(super) interrupt: Signal,
    pub(super) hangup: Signal,
}

impl Signals {
    /// Heard from now on, and kept until somebody asks. Before there is another runtime: all of them take signals from one pipe, and
    /// one that comes while nobody here is listening is lost.
    pub(super) fn hear() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}
