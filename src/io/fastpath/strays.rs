//! Frames on trunks that are nobody's there, which the programs drop, as drops like all others.

use eastgate_dataplane::pipeline::{
    counters::{DropCount, DropKey, Subject},
    shared::lock,
};
use eastgate_fastpath::{Error, Stray};
use eastgate_wire::AttachmentId;

use super::KernelPath;
use crate::io::clock;

impl KernelPath {
    /// A device is served as a trunk from here on: what is nobody's there is counted for this number.
    ///
    /// # Errors
    /// When a table cannot be written.
    pub fn open_trunk(&self, ifindex: u32, id: AttachmentId) -> Result<(), Error> {
        let mut tables = lock(&self.tables);
        if tables.trunks.contains_key(&ifindex) {
            return Ok(());
        }
        self.fastpath.count_strays(ifindex)?;
        tables.trunks.insert(ifindex, id);
        Ok(())
    }

    /// It is no longer, and what was counted of it is to be counted elsewhere.
    ///
    /// # Errors
    /// When a table cannot be read or written.
    pub fn close_trunk(&self, ifindex: u32) -> Result<Option<(DropKey, DropCount)>, Error> {
        let mut tables = lock(&self.tables);
        let Some(id) = tables.trunks.get(&ifindex).copied() else { return Ok(None) };
        let strays = self.fastpath.strays(ifindex)?;
        self.fastpath.forget_strays(ifindex)?;
        tables.trunks.remove(&ifindex);
        Ok(counted(&strays).map(|count| (DropKey::of_stray(id), count)))
    }

    /// What was counted of all trunks.
    pub(super) fn strays(&self) -> Result<Vec<(DropKey, DropCount)>, Error> {
        let mut drops = Vec::new();
        for (ifindex, id) in &lock(&self.tables).trunks {
            drops.extend(
                counted(&self.fastpath.strays(*ifindex)?).map(|count| (DropKey::of_stray(*id), count)),
            );
        }
        Ok(drops)
    }
}

/// Those of all processors together.
fn counted(strays: &[Stray]) -> Option<DropCount> {
    let last = strays.iter().max_by_key(|stray| stray.last_at)?;
    let first_at = strays.iter().map(|stray| stray.first_at).min()?;
    let tag = (last.tag_type != 0).then_some((last.tag_type, last.tci));
    Some(DropCount {
        frames: strays.iter().map(|stray| stray.frames).sum(),
        bytes: strays.iter().map(|stray| stray.bytes).sum(),
        first_at: clock::from_monotonic(first_at),
        last_at: clock::from_monotonic(last.last_at),
        last: Some(Subject::of_stray(tag, last.macs.as_flattened())),
    })
}
