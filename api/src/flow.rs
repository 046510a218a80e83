//! Flows: those that live, those that are expected, and what they have to do with each other.

use std::collections::BTreeMap;

use eastgate_wire::{Addr, Vni};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::RuleRef;

/// One row of `show flows`.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct FlowRow {
    /// Network
    pub vni: Vni,
    /// Protocol name or number
    pub proto: String,
    /// Source of the first packet
    pub src: Addr,
    /// Its port or ICMP identifier
    pub sport: u16,
    /// Destination of the first packet
    pub dst: Addr,
    /// Its port
    pub dport: u16,
    /// On a leg of its way (a packet that an endpoint forwards is a flow on either side of it): the endpoint, as tenant/name,
    /// or `several` where one forwards to another
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// State, in conntrack's words where it has one
    pub state: String,
    /// Packets from the source
    pub packets: u64,
    /// Bytes from the source
    pub bytes: u64,
    /// Packets back
    pub reply_packets: u64,
    /// Bytes back
    pub reply_bytes: u64,
    /// Its packets pass in the kernel's programs.
    pub offloaded: bool,
    /// Seconds until it is forgotten
    pub expires_s: u64,
    /// The egress rule that admitted it
    pub egress_rule: Option<RuleRef>,
    /// The ingress rule that admitted it
    pub ingress_rule: Option<RuleRef>,
    /// One of them would have refused it, if it were not being tried out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub audit: bool,
    /// It is or was a probe's (`eastgate probe`): the appliance has begun it in the name of its source.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub probe: bool,
    /// The helper that follows it
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub helper: Option<String>,
    /// What it follows from, where a helper has let it begin
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub related: Option<RelatedTo>,
    /// Its number, as events have it
    #[serde(default)]
    pub id: u64,
    /// The snapshot that admitted it
    pub epoch: u32,
}

/// A control flow, as one that follows from it has it.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct RelatedTo {
    /// The helper that has read it
    pub helper: String,
    /// Source of its first packet
    pub src: Addr,
    /// Its port
    pub sport: u16,
    /// Destination of its first packet
    pub dst: Addr,
    /// Its port
    pub dport: u16,
}

/// A flow that is expected.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct ExpectationRow {
    /// Network
    pub vni: Vni,
    /// Protocol name
    pub proto: String,
    /// Who opens it, from any port
    pub src: Addr,
    /// To whom
    pub dst: Addr,
    /// To which port
    pub dport: u16,
    /// What it follows from
    pub related: RelatedTo,
    /// Seconds until it is expected no more
    pub expires_s: u64,
}

/// What helpers have found out.
#[derive(Clone, PartialEq, Eq, Debug, Default, JsonSchema, Serialize, Deserialize)]
pub struct HelperCounts {
    /// Flows that are expected at the moment
    pub expected: u64,
    /// Announcements that made a flow expected
    pub announced: u64,
    /// Flows that have begun because they were expected
    pub begun: u64,
    /// Those that did not come in time
    pub overdue: u64,
    /// Those that had to make room for a newer one of the same endpoint
    pub made_room: u64,
    /// Announcements that there was no room for
    pub limited: u64,
    /// Announcements that nothing follows from, by reason
    pub unheeded: BTreeMap<String, u64>,
}
