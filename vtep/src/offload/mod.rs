//! What senders left to the device, done in software: finishing checksums, cutting GSO packets up
//! ([`segment`]) and putting segments together again ([`coalesce`]).

use eastgate_wire::{
    DropReason, Frame, Gso, GsoKind, PartialChecksum, View, checksum,
    view::{Transport, proto},
};

pub mod coalesce;
pub mod segment;
pub mod tunneled;
mod verify;

pub use verify::{checksum_fits, open_checksum_fits};

/// Finishes the checksum that the sender of a frame left open. Does nothing when there is none, nor to a
/// GSO packet, whose checksums are made when it is cut up.
///
/// # Errors
/// [`DropReason::BadL4Header`] when the place of the checksum is not inside the frame.
#[inline]
pub fn finish_checksum(frame: &mut Frame<'_>) -> Result<(), DropReason> {
    if frame.offload.gso.is_some() {
        return Ok(());
    }
    let Some(partial) = frame.offload.checksum else { return Ok(()) };
    let summed = frame.bytes_mut().get_mut(usize::from(partial.start)..).ok_or(DropReason::BadL4Header)?;
    if partial.is_crc32c() {
        let sum = checksum::sctp(summed).ok_or(DropReason::BadL4Header)?;
        summed[8..12].copy_from_slice(&sum);
        frame.offload.checksum = None;
        return Ok(());
    }
    let sum = checksum::checksum(summed);
    let field = summed.get_mut(usize::from(partial.offset)..).and_then(|rest| rest.first_chunk_mut::<2>());
    let sum = if partial.offset == UDP_CHECKSUM_AT { udp_checksum(sum) } else { sum };
    *field.ok_or(DropReason::BadL4Header)? = sum.to_be_bytes();
    frame.offload.checksum = None;
    Ok(())
}

/// Notes on a frame whose transport checksum its sender never finished that it is to be finished. A VTEP in the
/// same machine leaves that to a device that the frame never meets, and a datagram socket does not say so; but
/// what stands in the field then is the sum of the pseudo-header and nothing else. One in 65,536 finished
/// checksums looks the same; finishing it again gives the same number. `view` is the view of `frame`.
pub fn note_unfinished_checksum(frame: &mut Frame<'_>, view: &View) {
    let Some(ip) = view.ip().filter(|ip| ip.fragment.is_none() && frame.offload.checksum.is_none()) else {
        return;
    };
    let offset = match ip.transport {
        Transport::Tcp(_) => 16,
        Transport::Udp { .. } => 6,
        _ => return,
    };
    let bytes = frame.bytes();
    let l3 = usize::from(view.l3);
    let addresses = if ip.src.is_v4() { bytes.get(l3 + 12..l3 + 20) } else { bytes.get(l3 + 8..l3 + 40) };
    let field = bytes.get(usize::from(ip.l4 + offset)..).and_then(|rest| rest.first_chunk::<2>());
    let (Some(addresses), Some(field)) = (addresses, field) else { return };
    let pseudo = checksum::pseudo_header(addresses, &[], ip.proto, u32::from(ip.l4_len)).folded();
    let none = ip.proto == proto::UDP && *field == [0, 0];
    if u16::from_be_bytes(*field) == pseudo && !none {
        frame.offload.checksum = Some(PartialChecksum { start: ip.l4, offset });
    }
}

/// Where in a UDP header the checksum is; no other transport that leaves one open has it there.
const UDP_CHECKSUM_AT: u16 = 6;

/// What the guests of nearly all networks can send at most (RFC 894), bytes
const USUAL_MTU: u16 = 1500;
/// What every path takes that IPv6 runs over (RFC 8200 section 5), bytes
const SAFE_MTU: u16 = 1280;

/// Notes on a TCP frame that a sender in the same machine never cut up that it is to be cut. Like the checksum
/// (see [`note_unfinished_checksum`]), cutting was left to a device that the frame never met, and a datagram
/// socket hands over the payload whole without the size of its segments. What is larger than the usual packet, or than
/// `tenant_mtu`, is taken for several, and cut so small that it fits wherever the sender's own segments do: a receiver
/// that forwards it may have a narrower way than the tunnel is. `view` is the view of `frame`.
pub fn note_uncut(frame: &mut Frame<'_>, view: &View, tenant_mtu: u16) {
    let (Some(ip), Some(_), None) = (view.ip(), frame.offload.checksum, frame.offload.gso) else { return };
    let Transport::Tcp(tcp) = ip.transport else { return };
    let headers = ip.l4 - view.l3 + u16::from(tcp.header_len);
    let fits = u32::from(headers) + u32::from(tcp.payload) <= u32::from(tenant_mtu.min(USUAL_MTU));
    let segment = tenant_mtu.min(SAFE_MTU).checked_sub(headers);
    let Some(segment) = segment.filter(|segment| !fits && *segment >= segment::MIN_SEGMENT) else {
        return;
    };
    let kind = if ip.src.is_v4() { GsoKind::TcpV4 } else { GsoKind::TcpV6 };
    frame.offload.gso = Some(Gso { kind, segment });
}

/// A computed UDP checksum as it is sent: 0 would mean none (RFC 768). TCP sends 0 as it is.
#[inline]
const fn udp_checksum(sum: u16) -> u16 {
    if sum == 0 { 0xffff } else { sum }
}

#[cfg(test)]
mod tests {
    use eastgate_wire::{Offload, checksum::pseudo_header};
    use proptest::prelude::*;

    use super::*;
    use crate::test_frames::*;

    /// The frame as a sender with checksum offload hands it over.
    fn left_open(mut frame: Vec<u8>) -> (Vec<u8>, PartialChecksum) {
        let ip = *View::parse(&frame).unwrap().ip().unwrap();
        let offset = if ip.proto == 6 { 16 } else { 6 };
        let addresses = if ip.src.is_v4() { 26..34 } else { 22..54 };
        let (src, dst) = frame[addresses.clone()].split_at(addresses.len() / 2);
        let sum = pseudo_header(src, dst, ip.proto, u32::from(ip.l4_len)).folded();
        let at = usize::from(ip.l4 + offset);
        frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        (frame, PartialChecksum { start: ip.l4, offset })
    }

    fn finish(frame: &mut [u8], offload: Offload) -> (Result<(), DropReason>, Offload) {
        let len = frame.len();
        let mut frame = Frame::new(frame, 0, len, offload);
        (finish_checksum(&mut frame), frame.offload)
    }

    proptest! {
        /// etherparse's checksum is the oracle.
        #[test]
        fn equals_the_checksum_of_the_builder(payload in proptest::collection::vec(any::<u8>(), 0..300), sport: u16) {
            for built in [tcp_v4(sport, 2, 3, &payload), tcp_v6(sport, 2, 3, &payload), udp_v4(sport, 2, &payload), udp_v6(sport, 2, &payload)] {
                let (mut open, partial) = left_open(built.clone());
                let (result, left) = finish(&mut open, Offload { checksum: Some(partial), gso: None });
                prop_assert_eq!((result, left), (Ok(()), Offload::default()));
                prop_assert_eq!(open, built);
            }
        }

        #[test]
        fn wild_offsets_are_refused(start: u16, offset: u16) {
            let mut frame = udp_v4(1, 2, b"data");
            let inside = usize::from(start) + usize::from(offset) + 2 <= frame.len();
            let (result, _) = finish(&mut frame, Offload { checksum: Some(PartialChecksum { start, offset }), gso: None });
            prop_assert_eq!(result.is_ok(), inside);
        }
    }

    /// Of 65,536 ports, which are summed up too, one makes the checksum zero.
    #[test]
    fn a_checksum_of_zero_is_sent_as_all_ones_by_udp_alone() {
        for (build, at, expected) in [
            (udp_v4 as fn(u16, u16, &[u8]) -> Vec<u8>, 40, [0xff, 0xff]),
            (|sport, dport, payload| tcp_v4(sport, dport, 3, payload), 50, [0, 0]),
        ] {
            let zeros = (0..=u16::MAX).filter(|port| {
                let built = build(*port, 2, b"zero");
                let (mut open, partial) = left_open(built.clone());
                let _ = finish(&mut open, Offload { checksum: Some(partial), gso: None });
                assert_eq!(open, built, "port {port}");
                open[at..at + 2] == expected
            });
            assert_eq!(zeros.count(), 1);
        }
    }

    #[test]
    fn gso_packets_wait_for_the_cut() {
        let (mut open, partial) = left_open(tcp_v4(1, 2, 3, &[1; 3000]));
        let before = open.clone();
        let offload =
            Offload { checksum: Some(partial), gso: Some(Gso { kind: GsoKind::TcpV4, segment: 1000 }) };
        assert_eq!(finish(&mut open, offload), (Ok(()), offload));
        assert_eq!(open, before);
        assert_eq!(finish(&mut open, Offload::default()), (Ok(()), Offload::default()));
        assert_eq!(open, before);
    }

    #[test]
    fn an_unfinished_checksum_is_recognised_and_a_finished_one_left_alone() {
        for frame in [tcp_v4(1, 2, 3, b"payload"), udp_v4(1, 2, b"x"), udp_v6(1, 2, b"odd")] {
            let view = View::parse(&frame).unwrap();
            let (mut open, partial) = left_open(frame.clone());
            let len = open.len();
            let mut noted = Frame::new(&mut open, 0, len, Offload::default());
            note_unfinished_checksum(&mut noted, &view);
            assert_eq!(noted.offload.checksum, Some(partial));
            finish_checksum(&mut noted).unwrap();
            assert_eq!(noted.bytes(), frame);
            let mut whole = frame;
            let mut noted = Frame::new(&mut whole, 0, len, Offload::default());
            note_unfinished_checksum(&mut noted, &view);
            assert_eq!(noted.offload, Offload::default());
        }
    }

    #[test]
    fn only_an_unfinished_frame_that_does_not_fit_is_to_be_cut() {
        let gso_of = |payload: usize, unfinished: bool, tenant_mtu| {
            let frame = tcp_v4(1, 2, 3, &vec![7; payload]);
            let view = View::parse(&frame).unwrap();
            let (mut frame, partial) = left_open(frame);
            let len = frame.len();
            let offload = Offload { checksum: unfinished.then_some(partial), gso: None };
            let mut frame = Frame::new(&mut frame, 0, len, offload);
            note_uncut(&mut frame, &view, tenant_mtu);
            frame.offload.gso
        };
        let headers = 20 + 20;
        let cut_to = |segment| Some(Gso { kind: GsoKind::TcpV4, segment });
        assert_eq!(gso_of(1450 - headers, true, 1450), None);
        assert_eq!(gso_of(1451 - headers, true, 1450), cut_to(1240));
        assert_eq!(gso_of(60_000, true, 1450), cut_to(1240));
        assert_eq!(gso_of(60_000, true, 1100), cut_to(1060));
        assert_eq!(gso_of(60_000, false, 1450), None);
        // A tunnel that takes more than the guests can send says nothing about the size of their segments.
        assert_eq!(gso_of(1500 - headers, true, 8950), None);
        assert_eq!(gso_of(1501 - headers, true, 8950), cut_to(1240));
    }
}
