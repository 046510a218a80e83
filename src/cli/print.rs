//! Answers as people read them.

use std::{collections::BTreeMap, fmt::Write};

use eastgate_wire::DropReason;

use super::table::Table;
use crate::{
    config::Config,
    control::protocol::{
        DropRow, EndpointRow, FdbRow, FlowRow, NeighborRow, PolicyRow, RuleRef, Status, TraceReport,
    },
    plan::Step,
};

pub(super) fn summary(config: &Config) -> String {
    let networks = config.networks().count();
    let endpoints: usize = config.networks().map(|(_, network)| network.endpoints.len()).sum();
    format!(
        "fine: {} hosts, {} tenants, {networks} networks, {endpoints} endpoints",
        config.hosts.len(),
        config.tenants.len()
    )
}

pub(super) fn status(status: &Status) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: String| {
        let _ = writeln!(text, "{key:<12} {value}");
    };
    line("host", format!("{} ({})", status.host, if status.ready { "ready" } else { "not ready" }));
    line("version", status.version.clone());
    line("config", format!("{}, epoch {}", status.config, status.epoch));
    if let Some(error) = &status.reload_error {
        line("reload", format!("REFUSED, the configuration before stays in force:\n{error}"));
    }
    let vtep = &status.vtep;
    let state = match (vtep.listening, vtep.up) {
        (true, true) => "listening",
        (true, false) => "device down",
        (false, _) => "NOT LISTENING",
    };
    line("vtep", format!("{} udp {} on {} ({state})", vtep.address, vtep.port, vtep.device));
    line("mtu", format!("underlay {}, tenants {}", vtep.mtu, vtep.tenant_mtu));
    line("dataplane", format!("{}, {} workers", status.dataplane, status.workers));
    line("flows", format!("{} answered, {} unanswered", status.flows.answered, status.flows.unanswered));
    let traffic = &status.traffic;
    line("ports", format!("{} frames in, {} out", traffic.from_ports, traffic.to_ports));
    line("underlay", format!("{} datagrams in, {} out", traffic.from_underlay, traffic.to_underlay));
    let repeated = match traffic.answers_repeated {
        0 => String::new(),
        answers => format!(", {answers} of them given again by the kernel"),
    };
    line("answers", format!("{} to ARP and ND{repeated}", traffic.answers));
    if !status.punts.is_empty() {
        line("punt", punts(&status.punts));
    }
    line("dropped", format!("{} frames (see `eastgate show drops`)", traffic.dropped));
    if status.settings_restored > 0 {
        line("settings", format!("{} were changed by someone else and put right", status.settings_restored));
    }
    line("uptime", format!("{} s", status.uptime_s));
    let mut table = Table::new(["PORT", "ENDPOINT", "VNI", "STATE"]);
    for port in &status.ports {
        table.row([port.name.clone(), port.endpoint.clone(), port.vni.to_string(), port.state.clone()]);
    }
    if !table.is_empty() {
        let _ = write!(text, "\n{table}");
    }
    text
}

/// Packets that the kernel's programs have left to the pipeline, the most frequent cause first.
fn punts(causes: &BTreeMap<String, u64>) -> String {
    let mut causes: Vec<_> = causes.iter().filter(|(_, packets)| **packets > 0).collect();
    causes.sort_by_key(|(_, packets)| std::cmp::Reverse(**packets));
    let all: u64 = causes.iter().map(|(_, packets)| **packets).sum();
    let each: Vec<String> = causes.iter().map(|(cause, packets)| format!("{cause} {packets}")).collect();
    match &each[..] {
        [] => "no packets left to the pipeline".to_owned(),
        each => format!("{all} packets left to the pipeline: {}", each.join(", ")),
    }
}

fn or_none(table: &Table, what: &str) -> String {
    if table.is_empty() { format!("no {what}\n") } else { table.to_string() }
}

pub(super) fn endpoints(rows: &[EndpointRow]) -> String {
    let mut table =
        Table::new(["VNI", "ENDPOINT", "HOST", "PORT", "MAC", "ADDRESSES", "GROUPS", "SENT", "RECEIVED"]);
    for row in rows {
        let addresses: Vec<String> = row.addresses.iter().map(ToString::to_string).collect();
        table.row([
            row.vni.to_string(),
            row.endpoint.clone(),
            row.host.clone(),
            row.port.clone().unwrap_or_default(),
            row.mac.to_string(),
            addresses.join(","),
            row.groups.join(","),
            row.tx_frames.to_string(),
            row.rx_frames.to_string(),
        ]);
    }
    or_none(&table, "endpoints")
}

pub(super) fn fdb(rows: &[FdbRow]) -> String {
    let mut table = Table::new(["VNI", "MAC", "AT", "KIND", "AGE"]);
    for row in rows {
        let age = row.age_s.map(|age| format!("{age}s")).unwrap_or_default();
        table.row([row.vni.to_string(), row.mac.to_string(), row.at.clone(), row.kind.clone(), age]);
    }
    or_none(&table, "entries")
}

pub(super) fn neighbors(rows: &[NeighborRow]) -> String {
    let mut table = Table::new(["VNI", "ADDRESS", "MAC", "ANSWERED WITH", "ENDPOINT", "KIND"]);
    for row in rows {
        table.row([
            row.vni.to_string(),
            row.address.to_string(),
            row.mac.to_string(),
            row.answered_with.map(|mac| mac.to_string()).unwrap_or_else(|| "nothing".into()),
            row.endpoint.clone().unwrap_or_default(),
            row.kind.clone(),
        ]);
    }
    or_none(&table, "neighbors")
}

fn side(address: &eastgate_wire::Addr, port: u16) -> String {
    match port {
        0 => address.to_string(),
        port => std::net::SocketAddr::new(address.to_ip(), port).to_string(),
    }
}

fn rule_name(rule: Option<&RuleRef>) -> String {
    rule.map(|rule| rule.rule.clone()).unwrap_or_default()
}

pub(super) fn flows(rows: &[FlowRow]) -> String {
    let mut table = Table::new([
        "VNI",
        "PROTO",
        "SOURCE",
        "DESTINATION",
        "STATE",
        "PACKETS",
        "REPLIES",
        "EXPIRES",
        "EGRESS RULE",
        "INGRESS RULE",
    ]);
    for row in rows {
        table.row([
            row.vni.to_string(),
            row.proto.clone(),
            side(&row.src, row.sport),
            side(&row.dst, row.dport),
            // As conntrack marks them.
            format!("{}{}", row.state, if row.offloaded { " [OFFLOAD]" } else { "" }),
            row.packets.to_string(),
            row.reply_packets.to_string(),
            format!("{}s", row.expires_s),
            rule_name(row.egress_rule.as_ref()),
            rule_name(row.ingress_rule.as_ref()),
        ]);
    }
    or_none(&table, "flows")
}

pub(super) fn drops(rows: &[DropRow]) -> String {
    let mut table = Table::new(["VNI", "REASON", "FROM", "FRAMES", "LAST", "AGO", "RULE", "AT"]);
    for row in rows {
        table.row([
            row.vni.map(|vni| vni.to_string()).unwrap_or_default(),
            row.reason.clone(),
            row.from.clone().unwrap_or_default(),
            row.frames.to_string(),
            row.last.clone().unwrap_or_default(),
            format!("{}s", row.last_s),
            row.rule.clone().unwrap_or_default(),
            row.at.clone().unwrap_or_default(),
        ]);
    }
    or_none(&table, "drops")
}

pub(super) fn policy(rows: &[PolicyRow]) -> String {
    let mut text = String::new();
    for row in rows {
        let _ = writeln!(
            text,
            "vni {} {}: {} rules in {} rulesets, {} identities, {} interval lists, {} bytes",
            row.vni, row.network, row.rules, row.rulesets, row.identities, row.lists, row.bytes
        );
        for group in &row.groups {
            let _ = writeln!(text, "\n  {} ({})", group.group, group.members.join(", "));
            let mut table = Table::new(["    RULE", "ALLOWS", "FLOWS", "AT"]);
            for rule in &group.rules {
                let name = format!("    {}", rule.rule);
                table.row([name, rule.text.clone(), rule.flows.to_string(), rule.at.clone()]);
            }
            let _ = write!(text, "{table}");
        }
        text.push('\n');
    }
    if text.is_empty() { "no networks\n".into() } else { text }
}

pub(super) fn trace(report: &TraceReport) -> String {
    let mut text = format!("{}\n\n", report.packet);
    for step in &report.steps {
        let mark = match step.result.as_str() {
            "pass" => "ok  ",
            "drop" => "DROP",
            _ => "    ",
        };
        let host = if step.host.is_empty() { String::new() } else { format!("[{}] ", step.host) };
        let _ = writeln!(text, "{mark} {:<15} {host}{}", step.step, step.text);
        if let Some(at) = &step.at {
            let _ = writeln!(text, "{:20} at {at}", "");
        }
        for near in &step.near {
            let _ = writeln!(text, "{:20} close: {near}", "");
        }
    }
    let _ = writeln!(text, "\nverdict: {}", report.verdict);
    text
}

pub(super) fn plan(steps: &[Step]) -> String {
    let mut table = Table::new(["ACTION", "OBJECT", "WHAT", "WHY"]);
    for step in steps {
        table.row([step.action.clone(), step.object.clone(), step.detail.clone(), step.why.clone()]);
    }
    if table.is_empty() { "nothing to do\n".into() } else { table.to_string() }
}

pub(super) fn drop_reasons() -> String {
    let mut table = Table::new(["REASON", "STEP", "MEANING"]);
    for reason in DropReason::ALL {
        let group = format!("{:?}", reason.group()).to_lowercase();
        table.row([reason.name().into(), group, reason.describe().into()]);
    }
    table.to_string()
}
