//! The kinds of work candidates are compared by, and what each measures.

mod bulk;
mod connections;
mod grid;
mod latency;
mod neighbours;
mod packets;

use std::time::Duration;

use anyhow::{Context, Result};

use super::candidates::Candidate;
use super::traffic::{Cores, Seen, Window};
use grid::Grid;

pub(crate) use packets::bind;

/// Rules every candidate with a policy carries unless the work says otherwise.
pub(crate) const USUAL_RULES: usize = 10;

/// One kind of work.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    /// What `--only` calls it.
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    reach: Reach,
    kind: Kind,
    /// Whether `--quick` does it too.
    pub(crate) quick: bool,
}

/// Which pair of tenants talks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Tenants on two hosts.
    CrossHost,
    /// Tenants on one host.
    SameHost,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Bulk { streams: usize },
    Packets { flows: usize },
    Connections,
    Latency,
    FirstAnswer,
    Rules { count: usize },
    Flows { side: usize },
    Memory,
}

/// Something measured, and which way is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) more_is_better: bool,
}

/// One figure of one candidate in one round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) metric: Metric,
    pub(crate) value: f64,
}

/// How work is to be measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) window: Window,
    pub(crate) cores: Cores,
}

/// All work, in the order it is done: what leaves many flows behind comes last.
pub(crate) const ALL: [Work; 18] = [
    work("tcp-1", "bulk TCP, one stream", Reach::CrossHost, Kind::Bulk { streams: 1 }, true),
    work("tcp-8", "bulk TCP, 8 streams", Reach::CrossHost, Kind::Bulk { streams: 8 }, true),
    work("udp-1", "UDP, 18-byte payload, one flow", Reach::CrossHost, Kind::Packets { flows: 1 }, true),
    work(
        "udp-1000",
        "UDP, 18-byte payload, 1,000 flows",
        Reach::CrossHost,
        Kind::Packets { flows: 1000 },
        true,
    ),
    work(
        "connect",
        "connect, request, response, close; one client",
        Reach::CrossHost,
        Kind::Connections,
        true,
    ),
    work("ping", "UDP ping-pong, one byte", Reach::CrossHost, Kind::Latency, true),
    work("arp", "first answer after forgetting neighbours", Reach::CrossHost, Kind::FirstAnswer, true),
    work("local-tcp-1", "same host: bulk TCP, one stream", Reach::SameHost, Kind::Bulk { streams: 1 }, false),
    work(
        "local-udp-1",
        "same host: UDP, 18-byte payload, one flow",
        Reach::SameHost,
        Kind::Packets { flows: 1 },
        true,
    ),
    work(
        "local-connect",
        "same host: connect, request, response, close",
        Reach::SameHost,
        Kind::Connections,
        false,
    ),
    work("local-ping", "same host: UDP ping-pong, one byte", Reach::SameHost, Kind::Latency, false),
    work(
        "local-arp",
        "same host: first answer after forgetting neighbours",
        Reach::SameHost,
        Kind::FirstAnswer,
        false,
    ),
    work("rules-10", "new connections under 10 rules", Reach::CrossHost, Kind::Rules { count: 10 }, false),
    work(
        "rules-1000",
        "new connections under 1,000 rules",
        Reach::CrossHost,
        Kind::Rules { count: 1000 },
        false,
    ),
    work(
        "rules-10000",
        "new connections under 10,000 rules",
        Reach::CrossHost,
        Kind::Rules { count: 10_000 },
        false,
    ),
    work("memory", "resident memory of the daemon on one host", Reach::CrossHost, Kind::Memory, true),
    work("flows-1", "UDP over a grid of one tracked flow", Reach::CrossHost, Kind::Flows { side: 1 }, false),
    work(
        "flows-1000000",
        "UDP over 1,000,000 tracked flows",
        Reach::CrossHost,
        Kind::Flows { side: 1000 },
        false,
    ),
];

const fn work(name: &'static str, about: &'static str, reach: Reach, kind: Kind, quick: bool) -> Work {
    Work { name, about, reach, kind, quick }
}

impl Work {
    /// Brings a candidate into the state this work wants, once, before the rounds. Returns figures that do not
    /// change from round to round.
    pub(crate) fn prepare(&self, candidate: &mut dyn Candidate, settings: Settings) -> Result<Vec<Sample>> {
        let Kind::Flows { side } = self.kind else { return Ok(Vec::new()) };
        candidate.make_room_for_flows(side * side)?;
        let before = candidate.flow_memory()?;
        let opened = Grid { side }.open(candidate.pair(self.reach), settings.cores)?;
        let after = candidate.flow_memory()?;
        let (Some(before), Some(after)) = (before, after) else { return Ok(Vec::new()) };
        // A grid this small drowns in what else the daemon allocates.
        if opened < 1000 {
            return Ok(Vec::new());
        }
        let each = after.saturating_sub(before) as f64 / opened as f64;
        Ok(vec![sample("memory a flow", "B", false, each)])
    }

    /// Measures one candidate once.
    pub(crate) fn measure(&self, candidate: &mut dyn Candidate, settings: Settings) -> Result<Vec<Sample>> {
        let Settings { window, cores } = settings;
        match self.kind {
            Kind::Bulk { streams } => {
                let seen = bulk::measure(candidate.pair(self.reach), streams, cores, window)?;
                Ok(bulk_samples(seen))
            }
            Kind::Packets { flows } => {
                Ok(packet_samples(packets::measure(candidate.pair(self.reach), flows, cores, window)?))
            }
            Kind::Connections => new_connections(candidate, self.reach, settings),
            Kind::Latency => {
                let times = latency::measure(candidate.pair(self.reach), cores, window)?;
                let mut samples = vec![
                    sample("round trip p50", "us", false, microseconds(times.median)),
                    sample("round trip p99", "us", false, microseconds(times.p99)),
                ];
                samples.extend((times.lost > 0).then(|| sample("unanswered", "", false, times.lost as f64)));
                Ok(samples)
            }
            Kind::FirstAnswer => {
                const TRIALS: usize = 9;
                let time = neighbours::measure(candidate.pair(self.reach), TRIALS, cores)?;
                Ok(vec![sample("first answer", "us", false, microseconds(time))])
            }
            Kind::Rules { count } => {
                let reload = candidate.load_rules(count)?;
                let measured = new_connections(candidate, self.reach, settings);
                candidate.load_rules(USUAL_RULES)?;
                let mut samples = measured?;
                samples
                    .extend(reload.map(|time| sample("policy load", "ms", false, time.as_secs_f64() * 1e3)));
                Ok(samples)
            }
            Kind::Flows { side } => {
                Ok(packet_samples(Grid { side }.measure(candidate.pair(self.reach), cores, window)?))
            }
            Kind::Memory => {
                let resident = candidate.resident().context("resident memory")?;
                Ok(resident
                    .map(|bytes| sample("resident", "MiB", false, bytes as f64 / f64::from(1 << 20)))
                    .into_iter()
                    .collect())
            }
        }
    }
}

fn new_connections(candidate: &mut dyn Candidate, reach: Reach, settings: Settings) -> Result<Vec<Sample>> {
    let (seen, failed) = connections::measure(candidate.pair(reach), settings.cores, settings.window)?;
    let mut samples = vec![sample("connections", "/s", true, seen.rate())];
    samples.extend((failed > 0).then(|| sample("failed", "", false, failed as f64)));
    Ok(samples)
}

fn bulk_samples(seen: Seen) -> Vec<Sample> {
    let gigabits = seen.count as f64 * 8.0 / 1e9;
    let mut samples = vec![sample("throughput", "Gbit/s", true, gigabits / seen.elapsed.as_secs_f64())];
    // Without a byte there is no cost of one.
    samples
        .extend((gigabits > 0.0).then(|| sample("CPU", "s/Gbit", false, seen.cpu.as_secs_f64() / gigabits)));
    samples
}

fn packet_samples(seen: Seen) -> Vec<Sample> {
    let mut samples = vec![sample("received", "/s", true, seen.rate())];
    let each = |count: u64| seen.cpu.as_secs_f64() * 1e6 / count as f64;
    samples.extend((seen.count > 0).then(|| sample("CPU", "us/packet", false, each(seen.count))));
    samples
}

fn sample(name: &'static str, unit: &'static str, more_is_better: bool, value: f64) -> Sample {
    Sample { metric: Metric { name, unit, more_is_better }, value }
}

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
