//! An SCTP association (RFC 9260) as someone in its middle can know it.
//!
//! Each end has chosen a tag that the packets to it carry: it offers one in its INIT or INIT ACK, and the COOKIE ACK shows which of those
//! that were offered are in force. Until then nothing but the handshake passes, and what an end may have offered beside an association
//! that stands (it may have crashed and come back on the same ports, section 5.2) changes nothing.
//!
//! It promises that a packet passes only with a tag that its receiver would take, but for a HEARTBEAT by itself, and that an association is over only when both
//! ends take it for over: where not all of that can be known (the opener has echoed several cookies), it is said so.

use eastgate_wire::{
    DropReason,
    view::{Chunks, Sctp},
};

use super::{FlowState, segment::Direction};

/// What a packet means to its association.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// It passes, and tells what this state is.
    Pass(FlowState),
    /// It passes and changes nothing: what its receiver makes of it will be seen.
    Beside,
    /// It passes and ends the association; whether for both ends as far as can be known.
    Abort {
        /// It does.
        agreed: bool,
    },
    /// The association is over, or never came about, and this packet begins another.
    Reopen,
    /// It does not pass, and shows that the association is gone.
    Gone(DropReason),
    /// It does not pass.
    Drop(DropReason),
}

/// Both ways, that of the opener's packets first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Association {
    ways: [Way; 2],
}

/// By which tags packets travel one way; 0 is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Way {
    /// The tag in force
    tag: u32,
    /// Another one that may be in force as well: of two cookies that were echoed, it is not known which one was taken.
    other: u32,
    /// What the receiver has offered lately, the last one first
    offered: [Offer; OFFERED],
    /// By which of these the sender has echoed a cookie that was not answered yet, the last one first
    echoed: [Offer; 2],
    /// The sender has sent a SHUTDOWN ACK.
    acked: bool,
}

/// A tag that an end has asked for, in an INIT or an INIT ACK; 0 is none
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Offer {
    tag: u32,
    /// The other end's, that this INIT ACK was sent by and its cookie is for; 0 of an INIT
    with: u32,
}

/// Offers of one end that are remembered: an INIT that is sent again may be answered by another tag each time, and is sent so often
/// (Max.Init.Retransmits, RFC 9260 section 16).
pub(super) const OFFERED: usize = 8;

/// What an association that was found in the middle shows itself by
const MID_STREAM: Chunks =
    Chunks::DATA.and(Chunks::SACK).and(Chunks::HEARTBEAT).and(Chunks::HEARTBEAT_ACK).and(Chunks::SHUTDOWN);

/// Chunks of a handshake or of an end, which no association is found by
const EDGES: Chunks = Chunks::INIT
    .and(Chunks::INIT_ACK)
    .and(Chunks::COOKIE_ECHO)
    .and(Chunks::COOKIE_ACK)
    .and(Chunks::ABORT)
    .and(Chunks::SHUTDOWN_COMPLETE);

/// Whether a packet that no association is known for may begin one; in mid-stream too, where that is `loose`. A path that a
/// HEARTBEAT tries out may be the second one of an association (section 8.3).
pub(super) fn may_begin(sctp: &Sctp, loose: bool) -> Result<(), DropReason> {
    let Sctp { tag, chunks, .. } = *sctp;
    if chunks.is(Chunks::INIT) {
        return if tag == 0 { Ok(()) } else { Err(DropReason::SctpTag) };
    }
    let begins = chunks.is(Chunks::HEARTBEAT) || loose && chunks.has(MID_STREAM) && !chunks.has(EDGES);
    match begins {
        true if tag == 0 => Err(DropReason::SctpTag),
        true => Ok(()),
        false => Err(DropReason::NotInit),
    }
}

impl Way {
    fn is_by(&self, tag: u32) -> bool {
        tag != 0 && (tag == self.tag || tag == self.other)
    }

    fn is_offered(&self, tag: u32) -> bool {
        tag != 0 && self.offered.iter().any(|offer| offer.tag == tag)
    }

    /// What its packets may have as long as no tag is in force
    fn may_be_by(&self, tag: u32) -> bool {
        if self.tag == 0 { self.is_offered(tag) } else { self.is_by(tag) }
    }

    fn offer(&mut self, tag: u32, with: u32) {
        let known = self.offered.iter().position(|offer| offer.tag == tag);
        self.offered[..=known.unwrap_or(OFFERED - 1)].rotate_right(1);
        self.offered[0] = Offer { tag, with };
    }

    fn echo(&mut self, tag: u32) {
        let echoed = self.offered.iter().find(|offer| offer.tag == tag).copied();
        let echoed = echoed.unwrap_or(Offer { tag, with: 0 });
        if self.echoed[0] != echoed {
            self.echoed = [echoed, self.echoed[0]];
        }
    }

    fn has_echoed(&self) -> bool {
        self.echoed != [Offer::default(); 2]
    }
}

impl Association {
    /// That of a packet that [may begin](may_begin) one, and its state.
    pub(super) fn opened(direction: Direction, sctp: &Sctp, loose: bool) -> (Self, FlowState) {
        let mut new = Self::default();
        if sctp.chunks.is(Chunks::INIT) {
            new.way(direction.reversed()).offer(sctp.initiate, 0);
            return (new, FlowState::CookieWait);
        }
        new.way(direction).tag = sctp.tag;
        (new, if loose { FlowState::PickedUp } else { FlowState::HeartbeatSent })
    }

    /// Takes a packet that travels in `direction`.
    pub(super) fn step(&mut self, state: FlowState, direction: Direction, sctp: &Sctp) -> Step {
        let chunks = sctp.chunks;
        if chunks.has(Chunks::INIT) {
            self.init(state, direction, sctp)
        } else if chunks.has(Chunks::INIT_ACK) {
            self.init_ack(state, direction, sctp)
        } else if chunks.has(Chunks::COOKIE_ECHO) {
            self.cookie_echo(state, direction, sctp)
        } else if chunks.has(Chunks::COOKIE_ACK) {
            self.cookie_ack(state, direction, sctp)
        } else if chunks.has(Chunks::ABORT) {
            self.abort(state, direction, sctp)
        } else if chunks.has(Chunks::SHUTDOWN_COMPLETE) {
            self.shutdown_complete(state, direction, sctp)
        } else {
            self.plain(state, direction, sctp)
        }
    }

    /// Whether a packet with this tag can have been sent in `direction`.
    pub(super) fn has_sent(&self, direction: Direction, tag: u32) -> bool {
        let way = &self.ways[direction.index()];
        let has_asked = self.ways[direction.reversed().index()].offered[0] != Offer::default();
        way.may_be_by(tag) || tag == 0 && has_asked && !self.is_in_force()
    }

    fn way(&mut self, direction: Direction) -> &mut Way {
        &mut self.ways[direction.index()]
    }

    /// The way of a packet in `direction`, and the other one
    fn pair(&self, direction: Direction) -> (&Way, &Way) {
        (&self.ways[direction.index()], &self.ways[direction.reversed().index()])
    }

    fn is_in_force(&self) -> bool {
        self.ways.iter().all(|way| way.tag != 0)
    }

    fn init(&mut self, state: FlowState, direction: Direction, sctp: &Sctp) -> Step {
        if sctp.tag != 0 {
            return Step::Drop(DropReason::SctpTag);
        }
        match state {
            FlowState::Closed | FlowState::HeartbeatSent | FlowState::PickedUp => return Step::Reopen,
            _ => self.way(direction.reversed()).offer(sctp.initiate, 0),
        }
        // Sent again, or both ends ask at the same time; else an end that may have come back.
        if state == FlowState::CookieWait { Step::Pass(state) } else { Step::Beside }
    }

    fn init_ack(&mut self, state: FlowState, direction: Direction, sctp: &Sctp) -> Step {
        if state == FlowState::Closed {
            return Step::Drop(DropReason::SctpState);
        }
        if !self.pair(direction).0.is_offered(sctp.tag) {
            return Step::Drop(DropReason::SctpTag);
        }
        // The end that did not open the flow has come back, and its INIT is answered: the rules have to decide first.
        if self.is_in_force() && direction == Direction::Original {
            return Step::Gone(DropReason::SctpState);
        }
        self.way(direction.reversed()).offer(sctp.initiate, sctp.tag);
        if state == FlowState::CookieWait { Step::Pass(state) } else { Step::Beside }
    }

    fn cookie_echo(&mut self, state: FlowState, direction: Direction, sctp: &Sctp) -> Step {
        // The cookie of an association that is over brings it back for as long as it is good.
        if matches!(state, FlowState::Closed | FlowState::HeartbeatSent | FlowState::PickedUp) {
            return Step::Drop(DropReason::SctpState);
        }
        let way = self.way(direction);
        if way.is_by(sctp.tag) {
            // Its answer was lost.
            return Step::Beside;
        }
        if !way.is_offered(sctp.tag) {
            return Step::Drop(DropReason::SctpTag);
        }
        way.echo(sctp.tag);
        match state {
            FlowState::CookieWait | FlowState::CookieEchoed => Step::Pass(FlowState::CookieEchoed),
            _ => Step::Beside,
        }
    }

    /// It has the tag of the INIT that the cookie was made for, and there may have been several INIT ACKs to that.
    fn cookie_ack(&mut self, state: FlowState, direction: Direction, sctp: &Sctp) -> Step {
        let way = &self.ways[direction.index()];
        if state == FlowState::Closed {
            return Step::Drop(DropReason::SctpState);
        }
        if !way.is_offered(sctp.tag) && !way.is_by(sctp.tag) {
            return Step::Drop(DropReason::SctpTag);
        }
        if self.take_over(direction, sctp.tag) {
            return Step::Pass(FlowState::Established);
        }
        let is_again = self.is_in_force() && self.ways[direction.index()].is_by(sctp.tag);
        if is_again { Step::Beside } else { Step::Drop(DropReason::SctpState) }
    }

    /// Section 8.5.1 (B): by the tag that the receiver is sent to, or with the T bit by the one that it sends by.
    fn is_end_of(&self, direction: Direction, sctp: &Sctp) -> bool {
        let (way, back) = self.pair(direction);
        if sctp.reflects { back.may_be_by(sctp.tag) } else { way.may_be_by(sctp.tag) }
    }

    fn abort(&self, state: FlowState, direction: Direction, sctp: &Sctp) -> Step {
        if !self.is_end_of(direction, sctp) {
            return Step::Drop(DropReason::SctpTag);
        }
        let (way, back) = self.pair(direction);
        // Is there one tag that the receiver can take, and no other one that it may have gone over to?
        let [last, before] = way.echoed.map(|echoed| echoed.tag);
        let one = match way.tag {
            0 => last == 0 || !sctp.reflects && [last, before] == [sctp.tag, 0],
            _ => way.other == 0 && !way.has_echoed(),
        };
        match state {
            FlowState::Closed => Step::Beside,
            FlowState::PickedUp | FlowState::HeartbeatSent => {
                Step::Abort { agreed: direction == Direction::Reply }
            }
            _ => Step::Abort { agreed: direction == Direction::Reply || one && !back.has_echoed() },
        }
    }

    /// It ends what the other end has said to be at its end.
    fn shutdown_complete(&self, state: FlowState, direction: Direction, sctp: &Sctp) -> Step {
        if !self.is_end_of(direction, sctp) {
            return Step::Drop(DropReason::SctpTag);
        }
        let (_, back) = self.pair(direction);
        if back.acked && state != FlowState::Closed { Step::Pass(FlowState::Closed) } else { Step::Beside }
    }

    /// An association of several paths may have begun anew by another one. Then a HEARTBEAT has the new tag here, and its answer shows
    /// that it is one.
    fn other_tag(&mut self, state: FlowState, direction: Direction, sctp: &Sctp) -> Step {
        let is_in_force = self.is_in_force() && state != FlowState::Closed && sctp.tag != 0;
        if is_in_force && sctp.chunks.is(Chunks::HEARTBEAT) {
            self.way(direction).echo(sctp.tag);
            return Step::Beside;
        }
        if is_in_force && sctp.chunks.is(Chunks::HEARTBEAT_ACK) && self.take_over(direction, sctp.tag) {
            return Step::Pass(FlowState::Established);
        }
        Step::Drop(DropReason::SctpTag)
    }

    /// The end that sends in `direction` has answered by this tag, if it can have: then it and the one that was echoed with it
    /// are in force. Cookies that were echoed after it are still to be answered; of those before it, an answer would come late.
    fn take_over(&mut self, direction: Direction, tag: u32) -> bool {
        let back = self.way(direction.reversed());
        let is_answered = |echoed: &Offer| echoed.tag != 0 && [0, tag].contains(&echoed.with);
        let mut answered = back.echoed.into_iter().filter(is_answered).map(|echoed| echoed.tag);
        let Some(by) = answered.next() else { return false };
        (back.tag, back.other, back.acked) = (by, answered.next().unwrap_or_default(), false);
        let later = back.echoed[0];
        back.echoed = [if is_answered(&later) { Offer::default() } else { later }, Offer::default()];
        let way = self.way(direction);
        (way.tag, way.other, way.acked) = (tag, 0, false);
        true
    }

    fn plain(&mut self, state: FlowState, direction: Direction, sctp: &Sctp) -> Step {
        let is_probed = sctp.chunks.has(Chunks::HEARTBEAT.and(Chunks::HEARTBEAT_ACK));
        let learns = match state {
            FlowState::HeartbeatSent => is_probed,
            FlowState::PickedUp => true,
            _ => false,
        };
        let way = self.way(direction);
        if learns && way.tag == 0 {
            way.tag = sctp.tag;
        }
        let fits = match state {
            FlowState::CookieWait => return Step::Drop(DropReason::SctpState),
            FlowState::CookieEchoed => way.is_offered(sctp.tag),
            _ => way.is_by(sctp.tag),
        };
        if !fits {
            return self.other_tag(state, direction, sctp);
        }
        let replies = direction == Direction::Reply;
        let closes =
            matches!(state, FlowState::ShutdownSent | FlowState::ShutdownRecd | FlowState::ShutdownAckSent);
        Step::Pass(match state {
            FlowState::PickedUp if replies => FlowState::Established,
            FlowState::HeartbeatSent if replies && sctp.chunks.has(Chunks::HEARTBEAT_ACK) => {
                FlowState::Established
            }
            FlowState::Established if sctp.chunks.has(Chunks::SHUTDOWN) && replies => FlowState::ShutdownRecd,
            FlowState::Established if sctp.chunks.has(Chunks::SHUTDOWN) => FlowState::ShutdownSent,
            _ if closes && sctp.chunks.has(Chunks::SHUTDOWN_ACK) => {
                way.acked = true;
                FlowState::ShutdownAckSent
            }
            _ => state,
        })
    }
}
