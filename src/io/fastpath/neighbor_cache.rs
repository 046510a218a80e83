//! Answers to ARP and ND that the programs give again.
//!
//! Each costs one of the asker's tokens, as it would in the pipeline: an answer is left together with some of them, and
//! when they are used up, the next request is punted. Tokens of an answer that goes away unused are lost.

use std::collections::{HashMap, HashSet};

use eastgate_dataplane::{
    pipeline::{
        answer::{AnswerOffer, Inquiry},
        shared::lock,
    },
    snapshot::state::EndpointState,
};
use eastgate_fastpath::{ANSWER_MAX, Answer, FORM_NAMES_MAC, FORM_ND, FORM_TO_ALL, NeighborKey, address};
use eastgate_steering::responder::Question;
use eastgate_wire::{Addr, AttachmentId, Instant, MacAddr};

use super::{KernelPath, Tables};

/// How often a table is walked that changes meanwhile
const WALKS: usize = 4;

impl KernelPath {
    pub(super) fn leave_answer(&self, offer: &AnswerOffer, sender: &EndpointState, now: Instant) {
        // Locked until it is written: what it was held against stays in force as long.
        let mut tables = lock(&self.tables);
        let Some((since, key, answer)) = self.answer_for(&mut tables, offer) else { return };
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
        self.set_answer(&mut tables, &key, answer, credit);
    }

    fn set_answer(&self, tables: &mut Tables, key: &NeighborKey, answer: Answer, tokens: u32) {
        tables.credits = tables.credits.wrapping_add(1);
        let answer = Answer { credit: credit_of(tables.credits, tokens), ..answer };
        self.written(self.fastpath.set_answer(key, &answer));
    }

    /// Requests that answers were left for, where a generation or a snapshot has come into force since this was asked last:
    /// that may have ended them.
    pub(super) fn find_ended_answers(&self) -> Vec<Inquiry> {
        let (in_force, by_number): (_, HashMap<u32, AttachmentId>) = {
            let tables = lock(&self.tables);
            let in_force = (tables.settings.generation, tables.snapshot.as_ref().map_or(0, |it| it.epoch));
            if !tables.live || tables.answers_renewed == Some(in_force) {
                return Vec::new();
            }
            (in_force, tables.attachments.numbers().collect())
        };
        let mut keys = HashSet::new();
        // A key that goes while the table is walked leads back to its beginning.
        for _ in 0..WALKS {
            let before = keys.len();
            keys.extend(self.fastpath.answered());
            if keys.len() == before {
                break;
            }
        }
        lock(&self.tables).answers_renewed = Some(in_force);
        let inquiry = |key: NeighborKey| {
            let attachment = *by_number.get(&key.attachment)?;
            Some(Inquiry { attachment, mac: MacAddr(key.mac), question: question(&key) })
        };
        keys.into_iter().filter_map(inquiry).collect()
    }

    /// An answer goes on in the place of one that has ended. Nobody takes tokens of that one meanwhile.
    pub(super) fn renew_answer_for(&self, offer: &AnswerOffer) {
        let mut tables = lock(&self.tables);
        let Some((since, key, answer)) = self.answer_for(&mut tables, offer) else { return };
        let Some(ended) = self.written(self.fastpath.answer(&key)).flatten() else { return };
        if !stands(&ended, &answer, since) && !is_used_up(ended.credit) {
            self.set_answer(&mut tables, &key, answer, tokens(ended.credit));
        }
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
        && !is_used_up(standing.credit)
}

/// How often an answer may be given, and the credit's number: no two are equal, so that a program takes from the credit that it
/// has read or from none.
const fn credit_of(number: u32, tokens: u32) -> u64 {
    (number as u64) << 32 | tokens as u64
}

const fn tokens(credit: u64) -> u32 {
    credit as u32
}

const fn is_used_up(credit: u64) -> bool {
    tokens(credit) == 0
}

fn question(key: &NeighborKey) -> Question {
    let addr = |bytes| Addr::from_bits(u128::from_be_bytes(bytes));
    let [to_all, names_mac] = [FORM_TO_ALL, FORM_NAMES_MAC].map(|flag| key.form & flag != 0);
    Question { sender: addr(key.sender), target: addr(key.target), to_all, names_mac }
}

fn form(offer: &AnswerOffer) -> u16 {
    let question = &offer.question;
    let flag = |set: bool, flag: u16| if set { flag } else { 0 };
    flag(!question.target.is_v4(), FORM_ND)
        | flag(question.to_all, FORM_TO_ALL)
        | flag(question.names_mac, FORM_NAMES_MAC)
}

/// Every order in which the steps of daemon and programs can come.
#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    };

    use loom::{
        sync::atomic::{AtomicU64, AtomicUsize},
        thread,
    };

    use super::*;

    const ANSWERS: usize = 4;

    /// An entry of the kernel's table. What it says is the number of its answer here.
    struct Entry {
        credit: AtomicU64,
        frame: AtomicU64,
    }

    impl Entry {
        fn new(number: u32, tokens: u32) -> Self {
            let frame = AtomicU64::new(u64::from(number));
            Self { credit: AtomicU64::new(credit_of(number, tokens)), frame }
        }
    }

    /// The table: which entry a key has, and one that is free.
    struct Table {
        entries: [Entry; 2],
        of_key: AtomicUsize,
        /// How often each answer was given
        given: [AtomicU32; ANSWERS],
    }

    impl Table {
        fn new(tokens: u32) -> Arc<Self> {
            let entries = [Entry::new(1, tokens), Entry::new(0, 0)];
            Arc::new(Self { entries, of_key: AtomicUsize::new(0), given: Default::default() })
        }

        /// What the kernel does where an answer is set: the free entry is written, then has the key, and the one before is free.
        fn set_answer(&self, number: u32, tokens: u32) {
            let before = self.of_key.load(SeqCst);
            let free = 1 - before;
            self.entries[free].frame.store(u64::from(number), SeqCst);
            self.entries[free].credit.store(credit_of(number, tokens), SeqCst);
            self.of_key.store(free, SeqCst);
        }

        /// `take_answer` of `answer.h`, step by step
        fn take_answer(&self) -> bool {
            let at = self.of_key.load(SeqCst);
            let entry = &self.entries[at];
            let credit = entry.credit.load(SeqCst);
            let frame = entry.frame.load(SeqCst);
            if self.of_key.load(SeqCst) != at || is_used_up(credit) {
                return false;
            }
            let taken = entry.credit.compare_exchange(credit, credit - 1, SeqCst, SeqCst).is_ok();
            if taken {
                assert_eq!(frame, credit >> 32, "an answer was given out of another one's credit");
                self.given[frame as usize].fetch_add(1, SeqCst);
            }
            taken
        }
    }

    #[test]
    fn an_answer_is_given_out_of_its_own_credit() {
        loom::model(|| {
            let table = Table::new(1);
            let program = table.clone();
            let cpu = thread::spawn(move || program.take_answer());
            // Twice, after which the entry that may have been read has the key again.
            table.set_answer(2, 1);
            table.set_answer(3, 1);
            cpu.join().unwrap();
            assert!(table.given.iter().all(|given| given.load(SeqCst) <= 1));
        });
    }

    #[test]
    fn no_token_is_used_twice_and_none_goes_astray() {
        loom::model(|| {
            let table = Table::new(2);
            let cpus =
                [table.clone(), table.clone()].map(|program| thread::spawn(move || program.take_answer()));
            let mut taken = u32::from(table.take_answer());
            for cpu in cpus {
                taken += u32::from(cpu.join().unwrap());
            }
            let left = table.entries[0].credit.load(SeqCst);
            assert_eq!((taken, left >> 32, left as u32), (table.given[1].load(SeqCst), 1, 2 - taken));
            // One who finds another at it is punted, and the other one has taken.
            assert!((1..=2).contains(&taken));
        });
    }
}
