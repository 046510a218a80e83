//! How flows live: directions, epochs, queries, errors, time.

use eastgate_wire::view::{Chunks, Icmp, Quoted, Sctp, proto, tcp_flags};

use super::*;

#[test]
fn udp_is_replied_by_the_other_side() {
    let mut world = World::new();
    let segment = udp(key(5, 17, 1));
    assert_eq!(world.send(&segment), Fate::Opened);
    world.wait(29);
    assert_eq!(world.send(&segment), Fate::Passed(FlowState::Unreplied));
    world.wait(29);
    let reply = Segment { key: segment.key.reversed(), bytes: 0, ..segment };
    assert_eq!(world.send(&reply), Fate::Passed(FlowState::Replied));
    world.wait(29);
    assert_eq!(world.send(&segment), Fate::Passed(FlowState::Stream));
    let flow = world.flows()[0];
    assert_eq!((flow.key, flow.replied), (segment.key, true));
    assert_eq!(flow.original, Count { packets: 3, bytes: 300 });
    assert_eq!(flow.reply, Count { packets: 1, bytes: 0 });
    assert_eq!((flow.egress_rule, flow.ingress_rule, flow.last_seen), (11, 22, world.now));
    world.wait(300);
    assert_eq!(world.send(&reply), Fate::Opened, "its time is over, and it begins from the other side");
    assert_eq!(world.table.counters().expired, 1);
}

#[test]
fn each_protocol_has_its_time() {
    for (proto, first, exchange, stream) in
        [(17, 30, 30, 300), (1, 60, 30, 60), (47, 600, 600, 600), (0, 600, 600, 600), (255, 600, 600, 600)]
    {
        let mut world = World::new();
        let one = match proto {
            1 => ping(key(5, 1, 9), true),
            17 => udp(key(5, 17, 9)),
            _ => Segment {
                kind: SegmentKind::Other,
                ..udp(FlowKey { sport: 0, dport: 0, ..key(5, proto, 0) })
            },
        };
        let back = match proto {
            1 => ping(key(5, 1, 9), false),
            _ => one,
        };
        let back = Segment { key: one.key.reversed(), ..back };
        assert_eq!(world.send(&one), Fate::Opened);
        world.wait(first - 1);
        assert_eq!(world.send(&one), Fate::Passed(FlowState::Unreplied), "protocol {proto}");
        world.wait(first);
        assert!(world.flows().is_empty());
        assert_eq!(world.send(&one), Fate::Opened);
        assert_eq!(world.send(&back), Fate::Passed(FlowState::Replied));
        world.wait(1);
        assert_eq!(
            world.send(&one),
            Fate::Passed(FlowState::Replied),
            "protocol {proto}: not two seconds old"
        );
        world.wait(exchange - 1);
        assert_eq!(world.send(&one), Fate::Passed(FlowState::Stream), "protocol {proto}");
        world.wait(stream - 1);
        assert_eq!(world.send(&back), Fate::Passed(FlowState::Stream), "protocol {proto}");
        world.wait(stream);
        assert_eq!(world.send(&one), Fate::Opened);
        assert_eq!(world.send(&back), Fate::Passed(FlowState::Replied));
        world.wait(exchange);
        assert_eq!(world.send(&one), Fate::Opened, "protocol {proto}: it was one exchange");
    }
}

#[test]
fn two_networks_with_equal_keys_are_two_flows() {
    let mut world = World::new();
    assert_eq!(world.send(&udp(key(5, 17, 1))), Fate::Opened);
    assert_eq!(
        world.send(&udp(key(6, 17, 1).reversed())),
        Fate::Opened,
        "no reply of the other network's flow"
    );
    assert_eq!(world.send(&udp(key(5, 17, 1).reversed())), Fate::Passed(FlowState::Replied));
    assert_eq!(world.send(&udp(key(6, 17, 1).reversed())), Fate::Passed(FlowState::Unreplied));
    let of_six = FlowFilter { vni: Some(vni(6)), ..FlowFilter::default() };
    assert_eq!(world.table.kill(0, 100, &of_six, world.now), (1, None));
    assert_eq!(world.send(&udp(key(5, 17, 1))), Fate::Passed(FlowState::Replied));
}

#[test]
fn a_query_is_let_back_only_to_who_asked() {
    let mut world = World::new();
    let asked = key(5, 1, 77);
    let reply = |kind, code, id| Segment {
        kind: SegmentKind::Query(Query { request: false, kind, code }),
        ..ping(FlowKey { sport: id, dport: id, ..asked.reversed() }, false)
    };
    assert_eq!(world.send(&reply(8, 0, 77)), Fate::Dropped(DropReason::IcmpUnsolicited));
    assert_eq!(world.send(&ping(asked, true)), Fate::Opened);
    assert_eq!(world.send(&reply(8, 0, 78)), Fate::Dropped(DropReason::IcmpUnsolicited), "identifier");
    assert_eq!(world.send(&reply(13, 0, 77)), Fate::Dropped(DropReason::IcmpUnsolicited), "type");
    assert_eq!(world.send(&reply(8, 1, 77)), Fate::Dropped(DropReason::IcmpUnsolicited), "code");
    assert_eq!(world.send(&ping(asked, false)), Fate::Dropped(DropReason::IcmpUnsolicited), "answers itself");
    assert_eq!(world.send(&reply(8, 0, 77)), Fate::Passed(FlowState::Replied));
    let back = FlowKey { sport: 77, ..asked.reversed() };
    assert_eq!(world.send(&ping(back, true)), Fate::Opened, "a ping the other way is decided by itself");
    let other_type = SegmentKind::Query(Query { request: true, kind: 13, code: 0 });
    assert_eq!(
        world.send(&Segment { kind: other_type, ..ping(asked, true) }),
        Fate::Opened,
        "so is another type"
    );
}

#[test]
fn queries_are_told_from_the_rest_of_icmp() {
    let icmp = |kind| Icmp { kind, code: 0, id: 1 };
    for (kind, v4, expected) in [
        (8, true, Some((true, 8))),
        (0, true, Some((false, 8))),
        (14, true, Some((false, 13))),
        (18, true, Some((false, 17))),
        (128, false, Some((true, 128))),
        (129, false, Some((false, 128))),
        (3, true, None),
        (5, true, None),
        (0, false, None),
        (135, false, None),
    ] {
        let query = Query::of(icmp(kind), v4);
        assert_eq!(query.map(|query| (query.request, query.kind)), expected, "{kind} {v4}");
    }
}

#[test]
fn a_new_policy_is_asked_about_old_flows() {
    let mut world = World::new();
    let segment = udp(key(5, 17, 1));
    world.send(&segment);
    world.send(&Segment { key: segment.key.reversed(), ..segment });
    world.epoch = 2;
    let reply = Segment { key: segment.key.reversed(), ..segment };
    let Tracked::Stale { flow, original, .. } = world.table.track(&reply, &world.settings, 2, world.now)
    else {
        panic!("not stale");
    };
    assert_eq!(original, segment.key, "the decision is about the opener's packet");
    assert!(world.table.set_hint(flow, Direction::Reply, 99));
    assert!(
        world
            .table
            .confirm(flow, &Admitted { epoch: 2, egress_rule: 1, ingress_rule: 2, stateless: [false; 2] })
    );
    assert_eq!(
        world.table.track(&reply, &world.settings, 2, world.now),
        Tracked::Pass(Hit { flow, direction: Direction::Reply, hint: 0, settled: false, strays: false })
    );
    assert_eq!(world.table.info(flow).unwrap().reply.packets, 2, "the stale packet was counted once");
    world.epoch = 3;
    assert_eq!(world.send(&segment), Fate::Stale);
    assert!(world.table.refuse(flow, world.now));
    assert!(!world.table.refuse(flow, world.now) && !world.table.confirm(flow, &ALLOWED));
    assert_eq!(world.table.counters().refused, 1);
    assert_eq!(world.send(&segment), Fate::Opened);
    world.epoch = 4;
    world.settings.on_change = OnChange::Keep;
    assert_eq!(world.send(&segment), Fate::Passed(FlowState::Unreplied));
    assert_eq!(world.flows()[0].epoch, 3);
}

#[test]
fn hints_are_kept_by_direction() {
    let mut world = World::new();
    let segment = udp(key(5, 17, 1));
    let account = world.account(&segment.key);
    let hit = world.table.open(&segment, &ALLOWED, &world.settings, &account, world.now).unwrap();
    assert!(
        world.table.set_hint(hit.flow, Direction::Original, 7)
            && world.table.set_hint(hit.flow, Direction::Reply, 8)
    );
    for (key, direction, hint) in
        [(segment.key, Direction::Original, 7), (segment.key.reversed(), Direction::Reply, 8)]
    {
        let tracked = world.table.track(&Segment { key, ..segment }, &world.settings, 1, world.now);
        assert_eq!(
            tracked,
            Tracked::Pass(Hit { flow: hit.flow, direction, hint, settled: false, strays: false })
        );
    }
    let (killed, _) = world.table.kill(0, 10, &FlowFilter::default(), world.now);
    assert_eq!(killed, 1);
    world.send(&segment);
    assert!(!world.table.set_hint(hit.flow, Direction::Original, 7), "another flow lives in its place");
    assert_eq!(world.table.info(hit.flow), None);
}

fn related(world: &mut World, network: u32, quoted: Quoted, to: Addr) -> Tracked {
    let Quoted { src, dst, proto, sport, dport, .. } = quoted;
    let packet = FlowKey { src, dst, vni: vni(network), sport, dport, proto, leg: Leg::DIRECT };
    world.table.related(&packet, &quoted, to, &world.settings, world.epoch, world.now)
}

fn quote(key: FlowKey, seq: Option<u32>) -> Quoted {
    let FlowKey { src, dst, proto, sport, dport, .. } = key;
    Quoted { src, dst, proto, sport, dport, seq, icmp: None }
}

#[test]
fn icmp_errors_need_a_live_flow_that_sent_what_they_quote() {
    const NO: Tracked = Tracked::Drop(DropReason::IcmpUnrelated);
    let mut world = World::new();
    let sent = key(5, 17, 1);
    assert_eq!(related(&mut world, 5, quote(sent, None), sent.src), NO, "no flow");
    world.send(&udp(sent));
    assert_eq!(related(&mut world, 6, quote(sent, None), sent.src), NO, "another network");
    assert_eq!(related(&mut world, 5, quote(sent, None), sent.dst), NO, "towards the wrong side");
    assert_eq!(
        related(&mut world, 5, quote(sent.reversed(), None), sent.dst),
        NO,
        "the other side sent nothing yet"
    );
    let Tracked::Pass(hit) = related(&mut world, 5, quote(sent, None), sent.src) else { panic!("refused") };
    assert_eq!(hit.direction, Direction::Reply);
    let flow = world.flows()[0];
    assert!(!flow.replied && flow.reply.packets == 0, "an error is no answer");
    world.send(&udp(sent.reversed()));
    assert!(matches!(related(&mut world, 5, quote(sent.reversed(), None), sent.dst), Tracked::Pass(_)));
    world.epoch = 2;
    assert!(matches!(related(&mut world, 5, quote(sent, None), sent.src), Tracked::Stale { .. }));
    world.wait(300);
    assert_eq!(related(&mut world, 5, quote(sent, None), sent.src), NO, "its time is over");
}

#[test]
fn icmp_errors_quote_tcp_from_the_window() {
    let mut world = World::new();
    let (forth, back) = (key(5, 6, 1), key(5, 6, 1).reversed());
    world.send(&tcp(forth, tcp_flags::SYN, 1_000_000, 0, 0));
    assert!(matches!(related(&mut world, 5, quote(forth, Some(1_000_000)), forth.src), Tracked::Pass(_)));
    world.send(&tcp(back, tcp_flags::SYN | tcp_flags::ACK, 5000, 1_000_001, 0));
    world.send(&tcp(forth, tcp_flags::ACK, 1_000_001, 5001, 1000));
    for (seq, passes) in [
        (Some(1_000_001), true),
        (Some(1_001_001), true),
        (Some(1_001_002), false),
        (Some(900_000), false),
        (Some(3_000_000_000), false),
        (None, false),
    ] {
        let tracked = related(&mut world, 5, quote(forth, seq), forth.src);
        assert_eq!(matches!(tracked, Tracked::Pass(_)), passes, "{seq:?}");
    }
}

#[test]
fn icmp_errors_quote_queries_by_who_asked() {
    let mut world = World::new();
    let asked = ping(key(5, proto::ICMP, 7), true);
    world.send(&asked);
    let icmp = |kind| Some(Icmp { kind, code: 0, id: 7 });
    let request = Quoted { icmp: icmp(8), ..quote(asked.key, None) };
    assert!(matches!(related(&mut world, 5, request, asked.key.src), Tracked::Pass(_)));
    for kind in [0, 13] {
        let other = Quoted { icmp: icmp(kind), ..request };
        assert_eq!(related(&mut world, 5, other, asked.key.src), Tracked::Drop(DropReason::IcmpUnrelated));
    }
}

#[test]
fn time_runs_out_without_packets() {
    let mut world = World::new();
    assert_eq!(world.table.poll_timeout(), None);
    for n in 0..100 {
        world.send(&udp(key(5, 17, n)));
        world.wait(1);
    }
    // The last 29 opened are younger than 30 s, the one before is exactly that old.
    let due = world.table.poll_timeout().unwrap();
    assert!(due <= world.now);
    assert_eq!(world.table.handle_timeout(world.now, 10), 10, "as much as the budget allows");
    assert_eq!(world.table.len(), 90);
    while world.table.handle_timeout(world.now, 10) == 10 {}
    assert_eq!(world.table.len(), 29);
    let due = world.table.poll_timeout().unwrap();
    assert!(due > world.now && due <= world.now + Duration::from_millis(1250), "{due:?} at {:?}", world.now);
    world.now = due;
    assert_eq!(world.table.handle_timeout(due, 100), 1);
    world.wait(1_000_000);
    world.table.handle_timeout(world.now, 1000);
    assert_eq!((world.table.len(), world.table.poll_timeout()), (0, None));
    assert_eq!((world.quota.in_use(), world.table.counters().expired), (FlowUse::default(), 100));
}

#[test]
fn flows_longer_than_the_wheel_come_to_their_end() {
    let mut world = World::new();
    let (forth, back) = (key(5, 6, 1), key(5, 6, 1).reversed());
    let start = world.now;
    world.send(&tcp(forth, tcp_flags::SYN, 1000, 0, 0));
    world.send(&tcp(back, tcp_flags::SYN | tcp_flags::ACK, 5000, 1001, 0));
    world.send(&tcp(forth, tcp_flags::ACK, 1001, 5001, 0));
    let mut visits = 0;
    while let Some(due) = world.table.poll_timeout() {
        visits += world.table.handle_timeout(due, 1);
        world.now = due;
    }
    let took = world.now.since(start);
    assert!(took >= Duration::from_secs(7440) && took < Duration::from_millis(7_440_500), "{took:?}");
    assert!(visits <= 12, "{visits}");
    assert_eq!(world.table.counters().expired, 1);
}

#[test]
fn a_deadline_that_comes_nearer_is_kept() {
    let mut world = World::new();
    let (forth, back) = (key(5, 6, 1), key(5, 6, 1).reversed());
    world.send(&tcp(forth, tcp_flags::SYN, 1000, 0, 0));
    world.send(&tcp(back, tcp_flags::SYN | tcp_flags::ACK, 5000, 1001, 0));
    world.send(&tcp(forth, tcp_flags::ACK, 1001, 5001, 0));
    world.send(&tcp(forth, tcp_flags::RST, 1001, 0, 0));
    let due = world.table.poll_timeout().unwrap();
    assert!(due.since(world.now) <= Duration::from_millis(10_250));
    world.table.handle_timeout(due, 10);
    assert_eq!((world.table.len(), world.table.counters().closed), (0, 1));
}

#[test]
fn events_tell_what_happened_and_are_bounded() {
    let mut world = World::new();
    world.table.keep_events(3);
    for n in 0..3 {
        world.send(&udp(key(5, 17, n)));
    }
    world.table.kill(0, 1, &FlowFilter::default(), world.now);
    assert_eq!(world.table.counters().events_lost, 1);
    let event = world.table.pop_event().unwrap();
    assert_eq!((event.at, event.what, event.flow.key), (world.now, Happening::Opened, key(5, 17, 0)));
    world.table.kill(0, 10, &FlowFilter { port: Some(1), ..FlowFilter::default() }, world.now);
    let last = std::iter::from_fn(|| world.table.pop_event()).last().unwrap();
    assert_eq!((last.what, last.flow.key), (Happening::Ended(Ending::Killed), key(5, 17, 1)));
}

#[test]
fn filters_choose() {
    let mut world = World::new();
    world.send(&udp(key(5, 17, 1)));
    world.send(&udp(key(5, 17, 2)));
    world.send(&udp(key(6, 17, 2).reversed()));
    world.send(&tcp(key(5, 6, 2), tcp_flags::SYN, 1, 0, 0));
    world.send(&udp(key(5, 17, 1).reversed()));
    let all = FlowFilter::default();
    let (a, b) = (key(5, 17, 1).src, key(5, 17, 1).dst);
    for (filter, expected) in [
        (all, 4),
        (FlowFilter { vni: Some(vni(5)), ..all }, 3),
        (FlowFilter { proto: Some(6), ..all }, 1),
        (FlowFilter { port: Some(2), ..all }, 3),
        (FlowFilter { addr: Some(a), ..all }, 4),
        (FlowFilter { addr: Some(b), peer: Some(a), ..all }, 4),
        (FlowFilter { addr: Some(a), peer: Some(a), ..all }, 0),
        (FlowFilter { rule: Some(22), ..all }, 4),
        (FlowFilter { rule: Some(23), ..all }, 0),
        (FlowFilter { replied: Some(true), ..all }, 1),
        (FlowFilter { vni: Some(vni(5)), replied: Some(false), ..all }, 2),
    ] {
        let mut out = Vec::new();
        assert_eq!(world.table.page(0, 100, &filter, world.now, &mut out), None);
        assert_eq!(out.len(), expected, "{filter:?}");
    }
    assert_eq!(world.flows().len(), 4, "in pages");
}

#[test]
fn both_directions_meet_in_one_shard() {
    let sharding = Sharding::new(RandomState::with_seeds(9, 8, 7, 6), 8);
    let mut used = [0u32; 8];
    for n in 0..8000 {
        let key = key(5, 17, n);
        let shard = sharding.shard(&key);
        assert_eq!(shard, sharding.shard(&key.reversed()));
        used[shard as usize] += 1;
    }
    assert!(used.iter().all(|&count| (800..1200).contains(&count)), "{used:?}");
}

/// The figure the README promises: a million flows in 400 MB, with everything that belongs to them.
#[test]
fn a_million_flows_fit() {
    const FLOWS: u32 = 1_000_000;
    let mut world = World::new();
    world.table = FlowTable::new(RandomState::with_seeds(1, 2, 3, 4), FLOWS);
    let account = world.account(&key(5, 17, 1));
    for n in 0..FLOWS {
        let key =
            FlowKey { src: Addr::v4((n / 60_000 + 1).to_be_bytes()), ..key(5, 17, (n % 60_000) as u16) };
        world.table.open(&udp(key), &ALLOWED, &world.settings, &account, world.now).unwrap();
        let _ = world.table.track(&udp(key.reversed()), &world.settings, 1, world.now);
    }
    assert_eq!((world.table.len(), account.in_use().replied), (FLOWS, FLOWS));
    let each = world.table.memory() as f64 / f64::from(FLOWS);
    assert!(each <= 248.0, "{each:.1} bytes each");
}

fn any_segment() -> impl Strategy<Value = Segment> {
    let numbers =
        (any::<u8>(), any::<u32>(), any::<u32>(), any::<u16>(), any::<u16>(), proptest::option::of(0u8..15));
    (0u16..3, any::<bool>(), 0u8..7, numbers, any::<u8>()).prop_map(|(n, back, kind, numbers, noise)| {
        let (flags, seq, ack, window, payload, scale) = numbers;
        let key = key(5, [6, 6, 17, 1, 47, 6, 132][usize::from(kind)], n);
        let key = if back { key.reversed() } else { key };
        let query = Query { request: noise & 1 == 0, kind: 8, code: noise & 2 };
        let mut segment = tcp(key, flags, seq, ack, payload);
        match (&mut segment.kind, kind) {
            (SegmentKind::Tcp(tcp), 0 | 1) => {
                tcp.window = window;
                tcp.window_scale = scale;
                if noise & 7 != 0 {
                    // Mostly near each other, so that connections do come about.
                    (tcp.seq, tcp.ack) = (seq % 8, ack % 8);
                    tcp.payload = payload % 8;
                    tcp.flags = [0x02, 0x12, 0x10, 0x11, 0x10, 0x04, 0x18, 0x14][usize::from(flags & 7)];
                }
            }
            (kind, 2) => *kind = SegmentKind::Udp,
            (kind, 3) => *kind = SegmentKind::Query(query),
            (kind, 4) => *kind = SegmentKind::Other,
            (kind, 6) => {
                let all =
                    [Chunks::INIT, Chunks::INIT_ACK, Chunks::COOKIE_ECHO, Chunks::COOKIE_ACK, Chunks::DATA]
                        .into_iter()
                        .chain([
                            Chunks::ABORT,
                            Chunks::SHUTDOWN,
                            Chunks::SHUTDOWN_ACK,
                            Chunks::SHUTDOWN_COMPLETE,
                        ])
                        .chain([Chunks::HEARTBEAT, Chunks::HEARTBEAT_ACK]);
                let chunks = all.clone().nth(usize::from(flags) % 11).unwrap();
                let tag = if chunks == Chunks::INIT { 0 } else { 1 + ack % 2 };
                let (initiate, reflects) = (1 + seq % 2, noise & 4 != 0);
                *kind = SegmentKind::Sctp(Sctp { sport: n, dport: 443, tag, chunks, initiate, reflects });
            }
            (kind, _) => *kind = SegmentKind::Later(Later { query: None, tcp_end: Some(seq) }),
        }
        segment
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever comes, the table neither panics nor loses count.
    #[test]
    fn noise(segments in proptest::collection::vec((any_segment(), 0u64..20, 0u32..8), 1..200), loose in any::<bool>()) {
        let limits = FlowLimits { replied: 3, unreplied: 3 };
        let mut world = World::limited(PLENTY, limits);
        world.settings.loose = loose;
        for (segment, wait, action) in segments {
            world.wait(wait);
            match action {
                0 => { world.table.handle_timeout(world.now, 2); }
                1 => world.epoch += 1,
                2 => { world.table.kill(0, 1, &FlowFilter::default(), world.now); }
                _ => {}
            }
            if world.send(&segment) == Fate::Stale {
                let Tracked::Stale { flow, .. } = world.table.track(&segment, &world.settings, world.epoch, world.now) else {
                    panic!("stale once, stale until confirmed");
                };
                world.table.confirm(flow, &Admitted { epoch: world.epoch, ..ALLOWED });
                prop_assert!(world.send(&segment) != Fate::Stale);
            }
            let used = world.quota.in_use();
            prop_assert!(used.replied <= 3 && used.unreplied <= 3);
            prop_assert_eq!(used.replied + used.unreplied, world.table.len());
        }
        world.wait(100_000);
        while world.table.handle_timeout(world.now, 100) == 100 {}
        prop_assert_eq!((world.table.len(), world.quota.in_use()), (0, FlowUse::default()));
    }
}

/// What has passed is for those who had admitted the flow by then.
#[test]
fn a_flow_counts_for_those_who_admitted_it_when_it_passed() {
    let mut world = World::new();
    world.table.keep_finished();
    let segment = udp(key(1, proto::UDP, 1));
    world.send(&segment);
    world.send(&segment);
    let hit = world.table.page(0, 10, &FlowFilter::default(), world.now, &mut Vec::new());
    assert_eq!((hit, world.table.pop_finished()), (None, None));
    world.epoch = 2;
    let tracked = world.table.track(&segment, &world.settings, 2, world.now);
    let Tracked::Stale { flow, .. } = tracked else { panic!("{tracked:?}") };
    let other = Admitted { epoch: 2, egress_rule: 5, ingress_rule: 6, stateless: [false; 2] };
    assert!(world.table.confirm(flow, &Admitted { epoch: 2, ..ALLOWED }));
    assert_eq!(world.table.pop_finished(), None, "the same rules admit it again");
    assert!(world.table.confirm(flow, &other));
    let before = world.table.pop_finished().unwrap();
    assert_eq!((before.admitted.egress_rule, before.count), (11, Count { packets: 2, bytes: 200 }));
    assert_eq!(world.flows()[0].counted, before.count);
    for _ in 0..3 {
        world.send(&segment);
    }
    world.table.kill(0, 10, &FlowFilter::default(), world.now);
    let after = world.table.pop_finished().unwrap();
    assert_eq!((after.admitted, after.count), (other, Count { packets: 3, bytes: 300 }));
    world.send(&segment);
    assert_eq!(world.flows()[0].counted, Count::default(), "another flow in the same place");
}
