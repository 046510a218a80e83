//! What is remembered of packets that passed: flows with their state, limits and who makes room, flows that are expected because
//! others have announced them, and datagrams in fragments.
//!
//! This crate does no I/O and reads no clock. It promises that every table in it is bounded, exactly, and that a
//! packet that belongs to no flow it remembers is never taken for one that does.

pub mod expect;
pub mod flow;
pub mod fragment;
pub mod helper;
