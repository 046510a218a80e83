//! The source form of one network's policy: groups of rules, and the endpoints that are in them.
//!
//! A rule says exactly what it matches and is never read wider than it is written: ports exist only beside a
//! protocol that has ports, ICMP types only beside the ICMP of one family, a prefix only reaches addresses of
//! its own family, and a header that could not be read satisfies no rule that allows by it.
//!
//! An endpoint's policy in one direction is a list of tiers, and a tier is the concatenation of its groups' rules, in
//! the tier's order of groups. In a tier the first rule that matches acts: it says the verdict, or passes the packet on to
//! the next tier. Where no rule matches, the tier passes or denies, as it says itself. What passes the last tier is
//! denied. Between rules that all allow, the order only chooses which of them is named.

use std::{num::NonZeroU16, sync::Arc};

use eastgate_wire::{
    Addr, DropReason, Family, Helper,
    view::{HeaderBits, Ip, Transport, proto},
};

/// A rule's number: whatever the configuration uses to find file and line again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RuleId(pub u32);

/// A security group: an index into [`Source::groups`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GroupId(pub u32);

/// Seen from the endpoint whose rules are asked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Direction {
    /// To the endpoint: the peer is the source.
    Ingress,
    /// From the endpoint: the peer is the destination.
    Egress,
}

/// A service chain that flows are led through.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ChainId(pub NonZeroU16);

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Action {
    /// It passes.
    Allow,
    /// It is dropped silently.
    Deny,
    /// It is dropped, and its sender told.
    Reject,
}

/// What a rule says of the packets that it settles.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Verdict {
    /// What becomes of them
    pub action: Action,
    /// Flows that begin or are refused by it are logged.
    pub log: bool,
    /// It is being tried out: what it would deny or reject passes, and that it would have is told. Settled is settled:
    /// no tier behind it is asked.
    pub audit: bool,
    /// What passes is led through this chain.
    pub chain: Option<ChainId>,
    /// Of the flows that it allows, each source may have or begin so many only: whoever follows flows counts them. With
    /// `audit`, that is only being tried out.
    pub limited: bool,
    /// What it allows begins no flow: each packet is decided by itself, and what answers it, too.
    pub stateless: bool,
    /// What flows that it allows announce is to be expected, as this helper reads it.
    pub helper: Option<Helper>,
}

/// What a rule does with what it matches.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Then {
    /// It settles it.
    Settle(Verdict),
    /// It leaves it to the next tier.
    Pass,
}

/// What a tier does where none of its rules matches.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum TierEnd {
    /// It leaves it to the next tier.
    Pass,
    /// It denies.
    Deny,
}

/// The other end of the conversation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Peer {
    /// Every address of both families
    Any,
    /// The addresses of `network`'s own family inside the prefix: `::/0` is no IPv4 address.
    Prefix {
        /// Any address in it; bits behind `len` are ignored.
        network: Addr,
        /// Counted in the 128-bit form: an IPv4 prefix has 96 added.
        len: u8,
    },
    /// The addresses of the endpoints in this group
    Group(GroupId),
}

/// A protocol whose header begins with a source and a destination port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PortProtocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// DCCP (RFC 4340)
    Dccp,
    /// SCTP (RFC 9260)
    Sctp,
    /// UDP-Lite (RFC 3828)
    UdpLite,
}

/// Ports from `first` to `last`, both included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// A port range that ends before it begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the port range {first}-{last} ends before it begins")]
pub struct BadPortRange {
    /// Where it was to begin
    pub first: u16,
    /// Where it was to end
    pub last: u16,
}

/// What traffic a rule is about. In every list, `None` is "any" and an empty list matches nothing, so a list
/// that lost its members does not open up.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Service {
    /// Every protocol
    Any,
    /// One protocol by number, whatever its header says
    Protocol(u8),
    /// Every protocol but the one with this number
    NotProtocol(u8),
    /// A protocol with ports
    Ports {
        /// Which
        protocol: PortProtocol,
        /// Destination ports
        destination: Option<Vec<PortRange>>,
        /// Source ports
        source: Option<Vec<PortRange>>,
    },
    /// ICMP over IPv4 or ICMPv6 over IPv6; types and codes combine freely.
    Icmp {
        /// Of which family
        family: Family,
        /// Types
        kinds: Option<Vec<u8>>,
        /// Codes
        codes: Option<Vec<u8>>,
    },
}

/// Values of DSCP (RFC 2474), which are 0 to 63. An empty set matches nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct DscpSet(u64);

/// TCP flags that have to be set or not: of those in `mask`, exactly those in `set`. With one in `set` that is not in `mask`,
/// nothing matches.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TcpFlags {
    /// Flags that are looked at, see [`eastgate_wire::view::tcp_flags`]
    pub mask: u8,
    /// Those of them that are set
    pub set: u8,
}

/// One rule.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Rule {
    /// Its number
    pub id: RuleId,
    /// Only this family
    pub family: Option<Family>,
    /// With whom
    pub peer: Peer,
    /// About what
    pub service: Service,
    /// Only packets with one of these; of a flow, its first packet
    pub dscp: Option<DscpSet>,
    /// Only TCP, and of it packets with these flags; of a flow, its first packet
    pub tcp_flags: Option<TcpFlags>,
    /// What then
    pub then: Then,
}

/// A security group: ordered rules for each direction.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Group {
    /// What may come to its members
    pub ingress: Vec<Rule>,
    /// What its members may send
    pub egress: Vec<Rule>,
}

/// The most tiers that a policy can have in one direction
pub const MAX_TIERS: usize = 4;

/// One tier of a policy in one direction.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Tier {
    /// The groups whose rules of that direction it consists of, in the order in which they hold; naming one twice changes
    /// nothing.
    pub groups: Vec<GroupId>,
    /// What it does where none of them matches
    pub end: TierEnd,
}

/// What the policy knows of one endpoint.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct EndpointRules {
    /// Its addresses and allowed address pairs, as prefixes in the 128-bit form
    pub addresses: Vec<(Addr, u8)>,
    /// The groups that it is in: rules that name one of them as their peer mean it.
    pub groups: Vec<GroupId>,
    /// What may come to it: at most [`MAX_TIERS`]. Most endpoints have the lists of many others.
    pub ingress: Arc<Vec<Tier>>,
    /// What it may send: at most [`MAX_TIERS`]
    pub egress: Arc<Vec<Tier>>,
}

/// One network's policy.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Source {
    /// The groups; [`GroupId`] is the index. One that is as it was may be the same allocation, which is seen at once.
    pub groups: Vec<Arc<Group>>,
    /// The endpoints; [`eastgate_wire::EndpointId`] is the index.
    pub endpoints: Vec<EndpointRules>,
}

/// What of a packet the rules look at, beside the peer's address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Probe {
    /// IP protocol number
    pub proto: u8,
    /// What was read of the transport header
    pub header: Header,
    /// DSCP
    pub dscp: u8,
    /// TCP flags: 0 where it is not TCP. They count as read where ports were.
    pub tcp_flags: u8,
}

/// What was read of a transport header.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Header {
    /// Of a [`PortProtocol`]
    Ports {
        /// Source port
        source: u16,
        /// Destination port
        destination: u16,
    },
    /// Of ICMP or ICMPv6
    Icmp {
        /// Type
        kind: u8,
        /// Code
        code: u8,
    },
    /// Nothing: the protocol has no such fields, or the parser does not read them. A rule that allows by ports
    /// or types, or passes on by them, does not match then; one that denies by them does, since it might have.
    Unread,
}

/// What the rules say of a packet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Decision {
    /// What to do with it
    pub verdict: Verdict,
    /// The rule that decided; none when none did, which denies.
    pub rule: Option<RuleId>,
}

impl Verdict {
    /// It passes, and that is all.
    pub const ALLOW: Self = Self::only(Action::Allow);
    /// It is dropped, and that is all.
    pub const DENY: Self = Self::only(Action::Deny);
    /// It is dropped, its sender is told, and that is all.
    pub const REJECT: Self = Self::only(Action::Reject);

    /// This action, and nothing beside it.
    #[must_use]
    pub const fn only(action: Action) -> Self {
        Self { action, log: false, audit: false, chain: None, limited: false, stateless: false, helper: None }
    }

    /// Does a packet go on?
    #[must_use]
    pub const fn passes(self) -> bool {
        matches!(self.action, Action::Allow) || self.audit
    }
}

impl Then {
    /// What this settles allows, or settles nothing yet: it takes a header that was read to match.
    pub(crate) const fn wants_header(self) -> bool {
        matches!(self, Self::Pass | Self::Settle(Verdict { action: Action::Allow, .. }))
    }

    /// What flows that this allows announce is expected.
    pub(crate) const fn has_helper(self) -> bool {
        matches!(self, Self::Settle(Verdict { helper: Some(_), .. }))
    }

    /// What this allows begins no flow.
    pub(crate) const fn is_stateless(self) -> bool {
        matches!(self, Self::Settle(Verdict { stateless: true, .. }))
    }
}

impl EndpointRules {
    /// An endpoint of these security groups: what a rule of any of them allows passes, in either direction.
    #[must_use]
    pub fn of_groups(addresses: Vec<(Addr, u8)>, groups: Vec<GroupId>) -> Self {
        let tiers = Arc::new(vec![Tier { groups: groups.clone(), end: TierEnd::Deny }]);
        Self { addresses, ingress: tiers.clone(), egress: tiers, groups }
    }

    /// Its policy in one direction.
    #[must_use]
    pub fn tiers(&self, direction: Direction) -> &[Tier] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

impl Decision {
    /// No rule matched.
    pub const DEFAULT_DENY: Self = Self { verdict: Verdict::DENY, rule: None };

    /// Why the packet is dropped, if it is.
    #[must_use]
    pub const fn drop_reason(self, direction: Direction) -> Option<DropReason> {
        if self.verdict.passes() { None } else { self.denial(direction) }
    }

    /// Why the packet is dropped, or would be if the rule were not being tried out.
    #[must_use]
    pub const fn denial(self, direction: Direction) -> Option<DropReason> {
        match (self.verdict.action, self.rule, direction) {
            (Action::Allow, _, _) => None,
            (_, None, Direction::Ingress) => Some(DropReason::IngressDenied),
            (_, None, Direction::Egress) => Some(DropReason::EgressDenied),
            (_, Some(_), Direction::Ingress) => Some(DropReason::IngressRule),
            (_, Some(_), Direction::Egress) => Some(DropReason::EgressRule),
        }
    }
}

impl Rule {
    /// A rule that asks for nothing else.
    #[must_use]
    pub const fn new(id: RuleId, peer: Peer, service: Service, then: Then) -> Self {
        Self { id, family: None, peer, service, dscp: None, tcp_flags: None, then }
    }
}

impl Probe {
    /// Of a packet with DSCP 0 and, if it is TCP, no flags.
    #[must_use]
    pub const fn new(proto: u8, header: Header) -> Self {
        Self { proto, header, dscp: 0, tcp_flags: 0 }
    }

    /// What the rules look at in this packet.
    ///
    /// # Errors
    /// A fragment that does not hold the transport header has nothing to be judged by: it takes the verdict of
    /// its datagram, or none.
    pub const fn of(ip: &Ip) -> Result<Self, DropReason> {
        let header = match ip.transport {
            Transport::Tcp(tcp) => Header::Ports { source: tcp.sport, destination: tcp.dport },
            Transport::Udp { sport, dport } | Transport::Ports { sport, dport } => {
                Header::Ports { source: sport, destination: dport }
            }
            Transport::Sctp(sctp) => Header::Ports { source: sctp.sport, destination: sctp.dport },
            Transport::Icmp(icmp) => Header::Icmp { kind: icmp.kind, code: icmp.code },
            Transport::Other => Header::Unread,
            Transport::LaterFragment => return Err(DropReason::FragmentFirstMissing),
            Transport::Incomplete => return Err(DropReason::FragmentTiny),
        };
        let HeaderBits { dscp, tcp_flags } = ip.header_bits();
        Ok(Self { proto: ip.proto, header, dscp, tcp_flags })
    }
}

impl Group {
    /// The rules of both directions.
    pub fn all_rules(&self) -> impl Iterator<Item = &Rule> {
        self.ingress.iter().chain(&self.egress)
    }

    /// The rules of one direction.
    #[must_use]
    pub fn rules(&self, direction: Direction) -> &[Rule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

impl DscpSet {
    /// No value
    pub const EMPTY: Self = Self(0);
    /// All values
    pub const ALL: Self = Self(u64::MAX);

    /// With this value in it, too; one above 63 is none.
    #[must_use]
    pub const fn with(self, dscp: u8) -> Self {
        if dscp < 64 { Self(self.0 | 1 << dscp) } else { self }
    }

    /// Is this value in it?
    #[must_use]
    pub const fn contains(self, dscp: u8) -> bool {
        dscp < 64 && self.0 >> dscp & 1 != 0
    }
}

impl FromIterator<u8> for DscpSet {
    fn from_iter<T: IntoIterator<Item = u8>>(values: T) -> Self {
        values.into_iter().fold(Self::EMPTY, Self::with)
    }
}

impl TcpFlags {
    /// Are these flags as they have to be?
    #[must_use]
    pub const fn contains(self, flags: u8) -> bool {
        flags & self.mask == self.set
    }

    /// Can no flags be as they would have to be?
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.set & !self.mask != 0
    }
}

impl PortProtocol {
    /// Its IP protocol number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => proto::TCP,
            Self::Udp => proto::UDP,
            Self::Dccp => 33,
            Self::Sctp => 132,
            Self::UdpLite => 136,
        }
    }

    /// The protocol with this number, if it has ports.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            proto::TCP => Some(Self::Tcp),
            proto::UDP => Some(Self::Udp),
            33 => Some(Self::Dccp),
            132 => Some(Self::Sctp),
            136 => Some(Self::UdpLite),
            _ => None,
        }
    }
}

impl PortRange {
    /// All ports, 0 included.
    pub const ALL: Self = Self { first: 0, last: u16::MAX };

    /// The ports from `first` to `last`.
    ///
    /// # Errors
    /// [`BadPortRange`] when `last` is below `first`.
    pub const fn new_checked(first: u16, last: u16) -> Result<Self, BadPortRange> {
        if first <= last { Ok(Self { first, last }) } else { Err(BadPortRange { first, last }) }
    }

    /// One port.
    #[must_use]
    pub const fn single(port: u16) -> Self {
        Self { first: port, last: port }
    }

    /// The lowest port.
    #[must_use]
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The highest port.
    #[must_use]
    pub const fn last(self) -> u16 {
        self.last
    }

    /// Is this port in it?
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_range_does_not_run_backwards() {
        assert_eq!(PortRange::new_checked(2, 1), Err(BadPortRange { first: 2, last: 1 }));
        let range = PortRange::new_checked(1, 2).unwrap();
        assert!(!range.contains(0) && range.contains(1) && range.contains(2) && !range.contains(3));
    }

    #[test]
    fn protocols_with_ports_are_found_by_number() {
        for number in 0..=u8::MAX {
            assert!(PortProtocol::from_number(number).is_none_or(|p| p.number() == number));
        }
        assert_eq!((0..=u8::MAX).filter_map(PortProtocol::from_number).count(), 5);
    }

    #[test]
    fn a_drop_names_direction_and_cause() {
        let by_rule = Decision { verdict: Verdict::REJECT, rule: Some(RuleId(7)) };
        assert_eq!(by_rule.drop_reason(Direction::Egress), Some(DropReason::EgressRule));
        assert_eq!(by_rule.drop_reason(Direction::Ingress), Some(DropReason::IngressRule));
        assert_eq!(Decision::DEFAULT_DENY.drop_reason(Direction::Egress), Some(DropReason::EgressDenied));
        assert_eq!(Decision::DEFAULT_DENY.drop_reason(Direction::Ingress), Some(DropReason::IngressDenied));
        let allow = Decision { verdict: Verdict::ALLOW, rule: Some(RuleId(7)) };
        assert_eq!(allow.drop_reason(Direction::Ingress), None);
    }

    #[test]
    fn what_is_tried_out_passes_and_says_what_it_would_have_been() {
        for (verdict, would) in [
            (Verdict::ALLOW, None),
            (Verdict::DENY, Some(DropReason::EgressRule)),
            (Verdict::REJECT, Some(DropReason::EgressRule)),
        ] {
            let tried = Decision { verdict: Verdict { audit: true, ..verdict }, rule: Some(RuleId(7)) };
            assert_eq!(tried.drop_reason(Direction::Egress), None);
            assert_eq!(tried.denial(Direction::Egress), would);
        }
    }
}
