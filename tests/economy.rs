//! Limits of flows while thousands come and go, on real kernels: nobody is refused, and what is in use stays.
//!
//! `EASTGATE_ECONOMY_SECONDS` makes the run with the default limits as long as that (`cargo xtask soak`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use common::{BOUND, Daemon, Space, bind_tcp, bind_udp, site::*, wait_for};

const HELLO: [u8; 64] = [b'?'; 64];
/// How long a thread sleeps before it looks whether it is over.
const TICK: Duration = Duration::from_millis(50);
/// Both families of db1
const SERVER_V6: &str = "[fd00:1::21]:5432";
const SERVER_V6_IDLE: &str = "[fd00:1::21]:5433";

/// How much comes and goes: until so many of each, or for so long.
#[derive(Clone, Copy)]
struct Load {
    each: u64,
    /// Connections a second, and exchanges
    rate: u32,
}

/// Ends its threads when it is dropped.
struct Servers {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Servers {
    /// db1 takes connections, answers once and closes, and answers datagrams.
    fn start(site: &Site) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for port in [5432, 5433] {
            let over = over.clone();
            threads.push(site.db1.spawn(move || {
                let listener = bind_tcp((Ipv4Addr::UNSPECIFIED, port));
                listener.set_nonblocking(true).unwrap();
                while !over.load(SeqCst) {
                    let Ok((mut stream, _)) = listener.accept() else {
                        thread::sleep(Duration::from_micros(200));
                        continue;
                    };
                    stream.set_nonblocking(false).unwrap();
                    stream.set_read_timeout(Some(BOUND)).unwrap();
                    let _ = stream.read_exact(&mut [0; HELLO.len()]).and_then(|()| stream.write_all(&HELLO));
                }
            }));
        }
        let answering = over.clone();
        threads.push(site.db1.spawn(move || {
            let socket = bind_udp((Ipv4Addr::UNSPECIFIED, ALLOWED));
            socket.set_read_timeout(Some(TICK)).unwrap();
            let mut buffer = [0; 128];
            while !answering.load(SeqCst) {
                if let Ok((len, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&buffer[..len], from);
                }
            }
        }));
        Self { over, threads }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.over.store(true, SeqCst);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// A connection that nothing passes on.
struct Idle(TcpStream, TcpStream);

impl Idle {
    fn open(site: &Site) -> Self {
        let to: SocketAddr = SERVER_V6_IDLE.parse().unwrap();
        let listener = site.db1.enter(move || bind_tcp(to));
        let client = site.web1.enter(move || TcpStream::connect_timeout(&to, BOUND).unwrap());
        Self(client, listener.accept().unwrap().0)
    }

    fn speaks(&mut self) {
        for (from, to) in [(0, 1), (1, 0)] {
            let ends = [&mut self.0, &mut self.1];
            ends[to].set_read_timeout(Some(BOUND)).unwrap();
            ends[from].write_all(&HELLO).unwrap();
            ends[to].read_exact(&mut [0; HELLO.len()]).unwrap();
        }
    }
}

/// A connection on which megabytes pass each second.
struct Bulk {
    over: Arc<AtomicBool>,
    arrived: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Bulk {
    fn start(site: &Site) -> Self {
        let to: SocketAddr = SERVER_V6.parse().unwrap();
        let (over, arrived) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let listener = site.db1.enter(move || bind_tcp(to));
        let (sending, counting, count) = (over.clone(), over.clone(), arrived.clone());
        let sender = site.web1.spawn(move || {
            let mut stream = TcpStream::connect_timeout(&to, BOUND).unwrap();
            stream.set_write_timeout(Some(TICK)).unwrap();
            while !sending.load(SeqCst) {
                let _ = stream.write(&[7; 1 << 14]);
                thread::sleep(Duration::from_millis(5));
            }
        });
        let receiver = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(TICK)).unwrap();
            let mut buffer = vec![0; 1 << 16];
            while !counting.load(SeqCst) {
                count.fetch_add(stream.read(&mut buffer).unwrap_or(0) as u64, SeqCst);
            }
        });
        Self { over, arrived, threads: vec![sender, receiver] }
    }

    fn goes_on(&self, when: &str) {
        let enough = self.arrived.load(SeqCst) + (1 << 17);
        wait_for(&format!("the bulk stream goes on {when}"), || self.arrived.load(SeqCst) >= enough);
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        self.over.store(true, SeqCst);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// Does `once` as often as the load says, no faster. How often it failed.
fn paced(space: &Space, load: Load, once: impl Fn(u64) -> bool + Send + 'static) -> JoinHandle<u64> {
    space.spawn(move || {
        let begun = Instant::now();
        (0..load.each).fold(0, |failed, n| {
            let ahead = Duration::from_secs(n) / load.rate;
            thread::sleep(ahead.saturating_sub(begun.elapsed()));
            failed + u64::from(!once(n))
        })
    })
}

fn connect(n: u64) -> bool {
    let to = tcp(21, 5432 + (n % 2) as u16);
    let Ok(mut stream) = TcpStream::connect_timeout(&to, BOUND) else { return false };
    stream.set_read_timeout(Some(BOUND)).unwrap();
    let mut answer = Vec::new();
    stream.write_all(&HELLO).is_ok() && stream.read_to_end(&mut answer).is_ok() && answer == HELLO
}

/// One that a busy machine loses is asked for again; one that is refused is refused again.
fn ask(_: u64) -> bool {
    let socket = bind_udp((Ipv4Addr::UNSPECIFIED, 0));
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    socket.connect(udp(21, ALLOWED)).unwrap();
    let mut buffer = [0; 128];
    (0..10).any(|_| socket.send(&HELLO).is_ok() && socket.recv(&mut buffer).is_ok())
}

/// Connections and exchanges come and go between three machines on two hosts.
fn churn(site: &Site, daemons: &[Daemon], load: Load) {
    for space in [&site.web1, &site.web2, &site.db1] {
        space.set("net/ipv4/ip_local_port_range", "10000 65000");
    }
    let _servers = Servers::start(site);
    let mut idle = Idle::open(site);
    let bulk = Bulk::start(site);
    bulk.goes_on("at first");
    idle.speaks();
    let half = Load { each: load.each / 2, rate: (load.rate / 2).max(1) };
    let clients =
        [&site.web1, &site.web2].map(|space| (paced(space, half, connect), paced(space, half, ask)));
    for (connections, exchanges) in clients {
        assert_eq!(connections.join().unwrap(), 0, "connections were refused: {}", told(daemons));
        assert_eq!(exchanges.join().unwrap(), 0, "exchanges were refused: {}", told(daemons));
    }
    idle.speaks();
    bulk.goes_on("at last");
}

fn told(daemons: &[Daemon]) -> String {
    daemons
        .iter()
        .map(|daemon| format!("{:?} {}\n", daemon.drops(), daemon.ask(&["status"])["flows"]))
        .collect()
}

/// Nobody was refused for a limit.
fn none_refused(daemons: &[Daemon]) {
    for daemon in daemons {
        assert_eq!(daemon.drops().get("flow-limit"), None, "{}", told(daemons));
    }
}

fn made_room(daemon: &Daemon, rank: &str) -> u64 {
    daemon.ask(&["status"])["flows"]["made_room"][rank].as_u64().unwrap()
}

fn small_limits(dataplane: &str) {
    const FLOWS: u64 = 400;
    let Some(site) = Site::alone(HOSTS_V4) else { return };
    site.rewrite(|text| {
        format!("{text}\n[tenant.acme.network.lan.limits]\nflows = {FLOWS}\nunreplied = 100\n")
    });
    let daemons = ["alpha", "beta"].map(|name| site.run_with(name, dataplane));
    churn(&site, &daemons, Load { each: 4000, rate: 1500 });
    none_refused(&daemons);
    for daemon in &daemons {
        let flows = daemon.ask(&["status"])["flows"].clone();
        assert!(flows["replied"].as_u64().unwrap() <= FLOWS, "{flows}");
        wait_for("those that made room are counted", || {
            made_room(daemon, "finished") > 500 && made_room(daemon, "exchange") > 500
        });
        assert_eq!((made_room(daemon, "connection"), made_room(daemon, "stream")), (0, 0));
    }
    daemons.into_iter().for_each(|daemon| assert!(daemon.stop().success()));
}

#[test]
fn what_is_over_makes_room_in_the_kernel() {
    small_limits("ebpf");
}

#[test]
fn what_is_over_makes_room_in_userspace() {
    small_limits("userspace");
}

/// An endpoint that opens connections and keeps them comes to its own limit; another of its network does not notice.
fn own_limit(dataplane: &str) {
    own_limit_by(dataplane, "endpoint_flows = 10\nendpoint_unreplied = 10\n");
    own_limit_by(dataplane, "[tenant.acme.endpoint.web1.limits]\nflows = 10\nunreplied = 10\n");
}

/// web1's limit is written behind its network's: as that of any endpoint, or as its own.
fn own_limit_by(dataplane: &str, written: &str) {
    let Some(site) = Site::alone(HOSTS_V4) else { return };
    let network = "[tenant.acme.network.lan.limits]\nflows = 40\nunreplied = 40\n";
    site.rewrite(|text| format!("{text}\n{network}{written}"));
    let daemons = ["alpha", "beta"].map(|name| site.run_with(name, dataplane));
    let at = tcp(21, 5432);
    let listener = site.db1.enter(move || bind_tcp(at));
    let accepted =
        thread::spawn(move || listener.incoming().map_while(Result::ok).take(11).collect::<Vec<_>>());
    let greedy = site.web1.enter(move || {
        let open = |_| TcpStream::connect_timeout(&at, BOUND).unwrap();
        (0..10).map(open).collect::<Vec<_>>()
    });
    // The handshake of the next one does not come to its end where it is tracked, so that nothing of it arrives.
    let one_more = site.web1.enter(move || {
        let stream = TcpStream::connect_timeout(&at, BOUND);
        stream.and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_millis(500)))?;
            stream.write_all(&HELLO)?;
            Ok(stream)
        })
    });
    wait_for("one more is refused", || daemons[0].drops().contains_key("flow-limit"));
    let other = site.web2.enter(move || TcpStream::connect_timeout(&at, BOUND).unwrap());
    let refused = daemons[0].drops()["flow-limit"];
    let mut other = other;
    other.write_all(&HELLO).unwrap();
    let flows = daemons[0].ask(&["show", "flows"]);
    let replied = |from: &str| {
        let rows = flows["flows"].as_array().unwrap();
        rows.iter().filter(|flow| flow["src"] == from && flow["state"] == "established").count()
    };
    assert_eq!((replied("10.1.0.11"), replied("10.1.0.12")), (10, 1), "{flows}");
    assert!(refused > 0);
    drop((greedy, one_more, other));
    drop(daemons);
    drop(site);
    drop(accepted.join());
}

#[test]
fn an_endpoint_comes_to_its_own_limit_in_the_kernel() {
    own_limit("ebpf");
}

#[test]
fn an_endpoint_comes_to_its_own_limit_in_userspace() {
    own_limit("userspace");
}

#[test]
fn three_thousand_exchanges_and_connections_a_second_on_default_limits() {
    let Some(seconds) = std::env::var("EASTGATE_ECONOMY_SECONDS").ok().and_then(|it| it.parse::<u64>().ok())
    else {
        return eprintln!("skipped: EASTGATE_ECONOMY_SECONDS says for how long, `cargo xtask soak` does");
    };
    const RATE: u32 = 3000;
    let Some(site) = Site::alone(HOSTS_V4) else { return };
    let daemons = ["alpha", "beta"].map(|name| site.run_with(name, "ebpf"));
    let begun = Instant::now();
    churn(&site, &daemons, Load { each: seconds * u64::from(RATE), rate: RATE });
    println!("{:.1} s for {seconds}; {}", begun.elapsed().as_secs_f64(), told(&daemons));
    none_refused(&daemons);
}
