//! Both directions of one flow at once, each on a processor of its own: what either program remembers of the flow is
//! what some order of the packets makes of it, to the last count, and no packet passes after the flow was taken.

use std::{
    sync::atomic::{
        AtomicBool, AtomicU32,
        Ordering::{Acquire, Release, SeqCst},
    },
    thread,
};

use eastgate_fastpath::{Flow, FlowDir, Key, TakeResult};
use eastgate_wire::{Addr, FlowKey, Leg};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use super::*;

/// An endpoint behind another VTEP
const FAR: u8 = THERE[0];

/// Packets of each direction.
const PACKETS: u32 = 20_000;
/// How many of them pass before the flow is taken, where it is, and how many are tried after that.
const BEFORE: u32 = 2_000;
const AFTER: u32 = 500;
const DATA: u32 = 64;
/// Where an IPv4 frame without options has the numbers of a segment.
const SEQ_AT: usize = 38;
const ACK_AT: usize = 42;
/// What `Talk` offers.
const WINDOW: u32 = 65_535 << 7;

/// A flow of endpoint 11, which the programs carry.
#[derive(Clone, Copy)]
struct Carried {
    tcp: bool,
    talk: Talk,
}

impl Carried {
    fn key(&self) -> (Key, usize) {
        let Talk { a, b, sport, dport } = self.talk;
        let (src, dst) = (Addr::v4(v4(a)), Addr::v4(v4(b)));
        let proto = if self.tcp { 6 } else { 17 };
        Key::of(&FlowKey { src, dst, vni: VNI.try_into().unwrap(), sport, dport, proto, leg: Leg::DIRECT })
    }

    /// A frame of the opener, or of the other end.
    fn frame(&self, side: usize, payload: &[u8]) -> Vec<u8> {
        let Talk { a, b, sport, dport } = self.talk;
        match (self.tcp, side) {
            (true, 0) => self.talk.data(payload),
            (true, _) => self.talk.answer(payload),
            (false, 0) => udp_of(ip4(a, b, |_| ()), sport, dport, payload),
            (false, _) => udp_of(ip4(b, a, |_| ()), dport, sport, payload),
        }
    }

    /// Lets it begin, and brings it to where the programs carry both directions. Was it created there?
    fn begin(&self, host: &mut Host) -> bool {
        let carried = host.carried;
        if self.tcp {
            host.send(self.talk.a, &self.talk.syn());
            host.send(self.talk.b, &self.talk.syn_ack());
        }
        host.send(self.talk.a, &self.frame(0, b""));
        let created = host.carried > carried;
        let both = |host: &mut Host| {
            let carried = host.carried;
            host.send(self.talk.b, &self.frame(1, b""));
            host.send(self.talk.a, &self.frame(0, b""));
            host.carried == carried + 2
        };
        assert!((0..20).any(|_| both(host)), "the programs do not take the flow");
        created
    }
}

impl Host {
    fn send(&mut self, endpoint: u8, frame: &[u8]) {
        let offload = Offload::default();
        let (outcome, _) = if endpoint == FAR {
            self.underlay(2, 0, frame, offload)
        } else {
            self.tenant(endpoint, frame, offload)
        };
        assert_eq!(outcome, Outcome::Forward);
    }

    fn flow(&self, key: &Key) -> Flow {
        self.kernel.as_ref().unwrap().programs().peek(key).unwrap().expect("the flow")
    }
}

/// What the two senders and who watches them have in common.
struct Run<'a> {
    host: &'a Host,
    flow: Carried,
    /// The sequence number behind what each side has sent, and got through
    sent: [AtomicU32; 2],
    passed: [AtomicU32; 2],
    /// Nothing passes any more.
    taken: AtomicBool,
    ends: bool,
}

/// What one side has come to.
struct Report {
    /// Bytes of each frame
    len: u64,
    /// The last acknowledgement that got through
    acknowledged: u32,
}

impl Run<'_> {
    /// One side's packets, one after the other.
    fn send(&self, side: usize) -> Report {
        let host = self.host;
        let kernel = host.kernel.as_ref().unwrap();
        let frame = self.flow.frame(side, &[7; DATA as usize]);
        let len = frame.len() as u64;
        let endpoint = [self.flow.talk.a, self.flow.talk.b][side];
        let (program, device, mut bytes) = if endpoint == FAR {
            ("underlay", host.ports[2], host.scene.datagram(2, 0, &vxlan(VNI, &frame)))
        } else {
            ("tenant", host.ports[usize::from(endpoint != HERE[0])], frame)
        };
        let at = bytes.len() - len as usize;
        let (mut acknowledged, mut after, mut refused) = (0, 0, 0);
        while after < AFTER && (self.ends || self.passed[side].load(SeqCst) < PACKETS) {
            let is_over = self.taken.load(SeqCst);
            let (seq, ack) = (self.sent[side].load(SeqCst), self.sent[1 - side].load(Acquire));
            if self.flow.tcp {
                bytes[at + SEQ_AT..at + ACK_AT].copy_from_slice(&seq.to_be_bytes());
                bytes[at + ACK_AT..at + ACK_AT + 4].copy_from_slice(&ack.to_be_bytes());
                mend(&mut bytes[at..]);
            }
            let trial = kernel.programs().try_program(program, &bytes, device, 0).unwrap();
            let was_punted = eastgate_fastpath::attachment_of(&trial.frame, kernel.session()).is_some();
            if trial.verdict == REDIRECT && !was_punted {
                assert!(!is_over, "a packet passed after the flow was taken");
                acknowledged = ack;
                self.sent[side].store(seq.wrapping_add(DATA), Release);
                self.passed[side].fetch_add(1, SeqCst);
            } else {
                refused += 1;
                assert!(self.ends && refused < PACKETS, "a packet of the flow did not pass");
            }
            after += u32::from(is_over);
        }
        Report { len, acknowledged }
    }

    /// Counts and bounds of what is carried only grow.
    fn watch(&self, key: &Key, before: &Flow) -> Flow {
        let now = self.host.flow(key);
        for (before, now) in before.dirs.iter().zip(&now.dirs) {
            let bounds = |way: &FlowDir| [way.tcp.end, way.tcp.max_end, way.tcp.max_ack];
            assert!(before.packets <= now.packets && before.bytes <= now.bytes);
            for (before, now) in bounds(before).into_iter().zip(bounds(now)) {
                assert!(now.wrapping_sub(before) < 1 << 31, "a bound went back");
            }
        }
        now
    }
}

/// `ends`: the flow is taken in the middle.
fn run(host: &Host, flow: Carried, ends: bool) {
    let (key, opener) = flow.key();
    let before = host.flow(&key);
    let way = |flow: &Flow, side: usize| flow.dirs[opener ^ side];
    let sent = [0, 1].map(|side| if flow.tcp { way(&before, side).tcp.end } else { 0 });
    let run = Run {
        host,
        flow,
        sent: sent.map(AtomicU32::new),
        passed: Default::default(),
        taken: AtomicBool::new(false),
        ends,
    };
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let processors: Vec<usize> =
        (0..CpuSet::count()).filter(|number| allowed.is_set(*number).unwrap()).collect();
    let (reports, after) = thread::scope(|scope| {
        let run = &run;
        let senders = [0, 1].map(|side| {
            let processor = processors[side % processors.len()];
            scope.spawn(move || {
                let mut own = CpuSet::new();
                own.set(processor).unwrap();
                sched_setaffinity(Pid::from_raw(0), &own).unwrap();
                run.send(side)
            })
        });
        let mut seen = before;
        while senders.iter().any(|sender| !sender.is_finished()) {
            seen = run.watch(&key, &seen);
            let far = run.passed.iter().all(|passed| passed.load(SeqCst) >= BEFORE);
            if ends && far && !run.taken.load(SeqCst) {
                let taken = host.kernel.as_ref().unwrap().programs().take(&key).unwrap();
                run.taken.store(true, SeqCst);
                let TakeResult::Taken(taken) = taken else { panic!("{taken:?}") };
                seen = taken;
            }
        }
        let reports = senders.map(|sender| sender.join().unwrap());
        // Where it was taken, this is what was said of it then.
        let last = run.watch(&key, &seen);
        (reports, if ends { seen } else { last })
    });
    for (side, report) in reports.iter().enumerate() {
        let (passed, before, after) =
            (u64::from(run.passed[side].load(SeqCst)), way(&before, side), way(&after, side));
        assert_eq!(after.packets - before.packets, passed, "packets of side {side}");
        assert_eq!(after.bytes - before.bytes, passed * report.len, "bytes of side {side}");
    }
    if flow.tcp {
        for (side, report) in reports.iter().enumerate() {
            let (own, other) = (way(&after, side).tcp, way(&after, 1 - side).tcp);
            assert_eq!(own.end, run.sent[side].load(SeqCst), "sent by side {side}");
            assert_eq!(own.max_ack, report.acknowledged, "acknowledged by side {side}");
            assert_eq!(other.max_end, report.acknowledged.wrapping_add(WINDOW), "offered by side {side}");
        }
    }
}

fn both_at_once() {
    let scene = SCENES[0];
    let devices = devices(scene);
    let kernel = Arc::new(KernelPath::load(tables(1000), devices[0], gso::TUNNEL_PORT).unwrap());
    let mut host = Host::new(scene, &scene.config(true), Some((kernel, &devices)));
    for (tcp, b) in [(false, 12), (false, FAR), (true, 12), (true, FAR)] {
        // One begins in the pipeline, and is handed over; the next one begins in the kernel.
        for (sport, created) in [(3000, false), (3001, true)] {
            host.kernel.as_ref().unwrap().let_flows_begin(created);
            let flow = Carried { tcp, talk: Talk { a: 11, b, sport, dport: 443 } };
            assert_eq!(flow.begin(&mut host), created);
            run(&host, flow, false);
            run(&host, flow, true);
        }
    }
}

#[test]
fn two_processors_carry_both_directions_of_a_flow_at_once() {
    if nix::unistd::geteuid().is_root() {
        thread::spawn(both_at_once).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}
