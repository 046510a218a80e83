//! Flows that begin in the kernel: what they are permitted and told, and how they come to the pipeline.
//!
//! The programs count the flows that are created where the pipeline counts its own. All changes of hands are made under the
//! lock of the flow's shard, so that a place that is kept belongs to a flow of that shard, or to one that its holder of the
//! lock is just about to open or to end. A flow that makes room ([`super::economy`]) goes without it: it changes no hands.

use ahash::RandomState;
use eastgate_conntrack::flow::{Admitted, Count, Created, FlowState, Found, HOST, StateSettings, give};
use eastgate_dataplane::pipeline::{
    offload::{FlowOffload, Offer, Replaced, Reservation, Resident, Whereabouts},
    shared::lock,
    track::receiver_at,
};
use eastgate_fastpath::{
    CONFIG_CROWDED, CachedPolicy, Entropy, Error, FLOW_KERNEL_CREATED, FLOW_REPLIED, FLOW_RESERVED,
    FLOW_STREAM, Flow, Key, PolicyCacheKey, STATES, TEMPLATE_OPEN, TakeResult,
};
use eastgate_vtep::entropy::SourcePorts;
use eastgate_wire::{
    Cursor, FlowKey, MacAddr,
    view::{HeaderBits, proto},
};

use super::{KernelPath, Tables, handover::progress, related};
use crate::io::clock;

impl KernelPath {
    pub(super) fn reserve_flow(&self, packet: &FlowKey) -> Reservation {
        let (key, _) = Key::of(packet);
        match self.fastpath.hold(&key) {
            Ok(true) => Reservation::Kept,
            // A place that is kept already is that of the flow before, which ends under the same lock.
            Ok(false) => match self.fastpath.peek(&key) {
                Ok(Some(flow)) if flow.marks & FLOW_RESERVED != 0 => Reservation::Kept,
                _ => Reservation::Begun,
            },
            Err(error) => {
                tracing::debug!(%error, "no room to keep a flow's place");
                self.note_crowd();
                Reservation::Full
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

    /// Takes a flow out of the programs' hands, and its slot when it was created there.
    pub(super) fn take(&self, packet: &FlowKey) -> Whereabouts {
        let (key, _) = Key::of(packet);
        // What nobody knows is asked for more often than what is there.
        match self.fastpath.peek(&key) {
            Ok(None) => return Whereabouts::Unknown,
            Ok(Some(flow)) if flow.marks & FLOW_RESERVED != 0 => return Whereabouts::Lost,
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

    /// A flow is gone that was created in the kernel: its slot is free.
    pub(super) fn count_out(&self, flow: &Flow, found: &Found) {
        let Some(created) = &found.created else { return };
        let network = self.fastpath.ct_settings().account(flow.network);
        for place in [Some(created.account), network, Some(HOST)].into_iter().flatten() {
            if let Some(word) = self.fastpath.accounts().word(place, found.population() as usize) {
                give(word);
            }
        }
    }

    /// The slot of a flow that was taken is free.
    pub(super) fn release_slot(&self, found: &Found) {
        let place = lock(&self.tables).networks.get(&found.key.vni).map(|(place, _)| *place);
        if let Some(network) = place {
            self.count_out(&Flow { network, ..Flow::default() }, found);
        }
    }

    fn taken(&self, key: &Key, taken: Result<TakeResult, Error>) -> Option<Flow> {
        match taken {
            Ok(TakeResult::Taken(flow)) => Some(flow),
            Ok(TakeResult::Absent | TakeResult::Reserved | TakeResult::Alive) => None,
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

    /// Was it written by this daemon, or created by its policy-cache entry?
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
            let held = flow.marks & FLOW_RESERVED != 0;
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
                stateless: [false; 2],
            },
            counts: ends.map(|end| Count { packets: ended.packets[end], bytes: ended.bytes[end] }),
            created: clock::from_wrapped_millis(ended.created),
            last_seen: clock::from_monotonic(ended.last_seen),
        })
    }

    /// Tells the programs what a new flow of this pair and service would be told.
    pub(super) fn allow_births(&self, offer: &Offer) {
        if offer.tells_apart {
            return;
        }
        // Locked until it is written: what it was held against stays in force as long.
        let mut tables = lock(&self.tables);
        if let Some(cached) = self.cached_policy_for(&mut tables, offer) {
            self.written(self.fastpath.set_cached_policy(&PolicyCacheKey::of(&offer.opened), &cached));
        }
    }

    fn cached_policy_for(&self, tables: &mut Tables, offer: &Offer) -> Option<CachedPolicy> {
        let vni = offer.opened.vni;
        let (epoch, generation) = (offer.admitted.epoch, offer.generation);
        let since = tables.decided_since(&offer.opened, &offer.templates)?;
        if !tables.live || epoch < since || generation != tables.settings.generation {
            return None;
        }
        let network = self.network_place(tables, vni)?;
        if !self.still_held(tables, vni, offer.bindings) {
            return None;
        }
        let bindings = offer.bindings;
        let rules = [offer.admitted.egress_rule, offer.admitted.ingress_rule];
        let (ends, templates) = self.templates(tables, &offer.templates)?;
        let account = offer.account;
        Some(CachedPolicy { network, epoch, generation, ends, rules, templates, bindings, spare: 0, account })
    }

    /// Whether flows may begin in the kernel, for trials.
    #[cfg(test)]
    pub(crate) fn let_flows_begin(&self, may: bool) {
        let tables = lock(&self.tables);
        #[allow(clippy::iter_over_hash_type, reason = "each is written on its own")]
        for (vni, (place, _)) in &tables.networks {
            let account = tables.quotas.get(vni).filter(|_| may).map_or(0, |page| page.place());
            self.fastpath.ct_settings().count_at(*place, account);
        }
    }

    /// Says how flows that are created come to their outer source port.
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

/// By the numbers of `enum flow_state`
pub(super) const STATES_IN_ORDER: [(FlowState, u8); STATES] = [
    (FlowState::Unreplied, proto::UDP),
    (FlowState::Replied, proto::UDP),
    (FlowState::SynSent, proto::TCP),
    (FlowState::SynReceived, proto::TCP),
    (FlowState::Established, proto::TCP),
    (FlowState::FinWait, proto::TCP),
    (FlowState::CloseWait, proto::TCP),
    (FlowState::LastAck, proto::TCP),
    (FlowState::TimeWait, proto::TCP),
    (FlowState::Unreplied, proto::ICMP),
    (FlowState::Replied, proto::ICMP),
    (FlowState::Close, proto::TCP),
    (FlowState::Stream, proto::UDP),
    (FlowState::Stream, proto::ICMP),
];

pub(super) fn timeouts(settings: &StateSettings) -> [u32; STATES] {
    // Weeks are for the programs to compare in milliseconds; a state that lasts longer comes up that often.
    let longest = u32::MAX / 2;
    STATES_IN_ORDER.map(|(state, protocol)| {
        let lasts = settings.timeouts.of(protocol, state).as_millis();
        u32::try_from(lasts).unwrap_or(longest).min(longest)
    })
}

/// `ours`: it was written by this daemon, or created by its policy-cache entry.
fn found(key: &Key, flow: &Flow, ours: bool) -> Option<Found> {
    let place = usize::from(flow.opener & 1);
    let dirs = [&flow.dirs[place], &flow.dirs[place ^ 1]];
    let was_created = flow.marks & FLOW_KERNEL_CREATED != 0;
    let created = Created {
        admitted: Admitted {
            epoch: flow.epoch,
            egress_rule: dirs[0].rule,
            ingress_rule: dirs[1].rule,
            stateless: [false; 2],
        },
        created: clock::from_wrapped_millis(flow.created),
        account: flow.account(),
        goes_on: flow.marks & FLOW_STREAM != 0,
    };
    Some(Found {
        key: key.packet_from(place)?,
        replied: if was_created {
            flow.marks & FLOW_REPLIED != 0
        } else {
            dirs.iter().all(|way| way.template.flags & TEMPLATE_OPEN != 0)
        },
        progress: progress(flow, place),
        hints: [place ^ 1, place].map(|receiver| receiver_at(MacAddr(flow.ends.macs[receiver]))),
        created: (was_created && ours).then_some(created),
        header: HeaderBits { dscp: flow.dirs[0].template.header, tcp_flags: flow.dirs[1].template.header },
        related: related::read(flow),
    })
}
