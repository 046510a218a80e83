//! Groups that keep no state: each packet by itself, whatever it answers; and what becomes of it where the other end keeps some.

use std::{sync::Arc, time::Duration};

use eastgate_config::{Config, load_str};
use eastgate_conntrack::flow::FlowFilter;

use super::{
    frames::*,
    net::{Fate, Net},
    scene::*,
};
use crate::pipeline::shared::lock;

const TALK: Talk = Talk { a: WEB1, b: DB1, sport: 40000, dport: 5432 };

/// What the databases say back: what their answers come from
const ANSWERS: &str = "{ proto = \"tcp\", source_ports = 5432, to = \"group:web\" }, \
     { proto = \"udp\", source_ports = 53, to = \"any\" }, { proto = \"icmp\", to = \"any\" }";

fn groups(web: bool, db: bool, heard: &str) -> String {
    let answers = ANSWERS;
    let heard = heard.replace(" to =", " from =").replace("group:web", "group:db");
    format!(
        "[tenant.acme.group.web]\nstateful = {web}\n\
         egress = [{{ proto = \"tcp\", ports = 5432, to = \"group:db\" }}, {{ proto = \"udp\", ports = 53, to = \"any\" }}, \
         {{ proto = \"icmp\", icmp_type = \"echo-request\", to = \"any\" }}]\ningress = [{heard}]\n\
         [tenant.acme.group.db]\nstateful = {db}\n\
         ingress = [{{ proto = \"tcp\", ports = 5432, from = \"group:web\" }}, {{ proto = \"udp\", ports = 53, from = \"any\" }}, \
         {{ proto = \"icmp\", icmp_type = \"echo-request\", from = \"any\" }}]\negress = [{answers}]\n"
    )
}

/// Neither keeps state, and the web servers hear answers or do not.
fn both(hears: bool) -> Net {
    Net::new(&scene_with("", &groups(false, false, if hears { ANSWERS } else { "" })))
}

fn flows(net: &Net, host: &str) -> usize {
    let (mut page, now) = (Vec::new(), net.now());
    for table in net.shared(host).all_flows() {
        assert_eq!(lock(table).page(0, 1000, &FlowFilter::default(), now, &mut page), None);
    }
    page.len()
}

fn text(fate: Fate) -> String {
    fate.to_string()
}

#[test]
fn each_packet_passes_by_its_own_rule_and_makes_no_flow() {
    let mut net = both(true);
    for (server, station) in [("db1", DB1), ("db2", DB2)] {
        let talk = Talk { b: station, ..TALK };
        // In no order that a connection has: nobody asks for its state.
        assert_eq!(net.send("web1", talk.data(b"first")), server);
        assert_eq!(net.send(server, talk.syn_ack()), "web1");
        assert_eq!(net.send("web1", talk.last_ack()), server);
        assert_eq!(net.send("web1", talk.syn()), server);
        assert_eq!(net.send(server, udp(station, WEB1, 53, 4000)), "web1");
        assert_eq!(net.send("web1", udp6(WEB1, station, 4000, 53)), server);
        assert_eq!(net.send(server, pong(station, WEB1, 3)), "web1");
        assert_eq!(net.send("web1", ping(WEB1, station, 3)), server);
    }
    assert_eq!([flows(&net, "alpha"), flows(&net, "beta")], [0, 0]);
}

#[test]
fn no_answer_passes_without_a_rule_of_its_own() {
    let mut net = both(false);
    for (server, station, host) in [("db1", DB1, "alpha"), ("db2", DB2, "alpha")] {
        let talk = Talk { b: station, ..TALK };
        let denied = format!("ingress-denied at {host}");
        assert_eq!(net.send("web1", talk.syn()), server);
        assert_eq!(text(net.send(server, talk.syn_ack())), denied);
        assert_eq!(net.send("web1", udp(WEB1, station, 4000, 53)), server);
        assert_eq!(text(net.send(server, udp(station, WEB1, 53, 4000))), denied);
        assert_eq!(net.send("web1", ping(WEB1, station, 3)), server);
        assert_eq!(text(net.send(server, pong(station, WEB1, 3))), denied);
    }
    // What nobody lets pass is refused by the rules, not for want of a connection.
    assert_eq!(net.send("web1", Talk { dport: 22, ..TALK }.data(b"x")), "egress-denied at alpha");
}

#[test]
fn an_error_needs_a_rule_too() {
    let packet = udp(WEB1, DB1, 4000, 53);
    let error = icmp_error(DB1, WEB1, 3, 3, &packet);
    let mut net = both(true);
    assert_eq!(net.send("web1", &packet), "db1");
    assert_eq!(net.send("db1", &error), "web1");
    let mut net = both(false);
    assert_eq!(net.send("web1", &packet), "db1");
    assert_eq!(net.send("db1", &error), "ingress-denied at alpha");
}

#[test]
fn nothing_is_picked_up_as_the_answer_to_what_nobody_remembers() {
    for (web, db) in [(false, false), (false, true)] {
        let mut net = Net::new(&scene_with("tcp = \"loose\"", &groups(web, db, "")));
        assert_eq!(net.send("db2", NEAR.answer(b"rows")), "ingress-denied at alpha");
    }
    let mut net = Net::new(&scene_with("tcp = \"loose\"", &groups(true, true, "")));
    assert_eq!(net.send("db2", NEAR.answer(b"rows")), "web3", "whoever keeps state picks it up");
}

#[test]
fn an_end_without_state_is_asked_about_answers_also_after_a_change() {
    let config = |network: &str| eastgate_testkit::parse(&scene_with(network, &groups(false, true, "")));
    let mut net = Net::of(&config(""));
    assert_eq!(net.send("web3", NEAR.syn()), "db2");
    assert_eq!(net.send("db2", NEAR.syn_ack()), "ingress-denied at alpha");
    net.install(&config("tcp = \"loose\""));
    for _ in 0..2 {
        assert_eq!(net.send("db2", NEAR.syn_ack()), "ingress-denied at alpha");
    }
}

#[test]
fn later_fragments_go_as_the_first_did() {
    let whole = udp_of(ip4(WEB1, DB1, |_| ()), 4000, 53, &[7; 100]);
    let mut net = both(false);
    for (id, dport, fates) in [(1, 53, ["db1"; 3]), (2, 54, ["egress-denied at alpha", "", ""])] {
        let mut whole = whole.clone();
        whole[36..38].copy_from_slice(&u16::to_be_bytes(dport));
        let parts = pieces(&whole, 40);
        for (number, ((at, body), fate)) in parts.iter().zip(fates).enumerate() {
            let fate = if fate.is_empty() { "fragment-refused at alpha" } else { fate };
            let piece = fragment(WEB1, DB1, id, *at, number < 2, body);
            assert_eq!(text(net.send("web1", piece)), fate, "piece {number} to port {dport}");
        }
    }
    assert_eq!(flows(&net, "alpha"), 0);
}

/// web3 and db2 are on one host.
const NEAR: Talk = Talk { a: WEB3, b: DB2, ..TALK };

#[test]
fn where_one_end_keeps_state_the_other_is_asked_about_each_packet() {
    // The databases keep state: what answers them passes at their end, and not at that of the web servers.
    let mut net = Net::new(&scene_with("", &groups(false, true, "")));
    assert_eq!(net.send("web3", NEAR.syn()), "db2");
    assert_eq!(net.send("db2", NEAR.syn_ack()), "ingress-denied at alpha");
    assert_eq!(net.send("web1", TALK.syn()), "db1");
    assert_eq!(net.send("db1", TALK.syn_ack()), "ingress-denied at alpha");
    let mut net = Net::new(&scene_with("", &groups(false, true, ANSWERS)));
    assert_eq!(net.send("web3", NEAR.data(b"no beginning")), "not-syn at alpha", "db2 keeps state");
    assert_eq!(net.send("web3", NEAR.syn()), "db2");
    assert_eq!(net.send("db2", NEAR.syn_ack()), "web3");
    assert_eq!(net.send("web3", NEAR.data(b"x")), "db2");
    assert_eq!(flows(&net, "alpha"), 1);
    // The other way round: the web servers' end knows what is an answer, the databases' has rules for what it says.
    let mut net = Net::new(&scene_with("", &groups(true, false, "")));
    assert_eq!(net.send("db2", NEAR.syn_ack()), "ingress-denied at alpha");
    assert_eq!(net.send("web3", NEAR.syn()), "db2");
    assert_eq!(net.send("db2", NEAR.syn_ack()), "web3");
    assert_eq!(net.send("web3", udp(WEB3, DB2, 4000, 53)), "db2");
    let packet = udp(WEB3, DB2, 4000, 53);
    assert_eq!(net.send("db2", icmp_error(DB2, WEB3, 3, 3, &packet)), "web3", "both ends let it");
    assert_eq!(
        net.send("db2", icmp_error(DB2, WEB3, 3, 3, &udp(WEB3, DB2, 4001, 53))),
        "ingress-denied at alpha"
    );
}

#[test]
fn what_a_group_without_state_allows_is_of_no_flow_whatever_other_groups_allow() {
    let both = "[tenant.acme.group.also]\negress = [{ proto = \"udp\", to = \"any\" }]\n";
    let config = scene_with("", &[&groups(false, false, ""), both].concat());
    let config = config.replace("groups = [\"web\"]", "groups = [\"also\", \"web\"]");
    let mut net = Net::new(&config);
    assert_eq!(net.send("web1", udp(WEB1, DB1, 4000, 53)), "db1");
    assert_eq!(net.send("db1", udp(DB1, WEB1, 53, 4000)), "ingress-denied at alpha");
    assert_eq!(flows(&net, "alpha"), 0);
    // Only the other group allows it.
    assert_eq!(net.send("web1", udp(WEB1, DB1, 4000, 54)), "ingress-denied at beta");
    assert_eq!(flows(&net, "alpha"), 1);
}

#[test]
fn a_group_that_keeps_state_no_longer_ends_its_flows() {
    let config = |stateful: bool| -> Arc<Config> {
        let text = scene_with("", &groups(stateful, stateful, ANSWERS));
        load_str("changed.toml", &text).unwrap()
    };
    let mut net = Net::of(&config(true));
    for (client, server, talk) in [("web1", "db1", TALK), ("web3", "db2", NEAR)] {
        assert_eq!(net.send(client, talk.syn()), server);
        assert_eq!(net.send(server, talk.syn_ack()), client);
    }
    assert_eq!([flows(&net, "alpha"), flows(&net, "beta")], [2, 1]);
    net.install(&config(false));
    for (client, server, talk) in [("web1", "db1", TALK), ("web3", "db2", NEAR)] {
        assert_eq!(net.send(server, talk.syn_ack()), client, "an answer has a rule of its own");
        assert_eq!(net.send(client, talk.data(b"x")), server);
    }
    assert_eq!([flows(&net, "alpha"), flows(&net, "beta")], [0, 0]);
    net.install(&config(true));
    assert_eq!(net.send("web1", TALK.data(b"x")), "not-syn at alpha");
    net.pass(Duration::from_secs(1));
    assert_eq!(net.send("web1", TALK.syn()), "db1");
}
