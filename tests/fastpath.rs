//! The fast path in earnest: what becomes of its flows when the daemon is killed and started again, when policy, ports
//! and underlay change.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{
    net::{SocketAddr, UdpSocket},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use common::{
    Daemon, Dialogue, EASTGATE, Machine, Sink, Space, Stream, Transfer, bulk, hub::Hub, site::*, wait_for,
    wait_within,
};

/// Refused, and many.
const FLOODED: u16 = 7002;

fn tcp(number: u8, port: u16) -> SocketAddr {
    udp(number, port)
}

/// Whether every flow of datagrams is with the programs. A connection that comes up at the wrong moment is picked up by
/// the next daemon; a datagram is lost.
fn all_carried_in_the_kernel(daemon: &Daemon) -> bool {
    let rows = daemon.ask(&["show", "flows"]);
    let rows = rows["flows"].as_array().unwrap();
    rows.iter().any(|flow| flow["offloaded"] == true)
        && rows.iter().all(|flow| flow["offloaded"] == true || flow["proto"] == "tcp")
}

/// Whether the programs have carried packets, rather than the workers.
fn carried_in_the_kernel(daemon: &Daemon) -> bool {
    let rows = daemon.ask(&["show", "flows"]);
    rows["flows"].as_array().unwrap().iter().any(|flow| flow["offloaded"] == true)
}

/// Both hosts with programs, and flows that they carry.
struct Running {
    site: Site,
    daemons: [Option<Daemon>; 2],
    before: [Machine; 2],
}

const NAMES: [&str; 2] = ["alpha", "beta"];

impl Running {
    fn start() -> Option<Self> {
        let site = Site::new(HOSTS_V4)?;
        let before = [Machine::of(&site.alpha), Machine::of(&site.beta)];
        let daemons = NAMES.map(|name| Some(site.run_with(name, "ebpf")));
        Some(Self { site, daemons, before })
    }

    fn wait_until_carried(&self) {
        for daemon in self.daemons.iter().flatten() {
            wait_within(SOON, "flows are offloaded", || all_carried_in_the_kernel(daemon));
        }
    }

    fn kill(&mut self, host: usize) {
        self.daemons[host].take().expect("it runs").kill();
    }

    fn run_again(&mut self, host: usize) {
        self.daemons[host] = Some(self.site.run_with(NAMES[host], "ebpf"));
    }

    fn stop(mut self) {
        let spaces = [&self.site.alpha, &self.site.beta];
        let daemons = std::mem::take(&mut self.daemons);
        for ((daemon, space), before) in daemons.into_iter().zip(spaces).zip(&self.before) {
            assert!(daemon.expect("it runs").stop().success());
            assert_eq!(before.changes(&Machine::of(space)), Vec::<String>::new());
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (name, daemon) in NAMES.iter().zip(&self.daemons) {
                let Some(daemon) = daemon else { continue };
                eprintln!("{name} dropped {:?}\n{:#}", daemon.drops(), daemon.ask(&["show", "flows"]));
            }
        }
    }
}

/// `EASTGATE_KILLS` makes the campaign longer: `cargo xtask soak` does.
#[test]
fn no_packet_is_lost_and_none_is_let_pass_while_daemons_are_killed_and_started_again() {
    let kills = std::env::var("EASTGATE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(4);
    let Some(mut running) = Running::start() else { return };
    let flows = Flows::start(&running.site);
    let flood_sink = Sink::start(&running.site.db1, udp(21, FLOODED));
    let flood = Stream::bursts(&running.site.web2, udp(12, 9000), udp(21, FLOODED), 100);
    let dialogue = Dialogue::start(&running.site.web1, (&running.site.db1, tcp(21, 5432)));
    // Its windows are scaled, and what it has under way fills them.
    let transfer = Transfer::start(&running.site.web2, (&running.site.db1, tcp(21, 5433)));
    flows.allowed_arrive("at first");
    dialogue.goes_on("at first");
    transfer.goes_on("at first");
    running.wait_until_carried();
    // The first datagrams wait for ARP, and some of them in vain: those behind this one do not.
    let from = flows.allowed.each_ref().map(|(stream, sink)| {
        stream.arrives("what is counted from here on", sink);
        let count = sink.count();
        (sink.last(), count)
    });

    for kill in 0..kills {
        let host = kill % 2;
        running.kill(host);
        flows.allowed_arrive("without a daemon");
        dialogue.goes_on("without a daemon");
        running.run_again(host);
        flows.allowed_arrive("under the next daemon");
        dialogue.goes_on("under the next daemon");
        transfer.goes_on("under the next daemon");
        running.wait_until_carried();
    }
    let Flows { allowed, denied } = flows;
    for ((stream, sink), (first, count)) in allowed.into_iter().zip(from) {
        let sent = stream.finish() - first;
        wait_within(SOON, "every datagram arrives", || sink.count() - count >= sent);
        println!("{sent} datagrams of an allowed flow, {} arrived", sink.count() - count);
    }
    let refused = denied.map(|(stream, sink)| (stream.finish(), sink.count()));
    let flooded = (flood.finish(), flood_sink.count());
    println!("{kills} kills, denied datagrams and how many of them passed: {refused:?}, {flooded:?}");
    for (sent, passed) in refused.into_iter().chain([flooded]) {
        assert!(sent > 0 && passed == 0, "{passed} of {sent} denied datagrams passed");
    }
    drop((dialogue, transfer));
    running.stop();
}

#[test]
fn a_killed_daemon_changes_nothing_for_flows_that_were_decided_and_nobody_decides_others() {
    let Some(mut running) = Running::start() else { return };
    let flows = Flows::start(&running.site);
    flows.allowed_arrive("at first");
    running.wait_until_carried();
    running.kill(0);
    flows.allowed_arrive("while no daemon runs on the sender's host");
    flows.denied_never_arrived();
    for port in ["veth-web1", "veth-web2"] {
        running.site.assert_programmed(port);
    }
    assert!(!running.site.web1.ping("10.1.0.12"), "what nobody has decided began without a daemon");
    running.run_again(0);
    assert!(running.site.web1.ping("10.1.0.12"));
    flows.denied_never_arrived();
    drop(flows);
    running.stop();
}

#[test]
fn echoes_begin_in_the_kernel_where_one_was_let_in_before() {
    const ASKED: [&str; 4] = ["10.1.0.12", "fd00:1::12", "10.1.0.21", "fd00:1::21"];
    let Some(mut running) = Running::start() else { return };
    // Each is another echo, with an identifier of its own.
    for to in [ASKED, ASKED].as_flattened() {
        assert!(running.site.web1.ping(to), "{to}");
    }
    for daemon in running.daemons.iter().flatten() {
        let rows = daemon.ask(&["show", "flows"]);
        let is_carried = |proto: &str| {
            let mut rows = rows["flows"].as_array().unwrap().iter();
            rows.any(|flow| flow["proto"] == proto && flow["offloaded"] == true)
        };
        assert!(is_carried("icmp") && is_carried("icmpv6"), "{rows:#}");
    }
    running.kill(0);
    running.kill(1);
    for to in ASKED {
        assert!(running.site.web1.ping(to), "{to}, without a daemon");
    }
    assert!(!running.site.web2.ping("10.1.0.21"), "what nobody has decided began without a daemon");
    running.run_again(0);
    running.run_again(1);
    for to in ASKED {
        assert!(running.site.web1.ping(to), "{to}, under the next daemon");
    }
    running.stop();
}

#[test]
fn the_policy_of_the_next_daemon_holds_for_flows_of_the_one_before() {
    let Some(mut running) = Running::start() else { return };
    running.site.allow_denied();
    for daemon in running.daemons.iter().flatten() {
        assert!(daemon.run(&["reload"]).status.success());
    }
    let flows = Flows::start(&running.site);
    flows.allowed_arrive("at first");
    for (stream, sink) in &flows.denied {
        stream.arrives("what is allowed for now", sink);
    }
    running.wait_until_carried();
    for host in [0, 1] {
        running.kill(host);
    }
    running.site.rewrite(|text| text.replace("[7000, 7001]", "[7000]"));
    for (stream, sink) in &flows.denied {
        stream.arrives("under the last policy, without a daemon", sink);
    }
    for host in [0, 1] {
        running.run_again(host);
    }
    for (stream, sink) in &flows.denied {
        assert!(stream.is_cut(sink, 200), "a flow outlived the policy that allowed it");
    }
    flows.allowed_arrive("under the new policy");
    drop(flows);
    running.stop();
}

#[test]
fn a_stop_that_keeps_the_fast_path_is_for_the_daemon_that_follows() {
    let Some(mut running) = Running::start() else { return };
    running.daemons[0].take().expect("it runs").stop();
    let keeping = running.site.run_more("alpha", &["--dataplane", "ebpf", "--on-stop", "keep"]);
    let flows = Flows::start(&running.site);
    let dialogue = Dialogue::start(&running.site.web1, (&running.site.db1, tcp(21, 5432)));
    flows.allowed_arrive("at first");
    dialogue.goes_on("at first");
    wait_within(SOON, "flows are offloaded", || all_carried_in_the_kernel(&keeping));
    assert!(keeping.stop().success());
    flows.allowed_arrive("after the stop");
    dialogue.goes_on("after the stop");
    flows.denied_never_arrived();
    running.run_again(0);
    flows.allowed_arrive("under the next daemon");
    dialogue.goes_on("under the next daemon");
    flows.denied_never_arrived();
    drop((flows, dialogue));
    running.stop();
}

#[test]
fn a_path_that_gets_narrower_is_learned_although_only_the_programs_send_there() {
    let Some((site, router)) = Site::routed() else { return };
    let (alpha, beta) = (site.run_with("alpha", "ebpf"), site.run_with("beta", "ebpf"));
    let transfer = Transfer::start(&site.web1, (&site.db1, tcp(21, 5432)));
    transfer.goes_on("at first");
    wait_within(SOON, "flows are offloaded", || all_carried_in_the_kernel(&alpha));
    // The far side alone: what does not fit the near one would be lost in the cable, and nobody would say so.
    router.ip("link set far mtu 1400");
    transfer.goes_on("on a narrower path");
    assert!(alpha.log().contains("the path to a VTEP is narrower than the link"), "{}", alpha.log());
    drop((transfer, beta));
}

/// A hub has no port of its own: all there is comes from one VTEP and goes to another.
#[test]
fn a_hub_carries_in_the_kernel_what_comes_from_one_vtep_and_goes_to_another() {
    let Some(site) = Hub::new() else { return };
    let before = Machine::of(&site.hub);
    let daemon = site.run("ebpf");
    assert_eq!(daemon.ask(&["status"])["dataplane"], "ebpf");
    let [two, three] = &site.spokes;
    let both_ways = |bytes| {
        bulk(two, (three, tcp(3, 5432)), bytes);
        bulk(three, (two, tcp(2, 5432)), bytes);
    };
    let sink = Sink::start(three, udp(3, ALLOWED));
    let stream = Stream::start(two, udp(2, 1000), udp(3, ALLOWED));
    let denied_sink = Sink::start(three, udp(3, DENIED));
    let denied = Stream::start(two, udp(2, 1001), udp(3, DENIED));
    stream.arrives("at first", &sink);
    both_ways(1_000_000);
    wait_within(SOON, "flows are offloaded", || all_carried_in_the_kernel(&daemon));

    // Now nobody else can.
    daemon.kill();
    stream.arrives("without a daemon", &sink);
    let (frames, bytes) = site.sent();
    both_ways(50_000_000);
    let (frames, bytes) = (site.sent().0 - frames, site.sent().1 - bytes);
    assert!(
        bytes > 100_000_000 && bytes / frames > 5_000,
        "{bytes} bytes in {frames} frames: cut at the hub"
    );

    let daemon = site.run("ebpf");
    stream.arrives("under the next daemon", &sink);
    both_ways(1_000_000);
    denied.send_more(20);
    assert_eq!(denied_sink.count(), 0, "of {} denied datagrams", denied.sent());
    wait_within(SOON, "flows are offloaded", || all_carried_in_the_kernel(&daemon));
    drop((stream, denied));
    assert!(daemon.stop().success());
    assert_eq!(before.changes(&Machine::of(&site.hub)), Vec::<String>::new());
}

/// What it takes: nothing of root's but these.
const CAPABILITIES: [&str; 4] = ["net_admin", "net_raw", "bpf", "perfmon"];

#[test]
fn it_runs_as_a_user_of_its_own_with_few_capabilities() {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let before = Machine::of(&site.alpha);
    let start = |capabilities: &[&str]| {
        let options = ["--dataplane", "ebpf"];
        Daemon::start_with(&site.world, &site.alpha, &site.config, "alpha", capabilities, &options)
    };
    let beta = site.run_with("beta", "ebpf");
    let alpha = start(&CAPABILITIES);
    let flows = Flows::start(&site);
    flows.allowed_arrive("at first");
    wait_within(SOON, "flows are offloaded", || all_carried_in_the_kernel(&alpha));
    site.assert_programmed("veth-web1");
    alpha.kill();
    flows.allowed_arrive("without a daemon");
    let alpha = start(&CAPABILITIES);
    assert!(alpha.log().contains("flows of the daemon before end"), "{}", alpha.log());
    flows.allowed_arrive("begun anew");
    wait_within(SOON, "flows are offloaded", || all_carried_in_the_kernel(&alpha));
    alpha.kill();
    let alpha = start(&[&CAPABILITIES[..], &["sys_admin"]].concat());
    assert!(alpha.log().contains("the programs of the daemon before go on"), "{}", alpha.log());
    flows.allowed_arrive("taken over");
    flows.denied_never_arrived();
    drop((flows, beta));
    assert!(alpha.stop().success());
    assert_eq!(before.changes(&Machine::of(&site.alpha)), Vec::<String>::new());
}

/// A bpffs in a folder of the test's own, gone when it is dropped.
struct BpfFs(PathBuf);

impl BpfFs {
    fn mount(folder: PathBuf) -> Self {
        std::fs::create_dir(&folder).unwrap();
        let nothing: Option<&str> = None;
        nix::mount::mount(Some("bpf"), &folder, Some("bpf"), nix::mount::MsFlags::empty(), nothing).unwrap();
        Self(folder)
    }

    /// What is pinned: folders, and files in them.
    fn entries(&self) -> (usize, usize) {
        let all = std::fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path());
        // The kernel has files of its own there.
        let folders: Vec<_> = all.filter(|path| path.is_dir()).collect();
        let files = folders.iter().map(|folder| {
            let mode = std::fs::metadata(folder).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{folder:?}");
            std::fs::read_dir(folder).unwrap().count()
        });
        (folders.len(), files.sum())
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
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
    assert_eq!(bpffs.entries(), (1, 7));
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
        assert_eq!(bpffs.entries(), (1, 7));
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
        wait_within(SOON, "every datagram arrives", || sink.count() - count >= sent);
    }
    drop((denied, dialogue, beta));

    let socket = alpha.socket().to_owned();
    assert!(alpha.stop().success());
    assert_eq!(bpffs.entries(), (0, 0), "after a stop");
    assert_eq!(before.changes(&Machine::of(&site.alpha)), Vec::<String>::new());
    start().kill();
    assert_eq!(bpffs.entries(), (1, 7), "after a kill");
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
    site.rewrite(|text| format!("[limits]\nports = 1\n{text}"));
    let served =
        |alpha: &Daemon| ["veth-web1", "veth-web2"].map(|port| alpha.port_state(port) == "forwarding");
    let alpha = site.run_with("alpha", "ebpf");
    assert_eq!(served(&alpha).iter().filter(|served| **served).count(), 1, "of one that there is room for");
    assert!(!alpha.log().contains("keeps its size"), "{}", alpha.log());
    site.rewrite(|text| text.replace("ports = 1\n", "ports = 2\n"));
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
            let socket = UdpSocket::bind(from).unwrap();
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
    // What goes up with each packet, and comes back: fragments are none of the programs' business.
    let echoes = "-c 100 -i 0.01 -s 3000 10.1.0.21";
    assert!(site.web1.ping(echoes), "at first");
    assert!(!carried_in_the_kernel(&alpha), "{:?}", alpha.ask(&["show", "flows"]));

    site.web2.ip("neigh add 10.1.0.99 lladdr 02:00:00:00:00:99 dev eth0 nud permanent");
    let flood = Flood::start(&site.web2, udp(12, 9000), udp(99, 9), vec![0; 18]);
    flood.comes_to(20_000);
    assert!(site.web1.ping(echoes), "beside a flood from a port: {:?}", alpha.drops());
    assert!(
        site.db1.ping("-c 100 -i 0.01 -s 3000 10.1.0.11"),
        "beside a flood from a port: {:?}",
        alpha.drops()
    );
    drop(flood);
    let from_port = limited(&alpha, Some(FLOODER));
    assert!(from_port > 10_000, "{from_port} frames were dropped");

    // From a VTEP, with a checksum, as other VTEPs write it.
    let datagram = [&[8, 0, 0, 0, 0, 0x13, 0x8a, 0][..], &[0xff; 60]].concat();
    let vtep = |number: u8, port: u16| SocketAddr::from(([192, 0, 2, number], port));
    let flood = Flood::start(&site.beta, vtep(2, 44_789), vtep(1, 4789), datagram);
    flood.comes_to(20_000);
    assert!(site.web1.ping(echoes), "beside a flood from the tunnel: {:?}", alpha.drops());
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
fn without_programs_the_next_daemon_takes_nothing_over() {
    let Some(mut running) = Running::start() else { return };
    let flows = Flows::start(&running.site);
    flows.allowed_arrive("at first");
    running.wait_until_carried();
    running.kill(0);
    running.daemons[0] = Some(running.site.run_with("alpha", "userspace"));
    running.site.assert_guarded("veth-web1");
    flows.allowed_arrive("in userspace");
    flows.denied_never_arrived();
    running.kill(0);
    assert!(flows.allowed.iter().all(|(stream, sink)| stream.is_cut(sink, 100)), "who carries that?");
    running.run_again(0);
    flows.allowed_arrive("with programs again");
    drop(flows);
    running.stop();
}

#[test]
fn a_changed_policy_ends_flows_that_it_does_not_allow() {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    site.allow_denied();
    let (alpha, beta) = (site.run_with("alpha", "ebpf"), site.run_with("beta", "ebpf"));
    let flows = Flows::start(&site);
    flows.allowed_arrive("at first");
    for (stream, sink) in &flows.denied {
        stream.arrives("what is allowed for now", sink);
    }
    wait_within(SOON, "flows are offloaded", || {
        carried_in_the_kernel(&alpha) && carried_in_the_kernel(&beta)
    });
    site.rewrite(|text| text.replace("[7000, 7001]", "[7000]"));
    for daemon in [&alpha, &beta] {
        assert!(daemon.run(&["reload"]).status.success());
    }
    for (stream, sink) in &flows.denied {
        assert!(stream.is_cut(sink, 200), "a flow outlived the policy that allowed it");
    }
    flows.allowed_arrive("under the new policy");
}

#[test]
fn the_underlay_and_ports_may_come_and_go() {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let (alpha, _beta) = (site.run_with("alpha", "ebpf"), site.run_with("beta", "ebpf"));
    let flows = Flows::start(&site);
    flows.allowed_arrive("at first");
    wait_within(SOON, "flows are offloaded", || carried_in_the_kernel(&alpha));
    let (stream, sink) = &flows.allowed[0];

    site.alpha.ip("link set underlay0 down");
    assert!(stream.is_cut(sink, 50));
    site.alpha.ip("link set underlay0 up");
    stream.arrives("after the underlay was down", sink);
    site.alpha.ip("addr flush dev underlay0");
    wait_within(SOON, "the programs do not go on under a foreign address", || stream.is_cut(sink, 20));
    site.address_underlay(&site.alpha, 1);
    stream.arrives("after the address was gone", sink);
    site.alpha.ip("link del underlay0");
    assert!(stream.is_cut(sink, 50));
    site.lay_underlay();
    flows.allowed_arrive("after the underlay was gone");

    site.alpha.ip("link del veth-web2");
    wait_within(SOON, "the port is missed", || alpha.port_state("veth-web2") == "absent");
    stream.arrives("other ports do not mind", sink);
    site.plug(&site.alpha, "veth-web2", &site.web2, 0x12);
    wait_within(SOON, "the port is served again", || alpha.port_state("veth-web2") == "forwarding");
    site.assert_programmed("veth-web2");
    flows.allowed[1].0.arrives("after the port came back", &flows.allowed[1].1);
    flows.denied_never_arrived();
}

/// Web2 on the same host and db1 on the other one, in both families.
const NEIGHBORS: [&str; 4] = ["10.1.0.12", "fd00:1::12", "10.1.0.21", "fd00:1::21"];

/// A machine forgets its neighbours, sends to one of them, and has to ask who that is. What it is told.
fn resolve_anew(machine: &Space, address: &str) -> Option<String> {
    machine.ip("neigh flush dev eth0");
    let to = SocketAddr::new(address.parse().unwrap(), ALLOWED);
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    machine.enter(move || UdpSocket::bind(any).unwrap().send_to(b"who?", to).unwrap());
    let until = Instant::now() + Duration::from_millis(700);
    while Instant::now() < until {
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
    let Some(site) = Site::new(HOSTS_V4) else { return };
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
    assert_eq!(resolve_anew(&site.web2, "10.1.0.21"), None, "web2 has asked nobody who could decide");
    let more = (0..20).take_while(|_| resolve_anew(&site.web1, NEIGHBORS[0]).is_some()).count();
    assert!((1..8).contains(&more), "{more} more answers with the tokens that were lent for 8");

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

/// What the verifier said when it was last looked at, on the kernel that is named there.
const BUDGET: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fastpath/verifier.txt");

fn kernel_release() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    release.trim().splitn(3, '.').take(2).collect::<Vec<_>>().join(".")
}

/// A program that grew by more than a tenth is to be looked at, and `EASTGATE_BLESS=1` writes down what it is now.
/// Another kernel counts otherwise: there only the halves of the limits hold.
#[test]
fn programs_keep_to_their_budget() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let costs = eastgate_fastpath::cost::costs().unwrap();
    assert_eq!(costs.len(), 4, "{costs:?}");
    let rows = costs.iter().map(|cost| format!("{} {} {}\n", cost.program, cost.instructions, cost.stack));
    let now =
        format!("kernel {}\nprogram instructions stack\n{}", kernel_release(), rows.collect::<String>());
    if std::env::var_os("EASTGATE_BLESS").is_some() {
        std::fs::write(BUDGET, &now).unwrap();
    }
    let before = std::fs::read_to_string(BUDGET).unwrap();
    let same_kernel = before.starts_with(&format!("kernel {}\n", kernel_release()));
    for cost in &costs {
        assert!(cost.instructions > 0 && cost.instructions <= 500_000 && cost.stack <= 512, "{cost:?}");
        let row = before.lines().find_map(|line| line.strip_prefix(&format!("{} ", cost.program)));
        let (instructions, stack) = row.and_then(|row| row.split_once(' ')).expect("a row for each program");
        let most = instructions.parse::<u32>().unwrap() * 11 / 10;
        let deepest = stack.parse::<u32>().unwrap() + 64;
        assert!(
            !same_kernel || cost.instructions <= most && cost.stack <= deepest,
            "{} has grown; EASTGATE_BLESS=1 writes this down if that is right.\nbefore:\n{before}now:\n{now}",
            cost.program
        );
    }
}
