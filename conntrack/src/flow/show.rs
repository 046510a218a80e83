//! What people and collectors ask a flow table, and what an operator may do to it: in pages, so that nobody
//! holds a shard's lock for long.

use eastgate_wire::Instant;

use super::{
    Ending, FlowCounters, FlowEvent, FlowFilter, FlowId, FlowInfo, FlowTable, association::Association,
    slab::Entry,
};

impl FlowTable {
    /// A flow as it is now.
    #[must_use]
    pub fn info(&self, flow: FlowId) -> Option<FlowInfo> {
        self.slab.index(flow).map(|index| self.helpers.info(index, self.slab.at(index)))
    }

    /// Looks at `budget` places of the table from place `from` (0 at first) and adds the flows that fit to
    /// `out`. Where to go on, or nothing when this was the end. A flow that is there from the first page to the
    /// last is met exactly once.
    pub fn page(
        &self,
        from: u32,
        budget: u32,
        filter: &FlowFilter,
        now: Instant,
        out: &mut Vec<FlowInfo>,
    ) -> Option<u32> {
        let until = from.saturating_add(budget).min(self.slab.places());
        for index in from..until {
            if let Some(entry) = self.slab.get(index).filter(|entry| Self::is_shown(entry, now)) {
                let counted = self.counted.get(&index).copied().unwrap_or_default();
                let info = FlowInfo { counted, ..self.helpers.info(index, entry) };
                if filter.fits(&info) {
                    out.push(info);
                }
            }
        }
        (until < self.slab.places()).then_some(until)
    }

    /// Ends the flows that fit among `budget` places from place `from`. How many, and where to go on, or nothing
    /// when this was the end.
    pub fn kill(&mut self, from: u32, budget: u32, filter: &FlowFilter, now: Instant) -> (u32, Option<u32>) {
        self.end_some(Ending::Killed, from, budget, u32::MAX, &|flow| filter.fits(flow), now)
    }

    /// The same with flows that are `wanted`, and no more than `most`. Flows whose time is over are none any more: they do not count.
    pub fn end_some(
        &mut self,
        ending: Ending,
        from: u32,
        budget: u32,
        most: u32,
        wanted: &dyn Fn(&FlowInfo) -> bool,
        now: Instant,
    ) -> (u32, Option<u32>) {
        let until = from.saturating_add(budget).min(self.slab.places());
        let mut ended = 0;
        for index in from..until {
            let lives = |entry: &&_| Self::is_shown(entry, now);
            if ended < most
                && self
                    .slab
                    .get(index)
                    .filter(lives)
                    .is_some_and(|entry| wanted(&self.helpers.info(index, entry)))
            {
                self.remove(index, ending, now);
                ended += 1;
            }
        }
        (ended, (ended < most && until < self.slab.places()).then_some(until))
    }

    /// One whose time is over and that nobody has looked at since is there no more.
    fn is_shown(entry: &Entry, now: Instant) -> bool {
        entry.deadline() > now || entry.marks.is_away()
    }

    /// How many flows are held, those included whose time is over and that were not looked at since.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.slab.len()
    }

    /// Are there none?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the table has done so far.
    #[must_use]
    pub const fn counters(&self) -> FlowCounters {
        self.counters
    }

    /// Keeps up to `limit` events for [`FlowTable::pop_event`]; none with 0, as at first. Further ones are lost
    /// and counted.
    pub fn keep_events(&mut self, limit: usize) {
        self.events.set_limit(limit);
    }

    /// The oldest event that nobody fetched yet.
    pub fn pop_event(&mut self) -> Option<FlowEvent> {
        self.events.pop()
    }

    /// Bytes allocated for flows.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.index.allocation_size()
            + self.slab.memory()
            + self.wheel.memory()
            + self.waiting.memory()
            + self.associations.len() * size_of::<(u32, Association)>()
    }
}
