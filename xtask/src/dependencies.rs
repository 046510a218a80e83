//! A dependency that no source file of its crate names is one that somebody forgot to take out.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{cargo, run, workspace};

pub(crate) fn check() -> Result<()> {
    let mut command = cargo();
    command.current_dir(workspace()?).args(["metadata", "--locked", "--no-deps", "--format-version", "1"]);
    let metadata: Value = serde_json::from_str(&run::output(&mut command)?).context("cargo metadata")?;
    let mut unused = Vec::new();
    for package in metadata["packages"].as_array().context("no packages")? {
        unused.extend(unused_of(package)?);
    }
    if !unused.is_empty() {
        bail!("no source file names these dependencies:\n  {}", unused.join("\n  "));
    }
    Ok(())
}

fn unused_of(package: &Value) -> Result<Vec<String>> {
    let name = package["name"].as_str().context("a package without a name")?;
    let manifest = Path::new(package["manifest_path"].as_str().context("a package without a manifest")?);
    let root = manifest.parent().context("a manifest without a folder")?;
    let mut sources = String::new();
    for target in package["targets"].as_array().context("no targets")? {
        let file = Path::new(target["src_path"].as_str().context("a target without a file")?);
        match file.parent().filter(|folder| *folder != root) {
            Some(folder) => read_all(folder, &mut sources)?,
            None => sources += &fs::read_to_string(file)?,
        }
    }
    let dependencies = package["dependencies"].as_array().context("no dependencies")?;
    let named = dependencies.iter().filter_map(|dependency| {
        let crate_name = dependency["rename"].as_str().or(dependency["name"].as_str())?;
        Some((crate_name, crate_name.replace('-', "_")))
    });
    Ok(named
        .filter(|(_, word)| !names(&sources, word))
        .map(|(dependency, _)| format!("{dependency} of {name}"))
        .collect())
}

/// Whether `word` stands in `text` by itself, not as a part of a longer one.
fn names(text: &str, word: &str) -> bool {
    let is_part =
        |letter: Option<char>| letter.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
    text.match_indices(word).any(|(at, _)| {
        !is_part(text[..at].chars().next_back()) && !is_part(text[at + word.len()..].chars().next())
    })
}

pub(crate) fn read_all(folder: &Path, into: &mut String) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            read_all(&path, into)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            *into += &fs::read_to_string(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn only_whole_words_count() {
        assert!(names("use ipnet::IpNet;", "ipnet"));
        assert!(!names("use my_ipnet::X; ipnets", "ipnet"));
    }
}
