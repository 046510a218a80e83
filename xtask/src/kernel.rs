//! `cargo xtask test --kernel 6.1`: the labs' stories on another Linux kernel than this machine's.
//!
//! Debian's kernel boots in an emulated machine, with the built `eastgate` and `eastgate-lab`, the stories and the few
//! programs they need in its memory. Nothing is installed but the emulator: the kernel is unpacked below `target/`. What counts is
//! what the machine says in lines made for it: a story without such a line has failed.

mod archive;
pub(crate) mod debian;
pub(crate) mod image;
mod machine;
mod modules;
mod verdict;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::packages::{self, Need};
use crate::{PROGRAMS, cargo, run, stop, target, workspace};
use machine::{End, Machine};
use verdict::Verdict;

/// A kernel that the stories can run on.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// The kernel of Debian 12 and of the appliance image
    #[value(name = "6.1")]
    Debian12,
}

impl Version {
    /// Major and minor number, which its release begins with.
    fn number(self) -> &'static str {
        match self {
            Self::Debian12 => "6.1",
        }
    }
}

/// The machine's first process.
const INIT: &str = include_str!("kernel/init.sh");
/// What the labs run beside eastgate: `ip` and `bridge` build them and are what stories ask, and hypervisors are an lldpad in namespaces of
/// its own. Everything else that a shell knows comes from busybox.
const TOOLS: &[&str] = &["busybox", "ip", "bridge", "lldpad", "unshare", "vdptool"];
/// What is loaded before the first story. A machine that is not made of memory only would load them by itself.
const MODULES: &[&str] = &[
    // Every cable and every tenant's port.
    "veth",
    // The switches between hosts, and the VTEPs that are made of kernel devices.
    "bridge",
    "vxlan",
    // Machines in VEPA mode.
    "macvlan",
    // clsact and the filters in it, which guard tenants' ports.
    "sch_ingress",
    "cls_bpf",
];

/// How long a story may take by the machine's own clock, where the longest needs some seconds.
const STORY_BOUND: Duration = Duration::from_secs(60);
/// How long a story may keep this machine at work, where the longest needs half a minute.
const WORK_BOUND: Duration = Duration::from_secs(150);
/// The same for everything beside the stories: from power to power off.
const BOOT_BOUND: Duration = Duration::from_secs(120);

/// Runs every story below `labs/` on `version`.
pub(crate) fn test(version: Version) -> Result<()> {
    if !cfg!(target_arch = "x86_64") {
        bail!("the emulated machine has an x86-64 processor, and would not run what is built here");
    }
    stop::on_signals()?;
    let labs = workspace()?.join("labs");
    let stories = stories(&labs)?;
    packages::install(Need::Kernel)?;
    let target = target()?;
    let folder = target.join("kernel");
    let kernel = debian::kernel(version.number(), &folder)?;
    println!("Building eastgate; the first time takes some minutes.");
    run::visible(cargo().args(["build", "--quiet"]).args(PROGRAMS).current_dir(workspace()?))?;
    let image = folder.join("image.cpio");
    let built = ["debug/eastgate", "debug/eastgate-lab"].map(|program| target.join(program));
    let folders: Vec<_> = stories.iter().map(|story| labs.join(story)).collect();
    let contents =
        image::Contents { init: INIT, tools: TOOLS, built: &built, modules: MODULES, stories: &folders };
    image::write(&image, &kernel, &contents)?;
    let console = folder.join("console.log");
    let machine = Machine { kernel: kernel.image, image, console, story_bound: STORY_BOUND };
    watch(&machine, version, &stories)
}

/// Boots the machine, shows what it says, and judges it.
fn watch(machine: &Machine, version: Version, stories: &[String]) -> Result<()> {
    let count = u32::try_from(stories.len())?;
    let bound = BOOT_BOUND + WORK_BOUND * count;
    println!(
        "Booting it; the processor is emulated, so give it a minute or two (at most {} s).",
        bound.as_secs()
    );
    let started = Instant::now();
    let mut verdict = Verdict::default();
    let end = machine::watch(&mut machine.command(), bound, |line| {
        verdict.hear(line);
        println!("{line}");
    })?;
    let mut problems = verdict.problems(version.number(), stories);
    match end {
        End::Ended(status) if status.success() => {}
        End::Ended(status) => problems.push(format!("the emulator ended with {status}")),
        End::Late => problems.push(format!("the machine did not end within {} s", bound.as_secs())),
    }
    stop::check()?;
    let seconds = started.elapsed().as_secs();
    if problems.is_empty() {
        println!("\n{} It took {seconds} s.", verdict.closing());
        return Ok(());
    }
    println!(
        "\nThe end of the kernel's log, {}:\n{}",
        machine.console.display(),
        run::tail(&machine.console)
    );
    bail!(
        "the stories did not pass on Linux {}, in {seconds} s:\n  {}",
        version.number(),
        problems.join("\n  ")
    )
}

/// The names of the folders in `labs` that are stories.
fn stories(labs: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(labs).with_context(|| labs.display().to_string())? {
        let entry = entry?;
        if entry.path().join("topology.toml").is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    if names.is_empty() {
        bail!("there is no story in {}", labs.display());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_folder_with_a_topology_is_a_story() {
        let found = stories(&workspace().unwrap().join("labs")).unwrap();
        assert!(found.contains(&"01-two-hosts".to_owned()), "{found:?}");
        let none = stories(&workspace().unwrap().join("configs")).unwrap_err().to_string();
        assert!(none.starts_with("there is no story in "), "{none}");
    }
}
