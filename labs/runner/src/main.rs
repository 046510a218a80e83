//! The `eastgate-lab` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    eastgate_lab::cli::main()
}
