//! How the flows of a network are tracked, and those of endpoints that have timeouts of their own.
//!
//! A flow lasts as an end of it says that has timeouts of its own; where both have, as the one says that keeps it longer. What
//! neither says is the network's. So it makes no difference which of them opened it, nor on which host it is looked at.

use eastgate_config::{self as config, OnChange, TcpMode, Timeouts};
use eastgate_conntrack::flow::{self, StateSettings};
use eastgate_wire::{Addr, FlowKey};

use super::{Endpoint, Network};

impl Network {
    /// How a flow between these ends is tracked, as far as they are endpoints.
    #[must_use]
    pub fn tracking_between(&self, ends: [Option<&Endpoint>; 2]) -> StateSettings {
        let own = match ends.map(|end| end.and_then(|end| end.timeouts.as_deref())) {
            [None, None] => return self.tracking,
            [Some(own), None] | [None, Some(own)] => *own,
            [Some(one), Some(other)] => one.or_longer(other),
        };
        self.config().map_or(self.tracking, |config| of_network(config, config.timeouts.with(&own)))
    }

    /// Do the ends of a flow say how long it lasts, by their addresses?
    #[must_use]
    pub fn has_own_timeouts(&self, key: &FlowKey) -> bool {
        let at = |address| self.end_at(address).is_some_and(|end| end.timeouts.is_some());
        self.own_timeouts && (at(key.src) || at(key.dst))
    }

    /// The endpoint that an address is of, or is behind.
    fn end_at(&self, address: Addr) -> Option<&Endpoint> {
        self.at_address(address).map(|(end, _)| end).or_else(|| self.behind(address))
    }

    /// How a flow is tracked, by the addresses of its ends.
    #[must_use]
    pub fn tracking_of(&self, key: &FlowKey) -> StateSettings {
        if !self.own_timeouts {
            return self.tracking;
        }
        self.tracking_between([key.src, key.dst].map(|address| self.end_at(address)))
    }
}

pub(super) fn of_network(network: &config::Network, from: Timeouts) -> StateSettings {
    StateSettings {
        timeouts: flow::Timeouts {
            syn_sent: from.tcp_syn,
            syn_received: from.tcp_syn,
            established: from.tcp_established,
            fin_wait: from.tcp_fin_wait,
            close_wait: from.tcp_close_wait,
            last_ack: from.tcp_last_ack,
            time_wait: from.tcp_time_wait,
            close: from.tcp_close,
            udp_first: from.udp_first,
            udp_exchange: from.udp_exchange,
            udp_replied: from.udp_replied,
            sctp_cookie_wait: from.sctp_cookie_wait,
            sctp_cookie_echoed: from.sctp_cookie_echoed,
            sctp_established: from.sctp_established,
            sctp_shutdown_sent: from.sctp_shutdown_sent,
            sctp_shutdown_recd: from.sctp_shutdown_recd,
            sctp_shutdown_ack_sent: from.sctp_shutdown_ack_sent,
            sctp_heartbeat_sent: from.sctp_heartbeat_sent,
            sctp_closed: from.sctp_closed,
            icmp_exchange: from.icmp_exchange,
            icmp: from.icmp,
            other: from.other,
        },
        loose: network.tcp == TcpMode::Loose,
        on_change: match network.on_change {
            OnChange::Recheck | OnChange::Cut | OnChange::Reset => flow::OnChange::Recheck,
            OnChange::Keep => flow::OnChange::Keep,
        },
    }
}
