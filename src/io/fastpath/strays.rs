//! Frames on trunks and shared segments that are nobody's there, which the programs drop, as drops like all others.

use std::collections::BTreeSet;

use eastgate_dataplane::pipeline::{
    counters::{DropCount, DropKey, Subject},
    shared::lock,
};
use eastgate_fastpath::{Error, Fastpath, STRAY_ANY_VLAN, STRAY_LINK, Stray, StrayKey};
use eastgate_wire::{AttachmentId, DropReason};

use super::{KernelPath, Tables};
use crate::io::clock;

/// A device on which frames may be nobody's.
#[derive(Debug)]
pub(super) struct Trunk {
    /// For which number they are counted
    id: AttachmentId,
    /// The VLANs of its segments that endpoints share; 0 for what is untagged
    segments: BTreeSet<u16>,
    /// What was counted of segments that none share any more
    before: Option<DropCount>,
}

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
        for vlan in [STRAY_ANY_VLAN, STRAY_LINK] {
            self.fastpath.count_strays(StrayKey { ifindex, vlan, spare: 0 })?;
        }
        tables.trunks.insert(ifindex, Trunk { id, segments: BTreeSet::new(), before: None });
        Ok(())
    }

    /// Endpoints share a segment of it from here on, and what is from none of them is counted apart.
    pub(super) fn open_segment(&self, tables: &mut Tables, ifindex: u32, vlan: u16) -> Result<(), Error> {
        let Some(trunk) = tables.trunks.get_mut(&ifindex) else { return Ok(()) };
        if !trunk.segments.contains(&vlan) {
            self.fastpath.count_strays(StrayKey { ifindex, vlan, spare: 0 })?;
            trunk.segments.insert(vlan);
        }
        Ok(())
    }

    /// Nobody shares it any more.
    pub(super) fn close_segment(&self, tables: &mut Tables, ifindex: u32, vlan: u16) -> Result<(), Error> {
        let Some(trunk) = tables.trunks.get_mut(&ifindex) else { return Ok(()) };
        if !trunk.segments.contains(&vlan) {
            return Ok(());
        }
        let key = StrayKey { ifindex, vlan, spare: 0 };
        let counted = counted(&self.fastpath.strays(key)?);
        self.fastpath.forget_strays(key)?;
        trunk.segments.remove(&vlan);
        if let Some(count) = counted {
            trunk.before.get_or_insert(DropCount { frames: 0, bytes: 0, ..count }).add(&count);
        }
        Ok(())
    }

    /// It is no longer served, and what was counted of it is to be counted elsewhere.
    ///
    /// # Errors
    /// When a table cannot be read or written.
    pub fn close_trunk(&self, ifindex: u32) -> Result<Vec<(DropKey, DropCount)>, Error> {
        let mut tables = lock(&self.tables);
        let Some(trunk) = tables.trunks.get(&ifindex) else { return Ok(Vec::new()) };
        let strays = trunk.strays(&self.fastpath, ifindex)?;
        for (key, _) in trunk.keys(ifindex) {
            self.fastpath.forget_strays(key)?;
        }
        tables.trunks.remove(&ifindex);
        Ok(strays)
    }

    /// What was counted of all trunks.
    pub(super) fn strays(&self) -> Result<Vec<(DropKey, DropCount)>, Error> {
        let mut drops = Vec::new();
        for (ifindex, trunk) in &lock(&self.tables).trunks {
            drops.extend(trunk.strays(&self.fastpath, *ifindex)?);
        }
        Ok(drops)
    }
}

impl Trunk {
    /// Where its frames are counted, and for which reasons.
    fn keys(&self, ifindex: u32) -> impl Iterator<Item = (StrayKey, DropReason)> {
        let segments = self.segments.iter().map(|vlan| (*vlan, DropReason::UnknownStation));
        let device = [(STRAY_ANY_VLAN, DropReason::UnknownVlan), (STRAY_LINK, DropReason::LinkProtocol)];
        let all = segments.chain(device);
        all.map(move |(vlan, reason)| (StrayKey { ifindex, vlan, spare: 0 }, reason))
    }

    fn strays(&self, fastpath: &Fastpath, ifindex: u32) -> Result<Vec<(DropKey, DropCount)>, Error> {
        let before = self.before.map(|count| (DropKey::of_stray(self.id, DropReason::UnknownStation), count));
        let mut drops: Vec<(DropKey, DropCount)> = before.into_iter().collect();
        for (key, reason) in self.keys(ifindex) {
            let Some(count) = counted(&fastpath.strays(key)?) else { continue };
            let of = DropKey::of_stray(self.id, reason);
            match drops.iter_mut().find(|(known, _)| *known == of) {
                Some((_, all)) => all.add(&count),
                None => drops.push((of, count)),
            }
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
