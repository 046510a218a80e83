//! Connections that a change of policy has cut are told to their ends, where their network says so: by a reset in the name of the
//! other end, so that neither waits for what does not come.
//!
//! The resets go by the way that the connection went, to an endpoint here and through the tunnel; another eastgate on that way holds
//! them against the flow that it has.

use std::collections::VecDeque;

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

/// Resets that are waiting to be sent.
#[derive(Debug, Default)]
pub(super) struct Torn(VecDeque<Reset>);

impl Shared {
    /// The ends of a connection are to be told.
    pub(super) fn tell_torn(&self, resets: Vec<Reset>) {
        let mut torn = lock(&self.torn);
        let room = WAITING.saturating_sub(torn.0.len());
        torn.0.extend(resets.into_iter().take(room));
    }
}

impl<'s> Pipeline<'s> {
    /// Tells ends of connections that were cut.
    pub(super) fn reset_torn(&mut self, out: &mut Batch) {
        let mut torn = lock(&self.shared.torn);
        let most = torn.0.len().min(AT_ONCE);
        let due: Vec<Reset> = torn.0.drain(..most).collect();
        drop(torn);
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
