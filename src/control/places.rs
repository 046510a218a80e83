//! Conversations that are held at a time, and who makes room when there are too many: whoever has shown no token before whoever has, those
//! of the source that has most before those of others, and among these whoever has kept us waiting for longest. So many that are no
//! more than a few addresses leave room to whoever comes from another one.

use std::{
    cmp::Reverse,
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{sync::Notify, task::AbortHandle};

/// Sources that have shown a token and are remembered for it.
const REMEMBERED: usize = 1024;

/// For how long they are.
const LATELY: Duration = Duration::from_secs(3600);

/// How many there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Conversations at one time
    pub(super) all: usize,
    /// Those with one source address
    pub(super) of_a_source: usize,
    /// Conversations that have shown no token yet and do not make room before those that have: whoever comes is heard out
    pub(super) newcomers: usize,
    /// Bytes of answers that were not read yet. The asker who has taken longest to read its own makes room.
    pub(super) unread: usize,
}

/// The conversations that there are.
#[derive(Debug)]
pub(super) struct Table {
    bounds: Bounds,
    places: Mutex<Places>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Places {
    next: u64,
    entries: Vec<Entry>,
    /// When sources have last shown a token
    good: HashMap<IpAddr, Instant>,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    source: Option<IpAddr>,
    /// It, or lately another of its source, has shown a token that is known; on the control socket everybody has.
    known: bool,
    /// Since when it waits for the asker; none while it is worked on an answer
    waits_since: Option<Instant>,
    /// Bytes of an answer that it has not read yet
    unread: usize,
    task: Option<AbortHandle>,
    /// It was told to end, and is as good as gone.
    ending: bool,
}

impl Table {
    pub(super) fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self { bounds, places: Mutex::default(), freed: Notify::new() })
    }

    fn with<T>(&self, work: impl FnOnce(&mut Places) -> T) -> T {
        work(&mut self.places.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns when there is room for one more: the asker that has kept us waiting for longest goes, or if none has, an
    /// answer that is under way is waited for.
    pub(super) async fn wait_for_room(&self) {
        loop {
            let freed = self.freed.notified();
            let full = self.with(|places| {
                if places.entries.len() < self.bounds.all {
                    return false;
                }
                end(cheapest(&mut places.entries, self.bounds.newcomers, |_| true));
                true
            });
            if !full {
                return;
            }
            freed.await;
        }
    }

    /// Makes room for one more of this source at once, if there is somebody who may go for it.
    pub(super) fn make_room(&self, source: IpAddr) -> bool {
        self.with(|places| {
            let there = |entry: &&Entry| !entry.ending;
            let of_it = |entry: &Entry| entry.source == Some(source);
            let newcomers = self.bounds.newcomers;
            if places.entries.iter().filter(there).filter(|entry| of_it(entry)).count()
                >= self.bounds.of_a_source
            {
                return end(cheapest(&mut places.entries, newcomers, of_it));
            }
            if places.entries.iter().filter(there).count() >= self.bounds.all {
                return end(cheapest(&mut places.entries, newcomers, |_| true));
            }
            true
        })
    }

    /// Somebody has shown a good token from there lately.
    pub(super) fn is_good(&self, source: IpAddr) -> bool {
        self.with(|places| places.good.get(&source).is_some_and(|shown| shown.elapsed() < LATELY))
    }

    /// Ends conversations whose askers have not read their answers, those that take longest first, until what waits to be
    /// read is within its bound. The one with the newest answer stays.
    fn bound_unread(&self, newest: u64) {
        self.with(|places| {
            let mut unread: usize = places.entries.iter().map(|entry| entry.unread).sum();
            while unread > self.bounds.unread {
                let others =
                    places.entries.iter_mut().filter(|entry| entry.unread > 0 && entry.number != newest);
                let Some(slowest) = others.min_by_key(|entry| (entry.known, entry.waits_since)) else {
                    return;
                };
                unread -= std::mem::take(&mut slowest.unread);
                end(Some(slowest));
            }
        });
    }
}

/// Who goes first of those that may, and wait for nothing but their asker: those without a token, unless they are few; those of the
/// source that has most; those that wait for longest.
fn cheapest(entries: &mut [Entry], newcomers: usize, may_go: impl Fn(&Entry) -> bool) -> Option<&mut Entry> {
    let mut of_source: HashMap<Option<IpAddr>, usize> = HashMap::new();
    let mut unknown = 0;
    for entry in entries.iter().filter(|entry| !entry.ending) {
        *of_source.entry(entry.source).or_default() += 1;
        unknown += usize::from(!entry.known);
    }
    let are_many = unknown > newcomers;
    let idle = entries
        .iter_mut()
        .filter(|entry| !entry.ending && entry.task.is_some() && may_go(entry))
        .filter(|entry| entry.waits_since.is_some() || !entry.known);
    idle.min_by_key(|entry| {
        let crowd = Reverse(of_source.get(&entry.source).copied());
        (are_many && entry.known, crowd, entry.known, entry.waits_since.is_none(), entry.waits_since)
    })
}

/// Ends it, if there is one.
fn end(entry: Option<&mut Entry>) -> bool {
    let Some(entry) = entry else { return false };
    if let Some(task) = &entry.task {
        task.abort();
    }
    entry.ending = true;
    true
}

/// A conversation's place in the table, given up when it ends in whatever way.
#[derive(Debug)]
pub(super) struct Place {
    table: Arc<Table>,
    number: u64,
}

impl Place {
    /// One for a conversation with this source address; `known` where nobody has to show a token.
    pub(super) fn new(table: &Arc<Table>, source: Option<IpAddr>, known: bool) -> Self {
        let number = table.with(|places| {
            let number = places.next;
            places.next += 1;
            places.entries.push(Entry {
                number,
                source,
                known,
                waits_since: Some(Instant::now()),
                unread: 0,
                task: None,
                ending: false,
            });
            number
        });
        Self { table: table.clone(), number }
    }

    /// What is aborted when it has to make room.
    pub(super) fn is_served_by(&self, task: AbortHandle) {
        self.change(|entry| entry.task = Some(task));
    }

    /// It has shown a token.
    pub(super) fn is_known(&self) {
        self.change(|entry| entry.known = true);
        self.table.with(|places| {
            let Some(source) = places.entries.iter().find(|entry| entry.number == self.number) else {
                return;
            };
            let Some(source) = source.source else { return };
            if places.good.len() >= REMEMBERED && !places.good.contains_key(&source) {
                let oldest = places.good.iter().min_by_key(|(_, shown)| **shown).map(|(source, _)| *source);
                oldest.map(|oldest| places.good.remove(&oldest));
            }
            places.good.insert(source, Instant::now());
        });
    }

    /// It is worked on an answer.
    pub(super) fn works(&self) {
        self.change(|entry| (entry.waits_since, entry.unread) = (None, 0));
    }

    /// The asker has so much to read, or nothing, and something to ask.
    pub(super) fn waits(&self, unread: usize) {
        self.change(|entry| (entry.waits_since, entry.unread) = (Some(Instant::now()), unread));
        self.table.bound_unread(self.number);
    }

    /// So much is left to be read.
    pub(super) fn reads(&self, unread: usize) {
        self.change(|entry| entry.unread = unread);
    }

    fn change(&self, change: impl FnOnce(&mut Entry)) {
        self.table.with(|places| {
            if let Some(entry) = places.entries.iter_mut().find(|entry| entry.number == self.number) {
                change(entry);
            }
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.table.with(|places| places.entries.retain(|entry| entry.number != self.number));
        self.table.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { all: 4, of_a_source: 2, newcomers: 0, unread: 100 };

    fn source(number: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, number])
    }

    /// A conversation that is never over by itself.
    fn converse(
        table: &Arc<Table>,
        source: Option<IpAddr>,
        known: bool,
    ) -> (Place, tokio::task::JoinHandle<()>) {
        let place = Place::new(table, source, known);
        let task = tokio::spawn(std::future::pending::<()>());
        place.is_served_by(task.abort_handle());
        (place, task)
    }

    async fn ended(all: &[(Place, tokio::task::JoinHandle<()>)]) -> Vec<usize> {
        tokio::task::yield_now().await;
        let ended = all.iter().enumerate().filter(|(_, (_, task))| task.is_finished());
        ended.map(|(number, _)| number).collect()
    }

    #[tokio::test]
    async fn who_does_not_read_makes_room_for_who_does() {
        let table = Table::new(BOUNDS);
        let all: Vec<_> = (0..5).map(|_| converse(&table, None, true)).collect();
        for (place, _) in &all {
            place.waits(25);
        }
        assert_eq!(ended(&all).await, [0], "the one that has had its answer for longest");
    }

    #[tokio::test]
    async fn who_shows_no_token_makes_room_first() {
        let table = Table::new(BOUNDS);
        let all: Vec<_> = (0..4).map(|number| converse(&table, Some(source(number)), number != 2)).collect();
        assert!(table.make_room(source(9)));
        assert_eq!(ended(&all).await, [2]);
        // One that was told to go counts no more.
        assert!(table.make_room(source(9)));
        assert_eq!(ended(&all).await, [2]);
        let more = converse(&table, Some(source(9)), true);
        assert!(table.make_room(source(8)), "whoever waits for its asker");
        assert_eq!(ended(&all).await, [0, 2]);
        drop(more);
    }

    #[tokio::test]
    async fn a_source_makes_room_for_itself() {
        let table = Table::new(BOUNDS);
        let all: Vec<_> = [1, 2, 1].map(|number| converse(&table, Some(source(number)), number == 2)).into();
        assert!(table.make_room(source(1)));
        assert_eq!(ended(&all).await, [0]);
        all[1].0.works();
        let other = converse(&table, Some(source(2)), true);
        other.0.works();
        assert!(!table.make_room(source(2)), "nobody goes whose answer is under way");
        assert!(table.make_room(source(3)));
    }

    #[tokio::test]
    async fn a_few_sources_make_room_for_others() {
        let table = Table::new(Bounds { all: 5, of_a_source: 3, newcomers: 1, unread: 100 });
        // The first has come before all others and has nobody beside it.
        let sources = [(1, false), (2, true), (3, true), (2, true), (3, true)];
        let mut all: Vec<_> =
            sources.iter().map(|(number, known)| converse(&table, Some(source(*number)), *known)).collect();
        assert!(table.make_room(source(4)));
        assert_eq!(ended(&all).await, [1], "the one of two that waits for longest, though it has a token");
        all.push(converse(&table, Some(source(4)), false));
        drop(all.remove(1));
        assert!(table.make_room(source(5)), "newcomers are two now, and one of them goes");
        assert_eq!(ended(&all).await, [0]);
    }

    #[tokio::test]
    async fn sources_of_good_tokens_are_remembered_within_a_bound() {
        let table = Table::new(BOUNDS);
        let (place, _task) = converse(&table, Some(source(1)), false);
        assert!(!table.is_good(source(1)));
        place.is_known();
        assert!(table.is_good(source(1)) && !table.is_good(source(2)));
        for number in 0..2000_u32 {
            Place::new(&table, Some(std::net::Ipv4Addr::from_bits(number).into()), false).is_known();
        }
        assert_eq!(table.with(|places| places.good.len()), REMEMBERED);
        assert!(!table.is_good(source(1)));
    }

    #[tokio::test]
    async fn room_is_waited_for_where_nobody_may_go() {
        let table = Table::new(BOUNDS);
        let mut all: Vec<_> = (0..4).map(|_| converse(&table, None, true)).collect();
        all.iter().for_each(|(place, _)| place.works());
        let waits = tokio::time::timeout(std::time::Duration::from_millis(20), table.wait_for_room()).await;
        assert!(waits.is_err());
        all.pop();
        table.wait_for_room().await;
    }
}
