//! The `eastgate` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    eastgate::cli::main()
}
