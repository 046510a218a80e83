//! How often something may be asked: by whoever has a token, and from an address.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
};

use eastgate_wire::{Instant, Rate, TokenBucket};

/// Rates of many, of whom those that were heard of first are forgotten when there are too many.
#[derive(Debug)]
pub(super) struct Rates<K> {
    rate: Rate,
    most: usize,
    buckets: Mutex<Buckets<K>>,
}

#[derive(Debug)]
struct Buckets<K> {
    of: HashMap<K, TokenBucket>,
    order: VecDeque<K>,
}

impl<K: Clone + Eq + Hash> Rates<K> {
    pub(super) fn new(rate: Rate, most: usize) -> Self {
        Self { rate, most, buckets: Mutex::new(Buckets { of: HashMap::new(), order: VecDeque::new() }) }
    }

    /// Once more: may it?
    pub(super) fn take(&self, key: &K, now: Instant) -> bool {
        self.with(key, now, |bucket| bucket.take(now))
    }

    /// Could it?
    pub(super) fn has_any(&self, key: &K, now: Instant) -> bool {
        self.with(key, now, |bucket| bucket.clone().take(now))
    }

    /// It was heard of, and not forgotten since.
    pub(super) fn has(&self, key: &K) -> bool {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner).of.contains_key(key)
    }

    fn with<T>(&self, key: &K, now: Instant, work: impl FnOnce(&mut TokenBucket) -> T) -> T {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let Buckets { of, order } = &mut *buckets;
        if !of.contains_key(key) {
            if order.len() >= self.most
                && let Some(oldest) = order.pop_front()
            {
                of.remove(&oldest);
            }
            order.push_back(key.clone());
        }
        work(of.entry(key.clone()).or_insert_with(|| TokenBucket::new(self.rate, now)))
    }
}

/// Whom an address stands for: of IPv6, whoever has a network of 64 bits may have any address of it.
pub(super) fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_own_rate_and_they_are_bounded() {
        let now = Instant::from_secs(1);
        let rates = Rates::new(Rate { per_second: 1, burst: 2 }, 3);
        assert!(!rates.has(&1));
        assert!(rates.has_any(&1, now) && rates.has(&1) && rates.take(&1, now) && rates.take(&1, now));
        assert!(!rates.take(&1, now) && !rates.has_any(&1, now) && rates.take(&2, now));
        assert!(rates.take(&1, Instant::from_secs(2)));
        for other in 10..20 {
            assert!(rates.take(&other, now));
        }
        assert_eq!(rates.buckets.lock().unwrap().of.len(), 3);
    }

    #[test]
    fn addresses_of_one_network_are_one_source() {
        let of = |text: &str| source_of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
