//! Neutron's ports as endpoints.

use eastgate_config::Place;
use eastgate_wire::MacAddr;
use ipnet::IpNet;

use super::{
    OPEN, firewall,
    rules::{Context, prefix},
    tenant_of,
};
use crate::{
    faults::Faults,
    import::{
        json::{Node, Object},
        site::{Endpoint, Group, Names, Network, Site},
    },
};

/// A port as it was read.
#[derive(Clone, Debug)]
pub(super) struct Port {
    at: Place,
    /// By `port show`: it says all there is
    whole: bool,
    pub(super) name: String,
    pub(super) project: String,
    network: String,
    pub(super) mac: String,
    addresses: Vec<String>,
    pub(super) owner: String,
    hypervisor: String,
    port_security: bool,
    has_subports: bool,
    pub(super) groups: Vec<String>,
    pub(super) pairs: Vec<Pair>,
}

#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub(super) address: String,
    mac: Option<String>,
}

impl Port {
    /// What `port show` prints.
    pub(super) fn shown(object: &Object<'_>) -> Self {
        let pair =
            |pair: &Object<'_>| Pair { address: pair.text("ip_address"), mac: pair.word("mac_address") };
        let groups = if object.has("security_group_ids") { "security_group_ids" } else { "security_groups" };
        Self {
            at: object.node.at(),
            whole: true,
            name: object.text("name"),
            project: object.word("project_id").unwrap_or_else(|| object.text("tenant_id")),
            network: object.text("network_id"),
            mac: object.text("mac_address"),
            addresses: object.objects("fixed_ips").iter().map(|ip| ip.text("ip_address")).collect(),
            owner: object.text("device_owner"),
            hypervisor: object.word("binding_host_id").unwrap_or_else(|| object.text("binding:host_id")),
            // A cloud without the extension checks every port.
            port_security: object.get("port_security_enabled").and_then(Node::truth).unwrap_or(true),
            has_subports: object.has("trunk_details"),
            groups: object.list(groups).into_iter().filter_map(Node::text).collect(),
            pairs: object.objects("allowed_address_pairs").iter().map(pair).collect(),
        }
    }

    /// A row of `port list`, which does not say all.
    pub(super) fn listed(object: &Object<'_>) -> Self {
        Self {
            at: object.node.at(),
            whole: false,
            name: object.text("Name"),
            project: object.text("Project"),
            network: String::new(),
            mac: object.text("MAC Address"),
            addresses: object.objects("Fixed IP Addresses").iter().map(|ip| ip.text("ip_address")).collect(),
            owner: object.text("Device Owner"),
            hypervisor: String::new(),
            port_security: true,
            has_subports: false,
            groups: object.list("Security Groups").into_iter().filter_map(Node::text).collect(),
            pairs: Vec::new(),
        }
    }
}

pub(super) fn import(context: &Context<'_>, site: &mut Site, faults: &mut Faults) {
    let mut names = std::collections::BTreeMap::<String, Names>::new();
    let mut networks = std::collections::BTreeMap::<String, Names>::new();
    let firewalls = firewall::by_port(context.cloud);
    for (id, port) in &context.cloud.ports {
        let place = context.map.port(&[id, &port.name, &port.mac]);
        if place.skip {
            continue;
        }
        if !port.whole {
            faults.add(
                port.at.clone(),
                "a list of ports tells neither network, host, port security nor allowed pairs",
                "give `openstack port show PORT -f json` of each of them too (one file may hold them all), or `skip = true` in the mapping file",
            );
            continue;
        }
        let tenant = tenant_of(context.map, &port.project);
        let wanted = place.name.clone().unwrap_or_else(|| port.name.clone());
        let name = names.entry(tenant.clone()).or_default().of(id, &wanted);
        let Some(network) = network(context, port, &tenant, &mut networks, site, faults) else { continue };
        let Some(mut made) = endpoint(context, id, port, &tenant, network, faults) else { continue };
        let firewall = firewalls.get(&**id);
        made.groups.extend(firewall.and_then(|firewall| context.group_name(&tenant, firewall)));
        let tenant = site.tenants.entry(tenant).or_default();
        if made.groups.contains(OPEN) {
            let note = "Ports without port security and the network's own: Neutron filters nothing there";
            tenant.groups.entry(OPEN.to_owned()).or_insert_with(|| Group::open(note));
        }
        tenant.endpoints.insert(name, made);
    }
}

/// The name of a port's network, which is there afterwards.
fn network(
    context: &Context<'_>,
    port: &Port,
    tenant: &str,
    names: &mut std::collections::BTreeMap<String, Names>,
    site: &mut Site,
    faults: &mut Faults,
) -> Option<String> {
    let id = &port.network;
    let known = context.cloud.networks.get(id);
    let told = known.map_or("", |network| &network.name);
    let mapped = context.map.network(&[id, told]);
    let Some(vni) = mapped.vni.or_else(|| known.and_then(|network| network.vni)) else {
        faults.add(
            port.at.clone(),
            format!("the VNI of network {id} is not known"),
            format!("give `openstack network show {id} -f json` as an administrator, or write [network.\"{id}\"] vni = 5001 in the mapping file"),
        );
        return None;
    };
    let wanted = mapped.name.clone().unwrap_or_else(|| told.to_owned());
    let name = names.entry(tenant.to_owned()).or_default().of(id, &wanted);
    let mut subnets = mapped.subnets;
    for text in context.cloud.subnets.get(id).into_iter().flatten() {
        subnets.extend(prefix(text));
    }
    if subnets.is_empty() && !port.addresses.is_empty() {
        faults.add(
            port.at.clone(),
            format!("the subnets of network {id} are not known"),
            "give `openstack subnet list -f json`, or write them into the mapping file",
        );
        return None;
    }
    let notes = vec![format!("Neutron network {told} ({id})")];
    let made = Network { notes, vni, subnets: subnets.into_iter().collect(), ..Network::default() };
    site.tenants.entry(tenant.to_owned()).or_default().networks.insert(name.clone(), made);
    Some(name)
}

fn endpoint(
    context: &Context<'_>,
    id: &str,
    port: &Port,
    tenant: &str,
    network: String,
    faults: &mut Faults,
) -> Option<Endpoint> {
    let mut wrong = |message: String, remedy: &str| {
        faults.add(port.at.clone(), message, remedy);
        None
    };
    let is_router = matches!(
        port.owner.as_str(),
        "network:router_interface" | "network:router_interface_distributed" | "network:router_gateway"
    );
    let is_dhcp = port.owner == "network:dhcp";
    if port.owner.starts_with("network:") && !is_router && !is_dhcp {
        let message = format!("a port of `{}` is no station of a tenant", port.owner);
        return wrong(message, "write `skip = true` for it in the mapping file, or describe it by hand");
    }
    if port.has_subports {
        return wrong("a trunk port: its VLANs are ports of their own".into(), "describe it by hand");
    }
    let place = context.map.port(&[id, &port.name, &port.mac]);
    let mapped = context.map.host(&[&port.hypervisor]).map(str::to_owned);
    let Some(host) = place.host.or(mapped).or_else(|| crate::import::site::near(&port.hypervisor)) else {
        return wrong(
            "this port is bound to no host".into(),
            "write its host or `skip = true` into the mapping file: [port.\"ID\"]",
        );
    };
    let Ok(mac) = port.mac.parse::<MacAddr>() else {
        return wrong(format!("`{}` is no MAC", port.mac), "print the port anew");
    };
    let mut addresses = Vec::new();
    for text in &port.addresses {
        match text.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => return wrong(format!("`{text}` is no address"), "print the port anew"),
        }
    }
    let mut pairs = Vec::new();
    for pair in &port.pairs {
        let other = pair.mac.as_ref().map(|mac| mac.parse::<MacAddr>());
        match (prefix(&pair.address), other) {
            (Some(net), None) => pairs.push((net, None)),
            (Some(net), Some(Ok(other))) => pairs.push((net, Some(other).filter(|other| *other != mac))),
            _ => return wrong("an allowed address pair that is none".into(), "print the port anew"),
        }
    }
    // Neutron does not filter what its own agents send, nor ports without port security.
    let is_open = is_router || is_dhcp || !port.port_security;
    let mut groups = std::collections::BTreeSet::new();
    for group in port.groups.iter().filter(|_| !is_open) {
        let Some(known) = context.cloud.groups.get(group) else {
            return wrong(
                format!("its security group {group} is in none of the files"),
                "give `openstack security group show` of it too",
            );
        };
        if tenant_of(context.map, &known.project) != tenant {
            return wrong(
                format!("its security group `{}` is of another project", known.name),
                "let both projects go into one tenant, in the mapping file",
            );
        }
        groups.extend(context.group_name(tenant, group));
    }
    if is_open {
        groups.insert(OPEN.to_owned());
    }
    let any = [IpNet::V4(ipnet::Ipv4Net::default()), IpNet::V6(ipnet::Ipv6Net::default())];
    let short: String = id.chars().take(11).collect();
    let prefix = if is_router { "qr-" } else { "tap" };
    Some(Endpoint {
        notes: vec![format!("Neutron port {} ({id}) {}", port.name, port.owner)],
        network,
        host,
        // The name that Nova and the agents give the device.
        port: place.port.unwrap_or_else(|| format!("{prefix}{short}")),
        mac,
        addresses,
        learn: None,
        groups,
        pairs,
        routes: if is_router { any.to_vec() } else { Vec::new() },
        port_security: port.port_security || is_router || is_dhcp,
        router: is_router,
        dhcp_server: is_dhcp,
    })
}
