//! TOML with errors in it: each error once, and the tables that have none.
//!
//! A parser that goes on after an unclosed bracket takes the tables after it for items of a list and complains about
//! each. Here an error ends with its table: the next line that is a table's header begins anew.

use std::{collections::HashMap, ops::Range};

use toml::de::DeTable;

/// A syntax error: what and where, in bytes of the whole text.
pub(super) type SyntaxError = (String, Range<usize>);

/// The text with every table that has a syntax error blanked out, byte for byte; and the errors.
pub(super) fn blank_errors(text: &str) -> (String, Vec<SyntaxError>) {
    let mut good = String::with_capacity(text.len());
    let mut errors = Vec::new();
    for section in sections(text) {
        let at = good.len();
        let parsed = DeTable::parse_recoverable(section);
        let before = errors.len();
        errors.extend(worth_reporting(section, &parsed.1, at));
        if errors.len() == before {
            good.push_str(section);
        } else {
            good.extend(section.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }));
        }
    }
    (good, errors)
}

/// The syntax errors of a text, looked for in parts of about `size` bytes that end where a table does; a table that is
/// larger by far is looked at as far as that. Errors that only the whole shows are not among them.
pub(super) fn errors_in_parts(text: &str, size: usize) -> impl Iterator<Item = SyntaxError> {
    let mut parts: Vec<Range<usize>> = Vec::new();
    let mut at = 0;
    for section in sections(text) {
        let end = at + section.len();
        match parts.last_mut() {
            Some(part) if end - part.start <= size => part.end = end,
            _ => parts.push(at..end),
        }
        at = end;
    }
    parts.into_iter().flat_map(move |part| {
        let (start, whole) = (part.start, text.get(part).unwrap_or_default());
        let cut = whole.len() > size;
        let seen = if cut { whole.floor_char_boundary(size) } else { whole.len() };
        let seen = whole.get(..seen).unwrap_or_default();
        let (_, errors) = blank_errors(seen);
        // Where it was cut off there are errors that are none, and one of them may hide what comes before.
        let sure = if cut { seen.len().saturating_sub(size / 2) } else { usize::MAX };
        errors
            .into_iter()
            .filter(move |(_, range)| range.start < sure)
            .map(move |(message, range)| (message, start + range.start..start + range.end))
    })
}

/// Whether some text is not TOML, and not only says something twice.
pub(super) fn has_syntax_errors(errors: &[toml::de::Error]) -> bool {
    errors.iter().any(is_syntax_error)
}

/// Whether an error is more than that a key is there twice, which loses nothing.
pub(super) fn is_syntax_error(error: &toml::de::Error) -> bool {
    error.message() != DUPLICATE
}

/// What the parser calls a key that is there twice.
const DUPLICATE: &str = "duplicate key";

/// Where keys are that were there before, each with the line that had it first if that is found. Of a whole table that
/// is there twice only the name is told, not every key in it.
pub(super) fn duplicates(
    text: &str,
    errors: &[toml::de::Error],
) -> Vec<(Range<usize>, Option<Range<usize>>)> {
    let spans: Vec<Range<usize>> = errors
        .iter()
        .filter(|error| error.message() == DUPLICATE)
        .filter_map(toml::de::Error::span)
        .collect();
    let mut found = Vec::new();
    let mut headers: HashMap<&str, Range<usize>> = HashMap::new();
    let mut rest = spans.iter().peekable();
    let mut start = 0;
    for section in sections(text) {
        let range = start..start + section.len();
        start = range.end;
        let header = section.lines().next().filter(|line| is_header(line)).map_or("", str::trim);
        let first = headers.entry(header).or_insert(range.start..range.start + header.len()).clone();
        let mut again = false;
        while let Some(span) = rest.next_if(|span| span.start < range.end) {
            if span.start < range.start + header.len() {
                again = true;
                found.push((span.clone(), (first.start < range.start).then_some(first.clone())));
            } else if !again {
                let key = text.get(span.clone()).unwrap_or_default();
                found.push((span.clone(), first_assignment(section, range.start, key, span.start)));
            }
        }
    }
    found
}

/// The first line of a section before `end` that gives `key` a value, without the space around it.
fn first_assignment(section: &str, at: usize, key: &str, end: usize) -> Option<Range<usize>> {
    let mut start = at;
    for line in section.split_inclusive('\n') {
        let begin = start + (line.len() - line.trim_start().len());
        let value = line.trim_start().strip_prefix(key).map(str::trim_start);
        if begin < end && value.is_some_and(|rest| rest.starts_with('=')) {
            return Some(begin..start + line.trim_end().len());
        }
        start += line.len();
    }
    None
}

/// One error a line, up to the first after which the parser does not know where it is.
fn worth_reporting(section: &str, errors: &[toml::de::Error], at: usize) -> Vec<SyntaxError> {
    // The parser tells what it finds in values after what it finds between them.
    let mut errors: Vec<&toml::de::Error> = errors.iter().filter(|error| is_syntax_error(error)).collect();
    errors.sort_by_key(|error| error.span().map_or(0, |span| span.start));
    let mut reported: Vec<SyntaxError> = Vec::new();
    let mut last = None;
    for error in errors {
        let span = error.span().unwrap_or_default();
        let new_line =
            last.is_none_or(|last| section.get(last..span.start).is_some_and(|text| text.contains('\n')));
        last = last.max(Some(span.start));
        if !new_line {
            continue;
        }
        let message = error.message();
        let message = match message.split_once(", expected") {
            // The parser wants what cannot be told apart from the next key here.
            Some((message, _)) if message.contains("array") => {
                format!("{message}, or a `]` is missing before")
            }
            _ => message.to_owned(),
        };
        reported.push((message, at + span.start..at + span.end));
        let lost = ["array", "inline table", "unclosed"].iter().any(|word| error.message().contains(word));
        if lost {
            break;
        }
    }
    reported
}

/// The text cut before every line that is a table's header.
fn sections(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let first = rest.find('\n').map_or(rest.len(), |newline| newline + 1);
        let mut end = first;
        for line in rest.get(first..)?.split_inclusive('\n') {
            if is_header(line) {
                break;
            }
            end += line.len();
        }
        let (section, after) = rest.split_at_checked(end)?;
        rest = after;
        (!section.is_empty()).then_some(section)
    })
}

fn is_header(line: &str) -> bool {
    let line = line.trim_end();
    let Some((inside, after)) = line.strip_prefix('[').and_then(|line| line.rsplit_once(']')) else {
        return false;
    };
    let inside = inside.trim_matches(['[', ']']);
    let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let after = after.trim_start();
    !inside.is_empty() && inside.chars().all(name) && (after.is_empty() || after.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_begin_at_headers() {
        let text = "a = 1\n[b]\nc = [\n  [1, 2],\n]\n[[d.e]] # x\nf = 1";
        let cut: Vec<&str> = sections(text).collect();
        assert_eq!(cut, ["a = 1\n", "[b]\nc = [\n  [1, 2],\n]\n", "[[d.e]] # x\nf = 1"]);
        assert_eq!(sections("").count(), 0);
        assert_eq!(sections("[a]\n[b]\n").collect::<Vec<_>>(), ["[a]\n", "[b]\n"]);
    }

    #[test]
    fn good_text_stays() {
        assert_eq!(blank_errors("a = 1\n[b]\n"), ("a = 1\n[b]\n".to_owned(), vec![]));
        assert_eq!(blank_errors("a = 1\na = 2\n").1, vec![]);
    }

    #[test]
    fn an_unclosed_list_ends_with_its_table() {
        let (good, errors) = blank_errors("[a]\nx = [1\n[b]\ny = \nz = = 2\n[c]\nw = 1\n");
        assert_eq!(good, "   \n      \n   \n    \n       \n[c]\nw = 1\n");
        assert_eq!(errors.len(), 3, "{errors:?}");
    }
}
