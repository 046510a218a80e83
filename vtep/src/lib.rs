//! VXLAN encapsulation without I/O: what goes around a tenant's frame, where it goes, and what may come out.
//!
//! This crate promises that nothing in it reads a clock, opens a socket or panics on any bytes: frames,
//! tables and `now` go in; frames, outcomes and drop reasons come out. Every table in it is bounded, and the
//! place where it is declared says what happens at the bound.
//!
//! Reading order: [`encap`] is the path of one frame in either direction; it is made of [`header`],
//! [`entropy`], [`ecn`], [`vlan`] and [`peers`]. [`fdb`] and [`flood`] say where a frame goes, [`mtu`] whether
//! it fits and who is told, [`offload`] how GSO packets are cut up and put together, and
//! [`eastgate_wire::TokenBucket`] how often.

pub mod ecn;
pub mod encap;
pub mod entropy;
pub mod fdb;
pub mod flood;
pub mod header;
pub mod mtu;
pub mod offload;
pub mod peers;
mod table;
#[cfg(test)]
mod test_frames;
pub mod vlan;

use eastgate_wire::{MacAddr, VtepAddr};

/// A setting this crate refuses. On the packet path there are only drop reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The range of source ports is empty or holds port 0.
    #[error("source ports {first}-{last} are no range; write first <= last, both above 0")]
    PortRange {
        /// First port
        first: u16,
        /// Last port
        last: u16,
    },
    /// The number of source ports in use is no power of two, or larger than the range.
    #[error("{buckets} source ports do not work: a power of two, at most the {available} ports of the range")]
    Buckets {
        /// What was asked for
        buckets: u32,
        /// How many ports the range has
        available: u32,
    },
    /// A static FDB entry for an address no station can have.
    #[error("{0} cannot have an FDB entry: it is multicast or zero")]
    NotAStation(MacAddr),
    /// A flood group that is no multicast address.
    #[error("{0} is not a multicast address, so it cannot be the group that BUM frames are sent to")]
    NotAGroup(VtepAddr),
    /// A flood group in a hub network: a copy sent to the group would return to where it came from.
    #[error("a hub network cannot flood to the group {0}: frames would return to the spoke they came from")]
    GroupInHub(VtepAddr),
}
