use std::collections::BTreeMap;

use eastgate_wire::{AttachmentId, EndpointId, Holdings, Location, Ownership};
use proptest::prelude::*;

use super::*;

const LIMITS: LearnLimits = LearnLimits { total: 5, per_location: 3, age: Duration::from_secs(60) };
const M1: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const M2: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

fn host(last: u8) -> Addr {
    Addr::v4([10, 1, 0, last])
}

fn port(number: u32) -> Location {
    Location::Local(AttachmentId(number))
}

fn secs(secs: u64) -> Instant {
    Instant::from_secs(secs)
}

/// 10.1.0.200 is configured.
struct Configured;

const CONFIGURED: Binding =
    Binding { mac: M2, endpoint: Some(EndpointId(0)), at: Location::Local(AttachmentId(7)), router: false };

impl Bindings for Configured {
    fn by_address(&self, address: Addr) -> Option<Binding> {
        (address == host(200)).then_some(CONFIGURED)
    }

    fn steered(&self, _asker: &crate::Requester<'_>, target: &Binding) -> bool {
        target.endpoint.is_some()
    }
}

fn learn(table: &mut Learned, last: u8, mac: MacAddr, at: Location, now: Instant) -> Learn {
    table.learn(host(last), mac, at, &Configured, now)
}

#[test]
fn entries_live_as_long_as_they_are_heard_from() {
    let mut table = Learned::new(LIMITS);
    assert_eq!(learn(&mut table, 1, M1, port(1), secs(0)), Learn::New);
    assert_eq!(table.poll_timeout(), Some(secs(60)));
    assert_eq!(learn(&mut table, 1, M1, port(1), secs(59)), Learn::Refreshed);
    assert_eq!(table.by_address(host(1), secs(118)).unwrap().mac, M1);
    assert_eq!(table.by_address(host(1), secs(119)), None, "asked before the timer ran");
    table.handle_timeout(secs(119));
    assert!(table.is_empty() && table.poll_timeout().is_none());
}

#[test]
fn limits_are_exact_and_nobody_is_pushed_out() {
    let mut table = Learned::new(LIMITS);
    for last in 1..=3 {
        assert_eq!(learn(&mut table, last, M1, port(1), secs(0)), Learn::New);
    }
    assert_eq!(learn(&mut table, 4, M1, port(1), secs(0)), Learn::LocationFull);
    for last in 5..=6 {
        assert_eq!(learn(&mut table, last, M1, port(2), secs(0)), Learn::New);
    }
    assert_eq!(learn(&mut table, 7, M1, port(3), secs(0)), Learn::Full);
    assert_eq!(learn(&mut table, 5, M1, port(1), secs(0)), Learn::LocationFull, "no way in by moving");
    assert_eq!(learn(&mut table, 1, M2, port(1), secs(0)), Learn::Moved { mac: M1, at: port(1) });
    assert_eq!(table.len(), 5);
    assert_eq!(learn(&mut table, 7, M1, port(1), secs(60)), Learn::New, "the old ones have ended");
    assert_eq!(table.len(), 1);
    table.forget_location(port(1));
    assert!(table.is_empty());
}

#[test]
fn configured_ones_win() {
    let mut table = Learned::new(LIMITS);
    assert_eq!(learn(&mut table, 200, M1, port(1), secs(0)), Learn::Configured);
    assert!(table.is_empty());
    let _new = learn(&mut table, 1, M1, port(1), secs(0));
    let known = Known { configured: &Configured, learned: &table, now: secs(1) };
    assert_eq!(known.by_address(host(200)), Some(CONFIGURED));
    let learned = known.by_address(host(1)).unwrap();
    assert_eq!((learned.mac, learned.at, learned.endpoint), (M1, port(1), None));
    assert_eq!(known.by_address(host(2)), None);
    let (holdings, ownership) = (Holdings::new(MacAddr::ZERO), Ownership::default());
    let requester = crate::Requester {
        origin: port(1),
        holdings: &holdings,
        ownership: &ownership,
        port_security: false,
        behind_eastgate: false,
    };
    assert!(known.steered(&requester, &CONFIGURED) && !known.steered(&requester, &learned));
}

/// An address that is configured after it was learned is forgotten.
#[test]
fn what_is_configured_later_is_forgotten() {
    struct Nobody;
    impl Bindings for Nobody {
        fn by_address(&self, _address: Addr) -> Option<Binding> {
            None
        }
    }
    let mut table = Learned::new(LIMITS);
    assert_eq!(table.learn(host(200), M1, port(1), &Nobody, secs(0)), Learn::New);
    assert_eq!(learn(&mut table, 200, M1, port(1), secs(1)), Learn::Configured);
    assert!(table.is_empty());
}

#[test]
fn the_sixth_move_in_three_minutes_freezes() {
    let mut table = Learned::new(LearnLimits { age: Duration::from_secs(1000), ..LIMITS });
    let _new = learn(&mut table, 1, M1, port(1), secs(0));
    for (turn, now) in [10, 20, 30, 40, 50].into_iter().enumerate() {
        let mac = [M2, M1][turn % 2];
        assert!(matches!(learn(&mut table, 1, mac, port(1), secs(now)), Learn::Moved { .. }), "{now}");
    }
    assert_eq!(learn(&mut table, 1, M1, port(1), secs(189)), Learn::Frozen { first: true });
    assert_eq!(learn(&mut table, 1, M1, port(1), secs(190)), Learn::Frozen { first: false });
    assert_eq!(learn(&mut table, 1, M2, port(1), secs(200)), Learn::Refreshed, "who is there stays");
    assert_eq!(table.by_address(host(1), secs(368)).unwrap().mac, M2);
    assert_eq!(learn(&mut table, 1, M1, port(1), secs(368)), Learn::Frozen { first: false });
    assert_eq!(learn(&mut table, 1, M1, port(1), secs(369)), Learn::Moved { mac: M2, at: port(1) });
}

#[test]
fn slow_moves_are_free() {
    let mut table = Learned::new(LearnLimits { age: Duration::from_secs(1000), ..LIMITS });
    let _new = learn(&mut table, 1, M1, port(0), secs(0));
    for turn in 1..50u32 {
        let moved = learn(&mut table, 1, M1, port(turn), secs(u64::from(turn) * 36));
        assert_eq!(moved, Learn::Moved { mac: M1, at: port(turn - 1) }, "five in 180 s, and no more");
    }
}

/// The same rules, said as plainly as possible: every move ever made is kept, every entry is looked at.
#[derive(Default)]
struct Reference {
    entries: BTreeMap<Addr, Host>,
}

struct Host {
    mac: MacAddr,
    at: Location,
    heard: Instant,
    moves: Vec<Instant>,
    frozen_at: Option<Instant>,
}

impl Reference {
    fn learn(&mut self, address: Addr, mac: MacAddr, at: Location, now: Instant) -> Learn {
        self.entries.retain(|_, host| now.since(host.heard) < LIMITS.age);
        let at_place = self.entries.values().filter(|host| host.at == at).count();
        let total = self.entries.len();
        if address == host(200) {
            return Learn::Configured;
        }
        let Some(host) = self.entries.get_mut(&address) else {
            if total == LIMITS.total {
                return Learn::Full;
            }
            if at_place == LIMITS.per_location {
                return Learn::LocationFull;
            }
            self.entries.insert(address, Host { mac, at, heard: now, moves: Vec::new(), frozen_at: None });
            return Learn::New;
        };
        if (host.mac, host.at) == (mac, at) {
            host.heard = now;
            return Learn::Refreshed;
        }
        if host.frozen_at.is_some_and(|then| now.since(then) < WINDOW) {
            return Learn::Frozen { first: false };
        }
        if host.at != at && at_place == LIMITS.per_location {
            return Learn::LocationFull;
        }
        let counted = host.moves.iter().filter(|then| now.since(**then) < WINDOW);
        if counted.filter(|then| host.frozen_at.is_none_or(|frozen| **then > frozen)).count() == MOVES {
            host.frozen_at = Some(now);
            return Learn::Frozen { first: true };
        }
        let moved = Learn::Moved { mac: host.mac, at: host.at };
        host.moves.push(now);
        (host.mac, host.at, host.heard) = (mac, at, now);
        moved
    }

    fn by_address(&self, address: Addr, now: Instant) -> Option<(MacAddr, Location)> {
        let host = self.entries.get(&address).filter(|host| now.since(host.heard) < LIMITS.age)?;
        Some((host.mac, host.at))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn equals_the_plain_rules(steps in proptest::collection::vec((0u64..15_000_000, 0u8..9, 0u8..2, 0u32..3, 0u8..12), 1..150)) {
        let (mut table, mut reference) = (Learned::new(LIMITS), Reference::default());
        let mut now = Instant::ZERO;
        for (gap, address, mac, place, what) in steps {
            now = now + Duration::from_micros(gap);
            let address = if address == 8 { host(200) } else { host(address) };
            match what {
                0 => {
                    table.forget_location(port(place));
                    reference.entries.retain(|_, host| host.at != port(place));
                }
                1 => table.handle_timeout(now),
                _ => {
                    let (mac, at) = ([M1, M2][usize::from(mac)], port(place));
                    prop_assert_eq!(table.learn(address, mac, at, &Configured, now), reference.learn(address, mac, at, now));
                }
            }
            for last in (0..8).chain([200]) {
                let learned = table.by_address(host(last), now).map(|binding| (binding.mac, binding.at));
                prop_assert_eq!(learned, reference.by_address(host(last), now));
            }
            prop_assert!(table.len() <= LIMITS.total);
            prop_assert_eq!(table.ends.len(), table.len());
            prop_assert_eq!(table.per_location.len(), (0..3).filter(|p| table.count(port(*p)) > 0).count());
        }
    }
}
