//! Time to the first answer when neither side knows the other's MAC: what a tenant waits for ARP.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Result, bail};

use super::super::candidates::neighbours;
use super::super::traffic::{self, Cores, Ending, Pair, ports};
use super::latency::{round_trip, send_back};
use super::packets::bind;
use crate::stop;

/// Longer than the kernel's own pause between two ARP requests.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// The median, over `trials`, of the time from sending a datagram to hearing its echo, with ARP in between.
pub(crate) fn measure(pair: Pair<'_>, trials: usize, cores: Cores) -> Result<Duration> {
    let measured = flushed(pair, trials, cores);
    neighbours::pin(pair.client, pair.server).and(neighbours::pin(pair.server, pair.client))?;
    measured
}

fn flushed(pair: Pair<'_>, trials: usize, cores: Cores) -> Result<Duration> {
    let echo = pair.server.namespace.enter(|| bind(pair.server.at(ports::ECHO)))??;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let ending = Ending(&done);
        let server = traffic::worker(scope, cores.server, || send_back(&echo, &done));
        let times = (0..trials).map(|_| one(pair)).collect::<Result<Vec<_>>>();
        drop(ending);
        traffic::joined(server)?;
        let mut times = times?;
        times.sort_unstable();
        let Some(&median) = times.get(times.len() / 2) else { bail!("no trials were asked for") };
        Ok(median)
    })
}

/// A new socket each time: a connected one may remember the neighbour.
fn one(pair: Pair<'_>) -> Result<Duration> {
    stop::check()?;
    let client = pair.client.namespace.enter(|| bind(pair.client.at(0)))??;
    client.connect(pair.server.at(ports::ECHO))?;
    client.set_read_timeout(Some(ANSWER_WITHIN))?;
    neighbours::forget(pair.client, pair.server)?;
    neighbours::forget(pair.server, pair.client)?;
    match round_trip(&client)? {
        Some(time) => Ok(time),
        None => bail!("no answer within {} s of forgetting the neighbour", ANSWER_WITHIN.as_secs()),
    }
}
