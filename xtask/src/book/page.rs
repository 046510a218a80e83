//! One page of Markdown: its links with their places, and what a link may name in it.

use std::collections::BTreeMap;
use std::ops::Range;

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

/// A link or an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    /// What it leads to, as it is written
    pub(super) to: String,
    /// Where that is written, in bytes of the page
    pub(super) at: Range<usize>,
    /// The line, counted from 1
    pub(super) line: usize,
}

/// What is read of a page.
#[derive(Clone, Debug, Default)]
pub(super) struct Page {
    pub(super) text: String,
    pub(super) links: Vec<Link>,
    /// The names that links may have behind `#`
    pub(super) anchors: Vec<String>,
}

impl Page {
    pub(super) fn of(text: &str) -> Self {
        let mut page = Self { text: text.to_owned(), ..Self::default() };
        let mut seen = BTreeMap::new();
        let mut heading: Option<String> = None;
        for (event, range) in Parser::new_ext(text, Options::ENABLE_TABLES).into_offset_iter() {
            match event {
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.links.extend(link(text, &range, &dest_url));
                }
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    if let Some(words) = heading.take() {
                        page.anchors.push(numbered(slug(&words), &mut seen));
                    }
                }
                Event::Text(words) | Event::Code(words) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&words);
                    }
                }
                _ => {}
            }
        }
        page
    }
}

/// Where `to` stands in the link at `range`: the last place, since the words before may say the same.
fn link(text: &str, range: &Range<usize>, to: &str) -> Option<Link> {
    let written = text.get(range.clone())?;
    let start = range.start + written.rfind(to)?;
    let line = text.get(..start)?.matches('\n').count() + 1;
    Some(Link { to: to.to_owned(), at: start..start + to.len(), line })
}

/// A heading's name as code hosts and mdBook make it: letters, digits, `_` and `-` in lower case, blanks as `-`.
fn slug(heading: &str) -> String {
    let kept = |c: char| match c {
        c if c.is_whitespace() => Some('-'),
        c if c.is_alphanumeric() || c == '_' || c == '-' => Some(c),
        _ => None,
    };
    heading.trim().to_lowercase().chars().filter_map(kept).collect()
}

/// The second heading of a name has `-1` behind it, and so on.
fn numbered(name: String, seen: &mut BTreeMap<String, usize>) -> String {
    let count = seen.entry(name.clone()).or_default();
    *count += 1;
    match *count {
        1 => name,
        more => format!("{name}-{}", more - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_are_named_as_code_hosts_do() {
        let text =
            "# `[quota]`: what *tenants* may have\n\n## [tenant.NAME.profile.NAME]\n\n## Two\n\n## Two\n";
        let names = ["quota-what-tenants-may-have", "tenantnameprofilename", "two", "two-1"];
        assert_eq!(Page::of(text).anchors, names);
    }

    #[test]
    fn links_are_found_with_their_places_and_not_in_code() {
        let text = "one [a.md](a.md)\n\n| [b](b.md#x) | ![p](p.svg) |\n\n    [no](no.md)\n\n`[no](no.md)`\n";
        let page = Page::of(text);
        let told: Vec<_> = page.links.iter().map(|link| (link.to.as_str(), link.line)).collect();
        assert_eq!(told, [("a.md", 1), ("b.md#x", 3), ("p.svg", 3)]);
        let first = page.links.first().unwrap();
        assert_eq!((first.at.clone(), &text[first.at.clone()]), (11..15, "a.md"));
    }
}
