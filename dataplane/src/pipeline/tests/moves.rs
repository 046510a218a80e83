//! An endpoint goes to another host: its connections go on, under the policy of today, and nobody else's do.

use std::{sync::Arc, time::Duration};

use eastgate_config::Config;

use super::{
    frames::*,
    net::{Net, parse},
    scene::*,
};

const SQL: Talk = Talk { a: WEB1, b: DB1, sport: 40000, dport: 5432 };
const HOSTS_OF_IT: [&str; 3] = ["alpha", "beta", "gamma"];

/// The scene with db1 on this host.
fn with_db1_at(host: &str, network: &str) -> Arc<Config> {
    let at = |host| endpoint("acme", "db1", host, DB1, "db", "");
    parse(&scene(network).replace(&at("beta"), &at(host)))
}

/// The scene with db1 on beta, and a connection to it.
fn connected(network: &str) -> Net {
    let mut net = Net::of(&with_db1_at("beta", network));
    assert_eq!(net.send("web1", SQL.syn()), "db1");
    assert_eq!(net.send("db1", SQL.syn_ack()), "web1");
    assert_eq!(net.send("web1", SQL.data(b"select 1")), "db1");
    net
}

fn goes_on(net: &mut Net, why: &str) {
    for _ in 0..3 {
        // Databases open nothing, and yet it is they who speak first.
        assert_eq!(net.send("db1", SQL.answer(b"1")), "web1", "{why}");
        assert_eq!(net.send("web1", SQL.data(b"select 1")), "db1", "{why}");
    }
}

#[test]
fn connections_survive_in_every_order_of_reloads_wherever_it_goes() {
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    for keys in ["", "neighbors = \"proxy\"", "topology = \"hub\"\nhub = \"alpha\""] {
        for (to, order) in ["alpha", "gamma"].into_iter().flat_map(|to| orders.map(|order| (to, order))) {
            let why = format!("to {to}, reloaded in the order {order:?}, {keys}");
            let mut net = connected(keys);
            let (moved, home) = (with_db1_at(to, keys), with_db1_at("beta", keys));
            order.iter().for_each(|host| net.install_on(HOSTS_OF_IT[*host], &moved));
            goes_on(&mut net, &why);
            // Its peer has much to say meanwhile, of which the first host sees nothing.
            net.pass(Duration::from_secs(5));
            order.iter().rev().for_each(|host| net.install_on(HOSTS_OF_IT[*host], &home));
            goes_on(&mut net, &format!("and back, {why}"));
        }
    }
}

#[test]
fn where_the_client_speaks_first_it_goes_on_as_well() {
    let mut net = connected("");
    net.install(&with_db1_at("gamma", ""));
    assert_eq!(net.send("web1", SQL.data(b"select 2")), "db1");
    goes_on(&mut net, "the client first");
}

#[test]
fn a_connection_that_went_far_ahead_elsewhere_is_taken_up_where_it_is() {
    // More than any window after the numbers that the first host knows.
    let far = |mut frame: Vec<u8>, forward: bool| {
        let at = if forward { [38, 42] } else { [42, 38] };
        for (at, by) in at.into_iter().zip([0x3000_0000u32, 0x2000_0000]) {
            let number = u32::from_be_bytes(frame[at..at + 4].try_into().unwrap()).wrapping_add(by);
            frame[at..at + 4].copy_from_slice(&number.to_be_bytes());
        }
        let (mut frame, offload) = left_open({
            frame[50..52].fill(0);
            frame
        });
        finish(&mut frame, &offload);
        frame
    };
    let mut net = connected("");
    assert_eq!(net.send("db1", far(SQL.answer(b"1"), false)), "tcp-window at beta");
    net.install(&with_db1_at("gamma", ""));
    net.pass(Duration::from_secs(5));
    net.install_on("beta", &with_db1_at("beta", ""));
    net.install_on("gamma", &with_db1_at("beta", ""));
    // The client's host was there all the time and is not to be told what it knows better.
    assert_eq!(net.send("db1", far(SQL.answer(b"1"), false)), "mac-spoofed at alpha");
    net.install_on("alpha", &with_db1_at("beta", ""));
    assert_eq!(net.send("db1", far(SQL.answer(b"1"), false)), "web1");
    assert_eq!(net.send("web1", far(SQL.data(b"select 1"), true)), "db1");
}

#[test]
fn only_for_a_while_and_only_what_the_rules_allow() {
    let elsewhere = Talk { sport: 40001, ..SQL };
    let shell = Talk { dport: 22, ..SQL };
    let mut net = connected("");
    // Nobody has moved yet.
    assert_eq!(net.send("db1", elsewhere.answer(b"1")), "not-syn at beta");
    net.install(&with_db1_at("gamma", ""));
    // The machine takes its time, and that does not count.
    net.pass(Duration::from_secs(300));
    assert_eq!(net.send("db1", shell.answer(b"$")), "egress-denied at gamma", "no rule for that port");
    assert_eq!(net.send("db2", Talk { b: DB2, ..elsewhere }.answer(b"1")), "not-syn at alpha", "not moved");
    net.pass(Duration::from_secs(59));
    goes_on(&mut net, "within a minute of the first packet");
    net.pass(Duration::from_secs(1));
    assert_eq!(net.send("db1", elsewhere.answer(b"1")), "not-syn at gamma", "a minute is over");
    goes_on(&mut net, "what was picked up stays");
    for (keys, seconds) in [("tcp_pickup = 0", 0), ("tcp_pickup = 5", 5)] {
        let mut net = connected(keys);
        net.install(&with_db1_at("gamma", keys));
        if seconds > 0 {
            assert_eq!(net.send("db1", shell.answer(b"$")), "egress-denied at gamma");
            net.pass(Duration::from_secs(seconds));
        }
        assert_eq!(net.send("db1", SQL.answer(b"1")), "not-syn at gamma", "{keys}");
    }
}

#[test]
fn loose_networks_pick_up_replies_as_well() {
    let keys = "tcp = \"loose\"\ntcp_pickup = 0";
    let mut net = connected(keys);
    net.install(&with_db1_at("gamma", keys));
    goes_on(&mut net, keys);
    assert_eq!(net.send("db1", Talk { dport: 22, ..SQL }.answer(b"$")), "egress-denied at gamma");
}

#[test]
fn a_machine_that_leaves_one_configuration_and_comes_with_a_later_one_has_moved() {
    let mut net = connected("");
    let gone = scene("").replace(&endpoint("acme", "db1", "beta", DB1, "db", ""), "");
    net.install(&parse(&gone));
    net.install(&with_db1_at("gamma", ""));
    assert_eq!(net.send("db1", SQL.answer(b"1")), "web1");
    assert_eq!(net.send("web1", SQL.data(b"select 1")), "db1");
}
