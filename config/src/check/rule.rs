//! Rules of groups, templates and policies: protocol, ports, ICMP types, families and the other side must make sense
//! together.

use std::collections::BTreeMap;

use eastgate_wire::{
    Family, names,
    view::proto::{DCCP, ICMP, ICMPV6, SCTP, TCP, UDP, UDPLITE},
};
use ipnet::IpNet;

use super::{header, helper::helper, icmp, limits::limits, names::Names, negation::Negation};
use crate::{
    leaf::{Action, Mode, PortRange, RuleFamily, RuleKey},
    model::{FlagMatch, IcmpMatch, Peer, Protocol, Rule},
    place::Place,
    policies::family_of as family_of_prefix,
    prefixes::without,
    problem::{Near, Problem},
    read::{At, Field, Reader, Span},
    tables::{PeerTable, PolicyRuleTable, RuleTable},
    values::{AddressOrPrefix, List, NumberOrWord, OneOrMany, PeerValue},
    variables::{PortsValue, is_variable, misplaced},
};

/// Which of its lists a rule is in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Ingress,
    Egress,
}

/// Protocols that have a name here.
const PROTOCOLS: [(&str, u8); 16] = [
    ("icmp", ICMP),
    ("igmp", 2),
    ("ipip", 4),
    ("tcp", TCP),
    ("udp", UDP),
    ("dccp", DCCP),
    ("ipv6", 41),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("icmpv6", ICMPV6),
    ("ospf", 89),
    ("pim", 103),
    ("vrrp", 112),
    ("sctp", SCTP),
    ("udplite", UDPLITE),
];

/// What makes two rules the same.
type Matched<'r> = (
    (Protocol, [&'r [PortRange]; 2], Option<IcmpMatch>),
    (Option<Family>, Vec<&'r Peer>, &'r [IpNet]),
    (&'r [u8], Option<FlagMatch>),
);

/// The good rules of a group's or template's list.
pub(super) fn check_list(
    tables: &List<RuleTable>,
    direction: Direction,
    names: &mut Names<'_>,
    reader: &mut Reader,
) -> Vec<Rule> {
    let items = tables.items.iter();
    let rules = items.filter_map(|at| {
        let negation = Negation::of(&at.value, None, direction, reader);
        let rule = check(&at.value, None, negation, direction, at.span, names, reader);
        let limits = limits(&at.value, Action::Allow, reader);
        let rule = rule?;
        let helper = helper(&at.value, Action::Allow, &rule, reader);
        Some((Rule { limits, helper, ..rule }, at.span))
    });
    without_repeated(rules.collect(), reader)
}

/// The good rules of a policy's list.
pub(super) fn check_policy_list(
    tables: &List<PolicyRuleTable>,
    direction: Direction,
    names: &mut Names<'_>,
    reader: &mut Reader,
) -> Vec<(Rule, Span)> {
    let items = tables.items.iter();
    let rules = items.filter_map(|at| {
        let own = at.value.own.good();
        let negation = Negation::of(&at.value.rule, Some(&at.value), direction, reader);
        let rule = check(&at.value.rule, own, negation, direction, at.span, names, reader);
        let (action, mode) = (at.value.action.good()?.value, at.value.mode.value);
        if at.value.rule.log.value && action == Action::Pass {
            reader.report(Problem::LogPass {}, at.value.rule.log.span);
        }
        let limits = limits(&at.value.rule, action, reader);
        let denies = matches!(action, Action::Deny | Action::Reject) || limits.is_some();
        if mode == Mode::Audit && !denies {
            let what = if action == Action::Pass { "passes on" } else { "allows" };
            reader.report(Problem::AuditAllow { what }, at.value.mode.span);
        }
        let dscp = header::dscp(&at.value, reader);
        let rule = rule?;
        let dscp = negation.dscp(dscp?, at.value.dscp.good().map(|dscp| dscp.span), reader);
        let negated = negation.has(RuleKey::TcpFlags);
        let tcp_flags = header::tcp_flags(&at.value, rule.protocol, negated, reader);
        let helper = helper(&at.value.rule, action, &rule, reader);
        Some((Rule { action, mode, dscp, tcp_flags, helper, limits, ..rule }, at.span))
    });
    let rules: Vec<(Rule, Span)> = rules.collect();
    let spans: Vec<Span> = rules.iter().map(|(_, span)| *span).collect();
    without_repeated(rules, reader).into_iter().zip(spans).collect()
}

/// Warns of rules that match what another one before them does.
fn without_repeated(rules: Vec<(Rule, Span)>, reader: &mut Reader) -> Vec<Rule> {
    let mut seen: BTreeMap<Matched<'_>, Span> = BTreeMap::new();
    for (rule, span) in &rules {
        let mut peers: Vec<&Peer> = rule.peers.iter().collect();
        peers.sort_unstable();
        let ports = [&*rule.ports, &*rule.source_ports];
        let sides = (rule.family, peers, &*rule.own);
        let matched = ((rule.protocol, ports, rule.icmp), sides, (&*rule.dscp, rule.tcp_flags));
        if let Some(first) = seen.insert(matched, *span) {
            reader.report_also(Problem::RuleRepeated {}, *span, first, "the other one");
        }
    }
    rules.into_iter().map(|(rule, _)| rule).collect()
}

/// The groups that a rule's other side names.
pub(super) fn groups_named(rule: &Rule) -> impl Iterator<Item = &str> {
    rule.peers.iter().filter_map(|peer| if let Peer::Group(name) = peer { Some(&**name) } else { None })
}

fn check(
    rule: &RuleTable,
    own: Option<&At<OneOrMany<AddressOrPrefix>>>,
    negation: Negation<'_>,
    direction: Direction,
    at: Span,
    names: &mut Names<'_>,
    reader: &mut Reader,
) -> Option<Rule> {
    let peers = peers(rule, direction, at, names, reader);
    let protocol = protocol(rule, reader).map(|protocol| negation.protocol(protocol));
    let ports = protocol.is_some_and(|protocol| ports_possible(rule, protocol, reader));
    let negated = negation.has(RuleKey::IcmpType);
    let icmp = protocol.and_then(|protocol| icmp_match(rule, protocol, negated, reader));
    let (peers, protocol) = (peers?, protocol?);
    let written = if direction == Direction::Ingress { &rule.from } else { &rule.to };
    let peers = negation.peers(direction, peers, written.good().map(|peers| peers.span), reader);
    let own_at = own.map(|own| own.span);
    let own: Vec<At<Peer>> = own
        .iter()
        .flat_map(|own| &own.value.0)
        .map(|at| At { value: Peer::Prefix(at.value.0), span: at.span })
        .collect();
    let (family, protocol) = family(rule, protocol, [&peers, &own], reader);
    let own = own.iter().filter_map(|own| prefix_of(&own.value)).copied().collect();
    let own = negation.own(own, own_at, reader);
    let mut ports_of = |key, field: &Field<OneOrMany<PortsValue>>| {
        let ranges = if ports { merged(field, reader) } else { Vec::new() };
        negation.ports(key, ranges, field.good().map(|ports| ports.span), reader)
    };
    let (ports, source_ports) =
        (ports_of(RuleKey::Ports, &rule.ports), ports_of(RuleKey::SourcePorts, &rule.source_ports));
    Some(Rule {
        at: reader.place(at),
        description: rule.description.good().map(|text| text.value.clone()),
        protocol,
        ports,
        source_ports,
        icmp,
        family,
        peers: peers.into_iter().map(|peer| peer.value).collect(),
        own,
        dscp: Box::default(),
        tcp_flags: None,
        helper: None,
        limits: None,
        action: Action::Allow,
        log: rule.log.value,
        mode: Mode::Enforce,
    })
}

/// The protocol, with `icmp` made IPv4's where a type is given: types are numbered anew in IPv6.
fn protocol(rule: &RuleTable, reader: &mut Reader) -> Option<Protocol> {
    let NumberOrWord(word) = &rule.proto.value;
    match word.as_str() {
        "any" => return Some(Protocol::Any),
        "icmp" if rule.icmp_type.is_missing() => return Some(Protocol::Icmp),
        _ => {}
    }
    let named = PROTOCOLS.iter().find(|(name, _)| name == word).map(|(_, number)| *number);
    let number = named.or_else(|| icmp::number(word));
    if is_misplaced(word, rule.proto.span, reader) {
        return None;
    }
    if number.is_none() {
        let near = Near::new(word, PROTOCOLS.iter().map(|(name, _)| *name).chain(["any"]));
        reader.report(Problem::BadProtocol { text: word.clone(), near }, rule.proto.span);
    }
    number.map(Protocol::Number)
}

/// How a rule's protocol is called in a message.
pub(super) fn protocol_text(rule: &RuleTable) -> String {
    match rule.proto.value.0.as_str() {
        "any" => "a rule for any protocol".to_owned(),
        word if rule.not.value.items.iter().any(|key| key.value == RuleKey::Proto) => {
            format!("a rule for any protocol but `{word}`")
        }
        word => format!("protocol `{word}`"),
    }
}

fn ports_possible(rule: &RuleTable, protocol: Protocol, reader: &mut Reader) -> bool {
    if let Protocol::Number(number) = protocol
        && names::has_ports(number)
    {
        return true;
    }
    for ports in [rule.ports.good(), rule.source_ports.good()].into_iter().flatten() {
        reader.report(Problem::PortsNotPossible { protocol: protocol_text(rule) }, ports.span);
    }
    false
}

/// The ranges sorted, with those that touch made one.
fn merged(ports: &Field<OneOrMany<PortsValue>>, reader: &mut Reader) -> Vec<PortRange> {
    let Some(ports) = ports.good() else { return Vec::new() };
    for At { value, span } in &ports.value.0 {
        if let PortsValue::Variable(word) = value {
            is_misplaced(word, *span, reader);
        }
    }
    let mut sorted: Vec<PortRange> = ports.value.0.iter().filter_map(|ports| ports.value.range()).collect();
    sorted.sort_unstable();
    let mut merged: Vec<PortRange> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match merged.last_mut() {
            Some(last) if u32::from(range.first) <= u32::from(last.last) + 1 => {
                last.last = last.last.max(range.last)
            }
            _ => merged.push(range),
        }
    }
    merged
}

fn icmp_match(rule: &RuleTable, protocol: Protocol, negated: bool, reader: &mut Reader) -> Option<IcmpMatch> {
    let family = match protocol {
        Protocol::Number(ICMP) | Protocol::Icmp => Family::V4,
        Protocol::Number(ICMPV6) => Family::V6,
        _ => {
            for written in [rule.icmp_type.good(), rule.icmp_code.good()].into_iter().flatten() {
                reader.report(Problem::IcmpNotPossible { protocol: protocol_text(rule) }, written.span);
            }
            return None;
        }
    };
    let Some(kind) = rule.icmp_type.good() else {
        if let (Some(code), true) = (rule.icmp_code.good(), rule.icmp_type.is_missing()) {
            reader.report(Problem::IcmpCodeAlone {}, code.span);
        }
        return None;
    };
    let NumberOrWord(word) = &kind.value;
    if is_misplaced(word, kind.span, reader) {
        return None;
    }
    let Some(number) = icmp::kind(family, word) else {
        let what = if family == Family::V4 { "an ICMP type" } else { "an ICMPv6 type" };
        let near = Near::new(word, icmp::kinds(family));
        reader.report(Problem::BadIcmp { text: word.clone(), what, near }, kind.span);
        return None;
    };
    let code = rule.icmp_code.good().and_then(|code| icmp_code(family, number, code, reader));
    Some(IcmpMatch { kind: number, code, negated })
}

fn icmp_code(family: Family, kind: u8, code: &At<NumberOrWord>, reader: &mut Reader) -> Option<u8> {
    let NumberOrWord(word) = &code.value;
    let number = icmp::code(family, kind, word);
    if number.is_none() {
        let near = Near::new(word, icmp::codes(family, kind));
        reader.report(
            Problem::BadIcmp { text: word.clone(), what: "a code of this ICMP type", near },
            code.span,
        );
    }
    number
}

const fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// The one family that the rule is for, if any, and the protocol in the light of that.
fn family(
    rule: &RuleTable,
    protocol: Protocol,
    sides: [&[At<Peer>]; 2],
    reader: &mut Reader,
) -> (Option<Family>, Protocol) {
    let said = rule.family.good().map(|family| match family.value {
        RuleFamily::Ipv4 => Family::V4,
        RuleFamily::Ipv6 => Family::V6,
    });
    let by_protocol = match protocol {
        Protocol::Number(ICMP | 2) => Some(Family::V4),
        Protocol::Number(ICMPV6) => Some(Family::V6),
        _ => None,
    };
    if let (Some(said), Some(own)) = (said, by_protocol)
        && said != own
    {
        let typed = if rule.proto.value.0 == "icmp" { " with a type" } else { "" };
        let what = format!("{}{typed}", protocol_text(rule));
        let problem = Problem::FamilyConflict { what, has: family_name(own), family: family_name(said) };
        reader.report(problem, rule.proto.span);
    }
    let wanted = said.or(by_protocol);
    let wanted = wanted.or_else(|| common_family(sides[0])).or_else(|| common_family(sides[1]));
    for (peer, prefix) in sides.into_iter().flatten().filter_map(|peer| Some((peer, prefix_of(&peer.value)?)))
    {
        let own = family_of_prefix(prefix);
        if let Some(wanted) = wanted
            && own != wanted
        {
            let what = prefix.to_string();
            let problem =
                Problem::FamilyConflict { what, has: family_name(own), family: family_name(wanted) };
            reader.report(problem, peer.span);
        }
    }
    let protocol = match (protocol, wanted) {
        (Protocol::Icmp, Some(Family::V4)) => Protocol::Number(ICMP),
        (Protocol::Icmp, Some(Family::V6)) => Protocol::Number(ICMPV6),
        (Protocol::NotIcmp, Some(Family::V4)) => Protocol::NotNumber(ICMP),
        (Protocol::NotIcmp, Some(Family::V6)) => Protocol::NotNumber(ICMPV6),
        (protocol, _) => protocol,
    };
    (wanted, protocol)
}

fn prefix_of(peer: &Peer) -> Option<&IpNet> {
    match peer {
        Peer::Prefix(net) | Peer::Except(net, _) => Some(net),
        _ => None,
    }
}

/// The family that every peer has.
fn common_family(peers: &[At<Peer>]) -> Option<Family> {
    let mut families = peers.iter().map(|peer| prefix_of(&peer.value).map(family_of_prefix));
    let first = families.next()??;
    families.all(|family| family == Some(first)).then_some(first)
}

/// The other side; none if nothing of it is good.
fn peers(
    rule: &RuleTable,
    direction: Direction,
    at: Span,
    names: &mut Names<'_>,
    reader: &mut Reader,
) -> Option<Vec<At<Peer>>> {
    let (right, wrong, list, key, not) = match direction {
        Direction::Ingress => (&rule.from, &rule.to, "ingress", "from", "to"),
        Direction::Egress => (&rule.to, &rule.from, "egress", "to", "from"),
    };
    if let Some(written) = wrong.good() {
        reader.report(Problem::WrongDirection { written: not, list, meant: key }, written.span);
    } else if right.is_missing() && wrong.is_missing() {
        let example = "\"any\"";
        reader.report(Problem::MissingKey { key, table: "rule", example }, at);
    }
    let written = right.good()?;
    let peers = written.value.0.iter().filter_map(|written| {
        let value = match &written.value {
            PeerValue::Word(word) => peer(word, written.span, names, reader)?,
            PeerValue::Table(table) => excepting(table, reader)?,
        };
        Some(At { value, span: written.span })
    });
    let peers: Vec<At<Peer>> = peers.collect();
    (!peers.is_empty()).then_some(peers)
}

fn peer(word: &str, span: Span, names: &mut Names<'_>, reader: &mut Reader) -> Option<Peer> {
    if word == "any" {
        return Some(Peer::Any);
    }
    if let Some(name) = word.strip_prefix("group:") {
        return names.group(name.trim(), span, reader);
    }
    if let Some(name) = word.strip_prefix("set:") {
        return names.set(name.trim(), span, reader);
    }
    if is_misplaced(word, span, reader) {
        return None;
    }
    match AddressOrPrefix::parse(word) {
        Ok(AddressOrPrefix(prefix)) => Some(Peer::Prefix(prefix)),
        Err(Problem::BadPrefix { text }) => {
            reader.report(Problem::BadPeer { text }, span);
            None
        }
        Err(problem) => {
            reader.report(problem, span);
            None
        }
    }
}

/// Whether a variable stands where none has values, which is reported.
fn is_misplaced(word: &str, span: Span, reader: &mut Reader) -> bool {
    if is_variable(word) {
        reader.report(misplaced(word), span);
    }
    is_variable(word)
}

/// A prefix but for others inside it, of which something must be left.
fn excepting(table: &PeerTable, reader: &mut Reader) -> Option<Peer> {
    let prefix = table.prefix.good()?;
    let (net, listed) = (prefix.value.0, &table.except.value);
    let mut except: Vec<IpNet> = Vec::with_capacity(listed.items.len());
    for other in &listed.items {
        if net.contains(&other.value.0) {
            except.push(other.value.0);
        } else {
            let problem = Problem::ExceptOutside { except: other.value.0, prefix: net };
            reader.report_also(problem, other.span, prefix.span, "the prefix");
        }
    }
    // One that could not be read would be let in.
    if listed.partial {
        return None;
    }
    except.sort_unstable();
    except.dedup();
    if without(net, &except).is_empty() {
        reader.report(Problem::ExceptAll { prefix: net }, prefix.span);
    }
    Some(if except.is_empty() { Peer::Prefix(net) } else { Peer::Except(net, except.into()) })
}

/// A rule about everything that comes from a peer or goes to it, of one family or of both.
pub(super) fn all_of(action: Action, family: Option<Family>, peer: Peer, at: Place) -> Rule {
    Rule {
        at,
        description: None,
        protocol: Protocol::Any,
        ports: Vec::new(),
        source_ports: Vec::new(),
        icmp: None,
        family,
        peers: vec![peer],
        own: Box::default(),
        dscp: Box::default(),
        tcp_flags: None,
        helper: None,
        limits: None,
        action,
        log: false,
        mode: Mode::Enforce,
    }
}
