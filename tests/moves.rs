//! A machine goes to another host while it serves: real TCP in namespaces, in both dataplanes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
};

use common::{Daemon, Space, World, bind_tcp, wait_for};

const SERVER: ([u8; 4], u16) = ([10, 1, 0, 21], 5432);
const SOME: u64 = 1 << 20;

/// The server opens nothing: it pushes into a connection that the client has begun.
const CONFIG: &str = r#"
[tenant.acme.network.lan]
vni = 5001
subnets = ["10.1.0.0/24"]
[tenant.acme.group.client]
egress = [{ proto = "tcp", ports = 5432, to = "group:server" }]
[tenant.acme.group.server]
ingress = [{ proto = "tcp", ports = 5432, from = "group:client" }]
[tenant.acme.endpoint.client]
network = "lan"
host = "alpha"
port = "veth-client"
mac = "02:00:00:00:00:11"
addresses = ["10.1.0.17"]
groups = ["client"]
[tenant.acme.endpoint.server]
network = "lan"
host = "beta"
port = "veth-server"
mac = "02:00:00:00:00:21"
addresses = ["10.1.0.21"]
groups = ["server"]
"#;

/// Three hosts on one switch, the client at alpha, the server at beta.
struct Stage {
    world: World,
    hosts: [Space; 3],
    server: Space,
    client: Space,
    config: PathBuf,
}

const NAMES: [&str; 3] = ["alpha", "beta", "gamma"];

impl Stage {
    fn new() -> Option<Self> {
        let mut world = World::new()?;
        let wire = world.space("wire");
        wire.ip("link add br0 type bridge");
        wire.ip("link set br0 up");
        let hosts = NAMES.map(|name| world.space(name));
        let mut text = String::new();
        for (number, (name, host)) in (1..).zip(NAMES.iter().zip(&hosts)) {
            world.cable((host, "underlay0"), (&wire, name), 1700);
            wire.ip(&format!("link set {name} master br0"));
            host.ip(&format!("addr add 192.0.2.{number}/24 dev underlay0"));
            text += &format!("[host.{name}]\nvtep = \"192.0.2.{number}\"\ndevice = \"underlay0\"\n");
        }
        let (client, server) = (world.space("client"), world.space("server"));
        let config = world.write("eastgate.toml", &(text + CONFIG));
        let stage = Self { world, hosts, server, client, config };
        stage.plug(0, "veth-client", &stage.client, 17);
        stage.plug(1, "veth-server", &stage.server, 21);
        Some(stage)
    }

    fn plug(&self, host: usize, port: &str, machine: &Space, number: u8) {
        self.world.cable((&self.hosts[host], port), (machine, "eth0"), 1500);
        let mac = if number == 17 { "11" } else { "21" };
        machine.ip(&format!("link set eth0 address 02:00:00:00:00:{mac}"));
        machine.ip(&format!("addr add 10.1.0.{number}/24 dev eth0"));
    }
}

/// A server that pushes numbers, and a client that counts those that came in order.
struct Push {
    received: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Push {
    fn start(stage: &Stage) -> Self {
        let (received, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let listener = stage.server.enter(|| bind_tcp(SocketAddr::from(SERVER)));
        let ended = stop.clone();
        std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            let mut next = 0u64;
            while !ended.load(SeqCst) {
                let block: Vec<u8> = (next..next + 128).flat_map(u64::to_be_bytes).collect();
                next += 128;
                if peer.write_all(&block).is_err() {
                    break;
                }
            }
        });
        let mut stream = stage.client.enter(|| TcpStream::connect(SocketAddr::from(SERVER)).unwrap());
        let counted = received.clone();
        std::thread::spawn(move || {
            let mut number = [0; 8];
            while stream.read_exact(&mut number).is_ok() {
                assert_eq!(u64::from_be_bytes(number), counted.load(SeqCst), "in order");
                counted.fetch_add(1, SeqCst);
            }
        });
        Self { received, stop }
    }

    fn goes_on(&self, when: &str) {
        let before = self.received.load(SeqCst);
        wait_for(&format!("the stream goes on {when}"), || self.received.load(SeqCst) > before + SOME / 8);
    }
}

impl Drop for Push {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
    }
}

fn a_stream_survives(dataplane: &str) {
    let Some(stage) = Stage::new() else { return };
    let daemons: Vec<Daemon> = NAMES
        .iter()
        .zip(&stage.hosts)
        .map(|(name, host)| {
            Daemon::start(&stage.world, host, &stage.config, name, &["--dataplane", dataplane])
        })
        .collect();
    let push = Push::start(&stage);
    push.goes_on("before it moves");
    // The new host, then the others, and between them the machine itself; and back in another order.
    for (from, to, order) in [("beta", "gamma", [2, 0, 1]), ("gamma", "beta", [0, 2, 1])] {
        let text = std::fs::read_to_string(&stage.config).unwrap();
        let server =
            |host: &str| format!("[tenant.acme.endpoint.server]\nnetwork = \"lan\"\nhost = \"{host}\"");
        std::fs::write(&stage.config, text.replace(&server(from), &server(to))).unwrap();
        for (step, host) in order.into_iter().enumerate() {
            let output = daemons[host].run(&["reload"]);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            if step == 1 {
                // Its sockets live on; its cable is another one.
                stage.server.ip("link del eth0");
                let to = NAMES.iter().position(|name| *name == to).unwrap();
                stage.plug(to, "veth-server", &stage.server, 21);
            }
        }
        push.goes_on(&format!("at {to}"));
    }
}

#[test]
fn a_stream_survives_moves_with_the_fast_path() {
    a_stream_survives("ebpf");
}

#[test]
fn a_stream_survives_moves_in_userspace() {
    a_stream_survives("userspace");
}
