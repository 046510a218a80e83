//! Work done inside a network namespace: a thread enters it and ends there, so no other thread ever moves.

use std::{fs::File, io, os::unix::fs::MetadataExt, path::PathBuf, thread};

use nix::sched::{CloneFlags, setns};

use super::error::LabError;

/// Where iproute2 keeps named namespaces.
const NETNS_DIR: &str = "/run/netns";

/// The file that stands for `namespace`.
pub(super) fn path(namespace: &str) -> PathBuf {
    PathBuf::from(NETNS_DIR).join(namespace)
}

/// Starts a thread that does `work` inside `namespace`.
pub(super) fn spawn<T: Send + 'static>(
    namespace: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<thread::JoinHandle<io::Result<T>>, LabError> {
    let failed = |error| LabError::Namespace { namespace: namespace.into(), error };
    let file = File::open(path(namespace)).map_err(failed)?;
    thread::Builder::new()
        .name(namespace.into())
        .spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        })
        .map_err(failed)
}

/// Does `work` inside `namespace` and waits for it.
pub(super) fn run<T: Send + 'static>(
    namespace: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, LabError> {
    let failed = |error| LabError::Namespace { namespace: namespace.into(), error };
    match spawn(namespace, work)?.join() {
        Ok(result) => result.map_err(failed),
        Err(_) => Err(failed(io::Error::other("the work panicked"))),
    }
}

/// The processes whose main thread is inside `namespace`.
pub(super) fn processes(namespace: &str) -> Vec<i32> {
    let Ok(wanted) = std::fs::metadata(path(namespace)) else { return vec![] };
    let Ok(entries) = std::fs::read_dir("/proc") else { return vec![] };
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let there = std::fs::metadata(entry.path().join("ns/net")).ok()?;
            (there.dev() == wanted.dev() && there.ino() == wanted.ino()).then_some(pid)
        })
        .collect()
}
