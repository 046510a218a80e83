//! What can go wrong, each with the values that tell where.

use std::{io, path::PathBuf, process::ExitStatus, time::Duration};

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A command failed.
    #[error("`{command}` failed: {failure}")]
    Command {
        /// The command, as a person would type it
        command: String,
        /// How it failed
        failure: Failure,
    },
    /// A network namespace could not be entered, or what was done inside it failed.
    #[error("network namespace {name}: {error}")]
    Namespace {
        /// Its name
        name: String,
        /// What the system said
        error: io::Error,
    },
    /// A file or a kernel setting could not be read, written or removed.
    #[error("{}: {error}", path.display())]
    File {
        /// The file
        path: PathBuf,
        /// What the system said
        error: io::Error,
    },
    /// A device is not there, does not carry Ethernet frames, or did not take one.
    #[error("device {device}: {error}")]
    Device {
        /// Its name
        device: String,
        /// What the system said
        error: io::Error,
    },
    /// Namespaces are made by root alone.
    #[error("network namespaces need root: run this as root, or through `sudo -E env PATH=\"$PATH\"`")]
    NeedsRoot,
}

/// How a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It could not be started.
    #[error("{0}")]
    Start(io::Error),
    /// It ended, and not well.
    #[error("{status}: {}", said.trim())]
    Status {
        /// How it ended
        status: ExitStatus,
        /// What it wrote to its standard error
        said: String,
    },
    /// It did not end in time, and was killed.
    #[error("no end after {} ms", .0.as_millis())]
    Late(Duration),
}

impl Error {
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |error| Self::File { path, error }
    }

    pub(crate) fn device(device: &str) -> impl Fn(io::Error) -> Self + use<> {
        let device = device.to_owned();
        move |error| Self::Device { device: device.clone(), error }
    }

    pub(crate) fn namespace(name: &str) -> impl FnOnce(io::Error) -> Self + use<> {
        let name = name.to_owned();
        move |error| Self::Namespace { name, error }
    }
}
