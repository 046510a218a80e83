//! Policies that no configuration can write yet: tiers that allow, deny, reject and pass on, and verdicts that say more
//! than that.

use std::{num::NonZeroU16, sync::Arc};

use eastgate_policy::rule::{
    Action, ChainId, EndpointRules, Group, GroupId, MAX_TIERS, Peer, PortProtocol, PortRange, Rule, RuleId,
    Service, Source, TcpFlags, Then, Tier, TierEnd, Verdict,
};
use eastgate_wire::{Addr, Family, Helper};

use super::{Dice, setting};

/// As the configuration has it.
pub(super) const fn as_written(source: Source) -> Source {
    source
}

/// What is written in the second of four tiers, so that most of it goes on as it would, and each kind of verdict comes from
/// some of the ports that endpoints talk from.
pub(super) fn around_what_is_written(mut source: Source) -> Source {
    let written = source.groups.len() as u32;
    for rules in [first_tier(), third_tier(), fourth_tier()] {
        source.groups.push(Group { ingress: rules.clone(), egress: rules }.into());
    }
    let first = Arc::make_mut(&mut source.groups[written as usize]);
    first.ingress.extend(stateless(1180..1300));
    first.egress.extend(stateless(1120..1240));
    let tier = |number, end| Tier { groups: vec![GroupId(written + number)], end };
    for EndpointRules { ingress, egress, .. } in &mut source.endpoints {
        for tiers in [ingress, egress].map(Arc::make_mut) {
            for tier in &mut *tiers {
                tier.end = TierEnd::Pass;
            }
            tiers.insert(0, tier(0, TierEnd::Pass));
            tiers.extend([tier(1, TierEnd::Pass), tier(2, TierEnd::Deny)]);
        }
    }
    source
}

const TCP: PortProtocol = PortProtocol::Tcp;
const UDP: PortProtocol = PortProtocol::Udp;
const DENY: Then = Then::Settle(Verdict::DENY);
const REJECT: Then = Then::Settle(Verdict::REJECT);
const ALLOW: Then = Then::Settle(Verdict::ALLOW);

fn first_tier() -> Vec<Rule> {
    let chain = Some(ChainId(NonZeroU16::MIN));
    let settle = Then::Settle;
    vec![
        from_ports(9000, TCP, 443, 1024..1034, ALLOW),
        from_ports(9001, UDP, 53, 1034..1044, DENY),
        from_ports(9002, TCP, 443, 1044..1050, REJECT),
        from_ports(9003, TCP, 443, 1050..1056, settle(Verdict { audit: true, ..Verdict::DENY })),
        from_ports(9004, UDP, 443, 1050..1056, settle(Verdict { log: true, ..Verdict::ALLOW })),
        from_ports(9005, TCP, 443, 1056..1062, settle(Verdict { chain, ..Verdict::ALLOW })),
        from_ports(9006, TCP, 443, 1062..1068, settle(Verdict { log: true, ..Verdict::DENY })),
        Rule {
            dscp: Some((0..32).collect()),
            tcp_flags: Some(TcpFlags { mask: 0x12, set: 0x02 }),
            ..from_ports(9009, TCP, 443, 1088..1120, DENY)
        },
        Rule { dscp: Some((32..64).collect()), ..from_ports(9013, UDP, 443, 1056..1062, DENY) },
        // A narrower prefix passes on what a wider one behind it denies.
        Rule { peer: of(8, 125), ..from_ports(9007, TCP, 443, 1068..1088, Then::Pass) },
        Rule { peer: of(0, 122), ..from_ports(9008, TCP, 443, 1068..1078, DENY) },
    ]
}

const STATELESS: Then = Then::Settle(Verdict { stateless: true, ..Verdict::ALLOW });

/// What keeps no state: requests from these ports, and answers to all but some of them; both ways of the echoes of IPv6.
fn stateless(ports: std::ops::Range<u16>) -> Vec<Rule> {
    let to = PortRange::new_checked(ports.start, ports.end - 20).unwrap();
    let answers = |id, protocol| {
        let (destination, source) = (Some(vec![to]), Some(vec![PortRange::single(443)]));
        Rule::new(RuleId(id), Peer::Any, Service::Ports { protocol, destination, source }, STATELESS)
    };
    let echoes = Service::Icmp { family: Family::V6, kinds: Some(vec![128, 129]), codes: None };
    vec![
        from_ports(9030, TCP, 443, ports.clone(), STATELESS),
        from_ports(9031, UDP, 443, ports, STATELESS),
        answers(9032, TCP),
        answers(9033, UDP),
        Rule::new(RuleId(9034), Peer::Any, echoes, STATELESS),
    ]
}

/// The rules of the group that stands first in the tier of some endpoints, and alone in that of one.
pub(super) fn one_group_without_state(mut source: Source) -> Source {
    let group = Arc::make_mut(&mut source.groups[1]);
    for rule in group.ingress.iter_mut().chain(&mut group.egress) {
        rule.then = STATELESS;
    }
    source
}

fn third_tier() -> Vec<Rule> {
    vec![
        Rule { peer: of(16, 124), ..from_ports(9010, TCP, 80, 1100..1200, REJECT) },
        from_ports(9011, TCP, 80, 1100..1150, ALLOW),
        from_ports(9012, UDP, 443, 1100..1400, Then::Pass),
    ]
}

fn fourth_tier() -> Vec<Rule> {
    let rest = from_ports(9020, TCP, 80, 0..1300, DENY);
    let anything = Rule { service: Service::Protocol(17), then: ALLOW, id: RuleId(9021), ..rest.clone() };
    vec![rest, anything]
}

/// The addresses of `10.1.0.n` that share so many bits with it
fn of(n: u8, len: u8) -> Peer {
    Peer::Prefix { network: Addr::v4([10, 1, 0, n]), len }
}

fn from_ports(id: u32, protocol: PortProtocol, to: u16, from: std::ops::Range<u16>, then: Then) -> Rule {
    let from = PortRange::new_checked(from.start, from.end - 1).unwrap();
    about(id, protocol, to, Some(vec![from]), then)
}

fn about(id: u32, protocol: PortProtocol, to: u16, source: Option<Vec<PortRange>>, then: Then) -> Rule {
    let service = Service::Ports { protocol, destination: Some(vec![PortRange::single(to)]), source };
    Rule::new(RuleId(id), Peer::Any, service, then)
}

/// What is written in the second of two tiers; in the first one a verdict of each kind, by the UDP port that is sent to.
pub(super) fn by_port(mut source: Source) -> Source {
    let settle = Then::Settle;
    let chain = Some(ChainId(NonZeroU16::MIN));
    let rules: Vec<Rule> = (2001..)
        .zip([
            settle(Verdict { log: true, ..Verdict::ALLOW }),
            settle(Verdict { chain, ..Verdict::ALLOW }),
            settle(Verdict { audit: true, ..Verdict::DENY }),
            settle(Verdict { audit: true, ..Verdict::REJECT }),
            REJECT,
            settle(Verdict { log: true, ..Verdict::DENY }),
            DENY,
            ALLOW,
            Then::Pass,
        ])
        .map(|(port, then)| about(u32::from(port), UDP, port, None, then))
        .collect();
    let first = GroupId(source.groups.len() as u32);
    source.groups.push(Group { ingress: rules.clone(), egress: rules }.into());
    for EndpointRules { ingress, egress, .. } in &mut source.endpoints {
        for tiers in [ingress, egress].map(Arc::make_mut) {
            tiers.insert(0, Tier { groups: vec![first], end: TierEnd::Pass });
        }
    }
    source
}

/// What is written in the second of two tiers; in the first one rules that ask for DSCP and TCP flags.
pub(super) fn by_fields(mut source: Source) -> Source {
    let dscp = |values: &[u8]| Some(values.iter().copied().collect());
    let flags = Some(TcpFlags { mask: 0x48, set: 0x40 });
    let low = Some(vec![PortRange::new_checked(4000, 4999).unwrap()]);
    let rules = vec![
        Rule { dscp: dscp(&[40, 46]), ..about(1, UDP, 2001, None, ALLOW) },
        about(2, UDP, 2001, None, DENY),
        Rule { dscp: dscp(&[34]), ..about(3, UDP, 2002, None, DENY) },
        Rule { dscp: dscp(&[10, 12]), ..about(4, UDP, 2003, low, ALLOW) },
        about(5, UDP, 2003, None, DENY),
        // ECE, and not PSH
        Rule { tcp_flags: flags, ..about(6, TCP, 443, None, DENY) },
    ];
    let first = GroupId(source.groups.len() as u32);
    source.groups.push(Group { ingress: rules.clone(), egress: rules }.into());
    for EndpointRules { ingress, egress, .. } in &mut source.endpoints {
        for tiers in [ingress, egress].map(Arc::make_mut) {
            tiers.insert(0, Tier { groups: vec![first], end: TierEnd::Pass });
        }
    }
    source
}

/// The rules that are written, with other verdicts, and some that ask for DSCP and TCP flags; in up to four tiers of some of the groups for each endpoint.
pub(super) fn by_dice(mut source: Source) -> Source {
    let mut dice = Dice(setting("EASTGATE_TWIN_SEED", 1) ^ 0x7e_a5);
    let groups = source.groups.iter_mut().map(Arc::make_mut);
    for rule in groups.flat_map(|group| group.ingress.iter_mut().chain(&mut group.egress)) {
        rule.then = some_verdict(&mut dice);
        if dice.one_in(6) {
            rule.dscp = Some((0..64).filter(|_| dice.one_in(2)).collect());
        }
        if dice.one_in(6) && matches!(rule.service, Service::Ports { protocol: TCP, .. }) {
            let mask = [0x02, 0x12, 0x40, 0x48, 0xc0][dice.roll(5)];
            rule.tcp_flags = Some(TcpFlags { mask, set: mask & !(dice.roll(256) as u8 & 0xe8) });
        }
    }
    let groups = source.groups.len();
    for EndpointRules { ingress, egress, .. } in &mut source.endpoints {
        for tiers in [ingress, egress].map(Arc::make_mut) {
            *tiers = (0..dice.roll(MAX_TIERS + 1)).map(|_| some_tier(&mut dice, groups)).collect();
        }
    }
    source
}

fn some_verdict(dice: &mut Dice) -> Then {
    let action = match dice.roll(12) {
        0..6 => Action::Allow,
        6..8 => Action::Deny,
        8 => Action::Reject,
        _ => return Then::Pass,
    };
    let chain = dice.one_in(20).then(|| ChainId(NonZeroU16::new(1 + dice.roll(9) as u16).unwrap()));
    let stateless = action == Action::Allow && dice.one_in(6);
    let limited = !stateless && dice.one_in(20);
    let helper = (action == Action::Allow && !stateless && dice.one_in(20)).then_some(Helper::Ftp);
    let (log, audit) = (dice.one_in(20), dice.one_in(20));
    Then::Settle(Verdict { action, log, audit, chain, limited, stateless, helper })
}

fn some_tier(dice: &mut Dice, groups: usize) -> Tier {
    let groups = (0..1 + dice.roll(3)).map(|_| GroupId(dice.roll(groups) as u32)).collect();
    Tier { groups, end: if dice.one_in(3) { TierEnd::Deny } else { TierEnd::Pass } }
}
