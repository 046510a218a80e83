//! Neutron's rules as rules here.

use std::collections::{BTreeMap, BTreeSet};

use eastgate_config::Place;
use eastgate_wire::{Family, names};
use ipnet::IpNet;

use super::{Cloud, GroupIn, tenant_of};
use crate::{
    faults::Faults,
    import::{
        Map,
        site::{AddressSet, Names, Rule, Site},
    },
};

/// A rule as it was read.
#[derive(Clone, Debug)]
pub(super) struct RuleIn {
    pub(super) at: Place,
    pub(super) ingress: bool,
    pub(super) ethertype: String,
    pub(super) protocol: Option<String>,
    /// Ports, or ICMP type and code
    pub(super) range: (Option<i64>, Option<i64>),
    pub(super) prefix: Option<String>,
    pub(super) group: Option<String>,
    pub(super) address_group: Option<String>,
    pub(super) description: String,
}

/// What rules and ports refer to.
pub(super) struct Context<'c> {
    pub(super) cloud: &'c Cloud,
    pub(super) map: &'c Map,
    /// Names of groups, by tenant
    pub(super) names: &'c BTreeMap<String, Names>,
}

pub(super) fn is_icmp(protocol: &str) -> bool {
    matches!(protocol, "icmp" | "icmpv6" | "ipv6-icmp" | "1" | "58")
}

/// Protocols of Neutron that have another name here, or none (its API reference, security group rules)
fn number_of(protocol: &str) -> Option<u8> {
    match protocol {
        "ipip" => Some(4),
        "egp" => Some(8),
        "ipv6-encap" => Some(41),
        "rsvp" => Some(46),
        "ipv6-icmp" => Some(58),
        "pgm" => Some(113),
        other => names::protocol_number(other),
    }
}

impl Context<'_> {
    /// A group's name in its tenant.
    pub(super) fn group_name(&self, tenant: &str, id: &str) -> Option<String> {
        self.names.get(tenant)?.known(id).map(str::to_owned)
    }

    /// The rule as it is written here; none where that cannot be, which is told, or where nobody is like that.
    pub(super) fn rule(&self, id: &str, rule: &RuleIn, of: &GroupIn, faults: &mut Faults) -> Option<Rule> {
        let family = match rule.ethertype.as_str() {
            "IPv4" => Family::V4,
            "IPv6" => Family::V6,
            other => {
                let message = format!("ethertype `{other}` is none of IPv4 and IPv6");
                faults.add(rule.at.clone(), message, "print the rule with a newer client");
                return None;
            }
        };
        let mut made = Rule { note: Some(format!("rule {id}")), ..Rule::default() };
        made.description = Some(rule.description.clone());
        self.service(rule, family, &mut made, faults)?;
        self.peers(rule, family, of, &mut made, faults)?;
        Some(made)
    }

    pub(super) fn service(
        &self,
        rule: &RuleIn,
        family: Family,
        made: &mut Rule,
        faults: &mut Faults,
    ) -> Option<()> {
        let mut wrong = |message: String, remedy: &str| {
            faults.add(rule.at.clone(), message, remedy);
            None
        };
        let within = |number: Option<i64>, most: i64| number.is_none_or(|it| (0..=most).contains(&it));
        let Some(protocol) = rule.protocol.as_deref().filter(|it| !matches!(*it, "any" | "-1")) else {
            return match rule.range {
                (None, None) => Some(()),
                _ => wrong("ports without a protocol".into(), "name the protocol in the rule"),
            };
        };
        let (min, max) = rule.range;
        if is_icmp(protocol) {
            // Neutron reads `icmp` in a rule for IPv6 as ICMPv6.
            let is_v6_name = !matches!(protocol, "icmp" | "1");
            if is_v6_name && family == Family::V4 {
                return wrong("ICMPv6 in IPv4".into(), "correct the rule's ethertype");
            }
            made.protocol = Some(if family == Family::V4 { "icmp" } else { "icmpv6" }.into());
            if !within(min, 255) || !within(max, 255) || (min.is_none() && max.is_some()) {
                return wrong("an ICMP type and code that cannot be".into(), "correct the rule");
            }
            made.icmp = min.map(|kind| (kind as u8, max.map(|code| code as u8)));
            return Some(());
        }
        if matches!(
            protocol,
            "ipv6-frag" | "44" | "ipv6-route" | "43" | "ipv6-opts" | "60" | "ipv6-nonxt" | "59"
        ) {
            let message =
                format!("`{protocol}` is an extension header: rules here are about what follows them");
            return wrong(message, "name the protocol that is carried");
        }
        let Some(number) = number_of(protocol) else {
            return wrong(format!("there is no protocol `{protocol}`"), "give it as a number");
        };
        made.protocol = Some(names::protocol_name(number));
        if !within(min, 65_535) || !within(max, 65_535) {
            return wrong("a port that cannot be".into(), "correct the rule");
        }
        made.ports = match (min, max) {
            (None, None) => None,
            (Some(min), Some(max)) if min <= max && names::has_ports(number) => {
                Some((min as u16, max as u16))
            }
            (Some(_), Some(_)) if !names::has_ports(number) => {
                return wrong(format!("{protocol} has no ports that could be matched"), "take the ports out");
            }
            _ => return wrong("a range of ports without both ends".into(), "correct the rule"),
        };
        Some(())
    }

    fn peers(
        &self,
        rule: &RuleIn,
        family: Family,
        of: &GroupIn,
        made: &mut Rule,
        faults: &mut Faults,
    ) -> Option<()> {
        let own_tenant = tenant_of(self.map, &of.project);
        let is_of_family = |net: &IpNet| net.addr().is_ipv4() == (family == Family::V4);
        let family_is_said = made.protocol.as_deref() == Some("icmpv6") || made.icmp.is_some();
        made.family = (!family_is_said).then_some(family);
        if let Some(group) = &rule.group {
            let Some(remote) = self.cloud.groups.get(group) else {
                let message = format!("the remote security group {group} is in none of the files");
                faults.add(rule.at.clone(), message, "give `openstack security group show` of it too");
                return None;
            };
            let tenant = tenant_of(self.map, &remote.project);
            let name = self.group_name(&tenant, group)?;
            let of = if tenant == own_tenant { String::new() } else { format!("{tenant}/") };
            made.peers = vec![format!("group:{of}{name}")];
            return Some(());
        }
        if let Some(id) = &rule.address_group {
            let Some(group) = self.cloud.address_groups.get(id) else {
                let message = format!("the remote address group {id} is in none of the files");
                faults.add(rule.at.clone(), message, "give `openstack address group show` of it too");
                return None;
            };
            let all: Option<Vec<IpNet>> = group.addresses.iter().map(|text| prefix(text)).collect();
            let Some(all) = all else {
                let message = format!("address group `{}` has something that is no prefix", group.name);
                faults.add(rule.at.clone(), message, "print it with `openstack address group show -f json`");
                return None;
            };
            made.peers = vec![format!("set:{}", self.set_name(id)?)];
            // Where there is no address of the family, nobody is like that.
            return all.iter().any(is_of_family).then_some(());
        }
        match rule.prefix.as_deref().map(|text| (text, prefix(text))) {
            None => made.peers = vec!["any".into()],
            Some((_, Some(net))) if is_of_family(&net) => {
                if net.prefix_len() == 0 {
                    made.peers = vec!["any".into()];
                } else {
                    made.family = None;
                    made.peers = vec![net.to_string()];
                }
            }
            Some((text, _)) => {
                let message = format!("{text} is no prefix of {}", rule.ethertype);
                faults.add(rule.at.clone(), message, "correct the rule");
                return None;
            }
        }
        Some(())
    }

    /// The name of an address group's set
    fn set_name(&self, id: &str) -> Option<String> {
        let mut names = Names::default();
        for (known, group) in &self.cloud.address_groups {
            names.of(known, &group.name);
        }
        names.known(id).map(str::to_owned)
    }

    /// The sets that rules name, in each tenant that does.
    pub(super) fn sets(&self, site: &mut Site) {
        for tenant in site.tenants.values_mut() {
            let rules = tenant.groups.values().flat_map(|group| group.ingress.iter().chain(&group.egress));
            let peers = rules.flat_map(|rule| &rule.peers);
            let named: BTreeSet<String> =
                peers.filter_map(|peer| peer.strip_prefix("set:")).map(str::to_owned).collect();
            for (id, group) in &self.cloud.address_groups {
                let Some(name) = self.set_name(id).filter(|name| named.contains(name)) else { continue };
                let addresses = group.addresses.iter().filter_map(|text| prefix(text)).collect();
                let notes = vec![format!("Neutron address group {} ({id})", group.name)];
                tenant.sets.insert(name, AddressSet { notes, addresses });
            }
        }
        self.wide_groups(site);
    }

    /// Neutron's members of a group are the prefixes of its ports' allowed pairs as well.
    fn wide_groups(&self, site: &mut Site) {
        for (id, group) in &self.cloud.groups {
            let members = self.cloud.ports.values().filter(|port| port.groups.contains(id));
            let mut nets = members.flat_map(|port| &port.pairs).filter_map(|pair| prefix(&pair.address));
            let is_named = self.cloud.rules.values().any(|(_, rule)| rule.group.as_ref() == Some(id));
            if !is_named || !nets.any(|net| net.prefix_len() < net.max_prefix_len()) {
                continue;
            }
            let tenant = tenant_of(self.map, &group.project);
            let name = self.group_name(&tenant, id).unwrap_or_default();
            let own = site.tenants.get_mut(&tenant).and_then(|tenant| tenant.groups.get_mut(&name));
            if let Some(own) = own {
                own.prefix_pairs = true;
            }
        }
    }
}

/// A prefix, or an address as one
pub(super) fn prefix(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>()
        .ok()
        .or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from))
        .map(|net| net.trunc())
}
