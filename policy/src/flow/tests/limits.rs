//! Limits: exact, and who makes room.

use std::collections::VecDeque;

use eastgate_wire::view::tcp_flags;

use super::*;

const fn limits(answered: u32, unanswered: u32) -> FlowLimits {
    FlowLimits { answered, unanswered }
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
fn a_flood_puts_out_no_answered_flow_and_no_other_network() {
    let mut world = World::limited(limits(1000, 1000), limits(500, 50));
    world.send(&udp(key(5, 17, 1)));
    world.send(&udp(key(5, 17, 1).reversed()));
    for n in 0..50 {
        world.send(&udp(key(6, 17, n)));
    }
    for n in 100..10_000 {
        assert_eq!(world.send(&tcp(key(5, 6, n), tcp_flags::SYN, 1, 0, 0)), Fate::Opened);
    }
    assert_eq!(world.send(&udp(key(5, 17, 1))), Fate::Passed(FlowState::Answered));
    for n in 0..50 {
        assert_eq!(world.send(&udp(key(6, 17, n))), Fate::Passed(FlowState::Unanswered));
    }
    assert_eq!(world.page(vni(5)).in_use(), FlowUse { answered: 1, unanswered: 50 });
}

#[test]
fn a_handshake_counts_as_an_answer_when_it_is_complete() {
    let mut world = World::limited(limits(100, 100), limits(1, 100));
    for n in 1..=2 {
        world.send(&tcp(key(5, 6, n), tcp_flags::SYN, 1000, 0, 0));
        world.send(&tcp(key(5, 6, n).reversed(), tcp_flags::SYN | tcp_flags::ACK, 5000, 1001, 0));
    }
    assert_eq!(world.quota.in_use(), FlowUse { answered: 0, unanswered: 2 });
    let ack = |n| tcp(key(5, 6, n), tcp_flags::ACK, 1001, 5001, 0);
    assert_eq!(world.send(&ack(1)), Fate::Passed(FlowState::Established));
    assert_eq!(world.send(&ack(2)), Fate::Dropped(DropReason::FlowLimit));
    assert_eq!(world.quota.in_use(), FlowUse { answered: 1, unanswered: 1 });
    assert_eq!(world.send(&tcp(key(5, 6, 1), tcp_flags::RST, 1001, 0, 0)), Fate::Passed(FlowState::Close));
    world.wait(10);
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
fn a_limit_that_is_lowered_cuts_nothing_and_lets_nothing_in() {
    let mut world = World::limited(limits(100, 100), limits(100, 100));
    for n in 0..10 {
        world.send(&udp(key(5, 17, n)));
        world.send(&udp(key(5, 17, n).reversed()));
    }
    world.limits = limits(5, 5);
    assert_eq!(world.page(vni(5)).in_use().answered, 10);
    assert_eq!(world.send(&udp(key(5, 17, 77))), Fate::Opened);
    assert_eq!(world.send(&udp(key(5, 17, 77).reversed())), Fate::Dropped(DropReason::FlowLimit));
    assert_eq!(world.send(&udp(key(5, 17, 3))), Fate::Passed(FlowState::Answered));
}

/// The simplest thing that has limits: two lists.
#[derive(Default)]
struct Reference {
    unanswered: VecDeque<FlowKey>,
    answered: Vec<FlowKey>,
}

impl Reference {
    fn of(list: impl IntoIterator<Item = FlowKey>, vni: Vni) -> usize {
        list.into_iter().filter(|key| key.vni == vni).count()
    }

    fn send(&mut self, key: FlowKey, total: FlowLimits, network: FlowLimits) -> Fate {
        if self.answered.contains(&key) || self.answered.contains(&key.reversed()) {
            return Fate::Passed(FlowState::Answered);
        }
        if self.unanswered.contains(&key) {
            return Fate::Passed(FlowState::Unanswered);
        }
        if let Some(at) = self.unanswered.iter().position(|known| *known == key.reversed()) {
            let own = Self::of(self.answered.iter().copied(), key.vni);
            if self.answered.len() >= total.answered as usize || own >= network.answered as usize {
                return Fate::Dropped(DropReason::FlowLimit);
            }
            self.answered.extend(self.unanswered.remove(at));
            return Fate::Passed(FlowState::Answered);
        }
        let own = Self::of(self.unanswered.iter().copied(), key.vni);
        let victim = if own >= network.unanswered as usize {
            self.unanswered.iter().position(|known| known.vni == key.vni)
        } else if self.unanswered.len() >= total.unanswered as usize {
            Some(0)
        } else {
            self.unanswered.push_back(key);
            return Fate::Opened;
        };
        match victim {
            Some(at) if at < self.unanswered.len() => {
                self.unanswered.remove(at);
                self.unanswered.push_back(key);
                Fate::Opened
            }
            _ => Fate::Dropped(DropReason::FlowLimit),
        }
    }

    fn kill(&mut self, port: u16) {
        self.unanswered.retain(|key| key.sport != port && key.dport != port);
        self.answered.retain(|key| key.sport != port && key.dport != port);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// The table and the two lists agree about every packet.
    #[test]
    fn limits_are_exact(
        total in (0u32..6, 0u32..6),
        network in (0u32..4, 0u32..4),
        packets in proptest::collection::vec((5u32..8, 1u16..8, any::<bool>(), 0u8..12), 1..250),
    ) {
        let (total, network) = (limits(total.0, total.1), limits(network.0, network.1));
        let mut world = World::limited(total, network);
        let mut reference = Reference::default();
        for (vni, n, back, action) in packets {
            if action == 0 {
                world.table.kill(0, 100, &FlowFilter { port: Some(n), ..FlowFilter::default() }, world.now);
                reference.kill(n);
            }
            let key = key(vni, 17, n);
            let key = if back { key.reversed() } else { key };
            prop_assert_eq!(world.send(&udp(key)), reference.send(key, total, network));
            let used = world.quota.in_use();
            prop_assert_eq!(used.answered as usize, reference.answered.len());
            prop_assert_eq!(used.unanswered as usize, reference.unanswered.len());
        }
        let mut held: Vec<_> = world.flows().iter().map(|flow| flow.key).collect();
        let mut expected: Vec<_> = reference.answered.iter().chain(&reference.unanswered).copied().collect();
        held.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(held, expected);
    }
}
