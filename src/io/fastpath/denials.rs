//! What the rules have refused in the kernel, as drops like all others.

use std::collections::HashSet;

use eastgate_fastpath::{AT_VTEP, Denial, DenialKey, Error, NO_RULE};
use eastgate_policy::rule::{Decision, Direction, RuleId, Verdict};
use eastgate_vtep::fdb::Location;
use eastgate_wire::{Addr, EndpointId, FlowKey, Vni};

use super::{KernelPath, Tables, clock};
use crate::pipeline::{
    counters::{DropCount, DropKey},
    shared::lock,
};

impl KernelPath {
    /// All of them so far, but for those that were settled.
    pub(super) fn denied(&self) -> Result<Vec<(DropKey, DropCount)>, Error> {
        let denials = self.fastpath.denials()?;
        let tables = lock(&self.tables);
        Ok(denials.iter().filter_map(|(key, denial)| row(&tables, key, denial)).collect())
    }

    /// Takes those out whose epoch is over, to be counted elsewhere. Not before they are met a second time: a program may
    /// count in them when it is just over.
    pub(super) fn settle_denied(&self) -> Result<Vec<(DropKey, DropCount)>, Error> {
        let denials = self.fastpath.denials()?;
        let tables = &mut *lock(&self.tables);
        let over: Vec<_> = denials.iter().filter(|(key, _)| !is_in_force(tables, key)).collect();
        let mut settled = Vec::new();
        for (key, denial) in over.iter().filter(|(key, _)| tables.over.contains(key)) {
            self.fastpath.remove_denial(key)?;
            settled.extend(row(tables, key, denial));
        }
        tables.over = over.iter().map(|(key, _)| *key).collect::<HashSet<_>>();
        Ok(settled)
    }
}

fn is_in_force(tables: &Tables, key: &DenialKey) -> bool {
    tables.networks.values().any(|(place, epoch)| (*place, *epoch) == (key.network, key.epoch))
}

fn row(tables: &Tables, key: &DenialKey, denial: &Denial) -> Option<(DropKey, DropCount)> {
    let (vni, _) = tables.networks.iter().find(|(_, (place, _))| *place == key.network)?;
    let rule = (key.rule != NO_RULE).then_some(key.rule);
    let direction = if key.direction == 0 { Direction::Ingress } else { Direction::Egress };
    let decision = Decision { verdict: Verdict::Deny, rule: rule.map(RuleId) };
    let key = DropKey {
        vni: Some(*vni),
        reason: decision.drop_reason(direction)?,
        from: location(tables, key.from),
        by: Some(EndpointId(key.endpoint)),
        rule,
    };
    let count = DropCount {
        frames: denial.packets,
        bytes: denial.bytes,
        last_at: clock::from_monotonic(denial.last_at),
        last: last(*vni, denial),
    };
    Some((key, count))
}

fn location(tables: &Tables, at: u32) -> Option<Location> {
    if at & AT_VTEP == 0 {
        let port = tables.ports.iter().find(|(_, (port, _))| port.ifindex == at);
        return port.map(|(id, _)| Location::Local(*id));
    }
    let is_it = |place: u32| place == at & !AT_VTEP;
    let vtep = tables.vteps.iter().find(|(_, place)| place.is_some_and(|place| is_it(place.place)));
    vtep.map(|(vtep, _)| Location::Remote(*vtep))
}

fn last(vni: Vni, denial: &Denial) -> Option<FlowKey> {
    Some(FlowKey {
        src: Addr::from_bits(u128::from_be_bytes(denial.src)),
        dst: Addr::from_bits(u128::from_be_bytes(denial.dst)),
        vni,
        sport: denial.sport,
        dport: denial.dport,
        proto: u8::try_from(denial.proto).ok()?,
    })
}
