//! The labs as acceptance tests: each story is brought up, checked with real traffic and taken down, with both
//! dataplanes, and leaves the machine as it was.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    path::{Path, PathBuf},
    process::Command,
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
    let story = story(name);
    for dataplane in [Dataplane::Ebpf, Dataplane::Userspace] {
        let before = machine();
        let options =
            Options { eastgate: env!("CARGO_BIN_EXE_eastgate").into(), dataplane, ..Options::default() };
        let record = lab::up(story.to_str().unwrap(), &options).unwrap();
        let reports = [lab::check(&record.id, &options), lab::check(&record.id, &options)];
        if !reports.iter().all(|report| report.as_ref().is_ok_and(lab::Report::ok)) {
            tell_what_the_daemons_say(&record, &options);
        }
        lab::down(&record.id, &options).unwrap();
        for report in reports.map(Result::unwrap) {
            assert!(report.ok(), "\n{report}");
        }
        assert_eq!(before.changes(&machine()), Vec::<String>::new(), "{dataplane:?}");
    }
}

/// Of a lab that did not hold: what its daemons have dropped and seen last.
fn tell_what_the_daemons_say(record: &lab::Record, options: &Options) {
    for host in record.nodes.iter().filter(|node| node.kind == lab::NodeKind::Host) {
        for command in ["show drops --all", "show fdb", "observe --last 100"] {
            let mut eastgate = Command::new(&options.eastgate);
            let said = eastgate
                .args(command.split(' '))
                .arg("--socket")
                .arg(record.socket(&host.name))
                .output()
                .unwrap();
            println!("-- {} {command}\n{}", host.name, String::from_utf8_lossy(&said.stdout));
        }
    }
}

/// What the story refuses never arrives, while its hosts are stopped, killed, tampered with and unplugged; and the machine is as it was.
fn withstands_stress(name: &str) {
    if netns::require_root().is_err() {
        eprintln!("skipped: needs root");
        return;
    }
    let _alone = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let rounds = std::env::var("EASTGATE_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    for dataplane in [Dataplane::Ebpf, Dataplane::Userspace] {
        let before = Facts::of_machine(Path::new("/run/eastgate")).unwrap();
        let options =
            Options { eastgate: env!("CARGO_BIN_EXE_eastgate").into(), dataplane, ..Options::default() };
        let report = lab::stress(story(name).to_str().unwrap(), rounds, &options).unwrap();
        println!("{name}, {dataplane:?}: {report}");
        assert!(report.ok(), "\n{report}");
        let after = Facts::of_machine(Path::new("/run/eastgate")).unwrap();
        assert_eq!(before.changes(&after), Vec::<String>::new(), "{dataplane:?}");
    }
}

fn story(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("labs").join(name)
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

#[test]
fn a_trunk_withstands_stress() {
    withstands_stress("10-vlan-trunk");
}

#[test]
fn a_shared_segment_withstands_stress() {
    withstands_stress("11-shared-segment");
}

#[test]
fn a_private_vlan_withstands_stress() {
    withstands_stress("12-private-vlan");
}

#[test]
fn a_segment_in_vepa_mode_withstands_stress() {
    withstands_stress("13-vepa-vdp");
}

#[test]
fn the_kernels_routing_withstands_stress() {
    withstands_stress("14-kernel-steering");
}

#[test]
fn a_multi_homed_host_withstands_stress() {
    withstands_stress("15-multi-homed");
}

/// A story that refuses what its configuration allows: stress finds what arrives.
#[test]
fn stress_finds_what_arrives() {
    if netns::require_root().is_err() {
        eprintln!("skipped: needs root");
        return;
    }
    let _alone = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = std::env::temp_dir().join(format!("eastgate-open-trunk-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    for file in ["topology.toml", "closed.toml", "eastgate.toml"] {
        let text = std::fs::read_to_string(story("10-vlan-trunk").join(file)).unwrap();
        std::fs::write(folder.join(file), text.replace("ports = 80, from", "ports = \"22-80\", from"))
            .unwrap();
    }
    let options = Options { eastgate: env!("CARGO_BIN_EXE_eastgate").into(), ..Options::default() };
    let report = lab::stress(folder.to_str().unwrap(), 1, &options);
    std::fs::remove_dir_all(&folder).unwrap();
    let report = report.unwrap();
    assert!(report.arrived > 0 && !report.ok(), "{report}");
    assert!(report.to_string().contains("without a daemon"), "{report}");
}
