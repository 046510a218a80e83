use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use eastgate_wire::{EndpointId, view::Net};
use etherparse::{IpNumber, PacketBuilder};
use proptest::prelude::*;

use super::*;

mod protocols;

const MINE: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PAIRED: [u8; 6] = [2, 0, 0, 0, 0, 0x99];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 2];
const OURS: [u8; 6] = [2, 0, 0, 0, 0xff, 1];
const ALL: [u8; 6] = [0xff; 6];

fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>().unwrap().into()
}

/// An endpoint with one address of each family, and a pair for a virtual router.
fn sender() -> Sender {
    Sender { holdings: holdings().into(), ..Sender::new(MacAddr(MINE)) }
}

fn holdings() -> Holdings {
    Holdings {
        routes: Vec::new(),
        endpoint: Some(EndpointId(0)),
        mac: MacAddr(MINE),
        addresses: vec![addr("10.1.0.11"), addr("fd00::11")],
        pairs: vec![
            AddressPair { mac: MacAddr(PAIRED), network: addr("10.1.0.100"), len: 128 },
            AddressPair { mac: MacAddr(MINE), network: addr("10.9.0.0"), len: 96 + 16 },
        ],
    }
}

/// What the sender owns, and what somebody else does.
fn ownership(sender: &Sender) -> Ownership {
    let other = Holdings {
        routes: Vec::new(),
        endpoint: Some(EndpointId(1)),
        mac: MacAddr(OTHER),
        addresses: vec![addr("10.1.0.21"), addr("10.9.0.7"), addr("fd00::21")],
        pairs: vec![AddressPair { mac: MacAddr(OTHER), network: addr("10.9.0.8"), len: 128 }],
    };
    Ownership::new([&*sender.holdings, &other])
}

fn site() -> Site {
    let reserved = [(addr("192.0.2.1"), 128), (addr("198.51.100.0"), 96 + 24), (addr("2001:db8:1::"), 48)];
    Site::new(&[MacAddr(OURS)], &reserved, 4789).unwrap()
}

fn try_as(sender: &Sender, frame: &[u8]) -> Result<(), DropReason> {
    let view = View::parse(frame).unwrap();
    let (ownership, site) = (ownership(sender), site());
    let context = Context { sender, ownership: &ownership, site: &site, chosen: false };
    let result = admit(&view, frame, &context);
    let first = explain(&view, frame, &context).into_iter().find_map(|(_, said)| said.err());
    assert_eq!(result.err(), first, "the explanation names the reason");
    result
}

fn attempt(frame: &[u8]) -> Result<(), DropReason> {
    try_as(&sender(), frame)
}

/// A packet of any protocol; both addresses of one family.
struct Packet {
    macs: ([u8; 6], [u8; 6]),
    src: &'static str,
    dst: &'static str,
    hops: u8,
    proto: u8,
    body: Vec<u8>,
}

impl Packet {
    fn new(src: &'static str, dst: &'static str, proto: u8, body: &[u8]) -> Self {
        Self { macs: (MINE, OTHER), src, dst, hops: 64, proto, body: body.to_vec() }
    }

    fn udp(src: &'static str, dst: &'static str, sport: u16, dport: u16) -> Self {
        let mut body = [sport, dport, 12, 0].map(u16::to_be_bytes).concat();
        body.extend(*b"data");
        Self::new(src, dst, 17, &body)
    }

    fn icmp(src: &'static str, dst: &'static str, kind: u8) -> Self {
        let proto = if src.contains(':') { 58 } else { 1 };
        Self::new(src, dst, proto, &[kind, 0, 0, 0, 0, 0, 0, 0])
    }

    fn sent_by(self, mac: [u8; 6]) -> Self {
        Self { macs: (mac, self.macs.1), ..self }
    }

    fn sent_to(self, mac: [u8; 6]) -> Self {
        Self { macs: (self.macs.0, mac), ..self }
    }

    fn hops(self, hops: u8) -> Self {
        Self { hops, ..self }
    }

    fn frame(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        let ethernet = PacketBuilder::ethernet2(self.macs.0, self.macs.1);
        match (self.src.parse().unwrap(), self.dst.parse().unwrap()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let src: Ipv4Addr = src;
                let step = ethernet.ipv4(src.octets(), dst.octets(), self.hops);
                step.write(&mut frame, IpNumber(self.proto), &self.body).unwrap();
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let src: Ipv6Addr = src;
                let step = ethernet.ipv6(src.octets(), dst.octets(), self.hops);
                // The builder wants to make the extension headers itself: it is told of none.
                step.write(&mut frame, IpNumber(253), &self.body).unwrap();
                frame[20] = self.proto;
            }
            _ => panic!("mixed families"),
        }
        frame
    }
}

fn tcp(src: &'static str, dst: &'static str) -> Packet {
    let mut body = [0u8; 20];
    body[1] = 80;
    body[3] = 80;
    body[12] = 5 << 4;
    Packet::new(src, dst, 6, &body)
}

fn ethernet(dst: [u8; 6], src: [u8; 6], ethertype: u16, body: &[u8]) -> Vec<u8> {
    [&dst[..], &src, &ethertype.to_be_bytes(), body].concat()
}

/// The frame with these tags (protocol identifiers) put in.
fn tagged(frame: &[u8], tags: &[u16]) -> Vec<u8> {
    let tags = tags.iter().flat_map(|tpid| [tpid.to_be_bytes(), [0, 0]].concat());
    frame[..12].iter().copied().chain(tags).chain(frame[12..].iter().copied()).collect()
}

fn rarp(src: [u8; 6], operation: u8, sender: [u8; 6], target: [u8; 6], ip: u8) -> Vec<u8> {
    let body = [&[0, 1, 8, 0, 6, 4, 0, operation][..], &sender, &[ip; 4], &target, &[0; 4]].concat();
    ethernet(ALL, src, ethertype::RARP, &body)
}

#[test]
fn honest_frames_pass() {
    for packet in [
        tcp("10.1.0.11", "10.1.0.21"),
        tcp("fd00::11", "fd00::21"),
        Packet::udp("10.1.0.11", "10.1.0.255", 5000, 5001).sent_to(ALL),
        Packet::udp("10.1.0.11", "224.0.0.251", 5353, 5353),
        Packet::udp("10.1.0.11", "255.255.255.255", 5000, 9),
        Packet::udp("10.1.0.11", "10.1.0.1", 68, 67),
        Packet::udp("fe80::ff:fe00:1", "ff02::1:2", 546, 547),
        Packet::icmp("10.1.0.11", "10.1.0.21", 8),
        Packet::icmp("fd00::11", "fd00::21", 128),
        Packet::icmp("fe80::ff:fe00:1", "ff02::2", 133).hops(255),
        Packet::new("10.1.0.11", "10.1.0.21", 47, &[0; 4]),
        // The configured pairs: another MAC with its address, a prefix behind the own MAC
        tcp("10.1.0.100", "10.1.0.21").sent_by(PAIRED),
        tcp("10.9.255.255", "10.1.0.21"),
    ] {
        assert_eq!(attempt(&packet.frame()), Ok(()), "{} > {}", packet.src, packet.dst);
    }
    assert_eq!(attempt(&ethernet(ALL, MINE, ethertype::ARP, &[0; 28])), Ok(()), "steering looks into ARP");
}

/// Attack 4: a source MAC that is multicast, zero, or one of our own.
#[test]
fn a_source_mac_is_a_stations_own() {
    for mac in [ALL, [0; 6], [3, 0, 0, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1], OURS] {
        let frame = tcp("10.1.0.11", "10.1.0.21").sent_by(mac).frame();
        assert_eq!(attempt(&frame), Err(DropReason::BadSourceMac), "{:?}", MacAddr(mac));
        let mut trusted = sender();
        trusted.port_security = false;
        let mut holdings = holdings();
        holdings.pairs.push(AddressPair { mac: MacAddr(mac), network: addr("0.0.0.0"), len: 96 });
        trusted.holdings = holdings.into();
        assert_eq!(try_as(&trusted, &frame), Err(DropReason::BadSourceMac), "whatever the port may do");
    }
}

/// Attacks 12 and 28: the MAC half is here, for ARP as for all else; the bindings inside ARP are steering's.
#[test]
fn a_source_mac_is_the_senders() {
    let arp = ethernet(ALL, OTHER, ethertype::ARP, &[0; 28]);
    for frame in [arp, tcp("10.1.0.11", "10.1.0.21").sent_by(OTHER).frame(), rarp(OTHER, 3, OTHER, OTHER, 0)]
    {
        assert_eq!(attempt(&frame), Err(DropReason::MacSpoofed));
    }
}

#[test]
fn a_source_address_is_the_senders() {
    for packet in [
        tcp("10.1.0.12", "10.1.0.21"),
        tcp("fd00::12", "fd00::21"),
        tcp("10.10.0.0", "10.1.0.21"),
        // In the prefix of a pair, and another's: configured, or named by a pair
        tcp("10.9.0.7", "10.1.0.1"),
        tcp("10.9.0.8", "10.1.0.1"),
        // Link-local: of another MAC, not from a MAC at all, or outside fe80::/64
        tcp("fe80::ff:fe00:2", "fd00::21"),
        tcp("fe80::1", "fd00::21"),
        tcp("fe80:0:0:1:0:ff:fe00:1", "fd00::21"),
        tcp("169.254.1.1", "10.1.0.21"),
    ] {
        assert_eq!(attempt(&packet.frame()), Err(DropReason::IpSpoofed), "{}", packet.src);
    }
    assert_eq!(attempt(&tcp("fe80::ff:fe00:1", "fd00::21").frame()), Ok(()));
    assert_eq!(attempt(&tcp("fe80::ff:fe00:99", "fd00::21").sent_by(PAIRED).frame()), Ok(()));
    // Addresses of one MAC leave with another: a macvlan's by its parent device, and the other way round.
    assert_eq!(attempt(&tcp("10.1.0.100", "10.1.0.21").frame()), Ok(()));
    assert_eq!(attempt(&tcp("10.1.0.11", "10.1.0.21").sent_by(PAIRED).frame()), Ok(()));
    let mut holdings = holdings();
    holdings.addresses.push(addr("fe80::1"));
    let configured = Sender { holdings: holdings.into(), ..sender() };
    assert_eq!(try_as(&configured, &tcp("fe80::1", "fd00::21").frame()), Ok(()));
}

/// Without port security a sender bridges and routes for others, and takes nobody's address all the same.
#[test]
fn what_is_configured_for_others_is_refused_without_port_security_too() {
    let mut open = sender();
    open.port_security = false;
    for (packet, wants) in [
        (tcp("198.51.100.9", "10.1.0.1"), Ok(())),
        (tcp("10.1.0.77", "10.1.0.1").sent_by([2, 0, 0, 0, 0, 0x77]), Ok(())),
        (tcp("10.9.0.7", "10.1.0.1"), Err(DropReason::IpSpoofed)),
        (Packet::udp("10.9.0.7", "10.1.0.1", 5000, 53), Err(DropReason::IpSpoofed)),
        (tcp("fd00::21", "fd00::1"), Err(DropReason::IpSpoofed)),
        (tcp("fe80::ff:fe00:2", "fd00::1"), Err(DropReason::IpSpoofed)),
        (tcp("10.9.0.8", "10.1.0.1").sent_by([2, 0, 0, 0, 0, 0x77]), Err(DropReason::IpSpoofed)),
        (tcp("10.1.0.77", "10.1.0.1").sent_by(OTHER), Err(DropReason::MacSpoofed)),
    ] {
        assert_eq!(try_as(&open, &packet.frame()), wants, "{} {:?}", packet.src, packet.macs);
    }
}

/// A link-local address of the sender's own choice: whoever keeps the table of them says that it is the sender's.
#[test]
fn a_chosen_address_is_the_senders() {
    let (frame, sender) = (Packet::icmp("fe80::1234", "ff02::2", 133).hops(255).frame(), sender());
    let view = View::parse(&frame).unwrap();
    let (ownership, site) = (ownership(&sender), site());
    let context = Context { sender: &sender, ownership: &ownership, site: &site, chosen: false };
    assert_eq!(admit(&view, &frame, &context), Err(DropReason::IpSpoofed));
    assert_eq!(admit(&view, &frame, &Context { chosen: true, ..context }), Ok(()));
}

#[test]
fn the_unspecified_address_only_asks_for_one() {
    let client = || Packet::udp("0.0.0.0", "255.255.255.255", 68, 67).sent_to(ALL);
    let detection = || Packet::icmp("::", "ff02::1:ff00:11", 135).hops(255);
    for packet in [
        client(),
        Packet::udp("0.0.0.0", "255.255.255.255", 1068, 67).sent_to(ALL),
        detection(),
        Packet::icmp("::", "ff02::16", 143).hops(1),
        Packet::icmp("::", "ff02::1:ff00:11", 131).hops(1),
        Packet::icmp("::", "ff02::2", 133).hops(255),
    ] {
        assert_eq!(attempt(&packet.frame()), Ok(()), "{} {}", packet.dst, packet.body[0]);
        assert_eq!(attempt(&packet.sent_by(OTHER).frame()), Err(DropReason::MacSpoofed));
    }
    for packet in [
        client().sent_to(OTHER),
        Packet::udp("0.0.0.0", "10.1.0.1", 68, 67).sent_to(ALL),
        Packet::udp("0.0.0.0", "255.255.255.255", 68, 53).sent_to(ALL),
        tcp("0.0.0.0", "10.1.0.21"),
        Packet::icmp("0.0.0.0", "10.1.0.21", 8),
        detection().hops(64),
        Packet::icmp("::", "fd00::21", 135).hops(255),
        Packet::icmp("::", "ff02::1", 135).hops(255),
        Packet::icmp("::", "ff02::2", 133).hops(64),
        Packet::icmp("::", "ff02::16", 143).hops(64),
        Packet::icmp("::", "ff05::16", 143).hops(1),
        Packet::icmp("::", "ff02::1", 136).hops(255),
        Packet::icmp("::", "ff02::1", 128),
        Packet::udp("::", "ff02::1:2", 546, 547),
        tcp("::", "fd00::21"),
    ] {
        assert_eq!(attempt(&packet.frame()), Err(DropReason::IpSpoofed), "{} {:?}", packet.dst, packet.body);
    }
}

/// Attack 13: tags of any kind, LLC and SNAP, wrong 802.3 lengths.
#[test]
fn tags_and_lengths_do_not_get_past_the_checks() {
    let honest = tcp("10.1.0.11", "10.1.0.21").frame();
    let spoofed = tcp("10.1.0.12", "10.1.0.21").frame();
    let mut aware = sender();
    aware.tags.most = 1;
    let mut double = sender();
    double.tags.most = 2;
    for tpid in [ethertype::VLAN, ethertype::QINQ] {
        let [one, two, three] = [1, 2, 3].map(|n| tagged(&honest, &vec![tpid; n]));
        assert_eq!(attempt(&one), Err(DropReason::VlanTagged), "a priority tag (VLAN 0) is a tag");
        assert_eq!(try_as(&aware, &one), Ok(()));
        assert_eq!(try_as(&aware, &two), Err(DropReason::VlanTagged));
        assert_eq!(try_as(&double, &two), Ok(()));
        assert_eq!(try_as(&double, &three), Err(DropReason::VlanTagged), "a third tag is never read");
        assert_eq!(try_as(&aware, &tagged(&spoofed, &[tpid])), Err(DropReason::IpSpoofed));
        assert_eq!(try_as(&double, &tagged(&spoofed, &[tpid, tpid])), Err(DropReason::IpSpoofed));
    }
    let with_vid = |vid: u16| {
        let mut frame = tagged(&honest, &[ethertype::VLAN]);
        frame[14..16].copy_from_slice(&(7 << 13 | vid).to_be_bytes());
        frame
    };
    let mut some = aware.clone();
    some.tags.vlans = Some([5..=5, 100..=199].into());
    for (vid, passes) in
        [(0, true), (1, false), (5, true), (99, false), (100, true), (199, true), (200, false)]
    {
        let said = if passes { Ok(()) } else { Err(DropReason::VlanTagged) };
        assert_eq!(try_as(&some, &with_vid(vid)), said, "VLAN {vid}");
        assert_eq!(try_as(&aware, &with_vid(vid)), Ok(()), "any");
    }
    assert_eq!(try_as(&some, &tagged(&spoofed, &[ethertype::VLAN])), Err(DropReason::IpSpoofed));
    some.tags.most = 2;
    let two = tagged(&with_vid(100), &[ethertype::QINQ]);
    assert_eq!(
        try_as(&some, &two),
        Err(DropReason::VlanTagged),
        "which of two VLANs it is, nobody could say"
    );
    let snap = [&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0][..], &honest[14..]].concat();
    for length in [0, 8, snap.len() as u16, 1500, 1501, 0x5ff] {
        let frame = ethernet(OTHER, MINE, length, &snap);
        assert_eq!(attempt(&frame), Err(DropReason::EthertypeRefused), "length {length}");
        let mut trusted = sender();
        trusted.port_security = false;
        trusted.ethertypes = vec![length];
        assert_eq!(
            try_as(&trusted, &frame),
            Err(DropReason::EthertypeRefused),
            "not even where it is written"
        );
    }
}

/// Attack 14: rogue DHCP and DHCPv6 servers, whatever the network is configured for.
#[test]
fn only_a_dhcp_server_answers_dhcp() {
    let mut server = sender();
    server.dhcp_server = true;
    for packet in [
        Packet::udp("10.1.0.11", "10.1.0.21", 67, 68),
        Packet::udp("10.1.0.11", "255.255.255.255", 67, 68).sent_to(ALL),
        Packet::udp("10.1.0.11", "10.1.0.21", 67, 67),
        Packet::udp("10.1.0.11", "10.1.0.21", 1067, 68),
        Packet::udp("fe80::ff:fe00:1", "fe80::2", 547, 546),
        Packet::udp("fd00::11", "fd00::21", 547, 547),
        Packet::udp("fd00::11", "fd00::21", 1547, 546),
    ] {
        assert_eq!(attempt(&packet.frame()), Err(DropReason::DhcpServerGuard), "{:?}", packet.body);
        assert_eq!(try_as(&server, &packet.frame()), Ok(()));
    }
    // Ports of the other family's DHCP mean nothing.
    assert_eq!(attempt(&Packet::udp("10.1.0.11", "10.1.0.21", 547, 546).frame()), Ok(()));
    assert_eq!(attempt(&Packet::udp("fd00::11", "fd00::21", 67, 68).frame()), Ok(()));
}

/// Attacks 14 and 15: rogue router advertisements and redirects, also behind extension headers and in fragments.
#[test]
fn only_a_router_advertises_itself() {
    let mut router = sender();
    router.router = true;
    let hidden = |kind: u8, headers: &[u8], first: u8| {
        let body = [headers, &[kind, 0, 0, 0, 0, 0, 0, 0]].concat();
        Packet::new("fe80::ff:fe00:1", "ff02::1", first, &body).hops(255)
    };
    for kind in [134, 137] {
        for packet in [
            Packet::icmp("fe80::ff:fe00:1", "ff02::1", kind).hops(255),
            hidden(kind, &[58, 0, 1, 4, 0, 0, 0, 0], 60),
            hidden(kind, &[60, 0, 1, 4, 0, 0, 0, 0, 58, 0, 1, 4, 0, 0, 0, 0], 0),
            hidden(kind, &[58, 0, 0, 1, 0, 0, 0, 9], 44),
        ] {
            assert_eq!(attempt(&packet.frame()), Err(DropReason::RaGuard), "{kind} {:?}", packet.body);
            assert_eq!(try_as(&router, &packet.frame()), Ok(()));
        }
    }
    for kind in [5, 9] {
        assert_eq!(attempt(&Packet::icmp("10.1.0.11", "10.1.0.21", kind).frame()), Err(DropReason::RaGuard));
    }
    // RFC 7113: a first fragment that leaves the ICMP header to a later one cannot be judged.
    let cut = Packet::new("fe80::ff:fe00:1", "ff02::1", 44, &[58, 0, 0, 1, 0, 0, 0, 9, 134, 0]).hops(255);
    assert_eq!(attempt(&cut.frame()), Err(DropReason::FragmentTiny));
    assert_eq!(
        attempt(&hidden(134, &[60, 0, 0, 1, 0, 0, 0, 9, 58, 0, 1, 4, 0, 0, 0, 0], 44).frame()),
        Err(DropReason::RaGuard)
    );
}

/// Attack 25: loopback, land, class E, multicast and broadcast sources; the same with port security off.
#[test]
fn impossible_addresses_are_refused() {
    let mut open = sender();
    open.port_security = false;
    for (src, dst) in [
        ("127.0.0.1", "10.1.0.21"),
        ("10.1.0.11", "127.1.2.3"),
        ("10.1.0.11", "10.1.0.11"),
        ("224.0.0.1", "10.1.0.21"),
        ("255.255.255.255", "10.1.0.21"),
        ("240.0.0.1", "10.1.0.21"),
        ("10.1.0.11", "240.0.0.1"),
        ("10.1.0.11", "255.255.255.254"),
        ("10.1.0.11", "0.0.0.0"),
        ("10.1.0.11", "0.1.2.3"),
        ("0.1.2.3", "10.1.0.21"),
        ("0.0.0.0", "0.0.0.0"),
        ("::1", "fd00::21"),
        ("fd00::11", "::1"),
        ("fd00::11", "::"),
        ("fd00::11", "fd00::11"),
        ("ff02::1", "fd00::21"),
        ("::", "::"),
    ] {
        for who in [&sender(), &open] {
            assert_eq!(try_as(who, &tcp(src, dst).frame()), Err(DropReason::Martian), "{src} > {dst}");
        }
    }
}

/// Attacks 5 and 6: VXLAN or anything else to a VTEP, underlay or management address.
#[test]
fn tenants_do_not_reach_the_overlays_own_addresses() {
    let mut open = sender();
    open.port_security = false;
    for packet in [
        Packet::udp("10.1.0.11", "192.0.2.1", 40_000, 4789),
        tcp("10.1.0.11", "198.51.100.255"),
        Packet::icmp("10.1.0.11", "198.51.100.0", 8),
        Packet::udp("fd00::11", "2001:db8:1:ffff::1", 40_000, 4789),
    ] {
        for who in [&sender(), &open] {
            assert_eq!(try_as(who, &packet.frame()), Err(DropReason::ReservedDestination), "{}", packet.dst);
        }
    }
    assert_eq!(attempt(&tcp("10.1.0.11", "192.0.2.2").frame()), Ok(()));
    assert_eq!(attempt(&tcp("10.1.0.11", "198.51.101.0").frame()), Ok(()));
    assert_eq!(attempt(&Packet::udp("10.1.0.11", "10.1.0.21", 40_000, 4789).frame()), Ok(()));
    let wide = (addr("0.0.0.0"), 95);
    assert_eq!(Site::new(&[], &[wide], 4789).unwrap_err(), BadReserved { network: wide.0, len: 95 });
}

#[test]
fn whoever_has_access_sends_to_the_overlays_own_addresses_but_no_vxlan() {
    let mut named = sender();
    named.underlay_access = true;
    for packet in [
        tcp("10.1.0.11", "198.51.100.255"),
        Packet::udp("10.1.0.11", "192.0.2.1", 40_000, 4790),
        Packet::udp("10.1.0.11", "192.0.2.1", 4789, 161),
        Packet::udp("10.1.0.11", "10.1.0.21", 40_000, 4789),
    ] {
        assert_eq!(try_as(&named, &packet.frame()), Ok(()), "{}", packet.dst);
    }
    for (source, to) in [("10.1.0.11", "192.0.2.1"), ("fd00::11", "2001:db8:1:ffff::1")] {
        let tunnel = Packet::udp(source, to, 40_000, 4789).frame();
        assert_eq!(try_as(&named, &tunnel), Err(DropReason::VxlanInVxlan), "{to}");
    }
    // Whose packets they are is checked as ever.
    assert_eq!(try_as(&named, &tcp("10.1.0.12", "192.0.2.1").frame()), Err(DropReason::IpSpoofed));
}

/// Attack 16: one answer needs one entitled asker; an ARP frame from a MAC of the appliance itself is a loop.
#[test]
fn frames_of_our_own_do_not_come_back_in() {
    let frame = ethernet(ALL, OURS, ethertype::ARP, &[0; 28]);
    assert_eq!(attempt(&frame), Err(DropReason::BadSourceMac));
}

#[test]
fn without_port_security_a_sender_may_stand_for_others() {
    let mut open = sender();
    open.port_security = false;
    for packet in [
        tcp("10.77.0.1", "10.1.0.21").sent_by([2, 0, 0, 0, 0, 0x77]),
        Packet::udp("10.1.0.11", "10.1.0.21", 67, 68),
        Packet::icmp("fe80::9", "ff02::1", 134).hops(255),
    ] {
        assert_eq!(try_as(&open, &packet.frame()), Ok(()));
    }
    assert_eq!(try_as(&open, &ethernet(OTHER, MINE, 0x8847, &[0; 46])), Err(DropReason::EthertypeRefused));
    let tag = tagged(&tcp("10.1.0.11", "10.1.0.21").frame(), &[ethertype::VLAN]);
    assert_eq!(try_as(&open, &tag), Err(DropReason::VlanTagged));
}

#[test]
fn a_trace_sees_every_check() {
    let frame = Packet::udp("10.1.0.12", "192.0.2.1", 67, 68).frame();
    let (sender, site) = (sender(), site());
    let ownership = ownership(&sender);
    let context = Context { sender: &sender, ownership: &ownership, site: &site, chosen: false };
    let said = explain(&View::parse(&frame).unwrap(), &frame, &context);
    let refused: Vec<_> =
        said.iter().filter_map(|(check, result)| result.err().map(|why| (*check, why))).collect();
    assert_eq!(
        refused,
        [
            (Check::AddressOwned, DropReason::IpSpoofed),
            (Check::DhcpServer, DropReason::DhcpServerGuard),
            (Check::Destination, DropReason::ReservedDestination),
        ]
    );
    assert_eq!(said.len(), Check::ALL.len());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4000) })]

    /// The promise of the module, for frames with a few bytes changed.
    #[test]
    fn what_passes_belongs_to_the_sender(
        noise in proptest::collection::vec((0usize..64, any::<u8>()), 0..6),
        kind in 0usize..5,
    ) {
        let mut frame = match kind {
            0 => tcp("10.1.0.11", "10.1.0.21").frame(),
            1 => Packet::udp("10.1.0.11", "10.1.0.21", 40_000, 4789).frame(),
            2 => Packet::icmp("fd00::11", "fd00::21", 128).frame(),
            3 => rarp(MINE, 3, MINE, MINE, 0),
            _ => tagged(&tcp("fd00::11", "fd00::21").frame(), &[ethertype::VLAN]),
        };
        let len = frame.len();
        for (at, value) in noise {
            frame[at % len] = value;
        }
        // The IPv4 checksum is put right, or nearly nothing would get as far as the checks.
        if frame[12..14] == [8, 0] {
            frame[24..26].fill(0);
            let sum = eastgate_wire::checksum::checksum(&frame[14..34]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        let who = sender();
        let (ownership, site) = (ownership(&who), site());
        let context = Context { sender: &who, ownership: &ownership, site: &site, chosen: false };
        if let Ok(view) = View::parse(&frame) && admit(&view, &frame, &context).is_ok() {
            prop_assert!(who.holdings.has_mac(view.src) && view.tags == 0);
            match view.net {
                Net::Ip(ip) => {
                    let owned = ownership.may_send(&who.holdings, true, view.src, ip.src);
                    prop_assert!(owned || ip.src.is_unspecified());
                    prop_assert!(ip.src != ip.dst && !site.is_reserved(ip.dst));
                }
                Net::Arp => {}
                Net::Other => prop_assert_eq!(view.ethertype, ethertype::RARP),
            }
        }
    }
}
