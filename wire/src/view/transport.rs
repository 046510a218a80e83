//! The header behind IP's: TCP's in full, SCTP's with its chunks, of others the ports.

use super::{Icmp, Ip, Sctp, proto};
use crate::DropReason;

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
    /// SCTP
    Sctp(Sctp),
    /// Another protocol whose header begins with two ports (DCCP, UDP-Lite), as `Ip::proto` says
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

impl Transport {
    pub(super) fn parse(ip: &Ip, frame: &[u8]) -> Result<Self, DropReason> {
        if ip.fragment.is_some_and(|f| f.offset != 0) {
            return Ok(Self::LaterFragment);
        }
        let at = usize::from(ip.l4);
        let len = usize::from(ip.l4_len);
        let segment = frame.get(at..at + len).ok_or(DropReason::FrameTruncated)?;
        let parsed = match ip.proto {
            proto::TCP => Tcp::parse(segment, at),
            proto::UDP => match segment.first_chunk::<8>() {
                Some(&[s0, s1, d0, d1, l0, l1, ..]) => {
                    let said = usize::from(u16::from_be_bytes([l0, l1]));
                    // The first fragment carries the length of the whole datagram.
                    if said < 8 || ip.fragment.is_none() && said > len {
                        Err(DropReason::BadL4Header)
                    } else {
                        Ok(Self::Udp {
                            sport: u16::from_be_bytes([s0, s1]),
                            dport: u16::from_be_bytes([d0, d1]),
                        })
                    }
                }
                None => Err(DropReason::BadL4Header),
            },
            proto::SCTP => Sctp::parse(segment, ip.fragment.is_none()),
            proto::DCCP | proto::UDPLITE => match segment.first_chunk::<8>() {
                Some(&[s0, s1, d0, d1, ..]) => Ok(Self::Ports {
                    sport: u16::from_be_bytes([s0, s1]),
                    dport: u16::from_be_bytes([d0, d1]),
                }),
                None => Err(DropReason::BadL4Header),
            },
            proto::ICMP if ip.src.is_v4() => Icmp::parse(segment),
            proto::ICMPV6 if !ip.src.is_v4() => Icmp::parse(segment),
            _ => Ok(Self::Other),
        };
        match parsed {
            Err(_) if ip.fragment.is_some() => Ok(Self::Incomplete),
            parsed => parsed,
        }
    }
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

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;
    use crate::{
        Addr, MacAddr,
        view::{
            View,
            tests::{DST, SRC},
        },
    };

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
}
