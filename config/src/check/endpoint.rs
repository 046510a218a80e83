//! A tenant's endpoints: where they are and what they are called on the wire.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use ahash::RandomState;
use eastgate_wire::{Addr, MacAddr};
use ipnet::IpNet;

use super::{
    EndpointClaim, attachment,
    filters::{self, Made, Subject},
    kernel, known_name,
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
    values::{NameText, is_station_address},
    vlans::merged,
};

/// What came of an endpoint's table.
#[derive(Clone, Debug)]
struct Checked {
    claim: Arc<EndpointClaim>,
    /// The index of its network, if there is one
    network: Option<usize>,
    /// None where something is missing that it cannot do without
    endpoint: Option<Arc<Endpoint>>,
    /// Nothing was reported of it, and nothing came of it but this.
    reusable: bool,
}

/// What came of a tenant's endpoints.
#[derive(Debug, Default)]
pub(super) struct Endpoints {
    /// Each, in the order of their names
    all: Vec<Checked>,
    /// What all say that other files have a say in
    pub(super) claims: Arc<Vec<Arc<EndpointClaim>>>,
    /// The good ones
    pub(super) by_network: ByNetwork,
    /// Group, by its place -> whether one of them is in it. None where one is in a group whose name could not be read.
    pub(super) in_groups: Option<Vec<bool>>,
    /// What they have that nobody else may have; none where several have the same
    unique: Option<HashSet<Unique, RandomState>>,
    /// Each came to what it is by itself, and would again.
    reusable: bool,
}

/// Endpoints by the index of their network; one that has only bad ones has an empty list. A list is the same allocation as when
/// the file was read last where all endpoints of its tenant came to the same again.
pub(super) type ByNetwork = BTreeMap<usize, Arc<Vec<Arc<Endpoint>>>>;

/// Checks the endpoints of a tenant. `before` is what its tables were when they were read last, and what came of them.
pub(super) fn check_all(
    tenant_name: &Name,
    tenant: &TenantTable,
    before: Option<(&TenantTable, &Arc<Endpoints>)>,
    made: &mut Made,
    reader: &mut Reader,
) -> Arc<Endpoints> {
    let before = before.filter(|(known, _)| holds_against_same(known, tenant));
    if let Some((known, same)) = before
        && same.reusable
        && are_same(&known.endpoint.value, &tenant.endpoint.value)
    {
        return same.clone();
    }
    let servers = dhcp_servers(tenant);
    let before = before.filter(|(known, _)| dhcp_servers(known) == servers);
    let known = before.into_iter().flat_map(|(known, checked)| known.endpoint.value.iter().zip(&checked.all));
    let mut known = known.peekable();
    let mut all = Vec::with_capacity(tenant.endpoint.value.len());
    let (mut gone, mut come) = (Vec::new(), Vec::new());
    for (name, table) in &tenant.endpoint.value {
        while let Some(other) = known.next_if(|((before, _), _)| before.value < name.value) {
            gone.push(other);
        }
        let same = known.next_if(|((_, before), checked)| Arc::ptr_eq(before, table) && checked.reusable);
        all.push(match same {
            Some((_, checked)) => checked.clone(),
            None => {
                come.push(all.len());
                check_one(tenant_name, name, table, tenant, &servers, made, reader)
            }
        });
    }
    gone.extend(known);
    let unique = before.and_then(|(_, before)| before.unique.clone()).and_then(|mut seen| {
        let gone = gone.iter().filter_map(|((_, table), checked)| Some((table, checked.network?)));
        gone.flat_map(|(table, index)| unique(table, tenant, index)).for_each(|(what, _)| {
            seen.remove(&what);
        });
        let named = |at: &usize| Some((&tenant.endpoint.value.get(*at)?.1, all.get(*at)?.network?));
        let mut come = come.iter().filter_map(named);
        let alone =
            come.all(|(table, index)| unique(table, tenant, index).all(|(what, _)| seen.insert(what)));
        alone.then_some(seen)
    });
    let unique = unique.or_else(|| report_repeated(tenant, &all, reader));
    Arc::new(Endpoints {
        claims: Arc::new(all.iter().map(|checked| checked.claim.clone()).collect()),
        by_network: by_network(&all),
        in_groups: in_groups(tenant),
        reusable: unique.is_some() && all.iter().all(|checked| checked.reusable),
        unique,
        all,
    })
}

/// Whether the tables are the very same.
fn are_same<T>(before: &Named<T>, now: &Named<T>) -> bool {
    before.iter().map(|(_, table)| Arc::as_ptr(table)).eq(now.iter().map(|(_, table)| Arc::as_ptr(table)))
}

/// The groups of a tenant in which its endpoints are, or machines of its profiles may be.
fn in_groups(tenant: &TenantTable) -> Option<Vec<bool>> {
    let groups = &tenant.group.value;
    let mut used = vec![false; groups.len()];
    let mut mark = |name: &NameText| {
        if let Ok(at) = groups.binary_search_by(|(known, _)| (*known.value).cmp(&*name.0)) {
            used[at] = true;
        }
    };
    for (_, endpoint) in &tenant.endpoint.value {
        let written = &endpoint.groups.value;
        // A name that could not be read may be the one that is missed.
        (!written.partial).then_some(())?;
        for name in &written.items {
            mark(&name.value);
        }
    }
    for (_, profile) in &tenant.profile.value {
        profile.groups.good()?.value.0.iter().for_each(|name| mark(&name.value));
    }
    Some(used)
}

/// Whether all that endpoints are held against is the same.
fn holds_against_same(before: &TenantTable, now: &TenantTable) -> bool {
    let (networks, groups) = (&now.network.value, &now.group.value);
    let same_groups = before.group.value.iter().map(|(name, _)| &name.value);
    are_same(&before.profile.value, &now.profile.value)
        && are_same(&before.network.value, networks)
        && same_groups.eq(groups.iter().map(|(name, _)| &name.value))
}

fn check_one(
    tenant_name: &Name,
    name: &At<Name>,
    table: &EndpointTable,
    tenant: &TenantTable,
    servers: &BTreeMap<&Name, usize>,
    made: &mut Made,
    reader: &mut Reader,
) -> Checked {
    let said = reader.found.count();
    let index = network_of(table, &tenant.network.value, reader);
    check(name, table, tenant, index, reader);
    let network = index.and_then(|index| tenant.network.value.get(index));
    let learning = network.and_then(|network| learning(name, table, network, reader));
    if let (None, Some((_, network))) = (&learning, network)
        && table.addresses.is_missing()
        && learns_by(table, network) == Learn::None
    {
        let problem = Problem::MissingKey { key: "addresses", table: "endpoint", example: "[\"10.1.0.11\"]" };
        reader.report(problem, name.span);
    }
    let mut endpoint = build(name, table, learning, reader);
    let mut filtered = false;
    if let (Some(endpoint), Some((network_name, network))) = (&mut endpoint, network) {
        let servers = servers.get(&network_name.value).copied().unwrap_or(0);
        let subject = Subject { tenant: tenant_name, table, network, servers };
        filters::apply(&subject, &mut endpoint.groups, made, reader);
        filtered = !(table.filters.is_missing() && network.filters.is_missing());
    }
    Checked {
        claim: Arc::new(claim(name, table, reader)),
        network: index,
        endpoint: endpoint.map(Arc::new),
        reusable: !filtered && reader.found.count() == said,
    }
}

fn by_network(all: &[Checked]) -> ByNetwork {
    let mut by_network: BTreeMap<usize, Vec<Arc<Endpoint>>> = BTreeMap::new();
    for Checked { network, endpoint, .. } in all {
        if let Some(index) = network {
            by_network.entry(*index).or_default().extend(endpoint.clone());
        }
    }
    by_network.into_iter().map(|(index, endpoints)| (index, Arc::new(endpoints))).collect()
}

/// What must not be there twice in a network: its index, and a MAC or an address
type Unique = (usize, Result<MacAddr, IpAddr>);

/// What each endpoint has alone; or reports MACs and addresses that several of a network have.
fn report_repeated(
    tenant: &TenantTable,
    all: &[Checked],
    reader: &mut Reader,
) -> Option<HashSet<Unique, RandomState>> {
    let mut seen: HashSet<Unique, RandomState> =
        HashSet::with_capacity_and_hasher(2 * all.len(), RandomState::default());
    let mut in_order: Vec<(&At<Name>, &EndpointTable, usize)> = Vec::with_capacity(all.len());
    let named = tenant.endpoint.value.iter().zip(all);
    in_order.extend(named.filter_map(|((name, table), checked)| Some((name, &**table, checked.network?))));
    let mut every = in_order.iter().flat_map(|(_, table, index)| unique(table, tenant, *index));
    if every.all(|(what, _)| seen.insert(what)) {
        return Some(seen);
    }
    // In the order written, so that of two equal ones the second is reported.
    in_order.sort_by_key(|(name, ..)| reader.order(name.span));
    let mut owners: HashMap<Unique, (&Name, Span), RandomState> = HashMap::default();
    for endpoint in &in_order {
        for (what, span) in unique(endpoint.1, tenant, endpoint.2) {
            let Some((other, at)) = owners.insert(what, (&endpoint.0.value, span)) else { continue };
            let other = other.to_string();
            let problem = match what.1 {
                Ok(mac) => Problem::MacTwice { mac, other },
                Err(address) => Problem::AddressTwice { address, other },
            };
            reader.report_also(problem, span, at, "first here");
        }
    }
    None
}

/// What an endpoint in the network of an index has, and nobody else may have in it.
fn unique(table: &EndpointTable, tenant: &TenantTable, index: usize) -> impl Iterator<Item = (Unique, Span)> {
    let network = tenant.network.value.get(index);
    let mac = table.mac.good().filter(|mac| mac.value.is_station());
    let mac = mac.map(|mac| ((index, Ok(mac.value)), mac.span));
    let addresses = table.addresses.good().into_iter().flat_map(|list| &list.value.items);
    let fitting = addresses.filter(move |address| misfit(address.value, network).is_none());
    mac.into_iter().chain(fitting.map(move |address| ((index, Err(address.value)), address.span)))
}

/// How many endpoints of each network answer DHCP.
pub(super) fn dhcp_servers(tenant: &TenantTable) -> BTreeMap<&Name, usize> {
    let mut servers: BTreeMap<&Name, usize> = BTreeMap::new();
    for (_, table) in tenant.endpoint.value.iter().filter(|(_, table)| table.dhcp_server.value) {
        if let Some(network) = table.network.good() {
            *servers.entry(&network.value.0).or_default() += 1;
        }
    }
    servers
}

/// The index of the endpoint's network, or the report that there is none.
pub(super) fn network_of(
    table: &EndpointTable,
    networks: &Named<NetworkTable>,
    reader: &mut Reader,
) -> Option<usize> {
    let name = table.network.good()?;
    if !known_name("network", name, networks, reader) {
        return None;
    }
    networks.binary_search_by(|(known, _)| (*known.value).cmp(&*name.value.0)).ok()
}

pub(super) fn check(
    name: &At<Name>,
    table: &EndpointTable,
    tenant: &TenantTable,
    index: Option<usize>,
    reader: &mut Reader,
) {
    if let Some(mac) = table.mac.good().filter(|mac| !mac.value.is_station()) {
        reader.report(Problem::MacKind { mac: mac.value }, mac.span);
    }
    let network = index.and_then(|index| tenant.network.value.get(index));
    for address in table.addresses.good().into_iter().flat_map(|list| &list.value.items) {
        match (misfit(address.value, network), network) {
            (Some(problem @ Problem::AddressOutside { .. }), Some((name, _))) => {
                reader.report_also(problem, address.span, name.span, "the network");
            }
            (Some(problem), _) => reader.report(problem, address.span),
            (None, _) => {}
        }
    }
    attachment::check(table, network, reader);
    kernel::check(table, network, reader);
    groups(name, table, tenant, network, reader);
    filters::check_names(&table.filters, reader);
    for pair in &table.allowed_pairs.value.items {
        allowed_pair(&pair.value, reader);
    }
    route::check(table, network, reader);
    guest_vlans(table, network, reader);
}

/// What its frames may be tagged with is some of what those of its network may.
fn guest_vlans(table: &EndpointTable, network: Option<&(At<Name>, Arc<NetworkTable>)>, reader: &mut Reader) {
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

/// By what its addresses are learned: what a network says is meant for endpoints that have none written down.
fn learns_by(table: &EndpointTable, network: &NetworkTable) -> Learn {
    let of_network = if table.addresses.is_missing() { network.learn.value } else { Learn::None };
    table.learn.good().map_or(of_network, |learn| learn.value)
}

pub(super) fn learning(
    name: &At<Name>,
    table: &EndpointTable,
    (network_name, network): &(At<Name>, Arc<NetworkTable>),
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

/// Why a station of a network cannot have an address, if it cannot.
fn misfit(ip: IpAddr, network: Option<&(At<Name>, Arc<NetworkTable>)>) -> Option<Problem> {
    if !is_station_address(ip) {
        return Some(Problem::AddressKind { address: ip });
    }
    let (name, network) = network?;
    let link_local = matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
    // A subnet that could not be read may be the one that is meant.
    if link_local || network.subnets.value.partial {
        return None;
    }
    let mut subnets = network.subnets.value.items.iter().map(|subnet| subnet.value);
    let Some(subnet) = subnets.clone().find(|subnet| subnet.contains(&ip)) else {
        let known: Vec<String> = subnets.by_ref().map(|subnet| subnet.to_string()).collect();
        let subnets =
            if known.is_empty() { "one of its subnets (it has none)".into() } else { known.join(" or ") };
        return Some(Problem::AddressOutside { address: ip, network: name.value.to_string(), subnets });
    };
    let role = reserved_role(ip, subnet)?;
    Some(Problem::AddressReserved { address: ip, role, subnet })
}

fn groups(
    name: &At<Name>,
    table: &EndpointTable,
    tenant: &TenantTable,
    network: Option<&(At<Name>, Arc<NetworkTable>)>,
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
        attachment: attachment::of(table).map(|(attachment, span)| (attachment, reader.place(span))),
        port_missing: table.port.is_missing(),
        addresses: addresses.map(|address| (address.value, reader.place(address.span))).collect(),
        routes: routes.map(|route| (route.value.0, reader.place(route.span))).collect(),
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
pub(super) fn build(
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
        attachment: attachment::of(table).map(|(attachment, _)| attachment),
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
