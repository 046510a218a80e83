//! What is heard from the underlay, and from whom.

use super::{
    frames::*,
    net::{Net, vxlan},
    scene::*,
};

/// The scene, and a tenant on gamma and delta that alpha and beta have no part in.
fn net() -> Net {
    let more = [
        "[host.delta]\nvtep = \"172.31.0.4\"\ndevice = \"eth0\"\n".to_owned(),
        app_network("other", 6000, ""),
        "[tenant.other.group.all]\ningress = [{ from = \"any\" }]\negress = [{ to = \"any\" }]\n".into(),
        endpoint("other", "x", "gamma", 31, "all", ""),
        endpoint("other", "y", "delta", 32, "all", ""),
    ];
    Net::new(&[scene(""), more.concat()].concat())
}

#[test]
fn a_known_endpoint_is_heard_only_from_its_own_vtep() {
    let mut net = net();
    let question = udp(WEB1, DB1, 4000, 53);
    assert_eq!(net.encap_to("beta", "gamma", VNI, &question), "mac-spoofed at beta");
    assert_eq!(net.encap_to("beta", "alpha", VNI, from(question.clone(), mac(DB1))), "mac-spoofed at beta");
    assert_eq!(net.encap_to("beta", "alpha", VNI, &question), "acme/db1");
}

#[test]
fn unknown_hosts_and_foreign_networks_are_not_heard() {
    let mut net = net();
    let question = udp(WEB1, DB1, 4000, 53);
    let nobody = "203.0.113.9".parse().unwrap();
    assert_eq!(net.inject("beta", nobody, 0, &vxlan(VNI, &question)), "unknown-vtep at beta");
    let own = net.vtep("beta");
    assert_eq!(net.inject("beta", own, 0, &vxlan(VNI, &question)), "unknown-vtep at beta");
    assert_eq!(
        net.encap_to("beta", "delta", VNI, &question),
        "unknown-vtep at beta",
        "a VTEP, but not of this network"
    );
    assert_eq!(net.encap_to("beta", "alpha", 6000, &question), "unknown-vni at beta");
    assert_eq!(net.encap_to("beta", "alpha", 0xff_ffff, &question), "unknown-vni at beta");
    let unknown = from(question, [2, 0, 0, 0, 9, 9]);
    assert_eq!(net.encap_to("beta", "alpha", VNI, unknown), "unknown-endpoint at beta");
}

#[test]
fn the_i_flag_is_needed_and_reserved_bits_are_ignored_unless_strict() {
    let mut net = net();
    let good = vxlan(VNI, &udp(WEB1, DB1, 4000, 53));
    let alpha = net.vtep("alpha");
    let mut clear = good.clone();
    clear[0] = 0xf7;
    assert_eq!(net.inject("beta", alpha, 0, &clear), "vxlan-flags at beta");
    let mut reserved = good.clone();
    (reserved[0], reserved[1], reserved[7]) = (0xff, 0xff, 0xff);
    assert_eq!(net.inject("beta", alpha, 0, &reserved), "acme/db1");
    let mut strict = Net::new(&scene("strict_reserved = true"));
    assert_eq!(strict.inject("beta", alpha, 0, &reserved), "vxlan-reserved at beta");
    assert_eq!(strict.inject("beta", alpha, 0, &good), "db1");
}

#[test]
fn a_datagram_cut_at_any_byte_is_dropped_and_counted() {
    let mut net = net();
    let alpha = net.vtep("alpha");
    let frames = [
        Talk { a: WEB1, b: DB1, sport: 1, dport: 5432 }.syn(),
        udp6(WEB1, DB1, 4000, 53),
        arp(1, mac(DB1), WEB1, [0; 6], v4(DB1)),
        solicit(WEB1, DB1),
        icmp_error(WEB1, DB1, 3, 4, &udp(DB1, WEB1, 1, 2)),
    ];
    for frame in frames {
        let datagram = vxlan(VNI, &frame);
        for len in 0..datagram.len() {
            let fate = net.inject("beta", alpha, 0, &datagram[..len]);
            assert!(
                fate.deliveries.is_empty() && fate.datagrams.is_empty(),
                "{len} bytes of {datagram:02x?}: {fate}"
            );
            assert_eq!(fate.drops.len(), 1, "{len} bytes");
        }
    }
}

#[test]
fn no_tenant_reaches_the_underlay() {
    let mut net = net();
    let vtep = ip4(WEB1, DB1, |ip| ip.destination = [172, 31, 0, 2]);
    assert_eq!(
        net.send("web1", udp_of(vtep, 4000, 4789, &vxlan(VNI, &udp(WEB1, DB1, 1, 2)))),
        "reserved-destination at alpha"
    );
}

#[test]
fn endpoints_that_the_operator_names_reach_it_by_their_rules_and_send_it_no_vxlan() {
    const NAMED: &str = "underlay_access = [\"acme/web1\"]\n";
    let text = scene("")
        .replace("[tenant.acme.endpoint.db1]\n", "[tenant.acme.endpoint.db1]\nroutes = [\"172.31.0.2\"]\n");
    let to_vtep = |from, port| {
        let packet = ip4(from, DB1, |ip| ip.destination = [172, 31, 0, 2]);
        udp_of(packet, 4000, port, b"hello")
    };
    let load = |text: &str| eastgate_config::load_str("t", text).unwrap();
    let mut net = Net::new(&text);
    assert_eq!(net.send("web1", to_vtep(WEB1, 53)), "reserved-destination at alpha");
    net.install(&load(&(NAMED.to_owned() + &text)));
    assert_eq!(net.send("web1", to_vtep(WEB1, 53)), "db1");
    assert_eq!(net.send("web1", to_vtep(WEB1, 54)), "egress-denied at alpha");
    assert_eq!(net.send("web1", to_vtep(WEB1, 4789)), "vxlan-in-vxlan at alpha");
    assert_eq!(net.send("web2", to_vtep(WEB2, 53)), "reserved-destination at beta");
    // Taken off the list, with a flow that lives.
    net.install(&load(&text));
    assert_eq!(net.send("web1", to_vtep(WEB1, 53)), "reserved-destination at alpha");
}

#[test]
fn a_sender_with_the_appliances_mac_is_nobody() {
    let mut net = Net::new(&scene("neighbors = \"proxy\""));
    let proxy = net.snapshot("alpha").networks()[0].proxy_mac.0;
    let question = from(udp(WEB1, DB1, 4000, 53), proxy);
    assert_eq!(net.send("web1", &question), "bad-source-mac at alpha");
    assert_eq!(net.encap_to("beta", "alpha", VNI, &question), "bad-source-mac at beta");
}
