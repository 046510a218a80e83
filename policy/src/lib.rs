//! What may pass: admission of a sender, and rules compiled into tables.
//!
//! This crate does no I/O and reads no clock. It promises that the compiled form of a policy decides exactly as
//! the naive walk down its ordered rules ([`naive`]), that a lookup costs the same with ten rules and with a
//! hundred thousand, and that every table in it is bounded.

pub mod admission;
pub mod analysis;
pub mod compile;
pub mod naive;
pub mod rule;
