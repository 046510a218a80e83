//! ICMP errors, by the flow whose packet they quote.

use eastgate_wire::{
    Addr, DropReason, FlowKey, Instant,
    view::{Quoted, proto},
};

use super::{
    FlowTable, Query, StateSettings, Tracked, flow_id, hit, is_stale, original, segment::Key, stale,
};

impl FlowTable {
    /// Whether an ICMP error passes: it must quote a `packet` that a live flow of its network has sent, and go
    /// `to` the one who sent it (RFC 5927 section 4); of TCP the quoted number must be one that was sent lately, of SCTP the tag.
    /// The direction of the hit is that of the error. The flow is neither prolonged nor counted.
    pub fn related(
        &mut self,
        packet: &FlowKey,
        quoted: &Quoted,
        to: Addr,
        settings: &StateSettings,
        epoch: u32,
        now: Instant,
    ) -> Tracked {
        const UNRELATED: Tracked = Tracked::Drop(DropReason::IcmpUnrelated);
        let Quoted { src, proto: protocol, seq, icmp, .. } = *quoted;
        let query = icmp.and_then(|icmp| Query::of(icmp, src.is_v4()));
        let (key, swapped) = Key::of(packet, query);
        let Some(index) = self.live(&key, now).filter(|_| to == src) else { return UNRELATED };
        let entry = self.slab.at(index);
        if entry.marks.is_away() {
            return Tracked::Offloaded { flow: flow_id(entry, index), original: original(entry) };
        }
        let sent = entry.direction(swapped);
        let plausible = match protocol {
            proto::TCP => seq.is_some_and(|seq| entry.connection.has_sent(sent, seq)),
            proto::SCTP => {
                let association = self.associations.get(&index).copied().unwrap_or_default();
                seq.is_some_and(|tag| association.has_sent(sent, tag))
            }
            _ => true,
        };
        if entry.counts[sent.index()].packets == 0 || !plausible {
            return UNRELATED;
        }
        if is_stale(entry, settings, epoch) {
            return stale(entry, index, sent.reversed());
        }
        Tracked::Pass(hit(entry, index, sent.reversed()))
    }
}
