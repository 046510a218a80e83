//! Which flows end next, without ever looking at all of them.
//!
//! A ring of slots, each a quarter of a second wide. A flow hangs in the slot of its deadline, or in the furthest
//! one when the deadline is beyond the ring. A packet that moves a deadline further touches nothing here: when
//! its slot comes up, the flow is hung again where it belongs by then. So a busy flow costs a few instructions
//! every quarter of an hour, and a packet none.

use std::time::Duration;

use eastgate_wire::{IndexList, Instant};

use super::slab::Slab;

const SLOTS: u64 = 4096;
const TICK_MICROS: u64 = 250_000;

/// How finely deadlines are kept.
pub(super) const TICK: Duration = Duration::from_micros(TICK_MICROS);

#[derive(Debug)]
pub(super) struct Wheel {
    slots: Box<[IndexList]>,
    occupied: [u64; (SLOTS / 64) as usize],
    /// Every tick before this one has been dealt with; hung ticks are in `cursor..cursor + SLOTS`.
    cursor: u64,
    hung: u32,
}

impl Wheel {
    pub(super) fn new() -> Self {
        let slots = vec![IndexList::EMPTY; SLOTS as usize].into_boxed_slice();
        Self { slots, occupied: [0; (SLOTS / 64) as usize], cursor: 0, hung: 0 }
    }

    /// Bytes allocated.
    pub(super) const fn memory(&self) -> usize {
        self.slots.len() * size_of::<IndexList>()
    }

    /// Hangs an entry, which is in no slot, where its deadline says.
    pub(super) fn hang(&mut self, slab: &mut Slab, index: u32, now: Instant) {
        if self.hung == 0 {
            self.cursor = self.cursor.max(now.micros() / TICK_MICROS);
        }
        let deadline = slab.at(index).deadline();
        let tick = deadline.micros().div_ceil(TICK_MICROS).clamp(self.cursor, self.cursor + SLOTS - 1);
        let slot = (tick % SLOTS) as usize;
        slab.at_mut(index).slot = slot as u16;
        self.slots[slot].push_front(slab, index);
        self.occupied[slot / 64] |= 1 << (slot % 64);
        self.hung += 1;
    }

    /// Takes an entry out of its slot.
    pub(super) fn unhang(&mut self, slab: &mut Slab, index: u32) {
        let slot = usize::from(slab.at(index).slot);
        self.slots[slot].remove(slab, index);
        if self.slots[slot].is_empty() {
            self.occupied[slot / 64] &= !(1 << (slot % 64));
        }
        self.hung -= 1;
    }

    /// An entry whose slot has been punted.
    pub(super) fn due(&mut self, now: Instant) -> Option<u32> {
        let today = now.micros() / TICK_MICROS;
        match self.next_tick() {
            Some(tick) if tick <= today => {
                self.cursor = tick;
                self.slots[(tick % SLOTS) as usize].first()
            }
            _ => {
                self.cursor = self.cursor.max(today);
                None
            }
        }
    }

    /// When the next slot with something in it is punted.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.next_tick().map(|tick| Instant::from_micros(tick.saturating_mul(TICK_MICROS)))
    }

    fn next_tick(&self) -> Option<u64> {
        if self.hung == 0 {
            return None;
        }
        let start = (self.cursor % SLOTS) as usize;
        // The word the cursor is in is looked at twice: first what lies ahead of it, last what lies behind.
        let words = self.occupied.len();
        (0..=words).find_map(|step| {
            let at = (start / 64 + step) % words;
            let ahead = u64::MAX << (start % 64);
            let mask = if step == 0 {
                ahead
            } else if step == words {
                !ahead
            } else {
                u64::MAX
            };
            let bits = self.occupied[at] & mask;
            (bits != 0).then(|| {
                let slot = at as u64 * 64 + u64::from(bits.trailing_zeros());
                self.cursor + (slot + SLOTS - start as u64) % SLOTS
            })
        })
    }
}
