//! What only several files together can tell: whose hosts, VNIs, ports and tenants they are.
//!
//! After a good load only what changed is looked at again: tenants that were good together and did not change
//! still are, as long as the hosts are the same.

mod good;
mod shares;
mod stations;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use ahash::RandomState;
use eastgate_wire::{Attachment, Vni};
use ipnet::IpNet;

pub(super) use self::good::Good;
use self::{
    good::{heads, others_than},
    shares::{Share, Shares},
};
use super::{
    check::{
        Claims, Elsewhere, EndpointClaim, FileContent, HostClaim, Kind, NetworkClaim, default_tables,
        mixed_own,
    },
    diagnostics::Found,
    leaf::Runs,
    model::{Config, HostRef, Limits, Name, OVERHEAD_V6, Overlay, Tenant},
    place::Place,
    problem::{Diagnostic, Near, Problem},
};

/// Who has something, and where that is written.
#[derive(Clone, Debug)]
struct Owner {
    tenant: Name,
    /// Its network or endpoint.
    item: Name,
    at: Place,
}

/// A tenant that is not as it was.
struct Changed<'f> {
    tenant: &'f Arc<Tenant>,
    claims: &'f Claims,
    /// Endpoints to look at, by name: the others are as they were in the last good configuration.
    endpoints: Vec<&'f Arc<EndpointClaim>>,
}

/// What the files say together.
pub(super) struct Whole<'f> {
    hosts: BTreeMap<Name, &'f HostClaim>,
    /// By tenant: the file and the place in its list.
    tenants: BTreeMap<Name, (&'f Arc<FileContent>, usize)>,
    /// Tenants to look at, in the order of the files.
    changed: Vec<Changed<'f>>,
    /// By tenant: its place among them
    changed_at: HashMap<&'f Name, usize, RandomState>,
    /// Tenants that are as they were in the last good configuration.
    same: BTreeSet<Name>,
    /// Nothing beside tenants has changed since that one, so that what is as it was may be relied upon.
    follows: bool,
    /// Every file could be read, so a host that is not there does not exist.
    complete: bool,
    diagnostics: Found,
    /// By tenant: warnings of addresses that are hosts'.
    of_hosts: BTreeMap<Name, Found>,
    /// The first file, which alone speaks for the site
    first: Option<&'f FileContent>,
}

impl<'f> Whole<'f> {
    /// Brings `contents` together. The first is the file that the others are included by; `complete` says that no
    /// file is missing.
    pub(super) fn new(contents: &'f [Arc<FileContent>], good: Option<&Good>, complete: bool) -> Self {
        let complete = complete && contents.iter().all(|content| content.whole);
        let mut whole = Self {
            hosts: BTreeMap::new(),
            tenants: BTreeMap::new(),
            changed: Vec::new(),
            changed_at: HashMap::default(),
            same: BTreeSet::new(),
            follows: false,
            complete,
            diagnostics: Found::default(),
            of_hosts: BTreeMap::new(),
            first: contents.first().map(AsRef::as_ref),
        };
        let mut in_order: Vec<&Arc<FileContent>> = contents.iter().collect();
        in_order.sort_by(|a, b| a.source.name().cmp(b.source.name()));
        for content in &in_order {
            whole.add_hosts(content);
        }
        let good = good.filter(|good| good.has_heads_of(contents));
        whole.follows = good.is_some();
        for content in in_order {
            whole.add_tenants(content, good);
        }
        whole
    }

    fn add_hosts(&mut self, content: &'f FileContent) {
        for host in &content.hosts {
            if let Some(first) = self.hosts.get(&host.name) {
                let problem = Problem::HostTwice { name: host.name.to_string() };
                self.diagnostics
                    .push(Diagnostic::new(problem, host.at.clone()).and(first.at.clone(), "first here"));
            } else {
                self.hosts.insert(host.name.clone(), host);
            }
        }
    }

    fn add_tenants(&mut self, content: &'f Arc<FileContent>, good: Option<&Good>) {
        for (index, both) in content.tenants.iter().enumerate() {
            let tenant = &both.0;
            if let Some((first, at)) = self.tenants.get(&tenant.name) {
                let problem = Problem::TenantTwice { name: tenant.name.to_string() };
                let first = first.tenants.get(*at).map(|(first, _)| first.at.clone());
                let found = Diagnostic::new(problem, tenant.at.clone());
                self.diagnostics.push(match first {
                    Some(first) => found.and(first, "first here"),
                    None => found,
                });
                continue;
            }
            self.tenants.insert(tenant.name.clone(), (content, index));
            let before = good.and_then(|good| good.config.tenants.get(&tenant.name));
            if before.is_some_and(|before| Arc::ptr_eq(before, tenant)) {
                self.same.insert(tenant.name.clone());
            } else {
                let (tenant, claims) = both;
                let before = good.map_or(&[][..], |good| good.endpoints_of(&tenant.name));
                let endpoints = others_than(before, &claims.endpoints);
                self.changed_at.insert(&tenant.name, self.changed.len());
                self.changed.push(Changed { tenant, claims, endpoints });
            }
        }
    }

    /// Looks at everything that may have become wrong since `good`.
    pub(super) fn check(&mut self, good: Option<&Good>) {
        let good = good.filter(|_| self.follows);
        let mut found = Found::default();
        self.vteps(&mut found);
        for changed in &self.changed {
            for network in &changed.claims.networks {
                self.network(network, &mut found);
            }
            self.endpoints(&changed.endpoints, &mut found);
        }
        self.shares(&mut found);
        self.site(&mut found);
        self.vnis(good, &mut found);
        self.attachments(good, &mut found);
        self.ports_of_stations(&mut found);
        self.profiles(&mut found);
        self.addresses_of_hosts(good);
        self.of_hosts.values().for_each(|of_host| found.append(of_host));
        self.diagnostics.append(&found);
    }

    /// What was found.
    pub(super) fn take_diagnostics(&mut self) -> Found {
        std::mem::take(&mut self.diagnostics)
    }

    fn vteps(&self, found: &mut Found) {
        let mut owners: HashMap<IpAddr, (&Name, &Place)> = HashMap::new();
        let mut in_order: Vec<_> =
            self.hosts.values().filter_map(|host| Some((host, host.vtep.as_ref()?))).collect();
        in_order.sort_by(|(_, (_, a)), (_, (_, b))| a.order().cmp(&b.order()));
        for (host, (address, at)) in in_order {
            if let Some((other, first)) = owners.get(address) {
                let problem = Problem::VtepTwice { address: *address, other: other.to_string() };
                found.push(Diagnostic::new(problem, at.clone()).and((*first).clone(), "first here"));
            } else {
                owners.insert(*address, (&host.name, at));
            }
        }
    }

    /// Warns of endpoints with addresses that are hosts', and with routes that nobody of the tenant reaches. What was found of
    /// tenants that did not change holds again: neither did the hosts, nor who may reach them.
    fn addresses_of_hosts(&mut self, good: Option<&Good>) {
        let site = self.first.map(|first| &first.site);
        let reserved = ReservedAddresses::of(self.hosts.values().copied());
        let mut same: Vec<&Name> = self.same.iter().collect();
        for Changed { tenant, claims, .. } in &self.changed {
            if good.is_some_and(|good| std::ptr::eq(good.endpoints_of(&tenant.name), &claims.endpoints[..])) {
                same.push(&tenant.name);
                continue;
            }
            let addresses = claims.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
            // Somebody of the tenant may take them.
            let has_access = site.is_some_and(|site| site.underlay_access_of(&tenant.name).is_some());
            let routes =
                claims.endpoints.iter().filter(|_| !has_access).flat_map(|endpoint| &endpoint.routes);
            let found: Found = addresses
                .filter_map(|(address, at)| reserved.warning(*address, at))
                .chain(routes.filter_map(|(route, at)| reserved.of_route(*route, at)))
                .collect();
            if !found.is_empty() {
                self.of_hosts.insert(tenant.name.clone(), found);
            }
        }
        let known = good.into_iter().flat_map(|good| same.iter().map(|name| (*name, &good.of_hosts)));
        let known = known.filter_map(|(name, of_hosts)| Some((name.clone(), of_hosts.get(name)?.clone())));
        self.of_hosts.extend(known);
    }

    /// The host, or the report that there is none.
    fn host(&self, host: &HostRef, found: &mut Found) -> Option<&'f HostClaim> {
        let known = self.hosts.get(&host.host).copied();
        if known.is_none() && self.complete {
            let near = Near::new(&host.host, self.hosts.keys().map(|name| &**name));
            let problem = Problem::UnknownName { kind: "host", name: host.host.to_string(), near };
            found.push(Diagnostic::new(problem, host.at.clone()));
        }
        known
    }

    fn network(&self, network: &NetworkClaim, found: &mut Found) {
        for host in &network.hosts {
            self.host(host, found);
        }
        if let Some(hub) = &network.hub
            && let Some(host) = self.host(hub, found)
            && host.runs == Runs::Vxlan
        {
            found.push(Diagnostic::new(Problem::HubKind { host: hub.host.to_string() }, hub.at.clone()));
        }
        let mut members = network.members.iter().filter_map(|member| {
            let (address, _) = self.hosts.get(&member.host)?.vtep.as_ref()?;
            Some((member, address.is_ipv6()))
        });
        let Some((first, v6)) = members.next() else { return };
        for (member, _) in members.filter(|(_, other)| *other != v6) {
            let problem = Problem::MixedVteps {
                network: network.name.to_string(),
                host: member.host.to_string(),
                other: first.host.to_string(),
            };
            found.push(Diagnostic::new(problem, member.at.clone()).and(first.at.clone(), "the other one"));
        }
        if let Some((group, at)) = &network.multicast_group
            && group.is_multicast()
            && group.is_ipv6() != v6
        {
            let problem = Problem::MulticastFamily { address: *group, network: network.name.to_string() };
            found.push(Diagnostic::new(problem, at.clone()));
        }
        let most = u16::MAX - OVERHEAD_V6;
        if let Some((mtu, at)) = &network.mtu
            && v6
            && *mtu > most
        {
            let problem = Problem::MtuTooLarge { mtu: *mtu, most, overhead: OVERHEAD_V6 };
            found.push(Diagnostic::new(problem, at.clone()));
        }
    }

    fn endpoints(&self, endpoints: &[&Arc<EndpointClaim>], found: &mut Found) {
        for endpoint in endpoints {
            let Some(host) = endpoint.host.as_ref().and_then(|host| self.host(host, found)) else { continue };
            if endpoint.port_missing && host.runs == Runs::Eastgate {
                let problem = Problem::PortMissing { host: host.name.to_string() };
                found.push(Diagnostic::new(problem, endpoint.at.clone()));
            }
        }
    }

    /// The tenant, or the report that there is none.
    fn tenant(&self, name: &str, at: &Place, found: &mut Found) -> Option<&'f Tenant> {
        let known = self.tenants.get(name).and_then(|(content, index)| content.tenants.get(*index));
        if known.is_none() && self.complete {
            let near = Near::new(name, self.tenants.keys().map(|name| &**name));
            found.push(Diagnostic::new(
                Problem::UnknownName { kind: "tenant", name: name.to_owned(), near },
                at.clone(),
            ));
        }
        known.map(|(tenant, _)| &**tenant)
    }

    /// What is named from outside, if it is there, or else the report that it is not: the tenants that it is shared with.
    fn elsewhere(&self, named: &Elsewhere, found: &mut Found) -> Option<&'f [Name]> {
        let tenant = self.tenant(&named.tenant, &named.at, found)?;
        let name = &named.name;
        let (kind, shared_with, known): (_, _, Vec<&str>) = match named.kind {
            Kind::Tenant => return None,
            Kind::Network => ("network", tenant.networks.get(name).map(|_| &[][..]), keys(&tenant.networks)),
            Kind::Group => {
                ("group", tenant.groups.get(name).map(|group| &*group.shared_with), keys(&tenant.groups))
            }
            Kind::Set => ("set", tenant.sets.get(name).map(|set| &*set.shared_with), keys(&tenant.sets)),
            Kind::Endpoint => {
                let known = tenant.endpoints().map(|(_, endpoint)| &*endpoint.name);
                ("endpoint", tenant.endpoint(name).map(|_| &[][..]), known.collect())
            }
        };
        if shared_with.is_none() {
            let near = Near::new(name, known);
            let problem = Problem::UnknownName { kind, name: format!("{}/{name}", named.tenant), near };
            found.push(Diagnostic::new(problem, named.at.clone()).and(tenant.at.clone(), "the tenant"));
        }
        shared_with
    }

    /// What tenants have of each other and of the site: also those that did not change, since it is others that have it.
    fn shares(&self, found: &mut Found) {
        let all = self.tenants.values().filter_map(|(content, index)| content.tenants.get(*index));
        let templates = self.first.map(|first| &first.site.templates);
        for (tenant, claims) in all {
            for named in &claims.elsewhere {
                let Some(shared_with) = self.elsewhere(named, found) else { continue };
                if !shared_with.contains(&tenant.name) {
                    let problem = Problem::NotShared {
                        kind: if named.kind == Kind::Set { "set" } else { "group" },
                        name: named.name.to_string(),
                        tenant: named.tenant.to_string(),
                        with: tenant.name.to_string(),
                    };
                    found.push(Diagnostic::new(problem, named.at.clone()));
                }
            }
            for (with, at) in &claims.shared_with {
                self.tenant(with, at, found);
            }
            for (name, at) in &claims.templates {
                let known = templates.is_some_and(|templates| templates.contains_key(name));
                if !known && self.complete {
                    let near = Near::new(name, templates.into_iter().flat_map(keys));
                    let problem = Problem::UnknownName { kind: "template", name: name.to_string(), near };
                    found.push(Diagnostic::new(problem, at.clone()));
                }
            }
            for group in tenant.groups.values().filter(|group| !group.stateful) {
                let like = group.like.iter().filter_map(|name| templates?.get(name));
                let rules = like.flat_map(|template| template.ingress.iter().chain(&template.egress));
                for rule in rules.chain(&*group.ingress).chain(&*group.egress) {
                    let limit = rule.limits.as_ref().map(|_| Problem::LimitStateless {});
                    let helper = rule.helper.map(|_| Problem::HelperStateless {});
                    for problem in limit.into_iter().chain(helper) {
                        let diagnostic = Diagnostic::new(problem, rule.at.clone());
                        found.push(diagnostic.and(group.at.clone(), "the group"));
                    }
                }
            }
        }
    }

    /// What the site says of its tenants.
    fn site(&self, found: &mut Found) {
        let Some(first) = self.first else { return };
        for named in &first.site_names {
            self.elsewhere(named, found);
        }
        for (name, at) in first.quotas.tenants() {
            self.tenant(name, at, found);
        }
        for (content, index) in self.tenants.values() {
            let Some((tenant, _)) = content.tenants.get(*index) else { continue };
            for policy in first.site.policies_for(tenant) {
                found.extend(mixed_own(policy, tenant));
            }
            if self.same.contains(&tenant.name) {
                continue;
            }
            for (what, has, most, at) in first.quotas.exceeded(tenant) {
                let problem = Problem::QuotaExceeded { tenant: tenant.name.to_string(), what, has, most };
                found.push(Diagnostic::new(problem, tenant.at.clone()).and(at.clone(), "the quota"));
            }
        }
    }

    fn vnis(&self, good: Option<&Good>, found: &mut Found) {
        let mut owners: HashMap<Vni, Owner> = HashMap::new();
        for Changed { tenant, claims, .. } in &self.changed {
            for (vni, mine) in vni_claims(tenant, claims) {
                let before = good
                    .and_then(|good| good.vnis.get(&vni))
                    .filter(|owner| self.same.contains(&owner.tenant));
                let first = owners.get(&vni).or(before).cloned();
                let kept = settle(first, mine, found, |other| Problem::VniTwice {
                    vni,
                    other: format!("network `{}` of tenant `{}`", other.item, other.tenant),
                });
                owners.insert(vni, kept);
            }
        }
    }

    fn attachments(&self, good: Option<&Good>, found: &mut Found) {
        let mut owners: HashMap<(&Name, &Arc<str>), Shares, RandomState> = HashMap::default();
        let is_same = |owner: &&Owner| self.is_same(owner);
        for Changed { tenant, endpoints, .. } in &self.changed {
            owners.reserve(endpoints.len());
            let mut in_order: Vec<_> = attachment_claims(tenant, endpoints).collect();
            in_order.sort_by(|(.., a), (.., b)| a.at.order().cmp(&b.at.order()));
            for (host, attachment, mine) in in_order {
                let share = Share::of(attachment);
                let shares = owners.entry((host, &attachment.device)).or_default();
                let before = good.and_then(|good| good.attachments.get(host)?.get(&attachment.device));
                let first = shares.get(share).or_else(|| before?.get(share).filter(is_same));
                let mixed = share.of_other_kind(shares).into_iter().next();
                let mixed = mixed
                    .or_else(|| share.of_other_kind(before?).into_iter().find(|(_, owner)| is_same(owner)));
                if let Some((how, other)) = mixed {
                    let is_mixed = |other: &Owner| how.problem(attachment, host, other);
                    settle(Some(other.clone()), mine.clone(), found, is_mixed);
                }
                let twice = |other: &Owner| share.twice(attachment, host, other);
                let kept = settle(first.cloned(), mine, found, twice);
                shares.insert(share, kept);
            }
        }
    }

    /// Whether the endpoint that has something in the last good configuration is as it was then.
    fn is_same(&self, owner: &Owner) -> bool {
        let is_kept = |changed: &Changed<'_>| {
            let is_it = |endpoint: &EndpointClaim| endpoint.name.cmp(&owner.item);
            let others = &changed.endpoints;
            changed.claims.endpoints.binary_search_by(|endpoint| is_it(endpoint)).is_ok()
                && others.binary_search_by(|endpoint| is_it(endpoint)).is_err()
        };
        self.same.contains(&owner.tenant) || self.changed_tenant(&owner.tenant).is_some_and(is_kept)
    }

    fn changed_tenant(&self, name: &Name) -> Option<&Changed<'f>> {
        self.changed.get(*self.changed_at.get(name)?)
    }

    /// The configuration, for when nothing wrong was found. The same as before if nothing changed.
    pub(super) fn into_good(self, contents: &'f [Arc<FileContent>], good: Option<Good>) -> Good {
        let good = good.filter(|_| self.follows);
        let unchanged = |good: &Good| {
            self.changed.is_empty()
                && good.config.tenants.len() == self.tenants.len()
                && heads(&good.contents).map(Arc::as_ptr).eq(heads(contents).map(Arc::as_ptr))
        };
        let config = match &good {
            Some(good) if unchanged(good) => good.config.clone(),
            _ => Arc::new(self.config(contents)),
        };
        let mut next = good.unwrap_or_else(|| Good::empty(config.clone()));
        next.forget(&self);
        for Changed { tenant, claims, endpoints } in &self.changed {
            next.remember(tenant, claims, endpoints);
            if let Some((content, index)) = self.tenants.get(&tenant.name) {
                next.tenants.insert(tenant.name.clone(), ((*content).clone(), *index));
            }
        }
        next.config = config;
        next.contents = contents.to_vec();
        next.of_hosts = self.of_hosts;
        next
    }

    fn config(&self, contents: &[Arc<FileContent>]) -> Config {
        let first = contents.first();
        let overlay = first.and_then(|first| first.overlay.as_ref());
        let limits = first.and_then(|first| first.limits.as_ref());
        let kernel_tables = first.map_or_else(default_tables, |first| first.kernel_tables);
        let hosts = self.hosts.values().filter_map(|claim| Some((claim.name.clone(), claim.host.clone()?)));
        let tenants = self.tenants.iter().filter_map(|(name, (content, index))| {
            let (tenant, _) = content.tenants.get(*index)?;
            Some((name.clone(), tenant.clone()))
        });
        Config {
            site: first.map(|first| first.site.clone()).unwrap_or_default(),
            overlay: overlay.map_or_else(Overlay::default, |(overlay, _)| overlay.clone()),
            limits: limits.map_or_else(Limits::of_host, |(limits, _)| *limits),
            kernel_tables,
            hosts: hosts.collect(),
            tenants: tenants.collect(),
        }
    }
}

/// The addresses that admission keeps all tenants from.
struct ReservedAddresses<'h> {
    vteps: HashMap<IpAddr, &'h Name, RandomState>,
    /// Most hosts have the same.
    management: BTreeMap<IpNet, &'h Name>,
}

impl<'h> ReservedAddresses<'h> {
    fn of(hosts: impl Iterator<Item = &'h HostClaim>) -> Self {
        let mut reserved = Self { vteps: HashMap::default(), management: BTreeMap::new() };
        for claim in hosts {
            if let Some((address, _)) = &claim.vtep {
                reserved.vteps.insert(*address, &claim.name);
            }
            for prefix in claim.host.iter().flat_map(|host| &host.management) {
                reserved.management.entry(*prefix).or_insert(&claim.name);
            }
        }
        reserved
    }

    /// A wider route holds reserved addresses and others.
    fn of_route(&self, route: IpNet, at: &Place) -> Option<Diagnostic> {
        let (what, host) =
            match self.vteps.get(&route.addr()).filter(|_| route.prefix_len() == route.max_prefix_len()) {
                Some(host) => ("the VTEP", *host),
                None => (
                    "of management addresses",
                    *self.management.iter().find(|(net, _)| net.contains(&route))?.1,
                ),
            };
        let problem = Problem::RouteOfHost { route, what, host: host.to_string() };
        Some(Diagnostic::new(problem, at.clone()))
    }

    fn warning(&self, address: IpAddr, at: &Place) -> Option<Diagnostic> {
        let management = || {
            Some(("a management address", *self.management.iter().find(|(net, _)| net.contains(&address))?.1))
        };
        let vtep = self.vteps.get(&address).map(|name| ("the VTEP", *name));
        let (what, host) = vtep.or_else(management)?;
        let problem = Problem::AddressOfHost { address, what, host: host.to_string() };
        Some(Diagnostic::new(problem, at.clone()))
    }
}

fn keys<T>(named: &BTreeMap<Name, T>) -> Vec<&str> {
    named.keys().map(|name| &**name).collect()
}

/// The VNIs of a tenant in the order written.
fn vni_claims(tenant: &Tenant, claims: &Claims) -> impl Iterator<Item = (Vni, Owner)> {
    let mut vnis: Vec<(Vni, Owner)> = claims
        .networks
        .iter()
        .filter_map(|network| {
            let (vni, at) = network.vni.clone()?;
            Some((vni, Owner { tenant: tenant.name.clone(), item: network.name.clone(), at }))
        })
        .collect();
    vnis.sort_by(|(_, a), (_, b)| a.at.order().cmp(&b.at.order()));
    vnis.into_iter()
}

/// The attachments of endpoints of a tenant, each with its host.
fn attachment_claims<'c>(
    tenant: &Tenant,
    endpoints: &'c [&Arc<EndpointClaim>],
) -> impl Iterator<Item = (&'c Name, &'c Attachment, Owner)> {
    endpoints.iter().filter_map(|endpoint| {
        let (attachment, at) = endpoint.attachment.as_ref()?;
        let owner = Owner { tenant: tenant.name.clone(), item: endpoint.name.clone(), at: at.clone() };
        Some((&endpoint.host.as_ref()?.host, attachment, owner))
    })
}

/// Of two that have the same thing, reports the one written later; returns the other.
fn settle(
    first: Option<Owner>,
    mine: Owner,
    found: &mut Found,
    problem: impl FnOnce(&Owner) -> Problem,
) -> Owner {
    let Some(other) = first else { return mine };
    let (first, second) = if other.at.order() <= mine.at.order() { (other, mine) } else { (mine, other) };
    found.push(Diagnostic::new(problem(&first), second.at).and(first.at.clone(), "first here"));
    first
}
