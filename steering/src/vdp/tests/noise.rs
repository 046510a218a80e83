//! Whatever comes from outside.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::{
    super::{
        ecp::{EcpTiming, Exchange, Received, Step},
        lldp::Lldpdu,
        tlv::Pdu,
    },
    lldpad::*,
    *,
};

/// Takes a frame, and whatever follows from it for a minute.
fn take(bridge: &mut Bridge, frame: &[u8], now: Instant) {
    let _ = bridge.receive(frame, &Site::default(), now);
    for second in 0..60 {
        bridge.expire(now + std::time::Duration::from_secs(second));
    }
    bridge.take_frames().iter().for_each(|frame| drop(say(frame)));
    let _ = bridge.take_events();
}

fn modes() -> impl Strategy<Value = Mode> {
    prop::sample::select(vec![
        Mode::PreAssociate,
        Mode::PreAssociateReserve,
        Mode::Associate,
        Mode::DeAssociate,
    ])
}

#[test]
fn captured_frames_are_taken_at_any_length_with_any_octet_changed() {
    for hex in REQUESTS.iter().chain(&[FIRST, RELAY, SHUTDOWN]) {
        let frame = bytes(hex);
        for at_octet in 0..frame.len() {
            take(&mut bridge(), &frame[..at_octet], at(5));
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut changed = frame.clone();
                changed[at_octet] = value;
                take(&mut bridge(), &changed, at(5));
            }
        }
    }
}

proptest! {
    #[test]
    fn octets_are_taken(octets in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = Lldpdu::parse(&octets);
        let _ = EcpHeader::parse(&octets);
        let _ = Pdu::parse(&octets);
        let mut bridge = bridge();
        take(&mut bridge, &octets, at(5));
        for ethertype in [LLDP, ECP] {
            take(&mut bridge, &frame(STATION, ethertype, &octets), at(100));
        }
        // Behind what makes them a PDU.
        let manager = [&[0x0a, 0x10][..], &[1; 16]].concat();
        take(&mut bridge, &pdu(STATION, 1, &[&manager[..], &octets].concat()), at(200));
        let [high, low] = u16::try_from(octets.len()).unwrap().to_be_bytes();
        let tlv = [&manager[..], &[0x06 | high & 1, low], &octets].concat();
        take(&mut bridge, &pdu(STATION, 2, &tlv), at(300));
    }

    #[test]
    fn the_tlv_is_read_as_it_is_written(octets in prop::array::uniform5(any::<u8>())) {
        let evb = Evb::read(&octets).unwrap();
        let again = evb.octets();
        prop_assert_eq!(Evb::read(&again[4..]), Some(evb));
    }

    /// PDUs come across a link that loses some, once each and in order; what was given up is what was sent as
    /// often as it may be.
    #[test]
    fn ecp_delivers_once_and_in_order(
        losses in prop::collection::vec(any::<bool>(), 0..200),
        count in 1..20_u8,
    ) {
        let timing = EcpTiming {
            retries: Retries::new_checked(3).unwrap(),
            timeout: Exponent::new_checked(14).unwrap(),
        };
        let (mut one, mut other) = (Exchange::new(Sequence(0xfff8)), Exchange::new(Sequence(0)));
        (0..count).for_each(|payload| assert!(one.queue(vec![payload])));
        let mut losses = VecDeque::from(losses);
        let mut is_lost = || losses.pop_front().unwrap_or(false);
        let (mut now, mut delivered, mut lost) = (at(0), Vec::new(), 0);
        while !one.is_idle() {
            now = one.due().unwrap().max(now);
            while let Some(step) = one.step(timing, now) {
                let Step::Send(pdu) = step else { lost += 1; continue };
                if is_lost() {
                    continue;
                }
                let (header, payload) = EcpHeader::parse(&pdu).unwrap();
                if other.receive(header.sequence, payload, timing, now) == Received::New {
                    delivered.push(payload[0]);
                }
                if !is_lost() {
                    prop_assert!(one.acknowledge(header.sequence));
                }
            }
        }
        prop_assert!(delivered.windows(2).all(|pair| pair[0] < pair[1]), "{delivered:?}");
        prop_assert!(delivered.len() + lost >= usize::from(count));
    }

    /// After any requests, in any order, from any of three stations: what the bridge holds is what its events
    /// say, within limits.
    #[test]
    fn what_events_say_is_what_is_held(
        steps in prop::collection::vec((0..3_u8, 0..6_u8, modes(), 0..4_u8, 0..8_u64, 0..12_u8), 1..80),
    ) {
        let limits = Limits { stations: 2, vsis: 3, entries: 5 };
        let mut bridge = with(limits);
        let (mut held, mut now) = (BTreeMap::new(), at(5));
        for (sequence, (station, last, mode, count, wait, luck)) in (1..).zip(steps) {
            now = now + std::time::Duration::from_secs(wait);
            bridge.expire(now);
            let station = MacAddr([2, 0, 0, 0, 0, station]);
            let macs = (0..count).map(|mac| entry(MacAddr([2, 0, 0, 0, last, mac]), 100));
            let frame = asks(station, sequence, mode, &vsi(last), &macs.collect::<Vec<_>>());
            let not_mac = (luck == 0).then_some(MacAddr([2, 0, 0, 0, last, 0]));
            bridge.receive(&frame, &Site { not_mac, ..Site::default() }, now);
            if luck == 1 {
                let not_mac = Some(MacAddr([2, 0, 0, 0, last, 1]));
                bridge.recheck(&Site { not_mac, ..Site::default() }, now);
            }
            for event in bridge.take_events() {
                match event {
                    Event::Associated { station, association, .. } => {
                        held.insert((station, association.vsi), association);
                    }
                    Event::Disassociated { station, association, .. } => {
                        prop_assert_eq!(held.remove(&(station, association.vsi)), Some(association));
                    }
                    _ => {}
                }
            }
            let is: BTreeMap<_, _> = bridge.associations().map(|(mac, it)| ((mac, it.vsi), it)).collect();
            prop_assert_eq!(&is, &held);
            for (mac, _) in bridge.stations() {
                let of_it = || held.iter().filter(|((station, _), _)| *station == mac);
                prop_assert!(of_it().count() <= limits.vsis);
                prop_assert!(of_it().map(|(_, it)| it.entries.len()).sum::<usize>() <= limits.entries);
            }
            prop_assert!(bridge.stations().count() <= limits.stations);
        }
    }
}
