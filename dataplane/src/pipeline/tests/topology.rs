//! Split horizon in a mesh; a hub that relays after policy; plain VTEPs, whose endpoints nobody else has checked.

use super::{frames::*, net::Net, scene::*};

#[test]
fn in_a_mesh_nothing_from_the_overlay_goes_back_to_it() {
    let mut net = Net::new(&scene("multicast = \"flood\"\nunknown_destinations = \"flood\""));
    assert_eq!(net.encap_to("beta", "alpha", VNI, udp(WEB1, DB3, 4000, 53)), "split-horizon at beta");
    for many in [BROADCAST, [2, 0, 0, 0, 9, 9]] {
        let fate = net.encap_to("beta", "alpha", VNI, to(udp(WEB1, DB1, 4000, 53), many));
        assert_eq!(fate, "db1");
        assert!(fate.datagrams.is_empty());
    }
    assert_eq!(net.encap_to("beta", "alpha", VNI, who_has(WEB1, DB3)), "nobody", "its own host answers");
    let fate = net.send("web1", to(udp(WEB1, DB1, 4000, 53), BROADCAST));
    assert_eq!(fate, "db1, db2, db3");
    assert_eq!(fate.datagrams.len(), 2, "one copy to each VTEP");
}

/// A hub that runs eastgate and has an endpoint of its own, two spokes that run a plain VTEP.
fn hub(network: &str) -> Net {
    let hosts = r#"
[host.hub]
vtep = "172.31.0.1"
device = "eth0"
[host.spoke1]
vtep = "172.31.0.11"
device = "eth0"
runs = "vxlan"
[host.spoke2]
vtep = "172.31.0.12"
device = "eth0"
runs = "vxlan"
"#;
    let text = [
        hosts,
        &app_network("acme", VNI, &format!("topology = \"hub\"\nhub = \"hub\"\n{network}")),
        GROUPS,
        &endpoint("acme", "web1", "spoke1", WEB1, "web", ""),
        &endpoint("acme", "web2", "spoke2", WEB2, "web", ""),
        &endpoint("acme", "db1", "spoke2", DB1, "db", ""),
        &endpoint("acme", "db2", "hub", DB2, "db", ""),
    ];
    Net::new(&text.concat())
}

#[test]
fn a_hub_relays_after_policy_also_to_the_spoke_a_frame_came_from() {
    let mut net = hub("");
    assert_eq!(net.encap_to("hub", "spoke1", VNI, udp(WEB1, DB1, 4000, 53)), "spoke2");
    let back = net.encap_to("hub", "spoke2", VNI, udp(WEB2, DB1, 4000, 53));
    assert_eq!(back, "spoke2");
    assert_eq!(back.at("spoke2"), udp(WEB2, DB1, 4000, 53));
    assert_eq!(net.encap_to("hub", "spoke2", VNI, udp(DB1, WEB2, 53, 4000)), "spoke2", "its answer");
    assert_eq!(net.encap_to("hub", "spoke2", VNI, udp(DB1, WEB2, 53, 4001)), "egress-denied at hub");
    assert_eq!(net.encap_to("hub", "spoke1", VNI, udp(WEB1, DB1, 4000, 54)), "egress-denied at hub");
    assert_eq!(net.encap_to("hub", "spoke1", VNI, udp(WEB1, WEB2, 4000, 53)), "ingress-denied at hub");
    assert_eq!(net.encap_to("hub", "spoke1", VNI, udp(WEB1, DB2, 4000, 53)), "db2");
    assert_eq!(net.send("db2", udp(DB2, WEB1, 53, 4000)), "spoke1");
}

#[test]
fn what_a_hub_floods_never_returns_to_where_it_came_from() {
    let mut net = hub("multicast = \"flood\"\nneighbors = \"off\"");
    let many = to(udp(WEB1, DB1, 4000, 53), BROADCAST);
    assert_eq!(net.encap_to("hub", "spoke1", VNI, &many), "db2, spoke2");
    assert_eq!(net.encap_to("hub", "spoke2", VNI, who_has(WEB2, WEB1)), "db2, spoke1");
    assert_eq!(net.send("db2", who_has(DB2, WEB1)), "spoke1, spoke2");
}

#[test]
fn what_a_plain_vtep_sends_is_admitted_here() {
    let mut net = hub("");
    let spoofed = from(udp(WEB2, DB1, 4000, 53), mac(WEB1));
    assert_eq!(net.encap_to("hub", "spoke1", VNI, spoofed), "ip-spoofed at hub");
    assert_eq!(net.encap_to("hub", "spoke1", VNI, udp(WEB2, DB1, 4000, 53)), "mac-spoofed at hub");
    let odd = [&mac(DB1)[..], &mac(WEB1), &[0x88, 0x47], &[0; 46]].concat();
    assert_eq!(net.encap_to("hub", "spoke1", VNI, odd), "ethertype-refused at hub");
}

#[test]
fn a_hub_answers_for_one_spoke_to_another() {
    let mut net = hub("neighbors = \"proxy\"");
    let proxy = net.snapshot("hub").networks()[0].proxy_mac.0;
    let answer = net.encap_to("hub", "spoke2", VNI, who_has(WEB2, DB1));
    assert_eq!(arp_says(answer.at("spoke2")), (2, proxy, v4(DB1)), "within one spoke too");
    let relayed = net.encap_to("hub", "spoke2", VNI, to(udp(WEB2, DB1, 4000, 53), proxy));
    assert_eq!(relayed.at("spoke2"), from(udp(WEB2, DB1, 4000, 53), proxy));
}

#[test]
fn in_a_mesh_with_a_plain_vtep_both_sides_rules_are_applied_here() {
    let text = scene("")
        .replace("device = \"eth0\"\n[host.gamma]", "device = \"eth0\"\nruns = \"vxlan\"\n[host.gamma]");
    let mut net = Net::new(&text);
    assert_eq!(net.send("web1", udp(WEB1, WEB2, 4000, 53)), "ingress-denied at alpha");
    assert_eq!(net.send("web1", udp(WEB1, DB1, 4000, 53)), "beta");
    assert_eq!(net.encap_to("alpha", "beta", VNI, udp(DB1, WEB1, 53, 4000)), "web1");
    assert_eq!(net.encap_to("alpha", "beta", VNI, udp(DB1, WEB1, 53, 4001)), "egress-denied at alpha");
    assert_eq!(net.encap_to("alpha", "beta", VNI, udp(WEB2, DB2, 1, 22)), "egress-denied at alpha");
    assert_eq!(net.encap_to("alpha", "beta", VNI, udp(WEB2, DB2, 1, 53)), "db2");
}
