//! TCP as two ends might speak it: mostly as they should, with now and then what lost, old, late, crashed or hostile
//! ends send.

use etherparse::TcpHeader;

use crate::{
    device::{CLOSED, TCP_OPEN},
    dice::Dice,
    frames::{A, B, Way, spoiled, tcp},
    sequence::{Sequence, Step, What},
};

/// One end, as it sees the connection itself.
#[derive(Clone, Copy, Default)]
struct End {
    /// The next number it sends
    next: u32,
    /// The next number it expects
    expects: u32,
    window: u16,
}

struct Talk<'d> {
    dice: &'d mut Dice,
    /// From the client, and from the server
    ways: [Way; 2],
    ports: [u16; 2],
    ends: [End; 2],
    scales: bool,
    steps: Vec<Step>,
}

const CLIENT: usize = 0;
const SERVER: usize = 1;

#[derive(Clone, Copy, Default)]
struct Flags {
    syn: bool,
    ack: bool,
    fin: bool,
    rst: bool,
    psh: bool,
    urg: bool,
}

const SYN: Flags = Flags { syn: true, ack: false, fin: false, rst: false, psh: false, urg: false };
const ACK: Flags = Flags { ack: true, ..NONE };
const NONE: Flags = Flags { syn: false, ack: false, fin: false, rst: false, psh: false, urg: false };
const SYN_ACK: Flags = Flags { ack: true, ..SYN };
const FIN_ACK: Flags = Flags { fin: true, ..ACK };
const RST: Flags = Flags { rst: true, ..NONE };
const RST_ACK: Flags = Flags { ack: true, ..RST };
const DATA: Flags = Flags { psh: true, ..ACK };

/// What happens in the middle of a connection.
#[derive(Clone, Copy)]
enum Act {
    Data,
    Ack,
    Again,
    KeepAlive,
    OldData,
    BeyondWindow,
    AckOfNothing,
    RstExact,
    RstInWindow,
    RstOutside,
    Syn,
    SynAck,
    BadChecksum,
    OddFlags,
}

/// How it begins.
#[derive(Clone, Copy)]
enum Begin {
    Usual,
    Insistent,
    Simultaneous,
    Refused,
    OutOfNothing,
    Closed,
}

/// How it ends.
#[derive(Clone, Copy)]
enum Finish {
    ByClient,
    ByServer,
    AtOnce,
    HalfClosed,
    Reset,
    Never,
}

/// A connection from port `sport`.
pub fn sequence(dice: &mut Dice, sport: u16, v6: bool) -> Sequence {
    let way = Way { from: A, to: B, v6 };
    let begin = dice.weighted(&[
        (70, Begin::Usual),
        (8, Begin::Insistent),
        (6, Begin::Simultaneous),
        (6, Begin::Refused),
        (6, Begin::OutOfNothing),
        (4, Begin::Closed),
    ]);
    let dport = if matches!(begin, Begin::Closed) { CLOSED } else { TCP_OPEN };
    let ends = [dice.next(), dice.next()].map(|number| End {
        next: number as u32,
        window: 500 + (number >> 32) as u16 % 60_000,
        expects: 0,
    });
    let scales = dice.chance(50);
    let mut talk =
        Talk { dice, ways: [way, way.back()], ports: [sport, dport], ends, scales, steps: Vec::new() };
    let goes_on = talk.begin(begin);
    if goes_on {
        talk.middle();
        talk.finish();
        if talk.dice.chance(40) {
            talk.afterwards();
        }
    }
    Sequence {
        name: format!("tcp {sport} {}", if v6 { "over IPv6" } else { "over IPv4" }),
        steps: talk.steps,
    }
}

impl Talk<'_> {
    fn segment(&self, from: usize, flags: Flags, seq: u32, ack: u32, payload: &[u8]) -> Vec<u8> {
        let mut header = TcpHeader::new(self.ports[from], self.ports[1 - from], seq, self.ends[from].window);
        header.syn = flags.syn;
        header.ack = flags.ack;
        header.fin = flags.fin;
        header.rst = flags.rst;
        header.psh = flags.psh;
        header.urg = flags.urg;
        header.acknowledgment_number = if flags.ack { ack } else { 0 };
        if flags.syn {
            let mut options = vec![2, 4, 5, 0xb4];
            if self.scales {
                options.extend([1, 3, 3, 7]);
            }
            header.set_options_raw(&options).expect("short");
        }
        tcp(self.ways[from], header, payload)
    }

    fn put(&mut self, from: usize, what: What, label: &str, frame: Vec<u8>) {
        let way = self.ways[from];
        let (from, to) = (way.from, way.to);
        self.steps.push(Step { from, to, what, label: label.to_owned(), frame });
    }

    /// Sends what is next for `from`, and lets it count.
    fn say(&mut self, from: usize, flags: Flags, payload: &[u8], what: What, label: &str) {
        let End { next, expects, .. } = self.ends[from];
        let frame = self.segment(from, flags, next, expects, payload);
        let length = payload.len() as u32 + u32::from(flags.syn) + u32::from(flags.fin);
        self.ends[from].next = next.wrapping_add(length);
        self.put(from, what, label, frame);
    }

    /// The other end has heard all there is.
    fn heard(&mut self, by: usize) {
        self.ends[by].expects = self.ends[1 - by].next;
    }

    fn handshake(&mut self, what: What) {
        self.say(CLIENT, SYN, &[], what, "SYN");
        self.heard(SERVER);
        self.say(SERVER, SYN_ACK, &[], what, "SYN, ACK");
        self.heard(CLIENT);
        self.say(CLIENT, ACK, &[], what, "ACK of the handshake");
    }

    fn repeat(&mut self, what: What, label: &str) {
        if let Some(last) = self.steps.last().cloned() {
            self.steps.push(Step { what, label: format!("{label}: {}", last.label), ..last });
        }
    }

    /// Whether there is a connection then.
    fn begin(&mut self, how: Begin) -> bool {
        match how {
            Begin::Usual => self.handshake(What::Regular),
            Begin::Insistent => {
                self.say(CLIENT, SYN, &[], What::Regular, "SYN");
                for _ in 0..=self.dice.below(2) {
                    self.repeat(What::Regular, "again");
                }
                self.heard(SERVER);
                self.say(SERVER, SYN_ACK, &[], What::Regular, "SYN, ACK");
                if self.dice.chance(50) {
                    self.repeat(What::Regular, "again");
                }
                self.heard(CLIENT);
                self.say(CLIENT, ACK, &[], What::Regular, "ACK of the handshake");
                self.repeat(What::Regular, "again");
            }
            Begin::Simultaneous => {
                // Both ends may call each other: the server's rules let nobody be called by it but this one.
                self.say(CLIENT, SYN, &[], What::Regular, "SYN");
                self.say(SERVER, SYN, &[], What::Regular, "SYN of the other end at the same time");
                self.heard(CLIENT);
                self.heard(SERVER);
                for end in [SERVER, CLIENT] {
                    let End { next, expects, .. } = self.ends[end];
                    let frame = self.segment(end, SYN_ACK, next.wrapping_sub(1), expects, &[]);
                    self.put(end, What::Regular, "SYN, ACK of a simultaneous open", frame);
                }
            }
            Begin::Refused => {
                self.say(CLIENT, SYN, &[], What::Regular, "SYN");
                self.heard(SERVER);
                let frame = self.segment(SERVER, RST_ACK, 0, self.ends[SERVER].expects, &[]);
                self.put(SERVER, What::RstExact, "RST, ACK: nobody listens", frame);
                if self.dice.chance(60) {
                    self.ends[CLIENT].next = self.dice.next() as u32;
                    self.handshake(What::SynAgain);
                    return true;
                }
                return false;
            }
            Begin::OutOfNothing => {
                let flags = self.dice.one_of(&[ACK, DATA, FIN_ACK, RST, RST_ACK, SYN_ACK]);
                let from = self.dice.below(2);
                self.say(from, flags, &[], What::Stray, "a segment of no connection");
                if self.dice.chance(60) {
                    self.handshake(What::SynAgain);
                    return true;
                }
                return false;
            }
            Begin::Closed => {
                self.say(CLIENT, SYN, &[], What::Closed, "SYN to a closed service");
                self.heard(SERVER);
                self.say(SERVER, SYN_ACK, &[], What::Closed, "SYN, ACK of a closed service");
                return false;
            }
        }
        true
    }

    fn middle(&mut self) {
        for _ in 0..self.dice.below(9) {
            let from = self.dice.below(2);
            let act = self.dice.weighted(&[
                (40, Act::Data),
                (20, Act::Ack),
                (8, Act::Again),
                (4, Act::KeepAlive),
                (3, Act::OldData),
                (3, Act::BeyondWindow),
                (3, Act::AckOfNothing),
                (1, Act::RstExact),
                (3, Act::RstInWindow),
                (3, Act::RstOutside),
                (4, Act::Syn),
                (2, Act::SynAck),
                (4, Act::BadChecksum),
                (2, Act::OddFlags),
            ]);
            if !self.act(from, act) {
                return;
            }
        }
    }

    /// Whether the connection goes on.
    fn act(&mut self, from: usize, act: Act) -> bool {
        let End { next, expects, .. } = self.ends[from];
        match act {
            Act::Data => {
                let payload = vec![b'x'; 1 + self.dice.below(400)];
                self.say(from, DATA, &payload, What::Regular, "data");
                self.heard(1 - from);
            }
            Act::Ack => self.say(from, ACK, &[], What::Regular, "ACK"),
            Act::Again => self.repeat(What::Regular, "again"),
            Act::KeepAlive => {
                let frame = self.segment(from, ACK, next.wrapping_sub(1), expects, &[]);
                self.put(from, What::Regular, "keep-alive", frame);
                let (next, expects) = (self.ends[1 - from].next, self.ends[1 - from].expects);
                let frame = self.segment(1 - from, ACK, next, expects, &[]);
                self.put(1 - from, What::Regular, "answer to a keep-alive", frame);
            }
            Act::OldData => {
                let (back, label) =
                    self.dice.one_of(&[(1, "data as of before"), (3_000_001, "data from long ago")]);
                let frame = self.segment(from, DATA, next.wrapping_sub(back + 100), expects, &[b'o'; 100]);
                self.put(from, What::Outside, label, frame);
            }
            Act::BeyondWindow => {
                let frame = self.segment(from, DATA, next.wrapping_add(40_000_000), expects, &[b'f'; 100]);
                self.put(from, What::Outside, "data far beyond the window", frame);
            }
            Act::AckOfNothing => {
                let frame = self.segment(from, ACK, next, expects.wrapping_add(100_000), &[]);
                self.put(from, What::Outside, "ACK of what was never sent", frame);
            }
            Act::RstExact => {
                let flags = self.dice.one_of(&[RST, RST_ACK]);
                let frame = self.segment(from, flags, next, expects, &[]);
                self.put(from, What::RstExact, "RST", frame);
                return false;
            }
            Act::RstInWindow => {
                let frame = self.segment(from, RST, next.wrapping_add(100), 0, &[]);
                self.put(from, What::RstInWindow, "RST somewhere in the window", frame);
            }
            Act::RstOutside => {
                let far = self.dice.one_of(&[40_000_000_u32, 0x8000_0000, 0xf000_0000]);
                let frame = self.segment(from, RST, next.wrapping_add(far), 0, &[]);
                self.put(from, What::RstOutside, "RST outside of the window", frame);
            }
            Act::Syn => return self.reboot(from),
            Act::SynAck => {
                let number = self.dice.next() as u32;
                let frame = self.segment(from, SYN_ACK, number, expects, &[]);
                self.put(from, What::Unsolicited, "SYN, ACK in the middle", frame);
            }
            Act::BadChecksum => {
                let flags = self.dice.one_of(&[RST, DATA, FIN_ACK, SYN, ACK]);
                let frame = spoiled(self.segment(from, flags, next, expects, b"wrong"));
                self.put(from, What::BadChecksum, "a segment with a wrong checksum", frame);
            }
            Act::OddFlags => {
                let odd = self.dice.one_of(&[
                    NONE,
                    Flags { fin: true, ..SYN },
                    Flags { rst: true, ..SYN },
                    Flags { fin: true, ..NONE },
                    Flags { psh: true, urg: true, fin: true, ..NONE },
                ]);
                let frame = self.segment(from, odd, next, expects, &[]);
                self.put(from, What::OddFlags, "flags that make no sense", frame);
            }
        }
        true
    }

    /// One end has crashed and comes back on the same port; the other one has not noticed (RFC 9293 section 3.5.1). Whether
    /// there is a connection then: the one before, whose end is not told, or the next one.
    fn reboot(&mut self, who: usize) -> bool {
        let other = 1 - who;
        let new = self.dice.next() as u32;
        let frame = self.segment(who, SYN, new, 0, &[]);
        self.put(who, What::SynAgain, "SYN after a crash", frame);
        let End { next, expects, .. } = self.ends[other];
        let frame = self.segment(other, ACK, next, expects, &[]);
        self.put(other, What::Regular, "challenge ACK", frame);
        if !self.dice.chance(70) {
            return true;
        }
        let frame = self.segment(who, RST, expects_of(&self.ends[other]), 0, &[]);
        self.put(who, What::RstExact, "RST on the challenge ACK", frame);
        let returns = self.dice.chance(80) && who == CLIENT;
        if returns {
            self.ends[CLIENT].next = new;
            self.ends[SERVER].next = self.dice.next() as u32;
            self.handshake(What::SynAgain);
        }
        returns
    }

    fn finish(&mut self) {
        let how = self.dice.weighted(&[
            (35, Finish::ByClient),
            (20, Finish::ByServer),
            (8, Finish::AtOnce),
            (10, Finish::HalfClosed),
            (17, Finish::Reset),
            (10, Finish::Never),
        ]);
        match how {
            Finish::ByClient => self.close(CLIENT),
            Finish::ByServer => self.close(SERVER),
            Finish::AtOnce => {
                self.say(CLIENT, FIN_ACK, &[], What::Regular, "FIN");
                self.say(SERVER, FIN_ACK, &[], What::Regular, "FIN at the same time");
                self.heard(CLIENT);
                self.heard(SERVER);
                self.say(CLIENT, ACK, &[], What::Regular, "ACK of the FIN");
                self.say(SERVER, ACK, &[], What::Regular, "ACK of the FIN");
            }
            Finish::HalfClosed => {
                self.say(CLIENT, FIN_ACK, &[], What::Regular, "FIN");
                self.heard(SERVER);
                self.say(SERVER, ACK, &[], What::Regular, "ACK of the FIN");
                for _ in 0..=self.dice.below(3) {
                    self.say(SERVER, DATA, &[b'h'; 200], What::Regular, "data of the end that is still open");
                    self.heard(CLIENT);
                    self.say(CLIENT, ACK, &[], What::Regular, "ACK");
                }
            }
            Finish::Reset => {
                let from = self.dice.below(2);
                self.act(from, Act::RstExact);
            }
            Finish::Never => {}
        }
    }

    fn close(&mut self, first: usize) {
        let second = 1 - first;
        self.say(first, FIN_ACK, &[], What::Regular, "FIN");
        self.heard(second);
        if self.dice.chance(50) {
            self.say(second, ACK, &[], What::Regular, "ACK of the FIN");
        }
        self.say(second, FIN_ACK, &[], What::Regular, "FIN of the other end");
        self.heard(first);
        if self.dice.chance(15) {
            self.repeat(What::Regular, "again");
        }
        self.say(first, ACK, &[], What::Regular, "last ACK");
    }

    /// The same ports are used once more, or something comes late.
    fn afterwards(&mut self) {
        match self.dice.below(4) {
            0 => {
                let from = self.dice.below(2);
                let End { next, expects, .. } = self.ends[from];
                let frame = self.segment(from, DATA, next, expects, b"late");
                self.put(from, What::Stray, "data when all is over", frame);
            }
            1 => {
                self.ends[CLIENT].next = self.ends[CLIENT].next.wrapping_sub(100_000);
                self.ends[SERVER].next = self.dice.next() as u32;
                self.handshake(What::SynAgain);
            }
            _ => {
                self.ends[CLIENT].next = self.ends[CLIENT].next.wrapping_add(100_000);
                self.ends[SERVER].next = self.dice.next() as u32;
                self.handshake(What::SynAgain);
                self.say(CLIENT, DATA, b"once more", What::SynAgain, "data of the next connection");
            }
        }
    }
}

const fn expects_of(end: &End) -> u32 {
    end.expects
}
