//! What has happened of late: the newest events in a ring that nobody has to read, collected from the pipeline and the kernel on
//! a thread of its own.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    io::Result,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use eastgate_conntrack::flow::Happening;
use eastgate_dataplane::pipeline::{
    counters::{DropKey, Seen, Subject},
    events::Event,
    shared::lock,
};

use eastgate_wire::{DropGroup, DropReason, Instant, Vni};

use super::{
    View,
    log::{Log, is_logged},
};
use crate::io::clock;

/// Events that are kept.
const KEPT: usize = 16_384;
/// Events that wait to be collected, of each part of the flow table and each worker.
const WAITING: usize = 1024;
/// How often they are.
const PERIOD: Duration = Duration::from_millis(250);
/// Kinds of frames of one network that one reason but a rule's drops, of which it is told in a period. Whoever sends ever new ones keeps nobody
/// from being heard whose events come later.
const OF_A_REASON: usize = 16;
/// How often what the kernel's programs have refused is looked at, in periods.
const KERNEL: u32 = 4;
/// Kinds of frames that are remembered of those that the kernel's programs count without a place for each kind.
const COUNTED: usize = 4096;

/// An event with its number, and its time by the clock of the wall as that was set then, in milliseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    pub(super) seq: u64,
    pub(super) time_ms: u64,
    pub(super) event: Event,
}

/// The newest events.
#[derive(Debug)]
pub(super) struct Recent {
    events: VecDeque<Told>,
    /// The number of the next one
    next: u64,
    /// How many were lost before they came here
    lost: u64,
    /// How many of those were left out here
    left_out: u64,
}

impl Default for Recent {
    fn default() -> Self {
        Self { events: VecDeque::new(), next: 1, lost: 0, left_out: 0 }
    }
}

impl Recent {
    /// Takes events; `lost` is how many never came here, since the start.
    fn add(&mut self, events: impl IntoIterator<Item = Event>, lost: u64) {
        // They have had their numbers.
        self.next += lost.saturating_sub(self.lost);
        self.lost = self.lost.max(lost);
        for event in events {
            if self.events.len() >= KEPT {
                self.events.pop_front();
            }
            let time_ms = clock::unix_millis(event.at());
            self.events.push_back(Told { seq: self.next, time_ms, event });
            self.next += 1;
        }
    }

    /// The number of the newest.
    pub(super) const fn last(&self) -> u64 {
        self.next - 1
    }

    /// Those with a higher number.
    pub(super) fn after(&self, number: u64) -> impl DoubleEndedIterator<Item = &Told> {
        let from = self.events.partition_point(|told| told.seq <= number);
        self.events.range(from..)
    }
}

/// How many there were from `number` on up to `end` that are not among `these`, which come after it.
pub(super) fn lost_between<'e>(these: impl IntoIterator<Item = &'e Told>, number: u64, end: u64) -> u64 {
    let here = these.into_iter().take_while(|told| told.seq <= end).count();
    end.saturating_sub(number).saturating_sub(here as u64)
}

/// The thread that collects. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Collector {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Collector {
    pub(super) fn start(view: &Arc<View>) -> Result<Self> {
        view.shared.keep_events(WAITING, clock::now());
        let over = Arc::new(AtomicBool::new(false));
        let (view, told) = (view.clone(), over.clone());
        let thread = thread::Builder::new().name("events".into()).spawn(move || {
            let (mut refused, mut counted) = (Refused::default(), Counted::since(clock::now()));
            let mut log = Log::default();
            for period in 0u32.. {
                if told.load(Relaxed) {
                    return;
                }
                view.collect(&mut refused, &mut counted, &mut log, period % KERNEL == 0);
                thread::park_timeout(PERIOD);
            }
        })?;
        Ok(Self { over, thread: Some(thread) })
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

/// What the kernel's programs are known to have refused.
type Refused = HashMap<(DropKey, Subject), u64>;

/// What the kernel's programs have dropped without a place for each kind of it, as far as it was told.
struct Counted {
    told: HashSet<(DropKey, Subject)>,
    /// What was before is what a daemon before this one told of.
    since: Instant,
    /// How many frames had been too many to be punted
    limited: u64,
}

impl Counted {
    fn since(since: Instant) -> Self {
        Self { told: HashSet::new(), since, limited: 0 }
    }

    /// Those that are of another kind than was told before.
    fn news(&mut self, last: Vec<(DropKey, Seen)>) -> Vec<Event> {
        if self.told.len() >= COUNTED {
            self.told.clear();
        }
        // What every guest sends of its own accord is counted alone.
        let is_new = |(key, seen): &(DropKey, Seen)| {
            seen.last_at >= self.since
                && !seen.subject.is_chatter(key.reason)
                && self.told.insert((*key, seen.subject))
        };
        last.into_iter().filter(is_new).map(|(key, seen)| Event::Dropped(key, seen)).collect()
    }
}

impl View {
    fn collect(&self, refused: &mut Refused, counted: &mut Counted, log: &mut Log, kernel_too: bool) {
        let snapshot = self.shared.snapshot_arc();
        let mut events = self.shared.take_events();
        events.retain(|event| !is_import(event));
        let left_out = leave_out_what_is_too_much(&mut events);
        if kernel_too && let Some(kernel) = self.kernel.get() {
            match kernel.seen_denied() {
                Ok(seen) => events.extend(news(refused, seen, |key| is_logged(&snapshot, key))),
                Err(error) => tracing::debug!(%error, "what the kernel's programs refuse is not told"),
            }
            match kernel.last_counted(&mut counted.limited) {
                Ok(last) => events.extend(counted.news(last)),
                Err(error) => tracing::debug!(%error, "what the kernel's programs drop is not told"),
            }
        }
        self.compare_with_staged(&snapshot, &events);
        log.write(&snapshot, &events, clock::now());
        let mut recent = lock(&self.events);
        recent.left_out += left_out;
        let lost = self.shared.events_lost() + recent.left_out;
        recent.add(events, lost);
    }
}

/// Takes out what is too much of what is dropped for one reason; how many.
fn leave_out_what_is_too_much(events: &mut Vec<Event>) -> u64 {
    let before = events.len();
    let mut told: HashMap<(Option<Vni>, DropReason), usize> = HashMap::new();
    events.retain(|event| {
        let Event::Dropped(key, _) = event else { return true };
        let so_far = told.entry((key.vni, key.reason)).or_default();
        *so_far += 1;
        key.reason.group() == DropGroup::Policy || *so_far <= OF_A_REASON
    });
    (before - events.len()) as u64
}

/// A flow that began in the kernel has come to the pipeline: that is no beginning.
fn is_import(event: &Event) -> bool {
    let Event::Flow(event) = event else { return false };
    event.what == Happening::Opened && event.flow.created < event.at
}

/// Those that were not there when this was asked before; and of what is to be logged, those that came on top.
fn news(known: &mut Refused, seen: Vec<(DropKey, Seen)>, is_logged: impl Fn(&DropKey) -> bool) -> Vec<Event> {
    let mut now = Refused::with_capacity(seen.len());
    let mut events = Vec::new();
    for (key, seen) in seen {
        let kind = (key, seen.subject);
        // One that has fewer frames than before was forgotten meanwhile, and came again.
        let before = known.get(&kind).copied().filter(|frames| seen.frames >= *frames);
        match before {
            None => events.push(Event::Dropped(key, seen)),
            Some(before) if seen.frames > before && is_logged(&key) => {
                let frames = seen.frames - before;
                events.push(Event::Dropped(
                    key,
                    Seen { frames, bytes: seen.bytes / seen.frames * frames, ..seen },
                ));
            }
            Some(_) => {}
        }
        now.insert(kind, seen.frames);
    }
    *known = now;
    events.sort_by_key(Event::at);
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(number: u64, frames: u64) -> (DropKey, Seen) {
        let key = DropKey { vni: None, reason: DropReason::IngressDenied, from: None, by: None, rule: None };
        let subject = Subject { tag: Some(number as u16), ..Subject::default() };
        (key, Seen { subject, frames, bytes: 0, last_at: Instant::from_secs(number) })
    }

    fn event(number: u64) -> Event {
        let (key, seen) = denied(number, 1);
        Event::Dropped(key, seen)
    }

    #[test]
    fn the_newest_are_kept_and_gaps_are_told() {
        let lost = |recent: &Recent, number, end| lost_between(recent.after(number), number, end);
        let mut recent = Recent::default();
        assert_eq!((recent.last(), lost(&recent, 0, 0)), (0, 0));
        recent.add((0..3).map(event), 0);
        assert_eq!(recent.after(1).map(|told| told.seq).collect::<Vec<_>>(), [2, 3]);
        recent.add((3..4).map(event), 5);
        assert_eq!((recent.last(), lost(&recent, 0, 9), lost(&recent, 3, 9)), (9, 5, 5));
        recent.add((0..2 * KEPT as u64).map(event), 5);
        assert_eq!(recent.after(0).count(), KEPT);
        assert_eq!(lost(&recent, 9, recent.last()), KEPT as u64);
        assert_eq!(recent.after(recent.last()).count(), 0);
    }

    #[test]
    fn what_is_counted_is_told_when_it_is_of_another_kind() {
        let mut counted = Counted::since(Instant::from_secs(1));
        let mut news = |number| counted.news(vec![denied(number, 1)]).len();
        assert_eq!([0, 1, 1, 2, 1].map(&mut news), [0, 1, 0, 1, 0]);
        let later = 3 + COUNTED as u64;
        assert!((3..later).all(|number| news(number) == 1));
        assert_eq!(news(later), 1, "it was forgotten to make room");
    }

    #[test]
    fn a_refusal_is_news_once() {
        let mut known = Refused::new();
        let told = |events: Vec<Event>| events.len();
        let news = |known: &mut Refused, seen| news(known, seen, |_| false);
        assert_eq!(told(news(&mut known, vec![denied(1, 1), denied(2, 1)])), 2);
        assert_eq!(told(news(&mut known, vec![denied(1, 7), denied(2, 1)])), 0);
        assert_eq!(told(news(&mut known, vec![denied(1, 2), denied(3, 1)])), 2, "one came again, one is new");
        assert_eq!(told(news(&mut known, vec![denied(2, 1)])), 1, "it was forgotten");
    }

    #[test]
    fn a_flood_leaves_room_for_what_else_there_is_to_tell() {
        let of = |reason: DropReason, vni: u32, number: u64| {
            let (key, seen) = denied(number, 1);
            Event::Dropped(DropKey { vni: Vni::new_checked(vni).ok(), reason, ..key }, seen)
        };
        let mut events: Vec<Event> = (0..1000).map(|number| of(DropReason::IpSpoofed, 1, number)).collect();
        events.extend((0..20).map(|number| of(DropReason::IngressDenied, 1, number)));
        events.push(of(DropReason::IpSpoofed, 2, 0));
        events.push(of(DropReason::MacSpoofed, 1, 0));
        assert_eq!(leave_out_what_is_too_much(&mut events), 1000 - OF_A_REASON as u64);
        assert_eq!(events.len(), OF_A_REASON + 20 + 2);
    }

    #[test]
    fn of_what_is_logged_each_packet_is_told() {
        let mut known = Refused::new();
        let frames = |known: &mut Refused, seen| {
            let events = news(known, seen, |key| key.rule == Some(1));
            events
                .iter()
                .map(|event| match event {
                    Event::Dropped(_, seen) => seen.frames,
                    _ => 0,
                })
                .collect::<Vec<_>>()
        };
        let logged = |number, count| {
            let (key, seen) = denied(number, count);
            (DropKey { rule: Some(1), ..key }, seen)
        };
        assert_eq!(frames(&mut known, vec![logged(1, 2), denied(1, 2)]), [2, 2]);
        assert_eq!(frames(&mut known, vec![logged(1, 7), denied(1, 7)]), [5]);
        assert_eq!(frames(&mut known, vec![logged(1, 7), denied(1, 8)]), [0u64; 0]);
        assert_eq!(frames(&mut known, vec![logged(1, 3)]), [3], "it was forgotten, and came again");
    }
}
