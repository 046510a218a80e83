//! A grid of UDP flows, source ports by destination ports: first every flow is opened and answered, so that a
//! stateful candidate tracks it; then packets go over all of them in an order caches do not like.

use std::collections::HashSet;
use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::super::socket::{Incoming, Outgoing};
use super::super::traffic::{self, Cores, Ending, Pair, Seen, Window, ports};
use super::packets::{PAYLOAD, bind};
use crate::stop;

/// Flows sent to before their answers are waited for: few enough that no queue on the way overflows.
const BATCH: usize = 64;
/// How often a flow without an answer is tried again.
const ATTEMPTS: usize = 8;
const ANSWERS_WITHIN: Duration = Duration::from_millis(20);
const SOURCE_PORTS: u16 = 10_000;

/// The flows between a pair: `side` source ports, each to `side` destination ports.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    pub(crate) side: usize,
}

impl Grid {
    /// Opens every flow and hears its answer; returns how many flows there are.
    pub(crate) fn open(self, pair: Pair<'_>, cores: Cores) -> Result<usize> {
        let (clients, servers) = self.sockets(pair)?;
        let (received, done) = (AtomicU64::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let ending = Ending(&done);
            let server = traffic::worker(scope, cores.server, || receive(&servers, &received, &done, true));
            let opener = traffic::worker(scope, cores.client, || {
                clients.iter().try_for_each(|client| self.open_row(pair, client))
            });
            let opened = traffic::joined(opener);
            drop(ending);
            traffic::joined(server)?;
            opened
        })?;
        Ok(self.side * self.side)
    }

    /// Packets received while one sender wanders over the flows.
    pub(crate) fn measure(self, pair: Pair<'_>, cores: Cores, window: Window) -> Result<Seen> {
        let (clients, servers) = self.sockets(pair)?;
        let (received, done) = (AtomicU64::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let ending = Ending(&done);
            let workers = [
                traffic::worker(scope, cores.server, || receive(&servers, &received, &done, false)),
                traffic::worker(scope, cores.client, || self.wander(pair, &clients, &done)),
            ];
            let seen = window.watch(&received);
            drop(ending);
            workers.into_iter().try_for_each(traffic::joined)?;
            seen
        })
    }

    fn sockets(self, pair: Pair<'_>) -> Result<(Vec<UdpSocket>, Vec<UdpSocket>)> {
        allow_many_sockets()?;
        let clients = pair.client.namespace.enter(|| {
            (SOURCE_PORTS..)
                .take(self.side)
                .map(|port| bind(pair.client.at(port)))
                .collect::<Result<Vec<_>>>()
        })??;
        let servers = pair.server.namespace.enter(|| {
            (ports::GRID..).take(self.side).map(|port| bind(pair.server.at(port))).collect::<Result<Vec<_>>>()
        })??;
        Ok((clients, servers))
    }

    fn open_row(self, pair: Pair<'_>, client: &UdpSocket) -> Result<()> {
        client.set_read_timeout(Some(ANSWERS_WITHIN))?;
        let columns: Vec<_> = (ports::GRID..).take(self.side).map(|port| pair.server.at(port)).collect();
        let mut incoming = Incoming::new(BATCH);
        for columns in columns.chunks(BATCH) {
            stop::check()?;
            let mut missing: HashSet<SocketAddrV4> = columns.iter().copied().collect();
            for _ in 0..ATTEMPTS {
                let asked: Vec<_> = columns.iter().copied().filter(|flow| missing.contains(flow)).collect();
                Outgoing::addressed(&PAYLOAD, &asked)
                    .send(client.as_fd(), asked.len())
                    .context("opening flows")?;
                while !missing.is_empty() {
                    let Ok(count) = incoming.receive(client.as_fd()) else { break };
                    incoming.senders(count).for_each(|sender| _ = missing.remove(&sender));
                }
                if missing.is_empty() {
                    break;
                }
            }
            if !missing.is_empty() {
                bail!(
                    "{} of {} flows were not answered after {ATTEMPTS} attempts",
                    missing.len(),
                    columns.len()
                );
            }
        }
        Ok(())
    }

    fn wander(self, pair: Pair<'_>, clients: &[UdpSocket], done: &AtomicBool) -> Result<()> {
        const BURST: usize = 16;
        let mut batch = Outgoing::addressed(&PAYLOAD, &[pair.server.at(ports::GRID); BURST]);
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        while !done.load(Ordering::Relaxed) {
            let row = random.below(self.side);
            let columns = std::iter::from_fn(|| Some(ports::GRID + random.below(self.side) as u16));
            batch.redirect(columns.take(BURST).map(|port| pair.server.at(port)));
            if let Some(client) = clients.get(row) {
                // Only arrivals count.
                let _ = batch.send(client.as_fd(), BURST);
            }
        }
        Ok(())
    }
}

/// Takes what arrives on any of the sockets, and sends it back where that is asked for.
fn receive(sockets: &[UdpSocket], received: &AtomicU64, done: &AtomicBool, answer: bool) -> Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    for (index, socket) in sockets.iter().enumerate() {
        socket.set_nonblocking(true)?;
        epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, index as u64))?;
    }
    let mut events = vec![EpollEvent::empty(); 256];
    let mut incoming = Incoming::new(BATCH);
    while !done.load(Ordering::Relaxed) {
        let ready = epoll.wait(&mut events, EpollTimeout::from(50_u8)).or_else(ignore_interruption)?;
        for event in events.iter().take(ready) {
            let Some(socket) = sockets.get(event.data() as usize) else { continue };
            let Ok(count) = incoming.receive(socket.as_fd()) else { continue };
            received.fetch_add(count as u64, Ordering::Relaxed);
            if answer {
                let senders: Vec<_> = incoming.senders(count).collect();
                // An answer that is lost is asked for again.
                let _ = Outgoing::addressed(&PAYLOAD, &senders).send(socket.as_fd(), count);
            }
        }
    }
    Ok(())
}

fn ignore_interruption(error: nix::Error) -> nix::Result<usize> {
    if error == nix::Error::EINTR { Ok(0) } else { Err(error) }
}

fn allow_many_sockets() -> Result<()> {
    const WANTED: u64 = 4096;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < WANTED {
        setrlimit(Resource::RLIMIT_NOFILE, WANTED.min(hard), hard)
            .context("the flow grid needs 4096 open files")?;
    }
    Ok(())
}

/// Marsaglia's xorshift: only needs to be quick, and the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit.max(1)
    }
}
