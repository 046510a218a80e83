//! Valid frames with random bytes in random places: never a panic, never a frame for another network, and never
//! one that the rules, walked as a person would, do not allow.

use std::collections::HashSet;

use eastgate_policy::{
    naive,
    rule::{Direction, Probe, Verdict},
};
use eastgate_wire::{Addr, View, view::Transport};

use super::{
    frames::*,
    net::{Fate, Net, vxlan},
    scene::*,
};

/// xorshift64*: the same noise in every run.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// Changes one to three bytes, the first of them at `at`; half the time the IPv4 header's checksum is made
    /// right again, and that of what is in the packet, so that they are not what stops everything.
    fn disturb(&mut self, bytes: &mut [u8], at: usize, ip: usize) {
        bytes[at] = self.next() as u8;
        for _ in 0..self.below(3) {
            let at = self.below(bytes.len());
            bytes[at] = self.next() as u8;
        }
        let header_len = usize::from(bytes[ip] & 15) * 4;
        if self.next().is_multiple_of(2)
            && bytes[ip] >> 4 == 4
            && (20..=bytes.len() - ip).contains(&header_len)
        {
            let header = &mut bytes[ip..ip + header_len];
            header[10..12].fill(0);
            let sum = !ones_sum(header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        mend(&mut bytes[ip - 14..]);
    }
}

/// A judge of what was delivered. First fragments that passed are remembered: the others inherit from them.
#[derive(Default)]
struct Judge {
    first: HashSet<(Addr, Addr, u8, u32)>,
    delivered: usize,
}

impl Judge {
    fn check(&mut self, net: &Net, fate: &Fate, egress_of: Option<(&str, &str)>) {
        for delivery in &fate.deliveries {
            let sender_itself = egress_of.is_some_and(|(_, name)| delivery.to == format!("acme/{name}"));
            if !sender_itself {
                self.check_frame(net, &delivery.to, &delivery.frame, egress_of);
                self.delivered += 1;
            }
        }
    }

    fn check_frame(&mut self, net: &Net, to: &str, frame: &[u8], egress_of: Option<(&str, &str)>) {
        let view = View::parse(frame).unwrap();
        let Some(ip) = view.ip() else {
            assert!(matches!(view.ethertype, 0x0806 | 0x8035), "{to} got {frame:02x?}");
            return;
        };
        if matches!(ip.transport, Transport::Icmp(icmp) if ip.proto == 58 && (133..=137).contains(&icmp.kind))
        {
            return;
        }
        let datagram = (ip.src, ip.dst, ip.proto, ip.fragment.map_or(0, |fragment| fragment.id));
        if ip.transport == Transport::LaterFragment {
            assert!(
                self.first.contains(&datagram),
                "{to} got a later fragment without a first: {frame:02x?}"
            );
            return;
        }
        let probe = Probe::of(ip).unwrap();
        let receiver = (host_of(to), to.strip_prefix("acme/").expect("a frame of acme's network"));
        let sides = [(Some(receiver), Direction::Ingress, ip.src), (egress_of, Direction::Egress, ip.dst)];
        for ((host, name), direction, peer) in sides.into_iter().filter_map(|(end, d, p)| Some((end?, d, p)))
        {
            let snapshot = net.snapshot(host);
            let network = snapshot.networks().into_iter().find(|network| network.vni.get() == VNI).unwrap();
            let endpoint = network.endpoints.iter().find(|endpoint| &*endpoint.name == name).unwrap();
            let decision = naive::decide(&network.source(), endpoint.id, direction, peer, &probe);
            assert_eq!(decision.verdict, Verdict::ALLOW, "{to} got {frame:02x?}");
        }
        if ip.fragment.is_some() {
            self.first.insert(datagram);
        }
    }
}

fn host_of(endpoint: &str) -> &'static str {
    match endpoint {
        "acme/web1" | "acme/web3" | "acme/db2" => "alpha",
        "acme/db3" => "gamma",
        _ => "beta",
    }
}

fn frames(sender: u8) -> Vec<Vec<u8>> {
    let body = pieces(&udp_sized(sender, DB1, false, 128), 64);
    vec![
        Talk { a: sender, b: DB1, sport: 40000, dport: 5432 }.syn(),
        Talk { a: sender, b: DB2, sport: 40000, dport: 5432 }.syn(),
        udp(sender, DB1, 4000, 53),
        udp(sender, DB2, 4000, 53),
        udp6(sender, DB1, 4000, 9000),
        ping(sender, DB1, 5),
        who_has(sender, DB1),
        arp(1, mac(DB1), sender, [0; 6], v4(DB1)),
        solicit(sender, DB1),
        fragment(sender, DB1, 3, body[0].0, true, &body[0].1),
        fragment(sender, DB1, 3, body[1].0, false, &body[1].1),
        icmp_error(sender, DB1, 3, 3, &udp(DB1, sender, 53, 4000)),
        to(udp(sender, DB1, 4000, 53), BROADCAST),
        tagged(&udp(sender, DB1, 4000, 53), 5),
    ]
}

/// acme beside a tenant that takes everything from everyone and, of all numbers, has acme's.
fn net(keys: &str) -> Net {
    let open = [
        app_network("open", 5002, keys),
        "[tenant.open.group.all]\ningress = [{ from = \"any\" }]\negress = [{ to = \"any\" }]\n".into(),
        endpoint("open", "db1", "beta", DB1, "all", ""),
        endpoint("open", "db2", "alpha", DB2, "all", ""),
    ];
    Net::new(&[scene(keys), open.concat()].concat())
}

const MODES: [&str; 5] = [
    "",
    "neighbors = \"proxy\"",
    "neighbors = \"off\"\nmulticast = \"flood\"\nunknown_destinations = \"flood\"\nunknown_neighbors = \"flood\"",
    "vlan_aware = true\ntcp = \"loose\"",
    "vlan_aware = true\nguest_vlans = [\"1-100\"]\nmulticast = \"flood\"",
];

#[test]
fn noise_in_any_byte_of_a_datagram_gets_nothing_past_the_rules() {
    let mut noise = Noise(0x1234_5678_9abc_def1);
    for keys in MODES {
        let mut net = net(keys);
        let mut judge = Judge::default();
        let alpha = net.vtep("alpha");
        for _ in 0..10 {
            for datagram in frames(WEB1).iter().map(|frame| vxlan(VNI, frame)) {
                for at in 0..datagram.len() {
                    let mut bytes = datagram.clone();
                    noise.disturb(&mut bytes, at, 22);
                    let fate = net.inject("beta", alpha, noise.next() as u8, &bytes);
                    // With another VNI it is a frame of the other network's, where web1 is nobody.
                    judge.check(&net, &fate, None);
                    net.pass(std::time::Duration::from_millis(20));
                }
            }
        }
        assert!(
            judge.delivered > 500,
            "noise that stops everything proves nothing: {} passed",
            judge.delivered
        );
    }
}

#[test]
fn noise_in_any_byte_of_a_tenants_frame_gets_nothing_past_the_rules() {
    let mut noise = Noise(0xfedc_ba98_7654_3211);
    for keys in MODES {
        let mut net = net(keys);
        let mut judge = Judge::default();
        for _ in 0..6 {
            for frame in frames(WEB1) {
                for at in 0..frame.len() {
                    let mut bytes = frame.clone();
                    noise.disturb(&mut bytes, at, 14);
                    let fate = net.send("acme/web1", &bytes);
                    judge.check(&net, &fate, Some(("alpha", "web1")));
                    net.pass(std::time::Duration::from_millis(20));
                }
            }
        }
        assert!(
            judge.delivered > 300,
            "noise that stops everything proves nothing: {} passed",
            judge.delivered
        );
    }
}

#[test]
fn random_bytes_go_nowhere() {
    let mut noise = Noise(0x0bad_cafe_0bad_cafe);
    let mut net = net(MODES[2]);
    let alpha = net.vtep("alpha");
    for _ in 0..20_000 {
        let len = noise.below(200);
        let bytes: Vec<u8> = (0..len).map(|_| noise.next() as u8).collect();
        assert!(net.send("acme/web1", &bytes).deliveries.is_empty());
        assert!(net.inject("beta", alpha, 0, &vxlan(VNI, &bytes)).deliveries.is_empty());
    }
}
