//! A change of some groups' rules: what does not follow from these is taken over from the compilation before.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    Budget, Compiled, DEFAULT_ENTRY_LIMIT, Entry, Known, Outcome, RulesetId,
    build::{self, DIRECTIONS, add_entries, has_helpers, placed, tells_flows_apart},
    intervals::{self, ListId},
};
use crate::rule::{Direction, Group, GroupId, Peer, Rule, RuleId};

/// Prefixes that lie deeper in each other are compiled anew: each look-up asks all of them, whether or not rules name them still.
const DEEP: u32 = 16;

/// Compiles what `before` was compiled from with other rules in its groups, where these are about peers which are told apart
/// already. None where there are other groups, or where too much would be left over of what was before.
pub(super) fn rebuild(all: &[Arc<Group>], before: &Compiled) -> Option<Compiled> {
    let changed = changed(all, before)?;
    let forgotten = before.source.forgotten + forgotten(all, before, &changed);
    if before.lists.are_stale() || before.peers.are_stale(forgotten) || before.depth > DEEP {
        return None;
    }
    let is_changed = |(_, direction, groups): &(RulesetId, Direction, &[GroupId])| {
        groups.iter().any(|group| changed.contains(&(*direction, *group)))
    };
    let rulesets = in_place(before);
    let mut is_other = vec![false; before.rulesets.len()];
    let mut others: Vec<(RulesetId, Vec<&Rule>)> = Vec::new();
    for (ruleset, direction, groups) in rulesets.iter().filter(|ruleset| is_changed(ruleset)) {
        *is_other.get_mut(ruleset.0 as usize)? = true;
        others.push((*ruleset, rules_of(all, *direction, groups).collect()));
    }
    let stays = |(_, entry): &(u32, Entry)| is_other.get(entry.ruleset.0 as usize) == Some(&false);
    let (mut entries, gone): (Vec<_>, Vec<_>) = entries(before).partition(stays);
    let (lists, spent) = lists(&others, before, &gone, &mut entries)?;
    let parents: Vec<u32> = before.identities.iter().map(|row| row.parent).collect();
    let (identities, further) = placed(entries, &parents);
    let mut rules: Vec<Outcome> = Vec::with_capacity(before.rules.len());
    let mut starts = before.rulesets.clone();
    for (ruleset, direction, groups) in rulesets {
        let at = ruleset.0 as usize;
        *starts.get_mut(at)? = rules.len() as u32;
        if *is_other.get(at)? {
            rules.extend(rules_of(all, direction, groups).map(Outcome::of));
        } else {
            let start = *before.rulesets.get(at)? as usize;
            let len = rules_of(&before.source.groups, direction, groups).count();
            rules.extend(before.rules.get(start..start + len)?);
        }
    }
    let (mut numbers, mut asks) = (before.numbers.clone(), before.tells_flows_apart.clone());
    let mut stateless = before.stateless.clone();
    for (ruleset, own) in &others {
        let at = ruleset.0 as usize;
        numbers.says(*ruleset, own);
        *asks.get_mut(at)? = own.iter().any(|rule| tells_flows_apart(rule));
        *stateless.get_mut(at)? = own.iter().any(|rule| rule.then.is_stateless());
    }
    let (does, shared) = does(all, before, &changed);
    Some(Compiled {
        endpoints: before.endpoints.clone(),
        tier_lists: before.tier_lists.clone(),
        addresses: before.addresses.clone(),
        peers: before.peers.clone(),
        depth: before.depth,
        has_helpers: has_helpers(&rules),
        rules: rules.into(),
        does,
        has_stateless: stateless.contains(&true),
        tells_flows_apart: asks,
        stateless,
        rulesets: starts,
        identities,
        further,
        lists,
        numbers,
        source: Known { groups: all.to_vec(), endpoints: before.source.endpoints, shared, forgotten },
        spent,
    })
}

/// The lists with those of rulesets that changed, whose entries are added, and the table entries that all have taken. `gone`
/// are the entries that these rulesets had.
fn lists(
    others: &[(RulesetId, Vec<&Rule>)],
    before: &Compiled,
    gone: &[(u32, Entry)],
    entries: &mut Vec<(u32, Entry)>,
) -> Option<(intervals::Lists, usize)> {
    let limit = DEFAULT_ENTRY_LIMIT;
    let left = limit.checked_sub(before.spent)?;
    let gone = unused(gone, entries);
    // Twice: what comes out the same keeps its place, and only then it is known where there is room.
    let mut budget = Budget { limit, left };
    let mut lists = intervals::Builder::after(&before.lists, &gone, &[], &mut budget);
    let mut new = Vec::new();
    for (ruleset, rules) in others {
        add_entries(*ruleset, rules, &before.peers, &mut lists, &mut new).ok()?;
    }
    let again: BTreeSet<ListId> = new.iter().map(|(_, entry)| entry.list).collect();
    let (same, gone): (Vec<ListId>, Vec<ListId>) = gone.into_iter().partition(|list| again.contains(list));
    let mut budget = Budget { limit, left };
    let mut lists = intervals::Builder::after(&before.lists, &same, &gone, &mut budget);
    for (ruleset, rules) in others {
        // As much as a compilation of the whole counts, so that none refuses what was in force.
        lists.spend(1 + rules.len()).ok()?;
        add_entries(*ruleset, rules, &before.peers, &mut lists, entries).ok()?;
    }
    let lists = lists.finish();
    Some((lists, limit - budget.left))
}

/// The groups whose rules are others, by direction; none where anything else is, or a rule is about a peer that is not told apart.
fn changed(groups: &[Arc<Group>], before: &Compiled) -> Option<BTreeSet<(Direction, GroupId)>> {
    let known = &before.source.groups;
    if groups.len() != known.len() {
        return None;
    }
    let mut changed = BTreeSet::new();
    let both = groups.iter().zip(known).zip(0..);
    // The same allocation is the same at a glance.
    for ((now, was), id) in both.filter(|((now, was), _)| !Arc::ptr_eq(now, was) && now != was) {
        for direction in DIRECTIONS {
            let [now, was] = [now, was].map(|group| group.rules(direction));
            if now == was {
                continue;
            }
            // Which rulesets there are depends on which groups have rules.
            if now.is_empty() != was.is_empty() || !now.iter().all(|rule| before.peers.knows(rule)) {
                return None;
            }
            changed.insert((direction, GroupId(id)));
        }
    }
    Some(changed)
}

/// The lists that only entries that go have asked.
fn unused(gone: &[(u32, Entry)], stay: &[(u32, Entry)]) -> Vec<ListId> {
    let of = |entries: &[(u32, Entry)]| -> Vec<ListId> {
        let mut lists: Vec<ListId> = entries.iter().map(|(_, entry)| entry.list).collect();
        lists.sort_unstable();
        lists.dedup();
        lists
    };
    let (mut gone, used) = (of(gone), of(stay));
    gone.retain(|list| used.binary_search(list).is_err());
    gone
}

/// How many peers may be told apart for rules that have gone, at most.
fn forgotten(groups: &[Arc<Group>], before: &Compiled, changed: &BTreeSet<(Direction, GroupId)>) -> usize {
    let peers = |groups: &[Arc<Group>], (direction, group): (Direction, GroupId)| -> BTreeSet<Peer> {
        rules_in(groups, direction, group).iter().map(|rule| rule.peer).collect()
    };
    let of_one = |of: &(Direction, GroupId)| {
        let [was, is] = [&before.source.groups, groups].map(|groups| peers(groups, *of));
        was.difference(&is).count()
    };
    changed.iter().map(of_one).sum()
}

/// [`build::does`], where only these groups have other rules than before.
fn does(
    groups: &[Arc<Group>],
    before: &Compiled,
    changed: &BTreeSet<(Direction, GroupId)>,
) -> (Box<[Outcome]>, Box<[RuleId]>) {
    let of_changed =
        |all| build::outcomes(changed.iter().map(|(direction, of)| rules_in(all, *direction, *of)));
    let [gone, come] = [&before.source.groups, groups].map(of_changed);
    let find =
        |of: &[Outcome], rule| of.binary_search_by_key(&rule, |outcome: &Outcome| outcome.rule).is_ok();
    let is_shared = |it: &Outcome| before.source.shared.binary_search(&it.rule).is_ok();
    let is_elsewhere = |it: &Outcome| find(&before.does, it.rule) && !find(&gone, it.rule);
    let twice = come.windows(2).any(|pair| pair[0].rule == pair[1].rule);
    if twice || gone.iter().any(is_shared) || come.iter().any(is_elsewhere) {
        return build::does(groups);
    }
    let stay = before.does.iter().filter(|outcome| !find(&gone, outcome.rule)).copied();
    let mut all: Vec<Outcome> = stay.chain(come).collect();
    all.sort_by_key(|outcome| outcome.rule);
    (all.into(), before.source.shared.clone())
}

/// The rulesets in the order in which their rules lie.
fn in_place(before: &Compiled) -> Vec<(RulesetId, Direction, &[GroupId])> {
    let all = before.numbers.rulesets.all();
    let mut all: Vec<_> =
        all.map(|((direction, groups), number)| (RulesetId(number), *direction, &**groups)).collect();
    all.sort_by_key(|(RulesetId(number), ..)| (before.rulesets.get(*number as usize).copied(), *number));
    all
}

fn rules_of<'s>(
    all: &'s [Arc<Group>],
    direction: Direction,
    groups: &'s [GroupId],
) -> impl Iterator<Item = &'s Rule> {
    groups.iter().flat_map(move |group| rules_in(all, direction, *group))
}

fn rules_in(all: &[Arc<Group>], direction: Direction, group: GroupId) -> &[Rule] {
    all.get(group.0 as usize).map_or(&[], |group| group.rules(direction))
}

/// What rulesets say of identities.
fn entries(compiled: &Compiled) -> impl Iterator<Item = (u32, Entry)> {
    compiled.identities.iter().zip(0..).flat_map(|(row, identity)| {
        let own = compiled.further.get(row.further_from as usize..row.further_to as usize);
        let first = Some(row.entry).filter(|entry| *entry != Entry::NONE);
        first.into_iter().chain(own.into_iter().flatten().copied()).map(move |entry| (identity, entry))
    })
}
