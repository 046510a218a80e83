//! Rules that do nothing, each with the rule that makes it so.

use std::collections::{BTreeMap, BTreeSet};

use eastgate_policy::{
    analysis::{Finding, Standing, same_match, standings},
    rule::RuleId,
};
use serde::Serialize;

use super::{NetworkPolicy, Policies};

/// A rule that does nothing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Row {
    /// `unused`, `unmet`, `equal`, `shadowed` or `redundant`
    pub finding: &'static str,
    /// The rule
    pub rule: String,
    /// Where it is written
    pub at: String,
    /// The rules that make it so
    pub by: Vec<By>,
    /// In words
    pub text: String,
}

/// A rule, and where it is written.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct By {
    /// The rule; none for the end of a tier
    pub rule: Option<String>,
    /// Where it is written
    pub at: Option<String>,
}

/// The rules that do nothing, in the order of tenants and of their numbers. A rule is one that does nothing when it does nothing in
/// any of its tenant's networks.
#[must_use]
pub fn lint(policies: &Policies) -> Vec<Row> {
    let mut rows = Vec::new();
    for same in policies.networks.chunk_by(|a, b| a.tenant.name == b.tenant.name) {
        let mut all: BTreeMap<RuleId, Standing> = BTreeMap::new();
        for network in same {
            for (rule, standing) in standings(network.side().source) {
                all.entry(rule).or_default().merge(&standing);
            }
        }
        let Some(network) = same.first() else { continue };
        let found: BTreeMap<RuleId, Finding> =
            all.iter().filter_map(|(id, standing)| Some((*id, standing.finding()?))).collect();
        rows.extend(found.iter().filter_map(|(id, finding)| row(network, *id, finding, &found)));
    }
    rows
}

/// The one rule that a finding names, if it says the same as `id` does.
fn equal(network: &NetworkPolicy, id: RuleId, by: &BTreeSet<Option<RuleId>>) -> Option<RuleId> {
    let mut by = by.iter();
    let only = by.next().copied().flatten().filter(|_| by.next().is_none())?;
    same_match(network.side().source, id, only).then_some(only)
}

fn row(
    network: &NetworkPolicy,
    id: RuleId,
    finding: &Finding,
    all: &BTreeMap<RuleId, Finding>,
) -> Option<Row> {
    let (rule, at) = network.rule(id)?;
    let none = BTreeSet::new();
    let (finding, by) = match finding {
        Finding::Unused => ("unused", &none),
        Finding::Unmet => ("unmet", &none),
        Finding::Shadowed(by) => (equal(network, id, by).map_or("shadowed", |_| "equal"), by),
        Finding::Redundant(by) => match equal(network, id, by) {
            // Of two that are equal the one behind is told.
            Some(other) if matches!(all.get(&other), Some(Finding::Shadowed(_))) => return None,
            Some(_) => ("equal", by),
            None => ("redundant", by),
        },
    };
    let by = by.iter().map(|by| {
        let (rule, at) = by.and_then(|id| network.rule(id)).unzip();
        By { rule, at }
    });
    let by: Vec<By> = by.collect();
    let text = text(finding, &by);
    Some(Row { finding, rule, at, by, text })
}

fn text(finding: &str, by: &[By]) -> String {
    let names: Vec<String> = by
        .iter()
        .map(|by| match (&by.rule, &by.at) {
            (Some(rule), Some(at)) => format!("{rule} ({at})"),
            _ => "the end of a tier".to_owned(),
        })
        .collect();
    let names = names.join(", ");
    match finding {
        "unused" => "no endpoint has it".to_owned(),
        "unmet" => {
            "no packet is like what it matches: nobody is in the group or set that it names".to_owned()
        }
        "equal" => format!("it says what {names} says"),
        "shadowed" => format!("all it matches is decided by {names}"),
        _ => format!("without it the same would be decided by {names}"),
    }
}
