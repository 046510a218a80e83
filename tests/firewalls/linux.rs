//! The same policies as Linux's firewalls have them: iptables with ipset as Neutron lays them, and nftables.

use std::{fmt::Write as _, process::Command};

use eastgate_testkit::command::run_with;

use super::{
    case::{Action, Case, MACHINES, Peer, Rule, SETS, Service},
    common::{Space, must},
};

/// Direction of a rule: from the machine, or to it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Out,
    In,
}

fn feed(mut command: Command, text: &str) {
    must(run_with(&mut command, text));
}

/// A chain for each machine and direction that returns what is allowed, and drops the rest, with what nobody keeps state of left
/// untracked, as for ports all of whose groups are stateless; groups that rules name are sets
/// of addresses.
pub fn iptables(space: &Space, case: &Case) {
    feed(command(space, "ipset", &["restore", "-exist"]), &ipsets(case));
    for v6 in [false, true] {
        let program = if v6 { "ip6tables-restore" } else { "iptables-restore" };
        feed(command(space, program, &["-w"]), &chains(case, v6));
    }
}

fn command(space: &Space, program: &str, arguments: &[&str]) -> Command {
    let mut command = space.command(program);
    command.args(arguments);
    command
}

fn ipsets(case: &Case) -> String {
    let mut text = String::new();
    for group in 0..4 {
        for (v6, family) in [(false, "inet"), (true, "inet6")] {
            let name = set(group, v6);
            let _ = writeln!(text, "create {name} hash:net family {family}\nflush {name}");
            for machine in case.members_of(group) {
                let _ = writeln!(text, "add {name} {}", case.address(machine, v6));
            }
        }
    }
    for number in 0..SETS {
        for (v6, family) in [(false, "inet"), (true, "inet6")] {
            let (set, except) = (named("s", number, v6), named("x", number, v6));
            for name in [&set, &except] {
                let _ = writeln!(text, "create {name} hash:net family {family}\nflush {name}");
            }
            for (first, bits) in &case.sets[number] {
                let _ = writeln!(text, "add {set} {}", case.block(*first, *bits, v6));
            }
            let [outer, inner] = case.excepts[number].map(|(first, bits)| case.block(first, bits, v6));
            let _ = writeln!(text, "add {except} {outer}\nadd {except} {inner} nomatch");
        }
    }
    text
}

fn named(kind: &str, number: usize, v6: bool) -> String {
    format!("{kind}{number}v{}", if v6 { 6 } else { 4 })
}

fn set(group: usize, v6: bool) -> String {
    named("g", group, v6)
}

/// The chain of a machine's level; behind the last one nothing is let pass.
fn level_chain(chain: &str, machine: usize, level: usize) -> String {
    if level < LEVELS { format!("{chain}{machine}l{level}") } else { "none".to_owned() }
}

const LEVELS: usize = 4;

fn chains(case: &Case, v6: bool) -> String {
    let tracked = if case.stateless { "-A PREROUTING -j CT --notrack\n" } else { "" };
    let mut text = format!(
        "*raw\n:PREROUTING ACCEPT [0:0]\n{tracked}COMMIT\n*filter\n:FORWARD DROP [0:0]\n:machines - [0:0]\n"
    );
    for machine in 0..MACHINES {
        for (chain, level) in
            ["o", "i"].into_iter().flat_map(|chain| (0..LEVELS).map(move |level| (chain, level)))
        {
            let _ = writeln!(text, ":{} - [0:0]", level_chain(chain, machine, level));
        }
    }
    text += ":none - [0:0]\n-A none -j DROP\n";
    text += "-A FORWARD -m physdev --physdev-is-bridged -j machines\n";
    for (direction, chain) in [("in", "o"), ("out", "i")] {
        for machine in 0..MACHINES {
            let _ = writeln!(
                text,
                "-A machines -m physdev --physdev-{direction} v{machine} --physdev-is-bridged -j {}",
                level_chain(chain, machine, 0)
            );
        }
    }
    text += "-A machines -j ACCEPT\n";
    for machine in 0..MACHINES {
        for (way, chain) in [(Way::Out, "o"), (Way::In, "i")] {
            let first = level_chain(chain, machine, 0);
            let _ = writeln!(text, "-A {first} -m state --state RELATED,ESTABLISHED -j RETURN");
            let _ = writeln!(text, "-A {first} -m state --state INVALID -j DROP");
            for (level, at) in case.levels(machine, way == Way::Out).into_iter().zip(0..) {
                let (own, next) = (level_chain(chain, machine, at), level_chain(chain, machine, at + 1));
                let does = |action| match action {
                    Action::Allow => "-j RETURN".to_owned(),
                    Action::Deny => "-j DROP".to_owned(),
                    Action::Pass => format!("-g {next}"),
                };
                for (rule, action) in level.rules.iter().filter(|(rule, _)| rule.v6.is_none_or(|of| of == v6))
                {
                    for matches in iptables_matches(case, rule, way, v6) {
                        let _ = writeln!(text, "-A {own}{matches} {}", does(*action));
                    }
                }
                let end = if level.denies_at_end { Action::Deny } else { Action::Pass };
                let _ = writeln!(text, "-A {own} {}", does(end));
            }
        }
    }
    text + "COMMIT\n"
}

/// A rule's matches. One of several ranges of ports is one for each pair of them, since `multiport` takes only one direction's.
fn iptables_matches(case: &Case, rule: &Rule, way: Way, v6: bool) -> Vec<String> {
    let mut peer = String::new();
    let (option, side) = match way {
        Way::Out => ("-d", "dst"),
        Way::In => ("-s", "src"),
    };
    match rule.peer {
        Peer::Any => {}
        Peer::Block { first, bits } => {
            let _ = write!(peer, "{} {option} {}", bang(rule.not.peer), case.block(first, bits, v6));
        }
        Peer::Group(group) => {
            let _ = write!(peer, " -m set --match-set {} {side}", set(group, v6));
        }
        Peer::Set(number) => {
            let _ = write!(peer, " -m set --match-set {} {side}", named("s", number, v6));
        }
        Peer::Except(number) => {
            let not = bang(rule.not.peer);
            let _ = write!(peer, " -m set{not} --match-set {} {side}", named("x", number, v6));
        }
    }
    let service = match &rule.service {
        Service::Any => vec![String::new()],
        Service::Ports { protocol, to, from } => {
            let ports = |option: &str, ranges: &[(u16, u16)], not: bool| -> Vec<String> {
                match ranges {
                    [] => vec![String::new()],
                    [(first, last)] if not => vec![format!(" ! {option} {first}:{last}")],
                    // None of several; what stands behind would be read as `multiport`'s, too
                    some if not => {
                        let range = |(first, last): &(u16, u16)| match first == last {
                            true => first.to_string(),
                            false => format!("{first}:{last}"),
                        };
                        let some: Vec<String> = some.iter().map(range).collect();
                        vec![format!(" -m multiport ! {option}s {}", some.join(","))]
                    }
                    some => some.iter().map(|(first, last)| format!(" {option} {first}:{last}")).collect(),
                }
            };
            let (to, from) = (ports("--dport", to, rule.not.to), ports("--sport", from, rule.not.from));
            to.iter()
                .flat_map(|to| from.iter().map(move |from| format!(" -p {protocol}{from}{to}")))
                .collect()
        }
        Service::Icmp { kind, code } => {
            let (protocol, option) =
                if v6 { ("ipv6-icmp", "--icmpv6-type") } else { ("icmp", "--icmp-type") };
            let what = match (kind, code) {
                (None, _) => String::new(),
                (Some(kind), None) => format!("{} {option} {kind}", bang(rule.not.icmp)),
                (Some(kind), Some(code)) => format!("{} {option} {kind}/{code}", bang(rule.not.icmp)),
            };
            vec![format!("{} -p {protocol}{what}", bang(rule.not.proto))]
        }
        Service::Protocol(number) => vec![format!("{} -p {number}", bang(rule.not.proto))],
    };
    service.into_iter().map(|service| peer.clone() + &service).collect()
}

const fn bang(not: bool) -> &'static str {
    if not { " !" } else { "" }
}

/// One table of the bridge's: what the sender's chain lets go goes on to the receiver's. It has no state: not every kernel can
/// track what a bridge carries, and each probe is the first packet of its flow.
pub fn nftables(space: &Space, case: &Case) {
    feed(command(space, "nft", &["-f", "-"]), &table(case));
}

fn table(case: &Case) -> String {
    let mut text = "flush ruleset\ntable bridge policies {\n".to_owned();
    for group in 0..case.groups.len() {
        for (v6, kind) in [(false, "ipv4_addr"), (true, "ipv6_addr")] {
            let members: Vec<String> =
                case.members_of(group).map(|machine| case.address(machine, v6).to_string()).collect();
            let elements = match members.as_slice() {
                [] => String::new(),
                some => format!("elements = {{ {} }};", some.join(", ")),
            };
            let _ = writeln!(text, "set {} {{ type {kind}; {elements} }}", set(group, v6));
        }
    }
    for (number, blocks) in case.sets.iter().enumerate() {
        for (v6, kind) in [(false, "ipv4_addr"), (true, "ipv6_addr")] {
            let elements: Vec<String> =
                blocks.iter().map(|(first, bits)| case.block(*first, *bits, v6)).collect();
            let name = named("s", number, v6);
            let _ = writeln!(
                text,
                "set {name} {{ type {kind}; flags interval; auto-merge; elements = {{ {} }}; }}",
                elements.join(", ")
            );
        }
    }
    text += "chain none {\ndrop\n}\n";
    for (way, chain, allow) in [(Way::In, "i", "accept"), (Way::Out, "o", "goto receivers")] {
        if way == Way::Out {
            text += &by_device("receivers", "oifname", "i");
        }
        for machine in 0..MACHINES {
            // A chain is known to those behind it.
            for (level, at) in case.levels(machine, way == Way::Out).into_iter().zip(0..LEVELS).rev() {
                let next = level_chain(chain, machine, at + 1);
                let does = |action| match action {
                    Action::Allow => allow.to_owned(),
                    Action::Deny => "drop".to_owned(),
                    Action::Pass => format!("goto {next}"),
                };
                let _ = writeln!(text, "chain {} {{", level_chain(chain, machine, at));
                for (rule, action) in level.rules {
                    for v6 in [false, true].into_iter().filter(|v6| rule.v6.is_none_or(|of| of == *v6)) {
                        let _ = writeln!(text, "{} {}", nft_matches(case, rule, way, v6), does(action));
                    }
                }
                let end = if level.denies_at_end { Action::Deny } else { Action::Pass };
                let _ = writeln!(text, "{}\n}}", does(end));
            }
        }
    }
    text += &by_device("senders", "iifname", "o");
    text + "chain forward {\ntype filter hook forward priority 0; policy drop;\ngoto senders\n}\n}\n"
}

fn by_device(chain: &str, key: &str, to: &str) -> String {
    let rows: Vec<String> = (0..MACHINES)
        .map(|machine| format!("\"v{machine}\" : goto {}", level_chain(to, machine, 0)))
        .collect();
    format!("chain {chain} {{\n{key} vmap {{ {} }}\ndrop\n}}\n", rows.join(", "))
}

fn nft_matches(case: &Case, rule: &Rule, way: Way, v6: bool) -> String {
    let family = if v6 { "ip6" } else { "ip" };
    let side = match way {
        Way::Out => "daddr",
        Way::In => "saddr",
    };
    let mut text = format!("ether type {family}");
    match rule.peer {
        Peer::Any => {}
        Peer::Block { first, bits } => {
            let not = unequal(rule.not.peer);
            let _ = write!(text, " {family} {side}{not} {}", case.block(first, bits, v6));
        }
        Peer::Group(group) => {
            let _ = write!(text, " {family} {side} @{}", set(group, v6));
        }
        Peer::Set(number) => {
            let _ = write!(text, " {family} {side} @{}", named("s", number, v6));
        }
        Peer::Except(number) => {
            let [outer, inner] = case.excepts[number].map(|(first, bits)| case.block(first, bits, v6));
            // Of eight addresses, which are all that there are.
            let (all, not) = if rule.not.peer { ("", "") } else { (&*outer, "!=") };
            let all = if all.is_empty() { String::new() } else { format!(" {family} {side} {all}") };
            let _ = write!(text, "{all} {family} {side} {not} {inner}");
        }
    }
    match &rule.service {
        Service::Any => {}
        Service::Ports { protocol, to, from } => {
            let _ = write!(text, " meta l4proto {protocol}");
            for (key, ranges, not) in [("dport", to, rule.not.to), ("sport", from, rule.not.from)] {
                if !ranges.is_empty() {
                    let _ = write!(text, " th {key}{} {{ {} }}", unequal(not), joined(ranges));
                }
            }
        }
        Service::Icmp { kind, code } => {
            let name = if v6 { "icmpv6" } else { "icmp" };
            let _ = write!(text, " meta l4proto{} {}", unequal(rule.not.proto), if v6 { 58 } else { 1 });
            if let (Some(kind), true) = (kind, rule.not.icmp) {
                // All but one pair of both: the first sixteen bits of the header
                let (bits, value) = match code {
                    Some(code) => (16, u16::from(*kind) << 8 | u16::from(*code)),
                    None => (8, u16::from(*kind)),
                };
                let _ = write!(text, " @th,0,{bits} != {value}");
                return text;
            }
            for (key, number) in [("type", kind), ("code", code)] {
                if let Some(number) = number {
                    let _ = write!(text, " {name} {key} {number}");
                }
            }
        }
        Service::Protocol(number) => {
            let _ = write!(text, " meta l4proto{} {number}", unequal(rule.not.proto));
        }
    }
    text
}

const fn unequal(not: bool) -> &'static str {
    if not { " !=" } else { "" }
}

/// Ranges, those that overlap as one: a set of nftables takes none that do.
fn joined(ranges: &[(u16, u16)]) -> String {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable();
    sorted.dedup_by(|next, before| {
        let overlaps = next.0 <= before.1;
        before.1 = if overlaps { before.1.max(next.1) } else { before.1 };
        overlaps
    });
    let words: Vec<String> = sorted.iter().map(|(first, last)| format!("{first}-{last}")).collect();
    words.join(", ")
}
