//! Labs: stories of tenants' networks that run on one machine and are checked with real traffic.
//!
//! A story is a folder with a `topology.toml` beside an ordinary `eastgate.toml`. [`up`] builds it out of network
//! namespaces, [`check`] sends the traffic it speaks of and compares what happens with what it expects, [`down`]
//! takes it away. Names are unique, so that several labs run side by side; the namespace a lab is started from
//! gets nothing; and after [`down`], a failure, a panic or Ctrl-C nothing is left.
//!
//! The stories stand beside this crate, one folder each, and the program carries them. Hosts run `eastgate`, another
//! program: what a story proves is proved of the one that is installed.

mod build;
mod check;
pub mod cli;
mod daemon;
mod error;
mod graph;
mod interrupt;
mod model;
mod overlay;
mod plan;
mod record;
mod report;
mod station;
mod story;
mod topology;
mod traffic;

use std::{
    env,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use eastgate::{cli::lab::GraphFormat, daemon::Dataplane};
use eastgate_testkit::netns;

pub use check::stress::StressReport;
pub use error::LabError;
pub use interrupt::Interrupt;
pub use record::{Node, NodeKind, Record};
pub use report::{Report, Row};

use model::Model;

/// How labs are run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The `eastgate` that runs on hosts and is asked for counters
    pub eastgate: PathBuf,
    /// Whether every command that builds the lab is written to standard error
    pub verbose: bool,
    /// What its daemons carry frames by
    pub dataplane: Dataplane,
    /// The flag that stops it
    pub interrupt: Interrupt,
}

impl Default for Options {
    /// With the `eastgate` that stands beside this program, or else the one in PATH.
    fn default() -> Self {
        Self {
            eastgate: installed_eastgate(),
            verbose: false,
            dataplane: Dataplane::default(),
            interrupt: Interrupt::default(),
        }
    }
}

/// Where `eastgate` is; where it should be, when there is none.
fn installed_eastgate() -> PathBuf {
    const NAME: &str = "eastgate";
    let this = env::current_exe().ok();
    let beside = this.as_deref().and_then(Path::parent).map(|folder| folder.join(NAME));
    let paths = env::var_os("PATH").unwrap_or_default();
    let mut installed =
        beside.clone().into_iter().chain(env::split_paths(&paths).map(|folder| folder.join(NAME)));
    installed.find(|program| program.is_file()).or(beside).unwrap_or_else(|| NAME.into())
}

/// Builds the lab of `story` (a folder, the name of one below `labs/`, or of one that the program carries) and starts its daemons. It runs until
/// [`down`].
///
/// # Errors
/// Why it could not be built; then nothing of it is left.
pub fn up(story: &str, options: &Options) -> Result<Record, LabError> {
    build(story, options)?.keep()
}

/// Checks what the story of `lab` expects. `lab` is the id or the story of a running lab; a story that does not
/// run is brought up for the check and taken down after it.
///
/// # Errors
/// Why the check could not be made. An expectation that fails is no error: [`Report::ok`] tells.
pub fn check(lab: &str, options: &Options) -> Result<Report, LabError> {
    with(lab, options, |record| check::check(record, options))
}

/// Sends without a pause what the story of `lab` refuses, while each of its hosts goes `rounds` times through a stop and a kill of its
/// daemon, settings that someone changes, and a port that is unplugged. As for [`check`], `lab` need not run.
///
/// # Errors
/// Why it could not be done. A frame that arrives is no error: [`StressReport::ok`] tells.
pub fn stress(lab: &str, rounds: u32, options: &Options) -> Result<StressReport, LabError> {
    with(lab, options, |record| check::stress::stress(record, rounds, options))
}

/// Does something with a lab that runs, or that is brought up for it and taken down after it.
fn with<T>(
    lab: &str,
    options: &Options,
    work: impl FnOnce(&mut Record) -> Result<T, LabError>,
) -> Result<T, LabError> {
    needs_root()?;
    match Record::find(lab) {
        Ok(mut record) => work(&mut record),
        Err(LabError::NotRunning(_)) if story::folder(lab).is_ok() => {
            let mut guard = build(lab, options)?;
            let done = work(&mut guard.record)?;
            guard.tear_down()?;
            Ok(done)
        }
        Err(error) => Err(error),
    }
}

/// Becomes `command` inside `node` of `lab`. `$EASTGATE_SOCKET` is the control socket where the node is a host,
/// and `eastgate` is the program that hosts run.
///
/// # Errors
/// Why that is not possible; it does not return otherwise.
pub fn exec(
    lab: &str,
    node: &str,
    command: &[String],
    options: &Options,
) -> Result<std::convert::Infallible, LabError> {
    needs_root()?;
    let mut entering = command_inside(&Record::find(lab)?, node, command, options)?;
    Err(LabError::Command { command: command.join(" "), output: entering.exec().to_string() })
}

/// `command` inside `node`, with the environment that [`exec`] promises.
fn command_inside(
    record: &Record,
    node: &str,
    command: &[String],
    options: &Options,
) -> Result<Command, LabError> {
    let netns = record.namespace(node)?;
    let mut entering = match command {
        // That of the lab, whatever the file is called and whatever else is installed.
        [program, ..] if program == "eastgate" => netns.command(&options.eastgate),
        [program, ..] => netns.command(program),
        [] => return Err(LabError::NoCommand),
    };
    entering.args(command.iter().skip(1));
    if record.hosts().any(|host| host == node) {
        entering.env("EASTGATE_SOCKET", record.socket(node));
    }
    if let (Some(folder), Some(path)) = (options.eastgate.parent(), env::var_os("PATH")) {
        let paths = std::iter::once(folder.to_owned()).chain(env::split_paths(&path));
        if let Ok(path) = env::join_paths(paths) {
            entering.env("PATH", path);
        }
    }
    Ok(entering)
}

/// A picture of a story, running or not.
///
/// # Errors
/// When the story cannot be read.
pub fn graph(lab: &str, format: GraphFormat) -> Result<String, LabError> {
    let folder = match Record::find(lab) {
        Ok(record) => record.folder,
        Err(_) => story::folder(lab)?,
    };
    let model = Model::read(&folder)?;
    Ok(match format {
        GraphFormat::Text => graph::text(&model),
        GraphFormat::Dot => graph::dot(&model),
    })
}

/// Takes a lab down, whole or half built.
///
/// # Errors
/// What could not be removed; the lab stays on record then.
pub fn down(lab: &str, options: &Options) -> Result<(), LabError> {
    needs_root()?;
    build::tear_down(&Record::find(lab)?, options.verbose)
}

/// The labs that run.
///
/// # Errors
/// When the records cannot be read.
pub fn list() -> Result<Vec<Record>, LabError> {
    Record::all()
}

/// Namespaces of labs are root's, and so are the processes in them.
fn needs_root() -> Result<(), LabError> {
    netns::require_root().map_err(|_| LabError::NeedsRoot)
}

fn build(story: &str, options: &Options) -> Result<Guard, LabError> {
    needs_root()?;
    let model = Model::read(&story::folder(story)?)?;
    let record = Record::create(&model)?;
    let plan = plan::Plan::new(&model, &record.id);
    let mut guard = Guard { record, verbose: options.verbose, armed: true };
    build::apply(&plan, &guard.record.id, options.verbose, &options.interrupt)?;
    daemon::install_config(&guard.record, &model.folder.join(&model.topology.config))?;
    let hosts: Vec<String> = model.daemons().map(str::to_owned).collect();
    daemon::start(&mut guard.record, &hosts, options)?;
    station::start_missing(&model, &mut guard.record, options)?;
    Ok(guard)
}

/// A lab that is taken down when it goes out of scope, by whatever way.
struct Guard {
    record: Record,
    verbose: bool,
    armed: bool,
}

impl Guard {
    /// The lab stays.
    fn keep(mut self) -> Result<Record, LabError> {
        self.record.owner = None;
        self.record.save()?;
        self.armed = false;
        Ok(self.record.clone())
    }

    fn tear_down(mut self) -> Result<(), LabError> {
        self.armed = false;
        build::tear_down(&self.record, self.verbose)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.armed
            && let Err(error) = build::tear_down(&self.record, self.verbose)
        {
            // The reason why it is dropped is reported by whoever dropped it.
            let id = &self.record.id;
            build::show(&format!("lab {id} is left over; `eastgate lab down {id}` tries again: {error}"));
        }
    }
}

#[cfg(test)]
mod tests;
