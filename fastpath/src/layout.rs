//! What the programs and the daemon share, byte for byte as in `bpf/layout.h`. A test holds sizes and offsets equal
//! to what the compiler of the programs noted about them.

mod attachment;
mod datagram;
mod denial;
mod network;

use eastgate_wire::{Addr, FlowKey, Leg, Vni, view::proto};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub use self::attachment::{
    ATTACHMENT_ANY_VLAN, ATTACHMENT_PEER, Attachment, AttachmentKey, DEVICE_NAME, Egress, STRAY_ANY_VLAN,
    STRAY_LINK, Stray, StrayKey,
};
#[cfg(test)]
pub(crate) use self::datagram::DATAGRAM_PIECES;
pub(crate) use self::datagram::{
    DATAGRAM_FREE, DATAGRAM_PLACES, DATAGRAM_PUNTED, Datagram, DatagramId, DatagramKey,
};
pub use self::denial::{Denied, DeniedKey, PolicyDrop, PolicyDropKey};
pub use self::network::{
    CHANGED_ADDRESS, CHANGED_MAC, CONTROL_PORTS, ChangedKey, NETWORK_CHANGING, NETWORK_HUB,
    NETWORK_STATELESS, NO_EPOCH, Network,
};

/// A flow's key: the same for both directions. An echo's says who asks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Key {
    low: [u8; 16],
    high: [u8; 16],
    vni: u32,
    low_port: u16,
    high_port: u16,
    proto: u32,
    leg: u32,
}

/// [`Key::proto`], of an echo: the high end asks.
pub(crate) const KEY_HIGH_ASKS: u32 = 1 << 8;

impl Key {
    /// The key of a packet's flow, and which of the flow's ways the packet takes. Of ICMP the packet is an echo request.
    #[must_use]
    pub fn of(key: &FlowKey) -> (Self, usize) {
        let (low, swapped) = key.canonical();
        let marks = if swapped && echo_type(key.proto).is_some() { KEY_HIGH_ASKS } else { 0 };
        let stored = Self {
            low: low.src.bits().to_be_bytes(),
            high: low.dst.bits().to_be_bytes(),
            vni: low.vni.get(),
            low_port: low.sport,
            high_port: low.dport,
            proto: u32::from(low.proto) | marks,
            leg: low.leg.bits(),
        };
        (stored, usize::from(swapped))
    }
}

/// The type of an echo request, of the protocols that have one.
const fn echo_type(protocol: u8) -> Option<u8> {
    match protocol {
        proto::ICMP => Some(8),
        proto::ICMPV6 => Some(128),
        _ => None,
    }
}

/// One side of a TCP connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TcpSide {
    /// The sequence number behind the last byte it sent
    pub end: u32,
    /// The right edge of the widest window it was offered
    pub max_end: u32,
    /// The widest window it offered
    pub max_window: u32,
    /// The furthest acknowledgement it sent
    pub max_ack: u32,
    /// Window scale from its SYN
    pub scale: u8,
    /// As conntrack has them
    pub flags: u8,
    /// Half of what [`Flow::account`] says, the lower one with the low end
    pub account_half: u16,
}

/// In [`Ends::at`]: not the number of an attachment, but the place of a VTEP.
pub const AT_VTEP: u32 = 1 << 31;

/// The two endpoints of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ends {
    /// Where each is: [`Attachment::number`], or [`AT_VTEP`] and the place of a VTEP
    pub at: [u32; 2],
    /// Their MACs
    pub macs: [[u8; 6]; 2],
}

/// [`Template::flags`]: packets of this direction may pass.
pub const TEMPLATE_OPEN: u8 = 1;
/// [`Template::flags`]: the outer TOS is the inner one.
pub const TEMPLATE_INHERIT_TOS: u8 = 2;
/// [`Template::flags`]: the outer TTL is the inner one.
pub const TEMPLATE_INHERIT_TTL: u8 = 4;
/// [`Template::flags`]: packets come in to the network's own MAC, in place of the receiver's.
pub const TEMPLATE_TO_US: u8 = 8;
/// [`Template::flags`]: packets leave from the network's own MAC, in place of the sender's.
pub const TEMPLATE_FROM_US: u8 = 16;
/// [`Template::flags`]: to an attachment they are routed by the kernel, which takes them by the network's own MAC.
pub const TEMPLATE_ROUTED: u8 = 32;

/// What the packets of one direction are like as they leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Template {
    /// The largest one, in bytes from its IP header on
    pub max_packet: u16,
    /// The outer source port, in network order
    pub source_port_be: [u8; 2],
    /// The outer TOS; the two low bits do not count
    pub tos: u8,
    /// The outer TTL
    pub ttl: u8,
    /// `TEMPLATE_*`
    pub flags: u8,
    /// Not of the way, but of the flow's first packet: its DSCP with the low end, its TCP flags with the high one
    pub header: u8,
}

/// One direction of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FlowDir {
    /// Packets that passed
    pub packets: u64,
    /// Their bytes, Ethernet headers included
    pub bytes: u64,
    /// The sender's side of the connection
    pub tcp: TcpSide,
    /// The rule that admitted the flow: egress with the opener's way, ingress with the other one
    pub rule: u32,
    /// How they leave
    pub template: Template,
}

/// [`Flow::marks`]: the pipeline has the flow, and this entry keeps its place.
pub const FLOW_RESERVED: u8 = 1;
/// [`Flow::marks`]: it began in the kernel.
pub const FLOW_KERNEL_CREATED: u8 = 2;
/// [`Flow::marks`]: it counts among the replied flows; said of flows that were created in the kernel.
pub const FLOW_REPLIED: u8 = 4;
/// [`Flow::marks`]: it is no TCP, was created in the kernel and answered, and goes on.
pub const FLOW_STREAM: u8 = 8;
/// [`Flow::marks`]: one of its ends is another one than it was decided for.
pub const FLOW_STALE: u8 = 16;
/// [`Flow::marks`]: a helper has let it begin; said of flows that were handed over. [`Flow::created`] and the halves of an account
/// say how.
pub const FLOW_RELATED: u8 = 32;

/// A flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Flow {
    /// The programs' lock; of no meaning here
    pub lock: u32,
    /// Place of its network
    pub network: u32,
    /// The epoch that must be in force in that network
    pub epoch: u32,
    /// The generation that must be in force
    pub generation: u32,
    /// When a packet last passed, in nanoseconds of the monotonic clock; 0 when none did
    pub last_seen: u64,
    /// When it was created, in milliseconds of that clock; they wrap.
    pub created: u32,
    /// Which end opened it: 0 the low one, 1 the high one
    pub opener: u8,
    /// `FLOW_*`
    pub marks: u8,
    /// [`Network::bindings`] that it was decided under, where one of its addresses moves between endpoints; else 0
    pub bindings: u16,
    /// The low end of the key, and the high one
    pub ends: Ends,
    /// The programs' own
    pub tag: u32,
    /// From the low end of the key, and from the high one
    pub dirs: [FlowDir; 2],
}

impl Flow {
    /// Of a flow that was created in the kernel: who pays for it, a place in [`Accounts`](crate::Accounts).
    #[must_use]
    pub fn account(&self) -> u32 {
        let [low, high] = self.dirs.map(|way| u32::from(way.tcp.account_half));
        high << 16 | low
    }
}

/// Flows of a pair and service: those that a policy-cache entry is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PolicyCacheKey {
    pub(crate) src: [u8; 16],
    pub(crate) dst: [u8; 16],
    pub(crate) vni: u32,
    pub(crate) dport: u16,
    pub(crate) proto: u16,
}

impl PolicyCacheKey {
    /// That of a flow whose first packet has this key; of ICMP that packet is an echo request.
    #[must_use]
    pub fn of(opened: &FlowKey) -> Self {
        let service = echo_type(opened.proto).map_or(opened.dport, |kind| u16::from_be_bytes([kind, 0]));
        Self {
            src: address(opened.src),
            dst: address(opened.dst),
            vni: opened.vni.get(),
            dport: service,
            proto: opened.proto.into(),
        }
    }
}

/// What was decided for such flows, and holds while epoch and generation are in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CachedPolicy {
    /// Place of their network
    pub network: u32,
    /// The epoch that must be in force in that network
    pub epoch: u32,
    /// The generation that must be in force
    pub generation: u32,
    /// The opener, and the other end
    pub ends: Ends,
    /// [`FlowDir::rule`] of the opener's way, and of the other one
    pub rules: [u32; 2],
    /// How packets leave that come from them
    pub templates: [Template; 2],
    /// As [`Flow::bindings`]
    pub bindings: u16,
    /// Nothing
    pub spare: u16,
    /// Who pays for them, as [`Flow::account`]
    pub account: u32,
}

/// How many states of a flow the programs know; they are numbered as in `struct terms`.
pub const STATES: usize = crate::numbers::FLOW_STATES.len();

/// How many flows an endpoint, a network or the host has, and may have, and how often they may begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Account {
    pub(crate) flows: [u64; 2],
    pub(crate) next: u64,
    pub(crate) pace: u64,
}

/// How flows live in a network.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct CtSettings {
    pub(crate) account: u32,
    pub(crate) timeouts: [u32; STATES],
    pub(crate) mss_mtu: u32,
}

/// How flows that are created in the kernel come to their outer source port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Entropy {
    /// What nobody outside knows
    pub secret: u64,
    /// The first port of the range
    pub first: u32,
    /// How many ports the range has
    pub available: u32,
    /// How many of them are in use: a power of two
    pub buckets: u32,
    /// Nothing
    pub spare: u32,
}

/// A flow that another one of the same key took the place of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ClosedFlow {
    /// Its key
    pub key: Key,
    /// The epoch that admitted it
    pub epoch: u32,
    /// Which end opened it
    pub opener: u32,
    /// Packets from the low end of the key, and from the high one
    pub packets: [u64; 2],
    /// Their bytes
    pub bytes: [u64; 2],
    /// The rules that admitted it, as [`FlowDir::rule`] of both ways
    pub rules: [u32; 2],
    /// As [`Flow::last_seen`]
    pub last_seen: u64,
    /// As [`Flow::created`]
    pub created: u32,
    /// Nothing
    pub spare: u32,
}

/// What is asked of the program `take`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, packed)]
pub(crate) struct Take {
    pub(crate) ethernet: [u8; 14],
    pub(crate) how: u8,
    pub(crate) result: u8,
    pub(crate) key: Key,
    pub(crate) flow: Flow,
}

pub(crate) const TAKE_IF_OVER: u8 = 1;
pub(crate) const TAKE_DELETE: u8 = 2;
pub(crate) const TAKE_IF_RANK: u8 = 4;
pub(crate) const TAKE_RANK_AT: u8 = 4;
pub(crate) const TAKE_ABSENT: u8 = 0;
pub(crate) const TAKE_RESERVED: u8 = 1;
pub(crate) const TAKE_TAKEN: u8 = 2;

/// [`NeighborKey::form`]: a neighbour solicitation, and not ARP.
pub const FORM_ND: u16 = 1;
/// [`NeighborKey::form`]: to broadcast, or to the target's solicited-node group.
pub const FORM_TO_ALL: u16 = 2;
/// [`NeighborKey::form`]: a solicitation with the sender's link-layer address in it.
pub const FORM_NAMES_MAC: u16 = 4;

/// What a request for an address is made of: nothing else in it moves the answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NeighborKey {
    /// [`Attachment::number`] of where it comes from
    pub attachment: u32,
    /// Its sender's MAC
    pub mac: [u8; 6],
    /// `FORM_*`
    pub form: u16,
    /// Who asks
    pub sender: [u8; 16],
    /// For whom
    pub target: [u8; 16],
}

/// The largest answer is a neighbour advertisement.
pub const ANSWER_MAX: usize = 88;

/// What such a request is answered with while epoch and generation are in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Answer {
    /// Place of its network
    pub network: u32,
    /// The epoch that must be in force in that network
    pub epoch: u32,
    /// The generation that must be in force
    pub generation: u32,
    /// Bytes of `frame`
    pub len: u32,
    /// How many times it may still be given in the lower half, the credit's number in the upper one
    pub credit: u64,
    /// The answer, in its first bytes
    pub frame: [u8; ANSWER_MAX],
}

#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Bucket {
    pub(crate) lock: u32,
    pub(crate) rate: u32,
    pub(crate) burst: u32,
    pub(crate) datagrams: u32,
    pub(crate) left: i64,
    pub(crate) filled_at: u64,
    pub(crate) dropped: u64,
}

/// Bytes of a frame that are noted
pub const LIMITED_MAX: usize = 64;

/// Of a network: a frame that was dropped because more were to be punted than may be.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Limited {
    /// When, in nanoseconds of `CLOCK_MONOTONIC`
    pub at: u64,
    /// Somebody writes it.
    pub noting: u32,
    /// Bytes of `frame`
    pub len: u32,
    /// How it begins
    pub frame: [u8; LIMITED_MAX],
}

impl Limited {
    /// What is known of the frame.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        self.frame.get(..self.len as usize).unwrap_or(&self.frame)
    }
}

/// The place of the bucket that all networks have in common which this host does not serve.
pub(crate) const UNSERVED: u32 = u32::MAX;

/// A VTEP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Vtep {
    /// Its address
    pub addr: [u8; 16],
    /// The largest packet that the path to it takes, in bytes from the IP header on
    pub max_packet: u32,
    /// `VTEP_*`
    pub flags: u32,
}

/// [`Vtep::flags`]: datagrams to it have a UDP checksum.
pub const VTEP_SUM: u32 = 1;
/// [`Vtep::flags`]: they have none.
pub const VTEP_NO_SUM: u32 = 2;

/// An address in a network.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EndpointKey {
    /// The address
    pub addr: [u8; 16],
    /// The network
    pub vni: u32,
}

/// [`Endpoint::flags`]: eastgate answers for others (proxy) to it, by the network's own MAC.
pub const ENDPOINT_PROXIED: u16 = 1;
/// [`Endpoint::flags`]: its flows last as it says, and not as its network does: they begin with the pipeline.
pub const ENDPOINT_OWN_TIMEOUTS: u16 = 2;

/// Nobody was asked: in place of a ruleset, or of a rule.
pub const NO_RULE: u32 = u32::MAX;

/// An endpoint's address: where it is, and what the policy knows it as.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Endpoint {
    /// Place of its network
    pub network: u32,
    /// As [`Ends::at`]
    pub at: u32,
    /// The only MAC that it sends with
    pub mac: [u8; 6],
    /// `ENDPOINT_*`
    pub flags: u16,
    /// What rules about its peers know it by
    pub identity: u32,
    /// Its list of tiers for what it is sent, and for what it sends; or [`NO_RULE`]
    pub tiers: [u32; 2],
    /// Its number in the epoch of its network
    pub endpoint: u32,
    /// Where the flows that it opens are counted, as [`Flow::account`]
    pub account: u32,
}

/// Counts up with every change to what is said here and below: a daemon takes over no tables that it reads otherwise.
pub const LAYOUT: u32 = 24;

/// What holds for all programs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Settings {
    /// [`LAYOUT`]
    pub layout: u32,
    /// Which daemon it is that frames are punted to
    pub session: u32,
    /// Flows written under another generation do not pass
    pub generation: u32,
    /// From which generation on flows are this daemon's, and counted
    pub since: u32,
    /// Interface index of a device of the underlay; 0 when there is none
    pub underlay: u32,
    /// Interface index of the device by which frames are punted
    pub punt_device: u32,
    /// The overlay's UDP port, in network order
    pub vxlan_port_be: [u8; 2],
    /// The port of the kernel's own vxlan device, in network order; 0 when there is none
    pub tunnel_port_be: [u8; 2],
    /// This host's VTEP, as a 128-bit address
    pub vtep: [u8; 16],
    /// 1: outer IPv4 packets are not to be fragmented
    pub dont_fragment: u32,
    /// `CONFIG_*`
    pub flags: u32,
}

/// [`Settings::flags`]: some flow of the pipeline has no place in the table of flows.
pub const CONFIG_CROWDED: u32 = 1;
/// [`Settings::flags`]: new flows are for the pipeline to decide.
pub const CONFIG_UNDECIDED: u32 = 2;

/// Bytes in front of a frame that is punted.
pub const PUNT_HEADER: usize = 14;

/// The attachment that a frame came by ([`Attachment::id`]), when it is one that the programs punted to the daemon of this
/// session.
#[must_use]
pub fn attachment_of(frame: &[u8], session: u32) -> Option<u32> {
    let header = frame.first_chunk::<PUNT_HEADER>()?;
    (header[12..] == PUNT_ETHERTYPE.to_be_bytes() && header[8..12] == session.to_be_bytes())
        .then(|| u32::from_be_bytes([header[0], header[1], header[2], header[3]]))
}

pub(crate) const PUNT_ETHERTYPE: u16 = 0x88b5;

/// Where in that header the flow's hash is, in bytes: what frames are spread over sockets by.
pub const PUNT_HASH_AT: u32 = 4;

impl Key {
    /// A packet by which [`Key::of`] finds this key: of an echo the request, of other flows one from the low end.
    /// Nothing when it is no key of a flow.
    #[must_use]
    pub fn packet(&self) -> Option<FlowKey> {
        self.packet_from(usize::from(self.proto & KEY_HIGH_ASKS != 0))
    }

    /// A packet from the low end (0) or from the high one (1).
    #[must_use]
    pub fn packet_from(&self, end: usize) -> Option<FlowKey> {
        let packet = FlowKey {
            src: Addr::from_bits(u128::from_be_bytes(self.low)),
            dst: Addr::from_bits(u128::from_be_bytes(self.high)),
            vni: Vni::new_checked(self.vni).ok()?,
            sport: self.low_port,
            dport: self.high_port,
            proto: u8::try_from(self.proto & !KEY_HIGH_ASKS).ok()?,
            leg: Leg::from_bits(self.leg),
        };
        Some(if end == 0 { packet } else { packet.reversed() })
    }
}

/// An address as the tables have it.
#[must_use]
pub fn address(addr: Addr) -> [u8; 16] {
    addr.bits().to_be_bytes()
}

/// Size and member offsets of the key, whose members are private.
#[cfg(test)]
pub(crate) fn key_layout() -> (usize, Vec<(String, usize)>) {
    use std::mem::offset_of;
    let members = [
        ("low", offset_of!(Key, low)),
        ("high", offset_of!(Key, high)),
        ("vni", offset_of!(Key, vni)),
        ("low_port", offset_of!(Key, low_port)),
        ("high_port", offset_of!(Key, high_port)),
        ("proto", offset_of!(Key, proto)),
        ("leg", offset_of!(Key, leg)),
    ];
    (size_of::<Key>(), members.map(|(name, offset)| (name.to_owned(), offset)).to_vec())
}
