//! Protocols beside IPv4, IPv6 and ARP.

use super::*;

/// Attack 17: frames of the link, and ethertypes nobody asked for.
#[test]
fn other_protocols_stop_here() {
    let to = |dst, ethertype| ethernet(dst, MINE, ethertype, &[0; 46]);
    let bridge = |last| [1, 0x80, 0xc2, 0, 0, last];
    for frame in [
        to(bridge(0), 0x0026),
        to(bridge(0x0e), 0x88cc),
        to(bridge(1), 0x8808),
        to(bridge(2), 0x8809),
        to(bridge(3), 0x888e),
        to(bridge(0x0f), ethertype::ARP),
        to([1, 0, 0x0c, 0xcc, 0xcc, 0xcc], 0x0026),
        to([1, 0, 0x0c, 0xcc, 0xcc, 0xcd], 0x0026),
        to(OTHER, 0x88cc),
        to(OTHER, 0x888e),
    ] {
        let mut open = sender();
        open.port_security = false;
        open.ethertypes = vec![0x8808, 0x8809];
        assert_eq!(try_as(&open, &frame), Err(DropReason::LinkProtocol), "{frame:02x?}");
        // Those that may be asked for, and nothing else of the link.
        let asked = matches!(frame[12..14], [0x88, 0xcc | 0x8e]);
        open.ethertypes = vec![0x88cc, 0x888e, 0x8808, 0x8809, ethertype::ARP, 0x26];
        let expected = if asked { Ok(()) } else { Err(DropReason::LinkProtocol) };
        assert_eq!(try_as(&open, &frame), expected, "{frame:02x?}");
    }
    for ethertype in [0x8847, 0x8848, 0x88e5, 0x9100, 0x88f7, 0x8863, 0x6558, 0xffff, 0x0600, ethertype::RARP]
    {
        assert_eq!(attempt(&to(OTHER, ethertype)), Err(DropReason::EthertypeRefused), "{ethertype:04x}");
        let mut allowed = sender();
        allowed.ethertypes = vec![ethertype];
        assert_eq!(try_as(&allowed, &to(OTHER, ethertype)), Ok(()));
    }
}

/// Spanning trees are let through where they are asked for, and nothing else of LLC with them.
#[test]
fn only_a_bpdu_is_one() {
    let bridges = [1, 0x80, 0xc2, 0, 0, 0];
    let bpdu = |dst, llc: [u8; 3]| ethernet(dst, MINE, 38, &[&llc[..], &[0; 35]].concat());
    let mut takes_part = sender();
    takes_part.stp = true;
    let right = bpdu(bridges, [0x42, 0x42, 3]);
    assert_eq!(attempt(&right), Err(DropReason::LinkProtocol));
    assert_eq!(try_as(&takes_part, &right), Ok(()));
    for (frame, reason) in [
        (bpdu(bridges, [0xaa, 0xaa, 3]), DropReason::LinkProtocol),
        (bpdu([1, 0x80, 0xc2, 0, 0, 1], [0x42, 0x42, 3]), DropReason::LinkProtocol),
        (bpdu(OTHER, [0x42, 0x42, 3]), DropReason::EthertypeRefused),
        (right[..16].to_vec(), DropReason::LinkProtocol),
        (tagged(&right, &[0x8100]), DropReason::LinkProtocol),
    ] {
        assert_eq!(try_as(&takes_part, &frame), Err(reason), "{frame:02x?}");
    }
}

#[test]
fn rarp_only_announces_the_sender() {
    assert_eq!(attempt(&rarp(MINE, 3, MINE, MINE, 0)), Ok(()));
    for frame in [
        rarp(MINE, 3, OTHER, OTHER, 0),
        rarp(MINE, 3, MINE, OTHER, 0),
        rarp(MINE, 4, MINE, MINE, 0),
        rarp(MINE, 1, MINE, MINE, 0),
        rarp(MINE, 3, MINE, MINE, 10),
        rarp(MINE, 3, MINE, MINE, 0)[..40].to_vec(),
    ] {
        assert_eq!(attempt(&frame), Err(DropReason::EthertypeRefused), "{frame:02x?}");
    }
}
