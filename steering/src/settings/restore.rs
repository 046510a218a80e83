//! What was there before, so that it can be given back; and who else has been at it.

use std::collections::BTreeMap;

use super::{Change, Observed, SettingId, Why};

/// One file that was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Saved {
    /// The file
    pub id: SettingId,
    /// What was there before the first write
    pub before: i32,
    /// What was written last
    pub written: i32,
}

/// A file that holds something else than what was written: someone else changed it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Foreign {
    /// The file
    pub id: SettingId,
    /// What was written
    pub written: i32,
    /// What is there
    pub found: i32,
}

/// What giving everything back takes.
#[must_use]
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Undo {
    /// The writes, in order
    pub changes: Vec<Change>,
    /// Left alone, as someone else has decided on them since
    pub foreign: Vec<Foreign>,
}

/// Every file that was written, in the order of the first writes. Kept on disk by the caller, through
/// [`Restore::iter`] and `collect`, so that a crash forgets nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Restore {
    order: Vec<SettingId>,
    saved: BTreeMap<SettingId, Saved>,
}

impl Restore {
    /// Remembers a write. To be called, and kept on disk, before the write is done: a file that was
    /// remembered and not written is found unchanged and left alone.
    pub fn remember(&mut self, change: &Change) {
        if let Some(saved) = self.saved.get_mut(&change.id) {
            saved.written = change.to;
            return;
        }
        self.order.push(change.id.clone());
        let saved = Saved { id: change.id.clone(), before: change.from, written: change.to };
        self.saved.insert(change.id.clone(), saved);
    }

    /// Whether this write is remembered as the last one of its file.
    #[must_use]
    pub fn knows(&self, change: &Change) -> bool {
        self.saved.get(&change.id).is_some_and(|saved| saved.written == change.to)
    }

    /// What was remembered, in the order of the first writes.
    pub fn iter(&self) -> impl Iterator<Item = &Saved> {
        self.order.iter().filter_map(|id| self.saved.get(id))
    }

    /// The files that someone else changed. [`super::diff`] says what puts them right.
    #[must_use]
    pub fn foreign(&self, observed: &Observed) -> Vec<Foreign> {
        let changed = |saved: &Saved| {
            let found = *observed.get(&saved.id)?;
            (found != saved.written).then(|| Foreign { id: saved.id.clone(), written: saved.written, found })
        };
        self.iter().filter_map(changed).collect()
    }

    /// What gives everything back, last written first. A file that someone else has changed since is left to
    /// them, one that is gone went with its interface, and one that is as it was needs nothing.
    pub fn undo(&self, observed: &Observed) -> Undo {
        let mut undo = Undo::default();
        for id in self.order.iter().rev() {
            let (Some(saved), Some(&found)) = (self.saved.get(id), observed.get(id)) else { continue };
            if found == saved.before {
                continue;
            }
            if found == saved.written {
                let change = Change { id: id.clone(), from: found, to: saved.before, why: Why::Restore };
                undo.changes.push(change);
            } else {
                undo.foreign.push(Foreign { id: id.clone(), written: saved.written, found });
            }
        }
        undo
    }
}

impl FromIterator<Saved> for Restore {
    fn from_iter<I: IntoIterator<Item = Saved>>(saved: I) -> Self {
        let mut restore = Self::default();
        for saved in saved {
            if restore.saved.insert(saved.id.clone(), saved.clone()).is_none() {
                restore.order.push(saved.id);
            }
        }
        restore
    }
}
