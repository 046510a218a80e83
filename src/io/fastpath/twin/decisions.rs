//! What the programs decide by themselves: for whom, by which rule, and by which state of the tables. A pipeline alone
//! gets each frame, too, and both come to the same; where that is not all, the test says who has to carry the frame.

mod fields;
mod helpers;
mod reloads;
mod stateless;
mod timeouts;

use std::{fmt::Write as _, time::Duration};

use eastgate_dataplane::pipeline::batch::NarrowPath;
use eastgate_wire::Vni;
use etherparse::{IpHeaders, Ipv6Header, PacketBuilder, TcpHeader};

use super::*;

const MESH: Scene = SCENES[0];
const MESH_V6: Scene = SCENES[2];
/// Its VTEP 2 is a plain one: the rules of who is behind it are applied here.
const HUB: Scene = SCENES[3];
const EVERYONE: &str =
    "[tenant.acme.group.all]\negress = [{ to = \"any\" }]\ningress = [{ from = \"any\" }]\n";
/// Who asks is never asked, and the other way round.
const ASKS_AND_SERVES: &str = "[tenant.acme.group.all]\negress = [{ to = \"any\" }]\n\
     [tenant.acme.group.serves]\ningress = [{ from = \"any\" }]\n";

/// One configuration, with programs and without.
struct Pair {
    alone: Host,
    twin: Host,
    kernel: Arc<KernelPath>,
    devices: Vec<u32>,
}

impl Pair {
    fn new(scene: Scene, text: &str, flows: u32) -> Self {
        Self::within(scene, text, tables(flows))
    }

    fn within(scene: Scene, text: &str, limits: Limits) -> Self {
        let devices = devices(scene);
        let kernel = Arc::new(KernelPath::load(limits, devices[0], gso::TUNNEL_PORT).unwrap());
        let alone = Host::new(scene, text, None);
        let twin = Host::new(scene, text, Some((kernel.clone(), &devices)));
        Self { alone, twin, kernel, devices }
    }

    fn install(&mut self, text: &str) {
        self.alone.install(text);
        self.twin.install(text);
    }

    fn sweep(&self) {
        self.alone.shared.sweep(clock::now());
        self.twin.shared.sweep(clock::now());
    }

    /// A frame of an endpoint through both: what became of it, and whether the programs have seen to that.
    fn send(&mut self, from: u8, frame: &[u8]) -> (Outcome, bool) {
        let before = self.twin.carried + self.twin.policy_drops;
        let [mut expected, mut found] = [&mut self.alone, &mut self.twin].map(|host| {
            let offload = Offload::default();
            match host.scene.vtep_of(from) {
                Some(vtep) => host.underlay(vtep, 0, frame, offload),
                None => host.tenant(from, frame, offload),
            }
        });
        // How often that is said is limited by the clock.
        if expected.0 == Outcome::Drop(DropReason::TooBig) {
            expected.1.clear();
            found.1.clear();
        }
        assert_eq!(expected, found, "from endpoint {from}: {frame:02x?}");
        (found.0, self.twin.carried + self.twin.policy_drops > before)
    }

    /// From here on the programs decide.
    fn prime(&mut self, from: u8, to: u8) {
        assert_eq!(self.send(from, &udp(from, to, 999, 999)).0, Outcome::Forward);
        assert_eq!(self.send(from, &udp(from, to, 998, 999)), (Outcome::Forward, true));
    }

    /// Of each kind of frame that only the programs have refused: the last one is the pipeline's last one.
    fn same_last(&self) {
        let expected = drops(&self.alone.shared.counters, Vec::new());
        let found = self.kernel.traffic().unwrap().drops;
        let found: Vec<_> = found.into_iter().filter(|(key, _)| key.by.is_some()).collect();
        assert!(!found.is_empty());
        for (key, count) in found {
            let (_, alone) = expected.iter().find(|(other, _)| *other == key).unwrap();
            let flow = |count: &DropCount| count.last.and_then(|last| last.flow().copied());
            assert_eq!(flow(&count), flow(alone), "{key:?}");
            assert!(count.last_at + Duration::from_secs(1) > alone.last_at, "{count:?}");
        }
    }

    fn same(&self) {
        same_flows(&self.alone, &self.twin, "in the end");
    }
}

/// A network of endpoints, each with what it has in place of the usual.
fn network(scene: Scene, network: &str, groups: &str, plain: &[u8], endpoints: &[(u8, &str)]) -> String {
    let mut text = String::new();
    for (number, name) in (1..).zip(["alpha", "beta", "gamma"]) {
        let runs = if plain.contains(&number) { "runs = \"vxlan\"\n" } else { "" };
        // No tenant reaches endpoint 23.
        let management = if number == 1 { "management = [\"10.1.0.23/32\"]\n" } else { "" };
        let vtep = scene.address(number);
        write!(text, "[host.{name}]\nvtep = \"{vtep}\"\ndevice = \"u0\"\n{runs}{management}").unwrap();
    }
    let topology = if scene.hub { "topology = \"hub\"\nhub = \"alpha\"\n" } else { "" };
    write!(
        text,
        "[tenant.acme.network.app]\nvni = {VNI}\nsubnets = [\"10.1.0.0/16\", \"fd00:1::/64\"]\n\
         neighbors = \"{}\"\n{topology}{network}\n{groups}",
        scene.neighbors
    )
    .unwrap();
    for (n, more) in endpoints {
        let vtep = scene.vtep_of(*n).unwrap_or(1);
        let host = ["alpha", "beta", "gamma"][usize::from(vtep) - 1];
        let mut own = format!("[tenant.acme.endpoint.p{n}]\nnetwork = \"app\"\nhost = \"{host}\"\n{more}\n");
        let usual = [
            ("mac = ", format!("\"02:00:00:00:00:{n:02x}\"")),
            ("addresses = ", format!("[\"10.1.0.{n}\", \"fd00:1::{n:x}\"]")),
            ("groups = ", "[\"all\"]".to_owned()),
        ];
        for (key, value) in usual {
            if !more.contains(key) {
                writeln!(own, "{key}{value}").unwrap();
            }
        }
        if !plain.contains(&vtep) {
            writeln!(own, "port = \"p{n}\"").unwrap();
        }
        text += &own;
    }
    text
}

fn syn(a: u8, b: u8, sport: u16) -> Vec<u8> {
    Talk { a, b, sport, dport: 443 }.syn()
}

/// A packet of endpoint 11 between addresses that nobody configured: such flows begin by policy-cache entries.
fn unconfigured(b: u8, sport: u16, payload: usize) -> Vec<u8> {
    unconfigured_to(b, sport, 443, payload)
}

fn unconfigured_to(b: u8, sport: u16, dport: u16, payload: usize) -> Vec<u8> {
    let own = |n| [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0, n];
    let ip = etherparse::PacketBuilder::ethernet2(mac(11), mac(b)).ipv6(own(11), own(b), 64);
    udp_of(ip, sport, dport, &vec![7; payload])
}

/// Each kind of first packet between two endpoints: who carries it?
fn each_kind(pair: &mut Pair, a: u8, b: u8, expected: bool) {
    for (which, frame) in [syn(a, b, 2000), udp(a, b, 2000, 443), ping(a, b, 2000)].iter().enumerate() {
        let (outcome, carried) = pair.send(a, frame);
        assert_eq!(carried, expected, "packet {which} of {a} to {b}, which is {outcome:?}");
    }
}

fn endpoints_that_owe_more() {
    let own = eastgate_steering::proxy_mac(VNI.try_into().unwrap());
    let of_the_network = format!("mac = \"{own}\"");
    let endpoints = [
        (11, "addresses = [\"10.1.0.11\", \"10.1.0.111\"]"),
        (12, "port_security = false"),
        (21, ""),
        (22, &of_the_network[..]),
        (23, ""),
        (24, ""),
        (31, ""),
    ];
    let mut pair = Pair::new(MESH, &network(MESH, "", EVERYONE, &[], &endpoints), 1000);
    pair.prime(11, 21);
    each_kind(&mut pair, 11, 24, true);
    each_kind(&mut pair, 24, 11, true);
    for [a, b] in [[11, 12], [12, 11], [12, 21], [21, 12], [23, 11], [11, 23]] {
        each_kind(&mut pair, a, b, false);
    }
    // What comes from a reserved address, and the answers to it, are looked at one by one, also of flows like one that was there.
    for port in 3000..3004 {
        assert!(!pair.send(23, &udp(23, 24, port, 443)).1, "{port}");
        assert!(!pair.send(24, &udp(24, 23, 443, port)).1, "{port}");
        assert!(!pair.send(23, &udp(23, 24, port, 443)).1, "{port}, again");
    }
    assert!(!pair.send(11, &to(syn(11, 22, 2000), own.0)).1);
    assert!(!pair.send(22, &from(syn(22, 11, 2000), own.0)).1);
    // A mesh sends nothing on that came from another VTEP.
    for [a, b] in [[21, 31], [21, 24], [21, 21]] {
        each_kind(&mut pair, a, b, false);
    }
    // To itself, by another address
    let mut own = udp(11, 111, 2000, 443);
    own[..6].copy_from_slice(&mac(11));
    assert!(!pair.send(11, &own).1);
    pair.same();
}

fn endpoints_behind_plain_vteps() {
    let endpoints = [(11, ""), (12, ""), (21, "")];
    let mut pair = Pair::new(MESH_V6, &network(MESH_V6, "", EVERYONE, &[2], &endpoints), 1000);
    pair.prime(11, 12);
    each_kind(&mut pair, 11, 21, true);
    // What is smaller is not cut out of a datagram over IPv6.
    assert!(pair.send(21, &syn(21, 11, 2000)).1);
    pair.same();
}

fn a_hub_and_its_spokes() {
    let endpoints = [(11, ""), (12, ""), (21, ""), (22, ""), (31, "")];
    let mut pair = Pair::new(HUB, &network(HUB, "", EVERYONE, &[2], &endpoints), 1000);
    pair.prime(11, 12);
    for [a, b] in [[21, 22], [21, 31], [31, 21], [31, 11], [11, 31]] {
        each_kind(&mut pair, a, b, true);
    }
    for n in [21, 31] {
        each_kind(&mut pair, n, n, false);
    }
    pair.same();
}

/// Rules as nobody would write them: many prefixes in each other, lists of ports that are long, source ports, types.
fn some_rule(dice: &mut Dice, peer: &str) -> String {
    let number = |dice: &mut Dice| 1000 + dice.roll(120);
    let ports = |dice: &mut Dice| {
        let from = number(dice);
        format!("[{}, \"{from}-{}\"]", number(dice), from + dice.roll(20))
    };
    let whom = match dice.roll(8) {
        0 => "any".to_owned(),
        1 => format!("group:g{}", dice.roll(9)),
        2 => {
            let bits = dice.roll(17);
            format!("fd00:1::{:x}/{}", dice.roll(36) >> bits << bits, 128 - bits)
        }
        _ => {
            let bits = dice.roll(16);
            let [.., high, low] = (dice.roll(6 << 8 | 36) >> bits << bits).to_be_bytes();
            format!("10.1.{high}.{low}/{}", 32 - bits)
        }
    };
    let (ports, more) = (ports(dice), ports(dice));
    let what = match dice.roll(9) {
        0..3 => format!("proto = \"tcp\", ports = {ports}, "),
        3..5 => format!("proto = \"udp\", ports = {ports}, "),
        5 => format!("proto = \"tcp\", source_ports = {ports}, "),
        6 => format!("proto = \"udp\", ports = {ports}, source_ports = {more}, "),
        _ if whom.starts_with("10.") || !whom.starts_with("fd") && dice.one_in(2) => {
            format!("proto = \"icmp\", icmp_type = {}, ", [0, 8, 128][dice.roll(3)])
        }
        _ => format!("proto = \"icmpv6\", icmp_type = {}, ", [8, 128, 129][dice.roll(3)]),
    };
    format!("{{ {what}{peer} = \"{whom}\" }}")
}

/// The endpoints of `rules_of_all_kinds`, each with as many addresses.
const ASKED: [u8; 11] = [11, 12, 21, 22, 23, 24, 25, 26, 31, 32, 33];
const ADDRESSES: usize = 6;

fn v6_header() -> Ipv6Header {
    Ipv6Header { hop_limit: 64, ..Ipv6Header::default() }
}

fn some_first_packet(dice: &mut Dice) -> (u8, Vec<u8>) {
    let [a, b] = [(); 2].map(|()| ASKED[dice.roll(ASKED.len())]);
    let [of_a, of_b] = [(); 2].map(|()| dice.roll(ADDRESSES) as u8);
    let port = |dice: &mut Dice| 995 + dice.roll(150) as u16;
    let (sport, dport) = (port(dice), if dice.one_in(6) { 2 * dice.roll(800) as u16 } else { port(dice) });
    let (mut out, kind) = (Vec::new(), dice.roll(8));
    let traffic_class = if dice.one_in(2) { 0 } else { dice.roll(256) as u8 };
    let mut tcp = TcpHeader::new(sport, dport, 1000, 65535);
    tcp.syn = true;
    if dice.one_in(2) {
        (tcp.ece, tcp.cwr, tcp.psh, tcp.urg) =
            (dice.one_in(2), dice.one_in(2), dice.one_in(4), dice.one_in(4));
    }
    if dice.one_in(4) {
        let own = |n, of| {
            let mut address = eastgate_testkit::frames::v6(n);
            address[13] = of;
            address
        };
        let ip = IpHeaders::Ipv6(
            Ipv6Header { traffic_class, source: own(a, of_a), destination: own(b, of_b), ..v6_header() },
            Default::default(),
        );
        let ip = PacketBuilder::ethernet2(mac(a), mac(b)).ip(ip);
        match kind {
            0..3 => ip.tcp_header(tcp).write(&mut out, &[]).unwrap(),
            3..6 => ip.udp(sport, dport).write(&mut out, b"first").unwrap(),
            _ => ip.icmpv6_echo_request(sport, 1).write(&mut out, b"first").unwrap(),
        }
        return (a, out);
    }
    let ip = ip4(a, b, |ip| {
        (ip.source[2], ip.destination[2]) = (of_a, of_b);
        (ip.dscp, ip.ecn) =
            ((traffic_class >> 2).try_into().unwrap(), (traffic_class & 3).try_into().unwrap());
    });
    match kind {
        0..3 => ip.tcp_header(tcp).write(&mut out, &[]).unwrap(),
        3..6 => ip.udp(sport, dport).write(&mut out, b"first").unwrap(),
        _ => ip.icmpv4_echo_request(sport, 1).write(&mut out, b"first").unwrap(),
    }
    (a, out)
}

fn rules_of_all_kinds() {
    let (by_programs, frames, carried) = decide_many(HUB);
    assert!(by_programs * 5 > frames * 3 && carried * 10 > frames, "{by_programs} and {carried} of {frames}");
}

/// The same rules, in tiers that allow, deny, reject and pass on.
fn tiers_of_all_kinds() {
    let (by_programs, frames, carried) = decide_many(Scene { policy: tiers::by_dice, ..HUB });
    assert!(by_programs * 2 > frames && carried * 10 > frames, "{by_programs} and {carried} of {frames}");
}

/// Sends many first packets. How many of them the programs have decided, all of them, and how many the programs have carried.
fn decide_many(scene: Scene) -> (usize, usize, usize) {
    const FRAMES: usize = 20_000;
    let mut dice = Dice(setting("EASTGATE_TWIN_SEED", 1));
    let mut groups = String::new();
    for group in 0..9 {
        let mut rules = |peer| (0..25).map(|_| some_rule(&mut dice, peer)).collect::<Vec<_>>().join(", ");
        let (egress, ingress) = (rules("to"), rules("from"));
        writeln!(groups, "[tenant.acme.group.g{group}]\negress = [{egress}]\ningress = [{ingress}]").unwrap();
    }
    // As many intervals as take more than ten halvings
    let even: Vec<String> = (0..800).map(|port| (2 * port).to_string()).collect();
    writeln!(
        groups,
        "[tenant.acme.group.even]\negress = [{{ proto = \"tcp\", ports = [{0}], to = \"any\" }}]\n\
         ingress = [{{ proto = \"tcp\", ports = [{0}], from = \"any\" }}]",
        even.join(", ")
    )
    .unwrap();
    // More prefixes in each other than the programs follow
    let deep: Vec<String> = (64..=112)
        .map(|len| format!("{{ proto = \"udp\", ports = [{}], from = \"fd00:1::/{len}\" }}", 1000 + len))
        .collect();
    writeln!(groups, "[tenant.acme.group.deep]\ningress = [{}]", deep.join(", ")).unwrap();
    let endpoints: Vec<(u8, String)> = (0..)
        .zip(ASKED)
        .map(|(number, n)| {
            let addresses: Vec<String> =
                (0..ADDRESSES).map(|of| format!("\"10.1.{of}.{n}\", \"fd00:1::{of:x}:{n:x}\"")).collect();
            let (first, second) = (number % 9, (number * 5 + 3) % 9);
            let second = if first == second { String::new() } else { format!("\"g{second}\", ") };
            let last = if number % 3 == 0 { "deep" } else { "even" };
            let more = format!(
                "addresses = [{}]\ngroups = [\"g{first}\", {second}\"{last}\"]",
                addresses.join(", ")
            );
            (n, more)
        })
        .collect();
    let endpoints: Vec<(u8, &str)> = endpoints.iter().map(|(n, more)| (*n, &more[..])).collect();
    let limits = "[tenant.acme.network.app.limits]
unreplied = 60000
";
    let text = network(scene, limits, &groups, &[2], &endpoints);
    // But for one of them: what it sends there is decided as all else.
    let text = format!("underlay_access = [\"acme/p{}\"]\n{text}", ASKED[0]);
    let mut pair = Pair::new(scene, &text, 100_000);
    let mut by_programs = 0;
    for _ in 0..FRAMES {
        let (from, frame) = some_first_packet(&mut dice);
        by_programs += usize::from(pair.send(from, &frame).1);
    }
    pair.same();
    let (carried, policy_drops) = (pair.twin.carried, pair.twin.policy_drops);
    println!("{carried} of {FRAMES} first packets carried, {policy_drops} refused by the programs");
    (by_programs, FRAMES, carried as usize)
}

/// An echo is asked for by another type in each family.
fn types_of_icmp() {
    let text = |[v4, v6]: [u8; 2]| {
        let rules = |peer| {
            format!(
                "[{{ proto = \"udp\", {peer} = \"any\" }}, {{ proto = \"icmp\", icmp_type = {v4}, {peer} = \"any\" }}, \
                 {{ proto = \"icmpv6\", icmp_type = {v6}, {peer} = \"any\" }}]"
            )
        };
        let groups =
            format!("[tenant.acme.group.all]\negress = {}\ningress = {}\n", rules("to"), rules("from"));
        network(MESH, "", &groups, &[], &[(11, ""), (12, "")])
    };
    let mut pair = Pair::new(MESH, &text([8, 128]), 1000);
    pair.prime(11, 12);
    let denied = Outcome::Drop(DropReason::EgressDenied);
    for (types, expected) in [([8, 128], Outcome::Forward), ([128, 8], denied), ([0, 129], denied)] {
        pair.install(&text(types));
        let mut v6 = Vec::new();
        ip6(11, 12).icmpv6_echo_request(u16::from(types[0]), 1).write(&mut v6, b"ping").unwrap();
        for frame in [ping(11, 12, types[0].into()), v6] {
            assert_eq!(pair.send(11, &frame), (expected, true), "{types:?}");
        }
    }
    pair.same();
}

fn outer_headers() {
    let text = network(MESH, "", EVERYONE, &[], &[(11, ""), (12, ""), (21, "")]);
    let mut pair = Pair::new(MESH, &text, 1000);
    pair.prime(11, 21);
    for (port, overlay) in (2000..).zip([
        "tos = 32\nttl = 7",
        "tos = \"inherit\"\nttl = 9",
        "tos = 64\nttl = \"inherit\"",
        "tos = \"inherit\"\nttl = \"inherit\"",
    ]) {
        pair.install(&format!("[overlay]\n{overlay}\n{text}"));
        let ip = ip4(11, 21, |ip| (ip.dscp, ip.time_to_live) = (10.try_into().unwrap(), 33));
        assert_eq!(pair.send(11, &udp_of(ip, port, 443, b"first")), (Outcome::Forward, true), "{overlay}");
    }
}

/// Packets and segments that fit to the byte, and those that do not, of endpoints behind the tunnel and here.
fn ports_and_paths() {
    let with = |more: &str| {
        let more = format!("mss_clamp = true\n{more}");
        network(MESH, &more, EVERYONE, &[], &[(11, ""), (12, ""), (21, "")])
    };
    let mut pair = Pair::new(MESH, &with(""), 1000);
    pair.prime(11, 12);
    let mut sport = 4000u16;
    let mut fits = |pair: &mut Pair, packet: usize, mss: u16| {
        for (more, expected) in [(0, true), (1, false)] {
            sport += 1;
            let mut large = udp_sized(11, 21, true, packet + more);
            large[34..36].copy_from_slice(&sport.to_be_bytes());
            large[40..42].fill(0);
            assert_eq!(pair.send(11, &large).1, expected, "{} bytes of {packet}", packet + more);
            let syn = Talk { a: 11, b: 21, sport, dport: 443 }.syn_with_mss(mss + more as u16);
            assert_eq!(pair.send(11, &syn).1, expected, "an MSS of {} where {mss} fits", mss + more as u16);
        }
    };
    fits(&mut pair, 1450, 1410);
    pair.install(&with("mtu = 1300"));
    fits(&mut pair, 1450, 1260);
    pair.install(&with("mtu = 1480"));
    fits(&mut pair, 1450, 1410);
    let link = |pair: &Pair, mtu: u32| {
        for host in [&pair.alone, &pair.twin] {
            host.shared.link_mtu.store(mtu, std::sync::atomic::Ordering::Relaxed);
        }
        let (ifindex, vtep) = (pair.devices[2], pair.twin.shared.snapshot().vtep);
        let underlay = KernelUnderlay { ifindex, mtu, vtep, port: 4789, dont_fragment: true };
        pair.kernel.set_underlay(Some(underlay)).unwrap();
    };
    // Whose addresses nobody configured begin by policy-cache entries, which are of these paths.
    assert_eq!(pair.send(11, &unconfigured(21, 1, 9)), (Outcome::Forward, false));
    assert_eq!(pair.send(11, &unconfigured(21, 2, 1402)), (Outcome::Forward, true));
    link(&pair, 1400);
    assert_eq!(pair.send(11, &unconfigured(21, 3, 1402)), (Outcome::Drop(DropReason::TooBig), false));
    fits(&mut pair, 1350, 1310);
    link(&pair, 1500);
    pair.sweep();
    fits(&mut pair, 1450, 1410);
    let narrow = NarrowPath { to: VtepAddr(MESH.address(2)), source: 0, mtu: 1300 };
    for host in [&pair.alone, &pair.twin] {
        host.shared.narrow_paths(&[narrow], clock::now());
    }
    let sized = |n, sport: u16| {
        let mut frame = udp_sized(11, 21, true, n);
        frame[34..36].copy_from_slice(&sport.to_be_bytes());
        frame[40..42].fill(0);
        frame
    };
    assert_eq!(pair.send(11, &sized(1250, 5000)), (Outcome::Forward, true));
    assert_eq!(pair.send(11, &sized(1251, 5001)), (Outcome::Drop(DropReason::TooBig), false));

    // A port that is gone is nowhere to send to.
    let (id, vni) = (pair.twin.port(12), Vni::try_from(VNI).unwrap());
    pair.kernel.remove_attachment(id).unwrap();
    each_kind(&mut pair, 11, 12, false);
    pair.kernel.set_attachment(id, access("p12", pair.devices[1]), vni).unwrap();
    assert!(pair.send(11, &udp(11, 12, 6000, 443)).1);
}

fn policy_drops_and_flows() {
    let endpoints = [(11, ""), (12, "groups = [\"serves\"]"), (21, "groups = [\"serves\"]")];
    let text = network(MESH, "", ASKS_AND_SERVES, &[], &endpoints);
    let [no_egress, no_ingress] = [DropReason::EgressDenied, DropReason::IngressDenied].map(Outcome::Drop);
    let mut pair = Pair::new(MESH, &text, 1000);
    pair.prime(11, 12);
    assert_eq!(pair.send(12, &udp(12, 11, 1, 1)), (no_egress, true));
    assert_eq!(pair.send(21, &udp(21, 11, 1, 2)), (no_ingress, true));
    assert_eq!(pair.send(21, &syn(21, 11, 7)), (no_ingress, true));
    // Not where it is at home: that comes before any rule.
    assert!(!pair.send(12, &udp(11, 11, 1, 3)).1);
    assert!(!pair.send(11, &from(udp(12, 11, 1, 3), mac(12))).1);
    assert!(!pair.send(31, &udp(21, 11, 1, 3)).1);
    pair.same();
    pair.same_last();
    // The other end of a connection may say what would not begin one.
    for b in [12, 21] {
        assert_eq!(pair.send(11, &syn(11, b, 2000)), (Outcome::Forward, true));
        let back = Talk { a: b, b: 11, sport: 443, dport: 2000 };
        assert!(!pair.send(b, &back.syn()).1, "refused although there is a flow");
        pair.same();
    }
    // Nor are packets refused of a flow that the rules do not let begin any more.
    for b in [12, 21] {
        assert_eq!(pair.send(11, &syn(11, b, 2001)), (Outcome::Forward, true));
    }
    pair.install(&text.replacen(
        "egress = [{ to = \"any\" }]",
        "egress = [{ proto = \"udp\", to = \"any\" }]",
        1,
    ));
    for b in [12, 21] {
        assert!(!pair.send(11, &syn(11, b, 2001)).1, "refused although there is a flow");
        pair.same();
        assert_eq!(pair.send(11, &syn(11, b, 2002)), (no_egress, true));
    }
    assert_eq!(pair.send(12, &udp(12, 11, 1, 1)), (no_egress, true));
    for _ in 0..3 {
        pair.same();
        pair.sweep();
    }
    let left = pair.kernel.programs().policy_drops().unwrap();
    let epoch = pair.twin.shared.snapshot().network(VNI.try_into().unwrap()).unwrap().compiled;
    assert!(!left.is_empty() && left.iter().all(|(key, _)| key.policy == epoch), "{left:?}");
}

/// What cannot be counted is refused by the pipeline, which counts it.
fn no_room_for_policy_drops() {
    let endpoints = [(11, ""), (12, "groups = [\"serves\"]"), (21, "groups = [\"serves\"]")];
    let text = network(MESH, "", ASKS_AND_SERVES, &[], &endpoints);
    let usual = tables(1000);
    let few = Limits { tables: TableSizes { policy_drops: 1, ..usual.tables }, ..usual };
    let mut pair = Pair::within(MESH, &text, few);
    assert!(pair.send(12, &udp(12, 11, 1, 1)).1);
    assert!(!pair.send(21, &udp(21, 11, 1, 1)).1);
    assert!(pair.send(12, &udp(12, 11, 1, 2)).1);
    pair.same();
}

/// Where the table has no room for a flow's place, what looks like the first packet of one may be a part of it.
fn no_room_for_places() {
    let endpoints = [(11, ""), (12, "groups = [\"serves\"]"), (21, "groups = [\"serves\"]")];
    let mut pair = Pair::new(MESH, &network(MESH, "", ASKS_AND_SERVES, &[], &endpoints), 1);
    pair.kernel.let_flows_begin(false);
    for (b, port) in [(12, 1), (12, 2), (21, 3)] {
        assert_eq!(pair.send(11, &udp(11, b, port, 443)), (Outcome::Forward, false));
    }
    for (b, port) in [(12, 1), (12, 2), (21, 3)] {
        assert_eq!(pair.send(b, &udp(b, 11, 443, port)), (Outcome::Forward, false));
    }
    assert_eq!(pair.send(12, &udp(12, 11, 443, 4)).0, Outcome::Drop(DropReason::EgressDenied));
    pair.same();
}
#[test]
fn new_flows_are_decided_as_the_pipeline_decides_them() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    for test in [
        endpoints_that_owe_more,
        endpoints_behind_plain_vteps,
        a_hub_and_its_spokes,
        rules_of_all_kinds,
        tiers_of_all_kinds,
        fields::more_than_to_pass_or_to_drop,
        fields::dscp_and_tcp_flags,
        fields::a_flow_is_decided_by_what_it_began_with,
        types_of_icmp,
        helpers::what_is_expected,
        stateless::each_packet_by_itself,
        stateless::state_at_one_end,
        reloads::what_a_reload_changes,
        reloads::a_change_of_one_endpoint_is_its_own,
        reloads::a_change_of_one_endpoint_is_in_force_at_once,
        reloads::cached_decisions_end_at_once,
        outer_headers,
        ports_and_paths,
        policy_drops_and_flows,
        fields::no_policy_cache_entry_by_source_port,
        fields::no_policy_cache_entry_by_dscp,
        no_room_for_policy_drops,
        no_room_for_places,
        reloads::no_half_of_a_change,
        timeouts::ends_that_have_their_own,
    ] {
        std::thread::spawn(test).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}
