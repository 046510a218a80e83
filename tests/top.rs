//! `eastgate top` in a terminal of 80 columns and 24 lines, whose screen is read by an emulator that nobody here wrote.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use common::{Daemon, EASTGATE, site::*, wait_for};
use serde_json::{Value, json};

/// A terminal in which the program runs. It is killed when it goes out of scope.
struct Terminal {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// All that was written
    raw: String,
}

impl Terminal {
    fn start(daemon: &Daemon, options: &[&str]) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/terminal/terminal.py");
        let mut command = Command::new("/usr/bin/python3");
        command.arg(script).arg(EASTGATE).args(["top", "--socket"]).arg(daemon.socket()).args(options);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, mut output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "ready", "is python3-pyte installed?");
        Self { child, input, output, raw: String::new() }
    }

    fn order(&mut self, order: &Value) {
        writeln!(self.input, "{order}").unwrap();
    }

    fn press(&mut self, keys: &str) {
        self.order(&json!({ "keys": keys }));
    }

    /// The lines on the screen, and how the program has ended if it has.
    fn look(&mut self) -> (Vec<String>, Option<i64>) {
        self.order(&json!({ "screen": true }));
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        let answer: Value = serde_json::from_str(&line).unwrap();
        self.raw += answer["raw"].as_str().unwrap();
        let lines = answer["lines"]
            .as_array()
            .unwrap()
            .iter()
            .map(|line| line.as_str().unwrap().trim_end().to_owned());
        (lines.collect(), answer["code"].as_i64())
    }

    /// Waits for a screen of which that holds.
    fn shows(&mut self, what: &str, holds: impl Fn(&[String]) -> bool) -> Vec<String> {
        let mut lines = Vec::new();
        wait_for(what, || {
            lines = self.look().0;
            let there = holds(&lines);
            if !there && std::env::var_os("EASTGATE_SHOW").is_some() {
                eprintln!("{}", lines.join("\n"));
            }
            there
        });
        lines
    }

    fn contains(&mut self, text: &str) -> Vec<String> {
        self.shows(&format!("the screen has {text:?}"), |lines| lines.iter().any(|line| line.contains(text)))
    }

    /// Waits until it has ended.
    fn ends(&mut self) -> i64 {
        let mut code = None;
        wait_for("it ends", || {
            code = self.look().1;
            code.is_some()
        });
        code.unwrap()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What stands behind a name in a row of the screen.
fn row(lines: &[String], name: &str) -> Vec<String> {
    let line =
        lines.iter().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}: {lines:#?}"));
    line.split_whitespace().map(str::to_owned).collect()
}

/// Whoever ends it, the terminal is as it was.
#[test]
fn a_signal_leaves_the_terminal_as_it_was() {
    const TERMINATE: i64 = 15;
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let alpha = site.run("alpha");
    let mut top = Terminal::start(&alpha, &[]);
    top.contains("acme/lan");
    assert!(top.raw.contains("\u{1b}[?1049h") && !top.raw.contains("\u{1b}[?1049l"), "{:?}", top.raw);
    top.order(&json!({ "signal": TERMINATE }));
    assert_eq!(top.ends(), 128 + TERMINATE);
    top.look();
    assert!(top.raw.contains("\u{1b}[?1049l"), "{:?}", top.raw);
}

#[test]
fn one_goes_from_a_network_to_the_rule() {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let (alpha, beta) = (site.run("alpha"), site.run("beta"));
    let flows = Flows::start(&site);
    flows.allowed_arrive("while somebody looks");
    let mut top = Terminal::start(&alpha, &[]);
    // Two streams are refused all the time.
    let screen = top.shows("a network with rates", |lines| {
        let network = lines.iter().find(|line| line.starts_with("acme/lan"));
        network.is_some_and(|line| line.split_whitespace().nth(5).is_some_and(|drops| drops != "0"))
    });
    assert!(
        screen[0].starts_with("eastgate alpha  ready  up ") && screen[0].contains("userspace"),
        "{screen:#?}"
    );
    assert!(screen[1].starts_with("ports ") && screen[1].contains("dropped "), "{screen:#?}");
    assert!(screen[2].contains("[1 Networks]") && screen[23].contains("q quit"), "{screen:#?}");
    let network = row(&screen, "acme/lan");
    assert_eq!(network[1..3], ["5001", "3"], "{screen:#?}");

    top.press("\r");
    let screen = top.contains("acme/web2");
    assert!(screen[2].contains("[2 Endpoints of acme/lan]"), "{screen:#?}");
    assert_eq!(row(&screen, "acme/db1")[0], "acme/db1");
    top.press("/web1\r");
    top.shows("web1 alone", |lines| {
        lines.iter().any(|line| line.starts_with("acme/web1"))
            && !lines.iter().any(|line| line.starts_with("acme/web2"))
    });
    top.press("\r");
    top.contains("[3 Flows of acme/web1]");
    let flows_shown = top.contains("10.1.0.21:7000");
    // Nothing is cut of what is not long.
    assert!(flows_shown.iter().any(|line| line.contains("PACKETS/sv")), "{flows_shown:#?}");
    assert!(flows_shown.iter().any(|line| line.contains("10.1.0.11:8021")), "{flows_shown:#?}");
    top.press("/21:7000\r");
    top.shows("one flow", |lines| lines.iter().filter(|line| line.starts_with("udp")).count() == 1);
    top.press("\r");
    let detail = top.contains("egress rule: acme/all egress #1");
    // The path of the file may be longer than the line.
    assert!(detail.concat().contains("eastgate.toml:"), "{detail:#?}");
    assert!(detail.iter().any(|line| line.contains("carried by userspace")), "{detail:#?}");
    // Out of the detail, off the filter, and back the way.
    top.press(" ");
    top.press("\u{1b}");
    top.shows("all flows", |lines| lines.iter().filter(|line| line.starts_with("udp")).count() > 1);
    top.press("\u{1b}");
    top.contains("[2 Endpoints of acme/lan]");
    top.press("\u{1b}");
    top.contains("[1 Networks]");

    // Who was refused, by what, and where that is written.
    top.press("4");
    top.contains("ingress-denied");
    top.press("\r");
    let detail = top.contains("No ingress rule of the receiver's groups allows it.");
    assert!(detail.iter().any(|line| line.contains("default deny: no rule of acme/all")), "{detail:#?}");
    assert!(detail.concat().contains("eastgate.toml:"), "{detail:#?}");
    top.press(" 5");
    let rules = top.contains("acme/all ingress #1");
    assert_eq!(row(&rules, "RULE").last().unwrap(), "AGO");

    // Sorted by name, the first letter first, and the other way round.
    let first = |lines: &[String]| {
        let header = lines.iter().position(|line| line.starts_with("RULE")).unwrap();
        lines[header + 1].split_whitespace().next().unwrap_or_default().to_owned() + &lines[header + 1]
    };
    top.press("ssss");
    let sorted = top.contains("RULEv");
    assert!(first(&sorted).contains("acme/all egress #1"), "{sorted:#?}");
    top.press("r");
    let turned = top.contains("RULE^");
    assert!(first(&turned).contains("acme/all ingress #4"), "{turned:#?}");

    // A daemon that has gone is told of, and what was seen last stays.
    alpha.kill();
    let stale = top.contains("STALE: no daemon answers");
    row(&stale, "acme/all");
    let alpha = site.run("alpha");
    top.shows("it goes on", |lines| !lines.iter().any(|line| line.contains("STALE")));
    top.press("?");
    top.contains("only rows that contain a text");
    top.press("q");
    assert_eq!(top.ends(), 0);
    // It leaves the terminal as it was, and has had colours.
    assert!(top.raw.contains("\u{1b}[?1049h") && top.raw.contains("\u{1b}[?1049l"));
    assert!(top.raw.contains("\u{1b}[38;5;"), "no colours");
    assert!(alpha.stop().success() && beta.stop().success());
}

#[test]
fn without_a_terminal_and_without_colours() {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let alpha = site.run("alpha");
    let flows = Flows::start(&site);
    flows.denied_never_arrived();
    let mut top = Terminal::start(&alpha, &["--no-color", "--view", "drops"]);
    top.contains("ingress-denied");
    top.press("\u{3}");
    assert_eq!(top.ends(), 0);
    assert!(!top.raw.contains("\u{1b}[38;5;") && !top.raw.contains("\u{1b}[31m"), "colours");

    let printed = alpha.run(&["top", "--batch", "2", "--view", "rules"]);
    let text = String::from_utf8(printed.stdout).unwrap();
    assert!(printed.status.success() && !text.contains('\u{1b}'), "{text}");
    assert_eq!(text.matches("eastgate alpha  ready").count(), 2, "{text}");
    assert!(text.contains("acme/all ingress #1"), "{text}");
    let refused = alpha.run(&["top"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("this needs a terminal; --batch N"));
    assert!(alpha.stop().success());
    let nobody = common::eastgate(["top", "--socket", "/no/such.sock"]);
    assert_eq!(nobody.status.code(), Some(4));
}
