//! What a packet's sender is told in place of the packet's destination: an ICMP error about it (RFC 792, RFC 4443), or a TCP
//! reset (RFC 9293).
//!
//! It speaks by the addresses that the sender wrote to, since that is whom the sender takes it from. It promises never to say
//! anything about what must not be answered (RFC 1122 section 3.2.2, RFC 4443 section 2.4 (e)), and that the sender's own
//! tags are in what it gets.

use std::net::IpAddr;

use crate::{
    Addr, MacAddr, View,
    checksum::{Sum, checksum, pseudo_header},
    view::{ETHERNET_LEN, Icmp, Ip, Tcp, Transport, proto, tcp_flags},
};

/// As whom eastgate speaks. The sender accepts a message from the packet's own destination: its address, and the MAC
/// the sender used for it.
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
    /// It is a TCP reset.
    Reset,
    /// It is multicast or broadcast.
    Multicast,
    /// It is a fragment that is not the first.
    LaterFragment,
    /// Its source is no single host.
    BadSource,
    /// The limit of answers a second is reached.
    RateLimited,
}

/// What an ICMP error says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IcmpError {
    /// The packet does not fit: ICMP type 3 code 4 (RFC 1191), ICMPv6 type 2
    TooBig {
        /// The largest packet that does
        mtu: u16,
    },
    /// The TTL or hop limit has run out on the way: ICMP type 11 code 0, ICMPv6 type 3 code 0
    TimeExceeded,
    /// Communication is administratively prohibited: ICMP type 3 code 13 (RFC 1812 section 5.2.7.1), ICMPv6 type 1 code 1
    Prohibited,
}

/// The most of a packet that ICMP quotes: the message stays within 576 bytes (RFC 1812 section 4.3.2.3).
pub const QUOTE_V4: usize = 576 - V4_LEN - ICMP_LEN;
/// The message stays within the minimum MTU of IPv6 (RFC 4443 section 2.4 (c)).
pub const QUOTE_V6: usize = 1280 - V6_LEN - ICMP_LEN;

const V4_LEN: usize = 20;
const V6_LEN: usize = 40;
const ICMP_LEN: usize = 8;
const TCP_LEN: usize = 20;
const HOP_LIMIT: u8 = 64;

/// The IP header of a packet that its sender may be told about by an ICMP error.
///
/// # Errors
/// Why not. RFC 4443 would allow too-big for multicast; an answer from every VTEP that a copy does not fit to is not worth
/// having.
pub fn answerable(view: &View) -> Result<&Ip, Silence> {
    let ip = view.ip().ok_or(Silence::NotIp)?;
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
        Transport::Incomplete if matches!(ip.proto, proto::ICMP | proto::ICMPV6) => Err(Silence::IcmpError),
        _ => Ok(ip),
    }
}

/// Writes into `out`, in place of what is in it, the frame that tells the sender of `frame` of an error. `view` is the view of
/// `frame`.
///
/// # Errors
/// Why there is no answer; `out` is then empty.
pub fn icmp_error(
    frame: &[u8],
    view: &View,
    speaker: Speaker,
    error: IcmpError,
    out: &mut Vec<u8>,
) -> Result<(), Silence> {
    out.clear();
    let ip = answerable(view)?;
    let packet = frame.get(usize::from(view.l3)..usize::from(ip.l4) + usize::from(ip.l4_len));
    let (packet, v4) = (packet.ok_or(Silence::NotIp)?, ip.src.is_v4());
    let (kind, code, rest) = match (error, v4) {
        (IcmpError::TooBig { mtu }, true) => (3, 4, u32::from(mtu)),
        (IcmpError::TooBig { mtu }, false) => (2, 0, u32::from(mtu)),
        (IcmpError::TimeExceeded, true) => (11, 0, 0),
        (IcmpError::TimeExceeded, false) => (3, 0, 0),
        (IcmpError::Prohibited, true) => (3, 13, 0),
        (IcmpError::Prohibited, false) => (1, 1, 0),
    };
    let most = if v4 { QUOTE_V4 } else { QUOTE_V6 };
    let quote = packet.get(..packet.len().min(most)).unwrap_or(packet);
    let mut message = Vec::with_capacity(ICMP_LEN + quote.len());
    message.extend_from_slice(&[kind, code, 0, 0]);
    message.extend_from_slice(&rest.to_be_bytes());
    message.extend_from_slice(quote);
    // Internetwork control, and otherwise the service that the packet asked for (RFC 1812 section 4.3.2.5).
    let tos = if v4 { 0xc0 | ip.tos & 0x1e } else { 0 };
    let protocol = if v4 { proto::ICMP } else { proto::ICMPV6 };
    let sum = write(frame, view, ip, speaker, (protocol, tos), &message, out)?;
    let sum = if v4 { checksum(&message) } else { sum.finish() };
    put_checksum(out, message.len() - 2, sum);
    Ok(())
}

/// Writes into `out`, in place of what is in it, the frame that resets the connection of a TCP segment for its sender: with the
/// number that the sender expects next where the segment says so, and else with an acknowledgement of the segment
/// (RFC 9293 section 3.10.7.1).
///
/// # Errors
/// Why there is no answer; `out` is then empty. Nothing answers a reset.
pub fn tcp_reset(
    frame: &[u8],
    view: &View,
    tcp: &Tcp,
    speaker: Speaker,
    out: &mut Vec<u8>,
) -> Result<(), Silence> {
    out.clear();
    let ip = answerable(view)?;
    if tcp.flags & tcp_flags::RST != 0 {
        return Err(Silence::Reset);
    }
    let (seq, ack, flags) = if tcp.flags & tcp_flags::ACK != 0 {
        (tcp.ack, 0, tcp_flags::RST)
    } else {
        let counts = [tcp_flags::SYN, tcp_flags::FIN].map(|flag| u32::from(tcp.flags & flag != 0));
        let len = u32::from(tcp.payload) + counts[0] + counts[1];
        (0, tcp.seq.wrapping_add(len), tcp_flags::RST | tcp_flags::ACK)
    };
    let segment = bare_segment([tcp.dport, tcp.sport], seq, ack, flags);
    let sum = write(frame, view, ip, speaker, (proto::TCP, 0), &segment, out)?;
    put_checksum(out, 4, sum.finish());
    Ok(())
}

/// Writes into `out`, in place of what is in it, the untagged frame by which one end of a connection resets it for the other one:
/// with this sequence number, and an acknowledgement of what that one has sent.
///
/// # Errors
/// [`Silence::NotIp`] where they are of different families; `out` is then empty.
pub fn tcp_reset_between(
    from: Speaker,
    to: Speaker,
    ports: [u16; 2],
    seq: u32,
    ack: Option<u32>,
    out: &mut Vec<u8>,
) -> Result<(), Silence> {
    out.clear();
    if from.addr.family() != to.addr.family() {
        return Err(Silence::NotIp);
    }
    let flags = tcp_flags::RST | if ack.is_some() { tcp_flags::ACK } else { 0 };
    let segment = bare_segment(ports, seq, ack.unwrap_or(0), flags);
    let ethertype: [u8; 2] = if to.addr.is_v4() { [0x08, 0x00] } else { [0x86, 0xdd] };
    let sum = write_between(from, to, &ethertype, (proto::TCP, 0), &segment, out);
    put_checksum(out, 4, sum.finish());
    Ok(())
}

/// A segment without data, whose checksum is still 0
fn bare_segment([sport, dport]: [u16; 2], seq: u32, ack: u32, flags: u8) -> [u8; TCP_LEN] {
    let mut segment = [0; TCP_LEN];
    segment[0..2].copy_from_slice(&sport.to_be_bytes());
    segment[2..4].copy_from_slice(&dport.to_be_bytes());
    segment[4..8].copy_from_slice(&seq.to_be_bytes());
    segment[8..12].copy_from_slice(&ack.to_be_bytes());
    segment[12..14].copy_from_slice(&[(TCP_LEN as u8 / 4) << 4, flags]);
    segment
}

/// Puts a checksum so many bytes before the end.
fn put_checksum(out: &mut [u8], from_end: usize, sum: u16) {
    let at = out.len().saturating_sub(from_end);
    if let Some(place) = out.get_mut(at..at + 2) {
        place.copy_from_slice(&sum.to_be_bytes());
    }
}

/// Writes a frame to the sender of `frame`, with this for its transport, whose checksum is still 0: the sum of it and of its
/// pseudo-header.
fn write(
    frame: &[u8],
    view: &View,
    ip: &Ip,
    speaker: Speaker,
    (protocol, tos): (u8, u8),
    transport: &[u8],
    out: &mut Vec<u8>,
) -> Result<Sum, Silence> {
    if speaker.addr.family() != ip.src.family() {
        return Err(Silence::NotIp);
    }
    let tags = frame.get(ETHERNET_LEN - 2..usize::from(view.l3)).ok_or(Silence::NotIp)?;
    let sender = Speaker { mac: view.src, addr: ip.src };
    Ok(write_between(speaker, sender, tags, (protocol, tos), transport, out))
}

/// The same, by both ends, which are of one family; `tags` goes up to the IP header.
fn write_between(
    from: Speaker,
    to: Speaker,
    tags: &[u8],
    (protocol, tos): (u8, u8),
    transport: &[u8],
    out: &mut Vec<u8>,
) -> Sum {
    out.extend_from_slice(&to.mac.0);
    out.extend_from_slice(&from.mac.0);
    out.extend_from_slice(tags);
    let sum = match (from.addr.to_ip(), to.addr.to_ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let (from, to) = (from.octets(), to.octets());
            let len = ((V4_LEN + transport.len()) as u16).to_be_bytes();
            // Identification 0 with DF: it is never fragmented (RFC 6864 section 4).
            let mut header = [0x45, tos, len[0], len[1], 0, 0, 0x40, 0, HOP_LIMIT, protocol, 0, 0];
            let sum = Sum::ZERO.bytes(&header).bytes(&from).bytes(&to).finish();
            header[10..].copy_from_slice(&sum.to_be_bytes());
            out.extend_from_slice(&header);
            out.extend_from_slice(&[from, to].concat());
            pseudo_header(&from, &to, protocol, transport.len() as u32)
        }
        (from, to) => {
            let octets = |address| match address {
                IpAddr::V6(address) => address.octets(),
                IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            };
            let (from, to) = (octets(from), octets(to));
            let len = (transport.len() as u16).to_be_bytes();
            out.extend_from_slice(&[0x60, 0, 0, 0, len[0], len[1], protocol, HOP_LIMIT]);
            out.extend_from_slice(&[from, to].concat());
            pseudo_header(&from, &to, protocol, transport.len() as u32)
        }
    };
    out.extend_from_slice(transport);
    sum.bytes(transport)
}

const fn is_error(icmp: Icmp, v4: bool) -> bool {
    if v4 { matches!(icmp.kind, 3 | 4 | 5 | 11 | 12) } else { icmp.kind < 128 || icmp.kind == 137 }
}

#[cfg(test)]
mod tests {
    use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};

    use super::*;

    const SRC: [u8; 6] = [2, 0, 0, 0, 1, 1];
    const DST: [u8; 6] = [2, 0, 0, 0, 2, 1];
    const FROM: [u8; 4] = [10, 0, 0, 1];
    const TO: [u8; 4] = [10, 0, 0, 2];
    const FROM_V6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    const TO_V6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

    fn segment(v6: bool, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut tcp = etherparse::TcpHeader::new(4000, 80, 1000, 500);
        tcp.acknowledgment_number = 7000;
        (tcp.fin, tcp.syn) = (flags & tcp_flags::FIN != 0, flags & tcp_flags::SYN != 0);
        (tcp.rst, tcp.ack) = (flags & tcp_flags::RST != 0, flags & tcp_flags::ACK != 0);
        let (mut out, ethernet) = (Vec::new(), PacketBuilder::ethernet2(SRC, DST));
        let ip = if v6 { ethernet.ipv6(FROM_V6, TO_V6, 9) } else { ethernet.ipv4(FROM, TO, 9) };
        ip.tcp_header(tcp).write(&mut out, payload).unwrap();
        out
    }

    fn reset(frame: &[u8]) -> Result<Vec<u8>, Silence> {
        let view = View::parse(frame).unwrap();
        let Transport::Tcp(tcp) = view.ip().unwrap().transport else { panic!("no TCP") };
        let mut out = b"old".to_vec();
        let told = tcp_reset(frame, &view, &tcp, Speaker::destination_of(&view).unwrap(), &mut out);
        assert_eq!(told.is_err(), out.is_empty());
        told.map(|()| out)
    }

    /// etherparse reads it: addresses turned round, right checksums and numbers.
    #[test]
    fn a_connection_is_reset() {
        const RST: u8 = tcp_flags::RST;
        const RST_ACK: u8 = tcp_flags::RST | tcp_flags::ACK;
        use tcp_flags::{ACK, FIN, SYN};
        for v6 in [false, true] {
            for (flags, payload, expected) in [
                (SYN, &b""[..], (0, 1001, RST_ACK)),
                (SYN, b"data", (0, 1005, RST_ACK)),
                (SYN | ACK, b"", (7000, 0, RST)),
                (ACK, b"data", (7000, 0, RST)),
                (FIN, b"da", (0, 1003, RST_ACK)),
            ] {
                let answer = reset(&segment(v6, flags, payload)).unwrap();
                assert_eq!(answer[..12], [SRC, DST].concat());
                let sliced = SlicedPacket::from_ethernet(&answer).unwrap();
                let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("{sliced:?}") };
                let right = if v6 {
                    tcp.calc_checksum_ipv6(TO_V6, FROM_V6).unwrap()
                } else {
                    tcp.calc_checksum_ipv4(TO, FROM).unwrap()
                };
                assert_eq!((tcp.checksum(), tcp.source_port(), tcp.destination_port()), (right, 80, 4000));
                let view = View::parse(&answer).unwrap();
                let ip = view.ip().unwrap();
                let Transport::Tcp(own) = ip.transport else { panic!("no TCP") };
                assert_eq!((own.seq, own.ack, own.flags), expected, "to flags {flags:#x}");
                assert_eq!((own.window, own.payload, ip.tos, ip.ttl), (0, 0, 0, 64));
            }
        }
    }

    #[test]
    fn one_end_is_reset_in_the_name_of_the_other() {
        for (v6, ack) in [(false, Some(7)), (true, Some(7)), (true, None)] {
            let addresses: [IpAddr; 2] =
                if v6 { [FROM_V6.into(), TO_V6.into()] } else { [FROM.into(), TO.into()] };
            let [from, to] = addresses.map(crate::Addr::from);
            let from = Speaker { mac: crate::MacAddr(SRC), addr: from };
            let to = Speaker { mac: crate::MacAddr(DST), addr: to };
            let mut out = vec![1, 2, 3];
            tcp_reset_between(from, to, [4000, 80], u32::MAX, ack, &mut out).unwrap();
            assert_eq!(out[..12], [DST, SRC].concat());
            let sliced = SlicedPacket::from_ethernet(&out).unwrap();
            let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("{sliced:?}") };
            let right = if v6 {
                tcp.calc_checksum_ipv6(FROM_V6, TO_V6).unwrap()
            } else {
                tcp.calc_checksum_ipv4(FROM, TO).unwrap()
            };
            assert_eq!((tcp.checksum(), tcp.source_port(), tcp.destination_port()), (right, 4000, 80));
            assert_eq!((tcp.sequence_number(), tcp.rst(), tcp.ack()), (u32::MAX, true, ack.is_some()));
            assert_eq!(tcp.acknowledgment_number(), ack.unwrap_or(0));
        }
        let [v4, v6] = [IpAddr::from(FROM), TO_V6.into()]
            .map(|addr| Speaker { mac: crate::MacAddr(SRC), addr: addr.into() });
        let mut out = vec![1];
        assert_eq!(tcp_reset_between(v4, v6, [1, 2], 3, None, &mut out), Err(Silence::NotIp));
        assert!(out.is_empty());
    }

    #[test]
    fn nothing_answers_a_reset() {
        assert_eq!(reset(&segment(false, tcp_flags::RST, b"")), Err(Silence::Reset));
        assert_eq!(reset(&segment(true, tcp_flags::RST | tcp_flags::ACK, b"")), Err(Silence::Reset));
    }

    #[test]
    fn what_is_prohibited_is_said_to_be() {
        for v6 in [false, true] {
            let frame = segment(v6, tcp_flags::SYN, &[7; 1400]);
            let (view, mut out) = (View::parse(&frame).unwrap(), Vec::new());
            let speaker = Speaker::destination_of(&view).unwrap();
            icmp_error(&frame, &view, speaker, IcmpError::Prohibited, &mut out).unwrap();
            let sliced = SlicedPacket::from_ethernet(&out).unwrap();
            match sliced.transport.unwrap() {
                TransportSlice::Icmpv4(icmp) => {
                    assert_eq!((icmp.type_u8(), icmp.code_u8(), icmp.bytes5to8()), (3, 13, [0; 4]));
                    assert_eq!(checksum(&out[34..]), 0);
                    assert_eq!((out.len(), icmp.payload()), (14 + 576, &frame[14..14 + QUOTE_V4]));
                    assert_eq!(out[15], 0xc0);
                }
                TransportSlice::Icmpv6(icmp) => {
                    assert!(icmp.is_checksum_valid(TO_V6, FROM_V6));
                    assert_eq!((icmp.type_u8(), icmp.code_u8(), icmp.bytes5to8()), (1, 1, [0; 4]));
                    assert_eq!((out.len(), icmp.payload()), (14 + 1280, &frame[14..14 + QUOTE_V6]));
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
