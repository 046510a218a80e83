//! Whether a packet's transport checksum is right, as far as it can be told here.

use eastgate_wire::{
    Addr, Frame, PartialChecksum, View, checksum,
    view::{Ip, Transport, proto},
};

/// False when the TCP, UDP, SCTP or ICMP checksum of a packet is wrong, as its receiver would find. What cannot be wrong yet
/// is taken for right: a checksum that the sender has left to a device (see [`super::note_unfinished_checksum`]), that of a
/// GSO packet, which is made when it is cut, none at all (UDP), and that of a datagram of which this is only a fragment.
/// `ip` is of the view of `frame`.
#[must_use]
pub fn checksum_fits(frame: &Frame<'_>, ip: &Ip) -> bool {
    if ip.fragment.is_some() || frame.offload.gso.is_some() {
        return true;
    }
    if let Some(open) = frame.offload.checksum {
        // What moves a connection is to be finished itself, and not something in it.
        return match ip.transport {
            Transport::Tcp(_) => open == PartialChecksum { start: ip.l4, offset: 16 },
            Transport::Sctp(_) => open.start == ip.l4 && open.is_crc32c(),
            _ => true,
        };
    }
    let (offset, pseudo) = match ip.transport {
        Transport::Sctp(_) => {
            let packet =
                frame.bytes().get(usize::from(ip.l4)..).and_then(|rest| rest.get(..usize::from(ip.l4_len)));
            return packet
                .is_some_and(|packet| checksum::sctp(packet).is_some_and(|sum| packet[8..12] == sum));
        }
        Transport::Tcp(_) => (16, true),
        Transport::Udp { .. } => (6, true),
        Transport::Icmp(_) => (2, ip.proto == proto::ICMPV6),
        _ => return true,
    };
    let from = usize::from(ip.l4);
    let Some(summed) = frame.bytes().get(from..from + usize::from(ip.l4_len)) else { return false };
    // UDP has a length of its own, which may end before the packet does.
    let own = summed.get(4..).and_then(|rest| rest.first_chunk::<2>());
    let len = own.filter(|_| ip.proto == proto::UDP).map_or(ip.l4_len, |own| u16::from_be_bytes(*own));
    let Some(summed) = summed.get(..usize::from(len)) else { return false };
    let Some(field) = summed.get(offset..).and_then(|rest| rest.first_chunk::<2>()) else { return false };
    let field = u16::from_be_bytes(*field);
    if field == 0 && ip.proto == proto::UDP {
        return true;
    }
    let before = if pseudo { pseudo_header(ip, len) } else { checksum::Sum::ZERO };
    // The bare sum of the pseudo-header: it is to be finished by a device that the packet has not met.
    pseudo && field == before.folded() || before.bytes(summed).finish() == 0
}

/// Whether a frame stays what it is when the checksum is finished that its sender left open, if it did: it is that of the
/// transport header, or one behind that header, of what the sender tunnels. A guest says by itself where the checksum belongs,
/// and what it sends says which number that will be: it could make an address or a port of it that nobody has decided about.
#[must_use]
pub fn open_checksum_fits(frame: &Frame<'_>, view: &View) -> bool {
    let Some(open) = frame.offload.checksum else { return true };
    let len = if open.is_crc32c() { 4 } else { 2 };
    if usize::from(open.start) + usize::from(open.offset) + len > frame.len() {
        return false;
    }
    // What is cut into fragments was finished before.
    let Some(ip) = view.ip().filter(|ip| ip.fragment.is_none()) else { return false };
    let (own, behind) = match ip.transport {
        Transport::Tcp(_) => (16, None),
        Transport::Udp { .. } => (6, Some(8)),
        Transport::Sctp(_) => (8, None),
        Transport::Ports { .. } => (6, None),
        Transport::Icmp(_) => (2, None),
        // GRE, IP in IP
        Transport::Other => return open.start >= ip.l4,
        Transport::LaterFragment | Transport::Incomplete => return false,
    };
    open == PartialChecksum { start: ip.l4, offset: own }
        || behind.is_some_and(|len| open.start >= ip.l4 + len)
}

fn pseudo_header(ip: &Ip, len: u16) -> checksum::Sum {
    let (src, dst) = (octets(ip.src), octets(ip.dst));
    let used = if ip.src.is_v4() { 12.. } else { 0.. };
    checksum::pseudo_header(&src[used.clone()], &dst[used], ip.proto, u32::from(len))
}

fn octets(address: Addr) -> [u8; 16] {
    address.bits().to_be_bytes()
}

#[cfg(test)]
mod tests {
    use eastgate_wire::{Gso, GsoKind, Offload, View};
    use proptest::prelude::*;

    use super::*;
    use crate::test_frames::*;

    fn fits(bytes: &mut [u8], offload: Offload) -> bool {
        let len = bytes.len();
        let view = View::parse(bytes).unwrap();
        checksum_fits(&Frame::new(bytes, 0, len, offload), view.ip().unwrap())
    }

    proptest! {
        /// etherparse's checksum is the oracle. A bit that is flipped behind the ports is always found.
        #[test]
        fn one_wrong_bit_is_found(payload in proptest::collection::vec(any::<u8>(), 0..300), port in 1u16.., at: usize, bit in 0u8..8) {
            for built in [tcp_v4(port, 2, 3, &payload), tcp_v6(port, 2, 3, &payload), udp_v4(port, 2, &payload), udp_v6(port, 2, &payload)] {
                let ip = *View::parse(&built).unwrap().ip().unwrap();
                prop_assert!(fits(&mut built.clone(), Offload::default()));
                // Not lengths and header lengths, which are another matter.
                let header = if ip.proto == proto::TCP { 13 } else { 8 };
                let summed = usize::from(ip.l4) + header..built.len();
                if summed.is_empty() {
                    continue;
                }
                let mut wrong = built.clone();
                wrong[summed.start + at % summed.len()] ^= 1 << bit;
                let unfinished = {
                    let field = usize::from(ip.l4) + if ip.proto == proto::TCP { 16 } else { 6 };
                    u16::from_be_bytes([wrong[field], wrong[field + 1]]) == pseudo_header(&ip, ip.l4_len).folded()
                };
                prop_assert_eq!(fits(&mut wrong, Offload::default()), unfinished);
            }
        }
    }

    #[test]
    fn sctp_is_held_to_its_crc() {
        let packet = [
            &[0x9c, 0x40, 0x0f, 0x1c, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 20, 0, 0, 0, 77][..],
            &[0, 1, 0, 0, 0, 10, 0, 10, 0, 0, 0, 1],
        ]
        .concat();
        let mut frame = Vec::new();
        etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .write(&mut frame, 132.into(), &packet)
            .unwrap();
        let open = PartialChecksum { start: 34, offset: 8 };
        assert!(!fits(&mut frame.clone(), Offload::default()));
        assert!(fits(&mut frame.clone(), Offload { checksum: Some(open), gso: None }), "left to a device");
        let len = frame.len();
        let mut unfinished = Frame::new(&mut frame, 0, len, Offload { checksum: Some(open), gso: None });
        super::super::finish_checksum(&mut unfinished).unwrap();
        assert_eq!(unfinished.offload, Offload::default());
        assert!(fits(&mut frame.clone(), Offload::default()));
        for at in 34..len {
            let mut wrong = frame.clone();
            wrong[at] ^= 4;
            // A type of chunk and a length are another matter.
            if View::parse(&wrong).is_ok() {
                assert!(!fits(&mut wrong, Offload::default()), "byte {at}");
            }
        }
    }

    #[test]
    fn a_checksum_is_finished_where_nothing_was_decided_by() {
        let places = |frame: Vec<u8>| {
            let mut bytes = frame.clone();
            let (len, view) = (bytes.len(), View::parse(&frame).unwrap());
            let mut fit = Vec::new();
            for (start, offset) in
                (0..len as u16).flat_map(|start| (0..20).map(move |offset| (start, offset)))
            {
                let checksum = Some(PartialChecksum { start, offset });
                let open = Frame::new(&mut bytes, 0, len, Offload { checksum, gso: None });
                if open_checksum_fits(&open, &view) {
                    fit.push((start, offset));
                }
            }
            fit
        };
        assert_eq!(places(tcp_v4(1, 2, 3, &[7; 100])), [(34, 16)]);
        let udp = places(udp_v4(1, 2, &[7; 20]));
        assert_eq!(udp[0], (34, 6), "its own");
        assert!(
            udp[1..].iter().all(|(start, offset)| *start >= 42 && start + offset <= 60),
            "in its payload: {udp:?}"
        );
        assert!(udp.contains(&(42, 18)) && !udp.contains(&(42, 19)) && !udp.contains(&(51, 8)), "not whole");
        let mut echo = Vec::new();
        etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .icmpv4_echo_request(1, 1)
            .write(&mut echo, &[7; 20])
            .unwrap();
        assert_eq!(places(echo), [(34, 2)]);
        let mut arp = vec![0; 60];
        arp[12..14].copy_from_slice(&[8, 6]);
        assert_eq!(places(arp), [], "no transport");
        let mut fragment = udp_v4(1, 2, &[7; 20]);
        fragment[20] = 0x20;
        let sum = checksum::checksum(&[&fragment[14..24], &[0, 0], &fragment[26..34]].concat());
        fragment[24..26].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(places(fragment), [], "a fragment");
    }

    #[test]
    fn what_cannot_be_wrong_yet_fits() {
        let mut frame = tcp_v4(1, 2, 3, &[7; 100]);
        let at = 14 + 20 + 16;
        let ip = *View::parse(&frame).unwrap().ip().unwrap();
        frame[at] ^= 0x55;
        assert!(!fits(&mut frame, Offload::default()));
        let gso = Some(Gso { kind: GsoKind::TcpV4, segment: 50 });
        assert!(fits(&mut frame, Offload { checksum: None, gso }), "a GSO packet");
        let open = |start, offset| Offload { checksum: Some(PartialChecksum { start, offset }), gso: None };
        assert!(fits(&mut frame, open(34, 16)), "left to a device");
        assert!(!fits(&mut frame, open(34, 2)) && !fits(&mut frame, open(54, 16)), "something else is");
        frame[at..at + 2].copy_from_slice(&pseudo_header(&ip, ip.l4_len).folded().to_be_bytes());
        assert!(fits(&mut frame, Offload::default()), "left to a device");
        let mut none = udp_v4(1, 2, b"payload");
        none[14 + 20 + 6..14 + 20 + 8].fill(0);
        assert!(fits(&mut none, Offload::default()), "no checksum");
    }
}
