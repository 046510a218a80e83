//! How the machine is, for `eastgate doctor`: read, and never written.
//!
//! What cannot be read is a reason in words, so that whoever judges can tell "fine" from "not looked at".

pub mod clock;
pub mod devices;
pub mod ethtool;
pub mod firewall;
pub mod hooks;
pub mod process;
pub mod sockets;
pub mod sysctl_files;
pub mod system;

/// What was looked at, or why it could not be.
pub type Look<T> = Result<T, String>;

/// What a file of the kernel's says, without blanks around it; nothing where there is no such file.
///
/// # Errors
/// When it is there and cannot be read.
fn read(path: &str) -> Look<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{path}: {error}")),
    }
}
