//! The frames that a trace sends: the one that was asked about, and those that a flow which is there was opened by.

use eastgate_api::TraceRequest;
use eastgate_wire::{Addr, FlowKey, MacAddr, View, checksum, view::proto};
use etherparse::{
    IpHeaders, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, PacketBuilder, PacketBuilderStep,
};

/// Numbers of the two sides of a connection that is there, of who opened it first: the sequence numbers of TCP, the tags of SCTP.
pub(super) const NUMBERS: [u32; 2] = [1000, 5000];

/// ICMP identifier of a query that belongs to nothing.
const IDENTIFIER: u16 = 1;

/// What is to be sent.
pub(super) struct Shape<'a> {
    pub(super) request: &'a TraceRequest,
    /// Destination and source
    pub(super) macs: [MacAddr; 2],
    /// Whom a question for an address is about, when it is sent to a group
    pub(super) target: Option<Addr>,
    /// The flow between its ends that lives, by the packet that opened it
    pub(super) flow: Option<FlowKey>,
}

impl Shape<'_> {
    /// The frame.
    pub(super) fn build(&self) -> Result<Vec<u8>, String> {
        let TraceRequest { proto: number, src, dst, sport, dport, .. } = *self.request;
        let kind = self.request.icmp.unwrap_or(if number == proto::ICMP { (8, 0) } else { (128, 0) });
        match number {
            proto::TCP => match self.flow {
                Some(flow) => {
                    let back = flow.src != src || flow.sport != sport;
                    tcp(self.macs, (src, dst), (sport, dport), side(NUMBERS, back))
                }
                None => syn(self.macs, (src, dst), (sport, dport)),
            },
            proto::ICMP | proto::ICMPV6 => self.icmp(kind),
            proto::SCTP => sctp(self.macs, (src, dst), (sport, dport), NUMBERS, false),
            _ => plain(self.macs, (src, dst), (sport, dport), number),
        }
    }

    fn icmp(&self, (kind, code): (u8, u8)) -> Result<Vec<u8>, String> {
        let TraceRequest { proto: number, src, dst, .. } = *self.request;
        let [high, low] =
            self.flow.filter(|flow| flow.proto == number).map_or(IDENTIFIER, |flow| flow.sport).to_be_bytes();
        let is_error =
            if number == proto::ICMP { matches!(kind, 3 | 4 | 11 | 12) } else { matches!(kind, 1..=4) };
        let neighbor = number == proto::ICMPV6 && matches!(kind, 133..=137);
        let payload = match self.flow {
            _ if neighbor => self.neighbor_message(kind),
            // It quotes what the receiver has sent.
            Some(flow) if is_error => {
                let towards = if flow.src == dst { flow } else { flow.reversed() };
                let quoted = match towards.proto {
                    proto::TCP => tcp(
                        self.macs,
                        (towards.src, towards.dst),
                        (towards.sport, towards.dport),
                        side(NUMBERS, towards != flow),
                    ),
                    proto::ICMP | proto::ICMPV6 => query(self.macs, &towards, towards != flow),
                    proto::SCTP => sctp(
                        self.macs,
                        (towards.src, towards.dst),
                        (towards.sport, towards.dport),
                        NUMBERS,
                        towards != flow,
                    ),
                    other => {
                        plain(self.macs, (towards.src, towards.dst), (towards.sport, towards.dport), other)
                    }
                };
                quoted?.get(14..).unwrap_or_default().to_vec()
            }
            // Of nobody's: a datagram that was never sent.
            None if is_error => {
                plain(self.macs, (dst, src), (1, 1), proto::UDP)?.get(14..).unwrap_or_default().to_vec()
            }
            _ => Vec::new(),
        };
        let rest = match kind {
            // An advertisement that nobody asked for overrides what was known.
            136 if neighbor => [0x20, 0, 0, 0],
            _ if neighbor || is_error => [0; 4],
            _ => [high, low, 0, 1],
        };
        let hops = if neighbor { 255 } else { 64 };
        icmp(self.macs, (src, dst), hops, number, [kind, code], rest, &payload)
    }
}

impl Shape<'_> {
    /// What stands behind the first eight bytes of a message of neighbour discovery (RFC 4861 section 4).
    fn neighbor_message(&self, kind: u8) -> Vec<u8> {
        let address = |address: Addr| address.bits().to_be_bytes().to_vec();
        match kind {
            133 => Vec::new(),
            134 => vec![0; 8],
            135 => address(self.target.unwrap_or(self.request.dst)),
            136 => address(self.request.src),
            _ => [address(self.request.dst), address(self.request.dst)].concat(),
        }
    }
}

/// A packet of each way of a flow: of the one that opened it, and of the other. Of a connection, with these sequence numbers.
pub(super) fn opening(
    flow: &FlowKey,
    mac_of: &dyn Fn(Addr) -> MacAddr,
    numbers: [u32; 2],
) -> Option<[Vec<u8>; 2]> {
    let (a, b) = (mac_of(flow.src), mac_of(flow.dst));
    let there = one_of(flow, [b, a], numbers, false)?;
    let back = one_of(&flow.reversed(), [a, b], numbers, true)?;
    Some([there, back])
}

/// Sequence numbers as a segment has them: its sender's own, and the other's.
const fn side([own, other]: [u32; 2], back: bool) -> [u32; 2] {
    if back { [other, own] } else { [own, other] }
}

fn one_of(packet: &FlowKey, macs: [MacAddr; 2], numbers: [u32; 2], back: bool) -> Option<Vec<u8>> {
    let (ends, ports) = ((packet.src, packet.dst), (packet.sport, packet.dport));
    match packet.proto {
        proto::TCP => tcp(macs, ends, ports, side(numbers, back)),
        proto::ICMP | proto::ICMPV6 => query(macs, packet, back),
        proto::SCTP => sctp(macs, ends, ports, numbers, back),
        other => plain(macs, ends, ports, other),
    }
    .ok()
}

/// Whether a frame is a packet of the flow that a packet of this key opened.
pub(super) fn is_of(frame: &[u8], flow: &FlowKey) -> bool {
    let Ok(view) = View::parse(frame) else { return false };
    let Some(ip) = view.ip() else { return false };
    let (sport, dport) = ip.ports();
    let key = FlowKey { src: ip.src, dst: ip.dst, sport, dport, proto: ip.proto, ..*flow };
    key == *flow || key == flow.reversed()
}

fn ip(macs: [MacAddr; 2], (src, dst): (Addr, Addr), hops: u8) -> PacketBuilderStep<IpHeaders> {
    let [to, from] = macs.map(|mac| mac.0);
    let builder = PacketBuilder::ethernet2(from, to);
    let headers = match (src.to_ip(), dst.to_ip()) {
        (std::net::IpAddr::V4(src), std::net::IpAddr::V4(dst)) => {
            let mut header = Ipv4Header { time_to_live: hops, ..Ipv4Header::default() };
            (header.source, header.destination) = (src.octets(), dst.octets());
            IpHeaders::Ipv4(header, Default::default())
        }
        _ => {
            let header = Ipv6Header {
                traffic_class: 0,
                flow_label: Ipv6FlowLabel::ZERO,
                payload_length: 0,
                next_header: IpNumber(0),
                hop_limit: hops,
                source: src.bits().to_be_bytes(),
                destination: dst.bits().to_be_bytes(),
            };
            IpHeaders::Ipv6(header, Default::default())
        }
    };
    builder.ip(headers)
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn syn(macs: [MacAddr; 2], ends: (Addr, Addr), (sport, dport): (u16, u16)) -> Result<Vec<u8>, String> {
    let mut frame = Vec::new();
    ip(macs, ends, 64).tcp(sport, dport, NUMBERS[0], 65_535).syn().write(&mut frame, &[]).map_err(text)?;
    Ok(frame)
}

/// A segment of a connection that is there, of the side that began it (0) or of the other (1).
fn tcp(
    macs: [MacAddr; 2],
    ends: (Addr, Addr),
    (sport, dport): (u16, u16),
    [own, other]: [u32; 2],
) -> Result<Vec<u8>, String> {
    let mut frame = Vec::new();
    ip(macs, ends, 64).tcp(sport, dport, own, 65_535).ack(other).write(&mut frame, &[]).map_err(text)?;
    Ok(frame)
}

fn query(macs: [MacAddr; 2], packet: &FlowKey, answers: bool) -> Result<Vec<u8>, String> {
    let [high, low] = packet.sport.to_be_bytes();
    let kind = match (packet.proto, answers) {
        (proto::ICMP, false) => 8,
        (proto::ICMP, true) => 0,
        (_, false) => 128,
        (_, true) => 129,
    };
    icmp(macs, (packet.src, packet.dst), 64, packet.proto, [kind, 0], [high, low, 0, 1], &[])
}

fn icmp(
    macs: [MacAddr; 2],
    ends: (Addr, Addr),
    hops: u8,
    number: u8,
    [kind, code]: [u8; 2],
    rest: [u8; 4],
    payload: &[u8],
) -> Result<Vec<u8>, String> {
    let mut frame = Vec::new();
    let builder = ip(macs, ends, hops);
    let written = if number == proto::ICMP {
        builder.icmpv4_raw(kind, code, rest).write(&mut frame, payload)
    } else {
        builder.icmpv6_raw(kind, code, rest).write(&mut frame, payload)
    };
    written.map_err(text)?;
    Ok(frame)
}

/// SCTP's INIT, or the INIT ACK that answers it (RFC 9260 section 3.3).
fn sctp(
    macs: [MacAddr; 2],
    ends: (Addr, Addr),
    (sport, dport): (u16, u16),
    [openers, others]: [u32; 2],
    answers: bool,
) -> Result<Vec<u8>, String> {
    const WINDOW_AND_STREAMS: [u8; 12] = [0, 1, 0, 0, 0, 10, 0, 10, 0, 0, 0, 1];
    // An INIT has no tag yet; each end asks for one of its own.
    let (kind, tag, initiate) = if answers { (2, openers, others) } else { (1, 0, openers) };
    let mut packet = [
        &sport.to_be_bytes()[..],
        &dport.to_be_bytes(),
        &u32::to_be_bytes(tag),
        &[0; 4],
        &[kind, 0, 0, 20],
        &u32::to_be_bytes(initiate),
        &WINDOW_AND_STREAMS,
    ]
    .concat();
    if let Some(sum) = checksum::sctp(&packet) {
        packet[8..12].copy_from_slice(&sum);
    }
    let mut frame = Vec::new();
    ip(macs, ends, 64).write(&mut frame, proto::SCTP.into(), &packet).map_err(text)?;
    Ok(frame)
}

/// UDP; or ports, where a protocol has any, and as much as any protocol's smallest header has behind them.
fn plain(
    macs: [MacAddr; 2],
    ends: (Addr, Addr),
    (sport, dport): (u16, u16),
    number: u8,
) -> Result<Vec<u8>, String> {
    let mut frame = Vec::new();
    let builder = ip(macs, ends, 64);
    let written = if number == proto::UDP {
        builder.udp(sport, dport).write(&mut frame, b"eastgate")
    } else {
        let ([a, b], [c, d]) = (sport.to_be_bytes(), dport.to_be_bytes());
        builder.write(&mut frame, number.into(), &[a, b, c, d, 0, 0, 0, 0])
    };
    written.map_err(text)?;
    Ok(frame)
}
