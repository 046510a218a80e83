//! What clients and servers say, whole, in pieces, late, twice and wrong.

use eastgate_wire::Family;
use proptest::prelude::*;

use super::*;

const CLIENT: Addr = Addr::v4([10, 1, 0, 11]);
const SERVER: Addr = Addr::v4([10, 1, 0, 21]);

fn v6(last: u16) -> Addr {
    format!("fd00:1::{last:x}").parse::<std::net::Ipv6Addr>().unwrap().into()
}

fn ends(family: Family) -> [Addr; 2] {
    if family == Family::V4 { [CLIENT, SERVER] } else { [v6(0x11), v6(0x21)] }
}

const fn active(port: u16) -> Announced {
    Announced { opener: Direction::Reply, port }
}

const fn passive(port: u16) -> Announced {
    Announced { opener: Direction::Original, port }
}

/// A control connection, of which each side knows what it has sent.
struct Talk {
    dialogue: Dialogue,
    ends: [Addr; 2],
    /// Sequence numbers of what client and server send next
    next: [u32; 2],
}

impl Talk {
    fn new(family: Family) -> Self {
        // Both wrap around soon.
        let mut talk =
            Self { dialogue: Dialogue::default(), ends: ends(family), next: [u32::MAX - 20, u32::MAX - 3] };
        for by in [Direction::Original, Direction::Reply] {
            let said = Said { by, from: talk.next[by.index()], ack: None, payload: b"" };
            assert_eq!(talk.dialogue.hear(&said, talk.ends), Heard::default());
        }
        talk
    }

    /// A segment of one side, `at` so many bytes behind what it has sent so far; nothing is acknowledged.
    fn hear_at(&mut self, by: Direction, at: i32, payload: &[u8]) -> Heard {
        let from = self.next[by.index()].wrapping_add_signed(at);
        self.dialogue.hear(&Said { by, from, ack: None, payload }, self.ends)
    }

    /// The next segment, which acknowledges everything.
    fn hear(&mut self, by: Direction, payload: &[u8]) -> Heard {
        let (from, ack) = (self.next[by.index()], Some(self.next[by.reversed().index()]));
        self.next[by.index()] = from.wrapping_add(payload.len() as u32);
        self.dialogue.hear(&Said { by, from, ack, payload }, self.ends)
    }

    fn client(&mut self, line: &str) -> Heard {
        self.hear(Direction::Original, line.as_bytes())
    }

    fn server(&mut self, line: &str) -> Heard {
        self.hear(Direction::Reply, line.as_bytes())
    }
}

fn unheeded(why: Unheeded) -> Heard {
    let mut heard = Heard::default();
    heard.take(Err(why));
    heard
}

fn announces(announced: Announced) -> Heard {
    Heard { announced: Some(announced), ..Heard::default() }
}

#[test]
fn what_clients_announce() {
    use Family::{V4, V6};
    use Unheeded::{LowPort, OtherAddress, Unread};
    for (family, line, expected) in [
        (V4, "PORT 10,1,0,11,156,64", announces(active(40_000))),
        (V4, "port 10,1,0,11,4,0", announces(active(1024))),
        (V4, "EPRT |1|10.1.0.11|40000|", announces(active(40_000))),
        (V4, "eprt ~1~10.1.0.11~40000~", announces(active(40_000))),
        (V6, "EPRT |2|fd00:1::11|40000|", announces(active(40_000))),
        (V6, "EPRT |2|FD00:1:0:0:0:0:0:11|40000|", announces(active(40_000))),
        // Another host, by whichever family: the bounce
        (V4, "PORT 10,1,0,12,156,64", unheeded(OtherAddress)),
        (V4, "PORT 10,1,0,21,156,64", unheeded(OtherAddress)),
        (V4, "PORT 127,0,0,1,156,64", unheeded(OtherAddress)),
        (V4, "EPRT |1|10.1.0.12|40000|", unheeded(OtherAddress)),
        (V4, "EPRT |2|fd00:1::11|40000|", unheeded(OtherAddress)),
        (V6, "EPRT |1|10.1.0.11|40000|", unheeded(OtherAddress)),
        (V6, "EPRT |2|fd00:1::12|40000|", unheeded(OtherAddress)),
        (V6, "PORT 10,1,0,11,156,64", unheeded(OtherAddress)),
        // A service of the client's own host
        (V4, "PORT 10,1,0,11,0,22", unheeded(LowPort)),
        (V4, "PORT 10,1,0,11,3,255", unheeded(LowPort)),
        (V4, "PORT 10,1,0,11,0,0", unheeded(LowPort)),
        (V4, "EPRT |1|10.1.0.11|1023|", unheeded(LowPort)),
        (V6, "EPRT |2|fd00:1::11|0|", unheeded(LowPort)),
        // What is no port
        (V4, "PORT", unheeded(Unread)),
        (V4, "PORT 10,1,0,11,156", unheeded(Unread)),
        (V4, "PORT 10,1,0,11,156,64,1", unheeded(Unread)),
        (V4, "PORT 10,1,0,11,156,256", unheeded(Unread)),
        (V4, "PORT 10,1,0,11,-1,64", unheeded(Unread)),
        (V4, "PORT 10,1,0,11,+156,64", unheeded(Unread)),
        (V4, "PORT 10,1,0,11,000156,64", unheeded(Unread)),
        (V4, "PORT 10.1.0.11.156.64", unheeded(Unread)),
        (V4, "EPRT |1|10.1.0.11|65536|", unheeded(Unread)),
        (V4, "EPRT |1|10.1.0.11|40000", unheeded(Unread)),
        (V4, "EPRT |1|10.1.0.11|40000|1|", unheeded(Unread)),
        (V4, "EPRT |3|10.1.0.11|40000|", unheeded(Unread)),
        (V4, "EPRT |2|::ffff:10.1.0.11|40000|", unheeded(Unread)),
        (V4, "EPRT |1|10.1.0|40000|", unheeded(Unread)),
        (V4, "EPRT ", unheeded(Unread)),
        // Nothing is announced
        (V4, "XPORT 10,1,0,11,156,64", Heard::default()),
        (V4, " PORT 10,1,0,11,156,64", Heard::default()),
        (V4, "STOR PORT 10,1,0,11,156,64", Heard::default()),
        (V4, "227 Entering Passive Mode (10,1,0,11,156,64)", Heard::default()),
        (V4, "", Heard::default()),
    ] {
        for end in ["\r\n", "\n"] {
            assert_eq!(Talk::new(family).client(&format!("{line}{end}")), expected, "{line}");
        }
        let as_server = Talk::new(family).server(&format!("{line}\r\n"));
        assert_eq!(as_server.announced, None, "the server says {line}");
    }
}

#[test]
fn what_servers_announce() {
    use Family::{V4, V6};
    use Unheeded::{LowPort, OtherAddress, Unread};
    for (family, line, expected) in [
        (V4, "227 Entering Passive Mode (10,1,0,21,156,64).", announces(passive(40_000))),
        (V4, "227 Entering Passive Mode (10,1,0,21,156,64)", announces(passive(40_000))),
        (V4, "227 Entering Passive Mode 10,1,0,21,156,64", announces(passive(40_000))),
        (V4, "227 =10,1,0,21,156,64", announces(passive(40_000))),
        (V4, "229 Entering Extended Passive Mode (|||40000|)", announces(passive(40_000))),
        (V6, "229 Entering Extended Passive Mode (|||40000|)", announces(passive(40_000))),
        (V6, "229 Port (!!!40000!) it is", announces(passive(40_000))),
        (V4, "227 Entering Passive Mode (10,1,0,12,156,64)", unheeded(OtherAddress)),
        (V4, "227 Entering Passive Mode (10,1,0,11,156,64)", unheeded(OtherAddress)),
        (V6, "227 Entering Passive Mode (10,1,0,21,156,64)", unheeded(OtherAddress)),
        (V4, "227 Entering Passive Mode (10,1,0,21,0,22)", unheeded(LowPort)),
        (V4, "229 Entering Extended Passive Mode (|||22|)", unheeded(LowPort)),
        (V4, "227 Entering Passive Mode", unheeded(Unread)),
        (V4, "227 Entering Passive Mode ()", unheeded(Unread)),
        (V4, "227 Entering Passive Mode (10,1,0,21,156)", unheeded(Unread)),
        (V4, "227 Entering Passive Mode (10,1,0,21,156,64,7)", unheeded(Unread)),
        (V4, "229 Entering Extended Passive Mode (|1|10.1.0.12|40000|)", unheeded(Unread)),
        (V4, "229 Entering Extended Passive Mode (|||40000)", unheeded(Unread)),
        (V4, "229 Entering Extended Passive Mode |||40000|", unheeded(Unread)),
        (V4, "229 Entering Extended Passive Mode (|||65536|)", unheeded(Unread)),
        (V4, "2277 (10,1,0,21,156,64)", Heard::default()),
        (V4, "500 227 (10,1,0,21,156,64)", Heard::default()),
        (V4, " 227 (10,1,0,21,156,64)", Heard::default()),
    ] {
        let mut talk = Talk::new(family);
        assert_eq!(talk.client("PASV\r\n"), Heard::default());
        assert_eq!(talk.server(&format!("{line}\r\n")), expected, "{line}");
    }
}

#[test]
fn an_answer_that_nobody_has_asked_for_announces_nothing() {
    let passive_line = "227 Entering Passive Mode (10,1,0,21,156,64)\r\n";
    let mut talk = Talk::new(Family::V4);
    assert_eq!(talk.server(passive_line), unheeded(Unheeded::Unasked));
    assert_eq!(talk.client("EPSV ALL\r\n"), Heard::default());
    assert_eq!(
        talk.server(passive_line),
        unheeded(Unheeded::Unasked),
        "that only says that no PORT will come"
    );
    talk.client("pasv\r\nEPSV 1\r\n");
    assert_eq!(talk.server(passive_line), announces(passive(40_000)));
    assert_eq!(talk.server("229 (|||40001|)\r\n"), announces(passive(40_001)));
    assert_eq!(talk.server(passive_line), unheeded(Unheeded::Unasked));
    // As many are waited for as there may be.
    for _ in 0..1000 {
        assert_eq!(talk.client("PASV\r\n"), Heard::default());
    }
    let heeded = (0..1000).filter(|_| talk.server(passive_line).announced.is_some()).count();
    assert_eq!(heeded, usize::from(MOST_ASKED));
}

/// What a server repeats of what it was told, or shows of a file, is in the middle of its reply.
#[test]
fn the_middle_of_a_reply_announces_nothing() {
    let mut talk = Talk::new(Family::V4);
    talk.client("PASV\r\n");
    let inner = "227 (10,1,0,21,0,22)\r\n227 (10,1,0,21,156,64)\r\n";
    assert_eq!(talk.server(&format!("250-Read this:\r\n{inner}250-and that\r\n")), Heard::default());
    assert_eq!(talk.server("227 (10,1,0,21,156,64)\r\n"), Heard::default());
    assert_eq!(talk.server("250 done\r\n"), Heard::default());
    assert_eq!(
        talk.server("227-Entering\r\n 1,2,3,4,5,6\r\n227 (10,1,0,21,156,64)\r\n"),
        announces(passive(40_000))
    );
    // The last line of a reply may be longer than anything that is read.
    talk.client("PASV\r\n");
    assert_eq!(talk.server(&format!("250-Read this:\r\n250 {}\r\n", "so ".repeat(1000))), Heard::default());
    assert_eq!(talk.server("227 (10,1,0,21,156,64)\r\n"), announces(passive(40_000)));
}

#[test]
fn a_line_longer_than_is_kept_announces_nothing_and_the_next_one_is_read() {
    let mut talk = Talk::new(Family::V4);
    let filler = "x".repeat(LONGEST);
    assert_eq!(talk.client(&format!("PORT 10,1,0,11,156,64{filler}\r\n")), Heard::default());
    assert_eq!(talk.client(&format!("STOR {filler}")), Heard::default());
    assert_eq!(talk.client("PORT 10,1,0,11,156,64\r\n"), Heard::default(), "the end of that name");
    assert!(talk.dialogue.client.line.capacity() <= 2 * LONGEST);
    assert_eq!(talk.client("PORT 10,1,0,11,156,64\r\n"), announces(active(40_000)));
}

#[test]
fn what_is_sent_again_is_heard_once() {
    let mut talk = Talk::new(Family::V4);
    let line = b"PORT 10,1,0,11,156,64\r\n";
    assert_eq!(talk.hear(Direction::Original, line), announces(active(40_000)));
    let len = line.len() as i32;
    assert_eq!(talk.hear_at(Direction::Original, -len, line), Heard::default());
    assert_eq!(talk.hear_at(Direction::Original, -len, b"PORT 10,1,0,11,156,65\r\n"), Heard::default());
    // Again together with more
    let more = b"PORT 10,1,0,11,156,64\r\nPORT 10,1,0,11,156,66\r\n";
    assert_eq!(talk.hear_at(Direction::Original, -len, more), announces(active(40_002)));
}

#[test]
fn a_segment_that_comes_too_early_waits_for_the_one_before_it() {
    let mut talk = Talk::new(Family::V4);
    let (first, second) = (b"USER anonymous\r\nPO", b"RT 10,1,0,11,156,64\r\n");
    assert_eq!(talk.hear_at(Direction::Original, first.len() as i32, second), Heard::default());
    assert_eq!(talk.hear_at(Direction::Original, 0, first), Heard::default());
    // The receiver has both, and this is all that will ever be seen of them.
    talk.next[0] = talk.next[0].wrapping_add((first.len() + second.len()) as u32);
    talk.server("331 Password\r\n");
    assert_eq!(talk.client("PORT 10,1,0,11,156,65\r\n"), announces(active(40_001)), "a line began here");
}

#[test]
fn behind_a_gap_nothing_is_read_before_the_next_line() {
    let mut talk = Talk::new(Family::V4);
    talk.client("STOR a-name-that-");
    // Some of it goes another way.
    talk.next[0] = talk.next[0].wrapping_add(700);
    talk.server("");
    assert_eq!(talk.client("PORT 10,1,0,11,156,64\r\n"), Heard::default());
    assert_eq!(talk.client("PORT 10,1,0,11,156,64\r\n"), announces(active(40_000)));
}

/// A server's text that a client has chosen, cut where a segment ends (as a small MSS makes it do).
#[test]
fn a_segment_that_begins_in_a_line_begins_no_line() {
    let mut talk = Talk::new(Family::V4);
    talk.client("PASV\r\n");
    assert_eq!(talk.server("500 unknown: "), Heard::default());
    assert_eq!(talk.server("227 (10,1,0,21,156,64)\r\n"), Heard::default());
}

/// A few lines of both sides, of which some announce something
fn script() -> Vec<(Direction, &'static str)> {
    vec![
        (Direction::Reply, "220-Welcome\r\n 227 (10,1,0,21,1,1)\r\n220 here\r\n"),
        (Direction::Original, "USER anonymous\r\n"),
        (Direction::Reply, "331 Password?\r\n"),
        (Direction::Original, "PORT 10,1,0,11,156,64\r\n"),
        (Direction::Reply, "200 PORT command successful\r\n"),
        (Direction::Original, "EPSV\r\n"),
        (Direction::Reply, "229 Entering Extended Passive Mode (|||40001|)\r\n"),
        (Direction::Original, "EPRT |1|10.1.0.11|40002|\r\nQUIT\r\n"),
        (Direction::Reply, "221 Bye\r\n"),
    ]
}

/// Pieces of what is said, of which lines may come about
const NOISE: &[&[u8]] = &[
    b"PORT ",
    b"EPRT ",
    b"PASV\r\n",
    b"227 (",
    b"229 (|||",
    b"10,1,0,11,",
    b"10,1,0,21,",
    b"156,64",
    b"0,22",
    b"|)\r\n",
    b")\r\n",
    b"\r\n",
    b"\n",
    b"|1|10.1.0.11|40000|",
    b"\xff\xf4\xff\xf2",
    b"\0",
    b"227-",
    b"x",
];

proptest! {
    /// However lines are cut into segments, and whichever of those are sent twice
    #[test]
    fn segments_make_no_difference(cuts in proptest::collection::vec((1usize..40, any::<bool>()), 1..200)) {
        let (mut talk, mut cuts) = (Talk::new(Family::V4), cuts.into_iter().cycle());
        let mut announced = Vec::new();
        for (by, text) in script() {
            let mut rest = text.as_bytes();
            while !rest.is_empty() {
                let (len, twice) = cuts.next().unwrap();
                let (segment, behind) = rest.split_at(len.min(rest.len()));
                let heard = talk.hear(by, segment);
                prop_assert_eq!(heard.unheeded, [0; 4]);
                announced.extend(heard.announced);
                if twice {
                    prop_assert_eq!(talk.hear_at(by, -(segment.len() as i32), segment), Heard::default());
                }
                rest = behind;
            }
        }
        prop_assert_eq!(announced, [active(40_000), passive(40_001), active(40_002)]);
    }

    /// Whatever is said, in whatever order: nothing panics, no more than a line is kept, and nothing is announced but a port that
    /// somebody might listen at.
    #[test]
    fn noise(
        said in proptest::collection::vec(
            (any::<bool>(), -300i32..300, any::<Option<u32>>(), proptest::collection::vec(
                proptest::sample::select(NOISE), 0..12)),
            0..60),
        start in any::<u32>(),
    ) {
        let mut dialogue = Dialogue::default();
        for (by_client, at, ack, parts) in said {
            let by = if by_client { Direction::Original } else { Direction::Reply };
            let (from, payload) = (start.wrapping_add_signed(at), parts.concat());
            let heard = dialogue.hear(&Said { by, from, ack, payload: &payload }, [CLIENT, SERVER]);
            if let Some(Announced { port, .. }) = heard.announced {
                prop_assert!(port >= super::super::FIRST_PORT);
            }
            prop_assert!(dialogue.client.line.len() <= LONGEST && dialogue.server.line.len() <= LONGEST);
        }
    }
}
