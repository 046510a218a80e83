//! How long a source file may be.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::workspace;

/// Lines of a file in Rust or C, tests included.
const MOST: usize = 600;

pub(crate) fn check() -> Result<()> {
    let root = workspace()?;
    let mut lengths = Vec::new();
    measure(&root, &root, &mut lengths)?;
    lengths.sort();
    let faults = faults(&lengths);
    if !faults.is_empty() {
        bail!("files that are too long; split them where they have a seam:\n  {}", faults.join("\n  "));
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

fn faults(lengths: &[(String, usize)]) -> Vec<String> {
    let too_long = lengths.iter().filter(|(_, lines)| *lines > MOST);
    too_long.map(|(name, lines)| format!("{name} has {lines} lines, {MOST} at most")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_too_long_is_found() {
        let file = |lines| [("a.rs".to_owned(), lines)];
        assert!(faults(&file(MOST)).is_empty());
        assert_eq!(faults(&file(MOST + 1)).len(), 1);
    }

    #[test]
    fn no_file_is_too_long() {
        check().unwrap();
    }
}
