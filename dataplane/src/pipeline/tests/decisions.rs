//! Every frame of an endpoint is decided: whatever it is addressed to, wherever the other end is.

use std::time::Duration;

use eastgate_wire::DropReason;

use super::{
    frames::*,
    net::{DropRow, Net},
    scene::*,
};

const SQL: Talk = Talk { a: WEB1, b: DB1, sport: 40000, dport: 5432 };

#[test]
fn what_rules_of_both_ends_allow_passes_and_its_answers_pass() {
    let mut net = Net::new(&scene(""));
    for (client, server, talk) in [("web1", "db1", SQL), ("web1", "db2", Talk { b: DB2, ..SQL })] {
        assert_eq!(net.send(client, talk.syn()), server);
        assert_eq!(net.send(server, talk.syn_ack()), client);
        assert_eq!(net.send(client, talk.data(b"select 1")), server);
    }
    assert_eq!(net.send("web1", ping(WEB1, DB1, 3)), "db1");
    assert_eq!(net.send("db1", pong(DB1, WEB1, 3)), "web1");
    assert_eq!(net.send("web1", udp6(WEB1, DB1, 4000, 53)), "db1");
    assert_eq!(net.send("db1", udp6(DB1, WEB1, 53, 4000)), "web1");
}

#[test]
fn what_no_rule_allows_is_dropped_on_one_host_as_between_hosts() {
    let mut net = Net::new(&scene(""));
    // Egress, at the sender.
    for (to, station) in [("db1", DB1), ("db2", DB2), ("db3", DB3)] {
        let ssh = Talk { b: station, dport: 22, ..SQL };
        assert_eq!(net.send("web1", ssh.syn()), "egress-denied at alpha", "to {to}");
        assert_eq!(net.send("web1", udp6(WEB1, station, 1, 54)), "egress-denied at alpha", "to {to}");
    }
    assert_eq!(net.send("db1", ping(DB1, WEB1, 1)), "egress-denied at beta");
    assert_eq!(net.send("db2", ping(DB2, WEB1, 1)), "egress-denied at alpha");
    // Ingress, at the receiver: web servers take nothing.
    assert_eq!(net.send("web1", udp(WEB1, WEB2, 4000, 53)), "ingress-denied at beta");
    assert_eq!(net.send("web1", udp(WEB1, WEB3, 4000, 53)), "ingress-denied at alpha");
    assert_eq!(net.send("web1", udp6(WEB1, WEB2, 4000, 53)), "ingress-denied at beta");
    assert_eq!(net.send("web1", udp6(WEB1, WEB3, 4000, 53)), "ingress-denied at alpha");
}

#[test]
fn a_real_mac_in_place_of_the_appliances_avoids_nothing_in_proxy_mode() {
    let mut net = Net::new(&scene("neighbors = \"proxy\""));
    assert_eq!(net.send("web1", Talk { dport: 22, ..SQL }.syn()), "egress-denied at alpha");
    assert_eq!(net.send("web1", udp(WEB1, WEB3, 4000, 53)), "ingress-denied at alpha");
    assert_eq!(net.send("web1", SQL.syn()), "db1");
}

#[test]
fn an_unknown_mac_leads_nowhere_unless_flooded_and_then_past_the_rules() {
    let unknown_host = [2, 0, 0, 0, 9, 9];
    let question = to(udp(WEB1, DB1, 4000, 53), unknown_host);
    let mut net = Net::new(&scene(""));
    assert_eq!(net.send("web1", &question), "unknown-destination at alpha");
    let mut net = Net::new(&scene("unknown_destinations = \"flood\""));
    assert_eq!(net.send("web1", &question), "db1, db2, db3", "and no web server");
    assert_eq!(net.send("web1", to(Talk { dport: 22, ..SQL }.syn(), unknown_host)), "egress-denied at alpha");
}

#[test]
fn broadcast_and_multicast_are_dropped_unless_carried_and_then_decided_for_each_receiver() {
    let many = |dst, mac| to(udp_of(ip4(WEB1, DB1, |ip| ip.destination = dst), 4000, 9000, b"hello"), mac);
    let broadcast = many([10, 1, 0, 255], BROADCAST);
    let group = many([239, 1, 1, 1], [1, 0, 0x5e, 1, 1, 1]);
    let unicast_in_broadcast = to(udp(WEB1, DB1, 4000, 9000), BROADCAST);
    let mut net = Net::new(&scene(""));
    for frame in [&broadcast, &group, &unicast_in_broadcast] {
        assert_eq!(net.send("web1", frame), "multicast-refused at alpha");
    }
    let mut net = Net::new(&scene("multicast = \"flood\""));
    for frame in [&broadcast, &group, &unicast_in_broadcast] {
        assert_eq!(net.send("web1", frame), "db1, db2, db3", "web servers take nothing");
    }
    let refused = to(Talk { dport: 22, ..SQL }.syn(), BROADCAST);
    assert_eq!(net.send("web1", refused), "egress-denied at alpha");
}

#[test]
fn ports_of_dccp_and_udp_lite_are_held_against_the_rules() {
    for (name, number) in [("dccp", 33), ("udplite", 136)] {
        let rule = |side: &str| format!("[{{ proto = \"{name}\", ports = 3868, {side} = \"any\" }}]");
        let groups = format!(
            "[tenant.acme.group.web]\negress = {}\n[tenant.acme.group.db]\ningress = {}\n",
            rule("to"),
            rule("from")
        );
        let mut net = Net::new(&scene_with("", &groups));
        let packet = |a: u8, b: u8, sport: u16, dport: u16| {
            let mut frame = udp_of(ip4(a, b, |ip| ip.protocol = number.into()), sport, dport, &[0; 16]);
            frame[23] = number;
            frame[24..26].fill(0);
            let sum = !ones_sum(&frame[14..34]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
            frame
        };
        for (station, receiver) in [(DB1, "db1"), (DB2, "db2")] {
            assert_eq!(
                net.send("web1", packet(WEB1, station, 4000, 3869)),
                "egress-denied at alpha",
                "{name}"
            );
            assert_eq!(net.send("web1", packet(WEB1, station, 4000, 3868)), receiver, "{name}");
            assert_eq!(net.send(receiver, packet(station, WEB1, 3868, 4000)), "web1", "{name}: its answer");
            let other = net.send(receiver, packet(station, WEB1, 3868, 4001)).to_string();
            assert!(other.starts_with("egress-denied"), "{name}: {other}");
        }
    }
}

#[test]
fn what_is_neither_ip_nor_arp_does_not_pass() {
    let mut net = Net::new(&scene("unknown_destinations = \"flood\"\nmulticast = \"flood\""));
    for ethertype in [0x0100u16, 0x05ff, 0x8847, 0x88cc, 0x9000, 0xffff] {
        for destination in [mac(DB1), mac(DB2), BROADCAST, [2, 0, 0, 0, 9, 9]] {
            let frame = [&destination[..], &mac(WEB1), &ethertype.to_be_bytes(), &[0; 46]].concat();
            let fate = net.send("web1", &frame);
            assert!(fate.deliveries.is_empty(), "{ethertype:04x}: {fate}");
            // A host that was taken over sends it nevertheless.
            let fate = net.encap_to("beta", "alpha", VNI, &frame);
            assert!(fate.deliveries.is_empty(), "{ethertype:04x}: {fate}");
        }
    }
}

#[test]
fn nobody_speaks_for_others() {
    let mut net = Net::new(&scene(""));
    assert_eq!(net.send("web1", from(udp(WEB1, DB1, 4000, 53), mac(WEB3))), "mac-spoofed at alpha");
    assert_eq!(net.send("web1", from(udp(WEB3, DB1, 4000, 53), mac(WEB1))), "ip-spoofed at alpha");
    assert_eq!(net.send("web1", arp(2, mac(DB1), WEB3, mac(DB1), v4(DB1))), "mac-spoofed at alpha");
    assert_eq!(net.send("web1", from(who_has(WEB3, DB1), mac(WEB1))), "arp-malformed at alpha");
    assert_eq!(net.send("web1", udp(WEB1, WEB1, 4000, 53)), "martian at alpha");
    let own = to(udp(WEB1, DB1, 4000, 53), mac(WEB1));
    assert!(net.send("web1", own).deliveries.is_empty());
}

#[test]
fn every_drop_counts_once_with_whose_rules_it_was() {
    let mut net = Net::new(&scene(""));
    let row = |reason, by: Option<&str>, frames| DropRow {
        reason,
        vni: Some(VNI),
        by: by.map(str::to_owned),
        frames,
    };
    for _ in 0..3 {
        assert_eq!(net.send("web1", Talk { dport: 22, ..SQL }.syn()), "egress-denied at alpha");
    }
    assert_eq!(net.send("web1", udp(WEB1, WEB2, 4000, 53)), "ingress-denied at beta");
    assert_eq!(net.send("web1", SQL.data(b"early")), "not-syn at alpha");
    let alpha = net.drops("alpha");
    assert!(alpha.contains(&row(DropReason::EgressDenied, Some("web1"), 3)), "{alpha:?}");
    assert!(alpha.contains(&row(DropReason::NotSyn, None, 1)), "{alpha:?}");
    assert_eq!(alpha.len(), 2, "{alpha:?}");
    assert_eq!(net.drops("beta"), [row(DropReason::IngressDenied, Some("web2"), 1)]);
    assert_eq!(net.drops("gamma"), []);
}

#[test]
fn a_flow_that_is_forgotten_is_decided_again() {
    let mut net = Net::new(&scene("timeouts = { udp_first = 10 }"));
    assert_eq!(net.send("web1", udp(WEB1, DB1, 4000, 53)), "db1");
    net.pass(Duration::from_secs(9));
    assert_eq!(net.send("db1", udp(DB1, WEB1, 53, 4000)), "web1");
    net.pass(Duration::from_secs(301));
    assert_eq!(net.send("db1", udp(DB1, WEB1, 53, 4000)), "egress-denied at beta");
}

#[test]
fn an_open_flow_is_no_way_to_another_receiver() {
    let mut net = Net::new(&scene(""));
    let receivers =
        [("db2", DB2, WEB3, "ingress-denied at alpha"), ("db1", DB1, WEB2, "ingress-denied at beta")];
    for (receiver, station, other, refused) in receivers {
        let question = udp(WEB1, station, 4000, 53);
        assert_eq!(net.send("web1", &question), receiver);
        assert_eq!(
            net.send("web1", to(question.clone(), mac(other))),
            refused,
            "the same addresses, another MAC"
        );
        assert_eq!(net.send("web1", &question), receiver);
        let unreachable = icmp_error(station, WEB1, 3, 3, &question);
        let host = if station == DB2 { "alpha" } else { "beta" };
        let elsewhere = to(unreachable.clone(), mac(WEB3));
        assert_eq!(net.send(receiver, elsewhere), &*format!("icmp-unrelated at {host}"));
        assert_eq!(net.send(receiver, unreachable), "web1");
    }
}

/// Each host asks the ends that it has, and keeps state of what it has let pass: between two hosts, what one end may send is what the
/// other's host takes for an answer to what that one has sent. On one host both ends are asked about the first packet.
#[test]
fn between_hosts_each_end_is_asked_by_its_own_and_answers_are_what_each_has_sent_for() {
    let groups = "[tenant.acme.group.web]\negress = [{ to = \"any\" }]\n[tenant.acme.group.db]\negress = [{ to = \"any\" }]\n";
    let both = |there: u8, name: &str, text: &str| {
        let mut net = Net::new(text);
        let [first, back, again] = [
            net.send("web1", udp(WEB1, there, 51_820, 51_820)),
            net.send(name, udp(there, WEB1, 51_820, 51_820)),
            net.send("web1", udp(WEB1, there, 51_820, 51_820)),
        ];
        [!first.deliveries.is_empty(), !back.deliveries.is_empty(), !again.deliveries.is_empty()]
    };
    let open = scene_with("", groups);
    assert_eq!(both(DB1, "db1", &open), [false, true, true], "on two hosts");
    assert_eq!(both(DB2, "db2", &open), [false, false, false], "on one");
    // Who is to be kept apart is denied to send.
    let apart = "[policy.apart]\napplies_to = \"group:acme/db\"\negress = [{ action = \"deny\", to = \"group:acme/web\" }]\n";
    assert_eq!(both(DB1, "db1", &(open + apart)), [false, false, false]);
}

/// Egress is open at both ends, as it is for most. A segment of no connection that is known is of the same one on both hosts: it does
/// not leave one by what its sender may begin, and come in at the other as the answer to what its receiver may.
#[test]
fn a_segment_in_mid_stream_goes_the_same_way_on_both_hosts() {
    let groups = r#"
[tenant.acme.group.web]
egress = [{ to = "any" }]
[tenant.acme.group.db]
ingress = [{ proto = "tcp", ports = 5432, from = "group:web" }]
egress = [{ to = "any" }]
"#;
    for network in ["tcp = \"loose\"", "tcp = \"loose\"\nneighbors = \"proxy\""] {
        let mut net = Net::new(&scene_with(network, groups));
        let proxy = net.snapshot("alpha").networks()[0].proxy_mac.0;
        for (db, name, host) in [(DB1, "db1", "beta"), (DB2, "db2", "alpha")] {
            let by = |station, frame: Vec<u8>| {
                to(frame, if network.contains("proxy") { proxy } else { mac(station) })
            };
            let closed = Talk { a: WEB1, b: db, sport: 40_000, dport: 22 };
            assert_eq!(
                net.send("web1", by(db, closed.data(b"in"))),
                format!("ingress-denied at {host}").as_str()
            );
            let open = Talk { a: WEB1, b: db, sport: 40_001, dport: 5432 };
            assert_eq!(net.send("web1", by(db, open.data(b"begun"))), name);
            assert_eq!(net.send(name, by(WEB1, open.answer(b"answered"))), "web1");
            // Met by its answer first
            let open = Talk { a: WEB1, b: db, sport: 40_002, dport: 5432 };
            assert_eq!(net.send(name, by(WEB1, open.answer(b"answered"))), "web1");
            assert_eq!(net.send("web1", by(db, open.data(b"goes on"))), name);
        }
    }
}

/// Of what the other end's host may know better, this one says nothing: flags of the first segment, and what keeps no state.
#[test]
fn a_segment_in_mid_stream_is_judged_at_its_own_end() {
    let groups = "[tenant.acme.group.web]\negress = [{ to = \"any\" }]\n[tenant.acme.group.db]\n\
        ingress = [{ proto = \"tcp\", ports = 5432, from = \"group:web\" }]\n";
    let talk = |sport| Talk { a: WEB1, b: DB1, sport, dport: 5432 };
    let flags = "[tenant.acme.policy.opens]\napplies_to = \"group:db\"\nend = \"deny\"\n\
        ingress = [{ action = \"allow\", proto = \"tcp\", ports = 5432, from = \"any\", tcp_flags = \"syn/syn,ack\" }]\n";
    let mut net = Net::new(&(scene_with("tcp = \"loose\"", groups) + flags));
    // The receiver's host may know the connection: whether it began by a SYN is for it to say.
    assert_eq!(net.send("web1", talk(1).data(b"goes on")), "ingress-rule at beta");
    // A group without state is asked about each packet, the other end's host keeps state all the same.
    let stateless =
        groups.replace("[tenant.acme.group.web]\n", "[tenant.acme.group.web]\nstateful = false\n");
    let mut net = Net::new(&scene_with("tcp = \"loose\"", &stateless));
    assert_eq!(net.send("web1", talk(2).data(b"to an open port")), "db1");
    assert_eq!(
        net.send("db1", talk(2).answer(b"back")),
        "ingress-denied at alpha",
        "no rule of web's lets it in"
    );
    // Of a machine that nobody knows, on one host or on both, nothing is an answer.
    let open = endpoint("acme", "hyper", "alpha", 51, "db", "port_security = false");
    let mut net = Net::new(&(scene_with("tcp = \"loose\"\nlearning = true", groups) + &open));
    let unknown = Talk { a: 77, b: DB1, sport: 3, dport: 22 };
    let fate = net.send("hyper", unknown.data(b"from nowhere"));
    assert!(fate.deliveries.is_empty(), "{fate}");
}
