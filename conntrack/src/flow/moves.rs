//! How packets move a flow from state to state.

use eastgate_wire::{
    DropReason, Instant,
    view::{Sctp, Tcp},
};

use super::{
    FlowTable, association,
    segment::{Direction, Later},
    settings::{FlowState, StateSettings},
    tcp::Step,
};

/// What a TCP segment was to its flow.
pub(super) enum Stepped {
    /// It passes.
    On,
    /// The flow is over, and the segment begins another.
    Over,
    /// The flow is over, and the segment does not pass.
    Gone(DropReason),
}

/// How packets move a flow.
impl FlowTable {
    /// Takes a TCP segment.
    #[inline]
    pub(super) fn step(
        &mut self,
        index: u32,
        direction: Direction,
        tcp: &Tcp,
        settings: &StateSettings,
        now: Instant,
    ) -> Result<Stepped, DropReason> {
        let entry = self.slab.at(index);
        let mut connection = entry.connection;
        let state = match connection.step(direction, tcp) {
            Step::Pass(_) if self.ends_doubt(index, direction, tcp, &mut connection) => FlowState::Close,
            Step::Pass(state) => state,
            Step::Reset { agreed } if !agreed && self.is_counted(index) => {
                self.doubt(index, tcp.seq, now);
                return Ok(Stepped::On);
            }
            Step::Reset { .. } => FlowState::Close,
            Step::Challenge => {
                self.slab.at_mut(index).connection = connection;
                return Ok(Stepped::On);
            }
            Step::Restart => {
                let (connection, state) = connection.restarted(tcp);
                let entry = self.slab.at_mut(index);
                (entry.connection, entry.created) = (connection, now);
                self.goes_on(index, Direction::Original);
                self.enter(index, state, settings, now);
                return Ok(Stepped::On);
            }
            Step::Reopen => return Ok(Stepped::Over),
            Step::Gone(reason) => return Ok(Stepped::Gone(reason)),
            Step::Drop(reason) => return Err(reason),
        };
        let entry = self.slab.at(index);
        if !entry.is_replied() && state.is_past_handshake() {
            self.answer(index, now)?;
        }
        self.slab.at_mut(index).connection = connection;
        self.enter(index, state, settings, now);
        Ok(Stepped::On)
    }

    /// Takes a packet of SCTP.
    pub(super) fn step_sctp(
        &mut self,
        index: u32,
        direction: Direction,
        sctp: &Sctp,
        settings: &StateSettings,
        now: Instant,
    ) -> Result<Stepped, DropReason> {
        let entry = self.slab.at(index);
        let mut association = self.associations.get(&index).copied().unwrap_or_default();
        let state = match association.step(entry.state, direction, sctp) {
            association::Step::Pass(state) => state,
            association::Step::Abort { agreed } if agreed || !self.is_counted(index) => FlowState::Closed,
            association::Step::Beside | association::Step::Abort { .. } => {
                self.associations.insert(index, association);
                return Ok(Stepped::On);
            }
            association::Step::Reopen => return Ok(Stepped::Over),
            association::Step::Gone(reason) => return Ok(Stepped::Gone(reason)),
            association::Step::Drop(reason) => return Err(reason),
        };
        if !self.slab.at(index).is_replied() && state.is_past_handshake() {
            self.answer(index, now)?;
        }
        self.associations.insert(index, association);
        self.enter(index, state, settings, now);
        Ok(Stepped::On)
    }

    /// Takes a packet of a protocol without connections.
    #[inline]
    pub(super) fn hear(
        &mut self,
        index: u32,
        direction: Direction,
        settings: &StateSettings,
        now: Instant,
    ) -> Result<(), DropReason> {
        let entry = self.slab.at(index);
        let state = if entry.is_replied() {
            entry.as_it_goes_on(now)
        } else if direction == Direction::Reply {
            self.answer(index, now)?;
            FlowState::Replied
        } else {
            FlowState::Unreplied
        };
        self.enter(index, state, settings, now);
        Ok(())
    }

    /// Takes a later fragment: it prolongs the flow and may be more of a TCP segment, and moves it no further.
    pub(super) fn continue_with(
        &mut self,
        index: u32,
        direction: Direction,
        later: &Later,
        settings: &StateSettings,
        now: Instant,
    ) -> Result<(), DropReason> {
        self.goes_on(index, direction);
        let entry = self.slab.at_mut(index);
        if let Some(end) = later.tcp_end
            && !entry.connection.extend(direction, end)
        {
            return Err(DropReason::TcpWindow);
        }
        let state = entry.state;
        self.enter(index, state, settings, now);
        Ok(())
    }

    /// Puts a flow into a state, or keeps it there, and sets its deadline.
    #[inline]
    pub(super) fn enter(&mut self, index: u32, state: FlowState, settings: &StateSettings, now: Instant) {
        let entry = self.slab.at_mut(index);
        let before = entry.deadline();
        let lasts = settings.timeouts.of(entry.key.proto(), state);
        let deadline = if state.is_half_open() {
            entry.created + lasts
        } else if matches!(state, FlowState::Close | FlowState::Closed) && entry.state == state {
            before
        } else {
            now + lasts
        };
        entry.state = state;
        entry.seen(now, deadline);
        if state.is_over() {
            self.let_go(index);
            self.unfollow(index);
        }
        let deadline = self.at_most_in_doubt(index, deadline, now);
        if deadline < before {
            self.wheel.unhang(&mut self.slab, index);
            self.wheel.hang(&mut self.slab, index, now);
        }
        self.rank_anew(index);
    }
}
