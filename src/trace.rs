//! A hypothetical packet, walked through the path step by step to its verdict.
//!
//! The walk uses the very functions of the path on a frame built for the purpose, and the naive form of the
//! policy to say which rule matched and which came close. It changes nothing and sends nothing. It knows both
//! ends: the steps of the receiving host follow those of the sending one.

use eastgate_policy::{
    admission::{self, Context},
    naive::{Explanation, Miss, Step, explain},
    rule::{Direction, Probe, Verdict},
};
use eastgate_steering::Answers;
use eastgate_vtep::mtu::tenant_mtu;
use eastgate_wire::{Addr, Family, View, view::proto};
use etherparse::PacketBuilder;

use crate::{
    config,
    control::protocol::{TraceReport, TraceRequest, TraceStep},
    names,
    snapshot::{Endpoint, Network, Snapshot},
};

/// Rules shown that came close.
const CLOSE_CALLS: usize = 3;

/// Walks a packet.
///
/// # Errors
/// When the packet makes no sense: no such network, addresses of two families.
pub fn trace(snapshot: &Snapshot, request: &TraceRequest) -> Result<TraceReport, String> {
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
    let mut walk = Walk { snapshot, network, request, steps: Vec::new() };
    let verdict = match walk.run() {
        Ok(()) => "forwarded".to_owned(),
        Err(Stop(reason)) => reason,
    };
    let key = eastgate_wire::FlowKey {
        src: request.src,
        dst: request.dst,
        vni: request.vni,
        sport: request.sport,
        dport: request.dport,
        proto: request.proto,
        leg: eastgate_wire::Leg::DIRECT,
    };
    let packet = format!("vni {} {}", request.vni, names::packet(&key));
    Ok(TraceReport { packet, steps: walk.steps, verdict })
}

/// The walk ended with this verdict.
struct Stop(String);

struct Walk<'a> {
    snapshot: &'a Snapshot,
    network: &'a Network,
    request: &'a TraceRequest,
    steps: Vec<TraceStep>,
}

impl<'a> Walk<'a> {
    fn run(&mut self) -> Result<(), Stop> {
        let network = self.network;
        let src = network.at_address(self.request.src).map(|(endpoint, _)| endpoint);
        let dst = network.at_address(self.request.dst).map(|(endpoint, _)| endpoint);
        let frame = self.build(src, dst)?;
        let view =
            View::parse(&frame).map_err(|reason| self.stop("parse", "", reason.name(), reason.describe()))?;
        self.admit(src, &view, &frame)?;
        self.answer(dst);
        self.pass(
            "track",
            self.host_of(src),
            "no flow yet: a flow that is live would pass without a decision",
            None,
        );
        let probe = view
            .ip()
            .and_then(|ip| Probe::of(ip).ok())
            .ok_or_else(|| self.stop("parse", "", "bad-l4-header", "the packet has no transport header"))?;
        if let Some(src) = src {
            self.decide(src, Direction::Egress, self.request.dst, &probe)?;
        }
        self.forward(src, dst)?;
        if let Some(dst) = dst {
            self.decide(dst, Direction::Ingress, self.request.src, &probe)?;
            let text = format!("delivered to {}/{}", network.tenant.name, dst.name);
            self.pass("deliver", self.host_of(Some(dst)), &text, self.place_of(dst));
        }
        Ok(())
    }

    fn build(&mut self, src: Option<&Endpoint>, dst: Option<&Endpoint>) -> Result<Vec<u8>, Stop> {
        let TraceRequest { src: from, dst: to, proto: number, sport, dport, icmp, .. } = *self.request;
        let stranger = [2, 0, 0, 0, 0, 1];
        let src_mac = src.map_or(stranger, |endpoint| endpoint.mac.0);
        let dst_mac = dst.map_or([2, 0, 0, 0, 0, 2], |endpoint| {
            if self.network.proxy { self.network.proxy_mac.0 } else { endpoint.mac.0 }
        });
        let builder = PacketBuilder::ethernet2(src_mac, dst_mac);
        let builder = match (from.to_ip(), to.to_ip()) {
            (std::net::IpAddr::V4(from), std::net::IpAddr::V4(to)) => {
                builder.ipv4(from.octets(), to.octets(), 64)
            }
            (std::net::IpAddr::V6(from), std::net::IpAddr::V6(to)) => {
                builder.ipv6(from.octets(), to.octets(), 64)
            }
            _ => return Err(self.stop("parse", "", "bad-ip-header", "addresses of two families")),
        };
        let mut frame = Vec::new();
        let [kind, code] =
            icmp.map_or([if number == proto::ICMP { 8 } else { 128 }, 0], |(kind, code)| [kind, code]);
        let written = match number {
            proto::TCP => builder.tcp(sport, dport, 1, 65535).syn().write(&mut frame, &[]),
            proto::UDP => builder.udp(sport, dport).write(&mut frame, &[]),
            proto::ICMP if from.is_v4() => {
                builder.icmpv4_raw(kind, code, [0, 1, 0, 1]).write(&mut frame, &[])
            }
            proto::ICMPV6 if !from.is_v4() => {
                builder.icmpv6_raw(kind, code, [0, 1, 0, 1]).write(&mut frame, &[])
            }
            // Ports, where it has any, and nothing else.
            other => {
                let ([a, b], [c, d]) = (sport.to_be_bytes(), dport.to_be_bytes());
                builder.write(&mut frame, other.into(), &[a, b, c, d, 0, 0, 0, 0])
            }
        };
        written.map_err(|error| self.stop("parse", "", "bad-ip-header", &error.to_string()))?;
        Ok(frame)
    }

    fn admit(&mut self, src: Option<&Endpoint>, view: &View, frame: &[u8]) -> Result<(), Stop> {
        let Some(src) = src else {
            if self.network.learning {
                self.pass(
                    "admit",
                    "",
                    "the source is no endpoint; the network admits and learns strangers",
                    self.network_place(),
                );
                return Ok(());
            }
            let owners = self.close_addresses(self.request.src);
            self.steps.push(TraceStep {
                step: "admit".into(),
                host: String::new(),
                result: "drop".into(),
                text: format!(
                    "no endpoint of {} has the address {}: whoever sends it spoofs",
                    self.network.name, self.request.src
                ),
                at: self.network_place(),
                near: owners,
            });
            return Err(Stop("ip-spoofed".into()));
        };
        let (ownership, site) = (&self.network.ownership, &*self.snapshot.site);
        let context = Context { sender: &src.sender, ownership, site, chosen: false };
        for (check, result) in admission::explain(view, frame, &context) {
            if let Err(reason) = result {
                let text = format!("{check}: no ({})", reason.describe());
                return Err(self.stop_at(
                    "admit",
                    self.host_of(Some(src)),
                    reason.name(),
                    &text,
                    self.place_of(src),
                ));
            }
        }
        let checks = admission::Check::ALL.len();
        let text = format!("{}/{} may send this: {checks} checks passed", self.network.tenant.name, src.name);
        self.pass("admit", self.host_of(Some(src)), &text, self.place_of(src));
        Ok(())
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

    fn decide(
        &mut self,
        endpoint: &Endpoint,
        direction: Direction,
        peer: Addr,
        probe: &Probe,
    ) -> Result<(), Stop> {
        let source = self.network.source();
        let explained = explain(&source, endpoint.id, direction, peer, probe);
        let (step, whose) = match direction {
            Direction::Egress => ("decide egress", "egress rules"),
            Direction::Ingress => ("decide ingress", "ingress rules"),
        };
        let tenant = &self.network.tenant;
        let host = self.host_of(Some(endpoint));
        let rule =
            explained.decision.rule.and_then(|rule| self.network.rules.reference(&tenant.name, rule.0));
        if explained.decision.verdict == Verdict::Allow {
            let (text, at) = match rule {
                Some(rule) => (format!("{} allows it", rule.rule), Some(rule.at)),
                None => (format!("the {whose} allow it"), None),
            };
            self.pass(step, host, &text, at);
            return Ok(());
        }
        let reason =
            explained.decision.drop_reason(direction).map_or("egress-denied", |reason| reason.name());
        let (text, at) = match rule {
            Some(rule) => (format!("{} denies it", rule.rule), Some(rule.at)),
            None => (
                format!(
                    "none of {}/{}'s {} {whose} allows it",
                    tenant.name,
                    endpoint.name,
                    explained.steps.len()
                ),
                self.place_of(endpoint),
            ),
        };
        let near = self.close_calls(&explained);
        self.steps.push(TraceStep {
            step: step.into(),
            host: host.into(),
            result: "drop".into(),
            text,
            at,
            near,
        });
        Err(Stop(reason.into()))
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

    fn forward(&mut self, src: Option<&Endpoint>, dst: Option<&Endpoint>) -> Result<(), Stop> {
        let Some(dst) = dst else {
            let at = self.network_place();
            if self.network.learns() {
                self.pass(
                    "forward",
                    self.host_of(src),
                    "no endpoint: to where its MAC was learned, or flooded",
                    at,
                );
                return Ok(());
            }
            let text = format!("no endpoint of {} has the address {}", self.network.name, self.request.dst);
            let near = self.close_addresses(self.request.dst);
            self.steps.push(TraceStep {
                step: "forward".into(),
                host: self.host_of(src).into(),
                result: "drop".into(),
                text,
                at,
                near,
            });
            return Err(Stop("unknown-destination".into()));
        };
        let (from, to) = (self.host_of(src), self.host_of(Some(dst)));
        let text = if from == to {
            "to a port of the same host".to_owned()
        } else {
            let vtep =
                self.snapshot.config.host(to).map_or_else(|| "?".to_owned(), |host| host.vtep.to_string());
            let v4 = self.snapshot.vtep.0.is_ipv4();
            let overhead = u16::MAX - tenant_mtu(u16::MAX, if v4 { Family::V4 } else { Family::V6 }, 0);
            format!("wrapped in VXLAN to {to} at {vtep}: {overhead} bytes more")
        };
        let at = self.place_of(dst);
        self.pass("forward", from, &text, at);
        Ok(())
    }

    fn host_of(&self, endpoint: Option<&Endpoint>) -> &'a str {
        let config = self.network.config();
        endpoint
            .zip(config)
            .and_then(|(endpoint, config)| config.endpoints.get(endpoint.id.0 as usize))
            .map_or("", |endpoint| &*endpoint.host.host)
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

    fn stop(&mut self, step: &str, host: &str, reason: &str, text: &str) -> Stop {
        self.stop_at(step, host, reason, text, None)
    }

    fn stop_at(&mut self, step: &str, host: &str, reason: &str, text: &str, at: Option<String>) -> Stop {
        self.add(step, host, "drop", text, at);
        Stop(reason.to_owned())
    }

    fn add(&mut self, step: &str, host: &str, result: &str, text: &str, at: Option<String>) {
        let (step, host, result, text) = (step.into(), host.into(), result.into(), text.into());
        self.steps.push(TraceStep { step, host, result, text, at, near: Vec::new() });
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
