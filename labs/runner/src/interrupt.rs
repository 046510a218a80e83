//! Ctrl-C and its like, as a flag that is looked at between steps, so that what was begun is cleaned up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
};

use tokio::signal::unix::{SignalKind, signal};

use super::error::LabError;

/// Whether someone asked to stop.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Watches SIGINT, SIGTERM and SIGHUP from now on. SIGPIPE no longer ends the process: a command that goes away
    /// while it is written to must not keep the lab from being cleared up.
    #[must_use]
    pub fn watch() -> Self {
        let interrupt = Self::default();
        let flag = interrupt.clone();
        let (watching, is_watched) = mpsc::channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
            // Without the watch the signals do what they do by default; the record lets `down` clear up.
            let Ok(runtime) = runtime else { return };
            let caught = runtime.block_on(async {
                let (mut int, mut term) =
                    (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
                let (mut hup, _pipe) = (signal(SignalKind::hangup())?, signal(SignalKind::pipe())?);
                let _ = watching.send(());
                tokio::select! { _ = int.recv() => {}, _ = term.recv() => {}, _ = hup.recv() => {} }
                Ok::<(), std::io::Error>(())
            });
            if caught.is_ok() {
                flag.trigger();
            }
        });
        // An error means that the thread gave up: then there is nothing to wait for.
        let _ = is_watched.recv();
        interrupt
    }

    /// Asks to stop.
    pub fn trigger(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// # Errors
    /// [`LabError::Interrupted`] once someone asked to stop.
    pub(super) fn check(&self) -> Result<(), LabError> {
        if self.0.load(Ordering::SeqCst) { Err(LabError::Interrupted) } else { Ok(()) }
    }
}
