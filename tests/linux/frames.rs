//! Frames of machines `a`, `b` and `c`, written by `etherparse`: nothing of eastgate's own reading or writing is in them.

use etherparse::{
    EtherType, Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder, TcpHeader,
};

/// The largest payload of an Ethernet frame here, in bytes.
pub const MTU: usize = 1500;

/// Of a datagram, what fits in a frame of either family
const LARGEST_PIECE: usize = 1448;

/// A machine: port and addresses follow from its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Host(pub u8);

pub const A: Host = Host(1);
pub const B: Host = Host(2);
pub const C: Host = Host(3);

impl Host {
    pub const fn mac(self) -> [u8; 6] {
        [2, 0, 0, 0, 0, self.0]
    }

    pub const fn v4(self) -> [u8; 4] {
        [10, 1, 0, self.0]
    }

    pub const fn v6(self) -> [u8; 16] {
        [0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, self.0]
    }
}

/// From whom, to whom, and in which family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Way {
    pub from: Host,
    pub to: Host,
    pub v6: bool,
}

impl Way {
    pub const fn back(self) -> Self {
        Self { from: self.to, to: self.from, v6: self.v6 }
    }
}

macro_rules! ip {
    ($way:expr) => {{
        let way: Way = $way;
        let ethernet = PacketBuilder::ethernet2(way.from.mac(), way.to.mac());
        if way.v6 {
            ethernet.ipv6(way.from.v6(), way.to.v6(), 64)
        } else {
            ethernet.ipv4(way.from.v4(), way.to.v4(), 64)
        }
    }};
}

macro_rules! written {
    ($step:expr, $payload:expr) => {{
        let mut frame = Vec::new();
        $step.write_to_vec(&mut frame, $payload).expect("it fits");
        frame
    }};
}

pub fn tcp(way: Way, header: TcpHeader, payload: &[u8]) -> Vec<u8> {
    written!(ip!(way).tcp_header(header), payload)
}

pub fn udp(way: Way, (sport, dport): (u16, u16), payload: &[u8]) -> Vec<u8> {
    written!(ip!(way).udp(sport, dport), payload)
}

/// An ICMP or ICMPv6 message; `rest` are the four bytes behind the checksum.
pub fn icmp(way: Way, kind: u8, code: u8, rest: [u8; 4], payload: &[u8]) -> Vec<u8> {
    if way.v6 {
        written!(ip!(way).icmpv6_raw(kind, code, rest), payload)
    } else {
        written!(ip!(way).icmpv4_raw(kind, code, rest), payload)
    }
}

/// A packet of a protocol without ports.
pub fn other(way: Way, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(way);
    frame.extend(header(way, protocol, payload.len(), None));
    frame.extend_from_slice(payload);
    frame
}

/// A frame of another ethertype.
pub fn raw(from: [u8; 6], to: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let header = Ethernet2Header { source: from, destination: to, ether_type: EtherType(ethertype) };
    let mut frame = header.to_bytes().to_vec();
    frame.extend_from_slice(payload);
    frame
}

/// Spoils the transport checksum.
pub fn spoiled(mut frame: Vec<u8>) -> Vec<u8> {
    let v6 = frame[12] == 0x86;
    let (l4, protocol) = if v6 { (54, frame[20]) } else { (34, frame[23]) };
    let place = l4
        + match protocol {
            6 => 16,
            17 => 6,
            _ => 2,
        };
    frame[place] ^= 0x55;
    if frame[place..place + 2] == [0, 0] {
        frame[place + 1] = 1;
    }
    frame
}

/// Behind the Ethernet header: the packet that an ICMP error quotes.
pub fn packet(frame: &[u8]) -> &[u8] {
    &frame[14..]
}

/// A piece of a packet: where it begins in the payload, what it is, and whether more comes behind it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    pub at: usize,
    pub bytes: Vec<u8>,
    pub more: bool,
}

/// The transport header and payload of a frame, cut after each of `sizes` bytes, and where they end into pieces that fit.
pub fn cut(frame: &[u8], sizes: &[usize]) -> Vec<Piece> {
    let v6 = frame[12] == 0x86;
    let payload = &frame[if v6 { 54 } else { 34 }..];
    let (mut pieces, mut at) = (Vec::new(), 0);
    let mut sizes = sizes.iter().copied().chain(std::iter::repeat(LARGEST_PIECE));
    while at < payload.len() {
        let end = (at + sizes.next().unwrap_or(LARGEST_PIECE)).min(payload.len());
        pieces.push(Piece { at, bytes: payload[at..end].to_vec(), more: end < payload.len() });
        at = end;
    }
    pieces
}

/// A fragment with this identification.
pub fn fragment(way: Way, protocol: u8, id: u16, piece: &Piece) -> Vec<u8> {
    let mut frame = ethernet(way);
    frame.extend(header(way, protocol, piece.bytes.len(), Some((id, piece))));
    frame.extend_from_slice(&piece.bytes);
    frame
}

fn ethernet(way: Way) -> Vec<u8> {
    raw(way.from.mac(), way.to.mac(), if way.v6 { 0x86dd } else { 0x0800 }, &[])
}

fn header(way: Way, protocol: u8, len: usize, fragment: Option<(u16, &Piece)>) -> Vec<u8> {
    if way.v6 {
        let extra = if fragment.is_some() { 8 } else { 0 };
        let mut ip = Ipv6Header {
            payload_length: (len + extra) as u16,
            next_header: IpNumber(protocol),
            hop_limit: 64,
            source: way.from.v6(),
            destination: way.to.v6(),
            ..Ipv6Header::default()
        };
        let Some((id, piece)) = fragment else { return ip.to_bytes().to_vec() };
        ip.next_header = IpNumber::IPV6_FRAGMENTATION_HEADER;
        // RFC 8200 section 4.5
        let offset = (piece.at as u16) | u16::from(piece.more);
        let [o0, o1] = offset.to_be_bytes();
        let [i0, i1] = id.to_be_bytes();
        return [&ip.to_bytes()[..], &[protocol, 0, o0, o1, 0, 0, i0, i1]].concat();
    }
    let mut ip = Ipv4Header::new(len as u16, 64, IpNumber(protocol), way.from.v4(), way.to.v4())
        .expect("it fits in a packet");
    ip.dont_fragment = fragment.is_none();
    if let Some((id, piece)) = fragment {
        ip.identification = id;
        ip.more_fragments = piece.more;
        ip.fragment_offset = IpFragOffset::try_new((piece.at / 8) as u16).expect("below 65,536 bytes");
    }
    ip.header_checksum = ip.calc_header_checksum();
    ip.to_bytes().to_vec()
}

/// What a frame is of a datagram in pieces: identification, place, whether more follows, and the piece.
pub fn as_fragment(frame: &[u8]) -> Option<(u32, Piece)> {
    match frame.get(12..14)? {
        [0x08, 0x00] => {
            let (header, _) = Ipv4Header::from_slice(&frame[14..]).ok()?;
            if !header.is_fragmenting_payload() {
                return None;
            }
            let from = 14 + header.header_len();
            let to = 14 + usize::from(header.total_len);
            let at = usize::from(header.fragment_offset.value()) * 8;
            let bytes = frame.get(from..to)?.to_vec();
            Some((u32::from(header.identification), Piece { at, bytes, more: header.more_fragments }))
        }
        [0x86, 0xdd] if *frame.get(20)? == 44 => {
            let length = usize::from(u16::from_be_bytes([frame[18], frame[19]]));
            let word = u16::from_be_bytes([*frame.get(56)?, *frame.get(57)?]);
            let id = u32::from_be_bytes([*frame.get(58)?, *frame.get(59)?, *frame.get(60)?, *frame.get(61)?]);
            let bytes = frame.get(62..54 + length)?.to_vec();
            Some((id, Piece { at: usize::from(word & !7), bytes, more: word & 1 == 1 }))
        }
        _ => None,
    }
}
