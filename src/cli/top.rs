//! `eastgate top`: what is going on, on a terminal.

mod draw;
mod rows;
mod screen;

use std::{
    ffi::c_int,
    io::{IsTerminal, stdout},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, TryRecvError, channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use clap::Args;
use eastgate_api::{DropRows, EndpointRow, Filter, FlowRow, List, Request, RuleCountRow, Status};
use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{self, Event, KeyEventKind},
};
use serde::de::DeserializeOwned;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use self::{
    rows::{Leads, View},
    screen::{Next, Screen},
};
use super::{
    args::{Ask, Daemon, Format, Output},
    commands::ask,
    exit,
};
use crate::control::client::ClientError;

/// How long a key is waited for before it is seen whether there is an answer.
const KEY: Duration = Duration::from_millis(100);

/// Flows that are fetched for one screen: the first by network and address.
const FLOWS: usize = 5_000;

/// Columns and lines of a screen that is printed.
const PRINTED: (u16, u16) = (120, 40);

const HELP: &str = "Keys: Tab and 1 to 5 choose what is shown (networks, endpoints, flows, drops, rules), arrows a row, Enter goes into it: from a network to its
endpoints, from an endpoint to its flows, from a flow, a drop or a rule to all that is known of it, with the rule and its line. Esc goes back,
s and r sort by another column or the other way round, / shows only what contains a text, p pauses, q quits.
A signal that ends it leaves the terminal as it was; the exit code is its number and 128.

Rates are of the last interval. Of more than 5,000 flows the first by address are shown, of an endpoint or of all. For programs there are `eastgate status -o json`, `eastgate show ... -o json` and `eastgate run --metrics`.

Examples:
  eastgate top
  eastgate top --interval 5 --no-color
  eastgate top --view drops --batch 1              one screen, printed; for a mail or a log";

/// Options of `top`.
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub struct Top {
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub interval: u64,
    /// What is shown first
    #[arg(long, value_enum, default_value = "networks")]
    pub view: View,
    /// Without colours; so does NO_COLOR in the environment
    #[arg(long)]
    pub no_color: bool,
    /// Print this many screens, one each interval, and end
    #[arg(long, value_name = "N")]
    pub batch: Option<u64>,
    /// The daemon
    #[command(flatten)]
    pub daemon: Daemon,
}

/// What one look at the daemon has found. Of lists only those that the view is made of.
#[derive(Debug, Default)]
pub(super) struct Look {
    pub(super) status: Option<Status>,
    pub(super) endpoints: Vec<EndpointRow>,
    pub(super) flows: Vec<FlowRow>,
    pub(super) drops: DropRows,
    pub(super) rules: Vec<RuleCountRow>,
    /// Rows that there are beside those that were fetched
    pub(super) more: usize,
}

/// What is wanted of the next look.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Wanted {
    view: View,
    /// Only endpoints of this network, or flows of this endpoint
    of: Option<Leads>,
}

pub(super) fn top(options: &Top) -> Result<u8> {
    let asking =
        Ask { daemon: options.daemon.clone(), output: Output { output: Format::Text }, timeout: None };
    let no_color = options.no_color || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let mut screen = Screen::new(options.view, !no_color);
    // Whoever cannot be asked at all is told so as everywhere else.
    screen.take(Ok(look(&asking, &screen.wanted())?), Instant::now());
    let interval = Duration::from_secs(options.interval);
    match options.batch {
        Some(count) => batch(&asking, &mut screen, interval, count)?,
        None if !stdout().is_terminal() => bail!("this needs a terminal; --batch N prints N screens"),
        None => {
            let mut terminal = ratatui::try_init()?;
            let done = interact(&mut terminal, &asking, &mut screen, interval);
            ratatui::try_restore()?;
            return done;
        }
    }
    Ok(exit::OK)
}

/// Signals that end it: the terminal is to be as it was, whoever ends it.
const ENDING: [c_int; 3] = [SIGTERM, SIGHUP, SIGINT];
/// What a shell adds to the number of the signal that has ended a program
const BY_SIGNAL: u8 = 128;

/// Asks for what a screen shows.
fn look(asking: &Ask, wanted: &Wanted) -> Result<Look, ClientError> {
    fn list<T: DeserializeOwned + eastgate_api::Row>(
        asking: &Ask,
        request: &Request,
        look: &mut Look,
    ) -> Result<Vec<T>, ClientError> {
        let list: List<T> = ask(asking, request)?;
        look.more += list.total.saturating_sub(list.rows.len());
        Ok(list.rows)
    }
    let mut found = Look { status: Some(ask(asking, &Request::Status {})?), ..Look::default() };
    let all = Filter::default();
    match wanted.view {
        View::Networks => {
            found.endpoints = list(asking, &Request::Endpoints(all.clone()), &mut found)?;
            found.drops = ask(asking, &Request::Drops(all))?;
        }
        View::Endpoints => found.endpoints = list(asking, &Request::Endpoints(all), &mut found)?,
        View::Flows => {
            let endpoint = match &wanted.of {
                Some(Leads::Endpoint(name)) => Some(name.clone()),
                _ => None,
            };
            let filter = Filter { endpoint, limit: Some(FLOWS), ..all };
            found.flows = list(asking, &Request::Flows(filter), &mut found)?;
        }
        View::Drops => {
            found.drops = ask(asking, &Request::Drops(all))?;
            found.more = found.drops.total.saturating_sub(found.drops.drops.len());
        }
        View::Rules => found.rules = list(asking, &Request::Rules(all), &mut found)?,
    }
    Ok(found)
}

fn batch(asking: &Ask, screen: &mut Screen, interval: Duration, count: u64) -> Result<()> {
    let mut terminal = Terminal::new(TestBackend::new(PRINTED.0, PRINTED.1))?;
    for _ in 0..count {
        thread::sleep(interval);
        screen.take(Ok(look(asking, &screen.wanted())?), Instant::now());
        terminal.draw(|frame| draw::draw(frame, screen))?;
        let lines = terminal.backend().buffer().content().chunks(usize::from(PRINTED.0));
        let lines: Vec<String> = lines
            .map(|line| line.iter().map(ratatui::buffer::Cell::symbol).collect::<String>())
            .map(|line| line.trim_end().to_owned())
            .collect();
        println!("{}", lines.join("\n").trim_end());
    }
    Ok(())
}

/// What was found, of what, and when.
type Found = (Wanted, Result<Look, ClientError>, Instant);

/// Who asks, on a thread of its own: keys are heard however long an answer takes.
struct Asker {
    wanted: Sender<Wanted>,
    found: Receiver<Found>,
    /// It is asking.
    busy: bool,
}

impl Asker {
    fn start(asking: &Ask) -> Result<Self> {
        let (wanted, to_ask) = channel::<Wanted>();
        let (answer, found) = channel();
        let asking = asking.clone();
        thread::Builder::new().name("asker".into()).spawn(move || {
            for wanted in to_ask {
                let found = look(&asking, &wanted);
                if answer.send((wanted, found, Instant::now())).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { wanted, found, busy: false })
    }
}

fn interact(
    terminal: &mut ratatui::DefaultTerminal,
    asking: &Ask,
    screen: &mut Screen,
    interval: Duration,
) -> Result<u8> {
    let ended = Arc::new(AtomicUsize::new(0));
    for signal in ENDING {
        signal_hook::flag::register_usize(signal, ended.clone(), signal as usize)?;
    }
    let mut asker = Asker::start(asking)?;
    let mut last = (Instant::now(), screen.wanted());
    let mut changed = true;
    loop {
        let signal = ended.load(Ordering::Relaxed);
        if signal != 0 {
            return Ok(BY_SIGNAL + signal as u8);
        }
        let wanted = screen.wanted();
        let due = last.0.elapsed() >= interval && !screen.is_paused();
        if !asker.busy && (due || last.1 != wanted) {
            last = (Instant::now(), wanted.clone());
            asker.busy = asker.wanted.send(wanted).is_ok();
        }
        match asker.found.try_recv() {
            Ok((of, found, at)) => {
                asker.busy = false;
                if of == screen.wanted() {
                    screen.take(found, at);
                    changed = true;
                }
            }
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => bail!("asking the daemon has failed"),
        }
        if std::mem::take(&mut changed) {
            terminal.draw(|frame| draw::draw(frame, screen))?;
        }
        if !event::poll(KEY)? {
            continue;
        }
        changed = true;
        if let Event::Key(key) = event::read()?
            && key.kind != KeyEventKind::Release
            && screen.press(key) == Next::Quit
        {
            return Ok(exit::OK);
        }
    }
}
