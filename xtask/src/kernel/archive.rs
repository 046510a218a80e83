//! An initramfs: files in the `newc` format of cpio (the kernel's Documentation/driver-api/early-userspace/
//! buffer-format.rst), each owned by root whoever writes it.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
/// The name that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// An archive that is being written.
#[derive(Debug)]
pub(super) struct Archive<W> {
    out: W,
    entries: u32,
    folders: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    /// An empty one.
    pub(super) fn new(out: W) -> Self {
        Self { out, entries: 0, folders: BTreeSet::new() }
    }

    /// Adds a folder, with those it is in.
    pub(super) fn folder(&mut self, path: &Path) -> io::Result<()> {
        // The kernel creates what it reads, in that order: a file before its folder would be lost.
        let mut names: Vec<String> = path.ancestors().map(name).collect();
        names.reverse();
        for name in names {
            if !name.is_empty() && !self.folders.contains(&name) {
                self.entry(&name, FOLDER, &[])?;
                self.folders.insert(name);
            }
        }
        Ok(())
    }

    /// Adds a file that everyone may read and run, with the folders it is in.
    pub(super) fn file(&mut self, path: &Path, content: &[u8]) -> io::Result<()> {
        if let Some(parent) = path.parent() {
            self.folder(parent)?;
        }
        self.entry(&name(path), PROGRAM, content)
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.entry(TRAILER, 0, &[])?;
        self.out.flush()
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        let size = u32::try_from(content.len()).map_err(io::Error::other)?;
        let name_size = u32::try_from(name.len() + 1).map_err(io::Error::other)?;
        self.entries += 1;
        // In this order: inode, mode, owner, group, links, time, size, two device numbers, two more, name's size,
        // checksum. Equal inodes would be hard links.
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        let header = fields.iter().fold("070701".to_owned(), |text, field| text + &format!("{field:08X}"));
        self.padded(&[header.as_bytes(), name.as_bytes(), &[0]].concat())?;
        self.padded(content)
    }

    /// Every part begins at a multiple of four bytes.
    fn padded(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        let short = bytes.len().next_multiple_of(4) - bytes.len();
        self.out.write_all(&vec![0; short])
    }
}

/// Names in an archive have no leading slash.
fn name(path: &Path) -> String {
    path.to_string_lossy().trim_start_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_as_the_format_says() {
        let mut out = Vec::new();
        let mut archive = Archive::new(&mut out);
        archive.file(Path::new("/a/b"), b"hello").unwrap();
        archive.folder(Path::new("a")).unwrap();
        archive.finish().unwrap();
        let header = |inode: &str, mode: &str, size: &str, name: &str| {
            format!(
                "070701000000{inode}0000{mode}00000000000000000000000100000000000000{size}\
                 00000000000000000000000000000000000000{name}00000000"
            )
        };
        let expected = [
            &header("01", "41ED", "00", "02"),
            "a\0",
            &header("02", "81ED", "05", "04"),
            "a/b\0\0\0",
            "hello\0\0\0",
            &header("03", "0000", "00", "0B"),
            "TRAILER!!!\0\0\0\0",
        ]
        .concat();
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
