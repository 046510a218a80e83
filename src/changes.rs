//! What a reload changed, by name: the answer to "what have I just put in force?".

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use eastgate_api::{Changes, Named};
use eastgate_config::{
    AddressSet, Config, Endpoint, Group, Name, Network, Policy, Profile, Rule, SitePolicy, Tenant,
};
use eastgate_dataplane::trace::rule_text;
use eastgate_wire::names;

/// Names that a line of text has room for; JSON has them all.
const LISTED: usize = 5;

/// From one configuration to the next. Where things are written is no difference.
#[must_use]
pub fn between(before: &Config, after: &Config) -> Changes {
    let mut changes = Changes::default();
    let settings = [
        ("overlay", before.overlay != after.overlay),
        ("limits", before.limits != after.limits),
        ("fastpath", before.kernel_tables != after.kernel_tables),
        ("exclude", before.site.excluded != after.site.excluded),
        ("underlay_access", before.site.underlay_access != after.site.underlay_access),
    ];
    changes.settings =
        settings.iter().filter(|(_, other)| *other).map(|(name, _)| (*name).to_owned()).collect();
    compare(&mut changes.hosts, "", before.hosts.iter(), after.hosts.iter(), |a, b| a == b);
    let same = |a: &&Arc<Tenant>, b: &&Arc<Tenant>| Arc::ptr_eq(a, b) || a == b;
    compare(&mut changes.tenants, "", before.tenants.iter(), after.tenants.iter(), same);
    if !Arc::ptr_eq(&before.site, &after.site) {
        add_site(&mut changes, &before.site, &after.site);
    }
    let names: BTreeSet<_> = before.tenants.keys().chain(after.tenants.keys()).collect();
    for name in names {
        match (before.tenants.get(name), after.tenants.get(name)) {
            (Some(before), Some(after)) if Arc::ptr_eq(before, after) => {}
            (before, after) => {
                add_tenant(&mut changes, name, before.map(AsRef::as_ref), after.map(AsRef::as_ref));
            }
        }
    }
    changes
}

fn add_tenant(changes: &mut Changes, name: &str, before: Option<&Tenant>, after: Option<&Tenant>) {
    let path = format!("{name}/");
    // Its endpoints are things of their own.
    let alone = |network: &Network| Network { endpoints: Arc::default(), ..network.clone() };
    let same = |a: &&Network, b: &&Network| alone(a) == alone(b);
    compare(&mut changes.networks, &path, networks(before), networks(after), same);
    compare(&mut changes.endpoints, &path, endpoints(before), endpoints(after), |a, b| a == b);
    compare(&mut changes.groups, &path, groups(before), groups(after), |a, b| a == b);
    compare(&mut changes.profiles, &path, profiles(before), profiles(after), |a, b| a == b);
    let mut rules = compare_lists(&path, groups(before), groups(after), |it| [&it.ingress, &it.egress]);
    compare(&mut changes.sets, &path, sets(before), sets(after), |a, b| a == b);
    compare(&mut changes.policies, &path, policies(before), policies(after), |a, b| a == b);
    let path = format!("{path}policy ");
    append(&mut rules, compare_lists(&path, policies(before), policies(after), policy_lists));
    append(&mut changes.rules, rules);
}

/// What the site lays down.
fn add_site(changes: &mut Changes, before: &SitePolicy, after: &SitePolicy) {
    compare(&mut changes.sets, "", before.sets.iter(), after.sets.iter(), |a, b| a == b);
    compare(&mut changes.templates, "", before.templates.iter(), after.templates.iter(), |a, b| a == b);
    compare(&mut changes.policies, "", before.policies.iter(), after.policies.iter(), |a, b| a == b);
    let (of_before, of_after) = (before.templates.iter(), after.templates.iter());
    let rules = compare_lists("template ", of_before, of_after, |it| [&it.ingress, &it.egress]);
    append(&mut changes.rules, rules);
    let rules = compare_lists("policy ", before.policies.iter(), after.policies.iter(), policy_lists);
    append(&mut changes.rules, rules);
}

const fn policy_lists(policy: &Policy) -> [&Vec<Rule>; 2] {
    [&policy.ingress, &policy.egress]
}

static NOTHING: Vec<Rule> = Vec::new();

/// What changed in the rules of things by name.
fn compare_lists<'a, T: PartialEq + 'a>(
    path: &str,
    before: impl Iterator<Item = (&'a Name, &'a T)>,
    after: impl Iterator<Item = (&'a Name, &'a T)>,
    lists: impl Fn(&'a T) -> [&'a Vec<Rule>; 2],
) -> Named {
    let mut changes = Named::default();
    let mut both: BTreeMap<&Name, [Option<&T>; 2]> = BTreeMap::new();
    before.for_each(|(name, it)| both.entry(name).or_default()[0] = Some(it));
    after.for_each(|(name, it)| both.entry(name).or_default()[1] = Some(it));
    for (name, [before, after]) in both.into_iter().filter(|(_, [before, after])| before != after) {
        let [before, after] = [before, after].map(|it| it.map_or([&NOTHING; 2], &lists));
        for (direction, (before, after)) in
            ["ingress", "egress"].into_iter().zip(before.into_iter().zip(after))
        {
            append(&mut changes, compare_rules(&format!("{path}{name} {direction}"), before, after));
        }
    }
    changes
}

fn networks(tenant: Option<&Tenant>) -> impl Iterator<Item = (&Name, &Network)> {
    tenant.into_iter().flat_map(|tenant| &tenant.networks)
}

fn groups(tenant: Option<&Tenant>) -> impl Iterator<Item = (&Name, &Group)> {
    tenant.into_iter().flat_map(|tenant| &tenant.groups).map(|(name, group)| (name, &**group))
}

fn sets(tenant: Option<&Tenant>) -> impl Iterator<Item = (&Name, &AddressSet)> {
    tenant.into_iter().flat_map(|tenant| &tenant.sets)
}

fn profiles(tenant: Option<&Tenant>) -> impl Iterator<Item = (&Name, &Profile)> {
    tenant.into_iter().flat_map(|tenant| &tenant.profiles)
}

fn policies(tenant: Option<&Tenant>) -> impl Iterator<Item = (&Name, &Policy)> {
    tenant.into_iter().flat_map(|tenant| &tenant.policies)
}

/// The endpoints of a tenant by name, each with its network's.
fn endpoints(tenant: Option<&Tenant>) -> impl Iterator<Item = (&Name, (&Name, &Endpoint))> {
    let mut all: Vec<_> = tenant.into_iter().flat_map(Tenant::endpoints).collect();
    all.sort_by(|(_, a), (_, b)| a.name.cmp(&b.name));
    all.into_iter().map(|(network, endpoint)| (&endpoint.name, (&network.name, endpoint)))
}

/// For a person: a line for each kind and what became of it.
#[must_use]
pub fn text(changes: &Changes) -> String {
    if changes.is_empty() {
        return "nothing changed\n".into();
    }
    let mut text = String::new();
    if !changes.settings.is_empty() {
        text += &format!("changed: {}\n", changes.settings.join(", "));
    }
    for (kind, named) in changes.kinds() {
        let lists = [("added", &named.added), ("removed", &named.removed), ("changed", &named.changed)];
        for (what, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
            text += &format!(
                "{} {what}: {}\n",
                names::count(list.len(), kind),
                names::some_of(list, LISTED, "; ")
            );
        }
    }
    text
}

fn append(named: &mut Named, mut more: Named) {
    named.added.append(&mut more.added);
    named.removed.append(&mut more.removed);
    named.changed.append(&mut more.changed);
}

/// Adds what is different between two lists that are sorted by name; names are told with `path` before them.
fn compare<'a, T>(
    named: &mut Named,
    path: &str,
    before: impl Iterator<Item = (&'a Name, T)>,
    after: impl Iterator<Item = (&'a Name, T)>,
    same: impl Fn(&T, &T) -> bool,
) {
    let (mut before, mut after) = (before.peekable(), after.peekable());
    let say = |name: &Name| format!("{path}{name}");
    loop {
        let order = match (before.peek(), after.peek()) {
            (Some((a, _)), Some((b, _))) => a.cmp(b),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return,
        };
        let was = before.next_if(|_| order.is_le());
        let is = after.next_if(|_| order.is_ge());
        match (was, is) {
            (Some((_, was)), Some((_, is))) if same(&was, &is) => {}
            (Some(_), Some((name, _))) => named.changed.push(say(name)),
            (Some((name, _)), None) => named.removed.push(say(name)),
            (None, Some((name, _))) => named.added.push(say(name)),
            (None, None) => return,
        }
    }
}

/// Rules have no names: of those that are in one list only, the ones at the same place are one that has changed.
#[allow(
    clippy::mutable_key_type,
    reason = "where a rule is written, which may move, is no part of what it is"
)]
fn compare_rules(list: &str, before: &[Rule], after: &[Rule]) -> Named {
    let only = |here: &[Rule], there: &[Rule]| -> BTreeMap<usize, String> {
        let mut others: HashMap<&Rule, usize> = HashMap::new();
        there.iter().for_each(|rule| *others.entry(rule).or_default() += 1);
        let mut only = BTreeMap::new();
        for (number, rule) in (1..).zip(here) {
            match others.get_mut(rule).filter(|left| **left > 0) {
                Some(left) => *left -= 1,
                None => drop(only.insert(number, rule_text(rule))),
            }
        }
        only
    };
    let (gone, new) = (only(before, after), only(after, before));
    let say = |(number, text): (&usize, &String)| format!("{list} #{number}: {text}");
    let alone = |these: &BTreeMap<usize, String>, those: &BTreeMap<usize, String>| {
        these.iter().filter(|(number, _)| !those.contains_key(*number)).map(say).collect()
    };
    Named {
        added: alone(&new, &gone),
        removed: alone(&gone, &new),
        changed: new.iter().filter(|(number, _)| gone.contains_key(*number)).map(say).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use eastgate_config::load_str;

    const BEFORE: &str = r#"
[host.a]
vtep = "192.0.2.1"
device = "e"
[tenant.x.network.n]
vni = 1
subnets = ["10.1.0.0/24"]
[tenant.x.group.web]
ingress = [{ proto = "tcp", ports = 80, from = "any" }, { proto = "tcp", ports = 443, from = "any" }]
egress = [{ to = "any" }]
[tenant.x.endpoint.one]
network = "n"
host = "a"
port = "p1"
mac = "02:00:00:00:00:01"
addresses = ["10.1.0.1"]
groups = ["web"]
"#;

    fn changes(change: impl Fn(&str) -> String) -> Changes {
        let load = |text: &str| load_str("any", text).unwrap();
        between(&load(BEFORE), &load(&change(BEFORE)))
    }

    #[test]
    fn each_change_has_its_name() {
        assert_eq!(text(&changes(|text| format!("# new\n{text}"))), "nothing changed\n");
        let rules = changes(|text| text.replace("ports = 443", "ports = 8443")).rules;
        assert_eq!(rules.changed, ["x/web ingress #2: tcp port 8443 with any"]);
        let rules =
            changes(|text| text.replace("{ proto = \"tcp\", ports = 80, from = \"any\" }, ", "")).rules;
        assert_eq!((rules.removed.len(), rules.added.len(), rules.changed.len()), (1, 0, 0), "{rules:?}");
        let moved = changes(|text| text.replace("\"10.1.0.1\"", "\"10.1.0.2\""));
        assert_eq!(moved.endpoints.changed, ["x/one"]);
        assert!(moved.networks.is_empty() && moved.rules.is_empty(), "{moved:?}");
        let gone = changes(|text| text[..text.find("[tenant").unwrap()].to_owned());
        assert_eq!((gone.tenants.removed, gone.endpoints.removed), (vec!["x".into()], vec!["x/one".into()]));
        let site = "[policy.p]\napplies_to = \"site\"\negress = [{ action = \"deny\", to = \"set:s\" }]\n\
             [set.s]\naddresses = [\"10.9.0.0/16\"]\n[template.t]\negress = [{ to = \"any\" }]\n";
        let more = |text: &str| {
            format!(
                "{site}{}{text}",
                site.replace("[policy", "[tenant.x.policy")
                    .replace("[set", "[tenant.x.set")
                    .replace("\"site\"", "\"tenant\"")
                    .replace("[template.t]\negress = [{ to = \"any\" }]\n", "")
            )
        };
        let came = changes(more);
        assert_eq!(
            (came.policies.added, came.sets.added),
            (vec!["p".into(), "x/p".into()], vec!["s".into(), "x/s".into()])
        );
        assert_eq!(came.templates.added, ["t"]);
        let rules = [
            "template t egress #1: any with any",
            "policy p egress #1: deny any with set:s",
            "x/policy p egress #1: deny any with set:s",
        ];
        assert_eq!(came.rules.added, rules);
        let load = |text: &str| load_str("any", text).unwrap();
        let before = more(BEFORE);
        let after = between(&load(&before), &load(&before.replacen("\"deny\"", "\"reject\"", 1)));
        assert_eq!(
            text(&after),
            "1 policy changed: p\n1 rule changed: policy p egress #1: reject any with set:s\n"
        );
        let other = changes(|text| format!("[overlay]\nport = 8472\n{text}"));
        assert_eq!(text(&other), "changed: overlay\n");
    }
}
