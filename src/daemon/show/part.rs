//! Which part of a list an answer has.

use eastgate_api::{ErrorCode, Failure, Filter, List, MAX_ROWS};
use serde::Serialize;

/// Bytes of rows that one answer has room for, as JSON.
const ROOM: usize = 16 << 20;

/// Which rows of a list are wanted: those from a place on, no more than so many.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Part {
    /// Rows that an answer before this one had
    pub(super) from: usize,
    pub(super) most: usize,
}

impl Part {
    /// As the filter says, within what one answer may have.
    pub(super) fn of(filter: &Filter) -> Result<Self, Failure> {
        let from = filter.after.as_deref().map_or(Ok(0), str::parse).map_err(|_| no_place(filter))?;
        Ok(Self { from, most: most(filter) })
    }

    /// As many rows as there is room for, and at least one, of those that come after [`Part::from`].
    pub(super) fn fill<T: Serialize>(&self, rows: impl Iterator<Item = T>) -> Vec<T> {
        let mut room = ROOM;
        let mut filled = Vec::new();
        for row in rows.take(self.most) {
            let size = size(&row);
            if size > room && !filled.is_empty() {
                break;
            }
            room = room.saturating_sub(size);
            filled.push(row);
        }
        filled
    }

    /// Where the rows go on after `shown` of these; nothing when those were the last of `total`.
    pub(super) fn next(&self, shown: usize, total: usize) -> Option<String> {
        let end = self.from.saturating_add(shown);
        (shown > 0 && end < total).then(|| end.to_string())
    }

    /// This part of `rows`.
    pub(super) fn cut<T: Serialize>(&self, rows: Vec<T>) -> List<T> {
        let total = rows.len();
        let rows = self.fill(rows.into_iter().skip(self.from));
        List { next: self.next(rows.len(), total), rows, total }
    }
}

/// The most rows that an answer to this has.
pub(super) fn most(filter: &Filter) -> usize {
    filter.limit.unwrap_or(MAX_ROWS).min(MAX_ROWS)
}

/// The place to go on from is none.
pub(super) fn no_place(filter: &Filter) -> Failure {
    let after = filter.after.as_deref().unwrap_or_default();
    let text = format!(
        "no answer to this goes on after `{after}`: --after takes what the answer before had as `next`"
    );
    Failure::new(ErrorCode::Invalid, text)
}

/// Bytes of a row as JSON.
fn size<T: Serialize>(row: &T) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    // What cannot be written is told when the answer is.
    let _ = serde_json::to_writer(&mut count, row);
    count.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(after: Option<&str>, limit: Option<usize>) -> Part {
        Part::of(&Filter { after: after.map(str::to_owned), limit, ..Filter::default() }).unwrap()
    }

    #[test]
    fn parts_follow_each_other_to_the_end() {
        let rows: Vec<u32> = (0..10).collect();
        let (mut seen, mut next) = (Vec::new(), None);
        loop {
            let list = part(next.as_deref(), Some(4)).cut(rows.clone());
            assert_eq!(list.total, 10);
            seen.extend(list.rows);
            next = list.next;
            if next.is_none() {
                break;
            }
        }
        assert_eq!(seen, rows);
        assert_eq!(part(None, Some(0)).cut(rows.clone()).next, None);
        assert_eq!(part(Some("99"), None).cut(rows), List { rows: vec![], total: 10, next: None });
        assert!(Part::of(&Filter { after: Some("-1".into()), ..Filter::default() }).is_err());
    }

    #[test]
    fn an_answer_has_bounded_rows_and_bytes() {
        let list = part(None, None).cut(vec![0u8; MAX_ROWS + 5]);
        assert_eq!((list.rows.len(), list.next), (MAX_ROWS, Some(MAX_ROWS.to_string())));
        let large = "x".repeat(ROOM / 2 - 10);
        let list = part(None, None).cut(vec![large; 5]);
        assert_eq!((list.rows.len(), list.total, list.next), (2, 5, Some("2".into())));
        let larger = "x".repeat(2 * ROOM);
        assert_eq!(part(Some("1"), None).cut(vec![larger; 3]).rows.len(), 1, "or nobody would ever see it");
    }
}
