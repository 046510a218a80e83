//! The life of a daemon on a machine that does not stand still: killed, doubled, given bad files, its devices
//! taken away and its settings changed. Nothing un-inspected passes in the meantime, and in the end the machine is
//! as it was.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr},
    os::unix::net::UnixStream,
    time::Duration,
};

use common::{
    Capture, Daemon, EASTGATE, Machine, Sink, Stream, World, arp_request, config::Host, datagram_arrives,
    eastgate, hardware_address, icmp_echo, neighbor_solicitation, send_frame, site::*, wait_for, wait_within,
};
use eastgate_testkit::wait::until;
use eastgate_wire::MacAddr;

#[test]
fn a_killed_daemon_lets_nothing_pass_and_the_next_one_takes_over() {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let before = [Machine::of(&site.alpha), Machine::of(&site.beta)];
    let (alpha, beta) = (site.run("alpha"), site.run("beta"));
    let flows = Flows::start(&site);
    flows.allowed_arrive("at first");

    alpha.kill();
    assert!(
        flows.allowed.iter().all(|(stream, sink)| stream.is_cut(sink, 200)),
        "something passed a dead daemon"
    );
    flows.denied_never_arrived();
    for port in ["veth-web1", "veth-web2"] {
        site.assert_guarded(port);
    }
    let alpha = site.run("alpha");
    flows.allowed_arrive("after the sender's daemon was replaced");

    beta.kill();
    assert!(flows.allowed[0].0.is_cut(&flows.allowed[0].1, 200), "something passed a dead daemon");
    flows.allowed[1].0.arrives("alpha needs no beta for its own", &flows.allowed[1].1);
    let beta = site.run("beta");
    flows.allowed_arrive("after the receiver's daemon was replaced");
    flows.denied_never_arrived();

    // The denied stream is one that would arrive: only the policy kept it out.
    site.allow_denied();
    for daemon in [&alpha, &beta] {
        assert!(daemon.run(&["reload"]).status.success());
    }
    for (stream, sink) in &flows.denied {
        stream.arrives("what was denied and is allowed now", sink);
    }
    drop(flows);
    for (daemon, (space, before)) in
        [alpha, beta].into_iter().zip([&site.alpha, &site.beta].into_iter().zip(&before))
    {
        let left = [daemon.socket().to_owned(), daemon.socket().with_extension("sock.changes.json")];
        assert!(left.iter().all(|path| path.exists()));
        assert!(daemon.stop().success());
        assert_eq!(before.changes(&Machine::of(space)), Vec::<String>::new());
        assert!(left.iter().all(|path| !path.exists()), "{left:?}");
    }
}

#[test]
fn an_orderly_stop_under_traffic_lets_nothing_pass() {
    nothing_passes_after_an_orderly_stop("userspace");
}

#[test]
fn with_programs_an_orderly_stop_lets_nothing_pass_either() {
    nothing_passes_after_an_orderly_stop("ebpf");
}

fn nothing_passes_after_an_orderly_stop(dataplane: &str) {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let before = Machine::of(&site.alpha);
    let (mut alpha, _beta) = (site.run_with("alpha", dataplane), site.run_with("beta", dataplane));
    let flows = Flows::start(&site);
    for _ in 0..3 {
        flows.allowed_arrive("while it runs");
        assert!(alpha.stop().success());
        assert_eq!(before.changes(&Machine::of(&site.alpha)), Vec::<String>::new());
        assert!(flows.allowed.iter().all(|(stream, sink)| stream.is_cut(sink, 50)));
        flows.denied_never_arrived();
        alpha = site.run_with("alpha", dataplane);
    }
    flows.allowed_arrive("after it came back");
    flows.denied_never_arrived();
}

/// A signal that comes before it is ready is kept, and obeyed like any other.
#[test]
fn a_daemon_that_is_told_to_end_while_it_starts_leaves_nothing() {
    for dataplane in ["userspace", "ebpf"] {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        let before = Machine::of(&site.alpha);
        for _ in 0..5 {
            let (world, space, config) = (&site.world, &site.alpha, &site.config);
            let alpha = Daemon::launch(world, space, config, "alpha", &["--dataplane", dataplane]);
            wait_for("it has begun", || alpha.socket().exists());
            let status = alpha.stop();
            assert!(status.success(), "{dataplane}: {status}");
            assert_eq!(before.changes(&Machine::of(&site.alpha)), Vec::<String>::new(), "{dataplane}");
        }
    }
}

#[test]
fn teardown_undoes_what_a_killed_daemon_left() {
    teardown_undoes("userspace");
}

#[test]
fn with_programs_teardown_undoes_as_much() {
    teardown_undoes("ebpf");
}

fn teardown_undoes(dataplane: &str) {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let before = Machine::of(&site.alpha);
    let alpha = site.run_with("alpha", dataplane);
    let socket = alpha.socket().to_owned();
    let teardown =
        || site.alpha.command(EASTGATE).arg("teardown").arg("--socket").arg(&socket).output().unwrap();
    let refused = teardown();
    assert_eq!(refused.status.code(), Some(1), "a daemon that runs is not torn down");
    assert_eq!(alpha.port_state("veth-web1"), "forwarding");

    alpha.kill();
    assert_ne!(
        before.changes(&Machine::of(&site.alpha)),
        Vec::<String>::new(),
        "a killed daemon leaves ports closed"
    );
    let undone = teardown();
    assert!(undone.status.success(), "{}", String::from_utf8_lossy(&undone.stderr));
    assert_eq!(before.changes(&Machine::of(&site.alpha)), Vec::<String>::new());
    assert!(String::from_utf8_lossy(&teardown().stdout).contains("nothing to undo"));
}

#[test]
fn a_port_that_comes_back_is_served_again() {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let (alpha, _beta) = (site.run("alpha"), site.run("beta"));
    let sink = Sink::start(&site.db1, udp(21, ALLOWED));
    let denied = Sink::start(&site.db1, udp(21, DENIED));
    Stream::start(&site.web1, udp(11, 8000), udp(21, ALLOWED)).arrives("at first", &sink);

    site.alpha.ip("link del veth-web1");
    wait_within(SOON, "the port is missed", || alpha.port_state("veth-web1") == "absent");
    assert_eq!(alpha.port_state("veth-web2"), "forwarding", "other ports do not mind");

    site.plug(&site.alpha, "veth-web1", &site.web1, 0x11);
    let forbidden = Stream::start(&site.web1, udp(11, 8001), udp(21, DENIED));
    let again = Sink::start(&site.web2, udp(12, ALLOWED));
    let stream = Stream::start(&site.web1, udp(11, 8002), udp(12, ALLOWED));
    wait_within(SOON, "the port is served again", || alpha.port_state("veth-web1") == "forwarding");
    stream.arrives("after the port came back", &again);
    site.assert_guarded("veth-web1");
    forbidden.send_more(50);
    assert_eq!(denied.count(), 0, "a new port was open before it was guarded");
}

fn underlay_comes_and_goes(hosts: &[Host<'_>]) {
    let Some(site) = Site::new(hosts) else { return };
    let (alpha, _beta) = (site.run("alpha"), site.run("beta"));
    let sink = Sink::start(&site.db1, udp(21, ALLOWED));
    let stream = Stream::start(&site.web1, udp(11, 8000), udp(21, ALLOWED));
    stream.arrives("at first", &sink);

    site.alpha.ip("link set underlay0 down");
    assert!(stream.is_cut(&sink, 50));
    wait_within(SOON, "status tells", || alpha.ask(&["status"])["vtep"]["up"] == false);
    site.alpha.ip("link set underlay0 up");
    // The kernel drops IPv6 addresses with the link.
    if site.alpha.ip("-6 addr show dev underlay0").find("2001:db8::1").is_none() {
        site.alpha.ip("addr add 2001:db8::1/64 dev underlay0 nodad");
    }
    stream.arrives("after the underlay was down", &sink);

    site.alpha.ip("addr flush dev underlay0");
    assert!(stream.is_cut(&sink, 50));
    site.address_underlay(&site.alpha, 1);
    stream.arrives("after the address was gone", &sink);

    site.alpha.ip("link del underlay0");
    assert!(stream.is_cut(&sink, 50));
    wait_within(SOON, "status tells", || alpha.ask(&["status"])["vtep"]["listening"] == false);
    site.lay_underlay();
    stream.arrives("after the underlay was gone", &sink);
    assert_eq!(alpha.ask(&["status"])["ready"], true);
}

#[test]
fn the_underlay_may_come_and_go() {
    underlay_comes_and_goes(HOSTS_V4);
}

#[test]
fn the_underlay_may_come_and_go_in_ipv6() {
    underlay_comes_and_goes(HOSTS_V6);
}

#[test]
fn a_daemon_that_starts_before_its_devices_serves_them_as_they_come() {
    let Some(mut world) = World::new() else { return };
    let (alpha, beta) = (world.space("alpha"), world.space("beta"));
    let (web1, web2, db1) = (world.space("web1"), world.space("web2"), world.space("db1"));
    let config = world.write("eastgate.toml", &acme_on(HOSTS_V4));
    let site = Site { world, alpha, beta, web1, web2, db1, config };
    let (alpha, _beta) = (site.run("alpha"), site.run("beta"));
    assert_eq!(alpha.port_state("veth-web1"), "absent");
    site.plug(&site.alpha, "veth-web1", &site.web1, 0x11);
    site.plug(&site.beta, "veth-db1", &site.db1, 0x21);
    site.lay_underlay();
    datagram_arrives((&site.web1, udp(11, 8000)), (&site.db1, udp(21, ALLOWED)));
}

#[test]
fn a_broken_file_is_refused_with_its_place_and_changes_nothing() {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let (alpha, _beta) = (site.run("alpha"), site.run("beta"));
    let flows = Flows::start(&site);
    flows.allowed_arrive("at first");
    let epoch = || alpha.ask(&["status"])["epoch"].as_u64().unwrap();
    let (first, good) = (epoch(), std::fs::read_to_string(&site.config).unwrap());

    site.rewrite(|text| {
        text.replace(
            "from = \"any\" },\n  { proto = \"tcp\"",
            "from = \"group:nobody\" },\n  { proto = \"tcp\"",
        )
    });
    let broken = std::fs::read_to_string(&site.config).unwrap();
    let line = broken.lines().position(|line| line.contains("group:nobody")).unwrap() + 1;
    let column = broken.lines().nth(line - 1).unwrap().find("\"group:nobody\"").unwrap() + 1;
    let place = format!("eastgate.toml:{line}:{column}");
    let refused = alpha.run(&["reload"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(3), "{said}");
    assert!(said.contains(&place), "no {place} in: {said}");
    assert_eq!(epoch(), first);
    assert!(alpha.ask(&["status"])["reload_error"].as_str().unwrap().contains(&place));
    flows.allowed_arrive("after a reload that was refused");

    std::fs::write(&site.config, "this is no TOML").unwrap();
    assert_eq!(alpha.run(&["reload"]).status.code(), Some(3));
    std::fs::remove_file(&site.config).unwrap();
    assert_eq!(alpha.run(&["reload"]).status.code(), Some(3));
    flows.allowed_arrive("without a file");
    flows.denied_never_arrived();

    std::fs::write(&site.config, good.replace("[7000]", "[7001]")).unwrap();
    assert!(alpha.run(&["reload"]).status.success());
    assert_eq!(epoch(), first + 1);
    assert!(alpha.ask(&["status"])["reload_error"].is_null());
    // To web2, where alpha decides.
    flows.denied[1].0.arrives("what is allowed now", &flows.denied[1].1);
    assert!(flows.allowed[1].0.is_cut(&flows.allowed[1].1, 50), "what is denied now still passes");
}

#[test]
fn settings_that_someone_changes_are_put_right() {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let before = Machine::of(&site.alpha);
    let alpha = site.run("alpha");
    let restored = || alpha.ask(&["status"])["settings_restored"].as_u64().unwrap();
    assert_eq!(restored(), 0, "what it sets itself is not counted");
    let settings = ["net/ipv4/conf/veth-web1/arp_ignore", "net/ipv6/conf/veth-web1/disable_ipv6"];
    // Where it hears of a device at that moment, it looks before its second is over.
    let news = [None, Some("addr add 192.0.2.77/32 dev lo"), Some("addr del 192.0.2.77/32 dev lo")];
    for (count, (key, news)) in (1..).zip(settings.into_iter().flat_map(|key| news.map(|news| (key, news)))) {
        let wanted = site.alpha.get(key);
        assert_ne!(wanted, "0");
        site.alpha.set(key, "0");
        if let Some(news) = news {
            site.alpha.ip(news);
        }
        wait_within(SOON, key, || site.alpha.get(key) == wanted);
        wait_within(SOON, "status counts it", || restored() == count);
    }
    assert!(alpha.stop().success());
    assert_eq!(before.changes(&Machine::of(&site.alpha)), Vec::<String>::new());
}

/// Asks, in every way there is, for addresses of the host itself, and gives the kinds of question it answered.
fn answers_of_the_host(site: &Site, port: MacAddr) -> Vec<&'static str> {
    let own = Ipv4Addr::new(10, 1, 0, 99);
    let own_v6: Ipv6Addr = "fd00:1::99".parse().unwrap();
    let (me, me_v6) = (Ipv4Addr::new(10, 1, 0, 11), "fd00:1::11".parse::<Ipv6Addr>().unwrap());
    let questions = [
        ("ARP for the port's own address", arp_request(WEB1, me, own)),
        ("ARP for the underlay address", arp_request(WEB1, me, Ipv4Addr::new(192, 0, 2, 1))),
        ("ND for the port's own address", neighbor_solicitation(WEB1, me_v6, own_v6)),
        ("ping", icmp_echo((WEB1, me.into()), (port, own.into()))),
        ("ping in IPv6", icmp_echo((WEB1, me_v6.into()), (port, own_v6.into()))),
    ];
    let mut answered = Vec::new();
    for (kind, question) in questions {
        let capture = Capture::start(&site.web1, "eth0");
        let sent = questions_sent(site);
        // The kernel answers while the frame is handed over or right after; ten questions outlast "right after".
        for _ in 0..10 {
            send_frame(&site.web1, "eth0", &question);
        }
        wait_for("the questions went out", || questions_sent(site) >= sent + 10);
        if !capture.matching(|frame| frame[..6] == WEB1.0).is_empty() {
            answered.push(kind);
        }
    }
    answered
}

fn questions_sent(site: &Site) -> u64 {
    let links: serde_json::Value = serde_json::from_str(&site.alpha.ip("-s -j link show veth-web1")).unwrap();
    links[0]["stats64"]["rx"]["packets"].as_u64().unwrap()
}

#[test]
fn the_kernel_of_the_appliance_is_silent_on_a_tenant_port() {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    // The worst a host can be: it has addresses of the tenant's network on the port itself.
    let lend = || {
        site.alpha.ip("addr replace 10.1.0.99/24 dev veth-web1");
        site.alpha.ip("addr replace fd00:1::99/64 dev veth-web1 nodad");
    };
    lend();
    // web1's kernel asks nothing of its own and its own answers are not looked at.
    site.web1.ip("neigh replace 10.1.0.99 lladdr 02:00:00:00:00:99 dev eth0");
    let port = hardware_address(&site.alpha, "veth-web1");
    let open = answers_of_the_host(&site, port);
    assert_eq!(open.len(), 5, "without eastgate the kernel answers everything: {open:?}");

    let alpha = site.run("alpha");
    lend_v4(&site);
    assert_eq!(answers_of_the_host(&site, port), Vec::<&str>::new(), "while the daemon runs");
    let capture = Capture::start(&site.web1, "eth0");
    send_frame(
        &site.web1,
        "eth0",
        &arp_request(WEB1, Ipv4Addr::new(10, 1, 0, 11), Ipv4Addr::new(10, 1, 0, 12)),
    );
    wait_for("eastgate itself answers for endpoints", || {
        !capture.matching(|frame| frame[..6] == WEB1.0).is_empty()
    });

    alpha.kill();
    assert_eq!(answers_of_the_host(&site, port), Vec::<&str>::new(), "after it was killed");
    let alpha = site.run("alpha");
    assert_eq!(answers_of_the_host(&site, port), Vec::<&str>::new(), "after it came back");
    assert!(alpha.stop().success());
    lend();
    assert_eq!(answers_of_the_host(&site, port), open, "as before");
}

fn lend_v4(site: &Site) {
    site.alpha.ip("addr replace 10.1.0.99/24 dev veth-web1");
}

#[test]
fn a_second_daemon_in_the_namespace_is_refused_and_harms_nothing() {
    for dataplane in ["userspace", "ebpf"] {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        let (alpha, _beta) = (site.run_with("alpha", dataplane), site.run_with("beta", dataplane));
        let flows = Flows::start(&site);
        flows.allowed_arrive("at first");
        let before = Machine::of(&site.alpha);
        // Its name, and with it its socket and record, are others.
        site.rewrite(|text| format!("[host.other]\nvtep = \"192.0.2.9\"\ndevice = \"underlay0\"\n{text}"));
        let options = ["--dataplane", dataplane];
        let mut second = Daemon::launch(&site.world, &site.alpha, &site.config, "other", &options);
        assert_eq!(second.wait().code(), Some(1));
        let said = second.log();
        let named =
            format!("another eastgate runs in this network namespace: process {} (eastgate", alpha.pid());
        assert!(said.contains(&named), "{said}");
        assert!(!second.socket().exists(), "a socket that nobody answers is left");
        assert_eq!(before.changes(&Machine::of(&site.alpha)), Vec::<String>::new());
        assert_eq!(alpha.ask(&["status"])["settings_restored"], 0);
        flows.allowed_arrive("after a second daemon was refused");
        flows.denied_never_arrived();
        // The kernel gives the lock back however its holder ends.
        alpha.kill();
        let alpha = site.run_with("alpha", dataplane);
        flows.allowed_arrive("under the next one");
        assert!(alpha.stop().success());
    }
}

#[test]
fn a_second_daemon_on_the_same_socket_is_refused_and_harms_nothing() {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let (alpha, _beta) = (site.run("alpha"), site.run("beta"));
    let flows = Flows::start(&site);
    flows.allowed_arrive("at first");
    let (before, status) = (Machine::of(&site.alpha), alpha.ask(&["status"]));
    let mut second = Daemon::launch(&site.world, &site.alpha, &site.config, "alpha", &[]);
    assert_eq!(second.wait().code(), Some(1));
    assert!(second.log().contains("another eastgate listens"), "{}", second.log());
    assert_eq!(before.changes(&Machine::of(&site.alpha)), Vec::<String>::new());
    let after = alpha.ask(&["status"]);
    assert_eq!((&after["epoch"], &after["ready"]), (&status["epoch"], &status["ready"]));
    assert_eq!(after["settings_restored"], 0);
    flows.allowed_arrive("after a second daemon was refused");
    flows.denied_never_arrived();
}

/// Requests as they should be, and what becomes of them when bytes are changed, cut off and made up. The same in
/// every run (xorshift64*).
fn noise_for_the_control_socket() -> Vec<Vec<u8>> {
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let post = |target: &str, body: &str| {
        let length = body.len();
        format!(
            "POST {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    };
    let good = [
        get("/v1/status"),
        get("/v1/flows?vni=5001&address=10.1.0.11&port=7000&proto=17&limit=3"),
        get("/v1/drops?mac=02:00:00:00:00:11"),
        post("/v1/fdb/flush", r#"{"vni":5001}"#),
        post(
            "/v1/trace",
            r#"{"vni":5001,"proto":17,"src":"10.1.0.11","dst":"10.1.0.12","sport":1,"dport":7000,"icmp":null}"#,
        ),
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = move |end: usize| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end
    };
    let mut all: Vec<Vec<u8>> = vec![
        b"[".repeat(60_000),
        post("/v1/fdb/flush", &r#"{"flows":"#.repeat(7_000)).into_bytes(),
        get("/v1/flows?limit=18446744073709551616").into_bytes(),
        get("/v1/flows?limit=18446744073709551615").into_bytes(),
        get("/v1/flows?vni=-1").into_bytes(),
        post("/v1/trace", &"[".repeat(100_000)).into_bytes(),
        br#"{"status":{},"reload":{}}"#.to_vec(),
        b"\xff\xfe\0\0".to_vec(),
        b"x".repeat(1 << 20),
    ];
    for _ in 0..2_000 {
        let mut bytes = good[below(good.len())].as_bytes().to_vec();
        for _ in 0..=below(4) {
            let at = below(bytes.len());
            match below(4) {
                0 => bytes[at] = below(256) as u8,
                1 => bytes.truncate(at.max(1)),
                2 => bytes.insert(at, b"{}[]\",:0e-\r\n?&%"[below(15)]),
                _ => bytes.extend_from_within(at..),
            }
        }
        all.push(bytes);
    }
    all
}

/// Without an answer for so long, those who are not answered have said too little.
const NOBODY_ELSE: Duration = Duration::from_millis(100);

/// Says each of these at once, and what is answered to each.
fn say_all(alpha: &Daemon, all: &[Vec<u8>]) -> Vec<String> {
    std::thread::scope(|scope| {
        let asked: Vec<_> = all
            .iter()
            .map(|bytes| {
                let mut stream = UnixStream::connect(alpha.socket()).unwrap();
                scope.spawn(move || {
                    let mut answer = Vec::new();
                    // Of what is refused at its beginning the rest is not read.
                    let _ = stream.write_all(bytes);
                    let _ = stream.read_to_end(&mut answer);
                    String::from_utf8_lossy(&answer).into_owned()
                })
            })
            .collect();
        // Who has sent half a request waits for as long as there is room, which is taken once nobody else is answered any more.
        let answered = || asked.iter().filter(|asked| asked.is_finished()).count();
        let mut others: Vec<UnixStream> = Vec::new();
        while answered() < asked.len() {
            let before = answered();
            if !until(NOBODY_ELSE, || answered() > before) {
                others = (0..64).map(|_| UnixStream::connect(alpha.socket()).unwrap()).collect();
            }
        }
        let answers = asked.into_iter().map(|asked| asked.join().unwrap()).collect();
        drop(others);
        answers
    })
}

#[test]
fn noise_on_the_control_socket_harms_nobody() {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let alpha = site.run("alpha");
    let before = alpha.ask(&["status"]);
    let (mut errors, mut cut) = (0, 0);
    for all in noise_for_the_control_socket().chunks(20) {
        for (bytes, answer) in all.iter().zip(say_all(&alpha, all)) {
            let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
            let status = answer.strip_prefix("HTTP/1.1 ").or(answer.strip_prefix("HTTP/1.0 "));
            let status = status.and_then(|rest| rest.get(..3)?.parse::<u16>().ok());
            let is_told = answer.starts_with(r#"{"error":"the daemon is newer"#);
            assert!(answer.is_empty() || is_told || status.is_some(), "{shown}: {answer}");
            errors += u32::from(is_told || status.is_some_and(|status| (400..500).contains(&status)));
            cut += u32::from(answer.is_empty());
        }
    }
    assert!(errors > 1_000, "only {errors} were refused and {cut} cut off: is this noise?");
    // Half a request, and gone.
    for _ in 0..100 {
        UnixStream::connect(alpha.socket()).unwrap().write_all(b"GET /v1/sta").unwrap();
    }
    let after = alpha.ask(&["status"]);
    for field in ["ready", "epoch", "host", "reload_error"] {
        assert_eq!(before[field], after[field], "{field}");
    }
    assert!(!alpha.log().contains("panicked"), "{}", alpha.log());
    assert!(alpha.stop().success());
}

#[test]
fn exit_codes_are_what_the_help_says() {
    let folder = std::env::temp_dir().join(format!("egt{}-exit", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let good = file("good.toml", &acme_on(HOSTS_V4));
    let broken = file("broken.toml", "[host.alpha]\nvtep = \"192.0.2.300\"\ndevice = \"underlay0\"\n");
    let plain_file = file("plain", "");
    let nowhere = folder.join("nowhere.sock").to_str().unwrap().to_owned();
    let trace = |config: &str, port: u16| {
        format!("trace --config {config} --vni 5001 udp 10.1.0.11:1 10.1.0.12:{port}")
    };
    let expected = [
        (0, "--help".to_owned()),
        (0, format!("check {good}")),
        (0, "schema".into()),
        (0, "drop-reasons".into()),
        (0, trace(&good, ALLOWED)),
        (1, format!("run --config {good} --host nobody --socket {nowhere}")),
        (1, format!("run --config {good} --socket {nowhere}")),
        (1, format!("plan --config {good} --host nobody")),
        (2, String::new()),
        (2, "bogus".into()),
        (2, "check".into()),
        (2, "status --nonsense".into()),
        (2, "show nothing".into()),
        (2, "show flows --vni 16777216".into()),
        (2, "status -o xml".into()),
        (2, "flows kill".into()),
        (2, "trace --vni 5001 udp web1 web2".into()),
        (3, format!("check {broken}")),
        (3, format!("check {good} {broken}")),
        (3, format!("check {nowhere}")),
        (3, format!("run --config {broken} --host alpha --socket {nowhere}")),
        (3, format!("plan --config {broken} --host alpha")),
        (3, trace(&broken, ALLOWED)),
        (4, format!("status --socket {nowhere}")),
        (4, format!("reload --socket {nowhere}")),
        (4, format!("show drops --socket {nowhere}")),
        (4, format!("flows kill --all --socket {nowhere}")),
        (4, format!("fdb flush --socket {nowhere}")),
        (4, format!("trace --vni 5001 udp 10.1.0.11:1 10.1.0.12:7 --socket {nowhere}")),
        (4, format!("status --socket {plain_file}")),
        (5, trace(&good, DENIED)),
        (0, trace(&good, 3868).replace("udp", "sctp")),
        (5, trace(&good, 3869).replace("udp", "sctp")),
    ];
    let wrong: Vec<String> = expected
        .into_iter()
        .filter_map(|(code, line)| {
            let output = eastgate(line.split_whitespace());
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            (output.status.code() != Some(code) || (code != 0 && code != 5 && said.is_empty()))
                .then(|| format!("eastgate {line}: {:?} instead of {code}: {said}", output.status.code()))
        })
        .collect();
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
