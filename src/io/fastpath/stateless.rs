//! What rules without state have let pass in the kernel: counted there for good, and fetched as what has come since.

use std::collections::BTreeMap;

use eastgate_conntrack::flow::Count;
use eastgate_dataplane::pipeline::{offload::Stateless, shared::lock};
use eastgate_fastpath::{Denied, Error, NETWORK_STATELESS, PolicyDropKey};
use eastgate_policy::rule::Direction;
use eastgate_wire::{EndpointId, Vni};

use super::{KernelPath, Tables};
use crate::io::clock;

/// What was fetched of each row.
pub(super) type Fetched = BTreeMap<PolicyDropKey, Row>;

/// What was fetched of a row, and whether its epoch was over then.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Row {
    count: Count,
    is_over: bool,
}

impl KernelPath {
    /// What has passed since this was called last.
    pub(super) fn newly_passed(&self) -> Result<Vec<Stateless>, Error> {
        let mut fetched = lock(&self.fetched);
        let networks = networks(&lock(&self.tables));
        if networks.is_empty() && fetched.is_empty() {
            return Ok(Vec::new());
        }
        let mut new = Vec::new();
        for (key, passed) in self.fastpath.passed_stateless()? {
            let network = networks.get(&key.network).copied();
            let row = fetched.entry(key).or_default();
            new.extend(network.and_then(|(vni, _)| since(&key, &passed, row, vni)));
            row.count = Count { packets: passed.packets, bytes: passed.bytes };
            let is_in_force = network.is_some_and(|(_, policy)| policy == key.policy);
            // Programs that had begun before its epoch was over were done with it when it was read just now.
            if row.is_over && !is_in_force {
                self.fastpath.remove_stateless(&key)?;
                fetched.remove(&key);
            } else {
                row.is_over = !is_in_force;
            }
        }
        Ok(new)
    }
}

/// The networks that have a place, by that, each with the policy in force; none where none has rules without state.
fn networks(tables: &Tables) -> BTreeMap<u32, (Vni, u32)> {
    if !tables.networks.values().any(|(_, row)| row.marks & NETWORK_STATELESS != 0) {
        return BTreeMap::new();
    }
    tables.networks.iter().map(|(vni, (place, row))| (*place, (*vni, row.policy))).collect()
}

fn since(key: &PolicyDropKey, passed: &Denied, before: &Row, vni: Vni) -> Option<Stateless> {
    let count = Count {
        packets: passed.packets.saturating_sub(before.count.packets),
        bytes: passed.bytes.saturating_sub(before.count.bytes),
    };
    (count.packets > 0).then(|| Stateless {
        vni,
        policy: key.policy,
        rule: key.rule,
        endpoint: EndpointId(key.endpoint),
        direction: if key.direction == 0 { Direction::Ingress } else { Direction::Egress },
        count,
        last: clock::from_monotonic(passed.last_at),
    })
}
