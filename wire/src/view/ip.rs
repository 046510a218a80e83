//! IPv4 with its options, IPv6 with its extension headers.

use super::{IcmpRole, Transport};
use crate::{Addr, DropReason};

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

/// What rules may ask of a packet beside whose it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct HeaderBits {
    /// DSCP (RFC 2474)
    pub dscp: u8,
    /// TCP: its flags, see [`tcp_flags`](super::tcp_flags); otherwise 0
    pub tcp_flags: u8,
}

impl Ip {
    /// What rules may ask of it beside whose it is.
    #[must_use]
    #[inline]
    pub const fn header_bits(&self) -> HeaderBits {
        let tcp_flags = match self.transport {
            Transport::Tcp(tcp) => tcp.flags,
            _ => 0,
        };
        HeaderBits { dscp: self.tos >> 2, tcp_flags }
    }

    pub(super) fn parse_v4(frame: &[u8], at: usize) -> Result<Self, DropReason> {
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
        ip.transport = Transport::parse(&ip, frame)?;
        Ok(ip)
    }

    pub(super) fn parse_v6(frame: &[u8], at: usize) -> Result<Self, DropReason> {
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
        ip.transport = Transport::parse(&ip, frame)?;
        Ok(ip)
    }

    /// Source and destination port; an ICMP query has its identifier in both; zeros otherwise.
    #[must_use]
    pub const fn ports(&self) -> (u16, u16) {
        match self.transport {
            Transport::Tcp(tcp) => (tcp.sport, tcp.dport),
            Transport::Udp { sport, dport } | Transport::Ports { sport, dport } => (sport, dport),
            Transport::Sctp(sctp) => (sctp.sport, sctp.dport),
            Transport::Icmp(icmp) => match icmp.role(self.src.is_v4()) {
                IcmpRole::Request | IcmpRole::Reply => (icmp.id, icmp.id),
                _ => (0, 0),
            },
            _ => (0, 0),
        }
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

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;
    use crate::view::{
        View,
        tests::{DST, SRC, build},
    };

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
    fn padding_is_not_payload() {
        let builder = PacketBuilder::ethernet2(SRC, DST).ipv4([10, 1, 0, 11], [10, 1, 0, 21], 64).udp(1, 2);
        let mut frame = build(builder, b"");
        frame.resize(60, 0xaa);
        assert_eq!(View::parse(&frame).unwrap().ip().unwrap().l4_len, 8);
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
}
