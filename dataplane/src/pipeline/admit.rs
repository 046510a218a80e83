//! Step 1: who may send what. Nobody sends as somebody else, from wherever the frame came.

use eastgate_policy::admission::{self, Context};
use eastgate_vtep::{
    fdb::{Learned, Location},
    offload::open_checksum_fits,
    peers::PeerKind,
};
use eastgate_wire::{DropReason, Frame, Instant, View, view::Transport};

use super::{Arrival, Pipeline, Refusal, shared::lock};
use crate::snapshot::{Endpoint, Network};

impl<'s> Pipeline<'s> {
    /// May this port send this frame?
    pub(super) fn admit(
        &self,
        arrival: &Arrival<'s>,
        sender: &Endpoint,
        view: &View,
        frame: &Frame<'_>,
        now: Instant,
    ) -> Result<(), Refusal> {
        if view.src == arrival.network.proxy_mac {
            return Err(DropReason::BadSourceMac.into());
        }
        admit_open_checksum(arrival.network, view, frame)?;
        self.admit_sender(arrival, sender, view, frame, now)?;
        self.learn_nested(arrival, sender, view, now)
    }

    /// Would [`Pipeline::admit`] admit this frame? It is not one that was sent, and takes no address.
    pub(super) fn would_admit(
        &self,
        arrival: &Arrival<'s>,
        sender: &Endpoint,
        view: &View,
        frame: &Frame<'_>,
    ) -> Result<(), Refusal> {
        if view.src == arrival.network.proxy_mac {
            return Err(DropReason::BadSourceMac.into());
        }
        let chosen = self.could_have_chosen(arrival.network, sender, view);
        let (ownership, site) = (&arrival.network.directory.ownership, &*self.snapshot.site);
        let context = Context { sender: &sender.sender, ownership, site, chosen };
        Ok(admission::admit(view, frame.bytes(), &context)?)
    }

    /// A machine behind an endpoint that may bridge for others is where that endpoint is.
    fn learn_nested(
        &self,
        arrival: &Arrival<'s>,
        sender: &Endpoint,
        view: &View,
        now: Instant,
    ) -> Result<(), Refusal> {
        let nested = !sender.sender.port_security && !sender.holdings().has_mac(view.src);
        if nested { self.learn_mac(arrival, view, now) } else { Ok(()) }
    }

    /// The checks of a sender that is configured.
    fn admit_sender(
        &self,
        arrival: &Arrival<'s>,
        sender: &Endpoint,
        view: &View,
        frame: &Frame<'_>,
        now: Instant,
    ) -> Result<(), Refusal> {
        let network = arrival.network;
        let chosen = self.has_chosen(network, sender, view, now);
        let (ownership, site) = (&network.directory.ownership, &*self.snapshot.site);
        let context = Context { sender: &sender.sender, ownership, site, chosen };
        Ok(admission::admit(view, frame.bytes(), &context)?)
    }

    /// An endpoint is heard only from the VTEP it is behind. Where that VTEP does not run eastgate,
    /// nobody has checked what it sends, so it is checked here. Unknown hosts are for networks that learn.
    pub(super) fn admit_and_learn(
        &self,
        arrival: &Arrival<'s>,
        view: &View,
        frame: &Frame<'_>,
        now: Instant,
    ) -> Result<(), Refusal> {
        let network = arrival.network;
        let Location::Remote(from) = arrival.from else { return Ok(()) };
        admit_open_checksum(network, view, frame)?;
        match arrival.sender {
            Some(sender) if sender.location != arrival.from => Err(DropReason::MacSpoofed.into()),
            Some(sender) if network.peers.kind(from) == Some(PeerKind::Plain) => {
                self.admit_sender(arrival, sender, view, frame, now)?;
                self.learn_nested(arrival, sender, view, now)
            }
            // Its own host has checked what it sends.
            Some(sender) => {
                let _ = self.has_chosen(network, sender, view, now);
                self.learn_nested(arrival, sender, view, now)
            }
            // Behind one of several that may bridge for others there, whose host has checked what they send
            None if !network.learning
                && (network.peers.kind(from) != Some(PeerKind::Eastgate)
                    || network.unsecured_at(arrival.from).next().is_none()) =>
            {
                Err(DropReason::UnknownEndpoint.into())
            }
            None => {
                let (ownership, site) = (&network.directory.ownership, &self.snapshot.site);
                admission::admit_unknown_host(view, frame.bytes(), &network.tags, ownership, site)?;
                self.learn_mac(arrival, view, now)
            }
        }
    }

    /// Where an unknown host's MAC is. A configured MAC never gets here.
    fn learn_mac(&self, arrival: &Arrival<'s>, view: &View, now: Instant) -> Result<(), Refusal> {
        let mut fdb = lock(&arrival.network.state.fdb);
        if let Learned::Moved(before) = fdb.learn(view.src, arrival.from, now)? {
            tracing::debug!(vni = %arrival.network.vni, mac = %view.src, ?before, to = ?arrival.from, "a MAC moved");
        }
        while let Some(frozen) = fdb.take_report() {
            tracing::warn!(vni = %arrival.network.vni, mac = %frozen.mac, kept = ?frozen.kept, refused = ?frozen.refused,
                "a MAC moved too often and is frozen");
        }
        Ok(())
    }
}

/// What is finished later is nothing by which the frame is decided: neither its headers, nor what is read of its payload.
fn admit_open_checksum(network: &Network, view: &View, frame: &Frame<'_>) -> Result<(), DropReason> {
    let (Some(open), Some(ip)) = (frame.offload.checksum, view.ip()) else {
        return if frame.offload.checksum.is_none() { Ok(()) } else { Err(DropReason::BadL4Header) };
    };
    let is_read = match ip.transport {
        Transport::Udp { sport, dport } => {
            network.control_ports.iter().any(|port| *port != 0 && [sport, dport].contains(port))
        }
        _ => false,
    };
    let fits = open_checksum_fits(frame, view) && (open.start == ip.l4 || !is_read);
    if fits { Ok(()) } else { Err(DropReason::BadL4Header) }
}
