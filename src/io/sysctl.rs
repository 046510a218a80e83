//! Interface settings in procfs. It shows the network namespace of the reading thread.

use std::{collections::BTreeSet, io};

use eastgate_steering::settings::{Change, Key, Observed, Scope, Setting, SettingId, to_read};

const ROOT: &str = "/proc/sys";

/// Reads what has to be known to put `wanted` in effect: its own files, and for keys where the value of `all`
/// counts the files of every other interface.
///
/// # Errors
/// What the kernel says, other than that a file is not there.
pub fn observe(wanted: &[Setting]) -> io::Result<Observed> {
    let mut files = to_read(wanted);
    let shared: BTreeSet<Key> =
        wanted.iter().map(|setting| setting.key).filter(|key| key.uses_all()).collect();
    for key in shared {
        let own = SettingId::of_all(key).to_string();
        let Some(table) = own.strip_suffix(&format!("/all/{}", key.name())) else { continue };
        let Ok(folders) = std::fs::read_dir(format!("{ROOT}/{table}")) else { continue };
        for folder in folders.flatten() {
            let scope = match folder.file_name().into_string() {
                Ok(name) if name == "all" => Scope::All,
                Ok(name) if name == "default" => Scope::Default,
                Ok(name) => Scope::Interface(name),
                Err(_) => continue,
            };
            files.insert(SettingId { key, scope });
        }
    }
    read_all(files.iter())
}

/// Reads these files; those that are not there are left out.
///
/// # Errors
/// What the kernel says, other than that a file is not there.
pub fn read_all<'a>(files: impl Iterator<Item = &'a SettingId>) -> io::Result<Observed> {
    let mut observed = Observed::new();
    for file in files {
        match std::fs::read_to_string(format!("{ROOT}/{file}")) {
            Ok(text) => {
                let value = text.trim().parse().map_err(|_| {
                    io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("{file} holds `{}`, not a number", text.trim()),
                    )
                })?;
                observed.insert(file.clone(), value);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(observed)
}

/// Writes one setting. A file that is gone went with its interface.
///
/// # Errors
/// What the kernel says.
pub fn write(change: &Change) -> io::Result<()> {
    match std::fs::write(format!("{ROOT}/{}", change.id), change.to.to_string()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result
            .map_err(|error| io::Error::new(error.kind(), format!("cannot write {}: {error}", change.id))),
    }
}

/// Has a device a link-local IPv6 address? Nothing where the kernel has no IPv6.
#[must_use]
pub fn has_link_local(device: &str) -> Option<bool> {
    let addresses = std::fs::read_to_string("/proc/thread-self/net/if_inet6").ok()?;
    // Address, index, length, scope, flags and device (`if6_seq_show` in the kernel)
    Some(
        addresses
            .lines()
            .any(|line| line.starts_with("fe80") && line.split_whitespace().last() == Some(device)),
    )
}

/// Has the kernel make a device's link-local address again, in the way that it is set to: it does when it is told which.
///
/// # Errors
/// What the kernel says.
pub fn make_link_local(device: &str) -> io::Result<()> {
    const NONE: &str = "1";
    let file = format!("{ROOT}/net/ipv6/conf/{device}/addr_gen_mode");
    let way = std::fs::read_to_string(&file)?;
    std::fs::write(&file, NONE)?;
    std::fs::write(&file, way)
}
