//! What does not fit the tunnel: told, dropped, or cut; and ICMP errors that quote flows.

use eastgate_wire::{DropReason, Gso, GsoKind, Offload, PartialChecksum, VtepAddr};
use etherparse::{SlicedPacket, TransportSlice};

use super::{frames::*, net::Net, scene::*};
use crate::pipeline::{batch::NarrowPath, counters::traffic};

const TALK: Talk = Talk { a: WEB1, b: DB1, sport: 40000, dport: 5432 };

/// The MTU that a too-big message tells, checked to come from `from` and to go to web1.
fn told(frame: &[u8], from: u8) -> u16 {
    assert_eq!((&frame[..6], &frame[6..12]), (&mac(WEB1)[..], &mac(from)[..]));
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    match packet.transport.unwrap() {
        TransportSlice::Icmpv4(icmp) => {
            assert_eq!((&frame[26..30], &frame[30..34]), (&v4(from)[..], &v4(WEB1)[..]));
            assert_eq!((icmp.type_u8(), icmp.code_u8()), (3, 4));
            u16::from_be_bytes([frame[40], frame[41]])
        }
        TransportSlice::Icmpv6(icmp) => {
            assert!(icmp.is_checksum_valid(v6(from), v6(WEB1)));
            assert_eq!((icmp.type_u8(), icmp.code_u8()), (2, 0));
            u16::from_be_bytes([frame[60], frame[61]])
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_sender_of_too_much_is_told_the_mtu_by_the_packets_destination() {
    let mut net = Net::new(&scene(""));
    assert_eq!(net.send("web1", udp_sized(WEB1, DB1, true, 1450)), "db1");
    let fate = net.send("web1", udp_sized(WEB1, DB1, true, 1451));
    assert_eq!(fate, "web1, too-big at alpha");
    assert_eq!(told(fate.at("web1"), DB1), 1450);
    let six = |len: usize| udp_of(ip6(WEB1, DB1), 4000, 53, &vec![0; len - 48]);
    assert_eq!(net.send("web1", six(1450)), "db1");
    assert_eq!(told(net.send("web1", six(1451)).at("web1"), DB1), 1450);
    assert_eq!(net.send("web1", udp_sized(WEB1, DB2, true, 1500)), "db2", "no tunnel, no limit");
    let refused = udp_of(ip4(WEB1, DB1, df), 4000, 54, &[0; 1500]);
    assert_eq!(net.send("web1", refused), "egress-denied at alpha", "what is refused is told nothing");
}

#[test]
fn a_narrower_path_counts_as_soon_as_it_is_known() {
    let mut net = Net::new(&scene(""));
    let narrow = NarrowPath { to: VtepAddr(net.vtep("beta")), source: 0, mtu: 1400 };
    net.shared("alpha").narrow_paths(&[narrow], net.now());
    assert_eq!(told(net.send("web1", udp_sized(WEB1, DB1, true, 1351)).at("web1"), DB1), 1350);
    assert_eq!(net.send("web1", udp_sized(WEB1, DB1, true, 1350)), "db1");
    assert_eq!(
        net.send("web1", udp_sized(WEB1, DB3, true, 1450)),
        "db3",
        "the other path is as wide as ever"
    );
}

#[test]
fn a_packet_that_may_be_cut_is_cut_and_counted_unless_the_network_drops_it() {
    let big = udp_sized(WEB1, DB1, false, 3000);
    let mut net = Net::new(&scene("oversize = \"drop\""));
    assert_eq!(net.send("web1", &big), "too-big at alpha");
    let mut net = Net::new(&scene(""));
    let fate = net.send("web1", &big);
    assert_eq!(fate, "db1, db1, db1");
    let body: Vec<u8> = fate.all_at("db1").iter().flat_map(|piece| piece[34..].to_vec()).collect();
    assert_eq!(body, big[34..]);
    assert!(fate.all_at("db1").iter().all(|piece| piece.len() <= 14 + 1450));
    assert_eq!(traffic(&net.shared("alpha").counters).fragmented, 1);
    assert_eq!(told(net.send("web1", udp_sized(WEB1, DB1, true, 3000)).at("web1"), DB1), 1450);
}

#[test]
fn a_gso_packet_that_may_be_cut_is_cut_into_packets_and_those_into_fragments() {
    let mut net = Net::new(&scene(""));
    let payload: Vec<u8> = (0..4000u32).map(|n| (n % 251) as u8).collect();
    let (open, mut offload) = left_open(udp_of(ip4(WEB1, DB1, |_| ()), 4000, 53, &payload));
    offload.gso = Some(Gso { kind: GsoKind::Udp, segment: 1472 });
    let fate = net.send_offloaded("web1", &open, offload);
    assert_eq!(fate, "db1, db1, db1, db1, db1", "two datagrams in two pieces, and one that fits");
    assert!(fate.all_at("db1").iter().all(|piece| piece.len() <= 14 + 1450));
    let id = |piece: &&[u8]| u16::from_be_bytes([piece[18], piece[19]]);
    let ids: Vec<u16> = fate.all_at("db1").iter().map(id).collect();
    assert_eq!((ids[1] - ids[0], ids[2] - ids[0], ids[3] - ids[0], ids[4] - ids[0]), (0, 1, 1, 2));
    let got: Vec<u8> = fate
        .all_at("db1")
        .iter()
        .flat_map(|piece| {
            let first = u16::from_be_bytes([piece[20], piece[21]]) & 0x1fff == 0;
            piece[if first { 42 } else { 34 }..].to_vec()
        })
        .collect();
    assert_eq!(got, payload);
    assert_eq!(traffic(&net.shared("alpha").counters).fragmented, 2);
}

#[test]
fn the_pieces_are_decided_as_one_datagram_on_the_other_side() {
    let mut net = Net::new(&scene(""));
    let refused = net.send("web1", udp_sized(WEB1, WEB2, false, 3000));
    assert_eq!(refused, "fragment-refused at beta, fragment-refused at beta, ingress-denied at beta");
    net.lose(1);
    let first_lost = net.send("web1", udp_sized(WEB1, DB1, false, 3000));
    assert_eq!(first_lost, "nobody", "they wait for it");
    net.pass(std::time::Duration::from_secs(6));
    let rows = net.drops("beta");
    assert!(
        rows.iter().any(|row| row.reason == DropReason::FragmentFirstMissing && row.frames == 2),
        "{rows:?}"
    );
}

/// A packet to many, of this size.
fn is_bum(dont_fragment: bool, len: usize) -> Vec<u8> {
    to(udp_sized(WEB1, DB1, dont_fragment, len), BROADCAST)
}

#[test]
fn copies_that_do_not_fit_are_lost_and_counted_and_the_others_are_not() {
    let mut net = Net::new(&scene("multicast = \"flood\""));
    let narrow = NarrowPath { to: VtepAddr(net.vtep("beta")), source: 0, mtu: 1400 };
    net.shared("alpha").narrow_paths(&[narrow], net.now());
    assert_eq!(net.send("web1", is_bum(false, 1350)), "db1, db2, db3");
    assert_eq!(net.send("web1", is_bum(false, 1351)), "db2, db3, too-big at alpha");
    assert_eq!(
        net.send("web1", is_bum(true, 1450)),
        "db2, db3, too-big at alpha",
        "ICMP answers no multicast"
    );
    assert_eq!(net.send("web1", is_bum(false, 1451)), "db2, too-big at alpha, too-big at alpha");
    let rows = net.drops("alpha");
    assert_eq!((rows.len(), rows[0].reason, rows[0].frames), (1, DropReason::TooBig, 4), "{rows:?}");

    let text = scene("multicast = \"flood\"");
    let (before, db2) = text.split_once("[tenant.acme.endpoint.db2]").unwrap();
    let (_, after) = db2.split_once("[tenant.acme.endpoint.web2]").unwrap();
    let mut net = Net::new(&format!("{before}[tenant.acme.endpoint.web2]{after}"));
    let fate = net.send("web1", is_bum(false, 1451));
    assert_eq!(fate, "too-big at alpha, too-big at alpha", "web3 takes nothing, no copy goes anywhere");
}

/// Options of a kind that nobody knows are skipped, however many bytes they have.
#[test]
fn a_solicitation_that_does_not_fit_is_lost_and_counted_likewise() {
    let mut net = Net::new(&scene("unknown_neighbors = \"flood\"\nneighbors = \"proxy\""));
    let solicit = |units: u8| {
        let option = [&[200, units][..], &vec![0; usize::from(units) * 8 - 2]].concat();
        let body = [&v6(99)[..], &[1, 1], &mac(WEB1), &option].concat();
        let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 99];
        icmp6(WEB1, [0x33, 0x33, 0xff, 0, 0, 99], v6(WEB1), group, 135, &body)
    };
    // 40 bytes of IPv6, 24 of the solicitation, 8 with the sender's MAC, and the option.
    assert_eq!(net.send("web1", solicit(172)), "db1, db2, db3, web2, web3");
    assert_eq!(net.send("web1", solicit(173)), "db2, web3, too-big at alpha, too-big at alpha");
}

#[test]
fn who_sends_too_much_to_a_station_that_nobody_knows_is_told() {
    let mut net = Net::new(&scene("unknown_destinations = \"flood\""));
    let unknown = |len| to(udp_sized(WEB1, DB1, true, len), [2, 0, 0, 0, 9, 9]);
    assert_eq!(net.send("web1", unknown(1450)), "db1, db2, db3");
    let fate = net.send("web1", unknown(1451));
    assert_eq!(fate, "db2, web1, too-big at alpha, too-big at alpha");
    let (answer, mut expected) = (fate.at("web1"), [2, 0, 0, 0, 9, 9]);
    assert_eq!(&answer[6..12], &mut expected, "from the station it was for");
    assert_eq!(u16::from_be_bytes([answer[40], answer[41]]), 1450);
}

#[test]
fn a_gso_packet_to_many_passes_when_its_segments_fit() {
    let mut net = Net::new(&scene("multicast = \"flood\""));
    let frame = to(udp_sized(WEB1, DB1, false, 28 + 5000), BROADCAST);
    let cut_to = |segment| {
        let (_, mut offload) = left_open(frame.clone());
        offload.gso = Some(Gso { kind: GsoKind::Udp, segment });
        offload
    };
    let (open, _) = left_open(frame.clone());
    let fate = net.send_offloaded("web1", &open, cut_to(1250));
    assert_eq!((fate.all_at("db1").len(), fate.all_at("db3").len()), (4, 4), "{fate}");
    let fate = net.send_offloaded("web1", &open, cut_to(1423));
    assert_eq!(fate, "db2, too-big at alpha, too-big at alpha");
}

fn gso_packet(segment: u16) -> Offload {
    Offload { checksum: None, gso: Some(Gso { kind: GsoKind::TcpV4, segment }) }
}

#[test]
fn a_gso_packet_passes_when_its_segments_fit() {
    let mut net = Net::new(&scene(""));
    assert_eq!(net.send("web1", TALK.syn()), "db1");
    assert_eq!(net.send("db1", TALK.syn_ack()), "web1");
    let payload: Vec<u8> = (0..14_100u32).map(|n| (n % 251) as u8).collect();
    let frame = TALK.data(&payload);
    let fate = net.send_offloaded("web1", &frame, gso_packet(1410));
    assert_eq!(fate.all_at("db1").len(), 10, "{fate}");
    let got: Vec<u8> = fate.all_at("db1").iter().flat_map(|segment| segment[54..].to_vec()).collect();
    assert_eq!(got, payload);
    assert!(fate.all_at("db1").iter().all(|segment| checksums_are_right(segment)));
    let fate = net.send_offloaded("web1", &frame, gso_packet(1411));
    assert_eq!(fate, "web1, too-big at alpha");
    assert_eq!(told(fate.at("web1"), DB1), 1450);
}

#[test]
fn icmp_errors_pass_only_for_live_flows_and_towards_who_sent_what_they_quote() {
    let mut net = Net::new(&scene(""));
    let question = udp(WEB1, DB1, 4000, 53);
    let unreachable = icmp_error(DB1, WEB1, 3, 3, &question);
    assert_eq!(net.send("db1", &unreachable), "icmp-unrelated at beta", "nothing was asked yet");
    assert_eq!(net.send("web1", &question), "db1");
    assert_eq!(net.send("db1", &unreachable).at("web1"), unreachable);
    let other = icmp_error(DB1, WEB1, 3, 3, &udp(WEB1, DB1, 4001, 53));
    assert_eq!(net.send("db1", other), "icmp-unrelated at beta");
    let backwards = icmp_error(WEB1, DB1, 3, 3, &question);
    assert_eq!(net.send("web1", backwards), "icmp-unrelated at alpha");
    let unreplied = icmp_error(WEB1, DB1, 3, 3, &udp(DB1, WEB1, 53, 4000));
    assert_eq!(net.send("web1", unreplied), "icmp-unrelated at alpha", "db1 has sent nothing");
}

/// Those of RFC 4890 section 4.3.1 pass where they quote what is live; what is of the link passes with the hop limit that nothing from elsewhere has.
#[test]
fn icmpv6_errors_pass_only_for_live_flows_and_what_is_of_the_link_with_hop_limit_255() {
    let mut net = Net::new(&scene(""));
    let question = udp6(WEB1, DB1, 4000, 53);
    let error = |kind: u8, about: &[u8]| icmp6(DB1, mac(WEB1), v6(DB1), v6(WEB1), kind, &about[14..]);
    assert_eq!(net.send("db1", error(1, &question)), "icmp-unrelated at beta", "nothing was asked yet");
    assert_eq!(net.send("web1", &question), "db1");
    for kind in [1, 2, 3, 4] {
        let error = error(kind, &question);
        assert_eq!(net.send("db1", &error).at("web1"), error, "type {kind}");
    }
    assert_eq!(net.send("db1", error(1, &udp6(WEB1, DB1, 4001, 53))), "icmp-unrelated at beta");
    let mut from_elsewhere = solicit(WEB1, DB1);
    assert!(net.send("web1", &from_elsewhere).reached("web1"), "it is answered");
    from_elsewhere[14 + 7] = 254;
    assert_eq!(net.send("web1", &from_elsewhere), "nd-malformed at alpha");
}

/// Whoever leaves a checksum open says where it belongs, and may send what makes any number of it: a port that no rule
/// allows, or another machine's address.
#[test]
fn a_checksum_that_is_left_open_changes_nothing_that_was_decided_by() {
    let mut net = Net::new(&scene(""));
    let open = |start, offset| Offload { checksum: Some(PartialChecksum { start, offset }), gso: None };
    let frame = udp_of(ip4(WEB1, DB1, |_| ()), 4000, 53, &[7; 60]);
    assert_eq!(net.send("web1", &frame), "db1");
    let sent = net.send_offloaded("web1", &frame, open(34, 6));
    assert_eq!(sent.at("db1")[36..38], [0, 53], "{sent}");
    for (what, start, offset) in [
        ("its destination port", 34, 2),
        ("likewise, summed from elsewhere", 26, 10),
        ("its length", 34, 4),
        ("its destination", 26, 6),
        ("a MAC", 0, 4),
        ("nothing that is there", 1000, 6),
    ] {
        let sent = net.send_offloaded("web1", &frame, open(start, offset));
        assert_eq!(sent, "bad-l4-header at alpha", "{what}");
        let beside = udp_of(ip4(WEB2, DB1, |_| ()), 4000, 53, &[7; 60]);
        assert_eq!(
            net.send_offloaded("web2", beside, open(start, offset)),
            "bad-l4-header at beta",
            "{what}"
        );
    }
    // What the sender tunnels has a checksum of its own, which nobody decides by.
    assert_eq!(net.send_offloaded("web1", &frame, open(60, 16)), "db1");
    assert_eq!(net.send_offloaded("web1", who_has(WEB1, DB1), open(14, 24)), "bad-l4-header at alpha");
    let lease = udp_of(ip4(WEB1, DB1, |_| ()), 68, 67, &[7; 240]);
    assert_eq!(
        net.send_offloaded("web1", lease, open(60, 16)),
        "bad-l4-header at alpha",
        "whose payload is read"
    );
}
