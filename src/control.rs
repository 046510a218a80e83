//! The HTTP API: what the daemon is asked and answers, in JSON over HTTP/1.1. What can be asked is said by one table
//! ([`eastgate_api::ROUTES`]).
//!
//! It is served at the control socket, whose owner (mode 0600, the daemon's user) may do everything, and where it is told to over TLS
//! ([`network`]), to whoever has a token. Either has threads, queues and bounds of its own, so that no client of the network keeps the
//! owner waiting: one thread that speaks HTTP, and two on which queries are answered. The daemon's loop takes part only in what changes
//! something.

mod answer;
mod body;
mod certificate;
pub mod client;
mod door;
mod files;
mod follow;
mod limits;
pub mod network;
mod places;
mod queries;
pub mod server;
mod service;
pub mod socket;
mod timed;
pub mod tokens;

pub use door::ApiHealth;

/// Where the daemon listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/eastgate/eastgate.sock";
