//! Addresses that move between endpoints: by pairs, by choice, behind ports that are not held to addresses.

use std::time::Duration;

use etherparse::PacketBuilder;

use super::{frames::*, net::Net, scene::*};

const VIP: u8 = 100;
/// VRRP router 51
const VMAC: [u8; 6] = [0, 0, 0x5e, 0, 1, 51];
const BACKUPS: [(&str, u8); 3] = [("lb1", 31), ("lb2", 32), ("lb3", 33)];

/// The scene with three load balancers that share an address: lb1 on alpha, lb2 on beta, lb3 on alpha; clients may use
/// the group's port 53.
fn shared(network: &str, mac: &str) -> Net {
    Net::new(&shared_text(network, mac))
}

fn shared_text(network: &str, mac: &str) -> String {
    let pair = format!(
        "allowed_pairs = [{{ address = \"10.1.0.{VIP}\"{mac} }}, {{ address = \"fd00:1::{VIP:x}\"{mac} }}]"
    );
    let on = ["alpha", "beta", "alpha"];
    let lbs = BACKUPS
        .iter()
        .zip(on)
        .map(|((name, number), host)| endpoint("acme", name, host, *number, "lb", &pair));
    let lbs: String = lbs.collect();
    let groups = "[tenant.acme.group.lb]\n\
        ingress = [{ proto = \"udp\", ports = 53, from = \"group:web\" }, { proto = \"icmp\", from = \"any\" }]\n\
        [tenant.acme.group.mon]\negress = [{ proto = \"udp\", to = \"group:lb\" }]\n";
    [scene(network), groups.to_owned(), lbs, endpoint("acme", "mon", "gamma", 41, "mon", "")].concat()
}

const V_MAC: &str = ", mac = \"00:00:5e:00:01:33\"";

/// ARP by `station` from `mac` that says it has the virtual address.
fn gratuitous(mac: [u8; 6]) -> Vec<u8> {
    let mut frame = arp(1, BROADCAST, VIP, [0; 6], v4(VIP));
    frame[6..12].copy_from_slice(&mac);
    frame[22..28].copy_from_slice(&mac);
    frame
}

fn unsolicited(mac: [u8; 6], own: u8) -> Vec<u8> {
    let all_nodes = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let body = [&v6(VIP)[..], &[2, 1], &mac].concat();
    let mut frame = icmp6(own, [0x33, 0x33, 0, 0, 0, 1], v6(VIP), all_nodes, 136, &body);
    frame[6..12].copy_from_slice(&mac);
    // Override; the sum is made up for.
    frame[58] |= 0x20;
    let sum = u16::from_be_bytes([frame[56], frame[57]]);
    let sum = !ones(!sum, 0x2000);
    frame[56..58].copy_from_slice(&sum.to_be_bytes());
    frame
}

fn ones(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u16::from(carry)
}

fn rarp(mac: [u8; 6]) -> Vec<u8> {
    [&BROADCAST[..], &mac, &[0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3], &mac, &[0; 4], &mac, &[0; 4]].concat()
}

/// The virtual address has this holder for everyone, on every host, by ARP, ND and packets.
fn holds(net: &mut Net, name: &str, mac: [u8; 6]) {
    for client in ["web1", "web2"] {
        let number = if client == "web1" { WEB1 } else { WEB2 };
        let fate = net.send(client, who_has(number, VIP));
        assert_eq!(fate, client, "{name}: one answer for {client}");
        assert_eq!(arp_says(fate.at(client)), (2, mac, v4(VIP)), "{name} for {client}");
        let fate = net.send(client, solicit(number, VIP));
        assert_eq!(fate.at(client)[80..86], mac, "{name} for {client} over IPv6");
        let sport = u16::from(number) + 4000;
        assert_eq!(net.send(client, to(udp(number, VIP, sport, 53), mac)), name);
        let back = from(udp(VIP, number, 53, sport), mac);
        assert_eq!(net.send(name, back), client, "{name} answers {client}");
        assert_eq!(net.send(client, to(udp6(number, VIP, sport, 53), mac)), name);
        assert_eq!(net.send(name, from(udp6(VIP, number, 53, sport), mac)), client);
        let refused = net.send(client, to(udp(number, VIP, sport, 9000), mac));
        assert!(refused.deliveries.is_empty(), "port 9000 of the virtual address is closed: {refused:?}");
    }
    assert_eq!(net.send("mon", to(udp(41, VIP, 4000, 53), mac)).deliveries.len(), 0, "mon may not come in");
}

#[test]
fn an_address_is_at_whoever_announced_it_last() {
    for (keys, with, virtual_mac) in
        [("", "", false), ("", V_MAC, true), ("unknown_neighbors = \"flood\"", "", false)]
    {
        let mut net = shared(keys, with);
        for (name, number) in [BACKUPS[0], BACKUPS[1], BACKUPS[2], BACKUPS[0]] {
            let mac = if virtual_mac { VMAC } else { mac(number) };
            let fate = net.send(name, gratuitous(mac));
            assert!(fate.drops.is_empty() && fate.reached("web1") && fate.reached("web2"), "{fate:?}");
            let fate = net.send(name, unsolicited(mac, number));
            assert!(fate.drops.is_empty(), "{fate:?}");
            holds(&mut net, name, mac);
            net.pass(Duration::from_secs(2));
        }
    }
}

#[test]
fn in_proxy_mode_too() {
    for with in ["", V_MAC] {
        let mut net = shared("neighbors = \"proxy\"", with);
        let proxy = net.snapshot("alpha").networks()[0].proxy_mac.0;
        for (name, number) in [BACKUPS[0], BACKUPS[1], BACKUPS[2]] {
            let own = if with.is_empty() { mac(number) } else { VMAC };
            assert!(net.send(name, gratuitous(own)).drops.is_empty());
            for (client, number) in [("web1", WEB1), ("web2", WEB2)] {
                let fate = net.send(client, who_has(number, VIP));
                assert_eq!(arp_says(fate.at(client)), (2, proxy, v4(VIP)));
                let fate = net.send(client, to(udp(number, VIP, 5000, 53), proxy));
                assert_eq!(fate, name);
                assert_eq!(fate.at(name)[..6], own, "by its own MAC");
                assert_eq!(net.send(name, to(from(udp(VIP, number, 53, 5000), own), proxy)), client);
            }
            net.pass(Duration::from_secs(2));
        }
    }
}

/// A packet from it tells as much as an announcement; a RARP tells where a MAC is.
#[test]
fn traffic_and_rarp_are_announcements() {
    let mut net = shared("", "");
    assert_eq!(
        net.send("lb2", from(pong(VIP, WEB1, 7), mac(32))).deliveries.len(),
        0,
        "no flow; but it was heard"
    );
    let said = net.send("lb1", from(ping(VIP, WEB1, 8), mac(31)));
    assert!(said.deliveries.is_empty(), "no egress rule");
    let fate = net.send("web1", who_has(WEB1, VIP));
    assert_eq!(arp_says(fate.at("web1")), (2, mac(31), v4(VIP)));
    let mut net = shared("", V_MAC);
    for (name, _) in [BACKUPS[0], BACKUPS[1], BACKUPS[2]] {
        let _ = net.send(name, rarp(VMAC));
        assert_eq!(net.send("web1", to(udp(WEB1, VIP, 5000, 53), VMAC)), name);
        net.pass(Duration::from_secs(60));
    }
}

/// What one host hears of the one before, after the address was taken, is put right by the next announcement, however many
/// the new holder has made of this address and of others.
#[test]
fn a_late_word_of_the_one_before_is_put_right() {
    let mut net = shared("", V_MAC);
    net.send("lb1", gratuitous(VMAC));
    for _ in 0..5 {
        net.send("lb2", gratuitous(VMAC));
        for _ in 0..4 {
            net.send("lb2", unsolicited(VMAC, 32));
        }
    }
    // From alpha to alpha: nobody on beta hears of it, where what lb2 says is no news.
    assert!(
        net.send("lb1", from(pong(VIP, WEB1, 7), VMAC)).deliveries.is_empty(),
        "no flow; but it was heard"
    );
    net.send("lb2", gratuitous(VMAC));
    holds(&mut net, "lb2", VMAC);
}

/// Nobody is known to have it: those who may are asked, and nobody else.
#[test]
fn who_may_have_it_is_asked() {
    for (keys, proxy) in [("", false), ("neighbors = \"proxy\"", true)] {
        let mut net = shared(keys, "");
        let fate = net.send("web1", who_has(WEB1, VIP));
        assert_eq!(fate, "lb1, lb2, lb3");
        let requester = if proxy { net.snapshot("beta").networks()[0].proxy_mac.0 } else { mac(WEB1) };
        assert_eq!(arp_says(fate.at("lb1")), (1, requester, v4(WEB1)));
        let answer = arp(2, requester, VIP, requester, v4(WEB1));
        let fate = net.send("lb2", from_mac(answer, mac(32)));
        assert_eq!(fate.deliveries.len(), usize::from(!proxy), "{fate:?}");
        let fate = net.send("web1", who_has(WEB1, VIP));
        assert_eq!(fate, "web1", "and answered from then on");
        assert_eq!(net.send("web1", who_has(WEB1, 101)), "neighbor-unknown at alpha");
    }
    // A packet to the appliance for an address that nobody was heard from yet: who asks on its behalf is the appliance.
    let text = shared_text("neighbors = \"proxy\"", "");
    let learns = |line: &str| {
        if line.starts_with("allowed_pairs") { "learn = \"nd\"" } else { line }.to_owned() + "\n"
    };
    let mut net = Net::new(&text.lines().map(learns).collect::<String>());
    let proxy = net.snapshot("beta").networks()[0].proxy_mac.0;
    let fate = net.send("web1", to(udp(WEB1, VIP, 5000, 53), proxy));
    assert_eq!(fate.deliveries.len(), 3, "asked: {fate:?}");
    for asked in ["lb1", "lb2", "lb3"] {
        assert_eq!(arp_says(fate.at(asked)), (1, proxy, v4(WEB1)), "{asked}");
    }
    // A packet by a MAC that a client remembers and that nobody was heard from yet
    let mut net = shared("", V_MAC);
    let fate = net.send("web1", to(udp(WEB1, VIP, 5000, 53), VMAC));
    assert_eq!(fate.drops.len(), 1);
    assert_eq!(fate.deliveries.len(), 3, "asked: {fate:?}");
    let answer = from_mac(arp(2, mac(WEB1), VIP, mac(WEB1), v4(WEB1)), VMAC);
    let _ = net.send("lb3", answer);
    assert_eq!(net.send("web1", to(udp(WEB1, VIP, 5000, 53), VMAC)), "lb3");
}

/// ARP with another sender MAC.
fn from_mac(mut frame: Vec<u8>, mac: [u8; 6]) -> Vec<u8> {
    frame[6..12].copy_from_slice(&mac);
    frame[22..28].copy_from_slice(&mac);
    frame
}

#[test]
fn nobody_else_gets_it() {
    let mut net = shared("", "");
    let _ = net.send("lb1", gratuitous(mac(31)));
    assert_eq!(net.send("web3", gratuitous(mac(WEB3))), "arp-spoofed at alpha");
    let fate = net.send("web1", who_has(WEB1, VIP));
    assert_eq!(arp_says(fate.at("web1")), (2, mac(31), v4(VIP)));
}

fn vrrp(mac: [u8; 6], own: u8) -> Vec<u8> {
    let mut out = Vec::new();
    PacketBuilder::ethernet2(mac, [1, 0, 0x5e, 0, 0, 18])
        .ipv4(v4(own), [224, 0, 0, 18], 255)
        .write(&mut out, etherparse::IpNumber(112), &[0x21, 51, 100, 1, 0, 1, 0, 0, 10, 1, 0, 100])
        .unwrap();
    out
}

#[test]
fn vrrp_is_between_those_who_share() {
    for (with, mac) in [("", mac(31)), (V_MAC, VMAC), (V_MAC, mac(31))] {
        let mut net = shared("", with);
        assert_eq!(net.send("lb1", vrrp(mac, 31)), "lb2, lb3");
    }
    let mut net = shared("", "");
    let mut unicast = to(vrrp(mac(31), 31), mac(32));
    unicast[30..34].copy_from_slice(&v4(32));
    fix_ip_sum(&mut unicast);
    assert_eq!(net.send("lb1", &unicast), "lb2", "unicast peers need no rule");
    assert_eq!(net.send("web1", vrrp(mac(WEB1), WEB1)), "multicast-refused at alpha");
    // Policies say nothing of it.
    let mut net = Net::new(&(shared_text("", "") + DENY_ALL));
    assert_eq!(net.send("lb1", vrrp(mac(31), 31)), "lb2, lb3");
    assert_eq!(net.send("lb1", &unicast), "lb2");
    assert_eq!(net.send("mon", udp(41, 31, 4000, 53)), "egress-rule at gamma");
}

fn fix_ip_sum(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let sum = !ones_sum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn a_group_that_a_rule_names_reaches_those_who_may_have_it() {
    let groups = GROUPS.replace(
        "{ proto = \"icmp\", to = \"any\" },",
        "{ proto = \"icmp\", to = \"any\" }, { proto = \"udp\", ports = 1985, to = \"224.0.0.2/32\" },",
    );
    let groups = groups.replace(
        "{ proto = \"icmp\", from = \"any\" },",
        "{ proto = \"icmp\", from = \"any\" }, { proto = \"udp\", ports = 1985, from = \"group:web\" },",
    );
    let mut net = Net::new(&scene_with("", &groups));
    let hello = |port: u16, group: [u8; 4]| {
        let frame = udp_of(ip4(WEB1, DB1, |ip| ip.destination = group), 1985, port, b"hello");
        to(frame, [1, 0, 0x5e, 0, 0, 2])
    };
    assert_eq!(net.send("web1", hello(1985, [224, 0, 0, 2])), "db1, db2, db3");
    assert_eq!(net.send("web1", hello(53, [224, 0, 0, 2])), "multicast-refused at alpha", "`any` names none");
    assert_eq!(net.send("web1", hello(1985, [224, 0, 0, 3])), "multicast-refused at alpha");
}

/// Broadcast addresses are named like groups: the network's own alone, and each by itself.
#[test]
fn a_broadcast_address_that_a_rule_names_reaches_those_who_may_have_it() {
    let groups = |to: &str| {
        let egress = "{ proto = \"icmp\", to = \"any\" },";
        let ingress = "{ proto = \"icmp\", from = \"any\" },";
        let named = GROUPS.replace(egress, &format!("{egress} {{ proto = \"udp\", ports = 9, to = {to} }},"));
        named.replace(ingress, &format!("{ingress} {{ proto = \"udp\", ports = 9, from = \"group:web\" }},"))
    };
    let wake = |address: [u8; 4]| {
        to(udp_of(ip4(WEB1, DB1, |ip| ip.destination = address), 40_000, 9, b"wake up"), [0xff; 6])
    };
    let (own, everyone, elsewhere) = ([10, 1, 0, 255], [255; 4], [10, 2, 0, 255]);
    let mut net = Net::new(&scene_with(
        "",
        &groups("[\"10.1.0.255\", \"255.255.255.255\", \"10.2.0.255\", \"10.1.0.21\"]"),
    ));
    assert_eq!(net.send("web1", wake(own)), "db1, db2, db3");
    assert_eq!(net.send("web1", wake(everyone)), "db1, db2, db3");
    assert_eq!(net.send("web1", wake(elsewhere)), "multicast-refused at alpha", "of no subnet here");
    assert_eq!(net.send("web1", wake(v4(DB1))), "multicast-refused at alpha", "a machine's address");
    let mut wide = Net::new(&scene_with("", &groups("\"10.1.0.0/24\"")));
    assert_eq!(wide.send("web1", wake(own)), "multicast-refused at alpha", "a wider prefix names none");
    // With the subnet's length its broadcast address becomes another.
    let text = scene_with("", &groups("\"10.1.0.255\""));
    let mut moved = Net::new(&text);
    assert_eq!(moved.send("web1", wake(own)), "db1, db2, db3");
    moved.install(
        &eastgate_config::load_str("t", &text.replace("\"10.1.0.0/24\"", "\"10.1.0.0/23\"")).unwrap(),
    );
    assert_eq!(moved.send("web1", wake(own)), "multicast-refused at alpha");
}

// Ports without port security

#[test]
fn machines_behind_an_open_port_are_learned_and_reached() {
    for mode in ["suppress", "proxy"] {
        let keys = format!("neighbors = \"{mode}\"");
        let hyper = endpoint("acme", "hyper", "beta", 51, "db", "port_security = false");
        let mut net = Net::new(&[scene(&keys), hyper].concat());
        let proxy = net.snapshot("alpha").networks()[0].proxy_mac.0;
        let by = |real| if mode == "proxy" { proxy } else { real };
        // A silent one is asked for at the open port, and nowhere else.
        let fate = net.send("web1", who_has(WEB1, 77));
        assert_eq!(fate, "hyper");
        let requester = if mode == "proxy" { proxy } else { mac(WEB1) };
        let _ = net.send("hyper", arp(2, requester, 77, requester, v4(WEB1)));
        let fate = net.send("web1", who_has(WEB1, 77));
        assert_eq!(arp_says(fate.at("web1")), (2, by(mac(77)), v4(77)));
        assert_eq!(net.send("web1", to(udp(WEB1, 77, 4000, 53), by(mac(77)))), "hyper");
        assert_eq!(net.send("hyper", to(udp(77, WEB1, 53, 4000), by(mac(WEB1)))), "web1", "with state");
        // The rules of the port are the machine's.
        let refused = net.send("web1", to(udp(WEB1, 77, 4000, 9001), by(mac(77))));
        assert!(refused.deliveries.is_empty());
        // On the same host
        assert_eq!(net.send("web2", to(udp(WEB2, 77, 4000, 53), by(mac(77)))), "hyper");
        assert_eq!(net.send("hyper", to(udp(77, WEB2, 53, 4000), by(mac(WEB2)))), "web2");
        // What is configured is nobody's to take.
        assert_eq!(net.send("hyper", udp(DB1, WEB1, 53, 4000)), "mac-spoofed at beta");
        assert_eq!(net.send("hyper", from(udp(DB1, WEB1, 53, 4000), mac(51))), "ip-spoofed at beta");
    }
}

#[test]
fn machines_behind_an_open_port_are_bounded() {
    let hyper = endpoint("acme", "hyper", "beta", 51, "db", "port_security = false");
    let mut net = Net::new(&[scene("mac_limit = 8"), hyper].concat());
    let heard = (0..20u8).filter(|n| {
        let frame = from(udp(77, WEB1, 53, 4000), [2, 0, 0, 0, 9, *n]);
        !net.send("hyper", frame)
            .drops
            .iter()
            .any(|(host, reason)| host == "beta" && reason.name() == "mac-limit")
    });
    assert_eq!(heard.count(), 8);
}

// Link-local addresses of a guest's own choice

fn chosen(n: u8) -> [u8; 16] {
    [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0x9d, 0x3c, 0x41, 0x77, 0x52, 0xab, 0, n]
}

fn probe(station: u8, target: [u8; 16]) -> Vec<u8> {
    let group = solicited(target);
    let to = [0x33, 0x33, group[12], group[13], group[14], group[15]];
    icmp6(station, to, [0; 16], group, 135, &target)
}

fn solicited(target: [u8; 16]) -> [u8; 16] {
    [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, target[13], target[14], target[15]]
}

fn asks(station: u8, src: [u8; 16], target: [u8; 16]) -> Vec<u8> {
    let group = solicited(target);
    let to = [0x33, 0x33, group[12], group[13], group[14], group[15]];
    icmp6(station, to, src, group, 135, &[&target[..], &[1, 1], &mac(station)].concat())
}

#[test]
fn a_guest_chooses_its_link_local_address() {
    let mut net = Net::new(&scene(""));
    let probed = net.send("web1", probe(WEB1, chosen(1)));
    assert!(probed.drops.is_empty() && probed.reached("db1"), "other hosts hear of it: {probed:?}");
    // Taken: whoever wants it too is told, on the same host and on another.
    for (other, number, host) in [("web3", WEB3, "alpha"), ("web2", WEB2, "beta")] {
        let fate = net.send(other, probe(number, chosen(1)));
        assert!(fate.reached(other), "{other} is told: {fate:?}");
        let refused = net.send(other, icmp6(number, [0x33, 0x33, 0, 0, 0, 2], chosen(1), ROUTERS, 133, &[]));
        assert!(refused.drops.iter().any(|(at, reason)| at == host && reason.name() == "ip-spoofed"));
    }
    // Resolved for others.
    for (other, number) in [("db1", DB1), ("db2", DB2), ("web3", WEB3)] {
        let fate = net.send(other, asks(number, v6(number), chosen(1)));
        assert_eq!(fate.at(other)[80..86], mac(WEB1), "{other}");
    }
    // What it sends from there is its own.
    let solicitation =
        icmp6(WEB1, [0x33, 0x33, 0, 0, 0, 2], chosen(1), ROUTERS, 133, &[&[1, 1][..], &mac(WEB1)].concat());
    assert_eq!(net.send("web1", solicitation), "unknown-destination at alpha", "there is no router");
    let ask = asks(WEB1, chosen(1), v6(DB1));
    assert_eq!(net.send("web1", ask), "web1");
}

const ROUTERS: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

#[test]
fn addresses_formed_from_macs_are_resolved_without_being_listed() {
    let mut net = Net::new(&scene(""));
    let formed = |n: u8| [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0, n];
    for target in [DB1, DB2, WEB3] {
        let fate = net.send("web1", asks(WEB1, formed(WEB1), formed(target)));
        assert_eq!(fate.at("web1")[80..86], mac(target));
    }
    assert_eq!(
        net.send("web3", icmp6(WEB3, [0x33, 0x33, 0, 0, 0, 2], formed(WEB1), ROUTERS, 133, &[])),
        "ip-spoofed at alpha"
    );
}

#[test]
fn choices_are_bounded_for_each_guest() {
    let mut net = Net::new(&scene(""));
    for n in 0..100 {
        let _ = net.send("web1", probe(WEB1, chosen(n)));
        net.pass(Duration::from_secs(1));
    }
    let snapshot = net.snapshot("alpha");
    let held = crate::pipeline::shared::lock(&snapshot.networks()[0].state.holders).entries().count();
    assert_eq!(held, 8);
}

// Endpoints that come back elsewhere

fn told(fate: &super::net::Fate, who: &str) -> Vec<(u8, [u8; 6], [u8; 4])> {
    fate.all_at(who).into_iter().filter(|frame| frame[12..14] == [8, 6]).map(arp_says).collect()
}

/// Another MAC, or another host: who may have the old one is told.
#[test]
fn a_reload_tells_of_bindings_that_changed() {
    let plain = format!(
        "[host.spokes]\nvtep = \"172.31.0.9\"\ndevice = \"eth0\"\nruns = \"vxlan\"\n{}",
        endpoint("acme", "old", "spokes", 71, "db", "")
    );
    let text = [scene(""), plain].concat();
    let mut net = Net::new(&text);
    let fate = net.announcements();
    assert_eq!(fate, "nobody", "nothing has changed");
    let other_mac = text.replace("02:00:00:00:00:15", "02:00:00:00:00:f5");
    net.install(&super::net::parse(&other_mac));
    let fate = net.announcements();
    let says = (1, mac(0xf5), v4(DB1));
    for who in ["web1", "web2", "web3", "db2", "db3"] {
        assert_eq!(told(&fate, who), [says], "{who}");
    }
    assert_eq!(told(&fate, "spokes"), [says], "once, by the endpoint's own host");
    assert!(fate.all_at("web1").iter().any(|frame| frame[12..14] == [0x86, 0xdd]), "and over IPv6");
    assert_eq!(net.announcements(), "nobody", "once");
    // Its own announcement is passed on, too.
    let own = from_mac(arp(1, BROADCAST, DB1, [0; 6], v4(DB1)), mac(0xf5));
    let fate = net.send("db1", own);
    assert!(fate.reached("web1") && fate.reached("web2") && fate.reached("spokes"), "{fate}");
}

#[test]
fn a_reload_tells_plain_vteps_where_an_endpoint_has_gone() {
    let plain = format!(
        "[host.spokes]\nvtep = \"172.31.0.9\"\ndevice = \"eth0\"\nruns = \"vxlan\"\n{}",
        endpoint("acme", "old", "spokes", 71, "db", "")
    );
    let text = [scene(""), plain].concat();
    let mut net = Net::new(&text);
    let db1 = "[tenant.acme.endpoint.db1]\nnetwork = \"app\"\nhost = ";
    let moved = text.replace(&format!("{db1}\"beta\""), &format!("{db1}\"gamma\""));
    net.install(&super::net::parse(&moved));
    let fate = net.announcements();
    assert_eq!(told(&fate, "spokes"), [(1, mac(DB1), v4(DB1))]);
    let from_gamma = fate.datagrams.iter().all(|datagram| datagram.from == net.vtep("gamma"));
    assert!(from_gamma, "what plain VTEPs learn is where it comes from");
    // What the hypervisor says of a machine that has come to it goes to everyone.
    let fate = net.send("db1", rarp(mac(DB1)));
    assert!(fate.reached("spokes") && fate.reached("web1") && fate.reached("web2"), "{fate}");
}

/// Clients and servers of DHCP from ports of their stack's choice; relays.
#[test]
fn dhcp_is_known_by_the_port_it_is_for() {
    let groups = [scene(""), endpoint("acme", "dhcp", "beta", 41, "db", "dhcp_server = true")].concat();
    let mut net =
        Net::new(&[groups, endpoint("acme", "relay", "alpha", 42, "db", "dhcp_server = true")].concat());
    let v4_of = |from: u8, src: [u8; 4], to_mac: [u8; 6], dst: [u8; 4], ports: (u16, u16)| {
        let mut out = Vec::new();
        let builder = PacketBuilder::ethernet2(mac(from), to_mac).ipv4(src, dst, 64);
        builder.udp(ports.0, ports.1).write(&mut out, &[1; 240]).unwrap();
        out
    };
    assert_eq!(net.send("web1", v4_of(WEB1, [0; 4], BROADCAST, [255; 4], (49152, 67))), "dhcp, relay");
    let offer = v4_of(41, v4(41), mac(WEB1), v4(WEB1), (1067, 68));
    assert_eq!(net.send("dhcp", offer), "web1");
    assert_eq!(
        net.send("web2", v4_of(WEB2, v4(WEB2), mac(WEB1), v4(WEB1), (1067, 68))),
        "dhcp-server-guard at beta"
    );
    assert_eq!(net.send("relay", v4_of(42, v4(42), mac(41), v4(41), (67, 67))), "dhcp");
    assert_eq!(net.send("dhcp", v4_of(41, v4(41), mac(42), v4(42), (67, 67))), "relay");
    let v6_of = |from: u8, src: [u8; 16], to_mac: [u8; 6], dst: [u8; 16], ports: (u16, u16)| {
        let mut out = Vec::new();
        let builder = PacketBuilder::ethernet2(mac(from), to_mac).ipv6(src, dst, 64);
        builder.udp(ports.0, ports.1).write(&mut out, &[1; 60]).unwrap();
        out
    };
    let servers = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2];
    let group = [0x33, 0x33, 0, 1, 0, 2];
    assert_eq!(net.send("web1", v6_of(WEB1, chosen(9), group, servers, (50_000, 547))), "dhcp, relay");
    assert_eq!(net.send("dhcp", v6_of(41, chosen(41), mac(WEB1), chosen(9), (40_000, 546))), "web1");
    assert_eq!(net.send("relay", v6_of(42, v6(42), mac(41), v6(41), (547, 547))), "dhcp");
}

/// A prefix of any width entitles to what is in nobody's name, and makes no member of a group.
#[test]
fn a_wide_pair_does_not_reach_what_is_configured() {
    let pairs = "allowed_pairs = [{ address = \"0.0.0.0/0\" }, { address = \"::/0\" }]";
    let wide = endpoint("acme", "wide", "alpha", 61, "web", pairs);
    let mut net = Net::new(&[scene(""), wide].concat());
    let forged = [udp(WEB2, DB1, 4000, 53), udp6(WEB2, DB1, 4000, 53)];
    for frame in forged {
        assert_eq!(net.send("wide", from(frame, mac(61))), "ip-spoofed at alpha");
    }
    let gratuitous = from_mac(arp(1, BROADCAST, DB1, [0; 6], v4(DB1)), mac(61));
    assert_eq!(net.send("wide", gratuitous), "arp-spoofed at alpha");
    let answer = from_mac(arp(2, mac(WEB1), DB1, mac(WEB1), v4(WEB1)), mac(61));
    assert_eq!(net.send("wide", answer), "arp-spoofed at alpha");
    let advert = icmp6(61, mac(WEB1), v6(61), v6(WEB1), 136, &[&v6(DB1)[..], &[2, 1], &mac(61)].concat());
    assert_eq!(net.send("wide", advert), "nd-spoofed at alpha");
    let free = from(udp(200, DB1, 4000, 53), mac(61));
    assert_eq!(net.send("wide", free), "ingress-denied at beta", "it is no web server by that");
    let fate = net.send("web1", who_has(WEB1, DB1));
    assert_eq!(arp_says(fate.at("web1")), (2, mac(DB1), v4(DB1)));
}
