//! Step 8: a flow that has settled is handed to the fast path, and taken back when a packet of it comes up.
//!
//! The pipeline says what it does with the packets of each direction ([`Lane`]), and compares that with what it has
//! just done with one: a flow is handed over only when both agree. Who carries it out is behind [`FlowOffload`].

use std::{collections::HashMap, sync::Arc, time::Duration};

use eastgate_conntrack::{
    flow::{
        Account, Admitted, Carrier, Count, Direction, Ending, FlowId, FlowInfo, FlowTable, FlowUse, Found,
        HOST, Ledger, Offloaded, Population, Progress, Rank, STREAM_IDLE, StateSettings,
    },
    fragment::{Adopted, DatagramKey},
};
use eastgate_policy::rule;
use eastgate_vtep::{
    ecn::{OuterTos, OuterTtl},
    entropy::key_hash,
    fdb::Location,
    mtu,
    peers::PeerKind,
};
use eastgate_wire::{
    Addr, Cursor, DropReason, EndpointId, FlowKey, Instant, Leg, MacAddr, View, Vni, VtepAddr, view::proto,
};

use super::{
    Arrival, Destination, Pipeline, Shared, answers::AnswerOffer, batch::Batch, counters::SettledDrop,
    holders::bindings_of, shared::lock,
};
use crate::snapshot::{Endpoint, Network, Snapshot, state::EndpointState};

/// Flows of these UDP ports stay with the pipeline, which checks each packet's role: DHCP and DHCPv6.
const ROLES: [u16; 4] = [67, 68, 546, 547];

/// Whoever carries packets of flows that were decided. Flows are named as [`eastgate_conntrack::flow::offload_key`] does.
pub trait FlowOffload: Carrier {
    /// Where it counts the flows that begin there.
    fn ledger(&self) -> Arc<dyn Ledger>;
    /// Counts up whenever what was true of ports and paths may be so no longer.
    fn generation(&self) -> u32;
    /// Lets the packets of a flow pass; false when it cannot, or when epoch or generation are no longer in force.
    fn install(&self, handover: &Handover, flow: &Offloaded) -> bool;
    /// Stops them from passing, and says where the flow has got to; nothing when it is not known (any more). Its place
    /// is kept: it does not begin there until [`FlowOffload::end`].
    fn withdraw(&self, original: &FlowKey) -> Option<Progress>;
    /// Keeps the place of a flow that is about to be opened here, so that it does not begin there.
    fn hold(&self, packet: &FlowKey) -> Hold;
    /// A flow that is there although nobody here has handed it over, and stops its packets from passing. Its place is
    /// kept. The permit of one that began there comes with it.
    fn find(&self, packet: &FlowKey) -> Whereabouts;
    /// Gives a flow's place up, and stops its packets if any passed; the flow, when it was there.
    fn end(&self, packet: &FlowKey) -> Option<Found>;
    /// The same for a flow that began there, when its time is over.
    fn end_if_over(&self, packet: &FlowKey) -> Option<Found>;
    /// Flows of this pair and service may begin there.
    fn permit(&self, offer: &Offer);
    /// Gives back the permit of a flow that was found there.
    fn forgo(&self, found: &Found);
    /// Such requests may be answered there, as often as the sender has tokens to lend.
    fn answer(&self, offer: &AnswerOffer, sender: &EndpointState, now: Instant);
    /// Some of the flows whose places are there. False when these were the last.
    fn page(&self, cursor: &mut Cursor, out: &mut Vec<Resident>) -> bool;
    /// A flow that began there, and that another one of the same key has taken the place of.
    fn pop_ended(&self) -> Option<Replaced>;
    /// These of its flows could make room.
    fn weigh(&self, candidates: &[Candidate]);
    /// All have been weighed: ends the cheapest where a limit comes near.
    fn make_headroom(&self);
    /// A flow that began there and has made room.
    fn pop_put_out(&self) -> Option<Found>;
    /// An address of this network has changed hands: what was decided of those that move holds no longer.
    fn rebind(&self, network: &Network);
    /// What flows were told of paths is no longer so: each comes up once more.
    fn forget_paths(&self);
    /// The MTU of the path to each VTEP is this.
    fn set_path_mtus(&self, mtu_to: &dyn Fn(VtepAddr) -> u16);
    /// What was dropped there under policies that are in force no more, and is not counted there any longer.
    fn settle_drops(&self) -> Vec<SettledDrop>;
    /// A datagram in fragments is here from now on, all of it: what has passed of it there, when its first has.
    fn take_datagram(&self, key: &DatagramKey) -> Option<Adopted>;
    /// A datagram that came up is over here.
    fn forget_datagram(&self, key: &DatagramKey);
    /// Where the flow has got to.
    fn peek(&self, original: &FlowKey) -> Option<Progress>;
}

/// Where a flow is that is not known here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whereabouts {
    /// Nowhere
    Unknown,
    /// It was with a daemon before, which kept its place there and is gone.
    Lost,
    /// It was there, and this is what it has come to.
    Found(Found),
}

/// Whether the place of a flow is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hold {
    /// Nobody but us can have the flow.
    Kept,
    /// It has begun there.
    Begun,
    /// There is no room.
    Full,
}

/// A flow whose place is elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Resident {
    /// A packet of it
    pub packet: FlowKey,
    /// The place is kept for a flow that is here.
    pub held: bool,
    /// It is there.
    pub found: Option<Found>,
    /// It is of a daemon before, and has not come up since.
    pub left: bool,
}

/// A flow that began elsewhere, and what its loss costs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// The key of the packet that opened it
    pub key: FlowKey,
    /// Where it is counted: endpoint, network, host
    pub places: [u32; 3],
    /// One that is not to be put out now is of the highest.
    pub rank: Rank,
    /// When a packet of it last passed
    pub last_seen: Instant,
}

/// A flow that began elsewhere and ended there, when its ends began another one on the same ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Replaced {
    /// The key of the packet that opened it
    pub key: FlowKey,
    /// Who admitted it
    pub admitted: Admitted,
    /// What passed, by [`Direction`]
    pub counts: [Count; 2],
}

/// A flow was let in that others of its pair and service are like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    /// The key of the packet that opened it
    pub opened: FlowKey,
    /// Who admitted it
    pub admitted: Admitted,
    /// [`FlowOffload::generation`] before the lanes were laid
    pub generation: u32,
    /// The version of who holds what that it was decided under, where an address of it moves; else 0
    pub bindings: u16,
    /// Both directions, by [`Direction`]
    pub lanes: [Lane; 2],
    /// Its source port took part in that: it says nothing of flows from others.
    pub by_source_port: bool,
    /// Where flows of its opener are counted
    pub account: u32,
}

/// What the packets of one direction of a flow are like, and what is to be done with them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lane {
    /// Where they come from
    pub from: Location,
    /// Where they go
    pub to: Location,
    /// Destination and source MAC as they come in
    pub in_macs: [MacAddr; 2],
    /// Destination and source MAC as they leave
    pub out_macs: [MacAddr; 2],
    /// The largest packet that fits, in bytes from its IP header on
    pub max_packet: u16,
    /// Into the tunnel: the outer source port
    pub source_port: u16,
    /// Into the tunnel: the outer TOS
    pub tos: OuterTos,
    /// Into the tunnel: the outer TTL
    pub ttl: OuterTtl,
}

/// A flow to be handed over once everything of it that is in hand has been sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Handover {
    /// The flow
    pub flow: FlowId,
    /// A key of it, in whichever direction
    pub key: FlowKey,
    /// The epoch of its network
    pub epoch: u32,
    /// [`FlowOffload::generation`] before the lanes were laid
    pub generation: u32,
    /// The version of who holds what that it was decided under, where an address of it moves; else 0
    pub bindings: u16,
    /// Both directions, by [`Direction`]
    pub lanes: [Lane; 2],
}

/// A packet's flow, when it may be handed over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ripe<'s> {
    pub(super) flow: FlowId,
    pub(super) key: FlowKey,
    pub(super) direction: Direction,
    pub(super) src: &'s Endpoint,
    pub(super) dst: &'s Endpoint,
    /// The packet has opened the flow just now: others like it may begin elsewhere.
    pub(super) opened: Option<Admitted>,
}

impl<'s> Pipeline<'s> {
    /// What it takes to hand the flow of the packet in hand over. `came` is the packet as it came, `left` as it left.
    pub(super) fn handover(
        &self,
        arrival: &Arrival<'s>,
        to: &Destination<'s>,
        ripe: &Ripe<'s>,
        came: [MacAddr; 2],
        left: &View,
        now: Instant,
    ) -> Option<Handover> {
        let network = arrival.network;
        let Destination::Station { at, control: false, .. } = *to else { return None };
        let key = ripe.key;
        let has_role =
            key.proto == proto::UDP && [key.sport, key.dport].iter().any(|port| ROLES.contains(port));
        if has_role || left.tags != 0 {
            return None;
        }
        let generation = self.shared.faster.get()?.generation();
        let bindings = bindings_of(network, [key.src, key.dst]);
        let lane = self.lane(network, ripe.src, ripe.dst, &key, now)?;
        let back = self.lane(network, ripe.dst, ripe.src, &key.reversed(), now)?;
        let done = (lane.from, lane.to, lane.in_macs, lane.out_macs);
        if done != (arrival.from, at, came, [left.dst, left.src]) {
            return None;
        }
        let lanes = match ripe.direction {
            Direction::Original => [lane, back],
            Direction::Reply => [back, lane],
        };
        Some(Handover { flow: ripe.flow, key, epoch: network.epoch, generation, bindings, lanes })
    }

    /// Step 8: the flow of the packet in hand goes elsewhere, or flows like it may begin there.
    #[allow(
        clippy::too_many_arguments,
        reason = "each is a different thing, and a struct would only rename them"
    )]
    pub(super) fn hand_on(
        &self,
        arrival: &Arrival<'s>,
        to: &Destination<'s>,
        ripe: Option<&Ripe<'s>>,
        came: [MacAddr; 2],
        left: &View,
        now: Instant,
        out: &mut Batch,
    ) {
        let Some(ripe) = ripe else { return };
        let handover = self.handover(arrival, to, ripe, came, left, now);
        if ripe.opened.is_none() {
            out.hand_over(handover);
        } else {
            out.offer(handover.and_then(|like| self.offer(arrival.network, ripe, like)));
        }
    }

    /// What it takes to let flows like the one that was opened begin elsewhere.
    pub(super) fn offer(&self, network: &Network, ripe: &Ripe<'s>, like: Handover) -> Option<Offer> {
        // The programs look for a permit before they know of a leg; a flow of one is opened here, and handed over.
        let admitted = ripe.opened.filter(|_| ripe.key.leg == Leg::DIRECT)?;
        let asks = |endpoint: &Endpoint, direction| {
            endpoint.policed_here && network.policy.asks_source_port(endpoint.id, direction)
        };
        let by_source_port =
            asks(ripe.src, rule::Direction::Egress) || asks(ripe.dst, rule::Direction::Ingress);
        let Handover { generation, bindings, lanes, .. } = like;
        let account = ripe.src.state.flows.place();
        Some(Offer { opened: ripe.key, admitted, generation, bindings, lanes, by_source_port, account })
    }

    /// How packets from one endpoint to another travel; nothing when that is not for the fast path: checks that are
    /// not of the flow.
    fn lane(
        &self,
        network: &Network,
        src: &Endpoint,
        dst: &Endpoint,
        key: &FlowKey,
        now: Instant,
    ) -> Option<Lane> {
        let owns = network.ownership.may_send(src.holdings(), true, src.mac, key.src);
        if !src.sender.port_security || !dst.sender.port_security || !owns {
            return None;
        }
        let plain = |at: Location| match at {
            Location::Local(_) => false,
            Location::Remote(vtep) => network.peers.kind(vtep) == Some(PeerKind::Plain),
        };
        let (from, to) = (src.location, dst.location);
        let max_packet = match (from, to) {
            (_, Location::Local(_)) => u16::MAX,
            (_, Location::Remote(vtep)) => {
                mtu::tenant_mtu(self.shared.path_mtu_to(vtep, now), vtep.family(), 0)
            }
        };
        let is_local = |at: Location| matches!(at, Location::Local(_));
        let asked_for_us = network.proxy && (is_local(from) || plain(from));
        let speak_for = network.proxy && (is_local(to) || plain(to));
        // Who asks the appliance is sent on by the address alone.
        let reached = network.at_address(key.dst).map(|(found, _)| found).or_else(|| network.behind(key.dst));
        if asked_for_us && reached.is_none_or(|found| found.id != dst.id) {
            return None;
        }
        // An address that moves has a MAC of its own at whoever holds it.
        let mac_of = |endpoint: &Endpoint, address| match network.at_address(address) {
            Some((holder, mac)) if holder.id == endpoint.id => mac,
            _ => endpoint.mac,
        };
        let (src_mac, dst_mac) = (mac_of(src, key.src), mac_of(dst, key.dst));
        let ports = network.encapsulation.ports;
        Some(Lane {
            from,
            to,
            in_macs: [if asked_for_us { network.proxy_mac } else { dst_mac }, src_mac],
            out_macs: [dst_mac, if speak_for { network.proxy_mac } else { src_mac }],
            max_packet,
            source_port: ports.port(ports.bucket(key_hash(key, &self.shared.hasher))),
            tos: network.encapsulation.tos,
            ttl: network.encapsulation.ttl,
        })
    }
}

impl Shared {
    /// Lets whoever is faster carry packets of flows from `now` on.
    pub fn offload_to(&self, faster: Arc<dyn FlowOffload>, now: Instant) {
        self.all_flows().for_each(|table| lock(table).keep_places());
        let carrier: Arc<dyn Carrier> = faster.clone();
        self.book.quota.share(faster.ledger(), &carrier);
        // Set once, before the workers get anything to do.
        let _ = self.offloads_since.set(now);
        let _ = self.faster.set(faster);
    }

    /// Is there anyone faster?
    #[must_use]
    pub fn offloads(&self) -> bool {
        self.faster.get().is_some()
    }

    /// Hands a flow over. The flow's shard is locked meanwhile, so that no packet of it changes its state.
    pub fn hand_over(&self, handover: &Handover, now: Instant) {
        let Some(faster) = self.faster.get() else { return };
        let mut flows = self.flows(&handover.key);
        let Some(offloaded) = flows.offload(handover.flow) else { return };
        if !faster.install(handover, &offloaded) {
            flows.reclaim(handover.flow, None, &Default::default(), now);
        }
    }

    /// Takes a flow back, so that its state is here.
    pub(super) fn reclaim(
        &self,
        flows: &mut FlowTable,
        network: &Network,
        flow: FlowId,
        original: &FlowKey,
        now: Instant,
    ) {
        let progress = self.faster.get().and_then(|faster| faster.withdraw(original));
        if let Some(progress) = &progress {
            let hints = [Direction::Original, Direction::Reply].map(|direction| flows.hint(flow, direction));
            network.count_progress(original, hints, progress);
        }
        flows.reclaim(flow, progress.as_ref(), &network.tracking, now);
    }

    /// Lets flows like one that was opened begin elsewhere.
    pub fn offer(&self, offer: &Offer) {
        if let Some(faster) = self.faster.get() {
            faster.permit(offer);
        }
    }

    /// Keeps the place of a flow that is about to be opened. False when it has begun elsewhere meanwhile.
    pub(super) fn hold(&self, packet: Option<FlowKey>) -> Result<bool, DropReason> {
        let (Some(faster), Some(packet)) = (self.faster.get(), packet) else { return Ok(true) };
        match faster.hold(&packet) {
            Hold::Kept => Ok(true),
            Hold::Begun => Ok(false),
            // The flow has its permit, and the programs have no room for one of their own either.
            Hold::Full => Ok(true),
        }
    }

    /// Gives the place up of a flow that could not be opened.
    pub(super) fn let_go(&self, flows: &FlowTable, packet: Option<FlowKey>) {
        if let (Some(faster), Some(packet)) = (self.faster.get(), packet)
            && !flows.knows(&packet)
        {
            faster.end(&packet);
        }
    }

    /// Goes on with a flow that the fast path has: it began there, or is from a daemon before. True when that daemon had
    /// it itself, so that nobody knows its state any more.
    pub(super) fn adopt(
        &self,
        flows: &mut FlowTable,
        network: &Network,
        packet: Option<FlowKey>,
        now: Instant,
    ) -> Result<bool, DropReason> {
        let (Some(faster), Some(packet)) = (self.faster.get(), packet.filter(|packet| !flows.knows(packet)))
        else {
            return Ok(false);
        };
        let mut found = match faster.find(&packet) {
            Whereabouts::Unknown => return Ok(false),
            Whereabouts::Lost => return Ok(true),
            Whereabouts::Found(found) => found,
        };
        network.count_found(&found);
        let account = found.born.and_then(|born| self.book.quota.account(born.account));
        let account = account.unwrap_or_else(|| {
            // Of an endpoint that is here no more: it is decided anew, as a stranger's.
            faster.forgo(&found);
            found.born = None;
            self.account_at(network, found.key.src)
        });
        let adopted = flows.adopt(&found, &network.tracking, &account, now);
        self.recall(flows);
        if !flows.knows(&packet) {
            faster.end(&packet);
        }
        adopted.map(|()| false)
    }

    /// Stops packets of flows that have ended here, and gives their places up, unless the next flow of the same key is
    /// here already.
    pub(crate) fn recall(&self, flows: &mut FlowTable) {
        let Some(faster) = self.faster.get() else { return };
        while let Some(key) = flows.pop_recalled() {
            let found = if flows.knows(&key) {
                faster.withdraw(&key).map(|progress| (NO_HINTS, progress))
            } else {
                faster.end(&key).map(|found| (found.hints, found.progress))
            };
            if let Some((hints, progress)) = found
                && let Some(network) = self.snapshot().network(key.vni)
            {
                network.count_progress(&key, hints, &progress);
            }
        }
    }

    /// Ends flows that began elsewhere and whose time is over, counts those that have ended, and gives up places that
    /// are kept for nobody: a daemon before has left them. Called now and then, and looks at some of them each time.
    pub fn sweep(&self, now: Instant) {
        let Some(faster) = self.faster.get() else { return };
        let since = self.offloads_since.get().copied().unwrap_or(now);
        let keeps_lost = now.since(since) < LOST_FOR;
        let mut cursor = lock(&self.swept);
        let (mut residents, mut candidates) = (Vec::new(), Vec::new());
        for _ in 0..PAGES_PER_SWEEP {
            residents.clear();
            let more = faster.page(&mut cursor, &mut residents);
            let snapshot = self.snapshot();
            candidates.clear();
            for resident in &residents {
                // The deadline of one that was handed over is in its table.
                let found = resident.found.filter(|found| resident.left || found.born.is_some());
                let is_over = found.is_some_and(|found| is_over(&snapshot, &found, now));
                let held = resident.held && !keeps_lost;
                if !(is_over || held) {
                    let born = found.filter(|_| !resident.left);
                    candidates.extend(born.and_then(|found| {
                        let network = snapshot.network(found.key.vni)?;
                        candidate(&found, network.state.quota.place(), now)
                    }));
                    continue;
                }
                let mut flows = self.flows(&resident.packet);
                if flows.knows(&resident.packet) {
                    continue;
                }
                if held || resident.left {
                    faster.end(&resident.packet);
                } else if let Some(found) = faster.end_if_over(&resident.packet) {
                    self.bury(&mut flows, &snapshot, &found, None);
                }
            }
            faster.weigh(&candidates);
            if !more {
                faster.make_headroom();
                break;
            }
        }
        while let Some(found) = faster.pop_put_out() {
            self.bury(&mut self.flows(&found.key), &self.snapshot(), &found, Some(Ending::Evicted));
        }
        while let Some(replaced) = faster.pop_ended() {
            if let Some(network) = self.snapshot().network(replaced.key.vni) {
                network.count_replaced(&replaced);
            }
        }
        faster.set_path_mtus(&|vtep| self.path_mtu_to(vtep, now));
        if let Some(counters) = self.counters.first() {
            for SettledDrop { key, count, seen } in faster.settle_drops() {
                counters.add_seen(key, &count, &seen);
            }
        }
    }

    pub(super) fn bury(
        &self,
        flows: &mut FlowTable,
        snapshot: &Snapshot,
        found: &Found,
        ending: Option<Ending>,
    ) {
        flows.bury(found, ending);
        if let Some(network) = snapshot.network(found.key.vni) {
            network.count_found(found);
        }
    }

    /// Flows that began elsewhere, and are there.
    pub fn for_each_born(&self, now: Instant, mut each: impl FnMut(&FlowInfo)) {
        let snapshot = self.snapshot_arc();
        self.for_each_carried(|found| {
            let info = found.info(&tracking(&snapshot, found), now);
            if found.born.is_some() && info.deadline > now {
                each(&info);
            }
        });
    }

    /// All flows that are elsewhere, and how far they have got there.
    fn for_each_carried(&self, mut each: impl FnMut(&Found)) {
        let Some(faster) = self.faster.get() else { return };
        let (mut cursor, mut residents, mut more) = (Cursor::default(), Vec::new(), true);
        while more {
            residents.clear();
            more = faster.page(&mut cursor, &mut residents);
            residents
                .iter()
                .filter(|resident| !resident.left)
                .filter_map(|it| it.found.as_ref())
                .for_each(&mut each);
        }
    }

    /// What passed elsewhere for endpoints of this host and is not counted yet: frames that they sent, and that were sent
    /// to them.
    #[must_use]
    pub fn uncounted(&self, snapshot: &Snapshot) -> HashMap<(Vni, EndpointId), [u64; 2]> {
        let mut frames: HashMap<_, [u64; 2]> = HashMap::new();
        self.for_each_carried(|found| {
            let Some(network) = snapshot.network(found.key.vni) else { return };
            network.for_each_end(&found.key, found.hints, &found.progress, |end, which, count| {
                frames.entry((network.vni, end.id)).or_default()[which.index()] += count.packets;
            });
        });
        frames
    }

    /// How many flows there are, here and elsewhere.
    #[must_use]
    pub fn flows_in_use(&self) -> FlowUse {
        self.book.quota.in_use()
    }

    /// Who pays for flows that come from an address.
    pub(super) fn account_at(&self, network: &Network, source: Addr) -> Arc<Account> {
        network.by_address(source).map_or(&network.state.strangers, |end| &end.state.flows).clone()
    }

    /// Has flows of other shards make room for one more, the cheapest first. Those of shards that somebody is at work in
    /// are passed over: two that wait for each other would wait for ever. False when nothing went.
    pub(super) fn make_room_elsewhere(&self, account: &Account, of: Population, now: Instant) -> bool {
        let Some(full) = account.full(of) else { return true };
        of.making_room().iter().any(|rank| {
            self.all_flows().any(|shard| {
                let Ok(mut flows) = shard.try_lock() else { return false };
                let went = flows.put_out(account, full, *rank, now);
                self.recall(&mut flows);
                went
            })
        })
    }

    /// Asks about flows whose time seems to be over: those that went on elsewhere go on.
    pub(super) fn ask_about_overdue(&self, flows: &mut FlowTable, snapshot: &Snapshot, now: Instant) {
        while let Some((flow, original)) = flows.pop_overdue() {
            let Some(network) = snapshot.network(original.vni) else {
                let _ = self.faster.get().and_then(|faster| faster.withdraw(&original));
                flows.reclaim(flow, None, &Default::default(), now);
                continue;
            };
            let seen =
                self.faster.get().and_then(|faster| faster.peek(&original)).and_then(|seen| seen.last_seen);
            flows.refresh(flow, seen.unwrap_or(Instant::ZERO), &network.tracking);
            if flows.info(flow).is_none_or(|info| info.deadline <= now) {
                self.reclaim(flows, network, flow, &original, now);
            }
        }
    }

    /// What is known elsewhere about a flow that is offloaded.
    #[must_use]
    pub fn peek(&self, original: &FlowKey) -> Option<Progress> {
        self.faster.get()?.peek(original)
    }
}

/// Of a flow of which nobody knows whom it was decided for.
const NO_HINTS: [u64; 2] = [0; 2];

/// How long a connection that a daemon before had may be silent and still be picked up.
const LOST_FOR: Duration = Duration::from_secs(120);

/// Pages of the table that one sweep reads.
const PAGES_PER_SWEEP: usize = 128;

/// What an endpoint did with packets.
#[derive(Clone, Copy)]
enum Passed {
    Sent,
    Received,
}

impl Passed {
    const fn index(self) -> usize {
        self as usize
    }
}

/// What the loss of a flow would cost that began elsewhere; `network` is where its network's are counted.
pub fn candidate(found: &Found, network: u32, now: Instant) -> Option<Candidate> {
    let account = found.born?.account;
    let last_seen = found.progress.last_seen.unwrap_or(now);
    let rank = match Rank::of(found.state(), found.answered) {
        Rank::Stream if last_seen + STREAM_IDLE > now => Rank::Connection,
        rank => rank,
    };
    Some(Candidate { key: found.key, places: [account, network, HOST], rank, last_seen })
}

fn tracking(snapshot: &Snapshot, found: &Found) -> StateSettings {
    snapshot.network(found.key.vni).map_or_else(StateSettings::default, |network| network.tracking)
}

fn is_over(snapshot: &Snapshot, found: &Found, now: Instant) -> bool {
    found.deadline(&tracking(snapshot, found), now) <= now
}

impl Network {
    /// Counts a flow that began elsewhere, as far as it has got.
    fn count_found(&self, found: &Found) {
        self.count_progress(&found.key, found.hints, &found.progress);
        if let Some(born) = &found.born {
            self.count_repeated(&born.admitted);
        }
    }

    fn count_replaced(&self, replaced: &Replaced) {
        let Replaced { key, admitted, counts } = *replaced;
        let progress = Progress { sides: Default::default(), counts, last_seen: None };
        self.count_progress(&key, NO_HINTS, &progress);
        self.count_repeated(&admitted);
    }

    /// Under another epoch the numbers of rules meant others.
    fn count_repeated(&self, admitted: &Admitted) {
        if admitted.epoch == self.epoch {
            self.count_hits(admitted);
        }
    }

    /// Counts what passed elsewhere for the flow's two ends, as far as they are here.
    fn count_progress(&self, original: &FlowKey, hints: [u64; 2], progress: &Progress) {
        self.for_each_end(original, hints, progress, |end, which, count| match which {
            Passed::Sent => end.state.sent(count.packets, count.bytes),
            Passed::Received => end.state.received(count.packets, count.bytes),
        });
    }

    fn for_each_end(
        &self,
        original: &FlowKey,
        hints: [u64; 2],
        progress: &Progress,
        mut each: impl FnMut(&Endpoint, Passed, &Count),
    ) {
        let [receiver, opener] = hints;
        for (hint, address, passed) in [
            (opener, original.src, [Passed::Sent, Passed::Received]),
            (receiver, original.dst, [Passed::Received, Passed::Sent]),
        ] {
            let known = || self.at_address(address).map(|(end, _)| end);
            let end = if hint == 0 { known() } else { self.received_by(hint) };
            if let Some(end) = end.filter(|end| end.port().is_some()) {
                passed.into_iter().zip(&progress.counts).for_each(|(which, count)| each(end, which, count));
            }
        }
    }
}
