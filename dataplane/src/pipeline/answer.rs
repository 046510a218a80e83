//! Step 2: ARP and ND are answered here, passed on, or dropped; and an answer is left to whoever can give it again without
//! asking.

use std::sync::atomic::Ordering::Relaxed;

use eastgate_steering::{
    Answer, Claim, Conflict, Learn, Onward, Question, Requester, answer, claim, question, request,
};
use eastgate_vtep::peers::PeerKind;
use eastgate_wire::{
    Addr, AttachmentId, DropReason, EndpointId, Frame, Holdings, Instant, Location, MacAddr, Offload, View,
    Vni,
};

use super::{
    Arrival, Outcome, Pipeline, Refusal, Shared,
    batch::{AfterSend, Batch},
    holders::Neighbors,
    members::ToPorts,
    shared::lock,
};
use crate::snapshot::Endpoint;

/// What step 2 made of a frame.
pub(super) enum Asked {
    /// It is no ARP or ND.
    No,
    /// It is, and goes on like any frame.
    Neighbor,
    /// It ends here.
    Done(Outcome),
}

/// What a request was answered with, and what it was made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AnswerOffer {
    /// Where it came in
    pub attachment: AttachmentId,
    /// Its network
    pub vni: Vni,
    /// The endpoint that asked
    pub sender: EndpointId,
    /// The MAC that asked
    pub mac: MacAddr,
    /// What it asked
    pub question: Question,
    /// The snapshot that it was given under
    pub epoch: u32,
    /// [`super::offload::FlowOffload::generation`] when it was answered
    pub generation: u32,
    /// The answer, as a frame
    pub reply: Vec<u8>,
}

/// A request that was answered, and whose answer was left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inquiry {
    /// Where it came in
    pub attachment: AttachmentId,
    /// The MAC that asked
    pub mac: MacAddr,
    /// What it asked
    pub question: Question,
}

impl<'s> Pipeline<'s> {
    /// What the path does with a frame that may be ARP or ND.
    pub(super) fn answer(
        &mut self,
        arrival: &Arrival<'s>,
        view: &View,
        frame: &mut Frame<'_>,
        now: Instant,
        out: &mut Batch,
    ) -> Result<Asked, Refusal> {
        let network = arrival.network;
        self.choose_named(arrival, view, frame, now);
        let said = self.say(arrival, view, frame, now);
        if matches!(said, Answer::NotNeighbor) {
            if !self.is_probe {
                self.hear_traffic(arrival, view, now);
                self.snoop_traffic(arrival, view, now);
            }
            return Ok(Asked::No);
        }
        if said.is_believed() && !self.is_probe {
            let claim = claim(frame.bytes(), view);
            self.hear(arrival, view.src, claim.map(|claim| claim.address), now);
            if network.learns() {
                self.learn_neighbor(arrival, claim, now);
            }
            self.snoop_neighbor(arrival, view, frame, now);
        }
        match said {
            Answer::NotNeighbor => Ok(Asked::No),
            Answer::Drop(reason) => Err(reason.into()),
            Answer::Pass => Ok(Asked::Neighbor),
            Answer::Elsewhere => Ok(Asked::Done(Outcome::Consumed)),
            Answer::Reply => {
                self.take_answer_token(arrival, now)?;
                if self.ask_kernel(arrival, view, frame, out) {
                    return Ok(Asked::Done(Outcome::Consumed));
                }
                self.send_back(arrival, out);
                out.after_send(self.answer_offer(arrival, view, frame).map(AfterSend::CacheReply));
                Ok(Asked::Done(Outcome::Consumed))
            }
            Answer::Ask => {
                self.take_answer_token(arrival, now)?;
                self.take_bum_token(network, now)?;
                self.flood_ports(arrival, view, out);
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
                self.report_conflict(arrival, &conflict, view, frame, out);
                Err(if view.ip().is_some() { DropReason::NdSpoofed } else { DropReason::ArpSpoofed }.into())
            }
        }
    }

    /// What is said to a frame that may be ARP or ND. A reply is in `made`.
    fn say(&mut self, arrival: &Arrival<'s>, view: &View, frame: &Frame<'_>, now: Instant) -> Answer {
        let network = arrival.network;
        let unknown_host = Holdings::new(view.src);
        let requester = Requester {
            origin: arrival.from,
            holdings: arrival.sender.map_or(&unknown_host, Endpoint::holdings),
            ownership: &network.directory.ownership,
            port_security: arrival.sender.is_some_and(|sender| sender.sender.port_security),
            behind_eastgate: match arrival.from {
                Location::Local(_) => false,
                Location::Remote(vtep) => network.peers.kind(vtep) == Some(PeerKind::Eastgate),
            },
        };
        let holders = lock(&network.state.holders);
        let learned = network.learns().then(|| lock(&network.state.learned));
        let neighbors = Neighbors { network, holders: &holders, learned: learned.as_deref(), now };
        answer(frame.bytes(), view, &requester, &neighbors, &network.neighbors, &mut self.made)
    }

    /// What a request is answered with now that was answered before, where it still is and the answer may be given again: as
    /// the request itself would be, but that nobody is sent anything, and nothing is counted.
    fn answer_to(&mut self, inquiry: &Inquiry, now: Instant) -> Option<AnswerOffer> {
        let (network, sender) = self.snapshot.at_attachment(inquiry.attachment)?;
        // Each request is heard there, and none is answered elsewhere.
        if network.learns() || sender.learning.is_some() {
            return None;
        }
        let arrival = Arrival { network, from: Location::Local(inquiry.attachment), sender: Some(sender) };
        let mut bytes = Vec::new();
        // Whoever it was sent to, where to one: that moves no answer.
        request(&inquiry.question, inquiry.mac, network.proxy_mac, &mut bytes);
        let end = bytes.len();
        let frame = Frame::new(&mut bytes, 0, end, Offload::default());
        let view = View::parse(frame.bytes()).ok()?;
        self.would_admit(&arrival, sender, &view, &frame).ok()?;
        let is_answered = self.say(&arrival, &view, &frame, now) == Answer::Reply;
        self.answer_offer(&arrival, &view, &frame).filter(|_| is_answered)
    }

    /// Takes one of the sender's tokens: eastgate works on its behalf.
    pub(super) fn take_answer_token(&self, arrival: &Arrival<'s>, now: Instant) -> Result<(), Refusal> {
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
        view: &View,
        frame: &mut Frame<'_>,
        out: &mut Batch,
    ) {
        tracing::warn!(vni = %arrival.network.vni, address = %conflict.address, owner = %conflict.owner.mac,
            claimant = %conflict.claimant, "two stations use one address");
        if conflict.reply {
            self.send_back(arrival, out);
        }
        let mut there = arrival.network.endpoints().filter(|it| it.location == conflict.owner.at);
        if conflict.tell_owner && there.all(|it| it.sender.tags.admit(view)) {
            self.deliver_copy(arrival, conflict.owner.at, frame, out);
        }
    }

    /// What it takes to give the answer just made again: it came of the configuration alone, and to a request of the
    /// regular form from a port. Where anything is learned from requests, each of them is to be heard.
    pub(super) fn answer_offer(
        &self,
        arrival: &Arrival<'s>,
        view: &View,
        frame: &Frame<'_>,
    ) -> Option<AnswerOffer> {
        let network = arrival.network;
        let (Location::Local(attachment), Some(sender)) = (arrival.from, arrival.sender) else { return None };
        if network.learns() || sender.learning.is_some() || view.tags != 0 {
            return None;
        }
        let question = question(frame.bytes(), view)?;
        if network.moves(question.target) {
            return None;
        }
        let generation = self.shared.fastpath.get()?.generation();
        Some(AnswerOffer {
            attachment,
            vni: network.vni,
            sender: sender.id,
            mac: view.src,
            question,
            epoch: network.compiled,
            generation,
            reply: self.made.clone(),
        })
    }
}

impl Shared {
    /// Makes answers anew that were left and have ended: with a daemon before, with a policy, or with what was true of ports and
    /// paths. Whoever asks again is answered while no daemon runs, as before; requests that are answered no longer are not.
    pub fn renew_answers(&self, now: Instant) {
        let Some(fastpath) = self.fastpath.get() else { return };
        let snapshot = self.snapshot_arc();
        let mut pipeline = Pipeline::new(self, &snapshot, 0);
        for inquiry in fastpath.ended_answers() {
            if let Some(offer) = pipeline.answer_to(&inquiry, now) {
                fastpath.renew_answer(&offer);
            }
        }
    }

    /// Leaves an answer, unless the policy that it was given under is in force no longer.
    pub(super) fn leave_answer(&self, offer: &AnswerOffer, now: Instant) {
        let snapshot = self.snapshot();
        let addresses = [offer.question.sender, offer.question.target];
        let network = snapshot.network(offer.vni).filter(|network| {
            offer.epoch >= network.decided_since([network.endpoint(offer.sender), None], addresses)
        });
        if let (Some(fastpath), Some(network)) = (self.fastpath.get(), network)
            && let Some(sender) = network.endpoint(offer.sender)
        {
            fastpath.answer(offer, &sender.state, now);
        }
    }
}
