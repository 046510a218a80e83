//! FTP and TFTP through policies that allow nothing but the port where servers are asked, with real servers and clients (pyftpdlib,
//! dnsmasq, curl), in both data planes; and what both sides may say held against Linux's own helper.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    reason = "a test fails by panicking, and its module is nobody else's"
)]

mod common;
#[path = "helpers/files.rs"]
mod files;

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use common::{Daemon, Space, World, must, site::*, wait_for};
use eastgate_testkit::command;
use files::{Server, Transfer, WAYS, leave_no_room};
use socket2::{Domain, Socket, Type};

const DATAPLANES: [&str; 2] = ["ebpf", "userspace"];

/// What clients may send and servers may receive
const RULES: [&str; 2] = [
    "{ proto = \"tcp\", ports = 21, PEER, helper = \"ftp\" }",
    "{ proto = \"udp\", ports = 69, PEER, helper = \"tftp\" }",
];

fn lists(with_helpers: bool) -> String {
    let list = |peer: &str| {
        let rules = RULES.map(|rule| rule.replace("PEER", &format!("{peer} = \"any\"")));
        rules.join(", ")
    };
    let text = format!("ingress = [{}]\negress = [{}]\n", list("from"), list("to"));
    if with_helpers {
        text
    } else {
        text.replace(", helper = \"ftp\"", "").replace(", helper = \"tftp\"", "")
    }
}

fn configure(site: &Site, with_helpers: bool) {
    let text = acme_on(HOSTS_V4);
    let (before, behind) = text.split_once("ingress = [").unwrap();
    let (_, behind) = behind.split_once("egress = [{ to = \"any\" }]\n").unwrap();
    std::fs::write(&site.config, format!("{before}{}{behind}", lists(with_helpers))).unwrap();
}

fn running(dataplane: &str) -> Option<(Site, [Daemon; 2])> {
    let site = Site::alone(HOSTS_V4)?;
    configure(&site, true);
    let daemons = ["alpha", "beta"].map(|host| site.run_with(host, dataplane));
    Some((site, daemons))
}

fn related(daemon: &Daemon, helper: &str) -> Vec<serde_json::Value> {
    let rows = daemon.ask(&["show", "flows"]);
    let rows = rows["flows"].as_array().unwrap().iter();
    rows.filter(|row| row["related"]["helper"] == helper).cloned().collect()
}

#[test]
fn files_are_had_by_the_servers_port_alone() {
    for dataplane in DATAPLANES {
        let Some((site, daemons)) = running(dataplane) else { return };
        for (space, number) in [(&site.web2, "12"), (&site.db1, "21")] {
            let server = Server::start(&site, space, number);
            for (family, (way, options)) in
                [0, 1].into_iter().flat_map(|family| WAYS.map(|way| (family, way)))
            {
                // IPv6 has no other words than those of RFC 2428.
                if family == 1 && ["PASV", "PORT"].contains(&way) {
                    continue;
                }
                let what = format!("{dataplane}: {way} from {number}, family {family}");
                assert!(server.gives(&site.web1, family, "ftp", options), "{what}");
                assert!(server.takes(&site, &site.web1, family, options), "{what}: the other way");
            }
            for family in [0, 1] {
                let what = format!("{dataplane}: TFTP from {number}, family {family}");
                assert!(server.gives(&site.web1, family, "tftp", &["--max-time", "40"]), "{what}");
            }
            // Every transfer has begun because it was expected, on each host whose rules were asked.
            let hosts = if number == "12" { &daemons[..1] } else { &daemons[..] };
            for daemon in hosts {
                for helper in ["ftp", "tftp"] {
                    let rows = related(daemon, helper);
                    assert!(!rows.is_empty(), "{dataplane} {number} {helper}");
                    let rules = |row: &serde_json::Value| {
                        [&row["egress_rule"], &row["ingress_rule"]]
                            .map(|rule| rule["rule"].as_str().map(str::to_owned))
                    };
                    let named: Vec<String> = rows.iter().flat_map(rules).flatten().collect();
                    let number = if helper == "ftp" { 1 } else { 2 };
                    let expected = ["ingress", "egress"].map(|list| format!("acme/all {list} #{number}"));
                    assert!(named.iter().all(|rule| expected.contains(rule)), "{named:?}");
                }
                let status = daemon.ask(&["status"]);
                assert!(status["helpers"]["begun"].as_u64().unwrap() >= 14, "{status:#}");
                assert_eq!(status["helpers"]["unheeded"]["unread"], 0, "{status:#}");
            }
            // A port that was named once is nobody's afterwards, and nothing else is open.
            let port = related(&daemons[0], "ftp")[0]["dport"].as_u64().unwrap() as u16;
            for port in [port, 22, 8080] {
                assert!(!opens(&site.web1, server.space, SocketAddr::new(server.addresses[0], port)));
            }
        }
    }
}

/// The programs carry transfers; a reload that leaves the rule goes unnoticed, and one that takes the helper away ends them.
#[test]
fn a_transfer_is_carried_and_decided_again_like_any_other_flow() {
    for (dataplane, way) in
        DATAPLANES.into_iter().flat_map(|dataplane| [WAYS[0], WAYS[3]].map(|way| (dataplane, way)))
    {
        let Some((site, daemons)) = running(dataplane) else { return };
        leave_no_room(&site);
        let server = Server::start(&site, &site.db1, "21");
        let begin = || Transfer::begin(&site, &server, way.1);
        let is_carried = |daemon: &Daemon| {
            related(daemon, "ftp").iter().any(|row| row["offloaded"] == true && row["state"] == "established")
        };
        let transfer = begin();
        if dataplane == "ebpf" {
            for daemon in &daemons {
                wait_for("it is carried", || is_carried(daemon));
            }
        }
        for daemon in &daemons {
            let rows = daemon.ask(&["show", "flows", "--port", "21"]);
            let control = rows["flows"]
                .as_array()
                .unwrap()
                .iter()
                .find(|row| row["state"] == "established")
                .unwrap()
                .clone();
            assert_eq!(
                (control["helper"].as_str(), &control["offloaded"]),
                (Some("ftp"), &false.into()),
                "{control:#}"
            );
        }
        site.rewrite(|text| text.replace("ports = 21,", "ports = [21, 2121],"));
        daemons.iter().for_each(|daemon| assert!(daemon.run(&["reload"]).status.success()));
        assert!(transfer.finish(), "{dataplane} {}: a reload that leaves the rule", way.0);
        let transfer = begin();
        configure(&site, false);
        daemons.iter().for_each(|daemon| assert!(daemon.run(&["reload"]).status.success()));
        assert!(!transfer.ends(), "{dataplane} {}: without its helper", way.0);
        // And none begins, however it is asked for.
        let asked = WAYS.map(|(way, options)| (way, "ftp", &options[2..])).into_iter();
        thread::scope(|scope| {
            for (way, scheme, options) in asked.chain([("TFTP", "tftp", &[][..])]) {
                let (server, client) = (&server, &site.web1);
                scope.spawn(move || {
                    let short: Vec<&str> = ["--max-time", "3"].iter().chain(options).copied().collect();
                    let gave = server.gives(client, 0, scheme, &short);
                    assert!(!gave, "{dataplane}: {way} without a helper");
                });
            }
        });
    }
}

/// The programs carry it while there is no daemon, and the next one knows by what it was let in.
#[test]
fn a_transfer_outlives_the_daemon() {
    for way in [WAYS[0], WAYS[3]] {
        let Some((site, [alpha, beta])) = running("ebpf") else { return };
        leave_no_room(&site);
        let server = Server::start(&site, &site.db1, "21");
        let begin = || Transfer::begin(&site, &server, way.1);
        let is_carried = |daemon: &Daemon| {
            related(daemon, "ftp").iter().any(|row| row["offloaded"] == true && row["state"] == "established")
        };
        let transfer = begin();
        for daemon in [&alpha, &beta] {
            wait_for("it is carried", || is_carried(daemon));
        }
        alpha.kill();
        beta.kill();
        let [alpha, beta] = ["alpha", "beta"].map(|host| site.run_with(host, "ebpf"));
        for daemon in [&alpha, &beta] {
            wait_for("it is known to the next daemon", || is_carried(daemon));
        }
        assert!(transfer.finish(), "{}", way.0);
        // By its policy: without the helper it ends there, as with a reload.
        let transfer = begin();
        for daemon in [&alpha, &beta] {
            wait_for("it is carried", || is_carried(daemon));
        }
        beta.kill();
        configure(&site, false);
        let beta = site.run_with("beta", "ebpf");
        wait_for("it is refused", || beta.drops().contains_key("policy-changed"));
        drop(transfer);
    }
}

/// Whether a connection comes about before its first SYN is sent again.
fn opens(from: &Space, to: &Space, at: SocketAddr) -> bool {
    // Where something else listens there, it is reached as well.
    let listener = to.enter(move || listen(at).ok());
    let opened = from.enter(move || TcpStream::connect_timeout(&at, Duration::from_millis(700)).is_ok());
    drop(listener);
    opened
}

fn listen(at: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&at.into())?;
    socket.listen(1)?;
    Ok(socket.into())
}

/// Both ends of a control connection in a test's hands: client and server
struct Talk([TcpStream; 2]);

impl Talk {
    fn new(client: &Space, server: &Space, at: IpAddr) -> Self {
        let at = SocketAddr::new(at, 21);
        let listener = server.enter(move || listen(at).unwrap());
        let mut called = None;
        wait_for("a control connection", || {
            called = client.enter(move || TcpStream::connect_timeout(&at, Duration::from_millis(700)).ok());
            called.is_some()
        });
        let (answering, _) = listener.accept().unwrap();
        let both = [called.unwrap(), answering];
        for end in &both {
            end.set_nodelay(true).unwrap();
            end.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        }
        Self(both)
    }

    /// One end says something, and the other one hears it.
    fn say(&mut self, by: usize, text: &str) {
        self.0[by].write_all(text.as_bytes()).unwrap();
        let heard = self.0[1 - by].read_exact(&mut vec![0; text.len()]);
        heard.unwrap_or_else(|error| panic!("{text:?} is not heard: {error}"));
    }
}

const CLIENT: usize = 0;
const SERVER: usize = 1;

/// What may be said, and what is opened by it then.
struct Case {
    said: &'static [(usize, &'static str)],
    /// Who opens it
    by: usize,
    port: u16,
    /// Not where Linux drops what is said: a command that it finds and cannot read
    linux: Option<bool>,
    eastgate: bool,
}

const fn case(said: &'static [(usize, &'static str)], by: usize, port: u16, opens: bool) -> Case {
    Case { said, by, port, linux: Some(opens), eastgate: opens }
}

/// Linux takes it, and eastgate does not: see docs/policies.md.
const fn stricter(said: &'static [(usize, &'static str)], by: usize, port: u16) -> Case {
    Case { said, by, port, linux: Some(true), eastgate: false }
}

/// Linux drops it, and its sender sends it for ever.
const fn dropped(said: &'static [(usize, &'static str)], by: usize, port: u16) -> Case {
    Case { said, by, port, linux: None, eastgate: false }
}

/// Between 10.1.0.11 and 10.1.0.21; port 42_0xx is 164,16+xx.
const CASES: &[Case] = &[
    case(&[(CLIENT, "PORT 10,1,0,11,164,17\r\n")], SERVER, 42_001, true),
    case(&[(CLIENT, "port 10,1,0,11,164,18\r\n")], SERVER, 42_002, true),
    case(&[(CLIENT, "EPRT |1|10.1.0.11|42003|\r\n")], SERVER, 42_003, true),
    case(
        &[(CLIENT, "PASV\r\n"), (SERVER, "227 Entering Passive Mode (10,1,0,21,164,20).\r\n")],
        CLIENT,
        42_004,
        true,
    ),
    case(&[(CLIENT, "PASV\r\n"), (SERVER, "227 =10,1,0,21,164,21\r\n")], CLIENT, 42_005, true),
    case(
        &[(CLIENT, "EPSV\r\n"), (SERVER, "229 Extended Passive Mode (|||42006|)\r\n")],
        CLIENT,
        42_006,
        true,
    ),
    // Another host, another port, another end
    case(&[(CLIENT, "PORT 10,1,0,12,164,23\r\n")], SERVER, 42_007, false),
    case(&[(CLIENT, "EPRT |1|10.1.0.12|42008|\r\n")], SERVER, 42_008, false),
    case(&[(CLIENT, "PASV\r\n"), (SERVER, "227 Passive (10,1,0,12,164,25)\r\n")], CLIENT, 42_009, false),
    case(&[(CLIENT, "PORT 10,1,0,11,164,26\r\n")], SERVER, 42_090, false),
    case(&[(CLIENT, "PORT 10,1,0,11,164,27\r\n")], CLIENT, 42_011, false),
    case(&[(CLIENT, "PORT 10,1,0,21,164,27\r\n")], CLIENT, 42_011, false),
    case(&[(SERVER, "PORT 10,1,0,21,164,28\r\n")], CLIENT, 42_012, false),
    case(&[(CLIENT, "227 Passive (10,1,0,11,164,29)\r\n")], SERVER, 42_013, false),
    // What is no announcement
    case(&[(CLIENT, "NOOP\r\n")], SERVER, 42_014, false),
    case(&[(CLIENT, "XPORT 10,1,0,11,164,31\r\n")], SERVER, 42_015, false),
    case(&[(CLIENT, "STOR PORT 10,1,0,11,164,32\r\n")], SERVER, 42_016, false),
    case(&[(CLIENT, "PASV\r\n"), (SERVER, "500 227 (10,1,0,21,164,33)\r\n")], CLIENT, 42_017, false),
    dropped(&[(CLIENT, "EPRT |3|10.1.0.11|42018|\r\n")], SERVER, 42_018),
    dropped(&[(CLIENT, "EPRT |1|10.1.0.11|0|\r\n")], SERVER, 42_019),
    // The beginning of a segment that begins no line
    case(&[(CLIENT, "STOR some"), (CLIENT, "PORT 10,1,0,11,164,36\r\n")], SERVER, 42_020, false),
    // One is expected at a time.
    case(
        &[(CLIENT, "PORT 10,1,0,11,164,37\r\n"), (CLIENT, "PORT 10,1,0,11,164,38\r\n")],
        SERVER,
        42_021,
        false,
    ),
    case(
        &[(CLIENT, "PORT 10,1,0,11,164,39\r\n"), (CLIENT, "PORT 10,1,0,11,164,40\r\n")],
        SERVER,
        42_024,
        true,
    ),
    stricter(&[(SERVER, "227 Passive (10,1,0,21,164,41)\r\n")], CLIENT, 42_025),
    stricter(&[(CLIENT, "PORT 10,1,0,11,3,232\r\n")], SERVER, 1000),
    stricter(&[(CLIENT, "PASV\r\n"), (SERVER, "227 Passive (10,1,0,21,3,232)\r\n")], CLIENT, 1000),
    stricter(
        &[
            (CLIENT, "PASV\r\n"),
            (SERVER, "250-A file:\r\n"),
            (SERVER, "227 (10,1,0,21,164,42)\r\n"),
            (SERVER, "250 done\r\n"),
        ],
        CLIENT,
        42_026,
    ),
];

const ENDS: [IpAddr; 2] =
    [IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 0, 11)), IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 0, 21))];

fn story(spaces: [&Space; 2], who: &str, expected: impl Fn(&Case) -> Option<bool>) {
    for case in CASES {
        let Some(expected) = expected(case) else { continue };
        let mut talk = Talk::new(spaces[CLIENT], spaces[SERVER], ENDS[SERVER]);
        talk.say(SERVER, "220 ready\r\n");
        talk.say(CLIENT, "USER anonymous\r\n");
        for (by, text) in case.said {
            talk.say(*by, text);
        }
        let (from, to) = (case.by, 1 - case.by);
        let opened = opens(spaces[from], spaces[to], SocketAddr::new(ENDS[to], case.port));
        assert_eq!(opened, expected, "{who}: {:?}", case.said);
        if opened {
            assert!(
                !opens(spaces[from], spaces[to], SocketAddr::new(ENDS[to], case.port)),
                "{who}: twice, {:?}",
                case.said
            );
        }
    }
}

/// Two machines that let in port 21 and what is related, each with Linux's own helper
fn linux() -> Option<()> {
    let mut world = World::alone()?;
    let spaces = [world.space("client"), world.space("server")];
    world.cable((&spaces[0], "eth0"), (&spaces[1], "eth0"), 1500);
    for (space, address) in spaces.iter().zip(ENDS) {
        space.ip(&format!("addr add {address}/24 dev eth0"));
        for rule in [
            "-t raw -A PREROUTING -p tcp --dport 21 -j CT --helper ftp",
            "-t raw -A OUTPUT -p tcp --dport 21 -j CT --helper ftp",
            "-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
            "-A INPUT -p tcp --dport 21 -j ACCEPT",
            "-A INPUT -j DROP",
        ] {
            must(command::run(space.command("iptables").args(rule.split_whitespace())));
        }
    }
    story([&spaces[0], &spaces[1]], "Linux", |case| case.linux);
    Some(())
}

#[test]
fn what_both_sides_say_is_read_as_linux_reads_it() {
    if linux().is_none() {
        return;
    }
    for dataplane in DATAPLANES {
        let Some((site, daemons)) = running(dataplane) else { return };
        story([&site.web1, &site.db1], dataplane, |case| Some(case.eastgate));
        for daemon in &daemons {
            let status = daemon.ask(&["status"]);
            let unheeded = &status["helpers"]["unheeded"];
            for why in ["other-address", "low-port", "unasked", "unread"] {
                assert!(unheeded[why].as_u64().unwrap() > 0, "{dataplane}: {unheeded}");
            }
        }
    }
}

fn begun(daemon: &Daemon) -> u64 {
    daemon.ask(&["status"])["helpers"]["begun"].as_u64().unwrap()
}

/// FTP bounce: whatever client and server agree on, a third machine is not reached, and what they agree on is not the third's.
#[test]
fn a_third_machine_is_out_of_it() {
    for dataplane in DATAPLANES {
        let Some((site, daemons)) = running(dataplane) else { return };
        let mut talk = Talk::new(&site.web1, &site.db1, ENDS[SERVER]);
        let web2: IpAddr = "10.1.0.12".parse().unwrap();
        for (number, announced) in (0u16..).zip(["PORT 10,1,0,12,164,16\r\n", "EPRT |1|10.1.0.12|42000|\r\n"])
        {
            talk.say(CLIENT, announced);
            assert!(!opens(&site.db1, &site.web2, SocketAddr::new(web2, 42_000)), "{dataplane}: {announced}");
            // Refused where its sender's rules are applied, and counted there with its reason and on both hosts with the helper's.
            let refused = || daemons[1].drops().get("egress-denied").copied() > Some(number.into());
            wait_for(&format!("{dataplane}: {announced:?} is refused"), refused);
            for daemon in &daemons {
                let counted = daemon.ask(&["status"])["helpers"]["unheeded"]["other-address"].clone();
                assert_eq!(counted, u64::from(number) + 1, "{dataplane}");
            }
        }
        talk.say(CLIENT, "PASV\r\n");
        talk.say(SERVER, "227 Entering Passive Mode (10,1,0,21,164,17)\r\n");
        let named = SocketAddr::new(ENDS[SERVER], 42_001);
        assert!(!opens(&site.web2, &site.db1, named), "{dataplane}: another client");
        let shown = daemons[1].ask(&["show", "expectations"]);
        let row = &shown["expectations"][0];
        assert_eq!(
            (&row["src"], &row["dst"], &row["dport"]),
            (&"10.1.0.11".into(), &"10.1.0.21".into(), &42_001.into())
        );
        assert!(row["expires_s"].as_u64().unwrap() > 200, "{row}");
        // Both hosts have heard it, and what it opens is of the one flow that it names.
        assert!(opens(&site.web1, &site.db1, named), "{dataplane}");
        daemons.iter().for_each(|daemon| assert_eq!(begun(daemon), 1));
        // With the control connection what it has announced is gone.
        talk.say(CLIENT, "PASV\r\n");
        talk.say(SERVER, "227 Entering Passive Mode (10,1,0,21,164,18)\r\n");
        socket2::SockRef::from(&talk.0[CLIENT]).set_linger(Some(Duration::ZERO)).unwrap();
        drop(talk);
        for daemon in &daemons {
            wait_for("nothing is expected", || daemon.ask(&["show", "expectations"])["total"] == 0);
        }
        assert!(!opens(&site.web1, &site.db1, SocketAddr::new(ENDS[SERVER], 42_002)), "{dataplane}");
    }
}
