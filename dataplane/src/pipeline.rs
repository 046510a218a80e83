//! The packet's path, top to bottom: `Pipeline::tenant_path` for frames from a tenant port,
//! `Pipeline::underlay_path` for datagrams from another VTEP. Each step is one call.
//!
//! The pipeline composes `vtep`, `steering`, `policy` and `conntrack` over the tables of one [`Snapshot`]; it does no
//! I/O. Frames go in one by one with the time; what is to be sent comes out in a [`Batch`].

mod admit;
mod again;
pub mod answer;
pub mod batch;
pub mod counters;
mod decide;
mod elsewhere;
mod encap;
mod ending;
pub mod events;
mod forward;
pub mod helpers;
mod holders;
mod locate;
mod members;
pub mod offload;
pub mod opinion;
mod oversize;
pub mod probe;
mod reject;
mod routed;
mod ruling;
mod search;
pub mod shared;
pub mod snoop;
mod stateless;
#[cfg(test)]
mod tests;
mod torn;
pub mod track;
pub mod uncounted;

use std::sync::{Arc, atomic::Ordering::Relaxed};

use eastgate_conntrack::fragment::Waiting;
use eastgate_steering::claim;
use eastgate_vtep::{fdb::Location, header::VXLAN_LEN, vlan};
use eastgate_wire::{
    AttachmentId, DropReason, EndpointId, Frame, GsoKind, Holdings, Instant, View, Vni, VtepAddr,
};

use self::{
    answer::Asked,
    batch::Batch,
    counters::{Counters, DropKey, Subject, packet},
    shared::lock,
    track::Tracked,
};
pub use self::{locate::Destination, shared::Shared};
use crate::snapshot::{Endpoint, Network, Snapshot};

/// What became of a frame.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It goes to one place.
    Forward,
    /// It is BUM traffic.
    Flood,
    /// It ends here, and that is right: a request that was answered, or that nobody has to answer.
    Consumed,
    /// A fragment that waits for the first of its datagram.
    Wait,
    /// It ends here, for this reason.
    Drop(DropReason),
}

/// Why a frame ends, and whose rule it was where it was a rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The reason
    pub reason: DropReason,
    /// The endpoint whose policy refused
    pub by: Option<EndpointId>,
    /// The rule's number
    pub rule: Option<u32>,
    /// Its sender is to be told.
    pub reject: bool,
    /// Each packet that it is the end of is told of.
    pub log: bool,
}

impl From<DropReason> for Refusal {
    fn from(reason: DropReason) -> Self {
        Self { reason, by: None, rule: None, reject: false, log: false }
    }
}

/// A frame inside a network: where it came in, and from whom.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'s> {
    /// Its network
    pub network: &'s Arc<Network>,
    /// Where it came in
    pub from: Location,
    /// The endpoint that sent it; nothing when it is none that the configuration names
    pub sender: Option<&'s Endpoint>,
}

/// The path over one snapshot, for one batch of frames.
pub struct Pipeline<'s> {
    shared: &'s Shared,
    snapshot: &'s Snapshot,
    counters: &'s Counters,
    /// A frame that eastgate makes, before it goes into the batch
    made: Vec<u8>,
    /// Fragments whose first was decided just now
    released: Vec<(Vni, Waiting)>,
    /// The frame in hand is a probe's: it says nothing of where its sender is.
    is_probe: bool,
}

impl<'s> Pipeline<'s> {
    /// The path that worker `index` takes.
    #[must_use]
    pub fn new(shared: &'s Shared, snapshot: &'s Snapshot, index: usize) -> Self {
        let counters = &shared.counters[index.min(shared.counters.len() - 1)];
        Self { shared, snapshot, counters, made: Vec::new(), released: Vec::new(), is_probe: false }
    }

    /// Takes a frame from a tenant port.
    pub fn handle_tenant(
        &mut self,
        attachment: AttachmentId,
        frame: &mut Frame<'_>,
        now: Instant,
        out: &mut Batch,
    ) -> Outcome {
        self.counters.from_ports.fetch_add(1, Relaxed);
        let Some((network, endpoint)) = self.snapshot.at_attachment(attachment) else {
            if let Some(network) = self.snapshot.routed_by(attachment) {
                return self.hear_kernel(network, attachment, frame, now, out);
            }
            return self.refuse(Location::Local(attachment), DropReason::NotReady, now);
        };
        if self.shared.probes.any() {
            self.shared.probes.hear(attachment, frame.bytes(), now);
        }
        let arrival = Arrival { network, from: Location::Local(attachment), sender: Some(endpoint) };
        if frame.offload.gso.is_some()
            && let Some(outcome) = self.cut_tunneled(&arrival, endpoint, frame, now, out)
        {
            return outcome;
        }
        let before = frame.len();
        let outcome = match self.tenant_path(&arrival, endpoint, frame, now, out) {
            Ok(outcome) => outcome,
            Err(refusal) => self.drop_frame(&arrival, refusal, frame, before, now, out),
        };
        self.go_on_with_released(now, out);
        outcome
    }

    /// The way of a frame that a tenant sends.
    fn tenant_path(
        &mut self,
        arrival: &Arrival<'s>,
        sender: &'s Endpoint,
        frame: &mut Frame<'_>,
        now: Instant,
        out: &mut Batch,
    ) -> Result<Outcome, Refusal> {
        vlan::strip_priority(frame, arrival.network.encapsulation.vlan_aware);
        let mut view = View::parse(frame.bytes())?;
        // 1 admit
        self.admit(arrival, sender, &view, frame, now)?;
        if !self.is_probe {
            sender.state.is_heard(now);
        }
        // 2 answer
        let plain = match self.answer(arrival, &view, frame, now, out)? {
            Asked::Done(outcome) => return Ok(outcome),
            Asked::Neighbor => false,
            Asked::No => true,
        };
        // 3 locate
        let to = self.locate(arrival, &view, plain, now, out)?;
        // 4 track
        let Some(tracked) = self.track(arrival, &to, &view, frame, now)? else { return Ok(Outcome::Wait) };
        // 5 decide
        let settled = match tracked {
            Tracked::Passes(settled) => settled,
            Tracked::Undecided(undecided) => self.decide(arrival, undecided, frame, now)?,
        };
        self.snoop_dhcp(arrival, &to, &view, frame, now);
        // 7 forward, 8 encapsulate
        let (came, bytes) = ([view.dst, view.src], frame.len() as u64);
        let outcome = self.forward(arrival, &to, &mut view, frame, now, out)?;
        sender.state.sent(1, bytes);
        // 9 hand over
        self.hand_on(arrival, &to, settled.as_ref(), came, &view, now, out);
        Ok(outcome)
    }

    /// Takes a datagram from the underlay: the payload behind its UDP header. `tos` is of its outer header.
    pub fn handle_underlay(
        &mut self,
        from: VtepAddr,
        tos: u8,
        datagram: &mut Frame<'_>,
        now: Instant,
        out: &mut Batch,
    ) -> Outcome {
        self.counters.from_underlay.fetch_add(1, Relaxed);
        let before = datagram.len();
        // 1' decapsulate
        let (arrival, view) = match self.decapsulate(from, tos, datagram) {
            Ok(decapsulated) => decapsulated,
            Err((vni, reason)) => {
                let key = DropKey { vni, reason, from: Some(Location::Remote(from)), by: None, rule: None };
                let subject = match vni {
                    None => Subject::of_datagram(datagram.bytes()),
                    // Its VXLAN header is gone or not, as far as it got.
                    Some(vni) if datagram.len() < before => Subject::of_frame(vni, datagram.bytes()),
                    Some(vni) => {
                        Subject::of_frame(vni, datagram.bytes().get(VXLAN_LEN..).unwrap_or_default())
                    }
                };
                self.counters.drop_frame(key, before, Some(subject), now);
                return Outcome::Drop(reason);
            }
        };
        if datagram.offload.gso.is_some_and(|gso| gso.kind == GsoKind::Udp) {
            return self.cut_datagrams(&arrival, &view, datagram, now, out);
        }
        let outcome = match self.underlay_path(&arrival, view, datagram, now, out) {
            Ok(outcome) => outcome,
            Err(refusal) => self.drop_frame(&arrival, refusal, datagram, before, now, out),
        };
        self.go_on_with_released(now, out);
        outcome
    }

    /// The way of a frame that came through the tunnel.
    fn underlay_path(
        &mut self,
        arrival: &Arrival<'s>,
        mut view: View,
        frame: &mut Frame<'_>,
        now: Instant,
        out: &mut Batch,
    ) -> Result<Outcome, Refusal> {
        self.admit_and_learn(arrival, &view, frame, now)?;
        if let Some(sender) = arrival.sender {
            sender.state.is_heard(now);
        }
        // 2' answer
        let plain = match self.answer(arrival, &view, frame, now, out)? {
            Asked::Done(outcome) => return Ok(outcome),
            Asked::Neighbor => false,
            Asked::No => true,
        };
        // 3' locate
        let to = self.locate(arrival, &view, plain, now, out)?;
        // 4' track
        let Some(tracked) = self.track(arrival, &to, &view, frame, now)? else { return Ok(Outcome::Wait) };
        // 5' decide
        let settled = match tracked {
            Tracked::Passes(settled) => settled,
            Tracked::Undecided(undecided) => self.decide(arrival, undecided, frame, now)?,
        };
        self.snoop_dhcp(arrival, &to, &view, frame, now);
        // 7' forward, 8' encapsulate
        let came = [view.dst, view.src];
        let outcome = self.forward(arrival, &to, &mut view, frame, now, out)?;
        // 9' hand over
        self.hand_on(arrival, &to, settled.as_ref(), came, &view, now, out);
        Ok(outcome)
    }

    /// Counts a frame that does not get as far as a network.
    pub fn refuse(&self, from: Location, reason: DropReason, now: Instant) -> Outcome {
        let vni = match from {
            Location::Local(port) => self.snapshot.at_attachment(port).map(|(network, _)| network.vni),
            Location::Remote(_) => None,
        };
        self.counters.drop_frame(
            DropKey { vni, reason, from: Some(from), by: None, rule: None },
            0,
            None,
            now,
        );
        Outcome::Drop(reason)
    }

    fn drop_frame(
        &mut self,
        arrival: &Arrival<'s>,
        refusal: Refusal,
        frame: &Frame<'_>,
        bytes: usize,
        now: Instant,
        out: &mut Batch,
    ) -> Outcome {
        let vni = arrival.network.vni;
        let subject = Subject::of_frame(vni, frame.bytes());
        let Refusal { mut reason, by, rule, reject, log } = refusal;
        if matches!(reason, DropReason::IpSpoofed | DropReason::ArpSpoofed | DropReason::NdSpoofed)
            && let Ok(view) = View::parse(frame.bytes())
        {
            if self.snoop_refused(arrival, &view, frame, now) {
                reason = DropReason::Unlearned;
            } else {
                report_theft(arrival, &view, frame, now);
            }
        }
        let key = DropKey { vni: Some(vni), reason, from: Some(arrival.from), by, rule };
        if let Some(rule) = rule {
            arrival.network.counts.add(rule, &packet(bytes, now));
        }
        self.counters.drop_told(key, bytes, subject, now, log);
        tracing::trace!(%vni, %reason, from = ?arrival.from, ?subject, "dropped");
        if reject {
            self.tell_rejected(arrival, frame, now, out);
        }
        Outcome::Drop(reason)
    }
}

/// Says who has tried to use an address that is configured for others. At a limited rate: who forges one packet forges many.
fn report_theft(arrival: &Arrival<'_>, view: &View, frame: &Frame<'_>, now: Instant) {
    let network = arrival.network;
    let used = match view.ip() {
        Some(ip) if !ip.src.is_link_local() => Some(ip.src),
        _ => claim(frame.bytes(), view).map(|claim| claim.address),
    };
    let Some(address) = used else { return };
    let nobody = Holdings::new(view.src);
    let who = arrival.sender.map_or(&nobody, Endpoint::holdings);
    if network.directory.ownership.is_of_others(who, address) && lock(&network.state.thefts).take(now) {
        let owner = network.at_address(address).map(|(owner, _)| owner.name.to_string());
        let by = arrival.sender.map(|sender| sender.name.to_string());
        let vtep = match arrival.from {
            Location::Remote(vtep) => Some(vtep.to_string()),
            Location::Local(_) => None,
        };
        tracing::warn!(network = %network.name, %address, owner = owner.as_deref(), by = by.as_deref(), mac = %view.src,
            vtep = vtep.as_deref(), "somebody uses an address that is configured for another");
    }
}
