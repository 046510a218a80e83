//! ARP and neighbour discovery through the path, in every mode.

use super::{frames::*, net::Net, scene::*};

fn proxy_mac(net: &Net) -> [u8; 6] {
    net.snapshot("alpha").networks()[0].proxy_mac.0
}

/// The target and link-layer address of a neighbour advertisement.
fn advert(frame: &[u8]) -> ([u8; 16], [u8; 6]) {
    assert_eq!((frame[54], frame[21]), (136, 255), "an advertisement with hop limit 255");
    assert_eq!(frame[78..80], [2, 1], "a target link-layer address");
    (frame[62..78].try_into().unwrap(), frame[80..86].try_into().unwrap())
}

#[test]
fn suppress_answers_with_the_endpoints_mac_and_tells_nobody_else() {
    let mut net = Net::new(&scene(""));
    for target in [DB1, DB2, DB3] {
        let fate = net.send("web1", who_has(WEB1, target));
        assert_eq!(fate, "web1");
        assert_eq!(arp_says(fate.at("web1")), (2, mac(target), v4(target)));
        let fate = net.send("web1", solicit(WEB1, target));
        assert_eq!(fate, "web1");
        assert_eq!(advert(fate.at("web1")), (v6(target), mac(target)));
        assert!(fate.datagrams.is_empty());
    }
    let poll = arp(1, mac(DB1), WEB1, [0; 6], v4(DB1));
    assert_eq!(net.send("web1", &poll).at("db1"), poll, "a reachability poll reaches the real host");
}

#[test]
fn proxy_answers_with_its_own_mac_also_polls() {
    let mut net = Net::new(&scene("neighbors = \"proxy\""));
    let proxy = proxy_mac(&net);
    for target in [DB1, DB2, DB3] {
        let fate = net.send("web1", who_has(WEB1, target));
        assert_eq!(fate, "web1");
        assert_eq!(arp_says(fate.at("web1")), (2, proxy, v4(target)));
        assert_eq!(advert(net.send("web1", solicit(WEB1, target)).at("web1")), (v6(target), proxy));
        let poll = arp(1, mac(target), WEB1, [0; 6], v4(target));
        assert_eq!(arp_says(net.send("web1", poll).at("web1")), (2, proxy, v4(target)));
    }
}

#[test]
fn off_leaves_answers_to_the_endpoints() {
    let mut net = Net::new(&scene("neighbors = \"off\""));
    let request = who_has(WEB1, DB1);
    let fate = net.send("web1", &request);
    assert_eq!(fate, "db1, db2, db3, web2, web3", "as in any switch");
    assert!(fate.deliveries.iter().all(|delivery| delivery.frame == request));
    let reply = arp(2, mac(WEB1), DB1, mac(WEB1), v4(WEB1));
    assert_eq!(net.send("db1", &reply).at("web1"), reply);
    let request = solicit(WEB1, DB1);
    assert_eq!(net.send("web1", &request), "db1, db2, db3, web2, web3");
}

/// What a plain VTEP floods reaches every host, and each but one has nothing to do with it.
#[test]
fn a_question_for_someone_on_another_host_ends_without_a_loss() {
    for mode in ["suppress", "proxy"] {
        let mut net = Net::new(&scene(&format!("neighbors = \"{mode}\"")));
        assert_eq!(net.encap_to("gamma", "alpha", VNI, who_has(WEB1, DB1)), "nobody");
        assert_eq!(net.encap_to("gamma", "alpha", VNI, solicit(WEB1, DB1)), "nobody");
        let astray = arp(1, mac(DB1), WEB1, [0; 6], v4(DB1));
        assert_eq!(net.encap_to("gamma", "alpha", VNI, astray), "split-horizon at gamma");
    }
}

#[test]
fn a_flood_that_reaches_a_host_without_receivers_ends_without_a_loss() {
    let text = scene("neighbors = \"off\"\nmulticast = \"flood\"\nhosts = [\"gamma\"]");
    let (text, _) = text.split_once("[tenant.acme.endpoint.db3]").unwrap();
    let mut net = Net::new(text);
    assert_eq!(net.encap_to("gamma", "alpha", VNI, who_has(WEB1, DB1)), "nobody");
    assert_eq!(net.encap_to("gamma", "alpha", VNI, to(udp(WEB1, DB1, 4000, 53), BROADCAST)), "nobody");
    assert_eq!(net.drops("gamma"), []);
}

#[test]
fn requests_for_unknown_addresses_are_dropped_or_flooded() {
    let mut net = Net::new(&scene(""));
    assert_eq!(net.send("web1", who_has(WEB1, 99)), "neighbor-unknown at alpha");
    assert_eq!(net.send("web1", solicit(WEB1, 99)), "neighbor-unknown at alpha");
    let mut net = Net::new(&scene("unknown_neighbors = \"flood\""));
    assert_eq!(net.send("web1", who_has(WEB1, 99)), "db1, db2, db3, web2, web3");
    assert_eq!(net.send("web1", solicit(WEB1, 99)), "db1, db2, db3, web2, web3");
    let mut net = Net::new(&scene("unknown_neighbors = \"flood\"\nneighbors = \"proxy\""));
    let proxy = proxy_mac(&net);
    let fate = net.send("web1", who_has(WEB1, 99));
    assert_eq!(fate, "db1, db2, db3, web2, web3");
    for delivery in &fate.deliveries {
        let (operation, requester, _) = arp_says(&delivery.frame);
        assert_eq!((operation, requester), (1, proxy), "asked in the appliance's name at {}", delivery.to);
    }
}

#[test]
fn proxy_mode_exchanges_both_macs_and_nothing_else() {
    let mut net = Net::new(&scene("neighbors = \"proxy\""));
    let proxy = proxy_mac(&net);
    for (receiver, station) in [("db1", DB1), ("db2", DB2)] {
        for frame in [udp(WEB1, station, 4000, 53), udp6(WEB1, station, 4000, 53)] {
            let fate = net.send("web1", to(frame.clone(), proxy));
            assert_eq!(fate.at(receiver), from(frame, proxy), "to {receiver}");
        }
    }
}

#[test]
fn a_frame_to_the_appliance_for_an_unknown_address_is_not_for_us() {
    let mut net = Net::new(&scene("neighbors = \"proxy\""));
    let proxy = proxy_mac(&net);
    assert_eq!(net.send("web1", to(udp(WEB1, 99, 4000, 53), proxy)), "not-for-us at alpha");
    let outside = ip4(WEB1, DB1, |ip| ip.destination = [192, 0, 2, 1]);
    assert_eq!(net.send("web1", to(udp_of(outside, 4000, 53, b""), proxy)), "not-for-us at alpha");
    let mut net = Net::new(&scene(""));
    assert_eq!(net.send("web1", to(udp(WEB1, DB1, 4000, 53), proxy)), "unknown-destination at alpha");
}

#[test]
fn announcements_of_others_addresses_are_dropped() {
    let mut net = Net::new(&scene("neighbors = \"off\""));
    let mut stolen = arp(2, BROADCAST, WEB1, BROADCAST, v4(DB1));
    stolen[28..32].copy_from_slice(&v4(DB1));
    assert_eq!(net.send("web1", stolen), "arp-spoofed at alpha");
    let body = [&v6(DB1)[..], &[2, 1], &mac(WEB1)].concat();
    let all_nodes = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let stolen = icmp6(WEB1, [0x33, 0x33, 0, 0, 0, 1], v6(WEB1), all_nodes, 136, &body);
    assert_eq!(net.send("web1", stolen), "nd-spoofed at alpha");
}
