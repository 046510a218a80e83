//! Predecessor search in sorted plain integers, with tables beside them so that a search reads as little of a
//! hundred thousand keys as of a hundred.
//!
//! The space from the lowest key to the highest is cut into equal buckets, one for every four to eight keys, and a
//! table says where the keys of each begin: one read, then a look at a window of sixteen keys from there. A bucket
//! with many more keys has a table of its own, that again; a few more, or those that still lie too close together,
//! are bisected down to a window. So no choice of keys makes a search longer than three tables and a bisection, nor
//! the tables larger than the keys.
//!
//! All tables of a set of keys lie in one flat array of plain integers, the outermost first, so the eBPF side can
//! search in the same way. A table is the position of its first key, the number of its last bucket, by how many
//! bits a distance from its first key is shifted to be a bucket's number, and for each bucket the position of its
//! first key (or of the next that there is) or, with [`NESTED`], of its table. Keys to be bisected have a table
//! without buckets: the position of the first, the position behind the last, [`BISECT`].

use std::ops::Range;

/// So many keys are compared at once.
const WINDOW: usize = 16;

/// So many are in the window after two halvings, which take no longer than a table.
const FEW: usize = 4 * WINDOW;

/// How deep tables nest.
const DEPTH: usize = 3;

const NESTED: u32 = 1 << 31;
const BISECT: u32 = u32::MAX;

/// A key that can be sorted into buckets.
pub(super) trait Key: Copy + Ord {
    /// How far above `low` it lies, in whole steps of `1 << shift`; 0 for all below.
    fn steps(self, low: Self, shift: u32) -> usize;
}

impl Key for u32 {
    #[inline]
    fn steps(self, low: Self, shift: u32) -> usize {
        (self.saturating_sub(low) >> shift) as usize
    }
}

impl Key for u128 {
    #[inline]
    fn steps(self, low: Self, shift: u32) -> usize {
        usize::try_from(self.saturating_sub(low) >> shift).unwrap_or(usize::MAX)
    }
}

/// Puts the tables of these sorted, distinct keys behind what is in `tables`. A few keys need none.
pub(super) fn index<K: Key>(keys: &[K], tables: &mut Vec<u32>) {
    if keys.len() > WINDOW {
        let base = tables.len();
        // Without the first key: that is where the space begins, often far from all others.
        table(keys, 1, DEPTH, base, tables);
    }
}

fn table<K: Key>(keys: &[K], from: usize, depth: usize, base: usize, tables: &mut Vec<u32>) {
    let own = &keys[from..];
    let [low, .., high] = *own else { return };
    if depth == 0 || own.len() <= FEW {
        tables.extend([from as u32, keys.len() as u32, BISECT]);
        return;
    }
    let mut shift = 0;
    while high.steps(low, shift) >= own.len() / 4 {
        shift += 1;
    }
    let last = high.steps(low, shift);
    tables.extend([from as u32, last as u32, shift]);
    let at = tables.len();
    tables.resize(at + last + 1, 0);
    let mut first = from;
    for bucket in 0..=last {
        let inside = keys[first..].iter().take_while(|key| key.steps(low, shift) == bucket).count();
        tables[at + bucket] = if inside <= WINDOW {
            first as u32
        } else {
            let nested = NESTED | (tables.len() - base) as u32;
            table(&keys[..first + inside], first, depth - 1, base, tables);
            nested
        };
        first += inside;
    }
}

/// The position of the last key that is not above `key` among the first `len` of `keys`, whose tables `tables` begins
/// with; 0 when all are above.
#[inline]
pub(super) fn predecessor<K: Key>(keys: &[K], len: usize, tables: &[u32], key: K) -> usize {
    let from = if len > WINDOW { window(keys, tables, key) } else { 0 };
    (from + not_above(keys, from..len, key)).saturating_sub(1)
}

/// Where the window begins in which to look.
#[inline]
fn window<K: Key>(keys: &[K], tables: &[u32], key: K) -> usize {
    let mut entry = NESTED;
    while entry & NESTED != 0 {
        let table = tables.get((entry & !NESTED) as usize..);
        let Some(&[first, last, shift, ref buckets @ ..]) = table else { return 0 };
        let (first, last) = (first as usize, last as usize);
        if shift == BISECT {
            return bisected(keys, first..last, key);
        }
        let Some(&low) = keys.get(first) else { return 0 };
        entry = buckets.get(key.steps(low, shift).min(last)).copied().unwrap_or(0);
    }
    entry as usize
}

/// Where the window begins, found by halving; as in the window, no branch on a key.
#[inline]
fn bisected<K: Key>(keys: &[K], Range { start: mut first, end }: Range<usize>, key: K) -> usize {
    let mut len = end.saturating_sub(first);
    while len > WINDOW {
        let half = len / 2;
        first += half * usize::from(keys.get(first + half).is_some_and(|middle| *middle <= key));
        len -= half;
    }
    first
}

/// How many keys of the window that `own` begins with are not above `key`.
#[inline]
fn not_above<K: Key>(keys: &[K], own: Range<usize>, key: K) -> usize {
    let Some(rest) = keys.get(own.start..) else { return 0 };
    let own = own.len() as u32;
    match rest.first_chunk::<WINDOW>() {
        // Always as many, and without a branch: to end where the own keys end costs more than to compare them all.
        Some(window) => {
            window.iter().zip(0..).map(|(k, at)| u32::from(*k <= key) & u32::from(at < own)).sum::<u32>()
                as usize
        }
        None => rest.iter().take(own as usize).filter(|k| **k <= key).count(),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use proptest::prelude::*;

    use super::*;

    /// Compares with a plain search around every key, and returns the tables.
    fn check<K: Key + Debug>(mut keys: Vec<K>, around: impl Fn(K) -> [K; 3], ends: [K; 2]) -> Vec<u32> {
        keys.sort_unstable();
        keys.dedup();
        // What lies before the tables and behind the keys is not theirs.
        let mut tables = vec![NESTED; 5];
        index(&keys, &mut tables);
        let tables = tables.split_off(5);
        let mut block = keys.clone();
        block.extend([ends[0]; WINDOW + 1]);
        for asked in keys.iter().flat_map(|key| around(*key)).chain(ends) {
            let plain = keys.partition_point(|key| *key <= asked).saturating_sub(1);
            for block in [&keys, &block] {
                assert_eq!(predecessor(block, keys.len(), &tables, asked), plain, "{asked:?} in {keys:?}");
            }
        }
        assert!(tables.len() <= keys.len(), "{} words for {} keys", tables.len(), keys.len());
        tables
    }

    fn narrow(keys: impl IntoIterator<Item = u32>) -> Vec<u32> {
        let around = |key: u32| [key.saturating_sub(1), key, key.saturating_add(1)];
        check(keys.into_iter().collect(), around, [0, u32::MAX])
    }

    fn wide(keys: impl IntoIterator<Item = u128>) -> Vec<u32> {
        let around = |key: u128| [key.saturating_sub(1), key, key.saturating_add(1)];
        check(keys.into_iter().collect(), around, [0, u128::MAX])
    }

    #[test]
    fn finds_what_a_plain_search_finds() {
        for len in (0..40).chain([255, 256, 257, 4095, 4096, 4097, 70_000]) {
            narrow((0..len).map(|i| 5 + i * 3));
            narrow((0..len).map(|i| u32::MAX - i));
            wide((0..len).map(|i| u128::from(i) << 100 | 7));
        }
    }

    #[test]
    fn a_few_keys_need_no_table() {
        assert!(narrow(0..16).is_empty());
        assert!(!narrow(0..17).is_empty());
    }

    /// Keys that lie by the thousand in one bucket of every table.
    #[test]
    fn keys_that_defeat_the_tables_are_bisected() {
        let far = [120, 100, 80, 60].map(|bit| 1u128 << bit);
        let tables = wide(far.into_iter().chain(0..5000));
        assert!(tables.contains(&BISECT));
        let one_bucket = narrow([1 << 31].into_iter().chain(0..5000));
        assert!(!one_bucket.contains(&BISECT));
    }

    /// The costliest tables: each bucket has just too many keys.
    #[test]
    fn clumps_by_the_hundred() {
        for len in [17, 65, 66] {
            wide((0..500).flat_map(|at| (0..len).map(move |i| at << 90 | 1 << i)));
        }
    }

    proptest! {
        #[test]
        fn clumps(raw in proptest::collection::vec((any::<u128>(), 0u32..128, 1u128..90), 0..12)) {
            let clump = |(at, shift, len): (u128, u32, u128)| (0..len).map(move |i| at ^ i << shift);
            wide(raw.iter().copied().flat_map(clump));
            narrow(raw.iter().copied().flat_map(clump).map(|key| (key >> 96) as u32));
            narrow(raw.iter().copied().flat_map(clump).map(|key| key as u32));
        }
    }
}
