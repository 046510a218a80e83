//! `cargo xtask demo`: builds eastgate and tells, with its own commands and real traffic, what it does. Everything
//! happens in network namespaces, is taken down at the end, and the machine is shown to be as it was.
//!
//! The build runs as the user; the rest needs root and, where the user is not, is this program again under sudo.

mod story;
mod teller;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::packages::{self, Need};
use crate::{PROGRAMS, cargo, privilege, run, stop, target, workspace};

/// The lab the story is told with.
const LAB: &str = "labs/01-two-hosts";

/// What is in the kernel's hands does not get slower by it, and nobody waits for a release build.
const PROFILE: &str = "quick";

#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// Tell the story with this program instead of building one (how the demo calls itself as root)
    #[arg(long, hide = true, value_name = "FILE")]
    tell_with: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if let Some(eastgate) = &options.tell_with {
        return tell(eastgate);
    }
    packages::install(Need::Demo)?;
    println!("Building eastgate, quickly rather than for speed; the first time takes some minutes.");
    let workspace = workspace()?;
    run::visible(
        cargo().args(["build", "--profile", PROFILE, "--quiet"]).args(PROGRAMS).current_dir(&workspace),
    )?;
    let eastgate = target()?.join(PROFILE).join("eastgate");
    if privilege::is_root() {
        return tell(&eastgate);
    }
    println!(
        "Network namespaces need root: going on through sudo. Nothing outside of namespaces is changed."
    );
    let mut again = privilege::command(std::env::current_exe()?)?;
    again.args(["demo", "--tell-with"]).arg(&eastgate).current_dir(&workspace);
    if !again.status().context("cannot start sudo")?.success() {
        bail!("the demo did not come to its end");
    }
    Ok(())
}

fn tell(eastgate: &std::path::Path) -> Result<()> {
    stop::on_signals()?;
    std::env::set_current_dir(workspace()?)?;
    let started = Instant::now();
    story::tell(eastgate, LAB)?;
    println!("\nThe demo took {} s.", started.elapsed().as_secs());
    Ok(())
}
