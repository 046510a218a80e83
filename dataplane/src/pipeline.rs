//! The packet's path, top to bottom: `Pipeline::tenant_path` for frames from a tenant port,
//! `Pipeline::underlay_path` for datagrams from another VTEP. Each step is one call.
//!
//! The pipeline composes `vtep`, `steering`, `policy` and `conntrack` over the tables of one [`Snapshot`]; it does no
//! I/O. Frames go in one by one with the time; what is to be sent comes out in a [`Batch`].

mod again;
pub mod answers;
pub mod batch;
pub mod counters;
mod decide;
mod elsewhere;
mod ending;
pub mod events;
mod forward;
mod holders;
mod members;
pub mod offload;
mod oversize;
pub mod shared;
#[cfg(test)]
mod tests;
pub mod track;

use std::sync::{Arc, atomic::Ordering::Relaxed};

use eastgate_conntrack::fragment::Waiting;
use eastgate_policy::admission::{self, Context};
use eastgate_steering::{Answer, Claim, Conflict, Learn, Onward, Requester, answer, claim};
use eastgate_vtep::{
    ecn::Ecn,
    encap::{self, Decapsulation},
    fdb::{Learned, Location},
    header::VXLAN_LEN,
    offload::{note_uncut, note_unfinished_checksum},
    peers::PeerKind,
    vlan,
};
use eastgate_wire::{
    Addr, AttachmentId, DropReason, EndpointId, Frame, GsoKind, Holdings, Instant, View, Vni, VtepAddr,
};

use self::{
    batch::Batch,
    counters::{Counters, DropKey, Subject},
    holders::Neighbors,
    members::ToPorts,
    shared::lock,
    track::Tracked,
};
pub use self::{forward::Destination, shared::Shared};
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
}

impl From<DropReason> for Refusal {
    fn from(reason: DropReason) -> Self {
        Self { reason, by: None, rule: None }
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
}

impl<'s> Pipeline<'s> {
    /// The path that worker `index` takes.
    #[must_use]
    pub fn new(shared: &'s Shared, snapshot: &'s Snapshot, index: usize) -> Self {
        let counters = &shared.counters[index.min(shared.counters.len() - 1)];
        Self { shared, snapshot, counters, made: Vec::new(), released: Vec::new() }
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
            return self.refuse(Location::Local(attachment), DropReason::NotReady, now);
        };
        let arrival = Arrival { network, from: Location::Local(attachment), sender: Some(endpoint) };
        if frame.offload.gso.is_some()
            && let Some(outcome) = self.cut_tunneled(&arrival, endpoint, frame, now, out)
        {
            return outcome;
        }
        let before = frame.len();
        let outcome = match self.tenant_path(&arrival, endpoint, frame, now, out) {
            Ok(outcome) => outcome,
            Err(refusal) => self.drop_frame(&arrival, refusal, frame, before, now),
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
        sender.state.is_heard(now);
        // 2 answer
        let plain = match self.answer(arrival, &view, frame, now, out)? {
            Asked::Done(outcome) => return Ok(outcome),
            Asked::Neighbor => false,
            Asked::No => true,
        };
        let to = self.find(arrival, &view, plain, now, out)?;
        // 3 track
        let Some(tracked) = self.track(arrival, &to, &view, frame, now)? else { return Ok(Outcome::Wait) };
        // 4 decide
        let settled = match tracked {
            Tracked::Passes(settled) => settled,
            Tracked::Undecided(undecided) => self.decide(arrival, undecided, now)?,
        };
        // 6 forward, 7 encapsulate
        let came = [view.dst, view.src];
        let outcome = self.forward(arrival, &to, &mut view, frame, now, out)?;
        sender.state.sent(1, frame.len() as u64);
        // 8 hand over
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
            Err(refusal) => self.drop_frame(&arrival, refusal, datagram, before, now),
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
        let to = self.find(arrival, &view, plain, now, out)?;
        // 3' track
        let Some(tracked) = self.track(arrival, &to, &view, frame, now)? else { return Ok(Outcome::Wait) };
        // 4' decide
        let settled = match tracked {
            Tracked::Passes(settled) => settled,
            Tracked::Undecided(undecided) => self.decide(arrival, undecided, now)?,
        };
        // 6' forward
        let came = [view.dst, view.src];
        let outcome = self.forward(arrival, &to, &mut view, frame, now, out)?;
        // 8' hand over
        self.hand_on(arrival, &to, settled.as_ref(), came, &view, now, out);
        Ok(outcome)
    }

    /// Takes the VXLAN header off and finds network and sender. The error names the network as far as it is
    /// known.
    fn decapsulate(
        &self,
        from: VtepAddr,
        tos: u8,
        datagram: &mut Frame<'_>,
    ) -> Result<(Arrival<'s>, View), (Option<Vni>, DropReason)> {
        let snapshot = self.snapshot;
        let mut found = None;
        let decapsulated = encap::decapsulate(datagram, from, Ecn::of_tos(tos), |vni| {
            let network = snapshot.network(vni)?;
            found = Some(network);
            Some(Decapsulation {
                peers: &network.peers,
                strict: network.strict_reserved,
                vlan_aware: network.encapsulation.vlan_aware,
                own_macs: std::slice::from_ref(&network.proxy_mac),
            })
        });
        let vni = found.map(|network: &Arc<Network>| network.vni);
        let decapsulated = decapsulated.map_err(|reason| (vni, reason))?;
        let view = decapsulated.view;
        let network = found.ok_or((None, DropReason::UnknownVni))?;
        // A VTEP on the same machine whose frames the kernel encapsulated left this to a device that they never met.
        note_unfinished_checksum(datagram, &view);
        note_uncut(datagram, &view, self.tenant_mtu(network, &view));
        let from = Location::Remote(from);
        Ok((Arrival { network, from, sender: network.sender_at(view.src, from) }, view))
    }

    /// Step 1: may this port send this frame?
    fn admit(
        &self,
        arrival: &Arrival<'s>,
        sender: &Endpoint,
        view: &View,
        frame: &Frame<'_>,
        now: Instant,
    ) -> Result<(), Refusal> {
        if view.src == arrival.network.proxy_mac {
            return Err(DropReason::BadSourceMac.into());
        }
        self.admit_sender(arrival, sender, view, frame, now)?;
        self.learn_nested(arrival, sender, view, now)
    }

    /// A machine behind an endpoint that may bridge for others is where that endpoint is.
    fn learn_nested(
        &self,
        arrival: &Arrival<'s>,
        sender: &Endpoint,
        view: &View,
        now: Instant,
    ) -> Result<(), Refusal> {
        let nested = !sender.sender.port_security && !sender.holdings().has_mac(view.src);
        if nested { self.learn_mac(arrival, view, now) } else { Ok(()) }
    }

    /// The checks of a sender that is configured.
    fn admit_sender(
        &self,
        arrival: &Arrival<'s>,
        sender: &Endpoint,
        view: &View,
        frame: &Frame<'_>,
        now: Instant,
    ) -> Result<(), Refusal> {
        let network = arrival.network;
        let chosen = self.has_chosen(network, sender, view, now);
        let (ownership, site) = (&network.ownership, &*self.snapshot.site);
        let context = Context { sender: &sender.sender, ownership, site, chosen };
        Ok(admission::admit(view, frame.bytes(), &context)?)
    }

    /// Step 1': an endpoint is heard only from the VTEP it is behind. Where that VTEP does not run eastgate,
    /// nobody has checked what it sends, so it is checked here. Unknown hosts are for networks that learn.
    fn admit_and_learn(
        &self,
        arrival: &Arrival<'s>,
        view: &View,
        frame: &Frame<'_>,
        now: Instant,
    ) -> Result<(), Refusal> {
        let network = arrival.network;
        let Location::Remote(from) = arrival.from else { return Ok(()) };
        match arrival.sender {
            Some(sender) if sender.location != arrival.from => Err(DropReason::MacSpoofed.into()),
            Some(sender) if network.peers.kind(from) == Some(PeerKind::Plain) => {
                self.admit_sender(arrival, sender, view, frame, now)?;
                self.learn_nested(arrival, sender, view, now)
            }
            // Its own host has checked what it sends.
            Some(sender) => {
                let _ = self.has_chosen(network, sender, view, now);
                self.learn_nested(arrival, sender, view, now)
            }
            // Behind one of several that may bridge for others there, whose host has checked what they send
            None if !network.learning
                && (network.peers.kind(from) != Some(PeerKind::Eastgate)
                    || network.unsecured_at(arrival.from).next().is_none()) =>
            {
                Err(DropReason::UnknownEndpoint.into())
            }
            None => {
                let (ownership, site) = (&network.ownership, &self.snapshot.site);
                admission::admit_unknown_host(view, frame.bytes(), network.max_tags(), ownership, site)?;
                self.learn_mac(arrival, view, now)
            }
        }
    }

    /// Where an unknown host's MAC is. A configured MAC never gets here.
    fn learn_mac(&self, arrival: &Arrival<'s>, view: &View, now: Instant) -> Result<(), Refusal> {
        let mut fdb = lock(&arrival.network.state.fdb);
        if let Learned::Moved(before) = fdb.learn(view.src, arrival.from, now)? {
            tracing::debug!(vni = %arrival.network.vni, mac = %view.src, ?before, to = ?arrival.from, "a MAC moved");
        }
        while let Some(frozen) = fdb.take_report() {
            tracing::warn!(vni = %arrival.network.vni, mac = %frozen.mac, kept = ?frozen.kept, refused = ?frozen.refused,
                "a MAC moved too often and is frozen");
        }
        Ok(())
    }

    /// Step 2: ARP and ND are answered here, passed on, or dropped.
    fn answer(
        &mut self,
        arrival: &Arrival<'s>,
        view: &View,
        frame: &mut Frame<'_>,
        now: Instant,
        out: &mut Batch,
    ) -> Result<Asked, Refusal> {
        let network = arrival.network;
        let unknown_host = Holdings::new(view.src);
        let requester = Requester {
            origin: arrival.from,
            holdings: arrival.sender.map_or(&unknown_host, Endpoint::holdings),
            ownership: &network.ownership,
            port_security: arrival.sender.is_some_and(|sender| sender.sender.port_security),
        };
        self.choose_named(arrival, view, frame, now);
        let said = {
            let holders = lock(&network.state.holders);
            let learned = network.learns().then(|| lock(&network.state.learned));
            let neighbors = Neighbors { network, holders: &holders, learned: learned.as_deref(), now };
            answer(frame.bytes(), view, &requester, &neighbors, &network.neighbors, &mut self.made)
        };
        if matches!(said, Answer::NotNeighbor) {
            self.hear_traffic(arrival, view, now);
            return Ok(Asked::No);
        }
        if said.is_believed() {
            let claim = claim(frame.bytes(), view);
            self.hear(arrival, view.src, claim.map(|claim| claim.address), now);
            if network.learns() {
                self.learn_neighbor(arrival, claim, now);
            }
        }
        match said {
            Answer::NotNeighbor => Ok(Asked::No),
            Answer::Drop(reason) => Err(reason.into()),
            Answer::Pass => Ok(Asked::Neighbor),
            Answer::Elsewhere => Ok(Asked::Done(Outcome::Consumed)),
            Answer::Reply => {
                self.take_answer_token(arrival, now)?;
                self.send_back(arrival, out);
                out.leave_answer(self.answer_offer(arrival, view, frame));
                Ok(Asked::Done(Outcome::Consumed))
            }
            Answer::Ask => {
                self.take_answer_token(arrival, now)?;
                self.take_bum_token(network, now)?;
                self.flood_ports(arrival, out);
                self.flood_overlay(arrival, view, frame, now, out)?;
                Ok(Asked::Done(Outcome::Flood))
            }
            Answer::Seek { target, reply } => {
                self.take_answer_token(arrival, now)?;
                let to_ports = if reply { ToPorts::Made } else { ToPorts::Frame };
                self.seek(arrival, target, to_ports, view, frame, now, out).map(Asked::Done)
            }
            Answer::Announce { news: false, address, .. } if !self.may_repeat(arrival, address, now) => {
                Err(DropReason::NeighborOwn.into())
            }
            Answer::Announce { onward, .. } => match onward {
                Onward::Everywhere => Ok(Asked::Neighbor),
                Onward::Overlay => {
                    self.take_bum_token(network, now)?;
                    self.flood_overlay(arrival, view, frame, now, out)?;
                    Ok(Asked::Done(Outcome::Flood))
                }
                Onward::Nowhere => Ok(Asked::Done(Outcome::Consumed)),
            },
            Answer::Conflict(conflict) => {
                self.take_answer_token(arrival, now)?;
                self.report_conflict(arrival, &conflict, frame, out);
                Err(if view.ip().is_some() { DropReason::NdSpoofed } else { DropReason::ArpSpoofed }.into())
            }
        }
    }

    /// Step 3. A packet for an address that moves and that nobody is known to have now is lost, and those who may have it are
    /// asked, so that the next one is not.
    fn find(
        &mut self,
        arrival: &Arrival<'s>,
        view: &View,
        plain: bool,
        now: Instant,
        out: &mut Batch,
    ) -> Result<Destination<'s>, Refusal> {
        let located = self.locate(arrival, view, plain, now);
        if let (Err(refusal), Some(ip)) = (&located, view.ip())
            && matches!(refusal.reason, DropReason::UnknownDestination | DropReason::NotForUs)
            && plain
            && arrival.network.moves(ip.dst)
        {
            self.ask_holders(arrival, ip.dst, view, now, out);
        }
        located
    }

    /// Takes one of the sender's tokens: eastgate works on its behalf.
    fn take_answer_token(&self, arrival: &Arrival<'s>, now: Instant) -> Result<(), Refusal> {
        let bucket = arrival
            .sender
            .map_or(&arrival.network.state.unknown_host_answers, |sender| &sender.state.answers);
        if !lock(bucket).take(now) {
            return Err(DropReason::NeighborLimit.into());
        }
        self.counters.answers.fetch_add(1, Relaxed);
        Ok(())
    }

    /// May the sender say again what is known? Others may have heard otherwise, or nothing. Each address that moves has an
    /// allowance of its own: a machine that takes many at once says so of all of them.
    fn may_repeat(&self, arrival: &Arrival<'s>, address: Option<Addr>, now: Instant) -> bool {
        let Some(sender) = arrival.sender else { return true };
        let moved = |address| lock(&arrival.network.state.holders).may_repeat(address, sender.mac, now);
        address.is_some_and(moved) || lock(&sender.state.announcements).take(now)
    }

    fn learn_neighbor(&self, arrival: &Arrival<'s>, claim: Option<Claim>, now: Instant) {
        if arrival.sender.is_some_and(|sender| sender.sender.port_security) {
            return;
        }
        let Some(claim) = claim else { return };
        let mut learned = lock(&arrival.network.state.learned);
        match learned.learn(claim.address, claim.mac, arrival.from, &**arrival.network, now) {
            Learn::Frozen { first: true } => {
                tracing::warn!(vni = %arrival.network.vni, address = %claim.address, mac = %claim.mac,
                    "an address moved too often and is frozen");
            }
            Learn::Moved { mac, at } => {
                tracing::info!(vni = %arrival.network.vni, address = %claim.address, mac = %claim.mac,
                    had = %mac, was_at = ?at, "an address moved");
            }
            _ => {}
        }
    }

    /// Two stations use one address: both are told, and so are the people who run this.
    fn report_conflict(
        &mut self,
        arrival: &Arrival<'s>,
        conflict: &Conflict,
        frame: &mut Frame<'_>,
        out: &mut Batch,
    ) {
        tracing::warn!(vni = %arrival.network.vni, address = %conflict.address, owner = %conflict.owner.mac,
            claimant = %conflict.claimant, "two stations use one address");
        if conflict.reply {
            self.send_back(arrival, out);
        }
        if conflict.tell_owner {
            self.deliver_copy(arrival, conflict.owner.at, frame, out);
        }
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
        &self,
        arrival: &Arrival<'s>,
        refusal: Refusal,
        frame: &Frame<'_>,
        bytes: usize,
        now: Instant,
    ) -> Outcome {
        let vni = arrival.network.vni;
        let subject = Subject::of_frame(vni, frame.bytes());
        let Refusal { reason, by, rule } = refusal;
        if matches!(reason, DropReason::IpSpoofed | DropReason::ArpSpoofed | DropReason::NdSpoofed)
            && let Ok(view) = View::parse(frame.bytes())
        {
            report_theft(arrival, &view, frame, now);
        }
        let key = DropKey { vni: Some(vni), reason, from: Some(arrival.from), by, rule };
        self.counters.drop_frame(key, bytes, Some(subject), now);
        tracing::trace!(%vni, %reason, from = ?arrival.from, ?subject, "dropped");
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
    if network.ownership.is_of_others(who, address) && lock(&network.state.thefts).take(now) {
        let owner = network.at_address(address).map(|(owner, _)| owner.name.to_string());
        let by = arrival.sender.map(|sender| sender.name.to_string());
        tracing::warn!(network = %network.name, %address, ?owner, ?by, mac = %view.src, from = ?arrival.from,
            "somebody uses an address that is configured for another");
    }
}

/// What step 2 made of a frame.
enum Asked {
    /// It is no ARP or ND.
    No,
    /// It is, and goes on like any frame.
    Neighbor,
    /// It ends here.
    Done(Outcome),
}
