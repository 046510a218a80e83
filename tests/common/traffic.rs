//! Traffic of machines: a steady stream of numbered datagrams, a count of those that arrive, bulk over TCP.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::sys::socket::{setsockopt, sockopt};

use super::{BOUND, Space, wait_for};

/// Between two datagrams of a stream.
const PACE: Duration = Duration::from_millis(1);
/// A stream that nobody stops ends by itself.
const LONGEST: Duration = Duration::from_secs(900);
/// How soon a sink sees that it is over.
const TICK: Duration = Duration::from_millis(20);

/// A socket for datagrams at an address, which another one may have had until a moment ago: see [`bound`].
pub fn bind_udp(at: impl ToSocketAddrs) -> UdpSocket {
    bound(|| UdpSocket::bind(&at))
}

/// A listener at an address, which another one may have had until a moment ago: see [`bound`].
pub fn bind_tcp(at: impl ToSocketAddrs) -> TcpListener {
    bound(|| TcpListener::bind(&at))
}

/// A process that a test beside this one is starting has a copy of every socket until it has become another program.
fn bound<T>(bind: impl Fn() -> io::Result<T>) -> T {
    let mut socket = None;
    wait_for("the address is free", || match bind() {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => false,
        result => {
            socket = Some(result.unwrap());
            true
        }
    });
    socket.expect("it was bound")
}

/// How many bytes of them may wait for a sink: some ten thousand datagrams.
const WAITING: usize = 16 << 20;

/// A stream of datagrams with numbers that count up from 1. It ends when it is dropped.
pub struct Stream {
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Stream {
    /// Starts it.
    pub fn start(space: &Space, from: SocketAddr, to: SocketAddr) -> Self {
        Self::bursts(space, from, to, 1)
    }

    /// Starts one of `burst` datagrams at a time.
    pub fn bursts(space: &Space, from: SocketAddr, to: SocketAddr, burst: u32) -> Self {
        let (sent, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counter, end) = (sent.clone(), stop.clone());
        let thread = space.spawn(move || {
            let socket = bind_udp(from);
            let begun = Instant::now();
            while !end.load(SeqCst) && begun.elapsed() < LONGEST {
                for _ in 0..burst {
                    // Refused while nobody answers ARP: that datagram is lost, as others are on the way.
                    let _ = socket.send_to(&(counter.load(SeqCst) + 1).to_be_bytes(), to);
                    counter.fetch_add(1, SeqCst);
                }
                thread::sleep(PACE);
            }
        });
        Self { sent, stop, thread: Some(thread) }
    }

    /// The number of the last datagram.
    pub fn sent(&self) -> u64 {
        self.sent.load(SeqCst)
    }

    /// Ends it, and gives how many it has sent.
    pub fn finish(mut self) -> u64 {
        end(&self.stop, &mut self.thread);
        self.sent()
    }

    /// Returns when it has sent as many more.
    pub fn send_more(&self, count: u64) {
        let until = self.sent() + count;
        wait_for("datagrams are sent", || self.sent() >= until);
    }

    /// Returns when one that is sent after this call has arrived at `sink`; how long that took.
    pub fn arrives(&self, what: &str, sink: &Sink) -> Duration {
        let now = self.sent() + 1;
        wait_for(what, || sink.last() > now)
    }

    /// Whether none arrives of those that are sent from now on: `count` of them are waited for.
    pub fn is_cut(&self, sink: &Sink, count: u64) -> bool {
        let now = self.sent() + 1;
        self.send_more(count);
        sink.last() <= now
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        end(&self.stop, &mut self.thread);
    }
}

/// Between a datagram and the next that arrived, others are missing, or come later.
#[derive(Clone, Debug)]
#[allow(dead_code, reason = "for whoever reads why a test failed")]
pub struct Gap {
    /// The number of the last one before it
    pub after: u64,
    /// The number of the next one
    pub before: u64,
    /// How long after the sink was started
    pub at: Duration,
}

/// As many are kept: they are for whoever reads why a test failed.
const GAPS: usize = 16;

/// Counts the datagrams of a stream where they arrive.
pub struct Sink {
    count: Arc<AtomicU64>,
    last: Arc<AtomicU64>,
    gaps: Arc<Mutex<Vec<Gap>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sink {
    /// Listens from when this returns.
    pub fn start(space: &Space, at: SocketAddr) -> Self {
        let socket = space.enter(move || bind_udp(at));
        // What waits here while other programs have the cores was carried: it is not to be lost on the last step.
        setsockopt(&socket, sockopt::RcvBufForce, &WAITING).unwrap();
        let (count, last) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (stop, gaps) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (counter, highest, end, missing) = (count.clone(), last.clone(), stop.clone(), gaps.clone());
        socket.set_read_timeout(Some(TICK)).unwrap();
        let begun = Instant::now();
        let thread = thread::spawn(move || {
            let mut number = [0; 8];
            while !end.load(SeqCst) {
                if let Ok((8, _)) = socket.recv_from(&mut number) {
                    let number = u64::from_be_bytes(number);
                    counter.fetch_add(1, SeqCst);
                    let after = highest.fetch_max(number, SeqCst);
                    let mut gaps = missing.lock().unwrap();
                    if number > after + 1 && gaps.len() < GAPS {
                        gaps.push(Gap { after, before: number, at: begun.elapsed() });
                    }
                }
            }
        });
        Self { count, last, gaps, stop, thread: Some(thread) }
    }

    /// How many have arrived.
    pub fn count(&self) -> u64 {
        self.count.load(SeqCst)
    }

    /// The first places where datagrams are missing.
    pub fn gaps(&self) -> Vec<Gap> {
        self.gaps.lock().unwrap().clone()
    }

    /// The highest number that has arrived.
    pub fn last(&self) -> u64 {
        self.last.load(SeqCst)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        end(&self.stop, &mut self.thread);
    }
}

fn end(stop: &AtomicBool, thread: &mut Option<JoinHandle<()>>) {
    stop.store(true, SeqCst);
    if let Some(thread) = thread.take() {
        let _ = thread.join();
    }
}

/// The first connection; none when it is over before there is one.
fn accept(listener: &TcpListener, over: &AtomicBool) -> Option<TcpStream> {
    listener.set_nonblocking(true).unwrap();
    while !over.load(SeqCst) {
        if let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(false).unwrap();
            return Some(stream);
        }
        thread::sleep(TICK);
    }
    None
}

/// A TCP connection between two machines, and what its ends count on it. It ends when it is dropped.
struct Connection {
    state: Arc<ConnectionState>,
    threads: [Option<JoinHandle<()>>; 2],
}

#[derive(Default)]
struct ConnectionState {
    progress: AtomicU64,
    over: AtomicBool,
}

impl Connection {
    /// Connects `from` with `to`, and lets each end do its part.
    fn start(
        from: &Space,
        to: (&Space, SocketAddr),
        requester: impl FnOnce(TcpStream, &ConnectionState) + Send + 'static,
        answerer: impl FnOnce(TcpStream, &ConnectionState) + Send + 'static,
    ) -> Self {
        let listener = to.0.enter(move || bind_tcp(to.1));
        let state = Arc::new(ConnectionState::default());
        let (here, there) = (state.clone(), state.clone());
        let answers = thread::spawn(move || {
            if let Some(stream) = accept(&listener, &there.over) {
                answerer(stream, &there);
            }
        });
        let asks = from.spawn(move || requester(TcpStream::connect_timeout(&to.1, BOUND).unwrap(), &here));
        Self { state, threads: [Some(asks), Some(answers)] }
    }

    /// Returns when as much more has been counted after this call.
    fn goes_on(&self, what: &str, when: &str, more: u64) {
        let enough = self.state.progress.load(SeqCst) + more;
        wait_for(&format!("{what} goes on {when}"), || self.state.progress.load(SeqCst) >= enough);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        for thread in &mut self.threads {
            end(&self.state.over, thread);
        }
    }
}

/// A TCP connection on which one end asks and the other answers, all the time. It ends when it is dropped.
pub struct Dialogue(Connection);

impl Dialogue {
    /// Connects `from` with `to`, and begins.
    pub fn start(from: &Space, to: (&Space, SocketAddr)) -> Self {
        let requester = |mut stream: TcpStream, state: &ConnectionState| {
            stream.set_read_timeout(Some(BOUND)).unwrap();
            let mut answer = [0; 8];
            while !state.over.load(SeqCst) {
                let number = state.progress.load(SeqCst) + 1;
                stream.write_all(&number.to_be_bytes()).unwrap();
                stream.read_exact(&mut answer).unwrap();
                assert_eq!(u64::from_be_bytes(answer), number);
                state.progress.store(number, SeqCst);
                thread::sleep(PACE);
            }
        };
        let answerer = |mut stream: TcpStream, _: &ConnectionState| {
            stream.set_read_timeout(Some(BOUND)).unwrap();
            let mut number = [0; 8];
            while stream.read_exact(&mut number).is_ok() && stream.write_all(&number).is_ok() {}
        };
        Self(Connection::start(from, to, requester, answerer))
    }

    /// Returns when something has been asked and answered after this call.
    pub fn goes_on(&self, when: &str) {
        self.0.goes_on("the connection", when, 2);
    }
}

/// A TCP connection on which one end sends as fast as it can. It ends when it is dropped.
pub struct Transfer(Connection);

impl Transfer {
    /// Connects `from` with `to`, and begins.
    pub fn start(from: &Space, to: (&Space, SocketAddr)) -> Self {
        // A time-out is looked at as any other moment: is it over?
        let sender = |mut stream: TcpStream, state: &ConnectionState| {
            stream.set_write_timeout(Some(TICK)).unwrap();
            let begun = Instant::now();
            while !state.over.load(SeqCst) && begun.elapsed() < LONGEST {
                let _ = stream.write(&[7; 1 << 16]);
            }
        };
        let receiver = |mut stream: TcpStream, state: &ConnectionState| {
            stream.set_read_timeout(Some(TICK)).unwrap();
            let mut buffer = vec![0; 1 << 16];
            while !state.over.load(SeqCst) {
                state.progress.fetch_add(stream.read(&mut buffer).unwrap_or(0) as u64, SeqCst);
            }
        };
        Self(Connection::start(from, to, sender, receiver))
    }

    /// Returns when megabytes have arrived after this call.
    pub fn goes_on(&self, when: &str) {
        self.0.goes_on("the transfer", when, 8 << 20);
    }
}

/// Whether a datagram from `from` arrives at `to` in time: it is sent again and again until it does.
pub fn datagram_arrives(from: (&Space, SocketAddr), to: (&Space, SocketAddr)) {
    let sink = Sink::start(to.0, to.1);
    let stream = Stream::start(from.0, from.1, to.1);
    stream.arrives("a datagram", &sink);
}

/// Takes one connection at `at` and reads it to its end: what [`bulk`] sent is compared with what arrives, byte for
/// byte. Gives how many bytes it was.
pub fn accept_bulk(space: &Space, at: SocketAddr) -> JoinHandle<u64> {
    let listener = space.enter(move || bind_tcp(at));
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(BOUND)).unwrap();
        let (mut expected, mut buffer, mut total) = (Pattern::default(), vec![0; 1 << 16], 0);
        loop {
            let got = stream.read(&mut buffer).unwrap();
            if got == 0 {
                stream.write_all(&[1]).unwrap();
                return total;
            }
            for (place, byte) in buffer[..got].iter().enumerate() {
                assert_eq!(*byte, expected.next(), "byte {} is not what was sent", total + place as u64);
            }
            total += got as u64;
        }
    })
}

/// Sends `bytes` bytes over TCP from `from` to `to`, and holds what arrives to what was sent.
pub fn bulk(from: &Space, to: (&Space, SocketAddr), bytes: u64) {
    let receiver = accept_bulk(to.0, to.1);
    let address = to.1;
    let sender = from.spawn(move || {
        let mut stream = TcpStream::connect_timeout(&address, BOUND).unwrap();
        stream.set_write_timeout(Some(BOUND)).unwrap();
        stream.set_read_timeout(Some(BOUND)).unwrap();
        let mut pattern = Pattern::default();
        let mut left = bytes;
        while left > 0 {
            let chunk: Vec<u8> = (0..left.min(1 << 16)).map(|_| pattern.next()).collect();
            stream.write_all(&chunk).unwrap();
            left -= chunk.len() as u64;
        }
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        // The other side answers when it has everything.
        stream.read_exact(&mut [0]).unwrap();
    });
    sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let arrived = receiver.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    assert_eq!(arrived, bytes);
}

/// Bytes in which no two places look alike for long: the low bytes of a linear congruential generator.
struct Pattern(u64);

impl Default for Pattern {
    fn default() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }
}

impl Pattern {
    fn next(&mut self) -> u8 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 56) as u8
    }
}
