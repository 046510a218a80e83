//! UDP datagrams as fast as one sender can, over one flow or over many: packets that ARRIVE are counted. Small ones, ones
//! that travel in fragments, and ones that leave in bulk for the kernel or a device to cut (UDP GSO, as QUIC sends).

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt};

use super::super::socket::{Incoming, Outgoing};
use super::super::traffic::{self, Cores, Ending, PATIENCE, Pair, Seen, Window, ports};

/// Makes a 60-byte Ethernet frame: the smallest there is.
pub(crate) const PAYLOAD: [u8; 18] = [0x5a; 18];
/// A payload that makes three fragments where a packet has 1,500 bytes.
pub(crate) const FRAGMENTED: [u8; 4000] = [0x5a; 4000];
/// What a QUIC stack gives the kernel at once: segments of 1,400 bytes.
const SEGMENT: u16 = 1400;
const SEGMENTS: usize = 40;
/// A sender changes flow after this many packets.
const BURST: usize = 16;
/// Receive buffer, bytes: large enough that a receiver put off the core for a tick loses nothing.
const RECEIVE_BUFFER: usize = 8 << 20;

/// Packets received while one sender goes round `flows` flows (equal addresses, one source port each).
pub(crate) fn measure(
    pair: Pair<'_>,
    flows: usize,
    payload: &'static [u8],
    cores: Cores,
    window: Window,
) -> Result<Seen> {
    between(pair, Receiver::new(pair, payload.len())?, flows, cores, window, |senders, done| {
        flood(senders, payload, done)
    })
}

/// Datagrams received that left many at a time (`UDP_SEGMENT`), and may arrive so (`UDP_GRO`): as QUIC stacks send and
/// receive. A receiver that takes them one by one is what would be measured otherwise: it is slower than all of the ways.
pub(crate) fn measure_segmented(pair: Pair<'_>, cores: Cores, window: Window) -> Result<Seen> {
    let receiver = Receiver::new(pair, SEGMENT.into())?;
    setsockopt(&receiver.socket, sockopt::UdpGroSegment, &true).context("UDP_GRO")?;
    between(pair, receiver, 1, cores, window, |senders, done| {
        let socket = senders.first().context("no sender")?;
        setsockopt(socket, sockopt::UdpGsoSegment, &i32::from(SEGMENT)).context("UDP_SEGMENT")?;
        let bulk = vec![0x5a; usize::from(SEGMENT) * SEGMENTS];
        while !done.load(Ordering::Relaxed) {
            let _ = socket.send(&bulk);
        }
        Ok(())
    })
}

/// Where the datagrams arrive.
struct Receiver {
    socket: UdpSocket,
    /// Payload of each, bytes; what is longer is several that the kernel has left together
    datagram: usize,
}

impl Receiver {
    fn new(pair: Pair<'_>, datagram: usize) -> Result<Self> {
        let socket = pair.server.namespace.enter(|| bind(pair.server.at(ports::PACKETS)))??;
        Ok(Self { socket, datagram })
    }
}

fn between(
    pair: Pair<'_>,
    receiver: Receiver,
    flows: usize,
    cores: Cores,
    window: Window,
    send: impl FnOnce(&[UdpSocket], &AtomicBool) -> Result<()> + Send,
) -> Result<Seen> {
    let senders = pair.client.namespace.enter(|| -> Result<Vec<UdpSocket>> {
        (0..flows)
            .map(|_| {
                let socket = UdpSocket::bind(pair.client.at(0))?;
                socket.connect(pair.server.at(ports::PACKETS))?;
                Ok(socket)
            })
            .collect()
    })??;
    let (received, done) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let ending = Ending(&done);
        let workers = [
            traffic::worker(scope, cores.server, || count(&receiver, &received, &done)),
            traffic::worker(scope, cores.client, || send(&senders, &done)),
        ];
        let seen = window.watch(&received);
        drop(ending);
        workers.into_iter().try_for_each(traffic::joined)?;
        seen
    })
}

/// A UDP socket with a large receive buffer that gives up waiting now and then.
pub(crate) fn bind(address: std::net::SocketAddrV4) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn flood(sockets: &[UdpSocket], payload: &[u8], done: &AtomicBool) -> Result<()> {
    let mut batch = Outgoing::connected(payload, BURST);
    while !done.load(Ordering::Relaxed) {
        for socket in sockets {
            // A full queue or a refusal is part of the game: only arrivals count.
            let _ = batch.send(socket.as_fd(), BURST);
        }
    }
    Ok(())
}

fn count(receiver: &Receiver, received: &AtomicU64, done: &AtomicBool) -> Result<()> {
    let mut batch = Incoming::new(64);
    while !done.load(Ordering::Relaxed) {
        match batch.receive(receiver.socket.as_fd()) {
            Ok(count) => {
                let datagrams: usize = batch.lengths(count).map(|len| len.div_ceil(receiver.datagram)).sum();
                received.fetch_add(datagrams as u64, Ordering::Relaxed);
            }
            Err(error) if traffic::is_timeout(&error) => {}
            Err(error) => return Err(error).context("UDP receiver"),
        }
    }
    Ok(())
}
