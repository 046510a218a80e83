//! How an endpoint of a host is attached to it: by a device, on it by a VLAN or none, in a mode.

use std::{fmt, sync::Arc};

use crate::MacAddr;

/// A VLAN by its identifier, from 1 to 4,094 (IEEE 802.1Q section 9.6): 0 is a priority without a VLAN, 4,095 is reserved.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VlanId(u16);

impl VlanId {
    /// The VLAN with this identifier, if it is one's.
    #[must_use]
    pub const fn new_checked(id: u16) -> Option<Self> {
        if id > 0 && id < 4095 { Some(Self(id)) } else { None }
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

/// What the names of the devices begin with by which packets are handed to the kernel's routing (`neighbors = "kernel"`), and
/// those of their other ends: no endpoint's
pub const KERNEL_DEVICES: [&str; 2] = ["eg-in-", "eg-rt-"];

/// What a device or VLAN is to the endpoint at it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum AttachmentMode {
    /// Its own, with nobody else at it: all frames of the device are, whatever their tags
    Access,
    /// A VLAN of it, or its frames without a tag; other frames of the device are others'
    Trunk,
    /// A segment that it shares with others: of a VLAN of the device, or of its frames without a tag, those that come from this MAC. What is
    /// sent to it has this MAC as its destination and the appliance's as its source, whatever it is: the segment forwards by both
    Shared(MacAddr),
}

/// Where and how an endpoint of a host is attached.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Attachment {
    /// The device, by name
    pub device: Arc<str>,
    /// The VLAN of its frames there; none where these have no tag, or no tag that says whose they are
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

    /// By a VLAN of a trunk, or by its frames without a tag.
    #[must_use]
    pub const fn trunk(device: Arc<str>, vlan: Option<VlanId>) -> Self {
        Self { device, vlan, mode: AttachmentMode::Trunk }
    }

    /// By a segment that others are at, too: a VLAN of a device, or its frames without a tag.
    #[must_use]
    pub const fn shared(device: Arc<str>, vlan: Option<VlanId>, mac: MacAddr) -> Self {
        Self { device, vlan, mode: AttachmentMode::Shared(mac) }
    }

    /// Does the outermost tag of a frame say whose it is, or on which segment? Then it is no part of what the endpoint sends and receives.
    #[must_use]
    pub const fn is_by_tag(&self) -> bool {
        matches!(self.mode, AttachmentMode::Trunk | AttachmentMode::Shared(_))
    }

    /// The MAC by which it is told from others on its segment.
    #[must_use]
    pub const fn station(&self) -> Option<MacAddr> {
        match self.mode {
            AttachmentMode::Shared(mac) => Some(mac),
            AttachmentMode::Access | AttachmentMode::Trunk => None,
        }
    }

    /// Can frames get from one to the other without the appliance, if the segment lets them?
    #[must_use]
    pub fn is_beside(&self, other: &Self) -> bool {
        self.station().is_some()
            && other.station().is_some()
            && (&self.device, self.vlan) == (&other.device, other.vlan)
    }

    /// Are frames of the device with any tag its own? Then the network says what tags mean.
    #[must_use]
    pub const fn takes_any_vlan(&self) -> bool {
        !self.is_by_tag()
    }
}

/// What the MACs begin with that the appliance has in networks whose machines have it for each other; the VNI is behind it. They are
/// locally administered (IEEE 802 section 8.4).
pub const PROXY_PREFIX: [u8; 3] = [0xe2, 0x67, 0x77];

/// The type of the tags whose VLAN says whose a frame is (IEEE 802.1Q table 9-1: C-TAG). The VLANs of a provider's tag (S-TAG) are
/// others, though their numbers may be the same.
pub const VLAN_TYPE: u16 = 0x8100;

/// Whose a frame is by the tag that stands in front, or by its having none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum OuterTag {
    /// No tag, or one that is a priority alone (VID 0)
    Untagged,
    /// A VLAN
    Vlan(VlanId),
    /// A tag that names no VLAN of a trunk: reserved (VID 4,095), or a provider's
    Other,
}

impl OuterTag {
    /// That of a frame, by the type and the two bytes behind it of its outermost tag.
    #[must_use]
    pub const fn of(tag: Option<(u16, u16)>) -> Self {
        match tag {
            None => Self::Untagged,
            Some((VLAN_TYPE, tci)) => match (tci & 0xfff, VlanId::new_checked(tci & 0xfff)) {
                (_, Some(vlan)) => Self::Vlan(vlan),
                (0, None) => Self::Untagged,
                _ => Self::Other,
            },
            Some(_) => Self::Other,
        }
    }
}

/// As it is shown: the device, a VLAN behind a dot, and whose frames of a shared segment behind a slash.
impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.device)?;
        self.vlan.map_or(Ok(()), |vlan| write!(f, ".{vlan}"))?;
        self.station().map_or(Ok(()), |mac| write!(f, "/{mac}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_says_whose_a_frame_is() {
        let vlan = |id| VlanId::new_checked(id).map(OuterTag::Vlan);
        assert_eq!(Some(OuterTag::of(Some((0x8100, 0x6065)))), vlan(101), "whatever its priority");
        assert_eq!(
            (OuterTag::of(None), OuterTag::of(Some((0x8100, 0xe000)))),
            (OuterTag::Untagged, OuterTag::Untagged)
        );
        let others = [(0x8100, 0x0fff), (0x88a8, 101), (0x88a8, 0), (0x9100, 101)];
        assert_eq!(others.map(|tag| OuterTag::of(Some(tag))), [OuterTag::Other; 4]);
    }

    #[test]
    fn vlans_are_from_1_to_4094() {
        assert_eq!((VlanId::new_checked(0), VlanId::new_checked(4095)), (None, None));
        assert_eq!(
            (VlanId::new_checked(4094).map(VlanId::get), VlanId::new_checked(0x1064)),
            (Some(4094), None)
        );
    }
}
