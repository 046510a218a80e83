//! The parsed view of an Ethernet frame: what the path needs to know of it, read once, front to back.
//!
//! A view holds values and offsets, no references, so the frame can be changed while it is at hand. Parsing
//! refuses what no honest sender makes (lengths that underflow, source routes, malformed chains) with the
//! reason; it does not judge who may send what. The link's header is read here, what is above it in the room of
//! its layer.

mod icmp;
mod ip;
mod quoted;
mod sctp;
mod transport;

pub use icmp::{Icmp, IcmpRole};
pub use ip::{Fragment, HeaderBits, Ip, proto};
pub use quoted::Quoted;
pub use sctp::{Chunks, Sctp};
pub use transport::{Tcp, Transport, tcp_flags};

use crate::{DropReason, MacAddr};

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

    /// Reads a packet that begins `l3` bytes into a frame, as one inside a tunnel does: MACs and tags are those of no
    /// frame.
    ///
    /// # Errors
    /// As [`View::parse`].
    pub fn parse_packet(frame: &[u8], l3: u16, v4: bool) -> Result<Self, DropReason> {
        let at = usize::from(l3);
        let ip = if v4 { Ip::parse_v4(frame, at)? } else { Ip::parse_v6(frame, at)? };
        let ethertype = if v4 { ethertype::IPV4 } else { ethertype::IPV6 };
        let nobody = MacAddr([0; 6]);
        Ok(Self { dst: nobody, src: nobody, tags: 0, tci: 0, ethertype, l3, net: Net::Ip(ip) })
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

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;

    pub(super) const SRC: [u8; 6] = [2, 0, 0, 0, 1, 1];
    pub(super) const DST: [u8; 6] = [2, 0, 0, 0, 2, 1];

    pub(super) fn build(
        builder: etherparse::PacketBuilderStep<etherparse::UdpHeader>,
        payload: &[u8],
    ) -> Vec<u8> {
        let mut bytes = Vec::new();
        builder.write(&mut bytes, payload).unwrap();
        bytes
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
