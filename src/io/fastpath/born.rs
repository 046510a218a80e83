//! Flows that begin in the kernel: what they are permitted and told, and how they come to the pipeline.
//!
//! The programs count the flows that are born where the pipeline counts its own. All changes of hands are made under the
//! lock of the flow's shard, so that a place that is kept belongs to a flow of that shard, or to one that its holder of the
//! lock is just about to open or to end. A flow that makes room ([`super::economy`]) goes without it: it changes no hands.

use ahash::RandomState;
use eastgate_conntrack::flow::{Admitted, Born, Count, FlowState, Found, HOST, StateSettings, give};
use eastgate_dataplane::pipeline::{
    decide::receiver_at,
    offload::{FlowOffload, Hold, Offer, Replaced, Resident, Whereabouts},
    shared::lock,
};
use eastgate_fastpath::{
    CONFIG_CROWDED, Entropy, Error, FLOW_ANSWERED, FLOW_BORN, FLOW_HELD, FLOW_STREAM, Flow, Hold as Taken,
    Key, LANE_OPEN, Permit, PermitKey, STATES,
};
use eastgate_vtep::entropy::SourcePorts;
use eastgate_wire::{Cursor, FlowKey, MacAddr, view::proto};

use super::{KernelPath, Tables, handover::progress};
use crate::io::clock;

impl KernelPath {
    pub(super) fn hold_place(&self, packet: &FlowKey) -> Hold {
        let (key, _) = Key::of(packet);
        match self.fastpath.hold(&key) {
            Ok(true) => Hold::Kept,
            // A place that is kept already is that of the flow before, which ends under the same lock.
            Ok(false) => match self.fastpath.peek(&key) {
                Ok(Some(flow)) if flow.marks & FLOW_HELD != 0 => Hold::Kept,
                _ => Hold::Begun,
            },
            Err(error) => {
                tracing::debug!(%error, "no room to keep a flow's place");
                self.note_crowd();
                Hold::Full
            }
        }
    }

    /// Some flow has no place in the kernel: its packets must not be refused there as if they began one.
    fn note_crowd(&self) {
        let mut tables = lock(&self.tables);
        if tables.settings.flags & CONFIG_CROWDED == 0 {
            tables.settings.flags |= CONFIG_CROWDED;
            self.written(self.fastpath.set_settings(&tables.settings));
        }
    }

    /// Takes a flow out of the programs' hands, and its permit when it was born there.
    pub(super) fn take(&self, packet: &FlowKey) -> Whereabouts {
        let (key, _) = Key::of(packet);
        // What nobody knows is asked for more often than what is there.
        match self.fastpath.peek(&key) {
            Ok(None) => return Whereabouts::Unknown,
            Ok(Some(flow)) if flow.marks & FLOW_HELD != 0 => return Whereabouts::Lost,
            _ => {}
        }
        let found = self
            .taken(&key, self.fastpath.take(&key))
            .and_then(|flow| Some((flow, self.found(&key, &flow)?)));
        found.map_or(Whereabouts::Unknown, |(_, found)| Whereabouts::Found(found))
    }

    /// Gives a flow's place up.
    pub(super) fn end_flow(&self, packet: &FlowKey, if_over: bool) -> Option<Found> {
        let (key, _) = Key::of(packet);
        let ended = if if_over { self.fastpath.end_if_over(&key) } else { self.fastpath.end(&key) };
        let flow = self.taken(&key, ended)?;
        let found = self.found(&key, &flow)?;
        self.count_out(&flow, &found);
        Some(found)
    }

    /// A flow is gone that was born in the kernel: its permit is free.
    pub(super) fn count_out(&self, flow: &Flow, found: &Found) {
        let Some(born) = &found.born else { return };
        let network = self.fastpath.terms().account(flow.network);
        for place in [Some(born.account), network, Some(HOST)].into_iter().flatten() {
            if let Some(word) = self.fastpath.accounts().word(place, found.population() as usize) {
                give(word);
            }
        }
    }

    /// The permit of a flow that was taken is free.
    pub(super) fn forgo_permit(&self, found: &Found) {
        let place = lock(&self.tables).networks.get(&found.key.vni).map(|(place, _)| *place);
        if let Some(network) = place {
            self.count_out(&Flow { network, ..Flow::default() }, found);
        }
    }

    fn taken(&self, key: &Key, taken: Result<Taken, Error>) -> Option<Flow> {
        match taken {
            Ok(Taken::Taken(flow)) => Some(flow),
            Ok(Taken::Absent | Taken::Held | Taken::Alive) => None,
            Err(error) => {
                tracing::error!(%error, "a flow could not be taken back");
                self.note_crowd();
                if self.fastpath.remove_flow(key).is_err() {
                    FlowOffload::forget_paths(self);
                }
                None
            }
        }
    }

    pub(super) fn found(&self, key: &Key, flow: &Flow) -> Option<Found> {
        found(key, flow, self.is_ours(flow))
    }

    /// Was it written by this daemon, or born by its permit?
    fn is_ours(&self, flow: &Flow) -> bool {
        is_since(self.ours_since(), flow)
    }

    /// From which generation on flows are of this daemon; none are before it is live.
    fn ours_since(&self) -> Option<u32> {
        let tables = lock(&self.tables);
        tables.live.then_some(tables.settings.since)
    }

    pub(super) fn residents(&self, cursor: &mut Cursor, out: &mut Vec<Resident>) -> bool {
        let mut page = Vec::new();
        let more = match self.fastpath.page(cursor, &mut page) {
            Ok(more) => more,
            Err(error) => {
                tracing::error!(%error, "the kernel's flows cannot be read");
                *cursor = Cursor::default();
                false
            }
        };
        // Once for all of them: ports are opened and closed under the same lock.
        let since = self.ours_since();
        out.extend(page.iter().filter_map(|(key, flow)| {
            let held = flow.marks & FLOW_HELD != 0;
            let ours = is_since(since, flow);
            let found = if held { None } else { found(key, flow, ours) };
            Some(Resident { packet: key.packet()?, held, found, left: !held && !ours })
        }));
        more
    }

    pub(super) fn replaced(&self) -> Option<Replaced> {
        let ended = self.fastpath.pop_ended()?;
        let opener = ended.opener as usize & 1;
        let ends = [opener, opener ^ 1];
        Some(Replaced {
            key: ended.key.packet_from(opener)?,
            admitted: Admitted {
                epoch: ended.epoch,
                egress_rule: ended.rules[ends[0]],
                ingress_rule: ended.rules[ends[1]],
            },
            counts: ends.map(|end| Count { packets: ended.packets[end], bytes: ended.bytes[end] }),
        })
    }

    /// Tells the programs what a new flow of this pair and service would be told.
    pub(super) fn allow_births(&self, offer: &Offer) {
        if offer.by_source_port {
            return;
        }
        // Locked until it is written: what it was held against stays in force as long.
        let mut tables = lock(&self.tables);
        if let Some(permit) = self.permit_for(&mut tables, offer) {
            self.written(self.fastpath.set_permit(&PermitKey::of(&offer.opened), &permit));
        }
    }

    fn permit_for(&self, tables: &mut Tables, offer: &Offer) -> Option<Permit> {
        let vni = offer.opened.vni;
        let in_force = tables.snapshot.as_ref()?.network(vni)?.epoch;
        let (epoch, generation) = (offer.admitted.epoch, offer.generation);
        if !tables.live || (epoch, generation) != (in_force, tables.settings.generation) {
            return None;
        }
        let network = self.network_place(tables, vni)?;
        if !self.still_held(tables, vni, offer.bindings) {
            return None;
        }
        let bindings = offer.bindings;
        let rules = [offer.admitted.egress_rule, offer.admitted.ingress_rule];
        let (ends, lanes) = self.lanes(tables, &offer.lanes)?;
        let account = offer.account;
        Some(Permit { network, epoch, generation, ends, rules, lanes, bindings, spare: 0, account })
    }

    /// Whether flows may begin in the kernel, for trials.
    #[cfg(test)]
    pub(crate) fn let_flows_begin(&self, may: bool) {
        let tables = lock(&self.tables);
        #[allow(clippy::iter_over_hash_type, reason = "each is written on its own")]
        for (vni, (place, _)) in &tables.networks {
            let account = tables.pages.get(vni).filter(|_| may).map_or(0, |page| page.place());
            self.fastpath.terms().count_at(*place, account);
        }
    }

    /// Says how flows that are born come to their outer source port.
    pub(super) fn spread(&self, tables: &mut Tables, ports: SourcePorts) -> Result<(), Error> {
        let (first, available) = ports.range();
        let secret = match tables.entropy.secret {
            0 => RandomState::new().hash_one(first),
            secret => secret,
        };
        let entropy = Entropy { secret, first: first.into(), available, buckets: ports.buckets(), spare: 0 };
        if tables.entropy != entropy {
            self.fastpath.set_entropy(&entropy)?;
            tables.entropy = entropy;
        }
        Ok(())
    }
}

fn is_since(since: Option<u32>, flow: &Flow) -> bool {
    since.is_some_and(|since| flow.generation.wrapping_sub(since).cast_signed() >= 0)
}

/// By the numbers of `enum flow_state`.
pub(super) fn timeouts(settings: &StateSettings) -> [u32; STATES] {
    const IN_ORDER: [(FlowState, u8); STATES] = [
        (FlowState::Unanswered, proto::UDP),
        (FlowState::Answered, proto::UDP),
        (FlowState::SynSent, proto::TCP),
        (FlowState::SynReceived, proto::TCP),
        (FlowState::Established, proto::TCP),
        (FlowState::FinWait, proto::TCP),
        (FlowState::CloseWait, proto::TCP),
        (FlowState::LastAck, proto::TCP),
        (FlowState::TimeWait, proto::TCP),
        (FlowState::Unanswered, proto::ICMP),
        (FlowState::Answered, proto::ICMP),
        (FlowState::Close, proto::TCP),
        (FlowState::Stream, proto::UDP),
        (FlowState::Stream, proto::ICMP),
    ];
    // Weeks are for the programs to compare in milliseconds; a state that lasts longer comes up that often.
    let longest = u32::MAX / 2;
    IN_ORDER.map(|(state, protocol)| {
        let lasts = settings.timeouts.of(protocol, state).as_millis();
        u32::try_from(lasts).unwrap_or(longest).min(longest)
    })
}

/// `ours`: it was written by this daemon, or born by its permit.
fn found(key: &Key, flow: &Flow, ours: bool) -> Option<Found> {
    let place = usize::from(flow.opener & 1);
    let ways = [&flow.ways[place], &flow.ways[place ^ 1]];
    let was_born = flow.marks & FLOW_BORN != 0;
    let born = Born {
        admitted: Admitted { epoch: flow.epoch, egress_rule: ways[0].rule, ingress_rule: ways[1].rule },
        created: clock::from_wrapped_millis(flow.created),
        account: flow.account(),
        goes_on: flow.marks & FLOW_STREAM != 0,
    };
    Some(Found {
        key: key.packet_from(place)?,
        answered: if was_born {
            flow.marks & FLOW_ANSWERED != 0
        } else {
            ways.iter().all(|way| way.lane.flags & LANE_OPEN != 0)
        },
        progress: progress(flow, place),
        hints: [place ^ 1, place].map(|receiver| receiver_at(MacAddr(flow.ends.macs[receiver]))),
        born: (was_born && ours).then_some(born),
    })
}
