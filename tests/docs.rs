//! The pages that are made from the code, held to the code: drop reasons, command line, configuration keys, limits, and
//! every file and function that a page names; and what they tell to type. Where links lead is held in `xtask/src/book.rs`. `EASTGATE_BLESS=1 cargo test --test docs` writes the pages anew.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a helper of tests may fail the test"
)]

#[path = "docs/attacks.rs"]
mod attacks;
#[path = "docs/limits.rs"]
mod limits;
#[path = "docs/markdown.rs"]
mod markdown;
#[path = "docs/migrating.rs"]
mod migrating;
#[path = "docs/typed.rs"]
mod typed;

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use clap::{Command, CommandFactory};
use eastgate::{cli::args::Args, doctor::Check};
use eastgate_config::{FILTERS, schema};
use eastgate_dataplane::eligibility::Userspace;
use eastgate_wire::{DropGroup, DropReason};
use serde_json::Value;

const NOTE: &str =
    "<!-- Made by tests/docs.rs; change the code and run: EASTGATE_BLESS=1 cargo test --test docs -->";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_default()
}

/// Compares a page with what it should be, or makes it so.
fn hold(name: &str, wanted: &str) {
    if std::env::var_os("EASTGATE_BLESS").is_some() {
        fs::write(root().join(name), wanted).unwrap();
        return;
    }
    let found = read(name);
    if found == wanted {
        return;
    }
    let line = found.lines().zip(wanted.lines()).take_while(|(a, b)| a == b).count();
    panic!(
        "{name} has drifted from the code at line {}:\n  is      {:?}\n  wanted  {:?}\n\
         EASTGATE_BLESS=1 cargo test --test docs    writes it anew",
        line + 1,
        found.lines().nth(line),
        wanted.lines().nth(line),
    );
}

fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

// ------------------------------------------------------------------------------------------ drop reasons

/// What a step of the path drops for, and who reads of it.
const GROUPS: [(DropGroup, &str, &str); 10] = [
    (
        DropGroup::Malformed,
        "Not well formed",
        "The frame contradicts itself, or is of a kind that no honest stack sends.",
    ),
    (DropGroup::Underlay, "Underlay", "The outer packet or its VXLAN header is not acceptable."),
    (
        DropGroup::Admission,
        "Admission",
        "The sender may not send this: spoofing, roles it does not have, protocols of the link.",
    ),
    (
        DropGroup::Neighbor,
        "ARP and ND",
        "Questions, answers and announcements that are wrong, untrue, or too many.",
    ),
    (DropGroup::State, "Flow state", "The packet does not fit the state of its flow."),
    (DropGroup::Fragment, "Fragments", "See also [ADR 0005](adr/0005-fragments-wait-for-their-first.md)."),
    (
        DropGroup::Policy,
        "Policy",
        "A rule, or the absence of one. `eastgate show drops` names the rule or the groups, and the line.",
    ),
    (DropGroup::Forward, "Forwarding", "There is nowhere to send it, or it does not fit."),
    (DropGroup::Limit, "Limits", "A limit was reached; see [what happens at each](limits.md)."),
    (DropGroup::Device, "Device", "The machine did not take it, or eastgate is not ready."),
];

#[test]
fn drop_reasons() {
    let mut page = format!(
        "# Why frames are dropped\n\n{NOTE}\n\n\
         Every frame that eastgate drops counts under one of these {} reasons. `eastgate show drops` prints them \
         with network, source, last packet and, where a rule refused, the rule; `eastgate drop-reasons` prints \
         this list. The enum `DropReason` in `wire/src/drop_reason.rs` is the only place where they are written.\n",
        DropReason::COUNT
    );
    let mut told = 0;
    for (group, title, about) in GROUPS {
        write!(page, "\n## {title}\n\n{about}\n\n| reason | meaning |\n| --- | --- |\n").unwrap();
        for reason in DropReason::ALL.iter().filter(|reason| reason.group() == group) {
            writeln!(page, "| `{}` | {} |", reason.name(), cell(reason.describe())).unwrap();
            told += 1;
        }
    }
    assert_eq!(told, DropReason::COUNT, "a group of reasons is missing from the page");
    hold("docs/drop-reasons.md", &page);
}

// ------------------------------------------------------------------------------------------ doctor's findings

#[test]
fn findings_of_doctor() {
    let mut page = format!(
        "# What `eastgate doctor` looks for\n\n{NOTE}\n\n\
         Each finding has one of these {} names, which stay as they are, and is a `note`, a `warning` or a `problem`; the table has \
         the worst that it can be. What is as it should be is `ok`, and shown with `--all`. `eastgate doctor` reads, and changes \
         nothing: [operations.md](operations.md#when-something-is-wrong). The table in `src/doctor/check.rs` is the only place where \
         they are written.\n\n| finding | at worst | why it matters | what to do |\n| --- | --- | --- | --- |\n",
        Check::ALL.len()
    );
    for check in Check::ALL {
        let (why, remedy) = (cell(check.why()), cell(check.remedy()));
        writeln!(page, "| `{}` | {} | {why} | {remedy} |", check.id(), check.worst().name()).unwrap();
    }
    hold("docs/doctor.md", &page);
}

// ------------------------------------------------------------------------------------------ command line

/// The same help whatever the terminal and the environment of the test are.
fn steady(command: Command) -> Command {
    command.term_width(100).mut_args(|arg| arg.hide_env_values(true)).mut_subcommands(steady)
}

fn tell(command: &Command, name: &str, page: &mut String) {
    let help = command.clone().render_long_help().to_string();
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    write!(page, "\n## {name}\n\n```text\n{}\n```\n", help.join("\n").trim_end()).unwrap();
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help" && !sub.is_hide_set()) {
        tell(sub, &format!("{name} {}", sub.get_name()), page);
    }
}

#[test]
fn command_line() {
    let mut command = steady(Args::command());
    command.build();
    let mut page = format!("# Command line\n\n{NOTE}\n\nThe help of every command, as `--help` tells it.\n");
    tell(&command, "eastgate", &mut page);
    hold("docs/cli.md", &page);
}

// ------------------------------------------------------------------------------------------ configuration

fn kind(schema: &Value) -> String {
    let bounded = |low: &str, high: &str| match (&schema[low], &schema[high]) {
        (Value::Null, Value::Null) => String::new(),
        (low, high) => format!(" {low} to {high}"),
    };
    if let Some(choices) = schema["oneOf"].as_array().or_else(|| schema["anyOf"].as_array()) {
        let format = |choice: &Value| choice["format"].as_str().map(|format| format!("{format} address"));
        let kinds: Vec<_> =
            choices.iter().map(|choice| format(choice).unwrap_or_else(|| kind(choice))).collect();
        return kinds.join(" or ");
    }
    if let Some(constant) = schema.get("const") {
        return format!("`{constant}`");
    }
    match schema["type"].as_str().unwrap_or_default() {
        "integer" => format!("integer{}", bounded("minimum", "maximum")),
        "array" => format!("list of {}", kind(&schema["items"])),
        "object" if schema["additionalProperties"]["type"] == "object" => "tables by name".into(),
        "object" => "table".into(),
        other => other.into(),
    }
}

fn key_table(schema: &Value) -> String {
    let mut table = String::from("| key | type | default | meaning |\n| --- | --- | --- | --- |\n");
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (key, value) in schema["properties"].as_object().unwrap() {
        let default = match value.get("default") {
            Some(default) => format!("`{default}`"),
            None if required.contains(&key.as_str()) => "required".into(),
            None => "-".into(),
        };
        let meaning = cell(value["description"].as_str().unwrap_or_default());
        writeln!(table, "| `{key}` | {} | {default} | {meaning} |", cell(&kind(value))).unwrap();
    }
    table
}

/// Every table of the schema under the name that a file's reader knows it by. Tables that occur twice are listed
/// once.
fn tables(schema: &Value, name: &str, found: &mut Vec<(String, String)>) {
    let keys = key_table(schema);
    if found.iter().any(|(_, known)| *known == keys) {
        return;
    }
    found.push((name.to_owned(), keys));
    for (key, value) in schema["properties"].as_object().unwrap() {
        let inner = [value, &value["additionalProperties"], &value["items"]]
            .into_iter()
            .find(|inner| inner["properties"].is_object());
        if let Some(inner) = inner {
            let by_name = value["additionalProperties"]["properties"].is_object();
            let path = format!("{name}.{key}{}", if by_name { ".NAME" } else { "" });
            tables(inner, path.trim_start_matches('.'), found);
        }
    }
}

/// The page with the table of filters by libvirt's names.
fn with_filters(page: &str) -> String {
    let (begin, end) = ("<!-- filters: made by tests/docs.rs -->\n", "<!-- end of filters -->");
    let (before, rest) = page.split_once(begin).expect("docs/configuration.md has a place for the filters");
    let (_, after) = rest.split_once(end).expect("which ends");
    let mut table = "| filter | stands for |\n| --- | --- |\n".to_owned();
    for filter in FILTERS {
        writeln!(table, "| `{}` | {} |", filter.name, cell(filter.stands_for)).unwrap();
    }
    format!("{before}{begin}{table}{end}{after}")
}

#[test]
fn configuration() {
    let mut found = Vec::new();
    tables(&schema().to_value(), "", &mut found);
    let mut page = read("docs/configuration.md");
    for (name, keys) in &found {
        let name = if name.is_empty() { "file" } else { name };
        let (begin, end) =
            (format!("<!-- keys of {name}: made by tests/docs.rs -->\n"), "<!-- end of keys -->");
        let Some((before, rest)) = page.split_once(&begin) else {
            panic!("docs/configuration.md says nothing of `{name}`; it needs the line\n{begin}and {end}")
        };
        let (_, after) = rest.split_once(end).unwrap_or_else(|| panic!("{begin} has no {end}"));
        page = format!("{before}{begin}{keys}{end}{after}");
    }
    let told = page.matches("<!-- keys of ").count();
    assert_eq!(told, found.len(), "docs/configuration.md has a table that the schema does not have");
    hold("docs/configuration.md", &with_filters(&page));
}

// ------------------------------------------------------------------------------------------ what stays in userspace

#[test]
fn reasons_to_stay_in_userspace() {
    let (begin, end) = ("<!-- reasons: made by tests/docs.rs -->\n", "<!-- end of reasons -->");
    let page = read("docs/fastpath.md");
    let (before, rest) = page.split_once(begin).expect("docs/fastpath.md has a place for the reasons");
    let (_, after) = rest.split_once(end).expect("which ends");
    let mut table = "| stays in userspace | because |\n| --- | --- |\n".to_owned();
    for reason in Userspace::ALL {
        writeln!(table, "| {} | {} |", reason.what(), cell(reason.because())).unwrap();
    }
    hold("docs/fastpath.md", &format!("{before}{begin}{table}{end}{after}"));
}

// ------------------------------------------------------------------------------------------ what pages name

fn pages() -> Vec<PathBuf> {
    let mut folders = vec![root().join("docs"), root().join("labs")];
    let mut pages: Vec<PathBuf> = ["README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md"]
        .iter()
        .map(|name| root().join(name))
        .collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    pages
}

/// `dataplane/src/pipeline.rs::admit` names a function of that file; `dataplane/src/pipeline.rs` names the file.
#[test]
fn named_files_and_functions_exist() {
    let mut missing = Vec::new();
    let mut looked_at = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        let part = |c: char| !(c.is_ascii_alphanumeric() || "/_.-:".contains(c));
        for word in text.split(part).map(|word| word.trim_end_matches([':', '.'])) {
            let (file, function) = word.split_once("::").unwrap_or((word, ""));
            // A diagnostic's place: file, line and column.
            let file = file.split(':').next().unwrap_or(file);
            let ours = [
                "src/",
                "api/",
                "wire/",
                "vtep/",
                "steering/",
                "policy/",
                "conntrack/",
                "config/",
                "dataplane/",
                "testkit/",
                "fastpath/",
                "xtask/",
                "tests/",
                "labs/",
                "configs/",
            ];
            if !ours.iter().any(|folder| file.starts_with(folder)) {
                continue;
            }
            looked_at += 1;
            let there = match function {
                "" => root().join(file).exists(),
                name => read(file).contains(&format!("fn {name}")),
            };
            if !there {
                missing.push(format!("{}: {word}", page.strip_prefix(root()).unwrap().display()));
            }
        }
    }
    assert!(looked_at > 50, "only {looked_at} names found: the search is broken");
    assert!(missing.is_empty(), "these are named and do not exist:\n{}", missing.join("\n"));
}

/// Whoever has a reason finds what to do about it.
#[test]
fn every_reason_has_a_way_out() {
    let page = read("docs/troubleshooting.md");
    let missing: Vec<&str> = DropReason::ALL
        .iter()
        .map(|reason| reason.name())
        .filter(|name| !page.contains(&format!("`{name}`")))
        .collect();
    assert!(missing.is_empty(), "docs/troubleshooting.md says nothing of {missing:?}");
}
