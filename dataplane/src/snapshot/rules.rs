//! From the groups and policies of a tenant's configuration, and what the site lays down over them, to the rules that the
//! policy crate compiles, and back from a rule's number to its name and place.

mod in_order;
mod infos;
mod multicast;
mod numbering;
mod source;
mod tiers;

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher as _},
    sync::Arc,
};

pub use eastgate_api::RuleRef;
use eastgate_config::{self as config, AddressSet, Config, Name, Place, Position, SitePolicy, Tenant};
use eastgate_conntrack::flow::SourceLimits;
use eastgate_policy::rule::{Direction, Group, GroupId};
use eastgate_wire::Addr;
use ipnet::IpNet;

pub(crate) use self::multicast::Multicast;
use self::{in_order::InOrder, infos::RuleInfos, numbering::Numbered, tiers::parts};

/// A prefix in the 128-bit form that the pure crates use.
#[must_use]
pub fn prefix(net: &IpNet) -> (Addr, u8) {
    let added = if net.addr().is_ipv4() { 96 } else { 0 };
    (net.network().into(), net.prefix_len() + added)
}

/// The rules that hold for a tenant, by number: its own, and those of the site that concern it. A rule that stays as it is
/// keeps its number when others come and go around it; a number is not given to another rule.
#[derive(Debug, Default)]
pub struct RuleTable {
    rules: RuleInfos,
    lists: BTreeMap<RuleList, Arc<Numbered>>,
    ids: Arc<BTreeMap<Part, GroupId>>,
    /// One more than the largest of them
    ids_end: usize,
    /// What rules grant each source, by their numbers
    limits: BTreeMap<u32, SourceLimits>,
    /// Those of the tenant's groups, by name: most of what is looked up
    groups: Arc<BTreeMap<Name, GroupId>>,
    /// By the numbers of parts: what their rules are to the policy crate. A group's is the same allocation as in the table before
    /// where it is seen that nothing about it has changed.
    expanded: Vec<Arc<Group>>,
    /// Whose rules they are; none of the empty table
    tenant: Option<Arc<Tenant>>,
    /// What it is compiled with beside itself
    site: Arc<SitePolicy>,
    others: BTreeMap<Name, Arc<Tenant>>,
    /// Numbers mean the same in all tables of one series.
    series: Arc<()>,
    /// Tables that have this in common differ in nothing but what rules of groups say.
    frame: Arc<()>,
}

/// A list and the numbers of its rules
type Listed<'c> = (&'c RuleList, &'c Arc<Numbered>);

/// What is written as one list: ingress, egress
type Lists<'c> = [&'c [config::Rule]; 2];

/// Stands for a rule: its list, direction and text, and which of several equal ones it is; or for the prefixes of a set.
type Digest = [u64; 2];

/// Numbers that are given before all are given anew, for each that is in use
pub(super) const SPARSE: usize = 4;

const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// Whose a policy is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Owner {
    /// The site's
    Site,
    /// The tenant's
    Tenant,
}

/// Rules that are written as one list for each direction, and what stands for a rule that no list has.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RuleList {
    /// Of a group of the tenant
    Group(Name),
    /// Of a template of the site
    Template(Name),
    /// Of a policy
    Policy(Owner, Name),
    /// What a policy with `end = "deny"` denies
    PolicyEnd(Owner, Name),
    /// What a network with `egress_default = "open"` lets out
    EgressDefault(Name),
    /// What a tenant with `mode = "audit"` would deny
    DefaultDeny,
    /// What an endpoint of the exclusion list may: everything
    Excluded(Name),
}

/// What has a number of its own in a policy's source: rules that stand in tiers together, or whom rules name as their peer.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Part {
    /// A group of the tenant, and whether prefixes that its members share are of it
    Group(Name, bool),
    /// A template of the site, and whether the groups that have its rules keep state
    Template(Name, bool),
    /// Rules of a policy behind one another that are for the same endpoints
    Policy(Owner, Name, Direction, u32),
    PolicyEnd(Owner, Name),
    EgressDefault(Name),
    DefaultDeny,
    Excluded(Name),
    /// A group of another tenant: its members
    GroupOf(Name, Name),
    /// A set of the site or of a tenant, and what stands for its prefixes. Of prefixes it is not known who is in them: a set
    /// with others is another one, so that whoever names it is decided about anew.
    Set(Option<Name>, Name, Digest),
}

/// A rule as a person knows it.
#[derive(Clone, Debug)]
pub struct RuleInfo {
    /// Where it stands
    pub list: RuleList,
    /// In which of the two lists; none where it is for both directions
    pub direction: Option<Direction>,
    /// Its place in that list, from 1
    pub number: u32,
    /// Where it is written
    pub at: Place,
}

impl RuleTable {
    /// The rules that hold for `tenant`, with the numbers that they had in a table `before`, as long as not too many are
    /// unused by now.
    #[must_use]
    pub fn new(tenant: &Arc<Tenant>, config: &Config, before: Option<&Self>) -> Self {
        let table = Self::numbered(tenant, config, before);
        let numbers = table.rules.len().max(table.ids_end);
        let used = table.lists.values().map(|list| list.in_order().count()).sum::<usize>() + table.ids.len();
        if before.is_some() && numbers > 1024 + SPARSE * used {
            Self::numbered(tenant, config, None)
        } else {
            table
        }
    }

    fn numbered(tenant: &Arc<Tenant>, config: &Config, before: Option<&Self>) -> Self {
        let mut table = Self { tenant: Some(tenant.clone()), site: config.site.clone(), ..Self::default() };
        if let Some(before) = before {
            table.series = before.series.clone();
            table.rules = before.rules.clone();
        }
        table.add_lists(tenant, before);
        let named = table.lists.values().flat_map(|numbered| &numbered.named);
        let tenants = named.filter_map(|peer| match peer {
            config::Peer::GroupOf(tenant, _) | config::Peer::SetOf(tenant, _) => Some(tenant),
            _ => None,
        });
        let others = tenants.filter(|name| **name != tenant.name);
        table.others =
            others.filter_map(|name| Some((name.clone(), config.tenants.get(name)?.clone()))).collect();
        if let Some(before) = before.filter(|before| table.differs_by_rules(before)) {
            (table.ids, table.ids_end) = (before.ids.clone(), before.ids_end);
            (table.groups, table.frame) = (before.groups.clone(), before.frame.clone());
            table.expand_others(tenant, before);
            return table;
        }
        let mut next = before.map_or(0, |before| before.ids_end) as u32;
        let mut known = before.map(|before| InOrder::of(&before.ids));
        let number = |part: Part| {
            let known = known.as_mut().and_then(|known| known.get(&part).copied());
            let id = known.unwrap_or_else(|| {
                next += 1;
                GroupId(next - 1)
            });
            (part, id)
        };
        table.ids = Arc::new(table.parts_of(tenant).into_iter().map(number).collect());
        table.ids_end = table.ids.values().map(|id| id.0 as usize + 1).max().unwrap_or(0);
        let groups = table.ids.iter().filter_map(|(part, id)| match part {
            Part::Group(name, _) => Some((name.clone(), *id)),
            _ => None,
        });
        table.groups = Arc::new(groups.collect());
        table.expand(tenant, before);
        table
    }

    /// Whether all that stands in tiers, and who is a member of what, is as it was in the table before: nothing has changed but
    /// what rules of groups say.
    fn differs_by_rules(&self, before: &Self) -> bool {
        let (Some(tenant), Some(was)) = (&self.tenant, &before.tenant) else { return false };
        let same_network = |(now, was): (&config::Network, &config::Network)| {
            (&now.name, now.egress_default, now.learning) == (&was.name, was.egress_default, was.learning)
                && now.has_endpoints_of(was)
        };
        fn frame(group: &config::Group) -> impl Eq + '_ {
            let rules = (group.stateful, group.has_egress_rules(), &group.includes);
            (&group.name, group.wide, &group.like, &group.made_of, rules)
        }
        let same_group = |(now, was): (&Arc<config::Group>, &Arc<config::Group>)| {
            Arc::ptr_eq(now, was) || frame(now) == frame(was)
        };
        let same_list = |(now, was): (Listed<'_>, Listed<'_>)| {
            Arc::ptr_eq(now.1, was.1) || now.0 == was.0 && now.1.named == was.1.named
        };
        (Arc::ptr_eq(&self.site, &before.site) || self.site == before.site)
            && self.others == before.others
            && tenant.mode == was.mode
            && tenant.networks.len() == was.networks.len()
            && tenant.networks.values().zip(was.networks.values()).all(same_network)
            && tenant.sets == was.sets
            && tenant.policies == was.policies
            && tenant.groups.len() == was.groups.len()
            && tenant.groups.values().zip(was.groups.values()).all(same_group)
            && self.lists.len() == before.lists.len()
            && self.lists.iter().zip(&before.lists).all(same_list)
    }

    /// Whether the endpoints of each network have the tiers and are members as in the table before.
    pub(super) fn has_frame_of(&self, before: &Self) -> bool {
        Arc::ptr_eq(&self.frame, &before.frame)
    }

    /// The templates that groups of the tenant start from
    pub fn templates<'a>(&'a self, tenant: &Tenant) -> impl Iterator<Item = &'a config::Template> {
        Self::templates_of(tenant).into_iter().filter_map(|name| self.site.templates.get(&name))
    }

    fn templates_of(tenant: &Tenant) -> BTreeSet<Name> {
        tenant.groups.values().flat_map(|group| group.like.iter().cloned()).collect()
    }

    /// The policies that may be asked about the tenant's endpoints, and whose they are
    pub fn policies<'a>(&'a self, tenant: &'a Tenant) -> impl Iterator<Item = (Owner, &'a config::Policy)> {
        let of_site = self.site.policies_for(tenant).map(|policy| (Owner::Site, policy));
        of_site.chain(tenant.policies.values().map(|policy| (Owner::Tenant, policy)))
    }

    /// The rules of a list as they were written when the table was made; none of what stands for a rule.
    fn written(&self, list: &RuleList) -> Option<Lists<'_>> {
        let tenant = self.tenant.as_ref()?;
        match list {
            RuleList::Group(name) => tenant.groups.get(name).map(|group| lists_of_group(group)),
            RuleList::Template(name) => self.site.templates.get(name).map(|it| [&it.ingress[..], &it.egress]),
            RuleList::Policy(Owner::Site, name) => {
                self.site.policies.get(name).map(|it| [&it.ingress[..], &it.egress])
            }
            RuleList::Policy(Owner::Tenant, name) => {
                tenant.policies.get(name).map(|it| [&it.ingress[..], &it.egress])
            }
            RuleList::PolicyEnd(..)
            | RuleList::EgressDefault(_)
            | RuleList::DefaultDeny
            | RuleList::Excluded(_) => None,
        }
    }

    /// Everything that the policy's source has a number for, sorted
    fn parts_of(&self, tenant: &Tenant) -> Vec<Part> {
        let groups = tenant.groups.values();
        let mut all: Vec<Part> =
            groups.clone().map(|group| Part::Group(group.name.clone(), group.wide)).collect();
        all.extend(groups.flat_map(|group| {
            group.like.iter().map(|template| Part::Template(template.clone(), group.stateful))
        }));
        for (owner, policy) in self.policies(tenant) {
            for (direction, rules) in DIRECTIONS.into_iter().zip([&policy.ingress, &policy.egress]) {
                let parts = (0..).zip(parts(rules));
                all.extend(parts.map(|(at, _)| Part::Policy(owner, policy.name.clone(), direction, at)));
            }
        }
        for (list, numbered) in &self.lists {
            let (owner, alone) = match list {
                RuleList::PolicyEnd(owner, name) => (*owner, Some(Part::PolicyEnd(*owner, name.clone()))),
                RuleList::EgressDefault(name) => (Owner::Tenant, Some(Part::EgressDefault(name.clone()))),
                RuleList::DefaultDeny => (Owner::Tenant, Some(Part::DefaultDeny)),
                RuleList::Excluded(name) => (Owner::Site, Some(Part::Excluded(name.clone()))),
                RuleList::Group(_) => (Owner::Tenant, None),
                RuleList::Template(_) => (Owner::Site, None),
                RuleList::Policy(owner, _) => (*owner, None),
            };
            all.extend(alone);
            all.extend(numbered.named.iter().filter_map(|peer| self.named(tenant, owner, peer)));
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The group or set that a rule of `owner` names as its peer.
    fn named(&self, tenant: &Tenant, owner: Owner, peer: &config::Peer) -> Option<Part> {
        let own_group = |name: &Name| {
            let group = tenant.groups.get(name)?;
            Some(Part::Group(name.clone(), group.wide))
        };
        match peer {
            config::Peer::Group(name) => own_group(name),
            config::Peer::GroupOf(of, name) if *of == tenant.name => own_group(name),
            config::Peer::GroupOf(of, name) => self
                .others
                .get(of)?
                .groups
                .contains_key(name)
                .then(|| Part::GroupOf(of.clone(), name.clone())),
            config::Peer::Set(name) => {
                let of = (owner == Owner::Tenant).then(|| tenant.name.clone());
                Some(Part::Set(of.clone(), name.clone(), wide_digest(self.set(tenant, of.as_ref(), name)?)))
            }
            config::Peer::SetOf(of, name) => {
                let set = self.set(tenant, Some(of), name)?;
                Some(Part::Set(Some(of.clone()), name.clone(), wide_digest(set)))
            }
            config::Peer::Any | config::Peer::Prefix(_) | config::Peer::Except(..) => None,
        }
    }

    /// A set of a tenant, or of the site.
    fn set<'a>(&'a self, tenant: &'a Tenant, of: Option<&Name>, name: &Name) -> Option<&'a AddressSet> {
        match of {
            None => self.site.sets.get(name),
            Some(of) if *of == tenant.name => tenant.sets.get(name),
            Some(of) => self.others.get(of)?.sets.get(name),
        }
    }

    /// Whether rules and groups that both tables have are of the same numbers.
    #[must_use]
    pub fn continues(&self, before: &Self) -> bool {
        Arc::ptr_eq(&self.series, &before.series)
    }

    /// Whether nothing that it took from outside its tenant is another thing in this configuration.
    #[must_use]
    pub fn stands_in(&self, tenant: &Tenant, config: &Config) -> bool {
        let starts_from_it = tenant.groups.values().any(|group| !group.like.is_empty());
        let has_a_say = |site: &SitePolicy| {
            starts_from_it
                || site.policies_for(tenant).next().is_some()
                || site.excluded_of(&tenant.name).next().is_some()
                || site.underlay_access_of(&tenant.name).is_some()
        };
        let same_site =
            Arc::ptr_eq(&self.site, &config.site) || !has_a_say(&self.site) && !has_a_say(&config.site);
        let is_same = |(name, was): (&Name, &Arc<Tenant>)| {
            config.tenants.get(name).is_some_and(|now| Arc::ptr_eq(was, now))
        };
        same_site && self.others.iter().all(is_same)
    }

    /// The numbers of the rules of a list in one direction, in the order in which they are written.
    #[must_use]
    pub fn numbers(&self, list: &RuleList, direction: Direction) -> &[u32] {
        let Some(Numbered { numbers: [ingress, egress], .. }) = self.lists.get(list).map(AsRef::as_ref)
        else {
            return &[];
        };
        if direction == Direction::Ingress { ingress } else { egress }
    }

    /// The numbers of all rules, each once: of list by list, ingress before egress.
    pub fn in_order(&self) -> impl Iterator<Item = u32> {
        self.lists.values().flat_map(|numbered| numbered.in_order())
    }

    /// The policies that are asked about an endpoint
    pub fn policies_of<'a>(
        &'a self,
        tenant: &'a Tenant,
        network: &'a str,
        endpoint: &'a config::Endpoint,
    ) -> impl Iterator<Item = RuleList> + 'a {
        let policies = self.policies(tenant);
        let applying = policies.filter(move |(_, it)| it.applies_to(&tenant.name, network, endpoint));
        applying.map(|(owner, policy)| RuleList::Policy(owner, policy.name.clone()))
    }

    /// The tenants that share something with this one which it names, or whose groups and sets the site names for it
    pub fn others(&self) -> impl Iterator<Item = &Tenant> {
        self.others.values().map(AsRef::as_ref)
    }

    /// What the site has laid down when the table was made
    #[must_use]
    pub fn site(&self) -> &SitePolicy {
        &self.site
    }

    /// What rules grant each source, by their numbers
    #[must_use]
    pub const fn limits(&self) -> &BTreeMap<u32, SourceLimits> {
        &self.limits
    }

    /// One more than the largest number of a rule.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Are there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.len() == 0
    }

    /// The rule with this number.
    #[must_use]
    pub fn get(&self, id: u32) -> Option<&RuleInfo> {
        self.rules.get(id)
    }

    /// Whether the rule with one number is asked before the one by which a packet is denied, or as which nobody allows it. Of two in one
    /// policy, a rule of one direction comes before all of the other.
    #[must_use]
    pub fn is_before(&self, rule: u32, denied_by: Option<u32>) -> bool {
        let Some(denied_by) = denied_by else { return true };
        let (Some(rule), Some(denied)) = (self.get(rule), self.get(denied_by)) else { return false };
        let same = rule.list == denied.list && rule.direction == denied.direction;
        match (self.standing_of(&rule.list), self.standing_of(&denied.list)) {
            (Some(own), Some(other)) if own == other => !same || rule.number < denied.number,
            (Some(own), Some(other)) => own < other,
            _ => false,
        }
    }

    /// Where the rules of a list stand among those of others: place, order and name.
    fn standing_of<'a>(&'a self, list: &'a RuleList) -> Option<(u8, u32, &'a str)> {
        const END: u32 = u32::MAX;
        let policy = |owner: &Owner, name| {
            let policy = self.policy(self.tenant.as_deref()?, *owner, name)?;
            let place = match (policy.position, owner) {
                (Position::Before, Owner::Site) => 0,
                (Position::Before, Owner::Tenant) => 1,
                (Position::After, Owner::Tenant) => 3,
                (Position::After, Owner::Site) => 4,
            };
            Some((place, policy))
        };
        match list {
            RuleList::Policy(owner, name) => {
                policy(owner, name).map(|(place, policy)| (place, policy.order, &*policy.name))
            }
            // Behind all policies of its place, whatever order they have
            RuleList::PolicyEnd(owner, name) => {
                policy(owner, name).map(|(place, _)| (place, END, "\u{10ffff}"))
            }
            RuleList::Group(_)
            | RuleList::Template(_)
            | RuleList::EgressDefault(_)
            | RuleList::Excluded(_) => Some((2, 0, "")),
            RuleList::DefaultDeny => Some((5, 0, "")),
        }
    }

    /// Name and place of the rule with this number.
    #[must_use]
    pub fn reference(&self, tenant: &str, id: u32) -> Option<RuleRef> {
        let rule = self.get(id)?;
        let list = rule.list.name(tenant);
        let rule_name = match rule.direction {
            Some(Direction::Ingress) => format!("{list} ingress #{}", rule.number),
            Some(Direction::Egress) => format!("{list} egress #{}", rule.number),
            None => list,
        };
        Some(RuleRef { rule: rule_name, at: rule.at.to_string() })
    }
}

impl RuleList {
    /// Its name, where the tenant is called `tenant`: `acme/web`, `acme/policy internet`, `policy hardening`.
    #[must_use]
    pub fn name(&self, tenant: &str) -> String {
        match self {
            Self::Group(name) => format!("{tenant}/{name}"),
            Self::Template(name) => format!("template {name}"),
            Self::Policy(Owner::Site, name) => format!("policy {name}"),
            Self::Policy(Owner::Tenant, name) => format!("{tenant}/policy {name}"),
            Self::PolicyEnd(owner, name) => {
                format!("{} end", Self::Policy(*owner, name.clone()).name(tenant))
            }
            Self::EgressDefault(network) => format!("{tenant}/network {network} egress_default"),
            Self::DefaultDeny => format!("default deny of tenant {tenant}"),
            Self::Excluded(endpoint) => format!("exclude {tenant}/{endpoint}"),
        }
    }
}

fn lists_of_group(group: &config::Group) -> Lists<'_> {
    [&group.ingress, &group.egress]
}

fn digest(what: &impl Hash) -> Digest {
    // Two of 64 bits: what a tenant writes must not pass for another rule by chance.
    [0u8, 1].map(|half| {
        let mut hasher = DefaultHasher::new();
        (half, what).hash(&mut hasher);
        hasher.finish()
    })
}

/// Of the prefixes of a set; single addresses are known one by one.
fn wide_digest(set: &AddressSet) -> Digest {
    let wide = |net: &&IpNet| net.prefix_len() < net.max_prefix_len();
    let wide: Vec<&IpNet> = set.addresses.iter().filter(wide).collect();
    if wide.is_empty() { [0; 2] } else { digest(&wide) }
}
