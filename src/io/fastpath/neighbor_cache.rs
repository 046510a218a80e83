//! Answers to ARP and ND that the programs give again.
//!
//! Each costs one of the asker's tokens, as it would in the pipeline: an answer is left together with some of them, and
//! when they are used up, the next request is punted. Tokens of an answer that goes away unused are lost.

use eastgate_dataplane::{
    pipeline::{answer::AnswerOffer, shared::lock},
    snapshot::state::EndpointState,
};
use eastgate_fastpath::{ANSWER_MAX, Answer, FORM_NAMES_MAC, FORM_ND, FORM_TO_ALL, NeighborKey, address};
use eastgate_wire::Instant;

use super::{KernelPath, Tables};

impl KernelPath {
    pub(super) fn leave_answer(&self, offer: &AnswerOffer, sender: &EndpointState, now: Instant) {
        // Locked until it is written: what it was held against stays in force as long.
        let mut tables = lock(&self.tables);
        let Some((since, key, mut answer)) = self.answer_for(&mut tables, offer) else { return };
        // One that stands has tokens that would be lost.
        if self
            .written(self.fastpath.answer(&key))
            .flatten()
            .is_some_and(|standing| stands(&standing, &answer, since))
        {
            return;
        }
        let credit = sender.take_answer_credit(now);
        if credit == 0 {
            return;
        }
        tables.credits = tables.credits.wrapping_add(1);
        answer.credit = u64::from(tables.credits) << 32 | u64::from(credit);
        self.written(self.fastpath.set_answer(&key, &answer));
    }

    /// Since which snapshot such answers stand, and what the programs are told.
    fn answer_for(&self, tables: &mut Tables, offer: &AnswerOffer) -> Option<(u32, NeighborKey, Answer)> {
        let vni = offer.vni;
        let network = tables.snapshot.as_ref()?.network(vni)?;
        let addresses = [offer.question.sender, offer.question.target];
        let since = network.decided_since([network.by_mac(offer.mac), None], addresses);
        let (epoch, generation) = (offer.epoch, offer.generation);
        if !tables.live || epoch < since || generation != tables.settings.generation {
            return None;
        }
        let attachment = tables.attachments.get(offer.attachment).filter(|open| open.is_of(vni))?.number;
        let key = NeighborKey {
            attachment,
            mac: offer.mac.0,
            form: form(offer),
            sender: address(offer.question.sender),
            target: address(offer.question.target),
        };
        let mut frame = [0; ANSWER_MAX];
        frame.get_mut(..offer.reply.len())?.copy_from_slice(&offer.reply);
        let network = self.network_place(tables, vni)?;
        let len = offer.reply.len() as u32;
        Some((since, key, Answer { network, epoch, generation, len, credit: 0, frame }))
    }
}

/// Would the programs still give it?
const fn stands(standing: &Answer, new: &Answer, since: u32) -> bool {
    standing.network == new.network
        && standing.epoch >= since
        && standing.generation == new.generation
        && standing.credit as u32 != 0
}

fn form(offer: &AnswerOffer) -> u16 {
    let question = &offer.question;
    let flag = |set: bool, flag: u16| if set { flag } else { 0 };
    flag(!question.target.is_v4(), FORM_ND)
        | flag(question.to_all, FORM_TO_ALL)
        | flag(question.names_mac, FORM_NAMES_MAC)
}
