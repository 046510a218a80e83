//! Telling a tenant that its packet does not fit: ICMP type 3 code 4 (RFC 1191) or ICMPv6 type 2 (RFC 4443).
//! Told or not, the packet counts under `DropReason::TooBig`.

use eastgate_wire::{
    Addr, Instant, MacAddr, View,
    view::{ETHERNET_LEN, Icmp, Ip, Transport},
};
use smoltcp::wire::{
    Icmpv4Message, Icmpv4Packet, Icmpv6Message, Icmpv6Packet, IpProtocol, Ipv4Packet, Ipv6Packet,
};

use eastgate_wire::{Rate, TokenBucket};

/// As whom the appliance speaks. The sender accepts a message from the packet's own destination: its address,
/// and the MAC the sender used for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Speaker {
    /// Ethernet source of the message
    pub mac: MacAddr,
    /// IP source of the message, of the packet's family
    pub addr: Addr,
}

impl Speaker {
    /// The packet's own destination; nothing for a frame that is not IP.
    #[must_use]
    pub fn destination_of(view: &View) -> Option<Self> {
        Some(Self { mac: view.dst, addr: view.ip()?.dst })
    }
}

/// Why the sender is not told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Silence {
    /// The packet is IPv4 without DF: it asked for fragments, not for an answer.
    NotAsked,
    /// Not an IP packet, or the speaker's address is of the other family.
    NotIp,
    /// It is an ICMP error or redirect, or too little of an ICMP message to tell.
    IcmpError,
    /// It is multicast or broadcast.
    Multicast,
    /// It is a fragment that is not the first.
    LaterFragment,
    /// Its source is no single host.
    BadSource,
    /// The limit of answers a second is reached.
    RateLimited,
}

/// The most of a packet that ICMP quotes: the message stays within 576 bytes (RFC 1812 section 4.3.2.3).
const QUOTE_V4: usize = 576 - 20 - 8;
/// The message stays within the minimum MTU of IPv6 (RFC 4443 section 2.4 (c)).
const QUOTE_V6: usize = 1280 - 40 - 8;

const HOP_LIMIT: u8 = 64;

/// Answers packets that are too big, at a limited rate.
#[derive(Clone, Debug)]
pub struct TooBig {
    bucket: TokenBucket,
}

impl TooBig {
    /// At most this many answers.
    #[must_use]
    pub const fn new(rate: Rate, now: Instant) -> Self {
        Self { bucket: TokenBucket::new(rate, now) }
    }

    /// Writes into `out`, in place of what is in it, the frame that tells the sender of `frame` to keep to
    /// `mtu`. The answer carries the tags the frame has. `view` is the view of `frame`.
    ///
    /// # Errors
    /// Why there is no answer; `out` is then empty.
    pub fn answer(
        &mut self,
        frame: &[u8],
        view: &View,
        speaker: Speaker,
        mtu: u16,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Result<(), Silence> {
        out.clear();
        let ip = may_answer(view, speaker)?;
        if !self.bucket.take(now) {
            return Err(Silence::RateLimited);
        }
        write(frame, view, ip, speaker, mtu, out).ok_or(Silence::NotIp)
    }
}

/// RFC 1122 section 3.2.2 and RFC 4443 section 2.4 (e): what no ICMP error is ever sent about. RFC 4443 would
/// allow too-big for multicast; an answer from every VTEP that a copy does not fit to is not worth having.
fn may_answer(view: &View, speaker: Speaker) -> Result<&Ip, Silence> {
    let ip = view.ip().ok_or(Silence::NotIp)?;
    if speaker.addr.family() != ip.src.family() {
        return Err(Silence::NotIp);
    }
    if !ip.dont_fragment {
        return Err(Silence::NotAsked);
    }
    if view.dst.is_multicast() || ip.dst.is_multicast() || ip.dst.is_limited_broadcast() {
        return Err(Silence::Multicast);
    }
    if ip.fragment.is_some_and(|fragment| fragment.offset != 0) {
        return Err(Silence::LaterFragment);
    }
    let src = ip.src;
    let nobody =
        src.is_unspecified() || src.is_multicast() || src.is_limited_broadcast() || src.is_loopback();
    if nobody || !view.src.is_station() {
        return Err(Silence::BadSource);
    }
    match ip.transport {
        Transport::Icmp(icmp) if is_error(icmp, src.is_v4()) => Err(Silence::IcmpError),
        Transport::Incomplete if matches!(ip.proto, 1 | 58) => Err(Silence::IcmpError),
        _ => Ok(ip),
    }
}

const fn is_error(icmp: Icmp, v4: bool) -> bool {
    if v4 { matches!(icmp.kind, 3 | 4 | 5 | 11 | 12) } else { icmp.kind < 128 || icmp.kind == 137 }
}

fn write(frame: &[u8], view: &View, ip: &Ip, speaker: Speaker, mtu: u16, out: &mut Vec<u8>) -> Option<()> {
    let l3 = usize::from(view.l3);
    let packet = frame.get(l3..usize::from(ip.l4) + usize::from(ip.l4_len))?;
    out.extend_from_slice(&view.src.0);
    out.extend_from_slice(&speaker.mac.0);
    out.extend_from_slice(frame.get(ETHERNET_LEN - 2..l3)?);
    match (speaker.addr.to_ip(), ip.src.to_ip()) {
        (std::net::IpAddr::V4(from), std::net::IpAddr::V4(to)) => {
            write_v4(from, to, mtu, &packet[..packet.len().min(QUOTE_V4)], out)
        }
        (std::net::IpAddr::V6(from), std::net::IpAddr::V6(to)) => {
            write_v6(from, to, mtu, &packet[..packet.len().min(QUOTE_V6)], out)
        }
        _ => return None,
    }
    Some(())
}

fn write_v4(from: std::net::Ipv4Addr, to: std::net::Ipv4Addr, mtu: u16, quote: &[u8], out: &mut Vec<u8>) {
    let at = out.len();
    out.resize(at + 28, 0);
    out.extend_from_slice(quote);
    let packet = &mut out[at..];
    let mut ip = Ipv4Packet::new_unchecked(&mut *packet);
    ip.set_version(4);
    ip.set_header_len(20);
    ip.set_total_len(28 + quote.len() as u16);
    ip.set_dont_frag(true);
    ip.set_hop_limit(HOP_LIMIT);
    ip.set_next_header(IpProtocol::Icmp);
    ip.set_src_addr(from);
    ip.set_dst_addr(to);
    ip.fill_checksum();
    let message = &mut packet[20..];
    // smoltcp has no accessor for the next-hop MTU of RFC 1191 section 4.
    message[6..8].copy_from_slice(&mtu.to_be_bytes());
    let mut icmp = Icmpv4Packet::new_unchecked(message);
    icmp.set_msg_type(Icmpv4Message::DstUnreachable);
    icmp.set_msg_code(4);
    icmp.fill_checksum();
}

fn write_v6(from: std::net::Ipv6Addr, to: std::net::Ipv6Addr, mtu: u16, quote: &[u8], out: &mut Vec<u8>) {
    let at = out.len();
    out.resize(at + 48, 0);
    out.extend_from_slice(quote);
    let packet = &mut out[at..];
    let mut ip = Ipv6Packet::new_unchecked(&mut *packet);
    ip.set_version(6);
    ip.set_payload_len(8 + quote.len() as u16);
    ip.set_next_header(IpProtocol::Icmpv6);
    ip.set_hop_limit(HOP_LIMIT);
    ip.set_src_addr(from);
    ip.set_dst_addr(to);
    let mut icmp = Icmpv6Packet::new_unchecked(&mut packet[40..]);
    icmp.set_msg_type(Icmpv6Message::PktTooBig);
    icmp.set_msg_code(0);
    icmp.set_pkt_too_big_mtu(u32::from(mtu));
    icmp.fill_checksum(&from, &to);
}

#[cfg(test)]
mod tests {
    use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    use super::*;
    use crate::test_frames::*;

    const T0: Instant = Instant::ZERO;

    fn answerer() -> TooBig {
        TooBig::new(Rate { per_second: 1, burst: 1 }, T0)
    }

    fn with_df(mut frame: Vec<u8>) -> Vec<u8> {
        frame[20] |= 0x40;
        frame[24..26].fill(0);
        let sum = eastgate_wire::checksum::checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame
    }

    fn ask(frame: &[u8]) -> Result<Vec<u8>, Silence> {
        let view = View::parse(frame).unwrap();
        let speaker = Speaker::destination_of(&view)
            .unwrap_or(Speaker { mac: view.dst, addr: Addr::v4([10, 0, 0, 1]) });
        let mut out = b"old".to_vec();
        let result = answerer().answer(frame, &view, speaker, 1450, T0, &mut out);
        assert_eq!(result.is_err(), out.is_empty());
        result.map(|()| out)
    }

    /// etherparse reads the answer: right addresses, checksums, type, code, MTU and quotation.
    #[test]
    fn an_ipv4_sender_is_told() {
        for tags in 0..=2u16 {
            let plain = with_df(udp_v4(5000, 53, &[7; 1500]));
            let frame = (0..tags).fold(plain.clone(), |frame, n| tag(&frame, 10 + n));
            let answer = ask(&frame).unwrap();
            let l3 = 14 + 4 * usize::from(tags);
            assert_eq!(answer[..12], [SRC, DST].concat());
            assert_eq!(answer[12..l3], frame[12..l3], "the same tags");
            assert_eq!(answer.len() - l3, 576);
            let view = View::parse(&answer).unwrap();
            let ip = view.ip().unwrap();
            assert_eq!((ip.src, ip.dst), (Addr::v4(DST_V4), Addr::v4(SRC_V4)));
            assert_eq!((answer[l3 + 20], answer[l3 + 21]), (3, 4));
            assert_eq!(answer[l3 + 24..l3 + 28], [0, 0, 0x05, 0xaa], "unused, then MTU 1450");
            assert_eq!(eastgate_wire::checksum::checksum(&answer[l3 + 20..]), 0);
            assert_eq!(answer[l3 + 28..], plain[14..14 + QUOTE_V4]);
            let quoted = ip.quoted(&answer).unwrap();
            assert_eq!((quoted.src, quoted.sport, quoted.dport), (Addr::v4(SRC_V4), 5000, 53));
        }
    }

    #[test]
    fn an_ipv6_sender_is_told() {
        let frame = udp_v6(5000, 53, &[7; 1500]);
        let answer = ask(&frame).unwrap();
        assert_eq!(answer.len() - 14, 1280);
        let sliced = SlicedPacket::from_ethernet(&answer).unwrap();
        let Some(TransportSlice::Icmpv6(icmp)) = sliced.transport else { panic!("{sliced:?}") };
        assert!(icmp.is_checksum_valid(DST_V6, SRC_V6));
        assert_eq!((icmp.type_u8(), icmp.code_u8(), icmp.bytes5to8()), (2, 0, 1450u32.to_be_bytes()));
        assert_eq!(icmp.payload(), &frame[14..14 + QUOTE_V6]);
    }

    #[test]
    fn a_short_packet_is_quoted_whole() {
        let frame = with_df(udp_v4(1, 2, b"x"));
        assert_eq!(ask(&frame).unwrap()[42..], frame[14..]);
    }

    #[test]
    fn never_about_these() {
        let v4 = |src, dst| PacketBuilder::ethernet2(SRC, DST).ipv4(src, dst, 64);
        let v6 = |src, dst| PacketBuilder::ethernet2(SRC, DST).ipv6(src, dst, 64);
        let written = |step: etherparse::PacketBuilderStep<etherparse::UdpHeader>| {
            let mut out = Vec::new();
            step.write(&mut out, b"data").unwrap();
            out
        };
        assert_eq!(ask(&arp()), Err(Silence::NotIp));
        let mut without_df = udp_v4(1, 2, b"x");
        without_df[20] &= !0x40;
        without_df[24..26].fill(0);
        let sum = eastgate_wire::checksum::checksum(&without_df[14..34]);
        without_df[24..26].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(ask(&without_df), Err(Silence::NotAsked));
        for dst in [[224, 0, 0, 1], [239, 1, 2, 3], [255; 4]] {
            assert_eq!(ask(&with_df(written(v4(SRC_V4, dst).udp(1, 2)))), Err(Silence::Multicast));
        }
        let mut multicast_v6 = DST_V6;
        multicast_v6[0] = 0xff;
        assert_eq!(ask(&written(v6(SRC_V6, multicast_v6).udp(1, 2))), Err(Silence::Multicast));
        let mut by_mac = with_df(udp_v4(1, 2, b"x"));
        by_mac[..6].fill(0xff);
        assert_eq!(ask(&by_mac), Err(Silence::Multicast));
        for src in [[0; 4], [224, 0, 0, 1], [255; 4], [127, 0, 0, 1]] {
            assert_eq!(ask(&with_df(written(v4(src, DST_V4).udp(1, 2)))), Err(Silence::BadSource));
        }
        assert_eq!(ask(&written(v6([0; 16], DST_V6).udp(1, 2))), Err(Silence::BadSource));
        assert_eq!(ask(&fragment_v6(17, 8, false, &[0; 16])), Err(Silence::LaterFragment));
        assert!(ask(&fragment_v6(17, 0, true, &[0, 1, 0, 2, 0, 200, 0, 0])).is_ok());
    }

    #[test]
    fn never_about_icmp_errors_but_about_queries() {
        for kind in 0..=255u8 {
            let mut v4 = Vec::new();
            let builder = PacketBuilder::ethernet2(SRC, DST).ipv4(SRC_V4, DST_V4, 64);
            builder.icmpv4_raw(kind, 0, [0; 4]).write(&mut v4, &[0; 40]).unwrap();
            assert_eq!(ask(&with_df(v4)).is_err(), [3, 4, 5, 11, 12].contains(&kind), "ICMP {kind}");
            let mut v6 = Vec::new();
            let builder = PacketBuilder::ethernet2(SRC, DST).ipv6(SRC_V6, DST_V6, 64);
            builder.icmpv6_raw(kind, 0, [0; 4]).write(&mut v6, &[0; 40]).unwrap();
            assert_eq!(ask(&v6).is_err(), kind < 128 || kind == 137, "ICMPv6 {kind}");
        }
        assert_eq!(ask(&fragment_v6(58, 0, true, &[1, 0])), Err(Silence::IcmpError), "too little to tell");
    }

    #[test]
    fn the_speaker_is_of_the_right_family() {
        let frame = udp_v6(1, 2, b"x");
        let view = View::parse(&frame).unwrap();
        let speaker = Speaker { mac: view.dst, addr: Addr::v4([10, 0, 0, 1]) };
        let result = answerer().answer(&frame, &view, speaker, 1450, T0, &mut Vec::new());
        assert_eq!(result, Err(Silence::NotIp));
    }

    #[test]
    fn answers_are_limited_and_silence_costs_no_token() {
        let frame = udp_v6(1, 2, b"x");
        let view = View::parse(&frame).unwrap();
        let speaker = Speaker::destination_of(&view).unwrap();
        let (mut told, mut out) = (answerer(), Vec::new());
        let error = fragment_v6(17, 8, false, &[0; 16]);
        let error_view = View::parse(&error).unwrap();
        assert_eq!(
            told.answer(&error, &error_view, speaker, 1450, T0, &mut out),
            Err(Silence::LaterFragment)
        );
        assert_eq!(told.answer(&frame, &view, speaker, 1450, T0, &mut out), Ok(()));
        assert_eq!(told.answer(&frame, &view, speaker, 1450, T0, &mut out), Err(Silence::RateLimited));
        assert_eq!(told.answer(&frame, &view, speaker, 1450, Instant::from_secs(1), &mut out), Ok(()));
    }

    proptest! {
        #[test]
        fn noise_never_panics(noise in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..8), six: bool) {
            let mut frame = if six { udp_v6(1, 2, &[0; 60]) } else { with_df(udp_v4(1, 2, &[0; 60])) };
            for (at, value) in noise {
                let at = usize::from(at) % frame.len();
                frame[at] = value;
            }
            if View::parse(&frame).is_ok() {
                let _ = ask(&frame);
            }
        }
    }
}
