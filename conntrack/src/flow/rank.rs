//! What it costs to lose a flow: which one makes room when there are too many.

use std::time::Duration;

use super::FlowState;

/// Flows by what their loss costs, the cheapest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(u8)]
pub enum Rank {
    /// Nobody has answered. A scan leaves many.
    #[default]
    Unreplied,
    /// A connection that is over; what may still come are copies of its last segments.
    Finished,
    /// Something other than these that was asked and answered
    Exchange,
    /// The same that went on; it makes room when it has been silent
    Stream,
    /// A connection of TCP or an association of SCTP: never put out
    Connection,
}

impl Rank {
    /// How many there are
    pub const COUNT: usize = 5;
    /// All, the cheapest first
    pub const ALL: [Self; Self::COUNT] =
        [Self::Unreplied, Self::Finished, Self::Exchange, Self::Stream, Self::Connection];

    /// That of a flow in this state.
    #[must_use]
    pub const fn of(state: FlowState, replied: bool) -> Self {
        match state {
            _ if !replied => Self::Unreplied,
            FlowState::TimeWait | FlowState::Close | FlowState::Closed => Self::Finished,
            FlowState::Unreplied | FlowState::Replied => Self::Exchange,
            FlowState::Stream => Self::Stream,
            _ => Self::Connection,
        }
    }

    /// The name that the CLI prints.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unreplied => "unreplied",
            Self::Finished => "finished",
            Self::Exchange => "exchange",
            Self::Stream => "stream",
            Self::Connection => "connection",
        }
    }
}

/// An exchange that goes on for so long is a stream: a packet comes that much later than its first one, in either
/// direction, after it was answered (Linux's conntrack has the same two seconds).
pub const STREAM_AFTER: Duration = Duration::from_secs(2);

/// A stream that was silent for so long makes room.
pub const STREAM_IDLE: Duration = Duration::from_secs(60);
