//! What one host wants of its kernel, as data: ports that are to be closed to it, settings, sockets.
//!
//! `eastgate plan` prints it, the daemon carries it out, twice with the same result, and undoes it.

use std::{collections::BTreeMap, sync::Arc};

use eastgate_steering::settings::{PortRole, Setting, Why, port_settings};
use eastgate_wire::PortId;
use serde::Serialize;

use crate::{
    config::{Config, Host},
    io::{
        machine::{Machine, MachineError},
        netlink::Link,
    },
    snapshot::Snapshot,
};

/// A tenant port that the configuration names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WantedPort {
    /// Its number
    pub id: PortId,
    /// Its device
    pub name: Arc<str>,
}

/// The tenant ports of a snapshot, by device name.
#[must_use]
pub fn wanted_ports(snapshot: &Snapshot) -> Vec<WantedPort> {
    let mut ports: Vec<WantedPort> = snapshot
        .tenant_ports()
        .filter_map(|(id, network, endpoint)| {
            let port = network.config()?.endpoint(&endpoint.name)?.port.clone()?;
            Some(WantedPort { id, name: port })
        })
        .collect();
    ports.sort_by(|a, b| a.name.cmp(&b.name));
    ports
}

/// The settings wanted on the devices that are there.
#[must_use]
pub fn wanted_settings(host: &Host, ports: &[WantedPort], links: &BTreeMap<String, Link>) -> Vec<Setting> {
    let mut settings = Vec::new();
    if links.contains_key(&*host.device) {
        settings.extend(port_settings(&PortRole::Underlay { interface: &host.device }));
    }
    for port in ports.iter().filter(|port| links.contains_key(&*port.name)) {
        settings.extend(port_settings(&PortRole::Tenant { interface: &port.name }));
    }
    settings
}

/// One thing that `run` would do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Step {
    /// `close port`, `set`, `listen`, `join`, `missing`
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
pub fn steps(snapshot: &Snapshot, links: &BTreeMap<String, Link>) -> Result<Vec<Step>, MachineError> {
    let config: &Config = &snapshot.config;
    let Some(host) = config.host(&snapshot.host) else { return Ok(Vec::new()) };
    let ports = wanted_ports(snapshot);
    let mut steps = Vec::new();
    let mut add = |action: &str, object: String, detail: String, why: &str| {
        steps.push(Step { action: action.into(), object, detail, why: why.into() });
    };
    for port in &ports {
        if links.contains_key(&*port.name) {
            add(
                "close port",
                port.name.to_string(),
                "clsact: drop ingress, egress only with eastgate's mark".into(),
                "the kernel neither hears the tenant nor speaks to it",
            );
        } else {
            add(
                "missing",
                port.name.to_string(),
                "no such device yet".into(),
                "served as soon as it appears",
            );
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
    if !links.contains_key(&*host.device) {
        add(
            "missing",
            host.device.to_string(),
            "no such underlay device".into(),
            "tunnels work once it is there",
        );
    }
    add(
        "listen",
        format!("{} udp port {}", host.vtep, config.overlay.port),
        format!("device {}", host.device),
        "datagrams of other VTEPs",
    );
    for group in multicast_groups(snapshot) {
        add(
            "join",
            group.to_string(),
            format!("on {}", host.device),
            "frames to many of networks that flood by multicast",
        );
    }
    Ok(steps)
}

/// The underlay multicast groups that this host's networks use, each once.
#[must_use]
pub fn multicast_groups(snapshot: &Snapshot) -> Vec<std::net::IpAddr> {
    let mut groups: Vec<_> = snapshot
        .config
        .networks_of(&snapshot.host)
        .filter(|(_, network)| network.flood == crate::config::Flood::Multicast)
        .filter_map(|(_, network)| network.multicast_group)
        .collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}
