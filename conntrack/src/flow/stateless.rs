//! Flows of which one end keeps no state: they are the other end's alone.

use super::{
    FlowId, FlowTable, is_stale,
    segment::{Direction, Key, Segment},
    settings::StateSettings,
};

impl FlowTable {
    /// Which ends of a packet keep no state of its flow, its sender and its receiver, and which way it goes; nothing when its
    /// flow is not here, or has to be decided again first, as decisions stand since an `epoch`.
    #[must_use]
    pub fn stateless_ends(
        &self,
        segment: &Segment,
        settings: &StateSettings,
        epoch: u32,
    ) -> Option<([bool; 2], Direction)> {
        let (key, swapped) = Key::of_segment(segment);
        let entry = self.slab.at(self.find(&key)?);
        let direction = entry.direction(swapped);
        let [opener, other] = entry.stateless;
        let ends = match direction {
            Direction::Original => [opener, other],
            Direction::Reply => [other, opener],
        };
        (!is_stale(entry, settings, epoch)).then_some((ends, direction))
    }

    /// Which ends keep no state of a flow: its opener, the other one.
    #[must_use]
    pub fn stateless(&self, flow: FlowId) -> [bool; 2] {
        self.slab.index(flow).map_or([false; 2], |index| self.slab.at(index).stateless)
    }
}
