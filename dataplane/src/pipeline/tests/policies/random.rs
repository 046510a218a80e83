//! Random policies of both owners at both places, with groups, sets, exceptions and everything being tried out: what becomes
//! of a packet is what the text says, read as a person reads it.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use proptest::{prelude::*, test_runner::TestRunner};

use super::{
    super::{frames::*, net::Net, scene::*},
    taken_over::{File, known},
};

const STATIONS: usize = 6;
const GROUPS_OF: usize = 3;

const fn station(index: usize) -> u8 {
    10 + index as u8
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
    Tcp,
    Udp,
    Ping,
}

#[derive(Clone, Copy, Debug)]
struct Packet {
    src: usize,
    dst: usize,
    kind: Kind,
    dport: u16,
}

#[derive(Clone, Debug)]
enum Peer {
    Any,
    Group(usize),
    /// 10.1.0.`.0`/`.1`
    Prefix(u8, u8),
    /// 10.1.0.0/24 but for that
    Except(u8, u8),
    /// The set of whose rule it is
    Set,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Action {
    Allow,
    Deny,
    Reject,
    Pass,
}

#[derive(Clone, Debug)]
struct Rule {
    action: Action,
    audit: bool,
    proto: &'static str,
    ports: Option<(u16, u16)>,
    peer: Peer,
    /// Only for this station
    own: Option<usize>,
    /// What is to be otherwise: protocol, ports, peer, station
    not: [bool; 4],
    /// Its ports are those of the variable P.
    variable: bool,
}

#[derive(Clone, Copy, Debug)]
enum Scope {
    All,
    Group(usize),
    Endpoint(usize),
}

#[derive(Clone, Debug)]
struct Policy {
    of_site: bool,
    after: bool,
    order: u8,
    end: bool,
    audit: bool,
    scope: Scope,
    ingress: Vec<Rule>,
    egress: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Site {
    policies: Vec<Policy>,
    groups: Vec<[Vec<Rule>; 2]>,
    members: Vec<Vec<usize>>,
    /// The groups that each group includes
    includes: Vec<Vec<usize>>,
    /// What each group gives the variable P
    gives: Vec<(u16, u16)>,
    /// What stations give it
    own: Vec<Option<(u16, u16)>>,
    /// What is in the site's set, and in the tenant's: a prefix each
    sets: [(u8, u8); 2],
    audit: bool,
    open: bool,
}

/// What becomes of a packet at one end.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Said {
    Passes,
    RuleRefuses,
    NobodyAllows,
}

fn prefix() -> impl Strategy<Value = (u8, u8)> {
    (8u8..18, 29u8..=32).prop_map(|(host, len)| (host & (0xffu32 << (32 - len)) as u8, len))
}

fn some_ports() -> impl Strategy<Value = (u16, u16)> {
    (0u16..6, 0u16..4).prop_map(|(first, more)| (first + 1, first + 1 + more))
}

fn rule(of_policy: bool, after: bool) -> impl Strategy<Value = Rule> {
    let ports = prop::option::of(some_ports());
    let peer = prop_oneof![
        Just(Peer::Any),
        (0..GROUPS_OF).prop_map(Peer::Group),
        prefix().prop_map(|(host, len)| Peer::Prefix(host, len)),
        prefix().prop_map(|(host, len)| Peer::Except(host, len)),
        Just(Peer::Set),
    ];
    let actions = [Action::Allow, Action::Deny, Action::Reject, Action::Pass];
    let actions = if after { &actions[..3] } else { &actions[..] }.to_vec();
    let own = prop_oneof![3 => Just(None), 1 => (0..STATIONS).prop_map(Some)];
    let proto = prop::sample::select(vec!["any", "tcp", "udp", "icmp"]);
    let not = prop::array::uniform4(prop::bool::weighted(0.2));
    let few = prop::bool::weighted(0.2);
    (prop::sample::select(actions), few, proto, ports, peer, own, not, any::<bool>()).prop_map(
        move |(action, audit, proto, ports, peer, own, not, variable)| {
            let ports = ports.filter(|_| matches!(proto, "tcp" | "udp"));
            let own = own.filter(|_| of_policy);
            let can_be = [
                proto != "any" && ports.is_none(),
                ports.is_some(),
                matches!(peer, Peer::Prefix(..) | Peer::Except(..)),
                own.is_some(),
            ];
            Rule {
                action: if of_policy { action } else { Action::Allow },
                audit: of_policy && audit && matches!(action, Action::Deny | Action::Reject),
                proto,
                ports,
                peer,
                own,
                not: std::array::from_fn(|at| not[at] && can_be[at]),
                variable: variable && !of_policy && ports.is_some(),
            }
        },
    )
}

fn policy() -> impl Strategy<Value = Policy> {
    let scope = prop_oneof![
        2 => Just(Scope::All),
        1 => (0..GROUPS_OF).prop_map(Scope::Group),
        1 => (0..STATIONS).prop_map(Scope::Endpoint),
    ];
    (any::<bool>(), any::<bool>(), 0u8..3, prop::bool::weighted(0.2), prop::bool::weighted(0.2), scope)
        .prop_flat_map(|(of_site, after, order, end, audit, scope)| {
            let list = move || prop::collection::vec(rule(true, after), 0..4);
            (list(), list()).prop_map(move |(ingress, egress)| Policy {
                of_site,
                after,
                order,
                end: end && !after,
                audit,
                scope,
                ingress,
                egress,
            })
        })
}

fn site() -> impl Strategy<Value = Site> {
    let list = || prop::collection::vec(rule(false, false), 0..3);
    let groups = prop::collection::vec([list(), list()], GROUPS_OF);
    let members = prop::collection::vec(1u8..8, STATIONS);
    let policies = prop::collection::vec(policy(), 0..6);
    let few = || prop::bool::weighted(0.25);
    // Each may include those behind it.
    let includes = prop::collection::vec(prop::collection::vec(few(), GROUPS_OF), GROUPS_OF);
    let gives = prop::collection::vec(some_ports(), GROUPS_OF);
    let own = prop::collection::vec(prop::option::of(some_ports()), STATIONS);
    (policies, groups, members, [prefix(), prefix()], few(), few(), includes, (gives, own)).prop_map(
        |(policies, groups, masks, sets, audit, open, includes, (gives, own))| Site {
            policies,
            groups,
            includes: (0..)
                .zip(includes)
                .map(|(at, of)| (at + 1..GROUPS_OF).filter(|other| of[*other]).collect())
                .collect(),
            gives,
            own,
            members: masks.into_iter().map(in_mask).collect(),
            sets,
            audit,
            open,
        },
    )
}

fn packet() -> impl Strategy<Value = Packet> {
    let kind = prop::sample::select(vec![Kind::Tcp, Kind::Udp, Kind::Ping]);
    (0..STATIONS, 0..STATIONS - 1, kind, 0u16..12).prop_map(|(src, dst, kind, dport)| Packet {
        src,
        dst: if dst >= src { dst + 1 } else { dst },
        kind,
        dport,
    })
}

const fn within((host, len): (u8, u8), station: u8) -> bool {
    (host as u32 ^ station as u32) >> (32 - len as u32) == 0
}

impl Rule {
    fn text(&self, of_site: bool, of_policy: bool, side: &str) -> String {
        let tenant = if of_site { "acme/" } else { "" };
        let peer = match self.peer {
            Peer::Any => "\"any\"".to_owned(),
            Peer::Group(group) => format!("\"group:{tenant}g{group}\""),
            Peer::Prefix(host, len) => format!("\"10.1.0.{host}/{len}\""),
            Peer::Except(host, len) => {
                format!("{{ prefix = \"10.1.0.0/24\", except = [\"10.1.0.{host}/{len}\"] }}")
            }
            Peer::Set => "\"set:some\"".to_owned(),
        };
        let mut text = format!("{side} = {peer}, proto = \"{}\"", self.proto);
        if self.variable {
            text += ", ports = \"$P\"";
        } else if let Some((first, last)) = self.ports {
            write!(text, ", ports = \"{first}-{last}\"").unwrap();
        }
        if let Some(own) = self.own {
            write!(text, ", own = \"10.1.0.{}\"", station(own)).unwrap();
        }
        let keys = ["proto", "ports", side, "own"].into_iter().zip(self.not);
        let negated: Vec<String> =
            keys.filter(|(_, not)| *not).map(|(key, _)| format!("\"{key}\"")).collect();
        if !negated.is_empty() {
            write!(text, ", not = [{}]", negated.join(", ")).unwrap();
        }
        if self.audit {
            text += ", mode = \"audit\"";
        }
        if of_policy {
            write!(text, ", action = \"{}\"", format!("{:?}", self.action).to_lowercase()).unwrap();
        }
        format!("{{ {text} }}")
    }
}

impl Site {
    fn text(&self) -> String {
        let open = if self.open { "egress_default = \"open\"" } else { "" };
        let mut text = [HOSTS, &app_network("acme", VNI, open)].concat();
        let mode = if self.audit { "[tenant.acme]\nmode = \"audit\"\n" } else { "" };
        let [(a, b), (c, d)] = self.sets;
        write!(text, "{mode}[set.some]\naddresses = [\"10.1.0.{a}/{b}\"]\n").unwrap();
        write!(text, "[tenant.acme.set.some]\naddresses = [\"10.1.0.{c}/{d}\"]\n").unwrap();
        let lists = |ingress: &[Rule], egress: &[Rule], of_site, of_policy| {
            let list = |rules: &[Rule], side| {
                rules.iter().map(|rule| rule.text(of_site, of_policy, side)).collect::<Vec<_>>().join(", ")
            };
            format!("ingress = [{}]\negress = [{}]\n", list(ingress, "from"), list(egress, "to"))
        };
        for (n, [ingress, egress]) in self.groups.iter().enumerate() {
            let includes: Vec<String> = self.includes[n].iter().map(|of| format!("\"g{of}\"")).collect();
            let (includes, (first, last)) = (includes.join(", "), self.gives[n]);
            let keys = format!("include = [{includes}]\nvariables = {{ P = \"{first}-{last}\" }}\n");
            text += &format!("[tenant.acme.group.g{n}]\n{keys}{}", lists(ingress, egress, false, false));
        }
        for (n, policy) in self.policies.iter().enumerate() {
            let (table, all, of) = if policy.of_site {
                ("policy", "site", "acme/")
            } else {
                ("tenant.acme.policy", "tenant", "")
            };
            let scope = match policy.scope {
                Scope::All => all.to_owned(),
                Scope::Group(group) => format!("group:{of}g{group}"),
                Scope::Endpoint(endpoint) => format!("endpoint:{of}e{endpoint}"),
            };
            let position = if policy.after { "after" } else { "before" };
            let end = if policy.end { "end = \"deny\"\n" } else { "" };
            let mode = if policy.audit { "audit" } else { "enforce" };
            write!(
                text,
                "[{table}.p{n}]\nposition = \"{position}\"\norder = {}\nmode = \"{mode}\"\n{end}applies_to = \"{scope}\"\n{}",
                policy.order,
                lists(&policy.ingress, &policy.egress, policy.of_site, true)
            )
            .unwrap();
        }
        for (n, groups) in self.members.iter().enumerate() {
            let names: Vec<String> = groups.iter().map(|group| format!("g{group}")).collect();
            let host = if n % 2 == 0 { "alpha" } else { "beta" };
            let asks =
                |(group, _): &(usize, _)| self.groups[*group].iter().flatten().any(|rule| rule.variable);
            let own = self.own[n].filter(|_| self.has(n).iter().any(asks));
            let own = own.map(|(first, last)| format!("variables = {{ P = \"{first}-{last}\" }}"));
            let own = own.unwrap_or_default();
            text += &endpoint("acme", &format!("e{n}"), host, station(n), &names.join("\", \""), &own);
        }
        text
    }

    fn matches(&self, rule: &Rule, of_site: bool, end: usize, peer: usize, packet: &Packet) -> bool {
        let proto = match rule.proto {
            "any" => true,
            "tcp" => packet.kind == Kind::Tcp,
            "udp" => packet.kind == Kind::Udp,
            _ => packet.kind == Kind::Ping,
        };
        let at = station(peer);
        let is_peer = match rule.peer {
            Peer::Any => true,
            Peer::Group(group) => self.members[peer].contains(&group),
            Peer::Prefix(host, len) => within((host, len), at),
            Peer::Except(host, len) => !within((host, len), at),
            Peer::Set => within(self.sets[usize::from(!of_site)], at),
        };
        let port = rule.ports.is_none_or(|(first, last)| (first..=last).contains(&packet.dport));
        let own = rule.own.is_none_or(|own| own == end);
        [proto, port, is_peer, own].into_iter().zip(rule.not).all(|(is, not)| is != not)
    }

    /// What this end says of a packet, from (ingress) or to (egress) that peer.
    fn says(&self, end: usize, peer: usize, packet: &Packet, is_ingress: bool) -> Said {
        let refused = |audit| if audit { Said::Passes } else { Said::RuleRefuses };
        for (of_site, after) in [(true, false), (false, false), (false, true), (true, true)] {
            if (of_site, after) == (false, true) && self.groups_allow(end, peer, packet, is_ingress) {
                return Said::Passes;
            }
            let mut here: Vec<(usize, &Policy)> = self
                .policies
                .iter()
                .enumerate()
                .filter(|(_, policy)| (policy.of_site, policy.after) == (of_site, after))
                .filter(|(_, policy)| match policy.scope {
                    Scope::All => true,
                    Scope::Group(group) => self.members[end].contains(&group),
                    Scope::Endpoint(endpoint) => endpoint == end,
                })
                .collect();
            here.sort_by_key(|(n, policy)| (policy.order, *n));
            let rules =
                |policy: &Policy| if is_ingress { policy.ingress.clone() } else { policy.egress.clone() };
            let audit = |policy: &Policy| policy.audit || !policy.of_site && self.audit;
            let first = here.iter().find_map(|(_, policy)| {
                let rule =
                    rules(policy).into_iter().find(|it| self.matches(it, of_site, end, peer, packet))?;
                Some((audit(policy) || rule.audit, rule.action))
            });
            match first {
                Some((_, Action::Allow)) => return Said::Passes,
                Some((audit, Action::Deny | Action::Reject)) => return refused(audit),
                Some((_, Action::Pass)) => continue,
                None => {}
            }
            let mut ends =
                here.iter().filter(|(_, policy)| policy.end && !rules(policy).is_empty()).peekable();
            if ends.peek().is_some() {
                return refused(ends.all(|(_, policy)| audit(policy)));
            }
        }
        if self.audit { Said::Passes } else { Said::NobodyAllows }
    }

    /// The groups whose rules a station has, and what the variable is in them: what the station gives, or else the group that it is in.
    fn has(&self, end: usize) -> Vec<(usize, (u16, u16))> {
        let mut has = Vec::new();
        for of in &self.members[end] {
            let mut open = vec![*of];
            while let Some(group) = open.pop() {
                open.extend(&self.includes[group]);
                has.push((group, self.own[end].unwrap_or(self.gives[*of])));
            }
        }
        has
    }

    fn groups_allow(&self, end: usize, peer: usize, packet: &Packet, is_ingress: bool) -> bool {
        let has = self.has(end);
        let rules = |group: usize| &self.groups[group][usize::from(!is_ingress)];
        if !is_ingress && self.open && has.iter().all(|(group, _)| rules(*group).is_empty()) {
            return true;
        }
        has.iter().any(|(group, value)| {
            let with =
                |rule: &Rule| Rule { ports: rule.variable.then_some(*value).or(rule.ports), ..rule.clone() };
            rules(*group).iter().any(|rule| self.matches(&with(rule), false, end, peer, packet))
        })
    }
}

/// The first packet of a flow of its own.
fn frame(packet: &Packet, flow: u16) -> Vec<u8> {
    let (a, b) = (station(packet.src), station(packet.dst));
    match packet.kind {
        Kind::Tcp => Talk { a, b, sport: flow, dport: packet.dport }.syn(),
        Kind::Udp => udp(a, b, flow, packet.dport),
        Kind::Ping => ping(a, b, flow),
    }
}

/// What one reload changes.
#[derive(Clone, Debug)]
enum Change {
    Rules(usize, [Vec<Rule>; 2]),
    /// Another port of one rule: whom it is about is told apart already.
    Ports(usize, usize, (u16, u16)),
    Members(usize, Vec<usize>),
    Policies(Vec<Policy>),
    Sets([(u8, u8); 2]),
    Audit,
}

fn change() -> impl Strategy<Value = Change> {
    let list = || prop::collection::vec(rule(false, false), 0..3);
    prop_oneof![
        8 => (0..GROUPS_OF, [list(), list()]).prop_map(|(group, lists)| Change::Rules(group, lists)),
        16 => (0..GROUPS_OF, 0..6usize, some_ports()).prop_map(|(group, at, ports)| Change::Ports(group, at, ports)),
        1 => (0..STATIONS, 1u8..8).prop_map(|(station, mask)| Change::Members(station, in_mask(mask))),
        1 => prop::collection::vec(policy(), 0..6).prop_map(Change::Policies),
        1 => [prefix(), prefix()].prop_map(Change::Sets),
        1 => Just(Change::Audit),
    ]
}

fn in_mask(mask: u8) -> Vec<usize> {
    (0..GROUPS_OF).filter(|group| mask >> group & 1 == 1).collect()
}

impl Site {
    fn change(&mut self, change: Change) {
        match change {
            Change::Rules(group, lists) => self.groups[group] = lists,
            Change::Ports(group, at, ports) => {
                let rules = self.groups[group].iter_mut().flatten().filter(|rule| rule.ports.is_some());
                rules.skip(at).take(1).for_each(|rule| rule.ports = Some(ports));
            }
            Change::Members(station, groups) => self.members[station] = groups,
            Change::Policies(policies) => self.policies = policies,
            Change::Sets(sets) => self.sets = sets,
            Change::Audit => self.audit = !self.audit,
        }
    }

    /// Sends packets, of flows from this number on, and looks at what becomes of them.
    fn hold(&self, net: &mut Net, packets: &[Packet], first: u16) -> Result<(), TestCaseError> {
        for (flow, packet) in (first..).zip(packets) {
            let egress = self.says(packet.src, packet.dst, packet, false);
            let ingress = self.says(packet.dst, packet.src, packet, true);
            let reason = match (egress, ingress) {
                (Said::RuleRefuses, _) => "egress-rule",
                (Said::NobodyAllows, _) => "egress-denied",
                (_, Said::RuleRefuses) => "ingress-rule",
                (_, Said::NobodyAllows) => "ingress-denied",
                (Said::Passes, Said::Passes) => "",
            };
            // Whom a rule rejects is told so, and gets an answer.
            let fate = net.send(&format!("e{}", packet.src), frame(packet, flow));
            let arrived = fate.deliveries.iter().any(|delivery| delivery.to == format!("e{}", packet.dst));
            let dropped = fate.drops.first().map(|(_, reason)| reason.to_string()).unwrap_or_default();
            // Of a flow that was let in and is not any more, that is the reason.
            let reason =
                if dropped == "policy-changed" && !reason.is_empty() { "policy-changed" } else { reason };
            prop_assert_eq!(
                (arrived, &*dropped),
                (reason.is_empty(), reason),
                "{:?}\n{}",
                packet,
                self.text()
            );
        }
        Ok(())
    }
}

/// The same file, changed again and again: what was taken over says what a person reads in it, and what it is to who reads it
/// for the first time.
#[test]
fn it_passes_exactly_so_after_each_of_many_reloads() {
    const CASES: u32 = 96;
    let taken_over = AtomicU32::new(0);
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(CASES) };
    let changes = prop::collection::vec((change(), prop::collection::vec(packet(), 30)), 12);
    let outcome = TestRunner::new(config).run(&(site(), changes), |(mut site, changes)| {
        let mut file = File::new();
        let mut net = Net::of(&file.load(&site.text()));
        let mut sent: Vec<(Vec<Packet>, u16)> = Vec::new();
        for ((change, packets), first) in changes.into_iter().zip((1000..).step_by(100)) {
            let before = net.snapshot("alpha");
            site.change(change);
            net.install(&file.load(&site.text()));
            let now = net.snapshot("alpha");
            let [was, is] = [&before, &now].map(|it| it.networks()[0]);
            let shares = !Arc::ptr_eq(was, is) && Arc::ptr_eq(&was.directory, &is.directory);
            taken_over.fetch_add(shares.into(), Relaxed);
            prop_assert_eq!(known(is), known(file.anew("alpha").networks()[0]), "{}", site.text());
            // Flows that live are decided again where anything about them has changed.
            for (packets, first) in &sent {
                site.hold(&mut net, packets, *first)?;
            }
            site.hold(&mut net, &packets, first)?;
            sent.push((packets, first));
        }
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    let taken_over = taken_over.into_inner();
    assert!(taken_over > CASES / 4, "{taken_over} times of {}", CASES * 12);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_packet_passes_exactly_when_the_text_says_so(
        site in site(), packets in prop::collection::vec(packet(), 250),
    ) {
        site.hold(&mut Net::new(&site.text()), &packets, 1000)?;
    }
}
