//! A network: its subnets, MTU, topology and flooding.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use ipnet::IpNet;

use super::{NetworkClaim, filters, kernel};
use crate::{
    ethertypes::L2Protocol,
    leaf::{Flood, OnChange, Topology},
    model::{Endpoint, EndpointLimits, HostRef, Limits, Name, Network},
    problem::Problem,
    read::{At, Reader, Span},
    tables::{NetworkLimitsTable, NetworkTable, Seconds, TimeoutsTable},
    timeouts::Timeouts,
    values::{List, NameText},
    vlans::merged,
};

/// The smallest MTU of an IPv6 link (RFC 8200 section 5).
const IPV6_MIN_MTU: u16 = 1280;

/// Checks a network of a tenant that has these endpoints, by name, or none; what becomes of its flows is the tenant's to say, unless
/// it says so itself. There is none if it has no VNI.
pub(super) fn check(
    (tenant, on_change): (&Name, OnChange),
    name: &At<Name>,
    table: &NetworkTable,
    endpoints: Option<Arc<Vec<Arc<Endpoint>>>>,
    reader: &mut Reader,
) -> (Option<Network>, NetworkClaim) {
    let subnets = subnets(table, reader);
    mtu(table, &subnets, reader);
    topology(table, name, reader);
    flooding(table, name, reader);
    kernel::check_network(table, reader);
    filters::check_names(&table.filters, reader);
    if let Some(vlans) = table.guest_vlans.good() {
        tags_travel(table, name, vlans.span, reader);
    }
    let deserted = endpoints.is_none() && table.hosts.value.items.is_empty() && table.hub.is_missing();
    let endpoints = endpoints.unwrap_or_default();
    let hosts: Vec<HostRef> = host_names(table, reader);
    let hub = table.hub.good().map(|hub| host_ref(hub, reader));
    let members = members(&endpoints, &hosts, hub.as_ref());
    if deserted {
        reader.report(Problem::NetworkEmpty { name: name.value.to_string() }, name.span);
    }
    let claim = NetworkClaim {
        name: name.value.clone(),
        vni: table.vni.good().map(|vni| (vni.value, reader.place(vni.span))),
        mtu: table.mtu.good().map(|mtu| (mtu.value.get(), reader.place(mtu.span))),
        hub: hub.clone(),
        hosts,
        members: members.clone(),
        multicast_group: table.multicast_group.good().map(|group| (group.value, reader.place(group.span))),
    };
    let on_change = table.on_change.good().map_or(on_change, |own| own.value);
    let parts = Parts { subnets, hub, members, endpoints, on_change };
    let network = build(tenant, name, table, parts, reader);
    (network, claim)
}

/// What of a network has been worked out already.
struct Parts {
    subnets: Vec<IpNet>,
    hub: Option<HostRef>,
    members: Vec<HostRef>,
    endpoints: Arc<Vec<Arc<Endpoint>>>,
    on_change: OnChange,
}

fn build(
    tenant: &Name,
    name: &At<Name>,
    table: &NetworkTable,
    parts: Parts,
    reader: &mut Reader,
) -> Option<Network> {
    let vni = table.vni.good()?;
    Some(Network {
        name: name.value.clone(),
        tenant: tenant.clone(),
        at: reader.place(name.span),
        vni: vni.value,
        vni_at: reader.place(vni.span),
        subnets: parts.subnets,
        mtu: table.mtu.good().map(|mtu| mtu.value.get()),
        mtu_at: table.mtu.good().map(|mtu| reader.place(mtu.span)),
        topology: table.topology.value,
        hub: parts.hub,
        members: parts.members,
        learning: table.learning.value,
        flood: table.flood.value,
        multicast_group: table.multicast_group.good().map(|group| group.value),
        multicast_group_at: table.multicast_group.good().map(|group| reader.place(group.span)),
        neighbors: table.neighbors.value,
        unknown_neighbors: table.unknown_neighbors.value,
        unknown_destinations: table.unknown_destinations.value,
        vlan_aware: table.vlan_aware.value,
        guest_vlans: table.guest_vlans.good().map(|list| merged(&list.value)),
        ethertypes: protocols(&table.ethertypes.value),
        strict_reserved: table.strict_reserved.value,
        tcp: table.tcp.value,
        tcp_pickup: Duration::from_secs(table.tcp_pickup.value.get::<u32>().into()),
        tcp_unknown: table.tcp_unknown.value,
        on_change: parts.on_change,
        egress_default: table.egress_default.value,
        egress_default_at: reader.place(table.egress_default.span),
        oversize: table.oversize.value,
        mss_clamp: table.mss_clamp.value,
        multicast: table.multicast.value,
        bum_limit: table.bum_limit.value.get(),
        slow_path_limit: table.slow_path_limit.value.get(),
        mac_limit: table.mac_limit.value.get(),
        mac_age: seconds(table.mac_age.value),
        timeouts: table.timeouts.good().map(|table| timeouts(&table.value)).unwrap_or_default(),
        limits: table.limits.good().map_or_else(Limits::of_network, |table| limits(&table.value)),
        endpoints: parts.endpoints,
    })
}

/// The good subnets, after reporting the others.
fn subnets(table: &NetworkTable, reader: &mut Reader) -> Vec<IpNet> {
    let mut good: Vec<&At<IpNet>> = Vec::new();
    for subnet in &table.subnets.value.items {
        if !is_subnet(subnet.value) {
            reader.report(Problem::SubnetKind { subnet: subnet.value }, subnet.span);
        } else if let Some(other) = good.iter().find(|other| overlap(other.value, subnet.value)) {
            let problem = Problem::SubnetOverlap { subnet: subnet.value, other: other.value };
            reader.report_also(problem, subnet.span, other.span, "the other one");
        } else {
            good.push(subnet);
        }
    }
    good.into_iter().map(|subnet| subnet.value).collect()
}

pub(super) fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

/// Prefixes of which no station has an address that others reach it by.
pub(super) const NOT_FOR_STATIONS: [&str; 8] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "224.0.0.0/3",
    "::/127",
    "::ffff:0:0/96",
    "fe80::/10",
    "ff00::/8",
    "255.255.255.255/32",
];

/// Whether stations can have every address of the prefix, its first and last aside.
pub(super) fn is_subnet(subnet: IpNet) -> bool {
    let mut never = NOT_FOR_STATIONS.iter().filter_map(|text| text.parse::<IpNet>().ok());
    !never.any(|never| overlap(never, subnet))
}

fn mtu(table: &NetworkTable, subnets: &[IpNet], reader: &mut Reader) {
    let Some(mtu) = table.mtu.good() else { return };
    let value: u16 = mtu.value.get();
    if value < IPV6_MIN_MTU && subnets.iter().any(|subnet| matches!(subnet, IpNet::V6(_))) {
        reader.report(Problem::MtuIpv6 { mtu: value }, mtu.span);
    }
}

fn topology(table: &NetworkTable, name: &At<Name>, reader: &mut Reader) {
    match (table.topology.value, table.hub.good()) {
        (Topology::Hub, None) if table.hub.is_missing() => {
            let at = if table.topology.span == name.span { name.span } else { table.topology.span };
            reader.report(Problem::HubMissing {}, at);
        }
        (Topology::Mesh, Some(hub)) => reader.report(Problem::HubUnused {}, hub.span),
        _ => {}
    }
}

fn flooding(table: &NetworkTable, name: &At<Name>, reader: &mut Reader) {
    match (table.flood.value, table.multicast_group.good()) {
        (Flood::Multicast, None) if table.multicast_group.is_missing() => {
            let at = if table.flood.span == name.span { name.span } else { table.flood.span };
            reader.report(Problem::MulticastMissing {}, at);
        }
        (Flood::Replicate | Flood::Off, Some(group)) => {
            reader.report(Problem::MulticastUnused {}, group.span)
        }
        _ => {}
    }
    if let Some(group) = table.multicast_group.good()
        && !group.value.is_multicast()
    {
        reader.report(Problem::NotMulticast { address: group.value }, group.span);
    }
}

/// Reports VLANs of a network in which no frame has a tag.
pub(super) fn tags_travel(table: &NetworkTable, name: &At<Name>, vlans: Span, reader: &mut Reader) {
    if !table.vlan_aware.value {
        let problem = Problem::GuestVlansUnaware { network: name.value.to_string() };
        reader.report_also(problem, vlans, name.span, "the network");
    }
}

fn host_names(table: &NetworkTable, reader: &mut Reader) -> Vec<HostRef> {
    let mut hosts: Vec<HostRef> = Vec::new();
    for host in &table.hosts.value.items {
        let new = host_ref(host, reader);
        match hosts.iter().find(|known| known.host == new.host) {
            Some(_) => reader.report(Problem::NameRepeated { name: new.host.to_string() }, host.span),
            None => hosts.push(new),
        }
    }
    hosts
}

pub(super) fn host_ref(name: &At<NameText>, reader: &Reader) -> HostRef {
    HostRef { host: name.value.0.clone(), at: reader.place(name.span) }
}

/// Every host with a part in the network, once, sorted by name.
fn members(endpoints: &[Arc<Endpoint>], hosts: &[HostRef], hub: Option<&HostRef>) -> Vec<HostRef> {
    let of_endpoints = endpoints.iter().map(|endpoint| &endpoint.host);
    let mut members: BTreeMap<&Name, &HostRef> = BTreeMap::new();
    for member in hub.into_iter().chain(hosts).chain(of_endpoints) {
        members.entry(&member.host).or_insert(member);
    }
    members.into_values().cloned().collect()
}

fn seconds(value: Seconds) -> Duration {
    Duration::from_secs(value.0)
}

fn timeouts(table: &TimeoutsTable) -> Timeouts {
    Timeouts {
        tcp_syn: seconds(table.tcp_syn.value),
        tcp_established: seconds(table.tcp_established.value),
        tcp_fin_wait: seconds(table.tcp_fin_wait.value),
        tcp_close_wait: seconds(table.tcp_close_wait.value),
        tcp_last_ack: seconds(table.tcp_last_ack.value),
        tcp_time_wait: seconds(table.tcp_time_wait.value),
        tcp_close: seconds(table.tcp_close.value),
        udp_first: seconds(table.udp_first.value),
        udp_exchange: seconds(table.udp_exchange.value),
        udp_replied: seconds(table.udp_replied.value),
        sctp_cookie_wait: seconds(table.sctp_cookie_wait.value),
        sctp_cookie_echoed: seconds(table.sctp_cookie_echoed.value),
        sctp_established: seconds(table.sctp_established.value),
        sctp_shutdown_sent: seconds(table.sctp_shutdown_sent.value),
        sctp_shutdown_recd: seconds(table.sctp_shutdown_recd.value),
        sctp_shutdown_ack_sent: seconds(table.sctp_shutdown_ack_sent.value),
        sctp_heartbeat_sent: seconds(table.sctp_heartbeat_sent.value),
        sctp_closed: seconds(table.sctp_closed.value),
        icmp_exchange: seconds(table.icmp_exchange.value),
        icmp: seconds(table.icmp.value),
        other: seconds(table.other.value),
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        timeouts(&TimeoutsTable::default())
    }
}

fn limits(table: &NetworkLimitsTable) -> Limits {
    // So that no endpoint uses up its network's.
    let most = |of: u32| (of - of / 4).max(1);
    let (flows, unreplied) = (table.flows.value.get(), table.unreplied.value.get());
    Limits {
        flows,
        unreplied,
        endpoint: EndpointLimits {
            flows: table.endpoint_flows.good().map_or(most(flows), |limit| limit.value.get()),
            unreplied: table.endpoint_unreplied.good().map_or(most(unreplied), |limit| limit.value.get()),
            new_flows: table.endpoint_new_flows.good().map(|limit| limit.value.get()),
        },
        new_flows: table.new_flows.good().map(|limit| limit.value.get()),
        fragments: table.fragments.value.get(),
    }
}

impl Limits {
    /// What one network holds on one host if nothing else is said.
    #[must_use]
    pub fn of_network() -> Self {
        limits(&NetworkLimitsTable::default())
    }
}

/// The role of an address that no station of the subnet can have.
pub(crate) fn reserved_role(address: IpAddr, subnet: IpNet) -> Option<&'static str> {
    // RFC 3021 and RFC 6164: a point-to-point prefix and a single address have no reserved ones.
    if subnet.max_prefix_len() - subnet.prefix_len() < 2 {
        return None;
    }
    match address {
        IpAddr::V4(_) if address == subnet.network() => Some("the network address"),
        IpAddr::V4(_) if address == subnet.broadcast() => Some("the broadcast address"),
        // RFC 4291 section 2.6.1
        IpAddr::V6(_) if address == subnet.network() => Some("the subnet-router anycast address"),
        _ => None,
    }
}

/// Each once, sorted.
pub(super) fn protocols(list: &List<L2Protocol>) -> Vec<L2Protocol> {
    let mut protocols: Vec<L2Protocol> = list.items.iter().map(|at| at.value).collect();
    protocols.sort_unstable();
    protocols.dedup();
    protocols
}
