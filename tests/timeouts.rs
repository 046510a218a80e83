//! How long flows last of endpoints that say so themselves, with real packets, in both dataplanes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::net::SocketAddr;

use common::{Daemon, Sink, Space, send_frame, site::*, wait_for};
use eastgate_wire::MacAddr;
use etherparse::PacketBuilder;

const DATAPLANES: [&str; 2] = ["ebpf", "userspace"];
const PORT: u16 = 7303;
const POLICY: &str = "\n[tenant.acme.policy.open]\napplies_to = \"tenant\"\n\
     ingress = [{ action = \"allow\", proto = \"udp\", ports = 7303, from = \"any\" }]\n";

/// The MAC of the machine at 10.1.0.`number`: both are the same digits.
fn machine(number: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, number / 10 * 16 + number % 10])
}

fn at(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 1, 0, number], PORT))
}

fn datagram(from: u8, to: u8, sport: u16, dport: u16) -> Vec<u8> {
    routed([from, to].map(|number| (machine(number), [10, 1, 0, number])), [sport, dport])
}

/// A datagram as it is between two machines, of which it need be neither from nor to either
fn routed([(from, source), (to, destination)]: [(MacAddr, [u8; 4]); 2], [sport, dport]: [u16; 2]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(from.0, to.0)
        .ipv4(source, destination, 64)
        .udp(sport, dport)
        .write(&mut frame, b"a datagram")
        .unwrap();
    frame
}

/// How many seconds the flow from a port lasts, where there is one
fn lasts(daemon: &Daemon, sport: u16) -> Option<u64> {
    let rows = daemon.ask(&["show", "flows", "--port", "7303"]);
    let rows = rows["flows"].as_array().unwrap();
    rows.iter().find(|row| row["sport"] == sport).map(|row| row["expires_s"].as_u64().unwrap())
}

/// Whether the programs have the flow from a port
fn is_carried(daemon: &Daemon, sport: u16) -> bool {
    let rows = daemon.ask(&["show", "flows", "--port", "7303"]);
    rows["flows"].as_array().unwrap().iter().any(|row| row["sport"] == sport && row["offloaded"] == true)
}

fn has(daemons: &[&Daemon], sport: u16) -> Vec<bool> {
    daemons.iter().map(|daemon| lasts(daemon, sport).is_some()).collect()
}

#[test]
fn an_endpoints_flows_last_as_it_says() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        let own =
            "\n[tenant.acme.endpoint.web1.timeouts]\nudp_first = 3\nudp_exchange = 3\nudp_replied = 3\n";
        site.rewrite(|text| {
            text.replace("vni = 5001", "vni = 5001\ntimeouts = { udp_first = 600, udp_exchange = 600 }")
                + POLICY
                + own
        });
        let [alpha, beta] = ["alpha", "beta"].map(|host| site.run_with(host, dataplane));
        let sinks = [Sink::start(&site.web2, at(12)), Sink::start(&site.db1, at(21))];
        let all = |count: u64| sinks.iter().map(Sink::count).sum::<u64>() == count;
        let send = |space: &Space, frame: Vec<u8>| send_frame(space, "eth0", &frame);
        // Unreplied: of web1 to both hosts, and of web2, which has none of its own
        send(&site.web1, datagram(11, 12, 5000, PORT));
        send(&site.web1, datagram(11, 21, 5001, PORT));
        send(&site.web2, datagram(12, 21, 5002, PORT));
        wait_for(&format!("{dataplane}: three come"), || all(3));
        for daemon in [&alpha, &beta] {
            wait_for(&format!("{dataplane}: web2's lasts as the network says"), || {
                lasts(daemon, 5002).is_some_and(|seconds| (500..=600).contains(&seconds))
            });
        }
        // An exchange that goes on, which the programs carry
        send(&site.web1, datagram(11, 21, 5003, PORT));
        wait_for("it comes", || all(4));
        send(&site.db1, datagram(21, 11, PORT, 5003));
        let mut sent = 4;
        wait_for(&format!("{dataplane}: it goes on"), || {
            send(&site.web1, datagram(11, 21, 5003, PORT));
            sent += 1;
            dataplane == "userspace" || [&alpha, &beta].iter().all(|daemon| is_carried(daemon, 5003))
        });
        wait_for(&format!("{dataplane}: all of it comes"), || all(sent));
        for sport in [5000, 5001, 5003] {
            wait_for(&format!("{dataplane}: {sport} is over"), || has(&[&alpha, &beta], sport) == [false; 2]);
        }
        assert_eq!(has(&[&alpha, &beta], 5002), [true; 2], "{dataplane}");
        // Of two ends that say something, the one counts that keeps it longer; given while they run.
        site.rewrite(|text| text + "\n[tenant.acme.endpoint.db1.timeouts]\nudp_first = 5000\n");
        for daemon in [&alpha, &beta] {
            assert!(daemon.run(&["reload"]).status.success());
        }
        send(&site.web1, datagram(11, 21, 5004, PORT));
        send(&site.web1, datagram(11, 12, 5005, PORT));
        wait_for(&format!("{dataplane}: two more"), || all(sent + 2));
        for daemon in [&alpha, &beta] {
            let seconds = lasts(daemon, 5004);
            assert!(
                seconds.is_some_and(|seconds| (4900..=5000).contains(&seconds)),
                "{dataplane}: {seconds:?}"
            );
        }
        wait_for(&format!("{dataplane}: 5005 is over"), || lasts(&alpha, 5005).is_none());
    }
}

/// Who is behind a router is nobody's endpoint: how long its flows last is the router's to say, whichever way they begin.
#[test]
fn flows_through_a_router_last_as_the_router_says() {
    const BEHIND: [u8; 4] = [172, 20, 0, 5];
    for dataplane in DATAPLANES {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        let own = "\n[tenant.acme.endpoint.web1.timeouts]\nudp_first = 3\n";
        site.rewrite(|text| {
            let router = "mac = \"02:00:00:00:00:11\"\nroutes = [\"172.20.0.0/16\"]\n";
            text.replace("vni = 5001", "vni = 5001\ntimeouts = { udp_first = 600 }")
                .replace("mac = \"02:00:00:00:00:11\"\n", router)
                + POLICY
                + own
        });
        let [alpha, beta] = ["alpha", "beta"].map(|host| site.run_with(host, dataplane));
        let sink = Sink::start(&site.db1, at(21));
        let db1 = (machine(21), [10, 1, 0, 21]);
        // From behind the router to another host, and to behind it from there
        let behind = (machine(11), BEHIND);
        let send = |sport: u16| match sport {
            5000 => send_frame(&site.web1, "eth0", &routed([behind, db1], [sport, PORT])),
            5001 => send_frame(&site.db1, "eth0", &routed([db1, behind], [sport, PORT])),
            // Of web2, behind which nobody is
            _ => send_frame(&site.web2, "eth0", &datagram(12, 21, sport, PORT)),
        };
        send(5000);
        wait_for(&format!("{dataplane}: it comes"), || sink.count() == 1);
        let both = [&alpha, &beta];
        for (sport, seconds) in [(5000, 0..=3), (5001, 0..=3), (5002, 500..=600)] {
            let mut seen = [false; 2];
            wait_for(&format!("{dataplane}: {sport} is known on both hosts"), || {
                // It may be over before anybody has looked.
                send(sport);
                for (seen, daemon) in seen.iter_mut().zip(both) {
                    let lasts = lasts(daemon, sport);
                    assert!(
                        lasts.is_none_or(|lasts| seconds.contains(&lasts)),
                        "{dataplane}: {sport}, {lasts:?}"
                    );
                    *seen |= lasts.is_some();
                }
                seen == [true; 2]
            });
        }
        for sport in [5000, 5001] {
            wait_for(&format!("{dataplane}: {sport} is over"), || has(&both, sport) == [false; 2]);
        }
        assert_eq!(has(&both, 5002), [true; 2], "{dataplane}");
    }
}

/// A connection that nobody answers is gone when its time is over, however often its opener tries: what is sent again
/// makes it no younger.
#[test]
fn a_half_open_connection_ends_at_its_time_whatever_is_sent_again() {
    const SECONDS: u64 = 20;
    let syn = |to: u8, sport: u16| {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(machine(11).0, machine(to).0)
            .ipv4([10, 1, 0, 11], [10, 1, 0, to], 64)
            .tcp(sport, 5432, 1000, 64_240)
            .syn()
            .write(&mut frame, &[])
            .unwrap();
        frame
    };
    for dataplane in DATAPLANES {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        site.rewrite(|text| {
            text.replace("vni = 5001", &format!("vni = 5001\ntimeouts = {{ tcp_syn = {SECONDS} }}"))
        });
        // Machines whose kernels answer nothing
        for machine in [&site.web2, &site.db1] {
            machine.ip("addr flush dev eth0");
        }
        let alpha = site.run_with("alpha", dataplane);
        let _beta = site.run_with("beta", dataplane);
        let rows = |to: u8, sport: u16| {
            let rows = alpha.ask(&["show", "flows", "--port", "5432"]);
            let to = format!("10.1.0.{to}");
            let mut rows = rows["flows"].as_array().unwrap().clone();
            rows.retain(|row| row["sport"] == sport && row["dst"] == to.as_str());
            rows.pop()
        };
        let lasts = |to: u8, sport: u16| rows(to, sport).map(|row| row["expires_s"].as_u64().unwrap());
        // The first of each pair shows the programs who it is between; they begin the others.
        let flows = [(12, 5000), (21, 5000), (12, 5001), (21, 5001)];
        for (to, sport) in flows {
            wait_for(&format!("{dataplane}: {to} from {sport} begins"), || {
                send_frame(&site.web1, "eth0", &syn(to, sport));
                lasts(to, sport).is_some_and(|left| left > SECONDS / 2)
            });
            let is_carried = rows(to, sport).is_some_and(|row| row["offloaded"] == true);
            assert!(dataplane == "userspace" || sport == 5000 || is_carried, "{to} from {sport}");
        }
        for (to, sport) in flows {
            wait_for(&format!("{dataplane}: {to} from {sport} grows old although it is tried again"), || {
                send_frame(&site.web1, "eth0", &syn(to, sport));
                lasts(to, sport).is_some_and(|left| left < SECONDS / 2)
            });
        }
    }
}
