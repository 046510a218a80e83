//! How long a source file may be.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::workspace;

/// Lines of a file in Rust or C, tests included.
const MOST: usize = 600;

/// Files that are longer, each with as many lines as it may have. They may get shorter; nothing comes to this list.
const LONGER: &[(&str, usize)] = &[("fastpath/bpf/layout.h", 691), ("fastpath/src/layout.rs", 681)];

pub(crate) fn check() -> Result<()> {
    let root = workspace()?;
    let mut lengths = Vec::new();
    measure(&root, &root, &mut lengths)?;
    lengths.sort();
    let faults = faults(&lengths, LONGER);
    if !faults.is_empty() {
        bail!("files of source that are not as long as they should be:\n  {}", faults.join("\n  "));
    }
    Ok(())
}

/// Every source file below a folder, by its path from the root, with its number of lines.
fn measure(root: &Path, folder: &Path, into: &mut Vec<(String, usize)>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let path: PathBuf = entry.path();
        let name = entry.file_name();
        // The file says that cargo builds there, wherever that is.
        let is_built = name == "target" || path.join("CACHEDIR.TAG").exists();
        let is_skipped = is_built || name.as_encoded_bytes().starts_with(b".");
        if entry.file_type()?.is_dir() {
            if !is_skipped {
                measure(root, &path, into)?;
            }
        } else if path.extension().is_some_and(|kind| kind == "rs" || kind == "c" || kind == "h") {
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let name = path.strip_prefix(root)?.display().to_string();
            into.push((name, text.lines().count()));
        }
    }
    Ok(())
}

fn faults(lengths: &[(String, usize)], longer: &[(&str, usize)]) -> Vec<String> {
    let known = |name: &str| longer.iter().find(|(known, _)| *known == name).map(|(_, lines)| *lines);
    let too_long = lengths.iter().filter_map(|(name, lines)| {
        let most = known(name).unwrap_or(MOST);
        (*lines > most)
            .then(|| format!("{name} has {lines} lines, {most} at most: split it where it has a seam"))
    });
    let no_longer = longer.iter().filter_map(|(known, _)| {
        let lines = lengths.iter().find(|(name, _)| name == known).map_or(0, |(_, lines)| *lines);
        (lines <= MOST)
            .then(|| format!("{known} is not too long any more: take it off LONGER in xtask/src/length.rs"))
    });
    too_long.chain(no_longer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_grows_is_found_and_one_that_shrinks_leaves_the_list() {
        let file = |lines| [("a.rs".to_owned(), lines)];
        assert!(faults(&file(MOST), &[]).is_empty());
        assert_eq!(faults(&file(MOST + 1), &[]).len(), 1);
        assert!(faults(&file(700), &[("a.rs", 700)]).is_empty());
        assert_eq!(faults(&file(701), &[("a.rs", 700)]).len(), 1);
        assert_eq!(faults(&file(MOST), &[("a.rs", 700)]).len(), 1);
        assert_eq!(faults(&[], &[("a.rs", 700)]).len(), 1);
    }

    #[test]
    fn no_file_is_too_long() {
        check().unwrap();
    }
}
