//! `eastgate` and `eastgate-userspace`: the daemon of this checkout on both hosts, with its fast path in eBPF and
//! without. Security groups, anti-spoofing and ARP answers are on, as they are unless a configuration says otherwise.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use eastgate_testkit::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::super::cpu;
use super::super::traffic::{ALLOWS, Pair, Tenant};
use super::super::work::{Reach, USUAL_RULES};
use super::hub::HubTopology;
use super::routed::RoutedTopology;
use super::segment::{SEGMENT_DEVICE, SegmentTopology};
use super::topology::{SUBNET, Topology, UNDERLAY_DEVICE, VNI};
use super::trunk::{TRUNK_DEVICE, Tags, TrunkTopology, VLANS};
use super::{Candidate, Watch};
use crate::{run, stop};

/// Loading 10,000 rules may take a while, and is timed; a daemon that needs longer than this is stuck.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Where the hosts' daemons tell Prometheus how they are
const METRICS: &str = "127.0.0.1:9464";
const STOPS_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Eastgate {
    // Before the topology: a daemon undoes its changes while its namespace still stands.
    daemons: Vec<Daemon>,
    topology: Topology,
    hub: HubTopology,
    segment: SegmentTopology,
    trunk: TrunkTopology,
    routed: RoutedTopology,
    config: PathBuf,
    /// Default limits on flows are in force, not those of a million flows.
    default_limits: bool,
}

impl Eastgate {
    /// Starts both daemons with this `--dataplane`; their files go to `scratch`.
    pub(super) fn build(target: &Path, scratch: &Path, dataplane: &str) -> Result<Self> {
        let binary = target.join("release/eastgate");
        let scratch = &scratch.join(dataplane);
        fs::create_dir(scratch)?;
        let topology = Topology::build(dataplane)?;
        let config = scratch.join("eastgate.toml");
        fs::write(&config, configuration(&topology, Policy::Group(USUAL_RULES), false)?)?;
        let mut daemons = Vec::new();
        for (host, _) in topology.hosts() {
            let name = host_name(host.vtep);
            let mut command = host.namespace.command(&binary);
            command.args([
                "run",
                "--metrics",
                METRICS,
                "--dataplane",
                dataplane,
                "--host",
                &name,
                "--config",
            ]);
            command.arg(&config);
            daemons.push(Daemon::start(command, &binary, scratch, &name)?);
        }
        let hub = HubTopology::build(dataplane)?;
        let hub_config = scratch.join("hub.toml");
        fs::write(&hub_config, hub_configuration(&hub)?)?;
        let mut command = hub.hub.namespace.command(&binary);
        command.args(["run", "--dataplane", dataplane, "--host", "hub", "--config"]).arg(&hub_config);
        daemons.push(Daemon::start(command, &binary, scratch, "hub")?);
        let segment = SegmentTopology::build(dataplane)?;
        let segment_config = scratch.join("segment.toml");
        fs::write(&segment_config, segment_configuration(&segment)?)?;
        let mut command = segment.host.namespace.command(&binary);
        command.args(["run", "--dataplane", dataplane, "--host", "end", "--config"]).arg(&segment_config);
        daemons.push(Daemon::start(command, &binary, scratch, "end")?);
        let trunk = TrunkTopology::build(dataplane, Tags::OfReceiver, scratch)?;
        let trunk_config = scratch.join("trunk.toml");
        fs::write(&trunk_config, trunk_configuration(&trunk)?)?;
        let mut command = trunk.host.namespace.command(&binary);
        command.args(["run", "--dataplane", dataplane, "--host", "trunk", "--config"]).arg(&trunk_config);
        daemons.push(Daemon::start(command, &binary, scratch, "trunk")?);
        let routed = RoutedTopology::build(dataplane)?;
        let routed_config = scratch.join("routed.toml");
        fs::write(&routed_config, routed_configuration(&routed)?)?;
        let mut command = routed.host.namespace.command(&binary);
        command.args(["run", "--dataplane", dataplane, "--host", "router", "--config"]).arg(&routed_config);
        daemons.push(Daemon::start(command, &binary, scratch, "router")?);
        daemons.iter_mut().try_for_each(Daemon::wait)?;
        Ok(Self { daemons, topology, hub, segment, trunk, routed, config, default_limits: false })
    }

    /// Puts another policy in force on the hosts; the hub's stays.
    fn configure(&self, policy: Policy) -> Result<()> {
        fs::write(&self.config, configuration(&self.topology, policy, self.default_limits)?)?;
        self.daemons.iter().take(self.topology.hosts().len()).try_for_each(Daemon::reload)
    }

    fn load(&self, policy: Policy) -> Result<Option<Duration>> {
        let start = Instant::now();
        self.configure(policy)?;
        Ok(Some(start.elapsed()))
    }
}

/// How many rules there are, and where.
#[derive(Clone, Copy, Debug)]
enum Policy {
    /// In one group
    Group(usize),
    /// In policies of the site and the tenant before the groups, in a group, and in a policy after it, a quarter in each
    Tiers(usize),
}

impl Candidate for Eastgate {
    fn pair(&self, reach: Reach) -> Option<Pair<'_>> {
        match reach {
            Reach::ThroughHub => Some(self.hub.pair()),
            Reach::SharedSegment => Some(self.segment.pair()),
            Reach::Trunk => Some(self.trunk.pair()),
            Reach::KernelRouted => Some(self.routed.pair()),
            _ => self.topology.pair(reach),
        }
    }

    fn load_rules(&mut self, count: usize) -> Result<Option<Duration>> {
        self.load(Policy::Group(count))
    }

    fn load_tiers(&mut self, count: usize) -> Result<Option<Duration>> {
        self.load(Policy::Tiers(count))
    }

    fn watch(&self) -> Result<Option<Watch>> {
        let mut watch = Watch::default();
        for ((host, _), daemon) in self.topology.hosts().into_iter().zip(&self.daemons) {
            let once = format!(
                "exec 3<>/dev/tcp/{}; printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3",
                METRICS.replace(':', "/")
            );
            let scraped = run::output(host.namespace.command("bash").args(["-c", &once]))?;
            if !scraped.contains("\neastgate_") {
                bail!("{METRICS} gives no metrics: {scraped}");
            }
            let mut scraper = host.namespace.command("bash");
            scraper.args(["-c", &format!("while :; do ({once}) >/dev/null; sleep 1; done")]);
            let mut observer = Command::new(&daemon.binary);
            observer.args(["observe", "--follow", "-o", "json", "--socket"]).arg(&daemon.socket);
            [scraper, observer].into_iter().try_for_each(|watcher| watch.add(watcher))?;
        }
        Ok(Some(watch))
    }

    fn use_default_limits(&mut self, default: bool) -> Result<()> {
        self.default_limits = default;
        self.configure(Policy::Group(USUAL_RULES))
    }

    fn resident(&self) -> Result<Option<u64>> {
        self.daemons.first().map(|daemon| cpu::resident(daemon.child.id())).transpose()
    }
}

/// In a group, the same policy as `neutron` has: ingress rules of which the allows come last, everything out.
fn configuration(topology: &Topology, policy: Policy, default_limits: bool) -> Result<String> {
    let mut text = String::new();
    if !default_limits {
        // A million flows and what other work leaves behind.
        text += "[limits]\nflows = 1_500_000\nunreplied = 65_536\n";
    }
    for (host, _) in topology.hosts() {
        let (name, vtep) = (host_name(host.vtep), host.vtep);
        writeln!(text, "[host.{name}]\nvtep = \"{vtep}\"\ndevice = \"{UNDERLAY_DEVICE}\"")?;
    }
    writeln!(text, "[tenant.bench.network.lan]\nvni = {VNI}\nsubnets = [\"{SUBNET}\"]")?;
    if !default_limits {
        text += "limits = { flows = 1_500_000, unreplied = 65_536, endpoint_flows = 1_500_000 }\ntimeouts = { udp_exchange = 3600, udp_replied = 3600 }\n";
    }
    text += &match policy {
        Policy::Group(count) => group(count)?,
        Policy::Tiers(count) => tiers(count)?,
    };
    for (host, tenant, port) in topology.ports() {
        let host = host_name(host.vtep);
        text += &endpoint(port, &host, Some(port), tenant);
    }
    Ok(text)
}

/// A hub between two VTEPs of the kernel, with the same policy.
fn hub_configuration(hub: &HubTopology) -> Result<String> {
    let mut text = format!("[host.hub]\nvtep = \"{}\"\ndevice = \"{UNDERLAY_DEVICE}\"\n", hub.hub.vtep);
    for (spoke, _) in hub.spokes() {
        let (name, vtep) = (host_name(spoke.vtep), spoke.vtep);
        writeln!(text, "[host.{name}]\nvtep = \"{vtep}\"\ndevice = \"{UNDERLAY_DEVICE}\"\nruns = \"vxlan\"")?;
    }
    writeln!(text, "[tenant.bench.network.lan]\nvni = {VNI}\nsubnets = [\"{SUBNET}\"]")?;
    text += "topology = \"hub\"\nhub = \"hub\"\n";
    text += &group(USUAL_RULES)?;
    for (spoke, tenant) in hub.spokes() {
        let host = host_name(spoke.vtep);
        text += &endpoint(&format!("behind-{host}"), &host, None, tenant);
    }
    Ok(text)
}

/// The end of a shared segment, with the same policy.
fn segment_configuration(segment: &SegmentTopology) -> Result<String> {
    let mut text = format!("[host.end]\nvtep = \"{}\"\ndevice = \"{UNDERLAY_DEVICE}\"\n", segment.host.vtep);
    writeln!(
        text,
        "[tenant.bench.network.lan]\nvni = {VNI}\nsubnets = [\"{SUBNET}\"]\nneighbors = \"proxy\""
    )?;
    text += &group(USUAL_RULES)?;
    for (tenant, name) in segment.tenants().iter().zip(["a", "b"]) {
        text += &endpoint(name, "end", Some(SEGMENT_DEVICE), tenant);
        text += "shared = true\n";
    }
    Ok(text)
}

/// The end of a trunk, with the same policy.
fn trunk_configuration(trunk: &TrunkTopology) -> Result<String> {
    let mut text = format!("[host.trunk]\nvtep = \"{}\"\ndevice = \"{UNDERLAY_DEVICE}\"\n", trunk.host.vtep);
    writeln!(
        text,
        "[tenant.bench.network.lan]\nvni = {VNI}\nsubnets = [\"{SUBNET}\"]\nneighbors = \"proxy\""
    )?;
    text += &group(USUAL_RULES)?;
    for ((tenant, name), vlan) in trunk.tenants().iter().zip(["a", "b"]).zip(VLANS) {
        text += &endpoint(name, "trunk", Some(TRUNK_DEVICE), tenant);
        writeln!(text, "vlan = {vlan}")?;
    }
    Ok(text)
}

/// The host whose kernel routes, with the same policy.
fn routed_configuration(routed: &RoutedTopology) -> Result<String> {
    let mut text =
        format!("[host.router]\nvtep = \"{}\"\ndevice = \"{UNDERLAY_DEVICE}\"\n", routed.host.vtep);
    writeln!(
        text,
        "[tenant.bench.network.lan]\nvni = {VNI}\nsubnets = [\"{SUBNET}\"]\nneighbors = \"kernel\""
    )?;
    text += &group(USUAL_RULES)?;
    for (tenant, port) in routed.ports() {
        text += &endpoint(port, "router", Some(port), tenant);
    }
    Ok(text)
}

fn endpoint(name: &str, host: &str, port: Option<&str>, tenant: &Tenant) -> String {
    let port = port.map(|port| format!("port = \"{port}\"\n")).unwrap_or_default();
    format!(
        "[tenant.bench.endpoint.{name}]\nnetwork = \"lan\"\nhost = \"{host}\"\n{port}\
         mac = \"{}\"\naddresses = [\"{}\"]\ngroups = [\"servers\"]\n",
        tenant.mac, tenant.address
    )
}

/// `count` ingress rules of which the allows come last, everything out.
fn group(count: usize) -> Result<String> {
    let mut text = String::from("[tenant.bench.group.servers]\negress = [{ to = \"any\" }]\ningress = [\n");
    other_rules(&mut text, 0..count.saturating_sub(ALLOWS.len()), "")?;
    allows(&mut text, "")?;
    text += "]\n";
    Ok(text)
}

/// `count` ingress rules in four tiers, of which only the last lets the traffic in; everything out.
fn tiers(count: usize) -> Result<String> {
    let (each, deny, allow) = (count / 4, "action = \"deny\", ", "action = \"allow\", ");
    let mut text = String::from("[policy.site]\napplies_to = \"site\"\ningress = [\n");
    other_rules(&mut text, 0..each, deny)?;
    text += "]\n[tenant.bench.policy.own]\napplies_to = \"tenant\"\ningress = [\n";
    other_rules(&mut text, each..2 * each, deny)?;
    text += "]\n[tenant.bench.group.servers]\negress = [{ to = \"any\" }]\ningress = [\n";
    other_rules(&mut text, 2 * each..3 * each, "")?;
    text += "]\n[tenant.bench.policy.last]\nposition = \"after\"\napplies_to = \"tenant\"\ningress = [\n";
    other_rules(&mut text, 3 * each..count.saturating_sub(ALLOWS.len()), allow)?;
    allows(&mut text, allow)?;
    text += "]\n";
    Ok(text)
}

/// Rules about senders who send nothing here.
fn other_rules(text: &mut String, which: Range<usize>, action: &str) -> Result<()> {
    for (index, source) in super::other_sources().enumerate().take(which.end).skip(which.start) {
        let first = super::other_port(index);
        let ports = format!("[{first}, {}]", first + 1);
        writeln!(text, "  {{ {action}proto = \"tcp\", ports = {ports}, from = \"{source}/32\" }},")?;
    }
    Ok(())
}

fn allows(text: &mut String, action: &str) -> Result<()> {
    for allow in &ALLOWS {
        let (protocol, first, last) = (allow.protocol, allow.ports.start(), allow.ports.end());
        writeln!(
            text,
            "  {{ {action}proto = \"{protocol}\", ports = \"{first}-{last}\", from = \"any\" }},"
        )?;
    }
    Ok(())
}

fn host_name(vtep: std::net::Ipv4Addr) -> String {
    format!("host{}", vtep.octets()[3])
}

/// A running daemon; dropping it ends it.
#[derive(Debug)]
struct Daemon {
    child: Child,
    binary: PathBuf,
    socket: PathBuf,
    log: PathBuf,
}

impl Daemon {
    fn start(mut command: Command, binary: &Path, scratch: &Path, name: &str) -> Result<Self> {
        let (socket, log) =
            (scratch.join(name).with_extension("sock"), scratch.join(name).with_extension("log"));
        command.arg("--socket").arg(&socket).stdin(std::process::Stdio::null());
        let output = File::create(&log)?;
        command.stdout(output.try_clone()?).stderr(output);
        super::die_with_us(&mut command);
        let shown = run::shown(&command);
        let child = command.spawn().with_context(|| format!("cannot start `{shown}`"))?;
        Ok(Self { child, binary: binary.to_owned(), socket, log })
    }

    /// Waits until it says that it is ready.
    fn wait(&mut self) -> Result<()> {
        let mut looked = Ok(false);
        wait::until_every(wait::SLOW_POLL, READY_WITHIN, || {
            looked = self.is_ready();
            !matches!(looked, Ok(false))
        });
        if looked? {
            return Ok(());
        }
        bail!("the daemon was not ready within {} s: {}", READY_WITHIN.as_secs(), self.last_words())
    }

    fn is_ready(&mut self) -> Result<bool> {
        stop::check()?;
        if let Some(status) = self.child.try_wait()? {
            bail!("the daemon ended at once ({status}): {}", self.last_words());
        }
        // Until it listens, asking fails; that is what is being waited for.
        let status = self.ask("status").unwrap_or_default();
        Ok(status.get("ready").and_then(serde_json::Value::as_bool) == Some(true))
    }

    fn reload(&self) -> Result<()> {
        self.ask("reload").map(drop)
    }

    fn ask(&self, what: &str) -> Result<serde_json::Value> {
        let mut command = Command::new(&self.binary);
        let answer = run::output(command.args([what, "-o", "json", "--socket"]).arg(&self.socket))?;
        serde_json::from_str(&answer).with_context(|| format!("`eastgate {what}` answered {answer}"))
    }

    fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().rev().take(12).collect();
        lines.into_iter().rev().fold(String::new(), |all, line| all + "\n  " + line)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let id = Pid::from_raw(self.child.id().cast_signed());
        // It may be gone already, which is what is wanted.
        let _ = kill(id, Signal::SIGTERM);
        if !wait::until(STOPS_WITHIN, || !matches!(self.child.try_wait(), Ok(None))) {
            eprintln!("warning: eastgate did not stop within {} s, killing it", STOPS_WITHIN.as_secs());
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
