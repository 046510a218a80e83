//! What a contributor runs: `cargo xtask demo`, `cargo xtask test`, `cargo xtask ci`, `cargo xtask soak`, `cargo xtask bench`,
//! `cargo xtask package`, `cargo xtask image`, `cargo xtask book`.

mod bench;
mod book;
mod ci;
mod demo;
mod dependencies;
mod image;
mod kernel;
mod length;
mod package;
mod packages;
mod privilege;
mod rooms;
mod run;
mod soak;
mod stop;
mod test;
mod unpacked;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Runs eastgate's demo, tests and benchmarks"
)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install the packages that building eastgate needs, so that `cargo build` works
    Prepare,
    /// Build eastgate, bring a two-host overlay up on this machine and tell what it does, then take it down
    Demo(demo::Options),
    /// Run every test, those in network namespaces included; or the labs' stories on another kernel
    Test(test::Options),
    /// Everything that a change must pass: format, lints, documentation, dependencies, tests
    Ci(ci::Options),
    /// Test for long: both dataplanes with millions of frames, daemons killed a hundred times under load
    Soak(soak::Options),
    /// Make a Debian package, and try it in a bare Debian
    Package(package::Options),
    /// Make the disk of a virtual machine that is an appliance
    Image(image::Options),
    /// Make the documentation a book that is browsed and searched
    Book(book::Options),
    /// Compare eastgate's speed with plain VXLAN and with Neutron's rules, interleaved, in one call
    Bench(bench::Options),
    /// Run a test executable, as root where it needs that (cargo calls this through its `runner` setting)
    #[command(hide = true)]
    AsRoot {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        program: Vec<String>,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Prepare => packages::install(packages::Need::Build),
        Task::Demo(options) => demo::run(&options),
        Task::Test(options) => test::run(&options),
        Task::Ci(options) => ci::run(&options),
        Task::Soak(options) => soak::run(&options),
        Task::Book(options) => book::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Package(options) => package::run(&options),
        Task::Image(options) => image::run(&options),
        Task::AsRoot { program } => privilege::exec_test(&program),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The checkout this was built from.
fn workspace() -> Result<PathBuf> {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    Ok(here.parent().context("xtask stands in the workspace")?.to_owned())
}

/// Where cargo puts what it builds.
fn target() -> Result<PathBuf> {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => std::path::absolute(folder).context("CARGO_TARGET_DIR"),
        None => Ok(workspace()?.join("target")),
    }
}

/// The packages of the programs that are installed: the appliance, and the one that plays its labs.
const PROGRAMS: [&str; 4] = ["--package", "eastgate", "--package", "eastgate-lab"];

/// The cargo that started this, so that a toolchain chosen on its command line stays chosen.
fn cargo() -> std::process::Command {
    std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}
