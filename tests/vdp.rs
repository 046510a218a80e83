//! Debian's `lldpad` as the station (IEEE 802.1Qbg): it says which machine has which profile, and a machine of which nothing is said, or nothing any
//! more, neither sends nor receives. Its machines are macvlan devices in VEPA mode.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{
    fmt::Write as _,
    net::IpAddr,
    path::PathBuf,
    process::{Child, Stdio},
};

use common::{
    Daemon, Machine, Sink, Space, Stream, World, datagram_arrives,
    running::carried_in_the_kernel,
    send_frame,
    site::{ALLOWED, DENIED, SOON, lan, udp},
    wait_for, wait_within,
};
use eastgate_testkit::{
    lldpad::{self, Vsi},
    packet,
};
use eastgate_wire::MacAddr;

const DATAPLANES: [&str; 2] = ["userspace", "ebpf"];

/// From which lldpad's LLDP and ECP come
const STATION: &str = "02:00:00:00:0a:01";
/// The machine of which the frames are in a VLAN
const BY_VLAN: u8 = 13;

const PROFILE: &str = "[tenant.acme.profile.web]\nnetwork = \"lan\"\nvsi_manager = \"mgr\"\nvsi_type = 5\ngroups = [\"all\"]\n\n";

fn stations(list: &str) -> String {
    format!("[host.alpha.vdp.seg0]\nstations = {list}\nkeep_alive = 1\n\n")
}

fn configuration() -> String {
    let network = "neighbors = \"proxy\"\nlearn = \"any\"\nhosts = [\"alpha\"]";
    [lan(network), stations(&format!("[\"{STATION}\"]")), PROFILE.into()].concat()
}

fn mac(number: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, number])
}

/// A hypervisor behind alpha's seg0, with two machines.
struct Site {
    world: World,
    alpha: Space,
    hypervisor: Space,
    machines: [Space; 2],
    config: PathBuf,
}

impl Site {
    fn new() -> Option<Self> {
        let mut world = World::new()?;
        let [alpha, beta, hypervisor] = ["alpha", "beta", "hypervisor"].map(|name| world.space(name));
        world.cable((&alpha, "underlay0"), (&beta, "underlay0"), 1700);
        alpha.ip("addr add 192.0.2.1/24 dev underlay0");
        world.cable((&alpha, "seg0"), (&hypervisor, "uplink"), 1500);
        hypervisor.ip(&format!("link set uplink address {STATION}"));
        let machines = [11, 12].map(|number| {
            let machine = world.space(&format!("vm{number}"));
            let inside = machine.name();
            hypervisor.ip(&format!("link add link uplink name eth0 netns {inside} type macvlan mode vepa"));
            machine.ip(&format!("link set eth0 address {} up", mac(number)));
            machine.ip(&format!("addr add 10.1.0.{number}/24 dev eth0"));
            machine
        });
        let config = world.write("eastgate.toml", &configuration());
        Some(Self { world, alpha, hypervisor, machines, config })
    }

    fn run(&self, dataplane: &str) -> Daemon {
        Daemon::start(&self.world, &self.alpha, &self.config, "alpha", &["--dataplane", dataplane])
    }

    fn reload(&self, daemon: &Daemon, text: &str) {
        std::fs::write(&self.config, text).unwrap();
        let output = daemon.run(&["reload"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Frames of 11 to 12, and whether they arrive.
    fn stream(&self, port: u16) -> (Stream, Sink) {
        let [from, to] = &self.machines;
        let sink = Sink::start(to, udp(12, port));
        (Stream::start(from, udp(11, 1000 + port), udp(12, port)), sink)
    }

    fn speak(&self) {
        let [one, other] = &self.machines;
        // Their addresses are learned from what they say.
        wait_for("machines hear each other", || one.ping("10.1.0.12") && other.ping("10.1.0.11"));
        datagram_arrives((one, udp(11, 4000)), (other, udp(12, ALLOWED)));
    }
}

/// lldpad on a hypervisor.
struct Lldpad<'s> {
    space: &'s Space,
    process: Child,
}

impl<'s> Lldpad<'s> {
    fn start(space: &'s Space) -> Self {
        let mut command = lldpad::command(space.netns(), "uplink");
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { space, process }
    }

    /// What the bridge answers to a request; nothing while the station does not speak VDP yet.
    fn ask(&self, mode: &str, number: u8, kind: u32) -> Option<String> {
        let vlan = if number == BY_VLAN { 100 } else { 0 };
        let vsi = Vsi { manager: "mgr".into(), kind, version: 4, vlan, mac: mac(number) };
        lldpad::ask(self.space.netns(), "uplink", mode, &vsi)
    }

    fn associate(&self, number: u8) {
        wait_within(SOON, "the association is taken", || {
            self.ask("assoc", number, 5).is_some_and(|text| text.contains("mode = assoc"))
        });
    }

    /// What the station takes for associated.
    fn has(&self) -> String {
        lldpad::associated(self.space.netns(), "uplink")
    }

    /// It says nothing more.
    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Lldpad<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The machines that are associated and in force.
fn machines(daemon: &Daemon) -> Vec<String> {
    let shown = daemon.ask(&["show", "vdp"]);
    let rows = shown["machines"].as_array().unwrap();
    let in_force = rows.iter().filter(|row| row["in_force"] == true);
    in_force.map(|row| row["endpoint"].as_str().unwrap().to_owned()).collect()
}

fn status(daemon: &Daemon) -> serde_json::Value {
    daemon.ask(&["status"])["stations"][0].clone()
}

const BOTH: [&str; 2] = ["acme/web.02000000000b", "acme/web.02000000000c"];

#[test]
fn a_machine_is_served_for_as_long_as_it_is_associated() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new() else { return };
        let before = Machine::of(&site.alpha);
        let daemon = site.run(dataplane);
        let station = Lldpad::start(&site.hypervisor);
        let (stream, sink) = site.stream(ALLOWED);
        stream.send_more(30);
        assert!(!site.machines[0].ping("10.1.0.12"), "{dataplane}: nobody has said anything of it");
        assert_eq!((sink.count(), machines(&daemon)), (0, vec![]), "{dataplane}");
        drop((stream, sink));

        [11, 12].iter().for_each(|number| station.associate(*number));
        wait_for("both are in force", || machines(&daemon) == BOTH);
        site.speak();
        let (denied, never) = site.stream(DENIED);
        denied.send_more(30);
        assert_eq!(never.count(), 0, "{dataplane}: no rule of the profile's group allows it");
        let drops = daemon.ask(&["show", "drops"]);
        let rows = drops["drops"].as_array().unwrap();
        let port = format!("seg0/{}", mac(11));
        assert!(rows.iter().any(|row| row["reason"] == "ingress-denied" && row["from"] == port), "{drops:#}");
        // What the station and the appliance tell each other is nobody's who would have to be looked for.
        let of_station =
            |row: &&serde_json::Value| row["last"].as_str().is_some_and(|last| last.contains(STATION));
        let told: Vec<_> = daemon.ask(&["show", "drops", "--all"])["drops"].as_array().unwrap().clone();
        let told: Vec<_> = told.iter().filter(of_station).map(|row| row["reason"].clone()).collect();
        assert_eq!(told, ["link-protocol"], "{dataplane}: {drops:#}");
        assert_eq!(carried_in_the_kernel(&daemon), dataplane == "ebpf");
        drop((denied, never));

        // What is de-associated is over at once, and a keep-alive changes nothing for the other.
        let (stream, sink) = site.stream(ALLOWED);
        stream.arrives("what is allowed", &sink);
        assert!(station.ask("deassoc", 12, 5).unwrap().contains("mode = deassoc"));
        wait_for("the other one is left", || machines(&daemon) == BOTH[..1]);
        wait_for("its flows end", || stream.is_cut(&sink, 30));
        let flows = daemon.ask(&["show", "flows"]);
        assert_eq!(flows["total"], 0, "{dataplane}: {flows:#}");
        drop((stream, sink));

        station.associate(12);
        wait_for("both are in force", || machines(&daemon) == BOTH);
        site.speak();
        // Nobody says any more that they are there.
        station.kill();
        wait_within(SOON, "both time out", || machines(&daemon).is_empty());
        assert!(!site.machines[0].ping("10.1.0.12"), "{dataplane}: nobody keeps it alive");
        assert!(daemon.stop().success());
        assert_eq!(before.changes(&Machine::of(&site.alpha)), Vec::<String>::new());
    }
}

#[test]
fn what_may_not_be_is_refused_and_ended() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new() else { return };
        let daemon = site.run(dataplane);
        let station = Lldpad::start(&site.hypervisor);
        station.associate(11);
        let refused = |number, kind, line: &str, why: &str| {
            let answer = station.ask("assoc", number, kind).unwrap();
            assert!(answer.contains("mode = deassoc") && answer.contains(line), "{dataplane}: {answer}");
            let status = status(&daemon);
            assert!(status["last_refusal"].as_str().unwrap().contains(why), "{status:#}");
        };
        refused(12, 6, "Other Failures", "no profile is type 6 of manager mgr in version 4");

        // An endpoint of the files has the MAC: who has it by association loses it, and nobody gets it.
        let mut text = configuration();
        writeln!(
            text,
            "[tenant.acme.endpoint.db]\nnetwork = \"lan\"\nhost = \"alpha\"\nport = \"own0\"\nmac = \"{}\"\n\
             addresses = [\"10.1.0.99\"]\ngroups = [\"all\"]\n",
            mac(11)
        )
        .unwrap();
        wait_for("it is in force", || machines(&daemon) == BOTH[..1]);
        site.reload(&daemon, &text);
        wait_for("the station knows", || machines(&daemon).is_empty() && station.has().is_empty());
        refused(11, 5, "Invalid VID, GroupID or MAC", "is endpoint db's in network lan of profile acme/web");

        site.reload(&daemon, &configuration());
        station.associate(11);
        wait_for("it is in force", || machines(&daemon) == BOTH[..1]);
        site.reload(&daemon, &configuration().replace(PROFILE, ""));
        assert_eq!(machines(&daemon), Vec::<String>::new(), "{dataplane}: there is no such profile");
        wait_for("the station knows", || station.has().is_empty());

        // A bad file changes nothing.
        site.reload(&daemon, &configuration());
        station.associate(11);
        wait_for("it is in force", || machines(&daemon) == BOTH[..1]);
        std::fs::write(&site.config, configuration().replace("vsi_type = 5", "vsi_type = -5")).unwrap();
        assert!(!daemon.run(&["reload"]).status.success());
        assert_eq!(machines(&daemon), BOTH[..1]);

        // Another station is none.
        let other = configuration().replace(&stations(&format!("[\"{STATION}\"]")), &stations("[]"));
        site.reload(&daemon, &other);
        wait_for("it is over", || machines(&daemon).is_empty() && station.has().is_empty());
        let heard = status(&daemon)["not_heard"].as_u64();
        assert!(!station.ask("assoc", 11, 5).is_some_and(|text| text.contains("mode = assoc")));
        assert!(status(&daemon)["not_heard"].as_u64() > heard, "{:#}", status(&daemon));
        assert!(machines(&daemon).is_empty() && daemon.stop().success());
    }
}

/// The keep-alives of a station bring what it has to a daemon that has just been started. None of them is due while nobody is there: lldpad gives
/// up what is not acknowledged within 0.7 s.
#[test]
fn a_daemon_that_comes_back_has_what_is_kept_alive() {
    for dataplane in DATAPLANES {
        let Some(site) = Site::new() else { return };
        std::fs::write(&site.config, configuration().replace("keep_alive = 1\n", "")).unwrap();
        let daemon = site.run(dataplane);
        let station = Lldpad::start(&site.hypervisor);
        [11, 12].iter().for_each(|number| station.associate(*number));
        wait_for("both are in force", || machines(&daemon) == BOTH);
        daemon.kill();
        let daemon = site.run(dataplane);
        wait_within(SOON, "both are in force again", || machines(&daemon) == BOTH);
        site.speak();
        // A device that comes anew is closed until somebody is behind it again.
        site.alpha.ip("link set seg0 down");
        wait_for("all is over", || machines(&daemon).is_empty());
        site.alpha.ip("link set seg0 up");
        wait_within(SOON, "it is kept alive", || machines(&daemon) == BOTH);
        site.speak();
        assert!(daemon.stop().success());
    }
}

/// A machine that is associated by another hypervisor is at that one's device from then on; the first is told that it is over. What the VLAN of an
/// association is, the tags of the machine's frames are.
#[test]
fn whoever_associates_a_machine_last_has_it() {
    for dataplane in DATAPLANES {
        let Some(mut site) = Site::new() else { return };
        let second = site.world.space("second");
        site.world.cable((&site.alpha, "seg1"), (&second, "uplink"), 1500);
        second.ip("link set uplink address 02:00:00:00:0a:02");
        let moved = site.world.space("moved");
        let inside = moved.name();
        second.ip(&format!("link add link uplink name eth0 netns {inside} type macvlan mode vepa"));
        moved.ip(&format!("link set eth0 address {} up", mac(11)));
        moved.ip("addr add 10.1.0.11/24 dev eth0");
        let any = stations("\"any\"").replace("seg0", "seg1");
        std::fs::write(&site.config, configuration() + &any).unwrap();
        let daemon = site.run(dataplane);
        let [here, there] = [&site.hypervisor, &second].map(Lldpad::start);
        [11, 12].iter().for_each(|number| here.associate(*number));
        wait_for("both are in force", || machines(&daemon) == BOTH);
        site.speak();

        there.associate(11);
        there.associate(BY_VLAN);
        let ports = || {
            let shown = daemon.ask(&["show", "endpoints"]);
            let rows = shown["endpoints"].as_array().unwrap();
            rows.iter().map(|row| row["port"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let wanted =
            [format!("seg1/{}", mac(11)), format!("seg0/{}", mac(12)), format!("seg1.100/{}", mac(13))];
        wait_within(SOON, "each is where it was associated last", || ports() == wanted);
        wait_for("whoever had it knows", || here.has().matches("uuid").count() == 1);
        assert!(!site.machines[0].ping("10.1.0.12"), "{dataplane}: its first place is nobody's");
        wait_for("it is heard where it is", || moved.ping("10.1.0.12"));
        datagram_arrives((&site.machines[1], udp(12, 4000)), (&moved, udp(11, ALLOWED)));

        // The third has its frames in its VLAN, and nowhere else.
        let v4 = |number: u8| IpAddr::from([10, 1, 0, number]);
        let packet = packet::udp((v4(BY_VLAN), 4000), (v4(12), ALLOWED), b"in VLAN!").unwrap();
        let appliance = eastgate_steering::proxy_mac(5001.try_into().unwrap());
        let frame = packet::ip_frame(appliance, mac(BY_VLAN), &packet);
        let in_vlan = [&frame[..12], &[0x81, 0, 0, 100], &frame[12..]].concat();
        let strays = || daemon.drops().get("unknown-station").copied().unwrap_or_default();
        let before = strays();
        send_frame(&second, "uplink", &frame);
        wait_for("it is a stray without its tag", || strays() > before);
        let sink = Sink::start(&site.machines[1], udp(12, ALLOWED));
        wait_for("its address is learned, and its frames pass", || {
            send_frame(&second, "uplink", &in_vlan);
            sink.count() > 0
        });
        assert!(daemon.stop().success());
    }
}
