//! Every table is bounded, and one network's limit is nobody else's.

use std::{sync::Arc, time::Duration};

use eastgate_wire::{DropReason, Frame, Instant, Offload};

use super::{
    frames::*,
    net::{Net, parse},
    scene::*,
};
use crate::{
    attachments::Attachments,
    pipeline::{Outcome, Pipeline, Shared, batch::Batch},
    snapshot::{Snapshot, state::StateRegistry},
};

#[test]
fn frames_to_many_are_limited_by_the_second() {
    let mut net = Net::new(&scene("neighbors = \"off\"\nbum_limit = 5"));
    let burst = |net: &mut Net| {
        let fates: Vec<bool> = (0..8).map(|_| net.send("web1", who_has(WEB1, DB1)).reached("db2")).collect();
        fates.iter().filter(|passed| **passed).count()
    };
    assert_eq!(burst(&mut net), 5);
    assert_eq!(net.send("web1", who_has(WEB1, DB1)), "bum-limit at alpha");
    assert_eq!(net.send("web1", udp(WEB1, DB1, 4000, 53)), "db1", "unicast is not limited");
    net.pass(Duration::from_secs(1));
    assert_eq!(burst(&mut net), 5);
}

#[test]
fn a_question_in_the_appliances_name_counts_as_one_frame_to_many() {
    let mut net = Net::new(&scene("neighbors = \"proxy\"\nunknown_neighbors = \"flood\"\nbum_limit = 3"));
    for _ in 0..3 {
        assert_eq!(net.send("web1", who_has(WEB1, 99)), "db1, db2, db3, web2, web3");
    }
    assert_eq!(net.send("web1", who_has(WEB1, 99)), "bum-limit at alpha");
}

/// A learning network with a plain VTEP, behind which there are stations that nobody configured.
fn learning(keys: &str) -> Net {
    let plain = "[host.spoke1]\nvtep = \"172.31.0.11\"\ndevice = \"eth0\"\nruns = \"vxlan\"\n";
    let keys = format!("learning = true\nhosts = [\"spoke1\"]\n{keys}");
    Net::new(&[plain, &scene(&keys)].concat())
}

#[test]
fn learned_macs_are_limited_and_known_ones_stay() {
    let mut net = learning("mac_limit = 3");
    let unknown_host = |n: u8| udp(100 + n, DB2, 4000, 9000);
    let refused = "ingress-denied at alpha";
    for n in 0..3 {
        assert_eq!(
            net.encap_to("alpha", "spoke1", VNI, unknown_host(n)),
            refused,
            "db2 takes this from web servers only"
        );
    }
    assert_eq!(net.encap_to("alpha", "spoke1", VNI, unknown_host(3)), "mac-limit at alpha");
    assert_eq!(net.encap_to("alpha", "spoke1", VNI, unknown_host(0)), refused);
    let answer = net.send("web1", udp(WEB1, 101, 4000, 53));
    assert_eq!(answer, "spoke1", "unicast to where it was learned");
    assert_eq!(net.send("web1", udp(WEB1, 103, 4000, 53)), "unknown-destination at alpha");
    net.pass(Duration::from_secs(301));
    assert_eq!(net.encap_to("alpha", "spoke1", VNI, unknown_host(3)), refused, "silent ones were forgotten");
}

#[test]
fn a_unknown_host_never_takes_the_place_of_an_endpoint() {
    let mut net = learning("");
    assert_eq!(net.encap_to("alpha", "spoke1", VNI, udp(DB1, DB2, 4000, 53)), "mac-spoofed at alpha");
    let with_an_endpoints_address = from(udp(WEB2, DB2, 4000, 53), mac(100));
    assert_eq!(net.encap_to("alpha", "spoke1", VNI, with_an_endpoints_address), "ip-spoofed at alpha");
    assert_eq!(
        net.encap_to("alpha", "spoke1", VNI, ping(100, DB2, 1)),
        "db2",
        "what is open to any is open to it"
    );
}

#[test]
fn flows_without_answer_are_limited_and_replied_ones_stay() {
    let mut net = Net::new(&scene("limits = { unreplied = 4, flows = 2 }"));
    let in_use = |net: &Net, host: &str| net.snapshot(host).networks()[0].state.quota.in_use();
    for sport in [1, 2] {
        assert_eq!(net.send("web1", udp(WEB1, DB1, sport, 53)), "db1");
        assert_eq!(net.send("db1", udp(DB1, WEB1, 53, sport)), "web1");
    }
    for sport in 1000..1200 {
        let fate = net.send("web1", udp(WEB1, DB1, sport, 53));
        assert_eq!(fate, "db1", "the one that waited longest makes room, whichever shard it is in");
        for host in ["alpha", "beta"] {
            let usage = in_use(&net, host);
            assert!(usage.unreplied <= 3 && usage.replied == 2, "{host}: {usage:?}");
        }
    }
    for sport in [1, 2] {
        assert_eq!(net.send("web1", udp(WEB1, DB1, sport, 53)), "db1");
        assert_eq!(net.send("db1", udp(DB1, WEB1, 53, sport)), "web1");
    }
    net.pass(Duration::from_secs(40));
    for sport in 3..50 {
        assert_eq!(net.send("web1", udp(WEB1, DB1, sport, 53)), "db1");
        assert_eq!(net.send("db1", udp(DB1, WEB1, 53, sport)), "web1", "an exchange that is over makes room");
        assert!(["alpha", "beta"].iter().all(|host| in_use(&net, host).replied <= 2));
    }
    let connections: Vec<_> = (100..104).map(|sport| Talk { a: WEB1, b: DB1, sport, dport: 5432 }).collect();
    let opened = connections.iter().map(|talk| {
        net.send("web1", talk.syn());
        net.send("db1", talk.syn_ack());
        net.send("web1", talk.data(b""))
    });
    let opened: Vec<_> = opened.collect();
    assert_eq!(opened[..2], ["db1", "db1"]);
    assert_eq!(opened[2..], ["flow-limit at alpha"; 2], "connections make room for nobody");
    net.pass(Duration::from_secs(3600));
    assert_eq!(net.send("web1", connections[0].data(b"still here")), "db1");
}

/// Who begins more flows than are answered replaces its own only as often a second as it may have them, so that not all of a
/// flood goes on; and nobody else is less able to begin one.
#[test]
fn a_flood_of_unreplied_flows_is_its_senders_loss() {
    const LIMIT: u16 = 4000;
    let mut net = Net::new(&scene(&format!("limits = {{ unreplied = 8000, endpoint_unreplied = {LIMIT} }}")));
    let flood = |net: &mut Net, ports: std::ops::Range<u16>| {
        let fates: Vec<_> = ports.map(|sport| net.send("web1", udp(WEB1, DB1, sport, 53))).collect();
        let refused = fates.iter().filter(|fate| **fate == "flow-limit at alpha").count();
        let passed = fates.iter().filter(|fate| **fate == "db1").count();
        assert_eq!(passed + refused, fates.len());
        passed
    };
    assert_eq!(flood(&mut net, 1000..1000 + LIMIT), usize::from(LIMIT), "there is room");
    assert_eq!(flood(&mut net, 10_000..30_000), usize::from(LIMIT), "room is made, so often");
    assert_eq!(flood(&mut net, 30_000..31_000), 0);
    for sport in 0..50 {
        assert_eq!(net.send("web2", udp(WEB2, DB1, 2000 + sport, 53)), "db1", "another one's");
        assert_eq!(net.send("db1", udp(DB1, WEB2, 53, 2000 + sport)), "web2");
    }
    // What goes on has not begun.
    let last = 10_000 + LIMIT - 1;
    assert_eq!(net.send("web1", udp(WEB1, DB1, last, 53)), "db1");
    assert_eq!(net.send("db1", udp(DB1, WEB1, 53, last)), "web1");
    // The answer has left room for one.
    assert_eq!(flood(&mut net, 31_000..32_000), 1);
    net.pass(Duration::from_millis(500));
    assert_eq!(flood(&mut net, 40_000..45_000), usize::from(LIMIT / 2), "a half in half a second");
}

/// Many shards have no flow of their own that could go, and what goes elsewhere makes room for whoever is first. There are
/// more flows than shards that workers can be at work in.
#[test]
#[allow(clippy::disallowed_methods, reason = "workers take room from each other")]
fn workers_that_are_at_a_limit_together_find_room() {
    const WORKERS: u16 = 4;
    const ROUNDS: u16 = 40;
    // All together no more in a round than may make room at once
    const EACH: u16 = 240;
    let config = parse(&scene("limits = { unreplied = 24 }"));
    let states = Arc::new(StateRegistry::new(config.limits));
    let mut ports = Attachments::default();
    let snapshot = Snapshot::compile(&config, "alpha", None, &mut ports, &states).unwrap();
    let shared = Shared::new(snapshot, states, WORKERS.into());
    let snapshot = shared.snapshot_arc();
    let (port, ..) = snapshot.attachments().find(|(_, _, end)| &*end.name == "web1").unwrap();
    let run = |round: u16, worker: u16| {
        let mut pipeline = Pipeline::new(&shared, &snapshot, worker.into());
        for sport in (0..EACH).map(|n| 1000 + (round * WORKERS + worker) * EACH + n) {
            let mut bytes = udp(WEB1, DB1, sport, 53);
            let end = bytes.len();
            let mut frame = Frame::new(&mut bytes, 0, end, Offload::default());
            let now = Instant::from_secs(1000 + u64::from(round));
            let outcome = pipeline.handle_tenant(port, &mut frame, now, &mut Batch::default());
            assert_ne!(outcome, Outcome::Drop(DropReason::FlowLimit), "worker {worker}, port {sport}");
        }
    };
    let run = &run;
    for round in 0..ROUNDS {
        std::thread::scope(|scope| {
            (0..WORKERS).for_each(|worker| drop(scope.spawn(move || run(round, worker))));
        });
    }
}

#[test]
fn flows_begin_as_often_as_endpoint_and_network_may() {
    let mut net = Net::new(&scene("limits = { new_flows = 10, endpoint_new_flows = 6, unreplied = 2 }"));
    let burst = |net: &mut Net, endpoint: &str, from: u8, sport: u16| {
        let ports = sport..sport + 20;
        ports.filter(|sport| net.send(endpoint, udp(from, DB2, *sport, 53)).reached("db2")).count()
    };
    assert_eq!(burst(&mut net, "web1", WEB1, 1000), 6);
    assert_eq!(burst(&mut net, "web3", WEB3, 1000), 4, "the network's");
    // Packets of a flow are not counted. Who was put out for the last ones is a matter of shards.
    let lives = net.snapshot("alpha").networks()[0].state.quota.in_use().unreplied;
    assert!((1..=3).contains(&lives), "{lives}");
    let of_flows = [("web1", WEB1, 1000..1006), ("web3", WEB3, 1000..1004)].map(|(endpoint, from, ports)| {
        let fates = ports.map(|sport| net.send(endpoint, udp(from, DB2, sport, 53)));
        let passed = fates.filter(|fate| {
            let passes = fate.reached("db2");
            assert!(passes || *fate == "new-flow-limit at alpha", "{fate}");
            passes
        });
        passed.count()
    });
    assert_eq!(of_flows.iter().sum::<usize>(), lives as usize);
    // Times between flows are rounded up.
    net.pass(Duration::from_millis(501));
    assert_eq!(burst(&mut net, "web1", WEB1, 2000), 3);
    assert_eq!(burst(&mut net, "web3", WEB3, 2000), 2);
    // What the rules refuse, and what finds no room, has not begun.
    net.pass(Duration::from_secs(1));
    (0..20)
        .for_each(|sport| assert_eq!(net.send("web1", udp(WEB1, DB2, sport, 99)), "egress-denied at alpha"));
    assert_eq!(burst(&mut net, "web1", WEB1, 3000), 6);
}

/// The scene, with limits of the host, of the network, of an endpoint and of a rule.
fn limited([host, network, endpoint, rule]: [&str; 4]) -> String {
    let sql = "{ proto = \"tcp\", ports = 5432, from = \"group:web\"";
    let acme = scene(network).replace(sql, &format!("{sql}{rule}"));
    format!("[limits]\n{host}\n{acme}\n[tenant.acme.endpoint.web1.limits]\n{endpoint}\n")
}

#[test]
fn limits_are_in_force_when_their_snapshot_is_and_not_before() {
    let plenty = ["flows = 1000", "limits = { flows = 900 }", "flows = 800", ", connections = 50"];
    let tight = [
        (0, "flows = 1"),
        (1, "limits = { flows = 1 }"),
        (1, "limits = { new_flows = 1 }"),
        (1, "limits = { endpoint_flows = 900, endpoint_new_flows = 1 }"),
        (2, "flows = 1"),
        (2, "new_flows = 1"),
        (3, ", connections = 1"),
        (3, ", new_connections = { per_second = 1 }"),
    ];
    for (whose, limits) in tight {
        let mut net = Net::new(&limited(plenty));
        let connect = |net: &mut Net, talk: Talk| {
            let fates = [("web1", talk.syn()), ("db2", talk.syn_ack()), ("web1", talk.data(b""))];
            fates.into_iter().all(|(who, segment)| !net.send(who, segment).deliveries.is_empty())
        };
        let connected = |net: &mut Net, ports: std::ops::Range<u16>| {
            ports.filter(|sport| connect(net, Talk { a: WEB1, b: DB2, sport: *sport, dport: 5432 })).count()
        };
        let mut other = plenty;
        other[whose] = limits;
        net.compile_in_vain(&parse(&limited(other)));
        assert_eq!(connected(&mut net, 1..4), 3, "{limits} of a snapshot that nobody has put in force");
        net.install(&parse(&limited(other)));
        assert!(connected(&mut net, 4..7) < 2, "{limits}");
        net.compile_in_vain(&parse(&limited(plenty)));
        assert!(connected(&mut net, 7..10) < 2, "{limits} stay");
        net.install(&parse(&limited(plenty)));
        assert_eq!(connected(&mut net, 10..13), 3, "after {limits}");
    }
}

/// What a network has learned is that of the snapshot in force, whatever else was compiled.
#[test]
fn what_was_learned_stays_when_other_settings_are_refused() {
    let text = |keys: &str| {
        let plain = "[host.spoke1]\nvtep = \"172.31.0.11\"\ndevice = \"eth0\"\nruns = \"vxlan\"\n";
        parse(&[plain, &scene(&format!("learning = true\nhosts = [\"spoke1\"]\n{keys}"))].concat())
    };
    let mut net = Net::of(&text(""));
    let _learned = net.encap_to("alpha", "spoke1", VNI, udp(100, DB2, 4000, 9000));
    assert_eq!(net.send("web1", udp(WEB1, 100, 4000, 53)), "spoke1");
    net.compile_in_vain(&text("mac_age = 17"));
    net.install(&text(""));
    net.install(&text("mtu = 1400"));
    assert_eq!(net.send("web1", udp(WEB1, 100, 4000, 53)), "spoke1");
}

#[test]
fn answers_to_neighbour_requests_are_limited_for_each_endpoint() {
    let mut net = Net::new(&scene(""));
    let fates: Vec<String> = (0..10_000).map(|_| net.send("web1", who_has(WEB1, DB1)).to_string()).collect();
    let replied = fates.iter().take_while(|fate| *fate == "web1").count();
    assert!(replied > 0 && replied < 10_000, "{replied}");
    assert!(fates[replied..].iter().all(|fate| fate == "neighbor-limit at alpha"));
    assert_eq!(net.send("web3", who_has(WEB3, DB1)), "web3", "its neighbour is not the worse for it");
}
