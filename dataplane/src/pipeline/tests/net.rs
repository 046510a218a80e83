//! Hosts in virtual time, joined by an underlay that carries what their pipelines emit.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use eastgate_config::Config;
use eastgate_policy::rule::Source;
use eastgate_testkit::frames::finish;
pub(super) use eastgate_testkit::{frames::vxlan, parse};
use eastgate_vtep::offload::segment::segment;
use eastgate_wire::{AttachmentId, DropReason, Frame, Instant, Offload, View, VtepAddr};

use crate::{
    attachments::Attachments,
    pipeline::{
        Outcome, Pipeline, Shared,
        batch::{Batch, Egress, Origin, Tunnel},
        counters,
    },
    snapshot::{Snapshot, state::StateRegistry},
};

/// Bytes in front of a frame, as the receive buffers have them.
const HEAD_ROOM: usize = 64;

/// The hosts of a configuration and the underlay between them.
pub(super) struct Net {
    hosts: BTreeMap<String, Host>,
    now: Instant,
    lose: usize,
}

struct Host {
    vtep: IpAddr,
    registry: Attachments,
    /// None where a plain VTEP runs
    shared: Option<Shared>,
    /// Drops that the path returned, and copies of floods that it lost
    refused: u64,
}

/// What became of a frame and of all that followed from it.
#[derive(Default, Debug)]
pub(super) struct Fate {
    /// What tenant ports and plain VTEPs got, in order
    pub deliveries: Vec<Delivery>,
    /// Which hosts dropped something, and why
    pub drops: Vec<(String, DropReason)>,
    /// What travelled on the underlay, lost datagrams included
    pub datagrams: Vec<Datagram>,
}

#[derive(Debug)]
pub(super) struct Delivery {
    pub to: String,
    pub frame: Vec<u8>,
}

#[derive(Clone, Debug)]
pub(super) struct Datagram {
    pub from: IpAddr,
    pub to: IpAddr,
    pub tos: u8,
    pub ttl: Option<u8>,
    pub source: u16,
}

/// A row of a host's table of drops, in words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct DropRow {
    pub reason: DropReason,
    pub vni: Option<u32>,
    /// The endpoint whose rules refused it
    pub by: Option<String>,
    pub frames: u64,
}

enum Way {
    Attachment(AttachmentId),
    Underlay { from: IpAddr, tos: u8 },
}

struct Work {
    host: String,
    way: Way,
    bytes: Vec<u8>,
    offload: Offload,
}

struct Sent {
    bytes: Vec<u8>,
    offload: Offload,
    to: Egress,
    vni: eastgate_wire::Vni,
}

impl Net {
    /// The hosts of a configuration that is good.
    pub(super) fn new(text: &str) -> Self {
        Self::of(&parse(text))
    }

    /// Those of a configuration, with another policy than it says.
    pub(super) fn under(text: &str, policy: fn(Source) -> Source) -> Self {
        Self::compile(&parse(text), policy)
    }

    pub(super) fn of(config: &Arc<Config>) -> Self {
        Self::compile(config, |policy| policy)
    }

    fn compile(config: &Arc<Config>, policy: fn(Source) -> Source) -> Self {
        let host = |host: &eastgate_config::Host| {
            let mut registry = Attachments::default();
            let shared = host.runs_eastgate().then(|| {
                let states = Arc::new(StateRegistry::new(config.limits));
                let snapshot =
                    Snapshot::compile_under(config, &host.name, None, &mut registry, &states, policy)
                        .unwrap();
                Shared::new(snapshot, states, 1)
            });
            Host { vtep: host.vtep.0, registry, shared, refused: 0 }
        };
        let hosts = config.hosts.values().map(|h| (h.name.to_string(), host(h))).collect();
        Self { hosts, now: Instant::from_secs(1000), lose: 0 }
    }

    /// Puts another configuration in force on every host, as a reload does.
    pub(super) fn install(&mut self, config: &Arc<Config>) {
        let hosts: Vec<String> = self.hosts.keys().cloned().collect();
        hosts.iter().for_each(|host| self.install_on(host, config));
    }

    /// Likewise, on one of them.
    pub(super) fn install_on(&mut self, name: &str, config: &Arc<Config>) {
        let host = self.hosts.get_mut(name).unwrap();
        let Some(shared) = &host.shared else { return };
        let before = shared.snapshot_arc();
        let next =
            Snapshot::compile(config, name, Some(&before), &mut host.registry, &shared.states).unwrap();
        shared.install(next, self.now);
    }

    /// Compiles another configuration for every host, and throws away what comes of it, as a reload does that is refused.
    pub(super) fn compile_in_vain(&mut self, config: &Arc<Config>) {
        for (name, host) in &mut self.hosts {
            let Some(shared) = &host.shared else { continue };
            let before = shared.snapshot_arc();
            drop(Snapshot::compile(config, name, Some(&before), &mut host.registry, &shared.states).unwrap());
        }
    }

    /// Lets time go by.
    pub(super) fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        for host in self.hosts.values_mut() {
            let Some(shared) = &host.shared else { continue };
            let count = || dropped(shared).values().sum::<u64>();
            let before = count();
            shared.handle_timeout(0, self.now);
            host.refused += count() - before;
        }
    }

    pub(super) fn now(&self) -> Instant {
        self.now
    }

    /// The underlay loses the next datagrams.
    pub(super) fn lose(&mut self, datagrams: usize) {
        self.lose = datagrams;
    }

    pub(super) fn vtep(&self, host: &str) -> IpAddr {
        self.hosts[host].vtep
    }

    pub(super) fn shared(&self, host: &str) -> &Shared {
        self.hosts[host].shared.as_ref().unwrap()
    }

    pub(super) fn snapshot(&self, host: &str) -> Arc<Snapshot> {
        self.shared(host).snapshot_arc()
    }

    /// The endpoint puts a frame on its port.
    pub(super) fn send(&mut self, endpoint: &str, frame: impl AsRef<[u8]>) -> Fate {
        self.send_offloaded(endpoint, frame, Offload::default())
    }

    /// Likewise, and leaves some of the work to the device.
    pub(super) fn send_offloaded(
        &mut self,
        endpoint: &str,
        frame: impl AsRef<[u8]>,
        offload: Offload,
    ) -> Fate {
        let (host, port) = self.port_of(endpoint);
        self.run(Work { host, way: Way::Attachment(port), bytes: frame.as_ref().to_vec(), offload })
    }

    /// A datagram reaches a host's VXLAN port.
    pub(super) fn inject(&mut self, host: &str, from: IpAddr, tos: u8, payload: &[u8]) -> Fate {
        let way = Way::Underlay { from, tos };
        self.run(Work { host: host.into(), way, bytes: payload.to_vec(), offload: Offload::default() })
    }

    /// A plain VTEP sends a frame to a host.
    pub(super) fn encap_to(&mut self, host: &str, from: &str, vni: u32, frame: impl AsRef<[u8]>) -> Fate {
        let from = self.vtep(from);
        self.inject(host, from, 0, &vxlan(vni, frame.as_ref()))
    }

    /// The drops that a host has counted, by reason.
    pub(super) fn drops(&self, host: &str) -> Vec<DropRow> {
        let shared = self.shared(host);
        let snapshot = shared.snapshot_arc();
        let row = |(key, count): (counters::DropKey, counters::DropCount)| {
            let network = key.vni.and_then(|vni| snapshot.network(vni));
            let by = key.by.and_then(|id| Some(network?.endpoint(id)?.name.to_string()));
            DropRow { reason: key.reason, vni: key.vni.map(|vni| vni.get()), by, frames: count.frames }
        };
        counters::drops(&shared.counters, Vec::new()).into_iter().map(row).collect()
    }

    fn port_of(&self, endpoint: &str) -> (String, AttachmentId) {
        for (name, host) in &self.hosts {
            let Some(shared) = &host.shared else { continue };
            let snapshot = shared.snapshot_arc();
            let found = snapshot
                .attachments()
                .find(|(_, network, at)| is_named(endpoint, &network.tenant.name, &at.name));
            if let Some((port, _, _)) = found {
                return (name.clone(), port);
            }
        }
        panic!("no host has a port of {endpoint}");
    }

    fn run(&mut self, first: Work) -> Fate {
        let mut fate = Fate::default();
        self.drain(VecDeque::from([first]), &mut fate);
        fate
    }

    /// What hosts say of their own accord after a reload.
    pub(super) fn announcements(&mut self) -> Fate {
        let mut fate = Fate::default();
        let mut queue = VecDeque::new();
        let ours = self.hosts.iter().filter(|(_, host)| host.shared.is_some());
        let names: Vec<String> = ours.map(|(name, _)| name.clone()).collect();
        for host in names {
            let (shared, snapshot) = (self.shared(&host), self.snapshot(&host));
            let mut out = Batch::default();
            Pipeline::new(shared, &snapshot, 0).announce(&mut out);
            let sent = |emit: &crate::pipeline::batch::Emit| {
                let bytes = out.made()[emit.range.start as usize..emit.range.end as usize].to_vec();
                Sent { bytes, offload: emit.offload, to: emit.to, vni: emit.vni }
            };
            for sent in out.emits().iter().map(sent).collect::<Vec<_>>() {
                match sent.to {
                    Egress::Attachment(port) => fate.deliveries.push(self.deliver(&host, port, sent)),
                    Egress::Tunnel(tunnel) => self.carry(&host, tunnel, &sent, &mut fate, &mut queue),
                }
            }
        }
        self.drain(queue, &mut fate);
        fate
    }

    fn drain(&mut self, mut queue: VecDeque<Work>, fate: &mut Fate) {
        while let Some(work) = queue.pop_front() {
            assert!(fate.datagrams.len() < 1000, "a loop: {fate:?}");
            let host = work.host.clone();
            let (drops, sent) = self.step(work);
            fate.drops.extend(drops.into_iter().map(|reason| (host.clone(), reason)));
            for sent in sent {
                match sent.to {
                    Egress::Attachment(port) => fate.deliveries.push(self.deliver(&host, port, sent)),
                    Egress::Tunnel(tunnel) => self.carry(&host, tunnel, &sent, fate, &mut queue),
                }
            }
        }
    }

    /// What the path makes of a frame: why it is dropped (of a flood: copies that did not fit), and what is sent.
    fn step(&mut self, work: Work) -> (Vec<DropReason>, Vec<Sent>) {
        let now = self.now;
        let host = self.hosts.get_mut(&work.host).unwrap();
        let shared = host.shared.as_ref().unwrap();
        let snapshot = shared.snapshot_arc();
        let mut pipeline = Pipeline::new(shared, &snapshot, 0);
        let mut buffer = [&[0xee; HEAD_ROOM][..], &work.bytes].concat();
        let end = buffer.len();
        let mut frame = Frame::new(&mut buffer, HEAD_ROOM, end, work.offload);
        let mut out = Batch::default();
        let before = dropped(shared);
        let outcome = match work.way {
            Way::Attachment(port) => pipeline.handle_tenant(port, &mut frame, now, &mut out),
            Way::Underlay { from, tos } => {
                pipeline.handle_underlay(VtepAddr(from), tos, &mut frame, now, &mut out)
            }
        };
        // Beside what is returned, there are copies of a flood that did not fit, and fragments that have waited.
        let returned: Vec<DropReason> = match outcome {
            Outcome::Drop(reason) => vec![reason],
            Outcome::Forward | Outcome::Flood | Outcome::Consumed | Outcome::Wait => vec![],
        };
        let mut drops = Vec::new();
        for (reason, frames) in dropped(shared) {
            let new = frames - before.get(&reason).copied().unwrap_or(0);
            drops.extend(std::iter::repeat_n(reason, new as usize));
        }
        for reason in returned {
            assert!(drops.contains(&reason), "{reason} was returned and not counted");
        }
        let waited = |reason: &DropReason| reason.name().starts_with("fragment");
        assert!(
            drops.iter().filter(|reason| **reason != DropReason::TooBig && !waited(reason)).count() <= 1,
            "one frame, and {drops:?}"
        );
        host.refused += drops.len() as u64;
        let sent = out.emits().iter().map(|emit| {
            let from = if emit.origin == Origin::Made { out.made() } else { &buffer };
            let range = emit.range.start as usize..emit.range.end as usize;
            Sent { bytes: from[range].to_vec(), offload: emit.offload, to: emit.to, vni: emit.vni }
        });
        (drops, sent.collect())
    }

    /// No frame ever leaves at a port of another network: every test that delivers anything holds to this.
    fn deliver(&self, host: &str, port: AttachmentId, sent: Sent) -> Delivery {
        let snapshot = self.snapshot(host);
        let (network, endpoint) = snapshot.at_attachment(port).expect("a port that the snapshot knows");
        assert_eq!(network.vni, sent.vni, "a frame left at a port of another network");
        let alone = snapshot.config.tenants.len() == 1;
        let name = &endpoint.name;
        let to = if alone { name.to_string() } else { format!("{}/{name}", network.tenant.name) };
        let mut frame = sent.bytes;
        finish(&mut frame, &sent.offload);
        Delivery { to, frame }
    }

    fn carry(
        &mut self,
        host: &str,
        tunnel: Tunnel,
        sent: &Sent,
        fate: &mut Fate,
        queue: &mut VecDeque<Work>,
    ) {
        let from = self.vtep(host);
        let receivers: Vec<String> = self
            .hosts
            .iter()
            .filter(
                |(_, other)| {
                    if tunnel.to.is_multicast() { other.vtep != from } else { other.vtep == tunnel.to }
                },
            )
            .map(|(name, _)| name.clone())
            .collect();
        for payload in cut(sent) {
            let Tunnel { to, source, tos, ttl } = tunnel;
            fate.datagrams.push(Datagram { from, to, tos, ttl, source });
            if self.lose > 0 {
                self.lose -= 1;
                continue;
            }
            for receiver in &receivers {
                if self.hosts[receiver].shared.is_none() {
                    fate.deliveries.push(Delivery { to: receiver.clone(), frame: payload[8..].to_vec() });
                    continue;
                }
                let way = Way::Underlay { from, tos };
                let offload = Offload::default();
                queue.push_back(Work { host: receiver.clone(), way, bytes: payload.clone(), offload });
            }
        }
    }
}

/// Every drop that was returned was counted, once, and nothing else was.
impl Drop for Net {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        for (name, host) in &self.hosts {
            let Some(shared) = &host.shared else { continue };
            let counted: u64 =
                counters::drops(&shared.counters, Vec::new()).iter().map(|(_, count)| count.frames).sum();
            assert_eq!(counted, host.refused, "drops counted on {name}, and drops returned");
        }
    }
}

impl Fate {
    /// The one frame that went there.
    #[track_caller]
    pub(super) fn at(&self, name: &str) -> &[u8] {
        let [only] = self.all_at(name)[..] else { panic!("not one frame for {name}: {self}") };
        only
    }

    pub(super) fn all_at(&self, name: &str) -> Vec<&[u8]> {
        self.deliveries
            .iter()
            .filter(|delivery| delivery.to == name)
            .map(|delivery| &*delivery.frame)
            .collect()
    }

    pub(super) fn reached(&self, name: &str) -> bool {
        !self.all_at(name).is_empty()
    }
}

/// Who got it, then who dropped it and why: `db1, web2, ingress-denied at beta`.
impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut got: Vec<String> = self.deliveries.iter().map(|delivery| delivery.to.clone()).collect();
        got.sort();
        let mut lost: Vec<String> =
            self.drops.iter().map(|(host, reason)| format!("{reason} at {host}")).collect();
        lost.sort();
        got.append(&mut lost);
        f.write_str(&if got.is_empty() { "nobody".into() } else { got.join(", ") })
    }
}

impl PartialEq<&str> for Fate {
    fn eq(&self, text: &&str) -> bool {
        let seen = self.to_string();
        seen == *text
    }
}

/// Dropped frames by reason
fn dropped(shared: &Shared) -> BTreeMap<DropReason, u64> {
    let mut all = BTreeMap::new();
    for (key, count) in counters::drops(&shared.counters, Vec::new()) {
        *all.entry(key.reason).or_default() += count.frames;
    }
    all
}

/// What a sender makes of a frame for the tunnel: the datagrams of a GSO packet, or the one.
fn cut(sent: &Sent) -> Vec<Vec<u8>> {
    let Some(gso) = sent.offload.gso else {
        assert_eq!(sent.offload.checksum, None, "no datagram leaves with an unfinished checksum");
        return vec![sent.bytes.clone()];
    };
    let (header, inner) = sent.bytes.split_at(8);
    let mut out = Vec::new();
    let layout = segment(inner, &View::parse(inner).unwrap(), gso, header, &mut out).unwrap();
    out.chunks(layout.size).map(<[u8]>::to_vec).collect()
}

fn is_named(wanted: &str, tenant: &str, endpoint: &str) -> bool {
    wanted.split_once('/').map_or(wanted == endpoint, |(t, e)| t == tenant && e == endpoint)
}
