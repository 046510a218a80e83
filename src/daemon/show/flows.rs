//! Live flows: listed a page at a time, found for a trace, ended.

use std::{collections::BTreeSet, sync::Mutex};

use eastgate_api::{Done, Failure, Filter, FlowRow, List};
use eastgate_conntrack::flow::{FlowFilter, FlowInfo, FlowTable};
use eastgate_dataplane::{
    pipeline::shared::lock,
    snapshot::{Network, Snapshot},
};
use eastgate_wire::{Addr, FlowKey, Instant, Leg, Vni, names};

use super::{View, ends::Ends, expectations::related_to, part, sight::Sight};
use crate::io::clock;

/// Places of the flow table looked at while a shard is locked.
const PAGE: u32 = 1024;

/// The first rows of many after a place, without all of them at once in memory.
struct First {
    limit: usize,
    after: Option<FlowKey>,
    found: Vec<FlowInfo>,
    /// The last key that can still be among the first
    last: Option<FlowKey>,
    total: usize,
    /// How many come after the place
    beyond: usize,
}

impl First {
    const fn new(limit: usize, after: Option<FlowKey>) -> Self {
        Self { limit, after, found: Vec::new(), last: None, total: 0, beyond: 0 }
    }

    fn add(&mut self, flow: &FlowInfo) {
        self.total += 1;
        if self.after.is_some_and(|after| flow.key <= after) {
            return;
        }
        self.beyond += 1;
        if self.last.is_some_and(|last| flow.key >= last) {
            return;
        }
        self.found.push(*flow);
        if self.found.len() >= self.limit.saturating_mul(2).saturating_add(PAGE as usize) {
            self.cut();
        }
    }

    fn cut(&mut self) {
        if self.found.len() <= self.limit {
            return;
        }
        let (_, last, _) = self.found.select_nth_unstable_by_key(self.limit, |flow| flow.key);
        self.last = Some(last.key);
        self.found.truncate(self.limit);
    }

    /// The rows in the order of their keys.
    fn sorted(&mut self) -> &mut [FlowInfo] {
        self.cut();
        self.found.sort_unstable_by_key(|flow| flow.key);
        &mut self.found
    }

    fn next(&self) -> Option<String> {
        self.found.last().filter(|_| self.beyond > self.found.len()).map(|flow| place(&flow.key))
    }
}

impl View {
    /// The first of the flows that fit, in the order of their keys, and how many fit.
    pub(super) fn flows(&self, snapshot: &Snapshot, filter: &Filter) -> Result<List<FlowRow>, Failure> {
        let now = clock::now();
        let after = match filter.after.as_deref() {
            Some(text) => Some(parse_place(text).ok_or_else(|| part::no_place(filter))?),
            None => None,
        };
        let wanted = Wanted::of(snapshot, filter)?;
        let mut first = First::new(part::most(filter), after);
        self.for_each_flow(&wanted.filter, now, |flow| {
            if wanted.fits(flow) {
                first.add(flow);
            }
        });
        let rows = first.sorted().iter_mut().map(|flow| {
            // Of those that are in no table of ours all is told already.
            if flow.offloaded && self.shared.flows(&flow.key).knows(&flow.key) {
                self.catch_up(snapshot, flow);
            }
            flow_row(snapshot, flow, self.shared.probes.marks(&flow.key, flow.created), now)
        });
        Ok(List { rows: rows.collect(), total: first.total, next: first.next() })
    }

    /// The flows between the ends of a packet.
    pub(in crate::daemon) fn flows_between(&self, key: &FlowKey) -> Vec<FlowInfo> {
        let filter = FlowFilter {
            vni: Some(key.vni),
            addr: Some(key.src),
            peer: Some(key.dst),
            ..FlowFilter::default()
        };
        let mut found = Vec::new();
        self.for_each_flow(&filter, clock::now(), |flow| found.push(*flow));
        found
    }

    /// Those of these addresses that flows are from or to.
    pub(in crate::daemon) fn in_flows(&self, addresses: &BTreeSet<(Vni, Addr)>) -> BTreeSet<(Vni, Addr)> {
        let mut found = BTreeSet::new();
        if !addresses.is_empty() {
            self.for_each_flow(&FlowFilter::default(), clock::now(), |flow| {
                let ends = [flow.key.src, flow.key.dst].map(|address| (flow.key.vni, address));
                found.extend(ends.into_iter().filter(|end| addresses.contains(end)));
            });
        }
        found
    }

    /// The flows that fit, those in the table and those that began in the kernel.
    pub(in crate::daemon) fn for_each_flow(
        &self,
        filter: &FlowFilter,
        now: Instant,
        mut each: impl FnMut(&FlowInfo),
    ) {
        let mut page = Vec::new();
        let mut shards: Vec<(&Mutex<FlowTable>, u32)> =
            self.shared.all_flows().map(|shard| (shard, 0)).collect();
        // A page of each in turn: a worker that waits for a shard has had it before its next page is read.
        while !shards.is_empty() {
            shards.retain_mut(|(shard, from)| {
                page.clear();
                let next = lock(shard).page(*from, PAGE, filter, now, &mut page);
                page.iter().for_each(&mut each);
                *from = next.unwrap_or_default();
                next.is_some()
            });
        }
        self.shared.for_each_created(now, |flow| {
            if filter.fits(flow) {
                each(flow);
            }
        });
    }

    /// Adds what has passed in the kernel since the flow went there.
    fn catch_up(&self, snapshot: &Snapshot, flow: &mut FlowInfo) {
        let Some(progress) = self.shared.peek(&flow.key) else { return };
        for (count, more) in [&mut flow.original, &mut flow.reply].into_iter().zip(progress.counts) {
            count.packets += more.packets;
            count.bytes += more.bytes;
        }
        if let (Some(seen), Some(network)) = (progress.last_seen, snapshot.network(flow.key.vni)) {
            flow.last_seen = flow.last_seen.max(seen);
            flow.deadline = flow
                .deadline
                .max(seen + network.tracking_of(&flow.key).timeouts.of(flow.key.proto, flow.state));
        }
    }

    /// Ends the flows that fit.
    pub(in crate::daemon) fn flows_kill(&self, filter: &Filter) -> Result<Done, Failure> {
        let snapshot = self.shared.snapshot_arc();
        let wanted = Wanted::of(&snapshot, filter)?;
        let most = filter.limit.map_or(u64::MAX, |limit| limit as u64);
        let is_wanted = |flow: &FlowInfo| wanted.filter.fits(flow) && wanted.fits(flow);
        let count = self.shared.end_flows(&is_wanted, most, clock::now());
        Ok(Done { count, epoch: snapshot.epoch, ..Done::default() })
    }
}

/// Which flows are meant.
struct Wanted<'a> {
    filter: FlowFilter,
    given: &'a Filter,
    state: Option<&'a str>,
    ends: Option<Ends<'a>>,
    sight: Sight,
}

impl<'a> Wanted<'a> {
    fn of(snapshot: &'a Snapshot, filter: &'a Filter) -> Result<Self, Failure> {
        let (ends, sight) = (Ends::of(snapshot, filter)?, Sight::of(snapshot, &filter.scope));
        let state = filter.state.as_deref();
        let given = filter;
        let filter = FlowFilter {
            vni: filter.vni,
            addr: filter.address.map(Into::into),
            proto: filter.proto,
            port: filter.port,
            ..FlowFilter::default()
        };
        Ok(Self { filter, given, state, ends, sight })
    }

    /// What [`FlowFilter`] does not know.
    fn fits(&self, flow: &FlowInfo) -> bool {
        let FlowKey { vni, src, dst, sport, dport, .. } = flow.key;
        self.sight.has(vni)
            && self.given.fits_ends(Some(src), Some(dst), Some((sport, dport)))
            && self.state.is_none_or(|state| state == flow.state.name())
            && self
                .ends
                .as_ref()
                .is_none_or(|ends| [src, dst].into_iter().any(|address| ends.has_address(vni, address)))
    }
}

fn flow_row(snapshot: &Snapshot, flow: &FlowInfo, probe: bool, now: Instant) -> FlowRow {
    let FlowKey { src, dst, vni, sport, dport, proto, leg } = flow.key;
    let rule = |id: u32| {
        let network = snapshot.network(vni)?;
        network.rules.reference(&network.tenant.name, id)
    };
    FlowRow {
        vni,
        proto: names::protocol_name(proto),
        src,
        sport,
        dst,
        dport,
        via: (leg != Leg::DIRECT).then(|| forwarder(snapshot, vni, leg)),
        state: flow.state.name().to_owned(),
        packets: flow.original.packets,
        bytes: flow.original.bytes,
        reply_packets: flow.reply.packets,
        reply_bytes: flow.reply.bytes,
        offloaded: flow.offloaded,
        expires_s: flow.deadline.since(now).as_secs(),
        egress_rule: rule(flow.egress_rule),
        ingress_rule: rule(flow.ingress_rule),
        audit: is_tried_out(snapshot, flow),
        probe,
        helper: flow.helper.map(|helper| helper.name().to_owned()),
        related: flow.related.map(|related| related_to(&related, &flow.key)),
        id: flow.created.micros(),
        epoch: flow.epoch,
    }
}

/// Would one of the rules that admitted a flow have refused it, if it were not being tried out?
fn is_tried_out(snapshot: &Snapshot, flow: &FlowInfo) -> bool {
    let network = snapshot.network(flow.key.vni).filter(|network| flow.epoch >= network.numbered);
    let rules = [flow.egress_rule, flow.ingress_rule];
    network.is_some_and(|network| rules.into_iter().any(|rule| network.tries_out(rule)))
}

/// The endpoint that a leg comes from or leads to.
fn forwarder(snapshot: &Snapshot, vni: Vni, leg: Leg) -> String {
    let name = |network: &Network| {
        let endpoint = network.endpoints().find(|endpoint| leg.is_by(endpoint.mac))?;
        Some(format!("{}/{}", network.tenant.name, endpoint.name))
    };
    snapshot.network(vni).and_then(|network| name(network)).unwrap_or_else(|| "several".into())
}

/// A flow's place in the order of the list, in words.
fn place(key: &FlowKey) -> String {
    let FlowKey { src, dst, vni, sport, dport, proto, leg } = key;
    format!("{src},{dst},{vni},{sport},{dport},{proto},{}", leg.bits())
}

fn parse_place(text: &str) -> Option<FlowKey> {
    let mut parts = text.split(',');
    let mut address = || parts.next()?.parse::<std::net::IpAddr>().ok().map(Addr::from);
    let (src, dst) = (address()?, address()?);
    let mut number = || parts.next()?.parse::<u32>().ok();
    let key = FlowKey {
        src,
        dst,
        vni: Vni::new_checked(number()?).ok()?,
        sport: number()?.try_into().ok()?,
        dport: number()?.try_into().ok()?,
        proto: number()?.try_into().ok()?,
        leg: Leg::from_bits(number()?),
    };
    parts.next().is_none().then_some(key)
}

#[cfg(test)]
mod tests {
    use eastgate_api::FLOW_STATES;
    use eastgate_conntrack::flow::{Count, FlowState};

    use super::*;

    fn flow(number: u16) -> FlowInfo {
        let key = FlowKey {
            src: Addr::v4([10, 1, 0, (number % 7) as u8]),
            dst: "fd00:1::21".parse::<std::net::IpAddr>().unwrap().into(),
            vni: Vni::new_checked(5001).unwrap(),
            sport: number,
            dport: 443,
            proto: 6,
            leg: Leg::from_bits(u32::MAX - u32::from(number)),
        };
        FlowInfo {
            key,
            state: FlowState::Established,
            replied: true,
            offloaded: false,
            epoch: 1,
            egress_rule: 0,
            ingress_rule: 0,
            header: eastgate_wire::view::HeaderBits::default(),
            helper: None,
            related: None,
            original: Count::default(),
            reply: Count::default(),
            query: None,
            created: Instant::ZERO,
            last_seen: Instant::ZERO,
            deadline: Instant::ZERO,
            counted: Count::default(),
        }
    }

    #[test]
    fn the_filter_knows_every_state_by_its_name() {
        assert_eq!(FlowState::ALL.map(FlowState::name), FLOW_STATES);
    }

    #[test]
    fn a_place_is_read_as_it_was_written() {
        let key = flow(40_000).key;
        assert_eq!(parse_place(&place(&key)), Some(key));
        for wrong in ["", "1", "10.1.0.1,10.1.0.2", "10.1.0.1,10.1.0.2,99999999,1,2,6,0"] {
            assert_eq!(parse_place(wrong), None, "{wrong}");
        }
        assert_eq!(parse_place(&format!("{},1", place(&key))), None);
    }

    #[test]
    fn pages_follow_each_other_however_the_flows_come() {
        let all: Vec<FlowInfo> = (0..5_000).map(|n| flow(n * 13)).collect();
        let mut keys: Vec<FlowKey> = all.iter().map(|flow| flow.key).collect();
        keys.sort_unstable();
        for limit in [1_000, 4_999, 5_000, 9_999] {
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let mut first = First::new(limit, after);
                all.iter().for_each(|flow| first.add(flow));
                assert!(first.found.len() <= 2 * limit + PAGE as usize);
                seen.extend(first.sorted().iter().map(|flow| flow.key));
                assert_eq!(first.total, all.len());
                let Some(next) = first.next() else { break };
                after = parse_place(&next);
            }
            assert!(seen == keys, "pages of {limit}: {} of {}", seen.len(), keys.len());
        }
        let mut none = First::new(0, None);
        all.iter().for_each(|flow| none.add(flow));
        assert!(none.sorted().is_empty());
        assert_eq!((none.total, none.next()), (5_000, None));
    }
}
