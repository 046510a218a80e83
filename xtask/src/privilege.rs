//! Being root where it is needed and only there: building is done as the user, namespaces are made as root.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::unistd::{getgid, getuid, geteuid};

use crate::packages;

/// Whether this process is root already.
pub(crate) fn is_root() -> bool {
    geteuid().is_root()
}

/// What to add to a sentence about something that is about to run as root.
pub(crate) fn note() -> &'static str {
    if is_root() { "" } else { ", through sudo" }
}

/// A command that will run as root: through `sudo` when this process is not.
pub(crate) fn command(program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
    if is_root() {
        return Ok(Command::new(program));
    }
    let Some(sudo) = packages::find_command("sudo") else {
        bail!("this needs root and there is no sudo: run it as root");
    };
    let mut command = Command::new(sudo);
    command.arg("--").arg(program);
    Ok(command)
}

/// Replaces this process by `program` run as root with cargo's environment kept, which sudo would clear.
///
/// This is what cargo's `runner` setting calls for tests that make namespaces: they are built by the user and run
/// by root, so `target/` keeps its owner.
pub(crate) fn exec_as_root(program: &[String]) -> Result<()> {
    let mut command = command("env")?;
    for (key, value) in std::env::vars() {
        let kept = ["CARGO", "RUST", "EASTGATE", "INSTA", "PROPTEST", "LD_LIBRARY_PATH", "PATH"];
        if kept.iter().any(|prefix| key.starts_with(prefix)) {
            command.arg(format!("{key}={value}"));
        }
    }
    command.args(program);
    Err(command.exec()).context("cannot run a test as root")
}

/// Gives files that root's tests left under `folder` back to the user who builds there.
pub(crate) fn give_back(folder: &std::path::Path) -> Result<()> {
    if is_root() || !folder.exists() {
        return Ok(());
    }
    let owner = format!("{}:{}", getuid(), getgid());
    crate::run::output(command("chown")?.args(["-R", "--from=root", &owner]).arg(folder)).map(drop)
}
