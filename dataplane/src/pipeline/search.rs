//! Addresses that packets are for and that nobody is known to have: those who may have them are asked, as the sender itself would ask if
//! it did not hold a MAC already. What was learned of unknown hosts ends with its time and with the daemon; what machines have in their
//! caches does not.

use eastgate_vtep::flood::split_horizon;
use eastgate_wire::{Addr, DropReason, Instant, Location, View, view::Ip};

use super::{Arrival, Pipeline, Refusal, batch::Batch, shared::lock};
use crate::snapshot::{Endpoint, sought::Search};

impl<'s> Pipeline<'s> {
    /// Asks for the address of a packet that has nowhere to go, where there is anyone to be asked. What the packet is lost for then: it is
    /// not held back, its sender repeats what it wants to have answered.
    ///
    /// Each address is asked for once a second, at the cost of whoever sends there ([`Pipeline::take_answer_token`]), like a request of
    /// its own: a machine that tries all addresses there are harms itself alone.
    pub(super) fn search(
        &mut self,
        arrival: &Arrival<'s>,
        view: &View,
        now: Instant,
        out: &mut Batch,
    ) -> Option<Refusal> {
        let (network, ip) = (arrival.network, view.ip()?);
        let everyone = network.asks_everyone_for(ip.dst) && view.tags == 0;
        let some = if everyone { Vec::new() } else { self.candidates_elsewhere(arrival, ip.dst) };
        if !everyone && some.is_empty() || ip.src.is_unspecified() {
            return None;
        }
        let search = lock(&network.state.sought).look(ip.dst, now);
        match search {
            Search::Due => {}
            Search::Asked => return Some(DropReason::Unresolved.into()),
            Search::Full => return Some(DropReason::BumLimit.into()),
        }
        let tokens = self.take_answer_token(arrival, now);
        let tokens = tokens.and_then(|()| if everyone { self.take_bum_token(network, now) } else { Ok(()) });
        if let Err(limit) = tokens {
            return Some(limit);
        }
        lock(&network.state.sought).note(ip.dst, now);
        let from = asker(arrival, ip);
        // In proxy mode nobody here knows another MAC than ours, and who answers it answers us.
        let here = if network.proxy { network.proxy_mac } else { view.src };
        if everyone {
            eastgate_steering::ask(ip.dst, from, here, &mut self.made);
            self.flood_ports(arrival, view, out);
            eastgate_steering::ask(ip.dst, from, view.src, &mut self.made);
            for vtep in network.flood.iter().flat_map(|flood| flood.targets(arrival.from)) {
                self.send_made_to(network, Location::Remote(vtep), out);
            }
        }
        for at in some {
            let mac = if matches!(at, Location::Local(_)) { here } else { view.src };
            eastgate_steering::ask(ip.dst, from, mac, &mut self.made);
            self.send_made_to(network, at, out);
        }
        Some(DropReason::Unresolved.into())
    }

    /// Where those are that may have an address that moves, and can be asked for it from here.
    fn candidates_elsewhere(&self, arrival: &Arrival<'s>, address: Addr) -> Vec<Location> {
        let network = arrival.network;
        let mut places = Vec::new();
        if !network.moves(address) {
            return places;
        }
        for candidate in network.candidates(address) {
            let at = candidate.location;
            let goes = at != arrival.from && split_horizon(network.topology, arrival.from, at).is_ok();
            if goes && !places.contains(&at) {
                places.push(at);
            }
        }
        places
    }
}

/// In whose name an address is asked for: the packet's source, or, where that is behind the one who sent it, that one itself: it is on
/// the link of whoever answers.
fn asker(arrival: &Arrival<'_>, ip: &Ip) -> Addr {
    let network = arrival.network;
    let own = |sender: &Endpoint| {
        let mut addresses = sender.holdings().addresses.iter().copied();
        addresses.find(|it| it.family() == ip.src.family() && network.is_on_link(*it))
    };
    arrival.sender.filter(|_| !network.is_on_link(ip.src)).and_then(own).unwrap_or(ip.src)
}
