//! A hypothetical packet, walked through the path step by step to its verdict.
//!
//! The verdict is that of the real path: a frame built for the purpose goes through it on copies of the tables (`dry`), on
//! every host that it comes to. The steps tell it with the naive form of the policy, which says which rule matched and which
//! came close. It changes nothing and sends nothing.

mod dry;
mod packet;
mod report;

use eastgate_config::{self as config, Name};
use eastgate_conntrack::flow::FlowInfo;
use eastgate_policy::{
    admission::{self, Context},
    naive::{Explanation, Miss, Step, explain},
    rule::{Direction, Probe, Verdict},
};
use eastgate_steering::Answers;
use eastgate_vtep::mtu::tenant_mtu;
use eastgate_wire::{
    Addr, DropGroup, DropReason, Family, FlowKey, Instant, Leg, Location, MacAddr, View, names, view::proto,
};

pub use self::report::{TraceReport, TraceRequest, TraceStep};
use self::{
    dry::{Dry, Entry, Fate, Opened},
    packet::Shape,
};
use crate::{
    pipeline::shared::lock,
    snapshot::{Endpoint, Network, Snapshot},
};

/// Rules, addresses and receivers that are shown at most.
const CLOSE_CALLS: usize = 3;
const RECEIVERS: usize = 8;

/// What is known of flows at the moment: those between two addresses of a network, of a protocol.
pub type Flows<'a> = &'a dyn Fn(&FlowKey) -> Vec<FlowInfo>;

/// Walks a packet.
///
/// # Errors
/// When the packet makes no sense: no such network, addresses of two families.
pub fn trace(
    snapshot: &Snapshot,
    request: &TraceRequest,
    flows: Flows<'_>,
    now: Instant,
) -> Result<TraceReport, String> {
    let network = snapshot.network(request.vni).ok_or_else(|| {
        let known: Vec<String> = snapshot.networks().iter().map(|n| n.vni.to_string()).take(20).collect();
        format!(
            "host {} has no part in VNI {}; it has part in: {}",
            snapshot.host,
            request.vni,
            known.join(", ")
        )
    })?;
    if request.src.family() != request.dst.family() {
        return Err("source and destination are of different families".into());
    }
    let mut walk = Walk { snapshot, network, request, now, steps: Vec::new() };
    let verdict = walk.run(flows)?;
    let key = walk.key();
    let packet = format!("vni {} {}", request.vni, names::packet(&key));
    Ok(TraceReport { packet, steps: walk.steps, verdict })
}

struct Walk<'a> {
    snapshot: &'a Snapshot,
    network: &'a Network,
    request: &'a TraceRequest,
    now: Instant,
    steps: Vec<TraceStep>,
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
    fn run(&mut self, flows: Flows<'_>) -> Result<String, String> {
        let sender = self.sender()?;
        let entry = self.entry(&sender);
        let flow = self.flow(flows);
        let shape = Shape {
            request: self.request,
            macs: [self.towards(self.request.dst, &sender), sender.mac],
            target: self.of_group(self.request.dst),
            flow: flow.as_ref().map(|flow| flow.key),
        };
        let opened = flow.and_then(|info| {
            let frames = packet::opening(&info.key, &|address| self.mac_of(address))?;
            Some(Opened { info, frames, current: info.epoch == self.network.epoch })
        });
        let frame = shape.build().map_err(|error| format!("there is no such packet: {error}"))?;
        let live = opened.clone().filter(|opened| packet::is_of(&frame, &opened.info.key));
        let mut dry = Dry::new(self.snapshot, self.network, opened, self.now);
        let fate = dry.carry(entry, &frame)?;
        self.tell(&sender, &frame, live.as_ref(), &fate);
        Ok(match fate.drops.first() {
            _ if fate.arrived() && fate.is_answered_only() => "answered".to_owned(),
            _ if fate.arrived() => "forwarded".to_owned(),
            Some((_, reason)) => reason.name().to_owned(),
            None => DropReason::NoPeer.name().to_owned(),
        })
    }

    /// The flow that the packet may be of, or that a message about a failure may be about. A query without an identifier is
    /// of whichever there is between the two.
    fn flow(&self, flows: Flows<'_>) -> Option<FlowInfo> {
        let key = self.key();
        let is_icmp = matches!(key.proto, proto::ICMP | proto::ICMPV6);
        let mut found = flows(&key);
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
            let named = network.endpoints.iter().find(|endpoint| *endpoint.name == *name);
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
            let at_port = |endpoint: &&Endpoint| match binding.at {
                Location::Local(_) => endpoint.location == binding.at,
                Location::Remote(_) => {
                    endpoint.location == binding.at && endpoint.holdings().has_mac(binding.mac)
                }
            };
            let endpoint = network.endpoints.iter().find(at_port);
            return Ok(Sender { endpoint, mac: binding.mac, guess: None });
        }
        let entitled: Vec<&Endpoint> =
            network.endpoints.iter().filter(|endpoint| may_send(network, endpoint, src)).collect();
        if let Some(first) = entitled.first() {
            let several = entitled.len() > 1;
            let guess = several.then(|| {
                format!(
                    "{} may send this; --from NAME says who does",
                    names::count(entitled.len(), "endpoint")
                )
            });
            return Ok(Sender { endpoint: Some(first), mac: own_mac(network, first, src), guess });
        }
        if network.learning && !src.is_unspecified() {
            return Ok(Sender { endpoint: None, mac: STRANGER, guess: None });
        }
        let client = |endpoint: &&Endpoint| !endpoint.sender.dhcp_server && !endpoint.sender.router;
        let mut here = network.endpoints.iter().filter(|endpoint| endpoint.port().is_some());
        let any = here.clone().find(client).or_else(|| here.next()).or_else(|| network.endpoints.first());
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
        if let Some(mac) = group_mac(dst) {
            return mac;
        }
        let subnets = network.config().map_or(&[][..], |config| &config.subnets);
        let local = dst.is_link_local() || subnets.iter().any(|subnet| subnet.contains(&dst.to_ip()));
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
        let others =
            || network.endpoints.iter().filter(|endpoint| own.is_none_or(|own| own.id != endpoint.id));
        let behind = others().find(|endpoint| may_send(network, endpoint, dst));
        behind.or_else(|| others().find(|endpoint| endpoint.sender.router))
    }

    /// The MAC of who has an address now.
    fn owner_mac(&self, address: Addr) -> Option<MacAddr> {
        let network = self.network;
        let held = network.at_address(address).map(|(_, mac)| mac);
        held.or_else(|| self.learned(address).map(|binding| binding.mac)).or_else(|| {
            // Of several that share it none has said that it is there: for the packet they are alike.
            let first = network.endpoint(*network.ownership.sharers(address).first()?)?;
            Some(own_mac(network, first, address))
        })
    }

    /// The address of an endpoint whose solicited-node group this is (RFC 4291 section 2.7.1).
    fn of_group(&self, group: Addr) -> Option<Addr> {
        let mut all = self.network.endpoints.iter().flat_map(|endpoint| &endpoint.holdings().addresses);
        let low = |address: Addr| address.bits() & 0xff_ffff;
        let is_group = group.is_multicast() && !group.is_v4();
        let known = all.find(|address| is_group && !address.is_v4() && low(**address) == low(group)).copied();
        // Nobody's: one like the asker's own.
        let like_own = Addr::from_bits(self.request.src.bits() & !0xff_ffff | low(group));
        known.or_else(|| is_group.then_some(like_own))
    }

    fn mac_of(&self, address: Addr) -> MacAddr {
        let router = || self.router_for(address, None).map(|endpoint| endpoint.mac);
        self.owner_mac(address).or_else(router).unwrap_or(STRANGER)
    }

    fn learned(&self, address: Addr) -> Option<eastgate_steering::Binding> {
        lock(&self.network.state.learned).by_address(address, self.now)
    }

    /// The steps as far as the packet got, each with what the configuration has to do with it.
    fn tell(&mut self, sender: &Sender<'a>, frame: &[u8], live: Option<&Opened>, fate: &Fate) {
        let dst = self.network.at_address(self.request.dst).map(|(endpoint, _)| endpoint);
        let refused = if fate.arrived() { None } else { fate.drops.first().cloned() };
        let ends_at = refused.as_ref().map_or(usize::MAX, |(_, reason)| rank(*reason));
        if ends_at >= ADMIT {
            self.tell_admission(sender, frame, refused.as_ref().filter(|_| ends_at == ADMIT));
        }
        let to_many = group_mac(self.request.dst).is_some();
        if ends_at > ADMIT && !to_many {
            self.answer(dst);
        }
        if ends_at == LOCATE {
            return self.tell_refusal("locate", refused);
        }
        if ends_at == TRACK {
            return self.tell_refusal("track", refused);
        }
        let host = sender.endpoint.and_then(|endpoint| self.host_of(endpoint)).map_or("", |host| &host.name);
        if ends_at > TRACK {
            let text = match live {
                Some(opened) => format!(
                    "of a live flow ({}, {}): {}",
                    opened.info.state.name(),
                    if (opened.info.key.src, opened.info.key.sport) == (self.request.src, self.request.sport)
                    {
                        "the way it was opened"
                    } else {
                        "a reply"
                    },
                    if opened.current {
                        "passes without a decision"
                    } else {
                        "the policy has changed, it is decided again"
                    }
                ),
                None => "no flow yet: a flow that is live would pass without a decision".to_owned(),
            };
            self.pass("track", host, &text, None);
        }
        let decided = live.is_none_or(|opened| !opened.current);
        let probe = View::parse(frame).ok().and_then(|view| Probe::of(view.ip()?).ok());
        if decided && ends_at >= EGRESS {
            let refusal = refused.as_ref().filter(|_| ends_at == EGRESS);
            self.tell_decision(sender.endpoint, Direction::Egress, self.request.dst, probe.as_ref(), refusal);
        }
        if ends_at == FORWARD {
            return self.tell_refusal("forward", refused);
        }
        if ends_at > FORWARD {
            self.tell_forwarding(sender, dst, fate);
        }
        if decided && ends_at >= INGRESS && ends_at > FORWARD {
            let refusal = refused.as_ref().filter(|_| ends_at == INGRESS);
            self.tell_decision(dst, Direction::Ingress, self.request.src, probe.as_ref(), refusal);
        }
        self.tell_receivers(fate);
    }

    fn tell_admission(&mut self, sender: &Sender<'a>, frame: &[u8], refused: Option<&(Name, DropReason)>) {
        let (ownership, site) = (&self.network.ownership, &*self.snapshot.site);
        let guess = sender.guess.clone();
        let Some(endpoint) = sender.endpoint else {
            let at = self.network_place();
            match refused {
                Some(refused) => self.tell_refusal("admit", Some(refused.clone())),
                None => self.pass(
                    "admit",
                    "",
                    "the source is no endpoint; the network admits and learns strangers",
                    at,
                ),
            }
            return;
        };
        let host = self.host_of(endpoint).map_or_else(String::new, |host| host.name.to_string());
        let name = format!("{}/{}", self.network.tenant.name, endpoint.name);
        if let Some(guess) = guess {
            self.note("admit", &format!("{guess} ({name})"));
        }
        let place = self.place_of(endpoint);
        let Some((_, reason)) = refused else {
            let checks = admission::Check::ALL.len();
            return self.pass(
                "admit",
                &host,
                &format!("{name} may send this: {checks} checks passed"),
                place,
            );
        };
        let context = Context { sender: &endpoint.sender, ownership, site, chosen: false };
        let explained = View::parse(frame).ok().and_then(|view| {
            let checks = admission::explain(&view, frame, &context);
            checks.into_iter().find(|(_, result)| *result == Err(*reason)).map(|(check, _)| check.to_string())
        });
        let text = match explained {
            Some(check) => format!("{check}: no ({})", reason.describe()),
            None => reason.describe().to_owned(),
        };
        let near = if *reason == DropReason::IpSpoofed {
            self.close_addresses(self.request.src)
        } else {
            Vec::new()
        };
        self.steps.push(TraceStep {
            step: "admit".into(),
            host,
            result: "drop".into(),
            text,
            at: place,
            near,
        });
    }

    fn tell_refusal(&mut self, step: &str, refused: Option<(Name, DropReason)>) {
        let Some((host, reason)) = refused else { return };
        let near = match reason {
            DropReason::UnknownDestination | DropReason::NotForUs
                if group_mac(self.request.dst).is_none() =>
            {
                self.close_addresses(self.request.dst)
            }
            _ => Vec::new(),
        };
        let nobody = matches!(reason, DropReason::UnknownDestination | DropReason::NotForUs);
        let to_many = group_mac(self.request.dst).is_some();
        let text = if nobody && to_many {
            format!("nobody in {} takes this: there is no DHCP server, or no router", self.network.name)
        } else if nobody {
            format!("no endpoint of {} has the address {}", self.network.name, self.request.dst)
        } else {
            reason.describe().to_owned()
        };
        let at = self.network_place();
        self.steps.push(TraceStep {
            step: step.into(),
            host: host.to_string(),
            result: "drop".into(),
            text,
            at,
            near,
        });
    }

    /// What the rules of one end say. Where the packet got further than they let it, they were not asked.
    fn tell_decision(
        &mut self,
        endpoint: Option<&Endpoint>,
        direction: Direction,
        peer: Addr,
        probe: Option<&Probe>,
        refused: Option<&(Name, DropReason)>,
    ) {
        let step = if direction == Direction::Egress { "decide egress" } else { "decide ingress" };
        let (Some(endpoint), Some(probe)) = (endpoint, probe) else {
            if let Some(refused) = refused {
                self.tell_refusal(step, Some(refused.clone()));
            }
            return;
        };
        let source = self.network.source();
        let explained = explain(&source, endpoint.id, direction, peer, probe);
        let allowed = explained.decision.verdict == Verdict::Allow;
        match refused {
            None if allowed => self.tell_allowed(endpoint, step, direction, &explained),
            None => self.note(step, "what every network needs: no rule is asked"),
            Some(_) if !allowed => self.tell_denied(endpoint, step, direction, &explained),
            Some(refused) => self.tell_refusal(step, Some(refused.clone())),
        }
    }

    fn tell_allowed(
        &mut self,
        endpoint: &Endpoint,
        step: &str,
        direction: Direction,
        explained: &Explanation<'_>,
    ) {
        let tenant = self.network.tenant.name.clone();
        let host = self.host_of(endpoint).map_or_else(String::new, |host| host.name.to_string());
        let rule = explained.decision.rule.and_then(|rule| self.network.rules.reference(&tenant, rule.0));
        let (text, at) = match rule {
            Some(rule) => (format!("{} allows it", rule.rule), Some(rule.at)),
            None => (format!("the {} allow it", whose(direction)), None),
        };
        self.pass(step, &host, &text, at);
    }

    fn tell_denied(
        &mut self,
        endpoint: &Endpoint,
        step: &str,
        direction: Direction,
        explained: &Explanation<'_>,
    ) {
        let tenant = self.network.tenant.name.clone();
        let host = self.host_of(endpoint).map_or_else(String::new, |host| host.name.to_string());
        let rule = explained.decision.rule.and_then(|rule| self.network.rules.reference(&tenant, rule.0));
        let (text, at) = match rule {
            Some(rule) => (format!("{} denies it", rule.rule), Some(rule.at)),
            None => {
                let rules = explained.steps.len();
                let text =
                    format!("none of {tenant}/{}'s {rules} {} allows it", endpoint.name, whose(direction));
                (text, self.place_of(endpoint))
            }
        };
        let near = self.close_calls(explained);
        self.steps.push(TraceStep { step: step.into(), host, result: "drop".into(), text, at, near });
    }

    fn tell_forwarding(&mut self, sender: &Sender<'a>, dst: Option<&Endpoint>, fate: &Fate) {
        let host = sender.endpoint.and_then(|endpoint| self.host_of(endpoint)).map_or("", |host| &host.name);
        let at = dst.map_or_else(|| self.network_place(), |dst| self.place_of(dst));
        if fate.tunnels.is_empty() {
            return self.pass("forward", host, "to a port of the same host", at);
        }
        let v4 = self.snapshot.vtep.0.is_ipv4();
        let overhead = u16::MAX - tenant_mtu(u16::MAX, if v4 { Family::V4 } else { Family::V6 }, 0);
        for (from, to) in fate.tunnels.iter().take(RECEIVERS) {
            let vtep =
                self.snapshot.config.host(to).map_or_else(|| "?".to_owned(), |host| host.vtep.to_string());
            let text = format!("wrapped in VXLAN to {to} at {vtep}: {overhead} bytes more");
            self.pass("forward", from, &text, at.clone());
        }
    }

    fn tell_receivers(&mut self, fate: &Fate) {
        let tenant = self.network.tenant.name.clone();
        for (host, name) in fate.delivered.iter().take(RECEIVERS) {
            let at = self.network.endpoints.iter().find(|endpoint| endpoint.name == *name);
            let at = at.and_then(|endpoint| self.place_of(endpoint));
            self.pass("deliver", host, &format!("delivered to {tenant}/{name}"), at);
        }
        for host in fate.plain.iter().take(RECEIVERS) {
            self.pass("deliver", host, "given to a VTEP that does not run eastgate", None);
        }
        for host in &fate.answered {
            self.pass("answer", host, "answered here", None);
        }
        let more = (fate.delivered.len() + fate.plain.len()).saturating_sub(2 * RECEIVERS);
        if more > 0 {
            self.note("deliver", &format!("and {more} more"));
        }
    }
    fn answer(&mut self, dst: Option<&Endpoint>) {
        let what = if self.request.src.is_v4() { "ARP" } else { "ND" };
        let text = match (dst, self.network.neighbors.answers) {
            (Some(dst), Answers::Suppress) => {
                format!("{what} for {} is answered with {}, its own MAC", self.request.dst, dst.mac)
            }
            (Some(_), Answers::Proxy { mac }) => {
                format!("{what} for {} is answered with {mac}, the appliance's MAC", self.request.dst)
            }
            (Some(_), Answers::Off) => format!("{what} for {} goes to the endpoint itself", self.request.dst),
            (None, _) => format!("{what} for {} has no known answer", self.request.dst),
        };
        self.note("answer", &text);
    }

    fn close_calls(&self, explained: &Explanation<'_>) -> Vec<String> {
        let describe = |step: &Step<'_>| {
            let rule = self.network.rules.reference(&self.network.tenant.name, step.rule.id.0)?;
            let misses: Vec<&str> = step
                .misses
                .iter()
                .map(|miss| match miss {
                    Miss::Family => "is for the other IP family",
                    Miss::Peer => "is for another peer",
                    Miss::Protocol => "is for another protocol",
                    Miss::Port => "is for another port",
                    Miss::SourcePort => "is for another source port",
                    Miss::Icmp => "is for another ICMP type",
                })
                .collect();
            Some(format!("{} ({}) {}", rule.rule, rule.at, misses.join(" and ")))
        };
        let mut near: Vec<String> = Vec::new();
        for text in explained.close_calls().into_iter().filter_map(describe) {
            if !near.contains(&text) && near.len() < CLOSE_CALLS {
                near.push(text);
            }
        }
        near
    }

    fn host_of(&self, endpoint: &Endpoint) -> Option<&'a config::Host> {
        let config = self.network.config()?.endpoints.get(endpoint.id.0 as usize)?;
        self.snapshot.config.host(&config.host.host)
    }

    fn place_of(&self, endpoint: &Endpoint) -> Option<String> {
        Some(self.network.config()?.endpoints.get(endpoint.id.0 as usize)?.at.to_string())
    }

    fn network_place(&self) -> Option<String> {
        Some(self.network.config()?.at.to_string())
    }

    /// Who has an address that differs little from a wrong one.
    fn close_addresses(&self, address: Addr) -> Vec<String> {
        let mut all: Vec<(u32, Addr, &Endpoint)> = self
            .network
            .endpoints
            .iter()
            .flat_map(|endpoint| endpoint.holdings().addresses.iter().map(move |own| (*own, endpoint)))
            .filter(|(own, _)| own.family() == address.family())
            .map(|(own, endpoint)| ((own.bits() ^ address.bits()).count_ones(), own, endpoint))
            .collect();
        all.sort_by_key(|(distance, own, _)| (*distance, *own));
        all.iter()
            .take(CLOSE_CALLS)
            .map(|(_, own, endpoint)| format!("{own} is {}/{}", self.network.tenant.name, endpoint.name))
            .collect()
    }

    fn pass(&mut self, step: &str, host: &str, text: &str, at: Option<String>) {
        self.add(step, host, "pass", text, at);
    }

    fn note(&mut self, step: &str, text: &str) {
        self.add(step, "", "note", text, None);
    }

    fn add(&mut self, step: &str, host: &str, result: &str, text: &str, at: Option<String>) {
        let (step, host, result, text) = (step.into(), host.into(), result.into(), text.into());
        self.steps.push(TraceStep { step, host, result, text, at, near: Vec::new() });
    }
}

/// A station that nobody knows.
const STRANGER: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
/// Whom a packet is for whose receiver nobody knows.
const NOBODY: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

/// The steps in their order.
const ADMIT: usize = 1;
const LOCATE: usize = 2;
const TRACK: usize = 3;
const EGRESS: usize = 4;
const FORWARD: usize = 5;
const INGRESS: usize = 6;

/// At which step a packet is dropped for a reason.
const fn rank(reason: DropReason) -> usize {
    match (reason, reason.group()) {
        (DropReason::EgressDenied | DropReason::EgressRule, _) => EGRESS,
        (DropReason::IngressDenied | DropReason::IngressRule, _) => INGRESS,
        (DropReason::MulticastRefused | DropReason::UnknownDestination | DropReason::NotForUs, _) => LOCATE,
        (_, DropGroup::Malformed | DropGroup::Admission | DropGroup::Neighbor | DropGroup::Underlay) => ADMIT,
        (_, DropGroup::State | DropGroup::Fragment | DropGroup::Policy | DropGroup::Limit) => TRACK,
        (_, DropGroup::Forward | DropGroup::Device) => FORWARD,
    }
}

const fn whose(direction: Direction) -> &'static str {
    match direction {
        Direction::Egress => "egress rules",
        Direction::Ingress => "ingress rules",
    }
}

/// Whether an endpoint may send from an address, with one of its MACs, by what the configuration gives it.
fn may_send(network: &Network, endpoint: &Endpoint, address: Addr) -> bool {
    let holdings = endpoint.holdings();
    macs(endpoint).any(|mac| network.ownership.may_send(holdings, true, mac, address))
}

/// The MAC that goes with an address of an endpoint.
fn own_mac(network: &Network, endpoint: &Endpoint, address: Addr) -> MacAddr {
    let holdings = endpoint.holdings();
    macs(endpoint)
        .find(|mac| network.ownership.may_claim(holdings, true, *mac, address))
        .unwrap_or(endpoint.mac)
}

fn macs(endpoint: &Endpoint) -> impl Iterator<Item = MacAddr> {
    std::iter::once(endpoint.mac).chain(endpoint.holdings().pairs.iter().map(|pair| pair.mac))
}

/// The MAC of a group (RFC 1112 section 6.4, RFC 2464 section 7), or of everyone.
fn group_mac(address: Addr) -> Option<MacAddr> {
    let [.., a, b, c, d] = address.bits().to_be_bytes();
    match address {
        address if address.is_limited_broadcast() => Some(MacAddr::BROADCAST),
        address if !address.is_multicast() => None,
        address if address.is_v4() => Some(MacAddr([0x01, 0x00, 0x5e, b & 0x7f, c, d])),
        _ => Some(MacAddr([0x33, 0x33, a, b, c, d])),
    }
}

/// A rule of the configuration in words: `tcp to port 443, 8000-8099 from any`.
#[must_use]
pub fn rule_text(rule: &config::Rule) -> String {
    let mut text = match rule.protocol {
        config::Protocol::Any => "any".to_owned(),
        config::Protocol::Icmp => "icmp".to_owned(),
        config::Protocol::Number(number) => names::protocol_name(number),
    };
    let ranges = |list: &[config::PortRange]| {
        let range = |r: &config::PortRange| {
            if r.first == r.last { r.first.to_string() } else { format!("{}-{}", r.first, r.last) }
        };
        list.iter().map(range).collect::<Vec<_>>().join(", ")
    };
    if !rule.ports.is_empty() {
        text += &format!(" port {}", ranges(&rule.ports));
    }
    if !rule.source_ports.is_empty() {
        text += &format!(" source port {}", ranges(&rule.source_ports));
    }
    if let Some(icmp) = rule.icmp {
        text += &format!(" type {}", icmp.kind);
        if let Some(code) = icmp.code {
            text += &format!(" code {code}");
        }
    }
    let peers: Vec<String> = rule
        .peers
        .iter()
        .map(|peer| match peer {
            config::Peer::Any => "any".to_owned(),
            config::Peer::Prefix(net) => net.to_string(),
            config::Peer::Group(name) => format!("group:{name}"),
        })
        .collect();
    format!("{text} with {}", peers.join(", "))
}

#[cfg(test)]
mod tests;
