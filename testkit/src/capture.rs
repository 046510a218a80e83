//! What is seen on a device, both ways.

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{error::Error, link::Link, netns::Netns};

/// How many bytes of frames one capture remembers; what comes on top is not recorded.
const BYTES_MAX: usize = 256 << 20;
/// How soon a capture notices that it is over.
const TICK: Duration = Duration::from_millis(20);

/// A running capture. It ends when it is dropped.
#[derive(Debug)]
pub struct Capture {
    seen: Arc<Seen>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Seen {
    frames: Mutex<Vec<(Instant, Vec<u8>)>>,
    more: Condvar,
}

impl Capture {
    /// Begins to record what passes `device` inside `netns`; frames sent after this returns are seen.
    ///
    /// # Errors
    /// When there is no such device or namespace.
    pub fn start(netns: &Netns, device: &str) -> Result<Self, Error> {
        let link = netns.enter(|| Link::open(device, TICK))??;
        let (seen, stop) = (Arc::new(Seen::default()), Arc::new(AtomicBool::new(false)));
        let (to, until) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = thread::spawn(move || record(link, &to, &until));
        Ok(Self { seen, stop, thread: Some(thread) })
    }

    /// What was seen so far and is `wanted`.
    pub fn matching(&self, wanted: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
        self.find(|frame| wanted(frame).then(|| frame.to_vec()))
    }

    /// What was seen so far.
    #[must_use]
    pub fn all(&self) -> Vec<Vec<u8>> {
        self.matching(|_| true)
    }

    /// The frames so far that `wanted` takes something from.
    pub fn find<T>(&self, wanted: impl Fn(&[u8]) -> Option<T>) -> Vec<T> {
        self.frames().iter().filter_map(|(_, frame)| wanted(frame)).collect()
    }

    /// Those of them that were seen after `since`.
    pub fn find_since<T>(&self, since: Instant, wanted: impl Fn(&[u8]) -> Option<T>) -> Vec<T> {
        self.frames().iter().filter(|(at, _)| *at >= since).filter_map(|(_, frame)| wanted(frame)).collect()
    }

    /// Waits for a frame after `since` that `wanted` takes something from, at most `bound`; with the moment it was
    /// seen.
    pub fn wait<T>(
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

fn record(mut link: Link, seen: &Seen, stop: &AtomicBool) {
    let mut bytes = 0;
    while !stop.load(Ordering::SeqCst) {
        match link.receive() {
            Ok(Some(frame)) if bytes + frame.len() <= BYTES_MAX => {
                bytes += frame.len();
                let mut frames = seen.frames.lock().unwrap_or_else(PoisonError::into_inner);
                frames.push((Instant::now(), frame.to_vec()));
                seen.more.notify_all();
            }
            Ok(_) => {}
            // A device that goes down says so, and may come up again.
            Err(_) => thread::sleep(TICK),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        link,
        netns::{self, Namespace},
    };

    #[test]
    fn what_is_sent_is_seen_at_the_other_end_from_the_first_frame_on() {
        if netns::require_root().is_err() {
            eprintln!("skipped: needs root");
            return;
        }
        let namespaces = ["near", "far"].map(|role| Namespace::create("egk", role).unwrap());
        let [near, far] = &namespaces;
        netns::veth((near, "near"), (far, "far"), 1500).unwrap();
        near.ip("link set near up").unwrap();
        far.ip("link set far up").unwrap();
        let capture = Capture::start(far, "far").unwrap();
        let begun = Instant::now();
        let source = link::hardware_address(near, "near").unwrap();
        let sent = [&[0xff; 6][..], &source.0, &[0x88, 0xb5], &[7; 100]].concat();
        link::send_frame(near, "near", &sent).unwrap();
        let found = capture.wait(crate::wait::BOUND, begun, |frame| (frame == sent).then_some(()));
        assert!(found.is_some_and(|(at, ())| at >= begun), "{:?}", capture.all());
        assert_eq!(capture.matching(|frame| frame == sent).len(), 1);
        let error = Capture::start(far, "near").unwrap_err().to_string();
        assert_eq!(error, "device near: there is no such device");
    }
}
