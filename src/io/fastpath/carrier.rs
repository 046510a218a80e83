//! The kernel's programs as the pipeline knows them: whoever carries packets of flows that were decided.

use std::sync::Arc;

use eastgate_conntrack::{
    flow::{Found, Ledger, Offloaded, Progress},
    fragment::{DatagramKey, Imported},
};
use eastgate_dataplane::{
    pipeline::{
        answer::{AnswerOffer, Inquiry},
        counters::SettledDrop,
        offload::{
            Candidate, FlowOffload, Handover, Offer, Replaced, Reservation, Resident, Stateless, Whereabouts,
        },
        shared::lock,
    },
    snapshot::{self, state::EndpointState},
};
use eastgate_fastpath::{FLOW_RESERVED, FLOW_STALE, Key, PolicyCacheKey};
use eastgate_wire::{Cursor, FlowKey, Instant, VtepAddr};

use super::{KernelPath, economy::SharedAccounts, handover::progress};

impl FlowOffload for KernelPath {
    fn generation(&self) -> u32 {
        lock(&self.tables).settings.generation
    }

    fn install(&self, handover: &Handover, offloaded: &Offloaded) -> bool {
        // Locked until it is written: what it was held against stays in force as long.
        let mut tables = lock(&self.tables);
        let Some((key, flow)) = self.flow(&mut tables, handover, offloaded) else { return false };
        self.written(self.fastpath.install(&key, &flow)).is_some()
    }

    fn carries(&self, original: &FlowKey) -> bool {
        let (key, _) = Key::of(original);
        let tables = lock(&self.tables);
        let flow = self.written(self.fastpath.peek(&key)).flatten();
        flow.is_some_and(|flow| {
            flow.marks & (FLOW_RESERVED | FLOW_STALE) == 0
                && flow.generation == tables.settings.generation
                && self.still_held(&tables, original.vni, flow.bindings)
        })
    }

    fn unoffload(&self, original: &FlowKey) -> Option<Progress> {
        match self.find(original) {
            Whereabouts::Found(found) => Some(found.progress),
            Whereabouts::Unknown | Whereabouts::Lost => None,
        }
    }

    fn reserve(&self, packet: &FlowKey) -> Reservation {
        self.reserve_flow(packet)
    }

    fn find(&self, packet: &FlowKey) -> Whereabouts {
        self.take(packet)
    }

    fn end(&self, packet: &FlowKey) -> Option<Found> {
        self.end_flow(packet, false)
    }

    fn end_if_over(&self, packet: &FlowKey) -> Option<Found> {
        self.end_flow(packet, true)
    }

    fn ledger(&self) -> Arc<dyn Ledger> {
        Arc::new(SharedAccounts(self.fastpath.accounts().clone()))
    }

    fn cache_policy(&self, offer: &Offer) {
        self.allow_births(offer);
    }

    fn release_slot(&self, found: &Found) {
        self.release_slot(found);
    }

    fn answer(&self, offer: &AnswerOffer, sender: &EndpointState, now: Instant) {
        self.leave_answer(offer, sender, now);
    }

    fn ended_answers(&self) -> Vec<Inquiry> {
        self.find_ended_answers()
    }

    fn renew_answer(&self, offer: &AnswerOffer) {
        self.renew_answer_for(offer);
    }

    fn page(&self, cursor: &mut Cursor, out: &mut Vec<Resident>) -> bool {
        self.residents(cursor, out)
    }

    fn pop_ended(&self) -> Option<Replaced> {
        self.replaced()
    }

    fn weigh(&self, candidates: &[Candidate]) {
        self.weigh_flows(candidates);
    }

    fn make_headroom(&self) {
        self.put_out_ahead();
        self.clear_datagrams();
    }

    fn pop_put_out(&self) -> Option<Found> {
        lock(&self.economy).pop_put_out()
    }

    fn rebind(&self, network: &snapshot::Network) {
        self.set_bindings(network);
    }

    fn forget_paths(&self) {
        if let Err(error) = self.renew(&mut lock(&self.tables)) {
            tracing::error!(%error, "flows keep to paths that have changed");
        }
    }

    fn set_path_mtus(&self, mtu_to: &dyn Fn(VtepAddr) -> u16) {
        if let Err(error) = self.widen_paths(mtu_to) {
            tracing::error!(%error, "new flows begin without knowing how narrow their path is");
        }
    }

    fn settle_drops(&self) -> Vec<SettledDrop> {
        self.settle_denied().unwrap_or_else(|error| {
            tracing::error!(%error, "what the rules have refused in the kernel cannot be read");
            Vec::new()
        })
    }

    fn take_stateless(&self) -> Vec<Stateless> {
        self.newly_passed().unwrap_or_else(|error| {
            tracing::error!(%error, "what rules without state have let pass in the kernel cannot be read");
            Vec::new()
        })
    }

    fn take_datagram(&self, key: &DatagramKey) -> Option<Imported> {
        self.imported(key)
    }

    fn forget_datagram(&self, key: &DatagramKey) {
        self.forgotten(key);
    }

    fn expect(&self, key: &FlowKey) {
        if let Err(error) = self.fastpath.expect(&PolicyCacheKey::of(key)) {
            tracing::warn!(%error, "a flow that a helper expects is refused in the kernel");
        }
    }

    fn unexpect(&self, key: &FlowKey) {
        if let Err(error) = self.fastpath.unexpect(&PolicyCacheKey::of(key)) {
            tracing::debug!(%error, "a flow that nobody expects any more is punted");
        }
    }

    fn peek(&self, original: &FlowKey) -> Option<Progress> {
        let (key, place) = Key::of(original);
        let flow = self.fastpath.peek(&key).ok().flatten()?;
        Some(progress(&flow, place))
    }
}
