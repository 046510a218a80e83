//! A table whose entries are kept in the order in which they were last touched, so that ageing looks at the
//! oldest entry alone: every operation costs the same however full the table is, and the order does not
//! depend on the hasher.
//!
//! Pinned entries stand outside that order: they never become the oldest.

use std::{collections::HashMap, hash::Hash};

use ahash::RandomState;
use eastgate_wire::{IndexList, Places};

/// Where an entry is, until it is removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Slot(u32);

#[derive(Debug)]
struct Node<K, V> {
    key: K,
    value: V,
    pinned: bool,
}

#[derive(Debug)]
pub(crate) struct AgeTable<K, V> {
    slots: HashMap<K, u32, RandomState>,
    nodes: Places<Node<K, V>>,
    /// The oldest first
    order: IndexList,
}

impl<K: Copy + Eq + Hash, V> AgeTable<K, V> {
    pub(crate) fn new(hasher: RandomState) -> Self {
        Self { slots: HashMap::with_hasher(hasher), nodes: Places::new(), order: IndexList::EMPTY }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    #[inline]
    pub(crate) fn find(&self, key: &K) -> Option<Slot> {
        self.slots.get(key).copied().map(Slot)
    }

    #[inline]
    pub(crate) fn get(&self, slot: Slot) -> Option<&V> {
        Some(&self.nodes.get(slot.0)?.value)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, slot: Slot) -> Option<&mut V> {
        Some(&mut self.nodes.get_mut(slot.0)?.value)
    }

    /// Puts an entry in as the newest, or outside the order; one with this key must not be there yet.
    pub(crate) fn insert(&mut self, key: K, value: V, pinned: bool) -> Slot {
        let at = self.nodes.insert(Node { key, value, pinned });
        self.slots.insert(key, at);
        if !pinned {
            self.order.push_back(&mut self.nodes, at);
        }
        Slot(at)
    }

    pub(crate) fn remove(&mut self, slot: Slot) -> Option<(K, V)> {
        if !self.nodes.get(slot.0)?.pinned {
            self.order.remove(&mut self.nodes, slot.0);
        }
        let node = self.nodes.remove(slot.0)?;
        self.slots.remove(&node.key);
        Some((node.key, node.value))
    }

    /// Makes the entry the newest.
    #[inline]
    pub(crate) fn touch(&mut self, slot: Slot) {
        if self.order.last() != Some(slot.0) && self.nodes.get(slot.0).is_some_and(|node| !node.pinned) {
            self.order.remove(&mut self.nodes, slot.0);
            self.order.push_back(&mut self.nodes, slot.0);
        }
    }

    /// The entry that was touched longest ago.
    #[inline]
    pub(crate) fn oldest(&self) -> Option<(Slot, &V)> {
        let oldest = self.order.first()?;
        Some((Slot(oldest), &self.nodes.get(oldest)?.value))
    }

    /// All entries, pinned ones included, in no order that means anything, but always in the same one.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Slot, &K, &V)> {
        self.nodes.iter().map(|(at, node)| (Slot(at), &node.key, &node.value))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::test_frames::hasher;

    proptest! {
        /// A plain list in order of touch is the model.
        #[test]
        fn keeps_the_order_of_touch(steps in proptest::collection::vec((0u8..4, 0u8..12), 0..200)) {
            let mut table = AgeTable::new(hasher());
            let mut model: Vec<u8> = Vec::new();
            let mut pinned: Vec<u8> = Vec::new();
            for (step, key) in steps {
                let there = table.find(&key);
                prop_assert_eq!(there.is_some(), model.contains(&key) || pinned.contains(&key));
                match (step, there) {
                    (0, None) => { table.insert(key, key, false); model.push(key); }
                    (1, None) => { table.insert(key, key, true); pinned.push(key); }
                    (2, Some(slot)) => {
                        prop_assert_eq!(table.remove(slot), Some((key, key)));
                        model.retain(|k| *k != key);
                        pinned.retain(|k| *k != key);
                    }
                    (3, Some(slot)) => {
                        table.touch(slot);
                        if let Some(at) = model.iter().position(|k| *k == key) {
                            model.remove(at);
                            model.push(key);
                        }
                    }
                    _ => {}
                }
                prop_assert_eq!(table.oldest().map(|(_, key)| *key), model.first().copied());
                prop_assert_eq!(table.len(), model.len() + pinned.len());
            }
            while let Some((slot, _)) = table.oldest() {
                prop_assert_eq!(table.remove(slot).unwrap().0, model.remove(0));
            }
            prop_assert!(model.is_empty());
            prop_assert_eq!(table.iter().count(), pinned.len());
        }
    }
}
