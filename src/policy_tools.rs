//! What is asked of a configuration's policies without a daemon: who may reach whom, what two versions treat differently, whether
//! written expectations hold, which rules do nothing, and which rules the flows that were seen ask for.
//!
//! The answers come from the compiled form of each network's policy, as the daemon would enforce it, and are exhaustive
//! ([`eastgate_policy::analysis`]).

pub mod diff;
pub mod expect;
pub mod lint;
pub mod suggest;
pub mod who;
mod words;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use anyhow::{Context, Result};
use eastgate_config::{self as config, Config, Loader, Name, Tenant, problem::Near};
use eastgate_conntrack::flow::SourceLimits;
use eastgate_dataplane::snapshot::rules::RuleTable;
use eastgate_policy::{
    analysis::Side,
    compile::Compiled,
    rule::{Action, Decision, RuleId, Source, Verdict},
};
use eastgate_wire::{Addr, EndpointId, Helper};
use serde::Serialize;

pub use self::words::{peers_text, services_text};
use crate::daemon;

/// The policies of a configuration, compiled.
#[derive(Debug)]
pub struct Policies {
    /// What they are of
    pub config: Arc<Config>,
    /// One for each network, by tenant and name
    pub networks: Vec<NetworkPolicy>,
}

/// The policy of one network.
#[derive(Debug)]
pub struct NetworkPolicy {
    /// Its tenant
    pub tenant: Arc<Tenant>,
    /// Its key in the tenant
    pub key: Name,
    rules: Arc<RuleTable>,
    source: Source,
    compiled: Compiled,
}

/// What becomes of packets, and by which rule.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct Outcome {
    /// `allow`, `deny` or `reject`
    pub action: &'static str,
    /// It is only told: what it denies passes.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub audit: bool,
    /// It is logged.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub log: bool,
    /// What it allows begins no flow.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stateless: bool,
    /// Who follows what it lets in
    #[serde(skip_serializing_if = "Option::is_none")]
    pub helper: Option<&'static str>,
    /// How many flows it grants each source
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<String>,
    /// The rule; none where no rule says anything, which denies
    pub rule: Option<String>,
    /// Where that is written
    pub at: Option<String>,
}

/// A name that nothing has. The command line is wrong.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Misnamed(pub String);

/// Loads a configuration and compiles what its rules say.
///
/// # Errors
/// What is wrong with it.
pub fn load(path: &Path, color: bool) -> Result<Policies> {
    let config = daemon::load(&mut Loader::new(path), color)?;
    let mut networks = Vec::new();
    for tenant in config.tenants.values() {
        let rules = Arc::new(RuleTable::new(tenant, &config, None));
        for network in tenant.networks.values() {
            let ids: Vec<EndpointId> = (0..).map(EndpointId).take(network.endpoints.len()).collect();
            let source = rules.source(tenant, network, &ids);
            let compiled = Compiled::compile(&source)
                .with_context(|| format!("{}: the rules of {}/{}", network.at, tenant.name, network.name))?;
            let (tenant, key) = (tenant.clone(), network.name.clone());
            networks.push(NetworkPolicy { tenant, key, rules: rules.clone(), source, compiled });
        }
    }
    Ok(Policies { config, networks })
}

impl Policies {
    /// The network, and the endpoints in it, that an endpoint's or a group's name means: `TENANT/NAME`, or `group:TENANT/NAME`
    /// where an endpoint has the name as well. A group may have members in several networks.
    ///
    /// # Errors
    /// [`Misnamed`], with the name that may have been meant.
    pub fn named(&self, name: &str) -> Result<BTreeMap<usize, Vec<usize>>, Misnamed> {
        let (text, only_group) = match name.strip_prefix("group:") {
            Some(rest) => (rest, true),
            None => (name, false),
        };
        let Some((tenant, key)) = text.split_once('/') else {
            return Err(Misnamed(format!("`{name}` names no tenant: write TENANT/ENDPOINT or TENANT/GROUP")));
        };
        let of_tenant = || self.networks.iter().enumerate().filter(|(_, it)| &*it.tenant.name == tenant);
        let mut found = BTreeMap::new();
        for (place, network) in of_tenant() {
            let endpoints = network.endpoints().iter().zip(0..);
            let wanted = |endpoint: &config::Endpoint| !only_group && &*endpoint.name == key;
            let own: Vec<usize> = endpoints.filter(|(it, _)| wanted(it)).map(|(_, at)| at).collect();
            if !own.is_empty() {
                found.insert(place, own);
            }
        }
        if found.is_empty() {
            let with_group = of_tenant().filter_map(|(at, it)| Some((at, it, it.tenant.groups.get(key)?)));
            for (place, network, group) in with_group {
                let endpoints = network.endpoints().iter().zip(0..);
                let is_member = |endpoint: &config::Endpoint| network.tenant.means(group, endpoint);
                found.insert(place, endpoints.filter(|(it, _)| is_member(it)).map(|(_, at)| at).collect());
            }
        }
        if found.is_empty() {
            return Err(Misnamed(self.misnamed(name, tenant)));
        }
        Ok(found)
    }

    fn misnamed(&self, name: &str, tenant: &str) -> String {
        let Some(known) = self.config.tenant(tenant) else {
            let near = Near::new(tenant, self.config.tenants.keys().map(|name| &**name));
            return format!("there is no tenant `{tenant}`: {near}");
        };
        let names = known.endpoints().map(|(_, endpoint)| format!("{tenant}/{}", endpoint.name));
        let groups = known.groups.keys().map(|group| format!("{tenant}/{group}"));
        let names: Vec<String> = names.chain(groups).collect();
        let near = Near::new(name, names.iter().map(String::as_str));
        format!("there is no endpoint or group `{name}`: {near}")
    }
}

impl NetworkPolicy {
    /// As tenant/name
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.tenant.name, self.key)
    }

    /// What it is configured as.
    #[must_use]
    pub fn config(&self) -> Option<&config::Network> {
        self.tenant.networks.get(&self.key)
    }

    /// Its endpoints; the place of each is its number.
    #[must_use]
    pub fn endpoints(&self) -> &[Arc<config::Endpoint>] {
        self.config().map_or(&[], |network| &network.endpoints)
    }

    /// An endpoint's name, as tenant/name
    #[must_use]
    pub fn endpoint_name(&self, place: usize) -> String {
        let name = self.endpoints().get(place).map_or("?", |endpoint| &endpoint.name);
        format!("{}/{name}", self.tenant.name)
    }

    /// What analyses take.
    #[must_use]
    pub const fn side(&self) -> Side<'_> {
        Side { source: &self.source, compiled: &self.compiled }
    }

    /// The single addresses of an endpoint, those of its pairs included.
    pub fn addresses(&self, place: usize) -> impl Iterator<Item = Addr> {
        let all = self.source.endpoints.get(place).map_or(&[][..], |endpoint| &endpoint.addresses);
        all.iter().filter(|(_, len)| *len == 128).map(|(address, _)| *address)
    }

    /// Who has each single address.
    #[must_use]
    pub fn owners(&self) -> BTreeMap<Addr, usize> {
        let places = (0..self.endpoints().len()).rev();
        places.flat_map(|place| self.addresses(place).map(move |address| (address, place))).collect()
    }

    /// A rule's name and place.
    #[must_use]
    pub fn rule(&self, id: RuleId) -> Option<(String, String)> {
        let rule = self.rules.reference(&self.tenant.name, id.0)?;
        Some((rule.rule, rule.at))
    }

    /// The same of rules that somebody wrote as such.
    #[must_use]
    pub fn written_rule(&self, id: RuleId) -> Option<(String, String)> {
        self.rules.get(id.0)?.direction?;
        self.rule(id)
    }

    /// A decision in words.
    #[must_use]
    pub fn outcome(&self, decision: &Decision) -> Outcome {
        Outcome::of(decision, &self.rules, &self.tenant.name)
    }

    /// What a rule grants each source
    fn limits(&self, id: RuleId) -> Option<&SourceLimits> {
        self.rules.limits().get(&id.0)
    }
}

/// As it is written, in one line
fn limits_text(limits: &SourceLimits) -> String {
    let SourceLimits { connections, new, prefixes: [ipv4, ipv6] } = limits;
    let connections = connections.map(|most| format!("{most} connections"));
    let new = new.map(|new| format!("{} new a second, {} at once", new.per_second, new.burst));
    let source = match (ipv4 - 96, ipv6) {
        (32, 128) => "each source".to_owned(),
        (ipv4, ipv6) => format!("each /{ipv4} or IPv6 /{ipv6}"),
    };
    let granted: Vec<String> = connections.into_iter().chain(new).collect();
    format!("{source}: {}", granted.join(", "))
}

impl Outcome {
    /// A decision by the rules of a tenant.
    fn of(decision: &Decision, rules: &RuleTable, tenant: &str) -> Self {
        let rule = decision.rule.and_then(|id| rules.reference(tenant, id.0));
        let (rule, at) = rule.map(|rule| (rule.rule, rule.at)).unzip();
        let action = match decision.verdict.action {
            Action::Allow => "allow",
            Action::Deny => "deny",
            Action::Reject => "reject",
        };
        let Verdict { audit, log, stateless, helper, limited, .. } = decision.verdict;
        let helper = helper.map(Helper::name);
        let limits = decision.rule.filter(|_| limited).and_then(|id| rules.limits().get(&id.0));
        Self { action, audit, log, stateless, helper, limits: limits.map(limits_text), rule, at }
    }

    /// In a few words: `allow by acme/db ingress #1`.
    #[must_use]
    pub fn text(&self) -> String {
        let marks = [(self.audit, "audit"), (self.log, "logged"), (self.stateless, "stateless")];
        let marks = marks.into_iter().filter(|(is_so, _)| *is_so).map(|(_, word)| word.to_owned());
        let helper = self.helper.map(|helper| format!("helper {helper}"));
        let marks: Vec<String> = marks.chain(helper).chain(self.limits.clone()).collect();
        let marks = if marks.is_empty() { String::new() } else { format!(" ({})", marks.join(", ")) };
        match (&self.rule, &self.at) {
            (Some(rule), Some(at)) => format!("{}{marks} by {rule} ({at})", self.action),
            (Some(rule), None) => format!("{}{marks} by {rule}", self.action),
            (None, _) => format!("{}{marks}: no rule allows it", self.action),
        }
    }
}
