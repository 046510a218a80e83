//! The packets that ask, from every machine to every other: the first of a flow each, and where nobody keeps state also what would
//! answer one.

use std::net::IpAddr;

use eastgate_policy::rule::{Header, Probe as Asked};
use eastgate_testkit::packet::ip_frame;
use etherparse::{IpNumber, PacketBuilder};

use super::case::{Case, MACHINES, PORTS};

/// A packet, from whom, for whom, and what a policy sees of it.
pub struct Probe {
    pub from: usize,
    pub to: usize,
    pub v6: bool,
    pub asked: Asked,
    pub frame: Vec<u8>,
}

/// All of a case.
pub fn all(case: &Case) -> Vec<Probe> {
    let mut probes = Vec::new();
    for (from, to) in (0..MACHINES).flat_map(|from| (0..MACHINES).map(move |to| (from, to))) {
        if from == to {
            continue;
        }
        for v6 in [false, true] {
            let mut add = |asked, packet: Vec<u8>| {
                let frame = ip_frame(Case::mac(to), Case::mac(from), &packet);
                probes.push(Probe { from, to, v6, asked, frame });
            };
            for (index, port) in (0..).zip(PORTS) {
                // Of a pair, the answer to a packet is no other packet.
                let sport = 20_000 + (index * 100 + from * 10 + to) as u16;
                for (proto, packet) in
                    [(6, tcp(case, from, to, v6, sport, port)), (17, udp(case, from, to, v6, sport, port))]
                {
                    let header = Header::Ports { source: sport, destination: port };
                    add(
                        Asked { proto, header, dscp: 0, tcp_flags: if proto == 6 { SYN } else { 0 } },
                        packet,
                    );
                }
            }
            if case.stateless {
                for (index, port) in (0..).zip(PORTS) {
                    // As the other machine has asked, whether that has come or not
                    let to_port = 20_000 + (index * 100 + to * 10 + from) as u16;
                    let header = Header::Ports { source: port, destination: to_port };
                    for flags in [SYN | ACK, ACK] {
                        let asked = Asked { proto: 6, header, dscp: 0, tcp_flags: flags };
                        add(asked, tcp_with(case, from, to, v6, (port, to_port), flags));
                    }
                    let asked = Asked { proto: 17, header, dscp: 0, tcp_flags: 0 };
                    add(asked, udp(case, from, to, v6, port, to_port));
                }
            }
            let (proto, kinds) = match (v6, case.stateless) {
                (true, false) => (58, &[128][..]),
                (true, true) => (58, &[128, 129][..]),
                (false, false) => (1, &[8, 13][..]),
                (false, true) => (1, &[8, 13, 0, 14][..]),
            };
            for kind in kinds {
                let id = (from * 10 + to) as u16 + u16::from(*kind) * 100;
                let header = Header::Icmp { kind: *kind, code: 0 };
                add(Asked { proto, header, dscp: 0, tcp_flags: 0 }, query(case, from, to, v6, *kind, id));
            }
            // What has no ports is one conversation in both directions: who has begun it depends on the case.
            if (from < to) == case.number.is_multiple_of(2) {
                for proto in [47, 50, 112] {
                    let asked = Asked { proto, header: Header::Unread, dscp: 0, tcp_flags: 0 };
                    add(asked, other(case, from, to, v6, proto));
                }
            }
        }
    }
    probes
}

const SYN: u8 = 2;
const ACK: u8 = 16;

fn start(
    case: &Case,
    from: usize,
    to: usize,
    v6: bool,
) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    match (case.address(from, v6), case.address(to, v6)) {
        (IpAddr::V4(a), IpAddr::V4(b)) => PacketBuilder::ipv4(a.octets(), b.octets(), 64),
        (IpAddr::V6(a), IpAddr::V6(b)) => PacketBuilder::ipv6(a.octets(), b.octets(), 64),
        _ => unreachable!("both are of one family"),
    }
}

fn tcp(case: &Case, from: usize, to: usize, v6: bool, sport: u16, dport: u16) -> Vec<u8> {
    let mut packet = Vec::new();
    let step = start(case, from, to, v6).tcp(sport, dport, 1000, 64_000).syn();
    step.write(&mut packet, &[]).unwrap();
    packet
}

/// A segment that begins nothing, with a number that nobody has heard of
fn tcp_with(case: &Case, from: usize, to: usize, v6: bool, (sport, dport): (u16, u16), flags: u8) -> Vec<u8> {
    let mut packet = Vec::new();
    let step = start(case, from, to, v6).tcp(sport, dport, 77_000, 64_000).ack(99_000);
    let step = if flags & SYN != 0 { step.syn() } else { step };
    step.write(&mut packet, &[]).unwrap();
    packet
}

fn udp(case: &Case, from: usize, to: usize, v6: bool, sport: u16, dport: u16) -> Vec<u8> {
    let mut packet = Vec::new();
    start(case, from, to, v6).udp(sport, dport).write(&mut packet, b"probe").unwrap();
    packet
}

fn query(case: &Case, from: usize, to: usize, v6: bool, kind: u8, id: u16) -> Vec<u8> {
    let mut packet = Vec::new();
    let [a, b] = id.to_be_bytes();
    let step = start(case, from, to, v6);
    match v6 {
        true => step.icmpv6_raw(kind, 0, [a, b, 0, 1]).write(&mut packet, b"probe").unwrap(),
        // A timestamp has three more words (RFC 792).
        false => step.icmpv4_raw(kind, 0, [a, b, 0, 1]).write(&mut packet, &[0; 12]).unwrap(),
    }
    packet
}

fn other(case: &Case, from: usize, to: usize, v6: bool, proto: u8) -> Vec<u8> {
    let mut packet = Vec::new();
    // GRE without options that carries an empty IPv4 packet; the others say nothing that is read.
    start(case, from, to, v6).write(&mut packet, IpNumber(proto), &[0, 0, 8, 0, 0, 0, 0, 1]).unwrap();
    packet
}
