//! What verdicts do beside letting pass and dropping, with real senders, on one host and from host to host, in both dataplanes:
//! who is rejected is told, what is logged is told to whoever looks, what is tried out passes and is counted, and each rule
//! says what it has done.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use common::{BOUND, Daemon, Space, bind_tcp, bind_udp, settle, site::*, wait_for};
use serde_json::Value;

/// Longer than an answer takes, and less than the second after which a SYN is sent again.
const AT_ONCE: Duration = Duration::from_millis(900);

const POLICY: &str = r#"
[policy.guard]
position = "before"
applies_to = ["site"]
ingress = [
  { action = "reject", proto = "tcp", ports = [8001], from = "any" },
  { action = "reject", proto = "udp", ports = [8002], from = "any" },
  { action = "deny", proto = "udp", ports = [8003], from = "any", mode = "audit" },
  { action = "allow", proto = "udp", ports = [8004], from = "any", log = true },
  { action = "deny", proto = "udp", ports = [8005], from = "any", log = true },
  { action = "allow", proto = "tcp", ports = [8006], from = "any" },
  { action = "deny", proto = "udp", ports = [8007], from = "any" },
  { action = "deny", proto = "udp", ports = [8008], from = "any" },
]
egress = [
  { action = "reject", proto = "tcp", ports = [8011], to = "any" },
  { action = "reject", proto = "udp", ports = [8012], to = "any" },
]
"#;

/// A site with that policy, its two daemons, and where web1 sends to: web2 on the same host, and db1 on the other.
struct Scene {
    site: Site,
    alpha: Daemon,
    beta: Daemon,
}

const NUMBERS: [u8; 2] = [12, 21];

impl Scene {
    fn new(dataplane: &str) -> Option<Self> {
        let site = Site::alone(HOSTS_V4)?;
        site.rewrite(|text| text + POLICY);
        let (alpha, beta) = (site.run_with("alpha", dataplane), site.run_with("beta", dataplane));
        Some(Self { site, alpha, beta })
    }

    fn machine(&self, number: u8) -> &Space {
        if number == 12 { &self.site.web2 } else { &self.site.db1 }
    }

    /// The daemon in front of a machine.
    fn daemon(&self, number: u8) -> &Daemon {
        if number == 12 { &self.alpha } else { &self.beta }
    }

    /// A socket of a machine that listens.
    fn serve(&self, number: u8, port: u16) -> UdpSocket {
        let socket = self.machine(number).enter(move || bind_udp(udp(number, port)));
        socket.set_read_timeout(Some(BOUND)).unwrap();
        socket
    }

    /// A socket of web1 that sends there.
    fn dial(&self, to: SocketAddr) -> UdpSocket {
        let socket = self.site.web1.enter(move || {
            let socket = bind_udp("0.0.0.0:0");
            socket.connect(to).unwrap();
            socket
        });
        socket.set_read_timeout(Some(BOUND)).unwrap();
        socket
    }

    /// The row of a rule in `show rules` of a daemon.
    fn rule(&self, daemon: &Daemon, name: &str) -> Value {
        let rules = daemon.ask(&["show", "rules"]);
        let rows = rules["rules"].as_array().unwrap();
        let found = rows.iter().find(|row| row["rule"] == format!("policy guard {name}"));
        found.unwrap_or_else(|| panic!("no rule {name}: {rules:#}")).clone()
    }
}

fn both(test: fn(&Scene, &str)) {
    for dataplane in ["userspace", "ebpf"] {
        let Some(scene) = Scene::new(dataplane) else { return };
        test(&scene, dataplane);
    }
}

#[test]
fn who_is_rejected_is_told_at_once() {
    both(|scene, dataplane| {
        for (number, [by_reset, by_icmp]) in
            NUMBERS.into_iter().flat_map(|n| [(n, [8001, 8002]), (n, [8011, 8012])])
        {
            let begun = Instant::now();
            let refused = scene
                .site
                .web1
                .enter(move || TcpStream::connect_timeout(&tcp(number, by_reset), BOUND))
                .expect_err("nobody is let in");
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{dataplane}, to {number}");
            assert!(begun.elapsed() < AT_ONCE, "{dataplane}: after {:?}", begun.elapsed());

            let socket = scene.dial(udp(number, by_icmp));
            socket.send(b"may I?").unwrap();
            let refused = socket.recv(&mut [0; 16]).expect_err("nobody answers");
            // Linux's name for it: EHOSTUNREACH
            assert_eq!(refused.kind(), ErrorKind::HostUnreachable, "{dataplane}, to {number}");
        }
        for (daemon, told) in [(&scene.alpha, 6), (&scene.beta, 2)] {
            let traffic = &daemon.ask(&["status"])["traffic"];
            assert_eq!(
                (traffic["rejects_told"].as_u64(), traffic["rejects_limited"].as_u64()),
                (Some(told), Some(0))
            );
        }
        let of = |daemon, name| scene.rule(daemon, name)["packets"].clone();
        assert_eq!(of(&scene.alpha, "ingress #1"), 1, "{dataplane}");
        assert_eq!(of(&scene.beta, "ingress #2"), 1, "{dataplane}");
        assert_eq!(of(&scene.alpha, "egress #1"), 2, "{dataplane}");
    });
}

#[test]
fn what_is_tried_out_passes_and_is_counted() {
    both(|scene, dataplane| {
        for number in NUMBERS {
            let (server, client) = (scene.serve(number, 8003), scene.dial(udp(number, 8003)));
            for _ in 0..3 {
                client.send(b"let me").unwrap();
                let (_, from) = server.recv_from(&mut [0; 16]).unwrap();
                server.send_to(b"come", from).unwrap();
                assert_eq!(client.recv(&mut [0; 16]).unwrap(), 4, "{dataplane}");
            }
            let daemon = scene.daemon(number);
            let row = scene.rule(daemon, "ingress #3");
            assert_eq!((&row["action"], &row["audit"]), (&"deny".into(), &true.into()));
            assert_eq!(
                (&row["would_deny"], &row["flows"], &row["packets"]),
                (&1.into(), &1.into(), &6.into())
            );
            let would = daemon.ask(&["show", "drops", "--audit"]);
            assert_eq!((&would["total"], &would["drops"][0]["reason"]), (&1.into(), &"ingress-rule".into()));
            assert_eq!(daemon.ask(&["status"])["traffic"]["would_deny"], 1, "{dataplane}");
            let flows = daemon.ask(&["show", "flows", "--port", "8003"]);
            let flow = flows["flows"]
                .as_array()
                .unwrap()
                .iter()
                .find(|row| row["dst"] == format!("10.1.0.{number}"));
            assert_eq!(flow.unwrap()["audit"], true, "{dataplane}: {flows:#}");
            wait_for("it is told", || events(daemon, "would-be-denied").len() == 1);
        }
        assert!(
            scene.alpha.ask(&["show", "drops"])["drops"]
                .as_array()
                .unwrap()
                .iter()
                .all(|row| row["reason"] != "ingress-rule")
        );
    });
}

/// The events that a daemon has to tell.
fn observed(daemon: &Daemon, more: &[&str]) -> Vec<Value> {
    let output = daemon.run(&[&["observe", "-o", "json"], more].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Those of a kind.
fn events(daemon: &Daemon, kind: &str) -> Vec<Value> {
    observed(daemon, &[]).into_iter().filter(|row| row["event"] == kind).collect()
}

#[test]
fn what_is_logged_is_told_and_nothing_else() {
    both(|scene, dataplane| {
        let (server, sender) = (scene.serve(12, 8004), scene.dial(udp(12, 8005)));
        let logged = |kind: &str| -> u64 {
            let rows = events(&scene.alpha, kind);
            rows.iter().filter(|row| row["log"] == true).map(|row| row["packets"].as_u64().unwrap_or(1)).sum()
        };
        for sent in 1..=3 {
            // The programs decide from the first one on; packets that differ in nothing are told all the same.
            sender.send(b"hello").unwrap();
            scene.dial(udp(12, 8004)).send(b"hello").unwrap();
            scene.dial(udp(12, 8007)).send(b"hello").unwrap();
            server.recv_from(&mut [0; 16]).unwrap();
            wait_for("each is told", || (logged("begun"), logged("denied")) == (sent, sent));
        }
        let log = || scene.alpha.log();
        wait_for("it is in the log", || log().matches("policy guard ingress #5").count() >= 3);
        assert_eq!(log().matches("policy guard ingress #4").count(), 3, "{dataplane}: {}", log());
        assert!(
            log().contains("begun: udp 10.1.0.11") && log().contains("refused: udp 10.1.0.11"),
            "{}",
            log()
        );
        assert!(!log().contains("ingress #7"), "it has no `log`");
    });
}

/// Flows that begin one after the other, while what carries them is looked at again and again.
#[test]
fn each_flow_that_begins_is_told_once() {
    both(|scene, dataplane| {
        let (server, expected) = (scene.serve(12, 8004), (20_000..23_000).collect::<Vec<u16>>());
        scene.site.web1.enter(|| {
            for port in &expected {
                bind_udp(("0.0.0.0", *port)).send_to(b"hello", udp(12, 8004)).unwrap();
                server.recv_from(&mut [0; 16]).unwrap();
                std::thread::sleep(Duration::from_micros(700));
            }
        });
        let (mut ports, mut after) = (Vec::new(), 0);
        let mut read = || {
            // One answer after the other, as each tells a part of it.
            while let rows = observed(&scene.alpha, &["--after", &after.to_string()])
                && let Some(last) = rows.last()
            {
                after = last["seq"].as_u64().unwrap();
                let begun = rows.iter().filter(|row| row["event"] == "begun");
                ports.extend(begun.map(|row| row["sport"].as_u64().unwrap() as u16));
            }
            ports.sort_unstable();
            ports.clone()
        };
        let told = settle(&mut read, |ports| ports.len() >= expected.len());
        // One more, told in a round behind those: what is told again has been by then.
        scene.site.web1.enter(|| bind_udp(("0.0.0.0", 19_999)).send_to(b"last", udp(12, 8004)).unwrap());
        let told = settle(read, |ports| ports.first() == Some(&19_999)).split_off(1.min(told.len()));
        let missing: Vec<_> = expected.iter().filter(|port| !told.contains(port)).collect();
        assert!(missing.is_empty(), "{dataplane}: not told {missing:?}");
        assert_eq!(told, expected, "{dataplane}");
    });
}

#[test]
fn each_rule_says_what_it_has_done() {
    both(|scene, dataplane| {
        for number in NUMBERS {
            let listener = scene.machine(number).enter(move || bind_tcp(tcp(number, 8006)));
            let server = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                stream.read_to_end(&mut Vec::new()).unwrap();
            });
            let mut client = scene.site.web1.enter(move || TcpStream::connect(tcp(number, 8006)).unwrap());
            client.write_all(&[7; 5000]).unwrap();
            let daemon = scene.daemon(number);
            wait_for("what has passed so far is counted", || {
                let row = scene.rule(daemon, "ingress #6");
                row["flows"] == 1 && row["bytes"].as_u64().unwrap() > 5000
            });
            drop(client);
            server.join().unwrap();
            for _ in 0..5 {
                scene.dial(udp(number, 8007)).send(b"hello").unwrap();
            }
            wait_for("what is refused is counted", || scene.rule(daemon, "ingress #7")["packets"] == 5);
            let (ended, refused) = (scene.rule(daemon, "ingress #6"), scene.rule(daemon, "ingress #7"));
            assert_eq!(
                (&ended["action"], &ended["flows"], &refused["flows"]),
                (&"allow".into(), &1.into(), &0.into())
            );
            assert!(ended["packets"].as_u64().unwrap() >= 8, "{dataplane}: {ended}");
            assert!(refused["bytes"].as_u64().unwrap() >= 5 * 47, "{dataplane}: {refused}");
            assert!(refused["first_s"].is_u64() && refused["first_s"].as_u64() >= refused["last_s"].as_u64());
            let unused = scene.rule(daemon, "ingress #8");
            assert_eq!((&unused["packets"], &unused["first_s"]), (&0.into(), &Value::Null), "{dataplane}");
        }
        let text = String::from_utf8(scene.alpha.run(&["show", "rules"]).stdout).unwrap();
        let unused = text.lines().find(|line| line.contains("ingress #8")).unwrap();
        assert_eq!(unused.matches("never").count(), 2, "{text}");

        // Another rule comes: the others go on counting.
        let before = scene.rule(&scene.alpha, "ingress #7");
        scene.site.rewrite(|text| text.replace("[8008], from", "[8008, 8009], from"));
        scene.alpha.ask(&["reload"]);
        scene.dial(udp(12, 8007)).send(b"again").unwrap();
        wait_for("it goes on", || {
            scene.rule(&scene.alpha, "ingress #7")["packets"] == before["packets"].as_u64().unwrap() + 1
        });
        assert_eq!(scene.rule(&scene.alpha, "ingress #8")["packets"], 0);
    });
}
