//! Cells: boxes of services within which no rule tells one packet from another.

use std::collections::BTreeSet;

use super::services::ByteSet;
use crate::{compile::intervals, rule::Rule};

/// Numbers from the first to the last, both included
pub(super) type Span = (u32, u32);

/// All source ports
pub(super) const SOURCES: Span = (0, u16::MAX as u32);

/// What a cell is below protocol, port and ICMP.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Cell {
    pub(super) source: Span,
    pub(super) dscp: ByteSet,
    pub(super) flags: ByteSet,
}

impl Cell {
    /// Whatever it is
    pub(super) const WHOLE: Self = Self { source: SOURCES, dscp: ByteSet::DSCP, flags: ByteSet::ALL };
}

/// Which services a rule asks for.
pub(super) struct Demand {
    /// By the keys of [`intervals`]
    keys: Vec<Span>,
    /// None where it does not ask
    source: Option<Vec<Span>>,
    dscp: Option<ByteSet>,
    flags: Option<ByteSet>,
}

impl Demand {
    pub(super) fn of(rule: &Rule) -> Self {
        let [source, ..] = intervals::asked_of(rule);
        Self {
            keys: intervals::key_spans(rule),
            source,
            dscp: rule.dscp.map(|set| ByteSet::of(|value| set.contains(value))),
            flags: rule.tcp_flags.map(|wanted| ByteSet::of(|value| wanted.contains(value))),
        }
    }
}

/// Visits every cell of a domain, those of one key together and keys in ascending order, with the demands that are met in it, by
/// their place in the list.
pub(super) fn walk(demands: &[&Demand], domain: &[Span], visit: &mut dyn FnMut(Span, &Cell, &[u32])) {
    for within in domain {
        let spans = demands.iter().map(|demand| &demand.keys[..]);
        sweep(spans.zip(0..), *within, |key, active| {
            let active: Vec<u32> = active.iter().copied().collect();
            by_source(demands, &active, &mut |cell, met| visit(key, cell, met));
        });
    }
}

fn by_source(demands: &[&Demand], active: &[u32], visit: &mut dyn FnMut(&Cell, &[u32])) {
    let asked = |order: &u32| demands.get(*order as usize).and_then(|demand| demand.source.as_deref());
    if active.iter().all(|order| asked(order).is_none()) {
        return by_dscp(demands, active, Cell::WHOLE, visit);
    }
    let any = [SOURCES];
    let spans = active.iter().map(|order| (asked(order).unwrap_or(&any), *order));
    sweep(spans, SOURCES, |source, met| {
        let met: Vec<u32> = met.iter().copied().collect();
        by_dscp(demands, &met, Cell { source, ..Cell::WHOLE }, visit);
    });
}

fn by_dscp(demands: &[&Demand], active: &[u32], cell: Cell, visit: &mut dyn FnMut(&Cell, &[u32])) {
    by_values(demands, active, ByteSet::DSCP, |demand| demand.dscp, &mut |dscp, met| {
        by_values(demands, met, ByteSet::ALL, |demand| demand.flags, &mut |flags, met| {
            visit(&Cell { dscp, flags, ..cell }, met);
        });
    });
}

/// Cuts the values of a field into those that the same demands take.
fn by_values(
    demands: &[&Demand],
    active: &[u32],
    whole: ByteSet,
    asked: impl Fn(&Demand) -> Option<ByteSet>,
    visit: &mut dyn FnMut(ByteSet, &[u32]),
) {
    let of = |order: &u32| demands.get(*order as usize).and_then(|demand| asked(demand));
    let mut parts = vec![whole];
    for set in active.iter().filter_map(of) {
        parts = parts.into_iter().flat_map(|part| [part.and(set), part.but(set)]).collect();
        parts.retain(|part| !part.is_empty());
    }
    for part in parts {
        let takes = |order: &&u32| of(order).is_none_or(|set| !part.and(set).is_empty());
        let met: Vec<u32> = active.iter().filter(takes).copied().collect();
        visit(part, &met);
    }
}

/// Goes once over the numbers of `within`, from edge to edge, and tells who holds between them.
fn sweep<'a>(
    spans: impl Iterator<Item = (&'a [Span], u32)>,
    within: Span,
    mut visit: impl FnMut(Span, &BTreeSet<u32>),
) {
    // Where it is, whether it begins there, whose it is
    let mut edges: Vec<(u32, bool, u32)> = Vec::new();
    for (spans, order) in spans {
        for (first, last) in spans {
            let (first, last) = (within.0.max(*first), within.1.min(*last));
            if first <= last {
                edges.extend([(first, true, order), (last + 1, false, order)]);
            }
        }
    }
    edges.sort_unstable();
    let mut active = BTreeSet::new();
    let mut rest = &edges[..];
    let mut start = within.0;
    while start <= within.1 {
        while let [(at, begins, order), tail @ ..] = rest
            && *at == start
        {
            if *begins {
                active.insert(*order)
            } else {
                active.remove(order)
            };
            rest = tail;
        }
        let next = rest.first().map_or(within.1 + 1, |(at, _, _)| (*at).min(within.1 + 1));
        visit((start, next - 1), &active);
        start = next;
    }
}

/// Cells with their outcomes, as few as come of it when those are put together that differ in one field alone. The cells are
/// disjoint.
pub(super) fn merged<T: Copy + Ord>(cells: &[(Cell, T)]) -> Vec<(T, Cell)> {
    use std::collections::BTreeMap;
    let mut by_flags: BTreeMap<(T, Span, ByteSet), ByteSet> = BTreeMap::new();
    for (cell, outcome) in cells {
        let known = by_flags.entry((*outcome, cell.source, cell.dscp)).or_default();
        *known = known.or(cell.flags);
    }
    let mut by_dscp: BTreeMap<(T, Span, ByteSet), ByteSet> = BTreeMap::new();
    for ((outcome, source, dscp), flags) in by_flags {
        let known = by_dscp.entry((outcome, source, flags)).or_default();
        *known = known.or(dscp);
    }
    let mut by_source: BTreeMap<(T, ByteSet, ByteSet), Vec<Span>> = BTreeMap::new();
    for ((outcome, source, flags), dscp) in by_dscp {
        let spans = by_source.entry((outcome, dscp, flags)).or_default();
        match spans.last_mut() {
            Some(last) if last.1 + 1 == source.0 => last.1 = source.1,
            _ => spans.push(source),
        }
    }
    let cell = |((outcome, dscp, flags), spans): ((T, ByteSet, ByteSet), Vec<Span>)| {
        spans.into_iter().map(move |source| (outcome, Cell { source, dscp, flags }))
    };
    by_source.into_iter().flat_map(cell).collect()
}
