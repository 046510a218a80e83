//! How long flows are remembered, in the tables of networks and of endpoints.

use schemars::SchemaGenerator;
use toml::de::DeTable;

use super::Seconds;
use crate::{
    read::{At, Field, Read, Reader, Span, table},
    values::Int,
};

table! {
    /// Seconds that a flow is remembered without a packet.
    "timeouts table"
    struct TimeoutsTable {
        /// TCP, SYN seen.
        default tcp_syn: Seconds = Int(30),
        /// TCP, handshake done.
        default tcp_established: Seconds = Int(7440),
        /// TCP, one side has sent FIN.
        default tcp_fin_wait: Seconds = Int(7440),
        /// TCP, that FIN is acknowledged.
        default tcp_close_wait: Seconds = Int(7440),
        /// TCP, both sides have sent FIN.
        default tcp_last_ack: Seconds = Int(30),
        /// TCP, both FINs are acknowledged.
        default tcp_time_wait: Seconds = Int(120),
        /// TCP, reset.
        default tcp_close: Seconds = Int(10),
        /// UDP, unreplied.
        default udp_first: Seconds = Int(30),
        /// UDP, answered, and silent within two seconds.
        default udp_exchange: Seconds = Int(30),
        /// UDP, answered, and going on for longer: a stream.
        default udp_replied: Seconds = Int(300),
        /// SCTP, INIT seen, and perhaps its INIT ACK.
        default sctp_cookie_wait: Seconds = Int(30),
        /// SCTP, the cookie is echoed.
        default sctp_cookie_echoed: Seconds = Int(30),
        /// SCTP, the association stands, or a path of it.
        default sctp_established: Seconds = Int(210),
        /// SCTP, the end that opened it has sent SHUTDOWN.
        default sctp_shutdown_sent: Seconds = Int(30),
        /// SCTP, the other end has.
        default sctp_shutdown_recd: Seconds = Int(30),
        /// SCTP, that is acknowledged.
        default sctp_shutdown_ack_sent: Seconds = Int(30),
        /// SCTP, a HEARTBEAT on a path of its own, unreplied.
        default sctp_heartbeat_sent: Seconds = Int(30),
        /// SCTP, shut down or aborted.
        default sctp_closed: Seconds = Int(10),
        /// ICMP queries, answered, and silent within two seconds.
        default icmp_exchange: Seconds = Int(30),
        /// ICMP queries, unreplied or going on.
        default icmp: Seconds = Int(60),
        /// Other protocols.
        default other: Seconds = Int(600),
    }
}

table! {
    /// Seconds that a flow of one endpoint is remembered without a packet; what is left out is as its network says.
    "timeouts table"
    struct EndpointTimeoutsTable {
        /// TCP, SYN seen.
        optional tcp_syn: Seconds,
        /// TCP, handshake done.
        optional tcp_established: Seconds,
        /// TCP, one side has sent FIN.
        optional tcp_fin_wait: Seconds,
        /// TCP, that FIN is acknowledged.
        optional tcp_close_wait: Seconds,
        /// TCP, both sides have sent FIN.
        optional tcp_last_ack: Seconds,
        /// TCP, both FINs are acknowledged.
        optional tcp_time_wait: Seconds,
        /// TCP, reset.
        optional tcp_close: Seconds,
        /// UDP, unreplied.
        optional udp_first: Seconds,
        /// UDP, answered, and silent within two seconds.
        optional udp_exchange: Seconds,
        /// UDP, answered, and going on for longer: a stream.
        optional udp_replied: Seconds,
        /// SCTP, INIT seen, and perhaps its INIT ACK.
        optional sctp_cookie_wait: Seconds,
        /// SCTP, the cookie is echoed.
        optional sctp_cookie_echoed: Seconds,
        /// SCTP, the association stands, or a path of it.
        optional sctp_established: Seconds,
        /// SCTP, the end that opened it has sent SHUTDOWN.
        optional sctp_shutdown_sent: Seconds,
        /// SCTP, the other end has.
        optional sctp_shutdown_recd: Seconds,
        /// SCTP, that is acknowledged.
        optional sctp_shutdown_ack_sent: Seconds,
        /// SCTP, a HEARTBEAT on a path of its own, unreplied.
        optional sctp_heartbeat_sent: Seconds,
        /// SCTP, shut down or aborted.
        optional sctp_closed: Seconds,
        /// ICMP queries, answered, and silent within two seconds.
        optional icmp_exchange: Seconds,
        /// ICMP queries, unreplied or going on.
        optional icmp: Seconds,
        /// Other protocols.
        optional other: Seconds,
    }
}
