//! What fits into the tunnel, and what happens to that which does not.
//!
//! A VTEP must not fragment (RFC 7348 section 4.3), so the size is settled before encapsulating: [`tenant_mtu`]
//! says what tenants may send, [`path`] what the underlay has been found to carry, [`too_big`] tells the
//! sender of a packet that may not be fragmented, [`fragment`] cuts one that may, and [`mss`] keeps TCP from
//! getting there.

use eastgate_wire::{Family, Offload, View, view::Transport};

pub mod fragment;
pub mod mss;
pub mod path;
pub mod too_big;

/// Bytes of a VLAN tag.
const TAG: u16 = 4;

/// Bytes that the tunnel puts around an inner packet: outer IP, UDP, VXLAN and the inner Ethernet header
/// without tags. 50 over IPv4, 70 over IPv6.
#[must_use]
pub const fn overhead(underlay: Family) -> u16 {
    match underlay {
        Family::V4 => 20 + 8 + 8 + 14,
        Family::V6 => 40 + 8 + 8 + 14,
    }
}

/// The largest IP packet that tenants can send, in bytes: what the underlay's MTU leaves, less four for each
/// tag that is carried inside.
#[must_use]
pub const fn tenant_mtu(underlay_mtu: u16, underlay: Family, tags: u8) -> u16 {
    underlay_mtu.saturating_sub(overhead(underlay) + TAG * tags as u16)
}

/// The size that counts against the tenant MTU, in bytes: the packet behind the Ethernet header and tags. Of
/// a GSO packet it is that of the largest frame it will be cut into.
#[inline]
#[must_use]
pub fn packet_len(view: &View, frame_len: usize, offload: &Offload) -> usize {
    let l3 = usize::from(view.l3);
    match (view.ip(), offload.gso) {
        (Some(ip), Some(gso)) => {
            let header = match ip.transport {
                Transport::Tcp(tcp) => usize::from(tcp.header_len),
                Transport::Udp { .. } => 8,
                _ => 0,
            };
            let payload = usize::from(ip.l4_len).saturating_sub(header).min(usize::from(gso.segment));
            (usize::from(ip.l4) + header + payload).saturating_sub(l3)
        }
        (Some(ip), None) => (usize::from(ip.l4) + usize::from(ip.l4_len)).saturating_sub(l3),
        (None, _) => frame_len.saturating_sub(l3),
    }
}

/// Does the frame, once encapsulated, fit the path? `path_mtu` is that of the underlay on the way to the VTEP.
#[inline]
#[must_use]
pub fn fits(view: &View, frame_len: usize, offload: &Offload, path_mtu: u16, underlay: Family) -> bool {
    packet_len(view, frame_len, offload) <= usize::from(tenant_mtu(path_mtu, underlay, view.tags))
}

#[cfg(test)]
mod tests {
    use eastgate_wire::{Gso, GsoKind};

    use super::*;
    use crate::test_frames::{arp, tag, tcp_v4, udp_v6};

    #[test]
    fn tenant_mtu_of_the_usual_underlays() {
        assert_eq!(tenant_mtu(1500, Family::V4, 0), 1450);
        assert_eq!(tenant_mtu(1500, Family::V6, 0), 1430);
        assert_eq!(tenant_mtu(9000, Family::V4, 0), 8950);
        assert_eq!(tenant_mtu(1500, Family::V4, 1), 1446);
        assert_eq!(tenant_mtu(1500, Family::V6, 2), 1422);
        assert_eq!(tenant_mtu(40, Family::V4, 0), 0);
    }

    #[test]
    fn the_last_byte_counts() {
        let whole = Offload::default();
        for (frame, underlay) in [
            (tcp_v4(1, 2, 3, &[0; 1410]), Family::V4),
            (udp_v6(1, 2, &[0; 1382]), Family::V6),
            (tag(&tcp_v4(1, 2, 3, &[0; 1406]), 5), Family::V4),
        ] {
            let view = View::parse(&frame).unwrap();
            assert!(fits(&view, frame.len(), &whole, 1500, underlay));
            assert!(!fits(&view, frame.len(), &whole, 1499, underlay));
            let on_the_wire = frame.len() + usize::from(overhead(underlay)) - 14;
            assert_eq!(on_the_wire, 1500, "outer packet");
        }
        let view = View::parse(&arp()).unwrap();
        assert!(fits(&view, 60, &whole, 96, Family::V4) && !fits(&view, 60, &whole, 95, Family::V4));
    }

    #[test]
    fn a_gso_packet_is_as_large_as_its_segments() {
        let frame = tcp_v4(1, 2, 3, &[0; 60000]);
        let view = View::parse(&frame).unwrap();
        let gso = |segment| Offload { checksum: None, gso: Some(Gso { kind: GsoKind::TcpV4, segment }) };
        assert!(fits(&view, frame.len(), &gso(1410), 1500, Family::V4));
        assert!(!fits(&view, frame.len(), &gso(1411), 1500, Family::V4));
        let small = tcp_v4(1, 2, 3, &[0; 100]);
        let view = View::parse(&small).unwrap();
        assert!(fits(&view, small.len(), &gso(1411), 1500, Family::V4), "no segment is larger than all");
    }
}
