//! What rules have done is counted for them, however it is settled; and of those that log, each packet is told.

use std::time::Duration;

use eastgate_wire::DropReason;

use super::{frames::*, net::Net, scene::*};
use crate::{pipeline::events::Event, snapshot::rule_counts::RuleCount};

/// Before the groups: web1 is denied two services, one of them with a log.
const GUARD: &str = r#"
[tenant.acme.policy.guard]
position = "before"
applies_to = ["tenant"]
ingress = [
  { action = "deny", proto = "udp", ports = [53], from = "10.1.0.12/32" },
  { action = "deny", proto = "udp", ports = [9000], from = "10.1.0.12/32", log = true },
  { action = "deny", proto = "icmp", from = "10.1.0.13/32", mode = "audit", log = true },
]
"#;

fn guarded() -> Net {
    Net::new(&scene_with("", &[GROUPS, GUARD].concat()))
}

/// What a rule has done on a host: as far as it is counted, and with what flows have come to that are there.
fn done(net: &Net, host: &str, name: &str) -> [RuleCount; 2] {
    let snapshot = net.snapshot(host);
    let network = snapshot.networks()[0];
    let is_it = |rule: &u32| network.rules.reference("acme", *rule).unwrap().rule == name;
    let rule = network.rules.in_order().find(is_it).unwrap();
    let counted = network.counts.get(rule);
    let mut all = counted;
    let more = net.shared(host).not_counted_for_rules(&snapshot, &[], net.now());
    all.add(&more.get(&(network.vni, rule)).copied().unwrap_or_default());
    [counted, all]
}

#[test]
fn a_flow_counts_for_its_rules_when_it_ends_and_before_for_who_asks() {
    let mut net = Net::new(&scene(""));
    let (there, back) = (udp(WEB1, DB1, 4000, 53), udp(DB1, WEB1, 53, 4000));
    let (len, begun) = ((there.len() + back.len()) as u64, net.now());
    assert_eq!(net.send("web1", &there), "db1");
    net.pass(Duration::from_secs(2));
    assert_eq!(net.send("db1", &back), "web1");
    let last = net.now();
    let rules = [("alpha", "acme/web egress #2"), ("beta", "acme/db ingress #2")];
    let hit = Some((begun, last));
    let whole = RuleCount { flows: 1, packets: 2, bytes: len, hit, ..RuleCount::default() };
    for (host, rule) in rules {
        let [counted, all] = done(&net, host, rule);
        assert_eq!((counted.flows, counted.packets, all), (1, 0, whole), "{rule} at {host}");
    }
    net.pass(Duration::from_secs(3600));
    for (host, rule) in rules {
        assert_eq!(done(&net, host, rule), [whole; 2], "{rule} at {host}");
    }
    assert_eq!(done(&net, "alpha", "acme/web egress #1")[1], RuleCount::default(), "it was not asked for");
    assert_eq!(net.send("web1", &there), "db1");
    assert_eq!(done(&net, "beta", "acme/db ingress #2")[1].flows, 2);
}

#[test]
fn what_a_rule_refuses_counts_at_once() {
    let mut net = guarded();
    let packet = udp(WEB2, DB1, 4000, 53);
    for _ in 0..3 {
        assert_eq!(net.send("web2", &packet), "ingress-rule at beta");
    }
    let now = net.now();
    let bytes = 3 * packet.len() as u64;
    let refused = RuleCount { packets: 3, bytes, hit: Some((now, now)), ..RuleCount::default() };
    assert_eq!(done(&net, "beta", "acme/policy guard ingress #1"), [refused; 2]);
    assert_eq!(done(&net, "beta", "acme/policy guard ingress #2")[1], RuleCount::default());
}

#[test]
fn each_packet_of_a_rule_that_logs_is_told_and_of_others_the_first() {
    let mut net = guarded();
    net.shared("beta").keep_events(100, net.now());
    for _ in 0..3 {
        assert_eq!(net.send("web2", udp(WEB2, DB1, 4000, 53)), "ingress-rule at beta");
        assert_eq!(net.send("web2", udp(WEB2, DB1, 4000, 9000)), "ingress-rule at beta");
    }
    for id in 0..3 {
        assert_eq!(net.send("web3", ping(WEB3, DB1, id)), "db1", "it is being tried out");
        assert_eq!(net.send("web3", ping(WEB3, DB1, id)), "db1", "of a flow");
    }
    let snapshot = net.snapshot("beta");
    let network = snapshot.networks()[0];
    let mut told = [0; 3];
    for event in net.shared("beta").take_events() {
        match event {
            Event::Dropped(key, seen) => {
                assert_eq!(key.reason, DropReason::IngressRule);
                told[usize::from(network.logs(key.rule.unwrap()))] += seen.frames;
            }
            Event::WouldBeDenied(key, seen) => {
                assert!(network.logs(key.rule.unwrap()) && network.tries_out(key.rule.unwrap()));
                told[2] += seen.frames;
            }
            Event::Flow(_) | Event::Elsewhere(_) => {}
        }
    }
    assert_eq!(told, [1, 3, 3]);
    let tried = done(&net, "beta", "acme/policy guard ingress #3")[1];
    assert_eq!((tried.flows, tried.packets), (3, 6), "it lets them pass, after all");
}
