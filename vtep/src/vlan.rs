//! Inner VLAN tags (RFC 7348 section 6.1): taken off before encapsulating and refused after unwrapping, unless the
//! network is `vlan_aware`, in which case they travel as they are. A tag with VID 0 names no VLAN, only a priority
//! (IEEE 802.1Q section 6.9): the frame is untagged, and goes on as such.

use eastgate_wire::{
    DropReason, Frame, View,
    view::{Net, Transport, ethertype},
};

/// Takes the tags off a frame that is about to be encapsulated, and keeps `view` true; tells how many there were.
///
/// # Errors
/// [`DropReason::VlanTagged`] when there are more tags than the view looked behind: what they hide was seen
/// by no check.
#[inline]
pub fn strip(frame: &mut Frame<'_>, view: &mut View, vlan_aware: bool) -> Result<u8, DropReason> {
    if vlan_aware || view.tags == 0 {
        return Ok(0);
    }
    if matches!(view.ethertype, ethertype::VLAN | ethertype::QINQ) {
        return Err(DropReason::VlanTagged);
    }
    let tags = view.tags;
    for _ in 0..tags {
        if !frame.strip_vlan() {
            return Err(DropReason::FrameTruncated);
        }
    }
    let bytes = u16::from(tags) * 4;
    (view.tags, view.tci) = (0, 0);
    view.l3 -= bytes;
    if let Net::Ip(ip) = &mut view.net {
        ip.l4 -= bytes;
        if let Transport::Tcp(tcp) = &mut ip.transport {
            tcp.mss_at = tcp.mss_at.map(|at| at - bytes);
        }
    }
    Ok(tags)
}

/// Takes the priority tags off the front of a frame, unless tags travel. To be done before the frame is parsed, so
/// that whatever looks at it sees what its receiver will.
#[inline]
pub fn strip_priority(frame: &mut Frame<'_>, vlan_aware: bool) {
    while !vlan_aware && is_priority_tagged(frame.bytes()) && frame.strip_vlan() {}
}

fn is_priority_tagged(frame: &[u8]) -> bool {
    let word = |at: usize| frame.get(at..)?.first_chunk().map(|word| u16::from_be_bytes(*word));
    matches!(word(12), Some(ethertype::VLAN | ethertype::QINQ))
        && word(14).is_some_and(|tci| tci & 0xfff == 0)
}

/// Whether an unwrapped frame may have the tags it has.
///
/// # Errors
/// [`DropReason::InnerVlan`] when it has one and the network is not `vlan_aware`.
#[inline]
pub const fn check(view: &View, vlan_aware: bool) -> Result<(), DropReason> {
    if view.tags > 0 && !vlan_aware { Err(DropReason::InnerVlan) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use eastgate_wire::{Offload, PartialChecksum};

    use super::*;
    use crate::test_frames::{tag, tcp_syn_v4, udp_v6};

    #[test]
    fn tags_come_off_and_the_view_stays_true() {
        for plain in [tcp_syn_v4(1460, false), udp_v6(1, 2, b"data")] {
            for tags in 1..=2usize {
                let mut tagged = (0..tags).fold(plain.clone(), |frame, n| tag(&frame, 100 + n as u16));
                let mut view = View::parse(&tagged).unwrap();
                let len = tagged.len();
                let start = (14 + 4 * tags + 20) as u16;
                let partial = Some(PartialChecksum { start, offset: 16 });
                let mut frame = Frame::new(&mut tagged, 0, len, Offload { checksum: partial, gso: None });
                assert_eq!(strip(&mut frame, &mut view, false), Ok(tags as u8));
                assert_eq!(frame.bytes(), plain);
                assert_eq!(frame.offload.checksum.unwrap().start, 34);
                assert_eq!(view, View::parse(&plain).unwrap());
            }
        }
    }

    #[test]
    fn a_vlan_aware_network_keeps_them() {
        let tagged = tag(&udp_v6(1, 2, b""), 7);
        let mut bytes = tagged.clone();
        let mut view = View::parse(&tagged).unwrap();
        let len = bytes.len();
        let mut frame = Frame::new(&mut bytes, 0, len, Offload::default());
        assert_eq!(strip(&mut frame, &mut view, true), Ok(0));
        assert_eq!(frame.bytes(), tagged);
        assert_eq!(check(&view, true), Ok(()));
    }

    #[test]
    fn unwrapped_frames_with_a_tag_are_refused() {
        let view = View::parse(&tag(&udp_v6(1, 2, b""), 7)).unwrap();
        assert_eq!(check(&view, false), Err(DropReason::InnerVlan));
        assert_eq!(check(&View::parse(&udp_v6(1, 2, b"")).unwrap(), false), Ok(()));
    }

    #[test]
    fn a_priority_tag_is_no_vlan() {
        let plain = udp_v6(1, 2, b"data");
        let without_priority = |frame: &[u8], vlan_aware: bool| {
            let mut bytes = frame.to_vec();
            let len = bytes.len();
            let mut frame = Frame::new(&mut bytes, 0, len, Offload::default());
            strip_priority(&mut frame, vlan_aware);
            frame.bytes().to_vec()
        };
        let urgent = tag(&plain, 7 << 13);
        assert_eq!(without_priority(&urgent, false), plain);
        assert_eq!(without_priority(&tag(&urgent, 0), false), plain, "however many");
        assert_eq!(
            without_priority(&tag(&tag(&plain, 5), 0), false),
            tag(&plain, 5),
            "what is behind it stays"
        );
        assert_eq!(without_priority(&tag(&urgent, 5), false), tag(&urgent, 5));
        assert_eq!(without_priority(&urgent, true), urgent);
        for len in 0..18 {
            assert_eq!(without_priority(&urgent[..len], false), urgent[..len]);
        }
    }

    #[test]
    fn three_tags_are_refused() {
        let mut bytes = (0..3).fold(udp_v6(1, 2, b""), |frame, n| tag(&frame, n));
        let mut view = View::parse(&bytes).unwrap();
        let len = bytes.len();
        let mut frame = Frame::new(&mut bytes, 0, len, Offload::default());
        assert_eq!(strip(&mut frame, &mut view, false), Err(DropReason::VlanTagged));
    }
}
