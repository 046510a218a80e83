//! All pages together: where their links lead, which of them the book has, and how they stand in its source.

use std::collections::{BTreeMap, BTreeSet};

use super::page::Page;
use super::{SUMMARY, summary};

/// The pages by their paths from the root of the repository, and what else there is.
#[derive(Debug, Default)]
pub(super) struct Site {
    pub(super) pages: BTreeMap<String, Page>,
    pub(super) files: BTreeSet<String>,
}

/// Where a link leads.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    /// Out of the repository
    Outward,
    /// A file or folder of the repository by its path, which ends in `/` for a folder and may be empty, and what stands behind `#`
    Inside(String, String),
    /// Above the root of the repository
    Above,
}

impl Site {
    pub(super) fn add(&mut self, name: &str, text: &str) {
        self.pages.insert(name.to_owned(), Page::of(text));
    }

    /// What is wrong: links that lead nowhere, pages that the table of contents lacks or has twice.
    pub(super) fn faults(&self) -> Vec<String> {
        let chapters = self.chapters();
        let mut faults = Vec::new();
        for (name, page) in &self.pages {
            for link in &page.links {
                if let Some(why) = self.fault(name, &link.to, &chapters) {
                    faults.push(format!("{name}:{}: {}: {why}", link.line, link.to));
                }
            }
        }
        let mut once = BTreeSet::new();
        for chapter in &chapters {
            if !once.insert(chapter) {
                faults.push(format!("{SUMMARY} has {chapter} twice"));
            }
        }
        let missing = self.pages.keys().filter(|name| *name != SUMMARY && !once.contains(name));
        faults.extend(missing.map(|name| format!("{SUMMARY} lacks {name}")));
        faults
    }

    fn fault(&self, page: &str, to: &str, chapters: &[String]) -> Option<String> {
        let (file, anchor) = match target(page, to) {
            Target::Outward => return None,
            Target::Above => return Some("is outside of the repository".into()),
            Target::Inside(file, anchor) => (file, anchor),
        };
        if self.is_folder(&file) {
            let begins = folder(&file);
            let leads = chapters.iter().any(|chapter| chapter.starts_with(&begins));
            return (!leads).then(|| "no page of the book is in this folder".into());
        }
        if !self.files.contains(&file) {
            return Some("is not there".into());
        }
        let Some(found) = self.pages.get(&file) else {
            return (file.ends_with(".md")).then(|| "is no page of the book".into());
        };
        let is_there = anchor.is_empty() || found.anchors.contains(&anchor);
        (!is_there).then(|| format!("{file} has no heading of this name"))
    }

    fn is_folder(&self, path: &str) -> bool {
        let begins = folder(path);
        self.files.range(begins.clone()..).next().is_some_and(|file| file.starts_with(&begins))
    }

    /// The links that lead out of the repository, by page.
    pub(super) fn outward(&self) -> impl Iterator<Item = (&str, &str)> {
        let links =
            self.pages.iter().flat_map(|(name, page)| page.links.iter().map(move |link| (name, link)));
        links
            .filter(|(name, link)| target(name, &link.to) == Target::Outward)
            .map(|(name, link)| (name.as_str(), link.to.as_str()))
    }

    /// The pages of the book in their order, by their paths from the root.
    fn chapters(&self) -> Vec<String> {
        let contents = self.pages.get(SUMMARY).map_or("", |page| page.text.as_str());
        let inside = |link: String| match target(SUMMARY, &link) {
            Target::Inside(file, _) => Some(file),
            Target::Outward | Target::Above => None,
        };
        summary::chapters(contents).into_iter().filter_map(inside).collect()
    }

    /// Each page as it stands in the book's source. The table of contents stands at the root there.
    pub(super) fn laid(&self) -> Vec<(String, String)> {
        let chapters = self.chapters();
        let mut laid = Vec::new();
        for (name, page) in &self.pages {
            let (place, text) = if name == SUMMARY {
                ("SUMMARY.md", relinked(page, from_the_root))
            } else {
                (name.as_str(), relinked(page, |to| self.page_in_folder(name, to, &chapters)))
            };
            laid.push((place.to_owned(), text));
        }
        laid
    }

    /// A link to a folder leads to the first page in it.
    fn page_in_folder(&self, page: &str, to: &str, chapters: &[String]) -> Option<String> {
        let Target::Inside(path, _) = target(page, to) else { return None };
        if !self.is_folder(&path) {
            return None;
        }
        let begins = folder(&path);
        let first = chapters.iter().find_map(|chapter| chapter.strip_prefix(&begins))?;
        let slash = if to.ends_with('/') { "" } else { "/" };
        Some(format!("{to}{slash}{first}"))
    }

    /// Files beside the pages that they link to: pictures, examples.
    pub(super) fn carried(&self) -> BTreeSet<String> {
        let mut carried = BTreeSet::new();
        for (name, page) in &self.pages {
            for link in &page.links {
                if let Target::Inside(file, _) = target(name, &link.to)
                    && self.files.contains(&file)
                    && !self.pages.contains_key(&file)
                {
                    carried.insert(file);
                }
            }
        }
        carried
    }
}

/// A page with other links where `change` says so.
fn relinked(page: &Page, change: impl Fn(&str) -> Option<String>) -> String {
    let mut text = page.text.clone();
    // From the end, so that places before stay as they are.
    let mut links = page.links.clone();
    links.sort_by_key(|link| link.at.start);
    for link in links.into_iter().rev() {
        if let Some(to) = change(&link.to) {
            text.replace_range(link.at, &to);
        }
    }
    text
}

fn from_the_root(to: &str) -> Option<String> {
    match target(SUMMARY, to) {
        Target::Inside(file, _) => Some(file),
        Target::Outward | Target::Above => None,
    }
}

/// A folder's path as those of its files begin; the root's is empty.
fn folder(path: &str) -> String {
    match path.trim_end_matches('/') {
        "" => String::new(),
        path => format!("{path}/"),
    }
}

fn target(page: &str, to: &str) -> Target {
    if to.contains("://") || to.starts_with("mailto:") {
        return Target::Outward;
    }
    let (path, anchor) = to.split_once('#').unwrap_or((to, ""));
    if path.is_empty() {
        return Target::Inside(page.to_owned(), anchor.to_owned());
    }
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                if parts.pop().is_none() {
                    return Target::Above;
                }
            }
            part => parts.push(part),
        }
    }
    Target::Inside(parts.join("/"), anchor.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(pages: &[(&str, &str)], files: &[&str]) -> Site {
        let mut site = Site::default();
        for (name, text) in pages {
            site.add(name, text);
        }
        let pages = pages.iter().map(|(name, _)| *name);
        site.files = pages.chain(files.iter().copied()).map(str::to_owned).collect();
        site
    }

    fn small() -> Site {
        site(
            &[
                (
                    SUMMARY,
                    "[In](../README.md)\n\n- [A](a.md)\n- [One](adr/1.md)\n- [L](../labs/x/README.md)\n",
                ),
                ("README.md", "[a](docs/a.md#two) [all](docs/adr/) [licence](LICENSE)"),
                (
                    "docs/a.md",
                    "# One\n\n## Two\n\n[up](../README.md) [here](#one) [out](https://example.org/x)\n",
                ),
                ("docs/adr/1.md", "[back](../a.md)"),
                ("labs/x/README.md", "[a](../../docs/a.md) ![p](p.svg)"),
            ],
            &["LICENSE", "labs/x/p.svg", "src/main.rs"],
        )
    }

    #[test]
    fn a_whole_site_has_no_faults() {
        assert_eq!(small().faults(), Vec::<String>::new());
        assert_eq!(small().outward().collect::<Vec<_>>(), [("docs/a.md", "https://example.org/x")]);
    }

    #[test]
    fn each_link_that_leads_nowhere_is_told_with_its_line() {
        let mut site = small();
        site.add(
            "docs/a.md",
            "# One\n\n[x](b.md)\n[x](#two)\n[x](../README.md#z)\n[x](../../x)\n[x](../src/)\n[x](../src/main.rs)\n",
        );
        let told = site.faults();
        let expected = [
            "README.md:1: docs/a.md#two: docs/a.md has no heading of this name",
            "docs/a.md:3: b.md: is not there",
            "docs/a.md:4: #two: docs/a.md has no heading of this name",
            "docs/a.md:5: ../README.md#z: README.md has no heading of this name",
            "docs/a.md:6: ../../x: is outside of the repository",
            "docs/a.md:7: ../src/: no page of the book is in this folder",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn the_table_of_contents_has_each_page_once() {
        let mut site = small();
        site.add(SUMMARY, "[In](../README.md)\n\n- [A](a.md)\n- [A](a.md)\n- [L](../labs/x/README.md)\n");
        let told = site.faults();
        let expected = [
            "README.md:1: docs/adr/: no page of the book is in this folder",
            "docs/SUMMARY.md has docs/a.md twice",
            "docs/SUMMARY.md lacks docs/adr/1.md",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn pages_stand_in_their_folders_and_links_to_folders_lead_to_a_page() {
        let laid: BTreeMap<_, _> = small().laid().into_iter().collect();
        let expected =
            "[In](README.md)\n\n- [A](docs/a.md)\n- [One](docs/adr/1.md)\n- [L](labs/x/README.md)\n";
        assert_eq!(laid["SUMMARY.md"], expected);
        assert_eq!(laid["README.md"], "[a](docs/a.md#two) [all](docs/adr/1.md) [licence](LICENSE)");
        assert_eq!(laid["labs/x/README.md"], "[a](../../docs/a.md) ![p](p.svg)");
        assert_eq!(small().carried().into_iter().collect::<Vec<_>>(), ["LICENSE", "labs/x/p.svg"]);
    }
}
