//! A hub that runs eastgate, and spokes that do not: the kernel's vxlan devices, which know nobody but the hub.

use std::path::PathBuf;

use eastgate_wire::Family;

use super::{
    Daemon, Space, World,
    config::{Endpoint, Host, Tenant, configuration},
};

const ACME: Tenant<'_> = Tenant {
    name: "acme",
    vni: 5001,
    families: &[Family::V4],
    network: "topology = \"hub\"\nhub = \"hub\"\nneighbors = \"proxy\"",
    ingress: &[
        r#"{ proto = "udp", ports = [7000], from = "any" }"#,
        r#"{ proto = "tcp", ports = ["5432-5439"], from = "any" }"#,
        r#"{ proto = "icmp", from = "any" }"#,
    ],
    endpoints: &[
        Endpoint { name: "m2", host: "spoke2", port: None, number: 2 },
        Endpoint { name: "m3", host: "spoke3", port: None, number: 3 },
    ],
};

/// The hub, and machines 2 and 3, each on the vxlan device of its spoke itself, so that the device gets GSO packets.
pub struct Hub {
    pub world: World,
    pub hub: Space,
    pub spokes: [Space; 2],
    fabric: Space,
    config: PathBuf,
}

impl Hub {
    /// Over IPv4, with spokes that write no UDP checksums.
    pub fn new() -> Option<Self> {
        Self::over(Family::V4, "noudpcsum")
    }

    /// `vxlan`: how the spokes' devices are made.
    pub fn over(underlay: Family, vxlan: &str) -> Option<Self> {
        let vtep = |number: u8| match underlay {
            Family::V4 => format!("192.0.2.{number}"),
            Family::V6 => format!("2001:db8::{number}"),
        };
        let mut world = World::new()?;
        let fabric = world.space("fabric");
        fabric.ip("link add fabric type bridge mcast_snooping 0");
        fabric.ip("link set fabric up");
        let hub = world.space("hub");
        let spokes = [2, 3].map(|number| world.space(&format!("spoke{number}")));
        let vteps = [1, 2, 3].map(vtep);
        let hosts =
            [Host::new("hub", &vteps[0]), Host::plain("spoke2", &vteps[1]), Host::plain("spoke3", &vteps[2])];
        let config = world.write("eastgate.toml", &configuration(&hosts, &[ACME]));
        let this = Self { world, hub, spokes, fabric, config };
        this.plug(&this.hub, 1, &vteps[0]);
        for ((spoke, number), own) in this.spokes.iter().zip([2, 3]).zip(&vteps[1..]) {
            this.plug(spoke, number, own);
            spoke.ip(&format!(
                "link add vx0 address 02:00:00:00:00:0{number} mtu 1500 type vxlan id 5001 dstport 4789 \
                 local {own} remote {} dev underlay0 nolearning {vxlan}",
                vteps[0]
            ));
            spoke.ip("link set vx0 up");
            spoke.ip(&format!("addr add 10.1.0.{number}/24 dev vx0"));
        }
        Some(this)
    }

    fn plug(&self, host: &Space, number: u8, vtep: &str) {
        let port = format!("port{number}");
        self.world.cable((host, "underlay0"), (&self.fabric, &port), 1700);
        self.fabric.ip(&format!("link set {port} master fabric"));
        let (prefix, nodad) = if vtep.contains(':') { (64, " nodad") } else { (24, "") };
        host.ip(&format!("addr add {vtep}/{prefix} dev underlay0{nodad}"));
    }

    pub fn run(&self, dataplane: &str) -> Daemon {
        Daemon::start(&self.world, &self.hub, &self.config, "hub", &["--dataplane", dataplane])
    }

    /// Frames and bytes that the hub's underlay device has sent.
    pub fn sent(&self) -> (u64, u64) {
        let shown = self.hub.ip("-s -j link show dev underlay0");
        let links: serde_json::Value = serde_json::from_str(&shown).unwrap();
        let sent = &links[0]["stats64"]["tx"];
        (sent["packets"].as_u64().unwrap(), sent["bytes"].as_u64().unwrap())
    }
}
