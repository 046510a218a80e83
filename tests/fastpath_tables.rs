//! The fast path's tables in earnest: where they are pinned and how much fits into them, what may be punted beside a flood,
//! what is counted, and which answers are given again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{
    io::Read,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use common::{
    BOUND, BpfFs, CAPABILITIES, Daemon, Dialogue, EASTGATE, Machine, Sink, Space, bind_udp, running::*,
    settle, site::*, wait_for, wait_within,
};

#[test]
fn pins_that_someone_takes_away_are_made_again() {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let bpffs = BpfFs::mount(site.world.path("bpffs"));
    let alpha = site.run_more("alpha", &["--dataplane", "ebpf", "--pin", bpffs.0.to_str().unwrap()]);
    let folder = std::fs::read_dir(&bpffs.0).unwrap().next().unwrap().unwrap().path();
    let made_again = |times: u64| alpha.ask(&["status"])["restored"]["files"] == times;
    std::fs::remove_file(folder.join("flows")).unwrap();
    wait_within(SOON, "one of them is made again, and counted", || made_again(1));
    assert_eq!(bpffs.entries(), (1, 8));
    std::fs::remove_dir_all(&folder).unwrap();
    wait_within(SOON, "all of them are made again, and counted", || made_again(2));
    assert_eq!(bpffs.entries(), (1, 8));
    assert!(alpha.stop().success());
    assert_eq!(bpffs.entries(), (0, 0), "after a stop");
}

/// Who chooses addresses and ports cannot tell where they lie in a table: the kernel keys the hash of each by a number of its own,
/// unless it is told not to (BPF_F_ZERO_SEED).
#[test]
fn the_kernel_keys_the_hash_of_every_table() {
    // Hashes of all kinds: plain and LRU, of a processor's own, and of maps
    const HASH: [&str; 5] = ["1", "5", "9", "10", "13"];
    const ZERO_SEED: u32 = 1 << 6;
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let alpha = site.run_with("alpha", "ebpf");
    let folder = format!("/proc/{}/fdinfo", alpha.pid());
    let mut tables = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let Ok(text) = std::fs::read_to_string(entry.unwrap().path()) else { continue };
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
            line.map(str::to_owned)
        };
        if field("map_type").is_some_and(|kind| HASH.contains(&&*kind)) {
            let flags = field("map_flags").unwrap();
            let flags = u32::from_str_radix(flags.trim_start_matches("0x"), 16).unwrap();
            assert_eq!(flags & ZERO_SEED, 0, "{text}");
            tables += 1;
        }
    }
    assert!(tables >= 8, "{tables} tables by hash");
}

#[test]
fn with_pinned_tables_flows_are_taken_over_without_more_capabilities() {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let before = Machine::of(&site.alpha);
    let bpffs = BpfFs::mount(site.world.path("bpffs"));
    let pin = bpffs.0.to_str().unwrap();
    let start = || {
        let options = ["--dataplane", "ebpf", "--pin", pin];
        Daemon::start_with(&site.world, &site.alpha, &site.config, "alpha", &CAPABILITIES, &options)
    };
    let beta = site.run_with("beta", "ebpf");
    let alpha = start();
    assert_eq!(bpffs.entries(), (1, 8));
    let flows = Flows::start(&site);
    let dialogue = Dialogue::start(&site.web1, (&site.db1, tcp(21, 5432)));
    flows.allowed_arrive("at first");
    dialogue.goes_on("at first");
    wait_within(SOON, "flows are offloaded", || all_carried_in_the_kernel(&alpha));
    let from = flows.allowed.each_ref().map(|(stream, sink)| {
        stream.arrives("what is counted from here on", sink);
        let count = sink.count();
        (sink.last(), count)
    });
    let mut alpha = alpha;
    for _ in 0..2 {
        alpha.kill();
        flows.allowed_arrive("without a daemon");
        alpha = start();
        assert_eq!(bpffs.entries(), (1, 8));
        flows.allowed_arrive("taken over");
        dialogue.goes_on("taken over");
        wait_within(SOON, "flows are offloaded", || all_carried_in_the_kernel(&alpha));
    }
    let log = alpha.log();
    assert_eq!(log.matches("the programs of the daemon before go on").count(), 2, "{log}");
    flows.denied_never_arrived();
    let Flows { allowed, denied } = flows;
    for ((stream, sink), (first, count)) in allowed.into_iter().zip(from) {
        let sent = stream.finish() - first;
        let arrived = settle(|| sink.count() - count, |arrived| *arrived >= sent);
        assert!(arrived >= sent, "{arrived} of {sent} arrived, the first gaps: {:?}", sink.gaps());
    }
    drop((denied, dialogue, beta));

    let socket = alpha.socket().to_owned();
    assert!(alpha.stop().success());
    assert_eq!(bpffs.entries(), (0, 0), "after a stop");
    assert_eq!(before.changes(&Machine::of(&site.alpha)), Vec::<String>::new());
    start().kill();
    assert_eq!(bpffs.entries(), (1, 8), "after a kill");
    site.run_with("alpha", "userspace").kill();
    assert_eq!(bpffs.entries(), (0, 0), "nobody uses the tables");
    start().kill();
    let undone = site.alpha.command(EASTGATE).arg("teardown").arg("--socket").arg(&socket).output().unwrap();
    assert!(undone.status.success(), "{undone:?}");
    assert_eq!(bpffs.entries(), (0, 0), "after a teardown");
    assert_eq!(before.changes(&Machine::of(&site.alpha)), Vec::<String>::new());
}

#[test]
fn tables_are_pinned_on_a_bpffs_or_not_at_all() {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let folder = site.world.path("plain");
    std::fs::create_dir(&folder).unwrap();
    let mut run = site.alpha.command(EASTGATE);
    run.args(["run", "--host", "alpha", "--config"]).arg(&site.config).arg("--socket");
    let refused = run.arg(site.world.path("alpha.sock")).arg("--pin").arg(&folder).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("mount -t bpf bpf {}", folder.display())), "{said}");
    assert!(!site.world.path("alpha.sock").exists());
}

#[test]
fn tables_have_the_configured_size_and_keep_it_as_long_as_flows() {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    site.rewrite(|text| format!("[fastpath]\nattachments = 1\n{text}"));
    let served =
        |alpha: &Daemon| ["veth-web1", "veth-web2"].map(|port| alpha.port_state(port) == "forwarding");
    let alpha = site.run_with("alpha", "ebpf");
    assert_eq!(served(&alpha).iter().filter(|served| **served).count(), 1, "of one that there is room for");
    assert!(!alpha.log().contains("keeps its size"), "{}", alpha.log());
    site.rewrite(|text| text.replace("attachments = 1\n", "attachments = 2\n"));
    assert!(alpha.run(&["reload"]).status.success());
    assert_eq!(alpha.log().matches("keeps its size").count(), 1, "{}", alpha.log());
    alpha.kill();
    let alpha = site.run_with("alpha", "ebpf");
    assert_eq!(alpha.log().matches("keeps its size").count(), 2, "{}", alpha.log());
    assert_eq!(served(&alpha).iter().filter(|served| **served).count(), 1);
    assert!(alpha.stop().success());
    let alpha = site.run_with("alpha", "ebpf");
    assert_eq!(served(&alpha), [true; 2]);
    assert_eq!(alpha.log().matches("keeps its size").count(), 2, "{}", alpha.log());
}

/// Ends when it is dropped.
struct Flood {
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Flood {
    /// What a flood may come to that nobody stops: a quarter of a minute of it.
    const MOST: u64 = 5_000_000;

    /// The same datagram over and over, as fast as one core can.
    fn start(space: &Space, from: SocketAddr, to: SocketAddr, datagram: Vec<u8>) -> Self {
        let (sent, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counter, end) = (sent.clone(), stop.clone());
        let thread = space.spawn(move || {
            let socket = bind_udp(from);
            while !end.load(SeqCst) && counter.fetch_add(1, SeqCst) < Self::MOST {
                let _ = socket.send_to(&datagram, to);
            }
        });
        Self { sent, stop, thread: Some(thread) }
    }

    fn comes_to(&self, count: u64) {
        wait_for("a flood swells", || self.sent.load(SeqCst) >= count);
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// Whether machine `to` answers a hundred questions for its time (ICMP timestamp, RFC 792), each at the first try: they
/// are punted with each packet, for echoes alone are carried by the programs.
fn timestamps(from: &Space, to: u8) -> bool {
    use socket2::{Domain, Protocol, Socket, Type};
    const QUESTION: u8 = 13;
    const ANSWER: u8 = 14;
    from.enter(move || {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).unwrap();
        socket.set_read_timeout(Some(BOUND)).unwrap();
        (0..100_u8).all(|number| {
            let mut question = vec![0; 20];
            (question[0], question[7]) = (QUESTION, number);
            let sum = !(u16::from(QUESTION) << 8).wrapping_add(u16::from(number));
            question[2..4].copy_from_slice(&sum.to_be_bytes());
            socket.send_to(&question, &SocketAddr::from(([10, 1, 0, to], 0)).into()).unwrap();
            let mut room = [0; 128];
            loop {
                let Ok(length) = (&socket).read(&mut room) else { return false };
                // Behind an IP header without options
                if length >= 28 && room[20] == ANSWER && room[27] == number {
                    return true;
                }
            }
        })
    })
}

/// Frames dropped on their way up, by network.
fn limited(daemon: &Daemon, vni: Option<u64>) -> u64 {
    let rows = daemon.ask(&["show", "drops"]);
    let rows = rows["drops"].as_array().unwrap().iter();
    let rows = rows.filter(|row| row["reason"] == "slow-path-limit" && row["vni"].as_u64() == vni);
    rows.map(|row| row["frames"].as_u64().unwrap()).sum()
}

#[test]
fn a_flood_of_one_tenant_does_not_keep_others_from_the_pipeline() {
    const FLOODER: u64 = 5002;
    let Some(site) = Site::new(HOSTS_V4) else { return };
    // web2 becomes another tenant's.
    site.rewrite(|text| {
        text.replace(
            "[tenant.acme.endpoint.web2]",
            "[tenant.rude.network.lan]\nvni = 5002\nsubnets = [\"10.1.0.0/24\"]\nhosts = [\"beta\"]\n\
             slow_path_limit = 1000\n[tenant.rude.group.all]\negress = [{ to = \"any\" }]\n\
             [tenant.rude.endpoint.web2]",
        )
        .replace("\"10.1.0.12\", \"fd00:1::12\"", "\"10.1.0.12\"")
    });
    // One worker for all of them.
    let alpha = site.run_more("alpha", &["--dataplane", "ebpf", "--workers", "1"]);
    let beta = site.run_with("beta", "ebpf");
    assert!(timestamps(&site.web1, 21), "at first");
    assert!(!carried_in_the_kernel(&alpha), "{:?}", alpha.ask(&["show", "flows"]));

    site.web2.ip("neigh add 10.1.0.99 lladdr 02:00:00:00:00:99 dev eth0 nud permanent");
    let flood = Flood::start(&site.web2, udp(12, 9000), udp(99, 9), vec![0; 18]);
    flood.comes_to(20_000);
    assert!(timestamps(&site.web1, 21), "beside a flood from a port: {:?}", alpha.drops());
    assert!(timestamps(&site.db1, 11), "beside a flood from a port: {:?}", alpha.drops());
    drop(flood);
    let from_port = limited(&alpha, Some(FLOODER));
    assert!(from_port > 10_000, "{from_port} frames were dropped");

    // From a VTEP, with a checksum, as other VTEPs write it.
    let datagram = [&[8, 0, 0, 0, 0, 0x13, 0x8a, 0][..], &[0xff; 60]].concat();
    let vtep = |number: u8, port: u16| SocketAddr::from(([192, 0, 2, number], port));
    let flood = Flood::start(&site.beta, vtep(2, 44_789), vtep(1, 4789), datagram);
    flood.comes_to(20_000);
    assert!(timestamps(&site.web1, 21), "beside a flood from the tunnel: {:?}", alpha.drops());
    drop(flood);
    assert!(limited(&alpha, Some(FLOODER)) > from_port + 10_000, "{:?}", alpha.drops());
    assert_eq!((limited(&alpha, Some(5001)), limited(&alpha, None)), (0, 0));
    drop(beta);
}

#[test]
fn what_the_programs_carry_is_counted_while_it_goes_on() {
    let Some(running) = Running::start() else { return };
    let flows = Flows::start(&running.site);
    flows.allowed_arrive("at first");
    running.wait_until_carried();
    let daemon = running.daemons[0].as_ref().unwrap();
    let counts = || {
        let rows = daemon.ask(&["show", "endpoints"]);
        let rows = rows["endpoints"].as_array().unwrap().iter().filter(|row| row["host"] == "alpha");
        rows.fold([0, 0], |[tx, rx], row| {
            [tx + row["tx_frames"].as_u64().unwrap(), rx + row["rx_frames"].as_u64().unwrap()]
        })
    };
    let sent = || flows.allowed.iter().chain(&flows.denied).map(|(stream, _)| stream.sent()).sum::<u64>();
    let (sent_before, before) = (sent(), counts());
    for (stream, sink) in &flows.allowed {
        stream.send_more(500);
        stream.arrives("what is counted", sink);
    }
    assert!(carried_in_the_kernel(daemon));
    let after = counts();
    // Twice 500 at least, and nothing twice; what else a machine sends is little.
    let (counted, most) = (after[0] - before[0], sent() - sent_before + 50);
    assert!((1000..=most).contains(&counted), "{counted} of {most} at most: {before:?} {after:?}");
    drop(flows);
    running.stop();
}

#[test]
fn pairs_that_never_met_are_decided_in_the_kernel_by_both_hosts() {
    const DATAGRAMS: u64 = 5;
    let Some(running) = Running::start() else { return };
    let site = &running.site;
    // The first flow of a network brings the places that others begin on.
    assert!(site.web1.ping("10.1.0.12") && site.web1.ping("10.1.0.21"));
    let address = |number: u8, port: u16| SocketAddr::from(([10, 1, 0, number], port));
    let say = |from: (&Space, u8), port: u16| {
        let own = address(from.1, 4000);
        from.0.enter(move || {
            let socket = bind_udp(own);
            for _ in 0..DATAGRAMS {
                socket.send_to(b"nobody has said this before", address(21, port)).unwrap();
            }
        });
    };
    // Someone listens: what nobody hears is answered by an error, which is for the pipeline, and the flow with it.
    let _sink = Sink::start(&site.db1, address(21, ALLOWED));
    say((&site.web2, 12), ALLOWED);
    for daemon in running.daemons.iter().flatten() {
        wait_for("the flow is in the kernel, too soon to have been handed over", || {
            let rows = daemon.ask(&["show", "flows", "--proto", "udp"]);
            let rows = rows["flows"].as_array().unwrap();
            let carried = rows.iter().filter(|row| row["dport"] == ALLOWED && row["offloaded"] == true);
            carried.map(|row| row["packets"].as_u64().unwrap()).sum::<u64>() == DATAGRAMS
        });
    }
    let denied = |daemon: &Daemon| {
        let rows = daemon.ask(&["show", "drops"]);
        let rows = rows["drops"].as_array().unwrap().iter();
        rows.filter(|row| row["reason"] == "ingress-denied").cloned().collect::<Vec<_>>()
    };
    say((&site.web2, 12), DENIED);
    let beta = running.daemons[1].as_ref().unwrap();
    wait_for("each denied datagram is counted", || {
        denied(beta).iter().map(|row| row["frames"].as_u64().unwrap()).sum::<u64>() == DATAGRAMS
    });
    let row = &denied(beta)[0];
    assert_eq!(row["from"], "192.0.2.1", "{row:#}");
    assert_eq!(row["rule"], "default deny: no rule of acme/all allows it", "{row:#}");
    assert_eq!(row["last"], format!("udp 10.1.0.12:4000 -> 10.1.0.21:{DENIED}"), "{row:#}");
    running.stop();
}

/// Web2 on the same host and db1 on the other one, in both families.
const NEIGHBORS: [&str; 4] = ["10.1.0.12", "fd00:1::12", "10.1.0.21", "fd00:1::21"];

/// How long a machine is waited for that may be told nothing: as long as it asks only once.
const ONCE: Duration = Duration::from_millis(700);

/// A machine forgets its neighbours, sends to one of them, and has to ask who that is. What it is told.
fn resolve_anew(machine: &Space, address: &str) -> Option<String> {
    resolve_within(BOUND, machine, address)
}

fn resolve_within(bound: Duration, machine: &Space, address: &str) -> Option<String> {
    machine.ip("neigh flush dev eth0");
    let to = SocketAddr::new(address.parse().unwrap(), ALLOWED);
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    machine.enter(move || bind_udp(any).send_to(b"who?", to).unwrap());
    let begun = Instant::now();
    let mut asks_again = begun;
    while begun.elapsed() < bound {
        // The kernel gives up after three requests, of which a busy machine may lose all.
        if asks_again.elapsed() > 5 * ONCE {
            asks_again = Instant::now();
            machine.enter(move || bind_udp(any).send_to(b"who?", to).unwrap());
        }
        let known = machine.ip(&format!("-j neigh show to {address} dev eth0"));
        let known: serde_json::Value = serde_json::from_str(&known).unwrap();
        if let Some(mac) = known[0]["lladdr"].as_str() {
            return Some(mac.to_owned());
        }
    }
    None
}

/// Answers that the programs gave again.
fn repeated(daemon: &Daemon) -> u64 {
    daemon.ask(&["status"])["traffic"]["answers_repeated"].as_u64().unwrap()
}

fn neighbors_are_told_by_the_kernel(mode: &str) {
    let Some(site) = Site::alone(HOSTS_V4) else { return };
    site.rewrite(|text| text.replace("vni = 5001", &format!("vni = 5001\nneighbors = \"{mode}\"")));
    let alpha = site.run_with("alpha", "ebpf");
    let told = NEIGHBORS.map(|address| {
        let told = resolve_anew(&site.web1, address).expect("the pipeline answers");
        assert_eq!(told.starts_with("02:00:00:00:00:"), mode == "suppress", "{told} in mode {mode}");
        let before = repeated(&alpha);
        assert_eq!(resolve_anew(&site.web1, address).as_ref(), Some(&told), "{address} in mode {mode}");
        assert!(repeated(&alpha) > before, "nobody repeated the answer for {address} in mode {mode}");
        told
    });
    let answers = &alpha.ask(&["status"])["traffic"]["answers"];
    assert!(answers.as_u64().unwrap() >= repeated(&alpha) + 4, "{answers}");

    alpha.kill();
    for (address, told) in NEIGHBORS.iter().zip(&told) {
        assert_eq!(resolve_anew(&site.web1, address).as_ref(), Some(told), "{address} without a daemon");
    }
    assert_eq!(resolve_within(ONCE, &site.web2, "10.1.0.21"), None, "web2 has asked nobody who could decide");
    assert!(resolve_anew(&site.web1, NEIGHBORS[0]).is_some());
    let more = 1 + (0..20).take_while(|_| resolve_within(ONCE, &site.web1, NEIGHBORS[0]).is_some()).count();
    assert!((1..8).contains(&more), "{more} more answers with the tokens that were granted for 8");

    let alpha = site.run_with("alpha", "ebpf");
    assert_eq!(repeated(&alpha), 0);
    for (address, told) in NEIGHBORS.iter().zip(&told) {
        assert_eq!(resolve_anew(&site.web1, address).as_ref(), Some(told), "{address} under the next daemon");
    }
}

#[test]
fn a_neighbor_that_was_told_is_told_again_by_the_kernel_with_a_daemon_and_without() {
    for mode in ["suppress", "proxy"] {
        neighbors_are_told_by_the_kernel(mode);
    }
}
