//! A trunk: machines on a switch, each in a VLAN of its own, and eastgate on the trunk with all of them between any two. It is the kernel that
//! puts tags on and takes them off at the switch, and tcpdump that says which ones there are.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{fmt::Write as _, net::IpAddr, path::PathBuf};

use common::{
    Capture, Daemon, Machine, Sink, Space, Stream, World, bulk, datagram_arrives, must,
    running::carried_in_the_kernel,
    seen_by_tcpdump, send_frame,
    site::{ALLOWED, DENIED, SOON, lan, tcp, udp},
    wait_for, wait_within,
};
use eastgate_testkit::{packet, vlan_switch};
use eastgate_wire::MacAddr;
use etherparse::{Ipv4Header, PacketBuilder};
use serde_json::Value;

const DATAPLANES: [&str; 2] = ["userspace", "ebpf"];

/// Who is where: number, host, trunk, and what `vlan` says. The same VLAN at another device or host is another endpoint's.
const MACHINES: [(u8, &str, &str, &str); 5] = [
    (0x11, "alpha", "trunk0", "101"),
    (0x12, "alpha", "trunk0", "102"),
    (0x13, "alpha", "trunk0", "\"untagged\""),
    (0x14, "alpha", "trunk1", "101"),
    (0x21, "beta", "trunk0", "101"),
];

const NETWORK: &str = "";

fn configuration(machines: &[(u8, &str, &str, &str)], network: &str) -> String {
    let mut text = lan(network);
    for (number, host, port, vlan) in machines {
        let vlan = if vlan.is_empty() { String::new() } else { format!("vlan = {vlan}\n") };
        writeln!(
            text,
            "[tenant.acme.endpoint.vm{number:x}]\nnetwork = \"lan\"\nhost = \"{host}\"\nport = \"{port}\"\n{vlan}\
             mac = \"{}\"\naddresses = [\"10.1.0.{number:x}\", \"fd00:1::{number:x}\"]\ngroups = [\"all\"]\n",
            mac(*number)
        )
        .unwrap();
    }
    text
}

fn mac(number: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, number])
}

fn v4(number: u8) -> IpAddr {
    format!("10.1.0.{number:x}").parse().unwrap()
}

fn v6(number: u8) -> IpAddr {
    format!("fd00:1::{number:x}").parse().unwrap()
}

/// Two hosts, switches at their trunks, and machines on the switches.
struct Site {
    world: World,
    alpha: Space,
    beta: Space,
    /// In front of alpha's trunk0
    switch: Space,
    machines: Vec<(u8, Space)>,
    config: PathBuf,
}

impl Site {
    fn new() -> Option<Self> {
        let mut world = World::new()?;
        let (alpha, beta) = (world.space("alpha"), world.space("beta"));
        world.cable((&alpha, "underlay0"), (&beta, "underlay0"), 1700);
        for (host, number) in [(&alpha, 1), (&beta, 2)] {
            host.ip(&format!("addr add 192.0.2.{number}/24 dev underlay0"));
        }
        let mut machines = Vec::new();
        let mut switches = Vec::new();
        for (host, trunk) in [(&alpha, "trunk0"), (&alpha, "trunk1"), (&beta, "trunk0")] {
            let switch =
                world.space(&format!("{}-{trunk}", if host.name() == alpha.name() { "a" } else { "b" }));
            world.cable((host, trunk), (&switch, "uplink"), 1500);
            let here = |it: &&(u8, &str, &str, &str)| {
                it.2 == trunk && (it.1 == "alpha") == (host.name() == alpha.name())
            };
            let mut ports = Vec::new();
            for (number, _, _, vlan) in MACHINES.iter().filter(here) {
                let machine = world.space(&format!("vm{number:x}"));
                let port = format!("port{number:x}");
                world.cable((&switch, &port), (&machine, "eth0"), 1500);
                machine.ip(&format!("link set eth0 address {}", mac(*number)));
                machine.ip(&format!("addr add 10.1.0.{number:x}/24 dev eth0"));
                machine.ip(&format!("addr add fd00:1::{number:x}/64 dev eth0 nodad"));
                ports.push((port, vlan.parse().ok()));
                machines.push((*number, machine));
            }
            let ports: Vec<(&str, Option<u16>)> =
                ports.iter().map(|(name, vlan)| (name.as_str(), *vlan)).collect();
            must(vlan_switch::join(switch.netns(), "uplink", &ports));
            switches.push(switch);
        }
        let config = world.write("eastgate.toml", &configuration(&MACHINES, NETWORK));
        Some(Self { world, alpha, beta, switch: switches.swap_remove(0), machines, config })
    }

    fn machine(&self, number: u8) -> &Space {
        &self.machines.iter().find(|(it, _)| *it == number).unwrap().1
    }

    fn run(&self, host: &str, dataplane: &str) -> Daemon {
        let space = if host == "alpha" { &self.alpha } else { &self.beta };
        Daemon::start(&self.world, space, &self.config, host, &["--dataplane", dataplane])
    }

    fn rewrite(&self, machines: &[(u8, &str, &str, &str)], network: &str) {
        std::fs::write(&self.config, configuration(machines, network)).unwrap();
    }
}

/// The rows of dropped frames for a reason, each with where they came from and what the last one was.
fn drops(daemon: &Daemon, reason: &str) -> Vec<(String, String, u64)> {
    let rows = daemon.ask(&["show", "drops", "--all"]);
    let of_reason = rows["drops"].as_array().unwrap().iter().filter(|row| row["reason"] == reason).cloned();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    of_reason.map(|row| (text(&row["from"]), text(&row["last"]), row["frames"].as_u64().unwrap())).collect()
}

fn dropped(daemon: &Daemon, reason: &str) -> u64 {
    drops(daemon, reason).iter().map(|(.., frames)| frames).sum()
}

#[test]
fn machines_of_a_trunk_reach_each_other_as_the_rules_say() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new() else { return };
        let before = Machine::of(&site.alpha);
        let (alpha, beta) = (site.run("alpha", dataplane), site.run("beta", dataplane));
        for (from, space) in &site.machines {
            for (to, _) in site.machines.iter().filter(|(to, _)| to != from) {
                assert!(space.ping(&v4(*to).to_string()), "{dataplane}: {from:x} to {to:x}");
                assert!(space.ping(&format!("-s 1400 {}", v6(*to))), "{dataplane}: {from:x} to {to:x}");
            }
        }
        let pairs = [(0x11, 0x12), (0x12, 0x13), (0x13, 0x11), (0x11, 0x14), (0x11, 0x21), (0x21, 0x12)];
        for (from, to) in pairs {
            let (number, other) = (decimal(from), decimal(to));
            let end = (site.machine(to), udp(other, ALLOWED));
            datagram_arrives((site.machine(from), udp(number, 4000)), end);
            let sink = Sink::start(site.machine(to), udp(other, DENIED));
            Stream::start(site.machine(from), udp(number, 4001), udp(other, DENIED)).send_more(30);
            assert_eq!(sink.count(), 0, "{dataplane}: {from:x} to {to:x}");
            bulk(site.machine(from), (site.machine(to), tcp(other, 5432)), 4 << 20);
        }
        let denied = |from: &str| {
            drops(&alpha, "ingress-denied").iter().any(|(at, last, _)| at == from && last.contains(":7001"))
        };
        for from in ["trunk0.101", "trunk0.102", "trunk0", "192.0.2.2"] {
            wait_for(&format!("{dataplane}: what is denied is counted for {from}"), || denied(from));
        }
        assert_eq!((dropped(&alpha, "unknown-vlan"), dropped(&beta, "unknown-vlan")), (0, 0));
        assert_eq!(carried_in_the_kernel(&alpha), dataplane == "ebpf");
        let shown = String::from_utf8(alpha.run(&["show", "endpoints"]).stdout).unwrap();
        assert!(shown.contains(" trunk0.102 ") && shown.contains(" trunk1.101 "), "{shown}");
        assert_eq!(alpha.port_state("trunk0.101"), "forwarding");
        assert_eq!(alpha.port_state("trunk0"), "forwarding");
        let trace = ["trace", "--vni", "5001", "udp", "10.1.0.11:4000", "10.1.0.12:7000"];
        let trace = String::from_utf8(alpha.run(&trace).stdout).unwrap();
        assert!(trace.contains("to VLAN 102 of port trunk0"), "{trace}");
        assert!(alpha.stop().success() && beta.stop().success());
        assert_eq!(before.changes(&Machine::of(&site.alpha)), Vec::<String>::new());
    }
}

/// The last byte of a machine's address
fn decimal(number: u8) -> u8 {
    format!("{number:x}").parse().unwrap()
}

/// What leaves has one tag, that of the receiver, and GSO packets stay whole; nothing else of a packet changes.
#[test]
fn packets_leave_as_they_came_but_for_the_tag() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new() else { return };
        let (alpha, _beta) = (site.run("alpha", dataplane), site.run("beta", dataplane));
        assert!(site.machine(0x11).ping("10.1.0.12"));
        let with_options = |number: u16| {
            let mut ip =
                Ipv4Header::new(0, 37, etherparse::IpNumber::UDP, [10, 1, 0, 11], [10, 1, 0, 12]).unwrap();
            ip.identification = number;
            (ip.dscp, ip.dont_fragment) = (46.try_into().unwrap(), false);
            if number.is_multiple_of(2) {
                ip.options = [1, 1, 1, 0][..].try_into().unwrap();
            }
            let mut frame = Vec::new();
            let builder = PacketBuilder::ethernet2(mac(0x11).0, mac(0x12).0);
            let builder = builder.ip(etherparse::IpHeaders::Ipv4(ip, Default::default()));
            builder.udp(4000, ALLOWED).write(&mut frame, &[number as u8; 30]).unwrap();
            frame
        };
        let frames: Vec<Vec<u8>> = (0..24).map(with_options).collect();
        let heard = Capture::start(site.machine(0x12), "eth0");
        let seen =
            seen_by_tcpdump(&site.world, (&site.switch, "uplink"), "vlan and udp port 7000", 48, || {
                for frame in &frames {
                    send_frame(site.machine(0x11), "eth0", frame);
                    wait_for("it arrives as it was", || !heard.matching(|it| it == frame).is_empty());
                }
            });
        let with =
            |vlan: &str| seen.lines().filter(|line| line.contains(&format!("vlan {vlan}, p 0,"))).count();
        assert_eq!((with("101"), with("102"), seen.lines().count()), (24, 24, 48), "{dataplane}: {seen}");
        drop(heard);
        // One GSO packet and more, both ways over the one device.
        for (from, to) in [(0x11, 0x12), (0x13, 0x12), (0x12, 0x13), (0x21, 0x12)] {
            let heard = Capture::start(site.machine(to), "eth0");
            bulk(site.machine(from), (site.machine(to), tcp(decimal(to), 5433)), 8 << 20);
            let whole = heard.matching(|frame| frame[6..12] == mac(from).0 && frame.len() > 3000);
            assert!(!whole.is_empty(), "{dataplane}: {from:x} to {to:x}: nothing arrives uncut");
        }
        assert_eq!(dropped(&alpha, "too-big"), 0);
    }
}

/// A network that carries tags of its own has them behind that of the trunk.
#[test]
fn tags_of_the_network_stand_behind_that_of_the_trunk() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new() else { return };
        let machines: Vec<_> = MACHINES.into_iter().filter(|it| it.3 != "\"untagged\"").collect();
        site.rewrite(&machines, "vlan_aware = true");
        let (alpha, _beta) = (site.run("alpha", dataplane), site.run("beta", dataplane));
        for to in [0x12, 0x21] {
            assert!(site.machine(0x11).ping(&v4(to).to_string()));
            let frame = tagged(&datagram(0x11, to, ALLOWED), &[(0x8100, 7)]);
            let seen = seen_by_tcpdump(&site.world, (site.machine(to), "eth0"), "vlan", 1, || {
                let heard = Capture::start(site.machine(to), "eth0");
                wait_for("it arrives", || {
                    send_frame(site.machine(0x11), "eth0", &frame);
                    !heard
                        .matching(|it| it.ends_with(b"through and through") && it[6..12] == mac(0x11).0)
                        .is_empty()
                });
            });
            assert!(seen.contains("vlan 7, p 0, ethertype IPv4"), "{dataplane}: to {to:x}: {seen}");
            assert!(
                !seen.contains("vlan 101") && !seen.contains("vlan 102"),
                "{dataplane}: to {to:x}: {seen}"
            );
        }
        assert_eq!(dropped(&alpha, "vlan-tagged"), 0);
        // That is the machine that is no endpoint here.
        let strays = drops(&alpha, "unknown-vlan");
        assert!(strays.iter().all(|(_, last, _)| last.starts_with("untagged")), "{strays:?}");
    }
}

fn datagram(from: u8, to: u8, port: u16) -> Vec<u8> {
    let packet = packet::udp((v4(from), 4100), (v4(to), port), b"through and through").unwrap();
    packet::ip_frame(mac(to), mac(from), &packet)
}

/// With these tags, the first one outermost.
fn tagged(frame: &[u8], tags: &[(u16, u16)]) -> Vec<u8> {
    let tags: Vec<u8> =
        tags.iter().flat_map(|(kind, tci)| [kind.to_be_bytes(), tci.to_be_bytes()].concat()).collect();
    [&frame[..12], &tags, &frame[12..]].concat()
}

/// What is tried to get past eastgate: from where, what, and for which reason it is dropped.
fn bypasses() -> Vec<(&'static str, &'static str, Vec<u8>, &'static str)> {
    let (own, other) = (mac(0x11), mac(0x12));
    let allowed = || datagram(0x11, 0x12, ALLOWED);
    let denied = || datagram(0x11, 0x12, DENIED);
    let denied_v6 = || {
        let packet = packet::udp((v6(0x11), 4100), (v6(0x12), DENIED), b"through and through").unwrap();
        packet::ip_frame(other, own, &packet)
    };
    let to = |to: [u8; 6], frame: Vec<u8>| [&to[..], &frame[6..]].concat();
    let spoofed =
        packet::ip_frame(other, own, &packet::udp((v4(0x13), 1), (v4(0x12), ALLOWED), b"x").unwrap());
    let c = 0x8100;
    vec![
        ("machine", "unicast to the peer's real MAC", denied(), "ingress-denied"),
        ("machine", "IPv6", denied_v6(), "ingress-denied"),
        ("machine", "multicast", to([1, 0, 0x5e, 1, 2, 3], denied()), "multicast-refused"),
        ("machine", "broadcast", to([0xff; 6], denied()), "multicast-refused"),
        (
            "machine",
            "non-IP",
            packet::ethernet(other, own, 0x88b6, b"through and through"),
            "ethertype-refused",
        ),
        ("machine", "another's address", spoofed, "ip-spoofed"),
        ("machine", "the peer's VLAN inside its own", tagged(&allowed(), &[(c, 102)]), "vlan-tagged"),
        ("machine", "a provider's tag inside its own", tagged(&allowed(), &[(0x88a8, 102)]), "vlan-tagged"),
        ("trunk", "the peer's VLAN", tagged(&allowed(), &[(c, 102)]), "mac-spoofed"),
        ("trunk", "a VLAN that nobody is in", tagged(&allowed(), &[(c, 300)]), "unknown-vlan"),
        ("trunk", "the VLAN that is reserved", tagged(&allowed(), &[(c, 4095)]), "unknown-vlan"),
        ("trunk", "a provider's tag", tagged(&allowed(), &[(0x88a8, 101)]), "unknown-vlan"),
        ("trunk", "a provider's priority", tagged(&allowed(), &[(0x88a8, 0)]), "unknown-vlan"),
        ("trunk", "two tags", tagged(&allowed(), &[(c, 101), (c, 102)]), "vlan-tagged"),
        ("trunk", "two tags, the other way round", tagged(&allowed(), &[(c, 102), (c, 101)]), "vlan-tagged"),
        ("trunk", "untagged", allowed(), "mac-spoofed"),
        ("trunk", "a priority alone", tagged(&allowed(), &[(c, 0xe000)]), "mac-spoofed"),
        (
            "trunk",
            "a priority, and a VLAN behind",
            tagged(&allowed(), &[(c, 0xe000), (c, 102)]),
            "vlan-tagged",
        ),
        (
            "trunk",
            "priorities, and a VLAN behind",
            tagged(&allowed(), &[(c, 0), (c, 0), (c, 102)]),
            "vlan-tagged",
        ),
    ]
}

#[test]
fn nothing_gets_round_it() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new() else { return };
        let (alpha, _beta) = (site.run("alpha", dataplane), site.run("beta", dataplane));
        // The peers know each other by their real MACs, and the flow that is allowed is carried.
        for (from, to) in [(0x11, 0x12), (0x12, 0x11)] {
            let neighbor = format!("neigh replace {} lladdr {} dev eth0", v4(to), mac(to));
            site.machine(from).ip(&neighbor);
        }
        assert!(site.machine(0x11).ping("10.1.0.12"));
        let hears: Vec<_> =
            site.machines.iter().map(|(number, it)| (*number, Capture::start(it, "eth0"))).collect();
        for (from, what, frame, reason) in bypasses() {
            let before = dropped(&alpha, reason);
            match from {
                "machine" => send_frame(site.machine(0x11), "eth0", &frame),
                _ => send_frame(&site.switch, "uplink", &frame),
            }
            wait_within(
                SOON,
                &format!("{dataplane}: {what} is dropped as {reason}: {:?}", alpha.drops()),
                || dropped(&alpha, reason) > before,
            );
        }
        // What was sent last arrives last.
        let marked = datagram(0x11, 0x12, ALLOWED);
        send_frame(site.machine(0x11), "eth0", &marked);
        let at = |number: u8| &hears.iter().find(|(it, _)| *it == number).unwrap().1;
        wait_for("what is allowed arrives", || !at(0x12).matching(|it| it == marked).is_empty());
        for (number, heard) in hears.iter().filter(|(number, _)| *number != 0x11) {
            let got =
                heard.matching(|it| it.ends_with(b"through and through") && it[6..12] != mac(*number).0);
            assert_eq!(got.len(), usize::from(*number == 0x12), "{dataplane}: {number:x} hears {got:02x?}");
        }
        let strays = drops(&alpha, "unknown-vlan");
        assert!(strays.iter().all(|(from, ..)| from == "trunk0"), "{strays:?}");
        let last = format!("VLAN 0 ethertype 0x88a8 (S-TAG), MAC {} -> {}", mac(0x11), mac(0x12));
        assert_eq!((dropped(&alpha, "unknown-vlan"), &strays[0].1), (4, &last));
    }
}

/// Where nobody is untagged, what has no tag is nobody's.
#[test]
fn what_is_untagged_is_nobodys_where_nobody_is() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new() else { return };
        let machines: Vec<_> = MACHINES.into_iter().filter(|it| it.3 != "\"untagged\"").collect();
        site.rewrite(&machines, NETWORK);
        // It would say something by itself.
        site.machine(0x13).ip("link set eth0 down");
        let (alpha, _beta) = (site.run("alpha", dataplane), site.run("beta", dataplane));
        for (frame, last) in [
            (datagram(0x13, 0x12, ALLOWED), "untagged, MAC"),
            (tagged(&datagram(0x13, 0x12, ALLOWED), &[(0x8100, 0xa000)]), "VLAN 0, MAC"),
        ] {
            let before = dropped(&alpha, "unknown-vlan");
            send_frame(&site.switch, "uplink", &frame);
            wait_within(SOON, "it is counted", || dropped(&alpha, "unknown-vlan") == before + 1);
            let rows = drops(&alpha, "unknown-vlan");
            assert!(rows.len() == 1 && rows[0].0 == "trunk0" && rows[0].1.starts_with(last), "{rows:?}");
        }
        // What is for the next bridge alone is told apart, unless a tag says that it is of a VLAN.
        let lldp = link_frame([1, 0x80, 0xc2, 0, 0, 0x0e], 0x88cc);
        let cdp = link_frame([1, 0, 0x0c, 0xcc, 0xcc, 0xcc], 100);
        let beside = link_frame([1, 0x80, 0xc2, 0, 0, 0x10], 0x88cc);
        for (frame, reason, last) in [
            (lldp.clone(), "link-protocol", "MAC 02:00:00:00:00:99"),
            (cdp, "link-protocol", "MAC 02:00:00:00:00:99"),
            (tagged(&lldp, &[(0x8100, 0xe000)]), "link-protocol", "VLAN 0, MAC"),
            (tagged(&lldp, &[(0x8100, 300)]), "unknown-vlan", "VLAN 300, MAC"),
            (beside, "unknown-vlan", "untagged, MAC"),
        ] {
            let reasons = ["link-protocol", "unknown-vlan"];
            let before = reasons.map(|reason| dropped(&alpha, reason));
            send_frame(&site.switch, "uplink", &frame);
            let counted = reasons.map(|it| u64::from(it == reason));
            let after = [before[0] + counted[0], before[1] + counted[1]];
            wait_within(SOON, &format!("{dataplane}: {last} is counted as {reason}"), || {
                reasons.map(|reason| dropped(&alpha, reason)) == after
            });
            let rows = drops(&alpha, reason);
            assert!(rows.len() == 1 && rows[0].0 == "trunk0" && rows[0].1.starts_with(last), "{rows:?}");
        }
        // What was counted of a trunk is kept when it is one no longer.
        let of_the_link = dropped(&alpha, "link-protocol");
        let counted = dropped(&alpha, "unknown-vlan");
        let rest: Vec<_> = machines.into_iter().filter(|it| (it.1, it.2) != ("alpha", "trunk0")).collect();
        site.rewrite(&rest, NETWORK);
        assert!(alpha.run(&["reload"]).status.success());
        assert_eq!(dropped(&alpha, "unknown-vlan"), counted);
        assert_eq!(dropped(&alpha, "link-protocol"), of_the_link);
    }
}

/// What switches tell each other, from the switch's own MAC.
fn link_frame(to: [u8; 6], kind: u16) -> Vec<u8> {
    let mut frame = [&to[..], &mac(0x99).0, &kind.to_be_bytes()].concat();
    frame.resize(60, 0);
    frame
}

/// A device above the trunk is given nothing: the trunk has it all. It is refused, and served once it is alone.
#[test]
fn a_device_that_stands_on_a_trunk_is_refused() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new() else { return };
        site.alpha.ip("link add link trunk0 name above101 up type macvlan mode bridge");
        let above = (0x15, "alpha", "above101", "");
        let all = [&MACHINES[..], &[above]].concat();
        site.rewrite(&all, NETWORK);
        let alpha = site.run("alpha", dataplane);
        let why = "failed: above101 stands on trunk0, which is a port itself and has all its frames";
        let state = alpha.port_state("above101");
        assert!(state.starts_with(why), "{dataplane}: {state}");
        assert_eq!(alpha.port_state("trunk0.101"), "forwarding", "{dataplane}: as it would be without");
        let mut plan = site.alpha.command(common::EASTGATE);
        plan.arg("plan").arg("--config").arg(&site.config).args(["--host", "alpha"]);
        let plan = String::from_utf8(plan.output().unwrap().stdout).unwrap();
        assert!(plan.contains("refuse port") && plan.contains("above101 stands on trunk0"), "{plan}");
        let doctor = alpha.run(&["doctor"]);
        let doctor = String::from_utf8(doctor.stdout).unwrap();
        assert!(doctor.contains("above101 stands on trunk0"), "{doctor}");

        let without: Vec<_> = all.into_iter().filter(|it| (it.1, it.2) != ("alpha", "trunk0")).collect();
        site.rewrite(&without, NETWORK);
        assert!(alpha.run(&["reload"]).status.success());
        wait_within(SOON, "it is served alone", || alpha.port_state("above101") == "forwarding");
    }
}

/// Both kinds of flow between two VLANs of one device.
struct Flows {
    allowed: (Stream, Sink),
    denied: ([Stream; 2], Sink),
}

impl Flows {
    fn start(site: &Site) -> Self {
        let stream = |from: u8, port: u16| {
            Stream::start(site.machine(from), udp(decimal(from), 1000 + port), udp(decimal(0x12), port))
        };
        let sink = |port: u16| Sink::start(site.machine(0x12), udp(decimal(0x12), port));
        Self {
            allowed: (stream(0x11, ALLOWED), sink(ALLOWED)),
            denied: ([0x11, 0x13].map(|from| stream(from, DENIED)), sink(DENIED)),
        }
    }

    fn allowed_arrive(&self, when: &str) {
        self.allowed.0.arrives(when, &self.allowed.1);
    }

    fn denied_never_arrived(&self, when: &str) {
        let (streams, sink) = &self.denied;
        for stream in streams {
            stream.send_more(20);
        }
        let sent: u64 = streams.iter().map(Stream::sent).sum();
        assert_eq!(sink.count(), 0, "{when}: of {sent} denied datagrams");
    }
}

#[test]
fn a_killed_daemon_lets_nothing_through() {
    let kills = std::env::var("EASTGATE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    for dataplane in DATAPLANES {
        let Some(site) = Site::new() else { return };
        let flows = Flows::start(&site);
        let mut alpha = site.run("alpha", dataplane);
        flows.allowed_arrive("at first");
        if dataplane == "ebpf" {
            wait_within(SOON, "it is offloaded", || carried_in_the_kernel(&alpha));
        }
        for round in 0..kills {
            alpha.kill();
            flows.denied_never_arrived("without a daemon");
            // In the kernel it goes on under the last policy.
            match dataplane {
                "ebpf" => flows.allowed_arrive("without a daemon"),
                _ => assert!(flows.allowed.0.is_cut(&flows.allowed.1, 20), "a frame passes without a daemon"),
            }
            if round % 2 == 1 {
                site.alpha.ip("link set trunk0 down");
                site.alpha.ip("link set trunk0 up");
            }
            alpha = site.run("alpha", dataplane);
            flows.allowed_arrive("again");
            flows.denied_never_arrived("again");
        }
        assert!(alpha.stop().success());
        flows.denied_never_arrived("and never");
    }
}

/// VLANs come and go while the trunk is in use, and it becomes one endpoint's port and a trunk again: what is not denied goes on, what is
/// is never heard.
#[test]
fn vlans_come_and_go_while_others_go_on() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new() else { return };
        let before = Machine::of(&site.alpha);
        let flows = Flows::start(&site);
        let alpha = site.run("alpha", dataplane);
        flows.allowed_arrive("at first");
        let reload = |machines: &[(u8, &str, &str, &str)]| {
            site.rewrite(machines, NETWORK);
            let output = alpha.run(&["reload"]);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        let without = |number: u8| MACHINES.into_iter().filter(|it| it.0 != number).collect::<Vec<_>>();
        reload(&without(0x13));
        flows.allowed_arrive("with one VLAN less");
        wait_within(SOON, "what is untagged is nobody's", || dropped(&alpha, "unknown-vlan") > 0);
        reload(&MACHINES);
        flows.allowed_arrive("with it again");
        assert!(site.machine(0x13).ping("10.1.0.12"));
        reload(&without(0x12));
        assert!(flows.allowed.0.is_cut(&flows.allowed.1, 20), "nobody is there");
        let moved = MACHINES.map(|it| if it.0 == 0x12 { (it.0, it.1, it.2, "103") } else { it });
        reload(&moved);
        assert!(flows.allowed.0.is_cut(&flows.allowed.1, 20), "it is in another VLAN");
        reload(&MACHINES);
        flows.allowed_arrive("in its VLAN again");
        // The whole device for one of them: tags are no VLANs of a trunk then, and the network knows none.
        let mut whole = without(0x12);
        whole.retain(|it| it.0 != 0x13);
        let whole: Vec<_> =
            whole.into_iter().map(|it| if it.0 == 0x11 { (it.0, it.1, it.2, "") } else { it }).collect();
        reload(&whole);
        wait_within(SOON, "tags are refused", || dropped(&alpha, "vlan-tagged") > 0);
        assert_eq!(alpha.port_state("trunk0"), "forwarding");
        flows.denied_never_arrived("while the device is one endpoint's");
        reload(&MACHINES);
        flows.allowed_arrive("on the trunk again");
        flows.denied_never_arrived("on the trunk again");
        assert!(alpha.stop().success());
        assert_eq!(before.changes(&Machine::of(&site.alpha)), Vec::<String>::new());
    }
}

/// What `plan` prints of a trunk is a guard and sockets once, and each VLAN.
#[test]
fn a_plan_names_each_vlan_of_a_trunk_and_its_guard_once() {
    let Some(site) = Site::new() else { return };
    let mut plan = site.alpha.command(common::EASTGATE);
    plan.arg("plan").arg("--config").arg(&site.config).args(["--host", "alpha", "-o", "json"]);
    let lines: Vec<Value> = serde_json::from_slice(&plan.output().unwrap().stdout).unwrap();
    let of = |device: &str| -> Vec<(String, String)> {
        let lines =
            lines.iter().filter(|line| line["object"].as_str().unwrap().split('.').next() == Some(device));
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let of_port = lines.filter(|line| ["attach", "open"].contains(&line["action"].as_str().unwrap()));
        of_port.map(|line| (text(&line["action"]), text(&line["object"]))).collect()
    };
    let pair = |(action, object): (&str, &str)| (action.to_owned(), object.to_owned());
    let expected = [
        ("attach", "trunk0"),
        ("open", "trunk0"),
        ("open", "trunk0"),
        ("open", "trunk0.101"),
        ("open", "trunk0.102"),
    ];
    assert_eq!(of("trunk0"), expected.map(pair));
    assert_eq!(of("trunk1"), [("attach", "trunk1"), ("open", "trunk1"), ("open", "trunk1.101")].map(pair));
}
