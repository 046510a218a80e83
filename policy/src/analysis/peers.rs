//! Addresses that the same rules speak of.

use std::collections::{BTreeMap, BTreeSet};

use eastgate_wire::{Addr, Family};

use crate::{
    compile::address::Prefix,
    naive,
    rule::{GroupId, Peer, Rule, Source},
};

/// Addresses of one family from the first to the last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AddressRange {
    /// The first
    pub first: Addr,
    /// The last
    pub last: Addr,
}

impl AddressRange {
    /// Is this address in it?
    #[must_use]
    pub fn contains(&self, address: Addr) -> bool {
        self.first <= address && address <= self.last
    }

    /// The prefixes that it consists of: address and length in the 128-bit form.
    #[must_use]
    pub fn prefixes(&self) -> Vec<(Addr, u8)> {
        let (mut at, last) = (self.first.bits(), self.last.bits());
        let shortest: u32 = if self.first.is_v4() { 96 } else { 0 };
        let mut prefixes = Vec::new();
        loop {
            let aligned = at.trailing_zeros().min(128 - shortest);
            // As many host bits as the alignment allows and the end leaves room for.
            let fits = |bits: &u32| {
                let host = if *bits >= 128 { u128::MAX } else { (1 << bits) - 1 };
                at.checked_add(host).is_some_and(|end| end <= last)
            };
            let bits = (0..=aligned).rev().find(fits).unwrap_or(0);
            prefixes.push((Addr::from_bits(at), (128 - bits) as u8));
            let host = if bits >= 128 { u128::MAX } else { (1 << bits) - 1 };
            match at.checked_add(host).and_then(|end| end.checked_add(1)) {
                Some(next) if next <= last => at = next,
                _ => return prefixes,
            }
        }
    }
}

/// Ranges in ascending order, those that touch as one.
pub(super) fn merged(mut ranges: Vec<AddressRange>) -> Vec<AddressRange> {
    ranges.sort_unstable();
    ranges.dedup_by(|next, before| {
        let touches = before.last.bits().checked_add(1) == Some(next.first.bits());
        let joins = touches && before.last.family() == next.first.family();
        if joins {
            before.last = next.last;
        }
        joins
    });
    ranges
}

/// Addresses of one family that the same rules speak of.
pub(super) struct Class {
    pub(super) family: Family,
    pub(super) ranges: Vec<AddressRange>,
    /// Which rules, by their place in the list
    pub(super) rules: Vec<u32>,
}

/// The members of each group, as prefixes
pub(super) struct Members(BTreeMap<GroupId, Vec<Prefix>>);

impl Members {
    pub(super) fn of(source: &Source) -> Self {
        let mut members: BTreeMap<GroupId, Vec<Prefix>> = BTreeMap::new();
        for endpoint in &source.endpoints {
            let prefixes = endpoint.addresses.iter().filter_map(|&(network, len)| Prefix::new(network, len));
            let prefixes: Vec<Prefix> = prefixes.collect();
            for group in &endpoint.groups {
                members.entry(*group).or_default().extend(&prefixes);
            }
        }
        Self(members)
    }

    fn prefixes(&self, peer: Peer) -> Vec<Prefix> {
        match peer {
            Peer::Any => vec![Prefix::whole(Family::V4), Prefix::whole(Family::V6)],
            Peer::Prefix { network, len } => Prefix::new(network, len).into_iter().collect(),
            Peer::Group(group) => self.0.get(&group).cloned().unwrap_or_default(),
        }
    }
}

/// What rules may have in common: a peer, in the families that they are for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Selector {
    /// Which policy's groups it means
    side: usize,
    peer: Peer,
    v4: bool,
    v6: bool,
}

/// All addresses of both families, by the rules that speak of them. Each rule comes with the side it is of.
pub(super) fn classes(members: &[Members], rules: &[(usize, &Rule)]) -> Vec<Class> {
    let mut selectors: BTreeMap<Selector, Vec<u32>> = BTreeMap::new();
    for ((side, rule), place) in rules.iter().zip(0..) {
        let is_for = |family| naive::families(rule).all(|bound| bound == family);
        let (v4, v6) = (is_for(Family::V4), is_for(Family::V6));
        selectors.entry(Selector { side: *side, peer: rule.peer, v4, v6 }).or_default().push(place);
    }
    let (selectors, rules_of): (Vec<Selector>, Vec<Vec<u32>>) = selectors.into_iter().unzip();
    let mut edges: Vec<(u128, bool, usize)> = Vec::new();
    for (selector, number) in selectors.iter().zip(0..) {
        let prefixes = members.get(selector.side).map(|members| members.prefixes(selector.peer));
        for (first, last) in spans(prefixes.unwrap_or_default(), selector) {
            edges.push((first, true, number));
            edges.extend(last.checked_add(1).map(|end| (end, false, number)));
        }
    }
    edges.sort_unstable();
    let mut found: BTreeMap<(Family, Vec<usize>), Vec<AddressRange>> = BTreeMap::new();
    ranges(&edges, |range, active| {
        let class = (range.first.family(), active.iter().copied().collect());
        found.entry(class).or_default().push(range);
    });
    let class = |((family, active), ranges): ((Family, Vec<usize>), Vec<AddressRange>)| {
        let mut rules: Vec<u32> =
            active.iter().filter_map(|selector| rules_of.get(*selector)).flatten().copied().collect();
        rules.sort_unstable();
        Class { family, ranges: merged(ranges), rules }
    };
    found.into_iter().map(class).collect()
}

/// What a selector means on the line of 128-bit addresses: disjoint, and of the families that it is for. IPv4 lies in the middle of
/// IPv6's numbers.
fn spans(prefixes: Vec<Prefix>, selector: &Selector) -> Vec<(u128, u128)> {
    let v4 = Prefix::whole(Family::V4);
    let mut spans: Vec<(u128, u128)> = Vec::new();
    for prefix in prefixes {
        match prefix.family() {
            Family::V4 if selector.v4 => spans.push((prefix.first(), prefix.last())),
            Family::V6 if selector.v6 => {
                let below = (prefix.first(), prefix.last().min(v4.first() - 1));
                let above = (prefix.first().max(v4.last() + 1), prefix.last());
                spans.extend([below, above].into_iter().filter(|(first, last)| first <= last));
            }
            _ => {}
        }
    }
    spans.sort_unstable();
    spans.dedup_by(|next, before| {
        let joins = next.0 <= before.1;
        if joins {
            before.1 = before.1.max(next.1);
        }
        joins
    });
    spans
}

/// Goes over all addresses from edge to edge.
fn ranges(edges: &[(u128, bool, usize)], mut visit: impl FnMut(AddressRange, &BTreeSet<usize>)) {
    let v4 = Prefix::whole(Family::V4);
    let families = [(0, v4.first() - 1), (v4.first(), v4.last()), (v4.last() + 1, u128::MAX)];
    let mut active = BTreeSet::new();
    let mut rest = edges;
    for (from, to) in families {
        let mut start = from;
        loop {
            while let [(at, begins, selector), tail @ ..] = rest
                && *at == start
            {
                if *begins {
                    active.insert(*selector)
                } else {
                    active.remove(selector)
                };
                rest = tail;
            }
            let end = rest.first().map_or(to, |(at, _, _)| (*at - 1).min(to));
            visit(AddressRange { first: Addr::from_bits(start), last: Addr::from_bits(end) }, &active);
            if end == to {
                break;
            }
            start = end + 1;
        }
    }
}
