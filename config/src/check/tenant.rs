//! A tenant: its networks, groups and endpoints, and the names between them.

use std::collections::{BTreeMap, HashSet};

use super::{Claims, endpoint, network, rule};
use crate::{
    model::{Group, Name, Tenant},
    problem::Problem,
    read::{At, Named, Reader},
    tables::{EndpointTable, GroupTable, TenantTable},
};

/// Checks a tenant.
pub(super) fn check(name: &At<Name>, table: &TenantTable, reader: &mut Reader) -> (Tenant, Claims) {
    let groups = groups(&table.group.value, reader);
    unused_groups(&groups, &table.group.value, &table.endpoint.value, reader);
    let mut claims = Claims::default();
    let mut endpoints = endpoint::check_all(table, &mut claims, reader);
    let mut networks = BTreeMap::new();
    for (index, (network_name, network_table)) in table.network.value.iter().enumerate() {
        let own = endpoints.remove(&index);
        let (network, claim) = network::check(&name.value, network_name, network_table, own, reader);
        claims.networks.push(claim);
        networks.extend(network.map(|network| (network_name.value.clone(), network)));
    }
    let tenant = Tenant {
        name: name.value.clone(),
        at: reader.place(name.span),
        description: table.description.good().map(|text| text.value.clone()),
        networks,
        groups,
    };
    (tenant, claims)
}

fn groups(tables: &Named<GroupTable>, reader: &mut Reader) -> BTreeMap<Name, Group> {
    let mut groups = BTreeMap::new();
    for (name, table) in tables {
        let group = Group {
            name: name.value.clone(),
            at: reader.place(name.span),
            description: table.description.good().map(|text| text.value.clone()),
            ingress: rule::check_list(&table.ingress.value, rule::Direction::Ingress, tables, reader),
            egress: rule::check_list(&table.egress.value, rule::Direction::Egress, tables, reader),
        };
        groups.insert(name.value.clone(), group);
    }
    groups
}

/// Warns of groups that no endpoint is in and no other group speaks of.
fn unused_groups(
    groups: &BTreeMap<Name, Group>,
    tables: &Named<GroupTable>,
    endpoints: &Named<EndpointTable>,
    reader: &mut Reader,
) {
    // A name that could not be read may be the one that is missed.
    if endpoints.iter().any(|(_, endpoint)| endpoint.groups.value.partial) {
        return;
    }
    let members = endpoints.iter().flat_map(|(_, endpoint)| &endpoint.groups.value.items);
    let mut used: HashSet<&str> = members.map(|group| &*group.value.0).collect();
    for group in groups.values() {
        let named = group.ingress.iter().chain(&group.egress).flat_map(rule::groups_named);
        used.extend(named.filter(|name| **name != *group.name));
    }
    for (name, _) in tables.iter().filter(|(name, _)| !used.contains(&*name.value)) {
        reader.report(Problem::GroupUnused { name: name.value.to_string() }, name.span);
    }
}
