//! Who may reach whom in the networks of this host, who does, and who was refused: between groups, or between an endpoint and the others.
//!
//! What may pass is asked of the policy in force, exhaustively, as `eastgate policy who` asks a file
//! ([`eastgate_policy::analysis`]). Endpoints that no rule tells apart are asked about once.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use eastgate_api::{ErrorCode, Failure, Filter, List, MatrixRow, PassageRow, RuleRef, StagedChange};
use eastgate_config::Name;
use eastgate_conntrack::flow::FlowFilter;
use eastgate_dataplane::{
    pipeline::counters::{DropDetail, would_drop_details},
    snapshot::{Network, Snapshot},
};
use eastgate_policy::{
    analysis::{Domain, Passage, Side, passages},
    compile::{IdentityId, TierListId},
    rule::{Decision, Direction, Source},
};
use eastgate_wire::{Addr, DropGroup, EndpointId, FlowKey, Vni};

use super::{View, drops::refused_by, ends::Ends, networks, part::Part};
use crate::{io::clock, policy_tools::services_text};

/// Pairs of kinds of endpoints that are asked about for one row. Where there are more, the row says of how many pairs of endpoints it does not
/// tell.
const IN_ROW: usize = 1024;

/// And for all rows of one answer; the rest comes with the next one.
const IN_ANSWER: usize = 8 * IN_ROW;

/// How long an answer is worked on; the row that was begun is finished.
const LONGEST: Duration = Duration::from_millis(500);

/// Passages that a row tells of.
const PASSAGES: usize = 16;

/// Rules that a row names.
const RULES: usize = 4;

/// What was seen between the ends of a cell.
#[derive(Default)]
struct Seen {
    flows: u64,
    refused: u64,
    refused_by: Vec<RuleRef>,
    would_deny: u64,
    staged_refused: u64,
    staged_passed: u64,
}

impl View {
    pub(super) fn matrix(&self, snapshot: &Snapshot, filter: &Filter) -> Result<List<MatrixRow>, Failure> {
        let (part, ends) = (Part::of(filter)?, Ends::of(snapshot, filter)?);
        let networks = networks(snapshot, filter);
        let tables: Vec<Table<'_>> =
            networks.into_iter().map(|it| Table::new(it, filter, ends.as_ref())).collect();
        if let Some(group) = &filter.group
            && tables.iter().all(|table| table.group_members.is_empty())
        {
            let text = format!(
                "no endpoint of this host's networks is in a group {group}: `show policy` lists them"
            );
            return Err(Failure::new(ErrorCode::Invalid, text));
        }
        let total = tables.iter().map(Table::len).sum();
        let mut seen = self.seen(snapshot, &tables, filter)?;
        let (mut from, mut budget, begun) = (part.from, IN_ANSWER, clock::now());
        let mut rows = Vec::new();
        for table in &tables {
            let skipped = from.min(table.len());
            from -= skipped;
            let mut policy = None;
            for cell in table.cells(skipped) {
                // A row at least, or nobody would ever see the next one.
                let is_spent = budget < IN_ROW || clock::now().since(begun) > LONGEST;
                if rows.len() >= part.most || (!rows.is_empty() && is_spent) {
                    return Ok(listed(part, rows, total));
                }
                let seen = seen.remove(&(table.network.vni, cell)).unwrap_or_default();
                rows.extend(policy.get_or_insert_with(|| Policy::new(table)).row(cell, seen, &mut budget));
            }
        }
        Ok(listed(part, rows, total))
    }

    /// What was seen between the ends of each cell, where there was anything.
    fn seen(
        &self,
        snapshot: &Snapshot,
        tables: &[Table<'_>],
        filter: &Filter,
    ) -> Result<HashMap<(Vni, Cell), Seen>, Failure> {
        let tables = tables.iter().map(|table| (table.network.vni, table)).collect();
        let mut seen = Sightings { tables, seen: HashMap::new() };
        let which = FlowFilter { vni: filter.vni, ..FlowFilter::default() };
        self.for_each_flow(&which, clock::now(), |flow| seen.flow(&flow.key, |cell| cell.flows += 1));
        for drop in self.dropped_rows() {
            seen.drops(&drop, |cell, packets, by| {
                cell.refused += packets;
                if let Some(by) =
                    by.filter(|by| cell.refused_by.len() < RULES && !cell.refused_by.contains(by))
                {
                    cell.refused_by.push(by.clone());
                }
            });
        }
        for drop in would_drop_details(&self.shared.counters) {
            seen.drops(&drop, |cell, packets, _| cell.would_deny += packets);
        }
        let staged = self.staged(
            snapshot,
            &Filter { vni: filter.vni, scope: filter.scope.clone(), ..Filter::default() },
        )?;
        for row in staged.rows {
            seen.between(row.vni, row.src, row.dst, |cell| match row.change {
                StagedChange::WouldBeRefused => cell.staged_refused += row.count,
                StagedChange::WouldPass => cell.staged_passed += row.count,
            });
        }
        Ok(seen.seen)
    }
}

fn listed(part: Part, rows: Vec<MatrixRow>, total: usize) -> List<MatrixRow> {
    let rows = part.fill(rows.into_iter());
    List { next: part.next(rows.len(), total), rows, total }
}

/// From which unit to which, by their places in [`Table::units`]
type Cell = (u32, u32);

/// Those between whom rows are: groups, or endpoints.
struct Table<'s> {
    network: &'s Network,
    /// Their names, and their members by the places of these in the network
    units: Vec<(String, Vec<u32>)>,
    /// Those that were asked about: each row has one of them on either side.
    asked: Vec<u32>,
    /// They are endpoints. One does not send to itself over the network; members of a group do to each other.
    each_is_one: bool,
    /// The units that each endpoint is in
    units_of: HashMap<EndpointId, Vec<u32>>,
    /// Who is in the group that was asked for
    group_members: BTreeSet<u32>,
}

impl<'s> Table<'s> {
    fn new(network: &'s Network, filter: &Filter, ends: Option<&Ends<'_>>) -> Self {
        let groups = groups(network);
        let is_named = |name: &str| {
            let wanted = filter.group.as_deref();
            wanted.is_some_and(|group| {
                group == name || name.split_once('/').is_some_and(|(_, key)| key == group)
            })
        };
        let of_group = groups.iter().filter(|(name, _)| is_named(name)).flat_map(|(_, members)| members);
        let group_members: BTreeSet<u32> = of_group.copied().collect();
        let (mut units, mut asked) = (Vec::new(), Vec::new());
        let mut add = |name: String, members: Vec<u32>, is_asked: bool| {
            asked.extend(is_asked.then_some(units.len() as u32));
            units.push((name, members));
        };
        match ends {
            None => {
                for (name, members) in groups {
                    let is_asked = filter.group.is_none() || is_named(&name);
                    add(name, members, is_asked);
                }
            }
            Some(ends) => {
                for (place, endpoint) in (0..).zip(network.endpoints()) {
                    let is_asked = ends.has(network.vni, endpoint);
                    // Of the others those that are in the group, where one was asked for.
                    if is_asked || filter.group.is_none() || group_members.contains(&place) {
                        add(format!("{}/{}", network.tenant.name, endpoint.name), vec![place], is_asked);
                    }
                }
            }
        }
        let ids: Vec<EndpointId> = network.endpoints().map(|endpoint| endpoint.id).collect();
        let mut units_of: HashMap<EndpointId, Vec<u32>> = HashMap::new();
        for (unit, (_, members)) in (0..).zip(&units) {
            for id in members.iter().filter_map(|place| ids.get(*place as usize)) {
                units_of.entry(*id).or_default().push(unit);
            }
        }
        Self { network, units, asked, each_is_one: ends.is_some(), units_of, group_members }
    }

    /// How many cells there are.
    fn len(&self) -> usize {
        (0..self.units.len() as u32).map(|from| self.len_of(from)).sum()
    }

    /// How many begin at a unit.
    fn len_of(&self, from: u32) -> usize {
        if self.is_asked(from) { self.units.len() - usize::from(self.each_is_one) } else { self.asked.len() }
    }

    fn is_asked(&self, unit: u32) -> bool {
        self.asked.binary_search(&unit).is_ok()
    }

    /// The cells but for the first of them.
    fn cells(&self, mut skipped: usize) -> impl Iterator<Item = Cell> {
        let all = 0..self.units.len() as u32;
        all.clone().flat_map(move |from| {
            let before = skipped.min(self.len_of(from));
            skipped -= before;
            let to: Box<dyn Iterator<Item = u32>> = if self.is_asked(from) {
                Box::new(all.clone())
            } else {
                Box::new(self.asked.iter().copied())
            };
            to.filter(move |to| !(self.each_is_one && from == *to)).skip(before).map(move |to| (from, to))
        })
    }

    fn units_at(&self, address: Addr) -> &[u32] {
        let endpoint = self.network.at_address(address).map(|(endpoint, _)| endpoint.id);
        endpoint.and_then(|id| self.units_of.get(&id)).map_or(&[], Vec::as_slice)
    }
}

/// The groups that endpoints of a network are in, by name as tenant/name, with the places of these endpoints.
fn groups(network: &Network) -> Vec<(String, Vec<u32>)> {
    let Some(config) = network.config() else { return Vec::new() };
    let tenant = &network.tenant;
    let mut members: BTreeMap<Option<&Name>, Vec<u32>> = BTreeMap::new();
    for (place, endpoint) in (0..).zip(config.endpoints.iter()) {
        // Whoever has rules by what a group includes is in it too, where it is made of values.
        let rules_of = tenant.rules_of(endpoint);
        let made = rules_of.iter().filter(|group| group.made_of.is_some()).map(|group| &group.name);
        let groups: BTreeSet<&Name> = endpoint.groups.iter().chain(made).collect();
        if groups.is_empty() {
            members.entry(None).or_default().push(place);
        }
        for group in groups {
            let group = tenant.groups.get(group).map_or(group, |group| &group.name);
            members.entry(Some(group)).or_default().push(place);
        }
    }
    let none = members.remove(&None);
    let named = members.into_iter().map(|(group, members)| (group.map_or("", |it| &**it), members));
    let named = named.chain(none.map(|members| ("(no group)", members)));
    named.map(|(group, members)| (format!("{}/{group}", tenant.name), members)).collect()
}

/// Collects what was seen.
struct Sightings<'t, 's> {
    tables: HashMap<Vni, &'t Table<'s>>,
    seen: HashMap<(Vni, Cell), Seen>,
}

impl Sightings<'_, '_> {
    fn between(&mut self, vni: Vni, src: Addr, dst: Addr, mut add: impl FnMut(&mut Seen)) {
        let Some(table) = self.tables.get(&vni) else { return };
        for from in table.units_at(src) {
            for to in table.units_at(dst) {
                add(self.seen.entry((vni, (*from, *to))).or_default());
            }
        }
    }

    fn flow(&mut self, key: &FlowKey, add: impl FnMut(&mut Seen)) {
        self.between(key.vni, key.src, key.dst, add);
    }

    /// Those that rules have refused.
    fn drops(&mut self, drop: &DropDetail, mut add: impl FnMut(&mut Seen, u64, Option<&RuleRef>)) {
        let Some(table) = drop.key.vni.and_then(|vni| self.tables.get(&vni)) else { return };
        if drop.key.reason.group() != DropGroup::Policy {
            return;
        }
        let by = refused_by(table.network, &drop.key);
        for seen in &drop.seen {
            if let Some(flow) = seen.subject.flow() {
                self.flow(flow, |cell| add(cell, seen.frames, by.as_ref()));
            }
        }
    }
}

/// What endpoints have in common that no rule tells apart: their tiers, and what their addresses are to the rules of others.
type Kind = ([Option<TierListId>; 2], BTreeSet<(bool, Option<IdentityId>)>);

/// What is told in one passage: services, and the decisions of both ends
type Alike = (Vec<String>, Decision, Decision);

/// What the policy of a network says between kinds of endpoints.
struct Policy<'t, 's> {
    table: &'t Table<'s>,
    source: Source,
    /// The kind of each endpoint
    kind_of: Vec<u32>,
    /// An endpoint of each kind
    example: Vec<EndpointId>,
    known: HashMap<(u32, u32), Vec<Alike>>,
}

impl<'t, 's> Policy<'t, 's> {
    fn new(table: &'t Table<'s>) -> Self {
        let source = table.network.source();
        let compiled = &table.network.policy;
        let mut kinds: HashMap<Kind, u32> = HashMap::new();
        let (mut kind_of, mut example) = (Vec::new(), Vec::new());
        for endpoint in table.network.endpoints() {
            let tiers = [Direction::Egress, Direction::Ingress].map(|it| compiled.tiers(endpoint.id, it));
            let addresses = addresses(&source, endpoint.id);
            let kind = (tiers, addresses.map(|it| (it.is_v4(), compiled.identity(it))).collect());
            let kind = *kinds.entry(kind).or_insert_with(|| {
                example.push(endpoint.id);
                (example.len() - 1) as u32
            });
            kind_of.push(kind);
        }
        Self { table, source, kind_of, example, known: HashMap::new() }
    }

    fn row(&mut self, (from, to): Cell, seen: Seen, budget: &mut usize) -> Option<MatrixRow> {
        let network = self.table.network;
        let unit = |place: u32| self.table.units.get(place as usize);
        let ((from_name, senders), (to_name, receivers)) = unit(from).zip(unit(to))?;
        let mut row = MatrixRow {
            vni: network.vni,
            network: network.name.clone(),
            from: from_name.clone(),
            to: to_name.clone(),
            pairs: 0,
            passing: 0,
            unasked: 0,
            passages: Vec::new(),
            more: 0,
            flows: seen.flows,
            refused: seen.refused,
            refused_by: seen.refused_by,
            would_deny: seen.would_deny,
            staged_refused: seen.staged_refused,
            staged_passed: seen.staged_passed,
        };
        let mut alike: BTreeMap<Alike, u64> = BTreeMap::new();
        let mut asked = 0;
        let first: BTreeSet<u32> = senders.iter().copied().collect();
        let both: Vec<u32> = receivers.iter().copied().filter(|it| first.contains(it)).collect();
        let (senders, receivers, both) =
            (self.counted(senders), self.counted(receivers), self.counted(&both));
        for (one, senders) in &senders {
            for (other, receivers) in &receivers {
                let same = if one == other { both.get(one).copied().unwrap_or_default() } else { 0 };
                let pairs = senders * receivers - same;
                if pairs == 0 {
                    continue;
                }
                row.pairs += pairs;
                if !self.known.contains_key(&(*one, *other)) {
                    if asked == IN_ROW {
                        row.unasked += pairs;
                        continue;
                    }
                    asked += 1;
                    let between = self.between(*one, *other);
                    self.known.insert((*one, *other), between);
                }
                let all = self.known.get(&(*one, *other)).map_or(&[][..], Vec::as_slice);
                row.passing += if all.is_empty() { 0 } else { pairs };
                for one in all {
                    *alike.entry(one.clone()).or_default() += pairs;
                }
            }
        }
        *budget = budget.saturating_sub(asked);
        row.more = alike.len().saturating_sub(PASSAGES) as u64;
        let mut alike: Vec<_> = alike.into_iter().collect();
        alike.sort_by_key(|(_, pairs)| std::cmp::Reverse(*pairs));
        let rule = |decision: &Decision| network.rules.reference(&network.tenant.name, decision.rule?.0);
        let passages =
            alike.into_iter().take(PASSAGES).map(|((services, egress, ingress), pairs)| PassageRow {
                services,
                pairs,
                audit: egress.verdict.audit || ingress.verdict.audit,
                egress: rule(&egress),
                ingress: rule(&ingress),
            });
        row.passages = passages.collect();
        Some(row)
    }

    /// How many of these endpoints are of each kind.
    fn counted<'e>(&self, places: impl IntoIterator<Item = &'e u32>) -> BTreeMap<u32, u64> {
        let mut counted = BTreeMap::new();
        for kind in places.into_iter().filter_map(|place| self.kind_of.get(*place as usize)) {
            *counted.entry(*kind).or_default() += 1;
        }
        counted
    }

    /// What may pass from an endpoint of one kind to one of another.
    fn between(&self, one: u32, other: u32) -> Vec<Alike> {
        let example = |kind: u32| self.example.get(kind as usize).copied();
        let Some((from, to)) = example(one).zip(example(other)) else { return Vec::new() };
        let side = Side { source: &self.source, compiled: &self.table.network.policy };
        let identity = |address: &Addr| (address.is_v4(), side.compiled.identity(*address));
        let of = |id| -> Vec<Addr> {
            let each: BTreeMap<_, Addr> = addresses(&self.source, id).map(|it| (identity(&it), it)).collect();
            each.into_values().collect()
        };
        let destinations = of(to);
        let mut found = BTreeSet::new();
        for source in of(from) {
            for destination in &destinations {
                let all = passages(side, (from, source), (to, *destination), &Domain::whole());
                found.extend(
                    all.into_iter()
                        .filter(Passage::passes)
                        .map(|passage| (services_text(&passage.services), passage.egress, passage.ingress)),
                );
            }
        }
        found.into_iter().collect()
    }
}

/// The single addresses of an endpoint, those of its pairs included.
fn addresses(source: &Source, id: EndpointId) -> impl Iterator<Item = Addr> {
    let all = source.endpoints.get(id.0 as usize).map_or(&[][..], |endpoint| &endpoint.addresses);
    all.iter().filter(|(_, len)| *len == 128).map(|(address, _)| *address)
}
