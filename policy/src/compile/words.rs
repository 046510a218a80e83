//! The compiled policy as one array of words, for a reader that has no other memory: the eBPF programs.
//!
//! The words come in blocks of [`BLOCK`]. The first block says which epoch it is, and where the tables begin, in words:
//!
//! | word | what |
//! | --- | --- |
//! | 0 | epoch |
//! | 1 | rulesets: where the rules of each begin, counted in rules |
//! | 2 | rules: number and verdict (0 allow, 1 deny, 2 reject) |
//! | 3 | identities: parent, from, to (of its further entries), nothing; then its first entry |
//! | 4 | further entries, of each identity sorted by ruleset |
//! | 5 | interval lists |
//!
//! An entry is ruleset, list, base, nothing; a list is its length, where its intervals begin, and their values. Each table
//! begins with a block, so that no row lies across two.

use super::{Compiled, Entry};
use crate::rule::Verdict;

/// Words in a block
pub const BLOCK: usize = 16;

impl Compiled {
    /// The tables in words, as those of an `epoch`.
    #[must_use]
    pub fn words(&self, epoch: u32) -> Vec<u32> {
        let mut words = vec![epoch];
        words.resize(BLOCK, 0);
        let mut tables = 1;
        let mut table = |words: &mut Vec<u32>, rows: &mut dyn Iterator<Item = u32>| {
            words[tables] = words.len() as u32;
            tables += 1;
            words.extend(rows);
            words.resize(words.len().next_multiple_of(BLOCK), 0);
        };
        table(&mut words, &mut self.rulesets.iter().copied());
        table(&mut words, &mut self.rules.iter().flat_map(|rule| [rule.rule.0, number(rule.verdict)]));
        let identities = self.identities.iter().flat_map(|row| {
            let [ruleset, list, base, nothing] = entry(&row.entry);
            [row.parent, row.further_from, row.further_to, 0, ruleset, list, base, nothing]
        });
        table(&mut words, &mut { identities });
        table(&mut words, &mut self.further.iter().flat_map(entry));
        table(&mut words, &mut self.lists.words().iter().copied());
        words
    }
}

const fn entry(entry: &Entry) -> [u32; 4] {
    [entry.ruleset.0, entry.list.number(), entry.base, 0]
}

const fn number(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Allow => 0,
        Verdict::Deny => 1,
        Verdict::Reject => 2,
    }
}

/// Decides as the eBPF programs do, by the words alone.
#[cfg(test)]
pub(super) fn decide(
    words: &[u32],
    ruleset: super::RulesetId,
    identity: super::IdentityId,
    probe: &crate::rule::Probe,
) -> crate::rule::Decision {
    use super::{NOWHERE, intervals::Point};
    use crate::rule::{Decision, RuleId};

    let search = |keys: usize, count: usize, stride: usize, key: u32| {
        let keys: Vec<u32> = (0..count).map(|at| words[keys + at * stride]).collect();
        keys.partition_point(|it| *it <= key).saturating_sub(1)
    };
    let value = |list: usize, key: u32| {
        let len = words[list] as usize;
        words[list + 1 + len + search(list + 1, len, 1, key)]
    };
    let [rulesets, rules, identities, further, lists] = [1, 2, 3, 4, 5].map(|table| words[table] as usize);
    let (key, source) = Point::of(probe).parts();
    let (mut first, mut at) = (NOWHERE, identity.0);
    loop {
        let row = &words[identities + at as usize * 8..][..8];
        let mut entry = &row[4..];
        if entry[0] != ruleset.0 && row[2] > row[1] {
            let own = further + row[1] as usize * 4;
            let place = search(own, (row[2] - row[1]) as usize, 4, ruleset.0);
            entry = &words[own + place * 4..][..4];
        }
        if entry[0] == ruleset.0 {
            let mut place = value(lists + entry[1] as usize, key);
            if place >> 31 == 1 {
                place = value(lists + (place & NOWHERE) as usize, source);
            }
            first = first.min(entry[2] + place);
        }
        if row[0] == at {
            break;
        }
        at = row[0];
    }
    if first >= NOWHERE {
        return Decision::DEFAULT_DENY;
    }
    let rule = rules + 2 * (words[rulesets + ruleset.0 as usize] + first) as usize;
    let verdict = [Verdict::Allow, Verdict::Deny, Verdict::Reject][words[rule + 1] as usize];
    Decision { verdict, rule: Some(RuleId(words[rule])) }
}
