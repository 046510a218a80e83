//! Longest-prefix match as disjoint ranges: which value holds for an address.

use std::sync::Arc;

use eastgate_wire::{Addr, Family};

use super::search;

/// A prefix in the canonical form: bits behind `len` are zero, `len` fits the family.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Prefix {
    // Families first, then containment order: a prefix sorts right before those inside it.
    family: Family,
    first: u128,
    len: u8,
}

impl Prefix {
    /// The prefix `network/len`, `len` in the 128-bit form; none when an IPv4 prefix would be wider than IPv4.
    pub(crate) fn new(network: Addr, len: u8) -> Option<Self> {
        let family = network.family();
        if len > 128 || family == Family::V4 && len < 96 {
            return None;
        }
        let host_bits = if len == 0 { u128::MAX } else { (1u128 << (128 - len)) - 1 };
        Some(Self { family, first: network.bits() & !host_bits, len })
    }

    /// Every address of a family.
    pub(crate) const fn whole(family: Family) -> Self {
        match family {
            Family::V4 => Self { family, first: Addr::v4([0; 4]).bits(), len: 96 },
            Family::V6 => Self { family, first: 0, len: 0 },
        }
    }

    pub(crate) const fn family(self) -> Family {
        self.family
    }

    pub(crate) const fn first(self) -> u128 {
        self.first
    }

    pub(crate) const fn last(self) -> u128 {
        let host_bits = if self.len == 0 { u128::MAX } else { (1u128 << (128 - self.len)) - 1 };
        self.first | host_bits
    }

    /// Is `inner` the same prefix or inside it?
    pub(crate) fn contains(self, inner: Self) -> bool {
        self.family == inner.family
            && self.len <= inner.len
            && inner.last() <= self.last()
            && self.first <= inner.first
    }
}

/// A value for every address, both families apart.
#[derive(Clone, Debug)]
pub(crate) struct AddressMap {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

/// Where each range begins, and its value; the tables of [`search`].
#[derive(Clone, Debug)]
struct Ranges<K> {
    starts: Arc<[K]>,
    values: Arc<[u32]>,
    tables: Arc<[u32]>,
}

impl AddressMap {
    /// The value of the longest prefix that an address is in, or `outside`. `prefixes` are sorted and distinct.
    pub(crate) fn new(prefixes: &[(Prefix, u32)], outside: u32) -> Self {
        let (v4, v6) = prefixes.split_at(prefixes.partition_point(|(p, _)| p.family == Family::V4));
        Self {
            v4: Ranges::new(v4, outside, Prefix::whole(Family::V4), |bits| bits as u32),
            v6: Ranges::new(v6, outside, Prefix::whole(Family::V6), |bits| bits),
        }
    }

    #[inline]
    pub(crate) fn get(&self, addr: Addr) -> Option<u32> {
        match addr.family() {
            Family::V4 => self.v4.get(addr.bits() as u32),
            Family::V6 => self.v6.get(addr.bits()),
        }
    }

    pub(crate) fn ranges(&self) -> usize {
        self.v4.values.len() + self.v6.values.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.v4.bytes() + self.v6.bytes()
    }
}

impl<K: search::Key> Ranges<K> {
    fn new(prefixes: &[(Prefix, u32)], outside: u32, whole: Prefix, key: impl Fn(u128) -> K) -> Self {
        let mut cuts = Cuts { starts: Vec::with_capacity(prefixes.len() + 1), values: Vec::new(), key };
        cuts.cut(whole.first, outside);
        let mut open: Vec<(u128, u32)> = vec![(whole.last(), outside)];
        for &(prefix, value) in prefixes {
            while let Some(&(last, _)) = open.last()
                && last < prefix.first
            {
                open.pop();
                cuts.resume(last, open.last());
            }
            cuts.cut(prefix.first, value);
            open.push((prefix.last(), value));
        }
        while let Some((last, _)) = open.pop() {
            cuts.resume(last, open.last().filter(|_| last < whole.last()));
        }
        let mut tables = Vec::new();
        search::index(&cuts.starts, &mut tables);
        Self { starts: cuts.starts.into(), values: cuts.values.into(), tables: tables.into() }
    }

    #[inline]
    fn get(&self, key: K) -> Option<u32> {
        let at = search::predecessor(&self.starts, self.starts.len(), &self.tables, key);
        self.values.get(at).copied()
    }

    fn bytes(&self) -> usize {
        size_of_val(&*self.starts) + size_of_val(&*self.values) + size_of_val(&*self.tables)
    }
}

struct Cuts<K, F> {
    starts: Vec<K>,
    values: Vec<u32>,
    key: F,
}

impl<K: Copy + Ord, F: Fn(u128) -> K> Cuts<K, F> {
    /// From `first` on, `value` holds.
    fn cut(&mut self, first: u128, value: u32) {
        let start = (self.key)(first);
        if self.starts.last() == Some(&start) {
            self.starts.pop();
            self.values.pop();
        }
        if self.values.last() != Some(&value) {
            self.starts.push(start);
            self.values.push(value);
        }
    }

    /// Behind `last`, what surrounds it holds again.
    fn resume(&mut self, last: u128, surrounding: Option<&(u128, u32)>) {
        if let Some(&(outer, value)) = surrounding
            && last < outer
        {
            self.cut(last + 1, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    fn prefix(text: &str) -> Prefix {
        let (network, len) = text.split_once('/').unwrap();
        let network: Addr = network.parse::<IpAddr>().unwrap().into();
        let len: u8 = len.parse().unwrap();
        Prefix::new(network, if network.is_v4() { len + 96 } else { len }).unwrap()
    }

    #[test]
    fn a_prefix_keeps_to_its_family() {
        assert_eq!(Prefix::new(Addr::v4([10, 0, 0, 0]), 95), None);
        assert_eq!(Prefix::new(Addr::v6([0; 16]), 129), None);
        assert!(!prefix("::/0").contains(prefix("10.0.0.0/8")));
        assert!(prefix("10.0.0.0/8").contains(prefix("10.255.0.0/16")));
        assert_eq!(prefix("10.1.2.3/8"), prefix("10.0.0.0/8"));
    }

    proptest! {
        #[test]
        fn the_longest_prefix_wins(
            raw in proptest::collection::vec((any::<bool>(), 0u32..64, 0u8..33), 0..40),
            asked in proptest::collection::vec((any::<bool>(), 0u32..64), 50),
        ) {
            // Clustered at both ends of the space, where ranges touch the edges.
            let address = |v4: bool, n: u32| {
                let n = if n < 32 { n } else { u32::MAX - (n - 32) };
                let high = if n < 32 { 0 } else { u128::MAX << 32 };
                if v4 { Addr::v4(n.to_be_bytes()) } else { Addr::from_bits(high | u128::from(n)) }
            };
            let mut prefixes: Vec<_> = raw.iter().map(|&(v4, n, len)| {
                let len = if v4 { 96 + len } else if len == 0 { 0 } else { 96 + len };
                Prefix::new(address(v4, n), len).unwrap()
            }).collect();
            prefixes.sort_unstable();
            prefixes.dedup();
            let numbered: Vec<_> = prefixes.iter().copied().zip(1..).collect();
            let map = AddressMap::new(&numbered, 0);
            for (v4, n) in asked {
                let addr = address(v4, n);
                let own = Prefix::new(addr, 128).unwrap();
                let longest = numbered.iter().filter(|(p, _)| p.contains(own)).max_by_key(|(p, _)| p.len);
                prop_assert_eq!(map.get(addr), Some(longest.map_or(0, |(_, value)| *value)), "{}", addr);
            }
        }
    }
}
