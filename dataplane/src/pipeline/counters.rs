//! What passed and what did not, counted where it happens and added up when someone asks.

mod recent;
mod subject;
mod times;
mod words;

use std::{
    collections::{BTreeMap, HashMap, VecDeque, btree_map, hash_map::Entry},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use ahash::RandomState;
use eastgate_conntrack::fragment::{FragmentTable, Lost, Waiting};
use eastgate_wire::{AttachmentId, DropReason, EndpointId, Instant, Location, View, Vni};

use self::recent::Recent;
pub use self::{
    recent::Seen,
    subject::{Subject, What},
    times::{DECISION_BOUNDS, DecisionCounts, DecisionTimes},
    words::dropped,
};
use super::shared::lock;
use crate::snapshot::rule_counts::RuleCount;

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

impl DropKey {
    /// Of frames on a trunk or a shared segment that are nobody's there, for one of the reasons that there are
    #[must_use]
    pub const fn of_stray(trunk: AttachmentId, reason: DropReason) -> Self {
        let from = Some(Location::Local(trunk));
        Self { vni: None, reason, from, by: None, rule: None }
    }
}

/// What is counted of a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DropCount {
    /// Frames
    pub frames: u64,
    /// Bytes
    pub bytes: u64,
    /// When the first one was
    pub first_at: Instant,
    /// When the last one was
    pub last_at: Instant,
    /// The last one, as far as it is known
    pub last: Option<Subject>,
}

impl DropCount {
    /// As a rule counts them that has refused them
    #[must_use]
    pub const fn of_rule(&self) -> RuleCount {
        let hit = Some((self.first_at, self.last_at));
        RuleCount { flows: 0, packets: self.frames, bytes: self.bytes, would_deny: 0, hit }
    }

    /// And those of another row
    pub fn add(&mut self, other: &Self) {
        self.frames += other.frames;
        self.bytes += other.bytes;
        self.first_at = self.first_at.min(other.first_at);
        if other.last_at >= self.last_at {
            self.last_at = other.last_at;
            self.last = other.last.or(self.last);
        }
    }
}

/// A row of drops with the different frames it was made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DropDetail {
    /// What the frames have in common
    pub key: DropKey,
    /// They are what every guest sends of its own accord ([`Subject::is_chatter`]).
    pub chatter: bool,
    /// All of them
    pub count: DropCount,
    /// Those that are remembered one by one
    pub seen: Vec<Seen>,
}

/// Drops that were counted elsewhere and are not any longer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SettledDrop {
    /// What the frames have in common
    pub key: DropKey,
    /// All of them
    pub count: DropCount,
    /// Those that are known one by one
    pub seen: Vec<Seen>,
    /// The compilation of the policy whose rules they are
    pub policy: u32,
}

#[derive(Debug)]
struct Row {
    count: DropCount,
    recent: Recent,
}

/// Rows by what they have in common, chatter apart from the rest.
#[derive(Debug, Default)]
struct Drops {
    rows: HashMap<(DropKey, bool), Row, RandomState>,
    /// Frames that all rows remember
    remembered: usize,
    /// Those that were not remembered before, until somebody fetches them
    news: News,
}

/// What is to be told of what is dropped. No network takes more room than it leaves: whoever is refused in a flood does not keep
/// others from being told.
#[derive(Debug, Default)]
struct News {
    queue: VecDeque<(DropKey, Seen)>,
    of_networks: HashMap<Option<Vni>, usize, RandomState>,
    /// How many are kept
    limit: usize,
    lost: u64,
}

impl News {
    fn push(&mut self, key: DropKey, seen: &Seen) {
        let Self { queue, of_networks, limit, lost } = self;
        let free = limit.saturating_sub(queue.len());
        let own = of_networks.entry(key.vni).or_default();
        if *own < free {
            *own += 1;
            queue.push_back((key, *seen));
        } else if *limit > 0 {
            *lost += 1;
        }
    }

    fn take(&mut self) -> VecDeque<(DropKey, Seen)> {
        self.of_networks.clear();
        std::mem::take(&mut self.queue)
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
    /// Packets cut into fragments because they did not fit
    pub fragmented: AtomicU64,
    /// Flows that a change of the configuration had decided again
    pub decided_again: AtomicU64,
    /// Packets that a rule rejected, and whose senders were told
    pub rejects_told: AtomicU64,
    /// Those of which they were not, for the limit of answers
    pub rejects_limited: AtomicU64,
    /// How long frames took to be decided here
    pub decisions: DecisionTimes,
    drops: Mutex<Drops>,
    /// Frames that passed, and would have been dropped if no rule were being tried out
    would_drop: Mutex<Drops>,
}

impl Counters {
    /// Counts a dropped frame.
    pub fn drop_frame(&self, key: DropKey, bytes: usize, subject: Option<Subject>, now: Instant) {
        let count = one_frame(bytes, subject, now);
        lock(&self.drops).add(key, &count, seen_of(&count).as_slice(), Tell::First);
    }

    /// Counts a dropped frame of which something is known. `each`: it is told of whether or not it is the first of its kind.
    pub(super) fn drop_told(&self, key: DropKey, bytes: usize, subject: Subject, now: Instant, each: bool) {
        let count = one_frame(bytes, Some(subject), now);
        let tell = if each { Tell::Each } else { Tell::First };
        lock(&self.drops).add(key, &count, seen_of(&count).as_slice(), tell);
    }

    /// Counts a frame that passes, although it would be dropped if a rule were not being tried out.
    pub(super) fn would_drop_frame(
        &self,
        key: DropKey,
        bytes: usize,
        subject: Subject,
        now: Instant,
        each: bool,
    ) {
        let count = one_frame(bytes, Some(subject), now);
        let tell = if each { Tell::Each } else { Tell::First };
        lock(&self.would_drop).add(key, &count, seen_of(&count).as_slice(), tell);
    }

    /// Keeps up to `limit` kinds of frames that are dropped for [`Counters::take_drops`], and as many of those that rules
    /// would refuse. Further ones are lost and counted.
    pub(super) fn keep_drops(&self, limit: usize) {
        lock(&self.drops).news.limit = limit;
        lock(&self.would_drop).news.limit = limit;
    }

    /// The kinds of frames that were dropped since this was asked before, and that were not known until then.
    pub(super) fn take_drops(&self) -> VecDeque<(DropKey, Seen)> {
        lock(&self.drops).news.take()
    }

    /// The same of those that rules would have refused.
    pub(super) fn take_would_be_denied(&self) -> VecDeque<(DropKey, Seen)> {
        lock(&self.would_drop).news.take()
    }

    /// How many of both were lost.
    pub(super) fn drops_lost(&self) -> u64 {
        lock(&self.drops).news.lost + lock(&self.would_drop).news.lost
    }

    /// Counts fragments whose first has not come in time.
    pub fn count_lost_fragments(&self, fragments: &mut FragmentTable, now: Instant) {
        while let Some(Lost { vni, frame: Waiting { from, frame, .. } }) = fragments.pop_lost() {
            let reason = DropReason::FragmentFirstMissing;
            let key = DropKey { vni: Some(vni), reason, from: Some(from), by: None, rule: None };
            let view = View::parse(&frame).ok();
            let subject = view.map(|view| Subject::of_view(vni, &view, &frame));
            self.drop_frame(key, frame.len(), subject, now);
        }
    }

    /// Counts dropped frames, of which the last stands for all.
    pub fn add(&self, key: DropKey, count: &DropCount) {
        self.add_seen(key, count, seen_of(count).as_slice());
    }

    /// Counts dropped frames of which `seen` are known one by one.
    pub fn add_seen(&self, key: DropKey, count: &DropCount, seen: &[Seen]) {
        lock(&self.drops).add(key, count, seen, Tell::Nothing);
    }
}

impl Drops {
    fn add(&mut self, key: DropKey, count: &DropCount, seen: &[Seen], tell: Tell) {
        let Self { rows, remembered, news } = self;
        let chatter = count.last.is_some_and(|subject| subject.is_chatter(key.reason));
        let row_key = if rows.len() >= DROP_ROWS && !rows.contains_key(&(key, chatter)) {
            DropKey { from: None, by: None, rule: None, ..key }
        } else {
            key
        };
        let row = match rows.entry((row_key, chatter)) {
            Entry::Occupied(row) => {
                let row = row.into_mut();
                row.count.add(count);
                row
            }
            Entry::Vacant(place) => place.insert(Row { count: *count, recent: Recent::default() }),
        };
        for seen in seen {
            let more = row.recent.add(seen, recent::OF_A_WORKER.saturating_sub(*remembered));
            *remembered += more.unwrap_or_default();
            let is_told = match tell {
                Tell::Nothing => false,
                Tell::First => more.is_some(),
                Tell::Each => true,
            };
            if is_told && !chatter {
                news.push(key, seen);
            }
        }
    }
}

/// Of which frames it is told.
#[derive(Clone, Copy)]
enum Tell {
    /// Somebody else tells of them.
    Nothing,
    /// The first of each kind, as far as that is remembered
    First,
    Each,
}

fn one_frame(bytes: usize, last: Option<Subject>, now: Instant) -> DropCount {
    DropCount { frames: 1, bytes: bytes as u64, first_at: now, last_at: now, last }
}

/// A packet that a rule has settled by itself, as the rule counts it.
pub(super) fn packet(bytes: usize, now: Instant) -> RuleCount {
    RuleCount { packets: 1, bytes: bytes as u64, hit: Some((now, now)), ..RuleCount::default() }
}

/// A count whose frames are all like the last.
fn seen_of(count: &DropCount) -> Option<Seen> {
    let DropCount { frames, bytes, last_at, last, .. } = *count;
    last.map(|subject| Seen { subject, frames, bytes, last_at })
}

/// The drops of all workers together with `others`, by network, reason and source.
#[must_use]
pub fn drops(workers: &[Counters], others: Vec<(DropKey, DropCount)>) -> Vec<(DropKey, DropCount)> {
    rows_of(workers, |worker| &worker.drops, others)
}

fn rows_of(
    workers: &[Counters],
    of: fn(&Counters) -> &Mutex<Drops>,
    others: Vec<(DropKey, DropCount)>,
) -> Vec<(DropKey, DropCount)> {
    let mut all: BTreeMap<DropKey, DropCount> = BTreeMap::new();
    let mut add = |key: DropKey, count: &DropCount| {
        all.entry(key).and_modify(|row| row.add(count)).or_insert(*count);
    };
    for worker in workers {
        // Copied and let go: the worker waits with its next drop.
        #[allow(clippy::disallowed_methods, reason = "sums do not depend on the order")]
        let rows: Vec<(DropKey, DropCount)> =
            lock(of(worker)).rows.iter().map(|((key, _), row)| (*key, row.count)).collect();
        rows.iter().for_each(|(key, count)| add(*key, count));
    }
    others.iter().for_each(|(key, count)| add(*key, count));
    all.into_iter().collect()
}

/// The same with what is remembered of the frames, chatter in rows of its own. `seen` are frames of `others`.
#[must_use]
pub fn drop_details(
    workers: &[Counters],
    others: Vec<(DropKey, DropCount)>,
    seen: Vec<(DropKey, Seen)>,
) -> Vec<DropDetail> {
    details_of(workers, |worker| &worker.drops, others, seen)
}

/// Likewise, of what passed, and would have been dropped if no rule were being tried out.
#[must_use]
pub fn would_drop_details(workers: &[Counters]) -> Vec<DropDetail> {
    details_of(workers, |worker| &worker.would_drop, Vec::new(), Vec::new())
}

fn details_of(
    workers: &[Counters],
    of: fn(&Counters) -> &Mutex<Drops>,
    others: Vec<(DropKey, DropCount)>,
    seen: Vec<(DropKey, Seen)>,
) -> Vec<DropDetail> {
    let mut all: BTreeMap<(DropKey, bool), (DropCount, HashMap<Subject, Seen>)> = BTreeMap::new();
    let mut add = |at: (DropKey, bool), count: &DropCount| match all.entry(at) {
        btree_map::Entry::Occupied(row) => row.into_mut().0.add(count),
        btree_map::Entry::Vacant(place) => _ = place.insert((*count, HashMap::new())),
    };
    let mut remembered = Vec::new();
    for worker in workers {
        let drops = lock(of(worker));
        // Sums do not depend on the order.
        #[allow(clippy::iter_over_hash_type)]
        for (at, row) in &drops.rows {
            add(*at, &row.count);
            remembered.extend(row.recent.iter().map(|seen| (*at, *seen)));
        }
    }
    others.iter().for_each(|(key, count)| add((*key, false), count));
    remembered.extend(seen.into_iter().map(|(key, seen)| ((key, false), seen)));
    for (at, new) in remembered {
        let Some((_, seen)) = all.get_mut(&at) else { continue };
        let sum = seen.entry(new.subject).or_insert(Seen { frames: 0, bytes: 0, ..new });
        sum.frames += new.frames;
        sum.bytes += new.bytes;
        sum.last_at = sum.last_at.max(new.last_at);
    }
    let rows = all.into_iter().map(|((key, chatter), (count, seen))| {
        let mut seen: Vec<Seen> = seen.into_values().collect();
        seen.sort_by_key(|seen| std::cmp::Reverse(seen.last_at));
        DropDetail { key, chatter, count, seen }
    });
    rows.collect()
}

/// Frames and bytes since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Frames from tenant ports
    pub from_ports: u64,
    /// Datagrams from the underlay
    pub from_underlay: u64,
    /// Frames sent to tenant ports
    pub to_ports: u64,
    /// Datagrams sent to the underlay
    pub to_underlay: u64,
    /// ARP and ND answers given
    pub answers: u64,
    /// Those of them that were given elsewhere
    pub answers_repeated: u64,
    /// Packets that did not fit the tunnel and were cut into fragments
    pub fragmented: u64,
    /// [`Counters::decided_again`]
    pub decided_again: u64,
    /// [`Counters::rejects_told`]
    pub rejects_told: u64,
    /// [`Counters::rejects_limited`]
    pub rejects_limited: u64,
    /// Frames that passed, and would have been dropped if no rule were being tried out
    pub would_deny: u64,
    /// Frames dropped
    pub dropped: u64,
}

/// What every frame that passed elsewhere, or was dropped there, adds to the counters.
#[derive(Clone, Debug, Default)]
pub struct Elsewhere {
    /// Frames and datagrams; `dropped` is the sum of `drops`
    pub traffic: Traffic,
    /// Drops, as far as anything is known of them
    pub drops: Vec<(DropKey, DropCount)>,
}

fn sum_of(workers: &[Counters], of: fn(&Counters) -> &Mutex<Drops>) -> u64 {
    #[allow(clippy::disallowed_methods, reason = "a sum does not depend on the order")]
    let of_worker = |worker| lock(of(worker)).rows.values().map(|row| row.count.frames).sum::<u64>();
    workers.iter().map(of_worker).sum()
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
        fragmented: sum(|w| &w.fragmented),
        decided_again: sum(|w| &w.decided_again),
        rejects_told: sum(|w| &w.rejects_told),
        rejects_limited: sum(|w| &w.rejects_limited),
        would_deny: sum_of(workers, |worker| &worker.would_drop),
        dropped: sum_of(workers, |worker| &worker.drops),
    }
}

#[cfg(test)]
mod tests {
    use eastgate_wire::{Addr, AttachmentId, FlowKey, Leg};

    use super::*;

    fn datagram(vni: Vni, sport: u16) -> Subject {
        let (src, dst) = (Addr::v4([10, 1, 0, 1]), Addr::v4([10, 1, 0, 2]));
        Subject::of_flow(FlowKey { src, dst, vni, sport, dport: 80, proto: 17, leg: Leg::DIRECT })
    }

    #[test]
    fn rows_are_bounded_and_nothing_goes_uncounted() {
        let workers = [Counters::default(), Counters::default()];
        let vni = |n: u32| Vni::new_checked(n % 3).ok();
        let many = 2 * DROP_ROWS as u32;
        for n in 0..many {
            let from = Some(Location::Local(AttachmentId(n)));
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

    #[test]
    fn a_flood_in_one_network_keeps_no_other_from_being_told() {
        let counters = Counters::default();
        counters.keep_drops(64);
        let deny = |vni: u32, sport: u16| {
            let vni = Vni::new_checked(vni).unwrap();
            let key = DropKey {
                vni: Some(vni),
                reason: DropReason::IngressRule,
                from: None,
                by: None,
                rule: Some(1),
            };
            counters.drop_told(key, 60, datagram(vni, sport), Instant::ZERO, true);
        };
        let told = || {
            let mut told = BTreeMap::new();
            counters
                .take_drops()
                .iter()
                .for_each(|(key, _)| *told.entry(key.vni.unwrap().get()).or_insert(0) += 1);
            told
        };
        (0..1000).for_each(|sport| deny(1, sport));
        (0..1000).for_each(|_| deny(2, 7));
        (0..5).for_each(|sport| deny(3, sport));
        assert_eq!(told(), BTreeMap::from([(1, 32), (2, 16), (3, 5)]));
        assert_eq!(counters.drops_lost(), 2005 - 53);
        (0..5).for_each(|sport| deny(1, sport));
        assert_eq!(told(), BTreeMap::from([(1, 5)]));
    }

    #[test]
    fn what_has_no_row_of_its_own_is_told_with_its_rule() {
        let counters = Counters::default();
        counters.keep_drops(8);
        let key = |n: u32| DropKey {
            vni: Vni::new_checked(1).ok(),
            reason: DropReason::IngressRule,
            from: Some(Location::Local(AttachmentId(n))),
            by: None,
            rule: Some(n),
        };
        for n in 0..DROP_ROWS as u32 {
            counters.drop_frame(key(n), 60, None, Instant::ZERO);
        }
        let last = key(u32::MAX);
        counters.drop_told(last, 60, datagram(Vni::new_checked(1).unwrap(), 1), Instant::ZERO, true);
        assert_eq!(counters.take_drops().into_iter().map(|(key, _)| key).collect::<Vec<_>>(), [last]);
    }
}
