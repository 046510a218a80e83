//! Lists through places that are known by number: the links are in the places, so that an entry leaves its list without a
//! search, and nothing is allocated.
//!
//! A list belongs to one store of places ([`Links`]); a place is in at most one list of a store at a time, or on its
//! [`FreeList`]. [`Places`] is a store of its own, for those that need no links of theirs.

/// The number of no place.
pub const NONE: u32 = u32::MAX;

/// What a place has of the list that it is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    prev: u32,
    next: u32,
}

impl Link {
    /// Of a place that is in no list.
    pub const NONE: Self = Self { prev: NONE, next: NONE };
}

/// Where the links of places are. Asked only for places that are in one of its lists, or are being put into one.
pub trait Links {
    /// Those of a place
    fn link(&self, at: u32) -> Link;
    /// Those of a place, to be changed
    fn link_mut(&mut self, at: u32) -> &mut Link;
}

/// A list: its first and its last place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IndexList {
    first: u32,
    last: u32,
}

impl IndexList {
    /// Nothing in it.
    pub const EMPTY: Self = Self { first: NONE, last: NONE };

    /// Is nothing in it?
    #[must_use]
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.first == NONE
    }

    /// The first place.
    #[must_use]
    #[inline]
    pub const fn first(&self) -> Option<u32> {
        if self.first == NONE { None } else { Some(self.first) }
    }

    /// The last place.
    #[must_use]
    #[inline]
    pub const fn last(&self) -> Option<u32> {
        if self.last == NONE { None } else { Some(self.last) }
    }

    /// Puts a place, which is in no list of this store, before all others.
    #[inline]
    pub fn push_front(&mut self, store: &mut impl Links, at: u32) {
        *store.link_mut(at) = Link { prev: NONE, next: self.first };
        match self.first {
            NONE => self.last = at,
            first => store.link_mut(first).prev = at,
        }
        self.first = at;
    }

    /// Puts a place, which is in no list of this store, behind all others.
    #[inline]
    pub fn push_back(&mut self, store: &mut impl Links, at: u32) {
        *store.link_mut(at) = Link { prev: self.last, next: NONE };
        match self.last {
            NONE => self.first = at,
            last => store.link_mut(last).next = at,
        }
        self.last = at;
    }

    /// Takes a place out, which is in this list.
    #[inline]
    pub fn remove(&mut self, store: &mut impl Links, at: u32) {
        let Link { prev, next } = store.link(at);
        match prev {
            NONE => self.first = next,
            prev => store.link_mut(prev).next = next,
        }
        match next {
            NONE => self.last = prev,
            next => store.link_mut(next).prev = prev,
        }
    }
}

/// The places of a store that nothing is in, the one given up last first. It touches no place but the one that comes or goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FreeList {
    first: u32,
}

impl FreeList {
    /// No place is free.
    pub const EMPTY: Self = Self { first: NONE };

    /// Gives a place up, which is in no list.
    #[inline]
    pub fn push(&mut self, store: &mut impl Links, at: u32) {
        store.link_mut(at).next = self.first;
        self.first = at;
    }

    /// A place to be used again.
    #[inline]
    pub fn pop(&mut self, store: &impl Links) -> Option<u32> {
        if self.first == NONE {
            return None;
        }
        let at = self.first;
        self.first = store.link(at).next;
        Some(at)
    }
}

/// Entries by numbers that stay theirs, with the links of one list.
#[derive(Debug)]
pub struct Places<T> {
    places: Vec<(Link, Option<T>)>,
    free: FreeList,
}

impl<T> Default for Places<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Places<T> {
    /// No places.
    #[must_use]
    pub const fn new() -> Self {
        Self { places: Vec::new(), free: FreeList::EMPTY }
    }

    /// Puts an entry in; its number. A place that was given up is used before there is a new one.
    pub fn insert(&mut self, entry: T) -> u32 {
        let mut free = self.free;
        let found = free.pop(self);
        self.free = free;
        match found.and_then(|at| Some((at, self.places.get_mut(at as usize)?))) {
            Some((at, place)) => {
                *place = (Link::NONE, Some(entry));
                at
            }
            None => {
                self.places.push((Link::NONE, Some(entry)));
                (self.places.len() - 1) as u32
            }
        }
    }

    /// Takes an entry, which is in no list any more, out of its place.
    pub fn remove(&mut self, at: u32) -> Option<T> {
        let entry = self.places.get_mut(at as usize)?.1.take()?;
        let mut free = self.free;
        free.push(self, at);
        self.free = free;
        Some(entry)
    }

    /// The entry with this number, if there is one.
    #[must_use]
    #[inline]
    pub fn get(&self, at: u32) -> Option<&T> {
        self.places.get(at as usize)?.1.as_ref()
    }

    /// The same, to be changed.
    #[inline]
    pub fn get_mut(&mut self, at: u32) -> Option<&mut T> {
        self.places.get_mut(at as usize)?.1.as_mut()
    }

    /// All entries by their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..).zip(&self.places).filter_map(|(at, (_, entry))| Some((at, entry.as_ref()?)))
    }
}

#[allow(clippy::indexing_slicing, reason = "numbers of places that were given are below the length")]
impl<T> Links for Places<T> {
    #[inline]
    fn link(&self, at: u32) -> Link {
        self.places[at as usize].0
    }

    #[inline]
    fn link_mut(&mut self, at: u32) -> &mut Link {
        &mut self.places[at as usize].0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    fn forward(list: IndexList, store: &impl Links) -> Vec<u32> {
        std::iter::successors(list.first(), |at| Some(store.link(*at).next).filter(|at| *at != NONE))
            .collect()
    }

    fn backward(list: IndexList, store: &impl Links) -> Vec<u32> {
        std::iter::successors(list.last(), |at| Some(store.link(*at).prev).filter(|at| *at != NONE)).collect()
    }

    proptest! {
        /// Two lists in one store, entries that come, move between them and go; queues with the same done to them are the
        /// model.
        #[test]
        fn lists_are_queues(steps in proptest::collection::vec((0u8..5, any::<prop::sample::Index>(), any::<bool>()), 0..300)) {
            let mut places = Places::new();
            let mut lists = [IndexList::EMPTY; 2];
            let mut queues = [VecDeque::new(), VecDeque::new()];
            let mut next = 0_u64;
            let mut most = 0;
            for (step, which, second) in steps {
                let to = usize::from(second);
                let there: Vec<(usize, u32, u64)> = (0..2)
                    .flat_map(|queue| queues[queue].iter().map(move |(at, entry)| (queue, *at, *entry)))
                    .collect();
                match step {
                    0 | 1 => {
                        let at = places.insert(next);
                        prop_assert!(there.iter().all(|(_, other, _)| *other != at), "a place in use was given");
                        if step == 0 {
                            lists[to].push_back(&mut places, at);
                            queues[to].push_back((at, next));
                        } else {
                            lists[to].push_front(&mut places, at);
                            queues[to].push_front((at, next));
                        }
                        next += 1;
                    }
                    _ if there.is_empty() => {}
                    2 | 3 => {
                        let (from, at, entry) = *which.get(&there);
                        lists[from].remove(&mut places, at);
                        queues[from].retain(|(other, _)| *other != at);
                        if step == 2 {
                            prop_assert_eq!(places.remove(at), Some(entry));
                            prop_assert_eq!(places.remove(at), None);
                            prop_assert_eq!(places.get(at), None);
                        } else {
                            lists[to].push_back(&mut places, at);
                            queues[to].push_back((at, entry));
                        }
                    }
                    _ => {
                        let (_, at, entry) = *which.get(&there);
                        prop_assert_eq!(places.get(at), Some(&entry));
                        prop_assert_eq!(places.get_mut(at), Some(&mut entry.clone()));
                    }
                }
                for (list, queue) in lists.iter().zip(&queues) {
                    let places_in_order: Vec<u32> = queue.iter().map(|(at, _)| *at).collect();
                    prop_assert_eq!(&forward(*list, &places), &places_in_order);
                    let reversed: Vec<u32> = places_in_order.into_iter().rev().collect();
                    prop_assert_eq!(backward(*list, &places), reversed);
                    prop_assert_eq!(list.is_empty(), queue.is_empty());
                }
                let mut all: Vec<(u32, u64)> = queues.iter().flatten().copied().collect();
                all.sort_unstable();
                most = most.max(all.len());
                prop_assert_eq!(places.iter().map(|(at, entry)| (at, *entry)).collect::<Vec<_>>(), all);
                prop_assert_eq!(places.places.len(), most, "a place that was given up is used again first");
            }
        }
    }
}
