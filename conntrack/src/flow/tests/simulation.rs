//! Two TCP ends, a network that loses, doubles and reorders on both sides of the tracker, and someone who shoots
//! blindly. What an end would take must pass, what nobody could have sent must not, and the data must arrive.

use std::collections::BTreeMap;

use eastgate_wire::view::{
    HeaderBits,
    tcp_flags::{ACK, FIN, RST, SYN},
};

use super::*;

/// Xorshift: the whole run follows from its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u32) -> u32 {
        (((self.roll() >> 32) * u64::from(bound.max(1))) >> 32) as u32
    }

    fn percent(&mut self, chance: u32) -> bool {
        self.below(100) < chance
    }
}

const fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// Between two retransmissions, in microseconds.
const RETRANSMISSION: u64 = 300_000;

/// One end of a connection: as much of RFC 9293 as moves data, with retransmission, probes and keep-alives.
#[derive(Debug)]
struct End {
    key: FlowKey,
    iss: u32,
    una: u32,
    nxt: u32,
    /// Behind the last byte it wants to send; the FIN stands there
    last: u32,
    peer_edge: u32,
    peer_scale: u8,
    peer_widest: u32,
    heard: bool,
    rcv_nxt: u32,
    early: BTreeMap<u32, u32>,
    fin_at: Option<u32>,
    unread: u32,
    buffer: u32,
    scale: Option<u8>,
    edge: u32,
    widest: u32,
    segment: u32,
    retry: u64,
    owes_ack: bool,
}

impl End {
    fn new(key: FlowKey, dice: &mut Dice, largest: u32) -> Self {
        let iss = if dice.percent(50) { u32::MAX - dice.below(5000) } else { dice.roll() as u32 };
        let scale = dice.percent(80).then(|| dice.below(15) as u8);
        let widest = if scale.is_some() { 400_000 } else { 65_000 };
        // Below a few units of its scale a window could never be told.
        let buffer = (2000 + dice.below(widest)).max(4 << scale.unwrap_or(0));
        Self {
            key,
            iss,
            una: iss,
            nxt: iss,
            last: iss.wrapping_add(1 + dice.below(1_500_000)),
            peer_edge: iss.wrapping_add(1),
            peer_scale: 0,
            peer_widest: 0,
            heard: false,
            rcv_nxt: 0,
            early: BTreeMap::new(),
            fin_at: None,
            unread: 0,
            buffer,
            scale,
            edge: 0,
            widest: buffer.min(65_535),
            segment: largest,
            retry: 0,
            owes_ack: false,
        }
    }

    fn is_up(&self) -> bool {
        self.heard && before(self.iss, self.una)
    }

    fn is_done(&self) -> bool {
        self.una == self.last.wrapping_add(1) && self.fin_at.is_some_and(|fin| before(fin, self.rcv_nxt))
    }

    fn make(&mut self, flags: u8, seq: u32, payload: u32) -> Tcp {
        let Segment { kind: SegmentKind::Tcp(mut tcp), .. } = tcp(self.key, flags, seq, 0, payload as u16)
        else {
            unreachable!()
        };
        let free = self.buffer - self.unread.min(self.buffer);
        if !self.heard || before(self.edge, self.rcv_nxt.wrapping_add(free)) {
            self.edge = self.rcv_nxt.wrapping_add(free);
        }
        let shift = if flags & SYN == 0 { self.scale.unwrap_or(0) } else { 0 };
        tcp.window = (self.edge.wrapping_sub(self.rcv_nxt) >> shift).min(65_535) as u16;
        self.widest = self.widest.max(u32::from(tcp.window) << shift);
        if flags & SYN != 0 {
            tcp.window_scale = self.scale;
        }
        if self.heard {
            tcp.ack = self.rcv_nxt;
            tcp.flags |= ACK;
            self.owes_ack = false;
        }
        tcp
    }

    /// What it sends from `seq` on, up to `most` bytes: data, then the FIN.
    fn from(&mut self, seq: u32, most: u32) -> Tcp {
        if seq == self.iss {
            return self.make(SYN, seq, 0);
        }
        let payload = if before(seq, self.last) { self.last.wrapping_sub(seq).min(most) } else { 0 };
        let end = seq.wrapping_add(payload);
        let fin = end == self.last && payload < most;
        self.make(if fin { FIN | ACK } else { ACK }, seq, payload)
    }

    fn sent(&mut self, tcp: &Tcp) {
        let marks = (tcp.flags & (SYN | FIN)).count_ones();
        let end = tcp.seq.wrapping_add(u32::from(tcp.payload)).wrapping_add(marks);
        if before(self.nxt, end) {
            self.nxt = end;
        }
    }

    /// What it has to say now.
    fn speak(&mut self, now: u64, dice: &mut Dice, out: &mut Vec<Tcp>) {
        if self.is_up() {
            for _ in 0..4 {
                let room = self.peer_edge.wrapping_sub(self.nxt) as i32;
                if room <= 0 || before(self.last, self.nxt) {
                    break;
                }
                let most = (1 + dice.below(self.segment)).min(room as u32);
                let tcp = self.from(self.nxt, most);
                self.sent(&tcp);
                out.push(tcp);
            }
        }
        let waits = self.una != self.last.wrapping_add(1);
        if waits && now >= self.retry && (self.heard || self.una == self.iss) {
            self.retry = now + RETRANSMISSION;
            // A probe goes one byte over the edge.
            let tcp = self.from(self.una, 1 + dice.below(self.segment));
            let over = tcp.seq.wrapping_add(u32::from(tcp.payload)).wrapping_sub(self.peer_edge) as i32;
            let tcp = if over > 1 && tcp.payload > 0 {
                let fits = (u32::from(tcp.payload) as i32 - over + 1).max(1);
                self.from(tcp.seq, fits as u32)
            } else {
                tcp
            };
            self.sent(&tcp);
            out.push(tcp);
        }
        if self.is_up() && self.una == self.nxt && dice.percent(3) {
            out.push(self.make(ACK, self.nxt.wrapping_sub(1), 0));
        }
        if self.owes_ack && dice.percent(60) {
            out.push(self.make(ACK, self.nxt, 0));
        }
    }

    /// RFC 9293 section 3.10.7.4 and RFC 5961 section 5, as this end would judge the segment now.
    fn would_take(&self, tcp: &Tcp) -> bool {
        let marks = (tcp.flags & (SYN | FIN)).count_ones();
        let end = tcp.seq.wrapping_add(u32::from(tcp.payload)).wrapping_add(marks);
        if !self.heard {
            return tcp.flags & SYN != 0 && (tcp.flags & ACK == 0 || tcp.ack == self.iss.wrapping_add(1));
        }
        let new = before(self.rcv_nxt, end) || tcp.seq == self.rcv_nxt;
        new && !before(self.edge, tcp.seq)
            && !before(self.nxt, tcp.ack)
            && !before(tcp.ack, self.una.wrapping_sub(self.peer_widest))
    }

    fn take(&mut self, tcp: &Tcp, dice: &mut Dice) {
        if !self.would_take(tcp) {
            self.owes_ack = self.heard;
            return;
        }
        if !self.heard {
            self.heard = true;
            self.rcv_nxt = tcp.seq.wrapping_add(1);
            self.edge = self.rcv_nxt;
            match tcp.window_scale {
                Some(scale) if self.scale.is_some() => self.peer_scale = scale,
                _ => self.scale = None,
            }
            self.retry = 0;
        }
        let shift = if tcp.flags & SYN == 0 { self.peer_scale } else { 0 };
        let window = u32::from(tcp.window) << shift;
        self.peer_widest = self.peer_widest.max(window);
        if tcp.flags & ACK != 0 {
            if before(self.una, tcp.ack) {
                self.una = tcp.ack;
            }
            let edge = tcp.ack.wrapping_add(window);
            if before(self.peer_edge, edge) {
                self.peer_edge = edge;
            }
        }
        let start = tcp.seq.wrapping_add(u32::from(tcp.flags & SYN != 0));
        let mut end = start.wrapping_add(u32::from(tcp.payload));
        if tcp.flags & FIN != 0 && !before(self.edge, end) {
            self.fin_at = Some(end);
            end = end.wrapping_add(1);
        }
        if before(self.edge, end) && self.fin_at.is_none() {
            end = self.edge;
        }
        self.store(start, end);
        if tcp.payload > 0 || tcp.flags & (SYN | FIN) != 0 {
            self.owes_ack = true;
        }
        self.read(dice);
    }

    fn store(&mut self, start: u32, end: u32) {
        if before(self.rcv_nxt, end) {
            let longest = self.early.get(&start).copied().filter(|known| before(end, *known)).unwrap_or(end);
            self.early.insert(start, longest);
        }
        let had = self.rcv_nxt;
        while let Some((&start, &end)) = self.early.iter().find(|(start, _)| !before(self.rcv_nxt, **start)) {
            self.early.remove(&start);
            if before(self.rcv_nxt, end) {
                self.rcv_nxt = end;
            }
        }
        self.unread += self.rcv_nxt.wrapping_sub(had);
    }

    fn read(&mut self, dice: &mut Dice) {
        let was_closed = self.unread >= self.buffer;
        self.unread -= dice.below(self.unread + 1).max(self.unread / 2).min(self.unread);
        self.owes_ack |= was_closed && self.unread < self.buffer;
    }
}

struct Network {
    loss: u32,
    doubles: u32,
    jitter_micros: u32,
}

struct Run {
    world: World,
    ends: [End; 2],
    wire: BTreeMap<(u64, u64), (bool, usize, Tcp)>,
    network: Network,
    dice: Dice,
    now: u64,
    count: u64,
    forth: FlowKey,
    dropped: u32,
    shots: u32,
}

impl Run {
    fn new(seed: u64, network: Network, largest: u32) -> Self {
        let mut dice = Dice(seed | 1);
        let forth = key(5, 6, 40000);
        let ends = [End::new(forth, &mut dice, largest), End::new(forth.reversed(), &mut dice, largest)];
        let world = World::new();
        let now = world.now.micros();
        Self { world, ends, wire: BTreeMap::new(), network, dice, now, count: 0, forth, dropped: 0, shots: 0 }
    }

    fn carry(&mut self, tracked: bool, from: usize, tcp: Tcp) {
        if self.dice.percent(self.network.loss) {
            return;
        }
        let copies = if self.dice.percent(self.network.doubles) { 2 } else { 1 };
        for _ in 0..copies {
            let arrives = self.now + 500 + u64::from(self.dice.below(self.network.jitter_micros));
            self.count += 1;
            self.wire.insert((arrives, self.count), (tracked, from, tcp));
        }
    }

    /// Until both ends have all data of the other, and know it. How long that takes is the network's affair, not
    /// the tracker's: a thousand retransmissions in a row that move nothing are a connection that got stuck.
    fn go(&mut self, shooting: bool) {
        const PATIENCE: u64 = 1000 * RETRANSMISSION;
        let mut tick = self.now;
        let (mut acknowledged, mut moved) = (None, self.now);
        while !(self.ends[0].is_done() && self.ends[1].is_done()) {
            let now_acknowledged = Some([self.ends[0].una, self.ends[1].una]);
            if acknowledged != now_acknowledged {
                (acknowledged, moved) = (now_acknowledged, self.now);
            }
            assert!(
                self.now < moved + PATIENCE,
                "stuck: {} of {} dropped, {:?}",
                self.dropped,
                self.count,
                self.ends
            );
            let next = self.wire.first_key_value().map_or(u64::MAX, |((at, _), _)| *at);
            if next > tick {
                self.now = tick;
                tick += 5000;
                self.everyone_speaks();
            } else if let Some(((at, _), (tracked, from, tcp))) = self.wire.pop_first() {
                self.now = at;
                self.arrive(tracked, from, tcp);
            }
            if shooting && self.dice.percent(10) {
                self.shoot();
            }
        }
    }

    fn everyone_speaks(&mut self) {
        for from in 0..2 {
            if from == 1 && !self.ends[1].heard {
                continue;
            }
            let mut out = Vec::new();
            let (end, dice) = (&mut self.ends[from], &mut self.dice);
            end.read(dice);
            end.speak(self.now, dice, &mut out);
            for tcp in out {
                self.carry(false, from, tcp);
            }
        }
    }

    fn arrive(&mut self, tracked: bool, from: usize, tcp: Tcp) {
        if tracked {
            self.ends[1 - from].take(&tcp, &mut self.dice);
            return;
        }
        match self.judge(from, tcp) {
            Fate::Dropped(reason) => {
                self.dropped += 1;
                let receiver = &self.ends[1 - from];
                assert!(
                    !receiver.would_take(&tcp),
                    "{reason}: {tcp:?} from {from} to {receiver:?}, {:?}",
                    self.world.table.slab.get(0),
                );
            }
            Fate::Stale => panic!("no epoch changed"),
            Fate::Opened | Fate::Passed(_) => self.carry(true, from, tcp),
        }
    }

    fn judge(&mut self, from: usize, tcp: Tcp) -> Fate {
        self.world.now = Instant::from_micros(self.now);
        let key = if from == 0 { self.forth } else { self.forth.reversed() };
        let packets = 1 + u32::from(tcp.payload) / 1448;
        self.world.send(&Segment {
            key,
            kind: SegmentKind::Tcp(tcp),
            packets,
            bytes: u32::from(tcp.payload),
            header: HeaderBits::default(),
        })
    }

    /// A segment of someone who knows the ends and their ports, and nothing else.
    fn shoot(&mut self) {
        let Some(before_shot) = self.world.flows().first().copied() else { return };
        if before_shot.state != FlowState::Established || !self.ends.iter().all(End::is_up) {
            return;
        }
        let from = self.dice.below(2) as usize;
        let (sender, receiver) = (&self.ends[from], &self.ends[1 - from]);
        let (mut seq, mut ack) = (self.dice.roll() as u32, self.dice.roll() as u32);
        let flags = [ACK, ACK, RST, RST | ACK, SYN, SYN | ACK, FIN | ACK][self.dice.below(7) as usize];
        let payload = if flags == ACK { 1 + self.dice.below(60_000) as u16 } else { 0 };
        let inside = |value: u32, low: u32, high: u32| value.wrapping_sub(low) <= high.wrapping_sub(low);
        let reach = receiver.widest.wrapping_add(70_000);
        let blind_ack = flags & (ACK | RST) == ACK && self.dice.percent(50);
        if blind_ack {
            // Right number, wrong acknowledgement.
            seq = sender.nxt;
            let stale = sender.rcv_nxt.wrapping_sub(2 * sender.widest.max(65_535) + 2);
            while inside(ack, stale, receiver.nxt) {
                ack = self.dice.roll() as u32;
            }
        } else {
            let most = receiver.rcv_nxt.wrapping_add(receiver.widest).wrapping_add(2);
            while inside(seq, receiver.rcv_nxt.wrapping_sub(reach), most) {
                seq = self.dice.roll() as u32;
            }
        }
        let Segment { kind: SegmentKind::Tcp(shot), .. } = tcp(sender.key, flags, seq, ack, payload) else {
            unreachable!()
        };
        let fate = self.judge(from, shot);
        if flags == SYN {
            // For its receiver to challenge; it counts, and that is all.
            assert_eq!(fate, Fate::Passed(FlowState::Established), "{shot:?}");
            let [flow] = self.world.flows()[..] else { panic!("another flow") };
            let FlowInfo { original, reply, .. } = before_shot;
            assert_eq!(FlowInfo { original, reply, ..flow }, before_shot, "{shot:?}");
        } else {
            assert!(matches!(fate, Fate::Dropped(DropReason::TcpWindow)), "{fate:?} for {shot:?}");
            assert_eq!(self.world.flows(), [before_shot], "{shot:?}");
        }
        self.shots += 1;
        self.shoot_near();
    }

    /// A RST that lies in the window and is not exact ends nothing.
    fn shoot_near(&mut self) {
        let from = self.dice.below(2) as usize;
        let (sender, receiver) = (&self.ends[from], &self.ends[1 - from]);
        let beyond = receiver.rcv_nxt.wrapping_add(receiver.widest).wrapping_sub(sender.nxt);
        if (beyond as i32) < 2 {
            return;
        }
        let seq = sender.nxt.wrapping_add(1 + self.dice.below(beyond));
        let Segment { kind: SegmentKind::Tcp(shot), .. } = tcp(sender.key, RST, seq, 0, 0) else {
            unreachable!()
        };
        let _ = self.judge(from, shot);
        assert_eq!(self.world.flows()[0].state, FlowState::Established, "{shot:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn what_an_end_would_take_passes(
        seed in any::<u64>(),
        loss in 0u32..25,
        doubles in 0u32..20,
        jitter_micros in 1u32..60_000,
        largest in prop_oneof![Just(1448u32), Just(65_160), 1u32..65_160],
    ) {
        // Small segments at these volumes would make runs of a million packets.
        let mut run = Run::new(seed, Network { loss, doubles, jitter_micros }, largest.max(400));
        run.go(false);
        let state = run.world.flows()[0].state;
        prop_assert!(matches!(state, FlowState::LastAck | FlowState::TimeWait), "{state:?}");
    }

    #[test]
    fn what_nobody_sent_does_not(seed in any::<u64>(), loss in 0u32..10, jitter_micros in 1u32..30_000) {
        let mut run = Run::new(seed, Network { loss, doubles: 5, jitter_micros }, 1448);
        run.go(true);
        // A connection may be over before the first shot.
        prop_assume!(run.shots > 0);
    }

    /// In a network that neither reorders nor doubles, nothing at all is dropped.
    #[test]
    fn an_orderly_network_sees_no_drop(seed in any::<u64>(), loss in 0u32..20) {
        let mut run = Run::new(seed, Network { loss, doubles: 0, jitter_micros: 1 }, 1448);
        run.go(false);
        prop_assert_eq!(run.dropped, 0);
    }
}
