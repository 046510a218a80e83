use std::{cell::Cell, num::NonZeroU16, sync::Arc};

use eastgate_wire::{EndpointId, Family, Helper};
use proptest::{prelude::*, sample::select, test_runner::TestRunner};

use super::*;
use crate::{
    naive,
    rule::{
        Action, ChainId, DscpSet, EndpointRules, Group, Header, Peer, PortProtocol, PortRange, Rule, Service,
        TcpFlags, Tier, TierEnd,
    },
};

mod changes;

const GROUPS: u32 = 5;
pub(crate) const ENDPOINTS: u32 = 5;

/// Numbers that touch each other, so that ranges meet, overlap and miss by one.
const PORTS: &[u16] = &[0, 1, 2, 79, 80, 81, 255, 256, 443, 1023, 1024, 2048, 32767, 32768, 65534, 65535];
const BYTES: &[u8] = &[0, 1, 3, 8, 9, 127, 128, 255];
const DSCPS: &[u8] = &[0, 0, 1, 10, 34, 46, 62, 63];
const FLAGS: &[u8] = &[0, 0x01, 0x02, 0x02, 0x10, 0x12, 0x29, 0xff];
const PROTOCOLS: &[u8] = &[0, 1, 5, 6, 7, 17, 33, 47, 58, 132, 136, 255];

/// Addresses close to the edges of a few nested prefixes of both families.
pub(crate) fn address() -> impl Strategy<Value = Addr> {
    let host = select(vec![0u32, 1, 2, 127, 128, 254, 255, 256, 257, 65535, 65536, 0x00ff_ffff, 0x0100_0000]);
    let base = select(vec![0u32, 0x0a00_0000, 0x0a01_0000, 0x0a01_0200, 0xffff_ff00]);
    (any::<bool>(), base, host).prop_map(|(v4, base, host)| {
        let low = base.wrapping_add(host);
        if v4 { Addr::v4(low.to_be_bytes()) } else { v6(low) }
    })
}

/// In IPv6 the same numbers, around both edges of the v4-mapped range, which belongs to the other family.
fn v6(low: u32) -> Addr {
    let high = match low % 4 {
        0 => 0xfd00 << 112,
        1 => 0xfffe_0000_0000,
        2 => 0x1_0000_0000_0000,
        _ => 0,
    };
    Addr::from_bits(high | u128::from(low))
}

fn prefix() -> impl Strategy<Value = (Addr, u8)> {
    let lens = vec![0u8, 1, 7, 8, 15, 16, 23, 24, 25, 30, 31, 32, 32, 32];
    (address(), select(lens)).prop_map(|(network, len)| {
        let whole = len == 0 && !network.is_v4();
        (network, if whole { 0 } else { 96 + len })
    })
}

fn port_range() -> impl Strategy<Value = PortRange> {
    (select(PORTS), select(PORTS)).prop_map(|(a, b)| PortRange::new_checked(a.min(b), a.max(b)).unwrap())
}

fn some_of<T: std::fmt::Debug>(item: impl Strategy<Value = T>) -> impl Strategy<Value = Option<Vec<T>>> {
    proptest::option::of(proptest::collection::vec(item, 0..4))
}

fn family() -> impl Strategy<Value = Family> {
    select(vec![Family::V4, Family::V6])
}

fn service() -> impl Strategy<Value = Service> {
    use PortProtocol::{Sctp, Tcp, Udp, UdpLite};
    let protocol = select(vec![Tcp, Tcp, Tcp, Udp, Sctp, UdpLite]);
    let ports = (protocol, some_of(port_range()), some_of(port_range()))
        .prop_map(|(protocol, destination, source)| Service::Ports { protocol, destination, source });
    let icmp = (family(), some_of(select(BYTES)), some_of(select(BYTES)))
        .prop_map(|(family, kinds, codes)| Service::Icmp { family, kinds, codes });
    prop_oneof![1 => Just(Service::Any), 2 => select(PROTOCOLS).prop_map(Service::Protocol),
        1 => select(PROTOCOLS).prop_map(Service::NotProtocol), 6 => ports, 2 => icmp]
}

fn rule() -> impl Strategy<Value = Rule> {
    let peer = prop_oneof![
        3 => Just(Peer::Any),
        4 => prefix().prop_map(|(network, len)| Peer::Prefix { network, len }),
        2 => (0..GROUPS).prop_map(|group| Peer::Group(GroupId(group))),
    ];
    let dscp = proptest::collection::vec(select(DSCPS), 0..4).prop_map(DscpSet::from_iter);
    let flags = (select(FLAGS), select(FLAGS)).prop_map(|(mask, set)| TcpFlags { mask, set });
    let more = (proptest::option::weighted(0.2, dscp), proptest::option::weighted(0.2, flags));
    (proptest::option::weighted(0.2, family()), peer, service(), more, then()).prop_map(
        |(family, peer, service, (dscp, tcp_flags), then)| Rule {
            family,
            dscp,
            tcp_flags,
            ..Rule::new(RuleId(0), peer, service, then)
        },
    )
}

fn then() -> impl Strategy<Value = Then> {
    let action = select(vec![Action::Allow, Action::Allow, Action::Deny, Action::Reject]);
    let chain =
        proptest::option::weighted(0.2, (1..=u16::MAX).prop_map(|n| ChainId(NonZeroU16::new(n).unwrap())));
    let rarely = || proptest::bool::weighted(0.2);
    let helper = proptest::option::weighted(0.2, select(&Helper::ALL[..]));
    let verdict = (action, rarely(), rarely(), chain, rarely(), rarely(), helper).prop_map(
        |(action, log, audit, chain, limited, stateless, helper)| {
            Then::Settle(Verdict { action, log, audit, chain, limited, stateless, helper })
        },
    );
    prop_oneof![3 => verdict, 1 => Just(Then::Pass)]
}

fn tiers() -> impl Strategy<Value = Vec<Tier>> {
    let groups = proptest::collection::vec((0..GROUPS).prop_map(GroupId), 0..4);
    let end = select(vec![TierEnd::Pass, TierEnd::Pass, TierEnd::Deny]);
    proptest::collection::vec((groups, end).prop_map(|(groups, end)| Tier { groups, end }), 0..=MAX_TIERS)
}

pub(crate) fn source() -> impl Strategy<Value = Source> {
    let rules = || proptest::collection::vec(rule(), 0..24);
    let group = (rules(), rules()).prop_map(|(ingress, egress)| Group { ingress, egress }.into());
    let endpoint = (
        proptest::collection::vec(prefix(), 0..3),
        proptest::collection::vec((0..GROUPS).prop_map(GroupId), 0..4),
        tiers(),
        tiers(),
    )
        .prop_map(|(addresses, groups, ingress, egress)| EndpointRules {
            addresses,
            groups,
            ingress: ingress.into(),
            egress: egress.into(),
        });
    (
        proptest::collection::vec(group, GROUPS as usize),
        proptest::collection::vec(endpoint, ENDPOINTS as usize),
    )
        .prop_map(|(groups, endpoints)| {
            let mut source = Source { groups, endpoints };
            let all = source
                .groups
                .iter_mut()
                .map(Arc::make_mut)
                .flat_map(|group| group.ingress.iter_mut().chain(&mut group.egress));
            all.zip(0..).for_each(|(rule, id)| rule.id = RuleId(id));
            source
        })
}

fn probe() -> impl Strategy<Value = Probe> {
    // Headers that do not go with the protocol as well: they must not be taken for what they are not.
    let header = prop_oneof![
        6 => (select(PORTS), select(PORTS)).prop_map(|(source, destination)| Header::Ports { source, destination }),
        2 => (select(BYTES), select(BYTES)).prop_map(|(kind, code)| Header::Icmp { kind, code }),
        1 => Just(Header::Unread),
    ];
    let proto =
        prop_oneof![5 => Just(6u8), 2 => Just(17), 2 => Just(1), 2 => Just(58), 3 => select(PROTOCOLS)];
    // So are flags beside a protocol that has none.
    (proto, header, select(DSCPS), select(FLAGS)).prop_map(|(proto, header, dscp, tcp_flags)| Probe {
        dscp,
        tcp_flags,
        ..Probe::new(proto, header)
    })
}

pub(crate) fn question() -> impl Strategy<Value = (EndpointId, Direction, Addr, Probe)> {
    let direction = select(vec![Direction::Ingress, Direction::Egress]);
    // One endpoint more than there are.
    ((0..=ENDPOINTS).prop_map(EndpointId), direction, address(), probe())
}

/// The promise of the module, on at least 100,000 decisions a run.
#[test]
fn decides_as_the_ordered_rules_do() {
    const CASES: u32 = 800;
    const QUESTIONS: usize = 150;
    let [decisions, allowed, by_rule, behind_a_pass] = [const { Cell::new(0u32) }; 4];
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(CASES) };
    let asked = (source(), proptest::collection::vec(question(), QUESTIONS));
    let outcome = TestRunner::new(config).run(&asked, |(source, questions)| {
        let compiled = Compiled::compile(&source).unwrap();
        let words = compiled.words(7);
        prop_assert_eq!((words[0], words.len() % words::BLOCK), (7, 0));
        for (endpoint, direction, peer, probe) in questions {
            let expected = naive::decide(&source, endpoint, direction, peer, &probe);
            let decided = compiled.decide(endpoint, direction, peer, &probe);
            prop_assert_eq!(decided, expected, "{:?} {:?} {} {:?}", endpoint, direction, peer, probe);
            if let Some((tiers, identity)) = compiled.tiers(endpoint, direction).zip(compiled.identity(peer))
            {
                let read = words::decide(&words, tiers, identity, &probe);
                prop_assert_eq!(
                    read,
                    expected,
                    "by words: {:?} {:?} {} {:?}",
                    endpoint,
                    direction,
                    peer,
                    probe
                );
            }
            decisions.set(decisions.get() + 1);
            allowed.set(allowed.get() + u32::from(decided.verdict.action == Action::Allow));
            by_rule.set(by_rule.get() + u32::from(decided.rule.is_some()));
            let explained = naive::explain(&source, endpoint, direction, peer, &probe);
            let tier = explained.matched().map_or(0, |step| step.tier);
            behind_a_pass.set(behind_a_pass.get() + u32::from(tier > 0));
        }
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    assert!(decisions.get() >= 100_000, "{} decisions", decisions.get());
    // A generator whose questions all miss, or all hit, would prove nothing.
    let [total, allowed, by_rule, behind] =
        [decisions, allowed, by_rule, behind_a_pass].map(Cell::into_inner);
    for (what, count) in [
        ("allowed", allowed),
        ("denied by rule", by_rule - allowed),
        ("missed", total - by_rule),
        ("behind the first tier", behind),
    ] {
        assert!(count > total / 25, "{what}: {count} of {total}");
    }
}

fn endpoint(addresses: &[(Addr, u8)], groups: &[u32]) -> EndpointRules {
    EndpointRules::of_groups(addresses.to_vec(), groups.iter().copied().map(GroupId).collect())
}

fn allow(id: u32, peer: Peer, service: Service) -> Rule {
    Rule::new(RuleId(id), peer, service, Then::Settle(Verdict::ALLOW))
}

fn tcp(port: u16) -> Service {
    Service::Ports {
        protocol: PortProtocol::Tcp,
        destination: Some(vec![PortRange::single(port)]),
        source: None,
    }
}

fn v4(a: u8, b: u8, c: u8, d: u8) -> Addr {
    Addr::v4([a, b, c, d])
}

fn ingress(rules: Vec<Rule>) -> Source {
    let group = Group { ingress: rules, egress: vec![] };
    Source { groups: vec![group.into()], endpoints: vec![endpoint(&[(v4(10, 0, 0, 1), 128)], &[0])] }
}

#[test]
fn an_empty_policy_denies() {
    let compiled = Compiled::compile(&Source::default()).unwrap();
    let probe = Probe::new(6, Header::Unread);
    let decision = compiled.decide(EndpointId(0), Direction::Ingress, v4(10, 0, 0, 1), &probe);
    assert_eq!(decision, Decision::DEFAULT_DENY);
    assert_eq!(compiled.identity(v4(10, 0, 0, 1)), compiled.identity(v4(0, 0, 0, 0)));
}

#[test]
fn what_cannot_be_compiled_is_refused_with_its_place() {
    let (network, rule) = (v4(10, 0, 0, 0), RuleId(7));
    let named = ingress(vec![allow(7, Peer::Group(GroupId(1)), Service::Any)]);
    let refused = Compiled::compile(&named).unwrap_err();
    assert_eq!(refused, CompileError::UnknownPeerGroup { rule, group: GroupId(1) });
    for len in [95, 129] {
        let wide = ingress(vec![allow(7, Peer::Prefix { network, len }, Service::Any)]);
        assert_eq!(Compiled::compile(&wide).unwrap_err(), CompileError::BadPeerPrefix { rule, network, len });
        let mut address = ingress(vec![]);
        address.endpoints[0].addresses.push((network, len));
        let refused = Compiled::compile(&address).unwrap_err();
        assert_eq!(refused, CompileError::BadAddress { endpoint: EndpointId(0), network, len });
    }
    let mut member = ingress(vec![]);
    member.endpoints[0].groups.push(GroupId(9));
    let refused = Compiled::compile(&member).unwrap_err();
    assert_eq!(refused, CompileError::UnknownGroup { endpoint: EndpointId(0), group: GroupId(9) });
    let tier = |group| Tier { groups: vec![GroupId(group)], end: TierEnd::Pass };
    let mut tiered = ingress(vec![]);
    Arc::make_mut(&mut tiered.endpoints[0].egress).push(tier(9));
    let refused = Compiled::compile(&tiered).unwrap_err();
    assert_eq!(refused, CompileError::UnknownGroup { endpoint: EndpointId(0), group: GroupId(9) });
    let mut deep = ingress(vec![]);
    deep.endpoints[0].egress = vec![tier(0); MAX_TIERS].into();
    assert!(Compiled::compile(&deep).is_ok());
    Arc::make_mut(&mut deep.endpoints[0].egress).push(tier(0));
    let refused = Compiled::compile(&deep).unwrap_err();
    assert_eq!(refused, CompileError::TooManyTiers { endpoint: EndpointId(0), tiers: MAX_TIERS + 1 });
}

/// The reason why each tier is looked up by itself: the narrow prefix's list would lead behind its pass, the wider one's
/// to the rule that the pass has left behind.
#[test]
fn a_pass_leaves_its_tier_alone() {
    let rule = |id, len: u8, then| {
        let peer = Peer::Prefix { network: v4(10, 1, 0, 0), len: 96 + len };
        Rule { then, ..allow(id, peer, tcp(22)) }
    };
    let deny = Then::Settle(Verdict::DENY);
    let tier = |group, end| Tier { groups: vec![GroupId(group)], end };
    let groups = [
        vec![rule(3, 16, Then::Pass), rule(5, 8, deny)],
        vec![rule(7, 8, deny), rule(100, 16, Then::Settle(Verdict::ALLOW))],
        vec![rule(100, 16, Then::Settle(Verdict::ALLOW)), rule(7, 8, deny)],
    ];
    let source = |second| Source {
        groups: groups.iter().map(|rules| Group { ingress: rules.clone(), egress: vec![] }.into()).collect(),
        endpoints: vec![EndpointRules {
            ingress: vec![tier(0, TierEnd::Deny), tier(second, TierEnd::Deny)].into(),
            ..EndpointRules::default()
        }],
    };
    let probe = Probe::new(6, Header::Ports { source: 1, destination: 22 });
    for (second, expected) in [(1, 7), (2, 100)] {
        let compiled = Compiled::compile(&source(second)).unwrap();
        let decision = compiled.decide(EndpointId(0), Direction::Ingress, v4(10, 1, 2, 3), &probe);
        assert_eq!(decision.rule, Some(RuleId(expected)));
    }
}

/// Whether something takes part that flows of a pair and service differ by is said of all tiers together: any of them may be
/// the one that decides.
#[test]
fn any_tier_may_tell_flows_apart() {
    let from = Service::Ports {
        protocol: PortProtocol::Tcp,
        destination: None,
        source: Some(vec![PortRange::single(1)]),
    };
    let [one, another, by_port] = [tcp(22), tcp(23), from].map(|service| allow(0, Peer::Any, service));
    let by_dscp = Rule { dscp: Some(DscpSet::EMPTY.with(46)), ..one.clone() };
    let by_flags = Rule { tcp_flags: Some(TcpFlags { mask: 0x12, set: 0x02 }), ..one.clone() };
    let groups = [one, another, by_port, by_dscp, by_flags]
        .map(|rule| Arc::new(Group { ingress: vec![rule], egress: vec![] }));
    let tiers = |groups: &[u32]| {
        let tier = |group: &u32| Tier { groups: vec![GroupId(*group)], end: TierEnd::Pass };
        EndpointRules { ingress: Arc::new(groups.iter().map(tier).collect()), ..EndpointRules::default() }
    };
    let endpoints = [&[0, 1][..], &[0, 1, 2], &[2, 0], &[], &[3], &[0, 4]].into_iter().map(tiers).collect();
    let compiled = Compiled::compile(&Source { groups: groups.into(), endpoints }).unwrap();
    let asks = |endpoint| compiled.tells_flows_apart(EndpointId(endpoint), Direction::Ingress);
    assert_eq!([0, 1, 2, 3, 4, 5].map(asks), [false, true, true, false, true, true]);
}

#[test]
fn an_endpoint_is_stateless_by_a_rule_of_either_direction() {
    let stateless = Then::Settle(Verdict { stateless: true, ..Verdict::ALLOW });
    let rules = |then| vec![Rule { then, ..allow(0, Peer::Any, tcp(22)) }];
    let keeps = Group { ingress: rules(Then::Settle(Verdict::ALLOW)), egress: vec![] };
    let hears = Group { ingress: rules(stateless), egress: vec![] };
    let says = Group { ingress: vec![], egress: rules(stateless) };
    let in_groups = |groups: &[u32]| {
        EndpointRules::of_groups(vec![], groups.iter().map(|group| GroupId(*group)).collect())
    };
    let source = |members: &[&[u32]]| Source {
        groups: [&keeps, &hears, &says].map(|group| Arc::new(group.clone())).into(),
        endpoints: members.iter().map(|groups| in_groups(groups)).collect(),
    };
    let compiled = Compiled::compile(&source(&[&[0], &[1], &[0, 2], &[]])).unwrap();
    let is_stateless = [0, 1, 2, 3].map(|endpoint| compiled.is_stateless(EndpointId(endpoint)));
    assert_eq!((is_stateless, compiled.has_stateless()), ([false, true, true, false], true));
    assert!(!Compiled::compile(&source(&[&[0], &[]])).unwrap().has_stateless(), "groups that nobody is in");
}

#[test]
fn it_knows_whether_anybody_has_a_rule_with_a_helper() {
    let helped = Then::Settle(Verdict { helper: Some(Helper::Ftp), ..Verdict::ALLOW });
    let group =
        Group { ingress: vec![Rule { then: helped, ..allow(0, Peer::Any, tcp(21)) }], egress: vec![] };
    let has = |groups: Vec<GroupId>| {
        let endpoints = vec![EndpointRules::of_groups(vec![], groups)];
        Compiled::compile(&Source { groups: vec![group.clone().into()], endpoints }).unwrap().has_helpers()
    };
    assert_eq!([has(vec![GroupId(0)]), has(vec![])], [true, false]);
}

/// Rules that ask for nothing but the key cost nothing more; what others ask for costs a list for each field that is asked
/// for, and equal lists are stored once.
#[test]
fn lists_lie_in_each_other_where_a_rule_asks() {
    let ef = || Some(DscpSet::EMPTY.with(46));
    let syn = || Some(TcpFlags { mask: 0x12, set: 0x02 });
    let with = |dscp, tcp_flags, port| Rule { dscp, tcp_flags, ..allow(0, Peer::Any, tcp(port)) };
    let lists = |rules: Vec<Rule>| Compiled::compile(&ingress(rules)).unwrap().stats().lists;
    assert_eq!(lists(vec![with(None, None, 80), with(None, None, 81)]), 1);
    assert_eq!(lists(vec![with(ef(), None, 80), with(None, None, 81)]), 2);
    assert_eq!(lists(vec![with(ef(), None, 80), with(ef(), None, 90)]), 3);
    assert_eq!(lists(vec![with(ef(), syn(), 80)]), 3);
    assert_eq!(lists(vec![with(Some(DscpSet::ALL), None, 80)]), 1);
    // The second rule is the first again for what the first leaves.
    let stats =
        Compiled::compile(&ingress(vec![with(ef(), syn(), 80), with(None, None, 80)])).unwrap().stats();
    assert_eq!((stats.lists, stats.intervals), (3, 3 + 3 + 65));
}

/// Rules that are in several lists of tiers are stored once.
#[test]
fn tiers_are_shared() {
    let rules = || vec![allow(0, Peer::Any, tcp(80))];
    let tier = |group, end| Tier { groups: vec![GroupId(group)], end };
    let with = |ingress: Vec<_>| EndpointRules { ingress: Arc::new(ingress), ..EndpointRules::default() };
    let (first, last) = (tier(0, TierEnd::Pass), tier(1, TierEnd::Deny));
    let source = Source {
        groups: vec![Group { ingress: rules(), egress: vec![] }.into(); 2],
        endpoints: vec![
            with(vec![first.clone(), last.clone()]),
            with(vec![first.clone(), last.clone()]),
            with(vec![last.clone(), first.clone()]),
            with(vec![tier(0, TierEnd::Deny)]),
        ],
    };
    let stats = Compiled::compile(&source).unwrap().stats();
    // No tier at all is what all of them have for egress.
    assert_eq!((stats.tier_lists, stats.rulesets, stats.rules), (4, 2, 2));
}

#[test]
fn the_limit_is_exact() {
    let source = ingress((0..50).map(|i| allow(u32::from(i), Peer::Any, tcp(i * 7))).collect());
    let needed = (0..).find(|limit| Compiled::compile_within(&source, *limit).is_ok()).unwrap();
    assert!(needed > 50);
    let refused = Compiled::compile_within(&source, needed - 1).unwrap_err();
    assert_eq!(refused, CompileError::TooLarge { limit: needed - 1 });
}

#[test]
fn equal_peers_and_equal_services_are_stored_once() {
    let members: Vec<_> = (0..200).map(|host| endpoint(&[(v4(10, 0, 1, host), 128)], &[0])).collect();
    let rules = vec![
        allow(0, Peer::Group(GroupId(0)), tcp(80)),
        allow(1, Peer::Prefix { network: v4(192, 0, 2, 0), len: 120 }, tcp(80)),
    ];
    let source = Source { groups: vec![Group { ingress: rules, egress: vec![] }.into()], endpoints: members };
    let stats = Compiled::compile(&source).unwrap().stats();
    // Both families, the members, the prefix; ingress, and the empty egress; one list says "tcp 80".
    assert_eq!((stats.identities, stats.rulesets, stats.lists), (4, 2, 1));
    assert_eq!((stats.entries, stats.depth), (2, 2));
}

/// What is gone is not counted, although its number was not given to others.
#[test]
fn what_is_counted_is_what_there_is() {
    let prefixes = |count: u32| {
        let prefix = |i: u32| Peer::Prefix { network: v4(10, 0, i as u8, 0), len: 96 + 24 };
        ingress((0..count).map(|i| allow(i, prefix(i), tcp(80))).collect())
    };
    let many = Compiled::compile(&prefixes(100)).unwrap();
    let last = ingress(vec![allow(99, Peer::Prefix { network: v4(10, 0, 99, 0), len: 96 + 24 }, tcp(80))]);
    let few = Compiled::compile_after(&last, &many).unwrap().stats();
    let afresh = Compiled::compile(&last).unwrap().stats();
    let of = |stats: super::Stats| {
        (stats.identities, stats.rulesets, stats.tier_lists, stats.rules, stats.entries)
    };
    assert_eq!(of(few), of(afresh));
    assert_eq!((many.stats().identities, few.identities), (102, 3));
}

/// Attack 24: neither rules that lie in each other nor those that overlap in ports make tables or lookups explode.
#[test]
fn tables_grow_with_the_rules_not_with_their_product() {
    let wide =
        (0..100).map(|i| allow(i, Peer::Prefix { network: v4(10, 0, 0, 0), len: 96 + 8 }, tcp(i as u16)));
    let narrow = (0..2000u32).map(|i| {
        let network = v4(10, 1, (i >> 8) as u8, i as u8);
        allow(100 + i, Peer::Prefix { network, len: 128 }, tcp(22))
    });
    let stats = Compiled::compile(&ingress(wide.chain(narrow).collect())).unwrap().stats();
    assert!(stats.intervals < 250, "{stats:?}");
    assert_eq!((stats.entries, stats.depth, stats.lists), (2001, 3, 2));
}

/// A hundred thousand rules for ports from anywhere make one list, searched as fast as a short one.
#[test]
fn every_port_of_two_protocols() {
    let port = |n: u32| Some(vec![PortRange::single((n / 2) as u16)]);
    let protocol = |n| if n & 1 == 0 { PortProtocol::Tcp } else { PortProtocol::Udp };
    let service = |n| Service::Ports { protocol: protocol(n), destination: port(n), source: None };
    let source = ingress((0..100_000).map(|n| allow(n, Peer::Any, service(n))).collect());
    let compiled = Compiled::compile(&source).unwrap();
    for n in (0..100_000).step_by(997).chain([0, 1, 99_998, 99_999]) {
        let header = Header::Ports { source: 1, destination: (n / 2) as u16 };
        let probe = Probe::new(protocol(n).number(), header);
        let decision = compiled.decide(EndpointId(0), Direction::Ingress, v4(192, 0, 2, 1), &probe);
        assert_eq!(decision.rule, Some(RuleId(n)));
    }
}

/// Thousands of prefixes, spread and side by side, in both families: enough for tables within tables.
#[test]
fn thousands_of_prefixes() {
    let base = |n: u32| match n % 3 {
        0 => n.wrapping_mul(2_654_435_761),
        1 => 0x0a00_0000 | n,
        _ => 0xffff_0000 | n,
    };
    let peer = |n: u32| match n % 2 {
        0 => Addr::v4(base(n).to_be_bytes()),
        _ => Addr::from_bits(1 << (60 + n % 60) | u128::from(base(n))),
    };
    let rules = (0..6000).map(|n| {
        let len = 128 - (n % 5) as u8;
        allow(n, Peer::Prefix { network: peer(n), len }, tcp(443))
    });
    let source = ingress(rules.collect());
    let compiled = Compiled::compile(&source).unwrap();
    let probe = Probe::new(6, Header::Ports { source: 1, destination: 443 });
    let around = |addr: Addr| [-1, 0, 1].map(|step| Addr::from_bits(addr.bits().wrapping_add_signed(step)));
    for peer in (0..6000).step_by(37).map(peer).flat_map(around) {
        let expected = naive::decide(&source, EndpointId(0), Direction::Ingress, peer, &probe);
        assert_eq!(compiled.decide(EndpointId(0), Direction::Ingress, peer, &probe), expected, "{peer}");
    }
}
