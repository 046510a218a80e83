//! A machine has the appliance's MAC in its cache for a host that the appliance has forgotten: after a restart, or with the time.

use std::time::Duration;

use super::{frames::*, net::Net, scene::*};

/// A host behind the kernel's VTEP `tor`
const FAR: u8 = 99;
const TOR: &str = "[host.tor]\nvtep = \"172.31.0.9\"\ndevice = \"eth0\"\nruns = \"vxlan\"\n";

fn text(keys: &str) -> String {
    [TOR, &scene(&format!("neighbors = \"proxy\"\nlearning = true\nhosts = [\"tor\"]\n{keys}"))].concat()
}

fn proxy_mac(net: &Net) -> [u8; 6] {
    net.snapshot("alpha").networks()[0].proxy_mac.0
}

/// What a host answers to a solicitation of a station.
fn advertise(from: u8, to: u8) -> Vec<u8> {
    let body = [&v6(from)[..], &[2, 1], &mac(from)].concat();
    let mut frame = icmp6(from, mac(to), v6(from), v6(to), 136, &body);
    // Solicited, and overrides what was known
    frame[58] = 0x60;
    mend(&mut frame);
    frame
}

#[test]
fn a_host_that_was_forgotten_is_asked_for_and_found() {
    let mut net = Net::new(&text("unknown_neighbors = \"flood\""));
    let proxy = proxy_mac(&net);
    let packet = || to(udp(WEB1, FAR, 4000, 53), proxy);
    let fate = net.send("web1", packet());
    assert_eq!(fate, "db1, db2, db3, tor, web2, web3, unresolved at alpha", "all are asked");
    // Who has the address, tell web1: at its own MAC between VTEPs, at the appliance's at ports.
    for delivery in &fate.deliveries {
        let (operation, asker, address) = arp_says(&delivery.frame);
        let at = if delivery.to == "tor" { mac(WEB1) } else { proxy };
        assert_eq!((operation, asker, address), (1, at, v4(WEB1)), "{}", delivery.to);
        assert_eq!(delivery.frame[38..42], v4(FAR), "{}", delivery.to);
    }
    assert_eq!(net.encap_to("alpha", "tor", VNI, arp(2, mac(WEB1), FAR, mac(WEB1), v4(WEB1))), "nobody");
    let fate = net.send("web1", packet());
    assert_eq!(fate.at("tor"), to(from(udp(WEB1, FAR, 4000, 53), proxy), mac(FAR)));

    let packet = || to(udp6(WEB1, FAR, 4000, 53), proxy);
    let fate = net.send("web1", packet());
    assert_eq!(fate, "db1, db2, db3, tor, web2, web3, unresolved at alpha");
    assert_eq!(fate.at("tor"), solicit(WEB1, FAR), "as web1 would ask");
    assert_eq!(net.encap_to("alpha", "tor", VNI, advertise(FAR, WEB1)), "nobody");
    assert_eq!(net.send("web1", packet()).at("tor"), to(from(udp6(WEB1, FAR, 4000, 53), proxy), mac(FAR)));
}

/// Behind the other appliance's open port: it has forgotten nothing.
#[test]
fn another_appliance_is_asked_too() {
    let open = endpoint("acme", "hyper", "beta", 51, "db", "port_security = false");
    let mut net = Net::new(&(text("unknown_neighbors = \"flood\"") + &open));
    let proxy = proxy_mac(&net);
    // Only beta hears what it says of itself.
    net.lose(10);
    assert_eq!(net.send("hyper", arp(1, BROADCAST, 77, [0; 6], v4(77))), "nobody");
    net.lose(0);
    let packet = || to(udp(WEB1, 77, 4000, 53), proxy);
    // It answers with the host's own MAC: the appliance's is at both.
    assert_eq!(net.send("web1", packet()), "db2, db3, tor, web3, unresolved at alpha");
    let fate = net.send("web1", packet());
    assert_eq!(fate.at("hyper"), to(from(udp(WEB1, 77, 4000, 53), proxy), mac(77)));
    // So it does to a request that is web1's own, whom alpha answers then.
    let mut net = Net::new(&(text("unknown_neighbors = \"flood\"") + &open));
    net.lose(10);
    let _ = net.send("hyper", arp(1, BROADCAST, 77, [0; 6], v4(77)));
    net.lose(0);
    assert_eq!(net.send("web1", who_has(WEB1, 77)), "db2, db3, tor, web3");
    let fate = net.send("web1", who_has(WEB1, 77));
    assert_eq!((fate.to_string().as_str(), arp_says(fate.at("web1"))), ("web1", (2, proxy, v4(77))));
}

#[test]
fn each_address_is_asked_for_once_a_second_at_the_cost_of_its_asker() {
    let mut net = Net::new(&text("unknown_neighbors = \"flood\"\nbum_limit = 100000"));
    let proxy = proxy_mac(&net);
    let unresolved = "unresolved at alpha";
    let send = |net: &mut Net, from: &str, number: u8, last: u8| {
        net.send(from, to(udp(number, last, 4000, 53), proxy))
    };
    assert!(send(&mut net, "web1", WEB1, FAR).reached("tor"));
    for _ in 0..20 {
        assert_eq!(send(&mut net, "web1", WEB1, FAR), unresolved);
        assert_eq!(send(&mut net, "web3", WEB3, FAR), unresolved, "whoever sends there");
    }
    net.pass(Duration::from_millis(999));
    assert_eq!(send(&mut net, "web1", WEB1, FAR), unresolved);
    net.pass(Duration::from_millis(1));
    assert!(send(&mut net, "web1", WEB1, FAR).reached("tor"));
    // Whoever tries all there are has no more answers, and others do.
    let mut asked = 0;
    let mut limited = 0;
    for number in 0..=200u8 {
        for subnet in 0..2 {
            let six = || {
                let mut frame = to(udp6(WEB1, number, 4000, 53), proxy);
                frame[52] = 1;
                mend(&mut frame);
                frame
            };
            let frame = if subnet == 0 { six() } else { to(udp(WEB1, number, 4000, 53), proxy) };
            let fate = net.send("web1", frame).to_string();
            asked += usize::from(fate.contains("unresolved"));
            limited += usize::from(fate.contains("neighbor-limit"));
        }
    }
    // As many answers as an endpoint has at once, and what was asked for before costs none.
    assert!((198..=201).contains(&asked) && limited > 190, "{asked} asked for, {limited} not");
    assert!(send(&mut net, "web3", WEB3, 240).reached("tor"));
}

#[test]
fn nobody_is_asked_where_the_network_does_not() {
    // Requests are dropped there too.
    let mut net = Net::new(&text(""));
    let proxy = proxy_mac(&net);
    assert_eq!(net.send("web1", to(udp(WEB1, FAR, 4000, 53), proxy)), "not-for-us at alpha");
    // No stranger is let in.
    let mut net = Net::new(&scene("neighbors = \"proxy\"\nunknown_neighbors = \"flood\""));
    assert_eq!(net.send("web1", to(udp(WEB1, FAR, 4000, 53), proxy)), "not-for-us at alpha");
    // No address of the network; one that is an endpoint's, behind a MAC that is nobody's.
    let mut net = Net::new(&text("unknown_neighbors = \"flood\""));
    let outside = ip4(WEB1, DB1, |ip| ip.destination = [192, 0, 2, 1]);
    assert_eq!(net.send("web1", to(udp_of(outside, 4000, 53, b""), proxy)), "not-for-us at alpha");
    assert_eq!(net.send("web1", to(udp(WEB1, DB1, 4000, 53), mac(FAR))), "unknown-destination at alpha");
    // From the overlay of a mesh: to ports alone.
    let fate = net.encap_to("alpha", "tor", VNI, to(udp(98, FAR, 4000, 53), proxy));
    assert_eq!(fate, "db2, web1, web3, unresolved at alpha");
}

/// A MAC that was forgotten, where machines know each other's own.
#[test]
fn a_mac_that_was_forgotten_is_found_by_its_address() {
    let text = text("unknown_neighbors = \"flood\"").replace("\"proxy\"", "\"suppress\"");
    let mut net = Net::new(&text);
    let fate = net.send("web1", udp(WEB1, FAR, 4000, 53));
    assert_eq!(fate, "db1, db2, db3, tor, web2, web3, unknown-destination at alpha");
    assert_eq!(fate.at("tor"), who_has(WEB1, FAR));
    let fate = net.encap_to("alpha", "tor", VNI, arp(2, mac(WEB1), FAR, mac(WEB1), v4(WEB1)));
    assert_eq!(fate, "web1", "it is told, as always");
    assert_eq!(net.send("web1", udp(WEB1, FAR, 4000, 53)), "tor");
}

/// A router sends what is from behind it: it is asked in the router's name, which is on the link of whoever answers.
#[test]
fn a_router_is_who_asks() {
    let keys = "routes = [\"192.0.2.0/24\"]\nrouter = true";
    let router = endpoint("acme", "gw", "alpha", 1, "web", keys);
    let mut net = Net::new(&(text("unknown_neighbors = \"flood\"") + &router));
    let proxy = proxy_mac(&net);
    let from_behind = ip4(1, FAR, |ip| ip.source = [192, 0, 2, 7]);
    let fate = net.send("gw", to(udp_of(from_behind, 4000, 53, b""), proxy));
    assert!(fate.reached("tor"), "{fate}");
    assert_eq!(fate.at("tor"), who_has(1, FAR));
}
