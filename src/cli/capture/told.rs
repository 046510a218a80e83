//! What became of a packet, as the daemon tells it: what it says of one like it, and what it has told of drops.

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, Hasher, RandomState},
    net::IpAddr,
    time::{Duration, Instant},
};

use eastgate_api::{
    EndpointRow, EventKind, EventRow, Events, Filter, FlowRow, Hex, List, MAX_EVENTS, Request, TraceReport,
    TraceRequest, TraceStep, Verdict,
};
use eastgate_vtep::header;
use eastgate_wire::{
    Addr, FlowKey, Leg, MacAddr, OuterTag, View, VlanId, Vni, names,
    view::{Transport, ethertype},
};
use serde::Serialize;

use super::Packet;
use crate::{
    cli::{args::Ask, commands::ask},
    io::capture_socket::Captured,
};

/// What may become of a packet.
pub(super) const FORWARDED: &str = "forwarded";
pub(super) const ANSWERED: &str = "answered";
pub(super) const DROPPED: &str = "dropped";
const UNKNOWN: &str = "unknown";

/// How often the daemon is asked what it has dropped, and where it does not answer.
const HEAR: Duration = Duration::from_millis(250);
const HEAR_AGAIN: Duration = Duration::from_secs(2);
/// How far a drop that was told of and the packet that it was may lie apart, in milliseconds.
const APART: u64 = 100;
/// How long an answer is taken for packets that differ in nothing.
const VALID: Duration = Duration::from_secs(1);
/// The most answers, and the most drops, that are remembered.
const REMEMBERED: usize = 10_000;
/// Seconds that an answer may take
const PATIENCE: u64 = 3;
/// Questions about packets in a second: the daemon has others to answer.
const QUESTIONS: u32 = 100;

/// What became of a packet, and why.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(super) struct Fate {
    pub(super) verdict: &'static str,
    /// Of a drop: one of `eastgate drop-reasons`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    /// The packet, in words
    packet: String,
    /// What has decided: in words, with the place in the configuration
    pub(super) because: Vec<String>,
}

impl Fate {
    /// Whether it passed, where that is known
    pub(super) fn passed(&self) -> Option<bool> {
        match self.verdict {
            FORWARDED | ANSWERED => Some(true),
            DROPPED => Some(false),
            _ => None,
        }
    }

    fn unknown(packet: String, why: &str) -> Self {
        Self { verdict: UNKNOWN, reason: None, packet, because: vec![why.to_owned()] }
    }

    fn because(&self) -> String {
        self.because.iter().map(|text| format!("; {text}")).collect()
    }

    fn what(&self) -> String {
        let reason = self.reason.as_ref().map_or_else(String::new, |reason| format!(" {reason}"));
        format!("{}{reason}{}", self.verdict, self.because())
    }

    /// As a comment of the packet, which shows the packet itself
    pub(super) fn comment(&self, endpoint: Option<&str>) -> String {
        let whose = endpoint.map_or_else(String::new, |endpoint| format!("{endpoint}: "));
        format!("{whose}{}", self.what())
    }

    /// As a line
    pub(super) fn line(&self, endpoint: Option<&str>, delivered: bool) -> String {
        let way = if delivered { "to" } else { "from" };
        let whose = endpoint.map_or_else(String::new, |endpoint| format!("{way} {endpoint} "));
        format!("{whose}{}: {}", self.packet, self.what())
    }
}

/// A drop that the daemon has told of.
#[derive(Clone)]
struct Told {
    time_ms: u64,
    /// Rules did: what these say of later ones, is asked.
    by_rules: bool,
    reason: String,
    because: Vec<String>,
}

/// Those of a kind.
struct OfKind {
    /// Those that no packet was found for
    waiting: Vec<Told>,
    last: Told,
}

/// What tells packets apart that the daemon tells apart.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Kind {
    /// The port or the VTEP that they came from, where that is told
    from: Option<String>,
    /// Source and destination, where there is a frame of a tenant
    macs: Option<[MacAddr; 2]>,
    ends: Option<Ends>,
}

/// Protocol, ends and ports
type Ends = (u8, Addr, Addr, u16, u16);

/// Who asks the daemon.
pub(super) struct Teller {
    asking: Ask,
    /// The endpoints that are wanted on the underlay
    wanted: Vec<EndpointRow>,
    after: Option<String>,
    heard: Option<Instant>,
    told: HashMap<Kind, OfKind>,
    known: HashMap<u64, (Instant, Fate)>,
    hasher: RandomState,
    /// When this second of questions began, and how many there were
    questions: (Instant, u32),
    /// Why it does not answer, which is said once
    silent: Option<String>,
}

impl Teller {
    /// Of drops, what comes from now on.
    pub(super) fn new(asking: &Ask, wanted: Vec<EndpointRow>) -> Self {
        // Packets do not wait for a daemon that hangs.
        let asking = Ask { timeout: Some(PATIENCE), ..asking.clone() };
        let mut this = Self {
            asking,
            wanted,
            hasher: RandomState::new(),
            questions: (Instant::now(), 0),
            after: None,
            heard: None,
            told: HashMap::new(),
            known: HashMap::new(),
            silent: None,
        };
        this.hear();
        this
    }

    /// Is it an endpoint that is wanted?
    pub(super) fn wants(&self, row: &EndpointRow) -> bool {
        self.is_wanted(Some(row.vni), &row.endpoint)
    }

    /// Likewise, by its name
    pub(super) fn is_wanted(&self, vni: Option<Vni>, endpoint: &str) -> bool {
        self.wanted.iter().any(|row| vni == Some(row.vni) && row.endpoint == endpoint)
    }

    /// Is a frame of a network from or to one of those that are wanted?
    pub(super) fn is_of(&self, vni: Option<Vni>, frame: &[u8]) -> bool {
        let Ok(view) = View::parse(frame) else { return false };
        let ends = view.ip().map(|ip| [ip.src, ip.dst]);
        self.wanted.iter().filter(|row| vni == Some(row.vni)).any(|row| {
            [view.src, view.dst].contains(&row.mac)
                || ends.is_some_and(|ends| ends.iter().any(|end| row.addresses.contains(end)))
        })
    }

    /// Takes in which drops were told of, now and then.
    pub(super) fn hear(&mut self) {
        let pause = if self.silent.is_some() { HEAR_AGAIN } else { HEAR };
        if self.heard.is_none_or(|heard| heard.elapsed() >= pause) {
            self.hear_now();
        }
    }

    /// The same at once: all that has been told of so far.
    pub(super) fn hear_now(&mut self) {
        loop {
            self.heard = Some(Instant::now());
            let limit = self.after.is_none().then_some(0);
            let dropped = Filter { verdict: Some(Verdict::Dropped), ..Filter::default() };
            let filter = Filter { limit, after: self.after.clone(), ..dropped };
            match ask::<Events>(&self.asking, &Request::Events(filter)) {
                Ok(answer) => {
                    self.silent = None;
                    let is_last = self.after.is_none() || answer.events.len() < MAX_EVENTS;
                    if answer.lost > 0 {
                        let lost = names::count(answer.lost, "drop");
                        eprintln!("eastgate: {lost} were not told of: they came too fast");
                    }
                    self.after = Some(answer.next);
                    answer.events.into_iter().for_each(|event| self.note(event));
                    if is_last {
                        return;
                    }
                }
                Err(error) => {
                    let why = error.to_string();
                    if self.silent.as_ref() != Some(&why) {
                        eprintln!("eastgate: {why}\n  the capture goes on, without what became of packets");
                    }
                    self.silent = Some(why);
                    // The next daemon numbers its events anew.
                    self.after = None;
                    return;
                }
            }
        }
    }

    fn note(&mut self, event: EventRow) {
        let Some((kind, told)) = told(event) else { return };
        if let Some(known) = self.told.get_mut(&kind) {
            known.waiting.push(told.clone());
            known.last = told;
        } else if self.told.len() < REMEMBERED {
            self.told.insert(kind, OfKind { waiting: vec![told.clone()], last: told });
        }
    }

    /// May the daemon be asked about one more packet now?
    pub(super) fn may_ask(&mut self) -> bool {
        if self.questions.0.elapsed() >= Duration::from_secs(1) {
            self.questions = (Instant::now(), 0);
        }
        self.questions.1 < QUESTIONS
    }

    /// What became of a packet. In a hurry the daemon is asked about none that it was not asked about before.
    pub(super) fn tell(&mut self, packet: &Packet, in_hurry: bool) -> Fate {
        let mut fate = self.like_it(packet, in_hurry);
        if packet.captured.outgoing {
            // Whatever is said of one like it: this one has left.
            if fate.verdict == DROPPED && !packet.is_of_port() {
                let reason = fate.reason.take().unwrap_or_default();
                fate.because.insert(0, format!("the next host will say {reason}"));
            } else if fate.verdict != FORWARDED {
                fate.because.clear();
            }
            return Fate { verdict: FORWARDED, reason: None, ..fate };
        }
        let at = u64::try_from(packet.captured.at.as_millis()).unwrap_or(u64::MAX);
        let kinds = packet.kinds();
        // What was told of it itself counts before what is said of one like it.
        if let Some(Told { reason, because, .. }) = self.take_told(&kinds, at) {
            return Fate { verdict: DROPPED, reason: Some(reason), because, ..fate };
        }
        let Some(last) = kinds.iter().flatten().find_map(|kind| self.told.get(kind)).map(|told| &told.last)
        else {
            return fate;
        };
        match fate.verdict {
            // The rule and its place as they are counted.
            DROPPED if last.by_rules && Some(&last.reason) == fate.reason.as_ref() => {
                Fate { because: last.because.clone(), ..fate }
            }
            DROPPED => fate,
            _ if last.by_rules => fate,
            // Of a kind the first alone is told.
            _ => Fate {
                verdict: UNKNOWN,
                because: vec![format!(
                    "rules let it pass, and packets like it were dropped ({}): `eastgate show drops` counts them",
                    last.reason
                )],
                ..fate
            },
        }
    }

    /// The drop of one of these kinds that was told of at this time, if there was one. It is no other packet's then.
    fn take_told(&mut self, kinds: &[Option<Kind>], at: u64) -> Option<Told> {
        let apart = |told: &Told| told.time_ms.abs_diff(at);
        let nearest = |kind: &Kind| {
            let waiting = &self.told.get(kind)?.waiting;
            let (index, told) = waiting.iter().enumerate().min_by_key(|(_, told)| apart(told))?;
            (apart(told) <= APART).then(|| (apart(told), index))
        };
        let found = kinds.iter().flatten().filter_map(|kind| Some((nearest(kind)?, kind)));
        let ((_, index), kind) = found.min_by_key(|((apart, _), _)| *apart)?;
        Some(self.told.get_mut(kind)?.waiting.swap_remove(index))
    }

    /// What the daemon says of a packet like this one.
    fn like_it(&mut self, packet: &Packet, in_hurry: bool) -> Fate {
        let key = packet.likeness(&self.hasher);
        if let Some((_, fate)) = self.known.get(&key).filter(|(at, _)| at.elapsed() < VALID) {
            return fate.clone();
        }
        let words = in_words(packet.frame());
        let Some(vni) = packet.vni else {
            return Fate::unknown(words, "it is of no endpoint of this host, and of no network");
        };
        if self.silent.is_some() {
            return Fate::unknown(words, "no daemon answers");
        }
        if in_hurry {
            return Fate::unknown(
                words,
                "it was not asked about: there are too many kinds of packets at a time",
            );
        }
        let nobody = Addr::v4([0; 4]);
        let from = packet.endpoint.clone().filter(|_| !packet.captured.outgoing);
        let frame = Some(Hex(packet.as_sent()));
        let request = TraceRequest {
            vni,
            frame,
            proto: 0,
            src: nobody,
            dst: nobody,
            sport: 0,
            dport: 0,
            icmp: None,
            from,
        };
        let mut fate = match ask::<TraceReport>(&self.asking, &Request::Trace(request)) {
            Ok(report) => of_trace(words, &report),
            Err(error) => Fate::unknown(words, &error.to_string()),
        };
        if fate.verdict == FORWARDED && fate.because.is_empty() {
            // Nothing was decided about it: it is of a flow that lives.
            fate.because = self.admitted(vni, packet.frame());
        }
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        self.known.insert(key, (Instant::now(), fate.clone()));
        fate
    }

    /// The rules that have admitted the flow that a packet is of
    fn admitted(&self, vni: Vni, frame: &[u8]) -> Vec<String> {
        let Some((proto, src, dst, sport, dport)) = ends(frame) else { return Vec::new() };
        let filter = Filter {
            vni: Some(vni),
            address: Some(src.to_ip()),
            port: names::has_ports(proto).then_some(sport),
            proto: Some(proto),
            ..Filter::default()
        };
        let Ok(flows) = ask::<List<FlowRow>>(&self.asking, &Request::Flows(filter)) else {
            return Vec::new();
        };
        let ends = [(src, sport), (dst, dport)];
        let is_its = |row: &&FlowRow| {
            let row = [(row.src, row.sport), (row.dst, row.dport)];
            row == ends || row == [ends[1], ends[0]]
        };
        let rules = flows.rows.iter().filter(is_its).flat_map(|row| [&row.egress_rule, &row.ingress_rule]);
        rules.flatten().map(|rule| format!("{} ({})", rule.rule, rule.at)).collect()
    }
}

impl Packet {
    /// The same for packets that nothing is told apart in.
    fn likeness(&self, hasher: &RandomState) -> u64 {
        let mut hasher = hasher.build_hasher();
        (self.device, self.captured.outgoing, self.vni, &self.endpoint).hash(&mut hasher);
        let frame = self.frame();
        match View::parse(frame).ok().and_then(|view| view.ip().copied().map(|ip| (view, ip))) {
            Some((view, ip)) if ip.fragment.is_none() && names::has_ports(ip.proto) => {
                (view.src, view.dst, view.tags, view.tci, ip.proto, ip.src, ip.dst, ip.ports())
                    .hash(&mut hasher);
                (ip.tos >> 2, frame.len().next_power_of_two()).hash(&mut hasher);
                if let Transport::Tcp(tcp) = ip.transport {
                    tcp.flags.hash(&mut hasher);
                }
            }
            // Neighbours' addresses and what errors quote stand in what others would call the payload.
            _ => frame.hash(&mut hasher),
        }
        hasher.finish()
    }

    /// Of which kinds a drop of it may be, the closest one first: of some, nothing but where they came from is told, of those that could not be
    /// delivered all but that.
    fn kinds(&self) -> [Option<Kind>; 4] {
        let from = self.from.clone();
        let view = View::parse(self.frame()).ok().filter(|_| self.vni.is_some() || self.is_of_port());
        let macs = view.map(|view| [view.src, view.dst]);
        let ends = ends(self.frame());
        let of_place = from.clone().map(|from| Kind { from: Some(from), macs: None, ends: None });
        let close = |from, ends| macs.map(|macs| Kind { from, macs: Some(macs), ends });
        [close(from.clone(), ends), close(from, None), of_place, close(None, ends)]
    }

    /// The tenant's frame as whoever sent it did: what leaves by a VLAN of a trunk had no such tag.
    fn as_sent(&self) -> Vec<u8> {
        let frame = self.frame();
        match frame.split_at_checked(MACS) {
            Some((macs, rest)) if self.tagged && self.captured.outgoing => {
                [macs, rest.get(TAG..).unwrap_or_default()].concat()
            }
            _ => frame.to_vec(),
        }
    }
}

/// Bytes of the two MACs of a frame, and of a tag behind them
const MACS: usize = 12;
const TAG: usize = 4;

fn of_trace(packet: String, report: &TraceReport) -> Fate {
    let (verdict, reason) = match &*report.verdict {
        "forwarded" => (FORWARDED, None),
        "answered" => (ANSWERED, None),
        // A later fragment: what became of the first, nobody knows here.
        "waits" => (UNKNOWN, None),
        reason => (DROPPED, Some(reason.to_owned())),
    };
    let has_decided = |step: &&TraceStep| {
        let explains = match verdict {
            FORWARDED => step.step.starts_with("decide"),
            ANSWERED => step.step == "answer",
            UNKNOWN => step.step == "track",
            _ => false,
        };
        step.result == "drop" || explains
    };
    let because = report.steps.iter().filter(has_decided).map(|step| {
        let at = step.at.as_ref().map_or_else(String::new, |at| format!(" ({at})"));
        format!("{}{at}", step.text)
    });
    Fate { verdict, reason, packet, because: because.collect() }
}

fn told(event: EventRow) -> Option<(Kind, Told)> {
    let proto = event.proto.as_deref().and_then(names::protocol_number);
    let ends = proto.and_then(|proto| Some((proto, event.src?, event.dst?, event.sport, event.dport)));
    let macs = event.src_mac.and_then(|src| Some([src, event.dst_mac?]));
    let kind = Kind { from: event.from, macs, ends };
    let by_rules = event.event == EventKind::Denied;
    let by = event.refused_by.map(|rule| format!("{} ({})", rule.rule, rule.at));
    let because = by.or(event.text).into_iter().collect();
    Some((kind, Told { time_ms: event.time_ms, by_rules, reason: event.reason?, because }))
}

fn ends(frame: &[u8]) -> Option<Ends> {
    let view = View::parse(frame).ok()?;
    let ip = view.ip()?;
    let (sport, dport) = ip.ports();
    Some((ip.proto, ip.src, ip.dst, sport, dport))
}

/// Protocol and ends, or what the frame is.
fn in_words(frame: &[u8]) -> String {
    let Ok(view) = View::parse(frame) else { return format!("a damaged frame of {} bytes", frame.len()) };
    let Some(ip) = view.ip() else {
        let what = match view.ethertype {
            ethertype::ARP => "arp".to_owned(),
            other => format!("ethertype {other:#06x}"),
        };
        return format!("{what} {} -> {}", view.src, view.dst);
    };
    let (sport, dport) = ip.ports();
    let (vni, leg) = (Vni::from_wire([0; 3]), Leg::DIRECT);
    let packet =
        names::packet(&FlowKey { src: ip.src, dst: ip.dst, vni, sport, dport, proto: ip.proto, leg });
    match ip.transport {
        Transport::Icmp(icmp) => format!("{packet} type {} code {}", icmp.kind, icmp.code),
        _ => packet,
    }
}

/// Whether a frame has these on either side.
pub(super) fn matches(
    frame: &[u8],
    address: Option<IpAddr>,
    port: Option<u16>,
    proto: Option<u8>,
    mac: Option<MacAddr>,
) -> bool {
    if (address, port, proto, mac) == (None, None, None, None) {
        return true;
    }
    let Ok(view) = View::parse(frame) else { return false };
    let ip = view.ip();
    mac.is_none_or(|mac| [view.src, view.dst].contains(&mac))
        && address.is_none_or(|wanted| ip.is_some_and(|ip| [ip.src, ip.dst].contains(&wanted.into())))
        && proto.is_none_or(|wanted| ip.is_some_and(|ip| ip.proto == wanted))
        && port.is_none_or(|wanted| {
            ip.is_some_and(|ip| names::has_ports(ip.proto) && <[u16; 2]>::from(ip.ports()).contains(&wanted))
        })
}

/// A datagram of VXLAN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tunnelled {
    /// The VTEP that has sent it
    pub(super) from: IpAddr,
    /// The network that it names; none where it has no header that could
    pub(super) vni: Option<Vni>,
    /// Where the tenant's frame begins
    pub(super) inner: usize,
}

/// Of which network a frame of the underlay is, and where the tenant's frame begins in it. What comes in is for the VTEP here, or for many.
pub(super) fn in_tunnel(captured: &Captured, port: u16, vtep: IpAddr) -> Option<Tunnelled> {
    const UDP_LEN: usize = 8;
    let view = View::parse(&captured.bytes).ok()?;
    let ip = view.ip().filter(|ip| ip.fragment.is_none() && matches!(ip.transport, Transport::Udp { .. }))?;
    let is_ours = captured.outgoing || ip.dst == vtep.into() || ip.dst.to_ip().is_multicast();
    let payload = usize::from(ip.l4) + UDP_LEN;
    (is_ours && ip.ports().1 == port).then_some(())?;
    // Whether reserved bits are refused, each network says.
    let header = captured.bytes.get(payload..).map(header::decode);
    let vni = header.and_then(|header| header.ok()?.accept(false).ok());
    (vni.is_some() || !captured.outgoing).then_some(())?;
    let inner = payload + if vni.is_some() { header::VXLAN_LEN } else { 0 };
    Some(Tunnelled { from: ip.src.to_ip(), vni, inner })
}

/// An endpoint of a device, with what tells its frames apart there.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    pub(super) row: EndpointRow,
    /// Its tag
    pub(super) vlan: Option<VlanId>,
    /// Others are at the same place, and it is known by its MAC.
    pub(super) is_shared: bool,
}

/// The endpoint of a device that a frame is from, or for.
pub(super) fn of_port<'p>(endpoints: &'p [Placed], captured: &Captured) -> Option<&'p Placed> {
    let macs = captured.bytes.first_chunk::<MACS>()?;
    let [dst, src] = [macs.first_chunk::<6>()?, macs.last_chunk::<6>()?].map(|mac| MacAddr(*mac));
    let mac = if captured.outgoing { dst } else { src };
    if let [only] = endpoints
        && only.vlan.is_none()
        && !only.is_shared
    {
        return Some(only);
    }
    let tag = View::parse(&captured.bytes).ok().filter(|view| view.tags > 0).and_then(|view| {
        let kind = captured.bytes.get(MACS..)?.first_chunk()?;
        Some((u16::from_be_bytes(*kind), view.tci))
    });
    let tag = OuterTag::of(tag);
    endpoints.iter().find(|it| {
        let is_at = match it.vlan {
            Some(vlan) => tag == OuterTag::Vlan(vlan),
            None => tag == OuterTag::Untagged,
        };
        is_at && (!it.is_shared || it.row.mac == mac)
    })
}
