//! The underlay as hosts have it: other VTEPs with their default settings over both families, several uplinks whose routes
//! change, datagrams that are somebody else's or broken, every value that `[overlay]` takes at its bounds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    process::Command,
};

use common::{
    Capture, Daemon, Space, World, bind_udp, bulk, datagram_arrives, hardware_address, hub::Hub, send_frame,
    wait_for,
};
use eastgate_wire::{Family, MacAddr};
use etherparse::{IpHeaders, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder};

const DATAPLANES: [&str; 2] = ["ebpf", "userspace"];
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
const VNI: u32 = 5001;

fn at(number: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([10, 1, 0, number], port))
}

/// alpha runs eastgate and has web1 (10.1.0.11); peer has the kernel's vxlan device with far1 (10.1.0.31) on it. There are
/// two cables between the hosts, `up0` and `up1`.
struct Site {
    world: World,
    family: Family,
    alpha: Space,
    peer: Space,
    web1: Space,
}

impl Site {
    /// Both VTEPs have their addresses on `lo`, and are reached by the first cable.
    fn new(family: Family) -> Option<Self> {
        let mut world = World::new()?;
        let (alpha, peer, web1) = (world.space("alpha"), world.space("peer"), world.space("web1"));
        let site = Self { world, family, alpha, peer, web1 };
        for number in 0..2 {
            site.cable(number);
        }
        for (space, number) in [(&site.alpha, 1), (&site.peer, 2)] {
            space.ip(&format!("addr add {} dev lo{}", site.vtep(number), site.nodad()));
        }
        site.route(&site.alpha, 0);
        site.route(&site.peer, 0);
        site.world.cable((&site.alpha, "veth-web1"), (&site.web1, "eth0"), 1500);
        site.web1.ip("link set eth0 address 02:00:00:00:00:11");
        site.web1.ip("addr add 10.1.0.11/24 dev eth0");
        Some(site)
    }

    fn nodad(&self) -> &'static str {
        if self.family == Family::V6 { " nodad" } else { "" }
    }

    fn vtep(&self, host: u8) -> String {
        match self.family {
            Family::V4 => format!("203.0.113.{host}"),
            Family::V6 => format!("2001:db8:f::{host}"),
        }
    }

    fn link(&self, cable: u8, host: u8) -> String {
        match self.family {
            Family::V4 => format!("192.0.{cable}.{host}"),
            Family::V6 => format!("2001:db8:{cable}::{host}"),
        }
    }

    fn cable(&self, number: u8) {
        let device = format!("up{number}");
        self.world.cable((&self.alpha, &device), (&self.peer, &device), 1700);
        let prefix = if self.family == Family::V4 { 24 } else { 64 };
        for (space, host) in [(&self.alpha, 1), (&self.peer, 2)] {
            space.ip(&format!("addr add {}/{prefix} dev {device}{}", self.link(number, host), self.nodad()));
            if self.family == Family::V6 {
                // From which neighbours are asked for, where packets have the address of another device
                space.ip(&format!("addr add fe80::{host}/64 dev {device} nodad"));
            }
        }
    }

    /// Of one host: the other one's VTEP is reached by this cable.
    fn route(&self, space: &Space, cable: u8) {
        let other = if space.name() == self.alpha.name() { 2 } else { 1 };
        let (vtep, own) = (self.vtep(other), self.vtep(3 - other));
        let next = self.link(cable, other);
        space.ip(&format!("route replace {vtep} via {next} dev up{cable} src {own}"));
    }

    fn config(&self, overlay: &str, devices: &str) -> String {
        format!(
            "[overlay]\n{overlay}\n\
             [host.alpha]\nvtep = \"{}\"\ndevice = {devices}\n\
             [host.peer]\nvtep = \"{}\"\ndevice = \"eth0\"\nruns = \"vxlan\"\n\
             [tenant.acme.network.lan]\nvni = {VNI}\nsubnets = [\"10.1.0.0/24\"]\n\
             [tenant.acme.group.all]\negress = [{{ to = \"any\" }}]\ningress = [\n\
             {{ proto = \"udp\", ports = 7000, from = \"any\" }},\n\
             {{ proto = \"tcp\", ports = \"5432-5439\", from = \"any\" }}, {{ proto = \"icmp\", from = \"any\" }}]\n\
             [tenant.acme.endpoint.web1]\nnetwork = \"lan\"\nhost = \"alpha\"\nport = \"veth-web1\"\n\
             mac = \"02:00:00:00:00:11\"\naddresses = [\"10.1.0.11\"]\ngroups = [\"all\"]\n\
             [tenant.acme.endpoint.far1]\nnetwork = \"lan\"\nhost = \"peer\"\n\
             mac = \"02:00:00:00:00:31\"\naddresses = [\"10.1.0.31\"]\ngroups = [\"all\"]\n",
            self.vtep(1),
            self.vtep(2),
        )
    }

    fn run(&self, dataplane: &str, overlay: &str, devices: &str) -> Daemon {
        let config = self.world.write("eastgate.toml", &self.config(overlay, devices));
        Daemon::start(&self.world, &self.alpha, &config, "alpha", &["--dataplane", dataplane])
    }

    /// The kernel's vxlan device at the peer, by its default settings but for what is `more`.
    fn kernel_vtep(&self, more: &str) {
        let (own, other) = (self.vtep(2), self.vtep(1));
        let port = if more.contains("dstport") { "" } else { "dstport 4789" };
        self.peer.ip(&format!(
            "link add vx0 address 02:00:00:00:00:31 mtu 1500 type vxlan id {VNI} local {own} remote {other} {port} {more}"
        ));
        self.peer.ip("link set vx0 up");
        self.peer.ip("addr add 10.1.0.31/24 dev vx0");
    }

    fn ping(&self, count: u32) -> (bool, String) {
        let mut ping = self.web1.command("ping");
        let output =
            ping.args(["-c", &count.to_string(), "-i", "0.02", "-W", "20", "10.1.0.31"]).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn every_reply_arrives(&self, what: &str) {
        self.replies_arrive(40, what);
    }

    fn replies_arrive(&self, count: u32, what: &str) {
        let capture = Capture::start(&self.web1, "eth0");
        let (_, said) = self.ping(count);
        assert!(said.contains(&format!("{count} packets transmitted")), "{what}: {said}");
        // For the last one `ping` waits no longer than twice what the others took, which on a busy machine may be too short.
        let number = |frame: &[u8]| {
            let is_reply =
                frame.get(12..14)? == [8, 0] && frame.get(23) == Some(&1) && frame.get(34) == Some(&0);
            is_reply.then(|| frame.get(40..42).map(<[u8]>::to_vec)).flatten()
        };
        wait_for(&format!("{count} replies ({what}): {said}"), || {
            capture.find(number).into_iter().collect::<BTreeSet<_>>().len() == count as usize
        });
    }

    /// A datagram of the peer's VTEP by the first cable, with far1's `text` for web1 in it.
    fn datagram(&self, to: MacAddr, sport: u16, text: &str) -> Vec<u8> {
        let mut inner = Vec::new();
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 0x31], [2, 0, 0, 0, 0, 0x11]);
        let builder = builder.ipv4([10, 1, 0, 31], [10, 1, 0, 11], 64).udp(sport, 7000);
        builder.write(&mut inner, text.as_bytes()).unwrap();
        let payload = [&[8, 0, 0, 0, 0, 0x13, 0x89, 0][..], &inner].concat();
        let addresses = [self.vtep(2), self.vtep(1)].map(|vtep| vtep.parse::<IpAddr>().unwrap());
        let len = payload.len() as u16 + 8;
        let ip = match addresses {
            [IpAddr::V4(from), IpAddr::V4(to)] => IpHeaders::Ipv4(
                Ipv4Header::new(len, 64, IpNumber::UDP, from.octets(), to.octets()).unwrap(),
                Default::default(),
            ),
            [IpAddr::V6(from), IpAddr::V6(to)] => IpHeaders::Ipv6(
                Ipv6Header {
                    payload_length: len,
                    next_header: IpNumber::UDP,
                    hop_limit: 64,
                    source: from.octets(),
                    destination: to.octets(),
                    ..Ipv6Header::default()
                },
                Default::default(),
            ),
            _ => unreachable!("one family"),
        };
        let mut outer = Vec::new();
        let own = hardware_address(&self.peer, "up0");
        PacketBuilder::ethernet2(own.0, to.0).ip(ip).udp(50_000, 4789).write(&mut outer, &payload).unwrap();
        outer
    }

    /// Where the outer checksum is.
    fn check_at(&self) -> usize {
        if self.family == Family::V4 { 14 + 20 + 6 } else { 14 + 40 + 6 }
    }
}

fn each(mut test: impl FnMut(&Site, &str)) {
    for family in FAMILIES {
        for dataplane in DATAPLANES {
            let Some(site) = Site::new(family) else { return };
            test(&site, dataplane);
        }
    }
}

/// How many of the frames that arrived at web1 end with this.
fn arrived(capture: &Capture, text: &str) -> usize {
    capture.matching(|frame| frame.ends_with(text.as_bytes())).len()
}

#[test]
fn only_what_is_for_this_host_is_unwrapped() {
    each(|site, dataplane| {
        // As the port of a bridge or a mirror sees it
        site.alpha.ip("link set up0 promisc on");
        let _daemon = site.run(dataplane, "", "\"up0\"");
        let _socket = site.web1.enter(|| bind_udp(("0.0.0.0", 7000)));
        let capture = Capture::start(&site.web1, "eth0");
        let ours = hardware_address(&site.alpha, "up0");
        let send = |to: MacAddr, sport: u16, text: &str| {
            send_frame(&site.peer, "up0", &site.datagram(to, sport, text));
        };
        for (round, sport) in [(0, 4000), (1, 4000), (2, 4001)] {
            let (mine, other) = (format!("mine {round}"), format!("other {round}"));
            // Before its flow is there, and after.
            for unknown_host in [MacAddr([2, 9, 9, 9, 9, 9]), MacAddr([0; 6])] {
                send(unknown_host, sport, &other);
            }
            send(ours, sport, &mine);
            wait_for("what is for this host arrives", || arrived(&capture, &mine) == 1);
            assert_eq!(arrived(&capture, &other), 0, "{dataplane}, {:?}, round {round}", site.family);
        }
    });
}

#[test]
fn a_checksum_is_none_or_right() {
    each(|site, dataplane| {
        let _daemon = site.run(dataplane, "", "\"up0\"");
        let _socket = site.web1.enter(|| bind_udp(("0.0.0.0", 7000)));
        let capture = Capture::start(&site.web1, "eth0");
        let ours = hardware_address(&site.alpha, "up0");
        for (round, sport) in [(0, 4000), (1, 4000), (2, 4001), (3, 4001)] {
            // Of odd and even lengths, and of more than one piece
            let long = "x".repeat([0, 1, 500, 1300][round]);
            let (wrong, none, right) = (
                format!("{long}wrong {round}"),
                format!("{long}none {round}"),
                format!("{long}right {round}"),
            );
            let mut frame = site.datagram(ours, sport, &wrong);
            frame[site.check_at()] ^= 0x10;
            send_frame(&site.peer, "up0", &frame);
            let mut frame = site.datagram(ours, sport, &none);
            frame[site.check_at()..site.check_at() + 2].fill(0);
            send_frame(&site.peer, "up0", &frame);
            send_frame(&site.peer, "up0", &site.datagram(ours, sport, &right));
            wait_for("a right checksum is taken", || arrived(&capture, &right) == 1);
            wait_for("none is taken", || arrived(&capture, &none) == 1);
            assert_eq!(arrived(&capture, &wrong), 0, "{dataplane}, {:?}, round {round}", site.family);
        }
    });
}

/// The kernel's vxlan device as `ip link add` makes it: checksums on what it sends, and wanted over IPv6.
#[test]
fn a_kernel_vtep_with_default_settings_is_a_peer() {
    each(|site, dataplane| {
        site.kernel_vtep("");
        let daemon = site.run(dataplane, "", "[\"up0\", \"up1\"]");
        let both_ways = |port, bytes| {
            bulk(&site.web1, (&site.peer, at(31, port)), bytes);
            bulk(&site.peer, (&site.web1, at(11, port)), bytes);
        };
        assert!(site.web1.ping("10.1.0.31"), "{dataplane}, {:?}", site.family);
        assert!(site.peer.ping("10.1.0.11"), "{dataplane}, {:?}", site.family);
        datagram_arrives((&site.web1, at(11, 7000)), (&site.peer, at(31, 7000)));
        datagram_arrives((&site.peer, at(31, 7000)), (&site.web1, at(11, 7000)));
        both_ways(5432, 5_000_000);
        if dataplane == "ebpf" {
            // GSO packets are cut for a VTEP that wants checksums where there is a daemon to do it.
            if site.family == Family::V6 {
                site.web1
                    .command("ethtool")
                    .args(["-K", "eth0", "tso", "off", "gso", "off"])
                    .output()
                    .unwrap();
            }
            daemon.kill();
            both_ways(5433, 5_000_000);
            datagram_arrives((&site.web1, at(11, 7001)), (&site.peer, at(31, 7000)));
            // Packets as small as these are not cut out of datagrams over IPv6 by the programs.
            if site.family == Family::V4 {
                datagram_arrives((&site.peer, at(31, 7001)), (&site.web1, at(11, 7000)));
            }
            assert!(site.ping(3).0, "without a daemon, {:?}", site.family);
        }
    });
}

#[test]
fn a_hub_carries_what_kernel_vteps_with_default_settings_send() {
    for family in FAMILIES {
        for dataplane in DATAPLANES {
            let Some(site) = Hub::over(family, "") else { return };
            let daemon = site.run(dataplane);
            let [two, three] = &site.spokes;
            let both_ways = |port, bytes| {
                bulk(two, (three, at(3, port)), bytes);
                bulk(three, (two, at(2, port)), bytes);
            };
            assert!(two.ping("10.1.0.3"), "{dataplane} over {family:?}");
            both_ways(5432, 5_000_000);
            datagram_arrives((two, at(2, 7000)), (three, at(3, 7000)));
            if dataplane == "ebpf" {
                daemon.kill();
                let (frames, bytes) = site.sent();
                both_ways(5433, 50_000_000);
                let (frames, bytes) = (site.sent().0 - frames, site.sent().1 - bytes);
                assert!(
                    bytes > 100_000_000 && bytes / frames > 5_000,
                    "{family:?}: {bytes} bytes in {frames} frames: cut at the hub"
                );
                datagram_arrives((two, at(2, 7001)), (three, at(3, 7000)));
                datagram_arrives((three, at(3, 7001)), (two, at(2, 7000)));
                assert!(two.ping("10.1.0.3"), "without a daemon over {family:?}");
            }
        }
    }
}

#[test]
fn checksums_are_as_the_configuration_says() {
    for family in FAMILIES {
        for dataplane in DATAPLANES {
            for (overlay, host, wanted) in [
                ("udp_checksum = \"always\"", "", Some(true)),
                ("udp_checksum = \"never\"", "", Some(false)),
                ("", "udp_checksum = \"always\"\n", Some(true)),
                ("udp_checksum = \"always\"", "udp_checksum = \"never\"\n", Some(false)),
                // To a plain VTEP
                ("", "", (family == Family::V6).then_some(true)),
            ] {
                let Some(site) = Site::new(family) else { return };
                site.kernel_vtep("udp6zerocsumrx");
                let text = site.config(overlay, "\"up0\"");
                let text = text.replace("runs = \"vxlan\"\n", &format!("runs = \"vxlan\"\n{host}"));
                let config = site.world.write("eastgate.toml", &text);
                let daemon =
                    Daemon::start(&site.world, &site.alpha, &config, "alpha", &["--dataplane", dataplane]);
                let capture = Capture::start(&site.peer, "up0");
                bulk(&site.web1, (&site.peer, at(31, 5432)), 300_000);
                assert!(site.ping(3).0, "{dataplane} over {family:?}: {overlay} {host}");
                let to = site.check_at() - 4;
                let own = hardware_address(&site.alpha, "up0");
                let is_sent = |frame: &[u8]| {
                    frame.get(to..to + 2) == Some(&4789u16.to_be_bytes()[..]) && frame[6..12] == own.0
                };
                // Behind the checksum come the headers of VXLAN and Ethernet, and the protocol in that of IPv4.
                let is_echo = |frame: &[u8]| is_sent(frame) && frame.get(to + 4 + 2 + 8 + 14 + 9) == Some(&1);
                // They were sent last: all the others were seen before.
                wait_for("the capture has seen what was sent", || capture.matching(is_echo).len() >= 3);
                let ours = capture.matching(is_sent);
                let mut sent = ours.iter();
                if let Some(wanted) = wanted {
                    let at = site.check_at();
                    assert!(
                        sent.all(|frame| (frame[at..at + 2] != [0, 0]) == wanted),
                        "{dataplane} over {family:?}: {overlay} {host}"
                    );
                }
                drop(daemon);
            }
        }
    }
}

/// VTEPs on `lo`, and two uplinks: the one by which datagrams leave is the routes', whatever the configuration names.
#[test]
fn what_leaves_follows_the_routes() {
    each(|site, dataplane| {
        site.kernel_vtep("");
        for devices in ["[\"up0\", \"up1\"]", "\"up0\""] {
            let daemon = site.run(dataplane, "", devices);
            let what = |when: &str| format!("{dataplane} over {:?}, {devices}: {when}", site.family);
            site.every_reply_arrives(&what("at first"));
            site.route(&site.alpha, 1);
            site.every_reply_arrives(&what("one host's route has moved"));
            site.route(&site.peer, 1);
            site.every_reply_arrives(&what("both have"));
            // The next hop's carrier is lost; a routing daemon, or the kernel itself, falls back.
            for (family, space) in [("ipv4", &site.alpha), ("ipv6", &site.alpha)] {
                space.set(&format!("net/{family}/conf/up1/ignore_routes_with_linkdown"), "1");
            }
            for (space, other) in [(&site.alpha, 2), (&site.peer, 1)] {
                let (vtep, next, own) = (site.vtep(other), site.link(0, other), site.vtep(3 - other));
                space.ip(&format!("route add {vtep} via {next} dev up0 src {own} metric 2000"));
            }
            site.peer.ip("link set up1 down");
            wait_for("the carrier is lost", || site.alpha.ip("link show up1").contains("NO-CARRIER"));
            site.every_reply_arrives(&what("the carrier is lost"));
            if dataplane == "ebpf" {
                daemon.kill();
                site.every_reply_arrives(&what("without a daemon"));
            }
            // As it was
            site.alpha.ip("link delete up1");
            site.cable(1);
            for (space, other) in [(&site.alpha, 2), (&site.peer, 1)] {
                let flush = format!("route flush {}", site.vtep(other));
                let six = if site.family == Family::V6 { "-6 " } else { "" };
                space.ip(&format!("{six}{flush}"));
                site.route(space, 0);
            }
        }
    });
}

#[test]
fn uplinks_come_and_go() {
    each(|site, dataplane| {
        site.kernel_vtep("");
        let daemon = site.run(dataplane, "", "[\"up1\", \"up0\"]");
        site.every_reply_arrives(dataplane);
        site.alpha.ip("link delete up1");
        site.every_reply_arrives("an uplink is gone");
        site.cable(1);
        site.route(&site.alpha, 1);
        site.route(&site.peer, 1);
        site.every_reply_arrives("it is there again");
        site.alpha.ip("link delete up0");
        site.every_reply_arrives("the other one is gone");
        assert_eq!(daemon.ask(&["status"])["vtep"]["listening"], true);
    });
}

/// Values of `[overlay]` at their bounds, each with what the other VTEP has to be told.
const BOUNDS: &[(&str, &str)] = &[
    ("ttl = 1", ""),
    ("ttl = 255", ""),
    ("ttl = \"inherit\"", ""),
    ("tos = 255", ""),
    ("tos = \"inherit\"", ""),
    ("port = 1", "dstport 1"),
    ("port = 65535", "dstport 65535"),
    // Where the kernel's own device would be
    ("port = 14789", "dstport 14789"),
    ("source_ports = \"1-65535\"\nentropy_ports = 32768", ""),
    ("source_ports = 65535\nentropy_ports = 1", ""),
    ("source_ports = 1\nentropy_ports = 1", ""),
    // The VTEPs' own port among them
    ("source_ports = \"4789-4790\"\nentropy_ports = 2", ""),
    ("dont_fragment = false", ""),
    ("dont_fragment = true\nudp_checksum = \"zero\"", "udp6zerocsumrx"),
];

#[test]
fn every_value_works_at_its_bounds() {
    for family in FAMILIES {
        for dataplane in DATAPLANES {
            for (overlay, vxlan) in BOUNDS {
                let Some(site) = Site::new(family) else { return };
                site.kernel_vtep(vxlan);
                let daemon = site.run(dataplane, overlay, "\"up0\"");
                let what = format!("{dataplane} over {family:?}: {overlay}");
                site.replies_arrive(10, &what);
                bulk(&site.web1, (&site.peer, at(31, 5432)), 300_000);
                bulk(&site.peer, (&site.web1, at(11, 5432)), 300_000);
                // Another flow has another source port.
                bulk(&site.web1, (&site.peer, at(31, 5433)), 300_000);
                let drops = daemon.drops();
                assert!(!drops.contains_key("vtep-unreachable"), "{what}: {drops:?}");
            }
        }
    }
}

#[test]
fn a_ttl_of_nothing_is_inherited_as_one() {
    each(|site, dataplane| {
        site.kernel_vtep("");
        let _daemon = site.run(dataplane, "ttl = \"inherit\"", "\"up0\"");
        assert!(site.ping(3).0, "{dataplane}");
        let capture = Capture::start(&site.peer, "vx0");
        for round in 0..3 {
            let mut frame = Vec::new();
            let text = format!("ttl 0, {round}");
            let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 0x11], [2, 0, 0, 0, 0, 0x31]);
            let builder = builder.ipv4([10, 1, 0, 11], [10, 1, 0, 31], 0).udp(4000, 7000);
            builder.write(&mut frame, text.as_bytes()).unwrap();
            send_frame(&site.web1, "eth0", &frame);
            wait_for("it arrives", || arrived(&capture, &text) >= 1);
        }
    });
}

/// What a way out without transmit checksums answered before kernel 6.11, and what one through IPsec answers now.
const NO_BURSTS: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

int sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags)
{
	unsigned int first = 0;

	for (; first < count; first++) {
		struct msghdr *header = &messages[first].msg_hdr;

		for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c; c = CMSG_NXTHDR(header, c)) {
			if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == 103)
				goto burst;
		}
	}
burst:
	if (first || !count)
		return syscall(SYS_sendmmsg, fd, messages, first, flags);
	errno = EIO;
	return -1;
}
"#;

#[test]
fn bursts_that_the_kernel_does_not_take_are_sent_one_by_one() {
    for family in FAMILIES {
        let Some(site) = Site::new(family) else { return };
        let (source, library) = (site.world.write("no_bursts.c", NO_BURSTS), site.world.path("no_bursts.so"));
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source);
        assert!(compiler.status().unwrap().success());
        site.kernel_vtep("");
        let config = site.world.write("eastgate.toml", &site.config("", "\"up0\""));
        let daemon = Daemon::start_behind(
            &site.world,
            &site.alpha,
            &config,
            "alpha",
            &library,
            &["--dataplane", "userspace"],
        );
        bulk(&site.web1, (&site.peer, at(31, 5432)), 20_000_000);
        let (status, drops) = (daemon.ask(&["status"]), daemon.drops());
        assert!(status["vtep"]["bursts_refused"].as_u64().unwrap() > 0, "{status:#}");
        assert!(!drops.contains_key("vtep-unreachable"), "{drops:?}");
    }
}

#[test]
fn a_vtep_without_its_address_does_not_say_that_it_listens() {
    each(|site, dataplane| {
        site.kernel_vtep("");
        let daemon = site.run(dataplane, "", "\"up0\"");
        assert!(site.ping(3).0);
        let address =
            format!("{}{} dev lo", site.vtep(1), if site.family == Family::V4 { "/32" } else { "/128" });
        site.alpha.ip(&format!("addr del {address}"));
        wait_for("status says so", || daemon.ask(&["status"])["vtep"]["listening"] == false);
        let said = String::from_utf8(daemon.run(&["status"]).stdout).unwrap();
        assert!(
            said.contains(&format!("NOT LISTENING: {} is no address of this host", site.vtep(1))),
            "{said}"
        );
        site.alpha.ip(&format!("addr add {address}{}", site.nodad()));
        wait_for("it listens again", || daemon.ask(&["status"])["vtep"]["listening"] == true);
        site.route(&site.alpha, 0);
        wait_for("traffic passes again", || site.ping(1).0);
    });
}

#[test]
fn an_underlay_that_is_too_small_is_said() {
    let Some(site) = Site::new(Family::V4) else { return };
    for device in ["up0", "up1"] {
        site.alpha.ip(&format!("link set {device} mtu 1500"));
    }
    let text = site.config("", "[\"up0\", \"up1\"]").replace("vni =", "mtu = 1500\nvni =");
    let config = site.world.write("eastgate.toml", &text);
    let daemon = Daemon::start(&site.world, &site.alpha, &config, "alpha", &[]);
    let small = |daemon: &Daemon| daemon.ask(&["status"])["vtep"]["too_small_for"].to_string();
    assert_eq!(small(&daemon), "[\"acme/lan\"]");
    let said = String::from_utf8(daemon.run(&["status"]).stdout).unwrap();
    assert!(said.contains("LESS THAN THE mtu OF acme/lan"), "{said}");
    let mut plan = site.alpha.command(common::EASTGATE);
    plan.args(["plan", "--host", "alpha", "--config"]).arg(&config);
    let said = String::from_utf8(plan.output().unwrap().stdout).unwrap();
    assert!(said.contains("acme/lan"), "{said}");
    site.alpha.ip("link set up0 mtu 1600");
    assert_eq!(small(&daemon), "[\"acme/lan\"]", "one of them is still too small");
    site.alpha.ip("link set up1 mtu 1600");
    wait_for("it is carried", || small(&daemon) == "[]");
}
