//! eastgate

pub mod config;
