//! A dropped frame in words.

use eastgate_wire::{Addr, DropReason, FlowKey, names::packet, view::proto};

use super::{Subject, What};

/// A dropped frame in words: what it was about, and its MACs where the reason is about these. Nothing where nothing is
/// known.
#[must_use]
pub fn dropped(reason: DropReason, subject: &Subject) -> String {
    use DropReason::{
        BadSourceMac, DirectFrame, MacFrozen, MacLimit, MacMoveRefused, MacSpoofed, UnknownDestination,
        UnknownEndpoint, UnknownStation,
    };
    let mut text = match subject.what {
        What::Unknown => String::new(),
        What::Packet { flow, icmp, target } => about_packet(&flow, icmp, target),
        What::Arp { operation, sender, target } => about_arp(operation, sender, target),
        What::Other { ethertype: length @ ..0x600 } => format!("802.3 frame of length {length}"),
        What::Other { ethertype } => format!("ethertype 0x{ethertype:04x}{}", ethertype_name(ethertype)),
        What::Network { vni } => format!("VNI {vni}"),
    };
    if let Some(tag) = subject.tag {
        text = format!("VLAN {tag} {text}").trim_end().to_owned();
    } else if reason == DropReason::UnknownVlan {
        text = "untagged".to_owned();
    }
    let by_mac = matches!(
        reason,
        BadSourceMac
            | MacFrozen
            | MacLimit
            | MacMoveRefused
            | MacSpoofed
            | UnknownDestination
            | UnknownEndpoint
            | DirectFrame
            | UnknownStation
    ) || matches!(subject.what, What::Other { .. } | What::Unknown);
    if let Some([dst, src]) = subject.macs.filter(|_| by_mac) {
        let comma = if text.is_empty() { "" } else { ", " };
        text += &format!("{comma}MAC {src} -> {dst}");
    }
    text
}

fn about_packet(flow: &FlowKey, icmp: Option<(u8, u8)>, target: Option<Addr>) -> String {
    let words = packet(flow);
    let Some((kind, code)) = icmp else { return words };
    let (protocol, ends) = words.split_once(' ').unwrap_or((&words, ""));
    let kind = match icmp_name(flow.proto, kind) {
        Some(name) => name.to_owned(),
        None if code == 0 => format!("type {kind}"),
        None => format!("type {kind} code {code}"),
    };
    match target {
        Some(target) => format!("{protocol} {kind} for {target}, {ends}"),
        None => format!("{protocol} {kind} {ends}"),
    }
}

fn about_arp(operation: u16, sender: Addr, target: Addr) -> String {
    match operation {
        1 if sender == target => format!("arp announcement of {sender}"),
        1 if sender.is_unspecified() => format!("arp probe for {target}"),
        1 => format!("arp who-has {target} tell {sender}"),
        2 => format!("arp {sender} is-at, to {target}"),
        3 => "rarp announcement".to_owned(),
        other => format!("arp operation {other}, {sender} -> {target}"),
    }
}

const fn icmp_name(protocol: u8, kind: u8) -> Option<&'static str> {
    Some(match (protocol, kind) {
        (proto::ICMP, 0) | (proto::ICMPV6, 129) => "echo-reply",
        (proto::ICMP, 8) | (proto::ICMPV6, 128) => "echo-request",
        (proto::ICMP, 3) | (proto::ICMPV6, 1) => "unreachable",
        (proto::ICMP, 5) | (proto::ICMPV6, 137) => "redirect",
        (proto::ICMP, 9) | (proto::ICMPV6, 134) => "router-advertisement",
        (proto::ICMP, 10) | (proto::ICMPV6, 133) => "router-solicitation",
        (proto::ICMP, 11) | (proto::ICMPV6, 3) => "time-exceeded",
        (proto::ICMPV6, 2) => "packet-too-big",
        (proto::ICMPV6, 130) => "mld-query",
        (proto::ICMPV6, 131) => "mld-report",
        (proto::ICMPV6, 132) => "mld-done",
        (proto::ICMPV6, 135) => "neighbor-solicitation",
        (proto::ICMPV6, 136) => "neighbor-advertisement",
        (proto::ICMPV6, 143) => "mldv2-report",
        _ => return None,
    })
}

const fn ethertype_name(ethertype: u16) -> &'static str {
    match ethertype {
        0x0842 => " (wake-on-LAN)",
        0x8863 | 0x8864 => " (PPPoE)",
        0x8847 | 0x8848 => " (MPLS)",
        0x888e => " (802.1X)",
        0x88a8 => " (S-TAG)",
        0x88cc => " (LLDP)",
        0x88e5 => " (MACsec)",
        0x88f7 => " (PTP)",
        0x8035 => " (RARP)",
        0x8809 => " (LACP)",
        0x9000 => " (loopback test)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use eastgate_wire::MacAddr;

    use super::*;

    #[test]
    fn a_dropped_frame_says_what_it_was_about() {
        let address = |last| Addr::v4([10, 1, 0, last]);
        let macs = Some([MacAddr::BROADCAST, MacAddr([2, 0, 0, 0, 0, 9])]);
        let say = |reason, what| dropped(reason, &Subject { macs, tag: None, what });
        let ask = What::Arp { operation: 1, sender: address(11), target: address(99) };
        assert_eq!(say(DropReason::NeighborUnknown, ask), "arp who-has 10.1.0.99 tell 10.1.0.11");
        let lldp = say(DropReason::EthertypeRefused, What::Other { ethertype: 0x88cc });
        assert_eq!(lldp, "ethertype 0x88cc (LLDP), MAC 02:00:00:00:00:09 -> ff:ff:ff:ff:ff:ff");
        let stray = |tag| dropped(DropReason::UnknownVlan, &Subject::of_stray(tag, &[0x02; 12]));
        let macs = ", MAC 02:02:02:02:02:02 -> 02:02:02:02:02:02";
        assert_eq!(stray(Some((0x8100, 0x212c))), format!("VLAN 300{macs}"));
        assert_eq!(stray(Some((0x88a8, 101))), format!("VLAN 101 ethertype 0x88a8 (S-TAG){macs}"));
        assert_eq!(
            (stray(None), stray(Some((0x8100, 0)))),
            (format!("untagged{macs}"), format!("VLAN 0{macs}"))
        );
        assert!(say(DropReason::MacSpoofed, ask).ends_with("MAC 02:00:00:00:00:09 -> ff:ff:ff:ff:ff:ff"));
    }
}
