//! SCTP with real ends: usrsctp, the stack of FreeBSD in a process, in both dataplanes, on one host and between hosts.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use common::{Daemon, Space, send_frame, site::*, wait_for};
use eastgate_testkit::{sctp, wait::wait_within};
use eastgate_wire::Family;

const DATAPLANES: [&str; 2] = ["ebpf", "userspace"];

/// The service that usrsctp's server has (RFC 862)
const ECHO: u16 = 7;
/// One that nobody may use (RFC 863)
const DISCARD: u16 = 9;

/// Where Debian has usrsctp's examples
const PROGRAMS: &str = "/usr/lib/usrsctp";

/// A process in a machine, which ends with this, and the lines that it has said.
struct Program {
    child: Child,
    input: Option<ChildStdin>,
    said: Arc<Mutex<Vec<String>>>,
}

impl Program {
    fn start(space: &Space, name: &str, arguments: &[&str]) -> Self {
        let mut command = space.command(format!("{PROGRAMS}/{name}"));
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let said = Arc::new(Mutex::new(Vec::new()));
        let (to, output) = (said.clone(), BufReader::new(child.stdout.take().unwrap()));
        thread::spawn(move || {
            output.split(b'\n').map_while(Result::ok).for_each(|line| {
                to.lock().unwrap().push(String::from_utf8_lossy(&line).into_owned());
            })
        });
        Self { input: child.stdin.take(), child, said }
    }

    /// The echo server, when it listens: it has its sockets, and has nothing more to do but to wait.
    fn server(space: &Space) -> Self {
        let server = Self::start(space, "echo_server", &[]);
        let process = format!("/proc/{}", server.child.id());
        wait_for("the server listens", || {
            let has_sockets = ["raw", "raw6"].iter().all(|family| {
                let sockets = std::fs::read_to_string(format!("{process}/net/{family}")).unwrap();
                // Protocol 132 stands where a port does.
                sockets.contains(":0084 ")
            });
            has_sockets && std::fs::read_to_string(format!("{process}/stat")).unwrap().contains(") S ")
        });
        server
    }

    fn client(space: &Space, to: u8, port: u16) -> Self {
        Self::start(space, "client", &[&format!("10.1.0.{to}"), &port.to_string()])
    }

    /// A client whose association `stands`. One that asks before there is a server is refused, and ends.
    fn associated(space: &Space, to: u8, what: &str, mut stands: impl FnMut() -> bool) -> Self {
        let mut client = Self::client(space, to, ECHO);
        wait_for(what, || {
            if client.child.try_wait().unwrap().is_some() {
                client = Self::client(space, to, ECHO);
            }
            stands()
        });
        client
    }

    fn say(&mut self, line: &str) {
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
    }

    fn heard(&self, line: &str) -> bool {
        self.said.lock().unwrap().iter().any(|it| it.contains(line))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn running(dataplane: &str, more: &str) -> Option<(Site, [Daemon; 2])> {
    running_in("", dataplane, more)
}

/// With these keys of the network
fn running_in(network: &str, dataplane: &str, more: &str) -> Option<(Site, [Daemon; 2])> {
    let site = Site::new(HOSTS_V4)?;
    site.rewrite(|text| {
        text.replace("vni = 5001", &format!("vni = 5001\n{network}")).replace(
            "proto = \"sctp\", ports = 3868, from = \"any\"",
            &format!("proto = \"sctp\", ports = {ECHO}, from = \"any\"{more}"),
        )
    });
    let daemons = ["alpha", "beta"].map(|host| site.run_with(host, dataplane));
    Some((site, daemons))
}

/// The flows of SCTP at a host over one family
fn flows(daemon: &Daemon, family: Family) -> Vec<serde_json::Value> {
    let answer = daemon.ask(&["show", "flows", "--proto", "sctp"]);
    let is_of =
        |row: &serde_json::Value| row["src"].as_str().unwrap().contains(':') == (family == Family::V6);
    answer["flows"].as_array().unwrap().iter().filter(|row| is_of(row)).cloned().collect()
}

/// How many over IPv4 are in a state
fn in_state(daemon: &Daemon, state: &str) -> usize {
    let answer = daemon.ask(&["show", "flows", "--proto", "sctp", "--state", state]);
    answer["flows"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| !row["src"].as_str().unwrap().contains(':'))
        .count()
}

/// How many second paths have been tried out, over IPv6; they outlive their associations.
fn paths_of(daemon: &Daemon) -> usize {
    flows(daemon, Family::V6).iter().filter(|path| path["state"] == "established").count()
}

#[test]
fn associations_of_a_real_stack_live_and_end() {
    for dataplane in DATAPLANES {
        let Some((site, [alpha, beta])) = running(dataplane, "") else { return };
        for (space, number, daemon) in [(&site.web2, 12, &alpha), (&site.db1, 21, &beta)] {
            let _serves = Program::server(space);
            let what = format!("{dataplane}: it stands, at {number}");
            let mut client =
                Program::associated(&site.web1, number, &what, || in_state(daemon, "established") == 1);
            for word in ["over", "and back"] {
                client.say(word);
                wait_for(&format!("{dataplane}: {word}, at {number}"), || client.heard(word));
            }
            // Each end has another address, and tries that path out.
            wait_for(
                &format!("{dataplane}: so does the other path, at {number}"),
                || matches!(&flows(daemon, Family::V6)[..], [path] if path["state"] == "established"),
            );
            assert_eq!(flows(daemon, Family::V4).len(), 1);
            // What is not its own: somebody knows addresses and ports, and no tag.
            let port = flows(daemon, Family::V4)[0]["sport"].as_u64().unwrap() as u16;
            let forged = sctp::packet((port, ECHO), 0xdead_beef, &[sctp::chunk(6, 0, &[])]);
            let macs = [WEB1.0, [2, 0, 0, 0, 0, if number == 12 { 0x12 } else { 0x21 }]];
            send_frame(&site.web1, "eth0", &sctp::frame(macs, [[10, 1, 0, 11], [10, 1, 0, number]], &forged));
            wait_for("it is dropped", || alpha.drops().get("sctp-tag").is_some_and(|frames| *frames > 0));
            client.say("still there");
            wait_for(&format!("{dataplane}: it goes on, at {number}"), || client.heard("still there"));
            // Its end of input is its end.
            drop(client.input.take());
            wait_for(&format!("{dataplane}: it is over, at {number}"), || {
                in_state(daemon, "closed") == 1 && in_state(daemon, "established") == 0
            });
            let denied = |daemon: &Daemon| daemon.drops().get("ingress-denied").copied().unwrap_or(0);
            let before = denied(daemon);
            let refused = Program::client(&site.web1, number, DISCARD);
            wait_for(&format!("{dataplane}: another service is refused"), || denied(daemon) > before);
            drop(refused);
            wait_for("what is over is forgotten", || flows(daemon, Family::V4).is_empty());
        }
        if dataplane == "ebpf" {
            let status = alpha.ask(&["status"]);
            assert!(status["punts"]["protocol"].as_u64().is_some_and(|punts| punts > 0), "{status}");
        }
    }
}

/// How long each state lasts, by the key that says so; no two are the same.
const TIMES: [(&str, &str, u64); 8] = [
    ("cookie-wait", "sctp_cookie_wait", 1_000),
    ("cookie-echoed", "sctp_cookie_echoed", 2_000),
    ("established", "sctp_established", 3_000),
    ("shutdown-sent", "sctp_shutdown_sent", 4_000),
    ("shutdown-recd", "sctp_shutdown_recd", 5_000),
    ("shutdown-ack-sent", "sctp_shutdown_ack_sent", 6_000),
    ("heartbeat-sent", "sctp_heartbeat_sent", 7_000),
    ("closed", "sctp_closed", 8_000),
];

/// Chunks of a packet, and whether the end that has opened the association sends it; and the state that it is in then
type Step = (bool, Vec<u8>, &'static str);

#[test]
fn each_state_lasts_as_the_network_says() {
    let keys: Vec<String> = TIMES.iter().map(|(_, key, seconds)| format!("{key} = {seconds}")).collect();
    let network = format!("timeouts = {{ {} }}", keys.join(", "));
    let handshake: [Step; 4] = [
        (true, sctp::init(false, 0xaaaa), "cookie-wait"),
        (false, sctp::init(true, 0xbbbb), "cookie-wait"),
        (true, sctp::chunk(10, 0, &[1; 8]), "cookie-echoed"),
        (false, sctp::chunk(11, 0, &[]), "established"),
    ];
    let shutdown: [Step; 3] = [
        (true, sctp::chunk(7, 0, &[0; 4]), "shutdown-sent"),
        (false, sctp::chunk(8, 0, &[]), "shutdown-ack-sent"),
        (true, sctp::chunk(14, 0, &[]), "closed"),
    ];
    let called: [Step; 1] = [(false, sctp::chunk(7, 0, &[0; 4]), "shutdown-recd")];
    let path: [Step; 1] = [(true, sctp::chunk(4, 0, &[0, 1, 0, 8, 0, 0, 0, 0]), "heartbeat-sent")];
    let stories = [[&handshake[..], &shutdown[..]], [&handshake[..], &called[..]], [&path[..], &[]]];
    for dataplane in DATAPLANES {
        let Some((site, [alpha, beta])) = running_in(&network, dataplane, "") else { return };
        for (space, number, daemon) in [(&site.web2, 12, &alpha), (&site.db1, 21, &beta)] {
            let macs = [WEB1.0, [2, 0, 0, 0, 0, if number == 12 { 0x12 } else { 0x21 }]];
            let addresses = [[10, 1, 0, 11], [10, 1, 0, number]];
            for (port, story) in (4000u16..).zip(&stories) {
                for (there, chunk, state) in story.iter().copied().flatten() {
                    let begins = chunk[0] == 1;
                    let tag = if begins { 0 } else { [0xaaaa, 0xbbbb][usize::from(*there)] };
                    let ports = if *there { (port, ECHO) } else { (ECHO, port) };
                    let packet = sctp::packet(ports, tag, std::slice::from_ref(chunk));
                    if *there {
                        send_frame(&site.web1, "eth0", &sctp::frame(macs, addresses, &packet));
                    } else {
                        let (macs, addresses) = ([macs[1], macs[0]], [addresses[1], addresses[0]]);
                        send_frame(space, "eth0", &sctp::frame(macs, addresses, &packet));
                    }
                    let (_, key, seconds) = TIMES.into_iter().find(|(name, ..)| name == state).unwrap();
                    let lasts = || {
                        let all = flows(daemon, Family::V4);
                        let flow =
                            all.into_iter().find(|flow| flow["sport"] == port && flow["dport"] == ECHO)?;
                        (flow["state"] == *state).then(|| flow["expires_s"].as_u64().unwrap())
                    };
                    wait_for(&format!("{dataplane}: {state}, at {number}"), || lasts().is_some());
                    let lasts = lasts().unwrap();
                    assert!((seconds - 100..=seconds).contains(&lasts), "{dataplane}: {key}: {lasts}");
                }
            }
        }
    }
}

#[test]
fn associations_count_for_their_source_and_are_found_again_after_a_restart() {
    for dataplane in DATAPLANES {
        let Some((site, [alpha, mut beta])) = running(dataplane, ", connections = 2") else { return };
        let _serves = Program::server(&site.db1);
        // Processes in one machine hear each other's packets, and one that has just begun aborts what is not its own: nobody may
        // be under way then, on the other path neither.
        let more = |has: usize, paths: usize| {
            Program::associated(&site.web1, 21, &format!("{dataplane}: {has} stand"), || {
                in_state(&beta, "established") == has && paths_of(&alpha) == paths
            })
        };
        let mut had = [more(1, 1), more(2, 2)];
        let third = Program::client(&site.web1, 21, ECHO);
        wait_for("a third is refused", || beta.drops().get("rule-limit").is_some_and(|frames| *frames > 0));
        assert_eq!(in_state(&beta, "established"), 2);
        drop(third);
        // Whoever is killed says nothing. The server finds out in its time, and until then it counts.
        drop(had[0].input.take());
        wait_for("one is closed", || in_state(&beta, "closed") == 1 && in_state(&beta, "established") == 1);
        let mut next = more(2, 3);
        next.say("its place is free");
        wait_for(&format!("{dataplane}: it is free"), || next.heard("its place is free"));
        // A daemon is killed: the next one finds the associations by their HEARTBEATs.
        beta.kill();
        beta = site.run_with("beta", dataplane);
        assert!(flows(&beta, Family::V4).is_empty());
        // An end leaves one out where it has sent anything since HB.interval (30 s).
        wait_within(Duration::from_secs(90), "the next HEARTBEATs", || in_state(&beta, "established") == 2);
        next.say("found again");
        wait_for(&format!("{dataplane}: it is found again"), || next.heard("found again"));
        drop(alpha);
    }
}
