//! UDP exchanges, ICMP queries and errors, and datagrams in pieces.

use crate::{
    device::{CLOSED, UDP_OPEN},
    dice::Dice,
    frames::{A, B, Piece, Way, cut, fragment, icmp, other, packet, spoiled, udp},
    sequence::{Sequence, Step, What},
};

fn step(way: Way, what: What, label: &str, frame: Vec<u8>) -> Step {
    Step { from: way.from, to: way.to, what, label: label.to_owned(), frame }
}

fn named(kind: &str, number: u16, v6: bool, steps: Vec<Step>) -> Sequence {
    Sequence { name: format!("{kind} {number} over {}", if v6 { "IPv6" } else { "IPv4" }), steps }
}

/// Questions and answers over UDP, from port `sport`.
pub fn udp_exchange(dice: &mut Dice, sport: u16, v6: bool) -> Sequence {
    let way = Way { from: A, to: B, v6 };
    let back = way.back();
    let dport = if dice.chance(90) { UDP_OPEN } else { CLOSED };
    let expected = if dport == CLOSED { What::Closed } else { What::Regular };
    let mut steps = Vec::new();
    if dice.chance(8) {
        let frame = udp(back, (dport, sport), b"answer");
        steps.push(step(back, What::Unsolicited, "an answer before any question", frame));
    }
    let question = udp(way, (sport, dport), &vec![b'?'; dice.below(500)]);
    steps.push(step(way, expected, "question", question.clone()));
    for _ in 0..dice.below(6) {
        match dice.below(10) {
            0..4 => {
                let frame = udp(back, (dport, sport), &vec![b'!'; dice.below(900)]);
                steps.push(step(back, expected, "answer", frame));
            }
            4 | 5 => {
                let frame = udp(way, (sport, dport), &vec![b'?'; dice.below(500)]);
                steps.push(step(way, expected, "another question", frame));
            }
            6 => {
                let frame = spoiled(udp(way, (sport, dport), b"spoiled"));
                steps.push(step(way, What::BadChecksum, "a question with a wrong checksum", frame));
            }
            7 => {
                let frame = udp(back, (dport, sport | 0x8000), b"elsewhere");
                steps.push(step(back, What::Unsolicited, "an answer to another port", frame));
            }
            8 => {
                // Port unreachable
                let (kind, code) = if v6 { (1, 4) } else { (3, 3) };
                let frame = icmp(back, kind, code, [0; 4], packet(&question));
                steps.push(step(back, error_about(expected), "port unreachable", frame));
            }
            _ => {
                let (kind, code) = if v6 { (1, 4) } else { (3, 3) };
                let foreign = udp(way, (sport, dport ^ 1), b"never sent");
                let frame = icmp(back, kind, code, [0; 4], packet(&foreign));
                steps.push(step(back, What::ErrorAboutNothing, "port unreachable of another flow", frame));
            }
        }
    }
    named("udp", sport, v6, steps)
}

/// An error about a packet that did not pass is about nothing.
const fn error_about(what: What) -> What {
    match what {
        What::Closed => What::ErrorAboutNothing,
        _ => What::Error,
    }
}

/// ICMP queries with identifier `id`, and errors about them.
pub fn icmp_exchange(dice: &mut Dice, id: u16, v6: bool) -> Sequence {
    let way = Way { from: A, to: B, v6 };
    let (way, back) = if dice.chance(50) { (way, way.back()) } else { (way.back(), way) };
    let [hi, lo] = id.to_be_bytes();
    let rest = |number: u8| [hi, lo, 0, number];
    let (ask, answer) =
        if v6 { (128, 129) } else { dice.one_of(&[(8, 0), (8, 0), (8, 0), (13, 14), (17, 18)]) };
    let body = vec![
        7;
        if ask == 13 {
            12
        } else if ask == 17 {
            4
        } else {
            dice.below(1000)
        }
    ];
    let question = icmp(way, ask, 0, rest(1), &body);
    let mut steps = Vec::new();
    if dice.chance(10) {
        steps.push(step(
            back,
            What::Unsolicited,
            "an answer that nobody asked for",
            icmp(back, answer, 0, rest(1), &body),
        ));
    }
    steps.push(step(way, What::Regular, "question", question.clone()));
    for number in 1..=1 + dice.below(5) as u8 {
        match dice.below(10) {
            0..5 => {
                let frame = icmp(back, answer, 0, rest(number), &body);
                steps.push(step(back, What::Regular, "answer", frame));
            }
            5 | 6 => {
                let frame = icmp(way, ask, 0, rest(number + 1), &body);
                steps.push(step(way, What::Regular, "another question", frame));
            }
            7 => {
                let frame = spoiled(icmp(way, ask, 0, rest(number), &body));
                steps.push(step(way, What::BadChecksum, "a question with a wrong checksum", frame));
            }
            8 => {
                let (kind, code, rest) = dice.one_of(if v6 {
                    &[(1, 1, [0; 4]), (3, 0, [0; 4]), (2, 0, [0, 0, 5, 0])]
                } else {
                    &[(3, 1, [0; 4]), (11, 0, [0; 4]), (3, 4, [0, 0, 5, 0])]
                });
                let quoted = packet(&question);
                let quoted = &quoted[..quoted.len().min(if v6 { 1232 } else { 68 })];
                let frame = icmp(back, kind, code, rest, quoted);
                steps.push(step(back, What::Error, "an error about the question", frame));
            }
            _ => {
                let (kind, code) = if v6 { (1, 1) } else { (3, 1) };
                let foreign = icmp(way, ask, 0, [!hi, lo, 0, 1], &body);
                let frame = icmp(back, kind, code, [0; 4], packet(&foreign));
                steps.push(step(back, What::ErrorAboutNothing, "an error about what was never sent", frame));
            }
        }
    }
    named("icmp", id, v6, steps)
}

/// Protocols that conntrack knows by their addresses alone, or by ports of their own.
pub fn other_protocol(dice: &mut Dice, number: u16, v6: bool) -> Sequence {
    let way = Way { from: A, to: B, v6 };
    let protocol = dice.one_of(&[47_u8, 50, 89, 253]);
    let what = if protocol == 47 { What::Regular } else { What::Closed };
    let mut steps = Vec::new();
    for _ in 0..1 + dice.below(3) {
        let to = if dice.chance(70) { way } else { way.back() };
        // GRE of version 0 without a key (RFC 2784)
        let body = [&[0, 0, 8, 0][..], &vec![1; dice.below(200)]].concat();
        steps.push(step(to, what, &format!("a packet of protocol {protocol}"), other(to, protocol, &body)));
    }
    named("protocol", number, v6, steps)
}

/// A datagram in pieces: in order, mixed, twice, with holes, or over each other.
pub fn pieces(dice: &mut Dice, id: u16, v6: bool) -> Sequence {
    let way = Way { from: A, to: B, v6 };
    let size = 300 + dice.below(4000);
    let payload: Vec<u8> = (0..size).map(|byte| (byte * 7 + usize::from(id)) as u8).collect();
    let whole = udp(way, (id, if dice.chance(90) { UDP_OPEN } else { CLOSED }), &payload);
    let closed = whole[if v6 { 57 } else { 37 }] == CLOSED as u8;
    let sizes: Vec<usize> = (0..6).map(|_| 8 * (2 + dice.below(180))).collect();
    let mut pieces = cut(&whole, &sizes);
    let mut what = if closed { What::Closed } else { What::Piece };
    let mut label = "in order";
    match dice.below(10) {
        0 | 1 => {}
        2..6 => {
            for index in (1..pieces.len()).rev() {
                pieces.swap(index, dice.below(index + 1));
            }
            label = "mixed";
        }
        6 => {
            let again = pieces[dice.below(pieces.len())].clone();
            pieces.push(again);
            label = "with one of them twice";
        }
        7 if pieces.len() > 1 => {
            pieces.remove(dice.below(pieces.len()));
            what = What::BrokenPiece;
            label = "of which one is missing";
        }
        8 if pieces.len() > 2 => {
            let Piece { at, bytes, more } = pieces[1].clone();
            pieces.insert(2, Piece { at: at.saturating_sub(8), bytes, more });
            what = What::BrokenPiece;
            label = "of which two overlap";
        }
        _ => {
            pieces.reverse();
            label = "from the last to the first";
        }
    }
    let protocol = 17;
    let steps = pieces.iter().map(|piece| {
        let text = format!("pieces {label}: at {}, {} bytes", piece.at, piece.bytes.len());
        step(way, what, &text, fragment(way, protocol, id, piece))
    });
    let mut sequence = named("pieces", id, v6, steps.collect());
    // A datagram in one piece is nothing to compare as a whole.
    if sequence.steps.len() == 1 {
        sequence.steps.clear();
    }
    sequence
}
