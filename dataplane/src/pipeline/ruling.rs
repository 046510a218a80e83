//! What the policies of both ends of a packet come to.

use eastgate_conntrack::{
    expect::Related,
    flow::{Admitted, Direction as FlowDirection, Query, Segment, SegmentKind},
};
use eastgate_policy::rule::{
    Action, ChainId, Decision, Direction, Header, PortProtocol, Probe, RuleId, Verdict,
};
use eastgate_wire::{
    Addr, DropReason, EndpointId, FlowKey, Helper,
    view::{HeaderBits, Ip, proto, tcp_flags},
};

use super::{Refusal, track::Ends};
use crate::snapshot::{Endpoint, Network};

/// In place of a rule's number where no rule was asked: the other host's eastgate asks it.
pub(super) const NO_RULE: u32 = u32::MAX;

/// What the policy is asked: whether such a packet may go from one end to the other.
#[derive(Clone, Copy)]
pub(super) struct Inquiry<'s> {
    pub(super) ends: Ends<'s>,
    pub(super) src: Addr,
    pub(super) dst: Addr,
    pub(super) probe: Probe,
    /// What its flow follows from, where a helper has found that out: rules that name the helper let it pass as well.
    pub(super) related: Option<Related>,
}

/// What becomes of a packet, and what beside that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ruling {
    pub(super) fate: Fate,
    /// The service chains that the source's egress and the destination's ingress lead it through
    pub(super) chains: [Option<ChainId>; 2],
    /// What the flow counts in: of the source's egress and the destination's ingress
    pub(super) limits: [Option<Limited>; 2],
    /// Who is to follow the flow, as the source's egress and the destination's ingress say
    pub(super) helpers: [Option<Helper>; 2],
}

/// A rule that allows so much for each source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Limited {
    /// Whose rule it is
    pub(super) endpoint: EndpointId,
    /// Its number
    pub(super) rule: u32,
    /// Who opens the flow
    pub(super) source: Addr,
    /// What is more is logged
    pub(super) log: bool,
    /// What is more passes, and is told
    pub(super) audit: bool,
}

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// It passes.
    Allowed(Admitted),
    /// It passes, since the rule that would refuse it is being tried out.
    WouldBeDenied(Admitted, Refusal),
    /// It is dropped.
    Denied(Refusal),
    /// It is dropped, and its sender is to be told.
    Rejected(Refusal),
}

impl Ruling {
    /// By what the packet passes, or why it does not.
    pub(super) const fn enforce(&self) -> Result<Admitted, Refusal> {
        match self.fate {
            Fate::Allowed(admitted) | Fate::WouldBeDenied(admitted, _) => Ok(admitted),
            Fate::Denied(refusal) | Fate::Rejected(refusal) => Err(refusal),
        }
    }

    /// The rules allow the packet.
    pub(super) const fn allows(&self) -> bool {
        matches!(self.fate, Fate::Allowed(_))
    }

    /// The packet passes, and that is all: flows like its own may begin without anyone here seeing them.
    pub(super) const fn is_plain(&self) -> bool {
        matches!((self.fate, self.chains, self.limits), (Fate::Allowed(_), [None, None], [None, None]))
    }

    /// Who is to follow the flow.
    pub(super) fn helper(&self) -> Option<Helper> {
        let [egress, ingress] = self.helpers;
        egress.or(ingress)
    }

    /// The packet passes, and each end that was asked keeps state of it.
    pub(super) fn is_stateful(&self) -> bool {
        self.enforce().is_ok_and(|admitted| admitted.stateless == [false; 2])
    }

    /// The packet passes, and no end that was asked keeps state of it.
    pub(super) fn is_stateless(&self) -> bool {
        let Fate::Allowed(Admitted { egress_rule, ingress_rule, stateless, .. }) = self.fate else {
            return false;
        };
        let ends = stateless.into_iter().zip([egress_rule, ingress_rule]);
        stateless.contains(&true) && { ends }.all(|(stateless, rule)| stateless || rule == NO_RULE)
    }
}

impl<'s> Inquiry<'s> {
    /// What a packet is decided by that is of no flow.
    pub(super) fn of_ip(ends: Ends<'s>, ip: &Ip) -> Result<Self, DropReason> {
        Ok(Self { ends, src: ip.src, dst: ip.dst, probe: Probe::of(ip)?, related: None })
    }

    /// What a flow is decided by that a packet with the key `opener` and these bits of its headers began, or would have begun.
    pub(super) fn of_flow(ends: Ends<'s>, segment: &Segment, opener: &FlowKey, header: HeaderBits) -> Self {
        let query = match segment.kind {
            SegmentKind::Query(query) => Some(query),
            SegmentKind::Later(later) => later.query,
            _ => None,
        };
        let probe = probe_of(query, opener, header);
        Self { ends, src: opener.src, dst: opener.dst, probe, related: None }
    }

    /// What a packet is decided by for itself, whatever it answers.
    pub(super) fn of_packet(ends: Ends<'s>, segment: &Segment) -> Self {
        let mut inquiry = Self::of_flow(ends, segment, &segment.key, segment.header);
        if let SegmentKind::Query(query) = segment.kind {
            inquiry.probe.header = Header::Icmp { kind: query.own_kind(), code: query.code };
        }
        inquiry
    }
}

impl Network {
    /// What the egress policy of the source says, then the ingress policy of the destination: of those ends whose policies
    /// are applied on this host.
    pub(super) fn ask_policy(&self, inquiry: &Inquiry<'_>) -> Ruling {
        self.ask_policy_of(inquiry, |end| end.enforced_here)
    }

    /// Whether a segment in mid-stream, of a connection that nobody here knows, is an answer in it: the rules do not let one begin as the
    /// segment goes, but the other way round. The rules of both ends are asked, on whichever host they are applied, so that all hosts
    /// say the same: were each to go by those that it applies, the sender's would take it for the first packet, the receiver's for its
    /// answer, and neither would ask the rule that forbids it. Where an end is not known, hosts know different things, and it is no
    /// answer.
    pub(super) fn is_answer(&self, ends: Ends<'_>, segment: &Segment) -> bool {
        if ends.src.is_none() || ends.dst.is_none() {
            return false;
        }
        // A connection begins by a SYN, whatever the segment at hand has.
        let tcp_flags =
            if segment.key.proto == proto::TCP { tcp_flags::SYN } else { segment.header.tcp_flags };
        let first = HeaderBits { tcp_flags, ..segment.header };
        let ask =
            |ends, key: &FlowKey| self.ask_policy_of(&Inquiry::of_flow(ends, segment, key, first), |_| true);
        let forwards = ask(ends, &segment.key);
        let backwards = ask(ends.reversed(), &segment.key.reversed());
        !forwards.allows()
            && (backwards.allows() || forwards.enforce().is_err() && backwards.enforce().is_ok())
    }

    fn ask_policy_of(&self, inquiry: &Inquiry<'_>, asked: impl Fn(&Endpoint) -> bool) -> Ruling {
        let Inquiry { ends, src, dst, probe, related } = inquiry;
        let helped = related.as_ref().map_or([None; 2], |related| self.helped(inquiry, related));
        let mut admitted = Admitted {
            epoch: self.compiled,
            egress_rule: NO_RULE,
            ingress_rule: NO_RULE,
            stateless: [false; 2],
        };
        let (mut chains, mut limits, mut helpers, mut would_refuse) = ([None; 2], [None; 2], [None; 2], None);
        let sides = [
            (ends.src, Direction::Egress, *dst, &mut admitted.egress_rule),
            (ends.dst, Direction::Ingress, *src, &mut admitted.ingress_rule),
        ];
        let sides = sides.into_iter().zip(&mut admitted.stateless).zip(helped);
        for (((((endpoint, direction, peer, rule), stateless), helped), (chain, limit)), helper) in
            sides.zip(chains.iter_mut().zip(&mut limits)).zip(&mut helpers)
        {
            let Some(endpoint) = endpoint.filter(|endpoint| asked(endpoint)) else { continue };
            let decision = self.policy.decide(endpoint.id, direction, peer, probe);
            let decision = helped.map_or(decision, |rule| self.as_helped(decision, rule));
            let number = decision.rule.map(|rule| rule.0);
            let refusal = decision.denial(direction).map(|reason| Refusal {
                reason,
                by: Some(endpoint.id),
                rule: number,
                reject: decision.verdict.action == Action::Reject,
                log: decision.verdict.log,
            });
            match refusal {
                Some(refusal) if !decision.verdict.passes() => {
                    let fate = match decision.verdict.action {
                        Action::Reject => Fate::Rejected(refusal),
                        Action::Allow | Action::Deny => Fate::Denied(refusal),
                    };
                    return Ruling { fate, chains: [None; 2], limits: [None; 2], helpers: [None; 2] };
                }
                refusal => would_refuse = would_refuse.or(refusal),
            }
            *chain = decision.verdict.chain;
            let Verdict { log, audit, limited, .. } = decision.verdict;
            let limited = number.filter(|_| limited);
            *limit = limited.map(|rule| Limited { endpoint: endpoint.id, rule, source: *src, log, audit });
            *stateless = decision.verdict.stateless;
            *helper = decision.verdict.helper;
            *rule = number.unwrap_or(NO_RULE);
        }
        let fate = match would_refuse {
            None => Fate::Allowed(admitted),
            Some(refusal) => Fate::WouldBeDenied(admitted, refusal),
        };
        Ruling { fate, chains, limits, helpers }
    }

    /// The rules of the sender and the receiver of a packet that name the helper which has announced its flow: those by which the
    /// control flow would begin now.
    fn helped(&self, inquiry: &Inquiry<'_>, related: &Related) -> [Option<u32>; 2] {
        let Inquiry { ends, src, dst, .. } = *inquiry;
        let Related { helper, opener, sport, dport, header } = *related;
        let (ends, src, dst) = match opener {
            FlowDirection::Original => (ends, src, dst),
            FlowDirection::Reply => (ends.reversed(), dst, src),
        };
        let ports = Header::Ports { source: sport, destination: dport };
        let HeaderBits { dscp, tcp_flags } = header;
        let probe = Probe { proto: helper.protocol(), header: ports, dscp, tcp_flags };
        let control = self.ask_policy(&Inquiry { ends, src, dst, probe, related: None });
        let Ok(Admitted { egress_rule, ingress_rule, .. }) = control.enforce() else { return [None; 2] };
        let [egress, ingress] = control.helpers.map(|named| named == Some(helper));
        let (egress, ingress) = (egress.then_some(egress_rule), ingress.then_some(ingress_rule));
        match opener {
            FlowDirection::Original => [egress, ingress],
            FlowDirection::Reply => [ingress, egress],
        }
    }

    /// What becomes of a packet whose flow a helper has announced, by the `rule` of the same end that names the helper: what is
    /// denied behind that rule passes by it.
    fn as_helped(&self, decision: Decision, rule: u32) -> Decision {
        let is_denied = decision.verdict.action != Action::Allow;
        if is_denied && self.rules.is_before(rule, decision.rule.map(|rule| rule.0)) {
            return Decision { verdict: Verdict::ALLOW, rule: Some(RuleId(rule)) };
        }
        decision
    }
}

impl Network {
    /// Whether the sender of a TCP segment that is of no connection is told so: where the network says it, and the policies of both
    /// ends, on whichever host they are applied, would let it connect. So it learns of nothing that they hide. Who may send from
    /// any address is told nothing: it may be another's.
    pub(super) fn tells_unknown(&self, ends: Ends<'_>, segment: &Segment) -> bool {
        let Ends { src: Some(src), dst: Some(dst) } = ends else { return false };
        if !self.resets_unknown || !src.sender.port_security {
            return false;
        }
        let key = &segment.key;
        let first = HeaderBits { tcp_flags: tcp_flags::SYN, ..segment.header };
        let probe = probe_of(None, key, first);
        let sides = [(src, Direction::Egress, key.dst), (dst, Direction::Ingress, key.src)];
        sides.iter().all(|(end, direction, peer)| {
            self.policy.decide(end.id, *direction, *peer, &probe).verdict.passes()
        })
    }
}

/// What the rules look at in a flow that began with a packet with the key `opener` and these bits of its headers.
pub(super) fn probe_of(query: Option<Query>, opener: &FlowKey, bits: HeaderBits) -> Probe {
    let header = match (query, PortProtocol::from_number(opener.proto)) {
        (Some(query), _) => Header::Icmp { kind: query.kind, code: query.code },
        (None, Some(_)) => Header::Ports { source: opener.sport, destination: opener.dport },
        (None, None) => Header::Unread,
    };
    let HeaderBits { dscp, tcp_flags } = bits;
    Probe { proto: opener.proto, header, dscp, tcp_flags }
}
