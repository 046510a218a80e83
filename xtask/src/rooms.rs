//! The rooms of the house, from the bottom up: no crate knows one of its own level or above it, and those that say they
//! do no I/O use nothing that could.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{cargo, run, workspace};

/// Crates of one level do not know each other.
const LEVELS: [&[&str]; 7] = [
    &["eastgate-wire"],
    &[
        "eastgate-vtep",
        "eastgate-steering",
        "eastgate-policy",
        "eastgate-conntrack",
        "eastgate-config",
        "eastgate-api",
    ],
    &["eastgate-testkit"],
    &["eastgate-dataplane", "eastgate-fastpath"],
    &["eastgate"],
    &["eastgate-lab"],
    &["xtask"],
];

/// What the appliance and what it is made of use in their tests alone.
const FOR_TESTS: &str = "eastgate-testkit";

/// Who plays and measures, and may use it always.
const PLAYERS: [&str; 2] = ["eastgate-lab", "xtask"];

/// The appliance's tests play the labs.
const PLAYED_BY_TESTS: (&str, &str) = ("eastgate", "eastgate-lab");

/// Who may reach the machine.
const WITH_IO: [&str; 5] = ["eastgate-testkit", "eastgate-fastpath", "eastgate", "eastgate-lab", "xtask"];

/// By these one reaches it: system calls, sockets, netlink, eBPF, a runtime that waits. The configuration takes flags of
/// `open` from libc, so libc is not among them.
const REACHES_THE_MACHINE: [&str; 9] = [
    "libbpf-cargo",
    "libbpf-rs",
    "libbpf-sys",
    "mio",
    "nix",
    "pnet_datalink",
    "rtnetlink",
    "socket2",
    "tokio",
];

/// A crate by the name of one that binds to a C library, which is Rust alone: the kernel's own types and numbers
const RUST_ALONE: &str = "linux-raw-sys";

/// One crate names another one in its Cargo.toml.
#[derive(Clone, Debug)]
struct Edge {
    from: String,
    to: String,
    /// For its tests and benchmarks only
    for_tests: bool,
}

pub(crate) fn check() -> Result<()> {
    let mut command = cargo();
    command.current_dir(workspace()?).args(["metadata", "--locked", "--no-deps", "--format-version", "1"]);
    let metadata: Value = serde_json::from_str(&run::output(&mut command)?).context("cargo metadata")?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    let names: Vec<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let edges: Vec<Edge> = packages.iter().flat_map(edges_of).collect();
    let faults = [unknown_hosts(&names), faults(&edges), needs_of_xtask()?].concat();
    if !faults.is_empty() {
        bail!("the rooms are not as LEVELS in xtask/src/rooms.rs says:\n  {}", faults.join("\n  "));
    }
    Ok(())
}

/// On a bare machine xtask is what installs a C compiler's headers and libraries, so it is built before they are there.
fn needs_of_xtask() -> Result<Vec<String>> {
    let mut command = cargo();
    command.current_dir(workspace()?).args(["tree", "--locked", "--package", "xtask"]);
    command.args(["--edges", "normal,build", "--prefix", "none", "--format", "{p}"]);
    Ok(built_with_c(&run::output(&mut command)?))
}

/// Crates that are built with a C library, in a list of crates with their versions, a line each
fn built_with_c(tree: &str) -> Vec<String> {
    let is_bound = |name: &&str| name.ends_with("-sys") && *name != RUST_ALONE;
    let mut names: Vec<&str> =
        tree.lines().filter_map(|line| line.split(' ').next()).filter(is_bound).collect();
    names.sort_unstable();
    names.dedup();
    let fault = |name: &str| format!("xtask needs {name}, whose library xtask is to install");
    names.into_iter().map(fault).collect()
}

fn edges_of(package: &Value) -> Vec<Edge> {
    let from = package["name"].as_str().unwrap_or_default();
    let edge = |dependency: &Value| {
        let to = dependency["name"].as_str()?.to_owned();
        Some(Edge { from: from.to_owned(), to, for_tests: dependency["kind"] == "dev" })
    };
    package["dependencies"].as_array().into_iter().flatten().filter_map(edge).collect()
}

fn level(name: &str) -> Option<usize> {
    LEVELS.iter().position(|rooms| rooms.contains(&name))
}

/// Crates that have no level, and levels that have no crate.
fn unknown_hosts(names: &[&str]) -> Vec<String> {
    let without = names.iter().filter(|name| level(name).is_none());
    let without = without.map(|name| format!("{name} has no level: say what it may know"));
    let gone = LEVELS.iter().copied().flatten().filter(|room| !names.contains(room));
    without.chain(gone.map(|room| format!("{room} has a level, and there is no such crate"))).collect()
}

fn faults(edges: &[Edge]) -> Vec<String> {
    let fault = |Edge { from, to, for_tests }: &Edge| {
        if REACHES_THE_MACHINE.contains(&to.as_str()) {
            let may = WITH_IO.contains(&from.as_str());
            return (!may).then(|| format!("{from} uses {to}: it says that it does no I/O"));
        }
        let (lower, upper) = (level(to)?, level(from)?);
        if lower >= upper && !(*for_tests && (from.as_str(), to.as_str()) == PLAYED_BY_TESTS) {
            return Some(format!("{from} knows {to}, which is not below it"));
        }
        let is_player = PLAYERS.contains(&from.as_str());
        (to == FOR_TESTS && !for_tests && !is_player)
            .then(|| format!("{from} uses {to} outside of its tests"))
    };
    edges.iter().filter_map(fault).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults_of(from: &str, to: &str, for_tests: bool) -> usize {
        faults(&[Edge { from: from.into(), to: to.into(), for_tests }]).len()
    }

    #[test]
    fn no_room_knows_one_that_is_not_below_it() {
        assert_eq!(faults_of("eastgate-dataplane", "eastgate-conntrack", false), 0);
        assert_eq!(faults_of("eastgate", "eastgate-dataplane", false), 0);
        // Up, beside, and up for tests.
        assert_eq!(faults_of("eastgate-dataplane", "eastgate", false), 1);
        assert_eq!(faults_of("eastgate-conntrack", "eastgate-policy", false), 1);
        assert_eq!(faults_of("eastgate-config", "eastgate-fastpath", false), 1);
        assert_eq!(faults_of("eastgate-wire", "eastgate-testkit", true), 1);
    }

    #[test]
    fn only_tests_use_what_is_for_tests() {
        assert_eq!(faults_of("eastgate-dataplane", "eastgate-testkit", true), 0);
        assert_eq!(faults_of("eastgate-dataplane", "eastgate-testkit", false), 1);
        assert_eq!(faults_of("eastgate-lab", "eastgate-testkit", false), 0);
        assert_eq!(faults_of("eastgate", "eastgate-lab", true), 0);
        assert_eq!(faults_of("eastgate", "eastgate-lab", false), 1);
    }

    #[test]
    fn pure_rooms_use_nothing_that_reaches_the_machine() {
        assert_eq!(faults_of("eastgate", "tokio", false), 0);
        assert_eq!(faults_of("eastgate-config", "tokio", false), 1);
        assert_eq!(faults_of("eastgate-dataplane", "nix", true), 1);
    }

    #[test]
    fn every_crate_has_a_level_and_every_level_its_crates() {
        let all: Vec<&str> = LEVELS.iter().copied().flatten().copied().collect();
        assert!(unknown_hosts(&all).is_empty());
        assert_eq!(unknown_hosts(&[&all[..], &["eastgate-cellar"]].concat()).len(), 1);
        assert_eq!(unknown_hosts(&all[1..]).len(), 1);
    }

    #[test]
    fn xtask_is_built_before_any_library_is_installed() {
        let tree =
            "xtask v0.1.0 (/somewhere)\nlibbpf-sys v1.7.0\nlinux-raw-sys v0.12.1\nlibbpf-sys v1.7.0 (*)";
        assert_eq!(built_with_c(tree), ["xtask needs libbpf-sys, whose library xtask is to install"]);
    }

    /// The house as it stands.
    #[test]
    fn the_rooms_are_in_order() {
        check().unwrap();
    }
}
