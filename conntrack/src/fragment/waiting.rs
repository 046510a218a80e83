//! Fragments that came before the first of their datagram was decided.
//!
//! What is held is memory that an unknown host fills, so that it is bounded in bytes, of each network and of all, and so is
//! the time. Whoever needs room takes it from the datagram of the same network that has waited longest: a network that
//! floods shortens its own time of waiting, and no other's.

use eastgate_wire::{DropReason, Instant, Location, Offload, Vni};

use super::{DatagramId, FragmentSettings, FragmentTable, PIECES};

/// Bytes of frames of all networks that wait at a time.
const WAITING_BYTES: u32 = 8 << 20;
/// What a frame takes beside its bytes, about.
const OVERHEAD: usize = 64;

/// A frame that waits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Waiting {
    /// Where it came in
    pub from: Location,
    /// Its bytes, as they were looked at
    pub frame: Box<[u8]>,
    /// What is still to be done to it
    pub offload: Offload,
}

/// A frame that has waited in vain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lost {
    /// Its network
    pub vni: Vni,
    /// The frame
    pub frame: Waiting,
}

impl FragmentTable {
    /// Holds an early fragment until the first of its datagram is decided.
    ///
    /// # Errors
    /// [`DropReason::FragmentLimit`] when there is no room for it, [`DropReason::FragmentFirstMissing`] when its datagram
    /// was forgotten.
    pub fn hold(
        &mut self,
        datagram: DatagramId,
        frame: Waiting,
        settings: &FragmentSettings,
    ) -> Result<(), DropReason> {
        let Some(known) = self.datagram(datagram) else { return Err(DropReason::FragmentFirstMissing) };
        let (vni, is_full) = (known.key.vni, known.waiting.len() >= PIECES);
        let size = size_of_frame(&frame);
        let held = if is_full {
            Err(DropReason::FragmentLimit)
        } else {
            self.make_room(datagram, vni, size, settings)
        };
        let Some(known) = self.datagram(datagram) else { return Err(DropReason::FragmentLimit) };
        if let Err(reason) = held {
            // It takes a place for nothing that it holds.
            if !known.has_first && known.waiting.is_empty() {
                self.forget(datagram.index);
            }
            return Err(reason);
        }
        known.waiting.push(frame);
        self.waiting_in_all += size;
        *self.waiting.entry(vni).or_insert(0) += size;
        Ok(())
    }

    /// How many bytes of this network wait.
    #[must_use]
    pub fn waiting(&self, vni: Vni) -> u32 {
        self.waiting.get(&vni).copied().unwrap_or(0)
    }

    /// The next frame that has waited in vain, to be counted (`fragment-first-missing`).
    pub fn pop_lost(&mut self) -> Option<Lost> {
        self.lost.pop_front()
    }

    /// Forgets the datagram of a network whose fragments have waited longest for their first; false when none waits.
    pub(super) fn forget_who_waits_longest(&mut self, vni: Vni) -> bool {
        let Some(index) = self.longest(vni) else { return false };
        self.forget(index);
        true
    }

    fn longest(&self, vni: Vni) -> Option<u32> {
        let first = (vni, Instant::ZERO, DatagramId { generation: 0, index: 0 });
        let (network, _, datagram) = *self.firstless.range(first..).next()?;
        (network == vni).then_some(datagram.index)
    }

    fn make_room(
        &mut self,
        of: DatagramId,
        vni: Vni,
        size: u32,
        settings: &FragmentSettings,
    ) -> Result<(), DropReason> {
        if size > settings.waiting_bytes {
            return Err(DropReason::FragmentLimit);
        }
        while self.waiting(vni) + size > settings.waiting_bytes || self.waiting_in_all + size > WAITING_BYTES
        {
            match self.longest(vni) {
                Some(index) if index != of.index => self.forget(index),
                _ => return Err(DropReason::FragmentLimit),
            }
        }
        Ok(())
    }

    /// The frames wait no more.
    pub(super) fn release(&mut self, vni: Vni, frames: &[Waiting]) {
        let size: u32 = frames.iter().map(size_of_frame).sum();
        self.waiting_in_all -= size;
        if let Some(waiting) = self.waiting.get_mut(&vni) {
            *waiting -= size;
            if *waiting == 0 {
                self.waiting.remove(&vni);
            }
        }
    }

    pub(super) fn lose(&mut self, vni: Vni, frames: Vec<Waiting>) {
        self.release(vni, &frames);
        self.lost.extend(frames.into_iter().map(|frame| Lost { vni, frame }));
    }
}

fn size_of_frame(frame: &Waiting) -> u32 {
    (frame.frame.len() + OVERHEAD) as u32
}
