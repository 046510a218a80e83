//! Policies: where they stand, whose packets they are asked about, and what their rules say.

use std::{collections::BTreeMap, sync::Arc};

use ipnet::IpNet;

use super::{
    Kind,
    names::{Names, Whose, is_known},
    rule::{self, Direction},
};
use crate::{
    leaf::{Action, PolicyEnd, Position},
    model::{Name, Rule, Tenant},
    policies::{Policy, Scope, Share},
    prefixes::without,
    problem::{Diagnostic, Problem},
    read::{At, Named, Reader, Span},
    tables::{EndpointTable, NetworkTable, PolicyTable, TenantTable},
};

/// What a tenant's policies can apply to.
pub(super) struct Parts<'t> {
    networks: Vec<&'t str>,
    groups: Vec<&'t str>,
    endpoints: Vec<&'t str>,
}

impl<'t> Parts<'t> {
    /// Those of a tenant.
    pub(super) fn of(tenant: &'t TenantTable) -> Self {
        fn names<T>(named: &Named<T>) -> Vec<&str> {
            named.iter().map(|(name, _)| &*name.value).collect()
        }
        let networks: &Named<NetworkTable> = &tenant.network.value;
        let endpoints: &Named<EndpointTable> = &tenant.endpoint.value;
        Self { networks: names(networks), groups: names(&tenant.group.value), endpoints: names(endpoints) }
    }
}

/// The policies of a tenant, which has these parts, or of the site.
pub(super) fn check_all(
    tables: &Named<PolicyTable>,
    parts: Option<&Parts<'_>>,
    names: &mut Names<'_>,
    reader: &mut Reader,
) -> BTreeMap<Name, Policy> {
    let policies =
        tables.iter().map(|(name, table)| (name.value.clone(), check(name, table, parts, names, reader)));
    policies.collect()
}

fn check(
    name: &At<Name>,
    table: &PolicyTable,
    parts: Option<&Parts<'_>>,
    names: &mut Names<'_>,
    reader: &mut Reader,
) -> Policy {
    let position = table.position.value;
    let mut rules = |list, direction| {
        let rules = rule::check_policy_list(list, direction, names, reader);
        for (rule, span) in &rules {
            if rule.action == Action::Pass && position == Position::After {
                reader.report(Problem::PassAfter {}, *span);
            }
        }
        rules.into_iter().map(|(rule, _)| rule).collect::<Vec<Rule>>()
    };
    let ingress = rules(&table.ingress.value, Direction::Ingress);
    let egress = rules(&table.egress.value, Direction::Egress);
    let written = [&table.ingress.value, &table.egress.value];
    if written.iter().all(|list| list.items.is_empty() && !list.partial) {
        reader.report(Problem::PolicyEmpty { name: name.value.to_string() }, name.span);
    }
    if let Some(end) = table.end.good()
        && position == Position::After
    {
        reader.report(Problem::EndAfter {}, end.span);
    }
    Policy {
        name: name.value.clone(),
        at: reader.place(name.span),
        description: table.description.good().map(|text| text.value.clone()),
        position,
        order: table.order.value.get(),
        mode: table.mode.value,
        end: table.end.good().map_or(PolicyEnd::Pass, |end| end.value),
        end_at: reader.place(table.end.good().map_or(name.span, |end| end.span)),
        applies_to: scopes(name, table, parts, names, reader),
        ingress,
        egress,
    }
}

fn scopes(
    name: &At<Name>,
    table: &PolicyTable,
    parts: Option<&Parts<'_>>,
    names: &mut Names<'_>,
    reader: &mut Reader,
) -> Vec<Scope> {
    if table.applies_to.is_missing() {
        let example = if parts.is_some() { "\"tenant\"" } else { "\"site\"" };
        reader.report(Problem::MissingKey { key: "applies_to", table: "policy", example }, name.span);
    }
    let mut scopes: Vec<Scope> = Vec::new();
    for word in table.applies_to.good().into_iter().flat_map(|list| &list.value.0) {
        match scope(word, parts, names, reader) {
            Some(scope) if scopes.contains(&scope) => {
                reader.report(Problem::NameRepeated { name: word.value.to_string() }, word.span);
            }
            scope => scopes.extend(scope),
        }
    }
    scopes
}

/// The kinds of what a policy applies to.
const KINDS: [(&str, Kind); 4] = [
    ("tenant", Kind::Tenant),
    ("network", Kind::Network),
    ("group", Kind::Group),
    ("endpoint", Kind::Endpoint),
];

fn scope(
    word: &At<Arc<str>>,
    parts: Option<&Parts<'_>>,
    names: &mut Names<'_>,
    reader: &mut Reader,
) -> Option<Scope> {
    let span = word.span;
    let text = word.value.trim();
    let bad = |reader: &mut Reader| {
        let known = match parts {
            Some(_) => "\"tenant\", \"network:NAME\", \"group:NAME\" or \"endpoint:NAME\"",
            None => {
                "\"site\", \"tenant:TENANT\", \"network:TENANT/NAME\", \"group:TENANT/NAME\" or \"endpoint:TENANT/NAME\""
            }
        };
        reader.report(Problem::BadScope { text: text.to_owned(), known }, span);
        None
    };
    let of_kind = text.split_once(':').and_then(|(kind, name)| {
        let known = KINDS.iter().find(|(word, _)| *word == kind.trim());
        known.map(|(word, kind)| (*word, *kind, name.trim()))
    });
    match (parts, text, of_kind) {
        (Some(_), "tenant", _) => names.tenant.cloned().map(Scope::Tenant),
        (None, "site", _) => Some(Scope::Site),
        (Some(parts), _, Some((word, kind, name))) if !name.contains('/') => {
            let known = match kind {
                Kind::Network => &parts.networks,
                Kind::Group => &parts.groups,
                Kind::Endpoint => &parts.endpoints,
                Kind::Tenant | Kind::Set => return bad(reader),
            };
            let tenant = names.tenant?.clone();
            is_known(word, name, known, span, reader).then(|| scope_of(kind, tenant, name.into()))?
        }
        (None, _, Some((_, Kind::Tenant, name))) if !name.contains('/') => {
            names.tenant_elsewhere(name, span, reader).map(Scope::Tenant)
        }
        (None, _, Some((_, kind, name))) if kind != Kind::Tenant => {
            match names.elsewhere(kind, name, span, reader) {
                Whose::Theirs(tenant, name) => scope_of(kind, tenant, name),
                Whose::Ours(_) => bad(reader),
                Whose::Nobodys => None,
            }
        }
        _ => bad(reader),
    }
}

fn scope_of(kind: Kind, tenant: Name, name: Name) -> Option<Scope> {
    match kind {
        Kind::Network => Some(Scope::Network(tenant, name)),
        Kind::Group => Some(Scope::Group(tenant, name)),
        Kind::Endpoint => Some(Scope::Endpoint(tenant, name)),
        Kind::Tenant | Kind::Set => None,
    }
}

/// The groups that a policy of their tenant speaks of.
pub(super) fn groups_named(policy: &Policy) -> impl Iterator<Item = &str> {
    let applies = policy.applies_to.iter().filter_map(|scope| match scope {
        Scope::Group(_, name) => Some(&**name),
        _ => None,
    });
    policy.rules().flat_map(rule::groups_named).chain(applies)
}

/// Rules by which some of an endpoint's addresses would be meant and some would not: which of them a packet has, rules are
/// not asked.
pub(crate) fn mixed_own(policy: &Policy, tenant: &Tenant) -> Vec<Diagnostic> {
    let rules: Vec<&Rule> = policy.rules().filter(|rule| !rule.own.is_empty()).collect();
    if rules.is_empty() || !policy.concerns(&tenant.name) {
        return Vec::new();
    }
    let applies = |network: &str, endpoint| policy.applies_to(&tenant.name, network, endpoint);
    let endpoints: Vec<_> =
        tenant.endpoints().filter(|(network, endpoint)| applies(&network.name, endpoint)).collect();
    let mixed = rules.into_iter().filter_map(|rule| {
        endpoints.iter().find_map(|(_, endpoint)| {
            let family = rule.families().find(|family| rule.share_of(endpoint, *family) == Share::Some)?;
            let all = endpoint.may_send_from(family);
            let outside: Vec<IpNet> = all.iter().flat_map(|net| without(*net, &rule.own)).take(3).collect();
            let outside: Vec<String> = outside.iter().map(IpNet::to_string).collect();
            let problem =
                Problem::OwnMixed { endpoint: endpoint.name.to_string(), outside: outside.join(", ") };
            Some(Diagnostic::new(problem, rule.at.clone()).and(endpoint.at.clone(), "the endpoint"))
        })
    });
    mixed.collect()
}

impl Names<'_> {
    /// Notes a tenant that the site names.
    fn tenant_elsewhere(&mut self, name: &str, span: Span, reader: &mut Reader) -> Option<Name> {
        let whole = format!("{name}/{name}");
        match self.elsewhere(Kind::Tenant, &whole, span, reader) {
            Whose::Theirs(tenant, _) => Some(tenant),
            Whose::Ours(_) | Whose::Nobodys => None,
        }
    }
}
