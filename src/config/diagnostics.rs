//! All that was found, in the order of the files, for a person or for a program.

use std::{fmt, ops::Range};

use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Renderer, Snippet};
use serde::{Serialize, Serializer, ser::SerializeStruct as _};

use super::{
    place::Place,
    problem::{Diagnostic, Severity},
};

/// Everything that was found in a configuration, sorted by file, line and column. Shows as text without colour;
/// serialises as a list of `{file, line, column, severity, code, message, remedy}`.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
}

impl Diagnostics {
    /// Sorts what was found, and takes out what was found twice.
    #[must_use]
    pub fn new(mut list: Vec<Diagnostic>) -> Self {
        list.sort_by(|a, b| {
            a.at.order().cmp(&b.at.order()).then_with(|| a.problem.code().cmp(b.problem.code()))
        });
        list.dedup_by(|a, b| a.at.order() == b.at.order() && a.problem == b.problem);
        Self { list }
    }

    /// Each of them.
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
        self.list.iter().filter(|found| found.problem.severity() == severity).count()
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
        if !self.list.is_empty() {
            text.push_str(&self.summary());
            text.push('\n');
        }
        text
    }

    fn summary(&self) -> String {
        let count = |severity, name| match self.count(severity) {
            0 => None,
            1 => Some(format!("1 {name}")),
            many => Some(format!("{many} {name}s")),
        };
        let counts = [count(Severity::Error, "error"), count(Severity::Warning, "warning")];
        counts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
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
        serializer.collect_seq(&self.list)
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
