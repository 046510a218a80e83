//! Which of the flows that began in the kernel make room where a limit is reached.
//!
//! The programs count, and begin nothing beyond a limit. Whoever sweeps their table weighs the flows on the way
//! ([`Candidate`]), and has the cheapest ended ahead of need where a limit comes near: as many as came since the last look,
//! twice. Where the pipeline finds a limit reached, it asks for room at once, from what is known since the last look, or by
//! one more. Each is ended in one step of the kernel's, and only while it is still of the rank that it was found to be of.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use eastgate_conntrack::flow::{Carrier, Found, Ledger, Population, Rank};
use eastgate_dataplane::pipeline::{
    offload::{Candidate, candidate},
    shared::lock,
};
use eastgate_fastpath::{Accounts, Key, TakeResult};
use eastgate_wire::{Cursor, FlowKey, Instant};

use super::KernelPath;
use crate::io::clock;

/// Flows that make room at once, at most, when one is asked for: a part of the limit, so that the programs have room for the next ones.
const AT_ONCE: u32 = 64;
const SHARE: u32 = 32;
/// So many times as many as came since the last look are kept in hand, and no fewer than these.
const KEPT: u32 = 4;
const KEPT_AT_LEAST: u32 = 4096;
/// Flows that are tried before somebody looks again: those in hand may be others by now.
const ATTEMPTS: u32 = 512;
/// Pages of the table that are read when nobody is known who could make room.
const PAGES_PER_LOOK: usize = 128;
/// Such looks take no more than a part of the time.
const REST: u32 = 4;
/// Flows that have made room and are not counted for their endpoints and rules yet
const UNCOUNTED: usize = 1 << 17;

/// What the programs and the registry of flows both count in.
#[derive(Debug)]
pub(super) struct SharedAccounts(pub(super) Arc<Accounts>);

impl Ledger for SharedAccounts {
    fn word(&self, place: u32, of: Population) -> Option<&AtomicU64> {
        self.0.word(place, of as usize)
    }

    fn pace(&self, place: u32) -> Option<[&AtomicU64; 2]> {
        self.0.pace(place)
    }
}

/// Who would make room.
#[derive(Debug, Default)]
pub(super) struct Economy {
    /// By the place whose limit is near
    scopes: BTreeMap<u32, Scope>,
    /// What the look that is going on has found
    found: BTreeMap<u32, Ranked>,
    put_out: VecDeque<Found>,
    cursor: Cursor,
    /// When the pipeline may have somebody look for it again
    look_at: Option<Instant>,
}

/// By rank, the last one goes first.
#[derive(Debug, Default)]
struct Ranked([Vec<(Instant, FlowKey)>; Rank::COUNT]);

#[derive(Debug, Default)]
struct Scope {
    ranked: Ranked,
    /// How many flows there were after the last look, by population
    left: [u32; 2],
}

impl Ranked {
    /// Keeps those that were silent for longest, so many of each rank of a population, in the order in which they go.
    fn keep(&mut self, of: Population, most: usize) {
        for rank in of.making_room() {
            let flows = &mut self.0[*rank as usize];
            if flows.len() > most {
                flows.select_nth_unstable_by_key(most, |(seen, _)| *seen);
                flows.truncate(most);
            }
            flows.sort_unstable_by_key(|(seen, _)| Reverse(*seen));
        }
    }
}

impl Economy {
    pub(super) fn pop_put_out(&mut self) -> Option<Found> {
        self.put_out.pop_front()
    }

    /// What has made room is counted by the next sweep.
    fn note(&mut self, gone: Vec<Found>) {
        let room = UNCOUNTED.saturating_sub(self.put_out.len());
        self.put_out.extend(gone.into_iter().take(room));
    }
}

impl KernelPath {
    /// The limit at a place, and how many flows there are.
    fn count_at(&self, place: u32, of: Population) -> (u32, u32) {
        let word = self.fastpath.accounts().word(place, of as usize).map_or(0, |word| word.load(SeqCst));
        ((word >> 32) as u32, word as u32)
    }

    /// Remembers those of them that may have to make room before the next look.
    pub(super) fn weigh_flows(&self, candidates: &[Candidate]) {
        let mut economy = lock(&self.economy);
        let near = |place, of| {
            let (limit, used) = self.count_at(place, of);
            u64::from(used) * 2 > u64::from(limit)
        };
        for candidate in candidates.iter().filter(|it| it.rank < Rank::Connection) {
            let of =
                if candidate.rank == Rank::Unreplied { Population::Unreplied } else { Population::Replied };
            for place in candidate.places.into_iter().filter(|place| near(*place, of)) {
                let ranked = economy.found.entry(place).or_default();
                ranked.0[candidate.rank as usize].push((candidate.last_seen, candidate.key));
            }
        }
    }

    /// The whole table was looked at: the cheapest go before they have to. What the look before has found stays in hand
    /// meanwhile.
    pub(super) fn put_out_ahead(&self) {
        let (found, mut left) = {
            let mut economy = lock(&self.economy);
            let left: BTreeMap<_, _> =
                economy.scopes.iter().map(|(place, scope)| (*place, scope.left)).collect();
            (std::mem::take(&mut economy.found), left)
        };
        let (mut scopes, mut gone) = (BTreeMap::new(), Vec::new());
        for (place, ranked) in found {
            let mut scope = Scope { ranked, left: [0; 2] };
            let known = left.remove(&place);
            for of in Population::ALL {
                let (limit, used) = self.count_at(place, of);
                let came = known.map_or(0, |left| used.saturating_sub(left[of as usize]));
                let headroom = came.saturating_mul(2).min(limit / 2);
                let too_many = used.saturating_sub(limit.saturating_sub(headroom));
                scope.ranked.keep(of, came.saturating_mul(KEPT).max(KEPT_AT_LEAST) as usize);
                self.put_out_of(&mut scope.ranked, of.making_room(), too_many, u32::MAX, &mut gone);
                scope.left[of as usize] = self.count_at(place, of).1;
            }
            scopes.insert(place, scope);
        }
        let mut economy = lock(&self.economy);
        economy.scopes = scopes;
        economy.note(gone);
    }

    /// Ends so many flows of these ranks, the cheapest first, after no more than so many attempts at others. How many.
    fn put_out_of(
        &self,
        from: &mut Ranked,
        ranks: &[Rank],
        wanted: u32,
        attempts: u32,
        gone: &mut Vec<Found>,
    ) -> u32 {
        let (mut done, mut missed) = (0, 0);
        for rank in ranks {
            let flows = &mut from.0[*rank as usize];
            while done < wanted
                && missed < attempts
                && let Some((_, packet)) = flows.pop()
            {
                match self.put_out(&packet, *rank) {
                    Some(found) => {
                        gone.push(found);
                        done += 1;
                    }
                    None => missed += 1,
                }
            }
        }
        done
    }

    fn put_out(&self, packet: &FlowKey, rank: Rank) -> Option<Found> {
        let (key, _) = Key::of(packet);
        let flow = match self.fastpath.end_if_of_rank(&key, rank as u8) {
            Ok(TakeResult::Taken(flow)) => flow,
            Ok(TakeResult::Absent | TakeResult::Reserved | TakeResult::Alive) => return None,
            Err(error) => {
                tracing::debug!(%error, "a flow does not make room");
                return None;
            }
        };
        let found = self.found(&key, &flow)?;
        self.count_out(&flow, &found);
        Some(found)
    }

    /// Looks for flows that could make room at a place, unless somebody has just done so. False when nobody has looked.
    fn look(&self, economy: &mut Economy, place: u32) -> bool {
        let begun = clock::now();
        if economy.look_at.is_some_and(|at| begun < at) {
            return false;
        }
        let mut cursor = economy.cursor;
        let (mut residents, mut ranked) = (Vec::new(), Ranked::default());
        for _ in 0..PAGES_PER_LOOK {
            residents.clear();
            let more = self.residents(&mut cursor, &mut residents);
            let found = residents.iter().filter_map(|resident| resident.found.as_ref());
            for flow in
                found.filter_map(|found| self.candidate(found, begun)).filter(|it| it.places.contains(&place))
            {
                ranked.0[flow.rank as usize].push((flow.last_seen, flow.key));
            }
            if !more {
                cursor = Cursor::default();
                break;
            }
        }
        Population::ALL.into_iter().for_each(|of| ranked.keep(of, usize::MAX));
        economy.cursor = cursor;
        economy.scopes.entry(place).or_default().ranked = ranked;
        let took = clock::now().since(begun).max(Duration::from_micros(20));
        economy.look_at = Some(clock::now() + took * REST);
        true
    }

    fn candidate(&self, found: &Found, now: Instant) -> Option<Candidate> {
        let network = lock(&self.tables).quotas.get(&found.key.vni)?.place();
        candidate(found, network, now)
    }
}

impl Carrier for KernelPath {
    fn make_room(&self, place: u32, of: Population, rank: Rank) -> bool {
        let mut economy = lock(&self.economy);
        let (limit, used) = self.count_at(place, of);
        let wanted = (limit / SHARE).clamp(1, AT_ONCE).max(used.saturating_sub(limit).min(AT_ONCE));
        let attempt = |economy: &mut Economy| {
            let mut gone = Vec::new();
            let Some(scope) = economy.scopes.get_mut(&place) else { return false };
            let done = self.put_out_of(&mut scope.ranked, &[rank], wanted, ATTEMPTS, &mut gone);
            economy.note(gone);
            done > 0
        };
        attempt(&mut economy) || self.look(&mut economy, place) && attempt(&mut economy)
    }
}
