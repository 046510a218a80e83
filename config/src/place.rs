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
    /// Its pieces, in their order; the first begins with it.
    pieces: Box<[Piece]>,
}

/// What lies together in the file.
#[derive(Debug)]
struct Piece {
    /// Where it begins in the text
    start: u32,
    /// Lines and bytes that lie before it in the file and not in the text, in one word: a table that did not change may have
    /// moved when the file was read last, and everything that was made of it goes on saying where it is.
    before: AtomicU64,
}

impl Piece {
    const fn at(start: u32) -> Self {
        Self { start, before: AtomicU64::new(0) }
    }
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
        let pieces = [Piece::at(0)].into();
        Arc::new(Self { name: name.into(), text: text.into(), lines: OnceLock::new(), pieces })
    }

    /// A part of it in pieces, of which each begins with a line and all but the last end with one. Where they are now is to be
    /// said by [`Source::moved`].
    pub(super) fn part(&self, ranges: impl Iterator<Item = Range<usize>>) -> Option<Arc<Self>> {
        let (mut text, mut pieces) = (String::new(), Vec::new());
        for range in ranges {
            pieces.push(Piece::at(text.len() as u32));
            text.push_str(self.text.get(range)?);
        }
        let (text, pieces) = (text.into(), pieces.into());
        Some(Arc::new(Self { name: self.name.clone(), text, lines: OnceLock::new(), pieces }))
    }

    /// Says for each piece how many lines and bytes lie before it in its file.
    pub(super) fn moved(&self, before: impl Iterator<Item = (u32, u32)>) {
        for (piece, (lines, bytes)) in self.pieces.iter().zip(before) {
            // Those of the text count themselves.
            let lines = lines - if piece.start == 0 { 0 } else { self.line_at(piece.start) as u32 - 1 };
            let bytes = bytes - piece.start;
            piece.before.store(u64::from(lines) << 32 | u64::from(bytes), Ordering::Relaxed);
        }
    }

    /// Lines and bytes that lie before something in the file and not in the text.
    fn before(&self, at: u32) -> (u32, u32) {
        let behind = self.pieces.partition_point(|piece| piece.start <= at);
        let piece = behind.checked_sub(1).and_then(|last| self.pieces.get(last));
        let before = piece.map_or(0, |piece| piece.before.load(Ordering::Relaxed));
        ((before >> 32) as u32, before as u32)
    }

    /// Where something is in the file
    pub(super) fn offset(&self, at: u32) -> u32 {
        self.before(at).1 + at
    }

    /// Where its pieces begin in its text
    pub(super) fn piece_starts(&self) -> impl ExactSizeIterator<Item = u32> {
        self.pieces.iter().map(|piece| piece.start)
    }

    /// The line of the text, counted from 1
    fn line_at(&self, at: u32) -> usize {
        self.lines().partition_point(|&start| start <= at)
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
        self.source.before(self.start).0 + self.source.line_at(self.start) as u32
    }

    /// The column, counted in characters from 1.
    #[must_use]
    pub fn column(&self) -> u32 {
        let line = self.source.lines().get(self.source.line_at(self.start) - 1).copied().unwrap_or_default()
            as usize;
        let before = self.source.text.get(line..self.start as usize).unwrap_or_default();
        before.chars().count() as u32 + 1
    }

    /// What places are sorted by.
    pub(super) fn order(&self) -> (&str, u32) {
        (self.file(), self.source.offset(self.start))
    }

    /// The text at this place.
    #[must_use]
    pub fn text(&self) -> &str {
        self.source.text.get(self.range()).unwrap_or_default()
    }

    /// What was read with it: its file, or a part of that.
    #[must_use]
    pub(super) fn source(&self) -> &Arc<Source> {
        &self.source
    }

    /// The bytes of that: they tell places of other parts not apart.
    #[must_use]
    pub(super) fn range(&self) -> Range<usize> {
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
