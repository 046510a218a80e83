//! The packet's path over one snapshot, read top to bottom in [`pipeline`].
//!
//! A checked configuration becomes a [`snapshot`]: the tables that the path works with on one host. [`trace`] walks a
//! hypothetical packet through the same path.
//!
//! This crate does no I/O, reads no clock and starts no thread: frames come in with the time, what is to be sent goes
//! out in a batch, and whoever carries packets faster is behind a trait ([`pipeline::offload::FlowOffload`]).

pub mod attachments;
pub mod eligibility;
pub mod pipeline;
pub mod snapshot;
pub mod trace;
