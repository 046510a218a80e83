//! How large what is written may be.

use schemars::SchemaGenerator;
use toml::de::DeTable;

use super::{
    model::OVERHEAD_V4,
    problem::Problem,
    read::{At, Field, Read, Reader, Span, table},
    values::Int,
};

/// The largest MTU that any network can have.
const MTU_MAX: u64 = (65535 - OVERHEAD_V4) as u64;
/// Every IPv4 link takes packets of this size (RFC 791 section 3.2).
const MTU_MIN: u64 = 68;
/// A table with more entries than this would not fit a host's memory.
const TABLE_MAX: u64 = 100_000_000;

pub(super) type Mtu = Int<MTU_MIN, MTU_MAX>;
pub(super) type TableSize = Int<1, TABLE_MAX>;
/// The kernel takes the memory of such a table when it is made.
pub(super) type KernelTable = Int<1, 1_048_576>;
/// Up to ten years.
pub(super) type Seconds = Int<1, 315_360_000>;

table! {
    /// How often something may begin.
    "new connections"
    struct NewConnectionsTable {
        /// Flows a second.
        required per_second: Int<1, 1_000_000> = "10",
        /// Flows at once, after a pause; a second's if nothing is said.
        optional burst: Int<1, 1_000_000>,
    }
}

table! {
    /// How much of an address makes a source.
    "prefix lengths"
    struct PerPrefixTable {
        /// Of IPv4.
        default ipv4: Int<0, 32> = Int(32),
        /// Of IPv6.
        default ipv6: Int<0, 128> = Int(128),
    }
}
