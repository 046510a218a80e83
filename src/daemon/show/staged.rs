//! What the staged version would do otherwise: flows that pass as they were noted, packets that are refused as they are counted.

use std::collections::BTreeMap;

use eastgate_api::{Failure, Filter, RuleRef, StagedChange, StagedRow, StagedRows};
use eastgate_dataplane::{
    pipeline::{
        counters::{DropKey, Seen},
        opinion::Opinion,
        shared::lock,
    },
    snapshot::{Network, Snapshot},
};
use eastgate_wire::{
    Addr, DropReason, FlowKey, Instant, Vni, names,
    view::{HeaderBits, proto, tcp_flags},
};

use super::{View, drops::refused_by, events::rule, part::Part, sight::Sight};
use crate::{
    daemon::staged::{Kind, Says, Staged, Tally},
    io::clock,
};

impl View {
    pub(super) fn staged(&self, live: &Snapshot, filter: &Filter) -> Result<StagedRows, Failure> {
        let part = Part::of(filter)?;
        // Before the lock: that waits for the kernel.
        let dropped = if lock(&self.staged).is_some() { self.dropped_rows() } else { Vec::new() };
        let staged = lock(&self.staged);
        let Some(staged) = staged.as_ref() else { return Ok(StagedRows::default()) };
        let now = clock::now();
        let sight = Sight::of(live, &filter.scope);
        let wanted = |vni: Vni| sight.has(vni) && filter.vni.is_none_or(|wanted| wanted == vni);
        let about = About { live, staged, now };
        let flows = staged.refused.iter().filter(|(kind, _)| wanted(kind.vni));
        let mut rows: Vec<StagedRow> = flows.map(|(kind, tally)| about.flow(kind, tally)).collect();
        let mut passing = BTreeMap::new();
        for row in &dropped {
            for seen in row.seen.iter().filter(|seen| seen.last_at >= staged.since) {
                about.packet(&row.key, seen, &mut passing);
            }
        }
        rows.extend(passing.into_values().filter(|row| wanted(row.vni)));
        let total = rows.len();
        let shown = part.fill(rows.into_iter().skip(part.from));
        Ok(StagedRows {
            config: Some(staged.path.display().to_string()),
            digest: Some(staged.digest.clone()),
            since_s: now.since(staged.since).as_secs(),
            flows: staged.flows,
            lost: self.shared.events_lost().saturating_sub(staged.lost_before),
            more: staged.more,
            next: part.next(shown.len(), total),
            rows: shown,
            total,
        })
    }
}

struct About<'a> {
    live: &'a Snapshot,
    staged: &'a Staged,
    now: Instant,
}

impl About<'_> {
    fn flow(&self, kind: &Kind, tally: &Tally) -> StagedRow {
        let Kind { vni, src, dst, proto, port, says } = *kind;
        let [epoch, rules @ ..] = tally.admitted;
        let in_force = rules.into_iter().filter_map(|id| rule(self.live, vni, epoch, id)).collect();
        let (staged, because) = self.said(vni, says);
        let row = self.row(
            StagedChange::WouldBeRefused,
            &FlowKey { vni, src, dst, proto, ..tally.example },
            tally.last_at,
        );
        StagedRow { port, count: tally.flows, in_force, staged, because, ..row }
    }

    /// A packet that the rules in force refuse: what has no row yet has one if the staged version lets it pass.
    fn packet(&self, key: &DropKey, seen: &Seen, rows: &mut BTreeMap<PassingKey, StagedRow>) {
        let by_rules = matches!(
            key.reason,
            DropReason::EgressDenied
                | DropReason::IngressDenied
                | DropReason::EgressRule
                | DropReason::IngressRule
                | DropReason::PolicyChanged
        );
        if !by_rules {
            return;
        }
        let Some(flow) = seen.subject.flow() else { return };
        // What is refused began a flow: of what is remembered of it, the flags are those of a SYN.
        let flags = if flow.proto == proto::TCP { tcp_flags::SYN } else { 0 };
        let header = HeaderBits { tcp_flags: flags, ..HeaderBits::default() };
        let says = self.staged.says(self.live, flow, seen.subject.icmp(), header, None);
        if !says.passes() {
            return;
        }
        let port = if names::has_ports(flow.proto) { flow.dport } else { 0 };
        let (by, rules) = ((key.by, key.rule), self.said(flow.vni, says).0);
        let row = rows.entry((flow.vni, flow.src, flow.dst, flow.proto, port, by.1)).or_insert_with(|| {
            let in_force = self.live.network(flow.vni).and_then(|network| refused_by(network, key));
            let row = self.row(StagedChange::WouldPass, flow, seen.last_at);
            StagedRow { port, in_force: in_force.into_iter().collect(), staged: rules, ..row }
        });
        row.count += seen.frames;
        row.last_s = row.last_s.min(self.now.since(seen.last_at).as_secs());
    }

    /// A row with what both kinds have in common.
    fn row(&self, change: StagedChange, flow: &FlowKey, last_at: Instant) -> StagedRow {
        let name = |address: Addr| {
            let network = self.live.network(flow.vni)?;
            let (endpoint, _) = network.at_address(address)?;
            Some(format!("{}/{}", network.tenant.name, endpoint.name))
        };
        StagedRow {
            change,
            vni: flow.vni,
            proto: names::protocol_name(flow.proto),
            src: flow.src,
            from: name(flow.src),
            dst: flow.dst,
            to: name(flow.dst),
            port: 0,
            count: 0,
            last_s: self.now.since(last_at).as_secs(),
            in_force: Vec::new(),
            staged: Vec::new(),
            because: None,
        }
    }

    /// The rules of the staged version that say it, or why it would be refused without one.
    fn said(&self, vni: Vni, says: Says) -> (Vec<RuleRef>, Option<String>) {
        let network = self.staged.snapshot.network(vni);
        match says {
            Says::NoNetwork => (Vec::new(), Some(format!("there is no VNI {vni} on this host"))),
            Says::NoEndpoint(address) => (Vec::new(), Some(format!("no endpoint has {address}"))),
            Says::Policy(Opinion::Passes { egress, ingress }) => {
                let rule = |id| rule_of(network?, id);
                ([egress, ingress].into_iter().flatten().filter_map(rule).collect(), None)
            }
            Says::Policy(Opinion::Refused { reason, by, rule }) => {
                let key = DropKey { vni: Some(vni), reason, from: None, by, rule };
                (network.and_then(|network| refused_by(network, &key)).into_iter().collect(), None)
            }
        }
    }
}

/// Who sends to whom, by which protocol and port, and the rule that refuses it
type PassingKey = (Vni, Addr, Addr, u8, u16, Option<u32>);

fn rule_of(network: &Network, id: u32) -> Option<RuleRef> {
    network.rules.reference(&network.tenant.name, id)
}
