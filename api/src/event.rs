//! What has happened: flows that began and ended, frames that were dropped.

use eastgate_wire::{Addr, DropGroup, DropReason, MacAddr, Vni};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{RelatedTo, RuleRef};

/// The most events of one answer.
pub const MAX_EVENTS: usize = 1_000;

/// How flows end, as [`EventRow::reason`] has it.
pub const FLOW_ENDINGS: [&str; 5] = ["closed", "expired", "evicted", "refused", "killed"];

/// What it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// A flow began.
    Begun,
    /// A flow ended.
    Ended,
    /// A packet was refused by the rules, the first of its kind: further ones are counted in `show drops`. Of a rule with
    /// `log` each is told.
    Denied,
    /// A frame was dropped for another reason, the first of its kind likewise.
    Dropped,
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
            Self::Dropped => "dropped",
            Self::WouldBeDenied => "would-be-denied",
        }
    }

    /// That of a frame that was dropped.
    #[must_use]
    pub fn of_drop(reason: DropReason) -> Self {
        if reason.group() == DropGroup::Policy { Self::Denied } else { Self::Dropped }
    }

    /// What became of what it tells of.
    #[must_use]
    pub const fn verdict(self) -> Verdict {
        match self {
            Self::Begun | Self::Ended => Verdict::Forwarded,
            Self::Denied | Self::Dropped => Verdict::Dropped,
            Self::WouldBeDenied => Verdict::Audit,
        }
    }
}

/// What became of packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// They passed.
    Forwarded,
    /// They did not.
    Dropped,
    /// They passed because a rule is being tried out.
    Audit,
}

impl Verdict {
    /// As JSON and the command line have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::Dropped => "dropped",
            Self::Audit => "audit",
        }
    }
}

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct EventRow {
    /// Its number. Numbers have no gaps but where events were lost.
    pub seq: u64,
    /// When, in milliseconds since 1970 (UTC)
    pub time_ms: u64,
    /// What
    pub event: EventKind,
    /// What became of it
    pub verdict: Verdict,
    /// Network, where it is known
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vni: Option<Vni>,
    /// Its name, as tenant/name
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Protocol name or number; of what is no IP packet nothing
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proto: Option<String>,
    /// Source of the first packet; of ARP, whose address it tells
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub src: Option<Addr>,
    /// Its port or ICMP identifier
    #[serde(default)]
    pub sport: u16,
    /// The endpoint that it is of, as tenant/name; of a dropped frame, the one that sent it
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub src_endpoint: Option<String>,
    /// Destination of the first packet; of ARP, the address that it asks for or tells
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dst: Option<Addr>,
    /// Its port
    #[serde(default)]
    pub dport: u16,
    /// The endpoint that it is of, as tenant/name
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dst_endpoint: Option<String>,
    /// Of a dropped frame: its source MAC
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub src_mac: Option<MacAddr>,
    /// Its destination MAC
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dst_mac: Option<MacAddr>,
    /// Of a dropped ICMP message: type and code
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp: Option<(u8, u8)>,
    /// Of a dropped frame: the attachment or VTEP that it came from
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Of a dropped frame: what it was, in words
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub what: Option<String>,
    /// Of a flow that ended: one of [`FLOW_ENDINGS`]. Of a frame: the name of the drop's reason
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Of a dropped frame: the reason in a sentence
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Of a flow that ended: its state
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Of a flow: its number, which no other flow of these ends has, until the next boot
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// Of a flow: when its first packet came, in milliseconds since 1970 (UTC); of one that was taken over from another daemon,
    /// which the pipeline had begun, when that was
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun_ms: Option<u64>,
    /// Of a flow that ended: how long there was anything of it, in milliseconds: from its first packet to its last
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lasted_ms: Option<u64>,
    /// Of a flow that ended: packets from the source. Of frames that were dropped: how many of them this tells of
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
    /// The flow is or was a probe's (`eastgate probe`): the appliance has begun it in the name of its source.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub probe: bool,
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
#[derive(Clone, PartialEq, Eq, Debug, Default, JsonSchema, Serialize, Deserialize)]
pub struct Events {
    /// The events, oldest first
    pub events: Vec<EventRow>,
    /// Where they go on, for [`Filter::after`](crate::Filter::after): also when there are none yet
    pub next: String,
    /// The daemon that tells of them, by a number that no other of this machine has until the next boot
    #[serde(default)]
    pub instance: u64,
    /// How many there were, between those that were asked for and these, that are gone: nobody fetched them in time
    pub lost: u64,
}
