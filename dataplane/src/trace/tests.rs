use std::net::{IpAddr, SocketAddr};

use eastgate_api::Hex;
use eastgate_config::load_str;
use eastgate_conntrack::{
    expect::Related,
    flow::{Count, Direction, FlowState},
};
use eastgate_wire::{Helper, Vni};

use super::*;
use crate::{attachments::Attachments, pipeline::track::receiver_at, snapshot::state::StateRegistry};

const CONFIG: &str = r#"
[host.alpha]
vtep = "172.31.0.1"
device = "eth0"
[host.beta]
vtep = "172.31.0.2"
device = "eth0"
[tenant.acme.network.app]
vni = 5001
subnets = ["10.1.0.0/24", "fd00:1::/64"]
[tenant.acme.group.web]
egress = [{ proto = "tcp", ports = 5432, to = "group:db" }, { proto = "udp", ports = 53, to = "any" }, { proto = "icmp", to = "any" }]
ingress = [{ proto = "icmp", from = "any" }]
[tenant.acme.group.db]
ingress = [{ proto = "tcp", ports = 5432, from = "any" }, { proto = "udp", ports = 53, from = "any" }, { proto = "icmp", from = "any" }]
[tenant.acme.endpoint.web1]
network = "app"
host = "alpha"
port = "p1"
mac = "02:00:00:00:00:11"
addresses = ["10.1.0.11", "fd00:1::11"]
groups = ["web"]
allowed_pairs = [{ address = "10.1.0.100" }]
[tenant.acme.endpoint.db1]
network = "app"
host = "beta"
port = "p1"
mac = "02:00:00:00:00:21"
addresses = ["10.1.0.21", "fd00:1::21"]
groups = ["db"]
[tenant.acme.endpoint.gw]
network = "app"
host = "beta"
port = "p2"
mac = "02:00:00:00:00:01"
addresses = ["10.1.0.1", "fd00:1::1"]
groups = ["web"]
router = true
dhcp_server = true
allowed_pairs = [{ address = "10.9.0.0/24" }]
"#;

fn vni() -> Vni {
    Vni::new_checked(5001).unwrap()
}

fn snapshot_of(host: &str) -> Snapshot {
    let config = load_str("trace.toml", CONFIG).unwrap();
    let states = StateRegistry::new(config.limits);
    Snapshot::compile(&config, host, None, &mut Attachments::default(), &states).unwrap()
}

/// `tcp 10.1.0.11:4000 10.1.0.21:22`, or with an ICMP type behind.
fn request(text: &str) -> TraceRequest {
    let words: Vec<&str> = text.split(' ').collect();
    let side = |text: &str| match text.parse::<SocketAddr>() {
        Ok(both) => (both.ip(), both.port()),
        Err(_) => (text.parse::<IpAddr>().unwrap(), 0),
    };
    let ((src, sport), (dst, dport)) = (side(words[1]), side(words[2]));
    TraceRequest {
        vni: vni(),
        frame: None,
        proto: names::protocol_number(words[0]).unwrap(),
        src: src.into(),
        dst: dst.into(),
        sport,
        dport,
        icmp: words.get(3).map(|kind| (kind.parse().unwrap(), 0)),
        from: words.get(4).map(|name| (*name).to_owned()),
    }
}

fn now() -> Instant {
    Instant::from_secs(1000)
}

fn live(opened: &str, state: FlowState, epoch: u32) -> FlowInfo {
    let TraceRequest { proto, src, dst, sport, dport, .. } = request(opened);
    FlowInfo {
        key: FlowKey { src, dst, vni: vni(), sport, dport, proto, leg: Leg::DIRECT },
        state,
        replied: state != FlowState::Unreplied,
        offloaded: false,
        epoch,
        egress_rule: 0,
        ingress_rule: 0,
        header: eastgate_wire::view::HeaderBits::default(),
        helper: None,
        related: None,
        query: None,
        original: Count::default(),
        reply: Count::default(),
        created: now(),
        last_seen: now(),
        deadline: now() + std::time::Duration::from_secs(60),
        counted: Count::default(),
    }
}

fn verdict(host: &str, text: &str, flows: &[FlowInfo]) -> String {
    let live = Live { flows: &|_| flows.to_vec(), ..Live::NOTHING };
    let report = trace(&snapshot_of(host), &request(text), live, now()).unwrap();
    if !matches!(&*report.verdict, "forwarded" | "answered") {
        assert!(report.steps.iter().any(|step| step.result == "drop"), "{text}: {report:#?}");
    }
    report.verdict
}

const PACKETS: [(&str, &str); 20] = [
    ("tcp 10.1.0.11:4000 10.1.0.21:5432", "forwarded"),
    ("tcp 10.1.0.11:4000 10.1.0.21:22", "egress-denied"),
    ("tcp 10.1.0.21:5432 10.1.0.11:4000", "egress-denied"),
    // A virtual address
    ("udp 10.1.0.100:4000 10.1.0.21:53", "forwarded"),
    // What is behind a machine that forwards
    ("icmp 10.1.0.11 10.9.0.5", "forwarded"),
    ("icmp 10.9.0.5 10.1.0.11", "forwarded"),
    ("icmp 10.1.0.11 10.1.0.55", "unknown-destination"),
    // DHCP, router and neighbour messages are no rule's business.
    ("udp 0.0.0.0:68 255.255.255.255:67", "forwarded"),
    ("udp 10.1.0.1:67 255.255.255.255:68", "forwarded"),
    ("udp 10.1.0.11:67 255.255.255.255:68", "dhcp-server-guard"),
    ("icmpv6 fe80::ff:fe00:11 ff02::2 133", "forwarded"),
    ("icmpv6 fe80::ff:fe00:1 ff02::1 134", "forwarded"),
    ("icmpv6 fe80::ff:fe00:11 ff02::1 134", "ra-guard"),
    ("icmpv6 fd00:1::11 ff02::1:ff00:21 135", "answered"),
    ("icmpv6 fd00:1::11 ff02::1:ff00:99 135", "neighbor-unknown"),
    // Nobody asked, and nothing failed.
    ("icmp 10.1.0.21 10.1.0.11 0", "icmp-unsolicited"),
    ("icmp 10.1.0.21 10.1.0.11 3", "icmp-unrelated"),
    ("icmpv6 fd00:1::21 fd00:1::11 129", "icmp-unsolicited"),
    ("icmpv6 fd00:1::21 fd00:1::11 1", "icmp-unrelated"),
    ("udp 10.1.0.11:4000 224.0.0.251:53", "multicast-refused"),
];

#[test]
fn verdicts_are_those_of_the_path() {
    for (packet, expected) in PACKETS {
        for host in ["alpha", "beta"] {
            assert_eq!(verdict(host, packet, &[]), expected, "{packet} on {host}");
        }
    }
}

/// The report about a frame.
fn walked(snapshot: &Snapshot, frame: &[u8], flows: &[FlowInfo]) -> TraceReport {
    let live = Live { flows: &|_| flows.to_vec(), ..Live::NOTHING };
    let asked = TraceRequest { frame: Some(Hex(frame.to_vec())), ..request("udp 0.0.0.0 0.0.0.0") };
    trace(snapshot, &asked, live, now()).unwrap()
}

/// A frame is told about as a packet that is made of what stands in it.
#[test]
fn a_frame_is_the_packet_that_it_carries() {
    for (packet, host) in PACKETS.iter().flat_map(|(packet, _)| ["alpha", "beta"].map(|host| (packet, host)))
    {
        let (snapshot, request) = (snapshot_of(host), request(packet));
        let network = snapshot.network(vni()).unwrap();
        let walk = Walk {
            snapshot: &snapshot,
            network,
            request: &request,
            given: None,
            now: now(),
            expected: None,
            unreplied: false,
            denied: None,
            is_live: false,
            steps: Vec::new(),
        };
        let frame = walk.shape(&walk.sender().unwrap(), None).build().unwrap();
        let made = trace(&snapshot, &request, Live::NOTHING, now()).unwrap();
        let given = walked(&snapshot, &frame, &[]);
        assert_eq!((&given.packet, &given.verdict), (&made.packet, &made.verdict), "{packet} on {host}");
        // Whose the MAC is, is no guess.
        let told = |report: &TraceReport| -> Vec<TraceStep> {
            let guess = |step: &&TraceStep| step.step == "admit" && step.result == "note";
            report.steps.iter().filter(|step| !guess(step)).cloned().collect()
        };
        assert_eq!(told(&given), told(&made), "{packet} on {host}");
    }
}

const WEB1: [u8; 6] = [2, 0, 0, 0, 0, 0x11];
const DB1: [u8; 6] = [2, 0, 0, 0, 0, 0x21];

/// What no question in words can say: other protocols, wrong senders, what is malformed, sequence numbers, fragments.
#[test]
fn a_frame_is_walked_as_it_is() {
    let snapshot = snapshot_of("alpha");
    let verdict = |frame: &[u8]| walked(&snapshot, frame, &[]).verdict;
    let arp = |mac: [u8; 6], sender: [u8; 4], target: [u8; 4]| {
        let question = etherparse::ArpEthIpv4Packet {
            operation: etherparse::ArpOperation::REQUEST,
            sender_mac: mac,
            sender_ipv4: sender,
            target_mac: [0; 6],
            target_ipv4: target,
        };
        let mut frame = Vec::new();
        etherparse::PacketBuilder::ethernet2(WEB1, [0xff; 6]).arp(question.into()).write(&mut frame).unwrap();
        frame
    };
    let asks = arp(WEB1, [10, 1, 0, 11], [10, 1, 0, 21]);
    assert_eq!(verdict(&asks), "answered");
    assert_eq!(walked(&snapshot, &asks, &[]).packet, "vni 5001 arp 10.1.0.11 -> 10.1.0.21");
    assert_eq!(verdict(&arp(WEB1, [10, 1, 0, 21], [10, 1, 0, 11])), "arp-spoofed");
    assert_eq!(verdict(&asks[..30]), "arp-malformed");
    let lldp = [&[1, 0x80, 0xc2, 0, 0, 0xe][..], &WEB1, &[0x88, 0xcc], &[0; 46]].concat();
    assert_eq!(verdict(&lldp), "link-protocol");

    let udp = |from: [u8; 6], payload: &[u8]| {
        let mut frame = Vec::new();
        let ip = etherparse::PacketBuilder::ethernet2(from, DB1).ipv4([10, 1, 0, 11], [10, 1, 0, 21], 64);
        ip.udp(4000, 53).write(&mut frame, payload).unwrap();
        frame
    };
    assert_eq!(verdict(&udp(WEB1, b"x")), "forwarded");
    // Nobody's MAC is taken for that of who has the address, which may not send with it.
    let stranger = walked(&snapshot, &udp([2, 0, 0, 0, 9, 9], b"x"), &[]);
    assert_eq!(stranger.verdict, "mac-spoofed");
    assert!(
        stranger.steps[0].text.starts_with("nobody is known to have the MAC 02:00:00:00:09:09"),
        "{stranger:#?}"
    );
    // As it is captured at the machine's own port, whose device would finish the checksum; and a large one, which it would cut.
    let mut open = udp(WEB1, b"x");
    let sum = eastgate_wire::checksum::pseudo_header(&[10, 1, 0, 11], &[10, 1, 0, 21], 17, 9).folded();
    open[14 + 20 + 6..][..2].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(verdict(&open), "forwarded");
    let mut large = Vec::new();
    let ip = etherparse::PacketBuilder::ethernet2(WEB1, DB1).ipv4([10, 1, 0, 11], [10, 1, 0, 21], 64);
    ip.tcp(4000, 5432, 1, 1000).ack(1).write(&mut large, &[0; 20_000]).unwrap();
    let flow = live(
        "tcp 10.1.0.11:4000 10.1.0.21:5432",
        FlowState::Established,
        snapshot.network(vni()).unwrap().epoch,
    );
    let sum = eastgate_wire::checksum::pseudo_header(&[10, 1, 0, 11], &[10, 1, 0, 21], 6, 20_020).folded();
    large[14 + 20 + 16..][..2].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(walked(&snapshot, &large, &[flow]).verdict, "forwarded");
    let mut wrong = udp(WEB1, b"x");
    wrong[14 + 20 + 6] ^= 0xff;
    assert_eq!(verdict(&wrong), "bad-checksum");
    assert_eq!(verdict(&udp(WEB1, b"x")[..30]), "frame-truncated");
    let mut later = udp(WEB1, &[0; 64]);
    later[14 + 7] = 1;
    let sum = eastgate_wire::checksum::update(u16::from_be_bytes([later[24], later[25]]), 0, 1);
    later[24..26].copy_from_slice(&sum.to_be_bytes());
    let waits = walked(&snapshot, &later, &[]);
    assert_eq!(waits.verdict, "waits", "{waits:#?}");
    let short = TraceRequest { frame: Some(Hex(vec![0; 13])), ..request("udp 0.0.0.0 0.0.0.0") };
    assert!(trace(&snapshot, &short, Live::NOTHING, now()).unwrap_err().contains("14 bytes"));
}

/// On a trunk the tag says whose it is and is taken off; where several have the MAC, whose address it is from says who sends; and what
/// comes from a plain VTEP may be left open as well.
#[test]
fn a_frame_comes_in_as_its_sender_has_it() {
    let shared = "allowed_pairs = [{ address = \"10.1.0.100\", mac = \"00:00:5e:00:01:33\" }]\n";
    let text = CONFIG
        .replace(
            "port = \"p1\"\nmac = \"02:00:00:00:00:11\"",
            "port = \"p1\"\nvlan = 7\nmac = \"02:00:00:00:00:11\"",
        )
        .replace("groups = [\"db\"]\n", &format!("groups = [\"db\"]\n{shared}"))
        .replace("allowed_pairs = [{ address = \"10.1.0.100\" }]\n", shared)
        + "[host.plain]\nvtep = \"172.31.0.3\"\ndevice = \"eth0\"\nruns = \"vxlan\"\n[tenant.acme.endpoint.far]\nnetwork = \"app\"\n\
           host = \"plain\"\nmac = \"02:00:00:00:00:31\"\naddresses = [\"10.1.0.31\"]\ngroups = [\"web\"]\n";
    let config = load_str("trace.toml", &text).unwrap_or_else(|found| panic!("{found}"));
    let states = StateRegistry::new(config.limits);
    let snapshot = Snapshot::compile(&config, "alpha", None, &mut Attachments::default(), &states).unwrap();
    let udp = |from: [u8; 6], to: [u8; 6], ends: [[u8; 4]; 2]| {
        let mut frame = Vec::new();
        let ip = etherparse::PacketBuilder::ethernet2(from, to).ipv4(ends[0], ends[1], 64);
        ip.udp(4000, 53).write(&mut frame, b"x").unwrap();
        frame
    };
    let plain = udp(WEB1, DB1, [[10, 1, 0, 11], [10, 1, 0, 21]]);
    let tagged = |kind: [u8; 2], vlan: u8| [&plain[..12], &kind, &[0, vlan], &plain[12..]].concat();
    let verdict = |frame: &[u8]| walked(&snapshot, frame, &[]).verdict;
    assert_eq!(verdict(&tagged([0x81, 0], 7)), "forwarded");
    assert_eq!(verdict(&tagged([0x81, 0], 8)), "vlan-tagged");
    assert_eq!(verdict(&tagged([0x88, 0xa8], 7)), "vlan-tagged");

    let virtual_mac = [0, 0, 0x5e, 0, 1, 0x33];
    let told = walked(&snapshot, &udp(virtual_mac, DB1, [[10, 1, 0, 100], [10, 1, 0, 1]]), &[]);
    assert!(
        told.steps[0].text.starts_with("2 endpoints may send this; --from NAME says who does"),
        "{told:#?}"
    );

    let far = [2, 0, 0, 0, 0, 0x31];
    let mut open = udp(far, DB1, [[10, 1, 0, 31], [10, 1, 0, 21]]);
    let sum = eastgate_wire::checksum::pseudo_header(&[10, 1, 0, 31], &[10, 1, 0, 21], 17, 9).folded();
    open[14 + 20 + 6..][..2].copy_from_slice(&sum.to_be_bytes());
    let told = walked(&snapshot, &open, &[]);
    assert_eq!(told.verdict, "forwarded", "{told:#?}");
}

/// A segment in the middle of a connection is of it, whatever it has counted so far.
#[test]
fn a_segment_of_a_connection_is_in_its_window() {
    let opened = "tcp 10.1.0.11:4000 10.1.0.21:5432";
    for (host, back) in [("alpha", false), ("beta", false), ("alpha", true), ("beta", true)] {
        let snapshot = snapshot_of(host);
        let flow = live(opened, FlowState::Established, snapshot.network(vni()).unwrap().epoch);
        let mut ends = [(WEB1, [10, 1, 0, 11], 4000), (DB1, [10, 1, 0, 21], 5432)];
        if back {
            ends.reverse();
        }
        let [from, to] = ends;
        let mut frame = Vec::new();
        let ip = etherparse::PacketBuilder::ethernet2(from.0, to.0).ipv4(from.1, to.1, 64);
        ip.tcp(from.2, to.2, 0xffff_fff0, 4000).ack(0x1234_5678).write(&mut frame, &[7; 100]).unwrap();
        assert_eq!(walked(&snapshot, &frame, &[flow]).verdict, "forwarded", "{host} {back}");
    }
}

/// An error is about the very packet that it quotes, and a reply about the question with its identifier, whatever else there is.
#[test]
fn a_message_about_a_flow_finds_that_flow() {
    let snapshot = snapshot_of("beta");
    let epoch = snapshot.network(vni()).unwrap().epoch;
    let flow = |opened: &str| live(opened, FlowState::Established, epoch);
    let flows = [
        flow("tcp 10.1.0.11:4001 10.1.0.21:5432"),
        flow("tcp 10.1.0.11:4000 10.1.0.21:5432"),
        flow("icmp 10.1.0.11:77 10.1.0.21:77"),
        flow("icmp 10.1.0.11:78 10.1.0.21:78"),
    ];
    let walked = |frame: &[u8]| {
        let found = |key: &FlowKey| {
            let all = flows.iter().filter(|flow| flow.key.proto == key.proto);
            let between = |flow: &&FlowInfo| [flow.key.src, flow.key.dst].contains(&key.src);
            all.filter(between).copied().collect()
        };
        let asked = TraceRequest { frame: Some(Hex(frame.to_vec())), ..request("udp 0.0.0.0 0.0.0.0") };
        trace(&snapshot, &asked, Live { flows: &found, ..Live::NOTHING }, now()).unwrap()
    };
    // db1 cannot send on what web1 sent, deep in the connection.
    let mut quoted = Vec::new();
    let ip = etherparse::PacketBuilder::ipv4([10, 1, 0, 11], [10, 1, 0, 21], 1);
    ip.tcp(4000, 5432, 0xdead_beef, 4000).ack(7).write(&mut quoted, &[]).unwrap();
    let error = |quoted: &[u8]| {
        let mut frame = Vec::new();
        let ip = etherparse::PacketBuilder::ethernet2(DB1, WEB1).ipv4([10, 1, 0, 21], [10, 1, 0, 11], 64);
        ip.icmpv4(etherparse::Icmpv4Type::TimeExceeded(
            etherparse::icmpv4::TimeExceededCode::TtlExceededInTransit,
        ))
        .write(&mut frame, quoted)
        .unwrap();
        frame
    };
    assert_eq!(walked(&error(&quoted)).verdict, "forwarded", "{:#?}", walked(&error(&quoted)));
    quoted[21] ^= 4;
    assert_eq!(walked(&error(&quoted)).verdict, "icmp-unrelated");
    for (id, verdict) in [(77, "forwarded"), (78, "forwarded"), (79, "icmp-unsolicited")] {
        let mut frame = Vec::new();
        let ip = etherparse::PacketBuilder::ethernet2(DB1, WEB1).ipv4([10, 1, 0, 21], [10, 1, 0, 11], 64);
        ip.icmpv4_echo_reply(id, 1).write(&mut frame, b"x").unwrap();
        assert_eq!(walked(&frame).verdict, verdict, "{id}");
    }
}

#[test]
fn replies_of_live_flows_pass() {
    for (opened, state, reply) in [
        ("udp 10.1.0.11:4000 10.1.0.21:53", FlowState::Unreplied, "udp 10.1.0.21:53 10.1.0.11:4000"),
        ("udp 10.1.0.11:4000 10.1.0.21:53", FlowState::Replied, "udp 10.1.0.21:53 10.1.0.11:4000"),
        ("tcp 10.1.0.11:4000 10.1.0.21:5432", FlowState::Established, "tcp 10.1.0.21:5432 10.1.0.11:4000"),
        ("icmp 10.1.0.11:77 10.1.0.21:77", FlowState::Unreplied, "icmp 10.1.0.21 10.1.0.11 0"),
        ("udp 10.1.0.11:4000 10.1.0.21:53", FlowState::Unreplied, "icmp 10.1.0.21 10.1.0.11 3"),
    ] {
        for host in ["alpha", "beta"] {
            let flow = live(opened, state, snapshot_of(host).network(vni()).unwrap().epoch);
            assert_eq!(verdict(host, reply, &[flow]), "forwarded", "{reply} of {opened} on {host}");
            assert_ne!(verdict(host, reply, &[]), "forwarded", "{reply} of nothing");
        }
    }
    // Nobody has replied: the next host may have refused what this one let out.
    let (opened, epoch) =
        ("udp 10.1.0.11:4000 10.1.0.1:53", snapshot_of("alpha").network(vni()).unwrap().epoch);
    assert_eq!(verdict("alpha", opened, &[live(opened, FlowState::Unreplied, epoch)]), "ingress-denied");
    assert_eq!(verdict("alpha", opened, &[live(opened, FlowState::Replied, epoch)]), "forwarded");
    assert_eq!(verdict("beta", opened, &[live(opened, FlowState::Unreplied, epoch)]), "forwarded");
    // Of a connection that is being opened, too: whether one that the policy lets through, or one that it does not.
    let half_open = |opened: &str| FlowInfo { replied: false, ..live(opened, FlowState::SynSent, epoch) };
    let allowed = "tcp 10.1.0.11:4000 10.1.0.21:5432";
    assert_eq!(verdict("alpha", allowed, &[half_open(allowed)]), "forwarded");
    let denied = "tcp 10.1.0.11:4000 10.1.0.1:5432";
    assert_eq!(verdict("alpha", denied, &[half_open(denied)]), verdict("alpha", denied, &[]));
    let mut answered = half_open(allowed);
    answered.reply.packets = 1;
    assert_eq!(verdict("alpha", allowed, &[answered]), "forwarded");
    // What another policy let in is decided again.
    let old = live("tcp 10.1.0.11:4000 10.1.0.21:22", FlowState::Established, 0);
    assert_ne!(verdict("alpha", "tcp 10.1.0.21:22 10.1.0.11:4000", &[old]), "forwarded");
}

#[test]
fn a_trace_leaves_no_trace() {
    let snapshot = snapshot_of("alpha");
    let network = snapshot.network(vni()).unwrap();
    for _ in 0..1000 {
        let report =
            trace(&snapshot, &request("udp 10.1.0.11:4000 10.1.0.21:53"), Live::NOTHING, now()).unwrap();
        assert_eq!(report.verdict, "forwarded");
    }
    assert!(network.counts.is_untouched());
    assert!(
        network
            .endpoints
            .iter()
            .all(|end| end.state.tx_frames.load(std::sync::atomic::Ordering::Relaxed) == 0)
    );
}

/// Numbers of endpoints, groups and rules that were kept from one configuration to the next say what fresh ones would.
#[test]
fn numbers_that_were_kept_name_the_same() {
    let more = "\n[tenant.acme.group.aaa]\ningress = [{ proto = \"tcp\", ports = 9, from = \"any\" }]\n\
        [tenant.acme.endpoint.aaa]\nnetwork = \"app\"\nhost = \"alpha\"\nport = \"p9\"\nmac = \"02:00:00:00:00:99\"\n\
        addresses = [\"10.1.0.99\"]\ngroups = [\"aaa\", \"web\"]\n";
    let config = |text: &str| load_str("trace.toml", text).unwrap();
    let (before, after) = (config(CONFIG), config(&format!("{CONFIG}{more}")));
    let states = StateRegistry::new(before.limits);
    let mut attachments = Attachments::default();
    let first = Snapshot::compile(&before, "alpha", None, &mut attachments, &states).unwrap();
    let kept = Snapshot::compile(&after, "alpha", Some(&first), &mut attachments, &states).unwrap();
    let gone = Snapshot::compile(&before, "alpha", Some(&kept), &mut attachments, &states).unwrap();
    let fresh = Snapshot::compile(&after, "alpha", None, &mut Attachments::default(), &states).unwrap();
    let ids = |snapshot: &Snapshot| -> Vec<(String, u32)> {
        let network = snapshot.network(vni()).unwrap();
        network.endpoints.iter().map(|endpoint| (endpoint.name.to_string(), endpoint.id.0)).collect()
    };
    assert_ne!(ids(&kept), ids(&fresh), "nothing was kept");
    assert!(ids(&gone).iter().all(|row| ids(&kept).contains(row)));
    for text in [
        "tcp 10.1.0.11:4000 10.1.0.21:22",
        "tcp 10.1.0.11:4000 10.1.0.21:5432",
        "udp 10.1.0.11:4000 10.1.0.21:53",
        "tcp 10.1.0.99:4000 10.1.0.21:53",
        "tcp 10.1.0.11:4000 10.1.0.99:9",
    ] {
        let [kept, fresh] =
            [&kept, &fresh].map(|snapshot| trace(snapshot, &request(text), Live::NOTHING, now()));
        assert_eq!(format!("{kept:?}"), format!("{fresh:?}"), "{text}");
    }
}

/// What a helper expects passes, and the trace says because of what.
#[test]
fn what_is_expected_passes() {
    let with = CONFIG
        .replace("ports = 5432, to", "ports = 21, helper = \"ftp\", to")
        .replace("ports = 5432, from", "ports = 21, helper = \"ftp\", from");
    let config = load_str("trace.toml", &with).unwrap();
    let states = StateRegistry::new(config.limits);
    let snapshot = Snapshot::compile(&config, "alpha", None, &mut Attachments::default(), &states).unwrap();
    let packet = request("tcp 10.1.0.11:40001 10.1.0.21:50000");
    let TraceRequest { proto, src, dst, dport, .. } = packet;
    let key = FlowKey { src, dst, vni: vni(), sport: 0, dport, proto, leg: Leg::DIRECT };
    let header = eastgate_wire::view::HeaderBits { dscp: 0, tcp_flags: eastgate_wire::view::tcp_flags::SYN };
    let related =
        Related { helper: Helper::Ftp, opener: Direction::Original, sport: 40_000, dport: 21, header };
    let ends = [[2, 0, 0, 0, 0, 0x11], [2, 0, 0, 0, 0, 0x21]].map(|mac| receiver_at(MacAddr(mac)));
    let expected = Expectation { key, related, ends, payer: 1 };
    for (found, verdict) in [(None, "egress-denied"), (Some(expected), "forwarded")] {
        let live = Live { expected: &|_| found, ..Live::NOTHING };
        let report = trace(&snapshot, &packet, live, now()).unwrap();
        assert_eq!(report.verdict, verdict, "{report:#?}");
        let said = report.steps.iter().filter(|step| {
            step.text == "helper ftp expects it, by what was said in tcp 10.1.0.11:40000 -> 10.1.0.21:21"
        });
        assert_eq!(said.count(), if found.is_some() { 2 } else { 0 }, "{report:#?}");
    }
    let control =
        trace(&snapshot, &request("tcp 10.1.0.11:40000 10.1.0.21:21"), Live::NOTHING, now()).unwrap();
    let reads = |step: &&TraceStep| step.text.ends_with("allows it, and its helper ftp reads it");
    assert_eq!(control.steps.iter().filter(reads).count(), 2, "{control:#?}");
}

/// What is negated is told as it is written, not as what is left.
#[test]
fn a_rule_in_words_says_what_it_is_not_about() {
    let rules = r#"[tenant.acme.policy.p]
applies_to = "tenant"
ingress = [
  { action = "deny", proto = "tcp", ports = 22, source_ports = "0-1023", from = "10.9.0.0/16", not = ["ports", "from"] },
  { action = "deny", proto = "icmp", icmp_type = 8, icmp_code = 0, from = "any", not = ["icmp_type"] },
  { action = "deny", proto = "icmp", from = "any", not = ["proto"] },
  { action = "deny", proto = "gre", family = "ipv4", from = "any", not = ["proto"] },
  { action = "deny", proto = "tcp", dscp = 46, tcp_flags = "syn/syn,ack", from = "any", not = ["dscp", "tcp_flags"] },
]
"#;
    let config = load_str("site", &format!("{CONFIG}{rules}")).unwrap();
    let told: Vec<String> = config.tenants["acme"].policies["p"].ingress.iter().map(rule_text).collect();
    assert_eq!(
        told,
        [
            "deny tcp port not 22 source port 0-1023 with 0.0.0.0/0 except 10.9.0.0/16",
            "deny icmp not type 8 code 0 with any",
            "deny not icmp with any",
            "deny not gre with any",
            "deny tcp with any, dscp not 46, tcp flags not syn/syn,ack",
        ]
    );
}
