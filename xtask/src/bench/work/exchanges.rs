//! A question and an answer over UDP from a socket of its own each time, as resolvers ask: every exchange is a new flow.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};

use super::super::traffic::{self, Cores, Ending, Pair, Seen, Window, ports};
use super::latency::send_back;
use super::packets::bind;

/// As long as a usual question.
const QUESTION: [u8; 40] = [b'?'; 40];
/// An answer that takes longer is lost.
const PATIENCE: Duration = Duration::from_millis(200);

/// Exchanges completed by one client, and how many failed.
pub(crate) fn measure(pair: Pair<'_>, cores: Cores, window: Window) -> Result<(Seen, u64)> {
    let server = pair.server.namespace.enter(|| bind(pair.server.at(ports::ECHO)))??;
    let (completed, failed) = (AtomicU64::new(0), AtomicU64::new(0));
    let (asked_enough, done) = (AtomicBool::new(false), AtomicBool::new(false));
    let seen = std::thread::scope(|scope| {
        let (client_ending, server_ending) = (Ending(&asked_enough), Ending(&done));
        let answers = traffic::worker(scope, cores.server, || send_back(&server, &done));
        let asks = traffic::worker(scope, cores.client, || {
            pair.client.namespace.join()?;
            while !asked_enough.load(Ordering::Relaxed) {
                let counter = if ask(pair).is_ok() { &completed } else { &failed };
                counter.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        let seen = window.watch(&completed);
        drop(client_ending);
        let asked = traffic::joined(asks);
        drop(server_ending);
        traffic::joined(answers).and(asked).and(seen)
    })?;
    if seen.count == 0 {
        bail!("not one exchange was completed");
    }
    Ok((seen, failed.load(Ordering::Relaxed)))
}

fn ask(pair: Pair<'_>) -> Result<()> {
    let socket = UdpSocket::bind(pair.client.at(0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(pair.server.at(ports::ECHO))?;
    socket.send(&QUESTION)?;
    socket.recv(&mut [0; QUESTION.len()])?;
    Ok(())
}
