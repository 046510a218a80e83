//! Checksums that a sender leaves open, and says where they belong: finished by a device, they must make nothing else of what was
//! decided. Of a guest behind a TAP device, and of one behind somebody else's VTEP.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use common::{
    Sink, Space,
    config::{Endpoint, Host, Tenant, configuration},
    site::*,
    wait_for,
};
use eastgate_wire::{Family, MacAddr, checksum};
use etherparse::PacketBuilder;

const DATAPLANES: [&str; 2] = ["ebpf", "userspace"];

/// Where the transport header of these frames begins, and in it the fields of a port and of the checksum
const TRANSPORT: u16 = 34;
const PORT: u16 = 2;
const CHECKSUM: u16 = 6;

/// A machine as it is addressed: the last byte of its address, and its MAC.
type Machine = (u8, MacAddr);

/// A datagram with eight bytes, as a sink counts them.
fn numbered(from: Machine, to: Machine, number: u64) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(from.1.0, to.1.0)
        .ipv4([10, 1, 0, from.0], [10, 1, 0, to.0], 64)
        .udp(4000, ALLOWED)
        .write(&mut frame, &number.to_be_bytes())
        .unwrap();
    frame
}

/// As a sender writes it that leaves its checksum open, where that belongs.
fn open_as_it_should_be(from: Machine, to: Machine, number: u64) -> Vec<u8> {
    let mut frame = numbered(from, to, number);
    let pseudo = checksum::pseudo_header(&[10, 1, 0, from.0], &[10, 1, 0, to.0], 17, 16).folded();
    frame[40..42].copy_from_slice(&pseudo.to_be_bytes());
    behind_header(&frame, TRANSPORT, CHECKSUM)
}

/// Runs a program in Python that must succeed.
fn python(space: &Space, program: &str) {
    let output = space.command("python3").args(["-c", program]).output().unwrap();
    assert!(output.status.success(), "{program}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// What is left open is finished there, as where a device does not do it.
fn finish_before(space: &Space, device: &str) {
    let done = space.command("ethtool").args(["-K", device, "tx", "off"]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// A frame behind a virtio-net header by which a checksum is to be finished: from `start`
/// on, `offset` bytes from there.
fn behind_header(frame: &[u8], start: u16, offset: u16) -> Vec<u8> {
    const NEEDS_CSUM: u8 = 1;
    let header = [&[NEEDS_CSUM, 0, 0, 0, 0, 0][..], &start.to_le_bytes(), &offset.to_le_bytes()].concat();
    [&header, frame].concat()
}

/// A datagram to the allowed port whose sum over header and payload is such that `made` comes of it where a checksum is written.
fn summing_to(made: u16, from: Machine, to: Machine) -> Vec<u8> {
    let mut frame = numbered(from, to, 0);
    frame[40..42].fill(0);
    let left = checksum::Sum::ZERO.bytes(&frame[34..]).finish();
    let word = checksum::Sum::ZERO.bytes(&left.to_be_bytes()).bytes(&(!made).to_be_bytes()).folded();
    frame[48..50].copy_from_slice(&word.to_be_bytes());
    assert_eq!(checksum::Sum::ZERO.bytes(&frame[34..]).finish(), made);
    frame
}

/// What a guest behind a TAP device leaves open is its own transport checksum: where it says that another place is to be
/// written, a port would come of it that nobody has decided about.
#[test]
fn an_open_checksum_makes_nothing_else_of_what_was_decided() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        site.alpha.ip("link del veth-web1");
        site.alpha.ip("tuntap add dev veth-web1 mode tap vnet_hdr");
        site.alpha.ip("link set veth-web1 up");
        let web1 = (11, WEB1);
        for (host, device) in
            [(&site.alpha, "veth-web2"), (&site.alpha, "underlay0"), (&site.beta, "veth-db1")]
        {
            finish_before(host, device);
        }
        let [alpha, _beta] = ["alpha", "beta"].map(|host| site.run_with(host, dataplane));
        let send = |frames: &[Vec<u8>]| {
            let frames: Vec<String> = frames.iter().map(|frame| format!("'{}'", hex(frame))).collect();
            python(
                &site.alpha,
                &format!(
                    "import fcntl, os, struct\ntap = os.open('/dev/net/tun', os.O_RDWR)\n\
                     fcntl.ioctl(tap, 0x400454ca, struct.pack('16sH22x', b'veth-web1', 0x5002))\n\
                     for frame in [{}]: os.write(tap, bytes.fromhex(frame))\n",
                    frames.join(", ")
                ),
            );
        };
        let mut refused = 0;
        for (n, to) in RECEIVERS.into_iter().enumerate() {
            let space = [&site.web2, &site.db1][n];
            let [allowed, denied] = [ALLOWED, DENIED].map(|port| Sink::start(space, udp(to.0, port)));
            // Its own checksum, and the same flow once more when the kernel has it.
            let own: Vec<Vec<u8>> = (1..=4).map(|number| open_as_it_should_be(web1, to, number)).collect();
            let arrives = |what: &str, count| {
                wait_for(what, || {
                    if allowed.count() < count {
                        send(&own);
                    }
                    allowed.count() >= count
                });
            };
            arrives("what is open is finished on the way", 4);
            let before = allowed.count();
            // In the flow that lives, and as the first of another one.
            let port = summing_to(DENIED, web1, to);
            let mut other_flow = port.clone();
            other_flow[35] ^= 1;
            send(&[
                behind_header(&port, TRANSPORT, PORT),
                behind_header(&other_flow, TRANSPORT, PORT),
                behind_header(&port, TRANSPORT, 0),
                behind_header(&port, TRANSPORT - 8, 8 + PORT),
                behind_header(&port, TRANSPORT, 14),
            ]);
            refused += 5;
            wait_for(&format!("{dataplane}: they are refused"), || {
                alpha.drops().get("bad-l4-header") == Some(&refused)
            });
            assert_eq!((denied.count(), allowed.count()), (0, before), "{dataplane}");
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A guest behind somebody else's VTEP does the same: what it leaves open comes through the tunnel as it is where both hosts are
/// on one machine.
#[test]
fn a_checksum_left_open_in_a_tunnel_makes_nothing_else_of_what_was_decided() {
    const VETH_WEB2: Endpoint<'_> =
        Endpoint { name: "web2", host: "alpha", port: Some("veth-web2"), number: 0x12 };
    for dataplane in DATAPLANES {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        let hosts = [Host::new("alpha", "192.0.2.1"), Host::plain("beta", "192.0.2.2")];
        let acme = Tenant {
            name: "acme",
            vni: 5001,
            families: &[Family::V4],
            network: "",
            ingress: &[r#"{ proto = "udp", ports = 7000, from = "any" }"#],
            endpoints: &[VETH_WEB2, Endpoint { name: "far1", host: "beta", port: None, number: 0x31 }],
        };
        site.rewrite(|_| configuration(&hosts, &[acme]));
        // A machine whose device finishes nothing: the kernel does so when it hands a frame over.
        site.alpha.ip("link del veth-web2");
        site.alpha.ip("tuntap add dev veth-web2 mode tap");
        site.alpha.ip("link set veth-web2 up");
        let vtep = "type vxlan id 5001 dstport 4789 local 192.0.2.2 remote 192.0.2.1 noudpcsum dev underlay0";
        site.beta.ip(&format!("link add vx0 address 02:00:00:00:00:31 {vtep}"));
        site.beta.ip("link set vx0 up");
        let alpha = site.run_with("alpha", dataplane);
        let (far1, web2) = ((31, MacAddr([2, 0, 0, 0, 0, 0x31])), (12, WEB2_MAC));
        let mut reader = site
            .alpha
            .command("python3")
            .args([
                "-uc",
                "import fcntl, os, signal, struct\nsignal.alarm(60)\ntap = os.open('/dev/net/tun', os.O_RDWR)\n\
                 fcntl.ioctl(tap, 0x400454ca, struct.pack('16sH22x', b'veth-web2', 0x1002))\nprint('ready')\n\
                 while frame := os.read(tap, 2000):\n    if frame[12:14] == b'\\x08\\0':\n        \
                 print(int.from_bytes(frame[36:38]), int.from_bytes(frame[42:50]))\n",
            ])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(reader.stdout.take().unwrap()).lines().map(Result::unwrap);
        assert_eq!(lines.next().unwrap(), "ready");
        wait_for("web2 is served", || alpha.port_state("veth-web2") == "forwarding");
        let frames: Vec<String> = (1..=8)
            .flat_map(|number| {
                let bad = behind_header(&summing_to(DENIED, far1, web2), TRANSPORT, PORT);
                [open_as_it_should_be(far1, web2, number), bad]
            })
            .map(|frame| format!("'{}'", hex(&frame)))
            .collect();
        python(
            &site.beta,
            &format!(
                "import socket\ns = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)\ns.setsockopt(263, 15, 1)\n\
                 s.bind(('vx0', 0x800))\nfor frame in [{}]:\n    s.send(bytes.fromhex(frame))\n",
                frames.join(", ")
            ),
        );
        // Every one of them arrives: what is left open elsewhere as it was decided about, unfinished.
        let seen: Vec<String> = lines.by_ref().take(16).collect();
        let _ = reader.kill();
        let _ = reader.wait();
        let own = (1..=8).filter(|number| seen.contains(&format!("{ALLOWED} {number}"))).count();
        assert!(own == 8 && seen.iter().all(|line| line.starts_with("7000 ")), "{dataplane}: {seen:?}");
    }
}
