//! What has happened: flows that began and ended, packets that rules have refused.

use eastgate_wire::{Addr, Vni};
use serde::{Deserialize, Serialize};

use crate::{RelatedTo, RuleRef};

/// The most events of one answer.
pub const MAX_EVENTS: usize = 1_000;

/// What it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// A flow began.
    Begun,
    /// A flow ended.
    Ended,
    /// A packet was refused by the rules, the first of its kind: further ones are counted in `show drops`. Of a rule with
    /// `log` each is told.
    Denied,
    /// A packet passed that the rules would have refused, if the one that did were not being tried out; the first of its kind, or
    /// each, likewise.
    WouldBeDenied,
}

impl EventKind {
    /// As JSON and the command line have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Ended => "ended",
            Self::Denied => "denied",
            Self::WouldBeDenied => "would-be-denied",
        }
    }
}

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EventRow {
    /// Its number. Numbers have no gaps but where events were lost.
    pub seq: u64,
    /// When, in milliseconds since 1970 (UTC)
    pub time_ms: u64,
    /// What
    pub event: EventKind,
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
    /// Of a flow that ended: `closed`, `expired`, `evicted`, `refused` or `killed`. Of a packet: the name of the drop's reason
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Of a flow that ended: its state
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Of a flow that ended: how long there was anything of it, in milliseconds
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lasted_ms: Option<u64>,
    /// Of a flow that ended: packets from the source. Of packets that were refused: how many of them this tells of
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<u64>,
    /// Likewise: bytes
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Likewise: packets back
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_packets: Option<u64>,
    /// Likewise: bytes back
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_bytes: Option<u64>,
    /// Its packets and bytes are as they were when the pipeline handed it to the kernel's programs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
    /// The egress rule that admitted the flow, as long as its policy is in force
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_rule: Option<RuleRef>,
    /// The ingress rule that admitted it, likewise
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_rule: Option<RuleRef>,
    /// Of a packet: the rule, or which groups had none that allows it, and where that is written
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused_by: Option<RuleRef>,
    /// Of a flow that a helper has let begin: what it follows from
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub related: Option<RelatedTo>,
    /// A rule that it comes of has `log`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub log: bool,
}

/// The answer to [`Request::Events`](crate::Request::Events).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Events {
    /// The events, oldest first
    pub events: Vec<EventRow>,
    /// Where they go on, for [`Filter::after`](crate::Filter::after): also when there are none yet
    pub next: String,
    /// How many there were, between those that were asked for and these, that are gone: nobody fetched them in time
    pub lost: u64,
}
