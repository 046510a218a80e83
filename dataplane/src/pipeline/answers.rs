//! An answer to ARP or ND is left to whoever can give it again without asking.

use eastgate_steering::{Question, question};
use eastgate_wire::{AttachmentId, EndpointId, Frame, Instant, Location, MacAddr, View, Vni};

use super::{Arrival, Pipeline, Shared};

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
    /// The epoch of its network
    pub epoch: u32,
    /// [`super::offload::FlowOffload::generation`] when it was answered
    pub generation: u32,
    /// The answer, as a frame
    pub reply: Vec<u8>,
}

impl<'s> Pipeline<'s> {
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
        if network.learns() || view.tags != 0 {
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
            epoch: network.epoch,
            generation,
            reply: self.made.clone(),
        })
    }
}

impl Shared {
    /// Leaves an answer, unless the policy that it was given under is in force no longer.
    pub(super) fn leave_answer(&self, offer: &AnswerOffer, now: Instant) {
        let snapshot = self.snapshot();
        let network = snapshot.network(offer.vni).filter(|network| network.epoch == offer.epoch);
        if let (Some(fastpath), Some(network)) = (self.fastpath.get(), network)
            && let Some(sender) = network.endpoint(offer.sender)
        {
            fastpath.answer(offer, &sender.state, now);
        }
    }
}
