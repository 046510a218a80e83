//! Which rules do something: for each rule, whether anybody has it, whether it is ever in charge, and whether a verdict would
//! be another without it.

use std::collections::{BTreeMap, BTreeSet};

use eastgate_wire::{Addr, EndpointId};

use super::{
    cells::{self, Demand},
    peers::{Members, classes},
    services::{Domain, Slice},
};
use crate::{
    naive,
    rule::{Decision, Direction, Probe, Rule, RuleId, Source, Then, Tier, TierEnd, Verdict},
};

/// A packet that an endpoint can meet
pub type Packet = (EndpointId, Direction, Addr, Probe);

/// How a rule stands among the others.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    /// An endpoint has it.
    pub used: bool,
    /// There are packets that it matches.
    pub met: bool,
    /// A packet that it is in charge of
    pub acts: Option<Packet>,
    /// A packet whose verdict would be another without it
    pub needed: Option<Packet>,
    /// Which rules are in charge of what it matches, where it is not itself; none is the end of an earlier tier.
    pub shadowed_by: BTreeSet<Option<RuleId>>,
    /// Which rules would do the same without it; none is the end of a tier.
    pub redundant_by: BTreeSet<Option<RuleId>>,
}

/// What there is to say of a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Finding {
    /// No endpoint has it.
    Unused,
    /// No packet is like what it matches: the group or set that it names has no members, say.
    Unmet,
    /// For every packet that it matches another rule is in charge; none is the end of an earlier tier.
    Shadowed(BTreeSet<Option<RuleId>>),
    /// Every verdict would be the same without it, by these rules; none is the end of a tier.
    Redundant(BTreeSet<Option<RuleId>>),
}

impl Standing {
    /// What there is to say, if there is anything.
    #[must_use]
    pub fn finding(&self) -> Option<Finding> {
        match self {
            Self { used: false, .. } => Some(Finding::Unused),
            Self { met: false, .. } => Some(Finding::Unmet),
            Self { acts: None, .. } => Some(Finding::Shadowed(self.shadowed_by.clone())),
            Self { needed: None, .. } => Some(Finding::Redundant(self.redundant_by.clone())),
            _ => None,
        }
    }
}

/// How every rule of a policy stands.
#[must_use]
pub fn standings(source: &Source) -> BTreeMap<RuleId, Standing> {
    let all = source.groups.iter().flat_map(|group| group.all_rules());
    let mut standings: BTreeMap<RuleId, Standing> = all.map(|rule| (rule.id, Standing::default())).collect();
    let members = [Members::of(source)];
    for direction in [Direction::Ingress, Direction::Egress] {
        let mut alike: BTreeMap<Vec<&Tier>, EndpointId> = BTreeMap::new();
        for (endpoint, id) in source.endpoints.iter().zip(0..) {
            alike.entry(endpoint.tiers(direction).iter().collect()).or_insert(EndpointId(id));
        }
        for endpoint in alike.into_values() {
            Ranks::of(source, endpoint, direction).judge(&members, &mut standings);
        }
    }
    standings
}

/// What becomes of a packet. A rule that limits its sources counts them by itself: what another one grants in its place is not the same,
/// whatever the numbers.
fn granted(decision: &Decision) -> (Verdict, Option<RuleId>) {
    (decision.verdict, decision.rule.filter(|_| decision.verdict.limited))
}

/// Whether two rules match the same packets and do the same with them, as far as their text says; two that limit their sources do not: each
/// counts by itself.
#[must_use]
pub fn same_match(source: &Source, one: RuleId, other: RuleId) -> bool {
    let of = |id: RuleId| {
        let all = source.groups.iter().flat_map(|group| group.all_rules());
        all.filter(move |rule| rule.id == id)
    };
    let parts = |id: RuleId| -> BTreeSet<String> {
        of(id).map(|rule| format!("{:?}", Rule { id: RuleId(0), ..rule.clone() })).collect()
    };
    let limits = |rule: &Rule| matches!(rule.then, Then::Settle(verdict) if verdict.limited);
    !of(one).any(limits) && parts(one) == parts(other)
}

/// The rules of an endpoint in one direction, in the order in which they are asked.
struct Ranks<'s> {
    endpoint: EndpointId,
    direction: Direction,
    ends: Vec<TierEnd>,
    /// Tier and rule
    rules: Vec<(usize, &'s Rule)>,
}

impl<'s> Ranks<'s> {
    fn of(source: &'s Source, endpoint: EndpointId, direction: Direction) -> Self {
        let ends = naive::tiers(source, endpoint, direction).iter().map(|tier| tier.end).collect();
        let rules = naive::rules_of(source, endpoint, direction).collect();
        Self { endpoint, direction, ends, rules }
    }

    fn judge(&self, members: &[Members], standings: &mut BTreeMap<RuleId, Standing>) {
        for (_, rule) in &self.rules {
            standings.entry(rule.id).or_default().used = true;
        }
        let sided: Vec<(usize, &Rule)> = self.rules.iter().map(|(_, rule)| (0, *rule)).collect();
        let demands: Vec<Demand> = sided.iter().map(|(_, rule)| Demand::of(rule)).collect();
        for class in classes(members, &sided) {
            let Some(peer) = class.ranges.first().map(|range| range.first) else { continue };
            let demanded: Vec<&Demand> =
                class.rules.iter().filter_map(|place| demands.get(*place as usize)).collect();
            let domain = Domain::whole();
            cells::walk(&demanded, domain.spans(), &mut |keys, cell, met| {
                let Some(slice) = Slice::of(keys, cell, class.family).into_iter().next() else { return };
                let met = met.iter().filter_map(|at| class.rules.get(*at as usize));
                let met: Vec<(usize, &Rule)> =
                    met.filter_map(|place| self.rules.get(*place as usize).copied()).collect();
                let packet = (self.endpoint, self.direction, peer, slice.example(class.family));
                self.judge_cell(&met, packet, standings);
            });
        }
    }

    /// All rules that match in a cell, in order: who of them is in charge, and who would be.
    fn judge_cell(&self, met: &[(usize, &Rule)], packet: Packet, standings: &mut BTreeMap<RuleId, Standing>) {
        let (acting, decision) = self.decide(met, None);
        for (tier, rule) in met {
            let standing = standings.entry(rule.id).or_default();
            standing.met = true;
            if acting.iter().any(|(_, id)| *id == rule.id) {
                standing.acts = standing.acts.or(Some(packet));
                let (_, without) = self.decide(met, Some(rule.id));
                if granted(&without) == granted(&decision) {
                    standing.redundant_by.insert(without.rule);
                } else {
                    standing.needed = standing.needed.or(Some(packet));
                }
            } else {
                let own = acting.iter().find(|(acted, _)| acted == tier).map(|(_, id)| *id);
                standing.shadowed_by.insert(own.or(decision.rule));
            }
        }
    }

    /// Which rules act, tier by tier, and what comes of it, as if one rule were not there.
    fn decide(&self, met: &[(usize, &Rule)], without: Option<RuleId>) -> (Vec<(usize, RuleId)>, Decision) {
        let mut acting = Vec::new();
        for (number, end) in self.ends.iter().enumerate() {
            let mut there = met.iter().filter(|(tier, rule)| *tier == number && Some(rule.id) != without);
            let first = there.next().map(|(_, rule)| *rule);
            acting.extend(first.map(|rule| (number, rule.id)));
            match first.map(|rule| (rule.id, rule.then)) {
                Some((id, Then::Settle(verdict))) => return (acting, Decision { verdict, rule: Some(id) }),
                None if *end == TierEnd::Deny => return (acting, Decision::DEFAULT_DENY),
                Some((_, Then::Pass)) | None => {}
            }
        }
        (acting, Decision::DEFAULT_DENY)
    }
}
