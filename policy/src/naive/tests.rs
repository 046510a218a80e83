use std::net::IpAddr;

use super::*;
use crate::rule::{EndpointRules, Group, PortProtocol, RuleId};

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

fn rule(id: u32, peer: Peer, service: Service, verdict: Verdict) -> Rule {
    Rule { id: RuleId(id), family: None, peer, service, verdict }
}

fn probe(port: u16) -> Probe {
    Probe { proto: 6, header: Header::Ports { source: 40_000, destination: port } }
}

/// One endpoint with these ingress rules, a group each.
fn source(groups: Vec<Vec<Rule>>) -> Source {
    let named = (0..groups.len() as u32).map(GroupId).collect();
    Source {
        groups: groups.into_iter().map(|ingress| Group { ingress, egress: vec![] }).collect(),
        endpoints: vec![EndpointRules { addresses: vec![(addr("10.0.0.1"), 128)], groups: named }],
    }
}

fn said(source: &Source, peer: &str, probe: Probe) -> (Verdict, Option<u32>) {
    let decision = decide(source, EndpointId(0), Direction::Ingress, addr(peer), &probe);
    (decision.verdict, decision.rule.map(|rule| rule.0))
}

use Verdict::{Allow, Deny, Reject};

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
    let unread = |proto| Probe { proto, header: Header::Unread };
    let echo = |proto| Probe { proto, header: Header::Icmp { kind: 8, code: 0 } };
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
        let verdict = if matches { Allow } else { Deny };
        assert_eq!(said(&source, from, probe).0, verdict, "{what}");
    }
    let denies = source(vec![vec![rule(1, Peer::Any, sctp, Deny), rule(2, Peer::Any, Service::Any, Allow)]]);
    assert_eq!(said(&denies, "10.0.0.9", unread(132)), (Deny, Some(1)), "what might be denied is");
}

#[test]
fn members_of_a_group_are_its_endpoints_addresses() {
    let mut source = source(vec![vec![rule(1, Peer::Group(GroupId(1)), tcp(80), Allow)], vec![]]);
    let pair = (addr("10.0.2.0"), 96 + 24);
    source
        .endpoints
        .push(EndpointRules { addresses: vec![(addr("fd00::2"), 128), pair], groups: vec![GroupId(1)] });
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
    assert_eq!(allowed.decision, Decision { verdict: Allow, rule: Some(RuleId(4)) });
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
    let reply = Probe { proto: 1, header: Header::Icmp { kind: 0, code: 0 } };
    assert_eq!(misses(reply), Some(vec!["ICMP type or code".to_owned()]));
}
