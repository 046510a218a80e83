//! Which multicast groups and broadcast addresses rules name.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use eastgate_config as config;
use eastgate_policy::rule::{EndpointRules, Group, GroupId, Peer, Rule, RuleId, Source};
use eastgate_wire::Addr;
use ipnet::IpNet;

use super::{RuleTable, prefix};

/// What a network's policy says by name of multicast groups, and of the addresses that are everybody's.
#[derive(Debug, Default)]
pub(crate) struct Multicast {
    /// The egress rules that name any; none where none does
    pub(crate) named: Option<Source>,
    /// The network's broadcast addresses: the limited one, and those of its subnets (RFC 919)
    broadcast: Vec<Addr>,
    /// Whom rules name as their peer by a group or set may be multicast groups.
    has_members: bool,
}

fn broadcast(subnets: &[IpNet]) -> Vec<Addr> {
    let of_subnet = |subnet: &IpNet| match subnet {
        // RFC 3021: a point-to-point prefix has none.
        IpNet::V4(subnet) if subnet.prefix_len() < 31 => Some(Addr::from(IpAddr::V4(subnet.broadcast()))),
        _ => None,
    };
    std::iter::once(Addr::v4([255; 4])).chain(subnets.iter().filter_map(of_subnet)).collect()
}

impl Multicast {
    /// Of the policy of a network with these subnets. `rules` are those that it is made of.
    pub(in crate::snapshot) fn of(source: &Source, rules: &RuleTable, subnets: &[IpNet]) -> Self {
        let broadcast = broadcast(subnets);
        let is_named = |network, len| is_of_groups(&broadcast, network, len);
        let mut of_sets: BTreeMap<GroupId, Vec<(Addr, u8)>> = BTreeMap::new();
        for endpoint in &source.endpoints {
            let named = endpoint.addresses.iter().filter(|(network, len)| is_named(*network, *len));
            for (address, set) in
                named.flat_map(|address| endpoint.groups.iter().map(move |set| (address, set)))
            {
                of_sets.entry(*set).or_default().push(*address);
            }
        }
        let named = |rule: &Rule| -> Vec<Rule> {
            let prefixes = match rule.peer {
                Peer::Prefix { network, len }
                    if is_named(network, len) && rules.names_groups(&broadcast, rule.id, network) =>
                {
                    vec![(network, len)]
                }
                Peer::Group(set) => of_sets.get(&set).cloned().unwrap_or_default(),
                Peer::Any | Peer::Prefix { .. } => Vec::new(),
            };
            let prefixes = prefixes.into_iter();
            prefixes
                .map(|(network, len)| Rule { peer: Peer::Prefix { network, len }, ..rule.clone() })
                .collect()
        };
        let naming = |group: &Arc<Group>| Group {
            ingress: vec![],
            egress: group.egress.iter().flat_map(named).collect(),
        };
        let groups: Vec<Arc<Group>> = source.groups.iter().map(naming).map(Arc::new).collect();
        let any = groups.iter().any(|group| !group.egress.is_empty());
        let named = any.then(|| {
            let senders = |endpoint: &EndpointRules| EndpointRules {
                egress: endpoint.egress.clone(),
                ..EndpointRules::default()
            };
            Source { groups, endpoints: source.endpoints.iter().map(senders).collect() }
        });
        Self { named, has_members: !of_sets.is_empty(), broadcast }
    }

    /// Are packets to this address for many?
    pub(crate) fn is_group(&self, address: Addr) -> bool {
        address.is_multicast() || self.is_broadcast(address)
    }

    /// Is this a broadcast address of the network?
    pub(crate) fn is_broadcast(&self, address: Addr) -> bool {
        self.broadcast.contains(&address)
    }

    /// The same where rules of groups have become others, if it is seen from these alone: neither of both names any.
    pub(in crate::snapshot) fn with_rules(&self, rules: &RuleTable, before: &RuleTable) -> Option<Self> {
        let may_name = |rule: &Rule| match rule.peer {
            Peer::Any => false,
            Peer::Prefix { network, len } => is_of_groups(&self.broadcast, network, len),
            Peer::Group(_) => self.has_members,
        };
        let both = rules.groups().iter().zip(before.groups());
        let mut others = both.filter(|(now, was)| !Arc::ptr_eq(now, was)).map(|(now, _)| now);
        let names_none = self.named.is_none() && !others.any(|group| group.egress.iter().any(may_name));
        names_none.then(|| Self {
            named: None,
            has_members: self.has_members,
            broadcast: self.broadcast.clone(),
        })
    }
}

/// Is each of these addresses a multicast group, or one of the network's broadcast addresses?
fn is_of_groups(broadcast: &[Addr], network: Addr, len: u8) -> bool {
    let multicast = network.is_multicast() && len >= if network.is_v4() { 96 + 4 } else { 8 };
    multicast || len == 128 && broadcast.contains(&network)
}

impl RuleTable {
    /// Does an egress rule name multicast groups, or broadcast addresses, where it has this one? What is left of a wider prefix by
    /// its exceptions is not named.
    fn names_groups(&self, broadcast: &[Addr], id: RuleId, group: Addr) -> bool {
        let rule = || {
            let info = self.rules.get(id.0)?;
            let [_, egress] = self.written(&info.list)?;
            egress.get((info.number as usize).checked_sub(1)?)
        };
        rule().is_some_and(|rule| {
            let nets = rule.peers.iter().filter_map(|peer| match peer {
                config::Peer::Prefix(net) | config::Peer::Except(net, _) => Some(net),
                _ => None,
            });
            let mut named = nets
                .map(|net| (net, prefix(net)))
                .filter(|(_, (it, len))| is_of_groups(broadcast, *it, *len));
            named.any(|(net, _)| net.contains(&group.to_ip()))
        })
    }
}
