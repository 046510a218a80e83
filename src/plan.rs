//! What one host wants of its kernel, as data: devices, programs, settings, sockets, as steps.
//!
//! `eastgate plan` prints the steps, and the daemon gets them from the same functions when it carries them out. Doing it twice
//! is the same as once, and each step says what undoes it.

pub mod routing;
mod step;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use eastgate_config::{Config, Host};
use eastgate_dataplane::snapshot::Snapshot;
use eastgate_fastpath::Limits;
use eastgate_steering::{
    kernel,
    settings::{Affected, PortRole, Setting, port_settings},
};
use eastgate_vtep::mtu::tenant_mtu;
use eastgate_wire::{Attachment, AttachmentId, Family};

pub use self::routing::Entry;
pub use self::step::{Frames, Line, Place, Step, Undo};
use crate::control::network::Address;
use crate::io::{
    fastpath::is_own_address,
    guard::HostTraffic,
    machine::{Machine, MachineError},
    netlink::Link,
};

/// Frames are punted by the first, and the workers listen at the second.
pub const UP: [&str; 2] = ["eastgate-punt0", "eastgate-punt1"];

/// The kernel's vxlan device that decapsulates GSO packets.
pub const TUNNEL: &str = "eastgate-vx0";

/// The devices that the fast path makes.
pub const OWN_DEVICES: [&str; 3] = [UP[0], UP[1], TUNNEL];

/// Room for any frame with the header that is punted in front of it.
pub const PUNT_MTU: u32 = 65_000;

/// Where the kernel's own vxlan device may listen, one after the other: outside of the ranges that source ports are
/// taken from.
const TUNNEL_PORTS: [u16; 4] = [14_789, 24_789, 44_789, 4_788];

/// An attachment that the configuration names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WantedPort {
    /// Its number
    pub id: AttachmentId,
    /// Its device, and how
    pub attachment: Attachment,
    /// What is to be served there
    pub kind: PortKind,
}

/// What is at an attachment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PortKind {
    /// An endpoint
    Endpoint,
    /// An endpoint to which the kernel routes
    Routed {
        /// By what comes in at this attachment
        entry: AttachmentId,
        /// Its addresses
        addresses: Vec<IpAddr>,
    },
    /// The kernel's routing of a network
    Kernel,
}

impl WantedPort {
    /// Its device.
    #[must_use]
    pub const fn device(&self) -> &Arc<str> {
        &self.attachment.device
    }

    /// Whose frames those of its device are.
    #[must_use]
    pub const fn frames(&self) -> Frames {
        if self.attachment.is_by_tag() { Frames::ByTag } else { Frames::Own(self.id) }
    }

    /// As it is shown.
    #[must_use]
    pub fn name(&self) -> String {
        self.attachment.to_string()
    }
}

/// The devices of ports, and those behind which stations are.
fn wanted_devices<'p>(host: &'p Host, ports: &'p [WantedPort]) -> BTreeMap<&'p Arc<str>, Frames> {
    let of_stations = host.vdp.keys().map(|device| (device, Frames::ByTag));
    of_stations.chain(ports.iter().map(|port| (port.device(), port.frames()))).collect()
}

/// The devices that are to carry tenant ports, or stations.
#[must_use]
pub fn port_devices(host: &Host, ports: &[WantedPort]) -> BTreeSet<Arc<str>> {
    wanted_devices(host, ports).into_keys().cloned().collect()
}

/// The attachments of a snapshot, by device name.
#[must_use]
pub fn wanted_ports(snapshot: &Snapshot) -> Vec<WantedPort> {
    let mut ports: Vec<WantedPort> = snapshot
        .attachments()
        .filter_map(|(id, network, endpoint)| {
            let attachment = network.config()?.endpoint(&endpoint.name)?.attachment.clone()?;
            let kind = match network.kernel_entry {
                Some(entry) => {
                    let addresses = endpoint.holdings().addresses.iter().map(|address| address.to_ip());
                    PortKind::Routed { entry, addresses: addresses.collect() }
                }
                None => PortKind::Endpoint,
            };
            Some(WantedPort { id, attachment, kind })
        })
        .collect();
    ports.extend(routing::routed_networks(snapshot).filter_map(|network| {
        let attachment = Attachment::access(kernel::entry(network.vni).into());
        Some(WantedPort { id: network.kernel_entry?, attachment, kind: PortKind::Kernel })
    }));
    ports.sort_by(|a, b| a.attachment.cmp(&b.attachment));
    ports
}

/// Why a device cannot be a tenant port, and what can be done about it. `ports` are all devices that are to be some.
#[must_use]
pub fn unfit(
    link: &Link,
    host: &Host,
    links: &BTreeMap<String, Link>,
    ports: &BTreeSet<Arc<str>>,
) -> Option<String> {
    let name = &link.name;
    let by_index = |index: u32| links.values().find(|link| link.index == index);
    if host.devices.iter().any(|device| **device == **name) {
        return Some("it is the underlay device: give the endpoint a device of its own".into());
    }
    if OWN_DEVICES.contains(&&**name) {
        return Some("it is one of eastgate's own devices: give the endpoint a device of its own".into());
    }
    if !link.is_ethernet {
        return Some(
            "it does not carry Ethernet frames (a loopback or layer 3 device): use a veth, or a tap device              (ip tuntap add mode tap)"
                .into(),
        );
    }
    if matches!(link.kind.as_deref(), Some("bridge" | "vrf" | "openvswitch" | "ovs")) {
        return Some(
            "it is a bridge or router of the host's: name the device of the machine itself, taken out of it"
                .into(),
        );
    }
    if let Some(controller) = link.controller {
        let by = by_index(controller).map_or("another device", |link| &link.name);
        return Some(format!("it belongs to {by}: take it out (ip link set {name} nomaster)"));
    }
    // What stands below the underlay carries everything of it.
    for device in &host.devices {
        let mut below = links.get(&**device).and_then(|link| link.lower);
        for _ in 0..MOST_LOWER {
            let Some(lower) = below.and_then(by_index) else { break };
            if lower.index == link.index {
                return Some(format!(
                    "the underlay device {device} stands on it: give the endpoint a device of its own"
                ));
            }
            below = lower.lower;
        }
    }
    stands_on_port(link, links, ports)
}

/// What a device that stands on a port would be given is that port's: eastgate comes before the devices above it, and lets nothing through
/// to them.
fn stands_on_port(link: &Link, links: &BTreeMap<String, Link>, ports: &BTreeSet<Arc<str>>) -> Option<String> {
    let mut above = link;
    for _ in 0..MOST_LOWER {
        // What a veth names is its other end.
        if !matches!(above.kind.as_deref(), Some("vlan" | "macvlan" | "macvtap" | "ipvlan")) {
            return None;
        }
        let lower = links.values().find(|link| Some(link.index) == above.lower)?;
        if ports.contains(&*lower.name) {
            let (name, lower) = (&link.name, &lower.name);
            return Some(format!(
                "{name} stands on {lower}, which is a port itself and has all its frames: give the endpoint the port {lower}, \
                 with `vlan` or `shared`, or none of the others a port there"
            ));
        }
        above = lower;
    }
    None
}

/// As many devices as the kernel lets stand on each other.
const MOST_LOWER: usize = 8;

/// Those of the devices that are there, and can be ports.
fn usable<'p>(
    host: &'p Host,
    ports: &'p [WantedPort],
    links: &BTreeMap<String, Link>,
) -> impl Iterator<Item = &'p Arc<str>> {
    let all = port_devices(host, ports);
    let devices = wanted_devices(host, ports).into_keys();
    devices.filter(move |device| {
        links
            .get(&***device)
            .is_some_and(|link| kernel::is_entry(device) || unfit(link, host, links, &all).is_none())
    })
}

/// The settings wanted on the devices that are there.
#[must_use]
pub fn wanted_settings(
    snapshot: &Snapshot,
    host: &Host,
    ports: &[WantedPort],
    links: &BTreeMap<String, Link>,
) -> Vec<Setting> {
    let mut settings = Vec::new();
    let routed = routing::ports_of_ipv6(snapshot);
    for device in host.devices.iter().filter(|device| links.contains_key(&***device)) {
        settings.extend(port_settings(&PortRole::Underlay { interface: device }));
    }
    for device in usable(host, ports, links) {
        let role = match routed.contains(&&**device) {
            true => PortRole::RoutedPort { interface: device },
            false => PortRole::Tenant { interface: device },
        };
        settings.extend(port_settings(&role));
    }
    for network in routing::routed_networks(snapshot) {
        let router = kernel::router(network.vni);
        if links.contains_key(&router) {
            settings.extend(port_settings(&PortRole::KernelProxy { interface: &router }));
        }
    }
    settings
}

/// What the fast path is to be on this machine.
#[derive(Clone, PartialEq, Debug)]
pub struct FastpathPlan {
    /// How large its tables may become
    pub limits: Limits,
    /// The programs and devices of the daemon before go on.
    pub inherits: bool,
    /// Where tables are pinned, if anywhere
    pub pin: Option<PathBuf>,
}

impl FastpathPlan {
    /// As a snapshot and the command line have it.
    #[must_use]
    pub fn of(snapshot: &Snapshot, pin: Option<&Path>, inherits: bool) -> Self {
        let limits = snapshot.config.limits;
        let flows = limits.flows.saturating_add(limits.unreplied);
        let limits = Limits { flows, tables: snapshot.config.kernel_tables };
        Self { limits, inherits, pin: pin.map(Path::to_owned) }
    }

    /// What brings programs, tables and devices, in their order. `pins` is the folder that a daemon before has.
    #[must_use]
    pub fn steps(&self, pins: Option<&Path>, hook: &'static str, overlay_port: u16) -> Vec<Step> {
        let mut steps = Vec::new();
        if !self.inherits {
            steps.extend(punt_devices());
            steps.extend(tunnel_device(overlay_port));
            steps.push(Step::Load { limits: self.limits });
        }
        steps.extend(route_settings());
        let pins = pins.filter(|_| self.inherits);
        if pins.and_then(Path::parent) != self.pin.as_deref() {
            steps.extend(pins.map(|folder| Step::Unpin { folder: folder.to_owned() }));
            steps.extend(self.pin.clone().map(|below| Step::Pin { below }));
        }
        steps.push(Step::Attach { device: TUNNEL.into(), hook, place: Place::Own });
        steps
    }
}

/// The pair by which frames are punted.
#[must_use]
pub fn punt_devices() -> Vec<Step> {
    let mut steps = vec![Step::MakeVeth { device: UP[0], peer: UP[1], mtu: PUNT_MTU }];
    steps.extend(UP.into_iter().filter_map(without_ipv6));
    steps
}

/// The device that decapsulates GSO packets, beside an overlay at this port.
#[must_use]
pub fn tunnel_device(overlay_port: u16) -> Vec<Step> {
    let ports = TUNNEL_PORTS.into_iter().filter(|port| *port != overlay_port).collect();
    let mut steps = vec![Step::MakeVxlan { device: TUNNEL, ports }];
    steps.extend(without_ipv6(TUNNEL));
    steps
}

/// Own devices carry frames of tenants and have no addresses. Without IPv6 there is nothing to turn off.
fn without_ipv6(device: &str) -> Option<Step> {
    let file = format!("net/ipv6/conf/{device}/disable_ipv6");
    has_family("ipv6").then_some(Step::SetOwn { file, to: 1, why: "it has no addresses" })
}

/// Lets the programs ask the host's routes where a datagram goes. They ask as if it came in at the device by which frames
/// are punted, and the kernel answers only where that device forwards; nothing that it would forward ever comes in there.
#[must_use]
pub fn route_settings() -> Vec<Step> {
    let families = ["ipv4", "ipv6"].into_iter().filter(|family| has_family(family));
    let file = |family| format!("net/{family}/conf/{}/forwarding", UP[0]);
    families
        .map(|family| Step::SetOwn { file: file(family), to: 1, why: "programs may ask the host's routes" })
        .collect()
}

fn has_family(family: &str) -> bool {
    Path::new("/proc/sys/net").join(family).join("conf").exists()
}

/// What serves the device of tenant ports, which is there. On a trunk nothing of it is anybody's by that.
#[must_use]
pub fn device_steps(device: &str, frames: Frames, hook: &'static str, accelerated: bool) -> [Step; 2] {
    let device = device.to_owned();
    [
        Step::Attach { device: device.clone(), hook, place: Place::Port { accelerated } },
        Step::OpenPort { frames, device, hears: !accelerated },
    ]
}

/// What makes a VLAN of a trunk, once that is served, an endpoint's.
#[must_use]
pub fn vlan_step(port: &WantedPort) -> Option<Step> {
    let Attachment { device, vlan, .. } = &port.attachment;
    let step = || Step::OpenVlan {
        id: port.id,
        device: device.to_string(),
        vlan: *vlan,
        station: port.attachment.station(),
    };
    port.attachment.is_by_tag().then(step)
}

/// What puts the fast path on an underlay device.
#[must_use]
pub fn underlay_step(device: &str, hook: &'static str) -> Step {
    Step::Attach { device: device.into(), hook, place: Place::Underlay }
}

/// What listens for datagrams; why nothing can, otherwise.
///
/// # Errors
/// What is missing.
pub fn listen_step(snapshot: &Snapshot, host: &Host, links: &BTreeMap<String, Link>) -> Result<Step, String> {
    if !host.devices.iter().any(|device| links.contains_key(&**device)) {
        return Err(format!("there is no device {}", host.device_names()));
    }
    // A socket stays bound to an address that the host has no more, and hears nothing.
    if !is_own_address(snapshot.vtep.0) {
        return Err(format!("{} is no address of this host", snapshot.vtep));
    }
    Ok(Step::Listen {
        vtep: snapshot.vtep,
        port: snapshot.config.overlay.port,
        devices: host.device_names(),
        groups: multicast_groups(snapshot),
    })
}

/// The settings that are to be written, each a step.
///
/// # Errors
/// When procfs cannot be read.
pub fn setting_steps(wanted: &[Setting]) -> Result<(Vec<Step>, Vec<Affected>), MachineError> {
    let plan = Machine::compare(wanted)?;
    Ok((plan.changes.into_iter().map(Step::Set).collect(), plan.affected))
}

/// The device among eastgate's own that is there already and not its own.
#[must_use]
pub fn taken_device(links: &BTreeMap<String, Link>, is_ours: impl Fn(&str) -> bool) -> Option<&'static str> {
    // The record names one end of the pair.
    let is_ours = |name: &str| is_ours(if name == UP[1] { UP[0] } else { name });
    OWN_DEVICES.into_iter().find(|name| links.contains_key(*name) && !is_ours(name))
}

/// What `run` is told, and finds: the rest of what its steps follow from.
#[derive(Debug)]
pub struct Circumstances {
    /// The control socket
    pub socket: PathBuf,
    /// Where metrics are served, if they are
    pub metrics: Option<SocketAddr>,
    /// Where the API is served over the network, if it is
    pub api: Option<Address>,
    /// `tcx` or `clsact`
    pub hook: &'static str,
    /// The fast path, where there is to be one
    pub fastpath: Option<FastpathPlan>,
    /// What a daemon before has left that goes first
    pub left_behind: Option<Step>,
    /// The folder of its tables
    pub pins: Option<PathBuf>,
    /// What the host has on its devices, by interface index
    pub traffic: BTreeMap<u32, HostTraffic>,
}

/// Everything that `run` would do on this machine as it is now, in that order, with notes about it.
///
/// # Errors
/// When procfs cannot be read.
pub fn lines(
    snapshot: &Snapshot,
    links: &BTreeMap<String, Link>,
    found: &Circumstances,
) -> Result<Vec<Line>, MachineError> {
    let config: &Config = &snapshot.config;
    let Some(host) = config.host(&snapshot.host) else { return Ok(Vec::new()) };
    let ports = wanted_ports(snapshot);
    let accelerated = found.fastpath.is_some();
    let mut lines = vec![Step::Serve { socket: found.socket.clone() }.line()];
    lines.extend(found.metrics.map(|address| Step::ServeMetrics { address }.line()));
    lines.extend(found.api.clone().map(|address| Step::ServeApi { address }.line()));
    let (settings, affected) = setting_steps(&wanted_settings(snapshot, host, &ports, links))?;
    lines.extend(settings.iter().map(Step::line));
    for affected in affected {
        let change = format!("{} -> {}", affected.before, affected.after);
        let why = "another interface changes with `all`, and no value of its own can keep it";
        lines.push(Line::note("note", affected.id.to_string(), change, why));
    }
    lines.extend(found.left_behind.iter().map(Step::line));
    if let Some(fastpath) = &found.fastpath {
        let steps = fastpath.steps(found.pins.as_deref(), found.hook, config.overlay.port);
        lines.extend(steps.iter().map(Step::line));
    }
    for network in routing::routed_networks(snapshot) {
        if !links.contains_key(&kernel::entry(network.vni)) {
            lines.extend(routing::router_steps(network).iter().map(Step::line));
        }
    }
    let devices = port_devices(host, &ports);
    for (device, frames) in wanted_devices(host, &ports) {
        let device = &**device;
        if kernel::is_entry(device) {
            lines.extend(device_steps(device, frames, found.hook, false).iter().map(Step::line));
            continue;
        }
        let Some(link) = links.get(device) else {
            lines.push(Line::note("missing", device, "no such device yet", "served as soon as it appears"));
            continue;
        };
        if let Some(why) = unfit(link, host, links, &devices) {
            lines.push(Line::note("refuse port", device, why, "it cannot be a tenant port"));
            continue;
        }
        lines.extend(device_steps(device, frames, found.hook, accelerated).iter().map(Step::line));
        let of_device = ports.iter().filter(|port| **port.device() == *device);
        lines.extend(of_device.filter_map(vlan_step).map(|step| step.line()));
        let stations =
            host.vdp.contains_key(device).then(|| Step::ServeStations { device: device.to_owned() });
        lines.extend(stations.map(|step| step.line()));
        if let Some(note) = found.traffic.get(&link.index).and_then(HostTraffic::note) {
            lines.push(Line::note("note", device, note, "eastgate comes before them"));
        }
    }
    let is_served = |device: &str| {
        links.get(device).is_some_and(|link| link.up && unfit(link, host, links, &devices).is_none())
    };
    lines.extend(routing::entries(snapshot, &is_served).into_iter().map(|entry| Step::Route(entry).line()));
    for device in host.devices.iter().filter(|device| !links.contains_key(&***device)) {
        lines.push(Line::note(
            "missing",
            &**device,
            "no such underlay device",
            "tunnels work once it is there",
        ));
    }
    let there = host.devices.iter().filter_map(|device| links.get(&**device));
    if let Some(link) = there.clone().map(|link| link.mtu).min() {
        for (network, needed) in too_small_for(snapshot, link) {
            let detail = format!("its mtu takes an underlay of {needed} bytes, and this one has {link}");
            lines.push(Line::note("note", network, detail, "larger packets are cut or dropped"));
        }
    }
    match listen_step(snapshot, host, links) {
        Ok(step) => {
            lines.push(step.line());
            let up = there.filter(|link| accelerated && link.up);
            lines.extend(up.map(|link| underlay_step(&link.name, found.hook).line()));
        }
        Err(why) => lines.push(Line::note("missing", "underlay", why, "tunnels work once it is there")),
    }
    if accelerated {
        lines.push(Step::ListenForPunts { device: UP[1] }.line());
    }
    Ok(lines)
}

/// The networks whose own MTU is more than an underlay of `link` bytes carries, and what they would need.
#[must_use]
pub fn too_small_for(snapshot: &Snapshot, link: u32) -> Vec<(String, u32)> {
    let underlay = if snapshot.vtep.0.is_ipv4() { Family::V4 } else { Family::V6 };
    let carried = u32::from(tenant_mtu(u16::try_from(link).unwrap_or(u16::MAX), underlay, 0));
    let networks = snapshot.networks().into_iter();
    let with_own = networks.filter_map(|network| Some((network, u32::from(network.mtu?))));
    with_own
        .filter(|(_, mtu)| *mtu > carried)
        .map(|(network, mtu)| (network.name.clone(), mtu + link.saturating_sub(carried)))
        .collect()
}

/// The underlay multicast groups that this host's networks use, each once.
#[must_use]
pub fn multicast_groups(snapshot: &Snapshot) -> Vec<std::net::IpAddr> {
    let mut groups: Vec<_> = snapshot
        .config
        .networks_of(&snapshot.host)
        .filter(|(_, network)| network.flood == eastgate_config::Flood::Multicast)
        .filter_map(|(_, network)| network.multicast_group)
        .collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_on_a_port_is_none() {
        let text = "[host.a]\nvtep = \"192.0.2.1\"\ndevice = \"eth0\"\n";
        let config = eastgate_config::load_str("any", text).unwrap();
        let link = |index: u32, name: &str, kind: Option<&str>, lower: Option<u32>| {
            let link = Link {
                index,
                name: name.into(),
                mtu: 1500,
                up: true,
                is_veth: false,
                is_ethernet: true,
                kind: kind.map(Into::into),
                controller: None,
                lower,
            };
            (name.to_owned(), link)
        };
        let links = BTreeMap::from([
            link(1, "eth1", None, None),
            link(2, "eth1.101", Some("vlan"), Some(1)),
            link(3, "mac0", Some("macvlan"), Some(2)),
            link(4, "veth0", Some("veth"), Some(1)),
        ]);
        let refused = |name: &str, ports: &[&str]| {
            let ports = ports.iter().map(|port| Arc::from(*port)).collect();
            unfit(&links[name], config.host("a").unwrap(), &links, &ports)
        };
        for above in ["eth1.101", "mac0"] {
            let why = refused(above, &["eth1", above]).unwrap();
            assert!(why.starts_with(&format!("{above} stands on eth1")), "{why}");
            assert_eq!(refused(above, &[above]), None, "alone");
        }
        assert_eq!(refused("eth1", &["eth1", "eth1.101"]), None, "what is below has all of it");
        assert_eq!(refused("veth0", &["eth1", "veth0"]), None, "the other end of a veth is another device");
    }
}
