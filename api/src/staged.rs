//! What a version of the configuration that is tried beside the one in force would do otherwise.

use eastgate_wire::{Addr, Vni};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::RuleRef;

/// What would be otherwise.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StagedChange {
    /// It passes, and would be refused.
    WouldBeRefused,
    /// It is refused, and would pass the rules.
    WouldPass,
}

impl StagedChange {
    /// As JSON and the command line have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::WouldBeRefused => "would-be-refused",
            Self::WouldPass => "would-pass",
        }
    }
}

/// Traffic that the staged version treats otherwise.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct StagedRow {
    /// What would be otherwise
    pub change: StagedChange,
    /// Network
    pub vni: Vni,
    /// Protocol name or number
    pub proto: String,
    /// Source of the first packet
    pub src: Addr,
    /// Who has it, as tenant/name
    pub from: Option<String>,
    /// Destination of the first packet
    pub dst: Addr,
    /// Who has it, as tenant/name
    pub to: Option<String>,
    /// Destination port; 0 of protocols without ports
    pub port: u16,
    /// How many flows there were that pass; how many packets that are refused
    pub count: u64,
    /// Seconds since the last one
    pub last_s: u64,
    /// The rules in force that admit it, egress first, or the one that refuses it
    pub in_force: Vec<RuleRef>,
    /// Those of the staged version, likewise
    pub staged: Vec<RuleRef>,
    /// Where no rule of the staged version says it: why it would be refused
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
}

/// The answer to [`Request::Staged`](crate::Request::Staged).
#[derive(Clone, PartialEq, Eq, Debug, Default, JsonSchema, Serialize, Deserialize)]
pub struct StagedRows {
    /// The staged file; nothing where nothing is staged
    pub config: Option<String>,
    /// What it means, in a short form ([`Status::digest`](crate::Status::digest))
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// For how many seconds it has been staged
    pub since_s: u64,
    /// Flows that were held against it: those that lived when it was staged, and those that began since
    pub flows: u64,
    /// Events since then that nobody could look at, since they came too fast
    pub lost: u64,
    /// Flows that would be refused and are in no row: there were too many kinds
    pub more: u64,
    /// What is treated otherwise
    pub rows: Vec<StagedRow>,
    /// How many rows there are without a limit
    pub total: usize,
    /// Where the rows go on, for [`Filter::after`](crate::Filter::after); nothing after the last
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}
