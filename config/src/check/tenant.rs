//! A tenant: its networks, groups, sets, policies and endpoints, and the names between them.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Claims, endpoint, filters::Made, names::Names, network, policy, profile, rule, site, variables::Variables,
};
use crate::{
    leaf::{Action, Mode},
    model::{Group, Name, Peer, Rule, Tenant},
    place::Place,
    policies::{AddressSet, Policy},
    problem::Problem,
    read::{At, Named, Reader},
    tables::{GroupTable, SetTable, TenantTable},
    values::{List, NameText},
};

/// What a tenant's endpoints and groups came to: where neither one of them nor what it is held against has changed, it comes
/// to the same again.
#[derive(Debug)]
pub(super) struct Checked {
    endpoints: Arc<endpoint::Endpoints>,
    /// In the order of their names
    groups: Vec<CheckedGroup>,
}

/// What came of a group's table by itself: without what it includes.
#[derive(Clone, Debug)]
struct CheckedGroup {
    group: Arc<Group>,
    /// The places of the groups that it speaks of, without its own
    speaks_of: Arc<[u32]>,
    /// What it names that other files have; none for most
    claims: Option<Arc<GroupClaims>>,
    /// Nothing was reported of it, and nothing follows from it outside the tenant.
    reusable: bool,
}

/// What a group names that other files have, each with its place.
#[derive(Debug, Default)]
struct GroupClaims {
    templates: Vec<(Name, Place)>,
    shared_with: Vec<(Name, Place)>,
}

/// Checks a tenant; `before` is what its tables were when they were read last, and what came of them.
pub(super) fn check(
    name: &At<Name>,
    table: &TenantTable,
    before: Option<(&TenantTable, &Checked)>,
    reader: &mut Reader,
) -> (Tenant, Claims, Checked) {
    let mut claims = Claims::default();
    let mut names = Names::of_tenant(&name.value, &table.group.value, &table.set.value);
    let known = known_groups(table, before);
    let machines = profile::machines(table);
    let is_known = |at: usize| known.get(at).is_some_and(Option::is_some);
    let mut variables = Variables::of(&table.group.value, is_known, reader);
    let own = groups(&table.group.value, &known, &mut variables, &mut names, reader);
    for of in own.iter().filter_map(|group| group.claims.as_deref()) {
        claims.templates.extend_from_slice(&of.templates);
        claims.shared_with.extend_from_slice(&of.shared_with);
    }
    let named = own.iter().map(|it| (it.group.name.clone(), it.group.clone()));
    let mut groups: BTreeMap<Name, Arc<Group>> = named.collect();
    variables.include(&mut groups, &mut names, reader);
    let parts = policy::Parts::of(table);
    let mut policies = policy::check_all(&table.policy.value, Some(&parts), &mut names, reader);
    let sets = table.set.value.iter().map(|(name, table)| set(name, table, &mut claims, reader)).collect();
    let mut made = Made::default();
    let known = before.map(|(known, checked)| (known, &checked.endpoints));
    let checked = endpoint::check_all(&name.value, table, known, &mut made, reader);
    claims.endpoints = checked.claims.clone();
    let mut endpoints = checked.by_network.clone();
    variables.apply(&table.endpoint.value, &mut endpoints, &mut groups, &mut names, reader);
    let mut of_profiles = profile::check_all(&name.value, table, &machines, &mut made, reader);
    variables.apply(&machines, &mut of_profiles, &mut groups, &mut names, reader);
    claims.elsewhere = names.named_elsewhere();
    let made_groups = groups.values().filter(|group| group.made_of.is_some());
    unused_groups(&own, made_groups, &policies, checked.in_groups.as_deref(), &table.group.value, reader);
    let checked = Checked { endpoints: checked, groups: own };
    let mut networks = BTreeMap::new();
    let of_tenant = (&name.value, table.on_change.value);
    for (index, (network_name, network_table)) in table.network.value.iter().enumerate() {
        let own = endpoints.remove(&index);
        let (network, claim) = network::check(of_tenant, network_name, network_table, own, reader);
        claims.networks.push(claim);
        networks.extend(network.map(|network| (network_name.value.clone(), network)));
    }
    groups.append(&mut made.groups);
    policies.append(&mut made.policies);
    let tenant = Tenant {
        name: name.value.clone(),
        at: reader.place(name.span),
        description: table.description.good().map(|text| text.value.clone()),
        mode: table.mode.good().map_or(Mode::Enforce, |mode| mode.value),
        mode_at: reader.place(table.mode.good().map_or(name.span, |mode| mode.span)),
        networks,
        groups,
        sets,
        policies,
        profiles: profile::profiles(table, &of_profiles, reader),
    };
    for policy in tenant.policies.values() {
        reader.found.extend(policy::mixed_own(policy, &tenant));
    }
    (tenant, claims, checked)
}

/// Whether whom rules can name in their own tenant is the same.
fn names_same_peers(before: &TenantTable, now: &TenantTable) -> bool {
    fn names<T>(named: &Named<T>) -> impl Iterator<Item = &Name> {
        named.iter().map(|(name, _)| &name.value)
    }
    names(&before.group.value).eq(names(&now.group.value))
        && names(&before.set.value).eq(names(&now.set.value))
}

/// What each group came to, where it comes to the same again.
fn known_groups<'b>(
    table: &TenantTable,
    before: Option<(&TenantTable, &'b Checked)>,
) -> Vec<Option<&'b CheckedGroup>> {
    let Some((known, checked)) = before.filter(|(known, _)| names_same_peers(known, table)) else {
        return Vec::new();
    };
    let both = table.group.value.iter().zip(&known.group.value).zip(&checked.groups);
    let same = both.map(|(((_, now), (_, before)), group)| {
        Some(group).filter(|group| group.reusable && Arc::ptr_eq(now, before))
    });
    same.collect()
}

/// What each group comes to, some of which are known.
fn groups(
    tables: &Named<GroupTable>,
    known: &[Option<&CheckedGroup>],
    variables: &mut Variables<'_>,
    names: &mut Names<'_>,
    reader: &mut Reader,
) -> Vec<CheckedGroup> {
    let mut all = Vec::with_capacity(tables.len());
    for (at, (name, table)) in tables.iter().enumerate() {
        if let Some(known) = known.get(at).copied().flatten() {
            all.push(known.clone());
            continue;
        }
        let so_far = (reader.found.count(), names.elsewhere.len());
        let mut lists = variables.rules(at, names, reader);
        among_members(&mut lists, &name.value, table, reader);
        let mut claims = GroupClaims::default();
        let group = Arc::new(group(name, table, lists, &mut claims, reader));
        let has_claims = !(claims.templates.is_empty() && claims.shared_with.is_empty());
        all.push(CheckedGroup {
            speaks_of: speaks_of(&group, table, tables),
            claims: has_claims.then(|| Arc::new(claims)),
            reusable: !variables.are_in(at) && so_far == (reader.found.count(), names.elsewhere.len()),
            group,
        });
    }
    all
}

/// The places of the groups that a group names in its rules or includes.
fn speaks_of(group: &Group, table: &GroupTable, tables: &Named<GroupTable>) -> Arc<[u32]> {
    let rules = group.ingress.iter().chain(&*group.egress).flat_map(rule::groups_named);
    let included = table.include.value.items.iter().map(|group| &*group.value.0);
    let others = rules.chain(included).filter(|name| **name != *group.name);
    let place = |name| tables.binary_search_by(|(known, _): &(At<Name>, _)| (*known.value).cmp(name)).ok();
    let mut places: Vec<u32> = others.filter_map(place).map(|at| at as u32).collect();
    places.sort_unstable();
    places.dedup();
    places.into()
}

fn group(
    name: &At<Name>,
    table: &GroupTable,
    [ingress, egress]: [Vec<Rule>; 2],
    claims: &mut GroupClaims,
    reader: &mut Reader,
) -> Group {
    let like = table.like.good().into_iter().flat_map(|list| &list.value.0);
    Group {
        name: name.value.clone(),
        at: reader.place(name.span),
        description: table.description.good().map(|text| text.value.clone()),
        like: each_once(like, |template, at| claims.templates.push((template, at)), reader),
        made_of: None,
        includes: Vec::new(),
        admits_members: table.admit_members.value,
        stateful: table.stateful.value,
        wide: table.prefix_pairs.value,
        shared_with: shared_with(&table.shared_with.value, &mut claims.shared_with, reader),
        ingress: Arc::new(ingress),
        egress: Arc::new(egress),
    }
}

/// Adds the rules by which members of a group send each other anything, where it admits them.
pub(super) fn among_members(lists: &mut [Vec<Rule>; 2], group: &Name, table: &GroupTable, reader: &Reader) {
    if table.admit_members.value {
        let (members, at) = (Peer::Group(group.clone()), reader.place(table.admit_members.span));
        let among_members = rule::all_of(Action::Allow, None, members, at);
        lists.iter_mut().for_each(|list| list.push(among_members.clone()));
    }
}

fn set(name: &At<Name>, table: &SetTable, claims: &mut Claims, reader: &mut Reader) -> (Name, AddressSet) {
    let set = AddressSet {
        name: name.value.clone(),
        at: reader.place(name.span),
        description: table.description.good().map(|text| text.value.clone()),
        addresses: site::addresses(&table.addresses),
        shared_with: shared_with(&table.shared_with.value, &mut claims.shared_with, reader),
    };
    (name.value.clone(), set)
}

/// The tenants that something is shared with.
fn shared_with(written: &List<NameText>, claims: &mut Vec<(Name, Place)>, reader: &mut Reader) -> Vec<Name> {
    each_once(written.items.iter(), |tenant, at| claims.push((tenant, at)), reader)
}

/// Names in their order, each of them noted with its place; repeated ones are reported.
fn each_once<'n>(
    written: impl Iterator<Item = &'n At<NameText>>,
    mut note: impl FnMut(Arc<str>, Place),
    reader: &mut Reader,
) -> Vec<Name> {
    let mut names: Vec<Name> = Vec::new();
    for At { value: NameText(name), span } in written {
        if names.contains(name) {
            reader.report(Problem::NameRepeated { name: name.to_string() }, *span);
            continue;
        }
        note(name.clone(), reader.place(*span));
        names.push(name.clone());
    }
    names
}

/// Warns of groups that no endpoint is in and no other group or policy speaks of. `in_groups` says of each whether endpoints are
/// in it, if that is known.
fn unused_groups<'g>(
    groups: &[CheckedGroup],
    made: impl Iterator<Item = &'g Arc<Group>>,
    policies: &BTreeMap<Name, Policy>,
    in_groups: Option<&[bool]>,
    tables: &Named<GroupTable>,
    reader: &mut Reader,
) {
    let Some(in_groups) = in_groups else { return };
    let mut used = in_groups.to_vec();
    let mut mark = |at: usize| {
        if let Some(used) = used.get_mut(at) {
            *used = true;
        }
    };
    for (at, CheckedGroup { group, speaks_of, .. }) in groups.iter().enumerate() {
        speaks_of.iter().for_each(|other| mark(*other as usize));
        if !group.shared_with.is_empty() {
            mark(at);
        }
    }
    let rules = made.flat_map(|group| group.ingress.iter().chain(&*group.egress));
    let of_made = rules.flat_map(rule::groups_named);
    for name in of_made.chain(policies.values().flat_map(policy::groups_named)) {
        if let Ok(at) = tables.binary_search_by(|(known, _)| (*known.value).cmp(name)) {
            mark(at);
        }
    }
    for ((name, _), _) in tables.iter().zip(used).filter(|(_, used)| !used) {
        reader.report(Problem::GroupUnused { name: name.value.to_string() }, name.span);
    }
}
