//! A shared segment: machines at isolated ports of Linux's bridge, which lets none of them reach another, and eastgate at the one port that all
//! reach. What the machines' kernels and the bridge make of that is what counts: whom they know by which MAC, and what arrives.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{fmt::Write as _, net::IpAddr, path::PathBuf};

use common::{
    Capture, Daemon, Machine, Script, Sink, Space, Stream, World, bulk, datagram_arrives,
    running::carried_in_the_kernel,
    seen_by_tcpdump, send_frame,
    site::{ALLOWED, DENIED, SOON, lan, tcp, udp},
    wait_for, wait_within,
};
use eastgate_testkit::packet::{self, Arp, ArpOp};
use eastgate_wire::MacAddr;
use etherparse::{Ipv4Header, PacketBuilder};
use serde_json::Value;

const DATAPLANES: [&str; 2] = ["userspace", "ebpf"];

/// A machine: the last byte of its MAC and addresses, its host, its device there, and whether it shares that.
type Station = (u8, &'static str, &'static str, bool);

const MACHINES: [Station; 5] = [
    (11, "alpha", "seg0", true),
    (12, "alpha", "seg0", true),
    (13, "alpha", "seg0", true),
    (14, "alpha", "own0", false),
    (21, "beta", "seg0", true),
];

/// Those of them whose device is macvtap, where the segment is of that kind
const BEHIND_MACVTAP: [u8; 3] = [11, 12, 21];

const NETWORK: &str = "neighbors = \"proxy\"";

fn configuration(machines: &[Station], network: &str) -> String {
    let mut text = lan(network);
    for (number, host, port, shared) in machines {
        writeln!(
            text,
            "[tenant.acme.endpoint.vm{number}]\nnetwork = \"lan\"\nhost = \"{host}\"\nport = \"{port}\"\nshared = {shared}\n\
             mac = \"{}\"\naddresses = [\"10.1.0.{number}\", \"fd00:1::{number}\"]\ngroups = [\"all\"]\n",
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
    format!("10.1.0.{number}").parse().unwrap()
}

fn v6(number: u8) -> IpAddr {
    format!("fd00:1::{number}").parse().unwrap()
}

fn appliance() -> MacAddr {
    eastgate_steering::proxy_mac(5001.try_into().unwrap())
}

/// Two hosts, each with an isolating bridge, and machines.
struct Site {
    // Before the spaces that they are in.
    _behind_macvtap: Vec<Script>,
    world: World,
    alpha: Space,
    beta: Space,
    /// In front of alpha's seg0
    switch: Space,
    machines: Vec<(u8, Space)>,
    config: PathBuf,
}

/// What isolates the machines.
#[derive(Clone, Copy, PartialEq)]
enum Segment {
    /// Ports of a bridge that reach its uplink alone
    IsolatedPorts,
    /// macvtap and macvlan devices in VEPA mode: all frames leave by the device below them, and what is for another one has to come back
    /// by it (IEEE 802.1Qbg)
    Vepa,
}

impl Site {
    fn new() -> Option<Self> {
        Self::of(Segment::IsolatedPorts)
    }

    fn of(segment: Segment) -> Option<Self> {
        let mut world = World::new()?;
        let (alpha, beta) = (world.space("alpha"), world.space("beta"));
        world.cable((&alpha, "underlay0"), (&beta, "underlay0"), 1700);
        for (host, number) in [(&alpha, 1), (&beta, 2)] {
            host.ip(&format!("addr add 192.0.2.{number}/24 dev underlay0"));
        }
        let switches = [("a-switch", &alpha), ("b-switch", &beta)].map(|(name, host)| {
            let switch = world.space(name);
            world.cable((host, "seg0"), (&switch, "uplink"), 1500);
            if segment == Segment::Vepa {
                return switch;
            }
            switch.ip("link add switch0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0");
            switch.ip("link set switch0 addrgenmode none up");
            switch.ip("link set uplink master switch0");
            // A machine that says it were the appliance does not become it.
            switch.bridge(&format!("fdb add {} dev uplink master static sticky", appliance()));
            switch
        });
        let (mut machines, mut behind_macvtap) = (Vec::new(), Vec::new());
        for (number, host, port, shared) in MACHINES {
            let machine = world.space(&format!("vm{number}"));
            let at = if host == "alpha" { 0 } else { 1 };
            if shared && segment == Segment::Vepa {
                let inside = machine.name();
                let vepa = |name: &str, kind: &str| {
                    let own = format!("name {name} address {} netns {inside}", mac(number));
                    switches[at].ip(&format!("link add link uplink {own} type {kind} mode vepa"));
                    machine.ip(&format!("link set {name} addrgenmode none up"));
                };
                if BEHIND_MACVTAP.contains(&number) {
                    vepa("macvtap0", "macvtap");
                    behind_macvtap.push(Script::behind_macvtap(&machine, "macvtap0", "eth0"));
                } else {
                    vepa("eth0", "macvlan");
                }
                machine.ip("link set eth0 up");
            } else if shared {
                let device = format!("port{number}");
                world.cable((&switches[at], &device), (&machine, "eth0"), 1500);
                switches[at].ip(&format!("link set {device} master switch0"));
                switches[at].ip(&format!("link set dev {device} type bridge_slave isolated on"));
            } else {
                world.cable((&alpha, port), (&machine, "eth0"), 1500);
            }
            machine.ip(&format!("link set eth0 address {}", mac(number)));
            machine.ip(&format!("addr add 10.1.0.{number}/24 dev eth0"));
            machine.ip(&format!("addr add fd00:1::{number}/64 dev eth0 nodad"));
            machines.push((number, machine));
        }
        let config = world.write("eastgate.toml", &configuration(&MACHINES, NETWORK));
        let [switch, _] = switches;
        Some(Self { _behind_macvtap: behind_macvtap, world, alpha, beta, switch, machines, config })
    }

    fn machine(&self, number: u8) -> &Space {
        &self.machines.iter().find(|(it, _)| *it == number).unwrap().1
    }

    fn run(&self, host: &str, dataplane: &str) -> Daemon {
        let space = if host == "alpha" { &self.alpha } else { &self.beta };
        Daemon::start(&self.world, space, &self.config, host, &["--dataplane", dataplane])
    }

    fn rewrite(&self, machines: &[Station], network: &str) {
        std::fs::write(&self.config, configuration(machines, network)).unwrap();
    }

    fn reload(&self, daemon: &Daemon, machines: &[Station], network: &str) {
        self.rewrite(machines, network);
        let output = daemon.run(&["reload"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// The MAC by which a machine's kernel knows an address.
    fn known_as(&self, number: u8, address: IpAddr) -> Option<MacAddr> {
        let shown = self.machine(number).ip(&format!("-j neigh show to {address} dev eth0"));
        let rows: Value = serde_json::from_str(&shown).unwrap_or_default();
        rows[0]["lladdr"].as_str()?.parse().ok()
    }

    /// The MACs that the bridge has learned at a port.
    fn learned_at(&self, port: &str) -> Vec<MacAddr> {
        let shown = self.switch.bridge(&format!("-j fdb show br switch0 brport {port}"));
        let rows: Vec<Value> = serde_json::from_str(&shown).unwrap();
        let learned = rows.iter().filter(|row| row["state"].as_str().unwrap_or_default().is_empty());
        learned.map(|row| row["mac"].as_str().unwrap().parse().unwrap()).collect()
    }
}

fn dropped(daemon: &Daemon, reason: &str) -> u64 {
    daemon.drops().get(reason).copied().unwrap_or_default()
}

#[test]
fn machines_of_a_segment_reach_each_other_as_the_rules_say() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new() else { return };
        let before = Machine::of(&site.alpha);
        assert!(!site.machine(11).ping("10.1.0.12"), "the bridge isolates them");
        site.machine(11).ip("neigh flush dev eth0");
        let (alpha, beta) = (site.run("alpha", dataplane), site.run("beta", dataplane));
        for (from, space) in &site.machines {
            for (to, _) in site.machines.iter().filter(|(to, _)| to != from) {
                assert!(space.ping(&v4(*to).to_string()), "{dataplane}: {from} to {to}");
                assert!(space.ping(&format!("-s 1400 {}", v6(*to))), "{dataplane}: {from} to {to}");
                for address in [v4(*to), v6(*to)] {
                    assert_eq!(site.known_as(*from, address), Some(appliance()), "{from} to {address}");
                }
            }
        }
        for (from, to) in [(11, 12), (12, 13), (13, 14), (14, 11), (11, 21), (21, 12)] {
            datagram_arrives((site.machine(from), udp(from, 4000)), (site.machine(to), udp(to, ALLOWED)));
            let sink = Sink::start(site.machine(to), udp(to, DENIED));
            Stream::start(site.machine(from), udp(from, 4001), udp(to, DENIED)).send_more(30);
            assert_eq!(sink.count(), 0, "{dataplane}: {from} to {to}");
            bulk(site.machine(from), (site.machine(to), tcp(to, 5432)), 4 << 20);
        }
        // The bridge has learned each machine at its own port, and behind eastgate's nobody but the appliance, whom it knows.
        assert_eq!(site.learned_at("uplink"), [], "{dataplane}");
        for number in [11, 12, 13] {
            assert_eq!(site.learned_at(&format!("port{number}")), [mac(number)], "{dataplane}");
        }
        for (reason, frames) in alpha.drops() {
            assert!(
                !["direct-frame", "unknown-station", "unknown-vlan"].contains(&&*reason),
                "{reason}: {frames}"
            );
        }
        assert_eq!(carried_in_the_kernel(&alpha), dataplane == "ebpf");
        let denied = alpha.ask(&["show", "drops"]);
        let rows = denied["drops"].as_array().unwrap();
        let port = format!("seg0/{}", mac(12));
        assert!(
            rows.iter().any(|row| row["reason"] == "ingress-denied" && row["from"] == port),
            "{denied:#}"
        );
        assert_eq!(alpha.port_state(&port), "forwarding");
        let status = String::from_utf8(alpha.run(&["status"]).stdout).unwrap();
        assert_eq!(
            status.matches("note: seg0: shared: policy holds as far as the switch isolates").count(),
            1
        );
        assert!(alpha.stop().success() && beta.stop().success());
        assert_eq!(before.changes(&Machine::of(&site.alpha)), Vec::<String>::new());
    }
}

/// Machines behind macvtap and macvlan devices in VEPA mode: the appliance is the bridge that sends their frames back.
#[test]
fn machines_in_vepa_mode_reach_each_other_as_the_rules_say() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::of(Segment::Vepa) else { return };
        let (alpha, beta) = (site.run("alpha", dataplane), site.run("beta", dataplane));
        for (from, to) in [(11, 12), (12, 13), (13, 14), (14, 11), (11, 21), (21, 12)] {
            assert!(site.machine(from).ping(&v4(to).to_string()), "{dataplane}: {from} to {to}");
            assert!(site.machine(from).ping(&format!("-s 1400 {}", v6(to))), "{dataplane}: {from} to {to}");
            datagram_arrives((site.machine(from), udp(from, 4000)), (site.machine(to), udp(to, ALLOWED)));
            let sink = Sink::start(site.machine(to), udp(to, DENIED));
            Stream::start(site.machine(from), udp(from, 4001), udp(to, DENIED)).send_more(30);
            assert_eq!(sink.count(), 0, "{dataplane}: {from} to {to}");
            bulk(site.machine(from), (site.machine(to), tcp(to, 5432)), 4 << 20);
        }
        assert_eq!(carried_in_the_kernel(&alpha), dataplane == "ebpf");
        assert!(alpha.stop().success() && beta.stop().success());
    }
}

/// A VLAN of a device is a segment, too: what comes with its tag is told apart by its source, and what leaves has the tag again.
#[test]
fn a_vlan_of_a_device_can_be_shared() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::of(Segment::Vepa) else { return };
        let text = [11, 12].iter().fold(configuration(&MACHINES, NETWORK), |text, number| {
            let own = format!("mac = \"{}\"", mac(*number));
            text.replace(&own, &format!("vlan = 200\n{own}"))
        });
        std::fs::write(&site.config, text).unwrap();
        let alpha = site.run("alpha", dataplane);
        let frame = |from: u8, port: u16, tag: Option<u8>| {
            let packet = packet::udp((v4(from), 4100), (v4(12), port), b"by VLAN").unwrap();
            let frame = packet::ip_frame(appliance(), mac(from), &packet);
            let tag = tag.map_or_else(Vec::new, |vlan| vec![0x81, 0, 0, vlan]);
            [&frame[..12], &tag, &frame[12..]].concat()
        };
        let is_dropped = |frame: &[u8], reason: &str| {
            let before = dropped(&alpha, reason);
            send_frame(&site.switch, "uplink", frame);
            wait_within(SOON, &format!("{dataplane}: {reason}: {:?}", alpha.drops()), || {
                dropped(&alpha, reason) > before
            });
        };
        is_dropped(&frame(11, DENIED, Some(200)), "ingress-denied");
        is_dropped(&frame(13, ALLOWED, Some(200)), "unknown-station");
        is_dropped(&frame(11, ALLOWED, None), "unknown-station");
        is_dropped(&frame(11, ALLOWED, Some(100)), "unknown-vlan");
        let filter = format!("udp port {ALLOWED} or (vlan and udp port {ALLOWED})");
        let seen = seen_by_tcpdump(&site.world, (&site.switch, "uplink"), &filter, 4, || {
            send_frame(&site.switch, "uplink", &frame(11, ALLOWED, Some(200)));
            send_frame(&site.switch, "uplink", &frame(13, ALLOWED, None));
        });
        let to_12 = format!("{} > {}", appliance(), mac(12));
        let back = seen.lines().filter(|line| line.contains(&to_12) && line.contains("vlan 200, p 0,"));
        assert_eq!(back.count(), 2, "{dataplane}: {seen}");
        assert_eq!(seen.lines().count(), 4, "{dataplane}: {seen}");
    }
}

/// Both MACs are other ones, and nothing else of a packet is: TTL, identification and options are as they were; GSO packets stay whole.
#[test]
fn packets_leave_as_they_came_but_for_both_macs() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new() else { return };
        let (alpha, _beta) = (site.run("alpha", dataplane), site.run("beta", dataplane));
        assert!(site.machine(11).ping("10.1.0.12"));
        let heard = Capture::start(site.machine(12), "eth0");
        for number in 0..24u16 {
            let mut ip =
                Ipv4Header::new(0, 37, etherparse::IpNumber::UDP, [10, 1, 0, 11], [10, 1, 0, 12]).unwrap();
            (ip.identification, ip.dont_fragment) = (number, false);
            ip.dscp = 46.try_into().unwrap();
            if number.is_multiple_of(2) {
                ip.options = [1, 1, 1, 0][..].try_into().unwrap();
            }
            let mut frame = Vec::new();
            let builder = PacketBuilder::ethernet2(mac(11).0, appliance().0);
            let builder = builder.ip(etherparse::IpHeaders::Ipv4(ip, Default::default()));
            builder.udp(4000, ALLOWED).write(&mut frame, &[number as u8; 30]).unwrap();
            let expected = [&mac(12).0, &appliance().0, &frame[12..]].concat();
            send_frame(site.machine(11), "eth0", &frame);
            wait_for("it arrives as it was", || !heard.matching(|it| it == expected).is_empty());
        }
        drop(heard);
        for (from, to) in [(11, 12), (12, 14), (14, 12), (21, 12)] {
            // A sender that is given little time makes packets of two segments.
            wait_for(&format!("{dataplane}: {from} to {to}: something arrives uncut"), || {
                let heard = Capture::start(site.machine(to), "eth0");
                bulk(site.machine(from), (site.machine(to), tcp(to, 5433)), 8 << 20);
                !heard.matching(|frame| frame[..6] == mac(to).0 && frame.len() > 3000).is_empty()
            });
        }
        assert_eq!(dropped(&alpha, "too-big"), 0);
    }
}

/// What is for many arrives once at each whose rules let it in, from the appliance; its sender does not hear it again.
#[test]
fn what_is_for_many_goes_to_each_by_itself() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new() else { return };
        site.rewrite(&MACHINES, &format!("{NETWORK}\nmulticast = \"flood\""));
        let (_alpha, _beta) = (site.run("alpha", dataplane), site.run("beta", dataplane));
        for (from, group, to) in [
            (11, MacAddr::BROADCAST, "10.1.0.255"),
            (12, MacAddr([1, 0, 0x5e, 1, 2, 3]), "239.1.2.3"),
            (21, MacAddr::BROADCAST, "255.255.255.255"),
        ] {
            let hears: Vec<_> =
                site.machines.iter().map(|(number, it)| (*number, Capture::start(it, "eth0"))).collect();
            let frame = |port: u16| {
                let to: IpAddr = to.parse().unwrap();
                let packet = packet::udp((v4(from), 4100), (to, port), b"to all of you").unwrap();
                packet::ip_frame(group, mac(from), &packet)
            };
            let (denied, sent) = (frame(DENIED), frame(ALLOWED));
            send_frame(site.machine(from), "eth0", &denied);
            let arrived = |number: u8, of: &[u8]| {
                let heard = &hears.iter().find(|(it, _)| *it == number).unwrap().1;
                let own = |it: &[u8]| number == from && it[6..12] == mac(from).0;
                heard.matching(|it| !own(it) && it[12..] == of[12..])
            };
            send_frame(site.machine(from), "eth0", &sent);
            for (number, ..) in MACHINES.iter().filter(|(number, ..)| *number != from) {
                wait_for("it arrives", || !arrived(*number, &sent).is_empty());
            }
            for (number, _, _, shared) in MACHINES {
                let times = usize::from(number != from && shared);
                let by_itself = arrived(number, &sent);
                let by_itself =
                    by_itself.iter().filter(|it| it[..6] == mac(number).0 && it[6..12] == appliance().0);
                assert_eq!(by_itself.count(), times, "{dataplane}: {from} to {to}, at {number}");
                assert_eq!(arrived(number, &denied).len(), 0, "{dataplane}: {from} to {to}, at {number}");
            }
            assert_eq!(site.learned_at("uplink"), [], "{dataplane}");
        }
    }
}

/// What a machine tries to get past eastgate, and for which reason it is dropped.
fn bypasses() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let own = mac(11);
    let frame = |to: MacAddr, from: MacAddr, src: IpAddr, port: u16| {
        let dst = if src.is_ipv4() { v4(12) } else { v6(12) };
        packet::ip_frame(to, from, &packet::udp((src, 4100), (dst, port), b"through and through").unwrap())
    };
    let tagged = |frame: Vec<u8>| [&frame[..12], &[0x81, 0, 0, 100], &frame[12..]].concat();
    let lie = |to| Arp {
        op: ArpOp::Reply,
        sender: (own, [10, 1, 0, 12].into()),
        target: (to, [10, 1, 0, 13].into()),
    };
    vec![
        ("what is denied, by the appliance", frame(appliance(), own, v4(11), DENIED), "ingress-denied"),
        ("the same in IPv6", frame(appliance(), own, v6(11), DENIED), "ingress-denied"),
        ("to the peer's own MAC", frame(mac(12), own, v4(11), ALLOWED), "direct-frame"),
        ("to it in IPv6", frame(mac(12), own, v6(11), ALLOWED), "direct-frame"),
        ("multicast", frame(MacAddr([1, 0, 0x5e, 1, 2, 3]), own, v4(11), DENIED), "multicast-refused"),
        ("another's address", frame(appliance(), own, v4(13), ALLOWED), "ip-spoofed"),
        ("another's MAC", frame(appliance(), mac(13), v4(11), ALLOWED), "ip-spoofed"),
        ("a MAC that nobody has", frame(appliance(), mac(99), v4(11), ALLOWED), "unknown-station"),
        ("the appliance's own MAC", frame(appliance(), appliance(), v4(11), ALLOWED), "unknown-station"),
        ("a tag", tagged(frame(appliance(), own, v4(11), ALLOWED)), "unknown-vlan"),
        ("an answer in the peer's name", lie(appliance()).frame(appliance()), "arp-spoofed"),
        ("non-IP", packet::ethernet(appliance(), own, 0x88b6, b"through and through"), "ethertype-refused"),
    ]
}

#[test]
fn nothing_gets_round_it() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new() else { return };
        let (alpha, _beta) = (site.run("alpha", dataplane), site.run("beta", dataplane));
        assert!(site.machine(11).ping("10.1.0.12"));
        // One that the bridge has forgotten: what is for it is flooded to whoever is not isolated.
        site.switch.ip("link set dev port12 type bridge_slave learning off");
        site.switch.bridge(&format!("fdb del {} dev port12 master", mac(12)));
        let hears: Vec<_> =
            site.machines.iter().map(|(number, it)| (*number, Capture::start(it, "eth0"))).collect();
        for (what, frame, reason) in bypasses() {
            let before = alpha.drops();
            send_frame(site.machine(11), "eth0", &frame);
            wait_within(
                SOON,
                &format!("{dataplane}: {what} is dropped as {reason}: {:?}", alpha.drops()),
                || alpha.drops().get(reason).unwrap_or(&0) > before.get(reason).unwrap_or(&0),
            );
        }
        site.switch.bridge(&format!("fdb replace {} dev port12 master static", mac(12)));
        let marked = packet::udp((v4(11), 4100), (v4(12), ALLOWED), b"through and through").unwrap();
        send_frame(site.machine(11), "eth0", &packet::ip_frame(appliance(), mac(11), &marked));
        let at = |number: u8| &hears.iter().find(|(it, _)| *it == number).unwrap().1;
        let marked = packet::ip_frame(mac(12), appliance(), &marked);
        wait_for("what is allowed arrives", || !at(12).matching(|it| it == marked).is_empty());
        for (number, heard) in hears.iter().filter(|(number, _)| *number != 11) {
            let got =
                heard.matching(|it| it.ends_with(b"through and through") && it[6..12] != mac(*number).0);
            assert_eq!(got.len(), usize::from(*number == 12), "{dataplane}: {number} hears {got:02x?}");
        }
    }
}

/// A switch that does not isolate: what the machines send past the appliance is noticed where it is seen, with both names, and who has
/// sent it is told the way.
#[test]
fn a_segment_that_does_not_isolate_is_noticed() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new() else { return };
        let (alpha, _beta) = (site.run("alpha", dataplane), site.run("beta", dataplane));
        for port in ["port11", "port12", "port13"] {
            site.switch.ip(&format!("link set dev {port} type bridge_slave isolated off learning off"));
            for learned in site.learned_at(port) {
                site.switch.bridge(&format!("fdb del {learned} dev {port} master"));
            }
        }
        for (address, other) in [(v4(12), "10.1.0.12"), (v6(12), "fd00:1::12")] {
            site.machine(11)
                .ip(&format!("neigh replace {address} lladdr {} dev eth0 nud reachable", mac(12)));
            let before = dropped(&alpha, "direct-frame");
            site.machine(11).ping(other);
            wait_within(SOON, "it is noticed", || dropped(&alpha, "direct-frame") > before);
            wait_within(SOON, "the machine is led back", || site.known_as(11, address) == Some(appliance()));
        }
        // Both are told again and again, and do not have to be seen at it.
        let seen = dropped(&alpha, "direct-frame");
        for (one, other) in [(11, 12), (12, 11)] {
            for address in [v4(other), v6(other)] {
                let machine = site.machine(one);
                machine.ip(&format!("neigh replace {address} lladdr {} dev eth0 nud reachable", mac(other)));
            }
        }
        for (one, other) in [(11, 12), (12, 11)] {
            for address in [v4(other), v6(other)] {
                wait_within(SOON, "it is told again", || site.known_as(one, address) == Some(appliance()));
            }
        }
        assert_eq!(dropped(&alpha, "direct-frame"), seen, "{dataplane}");
        // For what is behind another machine, too: the gateway that it knew before.
        site.machine(11).ip("route add 10.9.0.0/16 via 10.1.0.12");
        let stale = format!("neigh replace {} lladdr {} dev eth0 nud reachable", v4(12), mac(12));
        site.machine(11).ip(&stale);
        site.machine(11).ping("10.9.0.1");
        wait_within(SOON, "the machine is led back", || site.known_as(11, v4(12)) == Some(appliance()));
        let drops = alpha.ask(&["show", "drops"]);
        let row =
            drops["drops"].as_array().unwrap().iter().find(|row| row["reason"] == "direct-frame").unwrap();
        let text = row["last"].as_str().unwrap();
        assert!(text.contains(&format!("MAC {} -> {}", mac(11), mac(12))), "{dataplane}: {text}");
        let names = "from=\"vm11\" to=vm12";
        wait_for("the log names both", || {
            alpha
                .log()
                .lines()
                .any(|line| line.contains("knows the MAC of another one") && line.contains(names))
        });
        let doctor = String::from_utf8(alpha.run(&["doctor"]).stdout).unwrap();
        assert!(doctor.contains("direct-frame") && doctor.contains("isolates the machines"), "{doctor}");
    }
}

#[test]
fn a_killed_daemon_lets_nothing_through() {
    let kills = std::env::var("EASTGATE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    for dataplane in DATAPLANES {
        let Some(site) = Site::new() else { return };
        let stream =
            |from: u8, port: u16| Stream::start(site.machine(from), udp(from, 1000 + port), udp(12, port));
        let sink = |port: u16| Sink::start(site.machine(12), udp(12, port));
        let (allowed, arrived) = (stream(11, ALLOWED), sink(ALLOWED));
        let (denied, refused) = ([stream(11, DENIED), stream(13, DENIED)], sink(DENIED));
        let none_of_denied = |when: &str| {
            denied.iter().for_each(|stream| stream.send_more(20));
            let sent: u64 = denied.iter().map(Stream::sent).sum();
            assert_eq!(refused.count(), 0, "{dataplane}: {when}: of {sent} denied datagrams");
        };
        let mut alpha = site.run("alpha", dataplane);
        allowed.arrives("at first", &arrived);
        if dataplane == "ebpf" {
            wait_within(SOON, "it is offloaded", || carried_in_the_kernel(&alpha));
        }
        for round in 0..kills {
            alpha.kill();
            none_of_denied("without a daemon");
            // In the kernel it goes on under the last policy.
            match dataplane {
                "ebpf" => drop(allowed.arrives("without a daemon", &arrived)),
                _ => assert!(allowed.is_cut(&arrived, 20), "a frame passes without a daemon"),
            }
            // Linux itself would answer for others, and carry what it gets.
            site.alpha.set("net/ipv4/conf/all/proxy_arp", "1");
            site.alpha.set("net/ipv4/conf/all/forwarding", "1");
            none_of_denied("when the host forwards");
            if round % 2 == 1 {
                site.alpha.ip("link set seg0 down");
                site.alpha.ip("link set seg0 up");
            }
            alpha = site.run("alpha", dataplane);
            allowed.arrives("again", &arrived);
            none_of_denied("again");
        }
        assert!(alpha.stop().success());
        none_of_denied("and never");
    }
}

/// Machines come and go on a segment, and change their MACs, while others go on.
#[test]
fn machines_come_and_go_while_others_go_on() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new() else { return };
        let alpha = site.run("alpha", dataplane);
        let sink = Sink::start(site.machine(12), udp(12, ALLOWED));
        let stream = Stream::start(site.machine(11), udp(11, 4000), udp(12, ALLOWED));
        stream.arrives("at first", &sink);
        let without: Vec<Station> = MACHINES.into_iter().filter(|it| it.0 != 13).collect();
        site.reload(&alpha, &without, NETWORK);
        stream.arrives("with one less", &sink);
        send_frame(
            site.machine(13),
            "eth0",
            &common::arp_request(mac(13), [10, 1, 0, 13].into(), [10, 1, 0, 12].into()),
        );
        wait_within(SOON, "it is nobody", || dropped(&alpha, "unknown-station") > 0);
        site.reload(&alpha, &MACHINES, NETWORK);
        stream.arrives("with it again", &sink);
        assert!(site.machine(13).ping("10.1.0.12"));
        // Another card.
        let text =
            std::fs::read_to_string(&site.config).unwrap().replace(&mac(13).to_string(), "02:00:00:00:00:77");
        std::fs::write(&site.config, text).unwrap();
        assert!(alpha.run(&["reload"]).status.success());
        site.machine(13).ip("link set eth0 address 02:00:00:00:00:77");
        assert!(site.machine(13).ping("10.1.0.12"));
        stream.arrives("beside another card", &sink);
        // Nothing of the segment is anybody's any more.
        let own: Vec<Station> = MACHINES.into_iter().filter(|it| it.2 != "seg0" || it.1 != "alpha").collect();
        site.reload(&alpha, &own, NETWORK);
        assert!(stream.is_cut(&sink, 20));
        site.reload(&alpha, &MACHINES, NETWORK);
        stream.arrives("and again", &sink);
    }
}
