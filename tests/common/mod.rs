//! What the tests with a real kernel share: network namespaces of their own, daemons in them, traffic, and a way
//! to compare a machine with what it was.
//!
//! Whatever a test makes ends with it, also when it fails: namespaces with everything that runs in them, files,
//! threads. Nothing sleeps to let something happen: conditions are waited for, within a bound.
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "each test program is a crate, and uses a part of this"
)]

mod capture;
pub mod config;
mod daemon;
pub mod hooks;
pub mod hub;
mod machine;
pub mod running;
pub mod site;
mod traffic;
mod world;

pub use capture::{Capture, arp_request, hardware_address, icmp_echo, neighbor_solicitation, send_frame};
pub use daemon::{CAPABILITIES, Daemon, EASTGATE, eastgate};
pub use machine::Machine;
pub use traffic::{Dialogue, Sink, Stream, Transfer, accept_bulk, bulk, datagram_arrives};
pub use world::{Space, World};

use std::{
    thread,
    time::{Duration, Instant},
};

/// How long something that must happen may take, on a machine that has other things to do.
pub const BOUND: Duration = Duration::from_secs(15);

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(5);

/// Waits until `holds`, and gives the time that took.
///
/// # Panics
/// When it does not hold within [`BOUND`].
pub fn wait_for(what: &str, holds: impl FnMut() -> bool) -> Duration {
    wait_within(BOUND, what, holds)
}

/// Waits until `holds`, at most `bound`.
///
/// # Panics
/// When it does not.
pub fn wait_within(bound: Duration, what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < bound, "{what}: not within {} ms", bound.as_millis());
        thread::sleep(POLL);
    }
    begun.elapsed()
}

/// Reads something until it `holds`, at most [`BOUND`], and gives what was read last: for comparing with what is
/// expected, so that the difference is told.
pub fn settle<T>(mut read: impl FnMut() -> T, mut holds: impl FnMut(&T) -> bool) -> T {
    let begun = Instant::now();
    loop {
        let value = read();
        if holds(&value) || begun.elapsed() >= BOUND {
            return value;
        }
        thread::sleep(POLL);
    }
}
