//! Compiled policies in the kernel, the endpoints that they are about, and what they have refused.

use std::os::fd::{AsFd, AsRawFd};

use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType, libbpf_sys};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::{
    Error, Fastpath,
    layout::{Denied, DeniedKey, Endpoint, EndpointKey, PolicyDrop, PolicyDropKey},
    remove, write,
};

/// Bytes and words of a block of a compiled policy
const BLOCK_WORDS: usize = crate::numbers::POLICY_BLOCK;
const POLICY_BLOCK: usize = BLOCK_WORDS * size_of::<u32>();

/// A compiled policy that the kernel has.
#[derive(Debug)]
pub struct Policy {
    map: MapHandle,
    words: Vec<u32>,
}

impl Policy {
    /// Gives a compiled policy to the kernel: whole blocks, as the programs read them, the first one with its epoch.
    ///
    /// # Errors
    /// [`Error::Table`]: no memory for it, above all.
    pub fn load(words: Vec<u32>) -> Result<Self, Error> {
        let options = libbpf_sys::bpf_map_create_opts {
            sz: size_of::<libbpf_sys::bpf_map_create_opts>() as _,
            map_flags: libbpf_sys::BPF_F_INNER_MAP,
            ..Default::default()
        };
        let (key, value, blocks) =
            (size_of::<u32>() as u32, POLICY_BLOCK as u32, blocks(&words).max(1) as u32);
        let map = MapHandle::create(MapType::Array, Some("policy"), key, value, blocks, &options)
            .map_err(|source| Error::Table { table: "policy", source })?;
        let policy = Self { map, words };
        policy.write(&(0..blocks).collect::<Vec<_>>(), &policy.words)?;
        Ok(policy)
    }

    /// Makes another policy of it, and writes only the blocks that differ, last the first one. How many; nothing when there is
    /// no room in it. It must not be in force meanwhile: the epoch of its network is another one already.
    ///
    /// # Errors
    /// [`Error::Table`]; it is none any more then.
    pub fn change(&mut self, words: Vec<u32>) -> Result<Option<usize>, Error> {
        if blocks(&words) > blocks(&self.words) {
            return Ok(None);
        }
        let (old, new) = (self.words.chunks(BLOCK_WORDS), words.chunks(BLOCK_WORDS));
        let differ = (0..).zip(new.zip(old)).filter(|(_, (new, old))| new != old);
        let (mut places, mut values) = (Vec::new(), Vec::new());
        for (place, (block, _)) in differ.filter(|(place, _)| *place > 0) {
            places.push(place);
            values.extend_from_slice(block);
        }
        self.write(&places, &values)?;
        self.write(&[0], words.get(..BLOCK_WORDS).unwrap_or(&[]))?;
        // What is behind a shorter one stays as it is, and is known to.
        self.words.splice(..words.len(), words);
        Ok(Some(places.len() + 1))
    }

    /// Memory that it takes up, in bytes
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.words)
    }

    fn write(&self, places: &[u32], words: &[u32]) -> Result<(), Error> {
        if places.is_empty() {
            return Ok(());
        }
        let count = places.len() as u32;
        self.map
            .update_batch(places.as_bytes(), words.as_bytes(), count, MapFlags::ANY, MapFlags::ANY)
            .map_err(|source| Error::Table { table: "policy", source })
    }
}

fn blocks(words: &[u32]) -> usize {
    words.len().div_ceil(BLOCK_WORDS)
}

impl Fastpath {
    /// Puts compiled policies in force, each at its network's place and in one step. The call waits until no program has
    /// those before in hand.
    ///
    /// # Errors
    /// [`Error::Table`]; some of them may be in force then.
    pub fn set_policies(&self, policies: &[(u32, &Policy)]) -> Result<(), Error> {
        let places: Vec<u32> = policies.iter().map(|(place, _)| *place).collect();
        let handles: Vec<i32> = policies.iter().map(|(_, policy)| policy.map.as_fd().as_raw_fd()).collect();
        if policies.is_empty() {
            return Ok(());
        }
        let count = policies.len() as u32;
        self.policies
            .update_batch(places.as_bytes(), handles.as_bytes(), count, MapFlags::ANY, MapFlags::ANY)
            .map_err(|source| Error::Table { table: "policies", source })
    }

    /// No policy is in force at these places.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn clear_policies(&self, places: &[u32]) -> Result<(), Error> {
        if places.is_empty() {
            return Ok(());
        }
        // Of an epoch that no network has. It is put there in one call; to take policies out takes one for each.
        let nothing = Policy::load(vec![u32::MAX; BLOCK_WORDS])?;
        self.set_policies(&places.iter().map(|place| (*place, &nothing)).collect::<Vec<_>>())
    }

    /// Says who has an address.
    ///
    /// # Errors
    /// [`Error::Table`]; when the table is full among it.
    pub fn set_endpoint(&self, key: &EndpointKey, endpoint: &Endpoint) -> Result<(), Error> {
        write(&self.endpoints, "endpoints", key, endpoint)
    }

    /// Nobody has it.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn remove_endpoint(&self, key: &EndpointKey) -> Result<(), Error> {
        remove(&self.endpoints, "endpoints", key.as_bytes())
    }

    /// What the rules have refused in the kernel.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn policy_drops(&self) -> Result<Vec<(PolicyDropKey, PolicyDrop)>, Error> {
        let keys = self.policy_drops.keys().filter_map(|key| PolicyDropKey::read_from_bytes(&key).ok());
        let rows = keys.map(|key| {
            let mut denial = PolicyDrop::new_zeroed();
            let found = self.policy_drops.lookup_into(key.as_bytes(), denial.as_mut_bytes(), MapFlags::LOCK);
            found
                .map(|found| found.then_some((key, denial)))
                .map_err(|source| Error::Table { table: "policy_drops", source })
        });
        rows.filter_map(Result::transpose).collect()
    }

    /// The packets that they were, as far as these are remembered.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn denied(&self) -> Result<Vec<(DeniedKey, Denied)>, Error> {
        let keys = self.denied.keys().filter_map(|key| DeniedKey::read_from_bytes(&key).ok());
        let rows = keys.map(|key| {
            let mut denied = Denied::new_zeroed();
            let found = self.denied.lookup_into(key.as_bytes(), denied.as_mut_bytes(), MapFlags::ANY);
            found
                .map(|found| found.then_some((key, denied)))
                .map_err(|source| Error::Table { table: "denied", source })
        });
        rows.filter_map(Result::transpose).collect()
    }

    /// Forgets one of them.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn remove_denied(&self, key: &DeniedKey) -> Result<(), Error> {
        remove(&self.denied, "denied", key.as_bytes())
    }

    /// What the rules without state have let pass in the kernel.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn passed_stateless(&self) -> Result<Vec<(PolicyDropKey, Denied)>, Error> {
        let keys = self.stateless.keys().filter_map(|key| PolicyDropKey::read_from_bytes(&key).ok());
        let rows = keys.map(|key| {
            let mut passed = Denied::new_zeroed();
            let found = self.stateless.lookup_into(key.as_bytes(), passed.as_mut_bytes(), MapFlags::ANY);
            found
                .map(|found| found.then_some((key, passed)))
                .map_err(|source| Error::Table { table: "stateless", source })
        });
        rows.filter_map(Result::transpose).collect()
    }

    /// Forgets one of them.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn remove_stateless(&self, key: &PolicyDropKey) -> Result<(), Error> {
        remove(&self.stateless, "stateless", key.as_bytes())
    }

    /// Forgets a row of it. What a program counts there at this moment is lost.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn remove_denial(&self, key: &PolicyDropKey) -> Result<(), Error> {
        remove(&self.policy_drops, "policy_drops", key.as_bytes())
    }
}
