//! Addresses that a network was asked for on behalf of packets: each once in a while, however many packets there are for it.

use std::{
    collections::{HashSet, VecDeque},
    time::Duration,
};

use ahash::RandomState;
use eastgate_wire::{Addr, Instant};

/// How often one address is asked for: as often as stacks do it (RFC 1122 section 2.3.2.1, RFC 4861 section 10).
const EVERY: Duration = Duration::from_secs(1);
/// Addresses of one network that are asked for within that time, at most: as many as it can learn
const MOST: usize = 4096;

/// What is to be done for a packet whose address nobody is known to have.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Search {
    /// It may be asked for.
    Due,
    /// It was asked for a moment ago.
    Asked,
    /// Too many others were.
    Full,
}

/// Addresses of one network that were asked for a moment ago. Calls are given times that do not go back.
#[derive(Debug, Default)]
pub struct Sought {
    asked: HashSet<Addr, RandomState>,
    /// The same, the first one first
    order: VecDeque<(Instant, Addr)>,
}

impl Sought {
    /// Whether an address may be asked for.
    pub fn look(&mut self, address: Addr, now: Instant) -> Search {
        while let Some((at, asked)) = self.order.front()
            && now.since(*at) >= EVERY
        {
            self.asked.remove(asked);
            self.order.pop_front();
        }
        if self.asked.contains(&address) {
            Search::Asked
        } else if self.order.len() >= MOST {
            Search::Full
        } else {
            Search::Due
        }
    }

    /// It was asked for, where [`Self::look`] said that it may be.
    pub fn note(&mut self, address: Addr, now: Instant) {
        if self.asked.insert(address) {
            self.order.push_back((now, address));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_is_asked_for_once_a_second_and_limits_are_exact() {
        let at = |millis: u64| Instant::from_micros(1_000_000_000 + millis * 1000);
        let address = |number: usize| Addr::v4([10, 1, (number >> 8) as u8, number as u8]);
        let mut sought = Sought::default();
        for number in 0..MOST {
            assert_eq!(sought.look(address(number), at(0)), Search::Due);
            sought.note(address(number), at(0));
            assert_eq!(sought.look(address(number), at(0)), Search::Asked);
        }
        assert_eq!(sought.look(address(MOST), at(999)), Search::Full);
        assert_eq!(sought.look(address(0), at(999)), Search::Asked, "who is sought stays so");
        assert_eq!(sought.look(address(0), at(1000)), Search::Due);
        assert_eq!(sought.look(address(MOST), at(1000)), Search::Due);
        assert_eq!((sought.asked.len(), sought.order.len()), (0, 0));
    }
}
