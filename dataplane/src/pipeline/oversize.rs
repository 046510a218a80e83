//! Step 8 for what does not fit its path: cut where the network and the packet allow it, else lost, and its sender
//! told where there is a way to tell it.

use std::sync::atomic::Ordering::Relaxed;

use eastgate_config::Oversize;
use eastgate_vtep::{
    header,
    mtu::{self, fragment::fragment_v4},
    offload::{self, segment::segment},
};
use eastgate_wire::{DropReason, Frame, Instant, View, VtepAddr, reply::Speaker};

use super::{
    Arrival, Pipeline, Refusal,
    batch::{Batch, Egress, Tunnel},
    counters::Subject,
    shared::lock,
};
use crate::snapshot::Network;

/// Copies of a BUM frame that do not fit the paths they would take.
#[derive(Clone, Copy)]
pub(super) struct LostCopies {
    /// At least one
    pub(super) frames: u64,
    pub(super) bytes: u64,
    pub(super) subject: Subject,
}

impl<'s> Pipeline<'s> {
    /// A packet that does not fit is cut where the network says so and the packet allows it; otherwise its
    /// sender is told.
    #[allow(
        clippy::too_many_arguments,
        reason = "each is a different thing, and a struct would only rename them"
    )]
    pub(super) fn too_big(
        &mut self,
        arrival: &Arrival<'s>,
        to: VtepAddr,
        path_mtu: u16,
        view: &View,
        frame: &mut Frame<'_>,
        now: Instant,
        out: &mut Batch,
    ) -> Result<(), Refusal> {
        let tenant_mtu = mtu::tenant_mtu(path_mtu, to.family(), view.tags);
        if may_be_cut(arrival.network, view) {
            return self.send_in_pieces(arrival.network, to, tenant_mtu, view, frame, out);
        }
        self.tell_too_big(arrival, tenant_mtu, view, frame, now, out);
        Err(DropReason::TooBig.into())
    }

    /// Leaves out the VTEPs that no copy of the frame fits on its way to, and tells the sender where it can be
    /// told. Copies are not cut: the pieces behind the first name no ports, by which each receiver's rules would let
    /// them in.
    pub(super) fn leave_out_too_big(
        &mut self,
        arrival: &Arrival<'s>,
        vteps: &mut Vec<VtepAddr>,
        view: &View,
        frame: &Frame<'_>,
        now: Instant,
        out: &mut Batch,
    ) -> Option<LostCopies> {
        let before = vteps.len();
        let mut narrowest = u16::MAX;
        vteps.retain(|vtep| {
            let path_mtu = self.shared.path_mtu_to(*vtep, now);
            let fits = mtu::fits(view, frame.len(), &frame.offload, path_mtu, vtep.family());
            if !fits {
                narrowest = narrowest.min(mtu::tenant_mtu(path_mtu, vtep.family(), view.tags));
            }
            fits
        });
        let frames = (before - vteps.len()) as u64;
        if frames == 0 {
            return None;
        }
        self.tell_too_big(arrival, narrowest, view, frame, now, out);
        let subject = Subject::of_view(arrival.network.vni, view, frame.bytes());
        Some(LostCopies { frames, bytes: frames * frame.len() as u64, subject })
    }

    /// Sends an IPv4 packet in fragments. What stands for several packets is cut into those first, as the sender's
    /// device would have done.
    fn send_in_pieces(
        &mut self,
        network: &Network,
        to: VtepAddr,
        tenant_mtu: u16,
        view: &View,
        frame: &mut Frame<'_>,
        out: &mut Batch,
    ) -> Result<(), Refusal> {
        let Some(gso) = frame.offload.gso else {
            offload::finish_checksum(frame)?;
            return self.fragment(network, to, tenant_mtu, view, frame.bytes(), out);
        };
        let mut packets = Vec::new();
        let layout = segment(frame.bytes(), view, gso, &[], &mut packets)?;
        for packet in packets.chunks(layout.size.max(1)) {
            self.fragment(network, to, tenant_mtu, &View::parse(packet)?, packet, out)?;
        }
        Ok(())
    }

    fn fragment(
        &mut self,
        network: &Network,
        to: VtepAddr,
        tenant_mtu: u16,
        view: &View,
        packet: &[u8],
        out: &mut Batch,
    ) -> Result<(), Refusal> {
        self.made.clear();
        let pieces = fragment_v4(packet, view, tenant_mtu, &mut self.made)?;
        self.counters.fragmented.fetch_add(u64::from(pieces.len() > 1), Relaxed);
        let header = header::encode(network.vni);
        for piece in pieces {
            let Some(bytes) = self.made.get(piece) else { continue };
            let tos = network.encapsulation.tos.encapsulate(view);
            let tunnel = Tunnel { tos, ..self.tunnel_for(network, to, bytes) };
            out.send_made(&[&header, bytes], Egress::Tunnel(tunnel), network.vni);
        }
        Ok(())
    }

    /// Tells the sender of a packet how large it may be, where the sender can be told.
    fn tell_too_big(
        &mut self,
        arrival: &Arrival<'s>,
        tenant_mtu: u16,
        view: &View,
        frame: &Frame<'_>,
        now: Instant,
        out: &mut Batch,
    ) {
        let Some(speaker) = Speaker::destination_of(view) else { return };
        let mut too_big = lock(&arrival.network.state.too_big);
        let told = too_big.answer(frame.bytes(), view, speaker, tenant_mtu, now, &mut self.made);
        drop(too_big);
        if told.is_ok() {
            self.send_back(arrival, out);
        }
    }
}

/// May eastgate cut this packet? Routers may only in IPv4, and only without DF (RFC 791, RFC 8200 section 4.5).
fn may_be_cut(network: &Network, view: &View) -> bool {
    network.oversize == Oversize::Fragment && view.ip().is_some_and(|ip| ip.src.is_v4() && !ip.dont_fragment)
}
