//! Step 4: the flow that a packet belongs to, and what is known of it.
//!
//! A packet of a flow that was decided passes with one look-up. What nobody has decided yet, or decided under another policy
//! or for others, comes out of here as `Undecided`, with its part of the flow table locked, and is for step 5.

use std::sync::{Arc, MutexGuard};

use eastgate_conntrack::{
    flow::{self, FlowId, FlowTable, Hit, Population, Query, Segment, StateSettings, offload_key},
    fragment::{DatagramId, DatagramKey, FragmentSettings, FragmentStep, Verdict, Waiting},
};
use eastgate_vtep::{fdb::Location, offload::checksum_fits};
use eastgate_wire::{
    DropReason, FlowKey, Frame, Instant, Leg, MacAddr, View,
    view::{IcmpRole, Ip, Transport},
};

use super::{
    Arrival, Destination, Pipeline, Refusal,
    elsewhere::ROOM_ATTEMPTS,
    offload::Settled,
    ruling::{Inquiry, probe_of},
    shared::lock,
};
use crate::{
    eligibility::Eligibility,
    snapshot::{Endpoint, Network},
};

/// What is known of a packet.
pub(super) enum Tracked<'s> {
    /// It goes on: it is of a flow that was decided, or nothing is to be decided about it. Its flow, when that has settled.
    Passes(Option<Settled<'s>>),
    /// The policy is to say.
    Undecided(Undecided<'s>),
}

/// A packet that the policy is to be asked about.
pub(super) struct Undecided<'s> {
    pub(super) question: Question<'s>,
    pub(super) part: Part,
}

/// What there is to decide.
pub(super) enum Question<'s> {
    /// A packet that is of no flow, and begins none
    Packet(Inquiry<'s>),
    /// A flow
    Flow(Pending<'s>),
}

/// What is known of the flow of a packet.
pub(super) enum TrackedFlow<'s> {
    /// It was decided, and the packet passes. The flow, when it has settled.
    Passes(Option<Settled<'s>>),
    /// The policy is to say.
    Undecided(Pending<'s>),
}

/// A flow to be decided by a packet of it. Nothing else of its part of the table moves meanwhile.
pub(super) struct Pending<'s> {
    pub(super) flows: MutexGuard<'s, FlowTable>,
    pub(super) segment: Segment,
    /// The packet's
    pub(super) ends: Ends<'s>,
    /// The packet's checksum is right.
    pub(super) intact: bool,
    pub(super) standing: Standing,
}

/// What is looked at of a packet behind its headers.
#[derive(Clone, Copy)]
pub(super) struct Content<'a> {
    /// What helpers read; nothing of a later fragment
    pub(super) frame: Option<&'a Frame<'a>>,
    /// Is its checksum right? It is asked before the packet may begin a flow.
    pub(super) intact: &'a dyn Fn() -> bool,
}

/// How a flow stands that is to be decided.
#[derive(Clone, Copy)]
pub(super) enum Standing {
    /// There is none: the packet would begin one; in mid-stream too, where that is `loose`.
    New { loose: bool },
    /// It was decided under another epoch, when a packet with the key `original` opened it.
    Stale { flow: FlowId, original: FlowKey },
    /// It was decided for other ends than the packet's.
    OfOthers(Hit),
}

/// Which part of its datagram a packet is.
#[derive(Clone, Copy)]
pub(super) enum Part {
    /// All of it
    Whole,
    /// The first fragment: the others go by what is decided of it, and are for the same receiver.
    First { datagram: DatagramId, hint: u64 },
    /// A later fragment
    Later { last: bool },
}

/// The two ends of a packet, as far as they are endpoints.
#[derive(Clone, Copy)]
pub(super) struct Ends<'s> {
    pub(super) src: Option<&'s Endpoint>,
    pub(super) dst: Option<&'s Endpoint>,
}

impl Ends<'_> {
    /// Those of a packet that goes the other way
    pub(super) const fn reversed(self) -> Self {
        Self { src: self.dst, dst: self.src }
    }
}

impl<'s> Pipeline<'s> {
    /// What is known of a packet; nothing of a fragment that waits for the first of its datagram.
    pub(super) fn track(
        &mut self,
        arrival: &Arrival<'s>,
        to: &Destination<'s>,
        view: &View,
        frame: &Frame<'_>,
        now: Instant,
    ) -> Result<Option<Tracked<'s>>, Refusal> {
        let passes = Some(Tracked::Passes(None));
        let Some(ip) = view.ip() else {
            return to.may_be_other_than_ip(view, frame.bytes()).map(|()| passes);
        };
        match *to {
            Destination::Station { control: true, .. }
            | Destination::Flood { control: true }
            | Destination::Role(_)
            | Destination::Speakers
            | Destination::Sharers => Ok(passes),
            Destination::Group | Destination::Flood { control: false } => {
                let ends = Ends { src: arrival.sender, dst: None };
                let inquiry = Inquiry::of_ip(ends, ip)?;
                Ok(Some(Tracked::undecided(Question::Packet(inquiry))))
            }
            Destination::Station { endpoint, .. } => {
                let ends = Ends { src: arrival.sender, dst: endpoint };
                if ip.fragment.is_none() {
                    return self.track_packet(arrival.network, ends, ip, frame, now).map(Some);
                }
                self.track_fragment(arrival, ends, ip, frame, now)
            }
        }
    }

    fn track_fragment(
        &mut self,
        arrival: &Arrival<'s>,
        ends: Ends<'s>,
        ip: &Ip,
        frame: &Frame<'_>,
        now: Instant,
    ) -> Result<Option<Tracked<'s>>, Refusal> {
        let network = arrival.network;
        let settings = FragmentSettings { limit: network.state.fragments, ..FragmentSettings::default() };
        // The lock is not held while the flow is looked up: the two tables never wait for each other.
        let (part, segment, tracked) =
            match self.look_at_fragment(arrival, ends, ip, frame, &settings, now)? {
                FragmentStep::Whole => return self.track_packet(network, ends, ip, frame, now).map(Some),
                FragmentStep::First(datagram) => (
                    Part::First { datagram, hint: receiver(ends.dst) },
                    segment_of(network, ends, ip, frame),
                    self.track_packet(network, ends, ip, frame, now),
                ),
                FragmentStep::Early(_) => return Ok(None),
                // Only the receiver that the first fragment was decided for has a use for the others, and its rules are
                // the ones that were asked.
                FragmentStep::Later { hint, .. } if hint != receiver(ends.dst) => {
                    return Err(DropReason::FragmentRefused.into());
                }
                FragmentStep::Later { segment: Some(segment), last, .. } => {
                    let segment = Segment { bytes: frame.len() as u32, ..segment };
                    let content = Content { frame: None, intact: &|| true };
                    let tracked = self.track_flow(network, ends, &segment, content, now);
                    (Part::Later { last }, Some(segment), tracked)
                }
                FragmentStep::Later { segment: None, .. } => return Ok(Some(Tracked::Passes(None))),
                FragmentStep::Drop(reason) => return Err(reason.into()),
            };
        let decided = match tracked {
            Ok(Tracked::Undecided(undecided)) => {
                return Ok(Some(Tracked::Undecided(Undecided { part, ..undecided })));
            }
            Ok(Tracked::Passes(settled)) => Ok(settled),
            Err(refusal) => Err(refusal),
        };
        self.note_part(network, part, segment, decided).map(|settled| Some(Tracked::Passes(settled)))
    }

    /// What was decided of a packet is so of the rest of its datagram. Its flow, when it may be handed over.
    pub(super) fn note_part(
        &mut self,
        network: &Network,
        part: Part,
        segment: Option<Segment>,
        decided: Result<Option<Settled<'s>>, Refusal>,
    ) -> Result<Option<Settled<'s>>, Refusal> {
        match part {
            Part::Whole => decided,
            Part::Later { last } => decided.map(|settled| settled.filter(|_| last)),
            Part::First { datagram, hint } => {
                let verdict = match decided {
                    Ok(_) => Verdict::Allowed { first: segment, hint },
                    Err(_) => Verdict::Refused,
                };
                let waited = lock(&self.shared.fragments).settle(datagram, verdict);
                self.released.extend(waited.into_iter().map(|frame| (network.vni, frame)));
                // Others like it may begin elsewhere; of the flow itself, the other fragments are still to come.
                decided.map(|settled| settled.filter(|settled| settled.opened.is_some()))
            }
        }
    }

    /// What the table of fragments says of one. Of one that came too early, it has a copy afterwards.
    fn look_at_fragment(
        &self,
        arrival: &Arrival<'s>,
        ends: Ends<'s>,
        ip: &Ip,
        frame: &Frame<'_>,
        settings: &FragmentSettings,
        now: Instant,
    ) -> Result<FragmentStep, Refusal> {
        let mut fragments = lock(&self.shared.fragments);
        let elsewhere = DatagramKey::of(arrival.network.vni, ip).zip(self.shared.fastpath.get());
        if let Some((key, fastpath)) = &elsewhere
            && let known = fragments.knows(key, now)
            // With its first, a datagram that has waited for it is remembered for longer.
            && (!known || ip.fragment.is_some_and(|fragment| fragment.offset == 0))
            && let Some(mut imported) = fastpath.take_datagram(key)
            && !known
        {
            // Whom the first was decided for is whoever has the address; the flow knows it, too.
            let network = arrival.network;
            let (src, dst) =
                (network.by_address(ip.src).or(ends.src), network.by_address(ip.dst).or(ends.dst));
            let hint = receiver(dst);
            imported.first.key = network.on_leg(imported.first.key, src, dst);
            fragments.import(*key, imported, hint, settings, now);
        }
        let step = fragments.check(arrival.network.vni, ip, settings, now);
        if let Some((key, fastpath)) = &elsewhere
            && matches!(
                step,
                FragmentStep::Later { last: true, .. } | FragmentStep::Drop(DropReason::FragmentRefused)
            )
            && !fragments.knows(key, now)
        {
            fastpath.forget_datagram(key);
        }
        let held = match step {
            FragmentStep::Early(datagram) => {
                let copy =
                    Waiting { from: arrival.from, frame: frame.bytes().into(), offload: frame.offload };
                fragments.hold(datagram, copy, settings)
            }
            _ => Ok(()),
        };
        self.counters.count_lost_fragments(&mut fragments, now);
        held?;
        Ok(step)
    }

    fn track_packet(
        &self,
        network: &'s Arc<Network>,
        ends: Ends<'s>,
        ip: &Ip,
        frame: &Frame<'_>,
        now: Instant,
    ) -> Result<Tracked<'s>, Refusal> {
        if !network.has_stateless(ends) {
            return self.track_known(network, ends, ip, frame, now);
        }
        let inquiry = Inquiry::of_ip(ends, ip)?;
        if let Some(segment) = segment_of(network, ends, ip, frame) {
            self.hold_to_rules(network, &inquiry, &segment, now)?;
        }
        let tracked = self.track_known(network, ends, ip, frame, now);
        tracked.or_else(|refusal| network.passes_alone(inquiry, refusal))
    }

    /// What the tables of flows say of a packet.
    fn track_known(
        &self,
        network: &'s Arc<Network>,
        ends: Ends<'s>,
        ip: &Ip,
        frame: &Frame<'_>,
        now: Instant,
    ) -> Result<Tracked<'s>, Refusal> {
        if let Transport::Icmp(icmp) = ip.transport
            && icmp.role(ip.src.is_v4()) == IcmpRole::Error
        {
            return self.track_error(network, ends, ip, frame, now);
        }
        let intact = || checksum_fits(frame, ip);
        // What its receiver will not believe moves nothing here either.
        if matches!(ip.transport, Transport::Tcp(_) | Transport::Sctp(_)) && !intact() {
            return Err(DropReason::BadChecksum.into());
        }
        match segment_of(network, ends, ip, frame) {
            Some(segment) => {
                let content = Content { frame: Some(frame), intact: &intact };
                self.track_flow(network, ends, &segment, content, now)
            }
            // ICMP that is neither query nor error begins no flow: each message is decided by itself.
            None => {
                let inquiry = Inquiry::of_ip(ends, ip)?;
                Ok(Tracked::undecided(Question::Packet(inquiry)))
            }
        }
    }

    fn track_flow(
        &self,
        network: &'s Arc<Network>,
        ends: Ends<'s>,
        segment: &Segment,
        content: Content<'_>,
        now: Instant,
    ) -> Result<Tracked<'s>, Refusal> {
        Ok(match self.track_in(self.shared.flows(&segment.key), network, ends, segment, content, now)? {
            TrackedFlow::Passes(settled) => Tracked::Passes(settled),
            TrackedFlow::Undecided(pending) => Tracked::undecided(Question::Flow(pending)),
        })
    }

    /// The same in a part of the table that is locked already.
    pub(super) fn track_in(
        &self,
        mut flows: MutexGuard<'s, FlowTable>,
        network: &'s Arc<Network>,
        ends: Ends<'s>,
        segment: &Segment,
        content: Content<'_>,
        now: Instant,
    ) -> Result<TrackedFlow<'s>, Refusal> {
        let Content { frame, intact } = content;
        let mut found = self.find_flow(&mut flows, network, ends, segment, frame, now);
        if let Err(Refusal { reason, .. }) = found
            && is_of_another(reason)
            && let Some(moved) = just_moved(network, ends, now)
            && flows.forget_unheard(segment, moved, now)
        {
            // It was here before, and the connection has gone on elsewhere meanwhile.
            found = self.find_flow(&mut flows, network, ends, segment, frame, now);
        }
        let known = match found {
            Ok(Found::Undecided(standing)) => {
                let intact = intact();
                if intact || !matches!(standing, Standing::New { .. }) {
                    let pending = Pending { flows, segment: *segment, ends, intact, standing };
                    return Ok(TrackedFlow::Undecided(pending));
                }
                Err(DropReason::BadChecksum.into())
            }
            Ok(Found::Decided(settled)) => Ok(TrackedFlow::Passes(settled)),
            Err(refusal) => Err(refusal),
        };
        self.shared.recall(&mut flows);
        known
    }

    /// What the flow table says, once all of the flow is here.
    fn find_flow(
        &self,
        flows: &mut FlowTable,
        network: &'s Arc<Network>,
        ends: Ends<'s>,
        segment: &Segment,
        frame: Option<&Frame<'_>>,
        now: Instant,
    ) -> Result<Found<'s>, Refusal> {
        let elsewhere = segment.offload_key();
        let epoch = network.decided_since([ends.src, ends.dst], [segment.key.src, segment.key.dst]);
        let lost = self.shared.import(flows, network, elsewhere, now)?;
        // A connection that a daemon before had when it was killed, or another host before one of its ends has come here, is
        // picked up in mid-stream, if the policy lets it in.
        let tracking = network.tracking_between([ends.src, ends.dst]);
        let loose = tracking.loose || lost || just_moved(network, ends, now).is_some();
        let tracking = StateSettings { loose, ..tracking };
        let mut tracked = flows.track(segment, &tracking, epoch, now);
        if let flow::Tracked::Offloaded { flow, original } = tracked {
            self.shared.reclaim(flows, network, flow, &original, now);
            tracked = flows.track(segment, &tracking, epoch, now);
        }
        for _ in 0..ROOM_ATTEMPTS {
            let full = tracked == flow::Tracked::Drop(DropReason::FlowLimit);
            let Some(account) = full.then(|| flows.payer(segment)).flatten() else { break };
            if !self.shared.make_room_elsewhere(&account, Population::Replied, now) {
                break;
            }
            tracked = flows.track(segment, &tracking, epoch, now);
        }
        if let flow::Tracked::Pass(hit) = &tracked
            && hit.strays
        {
            self.shared.reclaim_stray(flows, network, hit.flow, now);
        }
        match tracked {
            flow::Tracked::Pass(hit) if is_of_its_ends(flows, &hit, ends) => {
                let helper = flows.helper(hit.flow);
                if let (Some(_), Some(frame)) = (helper, frame) {
                    self.hear_control(flows, &hit, segment, frame, now);
                }
                let may_go = Eligibility::of(network).kept(flows.stateless(hit.flow), helper).is_ok();
                Ok(Found::Decided(self.settled(&hit, ends, segment).filter(|_| may_go)))
            }
            flow::Tracked::Pass(hit) => Ok(Found::Undecided(Standing::OfOthers(hit))),
            flow::Tracked::New => Ok(Found::Undecided(Standing::New { loose })),
            flow::Tracked::Stale { flow, original, .. } => {
                Ok(Found::Undecided(Standing::Stale { flow, original }))
            }
            flow::Tracked::Drop(reason) => {
                let reject = reason == DropReason::NotSyn && network.tells_unknown(ends, segment);
                Err(Refusal { reject, ..reason.into() })
            }
            // It was taken back a moment ago, under the same lock.
            flow::Tracked::Offloaded { .. } => Err(DropReason::NotReady.into()),
        }
    }

    /// The flow of a packet that passed, when it has settled between two endpoints and someone faster can have it.
    fn settled(&self, hit: &Hit, ends: Ends<'s>, segment: &Segment) -> Option<Settled<'s>> {
        if !hit.settled || !self.shared.offloads() {
            return None;
        }
        let (src, dst) = (ends.src?, ends.dst?);
        let (flow, direction) = (hit.flow, hit.direction);
        Some(Settled { flow, key: segment.key, direction, src, dst, opened: None })
    }

    /// An ICMP error passes when it quotes a packet of a live flow, on its way to the one who sent it.
    fn track_error(
        &self,
        network: &'s Arc<Network>,
        ends: Ends<'s>,
        ip: &Ip,
        frame: &Frame<'_>,
        now: Instant,
    ) -> Result<Tracked<'s>, Refusal> {
        let quoted = ip.quoted(frame.bytes()).ok_or(DropReason::IcmpUnrelated)?;
        let key = FlowKey {
            src: quoted.src,
            dst: quoted.dst,
            vni: network.vni,
            sport: quoted.sport,
            dport: quoted.dport,
            proto: quoted.proto,
            leg: Leg::DIRECT,
        };
        // The quoted packet went the other way, on the same leg.
        let key = network.on_leg(key, ends.dst, ends.src);
        let query = quoted.icmp.and_then(|icmp| Query::of(icmp, quoted.src.is_v4()));
        let mut flows = self.shared.flows(&key);
        if ip.dst == quoted.src {
            self.shared.import(&mut flows, network, offload_key(&key, query), now)?;
        }
        let epoch = network.decided_since([ends.src, ends.dst], [key.src, key.dst]);
        let mut tracked = flows.related(&key, &quoted, ip.dst, &network.tracking, epoch, now);
        if let flow::Tracked::Offloaded { flow, original } = tracked {
            self.shared.reclaim(&mut flows, network, flow, &original, now);
            tracked = flows.related(&key, &quoted, ip.dst, &network.tracking, epoch, now);
        }
        match tracked {
            flow::Tracked::Pass(hit) if hit.hint == receiver(ends.dst) => {
                let [opener, other] = flows.stateless(hit.flow);
                let stateless = match hit.direction {
                    flow::Direction::Original => [opener, other],
                    flow::Direction::Reply => [other, opener],
                };
                if stateless == [false; 2] {
                    return Ok(Tracked::Passes(None));
                }
                let inquiry = Inquiry::of_ip(ends, ip)?;
                Ok(Tracked::undecided(Question::Packet(inquiry.of_some(stateless))))
            }
            // Whoever has the receiver's address now, the flow's own packets must have found it first.
            flow::Tracked::Stale { flow, hint, original } if hint == receiver(ends.dst) => {
                // The error goes to the one who sent the quoted packet: its receiver is that packet's sender.
                let forward = original.src == quoted.src && original.sport == quoted.sport;
                let ends = if forward { ends.reversed() } else { ends };
                let probe = probe_of(query, &original, flows.header(flow));
                let related = flows.relation(flow);
                let inquiry = Inquiry { ends, src: original.src, dst: original.dst, probe, related };
                Ok(Tracked::undecided(Question::Packet(inquiry)))
            }
            flow::Tracked::Drop(reason) => Err(reason.into()),
            flow::Tracked::Pass(_)
            | flow::Tracked::Stale { .. }
            | flow::Tracked::New
            | flow::Tracked::Offloaded { .. } => Err(DropReason::IcmpUnrelated.into()),
        }
    }
}

/// What the flow table has of a packet.
enum Found<'s> {
    /// It passes. Its flow, when that has settled.
    Decided(Option<Settled<'s>>),
    /// The policy is to say.
    Undecided(Standing),
}

impl<'s> Tracked<'s> {
    pub(super) const fn undecided(question: Question<'s>) -> Self {
        Self::Undecided(Undecided { question, part: Part::Whole })
    }
}

/// What a packet is to its flow; nothing for one that is of none.
fn segment_of(network: &Network, ends: Ends<'_>, ip: &Ip, frame: &Frame<'_>) -> Option<Segment> {
    let segment = Segment::of(network.vni, ip, packets(frame), frame.len() as u32)?;
    Some(Segment { key: network.on_leg(segment.key, ends.src, ends.dst), ..segment })
}

/// Does a flow refuse a packet that might be of the one that has gone on elsewhere?
const fn is_of_another(reason: DropReason) -> bool {
    matches!(
        reason,
        DropReason::TcpWindow | DropReason::TcpState | DropReason::SctpTag | DropReason::SctpState
    )
}

/// When one of the ends moved, as long as its connections are picked up.
fn just_moved(network: &Network, ends: Ends<'_>, now: Instant) -> Option<Instant> {
    let moved = [ends.src, ends.dst].into_iter().flatten();
    moved.filter_map(|end| end.state.just_moved(network.tcp_pickup, now)).max()
}

/// Was the flow decided for the ends of this packet?
fn is_of_its_ends(flows: &FlowTable, hit: &Hit, ends: Ends<'_>) -> bool {
    hit.hint == receiver(ends.dst) && flows.hint(hit.flow, hit.direction.reversed()) == receiver(ends.src)
}

/// What a flow remembers of the endpoint that packets of one direction go to: its MAC, which unlike its number
/// means the same after a reload. Never 0, which is nothing.
pub(super) fn receiver(endpoint: Option<&Endpoint>) -> u64 {
    endpoint.map_or(1, |endpoint| receiver_at(endpoint.mac))
}

/// What a flow remembers of an endpoint with this MAC.
pub fn receiver_at(mac: MacAddr) -> u64 {
    let [a, b, c, d, e, f] = mac.0;
    u64::from_be_bytes([0, 1, a, b, c, d, e, f])
}

impl Network {
    /// The endpoint that a flow remembers as [`receiver_at`].
    pub(super) fn received_by(&self, hint: u64) -> Option<&Endpoint> {
        let [0, 1, a, b, c, d, e, f] = hint.to_be_bytes() else { return None };
        self.by_mac(MacAddr([a, b, c, d, e, f]))
    }
}

/// How many packets a frame stands for.
pub(super) fn packets(frame: &Frame<'_>) -> u32 {
    frame.offload.gso.map_or(1, |gso| (frame.len() as u32).div_ceil(u32::from(gso.segment).max(1)).max(1))
}

/// The location of an end, for messages.
impl Arrival<'_> {
    /// Did it come in at a tenant port?
    #[must_use]
    pub const fn is_local(&self) -> bool {
        matches!(self.from, Location::Local(_))
    }
}
