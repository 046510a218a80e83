//! Flows that are expected: what helpers have found out about control flows, until it comes.
//!
//! # Promises
//! - An expectation lets one flow pass: from the address of one end of its control flow, whatever port it comes from, to the address
//!   of the other end and one port there, by the helper's protocol, between the endpoints that the control flow was decided for. Whether
//!   the rules let that pass on its account is not said here.
//! - It is there for [`LASTS`], as with Linux, and no longer than its control flow. A control flow has one at a time.
//! - The table is bounded, exactly: for whoever opened the control flow, whose oldest one makes room; for the network and for the host,
//!   where a further one is refused.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use eastgate_wire::{FlowKey, Helper, Instant, Vni, view::HeaderBits};

use super::flow::Direction;

/// How long an expectation is there.
pub const LASTS: Duration = Duration::from_secs(300);

/// Expectations of those whose control flows one endpoint has opened
pub const MOST_OF_ENDPOINT: usize = 1024;
/// Expectations of a network
pub const MOST_OF_NETWORK: usize = 4096;
/// Expectations of a host
pub const MOST: usize = 16_384;

/// How a flow follows from another one between the same addresses, its control flow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Related {
    /// What has found it out
    pub helper: Helper,
    /// Which end of the control flow opens it: the one that opened that, or the other one
    pub opener: Direction,
    /// Source port of the packet that opened the control flow
    pub sport: u16,
    /// Its destination port
    pub dport: u16,
    /// What it had in its headers
    pub header: HeaderBits,
}

/// A flow that is expected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expectation {
    /// The key of its first packet, with 0 for the source port: any
    pub key: FlowKey,
    /// What it follows from
    pub related: Related,
    /// What the control flow remembers of the endpoints that it was decided for: of the one that opens this one, and of the other
    pub ends: [u64; 2],
    /// Place of the account that the control flow is on
    pub payer: u32,
}

/// There is no room for one more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

/// The expectations of a host.
#[derive(Debug, Default)]
pub struct Expectations {
    entries: BTreeMap<FlowKey, Entry>,
    /// Oldest first
    by_age: BTreeMap<u64, FlowKey>,
    of_network: BTreeMap<Vni, usize>,
    of_payer: BTreeMap<u32, BTreeSet<u64>>,
    numbered: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    expectation: Expectation,
    until: Instant,
    number: u64,
}

/// An expectation that was taken out of the table for a flow that begins by it.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Taken(Entry);

impl Related {
    /// The key of the packet that opened the control flow of a flow that a packet with this key has opened, or would.
    #[must_use]
    pub const fn control(&self, opened: &FlowKey) -> FlowKey {
        let Self { sport, dport, .. } = *self;
        let from_opener = match self.opener {
            Direction::Original => *opened,
            Direction::Reply => opened.reversed(),
        };
        FlowKey { sport, dport, ..from_opener }
    }
}

impl Taken {
    /// [`Expectation::key`]
    #[must_use]
    pub const fn key(&self) -> FlowKey {
        self.0.expectation.key
    }
}

impl Expectation {
    fn control(&self) -> FlowKey {
        self.related.control(&self.key)
    }

    /// The key that a packet is found by.
    const fn key_of(packet: &FlowKey) -> FlowKey {
        FlowKey { sport: 0, ..*packet }
    }
}

impl Expectations {
    /// Expects a flow from `now` on, in place of whatever was expected of the same key. The key of one that has made room.
    ///
    /// # Errors
    /// [`Full`]: nothing is expected.
    pub fn expect(&mut self, expectation: &Expectation, now: Instant) -> Result<Option<FlowKey>, Full> {
        self.remove(&expectation.key);
        let oldest = self
            .of_payer
            .get(&expectation.payer)
            .filter(|its| its.len() >= MOST_OF_ENDPOINT)
            .and_then(|its| its.first())
            .and_then(|number| self.by_age.get(number).copied());
        if let Some(oldest) = oldest {
            self.remove(&oldest);
        }
        let of_network = self.of_network.get(&expectation.key.vni).copied().unwrap_or(0);
        if self.entries.len() >= MOST || of_network >= MOST_OF_NETWORK {
            return Err(Full);
        }
        self.numbered += 1;
        self.insert(Entry { expectation: *expectation, until: now + LASTS, number: self.numbered });
        Ok(oldest)
    }

    /// What is expected that a packet would begin.
    #[must_use]
    pub fn find(&self, packet: &FlowKey, now: Instant) -> Option<&Expectation> {
        let entry = self.entries.get(&Expectation::key_of(packet)).filter(|entry| entry.until > now)?;
        Some(&entry.expectation)
    }

    /// Takes that out: nobody else begins a flow by it.
    pub fn take(&mut self, packet: &FlowKey) -> Option<Taken> {
        self.remove(&Expectation::key_of(packet)).map(Taken)
    }

    /// The flow has not begun. What is expected of its key by now stays.
    pub fn put_back(&mut self, Taken(entry): Taken) {
        if !self.contains(&entry.expectation.key) {
            self.insert(entry);
        }
    }

    /// Expects that flow no more, if it is this control flow's. True when it was.
    pub fn forget(&mut self, key: &FlowKey, control: &FlowKey) -> bool {
        let is_its = self.entries.get(key).is_some_and(|entry| entry.expectation.control() == *control);
        is_its && self.remove(key).is_some()
    }

    /// One whose time is over, and is not expected any more.
    pub fn pop_overdue(&mut self, now: Instant) -> Option<FlowKey> {
        let (_, key) = self.by_age.first_key_value()?;
        let key = *key;
        self.entries.get(&key).filter(|entry| entry.until <= now)?;
        self.remove(&key).map(|_| key)
    }

    /// Those that are expected, with when their time is over, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&Expectation, Instant)> {
        self.entries.values().map(|entry| (&entry.expectation, entry.until))
    }

    /// Is a flow with this key expected, whether or not in time?
    #[must_use]
    pub fn contains(&self, key: &FlowKey) -> bool {
        self.entries.contains_key(key)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Are there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn insert(&mut self, entry: Entry) {
        let Expectation { key, payer, .. } = entry.expectation;
        self.by_age.insert(entry.number, key);
        *self.of_network.entry(key.vni).or_default() += 1;
        self.of_payer.entry(payer).or_default().insert(entry.number);
        self.entries.insert(key, entry);
    }

    fn remove(&mut self, key: &FlowKey) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        self.by_age.remove(&entry.number);
        if let Some(count) = self.of_network.get_mut(&key.vni) {
            *count -= 1;
            if *count == 0 {
                self.of_network.remove(&key.vni);
            }
        }
        if let Some(its) = self.of_payer.get_mut(&entry.expectation.payer) {
            its.remove(&entry.number);
            if its.is_empty() {
                self.of_payer.remove(&entry.expectation.payer);
            }
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use eastgate_wire::{Addr, Leg, view::proto};
    use proptest::prelude::*;

    use super::*;

    fn vni(number: u32) -> Vni {
        Vni::new_checked(number).unwrap()
    }

    /// Expected by the control flow with source port `control`, to port `dport`
    fn expectation(network: u32, payer: u32, control: u16, dport: u16) -> Expectation {
        let key = FlowKey {
            src: Addr::v4([10, 1, 0, 21]),
            dst: Addr::v4([10, 1, (payer >> 8) as u8, payer as u8]),
            vni: vni(network),
            sport: 0,
            dport,
            proto: proto::TCP,
            leg: Leg::DIRECT,
        };
        let (opener, header) = (Direction::Reply, HeaderBits::default());
        let related = Related { helper: Helper::Ftp, opener, sport: control, dport: 21, header };
        Expectation { key, related, ends: [1, 2], payer }
    }

    const NOW: Instant = Instant::from_secs(1000);

    #[test]
    fn one_flow_is_let_pass_from_any_port_to_one() {
        let mut table = Expectations::default();
        let expected = expectation(1, 1, 40_000, 50_000);
        table.expect(&expected, NOW).unwrap();
        let first = FlowKey { sport: 20, ..expected.key };
        for (what, other) in [
            ("another port", FlowKey { dport: 50_001, ..first }),
            ("another network", FlowKey { vni: vni(2), ..first }),
            ("another protocol", FlowKey { proto: proto::UDP, ..first }),
            ("another source", FlowKey { src: Addr::v4([10, 1, 0, 22]), ..first }),
            ("the other way", FlowKey { sport: first.dport, dport: 20, ..first.reversed() }),
            ("another leg", FlowKey { leg: Leg::from_bits(7), ..first }),
        ] {
            assert_eq!(table.find(&other, NOW), None, "{what}");
            assert!(table.take(&other).is_none(), "{what}");
        }
        assert_eq!(table.find(&first, NOW), Some(&expected));
        let taken = table.take(&first).unwrap();
        assert_eq!(table.find(&first, NOW), None);
        table.put_back(taken);
        assert_eq!(table.find(&FlowKey { sport: 21, ..first }, NOW), Some(&expected));
        let control = FlowKey { src: first.dst, dst: first.src, sport: 40_000, dport: 21, ..first };
        assert_eq!(expected.control(), control);
        assert!(!table.forget(&expected.key, &FlowKey { sport: 40_001, ..control }), "another control flow");
        assert!(table.forget(&expected.key, &control) && table.is_empty());
    }

    #[test]
    fn it_lasts_five_minutes_and_a_repetition_begins_them_anew() {
        let mut table = Expectations::default();
        let [one, other] = [expectation(1, 1, 1, 50_000), expectation(1, 1, 2, 50_001)];
        table.expect(&one, NOW).unwrap();
        table.expect(&other, NOW).unwrap();
        let later = NOW + Duration::from_secs(200);
        table.expect(&one, later).unwrap();
        let over = NOW + LASTS;
        assert_eq!((table.find(&other.key, over), table.find(&one.key, over)), (None, Some(&one)));
        assert_eq!((table.pop_overdue(over), table.pop_overdue(over)), (Some(other.key), None));
        assert_eq!((table.pop_overdue(later + LASTS), table.len()), (Some(one.key), 0));
    }

    #[test]
    fn the_oldest_of_an_endpoint_makes_room_and_a_network_has_its_limit() {
        let mut table = Expectations::default();
        let of = |payer, n: usize| expectation(1, payer, n as u16, 1024 + n as u16);
        for n in 0..MOST_OF_ENDPOINT {
            assert_eq!(table.expect(&of(1, n), NOW), Ok(None));
        }
        assert_eq!(table.expect(&of(1, 0), NOW), Ok(None), "the same again needs no room");
        assert_eq!(table.expect(&of(1, MOST_OF_ENDPOINT), NOW), Ok(Some(of(1, 1).key)));
        for n in 0..MOST_OF_NETWORK - MOST_OF_ENDPOINT {
            assert_eq!(table.expect(&of(2 + n as u32, n), NOW), Ok(None));
        }
        assert_eq!(table.len(), MOST_OF_NETWORK);
        assert_eq!(table.expect(&of(9000, 1), NOW), Err(Full));
        // Whoever has the most of them goes on with its own.
        assert_eq!(table.expect(&of(1, MOST_OF_ENDPOINT + 1), NOW), Ok(Some(of(1, 2).key)));
        for network in 2..=4 {
            for n in 0..MOST_OF_NETWORK as u32 {
                table.expect(&expectation(network, 10_000 * network + n, 0, 2000), NOW).unwrap();
            }
        }
        assert_eq!((table.len(), table.expect(&expectation(5, 50_000, 0, 2000), NOW)), (MOST, Err(Full)));
    }

    proptest! {
        #[test]
        fn what_is_counted_is_there(steps in proptest::collection::vec((0u8..5, 0u32..3, 0u16..4, 0u64..400), 0..60)) {
            let (mut table, mut now) = (Expectations::default(), NOW);
            for (what, payer, port, secs) in steps {
                let expected = expectation(1 + payer % 2, payer, port, 2000 + port % 3);
                match what {
                    0 | 1 => drop(table.expect(&expected, now)),
                    2 => if let Some(taken) = table.take(&expected.key) && port % 2 == 0 {
                        table.put_back(taken);
                    },
                    3 => drop(table.forget(&expected.key, &expected.control())),
                    _ => {
                        now = now + Duration::from_secs(secs);
                        while table.pop_overdue(now).is_some() {}
                    }
                }
                let len = table.entries.len();
                prop_assert_eq!(table.by_age.len(), len);
                prop_assert_eq!(table.of_network.values().sum::<usize>(), len);
                prop_assert_eq!(table.of_payer.values().map(BTreeSet::len).sum::<usize>(), len);
                prop_assert!(table.of_payer.values().all(|its| !its.is_empty()));
            }
        }
    }
}
