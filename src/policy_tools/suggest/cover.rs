//! The fewest sets that cover all there is.

use std::collections::BTreeSet;

/// A set that may be chosen.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    /// What it covers
    pub(super) covers: BTreeSet<usize>,
    /// Of equally many sets the narrowest are taken
    pub(super) width: u64,
}

/// So many choices are tried before the best that was found is taken.
const CHOICES: usize = 200_000;

/// Sets that cover `0..needs` together, by their place, as few as can be; and whether it is certain that there are no fewer. What no
/// candidate covers stays uncovered.
pub(super) fn cover(needs: usize, candidates: &[Candidate]) -> (Vec<usize>, bool) {
    let coverable = (0..needs).filter(|need| candidates.iter().any(|it| it.covers.contains(need))).collect();
    let mut search = Search { candidates, best: greedy(&coverable, candidates), left: CHOICES };
    search.go(&coverable, &mut Vec::new());
    let (mut chosen, proved) = (search.best, search.left > 0);
    chosen.sort_unstable();
    (chosen, proved)
}

/// Each time the set that covers most of what is left.
fn greedy(open: &BTreeSet<usize>, candidates: &[Candidate]) -> Vec<usize> {
    let mut open = open.clone();
    let mut chosen = Vec::new();
    while !open.is_empty() {
        let gain = |it: &Candidate| it.covers.intersection(&open).count();
        let best = candidates
            .iter()
            .enumerate()
            .max_by_key(|(at, it)| (gain(it), std::cmp::Reverse(it.width), std::cmp::Reverse(*at)));
        let Some((at, best)) = best else { break };
        open.retain(|need| !best.covers.contains(need));
        chosen.push(at);
    }
    chosen
}

struct Search<'c> {
    candidates: &'c [Candidate],
    best: Vec<usize>,
    left: usize,
}

impl Search<'_> {
    fn cost(&self, chosen: &[usize]) -> (usize, u64) {
        let width = |at: &usize| self.candidates.get(*at).map_or(0, |it| it.width);
        (chosen.len(), chosen.iter().map(width).sum())
    }

    /// Tries what can be added to what is chosen, as long as that may become better than the best.
    fn go(&mut self, open: &BTreeSet<usize>, chosen: &mut Vec<usize>) {
        if self.left == 0 {
            return;
        }
        self.left -= 1;
        if open.is_empty() {
            if self.cost(chosen) < self.cost(&self.best) {
                self.best = chosen.clone();
            }
            return;
        }
        // Whatever comes, so many sets more are needed.
        let most = self.candidates.iter().map(|it| it.covers.intersection(open).count()).max().unwrap_or(0);
        if most == 0 || chosen.len() + open.len().div_ceil(most) > self.best.len() {
            return;
        }
        // The need that fewest sets cover leaves the fewest choices.
        let covering = |need: &usize| -> Vec<usize> {
            let places = self.candidates.iter().enumerate();
            places.filter(|(_, it)| it.covers.contains(need)).map(|(at, _)| at).collect()
        };
        let Some(mut choices) = open.iter().map(covering).min_by_key(Vec::len) else { return };
        let gain = |at: &usize| self.candidates.get(*at).map_or(0, |it| it.covers.intersection(open).count());
        choices.sort_by_key(|at| std::cmp::Reverse(gain(at)));
        for at in choices {
            let Some(candidate) = self.candidates.get(at) else { continue };
            let rest = open.difference(&candidate.covers).copied().collect();
            chosen.push(at);
            self.go(&rest, chosen);
            chosen.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sets(sets: &[&[usize]]) -> Vec<Candidate> {
        sets.iter().map(|set| Candidate { covers: set.iter().copied().collect(), width: 1 }).collect()
    }

    /// Taking the largest first would need three.
    #[test]
    fn the_largest_is_not_always_taken() {
        let candidates = sets(&[&[1, 2, 4, 5], &[0, 1, 2], &[3, 4, 5]]);
        assert_eq!(cover(6, &candidates), (vec![1, 2], true));
    }

    #[test]
    fn of_equally_many_the_narrowest_are_taken() {
        let mut candidates = sets(&[&[0, 1], &[0, 1]]);
        candidates[0].width = 10;
        assert_eq!(cover(2, &candidates), (vec![1], true));
        assert_eq!(cover(3, &candidates), (vec![1], true), "what nothing covers stays open");
    }

    proptest! {
        #[test]
        fn there_are_no_fewer(raw in proptest::collection::vec(proptest::collection::btree_set(0usize..7, 1..4), 1..8)) {
            let candidates: Vec<Candidate> =
                raw.into_iter().map(|covers| Candidate { covers, width: 1 }).collect();
            let all: BTreeSet<usize> = candidates.iter().flat_map(|it| it.covers.clone()).collect();
            let covered = |mask: usize| -> BTreeSet<usize> {
                let chosen = candidates.iter().enumerate().filter(|(at, _)| mask >> at & 1 == 1);
                chosen.flat_map(|(_, it)| it.covers.clone()).collect()
            };
            let fewest = (0..1usize << candidates.len())
                .filter(|mask| covered(*mask) == all)
                .map(usize::count_ones)
                .min();
            let (chosen, proved) = cover(7, &candidates);
            let mask = chosen.iter().map(|at| 1 << at).sum();
            prop_assert_eq!(covered(mask), all);
            prop_assert!(proved);
            prop_assert_eq!(Some(chosen.len() as u32), fewest);
        }
    }
}
