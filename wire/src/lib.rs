//! The words every other part of eastgate speaks: numbers with a meaning, the key of a flow, the reason of a
//! drop, a frame with head-room, and the parsed view of one.
//!
//! This crate promises that nothing in it panics on any bytes, that nothing in it reads a clock or a socket,
//! and that it knows no other crate of the project.

pub mod addr;
pub mod attachment;
pub mod checksum;
pub mod drop_reason;
pub mod flow;
pub mod frame;
pub mod helper;
pub mod id;
pub mod list;
pub mod mac;
pub mod names;
pub mod ownership;
pub mod rate;
pub mod reply;
mod schema;
pub mod table;
pub mod time;
pub mod view;
pub mod vni;

pub use addr::{Addr, Family};
pub use attachment::{Attachment, AttachmentMode, KERNEL_DEVICES, OuterTag, PROXY_PREFIX, VLAN_TYPE, VlanId};
pub use drop_reason::{DropGroup, DropReason};
pub use flow::{FlowKey, Leg};
pub use frame::{Frame, Gso, GsoKind, Offload, PartialChecksum};
pub use helper::Helper;
pub use id::{AttachmentId, EndpointId, Location, VtepAddr};
pub use list::{FreeList, IndexList, Link, Links, Places};
pub use mac::MacAddr;
pub use ownership::{AddressPair, Holdings, Ownership};
pub use rate::{Rate, TokenBucket};
pub use table::{Cursor, TableSizes};
pub use time::Instant;
pub use view::View;
pub use vni::Vni;
