//! Two hosts on one cable with three machines, and flows between them that are allowed or not.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use eastgate_fastpath::tcx::{self, Way};
use eastgate_wire::{Family, MacAddr};

use super::{
    BOUND, Daemon, Sink, Space, Stream, World,
    config::{Endpoint, Host, Tenant, configuration},
    hooks,
};

/// What a daemon must have put right or found out by then: within a second or two where the machine has nothing else to do,
/// which it may have.
pub const SOON: Duration = BOUND;

pub const ALLOWED: u16 = 7000;
pub const DENIED: u16 = 7001;

pub const HOSTS_V4: &[Host<'_>] = &[Host::new("alpha", "192.0.2.1"), Host::new("beta", "192.0.2.2")];
pub const HOSTS_V6: &[Host<'_>] = &[Host::new("alpha", "2001:db8::1"), Host::new("beta", "2001:db8::2")];

const ACME: Tenant<'_> = Tenant {
    name: "acme",
    vni: 5001,
    families: &[Family::V4, Family::V6],
    network: "",
    ingress: &[
        r#"{ proto = "udp", ports = [7000], from = "any" }"#,
        r#"{ proto = "tcp", ports = ["5432-5433"], from = "any" }"#,
        r#"{ proto = "sctp", ports = 3868, from = "any" }"#,
        r#"{ proto = "icmp", from = "any" }"#,
    ],
    endpoints: &[
        Endpoint { name: "web1", host: "alpha", port: Some("veth-web1"), number: 0x11 },
        Endpoint { name: "web2", host: "alpha", port: Some("veth-web2"), number: 0x12 },
        Endpoint { name: "db1", host: "beta", port: Some("veth-db1"), number: 0x21 },
    ],
};

/// The configuration of two such hosts.
pub fn acme_on(hosts: &[Host<'_>]) -> String {
    configuration(hosts, &[ACME])
}

/// Two hosts with one network of acme's, which has these keys besides, and a group for everyone in it: endpoints are to be added.
pub fn lan(network: &str) -> String {
    let host = |name: &str, number: u8| {
        format!("[host.{name}]\nvtep = \"192.0.2.{number}\"\ndevice = \"underlay0\"\n\n")
    };
    let rest = format!(
        "[tenant.acme.network.lan]\nvni = 5001\nsubnets = [\"10.1.0.0/24\", \"fd00:1::/64\"]\n{network}\n\n\
         [tenant.acme.group.all]\negress = [{{ to = \"any\" }}]\ningress = [\n\
         \x20 {{ proto = \"udp\", ports = [{ALLOWED}], from = \"any\" }},\n\
         \x20 {{ proto = \"tcp\", ports = [\"5432-5433\"], from = \"any\" }},\n  {{ proto = \"icmp\", from = \"any\" }},\n]\n\n"
    );
    [host("alpha", 1), host("beta", 2), rest].concat()
}

pub const WEB1: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x11]);
pub const WEB2_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x12]);
pub const DB1_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x21]);

/// The receivers of what web1 sends, by the ends of their addresses: on its own host, and on the other one.
pub const RECEIVERS: [(u8, MacAddr); 2] = [(12, WEB2_MAC), (21, DB1_MAC)];

/// Two hosts on one cable; web1 and web2 at alpha, db1 at beta.
pub struct Site {
    pub world: World,
    pub alpha: Space,
    pub beta: Space,
    pub web1: Space,
    pub web2: Space,
    pub db1: Space,
    pub config: PathBuf,
}

impl Site {
    pub fn new(hosts: &[Host<'_>]) -> Option<Self> {
        World::new().map(|world| Self::in_world(world, hosts))
    }

    /// The same for a test that measures: see [`World::alone`].
    pub fn alone(hosts: &[Host<'_>]) -> Option<Self> {
        World::alone().map(|world| Self::in_world(world, hosts))
    }

    fn in_world(mut world: World, hosts: &[Host<'_>]) -> Self {
        let (alpha, beta) = (world.space("alpha"), world.space("beta"));
        let (web1, web2, db1) = (world.space("web1"), world.space("web2"), world.space("db1"));
        let config = world.write("eastgate.toml", &acme_on(hosts));
        let site = Self { world, alpha, beta, web1, web2, db1, config };
        site.lay_underlay();
        site.plug(&site.alpha, "veth-web1", &site.web1, 0x11);
        site.plug(&site.alpha, "veth-web2", &site.web2, 0x12);
        site.plug(&site.beta, "veth-db1", &site.db1, 0x21);
        site
    }

    /// The same hosts with a router between them, which is given.
    pub fn routed() -> Option<(Self, Space)> {
        let mut site = Self::new(HOSTS_V4)?;
        let router = site.world.space("router");
        site.alpha.ip("link del underlay0");
        router.set("net/ipv4/ip_forward", "1");
        for (host, port, number) in [(&site.alpha, "near", 1), (&site.beta, "far", 2)] {
            site.world.cable((host, "underlay0"), (&router, port), 1700);
            host.ip(&format!("addr add 192.0.2.{number}/32 dev underlay0"));
            host.ip("addr add 198.51.100.1/24 dev underlay0");
            host.ip(&format!("route add 192.0.2.0/24 via 198.51.100.2 src 192.0.2.{number}"));
            router.ip(&format!("addr add 198.51.100.2/24 dev {port}"));
            router.ip(&format!("route add 192.0.2.{number}/32 dev {port}"));
        }
        Some((site, router))
    }

    pub fn lay_underlay(&self) {
        self.world.cable((&self.alpha, "underlay0"), (&self.beta, "underlay0"), 1700);
        self.address_underlay(&self.alpha, 1);
        self.address_underlay(&self.beta, 2);
    }

    pub fn address_underlay(&self, host: &Space, number: u8) {
        host.ip(&format!("addr add 192.0.2.{number}/24 dev underlay0"));
        host.ip(&format!("addr add 2001:db8::{number}/64 dev underlay0 nodad"));
    }

    /// Plugs machine number `number` into device `port` of `host`.
    pub fn plug(&self, host: &Space, port: &str, machine: &Space, number: u8) {
        self.world.cable((host, port), (machine, "eth0"), 1500);
        machine.ip(&format!("link set eth0 address 02:00:00:00:00:{number:02x}"));
        machine.ip(&format!("addr add 10.1.0.{number:x}/24 dev eth0"));
        machine.ip(&format!("addr add fd00:1::{number:x}/64 dev eth0 nodad"));
    }

    /// The kernel of alpha hears nothing from this port, and of its own says nothing there.
    pub fn assert_guarded(&self, port: &str) {
        if !tcx::is_available() {
            return self.assert_guarded_by_clsact(port);
        }
        for (way, program) in [(Way::Ingress, "refuse_all"), (Way::Egress, "only_marked")] {
            let names = hooks::names(&self.alpha, port, way);
            assert!(
                names.len() >= 2 && [names.first(), names.last()] == [Some(&program.to_owned()); 2],
                "{port} is open: {names:?}"
            );
        }
    }

    /// The filters that see to it are classic BPF, of which the kernel shows no name but the code.
    pub fn assert_guarded_by_clsact(&self, port: &str) {
        let refuse_all = "bytecode '1,6 0 0 2'";
        for (way, code) in
            [("ingress", refuse_all), ("egress", "bytecode '4,32 0 0 4294963220,21 0 1 1700885364,")]
        {
            let guard = self.alpha.tc(&format!("filter show dev {port} {way}"));
            assert!(
                guard.contains("handle 0xea57 direct-action") && guard.contains(code),
                "{port} is open: {guard}"
            );
        }
    }

    /// Without eBPF: what is said of the daemon's life here holds for each packet. What the fast path does when the
    /// daemon comes and goes has tests of its own.
    pub fn run(&self, host: &str) -> Daemon {
        self.run_with(host, "userspace")
    }

    pub fn run_with(&self, host: &str, dataplane: &str) -> Daemon {
        self.run_more(host, &["--dataplane", dataplane])
    }

    pub fn run_more(&self, host: &str, options: &[&str]) -> Daemon {
        let space = if host == "alpha" { &self.alpha } else { &self.beta };
        Daemon::start(&self.world, space, &self.config, host, options)
    }

    /// Nothing but the programs hears this port.
    pub fn assert_programmed(&self, port: &str) {
        if tcx::is_available() {
            let names = hooks::names(&self.alpha, port, Way::Ingress);
            assert_eq!(names, ["tenant", "refuse_all"], "{port} is open");
            return;
        }
        let filter = self.alpha.tc(&format!("filter show dev {port} ingress"));
        assert!(
            filter.contains("handle 0xea57 eastgate-ingress direct-action") && filter.contains("name tenant"),
            "{port} is open: {filter}"
        );
    }

    /// The configuration with its text changed.
    pub fn rewrite(&self, change: impl FnOnce(String) -> String) {
        std::fs::write(&self.config, change(std::fs::read_to_string(&self.config).unwrap())).unwrap();
    }

    pub fn allow_denied(&self) {
        self.rewrite(|text| text.replace("[7000]", "[7000, 7001]"));
    }
}

pub fn udp(number: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([10, 1, 0, number], port))
}

pub fn tcp(number: u8, port: u16) -> SocketAddr {
    udp(number, port)
}

/// Both kinds of flow from web1, to db1 on the other host and to web2 on the same one.
pub struct Flows {
    pub allowed: [(Stream, Sink); 2],
    pub denied: [(Stream, Sink); 2],
}

impl Flows {
    pub fn start(site: &Site) -> Self {
        let flow = |port: u16, to: &Space, number: u8| {
            let sink = Sink::start(to, udp(number, port));
            (Stream::start(&site.web1, udp(11, 1000 + port + u16::from(number)), udp(number, port)), sink)
        };
        Self {
            allowed: [flow(ALLOWED, &site.db1, 21), flow(ALLOWED, &site.web2, 12)],
            denied: [flow(DENIED, &site.db1, 21), flow(DENIED, &site.web2, 12)],
        }
    }

    pub fn allowed_arrive(&self, when: &str) {
        for (stream, sink) in &self.allowed {
            stream.arrives(&format!("allowed datagrams arrive {when}"), sink);
        }
    }

    /// Some were sent, and none has ever arrived.
    pub fn denied_never_arrived(&self) {
        for (stream, sink) in &self.denied {
            stream.send_more(20);
            assert_eq!(sink.count(), 0, "of {} denied datagrams", stream.sent());
        }
    }
}
