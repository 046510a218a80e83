//! Rules for TCP, UDP and the like, as rules here. libvirt follows connections for them, too.

use eastgate_policy::analysis::AddressRange;
use eastgate_wire::{Addr, Family, names};
use ipnet::IpNet;

use super::{
    counted::Counted,
    filter::{Action, Bound},
    layer2::is_below_ip,
};
use crate::{faults::Faults, import::site::Rule};

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
            match matched(it, protocol, family, outgoing, &mut made.notes) {
                Ok(None) => {}
                // Nothing is left for those behind it.
                Ok(Some(rule)) if rule == anything(family) && action == "deny" => {
                    list.open = false;
                    break;
                }
                Ok(Some(mut rule)) => match (rule.connections.take(), action) {
                    (Some(most), _) => counted.add(rule, most),
                    (None, "allow") => match counted.limit(&mut rule) {
                        Ok(()) => list.ordered.push((action, rule)),
                        Err(message) => {
                            refuse(it, &message, faults);
                            return None;
                        }
                    },
                    (None, _) => list.ordered.push((action, rule)),
                },
                Err(message) => {
                    refuse(it, &message, faults);
                    return None;
                }
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

/// What a rule matches; none where that is only answers, which pass by themselves.
fn matched(
    it: &Bound<'_>,
    protocol: &str,
    family: Family,
    outgoing: bool,
    notes: &mut Vec<String>,
) -> Result<Option<Rule>, String> {
    let rule = it.rule;
    if rule.stateless {
        return Err("a rule that does not follow connections (`statematch`)".into());
    }
    let mut made = Rule { family: Some(family), peers: vec!["any".into()], ..Rule::default() };
    made.protocol = match protocol {
        "all" => None,
        other => Some(other.to_owned()),
    };
    let asks: Vec<(&str, &str)> =
        rule.asks.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
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
            "match" if matches!(value, "yes" | "1" | "true") => {}
            "match" => return Err("a rule for what does not match".into()),
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
            key if key.strip_prefix(own) == Some("ipaddr") && matches!(value, "$IP" | "$IPV6") => {}
            key => match key.strip_prefix(peer) {
                Some(part @ ("ipaddr" | "ipmask" | "ipfrom" | "ipto")) => peers.take(part, value, it)?,
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
    if let Some(nets) = peers.prefixes(family)? {
        made.peers = nets.iter().map(ToString::to_string).collect();
        made.family = None;
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
    addresses: Vec<String>,
    mask: Option<String>,
    from: Option<String>,
    to: Option<String>,
}

impl Side {
    fn take(&mut self, part: &str, value: &str, it: &Bound<'_>) -> Result<(), String> {
        let values = match value.strip_prefix('$') {
            None => vec![value.to_owned()],
            Some(name) => match it.variables.get(name) {
                Some(values) => values.clone(),
                None => return Err(format!("the variable {name} has no value")),
            },
        };
        let single = || match &values[..] {
            [only] => Ok(Some(only.clone())),
            _ => Err(format!("`{value}` has several values where one is needed")),
        };
        match part {
            "ipaddr" => self.addresses = values,
            "ipmask" => self.mask = single()?,
            "ipfrom" => self.from = single()?,
            _ => self.to = single()?,
        }
        Ok(())
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
            if range.first > range.last || !self.addresses.is_empty() {
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
        if self.addresses.is_empty() {
            return if self.mask.is_some() { Err("a mask without an address".into()) } else { Ok(None) };
        }
        let net = |text: &String| {
            let address = address(text)?;
            let whole = IpNet::from(address);
            let Some(mask) = &self.mask else { return Ok(whole) };
            let made = match (mask.parse::<u8>(), mask.parse::<std::net::IpAddr>()) {
                (Ok(len), _) => IpNet::new(address, len).ok(),
                (_, Ok(mask)) => IpNet::with_netmask(address, mask).ok(),
                _ => None,
            };
            made.map(|net| net.trunc()).ok_or_else(|| format!("`{mask}` is no mask"))
        };
        self.addresses.iter().map(net).collect::<Result<_, _>>().map(Some)
    }
}
