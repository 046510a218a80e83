//! A version of the configuration that is tried beside the one in force: each flow that begins, and each packet that the rules
//! in force refuse, is held against its policies too, and what these would do otherwise is kept.

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
};

use eastgate_api::{Changes, Done, ErrorCode, Failure};
use eastgate_config::{Effective, Loader};
use eastgate_conntrack::{
    expect::Related,
    flow::{FlowFilter, FlowInfo, Happening},
};
use eastgate_dataplane::{
    attachments::Attachments,
    pipeline::{
        events::{Event, LATENESS},
        opinion::Opinion,
        shared::lock,
    },
    snapshot::{Endpoint, Snapshot, state::StateRegistry},
};
use eastgate_wire::{Addr, FlowKey, Instant, Vni, names, view::HeaderBits};

use super::{ConfigRefused, View, load, vdp::terms::Terms};
use crate::{changes, io::clock};

/// The most kinds of flows that are told apart.
const KINDS: usize = 4096;

/// A staged version, and what it would have done since.
pub(super) struct Staged {
    pub(super) path: PathBuf,
    pub(super) digest: String,
    pub(super) snapshot: Snapshot,
    pub(super) since: Instant,
    /// Flows that pass, and would be refused
    pub(super) refused: BTreeMap<Kind, Tally>,
    /// Flows that were held against it
    pub(super) flows: u64,
    /// Those of them that had just begun when it was staged
    just_begun: HashSet<FlowKey>,
    /// Those of [`Staged::refused`] that were not told apart: there were too many kinds
    pub(super) more: u64,
    /// Events that had been lost when it was staged
    pub(super) lost_before: u64,
}

/// Flows that differ in nothing that is told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Kind {
    pub(super) vni: Vni,
    pub(super) src: Addr,
    pub(super) dst: Addr,
    pub(super) proto: u8,
    /// Destination port; 0 without ports
    pub(super) port: u16,
    pub(super) says: Says,
}

/// What the staged version says of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Says {
    /// What its policies do
    Policy(Opinion),
    /// It does not have the network on this host.
    NoNetwork,
    /// No endpoint has this address any more.
    NoEndpoint(Addr),
}

/// How many there were of a kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tally {
    pub(super) flows: u64,
    pub(super) first_at: Instant,
    pub(super) last_at: Instant,
    /// One of them: its key, and when and by which rules it was admitted
    pub(super) example: FlowKey,
    pub(super) admitted: [u32; 3],
}

impl Staged {
    /// Loads a version for this host, and what is different in it from the one in force.
    fn read(path: &Path, view: &View) -> Result<(Self, Changes, Vec<String>), Failure> {
        let current = view.shared.snapshot_arc();
        let mut loader = Loader::new(path);
        let config = load(&mut loader, false).map_err(|ConfigRefused { text, diagnostics }| Failure {
            text,
            code: ErrorCode::Configuration,
            diagnostics: Some(diagnostics),
        })?;
        // It serves no port and knows of no flow: numbers and states are its own.
        let (mut registry, states) = (Attachments::default(), StateRegistry::new(config.limits));
        // What endpoints have learned they have under any version.
        let machines = view.desk.endpoints(&Terms::new(config.clone(), &current.host));
        let effective = Effective::new(config, current.learned_addresses(), machines, None);
        let config = effective.config();
        let snapshot = Snapshot::compile(config, &current.host, None, &mut registry, &states)
            .map_err(|error| Failure::new(ErrorCode::Configuration, error.to_string()))?;
        let warnings = loader.warnings().iter().map(|warning| format!("{}: {}", warning.at, warning.problem));
        let staged = Self {
            path: path.to_owned(),
            digest: effective.written().digest().to_string(),
            snapshot,
            since: clock::now(),
            refused: BTreeMap::new(),
            flows: 0,
            just_begun: HashSet::new(),
            more: 0,
            lost_before: view.shared.events_lost(),
        };
        Ok((staged, changes::between(&current.config, config), warnings.collect()))
    }

    /// What it says of a flow between two ends that `live` knows.
    pub(super) fn says(
        &self,
        live: &Snapshot,
        key: &FlowKey,
        icmp: Option<(u8, u8)>,
        header: HeaderBits,
        related: Option<Related>,
    ) -> Says {
        let Some(network) = self.snapshot.network(key.vni) else { return Says::NoNetwork };
        let mut ends = [None; 2];
        for (end, address) in ends.iter_mut().zip([key.src, key.dst]) {
            // Who has an address at the moment, only the version in force knows.
            let has_it = live.network(key.vni).and_then(|network| network.at_address(address));
            let Some((has_it, mac)) = has_it else {
                *end = network.at_address(address).map(|(endpoint, _)| endpoint);
                continue;
            };
            let same = network.by_mac(has_it.mac);
            let may_send = |it: &&Endpoint| {
                network.directory.ownership.may_send(it.holdings(), it.sender.port_security, mac, address)
            };
            *end = same.filter(may_send);
            if end.is_none() {
                return Says::NoEndpoint(address);
            }
        }
        Says::Policy(network.opinion(ends, key, icmp, header, related))
    }

    /// Had it begun too short a time before this was staged to be there by then for sure? It may be told of as an event too, or as that
    /// alone.
    fn had_just_begun(&self, flow: &FlowInfo) -> bool {
        flow.created + LATENESS >= self.since
    }

    /// Holds a flow that passes against it.
    fn hold(&mut self, live: &Snapshot, flow: &FlowInfo) {
        self.flows += 1;
        let says = self.says(live, &flow.key, None, flow.header, flow.related);
        if says.passes() {
            return;
        }
        let FlowKey { vni, src, dst, proto, dport, .. } = flow.key;
        let port = if names::has_ports(proto) { dport } else { 0 };
        let kind = Kind { vni, src, dst, proto, port, says };
        if self.refused.len() >= KINDS && !self.refused.contains_key(&kind) {
            self.more += 1;
            return;
        }
        let tally = self.refused.entry(kind).or_insert(Tally {
            flows: 0,
            first_at: flow.created,
            last_at: flow.created,
            example: flow.key,
            admitted: [flow.epoch, flow.egress_rule, flow.ingress_rule],
        });
        tally.flows += 1;
        tally.first_at = tally.first_at.min(flow.created);
        tally.last_at = tally.last_at.max(flow.created);
    }
}

impl Says {
    pub(super) const fn passes(&self) -> bool {
        matches!(self, Self::Policy(Opinion::Passes { .. }))
    }
}

impl View {
    /// Stages a version in place of the one before, and holds the flows that live against it. Takes as long as reading and compiling
    /// it, and as there are flows.
    pub(super) fn stage(&self, path: &Path) -> Result<Done, Failure> {
        let (staged, changes, warnings) = Staged::read(path, self)?;
        let (digest, epoch, since) = (staged.digest.clone(), staged.snapshot.epoch, clock::now());
        *lock(&self.staged) = Some(Staged { since, ..staged });
        // Those that begin from now on are told as events.
        let (live, mut count) = (self.shared.snapshot_arc(), 0);
        self.for_each_flow(&FlowFilter::default(), since, |flow| {
            let mut staged = lock(&self.staged);
            // Another one may have been staged meanwhile.
            if let Some(staged) = staged.as_mut().filter(|staged| staged.since == since)
                && flow.created < since
                && (!staged.had_just_begun(flow) || staged.just_begun.insert(flow.key))
            {
                staged.hold(&live, flow);
                count += 1;
            }
        });
        Ok(Done { count, epoch, digest: Some(digest), changes: Some(changes), warnings, ..Done::default() })
    }

    /// Throws the staged version away.
    pub(super) fn unstage(&self) -> Done {
        Done { count: u64::from(lock(&self.staged).take().is_some()), ..Done::default() }
    }

    /// Holds what has happened against the staged version.
    pub(super) fn compare_with_staged(&self, live: &Snapshot, events: &[Event]) {
        let mut staged = lock(&self.staged);
        let Some(staged) = staged.as_mut() else { return };
        for event in events {
            if let Event::Flow(event) | Event::Elsewhere(event) = event
                && event.what == Happening::Opened
                && (event.flow.created >= staged.since
                    || staged.had_just_begun(&event.flow) && staged.just_begun.insert(event.flow.key))
            {
                staged.hold(live, &event.flow);
            }
        }
    }

    /// The version in force is the staged one: there is nothing to compare any more.
    pub(super) fn note_in_force(&self, digest: &str) {
        lock(&self.staged).take_if(|staged| staged.digest == digest);
    }
}
