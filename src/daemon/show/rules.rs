//! What each rule has done: counted when flows end, and read from those that are there.

use eastgate_api::{Failure, Filter, List, RuleCountRow, RuleRef};
use eastgate_dataplane::snapshot::{Network, Snapshot, rule_counts::RuleCount};
use eastgate_policy::rule::{Action, RuleId, Then};
use eastgate_wire::Instant;

use super::{View, networks, part::Part};
use crate::io::clock;

impl View {
    pub(in crate::daemon) fn rules(
        &self,
        snapshot: &Snapshot,
        filter: &Filter,
    ) -> Result<List<RuleCountRow>, Failure> {
        let (part, now) = (Part::of(filter)?, clock::now());
        self.shared.count_stateless_elsewhere();
        let rules: Vec<(&Network, u32)> = networks(snapshot, filter)
            .into_iter()
            .flat_map(|network| network.rules.in_order().map(move |rule| (&**network, rule)))
            .collect();
        let more = self.shared.not_counted_for_rules(snapshot, &self.elsewhere().drops, now);
        let rows = part.fill(rules.iter().skip(part.from).map(|(network, rule)| {
            let mut count = network.counts.get(*rule);
            count.add(&more.get(&(network.vni, *rule)).copied().unwrap_or_default());
            row(network, *rule, &count, now)
        }));
        Ok(List { next: part.next(rows.len(), rules.len()), rows, total: rules.len() })
    }
}

fn row(network: &Network, rule: u32, count: &RuleCount, now: Instant) -> RuleCountRow {
    let name = network.rules.reference(&network.tenant.name, rule);
    let name = name.unwrap_or_else(|| RuleRef { rule: rule.to_string(), at: String::new() });
    let does = network.policy.does(RuleId(rule));
    let verdict = match does {
        Some(Then::Settle(verdict)) => Some(verdict),
        Some(Then::Pass) | None => None,
    };
    let action = match (does, verdict.map(|verdict| verdict.action)) {
        (None, _) => "none",
        (_, None) => "pass",
        (_, Some(Action::Allow)) if verdict.is_some_and(|verdict| verdict.stateless) => "allow-stateless",
        (_, Some(Action::Allow)) => "allow",
        (_, Some(Action::Deny)) => "deny",
        (_, Some(Action::Reject)) => "reject",
    };
    RuleCountRow {
        vni: network.vni,
        rule: name.rule,
        at: name.at,
        action: action.to_owned(),
        log: verdict.is_some_and(|verdict| verdict.log),
        audit: verdict.is_some_and(|verdict| verdict.audit),
        flows: count.flows,
        packets: count.packets,
        bytes: count.bytes,
        would_deny: count.would_deny,
        first_s: count.hit.map(|(first, _)| now.since(first).as_secs()),
        last_s: count.hit.map(|(_, last)| now.since(last).as_secs()),
    }
}
