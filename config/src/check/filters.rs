//! Filters of endpoints: what they promise is held against everything else that is said of the endpoint, and becomes groups and
//! policies where it takes rules.
//!
//! The groups have names that nobody can write. An endpoint is in those whose policies are to apply to it.

use std::{collections::BTreeMap, sync::Arc};

use eastgate_wire::Family;
use ipnet::IpNet;

use super::rule::all_of;
use crate::{
    filters::{FILTERS, Filter, Part, filter_named},
    leaf::{Action, Mode, PolicyEnd, Position, Unknown},
    model::{Group, Name, Peer, Rule},
    place::Place,
    policies::{Policy, Scope, family_of, whole},
    problem::{Near, Problem},
    read::{At, Field, Reader},
    tables::{EndpointTable, NetworkTable},
    values::{List, NameText},
};

/// The groups and policies that the filters of a tenant's endpoints come to.
#[derive(Default)]
pub(super) struct Made {
    pub(super) groups: BTreeMap<Name, Arc<Group>>,
    pub(super) policies: BTreeMap<Name, Policy>,
}

/// An endpoint and what its filters are about.
pub(super) struct Subject<'t> {
    pub(super) tenant: &'t Name,
    pub(super) table: &'t EndpointTable,
    pub(super) network: &'t NetworkTable,
    /// How many endpoints of its network answer DHCP
    pub(super) servers: usize,
}

/// What of a filter takes rules
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Accept { family: Family, outgoing: bool },
    Deny(Family),
    DenyMulticast(Family),
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Accept { family: Family::V4, outgoing: true } => "filter:allow-ipv4",
            Self::Accept { family: Family::V6, outgoing: true } => "filter:allow-ipv6",
            Self::Accept { family: Family::V4, outgoing: false } => "filter:allow-incoming-ipv4",
            Self::Accept { family: Family::V6, outgoing: false } => "filter:allow-incoming-ipv6",
            Self::Deny(Family::V4) => "filter:no-ipv4",
            Self::Deny(Family::V6) => "filter:no-ipv6",
            Self::DenyMulticast(Family::V4) => "filter:no-ip-multicast",
            Self::DenyMulticast(Family::V6) => "filter:no-ipv6-multicast",
        }
    }
}

/// Adds the groups to an endpoint that its filters come to, if it has any, and reports what contradicts them.
pub(super) fn apply(subject: &Subject<'_>, groups: &mut Vec<Name>, made: &mut Made, reader: &mut Reader) {
    let own = subject.table.filters.good();
    let Some(list) = own.or(subject.network.filters.good()) else { return };
    let filters = known(&list.value);
    for (filter, at) in &filters {
        for part in filter.parts {
            if let Some(what) = subject.contradicts(*part) {
                let problem = Problem::FilterContradicted { filter: filter.name, what };
                subject.report(problem, at, own.is_some(), reader);
            }
            if let Part::Unsayable { asks_for, instead } = part {
                let problem = Problem::FilterUnsayable { filter: filter.name, asks_for, instead };
                reader.report(problem, at.span);
            }
        }
    }
    let is_open = subject.table.groups.value.items.is_empty() && !subject.table.groups.value.partial;
    for (kind, at) in kinds(&filters, is_open, reader) {
        let name: Name = kind.name().into();
        made.add(kind, &name, subject.tenant, reader.place(at.span));
        groups.push(name);
    }
    groups.sort_unstable();
}

/// The filters of a list that there are, each once and where it is written.
fn known(list: &List<NameText>) -> Vec<(&'static Filter, &At<NameText>)> {
    let mut found: Vec<(&'static Filter, &At<NameText>)> = Vec::new();
    for at in &list.items {
        let new =
            filter_named(&at.value.0).filter(|new| found.iter().all(|(known, _)| known.name != new.name));
        found.extend(new.map(|new| (new, at)));
    }
    found
}

/// Reports names that no filter has, or that are there twice.
pub(super) fn check_names(list: &Field<List<NameText>>, reader: &mut Reader) {
    let items = list.good().map_or(&[][..], |list| &list.value.items);
    for (index, At { value: NameText(name), span }) in items.iter().enumerate() {
        if filter_named(name).is_none() {
            let near = Near::new(name, FILTERS.iter().map(|filter| filter.name));
            reader.report(Problem::UnknownName { kind: "filter", name: name.to_string(), near }, *span);
        } else if items.iter().take(index).any(|before| before.value.0 == *name) {
            reader.report(Problem::NameRepeated { name: name.to_string() }, *span);
        }
    }
}

/// Whether an endpoint without groups has something that its filters accept.
pub(super) fn accept(table: &EndpointTable, network: &NetworkTable) -> bool {
    let list = table.filters.good().or(network.filters.good());
    let filters = list.into_iter().flat_map(|list| &list.value.items);
    let mut parts = filters.filter_map(|at| filter_named(&at.value.0)).flat_map(|filter| filter.parts);
    parts.any(|part| matches!(part, Part::Accepts(_) | Part::AcceptsIncoming(_)))
}

/// What takes rules, each once and with the filter that it is of.
fn kinds<'t>(
    filters: &[(&'static Filter, &'t At<NameText>)],
    is_open: bool,
    reader: &mut Reader,
) -> Vec<(Kind, &'t At<NameText>)> {
    let with =
        |wanted: Part| filters.iter().find(|(filter, _)| filter.parts.contains(&wanted)).map(|(_, at)| *at);
    let mut kinds = Vec::new();
    for family in [Family::V4, Family::V6] {
        let (accepts, incoming) = (with(Part::Accepts(family)), with(Part::AcceptsIncoming(family)));
        match (accepts, incoming, with(Part::NothingElse)) {
            (Some(at), _, _) => {
                kinds.extend(is_open.then_some((Kind::Accept { family, outgoing: true }, at)))
            }
            (None, Some(at), Some(rest)) => {
                let (filter, rest_name) = (at.value.0.to_string(), rest.value.0.to_string());
                let problem = Problem::FilterOneWay { filter, rest: rest_name, family: family_name(family) };
                reader.report_also(problem, at.span, rest.span, "what lets nothing else pass");
            }
            (None, Some(at), None) => {
                kinds.extend(is_open.then_some((Kind::Accept { family, outgoing: false }, at)));
            }
            (None, None, Some(rest)) => kinds.push((Kind::Deny(family), rest)),
            (None, None, None) => {}
        }
        kinds.extend(with(Part::NoMulticast(family)).map(|at| (Kind::DenyMulticast(family), at)));
    }
    kinds
}

const fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}

impl Subject<'_> {
    /// What else is said by which more would pass than a part of a filter lets.
    fn contradicts(&self, part: Part) -> Option<String> {
        let (endpoint, network) = (self.table, self.network);
        let pairs = || endpoint.allowed_pairs.value.items.iter();
        let nets = |family: Family| {
            let nets = pairs().filter_map(|pair| Some(pair.value.address.good()?.value.0));
            nets.filter(move |net| family_of(net) == family)
        };
        let wide = |family| {
            let mut nets = nets(family).filter(|net| net.prefix_len() < net.max_prefix_len());
            nets.next().map(|net| format!("the pair {net}"))
        };
        match part {
            Part::Checked => (!endpoint.port_security.value).then(|| "`port_security = false`".to_owned()),
            Part::OwnMac => pairs()
                .find_map(|pair| pair.value.mac.good())
                .map(|mac| format!("the pair with the MAC {}", mac.value)),
            Part::OwnArp => wide(Family::V4),
            Part::OwnAddresses(family) => wide(family).or_else(|| {
                let mut routes = endpoint.routes.value.items.iter().map(|route| route.value.0);
                routes.find(|net| family_of(net) == family).map(|net| format!("the route {net}"))
            }),
            Part::NothingElse => {
                let tags = endpoint.guest_vlans.good().or(network.guest_vlans.good());
                let tagged = network.vlan_aware.value && tags.is_none_or(|list| !list.value.items.is_empty());
                if tagged {
                    return Some("`vlan_aware` of the network, without `guest_vlans = []`,".to_owned());
                }
                let lists = [&endpoint.ethertypes.value.items, &network.ethertypes.value.items];
                lists.iter().any(|list| !list.is_empty()).then(|| "`ethertypes`".to_owned())
            }
            Part::NoBroadcast => {
                (network.multicast.value == Unknown::Flood).then(|| "`multicast = \"flood\"`".to_owned())
            }
            Part::OneServer => {
                (self.servers > 1).then(|| format!("`dhcp_server = true` of {} endpoints", self.servers))
            }
            Part::NoMulticast(_) | Part::Accepts(_) | Part::AcceptsIncoming(_) | Part::Unsayable { .. } => {
                None
            }
        }
    }

    /// Reports what is wrong with a filter of the endpoint, or of its network for this one.
    fn report(&self, problem: Problem, at: &At<NameText>, is_own: bool, reader: &mut Reader) {
        match self.table.mac.good() {
            Some(endpoint) if !is_own => {
                reader.report_also(problem, at.span, endpoint.span, "of this endpoint")
            }
            _ => reader.report(problem, at.span),
        }
    }
}

impl Made {
    fn add(&mut self, kind: Kind, name: &Name, tenant: &Name, at: Place) {
        if self.groups.contains_key(name) {
            return;
        }
        let rule = |action, family, peer| all_of(action, Some(family), peer, at.clone());
        let mut group = empty(name.clone(), at.clone());
        match kind {
            Kind::Accept { family, outgoing } => {
                let accept = vec![rule(Action::Allow, family, Peer::Any)];
                group.egress = Arc::new(if outgoing { accept.clone() } else { Vec::new() });
                group.ingress = Arc::new(accept);
            }
            Kind::Deny(family) => {
                let deny = vec![rule(Action::Deny, family, Peer::Any)];
                self.deny(name, tenant, at.clone(), [deny.clone(), deny]);
            }
            Kind::DenyMulticast(family) => {
                let to = Peer::Prefix(multicast(family));
                self.deny(name, tenant, at.clone(), [Vec::new(), vec![rule(Action::Deny, family, to)]]);
            }
        }
        self.groups.insert(name.clone(), Arc::new(group));
    }

    /// A policy before the groups for the members of the group with its name.
    fn deny(&mut self, name: &Name, tenant: &Name, at: Place, [ingress, egress]: [Vec<Rule>; 2]) {
        let policy = Policy {
            name: name.clone(),
            at: at.clone(),
            description: None,
            position: Position::Before,
            order: 0,
            mode: Mode::Enforce,
            end: PolicyEnd::Pass,
            end_at: at,
            applies_to: vec![Scope::Group(tenant.clone(), name.clone())],
            ingress,
            egress,
        };
        self.policies.insert(name.clone(), policy);
    }
}

fn multicast(family: Family) -> IpNet {
    let text = if family == Family::V4 { "224.0.0.0/4" } else { "ff00::/8" };
    text.parse().unwrap_or_else(|_| whole(family))
}

/// A group without rules, whose name is none that a file can have.
pub(super) fn empty(name: Name, at: Place) -> Group {
    Group {
        name,
        at,
        description: None,
        like: Vec::new(),
        made_of: None,
        includes: Vec::new(),
        admits_members: false,
        stateful: true,
        wide: false,
        shared_with: Vec::new(),
        ingress: Arc::default(),
        egress: Arc::default(),
    }
}
