//! OpenStack Neutron, by what `openstack ... -f json` prints: security groups and their rules, address groups, networks, subnets, ports;
//! firewall groups, their policies and rules.
//!
//! Lists of rules do not tell all of a rule: of ICMP the type 0 and the code 0 look as if nothing were asked for
//! (`openstackclient/network/utils.py`, `format_network_port_range`). Such rules are taken from `security group show` alone.

mod firewall;
mod ports;
mod read;
mod rules;

use std::collections::BTreeMap;

use super::{
    File, Map,
    site::{Group, Names, Site, near},
};
use crate::faults::Faults;

use self::{
    firewall::{FirewallGroup, FirewallPolicy, FirewallRule},
    ports::Port,
    read::read,
    rules::{Context, RuleIn},
};

/// What was read, by identifier.
#[derive(Debug, Default)]
struct Cloud {
    groups: BTreeMap<String, GroupIn>,
    /// With the group's identifier
    rules: BTreeMap<String, (String, RuleIn)>,
    address_groups: BTreeMap<String, AddressGroup>,
    networks: BTreeMap<String, NetworkIn>,
    /// Prefixes, by network
    subnets: BTreeMap<String, Vec<String>>,
    ports: BTreeMap<String, Port>,
    firewall_groups: BTreeMap<String, FirewallGroup>,
    firewall_policies: BTreeMap<String, FirewallPolicy>,
    firewall_rules: BTreeMap<String, FirewallRule>,
}

#[derive(Clone, Debug)]
struct GroupIn {
    name: String,
    description: String,
    project: String,
    stateful: bool,
}

#[derive(Clone, Debug)]
struct AddressGroup {
    name: String,
    addresses: Vec<String>,
}

#[derive(Clone, Debug)]
struct NetworkIn {
    name: String,
    vni: Option<u32>,
}

/// The group of ports without port security: Neutron filters nothing there.
const OPEN: &str = "neutron-no-port-security";

pub(super) fn import(files: &[File], map: &Map, faults: &mut Faults) -> Site {
    let cloud = read(files, faults);
    let mut site = Site::default();
    let mut names = BTreeMap::new();
    for (id, group) in &cloud.groups {
        let tenant = tenant_of(map, &group.project);
        let of_tenant: &mut Names = names.entry(tenant.clone()).or_default();
        let name = of_tenant.of(id, &group.name);
        let mut notes = vec![format!("Neutron security group {} ({id})", group.name)];
        if !group.project.is_empty() {
            notes.push(format!("of project {}", group.project));
        }
        let description = Some(group.description.clone());
        let made = Group { notes, description, stateless: !group.stateful, ..Group::default() };
        site.tenants.entry(tenant).or_default().groups.insert(name, made);
    }
    for (id, group) in &cloud.firewall_groups {
        let of_tenant = names.entry(tenant_of(map, &group.project)).or_default();
        of_tenant.of(id, &format!("firewall-{}", group.name));
    }
    let context = Context { cloud: &cloud, map, names: &names };
    for (id, (group, rule)) in &cloud.rules {
        let Some(of) = cloud.groups.get(group) else {
            faults.add(
                rule.at.clone(),
                format!("this rule is of security group {group}, which is in none of the files"),
                "add what `openstack security group list -f json` prints",
            );
            continue;
        };
        let tenant = tenant_of(map, &of.project);
        let made = context.rule(id, rule, of, faults);
        let groups = site.tenants.get_mut(&tenant).map(|tenant| &mut tenant.groups);
        let own = context.group_name(&tenant, group).and_then(|name| groups?.get_mut(&name));
        if let (Some(own), Some(made)) = (own, made) {
            if rule.ingress { own.ingress.push(made) } else { own.egress.push(made) }
        }
    }
    context.sets(&mut site);
    firewall::import(&context, &mut site, faults);
    site.share();
    ports::import(&context, &mut site, faults);
    site
}

fn tenant_of(map: &Map, project: &str) -> String {
    let mapped = map.tenant(&[project]).map(str::to_owned);
    mapped.or_else(|| near(project)).unwrap_or_else(|| "neutron".to_owned())
}
