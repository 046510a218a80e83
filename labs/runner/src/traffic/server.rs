//! Servers inside machines. Each answers with the name of its machine.
//!
//! A TCP client sends lines: `echo TOKEN` is answered with `NAME TOKEN`; `take BYTES` is followed by that many
//! bytes, and answered with `NAME HASH`. A UDP datagram is answered with the name and what was in it.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use eastgate_testkit::Netns;
use socket2::{Domain, Socket, Type};

use crate::error::LabError;

/// How soon a server notices that it is over.
const TICK: Duration = Duration::from_millis(50);
/// The longest datagram that is answered.
const DATAGRAM_MAX: usize = 2048;

/// The transport of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// TCP
    Tcp,
    /// UDP
    Udp,
}

/// A running server. It ends, with its connections, when it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    stop: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    /// Starts a server on `port`, for both families, in the namespace of machine `name`; it listens when this
    /// returns.
    pub(crate) fn start(netns: &Netns, name: &str, kind: Kind, port: u16) -> Result<Self, LabError> {
        let opened = netns.enter(|| listen(kind, port))?;
        let socket = opened.map_err(|error| LabError::Packet { from: name.into(), error })?;
        let (stop, connections) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (until, live, name) = (Arc::clone(&stop), Arc::clone(&connections), name.to_owned());
        let thread = thread::spawn(move || match kind {
            Kind::Tcp => serve_tcp(&socket.into(), &name, &until, &live),
            Kind::Udp => serve_udp(&socket.into(), &name, &until),
        });
        Ok(Self { stop, connections, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for connection in self.connections.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = connection.shutdown(Shutdown::Both);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// FNV-1a, 64 bits: tells whether bytes arrived as they were sent; nobody tries to cheat here.
pub(super) fn hash(state: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(state, |state, byte| (state ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// What [`hash`] starts from.
pub(super) const HASH_START: u64 = 0xcbf2_9ce4_8422_2325;

fn listen(kind: Kind, port: u16) -> io::Result<Socket> {
    let kind_of_socket = if kind == Kind::Tcp { Type::STREAM } else { Type::DGRAM };
    let socket = Socket::new(Domain::IPV6, kind_of_socket, None)?;
    socket.set_only_v6(false)?;
    // Connections of the check before may still be in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_read_timeout(Some(TICK))?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    if kind == Kind::Tcp {
        socket.listen(128)?;
    }
    Ok(socket)
}

fn serve_tcp(listener: &TcpListener, name: &str, stop: &AtomicBool, connections: &Mutex<Vec<TcpStream>>) {
    while !stop.load(Ordering::SeqCst) {
        let Ok((stream, _)) = listener.accept() else { continue };
        if let Ok(stream) = stream.try_clone() {
            connections.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
        }
        let name = name.to_owned();
        thread::spawn(move || {
            // A client that goes away in the middle ends its connection, and sees for itself what it got.
            let _ = converse(&stream, &name);
        });
    }
}

fn converse(stream: &TcpStream, name: &str) -> io::Result<()> {
    stream.set_read_timeout(None)?;
    let mut input = BufReader::new(stream);
    let mut output = stream;
    let mut line = String::new();
    while input.read_line(&mut line)? > 0 {
        let answer = match line.trim().split_once(' ') {
            Some(("echo", token)) => format!("{name} {token}\n"),
            Some(("take", bytes)) => {
                let bytes = bytes.parse().map_err(io::Error::other)?;
                format!("{name} {:016x}\n", take(&mut input, bytes)?)
            }
            _ => return Ok(()),
        };
        output.write_all(answer.as_bytes())?;
        line.clear();
    }
    Ok(())
}

fn take(input: &mut impl Read, bytes: u64) -> io::Result<u64> {
    let mut state = HASH_START;
    let mut left = bytes;
    let mut buffer = vec![0; 64 * 1024];
    while left > 0 {
        let some = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let got = input.read(buffer.get_mut(..some).unwrap_or_default())?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        state = hash(state, buffer.get(..got).unwrap_or_default());
        left -= got as u64;
    }
    Ok(state)
}

fn serve_udp(socket: &UdpSocket, name: &str, stop: &AtomicBool) {
    let mut buffer = [0; DATAGRAM_MAX];
    while !stop.load(Ordering::SeqCst) {
        let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
        let answer = [name.as_bytes(), b" ", buffer.get(..len).unwrap_or_default()].concat();
        // An answer that cannot be sent is an answer that does not come: the client tells.
        let _ = socket.send_to(&answer, from);
    }
}
