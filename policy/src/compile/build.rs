//! From the source form to the tables: check, number the rulesets, find the identities, collapse the services.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use eastgate_wire::{Addr, EndpointId, Family};

use super::{
    Budget, CompileError, Compiled, Entry, IdentityRow, Known, Outcome, RulesetId, Tier, TierListId,
    address::{AddressMap, Prefix},
    intervals,
    numbers::{Digest, IdentityKey, Numbering, Numbers},
};
use crate::rule::{
    self, Direction, Group, GroupId, MAX_TIERS, Peer, Rule, RuleId, Service, Source, Then, TierEnd,
};

pub(super) const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

const WHOLE: [Family; 2] = [Family::V4, Family::V6];

pub(super) fn build(
    source: &Source,
    before: Option<&Compiled>,
    budget: &mut Budget,
) -> Result<Compiled, CompileError> {
    check(source)?;
    let mut numbers = Numbers::after(before.map(|before| &before.numbers));
    let mut rulesets = Rulesets { numbers: &mut numbers.rulesets, ranges: Vec::new(), flat: Vec::new() };
    let tier_lists = TierLists::of(source, &mut rulesets, &mut numbers.tier_lists, budget)?;
    let identities = Identities::of(source, &rulesets, &mut numbers.identities, budget)?;
    let mut lists = intervals::Builder::new(budget);
    let mut entries = Vec::with_capacity(rulesets.flat.len());
    for ruleset in 0..rulesets.len() {
        let rules = rulesets.rules(ruleset);
        add_entries(RulesetId(ruleset), rules, &identities.peers, &mut lists, &mut entries)?;
    }
    let (table, further) = placed(entries, &identities.parents);
    let asks = |ruleset| rulesets.rules(ruleset).iter().any(|rule| tells_flows_apart(rule));
    let tells_flows_apart = (0..rulesets.len()).map(asks).collect();
    let is_stateless = |ruleset| rulesets.rules(ruleset).iter().any(|rule| rule.then.is_stateless());
    let stateless: Box<[bool]> = (0..rulesets.len()).map(is_stateless).collect();
    let rules: Box<[Outcome]> = rulesets.flat.iter().map(|rule| Outcome::of(rule)).collect();
    let (starts, flat, ranges) = (rulesets.starts(), rulesets.flat, rulesets.ranges);
    numbers.close(|ruleset| rules_in(&flat, &ranges, ruleset), &identities.members);
    let lists = lists.finish();
    let (does, shared) = does(&source.groups);
    Ok(Compiled {
        endpoints: tier_lists.of_endpoints.into(),
        tier_lists: tier_lists.all.into(),
        has_helpers: has_helpers(&rules),
        rules,
        does,
        tells_flows_apart,
        has_stateless: stateless.contains(&true),
        stateless,
        rulesets: starts,
        numbers,
        addresses: identities.addresses,
        depth: identities.depth,
        peers: Arc::new(identities.peers),
        identities: table,
        further,
        lists,
        source: Known {
            groups: source.groups.clone(),
            endpoints: Digest::of(&source.endpoints),
            shared,
            forgotten: 0,
        },
        spent: budget.limit - budget.left,
    })
}

/// What each rule does, by its number; and the numbers that rules of several groups or directions have.
pub(super) fn does(groups: &[Arc<Group>]) -> (Box<[Outcome]>, Box<[RuleId]>) {
    let mut does =
        outcomes(groups.iter().flat_map(|group| DIRECTIONS.map(|direction| group.rules(direction))));
    let several = does.windows(2).filter(|pair| pair[0].rule == pair[1].rule);
    let mut shared: Vec<RuleId> = several.map(|pair| pair[0].rule).collect();
    shared.dedup();
    does.dedup_by_key(|outcome| outcome.rule);
    (does.into(), shared.into())
}

/// What the rules of these lists do, by their numbers: one for each list that has a rule.
pub(super) fn outcomes<'r>(lists: impl Iterator<Item = &'r [Rule]>) -> Vec<Outcome> {
    // What a list has of a rule lies together.
    let rules = lists.flat_map(|list| list.chunk_by(|a, b| a.id == b.id).filter_map(<[Rule]>::first));
    let mut outcomes: Vec<Outcome> = rules.map(Outcome::of).collect();
    outcomes.sort_by_key(|outcome| outcome.rule);
    outcomes
}

pub(super) fn has_helpers(rules: &[Outcome]) -> bool {
    rules.iter().any(|outcome| Then::of_word(outcome.then).has_helper())
}

pub(super) fn tells_flows_apart(rule: &Rule) -> bool {
    matches!(rule.service, Service::Ports { source: Some(_), .. })
        || rule.dscp.is_some()
        || rule.tcp_flags.is_some()
}

/// Refuses what would otherwise be read as something else, in groups that nobody is in as well.
fn check(source: &Source) -> Result<(), CompileError> {
    let known = |group: GroupId| (group.0 as usize) < source.groups.len();
    for rule in source.groups.iter().flat_map(|group| group.all_rules()) {
        match rule.peer {
            Peer::Group(group) if !known(group) => {
                return Err(CompileError::UnknownPeerGroup { rule: rule.id, group });
            }
            Peer::Prefix { network, len } if Prefix::new(network, len).is_none() => {
                return Err(CompileError::BadPeerPrefix { rule: rule.id, network, len });
            }
            _ => {}
        }
    }
    for (endpoint, at) in source.endpoints.iter().zip(0..) {
        let at = EndpointId(at);
        for tiers in DIRECTIONS.map(|direction| endpoint.tiers(direction)) {
            if tiers.len() > MAX_TIERS {
                return Err(CompileError::TooManyTiers { endpoint: at, tiers: tiers.len() });
            }
        }
        let tiers = endpoint.ingress.iter().chain(endpoint.egress.iter());
        let mut groups = endpoint.groups.iter().chain(tiers.flat_map(|tier| &tier.groups));
        if let Some(&group) = groups.find(|group| !known(**group)) {
            return Err(CompileError::UnknownGroup { endpoint: at, group });
        }
        let bad = |(network, len): &&(Addr, u8)| Prefix::new(*network, *len).is_none();
        if let Some(&(network, len)) = endpoint.addresses.iter().find(bad) {
            return Err(CompileError::BadAddress { endpoint: at, network, len });
        }
    }
    Ok(())
}

/// The distinct lists of tiers, and who has which.
struct TierLists {
    of_endpoints: Vec<[TierListId; 2]>,
    all: Vec<[Tier; MAX_TIERS]>,
}

impl TierLists {
    fn of<'s>(
        source: &'s Source,
        rulesets: &mut Rulesets<'s, '_>,
        numbers: &mut Numbering<[Tier; MAX_TIERS]>,
        budget: &mut Budget,
    ) -> Result<Self, CompileError> {
        let mut lists = Self { of_endpoints: Vec::with_capacity(source.endpoints.len()), all: vec![] };
        // Lists that several have are told from their contents once.
        let mut known: [HashMap<*const rule::Tier, TierListId>; 2] = Default::default();
        for endpoint in &source.endpoints {
            let mut pair = [TierListId(0); 2];
            for ((direction, number), known) in DIRECTIONS.into_iter().zip(&mut pair).zip(&mut known) {
                let tiers = endpoint.tiers(direction);
                if let Some(same) = known.get(&tiers.as_ptr()) {
                    *number = *same;
                    continue;
                }
                let mut list = [Tier::NONE; MAX_TIERS];
                for (tier, at) in tiers.iter().zip(&mut list) {
                    let ruleset = rulesets.number(source, direction, &tier.groups, budget)?;
                    *at = Tier::new(ruleset, tier.end == TierEnd::Pass);
                }
                *number = TierListId(match numbers.get(&list) {
                    Some(known) => known,
                    None => {
                        budget.spend(1)?;
                        let number = numbers.add(list);
                        *row(&mut lists.all, number, [Tier::NONE; MAX_TIERS]) = list;
                        number
                    }
                });
                known.insert(tiers.as_ptr(), *number);
            }
            lists.of_endpoints.push(pair);
        }
        Ok(lists)
    }
}

/// The row with a number, in a table that may have holes.
fn row<T: Clone>(table: &mut Vec<T>, number: u32, hole: T) -> &mut T {
    let at = number as usize;
    if table.len() <= at {
        table.resize(at + 1, hole);
    }
    &mut table[at]
}

/// The distinct ordered rule lists.
struct Rulesets<'s, 'n> {
    numbers: &'n mut Numbering<(Direction, Vec<GroupId>)>,
    /// Ruleset -> where its rules are in `flat`; nowhere where no ruleset has the number
    ranges: Vec<(u32, u32)>,
    flat: Vec<&'s Rule>,
}

fn rules_in<'a, 's>(flat: &'a [&'s Rule], ranges: &[(u32, u32)], ruleset: u32) -> &'a [&'s Rule] {
    let (from, to) = ranges.get(ruleset as usize).copied().unwrap_or_default();
    flat.get(from as usize..to as usize).unwrap_or(&[])
}

impl<'s> Rulesets<'s, '_> {
    /// The list that these groups' rules make.
    fn number(
        &mut self,
        source: &'s Source,
        direction: Direction,
        named: &[GroupId],
        budget: &mut Budget,
    ) -> Result<RulesetId, CompileError> {
        let rules = |id: &GroupId| source.groups.get(id.0 as usize).map_or(&[][..], |g| g.rules(direction));
        let mut groups: Vec<GroupId> = Vec::with_capacity(named.len());
        for id in named {
            if !groups.contains(id) && !rules(id).is_empty() {
                groups.push(*id);
            }
        }
        let key = (direction, groups);
        if let Some(known) = self.numbers.get(&key) {
            return Ok(RulesetId(known));
        }
        budget.spend(1 + key.1.iter().map(|id| rules(id).len()).sum::<usize>())?;
        let from = self.flat.len() as u32;
        self.flat.extend(key.1.iter().flat_map(rules));
        let number = self.numbers.add(key);
        *row(&mut self.ranges, number, (0, 0)) = (from, self.flat.len() as u32);
        Ok(RulesetId(number))
    }

    fn len(&self) -> u32 {
        self.ranges.len() as u32
    }

    fn starts(&self) -> Box<[u32]> {
        self.ranges.iter().map(|(from, _)| *from).collect()
    }

    fn rules(&self, ruleset: u32) -> &[&'s Rule] {
        rules_in(&self.flat, &self.ranges, ruleset)
    }
}

/// What the addresses are told apart by.
struct Identities {
    addresses: AddressMap,
    parents: Vec<u32>,
    depth: u32,
    /// Identity -> the groups whose members it is of
    members: Vec<BTreeSet<GroupId>>,
    peers: Peers,
}

/// Peers that may be told apart for nothing however few there are
const STALE: usize = 16;

/// Whom rules can be about, without telling addresses apart any further.
#[derive(Debug)]
pub(super) struct Peers {
    /// Identity -> its family
    families: Vec<Family>,
    /// Prefix that a rule names -> its identity; sorted
    of_prefixes: Vec<(Prefix, u32)>,
    /// Group that a rule names, and an identity its members have; sorted
    of_groups: Vec<(GroupId, u32)>,
    /// Group -> whether a rule names it
    named: Vec<bool>,
}

impl Identities {
    fn of(
        source: &Source,
        rulesets: &Rulesets<'_, '_>,
        numbers: &mut Numbering<IdentityKey>,
        budget: &mut Budget,
    ) -> Result<Self, CompileError> {
        let mut peers =
            Peers { families: vec![], of_prefixes: vec![], of_groups: vec![], named: named_groups(source) };
        let selectors = selectors(source, rulesets, &peers.named, numbers, budget)?;
        let (mut parents, mut members, mut depth) = (Vec::new(), Vec::new(), 1);
        let mut numbered = Vec::new();
        let mut open: Vec<(Prefix, u32)> = Vec::new();
        for same in selectors.chunk_by(|a, b| a.0 == b.0) {
            let Some(&(prefix, _)) = same.first() else { continue };
            while open.last().is_some_and(|(outer, _)| !outer.contains(prefix)) {
                open.pop();
            }
            let named = same.iter().any(|(_, selector)| *selector == Selector::Prefix);
            let groups: Vec<GroupId> = same.iter().filter_map(|(_, selector)| selector.group()).collect();
            let parent = open.last().map(|(_, identity)| *identity);
            // A prefix that a rule names is told from all others; the rest differ only by their groups.
            let key = IdentityKey {
                parent,
                named: (named || parent.is_none()).then_some(prefix),
                groups: groups.clone(),
            };
            let identity = match numbers.get(&key) {
                Some(known) => known,
                None => {
                    let number = numbers.add(key);
                    *row(&mut parents, number, u32::MAX) = parent.unwrap_or(number);
                    *row(&mut peers.families, number, Family::V4) = prefix.family();
                    let wider = parent.and_then(|parent| members.get(parent as usize).cloned());
                    let mut of: BTreeSet<GroupId> = wider.unwrap_or_default();
                    of.extend(&groups);
                    *row(&mut members, number, BTreeSet::new()) = of;
                    number
                }
            };
            if named {
                peers.of_prefixes.push((prefix, identity));
            }
            peers.of_groups.extend(groups.into_iter().map(|group| (group, identity)));
            numbered.push((prefix, identity));
            open.push((prefix, identity));
            depth = depth.max(open.len() as u32);
        }
        peers.of_groups.sort_unstable();
        peers.of_groups.dedup();
        Ok(Self { addresses: AddressMap::new(&numbered, u32::MAX), parents, depth, members, peers })
    }
}

impl Peers {
    /// Whether addresses are told apart as far as a rule needs.
    pub(super) fn knows(&self, rule: &Rule) -> bool {
        match rule.peer {
            Peer::Any => true,
            Peer::Prefix { network, len } => {
                let find = |prefix| self.of_prefixes.binary_search_by_key(&prefix, |(known, _)| *known);
                Prefix::new(network, len).is_some_and(|prefix| find(prefix).is_ok())
            }
            Peer::Group(group) => self.named.get(group.0 as usize) == Some(&true),
        }
    }

    /// Whether half of them may be told apart for nothing, where rules have forgotten so many.
    pub(super) fn are_stale(&self, forgotten: usize) -> bool {
        2 * forgotten > self.of_prefixes.len() + self.of_groups.len() + STALE
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.families)
            + size_of_val(&*self.of_prefixes)
            + size_of_val(&*self.of_groups)
            + size_of_val(&*self.named)
    }

    /// The identities that a rule is about.
    fn of_rule<'a>(&'a self, rule: &'a Rule) -> impl Iterator<Item = u32> + 'a {
        let prefixes: [Option<Prefix>; 2] = match rule.peer {
            Peer::Any => WHOLE.map(|family| Some(Prefix::whole(family))),
            Peer::Prefix { network, len } => [Prefix::new(network, len), None],
            Peer::Group(_) => [None; 2],
        };
        let named = prefixes.into_iter().flatten().filter_map(|prefix| {
            let at = self.of_prefixes.binary_search_by_key(&prefix, |(p, _)| *p).ok()?;
            self.of_prefixes.get(at).map(|(_, identity)| *identity)
        });
        let members = match rule.peer {
            Peer::Group(group) => {
                let from = self.of_groups.partition_point(|(g, _)| *g < group);
                let to = self.of_groups.partition_point(|(g, _)| *g <= group);
                self.of_groups.get(from..to).unwrap_or(&[])
            }
            _ => &[],
        };
        let icmp = match rule.service {
            Service::Icmp { family, .. } => Some(family),
            _ => None,
        };
        let family_fits = move |identity: &u32| {
            let family = self.families.get(*identity as usize);
            [rule.family, icmp].into_iter().flatten().all(|wanted| family == Some(&wanted))
        };
        named.chain(members.iter().map(|(_, identity)| *identity)).filter(family_fits)
    }
}

/// Why a prefix is told apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Selector {
    /// A rule names it, or it is a whole family.
    Prefix,
    /// A rule names this group, and a member has it as address.
    Group(GroupId),
}

impl Selector {
    const fn group(self) -> Option<GroupId> {
        match self {
            Self::Prefix => None,
            Self::Group(group) => Some(group),
        }
    }
}

/// Every prefix that is told from others, with the reason; sorted, a prefix before those in it.
///
/// Groups are told apart wherever a rule names them, whether or not an endpoint has that rule: who is in which must not
/// depend on who else is there. Prefixes are many, so that those are told apart that a rule in use names, or that one did in
/// the compilation before and still could.
fn selectors(
    source: &Source,
    rulesets: &Rulesets<'_, '_>,
    named_groups: &[bool],
    numbers: &Numbering<IdentityKey>,
    budget: &mut Budget,
) -> Result<Vec<(Prefix, Selector)>, CompileError> {
    let mut selectors: Vec<_> = WHOLE.map(|family| (Prefix::whole(family), Selector::Prefix)).into();
    let named_before: HashSet<Prefix> = numbers.before().filter_map(|key| key.named).collect();
    let prefix_of = |rule: &Rule| match rule.peer {
        Peer::Prefix { network, len } => Prefix::new(network, len),
        _ => None,
    };
    selectors.extend(
        rulesets.flat.iter().filter_map(|rule| prefix_of(rule)).map(|prefix| (prefix, Selector::Prefix)),
    );
    if !named_before.is_empty() {
        let all = source.groups.iter().flat_map(|group| group.all_rules()).filter_map(prefix_of);
        let kept = all.filter(|prefix| named_before.contains(prefix));
        selectors.extend(kept.map(|prefix| (prefix, Selector::Prefix)));
    }
    for endpoint in &source.endpoints {
        let named = endpoint.groups.iter().filter(|g| named_groups.get(g.0 as usize) == Some(&true));
        for group in named {
            budget.spend(endpoint.addresses.len())?;
            let prefixes = endpoint.addresses.iter().filter_map(|&(network, len)| Prefix::new(network, len));
            selectors.extend(prefixes.map(|prefix| (prefix, Selector::Group(*group))));
        }
    }
    selectors.sort_unstable();
    selectors.dedup();
    Ok(selectors)
}

/// The groups that some rule names as its peer.
fn named_groups(source: &Source) -> Vec<bool> {
    let mut named = vec![false; source.groups.len()];
    for rule in source.groups.iter().flat_map(|group| group.all_rules()) {
        if let Peer::Group(group) = rule.peer
            && let Some(named) = named.get_mut(group.0 as usize)
        {
            *named = true;
        }
    }
    named
}

/// Adds what a ruleset says of each identity that its rules are about.
pub(super) fn add_entries(
    ruleset: RulesetId,
    rules: &[&Rule],
    peers: &Peers,
    lists: &mut intervals::Builder<'_>,
    entries: &mut Vec<(u32, Entry)>,
) -> Result<(), CompileError> {
    let mut about = Vec::with_capacity(rules.len());
    for (rule, rank) in rules.iter().zip(0u32..) {
        let before = about.len();
        about.extend(peers.of_rule(rule).map(|identity| (identity, rank)));
        lists.spend(about.len() - before)?;
    }
    about.sort_unstable();
    let mut collapsed = Vec::new();
    for same in about.chunk_by(|a, b| a.0 == b.0) {
        let Some(&(identity, base)) = same.first() else { continue };
        collapsed.clear();
        collapsed.extend(same.iter().filter_map(|(_, rank)| Some((*rank, *rules.get(*rank as usize)?))));
        entries.push((identity, Entry { ruleset, list: lists.list(&collapsed)?, base }));
    }
    Ok(())
}

/// The identities with what rulesets say of them.
pub(super) fn placed(mut entries: Vec<(u32, Entry)>, parents: &[u32]) -> (Box<[IdentityRow]>, Box<[Entry]>) {
    entries.sort_by_key(|(identity, entry)| (*identity, entry.ruleset));
    let bare =
        |parent: &u32| IdentityRow { parent: *parent, entry: Entry::NONE, further_from: 0, further_to: 0 };
    let mut table: Box<[IdentityRow]> = parents.iter().map(bare).collect();
    let mut further = Vec::new();
    for same in entries.chunk_by(|a, b| a.0 == b.0) {
        let Some(((identity, first), others)) = same.split_first() else { continue };
        let Some(row) = table.get_mut(*identity as usize) else { continue };
        row.entry = *first;
        if !others.is_empty() {
            row.further_from = further.len() as u32;
            further.extend(others.iter().map(|(_, entry)| *entry));
            row.further_to = further.len() as u32;
        }
    }
    (table, further.into())
}
