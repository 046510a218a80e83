//! Where frames come in and leave: `fastpath/bpf/layout/attachment.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// By what a frame that comes in is told to be of an attachment.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct AttachmentKey {
    /// Interface index of its device
    pub ifindex: u32,
    /// The VLAN of its frames there; 0 where they have no tag
    pub vlan: u16,
    /// Where they are from, on a segment that endpoints share; 0 everywhere else
    pub station: [u8; 6],
}

/// [`Attachment::flags`]: an access attachment, which frames of its device with any tag are of.
pub const ATTACHMENT_ANY_VLAN: u32 = 1;
/// [`Attachment::flags`]: its device is a veth whose peer is in another network namespace.
pub const ATTACHMENT_PEER: u32 = 2;

/// What such a frame is resolved to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Attachment {
    /// By which [`super::Ends::at`] and [`Egress`] know it
    pub number: u32,
    /// The daemon's own number for it
    pub id: u32,
    /// Its network
    pub vni: u32,
    /// `ATTACHMENT_*`
    pub flags: u32,
}

/// Bytes of a device's name, a zero at its end
pub const DEVICE_NAME: usize = 16;

/// Where frames to an attachment leave, by its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Egress {
    /// Interface index; 0 when it is closed
    pub ifindex: u32,
    /// The VLAN of its frames there, or 0
    pub vlan: u16,
    /// `ATTACHMENT_*`
    pub flags: u16,
    /// The device's name; empty where no number was given yet
    pub device: [u8; DEVICE_NAME],
    /// As in its key
    pub station: [u8; 6],
    /// Nothing
    pub spare: u16,
    /// Interface index of the device by which packets to it are handed to the kernel's routing; 0 where they leave by its own
    pub entry: u32,
}

/// [`StrayKey::vlan`] of a trunk
pub const STRAY_ANY_VLAN: u16 = 0xfff;

/// Where frames of the link itself are counted that are nobody's: what no VLAN is.
pub const STRAY_LINK: u16 = 0x1000;

/// Where frames are nobody's: on a trunk, or on a segment of it that endpoints share.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct StrayKey {
    /// Interface index
    pub ifindex: u32,
    /// The VLAN of a segment, 0 for what is untagged; [`STRAY_ANY_VLAN`] where it is that of no segment and no endpoint;
    /// [`STRAY_LINK`] for the link itself
    pub vlan: u16,
    /// Nothing
    pub spare: u16,
}

/// Frames that are nobody's, as one processor has seen them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Stray {
    /// How many
    pub frames: u64,
    /// Their bytes, without the tag
    pub bytes: u64,
    /// When the first one was, in nanoseconds of the monotonic clock
    pub first_at: u64,
    /// And the last one
    pub last_at: u64,
    /// The MACs of the last one: destination and source
    pub macs: [[u8; 6]; 2],
    /// The type of its outermost tag; 0 where it had none
    pub tag_type: u16,
    /// The two bytes behind that
    pub tci: u16,
}
