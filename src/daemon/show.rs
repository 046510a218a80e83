//! What the daemon tells about itself: one function for each question.

mod drops;

use std::{
    collections::{BTreeMap, HashMap},
    sync::atomic::Ordering::Relaxed,
};

use eastgate_conntrack::flow::{FlowFilter, FlowInfo, Rank};
use eastgate_dataplane::{
    pipeline::{
        counters::{Elsewhere, traffic},
        shared::lock,
    },
    snapshot::{Network, Snapshot},
    trace,
};
use eastgate_fastpath::PUNTS;
use eastgate_steering::Answers;
use eastgate_vtep::{
    fdb::{Flush, Location},
    mtu::tenant_mtu,
};
use eastgate_wire::{Family, FlowKey, Instant, Leg, Vni, names};
use serde::Serialize;
use serde_json::{Value, json};

use super::{PortState, View};
use crate::{
    control::{
        protocol::{
            Done, EndpointRow, FdbRow, Filter, FlowCounts, FlowRow, GroupRow, NeighborRow, PolicyRow,
            PortStatus, Request, Restored, RuleRow, Status, Traffic, VtepStatus,
        },
        server::Refused,
    },
    io::clock,
    plan::too_small_for,
};

/// Places of the flow table looked at while a shard is locked.
const PAGE: u32 = 4096;

/// The first rows of many, without all of them at once in memory.
struct First {
    limit: usize,
    found: Vec<FlowInfo>,
    total: usize,
}

impl First {
    fn add(&mut self, mut more: Vec<FlowInfo>) {
        self.total += more.len();
        self.found.append(&mut more);
        if self.found.len() >= self.limit.saturating_mul(2).saturating_add(PAGE as usize) {
            self.cut();
        }
    }

    fn cut(&mut self) {
        self.found.sort_by_key(|flow| flow.key);
        self.found.truncate(self.limit);
    }
}

impl View {
    pub(super) fn show(&self, request: Request) -> Result<Value, Refused> {
        request.check()?;
        let snapshot = self.shared.snapshot_arc();
        match request {
            Request::Status {} => Ok(json!(self.status(&snapshot))),
            Request::Endpoints(filter) => {
                Ok(limited("endpoints", self.endpoints(&snapshot, &filter), &filter))
            }
            Request::Fdb(filter) => Ok(limited("fdb", self.fdb(&snapshot, &filter), &filter)),
            Request::Flows(filter) => {
                let (flows, total) = self.flows(&snapshot, &filter);
                Ok(json!({ "flows": flows, "total": total }))
            }
            Request::Neighbors(filter) => Ok(limited("neighbors", neighbors(&snapshot, &filter), &filter)),
            Request::Drops(filter) => Ok(json!(self.drops(&snapshot, &filter))),
            Request::Policy(filter) => Ok(limited("policy", self.policy(&snapshot, &filter), &filter)),
            Request::FdbFlush(filter) => Ok(json!(fdb_flush(&snapshot, &filter))),
            Request::FlowsKill(filter) => Ok(json!(self.flows_kill(&snapshot, &filter))),
            Request::Trace(packet) => {
                Ok(json!(trace::trace(&snapshot, &packet, &|key| self.flows_between(key), clock::now())?))
            }
            Request::Reload {} => Err("a reload is not a question".into()),
        }
    }

    fn status(&self, snapshot: &Snapshot) -> Status {
        let visible = lock(&self.state).clone();
        let in_use = self.shared.flows_in_use();
        let family = if snapshot.vtep.0.is_ipv4() { Family::V4 } else { Family::V6 };
        let mtu = visible.underlay.iter().map(|link| link.mtu).min().unwrap_or(0);
        let too_small = if mtu > 0 { too_small_for(snapshot, mtu) } else { Vec::new() };
        let largest = tenant_mtu(u16::try_from(mtu).unwrap_or(u16::MAX), family, 0);
        let device =
            snapshot.config.host(&snapshot.host).map_or_else(String::new, |host| host.device_names());
        let ports = snapshot.tenant_ports().map(|(id, network, endpoint)| {
            let name = visible.names.get(&id).map_or_else(String::new, |name| name.to_string());
            let state = match visible.ports.get(&*name) {
                Some(PortState::Forwarding) => "forwarding".to_owned(),
                Some(PortState::Down) => "down".to_owned(),
                Some(PortState::Failed(problem)) => format!("failed: {problem}"),
                Some(PortState::Absent) | None => "absent".to_owned(),
            };
            PortStatus {
                note: visible.notes.get(&*name).map(|note| (*note).to_owned()),
                endpoint: format!("{}/{}", network.tenant.name, endpoint.name),
                vni: network.vni,
                name,
                state,
            }
        });
        let ports: Vec<PortStatus> = ports.collect();
        let vtep = VtepStatus {
            address: snapshot.vtep.0,
            port: snapshot.config.overlay.port,
            device,
            up: visible.underlay.iter().any(|link| link.up),
            mtu,
            tenant_mtu: largest.into(),
            too_small_for: too_small.into_iter().map(|(network, _)| network).collect(),
            listening: visible.listening,
            problem: visible.not_listening.clone(),
            bursts_refused: self.shared.bursts_refused.load(Relaxed),
        };
        Status {
            problems: problems(visible.ready, &vtep, &ports, visible.missing.values()),
            digest: visible.digest.clone(),
            control_restored: visible.control_restored,
            ready: visible.ready,
            host: snapshot.host.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            epoch: snapshot.epoch,
            uptime_s: self.started.elapsed().as_secs(),
            config: self.config.display().to_string(),
            reload_error: visible.reload_error,
            vtep,
            dataplane: visible.dataplane,
            workers: self.shared.counters.len(),
            networks: snapshot.networks().len(),
            ports,
            flows: FlowCounts {
                answered: in_use.answered.into(),
                unanswered: in_use.unanswered.into(),
                made_room: self.made_room(),
            },
            settings_restored: visible.settings_restored,
            attached_by: visible.attached_by.to_owned(),
            restored: Restored { missing: visible.missing.into_values().collect(), ..visible.restored },
            traffic: self.traffic(),
            punts: self.punts(),
        }
    }

    fn made_room(&self) -> BTreeMap<String, u64> {
        let counts = self.shared.flow_counters().made_room;
        Rank::ALL.iter().map(|rank| rank.name().to_owned()).zip(counts).collect()
    }

    fn punts(&self) -> BTreeMap<String, u64> {
        let Some(Ok(counts)) = self.kernel.get().map(|kernel| kernel.punts()) else {
            return BTreeMap::new();
        };
        PUNTS.iter().map(|cause| (*cause).to_owned()).zip(counts).collect()
    }

    fn traffic(&self) -> Traffic {
        let here = traffic(&self.shared.counters);
        let there = self.elsewhere().traffic;
        Traffic {
            from_ports: here.from_ports + there.from_ports,
            from_underlay: here.from_underlay + there.from_underlay,
            to_ports: here.to_ports + there.to_ports,
            to_underlay: here.to_underlay + there.to_underlay,
            answers: here.answers + there.answers,
            answers_repeated: here.answers_repeated + there.answers_repeated,
            fragmented: here.fragmented + there.fragmented,
            dropped: here.dropped + there.dropped,
        }
    }

    /// What the kernel's programs have counted; nothing without them.
    fn elsewhere(&self) -> Elsewhere {
        let counted = self.kernel.get().map(|kernel| kernel.traffic());
        counted
            .and_then(|counted| counted.inspect_err(|error| tracing::error!(%error)).ok())
            .unwrap_or_default()
    }

    fn location_name(&self, location: Location) -> String {
        match location {
            Location::Local(port) => {
                let names = &lock(&self.state).names;
                names.get(&port).map_or_else(|| format!("port {}", port.0), |name| name.to_string())
            }
            Location::Remote(vtep) => vtep.to_string(),
        }
    }

    fn endpoints(&self, snapshot: &Snapshot, filter: &Filter) -> Vec<EndpointRow> {
        let mut rows = Vec::new();
        let uncounted = self.shared.uncounted(snapshot);
        for network in networks(snapshot, filter) {
            let Some(config) = network.config() else { continue };
            for (endpoint, config_of) in network.endpoints.iter().zip(&config.endpoints) {
                let wanted = filter.mac.is_none_or(|mac| mac == endpoint.mac)
                    && filter.address.is_none_or(|ip| endpoint.holdings().addresses.contains(&ip.into()));
                if !wanted {
                    continue;
                }
                let [sent, received] =
                    uncounted.get(&(network.vni, endpoint.id)).copied().unwrap_or_default();
                rows.push(EndpointRow {
                    vni: network.vni,
                    endpoint: format!("{}/{}", network.tenant.name, endpoint.name),
                    network: network.key.to_string(),
                    host: config_of.host.host.to_string(),
                    port: endpoint.port().and(config_of.port.as_ref()).map(|port| port.to_string()),
                    mac: endpoint.mac,
                    addresses: endpoint.holdings().addresses.clone(),
                    groups: config_of.groups.iter().map(|group| group.to_string()).collect(),
                    tx_frames: endpoint.state.tx_frames.load(Relaxed) + sent,
                    rx_frames: endpoint.state.rx_frames.load(Relaxed) + received,
                });
            }
        }
        rows
    }

    fn fdb(&self, snapshot: &Snapshot, filter: &Filter) -> Vec<FdbRow> {
        let now = clock::now();
        let mut rows = Vec::new();
        for network in networks(snapshot, filter) {
            let configured = network.endpoints.iter().map(|endpoint| FdbRow {
                vni: network.vni,
                mac: endpoint.mac,
                at: self.location_name(endpoint.location),
                kind: "configured".into(),
                age_s: None,
            });
            rows.extend(configured);
            let learned = lock(&network.state.fdb).entries(now);
            rows.extend(learned.into_iter().map(|entry| {
                FdbRow {
                    vni: network.vni,
                    mac: entry.mac,
                    at: self.location_name(entry.location),
                    kind: if entry.frozen_until.is_some_and(|until| now < until) {
                        "frozen"
                    } else {
                        "learned"
                    }
                    .into(),
                    age_s: entry.heard.map(|heard| now.since(heard).as_secs()),
                }
            }));
        }
        rows.retain(|row| filter.mac.is_none_or(|mac| mac == row.mac));
        rows
    }

    /// The first of the flows that fit, in the order of their keys, and how many fit.
    fn flows(&self, snapshot: &Snapshot, filter: &Filter) -> (Vec<FlowRow>, usize) {
        let now = clock::now();
        let wanted = flow_filter(filter);
        let limit = filter.limit.unwrap_or(usize::MAX);
        let mut first = First { limit, found: Vec::new(), total: 0 };
        for shard in self.shared.all_flows() {
            let mut from = Some(0);
            while let Some(place) = from {
                let mut page = Vec::new();
                from = lock(shard).page(place, PAGE, &wanted, now, &mut page);
                first.add(page);
            }
        }
        self.shared.for_each_born(now, |flow| {
            if wanted.fits(flow) {
                first.add(vec![*flow]);
            }
        });
        first.cut();
        let First { mut found, total, .. } = first;
        // Of those that are in no table of ours all is told already.
        let handed_over = |flow: &FlowInfo| flow.offloaded && self.shared.flows(&flow.key).knows(&flow.key);
        found.iter_mut().filter(|flow| handed_over(flow)).for_each(|flow| self.catch_up(snapshot, flow));
        (found.iter().map(|flow| flow_row(snapshot, flow, now)).collect(), total)
    }

    /// The flows between the ends of a packet.
    fn flows_between(&self, key: &FlowKey) -> Vec<FlowInfo> {
        let now = clock::now();
        let filter = FlowFilter {
            vni: Some(key.vni),
            addr: Some(key.src),
            peer: Some(key.dst),
            ..FlowFilter::default()
        };
        let mut found = Vec::new();
        for shard in self.shared.all_flows() {
            let mut from = Some(0);
            while let Some(place) = from {
                from = lock(shard).page(place, PAGE, &filter, now, &mut found);
            }
        }
        self.shared.for_each_born(now, |flow| {
            if filter.fits(flow) {
                found.push(*flow);
            }
        });
        found
    }

    /// A flow that began in the kernel is counted for its rules when it leaves.
    fn policy(&self, snapshot: &Snapshot, filter: &Filter) -> Vec<PolicyRow> {
        let mut uncounted = Uncounted::new();
        self.shared.for_each_born(clock::now(), |flow| {
            if snapshot.network(flow.key.vni).is_some_and(|network| network.epoch == flow.epoch) {
                for rule in [flow.egress_rule, flow.ingress_rule] {
                    *uncounted.entry((flow.key.vni, rule)).or_default() += 1;
                }
            }
        });
        policy(snapshot, filter, &uncounted)
    }

    /// Adds what has passed in the kernel since the flow went there.
    fn catch_up(&self, snapshot: &Snapshot, flow: &mut FlowInfo) {
        let Some(progress) = self.shared.peek(&flow.key) else { return };
        for (count, more) in [&mut flow.original, &mut flow.reply].into_iter().zip(progress.counts) {
            count.packets += more.packets;
            count.bytes += more.bytes;
        }
        if let (Some(seen), Some(network)) = (progress.last_seen, snapshot.network(flow.key.vni)) {
            flow.last_seen = flow.last_seen.max(seen);
            flow.deadline =
                flow.deadline.max(seen + network.tracking.timeouts.of(flow.key.proto, flow.state));
        }
    }

    fn flows_kill(&self, snapshot: &Snapshot, filter: &Filter) -> Done {
        let now = clock::now();
        let wanted = flow_filter(filter);
        let most = filter.limit.map_or(u64::MAX, |limit| limit as u64);
        let count = self.shared.end_flows(&|flow| wanted.fits(flow), most, now);
        Done { count, epoch: snapshot.epoch, ..Done::default() }
    }
}

/// What keeps frames from passing that should pass. A port that is down or not there yet is its owner's business.
fn problems<'m>(
    ready: bool,
    vtep: &VtepStatus,
    ports: &[PortStatus],
    missing: impl Iterator<Item = &'m String>,
) -> Vec<String> {
    let mut problems = Vec::new();
    if !ready {
        problems.push("not ready: nothing passes yet".to_owned());
    }
    if !vtep.listening {
        let why = vtep.problem.as_ref().map_or_else(String::new, |why| format!(": {why}"));
        problems.push(format!("not listening at {} on {}{why}", vtep.address, vtep.device));
    } else if !vtep.up {
        problems.push(format!("the underlay device {} is down", vtep.device));
    }
    let failed = ports.iter().filter(|port| !matches!(&*port.state, "forwarding" | "down" | "absent"));
    problems.extend(failed.map(|port| format!("port {}: {}", port.name, port.state)));
    problems.extend(
        missing.map(|missing| format!("taken away by someone else, and not put back yet: {missing}")),
    );
    problems
}

fn networks<'s>(snapshot: &'s Snapshot, filter: &Filter) -> Vec<&'s std::sync::Arc<Network>> {
    match filter.vni {
        Some(vni) => snapshot.network(vni).into_iter().collect(),
        None => snapshot.networks(),
    }
}

/// The rows that were asked for, and how many there are without a limit.
fn limited<T: Serialize>(key: &str, mut rows: Vec<T>, filter: &Filter) -> Value {
    let total = rows.len();
    rows.truncate(filter.limit.unwrap_or(usize::MAX));
    json!({ key: rows, "total": total })
}

fn flow_filter(filter: &Filter) -> FlowFilter {
    FlowFilter {
        vni: filter.vni,
        addr: filter.address.map(Into::into),
        proto: filter.proto,
        port: filter.port,
        ..FlowFilter::default()
    }
}

fn flow_row(snapshot: &Snapshot, flow: &FlowInfo, now: Instant) -> FlowRow {
    let FlowKey { src, dst, vni, sport, dport, proto, leg } = flow.key;
    let rule = |id: u32| {
        let network = snapshot.network(vni)?;
        network.rules.reference(&network.tenant.name, id)
    };
    FlowRow {
        vni,
        proto: names::protocol_name(proto),
        src,
        sport,
        dst,
        dport,
        via: (leg != Leg::DIRECT).then(|| forwarder(snapshot, vni, leg)),
        state: flow.state.name().to_owned(),
        packets: flow.original.packets,
        bytes: flow.original.bytes,
        reply_packets: flow.reply.packets,
        reply_bytes: flow.reply.bytes,
        offloaded: flow.offloaded,
        expires_s: flow.deadline.since(now).as_secs(),
        egress_rule: rule(flow.egress_rule),
        ingress_rule: rule(flow.ingress_rule),
        epoch: flow.epoch,
    }
}

/// The endpoint that a leg comes from or leads to.
fn forwarder(snapshot: &Snapshot, vni: Vni, leg: Leg) -> String {
    let name = |network: &Network| {
        let endpoint = network.endpoints.iter().find(|endpoint| leg.is_by(endpoint.mac))?;
        Some(format!("{}/{}", network.tenant.name, endpoint.name))
    };
    snapshot.network(vni).and_then(|network| name(network)).unwrap_or_else(|| "several".into())
}

fn neighbors(snapshot: &Snapshot, filter: &Filter) -> Vec<NeighborRow> {
    let mut rows = Vec::new();
    let now = clock::now();
    for network in networks(snapshot, filter) {
        let answered_with = |mac| match network.neighbors.answers {
            Answers::Off => None,
            Answers::Suppress => Some(mac),
            Answers::Proxy { mac } => Some(mac),
        };
        for endpoint in &network.endpoints {
            rows.extend(endpoint.holdings().addresses.iter().map(|address| NeighborRow {
                vni: network.vni,
                address: *address,
                mac: endpoint.mac,
                answered_with: answered_with(endpoint.mac),
                endpoint: Some(format!("{}/{}", network.tenant.name, endpoint.name)),
                kind: "configured".into(),
            }));
        }
        let held: Vec<_> = lock(&network.state.holders).entries().collect();
        rows.extend(held.into_iter().filter_map(|(address, held)| {
            let endpoint = network.by_mac(held.endpoint)?;
            Some(NeighborRow {
                vni: network.vni,
                address,
                mac: held.mac,
                answered_with: answered_with(held.mac),
                endpoint: Some(format!("{}/{}", network.tenant.name, endpoint.name)),
                kind: "held".into(),
            })
        }));
        let learned = lock(&network.state.learned).entries(now);
        rows.extend(learned.into_iter().map(|entry| NeighborRow {
            vni: network.vni,
            address: entry.address,
            mac: entry.mac,
            answered_with: answered_with(entry.mac),
            endpoint: None,
            kind: if entry.frozen { "frozen" } else { "learned" }.into(),
        }));
    }
    rows.retain(|row| {
        filter.mac.is_none_or(|mac| mac == row.mac)
            && filter.address.is_none_or(|ip| row.address == ip.into())
    });
    rows
}

/// Flows that rules have let in and that are not counted yet: by network and number of the rule.
type Uncounted = HashMap<(Vni, u32), u64>;

fn policy(snapshot: &Snapshot, filter: &Filter, uncounted: &Uncounted) -> Vec<PolicyRow> {
    let rows = networks(snapshot, filter).into_iter().map(|network| {
        let stats = network.policy.stats();
        PolicyRow {
            vni: network.vni,
            network: network.name.clone(),
            rules: stats.rules,
            rulesets: stats.rulesets,
            identities: stats.identities,
            lists: stats.lists,
            bytes: stats.resident_bytes,
            groups: groups(network, uncounted),
        }
    });
    rows.collect()
}

fn groups(network: &Network, uncounted: &Uncounted) -> Vec<GroupRow> {
    let Some(config) = network.config() else { return Vec::new() };
    let mut members: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for endpoint in &config.endpoints {
        for group in &endpoint.groups {
            members.entry(group).or_default().push(endpoint.name.to_string());
        }
    }
    let tenant = &network.tenant;
    let mut next = 0..;
    let mut rows = Vec::new();
    for group in tenant.groups.values() {
        let rules = group.ingress.iter().chain(&group.egress).zip(&mut next).filter_map(|(rule, id)| {
            let name = network.rules.reference(&tenant.name, id)?;
            Some(RuleRow {
                rule: name.rule,
                at: name.at,
                text: trace::rule_text(rule),
                flows: network.hits.get(id as usize).map_or(0, |hits| hits.load(Relaxed))
                    + uncounted.get(&(network.vni, id)).copied().unwrap_or_default(),
            })
        });
        let rules = rules.collect();
        rows.push(GroupRow {
            group: format!("{}/{}", tenant.name, group.name),
            members: members.remove(&*group.name).unwrap_or_default(),
            rules,
        });
    }
    rows
}

fn fdb_flush(snapshot: &Snapshot, filter: &Filter) -> Done {
    let which = filter.mac.map_or(Flush::All, Flush::Mac);
    let vni: Option<Vni> = filter.vni;
    let networks = snapshot.learning_networks().filter(|network| vni.is_none_or(|vni| vni == network.vni));
    let count = networks.map(|network| lock(&network.state.fdb).flush(which) as u64).sum();
    Done { count, epoch: snapshot.epoch, ..Done::default() }
}
