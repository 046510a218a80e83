//! The rows of each view, made of what the daemon has answered.

use std::{
    collections::{BTreeMap, HashMap},
    time::Instant,
};

use clap::ValueEnum;
use eastgate_api::{DropRow, EndpointRow, FlowRow, RuleCountRow, RuleRef};
use eastgate_wire::{Vni, names};

use super::{super::print::side, Look};

/// What is shown.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, ValueEnum)]
pub enum View {
    /// Networks of this host
    Networks,
    /// Endpoints of these networks
    Endpoints,
    /// Flows
    Flows,
    /// What is dropped, and why
    Drops,
    /// What rules do
    Rules,
}

/// A column.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Column {
    pub(super) name: &'static str,
    /// Numbers stand at the right.
    pub(super) number: bool,
    /// Characters; what is left is shared by columns that say none.
    pub(super) width: u16,
    /// Left out where there is little room
    pub(super) wide: bool,
}

/// The width of a number, with the mark of what is sorted by
const NUMBER: u16 = 10;

const fn text(name: &'static str) -> Column {
    fixed(name, 0)
}

const fn fixed(name: &'static str, width: u16) -> Column {
    Column { name, number: false, width, wide: false }
}

const fn number(name: &'static str) -> Column {
    Column { name, number: true, width: NUMBER, wide: false }
}

const fn wide(column: Column) -> Column {
    Column { wide: true, ..column }
}

impl View {
    pub(super) const ALL: [Self; 5] =
        [Self::Networks, Self::Endpoints, Self::Flows, Self::Drops, Self::Rules];

    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Networks => "Networks",
            Self::Endpoints => "Endpoints",
            Self::Flows => "Flows",
            Self::Drops => "Drops",
            Self::Rules => "Rules",
        }
    }

    pub(super) const fn columns(self) -> &'static [Column] {
        match self {
            Self::Networks => {
                const {
                    &[
                        text("NETWORK"),
                        number("VNI"),
                        number("ENDPOINTS"),
                        number("SENT/s"),
                        number("RECV/s"),
                        number("DROPS/s"),
                        wide(number("DROPPED")),
                    ]
                }
            }
            Self::Endpoints => {
                const {
                    &[
                        text("ENDPOINT"),
                        text("ADDRESS"),
                        wide(text("AT")),
                        number("SENT/s"),
                        number("RECV/s"),
                        wide(number("SENT")),
                        wide(number("RECEIVED")),
                    ]
                }
            }
            Self::Flows => {
                const {
                    &[
                        fixed("PROTO", 7),
                        text("FROM"),
                        text("TO"),
                        fixed("STATE", 12),
                        number("PACKETS/s"),
                        wide(number("BYTES/s")),
                        wide(number("PACKETS")),
                        wide(number("BYTES")),
                    ]
                }
            }
            Self::Drops => {
                const {
                    &[
                        fixed("REASON", 20),
                        wide(text("FROM")),
                        text("RULE"),
                        number("FRAMES/s"),
                        number("FRAMES"),
                        number("AGO"),
                    ]
                }
            }
            Self::Rules => {
                const {
                    &[
                        text("RULE"),
                        fixed("ACTION", 15),
                        number("FLOWS/s"),
                        number("PACKETS/s"),
                        wide(number("FLOWS")),
                        number("PACKETS"),
                        number("AGO"),
                    ]
                }
            }
        }
    }

    /// The column that rows are sorted by unless told otherwise, and what decides between those that are alike there.
    pub(super) const fn order(self) -> [usize; 2] {
        match self {
            Self::Networks => [3, 6],
            Self::Endpoints => [3, 5],
            Self::Flows => [4, 6],
            Self::Drops => [3, 4],
            Self::Rules => [3, 5],
        }
    }
}

/// What stands in a column.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Cell {
    Text(String),
    /// In full
    Number(u64),
    Count(u64),
    /// A second; nothing before there are two looks
    Rate(Option<f64>),
    /// Seconds ago; nothing when never
    Ago(Option<u64>),
}

impl Cell {
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(number) => number.to_string(),
            Self::Count(count) => short(*count as f64),
            Self::Rate(rate) => rate.map_or_else(String::new, short),
            Self::Ago(seconds) => seconds.map_or_else(|| "never".to_owned(), age),
        }
    }

    /// Where it stands among others that are numbers, the largest last. What was long ago is less than what is now.
    pub(super) fn weight(&self) -> Option<f64> {
        match self {
            Self::Text(_) => None,
            Self::Number(count) | Self::Count(count) => Some(*count as f64),
            Self::Rate(rate) => Some(rate.unwrap_or(-1.0)),
            Self::Ago(seconds) => Some(seconds.map_or(f64::NEG_INFINITY, |seconds| -(seconds as f64))),
        }
    }
}

/// A number in at most five characters.
pub(super) fn short(number: f64) -> String {
    const UNITS: [&str; 5] = ["", "k", "M", "G", "T"];
    let (mut number, mut unit) = (number, 0);
    // As it is rounded below
    while number >= 999.5 && unit + 1 < UNITS.len() {
        (number, unit) = (number / 1000.0, unit + 1);
    }
    let unit_name = UNITS.get(unit).copied().unwrap_or_default();
    if number < 9.95 && (unit > 0 || number.fract() != 0.0) {
        format!("{number:.1}{unit_name}")
    } else {
        format!("{number:.0}{unit_name}")
    }
}

/// A time in at most five characters.
pub(super) fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Where a row leads to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Leads {
    /// To the endpoints of a network
    Network(String),
    /// To the flows of an endpoint
    Endpoint(String),
    /// To what is known of it
    Detail,
}

#[derive(Clone, PartialEq, Debug)]
pub(super) struct Row {
    /// By which it is known again at the next look
    pub(super) key: String,
    pub(super) cells: Vec<Cell>,
    pub(super) leads: Leads,
    /// All that is known of it, a line each
    pub(super) about: Vec<String>,
}

/// Two counters of each row at the look before, by view and key.
#[derive(Debug, Default)]
pub(super) struct Rates {
    before: HashMap<View, (Instant, HashMap<String, [u64; 2]>)>,
}

impl Rates {
    /// Puts the rates of a view's rows where their columns are, and keeps their counters for the next look.
    fn apply(&mut self, view: View, at: Instant, columns: [usize; 2], rows: &mut [(Row, [u64; 2])]) {
        let before = self.before.remove(&view);
        let elapsed = before.as_ref().map_or(0.0, |(then, _)| at.duration_since(*then).as_secs_f64());
        for (row, counts) in &mut *rows {
            let known = before.as_ref().and_then(|(_, counts)| counts.get(&row.key));
            for (which, column) in columns.into_iter().enumerate() {
                let [now, then] =
                    [Some(&*counts), known].map(|counts| counts.and_then(|counts| counts.get(which)));
                let rate = match (now, then) {
                    // What is less has begun anew.
                    (Some(now), Some(then)) if elapsed > 0.0 => {
                        Some(now.saturating_sub(*then) as f64 / elapsed)
                    }
                    _ => None,
                };
                if let Some(cell) = row.cells.get_mut(column) {
                    *cell = Cell::Rate(rate);
                }
            }
        }
        let counts = rows.iter().map(|(row, counts)| (row.key.clone(), *counts)).collect();
        self.before.insert(view, (at, counts));
    }

    /// What comes next is not compared with what was before.
    pub(super) fn forget(&mut self) {
        self.before.clear();
    }

    /// The rows of a view.
    pub(super) fn rows(&mut self, view: View, look: &Look, at: Instant) -> Vec<Row> {
        let (columns, rows): ([usize; 2], Vec<(Row, [u64; 2])>) = match view {
            View::Networks => ([3, 4], networks(look)),
            View::Endpoints => ([3, 4], look.endpoints.iter().map(endpoint).collect()),
            View::Flows => ([4, 5], look.flows.iter().map(flow).collect()),
            View::Drops => ([3, 3], look.drops.drops.iter().map(dropped).collect()),
            View::Rules => ([2, 3], look.rules.iter().map(rule).collect()),
        };
        let mut rows = folded(rows);
        self.apply(view, at, columns, &mut rows);
        if view == View::Networks {
            self.drops_of_networks(look, at, &mut rows);
        }
        rows.into_iter().map(|(row, _)| row).collect()
    }

    /// The rate of the third counter that networks have.
    fn drops_of_networks(&mut self, look: &Look, at: Instant, rows: &mut [(Row, [u64; 2])]) {
        let mut all = folded(look.drops.drops.iter().map(dropped).collect());
        // As the view of drops has them, so that one look serves both.
        self.apply(View::Drops, at, [3, 3], &mut all);
        let mut rates: BTreeMap<&str, Option<f64>> = BTreeMap::new();
        for (row, _) in &all {
            let vni = row.key.split(' ').next().unwrap_or_default();
            if let Some(Cell::Rate(rate)) = row.cells.get(3) {
                let sum = rates.entry(vni).or_default();
                *sum = rate.map(|rate| rate + sum.unwrap_or_default()).or(*sum);
            }
        }
        for (row, _) in rows {
            let rate = rates.get(&*row.key).copied().unwrap_or(Some(0.0));
            if let Some(cell) = row.cells.get_mut(5) {
                *cell = Cell::Rate(rate);
            }
        }
    }
}

/// Rows that cannot be told apart, as one: an endpoint whose rules refuse is in no column.
fn folded(rows: Vec<(Row, [u64; 2])>) -> Vec<(Row, [u64; 2])> {
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut all: Vec<(Row, [u64; 2])> = Vec::new();
    for (row, counts) in rows {
        let place = *places.entry(row.key.clone()).or_insert(all.len());
        let Some((whole, sums)) = all.get_mut(place) else {
            all.push((row, counts));
            continue;
        };
        sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        for (cell, more) in whole.cells.iter_mut().zip(row.cells) {
            match (cell, more) {
                (Cell::Count(sum), Cell::Count(count)) => *sum += count,
                (Cell::Ago(Some(last)), Cell::Ago(Some(other))) => *last = other.min(*last),
                _ => {}
            }
        }
        let new = row.about.into_iter().filter(|line| !whole.about.contains(line)).collect::<Vec<_>>();
        whole.about.extend(new);
    }
    all
}

fn networks(look: &Look) -> Vec<(Row, [u64; 2])> {
    let mut found: BTreeMap<Vni, (String, usize, [u64; 2])> = BTreeMap::new();
    for row in &look.endpoints {
        let (_, count, frames) = found.entry(row.vni).or_insert_with(|| (network_of(row), 0, [0; 2]));
        *count += 1;
        // What is elsewhere is counted there.
        if row.port.is_some() {
            *frames = [frames[0] + row.tx_frames, frames[1] + row.rx_frames];
        }
    }
    let mut dropped: BTreeMap<Option<Vni>, u64> = BTreeMap::new();
    for row in &look.drops.drops {
        *dropped.entry(row.vni).or_default() += row.frames;
    }
    let row = |(vni, (name, count, frames)): (Vni, (String, usize, [u64; 2]))| {
        let cells = vec![
            Cell::Text(name.clone()),
            Cell::Number(vni.get().into()),
            Cell::Count(count as u64),
            Cell::Rate(None),
            Cell::Rate(None),
            Cell::Rate(None),
            Cell::Count(dropped.get(&Some(vni)).copied().unwrap_or_default()),
        ];
        (Row { key: vni.to_string(), cells, leads: Leads::Network(name), about: Vec::new() }, frames)
    };
    found.into_iter().map(row).collect()
}

/// As tenant/name.
pub(super) fn network_of(row: &EndpointRow) -> String {
    match row.endpoint.split_once('/') {
        Some((tenant, _)) if !row.network.contains('/') => format!("{tenant}/{}", row.network),
        _ => row.network.clone(),
    }
}

fn endpoint(row: &EndpointRow) -> (Row, [u64; 2]) {
    let address = match &row.addresses[..] {
        [] => String::new(),
        [one] => one.to_string(),
        [first, rest @ ..] => format!("{first} +{}", rest.len()),
    };
    let at = row.port.as_ref().map_or_else(|| row.host.clone(), |port| format!("{} {port}", row.host));
    let cells = vec![
        Cell::Text(row.endpoint.clone()),
        Cell::Text(address),
        Cell::Text(at),
        Cell::Rate(None),
        Cell::Rate(None),
        Cell::Count(row.tx_frames),
        Cell::Count(row.rx_frames),
    ];
    let leads = Leads::Endpoint(row.endpoint.clone());
    (Row { key: row.endpoint.clone(), cells, leads, about: Vec::new() }, [row.tx_frames, row.rx_frames])
}

fn named(what: &str, rule: Option<&RuleRef>) -> String {
    rule.map_or_else(
        || format!("{what}: not asked on this host"),
        |rule| format!("{what}: {} ({})", rule.rule, rule.at),
    )
}

fn flow(row: &FlowRow) -> (Row, [u64; 2]) {
    let [from, to] = [side(&row.src, row.sport), side(&row.dst, row.dport)];
    let counts = [row.packets + row.reply_packets, row.bytes + row.reply_bytes];
    let cells = vec![
        Cell::Text(row.proto.clone()),
        Cell::Text(from.clone()),
        Cell::Text(to.clone()),
        Cell::Text(row.state.clone()),
        Cell::Rate(None),
        Cell::Rate(None),
        Cell::Count(counts[0]),
        Cell::Count(counts[1]),
    ];
    let carried = if row.offloaded { "the kernel's programs" } else { "userspace" };
    let mut about = vec![
        format!("{} {from} -> {to} in VNI {}", row.proto, row.vni),
        format!("state {}, forgotten in {} without packets", row.state, age(row.expires_s)),
        format!(
            "{} there, {} back",
            packets(row.packets, row.bytes),
            packets(row.reply_packets, row.reply_bytes)
        ),
        format!("carried by {carried}"),
        named("egress rule", row.egress_rule.as_ref()),
        named("ingress rule", row.ingress_rule.as_ref()),
    ];
    about.extend(row.via.as_ref().map(|via| format!("forwarded by {via}")));
    about.extend(row.helper.as_ref().map(|helper| format!("followed by the {helper} helper")));
    if row.audit {
        about.push("a rule that is being tried out would have refused it".to_owned());
    }
    let key = format!("{} {} {from} {to} {:?}", row.vni, row.proto, row.via);
    (Row { key, cells, leads: Leads::Detail, about }, counts)
}

fn packets(count: u64, bytes: u64) -> String {
    format!("{} with {} bytes", names::count(count, "packet"), short(bytes as f64))
}

fn dropped(row: &DropRow) -> (Row, [u64; 2]) {
    let from = row.from.clone().unwrap_or_default();
    let cells = vec![
        Cell::Text(row.reason.clone()),
        Cell::Text(from.clone()),
        Cell::Text(row.rule.clone().unwrap_or_default()),
        Cell::Rate(None),
        Cell::Count(row.frames),
        Cell::Ago(Some(row.last_s)),
    ];
    let mut about = vec![format!("{}: {}", row.reason, row.text)];
    about.extend(row.rule.as_ref().map(|rule| format!("by {rule}")));
    about.extend(row.at.as_ref().map(|at| format!("at {at}")));
    if !from.is_empty() {
        about.push(format!("from {from}"));
    }
    about.push(packets(row.frames, row.bytes));
    about.extend(row.recent.iter().map(|recent| {
        format!("{} ago: {} ({})", age(recent.last_s), recent.what, names::count(recent.frames, "frame"))
    }));
    let vni = row.vni.map_or_else(String::new, |vni| vni.to_string());
    let key = format!("{vni} {} {from} {:?} {}", row.reason, row.rule, row.class);
    (Row { key, cells, leads: Leads::Detail, about }, [row.frames, row.frames])
}

fn rule(row: &RuleCountRow) -> (Row, [u64; 2]) {
    let action = if row.audit { format!("{} (audit)", row.action) } else { row.action.clone() };
    let cells = vec![
        Cell::Text(row.rule.clone()),
        Cell::Text(action.clone()),
        Cell::Rate(None),
        Cell::Rate(None),
        Cell::Count(row.flows),
        Cell::Count(row.packets),
        Cell::Ago(row.last_s),
    ];
    let ago = |seconds: Option<u64>| {
        seconds.map_or_else(|| "never".to_owned(), |seconds| format!("{} ago", age(seconds)))
    };
    let mut about = vec![
        format!("{}: {action}, in VNI {}", row.rule, row.vni),
        format!("at {}", row.at),
        format!("{} admitted, {}", names::count(row.flows, "flow"), packets(row.packets, row.bytes)),
        format!("hit first: {}; last: {}", ago(row.first_s), ago(row.last_s)),
    ];
    if row.would_deny > 0 {
        about.push(format!("{} passed that it would have refused", names::count(row.would_deny, "packet")));
    }
    let key = format!("{} {}", row.vni, row.rule);
    (Row { key, cells, leads: Leads::Detail, about }, [row.flows, row.packets])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (number, expected) in [
            (0.0, "0"),
            (7.0, "7"),
            (0.5, "0.5"),
            (9.96, "10"),
            (999.4, "999"),
            (999.6, "1.0k"),
            (1_234.0, "1.2k"),
            (99_999.0, "100k"),
            (999_999.0, "1.0M"),
            (12_345_678.0, "12M"),
            (5e15, "5000T"),
        ] {
            assert_eq!(short(number), expected);
        }
        assert_eq!([0, 59, 60, 7_199, 86_400].map(age), ["0s", "59s", "1m", "1h", "1d"]);
    }

    #[test]
    fn rows_that_look_alike_are_one() {
        let row = |count, ago, line: &str| {
            let cells = vec![Cell::Text("x".into()), Cell::Count(count), Cell::Ago(Some(ago))];
            let about = vec!["x".to_owned(), line.to_owned()];
            (Row { key: "5001 x".into(), cells, leads: Leads::Detail, about }, [count, 0])
        };
        let [(folded, counts)] = &folded(vec![row(5, 9, "a"), row(7, 3, "b")])[..] else { panic!("two") };
        assert_eq!(folded.cells[1..], [Cell::Count(12), Cell::Ago(Some(3))]);
        assert_eq!((&folded.about[..], counts[0]), (&["x", "a", "b"].map(str::to_owned)[..], 12));
    }

    #[test]
    fn orders_are_of_columns_that_are_numbers() {
        for view in View::ALL {
            for column in view.order() {
                assert!(view.columns()[column].number, "{view:?} {column}");
            }
        }
    }
}
