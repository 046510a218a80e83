//! What is asked of a trace and what it answers. `eastgate trace -o json` prints these types, so their field names are an
//! interface.

use eastgate_wire::{Addr, Vni};
use serde::{Deserialize, Serialize};

/// A packet that nobody sent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceRequest {
    /// The network
    pub vni: Vni,
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
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
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
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TraceReport {
    /// The packet, in words
    pub packet: String,
    /// Step by step
    pub steps: Vec<TraceStep>,
    /// `forwarded`, `answered` (ARP and ND, by eastgate itself), or the reason of the drop
    pub verdict: String,
}
