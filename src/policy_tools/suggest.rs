//! Rules from flows that were seen: the fewest that let them through, each with its evidence.
//!
//! A rule is as wide as what was seen and no wider: from a group that one end is in to a group that the other end is in, one
//! protocol, and the ports that were used between members of these two. Who is in no group, or is no endpoint, is named by its
//! address.

mod cover;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use anyhow::{Context, Result};
use eastgate_api::{FlowRow, List};
use eastgate_config::Name;
use eastgate_policy::rule::{Action, Direction, Header, PortProtocol, Probe};
use eastgate_wire::{
    Addr, EndpointId, Helper, Vni, names,
    view::{proto, tcp_flags},
};
use serde::Serialize;

use self::cover::{Candidate, cover};
use super::{NetworkPolicy, Policies};

/// What flows ask for.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Suggestion {
    /// The rules, by tenant, group and direction
    pub rules: Vec<Row>,
    /// There are no fewer that do; otherwise it was not tried to the end.
    pub fewest: bool,
    /// Flows that are covered by these rules
    pub covered: u64,
    /// Flows that the rules of the configuration let through already
    pub allowed: u64,
    /// Flows that nobody answered: no evidence
    pub unanswered: u64,
    /// Flows for which no rule of a group can be written, and why
    pub left_out: BTreeMap<String, u64>,
}

/// A rule, and what speaks for it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Row {
    /// Whose group it is of
    pub tenant: String,
    /// The group
    pub group: String,
    /// `ingress` or `egress`
    pub direction: &'static str,
    /// As it is written in a configuration
    pub toml: String,
    /// Flows that it lets through
    pub flows: u64,
    /// Between which endpoints, and addresses that no endpoint has
    pub seen: Vec<String>,
}

/// What of the flows counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// Those that the configuration's rules let through as well
    pub all: bool,
    /// Those that nobody answered as well
    pub unanswered: bool,
}

/// Reads what `show flows -o json` prints.
///
/// # Errors
/// Where it is something else.
pub fn read(name: &str, text: &str) -> Result<Vec<FlowRow>> {
    let list: List<FlowRow> = serde_json::from_str(text)
        .with_context(|| format!("{name} is not what `eastgate show flows -o json` prints"))?;
    Ok(list.rows)
}

/// The other end, as a rule can name it
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Peer {
    Group(Name),
    Address(Addr),
}

/// What flows need that one rule can allow, and who could have that rule.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Need {
    tenant: Name,
    direction: Direction,
    protocol: u8,
    /// Who follows them
    helper: Option<Helper>,
    /// Only of a protocol that has ports
    port: Option<u16>,
    owners: Vec<Name>,
    peers: Vec<Peer>,
}

/// What speaks for a need
#[derive(Clone, Default)]
struct Evidence {
    flows: u64,
    seen: BTreeSet<String>,
}

/// The fewest rules that let these flows through.
#[must_use]
pub fn suggest(policies: &Policies, flows: &[FlowRow], options: Options) -> Suggestion {
    let mut suggestion = Suggestion { fewest: true, ..Suggestion::default() };
    let by_vni: BTreeMap<Vni, &NetworkPolicy> =
        policies.networks.iter().filter_map(|it| Some((it.config()?.vni, it))).collect();
    let owners: BTreeMap<Vni, BTreeMap<Addr, usize>> =
        by_vni.iter().map(|(vni, network)| (*vni, network.owners())).collect();
    let mut needs: BTreeMap<Need, Evidence> = BTreeMap::new();
    for flow in flows {
        let (Some(network), Some(owners)) = (by_vni.get(&flow.vni), owners.get(&flow.vni)) else {
            *suggestion
                .left_out
                .entry(format!("VNI {} is not in this configuration", flow.vni))
                .or_default() += 1;
            continue;
        };
        // By the rule of its control flow.
        if flow.related.is_some() {
            suggestion.allowed += 1;
            continue;
        }
        if flow.reply_packets == 0 && !options.unanswered {
            suggestion.unanswered += 1;
            continue;
        }
        let found = needs_of(network, owners, flow, options.all);
        match found {
            Ok(found) if found.is_empty() => suggestion.allowed += 1,
            Ok(found) => {
                suggestion.covered += 1;
                for (need, seen) in found {
                    let evidence = needs.entry(need).or_default();
                    evidence.flows += 1;
                    evidence.seen.insert(seen);
                }
            }
            Err(why) => *suggestion.left_out.entry(why).or_default() += 1,
        }
    }
    let kind = |need: &Need| (need.tenant.clone(), need.direction, need.protocol, need.helper);
    let needs: Vec<(Need, Evidence)> = needs.into_iter().collect();
    for same in needs.chunk_by(|(a, _), (b, _)| kind(a) == kind(b)) {
        let (rules, proved) = of_one_kind(policies, same);
        suggestion.fewest &= proved;
        suggestion.rules.extend(rules);
    }
    suggestion.rules.sort_by(|a, b| {
        (&a.tenant, &a.group, b.direction, &a.toml).cmp(&(&b.tenant, &b.group, a.direction, &b.toml))
    });
    suggestion
}

/// What a flow needs of either end; nothing where the rules let it through already.
fn needs_of(
    network: &NetworkPolicy,
    owners: &BTreeMap<Addr, usize>,
    flow: &FlowRow,
    all: bool,
) -> Result<Vec<(Need, String)>, String> {
    let protocol =
        names::protocol_number(&flow.proto).ok_or_else(|| format!("no protocol `{}`", flow.proto))?;
    let has_ports = PortProtocol::from_number(protocol).is_some();
    let echo = if protocol == proto::ICMP { 8 } else { 128 };
    let header = match protocol {
        _ if has_ports => Header::Ports { source: flow.sport, destination: flow.dport },
        proto::ICMP | proto::ICMPV6 => Header::Icmp { kind: echo, code: 0 },
        _ => Header::Unread,
    };
    let tcp_flags = if protocol == proto::TCP { tcp_flags::SYN } else { 0 };
    let probe = Probe { tcp_flags, ..Probe::new(protocol, header) };
    let ends = [(Direction::Egress, flow.src, flow.dst), (Direction::Ingress, flow.dst, flow.src)];
    let mut needs = Vec::new();
    for (direction, own, other) in ends {
        // Nobody's rules are asked about an address that no endpoint has.
        let Some(place) = owners.get(&own) else { continue };
        let decision = network.side().compiled.decide(EndpointId(*place as u32), direction, other, &probe);
        if decision.verdict.action == Action::Allow && !all {
            continue;
        }
        let groups = |place: &usize| network.endpoints().get(*place).map_or(&[][..], |it| &it.groups);
        let name = |address: Addr| {
            owners.get(&address).map_or_else(|| address.to_string(), |place| network.endpoint_name(*place))
        };
        if groups(place).is_empty() {
            return Err(format!("{} is in no group that could have a rule", name(own)));
        }
        let peers = match owners.get(&other).map(groups) {
            Some(groups @ [_, ..]) => groups.iter().cloned().map(Peer::Group).collect(),
            _ => vec![Peer::Address(other)],
        };
        let need = Need {
            tenant: network.tenant.name.clone(),
            direction,
            protocol,
            helper: Helper::ALL.into_iter().find(|helper| flow.helper.as_deref() == Some(helper.name())),
            port: has_ports.then_some(flow.dport),
            owners: groups(place).to_vec(),
            peers,
        };
        needs.push((need, format!("{} -> {}", name(flow.src), name(flow.dst))));
    }
    Ok(needs)
}

/// The fewest rules for needs of one tenant, direction and protocol; and whether that is certain.
fn of_one_kind(policies: &Policies, needs: &[(Need, Evidence)]) -> (Vec<Row>, bool) {
    let Some((first, _)) = needs.first() else { return (Vec::new(), true) };
    let members = |peer: &Peer| match peer {
        Peer::Address(_) => 1,
        Peer::Group(group) => {
            let tenant = policies.config.tenant(&first.tenant);
            let all = tenant.into_iter().flat_map(|tenant| tenant.endpoints());
            all.filter(|(_, endpoint)| endpoint.groups.contains(group)).count() as u64
        }
    };
    let mut wide: BTreeMap<(Name, Peer), BTreeSet<usize>> = BTreeMap::new();
    for (at, (need, _)) in needs.iter().enumerate() {
        for owner in &need.owners {
            for peer in &need.peers {
                wide.entry((owner.clone(), peer.clone())).or_default().insert(at);
            }
        }
    }
    let candidates: Vec<Candidate> = wide
        .iter()
        .map(|((owner, peer), covers)| Candidate {
            covers: covers.clone(),
            width: members(&Peer::Group(owner.clone())) * members(peer),
        })
        .collect();
    let (chosen, proved) = cover(needs.len(), &candidates);
    let mut open: BTreeSet<usize> = (0..needs.len()).collect();
    let mut rows = Vec::new();
    for at in chosen {
        let Some(((owner, peer), covers)) = wide.iter().nth(at) else { continue };
        // What an earlier one lets through speaks for that one.
        let own: Vec<&(Need, Evidence)> =
            covers.iter().filter(|need| open.remove(*need)).filter_map(|need| needs.get(*need)).collect();
        rows.push(row(owner, peer, &own));
    }
    (rows, proved)
}

fn row(owner: &Name, peer: &Peer, own: &[&(Need, Evidence)]) -> Row {
    let ports: BTreeSet<u16> = own.iter().filter_map(|(need, _)| need.port).collect();
    let (tenant, direction, protocol) =
        own.first().map_or((Name::from(""), Direction::Ingress, 0), |(need, _)| {
            (need.tenant.clone(), need.direction, need.protocol)
        });
    let mut toml = match protocol {
        proto::ICMP => "{ proto = \"icmp\", family = \"ipv4\"".to_owned(),
        number => match names::protocol_name(number) {
            name if name.parse::<u8>().is_ok() => format!("{{ proto = {name}"),
            name => format!("{{ proto = \"{name}\""),
        },
    };
    if !ports.is_empty() {
        let _ = write!(toml, ", ports = [{}]", port_list(&ports));
    }
    let (key, name) = match direction {
        Direction::Ingress => ("from", "ingress"),
        Direction::Egress => ("to", "egress"),
    };
    let peer = match peer {
        Peer::Group(group) => format!("group:{group}"),
        Peer::Address(address) => address.to_string(),
    };
    let helper = own.first().and_then(|(need, _)| need.helper);
    let helper = helper.map_or_else(String::new, |helper| format!(", helper = \"{}\"", helper.name()));
    let _ = write!(toml, ", {key} = \"{peer}\"{helper} }}");
    Row {
        tenant: tenant.to_string(),
        group: owner.to_string(),
        direction: name,
        toml,
        flows: own.iter().map(|(_, evidence)| evidence.flows).sum(),
        seen: own
            .iter()
            .flat_map(|(_, evidence)| &evidence.seen)
            .cloned()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect(),
    }
}

/// Ports as they are written; more than two in a row as a range.
fn port_list(ports: &BTreeSet<u16>) -> String {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for port in ports {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*port) => *last = *port,
            _ => ranges.push((*port, *port)),
        }
    }
    let text = |(first, last): (u16, u16)| match last - first {
        0 => first.to_string(),
        1 => format!("{first}, {last}"),
        _ => format!("\"{first}-{last}\""),
    };
    ranges.into_iter().map(text).collect::<Vec<_>>().join(", ")
}

/// The rules as TOML to paste, each below what speaks for it.
#[must_use]
pub fn toml(suggestion: &Suggestion) -> String {
    const SHOWN: usize = 6;
    let mut text = String::new();
    let groups = suggestion.rules.chunk_by(|a, b| (&a.tenant, &a.group) == (&b.tenant, &b.group));
    for group in groups {
        let Some(first) = group.first() else { continue };
        let _ = writeln!(text, "[tenant.{}.group.{}]", key(&first.tenant), key(&first.group));
        for list in group.chunk_by(|a, b| a.direction == b.direction) {
            let Some(first) = list.first() else { continue };
            let _ = writeln!(text, "{} = [", first.direction);
            for row in list {
                let seen = names::some_of(&row.seen, SHOWN, ", ");
                let _ = writeln!(text, "  # {}: {seen}", names::count(row.flows, "flow"));
                let _ = writeln!(text, "  {},", row.toml);
            }
            let _ = writeln!(text, "]");
        }
        text.push('\n');
    }
    text
}

/// A name as a part of a table's name: one with a dot in it stands in quotes.
fn key(name: &str) -> String {
    if name.contains('.') { format!("\"{name}\"") } else { name.to_owned() }
}
