//! libvirt's network filters and the interfaces of domains, by what `virsh nwfilter-dumpxml` and `virsh dumpxml` print.
//!
//! A filter is two things at once. What it does below IP (MACs, ARP, whose addresses) is what admission checks here do, by
//! `port_security`; it is worked out what comes of all its chains together for each kind of frame ([`layer2`]). What it does with TCP,
//! UDP and the like becomes a group ([`layer3`]).

mod counted;
mod filter;
mod layer2;
mod layer3;
mod variables;

use std::collections::{BTreeMap, BTreeSet};

use eastgate_config::{Place, prefixes::without};
use eastgate_wire::{Addr, Family, MacAddr};
use ipnet::IpNet;

use self::{
    filter::{Bound, Filters, Variables},
    layer2::{Check, Class, Fate, Layer2},
};
use super::{
    File, Map,
    map::NetworkMap,
    site::{DHCP_SERVER, Endpoint, Group, Learn, Names, Network, Not, Policy, Rule, Site, near},
};
use crate::faults::Faults;

/// The group of interfaces without a filter
const OPEN: &str = "libvirt-no-filter";

/// An interface of a domain as it was read
struct Interface {
    at: Place,
    domain: String,
    number: usize,
    mac: String,
    network: String,
    device: Option<String>,
    filter: Option<(String, Place)>,
    variables: Variables,
}

pub(super) fn import(files: &[File], map: &Map, faults: &mut Faults) -> Site {
    let mut filters = Filters::default();
    let mut interfaces = Vec::new();
    for file in files {
        match roxmltree::Document::parse(&file.text) {
            Ok(document) => read(file, document.root(), &mut filters, &mut interfaces, faults),
            Err(error) => {
                let position = error.pos();
                let lines = file.text.split_inclusive('\n').take(position.row.saturating_sub(1) as usize);
                let at = lines.map(str::len).sum::<usize>() + position.col.saturating_sub(1) as usize;
                faults.add(
                    file.place(at..at + 1),
                    format!("this is not XML: {error}"),
                    "print it with `virsh`",
                );
            }
        }
    }
    let tenant = map.tenant.clone().unwrap_or_else(|| "libvirt".to_owned());
    let mut import = Import { map, filters, site: Site::default(), tenant, groups: Names::default() };
    if interfaces.is_empty() {
        import.filters_alone(faults);
    }
    for interface in &interfaces {
        import.interface(interface, faults);
    }
    import.site
}

fn read(
    file: &File,
    root: roxmltree::Node<'_, '_>,
    filters: &mut Filters,
    interfaces: &mut Vec<Interface>,
    faults: &mut Faults,
) {
    let mut found = false;
    for node in root.descendants() {
        match node.tag_name().name() {
            "filter" if node.attribute("name").is_some() => {
                found = true;
                filters.add(file, node, faults);
            }
            "domain" => {
                found = true;
                interfaces.extend(interfaces_of(file, node));
            }
            _ => {}
        }
    }
    if !found {
        faults.add(
            file.place(root.range()),
            "there is neither a filter nor a domain in this",
            "give what `virsh nwfilter-dumpxml NAME` and `virsh dumpxml DOMAIN` print",
        );
    }
}

fn interfaces_of(file: &File, domain: roxmltree::Node<'_, '_>) -> Vec<Interface> {
    let child = |node: roxmltree::Node<'_, '_>, name: &str| {
        node.children().find(|child| child.tag_name().name() == name).map(|child| child.id())
    };
    let node_of = |id| domain.document().get_node(id);
    let name = child(domain, "name").and_then(node_of).and_then(|node| node.text()).unwrap_or_default();
    let interfaces = domain.descendants().filter(|node| node.tag_name().name() == "interface");
    let read = |(number, node): (usize, roxmltree::Node<'_, '_>)| {
        let attribute = |element: &str, names: &[&str]| {
            let found = child(node, element).and_then(node_of)?;
            names.iter().find_map(|name| found.attribute(*name)).map(str::to_owned)
        };
        let reference = child(node, "filterref").and_then(node_of);
        Interface {
            at: file.place(node.range()),
            domain: name.trim().to_owned(),
            number,
            mac: attribute("mac", &["address"]).unwrap_or_default(),
            network: attribute("source", &["bridge", "network", "dev"]).unwrap_or_default(),
            device: attribute("target", &["dev"]),
            filter: reference
                .and_then(|it| Some((it.attribute("filter")?.to_owned(), file.place(it.range())))),
            variables: reference.map(filter::parameters).unwrap_or_default(),
        }
    };
    interfaces.enumerate().map(read).collect()
}

struct Import<'m> {
    map: &'m Map,
    filters: Filters,
    site: Site,
    tenant: String,
    /// Names of groups, by what they say
    groups: Names,
}

/// What a filter comes to for an interface
struct Meaning {
    layer2: Layer2,
    group: Group,
    /// Rules whose order counts, before the group's
    policy: Option<Policy>,
    notes: Vec<String>,
}

impl Import<'_> {
    /// Without domains: a group for each filter, and what an endpoint with it needs beside it.
    fn filters_alone(&mut self, faults: &mut Faults) {
        for name in self.filters.names() {
            let Some(at) = self.filters.place(&name) else { continue };
            let Some(mut meaning) =
                self.meaning(&name, &at, &Variables::default(), &NetworkMap::default(), faults)
            else {
                continue;
            };
            meaning.group.notes.push(format!("Endpoints with it have {}", keys(&meaning.layer2)));
            meaning.group.notes.append(&mut meaning.notes);
            let named = self.groups.of(&name, &name);
            let tenant = self.site.tenants.entry(self.tenant.clone()).or_default();
            if let Some(policy) = meaning.policy {
                tenant.policies.insert(named.clone(), Policy { group: named.clone(), ..policy });
            }
            tenant.groups.insert(named, meaning.group);
        }
    }

    fn interface(&mut self, it: &Interface, faults: &mut Faults) {
        let place = self.map.port(&[&it.mac, &it.domain]);
        if place.skip {
            return;
        }
        let mut wrong = |message: String, remedy: String| faults.add(it.at.clone(), message, remedy);
        let Ok(mac) = it.mac.parse::<MacAddr>() else {
            return wrong("this interface has no MAC".into(), "print the domain with `virsh dumpxml`".into());
        };
        let mapped = self.map.network(&[&it.network]);
        let name = mapped.name.clone().or_else(|| near(&it.network));
        let (Some(vni), Some(network)) = (mapped.vni, name) else {
            let remedy = format!("write [network.\"{}\"] vni = 5001 into the mapping file", it.network);
            return wrong(format!("the VNI of `{}` is not known", it.network), remedy);
        };
        let Some(host) = place.host.or_else(|| self.map.host.clone()) else {
            return wrong("it is not known on which host this domain is".into(), "give --host".into());
        };
        let Some(port) = place.port.or_else(|| it.device.clone()) else {
            let remedy =
                format!("print the domain while it runs, or write [port.\"{}\"] port = \"vnet0\"", it.mac);
            return wrong("this interface has no device".into(), remedy);
        };
        let meaning = match &it.filter {
            None => Meaning::open(),
            Some((filter, at)) => {
                let mut variables = it.variables.clone();
                variables.insert("MAC".into(), vec![it.mac.clone()]);
                match self.meaning(filter, at, &variables, &mapped, faults) {
                    Some(meaning) => meaning,
                    None => return,
                }
            }
        };
        let has_subnet = mapped.subnets.iter().any(|net| net.addr().is_ipv4());
        let Some((addresses, learn)) = addresses(it, &meaning.layer2, has_subnet, faults) else { return };
        let filter = it.filter.as_ref().map_or(OPEN, |(name, _)| name);
        let group = self.groups.of(&format!("{filter} {:?} {:?}", meaning.group, meaning.policy), filter);
        let endpoint = Endpoint {
            notes: [vec![format!("libvirt domain {}, filter {filter}", it.domain)], meaning.notes].concat(),
            network: network.clone(),
            host,
            port,
            mac,
            addresses,
            learn,
            groups: [group.clone()].into(),
            pairs: meaning.layer2.pairs(),
            routes: Vec::new(),
            port_security: meaning.layer2.has_checks(),
            router: false,
            dhcp_server: false,
        };
        let tenant = self.site.tenants.entry(self.tenant.clone()).or_default();
        tenant.networks.entry(network).or_insert_with(|| Network {
            notes: vec![format!("libvirt {}", it.network), DHCP_SERVER.to_owned()],
            vni,
            subnets: mapped.subnets.iter().copied().collect(),
            ..Network::default()
        });
        if let Some(policy) = meaning.policy {
            tenant.policies.insert(group.clone(), Policy { group: group.clone(), ..policy });
        }
        tenant.groups.entry(group).or_insert(meaning.group);
        let domain = place.name.or_else(|| near(&it.domain)).unwrap_or_else(|| "domain".to_owned());
        let numbered = format!("{domain}-{}", it.number);
        let name = if it.number == 0 && !tenant.endpoints.contains_key(&domain) { domain } else { numbered };
        if tenant.endpoints.insert(name.clone(), endpoint).is_some() {
            let remedy = "give one of them another name in the mapping file";
            faults.add(it.at.clone(), format!("two interfaces would be the endpoint `{name}`"), remedy);
        }
    }

    /// What a filter with all that it includes comes to.
    fn meaning(
        &self,
        name: &str,
        at: &Place,
        variables: &Variables,
        network: &NetworkMap,
        faults: &mut Faults,
    ) -> Option<Meaning> {
        let bound: Vec<Bound<'_>> = self.filters.bound(name, at, variables, faults)?;
        let layer2 = layer2::evaluate(&bound, faults)?;
        let mut group = Group { notes: vec![format!("libvirt filter {name}")], ..Group::default() };
        let mut policy = Policy {
            notes: vec![format!("libvirt filter {name}: rules in their order")],
            ..Policy::default()
        };
        let mut notes = Vec::new();
        for family in [Family::V4, Family::V6] {
            let fates = layer2.fates(family);
            let peers = match fates {
                [Fate::Drop, Fate::Drop] => {
                    notes.extend((family == Family::V6).then(|| NO_IPV6.to_owned()));
                    continue;
                }
                [Fate::Pass, Fate::Pass] => None,
                [Fate::Gateway, Fate::Gateway] => Some(behind_gateway(family, network, at, faults)?),
                _ => {
                    let message =
                        "it lets IP pass one way only: here the answers to what is allowed pass too";
                    faults.add(
                        at.clone(),
                        message,
                        "say in the filter what may begin, by rules for tcp, udp and the like",
                    );
                    return None;
                }
            };
            let rules = layer3::rules(&bound, family, faults)?;
            let narrow = |rule: Rule| narrowed(rule, peers.as_deref());
            for (list, grouped, ordered) in [
                (rules.ingress, &mut group.ingress, &mut policy.ingress),
                (rules.egress, &mut group.egress, &mut policy.egress),
            ] {
                let is_ordered = list.is_ordered();
                let rules =
                    list.ordered.into_iter().filter_map(|(action, rule)| Some((action, narrow(rule)?)));
                if is_ordered {
                    ordered.extend(rules);
                } else if !list.open {
                    grouped.extend(rules.map(|(_, rule)| rule));
                }
                if list.open {
                    grouped.extend(narrow(layer3::anything(family)));
                }
            }
            notes.extend(rules.notes);
        }
        merge_any(&mut group.ingress);
        merge_any(&mut group.egress);
        notes.extend(layer2.notes());
        notes.sort_unstable();
        notes.dedup();
        let policy = Some(policy).filter(|it| !it.ingress.is_empty() || !it.egress.is_empty());
        Some(Meaning { layer2, group, policy, notes })
    }
}

const NO_IPV6: &str =
    "No IPv6 passes; neighbour discovery of its own link-local address does, as it does for everyone";

impl Meaning {
    /// Without a filter nothing is filtered.
    fn open() -> Self {
        let group = Group::open("Interfaces without a filter");
        Self { layer2: Layer2::open(), group, policy: None, notes: Vec::new() }
    }
}

/// A rule for anybody, for these peers alone. With other peers it is as it was where all of them are among those.
fn narrowed(mut rule: Rule, peers: Option<&[IpNet]>) -> Option<Rule> {
    let Some(peers) = peers else { return Some(rule) };
    if rule.not.remove(&Not::Peers) {
        let own: Vec<IpNet> = rule.peers.iter().filter_map(|peer| peer.parse().ok()).collect();
        let left = peers.iter().flat_map(|peer| without(*peer, &own));
        rule.peers = left.map(|net| net.to_string()).collect();
        return (!rule.peers.is_empty()).then_some(rule);
    }
    if rule.peers == ["any"] {
        rule.peers = peers.iter().map(ToString::to_string).collect();
        rule.family = None;
        return Some(rule);
    }
    let own: Vec<IpNet> = rule.peers.iter().filter_map(|peer| peer.parse().ok()).collect();
    rule.peers = own
        .iter()
        .flat_map(|net| {
            let inside = peers.iter().filter(move |peer| net.contains(*peer));
            let whole = peers.iter().any(|peer| peer.contains(net)).then_some(net);
            inside.chain(whole).map(ToString::to_string).collect::<Vec<_>>()
        })
        .collect();
    (!rule.peers.is_empty()).then_some(rule)
}

/// Two rules that allow everything of either family are one.
fn merge_any(rules: &mut Vec<Rule>) {
    let any = |family| Rule { family: Some(family), ..Rule::any() };
    if rules.contains(&any(Family::V4)) && rules.contains(&any(Family::V6)) {
        *rules = vec![Rule::any()];
    }
}

/// Whom one reaches by a gateway's MAC alone: all but the own subnets, and the gateway itself.
fn behind_gateway(
    family: Family,
    network: &NetworkMap,
    at: &Place,
    faults: &mut Faults,
) -> Option<Vec<IpNet>> {
    let is_of_family = |net: &IpNet| net.addr().is_ipv4() == (family == Family::V4);
    let gateways: Vec<IpNet> =
        network.gateways.iter().map(|gateway| IpNet::from(*gateway)).filter(is_of_family).collect();
    if network.gateways.is_empty() || network.subnets.is_empty() {
        faults.add(
            at.clone(),
            "traffic to one MAC alone: rules here are about addresses",
            "write subnets = [..] and gateways = [\"10.1.0.1\"] of this network into the mapping file",
        );
        return None;
    }
    let mut inside: Vec<IpNet> = network.subnets.iter().copied().filter(is_of_family).collect();
    // Nobody is reached over the link itself.
    inside.extend("fe80::/10".parse::<IpNet>().ok().filter(is_of_family));
    Some([gateways, outside(family, &inside)].concat())
}

/// All addresses of a family that are in none of these prefixes.
fn outside(family: Family, inside: &[IpNet]) -> Vec<IpNet> {
    let whole = match family {
        Family::V4 => IpNet::V4(ipnet::Ipv4Net::default()),
        Family::V6 => IpNet::V6(ipnet::Ipv6Net::default()),
    };
    let mut open = vec![whole];
    let mut found = Vec::new();
    while let Some(net) = open.pop() {
        if inside.iter().any(|taken| taken.contains(&net)) {
            continue;
        }
        if !inside.iter().any(|taken| net.contains(taken)) {
            found.push(net);
            continue;
        }
        let halves = net.subnets(net.prefix_len() + 1).map(|all| all.take(2).collect::<Vec<_>>());
        open.extend(halves.unwrap_or_default());
    }
    found.sort_unstable();
    found
}

/// The addresses of an interface: what its filter is given as its own, or by what libvirt learns the one of IPv4. `has_subnet`: the
/// network has one in which it could be.
fn addresses(
    it: &Interface,
    layer2: &Layer2,
    has_subnet: bool,
    faults: &mut Faults,
) -> Option<(Vec<std::net::IpAddr>, Option<Learn>)> {
    let mut addresses = Vec::new();
    let mut learn = None;
    for (name, family) in [("IP", Family::V4), ("IPV6", Family::V6)] {
        let values = it.variables.get(name).cloned().unwrap_or_default();
        for value in &values {
            match value.parse::<std::net::IpAddr>() {
                Ok(address) if Addr::from(address).family() == family => addresses.push(address),
                _ => {
                    let message = format!("`{value}` is no address that {name} could have");
                    faults.add(it.at.clone(), message, "write an address of one machine");
                    return None;
                }
            }
        }
        let check = if family == Family::V4 { Check::Ip } else { Check::Ipv6 };
        let class = if family == Family::V4 { Class::Ipv4 } else { Class::Ipv6 };
        if values.is_empty() && layer2.checks(class).contains(&check) {
            // What is leased or heard of IPv6 would be its own too, which libvirt does not say.
            let alone = !layer2.checks(Class::Ipv6).contains(&Check::Ipv6);
            learn = match learning(it) {
                Some(learn) if family == Family::V4 && alone => Some(learn),
                _ => None,
            };
            if learn.is_some() && has_subnet {
                continue;
            }
            if learn.is_some() {
                let message =
                    format!("the subnets of `{}` are not known, in which its address is learned", it.network);
                let remedy =
                    format!("write [network.\"{}\"] subnets = [\"...\"] into the mapping file", it.network);
                faults.add(it.at.clone(), message, remedy);
                return None;
            }
            faults.add(
                it.at.clone(),
                format!("nobody knows the address of this interface: it has no parameter {name}"),
                format!("write <parameter name='{name}' value='...'/> into its <filterref>"),
            );
            return None;
        }
    }
    Some((addresses, learn))
}

/// By what libvirt learns the address of an interface.
fn learning(it: &Interface) -> Option<Learn> {
    let said = it.variables.get("CTRL_IP_LEARNING").and_then(|values| values.first());
    match said.map(String::as_str) {
        None | Some("any") => Some(Learn::Once),
        Some("dhcp") => Some(Learn::Dhcp),
        Some(_) => None,
    }
}

/// What an endpoint needs beside its group, in words
fn keys(layer2: &Layer2) -> String {
    let pairs: BTreeSet<String> = layer2.pairs().iter().map(|(net, _)| net.to_string()).collect();
    match (layer2.has_checks(), pairs.is_empty()) {
        (false, _) => "`port_security = false`".to_owned(),
        (true, true) => "`port_security = true`, which is the default".to_owned(),
        (true, false) => {
            let pairs: Vec<String> = pairs.into_iter().collect();
            format!("`port_security = true` and allowed_pairs of {}", pairs.join(" and "))
        }
    }
}

/// What a table of chains is by name
pub(super) type ByName<T> = BTreeMap<String, T>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_is_all_but_what_is_inside() {
        let nets = |text: &[&str]| text.iter().map(|net| net.parse().unwrap()).collect::<Vec<IpNet>>();
        let found = outside(Family::V4, &nets(&["10.0.0.0/8"]));
        assert_eq!(found.len(), 8);
        let sum: u64 = found.iter().map(|net| 1u64 << (32 - net.prefix_len())).sum();
        assert_eq!(sum, (1 << 32) - (1 << 24));
        assert!(found.iter().all(|net| !net.contains(&"10.1.2.3".parse::<std::net::IpAddr>().unwrap())));
        assert_eq!(outside(Family::V6, &[]), nets(&["::/0"]));
        assert_eq!(outside(Family::V4, &nets(&["0.0.0.0/0"])), []);
    }
}
