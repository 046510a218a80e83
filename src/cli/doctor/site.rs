//! What a configuration wants of this host, beside what there is.

use std::{collections::BTreeMap, net::IpAddr};

use eastgate_config::{Config, Mode, Name, OVERHEAD_V4, OVERHEAD_V6, Rule, Tenant};
use eastgate_dataplane::snapshot::Snapshot;
use eastgate_fastpath::{Flow, Key};

use crate::{
    doctor::facts::{Peer, Port, Site},
    io::{
        fastpath::is_own_address,
        survey::{devices::Devices, firewall, sockets, sysctl_files, system},
        sysctl,
    },
    plan::{
        port_devices,
        routing::{ports_of_ipv6, routed_networks},
        unfit, wanted_ports, wanted_settings,
    },
};

/// What an entry of a hash table takes in the kernel beside key and value, in bytes, about.
const OF_AN_ENTRY: u64 = 64;

/// What one address of an endpoint takes, about.
const OF_AN_ADDRESS: u64 = 160;

pub(super) fn of(snapshot: &Snapshot, devices: Option<&Devices>) -> Option<Site> {
    let config = &snapshot.config;
    let host = config.host(&snapshot.host)?;
    let links = devices.map(|devices| &devices.links);
    let wanted = wanted_ports(snapshot);
    let all = port_devices(host, &wanted);
    let mut ports = BTreeMap::<String, Port>::new();
    for (endpoint, attachment) in endpoints(snapshot) {
        let device = attachment.device.to_string();
        let port = ports.entry(device.clone()).or_insert_with(|| Port {
            unfit: links.and_then(|links| unfit(links.get(&device)?, host, links, &all)),
            endpoints: Vec::new(),
            is_trunk: false,
            device,
        });
        port.is_trunk |= attachment.vlan.is_some();
        port.endpoints.push(endpoint);
    }
    let settings = links.map_or_else(Vec::new, |links| wanted_settings(snapshot, host, &wanted, links));
    let vtep = snapshot.vtep.0;
    let port = config.overlay.port;
    let underlay: Vec<String> = host.devices.iter().map(ToString::to_string).collect();
    let has_address = is_own_address(vtep);
    Some(Site {
        host: snapshot.host.to_string(),
        vtep,
        has_address,
        port,
        overhead: u32::from(if vtep.is_ipv4() { OVERHEAD_V4 } else { OVERHEAD_V6 }),
        ports: ports.into_values().collect(),
        mtus: snapshot
            .networks()
            .iter()
            .filter_map(|it| Some((it.name.clone(), u32::from(it.mtu?))))
            .collect(),
        peers: peers(config, &snapshot.host, vtep, has_address),
        observed: sysctl::observe(&settings).map_err(|error| error.to_string()),
        settings,
        assignments: sysctl_files::assignments(),
        odd_settings: odd_settings(&underlay, vtep),
        unrouted: unrouted(snapshot),
        underlay,
        listeners: sockets::on_port(port),
        firewall: firewall::about(port),
        audit: audit(config),
        entropy_ports: config.overlay.entropy_ports,
        full_tables: full_tables(config),
    })
}

/// Endpoints of this host by name, with where they are attached.
fn endpoints(snapshot: &Snapshot) -> impl Iterator<Item = (String, eastgate_wire::Attachment)> {
    snapshot.attachments().filter_map(|(_, network, endpoint)| {
        let attachment = network.config()?.endpoint(&endpoint.name)?.attachment.clone()?;
        Some((format!("{}/{}", network.tenant.name, endpoint.name), attachment))
    })
}

/// The other VTEPs of this host's networks, each once.
fn peers(config: &Config, host: &str, vtep: IpAddr, has_address: bool) -> Vec<Peer> {
    let mut peers = BTreeMap::new();
    for (_, network) in config.networks_of(host) {
        for member in config.members(network).filter(|member| *member.name != *host) {
            peers.insert(member.vtep.0, member.name.to_string());
        }
    }
    let peer = |(address, host)| Peer {
        // Without an address of its own nothing can be sent from it; that is told by itself.
        no_route: has_address.then(|| sockets::no_route(vtep, address)).flatten(),
        host,
        address,
    };
    peers.into_iter().map(peer).collect()
}

/// Settings of the underlay that are the host's own business, where they are likely to be a surprise.
fn odd_settings(underlay: &[String], vtep: IpAddr) -> Vec<(String, String)> {
    let mut odd = Vec::new();
    for device in underlay {
        let of = |family: &str, name: &str| system::setting(&format!("net/{family}/conf/{device}/{name}"));
        let all = system::setting("net/ipv4/conf/all/arp_filter");
        if vtep.is_ipv4() && (of("ipv4", "arp_filter") == Some(1) || all == Some(1)) {
            odd.push((
                format!("arp_filter is 1 on {device}: requests for {vtep} are answered only where the way back leads"),
                format!("`sysctl net/ipv4/conf/{device}/arp_filter=0 net/ipv4/conf/all/arp_filter=0`."),
            ));
        }
        let takes_ra = match of("ipv6", "accept_ra") {
            Some(2) => true,
            Some(1) => of("ipv6", "forwarding") == Some(0),
            _ => false,
        };
        if vtep.is_ipv6() && takes_ra {
            odd.push((
                format!(
                    "{device} takes router advertisements: whoever sends one there changes its routes and MTU"
                ),
                format!(
                    "`sysctl net/ipv6/conf/{device}/accept_ra=0`, where addresses and routes are configured."
                ),
            ));
        }
    }
    odd
}

/// What keeps the kernel from routing for networks that ask for it; nothing where none does.
fn unrouted(snapshot: &Snapshot) -> Option<Vec<(String, String)>> {
    routed_networks(snapshot).next()?;
    let is_off = |setting: &str| system::setting(&format!("net/ipv6/conf/{setting}")) == Some(0);
    let has_own = system::setting("net/ipv6/conf/default/force_forwarding").is_some();
    let mut found = Vec::new();
    if !has_own && is_off("all/forwarding") && !ports_of_ipv6(snapshot).is_empty() {
        found.push((
            "IPv6 is routed by no device: before Linux 6.17 it is by all or by none".to_owned(),
            "`sysctl net.ipv6.conf.all.forwarding=1`, which makes the host a router on all devices, or a network without IPv6."
                .to_owned(),
        ));
    }
    Some(found)
}

/// What is only being tried out.
fn audit(config: &Config) -> Vec<String> {
    let mut found = Vec::new();
    let of_policies =
        |policies: &BTreeMap<Name, eastgate_config::Policy>, tenant: &str, found: &mut Vec<String>| {
            for policy in policies.values() {
                if policy.mode == Mode::Audit {
                    found.push(format!("policy {tenant}{}", policy.name));
                }
                rules(&[&policy.ingress, &policy.egress], found);
            }
        };
    of_policies(&config.site.policies, "", &mut found);
    for Tenant { name, mode, groups, policies, .. } in config.tenants.values().map(|tenant| &**tenant) {
        if *mode == Mode::Audit {
            found.push(format!("tenant {name}"));
        }
        for group in groups.values() {
            rules(&[&group.ingress, &group.egress], &mut found);
        }
        of_policies(policies, &format!("{name}/"), &mut found);
    }
    found
}

fn rules(lists: &[&Vec<Rule>], found: &mut Vec<String>) {
    let tried = lists.iter().flat_map(|rules| rules.iter()).filter(|rule| rule.mode == Mode::Audit);
    found.extend(tried.map(|rule| format!("the rule at {}", rule.at)));
}

/// Bytes that the kernel's tables take when they are full, about.
fn full_tables(config: &Config) -> u64 {
    let flows = u64::from(config.limits.flows) + u64::from(config.limits.unreplied);
    let of_flow = (size_of::<Key>() + size_of::<Flow>()) as u64 + OF_AN_ENTRY;
    let tables = &config.kernel_tables;
    flows * of_flow + u64::from(tables.endpoints) * OF_AN_ADDRESS + (u64::from(tables.policy_mib) << 20)
}
