//! Tenants with the same MACs, addresses and ports never meet.

use super::{frames::*, net::Net, scene::*};

const TALK: Talk = Talk { a: WEB1, b: DB1, sport: 40000, dport: 5432 };

/// acme as in the scene, and umbrella with the same stations under VNI 5002, where everything is allowed.
fn two_tenants() -> Net {
    let umbrella = [
        app_network("umbrella", 5002, ""),
        "[tenant.umbrella.group.all]\ningress = [{ from = \"any\" }]\negress = [{ to = \"any\" }]\n".into(),
        endpoint("umbrella", "web1", "alpha", WEB1, "all", ""),
        endpoint("umbrella", "db1", "beta", DB1, "all", ""),
        endpoint("umbrella", "lonely", "alpha", 77, "all", ""),
    ];
    Net::new(&[scene(""), umbrella.concat()].concat())
}

#[test]
fn equal_tuples_are_two_flows() {
    let mut net = two_tenants();
    assert_eq!(net.send("acme/web1", TALK.syn()), "acme/db1");
    assert_eq!(net.send("umbrella/db1", TALK.syn_ack()), "not-syn at beta");
    assert_eq!(net.send("acme/db1", TALK.syn_ack()), "acme/web1");
    assert_eq!(net.send("umbrella/web1", TALK.data(b"stolen")), "not-syn at alpha");
    assert_eq!(net.send("acme/web1", TALK.data(b"mine")), "acme/db1");
    assert_eq!(net.send("umbrella/web1", TALK.syn()), "umbrella/db1");
    assert_eq!(net.send("acme/web1", TALK.data(b"mine still")), "acme/db1");
}

#[test]
fn what_one_tenant_allows_is_nothing_to_the_other() {
    let mut net = two_tenants();
    let ssh = Talk { dport: 22, ..TALK };
    assert_eq!(net.send("umbrella/web1", ssh.syn()), "umbrella/db1");
    assert_eq!(net.send("acme/web1", ssh.syn()), "egress-denied at alpha");
    assert_eq!(net.send("acme/web1", udp(WEB1, DB1, 4000, 53)), "acme/db1");
    assert_eq!(net.send("umbrella/db1", udp(DB1, WEB1, 53, 4000)), "umbrella/web1");
    assert_eq!(net.send("acme/db1", udp(DB1, WEB1, 53, 4000)), "acme/web1");
}

#[test]
fn a_mac_of_another_network_leads_nowhere() {
    let mut net = two_tenants();
    assert_eq!(net.send("umbrella/web1", udp(WEB1, 77, 1, 2)), "umbrella/lonely");
    assert_eq!(net.send("acme/web1", udp(WEB1, 77, 4000, 53)), "unknown-destination at alpha");
    assert_eq!(net.send("acme/web1", who_has(WEB1, 77)), "neighbor-unknown at alpha");
    assert_eq!(net.send("umbrella/web1", who_has(WEB1, 77)), "umbrella/web1");
}

#[test]
fn datagrams_in_fragments_with_equal_numbers_are_two() {
    let mut net = two_tenants();
    let whole = udp_sized(WEB1, DB1, false, 28 + 60);
    let [(_, first), (at, last)] = &pieces(&whole, 40)[..] else { panic!() };
    assert_eq!(net.send("acme/web1", fragment(WEB1, DB1, 9, 0, true, first)), "acme/db1");
    assert_eq!(net.send("umbrella/web1", fragment(WEB1, DB1, 9, *at, false, last)), "nobody", "it waits");
    assert_eq!(net.send("acme/web1", fragment(WEB1, DB1, 9, *at, false, last)), "acme/db1");
}
