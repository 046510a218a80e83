//! `eastgate export`: flows and drops for those who collect them, for as long as it runs.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket},
    path::PathBuf,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use eastgate_api::{Events, Filter, FlowRow, List, MAX_EVENTS, Request};
use eastgate_wire::{Vni, names};

use super::{
    args::{Ask, Daemon, Format, Output, parse_vni},
    commands::{ask, misused},
    exit,
    observe::{FOLLOW, Which},
};
use crate::{
    control::client::ClientError,
    export::{Accountant, Record, ipfix::Encoder, rotation::Rotating},
};

pub(super) const HELP: &str = "Runs until it is ended, in the foreground: as a service beside the daemon, which it outlives and waits for. Only what happens while it runs is told.
What comes too fast to be told is lost, counted by the daemon and said here; packets never wait for it.

Examples:
  eastgate export ipfix --collector 192.0.2.9:4739
  eastgate export ipfix --collector [2001:db8::9]:4739 --tenant acme --active-timeout 300
  eastgate export json --file /var/log/eastgate/flows.json --max-size 100000000 --keep 10
  eastgate export json --file /var/log/eastgate/denied.json --verdict dropped";

/// Rows asked for at once
const PAGE: usize = 1_000;
/// Between two attempts to find a daemon
const AGAIN: Duration = Duration::from_secs(1);

/// Where to
#[derive(Subcommand, Debug)]
pub enum Export {
    /// To a collector of IPFIX (RFC 7011) over UDP
    #[command(
        after_help = "A record for each direction of a flow that has ended, for what passed of one that lives, and for packets that were dropped:
addresses, ports, protocol, packets, bytes, from when until when, VNI (layer2SegmentId), flowEndReason, forwardingStatus, firewallEvent.
Of dropped packets the first of each kind is told, with those that were counted beside it; what is no IP packet is in `export json` alone.
Names of endpoints and rules are there too: IPFIX has no words for them.

Example:
  eastgate export ipfix --collector 192.0.2.9:4739"
    )]
    Ipfix(Ipfix),
    /// To a file: each event an object on a line of its own, as `observe -o json` prints them
    #[command(
        after_help = "A full file gets the name FILE.1, the one before FILE.2, and so on. Whoever else moves it away finds a new one in its place.

Example:
  eastgate export json --file /var/log/eastgate/flows.json --max-size 100000000 --keep 10"
    )]
    Json(Json),
}

/// What is told, and by whom
#[derive(Args, Debug)]
pub struct What {
    /// Only the network with this VNI
    #[arg(long, value_parser = parse_vni)]
    vni: Option<Vni>,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    daemon: Daemon,
}

/// Options of `export ipfix`.
#[derive(Args, Debug)]
pub struct Ipfix {
    /// The collector: ADDRESS:PORT or NAME:PORT, IPv6 in brackets; 4739 is IPFIX's own port
    #[arg(long, value_name = "HOST:PORT")]
    collector: String,
    /// The number by which it tells exporters of one address apart
    #[arg(long, value_name = "N", default_value_t = 0)]
    domain: u32,
    /// How often flows that live are told of, in seconds; 0: only when they have ended
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    active_timeout: u64,
    /// What is told
    #[command(flatten)]
    what: What,
}

/// Options of `export json`.
#[derive(Args, Debug)]
pub struct Json {
    /// The file
    #[arg(long)]
    file: PathBuf,
    /// How many bytes it may have
    #[arg(long, value_name = "BYTES", default_value_t = 100_000_000)]
    max_size: u64,
    /// How many there may be beside it that were full
    #[arg(long, value_name = "N", default_value_t = 10)]
    keep: u32,
    /// What is told
    #[command(flatten)]
    what: What,
}

pub(super) fn run(export: &Export) -> Result<u8> {
    match export {
        Export::Ipfix(options) => ipfix(options),
        Export::Json(options) => json(options),
    }
}

fn json(options: &Json) -> Result<u8> {
    let cannot = || format!("{} cannot be written", options.file.display());
    let mut file = Rotating::open(&options.file, options.max_size, options.keep).with_context(cannot)?;
    let Some(mut follower) = Follower::new(&options.what) else { return Ok(exit::USAGE) };
    let mut fails = Once::default();
    loop {
        let events = follower.next()?;
        let mut lines = Vec::new();
        for event in &events {
            serde_json::to_writer(&mut lines, event)?;
            lines.push(b'\n');
        }
        // A disk that is full has room again some day.
        match file.write(&lines) {
            Ok(()) => fails.over("it can be written again"),
            Err(error) => fails.say(&format!("{}: {error}; events are lost", cannot())),
        }
    }
}

fn ipfix(options: &Ipfix) -> Result<u8> {
    let collector = resolve(&options.collector)?;
    let anywhere: SocketAddr = if collector.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(anywhere).context("no socket to send from")?;
    socket.connect(collector).with_context(|| format!("{collector} cannot be reached"))?;
    let Some(mut follower) = Follower::new(&options.what) else { return Ok(exit::USAGE) };
    let mut encoder = Encoder::new(options.domain);
    let every = (options.active_timeout > 0).then(|| Duration::from_secs(options.active_timeout));
    let only_told = follower.filter != of_flows(&follower.filter);
    let mut accountant = Accountant::new(every.is_some(), only_told);
    let mut last_round: Option<Instant> = None;
    let mut fails = Once::default();
    loop {
        let mut records: Vec<Record> =
            follower.next()?.iter().flat_map(|event| accountant.event(event)).collect();
        if every.is_some_and(|every| last_round.is_none_or(|last| last.elapsed() >= every))
            && follower.for_each_flow(&mut accountant, &mut records)?
        {
            last_round = Some(Instant::now());
        }
        for message in encoder.messages(&records, now_ms() / 1000) {
            // What an earlier one has met is told by the next.
            match socket.send(&message).or_else(|_| socket.send(&message)) {
                Ok(_) => fails.over("the collector takes records again"),
                Err(error) => {
                    fails.say(&format!("{collector} does not take records, which are lost: {error}"))
                }
            }
        }
    }
}

fn resolve(collector: &str) -> Result<SocketAddr> {
    let wrong = || {
        format!(
            "--collector {collector}: no such address; one looks like 192.0.2.9:4739 or [2001:db8::9]:4739"
        )
    };
    let mut found = collector.to_socket_addrs().with_context(wrong)?;
    found.next().with_context(wrong)
}

/// Something that is said when it begins and when it is over, and not all the time.
#[derive(Default)]
struct Once(bool);

impl Once {
    fn say(&mut self, text: &str) {
        if !std::mem::replace(&mut self.0, true) {
            eprintln!("eastgate: {text}");
        }
    }

    fn over(&mut self, text: &str) {
        if std::mem::take(&mut self.0) {
            eprintln!("eastgate: {text}");
        }
    }
}

/// Whoever asks the daemon what has happened since, whichever daemon that is.
struct Follower {
    asking: Ask,
    /// All that is wanted
    filter: Filter,
    /// Where it goes on
    after: Option<String>,
    /// All events that there were had room in the last answer.
    has_all: bool,
    gone: Once,
}

impl Follower {
    /// None, and said why, where the command line asks for what there is not.
    fn new(what: &What) -> Option<Self> {
        let filter = Filter { vni: what.vni, ..what.which.filter() };
        if misused(&Request::Events(filter.clone())).is_some() {
            return None;
        }
        let (daemon, output) = (what.daemon.clone(), Output { output: Format::Text });
        let asking = Ask { daemon, output, timeout: None };
        Some(Self { asking, filter, after: None, has_all: false, gone: Once::default() })
    }

    /// What has happened since the last time.
    fn next(&mut self) -> Result<Vec<eastgate_api::EventRow>> {
        if self.has_all {
            thread::sleep(FOLLOW);
        }
        // At first only where it goes on from.
        let limit = self.after.is_none().then_some(0);
        let filter = Filter { after: self.after.clone(), limit, ..self.filter.clone() };
        let Some(answer) = self.ask::<Events>(&Request::Events(filter))? else { return Ok(Vec::new()) };
        if answer.lost > 0 {
            eprintln!("eastgate: {} lost: they came too fast", names::count(answer.lost, "event"));
        }
        self.after = Some(answer.next);
        self.has_all = answer.events.len() < MAX_EVENTS;
        Ok(answer.events)
    }

    /// The records of all flows that live; false where there is no daemon to tell of them.
    fn for_each_flow(&mut self, accountant: &mut Accountant, records: &mut Vec<Record>) -> Result<bool> {
        let mut filter = Filter { limit: Some(PAGE), ..of_flows(&self.filter) };
        accountant.begin_round();
        loop {
            let Some(page) = self.ask::<List<FlowRow>>(&Request::Flows(filter.clone()))? else {
                return Ok(false);
            };
            let now = now_ms();
            records.extend(page.rows.iter().flat_map(|flow| accountant.alive(flow, now)));
            filter.after = page.next;
            if filter.after.is_none() {
                accountant.end_round(now);
                return Ok(true);
            }
        }
    }

    /// None, after a moment, where no daemon answers: there will be one again.
    fn ask<T: serde::de::DeserializeOwned>(&mut self, request: &Request) -> Result<Option<T>> {
        match ask(&self.asking, request) {
            Ok(answer) => {
                self.gone.over("a daemon answers");
                Ok(Some(answer))
            }
            Err(
                error @ (ClientError::Connect { .. } | ClientError::Late { .. } | ClientError::Broken { .. }),
            ) => {
                self.gone.say(&format!("{error}\n  waiting for one"));
                if matches!(error, ClientError::Connect { .. }) {
                    // All that the next one has is new.
                    self.after = self.after.take().map(|_| "0".into());
                }
                thread::sleep(AGAIN);
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// As much of a filter for events as flows that live can be held against.
fn of_flows(filter: &Filter) -> Filter {
    let Filter { vni, address, port, proto, .. } = *filter;
    Filter { vni, endpoint: filter.endpoint.clone(), address, port, proto, ..Filter::default() }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
