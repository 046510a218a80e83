//! Step 5: what the policy says of a packet that tracking has left undecided, and what that does to its flow.

use std::sync::atomic::Ordering::Relaxed;

use eastgate_conntrack::flow::{
    Admitted, Direction as FlowDirection, FlowId, FlowTable, Grants, Hit, Population, Segment, SegmentKind,
    StateSettings,
};
use eastgate_wire::{
    DropReason, FlowKey, Frame, Instant, Leg, View,
    view::{Chunks, tcp_flags},
};

use super::{
    Arrival, Pipeline, Refusal,
    counters::{DropKey, Subject, packet},
    elsewhere::ROOM_ATTEMPTS,
    offload::Settled,
    ruling::{Fate, Inquiry, Limited, Ruling},
    track::{Content, Ends, Pending, Question, Standing, TrackedFlow, Undecided, packets, receiver},
};
use crate::{
    eligibility::Eligibility,
    snapshot::{Endpoint, Network, rule_counts::RuleCount},
};

/// The packet in hand.
#[derive(Clone, Copy)]
pub(super) struct InHand<'a, 's> {
    pub(super) arrival: &'a Arrival<'s>,
    pub(super) frame: &'a Frame<'a>,
    pub(super) now: Instant,
}

/// What came of a flow that the policy has let pass.
enum Decided<'s> {
    /// The packet passes. Its flow, when that may be handed over.
    Passes(Option<Settled<'s>>),
    /// The packet passes, and is of no flow.
    Alone,
    /// More is known of the flow now: what the packet is to it is looked up again.
    Again,
}

impl<'s> Pipeline<'s> {
    /// Whether the packet passes. Its flow, when that may be handed over.
    pub(super) fn decide(
        &mut self,
        arrival: &Arrival<'s>,
        undecided: Undecided<'s>,
        frame: &Frame<'_>,
        now: Instant,
    ) -> Result<Option<Settled<'s>>, Refusal> {
        let (packet, Undecided { question, part }) = (InHand { arrival, frame, now }, undecided);
        let (segment, decided) = match question {
            Question::Packet(inquiry) => {
                let admitted = self.ask_policy(&packet, &inquiry);
                (None, admitted.map(|admitted| packet.count_for(&admitted)).map(|()| None))
            }
            Question::Flow(pending) => {
                let segment = pending.segment;
                match self.decide_flow(&packet, pending) {
                    Ok(Some(settled)) => (Some(segment), Ok(settled)),
                    Ok(None) => (None, Ok(None)),
                    Err(refusal) => (Some(segment), Err(refusal)),
                }
            }
        };
        self.note_part(arrival.network, part, segment, decided)
    }

    /// The flow of a packet that passes, as [`Self::decide`] has it; nothing where it is of none.
    fn decide_flow(
        &self,
        packet: &InHand<'_, 's>,
        mut pending: Pending<'s>,
    ) -> Result<Option<Option<Settled<'s>>>, Refusal> {
        let mut confirmed = false;
        loop {
            let decided = match pending.standing {
                Standing::New { loose } => self.begin(packet, &mut pending, loose),
                // It was confirmed a moment ago, under the same lock.
                Standing::Stale { .. } if confirmed => Err(DropReason::NotReady.into()),
                Standing::Stale { flow, original } => {
                    confirmed = true;
                    self.confirm(packet, &mut pending, flow, &original)
                }
                Standing::OfOthers(hit) => self.pass_between(packet, &mut pending, &hit),
            };
            let decided = match decided {
                Ok(Decided::Passes(settled)) => Ok(Some(settled)),
                Ok(Decided::Alone) => Ok(None),
                Err(refusal) => Err(refusal),
                Ok(Decided::Again) => {
                    let Pending { flows, segment, ends, intact, .. } = pending;
                    let (network, now) = (packet.arrival.network, packet.now);
                    let content = Content { frame: Some(packet.frame), intact: &|| intact };
                    match self.track_in(flows, network, ends, &segment, content, now)? {
                        TrackedFlow::Passes(settled) => return Ok(Some(settled)),
                        TrackedFlow::Undecided(again) => pending = again,
                    }
                    continue;
                }
            };
            self.shared.recall(&mut pending.flows);
            return decided;
        }
    }

    /// The packet begins a flow, if the policy lets it.
    fn begin(
        &self,
        packet: &InHand<'_, 's>,
        pending: &mut Pending<'s>,
        loose: bool,
    ) -> Result<Decided<'s>, Refusal> {
        let (network, now) = (packet.arrival.network, packet.now);
        let Pending { flows, segment, ends, .. } = pending;
        let elsewhere = segment.offload_key();
        let (mut ruling, direction) = may_begin(network, *ends, segment, loose);
        let mut expected = None;
        if !ruling.allows()
            && let Some(by_helper) = self.expected(network, *ends, segment, now)
        {
            (ruling, expected) = by_helper;
        }
        let admitted = self.enforce(packet, &ruling)?;
        if ruling.is_stateless() {
            packet.count_for(&admitted);
            return Ok(Decided::Alone);
        }
        let opener = match direction {
            FlowDirection::Original => ends.src,
            FlowDirection::Reply => ends.dst,
        };
        let account = opener.map_or(&network.state.unknown_hosts, |end| &end.state.flows);
        let grants = self.claim(packet, &ruling)?;
        let start = account.begin(now).ok_or(DropReason::NewFlowLimit)?;
        if !self.shared.reserve(elsewhere)? {
            // It has begun elsewhere since it was looked for.
            self.shared.import(flows, network, elsewhere, now)?;
            if elsewhere.is_some_and(|key| flows.knows(&key)) {
                return Ok(Decided::Again);
            }
            if !self.shared.reserve(elsewhere)? {
                return Err(DropReason::NotReady.into());
            }
        }
        // Who is taken for the opener because of an answer has not begun anything.
        let replaces = direction == FlowDirection::Reply
            || account.may_replace(|| self.shared.hasher.hash_one(segment.key.src), now);
        if !replaces {
            self.shared.release(flows, elsewhere);
            return Err(DropReason::FlowLimit.into());
        }
        let tracking = StateSettings { loose, ..network.tracking_between([ends.src, ends.dst]) };
        let open = |flows: &mut FlowTable| match direction {
            FlowDirection::Original => flows.open(segment, &admitted, &tracking, account, now),
            FlowDirection::Reply => flows.open_by_reply(segment, &admitted, &tracking, account, now),
        };
        let mut opened = open(flows);
        for _ in 0..ROOM_ATTEMPTS {
            let full = opened == Err(DropReason::FlowLimit);
            if !full || !self.shared.make_room_elsewhere(account, Population::Unreplied, now) {
                break;
            }
            opened = open(flows);
        }
        let hit = opened.inspect_err(|_| self.shared.release(flows, elsewhere))?;
        start.has_begun();
        flows.hold(hit.flow, grants);
        flows.set_hint(hit.flow, direction, receiver(ends.dst));
        flows.set_hint(hit.flow, direction.reversed(), receiver(ends.src));
        network.count_begun(&admitted, now);
        let is_plain = expected.is_none()
            && ruling.is_plain()
            && Eligibility::of(network).beginning([ends.src, ends.dst]).is_ok()
            && Eligibility::of(network).kept(admitted.stateless, ruling.helper()).is_ok();
        if let Some(expected) = expected {
            flows.relate(hit.flow, Some(expected.related));
            expected.has_begun();
        }
        self.follow(packet, flows, &hit, segment, ruling.helper());
        let like_it = is_plain.then(|| self.opened(&hit, *ends, segment, admitted));
        Ok(Decided::Passes(like_it.flatten()))
    }

    /// The packet's flow was decided under another epoch: it is decided as its first packet was, whichever way this one goes.
    fn confirm(
        &self,
        packet: &InHand<'_, 's>,
        pending: &mut Pending<'s>,
        flow: FlowId,
        original: &FlowKey,
    ) -> Result<Decided<'s>, Refusal> {
        let network = packet.arrival.network;
        let Pending { flows, segment, ends, .. } = pending;
        let is_forward = original.src == segment.key.src && original.sport == segment.key.sport;
        let (own, ends) = (*ends, if is_forward { *ends } else { ends.reversed() });
        self.counters.decided_again.fetch_add(1, Relaxed);
        let related = flows.relation(flow);
        let inquiry = Inquiry { related, ..Inquiry::of_flow(ends, segment, original, flows.header(flow)) };
        let ruling = network.ask_policy(&inquiry);
        if ruling.is_stateless() {
            flows.close(flow, packet.now);
            return self.pass_alone(packet, own, segment);
        }
        match self.enforce(packet, &ruling) {
            Ok(admitted) => {
                flows.confirm(flow, &admitted);
                flows.follow(flow, ruling.helper());
                flows.hold(flow, network.keep_counting(&ruling));
                flows.set_hint(flow, FlowDirection::Original, receiver(ends.dst));
                flows.set_hint(flow, FlowDirection::Reply, receiver(ends.src));
                // An end that keeps no state is asked about each answer.
                let [opener, other] = admitted.stateless;
                if !is_forward && (opener || other) {
                    let inquiry = Inquiry::of_packet(own, segment).of_some([other, opener]);
                    self.enforce(packet, &network.ask_policy(&inquiry))?;
                }
                // A SYN on the ports of a connection that is over is another one, and its ends may be others.
                Ok(Decided::Again)
            }
            Err(refusal) => {
                // A reload that tells the ends of what it cuts may not have come to this one yet.
                if network.tells_cut && original.leg == Leg::DIRECT {
                    self.shared.tell_torn(flows.resets(original));
                }
                flows.refuse(flow, packet.now);
                Err(Refusal { reason: DropReason::PolicyChanged, ..refusal })
            }
        }
    }

    /// The packet's flow is one no longer: the packet passes if the rules let it, whichever way it goes.
    fn pass_alone(
        &self,
        packet: &InHand<'_, 's>,
        ends: Ends<'s>,
        segment: &Segment,
    ) -> Result<Decided<'s>, Refusal> {
        let ruling = packet.arrival.network.ask_policy(&Inquiry::of_packet(ends, segment));
        let admitted = self.enforce(packet, &ruling)?;
        if !ruling.is_stateless() {
            return Ok(Decided::Again);
        }
        packet.count_for(&admitted);
        Ok(Decided::Alone)
    }

    /// The packet's flow was decided for other ends: the same addresses with another MAC are no way around these ones' rules,
    /// nor does this packet change for whom the flow was decided. Between these ends, too, a reply passes where the packet
    /// that it answers would.
    fn pass_between(
        &self,
        packet: &InHand<'_, 's>,
        pending: &mut Pending<'s>,
        hit: &Hit,
    ) -> Result<Decided<'s>, Refusal> {
        let Pending { flows, segment, ends, .. } = pending;
        let (original, opener) = match hit.direction {
            FlowDirection::Original => (segment.key, *ends),
            FlowDirection::Reply => (segment.key.reversed(), ends.reversed()),
        };
        let header = flows.header(hit.flow);
        self.ask_policy(packet, &Inquiry::of_flow(opener, segment, &original, header))?;
        // But an address itself may be at another one by now.
        let FlowKey { src, dst, .. } = segment.key;
        let to = (ends.dst, dst, hit.direction);
        for (end, address, direction) in [to, (ends.src, src, hit.direction.reversed())] {
            if end.is_some_and(|end| packet.arrival.network.has_moved_to(address, end)) {
                flows.set_hint(hit.flow, direction, receiver(end));
            }
        }
        Ok(Decided::Passes(None))
    }

    /// The flow that a packet has opened between two endpoints, when others like it can begin elsewhere.
    fn opened(
        &self,
        hit: &Hit,
        ends: Ends<'s>,
        segment: &Segment,
        admitted: Admitted,
    ) -> Option<Settled<'s>> {
        const CORE: u8 = tcp_flags::SYN | tcp_flags::FIN | tcp_flags::RST | tcp_flags::ACK;
        let begins = match &segment.kind {
            SegmentKind::Tcp(tcp) => tcp.flags & CORE == tcp_flags::SYN,
            SegmentKind::Udp => true,
            SegmentKind::Query(query) => query.is_echo(),
            SegmentKind::Sctp(_) | SegmentKind::Other | SegmentKind::Later(_) => false,
        };
        if !begins || !self.shared.offloads() {
            return None;
        }
        let (src, dst) = (ends.src?, ends.dst?);
        let (flow, direction) = (hit.flow, hit.direction);
        Some(Settled { flow, key: segment.key, direction, src, dst, opened: Some(admitted) })
    }

    /// What a flow that begins counts in, where that is not too much.
    fn claim(&self, packet: &InHand<'_, 's>, ruling: &Ruling) -> Result<Grants, Refusal> {
        let network = packet.arrival.network;
        let mut grants = Grants::default();
        for (limit, grant) in ruling.limits.iter().zip(&mut grants) {
            let Some((limit, counts)) =
                limit.as_ref().and_then(|it| Some((it, network.limits.get(it.rule)?)))
            else {
                continue;
            };
            *grant = counts.take(limit.endpoint, limit.source, packet.now);
            if grant.is_none() {
                let refusal = limit.refusal();
                if !limit.audit {
                    return Err(refusal);
                }
                self.tell_would_be(packet, &refusal);
                *grant = Some(counts.take_anyway(limit.endpoint, limit.source));
            }
        }
        Ok(grants)
    }

    /// Carries out what the policy says, and tells of what it would say if no rule were being tried out.
    fn enforce(&self, packet: &InHand<'_, 's>, ruling: &Ruling) -> Result<Admitted, Refusal> {
        if let Fate::WouldBeDenied(_, refusal) = &ruling.fate {
            self.tell_would_be(packet, refusal);
        }
        ruling.enforce()
    }

    fn tell_would_be(&self, packet: &InHand<'_, 's>, refusal: &Refusal) {
        let InHand { arrival, frame, now } = *packet;
        let (vni, Refusal { reason, by, rule, log, .. }) = (arrival.network.vni, *refusal);
        let key = DropKey { vni: Some(vni), reason, from: Some(arrival.from), by, rule };
        let subject = Subject::of_frame(vni, frame.bytes());
        if let Some(rule) = rule {
            arrival.network.counts.add(rule, &RuleCount { would_deny: 1, ..RuleCount::default() });
        }
        self.counters.would_drop_frame(key, frame.len(), subject, now, log);
        tracing::trace!(%vni, %reason, from = ?arrival.from, ?subject, "would be dropped");
    }

    fn ask_policy(&self, packet: &InHand<'_, 's>, inquiry: &Inquiry<'s>) -> Result<Admitted, Refusal> {
        self.enforce(packet, &packet.arrival.network.ask_policy(inquiry))
    }

    /// Whether one receiver of a BUM frame may have it. There is no flow: each frame is decided by itself, and its sender is told
    /// of none.
    pub(super) fn may_receive(
        &self,
        packet: &InHand<'_, 's>,
        endpoint: &'s Endpoint,
        view: &View,
    ) -> Result<(), Refusal> {
        let Some(ip) = view.ip() else { return Ok(()) };
        let ends = Ends { src: None, dst: Some(endpoint) };
        let inquiry = Inquiry::of_ip(ends, ip)?;
        let asked = self.ask_policy(packet, &inquiry).map(|admitted| packet.count_for(&admitted));
        asked.map_err(|refusal| Refusal { reject: false, ..refusal })
    }
}

/// What the policy says of a packet that would begin a flow, and which way the packet would go in it. A packet of TCP or SCTP in
/// mid-stream may be an answer: it begins a flow also where the rules let the one begin that it answers, and is not one that is
/// tried out then. What that one had in its headers beside addresses and ports nobody knows; the segment's own stands for it.
fn may_begin<'s>(
    network: &Network,
    ends: Ends<'s>,
    segment: &Segment,
    loose: bool,
) -> (Ruling, FlowDirection) {
    let key = segment.key;
    let is_mid_stream = match &segment.kind {
        SegmentKind::Tcp(tcp) => tcp.flags & tcp_flags::SYN == 0,
        SegmentKind::Sctp(sctp) => loose && !sctp.chunks.has(Chunks::INIT),
        _ => false,
    };
    let is_answer = is_mid_stream && network.is_answer(ends, segment);
    if is_answer {
        let of_opener = Inquiry::of_flow(ends.reversed(), segment, &key.reversed(), segment.header);
        let ruling = network.ask_policy(&of_opener);
        // At an end that keeps no state nothing is an answer.
        if ruling.is_stateful() {
            return (ruling, FlowDirection::Reply);
        }
    }
    let inquiry = Inquiry::of_flow(ends, segment, &key, segment.header);
    (network.ask_policy(&inquiry), FlowDirection::Original)
}

impl InHand<'_, '_> {
    /// Counts it for the rules that let it pass, where it is of no flow.
    fn count_for(&self, admitted: &Admitted) {
        let count = RuleCount { packets: packets(self.frame).into(), ..packet(self.frame.len(), self.now) };
        self.arrival.network.count_for(admitted, &count);
    }
}

impl Limited {
    const fn refusal(&self) -> Refusal {
        let (by, rule) = (Some(self.endpoint), Some(self.rule));
        Refusal { reason: DropReason::RuleLimit, by, rule, reject: false, log: self.log }
    }
}

impl Network {
    /// What a flow counts in that is there already, and goes on also where that is too much.
    fn keep_counting(&self, ruling: &Ruling) -> Grants {
        ruling.limits.map(|limit| {
            let Limited { endpoint, rule, source, .. } = limit?;
            Some(self.limits.get(rule)?.take_anyway(endpoint, source))
        })
    }

    /// Counts a flow that began for the rules that admitted it.
    pub(super) fn count_begun(&self, admitted: &Admitted, at: Instant) {
        self.count_for(admitted, &RuleCount { flows: 1, hit: Some((at, at)), ..RuleCount::default() });
    }

    /// Counts for the rules that admitted something.
    pub(super) fn count_for(&self, admitted: &Admitted, count: &RuleCount) {
        for rule in [admitted.egress_rule, admitted.ingress_rule] {
            self.counts.add(rule, count);
        }
    }
}
