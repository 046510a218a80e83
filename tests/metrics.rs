//! What is told to Prometheus: by a real one that scrapes, its own linter, and the dashboard's and the alerts' own queries. What it
//! says is what `status` and `show` say.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use common::{Daemon, Space, running::carried_in_the_kernel, site::*, wait_for};
use serde_json::Value;

/// Where the daemon serves, in its own namespace.
const AT: &str = "127.0.0.1:9473";
/// Where Prometheus does.
const PROMETHEUS: &str = "127.0.0.1:9090";

fn packaging(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/prometheus").join(name)
}

/// A program of Debian's package `prometheus`, which `cargo xtask test` unpacks and does not install.
fn of_prometheus(program: &str) -> PathBuf {
    let unpacked = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../tools/prometheus/usr/bin").join(program);
    if unpacked.exists() { unpacked } else { program.into() }
}

fn promtool(arguments: &[&str], input: Option<&str>) {
    let mut command = Command::new(of_prometheus("promtool"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool is there: `cargo xtask test` fetches it");
    let mut to = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut to, input.unwrap_or_default().as_bytes()).unwrap();
    drop(to);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "promtool {arguments:?}: {output:?}");
}

fn get(space: &Space, url: &str) -> (String, String) {
    let output = space.command("curl").args(["-sS", "-w", "\n%{http_code}", url]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, code) = text.rsplit_once('\n').unwrap();
    (code.to_owned(), body.to_owned())
}

fn metrics(space: &Space) -> String {
    let (code, body) = get(space, &format!("http://{AT}/metrics"));
    assert_eq!(code, "200", "{body}");
    body
}

/// Each sample of a page, with its labels as they are written.
fn samples(page: &str) -> BTreeMap<String, f64> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    };
    lines.map(sample).collect()
}

/// A Prometheus that scrapes alpha each second. It is killed when it goes out of scope.
struct Prometheus(Child);

impl Prometheus {
    fn start(site: &Site) -> Self {
        let rules = packaging("eastgate.rules.yml");
        let config = site.world.write(
            "prometheus.yml",
            &format!(
                "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [{:?}]\nscrape_configs:\n  \
                 - job_name: eastgate\n    static_configs: [{{ targets: [\"{AT}\"] }}]\n",
                rules.display()
            ),
        );
        let mut command = site.alpha.command(of_prometheus("prometheus"));
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", site.world.path("tsdb").display()))
            .arg(format!("--web.listen-address={PROMETHEUS}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(site.world.path("prometheus.log")).unwrap());
        Self(command.spawn().expect("prometheus is there: `cargo xtask test` fetches it"))
    }

    /// The rows that a query has, or why it has none.
    fn query(space: &Space, query: &str) -> Result<Vec<Value>, String> {
        let mut command = space.command("curl");
        command.args(["-sS", "--get", "--data-urlencode", &format!("query={query}")]);
        let output = command.arg(format!("http://{PROMETHEUS}/api/v1/query")).output().unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout).map_err(|_| format!("{output:?}"))?;
        let rows = answer["data"]["result"].as_array().ok_or_else(|| answer.to_string())?;
        Ok(rows.clone())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The queries of a dashboard's panels, as for all hosts and a minute.
fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let of_panel = |panel: &Value| {
        let title = panel["title"].as_str().unwrap().to_owned();
        let targets = panel["targets"].as_array().unwrap().iter();
        let query = |target: &Value| {
            let query = target["expr"].as_str().unwrap();
            (title.clone(), query.replace("$__rate_interval", "1m").replace("$instance", ".*"))
        };
        targets.map(query).collect::<Vec<_>>()
    };
    panels.flat_map(of_panel).collect()
}

/// Traffic that is allowed and refused, by rules and without one, and a reload of each kind.
fn make_something_happen(site: &Site, alpha: &Daemon) -> Flows {
    site.rewrite(|text| {
        let policy = "\n[tenant.acme.policy.no-telnet]\napplies_to = \"tenant\"\n[[tenant.acme.policy.no-telnet.ingress]]\n\
                      action = \"deny\"\nproto = \"udp\"\nports = 7001\nfrom = \"any\"\n";
        text + policy
    });
    assert!(alpha.run(&["reload"]).status.success());
    let good = fs::read_to_string(&site.config).unwrap();
    site.rewrite(|_| "nonsense".to_owned());
    assert!(!alpha.run(&["reload"]).status.success());
    fs::write(&site.config, good).unwrap();
    assert!(alpha.run(&["reload"]).status.success());
    let flows = Flows::start(site);
    flows.allowed_arrive("beside those that rules refuse");
    flows.denied_never_arrived();
    flows
}

fn counted(dataplane: &str) {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let alpha = site.run_more("alpha", &["--dataplane", dataplane, "--metrics", AT]);
    let beta = site.run_with("beta", dataplane);
    assert_eq!(get(&site.alpha, &format!("http://{AT}/healthz")), ("200".into(), "ok\n".into()));
    assert_eq!(get(&site.alpha, &format!("http://{AT}/readyz")).0, "200");
    let prometheus = Prometheus::start(&site);
    let flows = make_something_happen(&site, &alpha);
    if dataplane == "ebpf" {
        wait_for("the programs carry", || carried_in_the_kernel(&alpha));
    }

    // Every query of the dashboard has an answer, of one that nobody here wrote.
    let dashboard = fs::read_to_string(packaging("grafana-dashboard.json")).unwrap();
    let queries = queries(&serde_json::from_str(&dashboard).unwrap());
    assert!(queries.len() > 15, "{queries:?}");
    for (title, query) in &queries {
        // Nothing is left to userspace where all is there already.
        let may_be_empty = dataplane == "userspace" && title == "Left to userspace, by cause";
        let mut answer = Err("not asked".to_owned());
        wait_for(&format!("{title:?} shows something: {query}"), || {
            answer = Prometheus::query(&site.alpha, query);
            answer.as_ref().is_ok_and(|rows| may_be_empty || !rows.is_empty())
        });
        assert!(answer.unwrap().iter().all(|row| row["value"][1] != "NaN" || title.starts_with("Reloads")));
    }
    // The alerts are asked for too. None of them is about anything that is as it should be.
    wait_for("no alert is raised", || {
        Prometheus::query(&site.alpha, "ALERTS").is_ok_and(|alerts| alerts.is_empty())
    });
    drop(prometheus);

    // What is asked for one after the other is the same where nothing has moved meanwhile.
    drop(flows);
    drop(beta);
    let mut page = String::new();
    wait_for("a page says what `status` and `show` say", || {
        page = metrics(&site.alpha);
        let asked = Asked::of(&alpha);
        // The next page is another one.
        std::thread::sleep(std::time::Duration::from_millis(600));
        let still = counters(&metrics(&site.alpha)) == counters(&page);
        if still {
            agrees(&samples(&page), &asked);
        }
        still
    });
    promtool(&["check", "metrics"], Some(&page));
    assert_eq!(documented(&page), "");
    counted_anew(&site, &alpha);
    too_many_are_left_out(&site, &alpha);
    assert!(alpha.stop().success());
}

/// A reload that has an endpoint counted anew: what is told begins anew as well.
fn counted_anew(site: &Site, alpha: &Daemon) {
    site.rewrite(|text| format!("{text}\n[tenant.acme.network.lan.limits]\nflows = 99999\n"));
    assert!(alpha.run(&["reload"]).status.success());
    wait_for("a page says what `show endpoints` says", || {
        let rows = alpha.ask(&["show", "endpoints", "--endpoint", "acme/web1"]);
        let sent = &rows["endpoints"][0]["tx_frames"];
        let labels = "{vni=\"5001\",tenant=\"acme\",network=\"lan\",endpoint=\"web1\"}";
        samples(&metrics(&site.alpha))[&format!("eastgate_endpoint_sent_frames_total{labels}")]
            == sent.as_f64().unwrap()
    });
}

/// Of more rules than are told one by one none is, and it says how many there are.
fn too_many_are_left_out(site: &Site, alpha: &Daemon) {
    site.rewrite(|text| {
        let rules: String = (0..10_000)
            .map(|port| format!("  {{ proto = \"udp\", ports = {}, from = \"any\" }},\n", port + 10_000))
            .collect();
        format!("{text}\n[tenant.acme.group.many]\ningress = [\n{rules}]\n")
    });
    assert!(alpha.run(&["reload"]).status.success());
    let mut page = String::new();
    wait_for("they are left out", || {
        page = metrics(&site.alpha);
        !page.contains("eastgate_series_left_out{of=\"rules\"} 0\n")
    });
    assert!(
        !page.contains("eastgate_rule_flows_total{") && page.contains("eastgate_endpoint_sent_frames_total{")
    );
    let left_out = samples(&page)["eastgate_series_left_out{of=\"rules\"}"];
    assert_eq!(left_out, alpha.ask(&["show", "rules", "--limit", "0"])["total"].as_f64().unwrap());
}

/// What the daemon says when it is asked otherwise.
struct Asked {
    status: Value,
    drops: Value,
    endpoints: Value,
    rules: Value,
}

impl Asked {
    fn of(daemon: &Daemon) -> Self {
        Self {
            status: daemon.ask(&["status"]),
            drops: daemon.ask(&["show", "drops", "--all"]),
            endpoints: daemon.ask(&["show", "endpoints"]),
            rules: daemon.ask(&["show", "rules"]),
        }
    }
}

/// The samples that only grow.
fn counters(page: &str) -> BTreeMap<String, f64> {
    let mut samples = samples(page);
    samples.retain(|name, _| name.split('{').next().is_some_and(|family| family.ends_with("_total")));
    samples
}

fn agrees(page: &BTreeMap<String, f64>, asked: &Asked) {
    let value = |name: &str| *page.get(name).unwrap_or_else(|| panic!("no {name} in {page:#?}"));
    let is = |name: &str, json: &Value| assert_eq!(value(name), json.as_f64().unwrap(), "{name}");
    let status = &asked.status;
    let traffic = &status["traffic"];
    is("eastgate_received_frames_total{from=\"port\"}", &traffic["from_ports"]);
    is("eastgate_received_frames_total{from=\"underlay\"}", &traffic["from_underlay"]);
    is("eastgate_sent_frames_total{to=\"port\"}", &traffic["to_ports"]);
    is("eastgate_sent_frames_total{to=\"underlay\"}", &traffic["to_underlay"]);
    is("eastgate_snapshot_epoch", &status["epoch"]);
    assert_eq!(value("eastgate_reloads_total{result=\"applied\"}"), 2.0);
    assert_eq!(value("eastgate_reloads_total{result=\"refused\"}"), 1.0);
    assert_eq!(value("eastgate_reload_duration_seconds_count"), 2.0);
    assert_eq!(value("eastgate_reload_refused"), 0.0);
    let decided = value("eastgate_decision_duration_seconds_count");
    assert!(decided > 0.0 && value("eastgate_decision_duration_seconds_sum") > 0.0);
    assert_eq!(value("eastgate_decision_duration_seconds_bucket{le=\"+Inf\"}"), decided);
    assert!(value("eastgate_decision_duration_seconds_bucket{le=\"0.01\"}") > 0.0);

    let sum = |family: &str| {
        page.iter().filter(|(name, _)| name.starts_with(family)).map(|(_, value)| *value).sum::<f64>()
    };
    assert_eq!(sum("eastgate_dropped_frames_total{"), traffic["dropped"].as_f64().unwrap());
    let mut reasons: BTreeMap<String, f64> = BTreeMap::new();
    for row in asked.drops["drops"].as_array().unwrap() {
        *reasons.entry(row["reason"].as_str().unwrap().to_owned()).or_default() +=
            row["frames"].as_f64().unwrap();
    }
    for (reason, frames) in &reasons {
        let labels = format!("vni=\"5001\",tenant=\"acme\",network=\"lan\",reason=\"{reason}\"");
        assert_eq!(value(&format!("eastgate_dropped_frames_total{{{labels}}}")), *frames, "{reason}");
    }
    assert!(reasons.contains_key("ingress-rule"), "{reasons:?}");

    for row in asked.endpoints["endpoints"].as_array().unwrap() {
        let name = row["endpoint"].as_str().unwrap().strip_prefix("acme/").unwrap();
        let labels = format!("{{vni=\"5001\",tenant=\"acme\",network=\"lan\",endpoint=\"{name}\"}}");
        let sent = format!("eastgate_endpoint_sent_frames_total{labels}");
        if row["host"] == "alpha" {
            is(&sent, &row["tx_frames"]);
            is(&format!("eastgate_endpoint_received_frames_total{labels}"), &row["rx_frames"]);
        } else {
            assert!(!page.contains_key(&sent), "{name} is counted at its own host");
        }
    }
    // Their numbers are told nowhere else.
    let of_rule = |family: &str, rule: &str, action: &str| {
        let start = format!("eastgate_rule_{family}_total{{vni=\"5001\",rule=\"{rule}\",id=\"");
        let mut its = page.iter().filter(|(name, _)| {
            name.strip_prefix(&*start)
                .is_some_and(|rest| rest.ends_with(&format!("\",action=\"{action}\"}}")))
        });
        let value = *its.next().unwrap_or_else(|| panic!("no {start} in {page:#?}")).1;
        assert!(its.next().is_none(), "{start} twice");
        value
    };
    for row in asked.rules["rules"].as_array().unwrap() {
        let [rule, action] = ["rule", "action"].map(|key| row[key].as_str().unwrap());
        for family in ["flows", "packets", "bytes"] {
            assert_eq!(of_rule(family, rule, action), row[family].as_f64().unwrap(), "{rule}: {family}");
        }
    }
    assert!(of_rule("packets", "acme/policy no-telnet ingress #1", "deny") > 0.0);
}

/// What the documents and a page tell differently of what there is.
fn documented(page: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let text = fs::read_to_string(&path).unwrap();
    let kind =
        |name: &str| page.lines().find_map(|line| line.strip_prefix(&format!("# TYPE {name} "))).unwrap();
    let helps = page.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' '));
    let row = |(name, help): (&str, &str)| {
        let labels: BTreeSet<&str> = page
            .lines()
            .filter(|line| line.starts_with(&format!("{name}{{")))
            .filter_map(|line| line.split_once('{')?.1.rsplit_once('}'))
            .flat_map(|(labels, _)| {
                labels.split("\",").filter_map(|label| label.split_once('=')).map(|(label, _)| label)
            })
            .collect();
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        format!("| `{name}` | {} | {} | {help} |\n", kind(name), labels.join(", "))
    };
    let table: String = helps.map(row).collect();
    let (start, end) = ("<!-- generated: metrics -->\n", "<!-- end -->");
    let (before, rest) = text.split_once(start).unwrap();
    let (written, behind) = rest.split_once(end).unwrap();
    let head = "| name | type | labels | what |\n| --- | --- | --- | --- |\n";
    // Only the programs leave packets to userspace.
    if std::env::var_os("EASTGATE_BLESS").is_some() && page.contains("eastgate_punted_packets_total") {
        fs::write(&path, format!("{before}{start}{head}{table}{end}{behind}")).unwrap();
        return String::new();
    }
    let new = format!("{head}{table}");
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (new, written) = (lines(&new), lines(written));
    let missing = new.difference(&written).map(|line| format!("not in docs/metrics.md: {line}\n"));
    let told = written.difference(&new).map(|line| format!("in docs/metrics.md alone: {line}\n"));
    // Of userspace not all families have a sample.
    let told = told.filter(|_| page.contains("eastgate_punted_packets_total"));
    missing.chain(told).collect()
}

#[test]
fn prometheus_is_told_what_userspace_does() {
    counted("userspace");
}

#[test]
fn prometheus_is_told_what_the_programs_do() {
    counted("ebpf");
}

#[test]
fn alerts_are_raised_for_what_they_are_for() {
    let rules = packaging("eastgate.rules.yml");
    promtool(&["check", "rules", rules.to_str().unwrap()], None);
    promtool(&["test", "rules", packaging("eastgate.test.yml").to_str().unwrap()], None);
}

/// An address that is not there is said at once, and nothing on the machine has changed.
#[test]
fn a_daemon_that_cannot_serve_them_does_not_start() {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let before = common::Machine::of(&site.alpha);
    let options = ["--dataplane", "userspace", "--metrics", "203.0.113.9:9473"];
    let mut alpha = Daemon::launch(&site.world, &site.alpha, &site.config, "alpha", &options);
    assert!(!alpha.wait().success());
    assert!(alpha.log().contains("cannot serve metrics at 203.0.113.9:9473 (--metrics)"), "{}", alpha.log());
    assert!(!alpha.socket().exists());
    assert_eq!(before.changes(&common::Machine::of(&site.alpha)), Vec::<String>::new());
}
