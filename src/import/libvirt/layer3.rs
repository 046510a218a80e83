//! Rules for TCP, UDP and the like, as rules here. libvirt follows connections for them, too.

use std::collections::BTreeMap;

use eastgate_policy::analysis::AddressRange;
use eastgate_wire::{Addr, Family, names};
use ipnet::IpNet;

use super::{
    counted::Counted,
    filter::{Action, Bound, Rule as Written},
    layer2::is_below_ip,
    variables::expanded,
};
use crate::{
    faults::Faults,
    import::site::{Not, Rule},
};

/// The rules of one family
#[derive(Default)]
pub(super) struct Rules {
    pub(super) ingress: List,
    pub(super) egress: List,
    pub(super) notes: Vec<String>,
}

/// The rules of one family and direction
#[derive(Default)]
pub(super) struct List {
    /// In their order, with what each of them does
    pub(super) ordered: Vec<(&'static str, Rule)>,
    /// What no rule settles is accepted.
    pub(super) open: bool,
}

impl List {
    /// Some rule drops what a later one would accept, or asks for what a group's rules do not ask for: it takes a policy.
    pub(super) fn is_ordered(&self) -> bool {
        let takes_policy = |(action, rule): &(&str, Rule)| {
            *action != "allow" || rule.dscp.is_some() || rule.tcp_flags.is_some()
        };
        self.ordered.iter().any(takes_policy)
    }
}

/// The rules that a filter comes to in a family; none where that cannot be said here, which is told.
pub(super) fn rules(bound: &[Bound<'_>], family: Family, faults: &mut Faults) -> Option<Rules> {
    let mut all: Vec<(&Bound<'_>, String)> = Vec::new();
    for it in bound.iter().filter(|it| !is_below_ip(it.rule)) {
        match element(&it.rule.protocol) {
            Some((name, of)) if of == family => all.push((it, name)),
            Some(_) => {}
            None => {
                let message = format!("there is no protocol `{}`", it.rule.protocol);
                faults.add(it.rule.at.clone(), message, "correct the filter");
                return None;
            }
        }
    }
    // Those of one priority in the order in which they are written.
    all.sort_by_key(|(it, _)| it.rule.priority);
    let mut made = Rules::default();
    for outgoing in [false, true] {
        let mut list = List { ordered: Vec::new(), open: true };
        let mut counted = Counted::default();
        for (it, protocol) in all.iter().filter(|(it, _)| it.rule.is_for(outgoing)) {
            let action = match it.rule.action {
                Action::Accept => "allow",
                Action::Drop => "deny",
                Action::Reject => "reject",
                Action::Continue => continue,
                Action::Return => {
                    refuse(it, "`return` among rules for protocols", faults);
                    return None;
                }
            };
            let matched = match all_matched(it, protocol, family, outgoing, &mut made.notes) {
                Ok(matched) => matched,
                Err(message) => {
                    refuse(it, &message, faults);
                    return None;
                }
            };
            // Nothing is left for those behind it.
            if action == "deny" && matched.contains(&anything(family)) {
                list.open = false;
                break;
            }
            for mut rule in matched {
                let limited = match (rule.connections.take(), action) {
                    (Some(most), _) => {
                        counted.add(rule, most);
                        continue;
                    }
                    (None, "allow") => counted.limit(&mut rule),
                    (None, _) => Ok(()),
                };
                if let Err(message) = limited {
                    refuse(it, &message, faults);
                    return None;
                }
                list.ordered.push((action, rule));
            }
        }
        if list.open
            && let (Err(message), Some((last, _))) = (counted.end_open(), all.last())
        {
            refuse(last, &message, faults);
            return None;
        }
        *(if outgoing { &mut made.egress } else { &mut made.ingress }) = list;
    }
    Some(made)
}

fn refuse(it: &Bound<'_>, message: &str, faults: &mut Faults) {
    let remedy = "describe it by hand; docs/migrating.md says what there is here";
    faults.add(it.rule.at.clone(), message, remedy);
}

/// Every packet of a family
pub(super) fn anything(family: Family) -> Rule {
    Rule { family: Some(family), ..Rule::any() }
}

/// The protocol of an element, and the family that it is for.
fn element(name: &str) -> Option<(String, Family)> {
    let (protocol, family) = match name.strip_suffix("-ipv6") {
        Some(protocol) => (protocol, Family::V6),
        None if name == "icmpv6" => (name, Family::V6),
        None => (name, Family::V4),
    };
    let known = matches!(
        protocol,
        "all" | "tcp" | "udp" | "udplite" | "sctp" | "icmp" | "icmpv6" | "igmp" | "esp" | "ah"
    );
    known.then(|| (protocol.to_owned(), family))
}

/// What a rule matches, for all values of its variables; nothing where that is only answers, which pass by themselves.
fn all_matched(
    it: &Bound<'_>,
    protocol: &str,
    family: Family,
    outgoing: bool,
    notes: &mut Vec<String>,
) -> Result<Vec<Rule>, String> {
    let own = if outgoing { "srcipaddr" } else { "dstipaddr" };
    let mut all: Vec<Rule> = Vec::new();
    for asks in expanded(it.rule, &it.variables, own)? {
        let Some(rule) = matched(it.rule, &asks, protocol, family, outgoing, notes)? else { continue };
        let same = |other: &&mut Rule| Rule { peers: rule.peers.clone(), ..(**other).clone() } == rule;
        // Those that differ in the other end alone are one with several; negated, each is all but its own.
        match all.iter_mut().find(same).filter(|_| !rule.not.contains(&Not::Peers)) {
            Some(other) => {
                let new = rule.peers.into_iter().filter(|peer| !other.peers.contains(peer));
                let new: Vec<String> = new.collect();
                other.peers.extend(new);
            }
            None => all.push(rule),
        }
    }
    Ok(all)
}

fn matched(
    rule: &Written,
    asks: &BTreeMap<String, String>,
    protocol: &str,
    family: Family,
    outgoing: bool,
    notes: &mut Vec<String>,
) -> Result<Option<Rule>, String> {
    if rule.stateless {
        return Err("a rule that does not follow connections (`statematch`)".into());
    }
    let mut made = Rule { family: Some(family), peers: vec!["any".into()], ..Rule::default() };
    made.protocol = match protocol {
        "all" => None,
        other => Some(other.to_owned()),
    };
    let asks: Vec<(&str, &str)> = asks.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let is_about_one_way = asks.iter().any(|(key, _)| key.starts_with("src") || key.starts_with("dst"));
    if rule.incoming && rule.outgoing && is_about_one_way {
        return Err("addresses or ports in a rule for both directions: write one for each".into());
    }
    let (peer, own) = if outgoing { ("dst", "src") } else { ("src", "dst") };
    let mut peers = Side::default();
    let (mut ports, mut source_ports) = ((None, None), (None, None));
    let mut icmp = (None, None);
    for (key, value) in asks {
        let number = || value.parse::<u16>().map_err(|_| format!("`{value}` is no number"));
        let byte = || value.parse::<u8>().map_err(|_| format!("`{value}` is no number up to 255"));
        match key {
            "connlimit-above" | "state" if rule.negated => return Err(format!("`{key}`, negated")),
            "connlimit-above" if rule.action == Action::Drop => {
                let most = value.parse::<u32>().ok().filter(|most| *most > 0);
                made.connections = Some(most.ok_or_else(|| format!("at most `{value}` connections"))?);
            }
            "connlimit-above" => return Err("`connlimit-above` in a rule that does not drop".into()),
            "comment" => made.description = Some(value.to_owned()),
            "state" => {
                let states: Vec<String> = value.split(',').map(|state| state.trim().to_uppercase()).collect();
                if rule.action != Action::Accept {
                    return Err(format!("a rule that drops connections in the state {value}"));
                }
                if states.iter().all(|state| matches!(state.as_str(), "ESTABLISHED" | "RELATED")) {
                    notes.push(
                        "Answers and errors of connections pass by themselves: rules for them are left out"
                            .into(),
                    );
                    return Ok(None);
                }
                if states.iter().any(|state| !matches!(state.as_str(), "NEW" | "ESTABLISHED" | "RELATED")) {
                    return Err(format!("connections in the state {value}"));
                }
            }
            "dstportstart" => ports.0 = Some(number()?),
            "dstportend" => ports.1 = Some(number()?),
            "srcportstart" => source_ports.0 = Some(number()?),
            "srcportend" => source_ports.1 = Some(number()?),
            "dscp" => {
                let dscp =
                    value.strip_prefix("0x").map_or_else(|| value.parse(), |hex| u8::from_str_radix(hex, 16));
                let dscp = dscp.ok().filter(|dscp| *dscp < 64);
                made.dscp = Some(dscp.ok_or_else(|| format!("`{value}` is no DSCP"))?);
            }
            "flags" if protocol == "tcp" => made.tcp_flags = Some(tcp_flags(value)?),
            "type" => icmp.0 = Some(byte()?),
            "code" => icmp.1 = Some(byte()?),
            key if key.strip_prefix(own) == Some("ipaddr") && matches!(value, "$IP" | "$IPV6") => {
                if rule.negated {
                    return Err("all but its own addresses, which are checked otherwise here".into());
                }
            }
            key => match key.strip_prefix(peer) {
                Some(part @ ("ipaddr" | "ipmask" | "ipfrom" | "ipto")) => peers.take(part, value),
                _ => return Err(format!("nothing here asks for `{key}`")),
            },
        }
    }
    made.ports = range(ports)?;
    made.source_ports = range(source_ports)?;
    if (made.ports.is_some() || made.source_ports.is_some())
        && !names::protocol_number(protocol).is_some_and(names::has_ports)
    {
        return Err(format!("{protocol} has no ports"));
    }
    made.icmp = match icmp {
        (None, None) => None,
        (None, Some(_)) => return Err("an ICMP code without a type".into()),
        (Some(kind), code) => Some((kind, code)),
    };
    let net = peers.prefixes(family)?;
    if let Some(nets) = &net {
        made.peers = nets.iter().map(ToString::to_string).collect();
        made.family = None;
    }
    if rule.negated {
        // Each by itself, as the sign before each option of iptables does.
        let asked = [
            (made.ports.is_some(), Not::Ports),
            (made.source_ports.is_some(), Not::SourcePorts),
            (made.icmp.is_some(), Not::Icmp),
            (net.is_some(), Not::Peers),
            (made.dscp.is_some(), Not::Dscp),
            (made.tcp_flags.is_some(), Not::TcpFlags),
        ];
        made.not = asked.into_iter().filter(|(asked, _)| *asked).map(|(_, not)| not).collect();
        let is_whole = |(first, last): (u16, u16)| first == 0 && last == u16::MAX;
        let whole = net.iter().flatten().any(|net| net.prefix_len() == 0);
        // What is all but everything matches nothing.
        if whole || made.ports.is_some_and(is_whole) || made.source_ports.is_some_and(is_whole) {
            return Ok(None);
        }
    }
    if made.icmp.is_some() || made.protocol.as_deref() == Some("icmpv6") {
        made.family = None;
    }
    Ok(Some(made))
}

/// `SYN,ACK/SYN`, which are looked at and which of them are set, as a configuration writes it: the other way round
fn tcp_flags(text: &str) -> Result<String, String> {
    const ALL: &str = "syn,ack,urg,psh,fin,rst";
    let wrong = || format!("`{text}` is nothing that TCP flags could be");
    let (mask, set) = text.split_once('/').ok_or_else(wrong)?;
    let names = |list: &str| {
        let list = list.to_ascii_lowercase();
        let list = if list == "all" { ALL.to_owned() } else { list };
        let known = list.split(',').all(|name| ALL.split(',').any(|known| known == name));
        (known || list == "none").then_some(list).ok_or_else(wrong)
    };
    let (mask, set) = (names(mask)?, names(set)?);
    if mask == "none"
        || set != "none" && !set.split(',').all(|name| mask.split(',').any(|known| known == name))
    {
        return Err(wrong());
    }
    Ok(format!("{set}/{mask}"))
}

fn range((first, last): (Option<u16>, Option<u16>)) -> Result<Option<(u16, u16)>, String> {
    match (first, last) {
        (None, None) => Ok(None),
        (Some(first), last) if last.is_none_or(|last| first <= last) => {
            Ok(Some((first, last.unwrap_or(first))))
        }
        _ => Err("a range of ports that is none".into()),
    }
}

/// The addresses of the other end as they are written
#[derive(Default)]
struct Side {
    address: Option<String>,
    mask: Option<String>,
    from: Option<String>,
    to: Option<String>,
}

impl Side {
    fn take(&mut self, part: &str, value: &str) {
        let value = Some(value.to_owned());
        match part {
            "ipaddr" => self.address = value,
            "ipmask" => self.mask = value,
            "ipfrom" => self.from = value,
            _ => self.to = value,
        }
    }

    /// The prefixes; none for any.
    fn prefixes(&self, family: Family) -> Result<Option<Vec<IpNet>>, String> {
        let address = |text: &str| {
            let parsed = text.parse::<std::net::IpAddr>().ok();
            let right = parsed.filter(|address| Addr::from(*address).family() == family);
            right.ok_or_else(|| format!("`{text}` is no address of this family"))
        };
        if let (Some(from), Some(to)) = (&self.from, &self.to) {
            let range = AddressRange { first: address(from)?.into(), last: address(to)?.into() };
            if range.first > range.last || self.address.is_some() {
                return Err("a range of addresses that is none".into());
            }
            let net = |(network, len): (Addr, u8)| {
                let added = if network.is_v4() { 96 } else { 0 };
                IpNet::new(network.to_ip(), len - added).map_err(|error| error.to_string())
            };
            return range.prefixes().into_iter().map(net).collect::<Result<_, _>>().map(Some);
        }
        if self.from.is_some() || self.to.is_some() {
            return Err("a range of addresses with one end".into());
        }
        let Some(text) = &self.address else {
            return if self.mask.is_some() { Err("a mask without an address".into()) } else { Ok(None) };
        };
        let address = address(text)?;
        let Some(mask) = &self.mask else { return Ok(Some(vec![IpNet::from(address)])) };
        let made = match (mask.parse::<u8>(), mask.parse::<std::net::IpAddr>()) {
            (Ok(len), _) => IpNet::new(address, len).ok(),
            (_, Ok(mask)) => IpNet::with_netmask(address, mask).ok(),
            _ => None,
        };
        made.map(|net| Some(vec![net.trunc()])).ok_or_else(|| format!("`{mask}` is no mask"))
    }
}
