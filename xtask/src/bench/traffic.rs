//! What every kind of work shares: who talks to whom, on which cores, for how long, on which ports.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use eastgate_testkit::Namespace;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::cpu::CpuTime;
use crate::stop;

/// Server ports, all of them allowed by every candidate's policy.
pub(crate) mod ports {
    /// TCP, read until the end.
    pub(crate) const BULK: u16 = 7000;
    /// TCP, one request and one response a connection.
    pub(crate) const REQUEST: u16 = 7001;
    /// UDP, counted and thrown away.
    pub(crate) const PACKETS: u16 = 7100;
    /// UDP, sent back.
    pub(crate) const ECHO: u16 = 7101;
    /// UDP, first port of the flow grid.
    pub(crate) const GRID: u16 = 20_000;
    /// UDP, allowed by no policy: what arrives here went around it.
    pub(crate) const DENIED: u16 = 9;
}

/// A rule every policy has: this protocol to these ports, from anywhere.
#[derive(Clone, Debug)]
pub(crate) struct Allow {
    /// `tcp` or `udp`, as iptables and eastgate both spell it.
    pub(crate) protocol: &'static str,
    pub(crate) ports: RangeInclusive<u16>,
}

/// What all policies allow; everything else is denied.
pub(crate) const ALLOWS: [Allow; 3] = [
    Allow { protocol: "tcp", ports: ports::BULK..=7009 },
    Allow { protocol: "udp", ports: ports::PACKETS..=7109 },
    Allow { protocol: "udp", ports: ports::GRID..=20_999 },
];

/// A machine that sends and receives.
#[derive(Debug)]
pub(crate) struct Tenant {
    pub(crate) namespace: Namespace,
    pub(crate) address: Ipv4Addr,
    pub(crate) mac: String,
}

impl Tenant {
    /// This tenant's address with a port.
    pub(crate) fn at(&self, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(self.address, port)
    }
}

/// Who asks and who answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair<'a> {
    pub(crate) client: &'a Tenant,
    pub(crate) server: &'a Tenant,
}

/// Where the two sides run: different cores where there are two.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cores {
    pub(crate) client: usize,
    pub(crate) server: usize,
}

impl Cores {
    /// The first two cores this process may use.
    pub(crate) fn of_this_machine() -> Result<Self> {
        let allowed = nix::sched::sched_getaffinity(Pid::from_raw(0))?;
        let mut usable = (0..CpuSet::count()).filter(|&core| allowed.is_set(core).unwrap_or(false));
        let client = usable.next().context("no core to run on")?;
        Ok(Self { client, server: usable.next().unwrap_or(client) })
    }
}

/// How long a measurement runs; what happens during the warm-up is not counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) warm_up: Duration,
    pub(crate) length: Duration,
}

/// What was seen in a window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) count: u64,
    pub(crate) elapsed: Duration,
    /// Time all cores of the machine were busy, whoever kept them so.
    pub(crate) cpu: Duration,
}

impl Seen {
    /// Counted things a second.
    pub(crate) fn rate(&self) -> f64 {
        self.count as f64 / self.elapsed.as_secs_f64()
    }
}

impl Window {
    /// Lets traffic warm up, then watches `counter` for the window's length.
    pub(crate) fn watch(&self, counter: &AtomicU64) -> Result<Seen> {
        std::thread::sleep(self.warm_up);
        stop::check()?;
        let (cpu, start, before) = (CpuTime::now()?, Instant::now(), counter.load(Ordering::Relaxed));
        std::thread::sleep(self.length);
        let (after, elapsed, cpu) =
            (counter.load(Ordering::Relaxed), start.elapsed(), CpuTime::now()?.since(cpu));
        stop::check()?;
        Ok(Seen { count: after.wrapping_sub(before), elapsed, cpu })
    }
}

/// Tells the workers of a measurement to end, at the latest when it goes out of scope: a measurement that fails
/// half-way must not leave its workers running.
#[derive(Debug)]
pub(crate) struct Ending<'a>(pub(crate) &'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// How long a worker waits in the kernel before it looks whether it should end.
pub(crate) const PATIENCE: Duration = Duration::from_millis(50);

/// Starts a worker on one core; its sockets must have been made in the right namespace already.
pub(crate) fn worker<'scope, 'env, T: Send + 'scope>(
    scope: &'scope Scope<'scope, 'env>,
    core: usize,
    work: impl FnOnce() -> Result<T> + Send + 'scope,
) -> ScopedJoinHandle<'scope, Result<T>> {
    scope.spawn(move || {
        pin(core)?;
        work()
    })
}

/// The worker's result, a panic turned into an error.
pub(crate) fn joined<T>(handle: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    handle.join().map_err(|_| anyhow!("a traffic worker panicked"))?
}

/// Whether a socket call ended only because its time-out did.
pub(crate) fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}

fn pin(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("cannot pin to core {core}"))
}
