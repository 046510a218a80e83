//! One meaning, two dataplanes: the same frames through the pipeline alone, and through the kernel's programs with
//! a pipeline behind them that hands its flows over. Verdict, bytes, drop reason and the flows that come of it are
//! the same, frame by frame.
//!
//! The programs run for real (BPF_PROG_TEST_RUN), in a network namespace of their own; they send nothing. `EASTGATE_TWIN_FRAMES` and
//! `EASTGATE_TWIN_SEED` make the run longer or another one.

mod answers;
mod associations;
mod attachments;
mod changes;
mod creation;
mod datagrams;
mod decisions;
mod echo;
mod eligibility;
mod gso;
mod hub;
mod limits;
mod pieces;
mod routed;
mod rules;
mod scene;
mod takeover;
mod tiers;
mod traffic;
mod two_workers;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    process::Command,
    sync::Arc,
};

use self::{
    attachments::{access, is_there},
    scene::{SCENES, Scene},
    traffic::{Conversation, Dice, some_ip},
};
use crate::io::{
    clock,
    fastpath::{KernelPath, KernelUnderlay},
};
use eastgate_conntrack::flow::{FlowFilter, FlowState};
use eastgate_dataplane::{
    attachments::Attachments,
    pipeline::{
        Outcome, Pipeline, Shared,
        batch::{Batch, Egress, Origin},
        counters::{DropCount, DropKey, drops},
        shared::lock,
    },
    snapshot::{Snapshot, state::StateRegistry},
};
use eastgate_fastpath::{Limits, NETWORK_HUB, NO_RULE, PUNTS, PolicyDrop, PolicyDropKey, Trial};
use eastgate_policy::rule::{self, Decision, Direction, RuleId};
use eastgate_testkit::{frames::*, parse};
use eastgate_vtep::ecn::OuterTtl;
use eastgate_wire::{Attachment, AttachmentId, DropReason, Frame, Offload, TableSizes, VtepAddr};

const HEAD_ROOM: usize = 64;
const PASS_ON: i32 = -1;
const SHOT: i32 = 2;
const REDIRECT: i32 = 7;
const VNI: u32 = 5001;
/// Endpoints: two here, others behind other VTEPs.
const HERE: [u8; 2] = [11, 12];
const THERE: [u8; 2] = [21, 31];

/// What became of a frame: who gets which bytes, and what size of segment they are still to be cut to.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Sent {
    Attachment(AttachmentId, u16, Vec<u8>),
    /// VTEP, outer TOS and TTL, inner frame behind its VXLAN header
    Tunnel(IpAddr, u8, u8, u16, Vec<u8>),
}

type Verdict = (Outcome, Vec<Sent>);

/// Where a frame comes in.
#[derive(Clone, Copy)]
enum Entry {
    /// At the port of this endpoint
    KernelEndpoint(u8),
    /// From this VTEP, with the TOS of the outer header
    Vtep(u8, u8),
}

/// A host, with or without programs in front of its pipeline.
struct Host {
    scene: Scene,
    shared: Shared,
    registry: Attachments,
    kernel: Option<Arc<KernelPath>>,
    ports: Vec<u32>,
    /// Frames that the programs carried by themselves, and those of them that are GSO packets
    carried: u64,
    carried_unsegmented: u64,
    /// GSO packets that the program of the underlay sent to the tunnel's device
    decapsulated: u64,
    /// Frames that the programs have refused, and what was refused when the last one of them was
    policy_drops: u64,
    there: BTreeMap<PolicyDropKey, PolicyDrop>,
    /// Frames that the programs have left to the pipeline
    punted: u64,
}

impl Host {
    fn new(scene: Scene, text: &str, kernel: Option<(Arc<KernelPath>, &[u32])>) -> Self {
        let config = parse(text);
        let states = Arc::new(StateRegistry::new(config.limits));
        let mut registry = Attachments::default();
        let snapshot =
            Snapshot::compile_under(&config, "alpha", None, &mut registry, &states, scene.policy).unwrap();
        let shared = Shared::new(snapshot, states, 1);
        let mut host = Self {
            scene,
            shared,
            registry,
            kernel: None,
            ports: Vec::new(),
            carried: 0,
            carried_unsegmented: 0,
            decapsulated: 0,
            policy_drops: 0,
            there: BTreeMap::new(),
            punted: 0,
        };
        if let Some((kernel, devices)) = kernel {
            let snapshot = host.shared.snapshot_arc();
            for (endpoint, device) in HERE.into_iter().zip(devices) {
                let (id, attachment) = (host.port(endpoint), scene.attachment(endpoint));
                let ifindex = if scene.trunk { devices[0] } else { *device };
                let vni = snapshot.at_attachment(id).unwrap().0.vni;
                let there = routed::attachment(scene, devices, attachment, ifindex);
                kernel.set_attachment(id, there, vni).unwrap();
            }
            let underlay = KernelUnderlay {
                ifindex: devices[2],
                mtu: 1500,
                vtep: snapshot.vtep,
                port: 4789,
                dont_fragment: true,
            };
            kernel.set_underlay(Some(underlay)).unwrap();
            kernel.go_live(&snapshot).unwrap();
            kernel.program_policies();
            host.shared.offload_to(kernel.clone(), clock::now());
            host.ports = devices.to_vec();
            host.kernel = Some(kernel);
        }
        host
    }

    fn install(&mut self, text: &str) {
        self.put_in_force(text);
        if let Some(kernel) = &self.kernel {
            kernel.program_policies();
        }
    }

    fn put_in_force(&mut self, text: &str) {
        let before = self.shared.snapshot_arc();
        let (config, registry, states) = (parse(text), &mut self.registry, &self.shared.states);
        let next =
            Snapshot::compile_under(&config, "alpha", Some(&before), registry, states, self.scene.policy)
                .unwrap();
        self.shared.install(next, clock::now());
        if let Some(kernel) = &self.kernel {
            kernel.take_snapshot(&self.shared.snapshot_arc()).unwrap();
        }
    }

    fn port(&self, endpoint: u8) -> AttachmentId {
        let (mut ids, wanted) = ((0..).map(AttachmentId), self.scene.attachment(endpoint));
        ids.find(|id| *self.registry.get(*id).unwrap() == wanted).unwrap()
    }

    fn tenant(&mut self, endpoint: u8, frame: &[u8], offload: Offload) -> Verdict {
        let Some(kernel) = self.kernel.clone() else {
            return self.pipeline(Entry::KernelEndpoint(endpoint), frame, offload);
        };
        let device = self.ports[usize::from(endpoint != HERE[0] && !self.scene.trunk)];
        let sent = self.scene.on_the_device(endpoint, frame);
        let segment = segment(&offload);
        let (before, trial) = loop {
            let before = kernel.stats().unwrap();
            let trial = kernel.programs().try_program("tenant", &sent, device, segment).unwrap();
            // The test is faster than a tenant may be: then again.
            if trial.verdict != SHOT || kernel.stats().unwrap().punt_limited == before.punt_limited {
                break (before, trial);
            }
        };
        if kernel.stats().unwrap().denied > before.denied {
            assert_eq!(trial.verdict, SHOT);
            return self.denied();
        }
        assert_eq!(trial.verdict, REDIRECT, "a frame that is neither carried nor punted");
        assert_eq!(trial.segment, segment, "another size of segment");
        if eastgate_fastpath::attachment_of(&trial.frame, kernel.session()) == Some(self.port(endpoint).0) {
            let up = &trial.frame[eastgate_fastpath::PUNT_HEADER..];
            // Where the kernel takes a tag off, it notes the one behind it beside the frame, which a trial does not show.
            let noted = self.scene.trunk && matches!(frame.get(12..14), Some([0x81, 0] | [0x88, 0xa8]));
            let whole = if noted { [&frame[..12], &frame[16..]].concat() } else { frame.to_vec() };
            assert_eq!(up, whole, "changed on the way up");
            self.punted += 1;
            return self.pipeline(Entry::KernelEndpoint(endpoint), frame, offload);
        }
        if kernel.stats().unwrap().answered > before.answered {
            return (Outcome::Consumed, vec![Sent::Attachment(self.port(endpoint), 0, trial.frame)]);
        }
        self.carried += 1;
        self.carried_unsegmented += u64::from(segment > 0);
        (Outcome::Forward, vec![self.carried_frame(trial, frame.len())])
    }

    fn underlay(&mut self, from: u8, tos: u8, frame: &[u8], offload: Offload) -> Verdict {
        if segment(&offload) > 0 {
            return self.underlay_uncut(from, tos, frame, offload);
        }
        let payload = vxlan(VNI, frame);
        if let Some(kernel) = &self.kernel {
            // Some VTEPs write checksums.
            let outer = match payload.len() % 3 {
                0 => self.scene.summed(from, tos, &payload),
                _ => self.scene.datagram(from, tos, &payload),
            };
            let before = kernel.stats().unwrap();
            let trial = kernel.programs().try_program("underlay", &outer, self.ports[2], 0).unwrap();
            if kernel.stats().unwrap().denied > before.denied {
                assert_eq!(trial.verdict, SHOT);
                return self.denied();
            }
            if trial.verdict == REDIRECT {
                self.carried += 1;
                return (Outcome::Forward, vec![self.carried_frame(trial, frame.len())]);
            }
            assert_eq!((trial.verdict, &trial.frame), (PASS_ON, &outer), "changed on the way to the socket");
            self.punted += 1;
        }
        self.pipeline(Entry::Vtep(from, tos), &payload, offload)
    }

    /// The rules have refused a frame in the kernel: by what has been counted there since the last one was.
    fn denied(&mut self) -> Verdict {
        let now: BTreeMap<_, _> =
            self.kernel.as_ref().unwrap().programs().policy_drops().unwrap().into_iter().collect();
        let more = now
            .iter()
            .filter(|(key, it)| self.there.get(key).is_none_or(|before| before.packets < it.packets));
        let reasons: Vec<_> = more
            .map(|(key, _)| {
                let rule = (key.rule != NO_RULE).then_some(RuleId(key.rule));
                let direction = [Direction::Ingress, Direction::Egress][key.direction as usize];
                Decision { verdict: rule::Verdict::DENY, rule }.drop_reason(direction).unwrap()
            })
            .collect();
        assert_eq!(reasons.len(), 1, "one frame is one drop: {now:?}");
        self.there = now;
        self.policy_drops += 1;
        (Outcome::Drop(reasons[0]), Vec::new())
    }

    /// What the rules have refused, wherever that was.
    fn refused(&self) -> rules::Refused {
        let there = self.kernel.as_ref().map(|kernel| kernel.traffic().unwrap().drops);
        rules::refused([drops(&self.shared.counters, there.unwrap_or_default())])
    }

    /// What a program left of a frame that it carries: encapsulated, or for the one port whose endpoint it is addressed to.
    fn carried_frame(&self, Trial { frame: left, segment, .. }: Trial, len: usize) -> Sent {
        if left.len() == len {
            return Sent::Attachment(routed::receiver(self, &left), segment, left);
        }
        assert_eq!(left.len(), len + self.scene.around());
        let (to, tos, ttl, payload) = self.scene.read(&left);
        Sent::Tunnel(to, tos, ttl, segment, payload)
    }

    fn pipeline(&mut self, from: Entry, bytes: &[u8], offload: Offload) -> Verdict {
        let now = clock::now();
        let snapshot = self.shared.snapshot_arc();
        let mut pipeline = Pipeline::new(&self.shared, &snapshot, 0);
        let mut buffer = [&[0; HEAD_ROOM][..], bytes].concat();
        let end = buffer.len();
        let mut frame = Frame::new(&mut buffer, HEAD_ROOM, end, offload);
        let mut out = Batch::default();
        let outcome = match from {
            Entry::KernelEndpoint(endpoint) => {
                pipeline.handle_tenant(self.port(endpoint), &mut frame, now, &mut out)
            }
            Entry::Vtep(vtep, tos) => {
                let from = VtepAddr(self.scene.address(vtep));
                pipeline.handle_underlay(from, tos, &mut frame, now, &mut out)
            }
        };
        // Where it is not said with a datagram, it is the socket's.
        let usual = match snapshot.network(VNI.try_into().unwrap()).map(|network| network.encapsulation.ttl) {
            Some(OuterTtl::Fixed(ttl)) => ttl,
            _ => 64,
        };
        let sent = out.emits().iter().map(|emit| {
            let from = if emit.origin == Origin::Made { out.made() } else { &buffer };
            let bytes = from[emit.range.start as usize..emit.range.end as usize].to_vec();
            let segment = segment(&emit.offload);
            match emit.to {
                Egress::Attachment(port) => Sent::Attachment(port, segment, bytes),
                Egress::Tunnel(tunnel) => {
                    Sent::Tunnel(tunnel.to, tunnel.tos, tunnel.ttl.unwrap_or(usual), segment, bytes)
                }
            }
        });
        let verdict = (outcome, sent.collect());
        for after in out.after() {
            self.shared.settle(after, clock::now());
        }
        verdict
    }

    /// Every flow with what it has come to, offloaded or not.
    fn flows(&self) -> Vec<String> {
        let (now, mut all) = (clock::now(), Vec::new());
        for table in self.shared.all_flows() {
            let mut from = Some(0);
            while let Some(place) = from {
                from = lock(table).page(place, 1000, &FlowFilter::default(), now, &mut all);
            }
        }
        let mut created = Vec::new();
        self.shared.for_each_created(now, |flow| {
            created.push(flow.key);
            all.push(*flow);
        });
        all.sort_by_key(|flow| flow.key);
        let describe = |flow: &eastgate_conntrack::flow::FlowInfo| {
            let (mut original, mut reply) = (flow.original, flow.reply);
            if flow.offloaded && !created.contains(&flow.key) {
                let more = self.shared.peek(&flow.key).expect("an offloaded flow is in the kernel's table");
                for (count, more) in [&mut original, &mut reply].into_iter().zip(more.counts) {
                    count.packets += more.packets;
                    count.bytes += more.bytes;
                }
            }
            let rules = [flow.egress_rule, flow.ingress_rule].map(u32::cast_signed);
            // Two seconds are up in one of two hosts a moment before they are in the other.
            let state = if flow.state == FlowState::Stream { FlowState::Replied } else { flow.state };
            format!(
                "{:?} {:?} answered {} {original:?} {reply:?} by rules {rules:?}",
                flow.key, state, flow.replied
            )
        };
        all.iter().map(describe).collect()
    }
}

fn segment(offload: &Offload) -> u16 {
    offload.gso.map_or(0, |gso| gso.segment)
}

/// Devices for the programs to think that frames came in there.
fn devices(scene: Scene) -> Vec<u32> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    let index = |name: &str| nix::net::if_::if_nametoindex(name).unwrap();
    for (name, peer) in [("p11", "q11"), ("p12", "q12"), ("u0", "u1")] {
        let made =
            Command::new("ip").args(["link", "add", name, "type", "veth", "peer", "name", peer]).status();
        assert!(made.unwrap().success());
    }
    // A namespace without an address takes every address for its own.
    let address = format!(
        "addr add {}/{} dev u0{}",
        scene.address(1),
        scene.prefix(),
        if scene.v6 { " nodad" } else { "" }
    );
    let mac = scene::UNDERLAY_MAC.map(|byte| format!("{byte:02x}")).join(":");
    let mac = format!("link set u0 address {mac}");
    for words in ["link set lo up", &mac, &address, "link set u0 up", "link set u1 up"] {
        assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success());
    }
    // Programs ask for routes as if datagrams came in where frames are punted.
    for family in ["ipv4", "ipv6"] {
        std::fs::write(format!("/proc/sys/net/{family}/conf/p11/forwarding"), "1").unwrap();
    }
    [index("p11"), index("p12"), index("u0")].to_vec()
}

fn tables(flows: u32) -> Limits {
    let (few, many) = (64, 16_384);
    let tables = TableSizes {
        networks: few,
        vteps: few,
        ports: few,
        endpoints: many,
        policy_mib: few,
        policy_cache: many,
        neighbor_cache: many,
        closed_flows: many,
        policy_drops: many,
        datagrams: many,
    };
    Limits { flows, tables }
}

fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn play(scene: Scene, frames: u64, seed: u64) {
    let devices = devices(scene);
    let kernel = Arc::new(KernelPath::load(tables(200_000), devices[0], gso::TUNNEL_PORT).unwrap());
    let mut alone = Host::new(scene, &scene.config(true), None);
    let mut twin = Host::new(scene, &scene.config(true), Some((kernel.clone(), &devices)));
    for host in [&alone, &twin] {
        host.set_answers(answers::MANY);
    }
    let mut dice = Dice(seed);
    let mut talks: Vec<Conversation> = (0..24).map(|_| Conversation::new(scene, &mut dice)).collect();
    let proxy = alone.shared.snapshot().network(VNI.try_into().unwrap()).unwrap().proxy_mac;
    let mut echoes = echo::Echoes::new(scene, &mut dice);
    let (mut pieces, mut in_pieces, mut pieces_carried) = (pieces::Pieces::default(), 0u64, 0u64);
    let (mut open_web, mut opened, mut created, mut echoed) = (true, 0, 0u64, 0u64);
    for round in 0..frames {
        let (which, echo) = (dice.roll(talks.len()), dice.one_in(7));
        // Fewer of them are carried where groups keep no state: more are tried.
        let uncut = if scene.stateless { 3 } else { 8 };
        let unsegmented = (!echo && dice.one_in(uncut)).then(|| gso::roll(&mut dice, &talks[which]));
        let (len, offload) = unsegmented
            .unwrap_or_else(|| ([0, 1, 18, 100, 900, 1390, 1410, 1500][dice.roll(8)], Offload::default()));
        let payload = vec![round as u8; len];
        let before = talks[which].clone();
        let opened_before = alone.shared.flow_counters().opened;
        let carried_before = twin.carried;
        let request = dice.one_in(16);
        let piece = if dice.one_in(2) { pieces.next(&mut dice) } else { None };
        let is_piece = piece.is_some();
        let (request, echo) = (request && !is_piece, echo || is_piece);
        let (sender, mut frame) = if let Some(piece) = piece {
            piece
        } else if request {
            answers::request(&mut dice, proxy.0)
        } else if echo {
            echoes.next(&mut dice, &payload)
        } else {
            talks[which].next(&mut dice, &payload)
        };
        if !request
            && !is_piece
            && unsegmented.is_none()
            && dice.one_in(8)
            && pieces.cut(&mut dice, sender, &frame)
        {
            if !echo {
                talks[which] = before;
            }
            continue;
        }
        let offload = if request || is_piece {
            Offload::default()
        } else {
            gso::as_tried(scene, &talks[which], sender, offload)
        };
        if !request && scene.asks_the_appliance(sender) && !dice.one_in(20) {
            frame = to(frame, proxy.0);
        }
        routed::disturb(scene, request, &mut dice, &mut frame);
        // Trials take nothing that is shorter than the network header it announces.
        let least = match frame.get(12..14) {
            Some([0x08, 0x00]) => 34,
            Some([0x86, 0xdd]) => 54,
            _ => 14,
        };
        if frame.len() < least {
            continue;
        }
        let behind = scene.vtep_of(sender);
        if behind.is_some() && gso::seems_uncut(&frame) {
            continue;
        }
        let (mut expected, mut found) = if let Some(vtep) = behind {
            let tos = dice.roll(256) as u8;
            // VTEPs lie, too.
            let vtep = if dice.one_in(100) { 2 + dice.roll(2) as u8 } else { vtep };
            (alone.underlay(vtep, tos, &frame, offload), twin.underlay(vtep, tos, &frame, offload))
        } else {
            let sender = if dice.one_in(100) { HERE[dice.roll(2)] } else { sender };
            (alone.tenant(sender, &frame, offload), twin.tenant(sender, &frame, offload))
        };
        // Answers are limited by the clock, which is not the same moment for both.
        for verdict in [&mut expected, &mut found] {
            if matches!(verdict.0, Outcome::Drop(DropReason::TooBig | DropReason::TtlExceeded)) {
                verdict.1.clear();
            }
        }
        if expected != found {
            let _ = differences(&alone, &twin);
        }
        assert_eq!(
            expected, found,
            "{scene:?}: frame {round} of seed {seed}, from endpoint {sender}: {frame:02x?}"
        );
        // What did not arrive was not sent, so that most conversations go on.
        if expected.0 != Outcome::Forward && !echo {
            talks[which] = if dice.one_in(10) { Conversation::new(scene, &mut dice) } else { before };
        }
        echoed += u64::from(echo && !is_piece && twin.carried > carried_before);
        in_pieces += u64::from(is_piece);
        pieces_carried += u64::from(is_piece && twin.carried > carried_before);
        if alone.shared.flow_counters().opened > opened_before {
            opened += 1;
            created += u64::from(twin.carried > carried_before);
        }
        // By the count, so that each way lasts long enough for the rules to refuse something.
        if round % 6000 == 5999 {
            open_web = !open_web;
            alone.install(&scene.config(open_web));
            twin.install(&scene.config(open_web));
        }
        match dice.roll(8000) {
            100..150 => talks[which] = Conversation::new(scene, &mut dice),
            22..40 => twin.shared.sweep(clock::now()),
            21 => eastgate_dataplane::pipeline::offload::FlowOffload::forget_paths(&*kernel),
            1..6 => same_flows(&alone, &twin, &format!("after frame {round} of seed {seed}")),
            _ => {}
        }
    }
    same_flows(&alone, &twin, &format!("at the end of seed {seed}"));
    let (answered, repeated) = (alone.answers(), kernel.stats().unwrap().answered);
    assert_eq!(answered, twin.answers(), "answers to requests for addresses");
    let (carried, offloaded) =
        (twin.carried, twin.shared.all_flows().map(|t| lock(t).offloaded()).sum::<u32>());
    let (unsegmented, decapsulated) = (twin.carried_unsegmented, twin.decapsulated);
    let (refused, policy_drops) =
        (alone.refused().values().map(|(frames, _)| frames).sum::<u64>(), twin.policy_drops);
    println!(
        "{scene:?}: {frames} frames, {carried} of them carried by the programs, {offloaded} flows offloaded; \
         {opened} flows opened, {created} of them in the kernel; \
         gso_packets: {unsegmented} carried from ports, {decapsulated} sent to the tunnel's device; {echoed} echoes carried; \
         {answered} requests answered, {repeated} of them by the programs; \
         {refused} frames refused by rules, {policy_drops} of them by the programs; \
         {in_pieces} fragments, {pieces_carried} of them carried by the programs"
    );
    let causes: Vec<_> = PUNTS.into_iter().zip(kernel.punts().unwrap()).filter(|(_, n)| *n > 0).collect();
    println!("punted: {causes:?}");
    assert_eq!(causes.iter().map(|(_, packets)| packets).sum::<u64>(), twin.punted, "each has a cause");
    assert!(causes.iter().all(|(cause, _)| *cause != "other"), "a cause without a name");
    // At a hub fewer endpoints are near, and what is far from both ends is not tried uncut.
    let rarer = if scene.hub { 3 } else { 1 };
    assert!(
        unsegmented * 100 * rarer > frames && decapsulated * 600 * rarer > frames,
        "{unsegmented} and {decapsulated} GSO packets are few"
    );
    assert!(
        pieces_carried * 5 * rarer > in_pieces && in_pieces * 20 > frames,
        "fragments are few, or are punted"
    );
    assert!(echoed * 50 * rarer > frames, "the programs carried only {echoed} echoes");
    routed::enough_answers(scene, repeated, answered);
    // Of what would begin no flow only the pipeline says that the rules refuse it.
    let less = if scene.stateless { 3 } else { 1 };
    assert!(
        policy_drops * 2 * less > refused && refused * 400 > frames,
        "the programs refused {policy_drops} of {refused}"
    );
    assert!(created * 4 > opened, "only {created} of {opened} flows began in the kernel");
    assert!(carried * 8 > frames, "the programs carried only {carried} of {frames} frames");
}

/// How many flows are not in both, each printed.
fn differences(alone: &Host, twin: &Host) -> usize {
    let (alone, twin): (BTreeSet<_>, BTreeSet<_>) =
        (alone.flows().into_iter().collect(), twin.flows().into_iter().collect());
    alone.difference(&twin).for_each(|flow| println!("pipeline alone: {flow}"));
    twin.difference(&alone).for_each(|flow| println!("with programs:  {flow}"));
    alone.symmetric_difference(&twin).count()
}

fn same_flows(alone: &Host, twin: &Host, when: &str) {
    assert_eq!(differences(alone, twin), 0, "flows {when}");
    assert_eq!(alone.flows().len(), twin.flows().len(), "flows in two places {when}");
    assert_eq!(alone.refused(), twin.refused(), "what the rules have refused {when}");
    rules::same(alone, twin, when);
}

/// A SYN of endpoint 11 to 12.
#[test]
fn the_programs_do_what_the_pipeline_does() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let (frames, seed) = (setting("EASTGATE_TWIN_FRAMES", 375_000), setting("EASTGATE_TWIN_SEED", 1));
    for (number, scene) in SCENES.into_iter().enumerate() {
        // A thread of its own, so that its namespace ends with it.
        std::thread::spawn(move || play(scene, frames / SCENES.len() as u64, seed + number as u64))
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}
