//! The conversation between the daemon and the command line: one JSON document a line over a Unix socket.
//!
//! A request is an object with one key, the command; the answer is `{"ok": ...}`, or a
//! [failure](eastgate_api::Failure) with `error` and `code`. Who may
//! open the socket (mode 0600, owned by the daemon's user) may do everything.
//!
//! The socket is served on a thread of its own, and queries are answered on others: the daemon's loop takes part only in what
//! changes something.

mod answer;
pub mod client;
mod queries;
pub mod server;
pub mod socket;

/// Where the daemon listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/eastgate/eastgate.sock";

/// The longest request taken, in bytes: a longer one is refused before it is read. The largest frame to be traced fits in hexadecimal
/// digits.
pub const MAX_REQUEST: usize = 160 * 1024;
