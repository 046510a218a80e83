//! Datagrams in fragments, well made and not.

use eastgate_wire::{
    FlowKey, Leg, View,
    view::{HeaderBits, Icmp, Tcp},
};
use proptest::prelude::*;

use super::*;

const UDP: u8 = 17;
const ICMP: u8 = 1;
const HINT: u64 = 0xdecd;

struct World {
    table: FragmentTable,
    settings: FragmentSettings,
    now: Instant,
    allows: bool,
    /// How many frames have waited for a first that came
    released: usize,
}

/// A frame of so many bytes.
fn waiting(len: usize) -> Waiting {
    let from = eastgate_wire::Location::Local(eastgate_wire::AttachmentId(1));
    Waiting { from, frame: vec![0; len].into(), offload: Default::default() }
}

/// What happened to a fragment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    First,
    Passed,
    Waits,
    Dropped(DropReason),
}
use Fate::{Dropped, First, Passed, Waits};

impl World {
    fn new() -> Self {
        Self {
            table: FragmentTable::new(RandomState::with_seeds(1, 2, 3, 4), 100),
            settings: FragmentSettings::default(),
            now: Instant::from_secs(1000),
            allows: true,
            released: 0,
        }
    }

    fn send(&mut self, number: u32, ip: &Ip) -> Fate {
        match self.table.check(vni(number), ip, &self.settings, self.now) {
            FragmentStep::Whole => panic!("a fragment"),
            FragmentStep::Early(id) => {
                let frame = waiting(ip.l4_len.into());
                self.table.hold(id, frame, &self.settings).map_or_else(Dropped, |()| Waits)
            }
            FragmentStep::First(id) => {
                let segment = Segment::of(vni(number), ip, 1, u32::from(ip.l4_len));
                self.released += self
                    .table
                    .settle(
                        id,
                        if self.allows {
                            Verdict::Allowed { first: segment, hint: HINT }
                        } else {
                            Verdict::Refused
                        },
                    )
                    .len();
                First
            }
            FragmentStep::Later { segment, hint, .. } => {
                assert_eq!(hint, HINT);
                let key = segment.unwrap().key;
                assert_eq!((key.sport, key.dport, key.vni), (7, 53, vni(number)), "the ports of the first");
                Passed
            }
            FragmentStep::Drop(reason) => Dropped(reason),
        }
    }

    fn send_all(&mut self, pieces: &[(u16, u16, bool, Fate)]) {
        for &(offset, len, more, fate) in pieces {
            assert_eq!(self.send(5, &udp(1, offset, len, more)), fate, "{offset}+{len} in {pieces:?}");
        }
    }
}

fn vni(number: u32) -> Vni {
    Vni::new_checked(number).unwrap()
}

/// A fragment of a UDP datagram from port 7 to port 53.
fn udp(id: u32, offset: u16, len: u16, more: bool) -> Ip {
    let transport = match offset {
        0 if len < 8 => Transport::Incomplete,
        0 => Transport::Udp { sport: 7, dport: 53 },
        _ => Transport::LaterFragment,
    };
    Ip {
        src: Addr::v4([10, 1, 0, 11]),
        dst: Addr::v4([10, 1, 0, 21]),
        proto: UDP,
        ttl: 64,
        tos: 0,
        options: false,
        dont_fragment: false,
        l4: 34,
        l4_len: len,
        fragment: Some(Fragment { id, offset, more, len }),
        transport,
    }
}

#[test]
fn a_datagram_passes_in_any_order_behind_its_first() {
    let mut world = World::new();
    world.send_all(&[(0, 1480, true, First), (1480, 1480, true, Passed), (2960, 100, false, Passed)]);
    assert!(world.table.is_empty(), "complete, and forgotten");
    world.send_all(&[
        (0, 8, true, First),
        (48, 1, false, Passed),
        (16, 32, true, Passed),
        (8, 8, true, Passed),
    ]);
    assert_eq!((world.table.len(), world.table.poll_timeout()), (0, None));
}

#[test]
fn later_ones_need_their_first() {
    let mut world = World::new();
    world.send_all(&[(0, 1480, true, First)]);
    for (what, other) in [
        ("another identification", udp(2, 1480, 8, true)),
        ("another source", Ip { src: Addr::v4([10, 1, 0, 12]), ..udp(1, 1480, 8, true) }),
        ("another destination", Ip { dst: Addr::v4([10, 1, 0, 22]), ..udp(1, 1480, 8, true) }),
        ("another protocol", Ip { proto: ICMP, ..udp(1, 1480, 8, true) }),
    ] {
        assert_eq!(world.send(5, &other), Waits, "{what}");
    }
    assert_eq!(world.send(6, &udp(1, 1480, 8, true)), Waits, "another network");
    assert_eq!(world.send(5, &udp(1, 1480, 8, true)), Passed);
    world.send_all(&[(1488, 8, false, Passed), (1496, 8, false, Waits)]);
    assert_eq!(world.released, 0);
    world.now = world.now + world.settings.wait;
    assert_eq!(world.table.handle_timeout(world.now, 100), 6);
    let mut lost = 0;
    while let Some(Lost { frame, .. }) = world.table.pop_lost() {
        assert_eq!(frame.frame.len(), 8);
        lost += 1;
    }
    assert_eq!((lost, world.table.len(), world.table.waiting(vni(5))), (6, 0, 0));
}

#[test]
fn early_ones_wait_for_their_first() {
    let mut world = World::new();
    world.send_all(&[(1480, 1480, true, Waits), (2960, 100, false, Waits), (0, 1480, true, First)]);
    assert_eq!((world.released, world.table.waiting(vni(5))), (2, 0));
    world.now = world.now + world.settings.wait;
    world.send_all(&[(1480, 1480, true, Passed), (2960, 100, false, Passed)]);
    assert!(world.table.is_empty() && world.table.firstless.is_empty());
}

/// Between a first fragment and its verdict, another worker may have a later one in hand.
#[test]
fn what_comes_while_the_first_is_decided_waits_too() {
    let mut world = World::new();
    let FragmentStep::First(id) =
        world.table.check(vni(5), &udp(1, 0, 800, true), &world.settings, world.now)
    else {
        panic!("not first");
    };
    world.send_all(&[(800, 8, true, Waits), (0, 800, true, Dropped(DropReason::FragmentDuplicate))]);
    assert_eq!(world.table.settle(id, Verdict::Refused).len(), 1);
    world.send_all(&[(800, 8, true, Dropped(DropReason::FragmentRefused))]);
}

#[test]
fn what_waits_is_bounded_in_bytes_and_the_longest_makes_room() {
    let mut world = World::new();
    world.settings.waiting_bytes = 3 * (1000 + 64);
    let early = |world: &mut World, network, id| world.send(network, &udp(id, 800, 1000, true));
    for id in 1..=3 {
        assert_eq!(early(&mut world, 5, id), Waits);
        world.now = world.now + Duration::from_millis(1);
    }
    assert_eq!(early(&mut world, 6, 1), Waits, "another network has its own");
    assert_eq!(early(&mut world, 5, 4), Waits);
    assert_eq!((world.table.waiting(vni(5)), world.table.len()), (world.settings.waiting_bytes, 4));
    assert_eq!(world.send(5, &udp(1, 0, 800, true)), First);
    assert_eq!(world.released, 0, "it had waited longest");
    assert_eq!(world.send(5, &udp(2, 0, 800, true)), First);
    assert_eq!(world.released, 1);
    let large = udp(9, 800, 4000, true);
    assert_eq!(world.send(5, &large), Dropped(DropReason::FragmentLimit));
    assert_eq!(world.table.waiting(vni(5)), 2 * 1064, "nobody makes room for what has none anyway");
}

#[test]
fn a_refused_first_refuses_the_rest() {
    let mut world = World::new();
    world.allows = false;
    let refused = Dropped(DropReason::FragmentRefused);
    world.send_all(&[(0, 1480, true, First), (1480, 1480, true, refused), (2960, 8, false, refused)]);
    assert!(world.table.is_empty());
}

#[test]
fn overlaps_end_the_datagram() {
    const OVERLAP: Fate = Dropped(DropReason::FragmentOverlap);
    for bad in
        [(0, 16), (0, 808), (792, 16), (400, 8), (792, 8), (1592, 16), (1600, 808), (1608, 8), (800, 2000)]
    {
        let mut world = World::new();
        world.send_all(&[(0, 800, true, First), (1600, 800, true, Passed), (bad.0, bad.1, true, OVERLAP)]);
        world.send_all(&[(800, 800, true, OVERLAP), (2400, 8, false, OVERLAP), (0, 800, true, OVERLAP)]);
        world.now = world.now + world.settings.timeout;
        world.send_all(&[(0, 800, true, First)]);
    }
}

#[test]
fn what_comes_twice_is_dropped_and_harms_nothing() {
    const TWICE: Fate = Dropped(DropReason::FragmentDuplicate);
    World::new().send_all(&[
        (0, 800, true, First),
        (0, 800, true, TWICE),
        (1600, 8, false, Passed),
        (1600, 8, false, TWICE),
        (800, 400, true, Passed),
        (800, 400, true, TWICE),
        (1200, 400, true, Passed),
    ]);
    // The same bytes, but the other says that more follow.
    World::new().send_all(&[
        (0, 800, true, First),
        (800, 8, true, Passed),
        (800, 8, false, Dropped(DropReason::FragmentOverlap)),
    ]);
}

#[test]
fn sizes_and_ends() {
    const BAD: Fate = Dropped(DropReason::FragmentBadSize);
    type Story = (&'static str, &'static [(u16, u16, bool, Fate)]);
    let stories: &[Story] = &[
        ("no multiple of 8", &[(0, 100, true, BAD)]),
        ("no multiple of 8 later on", &[(0, 800, true, First), (800, 9, true, BAD), (800, 9, false, Passed)]),
        ("empty", &[(0, 800, true, First), (800, 0, false, BAD), (800, 0, true, BAD)]),
        (
            "past the largest datagram",
            &[(0, 800, true, First), (65_512, 4, false, BAD), (65_528, 8, false, BAD)],
        ),
        ("up to the largest datagram", &[(0, 800, true, First), (65_512, 3, false, Passed)]),
        (
            "behind the end",
            &[(0, 800, true, First), (1600, 8, false, Passed), (2400, 8, true, BAD), (800, 8, true, BAD)],
        ),
        (
            "a second end",
            &[(0, 800, true, First), (1600, 8, false, Passed), (800, 8, false, BAD), (808, 8, true, BAD)],
        ),
        (
            "an end before what was there",
            &[(0, 800, true, First), (1600, 8, true, Passed), (800, 8, false, BAD)],
        ),
    ];
    for (name, pieces) in stories {
        println!("{name}");
        World::new().send_all(pieces);
    }
}

#[test]
fn tiny_fragments() {
    const TINY: Fate = Dropped(DropReason::FragmentTiny);
    let mut world = World::new();
    let incomplete = Ip { transport: Transport::Incomplete, ..udp(1, 0, 8, true) };
    assert_eq!(world.send(5, &incomplete), TINY);
    assert_eq!(world.send(5, &udp(1, 8, 8, true)), Waits, "it left nothing");
    let over_flags = Ip { proto: proto::TCP, ..udp(1, 8, 8, true) };
    assert_eq!(world.send(5, &over_flags), TINY, "RFC 3128");
}

#[test]
fn time_runs_out_whatever_comes() {
    let mut world = World::new();
    world.send_all(&[(0, 800, true, First)]);
    let due = world.table.poll_timeout().unwrap();
    assert_eq!(due, world.now + world.settings.timeout);
    world.now = world.now + Duration::from_secs(29);
    world.send_all(&[(800, 800, true, Passed)]);
    world.now = due;
    world.send_all(&[(1600, 8, false, Waits), (0, 800, true, First)]);
    assert_eq!(world.table.handle_timeout(world.now, 10), 0);
    world.now = world.now + world.settings.timeout;
    assert_eq!(world.table.handle_timeout(world.now, 10), 1);
    assert_eq!((world.table.len(), world.table.in_use(vni(5))), (0, 0));
}

#[test]
fn limits_hold_for_each_network_and_for_all() {
    let full = Dropped(DropReason::FragmentLimit);
    let mut world = World::new();
    world.settings.limit = 3;
    world.table.set_limit(4);
    assert_eq!(world.send(5, &udp(9, 800, 8, true)), Waits, "it makes room for those that are decided");
    for (network, id, fate) in
        [(5, 1, First), (5, 2, First), (5, 3, First), (5, 4, full), (6, 1, First), (6, 2, full)]
    {
        assert_eq!(world.send(network, &udp(id, 0, 800, true)), fate, "{network} {id}");
    }
    assert_eq!(world.send(5, &udp(1, 800, 8, false)), Passed, "those that are there stay");
    assert_eq!(world.send(5, &udp(4, 0, 800, true)), First);
    world.now = world.now + world.settings.timeout;
    assert_eq!(world.send(6, &udp(2, 0, 800, true)), First, "those whose time is over make room");
}

/// It has its place where it began, which has as many.
#[test]
fn one_that_began_elsewhere_goes_on_where_the_table_is_full() {
    let mut world = World::new();
    world.settings.limit = 3;
    for id in 1..=3 {
        assert_eq!(world.send(5, &udp(id, 0, 800, true)), First);
    }
    let import = |world: &mut World, id| {
        let first = udp(id, 0, 800, true);
        let imported = Imported {
            first: Segment::of(vni(5), &first, 1, 800).unwrap(),
            pieces: vec![(0, 800)],
            end: None,
            deadline: world.now + world.settings.timeout,
        };
        let key = DatagramKey::of(vni(5), &first).unwrap();
        world.table.import(key, imported, HINT, &world.settings, world.now);
    };
    (4..=7).for_each(|id| import(&mut world, id));
    for (id, fate) in [(4, Passed), (6, Passed), (7, Dropped(DropReason::FragmentLimit))] {
        assert_eq!(world.send(5, &udp(id, 800, 8, false)), fate, "{id}");
    }
    let new = world.send(5, &udp(8, 0, 800, true));
    assert_eq!(new, Dropped(DropReason::FragmentLimit), "nor does it make room for those that begin here");
}

#[test]
fn a_datagram_has_a_bounded_number_of_pieces() {
    let mut world = World::new();
    world.send_all(&[(0, 8, true, First)]);
    let fates: Vec<_> = (1..400).map(|n| world.send(5, &udp(1, n * 8, 8, true))).collect();
    assert_eq!(fates.iter().filter(|fate| **fate == Passed).count(), PIECES - 1);
    assert_eq!(fates.last(), Some(&Dropped(DropReason::FragmentLimit)));
}

#[test]
fn later_fragments_know_what_they_continue() {
    let mut world = World::new();
    let first = |transport, proto| Ip { transport, proto, ..udp(1, 0, 800, true) };
    let later = |world: &mut World, first: Ip| {
        let FragmentStep::First(id) = world.table.check(vni(5), &first, &world.settings, world.now) else {
            panic!("not first");
        };
        world.table.settle(id, Verdict::Allowed { first: Segment::of(vni(5), &first, 1, 800), hint: HINT });
        let later = Ip { proto: first.proto, ..udp(1, 800, 100, false) };
        match world.table.check(vni(5), &later, &world.settings, world.now) {
            FragmentStep::Later {
                segment: Some(Segment { kind: SegmentKind::Later(later), bytes: 100, packets: 1, .. }),
                ..
            } => later,
            other => panic!("{other:?}"),
        }
    };
    let icmp = first(Transport::Icmp(Icmp { kind: 8, code: 0, id: 9 }), ICMP);
    let query = Some(Query { request: true, kind: 8, code: 0 });
    assert_eq!(later(&mut world, icmp), Later { query, tcp_end: None });
    let tcp = Tcp {
        sport: 7,
        dport: 53,
        seq: u32::MAX,
        ack: 0,
        flags: tcp_flags::FIN | tcp_flags::ACK,
        window: 1,
        header_len: 32,
        window_scale: None,
        mss_at: None,
        payload: 768,
    };
    // 868 bytes of data and a FIN from the number before 0 on.
    assert_eq!(later(&mut world, first(Transport::Tcp(tcp), 6)), Later { query: None, tcp_end: Some(868) });
}

#[test]
fn ipv6_chains_behind_the_fragment_header_belong_to_the_datagram() {
    let mut frame = vec![2, 0, 0, 0, 2, 1, 2, 0, 0, 0, 1, 1, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 44, 64];
    frame.extend([0xfd; 16]);
    frame.extend([0xfc; 16]);
    let first = [
        &frame[..],
        &[60, 0, 0, 1, 0, 0, 0, 9],
        &[17, 0, 1, 4, 0, 0, 0, 0],
        &[0, 7, 0, 53, 0, 24, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8],
    ]
    .concat();
    let later = [&frame[..], &[60, 0, 0, 24, 0, 0, 0, 9], &[9; 24]].concat();
    let mut world = World::new();
    let parse = |frame: &[u8]| *View::parse(frame).unwrap().ip().unwrap();
    assert_eq!(world.send(5, &parse(&first)), First);
    assert_eq!(world.send(5, &parse(&later)), Passed, "though it names another protocol");
    assert!(world.table.is_empty(), "and it is complete");
}

#[test]
fn whole_packets_are_none_of_its_business() {
    let mut world = World::new();
    let whole = Ip { fragment: None, ..udp(1, 0, 100, false) };
    assert_eq!(world.table.check(vni(5), &whole, &world.settings, world.now), FragmentStep::Whole);
}

/// Every byte of every datagram, and who wrote it.
#[derive(Default)]
struct Reference {
    pieces: Vec<(u16, u16, bool)>,
    dead: bool,
}

impl Reference {
    /// Whether the fragment passes, by the plainest reading of the rules.
    fn passes(&mut self, offset: u16, len: u16, more: bool) -> bool {
        let valid =
            len > 0 && (!more || len.is_multiple_of(8)) && u32::from(offset) + u32::from(len) <= 65_515;
        if !valid || self.dead || self.pieces.contains(&(offset, len, more)) {
            return false;
        }
        let end = offset + len;
        let overlaps = self.pieces.iter().any(|&(o, l, _)| o < end && offset < o + l);
        let known_end = self.pieces.iter().find(|(.., more)| !more).map(|(o, l, _)| o + l);
        let contradicts = match known_end {
            Some(known) => !more || end > known,
            None => !more && self.pieces.iter().any(|(o, l, _)| o + l > end),
        };
        self.dead = overlaps || contradicts;
        self.pieces.push((offset, len, more));
        !self.dead
    }

    fn is_complete(&self) -> bool {
        let total: u32 = self.pieces.iter().map(|(_, len, _)| u32::from(*len)).sum();
        let end = self.pieces.iter().find(|(.., more)| !more).map(|(offset, len, _)| u32::from(offset + len));
        !self.dead && end == Some(total)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Fragments pass as the plain reading says, and no byte of a datagram ever passes twice.
    #[test]
    fn agrees_with_the_plain_reading(pieces in proptest::collection::vec((1u16..12, 0u16..5, any::<bool>(), 0u16..20), 1..30)) {
        let mut world = World::new();
        let mut reference = Reference::default();
        prop_assert_eq!(world.send(5, &udp(1, 0, 16, true)), First);
        reference.passes(0, 16, true);
        for (offset, len, more, odd) in pieces {
            let (offset, len) = (offset * 8, len * 8 + if odd == 0 { 3 } else { 0 });
            let fate = world.send(5, &udp(1, offset, len, more));
            prop_assert_eq!(fate == Passed, reference.passes(offset, len, more), "{}+{} {}: {:?}", offset, len, more, fate);
            if reference.is_complete() {
                prop_assert!(world.table.is_empty());
                break;
            }
        }
    }

    /// Whatever comes, counts stay right and limits hold.
    #[test]
    fn noise(packets in proptest::collection::vec((5u32..8, 0u32..6, 0u16..6, 0u16..40, any::<bool>(), 0u64..10), 1..200)) {
        let mut world = World::new();
        world.table.set_limit(6);
        world.settings.limit = 3;
        for (network, id, offset, len, more, wait) in packets {
            world.now = world.now + Duration::from_secs(wait);
            let _ = world.send(network, &udp(id, offset * 8, len, more));
            let each: Vec<_> = (5..8).map(|number| world.table.in_use(vni(number))).collect();
            prop_assert!(each.iter().all(|count| *count <= 3) && world.table.len() <= 6);
            prop_assert_eq!(each.iter().sum::<u32>() as usize, world.table.len());
        }
        world.now = world.now + world.settings.timeout;
        world.table.handle_timeout(world.now, 100);
        prop_assert_eq!((world.table.len(), world.table.in_use.len(), world.table.deadlines.len()), (0, 0, 0));
        prop_assert_eq!((world.table.firstless.len(), world.table.waiting.len(), world.table.waiting_in_all), (0, 0, 0));
    }
}

/// A verdict that came too late is nobody's.
#[test]
fn a_late_verdict_is_ignored() {
    let mut world = World::new();
    let FragmentStep::First(id) =
        world.table.check(vni(5), &udp(1, 0, 800, true), &world.settings, world.now)
    else {
        panic!("not first");
    };
    world.now = world.now + world.settings.timeout;
    world.allows = false;
    assert_eq!(world.send(5, &udp(1, 0, 800, true)), First);
    let key = FlowKey {
        src: Addr::v4([1; 4]),
        dst: Addr::v4([2; 4]),
        vni: vni(5),
        sport: 7,
        dport: 53,
        proto: UDP,
        leg: Leg::DIRECT,
    };
    let stolen = Segment { key, kind: SegmentKind::Udp, packets: 1, bytes: 1, header: HeaderBits::default() };
    assert!(world.table.settle(id, Verdict::Allowed { first: Some(stolen), hint: HINT }).is_empty());
    assert_eq!(world.send(5, &udp(1, 800, 8, true)), Dropped(DropReason::FragmentRefused));
}
