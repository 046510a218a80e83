//! What a rule rejects is told to its sender, wherever that is, and to nobody else.

use eastgate_policy::rule::{
    EndpointRules, Group, GroupId, Peer, PortProtocol, PortRange, Rule, RuleId, Service, Source, Then, Tier,
    TierEnd, Verdict,
};
use eastgate_wire::{
    View,
    view::{Transport, tcp_flags},
};
use etherparse::{SlicedPacket, TransportSlice};

use super::{frames::*, net::Net, scene::*};
use crate::pipeline::counters::traffic;

const REJECT: Then = Then::Settle(Verdict::REJECT);
const ALLOW: Then = Then::Settle(Verdict::ALLOW);

/// Everyone may send but to port 8, and gets but to port 3; what is not allowed is rejected.
fn rejecting(mut source: Source) -> Source {
    let to = |protocol, port| Service::Ports {
        protocol,
        destination: Some(vec![PortRange::single(port)]),
        source: None,
    };
    let rules = |port| {
        let rule = |service| Rule::new(RuleId(u32::from(port)), Peer::Any, service, REJECT);
        let anything = Rule::new(RuleId(0), Peer::Any, Service::Any, ALLOW);
        vec![rule(to(PortProtocol::Udp, port)), rule(to(PortProtocol::Tcp, port)), anything]
    };
    source.groups = vec![Group { ingress: rules(3), egress: rules(8) }.into()];
    let tier = || vec![Tier { groups: vec![GroupId(0)], end: TierEnd::Deny }];
    for endpoint in &mut source.endpoints {
        *endpoint =
            EndpointRules { ingress: tier().into(), egress: tier().into(), ..EndpointRules::default() };
    }
    source
}

fn net(network: &str) -> Net {
    Net::under(&scene(network), rejecting)
}

/// How many were told, and how many were not for the limit
fn told(net: &Net, host: &str) -> (u64, u64) {
    let traffic = traffic(&net.shared(host).counters);
    (traffic.rejects_told, traffic.rejects_limited)
}

/// The answer that `to` got in the name of `from`, whose MAC was written as this
#[track_caller]
fn check(answer: &[u8], to: u8, from: u8, by: [u8; 6], about: &[u8]) {
    assert_eq!((&answer[..6], &answer[6..12]), (&mac(to)[..], &by[..]));
    let packet = SlicedPacket::from_ethernet(answer).unwrap();
    match packet.transport.unwrap() {
        TransportSlice::Icmpv4(icmp) => {
            assert!(checksums_are_right(answer), "{answer:02x?}");
            assert_eq!((&answer[26..30], &answer[30..34]), (&v4(from)[..], &v4(to)[..]));
            assert_eq!((icmp.type_u8(), icmp.code_u8()), (3, 13));
            // The ports, behind headers that are another hop's by now
            assert_eq!(icmp.payload()[20..28], about[34..42]);
        }
        TransportSlice::Icmpv6(icmp) => {
            assert_eq!((&answer[22..38], &answer[38..54]), (&v6(from)[..], &v6(to)[..]));
            assert!(icmp.is_checksum_valid(v6(from), v6(to)));
            assert_eq!((icmp.type_u8(), icmp.code_u8()), (1, 1));
            assert_eq!(icmp.payload()[40..], about[54..]);
        }
        TransportSlice::Tcp(tcp) => {
            assert!(checksums_are_right(answer), "{answer:02x?}");
            assert!(tcp.rst() && tcp.ack());
            assert_eq!(tcp.acknowledgment_number(), 1001);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_sender_is_told_by_the_packets_destination_wherever_it_was_rejected() {
    let mut net = net("");
    for (port, whose, tunnel) in [(8, "egress-rule at alpha", false), (3, "ingress-rule at beta", true)] {
        let syn = Talk { a: WEB1, b: DB1, sport: 4000, dport: port }.syn();
        let six = udp6(WEB1, DB1, 4000, port);
        for frame in [udp(WEB1, DB1, 4000, port), syn, six] {
            let fate = net.send("web1", &frame);
            assert_eq!(fate, &format!("web1, {whose}")[..], "port {port}");
            check(fate.at("web1"), WEB1, DB1, mac(DB1), &frame);
            assert_eq!(fate.datagrams.len(), if tunnel { 2 } else { 0 });
        }
    }
    // Nothing of a station on the same host goes round by the tunnel.
    let frame = udp(WEB1, DB2, 4000, 3);
    let fate = net.send("web1", &frame);
    assert_eq!(fate, "web1, ingress-rule at alpha");
    check(fate.at("web1"), WEB1, DB2, mac(DB2), &frame);
    assert_eq!((told(&net, "alpha"), told(&net, "beta")), ((4, 0), (3, 0)));
    // The flow that was let out is over: the sender may begin another one at once.
    assert_eq!(
        net.send("web1", Talk { a: WEB1, b: DB1, sport: 4000, dport: 3 }.syn()),
        "web1, ingress-rule at beta"
    );
}

#[test]
fn in_proxy_mode_a_sender_is_told_by_the_mac_that_it_knows() {
    let mut net = net("neighbors = \"proxy\"");
    let proxy = net.snapshot("alpha").networks()[0].proxy_mac.0;
    for port in [8, 3] {
        let frame = to(udp(WEB1, DB1, 4000, port), proxy);
        let fate = net.send("web1", &frame);
        check(fate.at("web1"), WEB1, DB1, proxy, &frame);
    }
}

#[test]
fn what_must_not_be_answered_is_not() {
    let mut net = net("multicast = \"flood\"\nunknown_destinations = \"flood\"");
    for to_many in [BROADCAST, [0x01, 0, 0x5e, 0, 0, 5], [2, 0, 0, 0, 9, 9]] {
        for port in [8, 3] {
            let fate = net.send("web1", to(udp(WEB1, DB1, 4000, port), to_many));
            // Nobody is known to have that MAC, but the sender's own rules are sure. No receiver of a copy says anything.
            let expected = port == 8 && to_many[0] == 2;
            assert_eq!(fate.reached("web1"), expected, "port {port}, {fate}");
        }
    }
    let syn = Talk { a: WEB1, b: DB2, sport: 4000, dport: 3 }.syn();
    let mut reset = syn.clone();
    reset[47] = tcp_flags::RST;
    mend(&mut reset);
    assert_eq!(net.send("web1", reset), "not-syn at alpha");
    // What is let wait for its first fragment, and then refused with it
    let whole = udp_of(ip4(WEB1, DB2, |_| ()), 4000, 3, &[0; 64]);
    let later = fragment(WEB1, DB2, 9, 40, false, &whole[74..]);
    let first = fragment(WEB1, DB2, 9, 0, true, &whole[34..74]);
    assert_eq!(net.send("web1", later), "nobody");
    let fate = net.send("web1", &first);
    assert_eq!(fate.all_at("web1").len(), 1, "the first fragment is answered, and no other: {fate}");
    check(fate.at("web1"), WEB1, DB2, mac(DB2), &first);
}

#[test]
fn each_endpoint_is_told_so_often_and_the_rest_is_denied() {
    let mut net = net("");
    for _ in 0..150 {
        let _ = net.send("web1", udp(WEB1, DB1, 4000, 8));
    }
    assert_eq!(told(&net, "alpha"), (100, 50));
    assert_eq!(net.send("web1", udp(WEB1, DB1, 4000, 8)), "egress-rule at alpha");
    assert_eq!(
        net.send("web3", udp(WEB3, DB1, 4000, 8)),
        "web3, egress-rule at alpha",
        "another one's limit"
    );
    net.pass(std::time::Duration::from_millis(10));
    assert_eq!(net.send("web1", udp(WEB1, DB1, 4000, 8)), "web1, egress-rule at alpha");
    assert_eq!(told(&net, "alpha"), (102, 51));
}

/// A packet of a connection that the policy has let in before is told by a number that its sender is in the middle of.
#[test]
fn a_segment_in_mid_stream_is_answered_with_the_number_that_its_sender_expects() {
    let mut net = Net::under(&scene("tcp = \"loose\""), rejecting);
    // Nor would it be let in as an answer.
    let talk = Talk { a: WEB1, b: DB2, sport: 3, dport: 3 };
    let data = talk.data(b"in the middle");
    let sent = View::parse(&data).unwrap();
    let Transport::Tcp(sent) = sent.ip().unwrap().transport else { panic!("no TCP") };
    let fate = net.send("web1", &data);
    let view = View::parse(fate.at("web1")).unwrap();
    let Transport::Tcp(reset) = view.ip().unwrap().transport else { panic!("no TCP: {fate}") };
    assert_eq!((reset.seq, reset.flags), (sent.ack, tcp_flags::RST));
}
