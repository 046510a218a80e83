//! Cells: boxes of services within which no rule tells one packet from another.

use std::collections::BTreeSet;

use crate::{compile::intervals, rule::Rule};

/// Numbers from the first to the last, both included
pub(super) type Span = (u32, u32);

/// What a cell is cut by below protocol, port and ICMP: the source port.
pub(super) const FINER: usize = 1;

/// Whatever the finer fields are
pub(super) const WHOLE: [Span; FINER] = [(0, u16::MAX as u32)];

/// A box in the finer fields
pub(super) type Finer = [Span; FINER];

/// Which services a rule asks for.
pub(super) struct Demand {
    /// By the keys of [`intervals`]
    keys: Vec<Span>,
    /// None where it does not ask
    finer: [Option<Vec<Span>>; FINER],
}

impl Demand {
    pub(super) fn of(rule: &Rule) -> Self {
        Self { keys: intervals::key_spans(rule), finer: [intervals::source_spans(rule)] }
    }
}

/// Visits every cell of a domain, in ascending order, with the demands that are met in it, by their place in the list.
pub(super) fn walk(demands: &[&Demand], domain: &[Span], visit: &mut impl FnMut(Span, &Finer, &[u32])) {
    for within in domain {
        let spans = demands.iter().map(|demand| &demand.keys[..]);
        sweep(spans.zip(0..), *within, |key, active| {
            let active: Vec<u32> = active.iter().copied().collect();
            finer(demands, &active, 0, &mut WHOLE.clone(), &mut |cell, met| visit(key, cell, met));
        });
    }
}

/// Cuts by one field after the other, where a rule asks for it.
fn finer(
    demands: &[&Demand],
    active: &[u32],
    field: usize,
    cell: &mut Finer,
    visit: &mut dyn FnMut(&Finer, &[u32]),
) {
    let (Some(whole), Some(_)) = (WHOLE.get(field), cell.get(field)) else { return visit(cell, active) };
    let asked =
        |order: &u32| demands.get(*order as usize).and_then(|demand| demand.finer.get(field)?.as_deref());
    if !active.iter().any(|order| asked(order).is_some()) {
        cell[field] = *whole;
        return finer(demands, active, field + 1, cell, visit);
    }
    let any = [*whole];
    let spans = active.iter().map(|order| (asked(order).unwrap_or(&any), *order));
    sweep(spans, *whole, |span, met| {
        cell[field] = span;
        let met: Vec<u32> = met.iter().copied().collect();
        finer(demands, &met, field + 1, cell, visit);
    });
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
