//! Frames that take the path apart from a received message: fragments that have waited for their first, and what stands
//! for several packets that cannot be decided, or sent, as one.

use eastgate_conntrack::fragment::Waiting;
use eastgate_vtep::{
    fdb::Location,
    offload::{
        segment::{Layout, segment},
        tunneled::{self, is_tunneled},
    },
};
use eastgate_wire::{DropReason, Frame, Instant, Offload, View, Vni};

use super::{Arrival, Outcome, Pipeline, Refusal, batch::Batch, counters::DropKey};
use crate::snapshot::Endpoint;

/// Free bytes in front of such a frame: for a VXLAN header.
const HEADROOM: usize = 16;

impl<'s> Pipeline<'s> {
    /// A GSO packet inside a tenant's own tunnel takes the path as the packets that its device would have cut it into:
    /// nothing behind this knows of tunnels in tunnels. Nothing for a frame that is none.
    pub(super) fn cut_tunneled(
        &mut self,
        arrival: &Arrival<'s>,
        sender: &'s Endpoint,
        frame: &Frame<'_>,
        now: Instant,
        out: &mut Batch,
    ) -> Option<Outcome> {
        let view = View::parse(frame.bytes()).ok().filter(|view| is_tunneled(view, &frame.offload))?;
        let mut packets = Vec::new();
        Some(match tunneled::cut(frame.bytes(), &view, &frame.offload, &mut packets) {
            Ok(layout) => self.each_apart(arrival, &packets, layout, now, out, |this, packet, now, out| {
                this.tenant_path(arrival, sender, packet, now, out)
            }),
            Err(reason) => self.drop_frame(arrival, reason.into(), frame, frame.len(), now, out),
        })
    }

    /// Datagrams that a sender in the same machine left uncut, and that came through the tunnel so.
    pub(super) fn cut_datagrams(
        &mut self,
        arrival: &Arrival<'s>,
        view: &View,
        frame: &Frame<'_>,
        now: Instant,
        out: &mut Batch,
    ) -> Outcome {
        let mut packets = Vec::new();
        let cut = frame.offload.gso.ok_or(DropReason::BadL4Header);
        match cut.and_then(|gso| segment(frame.bytes(), view, gso, &[], &mut packets)) {
            Ok(layout) => self.each_apart(arrival, &packets, layout, now, out, |this, packet, now, out| {
                let view = View::parse(packet.bytes())?;
                this.underlay_path(arrival, view, packet, now, out)
            }),
            Err(reason) => self.drop_frame(arrival, reason.into(), frame, frame.len(), now, out),
        }
    }

    /// Lets each of these packets take a path; what became of the last one.
    fn each_apart(
        &mut self,
        arrival: &Arrival<'s>,
        packets: &[u8],
        layout: Layout,
        now: Instant,
        out: &mut Batch,
        path: impl Fn(&mut Self, &mut Frame<'_>, Instant, &mut Batch) -> Result<Outcome, Refusal>,
    ) -> Outcome {
        let mut outcome = Outcome::Forward;
        let mut buffer = Vec::new();
        out.set_apart(true);
        for packet in packets.chunks(layout.size.max(1)) {
            buffer.clear();
            buffer.resize(HEADROOM, 0);
            buffer.extend_from_slice(packet);
            let end = buffer.len();
            let mut frame = Frame::new(&mut buffer, HEADROOM, end, Offload::default());
            outcome = match path(self, &mut frame, now, out) {
                Ok(outcome) => outcome,
                Err(refusal) => self.drop_frame(arrival, refusal, &frame, packet.len(), now, out),
            };
        }
        out.set_apart(false);
        outcome
    }

    /// Fragments that waited go the way of any other, behind their first. Later fragments release none themselves.
    pub(super) fn go_on_with_released(&mut self, now: Instant, out: &mut Batch) {
        if self.released.is_empty() {
            return;
        }
        out.set_apart(true);
        for (vni, waited) in std::mem::take(&mut self.released) {
            self.go_on_with(vni, &waited, now, out);
        }
        out.set_apart(false);
    }

    fn go_on_with(&mut self, vni: Vni, waited: &Waiting, now: Instant, out: &mut Batch) {
        let Waiting { from, frame: bytes, offload } = waited;
        let mut buffer = [&[0; HEADROOM][..], bytes].concat();
        let end = buffer.len();
        let mut frame = Frame::new(&mut buffer, HEADROOM, end, *offload);
        let at_attachment = match *from {
            Location::Local(port) => {
                self.snapshot.at_attachment(port).filter(|(network, _)| network.vni == vni)
            }
            Location::Remote(_) => None,
        };
        let (arrival, came) = match (*from, at_attachment, self.snapshot.network(vni), View::parse(bytes)) {
            (Location::Local(_), Some((network, endpoint)), ..) => {
                let arrival = Arrival { network, from: *from, sender: Some(endpoint) };
                (arrival, self.tenant_path(&arrival, endpoint, &mut frame, now, out))
            }
            (Location::Remote(_), _, Some(network), Ok(view)) => {
                let arrival = Arrival { network, from: *from, sender: network.sender_at(view.src, *from) };
                (arrival, self.underlay_path(&arrival, view, &mut frame, now, out))
            }
            // The network, or the port's place in it, has changed while the fragment waited.
            _ => {
                let reason = DropReason::NotReady;
                let key = DropKey { vni: Some(vni), reason, from: Some(*from), by: None, rule: None };
                return self.counters.drop_frame(key, bytes.len(), None, now);
            }
        };
        if let Err(refusal) = came {
            let _ = self.drop_frame(&arrival, refusal, &frame, bytes.len(), now, out);
        }
    }
}
