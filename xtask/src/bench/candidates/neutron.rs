//! `neutron`: what `plain` is, enforced by iptables on the bridge, with the chains in the order OpenStack Neutron's
//! hybrid firewall driver puts them: one jump a port and direction by physdev, a shared dispatch chain, and for
//! each port a chain of what may come in, one of what may go out, and one of who it may claim to be. Every port's
//! packets are tracked in a conntrack zone of their network.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use eastgate_testkit::{Netns, command};

use super::super::traffic::{ALLOWS, Pair, Tenant};
use super::super::work::{Reach, USUAL_RULES};
use super::Candidate;
use super::plain::bridged;
use super::topology::{Topology, VXLAN_DEVICE};
use crate::run;

const ZONE: u16 = 4097;
const CONNTRACK_MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
/// The two programs that may be able to set physdev rules on this kernel.
const RESTORERS: [&str; 2] = ["iptables-nft-restore", "iptables-legacy-restore"];

#[derive(Debug)]
pub(super) struct Neutron {
    topology: Topology,
    restorer: &'static str,
    limit: Option<Limit>,
}

impl Neutron {
    pub(super) fn build() -> Result<Self> {
        load_bridge_filter()?;
        let topology = bridged("neutron", true)?;
        let mut problems = String::new();
        for restorer in RESTORERS {
            match install(&topology, restorer, USUAL_RULES) {
                Ok(()) => return Ok(Self { topology, restorer, limit: None }),
                Err(error) => _ = write!(problems, "\n  {error:#}"),
            }
        }
        bail!("no iptables here can set physdev rules:{problems}")
    }
}

impl Candidate for Neutron {
    fn pair(&self, reach: Reach) -> Option<Pair<'_>> {
        self.topology.pair(reach)
    }

    fn load_rules(&mut self, count: usize) -> Result<Option<Duration>> {
        let start = Instant::now();
        install(&self.topology, self.restorer, count)?;
        Ok(Some(start.elapsed()))
    }

    fn make_room_for_flows(&mut self, count: usize) -> Result<()> {
        // Both hosts' tables count against the machine's limit.
        let limit = match &mut self.limit {
            Some(limit) => limit,
            none => none.insert(Limit::remember(CONNTRACK_MAX)?),
        };
        limit.raise_to(3 * count)?;
        for (host, _) in self.topology.hosts() {
            host.namespace.set("net/netfilter/nf_conntrack_udp_timeout", "600")?;
            host.namespace.set("net/netfilter/nf_conntrack_udp_timeout_stream", "600")?;
        }
        Ok(())
    }

    fn flow_memory(&self) -> Result<Option<u64>> {
        // Both hosts of the pair share the kernel's slab, and both track every flow.
        Ok(slab_bytes("nf_conntrack")?.map(|bytes| bytes / 2))
    }
}

/// Replaces both hosts' rules in whole, as the agent does after every change.
fn install(topology: &Topology, restorer: &str, count: usize) -> Result<()> {
    for (host, _) in topology.hosts() {
        let ports: Vec<_> = topology
            .ports()
            .into_iter()
            .filter(|(on, _, _)| on.vtep == host.vtep)
            .map(|(_, tenant, port)| (tenant, port))
            .collect();
        feed(&host.namespace, restorer, &ruleset(&ports, count)?)?;
    }
    Ok(())
}

fn ruleset(ports: &[(&Tenant, &str)], count: usize) -> Result<String> {
    let mut text = String::from("*raw\n:zones - [0:0]\n-A PREROUTING -j zones\n");
    for device in ports.iter().map(|(_, port)| *port).chain([VXLAN_DEVICE]) {
        writeln!(text, "-A zones -m physdev --physdev-in {device} -j CT --zone {ZONE}")?;
    }
    text += "COMMIT\n*filter\n:groups-forward - [0:0]\n:groups - [0:0]\n:unwanted - [0:0]\n";
    for (_, port) in ports {
        writeln!(text, ":in-{port} - [0:0]\n:out-{port} - [0:0]\n:own-{port} - [0:0]")?;
    }
    text += "-A FORWARD -j groups-forward\n-A unwanted -j DROP\n";
    for direction in ["out", "in"] {
        for (_, port) in ports {
            writeln!(
                text,
                "-A groups-forward -m physdev --physdev-{direction} {port} --physdev-is-bridged -j groups"
            )?;
        }
    }
    for (tenant, port) in ports {
        writeln!(text, "-A groups -m physdev --physdev-out {port} --physdev-is-bridged -j in-{port}")?;
        writeln!(text, "-A groups -m physdev --physdev-in {port} --physdev-is-bridged -j out-{port}")?;
        incoming(&mut text, port, count)?;
        outgoing(&mut text, port, tenant)?;
    }
    text += "-A groups -j ACCEPT\nCOMMIT\n";
    Ok(text)
}

/// What may reach a port: answers, then `count` rules of which the allows come last.
fn incoming(text: &mut String, port: &str, count: usize) -> Result<()> {
    writeln!(text, "-A in-{port} -m state --state RELATED,ESTABLISHED -j RETURN")?;
    for (index, source) in super::other_sources().take(count.saturating_sub(ALLOWS.len())).enumerate() {
        let first = super::other_port(index);
        let ports = format!("{first},{}", first + 1);
        writeln!(text, "-A in-{port} -s {source}/32 -p tcp -m multiport --dports {ports} -j RETURN")?;
    }
    for allow in &ALLOWS {
        let (protocol, first, last) = (allow.protocol, allow.ports.start(), allow.ports.end());
        writeln!(text, "-A in-{port} -p {protocol} -m multiport --dports {first}:{last} -j RETURN")?;
    }
    writeln!(text, "-A in-{port} -m state --state INVALID -j DROP\n-A in-{port} -j unwanted")?;
    Ok(())
}

/// What may leave a port: DHCP requests, then only what carries the port's own addresses, all of it.
fn outgoing(text: &mut String, port: &str, tenant: &Tenant) -> Result<()> {
    let (address, mac) = (tenant.address, &tenant.mac);
    writeln!(
        text,
        "-A own-{port} -s {address}/32 -m mac --mac-source {mac} -j RETURN\n-A own-{port} -j DROP"
    )?;
    let dhcp = "-s 0.0.0.0/32 -d 255.255.255.255/32 -p udp -m udp --sport 68 --dport 67";
    writeln!(text, "-A out-{port} {dhcp} -j RETURN\n-A out-{port} -j own-{port}")?;
    writeln!(text, "-A out-{port} -p udp -m udp --sport 67 --dport 68 -j DROP")?;
    writeln!(text, "-A out-{port} -m state --state RELATED,ESTABLISHED -j RETURN\n-A out-{port} -j RETURN")?;
    writeln!(text, "-A out-{port} -m state --state INVALID -j DROP\n-A out-{port} -j unwanted")?;
    Ok(())
}

fn feed(netns: &Netns, restorer: &str, rules: &str) -> Result<()> {
    command::run_with(&mut netns.command(restorer), rules)?;
    Ok(())
}

fn load_bridge_filter() -> Result<()> {
    if Path::new("/proc/sys/net/bridge").exists() {
        return Ok(());
    }
    run::output(Command::new("modprobe").arg("br_netfilter"))
        .context("the kernel has no br_netfilter")
        .map(drop)
}

/// Bytes of the objects in one of the kernel's slabs; `None` where it is merged with others or hidden.
fn slab_bytes(name: &str) -> Result<Option<u64>> {
    let text = fs::read_to_string("/proc/slabinfo").context("/proc/slabinfo")?;
    let Some(line) = text.lines().find(|line| line.split_whitespace().next() == Some(name)) else {
        return Ok(None);
    };
    let numbers: Vec<u64> = line.split_whitespace().skip(1).map_while(|field| field.parse().ok()).collect();
    let [active, _, size, ..] = numbers[..] else { bail!("/proc/slabinfo: {line}") };
    Ok(Some(active * size))
}

/// A limit of the whole machine, put back when this goes.
#[derive(Debug)]
struct Limit {
    path: &'static str,
    before: usize,
}

impl Limit {
    fn remember(path: &'static str) -> Result<Self> {
        let before = fs::read_to_string(path).with_context(|| path.to_owned())?;
        let before = before.trim().parse().with_context(|| format!("{path}: {before}"))?;
        Ok(Self { path, before })
    }

    fn raise_to(&self, wanted: usize) -> Result<()> {
        fs::write(self.path, wanted.max(self.before).to_string()).with_context(|| self.path.to_owned())
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        if let Err(error) = fs::write(self.path, self.before.to_string()) {
            eprintln!("warning: {} should be {} again: {error}", self.path, self.before);
        }
    }
}
