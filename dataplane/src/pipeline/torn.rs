//! Connections that a change of policy has cut are told to their ends, where their network says so: by a reset in the name of the
//! other end, so that neither waits for what does not come.
//!
//! The resets go by the way that the connection went, to an endpoint here and through the tunnel; another eastgate on that way holds
//! them against the flow that it has.

use std::collections::{HashMap, VecDeque};

use ahash::RandomState;
use eastgate_conntrack::flow::Reset;
use eastgate_vtep::fdb::Location;
use eastgate_wire::{
    Vni,
    reply::{Speaker, tcp_reset_between},
};

use super::{
    Pipeline,
    batch::Batch,
    shared::{Shared, lock},
};
use crate::snapshot::Network;

/// Resets that are waiting to be sent: where there are more, the ends of the others are not told.
const WAITING: usize = 131_072;
/// Resets that are sent by one call
const AT_ONCE: usize = 4096;

/// Resets that are waiting to be sent. No network takes more room than it leaves.
#[derive(Debug, Default)]
pub(super) struct Torn {
    queue: VecDeque<Reset>,
    of_networks: HashMap<Vni, usize, RandomState>,
}

impl Torn {
    fn push(&mut self, reset: Reset) {
        let free = WAITING.saturating_sub(self.queue.len());
        let own = self.of_networks.entry(reset.key.vni).or_default();
        if *own < free {
            *own += 1;
            self.queue.push_back(reset);
        }
    }

    fn take(&mut self, most: usize) -> Vec<Reset> {
        let due: Vec<Reset> = self.queue.drain(..most.min(self.queue.len())).collect();
        for reset in &due {
            if let Some(own) = self.of_networks.get_mut(&reset.key.vni) {
                *own = own.saturating_sub(1);
            }
        }
        if self.queue.is_empty() {
            self.of_networks.clear();
        }
        due
    }
}

impl Shared {
    /// The ends of a connection are to be told.
    pub(super) fn tell_torn(&self, resets: Vec<Reset>) {
        if resets.is_empty() {
            return;
        }
        let mut torn = lock(&self.torn);
        resets.into_iter().for_each(|reset| torn.push(reset));
    }
}

impl<'s> Pipeline<'s> {
    /// Tells ends of connections that were cut.
    pub(super) fn reset_torn(&mut self, out: &mut Batch) {
        let due = lock(&self.shared.torn).take(AT_ONCE);
        for reset in due {
            if let Some(network) = self.network_of(reset.key.vni) {
                self.reset_one(network, &reset, out);
            }
        }
    }

    fn network_of(&self, vni: Vni) -> Option<&'s Network> {
        self.snapshot.network(vni).map(AsRef::as_ref)
    }

    fn reset_one(&mut self, network: &'s Network, reset: &Reset, out: &mut Batch) {
        let Reset { key, seq, ack } = *reset;
        let (Some((_, from)), Some((receiver, to))) =
            (network.at_address(key.src), network.at_address(key.dst))
        else {
            return;
        };
        let at = receiver.location;
        // In proxy mode nobody here knows another MAC than ours.
        let ours = network.proxy && matches!(at, Location::Local(_));
        let from = Speaker { mac: if ours { network.proxy_mac } else { from }, addr: key.src };
        let to = Speaker { mac: to, addr: key.dst };
        if tcp_reset_between(from, to, [key.sport, key.dport], seq, ack, &mut self.made).is_ok() {
            self.send_made_to(network, at, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use eastgate_wire::{Addr, FlowKey, Leg, view::proto};

    use super::*;

    fn reset(vni: u8, port: u16) -> Reset {
        let (src, dst) = (Addr::v4([10, 1, 0, 1]), Addr::v4([10, 1, 0, 2]));
        let vni = Vni::from_wire([0, 0, vni]);
        let key = FlowKey { src, dst, vni, sport: port, dport: 80, proto: proto::TCP, leg: Leg::DIRECT };
        Reset { key, seq: 1, ack: None }
    }

    #[test]
    fn no_network_takes_more_room_than_it_leaves() {
        let mut torn = Torn::default();
        (0..2 * WAITING).for_each(|port| torn.push(reset(1, port as u16)));
        assert_eq!(torn.queue.len(), WAITING / 2);
        (0..10).for_each(|port| torn.push(reset(2, port)));
        assert_eq!(torn.queue.len(), WAITING / 2 + 10);
        let mut sent = Vec::new();
        while sent.len() < WAITING / 2 + 10 {
            sent.extend(torn.take(AT_ONCE));
        }
        assert_eq!(sent.iter().filter(|reset| reset.key.vni == Vni::from_wire([0, 0, 2])).count(), 10);
        assert!(torn.take(AT_ONCE).is_empty() && torn.of_networks.is_empty());
    }
}
