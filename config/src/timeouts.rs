//! How long flows are remembered.

use std::time::Duration;

/// How long a flow in each state is remembered without a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timeouts {
    /// TCP, SYN seen.
    pub tcp_syn: Duration,
    /// TCP, handshake done.
    pub tcp_established: Duration,
    /// TCP, one side has sent FIN.
    pub tcp_fin_wait: Duration,
    /// TCP, the FIN is acknowledged.
    pub tcp_close_wait: Duration,
    /// TCP, both sides have sent FIN.
    pub tcp_last_ack: Duration,
    /// TCP, both FINs are acknowledged.
    pub tcp_time_wait: Duration,
    /// TCP, reset.
    pub tcp_close: Duration,
    /// UDP, no answer yet.
    pub udp_first: Duration,
    /// UDP, one exchange.
    pub udp_exchange: Duration,
    /// UDP, going on.
    pub udp_replied: Duration,
    /// SCTP, INIT seen, and perhaps its INIT ACK.
    pub sctp_cookie_wait: Duration,
    /// SCTP, the cookie is echoed.
    pub sctp_cookie_echoed: Duration,
    /// SCTP, the association stands, or a path of it.
    pub sctp_established: Duration,
    /// SCTP, the end that opened it has sent SHUTDOWN.
    pub sctp_shutdown_sent: Duration,
    /// SCTP, the other end has.
    pub sctp_shutdown_recd: Duration,
    /// SCTP, that is acknowledged.
    pub sctp_shutdown_ack_sent: Duration,
    /// SCTP, a HEARTBEAT on a path of its own, unreplied.
    pub sctp_heartbeat_sent: Duration,
    /// SCTP, shut down or aborted.
    pub sctp_closed: Duration,
    /// ICMP echo and the like, one exchange.
    pub icmp_exchange: Duration,
    /// ICMP echo and the like, unreplied or going on.
    pub icmp: Duration,
    /// Any other protocol.
    pub other: Duration,
}
