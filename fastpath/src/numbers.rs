//! Numbers of the programs that other crates have in types of their own: by name, so that a test of whoever translates
//! them can hold those to the programs. A test here holds these to what the compiler of the programs noted.

/// Flows that helpers expect, at most
pub const EXPECTED_MAX: usize = 16_384;

/// States of a flow, in the order of their numbers
pub const FLOW_STATES: [&str; 14] = [
    "UNREPLIED",
    "REPLIED",
    "SYN_SENT",
    "SYN_RECEIVED",
    "ESTABLISHED",
    "FIN_WAIT",
    "CLOSE_WAIT",
    "LAST_ACK",
    "TIME_WAIT",
    "ECHO_UNREPLIED",
    "ECHO_REPLIED",
    "CLOSE",
    "STREAM",
    "ECHO_STREAM",
];

/// Ranks of flows by what their loss costs, in the order of their numbers
pub const FLOW_RANKS: [&str; 5] = ["UNREPLIED", "FINISHED", "EXCHANGE", "STREAM", "CONNECTION"];

/// Populations that are counted by themselves, in the order of their numbers
pub const POPULATIONS: [&str; 2] = ["UNREPLIED", "REPLIED"];

/// Directions of rules, in the order of their numbers
pub const DIRECTIONS: [&str; 2] = ["INGRESS", "EGRESS"];

/// What the words of a policy's first block are, in their order
pub const POLICY_HEAD: [&str; 7] =
    ["EPOCH", "RULESETS", "RULES", "IDENTITIES", "FURTHER", "LISTS", "TIER_LISTS"];

/// What a rule does, in the order of the numbers
pub const RULE_ACTIONS: [&str; 4] = ["ALLOW", "DENY", "REJECT", "PASS"];

/// Of what a rule does: it is logged
pub const RULE_LOG: u32 = 1 << 8;
/// Of what a rule does: what it allows begins no flow
pub const RULE_STATELESS: u32 = 1 << 11;

/// Tiers of a list
pub const POLICY_TIERS: usize = 4;
/// Of a tier of a list: it passes when none of its rules matches
pub const END_PASSES: u32 = 1 << 31;
/// In place of a tier, behind the last one
pub const NO_TIER: u32 = u32::MAX;

/// A value in a list of intervals: no rule matches
pub const NOWHERE: u32 = (1 << 31) - 1;
/// A value in a list of intervals: its rest is a list over another field
pub const NESTED: u32 = 1 << 31;
/// Where such a value says which field
pub const FIELD_AT: u32 = 29;
/// The fields, in the order of their numbers
pub const POLICY_FIELDS: [&str; 3] = ["SOURCE_PORT", "DSCP", "TCP_FLAGS"];
/// In place of ports that a packet does not have
pub const UNREAD: u32 = 1 << 16;

/// Words in a block of a policy
pub const POLICY_BLOCK: usize = 16;

/// What is known of a side of a connection, each with its bit, in the order of the bits
pub const SIDE_FLAGS: [&str; 8] =
    ["HEARD", "SYN_ACKED", "SYN_ONLY", "FIN", "FIN_ACKED", "SCALES", "ACKED", "RESET"];

/// How long after its first packet what goes on is a stream, in milliseconds
pub const STREAM_AFTER: u32 = 2000;
/// How long after its last packet a stream is idle, in milliseconds
pub const STREAM_IDLE: u32 = 60_000;

/// Where the flows of the whole host are counted
pub const HOST_ACCOUNT: u32 = 0;

/// By how much the daemon's clock is ahead of the programs', in nanoseconds
pub const DAEMON_CLOCK_AHEAD: u64 = 1_000_000_000;

/// The mark without which nothing leaves by an attachment
pub const EASTGATE_MARK: u32 = 0x6561_7374;
