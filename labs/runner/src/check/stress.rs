//! What a story refuses, sent without a pause while its hosts are stopped, killed, tampered with and unplugged.
//!
//! A refusal that holds while all goes well says nothing of the moments in which a daemon is not there yet, or not any
//! more, in which someone changes the settings that it has made, and in which a port is new. So whatever the story
//! refuses is sent as frames all the time, past the sender's own kernel: for the receiver's MAC and for the appliance's,
//! by turns. One that arrives is a way round.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fmt,
    io::{self, IsTerminal, Write},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use eastgate_testkit::{Capture, Netns, link::Link, packet, wait};
use eastgate_wire::{Family, view::proto};
use serde::Serialize;

use super::{Held, lock, point, restore, start_servers};
use crate::{
    Options, daemon,
    error::LabError,
    model::Model,
    plan::MACHINE_DEVICE,
    record::Record,
    station,
    topology::{Expect, Outcome, Proto},
    traffic::raw,
};

/// Between two frames of one sender: a thousand a second, which leaves a small machine time for the rest.
const PAUSE: Duration = Duration::from_millis(1);
/// How many frames each sender sends while a host is in one state.
const BURST: u64 = 40;
/// How long they may take on a busy machine.
const BURST_BOUND: Duration = Duration::from_secs(30);
/// How often hypervisors may be asked anew which machines they have.
const STATION_TRIES: u32 = 3;
/// The source ports of what is refused: from here on, one for each sender.
const FIRST_PORT: u16 = 61_000;
/// Settings that would have Linux answer for others, believe others, and carry what it gets, for each device and for `all`.
const TEMPTING: [(&str, &str); 10] = [
    ("ipv4/conf/{}/forwarding", "1"),
    ("ipv4/conf/{}/proxy_arp", "1"),
    ("ipv4/conf/{}/proxy_arp_pvlan", "1"),
    ("ipv4/conf/{}/arp_ignore", "0"),
    ("ipv4/conf/{}/arp_announce", "0"),
    ("ipv4/conf/{}/arp_filter", "0"),
    ("ipv4/conf/{}/rp_filter", "0"),
    ("ipv4/conf/{}/accept_local", "1"),
    ("ipv6/conf/{}/forwarding", "1"),
    ("ipv6/conf/{}/proxy_ndp", "1"),
];

/// What is done to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Disturbance {
    /// The daemon ends in order, and starts again
    Stop,
    /// It ends at once, and starts again
    Kill,
    /// Someone changes settings while it runs
    Settings,
    /// A port's device goes away and comes back while it runs
    Unplug,
}

impl Disturbance {
    const ALL: [Self; 4] = [Self::Stop, Self::Kill, Self::Settings, Self::Unplug];

    fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Kill => "kill",
            Self::Settings => "settings",
            Self::Unplug => "unplug",
        }
    }
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StressReport {
    /// The story's title
    pub title: String,
    /// How often each host went through all of it, to the end of the round
    pub rounds: u32,
    /// Disturbances by their kind
    pub disturbances: BTreeMap<&'static str, u32>,
    /// What the story refuses, as `FROM -> TO PORT`
    pub refused: Vec<String>,
    /// Frames of that which were sent
    pub sent: u64,
    /// Those that arrived
    pub arrived: u64,
    /// What went wrong, each with the moment it did
    pub failures: Vec<String>,
}

impl StressReport {
    /// Whether nothing arrived that the story refuses, and what it allows went on after each disturbance. A report of nothing
    /// sent is none.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.sent > 0 && self.arrived == 0 && self.failures.is_empty()
    }
}

impl fmt::Display for StressReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.title)?;
        for refused in &self.refused {
            writeln!(f, "  refused: {refused}")?;
        }
        let done = self.disturbances.iter().map(|(name, count)| format!("{name} {count}"));
        writeln!(f, "\n{} rounds: {}", self.rounds, done.collect::<Vec<_>>().join(", "))?;
        for failure in &self.failures {
            writeln!(f, "FAILED {failure}")?;
        }
        writeln!(f, "of {} frames that the story refuses, {} arrived", self.sent, self.arrived)
    }
}

/// Has the running lab go through `rounds` rounds, after which it is as it was.
pub(crate) fn stress(record: &mut Record, rounds: u32, options: &Options) -> Result<StressReport, LabError> {
    let model = Model::read(&record.folder)?;
    let _lock = lock(record)?;
    restore(&model, record, options)?;
    let servers = start_servers(&model, record)?;
    let result = Stress::begin(&model, record, options, rounds).and_then(|stress| stress.run(record));
    drop(servers);
    let restored = restore(&model, record, options);
    let report = result?;
    match restored {
        // It says so itself.
        Err(LabError::Interrupted) => {}
        done => done?,
    }
    Ok(report)
}

/// A packet that the story refuses, as it is known where it arrives.
#[derive(Clone, Copy, Debug)]
struct Refused {
    from: IpAddr,
    to: IpAddr,
    source_port: u16,
    port: u16,
    protocol: u8,
}

impl Refused {
    fn is(self, frame: &[u8]) -> bool {
        let Self { from, to, source_port, port, protocol } = self;
        raw::is_packet(frame, (from, Some(source_port)), (to, Some(port)), protocol).is_some()
    }

    fn packet(self) -> Option<Vec<u8>> {
        let (from, to) = ((self.from, self.source_port), (self.to, self.port));
        match self.protocol {
            proto::UDP => packet::udp(from, to, b"refused"),
            _ => packet::syn(from, to),
        }
    }
}

struct Stress<'a> {
    model: &'a Model,
    options: &'a Options,
    /// Machines that their hypervisor has to associate before anything is as the story says
    associate: Vec<&'a str>,
    /// What has to go on after each disturbance
    allowed: Expect,
    /// Who is disturbed
    hosts: BTreeSet<&'a str>,
    senders: Vec<Sender>,
    /// What each receiver hears, and what it should not
    receivers: BTreeMap<&'a str, (Capture, Vec<Refused>)>,
    report: StressReport,
}

impl<'a> Stress<'a> {
    fn begin(
        model: &'a Model,
        record: &mut Record,
        options: &'a Options,
        rounds: u32,
    ) -> Result<Self, LabError> {
        let topology = &model.topology;
        // Where hypervisors have to say first which machines they have, nothing holds before.
        let first = topology.step.first().filter(|step| step.associate.iter().next().is_some());
        let expects = first.map_or(&topology.expect, |step| &step.expect);
        let plain = |expect: &&Expect| {
            let is_more = [expect.spoof.is_some(), expect.twin.is_some(), expect.resume.is_some()];
            matches!(expect.proto, Some(Proto::Tcp | Proto::Udp))
                && expect.bytes.is_none()
                && !is_more.contains(&true)
        };
        let nothing = |what: &str| LabError::Topology {
            path: model.folder.join("topology.toml"),
            what: format!("at first, {what} by TCP or UDP, and stress is made of that"),
        };
        let allowed = expects.iter().filter(plain).find(|expect| expect.outcome == Outcome::Reach);
        let allowed = allowed.cloned().ok_or_else(|| nothing("nobody reaches another"))?;
        let mut this = Self {
            model,
            options,
            associate: first.map(|step| step.associate.iter().collect()).unwrap_or_default(),
            allowed: Expect { hold: None, ..allowed },
            hosts: BTreeSet::new(),
            senders: vec![],
            receivers: BTreeMap::new(),
            report: StressReport { title: topology.title.clone(), rounds, ..StressReport::default() },
        };
        for expect in expects.iter().filter(plain).filter(|expect| expect.outcome == Outcome::Refused) {
            this.refuse(expect, record)?;
        }
        match this.senders.is_empty() {
            true => Err(nothing("nothing is refused")),
            false => Ok(this),
        }
    }

    /// Begins to send what this expectation refuses.
    fn refuse(&mut self, expect: &'a Expect, record: &Record) -> Result<(), LabError> {
        let model = self.model;
        let pairs = expect.from.iter().flat_map(|from| expect.to.iter().map(move |to| (from, to)));
        for (from, to) in pairs.filter(|(from, to)| from != to) {
            let (Some(sender), Some(receiver)) = (model.machines.get(from), model.machines.get(to)) else {
                continue;
            };
            for family in [Family::V4, Family::V6] {
                let (Some(source), Some(destination)) = (sender.address(family), receiver.address(family))
                else {
                    continue;
                };
                let refused = Refused {
                    from: source,
                    to: destination,
                    source_port: FIRST_PORT + self.senders.len() as u16,
                    port: expect.port.unwrap_or_default(),
                    protocol: if expect.proto == Some(Proto::Udp) { proto::UDP } else { proto::TCP },
                };
                let Some(packet) = refused.packet() else { continue };
                let macs = [receiver.mac, eastgate_steering::proxy_mac(sender.vni)];
                let frames = macs.map(|mac| packet::ip_frame(mac, sender.mac, &packet));
                let heard = match self.receivers.entry(to) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(new) => {
                        new.insert((Capture::start(&record.namespace(to)?, MACHINE_DEVICE)?, vec![]))
                    }
                };
                heard.1.push(refused);
                self.senders.push(Sender::start(&record.namespace(from)?, frames)?);
                let protocol = if refused.protocol == proto::UDP { "udp" } else { "tcp" };
                self.report.refused.push(format!(
                    "{protocol} {source} -> {destination} port {}, {from} to {to}",
                    refused.port
                ));
                self.hosts.extend([sender.on.as_str(), receiver.on.as_str()]);
            }
        }
        Ok(())
    }

    fn run(mut self, record: &mut Record) -> Result<StressReport, LabError> {
        self.goes_on("at first", record)?;
        let mut untouched = BTreeMap::new();
        for round in 0..self.report.rounds {
            self.tell_progress(round);
            match self.round(round, &mut untouched, record) {
                // What was seen until then is worth telling: rounds take long.
                Err(LabError::Interrupted) => {
                    self.report.failures.push(format!("interrupted in round {}", round + 1));
                    self.report.rounds = round;
                    break;
                }
                done => done?,
            }
        }
        // What was set while no daemon ran is put back while none runs: one would take it for the host's own.
        for host in self.hosts.clone() {
            if let Some(daemon) = record.daemons.get(host) {
                daemon.stop();
            }
            let namespace = record.namespace(host)?;
            for (key, value) in untouched.get(host).into_iter().flatten() {
                set(&namespace, key, value)?;
            }
        }
        match self.nothing_arrives("at last") {
            Err(LabError::Interrupted) => {}
            done => done?,
        }
        self.report.sent = self.senders.iter().map(Sender::sent).sum();
        Ok(self.report)
    }

    fn round(
        &mut self,
        round: u32,
        untouched: &mut BTreeMap<&'a str, Settings>,
        record: &mut Record,
    ) -> Result<(), LabError> {
        for host in self.hosts.clone() {
            for disturbance in Disturbance::ALL {
                self.disturb(disturbance, host, round, untouched, record)?;
                *self.report.disturbances.entry(disturbance.name()).or_default() += 1;
            }
        }
        Ok(())
    }

    fn disturb(
        &mut self,
        disturbance: Disturbance,
        host: &'a str,
        round: u32,
        untouched: &mut BTreeMap<&'a str, Settings>,
        record: &mut Record,
    ) -> Result<(), LabError> {
        let namespace = record.namespace(host)?;
        let ports = self.ports(host);
        let when = |what: &str| format!("{what} on {host}, round {}", round + 1);
        match disturbance {
            Disturbance::Stop | Disturbance::Kill => {
                if let Some(daemon) = record.daemons.get(host) {
                    match disturbance {
                        Disturbance::Stop => daemon.stop(),
                        _ => daemon.kill(),
                    }
                }
                self.nothing_arrives(&when("without a daemon"))?;
                // The first one is a stop, which leaves the host as eastgate had found it.
                if !untouched.contains_key(host) {
                    untouched.insert(host, read_tempting(&namespace, &ports)?);
                }
                tempt(&namespace, &ports)?;
                self.nothing_arrives(&when("without a daemon, as the host carries what it gets"))?;
                daemon::start(record, &[host.to_owned()], self.options)?;
            }
            Disturbance::Settings => tempt(&namespace, &ports)?,
            Disturbance::Unplug => {
                let port = ports.iter().nth(round as usize % ports.len().max(1)).copied();
                if let Some((port, away)) = port.zip(self.model.hosts.get(host).map(|host| &host.switch)) {
                    let away = record.namespace(away)?;
                    namespace.ip(&format!("link set {port} netns {}", away.name()))?;
                    self.nothing_arrives(&when(&format!("without {port}")))?;
                    away.ip(&format!("link set {port} netns {}", namespace.name()))?;
                    namespace.ip(&format!("link set {port} up"))?;
                }
            }
        }
        let when = when(&format!("after {}", disturbance.name()));
        self.nothing_arrives(&when)?;
        self.goes_on(&when, record)
    }

    /// The devices of a host where machines are.
    fn ports(&self, host: &'a str) -> BTreeSet<&'a str> {
        self.model.machines_on(host).map(|(_, machine)| machine.port.as_str()).collect()
    }

    /// Sends for a while what the story refuses.
    fn nothing_arrives(&mut self, when: &str) -> Result<(), LabError> {
        let before: Vec<u64> = self.senders.iter().map(Sender::tried).collect();
        let done =
            || self.senders.iter().zip(&before).all(|(sender, before)| sender.tried() >= before + BURST);
        if !wait::until(BURST_BOUND, done) {
            self.report.failures.push(format!("{when}: a machine does not send"));
        }
        let of_receiver = |(capture, refused): &(Capture, Vec<Refused>)| {
            capture.matching(|frame| refused.iter().any(|refused| refused.is(frame))).len() as u64
        };
        let arrived: u64 = self.receivers.values().map(of_receiver).sum();
        if arrived > self.report.arrived {
            self.report.failures.push(format!("{when}: {} frames arrived", arrived - self.report.arrived));
            self.report.arrived = arrived;
        }
        self.options.interrupt.check()
    }

    /// What the story allows is there again.
    fn goes_on(&mut self, when: &str, record: &mut Record) -> Result<(), LabError> {
        let mut tries = if self.associate.is_empty() { 1 } else { STATION_TRIES };
        loop {
            tries -= 1;
            match self.allowed_reaches(record) {
                Ok(failed) if failed.is_empty() => break,
                Ok(failed) if tries == 0 => {
                    self.report.failures.extend(failed.iter().map(|what| format!("{when}: {what}")));
                    break;
                }
                Err(error) if tries == 0 => return Err(error),
                // lldpad gives up a machine whose keep-alive was not answered while its link or the appliance was away, and may then
                // not take it up again: whoever runs it begins it anew.
                Ok(_) | Err(_) => station::restart_all(self.model, record, self.options)?,
            }
        }
        self.nothing_arrives(when)
    }

    /// What of it does not reach.
    fn allowed_reaches(&self, record: &Record) -> Result<Vec<String>, LabError> {
        let mut machines = self.associate.iter();
        machines.try_for_each(|machine| station::associate(machine, self.model, record, self.options))?;
        let expects = std::slice::from_ref(&self.allowed);
        let rows = point(self.model, record, expects, &mut Held::default(), self.options)?;
        let failed = rows.iter().filter(|row| !row.ok);
        Ok(failed.map(|row| format!("{} -> {}: {}", row.from, row.to, row.seen)).collect())
    }

    /// To somebody who watches.
    fn tell_progress(&self, round: u32) {
        let mut err = io::stderr();
        if err.is_terminal() {
            let _ = writeln!(err, "round {} of {}", round + 1, self.report.rounds);
        }
    }
}

/// Settings by their keys.
type Settings = BTreeMap<String, String>;

fn tempting(ports: &BTreeSet<&str>) -> impl Iterator<Item = (String, &'static str)> {
    let devices = ["all", "default"].into_iter().chain(ports.iter().copied());
    devices
        .flat_map(|device| TEMPTING.map(|(key, value)| (format!("net/{}", key.replace("{}", device)), value)))
}

fn read_tempting(namespace: &Netns, ports: &BTreeSet<&str>) -> Result<Settings, LabError> {
    tempting(ports).map(|(key, _)| Ok((key.clone(), namespace.get(&key)?))).collect()
}

fn tempt(namespace: &Netns, ports: &BTreeSet<&str>) -> Result<(), LabError> {
    tempting(ports).try_for_each(|(key, value)| set(namespace, &key, value))
}

fn set(namespace: &Netns, key: &str, value: &str) -> Result<(), LabError> {
    Ok(namespace.set(key, value)?)
}

/// Someone who sends the same frames all the time. It ends when it is dropped.
struct Sender {
    stop: Arc<AtomicBool>,
    tried: Arc<AtomicU64>,
    sent: Arc<AtomicU64>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Sender {
    fn start(namespace: &Netns, frames: [Vec<u8>; 2]) -> Result<Self, LabError> {
        let mut link = namespace.enter(|| Link::open(MACHINE_DEVICE, Duration::ZERO))??;
        let (stop, tried, sent) = <(Arc<AtomicBool>, Arc<AtomicU64>, Arc<AtomicU64>)>::default();
        let (until, attempts, successes) = (Arc::clone(&stop), Arc::clone(&tried), Arc::clone(&sent));
        let thread = thread::spawn(move || {
            for frame in frames.iter().cycle() {
                if until.load(Ordering::Relaxed) {
                    break;
                }
                // While its port is unplugged it has no carrier.
                if link.send(frame).is_ok() {
                    successes.fetch_add(1, Ordering::Relaxed);
                }
                attempts.fetch_add(1, Ordering::Relaxed);
                thread::sleep(PAUSE);
            }
        });
        Ok(Self { stop, tried, sent, thread: Some(thread) })
    }

    fn tried(&self) -> u64 {
        self.tried.load(Ordering::Relaxed)
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
