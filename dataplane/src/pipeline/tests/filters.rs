//! Filters by libvirt's names, with frames: what they drop is dropped, and what they accept passes where no group says otherwise.

use etherparse::PacketBuilder;

use super::{
    frames::*,
    net::{Net, vxlan},
    scene::*,
};

/// Everything passes at everyone but web1, which has these filters and groups.
fn net(network: &str, filters: &str, groups: &str) -> Net {
    let open = "[tenant.acme.group.web]\ningress = [{ from = \"any\" }]\negress = [{ to = \"any\" }]\n\
                [tenant.acme.group.db]\ningress = [{ from = \"any\" }]\negress = [{ to = \"any\" }]\n\
                [tenant.acme.group.dns]\negress = [{ proto = \"udp\", ports = 53, to = \"any\" }]\n";
    let text = scene_with(network, open);
    let web1 = text.find("[tenant.acme.endpoint.web1]").unwrap();
    let (before, table) = text.split_at(web1);
    let table = table.replacen("groups = [\"web\"]", &format!("groups = {groups}\nfilters = {filters}"), 1);
    Net::new(&format!("{before}{table}"))
}

fn udp6(from: u8, to: u8) -> Vec<u8> {
    let mut frame = Vec::new();
    let packet = PacketBuilder::ethernet2(mac(from), mac(to)).ipv6(v6(from), v6(to), 64).udp(4000, 53);
    packet.write(&mut frame, b"six").unwrap();
    frame
}

/// A datagram to a multicast group, as a sender makes it.
fn to_group(v6_group: bool) -> Vec<u8> {
    let mut frame = Vec::new();
    if v6_group {
        let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xfb];
        let packet = PacketBuilder::ethernet2(mac(WEB1), [0x33, 0x33, 0, 0, 0, 0xfb]);
        packet.ipv6(v6(WEB1), group, 1).udp(5353, 5353).write(&mut frame, b"m").unwrap();
    } else {
        let packet = PacketBuilder::ethernet2(mac(WEB1), [1, 0, 0x5e, 0, 0, 0xfb]);
        packet.ipv4(v4(WEB1), [224, 0, 0, 251], 1).udp(5353, 5353).write(&mut frame, b"m").unwrap();
    }
    frame
}

#[test]
fn clean_traffic_is_ipv4_of_its_own_and_nothing_else() {
    let mut net = net("", "[\"clean-traffic\"]", "[]");
    assert_eq!(net.send("web1", udp(WEB1, DB1, 4000, 53)), "db1");
    assert_eq!(net.send("db1", udp(DB1, WEB1, 4000, 9)), "web1", "whatever comes in");
    assert_eq!(net.send("web1", udp6(WEB1, DB1)), "egress-rule at alpha");
    assert_eq!(net.send("db1", udp6(DB1, WEB1)), "ingress-rule at alpha");
    assert_eq!(net.send("web1", from(udp(WEB1, DB1, 4000, 53), mac(WEB3))), "mac-spoofed at alpha");
    assert_eq!(net.send("web1", from(udp(WEB3, DB1, 4000, 53), mac(WEB1))), "ip-spoofed at alpha");
    let other = [&mac(DB1)[..], &mac(WEB1), &[0x88, 0xb5], &[0; 46]].concat();
    assert_eq!(net.send("web1", &other), "ethertype-refused at alpha");
    assert_eq!(net.send("web1", tagged(&udp(WEB1, DB1, 4000, 53), 100)), "vlan-tagged at alpha");
    let beta = net.vtep("beta");
    assert_eq!(net.inject("alpha", beta, 0, &vxlan(VNI, &udp6(DB1, WEB1))), "ingress-rule at alpha");
}

#[test]
fn groups_say_what_of_it_passes() {
    let mut net = net("", "[\"clean-traffic\"]", "[\"dns\"]");
    assert_eq!(net.send("web1", udp(WEB1, DB1, 4000, 53)), "db1");
    assert_eq!(net.send("web1", udp(WEB1, DB1, 4000, 54)), "egress-denied at alpha");
    assert_eq!(net.send("db1", udp(DB1, WEB1, 4000, 9)), "ingress-denied at alpha");
    assert_eq!(net.send("web1", udp6(WEB1, DB1)), "egress-rule at alpha", "which its group would let out");
}

#[test]
fn what_no_filter_accepts_does_not_pass_and_each_family_is_one() {
    for (filters, passes) in [
        ("[\"no-other-l2-traffic\"]", [false, false]),
        ("[\"no-other-l2-traffic\", \"allow-ipv4\"]", [true, false]),
        ("[\"allow-ipv6\", \"no-other-l2-traffic\"]", [false, true]),
        ("[\"allow-ipv6\", \"clean-traffic\"]", [true, true]),
        ("[\"no-mac-spoofing\", \"no-arp-spoofing\", \"qemu-announce-self\", \"allow-arp\"]", [true, true]),
        ("[]", [true, true]),
    ] {
        let mut net = net("", filters, "[\"web\"]");
        for (frame, passes) in [udp(WEB1, DB1, 4000, 53), udp6(WEB1, DB1)].into_iter().zip(passes) {
            let fate = net.send("web1", frame);
            assert_eq!(fate, if passes { "db1" } else { "egress-rule at alpha" }, "{filters}");
        }
    }
    // Those that accept do so only where no group says what passes.
    let mut alone = net("", "[\"allow-incoming-ipv4\"]", "[]");
    assert_eq!(alone.send("db1", udp(DB1, WEB1, 4000, 9)), "web1");
    assert_eq!(alone.send("web1", udp(WEB1, DB1, 9, 4000)), "db1", "the answer");
    assert_eq!(alone.send("web1", udp(WEB1, DB1, 9, 4001)), "egress-denied at alpha");
}

#[test]
fn multicast_that_the_network_floods_is_denied_by_family() {
    let flood = "multicast = \"flood\"";
    for (filters, passes) in [
        ("[\"no-ip-multicast\"]", [false, true]),
        ("[\"no-ipv6-multicast\"]", [true, false]),
        ("[\"no-ipv6-multicast\", \"no-ip-multicast\"]", [false, false]),
        ("[]", [true, true]),
    ] {
        let mut net = net(flood, filters, "[\"web\"]");
        for (frame, passes) in [to_group(false), to_group(true)].into_iter().zip(passes) {
            let fate = net.send("web1", frame);
            assert_eq!(fate.deliveries.len(), if passes { 5 } else { 0 }, "{filters}: {fate}");
            assert!(passes || fate == "egress-rule at alpha", "{fate}");
        }
    }
}

/// A network's filters are those of its endpoints that say nothing themselves.
#[test]
fn a_network_gives_filters_to_its_endpoints() {
    let keys = "filters = [\"no-other-l2-traffic\", \"allow-ipv4\"]";
    let text = scene_with(
        keys,
        "[tenant.acme.group.web]\negress = [{ to = \"any\" }]\n[tenant.acme.group.db]\ningress = [{ from = \"any\" }]\n",
    );
    let table = "[tenant.acme.endpoint.db1]\n";
    let mut net = Net::new(&text);
    assert_eq!(net.send("web1", udp6(WEB1, DB1)), "egress-rule at alpha");
    let own = text.replace(table, &format!("{table}filters = []\n"));
    let web1 = "[tenant.acme.endpoint.web1]\n";
    let mut net = Net::new(&own.replace(web1, &format!("{web1}filters = []\n")));
    assert_eq!(net.send("web1", udp6(WEB1, DB1)), "db1");
    assert_eq!(net.send("web1", udp6(WEB1, DB2)), "ingress-rule at alpha");
}
