//! A site as TOML: what a person reads, with where each thing comes from.

use std::fmt::Write as _;

use eastgate_wire::Family;

use super::site::{Endpoint, Group, Learn, Network, Not, Policy, Rule, Site};

/// The text. Writing to a string does not fail.
pub(super) fn write(site: &Site, files: &[&str]) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "# Imported from {}.", comment(&files.join(", ")));
    let _ = writeln!(text, "# Hosts are yours to add: in the file that includes this one, or here.");
    for (tenant, content) in &site.tenants {
        let tenant = key(tenant);
        text.push('\n');
        notes(&mut text, &content.notes);
        for (name, network) in &content.networks {
            write_network(&mut text, &format!("tenant.{tenant}.network.{}", key(name)), network);
        }
        for (name, set) in &content.sets {
            notes(&mut text, &set.notes);
            let addresses = list(set.addresses.iter().map(|net| quoted(&net.to_string())));
            let _ = writeln!(text, "[tenant.{tenant}.set.{}]\naddresses = {addresses}\n", key(name));
        }
        for (name, group) in &content.groups {
            write_group(&mut text, &format!("tenant.{tenant}.group.{}", key(name)), group);
        }
        for (name, policy) in &content.policies {
            write_policy(&mut text, &format!("tenant.{tenant}.policy.{}", key(name)), policy);
        }
        for (name, endpoint) in &content.endpoints {
            write_endpoint(&mut text, &format!("tenant.{tenant}.endpoint.{}", key(name)), endpoint);
        }
    }
    text
}

fn notes(text: &mut String, notes: &[String]) {
    for note in notes {
        let _ = writeln!(text, "# {}", comment(note));
    }
}

fn write_network(text: &mut String, name: &str, network: &Network) {
    notes(text, &network.notes);
    let subnets = list(network.subnets.iter().map(|subnet| quoted(&subnet.to_string())));
    let _ = writeln!(text, "[{name}]\nvni = {}\nsubnets = {subnets}", network.vni);
    if network.egress_open {
        let _ = writeln!(text, "egress_default = \"open\"");
    }
    text.push('\n');
}

fn write_group(text: &mut String, name: &str, group: &Group) {
    notes(text, &group.notes);
    let _ = writeln!(text, "[{name}]");
    if let Some(description) = group.description.as_ref().filter(|text| !text.is_empty()) {
        let _ = writeln!(text, "description = {}", quoted(description));
    }
    if group.stateless {
        let _ = writeln!(text, "stateful = false");
    }
    if group.prefix_pairs {
        let _ = writeln!(text, "prefix_pairs = true");
    }
    if !group.shared_with.is_empty() {
        let _ = writeln!(text, "shared_with = {}", list(group.shared_with.iter().map(|it| quoted(it))));
    }
    for (key, peer, rules) in [("ingress", "from", &group.ingress), ("egress", "to", &group.egress)] {
        if rules.is_empty() {
            continue;
        }
        let _ = writeln!(text, "{key} = [");
        for rule in rules {
            if let Some(note) = &rule.note {
                let _ = writeln!(text, "  # {}", comment(note));
            }
            let _ = writeln!(text, "  {{ {} }},", rule_text(rule, peer));
        }
        text.push_str("]\n");
    }
    text.push('\n');
}

fn write_policy(text: &mut String, name: &str, policy: &Policy) {
    notes(text, &policy.notes);
    let _ = writeln!(text, "[{name}]\napplies_to = {}", quoted(&format!("group:{}", policy.group)));
    for (key, peer, rules) in [("ingress", "from", &policy.ingress), ("egress", "to", &policy.egress)] {
        if rules.is_empty() {
            continue;
        }
        let _ = writeln!(text, "{key} = [");
        for (action, rule) in rules {
            if let Some(note) = &rule.note {
                let _ = writeln!(text, "  # {}", comment(note));
            }
            let disabled = if rule.disabled { "# disabled: " } else { "" };
            let _ = writeln!(text, "  {disabled}{{ action = \"{action}\", {} }},", rule_text(rule, peer));
        }
        text.push_str("]\n");
    }
    text.push('\n');
}

fn rule_text(rule: &Rule, peer: &str) -> String {
    let mut parts = Vec::new();
    if let Some(protocol) = &rule.protocol {
        let number = protocol.parse::<u8>().is_ok();
        parts.push(format!("proto = {}", if number { protocol.clone() } else { quoted(protocol) }));
    }
    let range = |(first, last): (u16, u16)| {
        if first == last { first.to_string() } else { format!("\"{first}-{last}\"") }
    };
    parts.extend(rule.ports.map(|ports| format!("ports = {}", range(ports))));
    parts.extend(rule.source_ports.map(|ports| format!("source_ports = {}", range(ports))));
    if let Some((kind, code)) = rule.icmp {
        parts.push(format!("icmp_type = {kind}"));
        parts.extend(code.map(|code| format!("icmp_code = {code}")));
    }
    parts.extend(rule.dscp.map(|dscp| format!("dscp = {dscp}")));
    parts.extend(rule.tcp_flags.as_ref().map(|flags| format!("tcp_flags = {}", quoted(flags))));
    if let Some(family) = rule.family {
        let family = match family {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        };
        parts.push(format!("family = \"{family}\""));
    }
    parts.push(match &rule.peers[..] {
        [only] => format!("{peer} = {}", quoted(only)),
        several => format!("{peer} = {}", list(several.iter().map(|peer| quoted(peer)))),
    });
    parts.extend(rule.own.map(|own| format!("own = {}", quoted(&own.to_string()))));
    if !rule.not.is_empty() {
        let key = |not: &Not| match not {
            Not::Ports => "ports",
            Not::SourcePorts => "source_ports",
            Not::Icmp => "icmp_type",
            Not::Peers => peer,
            Not::Dscp => "dscp",
            Not::TcpFlags => "tcp_flags",
        };
        parts.push(format!("not = {}", list(rule.not.iter().map(|not| quoted(key(not))))));
    }
    parts.extend(rule.connections.map(|most| format!("connections = {most}")));
    if let Some(description) = rule.description.as_ref().filter(|text| !text.is_empty()) {
        parts.push(format!("description = {}", quoted(description)));
    }
    parts.join(", ")
}

fn write_endpoint(text: &mut String, name: &str, it: &Endpoint) {
    notes(text, &it.notes);
    let _ = writeln!(text, "[{name}]");
    for (key, value) in [("network", &it.network), ("host", &it.host), ("port", &it.port)] {
        let _ = writeln!(text, "{key} = {}", quoted(value));
    }
    let _ = writeln!(text, "mac = {}", quoted(&it.mac.to_string()));
    if it.learn.is_none() || !it.addresses.is_empty() {
        let _ = writeln!(text, "addresses = {}", list(it.addresses.iter().map(|ip| quoted(&ip.to_string()))));
    }
    match it.learn {
        None => {}
        Some(Learn::Dhcp) => text.push_str("learn = \"dhcp\"\n"),
        // One of each family: of which family it is, nobody knows before.
        Some(Learn::Once) => text.push_str("learn = \"any\"\nlearn_limit = 2\nlearn_lock = true\n"),
    }
    if !it.groups.is_empty() {
        let _ = writeln!(text, "groups = {}", list(it.groups.iter().map(|group| quoted(group))));
    }
    if !it.pairs.is_empty() {
        let _ = writeln!(text, "allowed_pairs = [");
        for (address, mac) in &it.pairs {
            let mac = mac.map_or_else(String::new, |mac| format!(", mac = \"{mac}\""));
            let _ = writeln!(text, "  {{ address = \"{address}\"{mac} }},");
        }
        text.push_str("]\n");
    }
    if !it.routes.is_empty() {
        let _ = writeln!(text, "routes = {}", list(it.routes.iter().map(|net| quoted(&net.to_string()))));
    }
    for (key, value, usual) in [
        ("port_security", it.port_security, true),
        ("router", it.router, false),
        ("dhcp_server", it.dhcp_server, false),
    ] {
        if value != usual {
            let _ = writeln!(text, "{key} = {value}");
        }
    }
    text.push('\n');
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

/// A name as a part of a table's name: one with a dot in it stands in quotes.
pub(super) fn key(name: &str) -> String {
    if name.contains('.') { quoted(name) } else { name.to_owned() }
}

/// A basic string of TOML (its specification, section String).
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

/// A text within a comment: on one line, and without what a terminal would obey.
fn comment(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_name_says_is_text() {
        assert_eq!(quoted("a\"b\\c\nd\u{7f}"), "\"a\\\"b\\\\c\\u000Ad\\u007F\"");
        assert_eq!(comment("a\nmac = \"x\""), "a mac = \"x\"");
        assert_eq!((key("a.b"), key("a-b")), ("\"a.b\"".to_owned(), "a-b".to_owned()));
    }
}
