//! What fits the windows of a connection, and what does not.

use super::*;

#[test]
fn windows() {
    let stories: &[(&str, &[Line])] = &[
        (
            "as far as the window reaches",
            &[(0, A, ACK, 11_001, 5001, 1, In(Established)), (0, A, ACK, 11_002, 5001, 0, In(Established))],
        ),
        (
            "and no further",
            &[(0, A, ACK, 11_003, 5001, 1, Out(TcpWindow)), (0, B, ACK, 15_003, 1001, 1, Out(TcpWindow))],
        ),
        (
            "out of order inside the window",
            &[
                (0, A, ACK, 9001, 5001, 1000, In(Established)),
                (0, A, ACK, 3001, 5001, 1000, In(Established)),
                (0, B, ACK, 5001, 1001, 0, In(Established)),
                (0, A, ACK, 1001, 5001, 2000, In(Established)),
                (0, B, ACK, 5001, 4001, 0, In(Established)),
            ],
        ),
        (
            "older than a window",
            &[
                (0, A, ACK, 1001, 5001, 10_000, In(Established)),
                (0, B, ACK, 5001, 11_001, 0, In(Established)),
                (0, A, ACK, 11_001, 5001, 10_000, In(Established)),
                (0, A, ACK, 11_001, 5001, 100, In(Established)),
                (0, A, ACK, 11_000, 5001, 0, In(Established)),
                (0, A, ACK, 10_000, 5001, 500, Out(TcpWindow)),
            ],
        ),
        (
            "acknowledges what was not sent",
            &[
                (0, A, ACK, 1001, 5002, 0, Out(TcpWindow)),
                (0, B, ACK, 5001, 1002, 0, Out(TcpWindow)),
                (0, A, ACK, 1001, 5000u32.wrapping_sub(200_000), 10, Out(TcpWindow)),
            ],
        ),
        (
            "keep-alive, with and without a byte",
            &[
                (0, A, ACK, 1001, 5001, 50, In(Established)),
                (0, B, ACK, 5001, 1051, 0, In(Established)),
                (600, A, ACK, 1050, 5001, 0, In(Established)),
                (600, A, ACK, 1050, 5001, 1, In(Established)),
                (0, B, ACK, 5001, 1051, 0, In(Established)),
                (600, B, ACK, 5000, 1051, 0, In(Established)),
            ],
        ),
        (
            "reset at the next number",
            &[
                (0, A, ACK, 1001, 5001, 50, In(Established)),
                (0, A, RST, 1051, 0, 0, In(Close)),
                (0, B, RST, 5001, 0, 0, In(Close)),
            ],
        ),
        (
            "reset at the number last acknowledged",
            &[(0, A, ACK, 1001, 5001, 50, In(Established)), (0, A, RST, 1001, 0, 0, In(Close))],
        ),
        (
            "reset in the window, not exact: for the other end to challenge",
            &[
                (0, A, RST, 1002, 0, 0, In(Established)),
                (0, A, RST, 11_001, 0, 0, In(Established)),
                (0, B, ACK, 5001, 1001, 0, In(Established)),
                (0, A, ACK, 1001, 5001, 10, In(Established)),
            ],
        ),
        (
            "a reset that is challenged, and made good",
            &[
                (0, A, RST, 1500, 0, 0, In(Established)),
                (0, B, ACK, 5001, 1001, 0, In(Established)),
                (0, A, RST, 1001, 0, 0, In(Close)),
            ],
        ),
        (
            "reset outside the window",
            &[
                (0, A, RST, 11_003, 0, 0, Out(TcpWindow)),
                (0, A, RST, 1000, 0, 0, Out(TcpWindow)),
                (0, B, RA, 4_000_000_000, 1001, 0, Out(TcpWindow)),
                (0, A, ACK, 1001, 5001, 10, In(Established)),
            ],
        ),
        (
            "a reset one end did not take: the other resets again",
            &[
                (0, A, RST, 1001, 0, 0, In(Close)),
                (1, B, ACK, 5001, 1001, 500, In(Close)),
                (0, A, RST, 1001, 0, 0, In(Close)),
                (8, B, ACK, 5001, 1001, 500, In(Close)),
                (1, B, ACK, 5001, 1001, 500, Out(NotSyn)),
            ],
        ),
        (
            "SYN in the middle",
            &[
                (0, A, SYN, 900_000, 0, 0, In(Established)),
                (0, B, SYN, 900_000, 0, 0, In(Established)),
                (0, A, SYN, 1500, 0, 0, In(Established)),
                (0, B, SYN, 900_000, 0, 10, Out(TcpState)),
                (0, A, ACK, 1001, 5001, 10, In(Established)),
            ],
        ),
        (
            "flags that no connection sends",
            &[
                (0, A, 0, 1001, 5001, 0, Out(TcpFlags)),
                (0, A, f::FIN | f::PSH | f::URG, 1001, 5001, 0, Out(TcpFlags)),
                (0, A, 0x3f, 1001, 5001, 0, Out(TcpFlags)),
                (0, A, SYN | f::FIN, 1001, 5001, 0, Out(TcpFlags)),
                (0, A, SYN | RST, 1001, 5001, 0, Out(TcpFlags)),
                (0, A, f::FIN, 1001, 5001, 0, Out(TcpFlags)),
                (0, A, f::FIN | RA, 1001, 5001, 0, Out(TcpFlags)),
                (0, A, f::PSH, 1001, 5001, 5, Out(TcpFlags)),
                (0, A, ACK | f::PSH | f::URG | 0xc0, 1001, 5001, 5, In(Established)),
            ],
        ),
    ];
    for (name, lines) in stories {
        play(name, false, &[HANDSHAKE, lines]);
    }
}

/// A connection with scaled windows: `scales` are those of the SYN and of the SYN-ACK.
fn scaled(scales: (Option<u8>, Option<u8>)) -> World {
    let mut world = World::new();
    let forth = key(5, 6, 40000);
    for (key, flags, seq, ack, scale) in [
        (forth, SYN, 1000, 0, scales.0),
        (forth.reversed(), SA, 5000, 1001, scales.1),
        (forth, ACK, 1001, 5001, None),
    ] {
        let mut segment = tcp(key, flags, seq, ack, 0);
        if let SegmentKind::Tcp(tcp) = &mut segment.kind {
            tcp.window_scale = scale;
        }
        assert!(!matches!(world.send(&segment), Fate::Dropped(_)));
    }
    assert_eq!(world.send(&tcp(forth.reversed(), ACK, 5001, 1001, 0)), Fate::Passed(Established));
    world
}

#[test]
fn scaling_counts_when_both_offer_it() {
    let far = tcp(key(5, 6, 40000), ACK, 1001 + 10_000 * 128, 5001, 1);
    let farther = tcp(key(5, 6, 40000), ACK, 1003 + 10_000 * 128, 5001, 1);
    let mut both = scaled((Some(2), Some(7)));
    assert_eq!(both.send(&farther), Fate::Dropped(TcpWindow));
    assert_eq!(both.send(&far), Fate::Passed(Established));
    for scales in [(None, Some(7)), (Some(2), None), (None, None)] {
        assert_eq!(scaled(scales).send(&far), Fate::Dropped(TcpWindow), "{scales:?}");
    }
}

#[test]
fn gso_packets_count_their_segments() {
    let mut world = scaled((Some(7), Some(7)));
    let mut frame = tcp(key(5, 6, 40000), ACK | f::PSH, 1001, 5001, 65_160);
    (frame.packets, frame.bytes) = (45, 45 * 66 + 65_160);
    assert_eq!(world.send(&frame), Fate::Passed(Established));
    assert_eq!(
        world.send(&tcp(key(5, 6, 40000).reversed(), ACK, 5001, 1001 + 65_160, 0)),
        Fate::Passed(Established)
    );
    let flow = world.flows()[0];
    assert_eq!((flow.original.packets, flow.original.bytes), (47, 45 * 66 + 65_160 + 80));
}

#[test]
fn a_closed_window_can_be_probed() {
    let mut world = World::new();
    play_into(&mut world, HANDSHAKE);
    let (forth, back) = (key(5, 6, 40000), key(5, 6, 40000).reversed());
    assert_eq!(world.send(&tcp(forth, ACK, 1001, 5001, 10_000)), Fate::Passed(Established));
    let mut closed = tcp(back, ACK, 5001, 11_001, 0);
    if let SegmentKind::Tcp(tcp) = &mut closed.kind {
        tcp.window = 0;
    }
    assert_eq!(world.send(&closed), Fate::Passed(Established));
    for (seq, payload) in [(11_001, 1), (11_000, 0), (11_001, 1)] {
        assert_eq!(
            world.send(&tcp(forth, ACK, seq, 5001, payload)),
            Fate::Passed(Established),
            "probe at {seq}"
        );
        assert_eq!(world.send(&closed), Fate::Passed(Established));
    }
    assert_eq!(world.send(&tcp(forth, ACK, 11_003, 5001, 1)), Fate::Dropped(TcpWindow));
}

fn play_into(world: &mut World, lines: &[Line]) {
    for &(_, who, flags, seq, ack, payload, _) in lines {
        let key = if who == A { key(5, 6, 40000) } else { key(5, 6, 40000).reversed() };
        assert!(!matches!(world.send(&tcp(key, flags, seq, ack, payload)), Fate::Dropped(_)));
    }
}

#[test]
fn fragments_of_a_segment_count_for_the_window() {
    let mut world = World::new();
    play_into(&mut world, HANDSHAKE);
    let first = tcp(key(5, 6, 40000), ACK, 1001, 5001, 500);
    assert_eq!(world.send(&first), Fate::Passed(Established));
    let later = |tcp_end| Segment {
        kind: SegmentKind::Later(Later { query: None, tcp_end: Some(tcp_end) }),
        ..first
    };
    assert_eq!(world.send(&later(2001)), Fate::Passed(Established));
    assert_eq!(world.send(&later(80_000)), Fate::Dropped(TcpWindow));
    assert_eq!(world.send(&tcp(key(5, 6, 40000).reversed(), ACK, 5001, 2001, 0)), Fate::Passed(Established));
    assert_eq!(world.send(&tcp(key(5, 6, 40000).reversed(), ACK, 5001, 2002, 0)), Fate::Dropped(TcpWindow));
}
