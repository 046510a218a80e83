//! What the programs have counted, and what of it the pipeline has not.

use eastgate_dataplane::pipeline::{
    counters::{DropCount, DropKey, Elsewhere, Seen, Subject, Traffic},
    shared::lock,
};
use eastgate_fastpath::{Error, PUNTS, Stats};
use eastgate_wire::{DropReason, Instant, Vni};

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
        let now = clock::now();
        let mut drops = self.denied()?;
        drops.extend(self.strays()?);
        drops.extend(self.limited(stats.punt_limited, now)?);
        for (reason, frames) in
            [(DropReason::DeviceError, stats.punt_failed), (DropReason::NotReady, stats.lost)]
        {
            drops.push((
                of_network(None, reason),
                DropCount { frames, bytes: 0, first_at: now, last_at: now, last: None },
            ));
        }
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

    /// Of frames that the programs have dropped without a place for each kind of them: the last one for each reason, as far as it is
    /// remembered. `limited` is how many were too many to be punted when this was asked before: where there are no more, no network is looked at for them.
    ///
    /// # Errors
    /// When a table cannot be read.
    pub fn last_counted(&self, limited: &mut u64) -> Result<Vec<(DropKey, Seen)>, Error> {
        let mut drops = self.strays()?;
        let before = std::mem::replace(limited, self.stats()?.punt_limited);
        if *limited != before {
            drops.extend(self.limited(*limited, clock::now())?);
        }
        let seen = |(key, count): (DropKey, DropCount)| {
            let subject = count.last.filter(|_| count.frames > 0)?;
            Some((key, Seen { subject, frames: 1, bytes: 0, last_at: count.last_at }))
        };
        Ok(drops.into_iter().filter_map(seen).collect())
    }

    /// Of `all` frames that were dropped for a limit on the way up: those of each network, and with no network those of
    /// unknown hosts, and of networks that are here no more. When the first was, nobody knows.
    fn limited(&self, all: u64, now: Instant) -> Result<Vec<(DropKey, DropCount)>, Error> {
        let mut drops = Vec::new();
        let mut rest = all;
        let count = |frames, last: Option<(Instant, Subject)>| {
            let (last_at, last) = last.map_or((now, None), |(at, subject)| (at, Some(subject)));
            DropCount { frames, bytes: 0, first_at: last_at, last_at, last }
        };
        if all > 0 {
            let mut networks: Vec<Vni> = lock(&self.tables).limits.keys().copied().collect();
            networks.sort_unstable();
            for vni in networks {
                // What came later than the sum is told the next time.
                let frames = self.fastpath.limited(vni.get())?.min(rest);
                rest -= frames;
                if frames > 0 {
                    let last = self.noted(Some(vni.get()), |head| Subject::of_head(vni, head))?;
                    drops.push((of_network(Some(vni), DropReason::SlowPathLimit), count(frames, last)));
                }
            }
        }
        let last = if rest > 0 { self.noted(None, Subject::of_datagram)? } else { None };
        drops.push((of_network(None, DropReason::SlowPathLimit), count(rest, last)));
        Ok(drops)
    }

    /// What was noted last of frames that were too many, and when.
    fn noted(
        &self,
        vni: Option<u32>,
        read: impl FnOnce(&[u8]) -> Subject,
    ) -> Result<Option<(Instant, Subject)>, Error> {
        let noted = self.fastpath.limited_frame(vni)?;
        Ok(noted.map(|it| (clock::from_monotonic(it.at), read(it.head()))))
    }
}

/// Of a network, or of none, and from wherever.
const fn of_network(vni: Option<Vni>, reason: DropReason) -> DropKey {
    DropKey { vni, reason, from: None, by: None, rule: None }
}
