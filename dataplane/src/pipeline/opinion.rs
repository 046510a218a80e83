//! What the policies of a network say of a flow that was decided by others: those of a version that is not in force.

use eastgate_conntrack::{expect::Related, flow::Query};
use eastgate_wire::{
    DropReason, EndpointId, FlowKey,
    view::{HeaderBits, proto},
};

use super::{
    ruling::{Fate, Inquiry, NO_RULE, probe_of},
    track::Ends,
};
use crate::snapshot::{Endpoint, Network};

/// What becomes of a packet that begins a flow, as far as it is up to the rules of the ends whose policies this host applies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Opinion {
    /// It passes, by these rules; none where nobody here is asked.
    Passes {
        /// Of the source
        egress: Option<u32>,
        /// Of the destination
        ingress: Option<u32>,
    },
    /// It does not.
    Refused {
        /// Why
        reason: DropReason,
        /// Whose rules refuse it
        by: Option<EndpointId>,
        /// The rule
        rule: Option<u32>,
    },
}

impl Network {
    /// What its policies say of a packet with this key and these bits of its headers, between these ends: sender and receiver, where they
    /// are endpoints. A rule that is tried out refuses nothing. `related` is what its flow follows from.
    #[must_use]
    pub fn opinion(
        &self,
        [src, dst]: [Option<&Endpoint>; 2],
        opener: &FlowKey,
        icmp: Option<(u8, u8)>,
        header: HeaderBits,
        related: Option<Related>,
    ) -> Opinion {
        let ends = Ends { src, dst };
        // Of a flow of ICMP whose first message is not known, that was an echo request.
        let echo = match opener.proto {
            proto::ICMP => Some((8, 0)),
            proto::ICMPV6 => Some((128, 0)),
            _ => None,
        };
        let query = icmp.or(echo).map(|(kind, code)| Query { request: true, kind, code });
        let probe = probe_of(query, opener, header);
        let ruling = self.ask_policy(&Inquiry { ends, src: opener.src, dst: opener.dst, probe, related });
        match ruling.fate {
            Fate::Allowed(admitted) | Fate::WouldBeDenied(admitted, _) => {
                let rule = |number: u32| (number != NO_RULE).then_some(number);
                Opinion::Passes { egress: rule(admitted.egress_rule), ingress: rule(admitted.ingress_rule) }
            }
            Fate::Denied(refusal) | Fate::Rejected(refusal) => {
                Opinion::Refused { reason: refusal.reason, by: refusal.by, rule: refusal.rule }
            }
        }
    }
}
