//! Packets as guests send them, carried as Linux carries them, in both dataplanes: with VLAN tags, in fragments, too
//! large for the tunnel, and in tunnels of the guests' own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::Stdio,
};

use common::{Capture, Daemon, Sink, Space, Stream, bulk, send_frame, settle, site::*, wait_for};
use eastgate_wire::{MacAddr, checksum};
use etherparse::PacketBuilder;

const DATAPLANES: [&str; 2] = ["ebpf", "userspace"];

/// Two hosts whose daemons run, with these lines in their network's table.
fn running(dataplane: &str, network: &str) -> Option<(Site, [Daemon; 2])> {
    let site = Site::new(HOSTS_V4)?;
    site.rewrite(|text| text.replace("vni = 5001\n", &format!("vni = 5001\n{network}\n")));
    let daemons = ["alpha", "beta"].map(|host| site.run_with(host, dataplane));
    Some((site, daemons))
}

/// A datagram of web1's with eight bytes, as a sink counts them.
fn numbered(from: u8, to: (u8, MacAddr), port: u16, number: u64) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(WEB1.0, to.1.0)
        .ipv4([10, 1, 0, from], [10, 1, 0, to.0], 64)
        .udp(4000, port)
        .write(&mut frame, &number.to_be_bytes())
        .unwrap();
    frame
}

fn tagged(frame: &[u8], tpid: u16, tci: u16) -> Vec<u8> {
    [&frame[..12], &tpid.to_be_bytes(), &tci.to_be_bytes(), &frame[12..]].concat()
}

const VLAN: u16 = 0x8100;
const QINQ: u16 = 0x88a8;

#[test]
fn tags_are_refused_by_their_name_and_priorities_are_no_tags() {
    for dataplane in DATAPLANES {
        let Some((site, [alpha, _beta])) = running(dataplane, "") else { return };
        let send = |frame: Vec<u8>| send_frame(&site.web1, "eth0", &frame);
        let mut refused = 0;
        for (n, to) in RECEIVERS.into_iter().enumerate() {
            let space = [&site.web2, &site.db1][n];
            let sink = Sink::start(space, udp(to.0, ALLOWED));
            let plain = numbered(11, to, ALLOWED, 1);
            let vlan = tagged(&plain, VLAN, 100);
            for frame in [
                vlan.clone(),
                tagged(&plain, QINQ, 100),
                tagged(&vlan, QINQ, 200),
                tagged(&vlan, VLAN, 0),
                tagged(&tagged(&vlan, VLAN, 300), VLAN, 200),
            ] {
                send(frame);
                refused += 1;
            }
            wait_for("tags are refused", || alpha.drops().get("vlan-tagged") == Some(&refused));
            assert_eq!(sink.count(), 0, "{dataplane}");
            let urgent = |number| tagged(&numbered(11, to, ALLOWED, number), VLAN, 7 << 13);
            send(urgent(2));
            send(tagged(&urgent(3), VLAN, 0));
            wait_for("priority-tagged datagrams arrive", || sink.count() == 2);
            send(tagged(&numbered(99, to, ALLOWED, 4), VLAN, 0));
            wait_for("no address check is evaded", || {
                alpha.drops().get("ip-spoofed") == Some(&(n as u64 + 1))
            });
            assert_eq!((sink.count(), alpha.drops().get("device-error")), (2, None), "{dataplane}");
        }
    }
}

/// What is neither IP nor ARP goes between those that may speak it, the link's own LLDP too, and to nobody else.
#[test]
fn other_ethertypes_go_between_those_that_may_speak_them() {
    const LLDP: [u8; 6] = [1, 0x80, 0xc2, 0, 0, 0x0e];
    let frame = |to: [u8; 6], ethertype: u16| {
        [&to[..], &WEB1.0, &ethertype.to_be_bytes(), b"hello, neighbor, from layer 2"].concat()
    };
    for dataplane in DATAPLANES {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        for name in ["web1", "db1"] {
            let table = format!("[tenant.acme.endpoint.{name}]\n");
            site.rewrite(|text| text.replace(&table, &format!("{table}ethertypes = [\"lldp\", 0x88b5]\n")));
        }
        let [alpha, _beta] = ["alpha", "beta"].map(|host| site.run_with(host, dataplane));
        let (at_db1, at_web2) = (Capture::start(&site.db1, "eth0"), Capture::start(&site.web2, "eth0"));
        let [lldp, own] = [frame(LLDP, 0x88cc), frame(DB1_MAC.0, 0x88b5)];
        for sent in [&lldp, &own] {
            send_frame(&site.web1, "eth0", sent);
            // A veth hands over what it is given; a short frame may be filled up on the way.
            wait_for("it arrives", || !at_db1.matching(|seen| seen.starts_with(sent)).is_empty());
        }
        send_frame(&site.web1, "eth0", &frame(WEB2_MAC.0, 0x88b5));
        send_frame(&site.web1, "eth0", &frame(DB1_MAC.0, 0x88b6));
        wait_for("others are refused", || alpha.drops().get("ethertype-refused") == Some(&2));
        send_frame(&site.web2, "eth0", &lldp);
        wait_for("nor from others", || alpha.drops().get("link-protocol") == Some(&1));
        let of_layer_2 = |seen: &[u8]| seen.get(12) == Some(&0x88);
        assert_eq!(
            at_web2.matching(|seen| of_layer_2(seen) && seen[6..12] == WEB1.0).len(),
            1,
            "{dataplane}: only what web2 itself has sent as web1"
        );
    }
}

/// Waits at a machine for a datagram to the allowed port, and prints the tag that its frame came with.
const TAG_OF_A_DATAGRAM: &str = "
import socket, struct
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind(('eth0', 0))
s.setsockopt(263, 8, 1)
s.settimeout(15)
print('ready', flush=True)
while True:
    frame, control, _, _ = s.recvmsg(2000, 200)
    if frame[12:14] != b'\\x08\\x00' or frame[23] != 17 or frame[36:38] != struct.pack('>H', 7000):
        continue
    status, _, _, _, _, tci, tpid = struct.unpack('=IIIHHHH', control[0][2])
    print(hex(tpid), tci if status & 16 else None)
    break
";

#[test]
fn tags_travel_where_the_network_is_aware_of_them() {
    for dataplane in DATAPLANES {
        let Some((site, [alpha, beta])) = running(dataplane, "vlan_aware = true") else { return };
        let mut step = 0;
        for (n, to) in RECEIVERS.into_iter().enumerate() {
            let space = [&site.web2, &site.db1][n];
            let send = |frame: Vec<u8>| send_frame(&site.web1, "eth0", &frame);
            let sink = Sink::start(space, udp(to.0, ALLOWED));
            for tpid in [VLAN, QINQ] {
                let tag = |frame: Vec<u8>| tagged(&frame, tpid, 5 << 13 | 100);
                let mut receiver = space.command("python3");
                receiver.args(["-c", TAG_OF_A_DATAGRAM]).stdout(Stdio::piped());
                let mut receiver = receiver.spawn().unwrap();
                let mut said = BufReader::new(receiver.stdout.take().unwrap()).lines();
                assert_eq!(said.next().unwrap().unwrap(), "ready");
                send(tag(numbered(11, to, ALLOWED, 1)));
                assert_eq!(
                    said.next().unwrap().unwrap(),
                    format!("{tpid:#x} {}", 5 << 13 | 100),
                    "{dataplane}"
                );
                receiver.wait().unwrap();
                step += 1;
                send(tag(tag(numbered(11, to, ALLOWED, 2))));
                wait_for("two tags are refused", || alpha.drops().get("vlan-tagged") == Some(&step));
                send(tag(numbered(99, to, ALLOWED, 3)));
                wait_for("no address check is evaded", || alpha.drops().get("ip-spoofed") == Some(&step));
                send(tag(numbered(11, to, DENIED, 4)));
                wait_for("nor a rule", || {
                    let denied = |daemon: &Daemon| daemon.drops().get("ingress-denied").copied().unwrap_or(0);
                    denied(&alpha) + denied(&beta) == step
                });
            }
            assert_eq!(sink.count(), 0, "who has no such VLAN does not hear it");
            // What is not tagged is as always.
            send(numbered(11, to, ALLOWED, 5));
            wait_for("an untagged datagram arrives", || sink.count() == 1);
        }
        assert_eq!(alpha.drops().get("device-error"), None, "{dataplane}");
    }
}

/// Of which VLANs, the network and its endpoints say: for who sends and who receives.
#[test]
fn guests_have_the_vlans_that_they_are_given() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        let keys = "vni = 5001\nvlan_aware = true\nguest_vlans = [\"100-199\", 7]\n";
        let receives = "[tenant.acme.endpoint.db1]\n";
        site.rewrite(|text| {
            let text = text.replace("vni = 5001\n", keys);
            text.replace(receives, &format!("{receives}guest_vlans = [100]\n"))
        });
        let [alpha, _beta] = ["alpha", "beta"].map(|host| site.run_with(host, dataplane));
        let mut refused = 0;
        for (to, space, vlans) in
            [(RECEIVERS[0], &site.web2, &[100, 199, 7][..]), (RECEIVERS[1], &site.db1, &[100])]
        {
            let heard = Capture::start(space, "eth0");
            let send = |vlan: u16| {
                send_frame(&site.web1, "eth0", &tagged(&numbered(11, to, ALLOWED, vlan.into()), VLAN, vlan))
            };
            let has = |vlan: u16| {
                let number = u64::from(vlan).to_be_bytes();
                !heard.matching(|seen| seen.windows(8).any(|bytes| bytes == number)).is_empty()
            };
            for vlan in [7, 8, 99, 100, 199, 200] {
                send(vlan);
                refused += u64::from(!vlans.contains(&vlan));
            }
            wait_for("what it has arrives", || vlans.iter().all(|vlan| has(*vlan)));
            wait_for("others are refused", || alpha.drops().get("vlan-tagged") == Some(&refused));
            assert!([8, 99, 200].iter().all(|vlan| !has(*vlan)), "{dataplane}");
        }
    }
}

/// A datagram of 4,000 bytes and a number, in three fragments as a sender with an MTU of 1,500 makes them.
fn in_fragments(v6: bool, to: (u8, MacAddr), number: u64) -> Vec<Vec<u8>> {
    let payload = [&number.to_be_bytes()[..], &[7; 3992]].concat();
    let ethernet = PacketBuilder::ethernet2(WEB1.0, to.1.0);
    let mut whole = Vec::new();
    let (headers, size) = if v6 {
        let address = |number: u8| {
            let digits = u16::from_str_radix(&number.to_string(), 16).unwrap();
            std::net::Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, digits).octets()
        };
        ethernet.ipv6(address(11), address(to.0), 64).udp(4000, ALLOWED).write(&mut whole, &payload).unwrap();
        (54, 1448)
    } else {
        ethernet
            .ipv4([10, 1, 0, 11], [10, 1, 0, to.0], 64)
            .udp(4000, ALLOWED)
            .write(&mut whole, &payload)
            .unwrap();
        (34, 1480)
    };
    let (headers, body) = whole.split_at(headers);
    let count = body.len().div_ceil(size);
    let piece = |(n, piece): (usize, &[u8])| {
        let (offset, more) = ((n * size) as u16, n + 1 < count);
        let mut frame = headers.to_vec();
        if v6 {
            frame[18..20].copy_from_slice(&(8 + piece.len() as u16).to_be_bytes());
            frame[20] = 44;
            frame.extend([17, 0]);
            frame.extend((offset | u16::from(more)).to_be_bytes());
            frame.extend((number as u32).to_be_bytes());
        } else {
            frame[16..18].copy_from_slice(&(20 + piece.len() as u16).to_be_bytes());
            frame[18..20].copy_from_slice(&(number as u16).to_be_bytes());
            frame[20..22].copy_from_slice(&(offset >> 3 | u16::from(more) << 13).to_be_bytes());
            frame[24..26].fill(0);
            let sum = checksum::checksum(&frame[14..34]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        [frame, piece.to_vec()].concat()
    };
    body.chunks(size).enumerate().map(piece).collect()
}

fn at(v6: bool, number: u8, port: u16) -> SocketAddr {
    if v6 { format!("[fd00:1::{number}]:{port}").parse().unwrap() } else { udp(number, port) }
}

/// Packets that the programs have left to the pipeline.
fn punted(daemon: &Daemon, dataplane: &str) -> u64 {
    if dataplane != "ebpf" {
        return 0;
    }
    let status = daemon.ask(&["status"]);
    status["punts"].as_object().unwrap().values().map(|packets| packets.as_u64().unwrap()).sum()
}

/// Runs a program in Python that must succeed.
fn python(space: &Space, program: &str) {
    let output = space.command("python3").args(["-c", program]).output().unwrap();
    assert!(output.status.success(), "{program}\n{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn datagrams_in_fragments_arrive_whatever_the_order() {
    for dataplane in DATAPLANES {
        let Some((site, [alpha, beta])) = running(dataplane, "") else { return };
        for (n, to) in RECEIVERS.into_iter().enumerate() {
            for v6 in [false, true] {
                let sink = Sink::start([&site.web2, &site.db1][n], at(v6, to.0, ALLOWED));
                let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
                for (order, number) in orders.into_iter().cycle().take(12).zip(1..) {
                    let pieces = in_fragments(v6, to, number);
                    for piece in order {
                        send_frame(&site.web1, "eth0", &pieces[piece]);
                    }
                    wait_for(&format!("a datagram in order {order:?} arrives"), || sink.count() == number);
                }
                let family = if v6 { "AF_INET6" } else { "AF_INET" };
                let address = at(v6, to.0, ALLOWED).ip();
                let mut numbers = 100..;
                // The flow begins with the pipeline, and goes on in the kernel once nothing of it is in hand.
                wait_for("fragments stay in the kernel", || {
                    let before = (punted(&alpha, dataplane), punted(&beta, dataplane));
                    let first = numbers.by_ref().step_by(100).next().unwrap();
                    python(
                        &site.web1,
                        &format!(
                            "import socket, time\ns = socket.socket(socket.{family}, socket.SOCK_DGRAM)\ns.bind(('', 4321))\n\
                             for n in range({first}, {first} + 100):\n    s.sendto(n.to_bytes(8, 'big') + bytes(3992), ('{address}', {ALLOWED}))\n    time.sleep(0.0005)\n"
                        ),
                    );
                    let after = (punted(&alpha, dataplane), punted(&beta, dataplane));
                    sink.last() >= first && after.0 - before.0 < 30 && after.1 - before.1 < 30
                });
            }
        }
        for daemon in [&alpha, &beta] {
            let drops = daemon.drops();
            assert!(drops.keys().all(|reason| !reason.starts_with("fragment")), "{dataplane}: {drops:?}");
        }
    }
}

/// A datagram whose first fragment has passed goes on; of others there are no more than the network's limit, which the
/// programs and the pipeline have each.
#[test]
fn datagrams_in_fragments_are_limited_by_network() {
    const LIMIT: usize = 4;
    const SENT: u64 = 40;
    for dataplane in DATAPLANES {
        let Some((site, [alpha, _beta])) = running(dataplane, &format!("limits = {{ fragments = {LIMIT} }}"))
        else {
            return;
        };
        for (n, to) in RECEIVERS.into_iter().enumerate() {
            let receiver = [&site.web2, &site.db1][n];
            let sink = Sink::start(receiver, udp(to.0, ALLOWED));
            let capture = Capture::start(receiver, "eth0");
            // The flow is known, and with the programs where there are any.
            let stream = Stream::start(&site.web1, udp(11, 4000), udp(to.0, ALLOWED));
            stream.arrives("what is whole", &sink);
            drop(stream);
            let refused = || alpha.drops().get("fragment-limit").copied().unwrap_or(0);
            let (before, numbers) = (refused(), (n as u64 + 1) * 1000..(n as u64 + 1) * 1000 + SENT);
            let pieces = numbers.clone().map(|number| in_fragments(false, to, number)).collect::<Vec<_>>();
            pieces.iter().for_each(|pieces| send_frame(&site.web1, "eth0", &pieces[0]));
            let firsts = || capture.matching(|frame| frame.len() == 14 + 20 + 1480 && frame[20] & 0x20 != 0);
            wait_for(&format!("each first fragment passes or counts ({dataplane})"), || {
                firsts().len() as u64 + refused() - before == SENT
            });
            assert!((1..=2 * LIMIT).contains(&firsts().len()), "{} passed ({dataplane})", firsts().len());
            let id = |frame: &[u8]| u64::from(u16::from_be_bytes([frame[18], frame[19]]));
            let passed = id(&firsts()[0]);
            let pieces = &pieces[(passed - numbers.start) as usize];
            pieces[1..].iter().for_each(|piece| send_frame(&site.web1, "eth0", piece));
            let arrived = settle(|| sink.last(), |last| *last == passed);
            let pieces = capture.matching(|frame| frame.len() > 900 && id(frame) == passed).len();
            assert_eq!(
                arrived,
                passed,
                "one that has begun arrives whole ({dataplane}): {pieces} pieces, {:?}",
                alpha.drops()
            );
        }
    }
}

/// Guests with an MTU of 1,500 over an underlay of 1,500.
#[test]
fn what_does_not_fit_is_cut_or_its_sender_told() {
    for dataplane in DATAPLANES {
        let Some((site, [alpha, _beta])) = running(dataplane, "") else { return };
        for host in [&site.alpha, &site.beta] {
            host.ip("link set underlay0 mtu 1500");
        }
        wait_for("the MTU is known", || alpha.ask(&["status"])["vtep"]["mtu"] == 1500);
        let sink = Sink::start(&site.db1, udp(21, ALLOWED));
        let send = |how: &str| {
            python(
                &site.web1,
                &format!(
                    "import socket, errno, time\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
                     to = ('10.1.0.21', {ALLOWED})\nnumber = lambda n: n.to_bytes(8, 'big')\n{how}"
                ),
            );
        };
        // IP_MTU_DISCOVER: 0 sends without DF, 2 with it.
        send("s.setsockopt(0, 10, 0)\nfor n in range(1, 11): s.sendto(number(n) + bytes(1464), to)");
        wait_for("datagrams without DF arrive in pieces", || sink.count() == 10);
        send(
            "s.setsockopt(0, 10, 0)\ns.setsockopt(17, 103, 1472)\n\
             for n in range(11, 41, 3): s.sendto(b''.join(number(n + i) + bytes(1464) for i in range(3)), to)",
        );
        wait_for("and so do those of bursts", || sink.count() == 40);
        assert_eq!(alpha.ask(&["status"])["traffic"]["fragmented"], 40, "{dataplane}");
        send(
            "s.setsockopt(0, 10, 2)\nfor _ in range(1000):\n    try: s.sendto(number(99) + bytes(1464), to)\n\
             \x20   except OSError as e:\n        assert e.errno == errno.EMSGSIZE, e\n        break\n    time.sleep(0.01)\n\
             else: raise SystemExit('nobody told how much fits')",
        );
        let six = Sink::start(&site.db1, at(true, 21, ALLOWED));
        python(
            &site.web1,
            &format!(
                "import socket, time\ns = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\n\
                 for n in range(1, 20):\n    s.sendto(n.to_bytes(8, 'big') + bytes(1444), ('fd00:1::21', {ALLOWED}))\n    time.sleep(0.02)\n"
            ),
        );
        wait_for("in IPv6 the sender cuts what it was told of", || six.last() == 19);
    }
}

/// Containers of a tenant have a tunnel of their own between two machines.
#[test]
fn a_tenants_own_tunnels_carry_bulk() {
    let kinds = [
        ("vxlan id 9 local 10.1.0.{} remote 10.1.0.{} dstport 7000", "noudpcsum"),
        ("vxlan id 9 local 10.1.0.{} remote 10.1.0.{} dstport 7000", "udpcsum"),
        ("vxlan id 9 local fd00:1::{} remote fd00:1::{} dstport 7000", ""),
        ("gretap local 10.1.0.{} remote 10.1.0.{}", "csum"),
        ("gre local 10.1.0.{} remote 10.1.0.{}", ""),
        ("ipip local 10.1.0.{} remote 10.1.0.{}", ""),
        ("ip6gre local fd00:1::{} remote fd00:1::{}", ""),
    ];
    for dataplane in DATAPLANES {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        site.rewrite(|text| {
            text.replace(
                r#"{ proto = "icmp","#,
                r#"{ proto = 47, from = "any" }, { proto = 4, from = "any" }, { proto = "icmp","#,
            )
        });
        let [alpha, beta] = ["alpha", "beta"].map(|host| site.run_with(host, dataplane));
        for (receiver, number) in [(&site.web2, 12), (&site.db1, 21)] {
            for (kind, more) in kinds {
                let made = [(&site.web1, 11, number, 1), (receiver, number, 11, 2)].map(
                    |(space, own, other, host)| {
                        let kind =
                            kind.replacen("{}", &own.to_string(), 1).replacen("{}", &other.to_string(), 1);
                        let made = space
                            .command("ip")
                            .args(format!("link add t0 type {kind} {more}").split_whitespace())
                            .output();
                        if made.unwrap().status.success() {
                            space.ip(&format!("addr add 10.9.0.{host}/24 dev t0"));
                            space.ip("link set t0 up");
                            return true;
                        }
                        false
                    },
                );
                // Not every kernel has every kind of tunnel.
                if made != [true; 2] {
                    eprintln!("skipped: no {kind} here");
                    continue;
                }
                bulk(&site.web1, (receiver, "10.9.0.2:9000".parse().unwrap()), 16 << 20);
                bulk(receiver, (&site.web1, "10.9.0.1:9000".parse().unwrap()), 16 << 20);
                for space in [&site.web1, receiver] {
                    space.ip("link del t0");
                }
            }
        }
        for daemon in [&alpha, &beta] {
            let drops = daemon.drops();
            assert!(!drops.contains_key("bad-l4-header") && !drops.contains_key("device-error"), "{drops:?}");
        }
    }
}

/// Bursts that the sender's device would cut (UDP GSO), as QUIC sends them.
#[test]
fn bursts_of_datagrams_arrive_as_single_ones() {
    for [here, there] in
        [["ebpf", "ebpf"], ["ebpf", "userspace"], ["userspace", "ebpf"], ["userspace", "userspace"]]
    {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        let (alpha, _beta) = (site.run_with("alpha", here), site.run_with("beta", there));
        for (number, receiver) in [(12, &site.web2), (21, &site.db1)] {
            for v6 in [false, true] {
                let (sink, to) =
                    (Sink::start(receiver, at(v6, number, ALLOWED)), at(v6, number, ALLOWED).ip());
                let family = if v6 { "AF_INET6" } else { "AF_INET" };
                let punted_before = punted(&alpha, here);
                python(
                    &site.web1,
                    &format!(
                        "import socket, time\ns = socket.socket(socket.{family}, socket.SOCK_DGRAM)\ns.setsockopt(17, 103, 1200)\n\
                         for n in range(0, 500, 10):\n    s.sendto(b''.join((n + i).to_bytes(8, 'big') + bytes(1192) for i in range(10)), ('{to}', {ALLOWED}))\n    time.sleep(0.002)\n"
                    ),
                );
                // The receiver's socket may be too slow for some.
                wait_for(&format!("bursts arrive from {here} at {there}"), || sink.count() > 250);
                assert!(punted(&alpha, here) - punted_before < 50, "they leave the kernel");
            }
        }
    }
}
