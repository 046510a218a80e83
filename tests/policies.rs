//! Policies of the site and of a tenant, before and after the security groups, with real traffic in both dataplanes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{net::TcpStream, time::Duration};

use common::{Daemon, Sink, bind_tcp, send_frame, site::*, wait_for};
use eastgate_wire::MacAddr;
use etherparse::PacketBuilder;
use serde_json::Value;
use socket2::{Domain, Socket, Type};

const DATAPLANES: [&str; 2] = ["ebpf", "userspace"];

/// Flows of each kind: the first one tells the programs who it is between, and they decide about the others.
const FLOWS: u64 = 4;

const POLICIES: &str = r#"
[policy.hardening]
applies_to = "site"
ingress = [
  { action = "deny", proto = "udp", ports = 7100, from = "any" },
  { action = "pass", proto = "udp", ports = "7101-7102", from = "any" },
  { action = "allow", proto = "udp", ports = 7103, from = "any" },
  { action = "deny", proto = "udp", ports = 7104, from = "any", mode = "audit" },
]
[policy.last]
position = "after"
applies_to = "tenant:acme"
ingress = [
  { action = "allow", proto = "udp", ports = 7107, from = { prefix = "10.1.0.0/24", except = ["10.1.0.12"] } },
  { action = "deny", proto = "udp", ports = 7108, from = "any" },
]
[tenant.acme.policy.own]
applies_to = ["network:lan"]
ingress = [
  { action = "allow", proto = "udp", ports = [7100, 7105], from = "any" },
  { action = "deny", proto = "udp", ports = [7101, 7103, 7104], from = "any" },
  { action = "pass", proto = "udp", ports = 7106, from = "any" },
  { action = "deny", proto = "udp", ports = 7106, from = "any" },
  { action = "deny", proto = "udp", ports = 7112, from = "any", own = "10.1.0.21" },
]
[tenant.acme.policy.late]
position = "after"
applies_to = "group:all"
ingress = [{ action = "allow", proto = "udp", ports = 7108, from = "any" }]
[tenant.acme.set.webs]
addresses = ["10.1.0.8/29"]
[tenant.globex.network.far]
vni = 5002
subnets = ["10.2.0.0/24"]
[tenant.globex.group.shared]
shared_with = ["acme"]
[tenant.globex.endpoint.far1]
network = "far"
host = "beta"
port = "veth-far1"
mac = "02:00:00:00:02:05"
addresses = ["10.2.0.5"]
groups = ["shared"]
"#;

/// What else the group lets in.
const GROUP: &str = r#"ingress = [
  { proto = "udp", ports = [7101, 7102, 7106, 7112], from = "any" },
  { proto = "udp", ports = 7110, from = "set:webs" },
  { proto = "udp", ports = 7111, from = "group:globex/shared" },"#;

/// A destination port, the last two bytes of the source, and whether the datagram arrives at web2 and at db1.
const CASES: [(u16, [u8; 2], [bool; 2]); 16] = [
    (7000, [0, 11], [true; 2]),  // the group alone
    (7001, [0, 11], [false; 2]), // nobody
    (7100, [0, 11], [false; 2]), // the site denies what the tenant allows
    (7101, [0, 11], [false; 2]), // the site passes on, the tenant denies what the group allows
    (7102, [0, 11], [true; 2]),  // the site passes on, the group allows
    (7103, [0, 11], [true; 2]),  // the site allows what the tenant denies
    (7104, [0, 11], [true; 2]),  // the site tries out to deny, which settles it
    (7105, [0, 11], [true; 2]),  // the tenant allows what no group does
    (7106, [0, 11], [true; 2]),  // the tenant passes on to the group
    (7107, [0, 11], [true; 2]),  // nobody but the site's last word
    (7108, [0, 11], [true; 2]),  // the tenant's policy after the groups comes before the site's
    (7109, [0, 11], [false; 2]),
    (7110, [0, 11], [true; 2]),     // in the set
    (7111, [2, 5], [true; 2]),      // a member of another tenant's group
    (7111, [2, 6], [false; 2]),     // and somebody else there
    (7112, [0, 11], [true, false]), // denied at one of the two by its own address
];

fn datagram(source: [u8; 2], to: (u8, MacAddr), sport: u16, port: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    let source = if source[0] == 2 { [10, 2, 0, source[1]] } else { [10, 1, 0, source[1]] };
    PacketBuilder::ethernet2(WEB1.0, to.1.0)
        .ipv4(source, [10, 1, 0, to.0], 64)
        .udp(sport, port)
        .write(&mut frame, &u64::from(sport).to_be_bytes())
        .unwrap();
    frame
}

/// Two hosts whose daemons run under these policies.
fn running(dataplane: &str) -> Option<(Site, [Daemon; 2])> {
    let site = Site::new(HOSTS_V4)?;
    site.rewrite(|text| {
        let web1 = "[tenant.acme.endpoint.web1]\n";
        let text = text.replacen("ingress = [", GROUP, 1);
        text.replace(web1, &format!("{web1}routes = [\"10.2.0.0/24\"]\n")) + POLICIES
    });
    let daemons = ["alpha", "beta"].map(|host| site.run_with(host, dataplane));
    Some((site, daemons))
}

/// Frames that a rule with this name has refused at a daemon.
fn refused(daemon: &Daemon, rule: &str) -> u64 {
    let rows = daemon.ask(&["show", "drops"]);
    let rows = rows["drops"].as_array().unwrap().iter().filter(|row| row["rule"] == rule);
    rows.map(|row| row["frames"].as_u64().unwrap()).sum()
}

#[test]
fn who_is_asked_first_with_real_traffic() {
    for dataplane in DATAPLANES {
        let Some((site, [alpha, beta])) = running(dataplane) else { return };
        for (n, to) in RECEIVERS.into_iter().enumerate() {
            let space = [&site.web2, &site.db1][n];
            let sinks = CASES.map(|(port, source, _)| {
                // Of the two with one port, the sink of the first has all.
                let first = CASES.iter().any(|(other, from, _)| *other == port && *from == source);
                (first && (port, source) != (7111, [2, 6])).then(|| Sink::start(space, udp(to.0, port)))
            });
            for flow in 0..FLOWS as u16 {
                for (port, source, _) in CASES {
                    send_frame(&site.web1, "eth0", &datagram(source, to, 4000 + flow, port));
                }
            }
            for (sink, (port, source, arrives)) in sinks.iter().zip(CASES) {
                let wanted = if arrives[n] { FLOWS } else { 0 };
                let Some(sink) = sink else { continue };
                wait_for(&format!("{dataplane}: port {port} from {source:?} at {}", to.0), || {
                    sink.count() >= wanted
                });
            }
            // What is refused is counted, under the rule that did it.
            let daemon = [&alpha, &beta][n];
            for (rule, kinds) in [
                ("policy hardening ingress #1", 1),
                ("acme/policy own ingress #2", 1),
                ("acme/policy own ingress #5", n as u64),
                (
                    "default deny: no rule of acme/all, policy hardening, policy last, acme/policy late, acme/policy own allows it",
                    3,
                ),
            ] {
                wait_for(&format!("{dataplane}: {rule} at {}", to.0), || {
                    refused(daemon, rule) == kinds * FLOWS
                });
            }
            for (sink, (port, source, arrives)) in sinks.iter().zip(CASES) {
                let wanted = if arrives[n] { FLOWS } else { 0 };
                assert!(
                    sink.as_ref().is_none_or(|sink| sink.count() == wanted),
                    "{dataplane}: {port} {source:?}"
                );
            }
            // What would have been denied is told, and what settled the others has a name.
            let told = daemon.run(&["observe", "--port", "7104", "-o", "json"]);
            let told = String::from_utf8_lossy(&told.stdout).into_owned();
            let told = told.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            let would: Vec<Value> = told.filter(|event| event["event"] == "would-be-denied").collect();
            assert!(!would.is_empty(), "{dataplane}: at {}", to.0);
            assert_eq!(would[0]["refused_by"]["rule"], "policy hardening ingress #4", "{would:#?}");
        }
        let trace = |port: u16| {
            let to = format!("10.1.0.21:{port}");
            let output = alpha.run(&["trace", "--vni", "5001", "udp", "10.1.0.11:5000", &to]);
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        for (port, said) in [
            (7100, "policy hardening ingress #1 denies it"),
            (7104, "policy hardening ingress #4 would deny it, and is only being tried out"),
            (7108, "acme/policy late ingress #1 allows it"),
            (7112, "acme/policy own ingress #5 denies it"),
        ] {
            let told = trace(port);
            assert!(told.contains(said), "{dataplane}: {port}: {told}");
        }
        let told = String::from_utf8_lossy(&alpha.run(&["show", "policy"]).stdout).into_owned();
        for line in [
            "policy hardening (db1, web1, web2)",
            "deny udp port 7100 with any",
            "acme/policy own ingress #5",
        ] {
            assert!(told.contains(line), "{line}: {told}");
        }
    }
}

#[test]
fn a_reload_names_what_changed_and_takes_away_what_it_takes_away() {
    for dataplane in DATAPLANES {
        let Some((site, [alpha, beta])) = running(dataplane) else { return };
        for (n, to) in RECEIVERS.into_iter().enumerate() {
            let space = [&site.web2, &site.db1][n];
            let sink = Sink::start(space, udp(to.0, 7103));
            let send = |sport: u16| send_frame(&site.web1, "eth0", &datagram([0, 11], to, sport, 7103));
            (4000..4003).for_each(send);
            wait_for("the site lets it in", || sink.count() == 3);
            site.rewrite(|text| {
                text.replace(
                    "\"allow\", proto = \"udp\", ports = 7103",
                    "\"pass\", proto = \"udp\", ports = 7103",
                )
            });
            for daemon in [&alpha, &beta] {
                let output = daemon.run(&["reload"]);
                let said = String::from_utf8_lossy(&output.stdout).into_owned();
                for line in [
                    "1 policy changed: hardening",
                    "1 rule changed: policy hardening ingress #3: pass udp port 7103 with any",
                ] {
                    assert!(said.contains(line), "{dataplane}: {said}");
                }
            }
            let daemon = [&alpha, &beta][n];
            let rule = "acme/policy own ingress #2";
            let before = refused(daemon, rule);
            (4000..4003).for_each(send);
            wait_for("flows that it let in are over", || refused(daemon, rule) == before + 3);
            assert_eq!(sink.count(), 3, "{dataplane}: at {}", to.0);
            site.rewrite(|text| {
                text.replace(
                    "\"pass\", proto = \"udp\", ports = 7103",
                    "\"allow\", proto = \"udp\", ports = 7103",
                )
            });
            for daemon in [&alpha, &beta] {
                assert!(daemon.run(&["reload"]).status.success());
            }
        }
    }
}

/// What a tenant says of a change holds in its networks, and not in one that says something else.
#[test]
fn flows_are_kept_where_the_tenant_says_so() {
    for (dataplane, network, kept) in
        DATAPLANES.into_iter().flat_map(|it| [(it, "", true), (it, "on_change = \"recheck\"\n", false)])
    {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        site.rewrite(|text| {
            // Nobody is so busy that they are over first.
            let network = format!("vni = 5001\ntimeouts = {{ udp_first = 600 }}\n{network}");
            text.replace("vni = 5001\n", &network) + "\n[tenant.acme]\non_change = \"keep\"\n"
        });
        let daemons = ["alpha", "beta"].map(|host| site.run_with(host, dataplane));
        let spaces = [&site.web2, &site.db1];
        let sinks = [0, 1].map(|n| Sink::start(spaces[n], udp(RECEIVERS[n].0, ALLOWED)));
        let send = |sport: u16| {
            for to in RECEIVERS {
                send_frame(&site.web1, "eth0", &datagram([0, 11], to, sport, ALLOWED));
            }
        };
        let arrive = |count: u64, what: &str| {
            for sink in &sinks {
                wait_for(&format!("{dataplane}: {what}"), || sink.count() == count);
            }
        };
        (4000..4000 + FLOWS as u16).for_each(send);
        arrive(FLOWS, "it is allowed");
        site.rewrite(|text| text.replace("ports = [7000]", "ports = [7009]"));
        for daemon in &daemons {
            assert!(daemon.run(&["reload"]).status.success());
        }
        let denied = || -> u64 {
            let drops = daemons.iter().flat_map(Daemon::drops);
            let denied = |reason: &str| matches!(reason, "ingress-denied" | "policy-changed");
            drops.filter(|(reason, _)| denied(reason)).map(|(_, frames)| frames).sum()
        };
        (4000..4000 + FLOWS as u16).for_each(send);
        send(4100);
        let went_on = if kept { FLOWS } else { 0 };
        arrive(FLOWS + went_on, "flows that there are");
        let refused = 2 * (FLOWS - went_on + 1);
        wait_for(&format!("{dataplane}: a new flow is refused"), || denied() == refused);
        arrive(FLOWS + went_on, "and nothing else");
    }
}

/// A datagram over IPv6 as web1 sends it.
fn datagram6(to: (u8, MacAddr), sport: u16, port: u16) -> Vec<u8> {
    let address = |number: u8| {
        let digits = u16::from_str_radix(&number.to_string(), 16).unwrap();
        std::net::Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, digits).octets()
    };
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(WEB1.0, to.1.0)
        .ipv6(address(11), address(to.0), 64)
        .udp(sport, port)
        .write(&mut frame, &u64::from(sport).to_be_bytes())
        .unwrap();
    frame
}

/// What the group lets in, and a policy takes away again but for what it names.
const BUT_GROUP: &str = r#"ingress = [
  { proto = "udp", ports = "7200-7201", from = "any" },
  { proto = "tcp", ports = 7202, from = "any" },"#;
const BUT: &str = r#"
[tenant.acme.policy.but]
applies_to = "tenant"
ingress = [
  { action = "deny", proto = "udp", ports = 7200, from = "any", own = "10.1.0.21", not = ["own"] },
  { action = "deny", proto = "udp", ports = 7201, from = "any", dscp = "ef", not = ["dscp"] },
  { action = "deny", proto = "tcp", ports = 7202, from = "any", tcp_flags = "syn/syn,ece,cwr", not = ["tcp_flags"] },
]
"#;
/// Expedited forwarding (RFC 3246), in the byte that has ECN, too
const EF: u32 = 46 << 2;

/// Sockets of Linux, which sets DSCP and, in what opens a connection, the flags of ECN where it is told to.
#[test]
fn all_but_what_is_written_with_real_traffic() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        site.rewrite(|text| text.replacen("ingress = [", BUT_GROUP, 1) + BUT);
        let [alpha, beta] = ["alpha", "beta"].map(|host| site.run_with(host, dataplane));
        for (n, (to, _)) in RECEIVERS.into_iter().enumerate() {
            let (space, daemon) = ([&site.web2, &site.db1][n], [&alpha, &beta][n]);
            let sinks = [7200, 7201].map(|port| Sink::start(space, udp(to, port)));
            let listener = space.enter(|| bind_tcp(tcp(to, 7202)));
            let send = |tos: u32, port: u16| {
                site.web1.enter(|| {
                    for flow in 0..FLOWS {
                        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
                        socket.set_tos_v4(tos).unwrap();
                        socket.send_to(&flow.to_be_bytes(), &udp(to, port).into()).unwrap();
                    }
                });
            };
            let connect = |ecn: &str| {
                site.web1.enter(|| {
                    // Linux would try without it once nobody answers.
                    std::fs::write("/proc/sys/net/ipv4/tcp_ecn_fallback", "0").unwrap();
                    std::fs::write("/proc/sys/net/ipv4/tcp_ecn", ecn).unwrap();
                    TcpStream::connect_timeout(&tcp(to, 7202), Duration::from_millis(1500)).is_ok()
                })
            };
            send(0, 7200);
            send(EF, 7201);
            let own = if n == 0 { 0 } else { FLOWS };
            wait_for(&format!("{dataplane}: EF arrives at {to}"), || sinks[1].count() == FLOWS);
            wait_for(&format!("{dataplane}: {own} arrive at {to}"), || sinks[0].count() == own);
            send(0, 7201);
            assert!(!connect("1"), "{dataplane}: a SYN with ECE and CWR");
            wait_for(&format!("{dataplane}: a SYN alone"), || connect("0"));
            for (rule, least, most) in [
                ("acme/policy but ingress #1", FLOWS - own, FLOWS - own),
                ("acme/policy but ingress #2", FLOWS, FLOWS),
                // As often as Linux tries
                ("acme/policy but ingress #3", 1, 5),
            ] {
                wait_for(&format!("{dataplane}: {rule} at {to}"), || {
                    (least..=most).contains(&refused(daemon, rule))
                });
            }
            assert_eq!([sinks[0].count(), sinks[1].count()], [own, FLOWS], "{dataplane}: at {to}");
            drop(listener);
        }
    }
}

/// A filter by libvirt's name is rules like others: the programs decide by them, and tell by which.
#[test]
fn filters_by_libvirts_names_hold() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        site.rewrite(|text| {
            let (before, web1) = text.split_once("[tenant.acme.endpoint.web1]\n").unwrap();
            let web1 = web1.replacen("groups = [\"all\"]", "filters = [\"clean-traffic\"]", 1);
            format!("{before}[tenant.acme.endpoint.web1]\n{web1}")
        });
        let [alpha, _beta] = ["alpha", "beta"].map(|host| site.run_with(host, dataplane));
        for (n, to) in RECEIVERS.into_iter().enumerate() {
            let space = [&site.web2, &site.db1][n];
            let four = Sink::start(space, udp(to.0, ALLOWED));
            let six = Sink::start(space, format!("[fd00:1::{}]:{ALLOWED}", to.0).parse().unwrap());
            for sport in (5000..).take(FLOWS as usize) {
                send_frame(&site.web1, "eth0", &datagram([0, 11], to, sport, ALLOWED));
                send_frame(&site.web1, "eth0", &datagram6(to, sport, ALLOWED));
            }
            wait_for("what it accepts arrives", || four.count() == FLOWS);
            wait_for("the rest is denied by its rule", || {
                refused(&alpha, "acme/policy filter:no-ipv6 egress #1") == FLOWS * (n as u64 + 1)
            });
            assert_eq!(six.count(), 0, "{dataplane}");
        }
        let shown = alpha.ask(&["show", "endpoints"]);
        let web1 =
            shown["endpoints"].as_array().unwrap().iter().find(|row| row["endpoint"] == "acme/web1").unwrap();
        assert!(web1["groups"].to_string().contains("filter:allow-ipv4"), "{web1}");
        // What comes in by IPv4 passes as well.
        let sink = Sink::start(&site.web1, udp(11, 9999));
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 0x12], WEB1.0)
            .ipv4([10, 1, 0, 12], [10, 1, 0, 11], 64)
            .udp(5000, 9999)
            .write(&mut frame, &1u64.to_be_bytes())
            .unwrap();
        send_frame(&site.web2, "eth0", &frame);
        wait_for("it comes in", || sink.count() == 1);
    }
}

/// Endpoints of one group with values of their own, and what the group includes: each is reached on its own ports, and a change of one's
/// values is nobody else's.
#[test]
fn endpoints_have_the_rules_of_their_groups_with_their_own_values() {
    const PORTS: [u16; 6] = [7000, 7001, 7002, 7003, 7010, 7011];
    const WEB2: &str = "variables = { PORTS = [7001, 7002] }\n";
    const DB1: &str = "variables = { PORTS = 7003, PROBES = [7011] }\n";
    for dataplane in DATAPLANES {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        site.rewrite(|text| {
            let head = "[tenant.acme.group.all]\n";
            let with = |text: &str, name: &str, more: &str| {
                let table = format!("[tenant.acme.endpoint.{name}]\n");
                text.replace(&table, &format!("{table}{more}"))
            };
            let text = text.replace("ports = [7000]", "ports = \"$PORTS\"").replace(
                head,
                &format!("{head}include = [\"probed\"]\nvariables = {{ PORTS = [7000], PROBES = 7010 }}\n"),
            );
            with(&with(&text, "web2", WEB2), "db1", DB1)
                + "[tenant.acme.group.probed]\nvariables = { PROBERS = \"group:all\" }\n\
                   ingress = [{ proto = \"udp\", ports = \"$PROBES\", from = \"$PROBERS\" }]\n"
        });
        let daemons = ["alpha", "beta"].map(|host| site.run_with(host, dataplane));
        let spaces = [&site.web2, &site.db1];
        let sinks = [0, 1].map(|n| PORTS.map(|port| Sink::start(spaces[n], udp(RECEIVERS[n].0, port))));
        let mut sent = [[0; PORTS.len()]; 2];
        let denied = |n: usize, all: &str| {
            let probed = ["10", "11"][n];
            let rule = format!(
                "default deny: no rule of acme/all{{PORTS={all}}}, acme/probed{{PROBERS=group:all;PROBES=70{probed}}} allows it"
            );
            refused(&daemons[n], &rule)
        };
        let mut deliver = |n: usize, open: &[u16], all: &str| {
            let before = denied(n, all);
            for sport in (4000..).take(FLOWS as usize) {
                for port in PORTS {
                    send_frame(&site.web1, "eth0", &datagram([0, 11], RECEIVERS[n], sport, port));
                }
            }
            for ((port, sink), sent) in PORTS.iter().zip(&sinks[n]).zip(&mut sent[n]) {
                *sent += if open.contains(port) { FLOWS } else { 0 };
                wait_for(&format!("{dataplane}: {port} at {n}"), || sink.count() >= *sent);
            }
            let closed = (PORTS.len() - open.len()) as u64;
            wait_for(&format!("{dataplane}: what nobody allows is told at {n}"), || {
                denied(n, all) >= before + closed * FLOWS
            });
            for ((port, sink), sent) in PORTS.iter().zip(&sinks[n]).zip(&sent[n]) {
                assert_eq!(sink.count(), *sent, "{dataplane}: {port} at {n}");
            }
        };
        deliver(0, &[7001, 7002, 7010], "7001,7002");
        deliver(1, &[7003, 7011], "7003");
        let line = |word: &str| {
            let text = std::fs::read_to_string(&site.config).unwrap();
            text.lines().position(|line| line.contains(word)).unwrap() + 1
        };
        for (port, rule, at) in [
            (7003, "acme/all{PORTS=7003} ingress #1", line("$PORTS")),
            (7011, "acme/probed{PROBERS=group:all;PROBES=7011} ingress #1", line("$PROBES")),
        ] {
            let output = daemons[1].run(&[
                "trace",
                "--vni",
                "5001",
                "udp",
                "10.1.0.11:5000",
                &format!("10.1.0.21:{port}"),
            ]);
            let told = String::from_utf8_lossy(&output.stdout).into_owned();
            let place = format!("eastgate.toml:{at}:");
            assert!(told.contains(&format!("{rule} allows it")) && told.contains(&place), "{place} {told}");
        }
        // Another port for one of them: the other's flows do not notice.
        site.rewrite(|text| text.replace(DB1, &DB1.replace("7003", "7002")));
        for daemon in &daemons {
            let output = daemon.run(&["reload"]);
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            for line in ["1 endpoint changed: acme/db1", "acme/all{PORTS=7003}"] {
                assert!(said.contains(line), "{dataplane}: {said}");
            }
            assert!(!said.contains("web2") && !said.contains("7001"), "{dataplane}: {said}");
        }
        deliver(1, &[7002, 7011], "7002");
        deliver(0, &[7001, 7002, 7010], "7001,7002");
        let rules = daemons[0].ask(&["show", "rules"]);
        let of_web2 = rules["rules"]
            .as_array()
            .unwrap()
            .iter()
            .find(|row| row["rule"] == "acme/all{PORTS=7001,7002} ingress #1");
        assert_eq!(of_web2.unwrap()["flows"], 2 * FLOWS, "{dataplane}: {rules:#}");
    }
}

/// What is asked of a file names the same rules by the same lines.
#[test]
fn rules_with_values_are_named_by_the_line_that_they_are_written_at() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/variables.toml");
    let text = std::fs::read_to_string(file).unwrap();
    let line = |word: &str| text.lines().position(|line| line.contains(word)).unwrap() + 1;
    let run = |words: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_eastgate")).args(words).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (_, told) = run(&["policy", "who", "--config", file, "--to", "acme/db1", "-o", "json"]);
    let rows: Value = serde_json::from_str(&told).unwrap();
    let values = "{CLIENTS=10.0.0.0/8-10.1.0.0/16,group:db;PORTS=8000-8099,8443}";
    for (row, rule) in [(0, "acme/web egress #1".to_owned()), (1, format!("acme/web{values} egress #1"))] {
        assert_eq!(rows[row]["egress"]["rule"], *rule, "{rows:#}");
        let place = format!("variables.toml:{}:11", line("to = \"group:db\""));
        assert!(rows[row]["egress"]["at"].as_str().unwrap().ends_with(&place), "{place}: {rows:#}");
    }
    // By its name, who has its rules; by that of the group, its members.
    for (name, members) in [(format!("acme/web{values}"), 1), ("acme/web".to_owned(), 2)] {
        let (_, told) = run(&["policy", "who", "--config", file, "--from", &name, "-o", "json"]);
        assert_eq!(
            serde_json::from_str::<Value>(&told).unwrap().as_array().unwrap().len(),
            members,
            "{name}"
        );
    }
    let (code, told) = run(&["policy", "lint", "--config", file]);
    assert_eq!((code, &*told), (Some(0), "every rule does something\n"));
}
