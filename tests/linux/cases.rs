//! What machines do beside speaking to each other by their own addresses: addresses that move, machines that forward,
//! addresses of their own choice, DHCP, priorities. Announcements are for the device to make something of; what is
//! compared is where the packets go that follow.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::PacketBuilder;

use crate::{
    device::UDP_OPEN,
    frames::{A, B, C, Host, raw},
    sequence::{Sequence, Step, What},
};

/// A shared address that goes with whoever has it, and one with a MAC of its own (VRRP, RFC 9568 section 7.3).
pub const SHARED: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 100);
pub const VIRTUAL: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 101);
pub const VIRTUAL_MAC: [u8; 6] = [0, 0, 0x5e, 0, 1, 7];
/// What is behind `c`
pub const BEHIND: &str = "10.9.0.0/16";

const BROADCAST: [u8; 6] = [0xff; 6];
const BEHIND_C: Ipv4Addr = Ipv4Addr::new(10, 9, 3, 4);

/// Of the configuration, what the cases need beside the addresses of their own: lines of an endpoint.
pub fn lines_of(machine: Host) -> String {
    if machine == C {
        return format!("router = true\ndhcp_server = true\nroutes = [\"{BEHIND}\"]");
    }
    let mac = VIRTUAL_MAC.map(|byte| format!("{byte:02x}")).join(":");
    format!("allowed_pairs = [{{ address = \"{SHARED}\" }}, {{ address = \"{VIRTUAL}\", mac = \"{mac}\" }}]")
}

/// All cases.
pub fn all() -> Vec<Sequence> {
    vec![
        moving("an address that goes from one to the other", SHARED, A.mac(), B.mac()),
        moving("an address with a MAC of its own", VIRTUAL, VIRTUAL_MAC, VIRTUAL_MAC),
        adverts(),
        behind_a_router(),
        priorities(),
        dhcp(),
        own_link_local(),
    ]
}

struct Case(Sequence);

impl Case {
    fn new(name: &str) -> Self {
        Self(Sequence { name: name.to_owned(), steps: Vec::new() })
    }

    fn put(&mut self, from: Host, to: Host, what: What, label: &str, frame: Vec<u8>) {
        self.0.steps.push(Step { from, to, what, label: label.to_owned(), frame });
    }

    /// A question from `client` to the service at `server`, whose machine is `at`, and the answer.
    fn exchange(
        &mut self,
        (client, from): (Host, IpAddr),
        (at, mac, server): (Host, [u8; 6], IpAddr),
        port: u16,
        label: &str,
    ) {
        let question = udp((client.mac(), from), (mac, server), (port, UDP_OPEN));
        self.put(client, at, What::Regular, &format!("question to {label}"), question);
        let answer = udp((mac, server), (client.mac(), from), (UDP_OPEN, port));
        self.put(at, client, What::Regular, &format!("answer of {label}"), answer);
    }
}

fn udp(from: ([u8; 6], IpAddr), to: ([u8; 6], IpAddr), ports: (u16, u16)) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(from.0, to.0);
    let mut frame = Vec::new();
    let step = match (from.1, to.1) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => ethernet.ipv4(src.octets(), dst.octets(), 64),
        (IpAddr::V6(src), IpAddr::V6(dst)) => ethernet.ipv6(src.octets(), dst.octets(), 64),
        _ => panic!("two families in one packet"),
    };
    step.udp(ports.0, ports.1).write_to_vec(&mut frame, b"a case").expect("it fits");
    frame
}

fn v4(host: Host) -> IpAddr {
    IpAddr::from(host.v4())
}

/// A gratuitous ARP request (RFC 5227 section 3).
fn announcement(mac: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    let address = address.octets();
    let arp = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &mac, &address, &[0; 6], &address].concat();
    raw(mac, BROADCAST, 0x0806, &arp)
}

fn moving(name: &str, address: Ipv4Addr, first: [u8; 6], second: [u8; 6]) -> Sequence {
    let mut case = Case::new(name);
    for (port, (holder, mac)) in (61_000..).zip([(A, first), (B, second), (A, first)]) {
        case.put(holder, C, What::Announcement, "gratuitous ARP", announcement(mac, address));
        let other = if holder == A { B } else { A };
        case.exchange((C, v4(C)), (holder, mac, address.into()), port, "who has the address now");
        case.exchange(
            (other, v4(other)),
            (holder, mac, address.into()),
            port,
            "who has it now, by who had it",
        );
        // What it sends from the address begins flows too.
        let frame = udp((mac, address.into()), (C.mac(), v4(C)), (port, UDP_OPEN));
        case.put(holder, C, What::Regular, "from the address", frame);
    }
    case.0
}

/// VRRP advertisements (RFC 9568 section 5) to 224.0.0.18, from a master's own MAC and from the virtual one.
fn adverts() -> Sequence {
    let mut case = Case::new("VRRP advertisements");
    for (from, to, mac) in [(A, B, A.mac()), (A, B, VIRTUAL_MAC), (B, A, VIRTUAL_MAC)] {
        let body = [0x21, 7, 100, 1, 0, 1, 0, 0, 10, 1, 0, 101];
        let mut ip = etherparse::Ipv4Header::new(
            body.len() as u16,
            255,
            etherparse::IpNumber(112),
            from.v4(),
            [224, 0, 0, 18],
        )
        .expect("short");
        ip.header_checksum = ip.calc_header_checksum();
        let packet = [&ip.to_bytes()[..], &body].concat();
        let frame = raw(mac, [1, 0, 0x5e, 0, 0, 18], 0x0800, &packet);
        case.put(from, to, What::Regular, "VRRP advertisement", frame);
    }
    case.0
}

fn behind_a_router() -> Sequence {
    let mut case = Case::new("a machine behind a router");
    let behind = (C, C.mac(), BEHIND_C.into());
    case.exchange((A, v4(A)), behind, 61_100, "a machine behind c");
    let frame = udp((C.mac(), BEHIND_C.into()), (B.mac(), v4(B)), (61_101, UDP_OPEN));
    case.put(C, B, What::Regular, "question of a machine behind c", frame);
    let frame = udp((B.mac(), v4(B)), (C.mac(), BEHIND_C.into()), (UDP_OPEN, 61_101));
    case.put(B, C, What::Regular, "answer to a machine behind c", frame);
    case.0
}

/// Frames with a priority and no VLAN (IEEE 802.1Q section 9.6: VID 0).
fn priorities() -> Sequence {
    let mut case = Case::new("frames with a priority");
    let plain = udp((A.mac(), v4(A)), (B.mac(), v4(B)), (61_200, UDP_OPEN));
    let tagged = [&plain[..12], &[0x81, 0, 0xa0, 0], &plain[12..]].concat();
    // Linux does not track what has a tag, whatever it says.
    case.put(A, B, What::Regular, "question without priority", plain);
    case.put(A, B, What::Regular, "question with priority 5", tagged);
    let answer = udp((B.mac(), v4(B)), (A.mac(), v4(A)), (UDP_OPEN, 61_200));
    case.put(B, A, What::Regular, "answer without", answer);
    case.0
}

/// RFC 2131: a client without an address asks everyone, from the usual port and from another one (section 4.1 asks for the
/// destination alone); a server answers.
fn dhcp() -> Sequence {
    let mut case = Case::new("DHCP");
    let (nobody, everyone) = (IpAddr::from([0; 4]), IpAddr::from([255; 4]));
    for client in [68, 1068] {
        let frame = udp((A.mac(), nobody), (BROADCAST, everyone), (client, 67));
        case.put(A, C, What::Regular, &format!("DHCP from port {client}"), frame);
    }
    for server in [67, 1067] {
        let frame = udp((C.mac(), v4(C)), (A.mac(), v4(A)), (server, 68));
        case.put(C, A, What::Regular, &format!("an answer from port {server}"), frame);
    }
    case.0
}

/// Link-local addresses that do not follow from the MAC (RFC 7217): duplicate detection, router solicitation, traffic.
fn own_link_local() -> Sequence {
    let mut case = Case::new("link-local addresses of their own choice");
    let [a, b] = ["fe80::a1b2:c3d4:e5f6:1", "fe80::a1b2:c3d4:e5f6:2"]
        .map(|text| text.parse::<Ipv6Addr>().expect("an address"));
    for (host, address) in [(A, a), (B, b)] {
        let [.., x, y, z] = address.octets();
        let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, x, y, z]);
        let probe = [&[0; 4][..], &address.octets()].concat();
        let frame =
            icmp(host.mac(), [0x33, 0x33, 0xff, x, y, z], Ipv6Addr::UNSPECIFIED, group, 135, &probe[4..]);
        case.put(host, C, What::Announcement, "duplicate detection", frame);
        let option = [&[1, 1][..], &host.mac()].concat();
        let frame = icmp(
            host.mac(),
            [0x33, 0x33, 0, 0, 0, 2],
            address,
            Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2),
            133,
            &option,
        );
        case.put(host, C, What::Regular, "router solicitation", frame);
    }
    case.exchange((A, a.into()), (B, B.mac(), b.into()), 61_300, "a link-local address");
    case.0
}

/// A message of ICMPv6 with four bytes of nothing behind the checksum.
fn icmp(src_mac: [u8; 6], dst_mac: [u8; 6], src: Ipv6Addr, dst: Ipv6Addr, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(src_mac, dst_mac)
        .ipv6(src.octets(), dst.octets(), 255)
        .icmpv6_raw(kind, 0, [0; 4])
        .write_to_vec(&mut frame, body)
        .expect("it fits");
    frame
}
