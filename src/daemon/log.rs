//! What rules with `log` admit and refuse, in the daemon's own log: a line for each, and of each rule no more than so many.

use std::collections::BTreeMap;

use eastgate_conntrack::flow::{FlowEvent, Happening};
use eastgate_dataplane::{
    pipeline::{
        counters::{DropKey, Seen, dropped},
        events::Event,
    },
    snapshot::Snapshot,
};
use eastgate_wire::{Instant, Rate, TokenBucket, Vni, names};

/// Lines a second that one rule writes in one network
const LINES: Rate = Rate { per_second: 10, burst: 50 };

/// How many lines each rule may write, and how many it would have.
#[derive(Debug, Default)]
pub(super) struct Log(BTreeMap<(Vni, u32), Allowance>);

#[derive(Debug)]
struct Allowance {
    bucket: TokenBucket,
    /// Lines that were left out since the last one
    left_out: u64,
}

impl Log {
    /// Writes those of the events that are to be logged.
    pub(super) fn write(&mut self, snapshot: &Snapshot, events: &[Event], now: Instant) {
        // Rules come and go.
        self.0.retain(|(vni, rule), _| snapshot.network(*vni).is_some_and(|network| network.logs(*rule)));
        for event in events {
            match event {
                Event::Flow(event) | Event::Elsewhere(event) => self.flow(snapshot, event, now),
                Event::Dropped(key, seen) => self.packet(snapshot, key, seen, "refused", now),
                Event::WouldBeDenied(key, seen) => self.packet(snapshot, key, seen, "would be refused", now),
            }
        }
    }

    fn flow(&mut self, snapshot: &Snapshot, event: &FlowEvent, now: Instant) {
        let FlowEvent { what: Happening::Opened, flow, .. } = event else { return };
        for rule in logged_rules(snapshot, flow.key.vni, flow.epoch, [flow.egress_rule, flow.ingress_rule]) {
            if let Some(left_out) = self.take(flow.key.vni, rule, now) {
                let flow = names::packet(&flow.key);
                line(snapshot, event.flow.key.vni, rule, "begun", &flow, 1, left_out);
            }
        }
    }

    fn packet(&mut self, snapshot: &Snapshot, key: &DropKey, seen: &Seen, what: &str, now: Instant) {
        let (Some(vni), Some(rule)) = (key.vni, key.rule) else { return };
        if is_logged(snapshot, key)
            && let Some(left_out) = self.take(vni, rule, now)
        {
            line(snapshot, vni, rule, what, &dropped(key.reason, &seen.subject), seen.frames, left_out);
        }
    }

    /// Whether the rule may write a line: then how many it could not.
    fn take(&mut self, vni: Vni, rule: u32, now: Instant) -> Option<u64> {
        let new = || Allowance { bucket: TokenBucket::new(LINES, now), left_out: 0 };
        let allowance = self.0.entry((vni, rule)).or_insert_with(new);
        if allowance.bucket.take(now) {
            return Some(std::mem::take(&mut allowance.left_out));
        }
        allowance.left_out += 1;
        None
    }
}

/// Those of the rules that admitted a flow whose flows are to be logged.
pub(super) fn logged_rules(
    snapshot: &Snapshot,
    vni: Vni,
    epoch: u32,
    rules: [u32; 2],
) -> impl Iterator<Item = u32> {
    let network = snapshot.network(vni).filter(|network| epoch >= network.numbered);
    rules.into_iter().filter(move |rule| network.is_some_and(|network| network.logs(*rule)))
}

/// Is each packet to be logged that was refused like this?
pub(super) fn is_logged(snapshot: &Snapshot, key: &DropKey) -> bool {
    let network = key.vni.and_then(|vni| snapshot.network(vni));
    network.zip(key.rule).is_some_and(|(network, rule)| network.logs(rule))
}

fn line(snapshot: &Snapshot, vni: Vni, rule: u32, what: &str, about: &str, packets: u64, left_out: u64) {
    let name = snapshot.network(vni).and_then(|network| network.rules.reference(&network.tenant.name, rule));
    let rule = name.map_or_else(|| rule.to_string(), |name| name.rule);
    tracing::info!(target: "eastgate::rule", %vni, rule, packets, left_out, "{what}: {about}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_has_an_allowance_of_its_own_and_what_is_left_out_is_counted() {
        let (vni, at) = (Vni::new_checked(7).unwrap(), |millis: u64| Instant::from_micros(millis * 1000));
        let mut log = Log::default();
        let written = (0..80).filter(|_| log.take(vni, 1, at(1000)).is_some()).count();
        assert_eq!(written, 50);
        assert_eq!(log.take(vni, 2, at(1000)), Some(0));
        assert_eq!(log.take(vni, 1, at(1100)), Some(30));
        assert_eq!(log.take(vni, 1, at(1200)), Some(0));
    }
}
