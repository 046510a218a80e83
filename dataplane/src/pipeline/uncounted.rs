//! What rules have done that is not counted for them yet: in flows that are there, here or elsewhere.

use std::collections::BTreeMap;

use eastgate_conntrack::flow::{FlowFilter, FlowInfo};
use eastgate_wire::{Instant, Vni};

use super::{
    Shared,
    counters::{DropCount, DropKey},
    shared::lock,
};
use crate::snapshot::{Snapshot, rule_counts::RuleCount};

/// Places of the flow table looked at while a shard is locked.
const PAGE: u32 = 1024;

/// What rules have done, by network and number of the rule.
pub type RuleSums = BTreeMap<(Vni, u32), RuleCount>;

impl Shared {
    /// What flows that are there have come to for the rules that admitted them, and what rules have refused elsewhere.
    #[must_use]
    pub fn not_counted_for_rules(
        &self,
        snapshot: &Snapshot,
        refused_elsewhere: &[(DropKey, DropCount)],
        now: Instant,
    ) -> RuleSums {
        let mut sums = RuleSums::new();
        let mut add = |vni: Vni, rule: u32, count: &RuleCount| {
            sums.entry((vni, rule)).or_default().add(count);
        };
        let mut add_flow = |flow: &FlowInfo, flows: u64| {
            let vni = flow.key.vni;
            // Before, the numbers of rules may have meant others.
            if snapshot.network(vni).is_none_or(|network| flow.epoch < network.numbered) {
                return;
            }
            let count = RuleCount {
                flows,
                packets: (flow.original.packets + flow.reply.packets).saturating_sub(flow.counted.packets),
                bytes: (flow.original.bytes + flow.reply.bytes).saturating_sub(flow.counted.bytes),
                would_deny: 0,
                hit: Some((flow.created, flow.last_seen)),
            };
            for rule in [flow.egress_rule, flow.ingress_rule] {
                add(vni, rule, &count);
            }
        };
        // That what is in the table has begun is counted; of what began elsewhere it is when it leaves.
        self.for_each_in_table(now, |flow| add_flow(&self.caught_up(flow), 0));
        self.for_each_created(now, |flow| add_flow(flow, 1));
        for (key, count) in refused_elsewhere {
            if let (Some(vni), Some(rule)) = (key.vni, key.rule) {
                add(vni, rule, &count.of_rule());
            }
        }
        sums
    }

    fn for_each_in_table(&self, now: Instant, mut each: impl FnMut(&FlowInfo)) {
        let mut page = Vec::new();
        for shard in self.all_flows() {
            let mut from = Some(0);
            while let Some(place) = from {
                from = lock(shard).page(place, PAGE, &FlowFilter::default(), now, &mut page);
                page.drain(..).for_each(|flow| each(&flow));
            }
        }
    }

    /// A flow of the table with what has passed elsewhere since it went there.
    fn caught_up(&self, flow: &FlowInfo) -> FlowInfo {
        let mut flow = *flow;
        if flow.offloaded
            && let Some(progress) = self.peek(&flow.key)
        {
            for (count, more) in [&mut flow.original, &mut flow.reply].into_iter().zip(progress.counts) {
                count.packets += more.packets;
                count.bytes += more.bytes;
            }
            flow.last_seen = progress.last_seen.map_or(flow.last_seen, |seen| seen.max(flow.last_seen));
        }
        flow
    }
}
