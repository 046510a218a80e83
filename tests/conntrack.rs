//! Connections of real TCP stacks as real networks have them: machines that crash and come back on the same ports, ends
//! that go half closed, resets, and segments that were damaged on their way. In both dataplanes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::{Daemon, Script, Space, hardware_address, site::*, wait_for};
use serde_json::Value;

const DATAPLANES: [&str; 2] = ["userspace", "ebpf"];

/// tests/scapy/connections.py, running at a machine.
fn ends_at(machine: &Space) -> Script {
    Script::start(machine, "connections.py", &[])
}

/// A dataplane on both hosts, a client at web1, and two it speaks to: db1 on the other host, web2 on the same one.
struct Play {
    daemons: [Daemon; 2],
    client: Script,
    servers: [Script; 2],
    site: Site,
}

/// What is listened to, and how it ends: on "hold" a server says nothing when its client has finished, on "once" it is
/// the first to close.
const SERVICES: [(u16, &str); 3] = [(5432, "echo"), (5433, "hold"), (5434, "once")];

impl Play {
    fn start(dataplane: &'static str) -> Option<Self> {
        let site = Site::new(HOSTS_V4)?;
        site.rewrite(|text| text.replace("5432-5433", "5432-5434"));
        let daemons = ["alpha", "beta"].map(|host| site.run_with(host, dataplane));
        let (client, servers) = (ends_at(&site.web1), [ends_at(&site.db1), ends_at(&site.web2)]);
        let mut play = Self { daemons, client, servers, site };
        for (server, address) in
            play.servers.iter_mut().zip([["10.1.0.21", "fd00:1::21"], ["10.1.0.12", "fd00:1::12"]])
        {
            for (port, how) in SERVICES {
                for address in address {
                    server.must(&format!("listen {address} {port} {how}"), "listening", "at first");
                }
            }
        }
        // The first flow of a network brings the places that others begin on.
        assert!(play.site.web1.ping("10.1.0.21") && play.site.web1.ping("10.1.0.12"));
        assert!(play.site.web1.ping("fd00:1::21") && play.site.web1.ping("fd00:1::12"));
        Some(play)
    }

    /// The flow from this port of web1, at its host.
    fn flow(&self, sport: u16) -> Option<Value> {
        let rows = self.daemons[0].ask(&["show", "flows"]);
        rows["flows"].as_array().unwrap().iter().find(|row| row["sport"] == sport).cloned()
    }

    fn state(&self, sport: u16) -> String {
        self.flow(sport).map_or_else(|| "none".to_owned(), |row| row["state"].as_str().unwrap().to_owned())
    }

    fn dropped(&self, reason: &str) -> u64 {
        self.daemons.iter().map(|daemon| dropped(daemon, reason)).sum()
    }
}

fn dropped(daemon: &Daemon, reason: &str) -> u64 {
    let rows = daemon.ask(&["show", "drops"]);
    let rows = rows["drops"].as_array().unwrap().iter().filter(|row| row["reason"] == reason);
    rows.map(|row| row["frames"].as_u64().unwrap()).sum()
}

/// How often the kernel's programs have left a packet to the pipeline for this cause, on both hosts.
fn punted(play: &Play, cause: &str) -> u64 {
    play.daemons.iter().map(|daemon| daemon.ask(&["status"])["punts"][cause].as_u64().unwrap()).sum()
}

const AT: [&str; 4] = ["10.1.0.21", "fd00:1::21", "10.1.0.12", "fd00:1::12"];

#[test]
fn a_machine_that_crashed_opens_its_connection_again() {
    const FIRST: u32 = 1_000_000_000;
    for dataplane in DATAPLANES {
        let Some(mut play) = Play::start(dataplane) else { return };
        for address in AT {
            // Newer, older, in the window, and the very same.
            for (at, next) in
                [FIRST + 1_500_000_000, FIRST - 1_000_000, FIRST + 100, FIRST].into_iter().enumerate()
            {
                let when = format!("with {dataplane}, at {address}, from {next}");
                let sport = 700 + at;
                play.client.must(&format!("open a {sport} {address} 5432 {FIRST}"), "open", &when);
                play.client.must("say a", "heard", &when);
                play.client.must("crash a", "crashed", &when);
                play.client.must(&format!("open a {sport} {address} 5432 {next}"), "open", &when);
                play.client.must("say a", "heard", &when);
                play.client.must("reset a", "reset", &when);
                // Half closed, the server has not noticed.
                let sport = 800 + at;
                play.client.must(&format!("open a {sport} {address} 5433 {FIRST}"), "open", &when);
                play.client.must("say a", "heard", &when);
                play.client.must("finish a", "finished", &when);
                play.client.must("crash a", "crashed", &when);
                play.client.must(&format!("open a {sport} {address} 5433 {next}"), "open", &when);
                play.client.must("say a", "heard", &when);
                play.client.must("reset a", "reset", &when);
            }
        }
        assert_eq!(play.dropped("tcp-window"), 0, "with {dataplane}");
    }
}

#[test]
fn an_end_that_waits_after_the_close_takes_the_next_connection() {
    for dataplane in DATAPLANES {
        let Some(mut play) = Play::start(dataplane) else { return };
        for machine in [&play.site.web1, &play.site.web2, &play.site.db1] {
            // By time stamps an end that waits tells new from old; without them it answers an old number as RFC 9293 has it.
            machine.set("net/ipv4/tcp_timestamps", "0");
        }
        for address in AT {
            for (sport, first, next) in
                [(710, 2_000_000_000u32, 1_000_000_000u32), (711, 1_000_000_000, 2_000_000_000)]
            {
                let when = format!("with {dataplane}, at {address}, from {next}");
                for number in [first, next] {
                    play.client.must(&format!("open a {sport} {address} 5434 {number}"), "open", &when);
                    play.client.must("say a", "heard", &when);
                    // The server closes first.
                    play.client.must("hear a", "heard 0", &when);
                    play.client.must("close a", "closed", &when);
                }
            }
        }
        assert_eq!(play.dropped("tcp-window"), 0, "with {dataplane}");
    }
}

#[test]
fn the_end_that_was_asked_comes_back_and_asks_itself() {
    for dataplane in DATAPLANES {
        let Some(mut play) = Play::start(dataplane) else { return };
        for (at, address) in [(0, "10.1.0.21"), (1, "10.1.0.12")] {
            for number in [2_900_000_000u32, 1_100_000_000] {
                let when = format!("with {dataplane}, at {address}, from {number}");
                play.client.must(&format!("open a 5433 {address} 5432"), "open", &when);
                play.client.must("say a", "heard", &when);
                play.client.must("listen 10.1.0.11 5433", "listening", &when);
                play.client.must("crash-other a", "told", &when);
                let server = &mut play.servers[at];
                server.must("stop 5432", "stopped", &when);
                server.must(&format!("open b 5432 10.1.0.11 5433 {number}"), "open", &when);
                server.must("say b", "heard", &when);
                server.must("reset b", "reset", &when);
                server.must(&format!("listen {address} 5432"), "listening", &when);
                play.client.must("reset a", "reset", &when);
                play.client.must("stop 5433", "stopped", &when);
            }
        }
        assert_eq!(play.dropped("tcp-window"), 0, "with {dataplane}");
    }
}

#[test]
fn both_ends_may_open_at_once() {
    for dataplane in DATAPLANES {
        let Some(mut play) = Play::start(dataplane) else { return };
        for (at, address) in [(0, "10.1.0.21"), (1, "10.1.0.12")] {
            let when = format!("with {dataplane}, at {address}");
            let server = &mut play.servers[at];
            for (port, _) in SERVICES {
                server.must(&format!("stop {port}"), "stopped", &when);
            }
            // Each tries again as soon as it is refused, until both SYNs are on their way at once.
            server.tell("open b 5432 10.1.0.11 5433");
            play.client.tell(&format!("open a 5433 {address} 5432"));
            assert_eq!(
                (server.answer(), play.client.answer()),
                ("open".to_owned(), "open".to_owned()),
                "{when}"
            );
            play.client.must("say-only a", "said", &when);
            play.servers[at].must("hear b", "heard 5", &when);
            play.servers[at].must("say-only b", "said", &when);
            play.client.must("hear a", "heard 5", &when);
            play.client.must("reset a", "reset", &when);
        }
    }
}

#[test]
fn half_closed_connections_last_as_long_as_established_ones() {
    // RFC 5382 section 5
    const TWO_HOURS_FOUR: u64 = 7_440;
    for dataplane in DATAPLANES {
        let Some(mut play) = Play::start(dataplane) else { return };
        for (sport, address) in (720..).zip(AT) {
            let when = format!("with {dataplane}, at {address}");
            play.client.must(&format!("open a {sport} {address} 5433"), "open", &when);
            play.client.must("say a", "heard", &when);
            play.client.must("finish a", "finished", &when);
            wait_for(&format!("half closed {when}"), || play.state(sport) == "close-wait");
            let lasts = play.flow(sport).unwrap()["expires_s"].as_u64().unwrap();
            assert!((TWO_HOURS_FOUR - 60..=TWO_HOURS_FOUR).contains(&lasts), "{lasts} s {when}");
            play.client.must("reset a", "reset", &when);
            wait_for(&format!("known to be gone {when}"), || play.state(sport) == "close");
            let lasts = play.flow(sport).unwrap()["expires_s"].as_u64().unwrap();
            assert!(lasts < 60, "{lasts} s {when}");
        }
    }
}

#[test]
fn what_was_damaged_on_its_way_moves_nothing() {
    for dataplane in DATAPLANES {
        let Some(mut play) = Play::start(dataplane) else { return };
        let mut damaged = 0;
        for (sport, address) in (730..).zip(AT) {
            let (machine, own) = (
                if address.ends_with("21") { &play.site.db1 } else { &play.site.web2 },
                if address.contains(':') { "fd00:1::11" } else { "10.1.0.11" },
            );
            let mac = hardware_address(machine, "eth0");
            let when = format!("with {dataplane}, at {address}");
            play.client.must(&format!("open a {sport} {address} 5432"), "open", &when);
            play.client.must("say a", "heard", &when);
            for kind in ["rst", "fin", "data", "far", "syn"] {
                play.client.must(&format!("spoil a {kind} {mac}"), "sent", &when);
                damaged += 1;
                wait_for(&format!("{kind} is counted {when}"), || play.dropped("bad-checksum") == damaged);
                assert_eq!(play.state(sport), "established", "{kind} {when}");
                play.client.must("say a", "heard", &when);
            }
            for (kind, port) in [("syn", 5432), ("udp", 7000), ("echo", 0)] {
                play.client.must(
                    &format!("spoil-beginning {kind} {own} {address} {port} {mac}"),
                    "sent",
                    &when,
                );
                damaged += 1;
                wait_for(&format!("{kind} is counted {when}"), || play.dropped("bad-checksum") == damaged);
                assert!(play.flow(999).is_none(), "{kind} began a flow {when}");
            }
            play.client.must("close a", "closed", &when);
        }
    }
}

#[test]
fn connections_that_end_by_reset_stay_in_the_kernel_also_on_the_same_ports() {
    const CONNECTIONS: u16 = 60;
    let Some(mut play) = Play::start("ebpf") else { return };
    let mut opened = 0;
    for address in AT {
        // Once the places are there that the network's first connections bring.
        wait_for("connections begin in the kernel", || {
            opened += 1;
            let sport = 2000 + opened;
            play.client.must(&format!("open a {sport} {address} 5432"), "open", "at first");
            let offloaded = play.flow(sport).is_some_and(|flow| flow["offloaded"] == true);
            play.client.must("close a", "closed", "at first");
            offloaded
        });
        const CAUSES: [&str; 4] = ["tcp-irregular", "reserved", "no-credit", "no-flow"];
        let before = CAUSES.map(|cause| punted(&play, cause));
        for number in 0..CONNECTIONS {
            let when = format!("number {number} at {address}");
            play.client.must(&format!("open a {} {address} 5432", 900 + number % 6), "open", &when);
            play.client.must("say a", "heard", &when);
            play.client.must("reset a", "reset", &when);
        }
        assert_eq!(CAUSES.map(|cause| punted(&play, cause)), before, "{CAUSES:?} at {address}");
    }
    let shown = String::from_utf8(play.daemons[0].run(&["status"]).stdout).unwrap();
    assert!(shown.lines().any(|line| line.starts_with("punt ") && line.contains("arp-nd")), "{shown}");
}
