//! How flows are spread over shards: by their key, the same for both directions.

use ahash::RandomState;
use eastgate_wire::FlowKey;

use super::segment::Key;

/// Which shard a flow lives in.
#[derive(Clone, Debug)]
pub struct Sharding {
    hasher: RandomState,
    shards: u32,
}

impl Sharding {
    /// That many shards, at least one. The hasher must not be the tables' own, or a shard would use only its
    /// share of its index.
    #[must_use]
    pub fn new(hasher: RandomState, shards: u32) -> Self {
        Self { hasher, shards: shards.max(1) }
    }

    /// The shard of a flow, the same for both directions.
    #[must_use]
    pub fn shard(&self, key: &FlowKey) -> u32 {
        let (key, _) = Key::of(key, None);
        let hash = self.hasher.hash_one(key) >> 32;
        ((hash * u64::from(self.shards)) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use eastgate_wire::{Addr, Leg, Vni};

    use super::*;

    /// Attack 26: flows that meet in one shard under one key are strewn over all of them under another, and every table has
    /// its own.
    #[test]
    fn the_key_decides_where_a_flow_lives() {
        let [one, other] = [0u8; 2].map(|_| Sharding::new(RandomState::new(), 64));
        let vni = Vni::new_checked(5001).unwrap();
        let (src, dst) = (Addr::v4([10, 1, 0, 11]), Addr::v4([10, 1, 0, 21]));
        let flow = |number: u32| FlowKey {
            vni,
            src,
            dst,
            sport: number as u16,
            dport: (number >> 16) as u16,
            proto: 17,
            leg: Leg::DIRECT,
        };
        let together: Vec<FlowKey> =
            (0..200_000).map(flow).filter(|key| one.shard(key) == 7).take(2_000).collect();
        assert_eq!(together.len(), 2_000);
        let mut elsewhere = [0u32; 64];
        together.iter().for_each(|key| elsewhere[other.shard(key) as usize] += 1);
        // 31 in each are to be expected.
        assert!(elsewhere.iter().all(|flows| (5..100).contains(flows)), "{elsewhere:?}");
    }
}
