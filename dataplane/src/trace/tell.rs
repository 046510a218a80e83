//! The steps of a trace in words: what was decided where, by which line of the configuration, and what came close.

use eastgate_api::TraceStep;
use eastgate_config::{self as config, Name};
use eastgate_conntrack::expect::Expectation;
use eastgate_policy::{
    admission::{self, Context},
    naive::{Explanation, Miss, Step, explain},
    rule::{Action, Direction, Probe},
};
use eastgate_steering::{Answers, kernel};
use eastgate_vtep::mtu::tenant_mtu;
use eastgate_wire::{Addr, Attachment, DropGroup, DropReason, Family, View, names};

use super::{
    CLOSE_CALLS, RECEIVERS, Sender, Walk,
    dry::{Fate, Opened},
    group_mac,
    remedy::Denied,
};
use crate::snapshot::Endpoint;

impl<'a> Walk<'a> {
    /// The steps as far as the packet got, each with what the configuration has to do with it.
    pub(super) fn tell(&mut self, sender: &Sender<'a>, frame: &[u8], live: Option<&Opened>, fate: &Fate) {
        self.is_live = live.is_some();
        let dst = self.network.at_address(self.request.dst).map(|(endpoint, _)| endpoint);
        let refused = if fate.arrived() { None } else { fate.drops.first().cloned() };
        let ends_at = refused.as_ref().map_or(usize::MAX, |(_, reason)| rank(*reason));
        if ends_at >= ADMIT {
            self.tell_admission(sender, frame, refused.as_ref().filter(|_| ends_at == ADMIT));
        }
        if ends_at > ADMIT && self.given.is_some_and(|given| !given.is_ip()) {
            // No rule is about it, and nobody remembers it.
            match refused {
                Some(_) => self.tell_refusal("forward", refused),
                None if fate.is_answered_only() => {}
                None => self.tell_forwarding(sender, dst, fate),
            }
            return self.tell_receivers(fate);
        }
        if ends_at > ADMIT && !self.is_bum() {
            self.answer(dst);
        }
        if fate.waits && !fate.arrived() && refused.is_none() {
            return self.note(
                "track",
                "waits for the first fragment of its datagram, which says what the rules are asked",
            );
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
                None if self.unreplied => {
                    "nobody has replied to its flow: the next host may have refused it, and is asked anew"
                        .to_owned()
                }
                None => "no flow yet: a flow that is live would pass without a decision".to_owned(),
            };
            self.pass("track", host, &text, None);
        }
        let decided = live.is_none_or(|opened| !opened.current);
        let probe = View::parse(frame).ok().and_then(|view| Probe::of(view.ip()?).ok());
        // Of a live flow, an end that keeps no state of it is asked all the same.
        if decided && ends_at >= EGRESS || ends_at == EGRESS {
            let refusal = refused.as_ref().filter(|_| ends_at == EGRESS);
            self.tell_decision(sender.endpoint, Direction::Egress, self.request.dst, probe.as_ref(), refusal);
        }
        if ends_at == FORWARD {
            return self.tell_refusal("forward", refused);
        }
        if ends_at > FORWARD {
            self.tell_forwarding(sender, dst, fate);
        }
        if decided && ends_at >= INGRESS && ends_at > FORWARD || ends_at == INGRESS {
            let refusal = refused.as_ref().filter(|_| ends_at == INGRESS);
            self.tell_decision(dst, Direction::Ingress, self.request.src, probe.as_ref(), refusal);
        }
        self.tell_receivers(fate);
    }

    fn tell_admission(&mut self, sender: &Sender<'a>, frame: &[u8], refused: Option<&(Name, DropReason)>) {
        let (ownership, site) = (&self.network.directory.ownership, &*self.snapshot.site);
        let guess = sender.guess.clone();
        let Some(endpoint) = sender.endpoint else {
            let at = self.network_place();
            match refused {
                Some(refused) => self.tell_refusal("admit", Some(refused.clone())),
                None => self.pass(
                    "admit",
                    "",
                    "the source is no endpoint; the network admits and learns unknown hosts",
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

    /// Is it for many, or for who is not known?
    fn is_bum(&self) -> bool {
        match self.given {
            Some(given) => !given.macs()[0].is_station(),
            None => group_mac(self.network, self.request.dst).is_some(),
        }
    }

    fn tell_refusal(&mut self, step: &str, refused: Option<(Name, DropReason)>) {
        let Some((host, reason)) = refused else { return };
        let near = match reason {
            DropReason::UnknownDestination | DropReason::NotForUs | DropReason::Unresolved
                if !self.is_bum() =>
            {
                self.close_addresses(self.request.dst)
            }
            _ => Vec::new(),
        };
        let nobody =
            matches!(reason, DropReason::UnknownDestination | DropReason::NotForUs | DropReason::Unresolved);
        let text = if nobody && self.is_bum() {
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
        let allowed = explained.decision.verdict.passes();
        match refused {
            None if allowed => self.tell_allowed(endpoint, step, direction, &explained),
            None if let Some(expected) = self.expected => self.note(step, &announced(&expected)),
            None => self.note(step, "what every network needs: no rule is asked"),
            Some(_) if !allowed => {
                self.note_denied(endpoint, direction, peer, &explained);
                self.tell_denied(endpoint, step, direction, &explained);
            }
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
            Some(rule) if explained.decision.denial(direction).is_some() => {
                (format!("{} would deny it, and is only being tried out", rule.rule), Some(rule.at))
            }
            Some(rule) if explained.decision.verdict.stateless => {
                (format!("{} allows it, and keeps no state", rule.rule), Some(rule.at))
            }
            Some(rule) => {
                let helper = explained.decision.verdict.helper;
                let reads =
                    helper.map_or_else(String::new, |it| format!(", and its helper {} reads it", it.name()));
                (format!("{} allows it{reads}", rule.rule), Some(rule.at))
            }
            None => (format!("the {} allow it", whose(direction)), None),
        };
        self.pass(step, &host, &text, at);
    }

    fn note_denied(
        &mut self,
        endpoint: &Endpoint,
        direction: Direction,
        peer: Addr,
        explained: &Explanation<'_>,
    ) {
        if self.is_live {
            // It is decided as a packet of its flow, and not as one that begins one.
            return;
        }
        let rule = explained.decision.rule.and_then(|rule| self.network.rules.get(rule.0));
        let by = rule.map(|rule| (rule.list.clone(), rule.number));
        self.denied = Some(Denied { endpoint: endpoint.name.clone(), direction, peer, by });
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
            Some(rule) if explained.decision.verdict.action == Action::Reject => {
                (format!("{} rejects it", rule.rule), Some(rule.at))
            }
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
            if fate.routed {
                let text = format!(
                    "handed to the kernel, which routes it by its table {} and takes one off its TTL",
                    kernel::table(self.network.vni)
                );
                self.pass("forward", host, &text, at);
                return;
            }
            let port = dst.and_then(|dst| self.attachment_of(dst));
            let to = match port.filter(|port| port.is_by_tag()) {
                Some(Attachment { device, vlan: Some(vlan), .. }) => {
                    format!("to VLAN {vlan} of port {device}, of the same host")
                }
                Some(Attachment { device, .. }) => {
                    format!("without a tag to port {device}, of the same host")
                }
                None => "to a port of the same host".to_owned(),
            };
            return self.pass("forward", host, &to, at);
        }
        let v4 = self.snapshot.vtep.0.is_ipv4();
        let overhead = u16::MAX - tenant_mtu(u16::MAX, if v4 { Family::V4 } else { Family::V6 }, 0);
        for (from, to) in fate.tunnels.iter().take(RECEIVERS) {
            let vtep =
                self.snapshot.config.host(to).map_or_else(|| "?".to_owned(), |host| host.vtep.to_string());
            let text = format!("encapsulated in VXLAN to {to} at {vtep}: {overhead} bytes more");
            self.pass("forward", from, &text, at.clone());
        }
    }

    fn tell_receivers(&mut self, fate: &Fate) {
        let tenant = self.network.tenant.name.clone();
        for (host, name) in fate.delivered.iter().take(RECEIVERS) {
            let at = self.network.endpoints().find(|endpoint| endpoint.name == *name);
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
            (Some(dst), Answers::Proxy { mac })
                if self.network.kernel_entry.is_some() && dst.attachment().is_some() =>
            {
                format!(
                    "{what} for {} is answered with {mac} by the kernel, which routes here",
                    self.request.dst
                )
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
                    Miss::Dscp => "is for another DSCP",
                    Miss::TcpFlags => "is for other TCP flags",
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

    pub(super) fn host_of(&self, endpoint: &Endpoint) -> Option<&'a config::Host> {
        let config = self.network.config()?.endpoint(&endpoint.name)?;
        self.snapshot.config.host(&config.host.host)
    }

    fn place_of(&self, endpoint: &Endpoint) -> Option<String> {
        Some(self.network.config()?.endpoint(&endpoint.name)?.at.to_string())
    }

    pub(super) fn attachment_of(&self, endpoint: &Endpoint) -> Option<&'a Attachment> {
        self.network.config()?.endpoint(&endpoint.name)?.attachment.as_ref()
    }

    fn network_place(&self) -> Option<String> {
        Some(self.network.config()?.at.to_string())
    }

    /// Who has an address that differs little from a wrong one.
    fn close_addresses(&self, address: Addr) -> Vec<String> {
        let mut all: Vec<(u32, Addr, &Endpoint)> = self
            .network
            .endpoints()
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
        (
            DropReason::MulticastRefused
            | DropReason::UnknownDestination
            | DropReason::NotForUs
            | DropReason::Unresolved
            | DropReason::DirectFrame,
            _,
        ) => LOCATE,
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

/// By what a packet passes that the rules alone would refuse.
fn announced(expected: &Expectation) -> String {
    let control = expected.related.control(&expected.key);
    format!(
        "helper {} expects it, by what was said in {}",
        expected.related.helper.name(),
        names::packet(&control)
    )
}
