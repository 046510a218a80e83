//! Work done inside a network namespace: a thread enters it and ends there, so no other thread ever moves.

use std::{
    fs::File,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
};

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

/// What tells a namespace from others, whatever it is called.
pub(super) fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}
