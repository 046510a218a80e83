//! `eastgate probe` between hosts whose machines are Linux: what it says of each question is what became of it, in both dataplanes, and the
//! machine in whose name it asks sees nothing of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread::JoinHandle,
};

use common::{Capture, Daemon, Dialogue, Space, bind_tcp, site::*, wait_for};
use eastgate_wire::{View, view::Net};
use serde_json::Value;

const DATAPLANES: [&str; 2] = ["userspace", "ebpf"];
/// Exit codes
const REACHED: i32 = 0;
const DROPPED: i32 = 5;
const NO_ANSWER: i32 = 8;
const REFUSED: i32 = 9;

/// The site's policy against ports that say what becomes of them.
const POLICY: &str = r#"
[policy.edge]
position = "before"
applies_to = ["site"]
ingress = [{ action = "reject", proto = "tcp", ports = [8001], from = "any" }]
egress = [
  { action = "reject", proto = "tcp", ports = [8011], to = "any" },
  { action = "deny", proto = "tcp", ports = [8012], to = "any" },
]
"#;

/// What a probe says, and with which exit code.
fn probe(daemon: &Daemon, arguments: &[&str]) -> (i32, Value) {
    let output = daemon.run(&[&["probe"], arguments, &["-o", "json"]].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let report = serde_json::from_str(&text).unwrap_or_else(|_| {
        panic!("{arguments:?}: {text}{}\n{}", String::from_utf8_lossy(&output.stderr), daemon.log())
    });
    (output.status.code().unwrap(), report)
}

/// Asserts its verdict and its code, and gives the report.
fn expect(daemon: &Daemon, arguments: &[&str], verdict: &str, code: i32) -> Value {
    let (got, report) = probe(daemon, arguments);
    assert_eq!(
        (report["verdict"].as_str(), got),
        (Some(verdict), code),
        "{arguments:?}: {report:#}\n{}",
        daemon.log()
    );
    report
}

/// The step whose text has these words
fn step<'r>(report: &'r Value, words: &str) -> &'r Value {
    let steps = report["steps"].as_array().unwrap();
    let found = steps.iter().find(|step| step["text"].as_str().unwrap().contains(words));
    found.unwrap_or_else(|| panic!("no {words:?}: {report:#}"))
}

/// A listener that takes what comes, and closes it.
struct Listener {
    over: Arc<AtomicBool>,
    taken: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    fn start(space: &Space, at: &'static str) -> Self {
        let (over, taken) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (end, count) = (over.clone(), taken.clone());
        let listener: TcpListener = space.enter(|| bind_tcp(at));
        listener.set_nonblocking(true).unwrap();
        let thread = std::thread::spawn(move || {
            while !end.load(SeqCst) {
                match listener.accept() {
                    Ok(_) => _ = count.fetch_add(1, SeqCst),
                    Err(_) => std::thread::sleep(std::time::Duration::from_millis(5)),
                }
            }
        });
        Self { over, taken, thread: Some(thread) }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.over.store(true, SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What came to a machine of which a probe could be the reason: its own frames are not among it.
fn came(capture: &Capture) -> Vec<Vec<u8>> {
    capture.matching(|frame| {
        View::parse(frame).is_ok_and(|view| view.src != WEB1 && !matches!(view.net, Net::Other))
    })
}

fn place_of(site: &Site, words: &str) -> String {
    let text = std::fs::read_to_string(&site.config).unwrap();
    let line = 1 + text.lines().position(|line| line.contains(words)).unwrap();
    format!("{}:{line}:", site.config.display())
}

#[test]
fn each_question_is_told_as_it_was_answered_and_the_machine_sees_nothing() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        site.rewrite(|text| text + POLICY);
        let [alpha, beta] = ["alpha", "beta"].map(|host| site.run_with(host, dataplane));
        let takes =
            [Listener::start(&site.db1, "10.1.0.21:5432"), Listener::start(&site.db1, "[fd00:1::21]:5432")];
        let capture = Capture::start(&site.web1, "eth0");

        // A port that takes connections, on the other host.
        let report = expect(&alpha, &["tcp", "--from", "acme/web1", "10.1.0.21:5432"], "reached", REACHED);
        assert_eq!(step(&report, "is at 02:00:00:00:00:21")["host"], "alpha", "{report:#}");
        let allowed = step(&report, "egress #1 allows it");
        assert!(
            allowed["at"].as_str().unwrap().starts_with(&place_of(&site, "egress = [{ to")),
            "{report:#}"
        );
        step(&report, "into the tunnel to beta at 192.0.2.2");
        assert_eq!(step(&report, "SYN/ACK from 10.1.0.21:5432")["host"], "beta");
        step(&report, "closed by both ends");
        let flows = alpha.ask(&["show", "flows", "--port", "5432"]);
        assert_eq!(flows["flows"][0]["probe"], true, "{dataplane}: {flows:#}");
        wait_for("it is told as a probe's", || {
            let output = alpha.run(&["observe", "--dport", "5432"]);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.contains(" [PROBE]")
                && text.lines().all(|line| line.contains(" -> acme/db1 10.1.0.21:5432 [PROBE]"))
        });
        let report = expect(
            &alpha,
            &["tcp", "--from", "web1", "[fd00:1::21]:5432", "--count", "3"],
            "reached",
            REACHED,
        );
        assert_eq!((&report["sent"], &report["answered"]), (&3.into(), &3.into()), "{report:#}");
        wait_for("the other end has had them", || [1, 3] == takes.each_ref().map(|it| it.taken.load(SeqCst)));

        // Nobody listens: the machine itself refuses, on this host and on the other one.
        for to in ["10.1.0.21:5433", "10.1.0.12:5432", "[fd00:1::12]:5432"] {
            let report = expect(&alpha, &["tcp", "--from", "acme/web1", to], "refused", REFUSED);
            step(&report, &format!("RST from {to}"));
        }

        // Denied where the other one is: this host sees no answer, and knows the rules.
        let report = expect(
            &alpha,
            &["tcp", "--from", "acme/web1", "10.1.0.21:22", "--timeout", "0.5"],
            "no-answer",
            NO_ANSWER,
        );
        let there = step(&report, "(ingress-denied)");
        assert_eq!(there["host"], "beta", "{report:#}");
        assert!(report["to_pass"][0]["rule"].as_str().unwrap().contains("ports = 22"), "{report:#}");
        assert_eq!(beta.drops().get("ingress-denied").copied().unwrap_or(0), 1, "{dataplane}: one SYN");
        // Denied here, for the receiver and for the sender, with the line.
        let report =
            expect(&alpha, &["tcp", "--from", "acme/web1", "10.1.0.12:22"], "ingress-denied", DROPPED);
        assert!(step(&report, "(ingress-denied)")["at"].is_string(), "{report:#}");
        let report =
            expect(&alpha, &["tcp", "--from", "acme/web1", "10.1.0.21:8012"], "egress-rule", DROPPED);
        let denied = step(&report, "(egress-rule)")["at"].as_str().unwrap();
        assert!(denied.starts_with(&place_of(&site, "ports = [8012]")), "{report:#}");
        // Rejected: here, and there.
        let report =
            expect(&alpha, &["tcp", "--from", "acme/web1", "10.1.0.21:8011"], "egress-rule", DROPPED);
        step(&report, "this appliance says so by RST");
        let report = expect(&alpha, &["tcp", "--from", "acme/web1", "10.1.0.21:8001"], "refused", REFUSED);
        step(&report, "by the configuration");

        // Echoes of both families, to both hosts.
        for to in ["10.1.0.21", "10.1.0.12", "fd00:1::21", "fd00:1::12"] {
            let report = expect(&alpha, &["ping", "--from", "acme/web1", to], "reached", REACHED);
            assert_eq!(
                (&report["sent"], &report["answered"]),
                (&3.into(), &3.into()),
                "{dataplane}: {report:#}"
            );
            assert_eq!(report["round_trips_us"].as_array().unwrap().len(), 3);
            let report = expect(&alpha, &["arp", "--from", "acme/web1", to], "reached", REACHED);
            let last = if to.ends_with("21") { "21" } else { "12" };
            assert_eq!(report["macs"], serde_json::json!([format!("02:00:00:00:00:{last}")]), "{report:#}");
            step(&report, "neighbors = \"suppress\"");
        }

        // Nobody has the address.
        for to in ["10.1.0.99", "fd00:1::99"] {
            for kind in ["ping", "arp"] {
                let arguments = [kind, "--from", "acme/web1", to, "--timeout", "0.5", "--count", "1"];
                let (code, report) = probe(&alpha, &arguments);
                let verdict = report["verdict"].as_str().unwrap();
                assert!(
                    code == NO_ANSWER && verdict == "no-neighbor" || code == DROPPED,
                    "{dataplane}: {report:#}"
                );
            }
        }

        let seen = came(&capture);
        assert!(seen.is_empty(), "{dataplane}: {} frames came to web1, such as {:02x?}", seen.len(), seen[0]);
        // What it asks for itself still comes: the capture would have seen it.
        assert!(site.web1.ping("10.1.0.21"));
        wait_for("what is its own comes to it", || !came(&capture).is_empty());
    }
}

/// Between the same two addresses, while probes open and close connections to the same port.
#[test]
fn a_connection_of_the_machine_itself_goes_on() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        let [alpha, _beta] = ["alpha", "beta"].map(|host| site.run_with(host, dataplane));
        let own = Dialogue::start(&site.web1, (&site.db1, tcp(21, 5432)));
        let beside = Dialogue::start(&site.web1, (&site.web2, tcp(12, 5432)));
        own.goes_on("before");
        for _ in 0..5 {
            let (_, report) = probe(&alpha, &["tcp", "--from", "acme/web1", "10.1.0.21:5432"]);
            assert!(report["verdict"].is_string());
            expect(&alpha, &["ping", "--from", "acme/web1", "10.1.0.21", "--count", "2"], "reached", REACHED);
            expect(&alpha, &["arp", "--from", "acme/web1", "10.1.0.12"], "reached", REACHED);
            own.goes_on("beside probes");
            beside.goes_on("beside probes");
        }
        // It asks itself meanwhile, and is answered.
        site.web1.ip("neigh flush dev eth0");
        let mut asking = std::process::Command::new(common::EASTGATE);
        asking.args(["probe", "arp", "--from", "acme/web1", "10.1.0.12", "--count", "5", "--socket"]);
        let mut asking = asking.arg(alpha.socket()).stdout(std::process::Stdio::null()).spawn().unwrap();
        assert!(site.web1.ping("10.1.0.12") && site.web1.ping("fd00:1::12"));
        assert!(asking.wait().unwrap().success());
        own.goes_on("afterwards");
    }
}

/// Where rules keep no state, nothing here remembers the question; its answers come to the probe all the same.
#[test]
fn without_state_answers_come_to_the_probe_too() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        let group = "[tenant.acme.group.all]\ningress = [";
        site.rewrite(|text| {
            text.replace(
                group,
                "[tenant.acme.group.all]\nstateful = false\ningress = [\n  { from = \"any\" },",
            )
        });
        let [alpha, _beta] = ["alpha", "beta"].map(|host| site.run_with(host, dataplane));
        let _takes = Listener::start(&site.db1, "10.1.0.21:5432");
        let capture = Capture::start(&site.web1, "eth0");
        for to in ["10.1.0.21", "10.1.0.12"] {
            let report = expect(&alpha, &["ping", "--from", "acme/web1", to], "reached", REACHED);
            assert_eq!(report["answered"], 3, "{dataplane}: {report:#}");
        }
        let report = expect(&alpha, &["tcp", "--from", "acme/web1", "10.1.0.21:5432"], "reached", REACHED);
        step(&report, "no state is kept of it");
        expect(&alpha, &["tcp", "--from", "acme/web1", "10.1.0.12:5432"], "refused", REFUSED);
        let seen = came(&capture);
        assert!(seen.is_empty(), "{dataplane}: {} frames came to web1, such as {:02x?}", seen.len(), seen[0]);
    }
}

#[test]
fn who_has_an_address_in_each_mode() {
    for dataplane in DATAPLANES {
        for (mode, words) in [
            ("suppress", "neighbors = \"suppress\""),
            ("proxy", "the appliance's MAC"),
            ("off", "answered from there"),
        ] {
            let Some(site) = Site::new(HOSTS_V4) else { return };
            let network = "[tenant.acme.network.lan]\n";
            site.rewrite(|text| text.replace(network, &format!("{network}neighbors = \"{mode}\"\n")));
            let [alpha, _beta] = ["alpha", "beta"].map(|host| site.run_with(host, dataplane));
            let capture = Capture::start(&site.web1, "eth0");
            for to in ["10.1.0.21", "10.1.0.12", "fd00:1::21", "fd00:1::12"] {
                let report =
                    expect(&alpha, &["arp", "--from", "acme/web1", to, "--count", "2"], "reached", REACHED);
                assert_eq!(report["answered"], 2, "{dataplane} {mode}: {report:#}");
                step(&report, words);
                let report =
                    expect(&alpha, &["ping", "--from", "acme/web1", to, "--count", "1"], "reached", REACHED);
                step(&report, "answered after");
            }
            // With nobody to answer for it, its machines' questions are for all of them, and so are a probe's.
            let frames = came(&capture);
            let is_for_web1 = |frame: &&Vec<u8>| frame[..6] == WEB1.0;
            let told: Vec<_> = frames.iter().filter(is_for_web1).collect();
            assert!(told.is_empty(), "{dataplane} {mode}: {:02x?}", told[0]);
        }
    }
}

#[test]
fn the_largest_packet_is_found_and_what_narrows_the_path() {
    for dataplane in DATAPLANES {
        let Some((site, router)) = Site::routed() else { return };
        let [alpha, _beta] = ["alpha", "beta"].map(|host| site.run_with(host, dataplane));
        // Wider than the machines' own links.
        for (to, least) in [("10.1.0.21", 1500), ("fd00:1::21", 1500), ("10.1.0.12", 1500)] {
            let report =
                expect(&alpha, &["pmtu", "--from", "acme/web1", to, "--timeout", "0.5"], "reached", REACHED);
            assert_eq!(report["path_mtu"], least, "{dataplane}: {report:#}");
        }
        // A link behind the next router is narrower: the tunnel takes 50 bytes of 1400.
        router.ip("link set far mtu 1400");
        for to in ["10.1.0.21", "fd00:1::21"] {
            let report =
                expect(&alpha, &["pmtu", "--from", "acme/web1", to, "--timeout", "0.5"], "reached", REACHED);
            assert_eq!(report["path_mtu"], 1350, "{dataplane}: {report:#}");
            step(&report, "the path to the VTEP 192.0.2.2 has an MTU of 1400");
        }
        let report = expect(
            &alpha,
            &["ping", "--from", "web1", "10.1.0.21", "--size", "1400", "--count", "1"],
            "too-big",
            DROPPED,
        );
        step(&report, "1350 bytes fit");
    }
}

#[test]
fn whether_other_vteps_are_reached() {
    for hosts in [HOSTS_V4, HOSTS_V6] {
        let Some(site) = Site::new(hosts) else { return };
        let alpha = site.run("alpha");
        // Its machine is there, and nobody listens.
        let report = expect(&alpha, &["vtep"], "unreachable", REFUSED);
        assert_eq!(report["vteps"][0]["port"], "closed", "{report:#}");
        let beta = site.run("beta");
        let report = expect(&alpha, &["vtep", "beta", "--count", "2"], "reached", REACHED);
        let vtep = &report["vteps"][0];
        assert_eq!((&vtep["host"], &vtep["path_mtu"]), (&"beta".into(), &1700.into()), "{report:#}");
        assert_eq!(vtep["port"], "open-or-silent");
        step(&report, "eastgate probe ping --from acme/web1 10.1.0.21");
        drop(beta);
        site.beta.ip("link set underlay0 mtu 1600");
        site.alpha.ip("link set underlay0 mtu 1700");
        site.beta.ip("addr flush dev underlay0");
        let (code, report) = probe(&alpha, &["vtep", "beta", "--timeout", "0.3"]);
        assert!([NO_ANSWER, REFUSED].contains(&code), "{report:#}");
        assert_ne!(report["verdict"], "reached");
    }
}

#[test]
fn what_cannot_be_asked_is_said() {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let alpha = site.run("alpha");
    let said = |arguments: &[&str]| {
        let output = alpha.run(&[&["probe"], arguments].concat());
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    for (arguments, code, words) in [
        (&["ping", "--from", "acme/db1", "10.1.0.11"][..], 1, "acme/db1 is on host beta: ask there"),
        (&["ping", "--from", "acme/nobody", "10.1.0.11"], 1, "has an endpoint acme/nobody"),
        (&["ping", "--from", "web1", "10.9.0.1"], 1, "--via ADDRESS"),
        (&["ping", "--from", "web1", "10.9.0.1", "--via", "10.8.0.1"], 1, "is in no subnet"),
        (&["ping", "--from", "web1", "10.1.0.21", "--source", "10.1.0.12"], 1, "is at acme/web2 now"),
        (&["ping", "--from", "web1", "10.1.0.11"], 1, "own address"),
        (&["tcp", "--from", "web1", "10.1.0.21"], 2, "needs a port"),
        (&["ping", "--from", "web1", "224.0.0.1"], 2, "no single machine's"),
        (&["ping", "--from", "web1", "10.1.0.21", "--count", "1000"], 2, "from 1 to 100"),
        (&["vtep", "gamma"], 1, "there is no host gamma"),
        (&["vtep", "alpha"], 1, "is this host"),
    ] {
        let (got, text) = said(arguments);
        assert!(got == code && text.contains(words), "{arguments:?}: {got} {text}");
    }
    site.alpha.ip("link set veth-web1 down");
    wait_for("the daemon knows", || alpha.port_state("veth-web1") == "down");
    let (code, text) = said(&["ping", "--from", "web1", "10.1.0.12"]);
    assert!(code == 1 && text.contains("veth-web1 is down"), "{code} {text}");
}
