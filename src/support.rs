//! What `eastgate support` packs, without what nobody else needs to see.
//!
//! Comments and descriptions of a configuration may say anything, and are never packed. With `--redact` names, addresses and MACs
//! become pseudonyms, the same throughout an archive, so that it can still be read as a whole.

mod comments;
mod redact;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};

pub use self::{
    comments::{without_snippets, without_words},
    redact::Pseudonyms,
};

/// More of one file is cut off, in bytes.
const LARGEST: usize = 16 << 20;

/// Why there is no archive.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Something has that name.
    #[error("{} is there already, and is not overwritten: name another file, --file FILE.tar.gz", .0.display())]
    Exists(PathBuf),
    /// It could not be written.
    #[error("cannot write {}: {source}", .path.display())]
    Write {
        /// The file
        path: PathBuf,
        /// Why
        #[source]
        source: io::Error,
    },
}

/// Files of an archive, in one folder.
#[derive(Debug)]
pub struct Archive {
    folder: String,
    unix_s: u64,
    files: Vec<(String, Vec<u8>)>,
}

impl Archive {
    /// An empty one, whose folder has this name and whose files are of this time.
    #[must_use]
    pub const fn new(folder: String, unix_s: u64) -> Self {
        Self { folder, unix_s, files: Vec::new() }
    }

    /// Adds a file. Of a large one the beginning is packed, and that it was cut.
    pub fn add(&mut self, name: impl Into<String>, text: impl Into<Vec<u8>>) {
        let mut bytes = text.into();
        if bytes.len() > LARGEST {
            bytes.truncate(LARGEST);
            bytes.extend_from_slice(b"\n[cut off here: it is longer]\n");
        }
        self.files.push((name.into(), bytes));
    }

    /// What is packed, with its size in bytes.
    pub fn contents(&self) -> impl Iterator<Item = (&str, usize)> {
        self.files.iter().map(|(name, bytes)| (name.as_str(), bytes.len()))
    }

    /// Writes it to a file that is made for it, which its owner alone may read. What is there already, a link above all, is
    /// left alone.
    ///
    /// # Errors
    /// When there is such a file, or it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), ArchiveError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AlreadyExists => ArchiveError::Exists(path.to_owned()),
            _ => ArchiveError::Write { path: path.to_owned(), source },
        };
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let file = options.open(path).map_err(failed)?;
        let written = self.write_to(&file);
        if written.is_err() {
            // It was made here, and half of it helps nobody.
            let _ = fs::remove_file(path);
        }
        written.map_err(|source| ArchiveError::Write { path: path.to_owned(), source })
    }

    fn write_to(&self, file: &File) -> io::Result<()> {
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
        for (name, bytes) in &self.files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o600);
            header.set_mtime(self.unix_s);
            archive.append_data(&mut header, format!("{}/{name}", self.folder), &**bytes)?;
        }
        let mut file = archive.into_inner()?.finish()?;
        file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_overwritten_and_no_link_followed() {
        let folder = std::env::temp_dir().join(format!("eastgate-archive-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let mut archive = Archive::new("it".into(), 1_800_000_000);
        archive.add("a.txt", "text");
        let (path, link, target) = (folder.join("a.tar.gz"), folder.join("link"), folder.join("target"));
        archive.write(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(archive.write(&path), Err(ArchiveError::Exists(_))));
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(matches!(archive.write(&link), Err(ArchiveError::Exists(_))));
        assert!(!target.exists());
        assert!(archive.write(&folder.join("no/such/folder")).is_err());
        fs::remove_dir_all(folder).unwrap();
    }
}
