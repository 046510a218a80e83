//! What endpoints say to each other: mostly as they should, sometimes not, by dice.

use eastgate_testkit::frames::*;
use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep, TcpHeader};

use super::{HERE, Scene, THERE};

/// xorshift64*.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) as usize % sides
    }

    pub(super) fn one_in(&mut self, sides: usize) -> bool {
        self.roll(sides) == 0
    }
}

/// Two endpoints that talk, mostly as they should.
#[derive(Clone)]
pub(super) struct Conversation {
    pub(super) ends: [u8; 2],
    ports: [u16; 2],
    pub(super) v6: bool,
    pub(super) tcp: bool,
    /// What each end has sent, and how far along the opening is
    seq: [u32; 2],
    opened: u8,
    /// Who has sent all there is to send
    finished: [bool; 2],
    /// Says little, and begins anew soon
    hasty: bool,
    /// By addresses that the ends make of their MACs (IPv6): no configuration names them.
    link_local: bool,
}

impl Conversation {
    pub(super) fn new(scene: Scene, dice: &mut Dice) -> Self {
        let ends = scene.pairs()[dice.roll(scene.pairs().len())];
        let ports = [1024 + dice.roll(400) as u16, [80, 443, 53, 67, 80, 443, 80, 443][dice.roll(8)]];
        let seq = [dice.0 as u32, (dice.0 >> 20) as u32];
        let (v6, tcp, hasty) = (dice.one_in(3), !dice.one_in(4), !dice.one_in(3));
        // Which the kernel does not route, and the programs leave to the pipeline there.
        let link_local = dice.one_in(if scene.is_routed() { 12 } else { 3 });
        Self { ends, ports, v6, tcp, seq, opened: 0, finished: [false; 2], hasty, link_local }
    }

    /// The same ends and ports begin anew, as a client does that runs out of ports, or the other way round.
    fn begin_again(&mut self, dice: &mut Dice) {
        if dice.one_in(5) {
            (self.ends, self.ports, self.seq) =
                ([self.ends[1], self.ends[0]], [self.ports[1], self.ports[0]], [self.seq[1], self.seq[0]]);
        }
        // Sometimes with a number that the connection before had, or with an older one.
        let ahead = match dice.roll(6) {
            0 => 0u32.wrapping_sub(dice.roll(3) as u32),
            1 => 0u32.wrapping_sub(dice.0 as u32 >> dice.roll(32)),
            _ => dice.roll(1 << 20) as u32,
        };
        self.seq = [self.seq[0].wrapping_add(ahead), dice.0 as u32];
        (self.opened, self.finished) = (0, [false; 2]);
    }

    /// The next frame, and which end sends it.
    pub(super) fn next(&mut self, dice: &mut Dice, payload: &[u8]) -> (u8, Vec<u8>) {
        if self.tcp && self.finished == [true; 2] && dice.one_in(4) || self.opened > 0 && dice.one_in(2000) {
            self.begin_again(dice);
            if dice.one_in(2) {
                self.ports[0] = 1024 + dice.roll(400) as u16;
            }
        }
        if !self.tcp && self.hasty && dice.one_in(6) {
            self.ports[0] = 1024 + dice.roll(400) as u16;
        }
        let side = if self.opened < 3 { usize::from(self.opened == 1) } else { dice.roll(2) };
        let (a, b) = (self.ends[side], self.ends[1 - side]);
        let (sport, dport) = (self.ports[side], self.ports[1 - side]);
        if !self.tcp {
            let side = if dice.one_in(3) { 1 } else { 0 };
            let (a, b) = (self.ends[side], self.ends[1 - side]);
            return (a, self.wrap(a, b, dice, None, self.ports[side], self.ports[1 - side], payload));
        }
        let mut tcp = TcpHeader::new(sport, dport, self.seq[side], [500, 4096, 65535][dice.roll(3)]);
        tcp.acknowledgment_number = self.seq[1 - side];
        tcp.ack = self.opened > 0;
        let mut payload = payload;
        match self.opened {
            0 | 1 => {
                tcp.syn = true;
                // Data on a SYN is rare, and is for the pipeline.
                payload = if dice.one_in(20) { &payload[..payload.len().min(3)] } else { &[] };
                syn_options(dice, &mut tcp);
                self.seq[side] = self.seq[side].wrapping_add(1);
                self.opened += 1;
                // A server that nobody has asked.
                tcp.ack |= dice.one_in(60);
            }
            // Nobody has answered the SYN, or the SYN-ACK got lost.
            2 if dice.one_in(5) => {
                let side = usize::from(dice.one_in(2));
                (tcp.source_port, tcp.destination_port) = (self.ports[side], self.ports[1 - side]);
                tcp.sequence_number = self.seq[side].wrapping_sub(1);
                tcp.acknowledgment_number = self.seq[1 - side];
                (tcp.syn, tcp.ack) = (true, side == 1);
                syn_options(dice, &mut tcp);
                let (a, b) = (self.ends[side], self.ends[1 - side]);
                return (a, self.wrap(a, b, dice, Some(tcp), self.ports[side], self.ports[1 - side], &[]));
            }
            2 => {
                payload = &[];
                self.opened += 1;
            }
            _ if self.finished[side] && !dice.one_in(12) => payload = &[],
            // Not all say goodbye.
            _ if dice.one_in(if self.hasty { 9 } else { 120 }) => {
                (tcp.rst, tcp.ack) = (true, dice.one_in(2));
                (payload, self.finished) = (&[], [true; 2]);
            }
            _ if dice.one_in(if self.hasty { 3 } else { 40 }) => {
                tcp.fin = true;
                self.finished[side] = true;
                self.seq[side] = self.seq[side].wrapping_add(payload.len() as u32 + 1);
            }
            _ => match dice.roll(100) {
                0 => tcp.sequence_number = tcp.sequence_number.wrapping_add(dice.0 as u32 >> dice.roll(32)),
                1 => {
                    tcp.acknowledgment_number =
                        tcp.acknowledgment_number.wrapping_add(dice.0 as u32 >> dice.roll(32))
                }
                2 => {
                    tcp.sequence_number =
                        tcp.sequence_number.wrapping_sub(dice.0 as u32 >> (8 + dice.roll(24)))
                }
                3 => {
                    tcp.acknowledgment_number =
                        tcp.acknowledgment_number.wrapping_sub(dice.0 as u32 >> (8 + dice.roll(24)))
                }
                4 if dice.one_in(8) => tcp.fin = true,
                5 => tcp.rst = dice.one_in(4),
                6 if dice.one_in(8) => (tcp.syn, tcp.ack) = (true, dice.one_in(2)),
                7 => tcp.ack = false,
                8 => tcp.window_size = 0,
                _ => self.seq[side] = self.seq[side].wrapping_add(payload.len() as u32),
            },
        }
        (a, self.wrap(a, b, dice, Some(tcp), sport, dport, payload))
    }

    #[allow(clippy::too_many_arguments, reason = "what a packet is made of")]
    fn wrap(
        &self,
        a: u8,
        b: u8,
        dice: &mut Dice,
        tcp: Option<TcpHeader>,
        sport: u16,
        dport: u16,
        payload: &[u8],
    ) -> Vec<u8> {
        let ip = if self.v6 && self.link_local { link_local(a, b) } else { some_ip(dice, self.v6, a, b) };
        let mut out = Vec::new();
        match tcp {
            Some(tcp) => ip.tcp_header(tcp).write(&mut out, payload).unwrap(),
            None => ip.udp(sport, dport).write(&mut out, payload).unwrap(),
        }
        out
    }
}

fn link_local(a: u8, b: u8) -> PacketBuilderStep<IpHeaders> {
    // RFC 4291 appendix A
    let own = |n| [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0, n];
    PacketBuilder::ethernet2(mac(a), mac(b)).ipv6(own(a), own(b), 64)
}

pub(super) fn some_ip(dice: &mut Dice, v6: bool, a: u8, b: u8) -> PacketBuilderStep<IpHeaders> {
    if v6 {
        return ip6(a, b);
    }
    ip4(a, b, |ip| {
        (ip.dscp, ip.ecn) =
            ((dice.roll(64) as u8).try_into().unwrap(), (dice.roll(4) as u8).try_into().unwrap());
        ip.time_to_live = dice.roll(256) as u8;
        ip.dont_fragment = dice.one_in(2);
        if dice.one_in(40) {
            ip.options = [1, 1, 1, 0][..].try_into().unwrap();
        }
        if dice.one_in(60) {
            ip.more_fragments = true;
        }
    })
}

/// What a SYN says beside itself: in full, in part, and as nobody would.
fn syn_options(dice: &mut Dice, tcp: &mut TcpHeader) {
    use etherparse::TcpOptionElement::{
        MaximumSegmentSize, Noop, SelectiveAcknowledgementPermitted, Timestamp, WindowScale,
    };
    let scale = WindowScale(dice.roll(18) as u8);
    match dice.roll(10) {
        0 => {}
        1 => tcp.set_options_raw(&[1; 20]).unwrap(),
        2 => tcp.set_options(&[scale, WindowScale(dice.roll(8) as u8)]).unwrap(),
        3 => {
            let junk: Vec<u8> = (0..4 * dice.roll(11)).map(|_| dice.roll(6) as u8).collect();
            tcp.set_options_raw(&junk).unwrap();
        }
        _ => tcp
            .set_options(&[
                MaximumSegmentSize(1400 + dice.roll(100) as u16),
                SelectiveAcknowledgementPermitted,
                Timestamp(1, 2),
                Noop,
                scale,
            ])
            .unwrap(),
    }
}

/// What goes wrong on the way, or is done on purpose.
pub(super) fn disturb(dice: &mut Dice, frame: &mut Vec<u8>) {
    let what = dice.roll(150);
    match what {
        0 => frame.truncate(dice.roll(frame.len())),
        1 => {
            let at = dice.roll(frame.len());
            frame[at] ^= 1 << dice.roll(8);
        }
        2 => *frame = from(std::mem::take(frame), mac([HERE, THERE].concat()[dice.roll(4)])),
        3 => {
            let macs = [mac(THERE[0]), mac(THERE[1]), mac(HERE[0]), [2, 0xea, 0x57, 0, 0, 1]];
            *frame = to(std::mem::take(frame), macs[dice.roll(4)]);
        }
        4 => *frame = tagged(frame, 7),
        5 => frame.extend_from_slice(&[0; 6][..dice.roll(6) + 1]),
        6 => {
            for _ in 0..3 {
                let at = dice.roll(frame.len());
                frame[at] = dice.0 as u8;
            }
        }
        // A checksum that is wrong, and nothing else; one that says that there is none.
        7 if frame.len() > 52 => {
            let at = [24, 36, 40, 50][dice.roll(4)];
            frame[at..at + 2].copy_from_slice(&[(dice.0 as u8), (dice.0 >> 8) as u8][..2]);
        }
        8 if frame.len() > 42 => frame[40..42].fill(0),
        _ => {}
    }
    if matches!(what, 1 | 6) && !dice.one_in(3) {
        mend(frame);
    }
}
