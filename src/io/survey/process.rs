//! What can be seen of a process: its capabilities, its limits, its namespace. Never its arguments or environment.

use std::{
    collections::BTreeSet,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixStream},
    },
    path::{Path, PathBuf},
};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use super::{Look, read};
use crate::io::lock;

/// A capability by its number in linux/capability.h, and its name.
pub type Capability = (u32, &'static str);

/// What eastgate needs to carry frames at all.
pub const TO_RUN: [Capability; 2] = [(13, "CAP_NET_RAW"), (12, "CAP_NET_ADMIN")];

/// What the fast path needs besides.
pub const FOR_THE_FAST_PATH: [Capability; 2] = [(39, "CAP_BPF"), (38, "CAP_PERFMON")];

/// `CAP_SYS_ADMIN`, which stands for those of the fast path.
const SYS_ADMIN: u32 = 21;

/// The capabilities that a process has in effect, as bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Capabilities(pub u64);

impl Capabilities {
    /// Those of `wanted` that it lacks.
    #[must_use]
    pub fn lacks(self, wanted: &[Capability]) -> Vec<&'static str> {
        let has = |number: u32| {
            let by_itself = self.0 & (1 << number) != 0;
            let is_of_fast_path = FOR_THE_FAST_PATH.iter().any(|(other, _)| *other == number);
            by_itself || is_of_fast_path && self.0 & (1 << SYS_ADMIN) != 0
        };
        wanted.iter().filter(|(number, _)| !has(*number)).map(|(_, name)| *name).collect()
    }
}

/// Of a process, or of this one where none is given.
///
/// # Errors
/// When it is gone or hidden.
pub fn capabilities(pid: Option<u32>) -> Look<Capabilities> {
    let pid = name(pid);
    let text = read(&format!("/proc/{pid}/status"))?.ok_or_else(|| format!("process {pid} is not seen"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    bits.map(Capabilities).ok_or_else(|| format!("/proc/{pid}/status does not say what it may do"))
}

/// How many files a process may have open at the most.
///
/// # Errors
/// When it is gone or hidden.
pub fn open_files(pid: u32) -> Look<u64> {
    let text = read(&format!("/proc/{pid}/limits"))?.ok_or_else(|| format!("process {pid} is not seen"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"));
    match line.and_then(|line| line.split_whitespace().nth(1)) {
        Some("unlimited") => Ok(u64::MAX),
        Some(hard) => hard.parse().map_err(|_| format!("/proc/{pid}/limits says {hard}")),
        None => Err(format!("/proc/{pid}/limits does not say how many files it may open")),
    }
}

/// The process that listens on a Unix socket, where it has a number here.
#[must_use]
pub fn listener(socket: &Path) -> Option<u32> {
    pid_of(&SocketAddr::from_pathname(socket).ok()?)
}

/// The eastgate of this network namespace, whatever its socket is.
#[must_use]
pub fn namespace_holder() -> Option<u32> {
    pid_of(&SocketAddr::from_abstract_name(lock::NAME).ok()?)
}

fn pid_of(address: &SocketAddr) -> Option<u32> {
    let peer = UnixStream::connect_addr(address).ok()?;
    let peer = getsockopt(&peer, PeerCredentials).ok()?;
    u32::try_from(peer.pid()).ok().filter(|pid| *pid > 0)
}

/// Whether a process is in the network namespace of this one.
///
/// # Errors
/// When that may not be seen.
pub fn shares_namespace(pid: u32) -> Look<bool> {
    let namespace = |of: &str| {
        std::fs::read_link(format!("/proc/{of}/ns/net"))
            .map_err(|error| format!("/proc/{of}/ns/net: {error}"))
    };
    Ok(namespace(&pid.to_string())? == namespace("self")?)
}

/// A path as a process means it.
#[must_use]
pub fn path_of(pid: u32, path: &Path) -> PathBuf {
    if path.is_absolute() {
        return path.to_owned();
    }
    // Its link may be read by whoever may trace it; otherwise this process's own folder is as good as any.
    std::fs::read_link(format!("/proc/{pid}/cwd"))
        .map_or_else(|_| path.to_owned(), |folder| folder.join(path))
}

/// The numbers of the sockets that a process has.
///
/// # Errors
/// When it may not be seen.
pub fn sockets(pid: u32) -> Look<BTreeSet<u64>> {
    let folder = format!("/proc/{pid}/fd");
    let files = std::fs::read_dir(&folder).map_err(|error| format!("{folder}: {error}"))?;
    Ok(files
        .flatten()
        .filter_map(|file| {
            let target = std::fs::read_link(file.path()).ok()?;
            target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
        })
        .collect())
}

/// What a process is called; not what it was told.
#[must_use]
pub fn program(pid: u32) -> Option<String> {
    read(&format!("/proc/{pid}/comm")).ok().flatten()
}

fn name(pid: Option<u32>) -> String {
    pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_sees_itself() {
        let pid = std::process::id();
        assert_eq!(capabilities(None), capabilities(Some(pid)));
        assert_eq!(open_files(pid).unwrap(), super::super::system::open_files().unwrap());
        assert_eq!(shares_namespace(pid), Ok(true));
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(!sockets(pid).unwrap().is_empty());
        drop(socket);
        assert!(program(pid).is_some_and(|name| !name.is_empty()));
        assert!(capabilities(Some(u32::MAX)).is_err());
    }

    #[test]
    fn root_lacks_nothing_and_nobody_all() {
        assert_eq!(Capabilities(u64::MAX).lacks(&TO_RUN), Vec::<&str>::new());
        assert_eq!(Capabilities(0).lacks(&TO_RUN), ["CAP_NET_RAW", "CAP_NET_ADMIN"]);
        assert_eq!(Capabilities(1 << SYS_ADMIN).lacks(&FOR_THE_FAST_PATH), Vec::<&str>::new());
        assert_eq!(Capabilities(1 << 39).lacks(&FOR_THE_FAST_PATH), ["CAP_PERFMON"]);
    }
}
