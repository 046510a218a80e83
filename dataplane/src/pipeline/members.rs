//! Frames for some members of a network: those with a role, those who may have an address, those who share one.

use std::sync::atomic::Ordering::Relaxed;

use eastgate_policy::{
    naive,
    rule::{Direction, Probe},
};
use eastgate_vtep::{fdb::Location, flood::split_horizon, offload, peers::PeerKind};
use eastgate_wire::{Addr, DropReason, Frame, Holdings, Instant, View, VtepAddr};

use super::{
    Arrival, Outcome, Pipeline, Refusal,
    batch::{Batch, Egress},
    decide::InHand,
    shared::lock,
};
use crate::snapshot::{Endpoint, Network};

/// What ports get of a frame whose copies for other VTEPs are the frame itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ToPorts {
    /// The frame too
    Frame,
    /// The frame that eastgate made in its place
    Made,
}

impl<'s> Pipeline<'s> {
    /// A copy for each of these endpoints but the one at the place that the frame came from. Another VTEP gets one
    /// copy however many of them it has.
    #[allow(
        clippy::too_many_arguments,
        reason = "each is a different thing, and a struct would only rename them"
    )]
    pub(super) fn reach_some(
        &mut self,
        arrival: &Arrival<'s>,
        receivers: &[&'s Endpoint],
        to_ports: ToPorts,
        view: &View,
        frame: &mut Frame<'_>,
        now: Instant,
        out: &mut Batch,
    ) -> Result<Outcome, Refusal> {
        let network = arrival.network;
        self.take_bum_token(network, now)?;
        // All copies share the frame's bytes, and those for the tunnel need it whole.
        offload::finish_checksum(frame)?;
        let mut vteps: Vec<VtepAddr> = Vec::new();
        let mut copies = 0;
        for endpoint in receivers.iter().filter(|endpoint| endpoint.sender.tags.admit(view)) {
            match endpoint.location {
                at if at == arrival.from => {}
                Location::Local(attachment) => {
                    match to_ports {
                        ToPorts::Frame => out.send(frame, Egress::Attachment(attachment), network.vni),
                        ToPorts::Made => {
                            out.send_made(&[&self.made], Egress::Attachment(attachment), network.vni)
                        }
                    }
                    endpoint.state.received(1, frame.len() as u64);
                    copies += 1;
                }
                Location::Remote(vtep)
                    if split_horizon(network.topology, arrival.from, endpoint.location).is_ok()
                        && !vteps.contains(&vtep) =>
                {
                    vteps.push(vtep);
                }
                Location::Remote(_) => {}
            }
        }
        let lost = self.leave_out_too_big(arrival, &mut vteps, view, frame, now, out);
        copies += vteps.len();
        self.replicate(network, &vteps, &mut view.clone(), frame, out)?;
        self.flooded(arrival, copies, lost, DropReason::UnknownDestination.into(), now)
    }

    /// A question for an address that nobody is known to have goes to those who may have it.
    #[allow(
        clippy::too_many_arguments,
        reason = "each is a different thing, and a struct would only rename them"
    )]
    pub(super) fn seek(
        &mut self,
        arrival: &Arrival<'s>,
        target: Addr,
        to_ports: ToPorts,
        view: &View,
        frame: &mut Frame<'_>,
        now: Instant,
        out: &mut Batch,
    ) -> Result<Outcome, Refusal> {
        let receivers = arrival.network.candidates(target);
        let sought = self.reach_some(arrival, &receivers, to_ports, view, frame, now, out);
        sought.map_err(|refusal| match refusal.reason {
            DropReason::UnknownDestination => DropReason::NeighborUnknown.into(),
            _ => refusal,
        })
    }
}

impl<'s> Pipeline<'s> {
    /// A frame for a group goes to those whose rules let it in. What is applied elsewhere is asked there.
    pub(super) fn reach_group(
        &mut self,
        arrival: &Arrival<'s>,
        view: &View,
        frame: &mut Frame<'_>,
        now: Instant,
        out: &mut Batch,
    ) -> Result<Outcome, Refusal> {
        let network = arrival.network;
        let mut refused = None;
        let mut receivers = Vec::new();
        for endpoint in network.endpoints().filter(|endpoint| endpoint.location != arrival.from) {
            match self.may_receive(&InHand { arrival, frame, now }, endpoint, view) {
                Ok(()) => receivers.push(endpoint),
                Err(refusal) => refused = Some(refusal),
            }
        }
        let reached = self.reach_some(arrival, &receivers, ToPorts::Frame, view, frame, now, out);
        reached.or_else(|refusal| match refusal.reason {
            // Nobody here: whoever sent it gave it to every host that may have somebody.
            DropReason::UnknownDestination if !arrival.is_local() && refused.is_none() => Ok(Outcome::Flood),
            DropReason::UnknownDestination => Err(refused.unwrap_or(refusal)),
            _ => Err(refusal),
        })
    }

    /// Tells everyone who may have heard otherwise where addresses are now: some of those that have changed; and ends of connections
    /// that these were cut.
    pub fn announce(&mut self, out: &mut Batch) {
        self.reset_torn(out);
        if !self.shared.has_changed.swap(false, Relaxed) {
            return;
        }
        let snapshot = self.snapshot;
        for network in snapshot.networks() {
            self.tell_learned(network, out);
            self.lead_pairs(network, out);
            let due = lock(&network.state.changed).take(ANNOUNCED_AT_ONCE);
            if due.len() == ANNOUNCED_AT_ONCE {
                self.shared.has_changed.store(true, Relaxed);
            }
            for address in due {
                self.announce_one(network, address, out);
            }
        }
    }

    fn announce_one(&mut self, network: &'s Network, address: Addr, out: &mut Batch) {
        let Some((endpoint, mac)) = network.at_address(address) else { return };
        eastgate_steering::announcement(address, mac, endpoint.sender.router, &mut self.made);
        // In proxy mode nobody here knows another MAC than ours.
        let ports = network.endpoints().filter(|it| !network.proxy && it.location != endpoint.location);
        let ports: Vec<Location> =
            ports.map(|it| it.location).filter(|at| matches!(at, Location::Local(_))).collect();
        // VTEPs that run eastgate tell their own ports, when their configuration says so.
        let speaks = network.hub_here || endpoint.attachment().is_some();
        let plain = network.peers.iter().filter(|(_, kind)| speaks && *kind == PeerKind::Plain);
        let plain = plain.map(|(vtep, _)| Location::Remote(vtep)).filter(|at| *at != endpoint.location);
        for at in ports.into_iter().chain(plain.collect::<Vec<_>>()) {
            self.send_made_to(network, at, out);
        }
    }
}

/// Addresses of a network that are announced by one call.
const ANNOUNCED_AT_ONCE: usize = 64;

impl Endpoint {
    /// Is there an address that both may have by name, or a prefix that both may use?
    #[must_use]
    pub fn shares_with(&self, other: &Self) -> bool {
        let (a, b) = (self.holdings(), other.holdings());
        let meets = |a: &Holdings, b: &Holdings| {
            a.pairs.iter().any(|pair| {
                b.pairs.iter().any(|theirs| pair.covers(theirs.network) && pair.len <= theirs.len)
                    || pair.is_exact() && b.addresses.contains(&pair.network)
            })
        };
        self.id != other.id && (meets(a, b) || meets(b, a))
    }
}

impl Network {
    /// The endpoints that share an address with this one.
    #[must_use]
    pub fn sharers_with(&self, endpoint: &Endpoint) -> Vec<&Endpoint> {
        self.endpoints().filter(|other| endpoint.shares_with(other)).collect()
    }

    /// Does it have an address that others may have?
    #[must_use]
    pub fn shares_at_all(&self, endpoint: &Endpoint) -> bool {
        let holdings = endpoint.holdings();
        let own_is_shared =
            holdings.addresses.iter().any(|address| !self.directory.ownership.sharers(*address).is_empty());
        own_is_shared || !holdings.pairs.is_empty()
    }

    /// Does a rule of the sender name the group or broadcast address that a frame is for, and what it carries? A rule for any
    /// destination names none.
    #[must_use]
    pub fn names_group(&self, sender: &Endpoint, view: &View) -> bool {
        let (Some(source), Some(ip)) = (&self.multicast.named, view.ip()) else { return false };
        self.multicast.is_group(ip.dst)
            && Probe::of(ip).is_ok_and(|probe| {
                let said = naive::decide(source, sender.id, Direction::Egress, ip.dst, &probe);
                said.drop_reason(Direction::Egress).is_none()
            })
    }

    /// The endpoints that may have an address: those in whose name it is; where it is in nobody's, those with a prefix
    /// that it is in, and those that are not held to addresses at all.
    #[must_use]
    pub fn candidates(&self, address: Addr) -> Vec<&Endpoint> {
        let sharers = self.directory.ownership.sharers(address);
        let owner = self.directory.ownership.owner(address);
        if owner.is_some() || !sharers.is_empty() {
            let named = owner.iter().chain(sharers);
            return named.filter_map(|id| self.endpoint(*id)).collect();
        }
        let wide = self.directory.ownership.wide().iter().filter_map(|id| self.endpoint(*id));
        let covering = wide.filter(|endpoint| endpoint.holdings().pair_for(address).is_some());
        let unsecured = self.directory.unsecured.iter().filter_map(|id| self.endpoint(*id));
        let unsecured = unsecured.filter(|endpoint| endpoint.holdings().pair_for(address).is_none());
        let learners = self.directory.learners.iter().filter_map(|id| self.endpoint(*id));
        let learners = learners.filter(|endpoint| endpoint.may_come_to(address));
        covering.chain(unsecured).chain(learners).collect()
    }

    /// Is there anyone who may have an address?
    pub(crate) fn has_candidates(&self, address: Addr) -> bool {
        !self.candidates(address).is_empty()
    }
}
