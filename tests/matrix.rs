//! `eastgate show matrix`: who may reach whom is what `policy who` says of the file; who did and who was refused is what was sent.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{collections::BTreeSet, fs};

use common::{Daemon, Requester, Stream, eastgate, site::*, wait_for};
use serde_json::{Value, json};

/// Web servers may send a database datagrams, from one of them as long as a policy is being tried out.
const GROUPS: &str = r#"
[tenant.acme.group.web]
egress = [{ to = "any" }]
ingress = [{ proto = "icmp", from = "any" }]

[tenant.acme.group.db]
ingress = [{ proto = "udp", ports = 7000, from = "group:web" }, { proto = "tcp", ports = [5432], from = "10.1.0.11" }]

[tenant.acme.policy.planned]
mode = "audit"
applies_to = "group:db"
ingress = [{ action = "deny", proto = "udp", ports = 7000, from = "10.1.0.12" }]
"#;

fn write_groups(site: &Site) {
    site.rewrite(|text| {
        let (head, endpoints) = text.split_once("\n[tenant.acme.endpoint.web1]").unwrap();
        let hosts = head.split_once("\n[tenant.acme.group.all]").unwrap().0;
        let (webs, db) = endpoints.split_once("\n[tenant.acme.endpoint.db1]").unwrap();
        let of = |text: &str, group: &str| text.replace("[\"all\"]", group);
        let (webs, db) = (of(webs, "[\"web\"]"), of(db, "[\"db\"]"));
        format!("{hosts}{GROUPS}\n[tenant.acme.endpoint.web1]{webs}\n[tenant.acme.endpoint.db1]{db}")
    });
}

fn row<'r>(rows: &'r Value, from: &str, to: &str) -> &'r Value {
    let mut fitting =
        rows["matrix"].as_array().unwrap().iter().filter(|row| row["from"] == from && row["to"] == to);
    let found = fitting.next();
    assert_eq!(fitting.next(), None, "{rows:#}");
    found.unwrap_or_else(|| panic!("no row from {from} to {to}: {rows:#}"))
}

/// What passes, with the rules of both sides, as text
fn passages(all: &Value, egress: &str, ingress: &str) -> BTreeSet<String> {
    let all = all.as_array().map_or(&[][..], Vec::as_slice);
    let rule = |row: &Value, side: &str| row[side]["rule"].as_str().unwrap_or("-").to_owned();
    all.iter().map(|it| format!("{} {} {}", it["services"], rule(it, egress), rule(it, ingress))).collect()
}

fn is_told(dataplane: &str) {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    write_groups(&site);
    let daemons = ["alpha", "beta"].map(|host| site.run_with(host, dataplane));
    let beta = &daemons[1];
    let streams = [
        Stream::start(&site.web1, udp(11, 9000), udp(21, ALLOWED)),
        Stream::start(&site.web1, udp(11, 9001), udp(21, DENIED)),
        Stream::start(&site.web2, udp(12, 9002), udp(21, ALLOWED)),
    ];
    let seen = |field: &str| row(&beta.ask(&["show", "matrix"]), "acme/web", "acme/db")[field].as_u64();
    wait_for("flows, refusals and audit are told", || {
        ["flows", "refused", "would_deny"].iter().all(|field| seen(field) > Some(0))
    });

    let rows = beta.ask(&["show", "matrix"]);
    assert_eq!(rows["total"], 4, "{rows:#}");
    let web_to_db = row(&rows, "acme/web", "acme/db");
    assert_eq!((&web_to_db["pairs"], &web_to_db["passing"]), (&json!(2), &json!(2)), "{web_to_db:#}");
    assert_eq!((&web_to_db["vni"], &web_to_db["network"]), (&json!(5001), &json!("acme/lan")));
    let by = &web_to_db["refused_by"][0];
    assert!(by["rule"].as_str().unwrap().contains("no rule of acme/db"), "{web_to_db:#}");
    assert!(by["at"].as_str().unwrap().contains("eastgate.toml:"), "{web_to_db:#}");
    let audits: Vec<&Value> =
        web_to_db["passages"].as_array().unwrap().iter().filter(|it| it["audit"] == true).collect();
    assert_eq!(audits.len(), 1, "{web_to_db:#}");
    assert_eq!((&audits[0]["services"], &audits[0]["pairs"]), (&json!(["udp 7000"]), &json!(1)));
    assert_eq!(audits[0]["ingress"]["rule"], "acme/policy planned ingress #1", "{web_to_db:#}");
    let back = row(&rows, "acme/db", "acme/web");
    assert_eq!((&back["passing"], &back["passages"]), (&json!(0), &Value::Null), "{back:#}");
    let among = row(&rows, "acme/web", "acme/web");
    assert_eq!((&among["pairs"], &among["passing"]), (&json!(2), &json!(2)), "nobody sends to itself");

    held_against_who(&site, beta);
    narrowed_and_in_parts(beta, &rows);
    staged_is_marked(&site, beta);
    drop(streams);

    let text = String::from_utf8(beta.run(&["show", "matrix"]).stdout).unwrap();
    assert!(text.contains("udp 7000") && text.contains("acme/db ingress #1"), "{text}");
    assert!(text.contains("2 more pairs of which nothing may pass"), "{text}");
    daemons.into_iter().for_each(|daemon| assert!(daemon.stop().success()));
}

/// Between each two endpoints as the file says.
fn held_against_who(site: &Site, daemon: &Daemon) {
    let ends = ["acme/web1", "acme/web2", "acme/db1"];
    for from in ends {
        let rows = daemon.ask(&["show", "matrix", "--endpoint", from]);
        assert_eq!(rows["total"], 4, "{from} with two others, both ways: {rows:#}");
        for to in ends.into_iter().filter(|to| *to != from) {
            let config = site.config.to_str().unwrap();
            let who =
                eastgate(["policy", "who", "--config", config, "--from", from, "--to", to, "-o", "json"]);
            let who: Value = serde_json::from_slice(&who.stdout).unwrap();
            let row = row(&rows, from, to);
            assert_eq!(
                passages(&row["passages"], "egress", "ingress"),
                passages(&who, "egress", "ingress"),
                "{from} to {to}: {row:#}"
            );
            assert_eq!(row["passing"] == 1, !who.as_array().unwrap().is_empty(), "{row:#}");
        }
    }
}

fn narrowed_and_in_parts(daemon: &Daemon, rows: &Value) {
    let of_db = daemon.ask(&["show", "matrix", "--group", "db"]);
    assert_eq!(of_db["total"], 3, "{of_db:#}");
    let db_and_web = daemon.ask(&["show", "matrix", "--group", "acme/db", "--endpoint", "web1"]);
    assert_eq!(db_and_web["total"], 2, "{db_and_web:#}");
    let wrong = daemon.run(&["show", "matrix", "--group", "nobody"]);
    let said = String::from_utf8(wrong.stderr).unwrap();
    assert!(!wrong.status.success() && said.contains("group nobody"), "{said}");
    let wrong = daemon.run(&["show", "matrix", "--port", "22"]);
    assert!(String::from_utf8(wrong.stderr).unwrap().contains("no --port"));

    let (mut asker, mut after, mut found) = (Requester::new(daemon.socket()), String::new(), Vec::new());
    loop {
        let (part, _) = asker.timed(&format!("GET /v1/matrix?limit=1{after}"));
        assert_eq!((part["matrix"].as_array().unwrap().len(), &part["total"]), (1, &json!(4)));
        found.push(format!("{} {}", part["matrix"][0]["from"], part["matrix"][0]["to"]));
        let Some(next) = part["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    let all = rows["matrix"].as_array().unwrap().iter().map(|row| format!("{} {}", row["from"], row["to"]));
    assert_eq!(found, all.collect::<Vec<_>>());
}

fn staged_is_marked(site: &Site, daemon: &Daemon) {
    let next = site.config.with_file_name("next.toml");
    fs::write(
        &next,
        fs::read_to_string(&site.config)
            .unwrap()
            .replace("7000, from = \"group:web\"", "7001, from = \"group:web\""),
    )
    .unwrap();
    daemon.ask(&["policy", "stage", next.to_str().unwrap()]);
    wait_for("both differences are marked", || {
        let rows = daemon.ask(&["show", "matrix"]);
        let row = row(&rows, "acme/web", "acme/db");
        row["staged_refused"].as_u64() > Some(0) && row["staged_passed"].as_u64() > Some(0)
    });
    daemon.ask(&["policy", "unstage"]);
}

#[test]
fn the_matrix_is_told_by_the_pipeline() {
    is_told("userspace");
}

#[test]
fn the_matrix_is_told_of_what_the_kernel_decides() {
    is_told("ebpf");
}
