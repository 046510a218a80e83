//! How long flows are remembered.

use std::{fmt, time::Duration};

/// The same times twice: all of a network, and those that an endpoint has of its own.
macro_rules! timeouts {
    ($(#[doc = $doc:literal] $name:ident,)*) => {
        /// How long a flow in each state is remembered without a packet.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct Timeouts {
            $(#[doc = $doc] pub $name: Duration,)*
        }

        /// Those that one endpoint has in place of its network's.
        #[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
        pub struct OwnTimeouts {
            $(#[doc = $doc] pub $name: Option<Duration>,)*
        }

        impl Timeouts {
            /// With those in place of them that are given.
            #[must_use]
            pub fn with(self, own: &OwnTimeouts) -> Self {
                Self { $($name: own.$name.unwrap_or(self.$name),)* }
            }
        }

        impl OwnTimeouts {
            /// Of a flow of two endpoints that have some: where both say something, the longer one.
            #[must_use]
            pub fn or_longer(self, other: &Self) -> Self {
                Self { $($name: self.$name.max(other.$name),)* }
            }
        }

        /// What is given
        impl fmt::Debug for OwnTimeouts {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let all = [$((stringify!($name), self.$name),)*];
                f.debug_map().entries(all.into_iter().filter_map(|(name, it)| Some((name, it?)))).finish()
            }
        }
    };
}

timeouts! {
    /// TCP, SYN seen.
    tcp_syn,
    /// TCP, handshake done.
    tcp_established,
    /// TCP, one side has sent FIN.
    tcp_fin_wait,
    /// TCP, the FIN is acknowledged.
    tcp_close_wait,
    /// TCP, both sides have sent FIN.
    tcp_last_ack,
    /// TCP, both FINs are acknowledged.
    tcp_time_wait,
    /// TCP, reset.
    tcp_close,
    /// UDP, no answer yet.
    udp_first,
    /// UDP, one exchange.
    udp_exchange,
    /// UDP, going on.
    udp_replied,
    /// SCTP, INIT seen, and perhaps its INIT ACK.
    sctp_cookie_wait,
    /// SCTP, the cookie is echoed.
    sctp_cookie_echoed,
    /// SCTP, the association stands, or a path of it.
    sctp_established,
    /// SCTP, the end that opened it has sent SHUTDOWN.
    sctp_shutdown_sent,
    /// SCTP, the other end has.
    sctp_shutdown_recd,
    /// SCTP, that is acknowledged.
    sctp_shutdown_ack_sent,
    /// SCTP, a HEARTBEAT on a path of its own, unreplied.
    sctp_heartbeat_sent,
    /// SCTP, shut down or aborted.
    sctp_closed,
    /// ICMP echo and the like, one exchange.
    icmp_exchange,
    /// ICMP echo and the like, unreplied or going on.
    icmp,
    /// Any other protocol.
    other,
}
