//! What is compared: a machine with three ports that carries frames between them. Linux's bridge with its conntrack and
//! iptables, and eastgate with each of its dataplanes, get the same frames one after another; after each a marker is
//! sent that every one of them carries on its slowest path, so that what has not come out before it never will.

use std::{
    io,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use pnet::datalink::{self, Channel, Config, DataLinkReceiver, DataLinkSender};

use crate::{
    common::{
        BOUND, Daemon, Space, World,
        config::{Endpoint, Host as Vtep, Tenant, configuration},
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
    /// Not in Linux
    daemon: Option<Daemon>,
}

/// The far end of one of its ports.
struct Port {
    host: Host,
    sender: Box<dyn DataLinkSender>,
    receiver: Box<dyn DataLinkReceiver>,
}

/// What came out after a frame had gone in.
#[derive(Clone, Debug)]
pub struct Seen {
    /// At which machine
    pub at: Host,
    pub frame: Vec<u8>,
}

const HOSTS: [Host; 3] = [frames::A, frames::B, frames::C];

/// Everything that is compared, in one world. Frames are forged in a namespace of their own for each.
pub fn all(world: &mut World) -> Vec<Device> {
    vec![linux(world), eastgate(world, "ebpf"), eastgate(world, "userspace")]
}

fn cables(world: &mut World, name: &str) -> (Space, Space) {
    let (device, ends) = (world.space(name), world.space(&format!("{name}-ends")));
    for host in HOSTS {
        let number = host.0;
        world.cable(
            (&device, &format!("port{number}")),
            (&ends, &format!("end{number}")),
            frames::MTU as u16,
        );
        ends.ip(&format!("link set end{number} address 02:00:00:00:00:{number:02x}"));
        // Frames are as they are written: no device is to merge, cut or finish anything.
        for end in [(&device, "port"), (&ends, "end")] {
            let port = format!("{}{number}", end.1);
            ethtool(end.0, &port);
        }
    }
    (device, ends)
}

fn ethtool(space: &Space, device: &str) {
    let mut command = space.command("ethtool");
    command.args(["-K", device, "tx", "off", "gro", "off", "gso", "off", "tso", "off"]);
    let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
}

/// Linux: a bridge whose packets go through iptables, with strict TCP tracking.
fn linux(world: &mut World) -> Device {
    let (machine, ends) = cables(world, "linux");
    machine.ip("link add br0 type bridge mcast_snooping 0");
    machine.ip("link set br0 up");
    for host in HOSTS {
        machine.ip(&format!("link set port{} master br0", host.0));
        machine.bridge(&format!("fdb add 02:00:00:00:00:{:02x} dev port{0} master static", host.0));
    }
    if !std::path::Path::new("/proc/sys/net/bridge").exists() {
        let _ = Command::new("modprobe").arg("br_netfilter").status();
    }
    for family in ["iptables", "ip6tables"] {
        machine.set(&format!("net/bridge/bridge-nf-call-{family}"), "1");
        let icmp = if family == "iptables" { "icmp" } else { "ipv6-icmp" };
        for rule in [
            "-P FORWARD DROP".to_owned(),
            "-A FORWARD -m conntrack --ctstate INVALID -j DROP".to_owned(),
            "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT".to_owned(),
            format!("-A FORWARD -p tcp --dport {TCP_OPEN} -m conntrack --ctstate NEW -j ACCEPT"),
            format!("-A FORWARD -p udp --dport {UDP_OPEN} -m conntrack --ctstate NEW -j ACCEPT"),
            format!("-A FORWARD -p {icmp} -m conntrack --ctstate NEW -j ACCEPT"),
            "-A FORWARD -p 132 -j ACCEPT".to_owned(),
            "-A FORWARD -p 47 -j ACCEPT".to_owned(),
        ] {
            run(machine.command(family).args(rule.split(' ')));
        }
    }
    machine.set("net/netfilter/nf_conntrack_tcp_loose", "0");
    Device::open("Linux", &ends, None)
}

/// eastgate on one host, with the same services.
fn eastgate(world: &mut World, dataplane: &'static str) -> Device {
    let (machine, ends) = cables(world, dataplane);
    let nowhere = world.space(&format!("{dataplane}-underlay"));
    world.cable((&machine, "underlay0"), (&nowhere, "underlay0"), 1700);
    machine.ip("addr add 192.0.2.1/24 dev underlay0");
    let ports = HOSTS.map(|host| format!("port{}", host.0));
    let endpoints: Vec<_> = ["a", "b", "c"]
        .into_iter()
        .zip(&ports)
        .zip(HOSTS)
        .map(|((name, port), host)| Endpoint { name, host: dataplane, port: Some(port), number: host.0 })
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
    let text = configuration(&[Vtep::new(dataplane, "192.0.2.1")], &[tenant]);
    let config = world.write(&format!("{dataplane}.toml"), &text);
    let options = ["--dataplane", dataplane, "--workers", "1"];
    let daemon = Daemon::start(world, &machine, &config, dataplane, &options);
    let name = if dataplane == "ebpf" { "eastgate (eBPF)" } else { "eastgate (userspace)" };
    Device::open(name, &ends, Some(daemon))
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Device {
    fn open(name: &'static str, ends: &Space, daemon: Option<Daemon>) -> Self {
        let ports = ends.enter(|| HOSTS.map(Port::open).into_iter().collect());
        let mut device = Self { name, ports, marker: 0, daemon };
        // A bridge's port forwards a moment after it came up.
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
    fn settle(&mut self, from: Host) -> Vec<Seen> {
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
    pub fn drops(&self) -> std::collections::BTreeMap<String, u64> {
        self.daemon.as_ref().map(Daemon::drops).unwrap_or_default()
    }
}

impl Port {
    fn open(host: Host) -> Self {
        let name = format!("end{}", host.0);
        let interface = datalink::interfaces().into_iter().find(|interface| interface.name == name).unwrap();
        let config =
            Config { read_timeout: Some(Duration::ZERO), read_buffer_size: 1 << 17, ..Config::default() };
        match datalink::channel(&interface, config).unwrap() {
            Channel::Ethernet(sender, receiver) => Self { host, sender, receiver },
            _ => panic!("{name} is no Ethernet device"),
        }
    }

    fn write(&mut self, frame: &[u8]) {
        self.sender.send_to(frame, None).unwrap().unwrap_or_else(|error| {
            panic!("a frame of {} bytes does not leave {:?}: {error}", frame.len(), self.host)
        });
    }

    fn read(&mut self) -> Option<Vec<u8>> {
        match self.receiver.next() {
            Ok(frame) => Some(frame.to_vec()),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => None,
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
