//! The kernel, its memory and its limits.

use std::path::PathBuf;

use nix::sys::{
    resource::{Resource, getrlimit},
    utsname::uname,
};

use super::{Look, read};

/// What the kernel is called and can do.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Kernel {
    /// Such as `6.1.0-18-amd64`
    pub release: String,
    /// What it is built for
    pub machine: String,
    /// It describes its types.
    pub has_btf: bool,
    /// Programs can stand in tcx lists.
    pub has_tcx: Look<bool>,
    /// The mode of lockdown; nothing where there is none
    pub lockdown: Option<String>,
}

impl Kernel {
    /// The kernel that runs.
    #[must_use]
    pub fn of_this_machine() -> Self {
        let name = uname().ok();
        let text = |part: Option<&std::ffi::OsStr>| {
            part.map_or_else(String::new, |part| part.to_string_lossy().into())
        };
        let lockdown = read("/sys/kernel/security/lockdown").ok().flatten().and_then(|modes| {
            let chosen = modes.split_once('[')?.1.split_once(']')?.0;
            (chosen != "none").then(|| chosen.to_owned())
        });
        Self {
            release: text(name.as_ref().map(nix::sys::utsname::UtsName::release)),
            machine: text(name.as_ref().map(nix::sys::utsname::UtsName::machine)),
            has_btf: std::path::Path::new("/sys/kernel/btf/vmlinux").exists(),
            has_tcx: has_tcx(),
            lockdown,
        }
    }

    /// Its first two numbers.
    #[must_use]
    pub fn version(&self) -> Option<(u32, u32)> {
        let mut numbers = self.release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    }
}

/// `eastgate_fastpath::tcx::is_available` says no to who may not ask.
fn has_tcx() -> Look<bool> {
    const LOOPBACK: u32 = 1;
    match eastgate_fastpath::tcx::query(LOOPBACK, eastgate_fastpath::tcx::Way::Ingress) {
        Ok(_) => Ok(true),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENODEV) => Ok(true),
            Some(libc::EPERM | libc::EACCES) => Err("asking for programs takes CAP_NET_ADMIN".into()),
            _ => Ok(false),
        },
    }
}

/// Memory of the machine, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Memory {
    /// All
    pub total: u64,
    /// What can be had without swapping
    pub available: u64,
}

/// The machine's memory.
///
/// # Errors
/// When procfs does not tell.
pub fn memory() -> Look<Memory> {
    let text = read("/proc/meminfo")?.unwrap_or_default();
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
    };
    match (bytes("MemTotal"), bytes("MemAvailable")) {
        (Some(total), Some(available)) => Ok(Memory { total, available }),
        _ => Err("/proc/meminfo does not say how much memory there is".into()),
    }
}

/// How many files this process may have open at the most.
///
/// # Errors
/// When the kernel does not tell.
pub fn open_files() -> Look<u64> {
    getrlimit(Resource::RLIMIT_NOFILE).map(|(_, hard)| hard).map_err(|error| format!("getrlimit: {error}"))
}

/// Where a bpffs is mounted.
///
/// # Errors
/// When procfs does not tell.
pub fn bpf_mounts() -> Look<Vec<PathBuf>> {
    let text = read("/proc/self/mounts")?.unwrap_or_default();
    let fields = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    Ok(fields
        .filter_map(|fields| match fields[..] {
            [_, at, "bpf", ..] => Some(PathBuf::from(at)),
            _ => None,
        })
        .collect())
}

/// Connections that the host's own connection tracking has, and may have; nothing where it has none.
#[must_use]
pub fn tracked() -> Option<(u64, u64)> {
    let number = |name| read(&format!("/proc/sys/net/netfilter/{name}")).ok()??.parse().ok();
    Some((number("nf_conntrack_count")?, number("nf_conntrack_max")?))
}

/// Whether iptables are asked about frames on bridges; nothing where bridges ask nobody.
#[must_use]
pub fn bridges_ask_iptables() -> Option<bool> {
    let on = |name| {
        let value = read(&format!("/proc/sys/net/bridge/bridge-nf-call-{name}")).ok()??;
        Some(value != "0")
    };
    match (on("iptables"), on("ip6tables")) {
        (None, None) => None,
        (a, b) => Some(a.unwrap_or(false) || b.unwrap_or(false)),
    }
}

/// A setting below `/proc/sys`, where it is a number.
#[must_use]
pub fn setting(file: &str) -> Option<i64> {
    read(&format!("/proc/sys/{file}")).ok()??.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_kernel_and_memory() {
        let kernel = Kernel::of_this_machine();
        assert!(kernel.version().is_some_and(|version| version > (4, 0)), "{kernel:?}");
        let memory = memory().unwrap();
        assert!(memory.available <= memory.total && memory.total > 1 << 24, "{memory:?}");
        assert!(open_files().unwrap() > 0);
    }

    #[test]
    fn versions_are_read_from_releases_of_any_distribution() {
        let version = |release: &str| {
            let kernel = Kernel::of_this_machine();
            Kernel { release: release.to_owned(), ..kernel }.version()
        };
        assert_eq!(version("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(version("5.14.0-427.el9.x86_64"), Some((5, 14)));
        assert_eq!(version("odd"), None);
    }
}
