//! What was dropped: rows of what frames have in common, narrowed to those that a question is about.

use eastgate_api::{DropRow, DropRows, Failure, Filter, RecentDrop, RuleRef};
use eastgate_dataplane::{
    pipeline::counters::{
        DropCount, DropDetail, DropKey, Seen, Subject, drop_details, dropped, would_drop_details,
    },
    snapshot::{Network, Snapshot, rules::RuleList},
};
use eastgate_wire::{Instant, Location, MacAddr, Vni, names};

use super::{View, ends::Ends, part::Part, sight::Sight};
use crate::io::clock;

/// Frames that a row lists one by one.
const LISTED: usize = 16;

impl View {
    pub(super) fn drops(&self, snapshot: &Snapshot, filter: &Filter) -> Result<DropRows, Failure> {
        let (part, ends) = (Part::of(filter)?, Ends::of(snapshot, filter)?);
        let about = About { snapshot, filter, ends: ends.as_ref() };
        let (now, sight) = (clock::now(), Sight::of(snapshot, &filter.scope));
        let rows = if filter.audit { would_drop_details(&self.shared.counters) } else { self.dropped_rows() };
        let mut found = DropRows::default();
        let mut shown = Vec::new();
        for row in rows.into_iter().filter(|row| row.count.frames > 0) {
            if filter.vni.is_some_and(|vni| row.key.vni != Some(vni)) || !sight.has_any(row.key.vni) {
                continue;
            }
            let Some(row) = about.narrow(row, &mut found.unknown_frames) else { continue };
            if row.chatter && !filter.all {
                found.chatter_frames += row.count.frames;
                continue;
            }
            shown.push(row);
        }
        found.total = shown.len();
        found.drops = part.fill(shown.iter().skip(part.from).map(|row| self.drop_row(snapshot, row, now)));
        found.next = part.next(found.drops.len(), found.total);
        Ok(found)
    }

    pub(super) fn dropped_rows(&self) -> Vec<DropDetail> {
        let seen = self.kernel.get().map(|kernel| kernel.seen_denied());
        let seen = seen.and_then(|seen| seen.inspect_err(|error| tracing::error!(%error)).ok());
        drop_details(&self.shared.counters, self.elsewhere().drops, seen.unwrap_or_default())
    }

    fn drop_row(&self, snapshot: &Snapshot, row: &DropDetail, now: Instant) -> DropRow {
        let DropDetail { key, chatter, count, seen } = row;
        let by = key.vni.and_then(|vni| snapshot.network(vni)).and_then(|network| refused_by(network, key));
        let from = key.from.map(|location| self.location_name(location));
        let what = |subject: &Subject| dropped(key.reason, subject);
        let recent = seen.iter().take(LISTED).map(|seen| RecentDrop {
            what: what(&seen.subject),
            frames: seen.frames,
            last_s: now.since(seen.last_at).as_secs(),
        });
        DropRow {
            vni: key.vni,
            reason: key.reason.name().to_owned(),
            text: key.reason.describe().to_owned(),
            class: if *chatter { "chatter" } else { "refusal" }.to_owned(),
            port: matches!(key.from, Some(Location::Local(_))).then(|| from.clone()).flatten(),
            from,
            rule: by.as_ref().map(|by| by.rule.clone()),
            at: by.map(|by| by.at),
            frames: count.frames,
            bytes: count.bytes,
            last: count.last.as_ref().map(what).filter(|text| !text.is_empty()),
            last_s: now.since(count.last_at).as_secs(),
            src_mac: count.last.and_then(|last| last.macs).map(|[_, src]| src),
            dst_mac: count.last.and_then(|last| last.macs).map(|[dst, _]| dst),
            kinds: seen.len(),
            recent: recent.collect(),
        }
    }
}

/// What a question is about.
struct About<'a> {
    snapshot: &'a Snapshot,
    filter: &'a Filter,
    ends: Option<&'a Ends<'a>>,
}

impl About<'_> {
    /// A row with no more than the frames that the question is about; none when there is none. Frames that are not
    /// remembered one by one may be of those, and are counted as `unknown`.
    fn narrow(&self, row: DropDetail, unknown: &mut u64) -> Option<DropDetail> {
        let Filter { address, mac, proto, port, endpoint, src, dst, sport, dport, .. } = self.filter;
        let addresses = [address, src, dst].into_iter().flatten().count();
        let ports = [port, sport, dport].into_iter().flatten().count();
        if addresses + ports == 0 && mac.is_none() && proto.is_none() && endpoint.is_none() {
            return Some(row);
        }
        let known: u64 = row.seen.iter().map(|seen| seen.frames).sum();
        *unknown += row.count.frames.saturating_sub(known);
        let seen: Vec<Seen> = row.seen.into_iter().filter(|seen| self.has(&row.key, &seen.subject)).collect();
        let last = *seen.first()?;
        let count = DropCount {
            frames: seen.iter().map(|seen| seen.frames).sum(),
            bytes: seen.iter().map(|seen| seen.bytes).sum(),
            first_at: row.count.first_at,
            last_at: last.last_at,
            last: Some(last.subject),
        };
        Some(DropDetail { count, seen, ..row })
    }

    fn has(&self, key: &DropKey, subject: &Subject) -> bool {
        let (filter, flow) = (self.filter, subject.flow());
        let macs = || macs(self.snapshot, key.vni, subject);
        let ports = flow.filter(|flow| names::has_ports(flow.proto)).map(|flow| (flow.sport, flow.dport));
        let [src, dst] = subject.ends();
        filter.address.is_none_or(|ip| subject.addresses().any(|address| address == ip.into()))
            && filter.proto.is_none_or(|proto| flow.is_some_and(|flow| flow.proto == proto))
            && filter.fits_ends(src, dst, ports)
            && filter.mac.is_none_or(|mac| macs().contains(&mac))
            && self.ends.is_none_or(|ends| {
                key.vni.is_some_and(|vni| {
                    subject.addresses().any(|address| ends.has_address(vni, address))
                        || macs().iter().any(|mac| ends.has_mac(vni, *mac))
                })
            })
    }
}

/// The MACs of a frame. What the kernel's programs refuse comes with the MACs of the endpoints that have its addresses:
/// they look at nothing else.
pub(super) fn macs(snapshot: &Snapshot, vni: Option<Vni>, subject: &Subject) -> Vec<MacAddr> {
    if let Some(macs) = subject.macs {
        return macs.to_vec();
    }
    let Some(network) = vni.and_then(|vni| snapshot.network(vni)) else { return Vec::new() };
    let owner = |address| network.by_address(address).map(|endpoint| endpoint.mac);
    subject.addresses().filter_map(owner).collect()
}

/// The rule that refused, or whose groups and policies had no rule that allows it.
pub(in crate::daemon) fn refused_by(network: &Network, key: &DropKey) -> Option<RuleRef> {
    if let Some(rule) = key.rule {
        return network.rules.reference(&network.tenant.name, rule);
    }
    let of_network = network.config()?;
    let endpoint = of_network.endpoint(&network.endpoint(key.by?)?.name)?;
    let tenant = &network.tenant.name;
    let policies = network.rules.policies_of(&network.tenant, &of_network.name, endpoint);
    let groups = network.tenant.rules_of(endpoint);
    let first = groups.first().map(|group| &group.at);
    let groups = groups.iter().map(|group| RuleList::Group(group.name.clone()));
    let lists: Vec<String> = groups.chain(policies).map(|list| list.name(tenant)).collect();
    let rule = if lists.is_empty() {
        format!("default deny: {tenant}/{} is in no group", endpoint.name)
    } else {
        format!("default deny: no rule of {} allows it", lists.join(", "))
    };
    Some(RuleRef { rule, at: first.unwrap_or(&endpoint.at).to_string() })
}
