//! Filters as they are written, and what they are with all that they include.

use std::collections::BTreeMap;

use eastgate_config::Place;
use roxmltree::Node;

use super::ByName;
use crate::{faults::Faults, import::File};

/// Values of variables. A variable may have several.
pub(super) type Variables = BTreeMap<String, Vec<String>>;

/// All filters that were read
#[derive(Debug, Default)]
pub(super) struct Filters(ByName<Filter>);

#[derive(Debug)]
struct Filter {
    at: Place,
    chain: String,
    priority: i32,
    rules: Vec<Rule>,
    includes: Vec<Include>,
}

#[derive(Debug)]
struct Include {
    at: Place,
    filter: String,
    variables: Variables,
}

/// A rule as it is written.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) at: Place,
    pub(super) action: Action,
    pub(super) incoming: bool,
    pub(super) outgoing: bool,
    pub(super) priority: i32,
    /// It is about packets by themselves.
    pub(super) stateless: bool,
    /// The protocol's element; empty for everything
    pub(super) protocol: String,
    /// Each thing that it asks for is to be otherwise (`match='no'`).
    pub(super) negated: bool,
    /// What it asks for
    pub(super) asks: BTreeMap<String, String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Action {
    Accept,
    Drop,
    Reject,
    Return,
    Continue,
}

/// A rule with the chain it is in, and the values of its variables
pub(super) struct Bound<'f> {
    pub(super) chain: &'f str,
    pub(super) chain_priority: i32,
    pub(super) rule: &'f Rule,
    pub(super) variables: Variables,
}

/// The usual priority of a rule
const USUAL: i32 = 500;

/// Chains and their usual priorities (libvirt's documentation of the filter format, section on chains)
const CHAINS: [(&str, i32); 8] = [
    ("root", 0),
    ("stp", -810),
    ("mac", -800),
    ("vlan", -750),
    ("ipv4", -700),
    ("ipv6", -600),
    ("arp", -500),
    ("rarp", -400),
];

/// The values that a reference gives to variables.
pub(super) fn parameters(reference: Node<'_, '_>) -> Variables {
    let mut variables = Variables::new();
    for parameter in reference.children().filter(|node| node.tag_name().name() == "parameter") {
        if let (Some(name), Some(value)) = (parameter.attribute("name"), parameter.attribute("value")) {
            variables.entry(name.to_owned()).or_default().push(value.to_owned());
        }
    }
    variables
}

/// The kind of chain that a chain's name begins with.
pub(super) fn kind(chain: &str) -> &'static str {
    let of = |name: &&(&'static str, i32)| chain.starts_with(name.0);
    CHAINS.iter().filter(of).max_by_key(|(name, _)| name.len()).map_or("", |(name, _)| name)
}

impl Filters {
    pub(super) fn add(&mut self, file: &File, node: Node<'_, '_>, faults: &mut Faults) {
        let at = file.place(node.range().start..node.range().start + 1);
        let chain = node.attribute("chain").unwrap_or("root").to_owned();
        let usual =
            CHAINS.iter().find(|(name, _)| *name == kind(&chain)).map_or(0, |(_, priority)| *priority);
        if kind(&chain).is_empty() {
            faults.add(at.clone(), format!("there is no chain `{chain}`"), "correct the filter");
        }
        let number = |text: Option<&str>| text.and_then(|text| text.parse().ok());
        let mut filter = Filter {
            at,
            chain,
            priority: number(node.attribute("priority")).unwrap_or(usual),
            rules: Vec::new(),
            includes: Vec::new(),
        };
        for child in node.children().filter(Node::is_element) {
            let at = file.place(child.range());
            match child.tag_name().name() {
                "uuid" => {}
                "filterref" => filter.includes.push(Include {
                    at,
                    filter: child.attribute("filter").unwrap_or_default().to_owned(),
                    variables: parameters(child),
                }),
                "rule" => filter.rules.extend(rules(file, child, faults)),
                other => faults.add(at, format!("a filter has no <{other}>"), "correct the filter"),
            }
        }
        self.0.insert(node.attribute("name").unwrap_or_default().to_owned(), filter);
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    pub(super) fn place(&self, name: &str) -> Option<Place> {
        self.0.get(name).map(|filter| filter.at.clone())
    }

    /// All rules of a filter and of what it includes.
    pub(super) fn bound(
        &self,
        name: &str,
        at: &Place,
        variables: &Variables,
        faults: &mut Faults,
    ) -> Option<Vec<Bound<'_>>> {
        let mut bound = Vec::new();
        self.include(name, at, variables, &mut Within::default(), &mut bound, faults)?;
        Some(bound)
    }

    fn include<'f>(
        &'f self,
        name: &str,
        at: &Place,
        variables: &Variables,
        within: &mut Within,
        bound: &mut Vec<Bound<'f>>,
        faults: &mut Faults,
    ) -> Option<()> {
        const DEEPEST: usize = 16;
        const MOST: usize = 10_000;
        let Some(filter) = self.0.get(name) else {
            let remedy = format!("give what `virsh nwfilter-dumpxml {name}` prints too");
            faults.add(at.clone(), format!("the filter `{name}` is in none of the files"), remedy);
            return None;
        };
        if within.names.iter().any(|outer| outer == name) {
            faults.add(at.clone(), "filters that include each other", "take one of the references out");
            return None;
        }
        within.visited += 1;
        if within.names.len() >= DEEPEST || bound.len() > MOST || within.visited > MOST {
            let message =
                format!("more than {DEEPEST} filters inside each other, or {MOST} filters or rules");
            faults.add(at.clone(), message, "make one filter of some of them");
            return None;
        }
        bound.extend(filter.rules.iter().map(|rule| Bound {
            chain: &filter.chain,
            chain_priority: filter.priority,
            rule,
            variables: variables.clone(),
        }));
        within.names.push(name.to_owned());
        for include in &filter.includes {
            // What is said further out counts: a reference says what holds where nobody has.
            let mut inner = include.variables.clone();
            inner.extend(variables.clone());
            self.include(&include.filter, &include.at, &inner, within, bound, faults)?;
        }
        within.names.pop();
        Some(())
    }
}

/// Where it is among filters that include others.
#[derive(Debug, Default)]
struct Within {
    /// Those around it
    names: Vec<String>,
    /// How many were gone into, some of them several times
    visited: usize,
}

/// A rule for each protocol element; one for everything where there is none.
fn rules(file: &File, node: Node<'_, '_>, faults: &mut Faults) -> Vec<Rule> {
    let at = file.place(node.range());
    let action = match node.attribute("action") {
        Some("accept") => Action::Accept,
        Some("drop") => Action::Drop,
        Some("reject") => Action::Reject,
        Some("return") => Action::Return,
        Some("continue") => Action::Continue,
        other => {
            faults.add(
                at,
                format!("a rule has no action `{}`", other.unwrap_or_default()),
                "correct the filter",
            );
            return Vec::new();
        }
    };
    let direction = node.attribute("direction").unwrap_or_default();
    let (incoming, outgoing) = match direction {
        "in" => (true, false),
        "out" => (false, true),
        "inout" => (true, true),
        other => {
            faults.add(at, format!("a rule has no direction `{other}`"), "correct the filter");
            return Vec::new();
        }
    };
    let bare = Rule {
        at: at.clone(),
        action,
        incoming,
        outgoing,
        priority: node.attribute("priority").and_then(|text| text.parse().ok()).unwrap_or(USUAL),
        stateless: matches!(node.attribute("statematch"), Some("0" | "false")),
        protocol: String::new(),
        negated: false,
        asks: BTreeMap::new(),
    };
    let elements: Vec<Node<'_, '_>> = node.children().filter(Node::is_element).collect();
    if elements.is_empty() {
        return vec![bare];
    }
    let mut with = |element: Node<'_, '_>| {
        let at = file.place(element.range());
        let negated = match element.attribute("match") {
            None | Some("yes" | "1" | "true") => false,
            Some("no") => true,
            Some(other) => {
                faults.add(
                    at,
                    format!("a rule matches, or does not: `{other}` is neither"),
                    "correct the filter",
                );
                return None;
            }
        };
        let asks = element.attributes().filter(|it| it.name() != "match");
        let asks = asks.map(|it| (it.name().to_owned(), it.value().to_owned())).collect();
        Some(Rule { at, protocol: element.tag_name().name().to_owned(), negated, asks, ..bare.clone() })
    };
    elements.into_iter().filter_map(&mut with).collect()
}

impl Rule {
    /// What it asks for in one line, in order and lower case, without what changes nothing.
    pub(super) fn signature(&self) -> String {
        let asks = self.asks.iter().filter(|(key, _)| *key != "comment");
        let words: Vec<String> =
            asks.map(|(key, value)| format!("{key}={}", value.to_ascii_lowercase())).collect();
        words.join(" ")
    }

    /// One that is asked about variables.
    #[cfg(test)]
    pub(super) fn asking(asks: &[(&str, &str)]) -> Self {
        let file = File::new("test.xml", String::new());
        let asks = asks.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Self {
            at: file.place(0..0),
            action: Action::Accept,
            incoming: true,
            outgoing: false,
            priority: USUAL,
            stateless: false,
            protocol: "tcp".to_owned(),
            negated: false,
            asks: asks.collect(),
        }
    }

    pub(super) fn is_for(&self, outgoing: bool) -> bool {
        if outgoing { self.outgoing } else { self.incoming }
    }
}
