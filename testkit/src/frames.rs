//! Frames of numbered stations, built by etherparse, which shares no code with the path.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on ends with what is missing")]

use eastgate_wire::{
    Offload, PartialChecksum,
    checksum::{Sum, pseudo_header},
};
use etherparse::{
    IpFragOffset, IpHeaders, IpNumber, Ipv4Header, PacketBuilder, PacketBuilderStep, SlicedPacket, TcpHeader,
    TransportSlice,
};

/// Everyone
pub const BROADCAST: [u8; 6] = [0xff; 6];

/// A station's MAC.
pub const fn mac(station: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, station]
}

/// A station's IPv4 address.
pub const fn v4(station: u8) -> [u8; 4] {
    [10, 1, 0, station]
}

/// A station's IPv6 address.
pub const fn v6(station: u8) -> [u8; 16] {
    [0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, station]
}

/// An IPv4 packet from one station to another, its header changed.
pub fn ip4(a: u8, b: u8, change: impl FnOnce(&mut Ipv4Header)) -> PacketBuilderStep<IpHeaders> {
    let mut header = Ipv4Header::new(0, 64, IpNumber::UDP, v4(a), v4(b)).unwrap();
    header.dont_fragment = false;
    header.identification = 7;
    change(&mut header);
    PacketBuilder::ethernet2(mac(a), mac(b)).ip(IpHeaders::Ipv4(header, Default::default()))
}

/// An IPv6 packet from one station to another.
pub fn ip6(a: u8, b: u8) -> PacketBuilderStep<IpHeaders> {
    PacketBuilder::ethernet2(mac(a), mac(b)).ipv6(v6(a), v6(b), 64)
}

/// A UDP packet over IPv4.
pub fn udp(a: u8, b: u8, sport: u16, dport: u16) -> Vec<u8> {
    udp_of(ip4(a, b, |_| ()), sport, dport, b"question")
}

/// A UDP packet over IPv6.
pub fn udp6(a: u8, b: u8, sport: u16, dport: u16) -> Vec<u8> {
    udp_of(ip6(a, b), sport, dport, b"question")
}

/// A UDP packet behind these headers.
pub fn udp_of(ip: PacketBuilderStep<IpHeaders>, sport: u16, dport: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    ip.udp(sport, dport).write(&mut out, payload).unwrap();
    out
}

/// An IPv4 UDP packet of this many bytes, IP header included.
pub fn udp_sized(a: u8, b: u8, dont_fragment: bool, len: usize) -> Vec<u8> {
    let payload: Vec<u8> = (0..len - 28).map(|n| n as u8).collect();
    udp_of(ip4(a, b, |ip| ip.dont_fragment = dont_fragment), 4000, 53, &payload)
}

/// An echo request over IPv4.
pub fn ping(a: u8, b: u8, id: u16) -> Vec<u8> {
    let mut out = Vec::new();
    ip4(a, b, |_| ()).icmpv4_echo_request(id, 1).write(&mut out, b"ping").unwrap();
    out
}

/// The reply to it.
pub fn pong(a: u8, b: u8, id: u16) -> Vec<u8> {
    let mut out = Vec::new();
    ip4(a, b, |_| ()).icmpv4_echo_reply(id, 1).write(&mut out, b"ping").unwrap();
    out
}

/// A TCP connection of station `a` to station `b`. The client's numbers begin at 1000, the server's at 5000.
#[derive(Clone, Copy, Debug)]
pub struct Talk {
    /// The client
    pub a: u8,
    /// The server
    pub b: u8,
    /// The client's port
    pub sport: u16,
    /// The server's port
    pub dport: u16,
}

impl Talk {
    /// The client's SYN.
    pub fn syn(self) -> Vec<u8> {
        self.syn_with_mss(1460)
    }

    /// Likewise, with this MSS.
    pub fn syn_with_mss(self, mss: u16) -> Vec<u8> {
        let options = [
            etherparse::TcpOptionElement::MaximumSegmentSize(mss),
            etherparse::TcpOptionElement::WindowScale(7),
        ];
        let mut out = Vec::new();
        let tcp = ip4(self.a, self.b, df).tcp(self.sport, self.dport, 1000, 65535);
        tcp.syn().options(&options).unwrap().write(&mut out, &[]).unwrap();
        out
    }

    /// The server's SYN and ACK.
    pub fn syn_ack(self) -> Vec<u8> {
        let options = [
            etherparse::TcpOptionElement::MaximumSegmentSize(1460),
            etherparse::TcpOptionElement::WindowScale(7),
        ];
        let mut out = Vec::new();
        let tcp = ip4(self.b, self.a, df).tcp(self.dport, self.sport, 5000, 65535);
        tcp.syn().ack(1001).options(&options).unwrap().write(&mut out, &[]).unwrap();
        out
    }

    /// Client to server, behind the handshake.
    pub fn data(self, payload: &[u8]) -> Vec<u8> {
        let mut tcp = TcpHeader::new(self.sport, self.dport, 1001, 65535);
        (tcp.ack, tcp.acknowledgment_number) = (true, 5001);
        let mut out = Vec::new();
        ip4(self.a, self.b, df).tcp_header(tcp).write(&mut out, payload).unwrap();
        out
    }

    /// The FIN of the client (0) or of the server (1) of a connection in which nothing was sent; the server's
    /// acknowledges the client's.
    pub fn fin(self, side: usize) -> Vec<u8> {
        let (from, to) = [(self.a, self.b), (self.b, self.a)][side];
        let (sport, dport) = [(self.sport, self.dport), (self.dport, self.sport)][side];
        let mut tcp = TcpHeader::new(sport, dport, [1001, 5001][side], 65535);
        (tcp.fin, tcp.ack, tcp.acknowledgment_number) = (true, true, [5001, 1002][side]);
        let mut out = Vec::new();
        ip4(from, to, df).tcp_header(tcp).write(&mut out, &[]).unwrap();
        out
    }

    /// The client's last segment, behind both FINs.
    pub fn last_ack(self) -> Vec<u8> {
        let mut tcp = TcpHeader::new(self.sport, self.dport, 1002, 65535);
        (tcp.ack, tcp.acknowledgment_number) = (true, 5002);
        let mut out = Vec::new();
        ip4(self.a, self.b, df).tcp_header(tcp).write(&mut out, &[]).unwrap();
        out
    }

    /// Server to client, behind the handshake.
    pub fn answer(self, payload: &[u8]) -> Vec<u8> {
        let mut tcp = TcpHeader::new(self.dport, self.sport, 5001, 65535);
        (tcp.ack, tcp.acknowledgment_number) = (true, 1001);
        let mut out = Vec::new();
        ip4(self.b, self.a, df).tcp_header(tcp).write(&mut out, payload).unwrap();
        out
    }
}

/// Puts the transport checksum right, where there is one.
pub fn mend(frame: &mut [u8]) {
    let Ok(view) = eastgate_wire::View::parse(frame) else { return };
    let Some(ip) = view.ip().filter(|ip| ip.fragment.is_none()) else { return };
    let (l3, l4) = (usize::from(view.l3), usize::from(ip.l4));
    let at = l4
        + match ip.proto {
            1 | 58 => 2,
            6 => 16,
            17 => 6,
            _ => return,
        };
    let len = if ip.proto == 17 { u16::from_be_bytes([frame[l4 + 4], frame[l4 + 5]]) } else { ip.l4_len };
    let addresses = if ip.src.is_v4() { l3 + 12..l3 + 20 } else { l3 + 8..l3 + 40 };
    let pseudo = match ip.proto {
        1 => Sum::ZERO,
        protocol => pseudo_header(&frame[addresses], &[], protocol, len.into()),
    };
    frame[at..at + 2].fill(0);
    let sum = pseudo.bytes(&frame[l4..l4 + usize::from(len)]).finish();
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Forbids routers to cut the packet.
pub fn df(header: &mut Ipv4Header) {
    header.dont_fragment = true;
}

/// Part of a datagram: `body` at `offset`, both in bytes.
pub fn fragment(a: u8, b: u8, id: u16, offset: u16, more: bool, body: &[u8]) -> Vec<u8> {
    let mut ip = Ipv4Header::new(body.len() as u16, 64, IpNumber::UDP, v4(a), v4(b)).unwrap();
    ip.identification = id;
    (ip.more_fragments, ip.dont_fragment) = (more, false);
    ip.fragment_offset = IpFragOffset::try_new(offset / 8).unwrap();
    ip.header_checksum = ip.calc_header_checksum();
    [&mac(b)[..], &mac(a), &[8, 0], &ip.to_bytes(), body].concat()
}

/// The IP payload of a UDP datagram, in pieces of `size` bytes: offset and bytes of each.
pub fn pieces(frame: &[u8], size: usize) -> Vec<(u16, Vec<u8>)> {
    frame[34..].chunks(size).enumerate().map(|(n, piece)| ((n * size) as u16, piece.to_vec())).collect()
}

/// An ARP packet: operation, Ethernet destination, who says so, what is said of whom.
pub fn arp(operation: u8, to: [u8; 6], sender: u8, target_mac: [u8; 6], target: [u8; 4]) -> Vec<u8> {
    let fixed = [8, 6, 0, 1, 8, 0, 6, 4, 0, operation];
    [&to[..], &mac(sender), &fixed, &mac(sender), &v4(sender), &target_mac, &target].concat()
}

/// Who has `target`? Asked of everyone.
pub fn who_has(sender: u8, target: u8) -> Vec<u8> {
    arp(1, BROADCAST, sender, [0; 6], v4(target))
}

/// What an ARP packet says of its sender: operation, MAC, address.
pub fn arp_says(frame: &[u8]) -> (u8, [u8; 6], [u8; 4]) {
    assert_eq!(frame[12..20], [8, 6, 0, 1, 8, 0, 6, 4], "ARP for Ethernet and IPv4");
    (frame[21], frame[22..28].try_into().unwrap(), frame[28..32].try_into().unwrap())
}

/// A neighbour solicitation for `target`, to its solicited-node group.
pub fn solicit(sender: u8, target: u8) -> Vec<u8> {
    let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, target];
    let body = [&v6(target)[..], &[1, 1], &mac(sender)].concat();
    icmp6(sender, [0x33, 0x33, 0xff, 0, 0, target], v6(sender), group, 135, &body)
}

/// An ICMPv6 message with hop limit 255; the first four bytes behind the checksum are zero.
pub fn icmp6(sender: u8, to: [u8; 6], src: [u8; 16], dst: [u8; 16], kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let builder = PacketBuilder::ethernet2(mac(sender), to).ipv6(src, dst, 255);
    builder.icmpv6_raw(kind, 0, [0; 4]).write(&mut out, body).unwrap();
    out
}

/// The same frame to another MAC.
pub fn to(mut frame: Vec<u8>, mac: [u8; 6]) -> Vec<u8> {
    frame[..6].copy_from_slice(&mac);
    frame
}

/// The same frame from another MAC.
pub fn from(mut frame: Vec<u8>, mac: [u8; 6]) -> Vec<u8> {
    frame[6..12].copy_from_slice(&mac);
    frame
}

/// The same frame behind a VLAN tag.
pub fn tagged(frame: &[u8], id: u16) -> Vec<u8> {
    let [a, b] = id.to_be_bytes();
    [&frame[..12], &[0x81, 0, a, b], &frame[12..]].concat()
}

/// An ICMP error about a frame, from station `a` to station `b`: it quotes the packet's first 28 bytes.
pub fn icmp_error(a: u8, b: u8, kind: u8, code: u8, about: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    ip4(a, b, |_| ()).icmpv4_raw(kind, code, [0; 4]).write(&mut out, &about[14..42]).unwrap();
    out
}

/// Whether IP and transport checksums are right, as etherparse sees it.
pub fn checksums_are_right(frame: &[u8]) -> bool {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(etherparse::NetSlice::Ipv4(ip)) = &packet.net else { panic!("IPv4") };
    let header = ip.header().to_header();
    let transport = match packet.transport.unwrap() {
        TransportSlice::Tcp(tcp) => {
            tcp.to_header().calc_checksum_ipv4(&header, tcp.payload()).unwrap() == tcp.checksum()
        }
        TransportSlice::Udp(udp) => {
            udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap() == udp.checksum()
        }
        _ => true,
    };
    header.calc_header_checksum() == header.header_checksum && transport
}

/// The one's complement sum of some bytes (RFC 1071), folded, not inverted.
pub fn ones_sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| u64::from(word[0]) << 8 | u64::from(*word.get(1).unwrap_or(&0)));
    let mut sum: u64 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A UDP or TCP packet over IPv4 as a sender hands it over that leaves its checksum to the device.
pub fn left_open(mut frame: Vec<u8>) -> (Vec<u8>, Offload) {
    let offset = if frame[23] == 6 { 16 } else { 6 };
    let pseudo = [&frame[26..34], &[0, frame[23]], &(frame.len() as u16 - 34).to_be_bytes()].concat();
    let at = 34 + usize::from(offset);
    frame[at..at + 2].copy_from_slice(&ones_sum(&pseudo).to_be_bytes());
    (frame, Offload { checksum: Some(PartialChecksum { start: 34, offset }), gso: None })
}

/// What a device does with a checksum that was left to it.
pub fn finish(frame: &mut [u8], offload: &Offload) {
    let Some(PartialChecksum { start, offset }) = offload.checksum else { return };
    let (start, offset) = (usize::from(start), usize::from(offset));
    let sum = !ones_sum(&frame[start..]);
    frame[start + offset..start + offset + 2].copy_from_slice(&sum.to_be_bytes());
}

/// A VXLAN datagram's payload (RFC 7348 section 5), built here so that the path's own encoder is not its judge.
pub fn vxlan(vni: u32, frame: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = vni.to_be_bytes();
    [&[8, 0, 0, 0, a, b, c, 0], frame].concat()
}
