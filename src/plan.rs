//! What one host wants of its kernel, as data: ports that are to be closed to it, settings, sockets.
//!
//! `eastgate plan` prints it, the daemon carries it out, twice with the same result, and undoes it.

use std::{collections::BTreeMap, sync::Arc};

use eastgate_config::{Config, Host};
use eastgate_dataplane::snapshot::Snapshot;
use eastgate_steering::settings::{PortRole, Setting, Why, port_settings};
use eastgate_vtep::mtu::tenant_mtu;
use eastgate_wire::{Attachment, AttachmentId, Family};
use serde::Serialize;

use crate::io::{
    guard::HostTraffic,
    machine::{Machine, MachineError},
    netlink::Link,
};

/// Frames are punted by the first, and the workers listen at the second.
pub const UP: [&str; 2] = ["eastgate-punt0", "eastgate-punt1"];

/// The kernel's vxlan device that decapsulates GSO packets.
pub const TUNNEL: &str = "eastgate-vx0";

/// The devices that the fast path makes.
pub const OWN_DEVICES: [&str; 3] = [UP[0], UP[1], TUNNEL];

/// An attachment that the configuration names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WantedPort {
    /// Its number
    pub id: AttachmentId,
    /// Its device, and how
    pub attachment: Attachment,
}

impl WantedPort {
    /// Its device.
    #[must_use]
    pub const fn device(&self) -> &Arc<str> {
        &self.attachment.device
    }
}

/// The attachments of a snapshot, by device name.
#[must_use]
pub fn wanted_ports(snapshot: &Snapshot) -> Vec<WantedPort> {
    let mut ports: Vec<WantedPort> = snapshot
        .attachments()
        .filter_map(|(id, network, endpoint)| {
            let attachment = network.config()?.endpoint(&endpoint.name)?.attachment.clone()?;
            Some(WantedPort { id, attachment })
        })
        .collect();
    ports.sort_by(|a, b| a.attachment.cmp(&b.attachment));
    ports
}

/// Why a device cannot be a tenant port, and what can be done about it.
#[must_use]
pub fn unfit(link: &Link, host: &Host, links: &BTreeMap<String, Link>) -> Option<String> {
    let name = &link.name;
    let by_index = |index: u32| links.values().find(|link| link.index == index);
    if host.devices.iter().any(|device| **device == **name) {
        return Some("it is the underlay device: give the endpoint a device of its own".into());
    }
    if OWN_DEVICES.contains(&&**name) {
        return Some("it is one of eastgate's own devices: give the endpoint a device of its own".into());
    }
    if !link.is_ethernet {
        return Some(
            "it does not carry Ethernet frames (a loopback or layer 3 device): use a veth, or a tap device              (ip tuntap add mode tap)"
                .into(),
        );
    }
    if matches!(link.kind.as_deref(), Some("bridge" | "vrf" | "openvswitch" | "ovs")) {
        return Some(
            "it is a bridge or router of the host's: name the device of the machine itself, taken out of it"
                .into(),
        );
    }
    if let Some(controller) = link.controller {
        let by = by_index(controller).map_or("another device", |link| &link.name);
        return Some(format!("it belongs to {by}: take it out (ip link set {name} nomaster)"));
    }
    // What stands below the underlay carries everything of it.
    for device in &host.devices {
        let mut below = links.get(&**device).and_then(|link| link.lower);
        for _ in 0..MOST_LOWER {
            let Some(lower) = below.and_then(by_index) else { break };
            if lower.index == link.index {
                return Some(format!(
                    "the underlay device {device} stands on it: give the endpoint a device of its own"
                ));
            }
            below = lower.lower;
        }
    }
    None
}

/// As many devices as the kernel lets stand on each other.
const MOST_LOWER: usize = 8;

/// The ports among `ports` whose devices are there, and can be ports.
fn usable<'p>(
    host: &Host,
    ports: &'p [WantedPort],
    links: &BTreeMap<String, Link>,
) -> impl Iterator<Item = &'p WantedPort> {
    ports.iter().filter(move |port| {
        links.get(&**port.device()).is_some_and(|link| unfit(link, host, links).is_none())
    })
}

/// The settings wanted on the devices that are there.
#[must_use]
pub fn wanted_settings(host: &Host, ports: &[WantedPort], links: &BTreeMap<String, Link>) -> Vec<Setting> {
    let mut settings = Vec::new();
    for device in host.devices.iter().filter(|device| links.contains_key(&***device)) {
        settings.extend(port_settings(&PortRole::Underlay { interface: device }));
    }
    for port in usable(host, ports, links) {
        settings.extend(port_settings(&PortRole::Tenant { interface: port.device() }));
    }
    settings
}

/// One thing that `run` would do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Step {
    /// `close port`, `refuse port`, `set`, `listen`, `join`, `missing`, `note`
    pub action: String,
    /// On what
    pub object: String,
    /// From what to what, or with what
    pub detail: String,
    /// What for
    pub why: String,
}

/// Everything that `run` would do on this machine as it is now.
///
/// # Errors
/// When procfs cannot be read.
pub fn steps(
    snapshot: &Snapshot,
    links: &BTreeMap<String, Link>,
    traffic: &BTreeMap<u32, HostTraffic>,
    attach: &str,
) -> Result<Vec<Step>, MachineError> {
    let config: &Config = &snapshot.config;
    let Some(host) = config.host(&snapshot.host) else { return Ok(Vec::new()) };
    let ports = wanted_ports(snapshot);
    let mut steps = Vec::new();
    let mut add = |action: &str, object: String, detail: String, why: &str| {
        steps.push(Step { action: action.into(), object, detail, why: why.into() });
    };
    for port in &ports {
        let Some(link) = links.get(&**port.device()) else {
            let detail = "no such device yet".into();
            add("missing", port.device().to_string(), detail, "served as soon as it appears");
            continue;
        };
        if let Some(why) = unfit(link, host, links) {
            add("refuse port", port.device().to_string(), why, "it cannot be a tenant port");
            continue;
        }
        add(
            "close port",
            port.device().to_string(),
            format!("{attach}: drop ingress, egress only with eastgate's mark"),
            "the kernel neither hears the tenant nor speaks to it",
        );
        if let Some(note) = traffic.get(&link.index).and_then(HostTraffic::note) {
            add("note", port.device().to_string(), note.into(), "eastgate comes before them");
        }
    }
    let settings = Machine::compare(&wanted_settings(host, &ports, links))?;
    for change in &settings.changes {
        let why = match change.why {
            Why::Wanted(why) | Why::Unblock(why) => why,
            Why::Keep => "keeps another interface as it is",
            Why::Restore => "gives back what was there",
        };
        add("set", change.id.to_string(), format!("{} -> {}", change.from, change.to), why);
    }
    for affected in &settings.affected {
        add(
            "note",
            affected.id.to_string(),
            format!("{} -> {}", affected.before, affected.after),
            "another interface changes with `all`, and no value of its own can keep it",
        );
    }
    for device in host.devices.iter().filter(|device| !links.contains_key(&***device)) {
        add("missing", device.to_string(), "no such underlay device".into(), "tunnels work once it is there");
    }
    let there = host.devices.iter().filter_map(|device| links.get(&**device));
    if let Some(link) = there.map(|link| link.mtu).min() {
        for (network, needed) in too_small_for(snapshot, link) {
            add(
                "note",
                network,
                format!("its mtu takes an underlay of {needed} bytes, and this one has {link}"),
                "larger packets are cut or dropped",
            );
        }
    }
    add(
        "listen",
        format!("{} udp port {}", host.vtep, config.overlay.port),
        format!("device {}", host.device_names()),
        "datagrams of other VTEPs",
    );
    for group in multicast_groups(snapshot) {
        add(
            "join",
            group.to_string(),
            format!("on {}", host.device_names()),
            "BUM frames of networks that flood by multicast",
        );
    }
    Ok(steps)
}

/// The networks whose own MTU is more than an underlay of `link` bytes carries, and what they would need.
#[must_use]
pub fn too_small_for(snapshot: &Snapshot, link: u32) -> Vec<(String, u32)> {
    let underlay = if snapshot.vtep.0.is_ipv4() { Family::V4 } else { Family::V6 };
    let carried = u32::from(tenant_mtu(u16::try_from(link).unwrap_or(u16::MAX), underlay, 0));
    let networks = snapshot.networks().into_iter();
    let with_own = networks.filter_map(|network| Some((network, u32::from(network.mtu?))));
    with_own
        .filter(|(_, mtu)| *mtu > carried)
        .map(|(network, mtu)| (network.name.clone(), mtu + link.saturating_sub(carried)))
        .collect()
}

/// The underlay multicast groups that this host's networks use, each once.
#[must_use]
pub fn multicast_groups(snapshot: &Snapshot) -> Vec<std::net::IpAddr> {
    let mut groups: Vec<_> = snapshot
        .config
        .networks_of(&snapshot.host)
        .filter(|(_, network)| network.flood == eastgate_config::Flood::Multicast)
        .filter_map(|(_, network)| network.multicast_group)
        .collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}
