//! The only place with sockets, netlink, procfs, clocks and threads.
//!
//! Everything here moves bytes and carries out what the rest of eastgate decided; no rule of the network lives
//! here.

pub mod attached;
pub mod batch_send;
pub mod capture_socket;
pub mod captures;
pub mod clock;
pub mod fastpath;
pub mod guard;
pub mod lock;
pub mod machine;
pub mod mmsg;
pub mod netlink;
pub mod packet_socket;
pub mod serving;
pub mod stations;
pub mod survey;
pub mod sysctl;
pub mod sysopt;
pub mod underlay;
pub mod worker;

/// Lets a closed pipe end the process, as command-line tools do; the Rust runtime ignores the signal.
#[allow(
    unsafe_code,
    reason = "what a signal does is changed by a call that is safe only before there are threads"
)]
pub fn restore_default_sigpipe() {
    // SAFETY: called before any thread is started; the default action of SIGPIPE has no preconditions.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}
