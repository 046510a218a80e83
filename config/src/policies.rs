//! Firewall policies, address sets and templates: what stands beside the groups of a tenant, or over all tenants.

use std::{collections::BTreeMap, fmt, net::Ipv6Addr, sync::Arc};

use eastgate_wire::Family;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{
    leaf::{Mode, PolicyEnd, Position},
    model::{Endpoint, Group, Name, Network, Peer, Rule, Tenant},
    place::Place,
    prefixes::without,
};

/// What the site lays down for all tenants: no tenant has a say in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SitePolicy {
    /// Its policies, by name
    pub policies: BTreeMap<Name, Policy>,
    /// Its address sets, by name
    pub sets: BTreeMap<Name, AddressSet>,
    /// What groups of any tenant may start from, by name
    pub templates: BTreeMap<Name, Template>,
    /// Endpoints that are carried without policy
    pub excluded: EndpointList,
    /// Endpoints that may send to VTEPs and to management addresses
    pub underlay_access: EndpointList,
}

/// Endpoints by tenant and name, and where each is written.
pub type EndpointList = BTreeMap<Name, BTreeMap<Name, Place>>;

/// A firewall policy: ordered rules, of which the first that matches acts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Policy {
    /// Its name
    pub name: Name,
    /// Where its table begins
    pub at: Place,
    /// For people
    pub description: Option<Arc<str>>,
    /// Whether it is asked before the security groups or after them
    pub position: Position,
    /// Of policies at the same place the lower one comes first, and of equal ones the first by name.
    pub order: u32,
    /// Whether it is being tried out
    pub mode: Mode,
    /// What becomes of packets that no policy of its place settles, where it has a say; never [`PolicyEnd::Deny`] after the
    /// groups.
    pub end: PolicyEnd,
    /// Where that is written, or else its table
    pub end_at: Place,
    /// Whose packets it is asked about
    pub applies_to: Vec<Scope>,
    /// What may come to them, in the order written
    pub ingress: Vec<Rule>,
    /// What they may send, in the order written
    pub egress: Vec<Rule>,
}

/// Endpoints that a policy applies to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// All of all tenants
    Site,
    /// All of a tenant
    Tenant(Name),
    /// Those in a network of a tenant
    Network(Name, Name),
    /// Those in a group of a tenant
    Group(Name, Name),
    /// An endpoint of a tenant
    Endpoint(Name, Name),
}

/// Addresses with a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AddressSet {
    /// Its name
    pub name: Name,
    /// Where its table begins
    pub at: Place,
    /// For people
    pub description: Option<Arc<str>>,
    /// What is in it, of both families
    pub addresses: Vec<IpNet>,
    /// The tenants whose rules may name it beside its own tenant's
    pub shared_with: Vec<Name>,
}

/// Rules that groups may start from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Template {
    /// Its name
    pub name: Name,
    /// Where its table begins
    pub at: Place,
    /// For people
    pub description: Option<Arc<str>>,
    /// What members of such a group may receive
    pub ingress: Vec<Rule>,
    /// What they may send
    pub egress: Vec<Rule>,
}

/// How many of the addresses that an endpoint may send from are meant by a rule's `own`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Share {
    /// None
    None,
    /// Some: which of them a packet has, the rules are not asked.
    Some,
    /// All
    All,
}

impl Scope {
    /// Whether an endpoint is meant.
    #[must_use]
    pub fn has(&self, tenant: &str, network: &str, endpoint: &Endpoint) -> bool {
        match self {
            Self::Site => true,
            Self::Tenant(of) => **of == *tenant,
            Self::Network(of, name) => **of == *tenant && **name == *network,
            Self::Group(of, name) => **of == *tenant && endpoint.groups.contains(name),
            Self::Endpoint(of, name) => **of == *tenant && *name == endpoint.name,
        }
    }

    /// Whether endpoints of a tenant may be meant.
    #[must_use]
    pub fn concerns(&self, tenant: &str) -> bool {
        match self {
            Self::Site => true,
            Self::Tenant(of) | Self::Network(of, _) | Self::Group(of, _) | Self::Endpoint(of, _) => {
                **of == *tenant
            }
        }
    }
}

impl Policy {
    /// Whether it is asked about an endpoint.
    #[must_use]
    pub fn applies_to(&self, tenant: &str, network: &str, endpoint: &Endpoint) -> bool {
        self.applies_to.iter().any(|scope| scope.has(tenant, network, endpoint))
    }

    /// Whether it may be asked about endpoints of a tenant.
    #[must_use]
    pub fn concerns(&self, tenant: &str) -> bool {
        self.applies_to.iter().any(|scope| scope.concerns(tenant))
    }

    /// Its rules of both directions
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.ingress.iter().chain(&self.egress)
    }
}

impl SitePolicy {
    /// The endpoints of a tenant that are carried without policy, and where that is written
    pub fn excluded_of(&self, tenant: &str) -> impl Iterator<Item = (&Name, &Place)> {
        self.excluded.get(tenant).into_iter().flatten()
    }

    /// Whether an endpoint is carried without policy.
    #[must_use]
    pub fn excludes(&self, tenant: &str, endpoint: &str) -> bool {
        self.excluded.get(tenant).is_some_and(|of_tenant| of_tenant.contains_key(endpoint))
    }

    /// The endpoints of a tenant that may send to VTEPs and to management addresses; none where it has none.
    #[must_use]
    pub fn underlay_access_of(&self, tenant: &str) -> Option<&BTreeMap<Name, Place>> {
        self.underlay_access.get(tenant)
    }

    /// The policies that may be asked about endpoints of a tenant
    pub fn policies_for<'a>(&'a self, tenant: &'a Tenant) -> impl Iterator<Item = &'a Policy> {
        self.policies.values().filter(|policy| policy.concerns(&tenant.name))
    }
}

impl Tenant {
    /// All rules that it has written
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        let of_groups = self.groups.values().flat_map(|group| group.ingress.iter().chain(&*group.egress));
        of_groups.chain(self.policies.values().flat_map(Policy::rules))
    }

    /// The groups whose rules an endpoint has, sorted by name: those that it is in, with what they include. Where it gives variables
    /// values of its own, groups that are made of those stand in their place, and nobody is in them.
    #[must_use]
    pub fn rules_of<'a>(&'a self, endpoint: &'a Endpoint) -> Vec<&'a Group> {
        let named =
            |names: &'a [Name]| names.iter().filter_map(|name| self.groups.get(name).map(AsRef::as_ref));
        if let Some(names) = &endpoint.rules_of {
            return named(names).collect();
        }
        let is_in = named(&endpoint.groups);
        let mut groups: Vec<&Group> =
            is_in.flat_map(|group| std::iter::once(group).chain(named(&group.includes))).collect();
        groups.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        groups.dedup_by(|a, b| a.name == b.name);
        groups
    }

    /// Whether a group means an endpoint: one that is made of values whoever has its rules, any other its members.
    #[must_use]
    pub fn means(&self, group: &Group, endpoint: &Endpoint) -> bool {
        match group.made_of {
            Some(_) => self.rules_of(endpoint).iter().any(|of| of.name == group.name),
            None => endpoint.groups.contains(&group.name),
        }
    }

    /// The endpoint with this name, and its network.
    #[must_use]
    pub fn endpoint(&self, name: &str) -> Option<(&Network, &Endpoint)> {
        self.networks.values().find_map(|network| Some((network, network.endpoint(name)?)))
    }
}

impl Rule {
    /// The families that it is about
    pub fn families(&self) -> impl Iterator<Item = Family> {
        let family = self.family;
        [Family::V4, Family::V6].into_iter().filter(move |own| family.is_none_or(|family| family == *own))
    }

    /// How many of an endpoint's addresses of a family its `own` means.
    #[must_use]
    pub fn share_of(&self, endpoint: &Endpoint, family: Family) -> Share {
        if self.own.is_empty() {
            return Share::All;
        }
        let all = endpoint.may_send_from(family);
        let outside = all.iter().flat_map(|net| without(*net, &self.own));
        let outside: Vec<IpNet> = outside.collect();
        if outside == all {
            Share::None
        } else if outside.is_empty() {
            Share::All
        } else {
            Share::Some
        }
    }
}

impl Endpoint {
    /// All addresses of a family that it may send from: its own, those that may be learned, its pairs, what is behind it;
    /// link-local ones of its own choice; and any, where its port is not secured.
    #[must_use]
    pub fn may_send_from(&self, family: Family) -> Vec<IpNet> {
        if !self.port_security {
            return vec![whole(family)];
        }
        let own = self.addresses.iter().map(|address| IpNet::from(address.to_ip()));
        let pairs = self.allowed_pairs.iter().map(|pair| pair.address);
        let link_local = Ipv6Net::new(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10).ok().map(IpNet::from);
        let learned = self.learning.iter().flat_map(|learning| learning.within.iter().copied());
        let all = own.chain(learned).chain(pairs).chain(self.routes.iter().copied()).chain(link_local);
        all.filter(|net| family_of(net) == family).collect()
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Prefix(net) => write!(f, "{net}"),
            Self::Except(net, except) => {
                let except: Vec<String> = except.iter().map(IpNet::to_string).collect();
                write!(f, "{net} except {}", except.join(" and "))
            }
            Self::Group(name) => write!(f, "group:{name}"),
            Self::GroupOf(tenant, name) => write!(f, "group:{tenant}/{name}"),
            Self::Set(name) => write!(f, "set:{name}"),
            Self::SetOf(tenant, name) => write!(f, "set:{tenant}/{name}"),
        }
    }
}

/// The family of a prefix
#[must_use]
pub const fn family_of(net: &IpNet) -> Family {
    match net {
        IpNet::V4(_) => Family::V4,
        IpNet::V6(_) => Family::V6,
    }
}

/// All addresses of a family
pub(super) fn whole(family: Family) -> IpNet {
    match family {
        Family::V4 => Ipv4Net::default().into(),
        Family::V6 => Ipv6Net::default().into(),
    }
}
