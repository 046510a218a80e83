//! The outer UDP source port: all there is for the underlay to spread flows by (RFC 7348 section 5).
//!
//! One flow has one port, so that its packets stay in order; many flows spread evenly. The sender needs a
//! socket for each port (the kernel's UDP GSO sends from the port a socket is bound to), so the range is not
//! used up: a power-of-two number of ports, spread evenly over it, is.

use std::hash::BuildHasher;

use eastgate_wire::{Addr, FlowKey, View, view::Net};

use crate::Error;

/// The source ports of the overlay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SourcePorts {
    first: u16,
    available: u32,
    buckets: u32,
}

impl Default for SourcePorts {
    /// 256 ports of 49152-65535.
    fn default() -> Self {
        Self { first: 49152, available: 16384, buckets: 256 }
    }
}

impl SourcePorts {
    /// `buckets` ports of `first..=last`.
    ///
    /// # Errors
    /// [`Error::PortRange`] when the range is empty or holds port 0; [`Error::Buckets`] when `buckets` is no
    /// power of two or more than the range has.
    pub const fn new_checked(first: u16, last: u16, buckets: u32) -> Result<Self, Error> {
        if first == 0 || last < first {
            return Err(Error::PortRange { first, last });
        }
        let available = (last - first) as u32 + 1;
        if !buckets.is_power_of_two() || buckets > available {
            return Err(Error::Buckets { buckets, available });
        }
        Ok(Self { first, available, buckets })
    }

    /// How many ports are in use.
    #[must_use]
    pub const fn buckets(self) -> u32 {
        self.buckets
    }

    /// The first port of the range, and how many there are; [`SourcePorts::buckets`] of them are in use.
    #[must_use]
    pub const fn range(self) -> (u16, u32) {
        (self.first, self.available)
    }

    /// The bucket that a flow falls into, below [`SourcePorts::buckets`]. The upper half of the hash is used:
    /// hash tables use the lower.
    #[inline]
    #[must_use]
    pub const fn bucket(self, hash: u64) -> u32 {
        (hash >> 32) as u32 & (self.buckets - 1)
    }

    /// The port of a bucket; one beyond the last counts as the last.
    #[must_use]
    pub const fn port(self, bucket: u32) -> u16 {
        let bucket = if bucket < self.buckets { bucket } else { self.buckets - 1 };
        // Below 65536 x 65536, and the quotient below `available`: neither step can overflow.
        let offset = (bucket as u64 * self.available as u64 / self.buckets as u64) as u16;
        self.first + offset
    }

    /// The bucket whose port this is, if it is one of ours.
    #[must_use]
    pub fn bucket_of(self, port: u16) -> Option<u32> {
        let offset = u64::from(port.checked_sub(self.first)?);
        let bucket = (offset * u64::from(self.buckets)).div_ceil(u64::from(self.available)) as u32;
        (bucket < self.buckets && self.port(bucket) == port).then_some(bucket)
    }

    /// All ports, by bucket.
    pub fn ports(self) -> impl Iterator<Item = u16> {
        (0..self.buckets).map(move |bucket| self.port(bucket))
    }
}

/// The hash of the flow that a frame belongs to: addresses, protocol and ports of an IP packet, MACs and
/// ethertype of anything else. The caller's hasher is keyed, so that a tenant cannot choose its port.
///
/// Fragments hash by their addresses alone: later ones have no ports, and in IPv6 they do not even name the
/// protocol when other headers follow the fragment header. So all fragments of a datagram stay together.
#[inline]
#[must_use]
pub fn flow_hash(view: &View, hasher: &impl BuildHasher) -> u64 {
    match &view.net {
        Net::Ip(ip) if ip.fragment.is_some() => hasher.hash_one((ip.src.bits(), ip.dst.bits())),
        Net::Ip(ip) => {
            let (sport, dport) = ip.ports();
            hash_of(ip.src, ip.dst, ip.proto, sport, dport, hasher)
        }
        Net::Arp | Net::Other => hasher.hash_one((view.dst, view.src, view.ethertype)),
    }
}

/// The hash of a flow's packets in the direction of `key`, when they are whole: that of [`flow_hash`].
#[must_use]
pub fn key_hash(key: &FlowKey, hasher: &impl BuildHasher) -> u64 {
    hash_of(key.src, key.dst, key.proto, key.sport, key.dport, hasher)
}

fn hash_of(src: Addr, dst: Addr, proto: u8, sport: u16, dport: u16, hasher: &impl BuildHasher) -> u64 {
    let rest = u64::from(proto) << 32 | u64::from(sport) << 16 | u64::from(dport);
    hasher.hash_one((src.bits(), dst.bits(), rest))
}

#[cfg(test)]
mod tests {
    use ahash::RandomState;
    use proptest::prelude::*;

    use super::*;
    use crate::test_frames::{fragment_v6, tcp_v4, udp_v4, udp_v6};

    fn hasher() -> RandomState {
        RandomState::with_seeds(1, 2, 3, 4)
    }

    fn hash_of(frame: &[u8]) -> u64 {
        flow_hash(&View::parse(frame).unwrap(), &hasher())
    }

    #[test]
    fn settings_are_checked() {
        assert_eq!(SourcePorts::new_checked(49152, 65535, 256), Ok(SourcePorts::default()));
        assert_eq!(SourcePorts::new_checked(0, 9, 2), Err(Error::PortRange { first: 0, last: 9 }));
        assert_eq!(SourcePorts::new_checked(9, 8, 2), Err(Error::PortRange { first: 9, last: 8 }));
        for buckets in [0, 3, 16, u32::MAX] {
            assert_eq!(
                SourcePorts::new_checked(1, 8, buckets),
                Err(Error::Buckets { buckets, available: 8 })
            );
        }
    }

    #[test]
    fn the_default_is_the_range_of_the_rfc() {
        let ports: Vec<u16> = SourcePorts::default().ports().collect();
        assert_eq!((ports.len(), ports[0], ports[1]), (256, 49152, 49152 + 64));
        assert!(ports.iter().all(|port| *port >= 49152));
    }

    proptest! {
        #[test]
        fn ports_are_distinct_evenly_apart_and_found_again(first in 1u16..60000, len in 1u32..5000, power in 0u32..12) {
            let last = first.saturating_add((len - 1) as u16);
            let Ok(ports) = SourcePorts::new_checked(first, last, 1 << power) else { return Ok(()) };
            let all: Vec<u16> = ports.ports().collect();
            let (low, high) = (ports.available / ports.buckets, ports.available.div_ceil(ports.buckets));
            for pair in all.windows(2) {
                prop_assert!((low..=high).contains(&u32::from(pair[1] - pair[0])));
            }
            for port in first..=last {
                prop_assert_eq!(ports.bucket_of(port), all.iter().position(|p| *p == port).map(|i| i as u32));
            }
            prop_assert!(all.iter().all(|port| (first..=last).contains(port)));
        }

        #[test]
        fn one_flow_one_port(payload in proptest::collection::vec(any::<u8>(), 0..50), ttl: u8, seq: u32) {
            let one = tcp_v4(40000, 443, seq, &payload);
            let mut other = tcp_v4(40000, 443, 1, b"else");
            // Another TTL with its checksum mended: still the same flow.
            let word = u16::from_be_bytes([other[22], other[23]]);
            let sum = u16::from_be_bytes([other[24], other[25]]);
            let mended = eastgate_wire::checksum::update(sum, word, u16::from_be_bytes([ttl, other[23]]));
            other[22] = ttl;
            other[24..26].copy_from_slice(&mended.to_be_bytes());
            prop_assert_eq!(hash_of(&one), hash_of(&other));
        }
    }

    /// 256 buckets, 65,536 flows: chi-square has 255 degrees of freedom, mean 255, deviation 22.6. Six
    /// deviations up is 391; a hash that leaves even a few buckets out is in the thousands.
    #[test]
    fn many_flows_spread_evenly() {
        let ports = SourcePorts::default();
        let hasher = hasher();
        let spread = |frames: &mut dyn Iterator<Item = Vec<u8>>| {
            let mut counts = [0f64; 256];
            for frame in frames {
                let hash = flow_hash(&View::parse(&frame).unwrap(), &hasher);
                counts[ports.bucket(hash) as usize] += 1.0;
            }
            let expected = counts.iter().sum::<f64>() / 256.0;
            counts.iter().map(|n| (n - expected).powi(2) / expected).sum::<f64>()
        };
        let by_source_port = spread(&mut (0..=u16::MAX).map(|port| tcp_v4(port, 443, 1, b"")));
        assert!(by_source_port < 391.0, "TCP: chi-square {by_source_port}");
        let by_udp = spread(&mut (0..=u16::MAX).map(|port| udp_v6(5000, port, b"")));
        assert!(by_udp < 391.0, "UDP over IPv6: chi-square {by_udp}");
        let by_mac = spread(&mut (0..=u16::MAX).map(|n| {
            let [a, b] = n.to_be_bytes();
            [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, a, b, 0x88, 0xb5].to_vec()
        }));
        assert!(by_mac < 391.0, "MACs: chi-square {by_mac}");
    }

    #[test]
    fn fragments_of_one_datagram_stay_together() {
        let whole = udp_v4(5000, 6000, &[7; 64]);
        let as_fragment = |field: u16| {
            let mut frame = whole.clone();
            frame[20..22].copy_from_slice(&field.to_be_bytes());
            frame[24..26].fill(0);
            let sum = eastgate_wire::checksum::checksum(&frame[14..34]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
            frame
        };
        assert_eq!(hash_of(&as_fragment(0x2000)), hash_of(&as_fragment(8)));
        // The first fragment shows UDP behind a destination options header, a later one only that header.
        let first = fragment_v6(60, 0, true, &[17, 0, 1, 4, 0, 0, 0, 0, 0, 1, 0, 2, 0, 8, 0, 0]);
        let later = fragment_v6(60, 16, false, &[9; 8]);
        assert_ne!(
            View::parse(&first).unwrap().ip().unwrap().proto,
            View::parse(&later).unwrap().ip().unwrap().proto
        );
        assert_eq!(hash_of(&first), hash_of(&later));
    }

    #[test]
    fn the_key_of_the_hasher_matters() {
        let view = View::parse(&udp_v4(1, 2, b"")).unwrap();
        assert_ne!(flow_hash(&view, &hasher()), flow_hash(&view, &RandomState::with_seeds(5, 6, 7, 8)));
    }
}
