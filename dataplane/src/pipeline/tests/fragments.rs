//! Datagrams in fragments, from end to end: the first decides, the others inherit.

use std::time::Duration;

use eastgate_wire::DropReason;

use super::{frames::*, net::Net, scene::*};

/// The fragments of a datagram from web1 to a station.
fn cut(station: u8, dport: u16, id: u16) -> Vec<Vec<u8>> {
    let whole = udp_of(ip4(WEB1, station, |_| ()), 4000, dport, &[7; 100]);
    let parts = pieces(&whole, 40);
    let last = parts.len() - 1;
    let part = |(n, (at, body)): (usize, &(u16, Vec<u8>))| fragment(WEB1, station, id, *at, n != last, body);
    parts.iter().enumerate().map(part).collect()
}

#[test]
fn behind_an_allowed_first_fragment_the_others_pass_as_they_are() {
    let mut net = Net::new(&scene(""));
    for (receiver, station) in [("db1", DB1), ("db2", DB2)] {
        for piece in cut(station, 53, 1) {
            assert_eq!(net.send("web1", &piece).at(receiver), piece);
        }
    }
}

#[test]
fn behind_a_refused_first_fragment_the_others_are_refused() {
    let mut net = Net::new(&scene(""));
    let fates: Vec<String> =
        cut(DB1, 54, 1).iter().map(|piece| net.send("web1", piece).to_string()).collect();
    assert_eq!(fates, ["egress-denied at alpha", "fragment-refused at alpha", "fragment-refused at alpha"]);
    let fates: Vec<String> =
        cut(WEB2, 53, 2).iter().map(|piece| net.send("web1", piece).to_string()).collect();
    assert_eq!(fates, ["ingress-denied at beta", "fragment-refused at beta", "fragment-refused at beta"]);
}

/// An ICMP message of no known type in fragments, from web1 to db2 by its addresses and to `receiver` by its
/// MAC: it begins no flow.
fn without_a_flow(receiver: u8) -> Vec<Vec<u8>> {
    let mut parts = cut(DB2, 53, 9);
    for part in &mut parts {
        part[23] = 1;
        part[24..26].fill(0);
        let sum = !ones_sum(&part[14..34]);
        part[24..26].copy_from_slice(&sum.to_be_bytes());
        part[..6].copy_from_slice(&mac(receiver));
    }
    parts[0][34..36].copy_from_slice(&[40, 0]);
    parts
}

#[test]
fn the_others_go_to_the_receiver_of_the_first_alone() {
    let mut net = Net::new(&scene(""));
    let pieces = cut(DB2, 53, 1);
    assert_eq!(net.send("web1", &pieces[0]), "db2");
    assert_eq!(net.send("web1", to(pieces[1].clone(), mac(WEB3))), "fragment-refused at alpha");
    assert_eq!(net.send("web1", &pieces[2]), "db2");
}

#[test]
fn also_where_the_first_passed_without_a_flow() {
    let mut net = Net::new(&scene(""));
    let (right, wrong) = (without_a_flow(DB2), without_a_flow(WEB3));
    assert_eq!(net.send("web1", &right[0]), "db2");
    assert_eq!(net.send("web1", &wrong[1]), "fragment-refused at alpha");
    assert_eq!(net.send("web1", &right[2]), "db2");
}

#[test]
fn a_fragment_before_its_first_waits_for_it_and_passes_behind_it() {
    for (receiver, station) in [("db1", DB1), ("db2", DB2)] {
        let mut net = Net::new(&scene(""));
        let pieces = cut(station, 53, 1);
        assert_eq!(net.send("web1", &pieces[2]), "nobody");
        assert_eq!(net.send("web1", &pieces[1]), "nobody");
        let fate = net.send("web1", &pieces[0]);
        assert_eq!(fate.all_at(receiver), [&pieces[0][..], &pieces[2], &pieces[1]]);
        net.pass(Duration::from_secs(60));
        assert!(net.drops("alpha").is_empty(), "nothing is left of it");
    }
}

/// Behind a plain VTEP, and in IPv6.
#[test]
fn fragments_from_the_tunnel_wait_as_well() {
    let mut net = Net::new(&scene(""));
    let pieces = cut(DB1, 53, 1);
    assert_eq!(net.encap_to("beta", "alpha", VNI, &pieces[1]), "nobody");
    assert_eq!(net.encap_to("beta", "alpha", VNI, &pieces[2]), "nobody");
    let fate = net.encap_to("beta", "alpha", VNI, &pieces[0]);
    assert_eq!(fate.all_at("db1"), [&pieces[0][..], &pieces[1], &pieces[2]]);
}

#[test]
fn what_waited_is_refused_with_its_first() {
    let mut net = Net::new(&scene(""));
    let pieces = cut(DB1, 54, 1);
    assert_eq!(net.send("web1", &pieces[1]), "nobody");
    assert_eq!(net.send("web1", &pieces[2]), "nobody");
    assert_eq!(
        net.send("web1", &pieces[0]),
        "egress-denied at alpha, fragment-refused at alpha, fragment-refused at alpha"
    );
}

#[test]
fn what_waits_in_vain_is_dropped_and_counted() {
    let mut net = Net::new(&scene(""));
    let pieces = cut(DB1, 53, 1);
    assert_eq!(net.send("web1", &pieces[0]), "db1");
    assert_eq!(net.send("web1", &pieces[2]), "db1");
    assert_eq!(net.send("web1", &pieces[1]), "db1");
    assert_eq!(
        net.send("web1", &pieces[1]),
        "nobody",
        "the datagram is complete: of another one, for all we know"
    );
    net.pass(Duration::from_secs(6));
    let rows = net.drops("alpha");
    assert_eq!((rows.len(), rows[0].reason, rows[0].frames), (1, DropReason::FragmentFirstMissing, 1));
    assert_eq!(net.send("web1", &pieces[0]), "db1", "and is not there any more");
}

/// Who waits is checked as who comes: neither an address nor a MAC is borrowed by waiting.
#[test]
fn waiting_is_no_way_around_a_check() {
    let mut net = Net::new(&scene(""));
    let pieces = cut(DB2, 53, 1);
    assert_eq!(net.send("web3", &pieces[1]), "mac-spoofed at alpha");
    assert_eq!(net.send("web1", to(pieces[1].clone(), mac(WEB3))), "nobody");
    assert_eq!(net.send("web1", &pieces[0]), "db2, fragment-refused at alpha");
}

#[test]
fn a_flood_of_what_waits_shortens_the_wait_of_its_own_network() {
    let mut net = Net::new(&scene("limits = { fragments = 3 }"));
    for id in 1..=4 {
        assert_eq!(
            net.send("web1", &cut(DB1, 53, id)[1]),
            if id < 4 { "nobody" } else { "fragment-first-missing at alpha" }
        );
    }
    assert_eq!(
        net.send("web1", &cut(DB1, 53, 1)[0]),
        "db1, fragment-first-missing at alpha",
        "the longest has gone"
    );
    assert_eq!(net.send("web1", &cut(DB1, 53, 3)[0]), "db1, db1");
    assert_eq!(net.send("web1", &cut(DB1, 53, 4)[0]), "db1, db1");
    assert_eq!(net.send("web1", &cut(DB1, 53, 5)[1]), "fragment-limit at alpha", "decided ones stay");
}

#[test]
fn a_fragment_over_another_loses_the_datagram() {
    let mut net = Net::new(&scene(""));
    let pieces = cut(DB1, 53, 1);
    assert_eq!(net.send("web1", &pieces[0]), "db1");
    assert_eq!(net.send("web1", fragment(WEB1, DB1, 1, 8, true, &[9; 16])), "fragment-overlap at alpha");
    assert_eq!(net.send("web1", &pieces[1]), "fragment-overlap at alpha");
    let ports_later = fragment(WEB1, DB1, 2, 0, true, &cut(DB1, 53, 2)[0][34..38]);
    assert_eq!(net.send("web1", ports_later), "fragment-tiny at alpha");
}

#[test]
fn datagrams_in_fragments_are_limited() {
    let mut net = Net::new(&scene("limits = { fragments = 3 }"));
    let fates: Vec<String> = (1..6).map(|id| net.send("web1", &cut(DB1, 53, id)[0]).to_string()).collect();
    assert_eq!(fates, ["db1", "db1", "db1", "fragment-limit at alpha", "fragment-limit at alpha"]);
    assert_eq!(net.send("web1", &cut(DB1, 53, 1)[1]), "db1", "those that are known go on");
}
