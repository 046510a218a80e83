use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::*;
use crate::test_frames::*;

const PREFIX: [u8; 8] = [8, 0, 0, 0, 0, 0, 5, 0];

fn cut(frame: &[u8], gso: Gso) -> Result<(Layout, Vec<Vec<u8>>), DropReason> {
    let mut out = b"before".to_vec();
    let layout = segment(frame, &View::parse(frame).unwrap(), gso, &PREFIX, &mut out);
    let Ok(layout) = layout else {
        assert_eq!(out, b"before", "nothing is appended on failure");
        return Err(layout.unwrap_err());
    };
    let out = &out[6..];
    assert_eq!(out.len(), layout.total());
    let frames: Vec<Vec<u8>> =
        out.chunks(layout.size).map(|piece| piece.strip_prefix(&PREFIX).unwrap().to_vec()).collect();
    assert_eq!((frames.len(), frames.last().unwrap().len() + 8), (layout.count, layout.last));
    Ok((layout, frames))
}

/// What etherparse reads in a segment, once it has found every length and checksum right.
#[derive(Debug, PartialEq)]
struct Oracle {
    id: Option<u16>,
    seq: u32,
    flags: u8,
    payload: Vec<u8>,
}

fn oracle(frame: &[u8]) -> Oracle {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let (id, v4, v6) = match sliced.net.unwrap() {
        NetSlice::Ipv4(v4) => {
            let header = v4.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert_eq!(usize::from(header.total_len), frame.len() - 14);
            (Some(header.identification), Some(header), None)
        }
        NetSlice::Ipv6(v6) => {
            let header = v6.header().to_header();
            assert_eq!(usize::from(header.payload_length), frame.len() - 54);
            (None, None, Some(header))
        }
        other => panic!("{other:?}"),
    };
    match sliced.transport.unwrap() {
        TransportSlice::Tcp(tcp) => {
            let sum = match (&v4, &v6) {
                (Some(ip), _) => tcp.calc_checksum_ipv4(ip.source, ip.destination),
                (_, Some(ip)) => tcp.calc_checksum_ipv6(ip.source, ip.destination),
                _ => unreachable!(),
            };
            assert_eq!(tcp.checksum(), sum.unwrap());
            let flags = frame[tcp_at(frame) + 13];
            Oracle { id, seq: tcp.sequence_number(), flags, payload: tcp.payload().to_vec() }
        }
        TransportSlice::Udp(udp) => {
            let header = udp.to_header();
            assert_eq!(usize::from(header.length), 8 + udp.payload().len());
            let sum = match (&v4, &v6) {
                (Some(ip), _) => header.calc_checksum_ipv4_raw(ip.source, ip.destination, udp.payload()),
                (_, Some(ip)) => header.calc_checksum_ipv6_raw(ip.source, ip.destination, udp.payload()),
                _ => unreachable!(),
            };
            assert!(header.checksum == sum.unwrap() || header.checksum == 0, "{header:?}");
            Oracle { id, seq: 0, flags: 0, payload: udp.payload().to_vec() }
        }
        other => panic!("{other:?}"),
    }
}

fn tcp_at(frame: &[u8]) -> usize {
    usize::from(View::parse(frame).unwrap().ip().unwrap().l4)
}

fn gso_packet(kind: usize, seq: u32, payload: &[u8], id: u16, flags: u8) -> (Vec<u8>, GsoKind) {
    let (mut frame, kind) = match kind {
        0 => (tcp_v4(1, 2, seq, payload), GsoKind::TcpV4),
        1 => (tcp_v6(1, 2, seq, payload), GsoKind::TcpV6),
        2 => (udp_v4(1, 2, payload), GsoKind::Udp),
        _ => (udp_v6(1, 2, payload), GsoKind::Udp),
    };
    if frame[12] == 8 {
        frame[18..20].copy_from_slice(&id.to_be_bytes());
        frame[24..26].fill(0);
        let sum = checksum::checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    let l4 = tcp_at(&frame);
    if kind != GsoKind::Udp {
        frame[l4 + 13] = flags;
        // What a partial checksum leaves there; the cut must not trust it.
        frame[l4 + 16..l4 + 18].fill(0xa5);
    } else {
        frame[l4 + 6..l4 + 8].fill(0xa5);
    }
    (frame, kind)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn segments_are_what_the_kernel_would_send(
        kind in 0usize..4,
        seq: u32,
        id: u16,
        flags: u8,
        size in MIN_SEGMENT..1500,
        payload in proptest::collection::vec(any::<u8>(), 0..9000),
    ) {
        let flags = flags & !0x02;
        let (frame, kind) = gso_packet(kind, seq, &payload, id, flags);
        let (layout, frames) = cut(&frame, Gso { kind, segment: size }).unwrap();
        prop_assert_eq!(layout.count, payload.len().div_ceil(usize::from(size)).max(1));
        prop_assert!(layout.last <= layout.size);
        let mut stream = Vec::new();
        for (index, segment) in frames.iter().enumerate() {
            let read = oracle(segment);
            let last = index + 1 == layout.count;
            prop_assert_eq!(&segment[..12], &frame[..12]);
            prop_assert_eq!(read.id, (frame[12] == 8).then(|| id.wrapping_add(index as u16)));
            if kind != GsoKind::Udp {
                prop_assert_eq!(read.seq, seq.wrapping_add(stream.len() as u32));
                let gone = if last { 0 } else { 0x09 } | if index == 0 { 0 } else { 0x80 };
                prop_assert_eq!(read.flags, flags & !gone);
            }
            prop_assert!(last || read.payload.len() == usize::from(size));
            stream.extend(read.payload);
        }
        prop_assert_eq!(stream, payload);
    }

    #[test]
    fn noise_never_panics(noise in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..8), kind in 0usize..4, gso in 0usize..3, size: u16) {
        let (mut frame, _) = gso_packet(kind, 9, &[7; 500], 1, 0x10);
        for (at, value) in noise {
            let at = usize::from(at) % frame.len();
            frame[at] = value;
        }
        let kind = [GsoKind::TcpV4, GsoKind::TcpV6, GsoKind::Udp][gso];
        if View::parse(&frame).is_ok() {
            let _ = cut(&frame, Gso { kind, segment: size });
        }
    }
}

#[test]
fn tags_and_padding() {
    let (plain, kind) = gso_packet(0, 9, &[7; 3000], 1, 0x18);
    let mut tagged = tag(&plain, 5);
    tagged.extend([0xee; 20]);
    let (_, frames) = cut(&tagged, Gso { kind, segment: 1000 }).unwrap();
    let (_, expected) = cut(&plain, Gso { kind, segment: 1000 }).unwrap();
    let expected: Vec<Vec<u8>> = expected.iter().map(|frame| tag(frame, 5)).collect();
    assert_eq!(frames, expected);
}

#[test]
fn a_udp_checksum_of_zero_stays_zero() {
    let mut frame = udp_v4(1, 2, &[7; 300]);
    frame[40..42].fill(0);
    let (_, frames) = cut(&frame, Gso { kind: GsoKind::Udp, segment: 100 }).unwrap();
    assert!(frames.iter().all(|segment| segment[40..42] == [0, 0]));
}

/// Of 65,536 values of one summed word, one makes the second segment's checksum zero.
#[test]
fn a_checksum_of_zero_is_sent_as_all_ones_by_udp_alone() {
    for (kind, at, expected) in [(0, 50, [0, 0]), (2, 40, [0xff, 0xff])] {
        let zeros = (0..=u16::MAX).filter(|word| {
            let payload = [&[7; 100][..], &word.to_be_bytes()[..], &[7; 14]].concat();
            let (frame, kind) = gso_packet(kind, 9, &payload, 1, 0x18);
            let (_, frames) = cut(&frame, Gso { kind, segment: 100 }).unwrap();
            oracle(&frames[1]);
            frames[1][at..at + 2] == expected
        });
        assert!((1..=2).contains(&zeros.count()), "0 and 0xffff are the same word to the sum");
    }
}

#[test]
fn what_cannot_be_cut_is_refused() {
    let bad = Err(DropReason::BadL4Header);
    let tcp = tcp_v4(1, 2, 3, &[0; 3000]);
    for kind in [GsoKind::TcpV6, GsoKind::Udp] {
        assert_eq!(cut(&tcp, Gso { kind, segment: 1000 }), bad);
    }
    for segment in [0, MIN_SEGMENT - 1] {
        assert_eq!(cut(&tcp, Gso { kind: GsoKind::TcpV4, segment }), bad, "an amplifier");
    }
    assert_eq!(cut(&udp_v6(1, 2, &[0; 3000]), Gso { kind: GsoKind::TcpV6, segment: 1000 }), bad);
    assert_eq!(cut(&arp(), Gso { kind: GsoKind::TcpV4, segment: 1000 }), bad);
    let fragment = fragment_v6(17, 0, true, &[0, 1, 0, 2, 0, 200, 0, 0]);
    assert_eq!(cut(&fragment, Gso { kind: GsoKind::Udp, segment: 1000 }), bad);
}

#[test]
fn the_largest_gso_packet() {
    let payload: Vec<u8> = (0..65535 - 40).map(|n| n as u8).collect();
    let (frame, kind) = gso_packet(0, u32::MAX, &payload, u16::MAX, 0x18);
    let (layout, frames) = cut(&frame, Gso { kind, segment: 1448 }).unwrap();
    assert_eq!(layout.count, 46);
    assert_eq!(frames.iter().flat_map(|f| oracle(f).payload).collect::<Vec<u8>>(), payload);
}
