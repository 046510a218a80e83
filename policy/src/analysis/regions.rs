//! Regions: everything that an endpoint can meet, by what becomes of it, in one policy or in two beside each other.

use std::collections::BTreeMap;

use eastgate_wire::{Addr, EndpointId, Family};

use super::{
    Side,
    cells::{self, Cell, Demand, Span},
    peers::{AddressRange, Members, classes, merged},
    services::{Domain, Slice},
};
use crate::{
    compile::TierListId,
    naive,
    rule::{Decision, Direction, Probe, Rule, RuleId},
};

/// Packets with one outcome: of each of these endpoints, with each of these peers, of each of these services.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Region<const SIDES: usize> {
    /// Whose rules these are, by the place in the list that was asked about
    pub endpoints: Vec<usize>,
    /// To them or from them
    pub direction: Direction,
    /// The other end
    pub peers: Vec<AddressRange>,
    /// What it is about
    pub services: Vec<Slice>,
    /// What becomes of them, in each policy that was asked
    pub outcomes: [Decision; SIDES],
}

impl<const SIDES: usize> Region<SIDES> {
    /// Whether a packet from or to `peer` is in it.
    #[must_use]
    pub fn contains(&self, peer: Addr, probe: &Probe) -> bool {
        self.has_peer(peer) && self.services.iter().any(|slice| slice.contains(probe))
    }

    /// Whether an address is one of its peers.
    #[must_use]
    pub fn has_peer(&self, peer: Addr) -> bool {
        self.peers.iter().any(|range| range.contains(peer))
    }

    /// A packet that is in it; with one of the addresses that are `liked`, if one of them is a peer.
    #[must_use]
    pub fn example(&self, liked: impl IntoIterator<Item = Addr>) -> Option<(Addr, Probe)> {
        let liked = liked.into_iter().find(|address| self.has_peer(*address));
        let peer = liked.or_else(|| self.peers.first().map(|range| range.first))?;
        // The first is of the lowest protocol; TCP and UDP tell people more.
        let known =
            |slice: &&Slice| slice.protocols.0 <= 6 && 6 <= slice.protocols.1 || slice.below.is_some();
        let slice = self.services.iter().find(known).or_else(|| self.services.first())?;
        Some((peer, slice.example(peer.family())))
    }
}

/// Everything that each of these endpoints can meet in one direction.
#[must_use]
pub fn regions(
    side: Side<'_>,
    endpoints: &[EndpointId],
    direction: Direction,
    domain: &Domain,
) -> Vec<Region<1>> {
    let asked: Vec<_> = endpoints.iter().map(|id| [Some(*id)]).collect();
    profile(&[side], &asked, &[direction], domain, |_| true)
}

/// What two policies treat differently of what these endpoints can meet, in both directions. Each endpoint is given as it
/// is known before and afterwards; what is not there is denied everything. Which rule is in charge is no difference, but where
/// both limit their sources, and `same_limits` says of the two rules that they do not grant the same.
#[must_use]
pub fn difference(
    before: Side<'_>,
    after: Side<'_>,
    endpoints: &[[Option<EndpointId>; 2]],
    same_limits: impl Fn([RuleId; 2]) -> bool,
) -> Vec<Region<2>> {
    let directions = [Direction::Ingress, Direction::Egress];
    let differ = |[was, is]: &[Decision; 2]| {
        let limiting = was.rule.zip(is.rule).filter(|_| was.verdict.limited);
        was.verdict != is.verdict || limiting.is_some_and(|(was, is)| !same_limits([was, is]))
    };
    profile(&[before, after], endpoints, &directions, &Domain::whole(), differ)
}

/// The regions that are wanted. Endpoints with the same tiers are looked at once.
fn profile<const SIDES: usize>(
    sides: &[Side<'_>; SIDES],
    endpoints: &[[Option<EndpointId>; SIDES]],
    directions: &[Direction],
    domain: &Domain,
    wanted: impl Fn(&[Decision; SIDES]) -> bool,
) -> Vec<Region<SIDES>> {
    let members: Vec<Members> = sides.iter().map(|side| Members::of(side.source)).collect();
    let mut regions = Vec::new();
    for direction in directions {
        let mut alike: BTreeMap<[Option<TierListId>; SIDES], Vec<usize>> = BTreeMap::new();
        for (place, ids) in endpoints.iter().enumerate() {
            let mut tiers = [None; SIDES];
            for ((tiers, side), id) in tiers.iter_mut().zip(sides).zip(ids) {
                *tiers = id.and_then(|id| side.compiled.tiers(id, *direction));
            }
            alike.entry(tiers).or_default().push(place);
        }
        for places in alike.into_values() {
            let Some(ids) = places.first().and_then(|place| endpoints.get(*place)) else { continue };
            let found = of_one(sides, &members, ids, *direction, domain, &wanted);
            regions.extend(found.into_iter().map(|((outcomes, services), peers)| Region {
                endpoints: places.clone(),
                direction: *direction,
                peers: merged(peers),
                services,
                outcomes,
            }));
        }
    }
    regions
}

type Found<const SIDES: usize> = BTreeMap<([Decision; SIDES], Vec<Slice>), Vec<AddressRange>>;

fn of_one<const SIDES: usize>(
    sides: &[Side<'_>; SIDES],
    members: &[Members],
    ids: &[Option<EndpointId>; SIDES],
    direction: Direction,
    domain: &Domain,
    wanted: &impl Fn(&[Decision; SIDES]) -> bool,
) -> Found<SIDES> {
    let mut rules: Vec<(usize, &Rule)> = Vec::new();
    for ((side, id), number) in sides.iter().zip(ids).zip(0..) {
        let Some(id) = id else { continue };
        rules.extend(naive::rules_of(side.source, *id, direction).map(|(_, rule)| (number, rule)));
    }
    let demands: Vec<Demand> = rules.iter().map(|(_, rule)| Demand::of(rule)).collect();
    let mut found = Found::new();
    for class in classes(members, &rules) {
        let Some(peer) = class.ranges.first().map(|range| range.first) else { continue };
        let demands: Vec<&Demand> =
            class.rules.iter().filter_map(|place| demands.get(*place as usize)).collect();
        let decide = |probe: &Probe| {
            let mut outcomes = [Decision::DEFAULT_DENY; SIDES];
            for ((outcome, side), id) in outcomes.iter_mut().zip(sides).zip(ids) {
                *outcome = side.decide(*id, direction, peer, probe);
            }
            outcomes
        };
        for (outcomes, services) in by_outcome(&demands, domain, class.family, decide) {
            if wanted(&outcomes) {
                found.entry((outcomes, services)).or_default().extend(&class.ranges);
            }
        }
    }
    found
}

/// Keys, and what becomes of them by the fields below.
struct Row<T> {
    keys: Span,
    cells: Vec<(T, Cell)>,
}

/// The services of a domain by their outcome, as few slices as can be.
pub(super) fn by_outcome<T: Copy + Ord>(
    demands: &[&Demand],
    domain: &Domain,
    family: Family,
    decide: impl Fn(&Probe) -> T,
) -> BTreeMap<T, Vec<Slice>> {
    let mut rows: Vec<Row<T>> = Vec::new();
    let mut open: (Span, Vec<(Cell, T)>) = ((0, 0), Vec::new());
    cells::walk(demands, domain.spans(), &mut |keys, cell, _| {
        if keys != open.0 {
            close(&mut rows, &mut open);
            open.0 = keys;
        }
        // Where no packet is like that there is no slice.
        if let Some(slice) = Slice::of(keys, cell, family).first() {
            open.1.push((*cell, decide(&slice.example(family))));
        }
    });
    close(&mut rows, &mut open);
    let mut found: BTreeMap<T, Vec<Slice>> = BTreeMap::new();
    for row in rows {
        for (outcome, cell) in row.cells {
            let slices = found.entry(outcome).or_default();
            for slice in Slice::of(row.keys, &cell, family) {
                let bare = slice.below.is_none();
                match slices.iter_mut().find(|before| bare && before.joins(&slice)) {
                    Some(before) => before.protocols.1 = slice.protocols.1,
                    None => slices.push(slice),
                }
            }
        }
    }
    found.values_mut().for_each(|slices| slices.sort_unstable());
    found
}

/// A row has all its cells: it is one with the row before it where that one says the same, or where no packet is like it.
fn close<T: Copy + Ord>(rows: &mut Vec<Row<T>>, open: &mut (Span, Vec<(Cell, T)>)) {
    let (keys, cells) = (open.0, cells::merged(&std::mem::take(&mut open.1)));
    match rows.last_mut() {
        Some(before) if cells.is_empty() || before.cells == cells && before.keys.1 + 1 == keys.0 => {
            before.keys.1 = keys.1;
        }
        None if cells.is_empty() => {}
        _ => rows.push(Row { keys, cells }),
    }
}
