//! What a shell and `man` know of the command line, made from its grammar.

use std::{io, path::Path};

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::Shell;

use super::{args::Args, exit};

const NAME: &str = "eastgate";

pub(super) fn completions(shell: Shell) -> u8 {
    clap_complete::generate(shell, &mut Args::command(), NAME, &mut io::stdout());
    exit::OK
}

/// A page for each command, in a folder that is there.
pub(super) fn manual(folder: &Path) -> Result<u8> {
    // Whoever makes the pages has set some of these, and nobody who reads them has.
    let command = Args::command().disable_help_subcommand(true).mut_args(|arg| arg.hide_env_values(true));
    clap_mangen::generate_to(command, folder)
        .with_context(|| format!("cannot write manual pages to {}", folder.display()))?;
    Ok(exit::OK)
}
