//! What the site lays down for its tenants: policies, address sets, templates and quotas.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Elsewhere, Kind,
    names::{Names, Whose},
    policy, rule,
};
use crate::{
    model::{Name, Tenant},
    place::Place,
    policies::{AddressSet, EndpointList, SitePolicy, Template},
    problem::Problem,
    read::{At, Field, Named, Reader},
    tables::{FileTable, QuotaTable, SiteSetTable, TableSize, TemplateTable, TenantQuotaTable},
    values::{AddressOrPrefix, List, is_name},
};

/// The site's policies, sets and templates, and what of tenants they name.
pub(super) fn check(file: &FileTable, reader: &mut Reader) -> (SitePolicy, Vec<Elsewhere>) {
    let sets: &Named<SiteSetTable> = &file.set.value;
    let mut names = Names::of_site(sets);
    let templates = file.template.value.iter();
    let templates = templates
        .map(|(name, table)| (name.value.clone(), template(name, table, &mut names, reader)))
        .collect();
    let policies = policy::check_all(&file.policy.value, None, &mut names, reader);
    let excluded = endpoints(&file.exclude.value, &mut names, reader);
    let underlay_access = endpoints(&file.underlay_access.value, &mut names, reader);
    let sets = sets.iter().map(|(name, table)| {
        let description = table.description.good().map(|text| text.value.clone());
        (
            name.value.clone(),
            AddressSet {
                name: name.value.clone(),
                at: reader.place(name.span),
                description,
                addresses: addresses(&table.addresses),
                shared_with: Vec::new(),
            },
        )
    });
    (SitePolicy { policies, sets: sets.collect(), templates, excluded, underlay_access }, names.elsewhere)
}

/// A list of endpoints of tenants.
fn endpoints(list: &List<Arc<str>>, names: &mut Names<'_>, reader: &mut Reader) -> EndpointList {
    let mut endpoints = EndpointList::new();
    for written in &list.items {
        let text = written.value.trim();
        match names.elsewhere(Kind::Endpoint, text, written.span, reader) {
            Whose::Theirs(tenant, name) => {
                let at = reader.place(written.span);
                if endpoints.entry(tenant).or_default().insert(name, at).is_some() {
                    reader.report(Problem::NameRepeated { name: text.to_owned() }, written.span);
                }
            }
            Whose::Ours(_) => reader.report(Problem::BadEndpoint { text: text.to_owned() }, written.span),
            Whose::Nobodys => {}
        }
    }
    endpoints
}

fn template(name: &At<Name>, table: &TemplateTable, names: &mut Names<'_>, reader: &mut Reader) -> Template {
    Template {
        name: name.value.clone(),
        at: reader.place(name.span),
        description: table.description.good().map(|text| text.value.clone()),
        ingress: rule::check_list(&table.ingress.value, rule::Direction::Ingress, names, reader),
        egress: rule::check_list(&table.egress.value, rule::Direction::Egress, names, reader),
    }
}

/// What is in a set: each once, sorted.
pub(super) fn addresses(written: &Field<List<AddressOrPrefix>>) -> Vec<ipnet::IpNet> {
    let items = written.good().into_iter().flat_map(|list| &list.value.items);
    let mut all: Vec<_> = items.map(|at| at.value.0).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// The most that tenants may have.
#[derive(PartialEq, Eq, Debug, Default)]
pub(crate) struct Quotas {
    all: Quota,
    of_tenants: BTreeMap<Name, (Place, Quota)>,
}

/// Of each kind of thing, the most there may be and where that is written.
type Quota = [Option<(u32, Place)>; KINDS.len()];

/// What is counted, and how
type Counted = (&'static str, fn(&Tenant) -> usize);

const KINDS: [Counted; 7] = [
    ("network", |tenant| tenant.networks.len()),
    ("endpoint", |tenant| tenant.endpoints().count() + may_be_associated(tenant)),
    ("group", |tenant| tenant.groups.keys().filter(|name| is_name(name)).count()),
    ("policy", |tenant| tenant.policies.keys().filter(|name| is_name(name)).count()),
    ("rule", |tenant| tenant.rules().map(|rule| rule.peers.len().max(1)).sum()),
    ("set", |tenant| tenant.sets.len()),
    ("address of sets", |tenant| tenant.sets.values().map(|set| set.addresses.len()).sum()),
];

/// As many machines as the tenant's profiles let one host have.
fn may_be_associated(tenant: &Tenant) -> usize {
    tenant.profiles.values().map(|profile| profile.machines as usize).sum()
}

impl Quotas {
    pub(super) fn of(table: &QuotaTable, reader: &Reader) -> Self {
        let place = |at: &Field<TableSize>| at.good().map(|at| (at.value.get(), reader.place(at.span)));
        let quota = |table: &TenantQuotaTable| {
            let TenantQuotaTable { networks, endpoints, groups, policies, rules, sets, set_addresses } =
                table;
            [networks, endpoints, groups, policies, rules, sets, set_addresses].map(place)
        };
        let of_tenants = table
            .tenant
            .value
            .iter()
            .map(|(name, table)| (name.value.clone(), (reader.place(name.span), quota(table))));
        Self { all: quota(&table.most), of_tenants: of_tenants.collect() }
    }

    /// The tenants that have quotas of their own, and where that is written
    pub(crate) fn tenants(&self) -> impl Iterator<Item = (&Name, &Place)> {
        self.of_tenants.iter().map(|(name, (at, _))| (name, at))
    }

    /// Of what a tenant has too much: how many it has, how many it may have, and where that is written.
    pub(crate) fn exceeded<'q>(
        &'q self,
        tenant: &'q Tenant,
    ) -> impl Iterator<Item = (&'static str, usize, u32, &'q Place)> {
        let own = self.of_tenants.get(&tenant.name).map(|(_, quota)| quota);
        KINDS.iter().enumerate().filter_map(move |(kind, (what, count))| {
            let said = |quota: &'q Quota| quota.get(kind).and_then(Option::as_ref);
            let (most, at) = own.and_then(said).or_else(|| said(&self.all))?;
            let has = count(tenant);
            (has > *most as usize).then_some((*what, has, *most, at))
        })
    }
}
