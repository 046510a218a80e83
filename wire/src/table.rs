//! The kernel's tables, as those speak of them who neither read nor write them: how large they may become, and how far a
//! walk through one has come.

/// How large tables may become beside that of flows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TableSizes {
    /// Networks
    pub networks: u32,
    /// VTEPs that flows go to and come from
    pub vteps: u32,
    /// Tenant ports
    pub ports: u32,
    /// Addresses of endpoints
    pub endpoints: u32,
    /// Compiled policies, in MiB of memory over all networks
    pub policy_mib: u32,
    /// Pairs and services whose flows begin in the kernel because the pipeline has let one begin
    pub policy_cache: u32,
    /// Requests for addresses that are answered in the kernel
    pub neighbor_cache: u32,
    /// Flows that ended there and were not asked for yet
    pub closed_flows: u32,
    /// Kinds of packets that the rules have refused, each counted by itself
    pub policy_drops: u32,
    /// Datagrams in fragments
    pub datagrams: u32,
}

/// Where to go on reading a table; only who reads it knows what this means.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cursor(pub Option<[u8; Cursor::LEN]>);

impl Cursor {
    /// The kernel's idea of a place in a table is no larger than a key.
    pub const LEN: usize = 64;
}
