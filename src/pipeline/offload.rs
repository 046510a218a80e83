//! Step 8: a flow that has settled is handed to the fast path, and taken back when a packet of it comes up.
//!
//! The pipeline says what it does with the packets of each direction ([`Lane`]), and compares that with what it has
//! just done with one: a flow is handed over only when both agree. Who carries it out is behind [`FlowOffload`].

use std::fmt::Debug;

use eastgate_policy::flow::{Direction, FlowId, FlowTable, Found, Offloaded, Progress};
use eastgate_vtep::{
    ecn::{OuterTos, OuterTtl},
    entropy::key_hash,
    fdb::Location,
    mtu,
    peers::PeerKind,
};
use eastgate_wire::{DropReason, FlowKey, Instant, MacAddr, View, view::proto};

use super::{Arrival, Destination, Pipeline, Shared, forward::family};
use crate::snapshot::{Endpoint, Network, Snapshot};

/// Flows of these UDP ports stay with the pipeline, which checks each packet's role: DHCP and DHCPv6.
const ROLES: [u16; 4] = [67, 68, 546, 547];

/// Whoever carries packets of flows that were decided.
pub trait FlowOffload: Debug + Send + Sync {
    /// Counts up whenever what was true of ports and paths may be so no longer.
    fn generation(&self) -> u32;
    /// Lets the packets of a flow pass; false when it cannot, or when epoch or generation are no longer in force.
    fn install(&self, handover: &Handover, flow: &Offloaded) -> bool;
    /// Stops them from passing, and says where the flow has got to; nothing when it is not known (any more).
    fn withdraw(&self, original: &FlowKey) -> Option<Progress>;
    /// A flow that is there although nobody here has handed it over, and stops its packets from passing.
    fn find(&self, key: &FlowKey) -> Option<Found>;
    /// What flows were told of paths is no longer so: each comes up once more.
    fn forget_paths(&self);
    /// Where the flow has got to.
    fn peek(&self, original: &FlowKey) -> Option<Progress>;
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
        Some(Handover { flow: ripe.flow, key, epoch: network.epoch, generation, lanes })
    }

    /// How packets from one endpoint to another travel; nothing when that is not for the fast path: checks that are
    /// not of the flow, a way from tunnel to tunnel, a peer that wants a checksum in the outer header.
    fn lane(
        &self,
        network: &Network,
        src: &Endpoint,
        dst: &Endpoint,
        key: &FlowKey,
        now: Instant,
    ) -> Option<Lane> {
        if !src.sender.port_security || !dst.sender.port_security || !src.sender.owns(src.mac, key.src) {
            return None;
        }
        let plain = |at: Location| match at {
            Location::Local(_) => false,
            Location::Remote(vtep) => network.peers.kind(vtep) == Some(PeerKind::Plain),
        };
        let (from, to) = (src.location, dst.location);
        let max_packet = match (from, to) {
            (Location::Remote(_), Location::Remote(_)) => return None,
            (_, Location::Local(_)) => u16::MAX,
            (_, Location::Remote(vtep)) if plain(to) && vtep.0.is_ipv6() => return None,
            (_, Location::Remote(vtep)) => {
                mtu::tenant_mtu(self.shared.path_mtu_to(vtep, now), family(vtep), 0)
            }
        };
        let is_local = |at: Location| matches!(at, Location::Local(_));
        let asked_for_us = network.proxy && (is_local(from) || plain(from));
        let speak_for = network.proxy && (is_local(to) || plain(to));
        let ports = network.encapsulation.ports;
        Some(Lane {
            from,
            to,
            in_macs: [if asked_for_us { network.proxy_mac } else { dst.mac }, src.mac],
            out_macs: [dst.mac, if speak_for { network.proxy_mac } else { src.mac }],
            max_packet,
            source_port: ports.port(ports.bucket(key_hash(key, &self.shared.hasher))),
            tos: network.encapsulation.tos,
            ttl: network.encapsulation.ttl,
        })
    }
}

impl Shared {
    /// Lets whoever is faster carry packets of flows from here on.
    pub fn offload_to(&self, faster: std::sync::Arc<dyn FlowOffload>) {
        // Set once, before the workers get anything to do.
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
            network.count_progress(original, progress);
        }
        flows.reclaim(flow, progress.as_ref(), &network.tracking, now);
    }

    /// Goes on with a flow that the fast path has from a daemon before.
    pub(super) fn adopt(
        &self,
        flows: &mut FlowTable,
        network: &Network,
        packet: &FlowKey,
        now: Instant,
    ) -> Result<(), DropReason> {
        let Some(faster) = self.faster.get().filter(|_| !flows.knows(packet)) else { return Ok(()) };
        let Some(found) = faster.find(packet) else { return Ok(()) };
        network.count_progress(&found.key, &found.progress);
        let adopted = flows.adopt(&found, &network.tracking, &network.state.quota, now);
        self.recall(flows);
        adopted
    }

    /// Stops packets of flows that have ended here.
    pub(crate) fn recall(&self, flows: &mut FlowTable) {
        while let Some(key) = flows.pop_recalled() {
            if let Some(progress) = self.faster.get().and_then(|faster| faster.withdraw(&key))
                && let Some(network) = self.snapshot().network(key.vni)
            {
                network.count_progress(&key, &progress);
            }
        }
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

impl Network {
    /// Counts what passed elsewhere for the flow's two ends.
    fn count_progress(&self, original: &FlowKey, progress: &Progress) {
        for (key, count) in [original, &original.reversed()].into_iter().zip(&progress.counts) {
            if let Some(src) = self.by_address(key.src) {
                src.state.sent(count.packets, count.bytes);
            }
            if let Some(dst) = self.by_address(key.dst) {
                dst.state.received(count.packets, count.bytes);
            }
        }
    }
}
