//! The flows that were not answered yet, in the order they came: of each network, and of all.

use super::slab::NONE;

/// A queue: its oldest and its newest place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Queue {
    first: u32,
    last: u32,
}

impl Queue {
    pub(super) const EMPTY: Self = Self { first: NONE, last: NONE };
}

/// Every unanswered flow stands in two queues, that of its network and that of all.
#[derive(Debug)]
pub(super) struct Waiting {
    places: Vec<Place>,
    free: u32,
    all: Queue,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    flow: u32,
    links: [Link; 2],
}

#[derive(Clone, Copy, Debug)]
struct Link {
    prev: u32,
    next: u32,
}

const OF_NETWORK: usize = 0;
const OF_ALL: usize = 1;

impl Waiting {
    pub(super) const fn new() -> Self {
        Self { places: Vec::new(), free: NONE, all: Queue::EMPTY }
    }

    /// Bytes allocated.
    pub(super) const fn memory(&self) -> usize {
        self.places.capacity() * size_of::<Place>()
    }

    /// The flow that has waited longest, of all.
    pub(super) fn oldest(&self) -> Option<u32> {
        self.oldest_of(&self.all)
    }

    /// The flow that has waited longest in a network's queue.
    pub(super) fn oldest_of(&self, queue: &Queue) -> Option<u32> {
        (queue.first != NONE).then(|| self.places[queue.first as usize].flow)
    }

    /// Lines a flow up behind the others; its place.
    pub(super) fn join(&mut self, network: &mut Queue, flow: u32) -> u32 {
        let place = Place { flow, links: [Link { prev: NONE, next: NONE }; 2] };
        let at = if self.free == NONE {
            self.places.push(place);
            (self.places.len() - 1) as u32
        } else {
            let at = self.free;
            self.free = self.places[at as usize].links[OF_ALL].next;
            self.places[at as usize] = place;
            at
        };
        append(&mut self.places, network, OF_NETWORK, at);
        append(&mut self.places, &mut self.all, OF_ALL, at);
        at
    }

    /// Gives a place up.
    pub(super) fn leave(&mut self, network: &mut Queue, at: u32) {
        unlink(&mut self.places, network, OF_NETWORK, at);
        unlink(&mut self.places, &mut self.all, OF_ALL, at);
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
