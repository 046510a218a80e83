//! Compiled policies in the kernel, the endpoints that they are about, and what they have refused.

use std::os::fd::{AsFd, AsRawFd};

use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType, libbpf_sys};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::{
    Error, Fastpath,
    layout::{Denial, DenialKey, Station, StationKey},
    remove, write,
};

/// Bytes of a block of a compiled policy
pub(crate) const POLICY_BLOCK: usize = 64;

/// A compiled policy that the kernel has, and that is in force nowhere yet.
#[derive(Debug)]
pub struct Policy(MapHandle);

impl Policy {
    /// Gives a compiled policy to the kernel: whole blocks, as the programs read them.
    ///
    /// # Errors
    /// [`Error::Table`]: no memory for it, above all.
    pub fn load(words: &[u32]) -> Result<Self, Error> {
        let failed = |source| Error::Table { table: "policy", source };
        let blocks = size_of_val(words).div_ceil(POLICY_BLOCK) as u32;
        let options = libbpf_sys::bpf_map_create_opts {
            sz: size_of::<libbpf_sys::bpf_map_create_opts>() as _,
            map_flags: libbpf_sys::BPF_F_INNER_MAP,
            ..Default::default()
        };
        let (key, value) = (size_of::<u32>() as u32, POLICY_BLOCK as u32);
        let map = MapHandle::create(MapType::Array, Some("policy"), key, value, blocks.max(1), &options)
            .map_err(failed)?;
        let places: Vec<u32> = (0..blocks).collect();
        map.update_batch(places.as_bytes(), words.as_bytes(), blocks, MapFlags::ANY, MapFlags::ANY)
            .map_err(failed)?;
        Ok(Self(map))
    }
}

impl Fastpath {
    /// Puts compiled policies in force, each at its network's place and in one step. The call waits until no program has
    /// those before in hand.
    ///
    /// # Errors
    /// [`Error::Table`]; some of them may be in force then.
    pub fn set_policies(&self, policies: &[(u32, &Policy)]) -> Result<(), Error> {
        let places: Vec<u32> = policies.iter().map(|(place, _)| *place).collect();
        let handles: Vec<i32> = policies.iter().map(|(_, Policy(map))| map.as_fd().as_raw_fd()).collect();
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
        let nothing = Policy::load(&[u32::MAX; POLICY_BLOCK / size_of::<u32>()])?;
        self.set_policies(&places.iter().map(|place| (*place, &nothing)).collect::<Vec<_>>())
    }

    /// Says who has an address.
    ///
    /// # Errors
    /// [`Error::Table`]; when the table is full among it.
    pub fn set_station(&self, key: &StationKey, station: &Station) -> Result<(), Error> {
        write(&self.stations, "stations", key, station)
    }

    /// Nobody has it.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn remove_station(&self, key: &StationKey) -> Result<(), Error> {
        remove(&self.stations, "stations", key.as_bytes())
    }

    /// What the rules have refused in the kernel.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn denials(&self) -> Result<Vec<(DenialKey, Denial)>, Error> {
        let keys = self.denials.keys().filter_map(|key| DenialKey::read_from_bytes(&key).ok());
        let rows = keys.map(|key| {
            let mut denial = Denial::new_zeroed();
            let found = self.denials.lookup_into(key.as_bytes(), denial.as_mut_bytes(), MapFlags::LOCK);
            found
                .map(|found| found.then_some((key, denial)))
                .map_err(|source| Error::Table { table: "denials", source })
        });
        rows.filter_map(Result::transpose).collect()
    }

    /// Forgets a row of it. What a program counts there at this moment is lost.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn remove_denial(&self, key: &DenialKey) -> Result<(), Error> {
        remove(&self.denials, "denials", key.as_bytes())
    }
}
