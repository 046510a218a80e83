//! Ping-pong: one byte there and back over UDP, both sides sleeping until it comes.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::super::traffic::{self, Cores, Ending, PATIENCE, Pair, Window, ports};
use super::packets::bind;
use crate::stop;

/// Round-trip times.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RoundTrips {
    pub(crate) median: Duration,
    /// 99 of 100 are not longer.
    pub(crate) p99: Duration,
    pub(crate) lost: u64,
}

/// Round-trip times of one-byte datagrams sent one after the other.
pub(crate) fn measure(pair: Pair<'_>, cores: Cores, window: Window) -> Result<RoundTrips> {
    let echo = pair.server.namespace.enter(|| bind(pair.server.at(ports::ECHO)))??;
    let client = pair.client.namespace.enter(|| bind(pair.client.at(0)))??;
    client.connect(pair.server.at(ports::ECHO))?;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let ending = Ending(&done);
        let server = traffic::worker(scope, cores.server, || send_back(&echo, &done));
        let pinger = traffic::worker(scope, cores.client, || ping(&client, window));
        let times = traffic::joined(pinger);
        drop(ending);
        traffic::joined(server)?;
        times
    })
}

/// Sends every datagram back to where it came from.
pub(crate) fn send_back(socket: &UdpSocket, done: &AtomicBool) -> Result<()> {
    let mut room = [0; 64];
    while !done.load(Ordering::Relaxed) {
        match socket.recv_from(&mut room) {
            // One that cannot be sent back is one the client misses.
            Ok((length, from)) => _ = socket.send_to(room.get(..length).unwrap_or(&room), from),
            Err(error) if traffic::is_timeout(&error) => {}
            Err(error) => return Err(error).context("echo server"),
        }
    }
    Ok(())
}

/// One round trip on a connected socket; `None` when nothing came back in time.
pub(crate) fn round_trip(socket: &UdpSocket) -> Result<Option<Duration>> {
    let sent = Instant::now();
    socket.send(b".")?;
    match socket.recv(&mut [0; 1]) {
        Ok(_) => Ok(Some(sent.elapsed())),
        Err(error) if traffic::is_timeout(&error) => Ok(None),
        Err(error) => Err(error).context("ping"),
    }
}

fn ping(socket: &UdpSocket, window: Window) -> Result<RoundTrips> {
    let start = Instant::now();
    let (mut times, mut lost) = (Vec::new(), 0);
    while start.elapsed() < window.warm_up + window.length {
        stop::check()?;
        let counts = start.elapsed() >= window.warm_up;
        match round_trip(socket)? {
            Some(time) if counts => times.push(time),
            None if counts => {
                lost += 1;
                // An answer that comes late after all must not be taken for the next one's.
                std::thread::sleep(PATIENCE);
                socket.set_nonblocking(true)?;
                while socket.recv(&mut [0; 1]).is_ok() {}
                socket.set_nonblocking(false)?;
            }
            _ => {}
        }
    }
    times.sort_unstable();
    let at =
        |hundredths: usize| times.get((times.len() * hundredths / 100).min(times.len().saturating_sub(1)));
    let (Some(&median), Some(&p99)) = (at(50), at(99)) else { bail!("not one ping was answered") };
    Ok(RoundTrips { median, p99, lost })
}
