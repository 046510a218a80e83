//! The compiled form of a network's policy: decides as the ordered rules do ([`crate::naive`]), at a cost that
//! does not grow with their number.
//!
//! - Every prefix and group that a rule names as its peer is a *selector*. Prefixes that carry the same
//!   selectors, inside the same wider ones, share an **identity**; address -> identity is one longest-prefix
//!   match.
//! - Every distinct ordered list of groups' rules that some tier consists of in one direction is a **ruleset**, and every
//!   distinct list of tiers that some endpoint has in one direction a **tier list**.
//! - For each (ruleset, identity) whose selectors the ruleset names, those rules collapse into a list of
//!   disjoint intervals over (protocol, destination port; ICMP type and code; source port, DSCP and TCP flags where
//!   asked), each with one outcome. Equal lists are stored once.
//!
//! An identity knows the next wider one it lies in, up to the whole family. A lookup asks the lists along that
//! chain and takes the outcome that stands first in the ruleset; where that passes, it does the same with the next tier's.
//! Tiers cannot be folded into one ruleset: what a wider identity's list has behind a pass would stand ahead of what the
//! narrower one's has, whichever tier it is of. Folding the wider rules into every narrower
//! identity would save those few steps, at the price of tables that grow with the product of wide rules,
//! narrow rules and rulesets; this way they grow with their sum.
//!
//! All tables are flat arrays of plain integers, and the eBPF side reads the same ones ([`words`]).

use std::sync::Arc;

use eastgate_wire::{Addr, EndpointId};

use self::{
    address::AddressMap,
    build::Peers,
    intervals::{ListId, Lists, Point},
    numbers::{Digest, Numbers},
};
use crate::rule::{
    Decision, Direction, Group, GroupId, MAX_TIERS, Probe, Rule, RuleId, Source, Then, Verdict,
};

pub(crate) mod address;
mod build;
pub(crate) mod intervals;
mod numbers;
mod rebuild;
mod search;
pub mod words;

/// Why a policy cannot be compiled. The policy in force stays as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CompileError {
    /// A rule's peer is a group that is not there.
    #[error("rule {} names group {} as its peer, and there is no such group", rule.0, group.0)]
    UnknownPeerGroup {
        /// The rule
        rule: RuleId,
        /// The group
        group: GroupId,
    },
    /// An endpoint is in a group that is not there.
    #[error("endpoint {} is in group {}, and there is no such group", endpoint.0, group.0)]
    UnknownGroup {
        /// The endpoint
        endpoint: EndpointId,
        /// The group
        group: GroupId,
    },
    /// An endpoint has more tiers in one direction than [`MAX_TIERS`].
    #[error("endpoint {} has {tiers} tiers in one direction; {MAX_TIERS} is the most", endpoint.0)]
    TooManyTiers {
        /// The endpoint
        endpoint: EndpointId,
        /// How many it has
        tiers: usize,
    },
    /// A rule's peer is a prefix longer than an address, or wider than all of IPv4.
    #[error("rule {}: /{len} (in the 128-bit form) is no prefix length for {network}", rule.0)]
    BadPeerPrefix {
        /// The rule
        rule: RuleId,
        /// The prefix's address
        network: Addr,
        /// Its length in the 128-bit form
        len: u8,
    },
    /// An endpoint has such a prefix among its addresses.
    #[error("endpoint {}: /{len} (in the 128-bit form) is no prefix length for {network}", endpoint.0)]
    BadAddress {
        /// The endpoint
        endpoint: EndpointId,
        /// The prefix's address
        network: Addr,
        /// Its length in the 128-bit form
        len: u8,
    },
    /// The rules combine to more table entries than the limit allows.
    #[error(
        "the rules of this network combine to more than {limit} table entries; \
         use fewer overlapping source port ranges, DSCP and TCP flags, or fewer combinations of groups"
    )]
    TooLarge {
        /// The limit, in entries
        limit: usize,
    },
}

/// The table entries that [`Compiled::compile`] allows one network: room for millions of rules, and a bound on
/// the memory (some 20 bytes each) and time that a hostile combination of them can take.
pub const DEFAULT_ENTRY_LIMIT: usize = 1 << 25;

/// What the addresses that match the same selectors share. Only meaningful for the [`Compiled`] it is from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct IdentityId(u32);

impl IdentityId {
    /// Its number, as [`words`] has it
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// One ordered rule list. Only meaningful for the [`Compiled`] it is from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct RulesetId(u32);

/// A list of tiers. Only meaningful for the [`Compiled`] it is from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TierListId(u32);

impl TierListId {
    /// Its number, as [`words`] has it
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// A network's policy, compiled.
#[derive(Debug)]
pub struct Compiled {
    /// Endpoint -> tier list for ingress and for egress
    endpoints: Arc<[[TierListId; 2]]>,
    tier_lists: Arc<[[Tier; MAX_TIERS]]>,
    /// Ruleset -> where its rules begin in `rules`
    rulesets: Box<[u32]>,
    rules: Box<[Outcome]>,
    /// What each rule does, by its number; those of no ruleset too
    does: Box<[Outcome]>,
    /// Ruleset -> whether one of its rules asks for what flows of one pair and service differ by
    tells_flows_apart: Box<[bool]>,
    /// Ruleset -> whether one of its rules allows without state
    stateless: Box<[bool]>,
    /// Whether one of any ruleset does
    has_stateless: bool,
    /// Whether one of any ruleset names a helper
    has_helpers: bool,
    /// Address -> identity
    addresses: AddressMap,
    identities: Box<[IdentityRow]>,
    /// What identities that several rulesets speak of have besides their first entry, sorted by ruleset
    further: Box<[Entry]>,
    lists: Lists,
    depth: u32,
    /// For the compilation that follows: what the numbers stand for,
    numbers: Numbers,
    /// whom rules can be about as things are,
    peers: Arc<Peers>,
    /// what it came of,
    source: Known,
    /// and the table entries that were counted.
    spent: usize,
}

/// What is kept of the source of a compilation.
#[derive(Debug)]
struct Known {
    groups: Vec<Arc<Group>>,
    endpoints: Digest,
    /// Rules that several groups have; sorted
    shared: Box<[RuleId]>,
    /// How many peers rules have named that none may name any more, at most
    forgotten: usize,
}

/// A tier's ruleset, with [`words::END_PASSES`] where it passes at its end; or [`words::NO_TIER`]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct Tier(u32);

#[derive(Clone, Copy, Debug)]
struct Outcome {
    rule: RuleId,
    /// [`Then::word`]
    then: u32,
}

#[derive(Clone, Copy, Debug)]
struct IdentityRow {
    /// The next wider identity; itself for a whole family
    parent: u32,
    /// The first of its entries. It stands here to be read with the row: most identities have no other.
    entry: Entry,
    further_from: u32,
    further_to: u32,
}

/// What a ruleset says of an identity.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    ruleset: RulesetId,
    list: ListId,
    /// The place in the ruleset that the list's outcomes count from
    base: u32,
}

/// How large the compiled form is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stats {
    /// Distinct lists of tiers
    pub tier_lists: usize,
    /// Distinct ordered rule lists
    pub rulesets: usize,
    /// Rules in them; one that is in several counts in each.
    pub rules: usize,
    /// Kinds of peers that the rules tell apart
    pub identities: usize,
    /// Address ranges that map to them
    pub ranges: usize,
    /// The most lists that one lookup asks: how deep the rules' prefixes lie in each other, the whole family
    /// included.
    pub depth: usize,
    /// (ruleset, identity) pairs that have rules of their own
    pub entries: usize,
    /// Distinct interval lists, some of them possibly left over from compilations before
    pub lists: usize,
    /// Intervals in them
    pub intervals: usize,
    /// Memory held, in bytes
    pub resident_bytes: usize,
}

/// The place of no rule: behind all there are, with or without a base added.
const NOWHERE: u32 = (1 << 31) - 1;

/// A bound on table entries, counted down while compiling.
struct Budget {
    limit: usize,
    left: usize,
}

impl Compiled {
    /// Compiles a network's policy, within [`DEFAULT_ENTRY_LIMIT`].
    ///
    /// # Errors
    /// [`CompileError`], with the rule or endpoint at fault.
    pub fn compile(source: &Source) -> Result<Self, CompileError> {
        Self::compile_within(source, DEFAULT_ENTRY_LIMIT)
    }

    /// Compiles a network's policy into at most `limit` table entries, intermediate ones included.
    ///
    /// # Errors
    /// [`CompileError`], with the rule or endpoint at fault.
    pub fn compile_within(source: &Source, limit: usize) -> Result<Self, CompileError> {
        // Above this, positions of lists would not fit their 29 bits.
        let limit = limit.min(1 << 26);
        build::build(source, None, &mut Budget { limit, left: limit })
    }

    /// Compiles a network's policy that takes the place of another one: what is the same keeps its number, of rulesets,
    /// tier lists and identities. Groups and endpoints must have the numbers that they had.
    ///
    /// Where only rules of some groups have changed, what does not follow from these is taken over.
    ///
    /// # Errors
    /// [`CompileError`], with the rule or endpoint at fault.
    pub fn compile_after(source: &Source, before: &Self) -> Result<Self, CompileError> {
        let has_same_endpoints = Digest::of(&source.endpoints) == before.source.endpoints;
        if let Some(rebuilt) = has_same_endpoints.then(|| before.with_rules(&source.groups)).flatten() {
            return Ok(rebuilt);
        }
        let mut budget = Budget { limit: DEFAULT_ENTRY_LIMIT, left: DEFAULT_ENTRY_LIMIT };
        build::build(source, Some(before), &mut budget)
    }

    /// What takes its place where its endpoints are as they were and some of its groups have other rules; none where it is all to
    /// be compiled anew, by [`Self::compile_after`].
    #[must_use]
    pub fn with_rules(&self, groups: &[Arc<Group>]) -> Option<Self> {
        rebuild::rebuild(groups, self)
    }

    /// Whether addresses mean the same peers as in the compilation that this one was made after, all of them: it was only given
    /// other rules.
    #[must_use]
    pub fn has_same_peers(&self, before: &Self) -> bool {
        Arc::ptr_eq(&self.peers, &before.peers)
    }

    /// Whether the rules of an endpoint are what they were in the compilation that this one was made after. They decide
    /// about whoever is in the same groups as then ([`Self::is_same_peer`]) as they did.
    #[must_use]
    pub fn has_same_rules(&self, before: &Self, endpoint: EndpointId) -> bool {
        [Direction::Ingress, Direction::Egress].into_iter().all(|direction| {
            let tiers = self.tiers(endpoint, direction);
            tiers == before.tiers(endpoint, direction)
                && tiers.is_some_and(|tiers| {
                    self.tiers_of(tiers)
                        .all(|tier| self.numbers.says_the_same(&before.numbers, tier.ruleset()))
                })
        })
    }

    /// What the rules of `endpoint` say of a packet from (ingress) or to (egress) `peer`. An endpoint that does
    /// not exist is denied everything.
    #[inline]
    #[must_use]
    pub fn decide(&self, endpoint: EndpointId, direction: Direction, peer: Addr, probe: &Probe) -> Decision {
        let tiers = self.tiers(endpoint, direction);
        let identity = self.identity(peer);
        tiers.zip(identity).map_or(Decision::DEFAULT_DENY, |(t, i)| self.decide_between(t, i, probe))
    }

    /// The tiers of an endpoint in one direction.
    #[inline]
    #[must_use]
    pub fn tiers(&self, endpoint: EndpointId, direction: Direction) -> Option<TierListId> {
        let [ingress, egress] = *self.endpoints.get(endpoint.0 as usize)?;
        Some(match direction {
            Direction::Ingress => ingress,
            Direction::Egress => egress,
        })
    }

    /// Whether what the rules of `endpoint` say can differ between flows of one pair and service: by their source port, or
    /// by DSCP and TCP flags of their first packet.
    #[must_use]
    pub fn tells_flows_apart(&self, endpoint: EndpointId, direction: Direction) -> bool {
        let asks = |tier: &Tier| self.tells_flows_apart.get(tier.ruleset().0 as usize) != Some(&false);
        self.tiers(endpoint, direction).is_some_and(|tiers| self.tiers_of(tiers).any(asks))
    }

    /// Whether rules of `endpoint`, in whichever direction, allow without state: what it has to do with is no flow then, or
    /// one of the other end alone.
    #[must_use]
    pub fn is_stateless(&self, endpoint: EndpointId) -> bool {
        let is_stateless = |tier: &Tier| self.stateless.get(tier.ruleset().0 as usize) == Some(&true);
        [Direction::Ingress, Direction::Egress].into_iter().any(|direction| {
            self.tiers(endpoint, direction).is_some_and(|tiers| self.tiers_of(tiers).any(is_stateless))
        })
    }

    /// Whether any rules allow without state.
    #[must_use]
    pub const fn has_stateless(&self) -> bool {
        self.has_stateless
    }

    /// Whether any rules name a helper.
    #[must_use]
    pub const fn has_helpers(&self) -> bool {
        self.has_helpers
    }

    /// What a rule does; nothing where none has this number.
    #[must_use]
    pub fn does(&self, rule: RuleId) -> Option<Then> {
        let at = self.does.binary_search_by_key(&rule, |outcome| outcome.rule).ok()?;
        self.does.get(at).map(|outcome| Then::of_word(outcome.then))
    }

    /// The identity of an address.
    #[inline]
    #[must_use]
    pub fn identity(&self, addr: Addr) -> Option<IdentityId> {
        self.addresses.get(addr).map(IdentityId)
    }

    /// What a list of tiers says of a peer.
    #[inline]
    #[must_use]
    pub fn decide_between(&self, tiers: TierListId, identity: IdentityId, probe: &Probe) -> Decision {
        let point = Point::of(probe);
        for tier in self.tiers_of(tiers) {
            let known = self.first_match(tier.ruleset(), identity, point);
            // Read in either case: a branch on whether a rule matches is one that no processor can predict.
            let outcome = known.unwrap_or(tier.end());
            if let Then::Settle(verdict) = Then::of_word(outcome.then) {
                return Decision { verdict, rule: known.map(|_| outcome.rule) };
            }
        }
        Decision::DEFAULT_DENY
    }

    #[inline]
    fn tiers_of(&self, tiers: TierListId) -> impl Iterator<Item = &Tier> {
        self.tier_lists.get(tiers.0 as usize).into_iter().flatten().take_while(|tier| **tier != Tier::NONE)
    }

    /// The first rule of a ruleset that matches, if one does.
    #[inline]
    fn first_match(&self, ruleset: RulesetId, identity: IdentityId, point: Point) -> Option<&Outcome> {
        let mut first = NOWHERE;
        let mut at = identity.0;
        while let Some(row) = self.identities.get(at as usize) {
            if let Some(entry) = row.entry(ruleset, &self.further) {
                first = first.min(entry.base + self.lists.find(entry.list, point));
            }
            if row.parent == at {
                break;
            }
            at = row.parent;
        }
        let from = self.rulesets.get(ruleset.0 as usize).copied().unwrap_or(NOWHERE);
        self.rules.get((from + first) as usize)
    }

    /// Whether an address is of the members of the same groups as in the compilation that this one was made after.
    #[must_use]
    pub fn is_same_peer(&self, before: &Self, addr: Addr) -> bool {
        match (self.addresses.get(addr), before.addresses.get(addr)) {
            (Some(now), Some(was)) => self.numbers.has_same_groups(now, &before.numbers, was),
            (now, was) => now.is_none() && was.is_none(),
        }
    }

    /// How large it is.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            tier_lists: self.numbers.tier_lists.known(),
            rulesets: self.numbers.rulesets.known(),
            rules: self.rules.len(),
            identities: self.numbers.identities.known(),
            ranges: self.addresses.ranges(),
            depth: self.depth as usize,
            entries: self.identities.iter().filter(|row| row.entry != Entry::NONE).count()
                + self.further.len(),
            lists: self.lists.len(),
            intervals: self.lists.intervals(),
            resident_bytes: size_of::<Self>()
                + size_of_val(&*self.endpoints)
                + size_of_val(&*self.tier_lists)
                + size_of_val(&*self.rulesets)
                + size_of_val(&*self.rules)
                + size_of_val(&*self.does)
                + size_of_val(&*self.tells_flows_apart)
                + size_of_val(&*self.stateless)
                + size_of_val(&*self.identities)
                + size_of_val(&*self.further)
                + self.addresses.bytes()
                + self.lists.bytes()
                + self.numbers.bytes()
                + self.peers.bytes(),
        }
    }
}

impl Tier {
    const NONE: Self = Self(words::NO_TIER);

    const fn new(ruleset: RulesetId, passes: bool) -> Self {
        Self(ruleset.0 | if passes { words::END_PASSES } else { 0 })
    }

    #[inline]
    const fn ruleset(self) -> RulesetId {
        RulesetId(self.0 & !words::END_PASSES)
    }

    /// What it does where no rule matches
    #[inline]
    const fn end(self) -> &'static Outcome {
        if self.0 & words::END_PASSES == 0 { &Outcome::DENY } else { &Outcome::PASS }
    }
}

impl Outcome {
    const DENY: Self = Self { rule: RuleId(0), then: Then::Settle(Verdict::DENY).word() };
    const PASS: Self = Self { rule: RuleId(0), then: Then::Pass.word() };

    const fn of(rule: &Rule) -> Self {
        Self { rule: rule.id, then: rule.then.word() }
    }
}

impl IdentityRow {
    #[inline]
    fn entry<'a>(&'a self, ruleset: RulesetId, further: &'a [Entry]) -> Option<&'a Entry> {
        if self.entry.ruleset == ruleset {
            return Some(&self.entry);
        }
        let own = further.get(self.further_from as usize..self.further_to as usize)?;
        own.binary_search_by_key(&ruleset, |entry| entry.ruleset).ok().and_then(|at| own.get(at))
    }
}

impl Entry {
    /// Of an identity that no ruleset speaks of
    const NONE: Self = Self { ruleset: RulesetId(u32::MAX), list: ListId::NONE, base: 0 };
}

impl Budget {
    fn spend(&mut self, entries: usize) -> Result<(), CompileError> {
        self.left = self.left.checked_sub(entries).ok_or(CompileError::TooLarge { limit: self.limit })?;
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;
