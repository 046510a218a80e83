//! Machines that forward for others: what is behind them is reached by them, comes from them alone, and is in no group.

use super::{frames::*, net::Net, scene::*};

const ROUTER: u8 = 31;
/// Behind it
const SITE: [u8; 4] = [10, 9, 0, 5];
const WORLD: [u8; 4] = [198, 51, 100, 7];

/// Web servers speak with everyone by TCP 80, to databases with the site alone.
const RULES: &str = r#"
[tenant.acme.group.web]
egress = [{ proto = "udp", ports = 53, to = "any" }]
ingress = [{ proto = "udp", ports = 53, from = "group:web" }]
[tenant.acme.group.db]
ingress = [{ proto = "udp", ports = 53, from = "10.9.0.0/16" }]
egress = [{ proto = "udp", ports = 53, to = ["10.9.0.0/16", "2001:db8::/32"] }]
[tenant.acme.group.forwards]
ingress = [{ proto = "udp", from = "any" }]
egress = [{ proto = "udp", to = "any" }]
"#;

fn routed(network: &str, router: &str) -> Net {
    let who = endpoint("acme", "router", "gamma", ROUTER, "forwards", router)
        .replace("groups = [\"forwards\"]", "groups = [\"forwards\", \"web\"]");
    Net::new(&(scene_with(network, RULES) + &who))
}

/// A question from an address behind the router, as it forwards it.
fn forwarded(src: [u8; 4], to: u8) -> Vec<u8> {
    udp_of(ip4(ROUTER, to, |ip| ip.source = src), 4000, 53, b"question")
}

/// A question to an address behind the router.
fn sent_behind(from: u8, dst: [u8; 4]) -> Vec<u8> {
    udp_of(ip4(from, ROUTER, |ip| ip.destination = dst), 4000, 53, b"question")
}

#[test]
fn a_router_forwards_for_its_routes_and_for_nothing_else() {
    for keys in ["", "neighbors = \"proxy\""] {
        let mut net = routed(keys, r#"routes = ["10.9.0.0/16"]"#);
        assert_eq!(net.send("router", forwarded(SITE, DB1)), "db1");
        assert_eq!(net.send("router", forwarded(SITE, DB3)), "db3", "on its own host");
        assert_eq!(net.send("router", forwarded(WORLD, DB1)), "ip-spoofed at gamma");
        assert_eq!(net.send("router", forwarded(v4(WEB1), DB1)), "ip-spoofed at gamma");
        let mut any = routed(keys, r#"routes = ["0.0.0.0/0", "::/0"]"#);
        assert_eq!(any.send("router", forwarded(SITE, DB1)), "db1");
        assert_eq!(
            any.send("router", forwarded(WORLD, DB1)),
            "ingress-denied at beta",
            "rules name the site"
        );
        for neighbour in [WEB1, DB1, WEB2] {
            let stolen = forwarded(v4(neighbour), DB2);
            assert_eq!(any.send("router", stolen), "ip-spoofed at gamma", "{neighbour} is an endpoint");
        }
        // The role alone forwards nothing.
        let mut role = routed(keys, "router = true");
        assert_eq!(role.send("router", forwarded(SITE, DB1)), "ip-spoofed at gamma");
    }
}

#[test]
fn what_is_behind_a_router_is_reached_and_answers() {
    let mut net = routed("", r#"routes = ["10.9.0.0/16"]"#);
    for db in ["db1", "db2", "db3"] {
        let number = match db {
            "db1" => DB1,
            "db2" => DB2,
            _ => DB3,
        };
        assert_eq!(net.send(db, sent_behind(number, SITE)), "router");
        let answer = udp_of(ip4(ROUTER, number, |ip| ip.source = SITE), 53, 4000, b"answer");
        assert_eq!(net.send("router", answer), db);
    }
    let refused = net.send("db1", sent_behind(DB1, WORLD));
    assert_eq!(refused, "egress-denied at beta");
}

#[test]
fn who_asks_the_appliance_is_sent_to_the_router_by_the_address() {
    let mut net = routed(
        "neighbors = \"proxy\"",
        "routes = [\"10.9.0.0/16\"]\nallowed_pairs = [{ address = \"10.1.0.99\" }]",
    );
    let proxy = net.snapshot("beta").network(VNI.try_into().unwrap()).unwrap().proxy_mac.0;
    for db in [("db1", DB1), ("db2", DB2), ("db3", DB3)] {
        let fate = net.send(db.0, to(sent_behind(db.1, SITE), proxy));
        assert_eq!(fate.at("router")[..6], mac(ROUTER));
        let answer = to(udp_of(ip4(ROUTER, db.1, |ip| ip.source = SITE), 53, 4000, b"answer"), proxy);
        assert_eq!(net.send("router", answer), db.0);
    }
    let nowhere = to(sent_behind(DB1, WORLD), proxy);
    assert_eq!(net.send("db1", nowhere), "not-for-us at beta");
}

#[test]
fn the_longest_route_has_an_address() {
    let other = endpoint("acme", "other", "beta", 32, "forwards", r#"routes = ["10.9.0.0/24"]"#);
    let router = endpoint("acme", "router", "gamma", ROUTER, "forwards", r#"routes = ["0.0.0.0/0"]"#);
    let mut net = Net::new(&(scene_with("neighbors = \"proxy\"", RULES) + &router + &other));
    let proxy = net.snapshot("beta").network(VNI.try_into().unwrap()).unwrap().proxy_mac.0;
    assert_eq!(net.send("db1", to(sent_behind(DB1, SITE), proxy)), "other");
    assert_eq!(net.send("db1", to(sent_behind(DB1, [10, 9, 1, 5]), proxy)), "router");
}

#[test]
fn no_prefix_makes_anybody_a_member_of_a_group() {
    let spellings = [
        r#"routes = ["0.0.0.0/0"]"#,
        r#"allowed_pairs = [{ address = "0.0.0.0/0" }]"#,
        r#"allowed_pairs = [{ address = "198.51.100.0/24" }]"#,
    ];
    for keys in spellings {
        let mut net = routed("", keys);
        // The router is in the group that web servers listen to; the world behind it is not.
        assert_eq!(net.send("router", udp(ROUTER, WEB1, 4000, 53)), "web1", "{keys}");
        assert_eq!(net.send("router", forwarded(WORLD, WEB1)), "ingress-denied at alpha", "{keys}");
        assert_eq!(net.send("router", forwarded(WORLD, WEB2)), "ingress-denied at beta", "{keys}");
    }
    // An address that it shares by name is its own.
    let mut net = routed("", r#"allowed_pairs = [{ address = "198.51.100.7" }]"#);
    assert_eq!(net.send("router", forwarded(WORLD, WEB1)), "web1");
}

#[test]
fn a_router_has_nothing_of_what_is_behind_it_for_arp() {
    let announced = [&arp(1, BROADCAST, ROUTER, [0; 6], SITE)[..28], &SITE, &[0; 6], &SITE].concat();
    let mut net = routed("", r#"routes = ["0.0.0.0/0"]"#);
    assert_eq!(net.send("router", announced), "arp-spoofed at gamma");
    assert_eq!(net.send("db1", arp(1, BROADCAST, DB1, [0; 6], SITE)), "neighbor-unknown at beta");
}
