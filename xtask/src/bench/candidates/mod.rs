//! What is compared. Each candidate has namespaces of its own, all of them stand at once, and those that are not
//! measured are idle.

mod eastgate;
mod hub;
mod neutron;
mod plain;
mod routed;
mod segment;
mod topology;
mod trunk;
mod veth;

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use super::traffic::{Pair, ports};
use super::work::{Reach, bind};
use crate::run;

pub(crate) use topology::neighbours;

/// The names `--candidates` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Name {
    /// Tenants joined directly: the ceiling
    Veth,
    /// Kernel vxlan device and bridge, no policy: what everything is compared to
    Plain,
    /// The same with br_netfilter and a security group in iptables, chained as Neutron's hybrid driver does
    Neutron,
    /// eastgate with its fast path in eBPF
    Eastgate,
    /// eastgate without eBPF
    EastgateUserspace,
}

impl Name {
    /// As `--candidates` and the report spell it.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::Plain => "plain",
            Self::Neutron => "neutron",
            Self::Eastgate => "eastgate",
            Self::EastgateUserspace => "eastgate-userspace",
        }
    }

    /// What it is, for the report.
    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::Veth => "tenants joined directly by a veth pair: the ceiling",
            Self::Plain => "kernel vxlan device and bridge, static FDB, no policy",
            Self::Neutron => "the same with br_netfilter and hybrid iptables chains",
            Self::Eastgate => "eastgate run, eBPF fast path, stateful groups, anti-spoofing",
            Self::EastgateUserspace => "the same without eBPF",
        }
    }

    /// Whether traffic the rules do not allow must be stopped.
    fn enforces(self) -> bool {
        matches!(self, Self::Neutron) || self.is_eastgate()
    }

    /// Whether the daemon of this checkout is part of it.
    pub(crate) fn is_eastgate(self) -> bool {
        matches!(self, Self::Eastgate | Self::EastgateUserspace)
    }

    /// Builds it and proves that it carries what it should and stops what it should.
    pub(crate) fn build(self, target: &Path, scratch: &Path) -> Result<Box<dyn Candidate>> {
        let candidate: Box<dyn Candidate> = match self {
            Self::Veth => Box::new(veth::Veth::build()?),
            Self::Plain => Box::new(plain::Plain::build(scratch)?),
            Self::Neutron => Box::new(neutron::Neutron::build()?),
            Self::Eastgate => Box::new(eastgate::Eastgate::build(target, scratch, "ebpf")?),
            Self::EastgateUserspace => Box::new(eastgate::Eastgate::build(target, scratch, "userspace")?),
        };
        let all = [
            Reach::CrossHost,
            Reach::SameHost,
            Reach::ThroughHub,
            Reach::Trunk,
            Reach::SharedSegment,
            Reach::KernelRouted,
        ];
        for reach in all {
            let Some(pair) = candidate.pair(reach) else { continue };
            if !arrives(pair, ports::PACKETS)? {
                bail!("{}: an allowed datagram does not arrive ({reach:?})", self.text());
            }
            if arrives(pair, ports::DENIED)? == self.enforces() {
                let found = if self.enforces() { "lets through" } else { "stops" };
                bail!("{}: {found} a datagram to port {} ({reach:?})", self.text(), ports::DENIED);
            }
        }
        Ok(candidate)
    }
}

/// Something that carries frames between tenants.
pub(crate) trait Candidate {
    /// The tenants to measure between; none where the candidate has no such pair.
    fn pair(&self, reach: Reach) -> Option<Pair<'_>>;

    /// Puts a policy of `count` rules in force, the allows last, and returns how long that took; `None` from a
    /// candidate that has no policy.
    fn load_rules(&mut self, count: usize) -> Result<Option<Duration>>;

    /// Puts `count` rules in force that stand in four tiers, the allows in the last, and returns how long that took; `None` from a
    /// candidate that has no tiers.
    fn load_tiers(&mut self, _count: usize) -> Result<Option<Duration>> {
        Ok(None)
    }

    /// Has what happens followed, and its metrics scraped each second, on both hosts, until what is given is dropped; `None` from a
    /// candidate that tells of neither.
    fn watch(&self) -> Result<Option<Watch>> {
        Ok(None)
    }

    /// Has the limits on flows that a user gets who says nothing, or those that the benchmark is usually made with.
    fn use_default_limits(&mut self, _default: bool) -> Result<()> {
        Ok(())
    }

    /// Raises what stands in the way of tracking `count` flows.
    fn make_room_for_flows(&mut self, _count: usize) -> Result<()> {
        Ok(())
    }

    /// Memory that grows with tracked flows on the client's host, bytes, where it can be told.
    fn flow_memory(&self) -> Result<Option<u64>> {
        self.resident()
    }

    /// Resident memory of the daemon on the client's host, bytes; `None` where there is no daemon.
    fn resident(&self) -> Result<Option<u64>> {
        Ok(None)
    }
}

/// Programs that watch a candidate; dropping it ends them.
#[derive(Debug, Default)]
pub(crate) struct Watch(Vec<Child>);

impl Watch {
    fn add(&mut self, mut program: Command) -> Result<()> {
        program.stdin(Stdio::null()).stdout(Stdio::null());
        die_with_us(&mut program);
        self.0.push(program.spawn().with_context(|| format!("cannot start `{}`", run::shown(&program)))?);
        Ok(())
    }

    /// Whether all of them still watch.
    pub(crate) fn goes_on(&mut self) -> Result<bool> {
        for program in &mut self.0 {
            if program.try_wait()?.is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        for program in &mut self.0 {
            let _ = program.kill();
            let _ = program.wait();
        }
    }
}

/// A benchmark that is killed must not leave daemons behind.
fn die_with_us(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    #[expect(unsafe_code, reason = "running code between fork and exec is unsafe")]
    // SAFETY: prctl is a single system call, which is async-signal-safe, and nothing is allocated.
    unsafe {
        command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?));
    }
}

/// Sources of the rules that never match here: distinct addresses outside the tenants' subnet.
fn other_sources() -> impl Iterator<Item = Ipv4Addr> {
    (1_u32..).map(|offset| Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 200, 0, 0)) + offset))
}

/// The first of the two ports such a rule allows.
fn other_port(index: usize) -> u16 {
    30_000 + (index % 1000 * 2) as u16
}

fn arrives(pair: Pair<'_>, port: u16) -> Result<bool> {
    const ATTEMPTS: usize = 10;
    let server = pair.server.namespace.enter(|| bind(pair.server.at(port)))??;
    let client = pair.client.namespace.enter(|| bind(pair.client.at(0)))??;
    for _ in 0..ATTEMPTS {
        client.send_to(b"?", pair.server.at(port))?;
        if server.recv(&mut [0; 1]).is_ok() {
            return Ok(true);
        }
    }
    Ok(false)
}
