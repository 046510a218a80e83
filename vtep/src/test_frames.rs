//! Frames for the tests of this crate, built by an encoder that is not ours.

use ahash::RandomState;
use eastgate_wire::VtepAddr;
use etherparse::{PacketBuilder, TcpOptionElement};

pub(crate) const SRC: [u8; 6] = [2, 0, 0, 0, 1, 1];
pub(crate) const DST: [u8; 6] = [2, 0, 0, 0, 2, 1];
pub(crate) const SRC_V4: [u8; 4] = [10, 1, 0, 11];
pub(crate) const DST_V4: [u8; 4] = [10, 1, 0, 21];
pub(crate) const SRC_V6: [u8; 16] = [0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x11];
pub(crate) const DST_V6: [u8; 16] = [0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x21];

pub(crate) fn hasher() -> RandomState {
    RandomState::with_seeds(0xea57, 0x9a7e, 7, 11)
}

pub(crate) fn vtep(last: u8) -> VtepAddr {
    VtepAddr([192, 0, 2, last].into())
}

fn v4() -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ethernet2(SRC, DST).ipv4(SRC_V4, DST_V4, 64)
}

fn v6() -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ethernet2(SRC, DST).ipv6(SRC_V6, DST_V6, 64)
}

pub(crate) fn udp_v4(sport: u16, dport: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    v4().udp(sport, dport).write(&mut out, payload).unwrap();
    out
}

pub(crate) fn udp_v6(sport: u16, dport: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    v6().udp(sport, dport).write(&mut out, payload).unwrap();
    out
}

pub(crate) fn tcp_v4(sport: u16, dport: u16, seq: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    v4().tcp(sport, dport, seq, 512).ack(77).write(&mut out, payload).unwrap();
    out
}

pub(crate) fn tcp_v6(sport: u16, dport: u16, seq: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    v6().tcp(sport, dport, seq, 512).ack(77).write(&mut out, payload).unwrap();
    out
}

/// A SYN with an MSS option, at an odd offset if asked for.
pub(crate) fn tcp_syn_v4(mss: u16, odd: bool) -> Vec<u8> {
    let (even_options, odd_options) = (
        [TcpOptionElement::MaximumSegmentSize(mss), TcpOptionElement::WindowScale(7), TcpOptionElement::Noop],
        [TcpOptionElement::Noop, TcpOptionElement::MaximumSegmentSize(mss), TcpOptionElement::WindowScale(7)],
    );
    let options = if odd { &odd_options } else { &even_options };
    let mut out = Vec::new();
    v4().tcp(40000, 443, 9, 512).syn().options(options).unwrap().write(&mut out, b"").unwrap();
    out
}

pub(crate) fn arp() -> Vec<u8> {
    let mut frame =
        [&[0xff; 6][..], &SRC, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &SRC, &SRC_V4, &[0; 6], &DST_V4].concat();
    frame.resize(60, 0);
    frame
}

/// The frame with an 802.1Q tag in front of what it has.
pub(crate) fn tag(frame: &[u8], vid: u16) -> Vec<u8> {
    [&frame[..12], &[0x81, 0], &vid.to_be_bytes(), &frame[12..]].concat()
}

/// An IPv6 fragment; `offset` in bytes.
pub(crate) fn fragment_v6(next: u8, offset: u16, more: bool, body: &[u8]) -> Vec<u8> {
    let mut frame = [&DST[..], &SRC, &[0x86, 0xdd, 0x60, 0, 0, 0]].concat();
    frame.extend((8 + body.len() as u16).to_be_bytes());
    frame.extend([44, 64]);
    frame.extend([SRC_V6, DST_V6].concat());
    frame.extend([next, 0]);
    frame.extend((offset | u16::from(more)).to_be_bytes());
    frame.extend([0, 0, 0, 9]);
    frame.extend(body);
    frame
}
