//! What `eastgate plan` prints is what `run` carries out, and what it says undoes it is what a stop does: held against what the
//! daemon tells of its steps, and against what is then found on the machine.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{collections::BTreeSet, path::Path};

use common::{BpfFs, Daemon, EASTGATE, Machine, hooks, site::*, wait_for};
use eastgate_fastpath::tcx::{self, Way};
use serde_json::Value;

const DATAPLANES: [&str; 2] = ["userspace", "ebpf"];

/// What the names of eastgate's own devices begin with
const OWN: [&str; 3] = ["eastgate-", "eg-in-", "eg-rt-"];

/// The steps of a plan, without its notes.
fn plan(site: &Site, socket: &Path, options: &[&str]) -> Vec<Value> {
    let mut plan = site.alpha.command(EASTGATE);
    plan.arg("plan").arg("--config").arg(&site.config).args(["--host", "alpha", "-o", "json"]);
    let output = plan.arg("--socket").arg(socket).args(options).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let is_note =
        |line: &Value| ["note", "missing", "refuse port"].contains(&line["action"].as_str().unwrap());
    lines.into_iter().filter(|line| !is_note(line)).collect()
}

/// What the daemon has logged under a name.
fn told(log: &str, what: &str) -> Vec<Value> {
    let told = log.lines().filter_map(|line| {
        let line: Value = serde_json::from_str(line).ok()?;
        serde_json::from_str(line["fields"][what].as_str()?).ok()
    });
    told.collect()
}

fn start(site: &Site, options: &[&str]) -> Daemon {
    let environment = ["EASTGATE_LOG=info,eastgate::plan=debug"];
    let options = [options, &["--log-format", "json"]].concat();
    Daemon::start_with_environment(&site.world, &site.alpha, &site.config, "alpha", &environment, &options)
}

fn text<'v>(line: &'v Value, field: &str) -> &'v str {
    line[field].as_str().unwrap_or_default()
}

/// Settings of devices that were there before, as they are found now.
fn settings_written(changes: &[String]) -> BTreeSet<String> {
    let settings = |sign: char| {
        let lines = changes.iter().filter_map(move |line| line.strip_prefix(sign)?.trim().split_once(" = "));
        lines.filter_map(|(path, value)| Some((path.strip_prefix("/proc/sys/")?, value)))
    };
    let before: BTreeSet<&str> = settings('-').map(|(path, _)| path).collect();
    settings('+')
        .filter(|(path, _)| before.contains(path))
        .map(|(path, value)| format!("{path} {value}"))
        .collect()
}

/// What the steps say is found on the machine, and nothing beyond that.
fn assert_found(site: &Site, steps: &[Value], changes: &[String]) {
    let of = |action: &'static str| steps.iter().filter(move |step| step["action"] == action);
    let own = |step: &&Value| OWN.iter().any(|own| text(step, "object").contains(own));
    // A later write of the same file counts.
    let mut wanted = std::collections::BTreeMap::new();
    for step in of("set").filter(|step| !own(step)) {
        wanted.insert(text(step, "object"), text(step, "detail").rsplit(' ').next().unwrap());
    }
    let wanted: BTreeSet<String> = wanted.iter().map(|(file, value)| format!("{file} {value}")).collect();
    assert!(!wanted.is_empty());
    assert_eq!(settings_written(changes), wanted);
    for step in of("set").filter(own) {
        let file = text(step, "object").to_owned();
        let value = site.alpha.enter(move || std::fs::read_to_string(format!("/proc/sys/{file}")).unwrap());
        assert_eq!(value.trim(), text(step, "detail").trim_start_matches("-> "), "{step}");
    }
    let links = |line: &String| {
        let link: Value = serde_json::from_str(line.strip_prefix('+')?.trim().strip_prefix("link ")?).ok()?;
        Some(text(&link, "ifname").to_owned()).filter(|name| OWN.iter().any(|own| name.starts_with(own)))
    };
    let made: BTreeSet<String> = changes.iter().filter_map(links).collect();
    let mut wanted = BTreeSet::new();
    for step in of("make veth").chain(of("make vxlan")) {
        wanted.insert(text(step, "object").to_owned());
        let peer = text(step, "detail").strip_prefix("with ").and_then(|rest| rest.split(',').next());
        wanted.extend(peer.map(str::to_owned));
    }
    assert_eq!(made, wanted);
    let devices = ["veth-web1", "veth-web2", "underlay0", "eastgate-vx0", "eg-in-5001"];
    for device in devices.into_iter().filter(|device| made.contains(*device) || !device.starts_with('e')) {
        let step = of("attach").find(|step| step["object"] == device);
        let detail = step.map_or("", |step| text(step, "detail"));
        for way in [Way::Ingress, Way::Egress] {
            let mut sides = detail.split_once(": ").map_or("", |(_, sides)| sides).split("; ");
            let side = sides.find_map(|side| side.strip_prefix(way.name())?.strip_prefix(' ')).unwrap_or("");
            if detail.starts_with("tcx") {
                assert_eq!(
                    hooks::names(&site.alpha, device, way).join(" + "),
                    side,
                    "{device} {}",
                    way.name()
                );
            } else {
                let filters = site.alpha.tc(&format!("filter show dev {device} {}", way.name()));
                let loaded = ["tenant", "underlay", "tunnel"].contains(&side);
                assert_eq!(filters.contains("0xea57"), !side.is_empty(), "{device}: {filters}");
                assert!(!loaded || filters.contains(&format!("name {side}")), "{device}: {filters}");
            }
        }
    }
}

/// `keys` are the network's, besides.
fn holds(options: &[&str], pinned: bool, keys: &str) {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let written = acme_on(HOSTS_V4).replace("vni = 5001\n", &format!("vni = 5001\n{keys}"));
    std::fs::write(&site.config, written).unwrap();
    let bpffs = pinned.then(|| BpfFs::mount(site.world.path("bpffs")));
    let pin = bpffs.as_ref().map(|bpffs| bpffs.0.to_str().unwrap().to_owned());
    let mut options = options.to_vec();
    options.extend(pin.iter().flat_map(|pin| ["--pin", pin]));
    // What is written, and given back, then includes `all` and values of others.
    site.alpha.set("net/ipv4/conf/all/arp_ignore", "3");
    let before = Machine::of(&site.alpha);
    let socket = site.world.path("alpha.sock");
    let planned = plan(&site, &socket, &options);
    assert_eq!(before.changes(&Machine::of(&site.alpha)), Vec::<String>::new(), "a plan changes nothing");

    let alpha = start(&site, &options);
    assert_eq!(told(&alpha.log(), "step"), planned, "{options:?}");
    let adds = planned.iter().filter(|step| step["action"] == "add").count();
    assert_eq!(adds > 0, keys.contains("kernel"), "{planned:#?}");
    assert_found(&site, &planned, &before.changes(&Machine::of(&site.alpha)));
    if let Some(bpffs) = &bpffs {
        let pins = planned.iter().any(|step| step["action"] == "pin");
        assert_eq!(bpffs.entries().0, usize::from(pins));
    }

    let log = site.world.path("alpha.log");
    assert!(alpha.stop().success());
    let undone = told(&std::fs::read_to_string(log).unwrap(), "undone");
    let pair = |object: &str, undo: &str| (object.to_owned(), undo.to_owned());
    let done: BTreeSet<_> =
        undone.iter().map(|line| pair(text(line, "object"), text(line, "undo"))).collect();
    let mut seen = BTreeSet::new();
    let planned = planned.iter().filter(|step| !text(step, "undo").starts_with('('));
    // What was there before the first write of a file is what is given back.
    let first =
        planned.filter(|step| step["action"] != "set" || seen.insert(text(step, "object").to_owned()));
    let promised: BTreeSet<_> = first.map(|step| pair(text(step, "object"), text(step, "undo"))).collect();
    assert_eq!(done, promised, "{options:?}");
    assert_eq!(before.changes(&Machine::of(&site.alpha)), Vec::<String>::new());
}

#[test]
fn what_plan_prints_is_carried_out_and_undone() {
    let by = if tcx::is_available() { &["tcx", "clsact"][..] } else { &["clsact"] };
    for attach in by {
        for dataplane in DATAPLANES {
            for pinned in [false, true] {
                let options = ["--dataplane", dataplane, "--attach", attach, "--metrics", "127.0.0.1:9473"];
                holds(&options, pinned, "");
            }
        }
    }
}

/// Where the kernel routes: its devices, rules, routes, neighbours and those that it answers for.
#[test]
fn the_kernels_routing_is_planned_carried_out_and_undone() {
    for dataplane in DATAPLANES {
        holds(&["--dataplane", dataplane], false, "neighbors = \"kernel\"\n");
    }
}

/// What follows from what a daemon before has left, in the kernel and on the bpffs, is planned too.
#[test]
fn what_follows_a_killed_daemon_is_planned_too() {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let bpffs = BpfFs::mount(site.world.path("bpffs"));
    let pinned = ["--dataplane", "ebpf", "--pin", bpffs.0.to_str().unwrap()];
    let before = Machine::of(&site.alpha);
    let socket = site.world.path("alpha.sock");
    let mut alpha = start(&site, &pinned);
    let mut log = String::new();
    for options in [&pinned[..], &pinned[..2], &pinned[..], &["--dataplane", "userspace"]] {
        alpha.kill();
        let planned = plan(&site, &socket, options);
        log.clone_from(&std::fs::read_to_string(site.world.path("alpha.log")).unwrap());
        alpha = start(&site, options);
        let steps = told(&alpha.log()[log.len()..], "step");
        // Programs that go on are not attached again, nor is a guard that stands.
        let of = |steps: &[Value]| -> Vec<Value> {
            steps.iter().filter(|step| step["action"] != "attach").cloned().collect()
        };
        assert_eq!(of(&steps), of(&planned), "{options:?}");
        for step in steps {
            assert!(planned.contains(&step), "{options:?}: {step}");
        }
        wait_for("it is ready", || alpha.ask(&["status"])["ready"] == true);
    }
    assert!(alpha.stop().success());
    assert_eq!(before.changes(&Machine::of(&site.alpha)), Vec::<String>::new());
}
