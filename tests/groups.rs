//! What groups, templates, networks and modes say beside plain rules, and protocols that are none of the usual ones: with real
//! frames in both dataplanes, on one host and from host to host.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::net::{Ipv4Addr, UdpSocket};

use common::{Capture, Daemon, Space, send_frame, settle, site::*, wait_for};
use eastgate_testkit::frames::ones_sum;
use eastgate_wire::MacAddr;
use etherparse::{EtherType, Ethernet2Header, IpNumber, Ipv4Header, PacketBuilder};

const DATAPLANES: [&str; 2] = ["ebpf", "userspace"];

/// Flows of each kind: the first one tells the programs who it is between, and they decide about the others.
const FLOWS: u16 = 3;

const UDP: u8 = 17;
const DCCP: u8 = 33;
const ESP: u8 = 50;
const AH: u8 = 51;
const UDPLITE: u8 = 136;
/// Of nobody (IANA: for experiments)
const EXPERIMENT: u8 = 253;

/// What web1 sends: from its own address or another one, of a protocol, to a port where that has ports.
#[derive(Clone, Copy, Debug)]
struct Sent {
    source: u8,
    protocol: u8,
    port: u16,
}

const fn to_port(port: u16) -> Sent {
    Sent { source: 11, protocol: UDP, port }
}

const fn of(protocol: u8, port: u16) -> Sent {
    Sent { source: 11, protocol, port }
}

impl Sent {
    /// With these bytes at its end, which nothing else has
    fn frame(self, to: (u8, MacAddr), flow: u16, marker: &[u8]) -> Vec<u8> {
        let Self { source, protocol, port } = self;
        let mut payload = match protocol {
            // Next header, length, reserved, SPI, sequence number and ICV (RFC 4302)
            AH => [&[59, 4, 0, 0][..], &[0, 0, 1, 0, 0, 0, 0, flow as u8], &[0; 12]].concat(),
            // Ports; a Request with a long sequence number and a service code (RFC 4340)
            DCCP => {
                [&(4000 + flow).to_be_bytes()[..], &port.to_be_bytes(), &[5, 0, 0, 0, 1], &[0; 11]].concat()
            }
            // Ports; the header alone is covered by the checksum (RFC 3828)
            UDPLITE => [&(4000 + flow).to_be_bytes()[..], &port.to_be_bytes(), &[0, 8, 0, 0]].concat(),
            UDP => {
                let length = (8 + marker.len()) as u16;
                [4000 + flow, port, length, 0].map(u16::to_be_bytes).concat()
            }
            _ => vec![0, 0, 1, 0, 0, 0, 0, flow as u8],
        };
        payload.extend_from_slice(marker);
        let (from, towards) = ([10, 1, 0, source], [10, 1, 0, to.0]);
        let number = IpNumber(protocol);
        let mut ip = Ipv4Header::new(payload.len() as u16, 64, number, from, towards).unwrap();
        ip.header_checksum = ip.calc_header_checksum();
        if protocol == UDPLITE {
            let pseudo =
                [&from[..], &towards, &[0, UDPLITE], &(payload.len() as u16).to_be_bytes(), &payload[..8]];
            let checksum = !ones_sum(&pseudo.concat());
            payload[6..8].copy_from_slice(&checksum.to_be_bytes());
        }
        let mut frame = Vec::new();
        let ethernet = Ethernet2Header { source: WEB1.0, destination: to.1.0, ether_type: EtherType::IPV4 };
        ethernet.write(&mut frame).unwrap();
        ip.write(&mut frame).unwrap();
        frame.extend(payload);
        frame
    }
}

/// What is said, and of each kind of packet whether it arrives.
struct Case {
    what: &'static str,
    edit: fn(String) -> String,
    packets: &'static [(Sent, bool)],
}

fn in_group(text: &str, line: &str) -> String {
    let head = "[tenant.acme.group.all]\n";
    text.replace(head, &format!("{head}{line}\n"))
}

fn in_network(text: &str, line: &str) -> String {
    text.replace("vni = 5001\n", &format!("vni = 5001\n{line}\n"))
}

fn with_rule(text: &str, rule: &str) -> String {
    text.replacen("ingress = [\n", &format!("ingress = [\n  {rule},\n"), 1)
}

const NO_EGRESS: [&str; 2] = ["egress = [{ to = \"any\" }]", ""];
/// Whom web1 stands in for, by a prefix
const PAIR: &str = "allowed_pairs = [{ address = \"10.1.0.64/28\" }]";
const BEHIND: Sent = Sent { source: 65, ..to_port(7200) };

fn with_pair(text: &str) -> String {
    let web1 = "[tenant.acme.endpoint.web1]\n";
    let text = text.replace(web1, &format!("{web1}{PAIR}\n"));
    with_rule(&text, "{ proto = \"udp\", ports = 7200, from = \"group:all\" }")
}

const DENY: &str = "\n[tenant.acme.policy.guard]\napplies_to = \"tenant\"\ningress = [{ action = \"deny\", proto = \"udp\", ports = 7000, from = \"any\" }]\n";

const CASES: &[Case] = &[
    Case {
        what: "no rule of a group says what its members may send",
        edit: |text| text.replace(NO_EGRESS[0], NO_EGRESS[1]),
        packets: &[(to_port(7000), false)],
    },
    Case {
        what: "egress_default = \"open\"",
        edit: |text| in_network(&text.replace(NO_EGRESS[0], NO_EGRESS[1]), "egress_default = \"open\""),
        packets: &[(to_port(7000), true), (to_port(7001), false)],
    },
    Case {
        what: "egress_default = \"open\", and an egress rule",
        edit: |text| {
            let rule = "egress = [{ proto = \"udp\", ports = 7201, to = \"any\" }]";
            let text = in_network(&text.replace(NO_EGRESS[0], rule), "egress_default = \"open\"");
            with_rule(&text, "{ proto = \"udp\", ports = 7201, from = \"any\" }")
        },
        packets: &[(to_port(7000), false), (to_port(7201), true)],
    },
    Case {
        what: "admit_members",
        edit: |text| in_group(&text, "admit_members = true"),
        packets: &[(to_port(7001), true), (of(EXPERIMENT, 0), true)],
    },
    Case {
        what: "a prefix of a pair widens no group",
        edit: |text| with_pair(&text),
        packets: &[(to_port(7200), true), (BEHIND, false)],
    },
    Case {
        what: "prefix_pairs",
        edit: |text| in_group(&with_pair(&text), "prefix_pairs = true"),
        packets: &[(to_port(7200), true), (BEHIND, true), (Sent { port: 7202, ..BEHIND }, false)],
    },
    Case {
        what: "like a template",
        edit: |text| {
            in_group(&text, "like = \"basics\"")
                + "\n[template.basics]\ningress = [{ proto = \"udp\", ports = 7203, from = \"10.1.0.0/24\" }]\n"
        },
        packets: &[(to_port(7203), true), (to_port(7000), true), (to_port(7001), false)],
    },
    Case { what: "a policy denies", edit: |text| text + DENY, packets: &[(to_port(7000), false)] },
    Case {
        what: "a policy is being tried out",
        edit: |text| text + &DENY.replace("ingress", "mode = \"audit\"\ningress"),
        packets: &[(to_port(7000), true), (to_port(7001), false)],
    },
    Case {
        what: "a tenant is being tried out",
        edit: |text| text + DENY + "[tenant.acme]\nmode = \"audit\"\n",
        packets: &[(to_port(7000), true), (to_port(7001), true)],
    },
    Case {
        what: "protocols by name and by number",
        edit: |text| {
            let rules = "{ proto = \"ah\", from = \"any\" },\n  { proto = \"esp\", from = \"10.1.0.11\" },\n  { proto = 253, from = \"any\" },\n  \
                 { proto = \"dccp\", ports = 7204, from = \"any\" },\n  { proto = \"udplite\", ports = \"7204-7205\", from = \"any\" }";
            with_rule(&text, rules)
        },
        packets: &[
            (of(AH, 0), true),
            (of(ESP, 0), true),
            (of(EXPERIMENT, 0), true),
            (of(EXPERIMENT + 1, 0), false),
            (of(DCCP, 7204), true),
            (of(DCCP, 7205), false),
            (of(UDPLITE, 7205), true),
            (of(UDPLITE, 7206), false),
        ],
    },
    Case {
        what: "and none of them without a rule",
        edit: |text| text,
        packets: &[
            (of(AH, 0), false),
            (of(ESP, 0), false),
            (of(DCCP, 7204), false),
            (of(UDPLITE, 7205), false),
        ],
    },
];

/// Frames that rules have refused at both daemons, also of flows that an earlier case let in
fn refused(daemons: &[Daemon]) -> u64 {
    let drops = daemons.iter().flat_map(Daemon::drops);
    drops
        .filter(|(reason, _)| matches!(&**reason, "ingress-denied" | "egress-denied" | "policy-changed"))
        .map(|(_, frames)| frames)
        .sum()
}

#[test]
fn what_is_said_beside_rules_holds() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        let plain = std::fs::read_to_string(&site.config).unwrap();
        let daemons = ["alpha", "beta"].map(|host| site.run_with(host, dataplane));
        let captures = [&site.web2, &site.db1].map(|machine| Capture::start(machine, "eth0"));
        for (number, Case { what, edit, packets }) in CASES.iter().enumerate() {
            site.rewrite(|_| edit(plain.clone()));
            for daemon in &daemons {
                let reload = daemon.run(&["reload"]);
                assert!(reload.status.success(), "{what}: {}", String::from_utf8_lossy(&reload.stderr));
            }
            let before = refused(&daemons);
            let marker = |packet: usize, flow: u16| format!("<{number}.{packet}.{flow}>").into_bytes();
            for to in RECEIVERS {
                for flow in 0..FLOWS {
                    for (n, (packet, _)) in packets.iter().enumerate() {
                        send_frame(&site.web1, "eth0", &packet.frame(to, flow, &marker(n, flow)));
                    }
                }
            }
            let arrived = |packet: usize| -> usize {
                let all = (0..FLOWS).map(|flow| {
                    let marker = marker(packet, flow);
                    captures
                        .iter()
                        .filter(|it| !it.matching(|frame| frame.ends_with(&marker)).is_empty())
                        .count()
                });
                all.sum()
            };
            let each = RECEIVERS.len() * usize::from(FLOWS);
            for (n, (packet, _)) in packets.iter().enumerate().filter(|(_, (_, passes))| *passes) {
                wait_for(&format!("{dataplane}: {what}: {packet:?} arrives"), || arrived(n) == each);
            }
            let denied = packets.iter().filter(|(_, passes)| !passes).count() * each;
            wait_for(&format!("{dataplane}: {what}: what is refused is told"), || {
                refused(&daemons) - before == denied as u64
            });
            for (n, (packet, _)) in packets.iter().enumerate().filter(|(_, (_, passes))| !*passes) {
                assert_eq!(arrived(n), 0, "{dataplane}: {what}: {packet:?}");
            }
        }
    }
}

/// Sends a datagram to a multicast group or a broadcast address, as its kernel does it.
fn shout(from: &Space, to: (Ipv4Addr, u16), marker: &str) {
    from.enter(|| {
        let socket = UdpSocket::bind("10.1.0.11:4000").unwrap();
        socket.set_broadcast(true).unwrap();
        socket.send_to(marker.as_bytes(), to).unwrap();
    });
}

/// Rules that name a multicast group, the subnet's broadcast address, or everyone's.
#[test]
fn what_is_sent_to_many_reaches_whom_rules_say() {
    const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);
    const OTHER: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 4);
    const SUBNET: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 255);
    const NAMED: [Ipv4Addr; 3] = [GROUP, SUBNET, Ipv4Addr::BROADCAST];
    for dataplane in DATAPLANES {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        for machine in [&site.web1, &site.web2, &site.db1] {
            // Of its own accord, their kernels' IPv6 sends to groups as well.
            machine.set("net/ipv6/conf/eth0/disable_ipv6", "1");
        }
        for to in ["239.0.0.0/8", "255.255.255.255/32"] {
            site.web1.ip(&format!("route add {to} dev eth0"));
        }
        // Both may hear 7300, db1 alone 7301.
        let text = |egress: &str| {
            let plain = acme_on(HOSTS_V4).replace("{ to = \"any\" }", egress);
            let text = with_rule(&plain, "{ proto = \"udp\", ports = 7300, from = \"10.1.0.11\" }");
            let (before, db1) = text.split_once("mac = \"02:00:00:00:00:21\"\n").unwrap();
            let db1 = db1.replacen("groups = [\"all\"", "groups = [\"all\", \"hears\"", 1);
            let hears =
                "[tenant.acme.group.hears]\ningress = [{ proto = \"udp\", ports = 7301, from = \"any\" }]\n";
            format!("{before}mac = \"02:00:00:00:00:21\"\n{db1}\n{hears}")
        };
        let to_many = "{ proto = \"udp\", ports = [7300, 7301], to = [\"239.1.2.3\", \"10.1.0.255\", \"255.255.255.255\"] }";
        site.rewrite(|_| text(&format!("{{ to = \"any\" }}, {to_many}")));
        let daemons = ["alpha", "beta"].map(|host| site.run_with(host, dataplane));
        let captures = [&site.web2, &site.db1].map(|machine| Capture::start(machine, "eth0"));
        let heard = |marker: &str| {
            captures.each_ref().map(|it| it.matching(|frame| frame.ends_with(marker.as_bytes())).len())
        };
        let refused = || daemons[0].drops().get("multicast-refused").copied().unwrap_or(0);
        for to in NAMED {
            for (port, by) in [(7300, [1, 1]), (7301, [0, 1])] {
                let marker = format!("<{to} {port}>");
                shout(&site.web1, (to, port), &marker);
                wait_for(&format!("{dataplane}: {marker} is heard by {by:?}"), || heard(&marker) == by);
            }
        }
        // Neither another port nor another group is named, and the rule for any destination names none.
        for to in [(GROUP, 7302), (SUBNET, 7302), (Ipv4Addr::BROADCAST, 7302), (OTHER, 7300)] {
            let (before, marker) = (refused(), format!("<{} {}>", to.0, to.1));
            shout(&site.web1, to, &marker);
            wait_for(&format!("{dataplane}: {marker} is refused"), || refused() == before + 1);
            assert_eq!(heard(&marker), [0, 0], "{dataplane}: {marker}");
        }
        // A packet for one machine in a frame for all of them is for nobody.
        let frame = to_port(7300).frame((21, MacAddr::BROADCAST), 0, b"<one>");
        let before = refused();
        send_frame(&site.web1, "eth0", &frame);
        wait_for(&format!("{dataplane}: it is refused"), || refused() == before + 1);
        // Without the rule, all of it is refused.
        site.rewrite(|_| text("{ to = \"any\" }"));
        for daemon in &daemons {
            assert!(daemon.run(&["reload"]).status.success());
        }
        for to in NAMED {
            let (before, marker) = (refused(), format!("<no rule {to}>"));
            shout(&site.web1, (to, 7300), &marker);
            wait_for(&format!("{dataplane}: {marker} is refused"), || refused() == before + 1);
            assert_eq!(heard(&marker), [0, 0], "{dataplane}: {marker}");
        }
        assert_eq!(heard("<one>"), [0, 0], "{dataplane}");
        for to in NAMED {
            let all = [7300, 7301].map(|port| heard(&format!("<{to} {port}>")));
            assert_eq!(all, [[1, 1], [0, 1]], "{dataplane}: {to}");
        }
    }
}

/// A segment of a connection whose SYN nobody here has seen.
fn in_mid_stream(from: (u8, MacAddr), to: (u8, MacAddr), ports: [u16; 2], text: &str) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(from.1.0, to.1.0)
        .ipv4([10, 1, 0, from.0], [10, 1, 0, to.0], 64)
        .tcp(ports[0], ports[1], 1000, 500)
        .ack(7000)
        .write(&mut frame, text.as_bytes())
        .unwrap();
    frame
}

#[test]
fn a_network_that_is_loose_takes_connections_in_mid_stream() {
    const WEB1_AT: (u8, MacAddr) = (11, WEB1);
    for dataplane in DATAPLANES {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        // Machines whose kernels say nothing
        for machine in [&site.web1, &site.web2, &site.db1] {
            machine.ip("addr flush dev eth0");
        }
        let daemons = ["alpha", "beta"].map(|host| site.run_with(host, dataplane));
        let captures = [&site.web1, &site.web2, &site.db1].map(|machine| Capture::start(machine, "eth0"));
        let heard = |machine: usize, text: &str| {
            !captures[machine].matching(|frame| frame.ends_with(text.as_bytes())).is_empty()
        };
        let count = |reason: &str| -> u64 {
            daemons.iter().map(|daemon| daemon.drops().get(reason).copied().unwrap_or(0)).sum()
        };
        for to in RECEIVERS {
            send_frame(&site.web1, "eth0", &in_mid_stream(WEB1_AT, to, [4000, 5432], "<strict>"));
        }
        wait_for(&format!("{dataplane}: a strict network refuses them"), || count("not-syn") == 2);
        site.rewrite(|text| in_network(&text, "tcp = \"loose\""));
        for daemon in &daemons {
            assert!(daemon.run(&["reload"]).status.success());
        }
        let machines = [&site.web2, &site.db1];
        for ((n, to), machine) in (1..).zip(RECEIVERS).zip(machines) {
            let what = format!("{dataplane}, 10.1.0.{}", to.0);
            for round in 0..3 {
                let [there, back] = ["there", "back"].map(|way| format!("<{way} {} {round}>", to.0));
                send_frame(&site.web1, "eth0", &in_mid_stream(WEB1_AT, to, [4001, 5432], &there));
                wait_for(&format!("{what}: {there}"), || heard(n, &there));
                // The answer passes by the flow alone: web1 has no rule for it.
                send_frame(machine, "eth0", &in_mid_stream(to, WEB1_AT, [5432, 4001], &back));
                wait_for(&format!("{what}: {back}"), || heard(0, &back));
            }
            // What no rule lets begin is not taken in its midst.
            let before = count("ingress-denied");
            send_frame(&site.web1, "eth0", &in_mid_stream(WEB1_AT, to, [4002, 22], "<closed>"));
            let denied = settle(|| count("ingress-denied"), |denied| *denied > before);
            let drops = daemons.each_ref().map(Daemon::drops);
            assert_eq!(denied, before + 1, "{what}: {drops:?}, arrived: {}", heard(n, "<closed>"));
            assert!(!heard(n, "<closed>") && !heard(n, "<strict>"), "{what}");
        }
    }
}
