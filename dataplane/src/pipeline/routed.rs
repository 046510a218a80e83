//! Networks in which the kernel routes between the endpoints of this host (`neighbors = "kernel"`): what was decided is handed to
//! it in place of being forwarded, and requests for addresses that it has routes to are answered by its proxy ARP and proxy ND.
//!
//! It gets what it passes on with a smaller TTL and nothing else changed. What it would answer by itself, from an address of the
//! host's, or write into, stays with eastgate: a TTL that has run out is told of here, packets with options or extension
//! headers, link-local ones, tagged ones and what is for many are forwarded as in `proxy` mode.

use std::sync::atomic::Ordering::Relaxed;

use eastgate_steering::{kernel::is_answer, question, rewrite};
use eastgate_wire::{
    Addr, AttachmentId, DropReason, Frame, Instant, Location, View,
    reply::{IcmpError, Speaker, icmp_error},
};

use super::{
    Arrival, Outcome, Pipeline, Refusal,
    batch::{Batch, Egress},
    counters::{DropKey, Subject},
    shared::lock,
};
use crate::snapshot::{Endpoint, Network};

impl Network {
    /// Has the kernel a route to this address: one of an endpoint of this host, as it is written down?
    #[must_use]
    pub fn has_route(&self, address: Addr) -> bool {
        let holder = self.by_address(address).filter(|holder| holder.attachment().is_some());
        holder.is_some_and(|holder| holder.holdings().addresses.contains(&address))
    }

    /// Does the kernel route packets between these addresses? Neither from nor to those that are of one link (RFC 4007).
    #[must_use]
    pub fn routes_between(&self, src: Addr, dst: Addr) -> bool {
        self.kernel_entry.is_some() && !src.is_link_local() && !src.is_unspecified() && self.has_route(dst)
    }
}

impl<'s> Pipeline<'s> {
    /// Where a frame for an endpoint of this host leaves instead, where the kernel is to route it.
    pub(super) fn kernel_entry(
        &mut self,
        arrival: &Arrival<'s>,
        endpoint: Option<&Endpoint>,
        view: &View,
        frame: &mut Frame<'_>,
        now: Instant,
        out: &mut Batch,
    ) -> Result<Option<AttachmentId>, Refusal> {
        let network = arrival.network;
        let (Some(entry), Some(ip)) = (network.kernel_entry, view.ip()) else { return Ok(None) };
        let is_its = endpoint.is_some_and(|endpoint| endpoint.holdings().addresses.contains(&ip.dst));
        if !is_its || view.tags != 0 || ip.options || !network.routes_between(ip.src, ip.dst) {
            return Ok(None);
        }
        if ip.ttl <= 1 {
            self.tell_exceeded(arrival, view, frame, now, out);
            return Err(DropReason::TtlExceeded.into());
        }
        Ok(Some(entry))
    }

    /// The kernel takes what is for the MAC of its device, whoever it is from.
    pub(super) fn address_to_kernel(&self, network: &Network, frame: &mut Frame<'_>) {
        // A parsed frame has both MACs.
        let _ = rewrite(frame.bytes_mut(), network.proxy_mac, network.proxy_mac);
    }

    /// Tells the sender of a packet that its TTL has run out, as often as it may be told of what was rejected.
    fn tell_exceeded(
        &mut self,
        arrival: &Arrival<'s>,
        view: &View,
        frame: &Frame<'_>,
        now: Instant,
        out: &mut Batch,
    ) {
        let Some(speaker) = Speaker::destination_of(view) else { return };
        if icmp_error(frame.bytes(), view, speaker, IcmpError::TimeExceeded, &mut self.made).is_err() {
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

    /// Gives a request for an address of this host to the kernel, where that answers it. It has no answer to a solicitation
    /// that is for one MAC: that is given here.
    pub(super) fn ask_kernel(
        &self,
        arrival: &Arrival<'s>,
        view: &View,
        frame: &mut Frame<'_>,
        out: &mut Batch,
    ) -> bool {
        let network = arrival.network;
        let Some(entry) = network.kernel_entry.filter(|_| view.tags == 0) else { return false };
        let (Location::Local(_), Some(question)) = (arrival.from, question(frame.bytes(), view)) else {
            return false;
        };
        if !network.has_route(question.target) || (!question.to_all && view.ip().is_some()) {
            return false;
        }
        if !question.to_all {
            let _ = rewrite(frame.bytes_mut(), view.src, network.proxy_mac);
        }
        out.send(frame, Egress::Attachment(entry), network.vni);
        true
    }

    /// What the kernel says where packets are handed to it: its answers go to who asked, anything else is for nobody.
    pub(super) fn hear_kernel(
        &self,
        network: &Network,
        entry: AttachmentId,
        frame: &mut Frame<'_>,
        now: Instant,
        out: &mut Batch,
    ) -> Outcome {
        let view = View::parse(frame.bytes()).ok();
        let answer = view.filter(|view| is_answer(frame.bytes(), view, network.proxy_mac));
        let asker = answer.and_then(|view| network.by_mac(view.dst)?.attachment());
        let Some(asker) = asker else {
            let (vni, from) = (network.vni, Some(Location::Local(entry)));
            let key = DropKey { vni: Some(vni), reason: DropReason::NotAnAnswer, from, by: None, rule: None };
            let subject = Subject::of_frame(vni, frame.bytes());
            self.counters.drop_frame(key, frame.len(), Some(subject), now);
            return Outcome::Drop(DropReason::NotAnAnswer);
        };
        out.send(frame, Egress::Attachment(asker), network.vni);
        Outcome::Consumed
    }
}
