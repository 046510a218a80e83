//! Which files a pattern means.

use std::path::{Path, PathBuf};

use super::problem::Problem;

/// The files in `folder` that match `pattern`, sorted by name. `*` stands for any characters and `?` for one, in
/// the file name only; neither matches a leading dot. A pattern without them is a file name.
///
/// # Errors
/// [`Problem::BadInclude`] and [`Problem::IncludeNothing`].
pub(super) fn files(folder: &Path, pattern: &str) -> Result<Vec<PathBuf>, Problem> {
    let bad = || Problem::BadInclude { pattern: pattern.into() };
    let (parents, name) = pattern.rsplit_once('/').unwrap_or(("", pattern));
    if name.is_empty() || parents.contains(['*', '?']) || pattern.contains('\0') {
        return Err(bad());
    }
    let absolute = pattern.starts_with('/') && parents.is_empty();
    let folder = folder.join(if absolute { "/" } else { parents });
    let mut found: Vec<PathBuf> = if name.contains(['*', '?']) {
        let entries = std::fs::read_dir(if folder.as_os_str().is_empty() { Path::new(".") } else { &folder });
        let names = entries.into_iter().flatten().flatten().map(|entry| entry.file_name());
        names
            .filter(|file| file.to_str().is_some_and(|file| matches(name, file)))
            .map(|file| folder.join(file))
            .collect()
    } else {
        let path = folder.join(name);
        if path.exists() { vec![path] } else { Vec::new() }
    };
    found.sort();
    if found.is_empty() { Err(Problem::IncludeNothing { pattern: pattern.into() }) } else { Ok(found) }
}

/// Whether `name` matches `pattern`, in time proportional to the product of their lengths.
fn matches(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    // reachable[n]: the pattern so far matches the first n characters.
    let mut reachable = vec![false; name.len() + 1];
    reachable[0] = true;
    for wanted in pattern {
        let mut next = vec![false; name.len() + 1];
        let mut any = false;
        for (at, now) in reachable.iter().enumerate() {
            any |= now;
            match wanted {
                '*' => next[at] = any,
                '?' if *now && at < name.len() => next[at + 1] = true,
                wanted if *now && name.get(at) == Some(&wanted) => next[at + 1] = true,
                _ => {}
            }
        }
        reachable = next;
    }
    reachable.last() == Some(&true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("*.toml", "acme.toml", true),
            ("*.toml", ".toml", false),
            ("*.toml", ".acme.toml", false),
            (".*.toml", ".acme.toml", true),
            ("*.toml", "acme.toml~", false),
            ("*.toml", "acme.tom", false),
            ("a?c*", "abc", true),
            ("a?c", "ac", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b*", "xxbxxaxx", false),
            ("?", "ü", true),
            ("", "", true),
            ("*", "", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn a_pattern_of_stars_ends() {
        assert!(!matches(&"*a".repeat(200), &"a".repeat(199)));
    }
}
