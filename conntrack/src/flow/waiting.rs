//! The flows that can be put out, in the order in which they came to their rank: of each endpoint, of each network, and
//! of all.

use super::{Rank, slab::NONE};

/// Ranks whose flows stand in queues: all but the last.
const QUEUED: usize = Rank::COUNT - 1;

/// A queue: its oldest and its newest place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Queue {
    first: u32,
    last: u32,
}

/// The queues of an endpoint, of a network or of all: one for each rank.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Queues([Queue; QUEUED]);

impl Queues {
    pub(super) const EMPTY: Self = Self([Queue { first: NONE, last: NONE }; QUEUED]);
}

/// Every flow that can be put out stands in three queues of its rank.
#[derive(Debug)]
pub(super) struct Waiting {
    places: Vec<Place>,
    free: u32,
    all: Queues,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    flow: u32,
    links: [Link; 3],
}

#[derive(Clone, Copy, Debug)]
struct Link {
    prev: u32,
    next: u32,
}

const OF_ALL: usize = 2;

impl Waiting {
    pub(super) const fn new() -> Self {
        Self { places: Vec::new(), free: NONE, all: Queues::EMPTY }
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
        let first = queues.0.get(rank as usize)?.first;
        (first != NONE).then(|| self.places[first as usize].flow)
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
        let place = Place { flow, links: [Link { prev: NONE, next: NONE }; 3] };
        let at = if self.free == NONE {
            self.places.push(place);
            (self.places.len() - 1) as u32
        } else {
            let at = self.free;
            self.free = self.places[at as usize].links[OF_ALL].next;
            self.places[at as usize] = place;
            at
        };
        for (which, queue) in [endpoint, network, all].into_iter().enumerate() {
            append(&mut self.places, queue, which, at);
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
            unlink(&mut self.places, queue, which, at);
        }
        self.places[at as usize].links[OF_ALL].next = self.free;
        self.free = at;
    }
}

fn append(places: &mut [Place], queue: &mut Queue, which: usize, at: u32) {
    places[at as usize].links[which] = Link { prev: queue.last, next: NONE };
    match queue.last {
        NONE => queue.first = at,
        last => places[last as usize].links[which].next = at,
    }
    queue.last = at;
}

fn unlink(places: &mut [Place], queue: &mut Queue, which: usize, at: u32) {
    let Link { prev, next } = places[at as usize].links[which];
    match prev {
        NONE => queue.first = next,
        prev => places[prev as usize].links[which].next = next,
    }
    match next {
        NONE => queue.last = prev,
        next => places[next as usize].links[which].prev = prev,
    }
}
