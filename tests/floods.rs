//! One endpoint sends SYNs or datagrams in a flood: established connections of its network go on, and its neighbours and another
//! network open theirs, in both dataplanes and on default limits.
//!
//! `EASTGATE_FLOOD_RATE` says how many a second; 0 for as many as one core can send.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use common::{Space, bind_tcp, bind_udp, site::*, wait_for};
use etherparse::TcpHeader;
use socket2::{Domain, Protocol, Socket, Type};

/// What is sent while nobody stops it, at most.
const MOST: u64 = 20_000_000;
/// Packets a second unless told otherwise: many times what limits let begin, and no measure of the machine
const RATE: u64 = 20_000;
/// So many are sent at once.
const BURST: u64 = 100;
/// Connections that each of the others opens meanwhile
const CONNECTIONS: u32 = 200;
/// Exchanges on the connection that is there already
const EXCHANGES: u32 = 400;
/// How long one of these may take: a SYN that is lost is sent again after a second, and after two more.
const PATIENCE: Duration = Duration::from_secs(8);

const CALM: &str = r#"
[tenant.calm.network.lan]
vni = 5002
subnets = ["10.1.0.0/24"]
[tenant.calm.group.all]
ingress = [{ proto = "tcp", ports = 5432, from = "any" }]
egress = [{ to = "any" }]
[tenant.calm.endpoint.one]
network = "lan"
host = "alpha"
port = "veth-one"
mac = "02:00:00:00:00:31"
addresses = ["10.1.0.31"]
groups = ["all"]
[tenant.calm.endpoint.two]
network = "lan"
host = "beta"
port = "veth-two"
mac = "02:00:00:00:00:32"
addresses = ["10.1.0.32"]
groups = ["all"]
"#;

/// What a flood consists of: each packet begins another flow, and nobody answers.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Syn,
    Udp,
}

impl Kind {
    fn protocol(self) -> Protocol {
        match self {
            Self::Syn => Protocol::TCP,
            Self::Udp => Protocol::UDP,
        }
    }

    /// To a port that rules allow, from ever other ports
    fn packet(self, number: u32, from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
        let sport = 1024 + (number % 60_000) as u16;
        match self {
            // Nobody listens there, and the answer is nobody's.
            Self::Syn => {
                let mut syn = TcpHeader::new(sport, 5433, number, 64_240);
                syn.syn = true;
                syn.checksum = syn.calc_checksum_ipv4_raw(from.octets(), to.octets(), &[]).unwrap();
                syn.to_bytes().to_vec()
            }
            Self::Udp => [sport, ALLOWED, 8, 0].map(u16::to_be_bytes).concat(),
        }
    }
}

/// Sends packets of a kind until it is dropped.
struct Flood {
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    fn start(space: &Space, kind: Kind, from: Ipv4Addr, to: Ipv4Addr) -> Self {
        let (sent, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counter, end) = (sent.clone(), stop.clone());
        let rate = std::env::var("EASTGATE_FLOOD_RATE").map_or(RATE, |rate| rate.parse().unwrap());
        let thread = space.spawn(move || {
            let begun = Instant::now();
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(kind.protocol())).unwrap();
            let to_socket = SocketAddr::from((to, 0)).into();
            for number in 0..MOST as u32 {
                if end.load(SeqCst) {
                    break;
                }
                let _ = socket.send_to(&kind.packet(number, from, to), &to_socket);
                let sent = counter.fetch_add(1, SeqCst) + 1;
                if rate > 0 && sent.is_multiple_of(BURST) {
                    let due = Duration::from_secs_f64(sent as f64 / rate as f64);
                    std::thread::sleep(due.saturating_sub(begun.elapsed()));
                }
            }
        });
        Self { sent, stop, thread: Some(thread) }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Answers each byte with a byte, on any number of connections, as long as anyone asks.
fn serve(space: &Space, at: SocketAddr) {
    let listener = space.enter(move || bind_tcp(at));
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || echo(stream));
        }
    });
}

fn echo(mut stream: TcpStream) {
    let mut byte = [0];
    while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
}

fn exchange(stream: &mut TcpStream) -> bool {
    let mut byte = [7];
    stream.write_all(&byte).and_then(|()| stream.read_exact(&mut byte)).is_ok()
}

fn connect(to: SocketAddr) -> Option<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE).ok()?;
    stream.set_nodelay(true).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    Some(stream)
}

/// How many connections to `to` open and carry something, one each ten milliseconds.
fn opened(space: &Space, to: SocketAddr) -> JoinHandle<u32> {
    space.spawn(move || {
        let mut open = 0;
        for _ in 0..CONNECTIONS {
            open += u32::from(connect(to).is_some_and(|mut stream| exchange(&mut stream)));
            std::thread::sleep(Duration::from_millis(10));
        }
        open
    })
}

fn others_go_on(kind: Kind, dataplane: &str) {
    let Some(mut site) = Site::alone(HOSTS_V4) else { return };
    let (one, two) = (site.world.space("one"), site.world.space("two"));
    site.plug(&site.alpha, "veth-one", &one, 0x31);
    site.plug(&site.beta, "veth-two", &two, 0x32);
    site.rewrite(|text| text + CALM);
    let daemons = ["alpha", "beta"].map(|host| site.run_with(host, dataplane));
    let (db1, other) = (tcp(21, 5432), SocketAddr::from(([10, 1, 0, 32], 5432)));
    serve(&site.db1, db1);
    // It takes datagrams, and says nothing to them.
    let _silent = site.db1.enter(|| bind_udp(udp(21, ALLOWED)));
    serve(&two, other);

    let mut established = site.web1.enter(move || connect(db1)).expect("a connection before the flood");
    assert!(exchange(&mut established));
    let flood = Flood::start(&site.web2, kind, Ipv4Addr::new(10, 1, 0, 12), Ipv4Addr::new(10, 1, 0, 21));
    wait_for("the flood swells", || flood.sent.load(SeqCst) > 20_000);
    let neighbours = opened(&site.web1, db1);
    let calm = opened(&one, other);
    let mut exchanged = 0;
    for _ in 0..EXCHANGES {
        exchanged += u32::from(exchange(&mut established));
        std::thread::sleep(Duration::from_millis(5));
    }
    let (neighbours, calm) = (neighbours.join().unwrap(), calm.join().unwrap());
    let sent = flood.sent.load(SeqCst);
    drop(flood);
    println!(
        "{dataplane}: beside a flood ({kind:?}) of {sent}, of {EXCHANGES} exchanges {exchanged}, of {CONNECTIONS} connections of a neighbour {neighbours}, \
         of as many of another network {calm}"
    );
    let drops = daemons[0].drops();
    let limited = |reason: &str| drops.get(reason).copied().unwrap_or(0);
    assert!(limited("flow-limit") + limited("new-flow-limit") > 0, "a limit was met: {drops:?}");
    assert!(exchanged * 10 >= EXCHANGES * 9, "{exchanged} of {EXCHANGES} exchanges, {drops:?}");
    assert!(neighbours * 100 >= CONNECTIONS * 95, "{neighbours} of {CONNECTIONS} connections, {drops:?}");
    assert!(calm * 100 >= CONNECTIONS * 99, "{calm} of {CONNECTIONS} connections, {drops:?}");
}

#[test]
fn a_syn_flood_of_one_endpoint_harms_nobody_else_in_the_kernel() {
    others_go_on(Kind::Syn, "ebpf");
}

#[test]
fn a_syn_flood_of_one_endpoint_harms_nobody_else_in_userspace() {
    others_go_on(Kind::Syn, "userspace");
}

#[test]
fn a_udp_flood_of_one_endpoint_harms_nobody_else_in_the_kernel() {
    others_go_on(Kind::Udp, "ebpf");
}

#[test]
fn a_udp_flood_of_one_endpoint_harms_nobody_else_in_userspace() {
    others_go_on(Kind::Udp, "userspace");
}
