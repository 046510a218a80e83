//! What was measured, kept round by round, and how it is told: sections on the terminal, one JSON file.

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use super::BASE;
use super::candidates::Name;
use super::cpu::background_load;
use super::work::{Metric, Sample, Settings, Work};

/// Everything one call measured.
#[derive(Debug)]
pub(crate) struct Report {
    names: Vec<Name>,
    rounds: u16,
    settings: Settings,
    machine: Machine,
    works: Vec<WorkFigures>,
    pub(crate) failures: Vec<Failure>,
    pub(crate) took: Duration,
}

/// Figures of one kind of work.
#[derive(Debug)]
struct WorkFigures {
    work: Work,
    /// The first holds what was measured once, before the rounds.
    rounds: Vec<Vec<(Name, Sample)>>,
}

/// One candidate's figures of one metric.
#[derive(Debug, Serialize)]
pub(crate) struct Series {
    pub(crate) work: &'static str,
    pub(crate) metric: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) more_is_better: bool,
    pub(crate) candidate: &'static str,
    /// One a round, in order.
    pub(crate) values: Vec<f64>,
    pub(crate) absolute: Spread,
    /// Of the rounds' ratios to the base; none for the base itself, and where the base has no such figure.
    pub(crate) ratio: Option<Spread>,
    #[serde(skip)]
    pub(crate) name: Name,
}

/// Median, least and most of a few figures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

/// A measurement that could not be taken.
#[derive(Debug, Serialize)]
pub(crate) struct Failure {
    work: &'static str,
    candidate: &'static str,
    why: String,
}

/// What the figures were measured on, as far as it explains them.
#[derive(Debug, Serialize)]
struct Machine {
    kernel: String,
    cores: usize,
    processor: String,
    /// Share of all cores that was busy before anything was started, 0 to 1.
    background_load: f64,
}

impl Report {
    /// An empty report; looks for a moment at what else keeps the machine busy.
    pub(crate) fn begin(names: &[Name], rounds: u16, settings: Settings) -> Result<Self> {
        let machine = Machine::look()?;
        if machine.background_load > 0.1 {
            let percent = machine.background_load * 100.0;
            println!(
                "Note: {percent:.0} % of this machine is busy with something else; figures will spread."
            );
        }
        Ok(Self {
            names: names.to_vec(),
            rounds,
            settings,
            machine,
            works: Vec::new(),
            failures: Vec::new(),
            took: Duration::ZERO,
        })
    }

    /// What is added from now on belongs to `work`, before its rounds.
    pub(crate) fn begin_work(&mut self, work: &Work) {
        self.works.push(WorkFigures { work: *work, rounds: vec![Vec::new()] });
    }

    /// What is added from now on belongs to the next round.
    pub(crate) fn begin_round(&mut self) {
        if let Some(figures) = self.works.last_mut() {
            figures.rounds.push(Vec::new());
        }
    }

    /// Adds what a candidate did, or why it could not.
    pub(crate) fn add(&mut self, name: Name, measured: Result<Vec<Sample>>) {
        let Some(figures) = self.works.last_mut() else { return };
        match measured {
            Ok(samples) => {
                if let Some(round) = figures.rounds.last_mut() {
                    round.extend(samples.into_iter().map(|sample| (name, sample)));
                }
            }
            Err(error) => {
                let (work, candidate, why) = (figures.work.name, name.text(), format!("{error:#}"));
                if !self.failures.iter().any(|known| known.is(work, candidate, &why)) {
                    self.failures.push(Failure { work, candidate, why });
                }
            }
        }
    }

    /// All series, by work, then metric, then candidate.
    pub(crate) fn series(&self) -> Vec<Series> {
        self.works.iter().flat_map(|figures| figures.series(&self.names)).collect()
    }

    /// What the terminal shows when a kind of work is done.
    pub(crate) fn section(&self, work: &str) -> Section<'_> {
        Section { report: self, figures: self.works.iter().find(|figures| figures.work.name == work) }
    }

    /// The overview at the end: median ratios only, and what failed.
    pub(crate) fn closing(&self) -> String {
        let others: Vec<_> = self.names.iter().copied().filter(|name| *name != BASE).collect();
        let mut text = format!("\nTimes {} (median of {} rounds)", BASE.text(), self.rounds);
        others.iter().for_each(|name| _ = write!(text, " {:>18}", name.text()));
        text.push('\n');
        for figures in &self.works {
            let series = figures.series(&self.names);
            for metric in figures.metrics() {
                let of = |name: &Name| {
                    let own = series.iter().find(|one| one.name == *name && one.metric == metric.name)?;
                    own.ratio.map(|ratio| format!("{:.2}", ratio.median))
                };
                if others.iter().any(|name| of(name).is_some()) {
                    let way = if metric.more_is_better { '+' } else { '-' };
                    let label = format!("{} {}", figures.work.name, metric.name);
                    let _ = write!(text, "{way} {label:<31}");
                    others.iter().for_each(|name| _ = write!(text, " {:>18}", of(name).unwrap_or_default()));
                    text.push('\n');
                }
            }
        }
        text += "(+ more is better, - less is better)\n";
        for Failure { work, candidate, why } in &self.failures {
            let _ = writeln!(text, "FAILED {candidate} at {work}: {why}");
        }
        let Machine { kernel, cores, processor, background_load } = &self.machine;
        let _ = writeln!(
            text,
            "Linux {kernel}, {cores} cores, {processor}; {:.0} % busy before the start; took {:.0} s",
            background_load * 100.0,
            self.took.as_secs_f64()
        );
        text
    }

    /// Writes `results.json`; returns its path.
    pub(crate) fn write(&self, folder: &Path) -> Result<PathBuf> {
        #[derive(Serialize)]
        struct File<'a> {
            format: u32,
            base: &'static str,
            candidates: Vec<Described>,
            rounds: u16,
            window_s: f64,
            client_core: usize,
            server_core: usize,
            machine: &'a Machine,
            took_s: f64,
            series: Vec<Series>,
            failures: &'a [Failure],
        }
        #[derive(Serialize)]
        struct Described {
            name: &'static str,
            about: &'static str,
        }
        let file = File {
            format: 1,
            base: BASE.text(),
            candidates: self
                .names
                .iter()
                .map(|name| Described { name: name.text(), about: name.about() })
                .collect(),
            rounds: self.rounds,
            window_s: self.settings.window.length.as_secs_f64(),
            client_core: self.settings.cores.client,
            server_core: self.settings.cores.server,
            machine: &self.machine,
            took_s: self.took.as_secs_f64(),
            series: self.series(),
            failures: &self.failures,
        };
        std::fs::create_dir_all(folder)?;
        let path = folder.join("results.json");
        std::fs::write(&path, serde_json::to_string_pretty(&file)?)?;
        Ok(path)
    }
}

impl WorkFigures {
    fn series(&self, names: &[Name]) -> Vec<Series> {
        let per_name = |metric: Metric| names.iter().filter_map(move |name| self.one(metric, *name));
        self.metrics().into_iter().flat_map(per_name).collect()
    }

    fn one(&self, metric: Metric, name: Name) -> Option<Series> {
        let values: Vec<f64> = self.rounds.iter().filter_map(|round| value(round, metric, name)).collect();
        let ratio_in = |round: &Vec<(Name, Sample)>| {
            let base = value(round, metric, BASE).filter(|base| *base != 0.0)?;
            Some(value(round, metric, name)? / base)
        };
        let ratios: Vec<f64> = self.rounds.iter().filter_map(ratio_in).collect();
        Some(Series {
            work: self.work.name,
            metric: metric.name,
            unit: metric.unit,
            more_is_better: metric.more_is_better,
            candidate: name.text(),
            absolute: Spread::of(&values)?,
            ratio: Spread::of(&ratios).filter(|_| name != BASE),
            values,
            name,
        })
    }

    /// The metrics that have figures, in the order they first came up.
    fn metrics(&self) -> Vec<Metric> {
        let mut metrics = Vec::new();
        for (_, sample) in self.rounds.iter().flatten() {
            if !metrics.contains(&sample.metric) {
                metrics.push(sample.metric);
            }
        }
        metrics
    }
}

fn value(round: &[(Name, Sample)], metric: Metric, name: Name) -> Option<f64> {
    round.iter().find(|(of, sample)| *of == name && sample.metric == metric).map(|(_, sample)| sample.value)
}

impl Spread {
    /// The spread of some figures; `None` of no figures.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let middle = sorted.len() / 2;
        let (&above, &below) =
            (sorted.get(middle)?, sorted.get(middle - usize::from(sorted.len().is_multiple_of(2)))?);
        Some(Self { median: f64::midpoint(below, above), min, max })
    }
}

impl Failure {
    fn is(&self, work: &str, candidate: &str, why: &str) -> bool {
        self.work == work && self.candidate == candidate && self.why == why
    }
}

/// A kind of work's figures as the terminal shows them.
pub(crate) struct Section<'a> {
    report: &'a Report,
    figures: Option<&'a WorkFigures>,
}

impl fmt::Display for Section<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(figures) = self.figures else { return Ok(()) };
        writeln!(f, "\n{}: {}", figures.work.name, figures.work.about)?;
        if figures.metrics().is_empty() {
            writeln!(f, "  none of the candidates has such a figure")?;
        }
        let series = figures.series(&self.report.names);
        for metric in figures.metrics() {
            let better = if metric.more_is_better { "more is better" } else { "less is better" };
            let title = format!("{} [{}], {better}", metric.name, metric.unit);
            writeln!(f, "  {title:<36} {:>10} {:>10}   min .. max", "median", format!("x {}", BASE.text()))?;
            for one in series.iter().filter(|one| one.metric == metric.name) {
                write!(f, "    {:<34} {:>10}", one.candidate, human(one.absolute.median))?;
                match one.ratio {
                    Some(ratio) => {
                        writeln!(f, " {:>10.2}   {:.2} .. {:.2}", ratio.median, ratio.min, ratio.max)?;
                    }
                    None => writeln!(
                        f,
                        " {:>10}   {} .. {}",
                        "",
                        human(one.absolute.min),
                        human(one.absolute.max)
                    )?,
                }
            }
        }
        for failure in self.report.failures.iter().filter(|failure| failure.work == figures.work.name) {
            writeln!(f, "  FAILED {}: {}", failure.candidate, failure.why)?;
        }
        Ok(())
    }
}

impl Machine {
    fn look() -> Result<Self> {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").context("/proc/cpuinfo")?;
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Ok(Self {
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            cores: std::thread::available_parallelism()?.get(),
            processor: model.map_or("unknown processor", |(_, model)| model).to_owned(),
            background_load: background_load(Duration::from_millis(500))?,
        })
    }
}

/// Three significant digits, with k and M.
pub(crate) fn human(value: f64) -> String {
    let (value, suffix) = match value.abs() {
        size if size >= 1e6 => (value / 1e6, " M"),
        size if size >= 1e4 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    let digits = match value.abs() {
        size if size >= 100.0 || size == 0.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 8.0]), Some(Spread { median: 3.0, min: 1.0, max: 8.0 }));
        assert_eq!(Spread::of(&[5.0]), Some(Spread { median: 5.0, min: 5.0, max: 5.0 }));
    }

    #[test]
    fn the_ratio_is_taken_round_by_round() {
        const METRIC: Metric = Metric { name: "received", unit: "/s", more_is_better: true };
        let sample = |name, value| (name, Sample { metric: METRIC, value });
        // The machine gets twice as fast every round: medians of the columns would hide that the ratio is steady.
        let rounds = [1.0, 2.0, 4.0].map(|speed| vec![sample(BASE, speed), sample(Name::Veth, speed * 3.0)]);
        let figures = WorkFigures { work: super::super::work::ALL[0], rounds: rounds.to_vec() };
        let veth = figures.one(METRIC, Name::Veth).unwrap();
        assert_eq!(veth.ratio, Some(Spread { median: 3.0, min: 3.0, max: 3.0 }));
        assert_eq!(veth.values, [3.0, 6.0, 12.0]);
        assert_eq!(figures.one(METRIC, BASE).unwrap().ratio, None);
        assert!(figures.one(METRIC, Name::Neutron).is_none());
    }

    #[test]
    fn numbers_read_well() {
        let shown: Vec<_> = [0.0, 0.1234, 6.54, 42.0, 999.4, 12_800.0, 288_123.0, 1.0e6].map(human).into();
        assert_eq!(shown, ["0", "0.123", "6.54", "42.0", "999", "12.8 k", "288 k", "1.00 M"]);
    }
}
