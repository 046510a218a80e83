//! What guests do with addresses besides having the configured ones: link-local addresses of their own choice, machines of
//! their own behind an open port, a new MAC; and what neither of them may, in both data planes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::{Daemon, Sink, Stream, send_frame, site::*, wait_for};

const DATAPLANES: [&str; 2] = ["ebpf", "userspace"];

fn run(site: &Site, dataplane: &str) -> [Daemon; 2] {
    [(&site.alpha, "alpha"), (&site.beta, "beta")].map(|(space, name)| {
        Daemon::start(&site.world, space, &site.config, name, &["--dataplane", dataplane])
    })
}

#[test]
fn a_link_local_address_of_a_guests_own_choice() {
    const CHOSEN: &str = "fe80::9d3c:4177:52ab:1";
    for dataplane in DATAPLANES {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        let _daemons = run(&site, dataplane);
        for (guest, number) in [(&site.web2, 2), (&site.db1, 3)] {
            guest.ip(&format!("addr add fe80::9d3c:4177:52ab:{number}/64 dev eth0 nodad"));
        }
        // With duplicate detection, as a stack does it.
        site.web1.ip(&format!("addr add {CHOSEN}/64 dev eth0"));
        let shows =
            |space: &common::Space, what: &str| space.ip(&format!("-6 addr show to {CHOSEN}")).contains(what);
        wait_for("the address is usable", || !shows(&site.web1, "tentative"));
        assert!(!shows(&site.web1, "dadfailed"));
        for _ in 0..2 {
            for other in [&site.web2, &site.db1] {
                wait_for(&format!("{} reaches it ({dataplane})", other.name()), || {
                    other.ping(&format!("-q {CHOSEN}%eth0"))
                });
                other.ip("-6 neigh flush dev eth0");
            }
        }
        // Taken, on the same host and on the other one.
        for other in [&site.web2, &site.db1] {
            other.ip(&format!("addr add {CHOSEN}/64 dev eth0"));
            wait_for(&format!("{} is told ({dataplane})", other.name()), || shows(other, "dadfailed"));
            // The kernel takes it for its own all the same.
            other.ip(&format!("addr del {CHOSEN}/64 dev eth0"));
        }
        wait_for("and the first one goes on", || site.web1.ping("-q fe80::9d3c:4177:52ab:3%eth0"));
    }
}

#[test]
fn machines_behind_an_open_port() {
    for dataplane in DATAPLANES {
        let Some(mut site) = Site::new(HOSTS_V4) else { return };
        let text = acme_on(HOSTS_V4)
            .replace("mac = \"02:00:00:00:00:21\"", "mac = \"02:00:00:00:00:21\"\nport_security = false");
        site.config = site.world.write("eastgate.toml", &text);
        let nested = site.world.space("nested");
        site.world.cable((&site.db1, "inside"), (&nested, "eth0"), 1500);
        for step in [
            "link add br0 address 02:00:00:00:00:21 type bridge",
            "link set br0 up",
            "link set eth0 master br0",
            "link set inside master br0",
        ] {
            site.db1.ip(step);
        }
        nested.ip("link set eth0 address 02:00:00:00:09:01");
        nested.ip("addr add 10.1.0.77/24 dev eth0");
        let [_alpha, beta] = run(&site, dataplane);
        for client in [&site.web1, &site.web2] {
            wait_for(&format!("{} reaches it ({dataplane})", client.name()), || client.ping("-q 10.1.0.77"));
        }
        assert!(nested.ping("-q 10.1.0.11"), "and it reaches others");
        // The rules of the port are its rules.
        let sinks =
            [ALLOWED, DENIED].map(|port| Sink::start(&nested, format!("10.1.0.77:{port}").parse().unwrap()));
        let streams = [ALLOWED, DENIED].map(|port| {
            let from = format!("10.1.0.11:{}", port - 1000).parse().unwrap();
            Stream::start(&site.web1, from, format!("10.1.0.77:{port}").parse().unwrap())
        });
        streams[0].arrives("what the port's rules allow", &sinks[0]);
        streams[1].send_more(100);
        assert_eq!(sinks[1].last(), 0, "what they do not allow ({dataplane})");
        // What is configured for another is refused to it: a SYN and a datagram from web2's address.
        let before = beta.drops().get("ip-spoofed").copied().unwrap_or_default();
        let syn = forged([10, 1, 0, 12], [10, 1, 0, 11]);
        send_frame(&nested, "eth0", &syn);
        wait_for("it is refused and counted", || {
            beta.drops().get("ip-spoofed").is_some_and(|frames| *frames > before)
        });
        assert!(beta.log().contains("10.1.0.12"), "and reported with the address: {}", beta.log());
    }
}

/// A SYN from the machine behind the port to web1, from somebody's address.
fn forged(from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 9, 1], [2, 0, 0, 0, 0, 0x11])
        .ipv4(from, to, 64)
        .tcp(40_000, 5432, 1, 1000)
        .syn()
        .write(&mut frame, &[])
        .unwrap();
    frame
}

#[test]
fn a_reload_tells_of_another_mac() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        let daemons = run(&site, dataplane);
        for client in [&site.web1, &site.web2] {
            for address in ["10.1.0.21", "fd00:1::21"] {
                wait_for("db1 is reached", || client.ping(&format!("-q {address}")));
            }
        }
        site.db1.ip("link set eth0 address 02:00:00:00:00:f5");
        site.world
            .write("eastgate.toml", &acme_on(HOSTS_V4).replace("02:00:00:00:00:21", "02:00:00:00:00:f5"));
        for daemon in &daemons {
            assert!(daemon.run(&["reload"]).status.success());
        }
        for client in [&site.web1, &site.web2] {
            for address in ["10.1.0.21", "fd00:1::21"] {
                let knows = || client.ip(&format!("neigh show {address}")).contains("02:00:00:00:00:f5");
                wait_for(&format!("{} knows of it ({dataplane})", client.name()), knows);
                wait_for("db1 is reached", || client.ping(&format!("-q {address}")));
            }
        }
    }
}
