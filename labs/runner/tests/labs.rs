//! What the program that plays labs does itself: a story is brought up, checked with real traffic and taken down, by
//! whatever way it ends, and leaves the machine as it was. These stories have plain kernel VTEPs; those with eastgate's
//! daemons are tests of eastgate (`tests/labs.rs` of the workspace).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
};

use eastgate_lab::{self as lab, LabError, Options, Record, Report};
use eastgate_testkit::{Facts, command::install, netns, wait::wait_for};

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_eastgate-lab");

/// "As it was" can be told only while no other test changes the machine.
static MACHINE: Mutex<()> = Mutex::new(());

fn alone() -> Option<MutexGuard<'static, ()>> {
    if netns::require_root().is_err() {
        eprintln!("skipped: needs root");
        return None;
    }
    Some(MACHINE.lock().unwrap_or_else(PoisonError::into_inner))
}

/// No host of these stories runs eastgate.
fn options() -> Options {
    Options { eastgate: "/bin/false".into(), ..Options::default() }
}

fn story(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name(name).to_str().unwrap().to_owned()
}

/// What a lab could leave behind.
fn machine() -> Facts {
    Facts::of_machine(Path::new("/run/eastgate")).unwrap()
}

/// It is as it was.
fn assert_as(before: &Facts) {
    assert_eq!(before.changes(&machine()), Vec::<String>::new());
}

fn assert_ok(report: &Report) {
    assert!(report.ok(), "\n{report}");
}

/// Up, check twice (a check leaves the lab as it found it), down.
#[test]
fn plain_vxlan() {
    let Some(_alone) = alone() else { return };
    let before = machine();
    let record = lab::up(&story("00-plain-vxlan"), &options()).unwrap();
    let result = (lab::check(&record.id, &options()), lab::check(&record.id, &options()));
    lab::down(&record.id, &options()).unwrap();
    assert_ok(&result.0.unwrap());
    assert_ok(&result.1.unwrap());
    assert_as(&before);
}

#[test]
fn two_labs_run_side_by_side() {
    let Some(_alone) = alone() else { return };
    let before = machine();
    let story = story("00-plain-vxlan");
    let first = lab::up(&story, &options()).unwrap();
    let second = lab::up(&story, &options()).unwrap();
    let ambiguous = lab::check(&story, &options());
    let (one, other) = thread::scope(|scope| {
        let one = scope.spawn(|| lab::check(&first.id, &options()));
        let other = scope.spawn(|| lab::check(&second.id, &options()));
        (one.join().unwrap(), other.join().unwrap())
    });
    lab::down(&first.id, &options()).unwrap();
    let after_the_first = lab::check(&second.id, &options());
    lab::down(&second.id, &options()).unwrap();
    assert!(matches!(ambiguous, Err(LabError::Ambiguous { .. })), "{ambiguous:?}");
    for report in [one, other, after_the_first] {
        assert_ok(&report.unwrap());
    }
    assert_as(&before);
}

/// A story of the test's own: everything as in `00-plain-vxlan`, and one thing more. Gone when it is dropped.
struct Variant(PathBuf);

impl Variant {
    fn new(name: &str, change: impl FnOnce(String, String) -> (String, String)) -> Self {
        let folder = std::env::temp_dir().join(format!("eastgate-labs-{}-{name}", std::process::id()));
        let from = story("00-plain-vxlan");
        let read = |file: &str| fs::read_to_string(Path::new(&from).join(file)).unwrap();
        let (topology, config) = change(read("topology.toml"), read("eastgate.toml"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("topology.toml"), topology).unwrap();
        fs::write(folder.join("eastgate.toml"), config).unwrap();
        Self(folder)
    }

    fn story(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Variant {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Every outcome that does not hold must be told: a check that cannot fail proves nothing.
#[test]
fn a_wrong_expectation_fails() {
    const WRONG: &str = r#"
        title = "everything expected here is wrong"
        [switch.fabric]
        subnets = ["192.0.2.0/24"]
        [vtep.alpha]
        flood = ["beta"]
        [vtep.beta]
        flood = ["alpha"]
        [vtep.gamma]
        [[expect]]
        story = "not refused"
        from = "acme/web1"
        to = "acme/db1"
        proto = "tcp"
        port = 5432
        outcome = "refused"
        [[expect]]
        story = "not reached"
        from = "acme/web1"
        to = "acme/far1"
        proto = "udp"
        port = 53
        [[expect]]
        story = "not silent"
        from = "acme/web1"
        to = "acme/db1"
        proto = "icmp"
        outcome = "refused"
        [[expect]]
        story = "not answered by a proxy"
        from = "acme/web1"
        to = "acme/db1"
        proto = "arp"
        answered_by = "proxy"
        [[expect]]
        story = "not answered by another"
        from = "acme/web1"
        to = "acme/db1"
        proto = "nd"
        answered_by = "acme/web2"
        [[expect]]
        story = "not stopped"
        from = "acme/web2"
        to = "acme/db1"
        proto = "udp"
        port = 53
        spoof = { address = "acme/web1" }
        outcome = "refused"
        [[expect]]
        story = "no stolen claim stopped"
        from = "acme/web2"
        to = "acme/db1"
        proto = "arp"
        spoof = { address = "acme/web1" }
        outcome = "refused"
        [[expect]]
        story = "no counter grew"
        from = "acme/web1"
        to = "acme/far1"
        proto = "tcp"
        port = 5432
        outcome = "refused"
        reason = "ingress-denied"
        [[expect]]
        story = "too big for the sender's own device"
        from = "acme/web1"
        to = "acme/db1"
        proto = "icmp"
        size = 1551
        [[expect]]
        story = "no such line"
        on = "alpha"
        run = ["ip", "link"]
        shows = "no such device"
    "#;
    let Some(_alone) = alone() else { return };
    let before = machine();
    let variant = Variant::new("wrong", |_, config| (WRONG.to_owned(), config));
    let report = lab::check(variant.story(), &options()).unwrap();
    assert!(!report.ok());
    let passed: Vec<_> = report.rows.iter().filter(|row| row.ok).collect();
    assert!(passed.is_empty(), "{passed:#?}\n{report}");
    let stories: BTreeSet<&str> = report.rows.iter().map(|row| row.story.as_str()).collect();
    assert_eq!(stories.len(), WRONG.matches("[[expect]]").count(), "\n{report}");
    assert_as(&before);
}

#[test]
fn a_command_that_fails_leaves_nothing_and_is_named() {
    let Some(_alone) = alone() else { return };
    let before = machine();
    let variant = Variant::new("failing", |topology, config| {
        // A group of the other family is refused by the kernel, after most of the lab is built.
        (topology.replace("[vtep.gamma]", "[vtep.gamma]\ngroup = \"ff05::1\""), config)
    });
    let error = lab::up(variant.story(), &options()).unwrap_err();
    assert!(
        matches!(&error, LabError::Command { command, .. } if command.contains("group ff05::1")),
        "{error}"
    );
    assert_as(&before);
}

#[test]
fn a_daemon_that_ends_is_told_with_its_log_and_leaves_nothing() {
    let Some(_alone) = alone() else { return };
    let before = machine();
    let variant = Variant::new("daemon", |topology, config| {
        let topology = topology.split("[[expect]]").next().unwrap().replace("[vtep.gamma]", "[host.gamma]");
        let gamma = config.replace("runs = \"vxlan\"\n\n[tenant.acme.network", "\n[tenant.acme.network");
        (topology, gamma)
    });
    let error = lab::up(variant.story(), &options()).unwrap_err();
    assert!(matches!(&error, LabError::Ended { host, .. } if host == "gamma"), "{error}");
    let nowhere = Options { eastgate: "/no/such/eastgate".into(), ..options() };
    let error = lab::up(variant.story(), &nowhere).unwrap_err();
    assert!(error.to_string().contains("/no/such/eastgate"), "{error}");
    assert_as(&before);
}

/// Starts the program with `up` and gives it when it has begun to build.
fn begin(story: &str) -> Child {
    let mut command = Command::new(PROGRAM);
    command.args(["up", story]).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().unwrap();
    let begun =
        || lab::list().unwrap().iter().any(|record| record.folder == Path::new(story) && has_begun(record));
    wait_for("the first namespace", begun);
    child
}

fn has_begun(record: &Record) -> bool {
    record.nodes.iter().any(|node| Path::new("/run/netns").join(&node.namespace).exists())
}

fn signal(child: &Child, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), signal).unwrap();
}

#[test]
fn ctrl_c_in_the_middle_leaves_nothing() {
    let Some(_alone) = alone() else { return };
    let before = machine();
    let variant = Variant::new("interrupted", large);
    let mut child = begin(variant.story());
    signal(&child, nix::sys::signal::Signal::SIGINT);
    let status = child.wait().unwrap();
    assert!(!status.success(), "{status}");
    assert_as(&before);
}

#[test]
fn what_a_killed_command_left_is_taken_down_later() {
    let Some(_alone) = alone() else { return };
    let before = machine();
    let variant = Variant::new("killed", large);
    let mut child = begin(variant.story());
    signal(&child, nix::sys::signal::Signal::SIGKILL);
    child.wait().unwrap();
    let left = lab::list().unwrap();
    let record =
        left.iter().find(|record| record.folder.to_str() == Some(variant.story())).expect("it is on record");
    lab::down(&record.id, &options()).unwrap();
    assert_as(&before);
}

/// A lab that takes a while to build.
fn large(topology: String, config: String) -> (String, String) {
    let more = |index: u8| {
        format!(
            "[tenant.acme.endpoint.more{index}]\nnetwork = \"lan\"\nhost = \"beta\"\n\
             mac = \"02:00:00:00:01:{index:02x}\"\naddresses = [\"10.1.0.{index}\"]\n"
        )
    };
    (topology, config + &(100..200).map(more).collect::<String>())
}

#[test]
fn what_runs_inside_a_lab_ends_with_it() {
    let Some(_alone) = alone() else { return };
    let before = machine();
    let record = lab::up(&story("00-plain-vxlan"), &options()).unwrap();
    let node = record.nodes.iter().find(|node| node.name == "acme/web1").unwrap();
    let mut inside =
        Command::new("ip").args(["netns", "exec", &node.namespace, "sleep", "600"]).spawn().unwrap();
    let name = PathBuf::from(format!("/proc/{}/comm", inside.id()));
    wait_for("the command inside", || fs::read_to_string(&name).is_ok_and(|name| name == "sleep\n"));
    lab::down(&record.id, &options()).unwrap();
    assert!(!inside.wait().unwrap().success());
    assert_as(&before);
}

#[test]
fn the_command_tells_by_its_exit_code() {
    let Some(_alone) = alone() else { return };
    let check = |story: &str| Command::new(PROGRAM).args(["check", story, "-o", "json"]).output().unwrap();
    let good = check(&story("00-plain-vxlan"));
    let report: serde_json::Value = serde_json::from_slice(&good.stdout).unwrap();
    assert_eq!(good.status.code(), Some(0), "{report:#}");
    assert!(report["rows"].as_array().unwrap().iter().all(|row| row["ok"] == true));
    let variant = Variant::new("exit-code", |topology, config| {
        (topology.replace("\"refused\"", "\"rejected\""), config)
    });
    assert_eq!(check(variant.story()).status.code(), Some(1));
}

#[test]
fn labs_work_from_any_folder() {
    let Some(_alone) = alone() else { return };
    let before = machine();
    let lab = |arguments: &[&str]| Command::new(PROGRAM).args(arguments).current_dir("/").output().unwrap();
    for story in [
        "00-plain-vxlan",
        "labs/01-two-hosts",
        "02-hub-and-spoke",
        "03-ipv6-underlay",
        "04-tiers",
        "10-vlan-trunk",
    ] {
        assert!(lab(&["graph", story]).status.success(), "{story}");
    }
    let checked = lab(&["check", "00-plain-vxlan"]);
    assert!(checked.status.success(), "{checked:?}");
    let nothing = lab(&["up", "no-such-lab"]);
    assert!(said(&nothing).contains("one of 00-plain-vxlan, 01-two-hosts"), "{nothing:?}");
    assert_as(&before);
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_ordinary_user_is_told_what_is_missing() {
    let Some(_alone) = alone() else { return };
    let folder = std::env::temp_dir().join(format!("eastgate-labs-{}-ordinary", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let program = folder.join("eastgate-lab");
    // The build's folder may be closed to others.
    install(PROGRAM.as_ref(), &program).unwrap();
    fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let ordinary = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps", "-all"]);
        command.arg(&program).args(arguments).current_dir("/").stdin(Stdio::null()).output().unwrap()
    };
    let refused = [
        &["up", "01-two-hosts"][..],
        &["check", "01-two-hosts"],
        &["down", "01-two-hosts"],
        &["down", "--all"],
        &["exec", "01-two-hosts", "alpha", "--", "true"],
    ]
    .map(|arguments| (arguments, ordinary(arguments)));
    let drawn = ordinary(&["graph", "01-two-hosts"]);
    fs::remove_dir_all(&folder).unwrap();
    for (arguments, output) in refused {
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        assert!(said(&output).contains("try again as root"), "{arguments:?}: {output:?}");
    }
    assert!(drawn.status.success(), "a picture needs no root: {drawn:?}");
}
