//! A packet's walk through the path.

use eastgate_wire::{Addr, Vni};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Hex;

/// A packet that nobody sends now.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceRequest {
    /// The network
    pub vni: Vni,
    /// The frame as its sender would send it, from its Ethernet header on; what the fields below say of it is then read from it
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frame: Option<Hex>,
    /// IP protocol number
    pub proto: u8,
    /// Source address
    pub src: Addr,
    /// Destination address
    pub dst: Addr,
    /// Source port, or 0
    #[serde(default)]
    pub sport: u16,
    /// Destination port, or 0
    #[serde(default)]
    pub dport: u16,
    /// ICMP type and code
    #[serde(default)]
    pub icmp: Option<(u8, u8)>,
    /// Who sends it, by name, where the address does not say
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

/// One step of a trace.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct TraceStep {
    /// Name of the step, as in the picture of the packet's path
    pub step: String,
    /// Which host takes it
    pub host: String,
    /// `pass`, `drop`, or `note`
    pub result: String,
    /// What was found, in words
    pub text: String,
    /// File, line and column of the rule or object that decided
    pub at: Option<String>,
    /// Rules that came close, and why they did not match
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub near: Vec<String>,
}

/// A hypothetical packet's way.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct TraceReport {
    /// The packet, in words
    pub packet: String,
    /// Step by step
    pub steps: Vec<TraceStep>,
    /// `forwarded`, `answered` (ARP and ND, by eastgate itself), or the reason of the drop
    pub verdict: String,
    /// Where rules refuse it: those that would let it through, all of them together
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to_pass: Vec<Remedy>,
}

/// A rule that would have to be there.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct Remedy {
    /// In which list, and where in it
    pub place: String,
    /// The rule, as it is written in a configuration
    pub rule: String,
    /// Where that list is written, or the rule that it comes before
    pub at: String,
}
