//! Neighbour discovery: reading with every check of RFC 4861 sections 6.1.1, 7.1.1 and 7.1.2 and of RFC 6980,
//! and writing.

use std::net::Ipv6Addr;

use eastgate_wire::{
    Addr, DropReason, MacAddr, View, checksum,
    view::{ETHERNET_LEN, Ip, Transport, ethertype, proto},
};
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        EthernetAddress, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv6Packet, Ipv6Repr, NdiscNeighborFlags,
        NdiscRepr,
    },
};

use super::{Act, Header, Message, Spoken, Words};

const ROUTER_SOLICITATION: u8 = 133;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

const SOURCE_MAC: u8 = 1;
const TARGET_MAC: u8 = 2;

const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// Set by the sender and lowered by every router: at 255 the packet comes from this link.
const HOP_LIMIT: u8 = 255;
const IPV6_HEADER: u16 = 40;
const ALL_NODES: Addr = Addr::v6([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

/// The MAC that all nodes listen to (RFC 2464 section 7)
pub(super) const ALL_NODES_MAC: MacAddr = group_mac(ALL_NODES);

/// The fixed part of a solicitation or advertisement.
const FIXED: usize = 24;

/// Reads the neighbour discovery message of a frame; nothing when it carries something else, or an
/// advertisement of a router or a redirect.
///
/// # Errors
/// [`DropReason::NdMalformed`] when RFC 4861 would have a host discard it silently, when it has an extension
/// header or is a fragment (RFC 6980), or when IP and Ethernet destination do not belong together;
/// [`DropReason::NdSpoofed`] when it names another MAC than the Ethernet source.
pub(super) fn read(frame: &[u8], view: &View, ip: &Ip) -> Result<Option<Message>, DropReason> {
    let Transport::Icmp(icmp) = ip.transport else { return Ok(None) };
    if ip.proto != proto::ICMPV6 || !matches!(icmp.kind, ROUTER_SOLICITATION | SOLICITATION | ADVERTISEMENT) {
        return Ok(None);
    }
    let packet = Packet::check(frame, view, ip, icmp.code)?;
    match icmp.kind {
        ROUTER_SOLICITATION => packet.router_solicitation(),
        SOLICITATION => packet.solicitation(),
        _ => packet.advertisement(),
    }
    .map(Some)
}

/// Appends the frame that says `spoken`.
pub(super) fn emit(header: &Header<'_>, spoken: &Spoken, out: &mut Vec<u8>) {
    let mac = Some(EthernetAddress(spoken.mac.0).into());
    let (src, dst, message) = match spoken.words {
        Words::Has { to, router } => {
            // An answer to a sender without an address is not solicited and goes to all nodes (RFC 4861
            // section 7.2.4). The override flag is set in proxy mode too: section 7.2.8 clears it so that the
            // real host wins, and here it must not.
            let mut flags = NdiscNeighborFlags::OVERRIDE;
            flags.set(NdiscNeighborFlags::SOLICITED, to.is_some());
            flags.set(NdiscNeighborFlags::ROUTER, router);
            let advert = NdiscRepr::NeighborAdvert { flags, target_addr: v6(spoken.address), lladdr: mac };
            (spoken.address, to.unwrap_or(ALL_NODES), advert)
        }
        Words::Who(question) => {
            let lladdr = mac.filter(|_| question.names_mac);
            let solicit = NdiscRepr::NeighborSolicit { target_addr: v6(spoken.address), lladdr };
            let to = if question.to_all { solicited_node(spoken.address) } else { spoken.address };
            (question.sender, to, solicit)
        }
    };
    let icmp = Icmpv6Repr::Ndisc(message);
    let ip = Ipv6Repr {
        src_addr: v6(src),
        dst_addr: v6(dst),
        next_header: IpProtocol::Icmpv6,
        payload_len: icmp.buffer_len(),
        hop_limit: HOP_LIMIT,
    };
    header.emit(ethertype::IPV6, out);
    let at = out.len();
    out.resize(at + ip.buffer_len() + icmp.buffer_len(), 0);
    let (ip_bytes, icmp_bytes) = out[at..].split_at_mut(ip.buffer_len());
    ip.emit(&mut Ipv6Packet::new_unchecked(ip_bytes));
    let checksums = ChecksumCapabilities::default();
    icmp.emit(&ip.src_addr, &ip.dst_addr, &mut Icmpv6Packet::new_unchecked(icmp_bytes), &checksums);
}

/// The multicast group that a host with this address listens to (RFC 4291 section 2.7.1).
pub(super) const fn solicited_node(address: Addr) -> Addr {
    Addr::from_bits(0xff02_0000_0000_0000_0000_0001_ff00_0000 | address.bits() & 0xff_ffff)
}

/// The MAC that a multicast group is sent to (RFC 2464 section 7).
pub(super) const fn group_mac(group: Addr) -> MacAddr {
    let [a, b, c, d] = (group.bits() as u32).to_be_bytes();
    MacAddr([0x33, 0x33, a, b, c, d])
}

/// A message that passed what all of them have to pass.
struct Packet<'f> {
    src: Addr,
    dst: Addr,
    src_mac: MacAddr,
    unicast: bool,
    icmp: &'f [u8],
}

impl<'f> Packet<'f> {
    fn check(frame: &'f [u8], view: &View, ip: &Ip, code: u8) -> Result<Self, DropReason> {
        let from = usize::from(ip.l4);
        let icmp = frame.get(from..from + usize::from(ip.l4_len)).ok_or(DropReason::NdMalformed)?;
        // The header length also shows an atomic fragment, which the view does not count as a fragment.
        let plain = ip.l4 == view.l3 + IPV6_HEADER && ip.fragment.is_none();
        let to_right_mac = if view.dst.is_multicast() {
            ip.dst.is_multicast() && view.dst == group_mac(ip.dst)
        } else {
            true
        };
        if !plain
            || !to_right_mac
            || ip.ttl != HOP_LIMIT
            || code != 0
            || !view.src.is_station()
            || ip.src.is_multicast()
            || ip.src.is_loopback()
            || !checksum_holds(frame, view, icmp)
        {
            return Err(DropReason::NdMalformed);
        }
        let unicast = !view.dst.is_multicast();
        Ok(Self { src: ip.src, dst: ip.dst, src_mac: view.src, unicast, icmp })
    }

    /// RFC 4861 section 6.1.1
    fn router_solicitation(&self) -> Result<Message, DropReason> {
        let from = self.from();
        let names_mac = self.option(8, SOURCE_MAC)?;
        if names_mac && from.is_none() {
            return Err(DropReason::NdMalformed);
        }
        let claim = from.filter(|_| names_mac);
        Ok(Message { act: Act::RouterSolicitation, from, claim, unicast: self.unicast })
    }

    /// RFC 4861 section 7.1.1; the destination is one of the two that section 4.3 has.
    fn solicitation(&self) -> Result<Message, DropReason> {
        let target = self.target()?;
        let from = self.from();
        let names_mac = self.option(FIXED, SOURCE_MAC)?;
        let to_group = self.dst == solicited_node(target);
        if !to_group && self.dst != target || from.is_none() && (names_mac || !to_group) {
            return Err(DropReason::NdMalformed);
        }
        let act = if from.is_none() { Act::Probe(target) } else { Act::Ask(target) };
        Ok(Message { act, from, claim: from.filter(|_| names_mac), unicast: self.unicast })
    }

    /// RFC 4861 section 7.1.2; a multicast destination is the one that section 4.4 has.
    fn advertisement(&self) -> Result<Message, DropReason> {
        let target = self.target()?;
        let flags = self.icmp.get(4).copied().unwrap_or_default();
        self.option(FIXED, TARGET_MAC)?;
        let multicast = self.dst.is_multicast();
        if self.src.is_unspecified() || multicast && (self.dst != ALL_NODES || flags & SOLICITED != 0) {
            return Err(DropReason::NdMalformed);
        }
        let act = if multicast {
            Act::Announce { overrides: flags & OVERRIDE != 0 }
        } else {
            Act::Tell { to: self.dst }
        };
        Ok(Message { act, from: Some(self.src), claim: Some(target), unicast: self.unicast })
    }

    fn from(&self) -> Option<Addr> {
        (!self.src.is_unspecified()).then_some(self.src)
    }

    fn target(&self) -> Result<Addr, DropReason> {
        let field = self.icmp.get(8..FIXED).and_then(|bytes| bytes.first_chunk());
        let target = Addr::v6(*field.ok_or(DropReason::NdMalformed)?);
        let possible =
            !target.is_v4() && !target.is_multicast() && !target.is_unspecified() && !target.is_loopback();
        if possible { Ok(target) } else { Err(DropReason::NdMalformed) }
    }

    /// Walks the options behind the first `fixed` bytes; says whether the one of this kind is among them.
    /// Every one that names a MAC of the sender has to name the one that sent the frame; options of other
    /// kinds are skipped, as RFC 4861 section 4.6 has it.
    fn option(&self, fixed: usize, kind: u8) -> Result<bool, DropReason> {
        let mut rest = self.icmp.get(fixed..).ok_or(DropReason::NdMalformed)?;
        let mut found = false;
        while let [this, units, ..] = *rest {
            let len = usize::from(units) * 8;
            let (option, behind) = rest.split_at_checked(len).ok_or(DropReason::NdMalformed)?;
            if len == 0 {
                return Err(DropReason::NdMalformed);
            }
            if this == kind {
                let mac = option.get(2..).and_then(MacAddr::from_slice);
                if len != 8 {
                    return Err(DropReason::NdMalformed);
                }
                if mac != Some(self.src_mac) {
                    return Err(DropReason::NdSpoofed);
                }
                found = true;
            }
            rest = behind;
        }
        if rest.is_empty() { Ok(found) } else { Err(DropReason::NdMalformed) }
    }
}

/// Over the address fields as they stand in the header and the whole message.
fn checksum_holds(frame: &[u8], view: &View, icmp: &[u8]) -> bool {
    let l3 = usize::from(view.l3).max(ETHERNET_LEN);
    let (Some(src), Some(dst)) = (frame.get(l3 + 8..l3 + 24), frame.get(l3 + 24..l3 + 40)) else {
        return false;
    };
    checksum::pseudo_header(src, dst, proto::ICMPV6, icmp.len() as u32).bytes(icmp).finish() == 0
}

fn v6(address: Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(address.bits())
}
