//! What is written: tenants with networks, groups and endpoints, each with where it comes from.

use std::collections::{BTreeMap, BTreeSet};

use eastgate_wire::{Family, MacAddr};
use ipnet::IpNet;

/// What is said of a network whose DHCP server is none of the machines that were read.
pub(super) const DHCP_SERVER: &str =
    "Narrower: DHCP answers come in from endpoints with `dhcp_server = true` alone; the server has to be one";

/// All that is written.
#[derive(Clone, Debug, Default)]
pub(super) struct Site {
    pub(super) tenants: BTreeMap<String, Tenant>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Tenant {
    pub(super) notes: Vec<String>,
    pub(super) networks: BTreeMap<String, Network>,
    pub(super) sets: BTreeMap<String, AddressSet>,
    pub(super) groups: BTreeMap<String, Group>,
    pub(super) policies: BTreeMap<String, Policy>,
    pub(super) endpoints: BTreeMap<String, Endpoint>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Network {
    pub(super) notes: Vec<String>,
    pub(super) vni: u32,
    /// Who has no egress rule may send everything.
    pub(super) egress_open: bool,
    pub(super) subnets: BTreeSet<IpNet>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Group {
    pub(super) notes: Vec<String>,
    pub(super) description: Option<String>,
    /// Each packet is decided by itself.
    pub(super) stateless: bool,
    /// Prefixes that its members share are of it.
    pub(super) prefix_pairs: bool,
    /// Tenants whose rules name it
    pub(super) shared_with: BTreeSet<String>,
    pub(super) ingress: Vec<Rule>,
    pub(super) egress: Vec<Rule>,
}

/// Addresses with a name.
#[derive(Clone, Debug, Default)]
pub(super) struct AddressSet {
    pub(super) notes: Vec<String>,
    pub(super) addresses: BTreeSet<IpNet>,
}

/// Ordered rules before those of a group, for its members
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Policy {
    pub(super) notes: Vec<String>,
    pub(super) group: String,
    /// With what each of them does
    pub(super) ingress: Vec<(&'static str, Rule)>,
    pub(super) egress: Vec<(&'static str, Rule)>,
}

/// A rule: one of a group allows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Rule {
    pub(super) note: Option<String>,
    pub(super) description: Option<String>,
    /// As a configuration writes it; none for any
    pub(super) protocol: Option<String>,
    /// Destination ports, as a configuration writes them
    pub(super) ports: Option<(u16, u16)>,
    pub(super) source_ports: Option<(u16, u16)>,
    pub(super) icmp: Option<(u8, Option<u8>)>,
    /// Only of a policy's rule
    pub(super) dscp: Option<u8>,
    /// As a configuration writes them; only of a policy's rule
    pub(super) tcp_flags: Option<String>,
    pub(super) family: Option<Family>,
    /// As a configuration writes them; never empty
    pub(super) peers: Vec<String>,
    /// How many flows each source may have
    pub(super) connections: Option<u32>,
    /// The endpoint's own addresses that it is about; only of a policy's rule
    pub(super) own: Option<IpNet>,
    /// It does nothing, and is kept as a comment.
    pub(super) disabled: bool,
    /// What is to be otherwise than it says
    pub(super) not: BTreeSet<Not>,
}

/// A part of a rule that is negated.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Not {
    Ports,
    SourcePorts,
    Icmp,
    Peers,
    Dscp,
    TcpFlags,
}

#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    pub(super) notes: Vec<String>,
    pub(super) network: String,
    pub(super) host: String,
    pub(super) port: String,
    pub(super) mac: MacAddr,
    pub(super) addresses: Vec<std::net::IpAddr>,
    pub(super) learn: Option<Learn>,
    pub(super) groups: BTreeSet<String>,
    pub(super) pairs: Vec<(IpNet, Option<MacAddr>)>,
    pub(super) routes: Vec<IpNet>,
    pub(super) port_security: bool,
    pub(super) router: bool,
    pub(super) dhcp_server: bool,
}

/// By what an address of an endpoint is learned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Learn {
    /// By leases
    Dhcp,
    /// By whatever comes first, and that one stays.
    Once,
}

impl Site {
    /// Shares each group with the tenants whose rules name it.
    pub(super) fn share(&mut self) {
        let mut named: BTreeSet<(String, String, String)> = BTreeSet::new();
        for (tenant, content) in &self.tenants {
            let of_groups =
                content.groups.values().flat_map(|group| group.ingress.iter().chain(&group.egress));
            let of_policies = content.policies.values().flat_map(|it| it.ingress.iter().chain(&it.egress));
            let rules = of_groups.chain(of_policies.map(|(_, rule)| rule)).filter(|rule| !rule.disabled);
            for peer in rules.flat_map(|rule| &rule.peers) {
                if let Some((of, group)) = peer.strip_prefix("group:").and_then(|name| name.split_once('/')) {
                    named.insert((of.to_owned(), group.to_owned(), tenant.clone()));
                }
            }
        }
        for (of, group, with) in named {
            let group = self.tenants.get_mut(&of).and_then(|tenant| tenant.groups.get_mut(&group));
            if let Some(group) = group {
                group.shared_with.insert(with);
            }
        }
    }

    /// The hosts that endpoints are on.
    pub(super) fn hosts(&self) -> BTreeSet<&str> {
        let endpoints = self.tenants.values().flat_map(|tenant| tenant.endpoints.values());
        endpoints.map(|endpoint| endpoint.host.as_str()).collect()
    }
}

impl Rule {
    /// Everything, in both families.
    pub(super) fn any() -> Self {
        Self { peers: vec!["any".into()], ..Self::default() }
    }
}

impl Group {
    /// A group that lets everything pass.
    pub(super) fn open(note: &str) -> Self {
        let (ingress, egress) = (vec![Rule::any()], vec![Rule::any()]);
        Self { notes: vec![note.to_owned()], ingress, egress, ..Self::default() }
    }
}

/// Names that a configuration takes, for things that have names of any kind: each has one of its own.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    given: BTreeMap<String, String>,
    taken: BTreeSet<String>,
}

/// The longest name
const LONGEST: usize = 63;

impl Names {
    /// The name that the thing with this identifier has, if it has one.
    pub(super) fn known(&self, id: &str) -> Option<&str> {
        self.given.get(id).map(String::as_str)
    }

    /// The name of the thing with this identifier: as near as can be to the one it had. Things of one name are told apart by
    /// their identifiers.
    pub(super) fn of(&mut self, id: &str, wanted: &str) -> String {
        if let Some(known) = self.given.get(id) {
            return known.clone();
        }
        let wanted = near(wanted).or_else(|| near(id)).unwrap_or_else(|| "unnamed".to_owned());
        let short: String = near(id).unwrap_or_default().chars().take(8).collect();
        let first = std::iter::once(wanted.clone());
        let with_id = std::iter::once(format!("{}-{short}", cut(&wanted, LONGEST - 9)));
        let counted = (2..).map(|number: u64| format!("{}-{number}", cut(&wanted, LONGEST - 21)));
        let mut all = first.chain(with_id).chain(counted);
        let name = all.find(|name| !self.taken.contains(name)).unwrap_or_default();
        self.taken.insert(name.clone());
        self.given.insert(id.to_owned(), name.clone());
        name
    }
}

fn cut(text: &str, most: usize) -> &str {
    text.get(..text.len().min(most)).unwrap_or(text)
}

/// A name with what names may consist of; none where nothing of it is left.
pub(super) fn near(wanted: &str) -> Option<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    let name: String = wanted.chars().map(|c| if fits(c) { c } else { '-' }).collect();
    let name = name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric()).trim_end_matches('-');
    (!name.is_empty()).then(|| cut(name, LONGEST).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_has_a_name_of_its_own() {
        let mut names = Names::default();
        assert_eq!(names.of("1", "web servers"), "web-servers");
        assert_eq!(names.of("22222222-9", "web/servers"), "web-servers-22222222");
        assert_eq!(names.of("22222222-8", "web:servers"), "web-servers-2");
        assert_eq!(names.of("1", "another"), "web-servers", "the same thing");
        assert_eq!(names.of("4", "«»"), "4");
        assert_eq!(names.of("—", "«»"), "unnamed");
        assert_eq!(names.of("5", &"x".repeat(90)).len(), LONGEST);
        assert_eq!(names.of("6", &"x".repeat(90)).len(), LONGEST - 9 + 2);
    }
}
