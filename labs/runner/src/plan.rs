//! The commands that build a lab, as data: what `-v` prints is what is run.
//!
//! Devices are created where they belong, straight inside the namespaces; the namespace the lab is started from
//! never sees one.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use eastgate_wire::Vni;

use super::{
    model::{Host, Machine, Model},
    overlay::{Runs, Vlan},
    topology::VtepSpec,
};

/// The device of every machine.
pub(super) const MACHINE_DEVICE: &str = "eth0";

/// The device of a switch of machines that has their VLANs.
pub(super) const UPLINK: &str = "uplink";

/// The bridge of a switch whose ports reach its uplink alone.
const SEGMENT: &str = "switch";

/// Namespaces and what is done in each, in order.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) steps: Vec<Action>,
}

/// One thing that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// `ip netns add NAME`
    Namespace(String),
    /// A kernel setting inside a namespace
    Sysctl {
        /// Where
        namespace: String,
        /// Its name, with slashes
        key: String,
        /// The wanted value
        value: String,
    },
    /// `ip -n NAMESPACE COMMAND`
    Ip(String, String),
    /// `bridge -n NAMESPACE COMMAND`
    Bridge(String, String),
    /// The devices of a namespace become a switch: ports, each in a VLAN or in none, and [`UPLINK`] with all of them
    VlanSwitch(String, Vec<(String, Option<u16>)>),
}

/// The namespace of a node.
pub(super) fn namespace(id: &str, node: &str) -> String {
    format!("eg-{id}-{}", node.replace('/', "."))
}

impl Plan {
    /// Everything that `model` needs, under the names of lab `id`.
    pub(super) fn new(model: &Model, id: &str) -> Self {
        let mut plan = Self::default();
        for node in model.nodes() {
            plan.namespace(&namespace(id, node));
        }
        for (name, switch) in &model.topology.switch {
            plan.switch(&namespace(id, name), switch.mtu, switch.snooping);
        }
        for (name, host) in &model.hosts {
            let mtu = model.topology.switch.get(&host.switch).map_or(1500, |switch| switch.mtu);
            plan.cable(&namespace(id, &host.switch), name, &namespace(id, name), &host.device, mtu);
            plan.address(&namespace(id, name), &host.device, &host.address.to_string());
        }
        for (index, link) in model.topology.link.iter().enumerate() {
            let mtu = model.topology.switch.get(&link.switch).map_or(1500, |switch| switch.mtu);
            let node = namespace(id, &link.node);
            plan.cable(&namespace(id, &link.switch), &format!("link{index}"), &node, &link.device, mtu);
            for address in &link.addresses {
                plan.address(&node, &link.device, &address.to_string());
            }
        }
        for (name, host) in &model.hosts {
            if host.runs == Runs::Vxlan {
                plan.vtep(model, id, name, host);
            }
        }
        for (name, trunk) in &model.trunks {
            let (switch, host, mtu) = (namespace(id, name), namespace(id, &trunk.host), trunk.mtu);
            let device = &trunk.device;
            plan.ip(
                &switch,
                &format!("link add {UPLINK} mtu {mtu} type veth peer name {device} mtu {mtu} netns {host}"),
            );
            plan.ip(&switch, &format!("link set {UPLINK} addrgenmode none up"));
            plan.ip(&host, &format!("link set {device} up"));
            if trunk.isolates {
                plan.segments(&switch, mtu, &model.vlans_of(name));
            }
        }
        for (name, hypervisor) in &model.topology.hypervisor {
            let (inside, host) = (namespace(id, name), namespace(id, &hypervisor.on));
            let on_it = model.machines.values().filter(|machine| machine.hypervisor.as_ref() == Some(name));
            let mtu = on_it.map(|machine| machine.mtu).max().unwrap_or(1500);
            let (device, mac) = (&hypervisor.port, hypervisor.mac);
            plan.ip(
                &inside,
                &format!(
                    "link add {UPLINK} address {mac} mtu {mtu} type veth peer name {device} mtu {mtu} netns {host}"
                ),
            );
            plan.ip(&inside, &format!("link set {UPLINK} addrgenmode none up"));
            plan.ip(&host, &format!("link set {device} up"));
        }
        for (name, machine) in &model.machines {
            plan.machine(id, name, machine);
            if model.hosts.get(&machine.on).is_some_and(|host| host.runs == Runs::Vxlan) {
                let isolated = model.topology.vtep.get(&machine.on).is_some_and(|spec| spec.isolated);
                plan.bridge_port(&namespace(id, &machine.on), machine, isolated);
            }
        }
        for name in model.trunks.keys() {
            let ports: Vec<_> =
                model.vlans_of(name).into_iter().map(|vlan| (vlan_port(vlan), vlan.id())).collect();
            if !ports.is_empty() {
                plan.steps.push(Action::VlanSwitch(namespace(id, name), ports));
            }
        }
        plan
    }

    fn namespace(&mut self, namespace: &str) {
        self.steps.push(Action::Namespace(namespace.into()));
        // Duplicate address detection takes a second for each address, and a lab has no duplicates that it did
        // not ask for; router solicitations are noise.
        for key in ["accept_dad", "dad_transmits", "router_solicitations", "accept_ra"] {
            for scope in ["all", "default"] {
                self.sysctl(namespace, &format!("net/ipv6/conf/{scope}/{key}"), "0");
            }
        }
        self.ip(namespace, "link set lo up");
    }

    fn switch(&mut self, at: &str, mtu: u16, snooping: bool) {
        let bridge = "link add switch type bridge forward_delay 0 stp_state 0";
        match snooping {
            // The querier asks at once and believes the answers a second later, rather than after ten.
            true => self.ip(
                at,
                &format!("{bridge} mcast_snooping 1 mcast_querier 1 mcast_query_response_interval 100"),
            ),
            false => self.ip(at, &format!("{bridge} mcast_snooping 0")),
        }
        self.ip(at, &format!("link set switch mtu {mtu} up"));
    }

    /// A bridge for each segment that a switch isolates: its uplink as it is, or private VLANs on that, each of which leads to a port
    /// in its VLAN.
    fn segments(&mut self, switch: &str, mtu: u16, vlans: &BTreeSet<Vlan>) {
        let whole = vlans.is_empty().then(|| (SEGMENT.to_owned(), UPLINK.to_owned()));
        let private = vlans.iter().map(|vlan| (segment(Some(*vlan)), format!("to-{}", vlan_port(*vlan))));
        for (bridge, uplink) in whole.into_iter().chain(private) {
            self.ip(
                switch,
                &format!("link add {bridge} type bridge forward_delay 0 stp_state 0 mcast_snooping 0"),
            );
            self.ip(switch, &format!("link set {bridge} mtu {mtu} addrgenmode none up"));
            if uplink != UPLINK {
                let port = uplink.trim_start_matches("to-");
                self.ip(switch, &format!("link add {uplink} mtu {mtu} type veth peer name {port} mtu {mtu}"));
                self.ip(switch, &format!("link set {port} addrgenmode none up"));
            }
            self.ip(switch, &format!("link set {uplink} addrgenmode none master {bridge} up"));
        }
    }

    /// A veth pair from a switch to a node.
    fn cable(&mut self, switch: &str, port: &str, node: &str, device: &str, mtu: u16) {
        let port = short(port);
        self.ip(
            switch,
            &format!("link add {port} mtu {mtu} type veth peer name {device} mtu {mtu} netns {node}"),
        );
        self.ip(switch, &format!("link set {port} master switch up"));
        self.ip(node, &format!("link set {device} up"));
    }

    fn address(&mut self, node: &str, device: &str, address: &str) {
        let nodad = if address.contains(':') { " nodad" } else { "" };
        self.ip(node, &format!("address replace {address} dev {device}{nodad}"));
    }

    /// A vxlan device and a bridge for each VNI: what a kernel VTEP is made of.
    fn vtep(&mut self, model: &Model, id: &str, name: &str, host: &Host) {
        let at = namespace(id, name);
        let spec = model.topology.vtep.get(name).cloned().unwrap_or_default();
        for vni in model.vnis_on(name) {
            self.ip(&at, &vxlan_device(vni, model.port, host, &spec));
            self.ip(
                &at,
                &format!(
                    "link add {} type bridge forward_delay 0 stp_state 0 mcast_snooping 0",
                    bridge_of(vni)
                ),
            );
            // A switch is no station of the networks it carries: it must not report multicast groups in them.
            self.ip(&at, &format!("link set {} addrgenmode none up", bridge_of(vni)));
            self.ip(&at, &format!("link set vx{vni} addrgenmode none master {} up", bridge_of(vni)));
            for remote in flood_list(model, &spec) {
                self.bridge(
                    &at,
                    &format!("fdb append 00:00:00:00:00:00 dev vx{vni} dst {remote} self permanent"),
                );
            }
        }
        for (machine, remote) in static_entries(model, &spec) {
            self.bridge(
                &at,
                &format!("fdb replace {} dev vx{} dst {remote} self permanent", machine.mac, machine.vni),
            );
        }
    }

    fn machine(&mut self, id: &str, name: &str, machine: &Machine) {
        let inside = namespace(id, name);
        match &machine.hypervisor {
            Some(hypervisor) => self.vepa(&namespace(id, hypervisor), &inside, machine),
            None => self.plug(id, &inside, machine),
        }
        self.ip(&inside, &format!("link set {MACHINE_DEVICE} up"));
        for address in &machine.addresses {
            self.address(&inside, MACHINE_DEVICE, &address.to_string());
        }
        for gateway in &machine.gateways {
            let family = if gateway.is_ipv4() { "-4" } else { "-6" };
            self.ip(&inside, &format!("{family} route add default via {gateway}"));
        }
    }

    /// A device of a machine's own beside its hypervisor's, in VEPA mode.
    fn vepa(&mut self, hypervisor: &str, inside: &str, machine: &Machine) {
        let Machine { mac, mtu, .. } = machine;
        self.ip(
            hypervisor,
            &format!(
                "link add link {UPLINK} name {MACHINE_DEVICE} address {mac} mtu {mtu} netns {inside} type macvlan mode vepa"
            ),
        );
    }

    /// A cable between a machine and its host, or the switch in between.
    fn plug(&mut self, id: &str, inside: &str, machine: &Machine) {
        let (at, port) = match (machine.trunk(), machine.vlan) {
            (Some(segment), _) if machine.shared => (namespace(id, &segment), segment_port(machine)),
            (Some(trunk), Some(vlan)) => (namespace(id, &trunk), vlan_port(vlan)),
            _ => (namespace(id, &machine.on), machine.port.clone()),
        };
        let Machine { mac, mtu, .. } = machine;
        self.ip(
            &at,
            &format!(
                "link add {port} mtu {mtu} type veth peer name {MACHINE_DEVICE} address {mac} mtu {mtu} netns {inside}"
            ),
        );
        // A switch's port says nothing of its own accord.
        let quiet = if machine.trunk().is_some() { "addrgenmode none " } else { "" };
        self.ip(&at, &format!("link set {port} {quiet}up"));
        if machine.shared {
            self.ip(&at, &format!("link set {port} master {}", segment(machine.vlan)));
            self.ip(&at, &format!("link set {port} type bridge_slave isolated on"));
        }
    }

    fn bridge_port(&mut self, vtep: &str, machine: &Machine, isolated: bool) {
        let Machine { port, vni, .. } = machine;
        self.ip(vtep, &format!("link set {port} addrgenmode none master {}", bridge_of(*vni)));
        if isolated {
            self.ip(vtep, &format!("link set {port} type bridge_slave isolated on"));
        }
    }

    fn sysctl(&mut self, namespace: &str, key: &str, value: &str) {
        self.steps.push(Action::Sysctl { namespace: namespace.into(), key: key.into(), value: value.into() });
    }

    fn ip(&mut self, namespace: &str, command: &str) {
        self.steps.push(Action::Ip(namespace.into(), command.into()));
    }

    fn bridge(&mut self, namespace: &str, command: &str) {
        self.steps.push(Action::Bridge(namespace.into(), command.into()));
    }
}

/// The port of a switch where the machine of a VLAN is.
fn vlan_port(vlan: Vlan) -> String {
    vlan.id().map_or_else(|| "untagged".to_owned(), |id| format!("vlan{id}"))
}

/// The bridge of a segment: of a VLAN of the uplink, or of the uplink as it is.
fn segment(vlan: Option<Vlan>) -> String {
    vlan.map_or_else(|| SEGMENT.to_owned(), |vlan| format!("p{}", vlan_port(vlan)))
}

/// The port of a shared segment where a machine is: by its VLAN and MAC, as it is known there.
fn segment_port(machine: &Machine) -> String {
    let [.., a, b, c] = machine.mac.0;
    let vlan = machine.vlan.and_then(Vlan::id).map_or_else(|| "port".to_owned(), |id| format!("p{id}-"));
    format!("{vlan}{a:02x}{b:02x}{c:02x}")
}

fn bridge_of(vni: Vni) -> String {
    format!("br{vni}")
}

fn vxlan_device(vni: Vni, port: u16, host: &Host, spec: &VtepSpec) -> String {
    let learning = if spec.learning { "learning" } else { "nolearning" };
    let group = spec.group.map(|group| format!(" group {group}")).unwrap_or_default();
    // RFC 7348 section 5 wants the UDP checksum zero; over IPv6 the kernel must be told (RFC 6935).
    let checksum = match host.address.addr() {
        IpAddr::V4(_) => "noudpcsum",
        IpAddr::V6(_) => "udp6zerocsumtx udp6zerocsumrx",
    };
    let (local, device) = (host.address.addr(), &host.device);
    format!(
        "link add vx{vni} type vxlan id {vni} dstport {port} local {local} dev {device}{group} ttl 64 {learning} {checksum}"
    )
}

fn flood_list(model: &Model, spec: &VtepSpec) -> Vec<IpAddr> {
    spec.flood.iter().filter_map(|host| model.hosts.get(host)).map(|host| host.address.addr()).collect()
}

fn static_entries<'a>(model: &'a Model, spec: &VtepSpec) -> Vec<(&'a Machine, IpAddr)> {
    let entries: &BTreeMap<String, String> = &spec.forward;
    let place = |(machine, host): (&String, &String)| {
        Some((model.machines.get(machine)?, model.hosts.get(host)?.address.addr()))
    };
    entries.iter().filter_map(place).collect()
}

/// The name of a switch's port: the node's, cut to what a device name may have.
fn short(name: &str) -> &str {
    name.char_indices().nth(15).map_or(name, |(end, _)| name.get(..end).unwrap_or(name))
}
