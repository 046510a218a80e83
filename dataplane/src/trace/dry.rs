//! A packet carried through the real path, on copies of its tables: the hosts of one network, compiled afresh for the
//! purpose, with what this host has learned and the flow that the packet may be of. Nothing of it is seen outside.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use eastgate_config::{Config, Name, Network as NetworkConfig, Tenant};
use eastgate_conntrack::{
    expect::Expectation,
    flow::{Admitted, Direction, FlowInfo, OnChange, Segment, StateSettings, Tracked},
};
use eastgate_steering::Title;
use eastgate_vtep::header;
use eastgate_wire::{DropReason, Frame, Instant, Location, MacAddr, Offload, View, Vni, VtepAddr};

use crate::{
    attachments::Attachments,
    pipeline::{
        Outcome, Pipeline, Shared,
        batch::{Batch, Egress, Origin},
        shared::lock,
        track::receiver_at,
    },
    snapshot::{Network, Snapshot, state::StateRegistry},
};

/// Bytes in front of a frame, as the receive buffers have them.
const HEAD_ROOM: usize = 64;
/// Datagrams that one packet may become before something is wrong.
const MOST: usize = 4096;

/// Where a packet comes in.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    /// At the port of the endpoint with this MAC, on its host
    Port { host: Name, mac: MacAddr },
    /// At a host, from a VTEP
    Tunnel { host: Name, from: VtepAddr },
}

/// What became of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Fate {
    /// Where it was dropped, and why, in the order in which it happened
    pub(super) drops: Vec<(Name, DropReason)>,
    /// The endpoints that got it, each with its host
    pub(super) delivered: Vec<(Name, Name)>,
    /// The plain VTEPs that got it
    pub(super) plain: Vec<Name>,
    /// From which host to which it went in the tunnel
    pub(super) tunnels: Vec<(Name, Name)>,
    /// The hosts that answered it themselves
    pub(super) answered: Vec<Name>,
    /// The kernel was given it to be routed.
    pub(super) routed: bool,
    /// It is a fragment, and stays until the first of its datagram has come.
    pub(super) waits: bool,
}

impl Fate {
    /// Nobody got it who was not eastgate itself.
    pub(super) fn is_answered_only(&self) -> bool {
        self.delivered.is_empty() && self.plain.is_empty()
    }

    /// Somebody got it, or it was answered.
    pub(super) fn arrived(&self) -> bool {
        !self.delivered.is_empty() || !self.plain.is_empty() || !self.answered.is_empty()
    }
}

/// The hosts of one network.
pub(super) struct Dry<'a> {
    live: &'a Snapshot,
    config: Arc<Config>,
    vni: Vni,
    now: Instant,
    hosts: BTreeMap<Name, Shared>,
    /// What a flow that lives looked like when it was opened: a frame each way, and whether its network's policy is still
    /// the one that let it in
    flow: Option<Opened>,
    /// What is expected that the packet would begin
    expected: Option<Expectation>,
}

/// A flow that is there already.
#[derive(Clone, Debug)]
pub(super) struct Opened {
    pub(super) info: FlowInfo,
    /// A packet of the way that opened it, and of the other way
    pub(super) frames: [Vec<u8>; 2],
    /// It was let in by the policy in force.
    pub(super) current: bool,
}

impl<'a> Dry<'a> {
    pub(super) fn new(
        live: &'a Snapshot,
        network: &Network,
        flow: Option<Opened>,
        expected: Option<Expectation>,
        now: Instant,
    ) -> Self {
        let config = Arc::new(reduced(&live.config, network));
        Self { live, config, vni: network.vni, now, hosts: BTreeMap::new(), flow, expected }
    }

    /// A packet on its way, and all that comes of it.
    pub(super) fn carry(&mut self, entry: Entry, frame: &[u8], offload: Offload) -> Result<Fate, String> {
        let mut fate = Fate::default();
        // What is still open in a tunnel, its end finds out.
        let at_port = matches!(entry, Entry::Port { .. });
        let mut offload = if at_port { offload } else { Offload::default() };
        let mut queue = VecDeque::from([match &entry {
            Entry::Port { .. } => (entry, frame.to_vec()),
            Entry::Tunnel { .. } => (entry, [&header::encode(self.vni)[..], frame].concat()),
        }]);
        let mut steps = 0;
        while let Some((entry, bytes)) = queue.pop_front() {
            steps += 1;
            if steps > MOST {
                return Err("the packet is multiplied without end".into());
            }
            let (host, sent) = self.step(entry, &bytes, std::mem::take(&mut offload), &mut fate)?;
            for (to, bytes) in sent {
                self.pass_on(&host, to, bytes, &mut fate, &mut queue);
            }
        }
        Ok(fate)
    }

    /// One host's part: the very path that its workers take.
    fn step(
        &mut self,
        entry: Entry,
        bytes: &[u8],
        offload: Offload,
        fate: &mut Fate,
    ) -> Result<(Name, Emitted), String> {
        let host = match &entry {
            Entry::Port { host, .. } | Entry::Tunnel { host, .. } => host.clone(),
        };
        self.prepare(&host)?;
        let shared = self.hosts.get(&host).ok_or("no such host")?;
        let snapshot = shared.snapshot_arc();
        let mut buffer = [&[0; HEAD_ROOM][..], bytes].concat();
        let end = buffer.len();
        let mut frame = Frame::new(&mut buffer, HEAD_ROOM, end, offload);
        let mut out = Batch::default();
        let mut pipeline = Pipeline::new(shared, &snapshot, 0);
        let outcome = match entry {
            Entry::Port { mac, .. } => {
                let port = snapshot.network(self.vni).and_then(|network| network.by_mac(mac)?.attachment());
                let port = port.ok_or_else(|| format!("{mac} has no port on {host}"))?;
                pipeline.handle_tenant(port, &mut frame, self.now, &mut out)
            }
            Entry::Tunnel { from, .. } => pipeline.handle_underlay(from, 0, &mut frame, self.now, &mut out),
        };
        drop(pipeline);
        match outcome {
            Outcome::Drop(reason) => fate.drops.push((host.clone(), reason)),
            Outcome::Consumed => fate.answered.push(host.clone()),
            Outcome::Wait => fate.waits = true,
            Outcome::Forward | Outcome::Flood => {}
        }
        // What eastgate says itself (an ICMP error, an answer) goes back and is no part of the packet's way.
        let own = matches!(outcome, Outcome::Drop(_) | Outcome::Consumed);
        let emits = out.emits().iter().filter(|_| !own).map(|emit| {
            let from = if emit.origin == Origin::Made { out.made() } else { &buffer };
            let range = emit.range.start as usize..emit.range.end as usize;
            (emit.to, from.get(range).unwrap_or_default().to_vec())
        });
        Ok((host, emits.collect()))
    }

    fn pass_on(
        &self,
        host: &Name,
        to: Egress,
        bytes: Vec<u8>,
        fate: &mut Fate,
        queue: &mut VecDeque<(Entry, Vec<u8>)>,
    ) {
        match to {
            Egress::Attachment(attachment) => {
                let snapshot = self.hosts.get(host).map(Shared::snapshot_arc);
                let Some(snapshot) = &snapshot else { return };
                let by_route = || {
                    let network = snapshot.routed_by(attachment)?;
                    network.by_address(View::parse(&bytes).ok()?.ip()?.dst)
                };
                let at = snapshot.at_attachment(attachment).map(|(_, endpoint)| endpoint);
                let routed = if at.is_none() { by_route() } else { None };
                fate.routed |= routed.is_some();
                let to = at.or(routed);
                fate.delivered.extend(to.map(|endpoint| (host.clone(), endpoint.name.clone())));
            }
            Egress::Tunnel(tunnel) => {
                let Some(sender) = self.config.host(host) else { return };
                let members = self.config.hosts.values().filter(|other| match tunnel.to.is_multicast() {
                    true => other.vtep != sender.vtep && self.has_part(&other.name),
                    false => other.vtep.0 == tunnel.to,
                });
                for other in members {
                    fate.tunnels.push((host.clone(), other.name.clone()));
                    if other.runs_eastgate() {
                        let entry = Entry::Tunnel { host: other.name.clone(), from: sender.vtep };
                        queue.push_back((entry, bytes.clone()));
                    } else {
                        fate.plain.push(other.name.clone());
                    }
                }
            }
        }
    }

    fn has_part(&self, host: &str) -> bool {
        self.config.networks_of(host).any(|(_, network)| network.vni == self.vni)
    }

    /// Compiles a host as it is when the packet comes.
    fn prepare(&mut self, host: &Name) -> Result<(), String> {
        if self.hosts.contains_key(host) {
            return Ok(());
        }
        let states = Arc::new(StateRegistry::new(self.config.limits));
        let mut registry = Attachments::default();
        let snapshot = Snapshot::compile(&self.config, host, None, &mut registry, &states);
        let shared = Shared::new(snapshot.map_err(|error| error.to_string())?, states, 1);
        // How large packets may be is no matter of this one.
        shared.link_mtu.store(u32::from(u16::MAX), Relaxed);
        self.hold(&shared);
        if *host == self.live.host {
            self.learn(&shared);
        }
        if let Some(flow) = &self.flow {
            self.open(&shared, flow);
        }
        if let Some(expected) = &self.expected {
            shared.expect(expected, self.now);
        }
        self.hosts.insert(host.clone(), shared);
        Ok(())
    }

    /// Who holds which address that moves, which all hosts are told.
    fn hold(&self, shared: &Shared) {
        let snapshot = shared.snapshot_arc();
        let (Some(live), Some(dry)) = (self.live.network(self.vni), snapshot.network(self.vni)) else {
            return;
        };
        for (address, holder) in lock(&live.state.holders).entries() {
            let title = if !dry.directory.ownership.sharers(address).is_empty() {
                Title::Named
            } else if address.is_link_local() && !address.is_v4() {
                Title::Chosen
            } else {
                Title::InPrefix
            };
            let _ = lock(&dry.state.holders).hear(address, title, holder, self.now);
        }
    }

    /// What this host has learned, at the places that it calls otherwise there.
    fn learn(&self, shared: &Shared) {
        let snapshot = shared.snapshot_arc();
        let (Some(live), Some(dry)) = (self.live.network(self.vni), snapshot.network(self.vni)) else {
            return;
        };
        let place = |at: Location| match at {
            Location::Local(port) => {
                let (_, endpoint) = self.live.at_attachment(port)?;
                Some(dry.by_mac(endpoint.mac)?.location)
            }
            remote => Some(remote),
        };
        for entry in lock(&live.state.fdb).entries(self.now) {
            if let Some(at) = place(entry.location) {
                let _ = lock(&dry.state.fdb).learn(entry.mac, at, self.now);
            }
        }
        for entry in lock(&live.state.learned).entries(self.now) {
            if let Some(at) = place(entry.at) {
                let _ = lock(&dry.state.learned).learn(entry.address, entry.mac, at, &**dry, self.now);
            }
        }
    }

    /// The flow, as it is on the hosts that know it.
    fn open(&self, shared: &Shared, flow: &Opened) {
        let snapshot = shared.snapshot_arc();
        let Some(network) = snapshot.network(self.vni) else { return };
        let [Some(opening), Some(reply)] = flow.frames.each_ref().map(|frame| segment(self.vni, frame))
        else {
            return;
        };
        let (mut opening, mut reply) = (opening, reply);
        let macs =
            flow.frames.each_ref().map(|frame| View::parse(frame).map_or(MacAddr::ZERO, |view| view.src));
        let [from, to] = macs.map(|mac| network.by_mac(mac));
        opening.key = network.on_leg(opening.key, from, to);
        reply.key = network.on_leg(reply.key, to, from);
        // Let in by another policy, it is decided again, as it is there; where flows are kept, it is not.
        let stands = flow.current || network.tracking.on_change == OnChange::Keep;
        // Which of its ends keep no state of it is found out by deciding.
        let stateless = [from, to].into_iter().flatten().any(|end| network.policy.is_stateless(end.id));
        let epoch = if stands && !stateless { network.epoch } else { 0 };
        let admitted =
            Admitted { epoch, egress_rule: u32::MAX, ingress_rule: u32::MAX, stateless: [false; 2] };
        let loose = StateSettings { loose: true, ..network.tracking };
        let account = from.map_or(&network.state.unknown_hosts, |opener| &opener.state.flows);
        let mut flows = shared.flows(&opening.key);
        let Ok(hit) = flows.open(&opening, &admitted, &loose, account, self.now) else { return };
        let receiver = |mac: MacAddr| if network.by_mac(mac).is_some() { receiver_at(mac) } else { 1 };
        flows.set_hint(hit.flow, Direction::Original, receiver(macs[1]));
        flows.set_hint(hit.flow, Direction::Reply, receiver(macs[0]));
        flows.relate(hit.flow, flow.info.related);
        if flow.info.replied {
            let answered = flows.track(&reply, &loose, epoch, self.now);
            debug_assert!(matches!(answered, Tracked::Pass(_)), "{answered:?}");
        }
    }
}

fn segment(vni: Vni, frame: &[u8]) -> Option<Segment> {
    let view = View::parse(frame).ok()?;
    Segment::of(vni, view.ip()?, 1, frame.len() as u32)
}

/// Frames that a host has sent, and where to.
type Emitted = Vec<(Egress, Vec<u8>)>;

/// The configuration with one network to be compiled; the tenant's others, and those of tenants that share something with it,
/// are known by their groups' members.
pub(super) fn reduced(config: &Config, network: &Network) -> Config {
    let without_hosts = |tenant: &Tenant, but: Option<&Name>| {
        let mut tenant = tenant.clone();
        for (name, other) in &mut tenant.networks {
            if but != Some(name) {
                *other = NetworkConfig { members: Vec::new(), ..other.clone() };
            }
        }
        (tenant.name.clone(), Arc::new(tenant))
    };
    let others = network.rules.others().map(|other| without_hosts(other, None));
    let tenants = others.chain([without_hosts(&network.tenant, Some(&network.key))]).collect();
    Config {
        tenants,
        site: config.site.clone(),
        hosts: config.hosts.clone(),
        overlay: config.overlay.clone(),
        ..*config
    }
}
