//! What the programs have counted.

use libbpf_rs::{MapCore, MapFlags, MapHandle};
use zerocopy::{FromBytes, IntoBytes};

use crate::{Error, Fastpath, PUNTS};

/// What the programs have counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Frames from tenant ports
    pub from_ports: u64,
    /// Datagrams from the underlay that passed here
    pub from_underlay: u64,
    /// Frames delivered to tenant ports
    pub to_ports: u64,
    /// Frames encapsulated and sent
    pub to_underlay: u64,
    /// Frames punted to the pipeline
    pub up: u64,
    /// Frames dropped because too many of their network were punted
    pub punt_limited: u64,
    /// Frames dropped because the kernel had no memory to send them up or on
    pub punt_failed: u64,
    /// Frames of ports that are not open, and GSO packets whose flow went away while the kernel unwrapped them
    pub lost: u64,
    /// Requests for addresses that were answered here
    pub answered: u64,
    /// Packets that the rules have refused here
    pub denied: u64,
}

impl Fastpath {
    /// What the programs have counted, on all processors together.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn stats(&self) -> Result<Stats, Error> {
        let sum = |what: u32| counted(&self.stats, "stats", what);
        Ok(Stats {
            from_ports: sum(0)?,
            from_underlay: sum(1)?,
            to_ports: sum(2)?,
            to_underlay: sum(3)?,
            up: sum(4)?,
            punt_limited: sum(5)?,
            punt_failed: sum(6)?,
            lost: sum(7)?,
            answered: sum(8)?,
            denied: sum(9)?,
        })
    }

    /// How many packets the programs have left to the pipeline, by cause: as many as [`PUNTS`] names.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn punts(&self) -> Result<[u64; PUNTS.len()], Error> {
        let mut all = [0; PUNTS.len()];
        for (cause, packets) in all.iter_mut().enumerate() {
            *packets = counted(&self.punts, "punts", cause as u32)?;
        }
        Ok(all)
    }
}

/// A counter, on all processors together.
fn counted(map: &MapHandle, table: &'static str, what: u32) -> Result<u64, Error> {
    let values =
        map.lookup_percpu(what.as_bytes(), MapFlags::ANY).map_err(|source| Error::Table { table, source })?;
    let of_cpu = |value: &Vec<u8>| u64::read_from_prefix(value).map_or(0, |(value, _)| value);
    Ok(values.iter().flatten().map(of_cpu).sum())
}
