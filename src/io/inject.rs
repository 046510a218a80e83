//! Frames that the daemon puts into the path where an endpoint's own come in: how they get to a worker, and what the worker tells of
//! them.

use std::sync::{Arc, mpsc};

use eastgate_dataplane::pipeline::{Outcome, Refusal, batch::Egress};
use eastgate_wire::{AttachmentId, FlowKey, Instant};
use nix::sys::eventfd::EventFd;

use super::worker::Command;

/// A frame of a probe.
#[derive(Debug)]
pub struct Injection {
    /// Where it comes in
    pub attachment: AttachmentId,
    /// From its Ethernet header on
    pub frame: Vec<u8>,
    /// The flow that the probe opens
    pub flow: Option<FlowKey>,
    /// Who is told what became of it
    pub told: mpsc::SyncSender<Injected>,
}

/// What became of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Injected {
    /// When it went into the path
    pub at: Instant,
    /// What the path made of it
    pub outcome: Outcome,
    /// Why it was dropped, where it was
    pub refusal: Option<Refusal>,
    /// Where it, or what the path made of it, has left
    pub ways: Vec<Egress>,
}

/// The way to a worker.
#[derive(Clone, Debug)]
pub struct Injector {
    commands: mpsc::Sender<Command>,
    wake: Arc<EventFd>,
}

impl Injector {
    pub(super) const fn new(commands: mpsc::Sender<Command>, wake: Arc<EventFd>) -> Self {
        Self { commands, wake }
    }

    /// Has a worker take a frame; false when there is none any more.
    #[must_use]
    pub fn inject(&self, injection: Injection) -> bool {
        let is_told = self.commands.send(Command::Inject(Box::new(injection))).is_ok();
        is_told && self.wake.write(1).is_ok()
    }
}
