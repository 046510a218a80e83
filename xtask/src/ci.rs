//! `cargo xtask ci`: everything that a change must pass. `.ci/run` calls this on a bare machine, a contributor before he
//! sends a change.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::packages::{self, Need};
use crate::{cargo, dependencies, length, rooms, run, test, workspace};

#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// Only unit tests: no root, no network namespaces
    #[arg(long)]
    quick: bool,
}

type Check = fn(&Options) -> Result<()>;

/// The cheapest first.
const CHECKS: [(&str, Check); 9] = [
    ("format", |_| cargo_does(&["fmt", "--all", "--check"])),
    ("length of files", |_| length::check()),
    ("packages", |_| packages::install(Need::Build)),
    ("order of rooms", |_| rooms::check()),
    ("unused dependencies", |_| dependencies::check()),
    ("licences and origins", |_| licences()),
    ("lints", |_| {
        cargo_does(&["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"])
    }),
    ("documentation", |_| documentation()),
    ("tests", |options| test::run(&test::Options::all(options.quick))),
];

pub(crate) fn run(options: &Options) -> Result<()> {
    let started = Instant::now();
    for (name, check) in CHECKS {
        let begun = Instant::now();
        println!("\n==> {name}");
        check(options).with_context(|| format!("{name}, after {} s", begun.elapsed().as_secs()))?;
        println!("==> {name}: fine, {} s", begun.elapsed().as_secs());
    }
    println!("\nAll checks passed in {} s.", started.elapsed().as_secs());
    Ok(())
}

fn cargo_does(arguments: &[&str]) -> Result<()> {
    run::visible(cargo().current_dir(workspace()?).args(arguments))
}

fn documentation() -> Result<()> {
    let mut command = cargo();
    command.current_dir(workspace()?).env("RUSTDOCFLAGS", "-D warnings");
    run::visible(command.args(["doc", "--locked", "--no-deps", "--workspace"]))
}

/// Advisories need a database that is fetched anew each time; what is in the tree is checked here.
fn licences() -> Result<()> {
    let version = cargo().args(["deny", "--version"]).output().context("cargo does not start")?;
    if !version.status.success() {
        println!("not checked: `cargo install cargo-deny --locked` would let them be");
        return Ok(());
    }
    let mut command: Command = cargo();
    let done =
        command.current_dir(workspace()?).args(["deny", "check", "bans", "licenses", "sources"]).status()?;
    if !done.success() {
        bail!("`cargo deny` refuses what is in the tree");
    }
    Ok(())
}
