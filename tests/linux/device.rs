//! What is compared: a machine with three ports that carries frames between them. Linux's bridge with its conntrack and
//! iptables, and eastgate with each of its dataplanes, get the same frames one after another; after each a marker is
//! sent that every one of them carries on its slowest path, so that what has not come out before it never will.

use std::{
    collections::BTreeMap,
    process::Command,
    time::{Duration, Instant},
};

use eastgate_testkit::{Link, command};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::{
    cases,
    common::{
        BOUND, Daemon, Space, World,
        config::{Endpoint, Host as Vtep, Tenant, configuration},
        must,
    },
    frames::{self, Host, Way},
};

/// Services that both let in, over TCP.
pub const TCP_OPEN: u16 = 80;
/// Services that neither does.
pub const CLOSED: u16 = 22;
/// Over UDP
pub const UDP_OPEN: u16 = 53;

/// Identifies the markers: a query that is tracked, and that no program carries (ICMP timestamp, RFC 792).
const MARKER: u16 = 0xea57;

/// How often a marker is sent again.
const PATIENCE: Duration = Duration::from_millis(500);

/// A machine under comparison, and the wires to it.
pub struct Device {
    pub name: &'static str,
    ports: Vec<Port>,
    marker: u16,
    /// None in Linux
    daemons: Vec<Daemon>,
}

/// The far end of one of its ports.
struct Port {
    host: Host,
    link: Link,
}

/// What came out after a frame had gone in.
#[derive(Clone, Debug)]
pub struct Seen {
    /// At which machine
    pub at: Host,
    pub frame: Vec<u8>,
}

const HOSTS: [Host; 3] = [frames::A, frames::B, frames::C];

/// Where the machines are: all on one host, or `a` on one and the others on another, with VXLAN between the hosts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement {
    OneHost,
    TwoHosts,
}

impl Placement {
    const fn hosts(self) -> usize {
        match self {
            Self::OneHost => 1,
            Self::TwoHosts => 2,
        }
    }

    /// The host that a machine is on.
    fn of(self, machine: Host) -> usize {
        usize::from(self == Self::TwoHosts && machine != frames::A)
    }
}

/// Everything that is compared, in one world: Linux first.
pub fn all(world: &mut World, placement: Placement) -> Vec<Device> {
    vec![linux(world, placement), eastgate(world, placement, "ebpf"), eastgate(world, placement, "userspace")]
}

/// The hosts of a device, joined by an underlay, and the namespace with the far ends of all ports.
fn cables(world: &mut World, name: &str, placement: Placement) -> (Vec<Space>, Space) {
    let hosts: Vec<_> =
        (0..placement.hosts()).map(|number| world.space(&format!("{name}{number}"))).collect();
    let ends = world.space(&format!("{name}-ends"));
    let far = if let [_, far] = &hosts[..] { far } else { &ends };
    world.cable((&hosts[0], "underlay0"), (far, "underlay0"), 1700);
    for (number, host) in (1..).zip(&hosts) {
        host.ip(&format!("addr add 192.0.2.{number}/24 dev underlay0"));
    }
    for machine in HOSTS {
        let (host, number) = (&hosts[placement.of(machine)], machine.0);
        world.cable((host, &port(machine)), (&ends, &format!("end{number}")), frames::MTU as u16);
        ends.ip(&format!("link set end{number} address {}", mac(machine)));
        // Frames are as they are written: no device is to merge, cut or finish anything.
        without_offloads(host, &port(machine));
        without_offloads(&ends, &format!("end{number}"));
    }
    (hosts, ends)
}

fn port(machine: Host) -> String {
    format!("port{}", machine.0)
}

fn mac(machine: Host) -> String {
    format!("02:00:00:00:00:{:02x}", machine.0)
}

fn without_offloads(space: &Space, device: &str) {
    let options = ["-K", device, "tx", "off", "gro", "off", "gso", "off", "tso", "off"];
    run(space.command("ethtool").args(options));
}

/// Linux: bridges whose packets go through iptables, with strict TCP tracking.
fn linux(world: &mut World, placement: Placement) -> Device {
    let (hosts, ends) = cables(world, "linux", placement);
    if !std::path::Path::new("/proc/sys/net/bridge").exists() {
        run(Command::new("modprobe").arg("br_netfilter"));
    }
    for (number, host) in hosts.iter().enumerate() {
        host.ip("link add br0 type bridge mcast_snooping 0");
        host.ip("link set br0 up");
        if placement == Placement::TwoHosts {
            host.ip(&format!(
                "link add vx0 type vxlan id 5001 local 192.0.2.{} remote 192.0.2.{} dstport 4789 dev underlay0 nolearning",
                number + 1,
                2 - number
            ));
            host.ip("link set vx0 master br0 up");
        }
        for machine in HOSTS {
            let here = placement.of(machine) == number;
            let port = if here { port(machine) } else { "vx0".to_owned() };
            if here {
                host.ip(&format!("link set {port} master br0"));
            }
            host.bridge(&format!("fdb add {} dev {port} master static", mac(machine)));
        }
        filter(host);
    }
    Device::open("Linux", &ends, Vec::new())
}

/// The rules that eastgate has, as a stateful firewall on a bridge has them.
fn filter(host: &Space) {
    for (family, icmp) in [("iptables", "icmp"), ("ip6tables", "ipv6-icmp")] {
        host.set(&format!("net/bridge/bridge-nf-call-{family}"), "1");
        for rule in [
            "-P FORWARD DROP".to_owned(),
            "-A FORWARD -m conntrack --ctstate INVALID -j DROP".to_owned(),
            "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT".to_owned(),
            format!("-A FORWARD -p tcp --dport {TCP_OPEN} -m conntrack --ctstate NEW -j ACCEPT"),
            format!("-A FORWARD -p udp --dport {UDP_OPEN} -m conntrack --ctstate NEW -j ACCEPT"),
            // Neighbour discovery is not tracked.
            format!("-A FORWARD -p {icmp} -m conntrack --ctstate NEW,UNTRACKED -j ACCEPT"),
            "-A FORWARD -p udp --dport 67:68 -j ACCEPT".to_owned(),
            "-A FORWARD -p 112 -j ACCEPT".to_owned(),
            "-A FORWARD -p 132 -j ACCEPT".to_owned(),
            "-A FORWARD -p 47 -j ACCEPT".to_owned(),
            // Machines may send what they like; who may receive it is for the other host to say.
            "-A FORWARD -m physdev --physdev-out vx0 -m conntrack --ctstate NEW -j ACCEPT".to_owned(),
        ] {
            run(host.command(family).args(rule.split(' ')));
        }
    }
    host.set("net/netfilter/nf_conntrack_tcp_loose", "0");
}

/// eastgate, with the same services.
fn eastgate(world: &mut World, placement: Placement, dataplane: &'static str) -> Device {
    let (hosts, ends) = cables(world, dataplane, placement);
    let names: Vec<_> = (0..hosts.len()).map(|number| format!("{dataplane}{number}")).collect();
    let ports = HOSTS.map(port);
    let endpoints: Vec<_> = ["a", "b", "c"]
        .into_iter()
        .zip(&ports)
        .zip(HOSTS)
        .map(|((name, port), machine)| Endpoint {
            name,
            host: &names[placement.of(machine)],
            port: Some(port),
            number: machine.0,
        })
        .collect();
    let tcp = format!(r#"{{ proto = "tcp", ports = {TCP_OPEN}, from = "any" }}"#);
    let udp = format!(r#"{{ proto = "udp", ports = {UDP_OPEN}, from = "any" }}"#);
    let tenant = Tenant {
        name: "acme",
        vni: 5001,
        families: &[eastgate_wire::Family::V4, eastgate_wire::Family::V6],
        network: "",
        ingress: &[
            &tcp,
            &udp,
            r#"{ proto = "icmp", from = "any" }"#,
            r#"{ proto = "sctp", from = "any" }"#,
            r#"{ proto = "gre", from = "any" }"#,
        ],
        endpoints: &endpoints,
    };
    let vteps: Vec<_> = (1..=hosts.len()).map(|number| format!("192.0.2.{number}")).collect();
    let vteps: Vec<_> = names.iter().zip(&vteps).map(|(name, vtep)| Vtep::new(name, vtep)).collect();
    let mut text = configuration(&vteps, &[tenant]);
    for (name, machine) in ["a", "b", "c"].into_iter().zip(HOSTS) {
        let table = format!("[tenant.acme.endpoint.{name}]\n");
        text = text.replace(&table, &format!("{table}{}\n", cases::lines_of(machine)));
    }
    let config = world.write(&format!("{dataplane}.toml"), &text);
    // One worker keeps the order in which frames came.
    let options = ["--dataplane", dataplane, "--workers", "1"];
    let daemons =
        hosts.iter().zip(&names).map(|(host, name)| Daemon::start(world, host, &config, name, &options));
    let name = if dataplane == "ebpf" { "eastgate (eBPF)" } else { "eastgate (userspace)" };
    let daemons = daemons.collect();
    Device::open(name, &ends, daemons)
}

fn run(command: &mut Command) {
    must(command::run(command));
}

impl Device {
    fn open(name: &'static str, ends: &Space, daemons: Vec<Daemon>) -> Self {
        let ports = ends.enter(|| HOSTS.map(Port::open).into_iter().collect());
        let mut device = Self { name, ports, marker: 0, daemons };
        // A bridge's port forwards a moment after it was punted.
        for host in HOSTS {
            device.send(host, &[]);
        }
        device
    }

    /// Sends a frame from a machine, and gives all that came out of the device before it was idle again.
    pub fn send(&mut self, from: Host, frame: &[u8]) -> Vec<Seen> {
        if !frame.is_empty() {
            self.port(from).write(frame);
        }
        self.settle(from)
    }

    /// What comes out before a marker that `from` sends to each of the others.
    pub fn settle(&mut self, from: Host) -> Vec<Seen> {
        let (mut seen, begun) = (Vec::new(), Instant::now());
        let first = self.marker.wrapping_add(1);
        let mut waiting: Vec<Host> = HOSTS.into_iter().filter(|host| *host != from).collect();
        while !waiting.is_empty() {
            assert!(begun.elapsed() < BOUND, "{} carries no marker from {from:?} to {waiting:?}", self.name);
            self.marker = self.marker.wrapping_add(1);
            for to in &waiting {
                let marker = marker(from, *to, self.marker);
                self.port(from).write(&marker);
            }
            let sent = Instant::now();
            while !waiting.is_empty() && sent.elapsed() < PATIENCE {
                let came = self.drain(&mut seen, first);
                waiting.retain(|host| !came.contains(host));
                std::thread::yield_now();
            }
        }
        seen
    }

    /// Takes what has arrived everywhere; whose markers since `first` were among it.
    fn drain(&mut self, seen: &mut Vec<Seen>, first: u16) -> Vec<Host> {
        let mut marked = Vec::new();
        for port in &mut self.ports {
            while let Some(frame) = port.read() {
                match number_of_marker(&frame) {
                    Some(number) if number.wrapping_sub(first) < 1 << 15 => marked.push(port.host),
                    Some(_) => {}
                    None => seen.push(Seen { at: port.host, frame }),
                }
            }
        }
        marked
    }

    fn port(&mut self, host: Host) -> &mut Port {
        self.ports.iter_mut().find(|port| port.host == host).unwrap()
    }

    /// Frames that it has dropped, by reason; none of Linux, which does not say.
    pub fn drops(&self) -> BTreeMap<String, u64> {
        let mut drops = BTreeMap::new();
        for (reason, frames) in self.daemons.iter().flat_map(Daemon::drops) {
            *drops.entry(reason).or_default() += frames;
        }
        drops
    }
}

impl Port {
    fn open(host: Host) -> Self {
        Self { host, link: must(Link::open(&format!("end{}", host.0), Duration::ZERO)) }
    }

    fn write(&mut self, frame: &[u8]) {
        self.link.send(frame).unwrap_or_else(|error| {
            panic!("a frame of {} bytes does not leave {:?}: {error}", frame.len(), self.host)
        });
    }

    fn read(&mut self) -> Option<Vec<u8>> {
        match self.link.receive() {
            Ok(frame) => frame.map(<[u8]>::to_vec),
            Err(error) => panic!("receiving at {:?}: {error}", self.host),
        }
    }
}

fn marker(from: Host, to: Host, number: u16) -> Vec<u8> {
    let ([a, b], [c, d]) = (MARKER.to_be_bytes(), number.to_be_bytes());
    frames::icmp(Way { from, to, v6: false }, 13, 0, [a, b, c, d], &[0; 12])
}

fn number_of_marker(frame: &[u8]) -> Option<u16> {
    let icmp = (frame.get(12..14)? == [8, 0] && frame.get(23)? == &1).then(|| frame.get(34..42))??;
    let [13, 0, _, _, a, b, c, d] = *icmp else { return None };
    (u16::from_be_bytes([a, b]) == MARKER).then(|| u16::from_be_bytes([c, d]))
}

/// Keeps this thread on the core it is on: what it sends is then carried in the order in which it sends it.
pub fn stay_on_one_core() {
    let core = nix::sched::sched_getcpu().unwrap();
    let mut set = CpuSet::new();
    set.set(core).unwrap();
    sched_setaffinity(Pid::from_raw(0), &set).unwrap();
}
