//! `eastgate export`: flows and drops for those who collect them, for as long as it runs.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket},
    path::PathBuf,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use eastgate_api::{ErrorCode, EventRow, Events, Filter, FlowRow, List, MAX_EVENTS, MAX_ROWS, Request};
use eastgate_wire::{Vni, names};
use nix::sys::socket::{getsockopt, sockopt};
use serde_json::json;

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

/// Flows asked for at once: each question goes over all that there are
const PAGE: usize = MAX_ROWS;
/// Flows told of at once, and how long a collector has then: sockets take some hundred messages
const BURST: usize = 2_000;
const PAUSE: Duration = Duration::from_millis(5);
/// How long a collector refuses nothing before it is said to take records again
const QUIET: Duration = Duration::from_secs(60);
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
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_collector)]
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
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(..=10_000))]
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
    let Some(mut follower) = Follower::new(&options.what) else { return Ok(exit::USAGE) };
    let cannot = || format!("{} cannot be written", options.file.display());
    let mut file = Rotating::open(&options.file, options.max_size, options.keep).with_context(cannot)?;
    let mut fails = Once::default();
    loop {
        let heard = follower.next()?;
        let mut lines = Vec::new();
        if heard.lost > 0 {
            serde_json::to_writer(&mut lines, &json!({ "lost": heard.lost }))?;
            lines.push(b'\n');
        }
        for event in &heard.events {
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
    let Some(mut follower) = Follower::new(&options.what) else { return Ok(exit::USAGE) };
    let only_told = follower.filter != of_flows(&follower.filter);
    let every = (options.active_timeout > 0).then(|| Duration::from_secs(options.active_timeout));
    let mut accountant = Accountant::new(every.is_some(), only_told);
    let mut sender = Sender::new(&options.collector, options.domain)?;
    let mut last_round: Option<Instant> = None;
    loop {
        let is_same = follower.account(&mut accountant, &mut sender)?;
        if is_same
            && every.is_some_and(|every| last_round.is_none_or(|last| last.elapsed() >= every))
            && follower.tell_of_all(&mut accountant, &mut sender)?
        {
            last_round = Some(Instant::now());
        }
    }
}

/// Who sends records to a collector.
struct Sender {
    collector: SocketAddr,
    socket: UdpSocket,
    encoder: Encoder,
    refused: Once,
    refused_at: Option<Instant>,
}

impl Sender {
    fn new(collector: &str, domain: u32) -> Result<Self> {
        let collector = resolve(collector)?;
        let any_v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let anywhere = if collector.is_ipv4() { any_v4 } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
        let socket = UdpSocket::bind(anywhere).context("no socket to send from")?;
        socket.connect(collector).with_context(|| format!("{collector} cannot be reached"))?;
        Ok(Self {
            collector,
            encoder: Encoder::new(domain, carried_to(&socket, collector)),
            socket,
            refused: Once::default(),
            refused_at: None,
        })
    }

    fn send(&mut self, records: &[Record]) {
        for message in self.encoder.messages(records, now_ms() / 1000, Instant::now()) {
            // What an earlier one has met is told by the next, which is not sent then.
            match self.socket.send(&message) {
                // Of a burst some are sent before the first is refused.
                Ok(_) if self.refused_at.is_none_or(|at| at.elapsed() >= QUIET) => {
                    self.refused.over("the collector takes records again");
                }
                Ok(_) => {}
                Err(error) => {
                    self.refused_at = Some(Instant::now());
                    let text = format!("{} does not take records, which are lost: {error}", self.collector);
                    self.refused.say(&text);
                    let _ = self.socket.send(&message);
                    // The path may have become narrower.
                    self.encoder.fit(carried_to(&self.socket, self.collector));
                }
            }
        }
    }
}

fn parse_collector(text: &str) -> Result<String, String> {
    let is_host = |host: &str| {
        let is_bracketed = host.starts_with('[') && host.ends_with(']');
        !host.is_empty() && (is_bracketed || !host.contains(':'))
    };
    let port = text.rsplit_once(':').filter(|(host, _)| is_host(host));
    match port.map(|(_, port)| port.parse::<u16>()) {
        Some(Ok(1..)) => Ok(text.to_owned()),
        _ => Err("it is to be HOST:PORT, such as 192.0.2.9:4739 or [2001:db8::9]:4739".to_owned()),
    }
}

/// How much data a datagram to a collector carries in one piece, as far as this host knows.
fn carried_to(socket: &UdpSocket, collector: SocketAddr) -> Option<usize> {
    // RFC 791 and RFC 8200 without options, and RFC 768
    const HEADERS_V4: usize = 20 + 8;
    const HEADERS_V6: usize = 40 + 8;
    // Every IPv6 path takes that (RFC 8200 section 5).
    const IPV6_MIN_MTU: usize = 1280;
    if collector.is_ipv6() {
        return Some(IPV6_MIN_MTU - HEADERS_V6);
    }
    let mtu = getsockopt(socket, sockopt::IpMtu).ok()?;
    usize::try_from(mtu).ok()?.checked_sub(HEADERS_V4)
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
    /// The daemon that has told so far
    instance: Option<u64>,
    /// Nobody listened, when it was asked last.
    is_down: bool,
    /// All events that there were had room in the last answer.
    has_all: bool,
    gone: Once,
}

/// What has happened since the last time.
#[derive(Default)]
struct Heard {
    events: Vec<EventRow>,
    lost: u64,
    /// It is another daemon that tells.
    is_another: bool,
    /// The same daemon as before has answered.
    is_same: bool,
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
        Some(Self {
            asking,
            filter,
            after: None,
            instance: None,
            is_down: false,
            has_all: false,
            gone: Once::default(),
        })
    }

    fn next(&mut self) -> Result<Heard> {
        if self.has_all {
            thread::sleep(FOLLOW);
        }
        // At first only where it goes on from.
        let limit = self.after.is_none().then_some(0);
        let filter = Filter { after: self.after.clone(), limit, ..self.filter.clone() };
        let Some(answer) = self.ask::<Events>(&Request::Events(filter))? else {
            if self.is_down {
                // Whatever the next one has is new.
                self.after.get_or_insert_with(|| "0".into());
            }
            return Ok(Heard::default());
        };
        let before = self.instance.replace(answer.instance);
        if before.is_some_and(|before| before != answer.instance) {
            // Its events have numbers of their own.
            (self.after, self.has_all) = (Some("0".into()), false);
            return Ok(Heard { is_another: true, ..Heard::default() });
        }
        if answer.lost > 0 {
            eprintln!("eastgate: {} lost: they came too fast", names::count(answer.lost, "event"));
        }
        self.after = Some(answer.next);
        self.has_all = answer.events.len() < MAX_EVENTS;
        Ok(Heard { events: answer.events, lost: answer.lost, is_another: false, is_same: true })
    }

    /// Tells a collector what has happened since the last time; whether the same daemon as before has said so.
    fn account(&mut self, accountant: &mut Accountant, sender: &mut Sender) -> Result<bool> {
        let heard = self.next()?;
        if heard.is_another {
            accountant.follow_another();
        }
        let records: Vec<Record> = heard.events.iter().flat_map(|event| accountant.event(event)).collect();
        sender.send(&records);
        Ok(heard.is_same)
    }

    /// Tells it of all flows that live; false where there is no daemon to tell of them.
    fn tell_of_all(&mut self, accountant: &mut Accountant, sender: &mut Sender) -> Result<bool> {
        let mut filter = Filter { limit: Some(PAGE), ..of_flows(&self.filter) };
        accountant.begin_round();
        loop {
            let Some(page) = self.ask::<List<FlowRow>>(&Request::Flows(filter.clone()))? else {
                return Ok(false);
            };
            let now = now_ms();
            for some in page.rows.chunks(BURST) {
                let records: Vec<Record> = some.iter().flat_map(|flow| accountant.alive(flow, now)).collect();
                sender.send(&records);
                if page.rows.len() > BURST {
                    // So that it has room for the next.
                    thread::sleep(PAUSE);
                }
            }
            filter.after = page.next;
            if filter.after.is_none() {
                accountant.end_round(now);
                return Ok(true);
            }
            // Events do not wait for the last page, and another daemon's flows are told from their first on.
            if !self.account(accountant, sender)? {
                return Ok(false);
            }
        }
    }

    /// None, after a moment, where no daemon answers, or not now: there will be one again.
    fn ask<T: serde::de::DeserializeOwned>(&mut self, request: &Request) -> Result<Option<T>> {
        match ask(&self.asking, request) {
            Ok(answer) => {
                self.is_down = false;
                self.gone.over("a daemon answers");
                Ok(Some(answer))
            }
            Err(error) if is_for_good(&error) => Err(error.into()),
            Err(error) => {
                self.is_down = matches!(error, ClientError::Connect { .. });
                self.gone.say(&format!("{error}\n  waiting for one that answers"));
                thread::sleep(AGAIN);
                Ok(None)
            }
        }
    }
}

/// Would the same question be refused by any daemon at any time?
fn is_for_good(error: &ClientError) -> bool {
    match error {
        ClientError::Refused(failure) => {
            matches!(failure.code, ErrorCode::Malformed | ErrorCode::NotApplicable | ErrorCode::TooLong)
        }
        ClientError::Denied { .. } => true,
        _ => false,
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
