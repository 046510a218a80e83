//! The command line: what can be asked, and how the answers look.

pub mod args;
mod commands;
mod print;
pub mod table;

use std::process::ExitCode;

use clap::Parser;

use crate::{control::client::ClientError, daemon::ConfigRefused};

/// Exit codes, the same for every command.
pub mod exit {
    /// Done
    pub const OK: u8 = 0;
    /// It could not be done; the reason is on standard error.
    pub const FAILED: u8 = 1;
    /// The command line is wrong.
    pub const USAGE: u8 = 2;
    /// The configuration is wrong.
    pub const CONFIG: u8 = 3;
    /// No daemon answers.
    pub const NO_DAEMON: u8 = 4;
    /// `trace`: the packet would be dropped.
    pub const DROPPED: u8 = 5;
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    // A reader that goes away early (`eastgate show flows | head`) ends the command quietly, as it does for
    // every other tool.
    crate::io::restore_default_sigpipe();
    let args = args::Args::parse();
    match commands::run(args) {
        Ok(code) => code,
        Err(error) => ExitCode::from(tell(&error)),
    }
}

/// Says why it could not be done; the exit code.
fn tell(error: &anyhow::Error) -> u8 {
    if let Some(refused) = error.downcast_ref::<ConfigRefused>() {
        // A rendered picture of the places, which says itself what it is.
        eprint!("{refused}");
        return exit::CONFIG;
    }
    eprintln!("eastgate: {error:#}");
    match error.downcast_ref() {
        Some(ClientError::Connect { .. }) => exit::NO_DAEMON,
        _ => exit::FAILED,
    }
}
