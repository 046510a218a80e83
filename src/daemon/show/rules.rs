//! What each rule has done: counted when flows end, and read from those that are there.

use std::sync::Arc;

use eastgate_api::{Failure, Filter, List, RuleCountRow, RuleRef};
use eastgate_dataplane::{
    pipeline::counters::{DropCount, DropKey},
    snapshot::{Network, Snapshot, rule_counts::RuleCount},
};
use eastgate_policy::rule::{Action, RuleId, Then};
use eastgate_wire::Instant;

use super::{View, networks, part::Part};
use crate::io::clock;

impl View {
    pub(super) fn rules(&self, snapshot: &Snapshot, filter: &Filter) -> Result<List<RuleCountRow>, Failure> {
        let (part, now) = (Part::of(filter)?, clock::now());
        let drops = self.elsewhere().drops;
        let rules = self.counted_rules(snapshot, &networks(snapshot, filter), &drops, now);
        let rows = part
            .fill(rules.iter().skip(part.from).map(|(network, rule, count)| row(network, *rule, count, now)));
        Ok(List { next: part.next(rows.len(), rules.len()), rows, total: rules.len() })
    }

    /// What each rule of these networks has done, by its number. `drops` are those of the kernel's programs.
    pub(in crate::daemon) fn counted_rules<'s>(
        &self,
        snapshot: &Snapshot,
        networks: &[&'s Arc<Network>],
        drops: &[(DropKey, DropCount)],
        now: Instant,
    ) -> Vec<(&'s Network, u32, RuleCount)> {
        self.shared.count_stateless_elsewhere();
        // Before what is not counted yet: a flow that ends in between is told the next time, and not twice.
        let of = |network: &'s Network| {
            network.rules.in_order().map(move |rule| (network, rule, network.counts.get(rule)))
        };
        let mut rules: Vec<_> = networks.iter().flat_map(|network| of(network)).collect();
        let more = self.shared.not_counted_for_rules(snapshot, drops, now);
        for (network, rule, count) in &mut rules {
            count.add(&more.get(&(network.vni, *rule)).copied().unwrap_or_default());
        }
        rules
    }
}

pub(in crate::daemon) fn row(network: &Network, rule: u32, count: &RuleCount, now: Instant) -> RuleCountRow {
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
