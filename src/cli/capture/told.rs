//! What became of a packet, as the daemon tells it: what it says of one like it, and what it has told of drops.

use std::{
    collections::{HashMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    net::IpAddr,
    time::{Duration, Instant},
};

use eastgate_api::{
    EndpointRow, EventRow, Events, Filter, FlowRow, Hex, List, Request, TraceReport, TraceRequest, TraceStep,
    Verdict,
};
use eastgate_vtep::header;
use eastgate_wire::{
    Addr, MacAddr, View, Vni, names,
    view::{Transport, ethertype},
};
use serde::Serialize;

use super::{Packet, parts};
use crate::{
    cli::{args::Ask, commands::ask, print::side},
    io::capture_socket::Captured,
};

/// What may become of a packet.
pub(super) const FORWARDED: &str = "forwarded";
pub(super) const ANSWERED: &str = "answered";
pub(super) const DROPPED: &str = "dropped";
const UNKNOWN: &str = "unknown";

/// How often the daemon is asked what it has dropped.
const HEAR: Duration = Duration::from_millis(250);
/// How far a drop that was told of and the packet that it was may lie apart, in milliseconds: what the kernel's programs refuse is asked
/// for once a second.
const APART: u64 = 1_200;
/// How long an answer is taken for packets that differ in nothing.
const VALID: Duration = Duration::from_secs(5);
/// The most answers, and the most drops, that are remembered.
const REMEMBERED: usize = 10_000;

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
struct Told {
    time_ms: u64,
    reason: String,
    because: Vec<String>,
}

/// What tells packets apart that the daemon tells apart: protocol, ends and ports.
type Kind = (u8, Addr, Addr, u16, u16);

/// Who asks the daemon.
pub(super) struct Teller {
    asking: Ask,
    /// The endpoints that are wanted on the underlay
    wanted: Vec<EndpointRow>,
    after: Option<String>,
    heard: Option<Instant>,
    told: HashMap<(Vni, Kind), Told>,
    known: HashMap<u64, (Instant, Fate)>,
    /// Why it does not answer, which is said once
    silent: Option<String>,
}

impl Teller {
    /// Of drops, what comes from now on.
    pub(super) fn new(asking: &Ask, wanted: Vec<EndpointRow>) -> Self {
        let mut this = Self {
            asking: asking.clone(),
            wanted,
            after: None,
            heard: None,
            told: HashMap::new(),
            known: HashMap::new(),
            silent: None,
        };
        this.hear();
        this
    }

    /// Is a frame from or to one of those that are wanted?
    pub(super) fn is_of(&self, frame: &[u8]) -> bool {
        let Ok(view) = View::parse(frame) else { return false };
        let ends = view.ip().map(|ip| [ip.src, ip.dst]);
        self.wanted.iter().any(|row| {
            [view.src, view.dst].contains(&row.mac)
                || ends.is_some_and(|ends| ends.iter().any(|end| row.addresses.contains(end)))
        })
    }

    /// Takes in which drops were told of, now and then.
    pub(super) fn hear(&mut self) {
        if self.heard.is_some_and(|heard| heard.elapsed() < HEAR) {
            return;
        }
        self.heard = Some(Instant::now());
        let limit = self.after.is_none().then_some(0);
        let dropped = Filter { verdict: Some(Verdict::Dropped), ..Filter::default() };
        let filter = Filter { limit, after: self.after.clone(), ..dropped };
        match ask::<Events>(&self.asking, &Request::Events(filter)) {
            Ok(answer) => {
                self.silent = None;
                self.after = Some(answer.next);
                if self.told.len() > REMEMBERED {
                    self.told.clear();
                }
                self.told.extend(answer.events.into_iter().filter_map(told));
            }
            Err(error) => {
                let why = error.to_string();
                if self.silent.as_ref() != Some(&why) {
                    eprintln!("eastgate: {why}\n  the capture goes on, without what became of packets");
                }
                self.silent = Some(why);
            }
        }
    }

    /// What became of a packet. In a hurry the daemon is asked about none that it was not asked about before.
    pub(super) fn tell(&mut self, packet: &Packet, in_hurry: bool) -> Fate {
        let mut fate = self.like_it(packet, in_hurry);
        if packet.is_of_port() && packet.captured.outgoing {
            // Whatever is said of one like it: this one was delivered.
            if fate.verdict != FORWARDED {
                fate.because.clear();
            }
            return Fate { verdict: FORWARDED, reason: None, ..fate };
        }
        if fate.verdict == DROPPED {
            return fate;
        }
        let at = u64::try_from(packet.captured.at.as_millis()).unwrap_or(u64::MAX);
        let kind = packet.vni.zip(kind(packet.frame()));
        match kind.and_then(|kind| self.told.get(&kind)).filter(|told| told.time_ms.abs_diff(at) <= APART) {
            Some(told) => Fate {
                verdict: DROPPED,
                reason: Some(told.reason.clone()),
                because: told.because.clone(),
                ..fate
            },
            None => fate,
        }
    }

    /// What the daemon says of a packet like this one.
    fn like_it(&mut self, packet: &Packet, in_hurry: bool) -> Fate {
        let key = packet.likeness();
        if let Some((_, fate)) = self.known.get(&key).filter(|(at, _)| at.elapsed() < VALID) {
            return fate.clone();
        }
        let words = in_words(packet.frame());
        let Some(vni) = packet.vni else { return Fate::unknown(words, "it is of no endpoint of this host") };
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
        let frame = Some(Hex(packet.frame().to_vec()));
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
}

impl Teller {
    /// The rules that have admitted the flow that a packet is of
    fn admitted(&self, vni: Vni, frame: &[u8]) -> Vec<String> {
        let Some((proto, src, dst, sport, dport)) = kind(frame) else { return Vec::new() };
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
    fn likeness(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.device, self.captured.outgoing, self.vni, &self.endpoint).hash(&mut hasher);
        let frame = self.frame();
        match View::parse(frame).ok().and_then(|view| view.ip().copied().map(|ip| (view, ip))) {
            Some((view, ip)) if ip.fragment.is_none() => {
                (view.src, view.dst, view.tags, view.tci, ip.proto, ip.src, ip.dst, ip.ports())
                    .hash(&mut hasher);
                frame.len().next_power_of_two().hash(&mut hasher);
                match ip.transport {
                    Transport::Icmp(icmp) => (icmp.kind, icmp.code).hash(&mut hasher),
                    Transport::Tcp(tcp) => tcp.flags.hash(&mut hasher),
                    _ => {}
                }
            }
            _ => frame.hash(&mut hasher),
        }
        hasher.finish()
    }
}

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

fn told(event: EventRow) -> Option<((Vni, Kind), Told)> {
    let proto = event.proto.as_deref().and_then(names::protocol_number)?;
    let kind = (proto, event.src?, event.dst?, event.sport, event.dport);
    let by = event.refused_by.map(|rule| format!("{} ({})", rule.rule, rule.at));
    let because = by.or(event.text).into_iter().collect();
    Some(((event.vni?, kind), Told { time_ms: event.time_ms, reason: event.reason?, because }))
}

fn kind(frame: &[u8]) -> Option<Kind> {
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
    let end = |address: Addr, port: u16| side(&address, if names::has_ports(ip.proto) { port } else { 0 });
    let more = match ip.transport {
        Transport::Icmp(icmp) => format!(" type {} code {}", icmp.kind, icmp.code),
        _ => String::new(),
    };
    let proto = names::protocol_name(ip.proto);
    format!("{proto} {} -> {}{more}", end(ip.src, sport), end(ip.dst, dport))
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

/// Of which network a frame of the underlay is, and where the tenant's frame begins in it.
pub(super) fn in_tunnel(frame: &[u8], vxlan: u16) -> Option<(Vni, usize)> {
    const UDP_LEN: usize = 8;
    let view = View::parse(frame).ok()?;
    let ip = view.ip().filter(|ip| ip.fragment.is_none() && matches!(ip.transport, Transport::Udp { .. }))?;
    let payload = usize::from(ip.l4) + UDP_LEN;
    (ip.ports().1 == vxlan).then_some(())?;
    let header = header::decode(frame.get(payload..)?).ok()?;
    Some((header.accept(true).ok()?, payload + header::VXLAN_LEN))
}

/// The endpoint of a device that a frame is from, or for.
pub(super) fn of_port<'r>(endpoints: &'r [EndpointRow], captured: &Captured) -> Option<&'r EndpointRow> {
    let view = View::parse(&captured.bytes);
    let bytes = captured.bytes.first_chunk::<12>()?;
    let [dst, src] = [bytes.first_chunk::<6>()?, bytes.last_chunk::<6>()?].map(|mac| MacAddr(*mac));
    let mac = if captured.outgoing { dst } else { src };
    let port = |row: &'r EndpointRow| row.port.as_deref().unwrap_or_default();
    if let [only] = endpoints
        && parts(port(only)).1.is_none()
        && !port(only).contains('/')
    {
        return Some(only);
    }
    let vlan = view.ok().filter(|view| view.tags > 0).map(|view| view.tci & 0x0fff).filter(|vlan| *vlan > 0);
    let mut fitting = endpoints.iter().filter(|row| {
        let is_at = parts(port(row)).1.map(|vlan| vlan.get()) == vlan;
        is_at && (!port(row).contains('/') || row.mac == mac)
    });
    fitting.next()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use eastgate_testkit::frames;
    use serde_json::json;

    use super::*;

    const MAC: [MacAddr; 2] = [MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2])];

    fn row(name: &str, port: &str, mac: MacAddr) -> EndpointRow {
        serde_json::from_value(json!({
            "vni": 5001, "endpoint": format!("acme/{name}"), "network": "acme/lan", "host": "alpha", "port": port, "mac": mac,
            "addresses": ["10.1.0.1"], "groups": [], "userspace": null, "tx_frames": 0, "rx_frames": 0,
        }))
        .unwrap()
    }

    /// From the first to the second, with a tag or none
    fn frame(outgoing: bool, vlan: Option<u16>) -> Captured {
        let [from, to] = MAC.map(|mac| mac.0);
        let tag = vlan.map(|vlan| [[0x81, 0], vlan.to_be_bytes()].concat()).unwrap_or_default();
        let bytes = [&to[..], &from, &tag, &[0x08, 0x06], &[0; 46]].concat();
        Captured { at: Duration::ZERO, outgoing, bytes }
    }

    #[test]
    fn a_frame_is_of_the_endpoint_that_its_tag_and_mac_say() {
        let name =
            |rows: &[EndpointRow], frame: &Captured| of_port(rows, frame).map(|row| row.endpoint.clone());
        let access = [row("one", "eth1", MAC[1])];
        assert_eq!(name(&access, &frame(false, None)).as_deref(), Some("acme/one"), "whatever MAC it takes");
        assert_eq!(
            name(&access, &frame(false, Some(9))).as_deref(),
            Some("acme/one"),
            "whatever tag it takes"
        );

        let trunk =
            [row("one", "eth1.101", MAC[0]), row("two", "eth1.102", MAC[1]), row("bare", "eth1", MAC[0])];
        assert_eq!(name(&trunk, &frame(false, Some(102))).as_deref(), Some("acme/two"));
        assert_eq!(
            name(&trunk, &frame(true, Some(0x2000 | 101))).as_deref(),
            Some("acme/one"),
            "of any priority"
        );
        assert_eq!(name(&trunk, &frame(false, None)).as_deref(), Some("acme/bare"));
        assert_eq!(name(&trunk, &frame(false, Some(103))), None);

        let at = |mac: MacAddr| format!("eth1.7/{mac}");
        let shared = [row("one", &at(MAC[0]), MAC[0]), row("two", &at(MAC[1]), MAC[1])];
        assert_eq!(name(&shared, &frame(false, Some(7))).as_deref(), Some("acme/one"), "who sends");
        assert_eq!(name(&shared, &frame(true, Some(7))).as_deref(), Some("acme/two"), "who is to receive");
        assert_eq!(name(&shared, &frame(false, None)), None);
    }

    #[test]
    fn what_is_wanted_is_in_the_frame() {
        let frame = frames::udp(1, 2, 4000, 53);
        let address = |last: u8| IpAddr::from([10, 1, 0, last]);
        let fits = |address, port, proto, mac| matches(&frame, address, port, proto, mac);
        assert!(fits(None, None, None, None) && fits(Some(address(2)), Some(53), Some(17), None));
        assert!(!fits(Some(address(3)), None, None, None) && !fits(None, Some(54), None, None));
        assert!(!fits(None, None, Some(6), None) && !fits(None, None, None, Some(MacAddr([9; 6]))));
        assert!(!matches(&[0; 9], None, Some(1), None, None));
        assert!(in_words(&frame).starts_with("udp 10.1.0.1:4000 -> 10.1.0.2:53"), "{}", in_words(&frame));
    }

    #[test]
    fn only_vxlan_of_this_site_is_in_the_tunnel() {
        let inner = frames::udp(1, 2, 4000, 53);
        let vni = Vni::new_checked(5001).unwrap();
        let payload = [&header::encode(vni)[..], &inner].concat();
        let builder =
            etherparse::PacketBuilder::ethernet2(MAC[0].0, MAC[1].0).ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64);
        let datagram = frames::udp_of(builder, 50_000, 4789, &payload);
        let (found, at) = in_tunnel(&datagram, 4789).unwrap();
        assert_eq!((found, &datagram[at..]), (vni, &inner[..]));
        assert_eq!(in_tunnel(&datagram, 8472), None);
        assert_eq!(in_tunnel(&inner, 53), None, "too short for a header");
        for len in 0..datagram.len().min(60) {
            assert_eq!(in_tunnel(&datagram[..len], 4789), None);
        }
    }
}
