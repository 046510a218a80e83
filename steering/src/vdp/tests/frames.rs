//! What stands in frames, held against what lldpad sends.

use std::time::Duration;

use super::{
    super::{
        ecp::EcpTiming,
        evb::{BridgeStatus, Relay, Role, StationStatus, Wait},
        lldp::{LldpError, Lldpdu, announcement},
        tlv::{Pdu, Request, VdpError},
    },
    lldpad::*,
    *,
};

fn exponent(exponent: u8) -> Exponent {
    Exponent::new_checked(exponent).unwrap()
}

fn request(hex: &str) -> Request {
    let frame = bytes(hex);
    let (destination, source, ethertype, payload) = split(&frame).unwrap();
    assert_eq!((destination, source, ethertype), (NEAREST_CUSTOMER_BRIDGE, STATION, ECP));
    let (header, payload) = EcpHeader::parse(payload).unwrap();
    assert_eq!(header.operation, Operation::Request);
    let pdu = Pdu::parse(payload).unwrap();
    assert_eq!((pdu.manager, pdu.dropped, pdu.unknown), (manager("mgr"), 0, 0));
    let [Ok(request)] = &pdu.requests[..] else { panic!("{pdu:?}") };
    // What is read says all that was there.
    let mut again = Vec::new();
    tlv::put_manager(pdu.manager, &mut again);
    request.vsi.put_request(request.mode, request.hints, &request.entries, &mut again);
    assert_eq!(super::pdu(STATION, header.sequence.0, &again), frame);
    request.clone()
}

#[test]
fn lldpads_lldp_is_read() {
    let frame = bytes(RELAY);
    let pdu = Lldpdu::parse(split(&frame).unwrap().3).unwrap();
    assert_eq!((pdu.chassis.subtype, pdu.chassis.name), (4, &STATION.0[..]));
    assert_eq!((pdu.port.subtype, pdu.port.name), (3, &STATION.0[..]));
    assert_eq!((pdu.ttl, pdu.bad_evb), (120, false));
    let wait = Wait { remote: true, exponent: exponent(20) };
    let evb = Evb {
        bridge: BridgeStatus { groups: true, relay_capable: true, relay_on: true },
        station: StationStatus { groups: true, relay_wanted: true, relay: Relay::On },
        retries: Retries::new_checked(3).unwrap(),
        timeout: exponent(14),
        role: Role::Station,
        resource_wait: wait,
        keep_alive: wait,
    };
    assert_eq!(pdu.evb, Some(evb));
    assert_eq!(evb.octets(), [0x00, 0x80, 0xc2, 0x0d, 0x07, 0x0d, 0x6e, 0xb4, 0x34]);
    let frame = bytes(FIRST);
    let station = Lldpdu::parse(split(&frame).unwrap().3).unwrap().evb.unwrap().station;
    assert_eq!(station, StationStatus { groups: true, relay_wanted: true, relay: Relay::Off });
    let frame = bytes(SHUTDOWN);
    let pdu = Lldpdu::parse(split(&frame).unwrap().3).unwrap();
    assert_eq!((pdu.ttl, pdu.evb), (0, None), "it says no more than that it is over");
}

#[test]
fn an_announcement_is_read_as_it_is_written() {
    for octets in [[0, 0, 0, 0, 0], [7, 0x0d, 0x6e, 0x54, 0x14], [7, 0x0f, 0xff, 0xff, 0x3f]] {
        let evb = Evb::read(&octets).unwrap();
        let pdu = announcement(BRIDGE, 121, &evb);
        let pdu = Lldpdu::parse(&pdu).unwrap();
        assert_eq!((pdu.chassis.name, pdu.port.name, pdu.ttl), (&BRIDGE.0[..], &BRIDGE.0[..], 121));
        assert_eq!((pdu.evb, pdu.bad_evb), (Some(evb), false));
    }
}

#[test]
fn what_is_no_lldpdu_is_refused_with_its_reason() {
    let parse = |hex: &str| Lldpdu::parse(&bytes(hex)).map(|pdu| (pdu.evb.is_some(), pdu.bad_evb));
    let head = "02020401040203010602000a";
    assert_eq!(parse(head), Ok((false, false)));
    assert_eq!(parse(""), Err(LldpError::Missing(1)));
    assert_eq!(parse("0202040104020301"), Err(LldpError::Missing(3)));
    assert_eq!(parse("04020301"), Err(LldpError::Order { found: 2, wanted: 1 }));
    assert_eq!(parse("020104"), Err(LldpError::Length { kind: 1, length: 1 }));
    assert_eq!(parse("02020401040203010601ff"), Err(LldpError::Length { kind: 3, length: 1 }));
    let overrun = Overrun { kind: 1, length: 9, left: 2 };
    assert_eq!(parse("02090401"), Err(LldpError::Overrun(overrun)));
    let evb = "fe090080c20d070d6eb434";
    assert_eq!(parse(&format!("{head}{evb}")), Ok((true, false)));
    assert_eq!(parse(&format!("{head}{evb}{evb}")), Ok((true, true)), "twice");
    assert_eq!(parse(&format!("{head}fe080080c20d070d6eb4")), Ok((false, true)), "too short");
    assert_eq!(parse(&format!("{head}fe0a0080c20d070d6eb43400")), Ok((true, false)), "longer than is known");
    assert_eq!(parse(&format!("{head}fe09001b3f00070d6eb434")), Ok((false, false)), "of somebody else");
    assert_eq!(parse(&format!("{head}0000{evb}")), Ok((false, false)), "behind the end");
}

#[test]
fn lldpads_requests_are_read() {
    let hundred = entry(VM, 100);
    for (hex, mode) in [
        (PRE_ASSOCIATE, Mode::PreAssociate),
        (RESERVE, Mode::PreAssociateReserve),
        (ASSOCIATE, Mode::Associate),
        (KEEP_ALIVE, Mode::Associate),
        (DE_ASSOCIATE, Mode::DeAssociate),
    ] {
        let wanted = Request { mode, hints: Hints::default(), vsi: vsi(0x55), entries: vec![hundred] };
        assert_eq!(request(hex), wanted);
    }
    let group = Some(GroupId(77));
    for (hex, format, entries) in [
        (NULL_VID, FilterFormat::MacVid, vec![FilterEntry { vid: None, ..hundred }]),
        (VID, FilterFormat::Vid, vec![FilterEntry { mac: None, vid: vlan(7), ..hundred }]),
        (GROUP_VID, FilterFormat::GroupVid, vec![FilterEntry { group, mac: None, vid: vlan(9), ..hundred }]),
        (GROUP_MAC_VID, FilterFormat::GroupMacVid, vec![FilterEntry { group, vid: vlan(9), ..hundred }]),
        (TWO, FilterFormat::MacVid, vec![hundred, entry(MacAddr([0x52, 0x54, 0, 0x11, 0x22, 0x34]), 101)]),
    ] {
        let read = request(hex);
        assert_eq!((read.vsi, read.entries), (Vsi { format, ..vsi(0x55) }, entries));
    }
    assert_eq!(request(TO_HERE).hints, Hints { to_here: true, from_here: false });
    assert_eq!(request(FROM_HERE).hints, Hints { to_here: false, from_here: true });
    let largest = request(LARGEST);
    assert_eq!((largest.vsi.profile.kind.get(), largest.entries), (0xff_ffff, vec![entry(VM, 4094)]));
}

#[test]
fn ecp_headers() {
    let ack = bytes(ACK);
    let (header, rest) = EcpHeader::parse(&ack[14..]).unwrap();
    assert_eq!((header.operation, header.sequence, rest.len()), (Operation::Ack, Sequence(0x4f), 0));
    assert_eq!(header.octets(), ack[14..]);
    let parse = |hex: &str| EcpHeader::parse(&bytes(hex)).unwrap_err();
    assert_eq!(parse("100100"), ecp::EcpError::Short(3));
    assert_eq!(parse("20010001"), ecp::EcpError::Version(2));
    assert_eq!(parse("18010001"), ecp::EcpError::Operation(2));
    assert_eq!(parse("10020001"), ecp::EcpError::Subtype(2));
}

#[test]
fn what_is_no_vdp_is_refused_with_its_reason() {
    let parse = |hex: &str| Pdu::parse(&bytes(hex)).map(|pdu| (pdu.requests.len(), pdu.dropped, pdu.unknown));
    let mgr = "0a106d677200000000000000000000000000";
    assert_eq!(parse(mgr), Ok((0, 0, 0)));
    assert_eq!(parse(""), Err(VdpError::NoManager));
    assert_eq!(parse("0a026d67"), Err(VdpError::NoManager));
    assert_eq!(parse("0600"), Err(VdpError::NoManager));
    assert_eq!(parse(&format!("{mgr}{mgr}")), Err(VdpError::TwoManagers));
    let overrun = Overrun { kind: 3, length: 33, left: 1 };
    assert_eq!(parse(&format!("{mgr}062100")), Err(VdpError::Overrun(overrun)));
    assert_eq!(parse(&format!("{mgr}060100")), Ok((0, 1, 0)), "nothing to answer");
    assert_eq!(parse(&format!("{mgr}fe0400000000")), Ok((0, 0, 1)), "organizationally defined");
    let answer = "0621400000050405111111112222333344445555555555550200015254001122330064";
    assert_eq!(parse(&format!("{mgr}{answer}")), Ok((0, 1, 0)), "an answer");
}

#[test]
fn what_cannot_be_read_of_a_vsi_has_its_status() {
    let status = |filter: &str| {
        let tlv = format!("0000000504051111111122223333444455555555555{}{filter}", "5");
        let length = tlv.len() / 2;
        let hex = format!("0a106d67720000000000000000000000000006{length:02x}{tlv}");
        let pdu = Pdu::parse(&bytes(&hex)).unwrap();
        pdu.requests[0].as_ref().err().map(|unread| unread.status)
    };
    assert_eq!(status("0200015254001122330064"), None);
    for filter in [
        "",
        "02",
        "0200",
        "020000",
        "0500015254001122330064",
        "0200025254001122330064",
        "02000152540011223364",
    ] {
        assert_eq!(status(filter), Some(Status::InvalidFormat), "{filter}");
    }
    for filter in [
        "0200010154001122330064",
        "0200010000000000000064",
        "0200015254001122330fff",
        "02000252540011223300645254001122330064",
        "01000200000064",
    ] {
        assert_eq!(status(filter), Some(Status::InvalidFilter), "{filter}");
    }
    assert_eq!(status("010001f064"), None, "a priority");
}

#[test]
fn priorities_come_back() {
    let priority = Priority::new_checked(5);
    let vsi = Vsi { format: FilterFormat::Vid, ..vsi(1) };
    let entries = [FilterEntry { group: None, mac: None, vid: vlan(100), priority }];
    let mut payload = Vec::new();
    tlv::put_manager(vsi.profile.manager, &mut payload);
    vsi.put_request(Mode::Associate, Hints::default(), &entries, &mut payload);
    assert_eq!(payload[payload.len() - 2..], [0xd0, 0x64]);
    let pdu = Pdu::parse(&payload).unwrap();
    assert_eq!(pdu.requests[0].as_ref().unwrap().entries, entries);
}

#[test]
fn times_are_lldpads() {
    assert_eq!(exponent(0).duration(), Duration::from_micros(10));
    assert_eq!(exponent(31).duration(), Duration::from_micros(21_474_836_480));
    let ecp = EcpTiming { retries: Retries::new_checked(3).unwrap(), timeout: exponent(14) };
    assert_eq!(ecp.wait(), Duration::from_micros(163_840));
    // lldpad has written into its log that it waits for 17.448960 s with these.
    let timing = Timing::between(&Offer::default(), None);
    assert_eq!(timing.keep_alive(), Duration::from_micros(17_448_960));
    let frame = bytes(RELAY);
    let evb = Lldpdu::parse(split(&frame).unwrap().3).unwrap().evb;
    let short = Offer { keep_alive: exponent(10), timeout: exponent(15), ..Offer::default() };
    let timing = Timing::between(&short, evb.as_ref());
    assert_eq!((timing.keep_alive, timing.ecp.timeout), (exponent(20), exponent(15)), "the larger ones");
}

#[test]
fn names_are_shown_as_vdptool_takes_them() {
    assert_eq!(manager("mgr").to_string(), "mgr");
    assert_eq!(ManagerId(UUID).to_string(), "11111111222233334444555555555555");
    assert_eq!(ManagerId([0; 16]).to_string(), "00000000000000000000000000000000");
    let id = |format| VsiId { format, value: UUID }.to_string();
    assert_eq!(id(VsiIdFormat::Uuid), "11111111-2222-3333-4444-555555555555");
    assert_eq!(id(VsiIdFormat::Local), "11111111222233334444555555555555");
    assert_eq!(id(VsiIdFormat::Ipv4), "85.85.85.85");
    assert_eq!(id(VsiIdFormat::Ipv6), "1111:1111:2222:3333:4444:5555:5555:5555");
    assert_eq!(id(VsiIdFormat::Mac), "55:55:55:55:55:55");
}
