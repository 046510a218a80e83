//! `eastgate doctor` and `eastgate support` on hosts that are well, and on hosts where something was really broken.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    os::fd::AsFd,
    path::Path,
    process::{Command, Output},
};

use common::{
    Daemon, EASTGATE, Machine, Space, bind_udp, hooks, must, running::Running, site::*, wait_within,
};
use eastgate_fastpath::{
    Guard,
    tcx::{self, Place, Way},
};
use eastgate_testkit::command::install;
use serde_json::Value;

fn ask(space: &Space, config: &Path, socket: Option<&Path>, more: &[&str]) -> Output {
    let mut command = space.command(EASTGATE);
    command.args(more).arg("--config").arg(config).args(["--host", "alpha", "--socket"]);
    // Beside the configuration, where nobody listens.
    command.arg(socket.map_or_else(|| config.with_file_name("nobody.sock"), Path::to_owned));
    command.output().unwrap()
}

/// Findings by name: how bad, and what was found.
struct Findings(BTreeMap<String, Vec<(String, String)>>, i32);

impl Findings {
    fn of(output: &Output) -> Self {
        let report: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no JSON: {output:?}"));
        let mut found = BTreeMap::<String, Vec<_>>::new();
        for finding in report["findings"].as_array().unwrap() {
            let text = |key: &str| finding[key].as_str().unwrap_or_default().to_owned();
            found.entry(text("id")).or_default().push((text("severity"), text("found")));
        }
        Self(found, output.status.code().unwrap())
    }

    fn has(&self, id: &str, severity: &str, says: &str) {
        let found = self.0.get(id).unwrap_or_else(|| panic!("no {id}: {:#?}", self.0));
        assert!(
            found.iter().any(|(how_bad, text)| how_bad == severity && text.contains(says)),
            "{id}: {found:?}"
        );
    }

    fn lacks(&self, ids: &[&str]) {
        for id in ids {
            assert!(!self.0.contains_key(*id), "{id}: {:?}", self.0[*id]);
        }
    }

    /// Whatever depends on the machine that runs the tests, and not on what they do.
    fn nothing_worse_than_a_note(&self) {
        let of_the_machine = ["memory", "host-conntrack", "open-files", "clock"];
        let worse = self.0.iter().filter(|(id, _)| !of_the_machine.contains(&&***id));
        let worse: Vec<_> =
            worse.filter(|(_, found)| found.iter().any(|(how_bad, _)| how_bad != "note")).collect();
        assert!(worse.is_empty(), "{worse:#?}");
    }
}

fn doctor(site: &Site, daemon: Option<&Daemon>) -> Findings {
    // Without a daemon, loading the fast path's programs takes a second.
    let dataplane = if daemon.is_some() { "auto" } else { "userspace" };
    let asked = ["doctor", "-o", "json", "--dataplane", dataplane];
    Findings::of(&ask(&site.alpha, &site.config, daemon.map(Daemon::socket), &asked))
}

#[test]
fn hosts_that_are_well_have_no_problem_and_asking_changes_nothing() {
    let Some(running) = Running::start() else { return };
    let site = &running.site;
    let alpha = running.daemons[0].as_ref().unwrap();
    let before = Machine::of(&site.alpha);
    let found = doctor(site, Some(alpha));
    found.nothing_worse_than_a_note();
    found.lacks(&[
        "not-looked-at",
        "settings",
        "vxlan-port",
        "foreign-program",
        "port-missing",
        "not-reloaded",
    ]);
    assert_eq!(before.changes(&Machine::of(&site.alpha)), Vec::<String>::new());
    // What is well is shown to who asks for it.
    let all = ask(&site.alpha, &site.config, Some(alpha.socket()), &["doctor", "--all"]);
    let text = String::from_utf8(all.stdout).unwrap();
    for well in ["ok       vxlan-port", "ok       settings", "ok       daemon", "ok       underlay-mtu"] {
        assert!(text.contains(well), "{text}");
    }
    // Another namespace has other devices.
    let beta = ask(&site.beta, &site.config, Some(alpha.socket()), &["doctor", "-o", "json"]);
    assert_eq!(beta.status.code(), Some(7));
    Findings::of(&beta).has("other-namespace", "warning", &alpha.pid().to_string());
    running.stop();
}

#[test]
fn what_is_broken_under_a_daemon_is_found() {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    site.rewrite(|text| text.replace("vni = 5001", "vni = 5001\nmtu = 1600"));
    let alpha = site.run("alpha");
    doctor(&site, Some(&alpha)).nothing_worse_than_a_note();

    site.alpha.ip("link set underlay0 mtu 1500");
    site.alpha.ip("link del veth-web2");
    site.alpha.set("net/ipv4/conf/veth-web1/arp_ignore", "0");
    wait_within(SOON, "the setting is put right", || alpha.ask(&["status"])["settings_restored"] != 0);
    // A filter of someone else's, by classic BPF.
    if !site.alpha.tc("qdisc show dev veth-web1").contains("clsact") {
        site.alpha.tc("qdisc add dev veth-web1 clsact");
    }
    let filter = [
        "filter",
        "add",
        "dev",
        "veth-web1",
        "ingress",
        "pref",
        "77",
        "bpf",
        "bytecode",
        "1,6 0 0 4294967295,",
        "da",
    ];
    let added = site.alpha.command("tc").args(filter).output().unwrap();
    assert!(added.status.success(), "{added:?}");
    // And a program of someone else's, where the kernel has lists of them.
    if tcx::is_available() {
        let guard = Guard::load().unwrap();
        site.alpha.enter(|| {
            tcx::attach(hooks::index_of("veth-web1"), Way::Egress, guard.only_marked.as_fd(), Place::Last)
                .unwrap();
        });
    }
    fs::write(&site.config, fs::read_to_string(&site.config).unwrap() + "\n[host.alpha]\n").unwrap();
    assert_eq!(alpha.run(&["reload"]).status.code(), Some(3));
    let broken = doctor(&site, Some(&alpha));
    broken.has("configuration", "problem", "error");
    broken.has("reload-refused", "warning", "");
    broken.has("settings-changed", "note", "1 setting");
    assert_eq!(broken.1, 6, "{:?}", broken.0);

    site.rewrite(|text| text.trim_end().trim_end_matches("[host.alpha]").replace("vni = 5001", "vni = 5002"));
    let found = doctor(&site, Some(&alpha));
    found.has("underlay-mtu", "warning", "lan (1600)");
    found.has("port-missing", "note", "veth-web2");
    found.has("foreign-filter", "note", "pref 77");
    if tcx::is_available() {
        found.has("foreign-program", "note", "only_marked at the egress of veth-web1, behind eastgate's");
    }
    assert_eq!(alpha.run(&["reload"]).status.code(), Some(0));
    site.rewrite(|text| text.replace("vni = 5002", "vni = 5003"));
    let found = doctor(&site, Some(&alpha));
    found.lacks(&["reload-refused", "configuration"]);
    found.has("not-reloaded", "note", "something else");
    assert_eq!(found.1, 7, "{:?}", found.0);

    alpha.kill();
    let socket = site.world.path("alpha.sock");
    let killed = Findings::of(&ask(&site.alpha, &site.config, Some(&socket), &["doctor", "-o", "json"]));
    killed.has("daemon", "note", "killed");
    killed.has("leftovers", "warning", "veth-web1");
    // From elsewhere it is one that runs under another socket.
    let again = site.run("alpha");
    doctor(&site, None).has("other-daemon", "warning", &again.pid().to_string());
}

#[test]
fn what_is_broken_before_the_first_start_is_found_and_nothing_is_changed() {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let before = Machine::of(&site.alpha);
    let found = Findings::of(&ask(&site.alpha, &site.config, None, &["doctor", "-o", "json"]));
    found.nothing_worse_than_a_note();
    found.has("daemon", "note", "none runs");
    assert_eq!(before.changes(&Machine::of(&site.alpha)), Vec::<String>::new());

    let listener = site.alpha.enter(|| bind_udp("0.0.0.0:4789"));
    let found = doctor(&site, None);
    found.has("vxlan-port", "problem", &std::process::id().to_string());
    drop(listener);
    doctor(&site, None).lacks(&["vxlan-port"]);
    site.alpha.ip("link add kernel-vx type vxlan id 77 dstport 4789 dev underlay0");
    site.alpha.ip("link set kernel-vx up");
    doctor(&site, None).has("vxlan-port", "problem", "vxlan device kernel-vx");
    site.alpha.ip("link del kernel-vx");

    site.alpha.ip("addr del 192.0.2.1/24 dev underlay0");
    site.alpha.ip("link set underlay0 down");
    let found = doctor(&site, None);
    found.has("underlay-address", "problem", "192.0.2.1");
    found.has("underlay-device", "problem", "down");
    assert_eq!(found.1, 6);
}

#[test]
fn whoever_is_not_root_is_told_what_was_not_looked_at() {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let alpha = site.run("alpha");
    let binary = site.world.path("eastgate");
    must(install(EASTGATE.as_ref(), &binary));
    let mut command = site.alpha.command("setpriv");
    command.args([
        "--reuid",
        "65534",
        "--regid",
        "65534",
        "--clear-groups",
        "--bounding-set",
        "-all",
        "--inh-caps",
        "-all",
    ]);
    command.arg(&binary).args(["doctor", "-o", "json", "--host", "alpha", "--config"]).arg(&site.config);
    let output = command.arg("--socket").arg(alpha.socket()).output().unwrap();
    let found = Findings::of(&output);
    found.has("not-looked-at", "note", "the daemon: ");
    found.has("not-looked-at", "note", "CAP_NET_ADMIN");
    found.lacks(&["vxlan-port"]);
}

/// Files of an archive by their names in its folder, as the system's own `tar` unpacks them.
fn unpacked(archive: &Path) -> BTreeMap<String, String> {
    let folder = archive.with_extension("unpacked");
    fs::create_dir(&folder).unwrap();
    let output = Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(&folder).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.clone()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let below =
                path.strip_prefix(&folder).unwrap().components().skip(1).collect::<std::path::PathBuf>();
            files.insert(
                below.to_str().unwrap().to_owned(),
                String::from_utf8_lossy(&fs::read(&path).unwrap()).into(),
            );
        }
    }
    files
}

#[test]
fn an_archive_has_what_helps_and_nothing_that_is_secret() {
    use std::os::unix::fs::PermissionsExt;
    let Some(site) = Site::new(HOSTS_V4) else { return };
    site.rewrite(|text| {
        let text =
            text.replace("[tenant.acme.group.all]", "[tenant.acme.group.all]\ndescription = \"of Mallory\"");
        format!("# the password is hunter2\n{text}")
    });
    let before = Machine::of(&site.alpha);
    let alpha = site.run_more("alpha", &["--dataplane", "userspace", "--metrics", "127.0.0.1:9473"]);
    let running = Machine::of(&site.alpha);
    let archive = site.world.path("it.tar.gz");
    let pack = |more: &[&str], archive: &Path| {
        let mut command = site.alpha.command(EASTGATE);
        command
            .env("SOME_TOKEN", "tok3n")
            .args(["support", "--metrics", "127.0.0.1:9473", "--config"])
            .arg(&site.config);
        command
            .args(["--host", "alpha", "--socket"])
            .arg(alpha.socket())
            .args(more)
            .arg("--file")
            .arg(archive);
        command.output().unwrap()
    };
    let output = pack(&[], &archive);
    assert!(output.status.success(), "{output:?}");
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!(fs::metadata(&archive).unwrap().permissions().mode() & 0o777, 0o600);
    let files = unpacked(&archive);
    let wanted = [
        "doctor.json",
        "doctor.txt",
        "version.txt",
        "status.json",
        "endpoints.json",
        "flows.json",
        "drops.json",
        "rules.json",
        "events.json",
        "metrics.txt",
        "plan.json",
        "kernel.json",
        "links.txt",
        "sysctl.txt",
        "devices.json",
        "config/01-eastgate.toml",
    ];
    for name in wanted {
        assert!(files.contains_key(name), "no {name}: {:?}\n{told}", files.keys());
        assert!(told.contains(name), "{told}");
    }
    assert!(
        files["status.json"].contains("192.0.2.1") && files["config/01-eastgate.toml"].contains("vni = 5001")
    );
    assert!(files["metrics.txt"].contains("eastgate_info"), "{}", files["metrics.txt"]);
    for (name, text) in &files {
        for secret in ["hunter2", "Mallory", "tok3n"] {
            assert!(!text.contains(secret), "{name} has {secret}");
        }
    }
    // What is there is not overwritten.
    let again = pack(&[], &archive);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("is not overwritten"), "{again:?}");

    let redacted = site.world.path("redacted.tar.gz");
    let output = pack(&["--redact"], &redacted);
    assert!(output.status.success(), "{output:?}");
    for (name, text) in unpacked(&redacted) {
        for told in ["acme", "web1", "192.0.2.1", "10.1.0.11", "fd00:1::11", "02:00:00:00:00:11", "db1"] {
            assert!(!text.contains(told) && !name.contains(told), "{name} has {told}");
        }
    }

    // Errors show the lines that they are about, with what stands behind.
    site.rewrite(|text| text.replacen("vni = 5001", "vni = \"x\" # hunter2 of Mallory", 1));
    assert_eq!(alpha.run(&["reload"]).status.code(), Some(3));
    for (more, name) in [(&[][..], "broken.tar.gz"), (&["--redact"], "broken-redacted.tar.gz")] {
        let archive = site.world.path(name);
        let output = pack(more, &archive);
        assert!(output.status.success(), "{output:?}");
        let files = unpacked(&archive);
        assert!(files["doctor.txt"].contains("reload-refused"), "{}", files["doctor.txt"]);
        assert_eq!(files.keys().any(|name| name.starts_with("config/")), more.is_empty(), "{files:?}");
        for (name, text) in &files {
            for secret in ["hunter2", "Mallory"] {
                assert!(!text.contains(secret), "{name} has {secret}: {text}");
            }
        }
    }
    assert_eq!(running.changes(&Machine::of(&site.alpha)), Vec::<String>::new());
    assert!(alpha.stop().success());
    assert_eq!(before.changes(&Machine::of(&site.alpha)), Vec::<String>::new());
}
