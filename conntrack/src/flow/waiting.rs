//! The flows that can be put out, in the order in which they came to their rank: of each endpoint, of each network, and
//! of all.

use eastgate_wire::{FreeList, IndexList, Link, Links};

use super::{Rank, slab::NONE};

/// Ranks whose flows stand in queues: all but the last.
const QUEUED: usize = Rank::COUNT - 1;

/// The queues of an endpoint, of a network or of all: one for each rank.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Queues([IndexList; QUEUED]);

impl Queues {
    pub(super) const EMPTY: Self = Self([IndexList::EMPTY; QUEUED]);
}

/// Every flow that can be put out stands in three queues of its rank.
#[derive(Debug)]
pub(super) struct Waiting {
    places: Vec<Place>,
    free: FreeList,
    all: Queues,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    flow: u32,
    links: [Link; 3],
}

/// The places, with the links of the first, second or third queue that each is in.
struct Of<'p>(&'p mut [Place], usize);

impl Links for Of<'_> {
    fn link(&self, at: u32) -> Link {
        self.0[at as usize].links[self.1]
    }

    fn link_mut(&mut self, at: u32) -> &mut Link {
        &mut self.0[at as usize].links[self.1]
    }
}

const OF_ALL: usize = 2;

impl Waiting {
    pub(super) const fn new() -> Self {
        Self { places: Vec::new(), free: FreeList::EMPTY, all: Queues::EMPTY }
    }

    /// Bytes allocated.
    pub(super) const fn memory(&self) -> usize {
        self.places.capacity() * size_of::<Place>()
    }

    /// The flow that has been of a rank for longest, of all.
    pub(super) fn oldest(&self, rank: Rank) -> Option<u32> {
        self.oldest_of(&self.all, rank)
    }

    /// The flow that has been of a rank for longest in these queues.
    pub(super) fn oldest_of(&self, queues: &Queues, rank: Rank) -> Option<u32> {
        let first = queues.0.get(rank as usize)?.first()?;
        Some(self.places[first as usize].flow)
    }

    /// Lines a flow up behind the others of its rank: with its endpoint's, its network's, and all. Its place; none for a
    /// rank that nobody is put out of.
    pub(super) fn join(&mut self, [endpoint, network]: [&mut Queues; 2], rank: Rank, flow: u32) -> u32 {
        let at = rank as usize;
        let (Some(endpoint), Some(network), Some(all)) =
            (endpoint.0.get_mut(at), network.0.get_mut(at), self.all.0.get_mut(at))
        else {
            return NONE;
        };
        let place = Place { flow, links: [Link::NONE; 3] };
        let at = match self.free.pop(&Of(&mut self.places, OF_ALL)) {
            Some(at) => {
                self.places[at as usize] = place;
                at
            }
            None => {
                self.places.push(place);
                (self.places.len() - 1) as u32
            }
        };
        for (which, queue) in [endpoint, network, all].into_iter().enumerate() {
            queue.push_back(&mut Of(&mut self.places, which), at);
        }
        at
    }

    /// Gives a place up.
    pub(super) fn leave(&mut self, [endpoint, network]: [&mut Queues; 2], rank: Rank, at: u32) {
        let of = rank as usize;
        let (Some(endpoint), Some(network), Some(all)) =
            (endpoint.0.get_mut(of), network.0.get_mut(of), self.all.0.get_mut(of))
        else {
            return;
        };
        for (which, queue) in [endpoint, network, all].into_iter().enumerate() {
            queue.remove(&mut Of(&mut self.places, which), at);
        }
        self.free.push(&mut Of(&mut self.places, OF_ALL), at);
    }
}
