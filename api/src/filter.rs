//! Which rows are wanted, and of which questions that can be asked.

use std::net::IpAddr;

use eastgate_wire::{Addr, DropReason, MacAddr, Vni};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ErrorCode, FLOW_ENDINGS, Failure, Request, Scope, Verdict};

/// The states of flows, as [`FlowRow::state`](crate::FlowRow::state) has them.
pub const FLOW_STATES: [&str; 19] = [
    "unreplied",
    "replied",
    "stream",
    "syn-sent",
    "syn-received",
    "picked-up",
    "established",
    "fin-wait",
    "close-wait",
    "last-ack",
    "time-wait",
    "close",
    "cookie-wait",
    "cookie-echoed",
    "heartbeat-sent",
    "shutdown-sent",
    "shutdown-recd",
    "shutdown-ack-sent",
    "closed",
];

/// What entries of the FDB may be.
const FDB_KINDS: [&str; 3] = ["configured", "learned", "frozen"];

/// What neighbours may be.
const NEIGHBOR_KINDS: [&str; 4] = ["configured", "held", "learned", "frozen"];

/// Which rows are wanted; all that is given must match.
#[derive(Clone, PartialEq, Eq, Debug, Default, JsonSchema, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// Only this network
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vni: Option<Vni>,
    /// Only rows of this tenant
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Only rows of this network, as tenant/name, or by its name alone
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Only rows of members of this group, as tenant/name, or by its name alone
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Only rows of this rule: as it is shown, or the beginning of that
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Only rows with this reason
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Only rows with this verdict
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// Only rows of this endpoint, as tenant/name, or by its name alone
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Only rows with this address on either side
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Only rows with this MAC
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// Only rows with this port on either side
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Only rows with this address on the side that sends, or that began the flow
    #[serde(skip_serializing_if = "Option::is_none")]
    pub src: Option<IpAddr>,
    /// Only rows with this address on the other side
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dst: Option<IpAddr>,
    /// Only rows with this port on the side that sends, or that began the flow
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sport: Option<u16>,
    /// Only rows with this port on the other side
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dport: Option<u16>,
    /// Only rows with this IP protocol number
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proto: Option<u8>,
    /// Only rows in this state; of the FDB and of neighbours, of this kind
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// At most this many rows
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Only rows that come after those of an answer: its `next`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Drops: chatter too. Ending flows: all that the rest does not exclude, also when the rest excludes nothing
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// Drops: in place of what was dropped, what passed and would have been if no rule were being tried out
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub audit: bool,
    /// Whose rows whoever asks may see at all. It is never read from a request: who takes one in says it.
    #[serde(skip)]
    pub scope: Scope,
}

/// What can be given in a filter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Criterion {
    /// `vni`
    Vni,
    /// `tenant`
    Tenant,
    /// `network`
    Network,
    /// `group`
    Group,
    /// `rule`
    Rule,
    /// `reason`
    Reason,
    /// `verdict`
    Verdict,
    /// `endpoint`
    Endpoint,
    /// `address`
    Address,
    /// `mac`
    Mac,
    /// `port`
    Port,
    /// `src`
    Src,
    /// `dst`
    Dst,
    /// `sport`
    Sport,
    /// `dport`
    Dport,
    /// `proto`
    Proto,
    /// `state`
    State,
    /// `limit`
    Limit,
    /// `after`
    After,
    /// `all`
    All,
    /// `audit`
    Audit,
}

impl Criterion {
    /// All that there are, in the order of [`Filter`]'s fields.
    pub const ALL: [Self; 21] = [
        Self::Vni,
        Self::Tenant,
        Self::Network,
        Self::Group,
        Self::Rule,
        Self::Reason,
        Self::Verdict,
        Self::Endpoint,
        Self::Address,
        Self::Mac,
        Self::Port,
        Self::Src,
        Self::Dst,
        Self::Sport,
        Self::Dport,
        Self::Proto,
        Self::State,
        Self::Limit,
        Self::After,
        Self::All,
        Self::Audit,
    ];

    /// As JSON and queries call it: the field of [`Filter`].
    #[must_use]
    pub fn name(self) -> &'static str {
        self.option().trim_start_matches('-')
    }

    /// As the command line calls it.
    #[must_use]
    pub const fn option(self) -> &'static str {
        match self {
            Self::Vni => "--vni",
            Self::Tenant => "--tenant",
            Self::Network => "--network",
            Self::Group => "--group",
            Self::Rule => "--rule",
            Self::Reason => "--reason",
            Self::Verdict => "--verdict",
            Self::Endpoint => "--endpoint",
            Self::Address => "--address",
            Self::Mac => "--mac",
            Self::Port => "--port",
            Self::Src => "--src",
            Self::Dst => "--dst",
            Self::Sport => "--sport",
            Self::Dport => "--dport",
            Self::Proto => "--proto",
            Self::State => "--state",
            Self::Limit => "--limit",
            Self::After => "--after",
            Self::All => "--all",
            Self::Audit => "--audit",
        }
    }
}

impl Filter {
    fn given(&self) -> Vec<Criterion> {
        let all = [
            (self.vni.is_some(), Criterion::Vni),
            (self.tenant.is_some(), Criterion::Tenant),
            (self.network.is_some(), Criterion::Network),
            (self.group.is_some(), Criterion::Group),
            (self.rule.is_some(), Criterion::Rule),
            (self.reason.is_some(), Criterion::Reason),
            (self.verdict.is_some(), Criterion::Verdict),
            (self.endpoint.is_some(), Criterion::Endpoint),
            (self.address.is_some(), Criterion::Address),
            (self.mac.is_some(), Criterion::Mac),
            (self.port.is_some(), Criterion::Port),
            (self.src.is_some(), Criterion::Src),
            (self.dst.is_some(), Criterion::Dst),
            (self.sport.is_some(), Criterion::Sport),
            (self.dport.is_some(), Criterion::Dport),
            (self.proto.is_some(), Criterion::Proto),
            (self.state.is_some(), Criterion::State),
            (self.limit.is_some(), Criterion::Limit),
            (self.after.is_some(), Criterion::After),
            (self.all, Criterion::All),
            (self.audit, Criterion::Audit),
        ];
        all.into_iter().filter(|(given, _)| *given).map(|(_, criterion)| criterion).collect()
    }

    /// Whether what is between these two ends is meant, as far as their addresses, and the ports of a protocol that has them, are known.
    #[must_use]
    pub fn fits_ends(&self, src: Option<Addr>, dst: Option<Addr>, ports: Option<(u16, u16)>) -> bool {
        let (sport, dport) = ports.unzip();
        let has = |wanted: Option<IpAddr>, address: Option<Addr>| {
            wanted.is_none_or(|ip| address == Some(ip.into()))
        };
        let is = |wanted: Option<u16>, port: Option<u16>| wanted.is_none() || wanted == port;
        has(self.src, src)
            && has(self.dst, dst)
            && is(self.sport, sport)
            && is(self.dport, dport)
            && (is(self.port, sport) || is(self.port, dport))
    }

    /// Says which: a limit alone says how many.
    fn says_which(&self) -> bool {
        self.given().iter().any(|criterion| *criterion != Criterion::Limit)
    }
}

impl Request {
    /// Why this cannot be asked as it is: a criterion that its rows cannot be held against would be ignored, and more would
    /// be shown, or done, than was meant. It is found before anything is done, and told in the words of the command line.
    ///
    /// # Errors
    /// What is wrong, and what can be asked instead.
    pub fn check(&self) -> Result<(), Failure> {
        if let Self::Probe(probe) = self {
            return probe.check();
        }
        let Some((name, filter, known)) = self.criteria() else { return Ok(()) };
        self.check_as(name, filter, known, |criterion| criterion.option().to_owned())
    }

    /// The same, in the words of the HTTP API; `route` is what is asked there.
    ///
    /// # Errors
    /// Likewise.
    pub fn check_call(&self, route: &str) -> Result<(), Failure> {
        let Some((_, filter, known)) = self.criteria() else { return Ok(()) };
        self.check_as(route, filter, known, |criterion| format!("`{}`", criterion.name()))
    }

    /// What the command line calls it, its filter, and what that may have; nothing of what has no filter.
    #[must_use]
    pub fn criteria(&self) -> Option<(&'static str, &Filter, &'static [Criterion])> {
        use Criterion::{
            Address, After, All, Audit, Dport, Dst, Endpoint, Group, Limit, Mac, Network, Port, Proto,
            Reason, Rule, Sport, Src, State, Tenant, Verdict, Vni,
        };
        Some(match self {
            Self::Endpoints(filter) => {
                ("show endpoints", filter, &[Vni, Endpoint, Address, Mac, Limit, After])
            }
            Self::Fdb(filter) => ("show fdb", filter, &[Vni, Endpoint, Mac, State, Limit, After]),
            Self::Flows(filter) => (
                "show flows",
                filter,
                &[Vni, Endpoint, Address, Port, Src, Dst, Sport, Dport, Proto, State, Limit, After],
            ),
            Self::Expectations(filter) => (
                "show expectations",
                filter,
                &[Vni, Endpoint, Address, Port, Src, Dst, Dport, Proto, Limit, After],
            ),
            Self::Neighbors(filter) => {
                ("show neighbors", filter, &[Vni, Endpoint, Address, Mac, State, Limit, After])
            }
            Self::Drops(filter) => (
                "show drops",
                filter,
                &[Vni, Endpoint, Address, Mac, Port, Src, Dst, Sport, Dport, Proto, Limit, After, All, Audit],
            ),
            Self::Rules(filter) => ("show rules", filter, &[Vni, Limit, After]),
            Self::Matrix(filter) => ("show matrix", filter, &[Vni, Group, Endpoint, Limit, After]),
            Self::Policy(filter) => ("show policy", filter, &[Vni, Limit, After]),
            Self::Events(filter) => {
                let names = &[
                    Tenant, Network, Vni, Endpoint, Group, Rule, Reason, Verdict, Address, Mac, Port, Src,
                    Dst, Sport, Dport, Proto, Limit, After,
                ];
                ("observe", filter, names)
            }
            Self::Machines(filter) => ("show vdp", filter, &[Vni, Endpoint, Mac, Limit, After]),
            Self::Staged(filter) => ("policy staged", filter, &[Vni, Limit, After]),
            Self::FdbFlush(filter) => ("fdb flush", filter, &[Vni, Mac]),
            Self::FlowsKill(filter) => (
                "flows kill",
                filter,
                &[Vni, Endpoint, Address, Port, Src, Dst, Sport, Dport, Proto, State, Limit, All],
            ),
            Self::Status {}
            | Self::Reload {}
            | Self::Stage { .. }
            | Self::Unstage {}
            | Self::Trace(_)
            | Self::Probe(_) => return None,
        })
    }

    fn check_as(
        &self,
        name: &str,
        filter: &Filter,
        known: &[Criterion],
        word: impl Fn(Criterion) -> String,
    ) -> Result<(), Failure> {
        let names = |list: &[Criterion]| list.iter().map(|one| word(*one)).collect::<Vec<_>>().join(", ");
        let unknown: Vec<Criterion> =
            filter.given().into_iter().filter(|criterion| !known.contains(criterion)).collect();
        if !unknown.is_empty() {
            let text = format!("`{name}` has no {}; it has {}", names(&unknown), names(known));
            return Err(Failure::new(ErrorCode::NotApplicable, text));
        }
        let states = self.states();
        if let Some(state) = filter.state.as_deref().filter(|state| !states.contains(state)) {
            let text = format!("`{name}` has no state `{state}`; it has {}", states.join(", "));
            return Err(Failure::new(ErrorCode::NotApplicable, text));
        }
        let is_reason = |name: &str| DropReason::from_name(name).is_some() || FLOW_ENDINGS.contains(&name);
        if let Some(reason) = filter.reason.as_deref().filter(|name| !is_reason(name)) {
            let text = format!(
                "`{reason}` is no reason: `eastgate drop-reasons` lists those of drops, and flows end as {}",
                FLOW_ENDINGS.join(", ")
            );
            return Err(Failure::new(ErrorCode::NotApplicable, text));
        }
        if matches!(self, Self::FlowsKill(_)) && !filter.says_which() {
            use Criterion::{Address, All, Dport, Dst, Endpoint, Port, Proto, Sport, Src, State, Vni};
            let which = names(&[Vni, Endpoint, Address, Port, Src, Dst, Sport, Dport, Proto, State]);
            let text = format!("say which flows: {which}, or {}", word(All));
            return Err(Failure::new(ErrorCode::NotApplicable, text));
        }
        Ok(())
    }

    /// What its rows may be in.
    const fn states(&self) -> &'static [&'static str] {
        match self {
            Self::Fdb(_) => &FDB_KINDS,
            Self::Neighbors(_) => &NEIGHBOR_KINDS,
            _ => &FLOW_STATES,
        }
    }

    /// Its filter.
    pub const fn filter_mut(&mut self) -> Option<&mut Filter> {
        match self {
            Self::Endpoints(filter)
            | Self::Fdb(filter)
            | Self::Flows(filter)
            | Self::Expectations(filter)
            | Self::Neighbors(filter)
            | Self::Drops(filter)
            | Self::Policy(filter)
            | Self::Rules(filter)
            | Self::Matrix(filter)
            | Self::Events(filter)
            | Self::Machines(filter)
            | Self::Staged(filter)
            | Self::FdbFlush(filter)
            | Self::FlowsKill(filter) => Some(filter),
            Self::Status {}
            | Self::Reload {}
            | Self::Stage { .. }
            | Self::Unstage {}
            | Self::Trace(_)
            | Self::Probe(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_criterion_counts_or_is_refused() {
        let port = Filter { port: Some(22), ..Filter::default() };
        assert!(Request::Flows(port.clone()).check().is_ok());
        for request in [Request::Fdb(port.clone()), Request::Policy(port.clone()), Request::FdbFlush(port)] {
            let refused = request.check().unwrap_err();
            assert_eq!(refused.code, ErrorCode::NotApplicable);
            assert!(refused.text.contains("no --port; it has --vni"), "{refused}");
        }
        let mac = Filter { mac: Some(MacAddr::ZERO), ..Filter::default() };
        assert!(Request::FlowsKill(Filter { after: Some("1".into()), ..Filter::default() }).check().is_err());
        assert!(Request::Flows(mac.clone()).check().is_err() && Request::Drops(mac).check().is_ok());
    }

    #[test]
    fn a_state_is_one_that_there_is() {
        let of = |state: &str| Filter { state: Some(state.to_owned()), ..Filter::default() };
        assert!(Request::Flows(of("established")).check().is_ok());
        assert!(Request::FlowsKill(of("stream")).check().is_ok());
        assert!(
            Request::Fdb(of("learned")).check().is_ok() && Request::Neighbors(of("held")).check().is_ok()
        );
        for request in [Request::Flows(of("learned")), Request::Fdb(of("held")), Request::Neighbors(of(""))] {
            let refused = request.check().unwrap_err();
            assert!(refused.text.contains("; it has "), "{refused}");
        }
        assert!(Request::Endpoints(of("configured")).check().unwrap_err().text.contains("no --state"));
    }

    #[test]
    fn a_reason_is_one_that_there_is() {
        let of = |reason: &str| Filter { reason: Some(reason.to_owned()), ..Filter::default() };
        for reason in ["ip-spoofed", "ingress-denied", "evicted"] {
            assert!(Request::Events(of(reason)).check().is_ok(), "{reason}");
        }
        assert!(Request::Events(of("spoofed")).check().unwrap_err().text.contains("drop-reasons"));
        assert!(Request::Flows(of("evicted")).check().unwrap_err().text.contains("no --reason"));
    }

    #[test]
    fn nothing_is_ended_that_was_not_named() {
        let kill = |filter| Request::FlowsKill(filter).check();
        assert!(kill(Filter::default()).is_err());
        assert!(kill(Filter { limit: Some(5), ..Filter::default() }).is_err(), "how many says not which");
        assert!(kill(Filter { limit: Some(5), all: true, ..Filter::default() }).is_ok());
        assert!(kill(Filter { port: Some(5), ..Filter::default() }).is_ok());
    }
}
