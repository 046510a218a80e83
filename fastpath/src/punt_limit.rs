//! How much may be punted to the pipeline of each network, and how much more there was.

use libbpf_rs::{MapCore, MapFlags};
use zerocopy::{FromZeros, IntoBytes};

use crate::{
    Error, Fastpath,
    layout::{Bucket, Limited, UNSERVED},
    remove,
};

/// The part of a second whose packets may come at once
const BURSTS: u32 = 5;

impl Fastpath {
    /// Limits what is punted of a network to `rate` packets a second, a fifth of them at once, and what is carried of it
    /// in fragments to `datagrams` at a time; with no network, of all those together that have no limit of their own.
    /// What it has dropped so far stays counted.
    ///
    /// # Errors
    /// [`Error::Table`]; when the table is full among it.
    pub fn limit(&self, vni: Option<u32>, rate: u32, datagrams: u32) -> Result<(), Error> {
        let key = vni.unwrap_or(UNSERVED);
        let before = self.bucket(key)?;
        let burst = (rate / BURSTS).max(1);
        let bucket = Bucket { rate, burst, datagrams, ..before.unwrap_or_default() };
        // One that is there stays where it is: programs may have it in hand.
        let flags = if before.is_some() { MapFlags::LOCK } else { MapFlags::ANY };
        let written = self.buckets.update(key.as_bytes(), bucket.as_bytes(), flags);
        written.map_err(|source| Error::Table { table: "buckets", source })
    }

    /// The network has no limit of its own any more.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn unlimit(&self, vni: u32) -> Result<(), Error> {
        remove(&self.buckets, "buckets", vni.as_bytes())
    }

    /// Frames of a network that were dropped for its limit.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn limited(&self, vni: u32) -> Result<u64, Error> {
        Ok(self.bucket(vni)?.map_or(0, |bucket| bucket.dropped))
    }

    /// One of them, or with no network one of those that have no limit of their own: the last that was noted. Nothing while it is written.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn limited_frame(&self, vni: Option<u32>) -> Result<Option<Limited>, Error> {
        let key = vni.unwrap_or(UNSERVED);
        let look = || {
            let mut limited = Limited::new_zeroed();
            let found = self.limited.lookup_into(key.as_bytes(), limited.as_mut_bytes(), MapFlags::ANY);
            found
                .map(|found| found.then_some(limited))
                .map_err(|source| Error::Table { table: "limited", source })
        };
        let (before, after) = (look()?, look()?);
        // Whoever has begun to write between the two shows in the second, and who has ended in the time.
        Ok(after.filter(|it| {
            it.at > 0
                && it.noting == 0
                && before.is_some_and(|before| before.noting == 0 && before.at == it.at)
        }))
    }

    /// How many datagrams in fragments of a network are carried at a time.
    pub(crate) fn datagrams_of(&self, vni: u32) -> Result<u32, Error> {
        Ok(self.bucket(vni)?.map_or(0, |bucket| bucket.datagrams))
    }

    fn bucket(&self, key: u32) -> Result<Option<Bucket>, Error> {
        let mut bucket = Bucket::new_zeroed();
        let found = self.buckets.lookup_into(key.as_bytes(), bucket.as_mut_bytes(), MapFlags::LOCK);
        found.map(|found| found.then_some(bucket)).map_err(|source| Error::Table { table: "buckets", source })
    }
}
