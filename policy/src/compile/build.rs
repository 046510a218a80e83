//! From the source form to the tables: check, number the rulesets, find the identities, collapse the services.

use std::collections::{BTreeSet, HashMap, HashSet};

use eastgate_wire::{Addr, EndpointId, Family};

use super::{
    Budget, CompileError, Compiled, Entry, IdentityRow, Outcome, RulesetId, Tier, TierListId,
    address::{AddressMap, Prefix},
    intervals,
    numbers::{IdentityKey, Numbering, Numbers},
};
use crate::rule::{self, Direction, GroupId, MAX_TIERS, Peer, Rule, Service, Source, TierEnd};

const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

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
    let rows = rows(&rulesets, &identities, budget)?;

    let mut lists = intervals::Builder::new(budget);
    let mut further = Vec::new();
    let mut table: Vec<_> = identities
        .parents
        .iter()
        .map(|&parent| IdentityRow { parent, entry: Entry::NONE, further_from: 0, further_to: 0 })
        .collect();
    let mut collapsed = Vec::new();
    for same in rows.chunk_by(|a, b| (a.identity, a.ruleset) == (b.identity, b.ruleset)) {
        let Some(first) = same.first() else { continue };
        let rules = rulesets.rules(first.ruleset);
        collapsed.clear();
        collapsed.extend(same.iter().filter_map(|row| Some((row.rank, *rules.get(row.rank as usize)?))));
        let list = lists.list(&collapsed)?;
        let entry = Entry { ruleset: RulesetId(first.ruleset), list, base: first.rank };
        let Some(row) = table.get_mut(first.identity as usize) else { continue };
        if row.entry == Entry::NONE {
            row.entry = entry;
            continue;
        }
        if row.further_to == 0 {
            row.further_from = further.len() as u32;
        }
        further.push(entry);
        row.further_to = further.len() as u32;
    }
    let asks = |ruleset| rulesets.rules(ruleset).iter().any(|rule| tells_flows_apart(rule));
    let tells_flows_apart = (0..rulesets.len()).map(asks).collect();
    let is_stateless = |ruleset| rulesets.rules(ruleset).iter().any(|rule| rule.then.is_stateless());
    let stateless: Box<[bool]> = (0..rulesets.len()).map(is_stateless).collect();
    let has_helpers = rulesets.flat.iter().any(|rule| rule.then.has_helper());
    let outcome = |rule: &Rule| Outcome { rule: rule.id, then: rule.then.word() };
    let rules = rulesets.flat.iter().map(|rule| outcome(rule)).collect();
    let mut does: Vec<Outcome> = source
        .groups
        .iter()
        .flat_map(|group| group.ingress.iter().chain(&group.egress))
        .map(outcome)
        .collect();
    does.sort_by_key(|outcome| outcome.rule);
    does.dedup_by_key(|outcome| outcome.rule);
    let (starts, flat, ranges) = (rulesets.starts(), rulesets.flat, rulesets.ranges);
    numbers.close(|ruleset| rules_in(&flat, &ranges, ruleset), &identities.members);
    Ok(Compiled {
        endpoints: tier_lists.of_endpoints.into(),
        tier_lists: tier_lists.all.into(),
        rules,
        does: does.into(),
        tells_flows_apart,
        has_stateless: stateless.contains(&true),
        stateless,
        has_helpers,
        rulesets: starts,
        numbers,
        addresses: identities.addresses,
        depth: identities.depth,
        identities: table.into(),
        further: further.into(),
        lists: lists.finish(),
    })
}

fn tells_flows_apart(rule: &Rule) -> bool {
    matches!(rule.service, Service::Ports { source: Some(_), .. })
        || rule.dscp.is_some()
        || rule.tcp_flags.is_some()
}

/// Refuses what would otherwise be read as something else, in groups that nobody is in as well.
fn check(source: &Source) -> Result<(), CompileError> {
    let known = |group: GroupId| (group.0 as usize) < source.groups.len();
    for rule in source.groups.iter().flat_map(|group| group.ingress.iter().chain(&group.egress)) {
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
    families: Vec<Family>,
    depth: u32,
    /// Identity -> the groups whose members it is of
    members: Vec<BTreeSet<GroupId>>,
    /// Prefix that a rule names -> its identity; sorted
    of_prefixes: Vec<(Prefix, u32)>,
    /// Group that a rule names, and an identity its members have; sorted
    of_groups: Vec<(GroupId, u32)>,
}

impl Identities {
    fn of(
        source: &Source,
        rulesets: &Rulesets<'_, '_>,
        numbers: &mut Numbering<IdentityKey>,
        budget: &mut Budget,
    ) -> Result<Self, CompileError> {
        let selectors = selectors(source, rulesets, numbers, budget)?;
        let mut all = Self {
            addresses: AddressMap::new(&[], 0),
            parents: Vec::new(),
            families: Vec::new(),
            members: Vec::new(),
            depth: 1,
            of_prefixes: Vec::new(),
            of_groups: Vec::new(),
        };
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
                    *row(&mut all.parents, number, u32::MAX) = parent.unwrap_or(number);
                    *row(&mut all.families, number, Family::V4) = prefix.family();
                    let wider = parent.and_then(|parent| all.members.get(parent as usize).cloned());
                    let mut members = wider.unwrap_or_default();
                    members.extend(&groups);
                    *row(&mut all.members, number, BTreeSet::new()) = members;
                    number
                }
            };
            if named {
                all.of_prefixes.push((prefix, identity));
            }
            all.of_groups.extend(groups.into_iter().map(|group| (group, identity)));
            numbered.push((prefix, identity));
            open.push((prefix, identity));
            all.depth = all.depth.max(open.len() as u32);
        }
        all.of_groups.sort_unstable();
        all.of_groups.dedup();
        all.addresses = AddressMap::new(&numbered, u32::MAX);
        Ok(all)
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
    numbers: &Numbering<IdentityKey>,
    budget: &mut Budget,
) -> Result<Vec<(Prefix, Selector)>, CompileError> {
    let mut named_groups = vec![false; source.groups.len()];
    let mut selectors: Vec<_> = WHOLE.map(|family| (Prefix::whole(family), Selector::Prefix)).into();
    let named_before: HashSet<Prefix> = numbers.before().filter_map(|key| key.named).collect();
    let prefix_of = |rule: &Rule| match rule.peer {
        Peer::Prefix { network, len } => Prefix::new(network, len),
        _ => None,
    };
    selectors.extend(
        rulesets.flat.iter().filter_map(|rule| prefix_of(rule)).map(|prefix| (prefix, Selector::Prefix)),
    );
    for rule in source.groups.iter().flat_map(|group| group.ingress.iter().chain(&group.egress)) {
        if let Peer::Group(group) = rule.peer
            && let Some(named) = named_groups.get_mut(group.0 as usize)
        {
            *named = true;
        }
        if !named_before.is_empty() {
            let kept = prefix_of(rule).filter(|prefix| named_before.contains(prefix));
            selectors.extend(kept.map(|prefix| (prefix, Selector::Prefix)));
        }
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

/// A rule of a ruleset is about an identity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    identity: u32,
    ruleset: u32,
    /// The rule's place in the ruleset
    rank: u32,
}

fn rows(
    rulesets: &Rulesets<'_, '_>,
    identities: &Identities,
    budget: &mut Budget,
) -> Result<Vec<Row>, CompileError> {
    let mut rows = Vec::with_capacity(rulesets.flat.len());
    for ruleset in 0..rulesets.len() {
        for (rule, rank) in rulesets.rules(ruleset).iter().zip(0..) {
            let before = rows.len();
            rows.extend(identities.of_rule(rule).map(|identity| Row { identity, ruleset, rank }));
            budget.spend(rows.len() - before)?;
        }
    }
    rows.sort_unstable();
    Ok(rows)
}
