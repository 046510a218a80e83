//! What becomes of frames below IP: the chains of a filter played through once for each kind of frame.

use std::collections::{BTreeMap, BTreeSet};

use eastgate_wire::{Family, MacAddr};
use ipnet::IpNet;

use super::filter::{Action, Bound, Rule, kind};
use crate::faults::Faults;

/// Kinds of frames
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Class {
    Ipv4,
    Ipv6,
    Arp,
    Rarp,
    Other,
}

/// What is checked of a frame that leaves.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Check {
    Mac,
    Ip,
    Ipv6,
    ArpMac,
    ArpIp,
}

impl Check {
    /// Whether frames of a kind have what it is about.
    fn is_of(self, class: Class) -> bool {
        match self {
            Self::Mac => true,
            Self::Ip => class == Class::Ipv4,
            Self::Ipv6 => class == Class::Ipv6,
            Self::ArpMac | Self::ArpIp => class == Class::Arp,
        }
    }
}

/// What becomes of a kind of frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    Pass,
    Drop,
    /// Only to and from one MAC
    Gateway,
}

/// What comes of a filter.
#[derive(Clone, Debug, Default)]
pub(super) struct Layer2 {
    /// By kind, and whether it goes out
    fates: BTreeMap<(Class, bool), Outcome>,
}

#[derive(Clone, Debug)]
struct Outcome {
    fate: Fate,
    checks: BTreeSet<Check>,
}

const CLASSES: [Class; 5] = [Class::Ipv4, Class::Ipv6, Class::Arp, Class::Rarp, Class::Other];

/// What a rule below IP asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ask {
    Everything,
    /// A kind of frame
    Kind(Class),
    /// Nothing that is its own, a part of which it is: what admission checks decide
    Own(Check),
    /// Messages that every network needs: DHCP, RARP of a machine that has moved
    Needed,
    /// To all: broadcast or multicast, which is not carried here without a rule that names it
    ToMany,
    /// One MAC, by a variable or as a number
    OneMac,
    /// Whatever is not of a kind, not its own, or not of one MAC
    NotKind(Class),
    NotOwn(Check),
    NotOneMac,
}

/// What rules of the chains ask for, by element and attributes (libvirt's documentation of the filter format)
fn ask(rule: &Rule) -> Option<Ask> {
    use Ask::{Everything, Kind, Needed, OneMac, Own, ToMany};
    let signature = rule.signature();
    if rule.negated {
        // Of several that are asked for, each is negated by itself: one alone is understood.
        return match ask(&Rule { negated: false, ..rule.clone() })? {
            Kind(class) if rule.protocol == "mac" => Some(Ask::NotKind(class)),
            Own(check) => Some(Ask::NotOwn(check)),
            OneMac => Some(Ask::NotOneMac),
            _ => None,
        };
    }
    let known = match (rule.protocol.as_str(), signature.as_str()) {
        ("" | "mac", "") => Everything,
        ("ip", "") => Kind(Class::Ipv4),
        ("ipv6", "") => Kind(Class::Ipv6),
        ("arp", "") => Kind(Class::Arp),
        ("rarp", "") => Kind(Class::Rarp),
        ("mac", "srcmacaddr=$mac") => Own(Check::Mac),
        ("mac", "protocolid=ipv4" | "protocolid=0x800" | "protocolid=0x0800") => Kind(Class::Ipv4),
        ("mac", "protocolid=ipv6" | "protocolid=0x86dd") => Kind(Class::Ipv6),
        ("mac", "protocolid=arp" | "protocolid=0x806" | "protocolid=0x0806") => Kind(Class::Arp),
        ("mac", "protocolid=rarp" | "protocolid=0x8035") => Kind(Class::Rarp),
        // What qemu wrote instead of RARP's number until 2010
        ("mac", "protocolid=0x835") => Needed,
        ("mac", "dstmacaddr=ff:ff:ff:ff:ff:ff") => ToMany,
        ("mac", one) if is_one_mac(one) => OneMac,
        ("ip", "srcipaddr=$ip") => Own(Check::Ip),
        ("ip", "protocol=udp srcipaddr=0.0.0.0") => Needed,
        (
            "ip",
            "dstipaddr=255.255.255.255 dstportstart=67 protocol=udp srcipaddr=0.0.0.0 srcportstart=68",
        ) => Needed,
        ("ip", "dstportstart=68 protocol=udp srcportstart=67") => Needed,
        ("ip", "dstportstart=68 protocol=udp srcipaddr=$dhcpserver srcportstart=67") => Needed,
        ("ip", "dstipaddr=224.0.0.0 dstipmask=4") => ToMany,
        ("ipv6", "srcipaddr=$ipv6") => Own(Check::Ipv6),
        ("ipv6", "protocol=udp srcipaddr=fe80:: srcipmask=10") => Needed,
        (
            "ipv6",
            "dstipaddr=ff02::1:2 dstportstart=547 protocol=udp srcipaddr=fe80:: srcipmask=10 srcportstart=546",
        ) => Needed,
        ("ipv6", "dstportstart=546 protocol=udp srcportstart=547") => Needed,
        ("ipv6", "dstportstart=546 protocol=udp srcipaddr=$dhcpserver srcportstart=547") => Needed,
        ("ipv6", "dstipaddr=ff00:: dstipmask=8") => ToMany,
        ("arp", "arpsrcmacaddr=$mac") => Own(Check::ArpMac),
        ("arp", "arpsrcipaddr=$ip") => Own(Check::ArpIp),
        ("rarp", announcement) if announcement.contains("arpsrcmacaddr=$mac") => Needed,
        ("rarp", announcement) if announcement.contains("arpdstmacaddr=$mac") => Needed,
        _ => return None,
    };
    Some(known)
}

fn is_one_mac(signature: &str) -> bool {
    let value = ["srcmacaddr=", "dstmacaddr="].iter().find_map(|key| signature.strip_prefix(key));
    value.is_some_and(|value| {
        let is_variable = value.starts_with('$') && value != "$mac" && !value.contains([' ', '[', '@']);
        is_variable || value.parse::<MacAddr>().is_ok_and(|mac| mac.0[0] & 1 == 0)
    })
}

/// Whether a rule is one of these chains, and not one about TCP, UDP and the like.
pub(super) fn is_below_ip(rule: &Rule) -> bool {
    matches!(rule.protocol.as_str(), "" | "mac" | "vlan" | "stp" | "arp" | "rarp" | "ip" | "ipv6")
}

/// What becomes of each kind of frame; none where that cannot be said here, which is told.
pub(super) fn evaluate(bound: &[Bound<'_>], faults: &mut Faults) -> Option<Layer2> {
    let rules: Vec<&Bound<'_>> = bound.iter().filter(|it| is_below_ip(it.rule)).collect();
    let mut refused: Vec<(&Rule, &str)> = Vec::new();
    for it in &rules {
        if matches!(kind(it.chain), "vlan" | "stp") {
            refused.push((it.rule, "chains of VLANs and spanning tree are nothing that is filtered here"));
        } else if ask(it.rule).is_none() {
            refused.push((it.rule, "this asks for something that no check here asks for"));
        }
    }
    let mut layer2 = Layer2::default();
    let kinds = CLASSES.into_iter().flat_map(|class| [(class, false), (class, true)]);
    for (class, outgoing) in kinds.filter(|_| refused.is_empty()).collect::<Vec<_>>() {
        match play(&rules, class, outgoing) {
            Ok(outcome) => {
                layer2.fates.insert((class, outgoing), outcome);
            }
            Err(rule) => refused.push((rule, "what this leaves cannot be said by checks and rules here")),
        }
    }
    for (rule, message) in &refused {
        let remedy = "describe it by hand; docs/migrating.md says what there is here";
        faults.add(rule.at.clone(), *message, remedy);
    }
    refused.is_empty().then_some(layer2)
}

/// A place in the root chain: a rule of its own, or the jump to a chain
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Stop<'c> {
    priority: i32,
    /// None for the root chain's own rules
    chain: Option<&'c str>,
}

/// Plays a kind of frame through all chains, in the order of their priorities.
fn play<'b>(rules: &[&'b Bound<'_>], class: Class, outgoing: bool) -> Result<Outcome, &'b Rule> {
    let mut stops: BTreeMap<Stop<'_>, Vec<&'b Rule>> = BTreeMap::new();
    for it in rules.iter().filter(|it| it.rule.is_for(outgoing)) {
        let is_root = kind(it.chain) == "root";
        if !is_root && !reaches(kind(it.chain), class) {
            continue;
        }
        let (priority, chain) =
            if is_root { (it.rule.priority, None) } else { (it.chain_priority, Some(it.chain)) };
        stops.entry(Stop { priority, chain }).or_default().push(it.rule);
    }
    let mut outcome = Outcome { fate: Fate::Pass, checks: BTreeSet::new() };
    // What has been accepted so far if it is of one MAC
    let mut by_mac = false;
    // The MAC of the other end, as whom frames are for or from
    let other_end = if outgoing { "dstmacaddr" } else { "srcmacaddr" };
    for (stop, mut rules) in stops {
        rules.sort_by_key(|rule| rule.priority);
        let mut owns = BTreeSet::new();
        for rule in rules {
            let asks = ask(rule).ok_or(rule)?;
            let is_all = match asks {
                Ask::Everything => true,
                Ask::Kind(kind) if kind == class => true,
                Ask::NotKind(kind) if kind != class => true,
                Ask::Kind(_) | Ask::NotKind(_) => continue,
                Ask::NotOwn(check) if !check.is_of(class) => continue,
                _ => false,
            };
            match (rule.action, asks) {
                (Action::Continue, _) => {}
                (Action::Accept, _) if is_all => return Ok(outcome),
                (Action::Return, _) if is_all => break,
                (Action::Drop | Action::Reject, _) if is_all => {
                    if !owns.is_empty() {
                        // Only its own goes on.
                        outcome.checks.append(&mut owns);
                        break;
                    }
                    outcome.fate = if by_mac { Fate::Gateway } else { Fate::Drop };
                    return Ok(outcome);
                }
                (Action::Return, Ask::Own(check)) if stop.chain.is_some() && outgoing => {
                    owns.insert(check);
                }
                // Admission lets these pass here as well, and takes care of who answers.
                (Action::Return | Action::Accept, Ask::Needed) => {}
                // It is not carried here in any case.
                (Action::Drop | Action::Reject, Ask::ToMany) => {}
                (Action::Accept, Ask::OneMac) if rule.asks.contains_key(other_end) => by_mac = true,
                // What is not its own goes no further, and the rest goes on.
                (Action::Drop | Action::Reject, Ask::NotOwn(check)) if outgoing && !rule.incoming => {
                    outcome.checks.insert(check);
                }
                // Of two such rules, nothing that the one lets pass the other does.
                (Action::Drop | Action::Reject, Ask::NotOneMac)
                    if rule.asks.contains_key(other_end) && outcome.fate != Fate::Gateway =>
                {
                    outcome.fate = Fate::Gateway;
                }
                _ => return Err(rule),
            }
        }
    }
    Ok(outcome)
}

/// Whether frames of a kind get into a kind of chain.
fn reaches(chain: &str, class: Class) -> bool {
    match chain {
        "mac" => true,
        "ipv4" => class == Class::Ipv4,
        "ipv6" => class == Class::Ipv6,
        "arp" => class == Class::Arp,
        "rarp" => class == Class::Rarp,
        _ => false,
    }
}

impl Layer2 {
    /// Nothing is filtered.
    pub(super) fn open() -> Self {
        let pass = || Outcome { fate: Fate::Pass, checks: BTreeSet::new() };
        let all = CLASSES.into_iter().flat_map(|class| [(class, false), (class, true)]);
        Self { fates: all.map(|key| (key, pass())).collect() }
    }

    fn fate(&self, class: Class, outgoing: bool) -> Fate {
        self.fates.get(&(class, outgoing)).map_or(Fate::Drop, |outcome| outcome.fate)
    }

    /// What becomes of a family's packets, in and out.
    pub(super) fn fates(&self, family: Family) -> [Fate; 2] {
        let class = if family == Family::V4 { Class::Ipv4 } else { Class::Ipv6 };
        [self.fate(class, false), self.fate(class, true)]
    }

    /// What is checked of a kind of frame that goes out and may.
    pub(super) fn checks(&self, class: Class) -> BTreeSet<Check> {
        let outcome = self.fates.get(&(class, true)).filter(|outcome| outcome.fate != Fate::Drop);
        outcome.map(|outcome| outcome.checks.clone()).unwrap_or_default()
    }

    fn all_checks(&self) -> BTreeSet<Check> {
        CLASSES.iter().flat_map(|class| self.checks(*class)).collect()
    }

    /// Something is checked, or some kind of frame does not go out: what is not its own must not either.
    pub(super) fn has_checks(&self) -> bool {
        !self.all_checks().is_empty() || CLASSES.iter().any(|class| self.fate(*class, true) != Fate::Pass)
    }

    /// All addresses of the families in which nobody checks whose they are. Where ARP is checked, it is not: an allowed pair is a
    /// right to answer for an address.
    pub(super) fn pairs(&self) -> Vec<(IpNet, Option<MacAddr>)> {
        if !self.has_checks() {
            return Vec::new();
        }
        let all = self.all_checks();
        let v4 = (self.fate(Class::Ipv4, true) == Fate::Pass
            && !all.contains(&Check::Ip)
            && !all.contains(&Check::ArpIp))
        .then(|| IpNet::V4(ipnet::Ipv4Net::default()));
        let v6 = (self.fate(Class::Ipv6, true) == Fate::Pass && !all.contains(&Check::Ipv6))
            .then(|| IpNet::V6(ipnet::Ipv6Net::default()));
        v4.into_iter().chain(v6).map(|net| (net, None)).collect()
    }

    /// What is narrower here.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let all = self.all_checks();
        let whole = [Check::Mac, Check::Ip, Check::ArpMac, Check::ArpIp];
        if self.has_checks() && !whole.iter().all(|check| all.contains(check)) {
            notes.push("Narrower: `port_security` checks MACs, addresses, ARP and ND together".to_owned());
        }
        if self.fate(Class::Other, true) == Fate::Pass {
            notes.push("Narrower: nothing but IPv4, IPv6, ARP and a machine's own RARP passes".to_owned());
        }
        notes
    }
}
