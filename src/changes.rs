//! What a reload changed, by name: the answer to "what have I just put in force?".

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Debug,
};

use eastgate_api::{Changes, Named};
use eastgate_config::{Config, Digest, Network, Rule, Tenant};
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
    ];
    changes.settings =
        settings.iter().filter(|(_, other)| *other).map(|(name, _)| (*name).to_owned()).collect();
    let hosts = |config: &Config| digests(config.hosts.iter());
    changes.hosts = compare(&hosts(before), &hosts(after));
    let names: BTreeSet<_> = before.tenants.keys().chain(after.tenants.keys()).collect();
    for name in names {
        match (before.tenants.get(name), after.tenants.get(name)) {
            (Some(before), Some(after)) if std::sync::Arc::ptr_eq(before, after) => {}
            (before, after) => {
                add_tenant(&mut changes, name, before.map(AsRef::as_ref), after.map(AsRef::as_ref));
            }
        }
    }
    changes
}

fn add_tenant(changes: &mut Changes, name: &str, before: Option<&Tenant>, after: Option<&Tenant>) {
    match (before, after) {
        (None, _) => changes.tenants.added.push(name.to_owned()),
        (_, None) => changes.tenants.removed.push(name.to_owned()),
        (Some(before), Some(after)) if Digest::of(before) == Digest::of(after) => return,
        _ => changes.tenants.changed.push(name.to_owned()),
    }
    let all = |tenant: Option<&Tenant>| Parts::of(name, tenant);
    let (before, after) = (all(before), all(after));
    append(&mut changes.networks, compare(&before.networks, &after.networks));
    append(&mut changes.endpoints, compare(&before.endpoints, &after.endpoints));
    append(&mut changes.groups, compare(&before.groups, &after.groups));
    let lists: BTreeSet<_> = before.rules.keys().chain(after.rules.keys()).collect();
    for list in lists {
        let rules = |parts: &Parts| parts.rules.get(list).cloned().unwrap_or_default();
        append(&mut changes.rules, compare_rules(list, &rules(&before), &rules(&after)));
    }
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

type Digests = BTreeMap<String, Digest>;

fn digests<'a, T: Debug + 'a>(all: impl Iterator<Item = (&'a std::sync::Arc<str>, &'a T)>) -> Digests {
    all.map(|(name, one)| (name.to_string(), Digest::of(one))).collect()
}

fn compare(before: &Digests, after: &Digests) -> Named {
    let missing = |here: &Digests, there: &Digests| -> Vec<String> {
        here.keys().filter(|name| !there.contains_key(*name)).cloned().collect()
    };
    let changed = after.iter().filter(|(name, digest)| before.get(*name).is_some_and(|old| old != *digest));
    Named {
        added: missing(after, before),
        removed: missing(before, after),
        changed: changed.map(|(name, _)| name.clone()).collect(),
    }
}

/// What a tenant is made of.
#[derive(Default)]
struct Parts {
    networks: Digests,
    endpoints: Digests,
    groups: Digests,
    /// By the name of their list
    rules: BTreeMap<String, Vec<(Digest, String)>>,
}

impl Parts {
    fn of(name: &str, tenant: Option<&Tenant>) -> Self {
        let mut parts = Self::default();
        let Some(tenant) = tenant else { return parts };
        for network in tenant.networks.values() {
            // Its endpoints are things of their own.
            let alone = Network { endpoints: Vec::new(), ..network.clone() };
            parts.networks.insert(format!("{name}/{}", network.name), Digest::of(&alone));
            for endpoint in &network.endpoints {
                parts
                    .endpoints
                    .insert(format!("{name}/{}", endpoint.name), Digest::of(&(&network.name, endpoint)));
            }
        }
        for group in tenant.groups.values() {
            let whole = format!("{name}/{}", group.name);
            for (direction, list) in [("ingress", &group.ingress), ("egress", &group.egress)] {
                let rules = list.iter().map(|rule: &Rule| (Digest::of(rule), rule_text(rule))).collect();
                parts.rules.insert(format!("{whole} {direction}"), rules);
            }
            parts.groups.insert(whole, Digest::of(group));
        }
        parts
    }
}

/// Rules have no names: of those that are in one list only, the ones at the same place are one that has changed.
fn compare_rules(list: &str, before: &[(Digest, String)], after: &[(Digest, String)]) -> Named {
    let only = |here: &[(Digest, String)], there: &[(Digest, String)]| -> BTreeMap<usize, String> {
        let mut others: HashMap<Digest, usize> = HashMap::new();
        there.iter().for_each(|(digest, _)| *others.entry(*digest).or_default() += 1);
        let mut only = BTreeMap::new();
        for (number, (digest, text)) in (1..).zip(here) {
            match others.get_mut(digest).filter(|left| **left > 0) {
                Some(left) => *left -= 1,
                None => drop(only.insert(number, text.clone())),
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
        let other = changes(|text| format!("[overlay]\nport = 8472\n{text}"));
        assert_eq!(text(&other), "changed: overlay\n");
    }
}
