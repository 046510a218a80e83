//! Policies that no configuration can write, in numbers that a test knows: tiers, and verdicts that say more than to let pass or
//! drop. Those of a configuration are in `policies`.

use std::num::NonZeroU16;

use eastgate_policy::rule::{
    ChainId, EndpointRules, Group, GroupId, Peer, PortProtocol, PortRange, Rule, RuleId, Service, Source,
    Then, Tier, TierEnd, Verdict,
};
use eastgate_wire::{DropReason, View};

use super::{frames::*, net::Net, scene::*};
use crate::pipeline::{
    Refusal,
    events::Event,
    ruling::{Fate, Inquiry, Ruling},
    track::Ends,
};

const CHAIN: ChainId = ChainId(NonZeroU16::MIN);

/// A rule about a UDP port, with ten times its number.
fn about(port: u16, then: Then) -> Rule {
    let destination = Some(vec![PortRange::single(port)]);
    let service = Service::Ports { protocol: PortProtocol::Udp, destination, source: None };
    Rule::new(RuleId(u32::from(port) * 10), Peer::Any, service, then)
}

/// Everyone's policy, by port: in two tiers what may come, in one what may be sent.
fn by_port(mut source: Source) -> Source {
    let settle = Then::Settle;
    let tried = settle(Verdict { audit: true, ..Verdict::DENY });
    let first = vec![
        about(1, Then::Pass),
        about(2, settle(Verdict::DENY)),
        about(3, settle(Verdict::REJECT)),
        about(4, tried),
        about(5, settle(Verdict { log: true, ..Verdict::ALLOW })),
        about(6, settle(Verdict { chain: Some(CHAIN), ..Verdict::ALLOW })),
        about(9, tried),
    ];
    let second = vec![about(1, settle(Verdict::ALLOW)), about(2, settle(Verdict::ALLOW))];
    let anything = Rule { service: Service::Any, ..about(0, settle(Verdict::ALLOW)) };
    let egress = vec![about(8, tried), about(9, tried), anything];
    let group = |ingress, egress| Group { ingress, egress };
    source.groups = vec![group(first, egress).into(), group(second, vec![]).into()];
    let tier = |group, end| Tier { groups: vec![GroupId(group)], end };
    for endpoint in &mut source.endpoints {
        *endpoint = EndpointRules {
            ingress: vec![tier(0, TierEnd::Pass), tier(1, TierEnd::Deny)].into(),
            egress: vec![tier(0, TierEnd::Deny)].into(),
            ..EndpointRules::default()
        };
    }
    source
}

#[test]
fn tiers_are_asked_in_their_order_and_what_is_tried_out_passes_and_is_told() {
    let mut net = Net::under(&scene(""), by_port);
    for host in ["alpha", "beta"] {
        net.shared(host).keep_events(100, net.now());
    }
    for (port, fate) in [
        (1, "db1"),
        (2, "ingress-rule at beta"),
        (3, "web1, ingress-rule at beta"),
        (4, "db1"),
        (5, "db1"),
        (6, "db1"),
        (7, "ingress-denied at beta"),
        (8, "ingress-denied at beta"),
    ] {
        assert_eq!(net.send("web1", udp(WEB1, DB1, 4000, port)), fate, "port {port}");
    }
    assert_eq!(net.send("db1", udp(DB1, WEB1, 4, 4000)), "web1", "it has begun a flow like any other");
    assert_eq!(net.send("web1", udp(WEB1, DB1, 4000, 4)), "db1");
    let told = |host: &str| -> Vec<(bool, DropReason, Option<u32>)> {
        let told = net.shared(host).take_events().into_iter().filter_map(|event| match event {
            Event::Dropped(key, _) => Some((true, key.reason, key.rule)),
            Event::WouldBeDenied(key, _) => Some((false, key.reason, key.rule)),
            Event::Flow(_) | Event::Elsewhere(_) => None,
        });
        told.collect()
    };
    let (by_rule, by_none) = (DropReason::IngressRule, DropReason::IngressDenied);
    let mut at_beta = told("beta");
    at_beta.sort_by_key(|(_, _, rule)| rule.unwrap_or(u32::MAX));
    let expected = [
        (true, by_rule, Some(20)),
        (true, by_rule, Some(30)),
        (false, by_rule, Some(40)),
        (true, by_none, None),
        (true, by_none, None),
    ];
    assert_eq!(at_beta, expected);
    assert_eq!(told("alpha"), [(false, DropReason::EgressRule, Some(80))]);
}

#[test]
fn a_ruling_is_what_both_ends_say() {
    let net = Net::under(&scene(""), by_port);
    let snapshot = net.snapshot("alpha");
    let network = snapshot.networks()[0];
    let ask = |port| -> Ruling {
        let frame = udp(WEB1, DB2, 4000, port);
        let view = View::parse(&frame).unwrap();
        let ip = view.ip().unwrap();
        let ends = Ends { src: network.by_address(ip.src), dst: network.by_address(ip.dst) };
        network.ask_policy(&Inquiry::of_ip(ends, ip).unwrap())
    };
    let by = |address| network.by_address(address).unwrap().id;
    let view = View::parse(&udp(WEB1, DB2, 4000, 1)).unwrap();
    let [web, db] = [view.ip().unwrap().src, view.ip().unwrap().dst].map(by);
    let refused = |end, reason, rule| Refusal { reason, by: Some(end), rule, reject: false, log: false };
    let of_db = |rule| refused(db, DropReason::IngressRule, Some(rule));

    let plain = ask(1);
    let Fate::Allowed(admitted) = plain.fate else { panic!("{plain:?}") };
    assert_eq!((admitted.egress_rule, admitted.ingress_rule, plain.is_plain()), (0, 10, true));
    assert_eq!(ask(2).fate, Fate::Denied(of_db(20)));
    assert_eq!(ask(3).fate, Fate::Rejected(Refusal { reject: true, ..of_db(30) }));
    assert!(
        matches!(ask(4).fate, Fate::WouldBeDenied(admitted, by) if by == of_db(40) && admitted.ingress_rule == 40)
    );
    assert_eq!(ask(7).fate, Fate::Denied(refused(db, DropReason::IngressDenied, None)));
    // What the source's policy would refuse goes on to the destination's, which refuses it; or it is the first to be told.
    assert_eq!(ask(8).fate, Fate::Denied(refused(db, DropReason::IngressDenied, None)));
    let both = ask(9).fate;
    assert!(
        matches!(both, Fate::WouldBeDenied(_, by) if by == refused(web, DropReason::EgressRule, Some(90)))
    );
    assert_eq!(ask(6).chains, [None, Some(CHAIN)]);
    // What is logged begins elsewhere like others: who asks which rule it was knows.
    assert!(ask(5).is_plain() && network.logs(50) && !network.logs(60));
    assert_eq!([30, 40, 60].map(|rule| network.tries_out(rule)), [false, true, false]);
    for port in [2, 3, 4, 6, 7, 8, 9] {
        let ruling = ask(port);
        assert!(!ruling.is_plain(), "{ruling:?}");
        assert_eq!(ruling.enforce().is_ok(), [4, 6, 9].contains(&port), "{ruling:?}");
    }
}
