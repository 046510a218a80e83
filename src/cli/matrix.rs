//! `eastgate show matrix` as people read it.

use eastgate_api::{MatrixRow, PassageRow};
use eastgate_wire::names;

use super::table::Table;

/// So many services, passages and rules are shown in a cell; JSON has more.
const SHOWN: usize = 4;

/// Pairs of groups between which nothing may pass and nothing was seen are left out, and counted.
pub(super) fn text(rows: &[MatrixRow]) -> String {
    let mut table = Table::new([
        "VNI",
        "FROM",
        "TO",
        "MAY",
        "SERVICES",
        "BY",
        "FLOWS",
        "REFUSED",
        "REFUSED BY",
        "WOULD DENY",
        "STAGED",
    ]);
    let silent = rows.iter().filter(|row| row.is_silent()).count();
    for row in rows.iter().filter(|row| !row.is_silent()) {
        table.row([
            row.vni.to_string(),
            row.from.clone(),
            row.to.clone(),
            may(row),
            services(&row.passages),
            rules(&row.passages),
            row.flows.to_string(),
            row.refused.to_string(),
            names::some_of(&row.refused_by.iter().map(|by| by.rule.clone()).collect::<Vec<_>>(), SHOWN, "; "),
            row.would_deny.to_string(),
            staged(row),
        ]);
    }
    let mut text = if table.is_empty() { String::new() } else { table.to_string() };
    if silent > 0 {
        let pairs = names::count(silent, "more pair");
        text += &format!("{pairs} of which nothing may pass and nothing was seen\n");
    }
    if text.is_empty() { "no endpoints\n".to_owned() } else { text }
}

/// Whether all pairs of endpoints have something that may pass, or how many.
fn may(row: &MatrixRow) -> String {
    match row.passing {
        0 if row.unasked > 0 => "?".to_owned(),
        0 => "no".to_owned(),
        all if all == row.pairs => "yes".to_owned(),
        some => format!("{some} of {} pairs", row.pairs),
    }
}

fn services(passages: &[PassageRow]) -> String {
    let mut services: Vec<String> = Vec::new();
    for service in passages.iter().flat_map(|passage| &passage.services) {
        if !services.contains(service) {
            services.push(service.clone());
        }
    }
    names::some_of(&services, SHOWN, ", ")
}

fn rules(passages: &[PassageRow]) -> String {
    let mut rules: Vec<String> = Vec::new();
    for rule in passages.iter().filter_map(|passage| passage.ingress.as_ref().or(passage.egress.as_ref())) {
        if !rules.contains(&rule.rule) {
            rules.push(rule.rule.clone());
        }
    }
    names::some_of(&rules, SHOWN, "; ")
}

fn staged(row: &MatrixRow) -> String {
    let mut parts = Vec::new();
    if row.staged_refused > 0 {
        parts.push(format!("would refuse {}", names::count(row.staged_refused, "flow")));
    }
    if row.staged_passed > 0 {
        parts.push(format!("would pass {}", names::count(row.staged_passed, "packet")));
    }
    if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }
}
