//! What is wrong, or looks as if it were, and what to do about it.
//!
//! [`facts`] are gathered once, by reading alone (`src/io/survey.rs`, the daemon's answers, the configuration); what is found is
//! a function of them, without a clock or a kernel. Each finding is of a [`Check`], whose name stays: who watches machines may
//! rely on it.

pub mod check;
mod daemon;
mod devices;
mod drops;
pub mod facts;
mod machine;
mod settings;
#[cfg(test)]
mod tests;
mod underlay;

use serde::Serialize;

pub use self::check::{Check, Severity};
use self::facts::Facts;
use crate::io::survey::Look;

/// Something that was found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// What was looked at
    pub id: Check,
    /// How bad it is
    pub severity: Severity,
    /// What was found, with its values
    pub found: String,
    /// Why that matters
    pub why: &'static str,
    /// What to do about it; nothing where all is well
    pub remedy: Option<String>,
}

/// What was found, the worst first.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Report {
    /// Each finding
    pub findings: Vec<Finding>,
    /// How many there are of each severity
    pub counts: Counts,
}

/// How many findings there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Counts {
    /// [`Severity::Problem`]
    pub problems: usize,
    /// [`Severity::Warning`]
    pub warnings: usize,
    /// [`Severity::Note`]
    pub notes: usize,
    /// [`Severity::Ok`]
    pub ok: usize,
}

impl Report {
    /// The worst of all.
    #[must_use]
    pub fn worst(&self) -> Severity {
        self.findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Ok)
    }

    /// Without what is as it should be, which is only counted.
    pub fn leave_out_ok(&mut self) {
        self.findings.retain(|finding| finding.severity > Severity::Ok);
    }
}

/// Everything that follows from the facts.
#[must_use]
pub fn examine(facts: &Facts) -> Report {
    let mut found = Findings::default();
    daemon::examine(facts, &mut found);
    machine::examine(facts, &mut found);
    if facts.sees_the_daemons_devices() {
        underlay::examine(facts, &mut found);
        devices::examine(facts, &mut found);
        settings::examine(facts, &mut found);
    }
    drops::examine(facts, &mut found);
    let mut findings = found.0;
    findings.sort_by_key(|finding| (std::cmp::Reverse(finding.severity), finding.id));
    findings.dedup();
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let counts = Counts {
        problems: count(Severity::Problem),
        warnings: count(Severity::Warning),
        notes: count(Severity::Note),
        ok: count(Severity::Ok),
    };
    Report { findings, counts }
}

/// Findings as they are made.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, id: Check, severity: Severity, found: impl Into<String>, remedy: Option<String>) {
        let remedy = (severity > Severity::Ok).then(|| remedy.unwrap_or_else(|| id.remedy().to_owned()));
        self.0.push(Finding { id, severity, found: found.into(), why: id.why(), remedy });
    }

    fn ok(&mut self, id: Check, found: impl Into<String>) {
        self.add(id, Severity::Ok, found, None);
    }

    fn note(&mut self, id: Check, found: impl Into<String>, remedy: impl Into<Option<String>>) {
        self.add(id, Severity::Note, found, remedy.into());
    }

    fn warning(&mut self, id: Check, found: impl Into<String>, remedy: impl Into<Option<String>>) {
        self.add(id, Severity::Warning, found, remedy.into());
    }

    fn problem(&mut self, id: Check, found: impl Into<String>, remedy: impl Into<Option<String>>) {
        self.add(id, Severity::Problem, found, remedy.into());
    }

    /// What was looked at; that it was not, otherwise.
    fn look<'t, T>(&mut self, what: &str, look: &'t Look<T>) -> Option<&'t T> {
        match look {
            Ok(seen) => Some(seen),
            Err(why) => {
                self.note(Check::NotLookedAt, format!("{what}: {why}"), None);
                None
            }
        }
    }
}

/// A few of many, for a line.
fn some(all: impl IntoIterator<Item = impl Into<String>>) -> String {
    const MOST: usize = 5;
    let all: Vec<String> = all.into_iter().map(Into::into).collect();
    eastgate_wire::names::some_of(&all, MOST, ", ")
}
