//! Who may reach whom, who does, and who was refused.

use eastgate_wire::Vni;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::RuleRef;

/// Two groups of a network, or two endpoints of it, in one direction: what the policy in force lets begin between them, and what was seen of that.
/// What was seen is what this host has seen; a packet between members of several groups counts for each of them.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct MatrixRow {
    /// Network
    pub vni: Vni,
    /// Its name, as tenant/name
    pub network: String,
    /// Who begins: a group as tenant/name, or `tenant/(no group)` for endpoints that are in none; an endpoint where one was asked for
    pub from: String,
    /// With whom: likewise
    pub to: String,
    /// Pairs of different endpoints that these are
    pub pairs: u64,
    /// Those of them between which something may pass
    pub passing: u64,
    /// Those of them that were not looked at: there are too many kinds of endpoints in these groups
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unasked: u64,
    /// What may pass, and by which rules; the first of it
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passages: Vec<PassageRow>,
    /// How many of these are left out
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more: u64,
    /// Live flows
    #[serde(default, skip_serializing_if = "is_zero")]
    pub flows: u64,
    /// Packets that rules have refused, of those that are remembered one by one
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refused: u64,
    /// By which rules; the first of them
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused_by: Vec<RuleRef>,
    /// Packets that passed only because a rule is being tried out, likewise
    #[serde(default, skip_serializing_if = "is_zero")]
    pub would_deny: u64,
    /// Flows that pass, and that the staged version would refuse
    #[serde(default, skip_serializing_if = "is_zero")]
    pub staged_refused: u64,
    /// Packets that are refused, and that the staged version would let pass
    #[serde(default, skip_serializing_if = "is_zero")]
    pub staged_passed: u64,
}

/// Services that some of the pairs of a row may use.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct PassageRow {
    /// Which, in words: `tcp 443`, `icmp type 8`, `any protocol`
    pub services: Vec<String>,
    /// How many pairs of endpoints
    pub pairs: u64,
    /// The sender's rule that lets them
    pub egress: Option<RuleRef>,
    /// The receiver's rule that lets them
    pub ingress: Option<RuleRef>,
    /// One of these rules would refuse it, if it were not being tried out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub audit: bool,
}

impl MatrixRow {
    /// Nothing may pass, and nothing was seen.
    #[must_use]
    pub const fn is_silent(&self) -> bool {
        self.passing == 0
            && self.unasked == 0
            && self.flows == 0
            && self.refused == 0
            && self.would_deny == 0
            && self.staged_refused == 0
            && self.staged_passed == 0
    }
}

const fn is_zero(number: &u64) -> bool {
    *number == 0
}
