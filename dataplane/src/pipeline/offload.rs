//! Step 9: a flow that has settled is handed to the fast path, and taken back when a packet of it is punted.
//!
//! The pipeline says what it does with the packets of each direction ([`Template`]), and compares that with what it has
//! just done with one: a flow is handed over only when both agree. Who carries it out is behind [`FlowOffload`].

use std::sync::Arc;

use eastgate_conntrack::{
    flow::{
        Admitted, Carrier, Count, Direction, FlowId, Found, HOST, Ledger, Offloaded, Progress, Rank,
        STREAM_IDLE,
    },
    fragment::{DatagramKey, Imported},
};
use eastgate_policy::rule;
use eastgate_vtep::{
    ecn::{OuterTos, OuterTtl},
    entropy::key_hash,
    fdb::Location,
    mtu,
};
use eastgate_wire::{Cursor, EndpointId, FlowKey, Instant, Leg, MacAddr, View, Vni, VtepAddr};

use super::{
    Arrival, Destination, Pipeline,
    answer::{AnswerOffer, Inquiry},
    batch::{AfterSend, Batch},
    counters::SettledDrop,
    holders::bindings_of,
};
use crate::{
    eligibility::Eligibility,
    snapshot::{Endpoint, Network, state::EndpointState},
};

/// Whoever carries packets of flows that were decided. Flows are named as [`eastgate_conntrack::flow::offload_key`] does.
pub trait FlowOffload: Carrier {
    /// Where it counts the flows that begin there.
    fn ledger(&self) -> Arc<dyn Ledger>;
    /// Counts up whenever what was true of ports and paths may be so no longer.
    fn generation(&self) -> u32;
    /// Lets the packets of a flow pass; false when it cannot, or when what it was decided by is no longer in force.
    fn install(&self, handover: &Handover, flow: &Offloaded) -> bool;
    /// Do they pass still? What it was decided by may be no longer in force.
    fn carries(&self, original: &FlowKey) -> bool;
    /// Stops them from passing, and says where the flow has got to; nothing when it is not known (any more). Its place
    /// is kept: it does not begin there until [`FlowOffload::end`].
    fn unoffload(&self, original: &FlowKey) -> Option<Progress>;
    /// Keeps the place of a flow that is about to be opened here, so that it does not begin there.
    fn reserve(&self, packet: &FlowKey) -> Reservation;
    /// A flow that is there although nobody here has handed it over, and stops its packets from passing. Its place is
    /// kept. The slot of one that began there comes with it.
    fn find(&self, packet: &FlowKey) -> Whereabouts;
    /// Gives a flow's place up, and stops its packets if any passed; the flow, when it was there.
    fn end(&self, packet: &FlowKey) -> Option<Found>;
    /// The same for a flow that began there, when its time is over.
    fn end_if_over(&self, packet: &FlowKey) -> Option<Found>;
    /// Flows of this pair and service may begin there.
    fn cache_policy(&self, offer: &Offer);
    /// Gives back the slot of a flow that was found there.
    fn release_slot(&self, found: &Found);
    /// Such requests may be answered there, as often as the sender has tokens to grant.
    fn answer(&self, offer: &AnswerOffer, sender: &EndpointState, now: Instant);
    /// Requests that answers were left for, where those may have ended since this was asked last.
    fn ended_answers(&self) -> Vec<Inquiry>;
    /// An answer goes on in the place of the one that ended, with what was left of the tokens that were granted for that.
    fn renew_answer(&self, offer: &AnswerOffer);
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
    /// What flows were told of paths is no longer so: each is punted once more.
    fn forget_paths(&self);
    /// The MTU of the path to each VTEP is this.
    fn set_path_mtus(&self, mtu_to: &dyn Fn(VtepAddr) -> u16);
    /// What was dropped there under policies that are in force no more, and is not counted there any longer.
    fn settle_drops(&self) -> Vec<SettledDrop>;
    /// What rules without state have let pass there since this was asked last.
    fn take_stateless(&self) -> Vec<Stateless>;
    /// A datagram in fragments is here from now on, all of it: what has passed of it there, when its first has.
    fn take_datagram(&self, key: &DatagramKey) -> Option<Imported>;
    /// A datagram that was punted is over here.
    fn forget_datagram(&self, key: &DatagramKey);
    /// A flow with this key is expected, with any source port: its first packet is punted where the rules would refuse it.
    fn expect(&self, key: &FlowKey);
    /// It is expected no more.
    fn unexpect(&self, key: &FlowKey);
    /// Where the flow has got to.
    fn peek(&self, original: &FlowKey) -> Option<Progress>;
}

/// Where a flow is that is not known here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "one is there at a time, on the stack, and a box would cost an allocation a packet"
)]
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
pub enum Reservation {
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
    /// When it began
    pub created: Instant,
    /// When a packet of it last passed
    pub last_seen: Instant,
}

/// Packets of no flow that a rule without state has let pass elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stateless {
    /// Of which network
    pub vni: Vni,
    /// The compilation of the policy whose rule it is
    pub policy: u32,
    /// The rule
    pub rule: u32,
    /// Whose rule
    pub endpoint: EndpointId,
    /// Whether it was sent them, or sends them
    pub direction: rule::Direction,
    /// How many
    pub count: Count,
    /// When the last one was
    pub last: Instant,
}

/// A flow was let in that others of its pair and service are like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    /// The key of the packet that opened it
    pub opened: FlowKey,
    /// Who admitted it
    pub admitted: Admitted,
    /// [`FlowOffload::generation`] before the templates were laid
    pub generation: u32,
    /// The version of who holds what that it was decided under, where an address of it moves; else 0
    pub bindings: u16,
    /// Both directions, by [`Direction`]
    pub templates: [Template; 2],
    /// What others of its pair and service may differ by took part in that: it says nothing of them.
    pub tells_apart: bool,
    /// Where flows of its opener are counted
    pub account: u32,
}

/// What the packets of one direction of a flow are like, and what is to be done with them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Template {
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
    /// Out of an attachment: by way of the kernel's routing
    pub routed: bool,
}

/// A flow to be handed over once everything of it that is in hand has been sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Handover {
    /// The flow
    pub flow: FlowId,
    /// A key of it, in whichever direction
    pub key: FlowKey,
    /// The snapshot that it was handed over under
    pub epoch: u32,
    /// [`FlowOffload::generation`] before the templates were laid
    pub generation: u32,
    /// The version of who holds what that it was decided under, where an address of it moves; else 0
    pub bindings: u16,
    /// Both directions, by [`Direction`]
    pub templates: [Template; 2],
}

/// A packet's flow, when it may be handed over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settled<'s> {
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
        settled: &Settled<'s>,
        came: [MacAddr; 2],
        left: &View,
        now: Instant,
    ) -> Option<Handover> {
        let network = arrival.network;
        let Destination::Station { at, control: false, .. } = *to else { return None };
        let key = settled.key;
        Eligibility::of(network).packet(left.tags).ok()?;
        let generation = self.shared.fastpath.get()?.generation();
        let bindings = bindings_of(network, [key.src, key.dst]);
        let template = self.template(network, settled.src, settled.dst, &key, now)?;
        let back = self.template(network, settled.dst, settled.src, &key.reversed(), now)?;
        let done = (template.from, template.to, template.in_macs, template.out_macs);
        if done != (arrival.from, at, came, [left.dst, left.src]) {
            return None;
        }
        let templates = match settled.direction {
            Direction::Original => [template, back],
            Direction::Reply => [back, template],
        };
        Some(Handover { flow: settled.flow, key, epoch: network.compiled, generation, bindings, templates })
    }

    /// Step 9: the flow of the packet in hand goes elsewhere, or flows like it may begin there.
    #[allow(
        clippy::too_many_arguments,
        reason = "each is a different thing, and a struct would only rename them"
    )]
    pub(super) fn hand_on(
        &self,
        arrival: &Arrival<'s>,
        to: &Destination<'s>,
        settled: Option<&Settled<'s>>,
        came: [MacAddr; 2],
        left: &View,
        now: Instant,
        out: &mut Batch,
    ) {
        let Some(settled) = settled else { return };
        if Eligibility::of(arrival.network).asked_by(&self.shared.probes, &settled.key).is_err() {
            return;
        }
        let handover = self.handover(arrival, to, settled, came, left, now);
        out.after_send(match settled.opened {
            None => handover.map(AfterSend::Offload),
            Some(_) => {
                let offer = handover.and_then(|like| self.offer(arrival.network, settled, like));
                offer.map(AfterSend::CachePolicy)
            }
        });
    }

    /// What it takes to let flows like the one that was opened begin elsewhere.
    pub(super) fn offer(&self, network: &Network, settled: &Settled<'s>, like: Handover) -> Option<Offer> {
        // The programs look for a policy-cache entry before they know of a leg; a flow of one is opened here, and handed over.
        let admitted = settled.opened.filter(|_| settled.key.leg == Leg::DIRECT)?;
        let asks = |endpoint: &Endpoint, direction| {
            endpoint.enforced_here && network.policy.tells_flows_apart(endpoint.id, direction)
        };
        let tells_apart =
            asks(settled.src, rule::Direction::Egress) || asks(settled.dst, rule::Direction::Ingress);
        let Handover { generation, bindings, templates, .. } = like;
        let account = settled.src.state.flows.place();
        Some(Offer { opened: settled.key, admitted, generation, bindings, templates, tells_apart, account })
    }

    /// How packets from one endpoint to another travel; nothing when that is not for the fast path: checks that are
    /// not of the flow.
    fn template(
        &self,
        network: &Network,
        src: &Endpoint,
        dst: &Endpoint,
        key: &FlowKey,
        now: Instant,
    ) -> Option<Template> {
        let eligibility = Eligibility::of(network);
        eligibility.flow(&self.snapshot.site, src, dst, key).ok()?;
        let (from, to) = (src.location, dst.location);
        let max_packet = match (from, to) {
            (_, Location::Local(_)) => u16::MAX,
            (_, Location::Remote(vtep)) => {
                mtu::tenant_mtu(self.shared.path_mtu_to(vtep, now), vtep.family(), 0)
            }
        };
        let (asked_for_us, speak_for) = (eligibility.is_proxied(from), eligibility.is_proxied(to));
        // An address that moves has a MAC of its own at whoever holds it.
        let mac_of = |endpoint: &Endpoint, address| match network.at_address(address) {
            Some((holder, mac)) if holder.id == endpoint.id => mac,
            _ => endpoint.mac,
        };
        let (src_mac, dst_mac) = (mac_of(src, key.src), mac_of(dst, key.dst));
        let ports = network.encapsulation.ports;
        Some(Template {
            from,
            to,
            in_macs: [if asked_for_us { network.proxy_mac } else { dst_mac }, src_mac],
            out_macs: [dst_mac, if speak_for { network.proxy_mac } else { src_mac }],
            max_packet,
            source_port: ports.port(ports.bucket(key_hash(key, &self.shared.hasher))),
            tos: network.encapsulation.tos,
            ttl: network.encapsulation.ttl,
            routed: network.kernel_entry.is_some(),
        })
    }
}

/// What the loss of a flow would cost that began elsewhere; `network` is where its network's are counted.
pub fn candidate(found: &Found, network: u32, now: Instant) -> Option<Candidate> {
    let account = found.created?.account;
    let last_seen = found.progress.last_seen.unwrap_or(now);
    let rank = match Rank::of(found.state(), found.replied) {
        Rank::Stream if last_seen + STREAM_IDLE > now => Rank::Connection,
        rank => rank,
    };
    Some(Candidate { key: found.key, places: [account, network, HOST], rank, last_seen })
}
