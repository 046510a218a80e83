//! A version of the configuration beside the one in force, on real traffic in both dataplanes: what it would do otherwise is told,
//! and nothing is done; then it is put in force, or thrown away.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::fs;

use common::{Daemon, Stream, site::*, wait_for};
use serde_json::Value;

/// A port that a policy denies, which the staged version does not have.
const BY_RULE: u16 = 7002;

const POLICY: &str = "[policy.old]\napplies_to = \"site\"\ningress = [{ action = \"deny\", proto = \"udp\", ports = 7002, from = \"any\" }]\n";

/// The staged version allows 7001 in place of 7000, has no policy, and says nothing else.
fn write_next(site: &Site) -> String {
    site.rewrite(|text| text.replace("ports = [7000]", "ports = [7000, 7002]") + POLICY);
    let text = fs::read_to_string(&site.config).unwrap();
    let next = site.config.with_file_name("next.toml");
    fs::write(&next, text.replace("ports = [7000, 7002]", "ports = [7001, 7002]").replace(POLICY, ""))
        .unwrap();
    next.to_str().unwrap().to_owned()
}

fn staged(daemon: &Daemon) -> Value {
    daemon.ask(&["policy", "staged"])
}

/// The one row of this kind, if there is one
fn row<'r>(rows: &'r Value, change: &str, port: u16) -> Option<&'r Value> {
    let mut fitting =
        rows["rows"].as_array().unwrap().iter().filter(|row| row["change"] == change && row["port"] == port);
    let found = fitting.next();
    assert_eq!(fitting.next(), None, "{rows:#}");
    found
}

fn rule<'r>(row: &'r Value, whose: &str) -> &'r str {
    let [rule] = &row[whose].as_array().unwrap()[..] else { panic!("{row:#}") };
    assert!(rule["at"].as_str().unwrap().contains("toml:"), "{row:#}");
    rule["rule"].as_str().unwrap()
}

fn is_told_and_then_promoted(dataplane: &str) {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let next = write_next(&site);
    let daemons = ["alpha", "beta"].map(|host| site.run_with(host, dataplane));
    let flows = Flows::start(&site);
    let by_rule =
        [(21, 9001), (12, 9002)].map(|(to, from)| Stream::start(&site.web1, udp(11, from), udp(to, BY_RULE)));
    flows.allowed_arrive("before");
    let before = fs::read_to_string(&site.config).unwrap();

    // Each host tells what concerns its own endpoint: db1 at beta, web2 at alpha.
    for (daemon, to) in daemons.iter().zip(["acme/web2", "acme/db1"]) {
        assert_eq!(staged(daemon)["config"], Value::Null);
        let done = daemon.ask(&["policy", "stage", &next]);
        assert!(done["count"].as_u64() >= Some(1), "{done:#}");
        assert_eq!(done["changes"]["groups"]["changed"], serde_json::json!(["acme/all"]), "{done:#}");
        wait_for("both differences are told", || {
            let rows = staged(daemon);
            row(&rows, "would-be-refused", ALLOWED).is_some()
                && [DENIED, BY_RULE].into_iter().all(|port| row(&rows, "would-pass", port).is_some())
        });
        let rows = staged(daemon);
        let refused = row(&rows, "would-be-refused", ALLOWED).unwrap();
        assert_eq!((&refused["to"], &refused["from"]), (&to.into(), &"acme/web1".into()), "{refused:#}");
        assert_eq!(rule(refused, "staged"), "default deny: no rule of acme/all allows it");
        let admitted = refused["in_force"].as_array().unwrap();
        assert_eq!(admitted.last().unwrap()["rule"], "acme/all ingress #1", "{refused:#}");
        let passes = row(&rows, "would-pass", DENIED).unwrap();
        assert_eq!(rule(passes, "in_force"), "default deny: no rule of acme/all, policy old allows it");
        assert_eq!(
            passes["staged"].as_array().unwrap().last().unwrap()["rule"],
            "acme/all ingress #1",
            "{passes:#}"
        );
        let passes = row(&rows, "would-pass", BY_RULE).unwrap();
        assert_eq!(rule(passes, "in_force"), "policy old ingress #1");
        assert_eq!(rows["total"], 3, "{rows:#}");
    }
    // A flow that begins afterwards is told too, in the same row.
    let count = |rows: &Value| row(rows, "would-be-refused", ALLOWED).unwrap()["count"].as_u64().unwrap();
    let had = count(&staged(&daemons[0]));
    let another = Stream::start(&site.web1, udp(11, 9000), udp(12, ALLOWED));
    wait_for("a flow that begins is held against it", || count(&staged(&daemons[0])) > had);
    drop(another);
    // All the while the version in force decides.
    flows.allowed_arrive("while another version is staged");
    flows.denied_never_arrived();
    drop(by_rule);

    for daemon in &daemons {
        // The other host may share the file, and has promoted it: then the file is in force by a reload.
        if fs::read_to_string(&site.config).unwrap() == before {
            let done = daemon.ask(&["policy", "promote"]);
            assert_eq!(done["changes"]["groups"]["changed"], serde_json::json!(["acme/all"]), "{done:#}");
        } else {
            daemon.ask(&["reload"]);
        }
        assert_eq!(staged(daemon)["config"], Value::Null, "what is in force is not staged any more");
    }
    assert_eq!(fs::read_to_string(site.config.with_file_name("eastgate.toml.before")).unwrap(), before);
    for (stream, sink) in &flows.denied {
        stream.arrives("what was refused arrives", sink);
    }
    for (stream, sink) in &flows.allowed {
        assert!(stream.is_cut(sink, 50), "what the version in force does not allow goes on");
    }
}

#[test]
fn what_a_staged_version_would_do_is_told_by_the_pipeline_and_then_done() {
    is_told_and_then_promoted("userspace");
}

#[test]
fn what_a_staged_version_would_do_is_told_of_flows_in_the_kernel_and_then_done() {
    is_told_and_then_promoted("ebpf");
}

#[test]
fn what_cannot_be_staged_or_promoted_is_refused_and_changes_nothing() {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let daemon = site.run_with("alpha", "userspace");
    let said = |command: &[&str]| {
        let output = daemon.run(command);
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, text) = said(&["policy", "promote"]);
    assert!(code == Some(1) && text.contains("nothing is staged"), "{text}");
    let next = write_next(&site);
    let before = fs::read_to_string(&site.config).unwrap();
    daemon.ask(&["policy", "stage", &next]);
    let digest = staged(&daemon)["digest"].clone();
    // A version with an error is told with its place, and the staged one stays.
    let broken = site.config.with_file_name("broken.toml");
    fs::write(&broken, before.replace("ports = [7000, 7002]", "ports = [70000]")).unwrap();
    let (code, text) = said(&["policy", "stage", broken.to_str().unwrap()]);
    assert!(code == Some(3) && text.contains("broken.toml:"), "{code:?} {text}");
    assert_eq!(staged(&daemon)["digest"], digest);
    // What is promoted is what was tried.
    fs::write(&next, before.replace("[7000, 7002]", "[7001]")).unwrap();
    let (code, text) = said(&["policy", "promote"]);
    assert!(code == Some(1) && text.contains("is not as it was staged"), "{text}");
    // What a file includes is named from its folder.
    let elsewhere = site.config.parent().unwrap().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("next.toml"), before.replace("[7000, 7002]", "[7001]")).unwrap();
    daemon.ask(&["policy", "stage", elsewhere.join("next.toml").to_str().unwrap()]);
    let (code, text) = said(&["policy", "promote"]);
    assert!(code == Some(1) && text.contains("where the configuration is"), "{text}");
    assert_eq!(fs::read_to_string(&site.config).unwrap(), before);

    assert_eq!(daemon.ask(&["policy", "unstage"])["count"], 1);
    assert_eq!(daemon.ask(&["policy", "unstage"])["count"], 0);
    assert_eq!(staged(&daemon)["config"], Value::Null);
}
