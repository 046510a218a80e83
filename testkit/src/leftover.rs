//! What a killed run could not clean up: known by the process id in its name, once that process is gone.

use std::{fs, path::Path};

use crate::error::Error;

/// The names in `folder` of the form `<prefix><process id>` or `<prefix><process id>-<anything>` whose process no
/// longer runs.
///
/// # Errors
/// When the folder is there and cannot be read.
pub fn of_dead_runs(folder: &Path, prefix: &str) -> Result<Vec<String>, Error> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(Vec::new()) };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(Error::file(folder))?.file_name().to_string_lossy().into_owned();
        if name.strip_prefix(prefix).and_then(leading_id).is_some_and(|id| !runs(id)) {
            names.push(name);
        }
    }
    Ok(names)
}

/// Whether `name` has the form `<family>-<process id>` or `<family>-<process id>-<anything>` of a process that runs, and is not this
/// one: what it has is nobody else's business.
#[must_use]
pub fn is_of_another_run(name: &str) -> bool {
    let owner = name.split_once('-').and_then(|(_, rest)| leading_id(rest));
    owner.is_some_and(|id| id != std::process::id() && runs(id))
}

fn leading_id(text: &str) -> Option<u32> {
    text.split('-').next()?.parse().ok()
}

fn runs(id: u32) -> bool {
    Path::new("/proc").join(id.to_string()).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_dead_processes_of_ours_left_counts() {
        let folder = std::env::temp_dir().join(format!("eastgate-leftover-{}", std::process::id()));
        let own = std::process::id();
        // Process ids end at 2^22 on Linux.
        for name in ["x-4999999", "x-4999999-h1", &format!("x-{own}-h1"), "x-h1", "y-4999999", "x-"] {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        let mut found = of_dead_runs(&folder, "x-").unwrap();
        found.sort();
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(found, ["x-4999999", "x-4999999-h1"]);
        // Process 1 always runs.
        assert_eq!(
            ["x-1-h1", "x-1", "x-4999999-h1", &format!("x-{own}-h1"), "x-h1", "x"].map(is_of_another_run),
            [true, true, false, false, false, false]
        );
        assert!(of_dead_runs(&folder, "x-").unwrap().is_empty());
    }
}
