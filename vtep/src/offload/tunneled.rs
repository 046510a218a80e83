//! GSO packets inside a tunnel of the tenant's own (VXLAN, Geneve, GRE, IP in IP), cut as the Linux kernel cuts them:
//! into packets that have copies of the outer headers, with lengths, identifications and checksums of their own.
//!
//! What is between the outer transport header and the inner packet is the tenant's, and copied as it is. Where the inner
//! packet begins is found from its transport header, which the sender names: there is one IP header that ends there.

use eastgate_wire::{
    DropReason, Gso, GsoKind, Offload, View,
    checksum::{self, pseudo_header},
    view::{Ip, proto},
};

use super::{
    segment::{Layout, segment},
    udp_checksum,
};

/// GRE (RFC 2784): the flag of a checksum, and where it is.
const GRE_CHECKSUM: u8 = 0x80;
const GRE_CHECKSUM_AT: usize = 4;

/// Is what is to be cut of the frame inside a tunnel? Then the checksum that was left open is not that of the transport
/// header which the frame begins with.
#[must_use]
pub fn is_tunneled(view: &View, offload: &Offload) -> bool {
    let (Some(ip), Some(sum), Some(_)) = (view.ip(), offload.checksum, offload.gso) else { return false };
    ip.fragment.is_none() && sum.start > ip.l4
}

/// Cuts such a frame and appends the frames to `out`. All but the last are equal in size.
///
/// # Errors
/// [`DropReason::BadL4Header`] when there is no packet inside that could be cut. `out` may then have got longer.
pub fn cut(frame: &[u8], view: &View, offload: &Offload, out: &mut Vec<u8>) -> Result<Layout, DropReason> {
    let bad = DropReason::BadL4Header;
    let (gso, sum) = offload.gso.zip(offload.checksum).ok_or(bad)?;
    let outer = view.ip().ok_or(bad)?;
    let inner = inner_packet(frame, outer, sum.start, gso).ok_or(bad)?;
    let start = out.len();
    let layout = segment(frame, &inner, gso, &[], out)?;
    let pieces = out.get_mut(start..).ok_or(bad)?;
    for (index, packet) in pieces.chunks_mut(layout.size.max(1)).enumerate() {
        finish(packet, usize::from(view.l3), outer, index as u16).ok_or(bad)?;
    }
    Ok(layout)
}

/// The packet whose transport header is at `l4`.
fn inner_packet(frame: &[u8], outer: &Ip, l4: u16, gso: Gso) -> Option<View> {
    let families: &[bool] = match gso.kind {
        GsoKind::TcpV4 => &[true],
        GsoKind::TcpV6 => &[false],
        GsoKind::Udp => &[true, false],
    };
    let begins = |v4: bool, header: u16| {
        let l3 = l4.checked_sub(header).filter(|l3| *l3 >= outer.l4)?;
        let inner = View::parse_packet(frame, l3, v4).ok()?;
        inner.ip().filter(|ip| ip.l4 == l4 && ip.fragment.is_none())?;
        Some(inner)
    };
    families.iter().find_map(|&v4| {
        // IPv4 with its options, IPv6 with extension headers of as many bytes as anyone sends in front of TCP.
        let (least, most, step) = if v4 { (20, 60, 4) } else { (40, 104, 8) };
        (least..=most).step_by(step).find_map(|header| begins(v4, header))
    })
}

/// Writes into a packet what its outer headers have of their own.
fn finish(packet: &mut [u8], l3: usize, outer: &Ip, index: u16) -> Option<()> {
    let end = packet.len();
    let (l4, v4) = (usize::from(outer.l4), outer.src.is_v4());
    let (ip, rest) = packet.get_mut(l3..)?.split_at_mut_checked(l4 - l3)?;
    if v4 {
        let id = u16::from_be_bytes(*ip.get(4..6)?.first_chunk()?).wrapping_add(index);
        ip.get_mut(2..4)?.copy_from_slice(&u16::try_from(end - l3).ok()?.to_be_bytes());
        ip.get_mut(4..6)?.copy_from_slice(&id.to_be_bytes());
        ip.get_mut(10..12)?.fill(0);
        let sum = checksum::checksum(ip);
        ip.get_mut(10..12)?.copy_from_slice(&sum.to_be_bytes());
    } else {
        ip.get_mut(4..6)?.copy_from_slice(&u16::try_from(end - l3 - 40).ok()?.to_be_bytes());
    }
    let len = u16::try_from(rest.len()).ok()?;
    match outer.proto {
        proto::UDP => {
            rest.get_mut(4..6)?.copy_from_slice(&len.to_be_bytes());
            if rest.get(6..8)? == [0, 0] {
                return Some(());
            }
            rest.get_mut(6..8)?.fill(0);
            let (at, size) = if v4 { (12, 4) } else { (8, 16) };
            let (src, dst) = ip.get(at..at + 2 * size)?.split_at(size);
            let sum = pseudo_header(src, dst, proto::UDP, len.into()).bytes(rest).finish();
            rest.get_mut(6..8)?.copy_from_slice(&udp_checksum(sum).to_be_bytes());
        }
        GRE if *rest.first()? & GRE_CHECKSUM != 0 => {
            let field = GRE_CHECKSUM_AT..GRE_CHECKSUM_AT + 2;
            rest.get_mut(field.clone())?.fill(0);
            let sum = checksum::checksum(rest);
            rest.get_mut(field)?.copy_from_slice(&sum.to_be_bytes());
        }
        _ => {}
    }
    Some(())
}

const GRE: u8 = 47;

#[cfg(test)]
mod tests {
    use eastgate_wire::PartialChecksum;
    use proptest::prelude::*;

    use super::*;
    use crate::test_frames::*;

    /// A packet in a tunnel: what stands in front of it, from the Ethernet header on.
    fn around(outer_v4: bool, kind: u8, inner_v4: bool, inner: &[u8], id: u16) -> Vec<u8> {
        let (protocol, shim): (u8, Vec<u8>) = match kind {
            // VXLAN without and with a checksum, with an inner Ethernet header
            0 | 1 => {
                let ethernet = [&DST[..], &SRC, if inner_v4 { &[8, 0] } else { &[0x86, 0xdd] }].concat();
                let len = (8 + 8 + 14 + inner.len()) as u16;
                let udp = [&[0xc0, 1, 0x12, 0xb5][..], &len.to_be_bytes(), &[0, kind]].concat();
                (17, [&udp[..], &[8, 0, 0, 0, 0, 0, 9, 0], &ethernet].concat())
            }
            // GRE, with a key, and with a checksum
            2 => (
                47,
                [0x20, 0, if inner_v4 { 8 } else { 0x86 }, if inner_v4 { 0 } else { 0xdd }, 1, 2, 3, 4]
                    .to_vec(),
            ),
            3 => (
                47,
                [0x80, 0, if inner_v4 { 8 } else { 0x86 }, if inner_v4 { 0 } else { 0xdd }, 1, 2, 0, 0]
                    .to_vec(),
            ),
            _ => (if inner_v4 { 4 } else { 41 }, Vec::new()),
        };
        let len = shim.len() + inner.len();
        let ip = if outer_v4 {
            let mut ip =
                etherparse::Ipv4Header::new(len as u16, 64, protocol.into(), [10, 1, 0, 11], [10, 1, 0, 21])
                    .unwrap();
            ip.identification = id;
            ip.dont_fragment = true;
            ip.header_checksum = ip.calc_header_checksum();
            ip.to_bytes().to_vec()
        } else {
            let mut ip = vec![0x60, 0, 0, 0];
            ip.extend((len as u16).to_be_bytes());
            ip.extend([protocol, 64]);
            ip.extend([0xfd; 16]);
            ip.extend([0xfc; 16]);
            ip
        };
        [&DST[..], &SRC, if outer_v4 { &[8, 0] } else { &[0x86, 0xdd] }, &ip, &shim, inner].concat()
    }

    /// The sum over the transport header and what follows, by the pseudo-header in front: 0 when the checksum is right.
    fn sum_of(frame: &[u8], view: &View) -> u16 {
        let ip = view.ip().unwrap();
        let l3 = usize::from(view.l3);
        let addresses = if ip.src.is_v4() { &frame[l3 + 12..l3 + 20] } else { &frame[l3 + 8..l3 + 40] };
        let body = &frame[usize::from(ip.l4)..usize::from(ip.l4) + usize::from(ip.l4_len)];
        pseudo_header(addresses, &[], ip.proto, body.len() as u32).bytes(body).finish()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn every_packet_is_whole_and_together_they_carry_the_payload(
            outer_v4: bool, kind in 0u8..5, inner_v4: bool, udp: bool, id: u16,
            payload in proptest::collection::vec(any::<u8>(), 2500..6000), size in 400u16..1400,
        ) {
            let whole = match (udp, inner_v4) {
                (false, true) => tcp_v4(7, 80, 5, &payload),
                (false, false) => tcp_v6(7, 80, 5, &payload),
                (true, true) => udp_v4(7, 80, &payload),
                (true, false) => udp_v6(7, 80, &payload),
            };
            let frame = around(outer_v4, kind, inner_v4, &whole[14..], id);
            let view = View::parse(&frame).unwrap();
            let inner_l4 = frame.len() - whole.len() + if inner_v4 { 34 } else { 54 };
            let gso_kind = match (udp, inner_v4) {
                (true, _) => GsoKind::Udp,
                (_, true) => GsoKind::TcpV4,
                (_, false) => GsoKind::TcpV6,
            };
            let offload = Offload {
                checksum: Some(PartialChecksum { start: inner_l4 as u16, offset: if udp { 6 } else { 16 } }),
                gso: Some(Gso { kind: gso_kind, segment: size }),
            };
            prop_assert!(is_tunneled(&view, &offload));
            let mut out = Vec::new();
            let layout = cut(&frame, &view, &offload, &mut out).unwrap();
            let mut got = Vec::new();
            for (n, packet) in out.chunks(layout.size).enumerate() {
                let view = View::parse(packet).unwrap();
                let outer = view.ip().unwrap();
                prop_assert_eq!(usize::from(outer.l4) + usize::from(outer.l4_len), packet.len());
                if outer_v4 {
                    prop_assert_eq!(u16::from_be_bytes([packet[18], packet[19]]), id.wrapping_add(n as u16));
                }
                let at = usize::from(outer.l4);
                match kind {
                    0 => prop_assert_eq!(&packet[at + 6..at + 8], &[0, 0]),
                    1 => prop_assert_eq!(sum_of(packet, &view), 0),
                    3 => prop_assert_eq!(checksum::checksum(&packet[at..]), 0),
                    _ => {}
                }
                let l3 = inner_l4 - if inner_v4 { 20 } else { 40 };
                let inner = View::parse_packet(packet, l3 as u16, inner_v4).unwrap();
                let ip = inner.ip().unwrap();
                prop_assert_eq!(usize::from(ip.l4) + usize::from(ip.l4_len), packet.len());
                prop_assert_eq!(sum_of(packet, &inner), 0);
                got.extend_from_slice(&packet[usize::from(ip.l4) + if udp { 8 } else { 20 }..]);
            }
            prop_assert_eq!(got, payload);
        }

        #[test]
        fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 60..300), start: u16, size: u16) {
            let mut frame = udp_v4(1, 2, &noise);
            let view = View::parse(&frame).unwrap();
            let offload = Offload {
                checksum: Some(PartialChecksum { start, offset: 16 }),
                gso: Some(Gso { kind: GsoKind::TcpV4, segment: size }),
            };
            let _ = cut(&frame, &view, &offload, &mut Vec::new());
            frame.truncate(80);
            let _ = cut(&frame, &view, &offload, &mut Vec::new());
        }
    }
}
