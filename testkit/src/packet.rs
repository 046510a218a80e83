//! Frames made by hand, for what no honest kernel sends, and the reading of those that come back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use eastgate_wire::{
    MacAddr, View,
    checksum::{Sum, checksum, pseudo_header},
    view::{Transport, ethertype, proto},
};
use etherparse::PacketBuilder;

const TTL: u8 = 64;
/// Neighbour discovery must not have come through a router (RFC 4861 section 7.1).
const ND_HOP_LIMIT: u8 = 255;
const ICMP_ECHO: u8 = 8;
const ICMPV6_ECHO: u8 = 128;
const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;
/// An ARP packet for IPv4 over Ethernet (RFC 826).
const ARP_LEN: usize = 28;

/// ARP's two operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArpOp {
    /// Who has it?
    Request = 1,
    /// I have
    Reply = 2,
}

/// An ARP packet's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// What it does
    pub op: ArpOp,
    /// Who sends it
    pub sender: (MacAddr, Ipv4Addr),
    /// Whom it is about, or for; a request knows no MAC
    pub target: (MacAddr, Ipv4Addr),
}

impl Arp {
    /// The packet in an Ethernet frame from its sender.
    #[must_use]
    pub fn frame(&self, to: MacAddr) -> Vec<u8> {
        let mut packet = vec![0, 1, 8, 0, 6, 4, 0, self.op as u8];
        for (mac, address) in [self.sender, self.target] {
            packet.extend(mac.0);
            packet.extend(address.octets());
        }
        ethernet(to, self.sender.0, ethertype::ARP, &packet)
    }

    /// The ARP packet in `frame`, if there is one.
    #[must_use]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let view = View::parse(frame).ok().filter(|view| view.ethertype == ethertype::ARP)?;
        let packet: &[u8; ARP_LEN] = frame.get(usize::from(view.l3)..)?.first_chunk()?;
        let op = match packet.get(..8)? {
            [0, 1, 8, 0, 6, 4, 0, 1] => ArpOp::Request,
            [0, 1, 8, 0, 6, 4, 0, 2] => ArpOp::Reply,
            _ => return None,
        };
        let pair = |at: usize| {
            let address: [u8; 4] = *packet.get(at + 6..)?.first_chunk()?;
            Some((MacAddr::from_slice(packet.get(at..)?)?, Ipv4Addr::from(address)))
        };
        Some(Self { op, sender: pair(8)?, target: pair(18)? })
    }
}

/// A neighbour solicitation by `sender` for `target`, to the solicited-node group (RFC 4861 section 4.3).
#[must_use]
pub fn solicitation(sender: (MacAddr, Ipv6Addr), target: Ipv6Addr) -> Vec<u8> {
    let [.., a, b, c] = target.octets();
    let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
    let mut body = vec![NEIGHBOR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    body.extend(target.octets());
    body.extend([1, 1]);
    body.extend(sender.0.0);
    let packet = ipv6(sender.1, group, proto::ICMPV6, ND_HOP_LIMIT, body, 2);
    ethernet(MacAddr([0x33, 0x33, 0xff, a, b, c]), sender.0, ethertype::IPV6, &packet)
}

/// An unsolicited neighbour advertisement by `from` to `to`, that overrides what is known of `target` with the
/// sender's MAC (section 4.4).
#[must_use]
pub fn advertisement(from: (MacAddr, Ipv6Addr), target: Ipv6Addr, to: (MacAddr, Ipv6Addr)) -> Vec<u8> {
    const OVERRIDE: u8 = 0x20;
    let mut body = vec![NEIGHBOR_ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0];
    body.extend(target.octets());
    body.extend([2, 1]);
    body.extend(from.0.0);
    ethernet(to.0, from.0, ethertype::IPV6, &ipv6(from.1, to.1, proto::ICMPV6, ND_HOP_LIMIT, body, 2))
}

/// The target and the link-layer address (section 4.6.1) of a neighbour advertisement in `frame`.
#[must_use]
pub fn read_advertisement(frame: &[u8]) -> Option<(Ipv6Addr, MacAddr)> {
    let view = View::parse(frame).ok()?;
    let ip = view.ip().filter(|ip| ip.proto == proto::ICMPV6)?;
    let message = frame.get(usize::from(ip.l4)..)?.get(..usize::from(ip.l4_len))?;
    let target: [u8; 16] = *message.get(8..)?.first_chunk()?;
    match (message.first()?, message.get(24..26)?) {
        (&NEIGHBOR_ADVERTISEMENT, [2, 1]) => Some((target.into(), MacAddr::from_slice(message.get(26..)?)?)),
        _ => None,
    }
}

/// An echo request of `size` bytes with its IP header, DF set; its data begins with `token`. None when the
/// addresses are of two families, or `size` is less than the headers.
#[must_use]
pub fn echo(from: IpAddr, to: IpAddr, id: u16, token: &str, size: u16) -> Option<Vec<u8>> {
    let header = if from.is_ipv4() { 20 } else { 40 };
    let mut body = vec![if from.is_ipv4() { ICMP_ECHO } else { ICMPV6_ECHO }, 0, 0, 0];
    body.extend(id.to_be_bytes());
    body.extend([0, 1]);
    let headers = body.len();
    body.extend(token.bytes());
    body.resize(usize::from(size).checked_sub(header).filter(|len| *len >= headers)?, 0);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let sum = checksum(&body).to_be_bytes();
            body.get_mut(2..4)?.copy_from_slice(&sum);
            Some(ipv4(from, to, proto::ICMP, &body))
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => Some(ipv6(from, to, proto::ICMPV6, TTL, body, 2)),
        _ => None,
    }
}

/// A UDP datagram with its IP header. None when the addresses are of two families.
#[must_use]
pub fn udp(from: (IpAddr, u16), to: (IpAddr, u16), payload: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    body.extend(from.1.to_be_bytes());
    body.extend(to.1.to_be_bytes());
    body.extend(u16::try_from(8 + payload.len()).ok()?.to_be_bytes());
    body.extend([0, 0]);
    body.extend(payload);
    match (from.0, to.0) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let sum = pseudo_header(&from.octets(), &to.octets(), proto::UDP, body.len() as u32);
            put_checksum(&mut body, sum, 6);
            Some(ipv4(from, to, proto::UDP, &body))
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => Some(ipv6(from, to, proto::UDP, TTL, body, 6)),
        _ => None,
    }
}

/// The first segment of a TCP connection with its IP header. None when the addresses are of two families.
#[must_use]
pub fn syn(from: (IpAddr, u16), to: (IpAddr, u16)) -> Option<Vec<u8>> {
    const WINDOW: u16 = 64_240;
    let ip = match (from.0, to.0) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), TTL),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), TTL),
        _ => return None,
    };
    let mut packet = Vec::new();
    ip.tcp(from.1, to.1, 0, WINDOW).syn().write(&mut packet, &[]).ok()?;
    Some(packet)
}

/// `packet` in an Ethernet frame.
#[must_use]
pub fn ethernet(to: MacAddr, from: MacAddr, ethertype: u16, packet: &[u8]) -> Vec<u8> {
    [&to.0[..], &from.0[..], &ethertype.to_be_bytes(), packet].concat()
}

/// An IP packet in an Ethernet frame.
#[must_use]
pub fn ip_frame(to: MacAddr, from: MacAddr, packet: &[u8]) -> Vec<u8> {
    let v4 = packet.first().is_some_and(|first| first >> 4 == 4);
    ethernet(to, from, if v4 { ethertype::IPV4 } else { ethertype::IPV6 }, packet)
}

/// The ICMP error in `frame` as type and code, with the MTU it tells if it says "too big".
#[must_use]
pub fn read_icmp_error(frame: &[u8]) -> Option<(u8, u8, Option<u32>)> {
    let view = View::parse(frame).ok()?;
    let ip = view.ip()?;
    let Transport::Icmp(icmp) = ip.transport else { return None };
    let rest: [u8; 4] = *frame.get(usize::from(ip.l4) + 4..)?.first_chunk()?;
    let mtu = match (ip.proto, icmp.kind, icmp.code) {
        (proto::ICMP, 3, 4) => Some(u32::from_be_bytes([0, 0, rest[2], rest[3]])),
        (proto::ICMPV6, 2, _) => Some(u32::from_be_bytes(rest)),
        (proto::ICMP, 3 | 11, _) | (proto::ICMPV6, 1 | 3, _) => None,
        _ => return None,
    };
    Some((icmp.kind, icmp.code, mtu))
}

/// The ports (or twice the ICMP identifier) of the packet from `from` to `to` that an ICMP error in `frame` quotes.
#[must_use]
pub fn quoted_ports(frame: &[u8], from: IpAddr, to: IpAddr) -> Option<(u16, u16)> {
    let view = View::parse(frame).ok()?;
    let quoted = view.ip()?.quoted(frame)?;
    (quoted.src.to_ip() == from && quoted.dst.to_ip() == to).then_some((quoted.sport, quoted.dport))
}

fn ipv4(from: Ipv4Addr, to: Ipv4Addr, proto: u8, body: &[u8]) -> Vec<u8> {
    const DONT_FRAGMENT: u8 = 0x40;
    let len = (20 + body.len()) as u16;
    let mut header = vec![0x45, 0];
    header.extend(len.to_be_bytes());
    header.extend([0, 0, DONT_FRAGMENT, 0, TTL, proto, 0, 0]);
    header.extend(from.octets());
    header.extend(to.octets());
    let sum = checksum(&header).to_be_bytes();
    if let Some(field) = header.get_mut(10..12) {
        field.copy_from_slice(&sum);
    }
    header.extend(body);
    header
}

/// `checksum_at` is where the transport's checksum field is, in bytes from the start of `body`.
fn ipv6(
    from: Ipv6Addr,
    to: Ipv6Addr,
    proto: u8,
    hop_limit: u8,
    mut body: Vec<u8>,
    checksum_at: usize,
) -> Vec<u8> {
    let sum = pseudo_header(&from.octets(), &to.octets(), proto, body.len() as u32);
    put_checksum(&mut body, sum, checksum_at);
    let mut header = vec![0x60, 0, 0, 0];
    header.extend((body.len() as u16).to_be_bytes());
    header.extend([proto, hop_limit]);
    header.extend(from.octets());
    header.extend(to.octets());
    header.extend(body);
    header
}

fn put_checksum(body: &mut [u8], pseudo: Sum, at: usize) {
    let sum = pseudo.bytes(body).finish().to_be_bytes();
    if let Some(field) = body.get_mut(at..at + 2) {
        field.copy_from_slice(&sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{PacketHeaders, TransportHeader};

    const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn pairs() -> [(IpAddr, IpAddr); 2] {
        [(ip("10.1.0.11"), ip("10.1.0.12")), (ip("fd00:1::11"), ip("fd00:1::12"))]
    }

    #[test]
    fn arp_round_trip() {
        let (from, to) = (Ipv4Addr::new(10, 1, 0, 11), Ipv4Addr::new(10, 1, 0, 12));
        let arp = Arp { op: ArpOp::Request, sender: (A, from), target: (MacAddr::ZERO, to) };
        assert_eq!(Arp::parse(&arp.frame(MacAddr::BROADCAST)), Some(arp));
    }

    #[test]
    fn another_parser_reads_udp_with_a_right_checksum() {
        for (from, to) in pairs() {
            let frame = ip_frame(B, A, &udp((from, 40000), (to, 53), b"token").unwrap());
            let parsed = PacketHeaders::from_ethernet_slice(&frame).unwrap();
            let Some(TransportHeader::Udp(header)) = parsed.transport else { panic!("no UDP in {parsed:?}") };
            let expected = match parsed.net.unwrap() {
                etherparse::NetHeaders::Ipv4(ip, _) => header.calc_checksum_ipv4(&ip, parsed.payload.slice()),
                etherparse::NetHeaders::Ipv6(ip, _) => header.calc_checksum_ipv6(&ip, parsed.payload.slice()),
                other => panic!("{other:?}"),
            };
            assert_eq!(header.checksum, expected.unwrap());
            assert_eq!((header.destination_port, parsed.payload.slice()), (53, &b"token"[..]));
        }
    }

    #[test]
    fn echo_has_the_size_asked_for() {
        for (from, to) in pairs() {
            let packet = echo(from, to, 7, "token", 1550).unwrap();
            assert_eq!(packet.len(), 1550);
            let frame = ip_frame(B, A, &packet);
            let parsed = PacketHeaders::from_ethernet_slice(&frame).unwrap();
            assert!(matches!(
                parsed.transport,
                Some(TransportHeader::Icmpv4(_) | TransportHeader::Icmpv6(_))
            ));
            assert_eq!(echo(from, to, 7, "token", 27), None);
        }
    }

    #[test]
    fn advertisement_is_read_back_and_solicitation_is_none() {
        let target: Ipv6Addr = "fd00:1::11".parse().unwrap();
        let frame = advertisement((A, target), target, (B, "fd00:1::12".parse().unwrap()));
        assert_eq!(read_advertisement(&frame), Some((target, A)));
        assert_eq!(read_advertisement(&solicitation((A, target), target)), None);
    }
}
