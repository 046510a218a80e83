//! The oracle: the walk down the ordered rules, as a person would do it.
//!
//! It promises to be obviously right, not fast. Property tests hold the compiled form ([`crate::compile`])
//! equal to it, and [`explain`] tells `trace` which rule matched and which came close.

use std::fmt;

use eastgate_wire::{Addr, EndpointId, Family, view::proto};

use crate::rule::{
    Decision, Direction, GroupId, Header, Peer, PortRange, Probe, Rule, Service, Source, Then, Tier, TierEnd,
};

/// What the policy of an endpoint says: tier by tier, what the first matching rule does. Denied when nothing is said, or
/// the endpoint does not exist.
#[must_use]
pub fn decide(
    source: &Source,
    endpoint: EndpointId,
    direction: Direction,
    peer: Addr,
    probe: &Probe,
) -> Decision {
    settled(source, endpoint, direction, peer, probe).map_or(Decision::DEFAULT_DENY, |(_, decision)| decision)
}

/// What a rule says first, and in which tier.
fn settled(
    source: &Source,
    endpoint: EndpointId,
    direction: Direction,
    peer: Addr,
    probe: &Probe,
) -> Option<(usize, Decision)> {
    for (number, tier) in tiers(source, endpoint, direction).iter().enumerate() {
        let matches = |rule: &&Rule| misses(source, rule, peer, probe).is_empty();
        match walk(source, tier, direction).map(|(_, rule)| rule).find(matches) {
            Some(Rule { id, then: Then::Settle(verdict), .. }) => {
                return Some((number, Decision { verdict: *verdict, rule: Some(*id) }));
            }
            Some(Rule { then: Then::Pass, .. }) => {}
            None if tier.end == TierEnd::Pass => {}
            None => return None,
        }
    }
    None
}

/// Why the policy decides as it does: every rule of the endpoint's tiers, and what keeps it from matching.
#[must_use]
pub fn explain<'s>(
    source: &'s Source,
    endpoint: EndpointId,
    direction: Direction,
    peer: Addr,
    probe: &Probe,
) -> Explanation<'s> {
    let step = |(number, (group, rule)): (usize, (GroupId, &'s Rule))| Step {
        tier: number,
        group,
        rule,
        misses: misses(source, rule, peer, probe),
    };
    let tiers = tiers(source, endpoint, direction).iter().enumerate();
    let rules =
        tiers.flat_map(|(number, tier)| walk(source, tier, direction).map(move |rule| (number, rule)));
    let steps = rules.map(step).collect();
    let settled = settled(source, endpoint, direction, peer, probe);
    let (tier, decision) = settled.unzip();
    Explanation { decision: decision.unwrap_or(Decision::DEFAULT_DENY), tier, steps }
}

/// Why a packet is decided as it is.
#[derive(Clone, Debug)]
pub struct Explanation<'s> {
    /// What is done
    pub decision: Decision,
    /// Every rule of the endpoint in that direction, in order; those behind the one that decided as well, since a
    /// shadowed rule is worth showing.
    pub steps: Vec<Step<'s>>,
    /// The tier of the rule that decided
    tier: Option<usize>,
}

/// One rule of the walk.
#[derive(Clone, Debug)]
pub struct Step<'s> {
    /// The tier that the rule is of, from 0
    pub tier: usize,
    /// The group the rule is from
    pub group: GroupId,
    /// The rule
    pub rule: &'s Rule,
    /// What kept it from matching; empty when it matches.
    pub misses: Misses,
}

/// One respect in which a rule does not match.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Miss {
    /// It is for the other IP family.
    Family,
    /// The address is not its peer.
    Peer,
    /// It is for another protocol.
    Protocol,
    /// Another destination port, or the port could not be read
    Port,
    /// Another source port, or the port could not be read
    SourcePort,
    /// Another ICMP type or code, or they could not be read
    Icmp,
    /// Another DSCP
    Dscp,
    /// Other TCP flags, or they could not be read
    TcpFlags,
}

/// The respects in which a rule does not match.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Misses(u8);

impl<'s> Explanation<'s> {
    /// The step whose rule decided.
    #[must_use]
    pub fn matched(&self) -> Option<&Step<'s>> {
        let tier = self.tier?;
        self.steps.iter().find(|step| step.tier == tier && step.misses.is_empty())
    }

    /// The rules that did not match, the closest first; equally close ones in their order.
    #[must_use]
    pub fn close_calls(&self) -> Vec<&Step<'s>> {
        let mut steps: Vec<_> = self.steps.iter().filter(|step| !step.misses.is_empty()).collect();
        steps.sort_by_key(|step| step.misses.distance());
        steps
    }
}

impl Miss {
    const ALL: [Self; 8] = [
        Self::Family,
        Self::Peer,
        Self::Protocol,
        Self::Port,
        Self::SourcePort,
        Self::Icmp,
        Self::Dscp,
        Self::TcpFlags,
    ];

    /// How far off a rule is for this alone. A wrong port is a likely slip; the other family is another topic.
    const fn distance(self) -> u32 {
        match self {
            Self::Port | Self::SourcePort | Self::Icmp | Self::Dscp | Self::TcpFlags => 1,
            Self::Peer => 2,
            Self::Protocol => 4,
            Self::Family => 8,
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl Misses {
    /// Does the rule match?
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Is this one of them?
    #[must_use]
    pub const fn contains(self, miss: Miss) -> bool {
        self.0 & miss.bit() != 0
    }

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = Miss> {
        Miss::ALL.into_iter().filter(move |miss| self.contains(*miss))
    }

    /// How far the rule is from matching; 0 when it does.
    #[must_use]
    pub fn distance(self) -> u32 {
        self.iter().map(Miss::distance).sum()
    }

    fn set(&mut self, miss: Miss, missed: bool) {
        if missed {
            self.0 |= miss.bit();
        }
    }
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Family => "family",
            Self::Peer => "peer",
            Self::Protocol => "protocol",
            Self::Port => "port",
            Self::SourcePort => "source port",
            Self::Icmp => "ICMP type or code",
            Self::Dscp => "DSCP",
            Self::TcpFlags => "TCP flags",
        })
    }
}

/// The policy of an endpoint in one direction.
pub(crate) fn tiers(source: &Source, endpoint: EndpointId, direction: Direction) -> &[Tier] {
    source.endpoints.get(endpoint.0 as usize).map_or(&[][..], |endpoint| endpoint.tiers(direction))
}

/// All rules of an endpoint in one direction, in order, each with the tier that it is of.
pub(crate) fn rules_of(
    source: &Source,
    endpoint: EndpointId,
    direction: Direction,
) -> impl Iterator<Item = (usize, &Rule)> {
    let tiers = tiers(source, endpoint, direction).iter().enumerate();
    tiers.flat_map(move |(number, tier)| walk(source, tier, direction).map(move |(_, rule)| (number, rule)))
}

/// Whether a rule speaks of an address.
pub(crate) fn is_about(source: &Source, rule: &Rule, peer: Addr) -> bool {
    families(rule).all(|family| family == peer.family()) && is_peer(source, rule.peer, peer)
}

/// The ordered rules of a tier. A group that is named twice is walked once.
fn walk<'s>(
    source: &'s Source,
    tier: &'s Tier,
    direction: Direction,
) -> impl Iterator<Item = (GroupId, &'s Rule)> {
    let groups = &tier.groups;
    let first_named = groups.iter().enumerate().filter(|(at, group)| !groups[..*at].contains(group));
    first_named.flat_map(move |(_, &id)| {
        let rules = source.groups.get(id.0 as usize).map_or(&[][..], |group| group.rules(direction));
        rules.iter().map(move |rule| (id, rule))
    })
}

fn misses(source: &Source, rule: &Rule, peer: Addr, probe: &Probe) -> Misses {
    let mut misses = Misses::default();
    misses.set(Miss::Family, families(rule).any(|family| family != peer.family()));
    misses.set(Miss::Peer, !is_peer(source, rule.peer, peer));
    // What cannot be read satisfies no rule that allows or passes by it, and every rule that denies by it.
    let unread = !rule.then.wants_header();
    match &rule.service {
        Service::Any => {}
        Service::Protocol(number) => misses.set(Miss::Protocol, probe.proto != *number),
        Service::NotProtocol(number) => misses.set(Miss::Protocol, probe.proto == *number),
        Service::Ports { protocol, .. } if probe.proto != protocol.number() => {
            misses.set(Miss::Protocol, true)
        }
        Service::Ports { destination, source, .. } => {
            let (from, to) = match probe.header {
                Header::Ports { source, destination } => (Some(source), Some(destination)),
                _ => (None, None),
            };
            misses.set(Miss::Port, !ports_match(destination.as_deref(), to, unread));
            misses.set(Miss::SourcePort, !ports_match(source.as_deref(), from, unread));
        }
        Service::Icmp { family, .. } if probe.proto != icmp_number(*family) => {
            misses.set(Miss::Protocol, true)
        }
        Service::Icmp { kinds, codes, .. } => {
            let (kind, code) = match probe.header {
                Header::Icmp { kind, code } => (Some(kind), Some(code)),
                _ => (None, None),
            };
            let both =
                bytes_match(kinds.as_deref(), kind, unread) && bytes_match(codes.as_deref(), code, unread);
            misses.set(Miss::Icmp, !both);
        }
    }
    misses.set(Miss::Dscp, rule.dscp.is_some_and(|set| !set.contains(probe.dscp)));
    if let Some(flags) = rule.tcp_flags {
        let matches = match probe.header {
            Header::Ports { .. } => flags.contains(probe.tcp_flags),
            _ => unread && !flags.is_empty(),
        };
        misses.set(Miss::TcpFlags, probe.proto != proto::TCP || !matches);
    }
    misses
}

/// The families that a rule binds itself to, by its own word, its prefix or its ICMP.
pub(crate) fn families(rule: &Rule) -> impl Iterator<Item = Family> {
    let by_peer = match rule.peer {
        Peer::Prefix { network, .. } => Some(network.family()),
        _ => None,
    };
    let by_service = match rule.service {
        Service::Icmp { family, .. } => Some(family),
        _ => None,
    };
    [rule.family, by_peer, by_service].into_iter().flatten()
}

fn is_peer(source: &Source, peer: Peer, addr: Addr) -> bool {
    let within = |network: Addr, len| network.family() == addr.family() && addr.in_prefix(network, len);
    match peer {
        Peer::Any => true,
        Peer::Prefix { network, len } => within(network, len),
        Peer::Group(group) => source
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.groups.contains(&group))
            .any(|endpoint| endpoint.addresses.iter().any(|&(network, len)| within(network, len))),
    }
}

fn ports_match(ranges: Option<&[PortRange]>, port: Option<u16>, unread: bool) -> bool {
    match (ranges, port) {
        (None, _) => true,
        (Some(ranges), Some(port)) => ranges.iter().any(|range| range.contains(port)),
        (Some(ranges), None) => unread && !ranges.is_empty(),
    }
}

fn bytes_match(wanted: Option<&[u8]>, value: Option<u8>, unread: bool) -> bool {
    match (wanted, value) {
        (None, _) => true,
        (Some(wanted), Some(value)) => wanted.contains(&value),
        (Some(wanted), None) => unread && !wanted.is_empty(),
    }
}

const fn icmp_number(family: Family) -> u8 {
    match family {
        Family::V4 => proto::ICMP,
        Family::V6 => proto::ICMPV6,
    }
}

#[cfg(test)]
mod tests;
