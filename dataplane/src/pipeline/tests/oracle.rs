//! Random policies, random packets: delivered exactly when the rules as written allow it at both ends.

use eastgate_policy::{
    naive,
    rule::{Direction, Header, Probe, Verdict},
};
use eastgate_wire::Addr;
use proptest::prelude::*;

use super::{frames::*, net::Net, scene::*};

/// A rule as it is written.
#[derive(Clone, Debug)]
struct Rule {
    proto: &'static str,
    ports: Option<(u16, u16)>,
    peer: Peer,
}

#[derive(Clone, Debug)]
enum Peer {
    Any,
    Group(usize),
    /// 10.1.0.`.0`/`.1`
    Prefix(u8, u8),
}

#[derive(Clone, Debug)]
struct Group {
    ingress: Vec<Rule>,
    egress: Vec<Rule>,
}

#[derive(Clone, Copy, Debug)]
struct Packet {
    src: usize,
    dst: usize,
    kind: Kind,
    dport: u16,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
    Tcp,
    Udp,
    Ping,
}

/// Stations, which host each is on, and its groups: chosen by bits of the case's mask.
const STATIONS: usize = 6;
const GROUPS_OF: usize = 3;

fn station(index: usize) -> u8 {
    10 + index as u8
}

fn rule() -> impl Strategy<Value = Rule> {
    let ports = prop_oneof![
        Just(None),
        (0u16..6, 0u16..4).prop_map(|(first, more)| Some((first + 1, first + 1 + more)))
    ];
    let peer = prop_oneof![
        Just(Peer::Any),
        (0..GROUPS_OF).prop_map(Peer::Group),
        (8u8..18, 29u8..=32).prop_map(|(host, len)| Peer::Prefix(host & (0xffu32 << (32 - len)) as u8, len)),
    ];
    (prop::sample::select(vec!["any", "tcp", "udp", "icmp"]), ports, peer).prop_map(|(proto, ports, peer)| {
        let ports = ports.filter(|_| matches!(proto, "tcp" | "udp"));
        Rule { proto, ports, peer }
    })
}

fn group() -> impl Strategy<Value = Group> {
    let list = || prop::collection::vec(rule(), 0..4);
    (list(), list()).prop_map(|(ingress, egress)| Group { ingress, egress })
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

impl Rule {
    fn text(&self, side: &str) -> String {
        let ports = self.ports.map_or(String::new(), |(first, last)| format!(", ports = \"{first}-{last}\""));
        let peer = match self.peer {
            Peer::Any => "any".to_owned(),
            Peer::Group(group) => format!("group:g{group}"),
            Peer::Prefix(host, len) => format!("10.1.0.{host}/{len}"),
        };
        format!("{{ proto = \"{}\"{ports}, {side} = \"{peer}\" }}", self.proto)
    }

    fn allows(&self, packet: &Packet, peer: usize, groups: &[Vec<usize>]) -> bool {
        let proto = match self.proto {
            "any" => true,
            "tcp" => packet.kind == Kind::Tcp,
            "udp" => packet.kind == Kind::Udp,
            _ => packet.kind == Kind::Ping,
        };
        let port = self.ports.is_none_or(|(first, last)| (first..=last).contains(&packet.dport));
        let peer = match self.peer {
            Peer::Any => true,
            Peer::Group(group) => groups[peer].contains(&group),
            Peer::Prefix(host, len) => (u32::from(host) ^ u32::from(station(peer))) >> (32 - len) == 0,
        };
        proto && port && peer
    }
}

fn text(groups: &[Group], members: &[Vec<usize>]) -> String {
    let list = |key, rules: &[Rule], side| {
        let rules: Vec<String> = rules.iter().map(|rule| rule.text(side)).collect();
        if rules.is_empty() { String::new() } else { format!("{key} = [{}]\n", rules.join(", ")) }
    };
    let mut text = [HOSTS, &app_network("acme", VNI, "")].concat();
    for (n, group) in groups.iter().enumerate() {
        let (ingress, egress) =
            (list("ingress", &group.ingress, "from"), list("egress", &group.egress, "to"));
        text += &format!("[tenant.acme.group.g{n}]\n{ingress}{egress}");
    }
    for (n, groups) in members.iter().enumerate() {
        let names: Vec<String> = groups.iter().map(|group| format!("g{group}")).collect();
        let host = if n % 2 == 0 { "alpha" } else { "beta" };
        text += &endpoint("acme", &format!("e{n}"), host, station(n), &names.join("\", \""), "");
    }
    text
}

/// The first packet of a flow of its own.
fn frame(packet: &Packet, flow: u16) -> (Vec<u8>, Probe) {
    let (a, b) = (station(packet.src), station(packet.dst));
    let ports = Header::Ports { source: flow, destination: packet.dport };
    match packet.kind {
        Kind::Tcp => {
            let syn = Talk { a, b, sport: flow, dport: packet.dport }.syn();
            (syn, Probe::new(6, ports))
        }
        Kind::Udp => (udp(a, b, flow, packet.dport), Probe::new(17, ports)),
        Kind::Ping => (ping(a, b, flow), Probe::new(1, Header::Icmp { kind: 8, code: 0 })),
    }
}

fn walked(net: &Net, packet: &Packet, probe: &Probe) -> [bool; 2] {
    let snapshot = net.snapshot("alpha");
    let network = snapshot.networks()[0];
    let source = network.source();
    let ends = [(packet.src, Direction::Egress, packet.dst), (packet.dst, Direction::Ingress, packet.src)];
    ends.map(|(end, direction, peer)| {
        let endpoint = network.by_address(Addr::v4(v4(station(end)))).unwrap();
        let peer = Addr::v4(v4(station(peer)));
        naive::decide(&source, endpoint.id, direction, peer, probe).verdict == Verdict::ALLOW
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_new_flow_passes_exactly_when_the_rules_as_written_allow_it(
        groups in prop::collection::vec(group(), GROUPS_OF),
        masks in prop::collection::vec(1u8..8, STATIONS),
        packets in prop::collection::vec(packet(), 400),
    ) {
        let members: Vec<Vec<usize>> =
            masks.iter().map(|mask| (0..GROUPS_OF).filter(|group| mask >> group & 1 == 1).collect()).collect();
        let mut net = Net::new(&text(&groups, &members));
        for (flow, packet) in packets.iter().enumerate() {
            let any = |end: usize, peer, list: fn(&Group) -> &Vec<Rule>| {
                members[end].iter().any(|group| list(&groups[*group]).iter().any(|rule| rule.allows(packet, peer, &members)))
            };
            let egress = any(packet.src, packet.dst, |group| &group.egress);
            let ingress = any(packet.dst, packet.src, |group| &group.ingress);
            let (bytes, probe) = frame(packet, 1000 + flow as u16);
            prop_assert_eq!(walked(&net, packet, &probe), [egress, ingress], "the naive walk, {:?}", packet);
            let host = |end: usize| if end.is_multiple_of(2) { "alpha" } else { "beta" };
            let expected = match (egress, ingress) {
                (true, true) => format!("e{}", packet.dst),
                (false, _) => format!("egress-denied at {}", host(packet.src)),
                (true, false) => format!("ingress-denied at {}", host(packet.dst)),
            };
            let fate = net.send(&format!("e{}", packet.src), bytes);
            prop_assert_eq!(fate.to_string(), expected, "{:?}", packet);
        }
    }
}
