//! Step 7: the way out: a local attachment, one VTEP, or copies to many.

use eastgate_steering::rewrite;
use eastgate_vtep::{fdb::Location, flood::split_horizon, header, offload, peers::PeerKind};
use eastgate_wire::{DropReason, Frame, Instant, View, VtepAddr};

use super::{
    Arrival, Outcome, Pipeline, Refusal,
    batch::{Batch, Egress, Tunnel},
    counters::{DropCount, DropKey},
    decide::InHand,
    locate::Destination,
    members::ToPorts,
    oversize::LostCopies,
    shared::lock,
};
use crate::snapshot::{Endpoint, Network};

impl<'s> Pipeline<'s> {
    /// Sends a frame where it goes.
    pub(super) fn forward(
        &mut self,
        arrival: &Arrival<'s>,
        to: &Destination<'s>,
        view: &mut View,
        frame: &mut Frame<'_>,
        now: Instant,
        out: &mut Batch,
    ) -> Result<Outcome, Refusal> {
        match *to {
            Destination::Station { endpoint, at, .. } => {
                self.reach_station(arrival, endpoint, at, view, frame, now, out)?;
                Ok(Outcome::Forward)
            }
            Destination::Role(role) => {
                let players = arrival.network.endpoints().filter(|it| role.is_played_by(it));
                let players: Vec<_> = players.collect();
                self.reach_some(arrival, &players, ToPorts::Frame, view, frame, now, out)
            }
            Destination::Speakers => {
                let bytes = frame.bytes();
                let others = arrival.network.endpoints().filter(|it| it.location != arrival.from);
                let speakers: Vec<_> = others.filter(|it| it.sender.speaks(view, bytes)).collect();
                self.reach_some(arrival, &speakers, ToPorts::Frame, view, frame, now, out)
            }
            Destination::Sharers => {
                let sharers = arrival.sender.map(|sender| arrival.network.sharers_with(sender));
                let sharers = sharers.unwrap_or_default();
                self.reach_some(arrival, &sharers, ToPorts::Frame, view, frame, now, out)
            }
            Destination::Group => self.reach_group(arrival, view, frame, now, out),
            Destination::Flood { control } => self.flood(arrival, control, view, frame, now, out),
        }
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "each is a different thing, and a struct would only rename them"
    )]
    fn reach_station(
        &mut self,
        arrival: &Arrival<'s>,
        endpoint: Option<&'s Endpoint>,
        at: Location,
        view: &mut View,
        frame: &mut Frame<'_>,
        now: Instant,
        out: &mut Batch,
    ) -> Result<(), Refusal> {
        let network = arrival.network;
        if at == arrival.from && matches!(at, Location::Local(_)) {
            return Err(DropReason::Hairpin.into());
        }
        split_horizon(network.topology, arrival.from, at)?;
        let entry = match at {
            Location::Local(_) => self.kernel_entry(arrival, endpoint, view, frame, now, out)?,
            Location::Remote(_) => None,
        };
        if network.proxy && view.ip().is_some() {
            self.speak_for(network, endpoint, at, view, frame, now);
        }
        if network.mss_clamp {
            self.clamp(network, view, frame);
        }
        match at {
            Location::Local(attachment) => {
                // A socket cannot tell a device that it is a CRC that is left open.
                if frame.offload.checksum.is_some_and(|sum| sum.is_crc32c()) {
                    offload::finish_checksum(frame)?;
                }
                if let Some(endpoint) = endpoint {
                    endpoint.state.received(1, frame.len() as u64);
                }
                if entry.is_some() {
                    self.address_to_kernel(network, frame);
                }
                out.send(frame, Egress::Attachment(entry.unwrap_or(attachment)), network.vni);
            }
            Location::Remote(vtep) => self.reach_vtep(arrival, vtep, view, frame, now, out)?,
        }
        Ok(())
    }

    /// Both MACs of a frame that a station is to have from the appliance, and nothing else of it. Between two
    /// eastgates a frame carries the stations' own MACs, by which the other one knows them.
    fn speak_for(
        &self,
        network: &Network,
        endpoint: Option<&Endpoint>,
        at: Location,
        view: &mut View,
        frame: &mut Frame<'_>,
        now: Instant,
    ) {
        let to_the_station = match at {
            Location::Local(_) => true,
            Location::Remote(vtep) => network.peers.kind(vtep) == Some(PeerKind::Plain),
        };
        if view.dst == network.proxy_mac {
            let learned = || {
                let address = view.ip()?.dst;
                Some(lock(&network.state.learned).by_address(address, now)?.mac)
            };
            let held = || network.at_address(view.ip()?.dst).map(|(_, mac)| mac);
            view.dst = held().or_else(learned).or(endpoint.map(|endpoint| endpoint.mac)).unwrap_or(view.dst);
        }
        if to_the_station {
            view.src = network.proxy_mac;
        }
        // A parsed frame has both MACs.
        let _ = rewrite(frame.bytes_mut(), view.src, view.dst);
    }

    /// Sends the frame that eastgate made to where the frame in hand came from.
    pub(super) fn send_back(&self, arrival: &Arrival<'s>, out: &mut Batch) {
        self.send_made_to(arrival.network, arrival.from, out);
    }

    /// Sends the frame that eastgate made to one place.
    pub(super) fn send_made_to(&self, network: &Network, at: Location, out: &mut Batch) {
        match at {
            Location::Local(attachment) => {
                out.send_made(&[&self.made], Egress::Attachment(attachment), network.vni)
            }
            Location::Remote(vtep) => {
                let tunnel = self.tunnel_for(network, vtep, &self.made);
                let header = header::encode(network.vni);
                out.send_made(&[&header, &self.made], Egress::Tunnel(tunnel), network.vni);
            }
        }
    }

    /// Sends the frame in hand, as it is, to one place.
    pub(super) fn deliver_copy(
        &self,
        arrival: &Arrival<'s>,
        at: Location,
        frame: &mut Frame<'_>,
        out: &mut Batch,
    ) {
        let network = arrival.network;
        match at {
            Location::Local(attachment) => out.send(frame, Egress::Attachment(attachment), network.vni),
            Location::Remote(vtep) => {
                let tunnel = self.tunnel_for(network, vtep, frame.bytes());
                let header = header::encode(network.vni);
                out.send_made(&[&header, frame.bytes()], Egress::Tunnel(tunnel), network.vni);
            }
        }
    }

    /// To everyone but where it came from; to each receiver only what its rules let in.
    fn flood(
        &mut self,
        arrival: &Arrival<'s>,
        control: bool,
        view: &mut View,
        frame: &mut Frame<'_>,
        now: Instant,
        out: &mut Batch,
    ) -> Result<Outcome, Refusal> {
        let network = arrival.network;
        self.take_bum_token(network, now)?;
        // All copies share the frame's bytes, and those for the tunnel need it whole.
        offload::finish_checksum(frame)?;
        let mut refused = None;
        let mut copies = 0;
        for endpoint in network.endpoints() {
            let Location::Local(attachment) = endpoint.location else { continue };
            if arrival.from == endpoint.location || !endpoint.sender.tags.admit(view) {
                continue;
            }
            let packet = InHand { arrival, frame, now };
            match if control { Ok(()) } else { self.may_receive(&packet, endpoint, view) } {
                Ok(()) => {
                    out.send(frame, Egress::Attachment(attachment), network.vni);
                    endpoint.state.received(1, frame.len() as u64);
                    copies += 1;
                }
                Err(refusal) => refused = Some(refusal),
            }
        }
        let mut vteps: Vec<VtepAddr> =
            network.flood.iter().flat_map(|flood| flood.targets(arrival.from)).collect();
        let lost = self.leave_out_too_big(arrival, &mut vteps, view, frame, now, out);
        copies += vteps.len();
        self.replicate(network, &vteps, view, frame, out)?;
        match refused {
            // Nobody here: a host of a mesh hears what is flooded also where it has no one to give it to.
            None if copies == 0 && lost.is_none() && !arrival.is_local() => Ok(Outcome::Flood),
            refused => self.flooded(arrival, copies, lost, refused.unwrap_or(DropReason::NoPeer.into()), now),
        }
    }

    /// What became of a BUM frame, of which `lost` copies did not fit: each of those counts. Where no copy
    /// went anywhere, the frame is dropped as one of them, or else for the reason `nobody`.
    pub(super) fn flooded(
        &self,
        arrival: &Arrival<'s>,
        copies: usize,
        lost: Option<LostCopies>,
        nobody: Refusal,
        now: Instant,
    ) -> Result<Outcome, Refusal> {
        let Some(lost) = lost else { return if copies == 0 { Err(nobody) } else { Ok(Outcome::Flood) } };
        let uncounted = u64::from(copies == 0);
        let frames = lost.frames - uncounted;
        if frames > 0 {
            let reason = DropReason::TooBig;
            let vni = Some(arrival.network.vni);
            let key = DropKey { vni, reason, from: Some(arrival.from), by: None, rule: None };
            let bytes = lost.bytes / lost.frames * frames;
            self.counters.add(
                key,
                &DropCount { frames, bytes, first_at: now, last_at: now, last: Some(lost.subject) },
            );
        }
        if copies == 0 { Err(DropReason::TooBig.into()) } else { Ok(Outcome::Flood) }
    }

    /// One copy of the frame for each VTEP: one encapsulating, many outer headers. They fit.
    pub(super) fn replicate(
        &self,
        network: &Network,
        vteps: &[VtepAddr],
        view: &mut View,
        frame: &mut Frame<'_>,
        out: &mut Batch,
    ) -> Result<(), Refusal> {
        let Some(first) = vteps.first() else { return Ok(()) };
        let tunnel = self.encapsulate(network, *first, view, frame)?;
        for vtep in vteps {
            out.send(frame, Egress::Tunnel(Tunnel { to: vtep.0, ..tunnel }), network.vni);
        }
        Ok(())
    }

    /// Sends the frame that eastgate made, with the tags of the one in hand, to every port but the one that came from.
    pub(super) fn flood_ports(&self, arrival: &Arrival<'s>, view: &View, out: &mut Batch) {
        let network = arrival.network;
        for endpoint in network.endpoints().filter(|it| it.sender.tags.admit(view)) {
            if let Location::Local(attachment) = endpoint.location
                && arrival.from != endpoint.location
            {
                out.send_made(&[&self.made], Egress::Attachment(attachment), network.vni);
            }
        }
    }

    /// Sends the frame in hand to every VTEP that flooding reaches, and to no port.
    pub(super) fn flood_overlay(
        &mut self,
        arrival: &Arrival<'s>,
        view: &View,
        frame: &mut Frame<'_>,
        now: Instant,
        out: &mut Batch,
    ) -> Result<(), Refusal> {
        let network = arrival.network;
        let mut vteps: Vec<VtepAddr> =
            network.flood.iter().flat_map(|flood| flood.targets(arrival.from)).collect();
        let lost = self.leave_out_too_big(arrival, &mut vteps, view, frame, now, out);
        self.replicate(network, &vteps, &mut view.clone(), frame, out)?;
        // This host has had its own.
        self.flooded(arrival, 1 + vteps.len(), lost, DropReason::NoPeer.into(), now).map(drop)
    }

    /// Takes one of the network's tokens: one for a frame, however many copies it becomes.
    pub(super) fn take_bum_token(&self, network: &Network, now: Instant) -> Result<(), Refusal> {
        if lock(&network.state.bum).take(now) { Ok(()) } else { Err(DropReason::BumLimit.into()) }
    }
}
