//! The bridge in virtual time.

use std::{collections::BTreeSet, time::Duration};

use super::{lldpad::*, *};

const SITE: Site = Site { no_profile: None, not_mac: None, null: None };

fn hear(bridge: &mut Bridge, frame: &[u8], now: Instant) -> Vec<Said> {
    assert!(bridge.receive(frame, &SITE, now));
    said(bridge)
}

/// A bridge at which VSIs are associated whose last octets are these, each with a MAC that has it, too
fn associated(those: &[u8], now: Instant) -> Bridge {
    let mut bridge = bridge();
    for (sequence, last) in (1..).zip(those) {
        let frame = asks(STATION, sequence, Mode::Associate, &vsi(*last), &[entry(mac(*last), 100)]);
        hear(&mut bridge, &frame, now);
        bridge.receive(&acks(STATION, 0x4d + sequence), &SITE, now);
    }
    assert_eq!(bridge.take_events().len(), those.len());
    bridge
}

const fn mac(last: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 1, last])
}

fn ended(bridge: &mut Bridge) -> Vec<(u8, Why)> {
    let of = |event| match event {
        Event::Disassociated { association, why, .. } => (association.vsi.id.value[15], why),
        other => panic!("{other:?}"),
    };
    bridge.take_events().into_iter().map(of).collect()
}

#[test]
fn lldpads_conversation() {
    let mut bridge = bridge();
    let mut hear = |hex: &str, site: &Site, second| {
        assert!(bridge.receive(&bytes(hex), site, at(second)));
        (said(&mut bridge), bridge.take_events())
    };
    let (says, events) = hear(FIRST, &SITE, 5);
    let [Said::Lldp(evb)] = &says[..] else { panic!("{says:?}") };
    assert!(evb.bridge.relay_on && evb.bridge.relay_capable && evb.station.relay_wanted);
    assert!(matches!(&events[..], [Event::StationHeard { station: STATION, .. }]));
    let stage = |events: &[Event]| match events {
        [Event::Associated { station: STATION, association, .. }] => association.stage,
        _ => panic!("{events:?}"),
    };
    for (sequence, hex, mode, of) in [
        (1, PRE_ASSOCIATE, Mode::PreAssociate, Stage::PreAssociated),
        (2, RESERVE, Mode::PreAssociateReserve, Stage::Reserved),
        (3, ASSOCIATE, Mode::Associate, Stage::Associated),
    ] {
        let (says, events) = hear(hex, &SITE, 6);
        let answers = vec![answer(mode, Status::Success)];
        assert_eq!(says, [Said::Ack(sequence), Said::Vdp(0x4d + sequence, answers)]);
        assert_eq!(stage(&events), of);
        let _ = hear(&format!("0180c2000000020000000a0189401401{:04x}", 0x4d + sequence), &SITE, 6);
    }
    let (says, events) = hear(KEEP_ALIVE, &SITE, 16);
    assert_eq!(says, [Said::Ack(4), Said::Vdp(0x51, vec![answer(Mode::Associate, Status::Success)])]);
    assert_eq!(events, [], "nothing has changed");
    let _ = hear("0180c2000000020000000a01894014010051", &SITE, 16);
    let (says, events) = hear(DE_ASSOCIATE, &SITE, 20);
    assert_eq!(says, [Said::Ack(5), Said::Vdp(0x52, vec![answer(Mode::DeAssociate, Status::Success)])]);
    assert!(matches!(&events[..], [Event::Disassociated { why: Why::Asked, .. }]));
    let _ = hear("0180c2000000020000000a01894014010052", &SITE, 20);
    let (_, events) = hear(NULL_VID, &Site { null: vlan(200), ..SITE }, 21);
    let [Event::Associated { association, .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!(association.entries, [entry(VM, 200)]);
    let (_, events) = hear(SHUTDOWN, &SITE, 22);
    assert_eq!(events, [Event::StationSilent { station: STATION }]);
    assert_eq!(bridge.associations().count(), 1, "it lasts");
    assert_eq!(bridge.counters(), &Counters::default());
}

/// lldpad has taken these: captured from this bridge, in the same run.
#[test]
fn the_octets_are_those_that_lldpad_takes() {
    let mut bridge = with(Limits::default());
    bridge.receive(&bytes(ASSOCIATE), &SITE, at(5));
    let tlv = "00000504051111111122223333444455555555555502000152540011223300640000";
    let head = "0180c2000000020000000b018940";
    let ack = format!("{head}14010003{}", "0".repeat(84));
    let manager = "0a106d677200000000000000000000000000";
    let answer = format!("{head}1001004e{manager}062140{tlv}");
    assert_eq!(bridge.take_frames(), [bytes(&ack), bytes(&answer)]);
    bridge.receive(&acks(STATION, 0x4e), &SITE, at(5));
    bridge.recheck(&Site { no_profile: Some(Refusal::UnknownProfile), ..SITE }, at(6));
    assert_eq!(bridge.take_frames(), [bytes(&format!("{head}1001004f{manager}082100{tlv}"))]);
}

#[test]
fn it_announces_itself_soon_at_first_and_when_something_changes() {
    let mut bridge = bridge();
    let count = |bridge: &mut Bridge, seconds: std::ops::Range<u64>| -> Vec<u64> {
        let announces = |second: &u64| {
            bridge.expire(at(*second));
            said(bridge).iter().any(|said| matches!(said, Said::Lldp(_)))
        };
        seconds.filter(announces).collect()
    };
    assert_eq!(count(&mut bridge, 4..70), [33, 63]);
    assert_eq!(hear(&mut bridge, &bytes(FIRST), at(70)).len(), 1);
    assert_eq!(count(&mut bridge, 71..120), [71, 72, 73, 103], "four times in all");
    assert_eq!(hear(&mut bridge, &bytes(FIRST), at(120)), [], "the same");
    assert_eq!(hear(&mut bridge, &bytes(RELAY), at(133)).len(), 1);
    let other = [&bytes(FIRST)[..6], &OTHER.0, &bytes(FIRST)[12..]].concat();
    assert_eq!(hear(&mut bridge, &other, at(133)), [], "no more often than once a second");
    assert_eq!(count(&mut bridge, 133..140), [134, 135, 136, 137]);
}

#[test]
fn a_station_is_heard_as_long_as_it_says() {
    let mut bridge = associated(&[1], at(5));
    bridge.receive(&bytes(RELAY), &SITE, at(6));
    assert_eq!(bridge.take_events().len(), 1);
    for second in 7..126 {
        bridge.expire(at(second.into()));
        let alive = asks(STATION, second, Mode::Associate, &vsi(1), &[entry(mac(1), 100)]);
        let says = hear(&mut bridge, &alive, at(second.into()));
        let Some(Said::Vdp(number, _)) = says.last() else { panic!("{says:?}") };
        bridge.receive(&acks(STATION, *number), &SITE, at(second.into()));
        assert_eq!(bridge.take_events(), [], "{second}");
    }
    bridge.expire(at(126));
    assert_eq!(bridge.take_events(), [Event::StationSilent { station: STATION }]);
    assert_eq!(bridge.associations().count(), 1);
    bridge.expire(at(200));
    assert_eq!(ended(&mut bridge), [(1, Why::TimedOut)]);
    (201..210).for_each(|second| bridge.expire(at(second)));
    assert_eq!(bridge.stations().count(), 0, "nothing is left of it");
}

#[test]
fn what_is_repeated_is_acknowledged_and_not_answered() {
    let mut bridge = bridge();
    let first = hear(&mut bridge, &bytes(ASSOCIATE), at(5));
    assert_eq!(first.len(), 2);
    bridge.receive(&acks(STATION, 0x4e), &SITE, at(5));
    assert_eq!(hear(&mut bridge, &bytes(ASSOCIATE), at(5)), [Said::Ack(3)]);
    assert_eq!(bridge.counters().again, 1);
    let other = asks(STATION, 3, Mode::DeAssociate, &vsi(0x55), &[]);
    assert_eq!(hear(&mut bridge, &other, at(5)).len(), 2, "another PDU of the same number");
    bridge.receive(&acks(STATION, 0x4f), &SITE, at(5));
    assert_eq!(hear(&mut bridge, &other, at(15)).len(), 2, "its station has started over");
}

#[test]
fn what_is_not_acknowledged_is_sent_again_three_times() {
    let mut bridge = bridge();
    hear(&mut bridge, &bytes(ASSOCIATE), at(5));
    let mut times = Vec::new();
    while bridge.counters().lost == 0 {
        let now = bridge.deadline();
        bridge.expire(now);
        times.extend(
            said(&mut bridge)
                .iter()
                .map(|said| (said == &Said::Vdp(0x4e, vec![answer(Mode::Associate, Status::Success)]), now)),
        );
    }
    let wait = Duration::from_micros(163_840);
    assert_eq!(times, [(true, at(5) + wait), (true, at(5) + wait * 2), (true, at(5) + wait * 3)]);
    assert_eq!(bridge.associations().count(), 1, "its station asks again, or it times out");
}

#[test]
fn what_is_not_kept_alive_is_at_an_end() {
    let mut bridge = associated(&[1, 2], at(5));
    let lasts = Duration::from_micros(17_448_960);
    let alive = asks(STATION, 9, Mode::Associate, &vsi(2), &[entry(mac(2), 100)]);
    assert_eq!(hear(&mut bridge, &alive, at(15)).len(), 2);
    bridge.receive(&acks(STATION, 0x50), &SITE, at(15));
    bridge.expire(at(5) + lasts - Duration::from_micros(1));
    assert_eq!((ended(&mut bridge), said(&mut bridge)), (vec![], vec![]));
    assert_eq!(bridge.deadline(), at(5) + lasts);
    bridge.expire(at(5) + lasts);
    assert_eq!(ended(&mut bridge), [(1, Why::TimedOut)]);
    assert_eq!(said(&mut bridge), [Said::Vdp(0x51, vec![ENDS])]);
    bridge.receive(&acks(STATION, 0x51), &SITE, at(23));
    bridge.expire(at(15) + lasts);
    assert_eq!(ended(&mut bridge), [(2, Why::TimedOut)]);
}

#[test]
fn what_may_no_longer_be_is_ended_in_as_few_pdus_as_hold_it() {
    let all: Vec<u8> = (0..50).collect();
    let mut bridge = associated(&all, at(5));
    bridge.recheck(&SITE, at(6));
    assert_eq!((ended(&mut bridge), said(&mut bridge)), (vec![], vec![]));
    bridge.recheck(&Site { not_mac: Some(mac(7)), ..SITE }, at(6));
    assert_eq!(ended(&mut bridge), [(7, Why::Refused(Refusal::NotAllowed))]);
    assert_eq!(said(&mut bridge), [Said::Vdp(0x80, vec![ENDS])]);
    bridge.receive(&acks(STATION, 0x80), &SITE, at(6));
    bridge.recheck(&Site { no_profile: Some(Refusal::UnknownProfile), ..SITE }, at(6));
    assert_eq!(ended(&mut bridge).len(), 49);
    let mut told = 0;
    for sequence in 0x81..0x83 {
        let says = said(&mut bridge);
        let [Said::Vdp(number, tlvs)] = &says[..] else { panic!("{says:?}") };
        assert_eq!(*number, sequence);
        told += tlvs.len();
        bridge.receive(&acks(STATION, sequence), &SITE, at(6));
    }
    assert_eq!((told, said(&mut bridge)), (49, vec![]));
}

#[test]
fn a_vlan_that_is_another_one_ends_it() {
    let mut bridge = bridge();
    bridge.receive(&bytes(NULL_VID), &Site { null: vlan(200), ..SITE }, at(5));
    let _ = bridge.take_events();
    bridge.recheck(&Site { null: vlan(200), ..SITE }, at(6));
    assert_eq!(ended(&mut bridge), []);
    bridge.recheck(&Site { null: vlan(300), ..SITE }, at(6));
    assert_eq!(ended(&mut bridge), [(0x55, Why::Refused(Refusal::NotAllowed))]);
}

#[test]
fn whoever_drives_it_ends_one() {
    let mut bridge = associated(&[1, 2], at(5));
    assert!(!bridge.disassociate(STATION, &vsi(3), at(6)) && !bridge.disassociate(OTHER, &vsi(1), at(6)));
    assert!(bridge.disassociate(STATION, &vsi(1), at(6)));
    assert_eq!(ended(&mut bridge), [(1, Why::Ended)]);
    assert_eq!(said(&mut bridge), [Said::Vdp(0x50, vec![ENDS])]);
    bridge.link_down(at(7));
    assert_eq!(ended(&mut bridge), [(2, Why::LinkDown)]);
    assert_eq!((bridge.stations().count(), said(&mut bridge)), (0, vec![]));
    bridge.expire(at(7));
    assert!(matches!(said(&mut bridge)[..], [Said::Lldp(_)]));
}

#[test]
fn a_refusal_says_why_and_leaves_what_still_may_be() {
    let mut bridge = associated(&[1], at(5));
    let ask = |bridge: &mut Bridge, sequence: u16, site: &Site, mode, entries: &[FilterEntry]| {
        bridge.receive(&asks(STATION, sequence, mode, &vsi(1), entries), site, at(6));
        let says = said(bridge);
        let [Said::Ack(_), Said::Vdp(number, tlvs)] = &says[..] else { panic!("{says:?}") };
        bridge.receive(&acks(STATION, *number), &SITE, at(6));
        (tlvs[0], bridge.take_events())
    };
    let (own, not) = (entry(mac(1), 100), Site { not_mac: Some(mac(2)), ..SITE });
    let kept = |status: Status| (Mode::Associate as u8, 0x60 | status as u8);
    let (tlv, events) = ask(&mut bridge, 11, &not, Mode::Associate, &[own, entry(mac(2), 100)]);
    assert_eq!(tlv, kept(Status::InvalidFilter));
    assert!(matches!(&events[..], [Event::Refused { refusal: Refusal::NotAllowed, kept: true, .. }]));
    let (tlv, events) = ask(&mut bridge, 12, &SITE, Mode::PreAssociate, &[own]);
    assert_eq!(tlv, kept(Status::Other));
    assert!(matches!(&events[..], [Event::Refused { refusal: Refusal::Associated, kept: true, .. }]));
    let (tlv, events) = ask(&mut bridge, 13, &SITE, Mode::Associate, &[own, entry(mac(2), 100)]);
    assert_eq!(tlv, answer(Mode::Associate, Status::Success));
    let [Event::Associated { association, .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!(association.entries.len(), 2, "the filter as a whole");
    for (sequence, refusal, status) in [
        (14, Refusal::UnknownManager, Status::ManagerUnreachable),
        (15, Refusal::UnknownProfile, Status::Other),
        (16, Refusal::NoRoom, Status::InsufficientResources),
    ] {
        let (tlv, events) =
            ask(&mut bridge, sequence, &Site { no_profile: Some(refusal), ..SITE }, Mode::Associate, &[own]);
        assert_eq!(tlv, answer(Mode::DeAssociate, status));
        assert_eq!(events.len(), if sequence == 14 { 2 } else { 1 }, "it ends once");
        assert_eq!(bridge.associations().count(), 0);
    }
    let (tlv, events) = ask(&mut bridge, 17, &SITE, Mode::DeAssociate, &[own]);
    assert_eq!((tlv, events), (answer(Mode::DeAssociate, Status::Success), vec![]), "of what is not there");
}

#[test]
fn what_cannot_be_read_is_answered_as_it_came() {
    let mut bridge = bridge();
    let mut payload = Vec::new();
    tlv::put_manager(manager("mgr"), &mut payload);
    let broken = [&[0, 0, 0, 5, 4, 5][..], &UUID, &[9, 0, 1, 7, 7, 7]].concat();
    put_tlv(&mut payload, 3, &broken);
    vsi(1).put_request(Mode::Associate, Hints::default(), &[entry(mac(1), 100)], &mut payload);
    put_tlv(&mut payload, 127, &[1, 2, 3, 4]);
    put_tlv(&mut payload, 3, &[0; 9]);
    bridge.receive(&pdu(STATION, 1, &payload), &SITE, at(5));
    let frames = bridge.take_frames();
    let answers =
        vec![answer(Mode::DeAssociate, Status::InvalidFormat), answer(Mode::Associate, Status::Success)];
    assert_eq!(say(&frames[1]), Said::Vdp(0x4e, answers));
    assert!(frames[1].windows(broken.len() - 1).any(|octets| octets == &broken[1..]));
    assert_eq!(bridge.take_events().len(), 1);
    assert_eq!(bridge.counters(), &Counters { bad_tlv: 1, unknown_tlv: 1, ..Counters::default() });
    assert_eq!(hear(&mut bridge, &pdu(STATION, 2, &[]), at(5)), [Said::Ack(2)]);
    assert_eq!(hear(&mut bridge, &pdu(OTHER, 1, &[0x20]), at(5)), [Said::Ack(1)]);
    assert_eq!(bridge.counters().bad_vdp, 2);
}

#[test]
fn limits_are_exact_and_cost_nobody_else() {
    let mut bridge = with(Limits { stations: 2, vsis: 2, entries: 3 });
    let mut sequence = 0;
    let mut ask = |bridge: &mut Bridge, station, last: u8, count: u8| {
        sequence += 1;
        let macs: Vec<_> = (0..count).map(|mac| entry(MacAddr([2, 0, 0, 0, last, mac]), 100)).collect();
        bridge.receive(&asks(station, sequence, Mode::Associate, &vsi(last), &macs), &SITE, at(5));
        let says = said(bridge);
        let Some(Said::Vdp(number, tlvs)) = says.last() else { return None };
        bridge.receive(&acks(station, *number), &SITE, at(5));
        Some(tlvs[0])
    };
    let success = Some(answer(Mode::Associate, Status::Success));
    let no_room = Some(answer(Mode::DeAssociate, Status::InsufficientResources));
    let kept = Some((Mode::Associate as u8, 0x60 | Status::InsufficientResources as u8));
    assert_eq!(ask(&mut bridge, STATION, 1, 2), success);
    assert_eq!(ask(&mut bridge, STATION, 2, 2), no_room, "four entries");
    assert_eq!(ask(&mut bridge, STATION, 2, 1), success);
    assert_eq!(ask(&mut bridge, STATION, 3, 1), no_room, "three VSIs");
    assert_eq!(ask(&mut bridge, STATION, 2, 2), kept, "four entries, of VSIs that are there");
    assert_eq!(ask(&mut bridge, STATION, 1, 1), success);
    assert_eq!(ask(&mut bridge, STATION, 2, 2), success, "one was given up");
    assert_eq!(ask(&mut bridge, OTHER, 1, 3), success, "another station has its own");
    let third = MacAddr([2, 0, 0, 0, 0x0a, 3]);
    assert_eq!(ask(&mut bridge, third, 1, 1), None);
    assert_eq!((bridge.counters().no_room, bridge.stations().count()), (1, 2));
    bridge.receive(&asks(OTHER, 99, Mode::DeAssociate, &vsi(1), &[]), &SITE, at(6));
    let says = said(&mut bridge);
    let Some(Said::Vdp(number, _)) = says.last() else { panic!("{says:?}") };
    bridge.receive(&acks(OTHER, *number), &SITE, at(6));
    assert_eq!(ask(&mut bridge, third, 1, 1), success, "instead of one that has no VSI");
    bridge.receive(&asks(third, 99, Mode::DeAssociate, &vsi(1), &[]), &SITE, at(6));
    let says = said(&mut bridge);
    let Some(Said::Vdp(number, _)) = says.last() else { panic!("{says:?}") };
    bridge.receive(&acks(third, *number), &SITE, at(6));
    for last in 0x10..0x20 {
        let mut heard = bytes(FIRST);
        heard[11] = last;
        bridge.receive(&heard, &SITE, at(7));
        assert_eq!(bridge.stations().count(), 2, "those that were heard by LLDP make room for each other");
    }
    assert_eq!(bridge.associations().filter(|(station, _)| *station == STATION).count(), 2);
}

#[test]
fn a_station_that_is_too_fast_is_not_acknowledged() {
    let mut bridge = bridge();
    let mut acknowledged = 0;
    for sequence in 0..3000 {
        let frame = asks(STATION, sequence, Mode::DeAssociate, &vsi(1), &[]);
        let says = hear(&mut bridge, &frame, at(5));
        acknowledged += says.iter().filter(|said| matches!(said, Said::Ack(_))).count();
        // Answers are acknowledged until the middle.
        if let Some(Said::Vdp(number, _)) = says.last().filter(|_| sequence < 500) {
            bridge.receive(&acks(STATION, *number), &SITE, at(5));
        }
    }
    assert_eq!(acknowledged, 500 + 65, "one answer is under way, and 64 wait");
    assert_eq!(bridge.counters().too_fast, 3000 - 565);
    let mut bridge = super::bridge();
    for sequence in 0..3000 {
        hear(&mut bridge, &pdu(STATION, sequence, &[]), at(5));
    }
    assert_eq!(bridge.counters().too_fast, 3000 - u64::from(PACE.burst));
    assert_eq!(hear(&mut bridge, &asks(OTHER, 1, Mode::DeAssociate, &vsi(1), &[]), at(5)).len(), 2);
}

#[test]
fn who_is_not_heard() {
    let config = Config {
        mac: BRIDGE,
        offer: Offer::default(),
        limits: Limits::default(),
        stations: Some(BTreeSet::from([OTHER])),
        first: Sequence(0),
    };
    let mut bridge = Bridge::new(config.clone(), at(0));
    assert_eq!(hear(&mut bridge, &bytes(ASSOCIATE), at(0)), []);
    assert_eq!(hear(&mut bridge, &bytes(FIRST), at(0)), []);
    assert_eq!((bridge.counters().not_heard, bridge.stations().count()), (2, 0));
    assert_eq!(hear(&mut bridge, &asks(OTHER, 1, Mode::Associate, &vsi(1), &[entry(VM, 1)]), at(0)).len(), 2);
    let all = Config { stations: None, ..config.clone() };
    bridge.set_config(all, at(1));
    assert_eq!(bridge.associations().count(), 1);
    bridge.set_config(Config { stations: Some(BTreeSet::from([STATION])), ..config }, at(2));
    let events = bridge.take_events();
    assert!(matches!(&events[1..], [Event::Disassociated { station: OTHER, why: Why::Ended, .. }]));
    let mut bridge = super::bridge();
    for group in [NEAREST_BRIDGE, NEAREST_NON_TPMR_BRIDGE] {
        let other_agent = [&group.0, &bytes(FIRST)[6..]].concat();
        assert!(concerns(&other_agent));
        assert_eq!(hear(&mut bridge, &other_agent, at(5)), []);
        assert!(!concerns(&[&group.0, &bytes(ASSOCIATE)[6..]].concat()), "ECP goes to one group alone");
    }
    let own = asks(BRIDGE, 1, Mode::Associate, &vsi(1), &[entry(VM, 1)]);
    assert_eq!(hear(&mut bridge, &own, at(5)), []);
    let no_evb = [&bytes(FIRST)[..37], &[0; 23]].concat();
    assert_eq!(hear(&mut bridge, &no_evb, at(5)), []);
    assert_eq!(bridge.stations().count(), 0, "it speaks LLDP, and is no station");
    let mut from_bridge = bytes(FIRST);
    from_bridge[45] = 0x54;
    assert_eq!(hear(&mut bridge, &from_bridge, at(5)), []);
    assert_eq!(bridge.counters(), &Counters { bad_evb: 1, ..Counters::default() });
    assert!(!bridge.receive(&[0xff; 60], &SITE, at(5)));
}
