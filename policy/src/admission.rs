//! What a sender may put on the wire: port security, before any state is touched.
//!
//! It promises that behind it every frame has a source MAC and source address that belong to the sender,
//! carries no tag, ethertype or protocol of the link that its network does not take, plays no role (router,
//! DHCP server) that the sender does not have, and is not addressed to the overlay's own infrastructure. What
//! ARP and neighbour discovery claim inside is checked where they are answered (the `steering` crate).

use std::{fmt, ops::RangeInclusive, sync::Arc};

pub use eastgate_wire::AddressPair;
use eastgate_wire::{
    Addr, DropReason, Holdings, MacAddr, Ownership, View,
    view::{Icmp, Ip, Transport, ethertype, proto},
};

use crate::compile::address::{AddressMap, Prefix};

/// Who sends, and what it may.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sender {
    /// Its MACs and addresses
    pub holdings: Arc<Holdings>,
    /// Hold it to its MACs, addresses and roles. Without it the sender may bridge and route for others; MACs and
    /// addresses that are configured for others, tags, ethertypes, impossible addresses and reserved destinations
    /// are refused all the same.
    pub port_security: bool,
    /// May advertise itself as a router (RFC 6105) and send redirects
    pub router: bool,
    /// May answer DHCP and DHCPv6
    pub dhcp_server: bool,
    /// Ethertypes it may use beside IPv4, IPv6 and ARP; 802.3 lengths (below 0x600) are none, nor are flow control and slow
    /// protocols.
    pub ethertypes: Vec<u16>,
    /// May take part in the spanning tree protocols (IEEE 802.1Q)
    pub stp: bool,
    /// The VLAN tags of frames that it may send and be sent
    pub tags: Tags,
    /// May send to VTEPs and to management addresses, but no VXLAN
    pub underlay_access: bool,
}

/// Which VLAN tags frames may carry. One with VID 0 names no VLAN, only a priority (IEEE 802.1Q section 6.9).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tags {
    /// How many; 0 in a network that is not `vlan_aware`. More than two are never read and never pass.
    pub most: u8,
    /// The VLANs that they may name, as ranges of their numbers, of at most one tag; none where that is any.
    pub vlans: Option<Arc<[RangeInclusive<u16>]>>,
}

/// What holds for every sender of a host.
#[derive(Debug)]
pub struct Site {
    own_macs: Vec<MacAddr>,
    reserved: AddressMap,
    vxlan_port: u16,
}

/// A prefix that is none: too long, or wider than all of IPv4.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("/{len} (in the 128-bit form) is no prefix length for {network}")]
pub struct BadReserved {
    /// The prefix's address
    pub network: Addr,
    /// Its length in the 128-bit form
    pub len: u8,
}

/// One of the checks that a frame goes through, in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Check {
    /// The source MAC is one that a station can have, and none of ours.
    SourceMac,
    /// Frames of the link itself go no further than the link.
    LinkProtocol,
    /// No more VLAN tags than allowed, and of no other VLANs
    VlanTags,
    /// IPv4, IPv6, ARP, a RARP self-announcement, or what the network allows beside
    Ethertype,
    /// The source MAC is the sender's.
    MacOwned,
    /// No address that cannot be on this network
    Martian,
    /// The source address is the sender's, for that MAC.
    AddressOwned,
    /// The transport header is there to be judged.
    Readable,
    /// Only a DHCP server answers DHCP.
    DhcpServer,
    /// Only a router advertises itself or redirects.
    Router,
    /// Not for a VTEP or management address, unless the sender has access to those; then no VXLAN
    Destination,
}

/// Who sends a frame, among whom, and on which host.
#[derive(Clone, Copy, Debug)]
pub struct Context<'c> {
    /// Who sends it
    pub sender: &'c Sender,
    /// Whose which address is in its network
    pub ownership: &'c Ownership,
    /// What holds for every sender of the host
    pub site: &'c Site,
    /// The source address is a link-local one that the sender has chosen, and that nobody had before it.
    pub chosen: bool,
}

/// Whether the sender may send this frame. `frame` is what `view` was parsed from.
///
/// # Errors
/// The reason of the first [`Check`] that refuses it.
#[inline]
pub fn admit(view: &View, frame: &[u8], context: &Context<'_>) -> Result<(), DropReason> {
    Check::ALL.iter().try_for_each(|check| check.apply(view, frame, context))
}

/// Whether a station that nobody configured may send this frame: it has no role, and no MAC or address that is somebody's.
/// `tags` is what the network takes.
///
/// # Errors
/// The reason of the first [`Check`] that refuses it.
pub fn admit_unknown_host(
    view: &View,
    frame: &[u8],
    tags: &Tags,
    ownership: &Ownership,
    site: &Site,
) -> Result<(), DropReason> {
    let sender = &Sender { tags: tags.clone(), port_security: false, ..Sender::new(view.src) };
    let context = Context { sender, ownership, site, chosen: false };
    Check::ALL.iter().try_for_each(|check| match check {
        Check::DhcpServer => refuse_if(view.ip().is_some_and(serves_dhcp), DropReason::DhcpServerGuard),
        Check::Router => refuse_if(view.ip().is_some_and(acts_as_router), DropReason::RaGuard),
        check => check.apply(view, frame, &context),
    })
}

/// Every check with what it says, those behind the first refusal included: what `trace` shows.
#[must_use]
pub fn explain(view: &View, frame: &[u8], context: &Context<'_>) -> Vec<(Check, Result<(), DropReason>)> {
    Check::ALL.iter().map(|check| (*check, check.apply(view, frame, context))).collect()
}

impl Sender {
    /// A station with port security and nothing but its MAC.
    #[must_use]
    pub fn new(mac: MacAddr) -> Self {
        Self {
            holdings: Arc::new(Holdings::new(mac)),
            port_security: true,
            router: false,
            dhcp_server: false,
            ethertypes: Vec::new(),
            stp: false,
            tags: Tags::default(),
            underlay_access: false,
        }
    }

    /// Whether it may speak what a frame is of beside IPv4, IPv6 and ARP.
    #[must_use]
    pub fn speaks(&self, view: &View, frame: &[u8]) -> bool {
        match view.ethertype {
            // An 802.3 length: LLC and SNAP can carry IP and ARP past every check.
            0..0x600 => self.stp && is_stp(view, frame),
            // They end at the next device, whatever is asked for.
            0x8808 | 0x8809 => false,
            other => self.ethertypes.contains(&other),
        }
    }
}

impl Tags {
    /// Whether a frame may have the tags that it has.
    #[inline]
    #[must_use]
    pub fn admit(&self, view: &View) -> bool {
        let more_behind = matches!(view.ethertype, ethertype::VLAN | ethertype::QINQ);
        let vlan = view.tci & 0xfff;
        let named = match (view.tags, &self.vlans) {
            (0, _) | (_, None) => true,
            (1, Some(vlans)) => vlan == 0 || vlans.iter().any(|range| range.contains(&vlan)),
            _ => false,
        };
        view.tags <= self.most && !more_behind && named
    }
}

impl Site {
    /// A host with these MACs of its own, whose overlay lives at these `reserved` prefixes (lengths in the
    /// 128-bit form): VTEP and management addresses. The VTEPs listen on UDP port `vxlan_port`.
    ///
    /// # Errors
    /// The first prefix that is none.
    pub fn new(own_macs: &[MacAddr], reserved: &[(Addr, u8)], vxlan_port: u16) -> Result<Self, BadReserved> {
        let checked = reserved.iter().map(|&(network, len)| {
            Prefix::new(network, len).map(|prefix| (prefix, 1)).ok_or(BadReserved { network, len })
        });
        let mut prefixes = checked.collect::<Result<Vec<_>, _>>()?;
        prefixes.sort_unstable();
        prefixes.dedup();
        Ok(Self { own_macs: own_macs.to_vec(), reserved: AddressMap::new(&prefixes, 0), vxlan_port })
    }

    /// Is this a VTEP or management address?
    #[inline]
    #[must_use]
    pub fn is_reserved(&self, addr: Addr) -> bool {
        self.reserved.get(addr) == Some(1)
    }
}

impl Check {
    /// All of them, in the order in which a frame goes through them.
    pub const ALL: &[Self] = &[
        Self::SourceMac,
        Self::LinkProtocol,
        Self::VlanTags,
        Self::Ethertype,
        Self::MacOwned,
        Self::Martian,
        Self::AddressOwned,
        Self::Readable,
        Self::DhcpServer,
        Self::Router,
        Self::Destination,
    ];

    #[inline]
    fn apply(self, view: &View, frame: &[u8], context: &Context<'_>) -> Result<(), DropReason> {
        let Context { sender, ownership, site, .. } = *context;
        let ip = view.ip();
        let secured = sender.port_security;
        match self {
            Self::SourceMac => source_mac(view, site),
            Self::LinkProtocol => refuse_if(
                is_link_protocol(view) && !speaks_link(view, frame, sender),
                DropReason::LinkProtocol,
            ),
            Self::VlanTags => refuse_if(!sender.tags.admit(view), DropReason::VlanTagged),
            Self::Ethertype => ethertype(view, frame, sender),
            Self::MacOwned => {
                refuse_if(!ownership.may_use_mac(&sender.holdings, secured, view.src), DropReason::MacSpoofed)
            }
            Self::Martian => refuse_if(ip.is_some_and(is_martian), DropReason::Martian),
            Self::AddressOwned => {
                refuse_if(ip.is_some_and(|ip| !may_use(view, ip, context)), DropReason::IpSpoofed)
            }
            Self::Readable => refuse_if(
                ip.is_some_and(|ip| ip.transport == Transport::Incomplete),
                DropReason::FragmentTiny,
            ),
            Self::DhcpServer => refuse_if(
                secured && !sender.dhcp_server && ip.is_some_and(serves_dhcp),
                DropReason::DhcpServerGuard,
            ),
            Self::Router => {
                refuse_if(secured && !sender.router && ip.is_some_and(acts_as_router), DropReason::RaGuard)
            }
            Self::Destination => ip.map_or(Ok(()), |ip| destination(ip, sender, site)),
        }
    }

    /// What the check asks, for a person.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::SourceMac => "the source MAC is one a station can have",
            Self::LinkProtocol => "not a frame of the link itself",
            Self::VlanTags => "no VLAN tags but those that it may have",
            Self::Ethertype => "an ethertype that the network takes",
            Self::MacOwned => "the source MAC is the sender's",
            Self::Martian => "addresses that can be on this network",
            Self::AddressOwned => "the source address is the sender's",
            Self::Readable => "a first fragment holds the transport header",
            Self::DhcpServer => "no DHCP answers, unless from a DHCP server",
            Self::Router => "no router advertisements or redirects, unless from a router",
            Self::Destination => "not for a VTEP or management address, unless it may reach those",
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.describe())
    }
}

#[inline]
const fn refuse_if(refuse: bool, reason: DropReason) -> Result<(), DropReason> {
    if refuse { Err(reason) } else { Ok(()) }
}

fn destination(ip: &Ip, sender: &Sender, site: &Site) -> Result<(), DropReason> {
    if !site.is_reserved(ip.dst) {
        return Ok(());
    }
    refuse_if(!sender.underlay_access, DropReason::ReservedDestination)?;
    // A VTEP takes a datagram for a frame of whichever tenant it names.
    let is_vxlan = matches!(ip.transport, Transport::Udp { dport, .. } if dport == site.vxlan_port);
    refuse_if(is_vxlan, DropReason::VxlanInVxlan)
}

fn source_mac(view: &View, site: &Site) -> Result<(), DropReason> {
    refuse_if(!view.src.is_station() || site.own_macs.contains(&view.src), DropReason::BadSourceMac)
}

fn is_link_protocol(view: &View) -> bool {
    view.dst.is_of_the_link()
        // Pause and other MAC control, slow protocols, 802.1X, LLDP: wherever they are addressed to.
        || matches!(view.ethertype, 0x8808 | 0x8809 | 0x888e | 0x88cc)
}

/// What is for the next bridge is for the other endpoints where they may speak it: LLDP, 802.1X, spanning trees.
fn speaks_link(view: &View, frame: &[u8], sender: &Sender) -> bool {
    matches!(view.ethertype, 0..0x600 | 0x888e | 0x88cc) && sender.speaks(view, frame)
}

/// A BPDU: LLC with the bridge's access point at both ends and unnumbered information, to the bridge group address.
fn is_stp(view: &View, frame: &[u8]) -> bool {
    let llc = frame.get(usize::from(view.l3)..).and_then(|rest| rest.first_chunk::<3>());
    view.dst.0 == [0x01, 0x80, 0xc2, 0, 0, 0] && view.tags == 0 && llc == Some(&[0x42, 0x42, 0x03])
}

fn ethertype(view: &View, frame: &[u8], sender: &Sender) -> Result<(), DropReason> {
    let allowed = match view.ethertype {
        ethertype::IPV4 | ethertype::IPV6 | ethertype::ARP => true,
        ethertype::RARP if is_self_announcement(view, frame) => true,
        _ => sender.speaks(view, frame),
    };
    refuse_if(!allowed, DropReason::EthertypeRefused)
}

/// The RARP request (RFC 903) by which a hypervisor announces a machine that has moved to it: it asks for the
/// address of its own source MAC and claims no IP address.
fn is_self_announcement(view: &View, frame: &[u8]) -> bool {
    let body = frame.get(usize::from(view.l3)..).and_then(|rest| rest.first_chunk::<28>());
    let Some([0, 1, 8, 0, 6, 4, 0, 3, rest @ ..]) = body else { return false };
    let (sender_mac, rest) = rest.split_at(6);
    let (sender_ip, rest) = rest.split_at(4);
    let (target_mac, target_ip) = rest.split_at(6);
    view.dst.is_broadcast() && sender_mac == view.src.0 && target_mac == view.src.0 && {
        sender_ip == [0; 4] && target_ip == [0; 4]
    }
}

fn is_martian(ip: &Ip) -> bool {
    let (source, destination) = (ip.src, ip.dst);
    // Land: an unspecified source is judged with its purpose, in `may_use`.
    source == destination
        || source.is_multicast()
        || source.is_loopback()
        || is_never_an_address(source)
        || source.is_limited_broadcast()
        || destination.is_loopback()
        || destination.is_unspecified()
        || is_never_an_address(destination)
}

/// Can a station have this address, so that packets from it and to it are no martians?
#[must_use]
pub fn is_usable(addr: Addr) -> bool {
    !(addr.is_multicast()
        || addr.is_loopback()
        || addr.is_unspecified()
        || addr.is_limited_broadcast()
        || is_never_an_address(addr))
}

/// 0.0.0.0/8 without 0.0.0.0, and class E without the limited broadcast (RFC 1122 section 3.2.1.3, RFC 1112).
fn is_never_an_address(addr: Addr) -> bool {
    addr.is_v4() && {
        let bits = addr.bits() as u32;
        bits != 0 && bits >> 24 == 0 || bits >> 28 == 0xf && bits != u32::MAX
    }
}

fn may_use(view: &View, ip: &Ip, context: &Context<'_>) -> bool {
    let Context { sender, ownership, chosen, .. } = *context;
    if ip.src.is_unspecified() {
        return !sender.port_security || asks_for_address(view, ip);
    }
    chosen || ownership.may_send(&sender.holdings, sender.port_security, view.src, ip.src)
}

/// What a machine without an address has to send: the DHCP client's broadcasts (RFC 2131 section 4.1); over
/// IPv6 duplicate detection, router solicitation (RFC 4861 sections 4.1, 4.3) and MLD reports (RFC 3590).
fn asks_for_address(view: &View, ip: &Ip) -> bool {
    let link_multicast = ip.dst.bits() >> 112 == 0xff02;
    match ip.transport {
        // From whatever port: stacks have others than 68.
        Transport::Udp { dport: 67, .. } => {
            ip.src.is_v4() && ip.dst.is_limited_broadcast() && view.dst.is_broadcast()
        }
        Transport::Icmp(Icmp { kind: 135, code: 0, .. }) => {
            ip.dst.in_prefix(SOLICITED_NODE, 104) && ip.ttl == 255
        }
        Transport::Icmp(Icmp { kind: 133, code: 0, .. }) => link_multicast && ip.ttl == 255,
        Transport::Icmp(Icmp { kind: 131 | 143, .. }) => link_multicast && ip.ttl == 1,
        _ => false,
    }
}

/// The network of solicited-node addresses, a /104 (RFC 4291 section 2.7.1)
const SOLICITED_NODE: Addr = Addr::v6([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0]);

/// As many UDP ports as a network can have whose packets are checked one by one
pub const CONTROL_PORTS: usize = 8;

/// Those of DHCP and DHCPv6, whose roles are: servers and relays, and clients (RFC 2131 section 4.1, RFC 8415 section 7.2).
pub const DHCP_PORTS: [u16; CONTROL_PORTS] = [67, 68, 546, 547, 0, 0, 0, 0];

fn serves_dhcp(ip: &Ip) -> bool {
    // By the client's port as well: a client's raw socket takes an answer from whatever port it comes.
    let Transport::Udp { sport, dport } = ip.transport else { return false };
    if ip.src.is_v4() { sport == 67 || dport == 68 } else { sport == 547 || dport == 546 }
}

fn acts_as_router(ip: &Ip) -> bool {
    match (ip.transport, ip.proto) {
        // Router advertisement and redirect, in both families (RFC 4861; RFC 1256 and RFC 792)
        (Transport::Icmp(icmp), proto::ICMPV6) => matches!(icmp.kind, 134 | 137),
        (Transport::Icmp(icmp), proto::ICMP) => matches!(icmp.kind, 5 | 9),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
