//! Bulk TCP: as many bytes as go through, one thread a stream on either side.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};

use super::super::traffic::{self, Cores, Ending, PATIENCE, Pair, Seen, Window, ports};

/// Pacing in BBR would measure the pacer.
const CONGESTION_CONTROL: &[u8] = b"cubic";
const CHUNK: usize = 128 * 1024;
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// Bytes received over `streams` connections.
pub(crate) fn measure(pair: Pair<'_>, streams: usize, cores: Cores, window: Window) -> Result<Seen> {
    let (senders, receivers) = connect(pair, streams)?;
    let (received, done) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let ending = Ending(&done);
        let mut workers = Vec::new();
        for stream in receivers {
            workers.push(traffic::worker(scope, cores.server, || drain(stream, &received, &done)));
        }
        for stream in senders {
            workers.push(traffic::worker(scope, cores.client, || pour(stream, &done)));
        }
        let seen = window.watch(&received);
        drop(ending);
        workers.into_iter().try_for_each(traffic::joined)?;
        seen
    })
}

/// A TCP socket with the congestion control all candidates use.
pub(crate) fn tcp_socket() -> Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_tcp_congestion(CONGESTION_CONTROL).context("this kernel has no cubic")?;
    Ok(socket)
}

/// A listener in the server's namespace that gives up waiting now and then, as do the streams it accepts.
pub(crate) fn listen(pair: Pair<'_>, port: u16) -> Result<TcpListener> {
    let socket = pair.server.namespace.enter(|| -> Result<Socket> {
        let socket = tcp_socket()?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::V4(pair.server.at(port)).into())?;
        socket.listen(1024)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    })??;
    Ok(socket.into())
}

fn connect(pair: Pair<'_>, streams: usize) -> Result<(Vec<TcpStream>, Vec<TcpStream>)> {
    let listener = listen(pair, ports::BULK)?;
    let server = SocketAddr::V4(pair.server.at(ports::BULK));
    let senders = pair.client.namespace.enter(|| -> Result<Vec<TcpStream>> {
        (0..streams)
            .map(|_| {
                let socket = tcp_socket()?;
                socket.connect_timeout(&server.into(), CONNECT_WITHIN)?;
                socket.set_write_timeout(Some(PATIENCE))?;
                Ok(socket.into())
            })
            .collect()
    })?;
    let senders = senders.context("bulk TCP cannot connect")?;
    let receivers: std::io::Result<Vec<_>> =
        (0..streams).map(|_| listener.accept().map(|(stream, _)| stream)).collect();
    Ok((senders, receivers.context("bulk TCP: a connection was not accepted")?))
}

fn pour(mut stream: TcpStream, done: &AtomicBool) -> Result<()> {
    let chunk = vec![0x5a; CHUNK];
    while !done.load(Ordering::Relaxed) {
        match stream.write(&chunk) {
            Ok(_) => {}
            Err(error) if traffic::is_timeout(&error) => {}
            // A receiver that ends first leaves data unread, which resets the connection.
            Err(_) if done.load(Ordering::Relaxed) => break,
            Err(error) => return Err(error).context("bulk TCP sender"),
        }
    }
    Ok(())
}

fn drain(mut stream: TcpStream, received: &AtomicU64, done: &AtomicBool) -> Result<()> {
    let mut room = vec![0; CHUNK];
    while !done.load(Ordering::Relaxed) {
        match stream.read(&mut room) {
            Ok(0) => break,
            Ok(length) => _ = received.fetch_add(length as u64, Ordering::Relaxed),
            Err(error) if traffic::is_timeout(&error) => {}
            Err(_) if done.load(Ordering::Relaxed) => break,
            Err(error) => return Err(error).context("bulk TCP receiver"),
        }
    }
    Ok(())
}
