//! The labs as acceptance tests: each story is brought up, checked with real traffic and taken down, and leaves
//! the machine as it was.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use eastgate::{
    daemon::Dataplane,
    lab::{self, LabError, Options, Record, Report},
};

/// How long something that must happen may take.
const BOUND: Duration = Duration::from_secs(20);

/// "As it was" can be told only while no other test changes the machine.
static MACHINE: Mutex<()> = Mutex::new(());

fn alone() -> Option<MutexGuard<'static, ()>> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return None;
    }
    Some(MACHINE.lock().unwrap_or_else(PoisonError::into_inner))
}

fn options() -> Options {
    Options { eastgate: PathBuf::from(env!("CARGO_BIN_EXE_eastgate")), ..Options::new().unwrap() }
}

fn story(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("labs").join(name).to_str().unwrap().to_owned()
}

/// What a lab could leave behind.
#[derive(Debug, PartialEq, Eq)]
struct Machine {
    devices: BTreeSet<String>,
    namespaces: BTreeSet<String>,
    mounts: BTreeSet<String>,
    files: BTreeSet<PathBuf>,
    /// Processes that are in a namespace of a lab, or run a lab's daemon
    processes: BTreeSet<String>,
}

impl Machine {
    fn now() -> Self {
        let links: serde_json::Value =
            serde_json::from_str(&text(Command::new("ip").args(["-j", "link"]))).unwrap();
        let names = links.as_array().unwrap().iter().map(|link| link["ifname"].as_str().unwrap().to_owned());
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        Self {
            devices: names.collect(),
            namespaces: text(Command::new("ip").args(["netns", "list"])).lines().map(first_word).collect(),
            mounts: mounts.lines().filter(|line| line.contains("/eg-")).map(str::to_owned).collect(),
            files: files_below(Path::new("/run/eastgate")),
            processes: lab_processes(),
        }
    }
}

fn first_word(line: &str) -> String {
    line.split(' ').next().unwrap_or_default().to_owned()
}

fn files_below(folder: &Path) -> BTreeSet<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return BTreeSet::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| files_below(&path).into_iter().chain([path])).collect()
}

fn lab_processes() -> BTreeSet<String> {
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let describe = |path: PathBuf| {
        let command = std::fs::read_to_string(path.join("cmdline")).ok()?.replace('\0', " ");
        command.contains("/run/eastgate/labs/").then(|| format!("{} {command}", path.display()))
    };
    entries.filter_map(|entry| describe(entry.path())).collect()
}

fn text(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

fn assert_ok(report: &Report) {
    assert!(report.ok(), "\n{report}");
}

/// Up, check twice (a check leaves the lab as it found it), down; with both dataplanes.
fn passes(name: &str) {
    let Some(_alone) = alone() else { return };
    for dataplane in [Dataplane::Ebpf, Dataplane::Userspace] {
        let before = Machine::now();
        let options = Options { dataplane, ..options() };
        let record = lab::up(&story(name), &options).unwrap();
        let result = (lab::check(&record.id, &options), lab::check(&record.id, &options));
        lab::down(&record.id, &options).unwrap();
        assert_ok(&result.0.unwrap());
        assert_ok(&result.1.unwrap());
        assert_eq!(Machine::now(), before, "{dataplane:?}");
    }
}

#[test]
fn plain_vxlan() {
    passes("00-plain-vxlan");
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
fn two_labs_run_side_by_side() {
    let Some(_alone) = alone() else { return };
    let before = Machine::now();
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
    assert_eq!(Machine::now(), before);
}

/// A story of the test's own: everything as in `00-plain-vxlan`, and one thing more. Gone when it is dropped.
struct Variant(PathBuf);

impl Variant {
    fn new(name: &str, change: impl FnOnce(String, String) -> (String, String)) -> Self {
        let folder = std::env::temp_dir().join(format!("eastgate-labs-{}-{name}", std::process::id()));
        let from = story("00-plain-vxlan");
        let read = |file: &str| std::fs::read_to_string(Path::new(&from).join(file)).unwrap();
        let (topology, config) = change(read("topology.toml"), read("eastgate.toml"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("topology.toml"), topology).unwrap();
        std::fs::write(folder.join("eastgate.toml"), config).unwrap();
        Self(folder)
    }

    fn story(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Variant {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
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
    let before = Machine::now();
    let variant = Variant::new("wrong", |_, config| (WRONG.to_owned(), config));
    let report = lab::check(variant.story(), &options()).unwrap();
    assert!(!report.ok());
    let passed: Vec<_> = report.rows.iter().filter(|row| row.ok).collect();
    assert!(passed.is_empty(), "{passed:#?}\n{report}");
    let stories: BTreeSet<&str> = report.rows.iter().map(|row| row.story.as_str()).collect();
    assert_eq!(stories.len(), WRONG.matches("[[expect]]").count(), "\n{report}");
    assert_eq!(Machine::now(), before);
}

#[test]
fn a_command_that_fails_leaves_nothing_and_is_named() {
    let Some(_alone) = alone() else { return };
    let before = Machine::now();
    let variant = Variant::new("failing", |topology, config| {
        // A group of the other family is refused by the kernel, after most of the lab is built.
        (topology.replace("[vtep.gamma]", "[vtep.gamma]\ngroup = \"ff05::1\""), config)
    });
    let error = lab::up(variant.story(), &options()).unwrap_err();
    assert!(
        matches!(&error, LabError::Command { command, .. } if command.contains("group ff05::1")),
        "{error}"
    );
    assert_eq!(Machine::now(), before);
}

#[test]
fn a_daemon_that_ends_is_told_with_its_log_and_leaves_nothing() {
    let Some(_alone) = alone() else { return };
    let before = Machine::now();
    let variant = Variant::new("daemon", |topology, config| {
        let topology = topology.split("[[expect]]").next().unwrap().replace("[vtep.gamma]", "[host.gamma]");
        let gamma = config.replace("runs = \"vxlan\"\n\n[tenant.acme.network", "\n[tenant.acme.network");
        (topology, gamma)
    });
    let broken = Options { eastgate: "/bin/false".into(), ..options() };
    let error = lab::up(variant.story(), &broken).unwrap_err();
    assert!(matches!(&error, LabError::Ended { host, .. } if host == "gamma"), "{error}");
    assert_eq!(Machine::now(), before);
}

/// Starts `eastgate lab up` and gives it when it has begun to build.
fn begin(story: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eastgate"));
    command.args(["lab", "up", story]).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().unwrap();
    let begun =
        || lab::list().unwrap().iter().any(|record| record.folder == Path::new(story) && has_begun(record));
    wait_for("the first namespace", begun);
    child
}

fn has_begun(record: &Record) -> bool {
    record.nodes.iter().any(|node| Path::new("/run/netns").join(&node.namespace).exists())
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + BOUND;
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not happen in time");
        thread::sleep(Duration::from_millis(5));
    }
}

fn signal(child: &Child, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), signal).unwrap();
}

#[test]
fn ctrl_c_in_the_middle_leaves_nothing() {
    let Some(_alone) = alone() else { return };
    let before = Machine::now();
    let variant = Variant::new("interrupted", large);
    let mut child = begin(variant.story());
    signal(&child, nix::sys::signal::Signal::SIGINT);
    let status = child.wait().unwrap();
    assert!(!status.success(), "{status}");
    assert_eq!(Machine::now(), before);
}

#[test]
fn what_a_killed_command_left_is_taken_down_later() {
    let Some(_alone) = alone() else { return };
    let before = Machine::now();
    let variant = Variant::new("killed", large);
    let mut child = begin(variant.story());
    signal(&child, nix::sys::signal::Signal::SIGKILL);
    child.wait().unwrap();
    let left = lab::list().unwrap();
    let record =
        left.iter().find(|record| record.folder.to_str() == Some(variant.story())).expect("it is on record");
    lab::down(&record.id, &options()).unwrap();
    assert_eq!(Machine::now(), before);
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
    let before = Machine::now();
    let record = lab::up(&story("00-plain-vxlan"), &options()).unwrap();
    let node = record.nodes.iter().find(|node| node.name == "acme/web1").unwrap();
    let mut inside =
        Command::new("ip").args(["netns", "exec", &node.namespace, "sleep", "600"]).spawn().unwrap();
    let name = PathBuf::from(format!("/proc/{}/comm", inside.id()));
    wait_for("the command inside", || std::fs::read_to_string(&name).is_ok_and(|name| name == "sleep\n"));
    lab::down(&record.id, &options()).unwrap();
    assert!(!inside.wait().unwrap().success());
    assert_eq!(Machine::now(), before);
}

#[test]
fn the_command_tells_by_its_exit_code() {
    let Some(_alone) = alone() else { return };
    let check = |story: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_eastgate"));
        command.args(["lab", "check", story, "-o", "json"]).output().unwrap()
    };
    let good = check(&story("00-plain-vxlan"));
    let report: serde_json::Value = serde_json::from_slice(&good.stdout).unwrap();
    assert_eq!(good.status.code(), Some(0), "{report:#}");
    assert!(report["rows"].as_array().unwrap().iter().all(|row| row["ok"] == true));
    let variant = Variant::new("exit-code", |topology, config| {
        (topology.replace("\"refused\"", "\"rejected\""), config)
    });
    assert_eq!(check(variant.story()).status.code(), Some(1));
}
