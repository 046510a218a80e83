//! The fast path in earnest: what becomes of its flows when the daemon is killed and started again, when policy, ports
//! and underlay change.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::{
    CAPABILITIES, Daemon, Dialogue, Machine, Sink, Space, Stream, Transfer, bulk, hub::Hub, running::*,
    settle, site::*, wait_for, wait_within,
};

/// Refused, and many.
const FLOODED: u16 = 7002;

/// `EASTGATE_KILLS` makes the campaign longer: `cargo xtask soak` does.
#[test]
fn no_packet_is_lost_and_none_is_let_pass_while_daemons_are_killed_and_started_again() {
    let kills = std::env::var("EASTGATE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(4);
    let Some(mut running) = Running::alone() else { return };
    let flows = Flows::start(&running.site);
    let flood_sink = Sink::start(&running.site.db1, udp(21, FLOODED));
    let flood = Stream::bursts(&running.site.web2, udp(12, 9000), udp(21, FLOODED), 100);
    let dialogue = Dialogue::start(&running.site.web1, (&running.site.db1, tcp(21, 5432)));
    // Its windows are scaled, and what it has under way fills them.
    let transfer = Transfer::start(&running.site.web2, (&running.site.db1, tcp(21, 5433)));
    flows.allowed_arrive("at first");
    dialogue.goes_on("at first");
    transfer.goes_on("at first");
    running.wait_until_carried();
    // The first datagrams wait for ARP, and some of them in vain: those behind this one do not.
    let from = flows.allowed.each_ref().map(|(stream, sink)| {
        stream.arrives("what is counted from here on", sink);
        let count = sink.count();
        (sink.last(), count)
    });

    for kill in 0..kills {
        let host = kill % 2;
        running.kill(host);
        flows.allowed_arrive("without a daemon");
        dialogue.goes_on("without a daemon");
        running.run_again(host);
        flows.allowed_arrive("under the next daemon");
        dialogue.goes_on("under the next daemon");
        transfer.goes_on("under the next daemon");
        running.wait_until_carried();
    }
    let Flows { allowed, denied } = flows;
    for ((stream, sink), (first, count)) in allowed.into_iter().zip(from) {
        let sent = stream.finish() - first;
        let arrived = settle(|| sink.count() - count, |arrived| *arrived >= sent);
        assert!(arrived >= sent, "{arrived} of {sent} arrived, the first gaps: {:?}", sink.gaps());
    }
    let refused = denied.map(|(stream, sink)| (stream.finish(), sink.count()));
    let flooded = (flood.finish(), flood_sink.count());
    println!("{kills} kills, denied datagrams and how many of them passed: {refused:?}, {flooded:?}");
    for (sent, passed) in refused.into_iter().chain([flooded]) {
        assert!(sent > 0 && passed == 0, "{passed} of {sent} denied datagrams passed");
    }
    drop((dialogue, transfer));
    running.stop();
}

#[test]
fn a_killed_daemon_changes_nothing_and_its_policy_goes_on_to_decide() {
    let Some(mut running) = Running::start() else { return };
    let flows = Flows::start(&running.site);
    flows.allowed_arrive("at first");
    running.wait_until_carried();
    assert!(running.site.web2.ping("10.1.0.11"), "each knows the other's MAC from here on");
    running.kill(0);
    flows.allowed_arrive("while no daemon runs on the sender's host");
    flows.denied_never_arrived();
    for port in ["veth-web1", "veth-web2"] {
        running.site.assert_programmed(port);
    }
    assert!(running.site.web1.ping("10.1.0.12"), "the policy allows it, and the kernel has it");
    running.run_again(0);
    assert!(running.site.web1.ping("10.1.0.12"));
    flows.denied_never_arrived();
    drop(flows);
    running.stop();
}

#[test]
fn echoes_begin_in_the_kernel_where_one_was_let_in_before() {
    const ASKED: [&str; 4] = ["10.1.0.12", "fd00:1::12", "10.1.0.21", "fd00:1::21"];
    let Some(mut running) = Running::start() else { return };
    // Each is another echo, with an identifier of its own.
    for to in [ASKED, ASKED].as_flattened() {
        assert!(running.site.web1.ping(to), "{to}");
    }
    for daemon in running.daemons.iter().flatten() {
        let rows = daemon.ask(&["show", "flows"]);
        let is_carried = |proto: &str| {
            let mut rows = rows["flows"].as_array().unwrap().iter();
            rows.any(|flow| flow["proto"] == proto && flow["offloaded"] == true)
        };
        assert!(is_carried("icmp") && is_carried("icmpv6"), "{rows:#}");
    }
    running.kill(0);
    running.kill(1);
    for to in ASKED {
        assert!(running.site.web1.ping(to), "{to}, without a daemon");
    }
    assert!(!running.site.web2.ping("10.1.0.21"), "nobody has told it where that is");
    running.run_again(0);
    running.run_again(1);
    for to in ASKED {
        assert!(running.site.web1.ping(to), "{to}, under the next daemon");
    }
    running.stop();
}

/// What Linux knows of an address after it has asked: of everyone, or of whoever had it.
fn asked(machine: &Space, address: &str, everyone: bool) -> String {
    if everyone {
        machine.ip(&format!("neigh flush to {address} dev eth0"));
        // It asks before it sends. What becomes of the packet is another matter.
        let _ = machine.ping(address);
    } else {
        machine.ip(&format!("neigh change {address} dev eth0 nud probe"));
    }
    settle(
        || machine.ip(&format!("neigh show to {address} dev eth0")),
        |entry| entry.contains("REACHABLE") || entry.contains("FAILED"),
    )
}

#[test]
fn whoever_was_answered_is_answered_while_no_daemon_runs() {
    const ASKED: [&str; 4] = ["10.1.0.12", "fd00:1::12", "10.1.0.21", "fd00:1::21"];
    for mode in ["suppress", "proxy"] {
        let Some(mut running) = Running::start() else { return };
        running
            .site
            .rewrite(|text| text.replace("vni = 5001", &format!("vni = 5001\nneighbors = \"{mode}\"")));
        for daemon in running.daemons.iter().flatten() {
            assert!(daemon.run(&["reload"]).status.success());
        }
        // Linux asks whoever had an IPv6 address from its link-local one.
        running.site.web1.ip("addr add fe80::ff:fe00:11/64 dev eth0 nodad");
        // Of whoever had it, the appliance is asked only where it is who had it.
        let ways = [true, false].into_iter().take(if mode == "proxy" { 2 } else { 1 });
        let all_are_answered = |running: &Running, when: &str| {
            for (to, everyone) in ASKED.iter().flat_map(|to| ways.clone().map(move |everyone| (to, everyone)))
            {
                let entry = asked(&running.site.web1, to, everyone);
                assert!(entry.contains("REACHABLE"), "{mode}, everyone {everyone}, {when}: {entry}");
            }
        };
        all_are_answered(&running, "by the first daemon");
        running.site.rewrite(|text| text.replace("vni = 5001", "vni = 5001\nmtu = 1400"));
        assert!(running.daemons[0].as_ref().unwrap().run(&["reload"]).status.success());
        running.kill(0);
        all_are_answered(&running, "after it was killed");
        running.run_again(0);
        running.kill(0);
        all_are_answered(&running, "after the second was killed, which nobody had asked");

        // By what the last one would have said, and not by what was said last.
        running.site.rewrite(|text| text.replace("02:00:00:00:00:21", "02:00:00:00:00:31"));
        running.run_again(0);
        running.kill(0);
        let entry = asked(&running.site.web1, "10.1.0.21", true);
        let known = if mode == "proxy" { "REACHABLE" } else { "lladdr 02:00:00:00:00:31 REACHABLE" };
        assert!(entry.contains(known), "{mode}: {entry}");
        running.site.rewrite(|text| text.replace("10.1.0.12", "10.1.0.13"));
        running.run_again(0);
        running.kill(0);
        let entry = asked(&running.site.web1, "10.1.0.12", true);
        assert!(entry.contains("FAILED"), "{mode}, nobody has it any more: {entry}");
        let entry = asked(&running.site.web1, "fd00:1::12", true);
        assert!(entry.contains("REACHABLE"), "{mode}, its other address: {entry}");
        running.run_again(0);
        running.stop();
    }
}

#[test]
fn the_policy_of_the_next_daemon_holds_for_flows_of_the_one_before() {
    let Some(mut running) = Running::start() else { return };
    running.site.allow_denied();
    for daemon in running.daemons.iter().flatten() {
        assert!(daemon.run(&["reload"]).status.success());
    }
    let flows = Flows::start(&running.site);
    flows.allowed_arrive("at first");
    for (stream, sink) in &flows.denied {
        stream.arrives("what is allowed for now", sink);
    }
    running.wait_until_carried();
    for host in [0, 1] {
        running.kill(host);
    }
    running.site.rewrite(|text| text.replace("[7000, 7001]", "[7000]"));
    for (stream, sink) in &flows.denied {
        stream.arrives("under the last policy, without a daemon", sink);
    }
    for host in [0, 1] {
        running.run_again(host);
    }
    for (stream, sink) in &flows.denied {
        assert!(stream.is_cut(sink, 200), "a flow outlived the policy that allowed it");
    }
    flows.allowed_arrive("under the new policy");
    drop(flows);
    running.stop();
}

#[test]
fn a_stop_that_keeps_the_fast_path_is_for_the_daemon_that_follows() {
    let Some(mut running) = Running::start() else { return };
    running.daemons[0].take().expect("it runs").stop();
    let keeping = running.site.run_more("alpha", &["--dataplane", "ebpf", "--on-stop", "keep"]);
    let flows = Flows::start(&running.site);
    let dialogue = Dialogue::start(&running.site.web1, (&running.site.db1, tcp(21, 5432)));
    flows.allowed_arrive("at first");
    dialogue.goes_on("at first");
    wait_within(SOON, "flows are offloaded", || all_carried_in_the_kernel(&keeping));
    assert!(keeping.stop().success());
    flows.allowed_arrive("after the stop");
    dialogue.goes_on("after the stop");
    flows.denied_never_arrived();
    running.run_again(0);
    flows.allowed_arrive("under the next daemon");
    dialogue.goes_on("under the next daemon");
    flows.denied_never_arrived();
    drop((flows, dialogue));
    running.stop();
}

#[test]
fn a_path_that_gets_narrower_is_learned_although_only_the_programs_send_there() {
    let Some((site, router)) = Site::routed() else { return };
    let (alpha, beta) = (site.run_with("alpha", "ebpf"), site.run_with("beta", "ebpf"));
    let transfer = Transfer::start(&site.web1, (&site.db1, tcp(21, 5432)));
    transfer.goes_on("at first");
    wait_within(SOON, "flows are offloaded", || all_carried_in_the_kernel(&alpha));
    // The far side alone: what does not fit the near one would be lost in the cable, and nobody would say so.
    router.ip("link set far mtu 1400");
    // What was on its way before may arrive for a while, and it takes a datagram that does not fit for anyone to learn.
    wait_for("the narrower path is learned", || {
        alpha.log().contains("the path to a VTEP is narrower than the link")
    });
    transfer.goes_on("on a narrower path");
    drop((transfer, beta));
}

/// A hub has no port of its own: all there is comes from one VTEP and goes to another.
#[test]
fn a_hub_carries_in_the_kernel_what_comes_from_one_vtep_and_goes_to_another() {
    let Some(site) = Hub::new() else { return };
    let before = Machine::of(&site.hub);
    let daemon = site.run("ebpf");
    assert_eq!(daemon.ask(&["status"])["dataplane"], "ebpf");
    let [two, three] = &site.spokes;
    let both_ways = |bytes| {
        bulk(two, (three, tcp(3, 5432)), bytes);
        bulk(three, (two, tcp(2, 5432)), bytes);
    };
    let sink = Sink::start(three, udp(3, ALLOWED));
    let stream = Stream::start(two, udp(2, 1000), udp(3, ALLOWED));
    let denied_sink = Sink::start(three, udp(3, DENIED));
    let denied = Stream::start(two, udp(2, 1001), udp(3, DENIED));
    stream.arrives("at first", &sink);
    both_ways(1_000_000);
    wait_within(SOON, "flows are offloaded", || all_carried_in_the_kernel(&daemon));

    // Now nobody else can.
    daemon.kill();
    stream.arrives("without a daemon", &sink);
    let (frames, bytes) = site.sent();
    both_ways(50_000_000);
    let (frames, bytes) = (site.sent().0 - frames, site.sent().1 - bytes);
    assert!(
        bytes > 100_000_000 && bytes / frames > 5_000,
        "{bytes} bytes in {frames} frames: cut at the hub"
    );

    let daemon = site.run("ebpf");
    stream.arrives("under the next daemon", &sink);
    both_ways(1_000_000);
    denied.send_more(20);
    assert_eq!(denied_sink.count(), 0, "of {} denied datagrams", denied.sent());
    wait_within(SOON, "flows are offloaded", || all_carried_in_the_kernel(&daemon));
    drop((stream, denied));
    assert!(daemon.stop().success());
    assert_eq!(before.changes(&Machine::of(&site.hub)), Vec::<String>::new());
}

#[test]
fn it_runs_as_a_user_of_its_own_with_few_capabilities() {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let before = Machine::of(&site.alpha);
    let start = |capabilities: &[&str]| {
        let options = ["--dataplane", "ebpf"];
        Daemon::start_with(&site.world, &site.alpha, &site.config, "alpha", capabilities, &options)
    };
    let beta = site.run_with("beta", "ebpf");
    let alpha = start(&CAPABILITIES);
    let flows = Flows::start(&site);
    flows.allowed_arrive("at first");
    wait_within(SOON, "flows are offloaded", || all_carried_in_the_kernel(&alpha));
    site.assert_programmed("veth-web1");
    alpha.kill();
    flows.allowed_arrive("without a daemon");
    let alpha = start(&CAPABILITIES);
    assert!(alpha.log().contains("flows of the daemon before end"), "{}", alpha.log());
    flows.allowed_arrive("begun anew");
    wait_within(SOON, "flows are offloaded", || all_carried_in_the_kernel(&alpha));
    alpha.kill();
    let alpha = start(&[&CAPABILITIES[..], &["sys_admin"]].concat());
    assert!(alpha.log().contains("the programs of the daemon before go on"), "{}", alpha.log());
    flows.allowed_arrive("taken over");
    flows.denied_never_arrived();
    drop((flows, beta));
    assert!(alpha.stop().success());
    assert_eq!(before.changes(&Machine::of(&site.alpha)), Vec::<String>::new());
}

#[test]
fn without_programs_the_next_daemon_takes_nothing_over() {
    let Some(mut running) = Running::start() else { return };
    let flows = Flows::start(&running.site);
    flows.allowed_arrive("at first");
    running.wait_until_carried();
    running.kill(0);
    running.daemons[0] = Some(running.site.run_with("alpha", "userspace"));
    running.site.assert_guarded("veth-web1");
    flows.allowed_arrive("in userspace");
    flows.denied_never_arrived();
    running.kill(0);
    assert!(flows.allowed.iter().all(|(stream, sink)| stream.is_cut(sink, 100)), "who carries that?");
    running.run_again(0);
    flows.allowed_arrive("with programs again");
    drop(flows);
    running.stop();
}

#[test]
fn a_changed_policy_ends_flows_that_it_does_not_allow() {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    site.allow_denied();
    let (alpha, beta) = (site.run_with("alpha", "ebpf"), site.run_with("beta", "ebpf"));
    let flows = Flows::start(&site);
    flows.allowed_arrive("at first");
    for (stream, sink) in &flows.denied {
        stream.arrives("what is allowed for now", sink);
    }
    wait_within(SOON, "flows are offloaded", || {
        carried_in_the_kernel(&alpha) && carried_in_the_kernel(&beta)
    });
    site.rewrite(|text| text.replace("[7000, 7001]", "[7000]"));
    for daemon in [&alpha, &beta] {
        assert!(daemon.run(&["reload"]).status.success());
    }
    for (stream, sink) in &flows.denied {
        assert!(stream.is_cut(sink, 200), "a flow outlived the policy that allowed it");
    }
    flows.allowed_arrive("under the new policy");
}

#[test]
fn the_underlay_and_ports_may_come_and_go() {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let (alpha, _beta) = (site.run_with("alpha", "ebpf"), site.run_with("beta", "ebpf"));
    let flows = Flows::start(&site);
    flows.allowed_arrive("at first");
    wait_within(SOON, "flows are offloaded", || carried_in_the_kernel(&alpha));
    let (stream, sink) = &flows.allowed[0];

    site.alpha.ip("link set underlay0 down");
    assert!(stream.is_cut(sink, 50));
    site.alpha.ip("link set underlay0 up");
    stream.arrives("after the underlay was down", sink);
    site.alpha.ip("addr flush dev underlay0");
    wait_within(SOON, "the programs do not go on under a foreign address", || stream.is_cut(sink, 20));
    site.address_underlay(&site.alpha, 1);
    stream.arrives("after the address was gone", sink);
    site.alpha.ip("link del underlay0");
    assert!(stream.is_cut(sink, 50));
    site.lay_underlay();
    flows.allowed_arrive("after the underlay was gone");

    site.alpha.ip("link del veth-web2");
    wait_within(SOON, "the port is missed", || alpha.port_state("veth-web2") == "absent");
    stream.arrives("other ports do not mind", sink);
    site.plug(&site.alpha, "veth-web2", &site.web2, 0x12);
    wait_within(SOON, "the port is served again", || alpha.port_state("veth-web2") == "forwarding");
    site.assert_programmed("veth-web2");
    flows.allowed[1].0.arrives("after the port came back", &flows.allowed[1].1);
    flows.denied_never_arrived();
}

/// What the verifier said when it was last looked at, on the kernel that is named there.
const BUDGET: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fastpath/verifier.txt");

fn kernel_release() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    release.trim().splitn(3, '.').take(2).collect::<Vec<_>>().join(".")
}

/// A program that grew by more than a tenth is to be looked at, and `EASTGATE_BLESS=1` writes down what it is now.
/// Another kernel counts otherwise: there only the half of the limit holds. That the stack is not too deep
/// each kernel says when it loads them.
#[test]
fn programs_keep_to_their_budget() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let costs = eastgate_fastpath::cost::costs().unwrap();
    assert_eq!(costs.len(), 5, "{costs:?}");
    let rows = costs.iter().map(|cost| format!("{} {} {}\n", cost.program, cost.instructions, cost.stack));
    let now =
        format!("kernel {}\nprogram instructions stack\n{}", kernel_release(), rows.collect::<String>());
    if std::env::var_os("EASTGATE_BLESS").is_some() {
        std::fs::write(BUDGET, &now).unwrap();
    }
    let before = std::fs::read_to_string(BUDGET).unwrap();
    let same_kernel = before.starts_with(&format!("kernel {}\n", kernel_release()));
    for cost in &costs {
        assert!(cost.instructions > 0 && cost.instructions <= 500_000, "{cost:?}");
        let row = before.lines().find_map(|line| line.strip_prefix(&format!("{} ", cost.program)));
        let (instructions, stack) = row.and_then(|row| row.split_once(' ')).expect("a row for each program");
        let most = instructions.parse::<u32>().unwrap() * 11 / 10;
        let deepest = stack.parse::<u32>().unwrap() + 64;
        assert!(
            !same_kernel || cost.instructions <= most && cost.stack <= deepest,
            "{} has grown; EASTGATE_BLESS=1 writes this down if that is right.\nbefore:\n{before}now:\n{now}",
            cost.program
        );
    }
}
