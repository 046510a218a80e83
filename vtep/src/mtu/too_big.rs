//! Telling a tenant that its packet does not fit: ICMP type 3 code 4 (RFC 1191) or ICMPv6 type 2 (RFC 4443).
//! Told or not, the packet counts under `DropReason::TooBig`.

use eastgate_wire::{
    Instant, Rate, TokenBucket, View,
    reply::{IcmpError, Silence, Speaker, answerable, icmp_error},
};

/// Answers packets that are too big, at a limited rate.
#[derive(Clone, Debug)]
pub struct TooBig {
    bucket: TokenBucket,
}

impl TooBig {
    /// At most this many answers.
    #[must_use]
    pub const fn new(rate: Rate, now: Instant) -> Self {
        Self { bucket: TokenBucket::new(rate, now) }
    }

    /// Writes into `out`, in place of what is in it, the frame that tells the sender of `frame` to keep to
    /// `mtu`. The answer carries the tags the frame has. `view` is the view of `frame`.
    ///
    /// # Errors
    /// Why there is no answer; `out` is then empty.
    pub fn answer(
        &mut self,
        frame: &[u8],
        view: &View,
        speaker: Speaker,
        mtu: u16,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Result<(), Silence> {
        out.clear();
        let ip = answerable(view)?;
        if !ip.dont_fragment {
            return Err(Silence::NotAsked);
        }
        if !self.bucket.take(now) {
            return Err(Silence::RateLimited);
        }
        icmp_error(frame, view, speaker, IcmpError::TooBig { mtu }, out)
    }
}

#[cfg(test)]
mod tests {
    use eastgate_wire::{
        Addr,
        reply::{QUOTE_V4, QUOTE_V6},
    };
    use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    use super::*;
    use crate::test_frames::*;

    const T0: Instant = Instant::ZERO;

    fn answerer() -> TooBig {
        TooBig::new(Rate { per_second: 1, burst: 1 }, T0)
    }

    fn with_df(mut frame: Vec<u8>) -> Vec<u8> {
        frame[20] |= 0x40;
        frame[24..26].fill(0);
        let sum = eastgate_wire::checksum::checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame
    }

    fn ask(frame: &[u8]) -> Result<Vec<u8>, Silence> {
        let view = View::parse(frame).unwrap();
        let speaker = Speaker::destination_of(&view)
            .unwrap_or(Speaker { mac: view.dst, addr: Addr::v4([10, 0, 0, 1]) });
        let mut out = b"old".to_vec();
        let result = answerer().answer(frame, &view, speaker, 1450, T0, &mut out);
        assert_eq!(result.is_err(), out.is_empty());
        result.map(|()| out)
    }

    /// etherparse reads the answer: right addresses, checksums, type, code, MTU and quotation.
    #[test]
    fn an_ipv4_sender_is_told() {
        for tags in 0..=2u16 {
            let plain = with_df(udp_v4(5000, 53, &[7; 1500]));
            let frame = (0..tags).fold(plain.clone(), |frame, n| tag(&frame, 10 + n));
            let answer = ask(&frame).unwrap();
            let l3 = 14 + 4 * usize::from(tags);
            assert_eq!(answer[..12], [SRC, DST].concat());
            assert_eq!(answer[12..l3], frame[12..l3], "the same tags");
            assert_eq!(answer.len() - l3, 576);
            let view = View::parse(&answer).unwrap();
            let ip = view.ip().unwrap();
            assert_eq!((ip.src, ip.dst), (Addr::v4(DST_V4), Addr::v4(SRC_V4)));
            assert_eq!((answer[l3 + 20], answer[l3 + 21]), (3, 4));
            assert_eq!(answer[l3 + 24..l3 + 28], [0, 0, 0x05, 0xaa], "unused, then MTU 1450");
            assert_eq!(eastgate_wire::checksum::checksum(&answer[l3 + 20..]), 0);
            assert_eq!(answer[l3 + 28..], plain[14..14 + QUOTE_V4]);
            let quoted = ip.quoted(&answer).unwrap();
            assert_eq!((quoted.src, quoted.sport, quoted.dport), (Addr::v4(SRC_V4), 5000, 53));
        }
    }

    #[test]
    fn an_ipv6_sender_is_told() {
        let frame = udp_v6(5000, 53, &[7; 1500]);
        let answer = ask(&frame).unwrap();
        assert_eq!(answer.len() - 14, 1280);
        let sliced = SlicedPacket::from_ethernet(&answer).unwrap();
        let Some(TransportSlice::Icmpv6(icmp)) = sliced.transport else { panic!("{sliced:?}") };
        assert!(icmp.is_checksum_valid(DST_V6, SRC_V6));
        assert_eq!((icmp.type_u8(), icmp.code_u8(), icmp.bytes5to8()), (2, 0, 1450u32.to_be_bytes()));
        assert_eq!(icmp.payload(), &frame[14..14 + QUOTE_V6]);
    }

    #[test]
    fn a_short_packet_is_quoted_whole() {
        let frame = with_df(udp_v4(1, 2, b"x"));
        assert_eq!(ask(&frame).unwrap()[42..], frame[14..]);
    }

    #[test]
    fn never_about_these() {
        let v4 = |src, dst| PacketBuilder::ethernet2(SRC, DST).ipv4(src, dst, 64);
        let v6 = |src, dst| PacketBuilder::ethernet2(SRC, DST).ipv6(src, dst, 64);
        let written = |step: etherparse::PacketBuilderStep<etherparse::UdpHeader>| {
            let mut out = Vec::new();
            step.write(&mut out, b"data").unwrap();
            out
        };
        assert_eq!(ask(&arp()), Err(Silence::NotIp));
        let mut without_df = udp_v4(1, 2, b"x");
        without_df[20] &= !0x40;
        without_df[24..26].fill(0);
        let sum = eastgate_wire::checksum::checksum(&without_df[14..34]);
        without_df[24..26].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(ask(&without_df), Err(Silence::NotAsked));
        for dst in [[224, 0, 0, 1], [239, 1, 2, 3], [255; 4]] {
            assert_eq!(ask(&with_df(written(v4(SRC_V4, dst).udp(1, 2)))), Err(Silence::Multicast));
        }
        let mut multicast_v6 = DST_V6;
        multicast_v6[0] = 0xff;
        assert_eq!(ask(&written(v6(SRC_V6, multicast_v6).udp(1, 2))), Err(Silence::Multicast));
        let mut by_mac = with_df(udp_v4(1, 2, b"x"));
        by_mac[..6].fill(0xff);
        assert_eq!(ask(&by_mac), Err(Silence::Multicast));
        for src in [[0; 4], [224, 0, 0, 1], [255; 4], [127, 0, 0, 1]] {
            assert_eq!(ask(&with_df(written(v4(src, DST_V4).udp(1, 2)))), Err(Silence::BadSource));
        }
        assert_eq!(ask(&written(v6([0; 16], DST_V6).udp(1, 2))), Err(Silence::BadSource));
        assert_eq!(ask(&fragment_v6(17, 8, false, &[0; 16])), Err(Silence::LaterFragment));
        assert!(ask(&fragment_v6(17, 0, true, &[0, 1, 0, 2, 0, 200, 0, 0])).is_ok());
    }

    #[test]
    fn never_about_icmp_errors_but_about_queries() {
        for kind in 0..=255u8 {
            let mut v4 = Vec::new();
            let builder = PacketBuilder::ethernet2(SRC, DST).ipv4(SRC_V4, DST_V4, 64);
            builder.icmpv4_raw(kind, 0, [0; 4]).write(&mut v4, &[0; 40]).unwrap();
            assert_eq!(ask(&with_df(v4)).is_err(), [3, 4, 5, 11, 12].contains(&kind), "ICMP {kind}");
            let mut v6 = Vec::new();
            let builder = PacketBuilder::ethernet2(SRC, DST).ipv6(SRC_V6, DST_V6, 64);
            builder.icmpv6_raw(kind, 0, [0; 4]).write(&mut v6, &[0; 40]).unwrap();
            assert_eq!(ask(&v6).is_err(), kind < 128 || kind == 137, "ICMPv6 {kind}");
        }
        assert_eq!(ask(&fragment_v6(58, 0, true, &[1, 0])), Err(Silence::IcmpError), "too little to tell");
    }

    #[test]
    fn the_speaker_is_of_the_right_family() {
        let frame = udp_v6(1, 2, b"x");
        let view = View::parse(&frame).unwrap();
        let speaker = Speaker { mac: view.dst, addr: Addr::v4([10, 0, 0, 1]) };
        let result = answerer().answer(&frame, &view, speaker, 1450, T0, &mut Vec::new());
        assert_eq!(result, Err(Silence::NotIp));
    }

    #[test]
    fn answers_are_limited_and_silence_costs_no_token() {
        let frame = udp_v6(1, 2, b"x");
        let view = View::parse(&frame).unwrap();
        let speaker = Speaker::destination_of(&view).unwrap();
        let (mut told, mut out) = (answerer(), Vec::new());
        let error = fragment_v6(17, 8, false, &[0; 16]);
        let error_view = View::parse(&error).unwrap();
        assert_eq!(
            told.answer(&error, &error_view, speaker, 1450, T0, &mut out),
            Err(Silence::LaterFragment)
        );
        assert_eq!(told.answer(&frame, &view, speaker, 1450, T0, &mut out), Ok(()));
        assert_eq!(told.answer(&frame, &view, speaker, 1450, T0, &mut out), Err(Silence::RateLimited));
        assert_eq!(told.answer(&frame, &view, speaker, 1450, Instant::from_secs(1), &mut out), Ok(()));
    }

    proptest! {
        #[test]
        fn noise_never_panics(noise in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..8), six: bool) {
            let mut frame = if six { udp_v6(1, 2, &[0; 60]) } else { with_df(udp_v4(1, 2, &[0; 60])) };
            for (at, value) in noise {
                let at = usize::from(at) % frame.len();
                frame[at] = value;
            }
            if View::parse(&frame).is_ok() {
                let _ = ask(&frame);
            }
        }
    }
}
