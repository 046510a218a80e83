//! Whether the other hosts' VTEPs are reached from this one, and with which packets of the underlay: echo requests with DF over a socket of
//! the appliance's own. What listens at the overlay's port says nothing of itself (RFC 7348 has no answer); that nobody does, the machine says.

use std::{io, net::SocketAddr, sync::atomic::Ordering::Relaxed, time::Duration};

use eastgate_api::{
    ErrorCode, Failure, NO_ANSWER, ProbeReport, ProbeRequest, ProbeStep, ProbedVtep, REACHED, TraceStep,
    UNREACHABLE,
};
use eastgate_config::Host;
use eastgate_dataplane::{pipeline::shared::lock, snapshot::Snapshot};
use eastgate_vtep::{fdb::Location, mtu::tenant_mtu};
use eastgate_wire::{Instant, names};

use super::{
    super::{PortState, View},
    questions::{LEAST, is_late},
    tell::{icmp_error, micros, millis},
};
use crate::io::{
    clock,
    echo::{EchoSocket, Echoed, is_closed},
};

/// Hosts that one probe asks
const HOSTS: usize = 64;
/// How long a machine has to say that a port is closed
const SAYS_CLOSED: Duration = Duration::from_millis(500);
/// Where nothing comes back, it may have been lost for another reason.
const TRIES: u32 = 2;

pub(super) fn probe(
    view: &View,
    snapshot: &Snapshot,
    request: &ProbeRequest,
) -> Result<ProbeReport, Failure> {
    let began = clock::now();
    let hosts = hosts(snapshot, request)?;
    let mut report = ProbeReport {
        probe: format!("the VTEPs of {} from {}", names::count(hosts.len(), "host"), snapshot.vtep.0),
        steps: Vec::new(),
        verdict: REACHED.to_owned(),
        sent: 0,
        answered: 0,
        round_trips_us: Vec::new(),
        macs: Vec::new(),
        path_mtu: None,
        vteps: Vec::new(),
        to_pass: Vec::new(),
    };
    for host in hosts.iter().take(HOSTS) {
        if is_late(began) {
            break;
        }
        let mut visit = Visit { view, snapshot, request, host, began, report: &mut report };
        let found = visit.ask().map_err(|error| {
            Failure::new(ErrorCode::Failed, format!("{} cannot be asked: {error}", host.vtep))
        })?;
        if found.verdict != REACHED {
            report.verdict.clone_from(&found.verdict);
        }
        report.vteps.push(found);
    }
    let left_out = hosts.len() - report.vteps.len();
    if left_out > 0 {
        let text = format!("{} not asked: ask them by name", names::count(left_out, "host"));
        report.steps.push(step(None, "vtep", "", "note", text));
    }
    Ok(report)
}

/// The host that is named, or all others that this one has a network in common with.
fn hosts<'s>(snapshot: &'s Snapshot, request: &ProbeRequest) -> Result<Vec<&'s Host>, Failure> {
    let invalid = |text: String| Failure::new(ErrorCode::Invalid, text);
    let Some(name) = &request.host else {
        let mut all: Vec<&Host> = snapshot.config.hosts.values().collect();
        all.retain(|host| {
            *host.name != *snapshot.host
                && snapshot.networks().iter().any(|it| it.peers.kind(host.vtep).is_some())
        });
        return if all.is_empty() {
            Err(invalid("no other host has a network in common with this one".to_owned()))
        } else {
            Ok(all)
        };
    };
    let host = snapshot.config.host(name).ok_or_else(|| {
        let known: Vec<String> = snapshot.config.hosts.keys().map(ToString::to_string).collect();
        invalid(format!("there is no host {name}; there are {}", names::some_of(&known, 20, ", ")))
    })?;
    if *host.name == *snapshot.host {
        return Err(invalid(format!("{name} is this host: ask for another one")));
    }
    Ok(vec![host])
}

fn step(after_us: Option<u64>, name: &str, host: &str, result: &str, text: String) -> ProbeStep {
    let step = TraceStep {
        step: name.to_owned(),
        host: host.to_owned(),
        result: result.to_owned(),
        text,
        at: None,
        near: Vec::new(),
    };
    ProbeStep { after_us, step }
}

struct Visit<'a> {
    view: &'a View,
    snapshot: &'a Snapshot,
    request: &'a ProbeRequest,
    host: &'a Host,
    began: Instant,
    report: &'a mut ProbeReport,
}

impl Visit<'_> {
    fn tell(&mut self, name: &str, result: &str, text: String) {
        let after = micros(clock::now().since(self.began));
        let here = self.snapshot.host.to_string();
        self.report.steps.push(step(Some(after), name, &here, result, text));
    }

    fn ask(&mut self) -> io::Result<ProbedVtep> {
        let (from, to) = (self.snapshot.vtep.0, self.host.vtep.0);
        let name = self.host.name.to_string();
        let runs = if self.host.runs_eastgate() { "eastgate" } else { "vxlan" };
        let mut found = ProbedVtep {
            host: name.clone(),
            vtep: to,
            runs: runs.to_owned(),
            verdict: NO_ANSWER.to_owned(),
            port: "open-or-silent".to_owned(),
            round_trips_us: Vec::new(),
            path_mtu: None,
            tenant_mtu: None,
        };
        let mut socket = EchoSocket::open(from, to, 1 + (self.view.random() % 0xfffe) as u16)?;
        self.reach(&mut socket, &mut found)?;
        let port = SocketAddr::new(to, self.snapshot.config.overlay.port);
        match is_closed(from, port, SAYS_CLOSED) {
            Ok(true) => {
                "closed".clone_into(&mut found.port);
                let text = format!(
                    "{name} at {port}: its machine says that nobody listens there, no {runs} VTEP runs"
                );
                self.tell("vxlan port", "drop", text);
            }
            Ok(false) => {
                let text = format!(
                    "{name} at {port}: not refused, as where a VTEP listens; VXLAN has no answer that would say so"
                );
                self.tell("vxlan port", "note", text);
            }
            // The way there is told already.
            Err(error) => self.tell("vxlan port", "note", format!("{name} at {port}: {error}")),
        }
        if found.verdict == REACHED {
            if found.port == "closed" {
                UNREACHABLE.clone_into(&mut found.verdict);
            }
            self.measure(&mut socket, &mut found)?;
        }
        self.suggest();
        Ok(found)
    }

    /// Does its address answer?
    fn reach(&mut self, socket: &mut EchoSocket, found: &mut ProbedVtep) -> io::Result<()> {
        let wait = Duration::from_millis(self.request.wait_ms);
        let (name, to) = (self.host.name.to_string(), found.vtep);
        for _ in 0..self.request.count {
            if is_late(self.began) {
                break;
            }
            self.report.sent += 1;
            match socket.ask(LEAST as u16, wait)? {
                Echoed::Answered(took) => {
                    let took = micros(took);
                    found.round_trips_us.push(took);
                    self.report.round_trips_us.push(took);
                    self.report.answered += 1;
                    REACHED.clone_into(&mut found.verdict);
                    self.tell(
                        "reach",
                        "pass",
                        format!("{name} at {to} answers an echo after {}", millis(took)),
                    );
                }
                Echoed::Unreachable(kind, code) => {
                    UNREACHABLE.clone_into(&mut found.verdict);
                    let words = icmp_error(to.is_ipv4(), kind, code, None);
                    self.tell("reach", "drop", format!("{name} at {to} is not reached: {words}"));
                    return Ok(());
                }
                Echoed::TooBig(_) | Echoed::Lost => {
                    let text = format!(
                        "{name} at {to} does not answer an echo within {} s: down, not reached, or kept from answering",
                        wait.as_secs_f64()
                    );
                    self.tell("reach", "drop", text);
                    if found.round_trips_us.is_empty() {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// The largest packet of the underlay that gets there.
    fn measure(&mut self, socket: &mut EchoSocket, found: &mut ProbedVtep) -> io::Result<()> {
        let wait = Duration::from_millis(self.request.wait_ms);
        let link = u16::try_from(self.view.shared.link_mtu.load(Relaxed)).unwrap_or(u16::MAX);
        let largest = self.request.size.unwrap_or(link);
        let (mut fits, mut too_big, mut next) =
            (LEAST as u16, largest.saturating_add(1).max(LEAST as u16 + 1), largest);
        let mut told = None;
        while fits + 1 < too_big && !is_late(self.began) {
            let mut came = Echoed::Lost;
            for _ in 0..TRIES {
                self.report.sent += 1;
                came = socket.ask(next, wait)?;
                if came != Echoed::Lost {
                    break;
                }
            }
            match came {
                Echoed::Answered(_) => {
                    self.report.answered += 1;
                    fits = next;
                }
                _ => too_big = next,
            }
            next = match came {
                Echoed::TooBig(Some(mtu)) if (u32::from(fits) + 1..u32::from(too_big)).contains(&mtu) => {
                    told = u16::try_from(mtu).ok();
                    mtu as u16
                }
                // Of what was said to fit, one byte more is said not to.
                Echoed::Answered(_) if told == Some(fits) => fits + 1,
                _ => fits + (too_big - fits) / 2,
            };
        }
        let leaves = tenant_mtu(fits, self.host.vtep.family(), 0);
        (found.path_mtu, found.tenant_mtu) = (Some(fits), Some(leaves));
        let name = self.host.name.to_string();
        let wide = if fits >= link { "as wide as the device here" } else { "narrower than the device here" };
        self.tell(
            "path mtu",
            "pass",
            format!("{name}: packets of {fits} bytes get there, {wide} ({link}); that leaves {leaves} to a tenant's packet"),
        );
        let snapshot = self.snapshot;
        let too_small = snapshot.networks().into_iter().filter(|network| {
            network.peers.kind(self.host.vtep).is_some() && network.mtu.is_some_and(|mtu| mtu > leaves)
        });
        for network in too_small {
            let mtu = network.mtu.unwrap_or_default();
            self.tell(
                "path mtu",
                "drop",
                format!("{} has mtu = {mtu}, which is more than gets there", network.name),
            );
        }
        Ok(())
    }

    /// What goes through the tunnel is asked in the name of an endpoint: which one could.
    fn suggest(&mut self) {
        let ports = lock(&self.view.state).ports.clone();
        let serves = |port| ports.get(&port) == Some(&PortState::Forwarding);
        let snapshot = self.snapshot;
        let there = Location::Remote(self.host.vtep);
        let found = snapshot.networks().into_iter().find_map(|network| {
            let from = network.endpoints().find(|it| it.attachment().is_some_and(serves))?;
            let to = network.endpoints().find(|it| it.location == there)?;
            let address = to.holdings().addresses.first()?;
            Some(format!("eastgate probe ping --from {}/{} {address}", network.tenant.name, from.name))
        });
        if let Some(command) = found {
            let text = format!("{}: through the tunnel, if the rules let it pass: {command}", self.host.name);
            self.tell("tunnel", "note", text);
        }
    }
}
