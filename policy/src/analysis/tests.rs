use std::{cell::Cell, net::IpAddr, sync::Arc};

use eastgate_wire::{Family, view::proto};
use proptest::{prelude::*, test_runner::TestRunner};

use super::*;
use crate::{
    compile::tests::{ENDPOINTS, address, question, source},
    naive,
    rule::{
        EndpointRules, Group, GroupId, Header, Peer, PortProtocol, PortRange, Rule, RuleId, Service, Then,
        Tier, TierEnd, Verdict,
    },
};

const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

fn all() -> Vec<EndpointId> {
    (0..ENDPOINTS).map(EndpointId).collect()
}

/// The packet that a parser would have made of this: a header that goes with protocol and family.
fn real(probe: Probe, family: Family) -> Probe {
    let has_ports = PortProtocol::from_number(probe.proto).is_some();
    let is_icmp = matches!((probe.proto, family), (proto::ICMP, Family::V4) | (proto::ICMPV6, Family::V6));
    let header = match probe.header {
        header @ Header::Ports { .. } if has_ports => header,
        header @ Header::Icmp { .. } if is_icmp => header,
        Header::Icmp { kind, code } if has_ports => {
            Header::Ports { source: u16::from(kind), destination: u16::from(code) }
        }
        Header::Ports { source, destination } if is_icmp => {
            Header::Icmp { kind: source as u8, code: destination as u8 }
        }
        _ if has_ports => Header::Ports { source: 1, destination: 2 },
        _ if is_icmp => Header::Icmp { kind: 3, code: 4 },
        _ => Header::Unread,
    };
    let tcp_flags = if probe.proto == proto::TCP { probe.tcp_flags } else { 0 };
    Probe { header, tcp_flags, dscp: probe.dscp & 63, ..probe }
}

fn run<S: Strategy>(cases: u32, what: &S, test: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) };
    if let Err(failure) = TestRunner::new(config).run(what, test) {
        panic!("{failure}");
    }
}

/// Every packet lies in exactly one region, which says what the ordered rules say.
#[test]
fn regions_are_the_whole_truth() {
    let asked = (source(), proptest::collection::vec(question(), 100));
    let found = Cell::new(0u32);
    run(60, &asked, |(source, questions)| {
        let compiled = Compiled::compile(&source).unwrap();
        let side = Side { source: &source, compiled: &compiled };
        let regions = DIRECTIONS.map(|direction| regions(side, &all(), direction, &Domain::whole()));
        for (endpoint, direction, peer, probe) in questions {
            if endpoint.0 >= ENDPOINTS {
                continue;
            }
            let probe = real(probe, peer.family());
            let expected = naive::decide(&source, endpoint, direction, peer, &probe);
            let of_direction = &regions[usize::from(direction == Direction::Egress)];
            let mut holding = of_direction.iter().filter(|region| {
                region.endpoints.contains(&(endpoint.0 as usize)) && region.contains(peer, &probe)
            });
            let only = holding.next();
            prop_assert_eq!(only.map(|region| region.outcomes), Some([expected]), "{} {:?}", peer, probe);
            prop_assert!(holding.next().is_none(), "two regions hold {} {:?}", peer, probe);
            found.set(found.get() + 1);
        }
        Ok(())
    });
    assert!(found.get() > 3_000);
}

/// Every packet that two policies treat differently lies in a region that says so, and every example is one.
#[test]
fn a_difference_is_all_that_differs_and_nothing_else() {
    let changed = (source(), source(), proptest::collection::vec(any::<bool>(), 5));
    let asked = (changed, proptest::collection::vec(question(), 200));
    let [same, other, examples] = [const { Cell::new(0u32) }; 3];
    run(60, &asked, |((before, drawn, taken), questions)| {
        let mut after = before.clone();
        for ((group, new), _) in
            after.groups.iter_mut().zip(drawn.groups).zip(&taken).filter(|(_, taken)| **taken)
        {
            *group = new;
        }
        after.endpoints[0] = drawn.endpoints[0].clone();
        let compiled = [&before, &after].map(|source| Compiled::compile(source).unwrap());
        let sides = [
            Side { source: &before, compiled: &compiled[0] },
            Side { source: &after, compiled: &compiled[1] },
        ];
        // The last one is new.
        let mut endpoints: Vec<_> = all().into_iter().map(|id| [Some(id); 2]).collect();
        endpoints[ENDPOINTS as usize - 1][0] = None;
        let decide = |endpoint: usize, direction, peer, probe: &Probe| {
            let ids = endpoints[endpoint];
            [(&before, ids[0]), (&after, ids[1])].map(|(source, id)| {
                let nobody = EndpointId(u32::MAX);
                naive::decide(source, id.unwrap_or(nobody), direction, peer, probe)
            })
        };
        let regions = difference(sides[0], sides[1], &endpoints, |_| true);
        for (endpoint, direction, peer, probe) in questions {
            let endpoint = endpoint.0 as usize;
            if endpoint >= ENDPOINTS as usize {
                continue;
            }
            let probe = real(probe, peer.family());
            let expected = decide(endpoint, direction, peer, &probe);
            let region = regions.iter().find(|region| {
                region.direction == direction
                    && region.endpoints.contains(&endpoint)
                    && region.contains(peer, &probe)
            });
            let differs = expected[0].verdict != expected[1].verdict;
            prop_assert_eq!(region.map(|region| region.outcomes), differs.then_some(expected));
            let count = if differs { &other } else { &same };
            count.set(count.get() + 1);
        }
        for region in &regions {
            let (peer, probe) = region.example([]).unwrap();
            prop_assert_eq!(real(probe, peer.family()), probe, "no packet is like this");
            prop_assert!(region.contains(peer, &probe));
            for endpoint in &region.endpoints {
                let [was, is] = decide(*endpoint, region.direction, peer, &probe);
                prop_assert_eq!([was, is], region.outcomes);
                prop_assert_ne!(was.verdict, is.verdict);
                examples.set(examples.get() + 1);
            }
        }
        Ok(())
    });
    let counts = [same, other, examples].map(Cell::into_inner);
    assert!(counts.iter().all(|count| *count > 1_000), "{counts:?}");
}

/// Both ends are asked, and about nothing but the services that were asked for.
#[test]
fn passages_are_what_both_ends_say() {
    let asked = (source(), address(), address(), proptest::collection::vec(question(), 60));
    let compared = Cell::new(0u32);
    run(150, &asked, |(source, from, to, questions)| {
        let compiled = Compiled::compile(&source).unwrap();
        let side = Side { source: &source, compiled: &compiled };
        let ends = ((EndpointId(0), from), (EndpointId(1), to));
        let passages = |domain| super::passages(side, ends.0, ends.1, &domain);
        if from.family() != to.family() {
            prop_assert!(passages(Domain::whole()).is_empty());
            return Ok(());
        }
        for (.., probe) in questions {
            let probe = real(probe, from.family());
            let egress = naive::decide(&source, ends.0.0, Direction::Egress, to, &probe);
            let ingress = naive::decide(&source, ends.1.0, Direction::Ingress, from, &probe);
            let exact = match probe.header {
                Header::Ports { destination, .. } => Domain::port(probe.proto, destination),
                Header::Icmp { kind, .. } => Domain::icmp(probe.proto, kind),
                Header::Unread => Domain::protocol(probe.proto),
            };
            for domain in [Domain::whole(), Domain::protocol(probe.proto), exact] {
                let all = passages(domain);
                let mut holding =
                    all.iter().filter(|it| it.services.iter().any(|slice| slice.contains(&probe)));
                let only = holding.next().map(|it| (it.egress, it.ingress));
                prop_assert_eq!(only, Some((egress, ingress)), "{:?}", probe);
                prop_assert!(holding.next().is_none());
                compared.set(compared.get() + 1);
            }
        }
        Ok(())
    });
    assert!(compared.get() > 5_000);
}

/// A rule that limits its sources counts them by itself.
fn granted(decision: Decision) -> (Verdict, Option<RuleId>) {
    (decision.verdict, decision.rule.filter(|_| decision.verdict.limited))
}

/// What is said of a rule holds for all packets, and where nothing is said there is a packet that shows why.
#[test]
fn what_is_said_of_a_rule_is_so() {
    let asked = (source(), proptest::collection::vec(question(), 200));
    let [unused, shadowed, redundant, needed] = [const { Cell::new(0u32) }; 4];
    run(40, &asked, |(source, questions)| {
        let without = |id: RuleId| {
            let mut less = source.clone();
            for group in less.groups.iter_mut().map(Arc::make_mut) {
                group.ingress.retain(|rule| rule.id != id);
                group.egress.retain(|rule| rule.id != id);
            }
            less
        };
        let said = |source: &Source, (endpoint, direction, peer, probe): &standing::Packet| {
            naive::decide(source, *endpoint, *direction, *peer, probe)
        };
        for (id, standing) in standings(&source) {
            let less = without(id);
            if let Some(packet) = &standing.acts {
                let (endpoint, direction, peer, probe) = packet;
                let explained = naive::explain(&source, *endpoint, *direction, *peer, probe);
                let matches = |step: &naive::Step<'_>| step.rule.id == id && step.misses.is_empty();
                prop_assert!(explained.steps.iter().any(matches), "{:?} at {:?}", id, packet);
            }
            if let Some(packet) = &standing.needed {
                prop_assert_ne!(granted(said(&source, packet)), granted(said(&less, packet)));
            }
            let count = match standing.finding() {
                Some(Finding::Unused | Finding::Unmet) => &unused,
                Some(Finding::Shadowed(_)) => &shadowed,
                Some(Finding::Redundant(_)) => &redundant,
                None => &needed,
            };
            count.set(count.get() + 1);
            let idle = standing.acts.is_none();
            for (endpoint, direction, peer, probe) in &questions {
                let packet = (*endpoint, *direction, *peer, real(*probe, peer.family()));
                let decision = said(&source, &packet);
                prop_assert!(!idle || decision.rule != Some(id), "{:?} {:?}", id, packet);
                if standing.needed.is_none() {
                    prop_assert_eq!(granted(decision), granted(said(&less, &packet)), "{:?}", id);
                }
            }
        }
        Ok(())
    });
    let counts = [unused, shadowed, redundant, needed].map(Cell::into_inner);
    assert!(counts.iter().all(|count| *count > 50), "{counts:?}");
}

fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>().unwrap().into()
}

fn tcp(first: u16, last: u16) -> Service {
    let destination = Some(vec![PortRange::new_checked(first, last).unwrap()]);
    Service::Ports { protocol: PortProtocol::Tcp, destination, source: None }
}

fn rule(id: u32, peer: Peer, service: Service, verdict: Verdict) -> Rule {
    Rule::new(RuleId(id), peer, service, Then::Settle(verdict))
}

/// One endpoint with these ingress rules.
fn ingress(rules: Vec<Rule>) -> Source {
    Source {
        groups: vec![Group { ingress: rules, egress: vec![] }.into()],
        endpoints: vec![EndpointRules::of_groups(vec![(addr("10.0.0.1"), 128)], vec![GroupId(0)])],
    }
}

/// What a person reads: few regions, with whole protocols and ports, and the peers together.
#[test]
fn a_small_difference_is_told_in_few_words() {
    let net = Peer::Prefix { network: addr("10.0.0.0"), len: 96 + 8 };
    let before = ingress(vec![rule(1, net, tcp(22, 23), Verdict::ALLOW)]);
    let after = ingress(vec![
        rule(1, net, tcp(22, 22), Verdict::ALLOW),
        rule(2, Peer::Any, tcp(443, 443), Verdict::ALLOW),
    ]);
    let compiled = [&before, &after].map(|source| Compiled::compile(source).unwrap());
    let [was, is] =
        [(&before, &compiled[0]), (&after, &compiled[1])].map(|(source, compiled)| Side { source, compiled });
    let found = difference(was, is, &[[Some(EndpointId(0)); 2]], |_| true);
    let port = |port| Slice { protocols: (6, 6), below: Some((port, port)), ..Slice::ANY };
    let told: Vec<_> = found.iter().map(|it| (&it.services[..], it.peers.len())).collect();
    // Of 443 there are three ranges: IPv6 below and above IPv4's numbers, and IPv4.
    assert_eq!(told, [(&[port(23)][..], 1), (&[port(443)][..], 3)]);
    assert_eq!(found[0].peers[0].prefixes(), [(addr("10.0.0.0"), 104)]);
    let liked = found[0].example([addr("192.0.2.1"), addr("10.0.0.9")]).unwrap();
    assert_eq!(liked.0, addr("10.0.0.9"));
    assert!(difference(was, was, &[[Some(EndpointId(0)); 2]], |_| true).is_empty());
    let everything = regions(was, &[EndpointId(0)], Direction::Egress, &Domain::whole());
    assert_eq!(everything.iter().map(|it| &it.services[..]).collect::<Vec<_>>(), [&[Slice::ANY][..]]);
}

#[test]
fn a_rule_that_does_nothing_is_told_with_the_one_that_makes_it_so() {
    let group = |id| Peer::Group(GroupId(id));
    let mut source = ingress(vec![
        rule(1, Peer::Any, tcp(1, 1023), Verdict::ALLOW),
        rule(2, Peer::Any, tcp(22, 22), Verdict::ALLOW),
        rule(3, Peer::Any, tcp(22, 22), Verdict::DENY),
        rule(4, group(1), tcp(2000, 2000), Verdict::ALLOW),
        rule(5, Peer::Any, tcp(3000, 3000), Verdict::ALLOW),
        rule(6, Peer::Any, tcp(3000, 3001), Verdict::ALLOW),
        rule(7, Peer::Any, tcp(1, 1023), Verdict::ALLOW),
    ]);
    source.groups.push(
        Group { ingress: vec![rule(8, Peer::Any, Service::Any, Verdict::ALLOW)], egress: vec![] }.into(),
    );
    let found: Vec<_> = standings(&source).into_iter().map(|(id, it)| (id.0, it.finding())).collect();
    let by = |id| [Some(RuleId(id))].into();
    assert_eq!(
        found,
        [
            // What it does the last one would do.
            (1, Some(Finding::Redundant([Some(RuleId(2)), Some(RuleId(7))].into()))),
            (2, Some(Finding::Shadowed(by(1)))),
            (3, Some(Finding::Shadowed(by(1)))),
            (4, Some(Finding::Unmet)),
            (5, Some(Finding::Redundant(by(6)))),
            (6, None),
            (7, Some(Finding::Shadowed(by(1)))),
            (8, Some(Finding::Unused)),
        ]
    );
    assert!(same_match(&source, RuleId(1), RuleId(7)) && !same_match(&source, RuleId(2), RuleId(3)));
}

/// Two rules that limit their sources grant twice as much as one of them: neither is there for nothing, unless the other takes all.
#[test]
fn what_limits_is_not_what_another_limits() {
    let limited = Verdict { limited: true, ..Verdict::ALLOW };
    let rules = [
        rule(1, Peer::Any, tcp(22, 22), limited),
        rule(2, Peer::Any, tcp(1, 1023), limited),
        rule(3, Peer::Any, tcp(1, 1023), limited),
        rule(4, Peer::Any, tcp(443, 443), Verdict::ALLOW),
    ];
    let source = Source {
        groups: vec![Group { ingress: rules.to_vec(), egress: vec![] }.into()],
        endpoints: vec![EndpointRules {
            ingress: vec![Tier { groups: vec![GroupId(0)], end: TierEnd::Deny }].into(),
            ..EndpointRules::default()
        }],
    };
    let found: Vec<_> = standings(&source).into_iter().map(|(id, it)| (id.0, it.finding())).collect();
    let by = |ids: &[u32]| Some(Finding::Shadowed(ids.iter().map(|id| Some(RuleId(*id))).collect()));
    assert_eq!(found, [(1, None), (2, None), (3, by(&[1, 2])), (4, by(&[2]))]);
    assert!(!same_match(&source, RuleId(2), RuleId(3)));
}

#[test]
fn ranges_are_told_as_prefixes() {
    let prefixes = |first: &str, last: &str| {
        let range = AddressRange { first: addr(first), last: addr(last) };
        range.prefixes().iter().map(|(network, len)| format!("{network}/{len}")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(prefixes("0.0.0.0", "255.255.255.255"), "0.0.0.0/96");
    assert_eq!(prefixes("10.0.0.1", "10.0.0.4"), "10.0.0.1/128 10.0.0.2/127 10.0.0.4/128");
    assert_eq!(prefixes("255.255.255.254", "255.255.255.255"), "255.255.255.254/127");
    assert_eq!(prefixes("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), "::/0");
    assert_eq!(
        prefixes("::", "::fffe:ffff:ffff"),
        "::/81 ::8000:0:0/82 ::c000:0:0/83 ::e000:0:0/84 ::f000:0:0/85 ::f800:0:0/86 ::fc00:0:0/87 ::fe00:0:0/88 ::ff00:0:0/89 ::ff80:0:0/90 ::ffc0:0:0/91 ::ffe0:0:0/92 ::fff0:0:0/93 ::fff8:0:0/94 ::fffc:0:0/95 ::fffe:0:0/96"
    );
}

/// A rule is in the shadow of one of its own tier, also where a later tier says what becomes of the packet; of an earlier
/// tier's rule or end, where that one leaves nothing to its own.
#[test]
fn the_shadow_is_that_of_the_tier() {
    let pass = Rule { then: Then::Pass, ..rule(1, Peer::Any, tcp(1, 100), Verdict::DENY) };
    let tiers = [
        vec![
            pass,
            rule(2, Peer::Any, tcp(22, 22), Verdict::DENY),
            rule(3, Peer::Any, tcp(443, 443), Verdict::ALLOW),
        ],
        vec![
            rule(4, Peer::Any, tcp(22, 22), Verdict::ALLOW),
            rule(5, Peer::Any, tcp(443, 443), Verdict::DENY),
            rule(6, Peer::Any, tcp(8080, 8080), Verdict::ALLOW),
        ],
    ];
    let tier = |group| Tier { groups: vec![GroupId(group)], end: TierEnd::Deny };
    let source = Source {
        groups: tiers.map(|ingress| Group { ingress, egress: vec![] }.into()).into(),
        endpoints: vec![EndpointRules { ingress: vec![tier(0), tier(1)].into(), ..EndpointRules::default() }],
    };
    let found: Vec<_> = standings(&source).into_iter().map(|(id, it)| (id.0, it.finding())).collect();
    let by = |id: Option<u32>| Some(Finding::Shadowed([id.map(RuleId)].into()));
    let expected = [(1, None), (2, by(Some(1))), (3, None), (4, None), (5, by(Some(3))), (6, by(None))];
    assert_eq!(found, expected);
}
