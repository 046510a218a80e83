//! What two versions of a configuration treat differently: which traffic, with an example packet for each difference, and which
//! settings beside the rules.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use eastgate_config::{self as config, Config};
use eastgate_policy::{
    analysis::{Region, difference},
    rule::{Direction, Header, RuleId},
};
use eastgate_wire::{Addr, EndpointId, FlowKey, Leg, Vni, names};
use serde::Serialize;

use super::{NetworkPolicy, Outcome, Policies, peers_text, services_text};

/// All that is different.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Difference {
    /// What the rules treat differently
    pub traffic: Vec<Row>,
    /// What else decides what passes, and is not as it was
    pub settings: Vec<Setting>,
}

/// Packets that are treated differently.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Row {
    /// As tenant/name
    pub network: String,
    /// `ingress` or `egress`
    pub direction: &'static str,
    /// Whose rules these are, as tenant/name
    pub endpoints: Vec<String>,
    /// The other end
    pub peers: Vec<String>,
    /// What it is about
    pub services: Vec<String>,
    /// What became of them; nothing is said of endpoints that were not there
    pub before: Option<Outcome>,
    /// What becomes of them
    pub after: Option<Outcome>,
    /// One of them
    pub example: String,
}

/// A setting that is not as it was.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Setting {
    /// Of which network or endpoint
    pub of: String,
    /// Its key
    pub key: &'static str,
    /// What it was; none where the thing was not there
    pub before: Option<String>,
    /// What it is
    pub after: Option<String>,
}

impl Difference {
    /// Nothing is different.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.traffic.is_empty() && self.settings.is_empty()
    }
}

/// Compares two versions.
#[must_use]
pub fn diff(before: &Policies, after: &Policies) -> Difference {
    let by_name = |policies: &'_ Policies| -> BTreeMap<String, usize> {
        policies.networks.iter().map(NetworkPolicy::name).zip(0..).collect()
    };
    let (old, new) = (by_name(before), by_name(after));
    let mut found = Difference::default();
    site_settings(&before.config, &after.config, &mut found.settings);
    let tenants = before.config.tenants.keys().chain(after.config.tenants.keys());
    for tenant in tenants.collect::<BTreeSet<_>>() {
        let [was, is] = [before, after].map(|policies| policies.config.tenant(tenant));
        profile_settings(tenant, was, is, &mut found.settings);
    }
    for name in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
        let was = old.get(name).and_then(|place| before.networks.get(*place));
        let is = new.get(name).and_then(|place| after.networks.get(*place));
        match (was, is) {
            (Some(was), Some(is)) => of_network(was, is, &mut found),
            (was, is) => {
                let vni = |it: &NetworkPolicy| it.config().map(|network| network.vni.to_string());
                found.settings.push(Setting {
                    of: name.clone(),
                    key: "vni",
                    before: was.and_then(vni),
                    after: is.and_then(vni),
                });
            }
        }
    }
    found
}

fn of_network(was: &NetworkPolicy, is: &NetworkPolicy, found: &mut Difference) {
    let places = |network: &NetworkPolicy| -> BTreeMap<config::Name, usize> {
        network.endpoints().iter().map(|endpoint| endpoint.name.clone()).zip(0..).collect()
    };
    let (old, new) = (places(was), places(is));
    let all: BTreeSet<&config::Name> = old.keys().chain(new.keys()).collect();
    if let (Some(was), Some(is)) = (was.config(), is.config()) {
        network_settings(&format!("{}/{}", was.tenant, was.name), was, is, &mut found.settings);
    }
    for name in &all {
        let was = old.get(*name).and_then(|place| was.endpoints().get(*place)).map(AsRef::as_ref);
        let now = new.get(*name).and_then(|place| is.endpoints().get(*place)).map(AsRef::as_ref);
        endpoint_settings(&format!("{}/{name}", is.tenant.name), was, now, &mut found.settings);
    }
    let id = |places: &BTreeMap<config::Name, usize>, name: &config::Name| {
        places.get(name).map(|place| EndpointId(*place as u32))
    };
    let asked: Vec<[Option<EndpointId>; 2]> =
        all.iter().map(|name| [id(&old, name), id(&new, name)]).collect();
    let names: Vec<String> = all.iter().map(|name| format!("{}/{name}", is.tenant.name)).collect();
    let owners: BTreeMap<Addr, String> = [was, is]
        .into_iter()
        .flat_map(|network| {
            network.owners().into_iter().map(|(address, place)| (address, network.endpoint_name(place)))
        })
        .collect();
    let same_limits = |[before, after]: [RuleId; 2]| was.limits(before) == is.limits(after);
    for region in difference(was.side(), is.side(), &asked, same_limits) {
        found.traffic.extend(rows(&region, &asked, &names, &owners, [was, is]));
    }
}

/// A region as rows: those of endpoints that came or went by themselves.
fn rows(
    region: &Region<2>,
    asked: &[[Option<EndpointId>; 2]],
    names: &[String],
    owners: &BTreeMap<Addr, String>,
    [was, is]: [&NetworkPolicy; 2],
) -> Vec<Row> {
    let mut kinds: BTreeMap<[bool; 2], Vec<usize>> = BTreeMap::new();
    for place in &region.endpoints {
        let ids = asked.get(*place).copied().unwrap_or_default();
        kinds.entry(ids.map(|id| id.is_some())).or_default().push(*place);
    }
    let row = |([there_before, there_after], places): ([bool; 2], Vec<usize>)| {
        let first = *places.first()?;
        let own = [was, is].into_iter().zip(asked.get(first)?).find_map(|(network, id)| {
            let mut all = network.addresses(id.as_ref()?.0 as usize);
            let like_peers =
                |address: &Addr| region.peers.iter().any(|range| range.first.family() == address.family());
            all.find(like_peers)
        });
        let [before, after] = region.outcomes;
        Some(Row {
            network: is.name(),
            direction: match region.direction {
                Direction::Ingress => "ingress",
                Direction::Egress => "egress",
            },
            endpoints: places.iter().filter_map(|place| names.get(*place).cloned()).collect(),
            peers: peers_text(&region.peers, owners),
            services: services_text(&region.services),
            before: there_before.then(|| was.outcome(&before)),
            after: there_after.then(|| is.outcome(&after)),
            example: example(region, own, owners, is.config().map(|network| network.vni))?,
        })
    };
    kinds.into_iter().filter_map(row).collect()
}

/// A packet in words, between the endpoint and one of its peers; one that people know, if there is one.
fn example(
    region: &Region<2>,
    own: Option<Addr>,
    owners: &BTreeMap<Addr, String>,
    vni: Option<Vni>,
) -> Option<String> {
    let like_own =
        |address: &&Addr| own.is_none_or(|own| own.family() == address.family() && own != **address);
    let any_of_family = region.peers.iter().map(|range| &range.first).find(like_own);
    let liked = owners.keys().filter(like_own).find(|address| region.has_peer(**address)).or(any_of_family);
    let (peer, probe) = region.example(liked.copied())?;
    let (sport, dport, rest) = match probe.header {
        Header::Ports { source, destination } => (source, destination, String::new()),
        Header::Icmp { kind, code } => (0, 0, format!(" type {kind} code {code}")),
        Header::Unread => (0, 0, String::new()),
    };
    // An endpoint without an address of that family is told by the unspecified one.
    let own = own.unwrap_or(if peer.is_v4() { Addr::v4([0; 4]) } else { Addr::v6([0; 16]) });
    let (src, dst) = match region.direction {
        Direction::Ingress => (peer, own),
        Direction::Egress => (own, peer),
    };
    let key = FlowKey { src, dst, vni: vni?, sport, dport, proto: probe.proto, leg: Leg::DIRECT };
    Some(names::packet(&key) + &rest)
}

/// A thing's settings by name, as they are written.
type Settings = Vec<(&'static str, String)>;

/// Fields of a thing by their names. Those that say nothing of what passes are named behind the others: a field that nobody has
/// thought of does not compile.
macro_rules! settings {
    ($of:expr => $type:path { $($key:ident),* } beside { $($beside:ident),* }) => {{
        let $type { $($key,)* $($beside: _,)* } = $of;
        vec![$((stringify!($key), written($key))),*]
    }};
}

/// As the file has it: words in lower case, names as they are, and nothing of types.
fn written(value: &impl fmt::Debug) -> String {
    let text = format!("{value:?}").replace("VtepAddr(", "(").replace("Some(", "(");
    let named = text.split('"').enumerate().map(|(at, part)| {
        let is_name = at % 2 == 1;
        if is_name { part.to_owned() } else { without_types(part) }
    });
    named.collect()
}

fn without_types(text: &str) -> String {
    let mut words: Vec<&str> = text.split(' ').collect();
    for at in 1..words.len() {
        if words[at] == "{" {
            words[at - 1] = words[at - 1].trim_end_matches(char::is_alphanumeric);
        }
    }
    words.join(" ").replace(['(', ')'], "").replace("  {", " {").to_lowercase()
}

/// `kind` is the key under which it is told that the thing has come or gone.
fn compare(
    of: &str,
    kind: &'static str,
    before: Option<Settings>,
    after: Option<Settings>,
    found: &mut Vec<Setting>,
) {
    let is_there = |settings: &Option<Settings>| settings.as_ref().map(|_| "there".to_owned());
    if before.is_none() || after.is_none() {
        let (before, after) = (is_there(&before), is_there(&after));
        found.push(Setting { of: of.to_owned(), key: kind, before, after });
        return;
    }
    let both = before.into_iter().flatten().zip(after.into_iter().flatten());
    found.extend(both.filter(|(was, is)| was != is).map(|((key, was), (_, is))| Setting {
        of: of.to_owned(),
        key,
        before: Some(was),
        after: Some(is),
    }));
}

/// What of the first file and of the hosts decides what passes, beside policies.
fn site_settings(was: &Config, is: &Config, found: &mut Vec<Setting>) {
    let overlay = |it: &Config| {
        settings!(&it.overlay => config::Overlay {
            port, ttl, tos, source_ports, entropy_ports, udp_checksum, dont_fragment
        } beside {})
    };
    compare("overlay", "overlay", Some(overlay(was)), Some(overlay(is)), found);
    let site = |it: &Config| {
        let access = it.site.underlay_access.iter();
        let names = access.flat_map(|(tenant, all)| all.keys().map(move |name| format!("{tenant}/{name}")));
        vec![("limits", written(&it.limits)), ("underlay_access", names.collect::<Vec<_>>().join(", "))]
    };
    compare("site", "site", Some(site(was)), Some(site(is)), found);
    let host = |it: &config::Host| {
        let mut settings = settings!(it => config::Host { vtep, devices, udp_checksum, runs, management } beside { vdp, name, at });
        settings.push(("vdp", it.vdp.iter().map(stations).collect::<Vec<_>>().join("; ")));
        settings
    };
    for name in was.hosts.keys().chain(is.hosts.keys()).collect::<BTreeSet<_>>() {
        let [was, is] = [was, is].map(|config| config.hosts.get(name).map(host));
        compare(&format!("host {name}"), "host", was, is, found);
    }
}

fn stations((device, vdp): (&Arc<str>, &config::VdpDevice)) -> String {
    let config::VdpDevice { stations, machines, keep_alive, at: _ } = vdp;
    let any = || "any".to_owned();
    let macs = |macs: &BTreeSet<_>| macs.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let who = stations.as_ref().map_or_else(any, macs);
    format!("{device}: stations {who}, {machines} machines at most, every {keep_alive:?}")
}

/// What machines are that stations associate.
fn profile_settings(
    tenant: &str,
    was: Option<&Arc<config::Tenant>>,
    is: Option<&Arc<config::Tenant>>,
    found: &mut Vec<Setting>,
) {
    let settings = |it: &config::Profile| {
        let config::Profile { name: _, at: _, vsi, network, machines, machine } = it;
        let groups = machine.rules_of.as_deref().unwrap_or(&machine.groups).join(", ");
        let learn = machine.learning.as_ref().map_or_else(|| "none".to_owned(), learning);
        let own = [("ethertypes", written(&machine.ethertypes)), ("limits", written(&machine.limits))];
        let mut all = vec![("vsi", vsi.to_string()), ("network", network.to_string())];
        all.extend([("machines", machines.to_string()), ("groups", groups), ("learn", learn)]);
        all.extend(own);
        all.push(("timeouts", written(&machine.timeouts)));
        all
    };
    let names: BTreeSet<_> = was.into_iter().chain(is).flat_map(|tenant| tenant.profiles.keys()).collect();
    for name in names {
        let of = |tenant: Option<&Arc<config::Tenant>>| tenant?.profiles.get(name).map(settings);
        compare(&format!("{tenant}/{name}"), "profile", of(was), of(is), found);
    }
}

/// What of a network decides what passes, beside rules.
fn network_settings(of: &str, was: &config::Network, is: &config::Network, found: &mut Vec<Setting>) {
    let settings = |it: &config::Network| {
        let mut settings = settings!(it => config::Network {
            vni, subnets, mtu, topology, learning, flood, multicast_group, neighbors, unknown_neighbors,
            unknown_destinations, vlan_aware, guest_vlans, ethertypes, strict_reserved, tcp, tcp_pickup,
            tcp_unknown, on_change, egress_default, oversize, mss_clamp, multicast, bum_limit,
            slow_path_limit, mac_limit, mac_age, timeouts, limits
        } beside {
            name, tenant, at, vni_at, mtu_at, hub, members, multicast_group_at, egress_default_at, endpoints
        });
        let members: Vec<&str> = it.members.iter().map(|member| &*member.host).collect();
        let hub = it.hub.as_ref().map_or("none", |hub| &*hub.host);
        settings.extend([("hub", hub.to_owned()), ("hosts", members.join(", "))]);
        settings
    };
    compare(of, "network", Some(settings(was)), Some(settings(is)), found);
}

/// What of an endpoint decides what it may send, and who is meant by rules.
fn endpoint_settings(
    of: &str,
    was: Option<&config::Endpoint>,
    is: Option<&config::Endpoint>,
    found: &mut Vec<Setting>,
) {
    let settings = |it: &config::Endpoint| {
        let mut settings = settings!(it => config::Endpoint {
            mac, addresses, learned, groups, rules_of, allowed_pairs, routes, guest_vlans, ethertypes,
            port_security, router, dhcp_server, limits, timeouts
        } beside { name, at, host, attachment, port_at, learning });
        let port = it.attachment.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
        let learn = it.learning.as_ref().map_or_else(|| "none".to_owned(), learning);
        settings.extend([("host", it.host.host.to_string()), ("port", port), ("learn", learn)]);
        settings
    };
    compare(of, "endpoint", was.map(settings), is.map(settings), found);
}

fn learning(learning: &config::Learning) -> String {
    let config::Learning { by, limit, lock, age, within } = learning;
    let lock = if *lock { ", locked" } else { "" };
    format!("{}, {limit} at most{lock}, for {age:?}, in {}", written(by), written(within))
}
