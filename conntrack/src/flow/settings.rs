//! What a network may set about its flows: how long each state lasts, and what a change of policy means.

use std::time::Duration;

use eastgate_wire::view::proto;

/// What happens to a flow that was admitted under an older policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnChange {
    /// Its next packet is decided again.
    #[default]
    Recheck,
    /// It goes on until it ends.
    Keep,
}

/// How the flows of one network are tracked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StateSettings {
    /// How long each state lasts
    pub timeouts: Timeouts,
    /// A TCP connection may be picked up in mid-stream, from an ACK. What came before it was not seen, so its
    /// first gigabyte is checked against the widest window there is.
    pub loose: bool,
    /// What a new policy means to flows that are already there
    pub on_change: OnChange,
}

/// How long a flow stays without a packet, by its state. In the half-open states it is how long the flow stays
/// altogether: retries do not prolong it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// TCP: a SYN was seen
    pub syn_sent: Duration,
    /// TCP: the SYN was answered; also a connection picked up in mid-stream whose other side is still silent
    pub syn_received: Duration,
    /// TCP: both SYNs are acknowledged
    pub established: Duration,
    /// TCP: one side sent its FIN. The other one may send for as long as it likes: RFC 5382 section 5 asks for no less
    /// than for an established connection.
    pub fin_wait: Duration,
    /// TCP: that FIN is acknowledged
    pub close_wait: Duration,
    /// TCP: both sides sent their FIN
    pub last_ack: Duration,
    /// TCP: both FINs are acknowledged
    pub time_wait: Duration,
    /// TCP: a RST ended the connection
    pub close: Duration,
    /// UDP: only one side was heard
    pub udp_first: Duration,
    /// UDP: both were, and that was all so far
    pub udp_exchange: Duration,
    /// UDP: it goes on
    pub udp_replied: Duration,
    /// SCTP: an INIT was seen, and perhaps its answer
    pub sctp_cookie_wait: Duration,
    /// SCTP: the cookie was echoed
    pub sctp_cookie_echoed: Duration,
    /// SCTP: the association stands
    pub sctp_established: Duration,
    /// SCTP: the opener has sent SHUTDOWN
    pub sctp_shutdown_sent: Duration,
    /// SCTP: the other end has
    pub sctp_shutdown_recd: Duration,
    /// SCTP: that is acknowledged
    pub sctp_shutdown_ack_sent: Duration,
    /// SCTP: a HEARTBEAT on a path of its own was seen; also an association picked up in mid-stream whose other end is still silent
    pub sctp_heartbeat_sent: Duration,
    /// SCTP: shut down or aborted
    pub sctp_closed: Duration,
    /// ICMP queries: answered, and that was all so far
    pub icmp_exchange: Duration,
    /// ICMP queries: not answered, or going on
    pub icmp: Duration,
    /// Every other protocol
    pub other: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let secs = Duration::from_secs;
        Self {
            syn_sent: secs(30),
            syn_received: secs(30),
            established: secs(7440),
            fin_wait: secs(7440),
            close_wait: secs(7440),
            last_ack: secs(30),
            time_wait: secs(120),
            close: secs(10),
            udp_first: secs(30),
            udp_exchange: secs(30),
            udp_replied: secs(300),
            sctp_cookie_wait: secs(30),
            sctp_cookie_echoed: secs(30),
            sctp_established: secs(210),
            sctp_shutdown_sent: secs(30),
            sctp_shutdown_recd: secs(30),
            sctp_shutdown_ack_sent: secs(30),
            sctp_heartbeat_sent: secs(30),
            sctp_closed: secs(10),
            icmp_exchange: secs(30),
            icmp: secs(60),
            other: secs(600),
        }
    }
}

/// The state of a flow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FlowState {
    /// Neither TCP nor SCTP: only the side that opened it was heard
    Unreplied,
    /// Neither: both sides were heard, and that was all so far
    Replied,
    /// Neither: both sides were heard, and it goes on
    Stream,
    /// TCP: a SYN without an answer
    SynSent,
    /// TCP: both SYNs were seen, not both acknowledged
    SynReceived,
    /// TCP, SCTP: found in mid-stream, the other side not heard yet
    PickedUp,
    /// TCP: both SYNs are acknowledged; SCTP: so is the cookie, or a HEARTBEAT
    Established,
    /// TCP: one FIN
    FinWait,
    /// TCP: one FIN, acknowledged
    CloseWait,
    /// TCP: two FINs, not both acknowledged
    LastAck,
    /// TCP: two FINs, both acknowledged
    TimeWait,
    /// TCP: ended by a RST
    Close,
    /// SCTP: INIT, perhaps with its INIT ACK
    CookieWait,
    /// SCTP: COOKIE ECHO
    CookieEchoed,
    /// SCTP: a HEARTBEAT on a path that is not known
    HeartbeatSent,
    /// SCTP: SHUTDOWN of the opener
    ShutdownSent,
    /// SCTP: SHUTDOWN of the other end
    ShutdownRecd,
    /// SCTP: SHUTDOWN ACK
    ShutdownAckSent,
    /// SCTP: SHUTDOWN COMPLETE or ABORT
    Closed,
}

impl FlowState {
    /// Every state there is.
    pub const ALL: [Self; 19] = [
        Self::Unreplied,
        Self::Replied,
        Self::Stream,
        Self::SynSent,
        Self::SynReceived,
        Self::PickedUp,
        Self::Established,
        Self::FinWait,
        Self::CloseWait,
        Self::LastAck,
        Self::TimeWait,
        Self::Close,
        Self::CookieWait,
        Self::CookieEchoed,
        Self::HeartbeatSent,
        Self::ShutdownSent,
        Self::ShutdownRecd,
        Self::ShutdownAckSent,
        Self::Closed,
    ];

    /// The name that the CLI prints.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unreplied => "unreplied",
            Self::Replied => "replied",
            Self::Stream => "stream",
            Self::SynSent => "syn-sent",
            Self::SynReceived => "syn-received",
            Self::PickedUp => "picked-up",
            Self::Established => "established",
            Self::FinWait => "fin-wait",
            Self::CloseWait => "close-wait",
            Self::LastAck => "last-ack",
            Self::TimeWait => "time-wait",
            Self::Close => "close",
            Self::CookieWait => "cookie-wait",
            Self::CookieEchoed => "cookie-echoed",
            Self::HeartbeatSent => "heartbeat-sent",
            Self::ShutdownSent => "shutdown-sent",
            Self::ShutdownRecd => "shutdown-recd",
            Self::ShutdownAckSent => "shutdown-ack-sent",
            Self::Closed => "closed",
        }
    }

    /// Half-open: lasts from the flow's first packet, whatever comes after it.
    pub(super) const fn is_half_open(self) -> bool {
        matches!(
            self,
            Self::SynSent
                | Self::SynReceived
                | Self::PickedUp
                | Self::CookieWait
                | Self::CookieEchoed
                | Self::HeartbeatSent
        )
    }

    /// Whether a connection of TCP or an association of SCTP in this state has had its handshake.
    pub(super) const fn is_past_handshake(self) -> bool {
        matches!(self, Self::Established | Self::FinWait | Self::CloseWait | Self::LastAck | Self::TimeWait)
            || matches!(self, Self::ShutdownSent | Self::ShutdownRecd | Self::ShutdownAckSent)
    }

    /// Whether the connection is over, so that running out of time is its regular end.
    pub(super) const fn is_over(self) -> bool {
        matches!(self, Self::TimeWait | Self::Close | Self::Closed)
    }
}

impl Timeouts {
    /// How long a flow of an IP protocol lasts in a state.
    #[must_use]
    pub const fn of(&self, protocol: u8, state: FlowState) -> Duration {
        match (state, protocol) {
            (FlowState::SynSent, _) => self.syn_sent,
            (FlowState::PickedUp | FlowState::HeartbeatSent, proto::SCTP) => self.sctp_heartbeat_sent,
            (FlowState::SynReceived | FlowState::PickedUp, _) => self.syn_received,
            (FlowState::CookieWait, _) => self.sctp_cookie_wait,
            (FlowState::CookieEchoed, _) => self.sctp_cookie_echoed,
            (FlowState::HeartbeatSent, _) => self.sctp_heartbeat_sent,
            (FlowState::ShutdownSent, _) => self.sctp_shutdown_sent,
            (FlowState::ShutdownRecd, _) => self.sctp_shutdown_recd,
            (FlowState::ShutdownAckSent, _) => self.sctp_shutdown_ack_sent,
            (FlowState::Closed, _) => self.sctp_closed,
            (FlowState::Established, proto::SCTP) => self.sctp_established,
            (FlowState::Established, _) => self.established,
            (FlowState::FinWait, _) => self.fin_wait,
            (FlowState::CloseWait, _) => self.close_wait,
            (FlowState::LastAck, _) => self.last_ack,
            (FlowState::TimeWait, _) => self.time_wait,
            (FlowState::Close, _) => self.close,
            (FlowState::Unreplied, proto::UDP) => self.udp_first,
            (FlowState::Replied, proto::UDP) => self.udp_exchange,
            (FlowState::Stream, proto::UDP) => self.udp_replied,
            (FlowState::Replied, proto::ICMP | proto::ICMPV6) => self.icmp_exchange,
            (_, proto::ICMP | proto::ICMPV6) => self.icmp,
            (FlowState::Unreplied | FlowState::Replied | FlowState::Stream, _) => self.other,
        }
    }
}
