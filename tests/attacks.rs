//! What guests try that want what is not theirs, with frames that scapy builds, in both dataplanes: nobody receives any of
//! it, and each frame counts under the reason that docs/attacks.md names.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

#[allow(dead_code, reason = "the page of docs/attacks.md is made of the rest")]
#[path = "attacks/cases.rs"]
mod cases;

use std::collections::{BTreeMap, BTreeSet};

use cases::{Case, SECTIONS};
use common::{Capture, Daemon, Script, Space, send_frame, settle, site::*, wait_for};
use serde_json::Value;

const DATAPLANES: [&str; 2] = ["ebpf", "userspace"];

/// How an endpoint finds another: by its own MAC, or by the appliance's.
const NEIGHBORS: [&str; 2] = ["suppress", "proxy"];

/// Two hosts; web1 is the attacker, web2 on its host and db1 on the other are who is attacked. The kernels of the machines
/// have no addresses, so all that is heard is what was sent.
struct Stage {
    attacker: Script,
    captures: [Capture; 2],
    daemons: [Daemon; 2],
    markers: u32,
    site: Site,
}

impl Stage {
    fn set(dataplane: &str, change: impl FnOnce(String) -> String) -> Option<Self> {
        let site = Site::new(HOSTS_V4)?;
        site.rewrite(change);
        [&site.web1, &site.web2, &site.db1].into_iter().for_each(silence);
        let daemons = ["alpha", "beta"].map(|host| site.run_with(host, dataplane));
        let captures = [&site.web2, &site.db1].map(|machine| Capture::start(machine, "eth0"));
        let attacker = Script::start(&site.web1, "attacks.py", &["eth0", "web1"]);
        let mut stage = Self { attacker, captures, daemons, markers: 0, site };
        // What follows a start (announcements of the endpoints) is over when what may pass does.
        stage.mark("at first");
        Some(stage)
    }

    /// Dropped frames by reason, of both hosts.
    fn drops(&self) -> BTreeMap<String, u64> {
        let mut drops = BTreeMap::new();
        for (reason, count) in self.daemons.iter().flat_map(Daemon::drops) {
            *drops.entry(reason).or_default() += count;
        }
        drops
    }

    /// What came to each of the two from web1, markers not counted.
    fn heard(&self) -> [usize; 2] {
        self.captures.each_ref().map(|capture| {
            let marker = |frame: &[u8]| frame.windows(7).any(|window| window == b"marker ");
            capture.matching(|frame| !marker(frame)).len()
        })
    }

    /// Sends what may pass, and waits for it.
    fn mark(&mut self, when: &str) {
        self.markers += 1;
        let number = self.markers.to_string();
        self.attacker.send(&format!("marker {number}."));
        let ending = format!("marker {number}.");
        for capture in &self.captures {
            wait_for(&format!("what may pass arrives {when}"), || {
                !capture.matching(|frame| frame.ends_with(ending.as_bytes())).is_empty()
            });
        }
    }

    /// What was dropped since, by reason, as soon as it is as much as this.
    fn dropped_since(&self, before: &BTreeMap<String, u64>, frames: u64) -> BTreeMap<String, u64> {
        let since = || {
            let mut drops = self.drops();
            drops.retain(|reason, count| {
                *count -= before.get(reason).copied().unwrap_or(0);
                *count > 0
            });
            drops
        };
        settle(since, |drops| drops.values().sum::<u64>() >= frames)
    }

    /// The reasons that `eastgate observe` tells, each of web1 and in words.
    fn observed(&self) -> BTreeSet<String> {
        let lines = self.daemons.iter().map(|daemon| {
            let output = daemon.run(&["observe", "-o", "json", "--verdict", "dropped"]);
            String::from_utf8(output.stdout).unwrap()
        });
        let lines = lines.collect::<String>();
        let rows = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let mut reasons = BTreeSet::new();
        for row in rows {
            assert!(row["text"].as_str().is_some_and(|text| !text.is_empty()), "{row:#}");
            assert_eq!(row["src_endpoint"], "acme/web1", "{row:#}");
            reasons.insert(row["reason"].as_str().unwrap().to_owned());
        }
        reasons
    }

    /// Sends the frames of a case: each is dropped for its reason, and reaches nobody. Tells what is otherwise.
    fn play(&mut self, case: &Case) -> Option<String> {
        let (before, heard) = (self.drops(), self.heard());
        let sent = self.attacker.send(case.name);
        let refused = sent - (self.captures.len() * case.passes) as u64;
        let drops = self.dropped_since(&before, refused);
        self.mark(&format!("after {}", case.name));
        let came = self.heard().iter().zip(heard).map(|(now, before)| now - before).collect::<Vec<_>>();
        let wanted = BTreeMap::from([(case.reason.to_owned(), refused)]);
        let holds = drops == wanted && came == [case.passes; 2];
        (!holds).then(|| format!("{}: dropped {drops:?} of {wanted:?}, arrived {came:?}", case.name))
    }
}

/// A machine whose kernel says nothing.
fn silence(machine: &Space) {
    machine.set("net/ipv6/conf/eth0/disable_ipv6", "1");
    machine.ip("addr flush dev eth0");
}

#[test]
fn what_is_tried_against_others_does_not_reach_them() {
    for dataplane in DATAPLANES {
        for neighbors in NEIGHBORS {
            let network = format!("vni = 5001\nneighbors = \"{neighbors}\"\n");
            let Some(mut stage) = Stage::set(dataplane, |text| text.replace("vni = 5001\n", &network)) else {
                return;
            };
            let cases = SECTIONS.iter().flat_map(|section| section.cases);
            let otherwise: Vec<_> = cases.filter_map(|case| stage.play(case)).collect();
            assert!(otherwise.is_empty(), "{dataplane}, {neighbors}:\n{}", otherwise.join("\n"));
            // Frames of the link are what every switch and guest sends; nobody is told of each.
            let reasons =
                SECTIONS.iter().flat_map(|section| section.cases).map(|case| case.reason.to_owned());
            let told: BTreeSet<String> = reasons.filter(|reason| reason != "link-protocol").collect();
            assert_eq!(settle(|| stage.observed(), |reasons| *reasons == told), told, "{dataplane}");
        }
    }
}

/// Routers and servers of IPv6 that nobody has configured, in a network of IPv4 alone.
#[test]
fn a_network_of_ipv4_alone_takes_no_routers_or_servers() {
    // What has an address of IPv6 that is no link-local one has none of its own here.
    const CASES: [(&str, &str); 6] = [
        ("router-advertisement", "ra-guard"),
        ("redirect", "ra-guard"),
        ("dhcpv6-server", "ip-spoofed"),
        ("dhcp-server", "dhcp-server-guard"),
        ("nd-advertisement-of-others", "ip-spoofed"),
        ("nd-solicitation-of-others", "ip-spoofed"),
    ];
    for dataplane in DATAPLANES {
        for neighbors in NEIGHBORS {
            let of_one_family = |text: String| {
                let network = format!("vni = 5001\nneighbors = \"{neighbors}\"\n");
                let text = text.replace("vni = 5001\n", &network).replace(", \"fd00:1::/64\"", "");
                [11, 12, 21]
                    .iter()
                    .fold(text, |text, number| text.replace(&format!(", \"fd00:1::{number}\""), ""))
            };
            let Some(mut stage) = Stage::set(dataplane, of_one_family) else { return };
            let text = std::fs::read_to_string(&stage.site.config).unwrap();
            assert!(!text.contains("fd00:"), "{text}");
            for (name, reason) in CASES {
                let (before, heard) = (stage.drops(), stage.heard());
                let sent = stage.attacker.send(name);
                let drops = stage.dropped_since(&before, sent);
                stage.mark(&format!("after {name}"));
                assert_eq!(stage.heard(), heard, "{dataplane}, {neighbors}: {name}");
                let wanted = BTreeMap::from([(reason.to_owned(), sent)]);
                assert_eq!(drops, wanted, "{dataplane}, {neighbors}: {name}");
            }
        }
    }
}

/// Two ports of the appliance lead to one segment: whoever asks there is answered once, by the port that it is configured at.
#[test]
fn a_segment_with_two_ports_is_answered_once() {
    for dataplane in DATAPLANES {
        for neighbors in NEIGHBORS {
            let Some(mut site) = Site::new(HOSTS_V4) else { return };
            let segment = site.world.space("segment");
            segment.ip("link add name br0 type bridge");
            segment.ip("link set br0 up");
            for (port, machine, number) in [("veth-web1", &site.web1, 0x11), ("veth-web2", &site.web2, 0x12)]
            {
                site.alpha.ip(&format!("link del {port}"));
                site.plug(&segment, &format!("of-{number:x}"), machine, number);
                site.world.cable((&site.alpha, port), (&segment, port), 1500);
                for device in [format!("of-{number:x}"), port.to_owned()] {
                    segment.ip(&format!("link set {device} master br0"));
                }
            }
            let network = format!("vni = 5001\nneighbors = \"{neighbors}\"\n");
            site.rewrite(|text| text.replace("vni = 5001\n", &network));
            [&site.web1, &site.web2, &site.db1].into_iter().for_each(silence);
            let [alpha, _beta] = ["alpha", "beta"].map(|host| site.run_with(host, dataplane));
            let what = format!("{dataplane}, {neighbors}");
            let at_the_other = |reason: &str| alpha.drops().get(reason).copied().unwrap_or(0);
            let capture = Capture::start(&site.web1, "eth0");
            let question = |target: [u8; 4]| {
                let (own, sender) = (WEB1.0, [10, 1, 0, 11]);
                let arp = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &own, &sender, &[0; 6], &target].concat();
                [&[0xff; 6][..], &own, &[8, 6], &arp, &[0; 18]].concat()
            };
            let answers = |target: [u8; 4]| {
                let is_answer = |frame: &[u8]| {
                    frame[12..14] == [8, 6] && frame[20..22] == [0, 2] && frame[28..32] == target
                };
                capture.matching(is_answer).len()
            };
            let (server, host) = ([10, 1, 0, 21], [192, 0, 2, 1]);
            for round in 1..=5 {
                let before = at_the_other("mac-spoofed");
                send_frame(&site.web1, "eth0", &question(server));
                wait_for(&format!("round {round} is answered ({what})"), || answers(server) >= round);
                // The same frame came in at the port of web2, whose MAC it does not have.
                wait_for(&format!("the other port refuses it ({what})"), || {
                    at_the_other("mac-spoofed") > before
                });
            }
            // Nor does the host's kernel answer for its own address, at either port.
            for _ in 0..3 {
                send_frame(&site.web1, "eth0", &question(host));
            }
            send_frame(&site.web1, "eth0", &question(server));
            wait_for(&format!("what is asked last is answered ({what})"), || answers(server) >= 6);
            assert_eq!((answers(server), answers(host)), (6, 0), "{what}");
        }
    }
}

/// One end of a connection whose segments are made here, with what has come to its machine.
struct End {
    script: Script,
    capture: Capture,
    peer: &'static str,
    ports: (u16, u16),
    /// The number of the next byte that it sends
    seq: u32,
}

impl End {
    fn at(machine: &Space, name: &str, peer: &'static str, ports: (u16, u16), seq: u32) -> Self {
        let script = Script::start(machine, "attacks.py", &["eth0", name]);
        Self { script, capture: Capture::start(machine, "eth0"), peer, ports, seq }
    }

    /// Sends a segment with these numbers, and `text` in it.
    fn send(&mut self, flags: &str, seq: u32, ack: u32, text: &str) {
        let (peer, (from, to)) = (self.peer, self.ports);
        self.script.send(&format!("segment {peer} {from} {to} {flags} {seq} {ack} {text}"));
    }

    /// Sends the next segment, which comes to `other`.
    fn passes(&mut self, other: &Self, flags: &str, text: &str) {
        let before = other.capture.all().len();
        self.send(flags, self.seq, other.seq, text);
        self.seq += text.len() as u32 + u32::from(flags.contains('S'));
        wait_for(&format!("{flags} {text} arrives"), || other.capture.all().len() > before);
    }
}

#[test]
fn a_connection_takes_nothing_from_outside_its_window() {
    /// Beyond any window of these ends, which scale none.
    const FAR: u32 = 100_000;
    for dataplane in DATAPLANES {
        // A second tenant with the same addresses, of which one machine is there.
        let twin = |text: String| {
            let (hosts, acme) = text.split_at(text.find("[tenant.").unwrap());
            let twin = acme.replace("acme", "twin").replace("5001", "5002").replace("veth-", "twin-");
            [hosts, acme, "\n", &twin].concat()
        };
        let Some(mut stage) = Stage::set(dataplane, twin) else { return };
        let other = stage.site.world.space("twin");
        stage.site.plug(&stage.site.alpha, "twin-web1", &other, 0x11);
        silence(&other);
        wait_for("the other tenant's port is served", || {
            stage.daemons[0].port_state("twin-web1") == "forwarding"
        });
        let mut client = End::at(&stage.site.web1, "web1", "db1", (4100, 5432), 1000);
        let mut server = End::at(&stage.site.db1, "db1", "web1", (5432, 4100), 5000);
        client.passes(&server, "S", "");
        server.passes(&client, "SA", "");
        client.passes(&server, "A", "");
        for round in 0..2 {
            for flags in ["R", "RA", "FA", "PA", "A"] {
                for from_client in [true, false] {
                    let (from, to) =
                        if from_client { (&mut client, &mut server) } else { (&mut server, &mut client) };
                    let (before, heard) = (stage.drops(), to.capture.all().len());
                    let (seq, ack) = (from.seq, to.seq);
                    from.send(flags, seq + FAR, ack, "blind");
                    // An acknowledgement of what the other end has not sent.
                    from.send("A", seq, ack + FAR, "blind");
                    let drops = stage.dropped_since(&before, 2);
                    assert_eq!(drops, BTreeMap::from([("tcp-window".to_owned(), 2)]), "{dataplane}, {flags}");
                    assert_eq!(to.capture.all().len(), heard, "{dataplane}, {flags}");
                    from.passes(to, "PA", &format!("goes-on-{round}"));
                    to.passes(from, "A", "");
                }
            }
        }
        // A SYN is the other end's to judge: it tells the one who is meant what it has (RFC 5961 section 4), and the connection stays.
        for from_client in [true, false] {
            let (from, to) =
                if from_client { (&mut client, &mut server) } else { (&mut server, &mut client) };
            from.send("S", from.seq + FAR, 0, "");
            from.passes(to, "PA", "after-a-syn");
            to.passes(from, "A", "");
        }
        // The same addresses and ports, the right numbers: of another tenant, which has no such connection.
        let before = stage.drops();
        let mut stranger = End::at(&other, "web1", "db1", (4100, 5432), client.seq);
        let heard = server.capture.all().len();
        stranger.send("PA", client.seq, server.seq, "blind");
        let drops = stage.dropped_since(&before, 1);
        assert_eq!(drops, BTreeMap::from([("not-syn".to_owned(), 1)]), "{dataplane}");
        client.passes(&server, "PA", "goes-on");
        assert_eq!(server.capture.all().len(), heard + 1, "{dataplane}");
        stage.mark("at last");
    }
}
