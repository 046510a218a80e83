//! The daemons of a lab: started inside their host's namespace, waited for, asked, ended.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use eastgate::daemon::Dataplane;
use eastgate_testkit::{Process, command::run_within, wait::SLOW_POLL};
use serde_json::Value;

use super::{
    Options,
    build::{LAB_VARIABLE, show},
    error::LabError,
    record::Record,
};

/// How long a daemon may take to become ready.
const READY_BOUND: Duration = Duration::from_secs(60);
/// How long a daemon may take to answer a question.
const ANSWER_BOUND: Duration = Duration::from_secs(30);
/// How much of a log is shown when a daemon fails.
const LOG_TAIL_LINES: usize = 20;

/// Starts the daemons of `hosts`, and waits until each is ready. They are on record before they are waited for,
/// so that they are ended whatever happens.
pub(super) fn start(record: &mut Record, hosts: &[String], options: &Options) -> Result<(), LabError> {
    if !hosts.is_empty() && !options.eastgate.is_file() {
        return Err(LabError::NoEastgate(options.eastgate.clone()));
    }
    let mut children = Vec::new();
    for host in hosts {
        options.interrupt.check()?;
        let child = spawn(record, host, options)?;
        let process = Process::new(child.id() as i32);
        children.push((host, child));
        if let Some(process) = process {
            record.daemons.insert(host.clone(), process);
            record.save()?;
        }
    }
    let deadline = Instant::now() + READY_BOUND;
    children.iter_mut().try_for_each(|(host, child)| wait_ready(record, host, child, deadline, options))
}

/// Gives the daemons of a lab its configuration from `from`.
pub(super) fn install_config(record: &Record, from: &Path) -> Result<(), LabError> {
    copy(from, &record.config())
}

/// The configuration of the story that is to be tried beside the one in force: in its folder.
pub(super) fn install_staged(record: &Record, from: &Path) -> Result<PathBuf, LabError> {
    let staged = record.config().with_file_name("staged.toml");
    copy(from, &staged).map(|()| staged)
}

/// A copy, so that a story can change it and the folder of the story stays as it is.
fn copy(from: &Path, to: &Path) -> Result<(), LabError> {
    let text = super::story::read(from).map_err(LabError::file(from))?;
    fs::write(to, text).map_err(LabError::file(to))
}

/// Asks the daemon on `host`: `eastgate COMMAND --socket .. -o json`.
pub(super) fn ask(
    record: &Record,
    host: &str,
    command: &[&str],
    options: &Options,
) -> Result<Value, LabError> {
    let mut asking = Command::new(&options.eastgate);
    asking.args(command).arg("--socket").arg(record.socket(host)).args(["-o", "json"]);
    let failed = |output: String| LabError::Command {
        command: format!("eastgate {} --socket {}", command.join(" "), record.socket(host).display()),
        output,
    };
    let text = run_within(&mut asking, ANSWER_BOUND).map_err(|failure| failed(failure.to_string()))?;
    serde_json::from_str(&text).map_err(|error| failed(format!("its answer is no JSON: {error}")))
}

/// Has the daemon on `host` do something that may take as long as a configuration takes to be read.
pub(super) fn tell(record: &Record, host: &str, what: &[&str], options: &Options) -> Result<(), LabError> {
    let mut command = Command::new(&options.eastgate);
    command.args(what).arg("--socket").arg(record.socket(host));
    run_within(&mut command, READY_BOUND).map(|_| ()).map_err(|failure| LabError::Command {
        command: format!("eastgate {} --socket {}", what.join(" "), record.socket(host).display()),
        output: failure.to_string(),
    })
}

/// The daemons that are on record and no longer run.
pub(super) fn missing(record: &Record) -> Vec<String> {
    let alive = |host: &str| record.daemons.get(host).is_some_and(|daemon| daemon.is_alive());
    record.hosts().filter(|host| !alive(host)).map(str::to_owned).collect()
}

fn spawn(record: &Record, host: &str, options: &Options) -> Result<Child, LabError> {
    let log = open_log(&record.log(host))?;
    let errors = log.try_clone().map_err(LabError::file(record.log(host)))?;
    // `ip netns exec` rather than setns: it mounts the namespace's own /sys, where device facts are looked up.
    let mut command = record.namespace(host)?.command(&options.eastgate);
    command.arg("run").arg("--config").arg(record.config()).args(["--host", host]);
    command.arg("--socket").arg(record.socket(host));
    // Otherwise it is as the environment says.
    if options.dataplane != Dataplane::Auto {
        command.args(["--dataplane", options.dataplane.name()]);
    }
    command.env(LAB_VARIABLE, &record.id);
    if options.verbose {
        show(&format!("{command:?}").replace('"', ""));
    }
    let command = command.stdin(Stdio::null()).stdout(log).stderr(errors).process_group(0);
    command
        .spawn()
        .map_err(|error| LabError::Command { command: "ip netns exec".into(), output: error.to_string() })
}

fn open_log(path: &PathBuf) -> Result<File, LabError> {
    OpenOptions::new().create(true).append(true).open(path).map_err(LabError::file(path))
}

fn wait_ready(
    record: &Record,
    host: &str,
    child: &mut Child,
    deadline: Instant,
    options: &Options,
) -> Result<(), LabError> {
    loop {
        options.interrupt.check()?;
        if let Ok(Some(status)) = child.try_wait() {
            return Err(LabError::Ended {
                host: host.into(),
                status: status.to_string(),
                log: log_tail(record, host),
            });
        }
        let ready = record.socket(host).exists()
            && ask(record, host, &["status"], options)
                .is_ok_and(|status| status["ready"] == Value::Bool(true));
        if ready {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let (host, log) = (host.to_owned(), log_tail(record, host));
            return Err(LabError::NotReady { host, seconds: READY_BOUND.as_secs(), log });
        }
        std::thread::sleep(SLOW_POLL);
    }
}

fn log_tail(record: &Record, host: &str) -> String {
    let text = fs::read_to_string(record.log(host)).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines.get(lines.len().saturating_sub(LOG_TAIL_LINES)..).unwrap_or_default();
    tail.iter().map(|line| format!("  {line}\n")).collect()
}
