//! Networks in which the kernel routes between the endpoints of a host (`neighbors = "kernel"`), under eastgate's policy. What Linux
//! makes of it on both sides is what counts: the machines' kernels, which ask and are answered, and the host's, which routes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{
    fmt::Write as _,
    net::IpAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use common::{
    Capture, Daemon, Machine, Sink, Space, Stream, World, bulk, datagram_arrives,
    running::carried_in_the_kernel,
    send_frame,
    site::{ALLOWED, DENIED, SOON, lan, tcp, udp},
    wait_for, wait_within,
};
use eastgate_testkit::{
    Link,
    packet::{self, Arp, ArpOp},
};
use eastgate_wire::{
    MacAddr,
    checksum::{checksum, pseudo_header},
};
use serde_json::Value;

const DATAPLANES: [&str; 2] = ["userspace", "ebpf"];

const NETWORK: &str = "neighbors = \"kernel\"";

/// The last bytes of MACs and addresses, with the host that each is at.
const MACHINES: [(u8, &str); 4] = [(11, "alpha"), (12, "alpha"), (13, "alpha"), (21, "beta")];

/// Where packets are handed to the kernel, and where it has them from.
const ENTRY: &str = "eg-in-5001";
const ROUTER: &str = "eg-rt-5001";

fn configuration(machines: &[(u8, &str)], network: &str) -> String {
    let mut text = lan(network);
    for (number, host) in machines {
        writeln!(
            text,
            "[tenant.acme.endpoint.vm{number}]\nnetwork = \"lan\"\nhost = \"{host}\"\nport = \"port{number}\"\n\
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

struct Site {
    world: World,
    alpha: Space,
    beta: Space,
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
            host.ip(&format!("route add default via 192.0.2.{}", 3 - number));
            // Without `force_forwarding` (Linux 6.17) it is the operator's to let the host route IPv6.
            if !has_force_forwarding() {
                host.set("net/ipv6/conf/all/forwarding", "1");
            }
        }
        let mut machines = Vec::new();
        for (number, host) in MACHINES {
            let machine = world.space(&format!("vm{number}"));
            let host = if host == "alpha" { &alpha } else { &beta };
            world.cable((host, &format!("port{number}")), (&machine, "eth0"), 1500);
            machine.ip(&format!("link set eth0 address {}", mac(number)));
            machine.ip(&format!("addr add 10.1.0.{number}/24 dev eth0"));
            machine.ip(&format!("addr add fd00:1::{number}/64 dev eth0 nodad"));
            machines.push((number, machine));
        }
        let config = world.write("eastgate.toml", &configuration(&MACHINES, NETWORK));
        Some(Self { world, alpha, beta, machines, config })
    }

    fn machine(&self, number: u8) -> &Space {
        &self.machines.iter().find(|(it, _)| *it == number).unwrap().1
    }

    fn run(&self, host: &str, dataplane: &str) -> Daemon {
        let space = if host == "alpha" { &self.alpha } else { &self.beta };
        Daemon::start(&self.world, space, &self.config, host, &["--dataplane", dataplane])
    }

    fn reload(&self, daemon: &Daemon, machines: &[(u8, &str)], network: &str) {
        std::fs::write(&self.config, configuration(machines, network)).unwrap();
        let output = daemon.run(&["reload"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// The MAC by which a machine's kernel knows an address.
    fn known_as(&self, number: u8, address: IpAddr) -> Option<MacAddr> {
        let shown = self.machine(number).ip(&format!("-j neigh show to {address} dev eth0"));
        let rows: Value = serde_json::from_str(&shown).unwrap_or_default();
        rows[0]["lladdr"].as_str()?.parse().ok()
    }
}

fn has_force_forwarding() -> bool {
    std::path::Path::new("/proc/sys/net/ipv6/conf/default/force_forwarding").exists()
}

fn dropped(daemon: &Daemon, reason: &str) -> u64 {
    daemon.drops().get(reason).copied().unwrap_or_default()
}

fn frame(from: u8, to: u8, port: u16, payload: &[u8]) -> Vec<u8> {
    packet::ip_frame(appliance(), mac(from), &packet::udp((v4(from), 4100), (v4(to), port), payload).unwrap())
}

#[test]
fn the_kernel_routes_what_the_rules_allow() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new() else { return };
        let before = Machine::of(&site.alpha);
        let (alpha, beta) = (site.run("alpha", dataplane), site.run("beta", dataplane));
        assert_eq!(alpha.port_state("port11"), "forwarding");
        for (from, space) in &site.machines {
            for (to, _) in site.machines.iter().filter(|(to, _)| to != from) {
                assert!(space.ping(&v4(*to).to_string()), "{dataplane}: {from} to {to}: {:?}", alpha.drops());
                assert!(
                    space.ping(&format!("-s 1400 {}", v6(*to))),
                    "{dataplane}: {from} to {to}: {:?}",
                    alpha.drops()
                );
                for address in [v4(*to), v6(*to)] {
                    assert_eq!(site.known_as(*from, address), Some(appliance()), "{from} to {address}");
                }
            }
        }
        for (from, to) in [(11, 12), (12, 13), (13, 11), (11, 21), (21, 12)] {
            datagram_arrives((site.machine(from), udp(from, 4000)), (site.machine(to), udp(to, ALLOWED)));
            let sink = Sink::start(site.machine(to), udp(to, DENIED));
            Stream::start(site.machine(from), udp(from, 4001), udp(to, DENIED)).send_more(30);
            assert_eq!(sink.count(), 0, "{dataplane}: {from} to {to}");
            bulk(site.machine(from), (site.machine(to), tcp(to, 5432)), 4 << 20);
        }
        assert_eq!(carried_in_the_kernel(&alpha), dataplane == "ebpf");
        let shown = |words: &[&str]| String::from_utf8(alpha.run(words).stdout).unwrap();
        assert_eq!(shown(&["show", "endpoints"]).matches("(routed by the kernel)").count(), 3);
        let traced = shown(&["trace", "--vni", "5001", "udp", "10.1.0.11:5000", "10.1.0.12:7000"]);
        assert!(
            traced.contains("handed to the kernel") && traced.contains("by the kernel, which routes here"),
            "{traced}"
        );
        let denied = alpha.ask(&["show", "drops"]);
        let rows = denied["drops"].as_array().unwrap();
        assert!(rows.iter().any(|row| row["reason"] == "ingress-denied"), "{denied:#}");
        // It is the kernel that routed it: one hop, and a table that the host's own routes know nothing of.
        let heard = Capture::start(site.machine(12), "eth0");
        send_frame(site.machine(11), "eth0", &frame(11, 12, ALLOWED, b"one hop"));
        wait_for("it arrives", || !heard.matching(|it| it.ends_with(b"one hop")).is_empty());
        let arrived = heard.matching(|it| it[..6] == mac(12).0 && it.ends_with(b"one hop"));
        assert_eq!((arrived.len(), arrived[0][22]), (1, 63), "{dataplane}: TTL");
        let table = eastgate_steering::kernel::table(5001.try_into().unwrap());
        assert!(site.alpha.ip(&format!("route show table {table}")).contains("10.1.0.12 dev port12"));
        assert!(!site.alpha.ip("route show").contains("10.1.0"), "the host's own routes know no tenant");
        let forwarded = site.alpha.command("cat").arg("/proc/net/snmp").output().unwrap();
        let snmp = String::from_utf8(forwarded.stdout).unwrap();
        let forwarded: u64 = snmp.lines().nth(1).unwrap().split(' ').nth(6).unwrap().parse().unwrap();
        assert!(forwarded > 100, "{snmp}");
        assert!(alpha.stop().success() && beta.stop().success());
        assert_eq!(before.changes(&Machine::of(&site.alpha)), Vec::<String>::new());
    }
}

/// What a machine tries to get past the policy, and for which reason it is dropped.
fn bypasses() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let own = mac(11);
    let frame = |to: MacAddr, from: MacAddr, src: IpAddr, port: u16| {
        let dst = if src.is_ipv4() { v4(12) } else { v6(12) };
        packet::ip_frame(to, from, &packet::udp((src, 4100), (dst, port), b"through and through").unwrap())
    };
    let tagged = |frame: Vec<u8>| [&frame[..12], &[0x81, 0, 0, 100], &frame[12..]].concat();
    let answer = || {
        let target = (appliance(), [10, 1, 0, 13].into());
        Arp { op: ArpOp::Reply, sender: (own, [10, 1, 0, 12].into()), target }.frame(appliance())
    };
    let icmp = |kind: u8, code: u8, to: IpAddr| {
        let mut packet = packet::echo(v4(11), to, 7, "through and through", 40).unwrap();
        (packet[20], packet[21]) = (kind, code);
        packet[22..24].fill(0);
        let sum = checksum(&packet[20..]).to_be_bytes();
        packet[22..24].copy_from_slice(&sum);
        packet::ip_frame(appliance(), own, &packet)
    };
    let source_route = || {
        let mut packet = packet::udp((v4(11), 4100), (v4(12), ALLOWED), b"through and through").unwrap();
        packet.splice(20..20, [131, 7, 4, 10, 1, 0, 13, 0]);
        packet[0] = 0x47;
        let len = (packet.len() as u16).to_be_bytes();
        packet[2..4].copy_from_slice(&len);
        packet[10..12].fill(0);
        let sum = checksum(&packet[..28]).to_be_bytes();
        packet[10..12].copy_from_slice(&sum);
        packet::ip_frame(appliance(), own, &packet)
    };
    let advertised = || {
        let ends: [std::net::Ipv6Addr; 2] = ["fe80::ff:fe00:b", "ff02::1"].map(|end| end.parse().unwrap());
        let mut body = vec![134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
        let sum = pseudo_header(&ends[0].octets(), &ends[1].octets(), 58, body.len() as u32).bytes(&body);
        body[2..4].copy_from_slice(&sum.finish().to_be_bytes());
        let header = [0x60, 0, 0, 0, 0, body.len() as u8, 58, 255];
        let packet = [&header[..], &ends[0].octets(), &ends[1].octets(), &body].concat();
        packet::ip_frame(MacAddr([0x33, 0x33, 0, 0, 0, 1]), own, &packet)
    };
    vec![
        ("what is denied, by the appliance", frame(appliance(), own, v4(11), DENIED), "ingress-denied"),
        ("the same in IPv6", frame(appliance(), own, v6(11), DENIED), "ingress-denied"),
        ("what is denied, to the peer's own MAC", frame(mac(12), own, v4(11), DENIED), "ingress-denied"),
        ("to it in IPv6", frame(mac(12), own, v6(11), DENIED), "ingress-denied"),
        ("multicast", frame(MacAddr([1, 0, 0x5e, 1, 2, 3]), own, v4(11), DENIED), "multicast-refused"),
        ("another's address", frame(appliance(), own, v4(13), ALLOWED), "ip-spoofed"),
        ("another's address in IPv6", frame(appliance(), own, v6(13), ALLOWED), "ip-spoofed"),
        ("another's MAC", frame(appliance(), mac(13), v4(11), ALLOWED), "mac-spoofed"),
        ("the appliance's own MAC", frame(appliance(), appliance(), v4(11), ALLOWED), "bad-source-mac"),
        ("a tag", tagged(frame(appliance(), own, v4(11), ALLOWED)), "vlan-tagged"),
        ("an answer in the peer's name", answer(), "arp-spoofed"),
        (
            "a question in the peer's name",
            common::arp_request(own, [10, 1, 0, 12].into(), [10, 1, 0, 13].into()),
            "arp-spoofed",
        ),
        (
            "an announcement in the peer's name",
            common::arp_request(own, [10, 1, 0, 12].into(), [10, 1, 0, 12].into()),
            "arp-spoofed",
        ),
        ("a redirect", icmp(5, 1, v4(12)), "ra-guard"),
        ("a router advertisement", advertised(), "ra-guard"),
        ("a source route", source_route(), "source-route"),
        ("non-IP", packet::ethernet(appliance(), own, 0x88b6, b"through and through"), "ethertype-refused"),
    ]
}

#[test]
fn nothing_gets_round_it() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new() else { return };
        let (alpha, _beta) = (site.run("alpha", dataplane), site.run("beta", dataplane));
        assert!(site.machine(11).ping("10.1.0.12"));
        let hears: Vec<_> =
            site.machines.iter().map(|(number, it)| (*number, Capture::start(it, "eth0"))).collect();
        let outside = Capture::start(&site.beta, "underlay0");
        for (what, frame, reason) in bypasses() {
            let before = alpha.drops();
            send_frame(site.machine(11), "eth0", &frame);
            wait_within(
                SOON,
                &format!("{dataplane}: {what} is dropped as {reason}: {:?}", alpha.drops()),
                || alpha.drops().get(reason).unwrap_or(&0) > before.get(reason).unwrap_or(&0),
            );
        }
        // A guest that knows the peer's MAC comes to the same policy.
        site.machine(11).ip(&format!("neigh replace {} lladdr {} dev eth0 nud permanent", v4(12), mac(12)));
        let sink = Sink::start(site.machine(12), udp(12, DENIED));
        Stream::start(site.machine(11), udp(11, 4001), udp(12, DENIED)).send_more(30);
        assert_eq!(sink.count(), 0, "{dataplane}");
        send_frame(site.machine(11), "eth0", &frame(11, 12, ALLOWED, b"through and through"));
        let at = |number: u8| &hears.iter().find(|(it, _)| *it == number).unwrap().1;
        wait_for("what is allowed arrives", || {
            !at(12).matching(|it| it.ends_with(b"through and through")).is_empty()
        });
        for (number, heard) in hears.iter().filter(|(number, _)| *number != 11) {
            let got = heard.matching(|it| {
                it[6..12] != mac(*number).0 && it.windows(19).any(|it| it == b"through and through")
            });
            assert_eq!(got.len(), usize::from(*number == 12), "{dataplane}: {number} hears {got:02x?}");
            // The kernel asks no tenant for anything, and shows it no address of the host's.
            let asked = heard.matching(|it| {
                Arp::parse(it).is_some_and(|arp| arp.op == ArpOp::Request && arp.sender.0 != mac(*number))
            });
            assert_eq!(asked.len(), 0, "{dataplane}: {number} is asked {asked:02x?}");
        }
        let leaked = outside.matching(|it| it.windows(19).any(|it| it == b"through and through"));
        assert_eq!(leaked.len(), 0, "{dataplane}: {leaked:02x?}");
    }
}

/// The kernel would tell senders from an address of the host's. They are told as from whom they wrote to, and the host says nothing.
#[test]
fn a_ttl_that_runs_out_is_told_of_without_an_address_of_the_host() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new() else { return };
        let alpha = site.run("alpha", dataplane);
        assert!(site.machine(11).ping("10.1.0.12") && site.machine(11).ping("fd00:1::12"));
        let heard = Capture::start(site.machine(11), "eth0");
        let outside = Capture::start(&site.beta, "underlay0");
        for (address, kind) in [(v4(12), 11), (v6(12), 3)] {
            assert!(site.machine(11).ping(&format!("-t 2 {address}")), "{dataplane}: two hops are enough");
            let before = dropped(&alpha, "ttl-exceeded");
            assert!(!site.machine(11).ping(&format!("-t 1 {address}")), "{dataplane}: one is not");
            wait_within(SOON, "it is counted", || dropped(&alpha, "ttl-exceeded") > before);
            let told = heard.matching(|it| packet::read_icmp_error(it).is_some_and(|it| it.0 == kind));
            assert!(!told.is_empty(), "{dataplane}: {address}");
            let source = |it: &[u8]| match address {
                IpAddr::V4(address) => it[26..30] == address.octets(),
                IpAddr::V6(address) => it[22..38] == address.octets(),
            };
            assert!(told.iter().all(|it| source(it)), "{dataplane}: {told:02x?}");
        }
        let leaked = outside.matching(|it| it[12..14] == [8, 0] && it[23] == 1);
        assert_eq!(leaked.len(), 0, "{dataplane}: {leaked:02x?}");
    }
}

/// Whoever changes what steers packets opens nothing, and finds it put right.
#[test]
fn what_someone_else_changes_is_put_right_and_opens_nothing() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new() else { return };
        let alpha = site.run("alpha", dataplane);
        let (allowed, arrived) = (
            Stream::start(site.machine(11), udp(11, 4000), udp(12, ALLOWED)),
            Sink::start(site.machine(12), udp(12, ALLOWED)),
        );
        let (denied, refused) = (
            Stream::start(site.machine(11), udp(11, 4001), udp(12, DENIED)),
            Sink::start(site.machine(12), udp(12, DENIED)),
        );
        allowed.arrives("at first", &arrived);
        let table = eastgate_steering::kernel::table(5001.try_into().unwrap());
        for change in [
            format!("route del 10.1.0.12 table {table}"),
            format!("route flush table {table}"),
            format!("route replace 10.1.0.12 dev port13 table {table}"),
            format!("route add 10.1.0.0/25 dev port13 table {table}"),
            format!("rule del pref 4789 iif {ROUTER}"),
            format!("rule del pref 4790 iif {ROUTER}"),
            "neigh del 10.1.0.12 dev port12".to_owned(),
            format!("neigh replace 10.1.0.12 lladdr {} dev port12", mac(13)),
            format!("link set {ROUTER} down"),
            format!("link set {ENTRY} mtu 1000"),
            format!("link del {ENTRY}"),
            "link set port12 down".to_owned(),
            format!("-6 addr flush dev {ROUTER}"),
        ] {
            site.alpha.ip(&change);
            denied.send_more(20);
            if change == "link set port12 down" {
                site.alpha.ip("link set port12 up");
            }
            allowed.arrives(&format!("{dataplane}: after `{change}`"), &arrived);
            if change.contains("flush dev") {
                let addresses = || site.alpha.ip(&format!("-6 addr show dev {ROUTER} scope link"));
                wait_within(SOON, "its link-local address is back", || addresses().contains("fe80::"));
                site.machine(11).ip("neigh flush all");
                assert!(site.machine(11).ping("fd00:1::12"), "{dataplane}: solicitations are answered");
            }
            assert_eq!(refused.count(), 0, "{dataplane}: after `{change}`");
        }
        for (setting, value) in [
            (format!("net/ipv4/conf/{ROUTER}/forwarding"), "0"),
            (format!("net/ipv4/conf/{ROUTER}/proxy_arp"), "0"),
            (format!("net/ipv4/conf/{ROUTER}/rp_filter"), "1"),
            ("net/ipv4/conf/port11/forwarding".to_owned(), "1"),
            ("net/ipv4/conf/port11/proxy_arp".to_owned(), "1"),
            ("net/ipv4/ip_forward".to_owned(), "1"),
            ("net/ipv4/conf/all/proxy_arp".to_owned(), "1"),
            ("net/ipv4/ip_forward".to_owned(), "0"),
        ] {
            site.alpha.set(&setting, value);
            denied.send_more(20);
            allowed.arrives(&format!("{dataplane}: after {setting} = {value}"), &arrived);
            assert_eq!(refused.count(), 0, "{dataplane}: after {setting} = {value}");
        }
        // The host itself, with a route of its own to a tenant, gets nothing in.
        site.alpha.ip("addr add 10.9.0.1/32 dev lo");
        site.alpha.ip("route add 10.1.0.12/32 dev port12 src 10.9.0.1");
        let heard = Capture::start(site.machine(12), "eth0");
        site.alpha.ping("10.1.0.12");
        assert_eq!(heard.matching(|it| it[12..14] == [8, 0] && it[26..30] == [10, 9, 0, 1]).len(), 0);
        let restored = &alpha.ask(&["status"])["restored"];
        assert!(restored["routes"].as_u64() > Some(3), "{restored:#}");
        assert_eq!(alpha.port_state("port12"), "forwarding");
        site.alpha.ip("addr add 10.1.0.12/32 dev lo");
        wait_within(SOON, "an address that the host has is no endpoint's", || {
            alpha.port_state("port12").contains("address of this host")
        });
        denied.send_more(20);
        site.alpha.ip("addr del 10.1.0.12/32 dev lo");
        site.alpha.ip("route del 10.1.0.12/32 dev port12 src 10.9.0.1");
        allowed.arrives("when the host has it no more", &arrived);
        assert_eq!(refused.count(), 0, "{dataplane}");
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
        let before = Machine::of(&site.alpha);
        let mut alpha = site.run("alpha", dataplane);
        allowed.arrives("at first", &arrived);
        if dataplane == "ebpf" {
            wait_within(SOON, "it is offloaded", || carried_in_the_kernel(&alpha));
        }
        for round in 0..kills {
            if dataplane == "ebpf" {
                // Whatever plugged a port sends each flow to the pipeline once more, and what that has at the moment of a kill is cut.
                wait_within(SOON, "the programs carry the flow", || {
                    let punted = || alpha.ask(&["status"])["punts"]["stale"].as_u64();
                    let before = punted();
                    allowed.send_more(100);
                    carried_in_the_kernel(&alpha) && punted() == before
                });
            }
            alpha.kill();
            none_of_denied("without a daemon");
            // In the kernel it goes on under the last policy.
            match dataplane {
                "ebpf" => drop(allowed.arrives("without a daemon", &arrived)),
                _ => assert!(allowed.is_cut(&arrived, 20), "a frame passes without a daemon"),
            }
            site.alpha.set("net/ipv4/conf/all/proxy_arp", "1");
            site.alpha.set("net/ipv4/conf/all/forwarding", "1");
            none_of_denied("when the host forwards");
            if round % 2 == 1 {
                site.alpha.ip("link set port12 down");
                site.alpha.ip("link set port12 up");
                none_of_denied("when the port was away");
            }
            alpha = site.run("alpha", dataplane);
            allowed.arrives("again", &arrived);
            none_of_denied("again");
            // A port that is plugged while it is attacked.
            if round % 2 == 0 {
                site.alpha.ip("link del port13");
                site.world.cable((&site.alpha, "port13"), (site.machine(13), "eth0"), 1500);
                site.machine(13).ip(&format!("link set eth0 address {}", mac(13)));
                site.machine(13).ip("addr add 10.1.0.13/24 dev eth0");
                none_of_denied("when a port is plugged");
                wait_within(SOON, "it is served", || site.machine(13).ping("10.1.0.12"));
            }
        }
        site.alpha.set("net/ipv4/conf/all/proxy_arp", "0");
        site.alpha.set("net/ipv4/conf/all/forwarding", "0");
        assert!(alpha.stop().success());
        none_of_denied("and never");
        let routing =
            |line: &String| ["rule", "route", "neigh", "eg-"].iter().any(|word| line.contains(word));
        let left: Vec<_> = before.changes(&Machine::of(&site.alpha)).into_iter().filter(routing).collect();
        assert_eq!(left, Vec::<String>::new(), "{dataplane}");
    }
}

/// A network turns to it and away again while flows go on; two networks may use the same addresses.
#[test]
fn networks_turn_to_it_and_away_and_have_addresses_of_their_own() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new() else { return };
        let alpha = site.run("alpha", dataplane);
        let (stream, sink) = (
            Stream::start(site.machine(11), udp(11, 4000), udp(12, ALLOWED)),
            Sink::start(site.machine(12), udp(12, ALLOWED)),
        );
        stream.arrives("at first", &sink);
        site.reload(&alpha, &MACHINES, "neighbors = \"proxy\"");
        stream.arrives("by eastgate alone", &sink);
        assert!(!site.alpha.ip("-br link show").contains("eg-"), "{dataplane}");
        assert!(!site.alpha.ip("rule show").contains("eg-"), "{dataplane}");
        site.reload(&alpha, &MACHINES, NETWORK);
        stream.arrives("by the kernel again", &sink);
        // 13 is another tenant's now, with the address that 12 has in its own network.
        let others = MACHINES.iter().copied().filter(|(number, _)| *number != 13).collect::<Vec<_>>();
        let text = configuration(&others, NETWORK)
            + "[tenant.globex.network.lan]\nvni = 5002\nsubnets = [\"10.1.0.0/24\"]\nneighbors = \"kernel\"\n\
               [tenant.globex.group.all]\negress = [{ to = \"any\" }]\ningress = [{ from = \"any\" }]\n\
               [tenant.globex.endpoint.twin]\nnetwork = \"lan\"\nhost = \"alpha\"\nport = \"port13\"\n\
               mac = \"02:00:00:00:00:0d\"\naddresses = [\"10.1.0.12\"]\ngroups = [\"all\"]\n";
        std::fs::write(&site.config, text).unwrap();
        assert!(alpha.run(&["reload"]).status.success());
        site.machine(13).ip("addr flush dev eth0");
        site.machine(13).ip("addr add 10.1.0.12/24 dev eth0");
        let twins = Sink::start(site.machine(13), udp(12, ALLOWED));
        stream.arrives("beside another of the same address", &sink);
        stream.send_more(50);
        assert_eq!(twins.count(), 0, "{dataplane}");
        assert!(!site.machine(13).ping("10.1.0.11"), "{dataplane}: nobody of it is there");
    }
}

/// How long an answer takes is measured and shown, from the machine's socket and back to it.
#[test]
fn requests_are_answered_at_once() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new() else { return };
        let alpha = site.run("alpha", dataplane);
        let mut took = site.machine(11).enter(|| {
            let mut link = Link::open("eth0", Duration::from_secs(1)).unwrap();
            let mut ask = |to: u8| {
                let request = common::arp_request(mac(11), [10, 1, 0, 11].into(), [10, 1, 0, to].into());
                let begun = Instant::now();
                link.send(&request).unwrap();
                while let Some(frame) = link.receive().unwrap() {
                    if let Some(arp) = Arp::parse(frame).filter(|arp| arp.op == ArpOp::Reply) {
                        assert_eq!(arp.sender, (appliance(), [10, 1, 0, to].into()));
                        return begun.elapsed();
                    }
                }
                panic!("{dataplane}: no answer in a second");
            };
            (0..100).map(|round| ask([12, 13][round % 2])).collect::<Vec<_>>()
        });
        let first = took[0];
        took.sort_unstable();
        println!(
            "{dataplane}: the first answer takes {first:?}, one of 100 {:?}, the slowest {:?}",
            took[50], took[99]
        );
        assert_eq!(dropped(&alpha, "neighbor-limit"), 0);
    }
}
