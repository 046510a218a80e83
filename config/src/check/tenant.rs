//! A tenant: its networks, groups, sets, policies and endpoints, and the names between them.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use ahash::RandomState;

use super::{
    Claims, endpoint, filters::Made, names::Names, network, policy, rule, site, variables::Variables,
};
use crate::{
    leaf::{Action, Mode},
    model::{Group, Name, Peer, Rule, Tenant},
    place::Place,
    policies::{AddressSet, Policy},
    problem::Problem,
    read::{At, Named, Reader},
    tables::{EndpointTable, GroupTable, SetTable, TenantTable},
    values::{List, NameText},
};

/// What a tenant's endpoints and groups came to: where neither one of them nor what it is held against has changed, it comes
/// to the same again.
#[derive(Debug)]
pub(super) struct Checked {
    endpoints: endpoint::Endpoints,
    /// In the order of their names
    groups: Vec<GroupRules>,
}

/// The rules of a group as it says itself.
#[derive(Clone, Debug)]
struct GroupRules {
    /// Ingress, egress
    lists: [Arc<Vec<Rule>>; 2],
    /// Nothing was reported of them, and nothing follows from them outside the tenant.
    reusable: bool,
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
    let known = known_rules(table, before);
    let is_known = |at: usize| known.get(at).is_some_and(Option::is_some);
    let mut variables = Variables::of(&table.group.value, is_known, reader);
    let rules = group_rules(&table.group.value, &known, &mut variables, &mut names, reader);
    let mut groups = groups(&table.group.value, &rules, &mut claims, reader);
    variables.include(&mut groups, &mut names, reader);
    let parts = policy::Parts::of(table);
    let mut policies = policy::check_all(&table.policy.value, Some(&parts), &mut names, reader);
    let sets = table.set.value.iter().map(|(name, table)| set(name, table, &mut claims, reader)).collect();
    let mut made = Made::default();
    let known = before.map(|(known, checked)| (known, &checked.endpoints));
    let checked = endpoint::check_all(&name.value, table, known, &mut made, reader);
    claims.endpoints = checked.all.iter().map(|endpoint| endpoint.claim.clone()).collect();
    let mut endpoints = endpoint::by_network(&checked.all);
    let checked = Checked { endpoints: checked, groups: rules };
    variables.apply(&table.endpoint.value, &mut endpoints, &mut groups, &mut names, reader);
    claims.elsewhere = names.named_elsewhere();
    unused_groups(&groups, &policies, &table.group.value, &table.endpoint.value, reader);
    let mut networks = BTreeMap::new();
    for (index, (network_name, network_table)) in table.network.value.iter().enumerate() {
        let own = endpoints.remove(&index);
        let (network, claim) = network::check(&name.value, network_name, network_table, own, reader);
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

/// The rules of each group that come to the same as before.
fn known_rules<'b>(
    table: &TenantTable,
    before: Option<(&TenantTable, &'b Checked)>,
) -> Vec<Option<&'b GroupRules>> {
    let Some((known, checked)) = before.filter(|(known, _)| names_same_peers(known, table)) else {
        return Vec::new();
    };
    let both = table.group.value.iter().zip(&known.group.value).zip(&checked.groups);
    let same = both.map(|(((_, now), (_, before)), rules)| {
        Some(rules).filter(|rules| rules.reusable && Arc::ptr_eq(now, before))
    });
    same.collect()
}

/// The rules of each group, some of which are known.
fn group_rules(
    tables: &Named<GroupTable>,
    known: &[Option<&GroupRules>],
    variables: &mut Variables<'_>,
    names: &mut Names<'_>,
    reader: &mut Reader,
) -> Vec<GroupRules> {
    let mut all = Vec::with_capacity(tables.len());
    for (at, (name, table)) in tables.iter().enumerate() {
        if let Some(known) = known.get(at).copied().flatten() {
            all.push(known.clone());
            continue;
        }
        let so_far = (reader.found.count(), names.elsewhere.len());
        let mut lists = variables.rules(at, names, reader);
        among_members(&mut lists, &name.value, table, reader);
        let reusable = !variables.are_in(at) && so_far == (reader.found.count(), names.elsewhere.len());
        all.push(GroupRules { lists: lists.map(Arc::new), reusable });
    }
    all
}

fn groups(
    tables: &Named<GroupTable>,
    rules: &[GroupRules],
    claims: &mut Claims,
    reader: &mut Reader,
) -> BTreeMap<Name, Group> {
    let mut groups = BTreeMap::new();
    for ((name, table), GroupRules { lists: [ingress, egress], .. }) in tables.iter().zip(rules) {
        let like = table.like.good().into_iter().flat_map(|list| &list.value.0);
        let group = Group {
            name: name.value.clone(),
            at: reader.place(name.span),
            description: table.description.good().map(|text| text.value.clone()),
            like: each_once(like, |template, at| claims.templates.push((template, at)), reader),
            made_of: None,
            includes: Vec::new(),
            admits_members: table.admit_members.value,
            stateful: table.stateful.value,
            wide: table.prefix_pairs.value,
            shared_with: shared_with(&table.shared_with.value, claims, reader),
            ingress: ingress.clone(),
            egress: egress.clone(),
        };
        groups.insert(name.value.clone(), group);
    }
    groups
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
        shared_with: shared_with(&table.shared_with.value, claims, reader),
    };
    (name.value.clone(), set)
}

/// The tenants that something is shared with.
fn shared_with(written: &List<NameText>, claims: &mut Claims, reader: &mut Reader) -> Vec<Name> {
    each_once(written.items.iter(), |tenant, at| claims.shared_with.push((tenant, at)), reader)
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

/// Warns of groups that no endpoint is in and no other group or policy speaks of.
fn unused_groups(
    groups: &BTreeMap<Name, Group>,
    policies: &BTreeMap<Name, Policy>,
    tables: &Named<GroupTable>,
    endpoints: &Named<EndpointTable>,
    reader: &mut Reader,
) {
    // A name that could not be read may be the one that is missed.
    if endpoints.iter().any(|(_, endpoint)| endpoint.groups.value.partial) {
        return;
    }
    let members = endpoints.iter().flat_map(|(_, endpoint)| &endpoint.groups.value.items);
    let mut used: HashSet<&str, RandomState> = members.map(|group| &*group.value.0).collect();
    for (name, table) in tables {
        let included = table.include.value.items.iter().map(|group| &*group.value.0);
        used.extend(included.filter(|included| **included != *name.value));
    }
    for group in groups.values() {
        let named = group.ingress.iter().chain(&*group.egress).flat_map(rule::groups_named);
        used.extend(named.filter(|name| **name != *group.name));
        used.extend((!group.shared_with.is_empty()).then_some(&*group.name));
    }
    used.extend(policies.values().flat_map(policy::groups_named));
    for (name, _) in tables.iter().filter(|(name, _)| !used.contains(&*name.value)) {
        reader.report(Problem::GroupUnused { name: name.value.to_string() }, name.span);
    }
}
