//! What each command does.

use std::{io::IsTerminal, path::Path, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Result;
use eastgate_api::{Done, DropRows, ErrorCode, Filter, FlowRow, List, Request, Row, Status};
use eastgate_config::{Config, Loader, Severity, schema};
use eastgate_dataplane::{
    attachments::Attachments,
    snapshot::{Snapshot, state::StateRegistry},
};
use eastgate_wire::{DropReason, names};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    args::{Args, Ask, Command, FdbAction, FlowsAction, Format, Output, Run, ShowTable},
    capture, doctor, exit, export, import, lab, matrix, observe, plan, policy, print, probe, shell, support,
    token, top, trace,
};
use crate::{
    control::client::{self, ClientError},
    daemon::{self, choose_host},
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
        Command::Plan { site, carrier, monitoring, daemon, output } => {
            let snapshot = offline(&site.config, site.host.as_deref())?.1;
            let lines = plan::of_machine(&snapshot, &carrier, &daemon.socket, &monitoring)?;
            emit(&output, &lines, |lines| print::plan(lines))?
        }
        Command::Reload(options) => reload(&options)?,
        Command::Status(options) => {
            let status: Status = ask(&options, &Request::Status {})?;
            emit(&options.output, &status, print::status)?;
            if status.problems.is_empty() { exit::OK } else { exit::NOT_READY }
        }
        Command::Doctor(options) => doctor::examine(&options)?,
        Command::Support(options) => support::pack(&options)?,
        Command::Show { table, filter, ask: options } => show(table, filter.into(), &options)?,
        Command::Observe(options) => observe::observe(&options)?,
        Command::Capture(options) => capture::capture(&options)?,
        Command::Export { to } => export::run(&to)?,
        Command::Top(options) => top::top(&options)?,
        Command::Completions { shell } => shell::completions(shell),
        Command::Manual { folder } => shell::manual(&folder)?,
        Command::Fdb { action: FdbAction::Flush { filter, ask } } => {
            count(&ask, Request::FdbFlush(filter.into()), "learned entry", "forgotten")?
        }
        Command::Flows { action: FlowsAction::Kill { filter, ask } } => {
            count(&ask, Request::FlowsKill(filter.into()), "flow", "ended")?
        }
        Command::Trace(options) => trace::walk(&options)?,
        Command::Probe { probe } => probe::probe(&probe)?,
        Command::Policy { command } => policy::run(&command)?,
        Command::Import(options) => import::run(&options)?,
        Command::DropReasons { output } => drop_reasons(&output)?,
        Command::Token { command } => token::run(&command)?,
        Command::Teardown { daemon } => {
            let undone = daemon::teardown(&daemon.socket)?;
            println!("{}", if undone { "undone: the machine is as it was" } else { "nothing to undo" });
            exit::OK
        }
        // What was asked is read again there.
        Command::Lab { .. } => match lab::become_program()? {},
    };
    Ok(ExitCode::from(code))
}

/// Asks the daemon, and waits as long as the command line says.
pub(super) fn ask<T: DeserializeOwned>(options: &Ask, request: &Request) -> Result<T, ClientError> {
    let reads = matches!(request, Request::Reload {} | Request::Stage { .. });
    let usual = if reads { 600 } else { 30 };
    // More is for ever, and would not fit the kernel's clock.
    let seconds = options.timeout.unwrap_or(usual).clamp(1, 1 << 30);
    client::ask(&options.daemon.socket, request, Duration::from_secs(seconds))
}

/// Prints an answer as JSON or as text.
pub(super) fn emit<T: Serialize>(output: &Output, answer: &T, text: impl Fn(&T) -> String) -> Result<u8> {
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
        dataplane: options.carrier.dataplane,
        attach: options.carrier.attach,
        on_stop: options.on_stop,
        pin: options.carrier.pin.clone(),
        metrics: options.monitoring.metrics,
        api: options.monitoring.api(),
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
            Format::Json => found.extend(json!(diagnostics).as_array().cloned().unwrap_or_default()),
            Format::Text => {
                eprint!("{}", diagnostics.render(color));
                match &result {
                    Ok(config) => println!("{}: {}", file.display(), print::summary(config)),
                    Err(_) => {
                        let errors = names::count(diagnostics.count(Severity::Error), "error");
                        eprintln!("{}: {errors}", file.display());
                    }
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
pub(super) fn offline(path: &Path, host: Option<&str>) -> Result<(Arc<Config>, Snapshot)> {
    let mut loader = Loader::new(path);
    let config = daemon::load(&mut loader, std::io::stderr().is_terminal())?;
    let host = choose_host(&config, host)?;
    let states = StateRegistry::new(config.limits);
    let snapshot = Snapshot::compile(&config, &host, None, &mut Attachments::default(), &states)?;
    Ok((config, snapshot))
}

fn reload(options: &Ask) -> Result<u8> {
    match ask_to_read(options, &Request::Reload {})? {
        Ok(done) => emit(&options.output, &done, print::reloaded),
        Err(code) => Ok(code),
    }
}

/// Asks for a configuration to be read. What is wrong with it is told here, and the exit code for that comes back.
pub(super) fn ask_to_read(options: &Ask, request: &Request) -> Result<Result<Done, u8>> {
    match ask(options, request) {
        Err(ClientError::Refused(mut failure))
            if matches!(failure.code, ErrorCode::Configuration | ErrorCode::Unknown) =>
        {
            eprintln!("{failure}\neastgate: refused; the configuration before stays in force");
            if options.output.output == Format::Json {
                failure.diagnostics.get_or_insert_with(|| json!([]));
                println!("{:#}", json!(failure));
            }
            Ok(Err(exit::CONFIG))
        }
        answer => Ok(Ok(answer?)),
    }
}

fn count(options: &Ask, request: Request, what: &str, done_to_it: &str) -> Result<u8> {
    if let Some(code) = misused(&request) {
        return Ok(code);
    }
    let done: Done = ask(options, &request)?;
    emit(&options.output, &done, |done| format!("{} {done_to_it}\n", names::count(done.count, what)))
}

/// The exit code for a request that is refused before anyone is asked.
pub(super) fn misused(request: &Request) -> Option<u8> {
    let error = request.check().err()?;
    eprintln!("eastgate: {error}");
    Some(exit::USAGE)
}

fn show(table: ShowTable, mut filter: Filter, options: &Ask) -> Result<u8> {
    // Programs sort chatter out by its class.
    filter.all |= table == ShowTable::Drops && options.output.output == Format::Json;
    match table {
        ShowTable::Endpoints => list(options, Request::Endpoints, filter, print::endpoints),
        ShowTable::Fdb => list(options, Request::Fdb, filter, print::fdb),
        ShowTable::Flows => list(options, Request::Flows, filter, print::flows),
        ShowTable::Expectations => list(options, Request::Expectations, filter, print::expectations),
        ShowTable::Neighbors => list(options, Request::Neighbors, filter, print::neighbors),
        ShowTable::Drops => rows(options, Request::Drops, filter, print::drops),
        ShowTable::Policy => list(options, Request::Policy, filter, print::policy),
        ShowTable::Rules => list(options, Request::Rules, filter, print::rules),
        ShowTable::Matrix => list(options, Request::Matrix, filter, matrix::text),
        ShowTable::Vdp => list(options, Request::Machines, filter, print::machines),
    }
}

fn list<T: Row + Serialize + DeserializeOwned>(
    options: &Ask,
    request: fn(Filter) -> Request,
    filter: Filter,
    text: impl Fn(&[T]) -> String,
) -> Result<u8> {
    rows(options, request, filter, |list: &List<T>| {
        text(&list.rows) + &print::some_of_all(list.rows.len(), list.total, T::LIST)
    })
}

/// An answer that may go on in the next one.
trait Part: Serialize + DeserializeOwned {
    fn rows(&self) -> usize;
    fn next(&self) -> Option<&String>;
    /// Takes the rows of the answer that came next.
    fn append(&mut self, more: Self);
}

impl<T: Row + Serialize + DeserializeOwned> Part for List<T> {
    fn rows(&self) -> usize {
        self.rows.len()
    }

    fn next(&self) -> Option<&String> {
        self.next.as_ref()
    }

    fn append(&mut self, mut more: Self) {
        self.rows.append(&mut more.rows);
        (self.total, self.next) = (more.total, more.next);
    }
}

impl Part for DropRows {
    fn rows(&self) -> usize {
        self.drops.len()
    }

    fn next(&self) -> Option<&String> {
        self.next.as_ref()
    }

    fn append(&mut self, mut more: Self) {
        self.drops.append(&mut more.drops);
        *self = Self { drops: std::mem::take(&mut self.drops), ..more };
    }
}

/// Asks for all rows that are wanted, one answer after the other, and prints them.
fn rows<P: Part>(
    options: &Ask,
    request: fn(Filter) -> Request,
    filter: Filter,
    text: impl Fn(&P) -> String,
) -> Result<u8> {
    if let Some(code) = misused(&request(filter.clone())) {
        return Ok(code);
    }
    emit(&options.output, &whole(options, request, filter)?, text)
}

/// All flows that are wanted.
pub(super) fn all_flows(options: &Ask, filter: Filter) -> Result<Vec<FlowRow>> {
    let all: List<FlowRow> = whole(options, Request::Flows, filter)?;
    Ok(all.rows)
}

/// All rows that are wanted, from one answer after the other.
fn whole<P: Part>(options: &Ask, request: fn(Filter) -> Request, mut filter: Filter) -> Result<P> {
    let limit = filter.limit;
    let mut all: P = ask(options, &request(filter.clone()))?;
    while let Some(next) = all.next().filter(|_| limit.is_none_or(|limit| all.rows() < limit)) {
        filter.after = Some(next.clone());
        filter.limit = limit.map(|limit| limit - all.rows());
        all.append(ask(options, &request(filter.clone()))?);
    }
    Ok(all)
}

fn drop_reasons(output: &Output) -> Result<u8> {
    let rows: Vec<Value> = DropReason::ALL
        .iter()
        .map(|reason| json!({ "reason": reason.name(), "group": reason.group(), "text": reason.describe() }))
        .collect();
    emit(output, &rows, |_| print::drop_reasons())
}
