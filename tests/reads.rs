//! Who asks holds up nobody: while lists of very many flows and pages of metrics are made again and again, the daemon does what it has to within
//! a second.
//!
//! `EASTGATE_READS` says how many flows there are (200,000 unless it does; the promise is for 1,000,000).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{
    collections::HashSet,
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use common::{Daemon, Requester, Space, bind_udp, site::*, wait_within};

/// How soon the daemon must have done what it has to.
const PROMISED: Duration = Duration::from_secs(1);
/// How often it tells a service manager that it is alive.
const WATCHDOG: Duration = Duration::from_secs(1);
/// Clients that list at one time.
const LISTERS: usize = 16;
/// Destination ports that each source port sends to.
const PORTS: u16 = 4_000;
const FIRST_PORT: u16 = 10_000;

fn flows() -> u64 {
    std::env::var("EASTGATE_READS").ok().and_then(|flows| flows.parse().ok()).unwrap_or(200_000)
}

/// Clients that list all the time. They end when this is dropped.
struct Listers {
    over: Arc<AtomicBool>,
    lists: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Listers {
    fn start(socket: &Path) -> Self {
        let (over, lists) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let requests = [
            "GET /v1/flows",
            "GET /v1/flows?state=unreplied&endpoint=acme/web1",
            "GET /v1/policy",
            "GET /v1/endpoints",
        ];
        // More than may wait: some are told that the daemon is busy, and come again.
        let threads = (0..LISTERS).map(|number| {
            let request = requests.get(number).copied().unwrap_or(requests[0]);
            let (over, lists, socket) = (over.clone(), lists.clone(), socket.to_owned());
            thread::spawn(move || {
                let mut requester = Requester::new(&socket);
                while !over.load(SeqCst) {
                    let (status, answer) = requester.ask(request);
                    if answer.ends_with(b"\"code\":\"busy\"}\n") {
                        thread::sleep(Duration::from_millis(20));
                        continue;
                    }
                    assert_eq!(status, 200, "{request}");
                    lists.fetch_add(1, SeqCst);
                }
            })
        });
        let threads = threads.collect();
        Self { over, lists, threads }
    }
}

impl Drop for Listers {
    fn drop(&mut self) {
        self.over.store(true, SeqCst);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// Where metrics are served.
const METRICS: &str = "127.0.0.1:9473";

/// Scrapes metrics again and again. It ends when this is dropped.
struct Scraper {
    over: Arc<AtomicBool>,
    pages: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Scraper {
    fn start(space: &Space) -> Self {
        let (over, pages) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (ended, count) = (over.clone(), pages.clone());
        let thread = space.spawn(move || {
            while !ended.load(SeqCst) {
                let mut stream = TcpStream::connect(METRICS).unwrap();
                stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
                let mut page = String::new();
                stream.read_to_string(&mut page).unwrap();
                assert!(page.contains("\neastgate_flows{state=\"unreplied\"} "), "{page}");
                count.fetch_add(1, SeqCst);
                thread::sleep(Duration::from_millis(20));
            }
        });
        Self { over, pages, thread: Some(thread) }
    }
}

impl Drop for Scraper {
    fn drop(&mut self) {
        self.over.store(true, SeqCst);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(thread::panicking() || matches!(ended, Some(Ok(()))), "metrics are served all the time");
    }
}

/// A service manager that notes when the daemon says that it is alive.
struct Manager {
    beats: Arc<Mutex<Vec<Instant>>>,
    path: PathBuf,
}

impl Manager {
    fn start(site: &Site) -> Self {
        let path = site.world.path("notify.sock");
        let socket = UnixDatagram::bind(&path).unwrap();
        let beats = Arc::new(Mutex::new(Vec::new()));
        let noted = beats.clone();
        // It ends with the process: nothing of it is seen by anyone else.
        thread::spawn(move || {
            let mut text = [0; 256];
            while let Ok(len) = socket.recv(&mut text) {
                if text[..len].starts_with(b"WATCHDOG=1") {
                    noted.lock().unwrap().push(Instant::now());
                }
            }
        });
        Self { beats, path }
    }

    /// The longest silence since a time.
    fn longest_silence(&self, since: Instant) -> Duration {
        let beats = self.beats.lock().unwrap();
        let mut times: Vec<Instant> = beats.iter().copied().filter(|beat| *beat > since).collect();
        times.push(Instant::now());
        let gaps = std::iter::once(&since).chain(&times).zip(&times);
        gaps.map(|(from, to)| to.duration_since(*from)).max().unwrap_or_default()
    }
}

/// Limits for so many flows that nobody answers, which stay, and a place for one more endpoint.
fn make_room(site: &Site, flows: u64) {
    site.rewrite(|text| {
        let limits = format!("flows = {0}\nunreplied = {0}\n", 2 * flows);
        let text = text.replace("ports = [7000]", "ports = \"1024-65535\"");
        format!(
            "{text}\n[limits]\n{limits}\n[tenant.acme.network.lan.limits]\n{limits}endpoint_unreplied = {0}\n\
             [tenant.acme.network.lan.timeouts]\nudp_first = 86400\n\
             [tenant.acme.endpoint.web3]\nnetwork = \"lan\"\nhost = \"alpha\"\nport = \"veth-web3\"\n\
             mac = \"02:00:00:00:00:13\"\naddresses = [\"10.1.0.19\"]\ngroups = [\"all\"]\n",
            2 * flows
        )
    });
}

/// Sends datagrams of so many flows from web1 to web2 until as many are there.
fn fill(site: &Site, alpha: &Daemon, flows: u64) {
    let mut requester = Requester::new(alpha.socket());
    let mut there = || requester.timed("GET /v1/flows?limit=0&proto=17").0["total"].as_u64().unwrap();
    assert!(site.web1.ping("10.1.0.12"));
    for _ in 0..10 {
        site.web1.enter(move || {
            for source in 0..flows.div_ceil(u64::from(PORTS)) {
                let socket = bind_udp(udp(11, FIRST_PORT + source as u16));
                for port in 0..PORTS {
                    let _ = socket.send_to(b"x", udp(12, FIRST_PORT + port));
                    if port % 250 == 0 {
                        thread::sleep(Duration::from_millis(2));
                    }
                }
            }
        });
        if there() >= flows {
            return;
        }
    }
    panic!("only {} of {flows} flows: {:?}", there(), alpha.drops());
}

/// How long it takes until a device that is there is served.
fn new_port(site: &Site, requester: &mut Requester, dataplane: &str) -> Duration {
    site.alpha.ip("link add veth-web3 type veth peer name veth-web3p");
    let begun = Instant::now();
    wait_within(10 * PROMISED, "the new port is served", || {
        let (status, _) = requester.timed("GET /v1/status");
        let port = status["ports"].as_array().unwrap().iter().find(|port| port["name"] == "veth-web3");
        port.unwrap()["state"] == "down"
    });
    let took = begun.elapsed();
    match dataplane {
        "ebpf" => site.assert_programmed("veth-web3"),
        _ => site.assert_guarded("veth-web3"),
    }
    site.alpha.ip("link del veth-web3");
    took
}

fn in_time(what: &str, took: Duration, bound: Duration) {
    assert!(took < bound, "{what} took {} ms", took.as_millis());
}

fn lists_delay_nothing(dataplane: &str) {
    let flows = flows();
    let Some(site) = Site::alone(HOSTS_V4) else { return };
    make_room(&site, flows);
    let manager = Manager::start(&site);
    let notify = format!("NOTIFY_SOCKET={}", manager.path.display());
    let options = ["--dataplane", dataplane, "--workers", "1", "--metrics", METRICS];
    let alpha =
        Daemon::start_with_environment(&site.world, &site.alpha, &site.config, "alpha", &[&notify], &options);
    fill(&site, &alpha, flows);

    let listers = Listers::start(alpha.socket());
    let scraper = Scraper::start(&site.alpha);
    let begun = Instant::now();
    let mut requester = Requester::new(alpha.socket());
    let (mut status, mut reload, mut port) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    for round in 0..10 {
        for _ in 0..20 {
            let took = requester.timed("GET /v1/status").1;
            in_time("status", took, PROMISED);
            status = status.max(took);
        }
        site.rewrite(|text| match round % 2 {
            0 => text.replace("\"5432-5433\"", "\"5432-5434\""),
            _ => text.replace("\"5432-5434\"", "\"5432-5433\""),
        });
        let (done, took) = requester.timed("POST /v1/reload");
        assert_eq!(done["changes"]["rules"]["changed"].as_array().map(Vec::len), Some(1), "{done:#}");
        in_time("a reload", took, PROMISED);
        reload = reload.max(took);
        let took = new_port(&site, &mut requester, dataplane);
        in_time("a new port", took, PROMISED);
        port = port.max(took);
    }
    // Nothing else is left to do but lists.
    wait_within(60 * PROMISED, "lists are answered all the time", || {
        listers.lists.load(SeqCst) >= 20 && scraper.pages.load(SeqCst) >= 10
    });
    thread::sleep(3 * WATCHDOG);
    let silence = manager.longest_silence(begun);
    let lists = listers.lists.load(SeqCst);
    println!(
        "{dataplane}: {lists} lists of {flows} flows and {} pages of metrics in {:.1} s; at worst: status {} ms, reload {} ms, new port {} ms, \
         watchdog after {} ms",
        scraper.pages.load(SeqCst),
        begun.elapsed().as_secs_f64(),
        status.as_millis(),
        reload.as_millis(),
        port.as_millis(),
        silence.as_millis()
    );
    drop((listers, scraper));
    in_time("the watchdog", silence, WATCHDOG + PROMISED);
    pages_are_the_whole(&alpha, flows);
    assert!(alpha.stop().success());
}

/// One answer after the other has every flow once.
fn pages_are_the_whole(alpha: &Daemon, flows: u64) {
    let mut requester = Requester::new(alpha.socket());
    let (mut seen, mut after, mut pages) = (HashSet::new(), None::<String>, 0);
    loop {
        let filter = after.map_or_else(String::new, |after| format!("&after={after}"));
        let (page, _) = requester.timed(&format!("GET /v1/flows?proto=17{filter}"));
        let rows = page["flows"].as_array().unwrap();
        assert!(rows.len() <= 50_000);
        pages += 1;
        for row in rows {
            assert!(seen.insert((row["sport"].as_u64().unwrap(), row["dport"].as_u64().unwrap())), "{row}");
        }
        let total = page["total"].as_u64().unwrap();
        assert!(total >= flows);
        after = page["next"].as_str().map(str::to_owned);
        if after.is_none() {
            assert_eq!(seen.len() as u64, total);
            break;
        }
    }
    assert!(pages >= flows / 50_000, "{pages} pages");
}

#[test]
fn lists_delay_nothing_in_userspace() {
    lists_delay_nothing("userspace");
}

#[test]
fn lists_delay_nothing_with_the_fast_path() {
    lists_delay_nothing("ebpf");
}
