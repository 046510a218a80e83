//! Topology and configuration put together: every node of a lab with its place, and every reference checked.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Path, PathBuf},
};

use eastgate_testkit::lldpad::Vsi;
use eastgate_wire::{Family, MacAddr, Vni};
use ipnet::IpNet;

use super::{
    error::LabError,
    overlay::{self, Overlay, Runs, Vlan},
    topology::{Expect, Hypervisor, Outcome, Proto, Station, Switch, Topology, VtepSpec},
};

/// Outer IPv4, UDP, VXLAN and the inner Ethernet header.
const OVERHEAD_V4: u16 = 20 + 8 + 8 + 14;
/// The same over IPv6.
const OVERHEAD_V6: u16 = 40 + 8 + 8 + 14;
/// The longest name of a network device (IFNAMSIZ less the final zero).
const DEVICE_NAME_MAX: usize = 15;

/// A story, ready to be built.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) folder: PathBuf,
    pub(super) topology: Topology,
    pub(super) port: u16,
    /// Hosts and plain VTEPs
    pub(super) hosts: BTreeMap<String, Host>,
    /// Endpoints by `tenant/name`, and stations by name
    pub(super) machines: BTreeMap<String, Machine>,
    /// Switches of machines that share a device of a host, by `host/device`
    pub(super) trunks: BTreeMap<String, Trunk>,
}

/// What stands between a device of a host and the machines whose VLANs it carries.
#[derive(Debug)]
pub(super) struct Trunk {
    pub(super) host: String,
    pub(super) device: String,
    pub(super) mtu: u16,
    /// Its ports reach its uplink alone, which is a segment that all of them share
    pub(super) isolates: bool,
    /// Its machines have VLANs on it
    pub(super) tagged: bool,
}

/// A node with a VTEP.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) runs: Runs,
    pub(super) switch: String,
    pub(super) device: String,
    pub(super) address: IpNet,
}

/// A tenant's machine.
#[derive(Debug)]
pub(super) struct Machine {
    /// The host it is plugged into
    pub(super) on: String,
    /// The device on that host
    pub(super) port: String,
    /// Which of its frames are this machine's, where they are not all
    pub(super) vlan: Option<Vlan>,
    /// Its device is a segment that it shares with others, which isolates them.
    pub(super) shared: bool,
    /// The hypervisor at that device whose machine it is
    pub(super) hypervisor: Option<String>,
    /// What that one says of it
    pub(super) vsi: Option<Vsi>,
    /// `tenant/network`
    pub(super) network: String,
    pub(super) vni: Vni,
    pub(super) mac: MacAddr,
    pub(super) addresses: Vec<IpNet>,
    pub(super) mtu: u16,
    pub(super) gateways: Vec<IpAddr>,
}

impl Machine {
    /// The switch between it and its host, if it is on a trunk or a shared segment.
    pub(super) fn trunk(&self) -> Option<String> {
        (self.vlan.is_some() || self.shared).then(|| format!("{}/{}", self.on, self.port))
    }

    /// Whether others are at its device, or in its VLAN there, from which its MAC tells it.
    pub(super) fn is_told_by_mac(&self) -> bool {
        self.shared || self.hypervisor.is_some()
    }

    /// Its first address of `family` that is not link-local: such a one needs a device beside it.
    pub(super) fn address(&self, family: Family) -> Option<IpAddr> {
        let v4 = family == Family::V4;
        self.addresses
            .iter()
            .map(IpNet::addr)
            .find(|address| address.is_ipv4() == v4 && !is_link_local(address))
    }
}

impl Model {
    /// Reads the story in `folder`.
    pub(super) fn read(folder: &Path) -> Result<Self, LabError> {
        let topology = Topology::read(folder)?;
        let overlay = Overlay::read(&folder.join(&topology.config))?;
        let wrong = |what| LabError::Topology { path: folder.join("topology.toml"), what };
        let hosts = place_hosts(&topology, &overlay).map_err(wrong)?;
        let port = overlay.port;
        let machines = place_machines(&topology, overlay, &hosts).map_err(wrong)?;
        let trunks = trunks(&machines, &hosts).map_err(wrong)?;
        let model = Self { folder: folder.into(), topology, port, hosts, machines, trunks };
        model.check_links().and_then(|()| model.check_vteps()).map_err(wrong)?;
        model.check_hypervisors().map_err(wrong)?;
        model.check_steps().and_then(|()| model.check_expectations()).map_err(wrong)?;
        Ok(model)
    }

    /// Every node's name.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &str> {
        let switches = self.topology.switch.keys();
        let trunks = self.trunks.keys();
        let hypervisors = self.topology.hypervisor.keys();
        let places = switches.chain(self.hosts.keys()).chain(trunks).chain(hypervisors);
        places.chain(self.machines.keys()).map(String::as_str)
    }

    /// The hosts where a daemon runs.
    pub(super) fn daemons(&self) -> impl Iterator<Item = &str> {
        self.hosts.iter().filter(|(_, host)| host.runs == Runs::Eastgate).map(|(name, _)| name.as_str())
    }

    /// The VLANs of a trunk that machines on it have.
    pub(super) fn vlans_of(&self, trunk: &str) -> BTreeSet<Vlan> {
        let on_it = self.machines.values().filter(|machine| machine.trunk().as_deref() == Some(trunk));
        on_it.filter_map(|machine| machine.vlan).collect()
    }

    /// The machines plugged into `host`.
    pub(super) fn machines_on<'a>(
        &'a self,
        host: &'a str,
    ) -> impl Iterator<Item = (&'a String, &'a Machine)> {
        self.machines.iter().filter(move |(_, machine)| machine.on == host)
    }

    /// The VNIs that have a machine on `host`.
    pub(super) fn vnis_on(&self, host: &str) -> BTreeSet<Vni> {
        self.machines_on(host).map(|(_, machine)| machine.vni).collect()
    }

    fn check_links(&self) -> Result<(), String> {
        for link in &self.topology.link {
            let known = self.hosts.contains_key(&link.node) || self.machines.contains_key(&link.node);
            if !known || !self.topology.switch.contains_key(&link.switch) {
                return Err(format!(
                    "a link joins `{}` and `{}`, and one of them does not exist",
                    link.node, link.switch
                ));
            }
            device_name(&link.device)?;
        }
        Ok(())
    }

    fn check_vteps(&self) -> Result<(), String> {
        for (name, spec) in &self.topology.vtep {
            let at = |what: &str| format!("vtep `{name}`: there is no {what}");
            if let Some(host) =
                spec.flood.iter().chain(spec.forward.values()).find(|h| !self.hosts.contains_key(*h))
            {
                return Err(at(&format!("host `{host}`")));
            }
            if let Some(machine) = spec.forward.keys().find(|machine| !self.machines.contains_key(*machine)) {
                return Err(at(&format!("machine `{machine}`")));
            }
        }
        Ok(())
    }

    fn check_hypervisors(&self) -> Result<(), String> {
        for (name, hypervisor) in &self.topology.hypervisor {
            let (host, port) = (&hypervisor.on, &hypervisor.port);
            device_name(port)?;
            if !self.daemons().any(|daemon| daemon == host) {
                return Err(format!("hypervisor `{name}`: no eastgate runs on a host `{host}`"));
            }
            let is_other =
                |machine: &Machine| machine.port == *port && machine.hypervisor.as_ref() != Some(name);
            if self.machines_on(host).any(|(_, machine)| is_other(machine)) {
                return Err(format!(
                    "hypervisor `{name}`: something else is plugged into `{port}` of {host}"
                ));
            }
            if self.nodes().filter(|node| node == name).count() > 1 {
                return Err(format!("there are two nodes `{name}`"));
            }
        }
        Ok(())
    }

    fn check_steps(&self) -> Result<(), String> {
        for step in &self.topology.step {
            for host in step.kill.iter().chain(&step.stop).chain(&step.start) {
                if !self.daemons().any(|name| name == host) {
                    return Err(format!("step `{}`: no eastgate runs on a host `{host}`", step.say));
                }
            }
            for machine in step.associate.iter().chain(step.deassociate.iter()) {
                if self.machines.get(machine).is_none_or(|machine| machine.vsi.is_none()) {
                    return Err(format!("step `{}`: no hypervisor has a machine `{machine}`", step.say));
                }
            }
            if let Some(name) =
                step.silence.as_ref().filter(|name| !self.topology.hypervisor.contains_key(*name))
            {
                return Err(format!("step `{}`: there is no hypervisor `{name}`", step.say));
            }
            let mut files = step.reload.iter().chain(&step.stage).map(|file| self.folder.join(file));
            if let Some(file) = files.find(|file| super::story::read(file).is_err()) {
                return Err(format!("step `{}`: there is no file {}", step.say, file.display()));
            }
        }
        Ok(())
    }

    fn check_expectations(&self) -> Result<(), String> {
        for (_, expect) in self.topology.expectations() {
            self.check_expectation(expect)
                .map_err(|what| format!("expectation `{}`: {what}", expect.story))?;
        }
        Ok(())
    }

    /// The devices at the underlay, each with its host.
    pub(super) fn underlay_devices(&self) -> impl Iterator<Item = (&str, &str)> {
        let first = self.hosts.iter().map(|(name, host)| (name.as_str(), host.device.as_str()));
        let further = self.topology.link.iter().map(|link| (link.node.as_str(), link.device.as_str()));
        first.chain(further.filter(|(node, _)| self.hosts.contains_key(*node)))
    }

    fn check_question(&self, asker: Option<&str>, answered_by: Option<&str>) -> Result<(), String> {
        if asker.is_none_or(|asker| !self.hosts.contains_key(asker)) {
            return Err("`asks` needs a host as `on`".into());
        }
        let answers =
            |(host, device): (&str, &str)| Some(format!("{host}/{device}")).as_deref() == answered_by;
        match self.underlay_devices().any(answers) {
            true => Ok(()),
            false => Err("`asks` needs `answered_by`, a HOST/DEVICE at the underlay".into()),
        }
    }

    fn check_expectation(&self, expect: &Expect) -> Result<(), String> {
        let known = |name: &str| match self.machines.contains_key(name) {
            true => Ok(()),
            false => Err(format!("there is no machine `{name}`")),
        };
        let twins = expect.twin.iter().flat_map(|twin| [twin.from.as_str(), twin.to.as_str()]);
        let spoofed =
            expect.spoof.iter().flat_map(|spoof| spoof.address.iter().chain(&spoof.mac)).map(String::as_str);
        for name in expect.from.iter().chain(expect.to.iter()).chain(twins).chain(spoofed) {
            known(name)?;
        }
        match (expect.asks, expect.answered_by.as_deref()) {
            (None, None | Some("proxy")) => {}
            (None, Some(name)) => known(name)?,
            (Some(_), by) => self.check_question(expect.on.as_deref(), by)?,
        }
        if let Some(host) = expect.at.as_ref().filter(|host| !self.daemons().any(|name| name == *host)) {
            return Err(format!("`at`: no eastgate runs on a host `{host}`"));
        }
        if let Some(reason) =
            expect.reason.as_ref().filter(|name| eastgate_wire::DropReason::from_name(name).is_none())
        {
            return Err(format!("`{reason}` is no drop reason"));
        }
        well_formed(expect)?;
        match &expect.on {
            Some(node) if !self.nodes().any(|name| name == node) => Err(format!("there is no node `{node}`")),
            _ => Ok(()),
        }
    }
}

/// Refuses what would be silently ignored: an expectation that is not checked is worse than none.
fn well_formed(expect: &Expect) -> Result<(), String> {
    if expect.asks.is_some() {
        let others = [
            expect.from.iter().next().is_some(),
            expect.to.iter().next().is_some(),
            expect.proto.is_some() || expect.port.is_some() || expect.source_port.is_some(),
            expect.family.is_some() || expect.outcome != Outcome::Reach || expect.spoof.is_some(),
            expect.reason.is_some() || expect.rule.is_some() || expect.at.is_some(),
            expect.bytes.is_some() || expect.size.is_some() || expect.mtu.is_some() || expect.twin.is_some(),
            expect.hold.is_some()
                || expect.resume.is_some()
                || expect.run.is_some()
                || expect.shows.is_some(),
        ];
        return match others.contains(&true) {
            false => Ok(()),
            true => Err("`asks` goes with `on` and `answered_by` alone".into()),
        };
    }
    if expect.run.is_some() {
        return match (&expect.on, &expect.shows, expect.proto) {
            (Some(_), Some(_), None) => Ok(()),
            _ => Err("`run` needs `on` and `shows`, and has no `proto`".into()),
        };
    }
    let Some(proto) = expect.proto else { return Err("it needs `proto` or `run`".into()) };
    if expect.from.iter().next().is_none() || expect.to.iter().next().is_none() {
        return Err("it needs `from` and `to`".into());
    }
    let rules: [(bool, &str); 12] = [
        (
            matches!(proto, Proto::Tcp | Proto::Udp) == expect.port.is_some(),
            "`port` goes with tcp and udp, and they need it",
        ),
        (
            expect.source_port.is_none() || matches!(proto, Proto::Tcp | Proto::Udp),
            "`source_port` goes with tcp and udp",
        ),
        (expect.size.is_none() || proto == Proto::Icmp, "`size` goes with icmp"),
        (expect.bytes.is_none() || proto == Proto::Tcp, "`bytes` goes with tcp"),
        (
            expect.twin.is_none() || proto == Proto::Tcp && expect.source_port.is_some(),
            "`twin` goes with tcp and a `source_port`",
        ),
        (
            expect.hold.is_none() && expect.resume.is_none() || proto == Proto::Tcp,
            "`hold` and `resume` go with tcp",
        ),
        (
            expect.answered_by.is_none() || matches!(proto, Proto::Arp | Proto::Nd),
            "`answered_by` goes with arp and nd",
        ),
        (
            expect.spoof.is_none() || matches!(proto, Proto::Udp | Proto::Arp | Proto::Nd),
            "`spoof` goes with udp, arp and nd",
        ),
        (
            (expect.outcome == Outcome::TooBig) == expect.mtu.is_some(),
            "`mtu` goes with `outcome = \"too-big\"`, which needs it",
        ),
        (expect.outcome != Outcome::TooBig || expect.size.is_some(), "`outcome = \"too-big\"` needs `size`"),
        (
            expect.reason.is_some() || expect.at.is_none() && expect.rule.is_none(),
            "`at` and `rule` go with `reason`",
        ),
        (expect.shows.is_none() && expect.on.is_none(), "`on` and `shows` go with `run`"),
    ];
    match rules.iter().find(|(holds, _)| !holds) {
        Some((_, what)) => Err((*what).into()),
        None => Ok(()),
    }
}

fn place_hosts(topology: &Topology, overlay: &Overlay) -> Result<BTreeMap<String, Host>, String> {
    let mut hosts = BTreeMap::new();
    for (name, host) in &overlay.hosts {
        let spec = topology.host.get(name).and_then(|spec| spec.switch.as_deref());
        let vtep = topology.vtep.get(name);
        if (host.runs == Runs::Vxlan) != vtep.is_some() {
            return Err(format!(
                "`{name}` must be under [vtep] exactly when the configuration says runs = \"vxlan\""
            ));
        }
        let switch = spec.or_else(|| vtep.and_then(|spec| spec.switch.as_deref()));
        hosts.insert(name.clone(), place_host(&topology.switch, name, host, switch)?);
    }
    if let Some(name) = topology.host.keys().find(|name| !overlay.hosts.contains_key(*name)) {
        return Err(format!("host `{name}` is not in the configuration"));
    }
    for (name, spec) in topology.vtep.iter().filter(|(name, _)| !overlay.hosts.contains_key(*name)) {
        hosts.insert(name.clone(), place_unknown_host(&topology.switch, name, spec)?);
    }
    Ok(hosts)
}

fn place_unknown_host(
    switches: &BTreeMap<String, Switch>,
    name: &str,
    spec: &VtepSpec,
) -> Result<Host, String> {
    let vtep = spec
        .address
        .ok_or_else(|| format!("vtep `{name}` is not in the configuration and needs `address`"))?;
    let host = overlay::Host { vtep, device: overlay::Devices::None, runs: Runs::Vxlan };
    place_host(switches, name, &host, spec.switch.as_deref())
}

fn place_host(
    switches: &BTreeMap<String, Switch>,
    name: &str,
    host: &overlay::Host,
    switch: Option<&str>,
) -> Result<Host, String> {
    let mut subnets = switches
        .iter()
        .filter(|(at, _)| switch.is_none_or(|switch| switch == at.as_str()))
        .flat_map(|(at, switch)| switch.subnets.iter().map(move |subnet| (at, subnet)));
    let (switch, subnet) = subnets
        .find(|(_, subnet)| subnet.contains(&host.vtep))
        .ok_or_else(|| format!("no switch has a subnet with {}, the VTEP of `{name}`", host.vtep))?;
    let device = host.device.first().unwrap_or("underlay0").to_owned();
    device_name(&device)?;
    let address = IpNet::new(host.vtep, subnet.prefix_len()).map_err(|error| error.to_string())?;
    Ok(Host { runs: host.runs, switch: switch.clone(), device, address })
}

fn place_machines(
    topology: &Topology,
    overlay: Overlay,
    hosts: &BTreeMap<String, Host>,
) -> Result<BTreeMap<String, Machine>, String> {
    let mut machines = BTreeMap::new();
    let mut stations = Vec::new();
    for (name, endpoint) in overlay.endpoints {
        let spec = topology.machine.get(&name);
        let mtu = spec.and_then(|spec| spec.mtu);
        let gateways = spec.map(|spec| spec.gateways.clone()).unwrap_or_default();
        stations.push((name, endpoint, mtu, gateways, None));
    }
    if let Some(name) =
        topology.machine.keys().find(|name| !stations.iter().any(|(known, ..)| known == *name))
    {
        return Err(format!(
            "machine `{name}` is no endpoint of the configuration; an unknown host goes under [station]"
        ));
    }
    for (name, station) in &topology.station {
        let at = hypervisor_of(topology, station).map_err(|what| format!("machine `{name}`: {what}"))?;
        let (host, port) = at.map_or((&station.on, station.port.as_ref()), |at| (&at.on, Some(&at.port)));
        let endpoint = overlay::Endpoint {
            network: station.network.clone(),
            host: host.clone(),
            port: port.cloned(),
            vlan: None,
            shared: false,
            mac: station.mac,
            addresses: station.addresses.clone(),
        };
        stations.push((name.clone(), endpoint, station.mtu, station.gateways.clone(), Some(station)));
    }
    for (name, endpoint, mtu, gateways, station) in stations {
        let place = place_machine(topology, &overlay.networks, hosts, endpoint, mtu, gateways);
        let mut machine = place.map_err(|what| format!("machine `{name}`: {what}"))?;
        if let Some((station, profile)) =
            station.and_then(|station| Some((station, station.profile.as_ref()?)))
        {
            machine.hypervisor = Some(station.on.clone());
            machine.vsi = Some(Vsi {
                manager: profile.vsi_manager.clone(),
                kind: profile.vsi_type,
                version: profile.vsi_version,
                vlan: 0,
                mac: station.mac,
            });
        }
        if machines.insert(name.clone(), machine).is_some() {
            return Err(format!("there are two machines `{name}`"));
        }
    }
    distinct_ports(&machines)?;
    Ok(machines)
}

/// The hypervisor that a machine is on: it has one exactly when something is said of it.
fn hypervisor_of<'t>(topology: &'t Topology, station: &Station) -> Result<Option<&'t Hypervisor>, String> {
    let hypervisor = topology.hypervisor.get(&station.on);
    match (hypervisor, &station.profile) {
        (Some(_), None) => Err(format!("`{}` is a hypervisor, and it needs a `profile`", station.on)),
        (None, Some(_)) => Err(format!("`profile` goes with a hypervisor, and `{}` is none", station.on)),
        (Some(_), _) if station.port.is_some() => Err("its port is its hypervisor's".into()),
        (hypervisor, _) => Ok(hypervisor),
    }
}

fn place_machine(
    topology: &Topology,
    networks: &BTreeMap<String, overlay::Network>,
    hosts: &BTreeMap<String, Host>,
    endpoint: overlay::Endpoint,
    mtu: Option<u16>,
    gateways: Vec<IpAddr>,
) -> Result<Machine, String> {
    let network =
        networks.get(&endpoint.network).ok_or_else(|| format!("there is no network {}", endpoint.network))?;
    let host = hosts.get(&endpoint.host).ok_or_else(|| format!("there is no host {}", endpoint.host))?;
    let overhead = if host.address.addr().is_ipv4() { OVERHEAD_V4 } else { OVERHEAD_V6 };
    let underlay_mtu = topology.switch.get(&host.switch).map_or(0, |switch| switch.mtu);
    let fits = underlay_mtu.saturating_sub(overhead);
    // A device of its own for every network and host half of a MAC: unique on any host of a lab.
    let [.., c, d, e] = endpoint.mac.0;
    let port = endpoint.port.unwrap_or_else(|| format!("p{}-{c:02x}{d:02x}{e:02x}", network.vni));
    device_name(&port)?;
    let addresses =
        endpoint.addresses.iter().map(|address| with_prefix(*address, &network.subnets)).collect();
    Ok(Machine {
        on: endpoint.host,
        port,
        vlan: endpoint.vlan,
        shared: endpoint.shared,
        hypervisor: None,
        vsi: None,
        network: endpoint.network,
        vni: network.vni,
        mac: endpoint.mac,
        addresses,
        mtu: mtu.or(network.mtu).unwrap_or(fits),
        gateways,
    })
}

fn with_prefix(address: IpAddr, subnets: &[IpNet]) -> IpNet {
    let subnet = subnets.iter().find(|subnet| subnet.contains(&address)).map(IpNet::prefix_len);
    // RFC 4291 section 2.5.6
    let prefix_len = subnet.or(is_link_local(&address).then_some(64));
    prefix_len.and_then(|prefix_len| IpNet::new(address, prefix_len).ok()).unwrap_or_else(|| address.into())
}

fn is_link_local(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

fn distinct_ports(machines: &BTreeMap<String, Machine>) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    let place = |machine: &'_ Machine| (machine.vlan, machine.is_told_by_mac().then_some(machine.mac));
    match machines.values().find(|machine| !seen.insert((&machine.on, &machine.port, place(machine)))) {
        Some(machine) => Err(format!("two machines are plugged into `{}` of {}", machine.port, machine.on)),
        None => Ok(()),
    }
}

/// The switches of machines that have a VLAN, or share a segment.
fn trunks(
    machines: &BTreeMap<String, Machine>,
    hosts: &BTreeMap<String, Host>,
) -> Result<BTreeMap<String, Trunk>, String> {
    let mut trunks = BTreeMap::new();
    for (name, machine) in machines {
        let Some(trunk) = machine.trunk() else { continue };
        if hosts.get(&machine.on).is_some_and(|host| host.runs != Runs::Eastgate) {
            return Err(format!(
                "machine `{name}`: no eastgate runs on {}, and `vlan` and `shared` go with one",
                machine.on
            ));
        }
        if machines.contains_key(&trunk) {
            return Err(format!("machine `{trunk}` has the name of a trunk"));
        }
        let place = trunks.entry(trunk).or_insert(Trunk {
            host: machine.on.clone(),
            device: machine.port.clone(),
            mtu: 0,
            isolates: machine.shared,
            tagged: machine.vlan.is_some(),
        });
        if place.isolates != machine.shared {
            return Err(format!("`{}` of {} is a trunk, and shared", machine.port, machine.on));
        }
        if place.tagged != machine.vlan.is_some() {
            return Err(format!("`{}` of {} is shared, and so are VLANs of it", machine.port, machine.on));
        }
        place.mtu = place.mtu.max(machine.mtu);
    }
    let on_both = |machine: &Machine| {
        machine.trunk().is_none() && trunks.contains_key(&format!("{}/{}", machine.on, machine.port))
    };
    match machines.values().find(|machine| on_both(machine)) {
        Some(machine) => Err(format!("`{}` of {} is a trunk, and a machine's own", machine.port, machine.on)),
        None => Ok(trunks),
    }
}

fn device_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > DEVICE_NAME_MAX || name.contains(['/', ' ']) {
        return Err(format!(
            "`{name}` cannot be the name of a network device (1 to {DEVICE_NAME_MAX} characters)"
        ));
    }
    Ok(())
}
