//! The operator's day: lists, filters and what ends flows, asked with the real command line about real packets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{
    io::{BufRead, BufReader},
    net::Ipv4Addr,
    time::Duration,
};

use common::{
    BOUND, Daemon, EASTGATE, Space, arp_request, bind_udp, datagram_arrives, send_frame, site::*, wait_for,
};
use eastgate_wire::MacAddr;
use serde_json::Value;

const DATAPLANES: [&str; 2] = ["userspace", "ebpf"];

/// Sends a datagram from each of `sources` of web1 to each of `ports` of 10.1.0.`to`.
fn datagrams(site: &Site, sources: std::ops::Range<u16>, to: u8, ports: std::ops::Range<u16>) {
    site.web1.enter(move || {
        for source in sources {
            let socket = bind_udp(udp(11, source));
            for port in ports.clone() {
                socket.send_to(b"x", udp(to, port)).unwrap();
            }
        }
    });
}

fn said(daemon: &Daemon, command: &str) -> (i32, String, String) {
    let output = daemon.run(&command.split_whitespace().collect::<Vec<_>>());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn ask(daemon: &Daemon, command: &str) -> Value {
    daemon.ask(&command.split_whitespace().collect::<Vec<_>>())
}

#[test]
fn a_kill_ends_no_more_than_it_was_told() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        let alpha = site.run_with("alpha", dataplane);
        assert!(site.web1.ping("10.1.0.12"));
        datagrams(&site, 4000..4040, 12, ALLOWED..ALLOWED + 1);
        let live = |filter: &str| ask(&alpha, &format!("show flows {filter}"))["total"].as_u64().unwrap();
        let of_the_test = format!("--port {ALLOWED} --proto udp");
        wait_for("the flows are there", || live(&of_the_test) == 40);
        for useless in ["", "--limit 5", "--mac 02:00:00:00:00:11", "--all --mac 02:00:00:00:00:11"] {
            let (code, _, error) = said(&alpha, &format!("flows kill {useless}"));
            assert_eq!(code, 2, "{dataplane}: kill {useless}: {error}");
        }
        let killed = |filter: &str| ask(&alpha, &format!("flows kill {filter}"))["count"].as_u64().unwrap();
        assert_eq!(killed(&format!("{of_the_test} --address 10.1.0.21")), 0, "criteria combine");
        assert_eq!(killed(&format!("{of_the_test} --limit 0")), 0);
        assert_eq!((killed(&format!("{of_the_test} --limit 5")), live(&of_the_test)), (5, 35), "{dataplane}");
        let one = &ask(&alpha, &format!("show flows {of_the_test}"))["flows"][0]["sport"];
        let ended = killed(&format!("--proto udp --port {one}"));
        assert_eq!((ended, live(&of_the_test)), (1, 34), "{dataplane}");
        let (_, text, _) = said(&alpha, "show flows --limit 3");
        assert!(text.ends_with(&format!("\n3 of {} flows\n", live(""))), "{text}");
        let all = live("");
        assert_eq!((killed("--all --limit 1"), live("")), (1, all - 1));
        let left = live(&of_the_test);
        let ended = killed(&format!("--vni 5001 {of_the_test}"));
        assert_eq!((ended, live(&of_the_test)), (left, 0), "{dataplane}");
    }
}

#[test]
fn a_filter_filters_or_is_refused() {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let alpha = site.run("alpha");
    for (command, option) in [
        ("show endpoints --port 5", "--port"),
        ("show fdb --address 10.1.0.11", "--address"),
        ("show flows --mac 02:00:00:00:00:11", "--mac"),
        ("show flows --all", "--all"),
        ("show neighbors --proto udp", "--proto"),
        ("show policy --address 10.1.0.11", "--address"),
        ("fdb flush --port 5", "--port"),
        ("fdb flush --limit 5", "--limit"),
    ] {
        let (code, _, error) = said(&alpha, command);
        assert!(
            code == 2 && error.contains(&format!("has no {option}; it has --vni")),
            "{command}: {code} {error}"
        );
    }
    for table in ["endpoints", "fdb", "neighbors"] {
        let all = ask(&alpha, &format!("show {table}"));
        let some = ask(&alpha, &format!("show {table} --limit 1"));
        assert_eq!(
            (some["total"].as_u64(), some[table].as_array().unwrap().len()),
            (all["total"].as_u64(), 1)
        );
        let (_, text, _) = said(&alpha, &format!("show {table} --limit 1"));
        assert!(text.ends_with(&format!("\n1 of {} {table}\n", all["total"])), "{text}");
    }
    let of_web2 = ask(&alpha, "show neighbors --mac 02:00:00:00:00:12");
    assert!(of_web2["neighbors"].as_array().unwrap().iter().all(|row| row["endpoint"] == "acme/web2"));
}

#[test]
fn rows_are_found_by_endpoint_and_state_and_come_in_parts() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        let alpha = site.run_with("alpha", dataplane);
        assert!(site.web1.ping("10.1.0.12"));
        datagrams(&site, 4000..4010, 12, ALLOWED..ALLOWED + 1);
        datagrams(&site, 4000..4001, 12, DENIED..DENIED + 1);
        let of_the_test = format!("--port {ALLOWED} --proto udp");
        let count = |filter: &str| {
            ask(&alpha, &format!("show flows {of_the_test} {filter}"))["total"].as_u64().unwrap()
        };
        wait_for("the flows are there", || count("") == 10);
        for (filter, expected) in [
            ("--endpoint acme/web1", 10),
            ("--endpoint web2", 10),
            ("--endpoint db1", 0),
            ("--state unreplied", 10),
            ("--state established", 0),
            ("--endpoint web1 --vni 5001 --state unreplied", 10),
            ("--src 10.1.0.11 --dst 10.1.0.12 --dport 7000", 10),
            ("--sport 4003", 1),
            ("--src 10.1.0.12", 0),
            ("--dport 4003", 0),
        ] {
            assert_eq!(count(filter), expected, "{dataplane}: {filter}");
        }
        for (command, why, code) in [
            ("show flows --state nonsense", "it has unreplied, replied", 2),
            ("show fdb --state held", "it has configured, learned, frozen", 2),
            ("show endpoints --state configured", "has no --state", 2),
            ("show policy --endpoint web1", "has no --endpoint", 2),
            ("flows kill --after 1", "has no --after", 2),
            ("show flows --endpoint acme/web9", "no network of this host has an endpoint acme/web9", 1),
            ("show flows --after nowhere", "goes on after `nowhere`", 1),
            ("show fdb --after nowhere", "goes on after `nowhere`", 1),
            ("show expectations --sport 5", "has no --sport", 2),
        ] {
            let (found, _, error) = said(&alpha, command);
            assert!(found == code && error.contains(why), "{command}: {found} {error}");
        }
        let (mut seen, mut after) = (Vec::new(), String::new());
        for expected in [4, 4, 2] {
            let page = ask(&alpha, &format!("show flows {of_the_test} --limit 4 {after}"));
            let rows = page["flows"].as_array().unwrap();
            assert_eq!((rows.len(), page["total"].as_u64()), (expected, Some(10)), "{dataplane}");
            seen.extend(rows.iter().map(|row| row["sport"].as_u64().unwrap()));
            after = page["next"].as_str().map_or_else(String::new, |next| format!("--after {next}"));
        }
        assert_eq!((seen, after.as_str()), ((4000..4010).collect(), ""), "{dataplane}: each once, in order");

        let names = |table: &str, key: &str| -> Vec<Value> {
            let answer = ask(&alpha, &format!("show {table} --endpoint web1"));
            answer[table].as_array().unwrap().iter().map(|row| row[key].clone()).collect()
        };
        assert_eq!(names("endpoints", "endpoint"), ["acme/web1"]);
        assert_eq!(names("fdb", "mac"), ["02:00:00:00:00:11"]);
        assert_eq!(names("neighbors", "endpoint"), ["acme/web1", "acme/web1"]);
        let denied = |filter: &str| {
            let rows = drops(&alpha, &format!("--proto udp --port {DENIED} {filter}"));
            rows.iter().map(|row| row["frames"].as_u64().unwrap()).sum::<u64>()
        };
        wait_for("the drop is counted", || denied("") == 1);
        assert_eq!(
            (denied("--endpoint web1"), denied("--endpoint web2"), denied("--endpoint db1")),
            (1, 1, 0)
        );
        assert_eq!(
            (denied("--src 10.1.0.11 --sport 4000"), denied("--dst 10.1.0.11"), denied("--sport 1")),
            (1, 0, 0)
        );
        for (side, rows) in
            [("--src 10.1.0.11", 1), ("--sport 4000", 1), ("--dport 4000", 0), ("--dst 10.1.0.99", 0)]
        {
            let of_rules = drops(&alpha, side).iter().filter(|row| row["reason"] == "ingress-denied").count();
            assert_eq!(of_rules, rows, "{dataplane}: {side}");
        }
        assert_eq!(ask(&alpha, "flows kill --endpoint db1")["count"], 0);
        let one = "flows kill --src 10.1.0.11 --sport 4009 --dst 10.1.0.12 --dport 7000 --proto udp";
        assert_eq!(ask(&alpha, one)["count"], 1, "{dataplane}");
        let killed = &ask(&alpha, "flows kill --endpoint web2 --state unreplied")["count"];
        assert!(killed.as_u64().unwrap() >= 9 && count("") == 0, "{dataplane}: {killed}");
    }
}

#[test]
fn events_tell_what_began_what_ended_and_what_was_refused() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        let alpha = site.run_with("alpha", dataplane);
        assert!(site.web1.ping("10.1.0.12"));
        let events = |kind: &str, port: u16| -> Vec<Value> {
            let (code, text, error) = said(&alpha, &format!("observe -o json --proto udp --port {port}"));
            assert_eq!(code, 0, "{error}");
            let all = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            all.filter(|event| event["event"] == kind).collect()
        };
        datagrams(&site, 4000..4003, 12, ALLOWED..ALLOWED + 1);
        datagrams(&site, 4000..4001, 12, DENIED..DENIED + 1);
        wait_for("beginnings are told", || events("begun", ALLOWED).len() == 3);
        let (_, text, _) = said(&alpha, "observe --src 10.1.0.11 --sport 4001 --dst 10.1.0.12");
        assert_eq!(text.lines().count(), 1, "{text}");
        wait_for("the refusal is told", || events("denied", DENIED).len() == 1);
        let denied = &events("denied", DENIED)[0];
        assert_eq!(denied["reason"], "ingress-denied", "{dataplane}: {denied:#}");
        let by = denied["refused_by"]["rule"].as_str().unwrap();
        assert!(by.contains("no rule of acme/all allows it"), "{by}");
        for begun in events("begun", ALLOWED) {
            assert_eq!(begun["ingress_rule"]["rule"], "acme/all ingress #1", "{dataplane}: {begun:#}");
        }
        let mut following = Following::start(&alpha, &["--port", &ALLOWED.to_string()]);
        assert_eq!(following.next()["event"], "begun");
        assert_eq!(ask(&alpha, &format!("flows kill --proto udp --port {ALLOWED}"))["count"], 3);
        let ended: Vec<Value> = std::iter::repeat_with(|| following.next())
            .skip_while(|event| event["event"] == "begun")
            .take(3)
            .collect();
        for event in &ended {
            assert_eq!((&event["event"], &event["reason"]), (&"ended".into(), &"killed".into()), "{event:#}");
            assert_eq!((&event["packets"], &event["state"]), (&1.into(), &"unreplied".into()), "{event:#}");
        }
        assert_eq!(events("ended", ALLOWED), ended, "{dataplane}: they are kept for whoever asks later");
        datagrams(&site, 4100..4101, 12, ALLOWED..ALLOWED + 1);
        let again = following.next();
        assert_eq!((&again["event"], &again["sport"]), (&"begun".into(), &4100.into()), "{again:#}");

        let (_, text, _) = said(&alpha, &format!("observe --port {DENIED} --last 1"));
        let ends = format!("acme/web1 10.1.0.11:4000 -> acme/web2 10.1.0.12:{DENIED}");
        let denied = format!(
            " denied  acme/lan udp {ends}, ingress-denied, default deny: no rule of acme/all allows it ("
        );
        assert!(text.contains(&denied) && text.lines().count() == 1, "{text}");
    }
}

/// Every drop has a reason and a name, whatever it is of; and what is asked for is found by each of its names.
#[test]
fn what_is_observed_is_found_by_its_names() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        let alpha = site.run_with("alpha", dataplane);
        assert!(site.web1.ping("10.1.0.12"));
        datagrams(&site, 4000..4001, 12, ALLOWED..ALLOWED + 1);
        datagrams(&site, 4000..4001, 12, DENIED..DENIED + 1);
        send_frame(&site.web1, "eth0", &other([0xff; 6], WEB1, 0x88b5));
        send_frame(&site.web1, "eth0", &arp_request(WEB1, [10, 1, 0, 12].into(), [10, 1, 0, 21].into()));
        let observed = |filter: &str| -> Vec<Value> {
            let (code, text, error) = said(&alpha, &format!("observe -o json {filter}"));
            assert_eq!(code, 0, "{filter}: {error}");
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        };
        let reasons = |filter: &str| -> Vec<String> {
            observed(filter).iter().map(|row| row["reason"].as_str().unwrap_or("begun").to_owned()).collect()
        };
        for reason in ["ingress-denied", "ethertype-refused", "arp-spoofed"] {
            let filter =
                format!("--reason {reason} --tenant acme --network lan --group all --endpoint acme/web1");
            wait_for(&format!("{reason} is told"), || observed(&filter).len() == 1);
            let row = &observed(&filter)[0];
            assert_eq!(
                (&row["verdict"], &row["src_endpoint"]),
                (&"dropped".into(), &"acme/web1".into()),
                "{row:#}"
            );
            assert!(row["text"].as_str().is_some_and(|text| text.ends_with('.')), "{row:#}");
        }
        let port = format!("--port {ALLOWED} --proto udp");
        wait_for("the flow is told", || {
            reasons(&format!("{port} --verdict forwarded --rule acme/all")) == ["begun"]
        });
        let by_rule =
            alpha.run(&["observe", "-o", "json", "--proto", "udp", "--rule", "acme/all ingress #1"]);
        assert_eq!(String::from_utf8_lossy(&by_rule.stdout).lines().count(), 1, "{dataplane}");
        for nothing in
            ["--rule acme/al", "--verdict audit", "--reason evicted", "--vni 5999", "--mac 02:00:00:00:00:99"]
        {
            assert_eq!(observed(nothing), Vec::<Value>::new(), "{dataplane}: {nothing}");
        }
        for (unknown, told) in [
            ("--tenant globex", "no network of this host is of that tenant"),
            ("--group nobody", "no endpoint of this host's networks is in a group nobody"),
            ("--endpoint nobody", "has an endpoint nobody"),
            ("--reason nothing", "`nothing` is no reason"),
        ] {
            let (code, _, error) = said(&alpha, &format!("observe {unknown}"));
            assert!(code != 0 && error.contains(told), "{unknown}: {error}");
        }
        let (_, text, _) = said(&alpha, "observe --reason arp-spoofed");
        let arp = "acme/web1 10.1.0.12 -> acme/db1 10.1.0.21, arp who-has 10.1.0.21 tell 10.1.0.12, arp-spoofed, that is: ARP whose";
        assert!(text.contains(arp), "{text}");
        let (_, text, _) = said(&alpha, &format!("observe -o compact --port {DENIED}"));
        let compact = format!(" udp acme/web1:4000 -> acme/web2:{DENIED} DROPPED ingress-denied\n");
        assert!(text.ends_with(&compact), "{text}");
        ask(&alpha, &format!("flows kill --proto udp --port {ALLOWED}"));
        let flow_log = || said(&alpha, "observe -o vpc --proto udp --port 4000").1;
        wait_for("the flow is in the log", || flow_log().lines().count() == 2);
        let log = flow_log();
        for (port, action, packets, rule) in [
            (ALLOWED, "ACCEPT", 1, "acme/all_ingress_#1"),
            (DENIED, "REJECT", 1, "default_deny:_no_rule_of_acme/all_allows_it"),
        ] {
            let line = log.lines().find(|line| line.contains(action)).unwrap();
            let fields: Vec<&str> = line.split(' ').collect();
            let packets = packets.to_string();
            assert_eq!(
                fields[3..9],
                ["10.1.0.11", "10.1.0.12", "4000", &port.to_string(), "17", &packets],
                "{line}"
            );
            assert_eq!((fields.len(), fields[12], fields[13]), (18, action, "OK"), "{line}");
            assert_eq!(fields[14..], ["5001", "acme", "acme/web1", rule], "{line}");
        }
    }
}

/// A running `eastgate observe --follow`.
struct Following {
    child: std::process::Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Following {
    fn start(daemon: &Daemon, filter: &[&str]) -> Self {
        let mut command = std::process::Command::new(EASTGATE);
        command.args(["observe", "--follow", "-o", "json", "--socket"]).arg(daemon.socket()).args(filter);
        let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let reader = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            reader.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)).ok()
        });
        Self { child, lines }
    }

    fn next(&mut self) -> Value {
        serde_json::from_str(&self.lines.recv_timeout(BOUND).unwrap()).unwrap()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn drops(daemon: &Daemon, filter: &str) -> Vec<Value> {
    ask(daemon, &format!("show drops {filter}"))["drops"].as_array().unwrap().clone()
}

fn frames(rows: &[Value]) -> u64 {
    rows.iter().map(|row| row["frames"].as_u64().unwrap()).sum()
}

/// Frames but for those that a machine's kernel sends of its own accord, at times of its own.
fn sent_by_hand(rows: &[Value]) -> u64 {
    let recent = rows.iter().flat_map(|row| row["recent"].as_array().unwrap());
    let by_hand = recent.filter(|seen| !seen["what"].as_str().unwrap().starts_with("icmpv6"));
    by_hand.map(|seen| seen["frames"].as_u64().unwrap()).sum()
}

/// A frame to the group of bridges, or to anyone, with this ethertype.
fn other(dst: [u8; 6], src: MacAddr, ethertype: u16) -> Vec<u8> {
    [&dst[..], &src.0, &ethertype.to_be_bytes(), &[0; 46]].concat()
}

fn udp_frame(dst: [u8; 6], src: MacAddr, to: [u8; 4], port: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = etherparse::PacketBuilder::ethernet2(src.0, dst).ipv4([10, 1, 0, 11], to, 64);
    builder.udp(5000, port).write(&mut frame, b"x").unwrap();
    frame
}

#[test]
fn drops_are_found_by_what_was_dropped() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        let alpha = site.run_with("alpha", dataplane);
        // Until the address is resolved the machine itself drops what it cannot keep.
        assert!(site.web1.ping("10.1.0.12"));
        datagrams(&site, 5000..5003, 12, 8000..8100);
        let denied = |filter: &str| {
            let rows = drops(&alpha, filter);
            frames(&rows.into_iter().filter(|row| row["reason"] == "ingress-denied").collect::<Vec<_>>())
        };
        wait_for("all are counted", || denied("") == 300);
        // The first, one in the middle, the last.
        for port in [8000, 8042, 8099] {
            assert_eq!(denied(&format!("--port {port}")), 3, "{dataplane} {port}: {:#?}", drops(&alpha, ""));
        }
        assert_eq!(denied("--port 5001"), 100, "{dataplane}");
        assert_eq!(
            (denied("--address 10.1.0.12 --port 8042"), denied("--address 10.1.0.21 --port 8042")),
            (3, 0)
        );
        assert_eq!((denied("--address 10.1.0.11"), denied("--address 10.1.0.21")), (300, 0), "{dataplane}");
        assert_eq!((denied("--mac 02:00:00:00:00:11"), denied("--mac 02:00:00:00:00:21")), (300, 0));
        assert_eq!((denied("--proto udp"), denied("--proto tcp")), (300, 0), "{dataplane}");
        let row = &drops(&alpha, "--port 8042")[0];
        assert!(row["last"].as_str().unwrap().ends_with("-> 10.1.0.12:8042"), "{row:#}");
        let (_, text, _) = said(&alpha, "show drops --port 8042");
        assert!(text.contains("10.1.0.12:8042 (+2 others)"), "{text}");
        assert!(said(&alpha, "show drops --port 9999").1.starts_with("no drops\n"));
    }
}

#[test]
fn a_row_names_what_it_is_about_and_chatter_is_told_apart() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        let alpha = site.run_with("alpha", dataplane);
        let send = |frame: &[u8]| send_frame(&site.web1, "eth0", frame);
        let me = Ipv4Addr::new(10, 1, 0, 11);
        let unknown_host = MacAddr([2, 0, 0, 0, 0, 0x77]);
        for nobody in [97, 98, 99] {
            send(&arp_request(WEB1, me, Ipv4Addr::new(10, 1, 0, nobody)));
        }
        send(&arp_request(WEB1, Ipv4Addr::new(10, 1, 0, 12), Ipv4Addr::new(10, 1, 0, 21)));
        send(&other([2, 0, 0, 0, 0, 0x12], WEB1, 0x8864));
        send(&udp_frame([2, 0, 0, 0, 0, 0x12], unknown_host, [10, 1, 0, 12], 7000));
        // Chatter: LLDP, spanning tree, mDNS.
        send(&other([1, 0x80, 0xc2, 0, 0, 0x0e], WEB1, 0x88cc));
        send(&other([1, 0x80, 0xc2, 0, 0, 0], WEB1, 38));
        send(&udp_frame([1, 0, 0x5e, 0, 0, 0xfb], WEB1, [224, 0, 0, 251], 5353));
        wait_for("all are counted, once", || sent_by_hand(&drops(&alpha, "")) == 9);

        let last = |reason: &str| {
            let rows = drops(&alpha, "");
            let row = rows.into_iter().find(|row| row["reason"] == reason);
            row.unwrap_or_else(|| panic!("{dataplane}: no {reason}"))["last"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        assert_eq!(last("neighbor-unknown"), "arp who-has 10.1.0.99 tell 10.1.0.11");
        assert!(last("arp-spoofed").contains("tell 10.1.0.12"));
        assert!(last("ethertype-refused").contains("0x8864"));
        assert!(last("mac-spoofed").contains("02:00:00:00:00:77"));
        for asked in ["10.1.0.97", "10.1.0.98"] {
            assert_eq!(frames(&drops(&alpha, &format!("--address {asked}"))), 1, "{dataplane}");
        }
        assert_eq!(frames(&drops(&alpha, "--mac 02:00:00:00:00:77")), 1, "{dataplane}");

        let (_, text, _) = said(&alpha, "show drops");
        assert!(text.contains("frames of chatter") && !text.contains("link-protocol"), "{text}");
        assert!(text.contains("neighbor-unknown") && text.contains("0x8864"), "{text}");
        let (_, text, _) = said(&alpha, "show drops --all");
        assert!(!text.contains("frames of chatter") && text.contains("link-protocol"), "{text}");
        let chatter: Vec<Value> =
            drops(&alpha, "").into_iter().filter(|row| row["class"] == "chatter").collect();
        assert_eq!(sent_by_hand(&chatter), 3, "{chatter:#?}");

        // A port that is gone keeps its name.
        unplug_web1(&site, &alpha);
        let rows = drops(&alpha, "--address 10.1.0.99");
        assert_eq!((rows.len(), &rows[0]["from"]), (1, &"veth-web1".into()), "{dataplane}: {rows:#?}");
    }
}

#[test]
fn a_trace_knows_the_flows_that_live() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        let alpha = site.run_with("alpha", dataplane);
        let flows = Flows::start(&site);
        flows.allowed[1].0.arrives("to web2", &flows.allowed[1].1);
        let source = 1000 + ALLOWED + 12;
        let trace = |from: u16, to: u16| {
            said(&alpha, &format!("trace --vni 5001 udp 10.1.0.12:{from} 10.1.0.11:{to}"))
        };
        let (code, text, _) = trace(ALLOWED, source);
        assert_eq!(code, 0, "{dataplane}: the reply of a flow that lives: {text}");
        assert!(text.contains("of a live flow") && text.contains("a reply"), "{text}");
        let (code, text, _) = trace(ALLOWED + 7, source);
        assert!(code == 5 && text.contains("\nverdict: ingress-denied\n"), "{dataplane}: {text}");
        assert_eq!(flows.denied[1].1.count(), 0);
    }
}

/// One command says why a packet was dropped that somebody has really sent.
#[test]
fn a_packet_that_was_dropped_is_walked() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        let alpha = site.run_with("alpha", dataplane);
        let (code, _, error) = said(&alpha, "trace --last");
        assert!(code == 1 && error.contains("no packet that fits is remembered"), "{dataplane}: {error}");
        let (code, _, error) = said(&alpha, "trace --live --timeout 1 --address 10.1.0.77");
        assert!(code == 1 && error.contains("within 1 s"), "{dataplane}: {error}");
        // What says which packet is of no use where another is named, and no reason is made up.
        for wrong in ["trace --vni 5001 tcp 10.1.0.11 10.1.0.12 --port 22", "trace --live --reason spoofed"] {
            let (code, _, error) = said(&alpha, wrong);
            assert_eq!(code, 2, "{wrong}: {error}");
        }
        // It waits for what has not happened yet.
        let waiting = std::thread::scope(|scope| {
            let waiting = scope
                .spawn(|| said(&alpha, "trace --live --timeout 60 --endpoint web2 --reason ingress-denied"));
            let flows = Flows::start(&site);
            flows.denied_never_arrived();
            while !waiting.is_finished() {
                flows.denied[1].0.send_more(1);
                // The first of each kind is told: whoever asks too late for that one sees another.
                std::thread::sleep(Duration::from_millis(50));
                let _ = site.web1.enter(|| bind_udp("10.1.0.11:0").send_to(b"x", udp(12, DENIED)).unwrap());
            }
            waiting.join().unwrap()
        });
        let (code, text, error) = waiting;
        assert_eq!(code, 5, "{dataplane}: {text}{error}");
        assert!(text.contains("denied") && text.contains(&format!("-> 10.1.0.12:{DENIED}\n")), "{text}");
        assert!(text.contains("close: acme/all ingress #1"), "{dataplane}: {text}");
        let (_, remedy) =
            text.split_once("\nverdict: ingress-denied\nto pass: ").unwrap_or_else(|| panic!("{text}"));
        let (rule, place) = remedy.split_once(" in ").unwrap();
        assert!(place.starts_with("acme/all, ingress\n"), "{dataplane}: {text}");
        let before = std::fs::read_to_string(&site.config).unwrap();
        site.rewrite(|text| text.replace("ingress = [", &format!("ingress = [\n  {rule},")));
        assert!(alpha.run(&["reload"]).status.success(), "{rule}");
        datagram_arrives((&site.web1, udp(11, 40000)), (&site.web2, udp(12, DENIED)));
        site.rewrite(|_| before);
        assert!(alpha.run(&["reload"]).status.success());

        // With an address that is not its own: who sent it is known all the same.
        site.web1.ip("addr add 10.1.0.99/24 dev eth0");
        site.web1.ip("neigh replace 10.1.0.12 lladdr 02:00:00:00:00:12 dev eth0");
        site.web1.enter(|| bind_udp("10.1.0.99:0").send_to(b"x", udp(12, ALLOWED)).unwrap());
        let mut walked = Value::Null;
        wait_for("the spoofed packet is walked", || {
            let (_, text, _) = said(&alpha, "trace --last --address 10.1.0.99 --proto udp -o json");
            walked = serde_json::from_str(&text).unwrap_or_default();
            walked["event"].is_object()
        });
        assert_eq!(walked["event"]["src_endpoint"], "acme/web1", "{dataplane}: {walked:#}");
        assert_eq!(walked["event"]["reason"], "ip-spoofed", "{dataplane}: {walked:#}");
        assert_eq!(walked["trace"]["verdict"], "ip-spoofed", "{dataplane}: {walked:#}");
        assert!(alpha.stop().success());
    }
}

/// The endpoint web1 is configured no more, and its port is gone.
fn unplug_web1(site: &Site, alpha: &Daemon) {
    site.rewrite(|text| {
        let begin = text.find("[tenant.acme.endpoint.web1]").unwrap();
        let end = text[begin + 1..].find("[tenant.").map_or(text.len(), |at| begin + 1 + at);
        text[..begin].to_owned() + &text[end..]
    });
    let (code, _, error) = said(alpha, "reload");
    assert_eq!(code, 0, "{error}");
    unplug(&site.alpha);
}

fn unplug(host: &Space) {
    host.ip("link del veth-web1");
}

#[test]
fn show_endpoints_says_what_stays_in_userspace_and_why() {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let mac = "[tenant.acme.endpoint.web2]\n";
    site.rewrite(|text| text.replace(mac, &format!("{mac}port_security = false\n")));
    let because = |alpha: &Daemon| {
        let rows = ask(alpha, "show endpoints");
        let rows = rows["endpoints"].as_array().unwrap().iter();
        let rows = rows.map(|row| (row["endpoint"].as_str().unwrap().to_owned(), row["userspace"].clone()));
        rows.collect::<std::collections::BTreeMap<_, _>>()
    };
    {
        let alpha = site.run_with("alpha", "ebpf");
        let told = because(&alpha);
        assert_eq!(told["acme/web1"], serde_json::Value::Null, "{told:?}");
        let why = told["acme/web2"].as_str().unwrap().to_owned();
        assert_eq!(why, "port security is off: who sends is found out packet by packet");
        let (_, text, _) = said(&alpha, "show endpoints");
        assert!(text.contains("STAYS IN USERSPACE BECAUSE") && text.contains(&why), "{text}");
        assert!(alpha.stop().success());
    }
    let alpha = site.run("alpha");
    assert!(because(&alpha).values().all(|why| why == "the dataplane is userspace"));
}
