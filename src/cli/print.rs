//! Answers as people read them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use eastgate_api::{
    Done, DropRow, DropRows, EndpointRow, ExpectationRow, FdbRow, FlowCounts, FlowRow, HelperCounts,
    MachineRow, NeighborRow, PolicyRow, RelatedTo, Remedy, Restored, RuleCountRow, RuleRef, StationPort,
    Status, TraceReport, TraceStep,
};
use eastgate_config::Config;
use eastgate_wire::{Addr, DropReason, names};

use super::table::Table;
use crate::{changes, plan::Line};

pub(super) fn summary(config: &Config) -> String {
    let networks = config.networks().count();
    let endpoints: usize = config.networks().map(|(_, network)| network.endpoints.len()).sum();
    let numbers = [
        names::count(config.hosts.len(), "host"),
        names::count(config.tenants.len(), "tenant"),
        names::count(networks, "network"),
        names::count(endpoints, "endpoint"),
    ];
    format!("fine: {}", numbers.join(", "))
}

pub(super) fn status(status: &Status) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: String| {
        let _ = writeln!(text, "{key:<12} {value}");
    };
    line("host", format!("{} ({})", status.host, if status.ready { "ready" } else { "not ready" }));
    line("version", status.version.clone());
    line("config", format!("{}, epoch {}, digest {}", status.config, status.epoch, status.digest));
    if status.networks == 0 {
        line("networks", "none: the configuration has nothing for this host".into());
    }
    if let Some(error) = &status.reload_error {
        line("reload", format!("REFUSED, the configuration before stays in force:\n{error}"));
    }
    if let Some(error) = &status.api_error {
        line("api", error.clone());
    }
    let vtep = &status.vtep;
    let state = match (vtep.listening, vtep.up) {
        (true, true) => "listening".to_owned(),
        (true, false) => "device down".to_owned(),
        (false, _) => {
            let why = vtep.problem.as_ref().map_or_else(String::new, |why| format!(": {why}"));
            format!("NOT LISTENING{why}")
        }
    };
    line("vtep", format!("{} udp {} on {} ({state})", vtep.address, vtep.port, vtep.device));
    line("mtu", format!("underlay {}, tenants {}", vtep.mtu, vtep.tenant_mtu));
    if !vtep.too_small_for.is_empty() {
        let networks = vtep.too_small_for.join(", ");
        line("", format!("LESS THAN THE mtu OF {networks}: larger packets are cut or dropped"));
    }
    if vtep.bursts_refused > 0 {
        line("bursts", format!("{} were not taken by the kernel and sent one by one", vtep.bursts_refused));
    }
    line("dataplane", format!("{}, {}", status.dataplane, names::count(status.workers, "worker")));
    line("flows", flow_counts(&status.flows));
    if status.helpers.announced + status.helpers.unheeded.values().sum::<u64>() > 0 {
        line("helpers", helper_counts(&status.helpers));
    }
    if status.learned.addresses + status.learned.refused > 0 {
        let learned = names::count(status.learned.addresses, "address");
        line("learned", format!("{learned}, {} refused", status.learned.refused));
    }
    for port in &status.stations {
        line("stations", station_port(port));
    }
    if !status.excluded.is_empty() {
        line("unprotected", names::some_of(&status.excluded, LISTED, ", "));
    }
    let traffic = &status.traffic;
    line("ports", format!("{} frames in, {} out", traffic.from_ports, traffic.to_ports));
    line("underlay", format!("{} datagrams in, {} out", traffic.from_underlay, traffic.to_underlay));
    let repeated = match traffic.answers_repeated {
        0 => String::new(),
        answers => format!(", {answers} of them given again by the kernel"),
    };
    line("answers", format!("{} to ARP and ND{repeated}", traffic.answers));
    if traffic.decided_again > 0 {
        line("rechecked", format!("{} flows decided again after changes", traffic.decided_again));
    }
    if traffic.rejects_told + traffic.rejects_limited > 0 {
        let untold = match traffic.rejects_limited {
            0 => String::new(),
            untold => format!(", {untold} more were not, for the limit"),
        };
        line("rejected", format!("senders of {} packets were told{untold}", traffic.rejects_told));
    }
    if traffic.would_deny > 0 {
        line("audit", format!("{} packets passed that would have been refused", traffic.would_deny));
    }
    if traffic.fragmented > 0 {
        line("fragmented", format!("{} packets that did not fit the tunnel", traffic.fragmented));
    }
    if !status.punts.is_empty() {
        line("punt", punts(&status.punts));
    }
    line("dropped", format!("{} (see `eastgate show drops`)", names::count(traffic.dropped, "frame")));
    if status.settings_restored > 0 {
        let settings = names::count(status.settings_restored, "setting");
        line("settings", format!("{settings} changed by someone else and put right"));
    }
    if status.control_restored > 0 {
        let times = names::count(status.control_restored, "time");
        line("socket", format!("removed by someone else and made again, {times}"));
    }
    let restored = &status.restored;
    if let Some(last) = &restored.last {
        let Restored { programs, devices, files, routes, .. } = restored;
        let counts = format!("{programs} programs, {devices} devices, {files} files, {routes} routes");
        line("restored", format!("{counts} that someone else took away; last: {last}"));
    }
    if let Some(resident) = status.memory.resident {
        let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
        line("memory", format!("{}, of it {} compiled policies", mib(resident), mib(status.memory.policies)));
    }
    line("uptime", format!("{} s", status.uptime_s));
    for problem in &status.problems {
        line("PROBLEM", problem.clone());
    }
    let mut table = Table::new(["PORT", "ENDPOINT", "VNI", "STATE"]);
    for port in &status.ports {
        let captured = if port.captured { ", captured" } else { "" };
        let state = format!("{}{captured}", port.state);
        table.row([port.name.clone(), port.endpoint.clone(), port.vni.to_string(), state]);
    }
    if !table.is_empty() {
        let _ = write!(text, "\n{table}");
    }
    // Of a shared segment once: its endpoints are told apart behind the slash.
    let place = |name: &'_ str| name.split('/').next().map(str::to_owned);
    let noted = status.ports.iter().filter_map(|port| Some((place(&port.name)?, port.note.as_ref()?)));
    for (place, note) in noted.collect::<BTreeSet<_>>() {
        let _ = writeln!(text, "note: {place}: {note}");
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
        each => format!("{} left to the pipeline: {}", names::count(all, "packet"), each.join(", ")),
    }
}

/// Things of a list that are named in a cell; JSON has them all.
const LISTED: usize = 8;

/// A sentence with a list in it, of which the first few are named.
fn short(text: &str) -> String {
    let parts: Vec<String> = text.split(", ").map(str::to_owned).collect();
    if text.len() > 200 { names::some_of(&parts, LISTED, ", ") } else { text.to_owned() }
}

fn or_none(table: &Table, what: &str) -> String {
    if table.is_empty() { format!("no {what}\n") } else { table.to_string() }
}

/// An address, and how it was learned if it was: `10.1.0.7(dhcp,3600s)`.
fn address(address: Addr, row: &EndpointRow) -> String {
    let Some(learned) = row.learned.iter().find(|it| it.address == address) else {
        return address.to_string();
    };
    let by = if learned.elsewhere { "elsewhere" } else { &learned.by };
    match learned.expires_s {
        Some(left) => format!("{address}({by},{left}s)"),
        None => format!("{address}({by})"),
    }
}

pub(super) fn endpoints(rows: &[EndpointRow]) -> String {
    let mut table = Table::new([
        "VNI",
        "ENDPOINT",
        "HOST",
        "PORT",
        "MAC",
        "ADDRESSES",
        "GROUPS",
        "SENT",
        "RECEIVED",
        "STAYS IN USERSPACE BECAUSE",
    ]);
    for row in rows {
        let addresses: Vec<String> = row.addresses.iter().map(|it| address(*it, row)).collect();
        table.row([
            row.vni.to_string(),
            row.endpoint.clone(),
            row.host.clone(),
            row.port.clone().unwrap_or_default() + if row.routed { " (routed by the kernel)" } else { "" },
            row.mac.to_string(),
            names::some_of(&addresses, LISTED, ","),
            if row.excluded { "UNPROTECTED".into() } else { names::some_of(&row.groups, LISTED, ",") },
            row.tx_frames.to_string(),
            row.rx_frames.to_string(),
            row.userspace.clone().unwrap_or_default(),
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

pub(super) fn side(address: &eastgate_wire::Addr, port: u16) -> String {
    match port {
        0 => address.to_string(),
        port => std::net::SocketAddr::new(address.to_ip(), port).to_string(),
    }
}

fn rule_name(rule: Option<&RuleRef>) -> String {
    rule.map(|rule| rule.rule.clone()).unwrap_or_default()
}

/// How many flows there are, and who has made room.
fn flow_counts(flows: &FlowCounts) -> String {
    let mut text = format!("{} replied, {} unreplied", flows.replied, flows.unreplied);
    let gone: Vec<_> = flows.made_room.iter().filter(|(_, count)| **count > 0).collect();
    if !gone.is_empty() {
        let gone: Vec<_> = gone.iter().map(|(rank, count)| format!("{rank} {count}")).collect();
        text += &format!("; made room: {}", gone.join(", "));
    }
    text
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
            match &row.via {
                Some(via) => format!("{} via {via}", side(&row.dst, row.dport)),
                None => side(&row.dst, row.dport),
            },
            // As conntrack marks them.
            format!(
                "{}{}{}{}{}",
                row.state,
                if row.offloaded { " [OFFLOAD]" } else { "" },
                if row.probe { " [PROBE]" } else { "" },
                if row.audit { " [AUDIT]" } else { "" },
                helped(row)
            ),
            row.packets.to_string(),
            row.reply_packets.to_string(),
            format!("{}s", row.expires_s),
            rule_name(row.egress_rule.as_ref()),
            rule_name(row.ingress_rule.as_ref()),
        ]);
    }
    or_none(&table, "flows")
}

/// Which helper follows a flow, or has let it begin
fn helped(row: &FlowRow) -> String {
    match (&row.helper, &row.related) {
        (Some(helper), _) => format!(" helper={helper}"),
        (None, Some(related)) => format!(" [RELATED {}]", related.helper),
        (None, None) => String::new(),
    }
}

pub(super) fn expectations(rows: &[ExpectationRow]) -> String {
    let mut table =
        Table::new(["VNI", "PROTO", "SOURCE", "DESTINATION", "EXPIRES", "HELPER", "CONTROL FLOW"]);
    for row in rows {
        table.row([
            row.vni.to_string(),
            row.proto.clone(),
            row.src.to_string(),
            side(&row.dst, row.dport),
            format!("{}s", row.expires_s),
            row.related.helper.clone(),
            control_flow(&row.related),
        ]);
    }
    or_none(&table, "expectations")
}

fn station_port(port: &StationPort) -> String {
    let StationPort { device, state, stations, machines, refused, last_refusal, not_heard } = port;
    let stations: Vec<String> = stations.iter().map(ToString::to_string).collect();
    let who =
        if stations.is_empty() { "none heard".to_owned() } else { names::some_of(&stations, LISTED, ", ") };
    let mut text = format!("{device} ({state}): {who}; {} associated", names::count(*machines, "machine"));
    if let Some(last) = last_refusal {
        let _ = write!(text, "; {} refused, the last of VSI {last}", names::count(*refused, "request"));
    }
    if *not_heard > 0 {
        let _ = write!(text, "; {} of stations that are not to be heard", names::count(*not_heard, "frame"));
    }
    text
}

pub(super) fn machines(rows: &[MachineRow]) -> String {
    let mut table = Table::new(["VNI", "ENDPOINT", "PORT", "STATION", "VSI", "PROFILE", "STATE", "SINCE"]);
    for row in rows {
        let MachineRow { manager, kind, version, .. } = row;
        let vlan = row.vlan.map_or_else(String::new, |vlan| format!(".{vlan}"));
        table.row([
            row.vni.to_string(),
            row.endpoint.clone(),
            format!("{}{vlan}/{}", row.device, row.mac),
            row.station.to_string(),
            row.vsi.clone(),
            format!("{} ({manager} {kind}.{version})", row.profile),
            if row.in_force { "in force" } else { "coming" }.to_owned(),
            format!("{}s", row.since_s),
        ]);
    }
    or_none(&table, "machines")
}

pub(super) fn control_flow(related: &RelatedTo) -> String {
    format!("{} -> {}", side(&related.src, related.sport), side(&related.dst, related.dport))
}

/// What helpers have come to.
fn helper_counts(counts: &HelperCounts) -> String {
    let HelperCounts { expected, announced, begun, overdue, made_room, limited, unheeded } = counts;
    let mut text = format!("{expected} expected of {announced} announced, {begun} begun");
    let ignored = unheeded.iter().map(|(why, count)| (why.as_str(), count));
    let more = [("overdue", overdue), ("made room", made_room), ("for the limit not expected", limited)];
    for (what, count) in more.into_iter().chain(ignored).filter(|(_, count)| **count > 0) {
        let _ = write!(text, ", {what} {count}");
    }
    text
}

/// How many of all rows are shown, where not all are.
pub(super) fn some_of_all(shown: usize, total: usize, what: &str) -> String {
    if total > shown { format!("\n{shown} of {total} {what}\n") } else { String::new() }
}

pub(super) fn drops(answer: &DropRows) -> String {
    let mut text = drop_table(&answer.drops);
    text += &some_of_all(answer.drops.len(), answer.total, "rows");
    if answer.chatter_frames > 0 {
        text += &format!(
            "\n{} of chatter (MLD, IGMP, router solicitations, own DAD, LLDP, STP, mDNS, LLMNR, SSDP) not shown: --all shows them\n",
            names::count(answer.chatter_frames, "frame")
        );
    }
    if answer.unknown_frames > 0 {
        text += &format!(
            "\n{} more are counted without what is asked for: `show drops` alone shows their rows\n",
            names::count(answer.unknown_frames, "frame")
        );
    }
    text
}

fn drop_table(rows: &[DropRow]) -> String {
    let mut table = Table::new(["VNI", "REASON", "FROM", "FRAMES", "LAST", "AGO", "RULE", "AT"]);
    for row in rows {
        table.row([
            row.vni.map(|vni| vni.to_string()).unwrap_or_default(),
            row.reason.clone(),
            row.from.clone().unwrap_or_default(),
            row.frames.to_string(),
            match (&row.last, row.kinds) {
                (Some(last), 2..) => format!("{last} (+{})", names::count(row.kinds - 1, "other")),
                (last, _) => last.clone().unwrap_or_default(),
            },
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
            "vni {} {}: {} in {}, {}, {}, {}",
            row.vni,
            row.network,
            names::count(row.rules, "rule"),
            names::count(row.rulesets, "ruleset"),
            if row.identities == 1 { "1 identity".into() } else { format!("{} identities", row.identities) },
            names::count(row.lists, "interval list"),
            names::count(row.bytes, "byte")
        );
        for group in &row.groups {
            let members = names::some_of(&group.members, LISTED, ", ");
            let _ = writeln!(text, "\n  {} ({members})", group.group);
            let mut table = Table::new(["    RULE", "ALLOWS", "FLOWS", "AT"]);
            for rule in &group.rules {
                let name = format!("    {}", rule.rule);
                table.row([name, short(&rule.text), rule.flows.to_string(), rule.at.clone()]);
            }
            let _ = write!(text, "{table}");
        }
        text.push('\n');
    }
    if text.is_empty() { "no networks\n".into() } else { text }
}

pub(super) fn rules(rows: &[RuleCountRow]) -> String {
    let mut table =
        Table::new(["VNI", "RULE", "DOES", "FLOWS", "PACKETS", "BYTES", "WOULD DENY", "FIRST", "LAST", "AT"]);
    let ago =
        |seconds: Option<u64>| seconds.map_or_else(|| "never".to_owned(), |seconds| format!("{seconds}s"));
    for row in rows {
        let does = [(row.log, " log"), (row.audit, " audit")].into_iter().filter(|(is, _)| *is);
        table.row([
            row.vni.to_string(),
            row.rule.clone(),
            does.fold(row.action.clone(), |text, (_, more)| text + more),
            row.flows.to_string(),
            row.packets.to_string(),
            row.bytes.to_string(),
            row.would_deny.to_string(),
            ago(row.first_s),
            ago(row.last_s),
            row.at.clone(),
        ]);
    }
    or_none(&table, "rules")
}

pub(super) fn trace(report: &TraceReport) -> String {
    let mut text = format!("{}\n\n", report.packet);
    for step in &report.steps {
        self::step(&mut text, "", step);
    }
    let _ = writeln!(text, "\nverdict: {}", report.verdict);
    text + &to_pass(&report.to_pass)
}

/// A step of a packet's way, behind `lead`.
pub(super) fn step(text: &mut String, lead: &str, step: &TraceStep) {
    let mark = match step.result.as_str() {
        "pass" => "ok  ",
        "drop" => "DROP",
        _ => "    ",
    };
    let host = if step.host.is_empty() { String::new() } else { format!("[{}] ", step.host) };
    let _ = writeln!(text, "{lead}{mark} {:<15} {host}{}", step.step, step.text);
    let beside = lead.len() + 20;
    if let Some(at) = &step.at {
        let _ = writeln!(text, "{:beside$} at {at}", "");
    }
    for near in &step.near {
        let _ = writeln!(text, "{:beside$} close: {near}", "");
    }
}

/// Rules that would let it pass.
pub(super) fn to_pass(remedies: &[Remedy]) -> String {
    let mut text = String::new();
    for (count, remedy) in remedies.iter().enumerate() {
        let what = if count == 0 { "to pass:" } else { "and" };
        let _ = writeln!(text, "{what:8} {} in {}\n{:8} at {}", remedy.rule, remedy.place, "", remedy.at);
    }
    text
}

pub(super) fn plan(lines: &[Line]) -> String {
    let mut table = Table::new(["ACTION", "OBJECT", "WHAT", "WHY", "UNDONE BY"]);
    for line in lines {
        let undo = line.undo.clone().unwrap_or_default();
        table.row([line.action.clone(), line.object.clone(), line.detail.clone(), line.why.clone(), undo]);
    }
    if table.is_empty() { "nothing to do\n".into() } else { table.to_string() }
}

/// What a reload has put in force.
pub(super) fn reloaded(done: &Done) -> String {
    let mut text = changed(done, &format!("in force: epoch {}", done.epoch));
    if let Some(ended @ 1..) = done.flows_ended {
        let _ = writeln!(text, "{} ended with the ends they had", names::count(ended, "flow"));
    }
    text
}

pub(super) fn staged(done: &Done) -> String {
    changed(done, "staged")
}

fn changed(done: &Done, what: &str) -> String {
    let mut text: String = done.warnings.iter().map(|warning| format!("warning: {warning}\n")).collect();
    text += what;
    if let Some(digest) = &done.digest {
        let _ = write!(text, ", digest {digest}");
    }
    if let Some(millis) = done.in_force_after {
        let _ = write!(text, ", after {millis} ms");
    }
    text.push('\n');
    text + &done.changes.as_ref().map_or_else(String::new, changes::text)
}

pub(super) fn drop_reasons() -> String {
    let mut table = Table::new(["REASON", "STEP", "MEANING"]);
    for reason in DropReason::ALL {
        let group = format!("{:?}", reason.group()).to_lowercase();
        table.row([reason.name().into(), group, reason.describe().into()]);
    }
    table.to_string()
}
