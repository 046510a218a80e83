//! The kinds of work candidates are compared by, and what each measures.

mod bulk;
mod connections;
mod exchanges;
mod grid;
mod latency;
mod neighbours;
mod packets;

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::candidates::Candidate;
use super::traffic::{Cores, Pair, Seen, Window};
use connections::Closing;
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
    /// Tenants behind VTEPs of the kernel with its default settings, which know nobody but the candidate as their hub.
    ThroughHub,
    /// Tenants in VLANs of their own on one trunk, with the candidate at its end.
    Trunk,
    /// Tenants on one segment that isolates them, with the candidate at its end.
    SharedSegment,
    /// Tenants on one host whose kernel routes between them, where the candidate can have it so.
    KernelRouted,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Bulk { streams: usize },
    Packets { flows: usize },
    Fragments,
    Segmented,
    Connections { closing: Closing },
    Sustained,
    Exchanges,
    Latency,
    FirstAnswer,
    Rules { count: usize },
    Tiers { count: usize },
    Watched,
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
pub(crate) const ALL: [Work; 36] = [
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
        Kind::Connections { closing: Closing::Fin },
        true,
    ),
    work(
        "reset",
        "connect, request, response, RST; one client",
        Reach::CrossHost,
        Kind::Connections { closing: Closing::Reset },
        true,
    ),
    work(
        "reset-reuse",
        "the same from 2,000 source ports in turn",
        Reach::CrossHost,
        Kind::Connections { closing: Closing::ResetOnFewPorts },
        true,
    ),
    work("dns", "question and answer over UDP, a socket each", Reach::CrossHost, Kind::Exchanges, true),
    work("fragments", "UDP, 4,000-byte payload: three fragments", Reach::CrossHost, Kind::Fragments, true),
    work("udp-gso", "UDP, 40 segments of 1,400 bytes a call", Reach::CrossHost, Kind::Segmented, true),
    work(
        "hub-tcp",
        "through a hub: bulk TCP, one stream",
        Reach::ThroughHub,
        Kind::Bulk { streams: 1 },
        true,
    ),
    work(
        "hub-connect",
        "through a hub: connect, request, response, close",
        Reach::ThroughHub,
        Kind::Connections { closing: Closing::Fin },
        true,
    ),
    work(
        "trunk-tcp-1",
        "a VLAN each on a trunk: bulk TCP, one stream",
        Reach::Trunk,
        Kind::Bulk { streams: 1 },
        true,
    ),
    work(
        "trunk-udp-1",
        "a VLAN each on a trunk: UDP, 18-byte payload, one flow",
        Reach::Trunk,
        Kind::Packets { flows: 1 },
        true,
    ),
    work(
        "trunk-connect",
        "a VLAN each on a trunk: connect, request, response, close",
        Reach::Trunk,
        Kind::Connections { closing: Closing::Fin },
        false,
    ),
    work(
        "shared-tcp-1",
        "shared segment: bulk TCP, one stream",
        Reach::SharedSegment,
        Kind::Bulk { streams: 1 },
        true,
    ),
    work(
        "shared-udp-1",
        "shared segment: UDP, 18-byte payload, one flow",
        Reach::SharedSegment,
        Kind::Packets { flows: 1 },
        true,
    ),
    work(
        "shared-connect",
        "shared segment: connect, request, response, close",
        Reach::SharedSegment,
        Kind::Connections { closing: Closing::Fin },
        false,
    ),
    work(
        "kernel-tcp-1",
        "same host, routed by the kernel: bulk TCP, one stream",
        Reach::KernelRouted,
        Kind::Bulk { streams: 1 },
        false,
    ),
    work(
        "kernel-udp-1",
        "same host, routed by the kernel: UDP, 18-byte payload, one flow",
        Reach::KernelRouted,
        Kind::Packets { flows: 1 },
        false,
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
        Kind::Connections { closing: Closing::Fin },
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
    work(
        "tiers-10000",
        "4 tiers with 10,000 rules against 1 tier with 10, by turns",
        Reach::CrossHost,
        Kind::Tiers { count: 10_000 },
        false,
    ),
    work(
        "sustained",
        "connect, request, response, close for a minute, on default limits",
        Reach::CrossHost,
        Kind::Sustained,
        false,
    ),
    work(
        "watched",
        "observed and scraped each second against neither, by turns",
        Reach::CrossHost,
        Kind::Watched,
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
        let Some(pair) = candidate.pair(self.reach) else { return Ok(Vec::new()) };
        let opened = Grid { side }.open(pair, settings.cores)?;
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
        // Not every candidate is a hub, or the end of a segment.
        let Some(pair) = candidate.pair(self.reach) else { return Ok(Vec::new()) };
        match self.kind {
            Kind::Bulk { streams } => Ok(bulk_samples(bulk::measure(pair, streams, cores, window)?)),
            Kind::Packets { flows } => {
                Ok(packet_samples(packets::measure(pair, flows, &packets::PAYLOAD, cores, window)?))
            }
            Kind::Fragments => {
                Ok(packet_samples(packets::measure(pair, 1, &packets::FRAGMENTED, cores, window)?))
            }
            Kind::Segmented => Ok(packet_samples(packets::measure_segmented(pair, cores, window)?)),
            Kind::Connections { closing } => new_connections(pair, closing, settings),
            Kind::Exchanges => Ok(flow_samples("exchanges", exchanges::measure(pair, cores, window)?)),
            Kind::Sustained => {
                candidate.use_default_limits(true)?;
                let measured = sustained(candidate, self.reach, cores);
                candidate.use_default_limits(false)?;
                measured
            }
            Kind::Latency => {
                let times = latency::measure(pair, cores, window)?;
                let mut samples = vec![
                    sample("round trip p50", "us", false, microseconds(times.median)),
                    sample("round trip p99", "us", false, microseconds(times.p99)),
                ];
                samples.extend((times.lost > 0).then(|| sample("unreplied", "", false, times.lost as f64)));
                Ok(samples)
            }
            Kind::FirstAnswer => {
                const TRIALS: usize = 9;
                let time = neighbours::measure(pair, TRIALS, cores)?;
                Ok(vec![sample("first answer", "us", false, microseconds(time))])
            }
            Kind::Rules { count } => {
                let reload = candidate.load_rules(count)?;
                let pair = candidate.pair(self.reach).context("a pair across hosts")?;
                let measured = new_connections(pair, Closing::Fin, settings);
                candidate.load_rules(USUAL_RULES)?;
                let mut samples = measured?;
                samples
                    .extend(reload.map(|time| sample("policy load", "ms", false, time.as_secs_f64() * 1e3)));
                Ok(samples)
            }
            Kind::Tiers { count } => tiers(candidate, self.reach, count, settings),
            Kind::Watched => watched(candidate, pair, settings),
            Kind::Flows { side } => Ok(packet_samples(Grid { side }.measure(pair, cores, window)?)),
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

fn new_connections(pair: Pair<'_>, closing: Closing, settings: Settings) -> Result<Vec<Sample>> {
    let measured = connections::measure(pair, closing, settings.cores, settings.window)?;
    Ok(flow_samples("connections", measured))
}

/// Flows that began and ended, and how many could not.
fn flow_samples(name: &'static str, (seen, failed): (Seen, u64)) -> Vec<Sample> {
    let mut samples = vec![sample(name, "/s", true, seen.rate())];
    let each = seen.cpu.as_secs_f64() * 1e3 / seen.count as f64;
    samples.extend((seen.count > 0).then(|| sample("CPU", "s/1000", false, each)));
    samples.extend((failed > 0).then(|| sample("failed", "", false, failed as f64)));
    samples
}

/// New connections, and packets of one flow that is established, under rules in every tier: as multiples of the same under the usual
/// rules a moment before.
fn tiers(
    candidate: &mut dyn Candidate,
    reach: Reach,
    count: usize,
    settings: Settings,
) -> Result<Vec<Sample>> {
    let measure = |candidate: &dyn Candidate| {
        connections_and_packets(candidate.pair(reach).context("a pair across hosts")?, settings)
    };
    let usual = measure(candidate)?;
    let Some(reload) = candidate.load_tiers(count)? else { return Ok(Vec::new()) };
    let measured = measure(candidate);
    candidate.load_rules(USUAL_RULES)?;
    let [connections, packets] = measured?;
    Ok(vec![
        sample("connections", "/s", true, connections),
        sample("connections, of 1 tier", "x", true, connections / usual[0]),
        sample("established UDP", "/s", true, packets),
        sample("established UDP, of 1 tier", "x", true, packets / usual[1]),
        sample("policy load", "ms", false, reload.as_secs_f64() * 1e3),
    ])
}

/// New connections a second, and packets of one flow that is established.
fn connections_and_packets(pair: Pair<'_>, settings: Settings) -> Result<[f64; 2]> {
    let Settings { cores, window } = settings;
    let (connections, _) = connections::measure(pair, Closing::Fin, cores, window)?;
    let packets = packets::measure(pair, 1, &packets::PAYLOAD, cores, window)?;
    Ok([connections.rate(), packets.rate()])
}

/// The same while everything is watched, as multiples of the same a moment before.
fn watched(candidate: &dyn Candidate, pair: Pair<'_>, settings: Settings) -> Result<Vec<Sample>> {
    let alone = connections_and_packets(pair, settings)?;
    let Some(mut watch) = candidate.watch()? else { return Ok(Vec::new()) };
    let [connections, packets] = connections_and_packets(pair, settings)?;
    if !watch.goes_on()? {
        bail!("who watches has ended before the work");
    }
    Ok(vec![
        sample("connections", "/s", true, connections),
        sample("connections, of unwatched", "x", true, connections / alone[0]),
        sample("established UDP", "/s", true, packets),
        sample("established UDP, of unwatched", "x", true, packets / alone[1]),
    ])
}

fn sustained(candidate: &dyn Candidate, reach: Reach, cores: Cores) -> Result<Vec<Sample>> {
    const PARTS: [&str; 6] = ["0-10 s", "10-20 s", "20-30 s", "30-40 s", "40-50 s", "50-60 s"];
    const LENGTH: Duration = Duration::from_secs(10);
    let pair = candidate.pair(reach).context("a pair across hosts")?;
    let (seen, failed) = connections::sustain(pair, cores, PARTS.len(), LENGTH)?;
    let mut samples: Vec<_> =
        PARTS.iter().zip(&seen).map(|(part, seen)| sample(part, "/s", true, seen.rate())).collect();
    let (cpu, count) =
        seen.iter().fold((0.0, 0), |(cpu, count), seen| (cpu + seen.cpu.as_secs_f64(), count + seen.count));
    samples.extend((count > 0).then(|| sample("CPU", "s/1000", false, cpu * 1e3 / count as f64)));
    samples.push(sample("failed", "", false, failed as f64));
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
