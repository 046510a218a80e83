//! Rules that grant each source so much: what is more is denied, and what is over is given back.

use std::time::Duration;

use eastgate_testkit::parse;
use eastgate_wire::Addr;

use super::{frames::*, net::Net, scene::*};
use crate::pipeline::counters;

const SQL: &str = "{ proto = \"tcp\", ports = 5432, from = \"group:web\" }";
const DNS: &str = "{ proto = \"udp\", ports = [53, 9000], from = \"group:web\" }";

/// The scene, with these limits of what databases receive.
fn text(limits: &str) -> String {
    let with = |rule: &str| rule.replace(" }", &format!(", {limits} }}"));
    scene("").replace(SQL, &with(SQL)).replace(DNS, &with(DNS))
}

fn sql(a: u8, b: u8, sport: u16) -> Talk {
    Talk { a, b, sport, dport: 5432 }
}

/// The flows that count for web1 at db1 by the rule for TCP and by the one for UDP
fn counted(net: &Net) -> [u32; 2] {
    counted_at(net, "beta", "db1")
}

fn counted_at(net: &Net, host: &str, endpoint: &str) -> [u32; 2] {
    let snapshot = net.snapshot(host);
    let network = snapshot.networks()[0];
    let db1 = network.endpoints.iter().find(|it| &*it.name == endpoint).unwrap();
    let flows = |number| network.limits.get(number).map(|it| it.flows(db1.id, Addr::v4([10, 1, 0, WEB1])));
    let mut all = (0..20).filter_map(flows);
    [all.next().unwrap(), all.next().unwrap()]
}

fn connect(net: &mut Net, talk: Talk) {
    assert_eq!(net.send("web1", talk.syn()), "db1");
    assert_eq!(net.send("db1", talk.syn_ack()), "web1");
    assert_eq!(net.send("web1", talk.data(b"")), "db1");
}

#[test]
fn a_source_has_so_many_flows_with_each_endpoint_and_others_have_their_own() {
    let mut net = Net::new(&text("connections = 2"));
    [1, 2].into_iter().for_each(|sport| connect(&mut net, sql(WEB1, DB1, sport)));
    assert_eq!(net.send("web1", sql(WEB1, DB1, 3).syn()), "rule-limit at beta");
    let row = net.drops("beta")[0].clone();
    assert_eq!((row.by.as_deref(), row.frames), (Some("db1"), 1));
    assert_eq!(net.send("web1", sql(WEB1, DB1, 1).data(b"goes on")), "db1");
    // By another rule, at another endpoint, from another source
    assert_eq!(net.send("web1", udp(WEB1, DB1, 1, 53)), "db1");
    assert_eq!(net.send("web1", sql(WEB1, DB2, 1).syn()), "db2");
    assert_eq!(net.send("web2", sql(WEB2, DB1, 1).syn()), "db1");
    assert_eq!(counted(&net), [2, 1]);
}

#[test]
fn what_is_over_is_given_back_whichever_way_it_ended() {
    let mut net = Net::new(&text("connections = 1"));
    let begins = |net: &mut Net, sport| net.send("web1", sql(WEB1, DB1, sport).syn()).reached("db1");
    // Closed: what is in TIME-WAIT is no connection any more, as for Linux's connlimit.
    let first = sql(WEB1, DB1, 1);
    connect(&mut net, first);
    assert!(!begins(&mut net, 2));
    assert_eq!(net.send("web1", first.fin(0)), "db1");
    assert_eq!(net.send("db1", first.fin(1)), "web1");
    assert_eq!((counted(&net)[0], begins(&mut net, 2)), (1, false), "half closed");
    assert_eq!(net.send("web1", first.last_ack()), "db1");
    assert_eq!(counted(&net)[0], 0);
    // Reset, and begun anew on the same ports
    let second = sql(WEB1, DB1, 2);
    connect(&mut net, second);
    let mut reset = second.data(b"");
    reset[47] = eastgate_wire::view::tcp_flags::RST;
    mend(&mut reset);
    assert_eq!(net.send("web1", reset), "db1");
    assert_eq!(counted(&net)[0], 0);
    assert!(begins(&mut net, 2));
    assert_eq!((counted(&net)[0], begins(&mut net, 3)), (1, false));
    // Its time is over.
    net.pass(Duration::from_secs(31));
    assert!(begins(&mut net, 3));
    assert_eq!(counted(&net)[0], 1);
    // Not begun at all: there is no room for it.
    let full = text("connections = 1")
        .replace("vni = 5001", "vni = 5001\nlimits = { unreplied = 1, endpoint_unreplied = 1 }");
    let mut net = Net::new(&full);
    assert_eq!(net.send("web1", udp(WEB1, DB1, 1, 53)), "db1");
    assert!(begins(&mut net, 1), "the other one makes room");
    assert_eq!(counted(&net), [1, 0], "and gives back what it had");
}

/// A segment of a connection whose handshake was [`connect`]'s: of the client (0) or of the server (1).
fn segment(talk: Talk, side: usize, seq: u32, ack: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = if side == 0 { talk.data(payload) } else { talk.answer(payload) };
    frame[38..42].copy_from_slice(&seq.to_be_bytes());
    frame[42..46].copy_from_slice(&ack.to_be_bytes());
    frame[47] = flags;
    mend(&mut frame);
    frame
}

const RST: u8 = eastgate_wire::view::tcp_flags::RST;
const ACK: u8 = eastgate_wire::view::tcp_flags::ACK;

/// The client has sent what has not arrived, and resets behind that: a server that holds to RFC 5961 goes on.
#[test]
fn a_reset_that_the_server_may_not_believe_gives_nothing_back() {
    // Both on one host: the one of the client's does not count, and does not wait for the server's.
    let talk = sql(WEB1, DB2, 1);
    let handshake = |net: &mut Net, talk: Talk| {
        assert_eq!(net.send("web1", talk.syn()), "db2");
        assert_eq!(net.send("db2", talk.syn_ack()), "web1");
        assert_eq!(net.send("web1", talk.data(b"")), "db2");
    };
    let doubtful = || {
        let mut net = Net::new(&text("connections = 1"));
        handshake(&mut net, talk);
        assert_eq!(net.send("web1", segment(talk, 0, 1101, 5001, ACK, b"behind a gap")), "db2");
        assert_eq!(net.send("web1", segment(talk, 0, 1113, 5001, RST, b"")), "db2", "the server is to say");
        assert_eq!(counted_at(&net, "alpha", "db2")[0], 1);
        net
    };
    let begins = |net: &mut Net| net.send("web1", sql(WEB1, DB2, 2).syn()).reached("db2");
    // The server goes on, and so does the client.
    let mut net = doubtful();
    assert!(!begins(&mut net));
    assert_eq!(net.send("db2", segment(talk, 1, 5001, 1001, ACK, b"")), "web1", "a challenge");
    for _ in 0..10 {
        net.pass(Duration::from_secs(250));
        assert_eq!(net.send("web1", segment(talk, 0, 1001, 5001, ACK, b"on")), "db2");
        assert_eq!((counted_at(&net, "alpha", "db2")[0], begins(&mut net)), (1, false));
    }
    // It has filled the gap behind its reset, so that an acknowledgement of all shows nothing.
    let mut net = doubtful();
    assert_eq!(net.send("web1", segment(talk, 0, 1001, 5001, ACK, &[0; 100])), "db2");
    assert_eq!(net.send("db2", segment(talk, 1, 5001, 1113, ACK, b"")), "web1");
    assert_eq!((counted_at(&net, "alpha", "db2")[0], begins(&mut net)), (1, false));
    // An honest one is silent: its server had all of it when the reset came.
    let mut net = doubtful();
    assert_eq!(net.send("db2", segment(talk, 1, 5001, 1113, ACK, b"")), "web1");
    assert_eq!((counted_at(&net, "alpha", "db2")[0], begins(&mut net)), (0, true));
    // The server has no such connection.
    let mut net = doubtful();
    assert_eq!(net.send("db2", segment(talk, 1, 5001, 0, RST, b"")), "web1");
    assert_eq!((counted_at(&net, "alpha", "db2")[0], begins(&mut net)), (0, true));
    // Neither is heard any more.
    let mut net = doubtful();
    assert_eq!(net.send("db2", segment(talk, 1, 5001, 1001, ACK, b"")), "web1", "it was under way");
    net.pass(eastgate_conntrack::flow::DOUBT - Duration::from_secs(1));
    assert!(!begins(&mut net));
    net.pass(Duration::from_secs(2));
    assert!(begins(&mut net));
    assert_eq!(net.send("web1", segment(talk, 0, 1001, 5001, ACK, b"on")), "not-syn at alpha");
    // The other number that may be the next one: what was sent behind it may have arrived.
    let mut net = Net::new(&text("connections = 1"));
    handshake(&mut net, talk);
    assert_eq!(net.send("web1", segment(talk, 0, 1001, 5001, ACK, b"x")), "db2");
    assert_eq!(net.send("web1", segment(talk, 0, 1001, 5001, RST, b"")), "db2");
    assert_eq!((counted_at(&net, "alpha", "db2")[0], begins(&mut net)), (1, false));
    // Where nothing counts, a connection that was reset is over as it always is.
    let mut net = Net::new(&scene(""));
    handshake(&mut net, talk);
    assert_eq!(net.send("web1", segment(talk, 0, 1101, 5001, ACK, b"behind a gap")), "db2");
    assert_eq!(net.send("web1", segment(talk, 0, 1113, 5001, RST, b"")), "db2");
    net.pass(Duration::from_secs(11));
    assert_eq!(net.send("web1", segment(talk, 0, 1001, 5001, ACK, b"on")), "not-syn at alpha");
}

#[test]
fn flows_begin_as_often_as_the_rule_grants() {
    let mut net = Net::new(&text("new_connections = { per_second = 10, burst = 3 }"));
    let burst = |net: &mut Net, from: u16| {
        (from..from + 6).filter(|sport| net.send("web1", udp(WEB1, DB1, *sport, 53)).reached("db1")).count()
    };
    assert_eq!(burst(&mut net, 1000), 3);
    assert_eq!(net.send("web1", udp(WEB1, DB1, 1000, 53)), "db1", "packets of a flow are not counted");
    net.pass(Duration::from_millis(200));
    assert_eq!(burst(&mut net, 2000), 2);
    net.pass(Duration::from_secs(60));
    assert_eq!(burst(&mut net, 3000), 3);
    assert_eq!(net.send("web2", udp(WEB2, DB1, 1, 53)), "db1");
}

#[test]
fn a_prefix_may_be_a_source() {
    let mut net = Net::new(&text("connections = 1, per_prefix = { ipv4 = 24, ipv6 = 64 }"));
    assert_eq!(net.send("web1", udp(WEB1, DB1, 1, 53)), "db1");
    assert_eq!(net.send("web2", udp(WEB2, DB1, 1, 53)), "rule-limit at beta");
    assert_eq!(net.send("web1", udp6(WEB1, DB1, 1, 53)), "db1");
    assert_eq!(net.send("web2", udp6(WEB2, DB1, 1, 53)), "rule-limit at beta");
}

#[test]
fn an_egress_rule_counts_who_sends() {
    let of_web = "{ proto = \"udp\", ports = [53, 9000], to = \"any\"";
    let mut net = Net::new(&scene("").replace(of_web, &format!("{of_web}, connections = 2")));
    assert_eq!(net.send("web1", udp(WEB1, DB1, 1, 53)), "db1");
    assert_eq!(net.send("web1", udp(WEB1, DB2, 1, 53)), "db2");
    assert_eq!(net.send("web1", udp(WEB1, DB1, 2, 53)), "rule-limit at alpha");
    assert_eq!(net.send("web3", udp(WEB3, DB1, 1, 53)), "db1");
}

#[test]
fn a_limit_that_is_tried_out_is_told_and_lets_pass() {
    let audit = text("connections = 1")
        .replace("[tenant.acme.network", "[tenant.acme]\nmode = \"audit\"\n[tenant.acme.network");
    let mut net = Net::new(&audit);
    for sport in 1..4 {
        assert_eq!(net.send("web1", udp(WEB1, DB1, sport, 53)), "db1");
    }
    assert_eq!(counted(&net)[1], 3);
    let would = counters::would_drop_details(&net.shared("beta").counters);
    let would: Vec<_> = would.into_iter().map(|row| (row.key.reason.name(), row.count.frames)).collect();
    assert_eq!(would, [("rule-limit", 2)]);
}

#[test]
fn a_reload_goes_on_counting() {
    let with = |limits: &str| parse(&text(limits));
    let mut net = Net::of(&with("connections = 2"));
    [1, 2].into_iter().for_each(|sport| connect(&mut net, sql(WEB1, DB1, sport)));
    net.install(&with("connections = 1"));
    assert_eq!(
        (counted(&net)[0], net.send("web1", sql(WEB1, DB1, 1).data(b"goes on")).reached("db1")),
        (2, true)
    );
    assert_eq!(net.send("web1", sql(WEB1, DB1, 3).syn()), "rule-limit at beta");
    net.install(&with("connections = 3"));
    assert_eq!(net.send("web1", sql(WEB1, DB1, 3).syn()), "db1");
    assert_eq!(net.send("web1", sql(WEB1, DB1, 4).syn()), "rule-limit at beta");
    // Without limits nobody counts; with limits again, flows count from their next packet on.
    net.install(&parse(&scene("")));
    assert_eq!(net.send("web1", sql(WEB1, DB1, 4).syn()), "db1");
    net.install(&with("connections = 3"));
    for sport in [1, 2] {
        assert_eq!(net.send("web1", sql(WEB1, DB1, sport).data(b"on")), "db1");
    }
    assert_eq!(counted(&net)[0], 2);
    assert_eq!(net.send("web1", sql(WEB1, DB1, 5).syn()), "db1");
    assert_eq!(net.send("web1", sql(WEB1, DB1, 6).syn()), "rule-limit at beta");
    // Counted by other sources
    net.install(&with("connections = 3, per_prefix = { ipv4 = 24 }"));
    assert_eq!(net.send("web1", sql(WEB1, DB1, 1).data(b"on")), "db1");
    let snapshot = net.snapshot("beta");
    let db1 = snapshot.networks()[0].endpoints.iter().find(|it| &*it.name == "db1").unwrap().id;
    let limits = (0..40).filter_map(|number| snapshot.networks()[0].limits.get(number));
    let flows: Vec<u32> = limits.map(|it| it.flows(db1, Addr::v4([10, 1, 0, WEB2]))).collect();
    assert_eq!(flows, [1, 0]);
}
