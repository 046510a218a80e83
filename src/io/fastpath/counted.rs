//! What the programs have counted, and what of it the pipeline has not.

use eastgate_dataplane::pipeline::{
    counters::{DropCount, DropKey, Elsewhere, Traffic},
    shared::lock,
};
use eastgate_fastpath::{Error, PUNTS, Stats};
use eastgate_wire::{DropReason, Vni};

use super::KernelPath;
use crate::io::clock;

impl KernelPath {
    /// What the programs have counted.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn stats(&self) -> Result<Stats, Error> {
        self.fastpath.stats()
    }

    /// How many packets the programs have left to the pipeline, by cause: as many as `PUNTS` names.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn punts(&self) -> Result<[u64; PUNTS.len()], Error> {
        self.fastpath.punts()
    }

    /// What the programs add to the counters. Frames that they punted are counted by the pipeline.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn traffic(&self) -> Result<Elsewhere, Error> {
        let stats = self.stats()?;
        // By network and reason at most, and nobody knows when.
        let mut unknown = self.limited(stats.punt_limited)?;
        unknown.push((None, DropReason::DeviceError, stats.punt_failed));
        unknown.push((None, DropReason::NotReady, stats.lost));
        let now = clock::now();
        let mut drops = self.denied()?;
        drops.extend(self.strays()?);
        drops.extend(unknown.into_iter().map(|(vni, reason, frames)| {
            let key = DropKey { vni, reason, from: None, by: None, rule: None };
            (key, DropCount { frames, bytes: 0, first_at: now, last_at: now, last: None })
        }));
        let traffic = Traffic {
            from_ports: stats.from_ports - stats.punted.min(stats.from_ports),
            from_underlay: stats.from_underlay,
            to_ports: stats.to_ports,
            to_underlay: stats.to_underlay,
            answers: stats.answered,
            answers_repeated: stats.answered,
            fragmented: 0,
            decided_again: 0,
            rejects_told: 0,
            rejects_limited: 0,
            would_deny: 0,
            dropped: drops.iter().map(|(_, count)| count.frames).sum(),
        };
        Ok(Elsewhere { traffic, drops })
    }

    /// Of `all` frames that were dropped for a limit on the way up: those of each network, and with no network those of
    /// unknown hosts, and of networks that are here no more.
    fn limited(&self, all: u64) -> Result<Vec<(Option<Vni>, DropReason, u64)>, Error> {
        let mut drops = Vec::new();
        let mut rest = all;
        if all > 0 {
            let mut networks: Vec<Vni> = lock(&self.tables).limits.keys().copied().collect();
            networks.sort_unstable();
            for vni in networks {
                // What came later than the sum is told the next time.
                let frames = self.fastpath.limited(vni.get())?.min(rest);
                rest -= frames;
                drops.push((Some(vni), DropReason::SlowPathLimit, frames));
            }
        }
        drops.push((None, DropReason::SlowPathLimit, rest));
        Ok(drops)
    }
}
