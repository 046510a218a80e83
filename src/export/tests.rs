#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::{io::Write as _, path::Path, time::Instant};

use proptest::prelude::*;
use serde_json::json;

use super::{
    ipfix::{Encoder, TEMPLATES_EVERY},
    rotation::Rotating,
    *,
};

fn event(kind: &str, time_ms: u64, more: serde_json::Value) -> EventRow {
    let mut row = json!({
        "seq": 1, "time_ms": time_ms, "event": kind, "verdict": "forwarded", "vni": 5001, "proto": "tcp",
        "src": "10.1.0.11", "sport": 40000, "dst": "10.1.0.21", "dport": 5432, "id": 7,
    });
    row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(row).unwrap()
}

fn ended(time_ms: u64, packets: u64, replies: u64) -> EventRow {
    event(
        "ended",
        time_ms,
        json!({ "reason": "closed", "begun_ms": 8_000, "lasted_ms": 900, "packets": packets, "bytes": packets * 100,
                "reply_packets": replies, "reply_bytes": replies * 50 }),
    )
}

fn alive(packets: u64, replies: u64) -> FlowRow {
    serde_json::from_value(json!({
        "vni": 5001, "proto": "tcp", "src": "10.1.0.11", "sport": 40000, "dst": "10.1.0.21", "dport": 5432,
        "state": "established", "packets": packets, "bytes": packets * 100, "reply_packets": replies,
        "reply_bytes": replies * 50, "offloaded": false, "expires_s": 1, "egress_rule": null, "ingress_rule": null,
        "id": 7, "epoch": 1,
    }))
    .unwrap()
}

fn counts(records: &[Record]) -> Vec<(u16, u64, u64)> {
    records.iter().map(|it| (it.src.1, it.packets, it.bytes)).collect()
}

#[test]
fn a_flow_that_has_ended_is_a_record_each_way() {
    let records = Accountant::new(false, false).event(&ended(10_000, 3, 2));
    assert_eq!(counts(&records), [(40000, 3, 300), (5432, 2, 100)]);
    assert_eq!(
        (records[0].start_ms, records[0].end_ms, records[0].reason),
        (8_000, 8_900, EndReason::Closed)
    );
    assert_eq!(counts(&Accountant::new(false, false).event(&ended(10_000, 3, 0))), [(40000, 3, 300)]);
}

/// What of a flow the events tell when it has ended, and what is told while it lives, is together what there was of it.
#[test]
fn each_packet_is_told_once() {
    let mut accountant = Accountant::new(true, false);
    assert!(accountant.event(&event("begun", 1_000, json!({}))).is_empty());
    accountant.begin_round();
    assert_eq!(counts(&accountant.alive(&alive(10, 5), 2_000)), [(40000, 10, 1000), (5432, 5, 250)]);
    accountant.end_round(5_000);
    // The event that it has begun comes late.
    let _ = accountant.event(&event("begun", 1_000, json!({})));
    accountant.begin_round();
    assert!(accountant.alive(&alive(10, 5), 3_000).is_empty(), "nothing has passed");
    accountant.end_round(5_000);
    accountant.begin_round();
    let records = accountant.alive(&alive(12, 5), 4_000);
    assert_eq!(counts(&records), [(40000, 2, 200)]);
    assert_eq!(
        (records[0].start_ms, records[0].end_ms, records[0].reason),
        (3_000, 4_000, EndReason::Active)
    );
    accountant.end_round(5_000);
    // It is gone already when the next round comes to it.
    accountant.begin_round();
    accountant.end_round(5_100);
    let records = accountant.event(&ended(5_000, 13, 7));
    assert_eq!(counts(&records), [(40000, 1, 100), (5432, 2, 100)]);
    assert_eq!(
        (records[0].start_ms, records[0].end_ms),
        (4_000, 8_900),
        "its last packet, not when it was forgotten"
    );
    assert!(accountant.live.is_empty());
}

#[test]
fn one_that_was_there_before_is_told_from_then_on() {
    let mut accountant = Accountant::new(true, false);
    accountant.begin_round();
    assert!(accountant.alive(&alive(1_000, 0), 1_000).is_empty());
    accountant.end_round(5_000);
    accountant.begin_round();
    assert_eq!(counts(&accountant.alive(&alive(1_001, 0), 2_000)), [(40000, 1, 100)]);
    accountant.end_round(5_000);
    // Its end was lost, and one like it has begun.
    let like_it = FlowRow { id: 8, ..alive(7, 0) };
    accountant.begin_round();
    assert_eq!(counts(&accountant.alive(&like_it, 3_000)), [(40000, 7, 700)]);
    accountant.end_round(5_000);
    // Its end may be told within a minute from when it was missed first, however long rounds take.
    accountant.begin_round();
    accountant.end_round(1_000_000);
    assert_eq!(accountant.live.len(), 1);
    accountant.end_round(1_000_000 + END_IS_TOLD_WITHIN_MS - 1);
    assert_eq!(accountant.live.len(), 1);
    accountant.end_round(1_000_000 + END_IS_TOLD_WITHIN_MS);
    assert!(accountant.live.is_empty(), "one that is gone without an end is not kept");
}

/// Of two flows between the same ends the one is not taken for the other, in whatever order it is told of them.
#[test]
fn the_next_flow_of_the_same_ends_is_another() {
    let mut accountant = Accountant::new(true, false);
    accountant.begin_round();
    accountant.end_round(0);
    let other = |packets| FlowRow { id: 8, ..alive(packets, 0) };
    let _ = accountant.event(&event("begun", 1_000, json!({})));
    accountant.begin_round();
    assert_eq!(counts(&accountant.alive(&alive(1_000, 0), 2_000)), [(40000, 1_000, 100_000)]);
    accountant.end_round(2_000);
    // It ends, and the next round finds the one that has begun before its end is told.
    accountant.begin_round();
    assert_eq!(counts(&accountant.alive(&other(1_500), 3_000)), [(40000, 1_500, 150_000)]);
    accountant.end_round(3_000);
    assert_eq!(counts(&accountant.event(&ended(3_000, 1_200, 0))), [(40000, 200, 20_000)]);
    let _ = accountant.event(&event("begun", 2_900, json!({ "id": 8 })));
    accountant.begin_round();
    assert_eq!(counts(&accountant.alive(&other(1_600), 4_000)), [(40000, 100, 10_000)]);
}

/// The daemon that follows knows flows that it has taken over, some by another number.
#[test]
fn what_another_daemon_takes_over_goes_on() {
    let mut accountant = Accountant::new(true, false);
    accountant.begin_round();
    accountant.end_round(0);
    accountant.begin_round();
    assert_eq!(counts(&accountant.alive(&alive(1_000, 10), 1_000)).len(), 2);
    accountant.end_round(1_000);
    accountant.follow_another();
    accountant.begin_round();
    accountant.end_round(2_000);
    accountant.begin_round();
    let taken = FlowRow { id: 9, ..alive(1_003, 10) };
    assert_eq!(counts(&accountant.alive(&taken, 100_000)), [(40000, 3, 300)]);
    accountant.end_round(100_000);
    // Begun anew, it is told from its beginning; and what was never taken over is forgotten.
    accountant.follow_another();
    assert_eq!(accountant.of_before.len(), 1);
    accountant.begin_round();
    let anew = FlowRow { id: 10, ..alive(5, 0) };
    assert_eq!(counts(&accountant.alive(&anew, 200_000)), [(40000, 5, 500)]);
    accountant.end_round(200_000);
    accountant.follow_another();
    // One that is gone at once has taken over nothing.
    accountant.follow_another();
    assert_eq!(accountant.of_before.len(), 1);
    for at in [300_000, 300_000 + TAKEN_OVER_WITHIN_MS] {
        accountant.begin_round();
        accountant.end_round(at);
    }
    assert!(accountant.of_before.is_empty());
}

#[test]
fn a_round_that_was_broken_off_is_no_baseline() {
    let mut accountant = Accountant::new(true, false);
    accountant.begin_round();
    accountant.begin_round();
    assert!(accountant.alive(&alive(1_000, 0), 1_000).is_empty());
}

#[test]
fn of_those_that_live_only_those_are_told_that_are_wanted() {
    let mut accountant = Accountant::new(true, true);
    accountant.begin_round();
    accountant.end_round(5_000);
    accountant.begin_round();
    assert!(accountant.alive(&alive(5, 0), 1_000).is_empty());
    let _ = accountant.event(&event("begun", 2_000, json!({})));
    assert_eq!(accountant.alive(&alive(6, 0), 3_000).len(), 1);
    assert!(accountant.alive(&FlowRow { id: 8, ..alive(6, 0) }, 3_000).is_empty(), "another one");
}

#[test]
fn what_was_dropped_says_why() {
    let fate = |reason: &str, kind: &str| {
        let row = event(kind, 1, json!({ "reason": reason, "packets": 4, "bytes": 240 }));
        let records = Accountant::default().event(&row);
        assert_eq!(counts(&records), [(40000, 4, 240)]);
        records[0].fate
    };
    assert_eq!(fate("ingress-denied", "denied"), Fate::Dropped(DropGroup::Policy));
    assert_eq!(fate("ip-spoofed", "dropped"), Fate::Dropped(DropGroup::Admission));
    assert_eq!(fate("flow-limit", "dropped"), Fate::Dropped(DropGroup::Limit));
    assert_eq!(fate("ingress-denied", "would-be-denied"), Fate::Audited);
    let arp = event("dropped", 1, json!({ "reason": "arp-spoofed", "proto": null }));
    assert!(Accountant::default().event(&arp).is_empty(), "no IP packet");
}

/// A reader of RFC 7011 that knows nothing of the writer but its bytes.
fn read(messages: &[Vec<u8>]) -> Vec<Vec<(u16, Vec<u8>)>> {
    let word = |bytes: &[u8], at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let mut templates: HashMap<u16, Vec<(u16, usize)>> = HashMap::new();
    let mut records = Vec::new();
    for message in messages {
        assert_eq!((word(message, 0), usize::from(word(message, 2))), (10, message.len()));
        let sequence = u32::from_be_bytes(message[8..12].try_into().unwrap());
        assert_eq!(sequence as usize, records.len());
        let mut at = 16;
        while at < message.len() {
            let (id, end) = (word(message, at), at + usize::from(word(message, at + 2)));
            at += 4;
            while at < end {
                if id == 2 {
                    let (template, fields) = (word(message, at), usize::from(word(message, at + 2)));
                    at += 4;
                    let field = |index: usize| {
                        let at = at + 4 * index;
                        (word(message, at), usize::from(word(message, at + 2)))
                    };
                    templates.insert(template, (0..fields).map(field).collect());
                    at += 4 * fields;
                    continue;
                }
                let mut record = Vec::new();
                for (element, len) in &templates[&id] {
                    record.push((*element, message[at..at + len].to_vec()));
                    at += len;
                }
                records.push(record);
            }
            assert_eq!(at, end, "sets end with a record");
        }
    }
    records
}

fn any_record() -> impl Strategy<Value = Record> {
    let addresses = prop_oneof![
        any::<[[u8; 4]; 2]>().prop_map(|both| both.map(IpAddr::from)),
        any::<[[u8; 16]; 2]>().prop_map(|both| both.map(IpAddr::from)),
    ];
    (addresses, any::<[u16; 2]>(), 0u32..1 << 24, any::<u8>(), any::<[u64; 4]>()).prop_map(
        |([src, dst], [sport, dport], vni, proto, [start_ms, end_ms, packets, bytes])| Record {
            vni: Vni::new_checked(vni).unwrap(),
            proto,
            src: (src, sport),
            dst: (dst, dport),
            icmp: None,
            start_ms,
            end_ms,
            packets,
            bytes,
            reason: EndReason::Idle,
            fate: Fate::Forwarded,
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        records in proptest::collection::vec(any_record(), 0..80),
        carries in proptest::option::of(0usize..3000),
    ) {
        let mut encoder = Encoder::new(7, carries);
        let messages = encoder.messages(&records, 1_000, Instant::now());
        let most = carries.unwrap_or(0).clamp(512, 1400);
        prop_assert!(messages.iter().all(|message| message.len() <= most), "{}", most);
        let found = read(&messages);
        prop_assert_eq!(found.len(), records.len());
        let (v4, v6): (Vec<&Record>, Vec<&Record>) = records.iter().partition(|it| it.src.0.is_ipv4());
        for (record, found) in v4.into_iter().chain(v6).zip(&found) {
            let value = |element: u16| {
                let (_, bytes) = found.iter().find(|(number, _)| *number == element).unwrap();
                bytes.iter().fold(0u128, |value, byte| value << 8 | u128::from(*byte))
            };
            let address = |address: IpAddr| match address {
                IpAddr::V4(address) => u128::from(address.to_bits()),
                IpAddr::V6(address) => address.to_bits(),
            };
            let ports = [record.src.1, record.dst.1].map(|port| if matches!(record.proto, 1 | 58) { 0 } else { port.into() });
            let (src, dst) = if record.src.0.is_ipv4() { (8, 12) } else { (27, 28) };
            prop_assert_eq!([value(src), value(dst)], [address(record.src.0), address(record.dst.0)]);
            prop_assert_eq!([value(7), value(11)], ports);
            prop_assert_eq!([value(352), value(2)], [record.bytes.into(), record.packets.into()]);
            prop_assert_eq!(value(1), u128::from(record.bytes.saturating_sub(record.packets.saturating_mul(14))));
            prop_assert_eq!([value(152), value(153)], [record.start_ms.into(), record.end_ms.into()]);
            prop_assert_eq!(value(351), 1 << 56 | u128::from(record.vni.get()));
            prop_assert_eq!([value(4), value(136), value(89), value(233)], [record.proto.into(), 1, 64, 2]);
        }
    }
}

#[test]
fn templates_are_sent_again() {
    let (mut encoder, now) = (Encoder::new(0, None), Instant::now());
    assert_eq!(encoder.messages(&[], 1_000, now).len(), 1);
    assert_eq!(encoder.messages(&[], 1_001, now + TEMPLATES_EVERY / 2).len(), 0);
    // Whatever the clock of the wall says
    assert_eq!(encoder.messages(&[], 10, now + TEMPLATES_EVERY).len(), 1);
}

#[test]
fn a_full_file_makes_room() {
    let folder = std::env::temp_dir().join(format!("eastgate-rotation-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("flows.json");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
    let mut file = Rotating::open(&path, 8, 2).unwrap();
    file.write(b"one\ntwo\nthree\n").unwrap();
    assert_eq!([read("flows.json"), read("flows.json.1")], ["three\n", "one\ntwo\n"]);
    file.write(b"a line that is too long\nfour\n").unwrap();
    assert_eq!(
        [read("flows.json"), read("flows.json.1"), read("flows.json.2")],
        ["four\n", "a line that is too long\n", "three\n"]
    );
    assert_eq!(read("flows.json.3"), "", "the oldest is gone");
    drop(file);
    // The next one goes on with it.
    let mut file = Rotating::open(&path, 8, 0).unwrap();
    file.write(b"5\n").unwrap();
    assert_eq!(read("flows.json"), "four\n5\n");
    // Somebody else moves it away.
    std::fs::rename(&path, folder.join("moved")).unwrap();
    file.write(b"6\n").unwrap();
    assert_eq!([read("flows.json"), read("moved")], ["6\n", "four\n5\n"]);
    file.write(b"1234567\n").unwrap();
    assert_eq!(read("flows.json"), "1234567\n", "none is kept");
    // Somebody else empties it.
    std::fs::File::create(&path).unwrap();
    file.write(b"7\n").unwrap();
    file.write(b"8\n").unwrap();
    assert_eq!([read("flows.json"), read("flows.json.1")], ["7\n8\n", "a line that is too long\n"]);
    drop(file);
    // A line that was torn spoils no other, and a link leads to the file.
    std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"torn").unwrap();
    let link = folder.join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let mut file = Rotating::open(&link, 12, 1).unwrap();
    file.write(b"9\n").unwrap();
    assert_eq!(read("flows.json"), "7\n8\ntorn\n9\n");
    file.write(b"10\n").unwrap();
    assert_eq!([read("flows.json"), read("flows.json.1")], ["10\n", "7\n8\ntorn\n9\n"]);
    assert!(link.is_symlink() && read("link") == "10\n");
    assert!(Rotating::open(Path::new("/dev/null"), 12, 1).is_err(), "no file");
    std::fs::remove_dir_all(&folder).unwrap();
}
