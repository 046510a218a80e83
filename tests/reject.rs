//! What a rejected packet's sender is told: what Linux's own REJECT says of the same packets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::time::{Duration, Instant};

use common::{BOUND, Space, World, must};
use eastgate_testkit::{Link, command, frames::*};
use eastgate_wire::{
    View,
    reply::{IcmpError, Speaker, icmp_error, tcp_reset},
    view::Transport,
};
use etherparse::{PacketBuilder, TcpHeader};

const ASKS: u8 = 11;
const SERVES: u8 = 21;
/// Of datagrams that are sent to know that Linux has nothing more to say
const MARKER: u16 = 60_000;

/// A host with Linux's own stack, which rejects everything, and the wire to it.
fn linux(world: &mut World) -> (Space, Link) {
    let (guest, host) = (world.space("guest"), world.space("linux"));
    world.cable((&guest, "g0"), (&host, "l0"), 1500);
    for (space, device, station) in [(&guest, "g0", ASKS), (&host, "l0", SERVES)] {
        space.ip(&format!("link set {device} address 02:00:00:00:00:{station:02x}"));
        must(command::run(space.command("ethtool").args(["-K", device, "tx", "off", "gro", "off"])));
    }
    host.ip(&format!("addr add 10.1.0.{SERVES}/24 dev l0"));
    host.ip(&format!("addr add fd00:1::{SERVES:x}/64 dev l0 nodad"));
    for address in [format!("10.1.0.{ASKS}"), format!("fd00:1::{ASKS:x}")] {
        host.ip(&format!("neigh add {address} lladdr 02:00:00:00:00:{ASKS:02x} dev l0"));
    }
    // Every packet is to be answered, however many there are.
    host.set("net/ipv4/icmp_ratelimit", "0");
    host.set("net/ipv4/icmp_ratemask", "0");
    host.set("net/ipv6/icmp/ratelimit", "0");
    for (program, prohibited) in
        [("iptables", "icmp-admin-prohibited"), ("ip6tables", "icmp6-adm-prohibited")]
    {
        let others = format!("-j REJECT --reject-with {prohibited}");
        for rule in ["-p tcp -j REJECT --reject-with tcp-reset", &others] {
            let rule: Vec<&str> = rule.split(' ').collect();
            must(command::run(host.command(program).args(["-A", "INPUT"]).args(rule)));
        }
    }
    let link = guest.enter(|| must(Link::open("g0", Duration::from_millis(50))));
    (host, link)
}

/// What Linux answers to a frame.
fn asked(link: &mut Link, frame: &[u8], number: u16) -> Option<Vec<u8>> {
    let marker = udp(ASKS, SERVES, number, MARKER);
    link.send(frame).unwrap();
    let (mut answer, begun) = (None, Instant::now());
    loop {
        assert!(begun.elapsed() < BOUND, "no answer to marker {number}");
        // There is a limit to all ICMP of a host.
        link.send(&marker).unwrap();
        while let Some(came) = link.receive().unwrap().map(<[u8]>::to_vec) {
            let is_packet = View::parse(&came).is_ok_and(|view| view.ip().is_some());
            if came.get(..6) != Some(&mac(ASKS)) || !is_packet {
                continue;
            }
            // The ports of the datagram that is quoted
            match came.get(62..66) {
                Some(ports) if ports == [number.to_be_bytes(), MARKER.to_be_bytes()].concat() => {
                    return answer;
                }
                Some(ports) if ports[2..] == MARKER.to_be_bytes() => {}
                _ => assert_eq!(answer.replace(came), None, "one answer to a packet"),
            }
        }
    }
}

/// What eastgate answers.
fn told(frame: &[u8]) -> Option<Vec<u8>> {
    let view = View::parse(frame).unwrap();
    let (speaker, mut out) = (Speaker::destination_of(&view).unwrap(), Vec::new());
    let told = match &view.ip().unwrap().transport {
        Transport::Tcp(tcp) => tcp_reset(frame, &view, tcp, speaker, &mut out),
        _ => icmp_error(frame, &view, speaker, IcmpError::Prohibited, &mut out),
    };
    told.ok().map(|()| out)
}

/// Without what a host chooses for each packet that it sends: identification and whether it may be cut (IPv4), with the
/// checksum over it; flow label (IPv6).
fn without_choices(mut frame: Vec<u8>) -> Vec<u8> {
    match frame[12..14] {
        [8, 0] => {
            frame[18..22].fill(0);
            frame[24..26].fill(0);
        }
        _ => {
            frame[15] &= 0xf0;
            frame[16..18].fill(0);
        }
    }
    frame
}

fn segment(v6: bool, flags: &str, payload: &[u8]) -> Vec<u8> {
    let mut tcp = TcpHeader::new(4000, 80, 1000, 500);
    tcp.acknowledgment_number = 7000;
    for flag in flags.chars() {
        match flag {
            'S' => tcp.syn = true,
            'A' => tcp.ack = true,
            'F' => tcp.fin = true,
            'R' => tcp.rst = true,
            'P' => tcp.psh = true,
            _ => (tcp.ece, tcp.cwr) = (true, true),
        }
    }
    let mut out = Vec::new();
    let ip = if v6 { ip6(ASKS, SERVES) } else { ip4(ASKS, SERVES, df) };
    ip.tcp_header(tcp).write(&mut out, payload).unwrap();
    out
}

fn packets() -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for v6 in [false, true] {
        let family = if v6 { "IPv6" } else { "IPv4" };
        for flags in ["S", "SE", "SA", "A", "PA", "F", "FA", "R", "RA"] {
            for payload in [&b""[..], b"d", b"data"] {
                let text = format!("{family} TCP {flags} with {} bytes", payload.len());
                all.push((text, segment(v6, flags, payload)));
            }
        }
        for len in [0, 1, 400, 520, 521, 1184, 1185, 1400] {
            let ip =
                if v6 { ip6(ASKS, SERVES) } else { ip4(ASKS, SERVES, |ip| ip.dscp = 46.try_into().unwrap()) };
            all.push((format!("{family} UDP of {len} bytes"), udp_of(ip, 4000, 53, &vec![7; len])));
        }
    }
    let ethernet = || PacketBuilder::ethernet2(mac(ASKS), mac(SERVES));
    let (from, to) = (v4(ASKS), v4(SERVES));
    let (from6, to6) = (v6(ASKS), v6(SERVES));
    for kind in [0u8, 3, 4, 5, 8, 11, 12, 13] {
        let mut out = Vec::new();
        ethernet().ipv4(from, to, 64).icmpv4_raw(kind, 0, [0; 4]).write(&mut out, &[0; 40]).unwrap();
        all.push((format!("ICMP {kind}"), out));
    }
    // Those that a host's stack takes for itself before any rule are not among them.
    for kind in [1u8, 2, 3, 4, 128, 129] {
        let mut out = Vec::new();
        ethernet().ipv6(from6, to6, 64).icmpv6_raw(kind, 0, [0; 4]).write(&mut out, &[0; 40]).unwrap();
        all.push((format!("ICMPv6 {kind}"), out));
    }
    let mut gre = Vec::new();
    ip4(ASKS, SERVES, |_| ()).write(&mut gre, 47.into(), &[0; 40]).unwrap();
    all.push(("GRE".into(), gre));
    all
}

#[test]
fn linux_rejects_with_the_same_words() {
    let Some(mut world) = World::new() else { return };
    let (_host, mut link) = linux(&mut world);
    let (mut answered, mut different) = (0, Vec::new());
    for (number, (what, frame)) in (1..).zip(packets()) {
        let linux = asked(&mut link, &frame, number).map(without_choices);
        let ours = told(&frame).map(without_choices);
        answered += usize::from(linux.is_some());
        if linux != ours {
            different.push(format!("{what}\n Linux {linux:02x?}\n ours  {ours:02x?}"));
        }
    }
    assert!(answered > 60, "{answered} answers");
    assert!(different.is_empty(), "{}", different.join("\n"));
}
