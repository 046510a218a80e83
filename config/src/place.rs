//! Where something was written: a file that was read, and a range of it.

use std::{
    fmt,
    hash::{Hash, Hasher},
    ops::Range,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::{Serialize, Serializer, ser::SerializeStruct as _};

/// The text of one configuration file as it was when it was read, or of a table of it that was read by itself.
#[derive(Debug)]
pub struct Source {
    name: Arc<str>,
    text: Box<str>,
    /// Byte offset of the start of each line; the first is 0.
    lines: OnceLock<Box<[u32]>>,
    /// Lines and bytes that lie before it in the file, in one word: a table that did not change has moved when the file was
    /// read last, and everything that was made of it goes on saying where it is.
    before: AtomicU64,
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
        let before = AtomicU64::new(0);
        Arc::new(Self { name: name.into(), text: text.into(), lines: OnceLock::new(), before })
    }

    /// A part of it that begins with a line. Where that is now is to be said by [`Source::moved`].
    pub(super) fn part(&self, range: Range<usize>) -> Option<Arc<Self>> {
        let text = self.text.get(range)?.into();
        let (lines, before) = (OnceLock::new(), AtomicU64::new(0));
        Some(Arc::new(Self { name: self.name.clone(), text, lines, before }))
    }

    /// Says how many lines and bytes lie before it in its file.
    pub(super) fn moved(&self, lines: u32, bytes: u32) {
        self.before.store(u64::from(lines) << 32 | u64::from(bytes), Ordering::Relaxed);
    }

    fn lines_before(&self) -> u32 {
        (self.before.load(Ordering::Relaxed) >> 32) as u32
    }

    pub(super) fn bytes_before(&self) -> u32 {
        self.before.load(Ordering::Relaxed) as u32
    }

    fn lines(&self) -> &[u32] {
        self.lines.get_or_init(|| {
            let after_newlines = self.text.match_indices('\n').map(|(at, _)| at as u32 + 1);
            std::iter::once(0).chain(after_newlines).collect()
        })
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
        self.source.lines_before() + self.line_of_source() as u32
    }

    /// Counted in what was read with it
    fn line_of_source(&self) -> usize {
        self.source.lines().partition_point(|&start| start <= self.start)
    }

    /// The column, counted in characters from 1.
    #[must_use]
    pub fn column(&self) -> u32 {
        let line = self.source.lines().get(self.line_of_source() - 1).copied().unwrap_or_default() as usize;
        let before = self.source.text.get(line..self.start as usize).unwrap_or_default();
        before.chars().count() as u32 + 1
    }

    /// What places are sorted by.
    pub(super) fn order(&self) -> (&str, u32) {
        (self.file(), self.source.bytes_before() + self.start)
    }

    /// The text at this place.
    #[must_use]
    pub fn text(&self) -> &str {
        self.source.text.get(self.range()).unwrap_or_default()
    }

    /// What was read with it: its file, or a part of that.
    #[must_use]
    pub fn source(&self) -> &Arc<Source> {
        &self.source
    }

    /// The bytes of that.
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
/// are. Compare what they show as to tell them apart.
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
