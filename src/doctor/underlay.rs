//! The underlay: devices, addresses, sizes, peers, and who else is on its port.

use std::net::IpAddr;

use super::{
    Findings,
    check::Check,
    facts::{Daemon, Facts, Site},
    some,
};
use crate::io::{netlink::Link, survey::devices::Devices};

/// IPv6 has no smaller packets to offer.
const SMALLEST: u32 = 1280;

pub(super) fn examine(facts: &Facts, found: &mut Findings) {
    let Some(site) = &facts.site else { return };
    address(site, found);
    if let Some(devices) = found.look("devices", &facts.devices) {
        let there = devices_of(site, devices, found);
        sizes(site, devices, &there, found);
        bridges(facts, devices, &there, found);
        who_else(facts, site, Some(devices), found);
        silent(site, devices, found);
    } else {
        who_else(facts, site, None, found);
    }
    routes(site, found);
    heard(facts, found);
    firewall(site, found);
    routing(site, found);
    if site.odd_settings.is_empty() {
        found.ok(Check::UnderlaySettings, "none stands in the way");
    }
    for (text, remedy) in &site.odd_settings {
        found.note(Check::UnderlaySettings, text, remedy.clone());
    }
}

fn address(site: &Site, found: &mut Findings) {
    if site.has_address {
        found.ok(Check::UnderlayAddress, site.vtep.to_string());
    } else {
        let length = if site.vtep.is_ipv4() { "24" } else { "64" };
        let device = site.underlay.first().map_or("DEVICE", |device| device);
        let remedy = format!(
            "`ip address add {}/{length} dev {device}` (with the length of that network), or correct `vtep` of host {}.",
            site.vtep, site.host
        );
        found.problem(Check::UnderlayAddress, format!("{} is no address of this machine", site.vtep), remedy);
    }
}

/// Those of the underlay that are there.
fn devices_of<'d>(site: &Site, devices: &'d Devices, found: &mut Findings) -> Vec<&'d Link> {
    let mut there = Vec::new();
    for name in &site.underlay {
        match devices.links.get(name) {
            None => {
                found.problem(
                    Check::UnderlayDevice,
                    format!("there is no device {name}"),
                    format!("Make it, or correct `device` of host {}.", site.host),
                );
            }
            Some(link) if !link.up => {
                there.push(link);
                found.problem(
                    Check::UnderlayDevice,
                    format!("{name} is down"),
                    format!("`ip link set {name} up`."),
                );
            }
            Some(link) => {
                there.push(link);
                found.ok(Check::UnderlayDevice, format!("{name} is up, with an MTU of {}", link.mtu));
            }
        }
    }
    there
}

fn sizes(site: &Site, devices: &Devices, there: &[&Link], found: &mut Findings) {
    let Some(narrowest) = there.iter().min_by_key(|link| link.mtu) else { return };
    let Link { name, mtu, .. } = narrowest;
    let carried = mtu.saturating_sub(site.overhead);
    let carries = format!("{name} has an MTU of {mtu}, which carries packets of {carried} bytes");
    let too_large: Vec<&(String, u32)> = site.mtus.iter().filter(|(_, mtu)| *mtu > carried).collect();
    if let Some(most) = too_large.iter().map(|(_, mtu)| *mtu).max() {
        let networks = some(too_large.iter().map(|(name, mtu)| format!("{name} ({mtu})")));
        let remedy = format!(
            "`ip link set {name} mtu {}`, here and on what lies between, or a lower `mtu` of the network.",
            most + site.overhead
        );
        found.warning(Check::UnderlayMtu, format!("{carries}, less than the `mtu` of {networks}"), remedy);
    } else if carried < SMALLEST {
        let text = format!("{carries}: IPv6 needs {SMALLEST}");
        found.warning(Check::UnderlayMtu, text, format!("`ip link set {name} mtu 1500` at the least."));
    } else {
        found.ok(Check::UnderlayMtu, carries.clone());
    }
    // Of a network with an MTU of its own machines are told that one.
    let wide: Vec<String> = site
        .ports
        .iter()
        .filter_map(|port| devices.links.get(&port.device).filter(|link| link.mtu > carried))
        .map(|link| format!("{} ({})", link.name, link.mtu))
        .collect();
    if wide.is_empty() {
        found.ok(Check::PortMtu, format!("no port has more than {carried}"));
    } else {
        found.note(Check::PortMtu, format!("{carries}; larger: {}", some(wide)), None);
    }
}

fn bridges(facts: &Facts, devices: &Devices, there: &[&Link], found: &mut Findings) {
    let is_bridge = |link: &Link| link.kind.as_deref() == Some("bridge");
    let on_bridge = |link: &&&Link| {
        is_bridge(link)
            || link
                .controller
                .is_some_and(|index| devices.links.values().any(|it| it.index == index && is_bridge(it)))
    };
    let asked = there.iter().find(on_bridge).filter(|_| facts.machine.bridges_ask_iptables);
    match asked {
        Some(link) => found.note(
            Check::BridgeNetfilter,
            format!(
                "{} is on a bridge, and net.bridge.bridge-nf-call-iptables or -ip6tables is 1",
                link.name
            ),
            None,
        ),
        None => found.ok(Check::BridgeNetfilter, "no bridge below the underlay asks iptables"),
    }
}

/// Whether two sockets on one port are in each other's way.
fn overlaps(other: IpAddr, vtep: IpAddr) -> bool {
    // One at `::` hears IPv4 too unless it is told not to.
    other == vtep || (other.is_unspecified() && (other.is_ipv6() || vtep.is_ipv4()))
}

fn who_else(facts: &Facts, site: &Site, devices: Option<&Devices>, found: &mut Findings) {
    let port = site.port;
    let vxlan: Vec<&str> = devices
        .into_iter()
        .flat_map(|devices| &devices.vxlan)
        .filter(|(name, at)| *at == port && !crate::plan::OWN_DEVICES.contains(&&**name))
        .map(|(name, _)| &**name)
        .collect();
    for name in &vxlan {
        let text = format!("the kernel's vxlan device {name} is on UDP port {port}");
        let remedy = format!("`ip link delete {name}`, or another `[overlay] port` for all hosts.");
        found.problem(Check::VxlanPort, text, remedy);
    }
    let Some(listeners) = found.look("sockets", &site.listeners) else { return };
    let in_the_way = listeners.iter().filter(|listener| overlaps(listener.address, site.vtep));
    let ours = match &facts.daemon {
        Daemon::Answers(answers) => match found.look("the daemon's sockets", &answers.sockets) {
            Some(sockets) => sockets.clone(),
            // Whose these are is not to be told.
            None => return,
        },
        Daemon::None { .. } => std::collections::BTreeSet::new(),
        _ => return,
    };
    let others: Vec<_> = in_the_way.filter(|listener| !ours.contains(&listener.inode)).collect();
    for listener in &others {
        let who = match &listener.process {
            Some((pid, name)) => format!("process {pid} ({name})"),
            // That of the device is told already.
            None if !vxlan.is_empty() => continue,
            None => "something that is no process to be seen from here".to_owned(),
        };
        found.problem(Check::VxlanPort, format!("{who} is on UDP port {port} at {}", listener.address), None);
    }
    if others.is_empty() && vxlan.is_empty() {
        found.ok(Check::VxlanPort, format!("UDP port {port} is eastgate's alone"));
    }
}

fn silent(site: &Site, devices: &Devices, found: &mut Findings) {
    let silent: Vec<String> = site
        .peers
        .iter()
        .filter(|peer| devices.silent.contains(&peer.address))
        .map(|peer| format!("{} ({})", peer.address, peer.host))
        .collect();
    if silent.is_empty() {
        found.ok(Check::VtepSilent, "no VTEP was asked for its MAC in vain");
    } else {
        found.warning(Check::VtepSilent, some(silent), None);
    }
}

fn routes(site: &Site, found: &mut Findings) {
    let lost: Vec<String> = site
        .peers
        .iter()
        .filter_map(|peer| Some(format!("{} ({}): {}", peer.address, peer.host, peer.no_route.as_ref()?)))
        .collect();
    if !lost.is_empty() {
        found.problem(Check::VtepRoute, some(lost), None);
    } else if site.has_address {
        let vteps = eastgate_wire::names::count(site.peers.len(), "other VTEP");
        found.ok(Check::VtepRoute, format!("routes lead to {vteps}"));
    }
}

fn heard(facts: &Facts, found: &mut Findings) {
    /// A few may go to a peer that is not there yet.
    const MANY: u64 = 20;
    let Some(answers) = facts.answers() else { return };
    let traffic = &answers.status.traffic;
    let text = format!("{} datagrams were sent, {} came in", traffic.to_underlay, traffic.from_underlay);
    if traffic.from_underlay == 0 && traffic.to_underlay >= MANY {
        found.warning(Check::UnderlaySilent, text, None);
    } else {
        found.ok(Check::UnderlaySilent, text);
    }
}

fn firewall(site: &Site, found: &mut Findings) {
    let Some(firewall) = found.look("the host's firewall", &site.firewall) else { return };
    let port = site.port;
    for rule in &firewall.refusals {
        found.warning(Check::Firewall, format!("{rule} refuses UDP port {port}"), None);
    }
    for rule in &firewall.partial {
        let text = format!(
            "{rule} refuses some of what comes to UDP port {port}; whether that is too much only the rules together tell"
        );
        found.note(Check::Firewall, text, None);
    }
    for chain in &firewall.closed {
        let text = format!(
            "{chain} drops what no rule accepts, and none of its rules names UDP port {port}; another may let it pass all the same"
        );
        found.note(Check::Firewall, text, None);
    }
    if firewall.refusals.is_empty() && firewall.partial.is_empty() && firewall.closed.is_empty() {
        found.ok(Check::Firewall, format!("no rule refuses UDP port {port}"));
    }
}

fn routing(site: &Site, found: &mut Findings) {
    let Some(unrouted) = &site.unrouted else { return };
    for (text, remedy) in unrouted {
        found.warning(Check::KernelRouting, text, remedy.clone());
    }
    let chains = site.firewall.as_ref().map_or(&[][..], |firewall| &firewall.forwarding);
    for chain in chains {
        let text = format!(
            "{chain} drops what no rule accepts, and none names the devices eg-rt-* by which packets of machines come in"
        );
        found.warning(Check::KernelRouting, text, None);
    }
    if unrouted.is_empty() && chains.is_empty() {
        found.ok(Check::KernelRouting, "nothing keeps the kernel from it");
    }
}
