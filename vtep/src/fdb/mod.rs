//! The forwarding database of one network: which port or VTEP a MAC is behind.
//!
//! Static entries come from the configuration; they never age and never move. Learned ones come from the
//! source MACs of frames: they age by what was heard from them (what is sent to them does not count), their
//! number is limited, and one that moves too often is frozen at its place. A network has its own `Fdb`, so
//! equal MACs of two networks never meet.
//!
//! At the limit a new MAC is refused and those already there stay untouched; an entry that has aged out makes
//! room at once, whether or not [`Fdb::expire`] came by.

use std::{collections::VecDeque, time::Duration};

use ahash::RandomState;
use eastgate_wire::{DropReason, Instant, MacAddr};

use crate::{
    Error,
    table::{AgeTable, Slot},
};

#[cfg(test)]
mod tests;

pub use eastgate_wire::Location;

/// What bounds the learned entries of a network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FdbSettings {
    /// How many MACs may be learned; static entries are not counted
    pub limit: usize,
    /// How long a MAC is kept after it was last heard
    pub age: Duration,
    /// A MAC may move [`MOVES`] times in this time; with the next move it is frozen
    pub move_window: Duration,
    /// How long it stays frozen
    pub frozen_for: Duration,
}

impl Default for FdbSettings {
    fn default() -> Self {
        let [age, move_window, frozen_for] = [300, 180, 180].map(Duration::from_secs);
        Self { limit: 16384, age, move_window, frozen_for }
    }
}

/// How often a MAC may move within the window before it is frozen.
pub const MOVES: usize = 5;

/// How many reports of frozen MACs wait to be fetched; more are dropped, the drop counters go on.
pub const REPORTS: usize = 64;

/// What a frame's source MAC taught.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Learned {
    /// It was not known.
    New,
    /// It is where it was.
    Refreshed,
    /// It was here before.
    Moved(Location),
}

/// A MAC was frozen because it moved too often: two stations claim it, or there is a loop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrozenReport {
    /// The MAC
    pub mac: MacAddr,
    /// Where it stays
    pub kept: Location,
    /// Where it would have gone
    pub refused: Location,
    /// Until when
    pub until: Instant,
}

/// Which learned entries to forget. Static ones stay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flush {
    /// All
    All,
    /// That of one MAC
    Mac(MacAddr),
    /// Those behind a port or VTEP that is gone
    At(Location),
}

/// An entry as it is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shown {
    /// The MAC
    pub mac: MacAddr,
    /// Where it is
    pub location: Location,
    /// When it was last heard; nothing for a static entry
    pub heard: Option<Instant>,
    /// Until when it is frozen, when it is
    pub frozen_until: Option<Instant>,
}

/// The forwarding database of one network.
#[derive(Debug)]
pub struct Fdb {
    settings: FdbSettings,
    table: AgeTable<MacAddr, Entry>,
    statics: usize,
    reports: VecDeque<FrozenReport>,
}

#[derive(Debug)]
struct Entry {
    location: Location,
    origin: Origin,
}

#[derive(Debug)]
enum Origin {
    Static,
    /// The history is there only for those that ever moved: nearly none.
    Learned {
        heard: Instant,
        moves: Option<Box<Moves>>,
    },
}

#[derive(Debug, Default)]
struct Moves {
    /// The last moves, oldest first
    at: VecDeque<Instant>,
    frozen_until: Option<Instant>,
}

impl Fdb {
    /// An empty FDB. The hasher is keyed: its keys come off the wire.
    #[must_use]
    pub fn new(settings: FdbSettings, hasher: RandomState) -> Self {
        Self { settings, table: AgeTable::new(hasher), statics: 0, reports: VecDeque::new() }
    }

    /// Where to send a frame for `mac`.
    #[inline]
    #[must_use]
    pub fn lookup(&self, mac: MacAddr, now: Instant) -> Option<Location> {
        let entry = self.table.get(self.table.find(&mac)?)?;
        (!entry.aged_out(self.settings.age, now)).then_some(entry.location)
    }

    /// Takes note of a frame with the source `mac` that came from `location`.
    ///
    /// # Errors
    /// [`DropReason::BadSourceMac`] for multicast and zero; [`DropReason::MacMoveRefused`] when a static
    /// entry says it is elsewhere; [`DropReason::MacFrozen`] when it moves too often;
    /// [`DropReason::MacLimit`] when it is new and the table is full.
    #[inline]
    pub fn learn(&mut self, mac: MacAddr, location: Location, now: Instant) -> Result<Learned, DropReason> {
        if !mac.is_station() {
            return Err(DropReason::BadSourceMac);
        }
        let age = self.settings.age;
        let Some(slot) = self.table.find(&mac) else { return self.admit(mac, location, now) };
        let Some(entry) = self.table.get_mut(slot) else { return self.admit(mac, location, now) };
        if entry.aged_out(age, now) {
            self.table.remove(slot);
            return self.admit(mac, location, now);
        }
        match &mut entry.origin {
            Origin::Static if entry.location == location => Ok(Learned::Refreshed),
            Origin::Static => Err(DropReason::MacMoveRefused),
            Origin::Learned { heard, .. } if entry.location == location => {
                *heard = now.max(*heard);
                self.table.touch(slot);
                Ok(Learned::Refreshed)
            }
            Origin::Learned { .. } => self.relocate(slot, mac, location, now),
        }
    }

    /// Puts a static entry in, or changes where it points. A learned one for this MAC gives way.
    ///
    /// # Errors
    /// [`Error::NotAStation`] for multicast and zero.
    pub fn set_static(&mut self, mac: MacAddr, location: Location) -> Result<(), Error> {
        if !mac.is_station() {
            return Err(Error::NotAStation(mac));
        }
        if let Some(slot) = self.table.find(&mac) {
            self.forget(slot);
        }
        self.table.insert(mac, Entry { location, origin: Origin::Static }, true);
        self.statics += 1;
        Ok(())
    }

    /// Takes a static entry out; false when there is none for this MAC.
    pub fn remove_static(&mut self, mac: MacAddr) -> bool {
        let found = self.table.find(&mac);
        let Some(slot) = found.filter(|slot| self.table.get(*slot).is_some_and(Entry::is_static)) else {
            return false;
        };
        self.forget(slot);
        true
    }

    /// Forgets learned entries; tells how many.
    pub fn flush(&mut self, which: Flush) -> usize {
        let wanted = |mac: &MacAddr, entry: &Entry| {
            !entry.is_static()
                && match which {
                    Flush::All => true,
                    Flush::Mac(one) => one == *mac,
                    Flush::At(location) => location == entry.location,
                }
        };
        let slots: Vec<Slot> = match which {
            Flush::Mac(mac) => {
                let found = self.table.find(&mac);
                found
                    .filter(|slot| self.table.get(*slot).is_some_and(|e| wanted(&mac, e)))
                    .into_iter()
                    .collect()
            }
            _ => self.table.iter().filter(|(_, mac, e)| wanted(mac, e)).map(|(slot, ..)| slot).collect(),
        };
        for slot in &slots {
            self.forget(*slot);
        }
        slots.len()
    }

    /// Forgets at most `budget` entries that have aged out; tells how many.
    pub fn expire(&mut self, now: Instant, budget: usize) -> usize {
        let mut done = 0;
        while done < budget && self.expire_oldest(now) {
            done += 1;
        }
        done
    }

    /// When the next entry ages out.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let (_, entry) = self.table.oldest()?;
        Some(entry.heard()? + self.settings.age)
    }

    /// The next MAC that was frozen and not reported yet.
    pub fn take_report(&mut self) -> Option<FrozenReport> {
        self.reports.pop_front()
    }

    /// How many MACs are learned, those included that have aged out and not been expired yet.
    #[must_use]
    pub fn learned(&self) -> usize {
        self.table.len() - self.statics
    }

    /// All entries that are valid `now`, in the order of their MACs.
    #[must_use]
    pub fn entries(&self, now: Instant) -> Vec<Shown> {
        let valid = self.table.iter().filter(|(_, _, entry)| !entry.aged_out(self.settings.age, now));
        let mut shown: Vec<Shown> = valid.map(|(_, mac, entry)| entry.show(*mac, now)).collect();
        shown.sort_unstable_by_key(|entry| entry.mac);
        shown
    }

    fn admit(&mut self, mac: MacAddr, location: Location, now: Instant) -> Result<Learned, DropReason> {
        if self.learned() >= self.settings.limit && !self.expire_oldest(now) {
            return Err(DropReason::MacLimit);
        }
        if self.learned() >= self.settings.limit {
            return Err(DropReason::MacLimit);
        }
        let origin = Origin::Learned { heard: now, moves: None };
        self.table.insert(mac, Entry { location, origin }, false);
        Ok(Learned::New)
    }

    #[cold]
    fn relocate(
        &mut self,
        slot: Slot,
        mac: MacAddr,
        to: Location,
        now: Instant,
    ) -> Result<Learned, DropReason> {
        let settings = self.settings;
        let Some(Entry { location, origin: Origin::Learned { heard, moves } }) = self.table.get_mut(slot)
        else {
            return Err(DropReason::MacMoveRefused);
        };
        let moves = moves.get_or_insert_default();
        match moves.note(now, &settings) {
            Damping::Move => {
                let from = std::mem::replace(location, to);
                *heard = now.max(*heard);
                self.table.touch(slot);
                Ok(Learned::Moved(from))
            }
            Damping::Freeze(until) => {
                let report = FrozenReport { mac, kept: *location, refused: to, until };
                if self.reports.len() < REPORTS {
                    self.reports.push_back(report);
                }
                Err(DropReason::MacFrozen)
            }
            Damping::Frozen => Err(DropReason::MacFrozen),
        }
    }

    fn expire_oldest(&mut self, now: Instant) -> bool {
        match self.table.oldest() {
            Some((slot, entry)) if entry.aged_out(self.settings.age, now) => {
                self.forget(slot);
                true
            }
            _ => false,
        }
    }

    fn forget(&mut self, slot: Slot) {
        if let Some((_, entry)) = self.table.remove(slot)
            && entry.is_static()
        {
            self.statics -= 1;
        }
    }
}

impl Entry {
    const fn is_static(&self) -> bool {
        matches!(self.origin, Origin::Static)
    }

    const fn heard(&self) -> Option<Instant> {
        match self.origin {
            Origin::Static => None,
            Origin::Learned { heard, .. } => Some(heard),
        }
    }

    #[inline]
    fn aged_out(&self, age: Duration, now: Instant) -> bool {
        self.heard().is_some_and(|heard| now >= heard + age)
    }

    fn show(&self, mac: MacAddr, now: Instant) -> Shown {
        let frozen_until = match &self.origin {
            Origin::Learned { moves: Some(moves), .. } => moves.frozen_until.filter(|until| now < *until),
            _ => None,
        };
        Shown { mac, location: self.location, heard: self.heard(), frozen_until }
    }
}

enum Damping {
    Move,
    /// Frozen with this move
    Freeze(Instant),
    Frozen,
}

impl Moves {
    fn note(&mut self, now: Instant, settings: &FdbSettings) -> Damping {
        match self.frozen_until {
            Some(until) if now < until => return Damping::Frozen,
            Some(_) => *self = Self::default(),
            None => {}
        }
        self.at.retain(|at| now.since(*at) < settings.move_window);
        if self.at.len() >= MOVES {
            let until = now + settings.frozen_for;
            self.frozen_until = Some(until);
            return Damping::Freeze(until);
        }
        self.at.push_back(now);
        Damping::Move
    }
}
