//! `eastgate capture`, as Wireshark reads it: each packet with the verdict that it really had, both ways and on the underlay, in both
//! dataplanes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{
    fs,
    net::UdpSocket,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use common::{Daemon, EASTGATE, Sink, Space, Stream, bind_udp, settle, site::*, wait_for};
use eastgate_testkit::process::Process;
use serde_json::Value;

/// A capture that runs.
struct Capture {
    child: Child,
    log: PathBuf,
}

impl Capture {
    /// Begun, with the daemon knowing of it.
    fn start(site: &Site, space: &Space, daemon: &Daemon, arguments: &[&str]) -> Self {
        let log = site.world.path("capture.log");
        let mut command = space.command(EASTGATE);
        command.arg("capture").args(arguments).arg("--socket").arg(daemon.socket());
        let out = fs::File::create(site.world.path("capture.out")).unwrap();
        command.stdin(Stdio::null()).stdout(out).stderr(fs::File::create(&log).unwrap());
        let mut this = Self { child: command.spawn().unwrap(), log };
        wait_for("it captures", || {
            assert!(this.child.try_wait().unwrap().is_none_or(|status| status.success()), "{}", this.said());
            this.said().contains("capturing at")
        });
        this
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Ended as its user would; what it has said.
    fn stop(self) -> String {
        Process::new(self.child.id().cast_signed()).unwrap().stop();
        self.said()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A packet as Wireshark shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Shown {
    device: String,
    /// 1: in, 2: out
    direction: String,
    /// Source port of the innermost UDP header
    sport: String,
    dport: String,
    /// TC_ACT_OK is 0, TC_ACT_SHOT is 2
    verdict: String,
    comment: String,
}

fn shown(file: &Path, filter: &str) -> Vec<Shown> {
    let fields = [
        "frame.interface_name",
        "frame.packet_flags_direction",
        "udp.srcport",
        "udp.dstport",
        "frame.verdict.ebpf_tc",
        "frame.comment",
    ];
    let mut command = Command::new("tshark");
    command.arg("-r").arg(file).args(["-Y", filter, "-T", "fields", "-E", "occurrence=l"]);
    fields.iter().for_each(|field| _ = command.args(["-e", field]));
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{error}");
    text.lines()
        .map(|line| {
            let parts: Vec<String> = line.split('\t').map(str::to_owned).collect();
            let [device, direction, sport, dport, verdict, comment] =
                parts.try_into().unwrap_or_else(|parts| panic!("{parts:?} {error}"));
            Shown { device, direction, sport, dport, verdict, comment }
        })
        .collect()
}

fn send(space: &Space, from: &str, to: (u8, u16)) {
    space.enter(|| bind_udp(from).send_to(b"captured", udp(to.0, to.1)).unwrap());
}

/// With the place of one of its lines
fn line_of(site: &Site, words: &str) -> String {
    let text = fs::read_to_string(&site.config).unwrap();
    let line = 1 + text.lines().position(|line| line.contains(words)).unwrap();
    format!("{}:{line}:", site.config.display())
}

#[test]
fn each_packet_has_what_became_of_it() {
    for dataplane in ["userspace", "ebpf"] {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        let [alpha, _beta] = ["alpha", "beta"].map(|host| site.run_with(host, dataplane));
        let sinks =
            [(12, &site.web2), (21, &site.db1)].map(|(to, space)| Sink::start(space, udp(to, ALLOWED)));
        site.web1.ip("addr add 10.1.0.99/24 dev eth0");
        // What follows is carried by whoever carries it.
        for (to, sink) in [12, 21].into_iter().zip(&sinks) {
            wait_for("what is allowed arrives", || {
                send(&site.web1, "10.1.0.11:39999", (to, ALLOWED));
                sink.count() > 0
            });
        }
        let file = site.world.path("all.pcapng");
        let capture = Capture::start(&site, &site.alpha, &alpha, &["-w", file.to_str().unwrap()]);
        let had = sinks.each_ref().map(Sink::count);
        for (to, begin) in [(12, 41_000), (21, 42_000)] {
            send(&site.web1, &format!("10.1.0.11:{begin}"), (to, ALLOWED));
            send(&site.web1, &format!("10.1.0.11:{}", begin + 1), (to, DENIED));
            send(&site.web1, &format!("10.1.0.99:{}", begin + 2), (to, ALLOWED));
        }
        wait_for("what is allowed arrives", || sinks.iter().zip(had).all(|(sink, had)| sink.count() > had));
        let packets = |filter: &str| shown(&file, &format!("udp.srcport in {{41000..42999}} && ({filter})"));
        // web1 sends six; one goes to web2, one each leaves for beta.
        let all = settle(|| packets("frame.number > 0"), |found| found.len() >= 9);
        let said = capture.stop();
        assert!(said.contains("packets captured"), "{said}");
        let of = |device: &str, direction: &str, sport: u16| {
            let sport = sport.to_string();
            let mut fitting = all
                .iter()
                .filter(|it| it.device == device && it.direction.ends_with(direction) && it.sport == sport);
            let found = fitting
                .next()
                .unwrap_or_else(|| panic!("{dataplane}: no {device} {direction} {sport}: {all:#?}"));
            assert_eq!(fitting.next(), None, "{dataplane}");
            found
        };
        let allowed_by = line_of(&site, "ports = [7000]");
        for begin in [41_000, 42_000] {
            let passed = of("veth-web1", "1", begin);
            assert!(
                passed.comment.starts_with("acme/web1: forwarded; ") && passed.comment.contains(&allowed_by),
                "{dataplane}: {passed:?}"
            );
            assert_eq!(passed.verdict, "0", "{passed:?}");
            let denied = of("veth-web1", "1", begin + 1);
            assert!(denied.comment.starts_with("acme/web1: dropped ingress-denied; "), "{denied:?}");
            assert_eq!(denied.verdict, "2", "{denied:?}");
            let spoofed = of("veth-web1", "1", begin + 2);
            assert!(spoofed.comment.starts_with("acme/web1: dropped ip-spoofed; "), "{spoofed:?}");
        }
        // After the decision: at the receiver's port and in the tunnel, and nothing else.
        assert!(of("veth-web2", "2", 41_000).comment.starts_with("acme/web2: forwarded; "), "{all:#?}");
        assert!(of("underlay0", "2", 42_000).comment.starts_with("forwarded; "), "{all:#?}");
        assert_eq!(all.iter().filter(|it| it.device == "veth-web2").count(), 1, "{dataplane}: {all:#?}");
        // What the next host refuses has left all the same, where it was asked.
        if let Some(sent) = all.iter().find(|it| it.device == "underlay0" && it.sport == "42001") {
            assert!(sent.comment.starts_with("forwarded; the next host will say ingress-denied"), "{sent:?}");
            assert_eq!(sent.verdict, "0", "{sent:?}");
        }

        // As its user asks for it: a filter of Wireshark's, and one of our own.
        let denied = packets("frame.comment contains \"ingress-denied\"");
        assert!(denied.iter().any(|it| it.sport == "41001"), "{denied:#?}");
        let capture = Capture::start(
            &site,
            &site.alpha,
            &alpha,
            &["--verdict", "dropped", "--endpoint", "web1", "--port", "7001", "-n", "1", "-o", "json"],
        );
        send(&site.web1, "10.1.0.11:43000", (12, ALLOWED));
        send(&site.web1, "10.1.0.11:43001", (12, DENIED));
        let mut capture = capture;
        assert!(capture.child.wait().unwrap().success(), "{}", capture.said());
        let text = fs::read_to_string(site.world.path("capture.out")).unwrap();
        let row: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert_eq!(
            (&row["device"], &row["direction"], &row["endpoint"], &row["verdict"], &row["reason"]),
            (
                &"veth-web1".into(),
                &"in".into(),
                &"acme/web1".into(),
                &"dropped".into(),
                &"ingress-denied".into()
            ),
            "{text}"
        );
    }
}

/// Of a drop that another packet like it would not meet, the daemon's word counts.
#[test]
fn a_drop_that_was_told_of_is_told_here_too() {
    for dataplane in ["userspace", "ebpf"] {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        site.rewrite(|text| text + "\n[tenant.acme.network.lan.limits]\nnew_flows = 1\n");
        let alpha = site.run_with("alpha", dataplane);
        let file = site.world.path("limited.pcapng");
        let capture =
            Capture::start(&site, &site.alpha, &alpha, &["--at", "ports", "-w", file.to_str().unwrap()]);
        let socket = |port: u16| site.web1.enter(|| bind_udp(("10.1.0.11", port)));
        let sockets: Vec<UdpSocket> = (44_000..44_010).map(socket).collect();
        sockets.iter().for_each(|socket| _ = socket.send_to(b"new", udp(12, ALLOWED)).unwrap());
        let filter =
            |way: u8| format!("udp.srcport in {{44000..44009}} && frame.packet_flags_direction == {way}");
        let seen = settle(|| shown(&file, &filter(1)), |seen| seen.len() >= sockets.len());
        capture.stop();
        // Those that were not delivered, and only those.
        let delivered: Vec<String> = shown(&file, &filter(2)).into_iter().map(|it| it.sport).collect();
        assert!(!delivered.is_empty() && delivered.len() < sockets.len(), "{dataplane}: {delivered:?}");
        for it in &seen {
            let limited = it.comment.contains("dropped new-flow-limit");
            assert_eq!(limited, !delivered.contains(&it.sport), "{dataplane}: {it:?} {delivered:?}");
        }
    }
}

/// tcpdump at a port sees what is delivered there, as at any other device; and the straight way is taken again afterwards.
#[test]
fn what_is_delivered_is_seen_by_tcpdump_too() {
    // The kernel tells of what is attached by clsact, and of packet sockets nobody does.
    for attach in ["auto", "clsact"] {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        site.rewrite(|text| text.replace("ports = [7000]", "ports = [7000, 5000]"));
        let alpha = site.run_more("alpha", &["--dataplane", "ebpf", "--attach", attach]);
        seen_by_tcpdump(&site, &alpha);
    }
}

fn seen_by_tcpdump(site: &Site, alpha: &Daemon) {
    let sink = Sink::start(&site.web2, udp(12, ALLOWED));
    // One that nothing is lost of, whoever begins to listen and ends: the port is never closed for it.
    let steady =
        (Sink::start(&site.web2, udp(12, 5000)), Stream::start(&site.web1, udp(11, 5000), udp(12, 5000)));
    steady.1.arrives("at first", &steady.0);
    let before = steady.1.sent() - steady.0.count();
    let captured = |port: &str| {
        let status = alpha.ask(&["status"]);
        let ports = status["ports"].as_array().unwrap();
        ports.iter().find(|row| row["name"] == port).unwrap()["captured"] == true
    };
    assert!(!captured("veth-web2"));
    let mut command = site.alpha.command("tcpdump");
    let out = site.world.path("tcpdump.out");
    command.args(["-i", "veth-web2", "-nn", "-l", "--immediate-mode", "udp", "and", "dst", "port", "7000"]);
    command.stdin(Stdio::null()).stdout(fs::File::create(&out).unwrap()).stderr(Stdio::null());
    let mut tcpdump = command.spawn().unwrap();
    wait_for("the daemon notices", || captured("veth-web2"));
    assert!(!captured("veth-web1"), "only there");
    let count = || fs::read_to_string(&out).unwrap().lines().count();
    wait_for("tcpdump sees several of a flow", || {
        send(&site.web1, "10.1.0.11:45000", (12, ALLOWED));
        count() >= 5
    });
    assert!(sink.count() >= 5);
    tcpdump.kill().unwrap();
    tcpdump.wait().unwrap();
    wait_for("the daemon notices that it is over", || !captured("veth-web2"));
    steady.1.arrives("afterwards", &steady.0);
    let lost = || steady.1.sent().saturating_sub(steady.0.count() + before);
    wait_for("nothing of it was lost", || lost() <= 1);
}

#[test]
fn full_files_make_room() {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let alpha = site.run_with("alpha", "userspace");
    let sink = Sink::start(&site.web2, udp(12, ALLOWED));
    let file = site.world.path("ring.pcapng");
    let arguments =
        ["--endpoint", "acme/web1", "-w", file.to_str().unwrap(), "--max-size", "4096", "--keep", "2"];
    let capture = Capture::start(&site, &site.alpha, &alpha, &arguments);
    let numbered = |number: u32| PathBuf::from(format!("{}.{number}", file.display()));
    wait_for("two are full", || {
        send(&site.web1, "10.1.0.11:46000", (12, ALLOWED));
        numbered(2).exists()
    });
    // While others come, the daemon goes: packets are written all the same.
    drop(alpha);
    send(&site.web1, "10.1.0.11:46001", (12, ALLOWED));
    wait_for("it is said", || capture.said().contains("without what became of packets"));
    wait_for("those are written too", || {
        let all = [file.clone(), numbered(1), numbered(2)].into_iter();
        all.flat_map(|file| shown(&file, "udp.srcport == 46001")).any(|it| it.comment.contains("unknown"))
    });
    capture.stop();
    assert!(sink.count() > 0 && !numbered(3).exists());
    for path in [file.clone(), numbered(1), numbered(2)] {
        assert!(fs::metadata(&path).unwrap().len() <= 4096 + 64, "{}", path.display());
        assert!(!shown(&path, "frame.number > 0").is_empty(), "{}", path.display());
    }
}

#[test]
fn what_cannot_be_captured_is_said() {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let alpha = site.run_with("alpha", "userspace");
    let said = |space: &Space, arguments: &[&str]| {
        let mut command = space.command(EASTGATE);
        let output =
            command.arg("capture").args(arguments).arg("--socket").arg(alpha.socket()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, text) = said(&site.alpha, &["--endpoint", "nobody"]);
    assert!(code == Some(1) && text.contains("nobody"), "{code:?} {text}");
    let (code, text) = said(&site.alpha, &["--reason", "because"]);
    assert!(code == Some(2) && text.contains("drop-reasons"), "{code:?} {text}");
    let (code, text) = said(&site.web1, &["--at", "ports"]);
    assert!(code == Some(1) && text.contains("network namespace"), "{code:?} {text}");
    let (code, text) = said(&site.alpha, &["-w", "/nonexistent/a.pcapng"]);
    assert!(code == Some(1) && text.contains("/nonexistent/a.pcapng cannot be written"), "{code:?} {text}");
}
