//! What the programs have counted.

use libbpf_rs::{MapCore, MapFlags, MapHandle};
use zerocopy::{FromBytes, IntoBytes};

use crate::{Error, Fastpath, PUNTS};

/// The counters of the programs in the order of their numbers, of which no field has another name than its number has there.
macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident),* $(,)?) => {
        /// What the programs have counted.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct Stats {
            $($(#[doc = $doc])* pub $name: u64,)*
        }

        impl Stats {
            /// The names, in the order of the numbers.
            pub const NAMES: &[&str] = &[$(stringify!($name)),*];

            fn read(mut next: impl FnMut() -> Result<u64, Error>) -> Result<Self, Error> {
                Ok(Self { $($name: next()?),* })
            }
        }
    };
}

counters! {
    /// Frames from attachments
    from_ports,
    /// Datagrams from the underlay that passed here
    from_underlay,
    /// Frames delivered to attachments
    to_ports,
    /// Frames encapsulated and sent
    to_underlay,
    /// Frames punted to the pipeline
    punted,
    /// Frames dropped because too many of their network were punted
    punt_limited,
    /// Frames dropped because the kernel had no memory to punt them or send them on
    punt_failed,
    /// Frames from or to attachments that are not open, and GSO packets whose flow went away while the kernel decapsulated them
    lost,
    /// Requests for addresses that were answered here
    answered,
    /// Packets that the rules have refused here
    denied,
}

impl Fastpath {
    /// What the programs have counted, on all processors together.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn stats(&self) -> Result<Stats, Error> {
        let mut numbers = 0..;
        Stats::read(|| counted(&self.stats, "stats", numbers.next().unwrap_or_default()))
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
