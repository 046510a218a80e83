use std::net::IpAddr;

use super::*;
use crate::rule::{Action, EndpointRules, Group, PortProtocol, RuleId, TcpFlags, Verdict};

fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>().unwrap().into()
}

fn peer(text: &str) -> Peer {
    let (network, len) = text.split_once('/').unwrap();
    let network = addr(network);
    let len: u8 = len.parse().unwrap();
    Peer::Prefix { network, len: if network.is_v4() { len + 96 } else { len } }
}

fn tcp(port: u16) -> Service {
    Service::Ports {
        protocol: PortProtocol::Tcp,
        destination: Some(vec![PortRange::single(port)]),
        source: None,
    }
}

fn rule(id: u32, peer: Peer, service: Service, action: Action) -> Rule {
    Rule::new(RuleId(id), peer, service, Then::Settle(Verdict::only(action)))
}

fn probe(port: u16) -> Probe {
    Probe::new(6, Header::Ports { source: 40_000, destination: port })
}

/// One endpoint with these ingress rules, a group each.
fn source(groups: Vec<Vec<Rule>>) -> Source {
    let named = (0..groups.len() as u32).map(GroupId).collect();
    Source {
        groups: groups.into_iter().map(|ingress| Group { ingress, egress: vec![] }.into()).collect(),
        endpoints: vec![EndpointRules::of_groups(vec![(addr("10.0.0.1"), 128)], named)],
    }
}

fn said(source: &Source, peer: &str, probe: Probe) -> (Action, Option<u32>) {
    let decision = decide(source, EndpointId(0), Direction::Ingress, addr(peer), &probe);
    (decision.verdict.action, decision.rule.map(|rule| rule.0))
}

use Action::{Allow, Deny, Reject};

#[test]
fn what_no_rule_allows_is_denied() {
    let source = source(vec![vec![rule(1, Peer::Any, tcp(80), Allow)]]);
    assert_eq!(said(&source, "192.0.2.1", probe(80)), (Allow, Some(1)));
    assert_eq!(said(&source, "192.0.2.1", probe(81)), (Deny, None));
    let egress = decide(&source, EndpointId(0), Direction::Egress, addr("192.0.2.1"), &probe(80));
    assert_eq!(egress, Decision::DEFAULT_DENY);
    let nobody = decide(&source, EndpointId(9), Direction::Ingress, addr("192.0.2.1"), &probe(80));
    assert_eq!(nobody, Decision::DEFAULT_DENY);
}

/// Attack 33: a wide deny with a narrow allow, both ways round.
#[test]
fn the_first_match_decides() {
    let narrow = rule(1, peer("10.1.2.0/24"), tcp(22), Allow);
    let wide = rule(2, peer("10.0.0.0/8"), Service::Any, Reject);
    let before = source(vec![vec![narrow.clone(), wide.clone()]]);
    assert_eq!(said(&before, "10.1.2.3", probe(22)), (Allow, Some(1)));
    assert_eq!(said(&before, "10.1.2.3", probe(23)), (Reject, Some(2)));
    let behind = source(vec![vec![wide.clone(), narrow.clone()]]);
    assert_eq!(said(&behind, "10.1.2.3", probe(22)), (Reject, Some(2)));
    let groups = source(vec![vec![narrow], vec![wide]]);
    assert_eq!(said(&groups, "10.1.2.3", probe(22)), (Allow, Some(1)));
}

#[test]
fn a_prefix_keeps_to_its_family() {
    let all_v6 = source(vec![vec![rule(1, peer("::/0"), Service::Any, Allow)]]);
    assert_eq!(said(&all_v6, "10.0.0.9", probe(80)), (Deny, None));
    assert_eq!(said(&all_v6, "fd00::9", probe(80)), (Allow, Some(1)));
    let all_v4 = source(vec![vec![rule(1, peer("0.0.0.0/0"), Service::Any, Allow)]]);
    assert_eq!(said(&all_v4, "10.0.0.9", probe(80)), (Allow, Some(1)));
    assert_eq!(said(&all_v4, "fd00::9", probe(80)), (Deny, None));
}

/// Attack 23: protocol 0, protocols without ports, ICMP of the other family, lists that lost their members.
#[test]
fn a_rule_is_never_wider_than_written() {
    let sctp = Service::Ports {
        protocol: PortProtocol::Sctp,
        destination: None,
        source: Some(vec![PortRange::ALL]),
    };
    let icmp = |kinds, codes| Service::Icmp { family: Family::V4, kinds, codes };
    let none = Service::Ports { protocol: PortProtocol::Tcp, destination: Some(vec![]), source: None };
    let unread = |proto| Probe::new(proto, Header::Unread);
    let echo = |proto| Probe::new(proto, Header::Icmp { kind: 8, code: 0 });
    for (what, service, probe, from, matches) in [
        ("protocol 0 is no wildcard", Service::Protocol(0), probe(80), "10.0.0.9", false),
        ("protocol 0 is a protocol", Service::Protocol(0), unread(0), "10.0.0.9", true),
        ("GRE has no ports", tcp(80), unread(47), "10.0.0.9", false),
        ("ports that were not read allow nothing", sctp.clone(), unread(132), "10.0.0.9", false),
        ("TCP without a header allows nothing", tcp(80), unread(6), "10.0.0.9", false),
        ("an empty list matches nothing", none, probe(80), "10.0.0.9", false),
        ("ICMP of the family", icmp(None, None), echo(1), "10.0.0.9", true),
        ("type and code", icmp(Some(vec![8]), Some(vec![0])), echo(1), "10.0.0.9", true),
        ("another code", icmp(Some(vec![8]), Some(vec![1])), echo(1), "10.0.0.9", false),
        ("any type, this code", icmp(None, Some(vec![0])), echo(1), "10.0.0.9", true),
        ("an empty list of types", icmp(Some(vec![]), None), echo(1), "10.0.0.9", false),
        ("ICMP in IPv6", icmp(None, None), echo(1), "fd00::9", false),
        ("ICMPv6 is not ICMP", icmp(None, None), echo(58), "fd00::9", false),
    ] {
        let source = source(vec![vec![rule(1, Peer::Any, service.clone(), Allow)]]);
        let expected = if matches { Allow } else { Deny };
        assert_eq!(said(&source, from, probe).0, expected, "{what}");
    }
    let denies = source(vec![vec![rule(1, Peer::Any, sctp, Deny), rule(2, Peer::Any, Service::Any, Allow)]]);
    assert_eq!(said(&denies, "10.0.0.9", unread(132)), (Deny, Some(1)), "what might be denied is");
}

#[test]
fn members_of_a_group_are_its_endpoints_addresses() {
    let mut source = source(vec![vec![rule(1, Peer::Group(GroupId(1)), tcp(80), Allow)], vec![]]);
    let pair = (addr("10.0.2.0"), 96 + 24);
    let addresses = vec![(addr("fd00::2"), 128), pair];
    source.endpoints.push(EndpointRules { addresses, groups: vec![GroupId(1)], ..EndpointRules::default() });
    assert_eq!(said(&source, "fd00::2", probe(80)), (Allow, Some(1)));
    assert_eq!(said(&source, "10.0.2.77", probe(80)), (Allow, Some(1)));
    assert_eq!(said(&source, "10.0.3.1", probe(80)), (Deny, None));
    assert_eq!(said(&source, "10.0.0.1", probe(80)), (Allow, Some(1)), "the endpoint itself is a member too");
}

#[test]
fn an_explanation_names_the_match_and_the_near_misses() {
    let v6 = Rule { family: Some(Family::V6), ..rule(1, Peer::Any, tcp(22), Allow) };
    let rules = vec![
        v6,
        rule(2, peer("192.0.2.0/24"), tcp(443), Allow),
        rule(3, Peer::Any, Service::Protocol(17), Allow),
        rule(4, peer("10.0.0.0/8"), tcp(443), Allow),
        rule(5, peer("192.0.2.0/24"), tcp(22), Allow),
    ];
    let source = source(vec![rules]);
    let explained = explain(&source, EndpointId(0), Direction::Ingress, addr("10.0.0.9"), &probe(22));
    assert_eq!(explained.decision, Decision::DEFAULT_DENY);
    assert!(explained.matched().is_none());
    let close: Vec<_> =
        explained.close_calls().iter().map(|s| (s.rule.id.0, s.misses.iter().collect())).collect();
    let expected: Vec<(u32, Vec<Miss>)> = vec![
        (4, vec![Miss::Port]),
        (5, vec![Miss::Peer]),
        (2, vec![Miss::Peer, Miss::Port]),
        (3, vec![Miss::Protocol]),
        (1, vec![Miss::Family]),
    ];
    assert_eq!(close, expected);

    let allowed = explain(&source, EndpointId(0), Direction::Ingress, addr("10.0.0.9"), &probe(443));
    assert_eq!(allowed.matched().unwrap().rule.id, RuleId(4));
    assert_eq!(allowed.decision, Decision { verdict: Verdict::ALLOW, rule: Some(RuleId(4)) });
}

#[test]
fn source_ports_and_icmp_are_told_from_ports() {
    let from = Service::Ports {
        protocol: PortProtocol::Tcp,
        destination: None,
        source: Some(vec![PortRange::single(1)]),
    };
    let echo = Service::Icmp { family: Family::V4, kinds: Some(vec![8]), codes: None };
    let source = source(vec![vec![rule(1, Peer::Any, from, Allow), rule(2, Peer::Any, echo, Allow)]]);
    let misses = |probe: Probe| {
        let explained = explain(&source, EndpointId(0), Direction::Ingress, addr("10.0.0.9"), &probe);
        explained
            .close_calls()
            .first()
            .map(|step| step.misses.iter().map(|m| m.to_string()).collect::<Vec<_>>())
    };
    assert_eq!(misses(probe(80)), Some(vec!["source port".to_owned()]));
    let reply = Probe::new(1, Header::Icmp { kind: 0, code: 0 });
    assert_eq!(misses(reply), Some(vec!["ICMP type or code".to_owned()]));
}

#[test]
fn dscp_and_tcp_flags_are_told_from_ports() {
    let asking = |dscp: &[u8], flags| {
        let dscp = (!dscp.is_empty()).then(|| dscp.iter().copied().collect());
        Rule { dscp, tcp_flags: flags, ..rule(1, Peer::Any, Service::Any, Allow) }
    };
    let misses = |rule: Rule, probe: Probe| {
        let source = source(vec![vec![rule]]);
        let explained = explain(&source, EndpointId(0), Direction::Ingress, addr("10.0.0.9"), &probe);
        explained.steps[0].misses.iter().map(|miss| miss.to_string()).collect::<Vec<_>>().join(", ")
    };
    let begins = Some(TcpFlags { mask: 0x12, set: 0x02 });
    let tcp = |dscp, tcp_flags| Probe { dscp, tcp_flags, ..probe(80) };
    assert_eq!(misses(asking(&[46, 34], None), tcp(34, 0)), "");
    assert_eq!(misses(asking(&[46, 34], None), tcp(0, 0)), "DSCP");
    assert_eq!(misses(asking(&[], begins), tcp(0, 0x02)), "");
    assert_eq!(misses(asking(&[], begins), tcp(0, 0xc2)), "", "ECN is not looked at");
    assert_eq!(misses(asking(&[], begins), tcp(0, 0x12)), "TCP flags");
    let impossible = Some(TcpFlags { mask: 0x10, set: 0x02 });
    assert_eq!(misses(asking(&[], impossible), tcp(0, 0x02)), "TCP flags");
    // Not what is no TCP, whatever its rule does; of TCP that was not read, what denies and not what allows.
    let deny = |flags| Rule { then: Then::Settle(Verdict::DENY), ..asking(&[], flags) };
    let unread = |proto| Probe::new(proto, Header::Unread);
    assert_eq!(misses(deny(begins), unread(17)), "TCP flags");
    assert_eq!(misses(asking(&[], begins), unread(6)), "TCP flags");
    assert_eq!(misses(deny(begins), unread(6)), "");
    assert_eq!(misses(deny(impossible), unread(6)), "TCP flags");
}

/// One endpoint with these tiers of ingress rules, a group each.
fn tiered(tiers: Vec<(Vec<Rule>, TierEnd)>) -> Source {
    let (rules, ends): (Vec<_>, Vec<_>) = tiers.into_iter().unzip();
    let tier = |(end, group)| Tier { groups: vec![GroupId(group)], end };
    let ingress = ends.into_iter().zip(0..).map(tier).collect::<Vec<_>>().into();
    Source {
        groups: rules.into_iter().map(|ingress| Group { ingress, egress: vec![] }.into()).collect(),
        endpoints: vec![EndpointRules { ingress, ..EndpointRules::default() }],
    }
}

fn passing(id: u32, peer: Peer, service: Service) -> Rule {
    Rule { then: Then::Pass, ..rule(id, peer, service, Allow) }
}

#[test]
fn a_tier_acts_by_its_first_match_or_at_its_end() {
    use TierEnd::{Deny as Denies, Pass as Passes};
    let first = vec![
        passing(1, peer("10.1.0.0/16"), tcp(22)),
        rule(2, peer("10.0.0.0/8"), tcp(22), Deny),
        rule(3, Peer::Any, tcp(23), Reject),
    ];
    let second = vec![rule(4, peer("10.1.2.0/24"), tcp(22), Allow), passing(5, Peer::Any, tcp(25))];
    let third = vec![rule(6, Peer::Any, Service::Any, Allow)];
    let both = tiered(vec![(first.clone(), Passes), (second.clone(), Denies), (third.clone(), Denies)]);
    for (from, port, expected) in [
        ("10.1.2.3", 22, (Allow, Some(4))),
        ("10.1.3.3", 22, (Deny, None)),
        ("10.2.0.1", 22, (Deny, Some(2))),
        ("10.2.0.1", 23, (Reject, Some(3))),
        ("10.2.0.1", 25, (Allow, Some(6))),
        ("10.2.0.1", 26, (Deny, None)),
    ] {
        assert_eq!(said(&both, from, probe(port)), expected, "{from} {port}");
    }
    let closed = tiered(vec![(first.clone(), Denies), (third.clone(), Denies)]);
    assert_eq!(said(&closed, "10.2.0.1", probe(26)), (Deny, None), "the first tier denies at its end");
    assert_eq!(said(&closed, "10.1.0.1", probe(22)), (Allow, Some(6)), "but what it passes on, passes it");
    let last = tiered(vec![(first, Passes)]);
    assert_eq!(said(&last, "10.1.0.1", probe(22)), (Deny, None), "there is nothing behind the last tier");
    assert_eq!(said(&last, "10.2.0.1", probe(26)), (Deny, None), "there is nothing behind the last tier");
    assert_eq!(said(&tiered(vec![]), "10.2.0.1", probe(26)), (Deny, None));

    let explained = explain(&both, EndpointId(0), Direction::Ingress, addr("10.1.2.3"), &probe(22));
    let matched = explained.matched().unwrap();
    assert_eq!((matched.tier, matched.rule.id), (1, RuleId(4)), "and not what passed it on");
    assert_eq!(explained.steps.iter().map(|step| step.tier).collect::<Vec<_>>(), [0, 0, 0, 1, 1, 2]);
}

/// Ports that were not read pass nothing on: what stands behind a pass decides.
#[test]
fn what_cannot_be_read_is_not_passed_on() {
    let sctp = Service::Ports {
        protocol: PortProtocol::Sctp,
        destination: Some(vec![PortRange::ALL]),
        source: None,
    };
    let tiers = vec![
        (vec![passing(1, Peer::Any, sctp), rule(2, Peer::Any, Service::Any, Deny)], TierEnd::Pass),
        (vec![rule(3, Peer::Any, Service::Any, Allow)], TierEnd::Deny),
    ];
    let unread = Probe::new(132, Header::Unread);
    assert_eq!(said(&tiered(tiers), "10.0.0.9", unread), (Deny, Some(2)));
}
