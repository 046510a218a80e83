//! DHCP and router discovery: answered by whom the configuration names, and by nobody else.

use etherparse::PacketBuilder;

use super::{frames::*, net::Net, scene::*};

const DHCP: u8 = 41;
const ROUTER: u8 = 42;

/// The scene with a DHCP server on beta and a router on gamma.
fn net() -> Net {
    Net::new(&text())
}

fn text() -> String {
    let more = [
        "[tenant.acme.group.none]\n".to_owned(),
        endpoint("acme", "dhcp", "beta", DHCP, "none", "dhcp_server = true"),
        endpoint("acme", "router", "gamma", ROUTER, "none", "router = true"),
    ];
    [scene("ethertypes = [\"ptp\"]"), more.concat()].concat()
}

fn dhcp(from: u8, src: [u8; 4], to: [u8; 6], dst: [u8; 4], ports: (u16, u16)) -> Vec<u8> {
    let mut out = Vec::new();
    PacketBuilder::ethernet2(mac(from), to)
        .ipv4(src, dst, 64)
        .udp(ports.0, ports.1)
        .write(&mut out, &[1; 240])
        .unwrap();
    out
}

const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const ALL_ROUTERS: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

fn link_local(station: u8) -> [u8; 16] {
    [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0, station]
}

#[test]
fn a_dhcp_clients_broadcast_reaches_dhcp_servers_and_nobody_else() {
    let mut net = net();
    let discover = |station| dhcp(station, [0; 4], BROADCAST, [255; 4], (68, 67));
    let fate = net.send("web1", discover(WEB1));
    assert_eq!(fate, "dhcp");
    assert_eq!(fate.datagrams.len(), 1, "only the server's VTEP gets a copy");
    assert_eq!(net.send("web2", discover(WEB2)), "dhcp");
    assert_eq!(net.send("web1", dhcp(WEB1, v4(WEB1), mac(DHCP), v4(DHCP), (68, 67))), "dhcp", "a renewal");
    let mut without = Net::new(&scene(""));
    assert_eq!(without.send("web1", discover(WEB1)), "unknown-destination at alpha");
}

#[test]
fn only_a_dhcp_server_answers() {
    let mut net = net();
    let offer = |station| dhcp(station, v4(station), BROADCAST, [255; 4], (67, 68));
    assert_eq!(net.send("dhcp", offer(DHCP)), "db1, db2, db3, router, web1, web2, web3");
    assert_eq!(net.send("dhcp", dhcp(DHCP, v4(DHCP), mac(WEB1), v4(WEB1), (67, 68))), "web1");
    assert_eq!(net.send("web2", offer(WEB2)), "dhcp-server-guard at beta");
    assert_eq!(
        net.send("web2", dhcp(WEB2, v4(WEB2), mac(WEB1), v4(WEB1), (67, 68))),
        "dhcp-server-guard at beta"
    );
}

#[test]
fn only_a_router_advertises_itself() {
    let mut net = net();
    let body = [0u8; 8];
    let advertisement =
        |station| icmp6(station, [0x33, 0x33, 0, 0, 0, 1], link_local(station), ALL_NODES, 134, &body);
    assert_eq!(net.send("router", advertisement(ROUTER)), "db1, db2, db3, dhcp, web1, web2, web3");
    assert_eq!(net.send("web1", advertisement(WEB1)), "ra-guard at alpha");
    let redirect = icmp6(WEB1, mac(DB1), link_local(WEB1), v6(DB1), 137, &[0; 32]);
    assert_eq!(net.send("web1", redirect), "ra-guard at alpha");
}

#[test]
fn who_looks_for_a_router_asks_routers_and_nobody_else() {
    let mut net = net();
    let body = [&[1, 1][..], &mac(WEB1)].concat();
    let solicitation = icmp6(WEB1, [0x33, 0x33, 0, 0, 0, 2], link_local(WEB1), ALL_ROUTERS, 133, &body);
    let fate = net.send("web1", &solicitation);
    assert_eq!(fate, "router");
    assert_eq!(fate.at("router"), solicitation);
}

#[test]
fn policies_say_nothing_of_what_makes_a_network_a_network() {
    let mut net = Net::new(&(text() + DENY_ALL));
    assert_eq!(net.send("web1", udp(WEB1, DB1, 4000, 53)), "egress-rule at alpha", "they are in force");
    assert!(net.send("web1", who_has(WEB1, DB1)).reached("web1"), "ARP is answered");
    assert!(net.send("web1", solicit(WEB1, DB1)).reached("web1"), "neighbour discovery is");
    assert_eq!(net.send("web1", dhcp(WEB1, [0; 4], BROADCAST, [255; 4], (68, 67))), "dhcp");
    assert_eq!(net.send("web1", dhcp(WEB1, v4(WEB1), mac(DHCP), v4(DHCP), (68, 67))), "dhcp", "a renewal");
    assert_eq!(net.send("dhcp", dhcp(DHCP, v4(DHCP), mac(WEB1), v4(WEB1), (67, 68))), "web1");
    let all = "db1, db2, db3, dhcp, web1, web2, web3";
    let advertisement = icmp6(ROUTER, [0x33, 0x33, 0, 0, 0, 1], link_local(ROUTER), ALL_NODES, 134, &[0; 8]);
    assert_eq!(net.send("router", advertisement), all);
    let ptp = [&mac(DB1)[..], &mac(WEB1), &[0x88, 0xf7], &[0; 46]].concat();
    assert_eq!(net.send("web1", ptp), "db1");
}
