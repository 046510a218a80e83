//! From the groups of a tenant's configuration to the rules that the policy crate compiles, and back from a
//! rule's number to its name and place.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

pub use eastgate_api::RuleRef;
use eastgate_config::{self as config, Name, Place, Protocol, Tenant};
use eastgate_policy::rule::{
    Direction, EndpointRules, Group, GroupId, Peer, PortProtocol, PortRange, Rule, RuleId, Service, Source,
    Then, Verdict,
};
use eastgate_wire::{Addr, EndpointId, Family, view::proto};
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

/// The rules of a tenant by number. A rule that stays as it is keeps its number when others come and go around it; a number
/// is not given to another rule.
#[derive(Debug, Default)]
pub struct RuleTable {
    rules: Vec<Option<RuleInfo>>,
    /// The numbers in the order of groups by name, ingress before egress
    order: Vec<u32>,
    numbers: HashMap<Digest, u32>,
    groups: BTreeMap<Name, GroupId>,
    /// Numbers mean the same in all tables of one series.
    series: Arc<()>,
}

/// Stands for a rule: its group, direction and text, and which of several equal ones it is.
type Digest = [u64; 2];

/// Numbers that are given before all are given anew, for each that is in use
pub(super) const SPARSE: usize = 4;

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
    /// The rules of `tenant`, with the numbers that they had in a table `before`, as long as not too many are unused by now.
    #[must_use]
    pub fn new(tenant: &Tenant, before: Option<&Self>) -> Self {
        let table = Self::numbered(tenant, before);
        let (numbers, used) =
            (table.rules.len().max(table.groups_end()), table.order.len() + table.groups.len());
        if before.is_some() && numbers > 1024 + SPARSE * used { Self::numbered(tenant, None) } else { table }
    }

    fn numbered(tenant: &Tenant, before: Option<&Self>) -> Self {
        let mut table = Self::default();
        if let Some(before) = before {
            table.series = before.series.clone();
            table.rules.resize_with(before.rules.len(), || None);
        }
        let mut next_group = before.map_or(0, Self::groups_end) as u32;
        for group in tenant.groups.values() {
            let known = before.and_then(|before| before.groups.get(&group.name).copied());
            let id = known.unwrap_or_else(|| {
                next_group += 1;
                GroupId(next_group - 1)
            });
            table.groups.insert(group.name.clone(), id);
            for (direction, list) in
                [(Direction::Ingress, &group.ingress), (Direction::Egress, &group.egress)]
            {
                let mut seen: HashMap<Digest, u32> = HashMap::new();
                for (rule, number) in list.iter().zip(1..) {
                    let info = RuleInfo { group: group.name.clone(), direction, number, at: rule.at.clone() };
                    let which = seen.entry(digest(&info, rule, 0)).or_default();
                    let digest = digest(&info, rule, *which);
                    *which += 1;
                    table.add(digest, info, before);
                }
            }
        }
        table
    }

    fn add(&mut self, digest: Digest, info: RuleInfo, before: Option<&Self>) {
        let number = match before.and_then(|before| before.numbers.get(&digest)) {
            Some(number) => *number,
            None => {
                self.rules.push(None);
                self.rules.len() as u32 - 1
            }
        };
        self.rules[number as usize] = Some(info);
        self.numbers.insert(digest, number);
        self.order.push(number);
    }

    /// One more than the largest number of a group
    fn groups_end(&self) -> usize {
        self.groups.values().map(|id| id.0 as usize + 1).max().unwrap_or(0)
    }

    /// Whether rules and groups that both tables have are of the same numbers.
    #[must_use]
    pub fn continues(&self, before: &Self) -> bool {
        Arc::ptr_eq(&self.series, &before.series)
    }

    /// The numbers of the rules as they are written: of groups by name, ingress before egress.
    #[must_use]
    pub fn in_order(&self) -> &[u32] {
        &self.order
    }

    /// One more than the largest number of a rule.
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
        self.rules.get(id as usize)?.as_ref()
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

    /// The policy of one network of the tenant, as the policy crate takes it: its endpoints have these numbers, in the order
    /// of the configuration.
    #[must_use]
    pub fn source(&self, tenant: &Tenant, network: &config::Network, ids: &[EndpointId]) -> Source {
        let mut numbers = self.order.iter();
        let mut numbered = |list: &[config::Rule]| {
            let mut rules = Vec::new();
            for (rule, id) in list.iter().zip(&mut numbers) {
                self.expand(RuleId(*id), rule, &mut rules);
            }
            rules
        };
        let mut groups = vec![Group::default(); self.groups_end()];
        for group in tenant.groups.values() {
            let (ingress, egress) = (numbered(&group.ingress), numbered(&group.egress));
            if let Some(GroupId(id)) = self.groups.get(&group.name) {
                groups[*id as usize] = Group { ingress, egress };
            }
        }
        // Numbers that nobody has are of endpoints without addresses, groups and rules.
        let end = ids.iter().map(|id| id.0 as usize + 1).max().unwrap_or(0);
        let mut endpoints = vec![EndpointRules::default(); end];
        for (endpoint, id) in network.endpoints.iter().zip(ids) {
            endpoints[id.0 as usize] = self.endpoint(endpoint);
        }
        endpoints.extend(self.members_elsewhere(tenant, network));
        Source { groups, endpoints }
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
                let allow = Then::Settle(Verdict::ALLOW);
                into.push(Rule { family: rule.family, ..Rule::new(id, peer, service.clone(), allow) });
            }
        }
    }
}

fn digest(info: &RuleInfo, rule: &config::Rule, which: u32) -> Digest {
    let config::Rule { at: _, description: _, protocol, ports, source_ports, icmp, family, peers } = rule;
    // Two of 64 bits: what a tenant writes must not pass for another rule by chance.
    [0u8, 1].map(|half| {
        let mut hasher = DefaultHasher::new();
        (half, &info.group, info.direction, which).hash(&mut hasher);
        (protocol, ports, source_ports, icmp, family, peers).hash(&mut hasher);
        hasher.finish()
    })
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
