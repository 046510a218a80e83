//! Which multicast groups rules name.

use std::{collections::BTreeMap, sync::Arc};

use eastgate_config as config;
use eastgate_policy::rule::{EndpointRules, Group, GroupId, Peer, Rule, RuleId, Source};
use eastgate_wire::Addr;

use super::{RuleTable, prefix};

/// What a network's policy says of multicast groups by name.
#[derive(Debug, Default)]
pub(crate) struct Multicast {
    /// The egress rules that name any; none where none does
    pub(crate) named: Option<Source>,
    /// Whom rules name as their peer by a group or set may be multicast groups.
    has_members: bool,
}

/// Are these addresses multicast groups?
fn is_of_groups(network: Addr, len: u8) -> bool {
    network.is_multicast() && len >= if network.is_v4() { 96 + 4 } else { 8 }
}

impl Multicast {
    /// Of a policy. `rules` are those that it is made of.
    pub(in crate::snapshot) fn of(source: &Source, rules: &RuleTable) -> Self {
        let mut of_sets: BTreeMap<GroupId, Vec<(Addr, u8)>> = BTreeMap::new();
        for endpoint in &source.endpoints {
            let named = endpoint.addresses.iter().filter(|(network, len)| is_of_groups(*network, *len));
            for (address, set) in
                named.flat_map(|address| endpoint.groups.iter().map(move |set| (address, set)))
            {
                of_sets.entry(*set).or_default().push(*address);
            }
        }
        let named = |rule: &Rule| -> Vec<Rule> {
            let prefixes = match rule.peer {
                Peer::Prefix { network, len }
                    if is_of_groups(network, len) && rules.names_groups(rule.id, network) =>
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
        Self { named, has_members: !of_sets.is_empty() }
    }

    /// The same where rules of groups have become others, if it is seen from these alone: neither of both names any.
    pub(in crate::snapshot) fn with_rules(&self, rules: &RuleTable, before: &RuleTable) -> Option<Self> {
        let may_name = |rule: &Rule| match rule.peer {
            Peer::Any => false,
            Peer::Prefix { network, len } => is_of_groups(network, len),
            Peer::Group(_) => self.has_members,
        };
        let both = rules.groups().iter().zip(before.groups());
        let mut others = both.filter(|(now, was)| !Arc::ptr_eq(now, was)).map(|(now, _)| now);
        let names_none = self.named.is_none() && !others.any(|group| group.egress.iter().any(may_name));
        names_none.then_some(Self { named: None, has_members: self.has_members })
    }
}

impl RuleTable {
    /// Does an egress rule name multicast groups where it has this one? What is left of a wider prefix by its exceptions is not
    /// named.
    fn names_groups(&self, id: RuleId, group: Addr) -> bool {
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
            let mut named =
                nets.map(|net| (net, prefix(net))).filter(|(_, (it, len))| is_of_groups(*it, *len));
            named.any(|(net, _)| net.contains(&group.to_ip()))
        })
    }
}
