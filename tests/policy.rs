//! `eastgate policy`, as it is typed: answers, exit codes and errors, on files.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "policy/diff.rs"]
mod diff;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

const SITE: &str = r#"
[host.alpha]
vtep = "172.31.0.1"
device = "eth0"

[tenant.acme.network.app]
vni = 5001
subnets = ["10.1.0.0/24", "fd00:1::/64"]

[tenant.acme.group.web]
ingress = [{ proto = "tcp", ports = 443, from = "any" }]
egress = [{ proto = "tcp", ports = 5432, to = "group:db" }, { proto = "icmp", to = "any" }]

[tenant.acme.group.db]
ingress = [
  { proto = "tcp", ports = 5432, from = "group:web" },
  { proto = "icmp", from = "10.1.0.0/24" },
]

[tenant.acme.endpoint.web1]
network = "app"
host = "alpha"
port = "veth-web1"
mac = "02:00:00:00:01:01"
addresses = ["10.1.0.11", "fd00:1::11"]
groups = ["web"]

[tenant.acme.endpoint.web2]
network = "app"
host = "alpha"
port = "veth-web2"
mac = "02:00:00:00:01:02"
addresses = ["10.1.0.12"]
groups = ["web"]

[tenant.acme.endpoint.db1]
network = "app"
host = "alpha"
port = "veth-db1"
mac = "02:00:00:00:02:01"
addresses = ["10.1.0.21", "fd00:1::21"]
groups = ["db"]
"#;

/// A folder of files that goes when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("egt-{}-policy-{test}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> String {
        fs::write(self.0.join(name), text).unwrap();
        name.to_owned()
    }

    /// Exit code, standard output and standard error of a command that is run in the folder.
    fn run(&self, words: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_eastgate"));
        let output = command.current_dir(&self.0).args(words).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    }

    fn json(&self, words: &[&str]) -> (i32, Value) {
        let (code, out, error) = self.run(&[words, &["-o", "json"]].concat());
        (code, serde_json::from_str(&out).unwrap_or_else(|_| panic!("{words:?}: {code} {out} {error}")))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn changed(pairs: &[(&str, &str)]) -> String {
    pairs.iter().fold(SITE.to_owned(), |text, (was, is)| {
        assert!(text.contains(was), "{was}");
        text.replacen(was, is, 1)
    })
}

#[test]
fn who_may_reach_it_and_by_which_rules_of_both_ends() {
    let folder = Folder::new("who");
    folder.file("site.toml", SITE);
    let who = |words: &[&str]| folder.json(&[&["policy", "who", "--config", "site.toml"], words].concat());
    let (code, rows) = who(&["--to", "acme/db", "--port", "5432/tcp"]);
    assert_eq!(code, 0);
    let from = |rows: &Value| -> Vec<String> {
        rows.as_array().unwrap().iter().map(|row| row["from"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(from(&rows), ["acme/web1", "acme/web2"]);
    assert_eq!(rows[0]["from_addresses"], json!(["10.1.0.11", "fd00:1::11"]), "{rows:#}");
    assert_eq!(rows[1]["to_addresses"], json!(["10.1.0.21"]), "web2 has no IPv6 address");
    assert_eq!(rows[0]["egress"]["rule"], "acme/web egress #1");
    assert_eq!(rows[0]["ingress"]["rule"], "acme/db ingress #1");
    assert_eq!(rows[0]["ingress"]["at"], "site.toml:16:3");
    // Let in by the one, not let out by the other.
    assert_eq!(from(&who(&["--to", "acme/web1", "--port", "443/tcp"]).1), [""; 0]);
    let (_, rows) = who(&["--from", "acme/web1", "--to", "acme/db1"]);
    let services: Vec<&Value> = rows.as_array().unwrap().iter().map(|row| &row["services"]).collect();
    assert_eq!(services, [&json!(["icmp"]), &json!(["tcp 5432"])], "{rows:#}");
    let (_, rows) = who(&["--from", "group:acme/web", "--port", "8/icmp"]);
    assert_eq!(from(&rows), ["acme/web1", "acme/web2"], "{rows:#}");

    let (code, text, _) = folder.run(&["policy", "who", "-c", "site.toml", "--to", "acme/db1"]);
    assert_eq!(code, 0);
    assert!(text.starts_with("FROM       ADDRESS"), "{text}");
    let line = text.lines().nth(2).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(
        line,
        "acme/web1 10.1.0.11, fd00:1::11 acme/db1 10.1.0.21, fd00:1::21 tcp 5432 acme/web egress #1 acme/db ingress #1"
    );
    for (words, why) in [
        (&["--to", "acme/db9"][..], "there is no endpoint or group `acme/db9`: did you mean `acme/db"),
        (&["--to", "ame/db1"], "there is no tenant `ame`: did you mean `acme`?"),
        (&["--to", "db1"], "`db1` names no tenant"),
        (&["--to", "acme/db1", "--port", "tcp/80"], "write 5432/tcp"),
        (&[], "--to <NAME>"),
    ] {
        let (code, _, error) = folder.run(&[&["policy", "who", "--config", "site.toml"], words].concat());
        assert!(code == 2 && error.contains(why), "{words:?}: {code} {error}");
    }
}

/// Who is elsewhere comes by way of a machine that forwards; without one there is nobody.
#[test]
fn addresses_of_nobody_are_told_where_someone_forwards_for_them() {
    let folder = Folder::new("elsewhere");
    let router = r#"
[tenant.acme.endpoint.gw]
network = "app"
host = "alpha"
port = "veth-gw"
mac = "02:00:00:00:00:01"
addresses = ["10.1.0.1"]
groups = ["web"]
routes = ["10.9.0.0/16"]
"#;
    folder.file("closed.toml", SITE);
    folder.file("routed.toml", &(SITE.to_owned() + router));
    let words = ["policy", "who", "--to", "acme/web1", "--port", "443/tcp", "--config"];
    assert_eq!(folder.json(&[&words[..], &["closed.toml"]].concat()).1, json!([]));
    let (_, rows) = folder.json(&[&words[..], &["routed.toml"]].concat());
    let all = rows.as_array().unwrap();
    assert!(!all.is_empty() && all.iter().all(|row| row["from"].is_null() && row["egress"].is_null()));
    assert_eq!(all[0]["ingress"]["rule"], "acme/web ingress #1");
    // Addresses of endpoints are not among them: their rules let nothing out to this port.
    let ranges: Vec<&str> = all
        .iter()
        .flat_map(|row| row["from_addresses"].as_array().unwrap())
        .map(|it| it.as_str().unwrap())
        .collect();
    assert!(ranges.contains(&"10.1.0.13-10.1.0.20"), "{ranges:?}");
    let (_, text, _) = folder.run(&[&words[..], &["routed.toml"]].concat());
    assert!(text.contains("(elsewhere)"), "{text}");
}

const EXPECTATIONS: &str = r#"
[[expect]]
from = "acme/web1"
to = "acme/db1"
port = 5432
expect = "allow"
rule = "acme/db ingress #1"

[[expect]]
from = "acme/web1"
to = "acme/db1"
port = 22
expect = "deny"

[[expect]]
from = "acme/web1"
to = "10.1.0.21"
protocol = "icmp"
icmp_type = 8
expect = "allow"

[[expect]]
from = "acme/web1"
from_address = "10.1.0.12"
to = "acme/db1"
port = 5432
expect = "ip-spoofed"
"#;

#[test]
fn expectations_hold_or_fail_with_their_place() {
    let folder = Folder::new("test");
    folder.file("site.toml", SITE);
    folder.file("good.toml", EXPECTATIONS);
    let test = |file: &str| folder.run(&["policy", "test", "--config", "site.toml", file]);
    let (code, text, error) = test("good.toml");
    // Two of them in both families.
    assert_eq!((code, text.as_str()), (0, "6 expectations hold\n"), "{error}");

    let wrong = EXPECTATIONS
        .replacen("expect = \"allow\"\nrule = \"acme/db ingress #1\"", "expect = \"deny\"", 1)
        .replacen(
            "expect = \"deny\"\n\n[[expect]]\nfrom = \"acme/web1\"\nto = \"10",
            "expect = \"allow\"\n\n[[expect]]\nfrom = \"acme/web1\"\nto = \"10",
            1,
        )
        .replacen(
            "icmp_type = 8\nexpect = \"allow\"",
            "icmp_type = 8\nexpect = \"allow\"\nrule = \"acme/db ingress #1\"",
            1,
        )
        .replacen("expect = \"ip-spoofed\"", "expect = \"deny\"", 1);
    folder.file("wrong.toml", &wrong);
    let (code, text, _) = test("wrong.toml");
    assert_eq!(code, 1, "{text}");
    for told in [
        "FAIL wrong.toml:6:10: vni 5001 tcp 10.1.0.11:40000 -> 10.1.0.21:5432\n  expected deny, found allow\n  \
         egress: allow by acme/web egress #1 (site.toml:12:11)\n",
        "FAIL wrong.toml:12:10: vni 5001 tcp [fd00:1::11]:40000 -> [fd00:1::21]:22\n  expected allow, found deny\n  \
         egress: deny: no rule allows it\n",
        "  expected allow by acme/db ingress #1, found allow\n",
        "  expected deny, found dropped, not by a rule: ip-spoofed (",
        "6 of 6 expectations fail\n",
    ] {
        assert!(text.contains(told), "{told}\n---\n{text}");
    }
    let (code, rows) = folder.json(&["policy", "test", "-c", "site.toml", "wrong.toml"]);
    assert_eq!((code, &rows[0]["holds"], &rows[0]["at"]), (1, &json!(false), &json!("wrong.toml:6:10")));
}

#[test]
fn a_file_with_expectations_that_is_wrong_is_told_whole() {
    let folder = Folder::new("wrong");
    folder.file("site.toml", SITE);
    let told = |text: &str| {
        folder.file("wrong.toml", text);
        let (code, out, error) = folder.run(&["policy", "test", "--config", "site.toml", "wrong.toml"]);
        assert!(code == 3 && out.is_empty(), "{code} {out}");
        error
    };
    let error = told(
        "[[expect]]\nfrom = \"acme/web1\"\nto = \"acme/db1\"\nprotocoll = \"tcp\"\nport = 70000\nexpect = \"maybe\"\n",
    );
    for place in [
        "error: an expectation has no `protocoll`\n  --> wrong.toml:4:1\nhelp: did you mean `protocol`?\n",
        "error: this is no `port`\n  --> wrong.toml:5:8\nhelp: write a number from 0 to 65535\n",
        "error: this is no `expect`\n  --> wrong.toml:6:10\n",
        "3 errors\n",
    ] {
        assert!(error.contains(place), "{place}\n---\n{error}");
    }
    for (text, why) in [
        ("", "there is no expectation in this file\n  --> wrong.toml:1:1"),
        ("[[expect]\n", "this is not TOML"),
        ("[[expect]]\nfrom = \"acme/web1\"\nto = \"acme/db1\"\nexpect = \"allow\"\n", "lacks `port`"),
        (
            "[[expect]]\nfrom = \"acme/web1\"\nto = \"acme/db1\"\nprotocol = \"gre\"\nport = 1\nexpect = \"allow\"\n",
            "has no `port`\n  --> wrong.toml:5:8",
        ),
        (
            "[[expect]]\nfrom = \"acme/web9\"\nto = \"acme/db1\"\nport = 1\nexpect = \"allow\"\n",
            "no endpoint `acme/web9`\n  --> wrong.toml:2:8",
        ),
        (
            "[[expect]]\nfrom = \"10.1.0.11\"\nto = \"10.1.0.21\"\nport = 1\nexpect = \"allow\"\n",
            "neither end is an endpoint",
        ),
        (
            "[[expect]]\nfrom = \"acme/web2\"\nto = \"fd00:1::21\"\nport = 1\nexpect = \"allow\"\n",
            "no addresses of one family",
        ),
    ] {
        let error = told(text);
        assert!(error.contains(why), "{why}\n---\n{error}");
    }
}

#[test]
fn rules_that_do_nothing_are_told_with_the_one_that_makes_it_so() {
    let folder = Folder::new("lint");
    folder.file("site.toml", SITE);
    let (code, text, _) = folder.run(&["policy", "lint", "--config", "site.toml"]);
    assert_eq!((code, text.as_str()), (0, "every rule does something\n"));
    let idle = changed(&[
        (
            "  { proto = \"icmp\", from = \"10.1.0.0/24\" },\n",
            "  { proto = \"icmp\", from = \"10.1.0.0/24\" },\n  { proto = \"icmp\", from = \"10.1.0.9\" },\n  \
             { proto = \"tcp\", ports = \"5432\", from = \"group:web\" },\n  { proto = \"tcp\", ports = [7], from = \"group:none\" },\n  \
             { proto = \"udp\", ports = 53, from = \"10.1.0.0/24\" },\n  { proto = \"udp\", from = \"any\" },\n",
        ),
        (
            "[tenant.acme.group.web]",
            "[tenant.acme.group.none]\ningress = [{ from = \"any\" }]\n[tenant.acme.group.web]",
        ),
    ]);
    folder.file("idle.toml", &idle);
    let (code, rows) = folder.json(&["policy", "lint", "--config", "idle.toml"]);
    assert_eq!(code, 1);
    let found: Vec<[&str; 3]> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            let by = row["by"][0]["rule"].as_str().unwrap_or("");
            [row["finding"].as_str().unwrap(), row["rule"].as_str().unwrap(), by]
        })
        .collect();
    assert_eq!(
        found,
        [
            ["unused", "acme/none ingress #1", ""],
            ["shadowed", "acme/db ingress #3", "acme/db ingress #2"],
            ["equal", "acme/db ingress #4", "acme/db ingress #1"],
            ["unmet", "acme/db ingress #5", ""],
            ["redundant", "acme/db ingress #6", "acme/db ingress #7"],
        ]
    );
    let (_, text, _) = folder.run(&["policy", "lint", "--config", "idle.toml"]);
    assert!(
        text.contains("idle.toml:20:3   all it matches is decided by acme/db ingress #2 (idle.toml:19:3)\n"),
        "{text}"
    );
}

const GUARDED: &str = r#"
[policy.guard]
applies_to = "site"
ingress = [
  { action = "reject", proto = "tcp", ports = 5432, from = "10.1.0.12" },
  { action = "pass", proto = "tcp", ports = 5432, from = "any" },
]

[policy.nobodys]
applies_to = "group:acme/empty"
ingress = [{ action = "deny", from = "any" }]

[tenant.acme.group.empty]
"#;

/// The site's policies stand over a tenant's groups: they are asked, named and looked through as well.
#[test]
fn the_sites_policies_count_too() {
    let folder = Folder::new("site");
    folder.file("old.toml", SITE);
    folder.file("new.toml", &(SITE.to_owned() + GUARDED));
    folder.file(
        "expect.toml",
        "[[expect]]\nfrom = \"acme/web2\"\nto = \"acme/db1\"\nport = 5432\nexpect = \"reject\"\nrule = \"policy guard ingress #1\"\n\
         [[expect]]\nfrom = \"acme/web1\"\nto = \"acme/db1\"\nport = 5432\nexpect = \"allow\"\nrule = \"acme/db ingress #1\"\n",
    );
    let (code, text, error) = folder.run(&["policy", "test", "--config", "new.toml", "expect.toml"]);
    assert_eq!((code, text.as_str()), (0, "3 expectations hold\n"), "{error}");
    let (code, found) = folder.json(&["policy", "diff", "old.toml", "new.toml"]);
    let rows = found["traffic"].as_array().unwrap();
    let of_db: Vec<&Value> = rows.iter().filter(|row| row["endpoints"] == json!(["acme/db1"])).collect();
    assert_eq!((code, of_db.len()), (1, 1), "{found:#}");
    assert_eq!(
        (&of_db[0]["before"]["action"], &of_db[0]["after"]["action"]),
        (&json!("allow"), &json!("reject"))
    );
    assert_eq!(
        (&of_db[0]["services"], &of_db[0]["peers"]),
        (&json!(["tcp 5432"]), &json!(["10.1.0.12 (acme/web2)"]))
    );
    let (_, who) =
        folder.json(&["policy", "who", "--config", "new.toml", "--to", "acme/db", "--port", "5432/tcp"]);
    assert_eq!((who.as_array().unwrap().len(), &who[0]["from"]), (1, &json!("acme/web1")), "{who:#}");
    let (code, rows) = folder.json(&["policy", "lint", "--config", "new.toml"]);
    let found: Vec<[&str; 2]> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|row| [&row["finding"], &row["rule"]].map(|it| it.as_str().unwrap()))
        .collect();
    // What it passes on would come to the groups without it as well.
    assert_eq!(found, [["redundant", "policy guard ingress #2"], ["unused", "policy nobodys ingress #1"]]);
    assert_eq!(code, 1);
}

fn flow(proto: &str, src: &str, dst: &str, dport: u16, replies: u64) -> Value {
    json!({
        "vni": 5001, "proto": proto, "src": src, "sport": 40000, "dst": dst, "dport": dport, "state": "established",
        "packets": 3, "bytes": 180, "reply_packets": replies, "reply_bytes": 60, "offloaded": true, "expires_s": 9,
        "egress_rule": null, "ingress_rule": null, "epoch": 1,
    })
}

/// The rules that are suggested let through what was seen, and what was not seen stays closed.
#[test]
fn suggested_rules_are_as_wide_as_what_was_seen() {
    let folder = Folder::new("suggest");
    let bare = changed(&[
        ("ingress = [{ proto = \"tcp\", ports = 443, from = \"any\" }]\n", ""),
        (
            "egress = [{ proto = \"tcp\", ports = 5432, to = \"group:db\" }, { proto = \"icmp\", to = \"any\" }]\n",
            "",
        ),
        (
            "ingress = [\n  { proto = \"tcp\", ports = 5432, from = \"group:web\" },\n  { proto = \"icmp\", from = \"10.1.0.0/24\" },\n]\n",
            "",
        ),
    ]);
    folder.file("bare.toml", &bare);
    let flows = json!({ "flows": [
        flow("tcp", "10.1.0.11", "10.1.0.21", 5432, 2),
        flow("tcp", "10.1.0.12", "10.1.0.21", 5432, 2),
        flow("tcp", "10.1.0.12", "10.1.0.21", 5433, 2),
        flow("icmp", "10.1.0.11", "10.1.0.12", 77, 1),
        flow("udp", "10.1.0.11", "192.0.2.53", 53, 1),
        flow("tcp", "10.1.0.11", "10.1.0.21", 22, 0),
    ], "total": 6 });
    folder.file("flows.json", &flows.to_string());
    let words = ["policy", "suggest", "--config", "bare.toml", "--flows", "flows.json"];
    let (code, text, error) = folder.run(&words);
    assert_eq!(code, 0, "{error}");
    let expected = r#"[tenant.acme.group.db]
ingress = [
  # 3 flows: acme/web1 -> acme/db1, acme/web2 -> acme/db1
  { proto = "tcp", ports = [5432, 5433], from = "group:web" },
]

[tenant.acme.group.web]
ingress = [
  # 1 flow: acme/web1 -> acme/web2
  { proto = "icmp", family = "ipv4", from = "group:web" },
]
egress = [
  # 1 flow: acme/web1 -> acme/web2
  { proto = "icmp", family = "ipv4", to = "group:web" },
  # 3 flows: acme/web1 -> acme/db1, acme/web2 -> acme/db1
  { proto = "tcp", ports = [5432, 5433], to = "group:db" },
  # 1 flow: acme/web1 -> 192.0.2.53
  { proto = "udp", ports = [53], to = "192.0.2.53" },
]

# 5 rules for 5 flows; there are no fewer that are as narrow
# 1 flow were not answered and are left out
"#;
    assert_eq!(text, expected);
    // As it is pasted: in place of the empty groups.
    let pasted =
        bare.replace("[tenant.acme.group.web]\n", "").replace("[tenant.acme.group.db]\n", "") + &text;
    folder.file("pasted.toml", &pasted);
    folder.file(
        "seen.toml",
        "[[expect]]\nfrom = \"acme/web1\"\nto = \"acme/db1\"\nport = 5433\nexpect = \"allow\"\n\
         [[expect]]\nfrom = \"acme/web1\"\nto = \"acme/db1\"\nport = 22\nexpect = \"deny\"\n\
         [[expect]]\nfrom = \"acme/db1\"\nto = \"acme/web1\"\nprotocol = \"icmp\"\nexpect = \"deny\"\n",
    );
    let (code, text, error) = folder.run(&["policy", "test", "--config", "pasted.toml", "seen.toml"]);
    assert_eq!(code, 0, "{text} {error}");
    let again = ["policy", "suggest", "--config", "pasted.toml", "--flows", "flows.json"];
    let (_, suggestion) = folder.json(&again);
    assert_eq!((&suggestion["rules"], &suggestion["allowed"]), (&json!([]), &json!(5)));
    let (_, all) = folder.json(&[&again[..], &["--all", "--unanswered"]].concat());
    assert_eq!(all["covered"], 6);
    folder.file("no.json", "[]");
    let (code, _, error) = folder.run(&["policy", "suggest", "--config", "bare.toml", "--flows", "no.json"]);
    assert!(
        code == 1 && error.contains("no.json is not what `eastgate show flows -o json` prints"),
        "{error}"
    );
}

/// An endpoint in several groups: one rule of the group that all who were seen have in common.
#[test]
fn the_fewest_rules_are_those_of_common_groups() {
    let folder = Folder::new("fewest");
    let both = changed(&[
        ("groups = [\"web\"]", "groups = [\"web\", \"all\"]"),
        ("groups = [\"db\"]", "groups = [\"db\", \"all\"]"),
        ("[tenant.acme.group.web]", "[tenant.acme.group.all]\n[tenant.acme.group.web]"),
    ]);
    folder.file("site.toml", &both);
    let flows = json!({ "flows": [
        flow("tcp", "10.1.0.11", "10.1.0.21", 22, 2), flow("tcp", "10.1.0.21", "10.1.0.11", 22, 2),
    ], "total": 2 });
    folder.file("flows.json", &flows.to_string());
    let (_, found) = folder.json(&["policy", "suggest", "--config", "site.toml", "--flows", "flows.json"]);
    let rules: Vec<&str> =
        found["rules"].as_array().unwrap().iter().map(|row| row["toml"].as_str().unwrap()).collect();
    let expected = [
        "{ proto = \"tcp\", ports = [22], from = \"group:all\" }",
        "{ proto = \"tcp\", ports = [22], to = \"group:all\" }",
    ];
    assert_eq!((rules, &found["fewest"]), (expected.to_vec(), &json!(true)));
}

/// The example that `--help` has is one that is read.
#[test]
fn the_help_has_examples_that_work() {
    let folder = Folder::new("help");
    for command in ["who", "diff", "test", "lint", "suggest"] {
        let (code, text, _) = folder.run(&["policy", command, "--help"]);
        assert!(code == 0 && text.contains("eastgate policy"), "{text}");
    }
    let (_, text, _) = folder.run(&["policy", "test", "--help"]);
    let example: Vec<&str> = text
        .lines()
        .skip_while(|line| line.trim() != "[[expect]]")
        .take_while(|line| !line.trim().is_empty())
        .collect();
    assert!(example.len() > 5, "{text}");
    folder.file("site.toml", SITE);
    folder.file("help.toml", &example.join("\n"));
    let (code, text, error) = folder.run(&["policy", "test", "--config", "site.toml", "help.toml"]);
    assert_eq!((code, text.as_str()), (0, "2 expectations hold\n"), "{error}");
    assert!(Path::new(&folder.0).exists());
}
