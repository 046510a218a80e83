//! What has happened, with names.

use std::time::Duration;

use eastgate_api::{ErrorCode, EventKind, EventRow, Events, Failure, Filter, MAX_EVENTS, RuleRef};
use eastgate_conntrack::flow::{Ending, FlowEvent, FlowInfo, Happening};
use eastgate_dataplane::{
    pipeline::{
        counters::{DropKey, Seen, Subject, What, dropped},
        events::Event,
        shared::lock,
    },
    snapshot::{Endpoint, Network, Snapshot},
};
use eastgate_wire::{Addr, FlowKey, Location, Vni, names};

use super::{
    View,
    drops::{macs, refused_by},
    ends::Ends,
    expectations::related_to,
    part,
    sight::Sight,
};
use crate::daemon::{
    events::{Told, lost_between},
    log::{is_logged, logged_rules},
};

impl View {
    /// The newest events, or the first after a number.
    pub(super) fn events(&self, snapshot: &Snapshot, filter: &Filter) -> Result<Events, Failure> {
        let after = match filter.after.as_deref() {
            Some(text) => Some(text.parse::<u64>().map_err(|_| part::no_place(filter))?),
            None => None,
        };
        let wanted = Wanted::of(snapshot, filter)?;
        let most = filter.limit.unwrap_or(MAX_EVENTS).min(MAX_EVENTS);
        let row = |told: &Told| {
            let fits = wanted.fits(&told.event);
            fits.then(|| self.event_row(snapshot, told)).filter(|row| wanted.fits_row(row))
        };
        // Names are looked up where nobody waits for it.
        let (recent, last, after) = {
            let recent = lock(&self.events);
            // A number that is none yet is one of a daemon before.
            let after = after.map(|after| if after > recent.last() { 0 } else { after });
            let events: Vec<Told> = recent.after(after.unwrap_or(0)).copied().collect();
            (events, recent.last(), after)
        };
        let events: Vec<EventRow> = match after {
            Some(_) => recent.iter().filter_map(row).take(most).collect(),
            None => {
                let mut newest: Vec<_> = recent.iter().rev().filter_map(row).take(most).collect();
                newest.reverse();
                newest
            }
        };
        let end = match events.last() {
            Some(row) if after.is_some() && events.len() == most => row.seq,
            _ => last,
        };
        let lost = after.map_or(0, |after| lost_between(&recent, after, end));
        Ok(Events { events, next: end.to_string(), instance: self.instance, lost })
    }

    fn event_row(&self, snapshot: &Snapshot, told: &Told) -> EventRow {
        let Told { seq, time_ms, event } = told;
        let about = About::of(event);
        let network = about.vni.and_then(|vni| snapshot.network(vni));
        let named =
            |address: Option<Addr>| network.zip(address).and_then(|(network, at)| endpoint_at(network, at));
        let name = |endpoint: Option<&Endpoint>| {
            network
                .zip(endpoint)
                .map(|(network, endpoint)| format!("{}/{}", network.tenant.name, endpoint.name))
        };
        let kind = match event {
            Event::Flow(event) | Event::Elsewhere(event) if event.what == Happening::Opened => {
                EventKind::Begun
            }
            Event::Flow(_) | Event::Elsewhere(_) => EventKind::Ended,
            Event::Dropped(key, _) => EventKind::of_drop(key.reason),
            Event::WouldBeDenied(..) => EventKind::WouldBeDenied,
        };
        let row = EventRow {
            seq: *seq,
            time_ms: *time_ms,
            event: kind,
            verdict: kind.verdict(),
            vni: about.vni,
            network: network.map(|network| network.name.clone()),
            proto: about.proto.map(names::protocol_name),
            src: about.src,
            sport: about.ports.0,
            src_endpoint: name(named(about.src)),
            dst: about.dst,
            dport: about.ports.1,
            dst_endpoint: name(named(about.dst)),
            src_mac: None,
            dst_mac: None,
            icmp: None,
            from: None,
            what: None,
            reason: None,
            text: None,
            state: None,
            id: None,
            begun_ms: None,
            lasted_ms: None,
            packets: None,
            bytes: None,
            reply_packets: None,
            reply_bytes: None,
            partial: false,
            probe: false,
            egress_rule: None,
            ingress_rule: None,
            refused_by: None,
            related: None,
            log: is_to_be_logged(snapshot, event),
        };
        match event {
            Event::Elsewhere(event) | Event::Flow(event) => EventRow {
                partial: matches!(told.event, Event::Flow(_)) && is_partial(event),
                probe: self.shared.probes.marks(&event.flow.key, event.flow.created),
                ..of_flow(snapshot, event, row)
            },
            Event::Dropped(key, seen) | Event::WouldBeDenied(key, seen) => {
                let sender = network.and_then(|network| sender_of(snapshot, network, key, &seen.subject));
                EventRow {
                    src_endpoint: name(sender),
                    src_mac: seen.subject.macs.map(|[_, src]| src),
                    dst_mac: seen.subject.macs.map(|[dst, _]| dst),
                    icmp: seen.subject.icmp(),
                    from: key.from.map(|location| self.location_name(location)),
                    what: Some(dropped(key.reason, &seen.subject)).filter(|text| !text.is_empty()),
                    reason: Some(key.reason.name().to_owned()),
                    text: Some(key.reason.describe().to_owned()),
                    packets: Some(seen.frames),
                    bytes: Some(seen.bytes),
                    refused_by: network.and_then(|network| refused_by(network, key)),
                    ..row
                }
            }
        }
    }
}

/// The endpoint that an address is of: by the configuration, or because it holds it now.
fn endpoint_at(network: &Network, address: Addr) -> Option<&Endpoint> {
    network.by_address(address).or_else(|| {
        let holder = lock(&network.state.holders).of_address(address)?;
        network.by_mac(holder.endpoint)
    })
}

/// Who sent a frame, whatever it says of itself: who is at its attachment. What came through a tunnel is of who has its MAC, if that
/// is behind the VTEP that it came from; the kernel's programs look at its address alone, when they have held it against its sender.
fn sender_of<'s>(
    snapshot: &'s Snapshot,
    network: &'s Network,
    key: &DropKey,
    subject: &Subject,
) -> Option<&'s Endpoint> {
    match key.from {
        Some(Location::Local(attachment)) => snapshot
            .at_attachment(attachment)
            .filter(|(of, _)| of.vni == network.vni)
            .map(|(_, endpoint)| endpoint),
        from => match (subject.macs, from) {
            (Some([_, src]), Some(at)) => network.sender_at(src, at).filter(|sender| sender.location == at),
            (None, _) => subject.flow().and_then(|flow| endpoint_at(network, flow.src)),
            (Some(_), None) => None,
        },
    }
}

/// What an event is about, as far as it is known.
struct About {
    vni: Option<Vni>,
    proto: Option<u8>,
    src: Option<Addr>,
    dst: Option<Addr>,
    ports: (u16, u16),
}

impl About {
    fn of(event: &Event) -> Self {
        match event {
            Event::Flow(event) | Event::Elsewhere(event) => Self::of_flow(&event.flow.key),
            Event::Dropped(key, seen) | Event::WouldBeDenied(key, seen) => Self::of_frame(key, seen),
        }
    }

    const fn of_flow(key: &FlowKey) -> Self {
        let FlowKey { src, dst, vni, sport, dport, proto, .. } = *key;
        Self { vni: Some(vni), proto: Some(proto), src: Some(src), dst: Some(dst), ports: (sport, dport) }
    }

    fn of_frame(key: &DropKey, seen: &Seen) -> Self {
        let nothing = Self { vni: key.vni, proto: None, src: None, dst: None, ports: (0, 0) };
        match seen.subject.what {
            What::Packet { flow, .. } => Self { vni: key.vni, ..Self::of_flow(&flow) },
            What::Arp { sender, target, .. } => Self { src: Some(sender), dst: Some(target), ..nothing },
            What::Unknown | What::Other { .. } | What::Network { .. } => nothing,
        }
    }
}

/// Which events are wanted.
struct Wanted<'s> {
    snapshot: &'s Snapshot,
    filter: &'s Filter,
    ends: Option<Ends<'s>>,
    members: Option<Ends<'s>>,
    sight: Sight,
}

impl<'s> Wanted<'s> {
    fn of(snapshot: &'s Snapshot, filter: &'s Filter) -> Result<Self, Failure> {
        let (ends, members) = (Ends::of(snapshot, filter)?, Ends::of_group(snapshot, filter)?);
        let sight = Sight::of(snapshot, &filter.scope);
        let wanted = Self { snapshot, filter, ends, members, sight };
        let names_networks = filter.tenant.is_some() || filter.network.is_some();
        if names_networks && !snapshot.networks().into_iter().any(|network| wanted.has_network(network)) {
            let text = "no network of this host is of that tenant or has that name: `status` counts them, `show policy` lists them";
            return Err(Failure::new(ErrorCode::Invalid, text));
        }
        Ok(wanted)
    }

    fn has_network(&self, network: &Network) -> bool {
        let Filter { tenant, network: name, .. } = self.filter;
        let has_name = |wanted: &String| {
            *wanted == network.name || network.name.split_once('/').is_some_and(|it| it.1 == wanted)
        };
        self.sight.has(network.vni)
            && tenant.as_deref().is_none_or(|tenant| tenant == &*network.tenant.name)
            && name.as_ref().is_none_or(has_name)
    }

    /// By what is known without names.
    fn fits(&self, event: &Event) -> bool {
        let (filter, about) = (self.filter, About::of(event));
        let addresses = || [about.src, about.dst].into_iter().flatten();
        let macs = || match event {
            Event::Dropped(_, seen) | Event::WouldBeDenied(_, seen) => {
                macs(self.snapshot, about.vni, &seen.subject)
            }
            Event::Flow(_) | Event::Elsewhere(_) => Vec::new(),
        };
        let names_networks = filter.tenant.is_some() || filter.network.is_some();
        let network = || about.vni.and_then(|vni| self.snapshot.network(vni));
        let sender = || match event {
            Event::Dropped(key, seen) | Event::WouldBeDenied(key, seen) => {
                network().and_then(|network| sender_of(self.snapshot, network, key, &seen.subject))
            }
            Event::Flow(_) | Event::Elsewhere(_) => None,
        };
        let is_of = |ends: &Ends<'_>| {
            about.vni.is_some_and(|vni| {
                addresses().any(|address| ends.has_address(vni, address))
                    || macs().into_iter().any(|mac| ends.has_mac(vni, mac))
                    || sender().is_some_and(|sender| ends.has(vni, sender))
            })
        };
        self.sight.has_any(about.vni)
            && filter.vni.is_none_or(|vni| about.vni == Some(vni))
            && filter.address.is_none_or(|ip| addresses().any(|address| address == ip.into()))
            && filter.proto.is_none_or(|proto| about.proto == Some(proto))
            && filter.fits_ends(
                about.src,
                about.dst,
                about.proto.filter(|it| names::has_ports(*it)).and(Some(about.ports)),
            )
            && filter.mac.is_none_or(|mac| macs().contains(&mac))
            && (!names_networks || network().is_some_and(|network| self.has_network(network)))
            && self.ends.as_ref().is_none_or(is_of)
            && self.members.as_ref().is_none_or(is_of)
    }

    /// By what is shown.
    fn fits_row(&self, row: &EventRow) -> bool {
        let Filter { rule, reason, verdict, .. } = self.filter;
        let has_rule = |wanted: &String| {
            let rules = [&row.egress_rule, &row.ingress_rule, &row.refused_by].into_iter().flatten();
            rules
                .map(|it| it.rule.strip_prefix(wanted.as_str()))
                .any(|rest| rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' ')))
        };
        verdict.is_none_or(|verdict| row.verdict == verdict)
            && reason.as_ref().is_none_or(|reason| row.reason.as_ref() == Some(reason))
            && rule.as_ref().is_none_or(has_rule)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Does one of the rules that it comes of say so?
fn is_to_be_logged(snapshot: &Snapshot, event: &Event) -> bool {
    match event {
        Event::Flow(event) | Event::Elsewhere(event) => {
            let FlowInfo { key, epoch, egress_rule, ingress_rule, .. } = event.flow;
            event.what == Happening::Opened
                && logged_rules(snapshot, key.vni, epoch, [egress_rule, ingress_rule]).next().is_some()
        }
        Event::Dropped(key, _) | Event::WouldBeDenied(key, _) => is_logged(snapshot, key),
    }
}

fn of_flow(snapshot: &Snapshot, event: &FlowEvent, row: EventRow) -> EventRow {
    let flow = &event.flow;
    let row = EventRow {
        egress_rule: rule(snapshot, flow.key.vni, flow.epoch, flow.egress_rule),
        ingress_rule: rule(snapshot, flow.key.vni, flow.epoch, flow.ingress_rule),
        related: flow.related.map(|related| related_to(&related, &flow.key)),
        id: Some(flow.created.micros()),
        // From the moment it was told at, so that it is the same each time it is asked for.
        begun_ms: Some(row.time_ms.saturating_sub(millis(event.at.since(flow.created)))),
        ..row
    };
    match event.what {
        Happening::Opened => row,
        Happening::Ended(ending) => EventRow {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_end_by_the_names_that_are_asked_for() {
        let all = [Ending::Closed, Ending::Expired, Ending::Evicted, Ending::Refused, Ending::Killed];
        assert_eq!(all.map(ending_name), eastgate_api::FLOW_ENDINGS);
    }
}
