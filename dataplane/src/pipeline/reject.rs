//! What a rule rejects is dropped like what it denies, and its sender is told: by a reset of TCP, and else by an ICMP error that
//! says administratively prohibited.
//!
//! The answer goes back where the packet came from, in the name of the packet's destination, from which the sender takes it. It
//! comes of a packet that was admitted, goes to its sender alone, and says nothing that the policy of that one has not said; it
//! is no way through it. The flow tables do not see it: where the sender is behind another eastgate, that one holds it against
//! the flow that it has let out.

use std::sync::atomic::Ordering::Relaxed;

use eastgate_wire::{
    Frame, Instant, View,
    reply::{IcmpError, Speaker, icmp_error, tcp_reset},
    view::Transport,
};

use super::{Arrival, Pipeline, batch::Batch, shared::lock};

impl<'s> Pipeline<'s> {
    /// Tells the sender of a packet that it was rejected, where it can be told, and as often as it may be.
    pub(super) fn tell_rejected(
        &mut self,
        arrival: &Arrival<'s>,
        frame: &Frame<'_>,
        now: Instant,
        out: &mut Batch,
    ) {
        let Ok(view) = View::parse(frame.bytes()) else { return };
        let (Some(speaker), Some(ip)) = (Speaker::destination_of(&view), view.ip()) else { return };
        let written = match &ip.transport {
            Transport::Tcp(tcp) => tcp_reset(frame.bytes(), &view, tcp, speaker, &mut self.made),
            _ => icmp_error(frame.bytes(), &view, speaker, IcmpError::Prohibited, &mut self.made),
        };
        if written.is_err() {
            return;
        }
        let state = &arrival.network.state;
        let bucket = arrival.sender.map_or(&state.unknown_host_rejects, |sender| &sender.state.rejects);
        if lock(bucket).take(now) {
            self.counters.rejects_told.fetch_add(1, Relaxed);
            self.send_back(arrival, out);
        } else {
            self.counters.rejects_limited.fetch_add(1, Relaxed);
        }
    }
}
