//! Networks, and who in them is decided about anew.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A network.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Network {
    /// Its VNI
    pub vni: u32,
    /// What was decided in an epoch before this one does not pass; [`NO_EPOCH`] where nothing does
    pub epoch: u32,
    /// The epoch of the policy that new flows are decided by, once it is written
    pub policy: u32,
    /// The MAC that eastgate has there where it answers for others (proxy)
    pub mac: [u8; 6],
    /// `TEMPLATE_*` that all its templates have
    pub template_flags: u16,
    /// `Template::tos` of all its templates
    pub tos: u8,
    /// `Template::ttl` of all its templates
    pub ttl: u8,
    /// `NETWORK_*`
    pub marks: u16,
    /// Another number whenever an address of it has changed hands; never 0
    pub bindings: u16,
    /// Nothing
    pub spare: u16,
    /// UDP ports whose packets the pipeline checks one by one; 0 is none
    pub control_ports: [u16; CONTROL_PORTS],
}

/// As many UDP ports as a network can have whose packets are checked one by one
pub const CONTROL_PORTS: usize = 8;

/// Above all epochs
pub const NO_EPOCH: u32 = u32::MAX;

/// Who is decided about anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ChangedKey {
    /// An address, or a MAC in its first bytes
    pub addr: [u8; 16],
    /// Of this network
    pub vni: u32,
    /// `CHANGED_*`
    pub kind: u32,
}

/// [`ChangedKey::kind`]: an address.
pub const CHANGED_ADDRESS: u32 = 0;
/// [`ChangedKey::kind`]: a MAC.
pub const CHANGED_MAC: u32 = 1;

/// [`Network::marks`]: what comes from one VTEP may go to another.
pub const NETWORK_HUB: u16 = 1;
/// [`Network::marks`]: some of its rules keep no state.
pub const NETWORK_STATELESS: u16 = 2;
/// [`Network::marks`]: ends of it are decided about anew, and the table of changes says which.
pub const NETWORK_CHANGING: u16 = 4;
