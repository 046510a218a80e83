//! The command line: what can be asked, and how the answers look.

pub mod args;
pub mod capture;
mod capture_file;
mod commands;
pub mod doctor;
pub mod export;
pub mod filter;
pub mod import;
pub mod lab;
mod matrix;
pub mod observe;
mod plan;
pub mod policy;
mod print;
pub mod probe;
mod shell;
pub mod staged;
pub mod support;
pub mod table;
pub mod token;
pub mod top;
mod trace;

use std::process::ExitCode;

use clap::Parser;
use serde_json::json;

use self::args::Format;
use crate::{control::client::ClientError, daemon::ConfigRefused, faults::Faults, policy_tools::Misnamed};

/// Exit codes, the same for every command.
pub mod exit {
    /// Done
    pub const OK: u8 = 0;
    /// It could not be done; the reason is on standard error. `policy`: there is a difference, an expectation that fails, a rule
    /// that does nothing.
    pub const FAILED: u8 = 1;
    /// The command line is wrong.
    pub const USAGE: u8 = 2;
    /// The configuration is wrong.
    pub const CONFIG: u8 = 3;
    /// No daemon answers.
    pub const NO_DAEMON: u8 = 4;
    /// `trace`: the packet would be dropped.
    pub const DROPPED: u8 = 5;
    /// `status`, `doctor`: something that should pass does not.
    pub const NOT_READY: u8 = 6;
    /// `doctor`: something is lost, slow, or will be.
    pub const WARNINGS: u8 = 7;
    /// `probe`: nobody answers.
    pub const NO_ANSWER: u8 = 8;
    /// `probe`: who was asked refuses, or somebody says that it is not reached.
    pub const REFUSED: u8 = 9;
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    // A reader that goes away early (`eastgate show flows | head`) ends the command quietly, as it does for
    // every other tool.
    crate::io::end_with_a_closed_pipe(true);
    let args = args::Args::parse();
    // No client of the daemon ends it by going away.
    if matches!(args.command, args::Command::Run(_)) {
        crate::io::end_with_a_closed_pipe(false);
    }
    let output = args.command.output();
    match commands::run(args) {
        Ok(code) => code,
        Err(error) => ExitCode::from(tell(&error, output)),
    }
}

/// Says why it could not be done; the exit code. Who wants JSON gets an object whatever happens.
fn tell(error: &anyhow::Error, output: Format) -> u8 {
    let mut object = json!({ "error": format!("{error:#}") });
    let code = if let Some(refused) = error.downcast_ref::<ConfigRefused>() {
        // A rendered picture of the places, which says itself what it is.
        eprint!("{refused}");
        object["diagnostics"] = refused.diagnostics.clone();
        exit::CONFIG
    } else if let Some(faults) = error.downcast_ref::<Faults>() {
        eprint!("{faults}");
        object["diagnostics"] = json!(faults);
        exit::CONFIG
    } else if let Some(misnamed) = error.downcast_ref::<Misnamed>() {
        eprintln!("eastgate: {misnamed}");
        exit::USAGE
    } else {
        eprintln!("eastgate: {error:#}");
        let asked = error.downcast_ref::<ClientError>();
        if let Some(ClientError::Refused(failure)) = asked {
            object["code"] = json!(failure.code);
        }
        match asked {
            Some(ClientError::Connect { .. } | ClientError::Late { .. }) => exit::NO_DAEMON,
            _ => exit::FAILED,
        }
    };
    if output == Format::Json {
        println!("{object:#}");
    }
    code
}
