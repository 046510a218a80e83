//! Fragmenting a tenant's IPv4 packet before it is encapsulated (RFC 791 section 3.2), for networks that would
//! rather deliver a packet without DF in pieces than not at all. The outer packet is never fragmented.

use std::ops::Range;

use eastgate_wire::{DropReason, View, checksum};

/// The smallest MTU that every IPv4 module can forward without further fragmentation (RFC 791).
pub const MIN_MTU: u16 = 68;

const MORE: u16 = 0x2000;

/// Cuts the packet of `frame` into fragments of at most `mtu` bytes each and appends them to `out` as frames
/// with the Ethernet header (and tags) of the original; tells where in `out` each lies. The IP ID stays, and
/// a packet that is a fragment already is cut into smaller ones. `view` is the view of `frame`, whose
/// checksum is finished and which is no GSO packet.
///
/// # Errors
/// [`DropReason::TooBig`] when it may not be cut (not IPv4, or DF set) or the MTU is below [`MIN_MTU`];
/// [`DropReason::FragmentBadSize`] when it is a fragment that ends past 65,535. Nothing is appended then.
pub fn fragment_v4(
    frame: &[u8],
    view: &View,
    mtu: u16,
    out: &mut Vec<u8>,
) -> Result<Vec<Range<usize>>, DropReason> {
    let ip = view.ip().filter(|ip| ip.src.is_v4() && !ip.dont_fragment && mtu >= MIN_MTU);
    let ip = ip.ok_or(DropReason::TooBig)?;
    let (l3, l4) = (usize::from(view.l3), usize::from(ip.l4));
    let payload = frame.get(l4..l4 + usize::from(ip.l4_len)).ok_or(DropReason::FrameTruncated)?;
    let (link, whole) = frame.get(..l4).ok_or(DropReason::FrameTruncated)?.split_at(l3);
    let later = header_of_later(whole);
    let (mut offset, last_more) = match ip.fragment {
        Some(fragment) => (fragment.offset, fragment.more),
        None => (0, false),
    };

    if usize::from(offset) + payload.len() > usize::from(u16::MAX) {
        return Err(DropReason::FragmentBadSize);
    }

    let mut pieces = Vec::with_capacity(payload.len() / usize::from(mtu - 60) + 1);
    let mut header = whole;
    let mut rest = payload;
    while !rest.is_empty() || pieces.is_empty() {
        let room = usize::from(mtu) - header.len();
        let (body, tail) = if rest.len() <= room { (rest, &[][..]) } else { rest.split_at(room & !7) };
        let more = !tail.is_empty() || last_more;
        let start = out.len();
        out.extend_from_slice(link);
        out.extend_from_slice(header);
        out.extend_from_slice(body);
        let total_len = (header.len() + body.len()) as u16;
        let field = offset >> 3 | if more { MORE } else { 0 };
        let (at, len) = (start + l3, header.len());
        finish_header(&mut out[at..at + len], total_len, field);
        pieces.push(start..out.len());
        offset += body.len() as u16;
        (rest, header) = (tail, &later);
    }
    Ok(pieces)
}

fn finish_header(header: &mut [u8], total_len: u16, field: u16) {
    header[2..4].copy_from_slice(&total_len.to_be_bytes());
    header[6..8].copy_from_slice(&field.to_be_bytes());
    header[10..12].fill(0);
    let sum = checksum::checksum(header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// The header of the fragments after the first: only options with the copied flag are in it (RFC 791
/// section 3.1), padded to a multiple of four.
fn header_of_later(header: &[u8]) -> Vec<u8> {
    let (fixed, mut options) = header.split_at(20);
    let mut later = fixed.to_vec();
    while let [kind, tail @ ..] = options {
        let len = match *kind {
            0 => break,
            1 => 1,
            _ => usize::from(*tail.first().unwrap_or(&0)),
        };
        let Some(option) = options.get(..len.max(1)) else { break };
        if *kind & 0x80 != 0 {
            later.extend_from_slice(option);
        }
        options = &options[option.len()..];
    }
    later.resize(later.len().next_multiple_of(4), 0);
    later[0] = 0x40 | (later.len() / 4) as u8;
    later
}

#[cfg(test)]
mod tests {
    use eastgate_wire::view::Transport;
    use proptest::prelude::*;

    use super::*;
    use crate::test_frames::{tag, udp_v4, udp_v6};

    fn mended(mut frame: Vec<u8>, l3: usize, field: u16) -> Vec<u8> {
        let len = usize::from(frame[l3] & 15) * 4;
        let total = u16::from_be_bytes([frame[l3 + 2], frame[l3 + 3]]);
        frame[l3 + 4..l3 + 6].copy_from_slice(&0xbeefu16.to_be_bytes());
        finish_header(&mut frame[l3..l3 + len], total, field);
        frame
    }

    /// Puts fragments together by the registry; panics on a hole, an overlap or a wrong order.
    fn reassembled(fragments: &[Vec<u8>]) -> (Vec<u8>, bool) {
        let (mut payload, mut more) = (Vec::new(), true);
        for bytes in fragments {
            assert!(more, "nothing comes after the last one");
            let ip = *View::parse(bytes).unwrap().ip().unwrap();
            let base = payload.len();
            let at = ip.fragment.map_or((0xbeef, 0, false), |f| (f.id, usize::from(f.offset), f.more));
            assert_eq!((at.0, at.1), (0xbeef, base));
            more = at.2;
            let (l4, len) = (usize::from(ip.l4), usize::from(ip.l4_len));
            assert!(!more || len % 8 == 0);
            payload.extend_from_slice(&bytes[l4..l4 + len]);
        }
        (payload, more)
    }

    fn cut(frame: &[u8], mtu: u16) -> Result<Vec<Vec<u8>>, DropReason> {
        let mut out = b"already there".to_vec();
        let pieces = fragment_v4(frame, &View::parse(frame).unwrap(), mtu, &mut out)?;
        assert!(out.starts_with(b"already there"));
        Ok(pieces.into_iter().map(|piece| out[piece].to_vec()).collect())
    }

    proptest! {
        #[test]
        fn the_pieces_make_the_whole(payload in proptest::collection::vec(any::<u8>(), 0..4000), mtu in MIN_MTU..1600, tags in 0u16..3, again in MIN_MTU..1600) {
            let frame = (0..tags).fold(mended(udp_v4(1, 2, &payload), 14, 0), |frame, n| tag(&frame, n));
            let l3 = 14 + 4 * usize::from(tags);
            let pieces = cut(&frame, mtu).unwrap();
            for piece in &pieces {
                prop_assert!(piece.len() - l3 <= usize::from(mtu));
                prop_assert_eq!(&piece[..l3], &frame[..l3]);
            }
            prop_assert_eq!(reassembled(&pieces), (frame[l3 + 20..].to_vec(), false));
            // Cutting the pieces again must come to the same.
            let smaller: Vec<Vec<u8>> = pieces.iter().flat_map(|piece| cut(piece, again).unwrap()).collect();
            prop_assert_eq!(reassembled(&smaller), (frame[l3 + 20..].to_vec(), false));
        }
    }

    #[test]
    fn what_may_not_be_cut_is_not() {
        let with_df = mended(udp_v4(1, 2, &[0; 3000]), 14, 0x4000);
        assert_eq!(cut(&with_df, 1450), Err(DropReason::TooBig));
        assert_eq!(cut(&udp_v6(1, 2, &[0; 3000]), 1450), Err(DropReason::TooBig));
        assert_eq!(cut(&mended(udp_v4(1, 2, &[0; 3000]), 14, 0), MIN_MTU - 1), Err(DropReason::TooBig));
    }

    #[test]
    fn a_fragment_that_ends_past_the_largest_datagram() {
        // 8,000 eights and the last 1,536 bytes: 65,536.
        let fragment = |len: usize| mended(udp_v4(1, 2, &vec![0; len - 8]), 14, 8000);
        let view = |frame: &[u8]| View::parse(frame).map(|_| ());
        for (len, expected) in [(1535, true), (1536, false)] {
            let frame = fragment(len);
            match view(&frame) {
                Ok(()) => assert_eq!(cut(&frame, 576).is_ok(), expected, "{len} bytes"),
                Err(reason) => assert_eq!((reason, expected), (DropReason::FragmentBadSize, false)),
            }
        }
    }

    #[test]
    fn only_copied_options_are_in_later_fragments() {
        let mut ip =
            etherparse::Ipv4Header::new(3000, 64, 17.into(), [10, 1, 0, 11], [10, 1, 0, 21]).unwrap();
        // Record route (not copied), no-op, stream id (copied).
        ip.options = [7, 7, 4, 10, 0, 0, 1, 1, 136, 4, 0, 9].into();
        ip.total_len = 32 + 3000;
        ip.dont_fragment = false;
        ip.header_checksum = ip.calc_header_checksum();
        let udp = [&[0, 1, 0, 2][..], &3000u16.to_be_bytes(), &[0; 2994]].concat();
        let frame = [&[2, 0, 0, 0, 2, 1, 2, 0, 0, 0, 1, 1, 8, 0][..], &ip.to_bytes(), &udp].concat();
        let pieces = cut(&mended(frame, 14, 0), 1450).unwrap();
        assert_eq!(pieces[0][34..46], [7, 7, 4, 10, 0, 0, 1, 1, 136, 4, 0, 9]);
        for piece in &pieces[1..] {
            assert_eq!((piece[14], &piece[34..38]), (0x46, &[136, 4, 0, 9][..]));
            assert_eq!(View::parse(piece).unwrap().ip().unwrap().transport, Transport::LaterFragment);
        }
        assert_eq!(reassembled(&pieces).0, udp);
    }
}
