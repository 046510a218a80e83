//! The source form of one network's policy: the rules of all lists, the endpoints, and whoever else is meant by groups and sets.

use std::{collections::BTreeSet, sync::Arc};

use eastgate_config::{
    self as config, Action, FlagMatch, IcmpMatch, Mode, Name, Policy, Protocol, Tenant, prefixes::without,
};
use eastgate_policy::rule::{
    Direction, DscpSet, EndpointRules, Group, GroupId, Peer, PortProtocol, PortRange, Rule, RuleId, Service,
    Source, TcpFlags, Then, Verdict,
};
use eastgate_wire::{Addr, EndpointId, Family, view::proto};
use ipnet::IpNet;

use super::{
    InOrder, Lists, Owner, Part, RuleList, RuleTable, prefix,
    tiers::{OfSome, Tiers, parts, rules_in},
};

impl RuleTable {
    /// Works out what groups are to the policy crate whose rules are others than before, where that is all that is different.
    pub(super) fn expand_others(&mut self, tenant: &Tenant, before: &Self) {
        let mut expanded = before.expanded.clone();
        let mut lists = InOrder::of(&self.lists);
        let before = before
            .lists
            .iter()
            .filter(|(list, was)| lists.get(list).is_none_or(|now| !Arc::ptr_eq(now, was)));
        for (list, _) in before {
            let RuleList::Group(name) = list else { continue };
            let place = self.groups.get(name).and_then(|id| expanded.get_mut(id.0 as usize));
            if let Some((place, group)) = place.zip(tenant.groups.get(name)) {
                *place = Arc::new(self.rules_of_group(tenant, group));
            }
        }
        self.expanded = expanded;
    }

    /// Works out what all parts are to the policy crate.
    pub(super) fn expand(&mut self, tenant: &Tenant, before: Option<&Self>) {
        // A rule that says the same is about the same peers while what it names has its number.
        let mut ids = self.ids.iter();
        let before = before.filter(|before| before.ids.iter().all(|it| ids.any(|known| known == it)));
        let mode = |table: &Self| table.tenant.as_ref().map(|tenant| tenant.mode);
        let before = before.filter(|before| mode(before) == Some(tenant.mode));
        let mut known = before.and_then(|before| {
            let groups = &before.tenant.as_ref()?.groups;
            Some((InOrder::of(groups), InOrder::of(&before.lists), &before.expanded))
        });
        let (mut groups, mut lists) = (InOrder::of(&tenant.groups), InOrder::of(&self.lists));
        let mut expanded = vec![Arc::default(); self.ids_end];
        for (part, GroupId(id)) in &*self.ids {
            let Some(place) = expanded.get_mut(*id as usize) else { continue };
            let Part::Group(name, _) = part else {
                *place = Arc::new(self.rules_of(part, tenant));
                continue;
            };
            let list = RuleList::Group(name.clone());
            let (group, now) = (groups.get(name), lists.get(&list));
            let same = known.as_mut().and_then(|(groups, lists, expanded)| {
                let (was, list, rules) = (groups.get(name)?, lists.get(&list)?, expanded.get(*id as usize)?);
                // What is outside the tenant may be there now, and not have been.
                let is_same = group?.stateful == was.stateful && list.named.is_empty();
                Some(rules).filter(|_| is_same && now.is_some_and(|now| Arc::ptr_eq(list, now)))
            });
            let anew = || group.map(|group| Arc::new(self.rules_of_group(tenant, group)));
            *place = same.cloned().or_else(anew).unwrap_or_default();
        }
        self.expanded = expanded;
    }

    /// What all parts are to the policy crate
    pub(in crate::snapshot) fn groups(&self) -> &[Arc<Group>] {
        &self.expanded
    }

    /// The policy of one network of the tenant, as the policy crate takes it: its endpoints have these numbers, in the order
    /// of the configuration.
    #[must_use]
    pub fn source(&self, tenant: &Tenant, network: &config::Network, ids: &[EndpointId]) -> Source {
        let groups = self.expanded.clone();
        // Numbers that nobody has are of endpoints without addresses, groups and rules.
        let end = ids.iter().map(|id| id.0 as usize + 1).max().unwrap_or(0);
        let mut endpoints = vec![EndpointRules::default(); end];
        let mut tiers = Tiers::new(self, tenant, network);
        for (endpoint, id) in network.endpoints.iter().zip(ids) {
            let own = endpoint.addresses.iter().map(|address| (*address, 128));
            // A range of addresses that an endpoint may use makes nobody in it a member of its groups, but of those that say so.
            let pairs = endpoint.allowed_pairs.iter().map(|pair| prefix(&pair.address));
            let addresses = own.chain(pairs.filter(|(_, len)| *len == 128)).collect();
            let (groups, [ingress, egress]) = tiers.of(endpoint);
            endpoints[id.0 as usize] = EndpointRules { addresses, groups, ingress, egress };
        }
        // Whoever is meant by a group or set and is no endpoint here comes behind those, whose numbers stay.
        endpoints.extend(self.wide_members(tenant, network));
        endpoints.extend(self.members_elsewhere(tenant, network));
        endpoints.extend(self.sets(tenant));
        Source { groups, endpoints }
    }

    /// The rules of a group of the tenant.
    fn rules_of_group(&self, tenant: &Tenant, group: &config::Group) -> Group {
        let list = RuleList::Group(group.name.clone());
        self.both(tenant, &list, Owner::Tenant, [&group.ingress, &group.egress], group.stateful)
    }

    fn both(
        &self,
        tenant: &Tenant,
        list: &RuleList,
        owner: Owner,
        [ingress, egress]: Lists<'_>,
        stateful: bool,
    ) -> Group {
        let of = |direction, rules: &[config::Rule]| {
            let whole = OfSome { rules, from: 0, family: None };
            let audit = owner == Owner::Tenant && tenant.mode == Mode::Audit;
            self.as_rules(tenant, owner, list, direction, whole, audit)
        };
        let group = Group { ingress: of(Direction::Ingress, ingress), egress: of(Direction::Egress, egress) };
        if stateful { group } else { without_state(group) }
    }

    /// Those of another part.
    fn rules_of(&self, part: &Part, tenant: &Tenant) -> Group {
        let group = match part {
            Part::Template(name, stateful) => self.site.templates.get(name).map(|template| {
                let list = RuleList::Template(name.clone());
                let lists = [&template.ingress[..], &template.egress[..]];
                self.both(tenant, &list, Owner::Site, lists, *stateful)
            }),
            Part::Policy(owner, name, direction, at) => self.policy(tenant, *owner, name).map(|policy| {
                let list = RuleList::Policy(*owner, name.clone());
                let part = parts(rules_in(policy, *direction)).nth(*at as usize);
                let audit = Self::is_tried_out(tenant, *owner, policy);
                let rules = part.map(|part| self.as_rules(tenant, *owner, &list, *direction, part, audit));
                match direction {
                    Direction::Ingress => Group { ingress: rules.unwrap_or_default(), egress: Vec::new() },
                    Direction::Egress => Group { ingress: Vec::new(), egress: rules.unwrap_or_default() },
                }
            }),
            Part::PolicyEnd(owner, name) => self.policy(tenant, *owner, name).map(|policy| {
                let audit = Self::is_tried_out(tenant, *owner, policy);
                let rule = self.about_all(
                    &RuleList::PolicyEnd(*owner, name.clone()),
                    Verdict { audit, ..Verdict::DENY },
                );
                Group { ingress: rule.clone(), egress: rule }
            }),
            Part::EgressDefault(name) => {
                let list = RuleList::EgressDefault(name.clone());
                Some(Group { ingress: Vec::new(), egress: self.about_all(&list, Verdict::ALLOW) })
            }
            Part::Excluded(name) => {
                let rule = self.about_all(&RuleList::Excluded(name.clone()), Verdict::ALLOW);
                Some(Group { ingress: rule.clone(), egress: rule })
            }
            Part::DefaultDeny => {
                let rule = self.about_all(&RuleList::DefaultDeny, Verdict { audit: true, ..Verdict::DENY });
                Some(Group { ingress: rule.clone(), egress: rule })
            }
            // Rules name these as their peers.
            Part::Group(..) | Part::GroupOf(..) | Part::Set(..) => None,
        };
        group.unwrap_or_default()
    }

    pub(super) fn policy<'a>(&'a self, tenant: &'a Tenant, owner: Owner, name: &Name) -> Option<&'a Policy> {
        match owner {
            Owner::Site => self.site.policies.get(name),
            Owner::Tenant => tenant.policies.get(name),
        }
    }

    /// Whether what a policy denies passes all the same. A tenant's mode is about what is the tenant's.
    pub(super) fn is_tried_out(tenant: &Tenant, owner: Owner, policy: &Policy) -> bool {
        policy.mode == Mode::Audit || owner == Owner::Tenant && tenant.mode == Mode::Audit
    }

    /// The rule of a list that is about everything.
    fn about_all(&self, list: &RuleList, verdict: Verdict) -> Vec<Rule> {
        let number = self.numbers(list, Direction::Egress).first();
        let then = Then::Settle(verdict);
        let rule = |id: &u32| Rule::new(RuleId(*id), Peer::Any, Service::Any, then);
        number.map(rule).into_iter().collect()
    }

    /// Addresses in prefixes that endpoints share, of those groups that want them: but for those that are in others' names.
    fn wide_members(&self, tenant: &Tenant, network: &config::Network) -> Vec<EndpointRules> {
        let wide = |endpoint: &config::Endpoint| -> Vec<GroupId> {
            let groups =
                endpoint.groups.iter().filter(|name| tenant.groups.get(*name).is_some_and(|it| it.wide));
            groups.filter_map(|name| self.groups.get(name).copied()).collect()
        };
        let mut members = Vec::new();
        for endpoint in network.endpoints.iter() {
            let prefixes: Vec<IpNet> = endpoint.allowed_pairs.iter().map(|pair| pair.address).collect();
            if prefixes.iter().all(is_single) {
                continue;
            }
            let groups = wide(endpoint);
            if groups.is_empty() {
                continue;
            }
            let others = network.endpoints.iter().filter(|other| other.name != endpoint.name);
            let others: Vec<IpNet> = others.flat_map(|endpoint| named_addresses(endpoint)).collect();
            let left = prefixes.iter().filter(|net| !is_single(net)).flat_map(|net| without(*net, &others));
            let addresses = left.map(|net| prefix(&net)).collect();
            members.push(EndpointRules { addresses, groups, ..EndpointRules::default() });
        }
        members
    }

    /// A group is the tenant's: who is in it in another network is meant by `group:` here too, by its own addresses; and so is
    /// who is in a group of another tenant. Their packets get here through a machine that may send what is not its own, or one
    /// that is learned; a network without any is spared looking at all there are. An address that an endpoint here has is that endpoint's.
    fn members_elsewhere(&self, tenant: &Tenant, network: &config::Network) -> Vec<EndpointRules> {
        let forwards = |endpoint: &config::Endpoint| {
            endpoint.router
                || !endpoint.port_security
                || !endpoint.allowed_pairs.is_empty()
                || !endpoint.routes.is_empty()
        };
        if !network.learning && !network.endpoints.iter().any(|endpoint| forwards(endpoint)) {
            return Vec::new();
        }
        let here: BTreeSet<Addr> =
            network.endpoints.iter().flat_map(|endpoint| endpoint.addresses.iter().copied()).collect();
        let member = |endpoint: &config::Endpoint, id: &dyn Fn(&Name) -> Option<GroupId>| {
            let groups: Vec<GroupId> = endpoint.groups.iter().filter_map(id).collect();
            let own = endpoint.addresses.iter().filter(|address| !here.contains(*address));
            let addresses: Vec<(Addr, u8)> = own.map(|address| (*address, 128)).collect();
            let is_one = !groups.is_empty() && !addresses.is_empty();
            is_one.then(|| EndpointRules { addresses, groups, ..EndpointRules::default() })
        };
        let of_tenant = |name: &Name| self.groups.get(name).copied();
        let networks = tenant.networks.values().filter(|other| other.name != network.name);
        let own = networks.flat_map(|other| other.endpoints.iter()).filter_map(|it| member(it, &of_tenant));
        let mut members: Vec<EndpointRules> = own.collect();
        for (other, its) in &self.others {
            let of_other = |name: &Name| self.ids.get(&Part::GroupOf(other.clone(), name.clone())).copied();
            members.extend(its.endpoints().filter_map(|(_, endpoint)| member(endpoint, &of_other)));
        }
        members
    }

    /// The sets that rules name, each as someone who has its addresses.
    fn sets(&self, tenant: &Tenant) -> Vec<EndpointRules> {
        let sets = self.ids.iter().filter_map(|(part, id)| match part {
            Part::Set(of, name, _) => {
                let addresses = self.set(tenant, of.as_ref(), name)?.addresses.iter().map(prefix).collect();
                Some(EndpointRules { addresses, groups: vec![*id], ..EndpointRules::default() })
            }
            _ => None,
        });
        sets.collect()
    }

    /// The rules of a part, as the policy crate takes them: one as written is one for each peer and service; all have its number.
    fn as_rules(
        &self,
        tenant: &Tenant,
        owner: Owner,
        list: &RuleList,
        direction: Direction,
        part: OfSome<'_>,
        audit: bool,
    ) -> Vec<Rule> {
        let numbers = self.numbers(list, direction).get(part.from..).unwrap_or_default();
        let mut rules = Vec::new();
        for (rule, id) in part.rules.iter().zip(numbers) {
            let family = match (rule.family, part.family) {
                (Some(own), Some(family)) if own != family => continue,
                (own, family) => own.or(family),
            };
            let then = then(rule, audit);
            let peers: Vec<Peer> =
                rule.peers.iter().flat_map(|peer| self.peers(tenant, owner, peer)).collect();
            let dscp = (!rule.dscp.is_empty()).then(|| rule.dscp.iter().copied().collect::<DscpSet>());
            for (service, of) in services(rule) {
                if of.is_some() && family.is_some() && of != family {
                    continue;
                }
                let family = of.or(family);
                for tcp_flags in flags(rule) {
                    let plain = |peer: &Peer| Rule::new(RuleId(*id), *peer, service.clone(), then);
                    let each = |peer: &Peer| Rule { family, dscp, tcp_flags, ..plain(peer) };
                    rules.extend(peers.iter().map(each));
                }
            }
        }
        rules
    }

    /// What a peer of the configuration is to the policy crate. What is not there, which was checked when the configuration
    /// was loaded, has no members.
    fn peers(&self, tenant: &Tenant, owner: Owner, peer: &config::Peer) -> Vec<Peer> {
        let of_prefix = |net: &IpNet| {
            let (network, len) = prefix(net);
            Peer::Prefix { network, len }
        };
        match peer {
            config::Peer::Any => vec![Peer::Any],
            config::Peer::Prefix(net) => vec![of_prefix(net)],
            config::Peer::Except(net, except) => without(*net, except).iter().map(of_prefix).collect(),
            config::Peer::Group(name) => {
                self.groups.get(name).copied().map(Peer::Group).into_iter().collect()
            }
            named => {
                let id = self.named(tenant, owner, named).and_then(|part| self.ids.get(&part).copied());
                id.map(Peer::Group).into_iter().collect()
            }
        }
    }
}

fn is_single(net: &IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}

/// The addresses that are in an endpoint's name.
fn named_addresses(endpoint: &config::Endpoint) -> impl Iterator<Item = IpNet> {
    let own = endpoint.addresses.iter().map(|address| IpNet::from(address.to_ip()));
    own.chain(endpoint.allowed_pairs.iter().map(|pair| pair.address).filter(is_single))
}

fn then(rule: &config::Rule, audit: bool) -> Then {
    let audit = audit || rule.mode == Mode::Audit;
    let verdict = match rule.action {
        Action::Pass => return Then::Pass,
        Action::Allow if rule.limits.is_some() => Verdict { limited: true, audit, ..Verdict::ALLOW },
        Action::Allow => Verdict::ALLOW,
        Action::Deny => Verdict { audit, ..Verdict::DENY },
        Action::Reject => Verdict { audit, ..Verdict::REJECT },
    };
    Then::Settle(Verdict { log: rule.log, helper: rule.helper, ..verdict })
}

/// The rules of a group that keeps no state.
fn without_state(mut group: Group) -> Group {
    for rule in group.ingress.iter_mut().chain(&mut group.egress) {
        if let Then::Settle(verdict) = &mut rule.then {
            verdict.stateless = true;
        }
    }
    group
}

/// What a rule is about, each with the family that it is bound to beside the rule's own.
fn services(rule: &config::Rule) -> Vec<(Service, Option<Family>)> {
    let plain = |service| vec![(service, None)];
    match rule.protocol {
        Protocol::Any => plain(Service::Any),
        Protocol::Icmp => [Family::V4, Family::V6].into_iter().flat_map(|it| icmp(rule, it)).collect(),
        Protocol::Number(proto::ICMP) => icmp(rule, Family::V4),
        Protocol::Number(proto::ICMPV6) => icmp(rule, Family::V6),
        Protocol::Number(number) => match PortProtocol::from_number(number) {
            Some(protocol) if !(rule.ports.is_empty() && rule.source_ports.is_empty()) => {
                let (destination, source) = (ranges(&rule.ports), ranges(&rule.source_ports));
                plain(Service::Ports { protocol, destination, source })
            }
            _ => plain(Service::Protocol(number)),
        },
        Protocol::NotIcmp => vec![
            (Service::NotProtocol(proto::ICMP), Some(Family::V4)),
            (Service::NotProtocol(proto::ICMPV6), Some(Family::V6)),
        ],
        Protocol::NotNumber(number) => plain(Service::NotProtocol(number)),
    }
}

/// ICMP of a family; what is negated is any other type, and of the same type any other code.
fn icmp(rule: &config::Rule, family: Family) -> Vec<(Service, Option<Family>)> {
    let others = |value: u8| Some((0..=u8::MAX).filter(|it| *it != value).collect::<Vec<u8>>());
    let one = |value: u8| Some(vec![value]);
    let parts = match rule.icmp {
        None => vec![(None, None)],
        Some(IcmpMatch { kind, code, negated: false }) => vec![(one(kind), code.and_then(one))],
        Some(IcmpMatch { kind, code: None, negated: true }) => vec![(others(kind), None)],
        Some(IcmpMatch { kind, code: Some(code), negated: true }) => {
            vec![(others(kind), None), (one(kind), others(code))]
        }
    };
    parts.into_iter().map(|(kinds, codes)| (Service::Icmp { family, kinds, codes }, None)).collect()
}

/// The TCP flags that a rule asks for. Where they are not to be as it says, one of them is otherwise.
fn flags(rule: &config::Rule) -> Vec<Option<TcpFlags>> {
    match rule.tcp_flags {
        None => vec![None],
        Some(FlagMatch { set, of, negated: false }) => vec![Some(TcpFlags { mask: of, set })],
        Some(FlagMatch { set, of, negated: true }) => {
            let looked_at = (0..8).map(|bit| 1 << bit).filter(|flag| of & flag != 0);
            looked_at.map(|flag| Some(TcpFlags { mask: flag, set: !set & flag })).collect()
        }
    }
}

/// An empty list in the configuration is any port.
fn ranges(list: &[config::PortRange]) -> Option<Vec<PortRange>> {
    (!list.is_empty())
        .then(|| list.iter().filter_map(|r| PortRange::new_checked(r.first, r.last).ok()).collect())
}
