//! `cargo xtask test`: every test there is, built by the user who calls it, the ones that make network namespaces
//! run by root, and a last line a person can read.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::packages::{self, Need};
use crate::{cargo, image, kernel, privilege, run, target, unpacked, workspace};

#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// Only unit tests: no root, no network namespaces, no documentation examples
    #[arg(long)]
    quick: bool,
    /// Run the labs' stories on this Linux kernel instead, in an emulated machine; needs no root but for packages
    #[arg(long, value_name = "VERSION", conflicts_with = "quick")]
    kernel: Option<kernel::Version>,
    /// Build the appliance's disk instead, and boot it between machines on a switch; needs root to build it
    #[arg(long, conflicts_with_all = ["quick", "kernel"])]
    image: bool,
    #[command(flatten)]
    appliance: image::acceptance::Trial,
}

impl Options {
    /// On this kernel.
    pub(crate) fn all(quick: bool) -> Self {
        Self { quick, kernel: None, image: false, appliance: image::acceptance::Trial::default() }
    }
}

/// What test harnesses said, added up.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
    /// Names of those that failed.
    failures: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if let Some(version) = options.kernel {
        return kernel::test(version);
    }
    if options.image {
        return image::acceptance::test(&options.appliance);
    }
    let started = Instant::now();
    let mut tally = Tally::default();
    let mut targets = cargo_test(&["--lib", "--bins"])?;
    if options.quick {
        packages::install(Need::Build)?;
    } else {
        packages::install(Need::Test)?;
        unpacked::tools()?;
        targets.args(["--tests", "--examples"]);
        share_the_machine(&mut targets);
        run_as_root_what_needs_it(&mut targets)?;
    }
    let mut succeeded = watch(&mut targets, &mut tally)?;
    if !options.quick {
        succeeded &= watch(&mut cargo_test(&["--doc"])?, &mut tally)?;
        privilege::give_back(&target()?)?;
    }
    println!("\n{}", tally.closing(started.elapsed(), options.quick));
    if !succeeded {
        bail!("the tests did not pass");
    }
    // A run that tests nothing is a run that went wrong.
    if tally.passed == 0 {
        bail!("no test was run");
    }
    Ok(())
}

fn cargo_test(targets: &[&str]) -> Result<Command> {
    let mut cargo = cargo();
    cargo.current_dir(workspace()?).args(["test", "--workspace", "--no-fail-fast"]).args(targets);
    Ok(cargo)
}

/// Tests in network namespaces wait most of the time: twice as many run at a time as there are processors.
fn share_the_machine(cargo: &mut Command) {
    const THREADS: &str = "RUST_TEST_THREADS";
    if std::env::var_os(THREADS).is_none() {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        cargo.env(THREADS, (2 * processors).to_string());
    }
}

/// Has cargo start test executables through `xtask as-root`, where the caller is not root already.
pub(crate) fn run_as_root_what_needs_it(cargo: &mut Command) -> Result<()> {
    if privilege::is_root() {
        return Ok(());
    }
    println!("Tests that make network namespaces run as root, through sudo; everything is built as you.");
    run::visible(&mut privilege::command("true")?).context("sudo is needed once")?;
    let this = std::env::current_exe()?;
    // TOML strings: a path may hold a blank, which `runner = "..."` would split.
    let runner =
        format!("target.{}.runner=[{:?}, \"as-root\", \"--\"]", host_triple()?, this.display().to_string());
    cargo.args(["--config", &runner]);
    Ok(())
}

fn host_triple() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let said = run::output(Command::new(rustc).arg("-vV"))?;
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("`rustc -vV` tells no host")
}

/// Shows what the tests say while adding it up; true when cargo was content.
fn watch(command: &mut Command, tally: &mut Tally) -> Result<bool> {
    println!("$ {}", run::shown(command));
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let lines = BufReader::new(child.stdout.take().context("no pipe")?);
    for line in lines.split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        tally.hear(&line);
        println!("{line}");
    }
    Ok(child.wait()?.success())
}

impl Tally {
    fn hear(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            let count = |what| {
                let before = result.split(what).next().unwrap_or_default().trim_end();
                before.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0_u64)
            };
            self.passed += count("passed");
            self.failed += count("failed");
            self.ignored += count("ignored");
        } else if let Some(name) =
            line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            self.failures.push(name.to_owned());
        }
    }

    fn closing(&self, took: Duration, quick: bool) -> String {
        let Self { passed, failed, ignored, failures } = self;
        let seconds = took.as_secs();
        let skipped = if *ignored > 0 { format!(", {ignored} ignored") } else { String::new() };
        let scope = if quick { " (quick: unit tests only)" } else { "" };
        if *failed == 0 && failures.is_empty() {
            return format!("{passed} tests passed{skipped}, in {seconds} s{scope}.");
        }
        format!(
            "{failed} tests FAILED, {passed} passed{skipped}, in {seconds} s{scope}:\n  {}",
            failures.join("\n  ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_all_harnesses_add_up() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test a::b ... ok",
            "test a::c ... FAILED",
            "test result: FAILED. 12 passed; 1 failed; 2 ignored; 0 measured; 3 filtered out; finished in 0.01s",
            "test result: ok. 30 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s",
        ] {
            tally.hear(line);
        }
        let failures = vec!["a::c".to_owned()];
        assert_eq!(tally, Tally { passed: 42, failed: 1, ignored: 2, failures });
        assert_eq!(
            tally.closing(Duration::from_secs(61), false),
            "1 tests FAILED, 42 passed, 2 ignored, in 61 s:\n  a::c"
        );
    }

    #[test]
    fn all_well_is_one_line() {
        let tally = Tally { passed: 7, ..Tally::default() };
        assert_eq!(
            tally.closing(Duration::from_secs(2), true),
            "7 tests passed, in 2 s (quick: unit tests only)."
        );
    }
}
