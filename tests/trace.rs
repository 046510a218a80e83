//! `eastgate trace` of packets that were captured: what it says of each is what became of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use common::{Daemon, Sink, Space, bind_udp, site::*, wait_for};
use serde_json::Value;

const DATAPLANES: [&str; 2] = ["userspace", "ebpf"];

/// tcpdump, writing what passes a device.
struct Tcpdump {
    child: Child,
    file: PathBuf,
}

impl Tcpdump {
    fn start(site: &Site, space: &Space, device: &str, filter: &str) -> Self {
        let file = site.world.path(&format!("{device}.pcap"));
        let mut command = space.command("tcpdump");
        // As root, so that it may write where it is told to.
        command.args(["-i", device, "-U", "--immediate-mode", "-Z", "root", "-w"]).arg(&file).arg(filter);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let this = Self { child, file };
        // The file's header is written once it listens.
        wait_for("tcpdump listens", || std::fs::metadata(&this.file).is_ok_and(|file| file.len() >= 24));
        this
    }

    /// What tcpdump itself says of each packet, once there are so many.
    fn lines(&self, least: usize) -> Vec<String> {
        let mut lines = Vec::new();
        wait_for("tcpdump has seen them", || {
            let output = Command::new("tcpdump").args(["-nn", "-t", "-r"]).arg(&self.file).output().unwrap();
            lines = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
            lines.len() >= least
        });
        lines
    }
}

impl Drop for Tcpdump {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn said(daemon: &Daemon, arguments: &[&str]) -> (i32, String, String) {
    let output = daemon.run(arguments);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// The verdict about a packet of a capture.
fn verdict(daemon: &Daemon, file: &Path, number: usize, more: &[&str]) -> (String, String) {
    let number = number.to_string();
    let mut arguments = vec!["trace", "--pcap", file.to_str().unwrap(), "--packet", &number, "-o", "json"];
    arguments.extend(more);
    let (code, text, error) = said(daemon, &arguments);
    let report: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{error}"));
    let verdict = report["verdict"].as_str().unwrap().to_owned();
    assert_eq!(code == 0, matches!(&*verdict, "forwarded" | "answered"), "{code} {text}");
    (report["packet"].as_str().unwrap().to_owned(), verdict)
}

fn send(space: &Space, from: &str, to: (u8, u16)) {
    space.enter(|| bind_udp(from).send_to(b"captured", udp(to.0, to.1)).unwrap());
}

/// Captured at a machine's port and on the underlay, while both dataplanes do what is then said of it: the kernel of the
/// machine leaves checksums to its device, asks for addresses, and sends what it may not.
#[test]
fn a_captured_packet_is_walked_as_it_was() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        let [alpha, beta] = ["alpha", "beta"].map(|host| site.run_with(host, dataplane));
        let port = Tcpdump::start(&site, &site.alpha, "veth-web1", "arp or udp");
        let underlay = Tcpdump::start(&site, &site.alpha, "underlay0", "udp dst port 4789");
        let sink = Sink::start(&site.db1, udp(21, ALLOWED));
        site.web1.ip("addr add 10.1.0.99/24 dev eth0");
        site.web1.ip("neigh replace 10.1.0.12 lladdr 02:00:00:00:00:12 dev eth0");
        wait_for("what is allowed arrives", || {
            send(&site.web1, "10.1.0.11:40000", (21, ALLOWED));
            sink.count() > 0
        });
        send(&site.web1, "10.1.0.11:40001", (21, DENIED));
        send(&site.web1, "10.1.0.99:40002", (12, ALLOWED));
        let is_all = |lines: &[String]| {
            ["who-has 10.1.0.21 tell 10.1.0.11", ".40000 >", ".40001 >", ".40002 >"]
                .iter()
                .all(|it| lines.iter().any(|line| line.to_lowercase().contains(it)))
        };
        let mut lines = Vec::new();
        wait_for("all of it is captured", || {
            lines = port.lines(4);
            is_all(&lines)
        });
        let mut walked = [0; 4];
        for (line, number) in lines.iter().zip(1..) {
            let (packet, verdict) = verdict(&alpha, &port.file, number, &["--vni", "5001"]);
            let expected = match line.to_lowercase() {
                line if line.contains("who-has 10.1.0.21 tell 10.1.0.11") => (0, "answered"),
                line if line.contains(".40000 >") => (1, "forwarded"),
                line if line.contains(".40001 >") => (2, "ingress-denied"),
                line if line.contains(".40002 >") => (3, "ip-spoofed"),
                // What alpha says to the machine, or asks it, was never the machine's to send.
                _ => continue,
            };
            walked[expected.0] += 1;
            assert_eq!(verdict, expected.1, "{dataplane}: {line}: {packet}");
        }
        assert!(walked.iter().all(|count| *count > 0), "{dataplane}: {walked:?} of {lines:#?}");

        // In the tunnel it says itself of which network it is, and beta walks it as well.
        let tunneled = underlay.lines(1);
        for daemon in [&alpha, &beta] {
            let (packet, verdict) = verdict(daemon, &underlay.file, 1, &[]);
            assert_eq!(verdict, "forwarded", "{dataplane}: {tunneled:?}");
            assert!(packet.contains("10.1.0.11:40000 -> 10.1.0.21:7000"), "{packet}");
        }

        // As text, and what is wrong with it.
        let number = 1 + lines.iter().position(|line| line.contains(".40001 >")).unwrap();
        let dump = Command::new("tcpdump").args(["-nn", "-t", "-xx", "-r"]).arg(&port.file).output().unwrap();
        let dump = String::from_utf8(dump.stdout).unwrap();
        let heads = dump.lines().enumerate().filter(|(_, line)| !line.starts_with('\t')).map(|(at, _)| at);
        let head = heads.clone().nth(number - 1).unwrap();
        let hex: Vec<&str> = dump.lines().skip(head + 1).take_while(|line| line.starts_with('\t')).collect();
        let (code, text, _) = said(&alpha, &["trace", "--vni", "5001", "--hex", &hex.join("\n")]);
        assert!(code == 5 && text.contains("\nverdict: ingress-denied\n"), "{text}");
        assert!(text.starts_with("vni 5001 udp 10.1.0.11:40001 -> 10.1.0.21:7001\n"), "{text}");
        let file = port.file.to_str().unwrap();
        let short = site.world.write("short.pcap", "this is none");
        let cut = site.world.path("cut.pcap");
        std::fs::write(&cut, &std::fs::read(&port.file).unwrap()[..50]).unwrap();
        for (arguments, wrong) in [
            (vec!["--pcap", file], "say --vni"),
            (vec!["--pcap", file, "--vni", "5001", "--packet", "100000"], "there is no packet 100000"),
            (
                vec!["--pcap", short.to_str().unwrap(), "--vni", "5001"],
                "no capture in the format pcap or pcapng",
            ),
            (vec!["--pcap", cut.to_str().unwrap(), "--vni", "5001"], "ends in the middle"),
            (vec!["--pcap", "/nowhere.pcap", "--vni", "5001"], "/nowhere.pcap"),
            (vec!["--hex", "0badc0d", "--vni", "5001"], "half of a byte"),
            (vec!["--hex", "0bad", "--vni", "5001"], "14 bytes"),
        ] {
            let (code, _, error) = said(&alpha, &[&["trace"][..], &arguments].concat());
            assert!(code == 1 && error.contains(wrong), "{arguments:?}: {code} {error}");
        }
        [alpha, beta].into_iter().for_each(|daemon| assert!(daemon.stop().success()));
    }
}
