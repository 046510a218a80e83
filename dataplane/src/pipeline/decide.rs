//! Step 4: what the policy says of a packet that tracking has left undecided, and what that does to its flow.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use eastgate_conntrack::flow::{
    Admitted, Direction as FlowDirection, FlowId, FlowTable, Hit, Population, Query, Segment, SegmentKind,
    StateSettings,
};
use eastgate_policy::rule::{Direction, Header, PortProtocol, Probe};
use eastgate_wire::{Addr, DropReason, FlowKey, Instant, View, view::tcp_flags};

use super::{
    Arrival, Pipeline, Refusal,
    offload::Settled,
    track::{Ends, Pending, Question, Standing, TrackedFlow, Undecided, receiver},
};
use crate::snapshot::{Endpoint, Network};

/// In place of a rule's number where no rule was asked: the other host's eastgate asks it.
const NO_RULE: u32 = u32::MAX;

/// What the policy is asked: whether such a packet may go from one end to the other.
pub(super) struct Inquiry<'s> {
    pub(super) ends: Ends<'s>,
    pub(super) src: Addr,
    pub(super) dst: Addr,
    pub(super) probe: Probe,
}

/// What came of a flow that the policy has let pass.
enum Decided<'s> {
    /// The packet passes. Its flow, when that may be handed over.
    Passes(Option<Settled<'s>>),
    /// More is known of the flow now: what the packet is to it is looked up again.
    Again,
}

impl<'s> Pipeline<'s> {
    /// Whether the packet passes. Its flow, when that may be handed over.
    pub(super) fn decide(
        &mut self,
        arrival: &Arrival<'s>,
        undecided: Undecided<'s>,
        now: Instant,
    ) -> Result<Option<Settled<'s>>, Refusal> {
        let (network, Undecided { question, part }) = (arrival.network, undecided);
        let (segment, decided) = match question {
            Question::Packet(inquiry) => (None, self.ask_policy(network, &inquiry).map(|_| None)),
            Question::Flow(pending) => (Some(pending.segment), self.decide_flow(network, pending, now)),
        };
        self.note_part(network, part, segment, decided)
    }

    fn decide_flow(
        &self,
        network: &'s Arc<Network>,
        mut pending: Pending<'s>,
        now: Instant,
    ) -> Result<Option<Settled<'s>>, Refusal> {
        let mut confirmed = false;
        loop {
            let decided = match pending.standing {
                Standing::New { loose } => self.begin(network, &mut pending, loose, now),
                // It was confirmed a moment ago, under the same lock.
                Standing::Stale { .. } if confirmed => Err(DropReason::NotReady.into()),
                Standing::Stale { flow, original } => {
                    confirmed = true;
                    self.confirm(network, &mut pending, flow, &original, now)
                }
                Standing::OfOthers(hit) => self.pass_between(network, &mut pending, &hit),
            };
            let decided = match decided {
                Ok(Decided::Passes(settled)) => Ok(settled),
                Err(refusal) => Err(refusal),
                Ok(Decided::Again) => {
                    let Pending { flows, segment, ends, intact, .. } = pending;
                    match self.track_in(flows, network, ends, &segment, &|| intact, now)? {
                        TrackedFlow::Passes(settled) => return Ok(settled),
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
        network: &'s Arc<Network>,
        pending: &mut Pending<'s>,
        loose: bool,
        now: Instant,
    ) -> Result<Decided<'s>, Refusal> {
        let Pending { flows, segment, ends, .. } = pending;
        let elsewhere = segment.offload_key();
        let (admitted, direction) = self.may_begin(network, *ends, segment)?;
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
        let opener = match direction {
            FlowDirection::Original => ends.src,
            FlowDirection::Reply => ends.dst,
        };
        let account = opener.map_or(&network.state.unknown_hosts, |end| &end.state.flows);
        let tracking = StateSettings { loose, ..network.tracking };
        let open = |flows: &mut FlowTable| match direction {
            FlowDirection::Original => flows.open(segment, &admitted, &tracking, account, now),
            FlowDirection::Reply => flows.open_by_reply(segment, &admitted, &tracking, account, now),
        };
        let mut opened = open(flows);
        if opened == Err(DropReason::FlowLimit)
            && self.shared.make_room_elsewhere(account, Population::Unreplied, now)
        {
            opened = open(flows);
        }
        let hit = opened.inspect_err(|_| self.shared.release(flows, elsewhere))?;
        flows.set_hint(hit.flow, direction, receiver(ends.dst));
        flows.set_hint(hit.flow, direction.reversed(), receiver(ends.src));
        network.count_hits(&admitted);
        Ok(Decided::Passes(self.opened(&hit, *ends, segment, admitted)))
    }

    /// The packet's flow was decided under another epoch: it is decided as its first packet was, whichever way this one goes.
    fn confirm(
        &self,
        network: &'s Arc<Network>,
        pending: &mut Pending<'s>,
        flow: FlowId,
        original: &FlowKey,
        now: Instant,
    ) -> Result<Decided<'s>, Refusal> {
        let Pending { flows, segment, ends, .. } = pending;
        let is_forward = original.src == segment.key.src && original.sport == segment.key.sport;
        let ends = if is_forward { *ends } else { ends.reversed() };
        match self.ask_policy(network, &Inquiry::of_flow(ends, segment, original)) {
            Ok(admitted) => {
                flows.confirm(flow, &admitted);
                flows.set_hint(flow, FlowDirection::Original, receiver(ends.dst));
                flows.set_hint(flow, FlowDirection::Reply, receiver(ends.src));
                // A SYN on the ports of a connection that is over is another one, and its ends may be others.
                Ok(Decided::Again)
            }
            Err(refusal) => {
                flows.refuse(flow, now);
                Err(Refusal { reason: DropReason::PolicyChanged, ..refusal })
            }
        }
    }

    /// The packet's flow was decided for other ends: the same addresses with another MAC are no way around these ones' rules,
    /// nor does this packet change for whom the flow was decided. Between these ends, too, a reply passes where the packet
    /// that it answers would.
    fn pass_between(
        &self,
        network: &'s Arc<Network>,
        pending: &mut Pending<'s>,
        hit: &Hit,
    ) -> Result<Decided<'s>, Refusal> {
        let Pending { flows, segment, ends, .. } = pending;
        let (original, opener) = match hit.direction {
            FlowDirection::Original => (segment.key, *ends),
            FlowDirection::Reply => (segment.key.reversed(), ends.reversed()),
        };
        self.ask_policy(network, &Inquiry::of_flow(opener, segment, &original))?;
        // But an address itself may be at another one by now.
        let FlowKey { src, dst, .. } = segment.key;
        let to = (ends.dst, dst, hit.direction);
        for (end, address, direction) in [to, (ends.src, src, hit.direction.reversed())] {
            if end.is_some_and(|end| network.has_moved_to(address, end)) {
                flows.set_hint(hit.flow, direction, receiver(end));
            }
        }
        Ok(Decided::Passes(None))
    }

    /// What lets a packet begin a flow, and which way the packet goes in it. A TCP segment in mid-stream may be a reply: it
    /// begins a flow also where the rules let the one begin that it answers.
    fn may_begin(
        &self,
        network: &'s Network,
        ends: Ends<'s>,
        segment: &Segment,
    ) -> Result<(Admitted, FlowDirection), Refusal> {
        let key = segment.key;
        let refused = match self.ask_policy(network, &Inquiry::of_flow(ends, segment, &key)) {
            Ok(admitted) => return Ok((admitted, FlowDirection::Original)),
            Err(refused) => refused,
        };
        match &segment.kind {
            SegmentKind::Tcp(tcp) if tcp.flags & tcp_flags::SYN == 0 => {
                let inquiry = Inquiry::of_flow(ends.reversed(), segment, &key.reversed());
                let admitted = self.ask_policy(network, &inquiry);
                admitted.map(|admitted| (admitted, FlowDirection::Reply)).map_err(|_| refused)
            }
            _ => Err(refused),
        }
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
            SegmentKind::Other | SegmentKind::Later(_) => false,
        };
        if !begins || !self.shared.offloads() {
            return None;
        }
        let (src, dst) = (ends.src?, ends.dst?);
        let (flow, direction) = (hit.flow, hit.direction);
        Some(Settled { flow, key: segment.key, direction, src, dst, opened: Some(admitted) })
    }

    /// Egress rules of the source, then ingress rules of the destination: of those ends whose rules are applied
    /// on this host.
    fn ask_policy(&self, network: &'s Network, inquiry: &Inquiry<'s>) -> Result<Admitted, Refusal> {
        let Inquiry { ends, src, dst, probe } = inquiry;
        let mut admitted = Admitted { epoch: network.epoch, egress_rule: NO_RULE, ingress_rule: NO_RULE };
        let sides = [
            (ends.src, Direction::Egress, *dst, &mut admitted.egress_rule),
            (ends.dst, Direction::Ingress, *src, &mut admitted.ingress_rule),
        ];
        for (endpoint, direction, peer, rule) in sides {
            let Some(endpoint) = endpoint.filter(|endpoint| endpoint.enforced_here) else { continue };
            let decision = network.policy.decide(endpoint.id, direction, peer, probe);
            if let Some(reason) = decision.drop_reason(direction) {
                return Err(Refusal {
                    reason,
                    by: Some(endpoint.id),
                    rule: decision.rule.map(|rule| rule.0),
                });
            }
            *rule = decision.rule.map_or(NO_RULE, |rule| rule.0);
        }
        Ok(admitted)
    }

    /// Whether one receiver of a BUM frame may have it. There is no flow: each frame is decided by itself.
    pub(super) fn may_receive(
        &self,
        network: &'s Network,
        endpoint: &'s Endpoint,
        view: &View,
    ) -> Result<(), Refusal> {
        let Some(ip) = view.ip() else { return Ok(()) };
        let ends = Ends { src: None, dst: Some(endpoint) };
        let inquiry = Inquiry { ends, src: ip.src, dst: ip.dst, probe: Probe::of(ip)? };
        self.ask_policy(network, &inquiry).map(drop)
    }
}

impl<'s> Inquiry<'s> {
    /// What a flow is decided by that a packet with the key `opener` began, or would have begun.
    fn of_flow(ends: Ends<'s>, segment: &Segment, opener: &FlowKey) -> Self {
        let query = match segment.kind {
            SegmentKind::Query(query) => Some(query),
            SegmentKind::Later(later) => later.query,
            _ => None,
        };
        Self { ends, src: opener.src, dst: opener.dst, probe: probe_of(query, opener) }
    }
}

impl Network {
    /// Counts a flow for the rules that admitted it.
    pub(super) fn count_hits(&self, admitted: &Admitted) {
        for rule in [admitted.egress_rule, admitted.ingress_rule] {
            if let Some(hits) = self.hits.get(rule as usize) {
                hits.fetch_add(1, Relaxed);
            }
        }
    }
}

/// What the rules look at in a flow that began with `opener`.
pub(super) fn probe_of(query: Option<Query>, opener: &FlowKey) -> Probe {
    let header = match (query, PortProtocol::from_number(opener.proto)) {
        (Some(query), _) => Header::Icmp { kind: query.kind, code: query.code },
        (None, Some(_)) => Header::Ports { source: opener.sport, destination: opener.dport },
        (None, None) => Header::Unread,
    };
    Probe { proto: opener.proto, header }
}
