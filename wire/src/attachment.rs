//! How an endpoint of a host is attached to it: by a device, on it by a VLAN or none, in a mode.

use std::{fmt, sync::Arc};

/// A VLAN by its identifier, from 1 to 4,094 (IEEE 802.1Q section 9.6): 0 is a priority without a VLAN, 4,095 is reserved.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VlanId(u16);

impl VlanId {
    /// The VLAN with this identifier, if it is one's.
    #[must_use]
    pub const fn new_checked(id: u16) -> Option<Self> {
        if id > 0 && id < 4095 { Some(Self(id)) } else { None }
    }

    /// That of a tag, by the two bytes behind its type; none when it is a priority alone.
    #[must_use]
    pub const fn of_tci(tci: u16) -> Option<Self> {
        Self::new_checked(tci & 0xfff)
    }

    /// Its identifier.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a device or VLAN is to the endpoint at it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum AttachmentMode {
    /// Its own, with nobody else at it: all frames of the device are, whatever their tags
    Access,
}

/// Where and how an endpoint of a host is attached.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Attachment {
    /// The device, by name
    pub device: Arc<str>,
    /// The VLAN of its frames there; none where they have no tag of their own
    pub vlan: Option<VlanId>,
    /// In which mode
    pub mode: AttachmentMode,
}

impl Attachment {
    /// By a device of its own.
    #[must_use]
    pub const fn access(device: Arc<str>) -> Self {
        Self { device, vlan: None, mode: AttachmentMode::Access }
    }

    /// Are frames of the device with any tag its own? Then the network says what tags mean.
    #[must_use]
    pub const fn takes_any_vlan(&self) -> bool {
        self.vlan.is_none() && matches!(self.mode, AttachmentMode::Access)
    }
}

/// As it is shown: the device, and a VLAN behind a dot.
impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.device)?;
        self.vlan.map_or(Ok(()), |vlan| write!(f, ".{vlan}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_names_a_vlan_or_a_priority_alone() {
        assert_eq!(VlanId::of_tci(0x2064).map(VlanId::get), Some(100), "the upper bits are a priority");
        assert_eq!((VlanId::of_tci(0xe000), VlanId::of_tci(0x0fff)), (None, None));
        assert_eq!(
            (VlanId::new_checked(4094).map(VlanId::get), VlanId::new_checked(0x1064)),
            (Some(4094), None)
        );
    }
}
