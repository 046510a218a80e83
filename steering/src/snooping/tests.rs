use std::net::IpAddr;

use eastgate_wire::View;
use etherparse::PacketBuilder;
use proptest::prelude::*;

use super::{
    dhcp::{Message, Says},
    *,
};

const ONE: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const TWO: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>().unwrap().into()
}

fn at(secs: u64) -> Instant {
    Instant::from_secs(secs)
}

const TERMS: Terms = Terms {
    by_dhcp: true,
    by_nd: true,
    by_traffic: true,
    limit: 3,
    lock: false,
    age: Duration::from_secs(500),
    here: true,
};
const ELSEWHERE: Terms = Terms { here: false, ..TERMS };
const LEASE: Word = Word::Leased(Some(Duration::from_secs(100)));

const LEARNED: Heard = Heard::Learned { from: None };

#[test]
fn a_lease_lasts_as_long_as_its_server_says() {
    let mut table = Snooped::default();
    assert_eq!(table.hear(ONE, addr("10.1.0.5"), LEASE, &TERMS, at(10)), LEARNED);
    // What the client does makes it no longer.
    assert_eq!(table.hear(ONE, addr("10.1.0.5"), Word::Announced, &TERMS, at(50)), Heard::Known);
    table.touch(ONE, addr("10.1.0.5"), TERMS.age, at(60));
    assert!(table.expire(at(109), |_, _| None).is_empty());
    assert_eq!(table.expire(at(110), |_, _| Some(TERMS.age)).len(), 1, "also in use");
    assert_eq!(table.hear(ONE, addr("10.1.0.5"), Word::Leased(None), &TERMS, at(120)), LEARNED);
    assert!(table.expire(at(u64::from(u32::MAX)), |_, _| None).is_empty(), "for ever");
    assert_eq!(
        table.hear(TWO, addr("10.1.0.5"), Word::Ended, &TERMS, at(130)),
        Heard::Nothing,
        "it is not its"
    );
    assert_eq!(table.hear(ONE, addr("10.1.0.5"), Word::Ended, &TERMS, at(130)), Heard::Gone);
}

#[test]
fn what_is_in_use_or_heard_is_remembered() {
    let mut table = Snooped::default();
    assert_eq!(table.hear(ONE, addr("fd00::5"), Word::Announced, &TERMS, at(0)), LEARNED);
    table.touch(ONE, addr("fd00::5"), TERMS.age, at(400));
    table.touch(TWO, addr("fd00::5"), TERMS.age, at(800));
    assert!(table.expire(at(899), |_, _| None).is_empty());
    assert!(table.expire(at(900), |_, _| Some(TERMS.age)).is_empty(), "a flow has it");
    assert_eq!(table.expire(at(1400), |_, _| None).len(), 1);
}

#[test]
fn limits_are_exact_and_nobody_else_notices() {
    let mut table = Snooped::default();
    for last in 1..=20u8 {
        let heard = table.hear(ONE, Addr::v4([10, 1, 0, last]), Word::Used, &TERMS, at(0));
        assert_eq!(heard, if last <= 3 { LEARNED } else { Heard::Refused(Refused::Limit) });
    }
    assert_eq!(table.hear(TWO, addr("10.1.0.200"), Word::Used, &TERMS, at(0)), LEARNED);
    let lock = Terms { lock: true, ..TERMS };
    assert_eq!(
        table.hear(TWO, addr("10.1.0.201"), Word::Used, &lock, at(0)),
        Heard::Refused(Refused::Locked)
    );
    assert_eq!(table.hear(TWO, addr("fd00::5"), Word::Used, &lock, at(0)), LEARNED, "of another family");
    // What waits to be fetched is bounded for each endpoint, too.
    let noted = (0..=255u8).filter(|last| table.note(ONE, Addr::v4([10, 2, 0, *last]), Word::Used)).count();
    assert_eq!(noted, WAITING);
    assert!(table.note(TWO, addr("10.1.0.9"), Word::Used) && table.note(ONE, addr("10.2.0.1"), LEASE));
    let words = table.take_noted();
    assert_eq!(words.len(), WAITING + 1);
    assert!(words.contains(&(ONE, addr("10.2.0.1"), LEASE)), "the server's word is the stronger one");
    assert!(!table.has_noted());
}

#[test]
fn who_has_an_address_keeps_it() {
    let five = addr("10.1.0.5");
    let held = Heard::Refused(Refused::Held(ONE));
    let mut table = Snooped::default();
    assert_eq!(table.hear(ONE, five, Word::Announced, &TERMS, at(0)), LEARNED);
    for word in [Word::Announced, Word::Used, LEASE] {
        assert_eq!(table.hear(TWO, five, word, &TERMS, at(100)), held);
        assert_eq!(table.hear(TWO, five, word, &ELSEWHERE, at(100)), held, "nor by the word of another host");
    }
    // At the same time on two hosts, nobody was first.
    let mut table = Snooped::default();
    assert_eq!(table.hear(ONE, five, Word::Announced, &TERMS, at(100)), LEARNED);
    assert_eq!(table.hear(TWO, five, Word::Announced, &ELSEWHERE, at(101)), Heard::Gone);
    // Of two other hosts the later word counts, and what they say does not last.
    let mut table = Snooped::default();
    assert_eq!(table.hear(ONE, five, Word::Announced, &ELSEWHERE, at(100)), LEARNED);
    assert_eq!(table.hear(TWO, five, Word::Announced, &TERMS, at(150)), held);
    assert_eq!(
        table.hear(TWO, five, Word::Announced, &ELSEWHERE, at(150)),
        Heard::Learned { from: Some(ONE) }
    );
    assert_eq!(table.expire(at(150) + HEARSAY, |_, _| None).len(), 1);
    // A server may lease anew what it has leased.
    let mut table = Snooped::default();
    assert_eq!(table.hear(ONE, five, LEASE, &TERMS, at(0)), LEARNED);
    assert_eq!(table.hear(TWO, five, LEASE, &TERMS, at(50)), Heard::Learned { from: Some(ONE) });
}

#[test]
fn new_addresses_come_one_a_second_and_a_lease_waits_for_its_turn() {
    let wide = Terms { limit: 200, ..TERMS };
    let mut table = Snooped::default();
    let hear =
        |table: &mut Snooped, last, word, at| table.hear(ONE, Addr::v4([10, 1, 0, last]), word, &wide, at);
    for last in 0..200u8 {
        assert_eq!(hear(&mut table, last, Word::Used, at(0)), LEARNED);
        assert_eq!(table.hear(ONE, Addr::v4([10, 1, 0, last]), LEASE, &TERMS, at(0)), Heard::Known);
        assert_eq!(hear(&mut table, last, Word::Ended, at(0)), Heard::Gone);
    }
    let refused = Heard::Refused(Refused::Pace);
    assert_eq!(hear(&mut table, 201, Word::Announced, at(0)), refused);
    assert_eq!(hear(&mut table, 202, LEASE, at(0)), Heard::Later);
    assert_eq!(table.hear(TWO, addr("10.1.0.201"), Word::Used, &wide, at(0)), LEARNED, "each by itself");
    assert_eq!(hear(&mut table, 202, LEASE, at(1)), LEARNED);
    assert_eq!(hear(&mut table, 203, Word::Used, at(1)), refused);
    // Of what another host says, that one has counted.
    let elsewhere = Terms { here: false, ..wide };
    assert_eq!(table.hear(ONE, addr("10.1.0.203"), Word::Used, &elsewhere, at(1)), LEARNED);
    // Who owes nothing is forgotten.
    assert!(table.expire(at(99), |_, _| None).is_empty() && table.paces.contains_key(&ONE));
    let _ = table.expire(at(201), |_, _| None);
    assert!(table.paces.is_empty());
}

#[test]
fn what_is_not_leased_is_not_given_back() {
    let mut table = Snooped::default();
    for word in [Word::Announced, Word::Used] {
        assert_eq!(table.hear(ONE, addr("10.1.0.5"), word, &TERMS, at(0)), LEARNED);
        assert_eq!(table.hear(ONE, addr("10.1.0.5"), Word::Ended, &TERMS, at(0)), Heard::Nothing);
        table = Snooped::default();
    }
}

#[test]
fn a_lease_waits_for_the_word_of_its_holders_host() {
    let five = addr("10.1.0.5");
    let leased = |secs| (TWO, five, Word::Leased(Some(Duration::from_secs(secs))));
    let contested = || {
        let mut table = Snooped::default();
        assert_eq!(table.hear(ONE, five, Word::Announced, &ELSEWHERE, at(0)), LEARNED);
        assert_eq!(table.hear(TWO, five, LEASE, &TERMS, at(10)), Heard::Contested);
        assert_eq!((table.claimant(five), table.get(five).unwrap().endpoint), (Some(TWO), ONE));
        table
    };
    let settle = |table: &mut Snooped, secs| {
        let settled = table.settle(|_| true, at(secs));
        (settled.ask, settled.gone.len(), settled.words)
    };
    // Silence
    let mut table = contested();
    assert_eq!(settle(&mut table, 11), (vec![], 0, vec![]));
    assert_eq!(settle(&mut table, 12), (vec![], 1, vec![leased(98)]));
    assert_eq!((table.claimant(five), table.get(five)), (None, None));
    // It has it still, and is asked again.
    let mut table = contested();
    table.touch(ONE, five, TERMS.age, at(11));
    assert_eq!((settle(&mut table, 12), table.claimant(five)), ((vec![], 0, vec![]), None));
    assert_eq!(settle(&mut table, 41), (vec![], 0, vec![]));
    assert_eq!((settle(&mut table, 42), table.claimant(five)), ((vec![five], 0, vec![]), Some(TWO)));
    assert_eq!(settle(&mut table, 44), (vec![], 1, vec![leased(66)]));
    // A lease that has run out meanwhile, one that was given back, and one of who is not leased here any more
    for which in 0..3 {
        let mut table = contested();
        if which == 1 {
            let _ = table.hear(TWO, five, Word::Ended, &TERMS, at(11));
        }
        let settled = table.settle(|_| which != 2, at(if which == 0 { 110 } else { 12 }));
        assert!(settled.words.is_empty() && table.get(five).is_some() && table.claimant(five).is_none());
    }
    // What has ended by itself, or by another's word, needs no answer.
    let mut table = contested();
    let _ = table.hear(ONE, five, LEASE, &ELSEWHERE, at(11));
    let _ = table.hear(ONE, five, Word::Ended, &ELSEWHERE, at(11));
    assert_eq!(settle(&mut table, 12), (vec![], 0, vec![leased(98)]));
    // They are bounded.
    let mut table = Snooped::default();
    for last in 0..100u8 {
        let address = Addr::v4([10, 2, 0, last]);
        let known = Entry { endpoint: ONE, by: By::Nd, here: false, since: at(0), until: None };
        table.restore(address, known);
        let heard = table.hear(TWO, address, LEASE, &TERMS, at(10));
        assert_eq!(heard == Heard::Contested, usize::from(last) < WAITING);
    }
}

#[test]
fn only_what_counts_for_the_endpoint_is_learned() {
    let only_dhcp = Terms { by_nd: false, by_traffic: false, ..TERMS };
    let only_nd = Terms { by_dhcp: false, by_traffic: false, ..TERMS };
    for (terms, counting) in [(only_dhcp, LEASE), (only_nd, Word::Announced)] {
        let mut table = Snooped::default();
        for word in [LEASE, Word::Announced, Word::Used] {
            let heard = table.hear(ONE, addr("10.1.0.5"), word, &terms, at(0));
            let known = table.get(addr("10.1.0.5")).is_some();
            assert_eq!(known, word == counting || known && heard != LEARNED, "{word:?}");
            table = Snooped::default();
        }
    }
}

#[test]
fn a_question_is_answered_once_it_was_asked_and_not_for_ever() {
    let mut table = Snooped::default();
    let [seven, eight] = [7, 8].map(Transaction::V4);
    table.ask(ONE, seven, at(0));
    assert!(table.has_asked(ONE, seven, at(10)));
    assert!(!table.has_asked(ONE, eight, at(10)) && !table.has_asked(TWO, seven, at(10)));
    assert!(!table.has_asked(ONE, Transaction::V6(7), at(10)) && !table.has_asked(ONE, seven, at(120)));
    (0..100).for_each(|xid| table.ask(ONE, Transaction::V4(100 + xid), at(10)));
    let known = (0..100).filter(|xid| table.has_asked(ONE, Transaction::V4(100 + xid), at(10))).count();
    assert_eq!(known, ASKED);
}

/// DHCPv6 in a frame of ONE's or to it.
fn v6(body: &[u8], from_server: bool) -> Vec<u8> {
    let [ours, theirs] = [
        [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2],
    ];
    let (macs, addresses, ports) = if from_server {
        ((TWO.0, ONE.0), (theirs, ours), (547, 546))
    } else {
        ((ONE.0, TWO.0), (ours, theirs), (546, 547))
    };
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(macs.0, macs.1)
        .ipv6(addresses.0, addresses.1, 64)
        .udp(ports.0, ports.1)
        .write(&mut frame, body)
        .unwrap();
    frame
}

fn option(code: u16, value: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes()[..], &(value.len() as u16).to_be_bytes(), value].concat()
}

fn ia_address(last: u8, valid: u32, more: &[u8]) -> Vec<u8> {
    let mut value = vec![0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
    value.extend_from_slice(&valid.to_be_bytes());
    value.extend_from_slice(&valid.to_be_bytes());
    value.extend_from_slice(more);
    option(5, &value)
}

fn read(frame: &[u8]) -> Option<Message> {
    Message::read(frame, &View::parse(frame).ok()?)
}

#[test]
fn dhcpv6_leases_what_its_associations_say() {
    let failed = option(13, &[0, 2]);
    let ia_na = option(
        3,
        &[&[0; 12][..], &ia_address(1, 60, &[]), &ia_address(2, 0, &[]), &ia_address(3, 60, &failed)]
            .concat(),
    );
    let ia_ta = option(4, &[&[0; 4][..], &ia_address(4, u32::MAX, &[])].concat());
    let refused = option(3, &[&[0; 12][..], &failed, &ia_address(5, 60, &[])].concat());
    let reply = [&[7, 1, 2, 3][..], &option(1, b"client"), &ia_na, &ia_ta, &refused].concat();
    let message = read(&v6(&reply, true)).unwrap();
    assert_eq!((message.client, message.transaction), (ONE, Transaction::V6(0x01_0203)));
    let seconds = |s| Some(Duration::from_secs(s));
    let leases = vec![(addr("fd00::1"), seconds(60)), (addr("fd00::2"), seconds(0)), (addr("fd00::4"), None)];
    assert_eq!(message.says, Says::Leases(leases));
    let release = [&[8, 1, 2, 3][..], &ia_na].concat();
    let says = read(&v6(&release, false)).unwrap().says;
    assert_eq!(says, Says::GivesUp(vec![addr("fd00::1"), addr("fd00::2")]));
    assert_eq!(read(&v6(&[3, 0, 0, 9], false)).unwrap().says, Says::Asks);
    // A client says no REPLY, and a server no RELEASE.
    assert_eq!((read(&v6(&reply, false)), read(&v6(&release, true))), (None, None));
}

/// DHCP from a server to ONE.
fn v4(options: &[u8], change: impl Fn(&mut [u8])) -> Vec<u8> {
    let mut body = vec![0; 240];
    (body[0], body[1], body[2]) = (2, 1, 6);
    body[4..8].copy_from_slice(&7u32.to_be_bytes());
    body[16..20].copy_from_slice(&[10, 1, 0, 77]);
    body[28..34].copy_from_slice(&ONE.0);
    body[236..240].copy_from_slice(&[99, 130, 83, 99]);
    change(&mut body);
    body.extend_from_slice(options);
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(TWO.0, ONE.0)
        .ipv4([10, 1, 0, 2], [10, 1, 0, 77], 64)
        .udp(67, 68)
        .write(&mut frame, &body)
        .unwrap();
    frame
}

const ACK: &[u8] = &[0, 53, 1, 5, 51, 4, 0, 0, 1, 0, 255];

#[test]
fn dhcp_leases_what_an_ack_says() {
    let leases = Says::Leases(vec![(addr("10.1.0.77"), Some(Duration::from_secs(256)))]);
    let message = read(&v4(ACK, |_| {})).unwrap();
    assert_eq!(message, Message { client: ONE, transaction: Transaction::V4(7), says: leases.clone() });
    // Options for which there was no room but where names stand
    let overloaded =
        v4(&[53, 1, 5, 52, 1, 1, 255], |body| body[108..115].copy_from_slice(&[51, 4, 0, 0, 1, 0, 255]));
    assert_eq!(read(&overloaded).unwrap().says, leases);
    assert_eq!(read(&v4(&[53, 1, 6, 255], |_| {})).unwrap().says, Says::Refuses);
    for (what, frame) in [
        ("an offer", v4(&[53, 1, 2, 51, 4, 0, 0, 1, 0, 255], |_| {})),
        ("an answer to an inform", v4(ACK, |body| body[16..20].fill(0))),
        ("a lease without a time", v4(&[53, 1, 5, 255], |_| {})),
        ("a client's", v4(ACK, |body| body[0] = 1)),
        ("no cookie", v4(ACK, |body| body[236] = 0)),
        ("another kind of hardware", v4(ACK, |body| body[1] = 6)),
        ("an option that is cut off", v4(&[53, 1], |_| {})),
    ] {
        assert_eq!(read(&frame), None, "{what}");
    }
}

proptest! {
    #[test]
    fn noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400), at in 0usize..400, value in any::<u8>()) {
        let _ = read(&v6(&bytes, true));
        for mut frame in [v4(ACK, |_| {}), v4(&bytes, |_| {}), v6(&[&[7, 0, 0, 1][..], &bytes].concat(), true)] {
            let len = frame.len();
            frame[at % len] = value;
            let _ = read(&frame);
            let _ = read(&frame[..at % len]);
        }
    }
}
