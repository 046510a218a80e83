//! Tables by their place in a file system (bpffs): whoever may go there finds them, and needs no more privileges than to
//! write into them. By its number alone a table is found only with `CAP_SYS_ADMIN`.

use std::{fs, io, os::unix::fs::DirBuilderExt, path::Path};

use libbpf_rs::{MapCore, MapHandle};

use crate::{Error, Fastpath, TableIds};

impl Fastpath {
    /// Pins the tables that outlive a daemon in a folder that is made for them, on a bpffs. Nobody but this user finds
    /// them there.
    ///
    /// # Errors
    /// [`Error::Pin`].
    pub fn pin(&self, folder: &Path) -> Result<(), Error> {
        fs::DirBuilder::new().mode(0o700).create(folder).map_err(|source| Error::Pin(source.into()))?;
        let kept = kept();
        for map in self.loaded.tables.maps().filter(|map| kept.iter().any(|name| map.name() == *name)) {
            let mut handle = MapHandle::try_from(&map).map_err(Error::Pin)?;
            handle.pin(folder.join(map.name())).map_err(Error::Pin)?;
        }
        Ok(())
    }
}

/// Is all there that [`Fastpath::pin`] has made?
#[must_use]
pub fn is_pinned(folder: &Path) -> bool {
    kept().iter().all(|table| folder.join(table).exists())
}

/// Takes away what [`Fastpath::pin`] has made, or what is left of it. The tables live on while programs use them.
///
/// # Errors
/// What the file system says.
pub fn unpin(folder: &Path) -> io::Result<()> {
    for table in kept() {
        absent_or(fs::remove_file(folder.join(table)))?;
    }
    absent_or(fs::remove_dir(folder))
}

fn kept() -> [&'static str; 8] {
    TableIds::default().named().map(|(name, _)| name)
}

fn absent_or(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The table that is pinned there.
pub(crate) fn pinned(folder: &Path, table: &str) -> Result<MapHandle, libbpf_rs::Error> {
    MapHandle::from_pinned_path(folder.join(table))
}
