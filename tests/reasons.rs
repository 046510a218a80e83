//! Each reason that a frame can be dropped for happens here, by frames from machines and from the underlay, and is told by the same name,
//! with the same rule and place, wherever one looks: `show drops`, `observe`, `trace`, the metrics, a capture as Wireshark reads it, and the
//! page in a browser.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

#[allow(dead_code, reason = "tests/page.rs has more to do with it")]
#[path = "page/browser.rs"]
mod browser;
#[allow(dead_code, reason = "the page of docs/attacks.md is made of the rest")]
#[path = "attacks/cases.rs"]
mod cases;
#[path = "reasons/scene.rs"]
mod scene;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::{Child, Command, Stdio},
};

use browser::{Browser, ENTER};
use common::{Daemon, EASTGATE, settle, wait_for};
use eastgate_testkit::process::Process;
use eastgate_wire::DropReason;
use scene::Scene;
use serde_json::Value;

/// What no frame from outside makes happen to a daemon that is well, each with the test that holds what is done then.
const ELSEWHERE: [(&str, &str); 6] = [
    // Of an endpoint that is written down, the sender is compared before anything is learned of it.
    ("mac-move-refused", "vtep/src/fdb/tests.rs::static_entries_never_age_and_never_move"),
    // What the kernel itself says where it routes, which takes a route of the machine's own that is wrong.
    ("not-an-answer", "dataplane/src/pipeline/tests/routed.rs"),
    ("overrun", "src/io/worker.rs"),
    ("queue-full", "src/io/batch_send/attachment.rs"),
    ("device-error", "src/io/batch_send/attachment.rs"),
    ("not-ready", "dataplane/src/pipeline/tests"),
];

/// The reasons that frames of the scene's own lead to; those of `tests/attacks/cases.rs` come before them.
const PROVOKED: [&str; 42] = [
    "vxlan-truncated",
    "vxlan-flags",
    "vxlan-reserved",
    "unknown-vtep",
    "unknown-vni",
    "outer-ecn",
    "inner-vlan",
    "unknown-endpoint",
    "split-horizon",
    "unknown-vlan",
    "unknown-station",
    "direct-frame",
    "unlearned",
    "vxlan-in-vxlan",
    "neighbor-unknown",
    "neighbor-own",
    "tcp-window",
    "tcp-state",
    "not-init",
    "sctp-tag",
    "sctp-state",
    "fragment-refused",
    "fragment-limit",
    "egress-denied",
    "egress-rule",
    "ingress-rule",
    "hairpin",
    "too-big",
    "no-peer",
    "port-gone",
    "vtep-unreachable",
    "ttl-exceeded",
    "not-for-us",
    "unresolved",
    "rule-limit",
    "new-flow-limit",
    "flow-limit",
    "mac-frozen",
    "mac-limit",
    "bum-limit",
    "neighbor-limit",
    "policy-changed",
];

/// In the programs alone.
const OF_THE_PROGRAMS: &str = "slow-path-limit";

/// `eastgate capture` to a file.
struct Captured(Child);

impl Captured {
    fn start(scene: &Scene, alpha: &Daemon) -> Self {
        let log = scene.site.world.path("capture.log");
        let mut command = scene.site.alpha.command(EASTGATE);
        command
            .args(["capture", "-w"])
            .arg(scene.site.world.path("all.pcapng"))
            .arg("--socket")
            .arg(alpha.socket());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
        let this = Self(command.spawn().unwrap());
        wait_for("it captures", || fs::read_to_string(&log).unwrap().contains("capturing at"));
        this
    }

    /// The words of each packet's comment, by the reason in it.
    fn by_reason(&self, scene: &Scene) -> BTreeMap<String, BTreeSet<String>> {
        let mut tshark = Command::new("tshark");
        tshark.arg("-r").arg(scene.site.world.path("all.pcapng")).args([
            "-T",
            "fields",
            "-e",
            "frame.comment",
        ]);
        let output = tshark.args(["-E", "occurrence=a"]).output().unwrap();
        let mut comments: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for comment in String::from_utf8_lossy(&output.stdout).lines() {
            if let Some((_, rest)) = comment.split_once("dropped ") {
                let reason = rest.split([';', ' ', ',']).next().unwrap();
                comments.entry(reason.to_owned()).or_default().insert(comment.to_owned());
            }
        }
        comments
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        if let Some(process) = Process::new(self.0.id().cast_signed()) {
            process.stop();
        }
        let _ = self.0.wait();
    }
}

/// What `show drops` has of a reason: rules and their places, and whether guests do it all the time.
#[derive(Clone, Debug, Default)]
struct Row {
    rules: BTreeSet<(String, String)>,
    chatter: bool,
}

fn rows(alpha: &Daemon) -> BTreeMap<String, Row> {
    let mut found: BTreeMap<String, Row> = BTreeMap::new();
    for row in alpha.ask(&["show", "drops", "--all"])["drops"].as_array().unwrap() {
        let of = found.entry(row["reason"].as_str().unwrap().to_owned()).or_default();
        of.chatter = row["class"] == "chatter";
        if let (Some(rule), Some(at)) = (row["rule"].as_str(), row["at"].as_str()) {
            of.rules.insert((rule.to_owned(), at.to_owned()));
        }
    }
    found
}

/// Reasons that events tell, each with its rules.
fn observed(alpha: &Daemon) -> BTreeMap<String, BTreeSet<(String, String)>> {
    let output = alpha.run(&["observe", "-o", "json", "--verdict", "dropped", "--last", "16384"]);
    let mut found: BTreeMap<String, BTreeSet<_>> = BTreeMap::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let rules = found.entry(event["reason"].as_str().unwrap().to_owned()).or_default();
        let by = &event["refused_by"];
        if let (Some(rule), Some(at)) = (by["rule"].as_str(), by["at"].as_str()) {
            rules.insert((rule.to_owned(), at.to_owned()));
        }
    }
    found
}

/// Reasons that the metrics count frames of.
fn measured(scene: &Scene) -> BTreeSet<String> {
    let output =
        scene.site.alpha.command("curl").args(["-s", "http://127.0.0.1:9464/metrics"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let series = text.lines().filter(|line| line.starts_with("eastgate_dropped_frames_total{"));
    series.filter_map(|line| Some(line.split_once("reason=\"")?.1.split_once('"')?.0.to_owned())).collect()
}

#[test]
fn each_reason_is_told_alike_wherever_one_looks() {
    for dataplane in ["userspace", "ebpf"] {
        let Some(mut scene) = Scene::new() else { return };
        let (page, token) = common::page::options(&scene.site.world, &[]);
        let more = ["--dataplane", dataplane, "--metrics", "127.0.0.1:9464"].map(str::to_owned);
        let options: Vec<String> = more.into_iter().chain(page).collect();
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let alpha = scene.site.run_more("alpha", &options);
        let captured = Captured::start(&scene, &alpha);
        let browser = Browser::start(&scene.site.world, &scene.site.alpha);
        let mut failures = Vec::new();
        let mut happened = BTreeSet::new();
        for case in cases::SECTIONS.iter().flat_map(|section| section.cases) {
            scene.attack(case.name);
            happened.insert(case.reason);
        }
        let programs = [OF_THE_PROGRAMS];
        let of_dataplane = if dataplane == "ebpf" { &programs[..] } else { &[] };
        for reason in PROVOKED.iter().chain(of_dataplane) {
            scene.provoke(&alpha, reason);
            happened.insert(reason);
        }
        let missing = |seen: &BTreeSet<String>| -> Vec<&str> {
            happened.iter().copied().filter(|reason| !seen.contains(*reason)).collect()
        };
        let counted = settle(|| rows(&alpha), |rows| missing(&rows.keys().cloned().collect()).is_empty());
        let lacks = missing(&counted.keys().cloned().collect());
        if !lacks.is_empty() {
            failures.push(format!("did not happen: {lacks:?}"));
        }
        // Each way of looking, against what is counted.
        let reasons: BTreeSet<String> = counted.keys().cloned().collect();
        let told: BTreeSet<String> =
            counted.iter().filter(|(_, row)| !row.chatter).map(|(reason, _)| reason.clone()).collect();
        let events =
            settle(|| observed(&alpha), |events| told.iter().all(|reason| events.contains_key(reason)));
        let comments = settle(
            || captured.by_reason(&scene),
            |comments| told.iter().all(|reason| comments.contains_key(reason)),
        );
        let metrics = settle(|| measured(&scene), |metrics| reasons.is_subset(metrics));
        for (reason, row) in &counted {
            let mut lacking = Vec::new();
            if !metrics.contains(reason) {
                lacking.push("metrics".to_owned());
            }
            if !row.chatter && !events.contains_key(reason) {
                lacking.push("observe".to_owned());
            }
            // What the kernel's routing says comes by a device of the daemon's, where nobody captures; and that a first fragment does not come is
            // known when the later one has long been written.
            let is_captured = !["not-an-answer", "fragment-first-missing"].contains(&reason.as_str());
            if !row.chatter && is_captured && !comments.contains_key(reason) {
                lacking.push("capture".to_owned());
            }
            for (rule, at) in &row.rules {
                if !events.get(reason).is_some_and(|rules| rules.contains(&(rule.clone(), at.clone()))) {
                    lacking.push(format!("observe: {rule} ({at})"));
                }
                // Of what the programs have refused by rules a packet may be told of too late to be known for it: then the words are
                // those of a walk, of the same rules.
                let is_known = dataplane == "userspace";
                let says = |it: &String| it.contains(rule.as_str()) && it.contains(at.as_str());
                if is_known && !comments.get(reason).is_some_and(|comments| comments.iter().any(says)) {
                    lacking.push(format!("capture: {rule} ({at})"));
                }
            }
            let is_packet = !NO_PACKETS.contains(&reason.as_str());
            if !row.chatter && is_packet {
                let output = alpha.run(&["trace", "--last", "--reason", reason]);
                let text = String::from_utf8_lossy(&output.stdout);
                if !text.contains(reason.as_str()) {
                    lacking.push(format!("trace: {text}{}", String::from_utf8_lossy(&output.stderr)));
                }
            }
            if !lacking.is_empty() {
                failures.push(format!("{reason}: {lacking:?}"));
            }
        }
        failures.extend(on_the_page(&browser, &token, &counted));
        assert!(failures.is_empty(), "{dataplane}:\n{}", failures.join("\n"));
    }
}

/// What the page lacks of what is counted: its sums by reason, and for each rule the row with its name and place.
fn on_the_page(browser: &Browser, token: &str, counted: &BTreeMap<String, Row>) -> Vec<String> {
    browser.open(&format!("{}/#/drops", common::page::ORIGIN));
    browser.wait("a token is asked for", "document.activeElement?.id === 'token'");
    browser.press(&format!("{token}{ENTER}"));
    browser.wait("the page", "document.querySelector('.drops-view .chart-and-legend')");
    let sums =
        "[...document.querySelectorAll('.chart-and-legend table tbody th')].map((it) => it.textContent)";
    let legend = |value: Value| -> BTreeSet<String> {
        value.as_array().into_iter().flatten().map(|it| it.as_str().unwrap().to_owned()).collect()
    };
    // What guests do all the time is left out there until one asks for it.
    let told = counted.iter().filter(|(_, row)| !row.chatter).map(|(reason, _)| reason);
    let shown = settle(
        || legend(browser.run(&format!("return {sums}"))),
        |shown| told.clone().all(|reason| shown.contains(reason)),
    );
    let mut lacking: Vec<String> = told
        .clone()
        .filter(|reason| !shown.contains(*reason))
        .map(|reason| format!("{reason}: the page"))
        .collect();
    for (reason, row) in counted {
        for (rule, at) in &row.rules {
            let words = serde_json::to_string(&format!("{reason} {rule}")).unwrap();
            browser.run(&format!(
                "const field = document.querySelector('.drops-view input[type=search]'); field.value = {words}; field.dispatchEvent(new Event('input'))"
            ));
            let row = settle(
                || {
                    browser
                        .run("return document.querySelector('.table-view').innerText")
                        .as_str()
                        .unwrap()
                        .to_owned()
                },
                |text| {
                    text.contains(reason.as_str())
                        && text.contains(rule.as_str())
                        && text.contains(at.as_str())
                },
            );
            if !(row.contains(reason.as_str()) && row.contains(rule.as_str()) && row.contains(at.as_str())) {
                lacking.push(format!("{reason}: the page's row of {rule} ({at}): {row}"));
            }
        }
    }
    lacking
}

/// A reason that is added has its case here, or a word on why not.
#[test]
fn each_reason_has_a_case() {
    let attacks = cases::SECTIONS.iter().flat_map(|section| section.cases).map(|case| case.reason);
    let elsewhere = ELSEWHERE.iter().map(|(reason, _)| *reason);
    let known: BTreeSet<&str> = attacks.chain(PROVOKED).chain([OF_THE_PROGRAMS]).chain(elsewhere).collect();
    let missing: Vec<&str> =
        DropReason::ALL.iter().map(|reason| reason.name()).filter(|name| !known.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert_eq!(known.len(), DropReason::ALL.len(), "there is no such reason");
}

/// What has no two addresses of one family and a protocol, of which `trace --last` could make one like it.
const NO_PACKETS: [&str; 12] = [
    "arp-malformed",
    "arp-spoofed",
    "ethertype-refused",
    "mapped-address",
    "neighbor-limit",
    "neighbor-unknown",
    "unknown-station",
    "unknown-vlan",
    "unknown-vni",
    "vlan-tagged",
    "vxlan-flags",
    "vxlan-truncated",
];
