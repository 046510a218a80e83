//! ARP and RARP: reading with every check of RFC 826, and writing.

use std::net::Ipv4Addr;

use eastgate_wire::{Addr, DropReason, MacAddr, View, view::ethertype};
use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress};

use super::{Act, Header, Message, Spoken, Words};

/// RFC 903: request reverse, which hypervisors send to tell switches where a MAC is now.
const RARP_REQUEST: ArpOperation = ArpOperation::Unknown(3);

/// One ARP packet for Ethernet and IPv4.
struct Arp {
    operation: ArpOperation,
    sender: Addr,
    target_mac: MacAddr,
    target: Addr,
}

/// Reads the ARP packet of a frame.
///
/// # Errors
/// [`DropReason::ArpMalformed`] when a type, a length or the operation is another than RFC 826 has for
/// Ethernet and IPv4, the sender MAC is not the Ethernet source, an address is none that a host can have, or
/// a reply names another MAC than the one it is sent to.
pub(super) fn read(frame: &[u8], view: &View) -> Result<Message, DropReason> {
    let malformed = Err(DropReason::ArpMalformed);
    let arp = parse(frame, view)?;
    let unicast = !view.dst.is_multicast();
    let from = (!arp.sender.is_unspecified()).then_some(arp.sender);
    if from.is_some_and(|sender| !is_host(sender)) {
        return malformed;
    }
    let act = match (arp.operation, from) {
        (ArpOperation::Request, _) if !is_host(arp.target) => return malformed,
        (ArpOperation::Request, None) => Act::Probe(arp.target),
        (ArpOperation::Request, Some(sender)) if sender == arp.target => Act::Announce { overrides: true },
        (ArpOperation::Request, Some(_)) => Act::Ask(arp.target),
        (ArpOperation::Reply, Some(_)) if !unicast => Act::Announce { overrides: true },
        (ArpOperation::Reply, Some(_)) if arp.target_mac == view.dst => Act::Tell { to: arp.target },
        _ => return malformed,
    };
    Ok(Message { act, from, claim: from, unicast })
}

/// Reads the RARP packet of a frame; only the announcement that hypervisors make of it is known.
///
/// # Errors
/// [`DropReason::ArpMalformed`] when it is anything else.
pub(super) fn read_rarp(frame: &[u8], view: &View) -> Result<Message, DropReason> {
    let arp = parse(frame, view)?;
    if arp.operation != RARP_REQUEST || arp.target_mac != view.src || !arp.sender.is_unspecified() {
        return Err(DropReason::ArpMalformed);
    }
    Ok(Message { act: Act::Rarp, from: None, claim: None, unicast: !view.dst.is_multicast() })
}

/// Appends the frame that says `spoken`.
pub(super) fn emit(header: &Header<'_>, spoken: &Spoken, out: &mut Vec<u8>) {
    let mac = |mac: MacAddr| EthernetAddress(mac.0);
    let arp = match spoken.words {
        Words::Has { to, .. } => ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Reply,
            source_hardware_addr: mac(spoken.mac),
            source_protocol_addr: v4(spoken.address),
            target_hardware_addr: mac(spoken.to_mac),
            target_protocol_addr: to.map_or(Ipv4Addr::UNSPECIFIED, v4),
        },
        Words::Who(question) => ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr: mac(spoken.mac),
            source_protocol_addr: v4(question.sender),
            target_hardware_addr: mac(MacAddr::ZERO),
            target_protocol_addr: v4(spoken.address),
        },
    };
    header.emit(ethertype::ARP, out);
    let at = out.len();
    out.resize(at + arp.buffer_len(), 0);
    arp.emit(&mut ArpPacket::new_unchecked(&mut out[at..]));
}

fn parse(frame: &[u8], view: &View) -> Result<Arp, DropReason> {
    let malformed = |_| DropReason::ArpMalformed;
    let bytes = frame.get(usize::from(view.l3)..).ok_or(DropReason::ArpMalformed)?;
    let packet = ArpPacket::new_checked(bytes).map_err(malformed)?;
    let ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr,
        target_hardware_addr,
        target_protocol_addr,
    } = ArpRepr::parse(&packet).map_err(malformed)?
    else {
        return Err(DropReason::ArpMalformed);
    };
    let sender_mac = MacAddr(source_hardware_addr.0);
    if sender_mac != view.src || !sender_mac.is_station() {
        return Err(DropReason::ArpMalformed);
    }
    Ok(Arp {
        operation,
        sender: source_protocol_addr.into(),
        target_mac: MacAddr(target_hardware_addr.0),
        target: target_protocol_addr.into(),
    })
}

/// An address that a host can have on its network.
fn is_host(address: Addr) -> bool {
    !address.is_unspecified()
        && !address.is_multicast()
        && !address.is_limited_broadcast()
        && !address.is_loopback()
}

fn v4(address: Addr) -> Ipv4Addr {
    Ipv4Addr::from_bits(address.bits() as u32)
}
