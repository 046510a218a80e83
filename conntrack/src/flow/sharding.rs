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
