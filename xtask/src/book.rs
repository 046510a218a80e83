//! `cargo xtask book`: what people read, as a book that is browsed and searched: README, `docs/` and the labs' READMEs.
//!
//! The files stay where they are and read as well on a code host. The book's source is a copy with the same folders below
//! `target/`, so that relative links hold as they are; only links to folders are led to a page. Which pages there are, and in
//! which order, says `docs/SUMMARY.md`, whose links are relative to `docs/` like any other page's. What can be wrong with pages
//! and links is found without mdBook, and is a test.

mod html;
mod links;
mod page;
mod summary;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{cargo, packages, run, target, workspace};

use links::Site;

/// What makes the book. It is installed below `target/`, and no dependency of anything.
const MDBOOK: &str = "0.5.4";

/// The table of contents.
const SUMMARY: &str = "docs/SUMMARY.md";

#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// Only check pages and links, which takes no mdBook, and list the links that lead out of the repository
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let root = workspace()?;
    let site = read(&root)?;
    refuse(&site.faults())?;
    if options.check {
        for (page, address) in site.outward() {
            println!("{page}: {address} (not looked at)");
        }
        println!("{} pages: every link in them leads somewhere.", site.pages.len());
        return Ok(());
    }
    let source = target()?.join("book-source");
    lay(&root, &site, &source)?;
    let book = target()?.join("book");
    let mut mdbook = Command::new(mdbook()?);
    run::visible(mdbook.arg("build").arg("--dest-dir").arg(&book).arg(&source))?;
    refuse(&html::faults(&book)?)?;
    println!("The book: {}", book.join("index.html").display());
    Ok(())
}

fn refuse(faults: &[String]) -> Result<()> {
    if !faults.is_empty() {
        bail!("what is wrong with the book:\n  {}", faults.join("\n  "));
    }
    Ok(())
}

/// Every page that people read, and every file of the repository that a link may name.
fn read(root: &Path) -> Result<Site> {
    let mut files = BTreeSet::new();
    list(root, root, &mut files)?;
    let mut site = Site::default();
    for file in &files {
        if is_read_by_people(file) {
            let text = fs::read_to_string(root.join(file)).with_context(|| file.clone())?;
            site.add(file, &text);
        }
    }
    site.files = files;
    Ok(site)
}

/// Markdown at the top, of the documentation, and of the labs.
fn is_read_by_people(file: &str) -> bool {
    let folder = file.split_once('/').map_or("", |(folder, _)| folder);
    file.ends_with(".md") && ["", "docs", "labs"].contains(&folder)
}

/// Every file below a folder by its path from the root, but for what is built and what is hidden.
fn list(root: &Path, folder: &Path, into: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let path = entry.path();
        let name = entry.file_name();
        if name == "target" || path.join("CACHEDIR.TAG").exists() || name.as_encoded_bytes().starts_with(b".")
        {
            continue;
        }
        if entry.file_type()?.is_dir() {
            list(root, &path, into)?;
        } else {
            into.insert(path.strip_prefix(root)?.display().to_string());
        }
    }
    Ok(())
}

/// Writes the book's source anew: pages, pictures and other files that they link to, and the table of contents.
fn lay(root: &Path, site: &Site, source: &Path) -> Result<()> {
    if source.exists() {
        fs::remove_dir_all(source).with_context(|| source.display().to_string())?;
    }
    let pages = source.join("src");
    fs::create_dir_all(&pages)?;
    for name in ["book.toml", "book.css"] {
        fs::copy(root.join("docs").join(name), source.join(name)).with_context(|| format!("docs/{name}"))?;
    }
    for (name, text) in site.laid() {
        let file = pages.join(&name);
        fs::create_dir_all(file.parent().context("a page has a folder")?)?;
        fs::write(&file, text).with_context(|| file.display().to_string())?;
    }
    for name in site.carried() {
        let file = pages.join(&name);
        fs::create_dir_all(file.parent().context("a file has a folder")?)?;
        fs::copy(root.join(&name), &file).with_context(|| name.clone())?;
    }
    Ok(())
}

/// The mdBook of this version: the one in the path, or one below `target/`, which is installed if it is not there yet.
fn mdbook() -> Result<PathBuf> {
    if packages::find_command("mdbook").is_some() {
        let said = run::output(Command::new("mdbook").arg("--version"))?;
        if said.trim().trim_start_matches("mdbook v") == MDBOOK {
            return Ok("mdbook".into());
        }
    }
    let home = target()?.join("tools").join(format!("mdbook-{MDBOOK}"));
    let program = home.join("bin/mdbook");
    if !program.exists() {
        println!("Installing mdBook {MDBOOK} in {}, which takes some minutes once.", home.display());
        let version = format!("={MDBOOK}");
        let words = ["install", "mdbook", "--locked", "--no-default-features", "--features", "search"];
        let mut install = cargo();
        run::visible(install.args(words).arg("--version").arg(version).arg("--root").arg(&home))?;
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_link_leads_somewhere_and_every_page_is_in_the_book() {
        let site = read(&workspace().unwrap()).unwrap();
        assert!(site.pages.len() > 30, "only {} pages: the search is broken", site.pages.len());
        let faults = site.faults();
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }

    #[test]
    fn the_book_is_laid_with_every_page_of_it() {
        let root = workspace().unwrap();
        let site = read(&root).unwrap();
        let folder = std::env::temp_dir().join(format!("eastgate-book-{}", std::process::id()));
        lay(&root, &site, &folder).unwrap();
        let pages = folder.join("src");
        let contents = fs::read_to_string(pages.join("SUMMARY.md")).unwrap();
        let chapters = summary::chapters(&contents);
        let missing: Vec<_> = chapters.iter().filter(|chapter| !pages.join(chapter).is_file()).collect();
        fs::remove_dir_all(&folder).unwrap();
        assert!(missing.is_empty(), "{missing:?}");
        assert_eq!(chapters.first().map(String::as_str), Some("README.md"), "mdBook makes index.html of it");
    }
}
