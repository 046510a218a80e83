//! One daemon a network namespace.
//!
//! What eastgate attaches to devices, its own devices and its settings are there once in a namespace, so two daemons
//! would take them from each other. The lock is a socket with an abstract name, which the kernel keeps for each network
//! namespace, and takes back when the process ends, however it ends.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

/// The abstract name of the socket.
pub(super) const NAME: &str = "eastgate";

/// Why the namespace is not this process's.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error(
        "another eastgate runs in this network namespace: {0}; there is one in each, so stop that one first"
    )]
    Held(String),
    /// The kernel refused.
    #[error("cannot lock the network namespace: {0}")]
    Refused(#[from] io::Error),
}

/// Held until it is dropped.
#[derive(Debug)]
pub struct NamespaceLock {
    _socket: UnixListener,
}

impl NamespaceLock {
    /// Takes the lock of the namespace that this thread is in.
    ///
    /// # Errors
    /// When another process holds it.
    pub fn take() -> Result<Self, LockError> {
        let name = SocketAddr::from_abstract_name(NAME)?;
        match UnixListener::bind_addr(&name) {
            Ok(socket) => Ok(Self { _socket: socket }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(LockError::Held(holder(&name))),
            Err(error) => Err(error.into()),
        }
    }
}

/// Who holds the lock, as far as it can be seen from here.
fn holder(name: &SocketAddr) -> String {
    let peer = UnixStream::connect_addr(name).ok().and_then(|peer| getsockopt(&peer, PeerCredentials).ok());
    match peer {
        // Processes of other PID namespaces have no number here.
        Some(peer) if peer.pid() > 0 => {
            let program = std::fs::read_to_string(format!("/proc/{}/comm", peer.pid())).unwrap_or_default();
            let program = Some(program.trim()).filter(|program| !program.is_empty());
            format!("process {} ({}, user {})", peer.pid(), program.unwrap_or("unknown"), peer.uid())
        }
        Some(peer) => format!("a process of another PID namespace, of user {}", peer.uid()),
        None => "it does not say which process it is".into(),
    }
}
