//! From what is observed and what is wanted to what has to be written.

use std::collections::{BTreeMap, BTreeSet};

use super::{Key, Scope, Setting, SettingId};

/// What was read: every file of [`to_read`] that exists, and for keys where `all` counts the same file of
/// every other interface and of `default`, so that these can be kept as they are.
pub type Observed = BTreeMap<SettingId, i32>;

/// Why a value is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// It is wanted for this reason.
    Wanted(&'static str),
    /// The value of `all` stood in the way of a wanted one.
    Unblock(&'static str),
    /// The value of `all` changes; this keeps an interface that is not ours as it was.
    Keep,
    /// It is given back as it was.
    Restore,
}

/// One write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// The file
    pub id: SettingId,
    /// What is there
    pub from: i32,
    /// What is to be there
    pub to: i32,
    /// The reason
    pub why: Why,
}

/// An interface that is not ours and whose effective value changes, as no value of its own can keep it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Affected {
    /// The interface's file
    pub id: SettingId,
    /// What was in effect
    pub before: i32,
    /// What will be
    pub after: i32,
}

/// What has to be done.
#[must_use]
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// The writes, in order
    pub changes: Vec<Change>,
    /// Who else is affected
    pub affected: Vec<Affected>,
    /// Files that are wanted and were not observed: the interface is gone, or the kernel lacks the setting
    pub missing: Vec<SettingId>,
}

impl Plan {
    /// Is everything as wanted?
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.changes.is_empty() && self.missing.is_empty()
    }
}

/// The files that have to be read to know where `wanted` stands.
#[must_use]
pub fn to_read(wanted: &[Setting]) -> BTreeSet<SettingId> {
    let mut files = BTreeSet::new();
    for setting in wanted {
        files.insert(setting.id());
        if setting.key.uses_all() {
            files.insert(SettingId::of_all(setting.key));
        }
        if setting.key == Key::AcceptRedirects {
            files.insert(SettingId::of(Key::Forwarding, &setting.interface));
        }
    }
    files
}

/// What has to be written so that every wanted setting is in effect and nothing else changes. An interface's
/// own value is put right even where `all` would do, so that nobody opens a port by changing `all`.
pub fn diff(observed: &Observed, wanted: &[Setting]) -> Plan {
    let mut draft = Draft { values: observed.clone(), plan: Plan::default() };
    // Ours are never kept as they were when `all` has to change: they get what they want.
    let ours: BTreeSet<SettingId> = wanted.iter().map(Setting::id).collect();
    for setting in wanted {
        draft.fulfil(setting, &ours);
    }
    draft.plan
}

struct Draft {
    /// The values as they will be after the changes so far
    values: Observed,
    plan: Plan,
}

impl Draft {
    fn fulfil(&mut self, setting: &Setting, ours: &BTreeSet<SettingId>) {
        let own = setting.id();
        let all = SettingId::of_all(setting.key);
        let needed = [Some(&own), setting.key.uses_all().then_some(&all)];
        let missing = needed.into_iter().flatten().find(|id| !self.values.contains_key(*id));
        if let Some(missing) = missing {
            self.plan.missing.push(missing.clone());
            return;
        }
        if !self.values.get(&own).is_some_and(|&value| setting.accepts(value)) {
            self.write(&own, setting.wanted, Why::Wanted(setting.why));
        }
        if self.effective(&own).is_some_and(|value| setting.accepts(value)) {
            return;
        }
        self.write_all(&all, setting, ours);
        if !self.effective(&own).is_some_and(|value| setting.accepts(value)) {
            self.write(&own, setting.wanted, Why::Wanted(setting.why));
        }
    }

    /// Changes `all` after giving everybody else a value of their own that keeps them as they are.
    fn write_all(&mut self, all: &SettingId, setting: &Setting, ours: &BTreeSet<SettingId>) {
        let is_other = |id: &SettingId| id.key == all.key && id.scope != Scope::All && !ours.contains(id);
        let others: Vec<SettingId> = self.values.keys().filter(|id| is_other(id)).cloned().collect();
        let mut kept = Vec::new();
        for id in others {
            let Some(before) = self.effective(&id) else { continue };
            kept.push((id, before));
        }
        // Their own values first: between the writes nobody is laxer than before or after.
        for (id, before) in &kept {
            if self.effective_with(id, setting.wanted) != Some(*before) {
                self.write(id, *before, Why::Keep);
            }
        }
        self.write(all, setting.wanted, Why::Unblock(setting.why));
        for (id, before) in kept {
            match self.effective(&id) {
                Some(after) if after != before => self.plan.affected.push(Affected { id, before, after }),
                _ => {}
            }
        }
    }

    fn write(&mut self, id: &SettingId, to: i32, why: Why) {
        let Some(value) = self.values.get_mut(id) else { return };
        if *value != to {
            self.plan.changes.push(Change { id: id.clone(), from: *value, to, why });
            *value = to;
        }
    }

    fn effective(&self, id: &SettingId) -> Option<i32> {
        let all = self.values.get(&SettingId::of_all(id.key)).copied();
        self.effective_with(id, all.unwrap_or_default())
    }

    fn effective_with(&self, id: &SettingId, all: i32) -> Option<i32> {
        let forwarding = SettingId { key: Key::Forwarding, scope: id.scope.clone() };
        let forwards = self.values.get(&forwarding).is_some_and(|&value| value != 0);
        Some(id.key.effective(all, *self.values.get(id)?, forwards))
    }
}
