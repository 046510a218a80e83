//! Numbers of the programs that other crates have in types of their own: by name, so that a test of whoever translates
//! them can hold those to the programs. A test here holds these to what the compiler of the programs noted.

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
pub const POLICY_HEAD: [&str; 6] = ["EPOCH", "RULESETS", "RULES", "IDENTITIES", "FURTHER", "LISTS"];

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

/// The mark without which nothing leaves by an attachment
pub const EASTGATE_MARK: u32 = 0x6561_7374;
