//! Tenant ports and the underlay's devices: are they there, what they can do, and who else has programs on them.

use super::{
    Findings,
    check::Check,
    facts::{Facts, Port, Site},
    some,
};
use crate::io::survey::{
    devices::{Close, Devices},
    hooks::{Foreign, Hook},
};

/// What costs speed when it is off, and by which name `ethtool -K` knows it.
const WANTED: [(&str, &str); 4] = [
    ("rx-gro", "gro"),
    ("rx-checksum", "rx"),
    ("tx-generic-segmentation", "gso"),
    ("tx-scatter-gather", "sg"),
];

pub(super) fn examine(facts: &Facts, found: &mut Findings) {
    let (Some(site), Ok(devices)) = (&facts.site, &facts.devices) else { return };
    ports(site, devices, found);
    let mut looked = (0, 0);
    for (name, close) in &devices.closely {
        let port = site.ports.iter().find(|port| port.device == *name);
        if let Some(foreign) = found.look(&format!("programs on {name}"), &close.foreign) {
            looked.0 += 1;
            programs(name, foreign, found);
        }
        looked.1 += usize::from(offloads(name, close, port, found));
    }
    let is_clean = |found: &Findings, check| !found.0.iter().any(|finding| finding.id == check);
    let told = [Check::ForeignXdp, Check::ForeignProgram, Check::ForeignFilter];
    for check in told.into_iter().filter(|_| looked.0 > 0) {
        if is_clean(found, check) {
            found.ok(check, format!("none on {} devices", looked.0));
        }
    }
    for check in [Check::Lro, Check::Offloads, Check::VlanFilter].into_iter().filter(|_| looked.1 > 0) {
        if is_clean(found, check) {
            found.ok(check, format!("{} devices are as they should be", looked.1));
        }
    }
}

fn ports(site: &Site, devices: &Devices, found: &mut Findings) {
    for port in &site.ports {
        let (device, endpoints) = (&port.device, some(port.endpoints.clone()));
        match (devices.links.get(device), &port.unfit) {
            (None, _) => found.note(
                Check::PortMissing,
                format!("there is no device {device}, which is the port of {endpoints}"),
                None,
            ),
            (Some(_), Some(why)) => {
                let (why, remedy) = why.split_once(": ").unwrap_or((why, ""));
                let remedy = (!remedy.is_empty()).then(|| format!("Do this: {remedy}."));
                found.problem(Check::PortUnfit, format!("{device}, the port of {endpoints}: {why}"), remedy);
            }
            (Some(link), None) if !link.up => {
                found.note(
                    Check::PortDown,
                    format!("{device} is down, which is the port of {endpoints}"),
                    format!("`ip link set {device} up`."),
                );
            }
            _ => {}
        }
    }
    let all = eastgate_wire::names::count(site.ports.len(), "device");
    for check in [Check::PortMissing, Check::PortDown, Check::PortUnfit] {
        if !found.0.iter().any(|finding| finding.id == check) {
            found.ok(check, format!("{all} looked at"));
        }
    }
}

fn programs(device: &str, foreign: &[Foreign], found: &mut Findings) {
    for Foreign { hook, way, name, is_first } in foreign {
        let place = if *is_first { "first" } else { "behind eastgate's" };
        let text = format!("{name} at the {way} of {device}, {place}");
        match hook {
            Hook::Xdp => found.warning(
                Check::ForeignXdp,
                text,
                format!("`ip link set {device} xdp off`, if it is not wanted."),
            ),
            Hook::Tcx => {
                let remedy = format!(
                    "`bpftool net show dev {device}` tells whose it is; have that agent leave the device alone."
                );
                if *is_first {
                    found.warning(Check::ForeignProgram, text, remedy);
                } else {
                    found.note(Check::ForeignProgram, text, remedy);
                }
            }
            Hook::Filter => {
                let remedy = format!(
                    "Limit it at the ports that receive it, at the underlay device or inside the machine; `tc filter show dev {device} {way}`."
                );
                found.note(Check::ForeignFilter, text, remedy);
            }
        }
    }
}

/// Whether there was anything to see.
fn offloads(device: &str, close: &Close, port: Option<&Port>, found: &mut Findings) -> bool {
    let Some(features) = found.look(&format!("offloads of {device}"), &close.features) else { return false };
    let is_on = |name: &str| features.get(name) == Some(&true);
    if is_on("rx-lro") {
        found.warning(
            Check::Lro,
            format!("rx-lro of {device} is on"),
            format!("`ethtool -K {device} lro off`."),
        );
    }
    let off = WANTED.into_iter().filter(|(feature, _)| features.get(*feature) == Some(&false));
    let off: Vec<_> = off.collect();
    if !off.is_empty() {
        let names: Vec<&str> = off.iter().map(|(feature, _)| *feature).collect();
        let command: Vec<String> = off.iter().map(|(_, short)| format!("{short} on")).collect();
        let text = format!("{} of {device} are off", names.join(", "));
        found.note(Check::Offloads, text, format!("`ethtool -K {device} {}`.", command.join(" ")));
    }
    if port.is_some_and(|port| port.is_trunk) && is_on("rx-vlan-filter") {
        let text = format!("rx-vlan-filter of {device}, a trunk, is on");
        found.note(
            Check::VlanFilter,
            text,
            format!("`ethtool -K {device} rx-vlan-filter off`, where VLANs stay silent."),
        );
    }
    true
}
