//! Connect, ask, hear the answer, close; one after the other. Every connection is a new flow.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::super::traffic::{self, Cores, Ending, Pair, Seen, Window, ports};
use super::bulk::{listen, tcp_socket};

const REQUEST: [u8; 64] = [b'?'; 64];
const RESPONSE: [u8; 64] = [b'!'; 64];
/// A step of a connection that takes longer than this has failed.
const STEP_WITHIN: Duration = Duration::from_secs(2);

/// Connections completed by one client, and how many failed.
pub(crate) fn measure(pair: Pair<'_>, cores: Cores, window: Window) -> Result<(Seen, u64)> {
    let listener = listen(pair, ports::REQUEST)?;
    let (completed, failed) = (AtomicU64::new(0), AtomicU64::new(0));
    let (asked_enough, done) = (AtomicBool::new(false), AtomicBool::new(false));
    let seen = std::thread::scope(|scope| {
        // The server ends after the client, which would otherwise wait for an answer that nobody gives.
        let (client_ending, server_ending) = (Ending(&asked_enough), Ending(&done));
        let server = traffic::worker(scope, cores.server, || serve(&listener, &done));
        let client = traffic::worker(scope, cores.client, || {
            pair.client.namespace.join()?;
            ask(pair.server.at(ports::REQUEST).into(), &completed, &failed, &asked_enough)
        });
        let seen = window.watch(&completed);
        drop(client_ending);
        let client = traffic::joined(client);
        drop(server_ending);
        traffic::joined(server).and(client).and(seen)
    })?;
    if seen.count == 0 {
        bail!("not one connection was completed");
    }
    Ok((seen, failed.load(Ordering::Relaxed)))
}

fn ask(server: SocketAddr, completed: &AtomicU64, failed: &AtomicU64, done: &AtomicBool) -> Result<()> {
    let server = server.into();
    while !done.load(Ordering::Relaxed) {
        let once = || -> Result<()> {
            let socket = tcp_socket()?;
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
