//! Addresses that move between machines, as keepalived moves them: with and without a MAC of their own, by multicast and by
//! unicast, over both families, in both data planes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{
    fmt::Write as _,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use common::{Daemon, Sink, Space, Stream, World, wait_for};

const VIP: &str = "10.1.0.100";
const VIP6: &str = "fd00:1::100";

/// How keepalived is set up.
#[derive(Clone, Copy, Debug)]
struct Setup {
    vmac: bool,
    unicast: bool,
    neighbors: &'static str,
}

/// Two load balancers, one on each host, that share an address of each family, and a client on each host.
struct Pair {
    world: World,
    hosts: [Space; 2],
    lbs: [Space; 2],
    clients: [Space; 2],
}

const LBS: [&str; 2] = ["31", "32"];
const CLIENTS: [&str; 2] = ["11", "12"];

impl Pair {
    fn new() -> Option<Self> {
        let mut world = World::new()?;
        let hosts = ["alpha", "beta"].map(|name| world.space(name));
        world.cable((&hosts[0], "underlay0"), (&hosts[1], "underlay0"), 1700);
        let mut machines = |kind: &str, numbers: [&str; 2]| {
            [0, 1].map(|at| {
                let number = numbers[at];
                let (host, machine) = (&hosts[at], world.space(&format!("{kind}{number}")));
                world.cable((host, &format!("veth-{kind}{number}")), (&machine, "eth0"), 1500);
                machine.ip(&format!("link set eth0 address 02:00:00:00:00:{number}"));
                machine.ip(&format!("addr add 10.1.0.{number}/24 dev eth0"));
                machine.ip(&format!("addr add fd00:1::{number}/64 dev eth0 nodad"));
                // Of the machine's own choice: no configuration names it.
                machine.ip(&format!("addr add fe80::5c1f:77aa:90d3:{number}/64 dev eth0 nodad"));
                machine
            })
        };
        let (lbs, clients) = (machines("lb", LBS), machines("web", CLIENTS));
        for (number, host) in (1..).zip(&hosts) {
            host.ip(&format!("addr add 192.0.2.{number}/24 dev underlay0"));
        }
        Some(Self { world, hosts, lbs, clients })
    }

    fn config(&self, setup: Setup) -> std::path::PathBuf {
        let mut text = String::from(
            "[host.alpha]\nvtep = \"192.0.2.1\"\ndevice = \"underlay0\"\n\
             [host.beta]\nvtep = \"192.0.2.2\"\ndevice = \"underlay0\"\n\
             [tenant.acme.group.all]\negress = [{ to = \"any\" }]\n\
             ingress = [{ proto = \"udp\", ports = 7000, from = \"group:all\" }, { proto = \"icmp\", from = \"any\" }]\n",
        );
        let _ = writeln!(
            text,
            "[tenant.acme.network.lan]\nvni = 5001\nsubnets = [\"10.1.0.0/24\", \"fd00:1::/64\"]\nneighbors = \"{}\"",
            setup.neighbors
        );
        for (at, host) in ["alpha", "beta"].into_iter().enumerate() {
            for (kind, number) in [("lb", LBS[at]), ("web", CLIENTS[at])] {
                let _ = writeln!(
                    text,
                    "[tenant.acme.endpoint.{kind}{number}]\nnetwork = \"lan\"\nhost = \"{host}\"\n\
                     port = \"veth-{kind}{number}\"\nmac = \"02:00:00:00:00:{number}\"\n\
                     addresses = [\"10.1.0.{number}\", \"fd00:1::{number}\"]\ngroups = [\"all\"]"
                );
                if kind == "lb" {
                    let mac = |id: &str| match setup.vmac {
                        true => format!(", mac = \"00:00:5e:00:{id}:33\""),
                        false => String::new(),
                    };
                    let _ = writeln!(
                        text,
                        "allowed_pairs = [{{ address = \"{VIP}\"{v4} }}, {{ address = \"{VIP6}\"{v6} }}, \
                         {{ address = \"fe80::100\"{v6} }}]",
                        v4 = mac("01"),
                        v6 = mac("02"),
                    );
                }
            }
        }
        self.world.write("eastgate.toml", &text)
    }

    /// Which of the two has the address, if just one has.
    fn master(&self, vip: &str) -> Option<usize> {
        match [0, 1].map(|at| has(&self.lbs[at], vip)) {
            [true, false] => Some(0),
            [false, true] => Some(1),
            _ => None,
        }
    }

    /// Both addresses come to be at one of them, stay there, and are reached by everyone.
    fn settles(&self, what: &str) -> usize {
        let mut since = Instant::now();
        let mut last = None;
        wait_for(&format!("one master {what}"), || {
            let master = self.master(VIP).filter(|_| self.master(VIP) == self.master(VIP6));
            if master.is_none() || master != last {
                (last, since) = (master, Instant::now());
            }
            // A keepalived that gets no time to speak loses the address, and gets it back.
            master.is_some() && since.elapsed() > Duration::from_secs(2)
        });
        let master = last.unwrap();
        for client in &self.clients {
            for vip in [VIP, VIP6] {
                wait_for(&format!("{} reaches {vip} {what}", client.name()), || {
                    client.ping(&format!("-q {vip}"))
                });
            }
        }
        master
    }
}

fn has(space: &Space, address: &str) -> bool {
    space.ip(&format!("addr show to {address}")).contains(address)
}

/// A keepalived that is killed with all its processes when it goes out of scope.
struct Keepalived(Child);

impl Keepalived {
    fn start(pair: &Pair, at: usize, setup: Setup) -> Self {
        let number = LBS[at];
        let peer = LBS[1 - at];
        let mut text = String::from("global_defs {\n  vrrp_garp_master_delay 1\n}\n");
        for (name, id, own, other, vips) in [
            ("V4", 51, format!("10.1.0.{number}"), format!("10.1.0.{peer}"), vec![VIP.to_owned()]),
            (
                "V6",
                51,
                format!("fd00:1::{number}"),
                format!("fd00:1::{peer}"),
                vec!["fe80::100".into(), VIP6.to_owned()],
            ),
        ] {
            let _ = writeln!(
                text,
                "vrrp_instance {name} {{\n  state BACKUP\n  version 3\n  interface eth0\n  virtual_router_id {id}\n  \
                 priority {}\n  advert_int 0.2",
                100 + at
            );
            if setup.vmac {
                let _ = writeln!(text, "  use_vmac");
            }
            if setup.unicast {
                let _ = writeln!(text, "  unicast_src_ip {own}\n  unicast_peer {{\n    {other}\n  }}");
            }
            let _ = writeln!(text, "  virtual_ipaddress {{\n    {}\n  }}\n}}", vips.join("\n    "));
        }
        let file = pair.world.write(&format!("keepalived-{number}.conf"), &text);
        let log = std::fs::File::create(pair.world.path(&format!("keepalived-{number}.log"))).unwrap();
        let mut command = pair.lbs[at].command("keepalived");
        command.args(["--dont-fork", "--vrrp", "--log-console", "--log-detail", "--use-file"]).arg(file);
        for (option, name) in [("--pid", "pid"), ("--vrrp_pid", "vrrp-pid")] {
            command.arg(option).arg(pair.world.path(&format!("keepalived-{number}.{name}")));
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Self(command.spawn().unwrap())
    }

    /// Stops it as an administrator does: it gives its addresses up.
    fn stop(mut self) {
        let pid = nix::unistd::Pid::from_raw(self.0.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Keepalived {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn moves_as_keepalived_says(dataplane: &str, setup: Setup) {
    if Command::new("keepalived").arg("--version").output().is_err() {
        eprintln!("skipped: needs keepalived");
        return;
    }
    let Some(pair) = Pair::new() else { return };
    let config = pair.config(setup);
    let daemons = [0, 1].map(|at| {
        Daemon::start(
            &pair.world,
            &pair.hosts[at],
            &config,
            ["alpha", "beta"][at],
            &["--dataplane", dataplane],
        )
    });
    let mut keepalived = [0, 1].map(|at| Some(Keepalived::start(&pair, at, setup)));
    let explain = |what: &str| format!("{what} ({dataplane}, {setup:?})");
    let first = pair.settles(&explain("at first"));
    assert_eq!(first, 1, "the one with the higher priority");

    // A stream to the address, and one to a machine's own address that nothing of this concerns.
    let sinks = [0, 1].map(|at| Sink::start(&pair.lbs[at], "0.0.0.0:7000".parse().unwrap()));
    let to_vip = Stream::start(
        &pair.clients[0],
        "10.1.0.11:6000".parse().unwrap(),
        format!("{VIP}:7000").parse().unwrap(),
    );
    to_vip.arrives(&explain("the stream reaches the master"), &sinks[1]);
    let own = Sink::start(&pair.clients[1], "10.1.0.12:7000".parse().unwrap());
    let beside =
        Stream::start(&pair.clients[0], "10.1.0.11:6001".parse().unwrap(), "10.1.0.12:7000".parse().unwrap());
    beside.arrives("the stream beside it", &own);

    keepalived[1].take().unwrap().stop();
    assert_eq!(pair.settles(&explain("after one gave it up")), 0);
    to_vip.arrives(&explain("the stream reaches the next one"), &sinks[0]);
    beside.arrives("the stream beside it goes on", &own);

    keepalived[1] = Some(Keepalived::start(&pair, 1, setup));
    wait_for(&explain("the one with the higher priority takes it back"), || pair.master(VIP) == Some(1));
    assert_eq!(pair.settles(&explain("taken back")), 1);
    to_vip.arrives(&explain("the stream comes back"), &sinks[1]);

    // It is cut off without a word.
    pair.lbs[1].ip("link set eth0 down");
    wait_for(&explain("the other one takes over"), || has(&pair.lbs[0], VIP) && has(&pair.lbs[0], VIP6));
    to_vip.arrives(&explain("the stream reaches the one that is left"), &sinks[0]);
    for daemon in &daemons {
        assert!(!daemon.drops().contains_key("mac-spoofed"), "{}", explain("a MAC was refused"));
    }
}

const MULTICAST: Setup = Setup { vmac: false, unicast: false, neighbors: "suppress" };

/// Both at once: most of the time it is keepalived that waits.
fn both(cases: [(&str, Setup); 2]) {
    std::thread::scope(|scope| {
        for (dataplane, setup) in cases {
            scope.spawn(move || moves_as_keepalived_says(dataplane, setup));
        }
    });
}

fn in_both_dataplanes(setup: Setup) {
    both(["ebpf", "userspace"].map(|dataplane| (dataplane, setup)));
}

#[test]
fn keepalived_by_multicast() {
    in_both_dataplanes(MULTICAST);
}

#[test]
fn keepalived_by_unicast() {
    in_both_dataplanes(Setup { unicast: true, ..MULTICAST });
}

#[test]
fn keepalived_with_a_mac_of_its_own() {
    in_both_dataplanes(Setup { vmac: true, ..MULTICAST });
}

#[test]
fn keepalived_with_a_mac_of_its_own_by_unicast() {
    in_both_dataplanes(Setup { vmac: true, unicast: true, ..MULTICAST });
}

#[test]
fn keepalived_where_the_appliance_speaks_for_all() {
    both([false, true].map(|vmac| ("ebpf", Setup { vmac, neighbors: "proxy", ..MULTICAST })));
}
