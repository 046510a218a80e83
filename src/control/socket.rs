//! The file of the control socket: made, found out about, removed, and never taken for another one.

use std::{
    fs,
    io::{Error, ErrorKind},
    os::unix::{
        fs::{FileTypeExt, MetadataExt},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use nix::sys::stat::{Mode, umask};

use super::client::Presence;

/// The file of a socket that was made here, and is told from any other that takes its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    id: Option<Identity>,
}

/// What has become of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SocketState {
    /// It is there.
    There,
    /// There is nothing in its place.
    Gone,
    /// There is something else in its place.
    Replaced,
}

impl SocketFile {
    fn of(path: &Path) -> Self {
        Self { path: path.to_owned(), id: identity(path).ok() }
    }

    /// What has become of it.
    #[must_use]
    pub fn state(&self) -> SocketState {
        match identity(&self.path) {
            Ok(id) if Some(id) == self.id => SocketState::There,
            Err(error) if error.kind() == ErrorKind::NotFound => SocketState::Gone,
            _ => SocketState::Replaced,
        }
    }

    /// Removes it, and nothing else that stands in its place.
    pub fn remove(&self) {
        if self.state() == SocketState::There {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Device, inode, and when it was made: the number of an inode is soon another file's.
type Identity = (u64, u64, i64, i64);

fn identity(path: &Path) -> std::io::Result<Identity> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino(), file.mtime(), file.mtime_nsec()))
}

/// Listens at `path`, which only the daemon's user may open. A socket that nobody listens on is replaced; any other file is
/// left as it is.
///
/// # Errors
/// When another daemon listens there, something else is there, or the kernel refuses.
pub fn listen(path: &Path) -> std::io::Result<(UnixListener, SocketFile)> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    match Presence::of(path)? {
        Presence::Nothing => {}
        Presence::Dead => fs::remove_file(path)?,
        Presence::Alive => {
            let text =
                format!("another eastgate listens at {}; give this one its own --socket", path.display());
            return Err(Error::new(ErrorKind::AddrInUse, text));
        }
        Presence::Other => {
            let text = format!(
                "{} is there and is no socket; it is left as it is: give another --socket",
                path.display()
            );
            return Err(Error::new(ErrorKind::AlreadyExists, text));
        }
    }
    // From its first moment on nobody else may open it.
    let before = umask(Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    umask(before);
    Ok((listener?, SocketFile::of(path)))
}

/// Whether a file is a socket.
pub(super) fn is_socket(path: &Path) -> std::io::Result<bool> {
    fs::symlink_metadata(path).map(|file| file.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("eastgate-control-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn only_a_dead_socket_is_replaced() {
        let folder = folder("file");
        let path = folder.join("sock");
        fs::write(&path, "precious").unwrap();
        assert_eq!(listen(&path).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(folder.join("nowhere"), &path).unwrap();
        assert!(listen(&path).is_err());
        fs::remove_file(&path).unwrap();

        let (listener, file) = listen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(listen(&path).unwrap_err().kind(), ErrorKind::AddrInUse);
        drop(listener);
        let (_listener, again) = listen(&path).unwrap();
        file.remove();
        assert_eq!((file.state(), again.state()), (SocketState::Replaced, SocketState::There));
        again.remove();
        assert_eq!(again.state(), SocketState::Gone);
        fs::remove_dir_all(folder).unwrap();
    }
}
