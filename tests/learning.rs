//! Addresses that nobody has written down, with real DHCP servers and clients (dnsmasq, udhcpc, dhclient) and the kernel's own ARP
//! and neighbour discovery, in both data planes; and endpoints that are carried without policy.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Instant,
};

use common::{Daemon, Sink, Space, Stream, must, site::*, wait_for};
use eastgate_testkit::command::install_script;

const DATAPLANES: [&str; 2] = ["ebpf", "userspace"];

/// A process in a machine, which ends with this.
struct Running(Child);

impl Running {
    fn start(space: &Space, program: &str, arguments: &[&str], log: &Path) -> Self {
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        let mut command = space.command(program);
        command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Self(command.spawn().unwrap())
    }

    fn signal(&mut self, signal: nix::sys::signal::Signal) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.0.id() as i32), signal);
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// web1 is the DHCP server; db1 has no address; group members may reach each other, and nobody else.
fn learning(site: &mut Site, how: &str) {
    learning_with(site, how, "");
}

/// The same with more that the network says.
fn learning_with(site: &mut Site, how: &str, more: &str) {
    let text = acme_on(HOSTS_V4)
        .replace("from = \"any\"", "from = \"group:all\"")
        .replace("\nvni = 5001\n", &format!("\nvni = 5001\nlearn = \"{how}\"\n{more}\n"))
        .replace("addresses = [\"10.1.0.21\", \"fd00:1::21\"]\n", "")
        .replace("mac = \"02:00:00:00:00:11\"\n", "mac = \"02:00:00:00:00:11\"\ndhcp_server = true\n");
    site.config = site.world.write("eastgate.toml", &text);
    site.db1.ip("addr flush dev eth0 scope global");
    // DHCPv6 speaks by these.
    site.web1.ip("addr add fe80::ff:fe00:11/64 dev eth0 nodad");
    site.db1.ip("addr add fe80::ff:fe00:21/64 dev eth0 nodad");
}

fn run(site: &Site, dataplane: &str) -> [Daemon; 2] {
    [(&site.alpha, "alpha"), (&site.beta, "beta")].map(|(space, name)| {
        Daemon::start(&site.world, space, &site.config, name, &["--dataplane", dataplane])
    })
}

fn dnsmasq(site: &Site, space: &Space) -> Running {
    let log = site.world.path(&format!("dnsmasq-{}.log", space.name()));
    let leases =
        format!("--dhcp-leasefile={}", site.world.path(&format!("leases-{}", space.name())).display());
    let arguments = [
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--port=0",
        "--user=root",
        "--pid-file",
        "--no-ping",
        "--interface=eth0",
        "--dhcp-authoritative",
        "--log-facility=-",
        "--log-dhcp",
        "--dhcp-range=10.1.0.100,10.1.0.150,2m",
        "--dhcp-range=fd00:1::100,fd00:1::1ff,64,2m",
        "--dhcp-option=option:dns-server",
        "--dhcp-option=option:router",
        &leases,
    ];
    let running = Running::start(space, "dnsmasq", &arguments, &log);
    wait_for("dnsmasq serves", || {
        std::fs::read_to_string(&log)
            .is_ok_and(|text| text.contains("sockets bound") || text.contains("DHCPv6, IP range"))
    });
    running
}

/// What a client does with its lease: nothing but to have the address.
fn script(site: &Site) -> PathBuf {
    let text = "#!/bin/sh\n\
        case \"$1$reason\" in\n\
        bound|renew) ip addr replace $ip/24 dev eth0 ;;\n\
        deconfig) ip -4 addr flush dev eth0 ;;\n\
        BOUND6|RENEW6|REBIND6) ip -6 addr replace $new_ip6_address/64 dev eth0 nodad ;;\n\
        esac\n";
    let script = site.world.path("lease.sh");
    must(install_script(text, &script));
    script
}

/// Gets a lease, and stays to renew it.
fn udhcpc(site: &Site, space: &Space, tries: &str) -> Running {
    let script = script(site);
    let arguments =
        ["-f", "-R", "-t", tries, "-T", "1", "-A", "1", "-i", "eth0", "-s", script.to_str().unwrap()];
    Running::start(space, "udhcpc", &arguments, &site.world.path("udhcpc.log"))
}

fn dhclient6(site: &Site, space: &Space) -> Running {
    let (script, files) =
        (script(site), ["dhclient.leases", "dhclient.pid"].map(|name| site.world.path(name)));
    let [leases, pid] = files.map(|path| path.to_str().unwrap().to_owned());
    let arguments = ["-6", "-d", "-sf", script.to_str().unwrap(), "-lf", &leases, "-pf", &pid, "eth0"];
    Running::start(space, "dhclient", &arguments, &site.world.path("dhclient.log"))
}

/// An address of a machine in a family that is no link-local one.
fn address(space: &Space, family: &str) -> Option<String> {
    let text = space.ip(&format!("{family} -o addr show dev eth0 scope global"));
    let at = text.split_whitespace().skip_while(|word| !word.starts_with("inet")).nth(1)?;
    Some(at.split('/').next()?.to_owned())
}

/// Learned addresses of an endpoint: the address and by what.
fn learned(daemon: &Daemon, endpoint: &str) -> Vec<(String, String)> {
    let answer = daemon.ask(&["show", "endpoints"]);
    let rows = answer["endpoints"].as_array().unwrap_or_else(|| panic!("{answer:#}")).clone();
    let row = rows.into_iter().find(|row| row["endpoint"] == endpoint).unwrap();
    let learned = row["learned"].as_array().cloned().unwrap_or_default();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let by =
        |it: &serde_json::Value| if it["elsewhere"] == true { "elsewhere".into() } else { text(&it["by"]) };
    learned.iter().map(|it| (text(&it["address"]), by(it))).collect()
}

fn reach_each_other(a: &Space, to_b: &str, b: &Space, to_a: &str, when: &str) {
    wait_for(&format!("{} reaches {to_b} {when}", a.name()), || a.ping(&format!("-q {to_b}")));
    wait_for(&format!("{} reaches {to_a} {when}", b.name()), || b.ping(&format!("-q {to_a}")));
}

#[test]
fn what_a_server_leases_is_learned_on_both_hosts_and_kept() {
    for dataplane in DATAPLANES {
        let Some(mut site) = Site::new(HOSTS_V4) else { return };
        learning(&mut site, "dhcp");
        let [alpha, mut beta] = run(&site, dataplane);
        let server = dnsmasq(&site, &site.web1);
        let mut client = udhcpc(&site, &site.db1, "30");
        wait_for("a lease", || address(&site.db1, "-4").is_some());
        let begun = Instant::now();
        let v4 = address(&site.db1, "-4").unwrap();
        wait_for("it is in force", || site.db1.ping("-q -W 1 10.1.0.12"));
        eprintln!("{dataplane}: {:?} from the lease to the first answer", begun.elapsed());
        let client6 = dhclient6(&site, &site.db1);
        wait_for("a lease of IPv6", || address(&site.db1, "-6").is_some());
        let v6 = address(&site.db1, "-6").unwrap();
        reach_each_other(&site.db1, "10.1.0.12", &site.web2, &v4, dataplane);
        reach_each_other(&site.db1, "fd00:1::12", &site.web2, &v6, dataplane);
        // The server is at alpha, which has seen the leases itself.
        let both = |daemon: &Daemon| {
            let mut addresses: Vec<String> =
                learned(daemon, "acme/db1").into_iter().map(|(at, _)| at).collect();
            addresses.sort();
            addresses
        };
        assert_eq!(both(&beta), [v4.clone(), v6.clone()]);
        assert_eq!(both(&alpha), both(&beta));
        assert!(learned(&beta, "acme/db1").iter().all(|(_, by)| by == "dhcp"));
        // What is not leased is not its own.
        site.db1.ip("addr add 10.1.0.77/24 dev eth0");
        assert!(!site.db1.ping("-q -W 1 -I 10.1.0.77 10.1.0.12"));
        assert_eq!(both(&beta), [v4.clone(), v6.clone()]);
        site.db1.ip("addr del 10.1.0.77/24 dev eth0");
        // The next daemon knows it at once, without a word of the client or the server.
        let mut kept = beta.socket().as_os_str().to_owned();
        kept.push(".learned.json");
        wait_for("it is kept", || {
            let kept = std::fs::read_to_string(&kept).unwrap_or_default();
            [&v4, &v6].iter().all(|address| kept.contains(&format!("\"{address}\"")))
        });
        drop(server);
        drop(client6);
        beta.kill();
        beta = Daemon::start(&site.world, &site.beta, &site.config, "beta", &["--dataplane", dataplane]);
        assert_eq!(both(&beta), [v4.clone(), v6]);
        reach_each_other(&site.db1, "10.1.0.12", &site.web2, &v4, "after a restart");
        // Given back, it is nobody's, on both hosts. It is said once, and what still waits for the server's MAC when the address is
        // taken away is never sent.
        wait_for("the server's MAC is known", || {
            site.db1.ping("-q -W 1 10.1.0.11");
            site.db1.ip("neigh show to 10.1.0.11 dev eth0").contains("lladdr")
        });
        client.signal(nix::sys::signal::Signal::SIGTERM);
        for daemon in [&beta, &alpha] {
            wait_for("it is given back", || !both(daemon).contains(&v4));
        }
        assert!(beta.log().contains("given back"), "{}", beta.log());
    }
}

#[test]
fn who_is_no_server_teaches_nothing() {
    for dataplane in DATAPLANES {
        let Some(mut site) = Site::new(HOSTS_V4) else { return };
        learning(&mut site, "any");
        let [alpha, beta] = run(&site, dataplane);
        // A rogue beside the client's host, that hears what clients broadcast? It does not: those go to servers alone.
        let _rogue = dnsmasq(&site, &site.web2);
        let client = udhcpc(&site, &site.db1, "3");
        let log = site.world.path("udhcpc.log");
        wait_for("the client has tried in vain", || {
            std::fs::read_to_string(&log).is_ok_and(|text| text.matches("discover").count() >= 3)
        });
        assert_eq!(address(&site.db1, "-4"), None);
        drop(client);
        // What it sends unasked is refused as it leaves.
        let forged = forged_ack();
        common::send_frame(&site.web2, "eth0", &forged);
        wait_for("it is refused", || {
            alpha.drops().get("dhcp-server-guard").is_some_and(|frames| *frames > 0)
        });
        for daemon in [&alpha, &beta] {
            assert!(learned(daemon, "acme/db1").is_empty());
        }
    }
}

/// A DHCPACK for db1 from web2.
fn forged_ack() -> Vec<u8> {
    let mut body = vec![0; 240];
    (body[0], body[1], body[2]) = (2, 1, 6);
    body[16..20].copy_from_slice(&[10, 1, 0, 99]);
    body[28..34].copy_from_slice(&[2, 0, 0, 0, 0, 0x21]);
    body[236..240].copy_from_slice(&[99, 130, 83, 99]);
    body.extend_from_slice(&[53, 1, 5, 51, 4, 0, 0, 2, 0, 255]);
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 0x12], [2, 0, 0, 0, 0, 0x21])
        .ipv4([10, 1, 0, 12], [10, 1, 0, 99], 64)
        .udp(67, 68)
        .write(&mut frame, &body)
        .unwrap();
    frame
}

#[test]
fn what_a_machine_says_itself_is_learned_and_gone_with_its_port() {
    for dataplane in DATAPLANES {
        let Some(mut site) = Site::new(HOSTS_V4) else { return };
        learning(&mut site, "nd");
        let [alpha, beta] = run(&site, dataplane);
        // As a stack does it: with duplicate detection, and with several addresses of IPv6 at once.
        for at in ["10.1.0.21/24", "fd00:1::21/64", "fd00:1::a1/64", "fd00:1::a2/64"] {
            site.db1.ip(&format!("addr add {at} dev eth0"));
        }
        for (own, other) in
            [("10.1.0.21", "10.1.0.12"), ("fd00:1::21", "fd00:1::12"), ("fd00:1::a2", "fd00:1::12")]
        {
            wait_for(&format!("{own} is learned ({dataplane})"), || {
                site.db1.ping(&format!("-q -W 1 -I {own} {other}"))
            });
            reach_each_other(&site.db1, other, &site.web2, own, dataplane);
        }
        // Somebody else's is not: of one who has it by the files, and of one who was first.
        site.db1.ip("addr add 10.1.0.11/24 dev eth0");
        assert!(!site.db1.ping("-q -W 1 -I 10.1.0.11 10.1.0.12"), "{dataplane}");
        site.db1.ip("addr del 10.1.0.11/24 dev eth0");
        let has =
            |daemon: &Daemon, at: &str| learned(daemon, "acme/db1").iter().any(|(known, _)| known == at);
        assert!(!has(&beta, "10.1.0.11") && has(&beta, "10.1.0.21") && has(&alpha, "10.1.0.21"));
        let from_elsewhere = learned(&alpha, "acme/db1");
        assert!(from_elsewhere.iter().all(|(_, by)| by == "elsewhere"), "{from_elsewhere:?}");
        assert!(beta.ask(&["status"])["learned"]["addresses"].as_u64().unwrap() >= 3);
        site.beta.ip("link del veth-db1");
        wait_for("it is forgotten with its port", || learned(&beta, "acme/db1").is_empty());
    }
}

/// With `any`, a packet is enough: the machine neither probes nor announces its address, nor asks for anybody's.
#[test]
fn the_first_packet_of_a_machine_tells_its_address() {
    for dataplane in DATAPLANES {
        let Some(mut site) = Site::new(HOSTS_V4) else { return };
        learning(&mut site, "any");
        let [alpha, beta] = run(&site, dataplane);
        let sink = Sink::start(&site.web2, udp(12, ALLOWED));
        let datagram = |source: [u8; 4]| {
            let mut frame = Vec::new();
            etherparse::PacketBuilder::ethernet2(DB1_MAC.0, WEB2_MAC.0)
                .ipv4(source, [10, 1, 0, 12], 64)
                .udp(4000, ALLOWED)
                .write(&mut frame, &[0; 8])
                .unwrap();
            frame
        };
        common::send_frame(&site.db1, "eth0", &datagram([10, 1, 0, 33]));
        for (daemon, by) in [(&beta, "traffic"), (&alpha, "elsewhere")] {
            wait_for(&format!("{dataplane}: it is learned ({by})"), || {
                learned(daemon, "acme/db1") == [("10.1.0.33".to_owned(), by.to_owned())]
            });
        }
        // The one that told it was too early, and is counted as such.
        assert_eq!(beta.drops().get("unlearned"), Some(&1), "{dataplane}: {:?}", beta.drops());
        common::send_frame(&site.db1, "eth0", &datagram([10, 1, 0, 33]));
        wait_for(&format!("{dataplane}: the next one arrives"), || sink.count() == 1);
        // What is somebody's is not to be had by a packet either.
        common::send_frame(&site.db1, "eth0", &datagram([10, 1, 0, 11]));
        wait_for(&format!("{dataplane}: it is refused"), || beta.drops().contains_key("ip-spoofed"));
        assert_eq!(learned(&beta, "acme/db1").len(), 1, "{dataplane}");
    }
}

/// What an endpoint has learned goes with it: the host that it comes to has it, before the machine says a word there.
#[test]
fn learned_addresses_move_with_their_endpoint() {
    for dataplane in DATAPLANES {
        let Some(mut site) = Site::new(HOSTS_V4) else { return };
        learning(&mut site, "nd");
        let [alpha, beta] = run(&site, dataplane);
        site.db1.ip("addr add 10.1.0.21/24 dev eth0");
        wait_for(&format!("{dataplane}: it is learned"), || site.db1.ping("-q -W 1 10.1.0.12"));
        reach_each_other(&site.db1, "10.1.0.11", &site.web1, "10.1.0.21", dataplane);
        let own =
            |daemon: &Daemon| learned(daemon, "acme/db1").into_iter().map(|(at, _)| at).collect::<Vec<_>>();
        wait_for(&format!("{dataplane}: alpha knows"), || own(&alpha) == ["10.1.0.21"]);

        site.beta.ip("link del veth-db1");
        site.rewrite(|text| text.replace("host = \"beta\"", "host = \"alpha\""));
        for daemon in [&alpha, &beta] {
            assert!(daemon.run(&["reload"]).status.success());
        }
        assert_eq!(own(&alpha), ["10.1.0.21"], "{dataplane}");
        site.plug(&site.alpha, "veth-db1", &site.db1, 0x21);
        wait_for(&format!("{dataplane}: its port is served"), || {
            alpha.port_state("veth-db1") == "forwarding"
        });
        reach_each_other(&site.web2, "10.1.0.21", &site.db1, "10.1.0.12", dataplane);
        assert_eq!(own(&alpha), ["10.1.0.21"], "{dataplane}");
    }
}

/// The keys that say what is not learned, and for how long it is.
#[test]
fn what_is_learned_is_bounded_as_the_network_says() {
    for dataplane in DATAPLANES {
        let Some(mut site) = Site::new(HOSTS_V4) else { return };
        learning_with(
            &mut site,
            "nd",
            "learn_lock = true\nlearn_except = [\"10.1.0.64/26\", \"fd00:1::1:0/112\"]",
        );
        let [alpha, beta] = run(&site, dataplane);
        let reaches = |own: &str, other: &str| site.db1.ping(&format!("-q -W 1 -I {own} {other}"));
        let addresses = |daemon: &Daemon| {
            let mut all: Vec<_> =
                learned(daemon, "acme/db1").into_iter().map(|(address, _)| address).collect();
            all.sort();
            all
        };
        // What is excepted is nobody's, however often it is announced, and takes nobody's place.
        for (own, prefix, other) in [("10.1.0.77", 24, "10.1.0.12"), ("fd00:1::1:7", 64, "fd00:1::12")] {
            site.db1.ip(&format!("addr add {own}/{prefix} dev eth0"));
            assert!((0..2).all(|_| !reaches(own, other)), "{dataplane}: {own}");
            site.db1.ip(&format!("addr del {own}/{prefix} dev eth0"));
        }
        assert!(addresses(&beta).is_empty(), "{dataplane}: {:?}", addresses(&beta));
        // The first one of each family is the only one.
        for (own, prefix, other) in [("10.1.0.21", 24, "10.1.0.12"), ("fd00:1::21", 64, "fd00:1::12")] {
            site.db1.ip(&format!("addr add {own}/{prefix} dev eth0"));
            wait_for(&format!("{dataplane}: {own} is learned"), || reaches(own, other));
        }
        for (own, prefix, other) in [("10.1.0.22", 24, "10.1.0.12"), ("fd00:1::22", 64, "fd00:1::12")] {
            site.db1.ip(&format!("addr add {own}/{prefix} dev eth0"));
            site.db1.ip("neigh flush dev eth0");
            assert!((0..2).all(|_| !reaches(own, other)), "{dataplane}: {own}");
        }
        assert_eq!(addresses(&beta), ["10.1.0.21", "fd00:1::21"], "{dataplane}");
        assert_eq!(addresses(&alpha), addresses(&beta), "{dataplane}");
        assert!(beta.log().contains("learn_lock"), "{dataplane}");
        // Unlocked, with room for others, what is silent for longer than its age is forgotten, and learned again when it is heard.
        let text = std::fs::read_to_string(&site.config).unwrap();
        let aged =
            text.replace("learn_lock = true", "learn_age = 3\ntimeouts = { icmp = 1, icmp_exchange = 1 }");
        site.world.write("eastgate.toml", &aged);
        for daemon in [&alpha, &beta] {
            assert!(daemon.run(&["reload"]).status.success());
        }
        wait_for(&format!("{dataplane}: the other is learned"), || reaches("10.1.0.22", "10.1.0.12"));
        site.db1.ip("addr flush dev eth0 scope global");
        wait_for(&format!("{dataplane}: they are forgotten"), || learned(&beta, "acme/db1").is_empty());
        site.db1.ip("addr add 10.1.0.21/24 dev eth0");
        wait_for(&format!("{dataplane}: it is learned again"), || reaches("10.1.0.21", "10.1.0.12"));
    }
}

#[test]
fn an_endpoint_on_the_exclusion_list_is_carried_without_policy() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        let text = format!("exclude = [\"acme/db1\"]\n{}", acme_on(HOSTS_V4));
        site.world.write("eastgate.toml", &text);
        let [alpha, beta] = run(&site, dataplane);
        let inwards = Sink::start(&site.db1, udp(21, DENIED));
        let to_it = Stream::start(&site.web1, udp(11, 5001), udp(21, DENIED));
        to_it.arrives("what its groups do not allow", &inwards);
        // The other end has a policy, and whose packets they are is checked.
        let outwards = Sink::start(&site.web2, udp(12, DENIED));
        let from_it = Stream::start(&site.db1, udp(21, 5002), udp(12, DENIED));
        from_it.send_more(50);
        assert_eq!(outwards.count(), 0, "the default deny of the other end ({dataplane})");
        site.db1.ip("addr add 10.1.0.77/24 dev eth0");
        assert!(!site.db1.ping("-q -W 1 -I 10.1.0.77 10.1.0.12"));
        assert_eq!(beta.ask(&["status"])["excluded"], serde_json::json!(["acme/db1"]));
        let rows = alpha.ask(&["show", "endpoints"]);
        let excluded = |row: &serde_json::Value| (row["endpoint"] == "acme/db1") == (row["excluded"] == true);
        assert!(rows["endpoints"].as_array().unwrap().iter().all(excluded), "{rows:#}");
        // Taken off the list, the next packet is held to the rules.
        site.world.write("eastgate.toml", &acme_on(HOSTS_V4));
        for daemon in [&alpha, &beta] {
            assert!(daemon.run(&["reload"]).status.success());
        }
        let before = inwards.last();
        to_it.send_more(50);
        assert!(inwards.last() <= before + 2, "off the list ({dataplane})");
    }
}
