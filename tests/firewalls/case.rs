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

/// Who may reach whom.
#[derive(Clone, Debug)]
pub struct Case {
    pub number: u16,
    pub groups: Vec<Group>,
    /// Machine -> its groups
    pub members: [Vec<usize>; MACHINES],
}

#[derive(Clone, Debug, Default)]
pub struct Group {
    pub ingress: Vec<Rule>,
    pub egress: Vec<Rule>,
}

#[derive(Clone, Debug)]
pub struct Rule {
    pub v6: Option<bool>,
    pub service: Service,
    pub peer: Peer,
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
        Self { number, groups, members }
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
            let _ = writeln!(text, "[tenant.t.group.g{number}]");
            for (direction, key, rules) in
                [("ingress", "from", &group.ingress), ("egress", "to", &group.egress)]
            {
                let rules: Vec<String> = rules.iter().map(|rule| self.rule(rule, key)).collect();
                let _ = writeln!(text, "{direction} = [\n  {}\n]", rules.join(",\n  "));
            }
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
        let peer = match rule.peer {
            Peer::Any => "any".to_owned(),
            Peer::Block { first, bits } => self.block(first, bits, rule.v6 == Some(true)),
            Peer::Group(group) => format!("group:g{group}"),
        };
        format!("{{ {service}{family}, {key} = \"{peer}\" }}")
    }
}

fn rules(dice: &mut Dice, groups: usize) -> Vec<Rule> {
    (0..dice.below(5)).map(|_| rule(dice, groups)).collect()
}

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
    let peer = match dice.below(10) {
        0..=3 => Peer::Any,
        4..=6 => Peer::Block { first: dice.below(8) as u8, bits: dice.below(4) as u8 },
        _ => Peer::Group(dice.below(groups)),
    };
    let of_one_family = matches!(service, Service::Icmp { .. }) || matches!(peer, Peer::Block { .. });
    let v6 = (of_one_family || dice.chance(20)).then(|| dice.chance(50));
    Rule { v6, service, peer }
}

fn ranges(dice: &mut Dice, around: &[u16]) -> Vec<(u16, u16)> {
    (0..dice.below(4))
        .map(|_| {
            let first = dice.one_of(around) - dice.below(2) as u16;
            (first, first + dice.one_of(&[0, 1, 40, 7000]))
        })
        .collect()
}
