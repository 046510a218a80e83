//! Flows that are ended before their time: because an operator says so, or because an end of theirs is there no more.

use std::collections::{BTreeMap, BTreeSet};

use eastgate_conntrack::flow::{Ending, FlowInfo};
use eastgate_wire::{Addr, Instant, Leg, Vni};

use super::{
    ruling::{Inquiry, probe_of},
    shared::{Shared, lock},
    track::Ends,
};
use crate::snapshot::{Network, Snapshot};

/// Places of the flow table looked at while a shard is locked.
const PAGE: u32 = 4096;

impl Shared {
    /// Ends the flows that are `wanted`, `most` at most: their next packets are decided anew. How many.
    pub fn end_flows(&self, wanted: &dyn Fn(&FlowInfo) -> bool, most: u64, now: Instant) -> u64 {
        self.end_as(Ending::Killed, wanted, most, now)
    }

    fn end_as(&self, ending: Ending, wanted: &dyn Fn(&FlowInfo) -> bool, most: u64, now: Instant) -> u64 {
        let mut ended = self.end_created(ending, wanted, most, now);
        for shard in self.all_flows() {
            let mut from = Some(0);
            while let Some(place) = from.filter(|_| ended < most) {
                let mut flows = lock(shard);
                let left = u32::try_from(most - ended).unwrap_or(u32::MAX);
                let (some, next) = flows.end_some(ending, place, PAGE, left, wanted, now);
                self.recall(&mut flows);
                ended += u64::from(some);
                from = next;
            }
        }
        ended
    }

    /// Those of them that began elsewhere and are there.
    fn end_created(
        &self,
        ending: Ending,
        wanted: &dyn Fn(&FlowInfo) -> bool,
        most: u64,
        now: Instant,
    ) -> u64 {
        let Some(fastpath) = self.fastpath.get() else { return 0 };
        let mut keys = Vec::new();
        self.for_each_created(now, |info| {
            if wanted(info) {
                keys.push(info.key);
            }
        });
        let snapshot = self.snapshot_arc();
        let mut ended = 0;
        for key in keys {
            if ended >= most {
                break;
            }
            let mut flows = self.flows(&key);
            if flows.knows(&key) {
                continue;
            }
            if let Some(found) = fastpath.end(&key) {
                self.bury(&mut flows, &snapshot, &found, Some(ending), now);
                ended += 1;
            }
        }
        ended
    }

    /// Ends the flows of endpoints, addresses and networks that `after` names no more, which nobody would send anything
    /// on that could end them. How many.
    pub fn end_orphans(&self, before: &Snapshot, after: &Snapshot, now: Instant) -> u64 {
        let gone: BTreeMap<Vni, Gone> = before
            .networks()
            .into_iter()
            .filter_map(|network| {
                Some((network.vni, Gone::of(network, after.network(network.vni).map(AsRef::as_ref))?))
            })
            .collect();
        if gone.is_empty() {
            return 0;
        }
        let orphaned = |flow: &FlowInfo| {
            gone.get(&flow.key.vni).is_some_and(|gone| gone.has(flow.key.src) || gone.has(flow.key.dst))
        };
        self.end_flows(&orphaned, u64::MAX, now)
    }

    /// Ends the flows that a policy which `after` has put in force allows no more, in networks that say so. How many.
    pub fn end_refused(&self, after: &Snapshot, now: Instant) -> u64 {
        let networks = after.networks().into_iter().filter(|it| it.cuts && it.compiled == after.epoch);
        let networks: BTreeMap<Vni, &Network> = networks.map(|it| (it.vni, &**it)).collect();
        if networks.is_empty() {
            return 0;
        }
        let refused = |flow: &FlowInfo| networks.get(&flow.key.vni).is_some_and(|it| it.refuses(flow));
        self.end_as(Ending::Refused, &refused, u64::MAX, now)
    }
}

impl Network {
    /// Whether its policy does not allow a flow that was decided before. One that is on a leg of its way, or to or from whom no
    /// endpoint's address says who it is, is decided by its next packet.
    fn refuses(&self, flow: &FlowInfo) -> bool {
        let key = &flow.key;
        let [src, dst] = [key.src, key.dst].map(|address| self.at_address(address).map(|(end, _)| end));
        if key.leg != Leg::DIRECT || flow.epoch >= self.decided_since([src, dst], [key.src, key.dst]) {
            return false;
        }
        let probe = probe_of(flow.query, key, flow.header);
        let (ends, related) = (Ends { src, dst }, flow.related);
        let inquiry = Inquiry { ends, src: key.src, dst: key.dst, probe, related };
        self.ask_policy(&inquiry).enforce().is_err()
    }
}

/// What of a network is there no more.
enum Gone {
    Whole,
    Addresses(BTreeSet<Addr>),
}

impl Gone {
    fn of(before: &Network, after: Option<&Network>) -> Option<Self> {
        let Some(after) = after else { return Some(Self::Whole) };
        if std::ptr::eq(before, after) {
            return None;
        }
        let addresses = before.endpoints.iter().flat_map(|endpoint| &endpoint.holdings().addresses);
        // Another endpoint may send from it all the same.
        let has_owner = |address: Addr| {
            after.by_address(address).is_some()
                || after.endpoints.iter().any(|endpoint| endpoint.holdings().pair_for(address).is_some())
        };
        let gone: BTreeSet<Addr> = addresses.copied().filter(|address| !has_owner(*address)).collect();
        (!gone.is_empty()).then_some(Self::Addresses(gone))
    }

    fn has(&self, address: Addr) -> bool {
        match self {
            Self::Whole => true,
            Self::Addresses(gone) => gone.contains(&address),
        }
    }
}
