//! `cargo xtask bench`: how fast eastgate is, beside what else carries tenants' frames.
//!
//! Machines are shared and noisy, so nothing is compared across runs: all candidates stand at once, take turns
//! round by round, and what is reported is the median of the rounds' ratios to `plain`, its minimum and maximum
//! beside it. No figure makes it fail; a candidate that does not carry or does not enforce traffic does.

mod candidates;
mod cpu;
mod plot;
mod report;
mod socket;
mod traffic;
mod work;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use eastgate_testkit::{leftover, netns};
use indicatif::{ProgressBar, ProgressStyle};

use crate::packages::{self, Need};
use crate::{cargo, run, stop, target, workspace};
use candidates::{Candidate, Name};
use report::Report;
use traffic::{Cores, Window};
use work::{Settings, USUAL_RULES, Work};

/// What the names of all namespaces begin with.
const FAMILY: &str = "egx";

/// What everything is compared to.
const BASE: Name = Name::Plain;

#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// Less work, shorter windows: under five minutes after the build
    #[arg(long)]
    quick: bool,
    /// Only this work; a name, or the beginning of several (`--list` shows them)
    #[arg(long, value_delimiter = ',', value_name = "WORK")]
    only: Vec<String>,
    /// Only these candidates; `plain` is always among them
    #[arg(long, value_delimiter = ',', value_enum)]
    candidates: Vec<Name>,
    /// How often each candidate is measured at each work
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Seconds measured at a time (1.0, or 0.35 with --quick)
    #[arg(long, value_name = "SECONDS")]
    window: Option<f64>,
    /// Where the JSON and the plots go
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
    /// List the work and the candidates, and do nothing
    #[arg(long)]
    list: bool,
}

/// A candidate that stands and is idle.
struct Standing {
    name: Name,
    candidate: Box<dyn Candidate>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if options.list {
        list();
        return Ok(());
    }
    let chosen = options.work()?;
    let names = options.names();
    let settings = options.settings()?;
    netns::require_root()?;
    packages::install(Need::Bench)?;
    if names.iter().any(|name| name.is_eastgate()) {
        build_eastgate()?;
    }
    stop::on_signals()?;
    netns::sweep(FAMILY)?;

    let folder =
        options.output.clone().map_or_else(|| Ok(target()?.join("bench")), Ok::<_, anyhow::Error>)?;
    let scratch = Scratch::create()?;
    let started = Instant::now();
    let mut report = Report::begin(&names, options.rounds, settings)?;
    let mut standing = stand(&names, &scratch.0)?;
    let bar = progress(chosen.len() * names.len() * usize::from(options.rounds));
    for work in &chosen {
        bar.set_message(work.name);
        measure(work, &mut standing, options.rounds, settings, &mut report, &bar)?;
        bar.suspend(|| print!("{}", report.section(work.name)));
    }
    bar.finish_and_clear();
    drop(standing);

    report.took = started.elapsed();
    let written = report.write(&folder).and_then(|json| Ok((json, plot::write(&report, &folder)?)));
    let (json, plots) = written.with_context(|| folder.display().to_string())?;
    print!("{}", report.closing());
    println!("Figures: {}\nPlots:   {} in {}", json.display(), plots.len(), folder.display());
    if report.failures.is_empty() {
        Ok(())
    } else {
        bail!("not everything could be measured, see FAILED above")
    }
}

impl Options {
    fn work(&self) -> Result<Vec<Work>> {
        for only in &self.only {
            if !work::ALL.iter().any(|work| work.name.starts_with(only.as_str())) {
                bail!("no work is called {only}; `cargo xtask bench --list` shows what there is");
            }
        }
        let asked = |work: &&Work| match self.only.as_slice() {
            [] => work.quick || !self.quick,
            some => some.iter().any(|only| work.name.starts_with(only.as_str())),
        };
        Ok(work::ALL.iter().filter(asked).copied().collect())
    }

    fn names(&self) -> Vec<Name> {
        let all = <Name as clap::ValueEnum>::value_variants();
        let asked =
            |name: &&Name| self.candidates.is_empty() || **name == BASE || self.candidates.contains(name);
        all.iter().filter(asked).copied().collect()
    }

    fn settings(&self) -> Result<Settings> {
        let seconds = self.window.unwrap_or(if self.quick { 0.35 } else { 1.0 });
        let length = Duration::try_from_secs_f64(seconds).ok().filter(|length| !length.is_zero());
        let length = length.with_context(|| format!("a window of {seconds} s is not possible"))?;
        let warm_up = length.div_f64(5.0).min(Duration::from_millis(200));
        Ok(Settings { window: Window { warm_up, length }, cores: Cores::of_this_machine()? })
    }
}

/// Puts every candidate up, and proves each.
fn stand(names: &[Name], scratch: &Path) -> Result<Vec<Standing>> {
    let target = target()?;
    names
        .iter()
        .map(|&name| {
            stop::check()?;
            let candidate =
                name.build(&target, scratch).with_context(|| format!("candidate {}", name.text()))?;
            Ok(Standing { name, candidate })
        })
        .collect()
}

/// All rounds of one kind of work. A candidate that fails at it is reported; the others go on.
fn measure(
    work: &Work,
    standing: &mut [Standing],
    rounds: u16,
    settings: Settings,
    report: &mut Report,
    bar: &ProgressBar,
) -> Result<()> {
    report.begin_work(work);
    for Standing { name, candidate } in standing.iter_mut() {
        let prepared = work.prepare(candidate.as_mut(), settings);
        stop::check()?;
        report.add(*name, prepared);
    }
    for round in 0..usize::from(rounds) {
        report.begin_round();
        let count = standing.len();
        for turn in 0..count {
            // Who goes first changes, so that nobody always follows the same neighbour.
            let Some(Standing { name, candidate }) = standing.get_mut((turn + round) % count) else {
                continue;
            };
            bar.set_prefix(name.text());
            let measured = work.measure(candidate.as_mut(), settings);
            stop::check()?;
            report.add(*name, measured);
            bar.inc(1);
        }
    }
    Ok(())
}

fn build_eastgate() -> Result<()> {
    println!("Building eastgate (release)");
    run::visible(
        cargo().args(["build", "--release", "--quiet", "--package", "eastgate"]).current_dir(workspace()?),
    )
    .context("eastgate does not build; `--candidates veth,plain,neutron` leaves it out")
}

fn progress(steps: usize) -> ProgressBar {
    let bar = ProgressBar::new(steps as u64);
    let style =
        ProgressStyle::with_template("{bar:24} {pos}/{len} {msg} {prefix}  {elapsed} gone, {eta} to go");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

fn list() {
    println!("Candidates (compared with {}):", BASE.text());
    for name in <Name as clap::ValueEnum>::value_variants() {
        println!("  {:<20} {}", name.text(), name.about());
    }
    println!(
        "\nWork (* also with --quick; policies have {USUAL_RULES} rules unless the work says otherwise):"
    );
    for work in &work::ALL {
        println!("  {:<14}{} {}", work.name, if work.quick { '*' } else { ' ' }, work.about);
    }
}

/// A folder for daemons' files; in `/tmp`, for a socket's path must be short.
struct Scratch(PathBuf);

impl Scratch {
    const HOME: &str = "/tmp";
    const PREFIX: &str = "eastgate-bench-";

    fn create() -> Result<Self> {
        let home = Path::new(Self::HOME);
        for old in leftover::of_dead_runs(home, Self::PREFIX)? {
            std::fs::remove_dir_all(home.join(&old)).with_context(|| old.clone())?;
        }
        let folder = home.join(format!("{}{}", Self::PREFIX, std::process::id()));
        std::fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("warning: {}: {error}", self.0.display());
        }
    }
}
