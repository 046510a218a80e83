//! The compiled policy as one array of words, for a reader that has no other memory: the eBPF programs.
//!
//! The words come in blocks of [`BLOCK`]. The first block says which epoch it is, and where the tables begin, in words:
//!
//! | word | what |
//! | --- | --- |
//! | 0 | epoch |
//! | 1 | rulesets: where the rules of each begin, counted in rules |
//! | 2 | rules: number, and what it does |
//! | 3 | identities: parent, from, to (of its further entries), nothing; then its first entry |
//! | 4 | further entries, of each identity sorted by ruleset |
//! | 5 | interval lists |
//! | 6 | tier lists: for each of the tiers its ruleset, with [`END_PASSES`] where it passes when none of its rules matches; [`NO_TIER`] behind the last one |
//!
//! An entry is ruleset, list, base, nothing; a list is its length, where its intervals begin, and their values: how far
//! behind the base the rule stands that decides, [`NOWHERE`], or with [`NESTED`] a list over another field. Each table
//! begins with a block, so that no row lies across two.
//!
//! What a rule does, in its second word:
//!
//! | bits | what |
//! | --- | --- |
//! | 0 to 7 | 0 allow, 1 deny, 2 reject, 3 pass on to the next tier |
//! | 8 | log |
//! | 9 | audit |
//! | 10 | flows that it allows are counted, by source |
//! | 11 | stateless |
//! | 12 to 15 | the helper that flows are followed by, by its number; 0 for none |
//! | 16 to 31 | the service chain; 0 for none |

use std::num::NonZeroU16;

use eastgate_wire::Helper;

use super::{Compiled, Entry};
use crate::rule::{Action, ChainId, Then, Verdict};

/// Words in a block
pub const BLOCK: usize = 16;

/// Of a tier's ruleset: the tier passes where none of its rules matches.
pub const END_PASSES: u32 = 1 << 31;

/// In place of a ruleset: there is no such tier.
pub const NO_TIER: u32 = u32::MAX;

/// In a list: no rule matches
pub const NOWHERE: u32 = super::NOWHERE;

/// In a list: the rest is a list over a field, whose number ([`FIELDS`]) stands in the two bits from [`FIELD_AT`] on
pub const NESTED: u32 = super::intervals::NESTED;

/// Where the number of a field stands; what is below is the place of the list.
pub const FIELD_AT: u32 = super::intervals::FIELD_AT;

/// The fields that lists may be over, in the order of their numbers
pub const FIELDS: [&str; 3] = ["SOURCE_PORT", "DSCP", "TCP_FLAGS"];

/// In place of ports that were not read
pub const UNREAD: u32 = super::intervals::UNREAD;

const PASS: u32 = 3;
/// Of what a rule does: it is logged
pub const LOG: u32 = 1 << 8;
const AUDIT: u32 = 1 << 9;
const LIMITED: u32 = 1 << 10;
/// Of what a rule does: what it allows begins no flow
pub const STATELESS: u32 = 1 << 11;
const HELPER_AT: u32 = 12;
const CHAIN_AT: u32 = 16;

impl Compiled {
    /// The tables in words, as those of an `epoch`.
    #[must_use]
    pub fn words(&self, epoch: u32) -> Vec<u32> {
        let mut words = vec![epoch];
        words.resize(BLOCK, 0);
        let table = |words: &mut Vec<u32>, number: usize, rows: &mut dyn Iterator<Item = u32>| {
            words[number] = words.len() as u32;
            words.extend(rows);
            words.resize(words.len().next_multiple_of(BLOCK), 0);
        };
        table(&mut words, 1, &mut self.rulesets.iter().copied());
        table(&mut words, 2, &mut self.rules.iter().flat_map(|rule| [rule.rule.0, rule.then]));
        let identities = self.identities.iter().flat_map(|row| {
            let [ruleset, list, base, nothing] = entry(&row.entry);
            [row.parent, row.further_from, row.further_to, 0, ruleset, list, base, nothing]
        });
        table(&mut words, 3, &mut { identities });
        table(&mut words, 4, &mut self.further.iter().flat_map(entry));
        table(&mut words, 6, &mut self.tier_lists.iter().flatten().map(|tier| tier.0));
        // Last: a change of rules adds to them, and the others mostly keep their size.
        table(&mut words, 5, &mut self.lists.words().iter().copied());
        words
    }
}

const fn entry(entry: &Entry) -> [u32; 4] {
    [entry.ruleset.0, entry.list.number(), entry.base, 0]
}

impl Then {
    /// As a rule's second word
    pub(super) const fn word(self) -> u32 {
        let Verdict { action, log, audit, chain, limited, stateless, helper } = match self {
            Self::Pass => return PASS,
            Self::Settle(verdict) => verdict,
        };
        let chain = match chain {
            Some(ChainId(number)) => number.get() as u32,
            None => 0,
        };
        let helper = match helper {
            Some(helper) => helper.number() as u32,
            None => 0,
        };
        let flags = (log as u32 * LOG)
            | (audit as u32 * AUDIT)
            | (limited as u32 * LIMITED)
            | (stateless as u32 * STATELESS);
        action as u32 | flags | (helper << HELPER_AT) | (chain << CHAIN_AT)
    }

    /// What such a word says. Nobody writes another action than these; it would deny.
    #[inline]
    pub(super) fn of_word(word: u32) -> Self {
        let action = match word & 0xff {
            PASS => return Self::Pass,
            0 => Action::Allow,
            2 => Action::Reject,
            _ => Action::Deny,
        };
        let chain = NonZeroU16::new((word >> CHAIN_AT) as u16).map(ChainId);
        Self::Settle(Verdict {
            action,
            log: word & LOG != 0,
            audit: word & AUDIT != 0,
            chain,
            limited: word & LIMITED != 0,
            stateless: word & STATELESS != 0,
            helper: Helper::from_number((word >> HELPER_AT & 0xf) as u8),
        })
    }
}

/// Decides as the eBPF programs do, by the words alone.
#[cfg(test)]
pub(super) fn decide(
    words: &[u32],
    tiers: super::TierListId,
    identity: super::IdentityId,
    probe: &crate::rule::Probe,
) -> crate::rule::Decision {
    use super::{NOWHERE, intervals::Point};
    use crate::rule::{Decision, MAX_TIERS, RuleId};

    let search = |keys: usize, count: usize, stride: usize, key: u32| {
        let keys: Vec<u32> = (0..count).map(|at| words[keys + at * stride]).collect();
        keys.partition_point(|it| *it <= key).saturating_sub(1)
    };
    let value = |list: usize, key: u32| {
        let len = words[list] as usize;
        words[list + 1 + len + search(list + 1, len, 1, key)]
    };
    let [rulesets, rules, identities, further, lists, tier_lists] =
        [1, 2, 3, 4, 5, 6].map(|table| words[table] as usize);
    let (key, fields) = Point::of(probe).parts();
    let first_match = |ruleset: u32| {
        let (mut first, mut at) = (NOWHERE, identity.0);
        loop {
            let row = &words[identities + at as usize * 8..][..8];
            let mut entry = &row[4..];
            if entry[0] != ruleset && row[2] > row[1] {
                let own = further + row[1] as usize * 4;
                let place = search(own, (row[2] - row[1]) as usize, 4, ruleset);
                entry = &words[own + place * 4..][..4];
            }
            if entry[0] == ruleset {
                let mut place = value(lists + entry[1] as usize, key);
                while place & NESTED != 0 {
                    let list = (place & ((1 << FIELD_AT) - 1)) as usize;
                    place = value(lists + list, fields[(place >> FIELD_AT & 3) as usize]);
                }
                first = first.min(entry[2] + place);
            }
            if row[0] == at {
                return first;
            }
            at = row[0];
        }
    };
    for tier in &words[tier_lists + tiers.0 as usize * MAX_TIERS..][..MAX_TIERS] {
        if *tier == NO_TIER {
            break;
        }
        let ruleset = tier & !END_PASSES;
        let first = first_match(ruleset);
        if first >= NOWHERE {
            if tier & END_PASSES == 0 {
                break;
            }
            continue;
        }
        let rule = rules + 2 * (words[rulesets + ruleset as usize] + first) as usize;
        if let Then::Settle(verdict) = Then::of_word(words[rule + 1]) {
            return Decision { verdict, rule: Some(RuleId(words[rule])) };
        }
    }
    Decision::DEFAULT_DENY
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers that the programs know
    #[test]
    fn what_a_rule_does_is_a_word() {
        let chain = Some(ChainId(NonZeroU16::MAX));
        for (then, word) in [
            (Then::Settle(Verdict::ALLOW), 0),
            (Then::Settle(Verdict::DENY), 1),
            (Then::Settle(Verdict::REJECT), 2),
            (Then::Pass, 3),
            (Then::Settle(Verdict { log: true, ..Verdict::ALLOW }), 0x100),
            (Then::Settle(Verdict { audit: true, ..Verdict::DENY }), 0x201),
            (Then::Settle(Verdict { limited: true, ..Verdict::ALLOW }), 0x400),
            (Then::Settle(Verdict { chain, ..Verdict::ALLOW }), 0xffff_0000),
            (Then::Settle(Verdict { stateless: true, ..Verdict::ALLOW }), 0x800),
            (Then::Settle(Verdict { helper: Some(Helper::Ftp), ..Verdict::ALLOW }), 0x1000),
            (Then::Settle(Verdict { helper: Some(Helper::Tftp), ..Verdict::ALLOW }), 0x2000),
            (Then::Settle(Verdict { log: true, audit: true, chain, ..Verdict::REJECT }), 0xffff_0302),
        ] {
            assert_eq!((then.word(), Then::of_word(word)), (word, then), "{then:?}");
        }
    }
}
