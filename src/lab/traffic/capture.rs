//! What is seen on a machine's device, both ways.

use std::{
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use pnet::datalink::{self, Channel, Config, DataLinkReceiver, DataLinkSender};

use crate::lab::{error::LabError, netns, plan::MACHINE_DEVICE};

/// The largest frame a veth hands over: a superframe of 64 KiB with its Ethernet header.
const FRAME_MAX: usize = 65_536 + 128;
/// How much one capture remembers; a check sends a few hundred frames.
const FRAMES_MAX: usize = 16_384;
/// How soon a capture notices that it is over.
const TICK: Duration = Duration::from_millis(20);

/// A running capture. It ends when it is dropped.
#[derive(Debug)]
pub(in crate::lab) struct Capture {
    seen: Arc<Seen>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<io::Result<io::Result<()>>>>,
}

#[derive(Debug, Default)]
struct Seen {
    frames: Mutex<Vec<(Instant, Vec<u8>)>>,
    more: Condvar,
}

impl Capture {
    /// Begins to record inside `namespace`; frames sent after this returns are seen.
    pub(in crate::lab) fn start(namespace: &str) -> Result<Self, LabError> {
        let (seen, stop) = (Arc::new(Seen::default()), Arc::new(AtomicBool::new(false)));
        let (opened, is_open) = mpsc::channel();
        let (to, until) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = netns::spawn(namespace, move || match open() {
            Ok((_, receiver)) => {
                let _ = opened.send(Ok(()));
                record(receiver, &to, &until)
            }
            Err(error) => {
                let _ = opened.send(Err(error));
                Ok(())
            }
        })?;
        let failed = |error| LabError::Namespace { namespace: namespace.into(), error };
        is_open.recv().map_err(io::Error::other).and_then(|result| result).map_err(failed)?;
        Ok(Self { seen, stop, thread: Some(thread) })
    }

    /// The frames so far that `wanted` takes something from.
    pub(in crate::lab) fn find<T>(&self, wanted: impl Fn(&[u8]) -> Option<T>) -> Vec<T> {
        self.frames().iter().filter_map(|(_, frame)| wanted(frame)).collect()
    }

    /// Those of them that were seen after `since`.
    pub(in crate::lab) fn find_since<T>(
        &self,
        since: Instant,
        wanted: impl Fn(&[u8]) -> Option<T>,
    ) -> Vec<T> {
        self.frames().iter().filter(|(at, _)| *at >= since).filter_map(|(_, frame)| wanted(frame)).collect()
    }

    /// Waits for a frame after `since` that `wanted` takes something from, at most `bound`; with the moment it was
    /// seen.
    pub(in crate::lab) fn wait<T>(
        &self,
        bound: Duration,
        since: Instant,
        wanted: impl Fn(&[u8]) -> Option<T>,
    ) -> Option<(Instant, T)> {
        let deadline = Instant::now() + bound;
        let mut frames = self.frames();
        let mut looked_at = 0;
        loop {
            let new = frames.get(looked_at..).unwrap_or_default();
            let mut new = new.iter().filter(|(at, _)| *at >= since);
            if let Some(found) = new.find_map(|(at, frame)| Some((*at, wanted(frame)?))) {
                return Some(found);
            }
            looked_at = frames.len();
            let left = deadline.checked_duration_since(Instant::now())?;
            frames = self.seen.more.wait_timeout(frames, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn frames(&self) -> MutexGuard<'_, Vec<(Instant, Vec<u8>)>> {
        self.seen.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A packet socket on the machine's device, in the namespace of the calling thread.
pub(super) fn open() -> io::Result<(Box<dyn DataLinkSender>, Box<dyn DataLinkReceiver>)> {
    let mut devices = datalink::interfaces().into_iter();
    let device = devices.find(|device| device.name == MACHINE_DEVICE).ok_or(io::ErrorKind::NotFound)?;
    let config = Config { read_timeout: Some(TICK), read_buffer_size: FRAME_MAX, ..Config::default() };
    match datalink::channel(&device, config)? {
        Channel::Ethernet(sender, receiver) => Ok((sender, receiver)),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

fn record(mut receiver: Box<dyn DataLinkReceiver>, seen: &Seen, stop: &AtomicBool) -> io::Result<()> {
    while !stop.load(Ordering::SeqCst) {
        let frame = match receiver.next() {
            Ok(frame) => frame.to_vec(),
            Err(error) if matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::Interrupted) => {
                continue;
            }
            Err(error) => return Err(error),
        };
        let mut frames = seen.frames.lock().unwrap_or_else(PoisonError::into_inner);
        if frames.len() < FRAMES_MAX {
            frames.push((Instant::now(), frame));
            seen.more.notify_all();
        }
    }
    Ok(())
}
