//! Numbers for rules, list by list: what is written as before has those that it had.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    hash::Hash,
    sync::Arc,
};

use eastgate_config::{self as config, EgressDefault, Mode, Place, PolicyEnd, Tenant};
use eastgate_conntrack::flow::SourceLimits;
use eastgate_wire::Rate;

use super::{
    DIRECTIONS, Digest, InOrder, Lists, Owner, RuleInfo, RuleList, RuleTable, digest, lists_of_group,
};

/// The rules of a list as they are written: ingress, egress.
#[derive(Debug, Default)]
pub(super) struct Numbered {
    pub(super) numbers: [Vec<u32>; 2],
    digests: [Vec<Digest>; 2],
    /// What they name beside groups of their tenant
    pub(super) named: BTreeSet<config::Peer>,
    /// What they grant each source, by their numbers
    limits: Vec<(u32, SourceLimits)>,
}

impl Numbered {
    /// Ingress before egress; what stands for both directions has one number.
    pub(super) fn in_order(&self) -> impl Iterator<Item = u32> + '_ {
        let [ingress, egress] = &self.numbers;
        let egress = if ingress == egress { &[][..] } else { egress };
        ingress.iter().chain(egress).copied()
    }
}

impl RuleTable {
    pub(super) fn add_lists(&mut self, tenant: &Tenant, before: Option<&Self>) {
        let site = self.site.clone();
        let mut known = before.map(|before| InOrder::of(&before.lists));
        let mut written =
            before.and_then(|before| before.tenant.as_ref()).map(|tenant| InOrder::of(&tenant.groups));
        let mut lists = Vec::with_capacity(tenant.groups.len());
        for group in tenant.groups.values() {
            let list = RuleList::Group(group.name.clone());
            let written = written.as_mut().and_then(|written| written.get(&group.name));
            let numbered = match known.as_mut().and_then(|known| known.get(&list)).zip(written) {
                // All is known of it, and noted.
                Some((numbered, written)) if Arc::ptr_eq(written, group) => numbered.clone(),
                known => {
                    let known = known.map(|(numbered, written)| (numbered, lists_of_group(written)));
                    self.add_list(&list, lists_of_group(group), known)
                }
            };
            self.limits.extend(numbered.limits.iter().copied());
            lists.push((list, numbered));
        }
        self.lists = lists.into_iter().collect();
        for template in Self::templates_of(tenant).iter().filter_map(|name| site.templates.get(name)) {
            let list = RuleList::Template(template.name.clone());
            self.add_other(list, [&template.ingress, &template.egress], before);
        }
        let of_site = site.policies_for(tenant).map(|policy| (Owner::Site, policy));
        for (owner, policy) in of_site.chain(tenant.policies.values().map(|it| (Owner::Tenant, it))) {
            let list = RuleList::Policy(owner, policy.name.clone());
            self.add_other(list, [&policy.ingress, &policy.egress], before);
            if policy.end == PolicyEnd::Deny {
                self.add_alone(RuleList::PolicyEnd(owner, policy.name.clone()), &policy.end_at, before);
            }
        }
        for network in tenant.networks.values().filter(|it| it.egress_default == EgressDefault::Open) {
            let list = RuleList::EgressDefault(network.name.clone());
            self.add_alone(list, &network.egress_default_at, before);
        }
        if tenant.mode == Mode::Audit {
            self.add_alone(RuleList::DefaultDeny, &tenant.mode_at, before);
        }
        for (endpoint, at) in site.excluded_of(&tenant.name) {
            self.add_alone(RuleList::Excluded(endpoint.clone()), at, before);
        }
        if let Some(before) = before {
            self.forget_gone(before);
        }
    }

    /// Forgets the rules of lists that have them no more.
    fn forget_gone(&mut self, before: &Self) {
        let mut lists = InOrder::of(&self.lists);
        let mut gone = Vec::new();
        for (list, was) in &before.lists {
            let now = lists.get(list);
            if now.is_some_and(|now| Arc::ptr_eq(now, was)) {
                continue;
            }
            let kept: HashSet<u32> = now.into_iter().flat_map(|now| now.in_order()).collect();
            gone.extend(was.in_order().filter(|number| !kept.contains(number)));
        }
        gone.into_iter().for_each(|number| self.rules.set(number, None));
    }

    /// Adds a list that is no group's: of those there are few.
    fn add_other(&mut self, list: RuleList, rules: Lists<'_>, before: Option<&Self>) {
        let known = before.and_then(|before| before.lists.get(&list).zip(before.written(&list)));
        let numbered = self.add_list(&list, rules, known);
        self.limits.extend(numbered.limits.iter().copied());
        self.lists.insert(list, numbered);
    }

    /// Gives the rules of a list their numbers. `known` are those that it had, and how it was written then.
    fn add_list(
        &mut self,
        list: &RuleList,
        rules: Lists<'_>,
        known: Option<(&Arc<Numbered>, Lists<'_>)>,
    ) -> Arc<Numbered> {
        let is_same = |written: Lists<'_>| {
            written.into_iter().zip(rules).all(|(was, is)| std::ptr::eq(was, is) || was == is)
        };
        // Most lists are as they were; only where they are written may be another place.
        let numbered = match known {
            Some((numbered, written)) if is_same(written) => numbered.clone(),
            _ => Arc::new(self.number(list, rules, known.map(|(numbered, _)| &**numbered))),
        };
        for ((direction, rules), numbers) in DIRECTIONS.into_iter().zip(rules).zip(&numbered.numbers) {
            for ((rule, id), number) in rules.iter().zip(numbers).zip(1..) {
                let at = rule.at.clone();
                let info = RuleInfo { list: list.clone(), direction: Some(direction), number, at };
                self.rules.set(*id, Some(info));
            }
        }
        numbered
    }

    /// Numbers for the rules of a list: those that they had, or new ones.
    fn number(&mut self, list: &RuleList, rules: Lists<'_>, before: Option<&Numbered>) -> Numbered {
        let mut numbered = Numbered::default();
        for (at, (direction, rules)) in DIRECTIONS.into_iter().zip(rules).enumerate() {
            let known: HashMap<&Digest, u32> = before
                .into_iter()
                .flat_map(|before| before.digests[at].iter().zip(before.numbers[at].iter().copied()))
                .collect();
            let mut seen: HashMap<Digest, u32> = HashMap::new();
            for rule in rules {
                let text = digest(&(list, direction, text(rule)));
                let which = seen.entry(text).or_default();
                let digest = digest(&(text, *which));
                *which += 1;
                numbered.numbers[at].push(known.get(&digest).copied().unwrap_or_else(|| self.next_number()));
                numbered.digests[at].push(digest);
            }
        }
        let peers = rules.into_iter().flatten().flat_map(|rule| &rule.peers);
        let named = peers.filter(|peer| match peer {
            config::Peer::GroupOf(..) | config::Peer::Set(_) | config::Peer::SetOf(..) => true,
            config::Peer::Any
            | config::Peer::Prefix(_)
            | config::Peer::Except(..)
            | config::Peer::Group(_) => false,
        });
        numbered.named = named.cloned().collect();
        let both =
            rules.into_iter().zip(&numbered.numbers).flat_map(|(rules, numbers)| rules.iter().zip(numbers));
        let limits = both.filter_map(|(rule, id)| Some((*id, source_limits(rule.limits.as_ref()?))));
        numbered.limits = limits.collect();
        numbered
    }

    /// What stands for one rule that no list has.
    fn add_alone(&mut self, list: RuleList, at: &Place, before: Option<&Self>) {
        let known = before.and_then(|before| before.lists.get(&list)).cloned();
        let numbered = known.unwrap_or_else(|| {
            let number = vec![self.next_number()];
            Arc::new(Numbered { numbers: [number.clone(), number], ..Numbered::default() })
        });
        if let Some(id) = numbered.numbers[0].first() {
            let info = RuleInfo { list: list.clone(), direction: None, number: 1, at: at.clone() };
            self.rules.set(*id, Some(info));
        }
        self.lists.insert(list, numbered);
    }

    fn next_number(&mut self) -> u32 {
        self.rules.add()
    }
}

fn source_limits(written: &config::SourceLimits) -> SourceLimits {
    let [v4, v6] = written.per_prefix;
    let new = written.new_connections.map(|new| Rate { per_second: new.per_second, burst: new.burst });
    SourceLimits { connections: written.connections, new, prefixes: [v4 + 96, v6] }
}

/// What a rule says.
fn text(rule: &config::Rule) -> impl Hash + Copy + '_ {
    let config::Rule {
        at: _,
        description: _,
        protocol,
        ports,
        source_ports,
        icmp,
        family,
        peers,
        own,
        dscp,
        tcp_flags,
        helper,
        limits,
        action,
        log,
        mode,
    } = rule;
    let matched = (protocol, ports, source_ports, icmp, family, peers, own, dscp, tcp_flags);
    // With other limits it goes on counting the flows that there are; but not if it counts by other sources.
    (matched, action, log, mode, helper, limits.as_ref().map(|limits| limits.per_prefix))
}
