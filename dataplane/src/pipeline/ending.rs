//! Flows that are ended before their time: because an operator says so, or because an end of theirs is there no more.

use std::collections::{BTreeMap, BTreeSet};

use eastgate_conntrack::flow::{Ending, FlowFilter, FlowInfo, FlowTable, Reset};
use eastgate_wire::{Addr, Instant, Leg, Vni, view::proto};

use super::{
    ruling::{Inquiry, probe_of},
    shared::{Shared, lock},
    track::Ends,
};
use crate::snapshot::{Network, Snapshot};

/// Places of the flow table looked at while a shard is locked.
const PAGE: u32 = 4096;

/// Which flows end, and how.
struct Cut<'a> {
    ending: Ending,
    wanted: &'a dyn Fn(&FlowInfo) -> bool,
    /// The networks in which the ends of connections are told; none where nobody is
    tell: Option<&'a dyn Fn(Vni) -> bool>,
    most: u64,
    now: Instant,
}

impl Shared {
    /// Ends the flows that are `wanted`, `most` at most: their next packets are decided anew. How many.
    pub fn end_flows(&self, wanted: &dyn Fn(&FlowInfo) -> bool, most: u64, now: Instant) -> u64 {
        self.end_all(&Cut { ending: Ending::Killed, wanted, tell: None, most, now })
    }

    fn end_all(&self, cut: &Cut<'_>) -> u64 {
        let Cut { ending, wanted, most, now, .. } = *cut;
        let mut ended = self.end_created(cut);
        for shard in self.all_flows() {
            let mut from = Some(0);
            while let Some(place) = from.filter(|_| ended < most) {
                let mut flows = lock(shard);
                let left = u32::try_from(most - ended).unwrap_or(u32::MAX);
                self.tear(&mut flows, place, cut);
                let (some, next) = flows.end_some(ending, place, PAGE, left, wanted, now);
                self.recall(&mut flows);
                ended += u64::from(some);
                from = next;
            }
        }
        ended
    }

    /// Notes how the ends of connections on a page of the table are told that are about to end. What is elsewhere comes back first:
    /// it has gone on there.
    fn tear(&self, flows: &mut FlowTable, place: u32, cut: &Cut<'_>) {
        let Cut { wanted, tell: Some(tell), now, .. } = *cut else { return };
        let mut page = Vec::new();
        flows.page(place, PAGE, &FlowFilter::default(), now, &mut page);
        for info in
            page.iter().filter(|info| tell(info.key.vni) && info.key.proto == proto::TCP && wanted(info))
        {
            if let (true, Some(network)) = (info.offloaded, self.snapshot().network(info.key.vni))
                && let Some(flow) = flows.opened_by(&info.key)
            {
                self.reclaim(flows, network, flow, &info.key, now);
            }
            self.tell_torn(flows.resets(&info.key));
        }
    }

    /// Those of them that began elsewhere and are there.
    fn end_created(&self, cut: &Cut<'_>) -> u64 {
        let Cut { ending, wanted, tell, most, now } = *cut;
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
                if tell.is_some_and(|tell| tell(key.vni)) {
                    self.tell_torn(Reset::of(&found.key, &found.progress.sides));
                }
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
        let tell = |vni: Vni| networks.get(&vni).is_some_and(|network| network.tells_cut);
        let tell: &dyn Fn(Vni) -> bool = &tell;
        let tell = networks.values().any(|network| network.tells_cut).then_some(tell);
        self.end_all(&Cut { ending: Ending::Refused, wanted: &refused, tell, most: u64::MAX, now })
    }
}

impl Network {
    /// Whether its policy does not allow a flow that was decided before. One that is on a leg of its way is decided by its next packet.
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
        let addresses = before.endpoints().flat_map(|endpoint| &endpoint.holdings().addresses);
        // Another endpoint may send from it all the same.
        let has_owner = |address: Addr| {
            after.by_address(address).is_some()
                || after.endpoints().any(|endpoint| endpoint.holdings().pair_for(address).is_some())
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
