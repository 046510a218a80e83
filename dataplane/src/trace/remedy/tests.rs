#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use eastgate_config::load_str;
use proptest::prelude::*;
use toml::{Table, Value};

use super::{super::trace, *};
use crate::trace::TraceReport;

const CONFIG: &str = r#"
[host.alpha]
vtep = "172.31.0.1"
device = "eth0"
[host.beta]
vtep = "172.31.0.2"
device = "eth0"
[tenant.acme.network.app]
vni = 5001
subnets = ["10.1.0.0/24", "fd00:1::/64"]
[tenant.acme.group.web]
egress = [{ proto = "tcp", ports = 5432, to = "group:db" }]
ingress = [{ proto = "icmp", from = "any" }]
[tenant.acme.group.db]
egress = [{ to = "any" }]
ingress = []
[tenant.acme.endpoint.web1]
network = "app"
host = "alpha"
port = "p1"
mac = "02:00:00:00:00:11"
addresses = ["10.1.0.11", "fd00:1::11"]
groups = ["web"]
[tenant.acme.endpoint.db1]
network = "app"
host = "beta"
port = "p1"
mac = "02:00:00:00:00:21"
addresses = ["10.1.0.21", "fd00:1::21"]
groups = ["db"]
"#;

fn request(proto: u8, sides: [&str; 2], dport: u16, icmp: Option<(u8, u8)>) -> TraceRequest {
    let [src, dst] = sides.map(|side| side.parse::<IpAddr>().unwrap().into());
    let vni = eastgate_wire::Vni::new_checked(5001).unwrap();
    TraceRequest { vni, frame: None, proto, src, dst, sport: 40000, dport, icmp, from: None }
}

fn traced(text: &str, request: &TraceRequest) -> TraceReport {
    let config = load_str("trace.toml", text).unwrap_or_else(|error| panic!("{error:?}\n{text}"));
    let states = StateRegistry::new(config.limits);
    let snapshot = Snapshot::compile(&config, "alpha", None, &mut Attachments::default(), &states).unwrap();
    trace(&snapshot, request, Live::NOTHING, Instant::from_secs(1000)).unwrap()
}

/// The configuration with a rule that was told, put where it was said to belong, by nothing but the words.
fn with(text: &str, remedy: &Remedy) -> String {
    let mut file: Table = text.parse().unwrap();
    let (list, place) = remedy.place.split_once(", ").unwrap();
    let path: Vec<&str> = match list.split_once(' ') {
        Some(("policy", name)) => vec!["policy", name],
        Some((owner, name)) => {
            vec!["tenant", owner.strip_suffix("/policy").unwrap(), "policy", name]
        }
        None => {
            let (tenant, group) = list.split_once('/').unwrap();
            vec!["tenant", tenant, "group", group]
        }
    };
    let mut table = &mut file;
    for key in path {
        table = table.get_mut(key).unwrap_or_else(|| panic!("{remedy:?}")).as_table_mut().unwrap();
    }
    let (direction, before) = match place.strip_prefix("before ") {
        Some(rule) => {
            let (direction, number) = rule.split_once(" #").unwrap();
            (direction, number.parse::<usize>().unwrap() - 1)
        }
        None => (place, usize::MAX),
    };
    let rules = table.entry(direction).or_insert_with(|| Value::Array(Vec::new())).as_array_mut().unwrap();
    let rule: Table = format!("rule = {}", remedy.rule).parse().unwrap();
    rules.insert(before.min(rules.len()), rule["rule"].clone());
    toml::to_string(&file).unwrap()
}

/// All that is told, put in its place; what is told is enough, and all of it is needed.
fn holds(text: &str, request: &TraceRequest) -> Vec<Remedy> {
    let report = traced(text, request);
    let all = report.to_pass.iter().fold(text.to_owned(), |text, remedy| with(&text, remedy));
    if !report.to_pass.is_empty() {
        assert_eq!(traced(&all, request).verdict, "forwarded", "{report:#?}\n{all}");
    }
    for left_out in 0..report.to_pass.len() {
        let others = report.to_pass.iter().enumerate().filter(|(index, _)| *index != left_out);
        let some = others.fold(text.to_owned(), |text, (_, remedy)| with(&text, remedy));
        assert_ne!(traced(&some, request).verdict, "forwarded", "{left_out}: {report:#?}");
    }
    report.to_pass
}

fn told(text: &str, request: &TraceRequest) -> Vec<String> {
    holds(text, request).iter().map(|remedy| format!("{} in {}", remedy.rule, remedy.place)).collect()
}

#[test]
fn what_no_rule_allows() {
    // One end, and both
    assert_eq!(
        told(CONFIG, &request(6, ["10.1.0.11", "10.1.0.21"], 5432, None)),
        [r#"{ proto = "tcp", ports = 5432, from = "10.1.0.11" } in acme/db, ingress"#]
    );
    assert_eq!(
        told(CONFIG, &request(17, ["fd00:1::11", "fd00:1::21"], 53, None)),
        [
            r#"{ proto = "udp", ports = 53, to = "fd00:1::21" } in acme/web, egress"#,
            r#"{ proto = "udp", ports = 53, from = "fd00:1::11" } in acme/db, ingress"#,
        ]
    );
    assert_eq!(
        told(CONFIG, &request(1, ["10.1.0.11", "10.1.0.21"], 0, Some((8, 0)))),
        [
            r#"{ proto = "icmp", icmp_type = 8, to = "10.1.0.21" } in acme/web, egress"#,
            r#"{ proto = "icmp", icmp_type = 8, from = "10.1.0.11" } in acme/db, ingress"#,
        ]
    );
    assert_eq!(
        told(CONFIG, &request(47, ["10.1.0.21", "10.1.0.11"], 0, None)),
        [r#"{ proto = "gre", from = "10.1.0.21" } in acme/web, ingress"#]
    );
}

#[test]
fn what_a_policy_refuses() {
    let denied = request(6, ["10.1.0.11", "10.1.0.21"], 5432, None);
    let policies = r#"
[policy.guard]
position = "before"
applies_to = "site"
ingress = [{ action = "allow", proto = "tcp", ports = 22, from = "any" }, { action = "deny", proto = "tcp", from = "any" }]
[tenant.acme.policy.late]
position = "before"
applies_to = "tenant"
egress = [{ action = "reject", proto = "tcp", ports = "5000-6000", to = "any" }]
"#;
    let text = format!("{CONFIG}{policies}");
    assert_eq!(
        told(&text, &denied),
        [
            r#"{ proto = "tcp", ports = 5432, to = "10.1.0.21", action = "pass" } in acme/policy late, before egress #1"#,
            r#"{ proto = "tcp", ports = 5432, from = "10.1.0.11", action = "pass" } in policy guard, before ingress #2"#,
            r#"{ proto = "tcp", ports = 5432, from = "10.1.0.11" } in acme/db, ingress"#,
        ]
    );
    let at = &holds(&text, &denied)[1].at;
    let line = 1 + text.lines().position(|line| line.contains("ports = 22")).unwrap();
    assert!(at.starts_with(&format!("trace.toml:{line}:")), "{at}");
    let only = r#"
[tenant.acme.policy.only]
position = "before"
applies_to = "tenant"
end = "deny"
ingress = [{ action = "allow", proto = "tcp", ports = 22, from = "any" }]
egress = [{ action = "allow", proto = "tcp", ports = 22, to = "any" }]
"#;
    let end = format!("{CONFIG}{only}");
    assert_eq!(
        told(&end, &denied),
        [
            r#"{ proto = "tcp", ports = 5432, to = "10.1.0.21", action = "pass" } in acme/policy only, egress"#,
            r#"{ proto = "tcp", ports = 5432, from = "10.1.0.11", action = "pass" } in acme/policy only, ingress"#,
            r#"{ proto = "tcp", ports = 5432, from = "10.1.0.11" } in acme/db, ingress"#,
        ]
    );
}

/// A rule that closes what is open for others is none, nor is one that no file has room for.
#[test]
fn what_would_do_harm_is_not_told() {
    let refused = request(17, ["10.1.0.11", "10.1.0.21"], 53, None);
    let text = CONFIG
        .replace("vni = 5001", "vni = 5001\negress_default = \"open\"")
        .replace("groups = [\"web\"]", "groups = [\"a-base\", \"web\"]\nfilters = [\"no-ip-multicast\"]")
        + "[tenant.acme.group.a-base]\ningress = [{ proto = \"icmp\", from = \"any\" }]\n";
    assert_eq!(
        told(&text, &refused),
        [
            r#"{ proto = "udp", ports = 53, to = "10.1.0.21" } in acme/web, egress"#,
            r#"{ proto = "udp", ports = 53, from = "10.1.0.11" } in acme/db, ingress"#,
        ]
    );
}

#[test]
fn what_rules_do_not_let_through() {
    for refused in [
        // Not its address; nobody's; a group
        request(6, ["10.1.0.99", "10.1.0.21"], 5432, None),
        request(6, ["10.1.0.11", "10.1.0.77"], 5432, None),
        request(17, ["10.1.0.11", "224.0.0.251"], 53, None),
    ] {
        let report = traced(CONFIG, &refused);
        assert!(report.verdict != "forwarded" && report.to_pass.is_empty(), "{report:#?}");
    }
    let passes = traced(CONFIG, &request(6, ["10.1.0.21", "10.1.0.11"], 1, None));
    assert_eq!((passes.verdict.as_str(), passes.to_pass.len()), ("ingress-denied", 1));
}

fn any_rule() -> impl Strategy<Value = String> {
    let action = prop_oneof![Just("allow"), Just("deny"), Just("reject"), Just("pass")];
    let match_ = prop_oneof![
        Just(r#"proto = "tcp", ports = 5432"#),
        Just(r#"proto = "tcp""#),
        Just(r#"proto = "udp", ports = "50-60""#),
        Just(r#"proto = "any""#),
    ];
    let peer = prop_oneof![Just("any"), Just("10.1.0.0/28"), Just("group:web"), Just("group:db")];
    (action, match_, peer).prop_map(|(action, match_, peer)| {
        format!("{{ action = \"{action}\", {match_}, PEER = \"{peer}\" }}")
    })
}

prop_compose! {
    fn any_policy(name: &'static str)(
        before in any::<bool>(),
        deny in any::<bool>(),
        ingress in proptest::collection::vec(any_rule(), 0..4),
        egress in proptest::collection::vec(any_rule(), 0..4),
    ) -> String {
        let end = if before && deny { "end = \"deny\"\n" } else { "" };
        let position = if before { "before" } else { "after" };
        // After the groups there is nobody to pass on to.
        let list = |rules: &[String], peer: &str| {
            let rules: BTreeSet<String> = rules.iter().map(|rule| rule.replace("PEER", peer)).collect();
            let list = Vec::from_iter(rules).join(", ");
            if before { list } else { list.replace("\"pass\"", "\"deny\"") }
        };
        format!(
            "[tenant.acme.policy.{name}]\nposition = \"{position}\"\n{end}applies_to = \"tenant\"\n\
             ingress = [{}]\negress = [{}]\n",
            list(&ingress, "from"), list(&egress, "to")
        )
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]
    /// Whatever the policies are: what is refused by rules is let through by those that are told.
    #[test]
    fn what_would_let_it_pass_does(policies in [any_policy("one"), any_policy("two")], udp in any::<bool>(), back in any::<bool>()) {
        let text = format!("{CONFIG}{}{}", policies[0], policies[1]);
        prop_assume!(load_str("trace.toml", &text).is_ok());
        let mut sides = ["10.1.0.11", "10.1.0.21"];
        if back {
            sides.reverse();
        }
        let request = if udp { request(17, sides, 53, None) } else { request(6, sides, 5432, None) };
        let refused = traced(&text, &request).verdict != "forwarded";
        prop_assert_eq!(holds(&text, &request).is_empty(), !refused);
    }
}
