//! All that was found, in the order of the files, for a person or for a program.

use std::{fmt, ops::Range};

use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Renderer, Snippet};
use eastgate_wire::names;
use serde::{
    Serialize, Serializer,
    ser::{SerializeSeq as _, SerializeStruct as _},
};
use serde_json::json;

use super::{
    place::Place,
    problem::{Diagnostic, Severity},
};

/// So many errors, and as many warnings, are kept of a file and of a whole configuration; the others are counted.
pub(super) const KEPT: usize = 100;

/// What is found while a configuration is looked at: the first of each severity, and how many more.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    list: Vec<Diagnostic>,
    kept: Counts,
    more: Counts,
    given_up: bool,
}

/// Errors and warnings
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Counts {
    errors: usize,
    warnings: usize,
}

impl Counts {
    fn of(&mut self, severity: Severity) -> &mut usize {
        match severity {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
        }
    }
}

impl Found {
    pub(super) fn push(&mut self, found: Diagnostic) {
        let severity = found.problem.severity();
        if *self.kept.of(severity) < KEPT {
            *self.kept.of(severity) += 1;
            self.list.push(found);
            return;
        }
        *self.more.of(severity) += 1;
        // Tables are not read in the order in which they are written.
        let same = self.list.iter_mut().filter(|kept| kept.problem.severity() == severity);
        if let Some(last) = same.max_by(|a, b| a.at.order().cmp(&b.at.order()))
            && found.at.order() < last.at.order()
        {
            *last = found;
        }
    }

    /// There are more, and nobody has counted them.
    pub(super) const fn give_up(&mut self) {
        self.given_up = true;
    }

    pub(super) fn append(&mut self, other: &Self) {
        self.extend(other.list.iter().cloned());
        self.given_up |= other.given_up;
        self.more.errors += other.more.errors;
        self.more.warnings += other.more.warnings;
    }

    /// So many were found.
    pub(super) const fn count(&self) -> usize {
        self.list.len() + self.more.errors + self.more.warnings
    }

    /// Those that are told
    pub(super) fn told(&self) -> &[Diagnostic] {
        &self.list
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) const fn has_errors(&self) -> bool {
        self.kept.errors > 0
    }

    /// As many errors as are ever shown.
    pub(super) const fn is_full(&self) -> bool {
        self.kept.errors >= KEPT
    }
}

impl Extend<Diagnostic> for Found {
    fn extend<I: IntoIterator<Item = Diagnostic>>(&mut self, all: I) {
        all.into_iter().for_each(|found| self.push(found));
    }
}

impl FromIterator<Diagnostic> for Found {
    fn from_iter<I: IntoIterator<Item = Diagnostic>>(all: I) -> Self {
        let mut found = Self::default();
        found.extend(all);
        found
    }
}

/// Everything that was found in a configuration, sorted by file, line and column. Shows as text without colour;
/// serialises as a list of `{file, line, column, severity, code, message, remedy}`. Of very many the first are told, and how
/// many more there are.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
    more: Counts,
    given_up: bool,
}

impl Diagnostics {
    /// Sorts what was found, and takes out what was found twice.
    #[must_use]
    pub(super) fn new(found: Found) -> Self {
        let Found { mut list, more, given_up, .. } = found;
        list.sort_by(|a, b| {
            a.at.order().cmp(&b.at.order()).then_with(|| a.problem.code().cmp(b.problem.code()))
        });
        list.dedup_by(|a, b| a.at.order() == b.at.order() && a.problem == b.problem);
        Self { list, more, given_up }
    }

    /// Each of those that are told.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter()
    }

    /// Nothing was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many of them have this severity.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        let told = self.list.iter().filter(|found| found.problem.severity() == severity).count();
        told + *self.more.clone().of(severity)
    }

    /// Whether the configuration is refused for them.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.list.iter().any(|found| found.problem.severity() == Severity::Error)
    }

    /// All of them for a person, each with the line it is about, and how many there are; empty if there are none.
    #[must_use]
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let mut text = String::new();
        for found in &self.list {
            text.push_str(&render(found, &renderer));
            text.push_str("\n\n");
        }
        if let Some(more) = self.not_told() {
            text.push_str(&more);
            text.push_str("\n\n");
        }
        if !self.list.is_empty() {
            text.push_str(&self.summary());
            text.push('\n');
        }
        text
    }

    fn summary(&self) -> String {
        in_words(Counts { errors: self.count(Severity::Error), warnings: self.count(Severity::Warning) }, "")
    }

    /// How many there are beside those that are told.
    fn not_told(&self) -> Option<String> {
        match self.more {
            _ if self.given_up => Some("... and more: the rest was not looked at".into()),
            none if none == Counts::default() => None,
            more => Some(format!("... and {}", in_words(more, "more "))),
        }
    }
}

fn in_words(counts: Counts, more: &str) -> String {
    let count = |number: usize, word| (number > 0).then(|| names::count(number, &format!("{more}{word}")));
    let counts = [count(counts.errors, "error"), count(counts.warnings, "warning")];
    counts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn render(found: &Diagnostic, renderer: &Renderer) -> String {
    let message = found.problem.to_string();
    let remedy = found.problem.remedy();
    let level = match found.problem.severity() {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let title = level.primary_title(message).id(found.problem.code());
    let mut groups = vec![title.element(snippet(&found.at))];
    if let Some((at, what)) = &found.also {
        groups.push(Group::with_title(Level::NOTE.secondary_title(*what)).element(snippet(at)));
    }
    groups.push(Group::with_title(Level::HELP.secondary_title(remedy)));
    renderer.render(&groups)
}

/// The line of a place, with the place underlined as far as it is on that line.
fn snippet(at: &Place) -> Snippet<'_, Annotation<'_>> {
    let (line, underlined) = at.first_line();
    let annotation = AnnotationKind::Primary.span(underlined);
    Snippet::source(line).line_start(at.line() as usize).path(at.file()).annotation(annotation)
}

impl Place {
    /// The line it begins on, and the part of it that is the place.
    fn first_line(&self) -> (&str, Range<usize>) {
        let text = self.source().text();
        let range = self.range();
        let before = text.get(..range.start).unwrap_or_default();
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let rest = text.get(start..).unwrap_or_default();
        let line = rest.split(['\n', '\r']).next().unwrap_or_default();
        let from = (range.start - start).min(line.len());
        let to = (range.end - start).clamp(from, line.len());
        (line, from..to)
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

impl Serialize for Diagnostics {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(more) = self.not_told() else { return serializer.collect_seq(&self.list) };
        let mut list = serializer.serialize_seq(Some(self.list.len() + 1))?;
        self.list.iter().try_for_each(|found| list.serialize_element(found))?;
        // Of the form of the others, at the place of the last of them.
        let last = self.list.last().map(|found| &found.at);
        list.serialize_element(&json!({
            "file": last.map_or("", |at| at.file()),
            "line": last.map_or(0, |at| at.line()),
            "column": last.map_or(0, |at| at.column()),
            "severity": if self.has_errors() { Severity::Error } else { Severity::Warning },
            "code": "more",
            "message": more,
            "remedy": "mend these first",
            "also": null,
        }))?;
        list.end()
    }
}

impl Serialize for Diagnostic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Diagnostic", 8)?;
        object.serialize_field("file", self.at.file())?;
        object.serialize_field("line", &self.at.line())?;
        object.serialize_field("column", &self.at.column())?;
        object.serialize_field("severity", &self.problem.severity())?;
        object.serialize_field("code", self.problem.code())?;
        object.serialize_field("message", &self.problem.to_string())?;
        object.serialize_field("remedy", &self.problem.remedy())?;
        object.serialize_field("also", &self.also.as_ref().map(|(place, _)| place))?;
        object.end()
    }
}
