//! How large what is written may be.

use super::{model::OVERHEAD_V4, values::Int};

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
