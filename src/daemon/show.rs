//! What the daemon tells about itself: one function for each question.

pub(super) mod drops;
mod ends;
mod events;
mod expectations;
mod flows;
mod matrix;
mod part;
pub(super) mod rules;
mod sight;
mod staged;
mod vdp;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use eastgate_api::{
    Done, EndpointRow, ErrorCode, Failure, FdbRow, Filter, FlowCounts, GroupRow, LearnedAddress, List,
    Memory, NeighborRow, PolicyRow, PortStatus, Reply, Request, Restored, RuleRow, Scope, Status, Traffic,
    VtepStatus,
};
use eastgate_config::Rule;
use eastgate_conntrack::flow::Rank;
use eastgate_dataplane::{
    eligibility::Eligibility,
    pipeline::{
        counters::{Elsewhere, traffic},
        shared::lock,
    },
    snapshot::{Endpoint, Network, Snapshot, rules::RuleList},
    trace,
};
use eastgate_fastpath::PUNTS;
use eastgate_policy::rule::Direction;
use eastgate_steering::Answers;
use eastgate_vtep::{
    fdb::{Flush, Location},
    mtu::tenant_mtu,
};
use eastgate_wire::{Attachment, Family, Vni};

use self::{ends::Ends, part::Part};
use super::{PortState, View};
use crate::{
    io::{clock, sysopt::resident_bytes},
    plan::too_small_for,
};

/// The endpoints here that are carried without policy.
fn excluded(snapshot: &Snapshot) -> Vec<String> {
    let site = &snapshot.config.site;
    let here = snapshot.attachments().map(|(_, network, endpoint)| (&network.tenant.name, &endpoint.name));
    let excluded = here.filter(|(tenant, endpoint)| site.excludes(tenant, endpoint));
    excluded.map(|(tenant, endpoint)| format!("{tenant}/{endpoint}")).collect()
}

/// As it is told.
fn port_state(state: Option<&PortState>) -> String {
    match state {
        Some(PortState::Forwarding) => "forwarding".to_owned(),
        Some(PortState::Down) => "down".to_owned(),
        Some(PortState::Failed(problem)) => format!("failed: {problem}"),
        Some(PortState::Absent) | None => "absent".to_owned(),
    }
}

/// What is said of each endpoint on a shared segment.
const NEEDS_ISOLATION: &str =
    "shared: policy holds as far as the switch isolates the machines of this segment from each other";

fn attachment_of<'n>(network: &'n Network, endpoint: &Endpoint) -> Option<&'n Attachment> {
    network.config()?.endpoint(&endpoint.name)?.attachment.as_ref()
}

fn learned_of(network: &Network, endpoint: &Endpoint) -> Vec<LearnedAddress> {
    if endpoint.learning.is_none() {
        return Vec::new();
    }
    let now = clock::now();
    let snooped = lock(&network.state.snooped);
    let its = snooped.entries().filter(|(_, entry)| entry.endpoint == endpoint.mac);
    its.map(|(address, entry)| LearnedAddress {
        address,
        by: entry.by.name().to_owned(),
        elsewhere: !entry.here,
        expires_s: entry.until.map(|until| until.since(now).as_secs()),
    })
    .collect()
}

impl View {
    /// Answers a query, as far as the scope goes. It is called on threads beside the daemon's loop, and reads only what they share.
    pub(super) fn show(&self, mut request: Request, scope: &Scope) -> Result<Reply, Failure> {
        let snapshot = self.shared.snapshot_arc();
        if let Some(filter) = request.filter_mut() {
            filter.scope = scope.clone();
        }
        Ok(match request {
            Request::Status {} if scope.is_all() => Reply::Status(Box::new(self.status(&snapshot))),
            Request::Status {} => {
                Reply::Status(Box::new(sight::narrowed(self.status(&snapshot), &snapshot, scope)))
            }
            Request::Endpoints(filter) => Reply::Endpoints(self.endpoints(&snapshot, &filter)?),
            Request::Fdb(filter) => Reply::Fdb(self.fdb(&snapshot, &filter)?),
            Request::Flows(filter) => Reply::Flows(self.flows(&snapshot, &filter)?),
            Request::Expectations(filter) => Reply::Expectations(self.expectations(&snapshot, &filter)?),
            Request::Neighbors(filter) => Reply::Neighbors(neighbors(&snapshot, &filter)?),
            Request::Drops(filter) => Reply::Drops(self.drops(&snapshot, &filter)?),
            Request::Policy(filter) => Reply::Policy(self.policy(&snapshot, &filter)?),
            Request::Rules(filter) => Reply::Rules(self.rules(&snapshot, &filter)?),
            Request::Matrix(filter) => Reply::Matrix(self.matrix(&snapshot, &filter)?),
            Request::Events(filter) => Reply::Events(self.events(&snapshot, &filter)?),
            Request::Trace(packet) => {
                sight::check_trace(&snapshot, scope, &packet)?;
                let live = trace::Live {
                    flows: &|key| self.flows_between(key),
                    expected: &|key| self.shared.helpers.find(key, clock::now()),
                };
                let report = trace::trace(&snapshot, &packet, live, clock::now());
                Reply::Trace(report.map_err(|text| Failure::new(ErrorCode::Invalid, text))?)
            }
            Request::Probe(probe) => Reply::Probe(Box::new(self.probe(&snapshot, &probe, scope)?)),
            Request::Machines(filter) => Reply::Machines(self.machines(&snapshot, &filter)?),
            Request::Staged(filter) => Reply::Staged(self.staged(&snapshot, &filter)?),
            Request::Reload {}
            | Request::Stage { .. }
            | Request::Unstage {}
            | Request::FdbFlush(_)
            | Request::FlowsKill(_) => {
                return Err(Failure::new(ErrorCode::NotApplicable, "this is no query"));
            }
        })
    }

    pub(super) fn status(&self, snapshot: &Snapshot) -> Status {
        let visible = lock(&self.state).clone();
        let in_use = self.shared.flows_in_use();
        let family = if snapshot.vtep.0.is_ipv4() { Family::V4 } else { Family::V6 };
        let mtu = visible.underlay.iter().map(|link| link.mtu).min().unwrap_or(0);
        let too_small = if mtu > 0 { too_small_for(snapshot, mtu) } else { Vec::new() };
        let largest = tenant_mtu(u16::try_from(mtu).unwrap_or(u16::MAX), family, 0);
        let device =
            snapshot.config.host(&snapshot.host).map_or_else(String::new, |host| host.device_names());
        let ports = snapshot.attachments().map(|(id, network, endpoint)| {
            let name = visible.names.get(&id).map_or_else(String::new, |name| name.to_string());
            let attachment = attachment_of(network, endpoint);
            let state = port_state(visible.ports.get(&id));
            let shared = endpoint.shared.is_some().then_some(NEEDS_ISOLATION);
            let note = attachment.and_then(|it| visible.notes.get(&it.device)).copied();
            let notes: Vec<&str> = note.into_iter().chain(shared).collect();
            PortStatus {
                note: (!notes.is_empty()).then(|| notes.join("; ")),
                captured: attachment.is_some_and(|it| visible.captured.contains(&it.device)),
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
        let stations = self.station_ports(&visible);
        let states = ports.iter().map(|port| (&port.name, &port.state));
        let states = states.chain(stations.iter().map(|port| (&port.device, &port.state)));
        Status {
            problems: problems(visible.ready, &vtep, states, visible.missing.values()),
            digest: visible.digest.clone(),
            control_restored: visible.control_restored,
            ready: visible.ready,
            host: snapshot.host.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            epoch: snapshot.epoch,
            uptime_s: self.started.elapsed().as_secs(),
            config: self.config.display().to_string(),
            reload_error: visible.reload_error,
            api_error: self.api.trouble(),
            vtep,
            dataplane: visible.dataplane,
            workers: self.shared.counters.len(),
            networks: snapshot.networks().len(),
            ports,
            flows: FlowCounts {
                replied: in_use.replied.into(),
                unreplied: in_use.unreplied.into(),
                made_room: self.made_room(),
            },
            helpers: self.helper_counts(),
            learned: self.count_learned(snapshot),
            excluded: excluded(snapshot),
            stations,
            settings_restored: visible.settings_restored,
            attached_by: visible.attached_by.to_owned(),
            restored: Restored { missing: visible.missing.into_values().collect(), ..visible.restored },
            memory: Memory {
                resident: resident_bytes(),
                policies: snapshot.networks().iter().map(|it| it.policy.stats().resident_bytes as u64).sum(),
            },
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
            decided_again: here.decided_again,
            rejects_told: here.rejects_told,
            rejects_limited: here.rejects_limited,
            would_deny: here.would_deny,
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

    pub(super) fn location_name(&self, location: Location) -> String {
        match location {
            Location::Local(port) => {
                let names = &lock(&self.state).names;
                names.get(&port).map_or_else(|| format!("port {}", port.0), |name| name.to_string())
            }
            Location::Remote(vtep) => vtep.to_string(),
        }
    }

    /// Why something of an endpoint is not in the hands of the kernel's programs.
    fn userspace_because(
        &self,
        snapshot: &Snapshot,
        network: &Network,
        endpoint: &Endpoint,
    ) -> Option<String> {
        if self.kernel.get().is_none() {
            return Some("the dataplane is userspace".to_owned());
        }
        let (address, why) = Eligibility::of(network).first_reason(&snapshot.site, endpoint)?;
        let of = address.map_or_else(String::new, |address| format!("{address}: "));
        Some(format!("{of}{}", why.because()))
    }

    fn endpoints(&self, snapshot: &Snapshot, filter: &Filter) -> Result<List<EndpointRow>, Failure> {
        let (part, ends) = (Part::of(filter)?, Ends::of(snapshot, filter)?);
        self.shared.count_stateless_elsewhere();
        let mut rows = Vec::new();
        let uncounted = self.shared.uncounted(snapshot);
        for network in networks(snapshot, filter) {
            let Some(config) = network.config() else { continue };
            for (endpoint, config_of) in network.endpoints().zip(config.endpoints.iter()) {
                let wanted = filter.mac.is_none_or(|mac| mac == endpoint.mac)
                    && ends.as_ref().is_none_or(|ends| ends.has(network.vni, endpoint))
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
                    port: endpoint.attachment().and(config_of.attachment.as_ref()).map(|it| it.to_string()),
                    mac: endpoint.mac,
                    addresses: endpoint.holdings().addresses.clone(),
                    groups: config_of.groups.iter().map(|group| group.to_string()).collect(),
                    learned: learned_of(network, endpoint),
                    excluded: network.rules.site().excludes(&network.tenant.name, &endpoint.name),
                    routed: network.kernel_entry.is_some() && endpoint.attachment().is_some(),
                    underlay_access: endpoint.sender.underlay_access,
                    userspace: self.userspace_because(snapshot, network, endpoint),
                    tx_frames: endpoint.state.tx_frames.load(Relaxed) + sent,
                    rx_frames: endpoint.state.rx_frames.load(Relaxed) + received,
                });
            }
        }
        Ok(part.cut(rows))
    }

    fn fdb(&self, snapshot: &Snapshot, filter: &Filter) -> Result<List<FdbRow>, Failure> {
        let (part, ends) = (Part::of(filter)?, Ends::of(snapshot, filter)?);
        let now = clock::now();
        let mut rows = Vec::new();
        for network in networks(snapshot, filter) {
            let configured = network.endpoints().map(|endpoint| FdbRow {
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
        rows.retain(|row: &FdbRow| {
            filter.mac.is_none_or(|mac| mac == row.mac)
                && filter.state.as_ref().is_none_or(|kind| *kind == row.kind)
                && ends.as_ref().is_none_or(|ends| ends.has_mac(row.vni, row.mac))
        });
        Ok(part.cut(rows))
    }

    /// Forgets learned entries.
    pub(super) fn fdb_flush(&self, filter: &Filter) -> Done {
        let snapshot = self.shared.snapshot_arc();
        let which = filter.mac.map_or(Flush::All, Flush::Mac);
        let networks =
            snapshot.learning_networks().filter(|network| filter.vni.is_none_or(|vni| vni == network.vni));
        let networks = networks.filter(|network| filter.scope.has(&network.tenant.name));
        let count = networks.map(|network| lock(&network.state.fdb).flush(which) as u64).sum();
        Done { count, epoch: snapshot.epoch, ..Done::default() }
    }

    /// A flow that began in the kernel is counted for its rules when it leaves.
    fn policy(&self, snapshot: &Snapshot, filter: &Filter) -> Result<List<PolicyRow>, Failure> {
        let part = Part::of(filter)?;
        let mut uncounted = Uncounted::new();
        self.shared.for_each_created(clock::now(), |flow| {
            if snapshot.network(flow.key.vni).is_some_and(|network| flow.epoch >= network.numbered) {
                for rule in [flow.egress_rule, flow.ingress_rule] {
                    *uncounted.entry((flow.key.vni, rule)).or_default() += 1;
                }
            }
        });
        Ok(policy(&networks(snapshot, filter), part, &uncounted))
    }
}

/// What keeps frames from passing that should pass. A port that is down or not there yet is its owner's business.
fn problems<'m>(
    ready: bool,
    vtep: &VtepStatus,
    ports: impl Iterator<Item = (&'m String, &'m String)>,
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
    let failed = ports.filter(|(_, state)| !matches!(&***state, "forwarding" | "down" | "absent"));
    problems.extend(failed.map(|(name, state)| format!("port {name}: {state}")));
    problems.extend(
        missing.map(|missing| format!("taken away by someone else, and not put back yet: {missing}")),
    );
    problems
}

/// Those that the filter and its scope leave.
fn networks<'s>(snapshot: &'s Snapshot, filter: &Filter) -> Vec<&'s Arc<Network>> {
    let mut networks = networks_of(snapshot, filter.vni);
    networks.retain(|network| filter.scope.has(&network.tenant.name));
    networks
}

/// One network, or all.
pub(super) fn networks_of(snapshot: &Snapshot, vni: Option<Vni>) -> Vec<&Arc<Network>> {
    match vni {
        Some(vni) => snapshot.network(vni).into_iter().collect(),
        None => snapshot.networks(),
    }
}

fn neighbors(snapshot: &Snapshot, filter: &Filter) -> Result<List<NeighborRow>, Failure> {
    let (part, ends) = (Part::of(filter)?, Ends::of(snapshot, filter)?);
    let mut rows = Vec::new();
    let now = clock::now();
    for network in networks(snapshot, filter) {
        let answered_with = |mac| match network.neighbors.answers {
            Answers::Off => None,
            Answers::Suppress => Some(mac),
            Answers::Proxy { mac } => Some(mac),
        };
        for endpoint in network.endpoints() {
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
    rows.retain(|row: &NeighborRow| {
        let is_of = |ends: &Ends<'_>| match &row.endpoint {
            Some(_) => ends.has_mac(row.vni, row.mac) || ends.has_address(row.vni, row.address),
            None => false,
        };
        filter.mac.is_none_or(|mac| mac == row.mac)
            && filter.address.is_none_or(|ip| row.address == ip.into())
            && filter.state.as_ref().is_none_or(|kind| *kind == row.kind)
            && ends.as_ref().is_none_or(is_of)
    });
    Ok(part.cut(rows))
}

/// Flows that rules have let in and that are not counted yet: by network and number of the rule.
type Uncounted = HashMap<(Vni, u32), u64>;

fn policy(networks: &[&Arc<Network>], part: Part, uncounted: &Uncounted) -> List<PolicyRow> {
    let rows = networks.iter().skip(part.from).map(|network| {
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
    let rows = part.fill(rows);
    List { next: part.next(rows.len(), networks.len()), rows, total: networks.len() }
}

fn groups(network: &Network, uncounted: &Uncounted) -> Vec<GroupRow> {
    let Some(config) = network.config() else { return Vec::new() };
    let mut members: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for endpoint in config.endpoints.iter() {
        // Whoever has rules by what a group includes is listed with them.
        let has = network.tenant.rules_of(endpoint).into_iter().map(|group| &group.name);
        for group in endpoint.groups.iter().chain(has).collect::<BTreeSet<_>>() {
            members.entry(group).or_default().push(endpoint.name.to_string());
        }
    }
    let tenant = &network.tenant;
    let row = |list: RuleList, members: Vec<String>, ingress: &[Rule], egress: &[Rule]| {
        let written = [(Direction::Ingress, ingress), (Direction::Egress, egress)];
        let rules = written.into_iter().flat_map(|(direction, rules)| {
            let numbers = network.rules.numbers(&list, direction);
            rules.iter().zip(numbers).filter_map(|(rule, id)| rule_row(network, rule, *id, uncounted))
        });
        let rules = rules.collect();
        GroupRow { group: list.name(&tenant.name), members, rules }
    };
    let groups = tenant.groups.values().map(|group| {
        let members = members.remove(&*group.name).unwrap_or_default();
        row(RuleList::Group(group.name.clone()), members, &group.ingress, &group.egress)
    });
    let mut rows: Vec<GroupRow> = groups.collect();
    rows.extend(network.rules.templates(tenant).map(|template| {
        let list = RuleList::Template(template.name.clone());
        row(list, Vec::new(), &template.ingress, &template.egress)
    }));
    rows.extend(network.rules.policies(tenant).map(|(owner, policy)| {
        let applies =
            |it: &&Arc<eastgate_config::Endpoint>| policy.applies_to(&tenant.name, &config.name, it);
        let members = config.endpoints.iter().filter(applies).map(|it| it.name.to_string());
        let list = RuleList::Policy(owner, policy.name.clone());
        row(list, members.collect(), &policy.ingress, &policy.egress)
    }));
    rows
}

fn rule_row(network: &Network, rule: &Rule, id: u32, uncounted: &Uncounted) -> Option<RuleRow> {
    let name = network.rules.reference(&network.tenant.name, id)?;
    Some(RuleRow {
        rule: name.rule,
        at: name.at,
        text: trace::rule_text(rule),
        flows: network.counts.get(id).flows + uncounted.get(&(network.vni, id)).copied().unwrap_or_default(),
    })
}
