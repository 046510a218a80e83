//! Looking up much of a map, in its order.

use std::{collections::btree_map, iter::Peekable};

/// Finds keys of a map that are asked for in their order: what is walked over once need not be searched ten thousand times.
pub(super) struct InOrder<'m, K, V>(Peekable<btree_map::Iter<'m, K, V>>);

impl<'m, K: Ord, V> InOrder<'m, K, V> {
    pub(super) fn of(map: &'m btree_map::BTreeMap<K, V>) -> Self {
        Self(map.iter().peekable())
    }

    /// The value of a key that is behind all that were asked for.
    pub(super) fn get(&mut self, key: &K) -> Option<&'m V> {
        while self.0.next_if(|(known, _)| *known < key).is_some() {}
        self.0.next_if(|(known, _)| *known == key).map(|(_, value)| value)
    }
}
