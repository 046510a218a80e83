use std::collections::BTreeMap;

use eastgate_wire::AttachmentId;
use proptest::prelude::*;

use super::*;
use crate::test_frames::{hasher, vtep};

const T0: Instant = Instant::from_secs(1000);

fn mac(last: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, last])
}

fn at(secs: u64) -> Instant {
    T0 + Duration::from_secs(secs)
}

fn remote(last: u8) -> Location {
    Location::Remote(vtep(last))
}

fn local(port: u32) -> Location {
    Location::Local(AttachmentId(port))
}

fn fdb(limit: usize) -> Fdb {
    Fdb::new(FdbSettings { limit, ..FdbSettings::default() }, hasher())
}

#[test]
fn learning_maps_the_source_to_where_it_came_from() {
    let mut fdb = fdb(10);
    assert_eq!(fdb.lookup(mac(1), T0), None);
    assert_eq!(fdb.learn(mac(1), remote(1), T0), Ok(Learned::New));
    assert_eq!(fdb.learn(mac(2), local(7), T0), Ok(Learned::New));
    assert_eq!(fdb.learn(mac(1), remote(1), T0), Ok(Learned::Refreshed));
    assert_eq!(fdb.lookup(mac(1), T0), Some(remote(1)));
    assert_eq!(fdb.lookup(mac(2), T0), Some(local(7)));
    assert_eq!(fdb.learn(mac(1), local(7), T0), Ok(Learned::Moved(remote(1))));
    assert_eq!(fdb.lookup(mac(1), T0), Some(local(7)));
}

#[test]
fn sources_that_are_no_stations_are_refused() {
    let mut fdb = fdb(10);
    for bad in [MacAddr::ZERO, MacAddr::BROADCAST, MacAddr([0x33, 0x33, 0, 0, 0, 1])] {
        assert_eq!(fdb.learn(bad, remote(1), T0), Err(DropReason::BadSourceMac));
        assert_eq!(fdb.set_static(bad, remote(1)), Err(Error::NotAStation(bad)));
    }
    assert_eq!((fdb.learned(), fdb.entries(T0)), (0, vec![]));
}

#[test]
fn entries_age_by_what_was_heard_from_them() {
    let mut fdb = fdb(10);
    fdb.learn(mac(1), remote(1), at(0)).unwrap();
    fdb.learn(mac(2), remote(1), at(10)).unwrap();
    fdb.learn(mac(1), remote(1), at(100)).unwrap();
    assert_eq!(fdb.poll_timeout(), Some(at(310)), "MAC 2 is the one heard longest ago");
    for secs in 0..310 {
        assert!(fdb.lookup(mac(2), at(secs)).is_some(), "sending to it neither ages nor refreshes it");
    }
    assert_eq!(fdb.lookup(mac(2), at(310)), None, "aged out though nobody expired it");
    assert_eq!(fdb.expire(at(310), 100), 1);
    assert_eq!(fdb.poll_timeout(), Some(at(400)));
    assert_eq!((fdb.expire(at(399), 100), fdb.expire(at(400), 100)), (0, 1));
    assert_eq!(fdb.poll_timeout(), None);
}

#[test]
fn expiry_keeps_to_its_budget() {
    let mut fdb = fdb(100);
    for n in 0..10 {
        fdb.learn(mac(n), remote(1), T0).unwrap();
    }
    assert_eq!([fdb.expire(at(300), 4), fdb.expire(at(300), 4), fdb.expire(at(300), 4)], [4, 4, 2]);
}

#[test]
fn static_entries_never_age_and_never_move() {
    let mut fdb = fdb(1);
    fdb.learn(mac(1), remote(9), T0).unwrap();
    fdb.set_static(mac(1), remote(1)).unwrap();
    assert_eq!(fdb.learned(), 0, "the learned one gave way");
    assert_eq!(fdb.learn(mac(1), remote(2), T0), Err(DropReason::MacMoveRefused));
    assert_eq!(fdb.learn(mac(1), remote(1), T0), Ok(Learned::Refreshed));
    assert_eq!(fdb.poll_timeout(), None);
    assert_eq!((fdb.expire(at(1 << 40), 9), fdb.flush(Flush::All), fdb.flush(Flush::Mac(mac(1)))), (0, 0, 0));
    assert_eq!(fdb.lookup(mac(1), at(1 << 40)), Some(remote(1)));
    assert_eq!(fdb.learn(mac(2), remote(2), T0), Ok(Learned::New), "it does not count against the limit");
    fdb.set_static(mac(1), remote(3)).unwrap();
    assert_eq!(fdb.lookup(mac(1), T0), Some(remote(3)));
    assert!(fdb.remove_static(mac(1)) && !fdb.remove_static(mac(1)) && !fdb.remove_static(mac(2)));
    assert_eq!((fdb.lookup(mac(1), T0), fdb.learned()), (None, 1));
}

#[test]
fn a_million_random_macs_are_capped_and_existing_ones_untouched() {
    let mut fdb = fdb(1000);
    fdb.set_static(mac(1), remote(1)).unwrap();
    for n in 0..1_000_000u32 {
        let [a, b, c, d] = n.to_be_bytes();
        let expected = if n < 1000 { Ok(Learned::New) } else { Err(DropReason::MacLimit) };
        assert_eq!(fdb.learn(MacAddr([6, 0, a, b, c, d]), remote(2), T0), expected);
    }
    assert_eq!(fdb.learned(), 1000);
    for n in 0..1000u16 {
        let [c, d] = n.to_be_bytes();
        assert_eq!(fdb.learn(MacAddr([6, 0, 0, 0, c, d]), remote(2), T0), Ok(Learned::Refreshed));
    }
    assert_eq!(fdb.lookup(mac(1), T0), Some(remote(1)));
    assert_eq!(fdb.learn(mac(7), remote(2), at(300)), Ok(Learned::New), "an aged one makes room");
}

#[test]
fn five_moves_are_a_migration_and_the_sixth_is_a_fight() {
    let mut fdb = fdb(10);
    fdb.learn(mac(1), remote(0), T0).unwrap();
    for n in 1..=5u8 {
        assert_eq!(fdb.learn(mac(1), remote(n), at(u64::from(n))), Ok(Learned::Moved(remote(n - 1))));
    }
    assert_eq!(fdb.take_report(), None);
    assert_eq!(fdb.learn(mac(1), remote(6), at(6)), Err(DropReason::MacFrozen));
    assert_eq!(fdb.learn(mac(1), remote(7), at(7)), Err(DropReason::MacFrozen));
    assert_eq!(fdb.lookup(mac(1), at(7)), Some(remote(5)), "frozen at its place");
    assert_eq!(fdb.learn(mac(1), remote(5), at(8)), Ok(Learned::Refreshed));
    let report = FrozenReport { mac: mac(1), kept: remote(5), refused: remote(6), until: at(186) };
    assert_eq!((fdb.take_report(), fdb.take_report()), (Some(report), None), "reported once");
    assert_eq!(fdb.entries(at(9))[0].frozen_until, Some(at(186)));
    assert_eq!(fdb.learn(mac(1), remote(6), at(185)), Err(DropReason::MacFrozen));
    assert_eq!(fdb.learn(mac(1), remote(6), at(186)), Ok(Learned::Moved(remote(5))));
    assert_eq!(fdb.entries(at(186))[0].frozen_until, None);
    for n in 0..4 {
        assert!(fdb.learn(mac(1), remote(n), at(187)).is_ok(), "the count began anew");
    }
    assert_eq!(fdb.learn(mac(1), remote(9), at(187)), Err(DropReason::MacFrozen));
}

#[test]
fn a_freeze_shorter_than_the_window_still_ends_the_count() {
    let settings = FdbSettings { frozen_for: Duration::from_secs(10), ..FdbSettings::default() };
    let mut fdb = Fdb::new(settings, hasher());
    for n in 0..=5 {
        fdb.learn(mac(1), remote(n), T0).unwrap();
    }
    assert_eq!(fdb.learn(mac(1), remote(6), T0), Err(DropReason::MacFrozen));
    for n in 0..5 {
        assert!(matches!(fdb.learn(mac(1), remote(n), at(10)), Ok(Learned::Moved(_))));
    }
    assert_eq!(fdb.learn(mac(1), remote(6), at(10)), Err(DropReason::MacFrozen));
}

#[test]
fn slow_moves_are_never_damped() {
    let mut fdb = fdb(10);
    fdb.learn(mac(1), remote(0), T0).unwrap();
    for n in 1..100u64 {
        let moved = fdb.learn(mac(1), remote((n % 200) as u8), at(n * 36));
        assert_eq!(moved, Ok(Learned::Moved(remote((n - 1) as u8))), "five in 180 s");
    }
}

#[test]
fn reports_are_bounded() {
    let mut fdb = fdb(1000);
    for n in 0..200 {
        for place in 0..=6 {
            let _ = fdb.learn(mac(n), remote(place), T0);
        }
    }
    assert_eq!(std::iter::from_fn(|| fdb.take_report()).count(), REPORTS);
}

#[test]
fn flushing_by_place_and_by_mac() {
    let mut fdb = fdb(10);
    for n in 0..6 {
        fdb.learn(mac(n), remote(n % 2), T0).unwrap();
    }
    fdb.learn(mac(9), local(1), T0).unwrap();
    assert_eq!((fdb.flush(Flush::Mac(mac(0))), fdb.flush(Flush::Mac(mac(0)))), (1, 0));
    assert_eq!((fdb.flush(Flush::At(remote(1))), fdb.flush(Flush::At(local(1)))), (3, 1));
    let left: Vec<MacAddr> = fdb.entries(T0).iter().map(|entry| entry.mac).collect();
    assert_eq!(left, [mac(2), mac(4)]);
    assert_eq!((fdb.flush(Flush::All), fdb.learned(), fdb.poll_timeout()), (2, 0, None));
}

#[test]
fn what_is_shown_is_sorted_and_valid() {
    let mut fdb = fdb(10);
    for n in [5, 3, 8] {
        fdb.learn(mac(n), remote(n), at(u64::from(n))).unwrap();
    }
    fdb.set_static(mac(4), local(1)).unwrap();
    let shown: Vec<_> = fdb.entries(at(304)).iter().map(|e| (e.mac, e.heard)).collect();
    assert_eq!(shown, [(mac(4), None), (mac(5), Some(at(5))), (mac(8), Some(at(8)))]);
}

/// The reference: a map that is swept before every step.
#[derive(Default)]
struct Model {
    learned: BTreeMap<MacAddr, ModelEntry>,
    statics: BTreeMap<MacAddr, Location>,
}

struct ModelEntry {
    place: Location,
    heard: Instant,
    moves: Vec<Instant>,
    frozen_until: Instant,
}

impl Model {
    fn learn(
        &mut self,
        settings: &FdbSettings,
        mac: MacAddr,
        place: Location,
        now: Instant,
    ) -> Result<Learned, DropReason> {
        self.sweep(settings, now);
        if let Some(fixed) = self.statics.get(&mac) {
            return if *fixed == place { Ok(Learned::Refreshed) } else { Err(DropReason::MacMoveRefused) };
        }
        let full = self.learned.len() >= settings.limit;
        let Some(entry) = self.learned.get_mut(&mac) else {
            if full {
                return Err(DropReason::MacLimit);
            }
            let entry = ModelEntry { place, heard: now, moves: vec![], frozen_until: Instant::ZERO };
            self.learned.insert(mac, entry);
            return Ok(Learned::New);
        };
        if entry.place == place {
            entry.heard = now;
            return Ok(Learned::Refreshed);
        }
        if now < entry.frozen_until {
            return Err(DropReason::MacFrozen);
        }
        let since_frozen = entry.frozen_until;
        let recent = |at: &&Instant| **at >= since_frozen && now.since(**at) < settings.move_window;
        if entry.moves.iter().filter(recent).count() >= MOVES {
            entry.frozen_until = now + settings.frozen_for;
            return Err(DropReason::MacFrozen);
        }
        entry.moves.push(now);
        entry.heard = now;
        Ok(Learned::Moved(std::mem::replace(&mut entry.place, place)))
    }

    fn sweep(&mut self, settings: &FdbSettings, now: Instant) {
        self.learned.retain(|_, entry| now.since(entry.heard) < settings.age);
    }

    fn lookup(&self, mac: MacAddr) -> Option<Location> {
        self.statics.get(&mac).copied().or_else(|| self.learned.get(&mac).map(|entry| entry.place))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn behaves_like_the_model(
        limit in 0usize..4,
        age in 50u64..300,
        frozen_for in 1u64..100,
        steps in proptest::collection::vec((0u8..20, 0u8..4, 0u8..3, 0u64..16), 0..200),
    ) {
        let [age, move_window, frozen_for] = [age, 180, frozen_for].map(Duration::from_secs);
        let settings = FdbSettings { limit, age, move_window, frozen_for };
        let (mut fdb, mut model, mut now) = (Fdb::new(settings, hasher()), Model::default(), T0);
        for (step, n, place, pause) in steps {
            now = now + Duration::from_secs(pause);
            let (mac, place) = (mac(n), remote(place));
            match step {
                0 => {
                    fdb.set_static(mac, place).unwrap();
                    model.learned.remove(&mac);
                    model.statics.insert(mac, place);
                }
                1 => prop_assert_eq!(fdb.remove_static(mac), model.statics.remove(&mac).is_some()),
                2 => {
                    model.learned.retain(|_, entry| entry.place != place);
                    fdb.flush(Flush::At(place));
                }
                3 => { fdb.expire(now, usize::from(n)); }
                _ => prop_assert_eq!(fdb.learn(mac, place, now), model.learn(&settings, mac, place, now)),
            }
            model.sweep(&settings, now);
            for n in 0..4 {
                let mac = MacAddr([2, 0, 0, 0, 0, n]);
                prop_assert_eq!(fdb.lookup(mac, now), model.lookup(mac));
            }
            prop_assert!(fdb.learned() <= limit, "the limit is exact");
            prop_assert_eq!(fdb.entries(now).len(), model.learned.len() + model.statics.len());
            let next = model.learned.values().map(|entry| entry.heard + age).min();
            prop_assert!(fdb.poll_timeout() <= next || next.is_none(), "never late");
        }
        fdb.expire(now + age, usize::MAX);
        prop_assert_eq!((fdb.learned(), fdb.poll_timeout()), (0, None));
    }
}
