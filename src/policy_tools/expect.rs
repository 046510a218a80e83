//! Written expectations, each held against what the real path does with its packet.
//!
//! The packet goes through the same code as that of `eastgate trace`: admission, both ends' rules in their compiled form, forwarding,
//! on every host that it comes to.

mod read;

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::Arc,
};

use anyhow::{Context, Result};
use eastgate_api::TraceRequest;
use eastgate_config::{Config, Place};
use eastgate_dataplane::{
    attachments::Attachments,
    snapshot::{Network, Snapshot, state::StateRegistry},
    trace::{Live, trace},
};
use eastgate_policy::rule::{Action, Decision, Direction, Header, PortProtocol, Probe};
use eastgate_wire::{
    Addr, DropReason, EndpointId, Vni, names,
    view::{proto, tcp_flags},
};
use serde::Serialize;

pub use self::read::{Expectation, Wanted, read};
use super::Outcome;
use crate::faults::Faults;

/// How an expectation turned out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Row {
    /// It holds.
    pub holds: bool,
    /// Where it is written
    pub at: String,
    /// The packet
    pub packet: String,
    /// What was expected
    pub expected: String,
    /// What becomes of the packet
    pub found: String,
    /// What the sender's rules say
    pub egress: Option<Outcome>,
    /// What the receiver's rules say, where it came that far
    pub ingress: Option<Outcome>,
}

/// Holds the expectations of a file against a configuration: a row for each, and for each family that both of its ends have.
///
/// # Errors
/// [`Faults`] where names or addresses are wrong.
pub fn hold(config: &Arc<Config>, expectations: &[Expectation]) -> Result<Vec<Row>> {
    let mut hosts = Hosts { config, snapshots: HashMap::new() };
    let mut faults = Faults::default();
    let mut rows = Vec::new();
    for expectation in expectations {
        match ends(config, expectation) {
            Ok((vni, pairs)) => {
                let snapshot = hosts.of(vni)?;
                for pair in pairs {
                    rows.push(row(&snapshot, vni, pair, expectation)?);
                }
            }
            Err((at, message)) => {
                faults.add(
                    at,
                    message,
                    "write TENANT/ENDPOINT, or an address where the other end is an endpoint",
                );
            }
        }
    }
    Ok(faults.unless_any(rows)?)
}

/// Loads a file with expectations.
///
/// # Errors
/// [`Faults`], or why the file cannot be read.
pub fn load(path: &Path) -> Result<Vec<Expectation>> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(|| format!("{name} cannot be read"))?;
    Ok(read(&name, &text)?)
}

/// The snapshots of the hosts that are asked, each compiled once
struct Hosts<'c> {
    config: &'c Arc<Config>,
    snapshots: HashMap<String, Arc<Snapshot>>,
}

impl Hosts<'_> {
    fn of(&mut self, vni: Vni) -> Result<Arc<Snapshot>> {
        let networks = self.config.networks().find(|(_, network)| network.vni == vni);
        let host = networks
            .and_then(|(_, network)| self.config.members(network).find(|host| host.runs_eastgate()))
            .with_context(|| format!("no host that runs eastgate has a part in VNI {vni}"))?;
        if let Some(known) = self.snapshots.get(&*host.name) {
            return Ok(known.clone());
        }
        let states = StateRegistry::new(self.config.limits);
        let snapshot =
            Snapshot::compile(self.config, &host.name, None, &mut Attachments::default(), &states)?;
        let snapshot = Arc::new(snapshot);
        self.snapshots.insert(host.name.to_string(), snapshot.clone());
        Ok(snapshot)
    }
}

/// Sender and receiver: addresses, and the sender's name where it is an endpoint
type Pair = (Addr, Addr, Option<String>);

/// Between which addresses in which network.
fn ends(config: &Config, it: &Expectation) -> Result<(Vni, Vec<Pair>), (Place, String)> {
    let find = |name: &str| {
        let (tenant, key) = name.split_once('/')?;
        let endpoints = config.tenant(tenant)?.endpoints();
        endpoints.into_iter().find(|(_, endpoint)| &*endpoint.name == key)
    };
    let [from, to] = [&it.from, &it.to].map(|end| match end.name.parse::<std::net::IpAddr>() {
        Ok(address) => Ok((None, vec![Addr::from(address)])),
        Err(_) => match find(&end.name) {
            Some((network, endpoint)) => {
                let all = match end.address {
                    Some(address) => vec![Addr::from(address)],
                    None => endpoint.addresses.clone(),
                };
                Ok((Some((network.vni, network, endpoint)), all))
            }
            None => Err((end.at.clone(), format!("there is no endpoint `{}`", end.name))),
        },
    });
    let ((sender, sources), (receiver, destinations)) = (from?, to?);
    let vni = match (&sender, &receiver) {
        (Some((one, ..)), Some((other, ..))) if one != other => {
            let message = format!("{} and {} are in different networks", it.from.name, it.to.name);
            return Err((it.to.at.clone(), message));
        }
        (Some((vni, ..)), _) | (None, Some((vni, ..))) => *vni,
        (None, None) => {
            return Err((
                it.from.at.clone(),
                "neither end is an endpoint: this could be in any network".into(),
            ));
        }
    };
    // The first address of each family that both have.
    let mut pairs: BTreeMap<_, Pair> = BTreeMap::new();
    for source in &sources {
        let same = |address: &&Addr| {
            address.family() == source.family() && it.family.is_none_or(|family| family == source.family())
        };
        if let Some(destination) = destinations.iter().find(same) {
            let name = sender.as_ref().map(|(.., endpoint)| endpoint.name.to_string());
            pairs.entry(source.family()).or_insert((*source, *destination, name));
        }
    }
    if pairs.is_empty() {
        let message = format!("{} and {} have no addresses of one family", it.from.name, it.to.name);
        return Err((it.to.at.clone(), message));
    }
    Ok((vni, pairs.into_values().collect()))
}

fn row(snapshot: &Snapshot, vni: Vni, (src, dst, from): Pair, it: &Expectation) -> Result<Row> {
    // "icmp" is that of the packet's family, as in a rule.
    let proto = if it.protocol == proto::ICMP && !src.is_v4() { proto::ICMPV6 } else { it.protocol };
    let request = TraceRequest {
        vni,
        frame: None,
        proto,
        src,
        dst,
        sport: it.source_port,
        dport: it.port,
        icmp: it.icmp.filter(|_| matches!(proto, proto::ICMP | proto::ICMPV6)),
        from,
    };
    let report = trace(snapshot, &request, Live::NOTHING, crate::io::clock::now())
        .map_err(|error| anyhow::anyhow!("{}: {error}", it.at))?;
    let passed = matches!(report.verdict.as_str(), "forwarded" | "answered");
    let network = snapshot.network(vni).context("the network is gone")?;
    let probe = probe(&request);
    let sender = match &request.from {
        Some(name) => network.endpoints().find(|endpoint| *endpoint.name == **name),
        None => network.at_address(src).map(|(endpoint, _)| endpoint),
    };
    let ask = |endpoint: Option<EndpointId>, direction, peer| {
        endpoint.map(|id| (network.policy.decide(id, direction, peer, &probe), direction))
    };
    let egress = ask(sender.map(|endpoint| endpoint.id), Direction::Egress, dst);
    let ingress = ask(network.at_address(dst).map(|(endpoint, _)| endpoint.id), Direction::Ingress, src);
    let refused = [egress, ingress].into_iter().flatten().find(|(decision, direction)| {
        decision.drop_reason(*direction).is_some_and(|reason| reason.name() == report.verdict)
    });
    let outcome =
        |asked: Option<(Decision, Direction)>| asked.map(|(decision, _)| outcome(network, &decision));
    let is_refused_before = refused.is_some_and(|(_, direction)| direction == Direction::Egress);
    let (egress, ingress) = (outcome(egress), outcome(ingress.filter(|_| !is_refused_before)));
    let found = match (passed, refused) {
        (true, _) => "allow".to_owned(),
        (false, Some((decision, _))) if decision.verdict.action == Action::Reject => "reject".to_owned(),
        (false, Some(_)) => "deny".to_owned(),
        (false, None) => report.verdict.clone(),
    };
    let by_rule = |outcome: &Option<Outcome>, rule: &str| {
        outcome.as_ref().and_then(|outcome| outcome.rule.as_deref()) == Some(rule)
    };
    let rule_is_right = it.rule.as_deref().is_none_or(|rule| match refused {
        Some((_, Direction::Egress)) => by_rule(&egress, rule),
        Some((_, Direction::Ingress)) => by_rule(&ingress, rule),
        None => by_rule(&egress, rule) || by_rule(&ingress, rule),
    });
    let as_expected = match &it.expect {
        Wanted::Allow => passed,
        Wanted::Deny => found == "deny",
        Wanted::Reject => found == "reject",
        Wanted::Dropped(reason) => report.verdict == reason.name(),
    };
    let told = match found.as_str() {
        "allow" | "deny" | "reject" => found.clone(),
        other => format!("dropped, not by a rule: {other}{}", meaning(other)),
    };
    let rule = it.rule.as_ref().map_or_else(String::new, |rule| format!(" by {rule}"));
    Ok(Row {
        holds: as_expected && rule_is_right,
        at: it.at.to_string(),
        packet: report.packet,
        expected: format!("{}{rule}", it.expect.name()),
        found: told,
        egress,
        ingress,
    })
}

fn meaning(reason: &str) -> String {
    let known = DropReason::from_name(reason);
    known.map_or_else(String::new, |reason| format!(" ({})", reason.describe()))
}

fn probe(request: &TraceRequest) -> Probe {
    let echo = if request.proto == proto::ICMP { (8, 0) } else { (128, 0) };
    let header = match request.proto {
        proto::ICMP | proto::ICMPV6 => {
            let (kind, code) = request.icmp.unwrap_or(echo);
            Header::Icmp { kind, code }
        }
        number if PortProtocol::from_number(number).is_some() => {
            Header::Ports { source: request.sport, destination: request.dport }
        }
        _ => Header::Unread,
    };
    // What `trace` sends is the first packet of a flow.
    let tcp_flags = if request.proto == proto::TCP { tcp_flags::SYN } else { 0 };
    Probe { tcp_flags, ..Probe::new(request.proto, header) }
}

fn outcome(network: &Network, decision: &Decision) -> Outcome {
    Outcome::of(decision, &network.rules, &network.tenant.name)
}

/// How many hold, in words
#[must_use]
pub fn summary(rows: &[Row]) -> String {
    let failed = rows.iter().filter(|row| !row.holds).count();
    let all = names::count(rows.len(), "expectation");
    if failed == 0 { format!("{all} hold") } else { format!("{failed} of {all} fail") }
}
