//! What the appliance asks in the name of an endpoint, or in its own, and what came of it step by step.

use eastgate_wire::{Addr, Vni};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ErrorCode, Failure, Remedy, TraceStep};

/// Packets of one probe at most
pub const MAX_COUNT: u32 = 100;
/// The longest that a probe waits for one answer, in milliseconds
pub const MAX_WAIT_MS: u64 = 10_000;
/// The longest that a probe takes, in milliseconds
pub const MAX_TOTAL_MS: u64 = 60_000;
/// The largest packet of a probe, in bytes from its IP header on
pub const MAX_SIZE: u16 = 9216;

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProbeKind {
    /// Which MAC an address has, by ARP or neighbour discovery
    Arp,
    /// Whether an address answers an echo
    Ping,
    /// Whether a TCP port accepts a connection
    Tcp,
    /// The largest packet that gets to an address
    Pmtu,
    /// Whether the other hosts' VTEPs are reached, and with which packets
    Vtep,
}

impl ProbeKind {
    /// Its name
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Arp => "arp",
            Self::Ping => "ping",
            Self::Tcp => "tcp",
            Self::Pmtu => "pmtu",
            Self::Vtep => "vtep",
        }
    }
}

/// A probe.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeRequest {
    /// What is asked
    pub kind: ProbeKind,
    /// The endpoint in whose name, as tenant/name or the name alone; none for `vtep`, which the appliance asks in its own
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Its network, where an endpoint of this name is in several
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vni: Option<Vni>,
    /// Its address that asks; its first of the family that is asked unless told otherwise
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Addr>,
    /// The address that is asked; none for `vtep`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Addr>,
    /// `tcp`: its port
    #[serde(default)]
    pub port: u16,
    /// The router that leads there, where the address is in no subnet of the network
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<Addr>,
    /// `vtep`: which host's; all other hosts' unless told otherwise
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// How often, from 1 to [`MAX_COUNT`]
    pub count: u32,
    /// How long to wait for each answer, in milliseconds, from 1 to [`MAX_WAIT_MS`]
    pub wait_ms: u64,
    /// `ping`: bytes of the packet from its IP header on; `pmtu` and `vtep`: of the largest that is tried. Nothing: as small as it gets, or
    /// as large as the network's or the link's MTU
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u16>,
}

impl ProbeRequest {
    /// Why this cannot be asked as it is.
    ///
    /// # Errors
    /// What is wrong, and what can be asked instead.
    pub fn check(&self) -> Result<(), Failure> {
        let wrong = |text: String| Err(Failure::new(ErrorCode::NotApplicable, text));
        let name = self.kind.name();
        let is_vtep = self.kind == ProbeKind::Vtep;
        if is_vtep
            && (self.from.is_some() || self.to.is_some() || self.via.is_some() || self.source.is_some())
        {
            return wrong(
                "`probe vtep` asks hosts, from this one: it has no --from, --source, --via or address".into(),
            );
        }
        if !is_vtep && self.from.is_none() {
            return wrong(format!(
                "`probe {name}` asks in the name of an endpoint of this host: --from ENDPOINT"
            ));
        }
        let Some(to) = self.to.filter(|_| !is_vtep) else {
            return if is_vtep {
                self.check_numbers()
            } else {
                wrong(format!("`probe {name}` needs an address"))
            };
        };
        if self.host.is_some() {
            return wrong(format!("`probe {name}` has no host: that is `probe vtep`'s"));
        }
        if to.is_multicast() || to.is_unspecified() || to.is_limited_broadcast() || to.is_loopback() {
            return wrong(format!("{to} is no single machine's: a probe asks one"));
        }
        if let Some(other) =
            [self.source, self.via].into_iter().flatten().find(|it| it.family() != to.family())
        {
            return wrong(format!("{other} and {to} are of different families"));
        }
        if self.kind == ProbeKind::Tcp && self.port == 0 {
            return wrong("`probe tcp` needs a port from 1 on: 10.1.0.21:5432, [fd00:1::21]:5432".into());
        }
        self.check_numbers()
    }

    fn check_numbers(&self) -> Result<(), Failure> {
        let wrong = |text: String| Err(Failure::new(ErrorCode::NotApplicable, text));
        if !(1..=MAX_COUNT).contains(&self.count) {
            return wrong(format!("a probe sends from 1 to {MAX_COUNT} packets, not {}", self.count));
        }
        if !(1..=MAX_WAIT_MS).contains(&self.wait_ms) {
            return wrong(format!("a probe waits for an answer for up to {} seconds", MAX_WAIT_MS / 1000));
        }
        let least = if self.to.is_some_and(|to| !to.is_v4()) { 48 } else { 28 };
        if let Some(size) = self.size.filter(|size| !(least..=MAX_SIZE).contains(size)) {
            return wrong(format!("a packet of a probe has from {least} to {MAX_SIZE} bytes, not {size}"));
        }
        Ok(())
    }
}

/// A step of a probe: what was sent, what became of it on this host, what came back.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct ProbeStep {
    /// Microseconds since the probe began; of what is not an event (what other hosts' rules say), nothing
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_us: Option<u64>,
    /// The step, as of a trace
    #[serde(flatten)]
    pub step: TraceStep,
}

/// What came of a probe.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct ProbeReport {
    /// The probe, in words
    pub probe: String,
    /// Step by step
    pub steps: Vec<ProbeStep>,
    /// `reached`; `refused` by the machine that was asked; `unreachable`, as somebody on the way says; `no-neighbor` where nobody has the
    /// address; `no-answer`; or the reason for which this host has dropped it
    pub verdict: String,
    /// Questions sent
    pub sent: u32,
    /// Of these, answered
    pub answered: u32,
    /// Microseconds that each answer took
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub round_trips_us: Vec<u64>,
    /// `arp`: the MACs that were told
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub macs: Vec<eastgate_wire::MacAddr>,
    /// `pmtu`: bytes of the largest packet that gets there, from its IP header on
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_mtu: Option<u16>,
    /// `vtep`: the hosts that were asked
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vteps: Vec<ProbedVtep>,
    /// Where rules refuse it: those that would let it through, all of them together
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to_pass: Vec<Remedy>,
}

/// What is known of another host's VTEP.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct ProbedVtep {
    /// The host
    pub host: String,
    /// Its VTEP
    pub vtep: std::net::IpAddr,
    /// What runs it, as the configuration says: `eastgate` or `vxlan`
    pub runs: String,
    /// `reached`, `unreachable` or `no-answer`, of its address
    pub verdict: String,
    /// `closed` where its machine says that nobody listens at the port of the overlay, else `open-or-silent`
    pub port: String,
    /// Microseconds that its answers took
    pub round_trips_us: Vec<u64>,
    /// Bytes of the largest packet of the underlay that gets there; nothing where none does
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_mtu: Option<u16>,
    /// Of it, what is left to a tenant's packet
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_mtu: Option<u16>,
}

/// Verdict of a probe that got its answer
pub const REACHED: &str = "reached";
/// Verdict of one that the machine itself refuses
pub const REFUSED: &str = "refused";
/// Verdict of one that somebody says does not get there
pub const UNREACHABLE: &str = "unreachable";
/// Verdict of one for which nobody has the address
pub const NO_NEIGHBOR: &str = "no-neighbor";
/// Verdict of one that nobody has answered
pub const NO_ANSWER: &str = "no-answer";

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp() -> ProbeRequest {
        ProbeRequest {
            kind: ProbeKind::Tcp,
            from: Some("acme/web1".into()),
            vni: None,
            source: None,
            to: Some(Addr::v4([10, 1, 0, 21])),
            port: 5432,
            via: None,
            host: None,
            count: 1,
            wait_ms: 2000,
            size: None,
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_before_anything_is_sent() {
        assert_eq!(tcp().check(), Ok(()));
        let fd = Some("fd00:1::1".parse::<std::net::IpAddr>().unwrap().into());
        let vtep = ProbeRequest { kind: ProbeKind::Vtep, from: None, to: None, port: 0, ..tcp() };
        assert_eq!(vtep.check(), Ok(()));
        for (wrong, word) in [
            (ProbeRequest { from: None, ..tcp() }, "--from"),
            (ProbeRequest { to: None, ..tcp() }, "needs an address"),
            (ProbeRequest { port: 0, ..tcp() }, "needs a port"),
            (ProbeRequest { to: Some(Addr::v4([224, 0, 0, 1])), ..tcp() }, "no single machine"),
            (ProbeRequest { source: fd, ..tcp() }, "different families"),
            (ProbeRequest { via: fd, ..tcp() }, "different families"),
            (ProbeRequest { host: Some("beta".into()), ..tcp() }, "probe vtep"),
            (ProbeRequest { count: 0, ..tcp() }, "from 1 to 100"),
            (ProbeRequest { count: 101, ..tcp() }, "from 1 to 100"),
            (ProbeRequest { wait_ms: 0, ..tcp() }, "seconds"),
            (ProbeRequest { size: Some(27), ..tcp() }, "from 28 to 9216"),
            (ProbeRequest { size: Some(9217), ..tcp() }, "from 28 to 9216"),
            (ProbeRequest { from: Some("web1".into()), ..vtep }, "asks hosts"),
        ] {
            let refused = wrong.check().unwrap_err();
            assert!(refused.code == ErrorCode::NotApplicable && refused.text.contains(word), "{refused}");
        }
    }

    #[test]
    fn a_step_is_flat() {
        let step = TraceStep {
            step: "answer".into(),
            host: "beta".into(),
            result: "pass".into(),
            text: "SYN/ACK".into(),
            at: None,
            near: Vec::new(),
        };
        let step = ProbeStep { after_us: Some(7), step };
        let text = serde_json::to_string(&step).unwrap();
        assert!(text.starts_with(r#"{"after_us":7,"step":"answer","host":"beta""#), "{text}");
        assert_eq!(serde_json::from_str::<ProbeStep>(&text).unwrap(), step);
    }
}
