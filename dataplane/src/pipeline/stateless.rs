//! Rules that keep no state: what of a packet they decide, and of which flows.
//!
//! A packet of a live flow passes by it. What is of none, or does not fit its own, passes all the same where all ends that are
//! asked here let it pass by rules without state. Where only one end does, the flow is the other one's alone: the end without
//! state is asked about each packet of it, whichever way it goes.

use std::sync::Arc;

use eastgate_conntrack::flow::{Direction, Segment};
use eastgate_wire::{DropReason, Instant};

use super::{
    Pipeline, Refusal,
    ruling::Inquiry,
    track::{Ends, Question, Tracked},
};
use crate::snapshot::{Network, rule_counts::RuleCount};

impl<'s> Pipeline<'s> {
    /// Whether a packet of a flow that one end keeps no state of may pass by the rules of that end. Of the way that began the
    /// flow, the flow counts for them.
    pub(super) fn hold_to_rules(
        &self,
        network: &'s Arc<Network>,
        inquiry: &Inquiry<'s>,
        segment: &Segment,
        now: Instant,
    ) -> Result<(), Refusal> {
        let ends = inquiry.ends;
        let epoch = network.decided_since([ends.src, ends.dst], [segment.key.src, segment.key.dst]);
        let known = self.shared.flows(&segment.key).stateless_ends(segment, &network.tracking, epoch);
        let Some((stateless, direction)) = known.filter(|(stateless, _)| stateless.contains(&true)) else {
            return Ok(());
        };
        let admitted = network.ask_policy(&inquiry.of_some(stateless)).enforce()?;
        if direction == Direction::Reply {
            let (packets, bytes) = (u64::from(segment.packets), u64::from(segment.bytes));
            let hit = Some((now, now));
            network.count_for(&admitted, &RuleCount { packets, bytes, hit, ..RuleCount::default() });
        }
        Ok(())
    }
}

impl Network {
    /// Has an end whose rules are asked here some that keep no state?
    pub(super) fn has_stateless(&self, ends: Ends<'_>) -> bool {
        let is_stateless = self.policy.has_stateless();
        let mut ends = [ends.src, ends.dst].into_iter().flatten().filter(|end| end.enforced_here);
        is_stateless && ends.any(|end| self.policy.is_stateless(end.id))
    }

    /// What becomes of a packet that the flows have no place for: it is decided by itself where no end that is asked keeps
    /// state of it.
    pub(super) fn passes_alone<'s>(
        &self,
        inquiry: Inquiry<'s>,
        refusal: Refusal,
    ) -> Result<Tracked<'s>, Refusal> {
        let ruling = self.ask_policy(&inquiry);
        if ruling.is_stateless() {
            return Ok(Tracked::undecided(Question::Packet(inquiry)));
        }
        let has_no_flow = matches!(
            refusal.reason,
            DropReason::NotSyn
                | DropReason::NotInit
                | DropReason::IcmpUnsolicited
                | DropReason::IcmpUnrelated
        );
        // That it is of no flow says nothing to whom none is kept for.
        match ruling.enforce() {
            Err(denied) if has_no_flow => Err(denied),
            _ => Err(refusal),
        }
    }
}

impl Inquiry<'_> {
    /// The same question to some of the ends: the sender, the receiver.
    pub(super) fn of_some(&self, [src, dst]: [bool; 2]) -> Self {
        let Ends { src: sender, dst: receiver } = self.ends;
        let ends = Ends { src: sender.filter(|_| src), dst: receiver.filter(|_| dst) };
        Self { ends, ..*self }
    }
}
