//! Numbers that name things inside one daemon, and the address that names a VTEP.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::Family;

/// Where an endpoint of this host is attached: an index into the snapshot's list of attachments.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct AttachmentId(pub u32);

/// An endpoint of one network: an index into that network's list of endpoints. Only meaningful beside a VNI.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct EndpointId(pub u32);

/// The underlay address of a VTEP. The port it listens on is a property of the whole overlay.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VtepAddr(pub IpAddr);

/// Where a station is, or where a frame came in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Location {
    /// At an attachment of this host
    Local(AttachmentId),
    /// Behind a VTEP
    Remote(VtepAddr),
}

impl VtepAddr {
    /// The family of the underlay between it and others.
    #[must_use]
    pub const fn family(self) -> Family {
        if self.0.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

impl fmt::Display for VtepAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for VtepAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
