//! SCTP as two ends might speak it: mostly as they should, with now and then what lost, late, crashed or hostile ends send.

use eastgate_testkit::sctp::{chunk, init, packet};

use crate::{
    dice::Dice,
    frames::{A, B, Way, other},
    sequence::{Sequence, Step, What},
};

const SCTP: u8 = 132;
const CLIENT: usize = 0;
const SERVER: usize = 1;

const DATA: u8 = 0;
const SACK: u8 = 3;
const HEARTBEAT: u8 = 4;
const HEARTBEAT_ACK: u8 = 5;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const ERROR: u8 = 9;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
const SHUTDOWN_COMPLETE: u8 = 14;
/// The T bit
const T: u8 = 1;

struct Talk<'d> {
    dice: &'d mut Dice,
    ways: [Way; 2],
    ports: [u16; 2],
    /// The tag that each end has asked for
    tags: [u32; 2],
    steps: Vec<Step>,
}

/// How it begins.
#[derive(Clone, Copy)]
enum Begin {
    Usual,
    Insistent,
    Simultaneous,
    Refused,
    GivenUp,
    OutOfNothing,
    Path,
}

/// What happens in the middle of it.
#[derive(Clone, Copy)]
enum Act {
    Data,
    Heartbeat,
    Again,
    Error,
    OtherTag,
    OtherAbort,
    BadChecksum,
    Malformed,
    InitWithTag,
    ComesBack,
}

/// How it ends.
#[derive(Clone, Copy)]
enum Finish {
    Shutdown,
    Abort,
    Forgotten,
    Never,
}

/// An association from port `sport`.
pub fn sequence(dice: &mut Dice, sport: u16, v6: bool) -> Sequence {
    let way = Way { from: A, to: B, v6 };
    let begin = dice.weighted(&[
        (60, Begin::Usual),
        (10, Begin::Insistent),
        (6, Begin::Simultaneous),
        (6, Begin::Refused),
        (4, Begin::GivenUp),
        (10, Begin::OutOfNothing),
        (8, Begin::Path),
    ]);
    let tags = [dice.next() as u32 | 1, dice.next() as u32 | 1];
    let mut talk = Talk { dice, ways: [way, way.back()], ports: [sport, 3868], tags, steps: Vec::new() };
    if talk.begin(begin) {
        let goes_on = talk.middle();
        if goes_on && talk.finish() && talk.dice.chance(50) {
            talk.tags = [talk.dice.next() as u32 | 1, talk.dice.next() as u32 | 1];
            talk.handshake(What::SynAgain);
            talk.middle();
        }
    }
    let family = if v6 { "IPv6" } else { "IPv4" };
    Sequence { name: format!("sctp {sport} over {family}"), steps: talk.steps }
}

impl Talk<'_> {
    fn frame(&self, from: usize, tag: u32, chunks: &[Vec<u8>]) -> Vec<u8> {
        let ports = (self.ports[from], self.ports[1 - from]);
        other(self.ways[from], SCTP, &packet(ports, tag, chunks))
    }

    fn put(&mut self, from: usize, what: What, label: &str, frame: Vec<u8>) {
        let Way { from, to, .. } = self.ways[from];
        self.steps.push(Step { from, to, what, label: label.to_owned(), frame });
    }

    /// Sends chunks by the tag of the other end.
    fn say(&mut self, from: usize, chunks: &[Vec<u8>], what: What, label: &str) {
        let frame = self.frame(from, self.tags[1 - from], chunks);
        self.put(from, what, label, frame);
    }

    fn asks(&mut self, from: usize, what: What, label: &str) {
        let frame = self.frame(from, 0, &[init(false, self.tags[from])]);
        self.put(from, what, label, frame);
    }

    fn data(&mut self) -> Vec<u8> {
        let len = 13 + self.dice.below(300);
        chunk(DATA, 3, &vec![7; len])
    }

    fn repeat(&mut self, what: What) {
        if let Some(last) = self.steps.last().cloned() {
            self.steps.push(Step { what, label: format!("again: {}", last.label), ..last });
        }
    }

    fn handshake(&mut self, what: What) {
        self.asks(CLIENT, what, "INIT");
        self.answers(what);
    }

    /// What follows an INIT
    fn answers(&mut self, what: What) {
        self.say(SERVER, &[init(true, self.tags[SERVER])], what, "INIT ACK");
        self.echoes(what);
    }

    fn echoes(&mut self, what: What) {
        let mut chunks = vec![chunk(COOKIE_ECHO, 0, &[1, 2, 3, 4, 5, 6, 7, 8])];
        if self.dice.chance(30) {
            chunks.push(self.data());
        }
        self.say(CLIENT, &chunks, what, "COOKIE ECHO");
        if self.dice.chance(15) {
            self.repeat(what);
        }
        self.say(SERVER, &[chunk(COOKIE_ACK, 0, &[])], what, "COOKIE ACK");
    }

    /// Whether there is an association then.
    fn begin(&mut self, how: Begin) -> bool {
        match how {
            Begin::Usual => self.handshake(What::Regular),
            Begin::Insistent => {
                self.asks(CLIENT, What::Regular, "INIT");
                self.repeat(What::Regular);
                self.answers(What::Regular);
            }
            Begin::Simultaneous => {
                self.asks(CLIENT, What::Regular, "INIT");
                self.asks(SERVER, What::Regular, "INIT of the other end at the same time");
                self.say(CLIENT, &[init(true, self.tags[CLIENT])], What::Regular, "INIT ACK of the opener");
                self.answers(What::Regular);
            }
            Begin::Refused => {
                self.asks(CLIENT, What::Regular, "INIT");
                self.say(SERVER, &[chunk(ABORT, 0, &[])], What::Regular, "ABORT: nobody listens");
                if self.dice.chance(50) {
                    return false;
                }
                self.tags = [self.dice.next() as u32 | 1, self.dice.next() as u32 | 1];
                self.handshake(What::SynAgain);
            }
            Begin::GivenUp => {
                self.asks(CLIENT, What::Regular, "INIT");
                self.say(SERVER, &[init(true, self.tags[SERVER])], What::Regular, "INIT ACK");
                self.say(
                    CLIENT,
                    &[chunk(ABORT, 0, &[])],
                    What::Regular,
                    "ABORT of the opener in cookie-wait",
                );
                let echo = chunk(COOKIE_ECHO, 0, &[1, 2, 3, 4, 5, 6, 7, 8]);
                self.say(CLIENT, &[echo], What::Stray, "COOKIE ECHO behind the opener's ABORT");
                return false;
            }
            Begin::OutOfNothing => {
                let kind = self.dice.one_of(&[
                    DATA,
                    SACK,
                    HEARTBEAT_ACK,
                    ABORT,
                    SHUTDOWN,
                    SHUTDOWN_ACK,
                    ERROR,
                    COOKIE_ECHO,
                    COOKIE_ACK,
                    SHUTDOWN_COMPLETE,
                    2,
                ]);
                let it = if kind == 2 { init(true, 5) } else { chunk(kind, 0, &[]) };
                let from = self.dice.below(2);
                self.say(from, &[it], What::Stray, &format!("a chunk {kind} of no association"));
                return false;
            }
            Begin::Path => {
                let from = self.dice.below(2);
                self.say(
                    from,
                    &[chunk(HEARTBEAT, 0, &[0, 1, 0, 8, 1, 2, 3, 4])],
                    What::Regular,
                    "HEARTBEAT on another path",
                );
                if self.dice.chance(30) {
                    self.repeat(What::Regular);
                }
                let answer = chunk(HEARTBEAT_ACK, 0, &[0, 1, 0, 8, 1, 2, 3, 4]);
                self.say(1 - from, &[answer], What::Regular, "HEARTBEAT ACK");
            }
        }
        true
    }

    /// Whether it goes on.
    fn middle(&mut self) -> bool {
        for _ in 0..self.dice.below(9) {
            let from = self.dice.below(2);
            let act = self.dice.weighted(&[
                (40, Act::Data),
                (10, Act::Heartbeat),
                (6, Act::Again),
                (4, Act::Error),
                (8, Act::OtherTag),
                (8, Act::OtherAbort),
                (5, Act::BadChecksum),
                (6, Act::Malformed),
                (3, Act::InitWithTag),
                (4, Act::ComesBack),
            ]);
            if !self.act(from, act) {
                return false;
            }
        }
        true
    }

    fn act(&mut self, from: usize, act: Act) -> bool {
        let nobodys = self.dice.next() as u32 | 1;
        match act {
            Act::Data => {
                let mut chunks = vec![self.data()];
                if self.dice.chance(40) {
                    chunks.insert(0, chunk(SACK, 0, &[0; 12]));
                }
                self.say(from, &chunks, What::Regular, "data");
                if self.dice.chance(50) {
                    self.say(1 - from, &[chunk(SACK, 0, &[0; 12])], What::Regular, "SACK");
                }
            }
            Act::Heartbeat => {
                let info = [0, 1, 0, 8, 1, 2, 3, 4];
                self.say(from, &[chunk(HEARTBEAT, 0, &info)], What::Regular, "HEARTBEAT");
                self.say(1 - from, &[chunk(HEARTBEAT_ACK, 0, &info)], What::Regular, "HEARTBEAT ACK");
            }
            Act::Again => self.repeat(What::Regular),
            Act::Error => self.say(from, &[chunk(ERROR, 0, &[0, 6, 0, 4])], What::Regular, "ERROR"),
            Act::OtherTag => {
                let kind = self.dice.one_of(&[DATA, SACK, SHUTDOWN, COOKIE_ECHO, COOKIE_ACK, ERROR]);
                let frame = self.frame(from, nobodys, &[chunk(kind, 0, &[0; 12])]);
                self.put(from, What::Outside, &format!("chunk {kind} by another tag"), frame);
            }
            Act::OtherAbort => {
                let kind = self.dice.one_of(&[ABORT, SHUTDOWN_COMPLETE]);
                let (flags, tag) = self.dice.one_of(&[
                    (0, nobodys),
                    (T, nobodys),
                    (0, self.tags[from]),
                    (T, self.tags[1 - from]),
                ]);
                let frame = self.frame(from, tag, &[chunk(kind, flags, &[])]);
                self.put(
                    from,
                    What::Outside,
                    &format!("chunk {kind} with flags {flags} by another tag"),
                    frame,
                );
            }
            Act::BadChecksum => {
                let chunks = [self.data()];
                let mut frame = self.frame(from, self.tags[1 - from], &chunks);
                let at = frame.len() - 1;
                frame[at - 8] ^= 0x40;
                self.put(from, What::BadChecksum, "data with a wrong checksum", frame);
            }
            Act::Malformed => {
                let data = self.data();
                let (label, chunks) = match self.dice.below(5) {
                    0 => ("no chunk at all", vec![]),
                    1 => ("a chunk without length", vec![vec![0, 3, 0, 0]]),
                    2 => ("an INIT ACK with data", vec![init(true, 9), data]),
                    3 => ("a COOKIE ACK behind data", vec![data, chunk(COOKIE_ACK, 0, &[])]),
                    _ => ("data and a SHUTDOWN COMPLETE", vec![data, chunk(SHUTDOWN_COMPLETE, 0, &[])]),
                };
                self.say(from, &chunks, What::OddFlags, label);
            }
            Act::InitWithTag => self.say(from, &[init(false, nobodys)], What::Outside, "INIT by a tag"),
            Act::ComesBack => {
                self.tags[CLIENT] = nobodys;
                self.asks(CLIENT, What::SynAgain, "INIT of a client that has come back");
                self.tags[SERVER] = self.dice.next() as u32 | 1;
                self.answers(What::SynAgain);
            }
        }
        true
    }

    /// Whether it is over.
    fn finish(&mut self) -> bool {
        let (from, how) = (
            self.dice.below(2),
            self.dice.one_of(&[Finish::Shutdown, Finish::Abort, Finish::Forgotten, Finish::Never]),
        );
        match how {
            Finish::Shutdown => {
                self.say(from, &[chunk(SHUTDOWN, 0, &[0; 4])], What::Regular, "SHUTDOWN");
                if self.dice.chance(30) {
                    let data = self.data();
                    self.say(1 - from, &[data], What::Regular, "data that was under way");
                }
                self.say(1 - from, &[chunk(SHUTDOWN_ACK, 0, &[])], What::Regular, "SHUTDOWN ACK");
                self.say(from, &[chunk(SHUTDOWN_COMPLETE, 0, &[])], What::Regular, "SHUTDOWN COMPLETE");
                if self.dice.chance(30) {
                    self.say(1 - from, &[chunk(SHUTDOWN_ACK, 0, &[])], What::Regular, "SHUTDOWN ACK, again");
                    let frame = self.frame(from, self.tags[from], &[chunk(SHUTDOWN_COMPLETE, T, &[])]);
                    self.put(from, What::Regular, "SHUTDOWN COMPLETE of who has forgotten", frame);
                }
            }
            Finish::Abort => self.say(from, &[chunk(ABORT, 0, &[0, 12, 0, 4])], What::Regular, "ABORT"),
            Finish::Forgotten => {
                // Section 8.4 (8): by the tag of what has come.
                let frame = self.frame(from, self.tags[from], &[chunk(ABORT, T, &[])]);
                self.put(from, What::Regular, "ABORT of who has forgotten", frame);
            }
            Finish::Never => return false,
        }
        true
    }
}
