//! What would have to change for a packet to pass that the rules refuse: rules of its protocol, port and other end, and where they belong.
//! Each is tried as the packet itself is, on the configuration with it, before anybody is told.

use std::{net::IpAddr, sync::Arc};

use eastgate_api::{Remedy, TraceRequest};
use eastgate_config::{
    Action, Config, EgressDefault, IcmpMatch, Mode, Name, Peer, Place, PortRange, Position, Protocol, Rule,
    Tenant,
};
use eastgate_policy::rule::Direction;
use eastgate_wire::{Addr, DropGroup, DropReason, Instant, names, view::proto};
use ipnet::IpNet;

use super::{Live, Walked, dry, walk};
use crate::{
    attachments::Attachments,
    snapshot::{
        Network, Snapshot,
        rules::{Owner, RuleList},
        state::StateRegistry,
    },
};

/// Rules that may be missing at most: at the one end and at the other, behind a policy of either.
const MOST: usize = 8;

/// Whose rules have refused a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Denied {
    /// Of which endpoint
    pub(super) endpoint: Name,
    /// In which direction
    pub(super) direction: Direction,
    /// The other side's address
    pub(super) peer: Addr,
    /// The list whose rule it was, and the rule's number; none where no rule allows it
    pub(super) by: Option<(RuleList, u32)>,
}

/// A rule where it belongs.
struct Change {
    list: RuleList,
    direction: Direction,
    /// How many rules are before it; all of the list where there is no number
    before: Option<usize>,
    rule: Rule,
    at: Place,
}

/// The rules that would let a packet through; none where rules alone do not.
pub(super) fn find(
    snapshot: &Snapshot,
    network: &Network,
    request: &TraceRequest,
    walked: &Walked,
    now: Instant,
) -> Vec<Remedy> {
    let mut config = dry::reduced(&snapshot.config, network);
    let (mut denied, mut remedies) = (walked.denied.clone(), Vec::new());
    while let Some(refusal) = denied.take() {
        let Some(change) = change(&config, network, &walked.asked, &refusal) else { return Vec::new() };
        if remedies.len() == MOST || change.apply(&mut config, network).is_none() {
            return Vec::new();
        }
        remedies.push(change.told(&network.tenant.name));
        let (states, mut registry) = (Arc::new(StateRegistry::new(config.limits)), Attachments::default());
        let config = Arc::new(config.clone());
        let changed = Snapshot::compile(&config, &snapshot.host, None, &mut registry, &states);
        let Some(again) = changed.ok().and_then(|changed| walk(&changed, request, Live::NOTHING, now).ok())
        else {
            return Vec::new();
        };
        match DropReason::from_name(&again.report.verdict) {
            // It passes, or is answered.
            None if again.report.verdict != "waits" => return remedies,
            // What has changed nothing is not what it needs.
            Some(reason)
                if reason.group() == DropGroup::Policy && again.denied.as_ref() != Some(&refusal) =>
            {
                denied = again.denied;
            }
            _ => return Vec::new(),
        }
    }
    Vec::new()
}

fn change(config: &Config, network: &Network, asked: &TraceRequest, denied: &Denied) -> Option<Change> {
    let tenant = config.tenants.get(&network.tenant.name)?;
    let (list, before, at, action) = match &denied.by {
        Some((RuleList::Policy(_, name) | RuleList::PolicyEnd(_, name), _)) if is_made(name) => return None,
        Some((list @ RuleList::Policy(owner, name), number)) => {
            let policy = policy_of(config, tenant, *owner, name)?;
            let rules = if denied.direction == Direction::Ingress { &policy.ingress } else { &policy.egress };
            let before = (*number as usize).checked_sub(1)?;
            // What a policy before the groups allows is allowed for all it applies to, whatever they say: they are asked.
            let action = if policy.position == Position::Before { Action::Pass } else { Action::Allow };
            (list.clone(), Some(before), rules.get(before)?.at.clone(), action)
        }
        Some((RuleList::PolicyEnd(owner, name), _)) => {
            let policy = policy_of(config, tenant, *owner, name)?;
            (RuleList::Policy(*owner, name.clone()), None, policy.at.clone(), Action::Pass)
        }
        None => {
            let endpoint = tenant.networks.get(&network.key)?.endpoint(&denied.endpoint)?;
            // The first egress rule of a group may be the end of what its members may send where networks are open.
            let is_open = |network: &eastgate_config::Network| network.egress_default == EgressDefault::Open;
            let closes = denied.direction == Direction::Egress && tenant.networks.values().any(is_open);
            let groups = || {
                let named = endpoint.groups.iter().filter_map(|name| tenant.groups.get(name));
                named.filter(|group| !is_made(&group.name) && (!closes || group.has_egress_rules()))
            };
            let group = groups().find(|group| group.stateful).or_else(|| groups().next())?;
            (RuleList::Group(group.name.clone()), None, group.at.clone(), Action::Allow)
        }
        Some(_) => return None,
    };
    let rule = Rule { action, ..rule(asked, denied.peer, &at) };
    Some(Change { list, direction: denied.direction, before, rule, at })
}

/// Whether it stands for filters, and is written in no file.
fn is_made(name: &str) -> bool {
    name.contains(':')
}

fn policy_of<'c>(
    config: &'c Config,
    tenant: &'c Tenant,
    owner: Owner,
    name: &Name,
) -> Option<&'c eastgate_config::Policy> {
    match owner {
        Owner::Site => config.site.policies.get(name),
        Owner::Tenant => tenant.policies.get(name),
    }
}

/// A rule that allows what is asked about, and little else.
fn rule(request: &TraceRequest, peer: Addr, at: &Place) -> Rule {
    let number = request.proto;
    let is_icmp = matches!(number, proto::ICMP | proto::ICMPV6);
    let echo = if number == proto::ICMP { 8 } else { 128 };
    let icmp = is_icmp.then(|| {
        let (kind, code) = request.icmp.map_or((echo, None), |(kind, code)| (kind, Some(code)));
        IcmpMatch { kind, code: code.filter(|_| kind != echo), negated: false }
    });
    let has_ports = names::has_ports(number) && !is_icmp;
    let ports = has_ports.then_some(PortRange { first: request.dport, last: request.dport });
    Rule {
        at: at.clone(),
        description: None,
        protocol: Protocol::Number(number),
        ports: ports.into_iter().collect(),
        source_ports: Vec::new(),
        icmp,
        family: Some(peer.family()),
        peers: vec![Peer::Prefix(IpNet::from(peer.to_ip()))],
        own: Box::default(),
        dscp: Box::default(),
        tcp_flags: None,
        helper: None,
        limits: None,
        action: Action::Allow,
        log: false,
        mode: Mode::Enforce,
    }
}

impl Change {
    fn apply(&self, config: &mut Config, network: &Network) -> Option<()> {
        let of_tenant = config.tenants.get_mut(&network.tenant.name)?;
        let lists = match &self.list {
            RuleList::Policy(Owner::Site, name) => {
                let policy = Arc::make_mut(&mut config.site).policies.get_mut(name)?;
                [&mut policy.ingress, &mut policy.egress]
            }
            RuleList::Policy(Owner::Tenant, name) => {
                let policy = Arc::make_mut(of_tenant).policies.get_mut(name)?;
                [&mut policy.ingress, &mut policy.egress]
            }
            RuleList::Group(name) => {
                let group = Arc::make_mut(Arc::make_mut(of_tenant).groups.get_mut(name)?);
                [Arc::make_mut(&mut group.ingress), Arc::make_mut(&mut group.egress)]
            }
            _ => return None,
        };
        let [ingress, egress] = lists;
        let list = if self.direction == Direction::Ingress { ingress } else { egress };
        list.insert(self.before.unwrap_or(list.len()).min(list.len()), self.rule.clone());
        Some(())
    }

    fn told(&self, tenant: &str) -> Remedy {
        let (direction, side) = match self.direction {
            Direction::Ingress => ("ingress", "from"),
            Direction::Egress => ("egress", "to"),
        };
        let list = self.list.name(tenant);
        let place = match self.before {
            Some(before) => format!("{list}, before {direction} #{}", before + 1),
            None => format!("{list}, {direction}"),
        };
        let mut rule = format!("{{ proto = {}", proto_name(self.rule.protocol));
        if let Some(port) = self.rule.ports.first() {
            rule += &format!(", ports = {}", port.first);
        }
        if let Some(icmp) = self.rule.icmp {
            rule += &format!(", icmp_type = {}", icmp.kind);
            if let Some(code) = icmp.code {
                rule += &format!(", icmp_code = {code}");
            }
        }
        if let Some(Peer::Prefix(net)) = self.rule.peers.first() {
            let address: IpAddr = net.addr();
            rule += &format!(", {side} = \"{address}\"");
        }
        if matches!(self.list, RuleList::Policy(..)) {
            let action = if self.rule.action == Action::Pass { "pass" } else { "allow" };
            rule += &format!(", action = \"{action}\"");
        }
        Remedy { place, rule: rule + " }", at: self.at.to_string() }
    }
}

fn proto_name(protocol: Protocol) -> String {
    let Protocol::Number(number) = protocol else { return "\"any\"".into() };
    let name = names::protocol_name(number);
    if name.parse::<u8>().is_ok() { name } else { format!("\"{name}\"") }
}

#[cfg(test)]
mod tests;
