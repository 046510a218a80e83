//! Rules that do nothing, each with the rule that makes it so.

use std::collections::{BTreeMap, BTreeSet};

use eastgate_policy::{
    analysis::{Standing, same_match, standings},
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

/// How a rule stands in all networks that it is compiled in, with the others by name: a rule of the site is one of several tenants'.
#[derive(Default)]
struct Whole {
    used: bool,
    met: bool,
    acts: bool,
    needed: bool,
    shadowed_by: BTreeSet<By>,
    redundant_by: BTreeSet<By>,
    /// Those of them that say the same
    equal: BTreeSet<By>,
}

/// The rules that do nothing, in the order in which they are written in each file. A rule is one that does nothing when it does
/// nothing in any network.
#[must_use]
pub fn lint(policies: &Policies) -> Vec<Row> {
    let mut all: BTreeMap<By, Whole> = BTreeMap::new();
    for network in &policies.networks {
        for (id, standing) in standings(network.side().source) {
            // What a policy's end or a tenant's mode stands for is no rule that anybody wrote.
            let Some(rule) = network.written_rule(id) else { continue };
            all.entry(By { rule: Some(rule.0), at: Some(rule.1) }).or_default().add(network, id, &standing);
        }
    }
    for policy in policies.config.site.policies.values() {
        // Whom it applies to has it among its rules.
        for (direction, rules) in [("ingress", &policy.ingress), ("egress", &policy.egress)] {
            for (rule, number) in rules.iter().zip(1..) {
                let name = format!("policy {} {direction} #{number}", policy.name);
                all.entry(By { rule: Some(name), at: Some(rule.at.to_string()) }).or_default();
            }
        }
    }
    let mut rows: Vec<Row> = all.iter().filter_map(|(rule, whole)| row(rule, whole, &all)).collect();
    rows.sort_by_key(place);
    rows
}

/// File, line and column of a row
fn place(row: &Row) -> (String, u32, u32) {
    let mut parts = row.at.rsplitn(3, ':');
    let mut number = || parts.next().and_then(|part| part.parse().ok()).unwrap_or(0);
    let (column, line) = (number(), number());
    (parts.next().unwrap_or_default().to_owned(), line, column)
}

impl Whole {
    fn add(&mut self, network: &NetworkPolicy, id: RuleId, standing: &Standing) {
        let named = |by: &Option<RuleId>| {
            let (rule, at) = by.and_then(|id| network.rule(id)).unzip();
            By { rule, at }
        };
        self.used |= standing.used;
        self.met |= standing.met;
        self.acts |= standing.acts.is_some();
        self.needed |= standing.needed.is_some();
        self.shadowed_by.extend(standing.shadowed_by.iter().map(named));
        self.redundant_by.extend(standing.redundant_by.iter().map(named));
        let others = standing.shadowed_by.iter().chain(&standing.redundant_by);
        let same = others.filter(|by| by.is_some_and(|by| same_match(network.side().source, id, by)));
        self.equal.extend(same.map(named));
    }

    /// The one rule that makes it so, if it says the same.
    fn equal_to(&self, by: &BTreeSet<By>) -> Option<By> {
        let mut all = by.iter();
        let only = all.next().filter(|_| all.next().is_none())?;
        self.equal.contains(only).then(|| only.clone())
    }
}

fn row(rule: &By, it: &Whole, all: &BTreeMap<By, Whole>) -> Option<Row> {
    let none = BTreeSet::new();
    let (finding, by) = match it {
        Whole { used: false, .. } => ("unused", &none),
        Whole { met: false, .. } => ("unmet", &none),
        Whole { acts: false, .. } => {
            (it.equal_to(&it.shadowed_by).map_or("shadowed", |_| "equal"), &it.shadowed_by)
        }
        Whole { needed: false, .. } => match it.equal_to(&it.redundant_by) {
            // Of two that are equal the one behind is told.
            Some(other) if all.get(&other).is_some_and(|other| !other.acts) => return None,
            Some(_) => ("equal", &it.redundant_by),
            None => ("redundant", &it.redundant_by),
        },
        _ => return None,
    };
    let by: Vec<By> = by.iter().cloned().collect();
    let text = text(finding, &by);
    Some(Row { finding, rule: rule.rule.clone()?, at: rule.at.clone()?, by, text })
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
