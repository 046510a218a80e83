//! Who pays for a flow, and which one makes room when a limit is reached.

use std::sync::Arc;

use eastgate_wire::{DropReason, Instant};

use super::{
    Account, Ending, FlowState, FlowTable, Full, Group, Payer, Population, Rank, STREAM_AFTER, STREAM_IDLE,
    Segment,
    segment::Key,
    slab::{Entry, NONE},
    waiting::Queues,
};

/// How many flows one packet may put out: more than one only when another shard was quicker to take the room, or a limit
/// was lowered.
const EVICTIONS_PER_PACKET: u32 = 16;

/// How many flows are looked at for having ended when the replied ones are at their limit.
const VISITS_AT_LIMIT: usize = 64;

/// How many streams are looked at for having been silent.
const STREAMS_LOOKED_AT: usize = 16;

impl Entry {
    /// The state of an answered flow of a protocol without connections, with one packet more.
    pub(super) fn as_it_goes_on(&self, now: Instant) -> FlowState {
        if self.state == FlowState::Stream || now >= self.created + STREAM_AFTER {
            FlowState::Stream
        } else {
            FlowState::Replied
        }
    }
}

impl FlowTable {
    /// Ends a flow of this shard that is of this rank, to make room for one more on an account whose own limit, its
    /// network's or the host's is reached. False when there is none.
    pub fn put_out(&mut self, account: &Account, full: Full, rank: Rank, now: Instant) -> bool {
        let Some(index) = self.cheapest(account, full, rank, now) else { return false };
        self.counters.made_room[rank as usize] += 1;
        self.remove(index, Ending::Evicted, now);
        true
    }

    /// Who pays for the flow of a packet.
    #[must_use]
    pub fn payer(&self, segment: &Segment) -> Option<Arc<Account>> {
        let index = self.find(&Key::of_segment(segment).0)?;
        self.payers.get(&self.slab.at(index).account).map(|payer| payer.account.clone())
    }

    /// Takes a slot, at the cost of cheaper flows if need be.
    pub(super) fn take_slot(
        &mut self,
        account: &Arc<Account>,
        of: Population,
        now: Instant,
    ) -> Result<(), DropReason> {
        for _ in 0..EVICTIONS_PER_PACKET {
            let full = match account.take(of) {
                Ok(()) => return Ok(()),
                Err(full) => full,
            };
            let makes_room =
                |rank: &Rank| self.put_out(account, full, *rank, now) || account.ask_carrier(full, of, *rank);
            if !of.making_room().iter().any(makes_room) {
                break;
            }
        }
        account.take(of).map_err(|_| {
            self.counters.limited += 1;
            DropReason::FlowLimit
        })
    }

    /// Moves a flow to the replied ones.
    pub(super) fn answer(&mut self, index: u32, now: Instant) -> Result<(), DropReason> {
        let account = self.payers.get(&self.slab.at(index).account).map(|payer| payer.account.clone());
        let account = account.ok_or(DropReason::FlowLimit)?;
        if account.take(Population::Replied).is_err() {
            self.handle_timeout(now, VISITS_AT_LIMIT);
            self.take_slot(&account, Population::Replied, now)?;
        }
        self.count_replied(index);
        account.give(Population::Unreplied);
        Ok(())
    }

    /// A flow has its slot among the replied ones.
    pub(super) fn count_replied(&mut self, index: u32) {
        self.slab.at_mut(index).replied = true;
        self.counters.replied += 1;
        self.rank_anew(index);
    }

    /// The flow of this rank that is the first to go.
    fn cheapest(&mut self, account: &Account, full: Full, rank: Rank, now: Instant) -> Option<u32> {
        for _ in 0..STREAMS_LOOKED_AT {
            let first = match full {
                Full::Endpoint => {
                    self.waiting.oldest_of(&self.payers.get(&account.place())?.group.queues, rank)
                }
                Full::Network => {
                    self.waiting.oldest_of(&self.networks.get(&account.network().vni())?.queues, rank)
                }
                Full::Total => self.waiting.oldest(rank),
            }?;
            let entry = self.slab.at(first);
            // Of one whose packets pass elsewhere it is not known here how silent it is.
            let in_use = entry.marks.is_away() || entry.last_seen() + STREAM_IDLE > now;
            if rank != Rank::Stream || !in_use {
                return Some(first);
            }
            self.leave_queues(first);
            self.join_queues(first);
        }
        None
    }

    /// A flow's state, or the population it is of, may be another one.
    #[inline]
    pub(super) fn rank_anew(&mut self, index: u32) {
        let entry = self.slab.at(index);
        let rank = Rank::of(entry.state, entry.replied);
        if rank != entry.rank {
            self.leave_queues(index);
            self.slab.at_mut(index).rank = rank;
            self.join_queues(index);
        }
    }

    /// A flow has come, with a slot of an account.
    pub(super) fn line_up(&mut self, index: u32, account: &Arc<Account>) {
        let empty = || Group { queues: Queues::EMPTY, flows: 0 };
        self.networks.entry(account.network().vni()).or_insert_with(empty).flows += 1;
        let payer = self.payers.entry(account.place());
        payer.or_insert_with(|| Payer { account: account.clone(), group: empty() }).group.flows += 1;
        let entry = self.slab.at_mut(index);
        entry.rank = Rank::of(entry.state, entry.replied);
        self.join_queues(index);
    }

    /// A flow goes, and its slot is free.
    pub(super) fn step_out(&mut self, index: u32) {
        self.leave_queues(index);
        let entry = self.slab.at(index);
        let (place, of) = (entry.account, entry.population());
        let Some(payer) = self.payers.get_mut(&place) else { return };
        payer.account.give(of);
        let vni = payer.account.network().vni();
        payer.group.flows -= 1;
        if payer.group.flows == 0 {
            self.payers.remove(&place);
        }
        if let Some(network) = self.networks.get_mut(&vni) {
            network.flows -= 1;
            if network.flows == 0 {
                self.networks.remove(&vni);
            }
        }
    }

    fn join_queues(&mut self, index: u32) {
        let entry = self.slab.at(index);
        let (place, rank) = (entry.account, entry.rank);
        let Some(payer) = self.payers.get_mut(&place) else { return };
        let Some(network) = self.networks.get_mut(&payer.account.network().vni()) else { return };
        let queues = [&mut payer.group.queues, &mut network.queues];
        self.slab.at_mut(index).waiting = self.waiting.join(queues, rank, index);
    }

    fn leave_queues(&mut self, index: u32) {
        let entry = self.slab.at_mut(index);
        let (place, rank) = (entry.account, entry.rank);
        let at = std::mem::replace(&mut entry.waiting, NONE);
        if at == NONE {
            return;
        }
        let Some(payer) = self.payers.get_mut(&place) else { return };
        let Some(network) = self.networks.get_mut(&payer.account.network().vni()) else { return };
        self.waiting.leave([&mut payer.group.queues, &mut network.queues], rank, at);
    }
}
