//! From the groups of a tenant's configuration to the rules that the policy crate compiles, and back from a
//! rule's number to its name and place.

use std::collections::{BTreeMap, BTreeSet};

pub use eastgate_api::RuleRef;
use eastgate_config::{self as config, Name, Place, Protocol, Tenant};
use eastgate_policy::rule::{
    Direction, EndpointRules, Group, GroupId, Peer, PortProtocol, PortRange, Rule, RuleId, Service, Source,
    Then, Verdict,
};
use eastgate_wire::{Addr, Family, view::proto};
use ipnet::IpNet;

/// A prefix in the 128-bit form that the pure crates use.
#[must_use]
pub fn prefix(net: &IpNet) -> (Addr, u8) {
    let added = if net.addr().is_ipv4() { 96 } else { 0 };
    (net.network().into(), net.prefix_len() + added)
}

/// Those egress rules of a policy that name multicast groups; none where none does.
pub(super) fn multicast(source: &Source) -> Option<Source> {
    let names_groups = |rule: &Rule| match &rule.peer {
        Peer::Prefix { network, len } => {
            network.is_multicast() && *len >= if network.is_v4() { 96 + 4 } else { 8 }
        }
        _ => false,
    };
    let naming = |group: &Group| Group {
        ingress: Vec::new(),
        egress: group.egress.iter().filter(|rule| names_groups(rule)).cloned().collect(),
    };
    let groups: Vec<Group> = source.groups.iter().map(naming).collect();
    let any = groups.iter().any(|group| !group.egress.is_empty());
    any.then(|| {
        let senders = |endpoint: &EndpointRules| EndpointRules {
            egress: endpoint.egress.clone(),
            ..EndpointRules::default()
        };
        Source { groups, endpoints: source.endpoints.iter().map(senders).collect() }
    })
}

/// The rules of a tenant by number. The numbers follow the order of groups by name, ingress before egress.
#[derive(Debug, Default)]
pub struct RuleTable {
    rules: Vec<RuleInfo>,
    groups: BTreeMap<Name, GroupId>,
}

/// A rule as a person knows it.
#[derive(Clone, Debug)]
pub struct RuleInfo {
    /// Its group's name
    pub group: Name,
    /// Which of the group's lists it is in
    pub direction: Direction,
    /// Its place in that list, from 1
    pub number: u32,
    /// Where it is written
    pub at: Place,
}

impl RuleTable {
    /// The rules of `tenant`.
    #[must_use]
    pub fn new(tenant: &Tenant) -> Self {
        let mut table = Self::default();
        for (index, group) in tenant.groups.values().enumerate() {
            table.groups.insert(group.name.clone(), GroupId(index as u32));
            for (direction, list) in
                [(Direction::Ingress, &group.ingress), (Direction::Egress, &group.egress)]
            {
                table.rules.extend(list.iter().zip(1..).map(|(rule, number)| RuleInfo {
                    group: group.name.clone(),
                    direction,
                    number,
                    at: rule.at.clone(),
                }));
            }
        }
        table
    }

    /// How many rules there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Are there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rule with this number.
    #[must_use]
    pub fn get(&self, id: u32) -> Option<&RuleInfo> {
        self.rules.get(id as usize)
    }

    /// Name and place of the rule with this number.
    #[must_use]
    pub fn reference(&self, tenant: &str, id: u32) -> Option<RuleRef> {
        let rule = self.get(id)?;
        let direction = match rule.direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        };
        Some(RuleRef {
            rule: format!("{tenant}/{} {direction} #{}", rule.group, rule.number),
            at: rule.at.to_string(),
        })
    }

    /// The policy of one network of the tenant, as the policy crate takes it.
    #[must_use]
    pub fn source(&self, tenant: &Tenant, network: &config::Network) -> Source {
        let mut next = 0;
        let mut numbered = |list: &[config::Rule]| {
            let mut rules = Vec::new();
            for rule in list {
                self.expand(RuleId(next), rule, &mut rules);
                next += 1;
            }
            rules
        };
        let groups = tenant
            .groups
            .values()
            .map(|group| Group { ingress: numbered(&group.ingress), egress: numbered(&group.egress) })
            .collect();
        let endpoints = network.endpoints.iter().map(|endpoint| self.endpoint(endpoint));
        Source { groups, endpoints: endpoints.chain(self.members_elsewhere(tenant, network)).collect() }
    }

    /// A group is the tenant's: who is in it in another network is meant by `group:` here too, by its own addresses. They
    /// come behind this network's endpoints, whose numbers stay. Their packets get here through a machine that may send
    /// what is not its own; a network without any is spared looking at all the tenant has. An address that an endpoint
    /// here has is that endpoint's.
    fn members_elsewhere(&self, tenant: &Tenant, network: &config::Network) -> Vec<EndpointRules> {
        let forwards = |endpoint: &config::Endpoint| {
            endpoint.router
                || !endpoint.port_security
                || !endpoint.allowed_pairs.is_empty()
                || !endpoint.routes.is_empty()
        };
        if !network.endpoints.iter().any(forwards) {
            return Vec::new();
        }
        let here: BTreeSet<Addr> =
            network.endpoints.iter().flat_map(|endpoint| endpoint.addresses.iter().copied()).collect();
        let others = tenant.networks.values().filter(|other| other.name != network.name);
        let members =
            others.flat_map(|other| &other.endpoints).filter(|endpoint| !endpoint.groups.is_empty());
        members
            .filter_map(|endpoint| {
                let own = endpoint.addresses.iter().filter(|address| !here.contains(*address));
                let addresses: Vec<(Addr, u8)> = own.map(|address| (*address, 128)).collect();
                let groups = endpoint.groups.iter().filter_map(|name| self.groups.get(name).copied());
                (!addresses.is_empty()).then(|| EndpointRules {
                    addresses,
                    groups: groups.collect(),
                    ..EndpointRules::default()
                })
            })
            .collect()
    }

    fn endpoint(&self, endpoint: &config::Endpoint) -> EndpointRules {
        let own = endpoint.addresses.iter().map(|address| (*address, 128));
        // A range of addresses that an endpoint may use makes nobody in it a member of the endpoint's groups.
        let pairs =
            endpoint.allowed_pairs.iter().map(|pair| prefix(&pair.address)).filter(|(_, len)| *len == 128);
        let groups = endpoint.groups.iter().filter_map(|name| self.groups.get(name).copied());
        EndpointRules::of_groups(own.chain(pairs).collect(), groups.collect())
    }

    /// One rule as written is one for each peer and service; all have its number.
    fn expand(&self, id: RuleId, rule: &config::Rule, into: &mut Vec<Rule>) {
        for service in services(rule) {
            for peer in &rule.peers {
                let peer = match peer {
                    config::Peer::Any => Peer::Any,
                    config::Peer::Prefix(net) => {
                        let (network, len) = prefix(net);
                        Peer::Prefix { network, len }
                    }
                    config::Peer::Group(name) => match self.groups.get(name) {
                        Some(group) => Peer::Group(*group),
                        // Checked when the configuration was loaded; a group that is not there has no members.
                        None => continue,
                    },
                };
                into.push(Rule {
                    id,
                    family: rule.family,
                    peer,
                    service: service.clone(),
                    then: Then::Settle(Verdict::ALLOW),
                });
            }
        }
    }
}

fn services(rule: &config::Rule) -> Vec<Service> {
    let icmp = |family| Service::Icmp {
        family,
        kinds: rule.icmp.map(|icmp| vec![icmp.kind]),
        codes: rule.icmp.and_then(|icmp| icmp.code).map(|code| vec![code]),
    };
    match rule.protocol {
        Protocol::Any => vec![Service::Any],
        Protocol::Icmp => vec![icmp(Family::V4), icmp(Family::V6)],
        Protocol::Number(proto::ICMP) => vec![icmp(Family::V4)],
        Protocol::Number(proto::ICMPV6) => vec![icmp(Family::V6)],
        Protocol::Number(number) => match PortProtocol::from_number(number) {
            Some(protocol) if !(rule.ports.is_empty() && rule.source_ports.is_empty()) => {
                let (destination, source) = (ranges(&rule.ports), ranges(&rule.source_ports));
                vec![Service::Ports { protocol, destination, source }]
            }
            _ => vec![Service::Protocol(number)],
        },
    }
}

/// An empty list in the configuration is any port.
fn ranges(list: &[config::PortRange]) -> Option<Vec<PortRange>> {
    (!list.is_empty())
        .then(|| list.iter().filter_map(|r| PortRange::new_checked(r.first, r.last).ok()).collect())
}
