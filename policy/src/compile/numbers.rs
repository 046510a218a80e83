//! Numbers that outlive a compilation: what is the same afterwards keeps its number, so that only those whose rules or
//! identity changed are other than before, in the tables and for whoever compares them.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher as _},
    sync::Arc,
};

use super::{RulesetId, Tier, address::Prefix};
use crate::rule::{Direction, GroupId, MAX_TIERS, Rule};

/// What the numbers of a compilation stand for.
#[derive(Clone, Default, Debug)]
pub(super) struct Numbers {
    pub(super) rulesets: Numbering<(Direction, Vec<GroupId>)>,
    pub(super) tier_lists: Numbering<[Tier; MAX_TIERS]>,
    pub(super) identities: Numbering<IdentityKey>,
    /// Ruleset -> what it says
    contents: Vec<Digest>,
    /// Identity -> the groups whose members it is of
    members: Arc<[Digest]>,
}

/// What addresses share that have an identity in common.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct IdentityKey {
    /// The next wider identity; none for a whole family
    pub(super) parent: Option<u32>,
    /// The prefix, where a rule names it
    pub(super) named: Option<Prefix>,
    /// The groups that rules name
    pub(super) groups: Vec<GroupId>,
}

/// Stands for rules, groups or endpoints that are compared with those of another compilation.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Digest([u64; 2]);

/// Keys and their numbers, which are as small as can be: a table by number has no more rows than two compilations have keys.
#[derive(Clone, Debug)]
pub(super) struct Numbering<K> {
    known: Arc<BTreeMap<K, u32>>,
    before: Arc<BTreeMap<K, u32>>,
    /// Numbers of the compilation before: no other key has one of them now
    kept: BTreeSet<u32>,
    next: u32,
    len: u32,
}

impl<K> Default for Numbering<K> {
    fn default() -> Self {
        Self { known: Arc::default(), before: Arc::default(), kept: BTreeSet::new(), next: 0, len: 0 }
    }
}

impl<K: Ord> Numbering<K> {
    /// Numbers for a compilation that follows another one.
    fn after(before: &Self) -> Self {
        Self {
            before: before.known.clone(),
            kept: before.known.values().copied().collect(),
            ..Self::default()
        }
    }

    pub(super) fn get(&self, key: &K) -> Option<u32> {
        self.known.get(key).copied()
    }

    /// Gives a key that has none yet its number: the one it had, or one that nothing had.
    pub(super) fn add(&mut self, key: K) -> u32
    where
        K: Clone,
    {
        let number = match self.before.get(&key) {
            Some(number) => *number,
            None => {
                while self.kept.contains(&self.next) {
                    self.next += 1;
                }
                self.next += 1;
                self.next - 1
            }
        };
        self.len = self.len.max(number + 1);
        Arc::make_mut(&mut self.known).insert(key, number);
        number
    }

    /// What has numbers
    pub(super) fn all(&self) -> impl Iterator<Item = (&K, u32)> {
        self.known.iter().map(|(key, number)| (key, *number))
    }

    /// What had numbers in the compilation before
    pub(super) fn before(&self) -> impl Iterator<Item = &K> {
        self.before.keys()
    }

    /// How many have numbers
    pub(super) fn known(&self) -> usize {
        self.known.len()
    }

    /// One more than the largest number
    pub(super) const fn len(&self) -> u32 {
        self.len
    }

    /// Forgets what only the next number needs.
    fn close(&mut self) {
        self.before = Arc::default();
        self.kept = BTreeSet::new();
    }

    fn bytes(&self) -> usize {
        self.known.len() * size_of::<(K, u32)>()
    }
}

impl Numbers {
    /// Numbers for a compilation that follows another one, if it does.
    pub(super) fn after(before: Option<&Self>) -> Self {
        before.map_or_else(Self::default, |before| Self {
            rulesets: Numbering::after(&before.rulesets),
            tier_lists: Numbering::after(&before.tier_lists),
            identities: Numbering::after(&before.identities),
            ..Self::default()
        })
    }

    /// The compilation is done: this is what each ruleset says, and of which groups' members each identity is.
    pub(super) fn close<'r>(&mut self, rules: impl Fn(u32) -> &'r [&'r Rule], members: &[BTreeSet<GroupId>]) {
        self.contents = (0..self.rulesets.len()).map(|ruleset| Digest::of(&rules(ruleset))).collect();
        self.members = members.iter().map(Digest::of).collect();
        self.rulesets.close();
        self.tier_lists.close();
        self.identities.close();
    }

    /// A ruleset says something else now.
    pub(super) fn says(&mut self, ruleset: RulesetId, rules: &[&Rule]) {
        if let Some(contents) = self.contents.get_mut(ruleset.0 as usize) {
            *contents = Digest::of(&rules);
        }
    }

    /// Whether a ruleset says what the one with its number said before.
    pub(super) fn says_the_same(&self, before: &Self, ruleset: RulesetId) -> bool {
        let at = ruleset.0 as usize;
        self.contents.get(at).zip(before.contents.get(at)).is_some_and(|(a, b)| a == b)
    }

    /// Whether an identity is of the members of the same groups as another one was before.
    pub(super) fn has_same_groups(&self, identity: u32, before: &Self, was: u32) -> bool {
        let digest = |numbers: &Self, at: u32| numbers.members.get(at as usize).copied();
        digest(self, identity) == digest(before, was)
    }

    pub(super) fn bytes(&self) -> usize {
        self.rulesets.bytes()
            + self.tier_lists.bytes()
            + self.identities.bytes()
            + size_of_val(&*self.contents)
            + size_of_val(&*self.members)
    }
}

impl Digest {
    pub(super) fn of(what: &impl Hash) -> Self {
        // Two of 64 bits: what a tenant writes must not pass for something else by chance.
        Self([0u8, 1].map(|which| {
            let mut hasher = DefaultHasher::new();
            which.hash(&mut hasher);
            what.hash(&mut hasher);
            hasher.finish()
        }))
    }
}
