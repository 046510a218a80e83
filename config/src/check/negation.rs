//! `not` of a rule: keys that mean all but what is written.
//!
//! Each becomes what is left, so that whoever reads rules has nothing to invert: other ports, other prefixes. What is left of prefixes
//! is of their own family, as with iptables, whose rules are of one family each.

use eastgate_wire::Family;
use ipnet::IpNet;

use super::rule::Direction;
use crate::{
    leaf::{PortRange, RuleKey},
    model::{Peer, Protocol},
    policies::{family_of, whole},
    prefixes::without,
    problem::Problem,
    read::{At, Reader, Span},
    tables::{PolicyRuleTable, RuleTable},
};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// The keys of a rule that are negated.
#[derive(Clone, Copy)]
pub(super) struct Negation<'r>(&'r [At<RuleKey>]);

impl<'r> Negation<'r> {
    /// Those of a rule, which is one of a policy where there is more to it; what it has not, or names twice, is reported.
    pub(super) fn of(
        rule: &'r RuleTable,
        more: Option<&PolicyRuleTable>,
        direction: Direction,
        reader: &mut Reader,
    ) -> Self {
        let keys = &rule.not.value.items;
        for (at, key) in keys.iter().enumerate() {
            let is_there = match key.value {
                RuleKey::Proto => rule.proto.value.0 != "any",
                RuleKey::Ports => !rule.ports.is_missing(),
                RuleKey::SourcePorts => !rule.source_ports.is_missing(),
                RuleKey::IcmpType => !rule.icmp_type.is_missing(),
                RuleKey::From => direction == Direction::Ingress,
                RuleKey::To => direction == Direction::Egress,
                RuleKey::Own => more.is_some_and(|more| !more.own.is_missing()),
                RuleKey::Dscp => more.is_some_and(|more| !more.dscp.is_missing()),
                RuleKey::TcpFlags => more.is_some_and(|more| !more.tcp_flags.is_missing()),
            };
            if !is_there {
                reader.report(Problem::NotNothing { key: key_name(key.value) }, key.span);
            } else if keys.iter().take(at).any(|before| before.value == key.value) {
                reader.report(Problem::NameRepeated { name: key_name(key.value).to_owned() }, key.span);
            }
        }
        Self(keys)
    }

    pub(super) fn has(self, key: RuleKey) -> bool {
        self.0.iter().any(|at| at.value == key)
    }

    /// The protocol, or all but it.
    pub(super) fn protocol(self, protocol: Protocol) -> Protocol {
        match protocol {
            Protocol::Icmp if self.has(RuleKey::Proto) => Protocol::NotIcmp,
            Protocol::Number(number) if self.has(RuleKey::Proto) => Protocol::NotNumber(number),
            other => other,
        }
    }

    /// Ports that are sorted and disjoint, or all but them.
    pub(super) fn ports(
        self,
        key: RuleKey,
        ports: Vec<PortRange>,
        written: Option<Span>,
        reader: &mut Reader,
    ) -> Vec<PortRange> {
        if ports.is_empty() || !self.has(key) {
            return ports;
        }
        let left = PortRange::others(&ports);
        self.report_if_empty(key, left.is_empty(), written, reader);
        left
    }

    /// DSCPs, or all but them.
    pub(super) fn dscp(self, dscp: Box<[u8]>, written: Option<Span>, reader: &mut Reader) -> Box<[u8]> {
        if dscp.is_empty() || !self.has(RuleKey::Dscp) {
            return dscp;
        }
        let left: Box<[u8]> = (0..64).filter(|value| !dscp.contains(value)).collect();
        self.report_if_empty(RuleKey::Dscp, left.is_empty(), written, reader);
        left
    }

    /// The other side, or everyone else.
    pub(super) fn peers(
        self,
        direction: Direction,
        peers: Vec<At<Peer>>,
        written: Option<Span>,
        reader: &mut Reader,
    ) -> Vec<At<Peer>> {
        let key = if direction == Direction::Ingress { RuleKey::From } else { RuleKey::To };
        let Some(span) = written.filter(|_| self.has(key)) else { return peers };
        let mut taken: Vec<IpNet> = Vec::new();
        for At { value, span } in &peers {
            match value {
                Peer::Any => taken.extend(FAMILIES.map(whole)),
                Peer::Prefix(net) => taken.push(*net),
                Peer::Except(net, except) => taken.extend(without(*net, except)),
                named => {
                    reader.report(Problem::NotNamed { peer: named.to_string() }, *span);
                    return peers;
                }
            }
        }
        taken.sort_unstable();
        taken.dedup();
        let of = |family| taken.iter().copied().filter(|net| family_of(net) == family).collect::<Vec<_>>();
        let families = FAMILIES.map(|family| (whole(family), of(family)));
        let left = families.into_iter().filter(|(_, taken)| !taken.is_empty());
        let left = left.filter(|(all, taken)| !without(*all, taken).is_empty());
        let left: Vec<At<Peer>> =
            left.map(|(all, taken)| At { value: Peer::Except(all, taken.into()), span }).collect();
        self.report_if_empty(key, left.is_empty(), written, reader);
        left
    }

    /// The endpoint's own addresses, or all others of their families.
    pub(super) fn own(self, own: Box<[IpNet]>, written: Option<Span>, reader: &mut Reader) -> Box<[IpNet]> {
        if own.is_empty() || !self.has(RuleKey::Own) {
            return own;
        }
        let families = FAMILIES.into_iter().filter(|family| own.iter().any(|net| family_of(net) == *family));
        let left: Box<[IpNet]> = families.flat_map(|family| without(whole(family), &own)).collect();
        self.report_if_empty(RuleKey::Own, left.is_empty(), written, reader);
        left
    }

    fn report_if_empty(self, key: RuleKey, is_empty: bool, written: Option<Span>, reader: &mut Reader) {
        if let Some(span) = written.filter(|_| is_empty) {
            reader.report(Problem::NotAll { key: key_name(key) }, span);
        }
    }
}

const fn key_name(key: RuleKey) -> &'static str {
    match key {
        RuleKey::Proto => "proto",
        RuleKey::Ports => "ports",
        RuleKey::SourcePorts => "source_ports",
        RuleKey::IcmpType => "icmp_type",
        RuleKey::From => "from",
        RuleKey::To => "to",
        RuleKey::Own => "own",
        RuleKey::Dscp => "dscp",
        RuleKey::TcpFlags => "tcp_flags",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_ports_are_all_but_these() {
        for (ports, left) in [
            (vec![(22, 22)], vec![(0, 21), (23, 65535)]),
            (vec![(0, 1023)], vec![(1024, 65535)]),
            (vec![(1024, 65535)], vec![(0, 1023)]),
            (vec![(0, 0), (65535, 65535)], vec![(1, 65534)]),
            (vec![(0, 65535)], vec![]),
        ] {
            let of = |list: Vec<(u16, u16)>| -> Vec<PortRange> {
                list.into_iter().map(|(first, last)| PortRange { first, last }).collect()
            };
            assert_eq!(PortRange::others(&of(ports.clone())), of(left.clone()), "{ports:?}");
            if !left.is_empty() {
                assert_eq!(PortRange::others(&of(left)), of(ports));
            }
        }
    }
}
