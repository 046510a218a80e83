//! What can go wrong with a lab, each with the values that tell where.

use std::{io, path::PathBuf};

/// Why a lab could not be run.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// Neither a folder with a `topology.toml` nor the name of a story below `labs/`.
    #[error("no lab story `{0}`: expected a folder with a topology.toml, or one of {known}", known = super::story::names().collect::<Vec<_>>().join(", "))]
    NoStory(String),
    /// No running lab has this id, and none was started from this folder.
    #[error("no running lab `{0}`; `eastgate lab list` shows those that run")]
    NotRunning(String),
    /// Several labs were started from the same folder.
    #[error("`{story}` runs more than once ({}); name one of them by its id", ids.join(", "))]
    Ambiguous {
        /// The folder or name that was given
        story: String,
        /// The labs that it could mean
        ids: Vec<String>,
    },
    /// The lab has no such node.
    #[error("the lab has no node `{node}`; its nodes are {}", nodes.join(", "))]
    NoNode {
        /// The name that was given
        node: String,
        /// The names there are
        nodes: Vec<String>,
    },
    /// A file could not be read, written or removed.
    #[error("{}: {error}", path.display())]
    File {
        /// The file
        path: PathBuf,
        /// What the system said
        error: io::Error,
    },
    /// A file is not TOML, or not what a lab expects; the message carries line and column.
    #[error("{}: {message}", path.display())]
    Toml {
        /// The file
        path: PathBuf,
        /// What is wrong and where
        message: String,
    },
    /// The topology contradicts itself or the configuration.
    #[error("{}: {what}", path.display())]
    Topology {
        /// The topology
        path: PathBuf,
        /// What is wrong
        what: String,
    },
    /// A command that builds the lab failed.
    #[error("`{command}` failed: {output}")]
    Command {
        /// The command, as a user would type it
        command: String,
        /// What it wrote to its standard error
        output: String,
    },
    /// There is no `eastgate` to run on hosts.
    #[error("there is no {}: hosts of a lab run `eastgate`; install it beside `eastgate-lab` or in PATH, or name it with --eastgate", .0.display())]
    NoEastgate(PathBuf),
    /// There is no `lldpad` to run on hypervisors.
    #[error("there is no {0}, which hypervisors of this lab run: apt install lldpad")]
    NoLldpad(&'static str),
    /// A daemon did not become ready.
    #[error("eastgate on host `{host}` did not become ready within {seconds} s; its log ends:\n{log}")]
    NotReady {
        /// The host
        host: String,
        /// The bound
        seconds: u64,
        /// The last lines of its log
        log: String,
    },
    /// A daemon ended by itself.
    #[error("eastgate on host `{host}` ended with {status}; its log ends:\n{log}")]
    Ended {
        /// The host
        host: String,
        /// How it ended
        status: String,
        /// The last lines of its log
        log: String,
    },
    /// A namespace, a device or a command did not do what it should.
    #[error(transparent)]
    Machine(#[from] eastgate_testkit::Error),
    /// A machine could not send a packet, or not open a server.
    #[error("{from}: {error}")]
    Packet {
        /// The machine
        from: String,
        /// What the system said
        error: io::Error,
    },
    /// Nothing was said to be run.
    #[error("there is no command to run")]
    NoCommand,
    /// Two checks of one lab at once would count each other's drops.
    #[error("lab {0} is being checked by someone else")]
    Busy(String),
    /// A signal asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// Network namespaces need privileges.
    #[error("labs are made of network namespaces, which are root's: try again as root (sudo)")]
    NeedsRoot,
}

impl LabError {
    pub(super) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |error| Self::File { path, error }
    }
}
