//! What labs, tests and benchmarks share: network namespaces with all that is in them, processes, frames, waiting, and
//! comparing a machine with what it was.
//!
//! Whatever is made here ends with the value that owns it, also when a test fails or a panic unwinds; what a killed run
//! left is known by its name, and taken away by the next. No device is ever made in the namespace that a program is
//! started from. Nothing sleeps to let something happen: conditions are waited for, within a bound.
//!
//! The daemon knows nothing of this crate.

pub mod capture;
pub mod command;
mod config;
mod error;
pub mod facts;
pub mod frames;
pub mod leftover;
pub mod link;
pub mod lldpad;
pub mod netns;
pub mod packet;
pub mod process;
pub mod sctp;
#[cfg(feature = "vlan-switch")]
pub mod vlan_switch;
pub mod wait;

pub use capture::Capture;
pub use config::{RULES_OF_A_GROUP, large_group, parse};
pub use error::{Error, Failure};
pub use facts::Facts;
pub use link::Link;
pub use netns::{Namespace, Netns};
pub use process::Process;
