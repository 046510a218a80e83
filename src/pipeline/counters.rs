//! What passed and what did not, counted where it happens and added up when someone asks.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use ahash::RandomState;
use eastgate_wire::{DropReason, EndpointId, FlowKey, Instant, Location, Vni};

use crate::control::protocol::Traffic;

/// Rows of the table of drops that one worker keeps. Past it, new combinations count under their network and
/// reason alone, so that nothing is ever dropped without being counted.
const DROP_ROWS: usize = 16_384;

/// What makes two drops the same row.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DropKey {
    /// Network, where it is known
    pub vni: Option<Vni>,
    /// Why
    pub reason: DropReason,
    /// Where the frame came from, where it is known
    pub from: Option<Location>,
    /// Whose rules refused it
    pub by: Option<EndpointId>,
    /// The rule that refused it
    pub rule: Option<u32>,
}

/// What is counted of a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DropCount {
    /// Frames
    pub frames: u64,
    /// Bytes
    pub bytes: u64,
    /// When the last one was
    pub last_at: Instant,
    /// The last one's flow, when it was IP
    pub last: Option<FlowKey>,
}

impl DropCount {
    fn add(&mut self, other: &Self) {
        self.frames += other.frames;
        self.bytes += other.bytes;
        if other.last_at >= self.last_at {
            self.last_at = other.last_at;
            self.last = other.last.or(self.last);
        }
    }
}

/// The counters of one worker. Only that worker writes them, so a counter costs no contention.
#[derive(Debug, Default)]
pub struct Counters {
    /// Frames from tenant ports
    pub from_ports: AtomicU64,
    /// Datagrams from the underlay
    pub from_underlay: AtomicU64,
    /// Frames sent to tenant ports
    pub to_ports: AtomicU64,
    /// Datagrams sent to the underlay
    pub to_underlay: AtomicU64,
    /// ARP and ND answers
    pub answers: AtomicU64,
    drops: Mutex<HashMap<DropKey, DropCount, RandomState>>,
}

impl Counters {
    /// Counts a dropped frame.
    pub fn drop_frame(&self, key: DropKey, bytes: usize, flow: Option<FlowKey>, now: Instant) {
        self.add(key, &DropCount { frames: 1, bytes: bytes as u64, last_at: now, last: flow });
    }

    /// Counts dropped frames.
    pub fn add(&self, key: DropKey, count: &DropCount) {
        let mut drops = self.drops.lock().unwrap_or_else(PoisonError::into_inner);
        let key = if drops.len() >= DROP_ROWS && !drops.contains_key(&key) {
            DropKey { from: None, by: None, rule: None, ..key }
        } else {
            key
        };
        drops.entry(key).and_modify(|row| row.add(count)).or_insert(*count);
    }
}

/// The drops of all workers together with `others`, by network, reason and source.
#[must_use]
pub fn drops(workers: &[Counters], others: Vec<(DropKey, DropCount)>) -> Vec<(DropKey, DropCount)> {
    let mut all: HashMap<DropKey, DropCount> = HashMap::new();
    let mut add = |key: DropKey, count: &DropCount| {
        all.entry(key).and_modify(|row| row.add(count)).or_insert(*count);
    };
    for worker in workers {
        let drops = worker.drops.lock().unwrap_or_else(PoisonError::into_inner);
        // Sums do not depend on the order.
        #[allow(clippy::iter_over_hash_type)]
        for (key, count) in drops.iter() {
            add(*key, count);
        }
    }
    others.iter().for_each(|(key, count)| add(*key, count));
    let mut rows: Vec<_> = all.into_iter().collect();
    rows.sort_by_key(|(key, _)| *key);
    rows
}

/// What every frame that passed elsewhere, or was dropped there, adds to the counters.
#[derive(Clone, Debug, Default)]
pub struct Elsewhere {
    /// Frames and datagrams; `dropped` is the sum of `drops`
    pub traffic: Traffic,
    /// Drops, as far as anything is known of them
    pub drops: Vec<(DropKey, DropCount)>,
}

/// Frames and bytes of all workers together.
#[must_use]
pub fn traffic(workers: &[Counters]) -> Traffic {
    let sum = |counter: fn(&Counters) -> &AtomicU64| workers.iter().map(|w| counter(w).load(Relaxed)).sum();
    Traffic {
        from_ports: sum(|w| &w.from_ports),
        from_underlay: sum(|w| &w.from_underlay),
        to_ports: sum(|w| &w.to_ports),
        to_underlay: sum(|w| &w.to_underlay),
        answers: sum(|w| &w.answers),
        answers_repeated: 0,
        dropped: drops(workers, Vec::new()).iter().map(|(_, count)| count.frames).sum(),
    }
}

#[cfg(test)]
mod tests {
    use eastgate_wire::PortId;

    use super::*;

    #[test]
    fn rows_are_bounded_and_nothing_goes_uncounted() {
        let workers = [Counters::default(), Counters::default()];
        let vni = |n: u32| Vni::new_checked(n % 3).ok();
        let many = 2 * DROP_ROWS as u32;
        for n in 0..many {
            let from = Some(Location::Local(PortId(n)));
            let key = DropKey { vni: vni(n), reason: DropReason::NotSyn, from, by: None, rule: Some(n) };
            workers[0].drop_frame(key, 60, None, Instant::from_secs(n.into()));
            workers[0].drop_frame(key, 60, None, Instant::from_secs(n.into()));
        }
        let rows = drops(&workers, Vec::new());
        // A row of its own for as many as there is room for, and one of each network for all others.
        assert_eq!(rows.len(), DROP_ROWS + 3);
        assert_eq!(rows.iter().filter(|(key, _)| key.from.is_none()).count(), 3);
        assert_eq!(rows.iter().map(|(_, count)| count.frames).sum::<u64>(), 2 * u64::from(many));
        assert_eq!(rows.iter().map(|(_, count)| count.bytes).sum::<u64>(), 120 * u64::from(many));
        for n in 0..3 {
            let of_network = rows.iter().filter(|(key, _)| key.vni == vni(n));
            let expected = (0..many).filter(|m| m % 3 == n).count() as u64 * 2;
            assert_eq!(of_network.map(|(_, count)| count.frames).sum::<u64>(), expected);
        }
        assert_eq!(traffic(&workers).dropped, 2 * u64::from(many));
    }
}
