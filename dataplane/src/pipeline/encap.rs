//! Step 8, and 1' on the other side: into the tunnel, as far as it fits, and out of it.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use eastgate_vtep::{
    ecn::{Ecn, OuterTtl},
    encap::{self, Decapsulation},
    entropy::flow_hash,
    fdb::Location,
    mtu::{self, mss},
    offload::{self, note_uncut, note_unfinished_checksum},
};
use eastgate_wire::{
    DropReason, Frame, Instant, View, Vni, VtepAddr,
    view::{Transport, tcp_flags},
};

use super::{
    Arrival, Pipeline, Refusal,
    batch::{Batch, Egress, Tunnel},
};
use crate::snapshot::Network;

impl<'s> Pipeline<'s> {
    /// Takes the VXLAN header off and finds network and sender. The error names the network as far as it is
    /// known.
    pub(super) fn decapsulate(
        &self,
        from: VtepAddr,
        tos: u8,
        datagram: &mut Frame<'_>,
    ) -> Result<(Arrival<'s>, View), (Option<Vni>, DropReason)> {
        let snapshot = self.snapshot;
        let mut found = None;
        let decapsulated = encap::decapsulate(datagram, from, Ecn::of_tos(tos), |vni| {
            let network = snapshot.network(vni)?;
            found = Some(network);
            Some(Decapsulation {
                peers: &network.peers,
                strict: network.strict_reserved,
                vlan_aware: network.encapsulation.vlan_aware,
                own_macs: std::slice::from_ref(&network.proxy_mac),
            })
        });
        let vni = found.map(|network: &Arc<Network>| network.vni);
        let decapsulated = decapsulated.map_err(|reason| (vni, reason))?;
        let view = decapsulated.view;
        let network = found.ok_or((None, DropReason::UnknownVni))?;
        // A VTEP on the same machine whose frames the kernel encapsulated left this to a device that they never met.
        note_unfinished_checksum(datagram, &view);
        note_uncut(datagram, &view, self.tenant_mtu(network, &view));
        let from = Location::Remote(from);
        Ok((Arrival { network, from, sender: network.sender_at(view.src, from) }, view))
    }

    pub(super) fn clamp(&self, network: &Network, view: &View, frame: &mut Frame<'_>) {
        if let Some(ip) = view.ip()
            && let Transport::Tcp(tcp) = ip.transport
            && tcp.flags & tcp_flags::SYN != 0
        {
            mss::clamp(frame, view, mss::mss_for(self.tenant_mtu(network, view), ip.src.is_v4()));
        }
    }

    /// The largest packet of a tenant of this network, in bytes: what the underlay leaves, or less where the
    /// configuration says so.
    pub(super) fn tenant_mtu(&self, network: &Network, view: &View) -> u16 {
        let link = u16::try_from(self.shared.link_mtu.load(Relaxed)).unwrap_or(u16::MAX);
        network.tenant_mtu(link, self.snapshot.vtep.family(), view.tags)
    }

    /// Into the tunnel to one VTEP, if it fits.
    pub(super) fn reach_vtep(
        &mut self,
        arrival: &Arrival<'s>,
        to: VtepAddr,
        view: &mut View,
        frame: &mut Frame<'_>,
        now: Instant,
        out: &mut Batch,
    ) -> Result<(), Refusal> {
        let path_mtu = self.shared.path_mtu_to(to, now);
        if !mtu::fits(view, frame.len(), &frame.offload, path_mtu, to.family()) {
            return self.too_big(arrival, to, path_mtu, view, frame, now, out);
        }
        let tunnel = self.encapsulate(arrival.network, to, view, frame)?;
        out.send(frame, Egress::Tunnel(tunnel), arrival.network.vni);
        Ok(())
    }

    pub(super) fn encapsulate(
        &self,
        network: &Network,
        to: VtepAddr,
        view: &mut View,
        frame: &mut Frame<'_>,
    ) -> Result<Tunnel, Refusal> {
        offload::finish_checksum(frame)?;
        let fields = encap::encapsulate(frame, view, &network.encapsulation, &self.shared.hasher)?;
        Ok(Tunnel {
            to: to.0,
            source: fields.bucket as u16,
            tos: fields.tos,
            ttl: (network.encapsulation.ttl == OuterTtl::Inherit).then_some(fields.ttl),
        })
    }

    /// The outer header for a frame that eastgate made.
    pub(super) fn tunnel_for(&self, network: &Network, to: VtepAddr, inner: &[u8]) -> Tunnel {
        let hash = View::parse(inner).map_or(0, |view| flow_hash(&view, &self.shared.hasher));
        Tunnel { to: to.0, source: network.encapsulation.ports.bucket(hash) as u16, tos: 0, ttl: None }
    }
}
