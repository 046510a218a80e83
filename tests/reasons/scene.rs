//! One host with networks of many kinds, and frames for each reason to drop one.

use std::{
    net::{IpAddr, UdpSocket},
    time::Duration,
};

use eastgate_testkit::{frames, link::Link, packet, sctp};
use eastgate_wire::MacAddr;
use etherparse::PacketBuilder;

use crate::common::{Daemon, Script, Space, bind_udp, send_frame, site::*, wait_for};

/// What stands beside the network of tests/attacks.py: one network of each kind that has reasons of its own.
const MORE: &str = include_str!("networks.toml");

/// The configuration of the scene: nothing runs on beta but somebody else's VTEP.
pub(crate) fn configuration(text: String) -> String {
    let beta = "[host.beta]\nvtep = \"192.0.2.2\"\ndevice = \"underlay0\"\n";
    assert!(text.contains(beta), "{text}");
    let access = "underlay_access = [\"acme/manager\"]\n";
    access.to_owned()
        + &text.replace(beta, "[host.beta]\nvtep = \"192.0.2.2\"\ndevice = \"underlay0\"\nruns = \"vxlan\"\n")
        + MORE
}

/// An endpoint as frames know it.
#[derive(Clone, Copy)]
pub(crate) struct End {
    mac: MacAddr,
    address: IpAddr,
}

/// Number `station` of network `network`.
const fn end(network: u8, station: u8) -> End {
    End {
        mac: MacAddr([2, 0, 0, 0, if network == 1 { 0 } else { network }, station]),
        address: IpAddr::V4(std::net::Ipv4Addr::new(10, network, 0, station_address(station))),
    }
}

/// In the first network MACs end with the digits of the address.
const fn station_address(station: u8) -> u8 {
    if station < 0x10 { station } else { station / 16 * 10 + station % 16 }
}

const WEB1_END: End = end(1, 0x11);
const WEB2_END: End = end(1, 0x12);
const DB1_END: End = end(1, 0x21);

fn datagram(from: End, to: End, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let packet = packet::udp((from.address, ports.0), (to.address, ports.1), payload).unwrap();
    packet::ip_frame(to.mac, from.mac, &packet)
}

fn last_hop(from: End, to: End) -> Vec<u8> {
    let [IpAddr::V4(source), IpAddr::V4(destination)] = [from.address, to.address] else {
        panic!("IPv4 alone")
    };
    let ip = PacketBuilder::ethernet2(from.mac.0, to.mac.0).ipv4(source.octets(), destination.octets(), 1);
    let mut frame = Vec::new();
    ip.udp(1, ALLOWED).write(&mut frame, b"last").unwrap();
    frame
}

fn segment(
    from: End,
    to: End,
    ports: (u16, u16),
    numbers: (u32, u32),
    flags: &str,
    payload: &[u8],
) -> Vec<u8> {
    let [IpAddr::V4(source), IpAddr::V4(destination)] = [from.address, to.address] else {
        panic!("IPv4 alone")
    };
    let ip = PacketBuilder::ethernet2(from.mac.0, to.mac.0).ipv4(source.octets(), destination.octets(), 64);
    let mut tcp = ip.tcp(ports.0, ports.1, numbers.0, 64_240);
    for flag in flags.chars() {
        tcp = match flag {
            'S' => tcp.syn(),
            'A' => tcp.ack(numbers.1),
            other => panic!("{other}"),
        };
    }
    let mut frame = Vec::new();
    tcp.write(&mut frame, payload).unwrap();
    frame
}

/// A fragment of a datagram of UDP; the first one has its header.
fn fragment(from: End, to: End, id: u16, offset: usize, more: bool, body: &[u8]) -> Vec<u8> {
    let [IpAddr::V4(source), IpAddr::V4(destination)] = [from.address, to.address] else {
        panic!("IPv4 alone")
    };
    let mut ip = etherparse::Ipv4Header::new(
        body.len() as u16,
        64,
        etherparse::IpNumber::UDP,
        source.octets(),
        destination.octets(),
    )
    .unwrap();
    (ip.identification, ip.more_fragments, ip.dont_fragment) = (id, more, false);
    ip.fragment_offset = ((offset / 8) as u16).try_into().unwrap();
    ip.header_checksum = ip.calc_header_checksum();
    let mut packet = ip.to_bytes().to_vec();
    packet.extend(body);
    packet::ip_frame(to.mac, from.mac, &packet)
}

/// The UDP header of a datagram of `len` bytes, without a checksum.
fn udp_header(ports: (u16, u16), len: u16) -> Vec<u8> {
    [ports.0, ports.1, len, 0].iter().flat_map(|word| word.to_be_bytes()).collect()
}

fn association(from: End, to: End, ports: (u16, u16), tag: u32, chunks: &[Vec<u8>]) -> Vec<u8> {
    let [IpAddr::V4(source), IpAddr::V4(destination)] = [from.address, to.address] else {
        panic!("IPv4 alone")
    };
    sctp::frame(
        [from.mac.0, to.mac.0],
        [source.octets(), destination.octets()],
        &sctp::packet(ports, tag, chunks),
    )
}

fn arp(from: End, target: IpAddr) -> Vec<u8> {
    let [IpAddr::V4(sender), IpAddr::V4(target)] = [from.address, target] else { panic!("IPv4 alone") };
    let words = packet::Arp {
        op: packet::ArpOp::Request,
        sender: (from.mac, sender),
        target: (MacAddr::ZERO, target),
    };
    words.frame(MacAddr(frames::BROADCAST))
}

/// The VXLAN header and what is behind it.
fn vxlan(vni: u32, frame: &[u8]) -> Vec<u8> {
    [&[8, 0, 0, 0][..], &(vni << 8).to_be_bytes(), frame].concat()
}

/// The places of the scene.
pub(crate) struct Scene {
    pub(crate) site: Site,
    /// In front of trunk0 and seg0
    switch: Space,
    k1: Space,
    _k2: Space,
    attacker: Script,
}

impl Scene {
    /// Built, with nothing running.
    pub(crate) fn new() -> Option<Self> {
        let mut site = Site::new(HOSTS_V4)?;
        site.rewrite(configuration);
        let switch = site.world.space("switch");
        for (port, at) in [("trunk0", "to-trunk"), ("seg0", "to-seg")] {
            site.world.cable((&site.alpha, port), (&switch, at), 1500);
        }
        let [k1, k2] = [1, 2].map(|number| {
            let space = site.world.space(&format!("k{number}"));
            site.world.cable((&site.alpha, &format!("veth-k{number}")), (&space, "eth0"), 1500);
            space
        });
        for machine in [&site.web1, &site.web2, &k1, &k2, &switch] {
            for setting in ["all", "default", "lo"] {
                machine.set(&format!("net/ipv6/conf/{setting}/disable_ipv6"), "1");
            }
        }
        for machine in [&site.web1, &site.web2] {
            machine.set("net/ipv6/conf/eth0/disable_ipv6", "1");
            machine.ip("addr flush dev eth0");
        }
        for address in ["192.0.2.3", "192.0.2.4"] {
            site.beta.ip(&format!("addr add {address}/24 dev underlay0"));
        }
        site.alpha.ip("link set lo up");
        site.alpha.ip("link set underlay0 mtu 1450");
        let attacker = Script::start(&site.web1, "attacks.py", &["eth0", "web1"]);
        Some(Self { site, switch, k1, _k2: k2, attacker })
    }

    fn web1(&self, frame: &[u8]) {
        send_frame(&self.site.web1, "eth0", frame);
    }

    fn web2(&self, frame: &[u8]) {
        send_frame(&self.site.web2, "eth0", frame);
    }

    fn trunk(&self, vlan: u16, frame: &[u8]) {
        send_frame(&self.switch, "to-trunk", &frames::tagged(frame, vlan));
    }

    fn segment(&self, frame: &[u8]) {
        send_frame(&self.switch, "to-seg", frame);
    }

    /// Many frames, as fast as the device takes them.
    fn flood(space: &Space, device: &str, frames: impl Iterator<Item = Vec<u8>> + Send) {
        space.enter(|| {
            let mut link = Link::open(device, Duration::ZERO).unwrap();
            frames.for_each(|frame| link.send(&frame).unwrap());
        });
    }

    /// A datagram from one of beta's addresses to alpha's VTEP.
    fn underlay(&self, from: &str, tos: u32, payload: &[u8]) {
        let socket: UdpSocket = self.site.beta.enter(|| bind_udp((from, 50_000)));
        socket2::SockRef::from(&socket).set_tos_v4(tos).unwrap();
        socket.send_to(payload, "192.0.2.1:4789").unwrap();
    }

    /// The cases of docs/attacks.md: what guests send that want what is not theirs.
    pub(crate) fn attack(&mut self, case: &str) {
        self.attacker.send(case);
    }

    /// What is not among those, by reason.
    pub(crate) fn provoke(&self, alpha: &Daemon, reason: &str) {
        let body = [0u8; 64];
        let nobody = |network: u8| End {
            address: IpAddr::from([10, network, 0, 99]),
            mac: MacAddr([2, 0, 0, 0, network, 0x99]),
        };
        match reason {
            "vxlan-truncated" => self.underlay("192.0.2.2", 0, &vxlan(5001, &body[..6])),
            "vxlan-flags" => self.underlay("192.0.2.2", 0, &[&[0; 8][..], &body].concat()),
            "vxlan-reserved" => {
                let mut payload = vxlan(5006, &datagram(end(6, 2), end(6, 1), (1, 7300), b"reserved"));
                payload[7] = 1;
                self.underlay("192.0.2.2", 0, &payload);
            }
            "unknown-vtep" => self.underlay(
                "192.0.2.3",
                0,
                &vxlan(5001, &datagram(DB1_END, WEB1_END, (1, ALLOWED), b"who")),
            ),
            "unknown-vni" => self.underlay(
                "192.0.2.2",
                0,
                &vxlan(99, &datagram(DB1_END, WEB1_END, (1, ALLOWED), b"where")),
            ),
            // Congested, and the inner packet is not capable of being told.
            "outer-ecn" => self.underlay(
                "192.0.2.2",
                3,
                &vxlan(5001, &datagram(DB1_END, WEB1_END, (1, ALLOWED), b"slower")),
            ),
            "inner-vlan" => {
                let inner = frames::tagged(&datagram(DB1_END, WEB1_END, (1, ALLOWED), b"tag"), 7);
                self.underlay("192.0.2.2", 0, &vxlan(5001, &inner));
            }
            "unknown-endpoint" => self.underlay(
                "192.0.2.2",
                0,
                &vxlan(5001, &datagram(nobody(1), WEB1_END, (1, ALLOWED), b"new")),
            ),
            "split-horizon" => {
                let nowhere = end(1, 0x34);
                self.underlay("192.0.2.2", 0, &vxlan(5001, &datagram(DB1_END, nowhere, (1, 7300), b"back")));
            }
            "unknown-vlan" => self.trunk(999, &datagram(end(1, 0x31), WEB1_END, (1, ALLOWED), b"other")),
            "unknown-station" => self.segment(&datagram(nobody(3), end(3, 1), (1, ALLOWED), b"other")),
            "direct-frame" => self.segment(&datagram(end(3, 1), end(3, 2), (1, ALLOWED), b"direct")),
            "unlearned" => self.trunk(104, &datagram(end(4, 1), end(4, 2), (1, ALLOWED), b"mine")),
            "vxlan-in-vxlan" => {
                let vtep = End { mac: DB1_MAC, address: IpAddr::from([192, 0, 2, 2]) };
                self.trunk(102, &datagram(end(1, 0x32), vtep, (1, 4789), &vxlan(5001, &body)));
            }
            "neighbor-unknown" => self.segment(&arp(end(3, 1), nobody(3).address)),
            "neighbor-own" => (0..40).for_each(|_| self.web2(&arp(WEB2_END, WEB2_END.address))),
            "neighbor-limit" => {
                Self::flood(&self.site.web1, "eth0", (0..1000).map(|_| arp(WEB1_END, WEB2_END.address)))
            }
            "tcp-window" | "tcp-state" => {
                let port = if reason == "tcp-window" { 40_001 } else { 40_002 };
                let (there, back) = ((port, 5432), (5432, port));
                self.web1(&segment(WEB1_END, WEB2_END, there, (1000, 0), "S", b""));
                self.web2(&segment(WEB2_END, WEB1_END, back, (5000, 1001), "SA", b""));
                self.web1(&segment(WEB1_END, WEB2_END, there, (1001, 5001), "A", b""));
                match reason {
                    "tcp-window" => {
                        self.web1(&segment(WEB1_END, WEB2_END, there, (1_000_000, 5001), "A", b"far"))
                    }
                    // With data, it would begin something that nobody has allowed.
                    _ => self.web2(&segment(WEB2_END, WEB1_END, back, (5001, 0), "S", b"data")),
                }
            }
            "not-init" => {
                self.web1(&association(WEB1_END, WEB2_END, (1, 3868), 7, &[sctp::chunk(0, 3, &body)]))
            }
            "sctp-tag" => self.web1(&association(WEB1_END, WEB2_END, (2, 3868), 7, &[sctp::init(false, 9)])),
            "sctp-state" => {
                self.web1(&association(WEB1_END, WEB2_END, (3, 3868), 0, &[sctp::init(false, 9)]));
                self.web2(&association(WEB2_END, WEB1_END, (3868, 3), 9, &[sctp::chunk(0, 3, &body)]));
            }
            "fragment-refused" => {
                let first = [&udp_header((1, DENIED), 72)[..], &body[..56]].concat();
                self.web1(&fragment(WEB1_END, WEB2_END, 1, 0, true, &first));
                self.web1(&fragment(WEB1_END, WEB2_END, 1, 64, false, &body[..8]));
            }
            "fragment-limit" => {
                let first = [&udp_header((1, ALLOWED), 8000)[..], &body[..56]].concat();
                self.web1(&fragment(WEB1_END, WEB2_END, 2, 0, true, &first));
                for number in 0..300 {
                    self.web1(&fragment(WEB1_END, WEB2_END, 2, 64 + 8 * number, true, &body[..8]));
                }
            }
            "egress-denied" => self.trunk(101, &datagram(end(1, 0x31), WEB1_END, (1, ALLOWED), b"mute")),
            "egress-rule" => self.web1(&datagram(WEB1_END, WEB2_END, (1, 7201), b"out")),
            "ingress-rule" => self.web1(&datagram(WEB1_END, WEB2_END, (1, 7200), b"in")),
            "policy-changed" => {
                let flow = datagram(WEB1_END, WEB2_END, (2, 7300), b"before");
                self.web1(&flow);
                let allow = "{ action = \"allow\", proto = \"udp\", ports = 7300, from = \"any\" },\n";
                wait_for("it has begun", || {
                    alpha.ask(&["show", "flows", "--port", "7300"])["flows"]
                        .as_array()
                        .is_some_and(|flows| !flows.is_empty())
                });
                // Lines stay where they are: places are compared.
                self.site.rewrite(|text| text.replace(allow, "# nobody any more\n"));
                assert!(alpha.run(&["reload"]).status.success());
                self.web1(&flow);
            }
            "hairpin" => self.web1(&datagram(WEB1_END, End { mac: WEB1, ..WEB2_END }, (3, ALLOWED), b"self")),
            "too-big" => self.web1(&datagram(WEB1_END, DB1_END, (4, ALLOWED), &[0; 1420])),
            "no-peer" => {
                let all = End { mac: MacAddr(frames::BROADCAST), address: IpAddr::from([10, 10, 0, 255]) };
                self.trunk(112, &datagram(end(10, 1), all, (1, 7300), b"anybody"));
            }
            "port-gone" => self.web1(&datagram(WEB1_END, end(1, 0x33), (5, 7300), b"gone")),
            "vtep-unreachable" => self.web1(&datagram(WEB1_END, end(1, 0x34), (6, 7300), b"far")),
            "ttl-exceeded" => {
                let router = End { mac: eastgate_steering::proxy_mac(5007.try_into().unwrap()), ..end(7, 2) };
                send_frame(&self.k1, "eth0", &last_hop(end(7, 1), router));
            }
            "not-for-us" => {
                let nobody = End { mac: eastgate_steering::proxy_mac(5003.try_into().unwrap()), ..nobody(3) };
                self.segment(&datagram(end(3, 1), nobody, (1, ALLOWED), b"whose"));
            }
            "unresolved" => {
                let sought =
                    End { mac: eastgate_steering::proxy_mac(5011.try_into().unwrap()), ..nobody(11) };
                self.trunk(113, &datagram(end(11, 1), sought, (1, ALLOWED), b"found soon"));
            }
            "rule-limit" => {
                (10..20).for_each(|sport| self.web1(&datagram(WEB1_END, WEB2_END, (sport, 7100), b"more")))
            }
            "new-flow-limit" => (10..40)
                .for_each(|sport| self.trunk(110, &datagram(end(9, 1), end(9, 2), (sport, ALLOWED), b"new"))),
            "flow-limit" => {
                // Three quarters of what the network may have are one endpoint's, and connections make no room for another: the handshake of
                // one more does not come to its end.
                let [n1, n2] = [1, 2].map(|number| end(8, number));
                let have_come = |state: &str, count: u64| {
                    wait_for(&format!("{count} are {state}"), || {
                        let found = alpha.ask(&["show", "flows", "--vni", "5008", "--state", state]);
                        found["total"].as_u64() == Some(count)
                    });
                };
                for (ports, count, established) in [(100..112, 12, 12), (112..113, 1, 12)] {
                    let each = |vlan, from, to, numbers, flags: &str| {
                        for port in ports.clone() {
                            let ports = if vlan == 108 { (port, ALLOWED) } else { (ALLOWED, port) };
                            self.trunk(vlan, &segment(from, to, ports, numbers, flags, b""));
                        }
                    };
                    each(108, n1, n2, (1000, 0), "S");
                    have_come("syn-sent", count);
                    each(109, n2, n1, (5000, 1001), "SA");
                    have_come("syn-received", count);
                    each(108, n1, n2, (1001, 5001), "A");
                    have_come("established", established);
                }
            }
            "slow-path-limit" => {
                (0..400).for_each(|_| self.trunk(110, &arp(end(9, 1), IpAddr::from([10, 9, 0, 99]))))
            }
            "bum-limit" => {
                let all = End { mac: MacAddr(frames::BROADCAST), address: IpAddr::from([10, 5, 0, 255]) };
                (0..40).for_each(|_| self.trunk(105, &datagram(end(5, 1), all, (1, 7300), b"all")));
            }
            "mac-frozen" => {
                // The one that may be learned moves between two VTEPs.
                for round in 0..30 {
                    let from = ["192.0.2.2", "192.0.2.4"][round % 2];
                    self.underlay(
                        from,
                        0,
                        &vxlan(5005, &datagram(nobody(5), end(5, 1), (1, ALLOWED), b"moved")),
                    );
                }
            }
            "mac-limit" => {
                for station in 0xa0..0xa4 {
                    let new = End { mac: MacAddr([2, 0, 0, 0, 5, station]), ..nobody(5) };
                    self.underlay(
                        "192.0.2.2",
                        0,
                        &vxlan(5005, &datagram(new, end(5, 1), (1, ALLOWED), b"one more")),
                    );
                }
            }
            other => panic!("nobody knows how to provoke {other}"),
        }
    }
}
