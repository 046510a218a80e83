//! What FTP and TFTP agree on passes by the rule that names their helper, and nothing beside it.

use std::time::Duration;

use eastgate_conntrack::{
    expect::{LASTS, MOST_OF_ENDPOINT},
    flow::{FlowFilter, FlowInfo},
    helper::Unheeded,
};
use eastgate_testkit::parse;
use eastgate_wire::{Family, view::proto};
use etherparse::TcpHeader;

use super::{frames::*, net::Net, scene::*};
use crate::pipeline::{helpers::HelperCounts, shared::lock};

/// Clients may ask servers for files, and that is all.
const FILES: &str = r#"
[tenant.acme.group.web]
egress = [
  { proto = "tcp", ports = 21, to = "group:db", helper = "ftp" },
  { proto = "udp", ports = 69, to = "group:db", helper = "tftp" },
]
[tenant.acme.group.db]
ingress = [
  { proto = "tcp", ports = 21, from = "group:web", helper = "ftp" },
  { proto = "udp", ports = 69, from = "group:web", helper = "tftp" },
]
"#;

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

fn net() -> Net {
    Net::new(&scene_with("", FILES))
}

/// A TCP connection between two endpoints, each with its station's number.
#[derive(Clone, Copy)]
struct Connection {
    ends: [(&'static str, u8); 2],
    ports: [u16; 2],
    family: Family,
    /// What both sides send next
    next: [u32; 2],
}

const CLIENT: (&str, u8) = ("web1", WEB1);
/// On the client's own host, and on another one
const SERVERS: [(&str, u8); 2] = [("db2", DB2), ("db1", DB1)];

impl Connection {
    fn new(from: (&'static str, u8), to: (&'static str, u8), ports: [u16; 2], family: Family) -> Self {
        Self { ends: [from, to], ports, family, next: [1000, 5000] }
    }

    fn segment(&self, side: usize, change: impl FnOnce(&mut TcpHeader), payload: &[u8]) -> Vec<u8> {
        let (own, other) = (side, 1 - side);
        let mut tcp = TcpHeader::new(self.ports[own], self.ports[other], self.next[own], 60_000);
        (tcp.ack, tcp.acknowledgment_number) = (true, self.next[other]);
        change(&mut tcp);
        let (a, b) = (self.ends[own].1, self.ends[other].1);
        let ip = if self.family == Family::V4 { ip4(a, b, df) } else { ip6(a, b) };
        let mut frame = Vec::new();
        ip.tcp_header(tcp).write(&mut frame, payload).unwrap();
        frame
    }

    /// A segment of one side, what became of it in words, and the other side's name when it arrived.
    fn send(&mut self, net: &mut Net, side: usize, payload: &[u8]) -> bool {
        let frame = self.segment(side, |_| (), payload);
        self.next[side] = self.next[side].wrapping_add(payload.len() as u32);
        net.send(self.ends[side].0, frame).reached(self.ends[1 - side].0)
    }

    fn syn(&self, net: &mut Net) -> String {
        let syn =
            self.segment(0, |tcp| (tcp.syn, tcp.ack, tcp.acknowledgment_number) = (true, false, 0), b"");
        net.send(self.ends[0].0, syn).to_string()
    }

    /// Whether it comes about.
    fn opens(&mut self, net: &mut Net) -> bool {
        if self.syn(net) != self.ends[1].0 {
            return false;
        }
        self.next[0] += 1;
        let answer = self.segment(1, |tcp| tcp.syn = true, b"");
        self.next[1] += 1;
        assert_eq!(net.send(self.ends[1].0, answer), self.ends[0].0);
        assert!(self.send(net, 0, b""));
        true
    }

    fn line(&mut self, net: &mut Net, side: usize, line: &str) {
        assert!(self.send(net, side, format!("{line}\r\n").as_bytes()), "{line}");
    }

    fn ends_by_reset(&self, net: &mut Net) {
        let reset = self.segment(0, |tcp| tcp.rst = true, b"");
        assert_eq!(net.send(self.ends[0].0, reset), self.ends[1].0);
    }
}

/// A control connection on which both sides have said hello.
fn control(net: &mut Net, server: (&'static str, u8), sport: u16, family: Family) -> Connection {
    let mut control = Connection::new(CLIENT, server, [sport, 21], family);
    assert!(control.opens(net));
    control.line(net, 1, "220 ready");
    control.line(net, 0, "USER anonymous");
    control.line(net, 1, "230 welcome");
    control
}

/// What a client says to have the server call it at a port.
fn active(family: Family, station: u8, port: u16) -> String {
    match family {
        Family::V4 => format!("PORT 10,1,0,{station},{},{}", port >> 8, port & 0xff),
        Family::V6 => format!("EPRT |2|fd00:1::{station:x}|{port}|"),
    }
}

/// What a server at a station says to have a client call it at a port.
fn passive(family: Family, station: u8, port: u16) -> [String; 2] {
    match family {
        Family::V4 => [
            "PASV".into(),
            format!("227 Entering Passive Mode (10,1,0,{station},{},{}).", port >> 8, port & 0xff),
        ],
        Family::V6 => ["EPSV".into(), format!("229 Entering Extended Passive Mode (|||{port}|)")],
    }
}

fn announce_passive(net: &mut Net, control: &mut Connection, port: u16) {
    let [command, reply] = passive(control.family, control.ends[1].1, port);
    control.line(net, 0, &command);
    control.line(net, 1, &reply);
}

fn flows(net: &Net, host: &str) -> Vec<FlowInfo> {
    let (mut page, now) = (Vec::new(), net.now());
    for table in net.shared(host).all_flows() {
        assert_eq!(lock(table).page(0, 1000, &FlowFilter::default(), now, &mut page), None);
    }
    page.sort_by_key(|flow| flow.created);
    page
}

fn counts(net: &Net, host: &str) -> HelperCounts {
    net.shared(host).helpers.counts()
}

fn unheeded(net: &Net, host: &str, why: Unheeded) -> u64 {
    counts(net, host).unheeded[why as usize]
}

#[test]
fn a_client_reaches_the_port_that_the_server_has_named_once() {
    for (family, server) in FAMILIES.into_iter().flat_map(|family| SERVERS.map(|server| (family, server))) {
        let mut net = net();
        let mut control = control(&mut net, server, 40_000, family);
        let mut early = Connection::new(CLIENT, server, [40_001, 50_000], family);
        assert!(!early.opens(&mut net), "before it is named");
        announce_passive(&mut net, &mut control, 50_000);
        let mut other = Connection::new(CLIENT, server, [40_001, 50_001], family);
        assert!(!other.opens(&mut net), "another port");
        let mut data = Connection::new(CLIENT, server, [40_002, 50_000], family);
        assert!(data.opens(&mut net), "{family:?} {server:?}");
        assert!(data.send(&mut net, 1, b"a file") && data.send(&mut net, 0, b""));
        let mut again = Connection::new(CLIENT, server, [40_003, 50_000], family);
        assert!(!again.opens(&mut net), "a second time");
        // It goes on without its control connection.
        control.ends_by_reset(&mut net);
        assert!(data.send(&mut net, 1, b"more of it"));
        for host in ["alpha", "beta"].into_iter().filter(|host| server.0 == "db1" || *host == "alpha") {
            let HelperCounts { expected, announced, begun, .. } = counts(&net, host);
            assert_eq!((expected, announced, begun), (0, 1, 1), "{host}");
        }
    }
}

#[test]
fn a_server_reaches_the_port_that_the_client_has_named() {
    for (family, server) in FAMILIES.into_iter().flat_map(|family| SERVERS.map(|server| (family, server))) {
        let mut net = net();
        let mut control = control(&mut net, server, 40_000, family);
        control.line(&mut net, 0, &active(family, WEB1, 41_000));
        control.line(&mut net, 1, "200 PORT command successful");
        assert!(!Connection::new(server, CLIENT, [20, 41_001], family).opens(&mut net), "another port");
        let mut data = Connection::new(server, CLIENT, [20, 41_000], family);
        assert!(data.opens(&mut net), "{family:?} {server:?}");
        assert!(data.send(&mut net, 0, b"a file"));
        // The next transfer
        control.line(&mut net, 0, &active(family, WEB1, 41_002));
        assert!(Connection::new(server, CLIENT, [20, 41_002], family).opens(&mut net));
        // Names of rules and helper: those of the control connection, at the end whose rule each is
        let flow = flows(&net, "alpha").into_iter().find(|flow| flow.key.dport == 41_000).unwrap();
        let related = flow.related.unwrap();
        let control = related.control(&flow.key);
        assert_eq!((related.helper.name(), control.sport, control.dport), ("ftp", 40_000, 21));
        assert_eq!(control.dst, flow.key.src);
        let network = net.snapshot("alpha").networks()[0].clone();
        let rule = |id| network.rules.reference("acme", id).unwrap().rule;
        assert_eq!(rule(flow.ingress_rule), "acme/web egress #1");
        if server.0 == "db2" {
            assert_eq!(rule(flow.egress_rule), "acme/db ingress #1");
        }
        let control = flows(&net, "alpha").into_iter().find(|flow| flow.key.dport == 21).unwrap();
        assert_eq!((control.helper.map(|it| it.name()), control.related), (Some("ftp"), None));
    }
}

fn tftp(from: u8, to: u8, ports: [u16; 2], payload: &[u8], family: Family) -> Vec<u8> {
    let ip = if family == Family::V4 { ip4(from, to, |_| ()) } else { ip6(from, to) };
    udp_of(ip, ports[0], ports[1], payload)
}

#[test]
fn a_transfer_of_tftp_goes_on_from_another_port() {
    for (family, (server, station)) in
        FAMILIES.into_iter().flat_map(|family| SERVERS.map(|server| (family, server)))
    {
        let mut net = net();
        let data = |sport, dport| tftp(station, WEB1, [sport, dport], b"\0\x03\0\x01data", family);
        let request = tftp(WEB1, station, [40_000, 69], b"\0\x01file\0octet\0", family);
        let denied = |host| format!("egress-denied at {host}");
        let at = if server == "db1" { "beta" } else { "alpha" };
        assert_eq!(net.send(server, data(50_000, 40_000)), &*denied(at), "before it was asked");
        assert_eq!(net.send("web1", request), server);
        assert_eq!(net.send(server, data(50_000, 40_001)), &*denied(at), "another port");
        assert_eq!(net.send(server, data(50_000, 40_000)), "web1");
        let ack = tftp(WEB1, station, [40_000, 50_000], b"\0\x04\0\x01", family);
        assert_eq!(net.send("web1", ack), server);
        // One flow, as long as it lasts, which is longer than the request's.
        assert_eq!(net.send(server, data(50_001, 40_000)), &*denied(at), "from a second port");
        net.pass(Duration::from_secs(25));
        assert_eq!(net.send(server, data(50_000, 40_000)), "web1");
        net.pass(Duration::from_secs(25));
        assert_eq!(net.send(server, data(50_000, 40_000)), "web1");
        // What is no request announces nothing.
        let noise = tftp(WEB1, station, [40_009, 69], b"\0\x05\0\x01file\0octet\0", family);
        assert_eq!(net.send("web1", noise), server);
        assert_eq!(net.send(server, data(50_009, 40_009)), &*denied(at));
    }
}

/// The FTP bounce (RFC 2577): whatever the two ends of a control connection say, a third one is not reached, nor is a service.
#[test]
fn nobody_opens_anything_at_a_third_one_nor_at_a_service() {
    for family in FAMILIES {
        let mut net = net();
        let server = SERVERS[0];
        let mut control = control(&mut net, server, 40_000, family);
        for line in [active(family, WEB3, 41_000), active(family, WEB1, 22), active(family, DB2, 41_000)] {
            control.line(&mut net, 0, &line);
        }
        for (station, port) in [(DB1, 50_000), (DB2, 22)] {
            announce_passive(&mut net, &mut control, port);
            let [command, reply] = passive(Family::V4, station, port);
            control.line(&mut net, 0, &command);
            control.line(&mut net, 1, &reply);
        }
        // The answer to EPSV names no host: that was the server's own.
        let own = if family == Family::V6 { 1 } else { 0 };
        for (from, to, port) in [
            (server, ("web3", WEB3), 41_000),
            (server, CLIENT, 22),
            (CLIENT, ("db1", DB1), 50_000),
            (CLIENT, server, 22),
            (("web3", WEB3), server, 50_000),
            (("web3", WEB3), CLIENT, 41_000),
            (server, ("db1", DB1), 50_000),
        ] {
            let mut data = Connection::new(from, to, [20, port], family);
            assert!(!data.opens(&mut net), "{from:?} to {to:?} port {port}");
        }
        assert!(unheeded(&net, "alpha", Unheeded::OtherAddress) >= 3);
        assert!(unheeded(&net, "alpha", Unheeded::LowPort) >= 2);
        let expected = counts(&net, "alpha").expected;
        assert!(expected <= own + 1, "{expected}");
    }
}

/// What cannot begin for another reason goes on being expected.
#[test]
fn an_expectation_waits_for_a_flow_that_has_no_room() {
    let mut net = Net::new(&scene_with("limits = { new_flows = 2 }", FILES));
    let mut control = control(&mut net, SERVERS[0], 40_000, Family::V4);
    announce_passive(&mut net, &mut control, 50_000);
    // The last one that may begin for now
    assert_eq!(net.send("web1", tftp(WEB1, DB2, [7000, 69], b"\0\x01f\0octet\0", Family::V4)), "db2");
    let mut data = Connection::new(CLIENT, SERVERS[0], [40_001, 50_000], Family::V4);
    assert_eq!(data.syn(&mut net), "new-flow-limit at alpha");
    net.pass(Duration::from_secs(2));
    assert!(data.opens(&mut net));
}

#[test]
fn without_a_helper_nobody_reads_anything() {
    let mut net = Net::new(&scene_with("", &FILES.replace(", helper = \"ftp\"", "")));
    let mut control = control(&mut net, SERVERS[0], 40_000, Family::V4);
    announce_passive(&mut net, &mut control, 50_000);
    assert!(!Connection::new(CLIENT, SERVERS[0], [40_001, 50_000], Family::V4).opens(&mut net));
    assert_eq!(counts(&net, "alpha"), HelperCounts::default());
    assert!(flows(&net, "alpha").iter().all(|flow| flow.helper.is_none()));
}

/// A helper opens at the end whose rule names it: what it does makes no difference between one host and two.
#[test]
fn each_end_opens_by_a_rule_of_its_own() {
    let of_server = "from = \"group:web\", helper = \"ftp\"";
    let groups = FILES.replace(of_server, "from = \"group:web\"");
    for server in SERVERS {
        let mut net = Net::new(&scene_with("", &groups));
        let mut control = control(&mut net, server, 40_000, Family::V4);
        announce_passive(&mut net, &mut control, 50_000);
        let at = if server.0 == "db1" { "beta" } else { "alpha" };
        let data = Connection::new(CLIENT, server, [40_001, 50_000], Family::V4);
        assert_eq!(data.syn(&mut net), format!("ingress-denied at {at}"));
        // Where the other end allows it by itself, one is enough.
        let open = groups.replace("[tenant.acme.group.db]\ningress = [", "[tenant.acme.group.db]\ningress = [\n  { proto = \"tcp\", ports = \"50000-50010\", from = \"any\" },");
        let mut net = Net::new(&scene_with("", &open));
        let mut control = self::control(&mut net, server, 40_000, Family::V4);
        announce_passive(&mut net, &mut control, 50_000);
        assert!(Connection::new(CLIENT, server, [40_002, 50_000], Family::V4).opens(&mut net));
        assert!(!Connection::new(CLIENT, server, [40_003, 50_001], Family::V4).opens(&mut net));
    }
}

#[test]
fn an_expectation_ends_with_its_time_and_with_its_control_connection() {
    let reach = |net: &mut Net, port| {
        Connection::new(CLIENT, SERVERS[0], [40_001, port], Family::V4).syn(net) == SERVERS[0].0
    };
    let mut net = net();
    let mut control = control(&mut net, SERVERS[0], 40_000, Family::V4);
    announce_passive(&mut net, &mut control, 50_000);
    net.pass(LASTS - Duration::from_secs(1));
    assert_eq!(counts(&net, "alpha").expected, 1);
    net.pass(Duration::from_secs(1));
    assert!(!reach(&mut net, 50_000));
    assert_eq!((counts(&net, "alpha").expected, counts(&net, "alpha").overdue), (0, 1));
    // Said again, it lasts as long again.
    announce_passive(&mut net, &mut control, 50_001);
    net.pass(LASTS - Duration::from_secs(1));
    assert!(reach(&mut net, 50_001));
    // A control connection has one at a time.
    announce_passive(&mut net, &mut control, 50_002);
    announce_passive(&mut net, &mut control, 50_003);
    assert_eq!(counts(&net, "alpha").expected, 1);
    assert!(!reach(&mut net, 50_002) && reach(&mut net, 50_003));
    announce_passive(&mut net, &mut control, 50_004);
    control.ends_by_reset(&mut net);
    assert_eq!(counts(&net, "alpha").expected, 0);
    assert!(!reach(&mut net, 50_004));
    // One whose time is over
    let mut control = self::control(&mut net, SERVERS[0], 40_010, Family::V4);
    announce_passive(&mut net, &mut control, 50_005);
    assert_eq!(net.shared("alpha").end_flows(&|flow| flow.key.dport == 21, 9, net.now()), 2);
    assert_eq!(counts(&net, "alpha").expected, 0);
}

/// What is not of the connection as it is followed is not read.
#[test]
fn only_segments_that_pass_are_read() {
    let mut net = net();
    let server = SERVERS[0];
    let mut control = control(&mut net, server, 40_000, Family::V4);
    let line = format!("{}\r\n", active(Family::V4, WEB1, 41_000));
    let outside = control.segment(
        0,
        |tcp| tcp.sequence_number = tcp.sequence_number.wrapping_add(1 << 30),
        line.as_bytes(),
    );
    assert_eq!(net.send("web1", outside), "tcp-window at alpha");
    let mut damaged = control.segment(0, |_| (), line.as_bytes());
    damaged[50] ^= 1;
    assert_eq!(net.send("web1", damaged), "bad-checksum at alpha");
    assert_eq!(counts(&net, "alpha"), HelperCounts::default());
    // A line in two segments, of which the second comes first, and the first twice
    let (first, second) = line.as_bytes().split_at(9);
    let early = control.segment(0, |tcp| tcp.sequence_number += 9, second);
    assert_eq!(net.send("web1", early), server.0);
    assert_eq!(counts(&net, "alpha").announced, 0);
    assert!(control.send(&mut net, 0, first));
    control.next[0] -= 9;
    assert!(control.send(&mut net, 0, first));
    assert_eq!(counts(&net, "alpha").announced, 0);
    assert!(control.send(&mut net, 0, second));
    assert_eq!(counts(&net, "alpha").announced, 1);
    assert!(Connection::new(server, CLIENT, [20, 41_000], Family::V4).opens(&mut net));
}

#[test]
fn a_reload_decides_what_was_announced_anew() {
    let with = |groups: &str| parse(&scene_with("", groups));
    let server = SERVERS[0];
    for (family, change, goes_on) in [
        (Family::V4, ("ports = 21, to", "ports = [21, 2121], to"), true),
        (Family::V6, ("ports = 21, to", "ports = [21, 2121], to"), true),
        (Family::V4, (", helper = \"ftp\" },\n  { proto = \"udp\"", " },\n  { proto = \"udp\""), false),
        (Family::V6, (", helper = \"ftp\" },\n  { proto = \"udp\"", " },\n  { proto = \"udp\""), false),
        (Family::V4, ("ports = 21,", "ports = 22,"), false),
    ] {
        let mut net = Net::of(&with(FILES));
        let mut control = control(&mut net, server, 40_000, family);
        announce_passive(&mut net, &mut control, 50_000);
        let mut data = Connection::new(CLIENT, server, [40_001, 50_000], family);
        assert!(data.opens(&mut net));
        control.line(&mut net, 0, &active(family, WEB1, 41_000));
        net.install(&with(&FILES.replace(change.0, change.1)));
        assert_eq!(data.send(&mut net, 1, b"more"), goes_on, "{change:?}");
        assert_eq!(data.send(&mut net, 0, b""), goes_on, "{change:?}");
        let mut expected = Connection::new(server, CLIENT, [20, 41_000], family);
        assert_eq!(expected.opens(&mut net), goes_on, "{change:?}");
    }
    // A helper that a rule gets follows connections that are there.
    let mut net = Net::of(&with(&FILES.replace(", helper = \"ftp\"", "")));
    let mut control = control(&mut net, server, 40_000, Family::V4);
    net.install(&with(FILES));
    announce_passive(&mut net, &mut control, 50_000);
    assert!(Connection::new(CLIENT, server, [40_001, 50_000], Family::V4).opens(&mut net));
    net.install(&with(&FILES.replace(", helper = \"ftp\"", "")));
    announce_passive(&mut net, &mut control, 50_001);
    assert!(!Connection::new(CLIENT, server, [40_002, 50_001], Family::V4).opens(&mut net));
    assert_eq!(counts(&net, "alpha").expected, 0);
}

/// What is asked before the rule that names the helper is asked of the announced flow as well; what comes behind it is not.
#[test]
fn a_helper_stands_where_its_rule_does() {
    let policy = |position: &str, name: &str, rules: &str| {
        format!(
            "[{name}]\nposition = \"{position}\"\napplies_to = {}\n{rules}\n",
            if name.starts_with("tenant") { "\"tenant\"" } else { "\"site\"" }
        )
    };
    let deny_high =
        "ingress = [{ action = \"deny\", proto = \"tcp\", ports = \"50000-50999\", from = \"any\" }]";
    let deny_all = "ingress = [{ action = \"deny\", from = \"any\" }]";
    let lists = |first: &str, last: &str| {
        format!(
            "ingress = [{first}{{ action = \"allow\", proto = \"tcp\", ports = 21, from = \"any\", helper = \"ftp\" }}{last}]\n\
             egress = [{{ action = \"allow\", proto = \"tcp\", ports = 21, to = \"any\", helper = \"ftp\" }}]"
        )
    };
    let deny = "{ action = \"deny\", proto = \"tcp\", ports = \"50000-50999\", from = \"any\" }";
    let own = |first: &str, last: &str| policy("before", "tenant.acme.policy.files", &lists(first, last));
    let other =
        |order: u32| policy("before", "tenant.acme.policy.other", &format!("order = {order}\n{deny_high}"));
    for (what, policies, passes) in [
        ("the site denies it before", policy("before", "policy.site", deny_high), false),
        ("the tenant denies it before", policy("before", "tenant.acme.policy.own", deny_high), false),
        (
            "the tenant denies everything else behind",
            policy("after", "tenant.acme.policy.own", deny_all),
            true,
        ),
        ("the site denies everything else behind", policy("after", "policy.site", deny_all), true),
        ("a rule before it in its own policy", own(&format!("{deny}, "), ""), false),
        ("a rule behind it in its own policy", own("", &format!(", {deny}")), true),
        ("the end of its own policy", format!("{}end = \"deny\"\n", own("", "")), true),
        ("a policy before it in its place", own("", "") + &other(1), false),
        ("a policy behind it in its place", own("", "") + &other(200), true),
    ] {
        let mut net = Net::new(&(scene_with("", FILES) + &policies));
        let mut control = control(&mut net, SERVERS[0], 40_000, Family::V4);
        announce_passive(&mut net, &mut control, 50_000);
        let mut data = Connection::new(CLIENT, SERVERS[0], [40_001, 50_000], Family::V4);
        assert_eq!(data.opens(&mut net), passes, "{what}");
    }
    // What is only tried out is not told of what a helper has announced.
    let audit = scene_with("", FILES)
        .replace("[tenant.acme.network", "[tenant.acme]\nmode = \"audit\"\n[tenant.acme.network");
    let mut net = Net::new(&audit);
    let mut control = control(&mut net, SERVERS[0], 40_000, Family::V4);
    announce_passive(&mut net, &mut control, 50_000);
    assert!(Connection::new(CLIENT, SERVERS[0], [40_001, 50_000], Family::V4).opens(&mut net));
    assert!(crate::pipeline::counters::would_drop_details(&net.shared("alpha").counters).is_empty());
    assert!(Connection::new(CLIENT, SERVERS[0], [40_002, 50_001], Family::V4).opens(&mut net));
    assert!(!crate::pipeline::counters::would_drop_details(&net.shared("alpha").counters).is_empty());
}

/// An error about a packet of an announced flow passes as one of any other does, also after a reload.
#[test]
fn errors_about_an_announced_flow_pass() {
    let with = |groups: &str| parse(&scene_with("", groups));
    let mut net = Net::of(&with(FILES));
    let (server, station) = SERVERS[0];
    let request = tftp(WEB1, station, [40_000, 69], b"\0\x01file\0octet\0", Family::V4);
    assert_eq!(net.send("web1", request), server);
    let data = tftp(station, WEB1, [50_000, 40_000], b"\0\x03\0\x01data", Family::V4);
    assert_eq!(net.send(server, &data), "web1");
    let error = icmp_error(WEB1, station, 3, 3, &data);
    assert_eq!(net.send("web1", &error), server);
    net.install(&with(&FILES.replace("ports = 69, to", "ports = [69, 70], to")));
    assert_eq!(net.send("web1", &error), server);
    net.install(&with(&FILES.replace("ports = 69,", "ports = 70,")));
    assert!(!net.send("web1", &error).reached(server));
}

#[test]
fn an_endpoint_has_so_many_expectations_and_its_oldest_makes_room() {
    let mut net = Net::new(&scene_with("limits = { unreplied = 8000 }", FILES));
    let (server, station) = SERVERS[0];
    for sport in 0..=MOST_OF_ENDPOINT as u16 {
        let request = tftp(WEB1, station, [10_000 + sport, 69], b"\0\x01file\0octet\0", Family::V4);
        assert_eq!(net.send("web1", request), server);
    }
    let counted = counts(&net, "alpha");
    assert_eq!((counted.expected, counted.made_room), (MOST_OF_ENDPOINT as u64, 1));
    let data = |dport| tftp(station, WEB1, [50_000, dport], b"\0\x03\0\x01data", Family::V4);
    assert_eq!(net.send(server, data(10_000)), "egress-denied at alpha");
    assert_eq!(net.send(server, data(10_001)), "web1");
    // Another client is not kept from anything.
    assert_eq!(net.send("web3", tftp(WEB3, station, [7000, 69], b"\0\x01f\0octet\0", Family::V4)), server);
    assert_eq!(
        net.send(server, tftp(station, WEB3, [50_000, 7000], b"\0\x03\0\x01data", Family::V4)),
        "web3"
    );
    // With their control flows they are gone.
    net.pass(Duration::from_secs(31));
    assert!(flows(&net, "alpha").iter().all(|flow| flow.key.proto == proto::UDP && flow.key.dport != 69));
    net.pass(Duration::from_secs(1));
    net.pass(Duration::from_secs(1));
    net.pass(Duration::from_secs(1));
    net.pass(Duration::from_secs(1));
    assert_eq!(counts(&net, "alpha").expected, 0);
}

/// What an endpoint says is believed of its own address alone, also when another one has it meanwhile.
#[test]
fn an_expectation_is_between_the_endpoints_of_its_control_connection() {
    let shared = scene_with("", FILES)
        .replace(
            "addresses = [\"10.1.0.13\", \"fd00:1::d\"]\n",
            "addresses = [\"10.1.0.13\"]\nallowed_pairs = [{ address = \"10.1.0.99\" }]\n",
        )
        .replace(
            "addresses = [\"10.1.0.11\", \"fd00:1::b\"]\n",
            "addresses = [\"10.1.0.11\"]\nallowed_pairs = [{ address = \"10.1.0.99\" }]\n",
        );
    let mut net = Net::new(&shared);
    let as_99 = |station: u8, payload: &[u8], ports: [u16; 2]| {
        let mut frame = tftp(station, DB2, ports, payload, Family::V4);
        frame[26..30].copy_from_slice(&[10, 1, 0, 99]);
        frame[24..26].fill(0);
        let sum = eastgate_wire::checksum::checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        mend(&mut frame);
        frame
    };
    assert_eq!(net.send("web1", as_99(WEB1, b"\0\x01file\0octet\0", [40_000, 69])), "db2");
    let mut data = tftp(DB2, WEB3, [50_000, 40_000], b"\0\x03\0\x01data", Family::V4);
    data[30..34].copy_from_slice(&[10, 1, 0, 99]);
    data[24..26].fill(0);
    let sum = eastgate_wire::checksum::checksum(&data[14..34]);
    data[24..26].copy_from_slice(&sum.to_be_bytes());
    mend(&mut data);
    // web3 takes the address over.
    assert!(!net.send("web3", as_99(WEB3, b"hello", [7, 53])).reached("db2"));
    assert!(!net.send("db2", &data).reached("web3"));
}
