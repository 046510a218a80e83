//! The only place with sockets, netlink, procfs, clocks and threads.
//!
//! Everything here moves bytes and carries out what the rest of eastgate decided; no rule of the network lives
//! here.

pub mod attached;
pub mod batch_send;
pub mod capture_socket;
pub mod captures;
pub mod clock;
pub mod echo;
pub mod fastpath;
pub mod guard;
pub mod inject;
pub mod lock;
pub mod machine;
pub mod mmsg;
pub mod netlink;
pub mod packet_socket;
pub mod routes;
pub mod serving;
pub mod stations;
pub mod survey;
pub mod sysctl;
pub mod sysopt;
pub mod underlay;
pub mod worker;

/// Whether a pipe or a socket whose other end is closed ends the process: it does for command-line tools, whose reader may go away
/// early; whoever serves others goes on. What the process begins with is the Rust runtime's: it goes on.
#[allow(
    unsafe_code,
    reason = "what a signal does is changed by a call that is safe only before there are threads"
)]
pub fn end_with_a_closed_pipe(ends: bool) {
    let action = if ends { libc::SIG_DFL } else { libc::SIG_IGN };
    // SAFETY: called before any thread is started; neither action of SIGPIPE has preconditions.
    unsafe {
        libc::signal(libc::SIGPIPE, action);
    }
}
