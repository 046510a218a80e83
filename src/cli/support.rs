//! `eastgate support`: packs what somebody who helps needs to see.

use std::{
    collections::BTreeSet,
    fmt::Write,
    io::{Read, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::Result;
use clap::Args as ClapArgs;
use eastgate_api::{Filter, Request};
use eastgate_config::{Config, Loader};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    args::{Ask, Monitoring},
    commands::{ask, emit, offline},
    doctor::{self, Subject},
    exit, plan,
};
use crate::{
    doctor::facts::{Configuration, Facts},
    support::{Archive, Pseudonyms, without_snippets, without_words},
};

pub(super) const HELP: &str = "Packs doctor's findings, status, tables (1,000 rows of each), events, metrics, plan, the kernel and its settings, devices,
the daemon's log where journald has it, and the configuration without comments and descriptions. Environment variables, keys,
and what other processes were told are never packed; nothing is changed and nothing is sent. The file is made for its owner alone.

Names, addresses and MACs stay: --redact puts pseudonyms in their place, the same throughout.

Examples:
  sudo eastgate support
  sudo eastgate support --redact --file /tmp/for-support.tar.gz
  tar -tzf eastgate-support-alpha-1800000000.tar.gz";

/// Rows of each table.
const ROWS: usize = 1000;

/// Lines of the log.
const LOG_LINES: &str = "5000";

/// Options of `support`.
#[derive(ClapArgs, Clone, Debug)]
pub struct Support {
    /// The archive, which must not be there yet; eastgate-support-HOST-TIME.tar.gz unless told otherwise
    #[arg(long, value_name = "FILE.tar.gz")]
    pub file: Option<PathBuf>,
    /// Put pseudonyms in the place of names, addresses and MACs
    #[arg(long)]
    pub redact: bool,
    /// What is looked at
    #[command(flatten)]
    pub subject: Subject,
    /// Where the daemon serves metrics
    #[command(flatten)]
    pub monitoring: Monitoring,
    /// The daemon
    #[command(flatten)]
    pub ask: Ask,
}

/// What was packed.
#[derive(Serialize)]
struct Packed {
    file: PathBuf,
    redacted: bool,
    contents: Vec<(String, usize)>,
    /// What could not be had, and why
    missing: Vec<String>,
}

/// What is being packed.
struct Pack {
    archive: Archive,
    pseudonyms: Option<Pseudonyms>,
    missing: Vec<String>,
}

impl Pack {
    fn text(&mut self, name: &str, text: &str) {
        let text = match &mut self.pseudonyms {
            Some(pseudonyms) => pseudonyms.put(text),
            None => text.to_owned(),
        };
        self.archive.add(name, text);
    }

    fn json(&mut self, name: &str, value: &impl Serialize) {
        match serde_json::to_string_pretty(value) {
            Ok(text) => self.text(name, &text),
            Err(error) => self.missing.push(format!("{name}: {error}")),
        }
    }

    fn try_text(&mut self, name: &str, text: Result<String, String>) {
        match text {
            Ok(text) => self.text(name, &text),
            Err(why) => self.missing.push(format!("{name}: {why}")),
        }
    }
}

pub(super) fn pack(options: &Support) -> Result<u8> {
    let (facts, report) = doctor::look(&options.subject, &options.ask)?;
    let config_file = doctor::file(&options.subject, facts.answers());
    let mut loader = Loader::new(&config_file);
    let config = loader.load().ok();
    let pseudonyms = options.redact.then(|| pseudonyms(&facts, config.as_deref()));
    let host = facts.site.as_ref().map_or("host", |site| &site.host);
    let unix_s = facts.machine.clock.unix_s;
    let named = if options.redact { "redacted" } else { host };
    let folder = format!("eastgate-support-{named}-{unix_s}");
    let file = options.file.clone().unwrap_or_else(|| format!("{folder}.tar.gz").into());
    let mut pack = Pack { archive: Archive::new(folder, unix_s), pseudonyms, missing: Vec::new() };
    pack.json("doctor.json", &report);
    pack.text("doctor.txt", &doctor::text(&report));
    pack.text("version.txt", &format!("eastgate {}\n", facts.version));
    daemon(options, &facts, &mut pack);
    machine(&facts, &mut pack);
    let planned = offline(
        &config_file,
        options.subject.host.as_deref().or(facts.site.as_ref().map(|site| &*site.host)),
    )
    .and_then(|(_, snapshot)| {
        plan::of_machine(&snapshot, &options.subject.carrier, &options.ask.daemon.socket, &options.monitoring)
    });
    match planned {
        Ok(lines) => pack.json("plan.json", &lines),
        Err(error) => pack.missing.push(format!("plan.json: {}", first_line(&format!("{error:#}")))),
    }
    configuration(&facts, &config_file, config.as_deref(), &mut pack);
    let missing = std::mem::take(&mut pack.missing);
    if !missing.is_empty() {
        pack.text("missing.txt", &(missing.join("\n") + "\n"));
    }
    pack.archive.write(&file)?;
    let contents = pack.archive.contents().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
    let packed = Packed { file, redacted: options.redact, contents, missing };
    emit(&options.ask.output, &packed, told)?;
    Ok(exit::OK)
}

fn told(packed: &Packed) -> String {
    let mut text = String::new();
    for (name, bytes) in &packed.contents {
        let _ = writeln!(text, "{bytes:>10}  {name}");
    }
    for missing in &packed.missing {
        let _ = writeln!(text, "{:>10}  {missing}", "not had");
    }
    let pseudonyms =
        if packed.redacted { ", with pseudonyms" } else { ", with names and addresses as they are" };
    let _ = writeln!(text, "\npacked in {}{pseudonyms}", packed.file.display());
    text
}

fn first_line(text: &str) -> String {
    text.lines().find(|line| !line.trim().is_empty()).unwrap_or("").trim().to_owned()
}

/// What the daemon says of itself.
fn daemon(options: &Support, facts: &Facts, pack: &mut Pack) {
    let Some(answers) = facts.answers() else {
        return pack.missing.push("status.json and tables: no daemon answers".into());
    };
    let mut status = answers.status.clone();
    status.reload_error = status.reload_error.map(|error| without_snippets(&error));
    pack.json("status.json", &status);
    let some = || Filter { limit: Some(ROWS), ..Filter::default() };
    let all_drops = Filter { all: true, ..some() };
    let requests = [
        ("endpoints", Request::Endpoints(some())),
        ("fdb", Request::Fdb(some())),
        ("flows", Request::Flows(some())),
        ("expectations", Request::Expectations(some())),
        ("neighbors", Request::Neighbors(some())),
        ("drops", Request::Drops(all_drops)),
        ("rules", Request::Rules(some())),
        ("machines", Request::Machines(some())),
        ("events", Request::Events(some())),
    ];
    for (name, request) in requests {
        match ask::<Value>(&options.ask, &request) {
            Ok(answer) => pack.json(&format!("{name}.json"), &answer),
            Err(error) => pack.missing.push(format!("{name}.json: {}", first_line(&error.to_string()))),
        }
    }
    if let Some(address) = options.monitoring.metrics {
        pack.try_text("metrics.txt", metrics(address).map_err(|error| error.to_string()));
    }
    let log =
        answers.pid.ok_or_else(|| "the daemon's process has no number here".to_owned()).and_then(|pid| {
            // Numbers of processes are given again: of this boot, and of this program.
            let (of_daemon, of_program) = (format!("_PID={pid}"), "_COMM=eastgate");
            let how = ["--no-pager", "--quiet", "--boot", "-o", "short-iso", "-n", LOG_LINES];
            run("journalctl", &[&how[..], &[&of_daemon, of_program]].concat())
        });
    pack.try_text(
        "log.txt",
        log.and_then(|log| {
            if log.trim().is_empty() {
                Err("journald has none of this daemon".into())
            } else {
                Ok(without_snippets(&log))
            }
        }),
    );
}

fn metrics(address: SocketAddr) -> std::io::Result<String> {
    const PATIENCE: Duration = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut page = Vec::new();
    stream.take(64 << 20).read_to_end(&mut page)?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

/// Kernel, settings and devices.
fn machine(facts: &Facts, pack: &mut Pack) {
    let machine = &facts.machine;
    pack.json("kernel.json", &json!({
        "kernel": machine.kernel, "memory": machine.memory, "clock": machine.clock, "open_files": machine.open_files,
        "capabilities": machine.capabilities, "bpf_mounts": machine.bpf_mounts, "tracked_connections": machine.tracked,
    }));
    pack.try_text("links.txt", run("ip", &["-d", "-s", "link", "show"]));
    pack.try_text("addresses.txt", run("ip", &["address", "show"]));
    pack.try_text("routes.txt", run("ip", &["route", "show", "table", "all"]));
    pack.try_text("qdiscs.txt", run("tc", &["-s", "qdisc", "show"]));
    let mut settings = String::new();
    for root in ["/proc/sys/net/ipv4", "/proc/sys/net/ipv6", "/proc/sys/net/bridge", "/proc/sys/net/core"] {
        below(Path::new(root), &mut settings);
    }
    pack.text("sysctl.txt", &settings);
    if let Ok(devices) = &facts.devices {
        let closely = devices.closely.iter().map(|(name, close)| {
            (name.clone(), json!({ "features": close.features, "programs_of_others": close.foreign, "qdisc": close.qdisc }))
        });
        pack.json("devices.json", &closely.collect::<serde_json::Map<_, _>>());
    }
    if let Some(site) = &facts.site {
        pack.json(
            "port.json",
            &json!({ "udp_port": site.port, "sockets": site.listeners, "firewall": site.firewall }),
        );
    }
}

/// Settings with their values. Keys of TCP Fast Open and of addresses are secrets of the machine's.
fn below(folder: &Path, text: &mut String) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() {
            below(&path, text);
        } else if !name.contains("key") && !name.contains("secret") {
            let Ok(value) = std::fs::read_to_string(&path) else { continue };
            let shown = path.strip_prefix("/proc/sys").unwrap_or(&path).display();
            let _ = writeln!(text, "{shown} = {}", value.trim().replace('\n', " | "));
        }
    }
}

/// A program of the system's that only prints. It gets nothing of this process's environment but where programs are.
fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut command = Command::new(program);
    let output = command.args(arguments).env_clear().env("PATH", path).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{program}: {}", first_line(&String::from_utf8_lossy(&output.stderr))))
}

/// The configuration's files, without what is for people.
fn configuration(facts: &Facts, file: &Path, config: Option<&Config>, pack: &mut Pack) {
    if matches!(facts.configuration, Configuration::Absent(_)) {
        return pack.missing.push("the configuration: there is none".into());
    }
    if pack.pseudonyms.is_some() && config.is_none() {
        // What in it is a name only a configuration that is read tells.
        return pack.missing.push(
            "the configuration: with errors in it, its names cannot be told; doctor.txt has those".into(),
        );
    }
    let mut files = BTreeSet::from([file.to_owned()]);
    for tenant in config.into_iter().flat_map(|config| config.tenants.values()) {
        files.insert(tenant.at.file().into());
    }
    for (number, path) in files.iter().enumerate() {
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string());
        // What is a comment in what is no TOML is anybody's guess.
        let is_toml = |text: String| match toml::de::DeTable::parse(&text) {
            Ok(_) => Ok(text),
            Err(_) => Err("it is no TOML; doctor.txt says where".to_owned()),
        };
        let text = text.and_then(is_toml);
        let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        // Names of files may be those of tenants.
        let name = pack.pseudonyms.as_mut().map_or(name.clone(), |pseudonyms| pseudonyms.put(&name));
        pack.try_text(&format!("config/{:02}-{name}", number + 1), text.map(|text| without_words(&text)));
    }
}

/// Who has a name.
fn pseudonyms(facts: &Facts, config: Option<&Config>) -> Pseudonyms {
    let mut names = Pseudonyms::default();
    if let Some(config) = config {
        config.hosts.keys().for_each(|name| names.name("host", name));
        config
            .hosts
            .values()
            .flat_map(|host| host.devices.iter().chain(host.vdp.keys()))
            .for_each(|name| names.name("device", name));
        config.site.policies.keys().for_each(|name| names.name("policy", name));
        config.site.sets.keys().for_each(|name| names.name("set", name));
        config.site.templates.keys().for_each(|name| names.name("template", name));
        for tenant in config.tenants.values() {
            names.name("tenant", &tenant.name);
            tenant.groups.keys().for_each(|name| names.name("group", name));
            tenant.sets.keys().for_each(|name| names.name("set", name));
            tenant.policies.keys().for_each(|name| names.name("policy", name));
            tenant.profiles.keys().for_each(|name| names.name("profile", name));
            for network in tenant.networks.values() {
                names.name("network", &network.name);
                for endpoint in network.endpoints.iter() {
                    names.name("endpoint", &endpoint.name);
                    if let Some(attachment) = &endpoint.attachment {
                        names.name("device", &attachment.device);
                    }
                }
            }
        }
    }
    for row in facts.answers().into_iter().flat_map(|answers| answers.endpoints.iter().flatten()) {
        for (kind, name) in ["tenant", "endpoint"].into_iter().zip(row.endpoint.split('/')) {
            names.name(kind, name);
        }
    }
    let ours = |name: &&String| **name != "lo" && !crate::plan::OWN_DEVICES.contains(&&***name);
    for device in facts.devices.iter().flat_map(|devices| devices.links.keys()).filter(ours) {
        names.name("device", device);
    }
    if let Ok(name) = nix::sys::utsname::uname() {
        names.name("machine", &name.nodename().to_string_lossy());
    }
    names
}
