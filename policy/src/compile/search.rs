//! Predecessor search in sorted plain integers, with a static index so that a search costs the same few cache
//! lines for ten keys and for a hundred thousand.
//!
//! The keys of a block are followed by every sixteenth of them, those by every sixteenth again, until sixteen
//! or fewer are left. A search starts there and counts down: five steps reach a million keys. The block is one
//! flat array, so the eBPF side can search it in the same way.

const FANOUT: usize = 16;

/// Levels that any `u32` number of keys needs.
const LEVELS: usize = 8;

/// Puts the index behind the sorted keys that begin at `from`.
pub(super) fn index<K: Copy>(keys: &mut Vec<K>, from: usize) {
    let mut level = from..keys.len();
    while level.len() > FANOUT {
        let next = keys.len();
        for at in level.step_by(FANOUT) {
            let key = keys[at];
            keys.push(key);
        }
        level = next..keys.len();
    }
}

/// The position of the last key that is not above `key`, among the `len` keys that `block` starts with and
/// whose index follows them; 0 when all are above.
#[inline]
pub(super) fn predecessor<K: Copy + Ord>(block: &[K], len: usize, key: K) -> usize {
    let mut sizes = [len; LEVELS];
    let (mut top, mut start) = (0, 0);
    while sizes[top] > FANOUT && top + 1 < LEVELS {
        start += sizes[top];
        sizes[top + 1] = sizes[top].div_ceil(FANOUT);
        top += 1;
    }
    let mut at = 0;
    loop {
        let from = start + at * FANOUT;
        let to = (from + FANOUT).min(start + sizes[top]);
        let not_above = block.get(from..to).map_or(0, |run| run.iter().filter(|k| **k <= key).count());
        at = (at * FANOUT + not_above).saturating_sub(1);
        if top == 0 {
            return at;
        }
        top -= 1;
        start -= sizes[top];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_a_plain_search_finds() {
        for len in (0..40).chain([255, 256, 257, 4095, 4096, 4097, 70_000]) {
            let sorted: Vec<u32> = (0..len).map(|i| 5 + i * 3).collect();
            let mut block = vec![99; 7];
            block.extend(&sorted);
            index(&mut block, 7);
            for key in (0..len.min(300) * 3 + 12).chain(len * 3..len * 3 + 12) {
                let plain = sorted.partition_point(|k| *k <= key).saturating_sub(1);
                assert_eq!(predecessor(&block[7..], sorted.len(), key), plain, "{key} of {len}");
            }
        }
    }
}
