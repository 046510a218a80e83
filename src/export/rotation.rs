//! A file of lines that does not grow for ever: when it is full it gets a number, and those before it the next one.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Names of tenants and addresses are not for everybody.
const MODE: u32 = 0o640;

/// The file, and those before it: `NAME.1` is the newest of them.
#[derive(Debug)]
pub struct Rotating {
    path: PathBuf,
    /// How large one may become
    most: u64,
    /// How many of them there may be beside the one that is written
    keep: u32,
    file: File,
    len: u64,
}

impl Rotating {
    /// Goes on with the file that is there.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path, most: u64, keep: u32) -> io::Result<Self> {
        let (file, len) = append_to(path)?;
        // Where a link leads to: that is renamed, and not the link.
        Ok(Self { path: fs::canonicalize(path)?, most, keep, file, len })
    }

    /// Writes whole lines, in a new file where this one would become too large.
    ///
    /// # Errors
    /// When they cannot be written: then no part of a line stays.
    pub fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        // Whoever else rotates it has given it another name, or emptied it.
        let ours = self.file.metadata()?;
        self.len = ours.len();
        if !fs::metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == (ours.dev(), ours.ino())) {
            (self.file, self.len) = append_to(&self.path)?;
        }
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            if self.len > 0 && self.len + line.len() as u64 > self.most {
                self.rotate()?;
            }
            if let Err(error) = self.file.write_all(line) {
                let _ = self.file.set_len(self.len);
                return Err(error);
            }
            self.len += line.len() as u64;
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        make_way(&self.path, self.keep)?;
        (self.file, self.len) = append_to(&self.path)?;
        Ok(())
    }
}

/// Makes way for a new file of this name: the old one gets the number 1, that with this number the next one, and so on; of more than `keep` the
/// oldest goes.
///
/// # Errors
/// When one cannot be renamed.
pub fn make_way(path: &Path, keep: u32) -> io::Result<()> {
    let numbered = |number: u32| {
        let mut name = path.to_owned().into_os_string();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    if keep == 0
        && let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    for number in (0..keep).rev() {
        let from = if number == 0 { path.to_owned() } else { numbered(number) };
        match fs::rename(from, numbered(number + 1)) {
            // Whoever else has moved or removed one
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result?,
        }
    }
    Ok(())
}

fn append_to(path: &Path) -> io::Result<(File, u64)> {
    let mut file = OpenOptions::new().create(true).read(true).append(true).mode(MODE).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is no regular file, which could be renamed",
        ));
    }
    let mut last = [b'\n'];
    if let Some(at) = metadata.len().checked_sub(1) {
        file.read_exact_at(&mut last, at)?;
    }
    if last != *b"\n" {
        // What was torn by a loss of power is not to spoil the next line.
        file.write_all(b"\n")?;
    }
    let len = file.metadata()?.len();
    Ok((file, len))
}
