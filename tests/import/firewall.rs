//! Firewall groups of FWaaS v2 as the clients print them: what is written, what passes, and what is refused with its place.

use std::{fs, path::PathBuf};

use eastgate::{
    import::{File, From, Map, import},
    policy_tools,
};
use eastgate_policy::rule::{Direction, Header, Probe};
use eastgate_wire::{Addr, EndpointId};
use proptest::{prelude::*, sample::select, test_runner::TestRunner};
use serde_json::{Value, json};

use super::refused;

const HOST: &str = "[host.alpha]\nvtep = \"172.31.0.1\"\ndevice = \"eth0\"\n";
const NET: &str = "[network.n1]\nname = \"app\"\nvni = 5001\nsubnets = [\"10.1.0.0/24\", \"fd00:1::/64\"]\n";

/// A port whose security group lets everything pass.
fn port(id: &str, last: u8) -> Value {
    json!({
        "id": id, "name": format!("vm{last}"), "mac_address": format!("fa:16:3e:00:00:{last:02x}"), "network_id": "n1",
        "project_id": "acme", "binding_host_id": "alpha", "device_owner": "compute:nova", "security_group_ids": ["g1"],
        "fixed_ips": [{ "ip_address": format!("10.1.0.{last}") }, { "ip_address": format!("fd00:1::{last:x}") }],
    })
}

fn open_group() -> Value {
    let rule = |id: &str, direction: &str, ethertype: &str| json!({ "id": id, "direction": direction, "ethertype": ethertype, "description": "" });
    json!({
        "id": "g1", "name": "all", "project_id": "acme",
        "rules": [
            rule("1", "ingress", "IPv4"), rule("2", "ingress", "IPv6"), rule("3", "egress", "IPv4"), rule("4", "egress", "IPv6"),
        ],
    })
}

/// A rule as `firewall group rule show` prints it; what is `null` is not said.
fn rule(id: &str, more: Value) -> Value {
    let mut rule = json!({
        "ID": id, "Name": format!("rule {id}"), "Description": "", "Enabled": true, "IP Version": 4, "Action": "allow",
        "Protocol": "tcp", "Source IP Address": null, "Source Port": null, "Destination IP Address": null,
        "Destination Port": null, "Shared": false, "Project": "acme", "firewall_policy_id": [],
    });
    for (key, value) in more.as_object().unwrap() {
        rule[key] = value.clone();
    }
    rule
}

fn policy(id: &str, rules: &[&str]) -> Value {
    json!({ "ID": id, "Name": format!("policy {id}"), "Firewall Rules": rules, "Audited": false, "Shared": false, "Project": "acme" })
}

fn group(id: &str, ports: &[&str], ingress: Option<&str>, egress: Option<&str>) -> Value {
    json!({
        "ID": id, "Name": format!("group {id}"), "Description": "", "Ingress Policy ID": ingress, "Egress Policy ID": egress,
        "Ports": ports, "State": "UP", "Status": "ACTIVE", "Shared": false, "Project": "acme",
    })
}

fn read(things: &[Value]) -> Result<String, eastgate::faults::Faults> {
    let text: String = things.iter().map(|thing| thing.to_string() + "\n").collect();
    import(From::Neutron, &[File::new("all.json", text)], &Map::of("map.toml", NET).unwrap())
}

#[test]
fn a_firewall_group_becomes_a_policy_that_its_ports_pass_as_well() {
    let mut shared = group("f2", &["p2"], Some("i1"), None);
    shared["Shared"] = json!(true);
    let mut down = group("f3", &["p3"], Some("i1"), Some("e1"));
    down["State"] = json!("DOWN");
    let text = read(&[
        open_group(),
        port("p1", 11),
        port("p2", 12),
        port("p3", 13),
        group("f1", &["p1"], Some("i1"), Some("e1")),
        shared,
        down,
        group("f4", &[], None, None),
        policy("i1", &["r1", "r2", "r3", "r4"]),
        policy("e1", &["r5"]),
        policy("x1", &[]),
        rule(
            "r1",
            json!({ "Destination Port": "80:90", "Source IP Address": "10.1.0.0/28", "Description": "web" }),
        ),
        rule("r2", json!({ "Action": "reject", "Destination Port": "22", "Enabled": false })),
        rule("r3", json!({ "Protocol": null, "IP Version": 6, "Source Firewall Group ID": "f2" })),
        rule("r4", json!({ "Protocol": "icmp", "IP Version": 6, "Action": "deny" })),
        rule(
            "r5",
            json!({ "Protocol": "udp", "Source Port": "1024:65535", "Destination IP Address": "10.1.0.2" }),
        ),
    ])
    .unwrap_or_else(|faults| panic!("{faults}"));
    for expected in [
        "# Firewall group group f4 (f4) has no ports: it is left out\n",
        "# Firewall policy policy x1 (x1) is of no firewall group: it is left out\n",
        "# Neutron firewall group group f1 (f1): its ports\n[tenant.acme.group.firewall-group-f1]\n",
        "# Neutron firewall group group f2 (f2), shared with other projects: its ports\n",
        "[tenant.acme.policy.firewall-group-f1]\napplies_to = \"group:firewall-group-f1\"\ningress = [\n  \
         # rule rule r1 (r1)\n  { action = \"pass\", proto = \"tcp\", ports = \"80-90\", from = \"10.1.0.0/28\", description = \"web\" },\n  \
         # rule rule r2 (r2)\n  # disabled: { action = \"reject\", proto = \"tcp\", ports = 22, family = \"ipv4\", from = \"any\" },\n  \
         # rule rule r3 (r3)\n  { action = \"pass\", family = \"ipv6\", from = \"group:firewall-group-f2\" },\n  \
         # rule rule r4 (r4)\n  { action = \"deny\", proto = \"icmpv6\", from = \"any\" },\n  \
         # What no rule allows\n  { action = \"deny\", from = \"any\" },\n]\negress = [\n  \
         # rule rule r5 (r5)\n  { action = \"pass\", proto = \"udp\", source_ports = \"1024-65535\", to = \"10.1.0.2/32\" },\n  \
         # What no rule allows\n  { action = \"deny\", to = \"any\" },\n]\n",
        "# egress: no firewall policy, nothing passes\n[tenant.acme.policy.firewall-group-f2]\n",
        "# ingress: it is down, nothing passes\n# egress: it is down, nothing passes\n[tenant.acme.policy.firewall-group-f3]\n",
        "groups = [\"all\", \"firewall-group-f1\"]\n",
    ] {
        assert!(text.contains(expected), "{expected}\n---\n{text}");
    }
    eastgate_config::load_str("site", &format!("{HOST}{text}")).unwrap();
}

#[test]
fn what_cannot_be_said_of_a_firewall_is_refused_with_its_place() {
    let all = |group: Value, rule: Value| {
        let things = [open_group(), port("p1", 11), policy("i1", &["r1"]), group, rule];
        things.iter().map(|thing| thing.to_string() + "\n").collect::<String>()
    };
    let told = |group: Value, rule: Value, why: &str, line: u8| {
        let place = format!("  --> all.json:{line}:1\n");
        refused(From::Neutron, "all.json", &all(group, rule), NET, &[why, &place]);
    };
    let usual = || group("f1", &["p1"], Some("i1"), None);
    for (more, why) in [
        (json!({ "Action": "log" }), "there is no action `log`"),
        (json!({ "Action": null, "Summary": "TCP" }), "does not tell what they do"),
        (json!({ "IP Version": null }), "without an IP version"),
        (json!({ "Destination Port": "90:80" }), "no range of ports"),
        (json!({ "Protocol": null, "Destination Port": "80" }), "ports without tcp or udp"),
        (json!({ "Protocol": "icmp", "Source Port": "80" }), "ports without tcp or udp"),
        (json!({ "Protocol": "icmp", "Destination Port": "8" }), "ports without tcp or udp"),
        (json!({ "Source IP Address": "fd00::/8" }), "fd00::/8 is no prefix of IPv4"),
        (json!({ "Source Firewall Group ID": "f9" }), "the firewall group f9 is in none of the files"),
        (json!({ "Destination Firewall Group ID": "f9" }), "members of another firewall group"),
        (
            json!({ "Source Firewall Group ID": "f1", "Source IP Address": "10.1.0.1" }),
            "an address and a firewall group at one end",
        ),
        (json!({ "Protocol": "nonsense" }), "there is no protocol `nonsense`"),
    ] {
        told(usual(), rule("r1", more), why, 5);
    }
    let plain = || rule("r1", json!({}));
    told(
        group("f1", &["p1"], Some("i9"), None),
        plain(),
        "its firewall policy i9 is in none of the files",
        4,
    );
    told(usual(), rule("r2", json!({})), "its rule r1 is in none of the files", 3);
    let mut list = usual();
    list.as_object_mut().unwrap().remove("Ports");
    told(list, plain(), "does not tell their ports", 4);
    let mut other = usual();
    other["Project"] = json!("globex");
    told(other, plain(), "its port p1 is of another project", 4);
    let mut router = port("p1", 11);
    router["device_owner"] = json!("network:router_interface");
    let text: String =
        [usual(), policy("i1", &[]), router].iter().map(|thing| thing.to_string() + "\n").collect();
    refused(From::Neutron, "all.json", &text, NET, &["its port p1 is a router's", "  --> all.json:1:1\n"]);
    let two: String =
        [usual(), group("f2", &["p1"], None, None)].iter().map(|it| it.to_string() + "\n").collect();
    refused(From::Neutron, "all.json", &two, NET, &["as well", "  --> all.json:2:1\n"]);
}

/// Random policies: the first rule that matches, of those that are enabled, and else nothing passes.
#[test]
fn a_firewall_lets_pass_what_its_rules_say() {
    let folder: PathBuf = std::env::temp_dir().join(format!("egt-{}-firewall", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("site.toml");
    let one = (
        select(vec!["allow", "allow", "deny", "reject"]),
        select(vec![None, Some("tcp"), Some("udp"), Some("icmp")]),
        proptest::bool::weighted(0.8),
        any::<bool>(),
        proptest::option::of(select(vec![(22u16, 22u16), (80, 443), (1, 65535)])),
        proptest::option::of(select(vec!["10.1.0.12", "10.1.0.0/28", "0.0.0.0/0"])),
    );
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) };
    let counts = std::cell::Cell::new([0u32; 2]);
    let lists = (proptest::collection::vec(one.clone(), 0..5), proptest::collection::vec(one, 0..5));
    let outcome = TestRunner::new(config).run(&lists, |(ingress, egress)| {
        let mut things = vec![open_group(), port("p1", 11), port("p2", 12), port("p3", 40)];
        things.push(group("f1", &["p1"], Some("in"), Some("out")));
        for (name, list, peer) in [("in", &ingress, "Source IP Address"), ("out", &egress, "Destination IP Address")] {
            let ids: Vec<String> = (0..list.len()).map(|at| format!("{name}{at}")).collect();
            things.push(policy(name, &ids.iter().map(String::as_str).collect::<Vec<_>>()));
            for (id, (action, proto, enabled, v6, ports, net)) in ids.iter().zip(list) {
                let ports = ports.filter(|_| matches!(proto, Some("tcp" | "udp")));
                things.push(rule(
                    id,
                    json!({
                        "Action": action, "Protocol": proto, "Enabled": enabled, "IP Version": if *v6 { 6 } else { 4 },
                        "Destination Port": ports.map(|(a, b)| format!("{a}:{b}")), peer: net.filter(|_| !v6),
                    }),
                ));
            }
        }
        let made = read(&things).map_err(|faults| TestCaseError::fail(faults.to_string()))?;
        fs::write(&path, format!("{HOST}{made}")).unwrap();
        let policies = policy_tools::load(&path, false).unwrap();
        for (direction, list) in [(Direction::Ingress, &ingress), (Direction::Egress, &egress)] {
            for peer in ["10.1.0.12", "10.1.0.40", "fd00:1::c"] {
                let peer: std::net::IpAddr = peer.parse().unwrap();
                let icmp = if peer.is_ipv6() { 58 } else { 1 };
                let ports = [22u16, 80, 500].map(|destination| Header::Ports { source: 9, destination });
                let probes = [6u8, 17].into_iter().flat_map(|proto| ports.map(|header| Probe::new(proto, header)));
                let echo = Probe::new(icmp, Header::Icmp { kind: 8, code: 0 });
                for probe in probes.chain([echo, Probe::new(47, Header::Unread)]) {
                    let first = list.iter().find(|(_, proto, enabled, v6, ports, net)| {
                        let number = match proto {
                            Some("tcp") => Some(6),
                            Some("udp") => Some(17),
                            Some(_) => Some(icmp),
                            None => None,
                        };
                        let port = match (ports, probe.header) {
                            (Some((a, b)), Header::Ports { destination, .. }) if matches!(proto, Some("tcp" | "udp")) => {
                                (*a..=*b).contains(&destination)
                            }
                            _ => true,
                        };
                        let net = net.filter(|_| !v6).and_then(|net| net.parse::<ipnet::IpNet>().ok().or_else(|| {
                            net.parse::<std::net::IpAddr>().ok().map(Into::into)
                        }));
                        *enabled && *v6 == peer.is_ipv6() && port && number.is_none_or(|number| number == probe.proto)
                            && net.is_none_or(|net| net.contains(&peer))
                    });
                    let expected = first.is_some_and(|(action, ..)| *action == "allow");
                    let side = policies.networks[0].side();
                    let passes = side.compiled.decide(EndpointId(0), direction, Addr::from(peer), &probe).verdict.passes();
                    prop_assert_eq!(passes, expected, "{:?} {} {:?}\n{}", direction, peer, probe, made);
                    let mut seen = counts.get();
                    seen[usize::from(expected)] += 1;
                    counts.set(seen);
                }
            }
        }
        Ok(())
    });
    fs::remove_dir_all(&folder).unwrap();
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    assert!(counts.get().iter().all(|count| *count > 500), "{:?}", counts.get());
}
