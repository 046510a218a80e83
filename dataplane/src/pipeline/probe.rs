//! Probes: what the appliance asks in an endpoint's name, by the way that the endpoint's own frames go.
//!
//! A probe's frames enter the path where the endpoint's do, and are admitted, tracked, decided and counted like those. What
//! would then leave by the endpoint's attachment as an answer to them is the probe's, and the endpoint does not see it: it has
//! asked nothing, and its stack would end what it does not know. For as long as no probe runs, the path reads one number.
//!
//! It tells nobody where the endpoint is, or that it is there: nothing is learned from it on this host.
//!
//! A flow is a probe's when nobody had it before. Where the endpoint itself begins to use it, the probe lets go of it.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc::SyncSender,
    },
    time::Duration,
};

use eastgate_steering::{claim, question};
use eastgate_vtep::fdb::Location;
use eastgate_wire::{
    Addr, AttachmentId, DropReason, FlowKey, Frame, Instant, MacAddr, View,
    rate::{Rate, TokenBucket},
    view::{IcmpRole, Ip, Net, Transport, proto},
};

use super::{Arrival, Outcome, Pipeline, Refusal, Shared, batch::Batch, shared::lock};

/// Probes that run at one time on a host
pub const MOST: usize = 4;
/// Frames of all probes of a host
const FRAMES: Rate = Rate { per_second: 100, burst: 50 };
/// For as long after its end, what comes to a probe is kept from the endpoint.
const LINGER: Duration = Duration::from_secs(10);
/// What the endpoint itself has asked within this time is answered to it as well.
const ASKED: Duration = Duration::from_secs(5);
/// Flows of probes that are over, and are told from others in lists
const REMEMBERED: usize = 256;
/// Datagrams in fragments that are known by their first
const DATAGRAMS: usize = 8;

/// Whom a probe asks, and in whose name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Aim {
    /// Where it enters the path
    pub attachment: AttachmentId,
    /// The MAC of its frames
    pub mac: MacAddr,
    /// Their source address
    pub own: Addr,
    /// Whose MAC it asks for: of its destination, or of a router
    pub target: Addr,
    /// The flow that it opens, as its own packets have it; none where it asks for the MAC alone
    pub flow: Option<FlowKey>,
}

/// A frame that came to a probe.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// When
    pub at: Instant,
    /// From its Ethernet header on
    pub bytes: Vec<u8>,
    /// This appliance has made it.
    pub made: bool,
}

/// Why a probe cannot begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// As many run as may.
    Busy,
    /// Another one has the flow.
    Taken,
}

/// What became of a frame of a probe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fate {
    /// What the path made of it
    pub outcome: Outcome,
    /// Why it was dropped, where it was
    pub refusal: Option<Refusal>,
}

/// The probes of a host.
#[derive(Debug)]
pub struct Probes {
    /// How many there are, with those that linger
    count: AtomicUsize,
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    probes: Vec<Probe>,
    /// Flows of those that are over, each with when it was a probe's
    over: VecDeque<(FlowKey, Instant, Instant)>,
    frames: TokenBucket,
    next: u64,
}

#[derive(Debug)]
struct Probe {
    number: u64,
    aim: Aim,
    answers: SyncSender<Answer>,
    began: Instant,
    /// Over, and forgotten then
    until: Option<Instant>,
    /// When the endpoint itself has asked for the target's MAC
    asked: Option<Instant>,
    /// The endpoint uses the flow itself.
    lost: bool,
    /// Identifications of datagrams whose first fragment was an answer
    datagrams: VecDeque<u32>,
}

/// What a frame is to a probe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    /// It says which MAC the target has.
    Neighbor,
    /// It is of the probe's flow, or about it.
    Flow,
    /// A later fragment of one that is
    Later,
}

impl Default for Probes {
    fn default() -> Self {
        let table = Table {
            probes: Vec::new(),
            over: VecDeque::new(),
            frames: TokenBucket::new(FRAMES, Instant::ZERO),
            next: 0,
        };
        Self { count: AtomicUsize::new(0), table: Mutex::new(table) }
    }
}

impl Probes {
    /// Is there any? What the path looks at.
    #[inline]
    #[must_use]
    pub fn any(&self) -> bool {
        self.count.load(Relaxed) > 0
    }

    /// Begins one, whose number this is. What comes to it goes to `answers`, as much of it as there is room for.
    ///
    /// # Errors
    /// Why it cannot begin.
    pub fn begin(&self, aim: Aim, answers: SyncSender<Answer>, now: Instant) -> Result<u64, Refused> {
        let mut table = self.table_at(now);
        let running = table.probes.iter().filter(|probe| probe.until.is_none());
        if running.count() >= MOST {
            return Err(Refused::Busy);
        }
        if aim.flow.is_some_and(|flow| table.probes.iter().any(|probe| probe.has(&flow))) {
            return Err(Refused::Taken);
        }
        let number = table.next;
        table.next += 1;
        table.probes.push(Probe {
            number,
            aim,
            answers,
            began: now,
            until: None,
            asked: None,
            lost: false,
            datagrams: VecDeque::new(),
        });
        self.count.store(table.probes.len(), Relaxed);
        Ok(number)
    }

    /// Ends one. What still comes to it is kept from the endpoint for some seconds.
    pub fn end(&self, number: u64, now: Instant) {
        let mut table = lock(&self.table);
        let Table { probes, over, .. } = &mut *table;
        if let Some(probe) = probes.iter_mut().find(|probe| probe.number == number) {
            probe.until = Some(now + LINGER);
            if let Some(flow) = probe.aim.flow {
                if over.len() >= REMEMBERED {
                    over.pop_front();
                }
                over.push_back((flow, probe.began, now));
            }
        }
        table.forget(now);
        self.count.store(table.probes.len(), Relaxed);
    }

    /// May one more frame of a probe be sent?
    #[must_use]
    pub fn may_send(&self, now: Instant) -> bool {
        lock(&self.table).frames.take(now)
    }

    /// Has the endpoint begun to use the flow itself?
    #[must_use]
    pub fn has_lost(&self, number: u64) -> bool {
        lock(&self.table).probes.iter().any(|probe| probe.number == number && probe.lost)
    }

    /// Is this, whichever way, a packet of a probe's flow?
    #[must_use]
    pub fn has(&self, key: &FlowKey) -> bool {
        self.any() && lock(&self.table).probes.iter().any(|probe| probe.has(key))
    }

    /// Is or was the flow that began then a probe's?
    #[must_use]
    pub fn marks(&self, key: &FlowKey, created: Instant) -> bool {
        let table = lock(&self.table);
        let was = |(flow, from, until): &(FlowKey, Instant, Instant)| {
            is_same(flow, key) && (*from..=*until).contains(&created)
        };
        let mut running = table.probes.iter().filter(|probe| probe.until.is_none());
        running.any(|probe| probe.has(key) && created >= probe.began) || table.over.iter().any(was)
    }

    /// The table without those that are over for long: once the last of them is, the path looks no more.
    fn table_at(&self, now: Instant) -> MutexGuard<'_, Table> {
        let mut table = lock(&self.table);
        table.forget(now);
        self.count.store(table.probes.len(), Relaxed);
        table
    }

    /// Takes note of what an endpoint itself sends.
    pub(super) fn hear(&self, attachment: AttachmentId, bytes: &[u8], now: Instant) {
        let mut table = self.table_at(now);
        let mut its = table.probes.iter_mut().filter(|probe| probe.aim.attachment == attachment).peekable();
        if its.peek().is_none() {
            return;
        }
        let Ok(view) = View::parse(bytes) else { return };
        let asks = question(bytes, &view).map(|question| question.target);
        for probe in its {
            if asks == Some(probe.aim.target) {
                probe.asked = Some(now);
            }
            let used = view.ip().zip(probe.aim.flow).is_some_and(|(ip, flow)| sends(ip, &flow));
            probe.lost |= used;
        }
    }

    /// Whether a frame that is about to leave by an attachment is a probe's, and not for the endpoint there. `own` are those that
    /// the probe's own frame has led to at once.
    pub fn take(&self, attachment: AttachmentId, bytes: &[u8], made: bool, own: bool, now: Instant) -> bool {
        let mut table = self.table_at(now);
        let mut its = table.probes.iter_mut().filter(|probe| probe.aim.attachment == attachment).peekable();
        if its.peek().is_none() {
            return false;
        }
        let Ok(view) = View::parse(bytes) else { return false };
        let mut is_taken = false;
        for probe in its {
            let Some(part) = probe.part(&view, bytes) else { continue };
            if probe.lost {
                continue;
            }
            let asked = probe.asked.is_some_and(|asked| now.since(asked) < ASKED);
            is_taken |= own || part != Part::Neighbor || !asked;
            if part != Part::Later {
                // Whoever does not listen any more, or has enough to read, misses it.
                let _ = probe.answers.try_send(Answer { at: now, bytes: bytes.to_vec(), made });
            }
        }
        is_taken
    }
}

impl Table {
    fn forget(&mut self, now: Instant) {
        self.probes.retain(|probe| probe.until.is_none_or(|until| now < until));
    }
}

impl Probe {
    fn has(&self, key: &FlowKey) -> bool {
        !self.lost && self.aim.flow.is_some_and(|flow| is_same(&flow, key))
    }

    fn part(&mut self, view: &View, bytes: &[u8]) -> Option<Part> {
        if view.tags > 0 {
            return None;
        }
        let Aim { mac, own, target, flow, .. } = self.aim;
        let says = |address: Addr| claim(bytes, view).is_some_and(|claim| claim.address == address);
        let ip = match &view.net {
            Net::Arp => {
                let is_reply =
                    bytes.get(usize::from(view.l3) + 6..).is_some_and(|at| at.starts_with(&[0, 2]));
                return (is_reply && view.dst == mac && says(target)).then_some(Part::Neighbor);
            }
            Net::Ip(ip) => ip,
            Net::Other => return None,
        };
        if ip.dst != own {
            return None;
        }
        if let Transport::Icmp(icmp) = ip.transport
            && (ip.proto, icmp.kind) == (proto::ICMPV6, NEIGHBOR_ADVERTISEMENT)
        {
            return says(target).then_some(Part::Neighbor);
        }
        let flow = flow?;
        if let Some(fragment) = ip.fragment
            && fragment.offset > 0
        {
            let is_known =
                (ip.src, ip.proto) == (flow.dst, flow.proto) && self.datagrams.contains(&fragment.id);
            return is_known.then_some(Part::Later);
        }
        if !answers(ip, bytes, &flow) {
            return None;
        }
        if let Some(fragment) = ip.fragment {
            if self.datagrams.len() >= DATAGRAMS {
                self.datagrams.pop_front();
            }
            self.datagrams.push_back(fragment.id);
        }
        Some(Part::Flow)
    }
}

const NEIGHBOR_ADVERTISEMENT: u8 = 136;

/// The same two ends, whichever of them sends
fn is_same(flow: &FlowKey, key: &FlowKey) -> bool {
    let ends = |key: &FlowKey| (key.vni, key.proto, key.src, key.sport, key.dst, key.dport);
    [ends(key), ends(&key.reversed())].contains(&ends(flow))
}

/// Is the packet one of the flow's own direction?
fn sends(ip: &Ip, flow: &FlowKey) -> bool {
    (ip.src, ip.dst, ip.proto) == (flow.src, flow.dst, flow.proto)
        && match ip.transport {
            Transport::Icmp(icmp) => icmp.role(ip.src.is_v4()) == IcmpRole::Request && icmp.id == flow.sport,
            _ => ip.ports() == (flow.sport, flow.dport),
        }
}

/// Does the packet answer one of the flow, or say that one failed?
fn answers(ip: &Ip, bytes: &[u8], flow: &FlowKey) -> bool {
    if let Transport::Icmp(icmp) = ip.transport {
        return match icmp.role(ip.src.is_v4()) {
            IcmpRole::Reply => (ip.src, ip.proto, icmp.id) == (flow.dst, flow.proto, flow.sport),
            IcmpRole::Error => ip.quoted(bytes).is_some_and(|quoted| {
                (quoted.src, quoted.dst, quoted.proto) == (flow.src, flow.dst, flow.proto)
                    && (quoted.sport, quoted.dport) == (flow.sport, flow.dport)
            }),
            IcmpRole::Request | IcmpRole::Notice => false,
        };
    }
    (ip.src, ip.proto) == (flow.dst, flow.proto) && ip.ports() == (flow.dport, flow.sport)
}

impl<'s> Pipeline<'s> {
    /// Takes a frame of a probe, as [`Pipeline::handle_tenant`] takes one of the endpoint's. `flow` is the one that the probe
    /// opens.
    pub fn handle_probe(
        &mut self,
        attachment: AttachmentId,
        flow: Option<&FlowKey>,
        frame: &mut Frame<'_>,
        now: Instant,
        out: &mut Batch,
    ) -> Fate {
        self.counters.from_ports.fetch_add(1, Relaxed);
        let from = Location::Local(attachment);
        let Some((network, endpoint)) = self.snapshot.at_attachment(attachment) else {
            let outcome = self.refuse(from, DropReason::NotReady, now);
            return Fate { outcome, refusal: None };
        };
        let arrival = Arrival { network, from, sender: Some(endpoint) };
        let before = frame.len();
        self.is_probe = true;
        let fate = match self.tenant_path(&arrival, endpoint, frame, now, out) {
            Ok(outcome) => Fate { outcome, refusal: None },
            Err(refusal) => {
                let outcome = self.drop_frame(&arrival, refusal, frame, before, now, out);
                Fate { outcome, refusal: Some(refusal) }
            }
        };
        self.is_probe = false;
        self.go_on_with_released(now, out);
        if let Some(flow) = flow.filter(|_| fate.outcome == Outcome::Forward) {
            self.shared.keep_probed(flow);
        }
        fate
    }
}

impl Shared {
    /// Keeps the place of a probe's flow elsewhere also where nobody here keeps state of it: its answers come here.
    fn keep_probed(&self, flow: &FlowKey) {
        if let Some(fastpath) = self.fastpath.get()
            && !self.flows(flow).knows(flow)
        {
            let _ = fastpath.reserve(flow);
        }
    }

    /// Ends a probe.
    pub fn end_probe(&self, number: u64, flow: Option<&FlowKey>, now: Instant) {
        self.probes.end(number, now);
        if let Some(flow) = flow {
            let flows = self.flows(flow);
            self.release(&flows, Some(*flow));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, sync_channel};

    use eastgate_testkit::frames::{Talk, arp, mac, ping, pong, v4};
    use eastgate_wire::{Leg, Vni, checksum::checksum};

    use super::*;

    const HERE: AttachmentId = AttachmentId(1);
    const TALK: Talk = Talk { a: 11, b: 21, sport: 61_000, dport: 5432 };
    const NOW: Instant = Instant::from_secs(1000);

    fn flow(proto: u8, sport: u16, dport: u16) -> FlowKey {
        let [src, dst] = [TALK.a, TALK.b].map(|station| Addr::v4(v4(station)));
        FlowKey { src, dst, vni: Vni::new_checked(5001).unwrap(), sport, dport, proto, leg: Leg::DIRECT }
    }

    fn aim(flow: FlowKey) -> Aim {
        Aim { attachment: HERE, mac: MacAddr(mac(TALK.a)), own: flow.src, target: flow.dst, flow: Some(flow) }
    }

    fn begun(flow: FlowKey) -> (Probes, u64, Receiver<Answer>) {
        let (probes, (sender, answers)) = (Probes::default(), sync_channel(16));
        assert!(!probes.any());
        let number = probes.begin(aim(flow), sender, NOW).unwrap();
        assert!(probes.any());
        (probes, number, answers)
    }

    fn tcp() -> FlowKey {
        flow(proto::TCP, TALK.sport, TALK.dport)
    }

    /// "21 is at its MAC", to 11
    fn neighbor() -> Vec<u8> {
        arp(2, mac(TALK.a), TALK.b, mac(TALK.a), v4(TALK.a))
    }

    #[test]
    fn answers_are_the_probes_and_nothing_else_is() {
        let (probes, _, answers) = begun(tcp());
        let take = |frame: &[u8]| probes.take(HERE, frame, false, false, NOW);
        let others = [
            Talk { dport: 5433, ..TALK }.syn_ack(),
            Talk { sport: 61_001, ..TALK }.syn_ack(),
            Talk { b: 22, ..TALK }.syn_ack(),
            TALK.syn(),
            pong(21, 11, TALK.sport),
            arp(2, mac(11), 22, mac(11), v4(11)),
            arp(1, mac(11), 21, mac(11), v4(11)),
            arp(2, mac(12), 21, mac(12), v4(12)),
        ];
        for frame in &others {
            assert!(!take(frame), "{frame:02x?}");
        }
        assert!(answers.try_recv().is_err());
        assert!(take(&TALK.syn_ack()) && take(&TALK.answer(b"more")) && take(&neighbor()));
        assert!(!probes.take(AttachmentId(2), &TALK.syn_ack(), false, false, NOW), "of another endpoint");
        assert_eq!(answers.try_iter().count(), 3);
    }

    #[test]
    fn of_an_answer_in_fragments_all_are_kept_from_the_endpoint() {
        let (probes, _, answers) = begun(flow(proto::ICMP, 61_000, 61_000));
        let piece = |field: u16| {
            let mut frame = pong(21, 11, 61_000);
            frame.splice(20..22, field.to_be_bytes());
            frame.splice(24..26, [0, 0]);
            let sum = checksum(&frame[14..34]).to_be_bytes();
            frame.splice(24..26, sum);
            frame
        };
        let take = |frame: &[u8]| probes.take(HERE, frame, false, false, NOW);
        assert!(!take(&piece(0x0010)), "nobody knows yet what it is of");
        assert!(take(&piece(0x2000)) && take(&piece(0x0010)));
        assert_eq!(answers.try_iter().count(), 1);
        assert!(!take(&pong(21, 11, 61_001)) && !take(&ping(21, 11, 61_000)));
    }

    #[test]
    fn who_asked_as_well_is_answered_as_well() {
        let (probes, _, answers) = begun(tcp());
        probes.hear(HERE, &arp(1, [0xff; 6], 11, [0; 6], v4(22)), NOW);
        assert!(probes.take(HERE, &neighbor(), false, false, NOW), "it has asked for another one");
        probes.hear(HERE, &arp(1, [0xff; 6], 11, [0; 6], v4(21)), NOW);
        assert!(!probes.take(HERE, &neighbor(), false, false, NOW));
        assert!(probes.take(HERE, &neighbor(), true, true, NOW), "this one is the probe's own");
        assert!(probes.take(HERE, &neighbor(), false, false, NOW + ASKED));
        assert_eq!(answers.try_iter().count(), 4);
    }

    #[test]
    fn a_flow_that_the_endpoint_uses_is_its_own() {
        let (probes, number, answers) = begun(tcp());
        assert!(probes.has(&tcp()) && probes.has(&tcp().reversed()));
        probes.hear(HERE, &Talk { sport: 40_000, ..TALK }.syn(), NOW);
        probes.hear(AttachmentId(2), &TALK.syn(), NOW);
        assert!(!probes.has_lost(number));
        probes.hear(HERE, &TALK.syn(), NOW);
        assert!(probes.has_lost(number) && !probes.has(&tcp()));
        assert!(!probes.take(HERE, &TALK.syn_ack(), false, false, NOW));
        assert!(answers.try_recv().is_err());
    }

    #[test]
    fn what_comes_late_is_kept_from_the_endpoint_for_a_while() {
        let (probes, number, answers) = begun(tcp());
        drop(answers);
        probes.end(number, NOW);
        assert!(probes.take(HERE, &TALK.syn_ack(), false, false, NOW + Duration::from_secs(9)));
        assert!(!probes.take(HERE, &TALK.syn_ack(), false, false, NOW + Duration::from_secs(11)));
        assert!(probes.marks(&tcp(), NOW) && !probes.marks(&tcp(), NOW + Duration::from_secs(60)));
        assert!(!probes.any(), "the path looks no more");
    }

    #[test]
    fn limits_are_exact() {
        let (probes, first, _answers) = begun(tcp());
        let begin =
            |sport: u16| probes.begin(aim(flow(proto::TCP, sport, TALK.dport)), sync_channel(1).0, NOW);
        assert_eq!(begin(TALK.sport), Err(Refused::Taken));
        for more in 1..MOST as u16 {
            begin(TALK.sport + more).unwrap();
        }
        assert_eq!(begin(1), Err(Refused::Busy));
        probes.end(first, NOW);
        assert!(begin(1).is_ok(), "one that lingers has made room");
        let sent = |now: Instant| (0..1000).filter(|_| probes.may_send(now)).count();
        assert_eq!(sent(NOW), FRAMES.burst as usize);
        assert_eq!((sent(NOW), sent(NOW + Duration::from_millis(100))), (0, 10));
    }

    #[test]
    fn noise() {
        let (probes, _, answers) = begun(tcp());
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        let known = [TALK.syn_ack(), neighbor(), pong(21, 11, 61_000), TALK.answer(b"x")];
        for round in 0..50_000 {
            let mut frame = known[(next() % 4) as usize].clone();
            for _ in 0..1 + next() % 4 {
                let at = (next() % frame.len() as u64) as usize;
                frame[at] = next() as u8;
            }
            if round % 4 == 0 {
                frame.truncate((next() % 80) as usize);
            }
            probes.hear(HERE, &frame, NOW);
            let _ = probes.take(HERE, &frame, false, false, NOW);
            while answers.try_recv().is_ok() {}
        }
    }
}
