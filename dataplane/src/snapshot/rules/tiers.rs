//! The tiers of endpoints: which lists of rules stand in them, and in which order.
//!
//! In one direction, each left out where nothing is in it for the endpoint: the site's policies before the groups, the
//! tenant's, the security groups, and the policies after them, the tenant's first. An endpoint of the exclusion list has none of
//! them: it is still a member of its groups, whom the rules of others mean.

use std::{collections::HashMap, sync::Arc};

use ahash::RandomState;
use eastgate_config::{
    self as config, EgressDefault, Endpoint, Name, Policy, PolicyEnd, Position, Share, Tenant,
};
use eastgate_policy::rule::{Direction, GroupId, Tier, TierEnd};
use eastgate_wire::Family;

use super::{DIRECTIONS, Owner, Part, RuleTable};

/// Rules of a policy behind one another that are for the same endpoints.
#[derive(Clone, Copy)]
pub(super) struct OfSome<'c> {
    pub(super) rules: &'c [config::Rule],
    /// The place of the first in the list
    pub(super) from: usize,
    /// Only those that are about this family; none where they are for all endpoints
    pub(super) family: Option<Family>,
}

/// The parts that a policy's list consists of, in their order. Rules with `own` are for some endpoints only, and for those by
/// family: of one that has addresses of both, only those of one may be meant.
pub(super) fn parts(rules: &[config::Rule]) -> impl Iterator<Item = OfSome<'_>> {
    let mut from = 0;
    let runs = rules.chunk_by(|a, b| a.own == b.own);
    runs.flat_map(move |run| {
        let start = from;
        from += run.len();
        let families: Vec<Option<Family>> = match run.first() {
            Some(first) if !first.own.is_empty() => {
                let has = |family: &Family| first.own.iter().any(|net| config::family_of(net) == *family);
                [Family::V4, Family::V6].into_iter().filter(has).map(Some).collect()
            }
            _ => vec![None],
        };
        families.into_iter().map(move |family| OfSome { rules: run, from: start, family })
    })
}

pub(super) fn rules_in(policy: &Policy, direction: Direction) -> &[config::Rule] {
    match direction {
        Direction::Ingress => &policy.ingress,
        Direction::Egress => &policy.egress,
    }
}

impl OfSome<'_> {
    fn is_for(&self, endpoint: &Endpoint) -> bool {
        match (self.family, self.rules.first()) {
            (Some(family), Some(rule)) => rule.share_of(endpoint, family) == Share::All,
            _ => true,
        }
    }
}

/// A policy where it stands.
struct Standing<'c> {
    policy: &'c Policy,
    /// Of each direction what it consists of
    parts: [Vec<(OfSome<'c>, GroupId)>; 2],
    /// What denies at its end, and whether that is only being tried out
    end: Option<(GroupId, bool)>,
}

/// The groups that endpoints are in, and those whose rules they have where these are others
type InGroups<'c> = (&'c [Name], Option<&'c [Name]>);

/// What the members of some groups have of them.
struct OfGroups {
    /// Those that they are in: rules that name one of these as their peer mean them.
    ids: Vec<GroupId>,
    /// The lists that they have in each direction
    lists: [Vec<GroupId>; 2],
    /// The tiers of one of them
    tiers: Option<[Arc<Vec<Tier>>; 2]>,
}

/// The tiers of the endpoints of one network.
pub(super) struct Tiers<'c> {
    table: &'c RuleTable,
    tenant: &'c Tenant,
    network: &'c config::Network,
    before: [Vec<Standing<'c>>; 2],
    after: Vec<Standing<'c>>,
    /// Most endpoints are in the groups of many others, with the same rules.
    of_groups: HashMap<InGroups<'c>, OfGroups, RandomState>,
}

impl<'c> Tiers<'c> {
    pub(super) fn new(table: &'c RuleTable, tenant: &'c Tenant, network: &'c config::Network) -> Self {
        let at = |owner: Owner, position: Position| {
            let here =
                table.policies(tenant).filter(|(whose, it)| *whose == owner && it.position == position);
            let mut here: Vec<&Policy> = here.map(|(_, policy)| policy).collect();
            here.sort_by(|a, b| (a.order, &a.name).cmp(&(b.order, &b.name)));
            here.into_iter().map(|policy| table.standing(tenant, owner, policy)).collect::<Vec<_>>()
        };
        let mut after = at(Owner::Tenant, Position::After);
        after.extend(at(Owner::Site, Position::After));
        let before = [Owner::Site, Owner::Tenant].map(|owner| at(owner, Position::Before));
        Self { table, tenant, network, before, after, of_groups: HashMap::default() }
    }

    /// The groups that an endpoint is in, and its tiers in each direction.
    pub(super) fn of(&mut self, endpoint: &'c Endpoint) -> (Vec<GroupId>, [Arc<Vec<Tier>>; 2]) {
        let (table, tenant, network) = (self.table, self.tenant, self.network);
        let mut groups = std::mem::take(&mut self.of_groups);
        let of_groups = groups
            .entry((&endpoint.groups, endpoint.rules_of.as_deref()))
            .or_insert_with(|| table.of_groups(tenant, network, endpoint));
        let ids = of_groups.ids.clone();
        let tiers = self.of_one(endpoint, of_groups);
        self.of_groups = groups;
        (ids, tiers)
    }

    fn of_one(&self, endpoint: &'c Endpoint, of_groups: &mut OfGroups) -> [Arc<Vec<Tier>>; 2] {
        let excluded = || self.table.ids.get(&Part::Excluded(endpoint.name.clone())).copied();
        if self.table.site.excludes(&self.tenant.name, &endpoint.name)
            && let Some(excluded) = excluded()
        {
            let all = Arc::new(vec![Tier { groups: vec![excluded], end: TierEnd::Deny }]);
            return [all.clone(), all];
        }
        let has_policies = !self.after.is_empty() || self.before.iter().any(|policies| !policies.is_empty());
        if let Some(same) = of_groups.tiers.as_ref().filter(|_| !has_policies) {
            return same.clone();
        }
        let [ingress, egress] = &of_groups.lists;
        let tiers = [self.tiers(endpoint, 0, ingress.clone()), self.tiers(endpoint, 1, egress.clone())];
        let shared = tiers.map(Arc::new);
        if of_groups.tiers.as_ref() != Some(&shared) {
            of_groups.tiers = Some(shared);
        }
        of_groups.tiers.clone().unwrap_or_default()
    }

    fn tiers(&self, endpoint: &Endpoint, direction: usize, groups: Vec<GroupId>) -> Vec<Tier> {
        let applies =
            |it: &&Standing<'c>| it.policy.applies_to(&self.tenant.name, &self.network.name, endpoint);
        let for_it = |it: &Standing<'c>| {
            let parts = it.parts.get(direction).into_iter().flatten();
            parts.filter(|(part, _)| part.is_for(endpoint)).map(|(_, id)| *id).collect::<Vec<GroupId>>()
        };
        let mut tiers = Vec::new();
        for policies in self.before.iter().filter(|policies| !policies.is_empty()) {
            let mut lists: Vec<GroupId> = policies.iter().filter(applies).flat_map(for_it).collect();
            lists.extend(end_of(policies.iter().filter(applies), direction));
            if !lists.is_empty() {
                tiers.push(Tier { groups: lists, end: TierEnd::Pass });
            }
        }
        let after: Vec<GroupId> = self.after.iter().filter(applies).flat_map(for_it).collect();
        let end = if after.is_empty() { TierEnd::Deny } else { TierEnd::Pass };
        tiers.push(Tier { groups, end });
        if !after.is_empty() {
            tiers.push(Tier { groups: after, end: TierEnd::Deny });
        }
        if let (Some(last), Some(id)) = (tiers.last_mut(), self.table.ids.get(&Part::DefaultDeny)) {
            last.groups.push(*id);
        }
        tiers
    }
}

/// What denies at the end of a place: for the first policy that says so and is not only being tried out, in a direction that it
/// has rules for.
fn end_of<'s, 'c: 's>(policies: impl Iterator<Item = &'s Standing<'c>>, direction: usize) -> Option<GroupId> {
    let has_rules = |it: &&Standing<'_>| it.parts.get(direction).is_some_and(|parts| !parts.is_empty());
    let ends: Vec<(GroupId, bool)> = policies.filter(has_rules).filter_map(|it| it.end).collect();
    ends.iter().find(|(_, tried_out)| !tried_out).or(ends.first()).map(|(id, _)| *id)
}

impl RuleTable {
    fn standing<'c>(&self, tenant: &Tenant, owner: Owner, policy: &'c Policy) -> Standing<'c> {
        let parts = DIRECTIONS.map(|direction| {
            let id = |at| self.ids.get(&Part::Policy(owner, policy.name.clone(), direction, at)).copied();
            let parts = (0..).zip(parts(rules_in(policy, direction)));
            parts.filter_map(|(at, part)| Some((part, id(at)?))).collect()
        });
        let end = match policy.end {
            PolicyEnd::Deny => self.ids.get(&Part::PolicyEnd(owner, policy.name.clone())).copied(),
            PolicyEnd::Pass => None,
        };
        let end = end.map(|id| (id, Self::is_tried_out(tenant, owner, policy)));
        Standing { policy, parts, end }
    }

    /// The security groups of an endpoint: those that it is in, and those whose rules it has, with what they start from.
    fn of_groups(&self, tenant: &Tenant, network: &config::Network, endpoint: &Endpoint) -> OfGroups {
        let groups: Vec<&config::Group> = tenant.rules_of(endpoint);
        let template_says =
            |name: &Name| self.site.templates.get(name).is_some_and(|it| !it.egress.is_empty());
        let is_open = network.egress_default == EgressDefault::Open
            && !groups.iter().any(|group| group.has_egress_rules() || group.like.iter().any(template_says));
        let template = |group: &config::Group, name: &Name| {
            self.ids.get(&Part::Template(name.clone(), group.stateful)).copied()
        };
        // What a rule without state allows is of no flow, whichever other rules allow it as well.
        let mut by_state = groups.clone();
        by_state.sort_by_key(|group| group.stateful);
        let lists = by_state.iter().flat_map(|group| {
            let own = self.groups.get(&group.name).copied();
            own.into_iter().chain(group.like.iter().filter_map(|name| template(group, name)))
        });
        let ingress: Vec<GroupId> = lists.collect();
        let egress = if is_open {
            self.ids.get(&Part::EgressDefault(network.name.clone())).copied().into_iter().collect()
        } else {
            ingress.clone()
        };
        let ids = endpoint.groups.iter().filter_map(|name| self.groups.get(name).copied()).collect();
        OfGroups { ids, lists: [ingress, egress], tiers: None }
    }
}
