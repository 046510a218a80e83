//! A packet, walked through the path step by step to its verdict.
//!
//! The verdict is that of the real path: a frame, built for the purpose or given, goes through it on copies of the tables (`dry`),
//! on every host that it comes to. The steps tell it with the naive form of the policy, which says which rule matched and which
//! came close. It changes nothing and sends nothing.

mod dry;
mod given;
mod packet;
mod remedy;
mod tell;

pub use eastgate_api::{Remedy, TraceReport, TraceRequest, TraceStep};
use eastgate_config as config;
use eastgate_conntrack::{expect::Expectation, flow::FlowInfo};
use eastgate_wire::{
    Addr, DropReason, FlowKey, Instant, Leg, Location, MacAddr, Offload, names, view::proto,
};

use self::{
    dry::{Dry, Entry, Opened},
    given::Given,
    packet::Shape,
    remedy::Denied,
};
use crate::{
    pipeline::shared::lock,
    snapshot::{Endpoint, Network, Snapshot},
};

/// Rules, addresses and receivers that are shown at most.
const CLOSE_CALLS: usize = 3;
const RECEIVERS: usize = 8;

/// What is known of flows at the moment.
#[derive(Clone, Copy)]
pub struct Live<'a> {
    /// Those between two addresses of a network, of a protocol
    pub flows: &'a dyn Fn(&FlowKey) -> Vec<FlowInfo>,
    /// What a helper expects that a packet would begin
    pub expected: &'a dyn Fn(&FlowKey) -> Option<Expectation>,
}

impl Live<'_> {
    /// Nothing
    pub const NOTHING: Live<'static> = Live { flows: &|_| Vec::new(), expected: &|_| None };
}

/// Walks a packet.
///
/// # Errors
/// When the packet makes no sense: no such network, addresses of two families, a frame without a header.
pub fn trace(
    snapshot: &Snapshot,
    request: &TraceRequest,
    live: Live<'_>,
    now: Instant,
) -> Result<TraceReport, String> {
    let mut walked = walk(snapshot, request, live, now)?;
    if let Some(network) = snapshot.network(request.vni) {
        walked.report.to_pass = remedy::find(snapshot, network, request, &walked, now);
    }
    Ok(walked.report)
}

/// What a walk has come to.
struct Walked {
    report: TraceReport,
    /// What was asked about: of a frame, what stands in it
    asked: TraceRequest,
    /// Whose rules have refused the packet
    denied: Option<Denied>,
}

fn walk(snapshot: &Snapshot, request: &TraceRequest, live: Live<'_>, now: Instant) -> Result<Walked, String> {
    let network = snapshot.network(request.vni).ok_or_else(|| {
        let known: Vec<String> = snapshot.networks().iter().map(|n| n.vni.to_string()).take(20).collect();
        format!(
            "host {} has no part in VNI {}; it has part in: {}",
            snapshot.host,
            request.vni,
            known.join(", ")
        )
    })?;
    let given = request.frame.as_ref().map(|frame| Given::read(&frame.0)).transpose()?;
    let request = &given.as_ref().map_or_else(|| request.clone(), |given| given.request(request));
    if request.src.family() != request.dst.family() {
        return Err("source and destination are of different families".into());
    }
    let given = given.as_ref();
    let mut walk = Walk {
        snapshot,
        network,
        request,
        given,
        now,
        expected: None,
        unreplied: false,
        steps: Vec::new(),
        denied: None,
        is_live: false,
    };
    let verdict = walk.run(live)?;
    let key = walk.key();
    let packet = given.map_or_else(|| names::packet(&key), |given| given.text(&key));
    let packet = format!("vni {} {packet}", request.vni);
    let report = TraceReport { packet, steps: walk.steps, verdict, to_pass: Vec::new() };
    let denied = walk.denied.take();
    Ok(Walked { report, asked: request.clone(), denied })
}

struct Walk<'a> {
    snapshot: &'a Snapshot,
    network: &'a Network,
    request: &'a TraceRequest,
    /// The very frame, where there is one
    given: Option<&'a Given>,
    now: Instant,
    /// What a helper expects that the packet would begin
    expected: Option<Expectation>,
    /// This host has let out the flow that it is of, and nobody has replied to it.
    unreplied: bool,
    steps: Vec<TraceStep>,
    denied: Option<Denied>,
    /// It is of a flow that lives.
    is_live: bool,
}

/// Who sends the packet.
struct Sender<'a> {
    endpoint: Option<&'a Endpoint>,
    mac: MacAddr,
    /// It could be others: said where it is a guess
    guess: Option<String>,
}

impl<'a> Walk<'a> {
    fn key(&self) -> FlowKey {
        let TraceRequest { vni, proto, src, dst, sport, dport, .. } = *self.request;
        FlowKey { src, dst, vni, sport, dport, proto, leg: Leg::DIRECT }
    }

    /// The verdict.
    fn run(&mut self, live: Live<'_>) -> Result<String, String> {
        let sender = match self.given {
            Some(given) => self.sender_of(given)?,
            None => self.sender()?,
        };
        let entry = self.entry(&sender);
        let flow = self.flow(live);
        if flow.is_none() {
            self.expected = (live.expected)(&self.key());
        }
        // The next host may have refused it: it is decided as its first packet was.
        self.unreplied = flow.as_ref().is_some_and(|flow| !self.is_on_all_hosts(flow));
        let flow = flow.filter(|_| !self.unreplied);
        let shape = self.shape(&sender, flow.as_ref().map(|flow| flow.key));
        let opened = flow.and_then(|info| {
            let numbers = self.given.and_then(|given| given.numbers(&info.key)).unwrap_or(packet::NUMBERS);
            let frames = packet::opening(&info.key, &|address| self.mac_of(address), numbers)?;
            let addresses = [info.key.src, info.key.dst];
            let ends = addresses.map(|address| self.network.by_address(address));
            let since = self.network.decided_since(ends, addresses);
            Some(Opened { info, frames, current: info.epoch >= since })
        });
        let (frame, offload) = match self.given {
            Some(given) => {
                let port = sender.endpoint.and_then(|endpoint| self.attachment_of(endpoint));
                given.at_port(port.and_then(|port| port.vlan))
            }
            None => {
                let frame = shape.build().map_err(|error| format!("there is no such packet: {error}"))?;
                (frame, Offload::default())
            }
        };
        let live = opened.clone().filter(|opened| packet::is_of(&frame, &opened.info.key));
        let mut dry = Dry::new(self.snapshot, self.network, opened, self.expected, self.now);
        let fate = dry.carry(entry, &frame, offload)?;
        self.tell(&sender, &frame, live.as_ref(), &fate);
        Ok(match fate.drops.first() {
            _ if fate.arrived() && fate.is_answered_only() => "answered".to_owned(),
            _ if fate.arrived() => "forwarded".to_owned(),
            Some((_, reason)) => reason.name().to_owned(),
            None if fate.waits => "waits".to_owned(),
            None => DropReason::NoPeer.name().to_owned(),
        })
    }

    /// Whether a flow of this host is one of every host on its way, as far as can be told.
    fn is_on_all_hosts(&self, flow: &FlowInfo) -> bool {
        let asked = self.request;
        // What is not of the way it was opened says that the other end has seen it.
        let same_port = flow.key.sport == asked.sport || !names::has_ports(asked.proto);
        let opens = (flow.key.src, flow.key.proto) == (asked.src, asked.proto) && same_port;
        let receiver = self.network.at_address(flow.key.dst);
        let ends_here = receiver.is_some_and(|(endpoint, _)| endpoint.enforced_here);
        flow.replied || flow.reply.packets > 0 || !opens || ends_here
    }

    /// The packet that is asked about, as its sender sends it.
    fn shape(&self, sender: &Sender<'a>, flow: Option<FlowKey>) -> Shape<'a> {
        let dst = self.request.dst;
        Shape {
            request: self.request,
            macs: [self.towards(dst, sender), sender.mac],
            target: self.of_group(dst),
            flow,
        }
    }

    /// Who sends a frame: whose MAC it is from, and else as its addresses say.
    fn sender_of(&self, given: &Given) -> Result<Sender<'a>, String> {
        if self.request.from.is_some() {
            return self.sender();
        }
        let (network, [_, mac]) = (self.network, given.macs());
        let has_it = |endpoint: &&Endpoint| endpoint.holdings().has_mac(mac);
        let by_address = || network.at_address(self.request.src).map(|(endpoint, _)| endpoint).filter(has_it);
        if let Some(endpoint) = network.by_mac(mac).or_else(by_address) {
            return Ok(Sender { endpoint: Some(endpoint), mac, guess: None });
        }
        let all: Vec<&Endpoint> = network.endpoints().filter(has_it).collect();
        if let Some(first) = all.first() {
            let guess = (all.len() > 1).then(|| may_be_others(all.len()));
            return Ok(Sender { endpoint: Some(first), mac, guess });
        }
        if let Some(at) = lock(&network.state.fdb).lookup(mac, self.now) {
            let endpoint = match at {
                Location::Local(_) => network.endpoints().find(|endpoint| endpoint.location == at),
                Location::Remote(_) => network.nested_behind(at),
            };
            if endpoint.is_some() || network.learning {
                return Ok(Sender { endpoint, mac, guess: None });
            }
        }
        if mac == network.proxy_mac {
            let guess =
                format!("{mac} is the appliance's own MAC: this is what it sent, and not what came to it");
            return Ok(Sender { guess: Some(guess), ..self.sender()? });
        }
        let sender = self.sender()?;
        let dropped = match sender.endpoint.filter(|endpoint| endpoint.shared.is_some()) {
            Some(_) => ", though on its shared segment that is dropped as unknown-station",
            None => "",
        };
        let guess = format!(
            "nobody is known to have the MAC {mac}: taken for this one{dropped}; --from NAME says who sends it"
        );
        Ok(Sender { guess: Some(guess), ..sender })
    }

    /// The flow that the packet may be of, or that a message about a failure may be about. A query without an identifier is
    /// of whichever there is between the two.
    fn flow(&self, live: Live<'_>) -> Option<FlowInfo> {
        if let Some(key) = self.given.and_then(|given| given.flow(self.request.vni)) {
            let is_it = |flow: &FlowInfo| {
                let ends = |it: &FlowKey| (it.proto, it.src, it.dst, it.sport, it.dport);
                [flow.key, flow.key.reversed()].iter().any(|it| ends(it) == ends(&key))
            };
            return (live.flows)(&key).into_iter().find(is_it);
        }
        let key = self.key();
        let is_icmp = matches!(key.proto, proto::ICMP | proto::ICMPV6);
        let mut found = (live.flows)(&key);
        found.sort_by_key(|flow| std::cmp::Reverse(flow.last_seen));
        let same = |flow: &FlowInfo| {
            let other = flow.key.reversed();
            let ports = |one: &FlowKey| (one.src, one.sport, one.dport) == (key.src, key.sport, key.dport);
            flow.key.proto == key.proto && (ports(&flow.key) || ports(&other))
        };
        let kind = self.request.icmp.map_or(8, |(kind, _)| kind);
        let is_error =
            if key.proto == proto::ICMP { matches!(kind, 3 | 4 | 11 | 12) } else { matches!(kind, 1..=4) };
        match is_icmp {
            true if is_error => found.first().copied(),
            // An answer goes the other way than the question did.
            true => found.into_iter().find(|flow| {
                let answers = matches!((key.proto, kind), (proto::ICMP, 0) | (proto::ICMPV6, 129));
                flow.key.proto == key.proto && (flow.key.src == key.dst) == answers
            }),
            false => found.into_iter().find(same),
        }
    }

    /// Who sends it: who has the address, has said that it does, or may; where that is nobody, the first endpoint of this host.
    fn sender(&self) -> Result<Sender<'a>, String> {
        let (network, src) = (self.network, self.request.src);
        if let Some(name) = &self.request.from {
            let name = name.strip_prefix(&format!("{}/", network.tenant.name)).unwrap_or(name);
            let named = network.endpoints().find(|endpoint| *endpoint.name == *name);
            let endpoint = named.ok_or_else(|| format!("{} has no endpoint {name}", network.name))?;
            return Ok(Sender {
                endpoint: Some(endpoint),
                mac: own_mac(network, endpoint, src),
                guess: None,
            });
        }
        if let Some((endpoint, mac)) = network.at_address(src) {
            return Ok(Sender { endpoint: Some(endpoint), mac, guess: None });
        }
        if let Some(binding) = self.learned(src) {
            let at_attachment = |endpoint: &&Endpoint| match binding.at {
                Location::Local(_) => endpoint.location == binding.at,
                Location::Remote(_) => {
                    endpoint.location == binding.at && endpoint.holdings().has_mac(binding.mac)
                }
            };
            let endpoint = network.endpoints().find(at_attachment);
            return Ok(Sender { endpoint, mac: binding.mac, guess: None });
        }
        let entitled: Vec<&Endpoint> =
            network.endpoints().filter(|endpoint| may_send(network, endpoint, src)).collect();
        if let Some(first) = entitled.first() {
            let guess = (entitled.len() > 1).then(|| may_be_others(entitled.len()));
            return Ok(Sender { endpoint: Some(first), mac: own_mac(network, first, src), guess });
        }
        if network.learning && !src.is_unspecified() {
            return Ok(Sender { endpoint: None, mac: UNKNOWN_HOST, guess: None });
        }
        let client = |endpoint: &&Endpoint| !endpoint.sender.dhcp_server && !endpoint.sender.router;
        let mut here = network.endpoints().filter(|endpoint| endpoint.attachment().is_some());
        let any = here.clone().find(client).or_else(|| here.next()).or_else(|| network.endpoints().next());
        let any = any.ok_or_else(|| {
            format!("{} has no endpoints: there is nobody who could send this", network.name)
        })?;
        let guess = if src.is_unspecified() {
            "the sender has no address yet: taken for this one; --from NAME says who it is".to_owned()
        } else {
            format!("nobody is known to have {src}: taken for this one; --from NAME says who sends it")
        };
        Ok(Sender { endpoint: Some(any), mac: any.mac, guess: Some(guess) })
    }

    /// Where it comes in: at the sender's port, or through the tunnel from a host where nothing looks at it.
    fn entry(&self, sender: &Sender<'a>) -> Entry {
        let hosts = &self.snapshot.config.hosts;
        let home = sender.endpoint.and_then(|endpoint| self.host_of(endpoint));
        if let (Some(endpoint), Some(host)) = (sender.endpoint, home)
            && host.runs_eastgate()
        {
            return Entry::Port { host: host.name.clone(), mac: endpoint.mac };
        }
        let receiver =
            self.network.config().and_then(|config| config.hub.as_ref()).map(|hub| hub.host.clone());
        let receiver = receiver.or_else(|| {
            let at = self.network.at_address(self.request.dst);
            let at = at.and_then(|(endpoint, _)| self.host_of(endpoint))?;
            at.runs_eastgate().then(|| at.name.clone())
        });
        let receiver = receiver.unwrap_or_else(|| self.snapshot.host.clone());
        let learned = self.learned(self.request.src).map(|binding| binding.at);
        let other = || {
            let members =
                self.network.config().into_iter().flat_map(|config| self.snapshot.config.members(config));
            members.filter(|member| member.name != receiver).min_by_key(|member| member.runs_eastgate())
        };
        let from = match (home, learned) {
            (Some(host), _) => host.vtep,
            (None, Some(Location::Remote(vtep))) => vtep,
            _ => other().map_or(self.snapshot.vtep, |member| member.vtep),
        };
        debug_assert!(hosts.contains_key(&receiver));
        Entry::Tunnel { host: receiver, from }
    }

    /// The MAC that its sender sends it to, as ARP and ND would have told it.
    fn towards(&self, dst: Addr, sender: &Sender<'a>) -> MacAddr {
        let network = self.network;
        if let Some(mac) = group_mac(network, dst) {
            return mac;
        }
        let local = network.is_on_link(dst);
        let found = |mac: MacAddr| if network.proxy { network.proxy_mac } else { mac };
        if let Some(mac) = self.owner_mac(dst) {
            return found(mac);
        }
        if local {
            return NOBODY;
        }
        self.router_for(dst, sender.endpoint).map_or(NOBODY, |endpoint| found(endpoint.mac))
    }

    /// What is elsewhere goes by a router: the one that has it behind it, or that says it is one.
    fn router_for(&self, dst: Addr, own: Option<&Endpoint>) -> Option<&'a Endpoint> {
        let network = self.network;
        let others = || network.endpoints().filter(|endpoint| own.is_none_or(|own| own.id != endpoint.id));
        let behind = others().find(|endpoint| may_send(network, endpoint, dst));
        behind.or_else(|| others().find(|endpoint| endpoint.sender.router))
    }

    /// The MAC of who has an address now.
    fn owner_mac(&self, address: Addr) -> Option<MacAddr> {
        let network = self.network;
        let held = network.at_address(address).map(|(_, mac)| mac);
        held.or_else(|| self.learned(address).map(|binding| binding.mac)).or_else(|| {
            // Of several that share it none has said that it is there: for the packet they are alike.
            let first = network.endpoint(*network.directory.ownership.sharers(address).first()?)?;
            Some(own_mac(network, first, address))
        })
    }

    /// The address of an endpoint whose solicited-node group this is (RFC 4291 section 2.7.1).
    fn of_group(&self, group: Addr) -> Option<Addr> {
        let mut all = self.network.endpoints().flat_map(|endpoint| &endpoint.holdings().addresses);
        let low = |address: Addr| address.bits() & 0xff_ffff;
        let is_group = group.is_multicast() && !group.is_v4();
        let known = all.find(|address| is_group && !address.is_v4() && low(**address) == low(group)).copied();
        // Nobody's: one like the asker's own.
        let like_own = Addr::from_bits(self.request.src.bits() & !0xff_ffff | low(group));
        known.or_else(|| is_group.then_some(like_own))
    }

    fn mac_of(&self, address: Addr) -> MacAddr {
        let router = || self.router_for(address, None).map(|endpoint| endpoint.mac);
        self.owner_mac(address).or_else(router).unwrap_or(UNKNOWN_HOST)
    }

    fn learned(&self, address: Addr) -> Option<eastgate_steering::Binding> {
        lock(&self.network.state.learned).by_address(address, self.now)
    }
}

fn may_be_others(count: usize) -> String {
    format!("{} may send this; --from NAME says who does", names::count(count, "endpoint"))
}

/// A station that nobody knows.
const UNKNOWN_HOST: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
/// Whom a packet is for whose receiver nobody knows.
const NOBODY: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

/// Whether an endpoint may send from an address, with one of its MACs, by what the configuration gives it.
fn may_send(network: &Network, endpoint: &Endpoint, address: Addr) -> bool {
    let holdings = endpoint.holdings();
    macs(endpoint).any(|mac| network.directory.ownership.may_send(holdings, true, mac, address))
}

/// The MAC that goes with an address of an endpoint.
fn own_mac(network: &Network, endpoint: &Endpoint, address: Addr) -> MacAddr {
    let holdings = endpoint.holdings();
    macs(endpoint)
        .find(|mac| network.directory.ownership.may_claim(holdings, true, *mac, address))
        .unwrap_or(endpoint.mac)
}

fn macs(endpoint: &Endpoint) -> impl Iterator<Item = MacAddr> {
    std::iter::once(endpoint.mac).chain(endpoint.holdings().pairs.iter().map(|pair| pair.mac))
}

/// The MAC of a group (RFC 1112 section 6.4, RFC 2464 section 7), or of everyone.
fn group_mac(network: &Network, address: Addr) -> Option<MacAddr> {
    let [.., a, b, c, d] = address.bits().to_be_bytes();
    match address {
        address if network.multicast.is_broadcast(address) => Some(MacAddr::BROADCAST),
        address if !address.is_multicast() => None,
        address if address.is_v4() => Some(MacAddr([0x01, 0x00, 0x5e, b & 0x7f, c, d])),
        _ => Some(MacAddr([0x33, 0x33, a, b, c, d])),
    }
}

/// A rule of the configuration in words: `tcp port 443, 8000-8099 with any`, `deny udp with group:web`.
#[must_use]
pub fn rule_text(rule: &config::Rule) -> String {
    let mut text = match rule.protocol {
        config::Protocol::Any => "any".to_owned(),
        config::Protocol::Icmp => "icmp".to_owned(),
        config::Protocol::Number(number) => names::protocol_name(number),
        config::Protocol::NotIcmp => "not icmp".to_owned(),
        config::Protocol::NotNumber(number) => format!("not {}", names::protocol_name(number)),
    };
    let ranges = |list: &[config::PortRange]| {
        let range = |r: &config::PortRange| {
            if r.first == r.last { r.first.to_string() } else { format!("{}-{}", r.first, r.last) }
        };
        // Whichever is shorter says the same.
        let others = config::PortRange::others(list);
        let (not, list) =
            if (1..list.len()).contains(&others.len()) { ("not ", &others[..]) } else { ("", list) };
        not.to_owned() + &list.iter().map(range).collect::<Vec<_>>().join(", ")
    };
    if !rule.ports.is_empty() {
        text += &format!(" port {}", ranges(&rule.ports));
    }
    if !rule.source_ports.is_empty() {
        text += &format!(" source port {}", ranges(&rule.source_ports));
    }
    if let Some(icmp) = rule.icmp {
        text += &format!("{} type {}", if icmp.negated { " not" } else { "" }, icmp.kind);
        if let Some(code) = icmp.code {
            text += &format!(" code {code}");
        }
    }
    let peers: Vec<String> = rule.peers.iter().map(ToString::to_string).collect();
    text += &format!(" with {}", peers.join(", "));
    if !rule.own.is_empty() {
        let own: Vec<String> = rule.own.iter().map(ToString::to_string).collect();
        text += &format!(", own address {}", own.join(" or "));
    }
    if !rule.dscp.is_empty() {
        let others: Vec<u8> = (0..64).filter(|dscp| !rule.dscp.contains(dscp)).collect();
        let is_shorter = (1..rule.dscp.len()).contains(&others.len());
        let (not, list) = if is_shorter { ("not ", &others[..]) } else { ("", &rule.dscp[..]) };
        let dscp: Vec<String> = list.iter().map(ToString::to_string).collect();
        text += &format!(", dscp {not}{}", dscp.join(" or "));
    }
    if let Some(flags) = rule.tcp_flags {
        text += &format!(", tcp flags {flags}");
    }
    if let Some(limits) = &rule.limits {
        text += &limits_text(limits);
    }
    let action = match rule.action {
        config::Action::Allow => "",
        config::Action::Deny => "deny ",
        config::Action::Reject => "reject ",
        config::Action::Pass => "pass ",
    };
    let log = if rule.log { ", logged" } else { "" };
    let mode = if rule.mode == config::Mode::Audit { ", being tried out" } else { "" };
    format!("{action}{text}{log}{mode}")
}

/// `, at most 20 flows and 10 new ones a second (20 at once) of each source of /24`
fn limits_text(limits: &config::SourceLimits) -> String {
    let flows = limits.connections.map(|most| format!("{most} flows"));
    let new = limits.new_connections.map(|new| {
        let config::NewConnections { per_second, burst } = new;
        format!("{per_second} new ones a second ({burst} at once)")
    });
    let most: Vec<String> = flows.into_iter().chain(new).collect();
    let source = match limits.per_prefix {
        [32, 128] => String::new(),
        [v4, v6] => format!(" of /{v4} (IPv6 /{v6})"),
    };
    format!(", at most {} of each source{source}", most.join(" and "))
}

#[cfg(test)]
mod tests;
