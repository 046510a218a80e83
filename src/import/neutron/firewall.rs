//! Firewall groups (FWaaS v2), by what `openstack firewall group list|show`, `firewall group policy list|show` and `firewall group rule
//! list|show` print with `-f json`.
//!
//! A firewall group becomes a group of its ports and a policy before the security groups. What its rules allow is passed on, since a
//! packet must pass security groups and firewall alike; what none of them allows is denied.

use std::collections::{BTreeMap, BTreeSet};

use eastgate_config::Place;
use eastgate_wire::Family;
use ipnet::IpNet;

use super::{
    rules::{Context, RuleIn, prefix},
    tenant_of,
};
use crate::{
    faults::Faults,
    import::{
        json::{Node, Object},
        site::{Group, Policy, Rule, Site},
    },
};

/// A firewall group as it was read
#[derive(Clone, Debug)]
pub(super) struct FirewallGroup {
    at: Place,
    pub(super) name: String,
    pub(super) project: String,
    shared: bool,
    up: bool,
    /// By ingress and egress
    policies: [Option<String>; 2],
    /// None where it is not said
    ports: Option<Vec<String>>,
}

#[derive(Clone, Debug)]
pub(super) struct FirewallPolicy {
    at: Place,
    name: String,
    /// None where it is not said
    rules: Option<Vec<String>>,
}

#[derive(Clone, Debug)]
pub(super) struct FirewallRule {
    at: Place,
    name: String,
    description: String,
    enabled: bool,
    /// None in a list that does not tell
    action: Option<String>,
    version: Option<i64>,
    protocol: Option<String>,
    source: Side,
    destination: Side,
}

/// One end of what a rule is about
#[derive(Clone, Debug, Default)]
struct Side {
    address: Option<String>,
    port: Option<String>,
    /// A firewall group
    group: Option<String>,
}

/// Why a rule cannot be said, and what to do about it
type Refusal = (String, &'static str);

/// The first and the last port
type Range = (Option<i64>, Option<i64>);

/// Which of these answers something is, if it is one; then it is noted.
pub(super) fn noted(cloud: &mut super::Cloud, object: &Object<'_>) -> bool {
    let has = |key| object.has(key);
    let id = object.text("ID");
    // Where a list says less than `show` did, that counts.
    if has("ID") && has("Firewall Rules") {
        cloud.firewall_policies.insert(id, FirewallPolicy::of(object));
    } else if has("ID") && has("Enabled") && (has("Action") || has("Summary") || has("IP Version")) {
        let rule = FirewallRule::of(object);
        let is_known = cloud.firewall_rules.get(&id).is_some_and(|known| known.action.is_some());
        if rule.action.is_some() || !is_known {
            cloud.firewall_rules.insert(id, rule);
        }
    } else if has("ID")
        && (has("Ingress Policy ID") || has("Egress Policy ID") || has("Ports") && has("State"))
    {
        let group = FirewallGroup::of(object);
        let is_known = cloud.firewall_groups.get(&id).is_some_and(|known| known.ports.is_some());
        if group.ports.is_some() || !is_known {
            cloud.firewall_groups.insert(id, group);
        }
    } else {
        return false;
    }
    true
}

/// The texts of a list; none where it is none, as of clients that print it as text.
fn texts(object: &Object<'_>, key: &str) -> Option<Vec<String>> {
    let list = object.get(key).and_then(Node::list)?;
    list.into_iter().map(Node::text).collect()
}

impl FirewallGroup {
    fn of(object: &Object<'_>) -> Self {
        let is_shared = |key: &str| object.get(key).and_then(Node::truth) == Some(true);
        Self {
            at: object.node.at(),
            name: object.text("Name"),
            project: object.text("Project"),
            shared: is_shared("Shared") || is_shared("Public"),
            up: !matches!(object.text("State").as_str(), "DOWN")
                && object.get("State").and_then(Node::truth) != Some(false),
            policies: [object.word("Ingress Policy ID"), object.word("Egress Policy ID")],
            ports: texts(object, "Ports"),
        }
    }
}

impl FirewallPolicy {
    fn of(object: &Object<'_>) -> Self {
        Self { at: object.node.at(), name: object.text("Name"), rules: texts(object, "Firewall Rules") }
    }
}

impl FirewallRule {
    fn of(object: &Object<'_>) -> Self {
        let side = |of: &str| Side {
            address: object.word(&format!("{of} IP Address")),
            port: object.word(&format!("{of} Port")),
            group: object.word(&format!("{of} Firewall Group ID")),
        };
        Self {
            at: object.node.at(),
            name: object.text("Name"),
            description: object.text("Description"),
            enabled: object.get("Enabled").and_then(Node::truth).unwrap_or(true),
            action: object.word("Action"),
            version: object.get("IP Version").and_then(Node::number),
            protocol: object.word("Protocol").filter(|protocol| protocol != "any"),
            source: side("Source"),
            destination: side("Destination"),
        }
    }

    /// The firewall groups that it names
    fn groups(&self) -> impl Iterator<Item = &String> {
        self.source.group.iter().chain(&self.destination.group)
    }
}

/// The firewall group of each port, by their identifiers; a port has one at most.
pub(super) fn by_port(cloud: &super::Cloud) -> BTreeMap<&str, &str> {
    let groups = cloud.firewall_groups.iter();
    groups.flat_map(|(id, group)| group.ports.iter().flatten().map(|port| (&**port, &**id))).collect()
}

/// The groups of ports, and the policies that apply to them.
pub(super) fn import(context: &Context<'_>, site: &mut Site, faults: &mut Faults) {
    let cloud = context.cloud;
    let named: BTreeSet<&String> = cloud.firewall_rules.values().flat_map(FirewallRule::groups).collect();
    let mut used: BTreeSet<&String> = BTreeSet::new();
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    for (id, group) in &cloud.firewall_groups {
        let tenant = tenant_of(context.map, &group.project);
        let Some(ports) = &group.ports else {
            faults.add(
                group.at.clone(),
                "this list of firewall groups does not tell their ports",
                "give `openstack firewall group list --long -f json`, or `firewall group show`",
            );
            continue;
        };
        used.extend(group.policies.iter().flatten());
        let content = site.tenants.entry(tenant.clone()).or_default();
        if ports.is_empty() && !named.contains(id) {
            content.notes.push(format!("Firewall group {} ({id}) has no ports: it is left out", group.name));
            continue;
        }
        for port in ports {
            if let Some(other) = seen.insert(port, &group.name) {
                let message = format!("port {port} is in the firewall group `{other}` as well");
                faults.add(group.at.clone(), message, "print the firewall groups anew: a port has one");
            }
            check_port(context, group, &tenant, port, faults);
        }
        let Some(name) = context.group_name(&tenant, id) else { continue };
        let shared = if group.shared { ", shared with other projects" } else { "" };
        let notes = vec![format!("Neutron firewall group {} ({id}){shared}: its ports", group.name)];
        content.groups.insert(name.clone(), Group { notes, ..Group::default() });
        if ports.is_empty() {
            continue;
        }
        let mut policy = Policy {
            notes: vec![format!("Neutron firewall group {} ({id})", group.name)],
            group: name.clone(),
            ..Policy::default()
        };
        for (at, (ingress, key)) in [(true, "ingress"), (false, "egress")].into_iter().enumerate() {
            let policy_id = group.policies.get(at).and_then(Option::as_ref).filter(|_| group.up);
            let mut list = Vec::new();
            match policy_id.map(|policy| (policy, cloud.firewall_policies.get(policy))) {
                None if group.up => policy.notes.push(format!("{key}: no firewall policy, nothing passes")),
                None => policy.notes.push(format!("{key}: it is down, nothing passes")),
                Some((policy_id, Some(of))) => {
                    policy.notes.push(format!("{key}: firewall policy {} ({policy_id})", of.name));
                    list = context.firewall_rules(id, of, ingress, &tenant, faults);
                }
                Some((policy_id, None)) => faults.add(
                    group.at.clone(),
                    format!("its firewall policy {policy_id} is in none of the files"),
                    "add what `openstack firewall group policy show` of it prints",
                ),
            }
            let rest = Rule { note: Some("What no rule allows".into()), ..Rule::any() };
            list.push(("deny", rest));
            *(if ingress { &mut policy.ingress } else { &mut policy.egress }) = list;
        }
        content.policies.insert(name, policy);
    }
    let unused = cloud.firewall_policies.iter().filter(|(id, _)| !used.contains(id));
    for (id, policy) in unused {
        if let Some(content) = site.tenants.values_mut().next() {
            let note =
                format!("Firewall policy {} ({id}) is of no firewall group: it is left out", policy.name);
            content.notes.push(note);
        }
    }
}

/// Refuses a port that a policy would not be about in the same way.
fn check_port(context: &Context<'_>, group: &FirewallGroup, tenant: &str, port: &str, faults: &mut Faults) {
    let Some(known) = context.cloud.ports.get(port) else { return };
    if context.map.port(&[port, &known.name, &known.mac]).skip {
        return;
    }
    if known.owner.starts_with("network:router") {
        faults.add(
            group.at.clone(),
            format!("its port {port} is a router's: the firewall is about what the router forwards"),
            "write a policy that applies to the network by hand, or leave the port out in the mapping file",
        );
    } else if tenant_of(context.map, &known.project) != tenant {
        faults.add(
            group.at.clone(),
            format!("its port {port} is of another project"),
            "let both projects go into one tenant, in the mapping file",
        );
    }
}

impl Context<'_> {
    /// The rules of a firewall policy in one direction, in their order.
    fn firewall_rules(
        &self,
        group: &str,
        policy: &FirewallPolicy,
        ingress: bool,
        tenant: &str,
        faults: &mut Faults,
    ) -> Vec<(&'static str, Rule)> {
        let Some(ids) = &policy.rules else {
            faults.add(
                policy.at.clone(),
                "the rules of this firewall policy are no list",
                "print it with `-f json` and a newer client",
            );
            return Vec::new();
        };
        let mut rules = Vec::new();
        for id in ids {
            let Some(rule) = self.cloud.firewall_rules.get(id) else {
                faults.add(
                    policy.at.clone(),
                    format!("its rule {id} is in none of the files"),
                    "add what `openstack firewall group rule list --long -f json` prints",
                );
                continue;
            };
            match self.firewall_rule(group, id, rule, ingress, tenant, faults) {
                Ok(made) => rules.extend(made),
                Err((message, remedy)) => faults.add(rule.at.clone(), message, remedy),
            }
        }
        rules
    }

    /// A rule; none where that is told, or where it is about nobody.
    fn firewall_rule(
        &self,
        group: &str,
        id: &str,
        rule: &FirewallRule,
        ingress: bool,
        tenant: &str,
        faults: &mut Faults,
    ) -> Result<Option<(&'static str, Rule)>, Refusal> {
        const ANEW: &str = "print the rule anew, with `openstack firewall group rule show -f json`";
        let action = match rule.action.as_deref() {
            // The security groups are asked as well.
            Some("allow") => "pass",
            Some("deny") => "deny",
            Some("reject") => "reject",
            Some(other) => return Err((format!("there is no action `{other}`"), ANEW)),
            None => {
                let remedy =
                    "give `openstack firewall group rule list --long -f json`, or `firewall group rule show`";
                return Err(("this list of rules does not tell what they do".into(), remedy));
            }
        };
        let (family, ethertype) = match rule.version {
            Some(4) => (Family::V4, "IPv4"),
            Some(6) => (Family::V6, "IPv6"),
            _ => return Err(("a rule without an IP version".into(), ANEW)),
        };
        let (peer, own) =
            if ingress { (&rule.source, &rule.destination) } else { (&rule.destination, &rule.source) };
        let read = RuleIn {
            at: rule.at.clone(),
            ingress,
            ethertype: ethertype.into(),
            protocol: rule.protocol.clone(),
            range: ports(rule.destination.port.as_deref())?,
            prefix: None,
            group: None,
            address_group: None,
            description: rule.description.clone(),
        };
        let source_ports = ports(rule.source.port.as_deref())?;
        let has_ports = read.range.0.is_some() || source_ports.0.is_some();
        if has_ports && !matches!(rule.protocol.as_deref(), Some("tcp" | "udp")) {
            return Err(("ports without tcp or udp".into(), "correct the rule"));
        }
        let mut made = Rule {
            note: Some(format!("rule {} ({id})", rule.name)),
            description: Some(rule.description.clone()),
            disabled: !rule.enabled,
            ..Rule::any()
        };
        if self.service(&read, family, &mut made, faults).is_none() {
            return Ok(None);
        }
        made.source_ports = match source_ports {
            (Some(first), Some(last)) => Some((first as u16, last as u16)),
            _ => None,
        };
        let net = |text: &str| {
            let net = prefix(text).filter(|net| net.addr().is_ipv4() == (family == Family::V4));
            net.ok_or_else(|| (format!("{text} is no prefix of {ethertype}"), "correct the rule"))
        };
        let is_some = |net: &IpNet| net.prefix_len() > 0;
        let peer_net = peer.address.as_deref().map(net).transpose()?.filter(is_some);
        made.own = own.address.as_deref().map(net).transpose()?.filter(is_some);
        if own.group.as_deref().is_some_and(|of| of != group) {
            return Err((
                "a rule for members of another firewall group than the one whose policy it is in".into(),
                "give each firewall group a policy of its own",
            ));
        }
        let family_is_said =
            made.protocol.as_deref() == Some("icmpv6") || peer_net.is_some() || made.own.is_some();
        made.family = (!family_is_said).then_some(family);
        match (&peer.group, peer_net) {
            (Some(_), Some(_)) => {
                return Err(("an address and a firewall group at one end".into(), "write two rules"));
            }
            (Some(remote), None) => {
                let Some(of) = self.cloud.firewall_groups.get(remote) else {
                    let remedy = "add what `openstack firewall group show` of it prints";
                    return Err((format!("the firewall group {remote} is in none of the files"), remedy));
                };
                let other = tenant_of(self.map, &of.project);
                let Some(name) = self.group_name(&other, remote) else { return Ok(None) };
                let of = if other == tenant { String::new() } else { format!("{other}/") };
                made.peers = vec![format!("group:{of}{name}")];
            }
            (None, Some(net)) => made.peers = vec![net.to_string()],
            (None, None) => {}
        }
        Ok(Some((action, made)))
    }
}

/// `80` or `80:90`
fn ports(text: Option<&str>) -> Result<Range, Refusal> {
    let Some(text) = text else { return Ok((None, None)) };
    let (first, last) = text.split_once(':').unwrap_or((text, text));
    let port = |text: &str| text.trim().parse::<u16>().ok().map(i64::from);
    match (port(first), port(last)) {
        (Some(first), Some(last)) if first <= last => Ok((Some(first), Some(last))),
        _ => Err((format!("`{text}` is no port, and no range of ports"), "correct the rule")),
    }
}
