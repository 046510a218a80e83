//! Whatever comes in: no panic, no malformed reply, none to anybody but the asker, none for its own address.

use eastgate_wire::{DropReason, view::Net};
use etherparse::{EtherType, NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::{
    frames::{Arp, Nd},
    *,
};

const MODES: [Mode; 6] = [OFF, SUPPRESS, PROXIED, CLOSED, CLOSED_PROXY, HUB];

/// A frame that would be answered, or almost.
fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (own, target) in [("10.1.0.10", "10.1.0.11"), ("10.1.0.10", "10.1.0.10"), ("0.0.0.0", "10.1.0.11")] {
        seeds.push(Arp::request(A, own, target).bytes());
        seeds.push(Arp::request(A, own, target).tagged(&[0x81, 0, 0, 9]).bytes());
        seeds.push(Arp::reply(A, own, B, target).bytes());
        seeds.push(Arp::request(UNKNOWN_HOST, target, target).bytes());
    }
    for (own, target) in [("fd00::10", "fd00::11"), ("fd00::10", "fd00::10"), ("::", "fd00::11")] {
        seeds.push(Nd::ns(A, own, target).bytes());
        seeds.push(Nd { tags: &[0x81, 0, 0, 9], ..Nd::ns(A, own, target) }.bytes());
        seeds.push(Nd::na(A, target, B, "fd00::11", 0x60).bytes());
        seeds.push(Nd::unsolicited(UNKNOWN_HOST, target).bytes());
    }
    seeds
}

fn sound(frame: &[u8], view: &View, requester: &Requester<'_>, mode: &Mode) {
    let world = World::new();
    let mut reply = Vec::new();
    let answer = answer(frame, view, requester, &world, mode, &mut reply);
    let replied = match answer {
        Answer::Reply => true,
        Answer::Conflict(conflict) => conflict.reply,
        Answer::Ask => return asked(&reply),
        _ => false,
    };
    assert_eq!(replied, !reply.is_empty(), "{answer:?}");
    if !replied {
        return;
    }
    assert_eq!(reply[..6], view.src.0, "the reply goes to the asker");
    assert_eq!(reply[12..usize::from(view.l3) - 2], frame[12..usize::from(view.l3) - 2], "with its tags");
    let (about, mac) = well_formed(&reply);
    assert!(!requester.holdings.addresses.contains(&about), "nobody is answered for itself");
    let owner = world.by_address(about).expect("only for known bindings");
    let shown = if let Answers::Proxy { mac } = mode.answers { mac } else { owner.mac };
    assert_eq!(mac, shown);
}

/// Only proxy mode asks, and never with a real MAC in it.
fn asked(frame: &[u8]) {
    assert_eq!(frame[6..12], PROXY.0);
    for real in [A, B, ROUTER, GUEST, UNKNOWN_HOST] {
        assert!(!frame.windows(6).any(|window| window == real.0), "{real} leaks");
    }
}

/// Reads a reply with etherparse; whose address it tells, and with which MAC.
fn well_formed(reply: &[u8]) -> (Addr, MacAddr) {
    let packet = SlicedPacket::from_ethernet(reply).unwrap();
    let source = MacAddr(reply[6..12].try_into().unwrap());
    match packet.net.unwrap() {
        NetSlice::Arp(arp) => {
            assert_eq!((arp.operation().0, arp.proto_addr_type()), (2, EtherType::IPV4));
            assert_eq!(arp.sender_hw_addr(), source.0, "ARP sender is Ethernet source");
            assert_eq!(arp.target_hw_addr(), &reply[..6]);
            (Addr::v4(arp.sender_protocol_addr().try_into().unwrap()), source)
        }
        NetSlice::Ipv6(ip) => {
            assert_eq!((ip.header().hop_limit(), ip.header().traffic_class()), (255, 0));
            let Some(TransportSlice::Icmpv6(icmp)) = packet.transport else { panic!("{reply:02x?}") };
            assert!(icmp.is_checksum_valid(ip.header().source(), ip.header().destination()));
            let bytes = icmp.slice();
            assert_eq!((bytes[0], bytes[1], bytes.len()), (136, 0, 32));
            assert_eq!(bytes[8..24], ip.header().source(), "it speaks as the target");
            assert_eq!(bytes[24..], [&[2, 1][..], &source.0].concat());
            let multicast = ip.header().destination()[0] == 0xff;
            assert_eq!(bytes[4] & 0x40 == 0, multicast, "solicited exactly when it answers one");
            (Addr::v6(bytes[8..24].try_into().unwrap()), source)
        }
        NetSlice::Ipv4(_) => panic!("{reply:02x?}"),
    }
}

fn everywhere(frame: &[u8]) {
    let Ok(view) = View::parse(frame) else { return };
    for mode in MODES {
        for requester in [
            a(),
            b(),
            unknown_host(),
            router(),
            remote_unknown_host(),
            Requester { port_security: false, ..a() },
        ] {
            sound(frame, &view, &requester, &mode);
        }
    }
    let _any = claim(frame, &view);
}

#[test]
fn seeds_and_every_truncation() {
    for seed in seeds() {
        for len in 0..=seed.len() {
            everywhere(&seed[..len]);
        }
    }
}

/// Flipping any one bit of the message gives another answer or none, never one that is malformed.
#[test]
fn every_bit_flipped() {
    for mut seed in seeds() {
        for bit in 0..seed.len() * 8 {
            seed[bit / 8] ^= 1 << (bit % 8);
            everywhere(&seed);
            seed[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

/// A view that belongs to another frame is the caller's mistake, and still no panic.
#[test]
fn a_view_of_another_frame() {
    let seeds = seeds();
    for seed in &seeds {
        let view = View::parse(seed).unwrap();
        for other in &seeds {
            for len in [0, 14, 20, 40, other.len()] {
                let mut reply = Vec::new();
                let other = &other[..len.min(other.len())];
                let _any = answer(other, &view, &a(), &World::new(), &PROXIED, &mut reply);
            }
        }
    }
}

proptest! {
    #[test]
    fn noise(frame in proptest::collection::vec(any::<u8>(), 0..120)) {
        everywhere(&frame);
    }

    #[test]
    fn noise_behind_honest_headers(seed in 0usize..24, at in 12usize..90, noise in proptest::collection::vec(any::<u8>(), 1..12)) {
        let mut frame = seeds()[seed].clone();
        for (byte, noise) in frame.iter_mut().skip(at).zip(noise) {
            *byte = noise;
        }
        everywhere(&frame);
    }

    /// A secured port gets nothing said but what it owns, whatever it claims.
    #[test]
    fn a_secured_port_claims_only_its_own(mac in 0usize..5, spa in 0u8..20, tpa in 0u8..20, op in 1u16..3) {
        let mac = [A, B, ROUTER, GUEST, UNKNOWN_HOST][mac];
        let spa = format!("10.1.0.{spa}");
        let frame = Arp { op, tha: B, ..Arp::request(mac, &spa, &format!("10.1.0.{tpa}")) }.bytes();
        let (answer, _) = World::new().answer(&frame, &a(), &SUPPRESS);
        if mac != A || spa != "10.1.0.10" {
            let refused = matches!(answer, Answer::Drop(DropReason::ArpSpoofed | DropReason::ArpMalformed));
            prop_assert!(refused, "{answer:?}");
        }
    }

    /// In proxy mode nothing that names a real MAC of a host goes from one port to another.
    #[test]
    fn no_real_mac_leaks_through_a_proxy(seed in 0usize..24) {
        let frame = seeds()[seed].clone();
        let view = View::parse(&frame).unwrap();
        for requester in [a(), unknown_host()] {
            let (answer, _) = World::new().answer(&frame, &requester, &PROXIED);
            let claims = claim(&frame, &view).is_some();
            let leaves = match answer {
                Answer::Pass => true,
                Answer::Announce { onward, .. } => onward == Onward::Everywhere,
                _ => false,
            };
            prop_assert!(!(claims && leaves), "{answer:?}");
        }
    }
}

#[test]
fn the_oracle_reads_what_we_send() {
    let frame = Arp::request(A, "10.1.0.10", "10.1.0.11").bytes();
    let (_, reply) = World::new().answer(&frame, &a(), &SUPPRESS);
    assert_eq!(well_formed(&reply), (addr("10.1.0.11"), B));
    assert_eq!(View::parse(&reply).unwrap().net, Net::Arp);
}
