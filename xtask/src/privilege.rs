//! Being root where it is needed and only there: building is done as the user, namespaces are made as root.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::unistd::{getegid, geteuid};

use crate::packages;

/// The packages whose tests make network namespaces; all others test pure code.
const TESTED_AS_ROOT: [&str; 3] = ["eastgate", "eastgate-lab", "eastgate-testkit"];

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

/// Replaces this process by a test executable, as root where its package needs that, with cargo's environment kept,
/// which sudo would clear.
///
/// This is what cargo's `runner` setting calls: tests are built by the user and some of them run by root, so what
/// cargo writes to `target/` keeps its owner.
pub(crate) fn exec_test(program: &[String]) -> Result<()> {
    let package = std::env::var("CARGO_PKG_NAME").unwrap_or_default();
    let (first, rest) = program.split_first().context("no program to run")?;
    if !TESTED_AS_ROOT.contains(&package.as_str()) {
        return Err(Command::new(first).args(rest).exec()).with_context(|| first.clone());
    }
    let mut command = command("env")?;
    for (key, value) in std::env::vars() {
        let kept = ["CARGO", "RUST", "EASTGATE", "PROPTEST", "LD_LIBRARY_PATH", "PATH"];
        if kept.iter().any(|prefix| key.starts_with(prefix)) {
            // An ordinary user's PATH often lacks where Debian keeps what only root runs.
            let more = if key == "PATH" { ":/usr/local/sbin:/usr/sbin:/sbin" } else { "" };
            command.arg(format!("{key}={value}{more}"));
        }
    }
    Err(command.args(program).exec()).context("cannot run a test as root")
}

/// Gives files that root's tests left under `folder` back to the user who builds there.
pub(crate) fn give_back(folder: &std::path::Path) -> Result<()> {
    if is_root() || !folder.exists() {
        return Ok(());
    }
    let owner = format!("{}:{}", geteuid(), getegid());
    crate::run::output(command("chown")?.args(["-R", "--from=root", &owner]).arg(folder)).map(drop)
}
