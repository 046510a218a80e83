//! Why packets are punted: left to the pipeline.

/// The causes, in the order of `enum punt` of the programs; a test holds them equal.
pub const PUNTS: [&str; 24] = [
    "other",
    "malformed",
    "arp-nd",
    "multicast",
    "protocol",
    "vlan",
    "ip-options",
    "fragment",
    "outer",
    "ecn",
    "dhcp",
    "checksum",
    "syn-data",
    "syn-mss",
    "tcp-irregular",
    "no-flow",
    "reserved",
    "stale",
    "expired",
    "no-credit",
    "undecided",
    "denied",
    "path",
    "gso",
];
