//! Groups whose rules have variables, and groups that include others: what an endpoint has by its groups.
//!
//! Who is further out counts first: what an endpoint gives a variable, then what the group gives that it is in, then what a group gives
//! that this one includes. Where that comes to something else than what a group says for itself, the rules become a group of their own, with a
//! name that nobody can write: `web{PORTS=8080}`. Endpoints with equal values share it. Nobody is in it: members of `web` stay that.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use super::{
    endpoint::ByNetwork,
    includes::Includes,
    names::Names,
    rule::{self, Direction},
    tenant::among_members,
};
use crate::{
    digest::Digest,
    leaf::PortRange,
    model::{Group, Name, Rule},
    problem::{Near, Problem},
    read::{At, Field, Named, Reader, Span},
    tables::{EndpointTable, GroupTable, RuleTable},
    values::{List, OneOrMany, PeerValue},
    variables::{PortsValue, Value, Values, is_variable, is_variable_name},
};

/// Of one group, so many may be included, each counted for each way that gives it other values.
const MOST: usize = 256;

/// So much may groups with values come to in one tenant, in rules times values: whoever writes little is not to fill the memory
/// before anybody counts rules.
const MOST_MADE: usize = 1_000_000;

/// A name is no longer than this, but for what stands for the rest of it.
const LONGEST: usize = 64;

/// By where a value is written, where the variable stands that it was put in the place of
type Stands = BTreeMap<u32, Span>;

/// What variables stand for.
type Env<'t> = BTreeMap<&'t str, &'t Values>;

/// The groups of a tenant, and what they are with values.
pub(super) struct Variables<'t> {
    groups: Vec<Of<'t>>,
    includes: Includes,
    /// Rules that are checked with each of their values say the same of what does not depend on them.
    told: BTreeSet<(u32, &'static str)>,
    /// Groups that were made, and all of what their names stand for
    made: BTreeMap<Name, String>,
    /// What is left of [`MOST_MADE`]; none once it was told that it is too much
    left: Option<usize>,
}

/// A group as it is written.
struct Of<'t> {
    name: &'t At<Name>,
    table: &'t GroupTable,
    /// The variables in its own rules, and where each is first
    uses: BTreeMap<&'t str, Span>,
    /// There are some, or what only looks like one.
    any: bool,
    gives: Env<'t>,
    /// What an endpoint must give that is in it, by it or by what it includes
    lacks: Option<Lack<'t>>,
}

/// A variable without values.
#[derive(Clone, Copy)]
struct Lack<'t> {
    name: &'t str,
    at: Span,
}

/// A group with values for the variables of its own rules.
struct Body<'t> {
    group: usize,
    values: Env<'t>,
    lacks: Option<Lack<'t>>,
}

impl<'t> Variables<'t> {
    /// Of a tenant with these groups; by their places, some are known to have no variables in their rules.
    pub(super) fn of(
        tables: &'t Named<GroupTable>,
        without: impl Fn(usize) -> bool,
        reader: &mut Reader,
    ) -> Self {
        let includes = Includes::of(tables, reader);
        let groups = tables.iter().enumerate().map(|(at, (name, table))| {
            let (uses, any) = if without(at) { Default::default() } else { uses(table, reader) };
            let gives = table.variables.good().map(|given| env(&given.value.0)).unwrap_or_default();
            Of { name, table, uses, any, gives, lacks: None }
        });
        Self {
            groups: groups.collect(),
            includes,
            told: BTreeSet::new(),
            made: BTreeMap::new(),
            left: Some(MOST_MADE),
        }
    }

    /// Whether any are in the rules of a group, or what only looks like one.
    pub(super) fn are_in(&self, group: usize) -> bool {
        self.groups.get(group).is_some_and(|of| of.any)
    }

    /// The good rules of a group as it says itself. Where it leaves a variable to others, it has none: nobody has it so.
    pub(super) fn rules(
        &mut self,
        group: usize,
        names: &mut Names<'_>,
        reader: &mut Reader,
    ) -> [Vec<Rule>; 2] {
        let gives = self.groups.get(group).map(|of| of.gives.clone()).unwrap_or_default();
        self.rules_with(group, &gives, names, reader)
    }

    fn rules_with(
        &mut self,
        group: usize,
        values: &Env<'_>,
        names: &mut Names<'_>,
        reader: &mut Reader,
    ) -> [Vec<Rule>; 2] {
        let Some(of) = self.groups.get(group) else { return Default::default() };
        let lists = [&of.table.ingress.value, &of.table.egress.value];
        let directions = [Direction::Ingress, Direction::Egress];
        if of.uses.is_empty() {
            let [ingress, egress] = lists;
            return [
                rule::check_list(ingress, Direction::Ingress, names, reader),
                rule::check_list(egress, Direction::Egress, names, reader),
            ];
        }
        let mut own = reader.beside();
        let (mut complete, mut stands) = (true, Stands::new());
        let rules = [0, 1].map(|at| {
            let (filled, whole) = filled(lists[at], values, &mut stands, &mut own);
            complete &= whole;
            rule::check_list(&filled, directions[at], names, &mut own)
        });
        for found in own.found.told() {
            let (_, start) = found.at.order();
            if !self.told.insert((start, found.problem.code())) {
                continue;
            }
            reader.found.push(match stands.get(&start) {
                Some(at) => found.clone().and(reader.place(*at), "where it stands"),
                None => found.clone(),
            });
        }
        if complete { rules } else { Default::default() }
    }

    /// What each group has by those that it includes; `groups` are all of the tenant, and get those that are made.
    pub(super) fn include(
        &mut self,
        groups: &mut BTreeMap<Name, Arc<Group>>,
        names: &mut Names<'_>,
        reader: &mut Reader,
    ) {
        for at in 0..self.groups.len() {
            let Some(of) = self.groups.get(at) else { continue };
            let (name, table) = (of.name, of.table);
            // Most have nothing to do with any of this.
            if table.include.value.items.is_empty() && of.uses.is_empty() && of.gives.is_empty() {
                continue;
            }
            let Some(bodies) = self.bodies(at, &Env::new()) else {
                let what = format!("`{}` comes to more than {MOST} groups by what it includes", name.value);
                reader.report(Problem::IncludeDeep { what }, table.include.span);
                continue;
            };
            let known: BTreeSet<&str> = self.used(&bodies);
            for (variable, _) in table.variables.good().into_iter().flat_map(|given| &given.value.0) {
                if !known.contains(&*variable.value) && is_variable_name(&variable.value) {
                    let near = Near::new(&variable.value, known.iter().copied());
                    let problem = Problem::VariableUnused { name: variable.value.to_string(), near };
                    reader.report(problem, variable.span);
                }
            }
            if let Some(of) = self.groups.get_mut(at) {
                of.lacks = bodies.iter().find_map(|body| body.lacks);
            }
            let inner = bodies.iter().filter(|body| body.group != at);
            let mut includes: Vec<Name> =
                inner.filter_map(|body| self.put_into(groups, body, names, reader)).collect();
            includes.sort_unstable();
            includes.dedup();
            if let Some(group) = groups.get_mut(&name.value) {
                Arc::make_mut(group).includes = includes;
            }
        }
    }

    /// Gives endpoints the rules that they have by values of their own. `built` are the good ones, by their networks.
    pub(super) fn apply(
        &mut self,
        tables: &'t Named<EndpointTable>,
        built: &mut ByNetwork,
        groups: &mut BTreeMap<Name, Arc<Group>>,
        names: &mut Names<'_>,
        reader: &mut Reader,
    ) {
        let any_lacks = self.groups.iter().any(|of| of.lacks.is_some());
        let mut others: HashMap<&Name, Vec<Name>> = HashMap::new();
        for (name, table) in tables {
            match &table.variables {
                Field::Good(given) => {
                    let rules = self.with_own(table, &env(&given.value.0), groups, names, reader);
                    others.insert(&name.value, rules);
                }
                Field::Missing if any_lacks => self.report_lacks(table, reader),
                Field::Missing | Field::Bad => {}
            }
        }
        if others.is_empty() {
            return;
        }
        for endpoint in built.values_mut().flat_map(Arc::make_mut) {
            let Some(mut rules) = others.remove(&endpoint.name) else { continue };
            // Of filters it has groups that no file can name.
            rules.extend(endpoint.groups.iter().filter(|name| self.place_of(name).is_none()).cloned());
            rules.sort_unstable();
            rules.dedup();
            let plain = endpoint.groups.iter().filter_map(|name| groups.get(name));
            let plain: BTreeSet<&Name> =
                plain.flat_map(|group| std::iter::once(&group.name).chain(&group.includes)).collect();
            if !plain.iter().copied().eq(&rules) {
                Arc::make_mut(endpoint).rules_of = Some(rules.into());
            }
        }
    }

    /// The groups whose rules an endpoint has with these values.
    fn with_own(
        &mut self,
        table: &'t EndpointTable,
        given: &Env<'t>,
        groups: &mut BTreeMap<Name, Arc<Group>>,
        names: &mut Names<'_>,
        reader: &mut Reader,
    ) -> Vec<Name> {
        let mut rules = Vec::new();
        let mut known = BTreeSet::new();
        let mut whole = !table.groups.value.partial;
        for item in &table.groups.value.items {
            let bodies = self.place_of(&item.value.0).and_then(|group| self.bodies(group, given));
            let Some(bodies) = bodies else {
                whole = false;
                continue;
            };
            known.extend(self.used(&bodies));
            if let Some(lack) = bodies.iter().find_map(|body| body.lacks) {
                report_lack(lack, &item.value.0, item.span, reader);
            }
            rules.extend(bodies.iter().filter_map(|body| self.put_into(groups, body, names, reader)));
        }
        for (variable, _) in table.variables.good().into_iter().flat_map(|given| &given.value.0) {
            if whole && !known.contains(&*variable.value) && is_variable_name(&variable.value) {
                let near = Near::new(&variable.value, known.iter().copied());
                let problem = Problem::VariableUnknown { name: variable.value.to_string(), near };
                reader.report(problem, variable.span);
            }
        }
        rules
    }

    /// Reports what an endpoint would have to give that gives nothing.
    fn report_lacks(&self, table: &EndpointTable, reader: &mut Reader) {
        for item in &table.groups.value.items {
            let of = self.place_of(&item.value.0).and_then(|at| self.groups.get(at));
            if let Some(lack) = of.and_then(|of| of.lacks) {
                report_lack(lack, &item.value.0, item.span, reader);
            }
        }
    }

    fn place_of(&self, name: &str) -> Option<usize> {
        self.groups.binary_search_by(|of| (*of.name.value).cmp(name)).ok()
    }

    /// A group and all that it includes, each with the values that it has then; none where that is too much.
    fn bodies(&self, group: usize, outer: &Env<'t>) -> Option<Vec<Body<'t>>> {
        let mut bodies = Vec::new();
        let mut seen = BTreeSet::new();
        let mut open = vec![(group, outer.clone())];
        while let Some((group, mut values)) = open.pop() {
            let Some(of) = self.groups.get(group) else { continue };
            for (name, given) in &of.gives {
                values.entry(name).or_insert(given);
            }
            let way: Vec<Span> = values.values().map(|given| given.span).collect();
            if !seen.insert((group, way)) {
                continue;
            }
            if seen.len() > MOST {
                return None;
            }
            if self.includes.of_group(group).take(MOST + 1).count() > MOST || open.len() > 16 * MOST {
                return None;
            }
            open.extend(self.includes.of_group(group).map(|inner| (inner, values.clone())));
            let missing = of.uses.iter().find(|(name, _)| !values.contains_key(*name));
            values.retain(|name, _| of.uses.contains_key(name));
            bodies.push(Body { group, values, lacks: missing.map(|(name, at)| Lack { name, at: *at }) });
        }
        Some(bodies)
    }

    /// The variables in the rules of these.
    fn used(&self, bodies: &[Body<'t>]) -> BTreeSet<&'t str> {
        let uses = bodies.iter().filter_map(|body| self.groups.get(body.group)).map(|of| &of.uses);
        uses.flat_map(|uses| uses.keys().copied()).collect()
    }

    /// The name of the group that a body is, which is made if there is none; nothing where values are missing.
    fn put_into(
        &mut self,
        groups: &mut BTreeMap<Name, Arc<Group>>,
        body: &Body<'t>,
        names: &mut Names<'_>,
        reader: &mut Reader,
    ) -> Option<Name> {
        let of = self.groups.get(body.group).filter(|_| body.lacks.is_none())?;
        let as_written = |(name, values): (&&str, &&Values)| {
            of.gives.get(name).is_some_and(|own| std::ptr::eq(*own, *values) || text(own) == text(values))
        };
        if body.values.iter().all(as_written) {
            return Some(of.name.value.clone());
        }
        let (written, table) = (of.name, of.table);
        let name = self.name_with(&written.value, &body.values);
        if !groups.contains_key(&name) {
            let rules = table.ingress.value.items.len() + table.egress.value.items.len();
            let values: usize = body.values.values().map(|values| values.value.0.len()).sum();
            let cost = rules.saturating_mul(1 + values);
            let left = self.left?;
            self.left = left.checked_sub(cost);
            if self.left.is_none() {
                let what = format!(
                    "groups with values of their own come to more than {MOST_MADE} rules times values"
                );
                reader.report(Problem::IncludeDeep { what }, written.span);
                return None;
            }
            let like = Group::clone(groups.get(&written.value)?);
            let mut lists = self.rules_with(body.group, &body.values, names, reader);
            among_members(&mut lists, &written.value, table, reader);
            let [ingress, egress] = lists.map(Arc::new);
            let group = Group {
                name: name.clone(),
                made_of: Some(written.value.clone()),
                includes: Vec::new(),
                wide: false,
                shared_with: Vec::new(),
                ingress,
                egress,
                ..like
            };
            groups.insert(name.clone(), Arc::new(group));
        }
        Some(name)
    }

    /// `web{PORTS=8080}`; of what is long, the beginning and what tells it from others.
    fn name_with(&mut self, group: &Name, values: &Env<'t>) -> Name {
        let all: Vec<String> =
            values.iter().map(|(name, values)| format!("{name}={}", text(values))).collect();
        let all = all.join(";");
        let mut short = all.clone();
        if all.len() > LONGEST {
            let start = all.get(..all.floor_char_boundary(LONGEST / 2)).unwrap_or_default();
            short = format!("{start}..#{}", Digest::of(&all));
        }
        loop {
            let name: Name = format!("{group}{{{short}}}").into();
            let known = self.made.entry(name.clone()).or_insert_with(|| all.clone());
            if *known == all {
                return name;
            }
            short.push('\'');
        }
    }
}

fn report_lack(lack: Lack<'_>, group: &str, at: Span, reader: &mut Reader) {
    let problem = Problem::VariableMissing { name: lack.name.to_owned(), group: group.to_owned() };
    reader.report_also(problem, at, lack.at, "where it stands");
}

fn env(given: &[(At<Arc<str>>, Values)]) -> Env<'_> {
    given.iter().map(|(name, values)| (&*name.value, values)).collect()
}

/// By which equal values are known, in whatever order and how often they are written.
fn text(values: &Values) -> String {
    let mut all: Vec<String> = values.value.0.iter().map(|at| at.value.text()).collect();
    all.sort_unstable();
    all.dedup();
    all.join(",")
}

/// The variables in a group's rules, and where each is first; and whether there was any, or what only looks like one, which is
/// reported.
fn uses<'t>(table: &'t GroupTable, reader: &mut Reader) -> (BTreeMap<&'t str, Span>, bool) {
    let (mut found, mut any) = (BTreeMap::new(), false);
    let rules = table.ingress.value.items.iter().chain(&table.egress.value.items);
    for (word, span) in rules.flat_map(|rule| words(&rule.value)) {
        any = true;
        let name = word.strip_prefix('$').unwrap_or_default();
        if is_variable_name(name) {
            found.entry(name).or_insert(span);
        } else {
            reader.report(Problem::BadVariable { text: word.to_owned() }, span);
        }
    }
    (found, any)
}

/// What of a rule begins with `$`, where variables are heeded
fn words(rule: &RuleTable) -> impl Iterator<Item = (&str, Span)> {
    let ports = [&rule.ports, &rule.source_ports].into_iter().filter_map(Field::good);
    let ports = ports.flat_map(|ports| &ports.value.0).filter_map(|at| Some((at.value.variable()?, at.span)));
    let peers = [&rule.from, &rule.to].into_iter().filter_map(Field::good);
    let peers = peers.flat_map(|peers| &peers.value.0).filter_map(|at| Some((at.value.variable()?, at.span)));
    ports.chain(peers)
}

/// A list's rules with values in place of variables, and whether all have them: one that has not is left out.
fn filled(
    list: &List<RuleTable>,
    values: &Env<'_>,
    stands: &mut Stands,
    reader: &mut Reader,
) -> (List<RuleTable>, bool) {
    let is_given = |rule: &&At<RuleTable>| {
        words(&rule.value)
            .all(|(word, _)| word.strip_prefix('$').is_some_and(|name| values.contains_key(name)))
    };
    let rules = list.items.iter().filter(is_given).map(|rule| {
        let mut rule = rule.clone();
        for ports in [&mut rule.value.ports, &mut rule.value.source_ports] {
            fill(ports, values, ports_of, stands, reader);
        }
        for peers in [&mut rule.value.from, &mut rule.value.to] {
            fill(peers, values, |value| Ok(peer_of(value)), stands, reader);
        }
        rule
    });
    let items: Vec<At<RuleTable>> = rules.collect();
    let complete = items.len() == list.items.len();
    (List { items, partial: list.partial }, complete)
}

/// What a variable can stand in the place of
trait Place {
    /// The variable, with its `$`
    fn variable(&self) -> Option<&str>;
}

impl Place for PortsValue {
    fn variable(&self) -> Option<&str> {
        if let Self::Variable(word) = self { Some(word) } else { None }
    }
}

impl Place for PeerValue {
    fn variable(&self) -> Option<&str> {
        if let Self::Word(word) = self {
            Some(word).map(|word| &**word).filter(|word| is_variable(word))
        } else {
            None
        }
    }
}

/// Puts values in place of the variables of one key. What does not belong there is reported where it is written. Where nothing is left, the
/// key is as one that could not be read, never as one that is not there: that would mean everything.
fn fill<T: Clone + Place>(
    field: &mut Field<OneOrMany<T>>,
    values: &Env<'_>,
    of: impl Fn(&Value) -> Result<T, Problem>,
    stands: &mut Stands,
    reader: &mut Reader,
) {
    let Field::Good(written) = field else { return };
    if written.value.0.iter().all(|at| at.value.variable().is_none()) {
        return;
    }
    let mut all: Vec<At<T>> = Vec::new();
    for item in &written.value.0 {
        let name = item.value.variable().and_then(|word| word.strip_prefix('$'));
        let Some(given) = name.and_then(|name| values.get(name)) else {
            all.push(item.clone());
            continue;
        };
        for At { value, span } in &given.value.0 {
            stands.entry(reader.order(*span)).or_insert(item.span);
            match of(value) {
                Ok(value) => all.push(At { value, span: *span }),
                Err(problem) => reader.report(problem, *span),
            }
        }
    }
    if all.is_empty() {
        *field = Field::Bad;
    } else {
        written.value.0 = all;
    }
}

fn ports_of(value: &Value) -> Result<PortsValue, Problem> {
    match value {
        Value::Text(text) => PortRange::parse(text).map(PortsValue::Range),
        Value::Table(_) => {
            Err(Problem::WrongType { wanted: "a port, or a range of ports in quotes", found: "a table" })
        }
    }
}

fn peer_of(value: &Value) -> PeerValue {
    match value {
        Value::Text(text) => PeerValue::Word(text.clone()),
        Value::Table(table) => PeerValue::Table(table.clone()),
    }
}
