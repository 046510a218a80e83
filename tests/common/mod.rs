//! What the tests with a real kernel share: network namespaces of their own, daemons in them, traffic, and a way
//! to compare a machine with what it was.
//!
//! Whatever a test makes ends with it, also when it fails: namespaces with everything that runs in them, files,
//! threads. Nothing sleeps to let something happen: conditions are waited for, within a bound. What needs no daemon is in
//! `eastgate-testkit`, for labs and benchmarks too.
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "each test program is a crate, and uses a part of this"
)]

mod bpffs;
mod capture;
pub mod config;
mod daemon;
pub mod hooks;
pub mod hub;
mod machine;
pub mod page;
pub mod running;
mod script;
pub mod site;
mod traffic;
mod world;

pub use bpffs::BpfFs;
pub use capture::{
    Capture, arp_request, hardware_address, icmp_echo, neighbor_solicitation, seen_by_tcpdump, send_frame,
};
pub use daemon::{CAPABILITIES, Daemon, EASTGATE, Requester, eastgate};
pub use eastgate_testkit::wait::{BOUND, settle, wait_for, wait_within};
pub use machine::Machine;
pub use script::Script;
pub use traffic::{
    Dialogue, Sink, Stream, Transfer, accept_bulk, bind_tcp, bind_udp, bulk, datagram_arrives,
};
pub use world::{Space, World, must};
