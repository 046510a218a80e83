//! Flows that begin in the kernel: what they are permitted, lent and told, and how they come to the pipeline.
//!
//! The programs count the flows that are born against places that are lent to them from the network's quota and the
//! host's. All changes of hands are made under the lock of the flow's shard, so that a place that is kept belongs to a
//! flow of that shard, or to one that its holder of the lock is just about to open or to end.

use std::{collections::BTreeMap, sync::Arc};

use ahash::RandomState;
use eastgate_fastpath::{
    CONFIG_CROWDED, Cursor, Entropy, Error, FLOW_ANSWERED, FLOW_BORN, FLOW_HELD, Flow, Hold as Taken, Key,
    LANE_OPEN, Permit, PermitKey, STATES,
};
use eastgate_policy::flow::{
    Admitted, Born, Borrower, Count, FlowState, FlowUse, Found, NetworkQuota, Population, StateSettings,
};
use eastgate_vtep::entropy::SourcePorts;
use eastgate_wire::{FlowKey, MacAddr, Vni, view::proto};

use super::{KernelPath, Tables, clock, handover::progress};
use crate::pipeline::{
    decide::receiver_at,
    offload::{Hold, Offer, Replaced, Resident, Whereabouts},
    shared::lock,
};

/// Places that a network is lent at first, and that it keeps while flows are born there now and then.
const FEW: u32 = 1024;
/// A network in which no flow has been for so many looks, one a second, gives back what it was lent.
const IDLE: u32 = 60;
/// Networks that are asked for places at once, where the host's limit is reached.
const ASKED_AT_ONCE: usize = 64;

const POPULATIONS: [Population; 2] = [Population::Unanswered, Population::Answered];

/// Who was lent places, by place of the network.
#[derive(Debug, Default)]
pub(super) struct Leases {
    networks: BTreeMap<u32, Lease>,
    /// Whose turn it is to be asked for places
    next: u32,
}

#[derive(Debug)]
struct Lease {
    vni: Vni,
    quota: Arc<NetworkQuota>,
    /// How often it was looked at since something was there
    idle: u32,
}

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
        let Some((flow, found)) = found else { return Whereabouts::Unknown };
        if found.born.is_some() {
            let of = found.population();
            self.fastpath.terms().leave_with_place(flow.network, index(of));
            if let Some(lease) = lock(&self.leases).networks.get(&flow.network) {
                lease.quota.keep_lent(of);
                self.top_up(flow.network, &lease.quota);
            }
        }
        Whereabouts::Found(found)
    }

    /// Gives a flow's place up.
    pub(super) fn end_flow(&self, packet: &FlowKey, if_over: bool) -> Option<Found> {
        let (key, _) = Key::of(packet);
        let ended = if if_over { self.fastpath.end_if_over(&key) } else { self.fastpath.end(&key) };
        let flow = self.taken(&key, ended)?;
        let found = self.found(&key, &flow)?;
        if found.born.is_some() {
            self.fastpath.terms().leave(flow.network, index(found.population()));
        }
        Some(found)
    }

    fn taken(&self, key: &Key, taken: Result<Taken, Error>) -> Option<Flow> {
        match taken {
            Ok(Taken::Taken(flow)) => Some(flow),
            Ok(Taken::Absent | Taken::Held | Taken::Alive) => None,
            Err(error) => {
                tracing::error!(%error, "a flow could not be taken back");
                self.note_crowd();
                if self.fastpath.remove_flow(key).is_err() {
                    super::FlowOffload::forget_paths(self);
                }
                None
            }
        }
    }

    fn found(&self, key: &Key, flow: &Flow) -> Option<Found> {
        found(key, flow, self.is_ours(flow))
    }

    /// Was it written by this daemon, or born by its permit?
    fn is_ours(&self, flow: &Flow) -> bool {
        let tables = lock(&self.tables);
        tables.live && flow.generation.wrapping_sub(tables.since).cast_signed() >= 0
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
        out.extend(page.iter().filter_map(|(key, flow)| {
            let held = flow.marks & FLOW_HELD != 0;
            let ours = self.is_ours(flow);
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

    /// Lends the network places to begin flows on, and tells the programs what a new flow of this pair and service would be
    /// told.
    pub(super) fn allow_births(&self, offer: &Offer, quota: &Arc<NetworkQuota>) {
        // Locked until it is written: what it was held against stays in force as long.
        let mut tables = lock(&self.tables);
        let Some((place, permit)) = self.permit_for(&mut tables, offer) else { return };
        let mut leases = lock(&self.leases);
        let lease = leases.networks.entry(place).or_insert_with(|| Lease {
            vni: offer.opened.vni,
            quota: quota.clone(),
            idle: 0,
        });
        lease.idle = 0;
        self.top_up(place, &lease.quota);
        drop(leases);
        if !offer.by_source_port {
            self.written(self.fastpath.set_permit(&PermitKey::of(&offer.opened), &permit));
        }
    }

    fn permit_for(&self, tables: &mut Tables, offer: &Offer) -> Option<(u32, Permit)> {
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
        Some((network, Permit { network, epoch, generation, ends, rules, lanes, bindings, spare: 0 }))
    }

    /// Lends a network more, when three quarters of what it was lent are taken.
    fn top_up(&self, place: u32, quota: &NetworkQuota) {
        for of in POPULATIONS {
            let (lent, used) = self.fastpath.terms().places(place, index(of));
            if u64::from(used) * 4 >= u64::from(lent) * 3 {
                let more = quota.lend(of, lent.max(FEW));
                self.fastpath.terms().lend(place, index(of), more);
            }
        }
    }

    /// Takes back what networks do not use: half of it where it is much, all where nothing happens.
    pub(super) fn balance_leases(&self) {
        let terms = self.fastpath.terms();
        lock(&self.leases).networks.retain(|place, lease| {
            let counts = POPULATIONS.map(|of| terms.places(*place, index(of)));
            let is_empty = counts.iter().all(|(_, used)| *used == 0);
            lease.idle = if is_empty { lease.idle + 1 } else { 0 };
            for (of, (lent, used)) in POPULATIONS.into_iter().zip(counts) {
                let over = lease.quota.is_over(of);
                let keep = if over || lease.idle >= IDLE { 0 } else { used.saturating_mul(2).max(FEW) };
                if (over || u64::from(used) * 4 < u64::from(lent)) && keep < lent {
                    lease.quota.take_back(of, terms.take_back(*place, index(of), keep));
                }
            }
            POPULATIONS.iter().any(|of| terms.places(*place, index(*of)).0 > 0) || !is_empty
        });
    }

    pub(super) fn unused_places(&self) -> FlowUse {
        let mut unused = FlowUse::default();
        let leases = lock(&self.leases);
        for place in leases.networks.keys() {
            let [unanswered, answered] = POPULATIONS.map(|of| {
                let (lent, used) = self.fastpath.terms().places(*place, index(of));
                lent.saturating_sub(used)
            });
            unused.unanswered += unanswered;
            unused.answered += answered;
        }
        unused
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

/// What was lent goes back where a limit is reached. The shard of the flow that needs a place is locked.
impl Borrower for KernelPath {
    fn give_back(&self, vni: Option<Vni>, of: Population) -> bool {
        let mut leases = lock(&self.leases);
        let next = leases.next;
        let turn = leases.networks.range(next..).chain(leases.networks.range(..next));
        let mut freed = 0;
        let mut last = None;
        for (place, lease) in
            turn.filter(|(_, lease)| vni.is_none_or(|vni| vni == lease.vni)).take(ASKED_AT_ONCE)
        {
            let back = self.fastpath.terms().take_back(*place, index(of), 0);
            lease.quota.take_back(of, back);
            freed += back;
            last = Some(*place);
            if freed > 0 {
                break;
            }
        }
        if vni.is_none() {
            leases.next = last.map_or(0, |last| last + 1);
        }
        freed > 0
    }
}

const fn index(of: Population) -> usize {
    match of {
        Population::Unanswered => 0,
        Population::Answered => 1,
    }
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
