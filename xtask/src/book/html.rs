//! The book as it came out: its links are looked at once more, as a browser would follow them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Links in the pages of a folder that lead to no file, or to no place in one.
pub(super) fn faults(folder: &Path) -> Result<Vec<String>> {
    let mut pages = BTreeMap::new();
    read(folder, folder, &mut pages)?;
    let mut faults = Vec::new();
    for (name, page) in &pages {
        // What a server shows in place of any page has links from its root.
        if name == "404.html" {
            continue;
        }
        for to in values(page, "href").into_iter().chain(values(page, "src")) {
            if !leads(folder, name, to, &pages) {
                faults.push(format!("{name}: {to}"));
            }
        }
    }
    Ok(faults)
}

fn read(root: &Path, folder: &Path, into: &mut BTreeMap<String, String>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            read(root, &path, into)?;
        } else if path.extension().is_some_and(|kind| kind == "html") {
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            into.insert(path.strip_prefix(root)?.display().to_string(), text);
        }
    }
    Ok(())
}

fn leads(root: &Path, page: &str, to: &str, pages: &BTreeMap<String, String>) -> bool {
    if to.contains("://") || ["mailto:", "data:", "javascript:"].iter().any(|kind| to.starts_with(kind)) {
        return true;
    }
    let (path, anchor) = to.split_once('#').unwrap_or((to, ""));
    let mut parts: Vec<&str> = page.split('/').collect();
    if !path.is_empty() {
        parts.pop();
        for part in path.split('/').filter(|part| !["", "."].contains(part)) {
            if part != ".." {
                parts.push(part);
            } else if parts.pop().is_none() {
                return false;
            }
        }
    }
    let file = parts.join("/");
    match pages.get(&file) {
        Some(found) => {
            let ids: BTreeSet<&str> = values(found, "id").into_iter().collect();
            anchor.is_empty() || ids.contains(anchor)
        }
        None => root.join(&file).is_file(),
    }
}

/// What an attribute has in the tags of a page; code and text have their quotes escaped.
fn values<'a>(page: &'a str, attribute: &str) -> Vec<&'a str> {
    let begin = format!(" {attribute}=\"");
    page.split(begin.as_str()).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_as_a_browser_does() {
        let folder = std::env::temp_dir().join(format!("eastgate-html-{}", std::process::id()));
        fs::create_dir_all(folder.join("docs")).unwrap();
        fs::write(folder.join("index.html"), r#"<a href="docs/a.html#x">1</a> <img src="docs/p.svg">"#)
            .unwrap();
        let page = r##"<h2 id="x"><a href="#x">2</a> <a href="../index.html">3</a> <a href="b.html">4</a> <a href="../index.html#y">5</a>"##;
        fs::write(folder.join("docs/a.html"), page).unwrap();
        let told = faults(&folder).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(told, ["docs/a.html: b.html", "docs/a.html: ../index.html#y", "index.html: docs/p.svg"]);
    }
}
