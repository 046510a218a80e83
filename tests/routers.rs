//! Endpoints that forward for others, with the kernel's own forwarding: networks behind them, and a way between two
//! endpoints that leads through a third. In both dataplanes, wherever the machines run.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use common::{Daemon, Sink, Space, Stream, bind_tcp, bulk, send_frame, settle, site::*, wait_for};
use etherparse::PacketBuilder;

const DATAPLANES: [&str; 2] = ["ebpf", "userspace"];
const MODES: [&str; 2] = ["suppress", "proxy"];

/// An endpoint that may be the router: its number, and the name of its host.
const ROUTERS: [(u8, &str); 2] = [(0x12, "on the client's host"), (0x21, "on the other host")];

/// The configuration with `lines` for endpoint `number`.
fn with(text: &str, number: u8, lines: &str) -> String {
    let mac = format!("mac = \"02:00:00:00:00:{number:02x}\"\n");
    assert!(text.contains(&mac), "{text}");
    text.replace(&mac, &format!("{mac}{lines}\n"))
}

fn start(site: &Site, dataplane: &str, mode: &str) -> [Daemon; 2] {
    site.rewrite(|text| text.replace("vni = 5001\n", &format!("vni = 5001\nneighbors = \"{mode}\"\n")));
    ["alpha", "beta"].map(|host| site.run_with(host, dataplane))
}

fn forwards(router: &Space) {
    router.set("net/ipv4/ip_forward", "1");
    router.set("net/ipv6/conf/all/forwarding", "1");
    for device in ["all", "eth0"] {
        router.set(&format!("net/ipv4/conf/{device}/send_redirects"), "0");
    }
}

#[test]
fn what_is_behind_a_router_is_reached_and_reaches_others() {
    for dataplane in DATAPLANES {
        for mode in MODES {
            for (number, place) in ROUTERS {
                let what = format!("{dataplane}, {mode}, {place}");
                let Some(mut site) = Site::new(HOSTS_V4) else { return };
                site.rewrite(|text| with(&text, number, r#"routes = ["10.9.0.0/16", "fd00:9::/64"]"#));
                let behind = site.world.space("behind");
                let router = if number == 0x12 { &site.web2 } else { &site.db1 };
                site.world.cable((router, "inside"), (&behind, "eth0"), 1500);
                for (space, device, last) in [(router, "inside", 1), (&behind, "eth0", 5)] {
                    space.ip(&format!("addr add 10.9.0.{last}/16 dev {device}"));
                    space.ip(&format!("addr add fd00:9::{last}/64 dev {device} nodad"));
                    // What a kernel that forwards asks for neighbours with
                    space.ip(&format!("addr add fe80::9:{last}/64 dev {device} nodad"));
                }
                router.ip(&format!("addr add fe80::ff:fe00:{number:x}/64 dev eth0 nodad"));
                behind.ip("route add default via 10.9.0.1");
                behind.ip("-6 route add default via fd00:9::1");
                forwards(router);
                site.web1.ip(&format!("route add 10.9.0.0/16 via 10.1.0.{number:x}"));
                site.web1.ip(&format!("-6 route add fd00:9::/64 via fd00:1::{number:x}"));
                let [alpha, beta] = start(&site, dataplane, mode);

                let drops = || [&alpha, &beta].map(|daemon| daemon.ask(&["show", "drops"])["drops"].clone());
                for address in ["10.9.0.5", "fd00:9::5"] {
                    let reached = settle(|| site.web1.ping(address), |reached| *reached);
                    assert!(reached, "{address} is reached ({what}): {:?}", drops());
                }
                for address in ["10.1.0.11", "fd00:1::11"] {
                    assert!(behind.ping(address), "{address} from behind ({what}): {:?}", drops());
                }
                for (there, back) in [("10.9.0.5", "10.1.0.11"), ("fd00:9::5", "fd00:1::11")] {
                    let at = |ip: &str, port| SocketAddr::new(ip.parse().unwrap(), port);
                    bulk(&site.web1, (&behind, at(there, 5432)), 5_000_000);
                    bulk(&behind, (&site.web1, at(back, 5432)), 5_000_000);
                }
                let sinks = [ALLOWED, DENIED]
                    .map(|port| Sink::start(&behind, SocketAddr::new("10.9.0.5".parse().unwrap(), port)));
                let streams = [ALLOWED, DENIED].map(|port| {
                    Stream::start(
                        &site.web1,
                        udp(11, port - 1000),
                        format!("10.9.0.5:{port}").parse().unwrap(),
                    )
                });
                streams[0].arrives(&format!("what the router's rules allow ({what})"), &sinks[0]);
                let refused = || -> u64 {
                    let reasons = [&alpha, &beta].map(|daemon| daemon.drops());
                    reasons.iter().filter_map(|drops| drops.get("ingress-denied")).sum()
                };
                let before = refused();
                wait_for(&format!("what they do not allow ({what})"), || refused() >= before + 100);
                assert_eq!(sinks[1].last(), 0, "{what}");

                // It forwards for its routes alone, and not for what is somebody's.
                let daemon = if number == 0x12 { &alpha } else { &beta };
                let spoofed = || daemon.drops().get("ip-spoofed").copied().unwrap_or(0);
                let neighbour = if number == 0x12 { 21 } else { 12 };
                for source in [[198, 51, 100, 7], [10, 1, 0, neighbour]] {
                    let before = spoofed();
                    let mut frame = Vec::new();
                    PacketBuilder::ethernet2([2, 0, 0, 0, 0, number], WEB1.0)
                        .ipv4(source, [10, 1, 0, 11], 64)
                        .udp(4000, ALLOWED)
                        .write(&mut frame, b"forged")
                        .unwrap();
                    send_frame(router, "eth0", &frame);
                    wait_for(&format!("{source:?} is refused ({what})"), || spoofed() == before + 1);
                }
            }
        }
    }
}

/// Management and a VTEP's address behind the router: who may send there is the operator's to say, and what, the rules'.
#[test]
fn addresses_of_the_underlay_are_reached_by_whom_the_operator_names() {
    const RESERVED: &str = "192.0.2.1";
    for dataplane in DATAPLANES {
        for mode in MODES {
            let what = format!("{dataplane}, {mode}");
            let Some(mut site) = Site::new(HOSTS_V4) else { return };
            let behind = site.world.space("behind");
            site.world.cable((&site.db1, "inside"), (&behind, "eth0"), 1500);
            site.db1.ip("addr add 10.9.0.1/16 dev inside");
            site.db1.ip(&format!("route add {RESERVED}/32 dev inside"));
            behind.ip("addr add 10.9.0.5/16 dev eth0");
            behind.ip(&format!("addr add {RESERVED}/32 dev eth0"));
            behind.ip("route add default via 10.9.0.1");
            forwards(&site.db1);
            for space in [&site.web1, &site.web2] {
                space.ip("route add 10.9.0.0/16 via 10.1.0.21");
                space.ip(&format!("route add {RESERVED}/32 via 10.1.0.21"));
            }
            let closed = with(
                &std::fs::read_to_string(&site.config).unwrap(),
                0x21,
                &format!("routes = [\"10.9.0.0/16\", \"{RESERVED}\"]"),
            )
            .replacen("vtep = ", "management = [\"10.9.0.0/16\"]\nvtep = ", 1);
            site.rewrite(|_| format!("underlay_access = [\"acme/web1\"]\n{closed}"));
            let daemons = start(&site, dataplane, mode);
            let alpha = &daemons[0];
            let refused = |reason: &str| alpha.drops().get(reason).copied().unwrap_or(0);

            for address in ["10.9.0.5", RESERVED] {
                let reached = settle(|| site.web1.ping(address), |reached| *reached);
                assert!(reached, "{address} is reached ({what}): {:?}", alpha.drops());
            }
            let at = |ip: &str, port| SocketAddr::new(ip.parse().unwrap(), port);
            bulk(&site.web1, (&behind, at("10.9.0.5", 5432)), 3_000_000);
            let allowed = Sink::start(&behind, at("10.9.0.5", ALLOWED));
            let stream = Stream::start(&site.web1, udp(11, 4000), at("10.9.0.5", ALLOWED));
            stream.arrives(&format!("what the rules allow ({what})"), &allowed);
            assert_eq!(refused("reserved-destination"), 0, "{what}");
            let denied = Sink::start(&behind, at("10.9.0.5", DENIED));
            Stream::start(&site.web1, udp(11, 4001), at("10.9.0.5", DENIED)).send_more(50);
            let refused_there = || daemons[1].drops().get("ingress-denied").copied().unwrap_or(0);
            wait_for(&format!("what they do not allow ({what})"), || refused_there() >= 50);
            assert_eq!(denied.last(), 0, "{what}");

            let tunnels = Sink::start(&behind, at(RESERVED, 4789));
            Stream::start(&site.web1, udp(11, 4002), at(RESERVED, 4789)).send_more(20);
            wait_for(&format!("tunnels are refused ({what})"), || refused("vxlan-in-vxlan") >= 20);
            assert_eq!(tunnels.last(), 0, "{what}");
            let before = allowed.last();
            Stream::start(&site.web2, udp(12, 4000), at("10.9.0.5", ALLOWED)).send_more(20);
            wait_for(&format!("others are refused ({what})"), || refused("reserved-destination") >= 20);
            assert!(!site.web2.ping("-q -W 1 10.9.0.5"), "{what}");
            stream.arrives(&format!("the flow of who may goes on ({what})"), &allowed);
            assert!(allowed.last() > before, "{what}");

            // Whoever is not on the list does not answer such an address either, in the first connection or in one like it.
            let listeners = [&site.web1, &site.web2].map(|space| space.enter(|| bind_tcp("0.0.0.0:5433")));
            let connects = |to: &str| {
                let to = at(to, 5433);
                behind.enter(move || TcpStream::connect_timeout(&to, Duration::from_secs(2)).is_ok())
            };
            for round in 0..3 {
                assert!(connects("10.1.0.11"), "who is on the list is reached from there ({what}, {round})");
                assert!(!connects("10.1.0.12"), "who is not answers nothing ({what}, {round})");
            }
            drop(listeners);

            // Who is taken off the list is cut off, wherever the flow is carried.
            site.rewrite(|text| text.replace("underlay_access = [\"acme/web1\"]", ""));
            for daemon in &daemons {
                assert!(daemon.run(&["reload"]).status.success());
            }
            assert!(stream.is_cut(&allowed, 50), "off the list ({what})");
        }
    }
}

/// web1 and the server send to each other by way of the router: each packet enters and leaves the network twice.
#[test]
fn a_way_through_a_third_endpoint_is_two_flows_wherever_the_machines_run() {
    for dataplane in DATAPLANES {
        for (number, place) in ROUTERS {
            let what = format!("{dataplane}, the router {place}");
            let Some(site) = Site::new(HOSTS_V4) else { return };
            let (router, server, last) =
                if number == 0x12 { (&site.web2, &site.db1, 0x21) } else { (&site.db1, &site.web2, 0x12) };
            let pairs = format!(
                "allowed_pairs = [{{ address = \"10.1.0.11\" }}, {{ address = \"10.1.0.{last:x}\" }}]"
            );
            site.rewrite(|text| with(&text, number, &pairs));
            forwards(router);
            for (space, to) in [(&site.web1, last), (server, 0x11)] {
                space.ip(&format!("route add 10.1.0.{to:x}/32 via 10.1.0.{number:x}"));
                space.set("net/ipv4/conf/eth0/accept_redirects", "0");
            }
            let [alpha, beta] = start(&site, dataplane, "suppress");
            let at: SocketAddr = format!("10.1.0.{last:x}:5432").parse().unwrap();

            wait_for(&format!("the server is reached ({what})"), || site.web1.ping(&at.ip().to_string()));
            for _ in 0..2 {
                bulk(&site.web1, (server, at), 3_000_000);
                bulk(server, (&site.web1, "10.1.0.11:5432".parse().unwrap()), 3_000_000);
            }
            // By the router, and not past it.
            let forwarded = router.enter(|| std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap());
            let ip: Vec<&str> = forwarded.lines().filter_map(|line| line.strip_prefix("Ip: ")).collect();
            let place = ip[0].split(' ').position(|name| name == "ForwDatagrams").unwrap();
            let datagrams: u64 = ip[1].split(' ').nth(place).unwrap().parse().unwrap();
            assert!(datagrams > 200, "the router forwarded {datagrams} ({what})");
            // What the router forwards does not make the client's address its own.
            for daemon in [&alpha, &beta] {
                assert!(!daemon.log().contains("an address moved"), "{what}: {}", daemon.log());
            }
            for daemon in [&alpha, &beta] {
                let drops = daemon.drops();
                assert!(
                    drops.keys().all(|reason| !reason.contains("denied") && !reason.contains("spoofed")),
                    "{what}: {drops:?}"
                );
            }
            let name = if number == 0x12 { "acme/web2" } else { "acme/db1" };
            let flows = alpha.ask(&["show", "flows"]);
            let legs = flows["flows"].as_array().unwrap().iter().filter(|flow| flow["via"] == name).count();
            assert!(legs > 0, "legs are told, and whom they are by ({what}): {flows}");
            if dataplane == "ebpf" {
                let to = SocketAddr::new(at.ip(), ALLOWED);
                let sink = Sink::start(server, to);
                let stream = Stream::start(&site.web1, udp(11, 4000), to);
                stream.arrives("a datagram", &sink);
                wait_for(&format!("a leg is carried in the kernel ({what})"), || {
                    let flows = alpha.ask(&["show", "flows"]);
                    let mut flows = flows["flows"].as_array().unwrap().iter();
                    flows.any(|flow| flow["via"] == name && flow["offloaded"] == true)
                });
                stream.arrives("and a datagram after it", &sink);
            }
        }
    }
}
