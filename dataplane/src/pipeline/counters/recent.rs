//! The different frames that a row of drops was made of, each with its count: what `show drops --address` looks in.
//!
//! Bounded twice: so many for a row, and so many for all rows of a worker. Where there is no room, the one that was not
//! seen for a while makes room within its own row, so that no row takes another's.

use std::collections::HashMap;

use ahash::RandomState;
use eastgate_wire::Instant;

use super::subject::Subject;

/// Different frames that one row remembers.
pub(super) const OF_A_ROW: usize = 1024;
/// Different frames that all rows of a worker remember together. A row always has room for one.
pub(super) const OF_A_WORKER: usize = 65_536;

/// How often such a frame was dropped, and when last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    /// What it was
    pub subject: Subject,
    /// How many since it is remembered
    pub frames: u64,
    /// Their bytes
    pub bytes: u64,
    /// When the last one was
    pub last_at: Instant,
}

#[derive(Debug, Default)]
pub(super) struct Recent {
    places: HashMap<Subject, u32, RandomState>,
    seen: Vec<(Seen, bool)>,
    hand: usize,
}

impl Recent {
    /// Counts a frame. `room` is how many more all rows together may remember; how many more it remembers, or nothing when the
    /// frame is no news.
    pub(super) fn add(&mut self, new: &Seen, room: usize) -> Option<usize> {
        if let Some((seen, again)) =
            self.places.get(&new.subject).and_then(|at| self.seen.get_mut(*at as usize))
        {
            seen.frames += new.frames;
            seen.bytes += new.bytes;
            seen.last_at = seen.last_at.max(new.last_at);
            *again = true;
            return None;
        }
        if self.seen.is_empty() || self.seen.len() < OF_A_ROW && room > 0 {
            self.places.insert(new.subject, self.seen.len() as u32);
            self.seen.push((*new, false));
            return Some(1);
        }
        self.replace(new);
        Some(0)
    }

    /// The first one that was not seen again since the hand last passed it gives its place to `new`.
    fn replace(&mut self, new: &Seen) {
        // Twice around at most: the first time takes the marks off.
        for _ in 0..=2 * self.seen.len() {
            let at = self.hand % self.seen.len();
            self.hand = at + 1;
            let Some((seen, again)) = self.seen.get_mut(at) else { return };
            if std::mem::take(again) {
                continue;
            }
            self.places.remove(&seen.subject);
            *seen = *new;
            self.places.insert(new.subject, at as u32);
            return;
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Seen> {
        self.seen.iter().map(|(seen, _)| seen)
    }
}

#[cfg(test)]
mod tests {
    use eastgate_wire::MacAddr;

    use super::*;

    fn frame(n: u32) -> Seen {
        let [a, b, c, d] = n.to_be_bytes();
        let macs = Some([MacAddr([2, 0, a, b, c, d]), MacAddr::ZERO]);
        let subject = Subject { macs, ..Subject::default() };
        Seen { subject, frames: 1, bytes: 60, last_at: Instant::from_secs(n.into()) }
    }

    #[test]
    fn a_row_is_bounded_and_keeps_what_comes_again() {
        let mut recent = Recent::default();
        let mut new = 0;
        for n in 0..10 * OF_A_ROW as u32 {
            new += recent.add(&frame(n), usize::MAX).unwrap_or(0);
            recent.add(&frame(0), usize::MAX);
        }
        assert_eq!((new, recent.iter().count()), (OF_A_ROW, OF_A_ROW));
        let often = recent.iter().find(|seen| seen.subject == frame(0).subject).unwrap();
        assert_eq!(often.frames, 10 * OF_A_ROW as u64 + 1);
        assert_eq!(recent.places.len(), OF_A_ROW);
    }

    #[test]
    fn without_room_a_row_remembers_one() {
        let mut recent = Recent::default();
        assert_eq!((1..100).map(|n| recent.add(&frame(n), 0).unwrap_or(0)).sum::<usize>(), 1);
        assert_eq!(recent.iter().map(|seen| seen.subject).collect::<Vec<_>>(), [frame(99).subject]);
    }
}
