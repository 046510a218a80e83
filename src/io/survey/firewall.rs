//! The host's own firewall, as far as it can be told without being asked about a packet: chains for what comes in that drop by
//! default, and rules that name a UDP port.

use std::{io::ErrorKind, process::Command};

use eastgate_wire::KERNEL_DEVICES;
use serde_json::Value;

use super::{Look, read};

/// Where packets come in that the kernel is to route, in rules that name it
const ROUTER: &str = KERNEL_DEVICES[1];

/// What of the host's firewall may be about a UDP port.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct Firewall {
    /// Chains for what comes in that drop what no rule accepts, and have no rule that accepts the port
    pub closed: Vec<String>,
    /// Rules that drop or reject whatever comes to the port
    pub refusals: Vec<String>,
    /// Those that do so with some of it, or behind rules that accept it
    pub partial: Vec<String>,
    /// Chains for what is forwarded that drop what no rule accepts, and have no rule that names the devices of the kernel's routing
    pub forwarding: Vec<String>,
}

/// What the firewalls of this network namespace say of datagrams to these UDP ports. Nothing is loaded that is not there.
///
/// # Errors
/// When there are rules and they cannot be listed.
pub fn about(port: u16) -> Look<Firewall> {
    let mut found = Firewall::default();
    if has_nftables() {
        let listed = run("nft", &["-j", "list", "ruleset"])?;
        let rules: Value =
            serde_json::from_str(&listed).map_err(|error| format!("nft -j list ruleset: {error}"))?;
        nftables(&rules, port, &mut found);
    }
    for (names, program) in [
        ("/proc/net/ip_tables_names", "iptables-legacy-save"),
        ("/proc/net/ip6_tables_names", "ip6tables-legacy-save"),
    ] {
        if read(names)?.is_some_and(|names| names.lines().any(|name| name == "filter")) {
            iptables(
                &run(program, &["-t", "filter"])?,
                program.trim_end_matches("-legacy-save"),
                port,
                &mut found,
            );
        }
    }
    Ok(found)
}

/// Asking by `nft` would load it.
fn has_nftables() -> bool {
    std::path::Path::new("/sys/module/nf_tables").exists()
        || std::fs::read("/proc/kallsyms").is_ok_and(|symbols| {
            let wanted = b" nft_do_chain\n";
            symbols.windows(wanted.len()).any(|window| window == wanted)
        })
}

fn run(program: &str, arguments: &[&str]) -> Look<String> {
    let shown = || format!("{program} {}", arguments.join(" "));
    let output = Command::new(program).args(arguments).output().map_err(|error| match error.kind() {
        ErrorKind::NotFound => format!("{program}, which lists the rules that there are, is not installed"),
        _ => format!("{}: {error}", shown()),
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{}: {}", shown(), said.lines().next().unwrap_or("it failed")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn nftables(ruleset: &Value, port: u16, found: &mut Firewall) {
    let objects = || ruleset["nftables"].as_array().into_iter().flatten();
    let table = |it: &Value| {
        format!("{} {}", it["family"].as_str().unwrap_or(""), it["table"].as_str().unwrap_or(""))
    };
    let rules: Vec<&Value> = objects().filter_map(|object| object.get("rule")).collect();
    let about_port =
        |rule: &&&Value| rule["expr"].as_array().into_iter().flatten().any(|part| names_port(part, port));
    let has = |rule: &Value, verdicts: &[&str]| {
        rule["expr"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|part| verdicts.iter().any(|it| part.get(it).is_some()))
    };
    for chain in objects().filter_map(|object| object.get("chain")) {
        let (hook, policy) = (chain["hook"].as_str(), chain["policy"].as_str());
        let takes_in = matches!(hook, Some("input" | "prerouting" | "ingress"));
        let forwards = hook == Some("forward");
        let family = chain["family"].as_str().unwrap_or("");
        if !(takes_in || forwards) || !matches!(family, "ip" | "ip6" | "inet" | "netdev") {
            continue;
        }
        let in_it = |rule: &&&Value| table(rule) == table(chain) && rule["chain"] == chain["name"];
        let ends = |rule: &&Value| matches_of(rule) == 0 && has(rule, &["drop", "reject"]);
        if policy != Some("drop") && !rules.iter().rfind(in_it).is_some_and(ends) {
            continue;
        }
        // Chains jump to each other: any rule of the table may be on the way.
        let mut of_table = rules.iter().filter(|rule| table(rule) == table(chain));
        let named = format!("nft chain {} {}", table(chain), chain["name"].as_str().unwrap_or(""));
        if forwards {
            if !of_table.any(|rule| rule["expr"].to_string().contains(ROUTER)) {
                found.forwarding.push(named);
            }
        } else if !of_table.any(|rule| about_port(&rule) && has(rule, &["accept", "jump", "goto", "vmap"])) {
            found.closed.push(named);
        }
    }
    let on_its_way = |rule: &&&Value| {
        let chain = objects().filter_map(|object| object.get("chain"));
        let of_it = |chain: &&Value| table(chain) == table(rule) && chain["name"] == rule["chain"];
        let hook = chain.into_iter().find(of_it).and_then(|chain| chain["hook"].as_str());
        !matches!(hook, Some("forward" | "output" | "postrouting"))
    };
    let refusing = rules.iter().filter(about_port).filter(|rule| has(rule, &["drop", "reject"]));
    for rule in refusing.filter(on_its_way) {
        let (chain, handle) = (rule["chain"].as_str().unwrap_or(""), &rule["handle"]);
        let named = format!("nft rule of {} {chain}, handle {handle}", table(rule));
        let mut others = rules.iter().filter(about_port).filter(|other| table(other) == table(rule));
        let accepted = others.any(|other| has(other, &["accept", "jump", "goto", "vmap"]));
        if matches_of(rule) == 1 && !accepted {
            found.refusals.push(named);
        } else {
            found.partial.push(named);
        }
    }
}

/// How many things a rule asks for
fn matches_of(rule: &Value) -> usize {
    let parts = rule["expr"].as_array().into_iter().flatten();
    parts.filter(|part| part.get("match").is_some() || part.get("xt").is_some()).count()
}

/// Whether a part of a rule compares the UDP destination port with this one.
fn names_port(part: &Value, port: u16) -> bool {
    let compared = &part["match"];
    let left = &compared["left"]["payload"];
    left["field"] == "dport"
        && matches!(left["protocol"].as_str(), Some("udp" | "th"))
        && matches!(compared["op"].as_str(), Some("==" | "in"))
        && holds(&compared["right"], port)
}

fn holds(value: &Value, port: u16) -> bool {
    if let Some(set) = value["set"].as_array() {
        return set.iter().any(|member| holds(member, port));
    }
    if let Some([low, high]) = value["range"].as_array().map(Vec::as_slice) {
        let within = |low: u64, high: u64| (low..=high).contains(&u64::from(port));
        return low.as_u64().zip(high.as_u64()).is_some_and(|(low, high)| within(low, high));
    }
    value.as_u64() == Some(port.into())
}

fn iptables(saved: &str, program: &str, port: u16, found: &mut Firewall) {
    let names_port = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let of = |word: &str| {
            words.windows(2).find_map(|pair| match pair {
                [key, value] if *key == word => Some(*value),
                _ => None,
            })
        };
        let in_range = |range: &str| match range.split_once(':') {
            Some((low, high)) => {
                low.parse().is_ok_and(|low: u16| low <= port)
                    && high.parse().is_ok_and(|high: u16| port <= high)
            }
            None => range.parse() == Ok(port),
        };
        of("-p") == Some("udp")
            && !words.contains(&"!")
            && (of("--dport").is_some_and(in_range)
                || of("--dports").is_some_and(|ports| ports.split(',').any(in_range)))
    };
    let rules: Vec<&str> = saved.lines().filter(|line| line.starts_with("-A ") && names_port(line)).collect();
    let refuses = |line: &&str| line.ends_with("-j DROP") || line.contains("-j REJECT");
    let elsewhere = |line: &&&str| line.starts_with("-A FORWARD ") || line.starts_with("-A OUTPUT ");
    let accepted = rules.iter().any(|rule| !refuses(rule));
    for rule in rules.iter().filter(|rule| refuses(rule) && !elsewhere(rule)) {
        let mut words = rule.split_whitespace().skip(2);
        let is_plain = |word: &str| {
            matches!(
                word,
                "-p" | "udp" | "-m" | "multiport" | "--dport" | "--dports" | "-j" | "DROP" | "REJECT"
            ) || word.starts_with(|first: char| first.is_ascii_digit())
                || word == "--reject-with"
                || word.starts_with("icmp")
        };
        if words.all(is_plain) && !accepted {
            found.refusals.push(format!("{program} {rule}"));
        } else {
            found.partial.push(format!("{program} {rule}"));
        }
    }
    let drops = |chain: &str| {
        let rule = format!("-A {chain} ");
        let last = saved.lines().rfind(|line| line.starts_with(&rule)).map(|line| &line[rule.len()..]);
        let ends = last.is_some_and(|last| last.starts_with("-j DROP") || last.starts_with("-j REJECT"));
        ends || saved.lines().any(|line| line.starts_with(&format!(":{chain} DROP")))
    };
    if drops("INPUT") && !rules.iter().any(|rule| !refuses(rule)) {
        found.closed.push(format!("{program} chain INPUT"));
    }
    if drops("FORWARD") && !saved.contains(ROUTER) {
        found.forwarding.push(format!("{program} chain FORWARD"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of_nft(policy: &str, rule: &Value) -> Firewall {
        let chain =
            json!({ "family": "inet", "table": "filter", "name": "in", "hook": "input", "policy": policy });
        let rule = json!({ "family": "inet", "table": "filter", "chain": "in", "handle": 7, "expr": rule });
        let mut found = Firewall::default();
        nftables(
            &json!({ "nftables": [{ "metainfo": {} }, { "chain": chain }, { "rule": rule }] }),
            4789,
            &mut found,
        );
        found
    }

    fn port(right: &Value) -> Value {
        json!({ "match": { "op": "==", "left": { "payload": { "protocol": "udp", "field": "dport" } }, "right": right } })
    }

    #[test]
    fn chains_that_drop_by_default_need_a_rule_for_the_port() {
        let closed = |policy, rule: &Value| of_nft(policy, rule).closed;
        let accept = json!({ "accept": null });
        assert_eq!(closed("drop", &json!([accept])), ["nft chain inet filter in"]);
        assert_eq!(closed("accept", &json!([accept])), Vec::<String>::new());
        for right in [json!(4789), json!({ "set": [53, 4789] }), json!({ "range": [4000, 5000] })] {
            assert_eq!(closed("drop", &json!([port(&right), accept])), Vec::<String>::new(), "{right}");
        }
        assert_eq!(closed("drop", &json!([port(&json!(53)), accept])).len(), 1);
    }

    #[test]
    fn rules_that_refuse_the_port_are_named() {
        let drop = json!({ "drop": null });
        assert_eq!(
            of_nft("accept", &json!([port(&json!(4789)), drop])).refusals,
            ["nft rule of inet filter in, handle 7"]
        );
        assert_eq!(of_nft("accept", &json!([port(&json!(53)), drop])), Firewall::default());
        // Of some packets only
        let source = json!({ "match": { "op": "==", "left": { "payload": { "protocol": "ip", "field": "saddr" } }, "right": "192.0.2.9" } });
        let some = of_nft("accept", &json!([source, port(&json!(4789)), drop]));
        assert_eq!((some.refusals.len(), some.partial.len()), (0, 1));
    }

    #[test]
    fn a_last_rule_closes_a_chain_as_well_as_its_policy_does() {
        assert_eq!(of_nft("accept", &json!([{ "counter": null }, { "reject": null }])).closed.len(), 1);
        let last = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -i lo -j ACCEPT\n-A INPUT -j REJECT --reject-with icmp-host-prohibited\n";
        let mut found = Firewall::default();
        iptables(last, "iptables", 4789, &mut found);
        assert_eq!((found.closed.len(), found.refusals.len(), found.partial.len()), (1, 0, 0));
    }

    #[test]
    fn chains_that_forward_nothing_by_default_are_named_unless_the_devices_are() {
        let chain = json!({ "family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "drop" });
        let of_rule = |device: &str| {
            let matched =
                json!({ "match": { "op": "==", "left": { "meta": { "key": "iifname" } }, "right": device } });
            let rule = json!({ "family": "ip", "table": "filter", "chain": "FORWARD", "handle": 3,
                "expr": [matched, { "accept": null }] });
            let mut found = Firewall::default();
            nftables(&json!({ "nftables": [{ "chain": chain }, { "rule": rule }] }), 4789, &mut found);
            found
        };
        assert_eq!(of_rule("docker0").forwarding, ["nft chain ip filter FORWARD"]);
        assert_eq!(of_rule("eg-rt-*"), Firewall::default());
        let of_saved = |text: &str| {
            let mut found = Firewall::default();
            iptables(text, "iptables", 4789, &mut found);
            found.forwarding
        };
        assert_eq!(of_saved("*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n").len(), 1);
        assert_eq!(
            of_saved("*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -i eth1 -j ACCEPT\n-A FORWARD -j REJECT\n")
                .len(),
            1
        );
        assert_eq!(of_saved("*filter\n:FORWARD ACCEPT [0:0]\n").len(), 0);
        assert_eq!(of_saved("*filter\n:FORWARD DROP [0:0]\n-A FORWARD -i eg-rt-+ -j ACCEPT\n").len(), 0);
    }

    #[test]
    fn what_iptables_saves_is_read() {
        let of = |saved: &str| {
            let mut found = Firewall::default();
            iptables(saved, "iptables", 4789, &mut found);
            found
        };
        let drop = "*filter\n:INPUT DROP [0:0]\n-A INPUT -i lo -j ACCEPT\n";
        assert_eq!(of(drop).closed, ["iptables chain INPUT"]);
        assert_eq!(
            of(&format!("{drop}-A INPUT -p udp -m udp --dport 4789 -j ACCEPT\n")),
            Firewall::default()
        );
        assert_eq!(
            of(&format!("{drop}-A INPUT -p udp -m multiport --dports 53,4700:4800 -j ACCEPT\n")),
            Firewall::default()
        );
        let refused = of(":INPUT ACCEPT [0:0]\n-A INPUT -p udp -m udp --dport 4789 -j DROP\n");
        assert_eq!(refused.refusals, ["iptables -A INPUT -p udp -m udp --dport 4789 -j DROP"]);
        let some = of(":INPUT ACCEPT [0:0]\n-A INPUT -i wan0 -p udp -m udp --dport 4789 -j DROP\n\
                       -A FORWARD -p udp -m udp --dport 4789 -j DROP\n");
        assert_eq!((some.refusals.len(), some.partial.len()), (0, 1));
    }
}
