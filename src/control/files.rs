//! Files that are read again when they are others, and that nobody else may read.

use std::{
    fs::File,
    io::Read as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use anyhow::{Context as _, Result, bail};

/// The most bytes of a file that is read.
const LARGEST: u64 = 1 << 20;

/// What a file is told from another one in its place by: device, inode, size, when it was written and when it was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stamp(u64, u64, u64, [i64; 4]);

impl Stamp {
    /// That of the file at `path` now.
    pub(super) fn of(path: &Path) -> std::io::Result<Self> {
        std::fs::metadata(path).map(|file| Self::about(&file))
    }

    fn about(file: &std::fs::Metadata) -> Self {
        let times = [file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec()];
        Self(file.dev(), file.ino(), file.size(), times)
    }
}

/// What a file has in it.
///
/// # Errors
/// When it cannot be read, or has too much in it.
pub(super) fn read(path: &Path) -> Result<(Stamp, Vec<u8>)> {
    open(path, false)
}

/// The same of one that is secret.
///
/// # Errors
/// When everybody may read it, too.
pub(super) fn read_private(path: &Path) -> Result<(Stamp, Vec<u8>)> {
    open(path, true)
}

fn open(path: &Path, is_private: bool) -> Result<(Stamp, Vec<u8>)> {
    let shown = path.display();
    let file = File::open(path).with_context(|| format!("{shown} cannot be read"))?;
    let about = file.metadata().with_context(|| format!("{shown} cannot be read"))?;
    let mode = about.permissions().mode();
    if is_private && mode & 0o007 != 0 {
        bail!(
            "{shown} may be read or written by everybody (mode {:04o}): chmod 0640 {shown}, or less",
            mode & 0o7777
        );
    }
    if about.size() > LARGEST {
        bail!("{shown} has {} bytes: more than {LARGEST} are not read", about.size());
    }
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes).with_context(|| format!("{shown} cannot be read"))?;
    Ok((Stamp::about(&about), bytes))
}
