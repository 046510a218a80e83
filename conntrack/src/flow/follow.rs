//! Control flows that a helper follows, and flows that follow from them.

use std::collections::BTreeMap;

use eastgate_wire::{FlowKey, Helper, view::tcp_flags};

use super::{
    FlowId, FlowInfo, FlowTable, original,
    segment::{Direction, Segment, SegmentKind},
    settings::FlowState,
    slab::Entry,
};
use crate::{
    expect::{Expectation, Related},
    helper::{
        Announced, Heard,
        ftp::{Dialogue, Said},
        tftp,
    },
};

/// Those flows of a table that helpers have to do with, by their places; most have nothing to do with any.
#[derive(Debug, Default)]
pub(super) struct Helpers {
    /// What is known of control flows
    followed: BTreeMap<u32, Box<Followed>>,
    /// What others follow from
    related: BTreeMap<u32, Related>,
    unexpected: Vec<Unexpected>,
}

impl Helpers {
    pub(super) fn info(&self, index: u32, entry: &Entry) -> FlowInfo {
        FlowInfo { related: self.related_of(index), ..FlowInfo::of(entry) }
    }

    pub(super) fn related_of(&self, index: u32) -> Option<Related> {
        self.related.get(&index).copied()
    }

    pub(super) fn relate(&mut self, index: u32, related: Option<Related>) {
        match related {
            Some(related) => _ = self.related.insert(index, related),
            None => self.forget(index),
        }
    }

    /// The flow in this place is gone.
    pub(super) fn forget(&mut self, index: u32) {
        if !self.related.is_empty() {
            self.related.remove(&index);
        }
    }
}

/// What is known of a control flow.
#[derive(Debug, Default)]
struct Followed {
    dialogue: Dialogue,
    /// The key of the flow that was announced last
    expected: Option<FlowKey>,
}

/// What is expected no more: its key, and that of the control flow that has announced it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unexpected {
    /// [`Expectation::key`]
    pub key: FlowKey,
    /// The key of the packet that opened the control flow
    pub control: FlowKey,
}

impl FlowTable {
    /// From here on a helper follows the flow, or none does.
    pub fn follow(&mut self, flow: FlowId, helper: Option<Helper>) {
        let Some(index) = self.slab.index(flow) else { return };
        let entry = self.slab.at_mut(index);
        if entry.helper == helper {
            return;
        }
        entry.helper = helper;
        self.unfollow(index);
        if helper.is_some() {
            self.helpers.followed.insert(index, Box::default());
        }
    }

    /// The helper that follows the flow.
    #[must_use]
    pub fn helper(&self, flow: FlowId) -> Option<Helper> {
        self.slab.index(flow).and_then(|index| self.slab.at(index).helper)
    }

    /// Has the helper of a flow hear a packet of it that passes, with its `payload`: what follows from it is to be expected.
    pub fn hear_control(
        &mut self,
        flow: FlowId,
        direction: Direction,
        segment: &Segment,
        payload: &[u8],
    ) -> (Heard, Option<Expectation>) {
        let nothing = (Heard::default(), None);
        let Some(index) = self.slab.index(flow) else { return nothing };
        let entry = self.slab.at(index);
        let Some((helper, followed)) = entry.helper.zip(self.helpers.followed.get_mut(&index)) else {
            return nothing;
        };
        let control = original(entry);
        let heard = match (helper, &segment.kind) {
            (Helper::Ftp, SegmentKind::Tcp(tcp)) => {
                // A connection begins, perhaps in the place of one that did not come about.
                if entry.state == FlowState::SynSent {
                    followed.dialogue = Dialogue::default();
                }
                let from = tcp.seq.wrapping_add(u32::from(tcp.flags & tcp_flags::SYN != 0));
                let ack = (tcp.flags & tcp_flags::ACK != 0).then_some(tcp.ack);
                followed
                    .dialogue
                    .hear(&Said { by: direction, from, ack, payload }, [control.src, control.dst])
            }
            (Helper::Tftp, SegmentKind::Udp) if direction == Direction::Original => {
                let mut heard = Heard::default();
                if let Some(announced) = tftp::announced(payload, control.sport) {
                    heard.take(Ok(announced));
                }
                heard
            }
            _ => return nothing,
        };
        let Some(Announced { opener, port }) = heard.announced else { return (heard, None) };
        let from_opener = match opener {
            Direction::Original => control,
            Direction::Reply => control.reversed(),
        };
        let key = FlowKey { sport: 0, dport: port, proto: helper.protocol(), ..from_opener };
        let FlowKey { sport, dport, .. } = control;
        let related = Related { helper, opener, sport, dport, header: entry.header };
        // A hint is of the endpoint that packets of its direction go to.
        let ends = [opener.reversed(), opener].map(|way| entry.hints[way.index()]);
        let expectation = Expectation { key, related, ends, payer: entry.account };
        if let Some(before) = followed.expected.replace(key).filter(|before| *before != key) {
            self.helpers.unexpected.push(Unexpected { key: before, control });
        }
        (heard, Some(expectation))
    }

    /// A flow whose control flow, or itself, is no longer what it was: what it has announced is expected no more.
    pub fn pop_unexpected(&mut self) -> Option<Unexpected> {
        self.helpers.unexpected.pop()
    }

    /// Says what a flow follows from.
    pub fn relate(&mut self, flow: FlowId, related: Option<Related>) {
        if let Some(index) = self.slab.index(flow) {
            self.helpers.relate(index, related);
        }
    }

    /// What a flow follows from, where its rules alone would not have let it pass.
    #[must_use]
    pub fn relation(&self, flow: FlowId) -> Option<Related> {
        self.slab.index(flow).and_then(|index| self.helpers.related_of(index))
    }

    /// A flow is over, or gone, or nobody follows it any more.
    pub(super) fn unfollow(&mut self, index: u32) {
        if self.helpers.followed.is_empty() {
            return;
        }
        if let Some(key) = self.helpers.followed.remove(&index).and_then(|followed| followed.expected) {
            self.helpers.unexpected.push(Unexpected { key, control: original(self.slab.at(index)) });
        }
    }
}
