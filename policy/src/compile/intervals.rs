//! Ordered services collapsed into disjoint intervals over (protocol, destination port or ICMP type and code),
//! and below that over source port, DSCP and TCP flags where a rule asks for them. Equal lists are stored once.
//!
//! A list's outcomes are counted from the first of its rules, so that rules with equal services share one list
//! wherever they stand.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Range,
};

use eastgate_wire::{Family, view::proto};

use super::{Budget, CompileError, NOWHERE, search};
use crate::rule::{Header, PortProtocol, PortRange, Probe, Rule, Service};

/// Below a protocol: 16 bits of destination port, or ICMP type and code; then one more value for a header that
/// was not read.
pub(crate) const UNREAD: u32 = 1 << 16;
pub(crate) const BELOW_PROTOCOL: u32 = 2 * UNREAD - 1;
const LAST_KEY: u32 = key(u8::MAX, BELOW_PROTOCOL);

/// The rest of the value is a list over another field: of [`FIELDS`] the one whose number is in the next two bits.
pub(super) const NESTED: u32 = 1 << 31;
pub(super) const FIELD_AT: u32 = 29;
pub(super) const LIST: u32 = (1 << FIELD_AT) - 1;

/// What rules may ask for below the key, in the order in which lists lie in each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Field {
    /// 16 bits, or [`UNREAD`]
    SourcePort,
    /// 6 bits
    Dscp,
    /// 8 bits, or [`FLAGS_UNREAD`]
    TcpFlags,
}

pub(super) const FIELDS: [Field; 3] = [Field::SourcePort, Field::Dscp, Field::TcpFlags];

/// In place of TCP flags that were not read
const FLAGS_UNREAD: u32 = 1 << 8;

impl Field {
    const fn last(self) -> u32 {
        match self {
            Self::SourcePort => UNREAD,
            Self::Dscp => 63,
            Self::TcpFlags => FLAGS_UNREAD,
        }
    }
}

pub(crate) const fn key(protocol: u8, below: u32) -> u32 {
    (protocol as u32) << 17 | below
}

/// Words that may be left over however few there are
const STALE: usize = 4096;

/// A list of disjoint intervals: where it begins in [`Lists`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct ListId(u32);

/// All interval lists of a network, one behind the other: of each its length, where its intervals start, their
/// values, and the tables of [`search`]. So a short list is read with one or two cache lines.
#[derive(Debug)]
pub(super) struct Lists {
    words: Box<[u32]>,
    lists: usize,
    intervals: usize,
    /// So many words were all in use.
    used: usize,
    /// So many are of lists that nothing uses any more, but for lists in those.
    unused: usize,
}

/// A probe as the position it has in the lists.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    key: u32,
    /// By the numbers of [`FIELDS`]
    fields: [u32; FIELDS.len()],
}

impl ListId {
    pub(super) const NONE: Self = Self(u32::MAX);

    pub(super) const fn number(self) -> u32 {
        self.0
    }
}

impl Point {
    #[inline]
    pub(super) const fn of(probe: &Probe) -> Self {
        // A field only counts beside a protocol that has it.
        let (below, source) = match (probe.proto, probe.header) {
            (proto::ICMP | proto::ICMPV6, Header::Icmp { kind, code }) => {
                ((kind as u32) << 8 | code as u32, UNREAD)
            }
            (protocol, Header::Ports { source, destination })
                if PortProtocol::from_number(protocol).is_some() =>
            {
                (destination as u32, source as u32)
            }
            _ => (UNREAD, UNREAD),
        };
        let flags = match (probe.proto, probe.header) {
            (proto::TCP, Header::Ports { .. }) => probe.tcp_flags as u32,
            _ => FLAGS_UNREAD,
        };
        Self { key: key(probe.proto, below), fields: [source, probe.dscp as u32, flags] }
    }

    #[cfg(test)]
    pub(super) const fn parts(self) -> (u32, [u32; FIELDS.len()]) {
        (self.key, self.fields)
    }
}

impl Lists {
    /// How far behind the list's first rule the one that decides stands; [`NOWHERE`] when no rule matches.
    #[inline]
    pub(super) fn find(&self, list: ListId, point: Point) -> u32 {
        let mut value = self.value(list.0, point.key).unwrap_or(NOWHERE);
        // A list over a field leads to lists over those behind it.
        while value & NESTED != 0 {
            let field = point.fields.get((value >> FIELD_AT & 3) as usize).copied().unwrap_or(0);
            value = self.value(value & LIST, field).unwrap_or(NOWHERE);
        }
        value
    }

    #[inline]
    fn value(&self, list: u32, key: u32) -> Option<u32> {
        let (len, behind) = self.words.get(list as usize..)?.split_first()?;
        let len = *len as usize;
        let at = search::predecessor(behind, len, behind.get(2 * len..)?, key);
        behind.get(len + at).copied()
    }

    pub(super) fn words(&self) -> &[u32] {
        &self.words
    }

    pub(super) fn len(&self) -> usize {
        self.lists
    }

    pub(super) fn intervals(&self) -> usize {
        self.intervals
    }

    /// Where the words of a list over the key are, and whether it leads to no other.
    fn place_of(&self, list: ListId) -> Option<(Range<usize>, bool)> {
        let (starts, values) = self.columns(list)?;
        let mut tables = Vec::new();
        search::index(starts, &mut tables);
        let place = list.0 as usize;
        let is_alone = values.iter().all(|value| value & NESTED == 0);
        Some((place..place + 1 + starts.len() + values.len() + tables.len(), is_alone))
    }

    fn intervals_of(&self, list: ListId) -> Box<[Interval]> {
        let (starts, values) = self.columns(list).unwrap_or_default();
        starts.iter().zip(values).map(|(start, value)| Interval { start: *start, value: *value }).collect()
    }

    /// Where the intervals of a list start, and their values.
    fn columns(&self, list: ListId) -> Option<(&[u32], &[u32])> {
        let (len, behind) = self.words.get(list.0 as usize..)?.split_first()?;
        let (starts, behind) = behind.split_at_checked(*len as usize)?;
        Some((starts, behind.get(..starts.len())?))
    }

    /// Whether half of them may be lists that nothing uses any more.
    pub(super) fn are_stale(&self) -> bool {
        self.words.len() > 2 * self.used + STALE || 2 * self.unused > self.words.len() + STALE
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.words)
    }
}

/// Builds lists and keeps each once.
pub(super) struct Builder<'b> {
    budget: &'b mut Budget,
    interned: HashMap<Box<[Interval]>, u32>,
    /// Lists that are not among those
    known: usize,
    words: Vec<u32>,
    /// Where there is room among them, by how much
    room: BTreeMap<usize, Vec<usize>>,
    intervals: usize,
    /// So many words were all in use; none where that is what they are now.
    used: Option<usize>,
    unused: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Interval {
    start: u32,
    value: u32,
}

/// Where a rule begins or ceases to apply.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Edge {
    at: u32,
    begins: bool,
    /// The rule's place in the list that is built
    order: u32,
}

pub(crate) type Spans = Vec<(u32, u32)>;

/// By the numbers of [`FIELDS`]: the values that a rule takes, where it asks.
pub(crate) type Asked = [Option<Spans>; FIELDS.len()];

impl<'b> Builder<'b> {
    pub(super) fn new(budget: &'b mut Budget) -> Self {
        Self {
            budget,
            interned: HashMap::new(),
            known: 0,
            words: vec![],
            room: BTreeMap::new(),
            intervals: 0,
            used: None,
            unused: 0,
        }
    }

    /// Adds to lists that there are. Of those that nobody has but who asks for lists now, these are given again to whoever asks
    /// for the same, and others make room.
    ///
    /// All of them are lists over the key. None is one over a field: what begins second in a list over the key is of another
    /// protocol than 0.
    pub(super) fn after(before: &Lists, same: &[ListId], gone: &[ListId], budget: &'b mut Budget) -> Self {
        let mut room: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let mut unused = before.unused;
        for (place, is_alone) in gone.iter().filter_map(|list| before.place_of(*list)) {
            unused += place.len();
            if is_alone {
                room.entry(place.len()).or_default().push(place.start);
            }
        }
        Self {
            interned: same.iter().map(|list| (before.intervals_of(*list), list.0)).collect(),
            known: before.lists - same.len(),
            words: before.words.to_vec(),
            room,
            intervals: before.intervals,
            used: Some(before.used),
            unused,
            ..Self::new(budget)
        }
    }

    pub(super) fn spend(&mut self, entries: usize) -> Result<(), CompileError> {
        self.budget.spend(entries)
    }

    pub(super) fn finish(self) -> Lists {
        let used = self.used.unwrap_or(self.words.len());
        let lists = self.known + self.interned.len();
        Lists { words: self.words.into(), lists, intervals: self.intervals, used, unused: self.unused }
    }

    /// The list of these rules, each with its place in the whole ordered list, ascending.
    pub(super) fn list(&mut self, rules: &[(u32, &Rule)]) -> Result<ListId, CompileError> {
        let base = rules.first().map_or(0, |(rank, _)| *rank);
        let asked: Vec<Asked> = rules.iter().map(|(_, rule)| asked_of(rule)).collect();
        let spans = rules.iter().map(|(_, rule)| key_spans(rule));
        let mut edges = edges(spans.enumerate().map(|(order, spans)| (order as u32, spans)));
        self.budget.spend(edges.len())?;
        let outcome = |order: u32| rules.get(order as usize).map_or(NOWHERE, |(rank, _)| rank - base);
        let intervals = sweep(&mut edges, LAST_KEY, |active| {
            let reach = reach(active.iter().copied(), &asked, 0);
            self.below(&reach, &asked, 0, &outcome)
        })?;
        self.intern(intervals).map(ListId)
    }

    /// What those of the `active` rules come to that the fields from `field` on tell apart.
    fn below(
        &mut self,
        active: &[u32],
        asked: &[Asked],
        field: usize,
        outcome: &impl Fn(u32) -> u32,
    ) -> Result<u32, CompileError> {
        let Some(&first) = active.first() else { return Ok(NOWHERE) };
        let Some(which) = FIELDS.get(field) else { return Ok(outcome(first)) };
        let spans_of = |order: u32| asked.get(order as usize).and_then(|asked| asked[field].clone());
        if active.iter().all(|order| spans_of(*order).is_none()) {
            return self.below(active, asked, field + 1, outcome);
        }
        let whole = || vec![(0, which.last())];
        let mut edges = edges(active.iter().map(|order| (*order, spans_of(*order).unwrap_or_else(whole))));
        self.budget.spend(edges.len())?;
        let intervals = sweep(&mut edges, which.last(), |active| {
            let reach = reach(active.iter().copied(), asked, field + 1);
            self.below(&reach, asked, field + 1, outcome)
        })?;
        // A rule that asks for every value needs no list of its own.
        match intervals.as_slice() {
            [only] => Ok(only.value),
            _ => Ok(self.intern(intervals)? | NESTED | (field as u32) << FIELD_AT),
        }
    }

    fn intern(&mut self, intervals: Vec<Interval>) -> Result<u32, CompileError> {
        if let Some(&id) = self.interned.get(intervals.as_slice()) {
            return Ok(id);
        }
        self.budget.spend(intervals.len())?;
        self.intervals += intervals.len();
        let starts: Vec<u32> = intervals.iter().map(|interval| interval.start).collect();
        let mut list = vec![starts.len() as u32];
        list.extend(&starts);
        list.extend(intervals.iter().map(|interval| interval.value));
        search::index(&starts, &mut list);
        let id = self.put(&list) as u32;
        self.interned.insert(intervals.into(), id);
        Ok(id)
    }

    /// Puts a list where there is room, or behind all others.
    fn put(&mut self, list: &[u32]) -> usize {
        let enough = self.room.range(list.len()..).next().map(|(len, _)| *len);
        let found = enough.and_then(|len| {
            let starts = self.room.get_mut(&len)?;
            let start = starts.pop();
            if starts.is_empty() {
                self.room.remove(&len);
            }
            self.unused -= list.len();
            start
        });
        let start = found.unwrap_or(self.words.len());
        let end = (start + list.len()).min(self.words.len());
        self.words.splice(start..end, list.iter().copied());
        start
    }
}

fn edges(spans: impl Iterator<Item = (u32, Spans)>) -> Vec<Edge> {
    let mut edges = Vec::new();
    for (order, spans) in spans {
        for (first, last) in spans {
            edges.push(Edge { at: first, begins: true, order });
            edges.push(Edge { at: last + 1, begins: false, order });
        }
    }
    edges
}

/// Goes once over the space, from edge to edge, and asks what holds between them.
fn sweep(
    edges: &mut [Edge],
    last: u32,
    mut resolve: impl FnMut(&BTreeSet<u32>) -> Result<u32, CompileError>,
) -> Result<Vec<Interval>, CompileError> {
    edges.sort_unstable();
    let mut active = BTreeSet::new();
    let mut intervals: Vec<Interval> = Vec::with_capacity(edges.len() + 1);
    let mut start = 0;
    let mut rest = &*edges;
    while start <= last {
        while let [edge, tail @ ..] = rest
            && edge.at == start
        {
            if edge.begins {
                active.insert(edge.order)
            } else {
                active.remove(&edge.order)
            };
            rest = tail;
        }
        let value = resolve(&active)?;
        if intervals.last().is_none_or(|before| before.value != value) {
            intervals.push(Interval { start, value });
        }
        let Some(next) = rest.first() else { break };
        start = next.at;
    }
    Ok(intervals)
}

/// Where a rule applies, as disjoint spans of keys.
pub(crate) fn key_spans(rule: &Rule) -> Spans {
    let spans = service_spans(rule);
    if rule.tcp_flags.is_none() {
        return spans;
    }
    let (from, to) = (key(proto::TCP, 0), key(proto::TCP, BELOW_PROTOCOL));
    let of_tcp = |(first, last): (u32, u32)| (first.max(from), last.min(to));
    spans.into_iter().map(of_tcp).filter(|(first, last)| first <= last).collect()
}

fn service_spans(rule: &Rule) -> Spans {
    // What was not read might have been what the rule denies; it never is what the rule allows or passes on.
    let denies = !rule.then.wants_header();
    match &rule.service {
        Service::Any => vec![(0, LAST_KEY)],
        Service::Protocol(number) => vec![(key(*number, 0), key(*number, BELOW_PROTOCOL))],
        Service::NotProtocol(number) => {
            let below = key(*number, 0).checked_sub(1).map(|last| (0, last));
            let above = key(*number, BELOW_PROTOCOL) + 1;
            below.into_iter().chain((above <= LAST_KEY).then_some((above, LAST_KEY))).collect()
        }
        Service::Ports { protocol, destination: None, .. } => {
            vec![(key(protocol.number(), 0), key(protocol.number(), BELOW_PROTOCOL))]
        }
        Service::Ports { protocol, destination: Some(ranges), .. } => {
            under(protocol.number(), port_spans(ranges, denies))
        }
        Service::Icmp { family, kinds, codes } => {
            let number = match family {
                Family::V4 => proto::ICMP,
                Family::V6 => proto::ICMPV6,
            };
            under(number, icmp_spans(kinds.as_deref(), codes.as_deref(), denies))
        }
    }
}

/// The rules down to the first that takes whatever the fields from `field` on say: nothing behind it is reached.
fn reach(active: impl Iterator<Item = u32>, asked: &[Asked], field: usize) -> Vec<u32> {
    let asks = |order: u32| {
        let fields = asked.get(order as usize).and_then(|asked| asked.get(field..));
        fields.is_some_and(|fields| fields.iter().any(Option::is_some))
    };
    let mut reached = Vec::new();
    for order in active {
        reached.push(order);
        if !asks(order) {
            break;
        }
    }
    reached
}

/// Which values of the fields below the key a rule asks for.
pub(crate) fn asked_of(rule: &Rule) -> Asked {
    let denies = !rule.then.wants_header();
    let source = match &rule.service {
        Service::Ports { source: Some(ranges), .. } => Some(merged(port_spans(ranges, denies))),
        _ => None,
    };
    let dscp = rule.dscp.map(|set| values(0..=63, |dscp| set.contains(dscp)));
    let flags = rule.tcp_flags.map(|wanted| {
        let mut spans = values(0..=u8::MAX, |flags| wanted.contains(flags));
        if denies && !spans.is_empty() {
            spans.push((FLAGS_UNREAD, FLAGS_UNREAD));
        }
        merged(spans)
    });
    [source, dscp, flags]
}

/// Those values that fit, as spans.
fn values(all: std::ops::RangeInclusive<u8>, fits: impl Fn(u8) -> bool) -> Spans {
    merged(all.filter(|value| fits(*value)).map(|value| (value.into(), value.into())).collect())
}

fn under(protocol: u8, spans: Spans) -> Spans {
    merged(spans.into_iter().map(|(first, last)| (key(protocol, first), key(protocol, last))).collect())
}

fn port_spans(ranges: &[PortRange], denies: bool) -> Spans {
    let mut spans: Spans = ranges.iter().map(|r| (u32::from(r.first()), u32::from(r.last()))).collect();
    if denies && !spans.is_empty() {
        spans.push((UNREAD, UNREAD));
    }
    spans
}

fn icmp_spans(kinds: Option<&[u8]>, codes: Option<&[u8]>, denies: bool) -> Spans {
    let types = |kinds: Option<&[u8]>| kinds.map_or_else(|| (0..=u8::MAX).collect(), <[u8]>::to_vec);
    let row = |kind: u8| u32::from(kind) << 8;
    let mut spans: Spans = match (kinds, codes) {
        (None, None) => return vec![(0, BELOW_PROTOCOL)],
        (Some(kinds), None) => kinds.iter().map(|&kind| (row(kind), row(kind) | 0xff)).collect(),
        (kinds, Some(codes)) => types(kinds)
            .into_iter()
            .flat_map(|kind| {
                codes.iter().map(move |&code| (row(kind) | u32::from(code), row(kind) | u32::from(code)))
            })
            .collect(),
    };
    if denies && !spans.is_empty() {
        spans.push((UNREAD, UNREAD));
    }
    spans
}

/// The same spans, sorted, those that touch or overlap as one.
fn merged(mut spans: Spans) -> Spans {
    spans.sort_unstable();
    spans.dedup_by(|next, before| {
        let joins = next.0 <= before.1.saturating_add(1);
        if joins {
            before.1 = before.1.max(next.1);
        }
        joins
    });
    spans
}
