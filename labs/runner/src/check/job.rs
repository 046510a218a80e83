//! One expectation for one pair of machines and one family: sent, and judged.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use eastgate_testkit::{
    Capture,
    command::run_within,
    link, packet,
    wait::{SLOW_POLL, until_every},
};
use eastgate_wire::{
    Family, MacAddr,
    view::{Net, Transport, proto},
};

use super::drops::{Growth, Wanted};
use crate::{
    Options, command_inside,
    error::LabError,
    model::{Machine, Model},
    plan::MACHINE_DEVICE,
    record::Record,
    report::Row,
    topology::{Expect, Outcome, Proto, Spoof},
    traffic::{self, Party, REACH_BOUND, REFUSED_BOUND, Seen, neighbor, random_u16, raw, tcp, udp},
};

/// Bytes of an echo request with its IP header where the story asks for none.
const ECHO_SIZE: u16 = 84;

/// What is to be done.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) expect: Expect,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Traffic(Box<Pair>),
    /// A command whose output is looked at, inside this node
    Command(String),
    /// A question for an address of the underlay, by this host
    Question(String, IpAddr),
}

#[derive(Clone, Debug)]
struct Pair {
    from: Party,
    to: Party,
    vni: u32,
    family: Family,
    proto: Proto,
    twin: Option<(Party, Party)>,
    /// Source address and MAC as the frame will say
    claimed: Party,
}

/// What a wave has in common.
#[derive(Debug)]
pub(super) struct Scene<'a> {
    pub(super) model: &'a Model,
    pub(super) record: &'a Record,
    pub(super) options: &'a Options,
    pub(super) captures: BTreeMap<String, Capture>,
}

/// What was done.
#[derive(Debug)]
pub(super) struct Done {
    seen: Seen,
    source: Option<u16>,
    stream: Option<TcpStream>,
}

impl Done {
    fn new(seen: Seen) -> Self {
        Self { seen, source: None, stream: None }
    }

    /// A check that broke has failed, whatever was expected.
    pub(super) fn panicked() -> Self {
        Self::new(Seen::Failed("the check itself broke".into()))
    }
}

/// Connections that stay open, by the name the story gives them and what they join.
#[derive(Debug, Default)]
pub(super) struct Held(BTreeMap<String, TcpStream>);

impl Held {
    /// Keeps the connection of a job that says so.
    pub(super) fn keep(&mut self, job: &Job, done: &mut Done) {
        if let (Some(name), Some(stream)) = (&job.expect.hold, done.stream.take()) {
            self.0.insert(job.connection(name), stream);
        }
    }
}

/// Asks on the underlay of `host` who has an address, and gives the devices that say so.
fn ask_on_the_underlay(host: &str, address: IpAddr, scene: &Scene<'_>) -> Seen {
    let ask = || -> Result<Seen, LabError> {
        let party = |name: &str, device: &str, address| {
            let namespace = scene.record.namespace(name)?;
            let mac = link::hardware_address(&namespace, device)?;
            Ok::<_, LabError>(Party { name: name.to_owned(), namespace, mac, address })
        };
        let asker = scene
            .model
            .hosts
            .get(host)
            .ok_or_else(|| LabError::NoNode { node: host.into(), nodes: vec![] })?;
        let from = party(host, &asker.device, asker.address.addr())?;
        let devices = scene.model.underlay_devices();
        let known =
            devices.map(|(name, device)| Ok((party(name, device, address)?.mac, format!("{name}/{device}"))));
        let known = known.collect::<Result<BTreeMap<MacAddr, String>, LabError>>()?;
        let to =
            Party { name: String::new(), namespace: from.namespace.clone(), mac: MacAddr::ZERO, address };
        let capture = Capture::start(&from.namespace, &asker.device)?;
        let name = |mac: MacAddr| known.get(&mac).cloned().unwrap_or_else(|| mac.to_string());
        Ok(neighbor::ask((&from, &asker.device), &to, &capture, REACH_BOUND, name))
    };
    ask().unwrap_or_else(|error| Seen::Failed(error.to_string()))
}

/// The row of an expectation that turns out to ask nothing: the pair shares no family.
pub(super) fn nothing_to_do(expect: &Expect) -> Row {
    let names = |names: &crate::topology::Names| names.iter().collect::<Vec<_>>().join(", ");
    Row {
        story: expect.story.clone(),
        from: names(&expect.from),
        to: names(&expect.to),
        expected: "traffic".into(),
        seen: "no address of a common family".into(),
        ..Row::default()
    }
}

impl Job {
    /// The jobs of an expectation: every pair, every family.
    pub(super) fn expand(expect: &Expect, model: &Model, record: &Record) -> Result<Vec<Self>, LabError> {
        if let Some(node) = expect.on.clone() {
            let kind = match expect.asks {
                Some(address) => Kind::Question(node, address),
                None => Kind::Command(node),
            };
            return Ok(vec![Self { expect: expect.clone(), kind }]);
        }
        let mut jobs = Vec::new();
        for from in expect.from.iter() {
            for to in expect.to.iter().filter(|to| *to != from) {
                for family in [Family::V4, Family::V6] {
                    if let Some(pair) = Pair::new(expect, (from, to), family, model, record)? {
                        jobs.push(Self { expect: expect.clone(), kind: Kind::Traffic(Box::new(pair)) });
                    }
                }
            }
        }
        Ok(jobs)
    }

    /// The machines whose frames it looks at.
    pub(super) fn parties(&self) -> Vec<&Party> {
        match &self.kind {
            Kind::Traffic(pair) => vec![&pair.from, &pair.to],
            Kind::Command(_) | Kind::Question(..) => vec![],
        }
    }

    /// The counter that must grow.
    pub(super) fn wanted(&self) -> Option<Wanted> {
        let Kind::Traffic(pair) = &self.kind else { return None };
        let Expect { at, rule, .. } = self.expect.clone();
        let reason = self.expect.reason.clone()?;
        Some(Wanted { at, vni: pair.vni.into(), reason, rule })
    }

    /// Does it.
    pub(super) fn run(&self, scene: &Scene<'_>, held: &Held) -> Done {
        match &self.kind {
            Kind::Command(node) => self.run_command(node, scene),
            Kind::Question(node, address) => Done::new(ask_on_the_underlay(node, *address, scene)),
            Kind::Traffic(pair) => match (pair.proto, &self.expect.spoof) {
                (Proto::Tcp, _) => self.run_tcp(pair, held),
                (Proto::Udp, None) => self.run_udp(pair),
                (Proto::Udp, Some(_)) => self.run_raw_udp(pair),
                (Proto::Icmp, _) => self.run_echo(pair, scene),
                (Proto::Arp | Proto::Nd, None) => self.run_question(pair, scene),
                (Proto::Arp | Proto::Nd, Some(_)) => {
                    Done::new(neighbor::claim(&pair.from, &pair.to, pair.claimed.address, pair.claimed.mac))
                }
            },
        }
    }

    /// Compares.
    pub(super) fn judge(&self, done: &Done, scene: &Scene<'_>, growth: &Growth) -> Row {
        let (ok, seen) = match &self.kind {
            Kind::Command(_) => (matches!(done.seen, Seen::Answer { .. }), done.seen.to_string()),
            Kind::Question(..) => {
                let by = |by: &str| Some(by) == self.expect.answered_by.as_deref();
                (matches!(&done.seen, Seen::Answer { by: seen, .. } if by(seen)), done.seen.to_string())
            }
            Kind::Traffic(pair) => self.judge_traffic(pair, done, scene),
        };
        let (counted, count) = match self.wanted() {
            Some(wanted) => growth.judge(&wanted),
            None => (true, String::new()),
        };
        let (from, to) = match &self.kind {
            Kind::Traffic(pair) => (pair.from.name.clone(), pair.to.name.clone()),
            Kind::Command(node) => (node.clone(), String::new()),
            Kind::Question(node, address) => (node.clone(), address.to_string()),
        };
        let seen = [seen, count].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(", ");
        Row {
            step: None,
            story: self.expect.story.clone(),
            from,
            to,
            what: self.what(),
            expected: self.expected(),
            seen,
            ok: ok && counted,
        }
    }

    fn bound(&self) -> Duration {
        if self.expect.outcome == Outcome::Reach { REACH_BOUND } else { REFUSED_BOUND }
    }

    fn connection(&self, name: &str) -> String {
        match &self.kind {
            Kind::Traffic(pair) => format!("{name} {} {} {:?}", pair.from.name, pair.to.name, pair.family),
            Kind::Command(_) | Kind::Question(..) => name.to_owned(),
        }
    }

    fn run_command(&self, node: &str, scene: &Scene<'_>) -> Done {
        let (Some(run), Some(shows)) = (&self.expect.run, &self.expect.shows) else {
            return Done::panicked();
        };
        let began = Instant::now();
        let mut last = String::new();
        let shown = until_every(SLOW_POLL, REACH_BOUND, || {
            let output = command_inside(scene.record, node, run, scene.options)
                .map_err(|error| error.to_string())
                .and_then(|mut command| {
                    run_within(&mut command, REACH_BOUND).map_err(|failure| failure.to_string())
                });
            last = output.unwrap_or_else(|error| error);
            last.contains(shows.as_str())
        });
        Done::new(match shown {
            true => Seen::Answer { by: "shown".into(), after: began.elapsed() },
            false => Seen::Failed(format!("`{}`", last.lines().last().unwrap_or_default().trim())),
        })
    }

    fn run_tcp(&self, pair: &Pair, held: &Held) -> Done {
        if let Some(name) = &self.expect.resume {
            return match held.0.get(&self.connection(name)) {
                Some(stream) => Done {
                    seen: tcp::exchange(stream, self.bound()),
                    source: stream.local_addr().ok().map(|local| local.port()),
                    stream: None,
                },
                None => Done::new(Seen::Failed(format!("no connection is held as `{name}`"))),
            };
        }
        let (source, port) = (self.expect.source_port, self.expect.port.unwrap_or_default());
        let connect = |from: &Party, to: &Party| {
            tcp::connect(from, source, SocketAddr::new(to.address, port), self.bound())
        };
        // The twin's connection is open before and after the exchange on this one.
        let twin = match &pair.twin {
            Some((from, to)) => match connect(from, to) {
                Ok((stream, _)) => Some((stream, to)),
                Err((seen, _)) => return Done::new(Seen::Failed(format!("the twin: {seen}"))),
            },
            None => None,
        };
        let (stream, source) = match connect(&pair.from, &pair.to) {
            Ok(connected) => connected,
            Err((seen, source)) => return Done { seen, source, stream: None },
        };
        let mut seen = match self.expect.bytes {
            Some(bytes) => tcp::bulk(&stream, bytes),
            None => tcp::exchange(&stream, self.bound()),
        };
        if let Some((twin, to)) = twin {
            match tcp::exchange(&twin, self.bound()) {
                Seen::Answer { by, .. } if by == to.name => {}
                other => seen = Seen::Failed(format!("the twin: {other}")),
            }
        }
        Done { seen, source: Some(source), stream: Some(stream) }
    }

    fn run_udp(&self, pair: &Pair) -> Done {
        let to = SocketAddr::new(pair.to.address, self.expect.port.unwrap_or_default());
        let (seen, source) = udp::ask(&pair.from, self.expect.source_port, to, self.bound());
        Done { seen, source, stream: None }
    }

    fn run_raw_udp(&self, pair: &Pair) -> Done {
        let source = self.expect.source_port.unwrap_or(random_u16() | 0xc000);
        let (from, to) = (&pair.claimed, &pair.to);
        let port = self.expect.port.unwrap_or_default();
        let Some(packet) =
            packet::udp((from.address, source), (to.address, port), traffic::token().as_bytes())
        else {
            return Done::panicked();
        };
        let frame = packet::ip_frame(to.mac, from.mac, &packet);
        let sent = link::send_frame(&pair.from.namespace, MACHINE_DEVICE, &frame);
        let seen = sent.map_or_else(|error| Seen::Failed(error.to_string()), |()| Seen::Silence);
        Done { seen, source: Some(source), stream: None }
    }

    fn run_echo(&self, pair: &Pair, scene: &Scene<'_>) -> Done {
        let (from, to) = (&pair.from, &pair.to);
        let (id, size) = (random_u16(), self.expect.size.unwrap_or(ECHO_SIZE));
        let token = traffic::token();
        let Some(packet) = packet::echo(from.address, to.address, id, &token, size) else {
            return Done::new(Seen::Failed(format!("{size} bytes are less than the headers")));
        };
        let Some(capture) = scene.captures.get(&from.name) else { return Done::panicked() };
        let began = Instant::now();
        if let Err(error) = raw::send_packet(from, to.address, &packet) {
            return Done::new(Seen::Failed(error.to_string()));
        }
        let answer = capture.wait(self.bound(), began, |frame| is_echo_reply(frame, to, from, id));
        let seen = match answer {
            Some((at, ())) => {
                Seen::Answer { by: to.name.clone(), after: at.saturating_duration_since(began) }
            }
            None => Seen::Silence,
        };
        Done { seen, source: Some(id), stream: None }
    }

    fn run_question(&self, pair: &Pair, scene: &Scene<'_>) -> Done {
        let Some(capture) = scene.captures.get(&pair.from.name) else { return Done::panicked() };
        let name = |mac| owner(scene.model, pair.vni, mac);
        let from = (&pair.from, MACHINE_DEVICE);
        Done::new(neighbor::ask(from, &pair.to, capture, self.bound(), name))
    }

    fn judge_traffic(&self, pair: &Pair, done: &Done, scene: &Scene<'_>) -> (bool, String) {
        let arrived = self.arrived(pair, done, scene);
        let error =
            scene.captures.get(&pair.from.name).and_then(|capture| self.icmp_error(pair, done, capture));
        let seen = match (&done.seen, error) {
            (Seen::Unreachable | Seen::Silence, Some((kind, code, None))) => {
                Seen::Rejected(format!("ICMP {kind}/{code}"))
            }
            // The neighbour did not answer: nobody refused anything, it is just not there.
            (Seen::Unreachable, None) => Seen::Silence,
            (seen, _) => seen.clone(),
        };
        let place = if arrived { "arrived, " } else { "" };
        match self.expect.outcome {
            _ if self.expect.spoof.is_some() => {
                // A frame under a false name asks for no answer: all that counts is whether it arrives.
                let sent = seen == Seen::Silence;
                let seen = if !sent {
                    seen.to_string()
                } else if arrived {
                    "arrived".into()
                } else {
                    "nothing arrived".into()
                };
                (sent && arrived == (self.expect.outcome == Outcome::Reach), seen)
            }
            Outcome::Reach => self.judge_answer(pair, &seen, arrived),
            Outcome::Refused => (seen == Seen::Silence && !arrived, format!("{place}{seen}")),
            Outcome::Rejected => (matches!(seen, Seen::Rejected(_)) && !arrived, format!("{place}{seen}")),
            Outcome::TooBig => match error {
                Some((_, _, Some(mtu))) => {
                    (self.expect.mtu.map(u32::from) == Some(mtu) && !arrived, format!("{place}MTU {mtu}"))
                }
                _ => (false, format!("{place}{seen}")),
            },
        }
    }

    fn judge_answer(&self, pair: &Pair, seen: &Seen, arrived: bool) -> (bool, String) {
        let Seen::Answer { by, .. } = seen else { return (false, seen.to_string()) };
        let right = match (pair.proto, self.expect.answered_by.as_deref()) {
            (Proto::Tcp | Proto::Udp, _) => *by == pair.to.name,
            // An echo reply does not say whose it is; that the request was seen there does.
            (Proto::Icmp, _) => arrived,
            (_, Some("proxy")) => by.starts_with("proxy") && !by.contains(" and "),
            (_, Some(name)) => by == name,
            (_, None) => !by.contains(" and "),
        };
        let rate = match (self.expect.bytes, seen) {
            (Some(bytes), Seen::Answer { after, .. }) => {
                format!(", {:.2} Gbit/s", bytes as f64 * 8.0 / after.as_secs_f64().max(1e-9) / 1e9)
            }
            _ => String::new(),
        };
        let elsewhere = if pair.proto == Proto::Icmp && !arrived { ", but not by that machine" } else { "" };
        (right, format!("{seen}{rate}{elsewhere}"))
    }

    /// Whether what was sent is seen where it was meant for.
    fn arrived(&self, pair: &Pair, done: &Done, scene: &Scene<'_>) -> bool {
        let Some(capture) = scene.captures.get(&pair.to.name) else { return false };
        let (claimed, to) = (&pair.claimed, &pair.to);
        let packets = |wanted| {
            let destination = self.expect.port;
            capture.find(|frame| {
                raw::is_packet(frame, (claimed.address, done.source), (to.address, destination), wanted)
            })
        };
        match (pair.proto, &self.expect.spoof) {
            // On an open connection only data is news.
            (Proto::Tcp, _) if self.expect.resume.is_some() => packets(proto::TCP).iter().any(has_data),
            (Proto::Tcp, _) => !packets(proto::TCP).is_empty(),
            (Proto::Udp, _) => !packets(proto::UDP).is_empty(),
            (Proto::Icmp, _) => {
                !packets(if pair.family == Family::V4 { proto::ICMP } else { proto::ICMPV6 }).is_empty()
            }
            (Proto::Arp | Proto::Nd, None) => {
                let question = neighbor::question(&pair.from, to);
                !capture.find(|frame| (Some(frame) == question.as_deref()).then_some(())).is_empty()
            }
            (Proto::Arp | Proto::Nd, Some(_)) => {
                let claim = |frame: &[u8]| neighbor::claimed_mac(frame, claimed.address);
                capture.find(claim).contains(&claimed.mac)
            }
        }
    }

    /// An ICMP error that the sender got about this very flow: type, code, MTU.
    fn icmp_error(&self, pair: &Pair, done: &Done, capture: &Capture) -> Option<(u8, u8, Option<u32>)> {
        let about = |frame: &[u8]| {
            let quoted = packet::quoted_ports(frame, pair.from.address, pair.to.address)?;
            let ours = done.source.is_none_or(|source| source == quoted.0)
                && self.expect.port.is_none_or(|port| port == quoted.1);
            packet::read_icmp_error(frame).filter(|_| ours)
        };
        capture.find(about).into_iter().next()
    }

    fn what(&self) -> String {
        let expect = &self.expect;
        let pair = match &self.kind {
            Kind::Traffic(pair) => pair,
            Kind::Command(_) => return expect.run.clone().unwrap_or_default().join(" "),
            Kind::Question(_, IpAddr::V4(_)) => return "arp on the underlay".into(),
            Kind::Question(_, IpAddr::V6(_)) => return "nd on the underlay".into(),
        };
        let mut parts = vec![match pair.proto {
            Proto::Tcp => "tcp".to_owned(),
            Proto::Udp => "udp".into(),
            Proto::Icmp => "icmp echo".into(),
            Proto::Arp => "arp".into(),
            Proto::Nd => "nd".into(),
        }];
        parts.extend(expect.port.map(|port| port.to_string()));
        if !matches!(pair.proto, Proto::Arp | Proto::Nd) {
            parts.push(if pair.family == Family::V4 { "IPv4".into() } else { "IPv6".into() });
        }
        parts.extend(expect.size.map(|size| format!("{size} bytes")));
        parts.extend(expect.bytes.map(|bytes| format!("{bytes} bytes")));
        parts.extend(pair.twin.as_ref().map(|(from, _)| format!("with {} at once", from.name)));
        parts.extend(expect.resume.as_ref().map(|_| "open connection".to_owned()));
        if let Some(Spoof { address, mac }) = &expect.spoof {
            parts.extend(address.as_ref().map(|name| format!("address of {name}")));
            parts.extend(mac.as_ref().map(|name| format!("MAC of {name}")));
        }
        parts.join(" ")
    }

    fn expected(&self) -> String {
        let expect = &self.expect;
        let outcome = match (expect.outcome, &expect.answered_by, &expect.shows) {
            (_, _, Some(shows)) => format!("shows {shows}"),
            (Outcome::Reach, Some(by), _) => format!("answered by {by}"),
            (Outcome::Reach, None, _) => "reach".into(),
            (Outcome::Refused, ..) => "refused".into(),
            (Outcome::Rejected, ..) => "rejected".into(),
            (Outcome::TooBig, ..) => format!("too big, MTU {}", expect.mtu.unwrap_or_default()),
        };
        let reason = expect.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        let at = expect.at.as_ref().map(|at| format!(" at {at}")).unwrap_or_default();
        format!("{outcome}{reason}{at}")
    }
}

impl Pair {
    /// None where the two do not have addresses of this family, or the expectation is not for it.
    fn new(
        expect: &Expect,
        (from, to): (&str, &str),
        family: Family,
        model: &Model,
        record: &Record,
    ) -> Result<Option<Self>, LabError> {
        let Some(proto) = expect.proto.filter(|proto| wants(expect, *proto, family)) else { return Ok(None) };
        let party = |name: &str| party(name, family, model, record);
        let (Some(from), Some(mut to)) = (party(from)?, party(to)?) else { return Ok(None) };
        let twin = match &expect.twin {
            Some(twin) => match (party(&twin.from)?, party(&twin.to)?) {
                (Some(from), Some(to)) => Some((from, to)),
                _ => return Ok(None),
            },
            None => None,
        };
        let mut claimed = from.clone();
        if let Some(name) = expect.spoof.as_ref().and_then(|spoof| spoof.address.as_deref()) {
            let Some(other) = party(name)? else { return Ok(None) };
            claimed.address = other.address;
        }
        if let Some(machine) =
            expect.spoof.as_ref().and_then(|spoof| model.machines.get(spoof.mac.as_deref()?))
        {
            claimed.mac = machine.mac;
        }
        let sender = model.machines.get(&from.name);
        if let Some(machine) = sender.filter(|machine| machine.is_told_by_mac() && expect.spoof.is_some()) {
            // To another machine's own MAC the segment's switch would carry nothing.
            to.mac = eastgate_steering::proxy_mac(machine.vni);
        }
        let vni = sender.map_or(0, |machine| machine.vni.get());
        Ok(Some(Self { from, to, vni, family, proto, twin, claimed }))
    }
}

fn wants(expect: &Expect, proto: Proto, family: Family) -> bool {
    let possible = match proto {
        Proto::Arp => family == Family::V4,
        Proto::Nd => family == Family::V6,
        _ => true,
    };
    possible && expect.family.is_none_or(|wanted| wanted == family)
}

fn party(name: &str, family: Family, model: &Model, record: &Record) -> Result<Option<Party>, LabError> {
    let Some(machine) = model.machines.get(name) else { return Ok(None) };
    let namespace = record.namespace(name)?;
    let of = |machine: &Machine| machine.address(family);
    Ok(of(machine).map(|address| Party { name: name.into(), namespace, mac: machine.mac, address }))
}

/// Whose a MAC is in a network: a machine's, or else that of something which answers in its place.
fn owner(model: &Model, vni: u32, mac: MacAddr) -> String {
    let mut machines = model.machines.iter().filter(|(_, machine)| machine.vni.get() == vni);
    let owner = machines.find(|(_, machine)| machine.mac == mac);
    owner.map_or_else(|| format!("proxy {mac}"), |(name, _)| name.clone())
}

fn is_echo_reply(frame: &[u8], from: &Party, to: &Party, id: u16) -> Option<()> {
    let view = eastgate_wire::View::parse(frame).ok()?;
    let ip = view.ip()?;
    let Transport::Icmp(icmp) = ip.transport else { return None };
    let reply = matches!((ip.proto, icmp.kind), (proto::ICMP, 0) | (proto::ICMPV6, 129));
    (reply && icmp.id == id && ip.src.to_ip() == from.address && ip.dst.to_ip() == to.address).then_some(())
}

fn has_data(view: &eastgate_wire::View) -> bool {
    matches!(view.net, Net::Ip(ip) if matches!(ip.transport, Transport::Tcp(tcp) if tcp.payload > 0))
}
