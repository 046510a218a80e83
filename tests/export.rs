//! Flows as a collector of IPFIX that nobody here wrote takes them (nfcapd), and as a file of lines.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{ErrorKind, Write as _},
    net::{IpAddr, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use common::{Daemon, EASTGATE, Sink, Stream, bind_udp, bulk, settle, site::*, wait_for};
use eastgate_testkit::process::Process;
use serde_json::Value;

/// Where nfcapd listens, and where the exporter sends to: the test sees each message and passes it on.
const COLLECTOR: &str = "127.0.0.1:4740";
const EXPORTED: &str = "127.0.0.1:4739";

/// A program that runs beside the daemon, and is ended with the test.
struct Beside(Child);

impl Beside {
    fn start(mut command: Command, log: &Path) -> Self {
        let log = fs::File::create(log).unwrap();
        Self(command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap())
    }

    fn stop(&mut self) {
        if let Some(process) = Process::new(self.0.id().cast_signed()) {
            process.stop();
        }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.stop();
    }
}

/// An `eastgate export` beside a daemon.
fn export(site: &Site, daemon: &Daemon, arguments: &[&str], log: &str) -> Beside {
    let mut command = site.alpha.command(EASTGATE);
    command.arg("export").args(arguments).arg("--socket").arg(daemon.socket());
    Beside::start(command, &site.world.path(log))
}

/// nfcapd, in the namespace of the host whose flows it collects.
struct Collector {
    program: Beside,
    folder: PathBuf,
    log: PathBuf,
    /// The messages that have been passed on to it
    messages: Vec<Vec<u8>>,
    socket: UdpSocket,
}

impl Collector {
    fn start(site: &Site) -> Self {
        site.alpha.ip("link set lo up");
        let (folder, log) = (site.world.path("nfcapd"), site.world.path("nfcapd.log"));
        fs::create_dir_all(&folder).unwrap();
        let mut command = site.alpha.command("nfcapd");
        command.args(["-b", "127.0.0.1", "-p", "4740", "-t", "3600", "-w"]).arg(&folder);
        let program = Beside::start(command, &log);
        let socket = site.alpha.enter(|| bind_udp(EXPORTED));
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        wait_for("nfcapd listens", || site.alpha.enter(|| UdpSocket::bind(COLLECTOR).is_err()));
        Self { program, folder, log, messages: Vec::new(), socket }
    }

    /// The records that have come so far, as scapy reads them.
    fn records(&mut self) -> Vec<Value> {
        let mut message = vec![0; 1 << 16];
        loop {
            match self.socket.recv(&mut message) {
                Ok(len) => {
                    self.socket.send_to(&message[..len], COLLECTOR).unwrap();
                    self.messages.push(message[..len].to_vec());
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
                Err(error) => panic!("{error}"),
            }
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scapy/ipfix.py");
        let mut reader = Command::new(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut to = reader.stdin.take().unwrap();
        for message in &self.messages {
            let digits: String = message.iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(to, "{digits}").unwrap();
        }
        drop(to);
        let output = reader.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Ends it, which is when it writes what it has; its flows.
    fn flows(mut self) -> Vec<Value> {
        self.program.stop();
        let log = fs::read_to_string(&self.log).unwrap();
        assert!(log.contains("Sequence Errors: 0, Bad Packets: 0"), "{log}");
        let mut reader = Command::new("nfdump");
        let output = reader.arg("-R").arg(&self.folder).args(["-q", "-o", "json"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        // A list without its brackets
        let text = format!("[{}]", String::from_utf8(output.stdout).unwrap().trim().trim_matches(['[', ']']));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

/// One direction of a flow: protocol, source, destination
type Way = (u64, IpAddr, u64, IpAddr, u64);

/// Packets and bytes of each, of what was forwarded
fn sums<'r>(records: impl IntoIterator<Item = (Way, u64, u64)> + 'r) -> BTreeMap<Way, (u64, u64)> {
    let mut sums = BTreeMap::new();
    for (way, packets, bytes) in records {
        let sum: &mut (u64, u64) = sums.entry(way).or_default();
        *sum = (sum.0 + packets, sum.1 + bytes);
    }
    sums
}

fn number(record: &Value, name: &str) -> u64 {
    record[name].as_u64().unwrap_or_default()
}

fn address(record: &Value, names: [&str; 2]) -> IpAddr {
    let found = names.iter().find_map(|name| record[name].as_str());
    found.unwrap_or_else(|| panic!("{names:?}: {record}")).parse().unwrap()
}

fn of_scapy(record: &Value) -> (Way, u64, u64) {
    let way = (
        number(record, "PROTOCOL"),
        address(record, ["IPV4_SRC_ADDR", "IPV6_SRC_ADDR"]),
        number(record, "L4_SRC_PORT"),
        address(record, ["IPV4_DST_ADDR", "IPV6_DST_ADDR"]),
        number(record, "L4_DST_PORT"),
    );
    (way, number(record, "IN_PKTS"), number(record, "IN_BYTES"))
}

fn of_nfdump(record: &Value) -> (Way, u64, u64) {
    let way = (
        number(record, "proto"),
        address(record, ["src4_addr", "src6_addr"]),
        number(record, "src_port"),
        address(record, ["dst4_addr", "dst6_addr"]),
        number(record, "dst_port"),
    );
    (way, number(record, "in_packets"), number(record, "in_bytes"))
}

/// What the daemon's own events say of flows that have ended.
fn of_events(events: &[Value]) -> BTreeMap<Way, (u64, u64)> {
    let ended = events.iter().filter(|event| event["event"] == "ended");
    let proto = |event: &Value| match event["proto"].as_str().unwrap() {
        "tcp" => 6,
        "udp" => 17,
        "icmp" => 1,
        "icmpv6" => 58,
        other => panic!("{other}"),
    };
    // IPFIX counts what is behind the Ethernet header.
    let bytes =
        |event: &Value, bytes, packets| number(event, bytes).saturating_sub(14 * number(event, packets));
    let ways = ended.flat_map(|event| {
        let proto = proto(event);
        let port = |name| if matches!(proto, 1 | 58) { 0 } else { number(event, name) };
        let (src, dst) = (address(event, ["src", "src"]), address(event, ["dst", "dst"]));
        let (sport, dport) = (port("sport"), port("dport"));
        [
            ((proto, src, sport, dst, dport), number(event, "packets"), bytes(event, "bytes", "packets")),
            (
                (proto, dst, dport, src, sport),
                number(event, "reply_packets"),
                bytes(event, "reply_bytes", "reply_packets"),
            ),
        ]
    });
    sums(ways.filter(|(_, packets, _)| *packets > 0))
}

fn events(daemon: &Daemon) -> Vec<Value> {
    let output = daemon.run(&["observe", "-o", "json"]);
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn collected(dataplane: &str) {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    // What has ended by itself is counted to the last packet, wherever that passed.
    site.rewrite(|text| {
        let keys = ["tcp_time_wait", "tcp_close", "udp_first", "udp_exchange", "icmp_exchange", "icmp"];
        let timeouts: Vec<String> = keys.iter().map(|key| format!("{key} = 2")).collect();
        text + "\n[tenant.acme.network.lan.timeouts]\n" + &timeouts.join("\n") + "\n"
    });
    let alpha = site.run_with("alpha", dataplane);
    let mut collector = Collector::start(&site);
    let log = site.world.path("export.log");
    let _export =
        export(&site, &alpha, &["ipfix", "--collector", EXPORTED, "--active-timeout", "1"], "export.log");
    let file = site.world.path("flows.json");
    let lines = ["json", "--file", file.to_str().unwrap(), "--max-size", "2000", "--keep", "1000"];
    let _json = export(&site, &alpha, &lines, "json.log");
    // Templates come with the first message, which is when it has begun.
    wait_for("the exporter sends", || {
        collector.records();
        !collector.messages.is_empty()
    });
    wait_for("the file is there", || file.exists());

    let sink = Sink::start(&site.web2, udp(12, ALLOWED));
    let stream = Stream::start(&site.web1, udp(11, 8000), udp(12, ALLOWED));
    let refused = Stream::start(&site.web1, udp(11, 8001), udp(12, DENIED));
    wait_for("it is told of while it lives", || {
        let of_stream = |record: &Value| record["L4_SRC_PORT"] == 8000 && record["flowEndReason"] == 2;
        collector.records().iter().filter(|record| of_stream(record)).count() >= 3
    });
    bulk(&site.web1, (&site.web2, tcp(12, 5432)), 1 << 20);
    assert!(site.web1.ping("10.1.0.12") && site.web1.ping("fd00:1::12"));
    let sent = stream.finish();
    drop(refused);
    wait_for("all have arrived", || sink.count() >= sent - 3);
    let is_end = |event: &Value| event["event"] == "ended";
    wait_for("all flows have ended", || {
        let events = events(&alpha);
        let begun = events.iter().filter(|event| event["event"] == "begun").count();
        begun >= 4 && events.iter().filter(|event| is_end(event)).count() == begun
    });

    let expected = of_events(&events(&alpha));
    let forwarded = |record: &&Value| record["firewallEvent"] != 3;
    let told =
        settle(|| sums(collector.records().iter().filter(forwarded).map(of_scapy)), |told| *told == expected);
    assert_eq!(told, expected, "each packet is told once");
    let records = collector.records();
    let stream_way =
        (17, "10.1.0.11".parse().unwrap(), 8000, "10.1.0.12".parse().unwrap(), u64::from(ALLOWED));
    assert_eq!(told[&stream_way].0, sink.count(), "what has arrived");
    for record in &records {
        assert_eq!(number(record, "layer2SegmentId"), 1 << 56 | 5001, "{record}");
        let (start, end) = (record["flowStartMilliseconds"].as_f64(), record["flowEndMilliseconds"].as_f64());
        assert!(start <= end, "{record}");
    }
    let denied: Vec<&Value> = records.iter().filter(|record| record["firewallEvent"] == 3).collect();
    assert!(!denied.is_empty());
    for record in denied {
        assert_eq!(
            (record["L4_DST_PORT"].as_u64(), record["FORWARDING_STATUS"].as_u64()),
            (Some(7001), Some(129))
        );
    }

    let mut known = events(&alpha);
    wait_for("all lines are written", || lines_of(&file).is_superset(&numbers(&known)));
    // The daemon goes, and comes back.
    assert!(alpha.stop().success());
    wait_for("it waits for one", || fs::read_to_string(&log).unwrap().contains("waiting for one"));
    let alpha = site.run_with("alpha", dataplane);
    let before = collector.records().len();
    assert!(site.web1.ping("10.1.0.12"));
    assert!(alpha.run(&["flows", "kill", "--all"]).status.success());
    wait_for("the next daemon's flows are told", || collector.records().len() > before);

    let records = sums(collector.records().iter().map(of_scapy));
    let flows = collector.flows();
    assert_eq!(sums(flows.iter().map(of_nfdump)), records, "what nfcapd has, and what scapy has read");

    known.extend(events(&alpha));
    wait_for("all lines are written", || lines_of(&file).is_superset(&numbers(&known)));
    assert!(file.with_file_name("flows.json.1").exists());
}

/// What tells events apart: the next daemon begins to count anew.
fn numbers(events: &[Value]) -> BTreeSet<(u64, u64)> {
    events.iter().map(|event| (number(event, "time_ms"), number(event, "seq"))).collect()
}

/// Those of the events in a file and those before it.
fn lines_of(file: &Path) -> BTreeSet<(u64, u64)> {
    let folder = fs::read_dir(file.parent().unwrap()).unwrap();
    let files = folder.map(|entry| entry.unwrap().path());
    let ours = files.filter(|path| path.to_string_lossy().starts_with(&*file.to_string_lossy()));
    let text: String = ours.map(|path| fs::read_to_string(path).unwrap()).collect();
    numbers(&text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<_>>())
}

#[test]
fn flows_are_collected_from_userspace() {
    collected("userspace");
}

#[test]
fn flows_are_collected_from_the_fast_path() {
    collected("ebpf");
}

#[test]
fn what_cannot_be_exported_is_said() {
    let run = |arguments: &[&str]| {
        let output = Command::new(EASTGATE).arg("export").args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for nowhere in ["nowhere", "192.0.2.9", ":4739", "192.0.2.9:0", "2001:db8::9", "[2001:db8::9]:99999"] {
        let (code, text) = run(&["ipfix", "--collector", nowhere]);
        assert!(code == Some(2) && text.contains("[2001:db8::9]:4739"), "{code:?} {text}");
    }
    let (code, text) = run(&["json", "--file", "/nonexistent/flows.json"]);
    assert!(code == Some(1) && text.contains("/nonexistent/flows.json cannot be written"), "{code:?} {text}");
    let (code, text) = run(&["ipfix", "--collector", EXPORTED, "--reason", "spoofed"]);
    assert!(code == Some(2) && text.contains("drop-reasons"), "{code:?} {text}");
}
