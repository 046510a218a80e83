//! A change of some groups' rules: what does not follow from these is taken over from the compilation before.

use std::collections::BTreeSet;

use super::{
    Budget, Compiled, DEFAULT_ENTRY_LIMIT, Entry, Outcome, RulesetId,
    build::{DIRECTIONS, add_entries, does, has_helpers, placed, tells_flows_apart},
    intervals::{self, ListId},
};
use crate::rule::{Direction, GroupId, Rule, Source};

/// Compiles `source`, where it differs from `known`, of which `before` came, only by rules that are about peers which are
/// told apart already. None where more has changed, or where too much would be left over of what was before.
pub(super) fn rebuild(source: &Source, known: &Source, before: &Compiled) -> Option<Compiled> {
    let changed = changed(source, known, before)?;
    if before.lists.are_stale() {
        return None;
    }
    let is_changed = |(_, direction, groups): &(RulesetId, Direction, &[GroupId])| {
        groups.iter().any(|group| changed.contains(&(*direction, *group)))
    };
    let rulesets = in_place(before);
    let mut is_other = vec![false; before.rulesets.len()];
    for (RulesetId(number), ..) in rulesets.iter().filter(|ruleset| is_changed(ruleset)) {
        *is_other.get_mut(*number as usize)? = true;
    }
    let stays = |(_, entry): &(u32, Entry)| is_other.get(entry.ruleset.0 as usize) == Some(&false);
    let (mut entries, gone): (Vec<_>, Vec<_>) = entries(before).partition(stays);
    let mut budget =
        Budget { limit: DEFAULT_ENTRY_LIMIT, left: DEFAULT_ENTRY_LIMIT.checked_sub(before.spent)? };
    let gone = unused(&gone, &entries);
    let mut lists = intervals::Builder::after(&before.lists, gone.into_iter(), &mut budget);
    let mut numbers = before.numbers.clone();
    let mut rules: Vec<Outcome> = Vec::with_capacity(before.rules.len());
    let (mut starts, mut asks) = (before.rulesets.clone(), before.tells_flows_apart.clone());
    let mut stateless = before.stateless.clone();
    for (ruleset, direction, groups) in rulesets {
        let at = ruleset.0 as usize;
        let start = before.rulesets.get(at)?;
        *starts.get_mut(at)? = rules.len() as u32;
        if !*is_other.get(at)? {
            let len: usize = rules_of(known, direction, groups).count();
            rules.extend(before.rules.get(*start as usize..)?.get(..len)?);
            continue;
        }
        let own: Vec<&Rule> = rules_of(source, direction, groups).collect();
        rules.extend(own.iter().map(|rule| Outcome::of(rule)));
        add_entries(ruleset, &own, &before.peers, &mut lists, &mut entries).ok()?;
        numbers.says(ruleset, &own);
        *asks.get_mut(at)? = own.iter().any(|rule| tells_flows_apart(rule));
        *stateless.get_mut(at)? = own.iter().any(|rule| rule.then.is_stateless());
    }
    let parents: Vec<u32> = before.identities.iter().map(|row| row.parent).collect();
    let (identities, further) = placed(entries, &parents);
    let lists = lists.finish();
    Some(Compiled {
        endpoints: before.endpoints.clone(),
        tier_lists: before.tier_lists.clone(),
        addresses: before.addresses.clone(),
        peers: before.peers.clone(),
        depth: before.depth,
        has_helpers: has_helpers(&rules),
        rules: rules.into(),
        does: does(source),
        has_stateless: stateless.contains(&true),
        tells_flows_apart: asks,
        stateless,
        rulesets: starts,
        identities,
        further,
        lists,
        numbers,
        spent: budget.limit - budget.left,
    })
}

/// The groups whose rules are others, by direction; none where anything else is, or a rule is about a peer that is not told apart.
fn changed(source: &Source, known: &Source, before: &Compiled) -> Option<BTreeSet<(Direction, GroupId)>> {
    if source.groups.len() != known.groups.len() || source.endpoints != known.endpoints {
        return None;
    }
    let mut changed = BTreeSet::new();
    let both = source.groups.iter().zip(&known.groups).zip(0..);
    // The same allocation is the same at a glance.
    for ((now, was), id) in both.filter(|((now, was), _)| now != was) {
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

/// The rulesets in the order in which their rules lie.
fn in_place(before: &Compiled) -> Vec<(RulesetId, Direction, &[GroupId])> {
    let all = before.numbers.rulesets.all();
    let mut all: Vec<_> =
        all.map(|((direction, groups), number)| (RulesetId(number), *direction, &**groups)).collect();
    all.sort_by_key(|(RulesetId(number), ..)| (before.rulesets.get(*number as usize).copied(), *number));
    all
}

fn rules_of<'s>(
    source: &'s Source,
    direction: Direction,
    groups: &'s [GroupId],
) -> impl Iterator<Item = &'s Rule> {
    let groups = groups.iter().filter_map(|group| source.groups.get(group.0 as usize));
    groups.flat_map(move |group| group.rules(direction))
}

/// What rulesets say of identities.
fn entries(compiled: &Compiled) -> impl Iterator<Item = (u32, Entry)> {
    compiled.identities.iter().zip(0..).flat_map(|(row, identity)| {
        let own = compiled.further.get(row.further_from as usize..row.further_to as usize);
        let first = Some(row.entry).filter(|entry| *entry != Entry::NONE);
        first.into_iter().chain(own.into_iter().flatten().copied()).map(move |entry| (identity, entry))
    })
}
