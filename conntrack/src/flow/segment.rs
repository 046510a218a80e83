//! What the flow table is told of a packet, and the one form in which it remembers whose it is.

use std::hash::{Hash, Hasher};

use eastgate_wire::{
    Addr, FlowKey, Leg, Vni,
    view::{HeaderBits, Icmp, IcmpRole, Ip, Sctp, Tcp, Transport, proto, tcp_flags},
};

/// A packet, as the flow table sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Whose it is, as it travels: source is the sender
    pub key: FlowKey,
    /// What it is to its flow
    pub kind: SegmentKind,
    /// How many packets it stands for: a GSO packet counts its segments
    pub packets: u32,
    /// How many bytes it counts for
    pub bytes: u32,
    /// What a flow that it opens is remembered to have begun with
    pub header: HeaderBits,
}

/// What a packet is to its flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SegmentKind {
    /// TCP, whole or first fragment
    Tcp(Tcp),
    /// UDP, whole or first fragment
    Udp,
    /// SCTP, whole or first fragment
    Sctp(Sctp),
    /// An ICMP query or its answer
    Query(Query),
    /// A protocol without ports
    Other,
    /// A later fragment, which has no transport header of its own
    Later(Later),
}

/// An ICMP query or its answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Query {
    /// Asks, or answers
    pub request: bool,
    /// Type of the request; an answer carries that of the request it answers
    pub kind: u8,
    /// Code
    pub code: u8,
}

/// What a later fragment has from its first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Later {
    /// ICMP: the query it continues
    pub query: Option<Query>,
    /// TCP: the sequence number behind this fragment's last byte
    pub tcp_end: Option<u32>,
}

impl Segment {
    /// The packet behind an IP header. Nothing for what belongs to no flow: ICMP errors
    /// (see [`super::FlowTable::related`]), ICMP notices, which are decided one by one, and fragments that
    /// carry no transport header (see [`crate::fragment`]).
    #[must_use]
    #[inline]
    pub fn of(vni: Vni, ip: &Ip, packets: u32, bytes: u32) -> Option<Self> {
        let kind = match ip.transport {
            Transport::Tcp(tcp) => SegmentKind::Tcp(tcp),
            Transport::Udp { .. } => SegmentKind::Udp,
            Transport::Sctp(sctp) => SegmentKind::Sctp(sctp),
            Transport::Icmp(icmp) => SegmentKind::Query(Query::of(icmp, ip.src.is_v4())?),
            Transport::Ports { .. } | Transport::Other => SegmentKind::Other,
            Transport::LaterFragment | Transport::Incomplete => return None,
        };
        let (sport, dport) = ip.ports();
        let key = FlowKey { src: ip.src, dst: ip.dst, vni, sport, dport, proto: ip.proto, leg: Leg::DIRECT };
        Some(Self { key, kind, packets, bytes, header: ip.header_bits() })
    }

    /// [`offload_key`] of this packet.
    #[must_use]
    #[inline]
    pub fn offload_key(&self) -> Option<FlowKey> {
        offload_key(&self.key, self.query())
    }

    /// The ICMP query that the packet is, answers or continues.
    #[inline]
    pub(super) const fn query(&self) -> Option<Query> {
        match self.kind {
            SegmentKind::Query(query) => Some(query),
            SegmentKind::Later(later) => later.query,
            SegmentKind::Tcp(_) | SegmentKind::Udp | SegmentKind::Sctp(_) | SegmentKind::Other => None,
        }
    }
}

/// By which something faster than the flow table knows a packet's flow: the key of one of its packets, and of an echo
/// that of the request, so that it says who asks. Nothing for flows that are nobody else's: those that are neither
/// TCP, UDP nor an echo.
#[must_use]
#[inline]
pub fn offload_key(packet: &FlowKey, query: Option<Query>) -> Option<FlowKey> {
    match (packet.proto, query) {
        (proto::TCP | proto::UDP, _) => Some(*packet),
        (_, Some(query)) if query.is_echo() => Some(if query.request { *packet } else { packet.reversed() }),
        _ => None,
    }
}

impl Query {
    /// The query in an ICMP message; nothing for other messages. `v4` tells ICMP from ICMPv6.
    #[must_use]
    pub const fn of(icmp: Icmp, v4: bool) -> Option<Self> {
        let request = match icmp.role(v4) {
            IcmpRole::Request => true,
            IcmpRole::Reply => false,
            IcmpRole::Error | IcmpRole::Notice => return None,
        };
        let kind = match (request, icmp.kind) {
            (true, kind) => kind,
            (false, 0) => 8,
            (false, kind) => kind - 1,
        };
        Some(Self { request, kind, code: icmp.code })
    }

    /// The type of the message itself
    #[must_use]
    pub const fn own_kind(&self) -> u8 {
        match (self.request, self.kind) {
            (true, kind) => kind,
            (false, 8) => 0,
            (false, kind) => kind.wrapping_add(1),
        }
    }

    /// Is it an echo request, or the reply to one (RFC 792, RFC 4443 section 4)?
    #[must_use]
    pub const fn is_echo(&self) -> bool {
        matches!((self.kind, self.code), (8 | 128, 0))
    }

    /// The echo request of a protocol that has one.
    pub(super) const fn echo(protocol: u8) -> Option<Self> {
        match protocol {
            proto::ICMP => Some(Self { request: true, kind: 8, code: 0 }),
            proto::ICMPV6 => Some(Self { request: true, kind: 128, code: 0 }),
            _ => None,
        }
    }
}

/// Which way a packet travels in its flow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Direction {
    /// As the packet that opened the flow
    Original,
    /// Against it
    Reply,
}

impl Direction {
    /// 0 or 1
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The other one.
    #[must_use]
    pub const fn reversed(self) -> Self {
        match self {
            Self::Original => Self::Reply,
            Self::Reply => Self::Original,
        }
    }
}

/// A flow's key as the table stores it: the same for both directions, in 48 bytes.
///
/// An ICMP query has besides its identifier its type, its code and who asks in the key. Without them an allowed
/// ping would let timestamp requests of the same identifier pass, and requests of the other side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Key {
    low: [u32; 4],
    high: [u32; 4],
    vni: u32,
    low_port: u16,
    high_port: u16,
    proto: u8,
    query: u8,
    code: u8,
    /// 0: no query; 1: the low end asks; 2: the high end does
    requester: u8,
    leg: u32,
}

impl Key {
    /// The stored form, and whether the packet travels from the high end to the low one.
    #[inline]
    pub(super) fn of(key: &FlowKey, query: Option<Query>) -> (Self, bool) {
        let (canonical, swapped) = key.canonical();
        let (kind, code, requester) = match query {
            None => (0, 0, 0),
            Some(query) => (query.kind, query.code, if query.request != swapped { 1 } else { 2 }),
        };
        let stored = Self {
            low: split(canonical.src),
            high: split(canonical.dst),
            vni: canonical.vni.get(),
            low_port: canonical.sport,
            high_port: canonical.dport,
            proto: canonical.proto,
            query: kind,
            code,
            requester,
            leg: canonical.leg.bits(),
        };
        (stored, swapped)
    }

    #[inline]
    pub(super) fn of_segment(segment: &Segment) -> (Self, bool) {
        Self::of(&segment.key, segment.query())
    }

    /// That of an [`offload_key`].
    pub(super) fn of_offload(packet: &FlowKey) -> (Self, bool) {
        Self::of(packet, Query::echo(packet.proto))
    }

    /// Do its flow's packets have an [`offload_key`]?
    pub(super) fn may_be_offloaded(&self) -> bool {
        offload_key(&self.as_travelling(false), self.query()).is_some()
    }

    /// What its flow's first packet asks, where it is a query.
    pub(super) fn query(&self) -> Option<Query> {
        (self.requester != 0).then_some(Query { request: true, kind: self.query, code: self.code })
    }

    /// The key as a packet from the low end (`swapped` false) or from the high end has it.
    pub(super) fn as_travelling(&self, swapped: bool) -> FlowKey {
        let key = FlowKey {
            src: join(self.low),
            dst: join(self.high),
            vni: self.vni(),
            sport: self.low_port,
            dport: self.high_port,
            proto: self.proto,
            leg: Leg::from_bits(self.leg),
        };
        if swapped { key.reversed() } else { key }
    }

    pub(super) fn vni(&self) -> Vni {
        let [_, a, b, c] = self.vni.to_be_bytes();
        Vni::from_wire([a, b, c])
    }

    pub(super) const fn proto(&self) -> u8 {
        self.proto
    }
}

impl Hash for Key {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        for [a, b, c, d] in [self.low, self.high] {
            state.write_u64(u64::from(a) << 32 | u64::from(b));
            state.write_u64(u64::from(c) << 32 | u64::from(d));
        }
        state.write_u64(
            u64::from(self.vni) << 32 | u64::from(self.low_port) << 16 | u64::from(self.high_port),
        );
        let kind = u32::from_be_bytes([self.proto, self.query, self.code, self.requester]);
        state.write_u64(u64::from(kind) << 32 | u64::from(self.leg));
    }
}

const fn split(addr: Addr) -> [u32; 4] {
    let bits = addr.bits();
    [(bits >> 96) as u32, (bits >> 64) as u32, (bits >> 32) as u32, bits as u32]
}

fn join([a, b, c, d]: [u32; 4]) -> Addr {
    Addr::from_bits(u128::from(a) << 96 | u128::from(b) << 64 | u128::from(c) << 32 | u128::from(d))
}

/// Whether some state of some connection sends this combination of flags (null, Christmas tree, SYN with FIN or
/// RST, FIN without ACK are sent by none). PSH, URG and the ECN flags go with all of them.
#[inline]
pub(super) const fn flags_make_sense(flags: u8) -> bool {
    use tcp_flags::{ACK, FIN, RST, SYN};
    const SYN_ACK: u8 = SYN | ACK;
    const RST_ACK: u8 = RST | ACK;
    const FIN_ACK: u8 = FIN | ACK;
    matches!(flags & (SYN | FIN | RST | ACK), SYN | SYN_ACK | ACK | FIN_ACK | RST | RST_ACK)
}
