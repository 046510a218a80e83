//! Control flows that helpers follow, and the flows that they announce.
//!
//! A flow is followed where a rule that admitted it names a helper. Each packet of it that passes is read, in the order in which the
//! flow table takes them; what it announces is expected before the packet goes on, so that nothing that follows from it can be
//! quicker. A packet that begins a flow and that the rules refuse is looked up there. If it is expected, and between the ends that the
//! control flow was decided for, the rules are asked once more: of each end, the rule by which the control flow would begin now and that
//! names the helper stands for the announced flow, too (`ruling.rs`). So a helper opens nothing at an end whose own rule does not name
//! it, and nothing that a rule before that one refuses.

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use eastgate_conntrack::{
    expect::{Expectation, Expectations, Related, Taken},
    flow::{FlowTable, Hit, Segment, SegmentKind},
    helper::{Heard, Unheeded},
};
use eastgate_wire::{
    FlowKey, Frame, Helper, Instant, View,
    view::{Transport, tcp_flags},
};

use super::{
    Pipeline, Shared,
    decide::InHand,
    ruling::{Inquiry, Ruling},
    shared::lock,
    track::{Ends, receiver},
};
use crate::snapshot::Network;

/// What helpers have found out, and what came of it.
#[derive(Debug, Default)]
pub struct Helpers {
    expectations: Mutex<Expectations>,
    announced: AtomicU64,
    begun: AtomicU64,
    overdue: AtomicU64,
    made_room: AtomicU64,
    limited: AtomicU64,
    unheeded: [AtomicU64; Unheeded::ALL.len()],
}

/// How many flows were announced so far, and what came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HelperCounts {
    /// Flows that are expected at the moment
    pub expected: u64,
    /// Announcements that made one expected
    pub announced: u64,
    /// Flows that have begun because they were expected
    pub begun: u64,
    /// Those that did not come in time
    pub overdue: u64,
    /// Those that had to make room for a newer one of the same endpoint
    pub made_room: u64,
    /// Announcements that there was no room for
    pub limited: u64,
    /// Announcements that nothing follows from, by [`Unheeded`]
    pub unheeded: [u64; Unheeded::ALL.len()],
}

impl Helpers {
    /// What helpers have come to.
    #[must_use]
    pub fn counts(&self) -> HelperCounts {
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        HelperCounts {
            expected: lock(&self.expectations).len() as u64,
            announced: count(&self.announced),
            begun: count(&self.begun),
            overdue: count(&self.overdue),
            made_room: count(&self.made_room),
            limited: count(&self.limited),
            unheeded: self.unheeded.each_ref().map(count),
        }
    }

    /// The flows that are expected, and when their time is over.
    #[must_use]
    pub fn expected(&self) -> Vec<(Expectation, Instant)> {
        lock(&self.expectations).iter().map(|(expectation, until)| (*expectation, until)).collect()
    }

    /// What is expected that a packet with this key would begin.
    #[must_use]
    pub fn find(&self, packet: &FlowKey, now: Instant) -> Option<Expectation> {
        lock(&self.expectations).find(packet, now).copied()
    }

    fn count(&self, heard: &Heard) {
        for (counter, more) in self.unheeded.iter().zip(heard.unheeded) {
            if more > 0 {
                counter.fetch_add(more.into(), Relaxed);
            }
        }
    }
}

/// A flow that is about to begin because it is expected. Where it does not begin, it goes on being expected.
pub(super) struct Expected<'s> {
    shared: &'s Shared,
    pub(super) related: Related,
    taken: Option<Taken>,
}

impl Expected<'_> {
    pub(super) fn has_begun(mut self) {
        if let Some(taken) = self.taken.take() {
            let (helpers, key) = (&self.shared.helpers, taken.key());
            helpers.begun.fetch_add(1, Relaxed);
            // The same may have been announced again meanwhile.
            let table = lock(&helpers.expectations);
            if !table.contains(&key) {
                self.shared.unexpect(&key);
            }
        }
    }
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        if let Some(taken) = self.taken.take() {
            lock(&self.shared.helpers.expectations).put_back(taken);
        }
    }
}

impl Pipeline<'_> {
    /// A flow has just begun with the packet in hand: the helper that its rules name, if they do, follows it.
    pub(super) fn follow(
        &self,
        packet: &InHand<'_, '_>,
        flows: &mut FlowTable,
        hit: &Hit,
        segment: &Segment,
        helper: Option<Helper>,
    ) {
        if helper.is_some() {
            flows.follow(hit.flow, helper);
            self.hear_control(flows, hit, segment, packet.frame, packet.now);
        }
    }

    /// Reads a packet of a flow that is followed.
    pub(super) fn hear_control(
        &self,
        flows: &mut FlowTable,
        hit: &Hit,
        segment: &Segment,
        frame: &Frame<'_>,
        now: Instant,
    ) {
        let Some(payload) = payload(frame) else { return };
        let (heard, expected) = flows.hear_control(hit.flow, hit.direction, segment, payload);
        self.shared.helpers.count(&heard);
        if let Some(expected) = expected {
            self.shared.expect(&expected, now);
        }
        self.shared.forget_unexpected(flows);
    }
}

impl<'s> Pipeline<'s> {
    /// What the rules say of a packet that begins a flow which is expected, where one is; it is taken where they let it pass.
    pub(super) fn expected(
        &self,
        network: &Network,
        ends: Ends<'s>,
        segment: &Segment,
        now: Instant,
    ) -> Option<(Ruling, Option<Expected<'s>>)> {
        const CORE: u8 = tcp_flags::SYN | tcp_flags::FIN | tcp_flags::RST | tcp_flags::ACK;
        let begins = match &segment.kind {
            SegmentKind::Tcp(tcp) => tcp.flags & CORE == tcp_flags::SYN,
            kind => *kind == SegmentKind::Udp,
        };
        if !begins || !network.policy.has_helpers() {
            return None;
        }
        let mut table = lock(&self.shared.helpers.expectations);
        let found = *table.find(&segment.key, now)?;
        if found.ends != [receiver(ends.src), receiver(ends.dst)] {
            return None;
        }
        let related = found.related;
        let inquiry = Inquiry::of_flow(ends, segment, &segment.key, segment.header);
        let ruling = network.ask_policy(&Inquiry { related: Some(related), ..inquiry });
        let taken = ruling.enforce().is_ok().then(|| table.take(&segment.key)).flatten();
        let taken = taken.map(|taken| Expected { shared: self.shared, related, taken: Some(taken) });
        Some((ruling, taken))
    }
}

impl Shared {
    /// Expects a flow from `now` on.
    pub(crate) fn expect(&self, expectation: &Expectation, now: Instant) {
        let mut table = lock(&self.helpers.expectations);
        match table.expect(expectation, now) {
            Ok(made_room) => {
                self.helpers.announced.fetch_add(1, Relaxed);
                if let Some(key) = made_room {
                    self.helpers.made_room.fetch_add(1, Relaxed);
                    self.unexpect(&key);
                }
                if let Some(fastpath) = self.fastpath.get() {
                    fastpath.expect(&expectation.key);
                }
            }
            Err(_) => {
                self.helpers.limited.fetch_add(1, Relaxed);
                self.unexpect(&expectation.key);
            }
        }
    }

    fn unexpect(&self, key: &FlowKey) {
        if let Some(fastpath) = self.fastpath.get() {
            fastpath.unexpect(key);
        }
    }

    /// What flows have announced that are over, or are followed no more, is expected no more.
    pub(super) fn forget_unexpected(&self, flows: &mut FlowTable) {
        while let Some(unexpected) = flows.pop_unexpected() {
            let mut table = lock(&self.helpers.expectations);
            if table.forget(&unexpected.key, &unexpected.control) {
                self.unexpect(&unexpected.key);
            }
        }
    }

    /// What has not come in time is expected no more.
    pub(super) fn forget_overdue(&self, now: Instant) {
        let mut table = lock(&self.helpers.expectations);
        while let Some(key) = table.pop_overdue(now) {
            self.helpers.overdue.fetch_add(1, Relaxed);
            self.unexpect(&key);
        }
    }
}

/// What stands behind the transport header of a packet; nothing of a fragment.
fn payload<'f>(frame: &'f Frame<'_>) -> Option<&'f [u8]> {
    let bytes = frame.bytes();
    let view = View::parse(bytes).ok()?;
    let ip = view.ip().filter(|ip| ip.fragment.is_none())?;
    let header = match ip.transport {
        Transport::Tcp(tcp) => usize::from(tcp.header_len),
        Transport::Udp { .. } => 8,
        _ => return None,
    };
    let l4 = usize::from(ip.l4);
    bytes.get(l4 + header..l4 + usize::from(ip.l4_len))
}
