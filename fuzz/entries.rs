//! What is fuzzed: each entry takes bytes that anybody may send, and must not panic. `cargo fuzz` calls them through
//! `fuzz_targets/`, and `tests/fuzz.rs` with what is in `corpus/`, as ordinary tests.

use std::{net::IpAddr, sync::Arc, time::Duration};

use eastgate_config::{Config, load_str};
use eastgate_conntrack::{
    flow::Direction,
    helper::{
        FIRST_PORT,
        ftp::{Dialogue, Said},
        tftp,
    },
};
use eastgate_dataplane::{
    attachments::Attachments,
    pipeline::{Pipeline, batch::Batch, shared::Shared},
    snapshot::{Snapshot, state::StateRegistry},
};
use eastgate_vtep::offload;
use eastgate_wire::{Addr, AttachmentId, Frame, Instant, Offload, View, VtepAddr};

/// An entry, and its name
pub type Entry = (&'static str, fn(&[u8]));

/// All of them.
pub const ALL: &[Entry] = &[
    ("frame", frame),
    ("decapsulation", decapsulation),
    ("neighbors", neighbors),
    ("fragments", fragments),
    ("helpers", helpers),
    ("config", config),
    ("control", control),
];

/// What a host has that all of the path is reached on: two endpoints here and one behind another VTEP, one that is open, and a
/// router.
const HOST: &str = r#"
[host.alpha]
vtep = "192.0.2.1"
device = "eth0"
[host.beta]
vtep = "192.0.2.2"
device = "eth0"
runs = "vxlan"
[tenant.acme.network.lan]
vni = 5001
subnets = ["10.1.0.0/24", "fd00:1::/64"]
vlan_aware = true
learning = true
unknown_destinations = "flood"
unknown_neighbors = "flood"
[tenant.acme.group.all]
ingress = [{ from = "any" }]
egress = [{ to = "any" }]
[tenant.acme.endpoint.web1]
network = "lan"
host = "alpha"
port = "veth-web1"
mac = "02:00:00:00:00:11"
addresses = ["10.1.0.11", "fd00:1::11"]
groups = ["all"]
[tenant.acme.endpoint.open]
network = "lan"
host = "alpha"
port = "veth-open"
mac = "02:00:00:00:00:12"
addresses = ["10.1.0.12", "fd00:1::12"]
groups = ["all"]
port_security = false
[tenant.acme.endpoint.db1]
network = "lan"
host = "beta"
mac = "02:00:00:00:00:21"
addresses = ["10.1.0.21", "fd00:1::21"]
groups = ["all"]
routes = ["10.9.0.0/16"]
"#;

/// Room in front of a frame, as workers leave it
const HEAD_ROOM: usize = 64;

/// Longer input is not looked at: it is many frames, of which some are enough.
const MOST: usize = 64;

/// A daemon's path without its devices.
struct Host {
    shared: Shared,
    now: Instant,
}

impl Host {
    fn new() -> Self {
        let config: Arc<Config> = load_str("fuzz.toml", HOST).expect("the host's own configuration is right");
        let states = Arc::new(StateRegistry::new(config.limits));
        let snapshot = Snapshot::compile(&config, "alpha", None, &mut Attachments::default(), &states);
        Self { shared: Shared::new(snapshot.expect("it compiles"), states, 1), now: Instant::from_secs(1000) }
    }

    /// Frames from the port with this number, or datagrams from beta.
    fn takes(&mut self, port: Option<u8>, bytes: &[u8]) {
        self.now = self.now + Duration::from_millis(7);
        let snapshot = self.shared.snapshot_arc();
        let mut pipeline = Pipeline::new(&self.shared, &snapshot, 0);
        let mut buffer = [&[0; HEAD_ROOM][..], bytes].concat();
        let end = buffer.len();
        let mut frame = Frame::new(&mut buffer, HEAD_ROOM, end, Offload::default());
        let mut out = Batch::default();
        let _ = match port {
            Some(port) => {
                pipeline.handle_tenant(AttachmentId(u32::from(port % 3)), &mut frame, self.now, &mut out)
            }
            None => {
                let beta = VtepAddr(IpAddr::from([192, 0, 2, 2]));
                pipeline.handle_underlay(
                    beta,
                    bytes.first().copied().unwrap_or(0),
                    &mut frame,
                    self.now,
                    &mut out,
                )
            }
        };
    }
}

/// One frame after the other: a byte that says where it comes from, its length in two bytes, and the frame.
fn frames(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut frames = Vec::new();
    while let [from, high, low, rest @ ..] = bytes
        && frames.len() < MOST
    {
        let (frame, rest) = rest.split_at(rest.len().min(usize::from(u16::from_be_bytes([*high, *low]))));
        frames.push((*from, frame));
        bytes = rest;
    }
    frames
}

/// The parser of frames, and what reads them without a state of its own.
pub fn frame(bytes: &[u8]) {
    let Ok(view) = View::parse(bytes) else { return };
    let mut copy = bytes.to_vec();
    let len = copy.len();
    let mut frame = Frame::new(&mut copy, 0, len, Offload::default());
    if let Some(ip) = view.ip() {
        let _ = offload::checksum_fits(&frame, ip);
    }
    offload::note_unfinished_checksum(&mut frame, &view);
    offload::note_uncut(&mut frame, &view, 1450);
    let _ = offload::finish_checksum(&mut frame);
}

/// Datagrams from another VTEP.
pub fn decapsulation(bytes: &[u8]) {
    let mut host = Host::new();
    host.takes(None, bytes);
    for (_, datagram) in frames(bytes) {
        host.takes(None, datagram);
    }
}

/// ARP and neighbour discovery, from ports and from the tunnel.
pub fn neighbors(bytes: &[u8]) {
    let mut host = Host::new();
    if let Ok(view) = View::parse(bytes) {
        let _ = eastgate_steering::claim(bytes, &view);
        let _ = eastgate_steering::question(bytes, &view);
        let _ = eastgate_steering::choice(bytes, &view);
    }
    host.takes(Some(0), bytes);
    host.takes(Some(1), bytes);
    // VNI 5001
    host.takes(None, &[&[8, 0, 0, 0, 0, 0x13, 0x89, 0][..], bytes].concat());
}

/// Frames one after the other, of which some are fragments.
pub fn fragments(bytes: &[u8]) {
    let mut host = Host::new();
    for (from, frame) in frames(bytes) {
        host.takes(if from & 3 == 3 { None } else { Some(from & 3) }, frame);
    }
}

/// What both sides of FTP say, segment by segment (a byte of which the lowest bit says who, and the others how far behind the last one
/// it begins), and requests of TFTP.
pub fn helpers(bytes: &[u8]) {
    let ends = [Addr::v4([10, 1, 0, 11]), Addr::v4([10, 1, 0, 21])];
    let (mut dialogue, mut next) = (Dialogue::default(), [u32::MAX - 40, 7]);
    for (from, payload) in frames(bytes) {
        let by = if from & 1 == 0 { Direction::Original } else { Direction::Reply };
        // Mostly in order; some again, some too early.
        let from = next[by.index()].wrapping_add_signed(i32::from((from as i8) >> 1));
        let said = Said { by, from, ack: Some(next[by.reversed().index()]), payload };
        let heard = dialogue.hear(&said, ends);
        assert!(heard.announced.is_none_or(|announced| announced.port >= FIRST_PORT));
        next[by.index()] = from.wrapping_add(payload.len() as u32);
        let _ = tftp::announced(payload, 40_000);
    }
}

/// A configuration file.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Err(diagnostics) = load_str("fuzz.toml", text) {
        let _ = diagnostics.render(false);
    }
}

/// A request of the HTTP API (a line with its method and its target, then its body), and an answer.
pub fn control(bytes: &[u8]) {
    let _ = serde_json::from_slice::<eastgate_api::Status>(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (line, body) = text.split_once('\n').unwrap_or((text, ""));
    let (method, target) = line.split_once(' ').unwrap_or((line, ""));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if let Ok(route) = eastgate_api::find(method, path) {
        let _ = route.read(eastgate_api::Body { query, bytes: body.as_bytes() });
    }
}
