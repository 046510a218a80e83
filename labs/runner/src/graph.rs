//! A story drawn: what is plugged into what.

use std::fmt::Write;

use super::{
    model::{Host, Machine, Model},
    overlay::{Runs, Vlan},
};

/// A tree: switches, their hosts, their machines.
pub(super) fn text(model: &Model) -> String {
    let mut out = format!("{}\n", model.topology.title);
    for (name, switch) in &model.topology.switch {
        let subnets: Vec<String> = switch.subnets.iter().map(ToString::to_string).collect();
        line(&mut out, &format!("\n{name}  underlay {}, MTU {}", subnets.join(" "), switch.mtu));
        let hosts: Vec<(&String, &Host)> =
            model.hosts.iter().filter(|(_, host)| host.switch == *name).collect();
        for (index, (host_name, host)) in hosts.iter().enumerate() {
            let last = index + 1 == hosts.len();
            line(
                &mut out,
                &format!("{}{host_name}  {}  {}", branch(last), runs(host.runs), host.address.addr()),
            );
            let machines: Vec<(&String, &Machine)> = model.machines_on(host_name).collect();
            for (index, (machine_name, machine)) in machines.iter().enumerate() {
                let stem = if last { "    " } else { "│   " };
                let twig = branch(index + 1 == machines.len());
                line(&mut out, &format!("{stem}{twig}{}", describe(machine_name, machine)));
            }
        }
    }
    out
}

/// A Graphviz graph; machines of one VNI share a colour.
pub(super) fn dot(model: &Model) -> String {
    let mut out = String::from("graph lab {\n  rankdir=LR;\n  node [shape=box, fontname=\"monospace\"];\n");
    line(&mut out, &format!("  label={:?};", model.topology.title));
    for (name, switch) in &model.topology.switch {
        line(&mut out, &format!("  {name:?} [shape=ellipse, label=\"{name}\\nMTU {}\"];", switch.mtu));
    }
    for (name, host) in &model.hosts {
        let label = format!("{name}\\n{}\\n{}", runs(host.runs), host.address.addr());
        line(&mut out, &format!("  {name:?} [style=bold, label=\"{label}\"];"));
        line(&mut out, &format!("  {:?} -- {name:?} [label={:?}];", host.switch, host.device));
    }
    for link in &model.topology.link {
        line(&mut out, &format!("  {:?} -- {:?} [label={:?}];", link.switch, link.node, link.device));
    }
    for (name, machine) in &model.machines {
        let addresses: Vec<String> =
            machine.addresses.iter().map(|address| address.addr().to_string()).collect();
        let label = format!("{name}\\n{}\\n{}", machine.mac, addresses.join("\\n"));
        line(&mut out, &format!("  {name:?} [color={:?}, label=\"{label}\"];", colour(machine)));
        let port = format!("{} (VNI {})", attachment(machine), machine.vni);
        line(&mut out, &format!("  {:?} -- {name:?} [label={port:?}];", machine.on));
    }
    out + "}\n"
}

fn describe(name: &str, machine: &Machine) -> String {
    let addresses: Vec<String> = machine.addresses.iter().map(|address| address.addr().to_string()).collect();
    let Machine { network, vni, mac, .. } = machine;
    format!("{name}  {network} (VNI {vni})  {}  {mac}  {}", attachment(machine), addresses.join(" "))
}

/// As eastgate shows it: the device, a VLAN behind a dot, and the MAC on a shared segment behind a slash.
fn attachment(machine: &Machine) -> String {
    if machine.is_told_by_mac() {
        return format!("{}/{}", machine.port, machine.mac);
    }
    match machine.vlan.and_then(Vlan::id) {
        Some(vlan) => format!("{}.{vlan}", machine.port),
        None => machine.port.clone(),
    }
}

/// Neighbouring VNIs get distant hues.
fn colour(machine: &Machine) -> String {
    const GOLDEN_RATIO_PERMILLE: u32 = 618;
    format!("0.{:03} 0.8 0.7", machine.vni.get() % 1000 * GOLDEN_RATIO_PERMILLE % 1000)
}

fn runs(runs: Runs) -> &'static str {
    match runs {
        Runs::Eastgate => "eastgate",
        Runs::Vxlan => "kernel vxlan",
    }
}

fn branch(last: bool) -> &'static str {
    if last { "└── " } else { "├── " }
}

fn line(out: &mut String, text: &str) {
    // Writing into a String cannot fail.
    let _ = writeln!(out, "{text}");
}
