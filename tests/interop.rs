//! eastgate and other VTEPs: the kernel's vxlan device as the other end of the tunnel, and datagrams that scapy
//! builds, good ones and bad ones, each with what must come of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr, UdpSocket},
};

use common::{
    Capture, Daemon, Script, Sink, Space, Stream, World, bind_udp, bulk,
    config::{Endpoint, Host, Tenant, configuration},
    datagram_arrives, hardware_address, send_frame, settle, wait_for,
};
use eastgate_wire::Family;
use etherparse::{IpDscp, IpEcn, IpHeaders, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder};

/// What acme lets in.
const PORT: u16 = 7000;

/// The family of the underlay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Underlay {
    V4,
    V6,
}

impl Underlay {
    fn address(self, number: u8) -> String {
        match self {
            Self::V4 => format!("192.0.2.{number}"),
            Self::V6 => format!("2001:db8::{number}"),
        }
    }

    fn prefix(self) -> u8 {
        if self == Self::V4 { 24 } else { 64 }
    }

    fn group(self) -> &'static str {
        if self == Self::V4 { "239.1.1.1" } else { "ff05::5001" }
    }
}

/// alpha runs eastgate and has web1; peer is someone else's VTEP.
struct Site {
    world: World,
    underlay: Underlay,
    alpha: Space,
    peer: Space,
    web1: Space,
}

impl Site {
    fn new(underlay: Underlay) -> Option<Self> {
        let mut world = World::new()?;
        let (alpha, peer, web1) = (world.space("alpha"), world.space("peer"), world.space("web1"));
        let site = Self { world, underlay, alpha, peer, web1 };
        site.world.cable((&site.alpha, "underlay0"), (&site.peer, "underlay0"), 1700);
        for (space, number) in [(&site.alpha, 1), (&site.peer, 2)] {
            let (address, prefix) = (underlay.address(number), underlay.prefix());
            let nodad = if underlay == Underlay::V6 { " nodad" } else { "" };
            space.ip(&format!("addr add {address}/{prefix} dev underlay0{nodad}"));
        }
        site.plug("veth-web1", &site.web1, 0x11);
        Some(site)
    }

    fn plug(&self, port: &str, machine: &Space, number: u8) {
        self.world.cable((&self.alpha, port), (machine, "eth0"), 1500);
        machine.ip(&format!("link set eth0 address 02:00:00:00:00:{number:02x}"));
        machine.ip(&format!("addr add 10.1.0.{number:x}/24 dev eth0"));
    }

    /// Starts eastgate on alpha. `overlay` is lines of that table.
    fn run(&self, overlay: &str, tenants: &[Tenant<'_>]) -> Daemon {
        let (alpha, peer) = (self.underlay.address(1), self.underlay.address(2));
        let hosts = [Host::new("alpha", &alpha), Host::plain("peer", &peer)];
        let text = format!("[overlay]\n{overlay}\n{}", configuration(&hosts, tenants));
        let config = self.world.write("eastgate.toml", &text);
        // One worker: what is sent in order is heard and counted in order.
        Daemon::start(&self.world, &self.alpha, &config, "alpha", &["--workers", "1"])
    }
}

const WEB1: Endpoint<'_> = Endpoint { name: "web1", host: "alpha", port: Some("veth-web1"), number: 0x11 };

/// A machine behind the peer that the configuration names.
const FAR1: Endpoint<'_> = Endpoint { name: "far1", host: "peer", port: None, number: 0x31 };

/// A network with machines behind the peer that nobody has named.
const ACME: Tenant<'_> = Tenant {
    name: "acme",
    vni: 5001,
    families: &[Family::V4, Family::V6],
    network: r#"hosts = ["peer"]"#,
    ingress: &[
        r#"{ proto = "udp", ports = 7000, from = "any" }"#,
        r#"{ proto = "tcp", ports = 5432, from = "any" }"#,
        r#"{ proto = "icmp", from = "any" }"#,
    ],
    endpoints: &[WEB1],
};

const ACME_WITH_FAR1: Tenant<'_> = Tenant { endpoints: &[WEB1, FAR1], ..ACME };

/// The addresses and MACs of acme, in a network that reads the VXLAN header's reserved bits.
const STRICT: Tenant<'_> = Tenant {
    name: "strict",
    vni: 5002,
    families: &[Family::V4],
    network: "strict_reserved = true",
    ingress: &[r#"{ from = "any" }"#],
    endpoints: &[Endpoint { name: "web2", port: Some("veth-web2"), ..WEB1 }, FAR1],
};

fn v4(number: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([10, 1, 0, number], port))
}

fn v6(number: u16, port: u16) -> SocketAddr {
    SocketAddr::from(([0xfd00, 1, 0, 0, 0, 0, 0, number], port))
}

/// The kernel's vxlan device at the peer, with the address of machine far1 on the device itself, so that the
/// peer's TCP hands whole GSO packets to it.
fn kernel_vtep(site: &Site, how: &str) {
    let (own, device) = (site.underlay.address(2), "vx0");
    site.peer.ip(&format!(
        "link add {device} address 02:00:00:00:00:31 mtu 1500 type vxlan id 5001 dstport 4789 local {own} \
         dev underlay0 ageing 3 udp6zerocsumrx {how}"
    ));
    site.peer.ip(&format!("link set {device} up"));
    site.peer.ip(&format!("addr add 10.1.0.31/24 dev {device}"));
    site.peer.ip(&format!("addr add fd00:1::31/64 dev {device} nodad"));
}

fn where_is(daemon: &Daemon, mac: &str, kind: &str) -> Option<String> {
    let answer = daemon.ask(&["show", "fdb"]);
    let mut rows = answer["fdb"].as_array().unwrap().iter();
    let row = rows.find(|row| row["mac"] == mac && row["kind"] == kind)?;
    Some(row["at"].as_str().unwrap().to_owned())
}

/// A network that learns, with the kernel's VTEP as the other member.
fn interoperates(underlay: Underlay, multicast: bool) {
    let Some(site) = Site::new(underlay) else { return };
    site.web1.ip("addr add fd00:1::11/64 dev eth0 nodad");
    let flood = match multicast {
        false => "flood = \"replicate\"".to_owned(),
        true => format!("flood = \"multicast\"\nmulticast_group = \"{}\"", underlay.group()),
    };
    let learning =
        "learning = true\nmac_age = 3\nunknown_neighbors = \"flood\"\nunknown_destinations = \"flood\"";
    let network = format!("{}\n{learning}\n{flood}", ACME.network);
    let daemon = site.run("", &[Tenant { network: &network, ..ACME }]);
    if multicast {
        kernel_vtep(&site, &format!("group {}", underlay.group()));
    } else {
        kernel_vtep(&site, "");
        let alpha = underlay.address(1);
        site.peer.bridge(&format!("fdb append 00:00:00:00:00:00 dev vx0 dst {alpha}"));
    }

    // Neither knows where the other's machine is: the first requests are flooded, both ways and in both families.
    for address in ["10.1.0.31", "fd00:1::31"] {
        assert!(site.web1.ping(address), "web1 to {address}");
    }
    for address in ["10.1.0.11", "fd00:1::11"] {
        assert!(site.peer.ping(address), "far1 to {address}");
    }
    assert_eq!(where_is(&daemon, "02:00:00:00:00:31", "learned"), Some(underlay.address(2)));
    let learned = format!("02:00:00:00:00:11 dst {}", underlay.address(1));
    let known = || site.peer.bridge("fdb show dev vx0").contains(&learned);
    assert!(known());

    for (near, far) in [(v4(11, PORT), v4(31, PORT)), (v6(0x11, PORT), v6(0x31, PORT))] {
        datagram_arrives((&site.web1, near), (&site.peer, far));
        datagram_arrives((&site.peer, far), (&site.web1, near));
    }
    bulk(&site.web1, (&site.peer, v4(31, 5432)), 50_000_000);
    bulk(&site.peer, (&site.web1, v4(11, 5432)), 50_000_000);
    bulk(&site.web1, (&site.peer, v6(0x31, 5432)), 5_000_000);
    bulk(&site.peer, (&site.web1, v6(0x11, 5432)), 5_000_000);

    // Both fall silent, and are forgotten.
    site.peer.ip("addr flush dev vx0");
    site.web1.ip("link set eth0 down");
    wait_for("eastgate forgets a silent MAC", || where_is(&daemon, "02:00:00:00:00:31", "learned").is_none());
    assert_eq!(where_is(&daemon, "02:00:00:00:00:11", "configured"), Some("veth-web1".to_owned()));
    wait_for("the kernel forgets it likewise", || !known());
}

#[test]
fn the_kernel_is_a_peer_by_head_end_replication() {
    interoperates(Underlay::V4, false);
}

#[test]
fn the_kernel_is_a_peer_by_multicast() {
    interoperates(Underlay::V4, true);
}

#[test]
fn the_kernel_is_a_peer_by_head_end_replication_over_ipv6() {
    interoperates(Underlay::V6, false);
}

#[test]
fn the_kernel_is_a_peer_by_multicast_over_ipv6() {
    interoperates(Underlay::V6, true);
}

/// Packets with something in every field that a careless hand would change: each of them from station `from` to
/// station `to`.
fn odd_packets(from: u8, to: u8) -> Vec<Vec<u8>> {
    let (v4, v6) = (|n| [10, 1, 0, n], |n| [0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n]);
    let mac = |number: u8| [2, 0, 0, 0, 0, number];
    // Its addresses are written as its MAC is, in hex; IPv4's are decimal.
    let decimal = |number: u8| number / 16 * 10 + number % 16;
    let router_alert = [148, 4, 0, 0, 1, 1, 1, 0];
    let mut packets = Vec::new();
    for (options, ttl, dont_fragment) in [(&[][..], 1, false), (&router_alert, 255, true)] {
        let mut header = Ipv4Header::new(0, ttl, IpNumber::UDP, v4(decimal(from)), v4(decimal(to))).unwrap();
        header.identification = 0xbeef;
        header.dont_fragment = dont_fragment;
        header.dscp = IpDscp::try_new(46).unwrap();
        header.ecn = IpEcn::ONE;
        header.options = options.try_into().unwrap();
        packets.push((IpHeaders::Ipv4(header, Default::default()), dont_fragment));
    }
    let header = Ipv6Header {
        traffic_class: 0xb9,
        flow_label: 0xabcde.try_into().unwrap(),
        hop_limit: 1,
        source: v6(from),
        destination: v6(to),
        ..Ipv6Header::default()
    };
    packets.push((IpHeaders::Ipv6(header, Default::default()), true));
    let build = |(ip, keep_checksum): (IpHeaders, bool)| {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(mac(from), mac(to)).ip(ip);
        builder.udp(4000, PORT).write(&mut frame, b"as it came").unwrap();
        if !keep_checksum {
            // UDP over IPv4 may have none.
            frame[40..42].fill(0);
        }
        frame
    };
    packets.into_iter().map(build).collect()
}

#[test]
fn an_allowed_packet_leaves_as_it_came() {
    let Some(site) = Site::new(Underlay::V4) else { return };
    let _daemon = site.run("", &[ACME_WITH_FAR1]);
    kernel_vtep(&site, "");
    site.peer.bridge("fdb append 02:00:00:00:00:11 dev vx0 dst 192.0.2.1");
    let captures = [Capture::start(&site.peer, "vx0"), Capture::start(&site.web1, "eth0")];
    let ways = [(&site.web1, "eth0", 0x11, 0x31), (&site.peer, "vx0", 0x31, 0x11)];
    for ((space, device, from, to), capture) in ways.into_iter().zip(&captures) {
        for (sent, packet) in (1..).zip(odd_packets(from, to)) {
            send_frame(space, device, &packet);
            let mut arrived = Vec::new();
            wait_for("a packet arrives", || {
                arrived =
                    capture.matching(|frame| frame[..12] == packet[..12] && frame.ends_with(b"as it came"));
                arrived.len() >= sent
            });
            assert_eq!(arrived.last(), Some(&packet));
        }
    }
}

/// tests/scapy/headers.py, running at the peer.
fn scapy(site: &Site) -> Script {
    let (own, vtep) = (site.underlay.address(2), site.underlay.address(1));
    let mac = hardware_address(&site.alpha, "underlay0").to_string();
    Script::start(&site.peer, "headers.py", &["underlay0", &own, &vtep, &mac])
}

/// The tunnel's end under test, with scapy at the other end.
struct Bench {
    site: Site,
    daemon: Daemon,
    scapy: Script,
    web1: Capture,
    web2: Capture,
    markers: u32,
    _sockets: [UdpSocket; 2],
}

/// What came of a case.
#[derive(Debug, Default, PartialEq, Eq)]
struct Came {
    /// Dropped frames by reason
    drops: BTreeMap<String, u64>,
    /// Frames that reached web1 and web2
    delivered: (usize, usize),
    /// Datagrams the kernel refused before eastgate
    refused_by_kernel: u64,
}

impl Bench {
    fn new(underlay: Underlay) -> Option<Self> {
        let mut site = Site::new(underlay)?;
        let web2 = site.world.space("web2");
        site.plug("veth-web2", &web2, 0x12);
        for machine in [&site.web1, &web2] {
            // Machines that say nothing of their own accord: every count is of what scapy sent.
            machine.set("net/ipv6/conf/eth0/disable_ipv6", "1");
            machine.ip("neigh replace 10.1.0.31 lladdr 02:00:00:00:00:31 dev eth0");
        }
        let daemon = site.run("", &[ACME_WITH_FAR1, STRICT]);
        let listen = |machine: &Space| machine.enter(|| bind_udp(("0.0.0.0", PORT)));
        let sockets = [listen(&site.web1), listen(&web2)];
        let captures = [Capture::start(&site.web1, "eth0"), Capture::start(&web2, "eth0")];
        let [web1, web2] = captures;
        let scapy = scapy(&site);
        Some(Self { site, daemon, scapy, web1, web2, markers: 0, _sockets: sockets })
    }

    /// Sends a case and a good datagram after it, and waits for that one. What the programs hand to the daemon may
    /// be dealt with later than that, so what came is read until it is `settled`, within the bound; more than that
    /// would be found in the next case.
    fn try_case(&mut self, case: &str, mut settled: impl FnMut(&Self, &Came) -> bool) -> (Came, u64) {
        let (drops, seen, errors) = (self.daemon.drops(), self.delivered(), self.refused_by_kernel());
        let sent = self.scapy.send(case);
        self.markers += 1;
        let marker = format!("marker {}", self.markers);
        self.scapy.send(&format!("good {marker}"));
        wait_for(&format!("what was sent after {case} arrives"), || {
            !self.web1.matching(|frame| frame.ends_with(marker.as_bytes())).is_empty()
        });
        let since = |bench: &Self| {
            let (seen_now, errors_now) = (bench.delivered(), bench.refused_by_kernel());
            let grown = bench.daemon.drops().into_iter().filter_map(|(reason, count)| {
                let more = count - drops.get(&reason).copied().unwrap_or(0);
                (more > 0).then_some((reason, more))
            });
            Came {
                drops: grown.collect(),
                delivered: (seen_now.0 - seen.0, seen_now.1 - seen.1),
                refused_by_kernel: errors_now - errors,
            }
        };
        (settle(|| since(self), |came| settled(self, came)), sent)
    }

    /// UDP datagrams that the kernel of alpha refused so far.
    fn refused_by_kernel(&self) -> u64 {
        match self.site.underlay {
            Underlay::V4 => errors_v4(&self.site.alpha),
            Underlay::V6 => errors_v6(&self.site.alpha),
        }
    }

    /// Frames that reached web1 and web2, markers not counted.
    fn delivered(&self) -> (usize, usize) {
        let real = |frame: &[u8]| !frame.windows(7).any(|window| window == b"marker ");
        (self.web1.matching(real).len(), self.web2.matching(real).len())
    }

    /// The TOS of the inner packet with this payload.
    fn tos_of(&self, payload: &str) -> u8 {
        let frames = self.web1.matching(|frame| frame.ends_with(payload.as_bytes()));
        assert_eq!(frames.len(), 1, "{payload}");
        frames[0][15]
    }
}

fn errors_v4(space: &Space) -> u64 {
    let text = space.enter(|| std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap());
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: ")).map(str::split_whitespace);
    let (names, mut values) = (lines.next().unwrap(), lines.next().unwrap());
    let place = names.clone().position(|name| name == "InErrors").unwrap();
    values.nth(place).unwrap().parse().unwrap()
}

fn errors_v6(space: &Space) -> u64 {
    let text = space.enter(|| std::fs::read_to_string("/proc/thread-self/net/snmp6").unwrap());
    let line = text.lines().find_map(|line| line.strip_prefix("Udp6InErrors")).unwrap();
    line.trim().parse().unwrap()
}

fn headers_are_read_as_the_rfc_says(underlay: Underlay) {
    let Some(mut bench) = Bench::new(underlay) else { return };
    let dropped =
        |reason: &str, count: u64| Came { drops: [(reason.to_owned(), count)].into(), ..Came::default() };
    let to_web1 = |count| Came { delivered: (count, 0), ..Came::default() };
    let by_kernel = || Came { refused_by_kernel: 1, ..Came::default() };
    // 64 bits, less the I flag and the VNI.
    let reserved = 64 - 1 - 24;
    let expected = [
        ("good", to_web1(1)),
        ("good-in-strict", Came { delivered: (0, 1), ..Came::default() }),
        ("right-checksum", to_web1(1)),
        ("wrong-checksum", by_kernel()),
        ("udp-length-too-long", by_kernel()),
        ("reserved-bits", to_web1(reserved)),
        ("reserved-bits-in-strict", dropped("vxlan-reserved", reserved as u64)),
        ("i-flag-clear", dropped("vxlan-flags", 2)),
        ("truncated", dropped("vxlan-truncated", 22)),
        ("cut", dropped("frame-truncated", 19)),
        // The kernel puts a datagram together again, within its own bounds.
        ("fragments", to_web1(1)),
        ("fragment-alone", Came::default()),
        ("fragments-overlap", Came::default()),
        ("unknown-vtep", dropped("unknown-vtep", 1)),
        ("unknown-vni", dropped("unknown-vni", 1)),
        ("inner-vlan", dropped("inner-vlan", 1)),
        ("congested", to_web1(1)),
        ("capable", to_web1(1)),
        ("congested-not-capable", dropped("outer-ecn", 1)),
        ("nested", dropped("reserved-destination", 1)),
        ("bad-source-mac", dropped("bad-source-mac", 3)),
        ("mac-spoofed", dropped("mac-spoofed", 1)),
        ("ip-spoofed", dropped("ip-spoofed", 1)),
        ("unknown_host", dropped("unknown-endpoint", 1)),
        ("denied", dropped("ingress-denied", 1)),
    ];
    let mut wrong = Vec::new();
    for (case, expected) in expected {
        let (came, _) = bench.try_case(case, |_, came| *came == expected);
        if came != expected {
            wrong.push(format!("{case}: {came:?} instead of {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // RFC 6040: congestion on the way reaches the inner packet; without any it stays as it was.
    assert_eq!((bench.tos_of("congested") & 3, bench.tos_of("capable") & 3), (3, 2));
}

#[test]
fn headers_are_read_as_the_rfc_says_over_ipv4() {
    headers_are_read_as_the_rfc_says(Underlay::V4);
}

#[test]
fn headers_are_read_as_the_rfc_says_over_ipv6() {
    headers_are_read_as_the_rfc_says(Underlay::V6);
}

#[test]
fn noise_is_counted_and_survived() {
    let Some(mut bench) = Bench::new(Underlay::V4) else { return };
    let traffic = |daemon: &Daemon, field: &str| daemon.ask(&["status"])["traffic"][field].as_u64().unwrap();
    let counted =
        |bench: &Bench| ["from_underlay", "dropped", "to_ports"].map(|field| traffic(&bench.daemon, field));
    let before = counted(&bench);
    let since = |bench: &Bench| {
        let now = counted(bench);
        [0, 1, 2].map(|place| now[place] - before[place])
    };
    let (came, sent) = bench.try_case("fuzz 7348 1000", |bench, came| {
        let [heard, dropped, passed] = since(bench);
        heard >= 1001 && dropped + passed >= 1000 && came.drops.values().sum::<u64>() == dropped
    });
    let [heard, dropped, passed] = since(&bench);
    assert_eq!((sent, heard), (1000, 1001), "every one of them and the marker reached eastgate");
    assert_eq!(came.drops.values().sum::<u64>(), dropped, "each counts under one reason: {came:?}");
    assert!(dropped + passed >= 1000, "{dropped} dropped, {passed} passed: {came:?}");
    let reasons: BTreeSet<&str> = came.drops.keys().map(String::as_str).collect();
    for reason in ["vxlan-truncated", "vxlan-flags", "frame-truncated", "bad-ip-header"] {
        assert!(reasons.contains(reason), "no {reason} in noise? {came:?}");
    }
    assert_eq!(bench.daemon.ask(&["status"])["ready"], true);
    assert!(!bench.daemon.log().contains("panicked"), "{}", bench.daemon.log());
}

/// The outer header of a VXLAN datagram.
#[derive(Debug)]
struct Outer {
    dont_fragment: bool,
    ttl: u8,
    source_port: u16,
    checksum: u16,
    vxlan: [u8; 8],
}

impl Outer {
    fn parse(frame: &[u8]) -> Self {
        let (ip, udp) = match frame[12..14] {
            [8, 0] => (&frame[14..34], &frame[34..]),
            _ => (&frame[14..54], &frame[54..]),
        };
        let number = |at: usize| u16::from_be_bytes([udp[at], udp[at + 1]]);
        assert_eq!(number(2), 4789);
        Self {
            // IPv6 is never fragmented on the way.
            dont_fragment: ip[0] >> 4 == 6 || ip[6] & 0x40 != 0,
            ttl: if ip[0] >> 4 == 6 { ip[7] } else { ip[8] },
            source_port: number(0),
            checksum: number(6),
            vxlan: udp[8..16].try_into().unwrap(),
        }
    }
}

fn what_leaves_is_as_the_rfc_says(underlay: Underlay) {
    const FLOWS: u16 = 256;
    let Some(site) = Site::new(underlay) else { return };
    let _daemon = site.run("ttl = 33", &[ACME_WITH_FAR1]);
    let capture = Capture::start(&site.peer, "underlay0");
    let at: IpAddr = underlay.address(2).parse().unwrap();
    // Someone listens, so that the peer's kernel does not answer with ICMP.
    let _listener = site.peer.enter(move || bind_udp((at, 4789)));
    let machine = site.web1.clone();
    // One after the other: what is sent alone leaves alone, not in a burst.
    let send = |source_port: u16, text: &str| {
        let (payload, text) = (text.to_owned(), text.to_owned());
        machine.enter(move || {
            let socket = bind_udp(("10.1.0.11", source_port));
            socket.send_to(payload.as_bytes(), v4(31, PORT)).unwrap();
        });
        let mut found = Vec::new();
        wait_for("a datagram leaves", || {
            found = capture.matching(|frame| frame.ends_with(text.as_bytes()));
            !found.is_empty()
        });
        Outer::parse(&found[0])
    };
    let many: Vec<Outer> = (0..FLOWS).map(|flow| send(20_000 + flow, &format!("flow {flow}."))).collect();
    for outer in &many {
        assert!((49152..=65535).contains(&outer.source_port), "{outer:?}");
        // RFC 7348 wants none, and RFC 8200 one where nothing else was agreed.
        assert_eq!(outer.checksum != 0, underlay == Underlay::V6, "{outer:?}");
        assert_eq!((outer.ttl, outer.dont_fragment), (33, true), "{outer:?}");
        assert_eq!(outer.vxlan, [8, 0, 0, 0, 0, 0x13, 0x89, 0], "the I flag, VNI 5001, and nothing else");
    }
    let ports: BTreeSet<u16> = many.iter().map(|outer| outer.source_port).collect();
    // 256 balls in 256 buckets or more leave at least half of the balls alone, all but surely.
    assert!(ports.len() >= usize::from(FLOWS) / 2, "{FLOWS} flows use {} ports", ports.len());
    let one: BTreeSet<u16> =
        (0..20).map(|count| send(30_000, &format!("same {count}.")).source_port).collect();
    assert_eq!(one.len(), 1, "one flow keeps its port");
}

#[test]
fn what_leaves_is_as_the_rfc_says_over_ipv4() {
    what_leaves_is_as_the_rfc_says(Underlay::V4);
}

#[test]
fn what_leaves_is_as_the_rfc_says_over_ipv6() {
    what_leaves_is_as_the_rfc_says(Underlay::V6);
}

/// Neither end asks for the other any more, and what the daemon before had learned of the machine behind the kernel's VTEP is gone with it.
#[test]
fn a_machine_that_was_learned_is_found_again_after_a_restart() {
    for dataplane in ["ebpf", "userspace"] {
        let Some(site) = Site::new(Underlay::V4) else { return };
        kernel_vtep(&site, "remote 192.0.2.1");
        let network =
            "hosts = [\"peer\"]\nneighbors = \"proxy\"\nlearning = true\nunknown_neighbors = \"flood\"";
        let hosts = [Host::new("alpha", "192.0.2.1"), Host::plain("peer", "192.0.2.2")];
        let text = configuration(&hosts, &[Tenant { network, ..ACME }]);
        let config = site.world.write("eastgate.toml", &text);
        let run = || Daemon::start(&site.world, &site.alpha, &config, "alpha", &["--dataplane", dataplane]);
        let first = run();
        site.web1.ip("addr add fd00:1::11/64 dev eth0 nodad");
        let sinks = [v4(31, PORT), v6(0x31, PORT)].map(|at| Sink::start(&site.peer, at));
        let appliance = eastgate_steering::proxy_mac(5001.try_into().unwrap());
        for (space, device, number) in [(&site.web1, "eth0", "31"), (&site.peer, "vx0", "11")] {
            for address in [format!("10.1.0.{number}"), format!("fd00:1::{number}")] {
                space.ip(&format!("neigh replace {address} lladdr {appliance} dev {device} nud permanent"));
            }
        }
        let streams = [(v4(11, 4000), v4(31, PORT)), (v6(0x11, 4000), v6(0x31, PORT))]
            .map(|(from, to)| Stream::start(&site.web1, from, to));
        for (stream, sink) in streams.iter().zip(&sinks) {
            stream.arrives(&format!("{dataplane}: the first daemon has not heard of it"), sink);
        }
        first.kill();
        let next = run();
        for (stream, sink) in streams.iter().zip(&sinks) {
            let after = stream.arrives(&format!("{dataplane}: nor has the next one"), sink);
            eprintln!("{dataplane}: after {after:?}");
        }
        let drops = next.drops();
        assert!(
            drops.contains_key("unresolved") && !drops.contains_key("not-for-us"),
            "{dataplane}: {drops:?}"
        );
    }
}
