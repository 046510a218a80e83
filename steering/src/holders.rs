//! Which endpoint holds an address that several may hold: a VRRP address, one of a shared prefix, a link-local address that
//! a host has made up.
//!
//! What this promises:
//! - The last one heard holds it: announcements and traffic alike. Whoever calls has made sure that it is entitled.
//! - A link-local address that was chosen stays with the one who chose it first.
//! - Never more entries than the limits say. An endpoint that takes up more than its part loses what it was not heard with
//!   for longest, and nobody else does. Addresses that the configuration names are as many as it names.
//! - An address changes hands [`BURST`] times at once and once a second in the long run; beyond that it stays where it is.
//! - Whoever has taken an address may say so again, whatever it says of others: [`REPEATS`] times at once, and once a second.
//!
//! Endpoints are named by their own MAC, which means the same after a reload. One table a network; time is handed in.

use std::collections::BTreeMap;

use eastgate_wire::{Addr, Instant, MacAddr, Rate, TokenBucket};

/// How often at once an address may change hands.
pub const BURST: u32 = 8;
const MOVES: Rate = Rate { per_second: 1, burst: BURST };

/// How often at once the holder of an address may say what is known. Other hosts may have heard the one before it last, and
/// nothing else tells them; keepalived says it five times, and five times more.
pub const REPEATS: u32 = 10;
const SAID_AGAIN: Rate = Rate { per_second: 1, burst: REPEATS };

/// How many addresses are known that no configuration names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HolderLimits {
    /// In all
    pub total: usize,
    /// Of one endpoint, in prefixes of its pairs
    pub in_prefixes: usize,
    /// Of one endpoint, link-local ones of its own choice
    pub chosen: usize,
}

impl Default for HolderLimits {
    /// 8,192 in all; 256 of an endpoint in prefixes, and 8 link-local ones: a stack makes up one for each of its interfaces.
    fn default() -> Self {
        Self { total: 8192, in_prefixes: 256, chosen: 8 }
    }
}

/// By what an endpoint has an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Title {
    /// The configuration names it.
    Named,
    /// It is in a prefix that the endpoint may use.
    InPrefix,
    /// It is link-local, and the endpoint has made it up.
    Chosen,
}

/// Who holds an address, or a MAC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holder {
    /// The endpoint, by its own MAC
    pub endpoint: MacAddr,
    /// The MAC that the address has there
    pub mac: MacAddr,
}

/// What a word about an address did to the table.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heard {
    /// It was not known.
    New,
    /// It is where it was.
    Known,
    /// It has changed hands.
    Moved {
        /// Who held it
        from: Holder,
    },
    /// It changes hands too often and stays where it is for now.
    Damped,
    /// Somebody else has chosen it before.
    Taken,
    /// There is no room.
    Full,
}

/// Who holds what in one network.
#[derive(Debug)]
pub struct Holders {
    limits: HolderLimits,
    addresses: BTreeMap<Addr, Entry>,
    macs: BTreeMap<MacAddr, Entry>,
    /// What each endpoint takes up of the limits
    unnamed: BTreeMap<MacAddr, Vec<Addr>>,
    unnamed_total: usize,
    version: u16,
}

#[derive(Clone, Debug)]
struct Entry {
    holder: Holder,
    title: Title,
    heard: Instant,
    moves: TokenBucket,
    repeats: TokenBucket,
}

impl Entry {
    const fn new(holder: Holder, title: Title, now: Instant) -> Self {
        let (moves, repeats) = (TokenBucket::new(MOVES, now), TokenBucket::new(SAID_AGAIN, now));
        Self { holder, title, heard: now, moves, repeats }
    }

    fn hear(&mut self, holder: Holder, now: Instant) -> Heard {
        if self.holder == holder {
            self.heard = now;
            return Heard::Known;
        }
        if !self.moves.take(now) {
            return Heard::Damped;
        }
        self.heard = now;
        self.repeats = TokenBucket::new(SAID_AGAIN, now);
        Heard::Moved { from: std::mem::replace(&mut self.holder, holder) }
    }
}

impl Holders {
    /// An empty table.
    #[must_use]
    pub const fn new(limits: HolderLimits) -> Self {
        Self {
            limits,
            addresses: BTreeMap::new(),
            macs: BTreeMap::new(),
            unnamed: BTreeMap::new(),
            unnamed_total: 0,
            version: 1,
        }
    }

    /// Another one whenever something has changed hands; never 0. What was decided of an address that moves holds under the
    /// same version only.
    #[must_use]
    pub const fn version(&self) -> u16 {
        self.version
    }

    /// Who holds an address.
    #[must_use]
    pub fn of_address(&self, address: Addr) -> Option<Holder> {
        self.addresses.get(&address).map(|entry| entry.holder)
    }

    /// Who sends from a MAC that several may send from.
    #[must_use]
    pub fn of_mac(&self, mac: MacAddr) -> Option<MacAddr> {
        self.macs.get(&mac).map(|entry| entry.holder.endpoint)
    }

    /// All addresses with their holders, in order.
    pub fn entries(&self) -> impl Iterator<Item = (Addr, Holder)> {
        self.addresses.iter().map(|(address, entry)| (*address, entry.holder))
    }

    /// An endpoint that is entitled to the address was heard with it.
    pub fn hear(&mut self, address: Addr, title: Title, holder: Holder, now: Instant) -> Heard {
        let Some(entry) = self.addresses.get_mut(&address) else {
            return self.add(address, title, holder, now);
        };
        if title == Title::Chosen && entry.holder.endpoint != holder.endpoint {
            return Heard::Taken;
        }
        let before = entry.title;
        let heard = entry.hear(holder, now);
        if let Heard::Moved { from } = heard {
            entry.title = title;
            self.pass(address, (before, from), (title, holder));
            self.next_version();
        }
        heard
    }

    /// May the holder of an address that the configuration names tell everyone once more?
    pub fn may_repeat(&mut self, address: Addr, endpoint: MacAddr, now: Instant) -> bool {
        self.addresses.get_mut(&address).is_some_and(|entry| {
            entry.title == Title::Named && entry.holder.endpoint == endpoint && entry.repeats.take(now)
        })
    }

    /// An endpoint that is entitled to the MAC has sent from it.
    pub fn hear_mac(&mut self, mac: MacAddr, endpoint: MacAddr, now: Instant) -> Heard {
        let holder = Holder { endpoint, mac };
        let Some(entry) = self.macs.get_mut(&mac) else {
            self.macs.insert(mac, Entry::new(holder, Title::Named, now));
            return Heard::New;
        };
        let heard = entry.hear(holder, now);
        if matches!(heard, Heard::Moved { .. }) {
            self.next_version();
        }
        heard
    }

    /// Forgets what is held by nobody who may: `may` is asked of each address, and of each MAC with none.
    pub fn retain(&mut self, may: impl Fn(Option<Addr>, &Holder) -> bool) {
        let gone: Vec<Addr> = self
            .addresses
            .iter()
            .filter(|(address, entry)| !may(Some(**address), &entry.holder))
            .map(|(address, _)| *address)
            .collect();
        let macs = self.macs.len();
        self.macs.retain(|_, entry| may(None, &entry.holder));
        if !gone.is_empty() || macs != self.macs.len() {
            self.next_version();
        }
        gone.into_iter().for_each(|address| self.forget(address));
    }

    fn forget(&mut self, address: Addr) {
        if let Some(entry) = self.addresses.remove(&address) {
            self.release(address, entry.title, entry.holder.endpoint);
        }
    }

    fn add(&mut self, address: Addr, title: Title, holder: Holder, now: Instant) -> Heard {
        if !self.make_room(title, holder.endpoint) {
            return Heard::Full;
        }
        self.addresses.insert(address, Entry::new(holder, title, now));
        self.occupy(address, title, holder.endpoint);
        // What nobody was known to hold may have been taken for its owner's.
        if title == Title::Named {
            self.next_version();
        }
        Heard::New
    }

    /// Room for one more address of this endpoint; its own must go where it has too many, or where there are too many.
    fn make_room(&mut self, title: Title, endpoint: MacAddr) -> bool {
        let most = match title {
            Title::Named => return true,
            Title::InPrefix => self.limits.in_prefixes,
            Title::Chosen => self.limits.chosen,
        };
        let own = self.unnamed.get(&endpoint).map(Vec::as_slice).unwrap_or_default();
        let of_kind = own.iter().filter_map(|address| {
            let entry = self.addresses.get(address).filter(|entry| entry.title == title)?;
            Some((entry.heard, *address))
        });
        let (count, oldest) = of_kind.fold((0, None), |(count, oldest), this| {
            (count + 1, Some(oldest.map_or(this, |oldest: (Instant, Addr)| oldest.min(this))))
        });
        if count < most && self.unnamed_total < self.limits.total {
            return true;
        }
        let Some((_, oldest)) = oldest else { return false };
        self.forget(oldest);
        true
    }

    fn pass(&mut self, address: Addr, from: (Title, Holder), to: (Title, Holder)) {
        self.release(address, from.0, from.1.endpoint);
        self.occupy(address, to.0, to.1.endpoint);
    }

    fn occupy(&mut self, address: Addr, title: Title, endpoint: MacAddr) {
        if title != Title::Named {
            self.unnamed.entry(endpoint).or_default().push(address);
            self.unnamed_total += 1;
        }
    }

    fn release(&mut self, address: Addr, title: Title, endpoint: MacAddr) {
        if title == Title::Named {
            return;
        }
        if let Some(own) = self.unnamed.get_mut(&endpoint) {
            let before = own.len();
            own.retain(|held| *held != address);
            self.unnamed_total -= before - own.len();
            if own.is_empty() {
                self.unnamed.remove(&endpoint);
            }
        }
    }

    const fn next_version(&mut self) {
        self.version = if self.version == u16::MAX { 1 } else { self.version + 1 };
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const M: [MacAddr; 3] = [mac(1), mac(2), mac(3)];
    const VIRTUAL: MacAddr = MacAddr([0, 0, 0x5e, 0, 1, 51]);

    const fn mac(last: u8) -> MacAddr {
        MacAddr([2, 0, 0, 0, 0, last])
    }

    fn at(endpoint: usize) -> Holder {
        Holder { endpoint: M[endpoint], mac: VIRTUAL }
    }

    fn host(last: u32) -> Addr {
        Addr::from_bits(0xfe80 << 112 | u128::from(last))
    }

    fn table() -> Holders {
        Holders::new(HolderLimits { total: 6, in_prefixes: 4, chosen: 2 })
    }

    const T: Instant = Instant::from_secs(100);

    #[test]
    fn the_last_one_heard_holds_it() {
        let mut table = table();
        assert_eq!(table.hear(host(1), Title::Named, at(0), T), Heard::New);
        let version = table.version();
        assert_eq!(table.hear(host(1), Title::Named, at(0), T), Heard::Known);
        assert_eq!(table.version(), version, "nothing has changed");
        assert_eq!(table.hear(host(1), Title::Named, at(1), T), Heard::Moved { from: at(0) });
        assert_ne!(table.version(), version);
        assert_eq!(table.of_address(host(1)), Some(at(1)));
        assert_eq!(table.hear_mac(VIRTUAL, M[0], T), Heard::New);
        let version = table.version();
        assert!(matches!(table.hear_mac(VIRTUAL, M[2], T), Heard::Moved { .. }));
        assert_ne!(table.version(), version);
        assert_eq!(table.of_mac(VIRTUAL), Some(M[2]));
    }

    #[test]
    fn its_holder_may_say_so_again() {
        let mut table = table();
        let _ = table.hear(host(1), Title::Named, at(0), T);
        let count = |table: &mut Holders, of: usize, now| {
            (0..100).filter(|_| table.may_repeat(host(1), M[of], now)).count()
        };
        assert_eq!(count(&mut table, 1, T), 0, "not the holder");
        assert_eq!(count(&mut table, 0, T), REPEATS as usize);
        assert_eq!(count(&mut table, 0, T + Duration::from_secs(2)), 2);
        let _ = table.hear(host(1), Title::Named, at(1), T);
        assert_eq!(count(&mut table, 1, T), REPEATS as usize, "whatever the one before has said");
        let _ = table.hear(host(2), Title::InPrefix, at(0), T);
        assert!(
            !table.may_repeat(host(2), M[0], T),
            "not of what is in a prefix, of which there may be many"
        );
    }

    #[test]
    fn it_does_not_change_hands_for_ever() {
        let mut table = table();
        let _ = table.hear(host(1), Title::Named, at(0), T);
        let moves = (0..100).filter(|turn| {
            matches!(table.hear(host(1), Title::Named, at((turn + 1) % 2), T), Heard::Moved { .. })
        });
        assert_eq!(moves.count(), BURST as usize);
        let holder = table.of_address(host(1)).unwrap();
        let other = if holder == at(0) { at(1) } else { at(0) };
        assert_eq!(table.hear(host(1), Title::Named, other, T), Heard::Damped);
        assert_eq!(
            table.hear(host(1), Title::Named, other, T + Duration::from_secs(1)),
            Heard::Moved { from: holder }
        );
    }

    #[test]
    fn who_chose_first_keeps_it() {
        let mut table = table();
        assert_eq!(table.hear(host(1), Title::Chosen, at(0), T), Heard::New);
        assert_eq!(table.hear(host(1), Title::Chosen, at(1), T), Heard::Taken);
        assert_eq!(table.of_address(host(1)), Some(at(0)));
        table.retain(|_, holder| holder.endpoint != M[0]);
        assert_eq!(table.hear(host(1), Title::Chosen, at(1), T), Heard::New, "the first is gone");
    }

    #[test]
    fn limits_are_exact_and_cost_nobody_else() {
        let mut table = table();
        let secs = |n| T + Duration::from_secs(n);
        assert_eq!(table.hear(host(900), Title::Chosen, at(1), T), Heard::New);
        for n in 0..2 {
            assert_eq!(table.hear(host(n), Title::Chosen, at(0), secs(n.into())), Heard::New);
        }
        let _ = table.hear(host(0), Title::Chosen, at(0), secs(5));
        assert_eq!(table.hear(host(7), Title::Chosen, at(0), secs(6)), Heard::New);
        assert_eq!(table.of_address(host(1)), None, "heard least recently");
        assert!(table.of_address(host(0)).is_some() && table.of_address(host(900)).is_some());
        // Six in all: three are taken.
        for n in 20..23 {
            assert_eq!(table.hear(host(n), Title::InPrefix, at(0), secs(n.into())), Heard::New);
        }
        assert_eq!(table.hear(host(30), Title::InPrefix, at(2), secs(40)), Heard::Full);
        assert_eq!(table.hear(host(31), Title::InPrefix, at(0), secs(41)), Heard::New, "in place of its own");
        assert_eq!(table.of_address(host(20)), None);
        for n in 100..200 {
            assert_eq!(table.hear(host(n), Title::Named, at(2), secs(50)), Heard::New, "as configured");
        }
        assert_eq!(table.entries().count(), 106);
        table.retain(|_, _| false);
        assert_eq!((table.entries().count(), table.unnamed_total), (0, 0));
    }

    #[test]
    fn an_address_that_moves_takes_up_the_room_of_its_holder() {
        let mut table = table();
        let _ = table.hear(host(1), Title::InPrefix, at(0), T);
        assert_eq!(table.hear(host(1), Title::InPrefix, at(1), T), Heard::Moved { from: at(0) });
        assert_eq!(table.unnamed.keys().copied().collect::<Vec<_>>(), [M[1]]);
        assert_eq!(table.unnamed_total, 1);
    }
}
