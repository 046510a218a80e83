//! What has happened, with names.

use std::time::Duration;

use eastgate_api::{EventKind, EventRow, Events, Failure, Filter, MAX_EVENTS, RuleRef};
use eastgate_conntrack::flow::{Ending, FlowEvent, FlowInfo, Happening};
use eastgate_dataplane::{
    pipeline::{events::Event, shared::lock},
    snapshot::Snapshot,
};
use eastgate_wire::{FlowKey, Vni, names};

use super::{View, drops::refused_by, ends::Ends, expectations::related_to, part};
use crate::daemon::{
    events::Told,
    log::{is_logged, logged_rules},
};

impl View {
    /// The newest events, or the first after a number.
    pub(super) fn events(&self, snapshot: &Snapshot, filter: &Filter) -> Result<Events, Failure> {
        let after = match filter.after.as_deref() {
            Some(text) => Some(text.parse::<u64>().map_err(|_| part::no_place(filter))?),
            None => None,
        };
        let ends = Ends::of(snapshot, filter)?;
        let most = filter.limit.unwrap_or(MAX_EVENTS).min(MAX_EVENTS);
        let is_wanted = |told: &&Told| fits(&told.event, filter, ends.as_ref());
        let recent = lock(&self.events);
        // A number that is none yet is one of a daemon before.
        let after = after.map(|after| if after > recent.last() { 0 } else { after });
        let found: Vec<Told> = match after {
            Some(after) => recent.after(after).filter(is_wanted).take(most).copied().collect(),
            None => {
                let mut newest: Vec<_> =
                    recent.after(0).rev().filter(is_wanted).take(most).copied().collect();
                newest.reverse();
                newest
            }
        };
        let end = match found.last() {
            Some(last) if after.is_some() && found.len() == most => last.seq,
            _ => recent.last(),
        };
        let lost = after.map_or(0, |after| recent.lost_between(after, end));
        drop(recent);
        let rows = found.iter().filter_map(|told| row(snapshot, told));
        Ok(Events { events: rows.collect(), next: end.to_string(), lost })
    }
}

/// The network and the flow that an event is about.
fn subject(event: &Event) -> Option<FlowKey> {
    match event {
        Event::Flow(event) | Event::Elsewhere(event) => Some(event.flow.key),
        Event::Denied(_, seen) | Event::WouldBeDenied(_, seen) => seen.subject.flow().copied(),
    }
}

fn fits(event: &Event, filter: &Filter, ends: Option<&Ends<'_>>) -> bool {
    let Some(key) = subject(event) else { return false };
    let addresses = [key.src, key.dst];
    filter.vni.is_none_or(|vni| vni == key.vni)
        && filter.address.is_none_or(|ip| addresses.contains(&ip.into()))
        && filter.proto.is_none_or(|proto| proto == key.proto)
        && filter.port.is_none_or(|port| port == key.sport || port == key.dport)
        && ends.is_none_or(|ends| addresses.into_iter().any(|address| ends.has_address(key.vni, address)))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn row(snapshot: &Snapshot, told: &Told) -> Option<EventRow> {
    let Told { seq, time_ms, event } = told;
    let FlowKey { src, dst, vni, sport, dport, proto, .. } = subject(event)?;
    let row = EventRow {
        seq: *seq,
        time_ms: *time_ms,
        event: if matches!(event, Event::WouldBeDenied(..)) {
            EventKind::WouldBeDenied
        } else {
            EventKind::Denied
        },
        vni,
        proto: names::protocol_name(proto),
        src,
        sport,
        dst,
        dport,
        reason: None,
        state: None,
        lasted_ms: None,
        packets: None,
        bytes: None,
        reply_packets: None,
        reply_bytes: None,
        partial: false,
        egress_rule: None,
        ingress_rule: None,
        refused_by: None,
        related: None,
        log: is_to_be_logged(snapshot, event),
    };
    Some(match event {
        Event::Elsewhere(event) => of_flow(snapshot, event, row),
        Event::Flow(event) => EventRow { partial: is_partial(event), ..of_flow(snapshot, event, row) },
        Event::Denied(key, seen) | Event::WouldBeDenied(key, seen) => EventRow {
            reason: Some(key.reason.name().to_owned()),
            packets: Some(seen.frames),
            refused_by: snapshot.network(vni).and_then(|network| refused_by(network, key)),
            ..row
        },
    })
}

/// Does one of the rules that it comes of say so?
fn is_to_be_logged(snapshot: &Snapshot, event: &Event) -> bool {
    match event {
        Event::Flow(event) | Event::Elsewhere(event) => {
            let FlowInfo { key, epoch, egress_rule, ingress_rule, .. } = event.flow;
            event.what == Happening::Opened
                && logged_rules(snapshot, key.vni, epoch, [egress_rule, ingress_rule]).next().is_some()
        }
        Event::Denied(key, _) | Event::WouldBeDenied(key, _) => is_logged(snapshot, key),
    }
}

fn of_flow(snapshot: &Snapshot, event: &FlowEvent, row: EventRow) -> EventRow {
    let flow = &event.flow;
    let row = EventRow {
        egress_rule: rule(snapshot, row.vni, flow.epoch, flow.egress_rule),
        ingress_rule: rule(snapshot, row.vni, flow.epoch, flow.ingress_rule),
        related: flow.related.map(|related| related_to(&related, &flow.key)),
        ..row
    };
    match event.what {
        Happening::Opened => EventRow { event: EventKind::Begun, ..row },
        Happening::Ended(ending) => EventRow {
            event: EventKind::Ended,
            reason: Some(ending_name(ending).to_owned()),
            state: Some(flow.state.name().to_owned()),
            lasted_ms: Some(millis(flow.last_seen.since(flow.created))),
            packets: Some(flow.original.packets),
            bytes: Some(flow.original.bytes),
            reply_packets: Some(flow.reply.packets),
            reply_bytes: Some(flow.reply.bytes),
            ..row
        },
    }
}

/// What passed in the kernel is counted for endpoints and rules when the flow has ended, and not in the flow.
fn is_partial(event: &FlowEvent) -> bool {
    matches!(event.what, Happening::Ended(_)) && event.flow.offloaded
}

/// Rules keep their numbers from the network's epoch on; what was admitted before is not looked up.
pub(super) fn rule(snapshot: &Snapshot, vni: Vni, epoch: u32, id: u32) -> Option<RuleRef> {
    let network = snapshot.network(vni).filter(|network| epoch >= network.epoch)?;
    network.rules.reference(&network.tenant.name, id)
}

const fn ending_name(ending: Ending) -> &'static str {
    match ending {
        Ending::Closed => "closed",
        Ending::Expired => "expired",
        Ending::Evicted => "evicted",
        Ending::Refused => "refused",
        Ending::Killed => "killed",
    }
}
