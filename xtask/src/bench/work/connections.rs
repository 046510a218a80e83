//! Connect, ask, hear the answer, close; one after the other. Every connection is a new flow, which ends by FIN or by
//! RST.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::super::cpu::CpuTime;
use super::super::traffic::{self, Cores, Ending, Pair, Seen, Window, ports};
use super::bulk::{listen, tcp_socket};

const REQUEST: [u8; 64] = [b'?'; 64];
const RESPONSE: [u8; 64] = [b'!'; 64];
/// A step of a connection that takes longer than this has failed.
const STEP_WITHIN: Duration = Duration::from_secs(2);

/// How the client's connections begin and end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    /// By FIN of both sides
    Fin,
    /// By the client's RST
    Reset,
    /// By the client's RST, and a few source ports are used again and again
    ResetOnFewPorts,
}

/// Source ports of [`Closing::ResetOnFewPorts`]: each comes again within a second.
const FEW_PORTS: std::ops::Range<u16> = 40_000..42_000;

/// Connections completed by one client, and how many failed.
pub(crate) fn measure(pair: Pair<'_>, closing: Closing, cores: Cores, window: Window) -> Result<(Seen, u64)> {
    let (seen, failed) = run(pair, closing, cores, |completed| Ok(vec![window.watch(completed)?]))?;
    let seen = seen.first().copied().context("no window")?;
    if seen.count == 0 {
        bail!("not one connection was completed");
    }
    Ok((seen, failed))
}

/// Connections that end by FIN, one after the other for `parts` times `length`: each part, and how many failed.
pub(crate) fn sustain(
    pair: Pair<'_>,
    cores: Cores,
    parts: usize,
    length: Duration,
) -> Result<(Vec<Seen>, u64)> {
    run(pair, Closing::Fin, cores, |completed| {
        let mut seen = Vec::new();
        for _ in 0..parts {
            let (start, before, cpu) = (Instant::now(), completed.load(Ordering::Relaxed), CpuTime::now()?);
            while start.elapsed() < length {
                crate::stop::check()?;
                std::thread::sleep(Duration::from_millis(100).min(length));
            }
            let count = completed.load(Ordering::Relaxed) - before;
            seen.push(Seen { count, elapsed: start.elapsed(), cpu: CpuTime::now()?.since(cpu) });
        }
        Ok(seen)
    })
}

fn run(
    pair: Pair<'_>,
    closing: Closing,
    cores: Cores,
    watch: impl FnOnce(&AtomicU64) -> Result<Vec<Seen>>,
) -> Result<(Vec<Seen>, u64)> {
    let listener = listen(pair, ports::REQUEST)?;
    let (completed, failed) = (AtomicU64::new(0), AtomicU64::new(0));
    let (asked_enough, done) = (AtomicBool::new(false), AtomicBool::new(false));
    let seen = std::thread::scope(|scope| {
        // The server ends after the client, which would otherwise wait for an answer that nobody gives.
        let (client_ending, server_ending) = (Ending(&asked_enough), Ending(&done));
        let server = traffic::worker(scope, cores.server, || serve(&listener, &done));
        let client = traffic::worker(scope, cores.client, || {
            pair.client.namespace.join()?;
            ask(pair, closing, &completed, &failed, &asked_enough)
        });
        let seen = watch(&completed);
        drop(client_ending);
        let client = traffic::joined(client);
        drop(server_ending);
        traffic::joined(server).and(client).and(seen)
    })?;
    Ok((seen, failed.load(Ordering::Relaxed)))
}

fn ask(
    pair: Pair<'_>,
    closing: Closing,
    completed: &AtomicU64,
    failed: &AtomicU64,
    done: &AtomicBool,
) -> Result<()> {
    let server = SocketAddr::from(pair.server.at(ports::REQUEST)).into();
    let mut few = FEW_PORTS.cycle();
    while !done.load(Ordering::Relaxed) {
        let mut once = || -> Result<()> {
            let socket = tcp_socket()?;
            if closing != Closing::Fin {
                socket.set_linger(Some(Duration::ZERO))?;
            }
            if closing == Closing::ResetOnFewPorts {
                socket.set_reuse_address(true)?;
                let port = few.next().context("the ports go round")?;
                socket.bind(&SocketAddr::from(pair.client.at(port)).into())?;
            }
            socket.set_write_timeout(Some(STEP_WITHIN))?;
            socket.set_read_timeout(Some(STEP_WITHIN))?;
            socket.connect(&server)?;
            let mut stream = TcpStream::from(socket);
            stream.write_all(&REQUEST)?;
            stream.read_exact(&mut [0; RESPONSE.len()])?;
            Ok(())
        };
        let counter = if once().is_ok() { completed } else { failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

fn serve(listener: &TcpListener, done: &AtomicBool) -> Result<()> {
    while !done.load(Ordering::Relaxed) {
        match listener.accept() {
            // A connection that breaks is the client's to count.
            Ok((stream, _)) => _ = answer(stream),
            Err(error) if traffic::is_timeout(&error) => {}
            Err(error) => return Err(error).context("server"),
        }
    }
    Ok(())
}

/// The client closes first; seeing that takes the close out of what the next connection waits for.
fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.read_exact(&mut [0; REQUEST.len()])?;
    stream.write_all(&RESPONSE)?;
    stream.read(&mut [0; 1]).map(drop)
}
