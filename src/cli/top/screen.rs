//! What the screen shows, and what keys do to it.

use std::{cmp::Ordering, time::Instant};

use eastgate_api::{Status, Traffic};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::{
    Look, Wanted,
    rows::{Cell, Leads, Rates, Row, View},
};
use crate::control::client::ClientError;

/// Rows that a page key moves by.
const PAGE: isize = 10;

/// What follows from a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    Stay,
    Quit,
}

/// One place that one can come back to.
#[derive(Clone, PartialEq, Debug)]
struct Place {
    view: View,
    /// Only this network's endpoints, or this endpoint's flows
    of: Option<Leads>,
    /// The row that is chosen
    chosen: Option<String>,
}

/// Frames a second: from ports, to ports, from the underlay, to the underlay, dropped.
pub(super) type TrafficRates = [f64; 5];

/// The screen.
#[derive(Debug)]
pub(super) struct Screen {
    here: Place,
    before: Vec<Place>,
    pub(super) color: bool,
    pub(super) status: Option<Status>,
    pub(super) traffic: Option<TrafficRates>,
    counted: Option<(Instant, Traffic)>,
    rates: Rates,
    /// Rows of the view, unsorted
    rows: Vec<Row>,
    pub(super) more: usize,
    /// Dropped frames that nobody misses, which are in no row
    pub(super) chatter: u64,
    /// There has been an answer about what is shown.
    pub(super) answered: bool,
    /// Column, and whether the largest is first
    sort: (usize, bool),
    /// What rows must contain
    pub(super) text: String,
    /// That text is being typed.
    pub(super) typing: bool,
    paused: bool,
    pub(super) detail: Option<Row>,
    pub(super) help: bool,
    /// Why there is no answer
    pub(super) failure: Option<String>,
}

impl Screen {
    pub(super) fn new(view: View, color: bool) -> Self {
        Self {
            here: Place { view, of: None, chosen: None },
            before: Vec::new(),
            color,
            status: None,
            traffic: None,
            counted: None,
            rates: Rates::default(),
            rows: Vec::new(),
            more: 0,
            chatter: 0,
            answered: false,
            sort: (view.order()[0], true),
            text: String::new(),
            typing: false,
            paused: false,
            detail: None,
            help: false,
            failure: None,
        }
    }

    pub(super) fn view(&self) -> View {
        self.here.view
    }

    /// Of what the view is, where it is not of all.
    pub(super) fn of(&self) -> Option<&str> {
        match self.here.of.as_ref()? {
            Leads::Network(name) | Leads::Endpoint(name) => Some(name),
            Leads::Detail => None,
        }
    }

    pub(super) fn sort(&self) -> (usize, bool) {
        self.sort
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused
    }

    /// What it is to be filled with.
    pub(super) fn wanted(&self) -> Wanted {
        Wanted { view: self.here.view, of: self.here.of.clone() }
    }

    /// Takes what was found.
    pub(super) fn take(&mut self, found: Result<Look, ClientError>, at: Instant) {
        let look = match found {
            Ok(look) => look,
            Err(error) => {
                self.failure = Some(error.to_string());
                return;
            }
        };
        self.failure = None;
        self.answered = true;
        self.chatter = look.drops.chatter_frames;
        self.rows = self.rates.rows(self.here.view, &look, at);
        if let (View::Endpoints, Some(Leads::Network(network))) = (self.here.view, &self.here.of) {
            let its = look.endpoints.iter().filter(|row| super::rows::network_of(row) == *network);
            let its: std::collections::HashSet<&str> = its.map(|row| &*row.endpoint).collect();
            self.rows.retain(|row| its.contains(&*row.key));
        }
        self.more = look.more;
        if let Some(status) = look.status {
            let now = status.traffic;
            if let Some((then, before)) = self.counted.replace((at, now)) {
                let seconds = at.duration_since(then).as_secs_f64();
                let counters =
                    |it: &Traffic| [it.from_ports, it.to_ports, it.from_underlay, it.to_underlay, it.dropped];
                let pairs = counters(&now).into_iter().zip(counters(&before));
                let mut rates = TrafficRates::default();
                for (rate, (now, then)) in rates.iter_mut().zip(pairs) {
                    *rate = if seconds > 0.0 { now.saturating_sub(then) as f64 / seconds } else { 0.0 };
                }
                self.traffic = Some(rates);
            }
            self.status = Some(status);
        }
    }

    /// The rows that are shown, in their order.
    pub(super) fn rows(&self) -> Vec<&Row> {
        let text = self.text.to_lowercase();
        let contains = |row: &&Row| {
            let is_name = |cell: &&Cell| matches!(cell, Cell::Text(_) | Cell::Number(_));
            let mut names = row.cells.iter().filter(is_name);
            text.is_empty() || names.any(|cell| cell.shown().to_lowercase().contains(&text))
        };
        let mut rows: Vec<&Row> = self.rows.iter().filter(contains).collect();
        let [_, second] = self.here.view.order();
        rows.sort_by(|a, b| {
            let by = |column: usize| match (a.cells.get(column), b.cells.get(column)) {
                (Some(a), Some(b)) => compare(a, b),
                _ => Ordering::Equal,
            };
            let (column, largest_first) = self.sort;
            let first = if largest_first { by(column).reverse() } else { by(column) };
            first.then_with(|| by(second).reverse()).then_with(|| a.key.cmp(&b.key))
        });
        rows
    }

    /// Which of them is chosen.
    pub(super) fn chosen(&self, rows: &[&Row]) -> Option<usize> {
        let at = rows.iter().position(|row| Some(&row.key) == self.here.chosen.as_ref());
        at.or((!rows.is_empty()).then_some(0))
    }

    /// Does what a key says.
    pub(super) fn press(&mut self, key: KeyEvent) -> Next {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Next::Quit;
        }
        if self.typing {
            match key.code {
                KeyCode::Enter => self.typing = false,
                KeyCode::Esc => {
                    self.typing = false;
                    self.text.clear();
                }
                KeyCode::Backspace => drop(self.text.pop()),
                KeyCode::Char(typed) => self.text.push(typed),
                _ => {}
            }
            return Next::Stay;
        }
        if self.help || self.detail.is_some() {
            if key.code == KeyCode::Char('q') {
                return Next::Quit;
            }
            (self.help, self.detail) = (false, None);
            return Next::Stay;
        }
        match key.code {
            KeyCode::Char('q') => return Next::Quit,
            KeyCode::Esc | KeyCode::Backspace => self.back(),
            KeyCode::Tab | KeyCode::Right => self.turn(1),
            KeyCode::BackTab | KeyCode::Left => self.turn(View::ALL.len() - 1),
            KeyCode::Char(digit @ '1'..='5') => {
                let number = digit as usize - '1' as usize;
                if let Some(view) = View::ALL.get(number) {
                    self.show(*view, None);
                }
            }
            KeyCode::Up | KeyCode::Char('k') => self.choose(-1),
            KeyCode::Down | KeyCode::Char('j') => self.choose(1),
            KeyCode::PageUp => self.choose(-PAGE),
            KeyCode::PageDown => self.choose(PAGE),
            KeyCode::Home => self.choose(isize::MIN / 2),
            KeyCode::End => self.choose(isize::MAX / 2),
            KeyCode::Enter => self.enter(),
            KeyCode::Char('s') => self.sort = ((self.sort.0 + 1) % self.here.view.columns().len(), true),
            KeyCode::Char('r') => self.sort.1 = !self.sort.1,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Char('p') => {
                self.paused = !self.paused;
                self.rates.forget();
            }
            KeyCode::Char('?' | 'h') => self.help = true,
            _ => {}
        }
        Next::Stay
    }

    fn choose(&mut self, by: isize) {
        let rows = self.rows();
        let Some(at) = self.chosen(&rows) else { return };
        let to = at.saturating_add_signed(by).min(rows.len() - 1);
        self.here.chosen = rows.get(to).map(|row| row.key.clone());
    }

    fn turn(&mut self, by: usize) {
        let at = View::ALL.iter().position(|view| *view == self.here.view).unwrap_or_default();
        if let Some(view) = View::ALL.get((at + by) % View::ALL.len()) {
            self.show(*view, None);
        }
    }

    fn show(&mut self, view: View, of: Option<Leads>) {
        if self.here.view == view && self.here.of == of {
            return;
        }
        if of.is_some() {
            self.before.push(self.here.clone());
        } else {
            self.before.clear();
        }
        self.go(Place { view, of, chosen: None });
    }

    /// What was found so far is of another place.
    fn go(&mut self, place: Place) {
        self.sort = (place.view.order()[0], true);
        self.text.clear();
        self.rows.clear();
        (self.more, self.chatter, self.answered, self.paused) = (0, 0, false, false);
        self.rates.forget();
        self.here = place;
    }

    fn back(&mut self) {
        if !self.text.is_empty() {
            self.text.clear();
        } else if let Some(place) = self.before.pop() {
            self.go(place);
        }
    }

    fn enter(&mut self) {
        let rows = self.rows();
        let Some(row) = self.chosen(&rows).and_then(|at| rows.get(at)) else { return };
        let (row, leads) = ((*row).clone(), row.leads.clone());
        self.here.chosen = Some(row.key.clone());
        match &leads {
            Leads::Network(_) => self.show(View::Endpoints, Some(leads)),
            Leads::Endpoint(_) => self.show(View::Flows, Some(leads)),
            Leads::Detail => self.detail = Some(row),
        }
    }
}

fn compare(a: &Cell, b: &Cell) -> Ordering {
    match (a.weight(), b.weight()) {
        (Some(a), Some(b)) => a.total_cmp(&b),
        // The first letter is what stands first, as the largest number does.
        _ => b.shown().cmp(&a.shown()),
    }
}
