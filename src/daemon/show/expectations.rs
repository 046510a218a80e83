//! Flows that helpers expect, and what they have come to.

use eastgate_api::{ExpectationRow, Failure, Filter, HelperCounts, List, RelatedTo};
use eastgate_conntrack::{expect::Related, helper::Unheeded};
use eastgate_dataplane::{pipeline::helpers, snapshot::Snapshot};
use eastgate_wire::{FlowKey, names};

use super::{View, ends::Ends, part::Part, sight::Sight};
use crate::io::clock;

/// The control flow of a flow that a packet with this key has opened, or would open.
pub(super) fn related_to(related: &Related, opened: &FlowKey) -> RelatedTo {
    let FlowKey { src, dst, sport, dport, .. } = related.control(opened);
    RelatedTo { helper: related.helper.name().to_owned(), src, sport, dst, dport }
}

impl View {
    pub(super) fn expectations(
        &self,
        snapshot: &Snapshot,
        filter: &Filter,
    ) -> Result<List<ExpectationRow>, Failure> {
        let (part, ends) = (Part::of(filter)?, Ends::of(snapshot, filter)?);
        let (now, sight) = (clock::now(), Sight::of(snapshot, &filter.scope));
        let wanted = |key: &FlowKey| {
            let both = [key.src, key.dst];
            sight.has(key.vni)
                && filter.vni.is_none_or(|vni| vni == key.vni)
                && filter.proto.is_none_or(|proto| proto == key.proto)
                && filter.fits_ends(Some(key.src), Some(key.dst), Some((key.sport, key.dport)))
                && filter.address.is_none_or(|address| both.contains(&address.into()))
                && ends.as_ref().is_none_or(|ends| both.iter().any(|end| ends.has_address(key.vni, *end)))
        };
        let expected = self.shared.helpers.expected().into_iter();
        let rows = expected.filter(|(expectation, until)| *until > now && wanted(&expectation.key));
        let row =
            |(expectation, until): (eastgate_conntrack::expect::Expectation, eastgate_wire::Instant)| {
                let FlowKey { src, dst, vni, dport, proto, .. } = expectation.key;
                ExpectationRow {
                    vni,
                    proto: names::protocol_name(proto),
                    src,
                    dst,
                    dport,
                    related: related_to(&expectation.related, &expectation.key),
                    expires_s: until.since(now).as_secs(),
                }
            };
        Ok(part.cut(rows.map(row).collect()))
    }

    pub(super) fn helper_counts(&self) -> HelperCounts {
        let helpers::HelperCounts { expected, announced, begun, overdue, made_room, limited, unheeded } =
            self.shared.helpers.counts();
        let names = Unheeded::ALL.iter().map(|why| why.name().to_owned());
        let unheeded = names.zip(unheeded).collect();
        HelperCounts { expected, announced, begun, overdue, made_room, limited, unheeded }
    }
}
