//! The smallest things a configuration says: words from a list, numbers with a meaning, port ranges.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What runs a host's VTEP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Runs {
    /// eastgate
    Eastgate,
    /// A plain VTEP that nobody here controls: what comes from it is checked on receipt.
    Vxlan,
}

/// Who sends to whom in a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Topology {
    /// Every member to every other; what came from the overlay never goes back to it.
    Mesh,
    /// Members send to the hub, which sends on.
    Hub,
}

/// How BUM frames (broadcast, unknown unicast, multicast) are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Flood {
    /// One copy to each member (head-end replication).
    Replicate,
    /// To an underlay multicast group.
    Multicast,
    /// Not at all.
    Off,
}

/// Who answers ARP and ND.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Neighbors {
    /// eastgate, with the endpoint's MAC.
    Suppress,
    /// eastgate, with its own MAC.
    Proxy,
    /// The kernel, by proxy ARP and proxy ND: it routes between those of one host.
    Kernel,
    /// The endpoints themselves.
    Off,
}

/// By what addresses of an endpoint are learned that are not written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Learn {
    /// They are not.
    None,
    /// By what DHCP and DHCPv6 servers lease to it.
    Dhcp,
    /// By its own ARP and neighbour discovery.
    Nd,
    /// By any of these, and by its packets.
    Any,
}

/// What becomes of something with no known place to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Unknown {
    /// Dropped and counted.
    Drop,
    /// Sent to everyone in the network.
    Flood,
}

/// Where TCP state begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TcpMode {
    /// At a SYN only.
    Strict,
    /// At any segment: connections from before eastgate live on.
    Loose,
}

/// What becomes of TCP segments that are of no connection and begin none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TcpUnknown {
    /// They are dropped.
    Drop,
    /// They are dropped, and the sender is told by a reset.
    Reset,
}

/// What becomes of flows when the policy changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnChange {
    /// Decided again at their next packet.
    Recheck,
    /// The same, and those that are allowed no more end at once.
    Cut,
    /// The same, and the ends of those that are connections are told.
    Reset,
    /// Kept until they end.
    Keep,
}

/// What becomes of packets that do not fit the tunnel and may be fragmented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Oversize {
    /// Dropped and counted.
    Drop,
    /// The inner packet is fragmented.
    Fragment,
}

/// The UDP checksum of the outer header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UdpChecksum {
    /// As the peer needs it: right to plain VTEPs over IPv6. To others zero on single datagrams; right on bursts handed
    /// over whole (GSO), which the kernel insists on.
    Auto,
    /// Right on every datagram.
    Always,
    /// Zero on every datagram, which costs the bursts.
    #[serde(alias = "zero")]
    Never,
}

/// Whether denials are carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// They are.
    #[default]
    Enforce,
    /// They are being tried out: what would be denied passes, and that it would have been is told.
    Audit,
}

/// What reads the flows that a rule lets in, to find out which others they announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RuleHelper {
    /// FTP's data connections, active and passive.
    Ftp,
    /// TFTP's transfers.
    Tftp,
}

/// Where a policy stands to the security groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Position {
    /// Asked before them.
    Before,
    /// Asked about what they leave.
    After,
}

/// What becomes of packets that no policy of a place settles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PolicyEnd {
    /// Whoever comes next is asked.
    Pass,
    /// They are denied.
    Deny,
}

/// What a rule does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It passes, whatever comes behind.
    Allow,
    /// It is dropped.
    Deny,
    /// It is dropped, and its sender told.
    Reject,
    /// Whoever comes next is asked.
    Pass,
}

/// What of a rule can be negated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RuleKey {
    /// Any other protocol.
    Proto,
    /// Any other destination port.
    Ports,
    /// Any other source port.
    SourcePorts,
    /// Any other ICMP type, or with `icmp_code` any other pair of the two.
    IcmpType,
    /// Whoever else sends.
    From,
    /// To whomever else.
    To,
    /// Endpoints with none of these addresses.
    Own,
    /// Any other DSCP.
    Dscp,
    /// Flags that are not set so.
    TcpFlags,
}

/// What endpoints may send of which no group says anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EgressDefault {
    /// What a rule allows.
    Deny,
    /// Everything, as long as none of their groups has an egress rule.
    Open,
}

/// A field of the outer IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OuterField {
    /// As in the inner header.
    Inherit,
    /// Always this.
    #[serde(untagged)]
    Fixed(u8),
}

/// Ports from `first` to `last`, both included; never inverted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// The lowest port.
    pub first: u16,
    /// The highest port.
    pub last: u16,
}

impl PortRange {
    /// How many ports there are in it.
    #[must_use]
    pub const fn count(self) -> u32 {
        (self.last as u32 + 1).saturating_sub(self.first as u32)
    }

    /// The ports that are in none of these ranges, which are sorted and disjoint.
    #[must_use]
    pub fn others(ranges: &[Self]) -> Vec<Self> {
        let mut left = Vec::with_capacity(ranges.len() + 1);
        let mut next = Some(0);
        for range in ranges {
            let before = next.zip(range.first.checked_sub(1)).filter(|(first, last)| first <= last);
            left.extend(before.map(|(first, last)| Self { first, last }));
            next = range.last.checked_add(1);
        }
        left.extend(next.map(|first| Self { first, last: u16::MAX }));
        left
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl Serialize for PortRange {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The family a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum RuleFamily {
    /// IPv4
    Ipv4,
    /// IPv6
    Ipv6,
}
