//! What each command does.

use std::{io::IsTerminal, path::Path, process::ExitCode, sync::Arc};

use anyhow::{Context, Result};
use eastgate_wire::DropReason;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    args::{Args, Ask, Command, FdbAction, FlowsAction, Format, Output, Run, ShowTable, Site, Trace},
    exit, print,
};
use crate::{
    config::{Config, Loader, Severity, schema},
    control::{
        client::ask,
        protocol::{Done, Filter, Request, Status, TraceReport, TraceRequest},
    },
    daemon::{self, choose_host},
    io::netlink::Netlink,
    plan,
    snapshot::{PortRegistry, Snapshot, state::StateBook},
    trace::trace,
};

/// Does what the command line says; the exit code.
///
/// # Errors
/// Why it could not be done.
pub(super) fn run(args: Args) -> Result<ExitCode> {
    let code = match args.command {
        Command::Run(options) => serve(&options)?,
        Command::Check { files, output } => check(&files, output.output),
        Command::Schema => {
            println!("{}", serde_json::to_string_pretty(&schema())?);
            exit::OK
        }
        Command::Plan { site, output, .. } => show_plan(&site, output.output)?,
        Command::Reload(options) => reload(&options)?,
        Command::Status(options) => {
            let status: Status = ask(&options.daemon.socket, &Request::Status {})?;
            emit(&options.output, &status, print::status)?
        }
        Command::Show { table, filter, ask: options } => show(table, filter.into(), &options)?,
        Command::Fdb { action: FdbAction::Flush { filter, ask } } => {
            count(&ask, Request::FdbFlush(filter.into()), "learned entries forgotten")?
        }
        Command::Flows { action: FlowsAction::Kill { filter, all, ask } } => {
            let filter = Filter::from(filter);
            if !all && filter == Filter::default() {
                eprintln!("eastgate: say which flows: --vni, --address, --port, --proto, or --all");
                return Ok(ExitCode::from(exit::USAGE));
            }
            count(&ask, Request::FlowsKill(filter), "flows ended")?
        }
        Command::Trace(options) => walk(&options)?,
        Command::DropReasons { output } => drop_reasons(&output)?,
        Command::Teardown { daemon } => {
            let undone = daemon::teardown(&daemon.socket)?;
            println!("{}", if undone { "undone: the machine is as it was" } else { "nothing to undo" });
            exit::OK
        }
        Command::Lab { command } => return Ok(crate::lab::cli::run(command)?),
    };
    Ok(ExitCode::from(code))
}

/// Prints an answer as JSON or as text.
fn emit<T: Serialize>(output: &Output, answer: &T, text: impl Fn(&T) -> String) -> Result<u8> {
    match output.output {
        Format::Json => println!("{}", serde_json::to_string_pretty(answer)?),
        Format::Text => print!("{}", text(answer)),
    }
    Ok(exit::OK)
}

fn serve(options: &Run) -> Result<u8> {
    start_logging(options.log_format);
    let workers = match options.workers {
        Some(workers) => workers.clamp(1, 256),
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    daemon::run(&daemon::Options {
        config: options.site.config.clone(),
        host: options.site.host.clone(),
        socket: options.daemon.socket.clone(),
        workers,
        dataplane: options.dataplane,
        on_stop: options.on_stop,
        pin: options.pin.clone(),
    })?;
    Ok(exit::OK)
}

fn start_logging(format: Format) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("EASTGATE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        Format::Json => builder.json().init(),
        Format::Text => builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).init(),
    }
}

fn check(files: &[std::path::PathBuf], output: Format) -> u8 {
    let color = std::io::stderr().is_terminal();
    let mut worst = exit::OK;
    let mut found = Vec::new();
    for file in files {
        let mut loader = Loader::new(file);
        let result = loader.load();
        let diagnostics = match &result {
            Ok(_) => loader.warnings(),
            Err(diagnostics) => {
                worst = exit::CONFIG;
                diagnostics
            }
        };
        match output {
            Format::Json => found.extend(diagnostics.iter().map(|diagnostic| json!(diagnostic))),
            Format::Text => {
                eprint!("{}", diagnostics.render(color));
                match &result {
                    Ok(config) => println!("{}: {}", file.display(), print::summary(config)),
                    Err(_) => eprintln!("{}: {} errors", file.display(), diagnostics.count(Severity::Error)),
                }
            }
        }
    }
    if output == Format::Json {
        println!("{:#}", Value::Array(found));
    }
    worst
}

/// A configuration as it would be put in force on a host, without a daemon.
fn offline(path: &Path, host: Option<&str>) -> Result<(Arc<Config>, Snapshot)> {
    let mut loader = Loader::new(path);
    let config = daemon::load(&mut loader, std::io::stderr().is_terminal())?;
    let host = choose_host(&config, host)?;
    let book = StateBook::new(config.limits);
    let snapshot = Snapshot::compile(&config, &host, None, &mut PortRegistry::default(), &book)?;
    Ok((config, snapshot))
}

fn show_plan(site: &Site, output: Format) -> Result<u8> {
    let (_, snapshot) = offline(&site.config, site.host.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let links =
        runtime.block_on(async { Netlink::connect()?.links().await }).context("cannot list devices")?;
    let steps = plan::steps(&snapshot, &links)?;
    emit(&Output { output }, &steps, |steps| print::plan(steps))
}

fn reload(options: &Ask) -> Result<u8> {
    let done: Done = match ask(&options.daemon.socket, &Request::Reload {}) {
        Err(crate::control::client::ClientError::Refused(text)) => {
            eprintln!("{text}\neastgate: refused; the configuration before stays in force");
            return Ok(exit::CONFIG);
        }
        answer => answer?,
    };
    emit(&options.output, &done, |done| {
        let warnings: String = done.warnings.iter().map(|warning| format!("warning: {warning}\n")).collect();
        format!("{warnings}in force: epoch {}\n", done.epoch)
    })
}

fn count(options: &Ask, request: Request, what: &str) -> Result<u8> {
    let done: Done = ask(&options.daemon.socket, &request)?;
    emit(&options.output, &done, |done| format!("{} {what}\n", done.count))
}

fn show(table: ShowTable, filter: Filter, options: &Ask) -> Result<u8> {
    match table {
        ShowTable::Endpoints => rows(options, Request::Endpoints(filter), "endpoints", print::endpoints),
        ShowTable::Fdb => rows(options, Request::Fdb(filter), "fdb", print::fdb),
        ShowTable::Flows => rows(options, Request::Flows(filter), "flows", print::flows),
        ShowTable::Neighbors => rows(options, Request::Neighbors(filter), "neighbors", print::neighbors),
        ShowTable::Drops => rows(options, Request::Drops(filter), "drops", print::drops),
        ShowTable::Policy => rows(options, Request::Policy(filter), "policy", print::policy),
    }
}

fn rows<T: DeserializeOwned>(
    options: &Ask,
    request: Request,
    key: &str,
    text: impl Fn(&[T]) -> String,
) -> Result<u8> {
    let answer: Value = ask(&options.daemon.socket, &request)?;
    match options.output.output {
        Format::Json => println!("{answer:#}"),
        Format::Text => {
            let rows = answer.get(key).cloned().unwrap_or_default();
            print!("{}", text(&serde_json::from_value::<Vec<T>>(rows)?));
        }
    }
    Ok(exit::OK)
}

fn walk(options: &Trace) -> Result<u8> {
    let request = TraceRequest {
        vni: options.vni,
        proto: options.proto,
        src: options.src.ip.into(),
        dst: options.dst.ip.into(),
        sport: options.src.port.unwrap_or(0),
        dport: options.dst.port.unwrap_or(0),
        icmp: options.kind.map(|kind| (kind, options.code)),
    };
    let report: TraceReport = match &options.config {
        Some(path) => {
            let (config, first) = offline_for(path, &request)?;
            drop(config);
            trace(&first, &request).map_err(anyhow::Error::msg)?
        }
        None => ask(&options.ask.daemon.socket, &Request::Trace(request))?,
    };
    emit(&options.ask.output, &report, print::trace)?;
    Ok(if report.verdict == "forwarded" { exit::OK } else { exit::DROPPED })
}

/// The snapshot of a host that has a part in the packet's network.
fn offline_for(path: &Path, request: &TraceRequest) -> Result<(Arc<Config>, Snapshot)> {
    let mut loader = Loader::new(path);
    let config = daemon::load(&mut loader, std::io::stderr().is_terminal())?;
    let member = config
        .networks()
        .find(|(_, network)| network.vni == request.vni)
        .and_then(|(_, network)| config.members(network).find(|host| host.runs_eastgate()))
        .map(|host| host.name.clone())
        .with_context(|| format!("no host that runs eastgate has a part in VNI {}", request.vni))?;
    offline(path, Some(&member))
}

fn drop_reasons(output: &Output) -> Result<u8> {
    let rows: Vec<Value> = DropReason::ALL
        .iter()
        .map(|reason| json!({ "reason": reason.name(), "group": reason.group(), "text": reason.describe() }))
        .collect();
    emit(output, &rows, |_| print::drop_reasons())
}
