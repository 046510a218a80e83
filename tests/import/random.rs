//! Random Neutron projects: what the imported configuration lets pass is what Neutron's own words say, no more and no less.

use std::{collections::BTreeSet, fs, net::IpAddr};

use eastgate::{
    import::{File, From, Map, import},
    policy_tools,
};
use eastgate_policy::rule::{Direction, Header, Probe};
use eastgate_wire::{Addr, EndpointId};
use ipnet::IpNet;
use proptest::{prelude::*, sample::select, test_runner::TestRunner};
use serde_json::{Value, json};

const ADDRESSES: [[&str; 2]; 3] =
    [["10.1.0.11", "fd00:1::11"], ["10.1.0.12", "fd00:1::12"], ["10.1.0.21", "fd00:1::21"]];
const ADDRESS_GROUP: [&str; 2] = ["10.1.0.12/32", "fd00:1::/123"];

/// A rule as `security group show` prints it.
fn rule() -> impl Strategy<Value = Value> {
    let service = prop_oneof![
        2 => Just((None, None, None)),
        4 => (select(vec!["tcp", "udp", "6", "sctp"]), select(vec![22i64, 80, 443]), select(vec![0i64, 1, 400]))
            .prop_map(|(protocol, first, more)| (Some(protocol), Some(first), Some(first + more))),
        2 => select(vec!["tcp", "gre", "47", "icmp", "esp"]).prop_map(|protocol| (Some(protocol), None, None)),
        3 => (select(vec![0i64, 3, 8, 128]), proptest::option::of(select(vec![0i64, 4])))
            .prop_map(|(kind, code)| (Some("icmp"), Some(kind), code)),
    ];
    let remote = prop_oneof![
        3 => Just((None, None, None)),
        3 => select(vec!["0.0.0.0/0", "10.1.0.11/32", "10.1.0.0/28", "::/0", "fd00:1::/124", "fd00:1::21/128"])
            .prop_map(|prefix| (Some(prefix), None, None)),
        3 => select(vec!["g0", "g1"]).prop_map(|group| (None, Some(group), None)),
        1 => Just((None, None, Some("a0"))),
    ];
    (select(vec!["ingress", "egress"]), any::<bool>(), service, remote).prop_map(
        |(direction, v6, (protocol, min, max), (prefix, group, addresses))| {
            let v6 = prefix.map_or(v6, |prefix: &str| prefix.contains(':'));
            json!({
                "direction": direction, "ethertype": if v6 { "IPv6" } else { "IPv4" }, "protocol": protocol,
                "port_range_min": min, "port_range_max": max, "remote_ip_prefix": prefix, "remote_group_id": group,
                "remote_address_group_id": addresses, "description": "",
            })
        },
    )
}

/// Rules of each of two groups, and the groups that each of three ports is in
type Project = ([Vec<Value>; 2], [BTreeSet<usize>; 3]);

fn project() -> impl Strategy<Value = Project> {
    let rules = || proptest::collection::vec(rule(), 0..6);
    let member = || proptest::collection::btree_set(0usize..2, 0..3);
    ([rules(), rules()], [member(), member(), member()])
}

fn files((rules, members): &Project) -> Vec<File> {
    let groups = rules.iter().enumerate().map(|(at, rules)| {
        let numbered = rules.iter().enumerate().map(|(number, rule)| {
            let mut rule = rule.clone();
            rule["id"] = json!(format!("r{at}-{number}"));
            rule
        });
        json!({ "id": format!("g{at}"), "name": "web", "project_id": "p", "rules": numbered.collect::<Vec<_>>() })
    });
    let ports = members.iter().zip(ADDRESSES).enumerate().map(|(at, (groups, addresses))| {
        json!({
            "id": format!("{at}0000000-0000"), "name": format!("vm{at}"), "mac_address": format!("fa:16:3e:00:00:0{at}"),
            "network_id": "n", "project_id": "p", "binding_host_id": "alpha", "port_security_enabled": true,
            "fixed_ips": addresses.map(|ip| json!({ "ip_address": ip })),
            "security_group_ids": groups.iter().map(|group| format!("g{group}")).collect::<Vec<_>>(),
        })
    });
    let others = [
        json!({ "id": "a0", "name": "admins", "addresses": ADDRESS_GROUP }),
        json!({ "id": "n", "name": "app", "subnets": [], "provider:network_type": "vxlan", "provider:segmentation_id": 7 }),
        json!({ "id": "s4", "network_id": "n", "cidr": "10.1.0.0/24" }),
        json!({ "id": "s6", "network_id": "n", "cidr": "fd00:1::/64" }),
    ];
    let text: String = groups.chain(ports).chain(others).map(|thing| thing.to_string() + "\n").collect();
    vec![File::new("project.json", text)]
}

/// What Neutron's API reference says of a rule and a packet.
fn matches(rule: &Value, (_, members): &Project, peer: IpAddr, probe: &Probe) -> bool {
    let v6 = rule["ethertype"] == "IPv6";
    let within = |net: &str| net.parse::<IpNet>().unwrap().contains(&peer);
    let is_member = |group: &str| {
        let group: usize = group.trim_start_matches('g').parse().unwrap();
        let holds = |at: usize| ADDRESSES[at].iter().any(|ip| ip.parse::<IpAddr>().unwrap() == peer);
        (0..3).any(|at| members[at].contains(&group) && holds(at))
    };
    let is_peer =
        match (&rule["remote_ip_prefix"], &rule["remote_group_id"], &rule["remote_address_group_id"]) {
            (Value::String(net), _, _) => within(net),
            (_, Value::String(group), _) => is_member(group),
            (_, _, Value::String(_)) => ADDRESS_GROUP.iter().any(|net| within(net)),
            _ => true,
        };
    let (min, max) = (rule["port_range_min"].as_i64(), rule["port_range_max"].as_i64());
    let number = match rule["protocol"].as_str() {
        None => None,
        Some("tcp" | "6") => Some(6),
        Some("udp") => Some(17),
        Some("sctp") => Some(132),
        Some("gre" | "47") => Some(47),
        Some("esp") => Some(50),
        // In a rule for IPv6 it is ICMPv6.
        _ => Some(if v6 { 58 } else { 1 }),
    };
    let fields = match probe.header {
        Header::Ports { destination, .. } => {
            let port = i64::from(destination);
            min.is_none_or(|min| min <= port) && max.is_none_or(|max| port <= max)
        }
        Header::Icmp { kind, code } => {
            let same =
                |wanted: Option<i64>, found: u8| wanted.is_none_or(|wanted| wanted == i64::from(found));
            same(min, kind) && same(max, code)
        }
        Header::Unread => true,
    };
    peer.is_ipv6() == v6 && is_peer && number.is_none_or(|number| number == probe.proto && fields)
}

fn probes(v6: bool) -> Vec<Probe> {
    let ports = [6, 17, 132].into_iter().flat_map(|proto| {
        [21, 22, 23, 80, 81, 400, 423, 443, 480, 481, 843, 844]
            .map(|destination| Probe::new(proto, Header::Ports { source: 40_000, destination }))
    });
    let icmp = [0, 3, 8, 128].into_iter().flat_map(move |kind| {
        [0, 1, 4].map(|code| Probe::new(if v6 { 58 } else { 1 }, Header::Icmp { kind, code }))
    });
    ports.chain(icmp).chain([47, 50, 89].map(|proto| Probe::new(proto, Header::Unread))).collect()
}

#[test]
fn a_neutron_project_lets_pass_what_neutron_did() {
    let folder = std::env::temp_dir().join(format!("egt-{}-random", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("site.toml");
    let counts = std::cell::Cell::new([0u32; 2]);
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(150) };
    let outcome = TestRunner::new(config).run(&project(), |project| {
        let text = import(From::Neutron, &files(&project), &Map::default());
        let text = text.map_err(|faults| TestCaseError::fail(faults.to_string()))?;
        fs::write(&path, format!("{text}\n[host.alpha]\nvtep = \"172.31.0.1\"\ndevice = \"eth0\"\n"))
            .unwrap();
        let policies = policy_tools::load(&path, false).unwrap();
        let network = &policies.networks[0];
        for (at, (groups, own)) in project.1.iter().zip(ADDRESSES).enumerate() {
            let id = EndpointId(at as u32);
            prop_assert_eq!(network.endpoint_name(at), format!("p/vm{at}"));
            for (direction, name) in [(Direction::Ingress, "ingress"), (Direction::Egress, "egress")] {
                for peer in ADDRESSES.concat().into_iter().filter(|peer| !own.contains(peer)) {
                    let peer: IpAddr = peer.parse().unwrap();
                    for probe in probes(peer.is_ipv6()) {
                        let rules = groups.iter().flat_map(|group| &project.0[*group]);
                        let expected = rules
                            .filter(|rule| rule["direction"] == name)
                            .any(|rule| matches(rule, &project, peer, &probe));
                        let decision =
                            network.side().compiled.decide(id, direction, Addr::from(peer), &probe);
                        prop_assert_eq!(
                            decision.verdict.passes(),
                            expected,
                            "vm{} {} {} {:?}\n{}",
                            at,
                            name,
                            peer,
                            probe,
                            text
                        );
                        let mut seen = counts.get();
                        seen[usize::from(expected)] += 1;
                        counts.set(seen);
                    }
                }
            }
        }
        Ok(())
    });
    fs::remove_dir_all(&folder).unwrap();
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    assert!(counts.get().iter().all(|count| *count > 5_000), "{:?}", counts.get());
}
