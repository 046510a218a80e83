//! Limits: exact, and who makes room.

use eastgate_wire::view::tcp_flags;

use super::*;

const fn limits(replied: u32, unreplied: u32) -> FlowLimits {
    FlowLimits { replied, unreplied }
}

fn has(world: &World, key: FlowKey) -> bool {
    world.flows().iter().any(|flow| flow.key == key)
}

#[test]
fn the_oldest_of_the_network_goes_first() {
    let mut world = World::limited(limits(100, 100), limits(100, 2));
    for (network, n) in [(6, 1), (5, 1), (5, 2), (5, 3)] {
        assert_eq!(world.send(&udp(key(network, 17, n))), Fate::Opened);
        world.wait(1);
    }
    assert!(has(&world, key(6, 17, 1)), "older, but of another network");
    assert!(!has(&world, key(5, 17, 1)) && has(&world, key(5, 17, 2)) && has(&world, key(5, 17, 3)));
    assert_eq!(world.table.counters().evicted, 1);
}

#[test]
fn the_oldest_of_all_goes_when_the_host_is_full() {
    let mut world = World::limited(limits(100, 3), limits(100, 100));
    for (network, n) in [(5, 1), (6, 1), (5, 2), (7, 1), (7, 2)] {
        assert_eq!(world.send(&udp(key(network, 17, n))), Fate::Opened);
    }
    let left: Vec<_> = world.flows().iter().map(|flow| (flow.key.vni.get(), flow.key.sport)).collect();
    assert!(
        left.len() == 3 && left.contains(&(5, 2)) && left.contains(&(7, 1)) && left.contains(&(7, 2)),
        "{left:?}"
    );
}

#[test]
fn a_flood_puts_out_no_replied_flow_and_no_other_network() {
    let mut world = World::limited(limits(1000, 1000), limits(500, 50));
    world.send(&udp(key(5, 17, 1)));
    world.send(&udp(key(5, 17, 1).reversed()));
    for n in 0..50 {
        world.send(&udp(key(6, 17, n)));
    }
    for n in 100..10_000 {
        assert_eq!(world.send(&tcp(key(5, 6, n), tcp_flags::SYN, 1, 0, 0)), Fate::Opened);
    }
    assert_eq!(world.send(&udp(key(5, 17, 1))), Fate::Passed(FlowState::Replied));
    for n in 0..50 {
        assert_eq!(world.send(&udp(key(6, 17, n))), Fate::Passed(FlowState::Unreplied));
    }
    assert_eq!(world.page(vni(5)).in_use(), FlowUse { replied: 1, unreplied: 50 });
}

#[test]
fn a_handshake_counts_as_an_answer_when_it_is_complete() {
    let mut world = World::limited(limits(100, 100), limits(1, 100));
    for n in 1..=2 {
        world.send(&tcp(key(5, 6, n), tcp_flags::SYN, 1000, 0, 0));
        world.send(&tcp(key(5, 6, n).reversed(), tcp_flags::SYN | tcp_flags::ACK, 5000, 1001, 0));
    }
    assert_eq!(world.quota.in_use(), FlowUse { replied: 0, unreplied: 2 });
    let ack = |n| tcp(key(5, 6, n), tcp_flags::ACK, 1001, 5001, 0);
    assert_eq!(world.send(&ack(1)), Fate::Passed(FlowState::Established));
    assert_eq!(world.send(&ack(2)), Fate::Dropped(DropReason::FlowLimit));
    assert_eq!(world.quota.in_use(), FlowUse { replied: 1, unreplied: 1 });
    assert_eq!(world.send(&tcp(key(5, 6, 1), tcp_flags::RST, 1001, 0, 0)), Fate::Passed(FlowState::Close));
    assert_eq!(
        world.send(&ack(2)),
        Fate::Passed(FlowState::Established),
        "what has ended makes room at once"
    );
}

#[test]
fn other_shards_flows_do_not_make_room_here() {
    let mut world = World::limited(limits(10, 1), limits(10, 10));
    assert_eq!(world.send(&udp(key(5, 17, 1))), Fate::Opened);
    let first = std::mem::replace(&mut world.table, FlowTable::new(RandomState::with_seeds(4, 3, 2, 1), 16));
    assert_eq!(world.send(&udp(key(5, 17, 2))), Fate::Dropped(DropReason::FlowLimit));
    assert_eq!(world.table.counters().limited, 1);
    drop(first);
    assert_eq!(world.quota.in_use(), FlowUse::default(), "a table that goes gives back what it held");
    assert_eq!(world.send(&udp(key(5, 17, 2))), Fate::Opened);
}

#[test]
fn a_limit_that_is_lowered_cuts_nothing_until_something_new_comes() {
    let mut world = World::limited(limits(100, 100), limits(100, 100));
    for n in 0..10 {
        world.send(&udp(key(5, 17, n)));
        world.send(&udp(key(5, 17, n).reversed()));
    }
    world.limits = limits(5, 5);
    assert_eq!(world.page(vni(5)).in_use().replied, 10);
    assert_eq!(world.send(&udp(key(5, 17, 77))), Fate::Opened);
    assert_eq!(world.send(&udp(key(5, 17, 3))), Fate::Passed(FlowState::Replied));
    assert_eq!(world.send(&udp(key(5, 17, 77).reversed())), Fate::Passed(FlowState::Replied));
    assert_eq!(world.page(vni(5)).in_use().replied, 5, "those that are left are as many as fit");
}

/// A whole connection, until it is over.
fn connect(world: &mut World, key: FlowKey, until: FlowState) -> Fate {
    use FlowState::{Established, TimeWait};
    use tcp_flags::{ACK, FIN, SYN};
    let back = key.reversed();
    assert_eq!(world.send(&tcp(key, SYN, 1000, 0, 0)), Fate::Opened);
    world.send(&tcp(back, SYN | ACK, 5000, 1001, 0));
    let established = world.send(&tcp(key, ACK, 1001, 5001, 0));
    if established != Fate::Passed(Established) || until == Established {
        return established;
    }
    assert_eq!(until, TimeWait);
    world.send(&tcp(key, FIN | ACK, 1001, 5001, 0));
    world.send(&tcp(back, FIN | ACK, 5001, 1002, 0));
    world.send(&tcp(key, ACK, 1002, 5002, 0))
}

#[test]
fn the_cheapest_makes_room_and_a_connection_never_does() {
    const LIMIT: u16 = 40;
    let mut world = World::limited(limits(1000, 1000), limits(LIMIT.into(), 10));
    assert_eq!(
        connect(&mut world, key(5, 6, 9000), FlowState::Established),
        Fate::Passed(FlowState::Established)
    );
    let stream = udp(key(5, 17, 9001));
    for segment in [stream, udp(stream.key.reversed()), stream] {
        world.send(&segment);
        world.wait(3);
    }
    // An hour later it is idle, and busy streams and exchanges fill the network's limit.
    world.wait(3600);
    assert_eq!(world.send(&stream), Fate::Opened);
    world.send(&udp(stream.key.reversed()));
    world.wait(3);
    assert_eq!(world.send(&stream), Fate::Passed(FlowState::Stream));
    for n in 1..2000 {
        assert_eq!(connect(&mut world, key(5, 6, n), FlowState::TimeWait), Fate::Passed(FlowState::TimeWait));
        world.send(&udp(key(5, 17, n)));
        assert_eq!(world.send(&udp(key(5, 17, n).reversed())), Fate::Passed(FlowState::Replied));
        assert!(world.page(vni(5)).in_use().replied <= LIMIT.into());
    }
    let room = world.table.counters().made_room;
    assert!(room[Rank::Finished as usize] > 1900 && room[Rank::Exchange as usize] > 1900, "{room:?}");
    assert_eq!((room[Rank::Stream as usize], room[Rank::Connection as usize]), (0, 0));
    assert_eq!(world.send(&stream), Fate::Passed(FlowState::Stream));
    assert_eq!(
        world.send(&tcp(key(5, 6, 9000), tcp_flags::ACK, 1001, 5001, 1)),
        Fate::Passed(FlowState::Established)
    );
    // Connections alone fill it: the stream goes once it is idle, and then nobody does.
    let fates = |world: &mut World, from: u16| -> Vec<Fate> {
        (from..from + LIMIT).map(|n| connect(world, key(5, 6, n), FlowState::Established)).collect()
    };
    let refused =
        |fates: &[Fate]| fates.iter().filter(|fate| **fate == Fate::Dropped(DropReason::FlowLimit)).count();
    let first = fates(&mut world, 10_000);
    assert_eq!(refused(&first), 2, "the one before, and the stream in use");
    world.wait(61);
    assert_eq!(
        connect(&mut world, key(5, 6, 20_000), FlowState::Established),
        Fate::Passed(FlowState::Established)
    );
    assert_eq!(world.table.counters().made_room[Rank::Stream as usize], 1);
    assert_eq!(
        connect(&mut world, key(5, 6, 20_001), FlowState::Established),
        Fate::Dropped(DropReason::FlowLimit)
    );
}

#[test]
fn an_endpoint_uses_up_its_own_limit_and_no_more() {
    let mut world = World::limited(limits(1000, 1000), limits(100, 100));
    world.endpoint = limits(10, 10);
    let other = FlowKey { src: Addr::v4([10, 1, 0, 12]), ..key(5, 6, 1) };
    assert_eq!(connect(&mut world, other, FlowState::Established), Fate::Passed(FlowState::Established));
    let waiting = FlowKey { sport: 2, ..other };
    assert_eq!(world.send(&tcp(waiting, tcp_flags::SYN, 1, 0, 0)), Fate::Opened);
    for n in 1..=10 {
        assert_eq!(
            connect(&mut world, key(5, 6, n), FlowState::Established),
            Fate::Passed(FlowState::Established)
        );
    }
    for n in 11..500 {
        assert_eq!(world.send(&tcp(key(5, 6, n), tcp_flags::SYN, 1000, 0, 0)), Fate::Opened);
        world.send(&tcp(key(5, 6, n).reversed(), tcp_flags::SYN | tcp_flags::ACK, 5000, 1001, 0));
        assert_eq!(
            world.send(&tcp(key(5, 6, n), tcp_flags::ACK, 1001, 5001, 0)),
            Fate::Dropped(DropReason::FlowLimit)
        );
    }
    assert_eq!(world.account(&key(5, 6, 1)).in_use(), FlowUse { replied: 10, unreplied: 10 });
    assert!(has(&world, waiting), "it waited longest, and is another's");
    assert_eq!(world.account(&other).in_use(), FlowUse { replied: 1, unreplied: 1 });
    assert_eq!(
        connect(&mut world, FlowKey { sport: 3, ..other }, FlowState::Established),
        Fate::Passed(FlowState::Established)
    );
}

/// The simplest thing that has limits and ranks: one list.
#[derive(Default)]
struct Reference {
    flows: Vec<Known>,
    clock: u64,
}

struct Known {
    key: FlowKey,
    replied: bool,
    state: FlowState,
    created: Instant,
    last_seen: Instant,
    /// When it came to its rank, or was looked at last
    since: u64,
}

impl Known {
    fn population(&self) -> Population {
        if self.replied { Population::Replied } else { Population::Unreplied }
    }
}

impl Reference {
    /// One more of a population, opened by `payer`.
    fn take(
        &mut self,
        payer: FlowKey,
        of: Population,
        [total, network, endpoint]: [u32; 3],
        now: Instant,
    ) -> bool {
        for _ in 0..17 {
            let own = |known: &Known| known.key.vni == payer.vni && known.key.src == payer.src;
            let near = |known: &Known| known.key.vni == payer.vni;
            let all = |_: &Known| true;
            let count = |fits: &dyn Fn(&Known) -> bool| {
                self.flows.iter().filter(|known| known.population() == of && fits(known)).count() as u32
            };
            let full: &dyn Fn(&Known) -> bool = if count(&own) >= endpoint {
                &own
            } else if count(&near) >= network {
                &near
            } else if count(&all) >= total {
                &all
            } else {
                return true;
            };
            let Some(victim) = of.making_room().iter().find_map(|rank| self.cheapest(full, *rank, now))
            else {
                return false;
            };
            self.flows.remove(victim);
        }
        false
    }

    fn cheapest(&mut self, fits: &dyn Fn(&Known) -> bool, rank: Rank, now: Instant) -> Option<usize> {
        for _ in 0..16 {
            let of_rank = |known: &Known| Rank::of(known.state, known.replied) == rank && fits(known);
            let (at, _) =
                self.flows.iter().enumerate().filter(|(_, it)| of_rank(it)).min_by_key(|(_, it)| it.since)?;
            if rank != Rank::Stream || self.flows[at].last_seen + STREAM_IDLE <= now {
                return Some(at);
            }
            self.clock += 1;
            self.flows[at].since = self.clock;
        }
        None
    }

    fn send(&mut self, key: FlowKey, limits: [FlowLimits; 3], now: Instant) -> Fate {
        self.clock += 1;
        let clock = self.clock;
        let found = self.flows.iter().position(|known| known.key == key || known.key == key.reversed());
        let Some(at) = found else {
            if !self.take(key, Population::Unreplied, limits.map(|limits| limits.unreplied), now) {
                return Fate::Dropped(DropReason::FlowLimit);
            }
            let state = FlowState::Unreplied;
            self.flows.push(Known { key, replied: false, state, created: now, last_seen: now, since: clock });
            return Fate::Opened;
        };
        let opener = self.flows[at].key;
        if !self.flows[at].replied && opener != key {
            if !self.take(opener, Population::Replied, limits.map(|limits| limits.replied), now) {
                return Fate::Dropped(DropReason::FlowLimit);
            }
            let Some(known) = self.flows.iter_mut().find(|known| known.key == opener) else { panic!("gone") };
            (known.replied, known.state, known.since, known.last_seen) =
                (true, FlowState::Replied, clock, now);
            return Fate::Passed(FlowState::Replied);
        }
        let known = &mut self.flows[at];
        known.last_seen = now;
        if known.state == FlowState::Replied && now >= known.created + STREAM_AFTER {
            (known.state, known.since) = (FlowState::Stream, clock);
        }
        Fate::Passed(known.state)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// The table and the list agree about every packet: who is let in, and who makes room for it.
    #[test]
    fn limits_are_exact(
        total in (0u32..6, 0u32..6),
        network in (0u32..4, 0u32..4),
        endpoint in (0u32..4, 0u32..4),
        packets in proptest::collection::vec((5u32..8, 1u16..8, 0u8..2, any::<bool>(), 0u8..12, 0u64..40), 1..250),
    ) {
        let [total, network, endpoint] = [total, network, endpoint].map(|it| limits(it.0, it.1));
        let mut world = World { endpoint, ..World::limited(total, network) };
        let long = Duration::from_secs(1_000_000);
        let timeouts = &mut world.settings.timeouts;
        (timeouts.udp_first, timeouts.udp_exchange, timeouts.udp_replied) = (long, long, long);
        let mut reference = Reference::default();
        for (vni, n, from, back, action, wait) in packets {
            if action == 0 {
                world.table.kill(0, 100, &FlowFilter { port: Some(n), ..FlowFilter::default() }, world.now);
                reference.flows.retain(|known| known.key.sport != n && known.key.dport != n);
            }
            if action == 1 {
                world.wait(wait);
            }
            let key = FlowKey { src: Addr::v4([10, 1, 0, 11 + from]), ..key(vni, 17, n) };
            let key = if back { key.reversed() } else { key };
            prop_assert_eq!(world.send(&udp(key)), reference.send(key, [total, network, endpoint], world.now));
            let used = world.quota.in_use();
            let count = |replied| reference.flows.iter().filter(|known| known.replied == replied).count();
            prop_assert_eq!((used.replied as usize, used.unreplied as usize), (count(true), count(false)));
        }
        let mut held: Vec<_> = world.flows().iter().map(|flow| flow.key).collect();
        let mut expected: Vec<_> = reference.flows.iter().map(|known| known.key).collect();
        held.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(held, expected);
    }
}
