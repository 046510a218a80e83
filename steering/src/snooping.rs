//! Which addresses endpoints have that nobody has written down: learned by snooping, as SAVI does it (RFC 7513 by DHCP, RFC 6620
//! by who comes first).
//!
//! What this promises:
//! - What is heard waits in a queue that no endpoint takes from another; whoever keeps the table fetches it.
//! - Who has an address keeps it: a newcomer is refused, however often it asks. A server that leases an address to another client
//!   of the same host takes it from the one that it was leased to before.
//! - An endpoint never has more addresses than its limit, and what it tries beyond that costs nobody else anything.
//! - A server's word counts where the endpoint has asked for it.
//! - What is not heard of again ends: a lease with its time, all else with its age.
//! - What another host says of an endpoint of its own counts here until it is silent for [`HEARSAY`], another host says
//!   otherwise, or a server leases it to an endpoint here and the other host is silent when it is asked ([`contest`]).
//! - Each address that is new to an endpoint costs one of its tokens: as many at once as it may have, then one a second. A lease
//!   waits for one; what the endpoint says itself is refused, and may be said again.
//!
//! Endpoints are named by their own MAC. One table a network; time is handed in.

pub mod contest;
pub mod dhcp;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    time::Duration,
};

use eastgate_wire::{Addr, Family, Instant, MacAddr, Rate, TokenBucket};

use self::{contest::Contests, dhcp::Transaction};

/// How long what another host has said of its endpoint counts. It says it again each [`SAID_AGAIN`].
pub const HEARSAY: Duration = Duration::from_secs(1000);
/// How often a host tells others of what it has learned.
pub const SAID_AGAIN: Duration = Duration::from_secs(300);
/// Two hosts that learn one address within this time both give it up: none of them was first.
pub const YOUNG: Duration = Duration::from_secs(2);
/// How long an endpoint waits for a server's answer.
const PATIENCE: Duration = Duration::from_secs(120);
/// Questions of one endpoint that may be answered
const ASKED: usize = 8;
/// Words of one endpoint that wait to be fetched, and of all
const WAITING: usize = 32;
const WAITING_IN_ALL: usize = 4096;
/// Addresses of a network
pub const MOST: usize = 65_536;
/// Addresses that are new to an endpoint, a second; at once it may have as many as its limit. Each of them has the rules of its tenant
/// compiled anew.
const NEW_PER_SECOND: u32 = 1;
/// Refusals that are told one by one; all are counted.
const TOLD: Rate = Rate { per_second: 1, burst: 10 };

/// By what an address was learned.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum By {
    /// A DHCP or DHCPv6 server's lease
    Dhcp,
    /// The endpoint's own ARP or neighbour discovery
    Nd,
    /// A packet of the endpoint's
    Traffic,
}

impl By {
    /// As the command line has it
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dhcp => "dhcp",
            Self::Nd => "nd",
            Self::Traffic => "traffic",
        }
    }

    /// The one with this name
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Dhcp, Self::Nd, Self::Traffic].into_iter().find(|by| by.name() == name)
    }
}

/// What was heard of an endpoint's address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Word {
    /// It was leased: for how long, none for ever.
    Leased(Option<Duration>),
    /// The endpoint says that it has it, or is about to.
    Announced,
    /// The endpoint sends from it.
    Used,
    /// The endpoint has given it up, or its server has.
    Ended,
}

/// What becomes of words about one endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// What leases say counts.
    pub by_dhcp: bool,
    /// So does what it says itself.
    pub by_nd: bool,
    /// So do its packets.
    pub by_traffic: bool,
    /// Addresses at most
    pub limit: usize,
    /// The first of each family is the only one.
    pub lock: bool,
    /// How long one that is silent is remembered; none for ever
    pub age: Duration,
    /// What it sends is checked on this host, or else by another one, whose word counts.
    pub here: bool,
}

/// An address that was learned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Whose it is
    pub endpoint: MacAddr,
    /// By what it was learned
    pub by: By,
    /// Whether what the endpoint sends is checked on this host
    pub here: bool,
    /// Since when
    pub since: Instant,
    /// Until when, if nothing is heard; none for ever
    pub until: Option<Instant>,
}

/// Why an address is not learned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// Another endpoint has learned it before.
    Held(MacAddr),
    /// The endpoint has as many as its limit.
    Limit,
    /// The endpoint is locked to the one it has.
    Locked,
    /// The network has as many as a table holds.
    Full,
    /// The endpoint has had too many new ones lately.
    Pace,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held(by) => write!(f, "the endpoint with MAC {by} was first"),
            Self::Limit => f.write_str("the endpoint has as many as `learn_limit`"),
            Self::Locked => f.write_str("the endpoint is locked to the one that it has (`learn_lock`)"),
            Self::Full => f.write_str("the network has as many as its table holds"),
            Self::Pace => f.write_str(
                "the endpoint has had as many new ones lately as `learn_limit`, and one each second",
            ),
        }
    }
}

/// What a word did to the table.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heard {
    /// The address is the endpoint's from now on; `from` had it.
    Learned {
        /// Whose it was until now
        from: Option<MacAddr>,
    },
    /// It is the endpoint's as before.
    Known,
    /// It is nobody's any more: its endpoint's no longer, or two claimed it at once.
    Gone,
    /// Nothing: the word does not count, or says nothing new.
    Nothing,
    /// It is not learned.
    Refused(Refused),
    /// Nothing yet: the same word is to be heard again in a moment.
    Later,
    /// Nothing yet: the host of who has it is to be asked, see [`contest`].
    Contested,
}

/// What was heard, learned and asked in one network.
#[derive(Debug)]
pub struct Snooped {
    entries: BTreeMap<Addr, Entry>,
    waiting: BTreeMap<MacAddr, BTreeMap<Addr, Word>>,
    in_waiting: usize,
    asked: BTreeMap<MacAddr, VecDeque<(Transaction, Instant)>>,
    contests: Contests,
    /// What endpoints may learn now; those that are not in it may learn as many as their limit
    paces: BTreeMap<MacAddr, TokenBucket>,
    told: TokenBucket,
    /// Refusals so far
    pub refused: u64,
}

impl Default for Snooped {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            waiting: BTreeMap::new(),
            in_waiting: 0,
            asked: BTreeMap::new(),
            contests: Contests::default(),
            paces: BTreeMap::new(),
            told: TokenBucket::new(TOLD, Instant::ZERO),
            refused: 0,
        }
    }
}

impl Snooped {
    /// Notes what was heard, until it is fetched. Whether it is noted: an endpoint with too much that waits is not heard.
    pub fn note(&mut self, endpoint: MacAddr, address: Addr, word: Word) -> bool {
        let full = self.in_waiting >= WAITING_IN_ALL;
        let of_endpoint = self.waiting.entry(endpoint).or_default();
        if let Some(known) = of_endpoint.get_mut(&address) {
            // What a server says is more than what the endpoint does.
            if !matches!((*known, word), (Word::Leased(_) | Word::Ended, Word::Announced | Word::Used)) {
                *known = word;
            }
            return true;
        }
        if full || of_endpoint.len() >= WAITING {
            return false;
        }
        of_endpoint.insert(address, word);
        self.in_waiting += 1;
        true
    }

    /// What was noted, which waits no longer.
    pub fn take_noted(&mut self) -> Vec<(MacAddr, Addr, Word)> {
        self.in_waiting = 0;
        let waiting = std::mem::take(&mut self.waiting).into_iter();
        let of_endpoint = |(endpoint, words): (MacAddr, BTreeMap<Addr, Word>)| {
            words.into_iter().map(move |(address, word)| (endpoint, address, word))
        };
        waiting.flat_map(of_endpoint).collect()
    }

    /// Whether anything waits.
    #[must_use]
    pub const fn has_noted(&self) -> bool {
        self.in_waiting > 0
    }

    /// An endpoint has asked a server.
    pub fn ask(&mut self, endpoint: MacAddr, transaction: Transaction, now: Instant) {
        let asked = self.asked.entry(endpoint).or_default();
        asked.retain(|(known, at)| *known != transaction && now.since(*at) < PATIENCE);
        if asked.len() >= ASKED {
            asked.pop_front();
        }
        asked.push_back((transaction, now));
    }

    /// Whether an endpoint waits for this answer.
    #[must_use]
    pub fn has_asked(&self, endpoint: MacAddr, transaction: Transaction, now: Instant) -> bool {
        let asked = self.asked.get(&endpoint).into_iter().flatten();
        asked.into_iter().any(|(known, at)| *known == transaction && now.since(*at) < PATIENCE)
    }

    /// An endpoint was heard with an address that it has learned.
    pub fn touch(&mut self, endpoint: MacAddr, address: Addr, age: Duration, now: Instant) {
        let entry = self.entries.get_mut(&address).filter(|entry| entry.endpoint == endpoint);
        if entry.is_some() {
            self.contests.answer(address);
        }
        if let Some(entry) = entry.filter(|entry| !(entry.here && entry.by == By::Dhcp)) {
            let lasts = if entry.here { age } else { HEARSAY };
            entry.until = entry.until.map(|until| until.max(now + lasts));
        }
    }

    /// What a word does to the table. The address is one that may be learned and that nobody has but by this table.
    pub fn hear(
        &mut self,
        endpoint: MacAddr,
        address: Addr,
        word: Word,
        terms: &Terms,
        now: Instant,
    ) -> Heard {
        let Some((by, until)) = terms.allow(word, now) else {
            return if word == Word::Ended { self.end(endpoint, address) } else { Heard::Nothing };
        };
        let known = self.entries.get(&address).copied();
        let from = match known {
            Some(known) if known.endpoint == endpoint => return self.renew(address, by, until, terms, now),
            Some(known) => match yields(&known, by, terms, now) {
                Yields::Taken => Some(known.endpoint),
                Yields::Both => {
                    self.entries.remove(&address);
                    return Heard::Gone;
                }
                Yields::No if by == By::Dhcp && terms.here && !known.here => {
                    return self.contest(endpoint, address, until, known.endpoint, now);
                }
                Yields::No => return Heard::Refused(Refused::Held(known.endpoint)),
            },
            None => None,
        };
        if let Err(refused) = self.has_room(endpoint, address, terms) {
            return Heard::Refused(refused);
        }
        if terms.here && !self.keeps_pace(endpoint, terms, now) {
            return if by == By::Dhcp { Heard::Later } else { Heard::Refused(Refused::Pace) };
        }
        self.entries.insert(address, Entry { endpoint, by, here: terms.here, since: now, until });
        Heard::Learned { from }
    }

    fn renew(&mut self, address: Addr, by: By, until: Option<Instant>, terms: &Terms, now: Instant) -> Heard {
        let Some(entry) = self.entries.get_mut(&address) else { return Heard::Nothing };
        self.contests.answer(address);
        // Of a lease, only its server says how long it lasts.
        if by == By::Dhcp {
            (entry.by, entry.until) = (by, until);
        } else {
            let endpoint = entry.endpoint;
            self.touch(endpoint, address, terms.age, now);
        }
        Heard::Known
    }

    /// A lease is given back, or its server has ended it. What the endpoint has by its own word it has as long as it is heard.
    fn end(&mut self, endpoint: MacAddr, address: Addr) -> Heard {
        self.contests.give_up(endpoint, address);
        let entry = self.entries.get(&address);
        let is_its = entry.is_some_and(|entry| entry.endpoint == endpoint && entry.by == By::Dhcp);
        if is_its && self.entries.remove(&address).is_some() { Heard::Gone } else { Heard::Nothing }
    }

    /// One address more is new to an endpoint, if that is not too many lately.
    fn keeps_pace(&mut self, endpoint: MacAddr, terms: &Terms, now: Instant) -> bool {
        let rate = Rate { per_second: NEW_PER_SECOND, burst: u32::try_from(terms.limit).unwrap_or(u32::MAX) };
        let pace = self.paces.entry(endpoint).or_insert_with(|| TokenBucket::new(rate, now));
        pace.set_rate(rate, now);
        pace.take(now)
    }

    fn has_room(&mut self, endpoint: MacAddr, address: Addr, terms: &Terms) -> Result<(), Refused> {
        let of_it = || self.entries.iter().filter(|(_, entry)| entry.endpoint == endpoint);
        if !terms.here {
            // Its own host holds it to its terms: here, what was not heard of again for longest makes room.
            if of_it().count() >= terms.limit
                && let Some(oldest) = of_it().min_by_key(|(_, entry)| entry.until).map(|(at, _)| *at)
            {
                self.entries.remove(&oldest);
            }
            return if self.entries.len() < MOST { Ok(()) } else { Err(Refused::Full) };
        }
        let family = |at: &Addr| if at.is_v4() { Family::V4 } else { Family::V6 };
        if terms.lock && of_it().any(|(at, _)| family(at) == family(&address)) {
            return Err(Refused::Locked);
        }
        if of_it().count() >= terms.limit {
            return Err(Refused::Limit);
        }
        if self.entries.len() < MOST { Ok(()) } else { Err(Refused::Full) }
    }

    /// What has run out of time here, and goes on all the same where it is in use.
    pub fn due(&self, now: Instant) -> impl Iterator<Item = Addr> {
        let over = move |entry: &Entry| {
            entry.here && entry.by != By::Dhcp && entry.until.is_some_and(|until| until <= now)
        };
        self.entries.iter().filter(move |(_, entry)| over(entry)).map(|(address, _)| *address)
    }

    /// Ends what has run out of time, but for what is in use: that is remembered for as long again.
    pub fn expire(
        &mut self,
        now: Instant,
        age: impl Fn(Addr, &Entry) -> Option<Duration>,
    ) -> Vec<(Addr, Entry)> {
        let over = |entry: &Entry| entry.until.is_some_and(|until| until <= now);
        let due: Vec<(Addr, Entry)> =
            self.entries.iter().filter(|(_, entry)| over(entry)).map(|(at, entry)| (*at, *entry)).collect();
        self.paces.retain(|_, pace| pace.full_at() > now);
        let mut ended = Vec::new();
        for (address, entry) in due {
            match age(address, &entry) {
                Some(longer) if entry.by != By::Dhcp => {
                    if let Some(entry) = self.entries.get_mut(&address) {
                        entry.until = Some(now + longer);
                    }
                }
                _ => {
                    self.entries.remove(&address);
                    ended.push((address, entry));
                }
            }
        }
        ended
    }

    /// Holds the table to another configuration: on which terms an endpoint has an address by then, or that it may not have it.
    /// What is taken out.
    pub fn follow(
        &mut self,
        terms: impl Fn(Addr, &Entry) -> Option<Terms>,
        now: Instant,
    ) -> Vec<(Addr, Entry)> {
        let mut gone = Vec::new();
        self.entries.retain(|address, entry| {
            let Some(terms) = terms(*address, entry) else {
                gone.push((*address, *entry));
                return false;
            };
            // What was locked to its endpoint ages as soon as it is not.
            if entry.here && terms.here && !terms.lock && entry.by != By::Dhcp && entry.until.is_none() {
                entry.until = Some(now + terms.age);
            }
            if entry.here != terms.here {
                entry.here = terms.here;
                let hearsay = now + HEARSAY;
                entry.until = match entry.until {
                    // It has come here: nobody tells of it any more, and whoever leased it may not be heard for long.
                    Some(until) if terms.here && until <= hearsay => Some(now + terms.age),
                    until if terms.here => until,
                    Some(until) => Some(until.min(hearsay)),
                    None => Some(hearsay),
                };
            }
            true
        });
        self.asked.retain(|_, asked| asked.back().is_some_and(|(_, at)| now.since(*at) < PATIENCE));
        gone
    }

    /// Forgets what an endpoint has said and done itself: its port is gone.
    pub fn forget_unleased(&mut self, endpoint: MacAddr) -> Vec<(Addr, Entry)> {
        let is_its = |entry: &Entry| entry.endpoint == endpoint && entry.by != By::Dhcp;
        let gone: Vec<(Addr, Entry)> =
            self.entries.iter().filter(|(_, entry)| is_its(entry)).map(|(at, it)| (*at, *it)).collect();
        gone.iter().for_each(|(address, _)| _ = self.entries.remove(address));
        gone
    }

    /// The leases of an endpoint in one family: what a server that refuses ends.
    #[must_use]
    pub fn leased_v4(&self, endpoint: MacAddr) -> Vec<Addr> {
        let is_its =
            |(at, entry): &(&Addr, &Entry)| entry.endpoint == endpoint && entry.by == By::Dhcp && at.is_v4();
        self.entries.iter().filter(is_its).map(|(at, _)| *at).collect()
    }

    /// Takes an entry over that was known before.
    pub fn restore(&mut self, address: Addr, entry: Entry) {
        if self.entries.len() < MOST {
            self.entries.entry(address).or_insert(entry);
        }
    }

    /// The entry of an address
    #[must_use]
    pub fn get(&self, address: Addr) -> Option<&Entry> {
        self.entries.get(&address)
    }

    /// All that was learned, by address
    pub fn entries(&self) -> impl Iterator<Item = (Addr, &Entry)> {
        self.entries.iter().map(|(address, entry)| (*address, entry))
    }

    /// Counts a refusal. Whether it is to be told: those of a flood are not.
    pub fn count_refused(&mut self, now: Instant) -> bool {
        self.refused += 1;
        self.told.take(now)
    }
}

impl Terms {
    /// May an endpoint have on these terms what it has learned on others? Of what another host has let it use, that one says.
    #[must_use]
    pub const fn keeps(&self, entry: &Entry) -> bool {
        !self.here
            || !entry.here
            || match entry.by {
                By::Dhcp => self.by_dhcp,
                By::Nd => self.by_nd,
                By::Traffic => self.by_traffic,
            }
    }

    /// By what a word counts and for how long, if it does.
    fn allow(&self, word: Word, now: Instant) -> Option<(By, Option<Instant>)> {
        let lasts = if self.here { self.age } else { HEARSAY };
        // Locked, it stays for as long as its port.
        let silent = (!self.lock || !self.here).then(|| now + lasts);
        match word {
            Word::Leased(Some(Duration::ZERO)) | Word::Ended => None,
            Word::Leased(time) => self.by_dhcp.then(|| (By::Dhcp, time.map(|time| now + time))),
            Word::Announced => (self.by_nd || !self.here).then_some((By::Nd, silent)),
            Word::Used => (self.by_traffic || !self.here).then_some((By::Traffic, silent)),
        }
    }
}

enum Yields {
    No,
    /// The newcomer has it.
    Taken,
    /// Nobody was first.
    Both,
}

/// Whether who has an address gives way to another endpoint.
fn yields(known: &Entry, by: By, newcomer: &Terms, now: Instant) -> Yields {
    let is_young = now.since(known.since) < YOUNG;
    match (known.here, newcomer.here) {
        // A server has leased it anew. Of a client elsewhere it may be that its host knows nothing of that: there it keeps it.
        (a, b) if a == b && by == By::Dhcp && known.by == By::Dhcp => Yields::Taken,
        // One host's word after another's
        (false, false) => Yields::Taken,
        (true, false) if is_young && known.by != By::Dhcp => Yields::Both,
        (true, _) | (false, true) => Yields::No,
    }
}
