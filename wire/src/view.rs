//! The parsed view of an Ethernet frame: what the path needs to know of it, read once, front to back.
//!
//! A view holds values and offsets, no references, so the frame can be changed while it is at hand. Parsing
//! refuses what no honest sender makes (lengths that underflow, source routes, malformed chains) with the
//! reason; it does not judge who may send what.

use crate::{Addr, DropReason, MacAddr};

/// Ethertypes.
pub mod ethertype {
    /// IPv4
    pub const IPV4: u16 = 0x0800;
    /// ARP
    pub const ARP: u16 = 0x0806;
    /// RARP
    pub const RARP: u16 = 0x8035;
    /// IPv6
    pub const IPV6: u16 = 0x86dd;
    /// IEEE 802.1Q
    pub const VLAN: u16 = 0x8100;
    /// IEEE 802.1ad
    pub const QINQ: u16 = 0x88a8;
}

/// IP protocol numbers.
pub mod proto {
    /// ICMP
    pub const ICMP: u8 = 1;
    /// TCP
    pub const TCP: u8 = 6;
    /// UDP
    pub const UDP: u8 = 17;
    /// DCCP (RFC 4340)
    pub const DCCP: u8 = 33;
    /// ICMPv6
    pub const ICMPV6: u8 = 58;
    /// SCTP (RFC 9260)
    pub const SCTP: u8 = 132;
    /// UDP-Lite (RFC 3828)
    pub const UDPLITE: u8 = 136;
}

/// TCP flags, as they stand in the header.
pub mod tcp_flags {
    /// No more data
    pub const FIN: u8 = 0x01;
    /// Open
    pub const SYN: u8 = 0x02;
    /// Reset
    pub const RST: u8 = 0x04;
    /// Push
    pub const PSH: u8 = 0x08;
    /// Acknowledgement number is valid
    pub const ACK: u8 = 0x10;
    /// Urgent pointer is valid
    pub const URG: u8 = 0x20;
}

/// Bytes of an Ethernet header without tags.
pub const ETHERNET_LEN: usize = 14;

/// A frame, parsed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct View {
    /// Destination MAC
    pub dst: MacAddr,
    /// Source MAC
    pub src: MacAddr,
    /// How many VLAN tags stand before the ethertype (at most 2; with more, `ethertype` is that of the third)
    pub tags: u8,
    /// The outermost tag's control information, when there is one
    pub tci: u16,
    /// Ethertype behind the tags; below 0x600 an 802.3 length
    pub ethertype: u16,
    /// Where the network header begins, in bytes from the start of the frame
    pub l3: u16,
    /// What the frame carries
    pub net: Net,
}

/// What a frame carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Net {
    /// ARP; checked by the responder, which needs all of it
    Arp,
    /// IPv4 or IPv6
    Ip(Ip),
    /// Anything else
    Other,
}

/// An IP header with its options or extension headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ip {
    /// Source address
    pub src: Addr,
    /// Destination address
    pub dst: Addr,
    /// Protocol of the transport header (behind the extension headers)
    pub proto: u8,
    /// TTL or hop limit
    pub ttl: u8,
    /// TOS or traffic class: DSCP and ECN
    pub tos: u8,
    /// IPv4 options or IPv6 extension headers are present (an atomic or real fragment header not counted)
    pub options: bool,
    /// IPv4 only: don't fragment
    pub dont_fragment: bool,
    /// Where the transport header begins, in bytes from the start of the frame
    pub l4: u16,
    /// Bytes from there to the end of the packet as its own length says; padding of the frame is not counted
    pub l4_len: u16,
    /// A fragment of a datagram; an atomic fragment (RFC 6946) is none
    pub fragment: Option<Fragment>,
    /// The transport header
    pub transport: Transport,
}

/// Where a fragment belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fragment {
    /// Identification (16 bits in IPv4, 32 in IPv6)
    pub id: u32,
    /// Offset in bytes
    pub offset: u16,
    /// More fragments follow
    pub more: bool,
    /// Bytes of the datagram that this fragment carries, counted from `offset`; in IPv6 extension headers
    /// behind the fragment header are part of them
    pub len: u16,
}

/// A transport header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// TCP
    Tcp(Tcp),
    /// UDP
    Udp {
        /// Source port
        sport: u16,
        /// Destination port
        dport: u16,
    },
    /// Another protocol whose header begins with two ports (SCTP, DCCP, UDP-Lite), as `Ip::proto` says
    Ports {
        /// Source port
        sport: u16,
        /// Destination port
        dport: u16,
    },
    /// ICMP or ICMPv6, as `Ip::proto` says
    Icmp(Icmp),
    /// A protocol without ports
    Other,
    /// A fragment that is not the first: it has no transport header
    LaterFragment,
    /// A first fragment that ends inside the transport header
    Incomplete,
}

/// A TCP header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tcp {
    /// Source port
    pub sport: u16,
    /// Destination port
    pub dport: u16,
    /// Sequence number
    pub seq: u32,
    /// Acknowledgement number
    pub ack: u32,
    /// Flags, see [`tcp_flags`]
    pub flags: u8,
    /// Window, not scaled
    pub window: u16,
    /// Header length in bytes, options included
    pub header_len: u8,
    /// Window scale option: the shift, on a SYN that has one
    pub window_scale: Option<u8>,
    /// Where the value of the MSS option is, in bytes from the start of the frame, on a SYN that has one
    pub mss_at: Option<u16>,
    /// Bytes of payload
    pub payload: u16,
}

/// The first bytes of an ICMP message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Icmp {
    /// Type
    pub kind: u8,
    /// Code
    pub code: u8,
    /// Identifier; only meaningful in queries
    pub id: u16,
}

/// What an ICMP message is to its flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IcmpRole {
    /// Asks: opens a flow
    Request,
    /// Answers: needs a flow
    Reply,
    /// Reports a failure and quotes the packet that failed
    Error,
    /// None of these (router and neighbour discovery, MLD, redirects ...)
    Notice,
}

impl Icmp {
    /// What the message is to its flow. `family` tells ICMP from ICMPv6.
    #[must_use]
    pub const fn role(self, v4: bool) -> IcmpRole {
        if v4 {
            match self.kind {
                8 | 13 | 15 | 17 => IcmpRole::Request,
                0 | 14 | 16 | 18 => IcmpRole::Reply,
                3 | 4 | 11 | 12 => IcmpRole::Error,
                _ => IcmpRole::Notice,
            }
        } else {
            match self.kind {
                128 => IcmpRole::Request,
                129 => IcmpRole::Reply,
                1..=4 => IcmpRole::Error,
                _ => IcmpRole::Notice,
            }
        }
    }
}

/// The packet quoted inside an ICMP error: enough of it to find its flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quoted {
    /// Source address of the packet that failed
    pub src: Addr,
    /// Its destination address
    pub dst: Addr,
    /// Its protocol
    pub proto: u8,
    /// Source port, or ICMP identifier
    pub sport: u16,
    /// Destination port, or ICMP identifier
    pub dport: u16,
    /// TCP sequence number, where the quotation reaches that far
    pub seq: Option<u32>,
    /// The ICMP query or its answer, when that is what is quoted
    pub icmp: Option<Icmp>,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

impl View {
    /// Reads a frame.
    ///
    /// # Errors
    /// The reason to drop it, when it is not well formed. Frames above 65,535 bytes are not well formed.
    #[inline]
    pub fn parse(frame: &[u8]) -> Result<Self, DropReason> {
        use DropReason::FrameTruncated;
        if frame.len() > usize::from(u16::MAX) + 128 {
            return Err(DropReason::BadIpHeader);
        }
        let header = frame.first_chunk::<ETHERNET_LEN>().ok_or(FrameTruncated)?;
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *header;
        let mut view = Self {
            dst: MacAddr([d0, d1, d2, d3, d4, d5]),
            src: MacAddr([s0, s1, s2, s3, s4, s5]),
            tags: 0,
            tci: 0,
            ethertype: u16::from_be_bytes([t0, t1]),
            l3: ETHERNET_LEN as u16,
            net: Net::Other,
        };
        while view.tags < 2 && matches!(view.ethertype, ethertype::VLAN | ethertype::QINQ) {
            let at = usize::from(view.l3);
            let tci = u16_at(frame, at).ok_or(FrameTruncated)?;
            view.ethertype = u16_at(frame, at + 2).ok_or(FrameTruncated)?;
            if view.tags == 0 {
                view.tci = tci;
            }
            view.tags += 1;
            view.l3 += 4;
        }
        let at = usize::from(view.l3);
        view.net = match view.ethertype {
            ethertype::IPV4 => Net::Ip(Ip::parse_v4(frame, at)?),
            ethertype::IPV6 => Net::Ip(Ip::parse_v6(frame, at)?),
            ethertype::ARP => Net::Arp,
            _ => Net::Other,
        };
        Ok(view)
    }

    /// The IP header, when there is one.
    #[must_use]
    pub const fn ip(&self) -> Option<&Ip> {
        match &self.net {
            Net::Ip(ip) => Some(ip),
            _ => None,
        }
    }
}

impl Ip {
    fn parse_v4(frame: &[u8], at: usize) -> Result<Self, DropReason> {
        use DropReason::{BadIpHeader, FrameTruncated};
        let packet = frame.get(at..).ok_or(FrameTruncated)?;
        let h = packet.first_chunk::<20>().ok_or(FrameTruncated)?;
        let header_len = usize::from(h[0] & 0x0f) * 4;
        let total_len = usize::from(u16::from_be_bytes([h[2], h[3]]));
        if h[0] >> 4 != 4 || header_len < 20 || total_len < header_len {
            return Err(BadIpHeader);
        }
        if total_len > packet.len() {
            return Err(FrameTruncated);
        }
        if crate::checksum::checksum(&packet[..header_len]) != 0 {
            return Err(BadIpHeader);
        }
        if header_len > 20 {
            check_v4_options(&packet[20..header_len])?;
        }
        let field = u16::from_be_bytes([h[6], h[7]]);
        let more = field & 0x2000 != 0;
        let offset = (field & 0x1fff) << 3;
        let fragment = (more || offset != 0).then(|| Fragment {
            id: u32::from(u16::from_be_bytes([h[4], h[5]])),
            offset,
            more,
            len: (total_len - header_len) as u16,
        });
        let mut ip = Self {
            src: Addr::v4([h[12], h[13], h[14], h[15]]),
            dst: Addr::v4([h[16], h[17], h[18], h[19]]),
            proto: h[9],
            ttl: h[8],
            tos: h[1],
            options: header_len > 20,
            dont_fragment: field & 0x4000 != 0,
            l4: (at + header_len) as u16,
            l4_len: (total_len - header_len) as u16,
            fragment,
            transport: Transport::Other,
        };
        ip.transport = ip.parse_transport(frame)?;
        Ok(ip)
    }

    fn parse_v6(frame: &[u8], at: usize) -> Result<Self, DropReason> {
        use DropReason::{BadIpHeader, FrameTruncated, IpOptions};
        let packet = frame.get(at..).ok_or(FrameTruncated)?;
        let (h, rest) = packet.split_first_chunk::<40>().ok_or(FrameTruncated)?;
        if h[0] >> 4 != 6 {
            return Err(BadIpHeader);
        }
        let payload_len = usize::from(u16::from_be_bytes([h[4], h[5]]));
        let payload = rest.get(..payload_len).ok_or(FrameTruncated)?;
        let [src, dst] = [8, 24].map(|from| Addr::v6(*h[from..].first_chunk().unwrap_or(&[0; 16])));
        if src.is_v4() || dst.is_v4() {
            return Err(DropReason::MappedAddress);
        }
        let mut ip = Self {
            src,
            dst,
            proto: h[6],
            ttl: h[7],
            tos: h[0] << 4 | h[1] >> 4,
            options: false,
            dont_fragment: true,
            l4: 0,
            l4_len: 0,
            fragment: None,
            transport: Transport::Other,
        };
        // The chain: hop-by-hop, routing, fragment, destination options. What stands behind an ESP, AH or
        // unknown header is that header's business.
        let mut l4 = 0usize;
        let mut fragments = 0;
        for _ in 0..9 {
            // A first fragment whose chain goes on in a later one (RFC 7112) is told from a truncated packet.
            let short = || if ip.fragment.is_some() { DropReason::FragmentTiny } else { IpOptions };
            match ip.proto {
                0 | 43 | 60 => {
                    let [next, len] = *payload.get(l4..).and_then(|p| p.first_chunk()).ok_or_else(short)?;
                    if ip.proto == 0 && l4 != 0 {
                        return Err(IpOptions);
                    }
                    let len = (usize::from(len) + 1) * 8;
                    let body = payload.get(l4..l4 + len).ok_or_else(short)?;
                    if ip.proto == 43 && body.get(2) == Some(&0) {
                        return Err(DropReason::SourceRoute);
                    }
                    ip.options = true;
                    ip.proto = next;
                    l4 += len;
                }
                44 => {
                    let header: &[u8; 8] =
                        payload.get(l4..).and_then(|p| p.first_chunk()).ok_or_else(short)?;
                    fragments += 1;
                    if fragments > 1 {
                        return Err(DropReason::FragmentHeaders);
                    }
                    let field = u16::from_be_bytes([header[2], header[3]]);
                    let fragment = Fragment {
                        id: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
                        offset: field & 0xfff8,
                        more: field & 1 != 0,
                        len: (payload_len - l4 - 8) as u16,
                    };
                    if fragment.more || fragment.offset != 0 {
                        ip.fragment = Some(fragment);
                    }
                    ip.proto = header[0];
                    l4 += 8;
                    if fragment.offset != 0 {
                        break;
                    }
                }
                _ => break,
            }
        }
        let later = ip.fragment.is_some_and(|f| f.offset != 0);
        if !later && matches!(ip.proto, 0 | 43 | 44 | 60) {
            return Err(IpOptions);
        }
        ip.l4 = (at + 40 + l4) as u16;
        ip.l4_len = (payload_len - l4) as u16;
        ip.transport = ip.parse_transport(frame)?;
        Ok(ip)
    }

    fn parse_transport(&self, frame: &[u8]) -> Result<Transport, DropReason> {
        if self.fragment.is_some_and(|f| f.offset != 0) {
            return Ok(Transport::LaterFragment);
        }
        let at = usize::from(self.l4);
        let len = usize::from(self.l4_len);
        let segment = frame.get(at..at + len).ok_or(DropReason::FrameTruncated)?;
        let parsed = match self.proto {
            proto::TCP => Tcp::parse(segment, at),
            proto::UDP => match segment.first_chunk::<8>() {
                Some(&[s0, s1, d0, d1, l0, l1, ..]) => {
                    let said = usize::from(u16::from_be_bytes([l0, l1]));
                    // The first fragment carries the length of the whole datagram.
                    if said < 8 || self.fragment.is_none() && said > len {
                        Err(DropReason::BadL4Header)
                    } else {
                        Ok(Transport::Udp {
                            sport: u16::from_be_bytes([s0, s1]),
                            dport: u16::from_be_bytes([d0, d1]),
                        })
                    }
                }
                None => Err(DropReason::BadL4Header),
            },
            proto::SCTP | proto::DCCP | proto::UDPLITE => match segment.first_chunk::<8>() {
                Some(&[s0, s1, d0, d1, ..]) => Ok(Transport::Ports {
                    sport: u16::from_be_bytes([s0, s1]),
                    dport: u16::from_be_bytes([d0, d1]),
                }),
                None => Err(DropReason::BadL4Header),
            },
            proto::ICMP if self.src.is_v4() => Icmp::parse(segment),
            proto::ICMPV6 if !self.src.is_v4() => Icmp::parse(segment),
            _ => Ok(Transport::Other),
        };
        match parsed {
            Err(_) if self.fragment.is_some() => Ok(Transport::Incomplete),
            parsed => parsed,
        }
    }

    /// Source and destination port; an ICMP query has its identifier in both; zeros otherwise.
    #[must_use]
    pub const fn ports(&self) -> (u16, u16) {
        match self.transport {
            Transport::Tcp(tcp) => (tcp.sport, tcp.dport),
            Transport::Udp { sport, dport } | Transport::Ports { sport, dport } => (sport, dport),
            Transport::Icmp(icmp) => match icmp.role(self.src.is_v4()) {
                IcmpRole::Request | IcmpRole::Reply => (icmp.id, icmp.id),
                _ => (0, 0),
            },
            _ => (0, 0),
        }
    }

    /// The packet that an ICMP error quotes; nothing when too little of it is there, or when it is a later
    /// fragment, which names no ports. `frame` is the frame this header was parsed from.
    #[must_use]
    pub fn quoted(&self, frame: &[u8]) -> Option<Quoted> {
        let at = usize::from(self.l4) + 8;
        let quote = frame.get(at..usize::from(self.l4) + usize::from(self.l4_len))?;
        let (src, dst, proto, l4) = if self.src.is_v4() {
            let h = quote.first_chunk::<20>()?;
            let header_len = usize::from(h[0] & 0x0f) * 4;
            if h[0] >> 4 != 4 || header_len < 20 || u16::from_be_bytes([h[6], h[7]]) & 0x1fff != 0 {
                return None;
            }
            let src = Addr::v4([h[12], h[13], h[14], h[15]]);
            (src, Addr::v4([h[16], h[17], h[18], h[19]]), h[9], header_len)
        } else {
            let h = quote.first_chunk::<40>()?;
            if h[0] >> 4 != 6 {
                return None;
            }
            let (mut next, mut l4) = (h[6], 40usize);
            for _ in 0..8 {
                match next {
                    0 | 43 | 60 => {
                        let [following, len] = *quote.get(l4..)?.first_chunk()?;
                        next = following;
                        l4 += (usize::from(len) + 1) * 8;
                    }
                    44 => {
                        if u16_at(quote, l4 + 2)? & 0xfff8 != 0 {
                            return None;
                        }
                        next = *quote.get(l4)?;
                        l4 += 8;
                    }
                    _ => break,
                }
            }
            let src = Addr::v6(*h[8..].first_chunk()?);
            (src, Addr::v6(*h[24..].first_chunk()?), next, l4)
        };
        let (sport, dport, seq, icmp) = match proto {
            proto::TCP => (u16_at(quote, l4)?, u16_at(quote, l4 + 2)?, u32_at(quote, l4 + 4), None),
            proto::UDP | proto::SCTP | proto::DCCP | proto::UDPLITE => {
                (u16_at(quote, l4)?, u16_at(quote, l4 + 2)?, None, None)
            }
            proto::ICMP | proto::ICMPV6 => {
                let Ok(Transport::Icmp(icmp)) = Icmp::parse(quote.get(l4..)?) else { return None };
                match icmp.role(src.is_v4()) {
                    IcmpRole::Request | IcmpRole::Reply => (icmp.id, icmp.id, None, Some(icmp)),
                    _ => return None,
                }
            }
            _ => (0, 0, None, None),
        };
        Some(Quoted { src, dst, proto, sport, dport, seq, icmp })
    }
}

fn check_v4_options(options: &[u8]) -> Result<(), DropReason> {
    let mut rest = options;
    while let [kind, tail @ ..] = rest {
        match *kind {
            0 => return Ok(()),
            1 => rest = tail,
            131 | 137 => return Err(DropReason::SourceRoute),
            _ => {
                let len = usize::from(*tail.first().ok_or(DropReason::IpOptions)?);
                if len < 2 {
                    return Err(DropReason::IpOptions);
                }
                rest = rest.get(len..).ok_or(DropReason::IpOptions)?;
            }
        }
    }
    Ok(())
}

impl Tcp {
    fn parse(segment: &[u8], at: usize) -> Result<Transport, DropReason> {
        let h = segment.first_chunk::<20>().ok_or(DropReason::BadL4Header)?;
        let header_len = usize::from(h[12] >> 4) * 4;
        if header_len < 20 || header_len > segment.len() {
            return Err(DropReason::BadL4Header);
        }
        let mut tcp = Self {
            sport: u16::from_be_bytes([h[0], h[1]]),
            dport: u16::from_be_bytes([h[2], h[3]]),
            seq: u32::from_be_bytes([h[4], h[5], h[6], h[7]]),
            ack: u32::from_be_bytes([h[8], h[9], h[10], h[11]]),
            flags: h[13],
            window: u16::from_be_bytes([h[14], h[15]]),
            header_len: header_len as u8,
            window_scale: None,
            mss_at: None,
            payload: (segment.len() - header_len) as u16,
        };
        if tcp.flags & tcp_flags::SYN != 0 {
            tcp.parse_syn_options(&segment[20..header_len], at + 20);
        }
        Ok(Transport::Tcp(tcp))
    }

    /// Malformed options end the list, as they do in every TCP: the receiver judges them.
    fn parse_syn_options(&mut self, options: &[u8], at: usize) {
        let mut here = 0;
        while let Some(&kind) = options.get(here) {
            match kind {
                0 => return,
                1 => here += 1,
                _ => {
                    let Some(&len) = options.get(here + 1) else { return };
                    let Some(body) = options.get(here..here + usize::from(len)) else { return };
                    match *body {
                        // RFC 7323 section 2.3: a shift above 14 counts as 14.
                        [3, 3, shift] => self.window_scale = Some(shift.min(14)),
                        [2, 4, ..] => self.mss_at = Some((at + here + 2) as u16),
                        [] | [_] => return,
                        _ => {}
                    }
                    here += usize::from(len);
                }
            }
        }
    }
}

impl Icmp {
    fn parse(segment: &[u8]) -> Result<Transport, DropReason> {
        let &[kind, code, _, _, id0, id1, ..] = segment.first_chunk::<8>().ok_or(DropReason::BadL4Header)?;
        Ok(Transport::Icmp(Self { kind, code, id: u16::from_be_bytes([id0, id1]) }))
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;

    const SRC: [u8; 6] = [2, 0, 0, 0, 1, 1];
    const DST: [u8; 6] = [2, 0, 0, 0, 2, 1];

    fn build(builder: etherparse::PacketBuilderStep<etherparse::UdpHeader>, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        builder.write(&mut bytes, payload).unwrap();
        bytes
    }

    fn v6_with_chain(chain: &[u8], first: u8) -> Vec<u8> {
        let mut frame = [&DST[..], &SRC[..], &[0x86, 0xdd, 0x60, 0, 0, 0]].concat();
        frame.extend((chain.len() as u16).to_be_bytes());
        frame.extend([first, 64]);
        frame.extend([0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x11]);
        frame.extend([0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x21]);
        frame.extend(chain);
        frame
    }

    #[test]
    fn tcp_syn_over_ipv4() {
        let builder = PacketBuilder::ethernet2(SRC, DST)
            .ipv4([10, 1, 0, 11], [10, 1, 0, 21], 64)
            .tcp(40000, 5432, 7, 512);
        let options = [
            etherparse::TcpOptionElement::MaximumSegmentSize(1460),
            etherparse::TcpOptionElement::WindowScale(7),
        ];
        let mut frame = Vec::new();
        builder.syn().options(&options).unwrap().write(&mut frame, b"data").unwrap();
        let view = View::parse(&frame).unwrap();
        assert_eq!((view.src, view.dst, view.tags), (MacAddr(SRC), MacAddr(DST), 0));
        let ip = view.ip().unwrap();
        assert_eq!((ip.src, ip.dst, ip.ttl), (Addr::v4([10, 1, 0, 11]), Addr::v4([10, 1, 0, 21]), 64));
        let Transport::Tcp(tcp) = ip.transport else { panic!("{ip:?}") };
        assert_eq!((tcp.sport, tcp.dport, tcp.seq, tcp.window), (40000, 5432, 7, 512));
        assert_eq!((tcp.flags, tcp.window_scale, tcp.payload), (tcp_flags::SYN, Some(7), 4));
        let mss = usize::from(tcp.mss_at.unwrap());
        assert_eq!(frame[mss..mss + 2], 1460u16.to_be_bytes());
    }

    #[test]
    fn padding_is_not_payload() {
        let builder = PacketBuilder::ethernet2(SRC, DST).ipv4([10, 1, 0, 11], [10, 1, 0, 21], 64).udp(1, 2);
        let mut frame = build(builder, b"");
        frame.resize(60, 0xaa);
        assert_eq!(View::parse(&frame).unwrap().ip().unwrap().l4_len, 8);
    }

    #[test]
    fn tags_are_counted() {
        let builder = PacketBuilder::ethernet2(SRC, DST)
            .double_vlan(100.try_into().unwrap(), 200.try_into().unwrap())
            .ipv6([0xfd; 16], [0xfc; 16], 5)
            .udp(1, 2);
        let view = View::parse(&build(builder, b"x")).unwrap();
        assert_eq!((view.tags, view.tci, view.ethertype, view.l3), (2, 100, ethertype::IPV6, 22));
    }

    #[test]
    fn wrong_ipv4_lengths_and_checksum_are_refused() {
        let builder = PacketBuilder::ethernet2(SRC, DST).ipv4([10, 1, 0, 11], [10, 1, 0, 21], 64).udp(1, 2);
        let good = build(builder, b"abc");
        let with = |at: usize, value: u8| {
            let mut frame = good.clone();
            frame[at] = value;
            View::parse(&frame)
        };
        assert_eq!(with(14, 0x44), Err(DropReason::BadIpHeader));
        assert_eq!(with(14, 0x65), Err(DropReason::BadIpHeader));
        assert_eq!(with(17, 10), Err(DropReason::BadIpHeader));
        assert_eq!(with(17, 200), Err(DropReason::FrameTruncated));
        assert_eq!(with(22, 63), Err(DropReason::BadIpHeader), "header checksum");
        assert_eq!(with(39, 7), Err(DropReason::BadL4Header), "UDP length below 8");
        assert_eq!(with(39, 99), Err(DropReason::BadL4Header), "UDP length above the packet");
    }

    #[test]
    fn source_routes_are_refused() {
        for (kind, expected) in
            [(131, Err(DropReason::SourceRoute)), (137, Err(DropReason::SourceRoute)), (7, Ok(true))]
        {
            let mut ip =
                etherparse::Ipv4Header::new(8, 64, 17.into(), [10, 1, 0, 11], [10, 1, 0, 21]).unwrap();
            ip.options = [kind, 7, 4, 10, 0, 0, 1, 0].into();
            ip.header_checksum = ip.calc_header_checksum();
            ip.total_len = 28 + 8;
            ip.header_checksum = ip.calc_header_checksum();
            let frame = [&DST[..], &SRC[..], &[8, 0], &ip.to_bytes(), &[0, 1, 0, 2, 0, 8, 0, 0]].concat();
            assert_eq!(View::parse(&frame).map(|v| v.ip().unwrap().options), expected);
        }
        let routing = v6_with_chain(
            &[
                17, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2, 0, 8, 0,
                0,
            ],
            43,
        );
        assert_eq!(View::parse(&routing), Err(DropReason::SourceRoute));
    }

    #[test]
    fn ipv6_chain_is_walked() {
        let udp = [0, 1, 0, 2, 0, 8, 0, 0];
        let hop_dest = [&[60, 0, 1, 4, 0, 0, 0, 0][..], &[17, 0, 1, 4, 0, 0, 0, 0], &udp].concat();
        let view = View::parse(&v6_with_chain(&hop_dest, 0)).unwrap();
        let ip = view.ip().unwrap();
        assert_eq!((ip.proto, ip.ports(), ip.options, ip.fragment), (17, (1, 2), true, None));
        let late_hop = [&[0, 0, 1, 4, 0, 0, 0, 0][..], &[17, 0, 1, 4, 0, 0, 0, 0], &udp].concat();
        assert_eq!(View::parse(&v6_with_chain(&late_hop, 60)), Err(DropReason::IpOptions));
        let endless: Vec<u8> = [60, 0, 1, 4, 0, 0, 0, 0].repeat(12);
        assert_eq!(View::parse(&v6_with_chain(&endless, 60)), Err(DropReason::IpOptions));
    }

    #[test]
    fn ipv6_fragments() {
        let udp = [0, 1, 0, 2, 0, 8, 0, 0];
        let fragment = |field: u16| [17, 0, (field >> 8) as u8, field as u8, 0, 0, 0, 9];
        // Atomic: offset 0, no more (RFC 6946): a whole packet.
        let view = View::parse(&v6_with_chain(&[&fragment(0)[..], &udp].concat(), 44)).unwrap();
        assert_eq!((view.ip().unwrap().fragment, view.ip().unwrap().ports()), (None, (1, 2)));
        let view = View::parse(&v6_with_chain(&[&fragment(1)[..], &udp].concat(), 44)).unwrap();
        assert_eq!(view.ip().unwrap().fragment, Some(Fragment { id: 9, offset: 0, more: true, len: 8 }));
        let view = View::parse(&v6_with_chain(&[&fragment(64)[..], &udp].concat(), 44)).unwrap();
        assert_eq!(view.ip().unwrap().transport, Transport::LaterFragment);
        let view = View::parse(&v6_with_chain(&[&fragment(1)[..], &udp[..4]].concat(), 44)).unwrap();
        assert_eq!(view.ip().unwrap().transport, Transport::Incomplete);
        let mut twice = fragment(1);
        twice[0] = 44;
        let frame = v6_with_chain(&[&twice[..], &fragment(1)[..], &udp].concat(), 44);
        assert_eq!(View::parse(&frame), Err(DropReason::FragmentHeaders));
    }

    #[test]
    fn an_icmp_error_names_the_flow_it_quotes() {
        let builder = PacketBuilder::ethernet2(SRC, DST).ipv4([10, 1, 0, 11], [10, 1, 0, 21], 64).udp(5, 53);
        let quoted = build(builder, b"query");
        let error = PacketBuilder::ethernet2(DST, SRC)
            .ipv4([10, 1, 0, 21], [10, 1, 0, 11], 64)
            .icmpv4_raw(3, 3, [0; 4]);
        let mut frame = Vec::new();
        error.write(&mut frame, &quoted[14..42]).unwrap();
        let view = View::parse(&frame).unwrap();
        let quote = view.ip().unwrap().quoted(&frame).unwrap();
        assert_eq!((quote.src, quote.dst), (Addr::v4([10, 1, 0, 11]), Addr::v4([10, 1, 0, 21])));
        assert_eq!((quote.proto, quote.sport, quote.dport), (17, 5, 53));
    }

    fn any_frame() -> impl Strategy<Value = Vec<u8>> {
        let payload = proptest::collection::vec(any::<u8>(), 0..64);
        (any::<[u8; 4]>(), any::<[u8; 4]>(), any::<u16>(), any::<u16>(), any::<u8>(), payload, 0u8..6)
            .prop_map(|(a, b, sport, dport, ttl, payload, kind)| {
                let mut out = Vec::new();
                let eth = PacketBuilder::ethernet2(SRC, DST);
                let v6 = |x: [u8; 4]| [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, x[0], x[1], x[2], x[3]];
                match kind {
                    0 => eth.ipv4(a, b, ttl).udp(sport, dport).write(&mut out, &payload),
                    1 => eth.ipv4(a, b, ttl).tcp(sport, dport, 1, 2).write(&mut out, &payload),
                    2 => eth.ipv4(a, b, ttl).icmpv4_echo_request(sport, dport).write(&mut out, &payload),
                    3 => eth.ipv6(v6(a), v6(b), ttl).udp(sport, dport).write(&mut out, &payload),
                    4 => eth.ipv6(v6(a), v6(b), ttl).tcp(sport, dport, 1, 2).write(&mut out, &payload),
                    _ => eth
                        .ipv6(v6(a), v6(b), ttl)
                        .icmpv6_echo_request(sport, dport)
                        .write(&mut out, &payload),
                }
                .unwrap();
                out
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// etherparse is the oracle: what it reads, we read alike.
        #[test]
        fn agrees_with_etherparse(frame in any_frame()) {
            let view = View::parse(&frame).unwrap();
            let ip = view.ip().unwrap();
            let oracle = etherparse::SlicedPacket::from_ethernet(&frame).unwrap();
            match oracle.transport.unwrap() {
                etherparse::TransportSlice::Udp(udp) => {
                    prop_assert_eq!(ip.ports(), (udp.source_port(), udp.destination_port()));
                }
                etherparse::TransportSlice::Tcp(tcp) => {
                    let Transport::Tcp(mine) = ip.transport else { panic!() };
                    prop_assert_eq!((mine.sport, mine.dport, mine.seq), (tcp.source_port(), tcp.destination_port(), tcp.sequence_number()));
                    prop_assert_eq!(usize::from(mine.payload), tcp.payload().len());
                }
                etherparse::TransportSlice::Icmpv4(icmp) => {
                    let Transport::Icmp(mine) = ip.transport else { panic!() };
                    prop_assert_eq!((mine.kind, mine.code), (icmp.type_u8(), icmp.code_u8()));
                }
                etherparse::TransportSlice::Icmpv6(icmp) => {
                    let Transport::Icmp(mine) = ip.transport else { panic!() };
                    prop_assert_eq!((mine.kind, mine.code), (icmp.type_u8(), icmp.code_u8()));
                }
                etherparse::TransportSlice::Igmp(_) => prop_assert!(false, "no IGMP was built"),
            }
        }

        #[test]
        fn truncation_never_panics_nor_invents(frame in any_frame()) {
            for len in 0..frame.len() {
                prop_assert!(View::parse(&frame[..len]).is_err(), "{} of {}", len, frame.len());
            }
        }

        #[test]
        fn noise_never_panics(mut frame in any_frame(), noise in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..8)) {
            for (at, value) in noise {
                let at = usize::from(at) % frame.len();
                frame[at] = value;
            }
            if let Ok(view) = View::parse(&frame)
                && let Some(ip) = view.ip()
            {
                prop_assert!(usize::from(ip.l4) + usize::from(ip.l4_len) <= frame.len());
                let _ = ip.quoted(&frame);
            }
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0usize..4) {
            let mut frame = bytes;
            if frame.len() > 14 {
                let types = [[8, 0], [0x86, 0xdd], [0x81, 0], [8, 6]];
                frame[12..14].copy_from_slice(&types[kind]);
                frame[14] = if kind == 0 { 0x45 } else { 0x60 };
            }
            if let Ok(view) = View::parse(&frame) && let Some(ip) = view.ip() {
                let _ = ip.quoted(&frame);
            }
        }
    }
}
