//! Flows whose packets pass elsewhere: one state, in one place.

use eastgate_wire::view::{HeaderBits, proto, tcp_flags};

use super::*;

/// A flow with both sides heard, settled for being offloaded.
fn settled(world: &mut World, key: FlowKey) -> Hit {
    assert_eq!(world.send(&udp(key)), Fate::Opened);
    let mut settled = None;
    for n in 0..20 {
        let key = if n % 2 == 0 { key.reversed() } else { key };
        match world.table.track(&udp(key), &world.settings, world.epoch, world.now) {
            Tracked::Pass(hit) if hit.settled => {
                settled = Some(hit);
                break;
            }
            Tracked::Pass(_) => {}
            other => panic!("{other:?}"),
        }
    }
    settled.expect("a flow with packets both ways ripens")
}

fn track(world: &mut World, segment: &Segment) -> Tracked {
    world.table.track(segment, &world.settings, world.epoch, world.now)
}

fn progress(original: u64, reply: u64, last_seen: Instant) -> Progress {
    let count = |packets| Count { packets, bytes: packets * 100 };
    Progress {
        sides: [Side::default(); 2],
        counts: [count(original), count(reply)],
        last_seen: Some(last_seen),
    }
}

#[test]
fn a_flow_is_offloaded_once_and_comes_back_with_what_passed() {
    let mut world = World::new();
    let key = key(1, proto::UDP, 1);
    let hit = settled(&mut world, key);
    let before = world.table.info(hit.flow).unwrap();
    let offloaded = world.table.offload(hit.flow).unwrap();
    assert_eq!((offloaded.key, offloaded.replied), (key, true));
    assert_eq!(world.table.offload(hit.flow), None, "it is away");
    assert_eq!(world.table.offloaded(), 1);

    world.wait(10);
    world.table.reclaim(hit.flow, Some(&progress(40, 30, world.now)), &world.settings, world.now);
    let after = world.table.info(hit.flow).unwrap();
    assert_eq!(after.original.packets, before.original.packets + 40);
    assert_eq!(after.reply.bytes, before.reply.bytes + 3000);
    assert_eq!(after.deadline, world.now + world.settings.timeouts.udp_replied);
    assert_eq!(world.table.offloaded(), 0);
}

#[test]
fn packets_that_were_on_their_way_pass_and_later_ones_bring_the_flow_back() {
    let mut world = World::new();
    let key = key(1, proto::UDP, 1);
    let hit = settled(&mut world, key);
    let _ = world.table.offload(hit.flow).unwrap();
    let passed =
        (0..100_000).take_while(|_| matches!(track(&mut world, &udp(key)), Tracked::Pass(_))).count();
    assert!((10_000..100_000).contains(&passed), "{passed} passed beside");
    assert_eq!(track(&mut world, &udp(key)), Tracked::Offloaded { flow: hit.flow, original: key });
    world.table.reclaim(hit.flow, None, &world.settings, world.now);
    assert!(matches!(track(&mut world, &udp(key)), Tracked::Pass(_)));
}

/// Whoever carries a flow does not tell when it does no longer.
#[test]
fn one_in_so_many_packets_beside_a_flow_asks_about_it() {
    let mut world = World::new();
    let key = key(1, proto::UDP, 1);
    let hit = settled(&mut world, key);
    let strays = |world: &mut World| match track(world, &udp(key)) {
        Tracked::Pass(hit) => hit.strays,
        other => panic!("{other:?}"),
    };
    assert!(!(0..200).any(|_| strays(&mut world)), "it is here");
    let _ = world.table.offload(hit.flow).unwrap();
    assert_eq!((0..640).filter(|_| strays(&mut world)).count(), 10);
    assert_eq!(world.table.opened(hit.flow), Some(key));
    let many = Segment { packets: 45, ..udp(key) };
    let asked = (0..64).filter(|_| matches!(track(&mut world, &many), Tracked::Pass(hit) if hit.strays));
    assert_eq!(asked.count(), 45, "whatever a segment is of");
    world.table.reclaim(hit.flow, None, &world.settings, world.now);
    assert!(!(0..200).any(|_| strays(&mut world)), "it is back");
}

#[test]
fn a_new_epoch_is_no_way_around() {
    let mut world = World::new();
    let key = key(1, proto::UDP, 1);
    let hit = settled(&mut world, key);
    let _ = world.table.offload(hit.flow).unwrap();
    world.epoch += 1;
    assert_eq!(track(&mut world, &udp(key)), Tracked::Offloaded { flow: hit.flow, original: key });
    world.table.reclaim(hit.flow, None, &world.settings, world.now);
    assert!(matches!(track(&mut world, &udp(key)), Tracked::Stale { .. }));
}

#[test]
fn the_owner_is_asked_before_a_flow_runs_out() {
    let mut world = World::new();
    let key = key(1, proto::UDP, 1);
    let hit = settled(&mut world, key);
    let _ = world.table.offload(hit.flow).unwrap();
    world.wait(1000);
    world.table.handle_timeout(world.now, 100);
    assert_eq!(world.table.pop_overdue(), Some((hit.flow, key)));
    world.table.refresh(hit.flow, world.now, &world.settings);
    world.wait(100);
    world.table.handle_timeout(world.now, 100);
    assert_eq!(world.table.pop_overdue(), None, "it was seen a hundred seconds ago");
    assert_eq!(world.table.len(), 1);

    world.wait(1000);
    world.table.handle_timeout(world.now, 100);
    assert!(world.table.pop_overdue().is_some());
    world.table.reclaim(hit.flow, None, &world.settings, world.now);
    world.wait(10);
    world.table.handle_timeout(world.now, 100);
    assert!(world.table.is_empty(), "nobody has seen it since");
}

#[test]
fn a_flow_that_ends_here_is_recalled() {
    let mut world = World::new();
    let key = key(1, proto::UDP, 1);
    let hit = settled(&mut world, key);
    let _ = world.table.offload(hit.flow).unwrap();
    assert_eq!(world.table.pop_recalled(), None);
    let (killed, _) = world.table.kill(0, 100, &FlowFilter::default(), world.now);
    assert_eq!(
        (killed, world.table.pop_recalled().map(|it| it.key), world.table.offloaded()),
        (1, Some(key), 0)
    );
}

#[test]
fn a_connection_is_offloaded_only_while_data_flows() {
    const ACK: u8 = tcp_flags::ACK;
    let mut world = World::new();
    let there = key(1, proto::TCP, 1);
    let back = there.reversed();
    world.send(&tcp(there, tcp_flags::SYN, 100, 0, 0));
    world.send(&tcp(back, tcp_flags::SYN | ACK, 500, 101, 0));
    world.send(&tcp(there, ACK, 101, 501, 0));
    let mut seq = 101;
    let hit = loop {
        match track(&mut world, &tcp(there, ACK, seq, 501, 10)) {
            Tracked::Pass(hit) if hit.settled => break hit,
            Tracked::Pass(_) => seq += 10,
            other => panic!("{other:?}"),
        }
        assert!(seq < 500, "it never ripens");
    };
    let offloaded = world.table.offload(hit.flow).unwrap();
    assert_eq!(offloaded.sides[0].end, seq + 10);

    // What passed elsewhere counts when the connection comes back: the far side may acknowledge it.
    let mut sides = offloaded.sides;
    sides[0].end += 1000;
    let counts = [Count { packets: 1, bytes: 1040 }, Count::default()];
    let passed = Progress { sides, counts, last_seen: Some(world.now) };
    assert!(matches!(track(&mut world, &tcp(back, ACK, 501, seq + 1010, 0)), Tracked::Offloaded { .. }));
    world.table.reclaim(hit.flow, Some(&passed), &world.settings, world.now);
    assert!(matches!(track(&mut world, &tcp(back, ACK, 501, seq + 1010, 0)), Tracked::Pass(_)));

    let Tracked::Pass(end) = track(&mut world, &tcp(there, ACK | tcp_flags::FIN, seq + 1010, 501, 0)) else {
        panic!("a FIN passes");
    };
    assert!(!end.settled);
    assert_eq!(world.table.offload(hit.flow), None, "it is closing");
}

/// A world after the daemon that knew this one's flows: an empty table, and nothing admitted.
fn reopened(world: &World) -> World {
    World { now: world.now, epoch: world.epoch, ..World::new() }
}

#[test]
fn a_connection_outlives_the_daemon_that_knew_it() {
    // Windows count 16 times what their fields say.
    let scaled = |segment: Segment| match segment.kind {
        SegmentKind::Tcp(tcp) => {
            Segment { kind: SegmentKind::Tcp(Tcp { window_scale: Some(4), ..tcp }), ..segment }
        }
        _ => segment,
    };
    const ACK: u8 = tcp_flags::ACK;
    let mut world = World::new();
    let there = key(1, proto::TCP, 1);
    let back = there.reversed();
    world.send(&scaled(tcp(there, tcp_flags::SYN, 100, 0, 0)));
    world.send(&scaled(tcp(back, tcp_flags::SYN | ACK, 500, 101, 0)));
    world.send(&tcp(there, ACK, 101, 501, 0));
    let mut seq = 101;
    let hit = loop {
        match track(&mut world, &tcp(there, ACK, seq, 501, 10)) {
            Tracked::Pass(hit) if hit.settled => break hit,
            _ => seq += 10,
        }
    };
    let offloaded = world.table.offload(hit.flow).unwrap();
    let progress = Progress { sides: offloaded.sides, ..progress(7, 5, world.now) };
    let found = Found {
        key: there,
        replied: true,
        progress,
        hints: [3, 4],
        created: None,
        header: HeaderBits::default(),
        related: None,
    };

    let mut world = reopened(&world);
    world.wait(60);
    assert!(!world.table.knows(&there) && !world.table.knows(&back));
    assert_eq!(world.send(&tcp(back, ACK, 501, seq + 10, 0)), Fate::Dropped(DropReason::NotSyn));
    let account = world.account(&there);
    world.table.import(&found, &world.settings, &account, world.now).unwrap();
    assert!(world.table.knows(&there) && world.table.knows(&back));
    assert_eq!(account.in_use(), FlowUse { replied: 1, unreplied: 0 });

    // The policy in force has its say before the first packet passes.
    let Tracked::Stale { flow, original, hint } = track(&mut world, &tcp(back, ACK, 501, seq + 10, 0)) else {
        panic!("nobody has admitted it yet");
    };
    assert_eq!((original, hint), (there, 4));
    assert!(world.table.confirm(flow, &ALLOWED));
    assert_eq!(world.send(&tcp(back, ACK, 501, seq + 10, 0)), Fate::Passed(FlowState::Established));
    // Far behind what an unscaled window has room for.
    assert_eq!(world.send(&tcp(there, ACK, seq + 10, 501, 50_000)), Fate::Passed(FlowState::Established));
    assert_eq!(world.send(&tcp(back, ACK, 501, seq + 50_010, 0)), Fate::Passed(FlowState::Established));
    assert_eq!(world.send(&tcp(there, ACK, seq + 160_000, 501, 10)), Fate::Passed(FlowState::Established));
    let forged = tcp(there, ACK, seq.wrapping_add(1 << 30), 501, 10);
    assert_eq!(world.send(&forged), Fate::Dropped(DropReason::TcpWindow));
    let info = world.table.info(flow).unwrap();
    assert_eq!((info.original.packets, info.reply.packets), (9, 7));
}

/// One identifier, asked by both ends.
#[test]
fn an_echo_is_known_by_its_request_and_other_queries_are_nobody_elses() {
    let mut world = World::new();
    let query = |key, request, kind, code| Segment {
        header: HeaderBits::default(),
        key,
        kind: SegmentKind::Query(Query { request, kind, code }),
        packets: 1,
        bytes: 98,
    };
    let there = FlowKey { sport: 7, dport: 7, ..key(1, proto::ICMP, 1) };
    let back = there.reversed();
    assert_eq!(query(there, true, 8, 0).offload_key(), Some(there));
    assert_eq!(query(back, false, 8, 0).offload_key(), Some(there));
    assert_eq!(
        (query(there, true, 8, 1).offload_key(), query(there, true, 13, 0).offload_key()),
        (None, None)
    );

    assert_eq!(world.send(&query(there, true, 8, 0)), Fate::Opened);
    assert!(world.table.knows(&there) && !world.table.knows(&back));
    let mut hit = None;
    for n in 0..8 {
        let packet = if n % 2 == 0 { query(back, false, 8, 0) } else { query(there, true, 8, 0) };
        let Tracked::Pass(passed) = track(&mut world, &packet) else { panic!("it was let in") };
        hit = passed.settled.then_some(passed).or(hit);
    }
    let offloaded = world.table.offload(hit.unwrap().flow).unwrap();
    assert_eq!((offloaded.key, offloaded.replied), (there, true));

    assert_eq!(world.send(&query(there, true, 13, 0)), Fate::Opened);
    for _ in 0..20 {
        let Tracked::Pass(passed) = track(&mut world, &query(there, true, 13, 0)) else { panic!() };
        assert!(!passed.settled && world.table.offload(passed.flow).is_none(), "no echo");
    }

    let found = Found {
        key: back,
        replied: true,
        progress: progress(1, 1, world.now),
        hints: [0; 2],
        created: None,
        header: HeaderBits::default(),
        related: None,
    };
    let account = world.account(&back);
    world.table.import(&found, &world.settings, &account, world.now).unwrap();
    assert!(world.table.knows(&back));
    let Tracked::Stale { original, .. } = track(&mut world, &query(there, false, 8, 0)) else {
        panic!("nobody has admitted it yet");
    };
    assert_eq!(original, back);
}

#[test]
fn a_flow_whose_time_is_over_or_that_finds_no_room_is_not_adopted() {
    let few = FlowLimits { replied: 1, unreplied: 1 };
    let mut world = World::limited(few, few);
    let account = world.account(&key(1, proto::UDP, 0));
    let found = |n, seen| Found {
        header: HeaderBits::default(),
        related: None,
        key: key(1, proto::UDP, n),
        replied: true,
        progress: progress(1, 1, seen),
        hints: [0; 2],
        created: None,
    };
    let long_ago = world.now;
    world.wait(10_000);
    let import = |world: &mut World, found| world.table.import(&found, &world.settings, &account, world.now);
    assert_eq!((import(&mut world, found(1, long_ago)), world.table.len()), (Ok(()), 0));
    let now = world.now;
    assert_eq!(import(&mut world, found(2, now)), Ok(()));
    assert_eq!(import(&mut world, found(3, now)), Ok(()), "an exchange makes room for another");
    assert_eq!((world.table.len(), account.in_use()), (1, FlowUse { replied: 1, unreplied: 0 }));
    assert!(world.table.knows(&key(1, proto::UDP, 3)));
    world.limits = FlowLimits { replied: 0, unreplied: 1 };
    world.table.kill(0, 10, &FlowFilter::default(), now);
    let _ = world.page(vni(1));
    assert_eq!(import(&mut world, found(4, now)), Err(DropReason::FlowLimit));
    assert_eq!((world.table.len(), account.in_use()), (0, FlowUse::default()));
}
