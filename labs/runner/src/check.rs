//! A story checked: its expectations in their order, with the steps between them, and the lab afterwards as it
//! was before.
//!
//! What is expected at one point of the story is sent at once, in four waves: first what should arrive, so that
//! the refusals of the second are those of a network that works; then what should arrive under a stolen MAC, for
//! a bridge that learns from it sends answers to the thief until the owner speaks again; bulk transfers last, so
//! that they starve no bound.

mod drops;
mod job;
pub(super) mod stress;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    process::Command,
    thread,
    time::Duration,
};

use eastgate_testkit::{Capture, Netns, command::run_within};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use super::{
    Options, daemon,
    error::LabError,
    model::Model,
    plan::MACHINE_DEVICE,
    record::{NodeKind, Record},
    report::{Report, Row},
    station,
    topology::{Expect, Outcome, Proto, Step},
    traffic::server::{Kind, Server},
};
use drops::Drops;
use job::{Held, Job, Scene};

/// How long the kernel may take to forget.
const FLUSH_BOUND: Duration = Duration::from_secs(30);

/// Checks everything that the story of the running lab `record` expects.
pub(super) fn check(record: &mut Record, options: &Options) -> Result<Report, LabError> {
    let model = Model::read(&record.folder)?;
    let _lock = lock(record)?;
    let result = tell(&model, record, options);
    let restored = restore(&model, record, options);
    let report = result?;
    restored?;
    Ok(report)
}

/// Two checks of one lab would count each other's drops and stop each other's daemons.
fn lock(record: &Record) -> Result<Flock<File>, LabError> {
    let file = File::open(record.file()).map_err(LabError::file(record.file()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        Errno::EWOULDBLOCK => LabError::Busy(record.id.clone()),
        error => LabError::file(record.file())(error.into()),
    })
}

fn tell(model: &Model, record: &mut Record, options: &Options) -> Result<Report, LabError> {
    restore(model, record, options)?;
    forget_unreplied(record);
    let servers = start_servers(model, record)?;
    let mut held = Held::default();
    let mut report = Report { title: model.topology.title.clone(), rows: vec![] };
    report.rows = point(model, record, &model.topology.expect, &mut held, options)?;
    for step in &model.topology.step {
        take(step, model, record, options)?;
        let rows = point(model, record, &step.expect, &mut held, options)?;
        report.rows.extend(rows.into_iter().map(|row| Row { step: Some(step.say.clone()), ..row }));
    }
    // Clients first: a server that ends before its client leaves the client's flow half open.
    drop(held);
    drop(servers);
    Ok(report)
}

/// The configuration of the story in force, and every daemon running: whatever a step, or a check that was cut
/// short, has changed.
fn restore(model: &Model, record: &mut Record, options: &Options) -> Result<(), LabError> {
    let original = model.folder.join(&model.topology.config);
    let read = |path: &std::path::Path| super::story::read(path).map_err(LabError::file(path));
    let changed = read(&original)? != read(&record.config())?;
    if changed {
        daemon::install_config(record, &original)?;
    }
    if changed {
        tell_running(record, &["reload"], options)?;
    }
    let missing = daemon::missing(record);
    daemon::start(record, &missing, options)?;
    station::restore(model, record, options)
}

/// A machine that has just asked for an address in vain does not ask again at once; whatever a check before was about, it
/// shall ask. Where nothing is to be forgotten, that is fine.
fn forget_unreplied(record: &Record) {
    for node in record.nodes.iter().filter(|node| matches!(node.kind, NodeKind::Machine | NodeKind::Vtep)) {
        for state in ["failed", "incomplete"] {
            let mut command = Command::new("ip");
            command.args(["-n", &node.namespace, "neighbor", "flush", "nud", state]);
            let _ = run_within(&mut command, FLUSH_BOUND);
        }
    }
}

fn take(step: &Step, model: &Model, record: &mut Record, options: &Options) -> Result<(), LabError> {
    options.interrupt.check()?;
    if let Some(daemon) = step.kill.as_ref().and_then(|host| record.daemons.get(host)) {
        daemon.kill();
    }
    if let Some(daemon) = step.stop.as_ref().and_then(|host| record.daemons.get(host)) {
        daemon.stop();
    }
    if let Some(host) = &step.start {
        daemon::start(record, std::slice::from_ref(host), options)?;
    }
    if let Some(file) = &step.reload {
        daemon::install_config(record, &model.folder.join(file))?;
        tell_running(record, &["reload"], options)?;
    }
    if let Some(file) = &step.stage {
        let staged = daemon::install_staged(record, &model.folder.join(file))?;
        tell_running(record, &["policy", "stage", &staged.display().to_string()], options)?;
    }
    if step.promote {
        tell_running(record, &["policy", "promote"], options)?;
    }
    if let Some(hypervisor) = &step.silence {
        station::silence(hypervisor, model, record, options)?;
    }
    step.deassociate.iter().try_for_each(|machine| station::deassociate(machine, model, record, options))?;
    step.associate.iter().try_for_each(|machine| station::associate(machine, model, record, options))
}

/// Has every daemon that runs do something.
fn tell_running(record: &Record, command: &[&str], options: &Options) -> Result<(), LabError> {
    let missing = daemon::missing(record);
    let mut running = record.hosts().filter(|host| !missing.iter().any(|gone| gone == host));
    running.try_for_each(|host| daemon::tell(record, host, command, options))
}

/// Every server that any expectation needs, for the whole story: a connection may be held through it.
fn start_servers(model: &Model, record: &Record) -> Result<Vec<Server>, LabError> {
    let mut wanted = BTreeSet::new();
    for (_, expect) in model.topology.expectations() {
        let kind = match expect.proto {
            Some(Proto::Tcp) => Kind::Tcp,
            Some(Proto::Udp) => Kind::Udp,
            _ => continue,
        };
        let twin = expect.twin.iter().map(|twin| twin.to.as_str());
        for to in expect.to.iter().chain(twin) {
            wanted.insert((to, kind, expect.port.unwrap_or_default()));
        }
    }
    wanted.into_iter().map(|(to, kind, port)| Server::start(&record.namespace(to)?, to, kind, port)).collect()
}

/// Checks what is expected at one point of the story.
fn point(
    model: &Model,
    record: &Record,
    expects: &[Expect],
    held: &mut Held,
    options: &Options,
) -> Result<Vec<Row>, LabError> {
    let mut rows: BTreeMap<usize, Vec<Row>> = BTreeMap::new();
    for wave_number in 0..WAVES {
        options.interrupt.check()?;
        let now = expects.iter().enumerate().filter(|(_, expect)| wave_of(expect) == wave_number);
        let mut jobs = Vec::new();
        for (index, expect) in now {
            let expanded = Job::expand(expect, model, record)?;
            if expanded.is_empty() {
                rows.entry(index).or_default().push(job::nothing_to_do(expect));
            }
            jobs.extend(expanded.into_iter().map(|job| (index, job)));
        }
        let judged = wave(model, record, jobs, held, options)?;
        judged.into_iter().for_each(|(index, row)| rows.entry(index).or_default().push(row));
    }
    Ok(rows.into_values().flatten().collect())
}

const WAVES: usize = 4;

fn wave_of(expect: &Expect) -> usize {
    let steals_mac = expect.spoof.as_ref().is_some_and(|spoof| spoof.mac.is_some());
    match (expect.bytes, expect.outcome) {
        (Some(_), _) => 3,
        (None, Outcome::Reach) if steals_mac => 2,
        (None, Outcome::Reach) => 0,
        (None, _) => 1,
    }
}

/// Does `jobs` at once, and judges each when all are done.
fn wave(
    model: &Model,
    record: &Record,
    jobs: Vec<(usize, Job)>,
    held: &mut Held,
    options: &Options,
) -> Result<Vec<(usize, Row)>, LabError> {
    let scene = Scene { model, record, options, captures: start_captures(&jobs)? };
    let before = Drops::read(record, options)?;
    let done = thread::scope(|scope| {
        let resumed: &Held = held;
        let start = |(index, job): (usize, Job)| {
            let scene = &scene;
            let thread = scope.spawn({
                let job = job.clone();
                move || job.run(scene, resumed)
            });
            (index, job, thread)
        };
        let running: Vec<_> = jobs.into_iter().map(start).collect();
        let join = |(index, job, thread): (usize, Job, thread::ScopedJoinHandle<'_, job::Done>)| {
            (index, job, thread.join().unwrap_or_else(|_| job::Done::panicked()))
        };
        running.into_iter().map(join).collect::<Vec<_>>()
    });
    let wanted: Vec<&Job> =
        done.iter().map(|(_, job, _)| job).filter(|job| job.expect.reason.is_some()).collect();
    let growth = before.growth(record, &wanted, options)?;
    let mut rows = Vec::new();
    for (index, job, mut done) in done {
        held.keep(&job, &mut done);
        rows.push((index, job.judge(&done, &scene, &growth)));
    }
    if rows.iter().any(|(_, row)| !row.ok) {
        let dropped = Drops::read(record, options)?.since(&before);
        for (_, row) in rows.iter_mut().filter(|(_, row)| !row.ok && !dropped.is_empty()) {
            row.seen = format!("{}; dropped meanwhile: {dropped}", row.seen);
        }
    }
    Ok(rows)
}

/// A capture on every machine that a job looks at; bulk transfers would fill one and are judged by their hash.
fn start_captures(jobs: &[(usize, Job)]) -> Result<BTreeMap<String, Capture>, LabError> {
    let small = jobs.iter().filter(|(_, job)| job.expect.bytes.is_none());
    let parties = small.flat_map(|(_, job)| job.parties());
    let machines: BTreeMap<&str, &Netns> =
        parties.map(|party| (party.name.as_str(), &party.namespace)).collect();
    let start = |(name, netns): (&str, &Netns)| Ok((name.to_owned(), Capture::start(netns, MACHINE_DEVICE)?));
    machines.into_iter().map(start).collect()
}
