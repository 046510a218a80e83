//! What rules grant each source, with real stacks: the same story through iptables' connlimit and hashlimit, and through eastgate in
//! both dataplanes. And what senders of segments are told that are of no connection.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use common::{
    Capture, Daemon, Sink, Space, World, bind_tcp, bind_udp, must, running::carried_in_the_kernel,
    send_frame, site::*, wait_for,
};
use eastgate_testkit::{Link, command};
use eastgate_wire::{MacAddr, View, view::Transport};
use etherparse::PacketBuilder;
use socket2::SockRef;

const DATAPLANES: [&str; 2] = ["ebpf", "userspace"];

/// At most three connections, at most three flows of datagrams, and four of them at once, then one a second
const TCP: u16 = 7300;
const HELD: u16 = 7301;
const PACED: u16 = 7302;
const OPEN: u16 = 7303;
/// One flow of all machines together
const SHARED: u16 = 7304;

const POLICY: &str = r#"
[tenant.acme.policy.few]
applies_to = "tenant"
ingress = [
  { action = "allow", proto = "tcp", ports = 7300, from = "any", connections = 3 },
  { action = "allow", proto = "udp", ports = 7301, from = "any", connections = 3 },
  { action = "allow", proto = "udp", ports = 7302, from = "any", new_connections = { per_second = 1, burst = 4 } },
  { action = "allow", proto = "udp", ports = 7303, from = "any" },
  { action = "allow", proto = "udp", ports = 7304, from = "any", connections = 1, per_prefix = { ipv4 = 24, ipv6 = 64 } },
]
"#;

fn running(dataplane: &str, network: &str) -> Option<(Site, [Daemon; 2])> {
    let site = Site::alone(HOSTS_V4)?;
    site.rewrite(|text| text.replace("vni = 5001", &format!("vni = 5001\n{network}")) + POLICY);
    let daemons = ["alpha", "beta"].map(|host| site.run_with(host, dataplane));
    Some((site, daemons))
}

/// Takes connections, and closes those that their clients close.
struct Server {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(space: &Space, at: SocketAddr) -> Self {
        let listener = space.enter(move || bind_tcp(at));
        listener.set_nonblocking(true).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let end = over.clone();
        let thread = thread::spawn(move || {
            while !end.load(SeqCst) {
                match listener.accept() {
                    Ok((mut stream, _)) => drop(thread::spawn(move || {
                        stream.set_nonblocking(false).unwrap();
                        let _ = stream.read_to_end(&mut Vec::new());
                    })),
                    Err(_) => thread::sleep(Duration::from_millis(5)),
                }
            }
        });
        Self { over, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, SeqCst);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A connection, where it comes about before its first SYN is sent again.
fn connect(space: &Space, to: SocketAddr) -> Option<TcpStream> {
    space.enter(move || TcpStream::connect_timeout(&to, Duration::from_millis(800)).ok())
}

fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Waits until a connection comes about in place of one that has just ended.
fn comes_about(space: &Space, to: SocketAddr, what: &str) -> TcpStream {
    let mut found = None;
    wait_for(what, || {
        found = connect(space, to);
        found.is_some()
    });
    found.unwrap()
}

/// Three connections are had at once, and not a fourth, however the ones before ended.
fn story_of_connections(space: &Space, to: SocketAddr, who: &str) {
    let mut had: Vec<TcpStream> =
        (0..3).map(|n| comes_about(space, to, &format!("{who}: connection {n}"))).collect();
    assert!(connect(space, to).is_none(), "{who}: a fourth");
    drop(had.remove(0));
    had.push(comes_about(space, to, &format!("{who}: one was closed")));
    assert!(connect(space, to).is_none(), "{who}: a fourth, since one was closed");
    reset(had.remove(0));
    had.push(comes_about(space, to, &format!("{who}: one was reset")));
    assert!(connect(space, to).is_none(), "{who}: a fourth, since one was reset");
    // Those that are had are connections.
    for stream in &mut had {
        stream.write_all(b"goes on").unwrap();
    }
}

/// How many have arrived since there were `before`, and when the last one was there: the first is waited for, and then until no
/// more come.
fn all_that_comes(sink: &Sink, before: u64) -> (u64, Instant) {
    wait_for("the first arrives", || sink.count() > before);
    let (mut seen, mut last) = (sink.count(), Instant::now());
    while last.elapsed() < Duration::from_millis(300) {
        thread::sleep(Duration::from_millis(2));
        let now = sink.count();
        if now > seen {
            (seen, last) = (now, Instant::now());
        }
    }
    (seen - before, last)
}

/// How many of ten flows that begin at once have arrived, and how many of ten that begin two seconds after.
fn story_of_rates(space: &Space, from: [u8; 4], to: SocketAddr, sink: &Sink) -> [u64; 2] {
    let begin = |ports: std::ops::Range<u16>| {
        let before = sink.count();
        space.enter(|| {
            for port in ports {
                let socket = bind_udp(SocketAddr::from((from, port)));
                socket.send_to(&u64::from(port).to_be_bytes(), to).unwrap();
            }
        });
        all_that_comes(sink, before).0
    };
    let first = begin(20_000..20_010);
    // So long it takes until as many may begin again.
    thread::sleep(Duration::from_millis(2100));
    [first, begin(20_100..20_110)]
}

/// A host with Linux's own firewall in front of what it serves, and a machine on a cable to it.
fn linux(world: &mut World) -> (Space, Space) {
    let (client, server) = (world.space("client"), world.space("server"));
    world.cable((&client, "eth0"), (&server, "eth0"), 1500);
    client.ip("addr add 10.1.0.17/24 dev eth0");
    server.ip("addr add 10.1.0.33/24 dev eth0");
    for rule in [
        "-m conntrack --ctstate ESTABLISHED -j ACCEPT",
        "-p tcp --syn --dport 7300 -m connlimit --connlimit-above 3 -j DROP",
        "-p tcp --dport 7300 -j ACCEPT",
        "-p udp --dport 7302 -m hashlimit --hashlimit-upto 1/sec --hashlimit-burst 4 --hashlimit-mode srcip \
         --hashlimit-name paced -j ACCEPT",
        "-p udp -j DROP",
    ] {
        let rule: Vec<&str> = rule.split_whitespace().collect();
        must(command::run(server.command("iptables").args(["-A", "INPUT"]).args(rule)));
    }
    (client, server)
}

/// Four at once and then one a second; the clock goes on while they are sent.
fn is_paced([first, second]: [u64; 2]) -> bool {
    (4..=5).contains(&first) && (2..=4).contains(&second)
}

fn iptables() -> Option<()> {
    let mut world = World::alone()?;
    let (client, server) = linux(&mut world);
    let at = |port| SocketAddr::from(([10, 1, 0, 33], port));
    let _serves = Server::start(&server, at(TCP));
    story_of_connections(&client, at(TCP), "iptables");
    let sink = Sink::start(&server, at(PACED));
    let paced = story_of_rates(&client, [10, 1, 0, 17], at(PACED), &sink);
    assert!(is_paced(paced), "iptables: {paced:?}");
    Some(())
}

#[test]
fn sources_are_counted_as_iptables_counts_them() {
    if iptables().is_none() {
        return;
    }
    for dataplane in DATAPLANES {
        let Some((site, daemons)) = running(dataplane, "") else { return };
        for (space, number, daemon) in [(&site.web2, 12, &daemons[0]), (&site.db1, 21, &daemons[1])] {
            let _serves = Server::start(space, tcp(number, TCP));
            story_of_connections(&site.web1, tcp(number, TCP), dataplane);
            let sink = Sink::start(space, udp(number, PACED));
            let paced = story_of_rates(&site.web1, [10, 1, 0, 11], udp(number, PACED), &sink);
            assert!(is_paced(paced), "{dataplane}, at {number}: {paced:?}");
            // The rule has a name, and what it refused is counted.
            let rows = daemon.ask(&["show", "drops"]);
            let rows: Vec<_> = rows["drops"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|row| row["reason"] == "rule-limit")
                .collect();
            let rules: Vec<_> = rows.iter().map(|row| row["rule"].as_str().unwrap()).collect();
            for rule in ["acme/policy few ingress #1", "acme/policy few ingress #3"] {
                assert!(rules.contains(&rule), "{dataplane}: {rules:?}");
            }
        }
    }
}

fn datagram(to: (u8, MacAddr), sport: u16, port: u16) -> Vec<u8> {
    datagram_from((11, WEB1), to, sport, port)
}

fn datagram_from(from: (u8, MacAddr), to: (u8, MacAddr), sport: u16, port: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(from.1.0, to.1.0)
        .ipv4([10, 1, 0, from.0], [10, 1, 0, to.0], 64)
        .udp(sport, port)
        .write(&mut frame, &u64::from(sport).to_be_bytes())
        .unwrap();
    frame
}

fn refused(daemon: &Daemon) -> u64 {
    daemon.drops().get("rule-limit").copied().unwrap_or(0)
}

/// The programs carry what was let in, begin nothing by such a rule, and what ends with them is given back.
#[test]
fn flows_that_the_kernel_carries_count_as_long_as_they_live() {
    for dataplane in DATAPLANES {
        let Some((site, [alpha, beta])) = running(dataplane, "timeouts = { udp_first = 6 }") else { return };
        for (to, (space, daemon)) in RECEIVERS.into_iter().zip([(&site.web2, &alpha), (&site.db1, &beta)]) {
            let sink = Sink::start(space, udp(to.0, HELD));
            let send = |sport: u16| send_frame(&site.web1, "eth0", &datagram(to, sport, HELD));
            let before = refused(daemon);
            (5000..5006).for_each(send);
            wait_for(&format!("{dataplane}: three are refused"), || refused(daemon) == before + 3);
            assert_eq!(sink.count(), 3, "{dataplane}: at {}", to.0);
            for _ in 0..20 {
                (5000..5003).for_each(send);
            }
            wait_for(&format!("{dataplane}: they go on"), || sink.count() == 63);
            if dataplane == "ebpf" {
                wait_for("they are with the programs", || carried_in_the_kernel(daemon));
            }
            // None of them is heard any more, and others take their places.
            let live = || daemon.ask(&["show", "flows", "--port", "7301"])["flows"].as_array().unwrap().len();
            wait_for(&format!("{dataplane}: their time is over"), || live() == 0);
            // Those whose time is over are taken out of the table twice a second.
            thread::sleep(Duration::from_millis(1500));
            (5100..5110).for_each(send);
            wait_for(&format!("{dataplane}: others are refused"), || refused(daemon) == before + 3 + 7);
            wait_for(&format!("{dataplane}: three others begin"), || sink.count() == 66);
        }
    }
}

/// Where a prefix is a source, all machines in it are one.
#[test]
fn machines_of_one_prefix_share_what_it_may_have() {
    for dataplane in DATAPLANES {
        let Some((site, [_alpha, beta])) = running(dataplane, "") else { return };
        let [web2, db1] = RECEIVERS;
        let (sink, before) = (Sink::start(&site.db1, udp(db1.0, SHARED)), refused(&beta));
        let send = |sport: u16| {
            send_frame(&site.web1, "eth0", &datagram(db1, sport, SHARED));
            wait_for(&format!("{dataplane}: the first one has come"), || sink.count() >= 1);
            send_frame(&site.web2, "eth0", &datagram_from(web2, db1, sport, SHARED));
        };
        (5000..5003).for_each(send);
        wait_for(&format!("{dataplane}: all others are refused"), || refused(&beta) == before + 5);
        assert_eq!(sink.count(), 1, "{dataplane}");
        send_frame(&site.web1, "eth0", &datagram(db1, 5000, SHARED));
        wait_for(&format!("{dataplane}: the one goes on"), || sink.count() == 2);
    }
}

/// A client resets where its server has not got to, and keeps the connection.
#[test]
fn a_reset_that_the_server_does_not_believe_makes_no_room() {
    for dataplane in DATAPLANES {
        let Some((site, daemons)) = running(dataplane, "") else { return };
        // Linux believes a reset at the edge of what it has acknowledged selectively.
        site.web1.set("net/ipv4/tcp_sack", "0");
        for (receiver, space) in RECEIVERS.into_iter().zip([&site.web2, &site.db1]) {
            let _serves = Server::start(space, tcp(receiver.0, TCP));
            let mut had: Vec<TcpStream> = (0..3)
                .map(|n| comes_about(&site.web1, tcp(receiver.0, TCP), &format!("connection {n}")))
                .collect();
            let capture = Capture::start(&site.web1, "eth0");
            let port = had[0].local_addr().unwrap().port();
            had[0].write_all(b"hello").unwrap();
            let sent = |frame: &[u8]| {
                let view = View::parse(frame).ok()?;
                match view.ip()?.transport {
                    Transport::Tcp(tcp) if tcp.sport == port && tcp.payload == 5 => Some(tcp),
                    _ => None,
                }
            };
            wait_for("it is seen", || !capture.find(sent).is_empty());
            let seen = capture.find(sent)[0];
            // Behind what nobody has sent, inside of the server's window
            let send = |seq: u32, rst: bool, payload: &[u8]| {
                let mut frame = Vec::new();
                let ip = PacketBuilder::ethernet2(WEB1.0, receiver.1.0).ipv4(
                    [10, 1, 0, 11],
                    [10, 1, 0, receiver.0],
                    64,
                );
                let mut header = etherparse::TcpHeader::new(port, TCP, seq, seen.window);
                (header.ack, header.acknowledgment_number, header.rst) = (true, seen.ack, rst);
                ip.tcp_header(header).write(&mut frame, payload).unwrap();
                send_frame(&site.web1, "eth0", &frame);
            };
            let gap = seen.seq.wrapping_add(5 + 1000);
            send(gap, false, b"behind a gap");
            send(gap.wrapping_add(12), true, b"");
            thread::sleep(Duration::from_millis(300));
            for stream in &mut had {
                stream.write_all(b"goes on").unwrap();
            }
            assert!(
                connect(&site.web1, tcp(receiver.0, TCP)).is_none(),
                "{dataplane}: a fourth, at {}",
                receiver.0
            );
            thread::sleep(Duration::from_millis(300));
            for stream in &mut had {
                stream.write_all(b"goes on").unwrap();
                assert!(stream.take_error().unwrap().is_none(), "{dataplane}: at {}", receiver.0);
            }
            drop(had);
            drop(comes_about(&site.web1, tcp(receiver.0, TCP), "they were closed"));
        }
        drop(daemons);
    }
}

/// Flows that began in the kernel by a rule without limits count by it once it has some.
#[test]
fn a_rule_that_gets_a_limit_counts_what_the_kernel_has_begun() {
    for dataplane in DATAPLANES {
        let Some((site, daemons)) = running(dataplane, "") else { return };
        for (to, (space, daemon)) in
            RECEIVERS.into_iter().zip([(&site.web2, &daemons[0]), (&site.db1, &daemons[1])])
        {
            let sink = Sink::start(space, udp(to.0, OPEN));
            let send = |sport: u16| send_frame(&site.web1, "eth0", &datagram(to, sport, OPEN));
            (6000..6004).for_each(send);
            wait_for(&format!("{dataplane}: four begin"), || sink.count() == 4);
            let reload = |from: &str, to: &str| {
                site.rewrite(|text| text.replace(from, to));
                daemons.iter().for_each(|daemon| assert!(daemon.run(&["reload"]).status.success()));
            };
            let (without, with) =
                ("ports = 7303, from = \"any\"", "ports = 7303, from = \"any\", connections = 5");
            reload(without, with);
            let before = refused(daemon);
            (6000..6004).for_each(send);
            wait_for(&format!("{dataplane}: they go on"), || sink.count() == 8);
            (6004..6010).for_each(send);
            wait_for(&format!("{dataplane}: one more and no other"), || refused(daemon) == before + 5);
            assert_eq!(sink.count(), 9, "{dataplane}: at {}", to.0);
            reload(with, without);
            (6004..6010).for_each(send);
            wait_for(&format!("{dataplane}: all of them"), || sink.count() == 15);
        }
    }
}

/// How a connection can lie: what its network says beside what a test is about, and whether it is IPv6.
const WAYS: [(&str, bool); 4] = [
    ("", false),
    ("", true),
    ("neighbors = \"proxy\"", false),
    ("topology = \"hub\"\nhub = \"alpha\"", true),
];

/// Each dataplane, and each way.
fn all_ways() -> impl Iterator<Item = (&'static str, &'static str, bool)> {
    DATAPLANES.into_iter().flat_map(|dataplane| WAYS.map(|(network, v6)| (dataplane, network, v6)))
}

fn service(number: u8, v6: bool) -> SocketAddr {
    if v6 { format!("[fd00:1::{number}]:{TCP}").parse().unwrap() } else { tcp(number, TCP) }
}

#[test]
fn who_sends_on_a_connection_that_nobody_knows_is_told() {
    for (dataplane, network, v6) in all_ways() {
        let Some((site, daemons)) = running(dataplane, &format!("tcp_unknown = \"reset\"\n{network}")) else {
            return;
        };
        for (space, number) in [(&site.web2, 12), (&site.db1, 21)] {
            let _serves = Server::start(space, service(number, v6));
            let mut stream = comes_about(&site.web1, service(number, v6), "a connection");
            for daemon in &daemons {
                assert!(daemon.run(&["flows", "kill", "--port", "7300"]).status.success());
            }
            stream.write_all(b"late").unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let told = stream.read(&mut [0; 1]).map_err(|error| error.kind());
            let expected = Err(std::io::ErrorKind::ConnectionReset);
            assert_eq!(told, expected, "{dataplane}, {network}, IPv6 {v6}: at {number}");
        }
    }
}

/// Flows that a rule let begin are over when it is taken away, where the network says so, also those that nobody sends anything on.
#[test]
fn flows_of_a_rule_that_is_taken_away_are_cut_at_once_where_asked() {
    for (dataplane, cuts) in DATAPLANES.into_iter().flat_map(|it| [(it, true), (it, false)]) {
        let network = if cuts { "on_change = \"cut\"" } else { "" };
        let Some((site, daemons)) = running(dataplane, network) else { return };
        let flows = || {
            let all = daemons.iter().map(|daemon| daemon.ask(&["show", "flows", "--port", "7303"]));
            all.map(|rows| rows["flows"].as_array().unwrap().len()).collect::<Vec<_>>()
        };
        for (to, space) in RECEIVERS.into_iter().zip([&site.web2, &site.db1]) {
            let sink = Sink::start(space, udp(to.0, OPEN));
            (6000..6004).for_each(|sport| send_frame(&site.web1, "eth0", &datagram(to, sport, OPEN)));
            wait_for(&format!("{dataplane}: four begin"), || sink.count() == 4);
        }
        assert_eq!(flows(), [8, 4], "{dataplane}");
        site.rewrite(|text| {
            text.replace(
                "\"allow\", proto = \"udp\", ports = 7303",
                "\"deny\", proto = \"udp\", ports = 7303",
            )
        });
        for daemon in &daemons {
            assert!(daemon.run(&["reload"]).status.success());
        }
        // What the rules of the other host's endpoint refuse is cut there.
        assert_eq!(flows(), if cuts { [4, 0] } else { [8, 4] }, "{dataplane}, {network}");
    }
}

/// Both ends of an idle connection hear at once that it is cut, also where neither of them is on the host whose rules have cut it.
#[test]
fn the_ends_of_a_connection_that_is_cut_are_told_where_asked() {
    for (dataplane, network, v6) in all_ways() {
        let Some((site, daemons)) = running(dataplane, &format!("on_change = \"reset\"\n{network}")) else {
            return;
        };
        let held: Vec<[TcpStream; 2]> = [(12, &site.web2), (21, &site.db1)]
            .into_iter()
            .flat_map(|(number, space)| {
                let listens = space.enter(|| bind_tcp(service(number, v6)));
                let connect = |spoken: bool| {
                    let mut client = comes_about(&site.web1, service(number, v6), "a connection");
                    let (mut server, _) = listens.accept().unwrap();
                    if spoken {
                        client.write_all(b"a question").unwrap();
                        server.read_exact(&mut [0; 10]).unwrap();
                        server.write_all(b"an answer").unwrap();
                        client.read_exact(&mut [0; 9]).unwrap();
                    }
                    [client, server]
                };
                [connect(false), connect(true)]
            })
            .collect();
        site.rewrite(|text| {
            let now = "\"deny\", proto = \"tcp\", ports = 7300, from = \"any\" }";
            text.replace("\"allow\", proto = \"tcp\", ports = 7300, from = \"any\", connections = 3 }", now)
        });
        for daemon in &daemons {
            assert!(daemon.run(&["reload"]).status.success());
        }
        for (number, mut end) in held.into_iter().flatten().enumerate() {
            end.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let told = end.read(&mut [0; 1]).map_err(|error| error.kind());
            let expected = Err(std::io::ErrorKind::ConnectionReset);
            assert_eq!(told, expected, "{dataplane}, {network}, IPv6 {v6}: {number}");
        }
    }
}

/// New flows of one endpoint, sent as fast as can be: as many pass as the limit says, its own or its network's, whoever decides about
/// them.
#[test]
fn an_endpoint_begins_as_many_flows_as_it_and_its_network_may() {
    const PER_SECOND: u64 = 20;
    let of_all = format!("limits = {{ endpoint_new_flows = {PER_SECOND} }}");
    let own = format!("\n[tenant.acme.endpoint.web1.limits]\nnew_flows = {PER_SECOND}\n");
    // As the network says of each, as the endpoint has it of its own, given while it runs, and as the network has them all together.
    let of_network = format!("limits = {{ new_flows = {PER_SECOND} }}");
    let said = |dataplane| [(dataplane, &*of_all, ""), (dataplane, "", &own), (dataplane, &*of_network, "")];
    for (dataplane, network, own) in DATAPLANES.into_iter().flat_map(said) {
        let Some((site, daemons)) = running(dataplane, network) else { return };
        site.rewrite(|text| text + own);
        daemons.iter().for_each(|daemon| drop(daemon.ask(&["reload"])));
        for (to, space) in RECEIVERS.into_iter().zip([&site.web2, &site.db1]) {
            thread::sleep(Duration::from_millis(1100));
            let sink = Sink::start(space, udp(to.0, OPEN));
            let mut link = must(site.web1.enter(|| Link::open("eth0", Duration::ZERO)));
            let (begun, mut sport) = (Instant::now(), 10_000);
            while begun.elapsed() < Duration::from_secs(3) {
                (0..20).for_each(|n| link.send(&datagram(to, sport + n, OPEN)).unwrap());
                sport += 20;
                thread::sleep(Duration::from_millis(10));
            }
            let ended = Instant::now();
            // The last ones may be decided about later than they were sent, and never later than they arrive.
            let (passed, last) = all_that_comes(&sink, 0);
            let lasted = last.duration_since(begun).as_millis();
            let until = |then: Instant| {
                PER_SECOND + then.duration_since(begun).as_millis() as u64 * PER_SECOND / 1000
            };
            let (least, most) = (until(ended) * 8 / 10, until(last));
            let sent = u64::from(sport - 10_000);
            assert!(passed <= most + 1, "{dataplane}, at {}: {passed} of {sent} in {lasted} ms", to.0);
            assert!(
                passed >= least.min(sent * 8 / 10),
                "{dataplane}, at {}: {passed} of {sent} in {lasted} ms",
                to.0
            );
            let dropped: u64 =
                daemons.iter().map(|daemon| daemon.drops().get("new-flow-limit").copied().unwrap_or(0)).sum();
            assert!(dropped > 0, "{dataplane}: {sent} in {lasted} ms");
        }
        if dataplane == "ebpf" {
            let status = daemons[0].ask(&["status"]);
            assert!(status["punts"]["no-credit"].as_u64().is_some_and(|punts| punts > 0), "{status}");
        }
    }
}
