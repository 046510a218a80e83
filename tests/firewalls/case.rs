//! Made-up policies that iptables and nftables can say too.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use eastgate_wire::MacAddr;

use super::dice::Dice;

/// So many machines, all on one host.
pub const MACHINES: usize = 5;

/// The ports that probes go to; rules name them, their neighbours and ranges of them.
pub const PORTS: [u16; 5] = [22, 53, 80, 443, 8080];

/// As many sets, and as many blocks with another one taken out
pub const SETS: usize = 2;

/// Who may reach whom.
#[derive(Clone, Debug)]
pub struct Case {
    pub number: u16,
    pub groups: Vec<Group>,
    /// In the order of their tiers, and in a tier in the order in which they are asked
    pub policies: Vec<Policy>,
    /// The blocks of each set
    pub sets: [Vec<(u8, u8)>; SETS],
    /// Blocks, and what of them is not meant
    pub excepts: [[(u8, u8); 2]; SETS],
    /// Machine -> its groups
    pub members: [Vec<usize>; MACHINES],
    /// Nobody keeps state: the groups are stateless, there are no policies, and answers are asked about as well.
    pub stateless: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Group {
    pub ingress: Vec<Rule>,
    pub egress: Vec<Rule>,
}

/// Ordered rules, before or after the groups.
#[derive(Clone, Debug)]
pub struct Policy {
    pub tier: Tier,
    pub applies: Applies,
    pub denies_at_end: bool,
    pub ingress: Vec<(Rule, Action)>,
    pub egress: Vec<(Rule, Action)>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Tier {
    SiteBefore,
    TenantBefore,
    TenantAfter,
    SiteAfter,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Applies {
    All,
    Group(usize),
    Machine(usize),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    Allow,
    Deny,
    Pass,
}

/// What a machine has in one direction: rules, and whether what none of them matches is denied or goes on.
pub struct Level<'c> {
    pub rules: Vec<(&'c Rule, Action)>,
    pub denies_at_end: bool,
}

#[derive(Clone, Debug)]
pub struct Rule {
    pub v6: Option<bool>,
    pub service: Service,
    pub peer: Peer,
    pub not: Not,
}

/// What a rule means all but: each by itself, as `!` of iptables and `!=` of nftables.
#[derive(Clone, Copy, Debug, Default)]
pub struct Not {
    /// The protocol, where nothing else of the service is said
    pub proto: bool,
    pub to: bool,
    pub from: bool,
    pub icmp: bool,
    pub peer: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Service {
    Any,
    /// `tcp` or `udp`, destination and source ports; none for any
    Ports {
        protocol: &'static str,
        to: Vec<(u16, u16)>,
        from: Vec<(u16, u16)>,
    },
    /// ICMP of the rule's family, with type and code; the family is said
    Icmp {
        kind: Option<u8>,
        code: Option<u8>,
    },
    Protocol(u8),
}

#[derive(Clone, Copy, Debug)]
pub enum Peer {
    Any,
    /// Of machines by number: the addresses from `first`, `1 << bits` of them; of the family that the rule says
    Block {
        first: u8,
        bits: u8,
    },
    Group(usize),
    Set(usize),
    Except(usize),
}

impl Tier {
    const fn is_site(self) -> bool {
        matches!(self, Self::SiteBefore | Self::SiteAfter)
    }

    const fn is_before(self) -> bool {
        matches!(self, Self::SiteBefore | Self::TenantBefore)
    }
}

impl Case {
    pub fn new(number: u16, dice: &mut Dice) -> Self {
        let count = 1 + dice.below(4);
        let group = |dice: &mut Dice| Group { ingress: rules(dice, count), egress: rules(dice, count) };
        let groups = (0..count).map(|_| group(dice)).collect();
        let members = std::array::from_fn(|_| {
            let mut own: Vec<usize> = (0..count).filter(|_| dice.chance(45)).collect();
            if own.is_empty() {
                own.push(dice.below(count));
            }
            own
        });
        let block = |dice: &mut Dice| (dice.below(8) as u8, dice.below(3) as u8);
        let sets = std::array::from_fn(|_| (0..1 + dice.below(3)).map(|_| block(dice)).collect());
        // The outer one is of eight addresses, all that there are.
        let excepts = std::array::from_fn(|_| [(0, 3), block(dice)]);
        let mut policies: Vec<Policy> = (0..dice.below(5)).map(|_| Policy::new(dice, count)).collect();
        policies.sort_by_key(|policy| policy.tier);
        Self { number, groups, policies, sets, excepts, members, stateless: false }
    }

    pub fn without_state(self) -> Self {
        Self { policies: Vec::new(), stateless: true, ..self }
    }

    /// The levels that packets of a machine go through.
    pub fn levels(&self, machine: usize, outwards: bool) -> Vec<Level<'_>> {
        let applies = |policy: &&Policy| match policy.applies {
            Applies::All => true,
            Applies::Group(group) => self.members[machine].contains(&group),
            Applies::Machine(only) => only == machine,
        };
        let of = |tiers: &[Tier]| {
            let policies = self.policies.iter().filter(applies).filter(|policy| tiers.contains(&policy.tier));
            let policies = policies.filter(|policy| !policy.rules(outwards).is_empty());
            let rules = policies.clone().flat_map(|policy| policy.rules(outwards));
            Level {
                rules: rules.map(|(rule, action)| (rule, *action)).collect(),
                denies_at_end: policies.clone().any(|policy| policy.denies_at_end),
            }
        };
        let of_groups = self.members[machine].iter().flat_map(|group| match outwards {
            true => &self.groups[*group].egress,
            false => &self.groups[*group].ingress,
        });
        let groups =
            Level { rules: of_groups.map(|rule| (rule, Action::Allow)).collect(), denies_at_end: false };
        vec![
            of(&[Tier::SiteBefore]),
            of(&[Tier::TenantBefore]),
            groups,
            of(&[Tier::TenantAfter, Tier::SiteAfter]),
        ]
    }

    pub const fn mac(machine: usize) -> MacAddr {
        MacAddr([2, 0, 0, 0, 9, machine as u8 + 1])
    }

    /// Each case has addresses of its own, so that nothing that is remembered of another one counts.
    pub fn address(&self, machine: usize, v6: bool) -> IpAddr {
        self.address_of(machine as u8 + 1, v6)
    }

    fn address_of(&self, last: u8, v6: bool) -> IpAddr {
        let [high, low] = self.number.to_be_bytes();
        if v6 {
            Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, self.number, last.into()).into()
        } else {
            Ipv4Addr::new(10, 100 + high, low, last).into()
        }
    }

    /// The prefix that a block of addresses is, in one family
    pub fn block(&self, first: u8, bits: u8, v6: bool) -> String {
        let first = first >> bits << bits;
        format!("{}/{}", self.address_of(first, v6), if v6 { 128 - bits } else { 32 - bits })
    }

    /// Who is in a group
    pub fn members_of(&self, group: usize) -> impl Iterator<Item = usize> {
        (0..MACHINES).filter(move |machine| self.members[*machine].contains(&group))
    }

    /// As eastgate has it.
    pub fn toml(&self) -> String {
        let mut text = "[host.box]\nvtep = \"192.0.2.1\"\ndevice = \"under\"\n[limits]\nunreplied = 100000\n\
                        [tenant.t.network.n]\nvni = 77\nsubnets = [\"10.0.0.0/8\", \"fd09::/64\"]\n\
                        [tenant.t.network.n.limits]\nunreplied = 100000\nendpoint_unreplied = 100000\n"
            .to_owned();
        for (number, group) in self.groups.iter().enumerate() {
            let _ = writeln!(text, "[tenant.t.group.g{number}]\nstateful = {}", !self.stateless);
            for (direction, key, rules) in
                [("ingress", "from", &group.ingress), ("egress", "to", &group.egress)]
            {
                let rules: Vec<String> = rules.iter().map(|rule| self.rule(rule, key)).collect();
                let _ = writeln!(text, "{direction} = [\n  {}\n]", rules.join(",\n  "));
            }
        }
        for (number, blocks) in self.sets.iter().enumerate() {
            let of =
                |v6| blocks.iter().map(move |(first, bits)| format!("\"{}\"", self.block(*first, *bits, v6)));
            let mut addresses: Vec<String> = of(false).chain(of(true)).collect();
            addresses.sort();
            addresses.dedup();
            let _ = writeln!(text, "[tenant.t.set.s{number}]\naddresses = [{}]", addresses.join(", "));
        }
        for (number, policy) in self.policies.iter().enumerate() {
            self.policy(&mut text, number, policy);
        }
        for (machine, groups) in self.members.iter().enumerate() {
            let groups: Vec<String> = groups.iter().map(|group| format!("\"g{group}\"")).collect();
            let _ = writeln!(
                text,
                "[tenant.t.endpoint.m{machine}]\nnetwork = \"n\"\nhost = \"box\"\nport = \"v{machine}\"\nmac = \"{}\"\n\
                 addresses = [\"{}\", \"{}\"]\ngroups = [{}]",
                Self::mac(machine),
                self.address(machine, false),
                self.address(machine, true),
                groups.join(", ")
            );
        }
        text
    }

    fn policy(&self, text: &mut String, number: usize, policy: &Policy) {
        let site = policy.tier.is_site();
        let path = if site { "policy" } else { "tenant.t.policy" };
        let of = if site { "t/" } else { "" };
        let applies = match policy.applies {
            Applies::All if site => "site".to_owned(),
            Applies::All => "tenant".to_owned(),
            Applies::Group(group) => format!("group:{of}g{group}"),
            Applies::Machine(machine) => format!("endpoint:{of}m{machine}"),
        };
        // The order is by number where they are of one tier: names say the contrary.
        let _ = writeln!(
            text,
            "[{path}.p{}]\nposition = \"{}\"\norder = {number}\napplies_to = \"{applies}\"",
            9 - number,
            if policy.tier.is_before() { "before" } else { "after" }
        );
        if policy.denies_at_end {
            text.push_str("end = \"deny\"\n");
        }
        for (direction, key, rules) in
            [("ingress", "from", &policy.ingress), ("egress", "to", &policy.egress)]
        {
            let rules = rules.iter().map(|(rule, action)| {
                let action = format!("{action:?}").to_lowercase();
                self.rule(rule, key).replacen("{ ", &format!("{{ action = \"{action}\", "), 1)
            });
            let rules: Vec<String> = rules.collect();
            let _ = writeln!(text, "{direction} = [\n  {}\n]", rules.join(",\n  "));
        }
    }

    fn rule(&self, rule: &Rule, key: &str) -> String {
        let ranges = |key: &str, ranges: &[(u16, u16)]| match ranges {
            [] => String::new(),
            some => {
                let some: Vec<String> =
                    some.iter().map(|(first, last)| format!("\"{first}-{last}\"")).collect();
                format!(", {key} = [{}]", some.join(", "))
            }
        };
        let service = match &rule.service {
            Service::Any => "proto = \"any\"".to_owned(),
            Service::Ports { protocol, to, from } => {
                format!("proto = \"{protocol}\"{}{}", ranges("ports", to), ranges("source_ports", from))
            }
            Service::Icmp { kind, code } => {
                let name = if rule.v6 == Some(true) { "icmpv6" } else { "icmp" };
                let number = |key: &str, number: &Option<u8>| {
                    number.map_or_else(String::new, |number| format!(", {key} = {number}"))
                };
                format!("proto = \"{name}\"{}{}", number("icmp_type", kind), number("icmp_code", code))
            }
            Service::Protocol(number) => format!("proto = {number}"),
        };
        let family = match rule.v6 {
            Some(v6) => format!(", family = \"{}\"", if v6 { "ipv6" } else { "ipv4" }),
            None => String::new(),
        };
        let v6 = rule.v6 == Some(true);
        let peer = match rule.peer {
            Peer::Any => "\"any\"".to_owned(),
            Peer::Block { first, bits } => format!("\"{}\"", self.block(first, bits, v6)),
            Peer::Group(group) => format!("\"group:g{group}\""),
            Peer::Set(set) => format!("\"set:s{set}\""),
            Peer::Except(number) => {
                let [outer, inner] = self.excepts[number].map(|(first, bits)| self.block(first, bits, v6));
                format!("{{ prefix = \"{outer}\", except = [\"{inner}\"] }}")
            }
        };
        let negated = [
            (rule.not.proto, "proto"),
            (rule.not.to, "ports"),
            (rule.not.from, "source_ports"),
            (rule.not.icmp, "icmp_type"),
            (rule.not.peer, key),
        ];
        let negated: Vec<String> =
            negated.iter().filter(|(is, _)| *is).map(|(_, key)| format!("\"{key}\"")).collect();
        let not =
            if negated.is_empty() { String::new() } else { format!(", not = [{}]", negated.join(", ")) };
        format!("{{ {service}{family}, {key} = {peer}{not} }}")
    }
}

impl Policy {
    fn new(dice: &mut Dice, groups: usize) -> Self {
        let tier = dice.one_of(&[Tier::SiteBefore, Tier::TenantBefore, Tier::TenantAfter, Tier::SiteAfter]);
        let rules = |dice: &mut Dice| -> Vec<(Rule, Action)> {
            (0..dice.below(4))
                .map(|_| {
                    let actions = [Action::Allow, Action::Deny, Action::Pass];
                    let action = dice.one_of(if tier.is_before() { &actions } else { &actions[..2] });
                    // What is a tenant's is not there for the site.
                    (rule(dice, if tier.is_site() { 0 } else { groups }), action)
                })
                .collect()
        };
        let (mut ingress, egress) = (rules(dice), rules(dice));
        if ingress.is_empty() && egress.is_empty() {
            ingress.push((rule(dice, 0), Action::Deny));
        }
        let applies = match dice.below(4) {
            0..=1 => Applies::All,
            2 => Applies::Group(dice.below(groups)),
            _ => Applies::Machine(dice.below(MACHINES)),
        };
        Self { tier, applies, denies_at_end: tier.is_before() && dice.chance(25), ingress, egress }
    }

    fn rules(&self, outwards: bool) -> &[(Rule, Action)] {
        if outwards { &self.egress } else { &self.ingress }
    }
}

fn rules(dice: &mut Dice, groups: usize) -> Vec<Rule> {
    (0..dice.below(5)).map(|_| rule(dice, groups)).collect()
}

/// A rule; where there are no groups it names no sets either.
fn rule(dice: &mut Dice, groups: usize) -> Rule {
    let service = match dice.below(10) {
        0 => Service::Any,
        1..=5 => Service::Ports {
            protocol: dice.one_of(&["tcp", "udp"]),
            to: ranges(dice, &PORTS),
            from: if dice.chance(20) { ranges(dice, &[20_000, 20_100, 20_200]) } else { vec![] },
        },
        6..=7 => {
            let kind = dice.one_of(&[None, Some(8), Some(13), Some(128)]);
            let code = kind.and_then(|_| dice.one_of(&[None, Some(0), Some(1)]));
            Service::Icmp { kind, code }
        }
        _ => Service::Protocol(dice.one_of(&[6, 17, 47, 50, 112])),
    };
    let peer = match dice.below(12) {
        0..=3 => Peer::Any,
        7..=8 if groups > 0 => Peer::Group(dice.below(groups)),
        9..=10 if groups > 0 => Peer::Set(dice.below(SETS)),
        11 => Peer::Except(dice.below(SETS)),
        _ => Peer::Block { first: dice.below(8) as u8, bits: dice.below(4) as u8 },
    };
    let of_one_family =
        matches!(service, Service::Icmp { .. }) || matches!(peer, Peer::Block { .. } | Peer::Except(_));
    let v6 = (of_one_family || dice.chance(20)).then(|| dice.chance(50));
    let mut some = |can_be: bool| can_be && dice.chance(30);
    let not = Not {
        proto: some(matches!(service, Service::Protocol(_) | Service::Icmp { kind: None, .. })),
        to: some(matches!(&service, Service::Ports { to, .. } if !to.is_empty())),
        // `multiport` is there for one direction only.
        from: some(matches!(&service, Service::Ports { from, .. } if from.len() == 1)),
        icmp: some(matches!(service, Service::Icmp { kind: Some(_), .. })),
        peer: some(matches!(peer, Peer::Block { .. } | Peer::Except(_))),
    };
    Rule { v6, service, peer, not }
}

fn ranges(dice: &mut Dice, around: &[u16]) -> Vec<(u16, u16)> {
    (0..dice.below(4))
        .map(|_| {
            let first = dice.one_of(around) - dice.below(2) as u16;
            (first, first + dice.one_of(&[0, 1, 40, 7000]))
        })
        .collect()
}
