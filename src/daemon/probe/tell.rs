//! The steps of a probe in words, as a trace has them.

use eastgate_api::{NO_ANSWER, ProbeReport, ProbeStep, REACHED, REFUSED, TraceStep, UNREACHABLE};
use eastgate_dataplane::{
    pipeline::{Outcome, batch::Egress, counters::DropKey},
    trace::{self, Live, TraceRequest},
};
use eastgate_steering::Answers;
use eastgate_vtep::fdb::Location;
use eastgate_wire::{Addr, DropGroup, FlowKey, Instant, MacAddr, names, view::proto};

use super::{
    super::{View, show::drops::refused_by},
    asker::Asker,
};
use crate::io::{clock, inject::Injected};

/// How a step went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Went {
    Well,
    Badly,
    /// Neither
    Note,
}

/// A probe's account of itself.
pub(super) struct Teller<'a> {
    view: &'a View,
    asker: &'a Asker<'a>,
    began: Instant,
    pub(super) report: ProbeReport,
}

impl<'a> Teller<'a> {
    pub(super) fn new(view: &'a View, asker: &'a Asker<'a>, probe: String, began: Instant) -> Self {
        let report = ProbeReport {
            probe: format!("vni {} {probe}", asker.network.vni),
            steps: Vec::new(),
            verdict: String::new(),
            sent: 0,
            answered: 0,
            round_trips_us: Vec::new(),
            macs: Vec::new(),
            path_mtu: None,
            vteps: Vec::new(),
            to_pass: Vec::new(),
        };
        let mut this = Self { view, asker, began, report };
        let Asker { name, port, own, mac, hop, to, .. } = asker;
        let by = if hop == to { String::new() } else { format!(", by the router {hop}") };
        this.here(began, "start", Went::Note, format!("as {name} at port {port}: {own}, {mac}{by}"), None);
        this
    }

    /// What happened on this host.
    pub(super) fn here(&mut self, at: Instant, step: &str, went: Went, text: String, place: Option<String>) {
        let host = self.asker.snapshot.host.to_string();
        self.step(Some(at), step, host, went, text, place);
    }

    /// What came from where an address is.
    pub(super) fn from(&mut self, address: Addr, at: Instant, step: &str, went: Went, text: String) {
        let host = self.asker.host_of(address).map_or_else(String::new, |(host, _)| host.to_owned());
        self.step(Some(at), step, host, went, text, None);
    }

    fn step(
        &mut self,
        at: Option<Instant>,
        step: &str,
        host: String,
        went: Went,
        text: String,
        place: Option<String>,
    ) {
        let result = match went {
            Went::Well => "pass",
            Went::Badly => "drop",
            Went::Note => "note",
        };
        let step = TraceStep {
            step: step.to_owned(),
            host,
            result: result.to_owned(),
            text,
            at: place,
            near: Vec::new(),
        };
        let after_us = at.map(|at| micros(at.since(self.began)));
        self.report.steps.push(ProbeStep { after_us, step });
    }

    /// What became of a frame of the probe on this host; false where it was dropped, which is the verdict then.
    pub(super) fn fate(&mut self, what: &str, flow: Option<&FlowKey>, injected: &Injected) -> bool {
        let at = injected.at;
        if let Outcome::Drop(reason) = injected.outcome {
            let refused = injected.refusal.and_then(|refusal| {
                let from = Some(Location::Local(self.asker.attachment));
                let vni = Some(self.asker.network.vni);
                let key = DropKey { vni, reason, from, by: refusal.by, rule: refusal.rule };
                (key.by.is_some() || key.rule.is_some())
                    .then(|| refused_by(self.asker.network, &key))
                    .flatten()
            });
            let (step, because) = match &refused {
                Some(rule) => ("decide", format!("{what}: {}", rule.rule)),
                None => {
                    (at_step(reason.group()), format!("{what}: {}", reason.describe().trim_end_matches('.')))
                }
            };
            let text = format!("{because} ({})", reason.name());
            self.here(at, step, Went::Badly, text, refused.map(|rule| rule.at));
            self.report.verdict = reason.name().to_owned();
            return false;
        }
        if let Some(flow) = flow {
            self.decision(what, flow, at);
        }
        for way in injected.ways.iter().take(WAYS) {
            let text = format!("{what}: {}", self.way(*way));
            self.here(at, "forward", Went::Well, text, None);
        }
        if let Some(more) = injected.ways.len().checked_sub(WAYS).filter(|more| *more > 0) {
            self.here(at, "forward", Went::Well, format!("{what}: {more} more ways"), None);
        }
        true
    }

    /// By which rules this host has let it pass.
    fn decision(&mut self, what: &str, flow: &FlowKey, at: Instant) {
        let found = self.view.flows_between(flow);
        let is_it = |key: &FlowKey| (key.proto, key.sport, key.dport) == (flow.proto, flow.sport, flow.dport);
        let Some(info) = found.into_iter().find(|info| is_it(&info.key)) else {
            let text = format!("{what}: passes, and no state is kept of it: the rules of an end keep none");
            return self.here(at, "decide", Went::Well, text, None);
        };
        let network = self.asker.network;
        let mut told = false;
        for (step, rule) in [("decide egress", info.egress_rule), ("decide ingress", info.ingress_rule)] {
            if let Some(rule) = network.rules.reference(&network.tenant.name, rule) {
                told = true;
                self.here(at, step, Went::Well, format!("{what}: {} allows it", rule.rule), Some(rule.at));
            }
        }
        if !told {
            self.here(at, "decide", Went::Well, format!("{what}: no rule of this host is about it"), None);
        }
    }

    fn way(&self, way: Egress) -> String {
        let snapshot = self.asker.snapshot;
        match way {
            Egress::Attachment(attachment) => {
                let port = self.view.location_name(Location::Local(attachment));
                match snapshot.at_attachment(attachment) {
                    Some((network, endpoint)) => {
                        format!("out of port {port} to {}/{}", network.tenant.name, endpoint.name)
                    }
                    None => format!("out of port {port}"),
                }
            }
            Egress::Tunnel(tunnel) => {
                let host = snapshot.config.hosts.values().find(|host| host.vtep.0 == tunnel.to);
                let port = snapshot.ports.port(tunnel.source.into());
                match host {
                    Some(host) => {
                        format!("into the tunnel to {} at {}, from UDP port {port}", host.name, tunnel.to)
                    }
                    None => format!("into the tunnel to {}, from UDP port {port}", tunnel.to),
                }
            }
        }
    }

    /// Who has an address, by whom that was said.
    pub(super) fn neighbor(&mut self, mac: MacAddr, made: bool, took_us: u64, at: Instant) {
        let network = self.asker.network;
        let whose = match network.by_mac(mac) {
            _ if mac == network.proxy_mac => "the appliance's MAC".to_owned(),
            Some(endpoint) => format!("the MAC of {}/{}", network.tenant.name, endpoint.name),
            None => "a MAC that is no endpoint's".to_owned(),
        };
        let hop = self.asker.hop;
        let protocol = if hop.is_v4() { "arp" } else { "nd" };
        let text = format!("{hop} is at {mac}, {whose}");
        let after = millis(took_us);
        if made {
            let mode = match network.neighbors.answers {
                Answers::Off => "off",
                Answers::Suppress => "suppress",
                Answers::Proxy { .. } => "proxy",
            };
            let place = network.config().map(|config| config.at.to_string());
            let text = format!("{text}: answered by this appliance (neighbors = \"{mode}\") after {after}");
            self.here(at, protocol, Went::Well, text, place);
        } else {
            let text = format!("{text}: answered from there after {after}");
            self.from(hop, at, protocol, Went::Well, text);
        }
        if !self.report.macs.contains(&mac) {
            self.report.macs.push(mac);
        }
    }

    /// What the rules of hosts that this one does not see would do with it, where it was not answered.
    pub(super) fn expect(&mut self, proto: u8, flow: Option<&FlowKey>) {
        let Asker { snapshot, network, own, to, ref name, .. } = *self.asker;
        if self.report.verdict == REACHED {
            return;
        }
        let is_lost = self.report.verdict == NO_ANSWER;
        let has_left = is_lost || [REFUSED, UNREACHABLE].contains(&&*self.report.verdict);
        let is_icmp = matches!(proto, proto::ICMP | proto::ICMPV6);
        let (sport, dport) = flow.filter(|_| !is_icmp).map_or((0, 0), |flow| (flow.sport, flow.dport));
        let request = TraceRequest {
            vni: network.vni,
            frame: None,
            proto,
            src: own,
            dst: to,
            sport,
            dport,
            icmp: is_icmp.then_some(if to.is_v4() { (8, 0) } else { (128, 0) }),
            from: Some(name.clone()),
        };
        let Ok(walked) = trace::trace(snapshot, &request, Live::NOTHING, clock::now()) else { return };
        let here = snapshot.host.to_string();
        self.report.to_pass = walked.to_pass;
        let refusals: Vec<TraceStep> = walked
            .steps
            .into_iter()
            .filter(|step| has_left && step.result == "drop" && !step.host.is_empty() && step.host != here)
            .collect();
        let is_refused = !refusals.is_empty();
        self.report.steps.extend(refusals.into_iter().map(|step| {
            let text = format!("by the configuration: {} ({})", step.text, walked.verdict);
            ProbeStep { after_us: None, step: TraceStep { text, result: "note".to_owned(), ..step } }
        }));
        if is_refused || !is_lost || walked.verdict != "forwarded" {
            return;
        }
        match self.asker.host_of(to) {
            Some((host, true)) if host != here => {
                let text = "by the configuration nothing refuses it there: `eastgate capture` and `eastgate show drops` on \
                            that host say whether it came";
                self.step(None, "expect", host.to_owned(), Went::Note, text.to_owned(), None);
            }
            Some((host, _)) if host == here => {
                let text = "it was sent out of the port: whether the machine takes it is to be seen there, or by \
                            `eastgate capture` at the port";
                self.step(None, "expect", here, Went::Note, text.to_owned(), None);
            }
            _ => {}
        }
    }

    /// How many were answered, and how fast.
    pub(super) fn answered(&mut self, took_us: u64) {
        self.report.answered += 1;
        self.report.round_trips_us.push(took_us);
        self.report.verdict = REACHED.to_owned();
    }
}

/// The step of the path that drops for a reason, as a trace names it
const fn at_step(group: DropGroup) -> &'static str {
    match group {
        DropGroup::Malformed | DropGroup::Admission => "admit",
        DropGroup::Underlay => "decapsulate",
        DropGroup::Neighbor => "answer",
        DropGroup::State | DropGroup::Fragment => "track",
        DropGroup::Policy => "decide",
        DropGroup::Forward => "forward",
        DropGroup::Limit => "limit",
        DropGroup::Device => "device",
    }
}

/// Ways out that are told one by one
const WAYS: usize = 4;

/// Microseconds of a time
pub(super) fn micros(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// A time in words
pub(super) fn millis(micros: u64) -> String {
    format!("{}.{:02} ms", micros / 1000, micros % 1000 / 10)
}

/// An ICMP error in words
pub(super) fn icmp_error(v4: bool, kind: u8, code: u8, mtu: Option<u32>) -> String {
    let words = match (v4, kind, code) {
        (true, 3, 0) | (false, 1, 0) => "no route to the network",
        (true, 3, 1) | (false, 1, 3) => "the host is not reached",
        (true, 3, 2) => "no such protocol there",
        (true, 3, 3) | (false, 1, 4) => "nobody listens at the port",
        (true, 3, 4) | (false, 2, _) => "the packet is too big",
        (true, 3, 9 | 10 | 13) | (false, 1, 1 | 5 | 6) => "administratively prohibited",
        (true, 11, _) | (false, 3, _) => "its time was exceeded",
        _ => "it failed",
    };
    let name = if v4 { names::protocol_name(proto::ICMP) } else { names::protocol_name(proto::ICMPV6) };
    let mtu = mtu.map_or_else(String::new, |mtu| format!(", {mtu} bytes fit"));
    format!("{words} ({name} type {kind} code {code}{mtu})")
}

/// Is it the machine itself that refuses, by an error that it sends?
pub(super) const fn is_refusal(v4: bool, kind: u8, code: u8) -> bool {
    matches!((v4, kind, code), (true, 3, 2 | 3 | 9 | 10 | 13) | (false, 1, 1 | 4 | 5 | 6))
}
