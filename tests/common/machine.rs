//! What a daemon changes in a namespace, as it is at one moment.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use eastgate_fastpath::tcx::Way;

use super::{Space, hooks};

/// Settings, devices and traffic control of a namespace.
#[derive(Debug, PartialEq, Eq)]
pub struct Machine(BTreeSet<String>);

impl Machine {
    /// As it is now.
    pub fn of(space: &Space) -> Self {
        let mut facts = space.enter(|| {
            let mut found = BTreeMap::new();
            for root in ["/proc/sys/net/ipv4/conf", "/proc/sys/net/ipv6/conf"] {
                settings_below(Path::new(root), &mut found);
            }
            found.into_iter().map(|(path, value)| format!("{path} = {value}")).collect::<BTreeSet<_>>()
        });
        let mut links: serde_json::Value = serde_json::from_str(&space.ip("-d -j link")).unwrap();
        for link in links.as_array_mut().unwrap() {
            // A bridge tells how far its clocks have run.
            if let Some(details) =
                link.pointer_mut("/linkinfo/info_data").and_then(serde_json::Value::as_object_mut)
            {
                details.retain(|name, _| !name.ends_with("_timer"));
            }
            let device = link["ifname"].as_str().unwrap().to_owned();
            facts.insert(format!("link {link}"));
            for way in ["ingress", "egress"] {
                facts.insert(format!(
                    "filter {device} {way} {}",
                    space.tc(&format!("filter show dev {device} {way}"))
                ));
            }
            for way in Way::ALL {
                let programs = hooks::programs(space, &device, way);
                facts.insert(format!("tcx {device} {} {programs:?}", way.name()));
            }
        }
        facts.extend(space.tc("qdisc show").lines().map(|line| format!("qdisc {line}")));
        Self(facts)
    }

    /// What is different in `after`: `-` was there, `+` is there.
    pub fn changes(&self, after: &Self) -> Vec<String> {
        let gone = self.0.difference(&after.0).map(|fact| format!("- {fact}"));
        gone.chain(after.0.difference(&self.0).map(|fact| format!("+ {fact}"))).collect()
    }
}

fn settings_below(folder: &Path, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            settings_below(&path, found);
        } else if let Ok(value) = fs::read_to_string(&path) {
            // Some files (`stable_secret`) refuse to be read until they were written to.
            found.insert(path.display().to_string(), value.trim().to_owned());
        }
    }
}
