//! Ports that others have a hand in as well: their qdiscs, filters and programs, before eastgate and after it, and
//! agents that take away what it has attached or made. Both live together, what is lost is put back and said, and a port
//! that cannot be one is refused.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use nix::sys::signal::Signal;

use common::{
    Capture, Daemon, Machine, Sink, Stream, datagram_arrives, hardware_address, hooks, settle, site::*,
    wait_within,
};
use eastgate_fastpath::tcx::{self, Way};

const DATAPLANES: [&str; 2] = ["userspace", "ebpf"];

/// By tcx and by clsact, with either dataplane; by clsact alone where the kernel has nothing else.
fn ways_to_attach() -> Vec<[&'static str; 4]> {
    let by = if tcx::is_available() { &["tcx", "clsact"][..] } else { &["clsact"] };
    let all = by
        .iter()
        .flat_map(|attach| DATAPLANES.map(|dataplane| ["--dataplane", dataplane, "--attach", attach]));
    all.collect()
}

/// What libvirt does for `<bandwidth>`, as far as every kernel has it: an `ingress` qdisc with a filter that ends with `ok`.
fn limit_like_libvirt(site: &Site, port: &str) {
    site.alpha.tc(&format!("qdisc add dev {port} ingress"));
    site.alpha.tc(&format!("filter add dev {port} parent ffff: protocol all u32 match u32 0 0 flowid :1"));
}

fn restored(daemon: &Daemon, what: &str) -> u64 {
    daemon.ask(&["status"])["restored"][what].as_u64().unwrap()
}

fn note(daemon: &Daemon, port: &str) -> Option<String> {
    let status = daemon.ask(&["status"]);
    let mut ports = status["ports"].as_array().unwrap().iter();
    ports.find(|row| row["name"] == port).unwrap()["note"].as_str().map(str::to_owned)
}

/// The host has an address of the tenant's network on the port, and both know each other's MAC.
fn lend_address(site: &Site) {
    site.alpha.ip("addr replace 10.1.0.99/24 dev veth-web1");
    let port = hardware_address(&site.alpha, "veth-web1");
    site.web1.ip(&format!("neigh replace 10.1.0.99 lladdr {port} dev eth0"));
    site.alpha.ip("neigh replace 10.1.0.11 lladdr 02:00:00:00:00:11 dev veth-web1");
}

/// The host and the machine at veth-web1 do not hear each other.
fn assert_closed(site: &Site, when: &str) {
    let port = hardware_address(&site.alpha, "veth-web1").0;
    let capture = Capture::start(&site.web1, "eth0");
    assert!(!site.alpha.ping("-c 1 -W 0.2 -I veth-web1 10.1.0.11"), "the host reaches the machine {when}");
    assert!(!site.web1.ping("-c 1 -W 0.2 10.1.0.99"), "the machine reaches the host {when}");
    let heard = capture.matching(|frame| frame[6..12] == port);
    assert!(heard.is_empty(), "the host spoke to the machine {when}: {heard:?}");
}

#[test]
fn an_ingress_qdisc_before_and_after_lives_beside_eastgate() {
    for options in ways_to_attach().iter().filter(|options| options[3] == "tcx") {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        limit_like_libvirt(&site, "veth-web1");
        let before = Machine::of(&site.alpha);
        let (alpha, beta) = (site.run_more("alpha", options), site.run_more("beta", options));
        lend_address(&site);
        let flows = Flows::start(&site);
        flows.allowed_arrive("past an `ingress` qdisc that was there before");
        assert_closed(&site, "with an `ingress` qdisc that was there before");
        // The other tool comes later, and takes its qdisc away again.
        limit_like_libvirt(&site, "veth-web2");
        site.beta.tc("qdisc add dev veth-db1 clsact");
        flows.allowed_arrive("past qdiscs that came later");
        site.alpha.tc("qdisc del dev veth-web2 ingress");
        site.beta.tc("qdisc del dev veth-db1 clsact");
        flows.allowed_arrive("once they are gone");
        site.alpha.tc("qdisc del dev veth-web1 ingress");
        flows.allowed_arrive("once the one from before is gone");
        assert_closed(&site, "once the `ingress` qdisc is gone");
        flows.denied_never_arrived();
        assert_eq!(restored(&alpha, "programs"), 0, "{}", alpha.log());
        limit_like_libvirt(&site, "veth-web1");
        drop(flows);
        site.alpha.ip("addr del 10.1.0.99/24 dev veth-web1");
        assert!(alpha.stop().success() && beta.stop().success());
        let changes = before.changes(&Machine::of(&site.alpha));
        // The filter has another number.
        let changes: Vec<_> = changes.iter().filter(|change| !change.contains("filter veth-web1")).collect();
        assert!(changes.is_empty(), "{changes:?}");
    }
}

#[test]
fn without_tcx_an_ingress_qdisc_closes_the_port_and_says_so() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        limit_like_libvirt(&site, "veth-web1");
        let options = ["--dataplane", dataplane, "--attach", "clsact"];
        let (alpha, _beta) = (site.run_more("alpha", &options), site.run_more("beta", &options));
        let state = alpha.port_state("veth-web1");
        assert!(
            state.starts_with("failed: its `ingress` qdisc")
                && state.contains("tc qdisc del dev veth-web1 ingress"),
            "{state}"
        );
        lend_address(&site);
        assert!(!site.web1.ping("-c 1 -W 0.2 10.1.0.99"), "the machine reaches the host");
        assert_eq!(alpha.port_state("veth-web2"), "forwarding");
        datagram_arrives((&site.web2, udp(12, 8001)), (&site.db1, udp(21, ALLOWED)));
        // As the message says.
        site.alpha.tc("qdisc del dev veth-web1 ingress");
        wait_within(SOON, "the port is served", || alpha.port_state("veth-web1") == "forwarding");
        site.alpha.tc("filter add dev veth-web1 ingress pref 2 protocol all u32 match u32 0 0 flowid :1");
        datagram_arrives((&site.web1, udp(11, 8000)), (&site.db1, udp(21, ALLOWED)));
        assert_closed(&site, "with a filter behind eastgate's");
        assert!(alpha.stop().success());
        let filters = site.alpha.tc("filter show dev veth-web1 ingress");
        assert!(filters.contains("u32") && !filters.contains("0xea57"), "it is not eastgate's: {filters}");
    }
}

#[test]
fn what_another_agent_takes_off_a_port_is_put_back() {
    for options in ways_to_attach() {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        let before = Machine::of(&site.alpha);
        let (alpha, _beta) = (site.run_more("alpha", &options), site.run_more("beta", &options));
        lend_address(&site);
        let flows = Flows::start(&site);
        flows.allowed_arrive("at first");
        let mut count = 0;
        for theft in thefts(options[3], options[1]) {
            let before = attached(&site);
            theft(&site);
            // One that was taken away in steps is put back in steps.
            wait_within(SOON, "it is put back and counted", || {
                restored(&alpha, "programs") > count && attached(&site) == before
            });
            count = restored(&alpha, "programs");
            flows.allowed_arrive("after it was put back");
            assert_closed(&site, "after it was put back");
            assert!(alpha.log().contains("someone else took away the program"), "{}", alpha.log());
        }
        flows.denied_never_arrived();
        let text = String::from_utf8(alpha.run(&["status"]).stdout).unwrap();
        assert!(text.contains("that someone else took away; last: the program at"), "{text}");
        drop(flows);
        site.alpha.ip("addr del 10.1.0.99/24 dev veth-web1");
        assert!(alpha.stop().success());
        assert_eq!(before.changes(&Machine::of(&site.alpha)), Vec::<String>::new());
    }
}

/// The programs and filters of eastgate on its devices, by name
fn attached(site: &Site) -> Vec<String> {
    let links = site.alpha.ip("-o link");
    let devices = ["veth-web1", "underlay0", "eastgate-vx0"].into_iter();
    let both =
        devices.filter(|device| links.contains(device)).flat_map(|device| Way::ALL.map(|way| (device, way)));
    both.map(|(device, way)| {
        let names = if tcx::is_available() { hooks::names(&site.alpha, device, way) } else { Vec::new() };
        let filters =
            site.alpha.command("tc").args(["filter", "show", "dev", device, way.name()]).output().unwrap();
        let filters = String::from_utf8_lossy(&filters.stdout).matches("0xea57").count();
        format!("{device} {} {names:?} {filters}", way.name())
    })
    .collect()
}

type Theft = Box<dyn Fn(&Site)>;

fn thefts(attach: &str, dataplane: &str) -> Vec<Theft> {
    let tc = |command: &'static str| Box::new(move |site: &Site| drop(site.alpha.tc(command))) as Theft;
    let take = |device: &'static str, way: Way, which: &'static [usize]| {
        Box::new(move |site: &Site| {
            let programs = hooks::programs(&site.alpha, device, way);
            for place in which {
                hooks::take_away(&site.alpha, device, way, &programs[*place]);
            }
        }) as Theft
    };
    let mut all = match attach {
        "tcx" => vec![
            take("veth-web1", Way::Ingress, &[0]),
            take("veth-web1", Way::Ingress, &[1]),
            take("veth-web1", Way::Egress, &[0]),
            take("veth-web1", Way::Ingress, &[0, 1]),
            take("veth-web1", Way::Egress, &[0, 1]),
        ],
        _ => vec![
            tc("qdisc del dev veth-web1 clsact"),
            tc("filter del dev veth-web1 ingress"),
            tc("filter del dev veth-web1 egress"),
            tc("filter del dev veth-web1 ingress pref 1 handle 0xea57 bpf"),
        ],
    };
    if dataplane == "ebpf" {
        all.extend(match attach {
            "tcx" => [take("underlay0", Way::Ingress, &[0]), take("eastgate-vx0", Way::Ingress, &[0])],
            _ => [tc("qdisc del dev underlay0 clsact"), tc("qdisc del dev eastgate-vx0 clsact")],
        });
    }
    all
}

/// While nobody puts it back, the other half of the guard holds.
#[test]
fn one_half_of_the_guard_holds_while_the_other_is_gone() {
    if !tcx::is_available() {
        return;
    }
    for dataplane in DATAPLANES {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        let alpha = site.run_with("alpha", dataplane);
        lend_address(&site);
        alpha.kill();
        assert_closed(&site, "with the whole guard");
        for way in Way::ALL {
            let programs = hooks::programs(&site.alpha, "veth-web1", way);
            hooks::take_away(&site.alpha, "veth-web1", way, &programs[0]);
        }
        assert_closed(&site, "with half of the guard");
        let alpha = site.run_with("alpha", dataplane);
        assert_closed(&site, "with the guard made whole");
        for way in Way::ALL {
            assert_eq!(hooks::programs(&site.alpha, "veth-web1", way).len(), 2);
        }
        drop(alpha);
    }
}

/// Another's program that passes what it sees to the host comes to stand before eastgate's.
#[test]
fn eastgate_takes_the_first_place_back() {
    if !tcx::is_available() {
        return;
    }
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let (alpha, _beta) = (site.run_with("alpha", "ebpf"), site.run_with("beta", "ebpf"));
    let flows = Flows::start(&site);
    flows.allowed_arrive("at first");
    let intruder = site.alpha.enter(|| {
        let guard = eastgate_fastpath::Guard::load().unwrap();
        let device = hooks::index_of("veth-web1");
        tcx::attach(device, Way::Ingress, std::os::fd::AsFd::as_fd(&guard.only_marked), tcx::Place::First)
            .unwrap();
        tcx::id_of(&guard.only_marked).unwrap()
    });
    wait_within(SOON, "eastgate is first", || {
        hooks::names(&site.alpha, "veth-web1", Way::Ingress) == ["tenant", "only_marked", "refuse_all"]
    });
    flows.allowed_arrive("once eastgate is first again");
    // It is said after it was done.
    let text = settle(|| note(&alpha, "veth-web1"), Option::is_some);
    assert!(text.is_some_and(|text| text.contains("do not see what this machine sends")));
    assert!(alpha.stop().success());
    let left = hooks::programs(&site.alpha, "veth-web1", Way::Ingress);
    assert!(left.len() == 1 && left[0].id == intruder, "{left:?}");
}

#[test]
fn devices_that_eastgate_made_and_lost_are_made_again() {
    for options in ways_to_attach().iter().filter(|options| options[1] == "ebpf") {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        let before = Machine::of(&site.alpha);
        let (alpha, _beta) = (site.run_more("alpha", options), site.run_more("beta", options));
        let mut count = 0;
        let losses = [
            "link del eastgate-punt0",
            "link del eastgate-punt1",
            "link del eastgate-vx0",
            "link set eastgate-punt1 down",
            "link set eastgate-punt0 mtu 1500",
            "link set eastgate-vx0 down",
        ];
        for (number, loss) in (0..).zip(losses) {
            site.alpha.ip(loss);
            wait_within(SOON, loss, || restored(&alpha, "devices") > count);
            count = restored(&alpha, "devices");
            wait_within(SOON, "nothing is missing", || {
                alpha.ask(&["status"])["restored"]["missing"].as_array().unwrap().is_empty()
            });
            // Flows that nobody has decided yet go up.
            let (from, to) = (udp(11, 8100 + number), udp(12, ALLOWED));
            datagram_arrives((&site.web1, from), (&site.web2, to));
            datagram_arrives((&site.web1, from), (&site.db1, udp(21, ALLOWED)));
        }
        site.alpha.ip("link set eastgate-punt0 down");
        site.alpha.ip("link set eastgate-punt0 name stolen0");
        wait_within(SOON, "a renamed device is made again", || {
            restored(&alpha, "devices") > count && !site.alpha.ip("link show").contains("stolen0")
        });
        datagram_arrives((&site.web2, udp(12, 8200)), (&site.db1, udp(21, ALLOWED)));
        let denied = Sink::start(&site.db1, udp(21, DENIED));
        Stream::start(&site.web1, udp(11, 8300), udp(21, DENIED)).send_more(50);
        assert_eq!(denied.count(), 0);
        assert!(alpha.stop().success());
        assert_eq!(before.changes(&Machine::of(&site.alpha)), Vec::<String>::new());
    }
}

#[test]
fn a_device_of_someone_elses_by_our_name_is_left_alone() {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let alpha = site.run_with("alpha", "ebpf");
    site.alpha.ip("link add other0 type bridge");
    // Eastgate would be quicker: it waits while that is done.
    alpha.signal(Signal::SIGSTOP);
    site.alpha.ip("link del eastgate-vx0");
    site.alpha.ip("link set other0 name eastgate-vx0");
    alpha.signal(Signal::SIGCONT);
    let missing = || alpha.ask(&["status"])["restored"]["missing"].to_string();
    wait_within(SOON, "it is said", || missing().contains("eastgate-vx0 that eastgate has not made"));
    site.alpha.ip("link set eastgate-vx0 name other0");
    wait_within(SOON, "it is made again", || missing() == "[]" && restored(&alpha, "devices") > 0);
    assert!(alpha.stop().success());
    assert!(site.alpha.ip("link show").contains("other0"));
}

#[test]
fn the_record_of_changes_is_written_again() {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let before = Machine::of(&site.alpha);
    let alpha = site.run_with("alpha", "ebpf");
    let (record, socket) = (alpha.socket().with_extension("sock.changes.json"), alpha.socket().to_owned());
    std::fs::remove_file(&record).unwrap();
    wait_within(SOON, "the record is there", || record.exists());
    assert_eq!(settle(|| restored(&alpha, "files"), |files| *files > 0), 1);
    alpha.kill();
    let mut teardown = site.alpha.command(common::EASTGATE);
    assert!(teardown.arg("teardown").arg("--socket").arg(socket).status().unwrap().success());
    assert_eq!(before.changes(&Machine::of(&site.alpha)), Vec::<String>::new());
}

#[test]
fn a_qdisc_on_a_port_sees_every_frame_to_it() {
    let sent_by = |site: &Site| -> u64 {
        let qdiscs: serde_json::Value =
            serde_json::from_str(&site.alpha.tc("-s -j qdisc show dev veth-web1")).unwrap();
        let mut qdiscs = qdiscs.as_array().unwrap().iter();
        qdiscs.find(|qdisc| qdisc["root"] == true).unwrap()["packets"].as_u64().unwrap()
    };
    for options in ways_to_attach() {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        let (alpha, _beta) = (site.run_more("alpha", &options), site.run_more("beta", &options));
        let near = Sink::start(&site.web1, udp(11, ALLOWED));
        let from_far = Stream::start(&site.db1, udp(21, 8000), udp(11, ALLOWED));
        let from_near = Stream::start(&site.web2, udp(12, 8000), udp(11, ALLOWED));
        from_far.arrives("before there is a qdisc", &near);
        from_near.arrives("before there is a qdisc", &near);
        // As libvirt sets up what a machine receives, and as the CNI plugin does.
        for qdisc in ["root tbf rate 1gbit burst 1mb latency 10ms", "root handle 1: htb default 1"] {
            site.alpha.tc(&format!("qdisc add dev veth-web1 {qdisc}"));
            wait_within(SOON, "frames pass by the qdisc", || {
                let (seen, arrived) = (sent_by(&site), near.count());
                wait_within(SOON, "datagrams arrive", || near.count() >= arrived + 100);
                sent_by(&site) >= seen + 100
            });
            assert_eq!(note(&alpha, "veth-web1"), None);
            site.alpha.tc("qdisc del dev veth-web1 root");
        }
        from_near.arrives("once it is gone", &near);
        from_far.arrives("once it is gone", &near);
    }
}

#[test]
fn what_does_not_hold_is_said_in_status_and_plan() {
    for options in ways_to_attach().iter().filter(|options| options[3] == "tcx") {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        let alpha = site.run_more("alpha", options);
        assert_eq!(note(&alpha, "veth-web1"), None);
        let plan = || {
            let mut plan = site.alpha.command(common::EASTGATE);
            plan.arg("plan").arg("--config").arg(&site.config).args(["--host", "alpha"]);
            let output = plan.arg("--socket").arg(alpha.socket()).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let said = "the host's ingress filters and policers do not see what this machine sends";
        assert!(!plan().contains(said), "eastgate's own programs are none of the host's: {}", plan());
        limit_like_libvirt(&site, "veth-web1");
        wait_within(SOON, "it is said", || note(&alpha, "veth-web1").is_some_and(|note| note.contains(said)));
        assert!(plan().contains(said), "{}", plan());
        assert!(String::from_utf8(alpha.run(&["status"]).stdout).unwrap().contains(said));
        site.alpha.tc("qdisc del dev veth-web1 ingress");
        wait_within(SOON, "it is no longer said", || note(&alpha, "veth-web1").is_none());
    }
}

#[test]
fn a_device_that_cannot_be_a_port_is_refused_and_left_alone() {
    let refusals = [
        ("lo", "does not carry Ethernet frames"),
        ("underlay0", "it is the underlay device"),
        ("tun0", "does not carry Ethernet frames"),
        ("br0", "it is a bridge"),
        ("veth-slave", "it belongs to br0: take it out (ip link set veth-slave nomaster)"),
        ("below0", "the underlay device underlay0 stands on it"),
    ];
    for dataplane in DATAPLANES {
        for (port, said) in refusals {
            let Some(site) = Site::new(HOSTS_V4) else { return };
            site.alpha.ip("tuntap add tun0 mode tun");
            site.alpha.ip("link add br0 type bridge");
            site.alpha.ip("link add veth-slave master br0 type veth peer name veth-other");
            if port == "below0" {
                site.alpha.ip("link del underlay0");
                site.world.cable((&site.alpha, "below0"), (&site.beta, "underlay0"), 1700);
                site.alpha.ip("link add link below0 name underlay0 type macvlan mode bridge");
                site.alpha.ip("link set underlay0 up");
            }
            site.rewrite(|text| text.replace("\"veth-web2\"", &format!("\"{port}\"")));
            let before = Machine::of(&site.alpha);
            let alpha = site.run_with("alpha", dataplane);
            let state = alpha.port_state(port);
            assert!(state.starts_with("failed: ") && state.contains(said), "{port}: {state}");
            assert_eq!(alpha.port_state("veth-web1"), "forwarding");
            let plan = {
                let mut plan = site.alpha.command(common::EASTGATE);
                plan.arg("plan").arg("--config").arg(&site.config).args(["--host", "alpha"]);
                String::from_utf8(plan.output().unwrap().stdout).unwrap()
            };
            assert!(plan.contains("refuse port") && plan.contains(said), "{plan}");
            let uptime = || alpha.ask(&["status"])["uptime_s"].as_u64().unwrap();
            let begun = uptime();
            wait_within(2 * SOON, "some seconds go by", || uptime() >= begun + 3);
            let status = alpha.ask(&["status"]);
            assert_eq!(
                (&status["settings_restored"], &status["restored"]["programs"]),
                (&0.into(), &0.into())
            );
            assert!(alpha.stop().success());
            assert_eq!(before.changes(&Machine::of(&site.alpha)), Vec::<String>::new());
        }
    }
}

#[test]
fn a_port_that_becomes_one_of_a_bridge_is_closed_until_it_is_taken_out() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        let (alpha, _beta) = (site.run_with("alpha", dataplane), site.run_with("beta", dataplane));
        let flows = Flows::start(&site);
        flows.allowed_arrive("at first");
        site.alpha.ip("link add br0 type bridge");
        site.alpha.ip("link set br0 up");
        site.alpha.ip("link set veth-web1 master br0");
        wait_within(SOON, "it is said", || {
            alpha.port_state("veth-web1").starts_with("failed: it belongs to br0")
        });
        assert!(flows.allowed[0].0.is_cut(&flows.allowed[0].1, 50));
        let heard = Capture::start(&site.alpha, "br0");
        flows.denied_never_arrived();
        assert!(heard.matching(|frame| frame[6..12] == WEB1.0).is_empty(), "the bridge hears the machine");
        site.alpha.ip("link set veth-web1 nomaster");
        wait_within(SOON, "it is served again", || alpha.port_state("veth-web1") == "forwarding");
        flows.allowed_arrive("once it was taken out");
        assert!(alpha.stop().success());
    }
}
