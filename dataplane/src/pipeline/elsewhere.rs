//! Flows that the fast path carries: handed over, found there, taken back, counted, and ended when their time is over.

use std::{collections::HashMap, sync::Arc, time::Duration};

use eastgate_conntrack::flow::{
    Account, Admitted, Carrier, Count, Direction, Ending, Finished, FlowId, FlowInfo, FlowTable, FlowUse,
    Found, Happening, Population, Progress, Recalled, StateSettings,
};
use eastgate_policy::rule;
use eastgate_wire::{Addr, Cursor, DropReason, EndpointId, FlowKey, Instant, Vni};

use super::{
    Shared,
    batch::AfterSend,
    counters::SettledDrop,
    offload::{FlowOffload, Handover, Offer, Replaced, Reservation, Whereabouts, candidate},
    shared::lock,
};
use crate::snapshot::{Endpoint, Network, Snapshot, rule_counts::RuleCount};

impl Shared {
    /// Lets whoever is faster carry packets of flows from `now` on.
    pub fn offload_to(&self, fastpath: Arc<dyn FlowOffload>, now: Instant) {
        self.all_flows().for_each(|table| lock(table).keep_places());
        let carrier: Arc<dyn Carrier> = fastpath.clone();
        self.states.quota.share(fastpath.ledger(), &carrier);
        // Set once, before the workers get anything to do.
        let _ = self.offloads_since.set(now);
        let _ = self.fastpath.set(fastpath);
    }

    /// Is there anyone faster?
    #[must_use]
    pub fn offloads(&self) -> bool {
        self.fastpath.get().is_some()
    }

    /// Does what was left until the frames of a batch were sent.
    pub fn settle(&self, after: &AfterSend, now: Instant) {
        match after {
            AfterSend::Offload(handover) => self.hand_over(handover, now),
            AfterSend::CachePolicy(offer) => self.offer(offer),
            AfterSend::CacheReply(offer) => self.leave_answer(offer, now),
        }
    }

    /// Hands a flow over. The flow's shard is locked meanwhile, so that no packet of it changes its state.
    fn hand_over(&self, handover: &Handover, now: Instant) {
        let Some(fastpath) = self.fastpath.get() else { return };
        let mut flows = self.flows(&handover.key);
        let Some(offloaded) = flows.offload(handover.flow) else { return };
        if !fastpath.install(handover, &offloaded) {
            flows.reclaim(handover.flow, None, &Default::default(), now);
        }
    }

    /// Takes a flow back, so that its state is here.
    pub(super) fn reclaim(
        &self,
        flows: &mut FlowTable,
        network: &Network,
        flow: FlowId,
        original: &FlowKey,
        now: Instant,
    ) {
        let progress = self.fastpath.get().and_then(|fastpath| fastpath.unoffload(original));
        if let Some(progress) = &progress {
            let hints = [Direction::Original, Direction::Reply].map(|direction| flows.hint(flow, direction));
            network.count_progress(original, hints, progress);
        }
        flows.reclaim(flow, progress.as_ref(), &network.tracking_of(original), now);
    }

    /// Takes a flow back that is not carried elsewhere any more, which nobody tells: ports or paths have changed since it was
    /// handed over. It is handed over anew.
    pub(super) fn reclaim_stray(&self, flows: &mut FlowTable, network: &Network, flow: FlowId, now: Instant) {
        let Some(original) = flows.opened(flow) else { return };
        if self.fastpath.get().is_some_and(|fastpath| !fastpath.carries(&original)) {
            self.reclaim(flows, network, flow, &original, now);
        }
    }

    /// Lets flows like one that was opened begin elsewhere.
    fn offer(&self, offer: &Offer) {
        if let Some(fastpath) = self.fastpath.get() {
            fastpath.cache_policy(offer);
        }
    }

    /// Keeps the place of a flow that is about to be opened. False when it has begun elsewhere meanwhile.
    pub(super) fn reserve(&self, packet: Option<FlowKey>) -> Result<bool, DropReason> {
        let (Some(fastpath), Some(packet)) = (self.fastpath.get(), packet) else { return Ok(true) };
        match fastpath.reserve(&packet) {
            Reservation::Kept => Ok(true),
            Reservation::Begun => Ok(false),
            // The flow has its slot, and the programs have no room for one of their own either.
            Reservation::Full => Ok(true),
        }
    }

    /// Gives the place up of a flow that could not be opened.
    pub(super) fn release(&self, flows: &FlowTable, packet: Option<FlowKey>) {
        if let (Some(fastpath), Some(packet)) = (self.fastpath.get(), packet)
            && !flows.knows(&packet)
        {
            fastpath.end(&packet);
        }
    }

    /// Goes on with a flow that the fast path has: it began there, or is from a daemon before. True when that daemon had
    /// it itself, so that nobody knows its state any more.
    pub(super) fn import(
        &self,
        flows: &mut FlowTable,
        network: &Network,
        packet: Option<FlowKey>,
        now: Instant,
    ) -> Result<bool, DropReason> {
        let (Some(fastpath), Some(packet)) =
            (self.fastpath.get(), packet.filter(|packet| !flows.knows(packet)))
        else {
            return Ok(false);
        };
        let mut found = match fastpath.find(&packet) {
            Whereabouts::Unknown => return Ok(false),
            Whereabouts::Lost => return Ok(true),
            Whereabouts::Found(found) => found,
        };
        if let Some(created) = &found.created {
            lock(&self.elsewhere)
                .leave(created.created, || found.info(&network.tracking_of(&found.key), now));
        }
        network.count_found(&found);
        let account = found.created.and_then(|created| self.states.quota.account(created.account));
        let account = account.unwrap_or_else(|| {
            // Of an endpoint that is here no more: it is decided anew, as an unknown host's.
            fastpath.release_slot(&found);
            found.created = None;
            self.account_at(network, found.key.src)
        });
        let imported = flows.import(&found, &network.tracking_of(&found.key), &account, now);
        self.recall(flows);
        if !flows.knows(&packet) {
            fastpath.end(&packet);
        }
        imported.map(|()| false)
    }

    /// Stops packets of flows that have ended here, and gives their places up, unless the next flow of the same key is
    /// here already.
    pub(crate) fn recall(&self, flows: &mut FlowTable) {
        self.forget_unexpected(flows);
        while let Some(finished) = flows.pop_finished() {
            if let Some(network) = self.snapshot().network(finished.vni) {
                let Finished { admitted, count, created, last_seen, .. } = finished;
                network.count_passed(&admitted, &count, created, last_seen);
            }
        }
        let Some(fastpath) = self.fastpath.get() else { return };
        while let Some(Recalled { key, admitted }) = flows.pop_recalled() {
            let found = if flows.knows(&key) {
                fastpath.unoffload(&key).map(|progress| (NO_HINTS, progress))
            } else {
                fastpath.end(&key).map(|found| (found.hints, found.progress))
            };
            if let Some((hints, progress)) = found
                && let Some(network) = self.snapshot().network(key.vni)
            {
                network.count_progress(&key, hints, &progress);
                if let Some(seen) = progress.last_seen {
                    network.count_passed(&admitted, &progress.passed(), seen, seen);
                }
            }
        }
    }

    /// Ends flows that began elsewhere and whose time is over, counts those that have ended, and gives up places that
    /// are kept for nobody: a daemon before has left them. Called now and then, and looks at some of them each time. Makes
    /// answers anew that have ended.
    pub fn sweep(&self, now: Instant) {
        let Some(fastpath) = self.fastpath.get() else { return };
        self.renew_answers(now);
        let since = self.offloads_since.get().copied().unwrap_or(now);
        let keeps_lost = now.since(since) < LOST_FOR;
        let mut cursor = lock(&self.swept);
        lock(&self.elsewhere).look(now);
        let (mut residents, mut candidates) = (Vec::new(), Vec::new());
        for _ in 0..PAGES_PER_SWEEP {
            residents.clear();
            let more = fastpath.page(&mut cursor, &mut residents);
            let snapshot = self.snapshot();
            candidates.clear();
            for resident in &residents {
                // The deadline of one that was handed over is in its table.
                let found = resident.found.filter(|found| resident.left || found.created.is_some());
                let is_over = found.is_some_and(|found| is_over(&snapshot, &found, now));
                let held = resident.held && !keeps_lost;
                if !(is_over || held) {
                    let created = found.filter(|_| !resident.left);
                    self.note_beginning(&snapshot, created.as_ref(), now);
                    candidates.extend(created.and_then(|found| {
                        let network = snapshot.network(found.key.vni)?;
                        candidate(&found, network.state.quota.place(), now)
                    }));
                    continue;
                }
                let mut flows = self.flows(&resident.packet);
                if flows.knows(&resident.packet) {
                    continue;
                }
                if held || resident.left {
                    fastpath.end(&resident.packet);
                    continue;
                }
                let network = snapshot.network(resident.packet.vni);
                // It began before they had timeouts of their own, which the programs do not know: nothing passes by it any more.
                let is_stale = network.is_some_and(|network| network.has_own_timeouts(&resident.packet));
                let packet = &resident.packet;
                let ended = if is_stale { fastpath.end(packet) } else { fastpath.end_if_over(packet) };
                match ended {
                    Some(found) => self.bury(&mut flows, &snapshot, &found, None, now),
                    // It went on meanwhile.
                    None => self.note_beginning(&snapshot, found.as_ref(), now),
                }
            }
            fastpath.weigh(&candidates);
            if !more {
                lock(&self.elsewhere).end_round();
                fastpath.make_headroom();
                break;
            }
        }
        while let Some(found) = fastpath.pop_put_out() {
            self.bury(&mut self.flows(&found.key), &self.snapshot(), &found, Some(Ending::Evicted), now);
        }
        while let Some(replaced) = fastpath.pop_ended() {
            if let Some(network) = self.snapshot().network(replaced.key.vni) {
                network.count_replaced(&replaced);
            }
        }
        fastpath.set_path_mtus(&|vtep| self.path_mtu_to(vtep, now));
        self.count_stateless_elsewhere();
        if let Some(counters) = self.counters.first() {
            for SettledDrop { key, count, seen, policy } in fastpath.settle_drops() {
                counters.add_seen(key, &count, &seen);
                let snapshot = self.snapshot();
                let network = key.vni.and_then(|vni| snapshot.network(vni));
                if let (Some(network), Some(rule)) = (network.filter(|it| policy >= it.numbered), key.rule) {
                    network.counts.add(rule, &count.of_rule());
                }
            }
        }
    }

    /// Counts what rules without state have let pass elsewhere, for the rules and their endpoints.
    pub fn count_stateless_elsewhere(&self) {
        let Some(fastpath) = self.fastpath.get() else { return };
        let snapshot = self.snapshot();
        for passed in fastpath.take_stateless() {
            let Some(network) = snapshot.network(passed.vni) else { continue };
            // Before, the numbers of rules may have meant others.
            if passed.policy < network.numbered {
                continue;
            }
            let Count { packets, bytes } = passed.count;
            let hit = Some((passed.last, passed.last));
            network.counts.add(passed.rule, &RuleCount { packets, bytes, hit, ..RuleCount::default() });
            let here = network.endpoint(passed.endpoint).filter(|endpoint| endpoint.attachment().is_some());
            match (here, passed.direction) {
                (Some(endpoint), rule::Direction::Egress) => endpoint.state.sent(packets, bytes),
                (Some(endpoint), rule::Direction::Ingress) => endpoint.state.received(packets, bytes),
                (None, _) => {}
            }
        }
    }

    fn note_beginning(&self, snapshot: &Snapshot, found: Option<&Found>, now: Instant) {
        if let Some((found, created)) = found.and_then(|found| Some((found, found.created?))) {
            lock(&self.elsewhere).meet(created.created, || found.info(&tracking(snapshot, found), now));
        }
    }

    pub(super) fn bury(
        &self,
        flows: &mut FlowTable,
        snapshot: &Snapshot,
        found: &Found,
        ending: Option<Ending>,
        now: Instant,
    ) {
        let ending = flows.bury(found, ending);
        let info = || found.info(&tracking(snapshot, found), now);
        lock(&self.elsewhere).end(now, Happening::Ended(ending), info);
        if let Some(network) = snapshot.network(found.key.vni) {
            network.count_found(found);
            let last_seen = found.progress.last_seen.unwrap_or(now);
            if let Some(created) = &found.created {
                network.count_passed(&created.admitted, &found.progress.passed(), created.created, last_seen);
            }
        }
    }

    /// Flows that began elsewhere, and are there.
    pub fn for_each_created(&self, now: Instant, mut each: impl FnMut(&FlowInfo)) {
        let snapshot = self.snapshot_arc();
        self.for_each_carried(|found| {
            let info = found.info(&tracking(&snapshot, found), now);
            if found.created.is_some() && info.deadline > now {
                each(&info);
            }
        });
    }

    /// All flows that are elsewhere, and how far they have got there.
    fn for_each_carried(&self, mut each: impl FnMut(&Found)) {
        let Some(fastpath) = self.fastpath.get() else { return };
        let (mut cursor, mut residents, mut more) = (Cursor::default(), Vec::new(), true);
        while more {
            residents.clear();
            more = fastpath.page(&mut cursor, &mut residents);
            residents
                .iter()
                .filter(|resident| !resident.left)
                .filter_map(|it| it.found.as_ref())
                .for_each(&mut each);
        }
    }

    /// What passed elsewhere for endpoints of this host and is not counted yet: frames that they sent, and that were sent
    /// to them.
    #[must_use]
    pub fn uncounted(&self, snapshot: &Snapshot) -> HashMap<(Vni, EndpointId), [u64; 2]> {
        let mut frames: HashMap<_, [u64; 2]> = HashMap::new();
        self.for_each_carried(|found| {
            let Some(network) = snapshot.network(found.key.vni) else { return };
            network.for_each_end(&found.key, found.hints, &found.progress, |end, which, count| {
                frames.entry((network.vni, end.id)).or_default()[which.index()] += count.packets;
            });
        });
        frames
    }

    /// How many flows there are, here and elsewhere.
    #[must_use]
    pub fn flows_in_use(&self) -> FlowUse {
        self.states.quota.in_use()
    }

    /// Who pays for flows that come from an address.
    pub(super) fn account_at(&self, network: &Network, source: Addr) -> Arc<Account> {
        network.by_address(source).map_or(&network.state.unknown_hosts, |end| &end.state.flows).clone()
    }

    /// Has flows of other shards make room for one more, the cheapest first. Those of shards that somebody is at work in
    /// are passed over: two that wait for each other would wait for ever. False when nothing went; when something did, another
    /// worker may still be quicker to take the slot.
    pub(super) fn make_room_elsewhere(&self, account: &Account, of: Population, now: Instant) -> bool {
        let Some(full) = account.full(of) else { return true };
        of.making_room().iter().any(|rank| {
            self.all_flows().any(|shard| {
                let Ok(mut flows) = shard.try_lock() else { return false };
                let went = flows.put_out(account, full, *rank, now);
                self.recall(&mut flows);
                went
            })
        })
    }

    /// Asks about flows whose time seems to be over: those that went on elsewhere go on.
    pub(super) fn ask_about_overdue(&self, flows: &mut FlowTable, snapshot: &Snapshot, now: Instant) {
        while let Some((flow, original)) = flows.pop_overdue() {
            let Some(network) = snapshot.network(original.vni) else {
                let _ = self.fastpath.get().and_then(|fastpath| fastpath.unoffload(&original));
                flows.reclaim(flow, None, &Default::default(), now);
                continue;
            };
            let seen = self
                .fastpath
                .get()
                .and_then(|fastpath| fastpath.peek(&original))
                .and_then(|seen| seen.last_seen);
            flows.refresh(flow, seen.unwrap_or(Instant::ZERO), &network.tracking_of(&original));
            if flows.info(flow).is_none_or(|info| info.deadline <= now) {
                self.reclaim(flows, network, flow, &original, now);
            }
        }
    }

    /// What is known elsewhere about a flow that is offloaded.
    #[must_use]
    pub fn peek(&self, original: &FlowKey) -> Option<Progress> {
        self.fastpath.get()?.peek(original)
    }
}

/// Of a flow of which nobody knows whom it was decided for.
const NO_HINTS: [u64; 2] = [0; 2];

/// How long a connection that a daemon before had may be silent and still be picked up.
const LOST_FOR: Duration = Duration::from_secs(120);

/// How often other shards make room on behalf of one packet, where other workers take what they made.
pub(super) const ROOM_ATTEMPTS: usize = 16;

/// Pages of the table that one sweep reads.
const PAGES_PER_SWEEP: usize = 128;

/// What an endpoint did with packets.
#[derive(Clone, Copy)]
enum Passed {
    Sent,
    Received,
}

impl Passed {
    const fn index(self) -> usize {
        self as usize
    }
}

fn tracking(snapshot: &Snapshot, found: &Found) -> StateSettings {
    let network = snapshot.network(found.key.vni);
    network.map_or_else(StateSettings::default, |network| network.tracking_of(&found.key))
}

fn is_over(snapshot: &Snapshot, found: &Found, now: Instant) -> bool {
    found.deadline(&tracking(snapshot, found), now) <= now
}

impl Network {
    /// Counts a flow that began elsewhere, as far as it has got.
    fn count_found(&self, found: &Found) {
        self.count_progress(&found.key, found.hints, &found.progress);
        if let Some(created) = &found.created {
            self.count_repeated(&created.admitted, created.created);
        }
    }

    fn count_replaced(&self, replaced: &Replaced) {
        let Replaced { key, admitted, counts, created, last_seen } = *replaced;
        let progress = Progress { sides: Default::default(), counts, last_seen: None };
        self.count_progress(&key, NO_HINTS, &progress);
        self.count_repeated(&admitted, created);
        self.count_passed(&admitted, &progress.passed(), created, last_seen);
    }

    /// Before, the numbers of rules may have meant others.
    fn count_repeated(&self, admitted: &Admitted, created: Instant) {
        if admitted.epoch >= self.numbered {
            self.count_begun(admitted, created);
        }
    }

    /// Counts what passed in a flow, of both directions, for the rules that admitted it.
    fn count_passed(&self, admitted: &Admitted, count: &Count, first: Instant, last: Instant) {
        if admitted.epoch >= self.numbered {
            let Count { packets, bytes } = *count;
            let hit = Some((first, last));
            self.count_for(admitted, &RuleCount { packets, bytes, hit, ..RuleCount::default() });
        }
    }

    /// Counts what passed elsewhere for the flow's two ends, as far as they are here.
    fn count_progress(&self, original: &FlowKey, hints: [u64; 2], progress: &Progress) {
        self.for_each_end(original, hints, progress, |end, which, count| match which {
            Passed::Sent => end.state.sent(count.packets, count.bytes),
            Passed::Received => end.state.received(count.packets, count.bytes),
        });
    }

    fn for_each_end(
        &self,
        original: &FlowKey,
        hints: [u64; 2],
        progress: &Progress,
        mut each: impl FnMut(&Endpoint, Passed, &Count),
    ) {
        let [receiver, opener] = hints;
        for (hint, address, passed) in [
            (opener, original.src, [Passed::Sent, Passed::Received]),
            (receiver, original.dst, [Passed::Received, Passed::Sent]),
        ] {
            let known = || self.at_address(address).map(|(end, _)| end);
            let end = if hint == 0 { known() } else { self.received_by(hint) };
            if let Some(end) = end.filter(|end| end.attachment().is_some()) {
                passed.into_iter().zip(&progress.counts).for_each(|(which, count)| each(end, which, count));
            }
        }
    }
}
