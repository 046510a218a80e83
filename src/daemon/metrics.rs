//! What is counted, for Prometheus. Names and units follow its conventions; what `status` and `show` tell is told from the same
//! counters.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::atomic::Ordering::Relaxed,
    time::Duration,
};

use eastgate_api::{Restored, RuleCountRow, Status, Traffic};
use eastgate_dataplane::{
    pipeline::{
        counters::{DECISION_BOUNDS, DecisionCounts, DropCount, DropKey, drops},
        shared::lock,
    },
    snapshot::{Network, Snapshot},
};
use eastgate_vtep::fdb::Location;
use eastgate_wire::{Vni, VtepAddr};
use prometheus::{
    Encoder as _, Histogram, HistogramOpts, IntCounterVec, Opts, TextEncoder,
    core::Collector as _,
    proto::{self, Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType},
};

use super::{View, show::rules};
use crate::{http::Site, io::clock};

/// Endpoints of this host, and rules, that are counted one by one. Of more, none is: a series that comes and goes is worse than none.
const SERIES_OF_A_KIND: usize = 10_000;

/// Upper bounds in seconds of how long a reload takes.
const RELOAD_SECONDS: [f64; 9] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// What is known of reloads since the start.
pub(super) struct Reloads {
    results: IntCounterVec,
    in_force: Histogram,
}

impl Default for Reloads {
    #[allow(clippy::expect_used, reason = "the names are constants, and a test makes them")]
    fn default() -> Self {
        let results =
            Opts::new("eastgate_reloads_total", "Reloads of the configuration, by what became of them.");
        let in_force = HistogramOpts::new(
            "eastgate_reload_duration_seconds",
            "Seconds from a reload's request until the configuration was in force.",
        );
        let results = IntCounterVec::new(results, &["result"]).expect("good names");
        for result in ["applied", "refused"] {
            results.with_label_values(&[result]);
        }
        let in_force = in_force.buckets(RELOAD_SECONDS.to_vec());
        Self { results, in_force: Histogram::with_opts(in_force).expect("good names") }
    }
}

impl Reloads {
    /// Counts one that was in force after so long, or that was refused.
    pub(super) fn count(&self, in_force: Option<Duration>) {
        let result = if in_force.is_some() { "applied" } else { "refused" };
        self.results.with_label_values(&[result]).inc();
        if let Some(after) = in_force {
            self.in_force.observe(after.as_secs_f64());
        }
    }
}

impl Site for View {
    fn metrics(&self) -> std::result::Result<Vec<u8>, String> {
        self.page().map_err(|error| format!("the metrics cannot be written: {error}"))
    }

    fn problems(&self) -> Vec<String> {
        self.status(&self.shared.snapshot_arc()).problems
    }
}

/// What counters were told at the page before: by family, labels, and which one it is of those that had these labels in turn. What is
/// read one after the other while flows end is less at times than it was, and a counter that goes down is taken for one that
/// has begun anew.
pub(super) type Told = HashMap<(String, u64), u64>;

/// A page that is being made.
struct Page {
    families: Vec<MetricFamily>,
    before: Told,
    told: Told,
}

impl Page {
    /// A family with a metric for each row.
    fn put<const N: usize>(
        &mut self,
        (name, help, kind): (&str, &str, MetricType),
        labels: [&str; N],
        rows: impl IntoIterator<Item = ([String; N], Metric)>,
    ) {
        let metric = |(values, mut metric): ([String; N], Metric)| {
            let pairs = labels.iter().zip(values).map(|(label, value)| {
                let mut pair = LabelPair::default();
                pair.set_name((*label).to_owned());
                pair.set_value(value);
                pair
            });
            metric.set_label(pairs.collect());
            metric
        };
        let metrics: Vec<Metric> = rows.into_iter().map(metric).collect();
        // A family without a row is none for the encoder.
        if !metrics.is_empty() {
            let mut family = MetricFamily::default();
            family.set_name(name.to_owned());
            family.set_help(help.to_owned());
            family.set_field_type(kind);
            family.set_metric(metrics);
            self.families.push(family);
        }
    }

    /// A family of counters; rows with the same labels are one. What has the labels of something that was there before is told by
    /// another number.
    fn counters_of<const N: usize, L: Into<String>>(
        &mut self,
        name: &str,
        help: &str,
        labels: [&str; N],
        rows: impl IntoIterator<Item = ([L; N], u64, u64)>,
    ) {
        let mut sums: BTreeMap<[String; N], (u64, u64)> = BTreeMap::new();
        for (values, number, count) in rows {
            let (which, sum) = sums.entry(values.map(Into::into)).or_default();
            (*which, *sum) = (number, *sum + count);
        }
        let mut metrics = Vec::new();
        for (values, (which, sum)) in sums {
            let key = (format!("{name}\0{}", values.join("\0")), which);
            let sum = self.before.get(&key).copied().unwrap_or_default().max(sum);
            self.told.insert(key, sum);
            let mut counter = Counter::default();
            counter.set_value(sum as f64);
            let mut metric = Metric::default();
            metric.set_counter(counter);
            metrics.push((values, metric));
        }
        self.put((name, help, MetricType::COUNTER), labels, metrics);
    }

    fn counters<const N: usize, L: Into<String>>(
        &mut self,
        name: &str,
        help: &str,
        labels: [&str; N],
        rows: impl IntoIterator<Item = ([L; N], u64)>,
    ) {
        self.counters_of(name, help, labels, rows.into_iter().map(|(values, count)| (values, 0, count)));
    }

    fn counter(&mut self, name: &str, help: &str, count: u64) {
        self.counters::<0, &str>(name, help, [], [([], count)]);
    }

    fn histogram(&mut self, name: &str, help: &str, counts: &DecisionCounts) {
        let mut histogram = proto::Histogram::default();
        let micros = |micros: u64| Duration::from_micros(micros).as_secs_f64();
        // The last count has no bound, and is told as that of all.
        let bounds = DECISION_BOUNDS.iter().map(|bound| micros(*bound));
        let buckets = bounds.zip(counts.up_to).map(|(bound, count)| {
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(count);
            bucket
        });
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(counts.up_to.last().copied().unwrap_or_default());
        histogram.set_sample_sum(counts.took.as_secs_f64());
        let mut metric = Metric::default();
        metric.set_histogram(histogram);
        self.put((name, help, MetricType::HISTOGRAM), [], [([], metric)]);
    }

    /// A family of values that go up and down.
    fn gauges<const N: usize, L: Into<String>>(
        &mut self,
        name: &str,
        help: &str,
        labels: [&str; N],
        rows: impl IntoIterator<Item = ([L; N], f64)>,
    ) {
        let rows: BTreeMap<[String; N], f64> =
            rows.into_iter().map(|(values, value)| (values.map(Into::into), value)).collect();
        let metrics = rows.into_iter().map(|(values, value)| {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            (values, Metric::from_gauge(gauge))
        });
        self.put((name, help, MetricType::GAUGE), labels, metrics);
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Into<f64>) {
        self.gauges::<0, &str>(name, help, [], [([], value.into())]);
    }
}

/// The labels of what is counted of a network: number, tenant, name. A network that is configured no more has a number only.
fn network_labels(snapshot: &Snapshot, vni: Option<Vni>) -> [String; 3] {
    let network = vni.and_then(|vni| snapshot.network(vni));
    let number = vni.map_or_else(String::new, |vni| vni.to_string());
    network.map_or_else(|| [number.clone(), String::new(), String::new()], |network| labels_of(network))
}

fn labels_of(network: &Network) -> [String; 3] {
    [network.vni.to_string(), network.tenant.name.to_string(), network.key.to_string()]
}

impl View {
    fn page(&self) -> anyhow::Result<Vec<u8>> {
        let snapshot = self.shared.snapshot_arc();
        // Told without what the programs have counted, all would seem to begin anew.
        let kernel = self.kernel.get().map(|kernel| kernel.traffic()).transpose()?.unwrap_or_default();
        let mut before = lock(&self.told);
        let mut page =
            Page { families: Vec::new(), before: std::mem::take(&mut *before), told: Told::default() };
        let status = self.status(&snapshot);
        of_daemon(&mut page, &status);
        of_traffic(&mut page, &status.traffic);
        page.families.extend(self.reloads.results.collect());
        page.families.extend(self.reloads.in_force.collect());
        page.histogram(
            "eastgate_decision_duration_seconds",
            "Seconds that frames took in userspace from when they were at hand until they were decided; of those that were at hand together, the mean.",
            &self.decisions(),
        );
        page.counters(
            "eastgate_punted_packets_total",
            "Packets that the kernel's programs have left to the pipeline, by cause.",
            ["cause"],
            status.punts.iter().map(|(cause, count)| ([&**cause], *count)),
        );
        page.counters(
            "eastgate_api_refusals_total",
            "What the HTTP API has refused over the network before it came to a request, by why.",
            ["why"],
            self.api.refusals().into_iter().map(|(why, count)| ([why], count)),
        );
        self.count_drops(&mut page, &snapshot, &kernel.drops);
        let left_out = [
            ("endpoints", self.count_endpoints(&mut page, &snapshot)),
            ("rules", self.count_rules(&mut page, &snapshot, &kernel.drops)),
        ];
        page.gauges(
            "eastgate_series_left_out",
            "Endpoints and rules that are not counted one by one here, because there are too many.",
            ["of"],
            left_out.map(|(of, count)| ([of], count as f64)),
        );
        *before = page.told;
        drop(before);
        page.families.sort_by(|a, b| a.name().cmp(b.name()));
        let mut text = Vec::new();
        TextEncoder::new().encode(&page.families, &mut text)?;
        Ok(text)
    }

    /// How long frames took, at all workers.
    fn decisions(&self) -> DecisionCounts {
        let mut counts = DecisionCounts::default();
        self.shared.counters.iter().for_each(|counters| counters.decisions.add_to(&mut counts));
        counts
    }

    fn count_drops(&self, page: &mut Page, snapshot: &Snapshot, of_kernel: &[(DropKey, DropCount)]) {
        let rows = drops(&self.shared.counters, of_kernel.to_vec());
        let vteps: HashSet<VtepAddr> = snapshot.config.hosts.values().map(|host| host.vtep).collect();
        let of_network = || {
            rows.iter().map(|(key, count)| {
                let [vni, tenant, network] = network_labels(snapshot, key.vni);
                ([vni, tenant, network, key.reason.name().to_owned()], count)
            })
        };
        let labels = ["vni", "tenant", "network", "reason"];
        page.counters(
            "eastgate_dropped_frames_total",
            "Frames dropped, by network and reason (`eastgate drop-reasons`).",
            labels,
            of_network().map(|(labels, count)| (labels, count.frames)),
        );
        page.counters(
            "eastgate_dropped_bytes_total",
            "Bytes of frames dropped, by network and reason.",
            labels,
            of_network().map(|(labels, count)| (labels, count.bytes)),
        );
        page.counters(
            "eastgate_dropped_frames_by_source_total",
            "Frames dropped, by the tenant port or the VTEP that they came from, where that is known.",
            ["kind", "source"],
            rows.iter().filter_map(|(key, count)| {
                let (kind, name) = match key.from? {
                    port @ Location::Local(_) => ("port", self.location_name(port)),
                    // Whoever sends to the VTEP makes up its address.
                    Location::Remote(from) if vteps.contains(&from) => ("vtep", from.to_string()),
                    Location::Remote(_) => ("vtep", "unknown".to_owned()),
                };
                Some(([kind.to_owned(), name], count.frames))
            }),
        );
    }

    /// Counts what endpoints of this host have sent and got: those elsewhere are counted there. How many were left out.
    fn count_endpoints(&self, page: &mut Page, snapshot: &Snapshot) -> usize {
        let here = || {
            let networks = snapshot.networks().into_iter();
            networks
                .flat_map(|network| network.endpoints().map(move |endpoint| (network, endpoint)))
                .filter(|(_, endpoint)| endpoint.attachment().is_some())
        };
        let count = here().count();
        if count > SERIES_OF_A_KIND {
            return count;
        }
        self.shared.count_stateless_elsewhere();
        // Before what is not counted yet: a flow that ends in between is told a page later, and not twice.
        let counted: Vec<_> = here()
            .map(|(network, endpoint)| {
                let state = &endpoint.state;
                let frames = [&state.tx_frames, &state.rx_frames].map(|frames| frames.load(Relaxed));
                (network, endpoint, frames)
            })
            .collect();
        let uncounted = self.shared.uncounted(snapshot);
        let frames = |direction: usize| {
            let uncounted = &uncounted;
            counted.iter().map(move |(network, endpoint, frames)| {
                let more = uncounted.get(&(network.vni, endpoint.id)).copied().unwrap_or_default();
                let [frames, more] =
                    [frames, &more].map(|counts| counts.get(direction).copied().unwrap_or_default());
                let [vni, tenant, name] = labels_of(network);
                ([vni, tenant, name, endpoint.name.to_string()], endpoint.state.serial, frames + more)
            })
        };
        let labels = ["vni", "tenant", "network", "endpoint"];
        page.counters_of(
            "eastgate_endpoint_sent_frames_total",
            "Frames that an endpoint of this host has sent and that passed.",
            labels,
            frames(0),
        );
        page.counters_of(
            "eastgate_endpoint_received_frames_total",
            "Frames that have reached an endpoint of this host.",
            labels,
            frames(1),
        );
        0
    }

    /// Counts what rules have done. How many were left out.
    fn count_rules(&self, page: &mut Page, snapshot: &Snapshot, of_kernel: &[(DropKey, DropCount)]) -> usize {
        let networks = snapshot.networks();
        let count: usize = networks.iter().map(|network| network.rules.in_order().count()).sum();
        if count > SERIES_OF_A_KIND {
            return count;
        }
        let now = clock::now();
        let counted = self.counted_rules(snapshot, &networks, of_kernel, now);
        let rows: Vec<_> = counted
            .iter()
            .map(|(network, rule, count)| {
                let since = u64::from(network.numbered);
                (rule.to_string(), since, rules::row(network, *rule, count, now))
            })
            .collect();
        let of = |count: fn(&RuleCountRow) -> u64| {
            rows.iter().map(move |(id, since, row)| {
                // What a rule that is being tried out would refuse passes by it.
                let tried_out = if row.audit { "audit-" } else { "" };
                let action = format!("{tried_out}{}", row.action);
                ([row.vni.to_string(), row.rule.clone(), id.clone(), action], *since, count(row))
            })
        };
        let labels = ["vni", "rule", "id", "action"];
        page.counters_of(
            "eastgate_rule_flows_total",
            "Flows that a rule has admitted on this host.",
            labels,
            of(|row| row.flows),
        );
        page.counters_of(
            "eastgate_rule_packets_total",
            "Packets of flows that a rule has admitted, both ways, and packets that it has refused.",
            labels,
            of(|row| row.packets),
        );
        page.counters_of(
            "eastgate_rule_bytes_total",
            "Bytes of the packets that are counted for a rule.",
            labels,
            of(|row| row.bytes),
        );
        page.counters_of(
            "eastgate_rule_would_deny_packets_total",
            "Packets that passed, and that a rule would have refused if it were not being tried out.",
            labels,
            of(|row| row.would_deny),
        );
        0
    }
}

/// How the daemon is.
fn of_daemon(page: &mut Page, status: &Status) {
    let Status { version, host, dataplane, attached_by, digest, vtep, flows, .. } = status;
    page.gauges(
        "eastgate_info",
        "Always 1; the labels say what runs.",
        ["version", "host", "dataplane", "attached_by", "digest"],
        [([version, host, dataplane, attached_by, digest], 1.0)],
    );
    page.gauge(
        "eastgate_ready",
        "Whether a configuration is in force and workers run.",
        u8::from(status.ready),
    );
    page.gauge(
        "eastgate_problems",
        "What should pass and does not: the lines that `eastgate status` has as problems.",
        status.problems.len() as f64,
    );
    page.gauge("eastgate_uptime_seconds", "Seconds since the daemon started.", status.uptime_s as f64);
    page.gauge(
        "eastgate_snapshot_epoch",
        "Number of the snapshot in force: it grows by one with each change.",
        status.epoch,
    );
    page.gauge(
        "eastgate_reload_refused",
        "Whether the last reload was refused, so that files say something else than what is in force.",
        u8::from(status.reload_error.is_some()),
    );
    page.gauge(
        "eastgate_vtep_listening",
        "Whether datagrams of other VTEPs are heard.",
        u8::from(vtep.listening),
    );
    page.gauge("eastgate_underlay_up", "Whether an underlay device is there and up.", u8::from(vtep.up));
    page.gauge("eastgate_underlay_mtu_bytes", "The smallest MTU of the underlay devices.", vtep.mtu);
    page.gauges(
        "eastgate_port_forwarding",
        "Whether a tenant port of this host forwards frames.",
        ["vni", "endpoint", "port"],
        status.ports.iter().map(|port| {
            let forwarding = f64::from(u8::from(port.state == "forwarding"));
            ([port.vni.to_string(), port.endpoint.clone(), port.name.clone()], forwarding)
        }),
    );
    page.gauges(
        "eastgate_flows",
        "Flows in the table: seen in both directions (replied), or in one.",
        ["state"],
        [(["replied"], flows.replied as f64), (["unreplied"], flows.unreplied as f64)],
    );
    page.counters(
        "eastgate_flows_made_room_total",
        "Flows that had to make room for others, by what their loss costs.",
        ["rank"],
        flows.made_room.iter().map(|(rank, count)| ([rank], *count)),
    );
    page.gauge(
        "eastgate_learned_addresses",
        "Addresses that were learned of endpoints.",
        status.learned.addresses as f64,
    );
    page.counter(
        "eastgate_addresses_not_learned_total",
        "How often an address was not learned that might have been: of another endpoint, over a limit, locked.",
        status.learned.refused,
    );
    page.gauge(
        "eastgate_policy_memory_bytes",
        "Memory of the compiled policies.",
        status.memory.policies as f64,
    );
    if let Some(bytes) = status.memory.resident {
        page.gauge("process_resident_memory_bytes", "Resident memory size in bytes.", bytes as f64);
    }
    page.counter(
        "eastgate_settings_restored_total",
        "Interface settings that someone else has changed and that were put right.",
        status.settings_restored,
    );
    let Restored { programs, devices, files, routes, ref missing, .. } = status.restored;
    page.counters(
        "eastgate_restored_total",
        "What someone else has taken away and that was put back.",
        ["what"],
        [(["programs"], programs), (["devices"], devices), (["files"], files), (["routes"], routes)],
    );
    page.gauge(
        "eastgate_missing",
        "What someone else has taken away and that could not be put back yet.",
        missing.len() as f64,
    );
}

/// Frames and packets, of the pipeline and of the kernel's programs.
fn of_traffic(page: &mut Page, traffic: &Traffic) {
    let Traffic {
        from_ports,
        from_underlay,
        to_ports,
        to_underlay,
        answers,
        answers_repeated,
        fragmented,
        decided_again,
        rejects_told,
        rejects_limited,
        would_deny,
        // The sum over all reasons
        dropped: _,
    } = *traffic;
    page.counters(
        "eastgate_received_frames_total",
        "Frames from tenant ports, and datagrams from the underlay.",
        ["from"],
        [(["port"], from_ports), (["underlay"], from_underlay)],
    );
    page.counters(
        "eastgate_sent_frames_total",
        "Frames sent to tenant ports, and datagrams sent to the underlay.",
        ["to"],
        [(["port"], to_ports), (["underlay"], to_underlay)],
    );
    page.counters(
        "eastgate_neighbor_answers_total",
        "ARP and ND answers given, by the pipeline or again by the kernel's programs.",
        ["by"],
        [(["pipeline"], answers.saturating_sub(answers_repeated)), (["kernel"], answers_repeated)],
    );
    page.counter(
        "eastgate_fragmented_packets_total",
        "Packets that did not fit the tunnel and were cut into fragments.",
        fragmented,
    );
    page.counter(
        "eastgate_flows_decided_again_total",
        "Flows that a change of the configuration had decided again.",
        decided_again,
    );
    page.counters(
        "eastgate_rejected_packets_total",
        "Packets that a rule rejected: their senders were told, or were not for the limit of answers.",
        ["sender"],
        [(["told"], rejects_told), (["limited"], rejects_limited)],
    );
    page.counter(
        "eastgate_would_deny_packets_total",
        "Packets that passed, and that would have been refused if the rule that does were not being tried out.",
        would_deny,
    );
}
