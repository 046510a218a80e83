//! What the rules have refused in the kernel, as drops like all others.

use std::collections::HashMap;

use eastgate_dataplane::pipeline::{
    counters::{DropCount, DropKey, Seen, SettledDrop, Subject},
    shared::lock,
};
use eastgate_fastpath::{AT_VTEP, Denied, DeniedKey, Error, NO_RULE, PolicyDrop, PolicyDropKey};
use eastgate_policy::rule::{Decision, Direction, RuleId, Verdict};
use eastgate_vtep::fdb::Location;
use eastgate_wire::{Addr, AttachmentId, EndpointId, FlowKey, Leg, Vni, VtepAddr};

use super::{KernelPath, Tables};
use crate::io::{clock, sysopt};

impl KernelPath {
    /// All of them so far, but for those that were settled.
    pub(super) fn denied(&self) -> Result<Vec<(DropKey, DropCount)>, Error> {
        let policy_drops = self.fastpath.policy_drops()?;
        let who = Who::of(&lock(&self.tables));
        Ok(policy_drops.iter().filter_map(|(key, drop)| who.row(key, drop)).collect())
    }

    /// The packets that they were, as far as these are remembered.
    ///
    /// # Errors
    /// When a table cannot be read.
    pub fn seen_denied(&self) -> Result<Vec<(DropKey, Seen)>, Error> {
        let denied = self.fastpath.denied()?;
        let who = Who::of(&lock(&self.tables));
        Ok(denied.iter().filter_map(|(key, denied)| who.seen(key, denied)).collect())
    }

    /// Takes those out whose epoch is over, to be counted elsewhere.
    pub(super) fn settle_denied(&self) -> Result<Vec<SettledDrop>, Error> {
        let who = {
            let mut tables = lock(&self.tables);
            // Reading them all each second would be for nothing.
            if !std::mem::take(&mut tables.unsettled) {
                return Ok(Vec::new());
            }
            Who::of(&tables)
        };
        // Programs that have begun before their epoch was over count in them until they are done.
        sysopt::wait_for_programs();
        let again = |error: Error| {
            lock(&self.tables).unsettled = true;
            error
        };
        let mut settled = Vec::new();
        let policy_drops = self.fastpath.policy_drops().map_err(again)?;
        let mut seen = self.settle_seen(&who);
        for (key, drop) in policy_drops.iter().filter(|(key, _)| !who.is_in_force(key)) {
            match self.fastpath.remove_denial(key).map_err(again) {
                Ok(()) => settled.extend(who.row(key, drop).map(|(row, count)| SettledDrop {
                    key: row,
                    count,
                    seen: seen.remove(key).unwrap_or_default(),
                    policy: key.policy,
                })),
                Err(error) => tracing::error!(%error, "what the rules have refused takes up room"),
            }
        }
        Ok(settled)
    }

    /// Takes the packets out whose epoch is over. What cannot be read is only not told packet by packet.
    fn settle_seen(&self, who: &Who) -> HashMap<PolicyDropKey, Vec<Seen>> {
        let mut settled: HashMap<PolicyDropKey, Vec<Seen>> = HashMap::new();
        let denied = self.fastpath.denied().unwrap_or_default();
        for (key, denied) in denied.iter().filter(|(key, _)| !who.is_in_force(&key.kind)) {
            // One that has just given way to another is gone as it should be.
            let _ = self.fastpath.remove_denied(key);
            if let Some((_, seen)) = who.seen(key, denied) {
                settled.entry(key.kind).or_default().push(seen);
            }
        }
        settled
    }
}

/// Who is meant by the places in a table.
struct Who {
    networks: HashMap<u32, (Vni, u32)>,
    vteps: HashMap<u32, VtepAddr>,
}

impl Who {
    fn of(tables: &Tables) -> Self {
        let networks = tables.networks.iter().map(|(vni, (place, row))| (*place, (*vni, row.policy)));
        let vteps = tables.vteps.iter().filter_map(|(vtep, at)| at.map(|at| (at.place, *vtep)));
        Self { networks: networks.collect(), vteps: vteps.collect() }
    }

    fn is_in_force(&self, key: &PolicyDropKey) -> bool {
        self.networks.get(&key.network).is_some_and(|(_, policy)| *policy == key.policy)
    }

    fn row(&self, key: &PolicyDropKey, drop: &PolicyDrop) -> Option<(DropKey, DropCount)> {
        let key = self.key(key)?;
        let vni = key.vni?;
        let count = DropCount {
            frames: drop.packets,
            bytes: drop.bytes,
            first_at: clock::from_monotonic(drop.first_at),
            last_at: clock::from_monotonic(drop.last_at),
            last: last(vni, drop).map(Subject::of_flow),
        };
        Some((key, count))
    }

    fn seen(&self, key: &DeniedKey, denied: &Denied) -> Option<(DropKey, Seen)> {
        let row = self.key(&key.kind)?;
        let flow = FlowKey {
            src: Addr::from_bits(u128::from_be_bytes(key.src)),
            dst: Addr::from_bits(u128::from_be_bytes(key.dst)),
            vni: row.vni?,
            sport: key.sport,
            dport: key.dport,
            proto: u8::try_from(key.proto).ok()?,
            leg: Leg::DIRECT,
        };
        let seen = Seen {
            subject: Subject::of_flow(flow),
            frames: denied.packets,
            bytes: denied.bytes,
            last_at: clock::from_monotonic(denied.last_at),
        };
        Some((row, seen))
    }

    fn key(&self, key: &PolicyDropKey) -> Option<DropKey> {
        let (vni, _) = *self.networks.get(&key.network)?;
        let rule = (key.rule != NO_RULE).then_some(key.rule);
        let direction = if key.direction == 0 { Direction::Ingress } else { Direction::Egress };
        let decision = Decision { verdict: Verdict::DENY, rule: rule.map(RuleId) };
        let from = match key.from & AT_VTEP {
            0 => Some(Location::Local(AttachmentId(key.from))),
            _ => self.vteps.get(&(key.from & !AT_VTEP)).copied().map(Location::Remote),
        };
        let by = Some(EndpointId(key.endpoint));
        Some(DropKey { vni: Some(vni), reason: decision.drop_reason(direction)?, from, by, rule })
    }
}

fn last(vni: Vni, drop: &PolicyDrop) -> Option<FlowKey> {
    Some(FlowKey {
        src: Addr::from_bits(u128::from_be_bytes(drop.src)),
        dst: Addr::from_bits(u128::from_be_bytes(drop.dst)),
        vni,
        sport: drop.sport,
        dport: drop.dport,
        proto: u8::try_from(drop.proto).ok()?,
        leg: Leg::DIRECT,
    })
}
