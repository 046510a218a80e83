//! What the rules have refused.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What packets are that the rules have refused.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct PolicyDropKey {
    /// Place of their network
    pub network: u32,
    /// The policy under which the numbers below mean what they mean: [`Network::policy`](super::Network::policy)
    pub policy: u32,
    /// Where they come from: an attachment ([`Attachment::id`](super::Attachment::id)), or [`AT_VTEP`](super::AT_VTEP) and the place of a
    /// VTEP
    pub from: u32,
    /// Whose rules
    pub endpoint: u32,
    /// Which of them; [`NO_RULE`](super::NO_RULE) where none matched
    pub rule: u32,
    /// 0 for what the endpoint is sent, 1 for what it sends
    pub direction: u32,
}

/// How many they were, and the last one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PolicyDrop {
    /// The programs' lock; of no meaning here
    pub lock: u32,
    /// Nothing
    pub spare: u32,
    /// How many
    pub packets: u64,
    /// Bytes of their frames, VXLAN headers included
    pub bytes: u64,
    /// When the first one was, in nanoseconds of the monotonic clock
    pub first_at: u64,
    /// When the last one was
    pub last_at: u64,
    /// Its source
    pub src: [u8; 16],
    /// Its destination
    pub dst: [u8; 16],
    /// Its source port
    pub sport: u16,
    /// Its destination port
    pub dport: u16,
    /// Its protocol
    pub proto: u32,
}

/// A packet that the rules have refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DeniedKey {
    /// What it has in common with others
    pub kind: PolicyDropKey,
    /// Source
    pub src: [u8; 16],
    /// Destination
    pub dst: [u8; 16],
    /// Source port
    pub sport: u16,
    /// Destination port
    pub dport: u16,
    /// Protocol
    pub proto: u32,
}

/// How many such packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Denied {
    /// How many
    pub packets: u64,
    /// Bytes of their frames, as in [`PolicyDrop`]
    pub bytes: u64,
    /// When the last one was, in nanoseconds of the monotonic clock
    pub last_at: u64,
}
