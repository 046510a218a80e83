//! Where something was written: a file that was read, and a range of it.

use std::{
    fmt,
    hash::{Hash, Hasher},
    ops::Range,
    sync::Arc,
};

use serde::{Serialize, Serializer, ser::SerializeStruct as _};

/// The text of one configuration file as it was when it was read.
#[derive(Debug)]
pub struct Source {
    name: Box<str>,
    text: Box<str>,
    /// Byte offset of the start of each line; the first is 0.
    lines: Box<[u32]>,
}

/// A range of a file: what a diagnostic underlines and what `trace` names. Shows as `file:line:column`.
#[derive(Clone)]
pub struct Place {
    source: Arc<Source>,
    start: u32,
    end: u32,
}

impl Source {
    /// A file called `name` (as a person should read it) that holds `text`. Offsets are kept in 32 bits, so
    /// text past 4 GiB has no place; the loader refuses files far below that.
    #[must_use]
    pub fn new(name: &str, text: &str) -> Arc<Self> {
        let after_newlines =
            text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at as u32 + 1);
        let lines = std::iter::once(0).chain(after_newlines).collect();
        Arc::new(Self { name: name.into(), text: text.into(), lines })
    }

    /// The name of the file as it is shown.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All of its text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The place of a range of bytes. A range that is not inside the text or cuts a character is moved to
    /// the nearest one that is.
    #[must_use]
    pub fn place(self: &Arc<Self>, range: Range<usize>) -> Place {
        let start = self.text.floor_char_boundary(range.start);
        let end = self.text.ceil_char_boundary(range.end.clamp(start, self.text.len().max(start)));
        Place { source: self.clone(), start: start as u32, end: end as u32 }
    }
}

impl Place {
    /// The name of the file as it is shown.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.source.name
    }

    /// The line, counted from 1.
    #[must_use]
    pub fn line(&self) -> u32 {
        self.source.lines.partition_point(|&start| start <= self.start) as u32
    }

    /// The column, counted in characters from 1.
    #[must_use]
    pub fn column(&self) -> u32 {
        let line = self.source.lines.get(self.line() as usize - 1).copied().unwrap_or_default() as usize;
        let before = self.source.text.get(line..self.start as usize).unwrap_or_default();
        before.chars().count() as u32 + 1
    }

    /// What places are sorted by.
    pub(super) fn order(&self) -> (&str, u32) {
        (self.file(), self.start)
    }

    /// The text at this place.
    #[must_use]
    pub fn text(&self) -> &str {
        self.source.text.get(self.range()).unwrap_or_default()
    }

    /// The file.
    #[must_use]
    pub fn source(&self) -> &Arc<Source> {
        &self.source
    }

    /// The bytes of the file.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file(), self.line(), self.column())
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a thing means does not depend on where it is written: configurations that say the same are equal, so that all places
/// are. Compare [`Place::range`] and [`Place::file`] to tell them apart.
impl PartialEq for Place {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Place {}

impl Hash for Place {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut place = serializer.serialize_struct("Place", 3)?;
        place.serialize_field("file", self.file())?;
        place.serialize_field("line", &self.line())?;
        place.serialize_field("column", &self.column())?;
        place.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_count_from_one_in_characters() {
        let source = Source::new("a.toml", "x = 1\nname = \"ü\" # y\n");
        assert_eq!(source.place(0..1).to_string(), "a.toml:1:1");
        assert_eq!(source.place(6..10).to_string(), "a.toml:2:1");
        let after = source.text().find('#').unwrap();
        assert_eq!(source.place(after..after + 1).to_string(), "a.toml:2:12");
        assert_eq!(source.place(13..16).text(), "\"ü");
    }

    #[test]
    fn any_range_has_a_place() {
        let source = Source::new("a", "ü\n");
        for start in 0..6 {
            for end in 0..6 {
                let place = source.place(start..end);
                assert!(place.line() >= 1 && place.column() >= 1);
                let _ = place.text();
            }
        }
    }
}
