use proptest::prelude::*;

use super::*;
use crate::{offload::segment::segment, test_frames::*};

/// One delivery: the bytes the port would get and what is said about them.
#[derive(Debug, PartialEq)]
struct Delivered {
    bytes: Vec<u8>,
    offload: Offload,
    segments: usize,
}

fn deliver(frames: &[Vec<u8>]) -> Vec<Delivered> {
    let mut out = Vec::new();
    let mut run = Coalescer::new();
    let mut take = |run: &mut Coalescer<'_>| {
        if let Some(frame) = run.finish() {
            let bytes = [&[frame.header][..], frame.payloads].concat().concat();
            assert_eq!(bytes.len(), frame.total_len());
            out.push(Delivered { bytes, offload: frame.offload, segments: frame.segments() });
        }
    };
    for frame in frames {
        let view = View::parse(frame).unwrap();
        if !run.push(frame, &view) {
            take(&mut run);
            assert!(run.push(frame, &view), "a fresh run takes anything");
        }
    }
    take(&mut run);
    out
}

/// How many frames each delivery stands for.
fn runs(frames: &[Vec<u8>]) -> Vec<usize> {
    deliver(frames).iter().map(|delivered| delivered.segments).collect()
}

fn v4(frame: &[u8]) -> bool {
    View::parse(frame).unwrap().ip().unwrap().src.is_v4()
}

/// Changes bytes of a frame, then puts both checksums right.
fn with(frame: &[u8], changes: &[(usize, u8)]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    for (at, value) in changes {
        frame[*at] = *value;
    }
    let (l4, addresses) = if frame[12] == 8 { (34, 26..34) } else { (54, 22..54) };
    if l4 == 34 {
        frame[24..26].fill(0);
        let sum = checksum::checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    frame[l4 + 16..l4 + 18].fill(0);
    let (src, dst) = frame[addresses.clone()].split_at(addresses.len() / 2);
    let sum = pseudo_header(src, dst, 6, (frame.len() - l4) as u32).bytes(&frame[l4..]).finish();
    frame[l4 + 16..l4 + 18].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// Segments of one flow, cut from a GSO packet with the flags ACK and PSH.
fn segments(six: bool, payload: &[u8], size: u16) -> Vec<Vec<u8>> {
    let (frame, kind) = match six {
        false => {
            (with(&tcp_v4(1, 2, 0xffff_fff0, payload), &[(47, 0x18), (18, 0xff), (19, 0xfe)]), GsoKind::TcpV4)
        }
        true => (with(&tcp_v6(1, 2, 0xffff_fff0, payload), &[(67, 0x18)]), GsoKind::TcpV6),
    };
    let mut out = Vec::new();
    let gso = Gso { kind, segment: size };
    let layout = segment(&frame, &View::parse(&frame).unwrap(), gso, &[], &mut out).unwrap();
    out.chunks(layout.size).map(<[u8]>::to_vec).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Cutting what was merged gives back every byte of every frame.
    #[test]
    fn cutting_undoes_merging(six: bool, payload in proptest::collection::vec(any::<u8>(), 1..30000), size in 100u16..1500) {
        let frames = segments(six, &payload, size);
        let delivered = deliver(&frames);
        prop_assert_eq!(delivered.len(), frames.len().div_ceil(MAX_SEGMENTS));
        let mut again = Vec::new();
        for one in &delivered {
            let Some(gso) = one.offload.gso else { again.push(one.bytes.clone()); continue };
            let view = View::parse(&one.bytes).expect("lengths and header checksum are right");
            let mut out = Vec::new();
            let layout = segment(&one.bytes, &view, gso, &[], &mut out).unwrap();
            prop_assert_eq!(layout.count, one.segments);
            again.extend(out.chunks(layout.size).map(<[u8]>::to_vec));
        }
        prop_assert_eq!(again, frames);
    }

    /// A partial checksum, finished as a device would, is that of the whole GSO packet.
    #[test]
    fn the_partial_checksum_is_the_pseudo_header(six: bool, payload in proptest::collection::vec(any::<u8>(), 1001..9000)) {
        let delivered = deliver(&segments(six, &payload, 1000));
        let mut bytes = delivered[0].bytes.clone();
        let partial = delivered[0].offload.checksum.unwrap();
        let len = bytes.len();
        let offload = Offload { checksum: Some(partial), gso: None };
        let mut frame = eastgate_wire::Frame::new(&mut bytes, 0, len, offload);
        crate::offload::finish_checksum(&mut frame).unwrap();
        prop_assert_eq!(&with(frame.bytes(), &[]), frame.bytes());
    }

    /// Whatever arrives, every payload byte goes on in order, and nothing that is wrong is made right.
    #[test]
    fn noise_is_passed_on_as_it_came(
        six: bool,
        noise in proptest::collection::vec((0usize..12, any::<u16>(), any::<u8>()), 0..6),
    ) {
        let mut frames = segments(six, &[7; 6000], 500);
        for (frame, at, value) in noise {
            let frame = &mut frames[frame];
            let at = usize::from(at) % frame.len();
            frame[at] = value;
        }
        frames.retain(|frame| View::parse(frame).is_ok());
        let delivered = deliver(&frames);
        prop_assert_eq!(delivered.iter().map(|d| d.segments).sum::<usize>(), frames.len());
        let mut rest = frames.iter();
        for one in delivered {
            if one.segments == 1 {
                prop_assert_eq!(&one.bytes, rest.next().unwrap());
                prop_assert_eq!(one.offload, Offload::default());
            } else {
                for frame in rest.by_ref().take(one.segments) {
                    prop_assert_eq!(&with(frame, &[]), frame, "a merged frame has right checksums");
                }
            }
        }
    }
}

/// The second of two segments with some bytes changed (and checksums mended): does it still belong?
fn still_merges(six: bool, changes: &[(usize, u8)]) -> bool {
    let mut frames = segments(six, &[7; 2000], 1000);
    frames[1] = with(&frames[1], changes);
    runs(&frames) == [2]
}

#[test]
fn any_other_header_field_keeps_frames_apart() {
    for six in [false, true] {
        assert!(still_merges(six, &[]));
        let frame = &segments(six, &[7; 2000], 1000)[1];
        let l4 = if v4(frame) { 34 } else { 54 };
        // MACs, TOS or traffic class, TTL or hop limit, addresses, ports, seq, ack, window, urgent pointer.
        let l3 = if v4(frame) { vec![15, 22, 29, 33] } else { vec![14, 15, 16, 17, 21, 37, 53] };
        let fields = [0, 5, 6, 11]
            .into_iter()
            .chain(l3)
            .chain([0, 1, 2, 3, 4, 7, 8, 11, 14, 15, 18, 19].map(|at| l4 + at));
        for at in fields {
            assert!(!still_merges(six, &[(at, frame[at] ^ 1)]), "IPv6 {six}, byte {at}");
        }
    }
}

#[test]
fn only_ack_and_psh() {
    for flags in 0..=255u8 {
        if flags & 0x02 != 0 {
            continue;
        }
        assert_eq!(still_merges(false, &[(47, flags)]), flags & !0x08 == 0x10, "{flags:#x}");
    }
}

#[test]
fn psh_and_a_short_segment_end_a_run() {
    let mut frames = segments(false, &[7; 5000], 1000);
    frames[1] = with(&frames[1], &[(47, 0x18)]);
    assert_eq!(runs(&frames), [2, 3]);
    let push = View::parse(&deliver(&frames)[0].bytes).unwrap();
    let Transport::Tcp(tcp) = push.ip().unwrap().transport else { panic!() };
    assert_eq!(tcp.flags, 0x18, "the GSO packet has the flag of its last segment");

    let short = [
        segments(false, &[7; 2500], 1000),
        vec![with(
            &tcp_v4(1, 2, 0xffff_fff0u32.wrapping_add(2500), &[7; 100]),
            &[(47, 0x10), (18, 0), (19, 1)],
        )],
    ]
    .concat();
    let mut short = short;
    short[2] = with(&short[2], &[(47, 0x10)]);
    assert_eq!(runs(&short), [3, 1]);
    let mut first_pushes = segments(false, &[7; 3000], 1000);
    first_pushes[0] = with(&first_pushes[0], &[(47, 0x18)]);
    assert_eq!(runs(&first_pushes), [1, 2]);
}

#[test]
fn ids_count_up_or_stay_where_df_is_set() {
    let with_ids = |field: u8, ids: [u8; 4]| {
        let frames = segments(false, &[7; 4000], 1000);
        let set = |(frame, id): (&Vec<u8>, u8)| with(frame, &[(18, 0), (19, id), (20, field)]);
        runs(&frames.iter().zip(ids).map(set).collect::<Vec<_>>())
    };
    for field in [0, 0x40] {
        assert_eq!(with_ids(field, [1, 2, 3, 4]), [4]);
        assert_eq!(with_ids(field, [1, 2, 4, 5]), [2, 2]);
        assert_eq!(with_ids(field, [4, 3, 2, 1]), [1, 1, 1, 1]);
    }
    assert_eq!(with_ids(0x40, [9, 9, 9, 9]), [4]);
    assert_eq!(with_ids(0x40, [9, 9, 10, 10]), [2, 2]);
    assert_eq!(with_ids(0x40, [9, 10, 10, 10]), [2, 2]);
    assert_eq!(with_ids(0, [9, 9, 9, 9]), [1, 1, 1, 1]);
}

#[test]
fn a_wrong_checksum_is_passed_on_alone() {
    let mut frames = segments(false, &[7; 4000], 1000);
    frames[1][60] ^= 1;
    assert_eq!(runs(&frames), [1, 1, 2]);
    let mut frames = segments(false, &[7; 3000], 1000);
    frames[0][60] ^= 1;
    assert_eq!(runs(&frames), [1, 2], "also when it is the first");
}

#[test]
fn gaps_repeats_and_other_flows_between() {
    let frames = segments(true, &[7; 4000], 1000);
    let [a, b, c, d] = [0, 1, 2, 3].map(|n| frames[n].clone());
    assert_eq!(runs(&[a.clone(), c.clone(), d.clone()]), [1, 2]);
    assert_eq!(runs(&[a.clone(), a.clone()]), [1, 1]);
    assert_eq!(runs(&[b.clone(), a.clone()]), [1, 1]);
    assert_eq!(runs(&[a, tcp_v6(9, 9, 1, &[0; 1000]), b, c]), [1, 1, 2]);
}

#[test]
fn frames_that_are_never_merged() {
    let twice = |frame: Vec<u8>| runs(&[frame.clone(), frame]);
    assert_eq!(twice(arp()), [1, 1]);
    assert_eq!(twice(udp_v4(1, 2, &[0; 100])), [1, 1]);
    assert_eq!(twice(tcp_v4(1, 2, 3, b"")), [1, 1], "pure acknowledgements");
    assert_eq!(twice(tcp_syn_v4(1460, false)), [1, 1]);
    let mut padded = segments(false, &[7; 2000], 1000);
    padded[1].extend([0; 4]);
    assert_eq!(runs(&padded), [1, 1]);
}

#[test]
fn tagged_frames_merge_with_their_like() {
    let tagged: Vec<_> = segments(false, &[7; 3000], 1000).iter().map(|frame| tag(frame, 5)).collect();
    assert_eq!(runs(&tagged), [3]);
    let mixed = [tagged[0].clone(), segments(false, &[7; 3000], 1000)[1].clone()];
    assert_eq!(runs(&mixed), [1, 1]);
}

#[test]
fn limits_are_64_segments_and_65535_bytes() {
    assert_eq!(runs(&segments(false, &[7; 6500], 100)), [64, 1]);
    let large = segments(false, &[7; 60_000], 9000);
    assert_eq!(runs(&large), [7]);
    // 65,535 - 40 bytes of payload fit exactly; one more and the last segment is left over.
    let exact: Vec<Vec<u8>> = (0..7u32)
        .map(|n| {
            let len = if n == 6 { 65495 - 6 * 10000 } else { 10000 };
            with(&tcp_v4(1, 2, n * 10000, &vec![7; len]), &[(47, 0x10), (19, n as u8)])
        })
        .collect();
    assert_eq!(runs(&exact), [7]);
    assert_eq!(View::parse(&deliver(&exact)[0].bytes).unwrap().ip().unwrap().l4_len, 65535 - 20);
    let mut over = exact;
    over[6] = with(&tcp_v4(1, 2, 60000, &[7; 5496]), &[(47, 0x10), (19, 6)]);
    assert_eq!(runs(&over), [6, 1]);
}

#[test]
fn options_are_compared_and_kept() {
    let with_option = |seq: u32, stamp: u8| {
        let builder = etherparse::PacketBuilder::ethernet2(SRC, DST)
            .ipv6(SRC_V6, DST_V6, 64)
            .tcp(1, 2, seq, 512)
            .ack(7);
        let mut out = Vec::new();
        let stamp = etherparse::TcpOptionElement::Timestamp(u32::from(stamp), 1);
        builder.options(&[stamp]).unwrap().write(&mut out, &[7; 500]).unwrap();
        out
    };
    assert_eq!(
        runs(&[with_option(0, 1), with_option(500, 1), with_option(1000, 2), with_option(1500, 2)]),
        [2, 2]
    );
    assert_eq!(runs(&[with_option(0, 1), tcp_v6(1, 2, 500, &[7; 500])]), [1, 1], "header lengths differ");
}
