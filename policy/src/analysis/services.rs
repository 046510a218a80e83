//! Services in words that a packet has: protocols, ports, ICMP types.

use eastgate_wire::{
    Family,
    view::{proto, tcp_flags},
};

use super::cells::{Cell, SOURCES, Span};
use crate::{
    compile::intervals::{BELOW_PROTOCOL, UNREAD, key},
    rule::{Header, PortProtocol, Probe},
};

/// A box of services.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Slice {
    /// Protocols from the first to the last
    pub protocols: (u8, u8),
    /// Destination ports from the first to the last, or ICMP types and codes (type times 256, plus code); none for all. Only
    /// of a single protocol that has them.
    pub below: Option<(u16, u16)>,
    /// Source ports from the first to the last; none for all. Only of a single protocol that has them.
    pub source: Option<(u16, u16)>,
    /// DSCP; none for all
    pub dscp: Option<ByteSet>,
    /// TCP flags; none for all. Only of TCP.
    pub flags: Option<ByteSet>,
}

/// Some of the numbers from 0 to 255: combinations of TCP flags, or values of DSCP.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ByteSet([u128; 2]);

impl ByteSet {
    /// All of them
    pub const ALL: Self = Self([u128::MAX; 2]);
    /// All values of DSCP
    pub const DSCP: Self = Self([(1 << 64) - 1, 0]);

    /// Those that fit.
    #[must_use]
    pub fn of(fits: impl Fn(u8) -> bool) -> Self {
        let half = |from: u8| (0..128).filter(|at| fits(from + at)).fold(0, |half, at| half | 1u128 << at);
        Self([half(0), half(128)])
    }

    pub(super) const fn or(self, other: Self) -> Self {
        let ([a, b], [c, d]) = (self.0, other.0);
        Self([a | c, b | d])
    }

    pub(super) const fn and(self, other: Self) -> Self {
        let ([a, b], [c, d]) = (self.0, other.0);
        Self([a & c, b & d])
    }

    /// Those that are not among the others.
    #[must_use]
    pub const fn but(self, other: Self) -> Self {
        let ([a, b], [c, d]) = (self.0, other.0);
        Self([a & !c, b & !d])
    }

    /// Are there none?
    #[must_use]
    pub const fn is_empty(self) -> bool {
        matches!(self.0, [0, 0])
    }

    /// Is this number among them?
    #[must_use]
    pub const fn contains(self, number: u8) -> bool {
        let [low, high] = self.0;
        (if number < 128 { low >> number } else { high >> (number - 128) }) & 1 == 1
    }

    /// Each of them, in ascending order.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..=u8::MAX).filter(move |number| self.contains(*number))
    }

    /// The bits that are set in all of them, and those that are set in none, where they are all numbers like that.
    #[must_use]
    pub fn as_mask(self) -> Option<(u8, u8)> {
        let set = self.iter().fold(u8::MAX, |common, number| common & number);
        let clear = self.iter().fold(u8::MAX, |common, number| common & !number);
        (self.iter().count() == 1 << (8 - (set | clear).count_ones().min(8))).then_some((set, clear))
    }
}

/// Which services are asked about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Domain(Vec<Span>);

impl Domain {
    /// All of them.
    #[must_use]
    pub fn whole() -> Self {
        Self(vec![(0, key(u8::MAX, BELOW_PROTOCOL))])
    }

    /// One protocol.
    #[must_use]
    pub fn protocol(number: u8) -> Self {
        Self(vec![(key(number, 0), key(number, BELOW_PROTOCOL))])
    }

    /// One destination port of a protocol.
    #[must_use]
    pub fn port(number: u8, port: u16) -> Self {
        let key = key(number, u32::from(port));
        Self(vec![(key, key)])
    }

    /// One ICMP type, whatever its code.
    #[must_use]
    pub fn icmp(number: u8, kind: u8) -> Self {
        let first = key(number, u32::from(kind) << 8);
        Self(vec![(first, first + 0xff)])
    }

    pub(super) fn spans(&self) -> &[Span] {
        &self.0
    }
}

/// What is below a protocol in packets of a family: the last number, and whether it is the only one.
const fn below(protocol: u8, family: Family) -> (u32, u32) {
    let has_fields = match (protocol, family) {
        (proto::ICMP, Family::V4) | (proto::ICMPV6, Family::V6) => true,
        _ => PortProtocol::from_number(protocol).is_some(),
    };
    if has_fields { (0, UNREAD - 1) } else { (UNREAD, UNREAD) }
}

impl Slice {
    /// Every packet
    pub const ANY: Self =
        Self { protocols: (0, u8::MAX), below: None, source: None, dscp: None, flags: None };

    /// The packets of a family in a span of keys, as slices in ascending order. There may be none.
    pub(super) fn of(span: Span, cell: &Cell, family: Family) -> Vec<Self> {
        let Cell { source, dscp, flags } = *cell;
        let source = (source != SOURCES).then_some((source.0 as u16, source.1 as u16));
        let dscp = (dscp != ByteSet::DSCP).then_some(dscp);
        let flags = (flags != ByteSet::ALL).then_some(flags);
        let mut slices: Vec<Self> = Vec::new();
        for protocol in (span.0 >> 17) as u8..=(span.1 >> 17) as u8 {
            let all = below(protocol, family);
            let first = span.0.saturating_sub(key(protocol, 0)).max(all.0);
            let last = span.1.saturating_sub(key(protocol, 0)).min(all.1);
            if first > last || span.1 < key(protocol, 0) {
                continue;
            }
            let below = ((first, last) != all).then_some((first as u16, last as u16));
            let slice = Self { protocols: (protocol, protocol), below, source, dscp, flags };
            match slices.last_mut() {
                Some(before) if before.joins(&slice) => before.protocols.1 = protocol,
                _ => slices.push(slice),
            }
        }
        slices
    }

    /// The protocols of the other one follow its own, and nothing else is asked of either.
    pub(super) fn joins(&self, next: &Self) -> bool {
        let bare = |it: &Self| it.below.is_none() && it.source.is_none() && it.flags.is_none();
        bare(self)
            && bare(next)
            && self.dscp == next.dscp
            && self.protocols.1.checked_add(1) == Some(next.protocols.0)
    }

    /// Whether a packet is in it.
    #[must_use]
    pub fn contains(&self, probe: &Probe) -> bool {
        let within = |span: Option<(u16, u16)>, value: Option<u16>| {
            span.is_none_or(|(first, last)| value.is_some_and(|value| first <= value && value <= last))
        };
        let (below, source) = match probe.header {
            Header::Ports { source, destination } => (Some(destination), Some(source)),
            Header::Icmp { kind, code } => (Some(u16::from(kind) << 8 | u16::from(code)), None),
            Header::Unread => (None, None),
        };
        self.protocols.0 <= probe.proto
            && probe.proto <= self.protocols.1
            && within(self.below, below)
            && within(self.source, source)
            && self.dscp.is_none_or(|dscp| dscp.contains(probe.dscp))
            && self.flags.is_none_or(|flags| probe.proto == proto::TCP && flags.contains(probe.tcp_flags))
    }

    /// A packet of a family that is in it: of a protocol that people know, where there is one.
    #[must_use]
    pub fn example(&self, family: Family) -> Probe {
        let icmp = match family {
            Family::V4 => proto::ICMP,
            Family::V6 => proto::ICMPV6,
        };
        let known = [proto::TCP, proto::UDP, icmp];
        let is_in = |number: &u8| (self.protocols.0..=self.protocols.1).contains(number);
        let proto = known.into_iter().find(is_in).unwrap_or(self.protocols.0);
        let pick = |span: Option<(u16, u16)>, wanted: u16| match span {
            Some((first, last)) => wanted.clamp(first, last),
            None => wanted,
        };
        let header = if PortProtocol::from_number(proto).is_some() {
            Header::Ports { source: pick(self.source, 40_000), destination: pick(self.below, 1) }
        } else if below(proto, family).0 == 0 {
            let echo = if proto == icmp && family == Family::V6 { 128 << 8 } else { 8 << 8 };
            let [kind, code] = pick(self.below, echo).to_be_bytes();
            Header::Icmp { kind, code }
        } else {
            Header::Unread
        };
        let dscp = self.dscp.and_then(|dscp| dscp.iter().next()).unwrap_or(0);
        // The first packet of a connection, where that is possible.
        let flags = self.flags.unwrap_or(ByteSet::ALL);
        let syn = Some(tcp_flags::SYN).filter(|syn| flags.contains(*syn)).or_else(|| flags.iter().next());
        let tcp_flags = syn.filter(|_| proto == proto::TCP).unwrap_or(0);
        Probe { proto, header, dscp, tcp_flags }
    }
}
