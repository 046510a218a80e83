//! Where flow entries live: in chunks that never move, so that growing never copies a flow, and a freed place is
//! used again before a new one.

use std::time::Duration;

use eastgate_wire::{FreeList, Helper, Instant, Link, Links, view::HeaderBits};

use super::{
    FlowId, FlowState, Population, Rank,
    offload::Marks,
    segment::{Direction, Key},
    tcp::Connection,
};

/// No entry.
pub(super) const NONE: u32 = u32::MAX;

const CHUNK_BITS: u32 = 10;
const CHUNK: usize = 1 << CHUNK_BITS;

/// A flow. There may be a million of these: [`tests::an_entry_keeps_its_size`] watches over their size.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: Key,
    pub(super) connection: Connection,
    pub(super) epoch: u32,
    pub(super) egress_rule: u32,
    pub(super) ingress_rule: u32,
    /// Its place in the queues of its rank, or [`NONE`] where that has none
    pub(super) waiting: u32,
    /// Place of the account that it is on
    pub(super) account: u32,
    /// In a slot of the wheel, or among the free places
    link: Link,
    /// How many flows were in this place before, and whether one is (odd)
    pub(super) generation: u32,
    /// `deadline` lies this far behind the last packet
    idle_millis: u32,
    pub(super) counts: [Count; 2],
    pub(super) hints: [u64; 2],
    pub(super) created: Instant,
    /// What it began with
    pub(super) header: HeaderBits,
    deadline: Instant,
    pub(super) slot: u16,
    pub(super) state: FlowState,
    pub(super) marks: Marks,
    pub(super) rank: Rank,
    pub(super) replied: bool,
    /// Which ends keep no state of it: its opener, the other one
    pub(super) stateless: [bool; 2],
    /// Who follows it
    pub(super) helper: Option<Helper>,
}

/// Packets and bytes in one direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Count {
    /// Packets; a GSO packet counts its segments
    pub packets: u64,
    /// Bytes
    pub bytes: u64,
}

impl Entry {
    pub(super) fn new(key: Key, opened_swapped: bool, state: FlowState, now: Instant) -> Self {
        Self {
            key,
            connection: Connection::default(),
            epoch: 0,
            egress_rule: 0,
            ingress_rule: 0,
            waiting: NONE,
            account: 0,
            link: Link::NONE,
            generation: 0,
            idle_millis: 0,
            counts: [Count::default(); 2],
            hints: [0; 2],
            created: now,
            header: HeaderBits::default(),
            deadline: now,
            slot: 0,
            state,
            marks: Marks::new(opened_swapped),
            rank: Rank::Unreplied,
            replied: false,
            stateless: [false; 2],
            helper: None,
        }
    }

    pub(super) const fn is_replied(&self) -> bool {
        self.replied
    }

    /// The limits that it counts in
    pub(super) const fn population(&self) -> Population {
        if self.replied { Population::Replied } else { Population::Unreplied }
    }

    pub(super) const fn deadline(&self) -> Instant {
        self.deadline
    }

    pub(super) fn last_seen(&self) -> Instant {
        self.deadline - Duration::from_millis(u64::from(self.idle_millis))
    }

    #[inline]
    pub(super) fn seen(&mut self, now: Instant, deadline: Instant) {
        self.deadline = deadline;
        let idle_micros = deadline.micros().saturating_sub(now.micros());
        self.idle_millis = u32::try_from(idle_micros / 1000).unwrap_or(u32::MAX);
    }

    /// Moves the deadline without anything having been seen.
    pub(super) fn postpone(&mut self, deadline: Instant) {
        let by_millis = deadline.micros().saturating_sub(self.deadline.micros()) / 1000;
        self.idle_millis = self.idle_millis.saturating_add(u32::try_from(by_millis).unwrap_or(u32::MAX));
        self.deadline = deadline;
    }

    #[inline]
    pub(super) fn count(&mut self, direction: Direction, packets: u32, bytes: u32) {
        let count = &mut self.counts[direction.index()];
        count.packets += u64::from(packets);
        count.bytes += u64::from(bytes);
    }

    /// Which way a packet travels, from which end of the key it comes.
    #[inline]
    pub(super) const fn direction(&self, swapped: bool) -> Direction {
        if swapped == self.marks.opened_swapped() { Direction::Original } else { Direction::Reply }
    }
}

/// Flow entries by number.
#[derive(Debug)]
pub(super) struct Slab {
    chunks: Vec<Vec<Entry>>,
    free: FreeList,
    live: u32,
}

impl Slab {
    pub(super) const fn new() -> Self {
        Self { chunks: Vec::new(), free: FreeList::EMPTY, live: 0 }
    }

    pub(super) const fn len(&self) -> u32 {
        self.live
    }

    /// How many places there are, used and free.
    pub(super) fn places(&self) -> u32 {
        self.chunks.last().map_or(0, |last| ((self.chunks.len() - 1) * CHUNK + last.len()) as u32)
    }

    /// Bytes allocated.
    pub(super) fn memory(&self) -> usize {
        self.chunks.len() * CHUNK * size_of::<Entry>() + self.chunks.capacity() * size_of::<Vec<Entry>>()
    }

    /// Puts an entry in. Limits are in `u32`, so the numbers do not run out before they do.
    pub(super) fn insert(&mut self, mut entry: Entry) -> u32 {
        self.live += 1;
        let mut free = self.free;
        if let Some(index) = free.pop(self) {
            self.free = free;
            let place = self.at_mut(index);
            entry.generation = place.generation.wrapping_add(1);
            *place = entry;
            return index;
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let index = self.places();
        entry.generation = 1;
        if let Some(chunk) = self.chunks.last_mut() {
            chunk.push(entry);
        }
        index
    }

    /// Frees the place of an entry that is in no list any more.
    pub(super) fn remove(&mut self, index: u32) {
        let entry = self.at_mut(index);
        entry.generation = entry.generation.wrapping_add(1);
        let mut free = self.free;
        free.push(self, index);
        self.free = free;
        self.live -= 1;
    }

    /// The entry with a number that came out of the table's own links.
    #[inline]
    pub(super) fn at(&self, index: u32) -> &Entry {
        &self.chunks[(index >> CHUNK_BITS) as usize][index as usize & (CHUNK - 1)]
    }

    #[inline]
    pub(super) fn at_mut(&mut self, index: u32) -> &mut Entry {
        &mut self.chunks[(index >> CHUNK_BITS) as usize][index as usize & (CHUNK - 1)]
    }

    /// The entry in a place that someone outside names, when one is there.
    pub(super) fn get(&self, index: u32) -> Option<&Entry> {
        let entry = self.chunks.get((index >> CHUNK_BITS) as usize)?.get(index as usize & (CHUNK - 1))?;
        (entry.generation & 1 == 1).then_some(entry)
    }

    /// The number of a flow that is still there.
    pub(super) fn index(&self, flow: FlowId) -> Option<u32> {
        self.get(flow.index).filter(|entry| entry.generation == flow.generation).map(|_| flow.index)
    }
}

impl Links for Slab {
    #[inline]
    fn link(&self, at: u32) -> Link {
        self.at(at).link
    }

    #[inline]
    fn link_mut(&mut self, at: u32) -> &mut Link {
        &mut self.at_mut(at).link
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_keeps_its_size() {
        assert!(size_of::<Entry>() <= 208, "{} bytes", size_of::<Entry>());
    }
}
