//! Who reaches whom: what two endpoints let pass between them, and which rules of either do.

use eastgate_wire::{Addr, EndpointId};

use super::{
    Side,
    cells::Demand,
    regions::by_outcome,
    services::{Domain, Slice},
};
use crate::{
    naive,
    rule::{Decision, Direction},
};

/// Services that both ends treat alike.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Passage {
    /// Which
    pub services: Vec<Slice>,
    /// What the sender's rules say
    pub egress: Decision,
    /// What the receiver's rules say
    pub ingress: Decision,
}

impl Passage {
    /// Whether a flow of them can begin.
    #[must_use]
    pub const fn passes(&self) -> bool {
        self.egress.verdict.passes() && self.ingress.verdict.passes()
    }
}

/// All services of a domain between an address of one endpoint and one of another, by what the rules of both say. Addresses of
/// two families have none.
#[must_use]
pub fn passages(
    side: Side<'_>,
    (from, source): (EndpointId, Addr),
    (to, destination): (EndpointId, Addr),
    domain: &Domain,
) -> Vec<Passage> {
    let family = source.family();
    if family != destination.family() {
        return Vec::new();
    }
    let ends = [(from, Direction::Egress, destination), (to, Direction::Ingress, source)];
    let demands: Vec<Demand> = ends
        .iter()
        .flat_map(|(id, direction, peer)| {
            let rules = naive::rules_of(side.source, *id, *direction).map(|(_, rule)| rule);
            rules.filter(|rule| naive::is_about(side.source, rule, *peer))
        })
        .map(Demand::of)
        .collect();
    let demands: Vec<&Demand> = demands.iter().collect();
    let decided = by_outcome(&demands, domain, family, |probe| {
        ends.map(|(id, direction, peer)| side.compiled.decide(id, direction, peer, probe))
    });
    let passage =
        |([egress, ingress], services): ([Decision; 2], Vec<Slice>)| Passage { services, egress, ingress };
    decided.into_iter().map(passage).collect()
}
