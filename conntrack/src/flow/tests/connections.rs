//! TCP, story by story. A opens, from 1000; B answers, from 5000; windows are 10,000 bytes without scaling.

mod windows;

use eastgate_wire::view::tcp_flags as f;

use super::*;
use Expect::{In, Open, Out};
use Who::{A, B};

const SYN: u8 = f::SYN;
const ACK: u8 = f::ACK;
const SA: u8 = f::SYN | f::ACK;
const FA: u8 = f::FIN | f::ACK;
const RST: u8 = f::RST;
const RA: u8 = f::RST | f::ACK;

use DropReason::{NotSyn, TcpFlags, TcpState, TcpWindow};
use FlowState::{Close, CloseWait, Established, FinWait, LastAck, SynReceived, SynSent, TimeWait};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Who {
    A,
    B,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expect {
    Open,
    In(FlowState),
    Out(DropReason),
}

/// Seconds since the line before, sender, flags, sequence and acknowledgement number, bytes of payload.
type Line = (u64, Who, u8, u32, u32, u16, Expect);

const HANDSHAKE: &[Line] = &[
    (0, A, SYN, 1000, 0, 0, Open),
    (0, B, SA, 5000, 1001, 0, In(SynReceived)),
    (0, A, ACK, 1001, 5001, 0, In(Established)),
];

fn play(name: &str, loose: bool, lines: &[&[Line]]) {
    let mut world = World::new();
    world.settings.loose = loose;
    let forth = key(5, 6, 40000);
    for (at, &(wait, who, flags, seq, ack, payload, expect)) in lines.iter().copied().flatten().enumerate() {
        world.wait(wait);
        let key = if who == A { forth } else { forth.reversed() };
        let fate = world.send(&tcp(key, flags, seq, ack, payload));
        let expected = match expect {
            Open => Fate::Opened,
            In(state) => Fate::Passed(state),
            Out(reason) => Fate::Dropped(reason),
        };
        assert_eq!(
            fate, expected,
            "{name}, line {at}: {who:?} flags {flags:#04x} seq {seq} ack {ack} +{payload}"
        );
    }
}

#[test]
fn beginnings() {
    let stories: &[(&str, &[Line])] = &[
        (
            "data both ways",
            &[
                HANDSHAKE[0],
                HANDSHAKE[1],
                HANDSHAKE[2],
                (0, A, ACK, 1001, 5001, 500, In(Established)),
                (0, B, ACK, 5001, 1501, 1400, In(Established)),
                (7000, A, ACK, 1501, 6401, 0, In(Established)),
            ],
        ),
        (
            "only a SYN begins",
            &[
                (0, A, ACK, 1001, 5001, 0, Out(NotSyn)),
                (0, A, SA, 1000, 5001, 0, Out(NotSyn)),
                (0, A, FA, 1000, 5001, 0, Out(NotSyn)),
                (0, A, RST, 1000, 0, 0, Out(NotSyn)),
            ],
        ),
        (
            "SYN sent again, SYN-ACK sent again",
            &[
                (0, A, SYN, 1000, 0, 0, Open),
                (1, A, SYN, 1000, 0, 0, In(SynSent)),
                (0, B, SA, 5000, 1001, 0, In(SynReceived)),
                (1, A, SYN, 1000, 0, 0, In(SynReceived)),
                (0, B, SA, 5000, 1001, 0, In(SynReceived)),
                (0, A, ACK, 1001, 5001, 0, In(Established)),
                (0, B, SA, 5000, 1001, 0, In(Established)),
            ],
        ),
        (
            "SYN-ACK that acknowledges another SYN",
            &[
                (0, A, SYN, 1000, 0, 0, Open),
                (0, B, SA, 5000, 999, 0, Out(TcpWindow)),
                (0, B, SA, 5000, 1000, 0, Out(TcpWindow)),
                (0, B, SA, 5000, 1002, 0, Out(TcpWindow)),
                (0, B, SA, 5000, 1001, 0, In(SynReceived)),
            ],
        ),
        (
            "a server that forgot its first SYN-ACK",
            &[
                (0, A, SYN, 1000, 0, 0, Open),
                (0, B, SA, 5000, 1001, 0, In(SynReceived)),
                (1, A, SYN, 1000, 0, 0, In(SynReceived)),
                (0, B, SA, 3_000_000_000, 1001, 0, In(SynReceived)),
                (0, A, ACK, 1001, 3_000_000_001, 0, In(Established)),
            ],
        ),
        (
            "another SYN-ACK once the first is acknowledged",
            &[
                HANDSHAKE[0],
                HANDSHAKE[1],
                HANDSHAKE[2],
                (0, B, SA, 3_000_000_000, 1001, 0, Out(TcpWindow)),
                (0, A, ACK, 1001, 5001, 10, In(Established)),
            ],
        ),
        (
            "client tries again from another number",
            &[
                (0, A, SYN, 1000, 0, 0, Open),
                (1, A, SYN, 900_000, 0, 0, In(SynSent)),
                (0, B, SA, 5000, 900_001, 0, In(SynReceived)),
                (0, A, ACK, 900_001, 5001, 0, In(Established)),
            ],
        ),
        (
            "simultaneous open",
            &[
                (0, A, SYN, 1000, 0, 0, Open),
                (0, B, SYN, 5000, 0, 0, In(SynReceived)),
                (0, A, SA, 1000, 5001, 0, In(SynReceived)),
                (0, B, SA, 5000, 1001, 0, In(Established)),
                (0, A, ACK, 1001, 5001, 10, In(Established)),
                (0, B, ACK, 5001, 1011, 10, In(Established)),
            ],
        ),
        (
            "a forged SYN of the other side does not keep its SYN-ACK out",
            &[
                (0, A, SYN, 1000, 0, 0, Open),
                (0, B, SYN, 77_000_000, 0, 0, In(SynReceived)),
                (0, B, SA, 5000, 1001, 0, In(SynReceived)),
                (0, A, ACK, 1001, 5001, 0, In(Established)),
            ],
        ),
        (
            "data on the SYN, taken",
            &[
                (0, A, SYN, 1000, 0, 100, Open),
                (0, B, SA, 5000, 1101, 0, In(SynReceived)),
                (0, A, ACK, 1101, 5001, 10, In(Established)),
            ],
        ),
        (
            "data on the SYN, not taken, sent again",
            &[
                (0, A, SYN, 1000, 0, 100, Open),
                (1, A, SYN, 1000, 0, 0, In(SynSent)),
                (0, B, SA, 5000, 1001, 0, In(SynReceived)),
                (0, A, ACK, 1001, 5001, 100, In(Established)),
                (0, B, ACK, 5001, 1101, 0, In(Established)),
            ],
        ),
        (
            "refused",
            &[
                (0, A, SYN, 1000, 0, 0, Open),
                (0, B, RST, 0, 0, 0, Out(TcpWindow)),
                (0, B, RA, 0, 1000, 0, Out(TcpWindow)),
                (0, B, RA, 0, 1001, 0, In(Close)),
                (1, A, SYN, 1000, 0, 0, Open),
            ],
        ),
        (
            "the other end still has the connection before this one",
            &[
                (0, A, SYN, 1000, 0, 0, Open),
                (0, B, ACK, 7_000_000, 8_000_000, 0, In(SynSent)),
                (0, A, RST, 7_999_999, 0, 0, Out(TcpWindow)),
                (0, A, RST, 8_000_000, 0, 0, In(Close)),
                (1, A, SYN, 1000, 0, 0, Open),
                (0, B, SA, 5000, 1001, 0, In(SynReceived)),
            ],
        ),
        (
            "no data before the other side spoke",
            &[
                (0, A, SYN, 1000, 0, 0, Open),
                (0, A, ACK, 1001, 5001, 10, Out(TcpState)),
                (0, B, ACK, 5001, 1001, 0, Out(TcpState)),
                (0, B, ACK, 5001, 1001, 10, Out(TcpState)),
                (0, B, FA, 5001, 1001, 0, Out(TcpState)),
                (0, A, SA, 1000, 5001, 0, Out(TcpState)),
            ],
        ),
        (
            "client gives up after the SYN-ACK",
            &[HANDSHAKE[0], HANDSHAKE[1], (0, A, RST, 1001, 0, 0, In(Close))],
        ),
    ];
    for (name, lines) in stories {
        play(name, false, &[lines]);
    }
}

/// An end crashes, and its machine comes back on the same ports: only the other end knows that there was a connection.
#[test]
fn comebacks() {
    // As RFC 9293 section 3.5.1, figure 9, with RFC 5961's challenge ACK.
    const FAR: u32 = 3_000_000_000;
    let back = |seq: u32| {
        vec![
            (60, A, SYN, seq, 0, 0, In(Established)),
            (0, B, ACK, 5001, 1001, 0, In(Established)),
            (0, A, RST, 1001, 0, 0, In(Close)),
            (1, A, SYN, seq, 0, 0, Open),
            (0, B, SA, 70_000, seq.wrapping_add(1), 0, In(SynReceived)),
            (0, A, ACK, seq.wrapping_add(1), 70_001, 0, In(Established)),
        ]
    };
    for seq in [900_000, 900, 1500, 1000, 1001, FAR, u32::MAX] {
        play(&format!("opener, from {seq}"), false, &[HANDSHAKE, &back(seq)]);
    }
    let stories: &[(&str, &[Line])] = &[
        (
            "the other end, by its own policy",
            &[
                (60, B, SYN, FAR, 0, 0, In(Established)),
                (0, A, ACK, 1001, 5001, 0, In(Established)),
                (0, B, RST, 5001, 0, 0, In(Close)),
                (1, B, SYN, FAR, 0, 0, Open),
                (0, A, SA, 70_000, FAR + 1, 0, In(SynReceived)),
            ],
        ),
        (
            "both, and the one asked listens",
            &[
                (60, A, SYN, FAR, 0, 0, In(Established)),
                (0, B, SA, 70_000, FAR + 1, 0, In(SynReceived)),
                (0, A, ACK, FAR + 1, 70_001, 0, In(Established)),
                (0, A, ACK, FAR + 1, 70_001, 10, In(Established)),
                (0, B, ACK, 70_001, FAR + 11, 0, In(Established)),
                (0, B, ACK, 5001, 1001, 10, Out(TcpWindow)),
            ],
        ),
        (
            "both, and the one asked that was asked before listens: for the rules to decide",
            &[
                (60, B, SYN, FAR, 0, 0, In(Established)),
                (0, A, SA, 70_000, FAR + 1, 0, Out(TcpState)),
                (1, B, SYN, FAR, 0, 0, Open),
                (0, A, SA, 70_000, FAR + 1, 0, In(SynReceived)),
            ],
        ),
        (
            "both, and nobody listens",
            &[
                (60, A, SYN, FAR, 0, 0, In(Established)),
                (0, B, RA, 0, FAR, 0, Out(TcpWindow)),
                (0, B, RA, 0, FAR + 1, 0, In(Close)),
                (1, A, SYN, FAR + 500, 0, 0, Open),
            ],
        ),
        (
            "both, and the answer takes a while",
            &[
                (60, A, SYN, FAR, 0, 0, In(Established)),
                (1, A, SYN, FAR, 0, 0, In(Established)),
                (2, B, SA, 70_000, FAR + 1, 0, In(SynReceived)),
                (29, B, SA, 70_000, FAR + 1, 0, In(SynReceived)),
                (0, A, ACK, FAR + 1, 70_001, 0, In(Established)),
            ],
        ),
        (
            "an answer that acknowledges neither",
            &[
                (60, A, SYN, FAR, 0, 0, In(Established)),
                (0, B, SA, 70_000, FAR + 2, 0, Out(TcpWindow)),
                (0, B, SA, 70_000, FAR, 0, Out(TcpWindow)),
                (0, A, ACK, 1001, 5001, 10, In(Established)),
            ],
        ),
        (
            "an old SYN, and an old answer when all goes on",
            &[
                (1, A, ACK, 1001, 5001, 10_000, In(Established)),
                (0, B, ACK, 5001, 11_001, 0, In(Established)),
                (0, A, ACK, 11_001, 5001, 10_000, In(Established)),
                (0, A, SYN, 1000, 0, 0, In(Established)),
                (0, A, ACK, 21_001, 5001, 0, In(Established)),
                (0, B, SA, 3_000_000, 1001, 0, Out(TcpWindow)),
                (0, A, ACK, 21_001, 5001, 10, In(Established)),
            ],
        ),
        (
            "while it closes",
            &[
                (0, A, FA, 1001, 5001, 0, In(FinWait)),
                (60, A, SYN, 900, 0, 0, In(FinWait)),
                (0, B, ACK, 5001, 1002, 0, In(CloseWait)),
                (0, A, SYN, 900, 0, 0, In(CloseWait)),
                (0, B, ACK, 5001, 1002, 0, In(CloseWait)),
                (0, A, RST, 1002, 0, 0, In(Close)),
                (1, A, SYN, 900, 0, 0, Open),
            ],
        ),
        (
            "while it closes, and the other end is done",
            &[
                (0, A, FA, 1001, 5001, 0, In(FinWait)),
                (0, B, FA, 5001, 1002, 0, In(LastAck)),
                (5, A, SYN, FAR, 0, 0, In(LastAck)),
                (0, B, SA, 70_000, FAR + 1, 0, In(SynReceived)),
                (0, A, ACK, FAR + 1, 70_001, 0, In(Established)),
            ],
        ),
        (
            "a challenge ACK acknowledges no FIN that nobody has seen",
            &[
                (0, B, FA, 5001, 1001, 0, In(FinWait)),
                (0, A, ACK, 1001, 5002, 0, In(CloseWait)),
                (5, A, SYN, FAR, 0, 0, In(CloseWait)),
                (0, B, ACK, 5002, 1001, 0, In(CloseWait)),
                (0, A, RST, 1001, 0, 0, In(Close)),
                (1, A, SYN, FAR, 0, 0, Open),
            ],
        ),
    ];
    for (name, lines) in stories {
        play(name, false, &[HANDSHAKE, lines]);
    }
    play(
        "before the handshake is over",
        false,
        &[&[
            HANDSHAKE[0],
            HANDSHAKE[1],
            (1, A, SYN, FAR, 0, 0, In(SynReceived)),
            (0, B, ACK, 5001, 1001, 0, In(SynReceived)),
            (0, A, RST, 1001, 0, 0, In(Close)),
            (1, A, SYN, FAR, 0, 0, Open),
        ]],
    );
    play(
        "before the handshake is over, at a server that keeps no state",
        false,
        &[&[
            HANDSHAKE[0],
            HANDSHAKE[1],
            (1, A, SYN, FAR, 0, 0, In(SynReceived)),
            (0, B, SA, 70_000, FAR + 1, 0, In(SynReceived)),
            (0, A, ACK, FAR + 1, 70_001, 0, In(Established)),
        ]],
    );
}

#[test]
fn ends() {
    const CLOSED: &[Line] = &[
        (0, A, FA, 1001, 5001, 0, In(FinWait)),
        (0, B, ACK, 5001, 1002, 0, In(CloseWait)),
        (0, B, FA, 5001, 1002, 0, In(LastAck)),
        (0, A, ACK, 1002, 5002, 0, In(TimeWait)),
    ];
    let stories: &[(&str, &[&[Line]])] = &[
        ("one after the other", &[CLOSED]),
        (
            "half closed, the other side goes on",
            &[&[
                (0, A, FA, 1001, 5001, 100, In(FinWait)),
                (0, B, ACK, 5001, 1102, 0, In(CloseWait)),
                (59, B, ACK, 5001, 1102, 1000, In(CloseWait)),
                (59, A, ACK, 1102, 6001, 0, In(CloseWait)),
                (59, B, FA, 6001, 1102, 0, In(LastAck)),
                (29, B, FA, 6001, 1102, 0, In(LastAck)),
                (29, A, ACK, 1102, 6002, 0, In(TimeWait)),
            ]],
        ),
        (
            "both at once",
            &[&[
                (0, A, FA, 1001, 5001, 0, In(FinWait)),
                (0, B, FA, 5001, 1001, 0, In(LastAck)),
                (0, A, ACK, 1002, 5002, 0, In(LastAck)),
                (0, B, ACK, 5002, 1002, 0, In(TimeWait)),
            ]],
        ),
        (
            "FIN before the data in front of it",
            &[&[
                (0, A, FA, 1501, 5001, 0, In(FinWait)),
                (0, B, ACK, 5001, 1001, 0, In(FinWait)),
                (0, A, ACK, 1001, 5001, 500, In(FinWait)),
                (0, B, ACK, 5001, 1502, 0, In(CloseWait)),
            ]],
        ),
        (
            "what was taken for a FIN was none",
            &[&[
                (0, A, FA, 1101, 5001, 0, In(FinWait)),
                (0, A, ACK, 1001, 5001, 500, In(Established)),
                (0, B, ACK, 5001, 1501, 0, In(Established)),
            ]],
        ),
        (
            "FIN outside the window",
            &[&[
                (0, A, FA, 20_000, 5001, 0, Out(TcpWindow)),
                (0, B, FA, 4_000_000_000, 1001, 0, Out(TcpWindow)),
                (0, A, ACK, 1001, 5001, 1, In(Established)),
            ]],
        ),
        (
            "a newer SYN begins again",
            &[CLOSED, &[(5, A, SYN, 1002, 0, 0, Open), (0, B, SA, 9_000, 1003, 0, In(SynReceived))]],
        ),
        (
            "also from the other side",
            &[CLOSED, &[(5, B, SYN, 70_000, 0, 0, Open), (0, A, SA, 9_000, 70_001, 0, In(SynReceived))]],
        ),
        (
            "an older SYN too",
            &[CLOSED, &[(5, A, SYN, 900, 0, 0, Open), (0, B, SA, 9_000, 901, 0, In(SynReceived))]],
        ),
        (
            "an older SYN that the other end, which still waits, does not take",
            &[
                CLOSED,
                &[
                    (5, A, SYN, 900, 0, 0, Open),
                    (0, B, ACK, 5002, 1002, 0, In(SynSent)),
                    (0, A, RST, 1002, 0, 0, In(Close)),
                    (1, A, SYN, 900, 0, 0, Open),
                    (0, B, SA, 9_000, 901, 0, In(SynReceived)),
                ],
            ],
        ),
        (
            "the last FIN again, in time and too late",
            &[
                CLOSED,
                &[
                    (110, B, FA, 5001, 1002, 0, In(TimeWait)),
                    (0, A, ACK, 1002, 5002, 0, In(TimeWait)),
                    (120, B, FA, 5001, 1002, 0, Out(NotSyn)),
                ],
            ],
        ),
    ];
    for (name, lines) in stories {
        play(name, false, &[&[HANDSHAKE], *lines].concat());
    }
}

#[test]
fn timeouts() {
    let stories: &[(&str, &[Line])] = &[
        (
            "a SYN sent again prolongs nothing",
            &[
                (0, A, SYN, 1000, 0, 0, Open),
                (10, A, SYN, 1000, 0, 0, In(SynSent)),
                (19, A, SYN, 1000, 0, 0, In(SynSent)),
                (1, B, SA, 5000, 1001, 0, Out(NotSyn)),
            ],
        ),
        (
            "nor does a SYN-ACK sent again",
            &[
                (0, A, SYN, 1000, 0, 0, Open),
                (10, B, SA, 5000, 1001, 0, In(SynReceived)),
                (19, B, SA, 5000, 1001, 0, In(SynReceived)),
                (1, B, SA, 5000, 1001, 0, Out(NotSyn)),
            ],
        ),
        (
            "established lasts 7440 s",
            &[
                HANDSHAKE[0],
                HANDSHAKE[1],
                HANDSHAKE[2],
                (7439, A, ACK, 1001, 5001, 1, In(Established)),
                (7439, B, ACK, 5001, 1002, 1, In(Established)),
                (7440, A, ACK, 1002, 5002, 0, Out(NotSyn)),
            ],
        ),
        (
            "a segment that is dropped prolongs nothing",
            &[
                HANDSHAKE[0],
                HANDSHAKE[1],
                HANDSHAKE[2],
                (7439, A, ACK, 900_000, 5001, 1, Out(TcpWindow)),
                (1, A, ACK, 1001, 5001, 1, Out(NotSyn)),
            ],
        ),
        (
            "nor does a segment that is to be challenged",
            &[
                HANDSHAKE[0],
                HANDSHAKE[1],
                HANDSHAKE[2],
                (7439, A, SYN, 1500, 0, 0, In(Established)),
                (1, A, ACK, 1001, 5001, 1, Out(NotSyn)),
            ],
        ),
        (
            "half closed lasts as long as established",
            &[
                HANDSHAKE[0],
                HANDSHAKE[1],
                HANDSHAKE[2],
                (0, A, FA, 1001, 5001, 0, In(FinWait)),
                (7439, B, ACK, 5001, 1002, 0, In(CloseWait)),
                (7439, B, ACK, 5001, 1002, 1000, In(CloseWait)),
                (7440, B, FA, 6001, 1002, 0, Out(NotSyn)),
            ],
        ),
    ];
    for (name, lines) in stories {
        play(name, false, &[lines]);
    }
}

#[test]
fn loose() {
    let stories: &[(&str, &[Line])] = &[
        (
            "picked up from an ACK, answered",
            &[
                (0, A, ACK, 1001, 5001, 100, Open),
                (0, A, ACK, 1101, 5001, 100, In(FlowState::PickedUp)),
                (0, B, ACK, 5001, 1201, 0, In(Established)),
                (100, A, ACK, 1201, 5001, 100, In(Established)),
            ],
        ),
        (
            "nobody answers",
            &[
                (0, A, ACK, 1001, 5001, 100, Open),
                (20, A, ACK, 1001, 5001, 100, In(FlowState::PickedUp)),
                (10, B, FA, 5001, 1101, 0, Out(NotSyn)),
            ],
        ),
        (
            "found at a segment sent again, behind much that was sent before",
            &[
                (0, A, ACK, 1001, 5001, 100, Open),
                (0, B, ACK, 5001, 1001, 0, In(Established)),
                (0, B, ACK, 5001, 9001, 0, In(Established)),
                (0, A, ACK, 9001, 5001, 100, In(Established)),
                (0, A, ACK, 9101, 8001, 100, In(Established)),
            ],
        ),
        (
            "only from an ACK",
            &[
                (0, A, SA, 1000, 5001, 0, Out(NotSyn)),
                (0, A, FA, 1000, 5001, 0, Out(NotSyn)),
                (0, A, RA, 1000, 5001, 0, Out(NotSyn)),
                (0, A, 0, 1000, 5001, 0, Out(TcpFlags)),
            ],
        ),
        (
            "far away numbers are still refused",
            &[
                (0, A, ACK, 1001, 5001, 100, Open),
                (0, B, ACK, 5001, 1101, 0, In(Established)),
                (0, A, ACK, 1_500_000_000, 5001, 0, Out(TcpWindow)),
                (0, A, ACK, 1101, 1_500_000_000, 0, Out(TcpWindow)),
            ],
        ),
    ];
    for (name, lines) in stories {
        play(name, true, &[lines]);
    }
}
