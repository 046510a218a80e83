//! What is true of a machine or of a namespace at one moment, as lines: for comparing it with what it was.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::{
    command,
    error::Error,
    leftover,
    netns::{FOLDER, Netns},
    wait::settle,
};

/// Lines, each of which tells something that could change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts(BTreeSet<String>);

impl Facts {
    /// Settings, devices, traffic control and rules of a namespace, and the routes and neighbours that eastgate makes.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn of_namespace(netns: &Netns) -> Result<Self, Error> {
        let settings = netns.enter(|| {
            let mut found = BTreeMap::new();
            for root in ["/proc/sys/net/ipv4/conf", "/proc/sys/net/ipv6/conf"] {
                settings_below(Path::new(root), &mut found)?;
            }
            Ok::<_, Error>(found)
        })??;
        let mut facts: Self = settings.into_iter().map(|(path, value)| format!("{path} = {value}")).collect();
        // The kernel notes a little later that a device has a carrier, which is none of who comes in between.
        let settled = settle(
            || netns.ip("-d -j link").map(|answer| links(&answer)),
            |found| found.as_ref().map_or(true, |links| links.iter().all(|(_, link)| is_settled(link))),
        );
        for (device, mut link) in settled? {
            // A bridge tells how far its clocks have run.
            if let Some(details) = link.pointer_mut("/linkinfo/info_data").and_then(Value::as_object_mut) {
                details.retain(|name, _| !name.ends_with("_timer"));
            }
            facts.add(format!("link {link}"));
            for way in ["ingress", "egress"] {
                let filters = netns.tc(&format!("filter show dev {device} {way}"))?;
                facts.add(format!("filter {device} {way} {filters}"));
            }
        }
        for routing in [
            "rule show",
            "-6 rule show",
            "route show table all proto 101",
            "-6 route show table all proto 101",
            "neigh show nud permanent",
            "neigh show proxy",
        ] {
            facts.extend(netns.ip(routing)?.lines().map(|line| format!("{routing}: {}", line.trim())));
        }
        facts.extend(netns.tc("qdisc show")?.lines().map(|line| format!("qdisc {line}")));
        Ok(facts)
    }

    /// Devices, namespaces and their mounts of the machine that this runs on; files below `folder`, and processes that
    /// were given one of them on their command line.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn of_machine(folder: &Path) -> Result<Self, Error> {
        let mut facts = Self::default();
        let devices = command::run(Command::new("ip").args(["-j", "link"]))?;
        facts.extend(links(&devices).into_iter().map(|(device, _)| format!("device {device}")));
        // Tests of other checkouts may run at the same time.
        let is_others = |path: &Path| {
            path.file_name().is_some_and(|name| leftover::is_of_another_run(&name.to_string_lossy()))
        };
        let namespaces = files_below(Path::new(FOLDER))?;
        let namespaces = namespaces.iter().filter(|path| !is_others(path));
        facts.extend(namespaces.map(|path| format!("namespace {}", path.display())));
        let mounts = Path::new("/proc/self/mounts");
        let mounts = fs::read_to_string(mounts).map_err(Error::file(mounts))?;
        let ours = |line: &&str| {
            let at = line.split_whitespace().nth(1).unwrap_or_default();
            line.contains(FOLDER) && !is_others(Path::new(at))
        };
        facts.extend(mounts.lines().filter(ours).map(|line| format!("mount {line}")));
        facts.extend(files_below(folder)?.iter().map(|path| format!("file {}", path.display())));
        facts.extend(processes_that_name(folder)?);
        Ok(facts)
    }

    /// Adds one.
    pub fn add(&mut self, fact: String) {
        self.0.insert(fact);
    }

    /// What is different in `after`: `-` was there, `+` is there.
    #[must_use]
    pub fn changes(&self, after: &Self) -> Vec<String> {
        let gone = self.0.difference(&after.0).map(|fact| format!("- {fact}"));
        gone.chain(after.0.difference(&self.0).map(|fact| format!("+ {fact}"))).collect()
    }
}

impl Extend<String> for Facts {
    fn extend<I: IntoIterator<Item = String>>(&mut self, facts: I) {
        self.0.extend(facts);
    }
}

impl FromIterator<String> for Facts {
    fn from_iter<I: IntoIterator<Item = String>>(facts: I) -> Self {
        Self(facts.into_iter().collect())
    }
}

/// The devices in the answer of `ip -j link`, by name.
fn links(answer: &str) -> Vec<(String, Value)> {
    let Ok(Value::Array(links)) = serde_json::from_str(answer) else { return Vec::new() };
    let name = |link: &Value| link["ifname"].as_str().unwrap_or_default().to_owned();
    links.into_iter().map(|link| (name(&link), link)).collect()
}

/// Does what the kernel says of a device's carrier agree with the carrier?
fn is_settled(link: &Value) -> bool {
    let has = |flag: &str| link["flags"].as_array().is_some_and(|flags| flags.iter().any(|it| it == flag));
    !(has("NO-CARRIER") && has("LOWER_UP"))
}

fn settings_below(folder: &Path, found: &mut BTreeMap<String, String>) -> Result<(), Error> {
    for entry in fs::read_dir(folder).map_err(Error::file(folder))?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            settings_below(&path, found)?;
        } else if let Ok(value) = fs::read_to_string(&path) {
            // Some files (`stable_secret`) refuse to be read until they were written to.
            found.insert(path.display().to_string(), value.trim().to_owned());
        }
    }
    Ok(())
}

/// Every file and folder below `folder`; none where there is no such folder.
fn files_below(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(Error::file(folder)(error)),
    };
    for entry in entries {
        let entry = entry.map_err(Error::file(folder))?;
        // A link is a file, wherever it leads.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(files_below(&entry.path())?);
        }
        found.push(entry.path());
    }
    Ok(found)
}

fn processes_that_name(folder: &Path) -> Result<Vec<String>, Error> {
    let (proc, named) = (Path::new("/proc"), folder.display().to_string());
    let entries = fs::read_dir(proc).map_err(Error::file(proc))?;
    let describe = |path: PathBuf| {
        // Processes come and go while this looks at them.
        let command = fs::read_to_string(path.join("cmdline")).ok()?.replace('\0', " ");
        command.contains(&named).then(|| format!("process {} {command}", path.display()))
    };
    Ok(entries.flatten().filter_map(|entry| describe(entry.path())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_and_what_went_is_told() {
        let facts = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Facts>();
        let (before, after) = (facts(&["a", "b"]), facts(&["b", "c"]));
        assert_eq!(before.changes(&after), ["- a", "+ c"]);
        assert!(before.changes(&before).is_empty());
    }

    #[test]
    fn files_and_who_was_given_them_are_facts_of_a_machine() {
        let folder = std::env::temp_dir().join(format!("eastgate-facts-{}", std::process::id()));
        let named = folder.display().to_string();
        let before = Facts::of_machine(&folder).unwrap();
        // Others may change the same machine meanwhile.
        let changed = || {
            let mut changes = before.changes(&Facts::of_machine(&folder).unwrap());
            changes.retain(|one| one.contains(&named));
            changes
        };
        fs::create_dir_all(folder.join("inner")).unwrap();
        fs::write(folder.join("log"), "").unwrap();
        let mut child = Command::new("tail").arg("-f").arg(folder.join("log")).spawn().unwrap();
        let told = crate::wait::settle(changed, |changes| changes.iter().any(|one| one.contains("tail")));
        child.kill().unwrap();
        child.wait().unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert!(told.contains(&format!("+ file {named}/inner")), "{told:?}");
        assert!(
            told.iter().any(|one| one.starts_with("+ process /proc/") && one.contains("tail")),
            "{told:?}"
        );
        assert_eq!(changed(), Vec::<String>::new());
    }
}
