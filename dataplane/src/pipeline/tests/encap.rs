//! An allowed packet leaves as it came in; what the outer header says of it; tags, ECN and MSS.

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::{
    frames::*,
    net::{Fate, Net, vxlan},
    scene::*,
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn allowed_packets_leave_as_they_came(
        ttl in 1u8..,
        id: u16,
        tos in (0u8..64, 0u8..3),
        dont_fragment: bool,
        options in prop::sample::select(vec![vec![], vec![148, 4, 0, 0], vec![1, 1, 1, 1, 68, 8, 5, 0, 0, 0, 0, 9]]),
        payload in prop::collection::vec(any::<u8>(), 0..200),
        padding in 0usize..20,
        proxy: bool,
    ) {
        let mut net = Net::new(&scene(if proxy { "neighbors = \"proxy\"" } else { "" }));
        let appliance = net.snapshot("alpha").networks()[0].proxy_mac.0;
        for (receiver, station) in [("db1", DB1), ("db2", DB2)] {
            let ip = ip4(WEB1, station, |ip| {
                (ip.time_to_live, ip.identification, ip.dont_fragment) = (ttl, id, dont_fragment);
                (ip.dscp, ip.ecn) = (tos.0.try_into().unwrap(), tos.1.try_into().unwrap());
                ip.options = options.as_slice().try_into().unwrap();
            });
            let mut frame = udp_of(ip, 4000, 53, &payload);
            frame.resize(frame.len() + padding, 0);
            let sent = if proxy { to(frame.clone(), appliance) } else { frame.clone() };
            let expected = if proxy { from(frame, appliance) } else { frame };
            let fate = net.send("web1", sent);
            prop_assert_eq!(fate.at(receiver), expected);
        }
    }
}

fn ecn_capable(tos: u8) -> Vec<u8> {
    udp_of(
        ip4(WEB1, DB1, |ip| {
            (ip.dscp, ip.ecn) = ((tos >> 2).try_into().unwrap(), (tos & 3).try_into().unwrap())
        }),
        4000,
        53,
        b"x",
    )
}

#[test]
fn congestion_on_the_underlay_reaches_the_packet_or_loses_it() {
    let mut net = Net::new(&scene(""));
    let alpha = net.vtep("alpha");
    let marked = net.inject("beta", alpha, 3, &vxlan(VNI, &ecn_capable(0b10)));
    assert_eq!(marked.at("db1"), ecn_capable(0b11), "checksum and all");
    let kept = net.inject("beta", alpha, 0, &vxlan(VNI, &ecn_capable(0b11)));
    assert_eq!(kept.at("db1"), ecn_capable(0b11));
    assert_eq!(net.inject("beta", alpha, 3, &vxlan(VNI, &ecn_capable(0))), "outer-ecn at beta");
    assert_eq!(net.inject("beta", alpha, 3, &vxlan(VNI, &arp(1, mac(DB1), WEB1, [0; 6], v4(DB1)))), "db1");
}

#[test]
fn the_outer_header_has_a_fixed_ttl_and_tos_or_inherits_them() {
    let frame = udp_of(
        ip4(WEB1, DB1, |ip| {
            (ip.dscp, ip.ecn, ip.time_to_live) = (46.try_into().unwrap(), 2.try_into().unwrap(), 17)
        }),
        4000,
        53,
        b"x",
    );
    let outer = |overlay: &str| {
        let fate = Net::new(&[overlay, &scene("")].concat()).send("web1", &frame);
        assert_eq!(fate, "db1");
        (fate.datagrams[0].tos, fate.datagrams[0].ttl)
    };
    assert_eq!(outer(""), (2, None), "the DSCP is hidden, the ECN field never");
    assert_eq!(outer("[overlay]\ntos = 32\n"), (34, None));
    assert_eq!(outer("[overlay]\ntos = \"inherit\"\nttl = \"inherit\"\n"), (46 << 2 | 2, Some(17)));
}

#[test]
fn a_flow_keeps_its_source_port_and_many_flows_spread() {
    let mut net = Net::new(&scene(""));
    let mut port = |sport| {
        let fate = net.send("web1", udp(WEB1, DB1, sport, 53));
        let alpha = net.vtep("alpha");
        assert_eq!((fate.datagrams[0].from, fate.datagrams[0].to), (alpha, net.vtep("beta")));
        fate.datagrams[0].source
    };
    let first: Vec<u16> = (1000..1200).map(&mut port).collect();
    let second: Vec<u16> = (1000..1200).map(&mut port).collect();
    assert_eq!(first, second);
    let distinct: std::collections::BTreeSet<u16> = first.into_iter().collect();
    assert!(distinct.len() > 80, "200 flows in 256 buckets fill about 138: {}", distinct.len());
}

#[test]
fn a_tag_stays_outside_unless_the_network_is_vlan_aware_and_then_travels() {
    let frame = tagged(&udp(WEB1, DB1, 4000, 53), 100);
    let mut net = Net::new(&scene(""));
    assert_eq!(net.send("web1", &frame), "vlan-tagged at alpha");
    assert_eq!(net.encap_to("beta", "alpha", VNI, &frame), "inner-vlan at beta");
    let mut net = Net::new(&scene("vlan_aware = true"));
    assert_eq!(net.send("web1", &frame).at("db1"), frame);
    assert_eq!(net.send("web1", tagged(&frame, 200)), "vlan-tagged at alpha");
    let denied = tagged(&udp(WEB1, DB1, 4000, 54), 100);
    assert_eq!(net.send("web1", denied), "egress-denied at alpha", "behind the tag too");
}

/// As the trunk of a port that names its VLANs: on both ends, for one receiver or many, and for ARP.
#[test]
fn tags_are_of_vlans_that_both_ends_have() {
    let text = |keys: &str| {
        let text = scene(&format!("vlan_aware = true\nguest_vlans = [5, \"100-199\"]\n{keys}"));
        let of = |text: String, name: &str, vlans: &str| {
            let table = format!("[tenant.acme.endpoint.{name}]\n");
            text.replace(&table, &format!("{table}guest_vlans = {vlans}\n"))
        };
        of(of(text, "db1", "[100]"), "db2", "[]")
    };
    let mut net = Net::new(&text(""));
    let datagram = |station| udp(WEB1, station, 4000, 53);
    for (station, name, vlan, fate) in [
        (DB1, "db1", 100, "db1"),
        (DB1, "db1", 0, "db1"),
        (DB1, "db1", 5, "vlan-tagged at alpha"),
        (DB1, "db1", 200, "vlan-tagged at alpha"),
        (DB2, "db2", 100, "vlan-tagged at alpha"),
        (DB2, "db2", 0, "db2"),
        (DB3, "db3", 5, "db3"),
        (DB3, "db3", 199, "db3"),
        (DB3, "db3", 99, "vlan-tagged at alpha"),
        (DB3, "db3", 4095, "vlan-tagged at alpha"),
    ] {
        let frame = tagged(&datagram(station), 3 << 13 | vlan);
        let sent = net.send("web1", &frame);
        assert_eq!(sent, fate, "VLAN {vlan} to {name}");
        assert!(!sent.reached(name) || sent.at(name) == frame, "as it was");
    }
    assert_eq!(net.send("web1", datagram(DB2)), "db2", "the flow is of the addresses, whatever the tag");
    assert_eq!(
        net.send("web1", tagged(&datagram(DB1), 5)),
        "vlan-tagged at alpha",
        "each packet is asked for its tag"
    );
    assert_eq!(
        net.send("db1", tagged(&udp(DB1, WEB1, 53, 4000), 5)),
        "vlan-tagged at beta",
        "and who answers"
    );
    assert_eq!(net.encap_to("beta", "alpha", VNI, tagged(&datagram(DB1), 5)), "vlan-tagged at beta");
    assert_eq!(net.encap_to("beta", "alpha", VNI, tagged(&datagram(DB1), 100)), "db1");
    assert_eq!(net.send("web1", tagged(&udp(WEB3, DB1, 4000, 53), 100)), "mac-spoofed at alpha");
    assert_eq!(net.send("web1", tagged(&udp(WEB1, DB1, 4000, 54), 100)), "egress-denied at alpha");

    let mut net = Net::new(&text("multicast = \"flood\"\nneighbors = \"off\""));
    let receivers = |fate: &Fate| -> Vec<String> {
        let mut names: Vec<String> = fate.deliveries.iter().map(|delivery| delivery.to.clone()).collect();
        names.sort();
        names
    };
    let broadcast = to(datagram(DB1), [0xff; 6]);
    assert_eq!(receivers(&net.send("web1", &broadcast)), ["db1", "db2", "db3"]);
    assert_eq!(receivers(&net.send("web1", tagged(&broadcast, 100))), ["db1", "db3"]);
    assert_eq!(receivers(&net.send("web1", tagged(&broadcast, 5))), ["db3"]);
    let question = arp(1, [0xff; 6], WEB1, [0; 6], v4(DB2));
    assert_eq!(receivers(&net.send("web1", &question)), ["db1", "db2", "db3", "web2", "web3"]);
    assert_eq!(receivers(&net.send("web1", tagged(&question, 5))), ["db3", "web2", "web3"]);
    assert_eq!(net.send("web1", tagged(&question, 200)), "vlan-tagged at alpha");
}

/// VID 0 is no VLAN but a priority (IEEE 802.1Q section 6.9).
#[test]
fn a_priority_tagged_frame_is_carried_as_untagged_and_checked_as_such() {
    let frame = udp(WEB1, DB1, 4000, 53);
    let urgent = tagged(&frame, 7 << 13);
    let mut net = Net::new(&scene(""));
    assert_eq!(net.send("web1", &urgent).at("db1"), frame);
    assert_eq!(net.send("web1", tagged(&urgent, 3 << 13)).at("db1"), frame);
    assert_eq!(net.encap_to("beta", "alpha", VNI, &urgent).at("db1"), frame);
    assert_eq!(net.send("web1", tagged(&tagged(&frame, 100), 0)), "vlan-tagged at alpha");
    assert_eq!(net.send("web1", tagged(&urgent, 100)), "vlan-tagged at alpha");
    assert_eq!(net.send("web1", tagged(&udp(WEB3, DB1, 4000, 53), 0)), "mac-spoofed at alpha");
    assert_eq!(net.send("web1", tagged(&udp(WEB1, DB1, 4000, 54), 0)), "egress-denied at alpha");
    let mut net = Net::new(&scene("vlan_aware = true"));
    assert_eq!(net.send("web1", &urgent).at("db1"), urgent, "where tags travel, so do priorities");
}

fn mss(frame: &[u8]) -> u16 {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = packet.transport else { panic!("TCP") };
    let option = tcp.options_iterator().find_map(|option| match option.unwrap() {
        etherparse::TcpOptionElement::MaximumSegmentSize(mss) => Some(mss),
        _ => None,
    });
    option.unwrap()
}

#[test]
fn the_mss_of_syns_is_lowered_to_what_fits_and_never_raised() {
    let talk = Talk { a: WEB1, b: DB1, sport: 40000, dport: 5432 };
    let mut net = Net::new(&scene("mss_clamp = true"));
    let syn = net.send("web1", talk.syn());
    assert_eq!(mss(syn.at("db1")), 1410);
    assert!(checksums_are_right(syn.at("db1")));
    assert_eq!(mss(net.send("db1", talk.syn_ack()).at("web1")), 1410);
    let small = Talk { sport: 40001, ..talk }.syn_with_mss(500);
    assert_eq!(net.send("web1", &small).at("db1"), small);
    let mut six = Vec::new();
    let tcp =
        PacketBuilder::ethernet2(mac(WEB1), mac(DB1)).ipv6(v6(WEB1), v6(DB1), 64).tcp(1, 5432, 1, 65535);
    tcp.syn()
        .options(&[etherparse::TcpOptionElement::MaximumSegmentSize(1440)])
        .unwrap()
        .write(&mut six, &[])
        .unwrap();
    assert_eq!(mss(net.send("web1", six).at("db1")), 1390);
    let mut net = Net::new(&scene("mtu = 1400\nmss_clamp = true"));
    assert_eq!(
        mss(net.send("web1", talk.syn()).at("db1")),
        1360,
        "the configured MTU counts where it is less"
    );
    let mut net = Net::new(&scene(""));
    assert_eq!(net.send("web1", talk.syn()).at("db1"), talk.syn(), "and without the clamp nothing happens");
}

#[test]
fn a_checksum_that_was_left_open_is_right_wherever_the_packet_goes() {
    let whole = udp(WEB1, DB1, 4000, 53);
    let (open, offload) = left_open(whole.clone());
    assert_ne!(open, whole);
    let mut net = Net::new(&scene("multicast = \"flood\""));
    assert_eq!(net.send_offloaded("web1", &open, offload).at("db1"), whole);
    let here = udp(WEB1, DB2, 4000, 53);
    let (open, offload) = left_open(here.clone());
    assert_eq!(net.send_offloaded("web1", open, offload).at("db2"), here);
    let many =
        to(udp_of(ip4(WEB1, DB1, |ip| ip.destination = [239, 1, 1, 1]), 4000, 9000, b"hello"), BROADCAST);
    let (open, offload) = left_open(many.clone());
    let fate = net.send_offloaded("web1", open, offload);
    assert_eq!(fate, "db1, db2, db3");
    for delivery in &fate.deliveries {
        assert_eq!(delivery.frame, many, "at {}", delivery.to);
    }
}

/// A frame of another protocol than IP and ARP, with the bridge group address `last` or a MAC as its destination.
fn other(dst: [u8; 6], from: u8, ethertype: u16) -> Vec<u8> {
    [&dst[..], &mac(from), &ethertype.to_be_bytes(), b"hello, neighbor"].concat()
}

#[test]
fn what_both_ends_may_speak_beside_ip_goes_between_them_and_nowhere_else() {
    const LLDP: [u8; 6] = [1, 0x80, 0xc2, 0, 0, 0x0e];
    const EXPERIMENT: u16 = 0x88b5;
    let speaks = "ethertypes = [\"lldp\", \"stp\", 0x88b5]\n";
    let text = ["web1", "db1", "db2"].iter().fold(scene(""), |text, name| {
        let table = format!("[tenant.acme.endpoint.{name}]\n");
        text.replace(&table, &format!("{table}{speaks}"))
    });
    let mut net = Net::new(&text);
    let lldp = other(LLDP, WEB1, 0x88cc);
    let fate = net.send("web1", &lldp);
    assert_eq!((fate.at("db1"), fate.at("db2")), (&*lldp, &*lldp), "on another host, and on its own");
    assert!(!["web2", "web3", "db3"].iter().any(|name| fate.reached(name)), "{fate:?}");
    let single = other(mac(DB1), WEB1, EXPERIMENT);
    assert_eq!(net.send("web1", &single).at("db1"), single);
    assert_eq!(net.send("web1", other(mac(WEB3), WEB1, EXPERIMENT)), "ethertype-refused at alpha");
    assert_eq!(net.send("web1", other(mac(DB3), WEB1, EXPERIMENT)), "ethertype-refused at alpha");
    assert_eq!(net.send("web3", other(mac(DB1), WEB3, EXPERIMENT)), "ethertype-refused at alpha");
    assert_eq!(net.send("web3", other(LLDP, WEB3, 0x88cc)), "link-protocol at alpha");
    assert_eq!(net.send("web1", other(mac(DB1), WEB3, EXPERIMENT)), "mac-spoofed at alpha");
    let bpdu = [&[1, 0x80, 0xc2, 0, 0, 0][..], &mac(WEB1), &[0, 38, 0x42, 0x42, 3], &[0; 35]].concat();
    assert_eq!(net.send("web1", &bpdu).at("db1"), bpdu);
    assert_eq!(net.encap_to("beta", "alpha", VNI, &single).at("db1"), single);
    let unasked = other(mac(WEB2), WEB1, EXPERIMENT);
    assert_eq!(net.encap_to("beta", "alpha", VNI, unasked), "ethertype-refused at beta");
    // Of a network it is of all its endpoints.
    let mut net = Net::new(&scene(speaks));
    let fate = net.send("web1", &lldp);
    assert!(["db1", "db2", "web2", "web3", "db3"].iter().all(|name| fate.reached(name)), "{fate:?}");
}
