//! A tenant's endpoints: where they are and what they are called on the wire.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    time::Duration,
};

use eastgate_wire::{Addr, Attachment, MacAddr};
use ipnet::IpNet;

use super::{
    Claims, EndpointClaim,
    filters::{self, Made, Subject},
    known_name,
    network::{host_ref, is_subnet, protocols, reserved_role, tags_travel},
    route,
};
use crate::{
    leaf::Learn,
    model::{AllowedPair, Endpoint, Learning, Name, OwnLimits, OwnTimeouts},
    prefixes::without,
    problem::Problem,
    read::{At, Field, Named, Reader, Span},
    tables::{
        AllowedPairTable, EndpointLimitsTable, EndpointTable, EndpointTimeoutsTable, NetworkTable, Seconds,
        TenantTable,
    },
    values::is_station_address,
    vlans::merged,
};

/// What has been seen in the networks of one tenant: by network's index, whose it is and where.
#[derive(Default)]
struct Seen<'t> {
    macs: HashMap<(Option<usize>, MacAddr), (&'t Name, Span)>,
    addresses: HashMap<(Option<usize>, IpAddr), (&'t Name, Span)>,
}

/// Checks the endpoints of a tenant. Returns the good ones by the index of their network; one that has only bad
/// ones has an empty list.
pub(super) fn check_all(
    tenant_name: &Name,
    tenant: &TenantTable,
    claims: &mut Claims,
    made: &mut Made,
    reader: &mut Reader,
) -> BTreeMap<usize, Vec<Endpoint>> {
    let mut by_network: BTreeMap<usize, Vec<Endpoint>> = BTreeMap::new();
    let mut seen = Seen::default();
    let servers = dhcp_servers(tenant);
    // In the order written, so that of two equal ones the second is reported.
    let mut in_order: Vec<&(At<Name>, EndpointTable)> = tenant.endpoint.value.iter().collect();
    in_order.sort_by_key(|(name, _)| name.span.start());
    for (name, table) in in_order {
        let index = network_of(table, &tenant.network.value, reader);
        check(name, table, tenant, index, &mut seen, reader);
        claims.endpoints.push(claim(name, table, reader));
        let network = index.and_then(|index| tenant.network.value.get(index));
        let learning = network.and_then(|network| learning(name, table, network, reader));
        if let (None, Some((_, network))) = (&learning, network)
            && table.addresses.is_missing()
            && learns_by(table, network) == Learn::None
        {
            let problem =
                Problem::MissingKey { key: "addresses", table: "endpoint", example: "[\"10.1.0.11\"]" };
            reader.report(problem, name.span);
        }
        let mut endpoint = build(name, table, learning, reader);
        if let (Some(endpoint), Some((network_name, network))) = (&mut endpoint, network) {
            let servers = servers.get(&network_name.value).copied().unwrap_or(0);
            let subject = Subject { tenant: tenant_name, table, network, servers };
            filters::apply(&subject, &mut endpoint.groups, made, reader);
        }
        if let Some(index) = index {
            by_network.entry(index).or_default().extend(endpoint);
        }
    }
    by_network
}

/// How many endpoints of each network answer DHCP.
fn dhcp_servers(tenant: &TenantTable) -> BTreeMap<&Name, usize> {
    let mut servers: BTreeMap<&Name, usize> = BTreeMap::new();
    for (_, table) in tenant.endpoint.value.iter().filter(|(_, table)| table.dhcp_server.value) {
        if let Some(network) = table.network.good() {
            *servers.entry(&network.value.0).or_default() += 1;
        }
    }
    servers
}

/// The index of the endpoint's network, or the report that there is none.
fn network_of(table: &EndpointTable, networks: &Named<NetworkTable>, reader: &mut Reader) -> Option<usize> {
    let name = table.network.good()?;
    if !known_name("network", name, networks, reader) {
        return None;
    }
    networks.binary_search_by(|(known, _)| (*known.value).cmp(&*name.value.0)).ok()
}

fn check<'t>(
    name: &'t At<Name>,
    table: &'t EndpointTable,
    tenant: &'t TenantTable,
    index: Option<usize>,
    seen: &mut Seen<'t>,
    reader: &mut Reader,
) {
    if let Some(mac) = table.mac.good() {
        if !mac.value.is_station() {
            reader.report(Problem::MacKind { mac: mac.value }, mac.span);
        } else if let (Some(_), Some((other, at))) =
            (index, seen.macs.insert((index, mac.value), (&name.value, mac.span)))
        {
            let problem = Problem::MacTwice { mac: mac.value, other: other.to_string() };
            reader.report_also(problem, mac.span, at, "first here");
        }
    }
    for address in table.addresses.good().into_iter().flat_map(|list| &list.value.items) {
        let fits = address_fits(address, tenant, index, reader);
        if !fits || index.is_none() {
            continue;
        }
        if let Some((other, at)) = seen.addresses.insert((index, address.value), (&name.value, address.span))
        {
            let problem = Problem::AddressTwice { address: address.value, other: other.to_string() };
            reader.report_also(problem, address.span, at, "first here");
        }
    }
    let network = index.and_then(|index| tenant.network.value.get(index));
    check_vlan(table, network, reader);
    groups(name, table, tenant, network, reader);
    filters::check_names(&table.filters, reader);
    for pair in &table.allowed_pairs.value.items {
        allowed_pair(&pair.value, reader);
    }
    route::check(table, network, reader);
    guest_vlans(table, network, reader);
}

/// What its frames may be tagged with is some of what those of its network may.
fn guest_vlans(table: &EndpointTable, network: Option<&(At<Name>, NetworkTable)>, reader: &mut Reader) {
    let (Some(vlans), Some((name, network))) = (table.guest_vlans.good(), network) else { return };
    if vlans.value.items.is_empty() {
        return;
    }
    tags_travel(network, name, vlans.span, reader);
    let Some(known) = network.guest_vlans.good().filter(|known| !known.value.partial) else { return };
    let carried = merged(&known.value);
    for range in &vlans.value.items {
        if !carried.iter().any(|known| known.contains(range.value)) {
            let problem =
                Problem::GuestVlanOutside { vlans: range.value.to_string(), network: name.value.to_string() };
            reader.report_also(problem, range.span, known.span, "those that it carries");
        }
    }
}

fn check_vlan(table: &EndpointTable, network: Option<&(At<Name>, NetworkTable)>, reader: &mut Reader) {
    let Some(vlan) = table.vlan.good() else { return };
    if table.port.is_missing() {
        reader.report(Problem::VlanAlone {}, vlan.span);
    }
    if let Some((name, network)) = network
        && vlan.value.0.is_none()
        && network.vlan_aware.value
    {
        let problem = Problem::UntaggedAware { network: name.value.to_string() };
        reader.report_also(problem, vlan.span, name.span, "the network");
    }
}

/// By what its addresses are learned: what a network says is meant for endpoints that have none written down.
fn learns_by(table: &EndpointTable, network: &NetworkTable) -> Learn {
    let of_network = if table.addresses.is_missing() { network.learn.value } else { Learn::None };
    table.learn.good().map_or(of_network, |learn| learn.value)
}

fn learning(
    name: &At<Name>,
    table: &EndpointTable,
    (network_name, network): &(At<Name>, NetworkTable),
    reader: &mut Reader,
) -> Option<Learning> {
    let by = learns_by(table, network);
    if by == Learn::None {
        return None;
    }
    let except: Vec<IpNet> = network.learn_except.value.items.iter().map(|net| net.value.0).collect();
    let subnets = network.subnets.value.items.iter().map(|subnet| subnet.value);
    let within: Box<[IpNet]> =
        subnets.filter(|subnet| is_subnet(*subnet)).flat_map(|subnet| without(subnet, &except)).collect();
    if within.is_empty() && !network.subnets.value.partial {
        let at = table.learn.good().map_or(name.span, |learn| learn.span);
        let problem = Problem::LearnNowhere { network: network_name.value.to_string() };
        reader.report_also(problem, at, network_name.span, "the network");
    }
    Some(Learning {
        by,
        limit: table.learn_limit.good().map_or(network.learn_limit.value, |limit| limit.value).get(),
        lock: table.learn_lock.good().map_or(network.learn_lock.value, |lock| lock.value),
        age: std::time::Duration::from_secs(network.learn_age.value.0),
        within,
    })
}

/// Whether a station of the network can have the address, or the report why not.
fn address_fits(
    address: &At<IpAddr>,
    tenant: &TenantTable,
    index: Option<usize>,
    reader: &mut Reader,
) -> bool {
    let ip = address.value;
    if !is_station_address(ip) {
        reader.report(Problem::AddressKind { address: ip }, address.span);
        return false;
    }
    let Some((name, network)) = index.and_then(|index| tenant.network.value.get(index)) else { return true };
    let link_local = matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
    // A subnet that could not be read may be the one that is meant.
    if link_local || network.subnets.value.partial {
        return true;
    }
    let mut subnets = network.subnets.value.items.iter().map(|subnet| subnet.value);
    let Some(subnet) = subnets.clone().find(|subnet| subnet.contains(&ip)) else {
        let known: Vec<String> = subnets.by_ref().map(|subnet| subnet.to_string()).collect();
        let subnets =
            if known.is_empty() { "one of its subnets (it has none)".into() } else { known.join(" or ") };
        let problem = Problem::AddressOutside { address: ip, network: name.value.to_string(), subnets };
        reader.report_also(problem, address.span, name.span, "the network");
        return false;
    };
    if let Some(role) = reserved_role(ip, subnet) {
        reader.report(Problem::AddressReserved { address: ip, role, subnet }, address.span);
        return false;
    }
    true
}

fn groups(
    name: &At<Name>,
    table: &EndpointTable,
    tenant: &TenantTable,
    network: Option<&(At<Name>, NetworkTable)>,
    reader: &mut Reader,
) {
    let groups = &table.groups.value;
    for (at, group) in groups.items.iter().enumerate() {
        known_name("group", group, &tenant.group.value, reader);
        if groups.items.iter().take(at).any(|before| before.value.0 == group.value.0) {
            reader.report(Problem::NameRepeated { name: group.value.0.to_string() }, group.span);
        }
    }
    let accepted = network.is_some_and(|(_, network)| filters::accept(table, network));
    if groups.items.is_empty() && !groups.partial && !accepted {
        reader.report(Problem::EndpointUngrouped { name: name.value.to_string() }, name.span);
    }
}

fn allowed_pair(pair: &AllowedPairTable, reader: &mut Reader) {
    if let Some(mac) = pair.mac.good()
        && !mac.value.is_station()
    {
        reader.report(Problem::MacKind { mac: mac.value }, mac.span);
    }
}

fn claim(name: &At<Name>, table: &EndpointTable, reader: &Reader) -> EndpointClaim {
    let addresses = table.addresses.good().into_iter().flat_map(|list| &list.value.items);
    let routes = table.routes.value.items.iter();
    EndpointClaim {
        name: name.value.clone(),
        at: reader.place(name.span),
        host: table.host.good().map(|host| host_ref(host, reader)),
        attachment: attachment(table).map(|(attachment, span)| (attachment, reader.place(span))),
        port_missing: table.port.is_missing(),
        addresses: addresses.map(|address| (address.value, reader.place(address.span))).collect(),
        routes: routes.map(|route| (route.value.0, reader.place(route.span))).collect(),
    }
}

/// `port` names a device of the endpoint's own, or with `vlan` a trunk. With it what is nobody else's.
fn attachment(table: &EndpointTable) -> Option<(Attachment, Span)> {
    let port = table.port.good()?;
    let device = port.value.0.clone();
    match &table.vlan {
        Field::Missing => Some((Attachment::access(device), port.span)),
        Field::Bad => None,
        Field::Good(vlan) => Some((Attachment::trunk(device, vlan.value.0), vlan.span)),
    }
}

fn own_limits(table: &EndpointLimitsTable) -> OwnLimits {
    OwnLimits {
        flows: table.flows.good().map(|limit| limit.value.get()),
        unreplied: table.unreplied.good().map(|limit| limit.value.get()),
        new_flows: table.new_flows.good().map(|limit| limit.value.get()),
    }
}

fn own_timeouts(table: &EndpointTimeoutsTable) -> Option<Box<OwnTimeouts>> {
    let seconds = |field: &Field<Seconds>| field.good().map(|at| Duration::from_secs(at.value.0));
    let own = OwnTimeouts {
        tcp_syn: seconds(&table.tcp_syn),
        tcp_established: seconds(&table.tcp_established),
        tcp_fin_wait: seconds(&table.tcp_fin_wait),
        tcp_close_wait: seconds(&table.tcp_close_wait),
        tcp_last_ack: seconds(&table.tcp_last_ack),
        tcp_time_wait: seconds(&table.tcp_time_wait),
        tcp_close: seconds(&table.tcp_close),
        udp_first: seconds(&table.udp_first),
        udp_exchange: seconds(&table.udp_exchange),
        udp_replied: seconds(&table.udp_replied),
        sctp_cookie_wait: seconds(&table.sctp_cookie_wait),
        sctp_cookie_echoed: seconds(&table.sctp_cookie_echoed),
        sctp_established: seconds(&table.sctp_established),
        sctp_shutdown_sent: seconds(&table.sctp_shutdown_sent),
        sctp_shutdown_recd: seconds(&table.sctp_shutdown_recd),
        sctp_shutdown_ack_sent: seconds(&table.sctp_shutdown_ack_sent),
        sctp_heartbeat_sent: seconds(&table.sctp_heartbeat_sent),
        sctp_closed: seconds(&table.sctp_closed),
        icmp_exchange: seconds(&table.icmp_exchange),
        icmp: seconds(&table.icmp),
        other: seconds(&table.other),
    };
    (own != OwnTimeouts::default()).then(|| Box::new(own))
}

/// The endpoint, unless something it cannot do without is missing.
fn build(
    name: &At<Name>,
    table: &EndpointTable,
    learning: Option<Learning>,
    reader: &Reader,
) -> Option<Endpoint> {
    let mut groups: Vec<Name> = table.groups.value.items.iter().map(|group| group.value.0.clone()).collect();
    groups.sort_unstable();
    groups.dedup();
    let addresses = match table.addresses.good() {
        Some(list) => list.value.items.iter().map(|address| Addr::from(address.value)).collect(),
        None if table.addresses.is_missing() => Vec::new(),
        None => return None,
    };
    let pairs = table.allowed_pairs.value.items.iter().filter_map(|pair| {
        let mac = pair.value.mac.good().map(|mac| mac.value);
        Some(AllowedPair { address: pair.value.address.good()?.value.0, mac })
    });
    Some(Endpoint {
        name: name.value.clone(),
        at: reader.place(name.span),
        host: host_ref(table.host.good()?, reader),
        attachment: attachment(table).map(|(attachment, _)| attachment),
        port_at: table.port.good().map(|port| reader.place(port.span)),
        mac: table.mac.good()?.value,
        addresses,
        learned: Vec::new(),
        learning,
        groups,
        rules_of: None,
        allowed_pairs: pairs.collect(),
        routes: table.routes.value.items.iter().map(|route| route.value.0).collect(),
        guest_vlans: table.guest_vlans.good().map(|list| merged(&list.value)),
        ethertypes: protocols(&table.ethertypes.value),
        port_security: table.port_security.value,
        router: table.router.value,
        dhcp_server: table.dhcp_server.value,
        limits: table.limits.good().map_or_else(OwnLimits::default, |table| own_limits(&table.value)),
        timeouts: table.timeouts.good().and_then(|table| own_timeouts(&table.value)),
    })
}
