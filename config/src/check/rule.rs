//! A group's rules: protocol, ports, ICMP types, families and the other side must make sense together.

use std::{collections::BTreeMap, sync::Arc};

use eastgate_wire::{
    Family, names,
    view::proto::{DCCP, ICMP, ICMPV6, SCTP, TCP, UDP, UDPLITE},
};
use ipnet::IpNet;

use super::{icmp, known_name};
use crate::{
    leaf::{PortRange, RuleFamily},
    model::{IcmpMatch, Name, Peer, Protocol, Rule},
    problem::{Near, Problem},
    read::{At, Field, Named, Reader, Span},
    tables::{GroupTable, RuleTable},
    values::{AddressOrPrefix, List, NameText, NumberOrWord, OneOrMany},
};

/// Which of a group's lists a rule is in.
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
type Matched<'r> =
    (Protocol, &'r [PortRange], &'r [PortRange], Option<IcmpMatch>, Option<Family>, Vec<&'r Peer>);

/// The good rules of a list.
pub(super) fn check_list(
    tables: &List<RuleTable>,
    direction: Direction,
    groups: &Named<GroupTable>,
    reader: &mut Reader,
) -> Vec<Rule> {
    let rules: Vec<(Rule, Span)> = tables
        .items
        .iter()
        .filter_map(|table| check(table, direction, groups, reader).map(|rule| (rule, table.span)))
        .collect();
    let mut seen: BTreeMap<Matched<'_>, Span> = BTreeMap::new();
    for (rule, span) in &rules {
        let mut peers: Vec<&Peer> = rule.peers.iter().collect();
        peers.sort_unstable();
        let matched = (rule.protocol, &*rule.ports, &*rule.source_ports, rule.icmp, rule.family, peers);
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
    table: &At<RuleTable>,
    direction: Direction,
    groups: &Named<GroupTable>,
    reader: &mut Reader,
) -> Option<Rule> {
    let rule = &table.value;
    let peers = peers(rule, direction, table.span, groups, reader);
    let protocol = protocol(rule, reader);
    let ports = protocol.is_some_and(|protocol| ports_possible(rule, protocol, reader));
    let icmp = protocol.and_then(|protocol| icmp_match(rule, protocol, reader));
    let (peers, protocol) = (peers?, protocol?);
    let (family, protocol) = family(rule, protocol, &peers, reader);
    Some(Rule {
        at: reader.place(table.span),
        description: rule.description.good().map(|text| text.value.clone()),
        protocol,
        ports: if ports { merged(&rule.ports) } else { Vec::new() },
        source_ports: if ports { merged(&rule.source_ports) } else { Vec::new() },
        icmp,
        family,
        peers: peers.into_iter().map(|peer| peer.value).collect(),
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
    if number.is_none() {
        let near = Near::new(word, PROTOCOLS.iter().map(|(name, _)| *name).chain(["any"]));
        reader.report(Problem::BadProtocol { text: word.clone(), near }, rule.proto.span);
    }
    number.map(Protocol::Number)
}

/// How a rule's protocol is called in a message.
fn protocol_text(rule: &RuleTable) -> String {
    match rule.proto.value.0.as_str() {
        "any" => "a rule for any protocol".to_owned(),
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
fn merged(ports: &Field<OneOrMany<PortRange>>) -> Vec<PortRange> {
    let Some(ports) = ports.good() else { return Vec::new() };
    let mut sorted: Vec<PortRange> = ports.value.0.iter().map(|range| range.value).collect();
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

fn icmp_match(rule: &RuleTable, protocol: Protocol, reader: &mut Reader) -> Option<IcmpMatch> {
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
    let Some(number) = icmp::kind(family, word) else {
        let what = if family == Family::V4 { "an ICMP type" } else { "an ICMPv6 type" };
        let near = Near::new(word, icmp::kinds(family));
        reader.report(Problem::BadIcmp { text: word.clone(), what, near }, kind.span);
        return None;
    };
    let code = rule.icmp_code.good().and_then(|code| icmp_code(family, number, code, reader));
    Some(IcmpMatch { kind: number, code })
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
    peers: &[At<Peer>],
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
    for (peer, own) in peers.iter().filter_map(|peer| Some((peer, family_of(&peer.value)?))) {
        if let (Some(wanted), Peer::Prefix(prefix)) = (wanted, &peer.value)
            && own != wanted
        {
            let what = prefix.to_string();
            let problem =
                Problem::FamilyConflict { what, has: family_name(own), family: family_name(wanted) };
            reader.report(problem, peer.span);
        }
    }
    let family = wanted.or_else(|| common_family(peers));
    let protocol = match (protocol, family) {
        (Protocol::Icmp, Some(Family::V4)) => Protocol::Number(ICMP),
        (Protocol::Icmp, Some(Family::V6)) => Protocol::Number(ICMPV6),
        (protocol, _) => protocol,
    };
    (family, protocol)
}

fn family_of(peer: &Peer) -> Option<Family> {
    match peer {
        Peer::Prefix(IpNet::V4(_)) => Some(Family::V4),
        Peer::Prefix(IpNet::V6(_)) => Some(Family::V6),
        Peer::Any | Peer::Group(_) => None,
    }
}

/// The family that every peer has.
fn common_family(peers: &[At<Peer>]) -> Option<Family> {
    let mut families = peers.iter().map(|peer| family_of(&peer.value));
    let first = families.next()??;
    families.all(|family| family == Some(first)).then_some(first)
}

/// The other side; none if nothing of it is good.
fn peers(
    rule: &RuleTable,
    direction: Direction,
    at: Span,
    groups: &Named<GroupTable>,
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
    let peers: Vec<At<Peer>> = written.value.0.iter().filter_map(|text| peer(text, groups, reader)).collect();
    (!peers.is_empty()).then_some(peers)
}

fn peer(text: &At<Arc<str>>, groups: &Named<GroupTable>, reader: &mut Reader) -> Option<At<Peer>> {
    let span = text.span;
    if &*text.value == "any" {
        return Some(At { value: Peer::Any, span });
    }
    if let Some(group) = text.value.strip_prefix("group:") {
        let name: Name = group.trim().into();
        let known = known_name("group", &At { value: NameText(name.clone()), span }, groups, reader);
        return known.then_some(At { value: Peer::Group(name), span });
    }
    match AddressOrPrefix::parse(&text.value) {
        Ok(AddressOrPrefix(prefix)) => Some(At { value: Peer::Prefix(prefix), span }),
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
