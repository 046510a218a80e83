//! The labs as acceptance tests: each story is brought up, checked with real traffic and taken down, with both
//! dataplanes, and leaves the machine as it was.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
};

use eastgate::daemon::Dataplane;
use eastgate_lab::{self as lab, Options};
use eastgate_testkit::{Facts, netns};

/// "As it was" can be told only while no other test changes the machine.
static MACHINE: Mutex<()> = Mutex::new(());

/// Up, check twice (a check leaves the lab as it found it), down; with both dataplanes.
fn passes(name: &str) {
    if netns::require_root().is_err() {
        eprintln!("skipped: needs root");
        return;
    }
    let _alone = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let machine = || Facts::of_machine(Path::new("/run/eastgate")).unwrap();
    let story = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs").join(name);
    for dataplane in [Dataplane::Ebpf, Dataplane::Userspace] {
        let before = machine();
        let options =
            Options { eastgate: env!("CARGO_BIN_EXE_eastgate").into(), dataplane, ..Options::default() };
        let record = lab::up(story.to_str().unwrap(), &options).unwrap();
        let reports = [lab::check(&record.id, &options), lab::check(&record.id, &options)];
        lab::down(&record.id, &options).unwrap();
        for report in reports.map(Result::unwrap) {
            assert!(report.ok(), "\n{report}");
        }
        assert_eq!(before.changes(&machine()), Vec::<String>::new(), "{dataplane:?}");
    }
}

#[test]
fn two_hosts() {
    passes("01-two-hosts");
}

#[test]
fn hub_and_spoke() {
    passes("02-hub-and-spoke");
}

#[test]
fn ipv6_underlay() {
    passes("03-ipv6-underlay");
}

#[test]
fn tiers() {
    passes("04-tiers");
}

#[test]
fn migrated() {
    passes("05-migrated");
}

#[test]
fn vlan_trunk() {
    passes("10-vlan-trunk");
}

#[test]
fn shared_segment() {
    passes("11-shared-segment");
}

#[test]
fn private_vlan() {
    passes("12-private-vlan");
}

#[test]
fn vepa_vdp() {
    passes("13-vepa-vdp");
}

#[test]
fn kernel_steering() {
    passes("14-kernel-steering");
}

#[test]
fn multi_homed() {
    passes("15-multi-homed");
}
