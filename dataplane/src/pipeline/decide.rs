//! Steps 3 and 4: the flow a packet belongs to, and whether the policy lets it begin.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use eastgate_conntrack::{
    flow::{
        Admitted, Direction as FlowDirection, FlowTable, Hit, Population, Query, Segment, SegmentKind,
        StateSettings, Tracked, offload_key,
    },
    fragment::{DatagramKey, FragmentSettings, FragmentStep, Verdict, Waiting},
};
use eastgate_policy::rule::{Direction, Header, PortProtocol, Probe};
use eastgate_vtep::{fdb::Location, offload::checksum_fits};
use eastgate_wire::{
    Addr, DropReason, FlowKey, Frame, Instant, Leg, MacAddr, View,
    view::{IcmpRole, Ip, Transport, tcp_flags},
};

use super::{Arrival, Destination, Pipeline, Refusal, offload::Settled, shared::lock};
use crate::snapshot::{Endpoint, Network};

/// In place of a rule's number where no rule was asked: the other host's eastgate asks it.
const NO_RULE: u32 = u32::MAX;

/// What came of a packet that no rule refuses.
pub(super) enum Decided<'s> {
    /// It goes on. Its flow, when that has settled.
    Passes(Option<Settled<'s>>),
    /// It waits for the first fragment of its datagram.
    Waits,
}

/// The two ends of a packet, as far as they are endpoints.
#[derive(Clone, Copy)]
struct Ends<'s> {
    src: Option<&'s Endpoint>,
    dst: Option<&'s Endpoint>,
}

impl<'s> Pipeline<'s> {
    /// Whether the packet passes, as part of a flow or as the first of a new one. The flow, when it has settled.
    pub(super) fn decide(
        &mut self,
        arrival: &Arrival<'s>,
        to: &Destination<'s>,
        view: &View,
        frame: &Frame<'_>,
        now: Instant,
    ) -> Result<Decided<'s>, Refusal> {
        let passes = Decided::Passes(None);
        let Some(ip) = view.ip() else { return to.may_be_other_than_ip().map(|()| passes) };
        match *to {
            Destination::Station { control: true, .. }
            | Destination::Flood { control: true }
            | Destination::Role(_)
            | Destination::Sharers => Ok(passes),
            Destination::Group | Destination::Flood { control: false } => {
                let ends = Ends { src: arrival.sender, dst: None };
                self.rules(arrival.network, ends, ip.src, ip.dst, &Probe::of(ip)?).map(|_| passes)
            }
            Destination::Station { endpoint, .. } => {
                self.enforce(arrival, Ends { src: arrival.sender, dst: endpoint }, ip, frame, now)
            }
        }
    }

    fn enforce(
        &mut self,
        arrival: &Arrival<'s>,
        ends: Ends<'s>,
        ip: &Ip,
        frame: &Frame<'_>,
        now: Instant,
    ) -> Result<Decided<'s>, Refusal> {
        if ip.fragment.is_none() {
            return self
                .enforce_packet(arrival, ends, ip, frame, now)
                .map(|(_, settled)| Decided::Passes(settled));
        }
        let passes = Decided::Passes(None);
        let network = arrival.network;
        let settings = FragmentSettings { limit: network.state.fragments, ..FragmentSettings::default() };
        // The lock is not held while the flow is looked up: the two tables never wait for each other.
        match self.look_at_fragment(arrival, ends, ip, frame, &settings, now)? {
            FragmentStep::Whole => self
                .enforce_packet(arrival, ends, ip, frame, now)
                .map(|(_, settled)| Decided::Passes(settled)),
            FragmentStep::First(datagram) => {
                let decided = self.enforce_packet(arrival, ends, ip, frame, now);
                let hint = receiver(ends.dst);
                let verdict = decided
                    .as_ref()
                    .map_or(Verdict::Refused, |(first, _)| Verdict::Allowed { first: *first, hint });
                let waited = lock(&self.shared.fragments).settle(datagram, verdict);
                self.released.extend(waited.into_iter().map(|frame| (network.vni, frame)));
                // Others like it may begin elsewhere; of the flow itself, the other fragments are still to come.
                decided
                    .map(|(_, settled)| Decided::Passes(settled.filter(|settled| settled.opened.is_some())))
            }
            FragmentStep::Early(_) => Ok(Decided::Waits),
            // Only the receiver that the first fragment was decided for has a use for the others, and its rules are
            // the ones that were asked.
            FragmentStep::Later { hint, .. } if hint != receiver(ends.dst) => {
                Err(DropReason::FragmentRefused.into())
            }
            FragmentStep::Later { segment: Some(segment), last, .. } => {
                let segment = Segment { bytes: frame.len() as u32, ..segment };
                let settled = self.track(network, ends, &segment, &|| true, now)?;
                Ok(Decided::Passes(settled.filter(|_| last)))
            }
            FragmentStep::Later { segment: None, .. } => Ok(passes),
            FragmentStep::Drop(reason) => Err(reason.into()),
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

    /// The segment of a flow that passed, none for what passes without a flow; and the flow, when it has settled.
    fn enforce_packet(
        &self,
        arrival: &Arrival<'s>,
        ends: Ends<'s>,
        ip: &Ip,
        frame: &Frame<'_>,
        now: Instant,
    ) -> Result<(Option<Segment>, Option<Settled<'s>>), Refusal> {
        let network = arrival.network;
        if let Transport::Icmp(icmp) = ip.transport
            && icmp.role(ip.src.is_v4()) == IcmpRole::Error
        {
            return self.related(network, ends, ip, frame, now).map(|()| (None, None));
        }
        let intact = || checksum_fits(frame, ip);
        // What its receiver will not believe moves nothing here either.
        if matches!(ip.transport, Transport::Tcp(_)) && !intact() {
            return Err(DropReason::BadChecksum.into());
        }
        match Segment::of(network.vni, ip, packets(frame), frame.len() as u32) {
            Some(segment) => {
                let segment = Segment { key: network.on_leg(segment.key, ends.src, ends.dst), ..segment };
                self.track(network, ends, &segment, &intact, now).map(|settled| (Some(segment), settled))
            }
            // ICMP that is neither query nor error begins no flow: each message is decided by itself.
            None => self.rules(network, ends, ip.src, ip.dst, &Probe::of(ip)?).map(|_| (None, None)),
        }
    }

    /// `intact` says whether the packet's checksum is right; it is asked before the packet begins a flow.
    fn track(
        &self,
        network: &'s Arc<Network>,
        ends: Ends<'s>,
        segment: &Segment,
        intact: &dyn Fn() -> bool,
        now: Instant,
    ) -> Result<Option<Settled<'s>>, Refusal> {
        let mut flows = self.shared.flows(&segment.key);
        let mut tracked = self.track_in(&mut flows, network, ends, segment, intact, now);
        if let Err(Refusal { reason: DropReason::TcpWindow | DropReason::TcpState, .. }) = tracked
            && let Some(moved) = just_moved(network, ends, now)
            && flows.forget_unheard(segment, moved, now)
        {
            // It was here before, and the connection has gone on elsewhere meanwhile.
            tracked = self.track_in(&mut flows, network, ends, segment, intact, now);
        }
        self.shared.recall(&mut flows);
        tracked
    }

    fn track_in(
        &self,
        flows: &mut FlowTable,
        network: &'s Arc<Network>,
        ends: Ends<'s>,
        segment: &Segment,
        intact: &dyn Fn() -> bool,
        now: Instant,
    ) -> Result<Option<Settled<'s>>, Refusal> {
        let (epoch, elsewhere) = (network.epoch, segment.offload_key());
        let lost = self.shared.import(flows, network, elsewhere, now)?;
        // A connection that a daemon before had when it was killed, or another host before one of its ends has come here, is
        // picked up in mid-stream, if the policy lets it in.
        let loose = network.tracking.loose || lost || just_moved(network, ends, now).is_some();
        let tracking = StateSettings { loose, ..network.tracking };
        let mut tracked = flows.track(segment, &tracking, epoch, now);
        if let Tracked::Offloaded { flow, original } = tracked {
            self.shared.reclaim(flows, network, flow, &original, now);
            tracked = flows.track(segment, &tracking, epoch, now);
        }
        if tracked == Tracked::Drop(DropReason::FlowLimit)
            && let Some(account) = flows.payer(segment)
            && self.shared.make_room_elsewhere(&account, Population::Replied, now)
        {
            tracked = flows.track(segment, &tracking, epoch, now);
        }
        match tracked {
            Tracked::Pass(hit) if is_of_its_ends(flows, &hit, ends) => {
                Ok(self.settled(flows, &hit, ends, segment))
            }
            Tracked::Pass(hit) => {
                // The flow was decided for other ends: the same addresses with another MAC are no way around these
                // ones' rules, nor does this packet change for whom the flow was decided. Between these ends, too, a
                // reply passes where the packet that it answers would.
                let of_packet = ends;
                let (original, ends) = match hit.direction {
                    FlowDirection::Original => (segment.key, ends),
                    FlowDirection::Reply => (segment.key.reversed(), Ends { src: ends.dst, dst: ends.src }),
                };
                let probe = probe(segment, &original);
                self.rules(network, ends, original.src, original.dst, &probe)?;
                // But an address itself may be at another one by now.
                let FlowKey { src, dst, .. } = segment.key;
                let to = (of_packet.dst, dst, hit.direction);
                for (end, address, direction) in [to, (of_packet.src, src, hit.direction.reversed())] {
                    if end.is_some_and(|end| network.has_moved_to(address, end)) {
                        flows.set_hint(hit.flow, direction, receiver(end));
                    }
                }
                Ok(None)
            }
            Tracked::Drop(reason) => Err(reason.into()),
            // It was taken back a moment ago, under the same lock.
            Tracked::Offloaded { .. } => Err(DropReason::NotReady.into()),
            Tracked::New if !intact() => Err(DropReason::BadChecksum.into()),
            Tracked::New => {
                let (admitted, direction) = self.may_begin(network, ends, segment)?;
                if !self.shared.reserve(elsewhere)? {
                    // It has begun elsewhere since it was looked for.
                    self.shared.import(flows, network, elsewhere, now)?;
                    if elsewhere.is_some_and(|key| flows.knows(&key)) {
                        return self.track_in(flows, network, ends, segment, intact, now);
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
                Ok(self.opened(&hit, ends, segment, admitted))
            }
            Tracked::Stale { flow, original, .. } => {
                // The flow is decided as its first packet was, whichever way this one goes.
                let ends_of_packet = ends;
                let ends = if original.src == segment.key.src && original.sport == segment.key.sport {
                    ends
                } else {
                    Ends { src: ends.dst, dst: ends.src }
                };
                match self.rules(network, ends, original.src, original.dst, &probe(segment, &original)) {
                    Ok(admitted) => {
                        flows.confirm(flow, &admitted);
                        flows.set_hint(flow, FlowDirection::Original, receiver(ends.dst));
                        flows.set_hint(flow, FlowDirection::Reply, receiver(ends.src));
                        match flows.track(segment, &network.tracking, epoch, now) {
                            Tracked::Drop(reason) => Err(reason.into()),
                            // A SYN on the ports of a connection that is over: another one, and its ends may be others.
                            Tracked::New => {
                                self.track_in(flows, network, ends_of_packet, segment, intact, now)
                            }
                            Tracked::Pass(hit) => Ok(self.settled(flows, &hit, ends_of_packet, segment)),
                            // It was confirmed, or taken back, a moment ago under the same lock.
                            Tracked::Stale { .. } | Tracked::Offloaded { .. } => {
                                Err(DropReason::NotReady.into())
                            }
                        }
                    }
                    Err(refusal) => {
                        flows.refuse(flow, now);
                        Err(Refusal { reason: DropReason::PolicyChanged, ..refusal })
                    }
                }
            }
        }
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
        let refused = match self.rules(network, ends, key.src, key.dst, &probe(segment, &key)) {
            Ok(admitted) => return Ok((admitted, FlowDirection::Original)),
            Err(refused) => refused,
        };
        match &segment.kind {
            SegmentKind::Tcp(tcp) if tcp.flags & tcp_flags::SYN == 0 => {
                let (opener, key) = (Ends { src: ends.dst, dst: ends.src }, key.reversed());
                let admitted = self.rules(network, opener, key.src, key.dst, &probe(segment, &key));
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

    /// The flow of a packet that passed, when it has settled between two endpoints and someone faster can have it.
    fn settled(
        &self,
        flows: &FlowTable,
        hit: &Hit,
        ends: Ends<'s>,
        segment: &Segment,
    ) -> Option<Settled<'s>> {
        if !hit.settled || !self.shared.offloads() {
            return None;
        }
        let (src, dst) = (ends.src?, ends.dst?);
        let decided = is_of_its_ends(flows, hit, ends);
        let (flow, direction) = (hit.flow, hit.direction);
        decided.then_some(Settled { flow, key: segment.key, direction, src, dst, opened: None })
    }

    /// An ICMP error passes when it quotes a packet of a live flow, on its way to the one who sent it.
    fn related(
        &self,
        network: &'s Arc<Network>,
        ends: Ends<'s>,
        ip: &Ip,
        frame: &Frame<'_>,
        now: Instant,
    ) -> Result<(), Refusal> {
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
        let mut tracked = flows.related(&key, &quoted, ip.dst, &network.tracking, network.epoch, now);
        if let Tracked::Offloaded { flow, original } = tracked {
            self.shared.reclaim(&mut flows, network, flow, &original, now);
            tracked = flows.related(&key, &quoted, ip.dst, &network.tracking, network.epoch, now);
        }
        match tracked {
            Tracked::Pass(hit) if hit.hint == receiver(ends.dst) => Ok(()),
            Tracked::Pass(_) => Err(DropReason::IcmpUnrelated.into()),
            Tracked::Drop(reason) => Err(reason.into()),
            Tracked::New | Tracked::Offloaded { .. } => Err(DropReason::IcmpUnrelated.into()),
            // Whoever has the receiver's address now, the flow's own packets must have found it first.
            Tracked::Stale { hint, .. } if hint != receiver(ends.dst) => {
                Err(DropReason::IcmpUnrelated.into())
            }
            Tracked::Stale { original, .. } => {
                // The error goes to the one who sent the quoted packet: its receiver is that packet's sender.
                let forward = original.src == quoted.src && original.sport == quoted.sport;
                let ends = if forward { Ends { src: ends.dst, dst: ends.src } } else { ends };
                let header = query.map_or(ports(original.proto, original.sport, original.dport), |query| {
                    Header::Icmp { kind: query.kind, code: query.code }
                });
                let probe = Probe { proto: original.proto, header };
                self.rules(network, ends, original.src, original.dst, &probe).map(drop)
            }
        }
    }

    /// Egress rules of the source, then ingress rules of the destination: of those ends whose rules are applied
    /// on this host.
    fn rules(
        &self,
        network: &'s Network,
        ends: Ends<'s>,
        src: Addr,
        dst: Addr,
        probe: &Probe,
    ) -> Result<Admitted, Refusal> {
        let mut admitted = Admitted { epoch: network.epoch, egress_rule: NO_RULE, ingress_rule: NO_RULE };
        let sides = [
            (ends.src, Direction::Egress, dst, &mut admitted.egress_rule),
            (ends.dst, Direction::Ingress, src, &mut admitted.ingress_rule),
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
        self.rules(network, ends, ip.src, ip.dst, &Probe::of(ip)?).map(drop)
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
fn receiver(endpoint: Option<&Endpoint>) -> u64 {
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
fn packets(frame: &Frame<'_>) -> u32 {
    frame.offload.gso.map_or(1, |gso| (frame.len() as u32).div_ceil(u32::from(gso.segment).max(1)).max(1))
}

/// What the rules look at in a flow that began with `key`.
fn probe(segment: &Segment, key: &FlowKey) -> Probe {
    let query = match segment.kind {
        SegmentKind::Query(query) => Some(query),
        SegmentKind::Later(later) => later.query,
        _ => None,
    };
    let header = match query {
        Some(query) => Header::Icmp { kind: query.kind, code: query.code },
        None => ports(key.proto, key.sport, key.dport),
    };
    Probe { proto: key.proto, header }
}

fn ports(proto: u8, source: u16, destination: u16) -> Header {
    match PortProtocol::from_number(proto) {
        Some(_) => Header::Ports { source, destination },
        None => Header::Unread,
    }
}

/// The location of an end, for messages.
impl Arrival<'_> {
    /// Did it come in at a tenant port?
    #[must_use]
    pub const fn is_local(&self) -> bool {
        matches!(self.from, Location::Local(_))
    }
}
