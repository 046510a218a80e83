//! What files set interface settings when the machine starts, or when somebody runs `sysctl --system`.

use std::path::{Path, PathBuf};

const FOLDERS: [&str; 5] =
    ["/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d", "/lib/sysctl.d"];

/// A line of such a file that is about an interface.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Assignment {
    /// File and line
    pub at: String,
    /// `ipv4` or `ipv6`
    pub family: String,
    /// `all`, `default`, `*` or an interface
    pub scope: String,
    /// Such as `rp_filter`
    pub name: String,
    /// What is written
    pub value: i32,
}

/// The lines about interfaces of all files that `sysctl --system` reads.
#[must_use]
pub fn assignments() -> Vec<Assignment> {
    let mut files: Vec<PathBuf> = Vec::new();
    for folder in FOLDERS {
        // One of them is often a link to another.
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        let entries = entries.flatten().map(|entry| entry.path());
        files.extend(entries.filter(|path| path.extension().is_some_and(|extension| extension == "conf")));
    }
    files.push("/etc/sysctl.conf".into());
    let mut known = std::collections::BTreeSet::new();
    files.retain(|file| std::fs::canonicalize(file).is_ok_and(|real| known.insert(real)));
    files.sort();
    files.iter().flat_map(|file| of_file(file, &std::fs::read_to_string(file).unwrap_or_default())).collect()
}

fn of_file(file: &Path, text: &str) -> Vec<Assignment> {
    let lines = text.lines().enumerate();
    lines
        .filter_map(|(number, line)| {
            let (key, value) = line.trim().split_once('=')?;
            let at = format!("{}:{}", file.display(), number + 1);
            assignment(at, key.trim().trim_start_matches('-'), value.trim().parse().ok()?)
        })
        .collect()
}

fn assignment(at: String, key: &str, value: i32) -> Option<Assignment> {
    // What separates first does so throughout; the other one stands for it in names.
    let by_dots = key.find(['.', '/']).is_some_and(|at| key.as_bytes().get(at) == Some(&b'.'));
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        c => c,
    };
    let path: String = if by_dots { key.chars().map(swap).collect() } else { key.to_owned() };
    let parts: Vec<&str> = path.split('/').collect();
    let ["net", family @ ("ipv4" | "ipv6"), "conf", scope, name] = parts[..] else { return None };
    Some(Assignment { at, family: family.into(), scope: scope.into(), name: name.into(), value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_in_both_forms() {
        let text = "# net.ipv4.conf.all.rp_filter = 0\nnet.ipv4.conf.all.rp_filter=0\n\n-net/ipv6/conf/eth0.7/accept_ra = 2\n\
                    net.ipv4.conf.eth0/7.arp_ignore = 1\nnet.core.rmem_max = 1\nkernel.core_pattern=|/x\n";
        let found = of_file(Path::new("/etc/x.conf"), text);
        let shown: Vec<String> = found
            .iter()
            .map(|it| format!("{} {} {} {} {}", it.at, it.family, it.scope, it.name, it.value))
            .collect();
        assert_eq!(
            shown,
            [
                "/etc/x.conf:2 ipv4 all rp_filter 0",
                "/etc/x.conf:4 ipv6 eth0.7 accept_ra 2",
                "/etc/x.conf:5 ipv4 eth0.7 arp_ignore 1"
            ]
        );
    }
}
