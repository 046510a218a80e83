//! How long flows last: as their network says, or as their ends do.

use std::time::Duration;

use eastgate_conntrack::flow::FlowFilter;
use eastgate_testkit::parse;

use super::{frames::*, net::Net, scene::*};
use crate::pipeline::shared::lock;

/// The scene with timeouts of its network and of endpoints.
fn text(network: &str, endpoints: &[(&str, &str)]) -> String {
    let own =
        endpoints.iter().map(|(name, keys)| format!("[tenant.acme.endpoint.{name}.timeouts]\n{keys}\n"));
    scene(&format!("timeouts = {{ {network} }}")) + &own.collect::<String>()
}

/// How many seconds the flow from this port lasts on a host, when nothing more comes.
fn lasts(net: &Net, host: &str, sport: u16) -> Option<u64> {
    let (mut live, filter) = (Vec::new(), FlowFilter::default());
    for shard in net.shared(host).all_flows() {
        lock(shard).page(0, u32::MAX, &filter, net.now(), &mut live);
    }
    let flow = live.iter().find(|flow| flow.key.sport == sport)?;
    Some(flow.deadline.since(net.now()).as_secs())
}

#[test]
fn a_flow_lasts_as_the_end_says_that_keeps_it_longer_and_else_as_its_network_says() {
    let mut net = Net::new(&text(
        "udp_first = 20, udp_exchange = 25, tcp_syn = 30",
        &[("web1", "udp_first = 50"), ("web3", "udp_first = 5"), ("db1", "udp_first = 90\ntcp_syn = 7")],
    ));
    // Of nobody's own; of one end's, longer or shorter than the network's; of both: whoever opens it, and on both hosts
    for (from, number, to, lasts_s, sport) in [
        ("web2", WEB2, ("db2", DB2), 20, 1),
        ("web1", WEB1, ("db2", DB2), 50, 2),
        ("web3", WEB3, ("db2", DB2), 5, 3),
        ("web2", WEB2, ("db1", DB1), 90, 4),
        ("web1", WEB1, ("db1", DB1), 90, 5),
        ("web3", WEB3, ("db1", DB1), 90, 6),
    ] {
        assert_eq!(net.send(from, udp(number, to.1, sport, 53)), to.0);
        for host in ["alpha", "beta"] {
            let found = lasts(&net, host, sport);
            assert!(found.is_none_or(|found| found == lasts_s), "{from} to {} on {host}: {found:?}", to.0);
        }
        assert!(lasts(&net, "alpha", sport).or(lasts(&net, "beta", sport)).is_some());
    }
    // What neither says is the network's.
    assert_eq!(net.send("db1", udp(DB1, WEB1, 53, 5)), "web1");
    assert_eq!(lasts(&net, "alpha", 5), Some(25));
    let syn = Talk { a: WEB1, b: DB1, sport: 7, dport: 5432 }.syn();
    assert_eq!((net.send("web1", syn).to_string(), lasts(&net, "beta", 7)), ("db1".into(), Some(7)));
    // They are over when it is said that they are.
    net.pass(Duration::from_secs(6));
    assert_eq!(net.send("db2", udp(DB2, WEB3, 53, 3)), "egress-denied at alpha");
    net.pass(Duration::from_secs(43));
    assert_eq!(net.send("db2", udp(DB2, WEB1, 53, 2)), "web1");
    assert_eq!(net.send("db1", udp(DB1, WEB3, 53, 6)), "web3");
}

#[test]
fn a_change_of_an_endpoints_timeouts_is_about_its_flows_alone() {
    let mut net = Net::of(&parse(&text("udp_first = 20", &[("web1", "udp_first = 50")])));
    assert_eq!(net.send("web1", udp(WEB1, DB2, 1, 53)), "db2");
    assert_eq!(net.send("web3", udp(WEB3, DB2, 2, 53)), "db2");
    let before = net.snapshot("alpha");
    net.install(&parse(&text("udp_first = 20", &[("web1", "udp_first = 70")])));
    let (after, decided_since) = (net.snapshot("alpha"), |net: &Net, name: &str| {
        let snapshot = net.snapshot("alpha");
        snapshot.networks()[0].endpoints.iter().find(|it| &*it.name == name).unwrap().epoch
    });
    assert_eq!(after.networks()[0].epoch, before.networks()[0].epoch);
    assert_eq!((decided_since(&net, "web1"), decided_since(&net, "web3")), (after.epoch, before.epoch));
    for (from, number, sport, lasts_s) in [("web1", WEB1, 1, 70), ("web3", WEB3, 2, 20)] {
        assert_eq!(net.send(from, udp(number, DB2, sport, 53)), "db2");
        assert_eq!(lasts(&net, "alpha", sport), Some(lasts_s), "{from}");
    }
    net.install(&parse(&text("udp_first = 20", &[])));
    assert_eq!(net.send("web1", udp(WEB1, DB2, 1, 53)), "db2");
    assert_eq!(lasts(&net, "alpha", 1), Some(20));
}
