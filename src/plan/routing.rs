//! What the kernel is to route (`neighbors = "kernel"`), and by what it finds it: devices, rules, routes and neighbours, as data.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use eastgate_dataplane::snapshot::{Network, Snapshot};
use eastgate_steering::{
    kernel,
    settings::{PortRole, Setting, port_settings},
};
use eastgate_wire::{Family, MacAddr};
use serde::{Deserialize, Serialize};

use super::{PUNT_MTU, Step};
use crate::io::netlink::Link;

/// One entry of the kernel's tables.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entry {
    /// A rule: what comes in by a device is looked up in a table.
    Lookup {
        /// Of which protocol
        family: Family,
        /// The device
        device: String,
        /// The table
        table: u32,
    },
    /// A rule behind it: and nowhere else.
    Nowhere {
        /// Of which protocol
        family: Family,
        /// The device
        device: String,
    },
    /// The route to an address of an endpoint
    Route {
        /// Its address
        address: IpAddr,
        /// Its port
        device: String,
        /// In which table
        table: u32,
    },
    /// The MAC of an endpoint: it is never asked for.
    Neighbor {
        /// An address of it
        address: IpAddr,
        /// Its port
        device: String,
        /// Its MAC
        mac: MacAddr,
    },
    /// The kernel answers solicitations for an address.
    Proxy {
        /// The address
        address: Ipv6Addr,
        /// To what comes in by this device
        device: String,
    },
}

impl Entry {
    /// The command of iproute2, and its words behind `add` or `del`.
    fn words(&self) -> (&'static str, String) {
        let [lookup, nowhere] = kernel::RULES;
        match self {
            Self::Lookup { family, device, table } => {
                (of(*family, "rule"), format!("iif {device} lookup {table} pref {lookup}"))
            }
            Self::Nowhere { family, device } => {
                (of(*family, "rule"), format!("iif {device} blackhole pref {nowhere}"))
            }
            Self::Route { address, device, table } => {
                let command = of(if address.is_ipv4() { Family::V4 } else { Family::V6 }, "route");
                (command, format!("{address} dev {device} table {table}"))
            }
            Self::Neighbor { address, device, mac } => {
                ("neigh", format!("{address} lladdr {mac} dev {device} nud permanent"))
            }
            Self::Proxy { address, device } => ("neigh", format!("proxy {address} dev {device}")),
        }
    }

    /// What it is for
    #[must_use]
    pub const fn why(&self) -> &'static str {
        match self {
            Self::Lookup { .. } => "what was admitted and decided is routed by a table of its own",
            Self::Nowhere { .. } => "and by none of the host's routes",
            Self::Route { .. } => "an endpoint is behind its port",
            Self::Neighbor { .. } => "the kernel asks no endpoint for its MAC, and believes none",
            Self::Proxy { .. } => "the kernel answers solicitations for the endpoint",
        }
    }

    /// The device that it is about, and with which it goes; a rule outlives its own.
    #[must_use]
    pub fn device(&self) -> &str {
        match self {
            Self::Lookup { device, .. }
            | Self::Nowhere { device, .. }
            | Self::Route { device, .. }
            | Self::Neighbor { device, .. }
            | Self::Proxy { device, .. } => device,
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (command, words) = self.words();
        write!(f, "{command} {words}")
    }
}

const fn of(family: Family, command: &'static str) -> &'static str {
    match (family, command.as_bytes()[1]) {
        (Family::V6, b'u') => "-6 rule",
        (Family::V6, _) => "-6 route",
        _ => command,
    }
}

/// The networks in which the kernel routes on this host.
pub fn routed_networks(snapshot: &Snapshot) -> impl Iterator<Item = &Network> {
    let networks = snapshot.networks().into_iter().map(|network| &**network);
    networks.filter(|network| {
        network.kernel_entry.is_some() && network.endpoints().any(|it| it.attachment().is_some())
    })
}

/// The ports of this host in such a network by the names of their devices, each with the addresses that there is a route to.
fn ports(network: &Network) -> impl Iterator<Item = (&str, MacAddr, Vec<IpAddr>)> {
    network.endpoints().filter(|endpoint| endpoint.attachment().is_some()).filter_map(|endpoint| {
        let written = network.config()?.endpoint(&endpoint.name)?.attachment.as_ref()?;
        let addresses = endpoint.holdings().addresses.iter().map(|address| address.to_ip());
        Some((&*written.device, endpoint.mac, addresses.collect()))
    })
}

/// The names of ports out of which the kernel is to route IPv6.
#[must_use]
pub fn ports_of_ipv6(snapshot: &Snapshot) -> Vec<&str> {
    let all = routed_networks(snapshot).flat_map(ports);
    all.filter(|(.., addresses)| addresses.iter().any(IpAddr::is_ipv6)).map(|(device, ..)| device).collect()
}

/// What brings the devices by which the kernel gets packets of a network.
#[must_use]
pub fn router_steps(network: &Network) -> Vec<Step> {
    let (entry, router) = (kernel::entry(network.vni), kernel::router(network.vni));
    let own = port_settings(&PortRole::KernelProxy { interface: &router });
    let silent = port_settings(&PortRole::Tenant { interface: &entry });
    let mut steps = vec![Step::MakeRouter {
        entry: entry.clone(),
        router: router.clone(),
        mac: network.proxy_mac,
        network: network.name.clone(),
    }];
    steps.extend(silent.into_iter().chain(own).filter_map(set_own));
    steps.push(Step::BringUp { devices: [entry, router], mtu: PUNT_MTU });
    steps
}

/// A setting of a device that goes with it, in a kernel that has it.
fn set_own(setting: Setting) -> Option<Step> {
    let file = setting.id().to_string();
    let to = u8::try_from(setting.wanted).ok()?;
    // What is of neighbours has no `default` in most network namespaces.
    let like = std::path::Path::new("/proc/sys").join(file.replace(&*setting.interface, "default"));
    (setting.key.table() == "neigh" || like.exists()).then_some(Step::SetOwn { file, to, why: setting.why })
}

/// The entries that the kernel is to have for ports that are there and up.
#[must_use]
pub fn entries(snapshot: &Snapshot, is_served: &dyn Fn(&str) -> bool) -> Vec<Entry> {
    let mut all = Vec::new();
    for network in routed_networks(snapshot) {
        let (device, table) = (kernel::router(network.vni), kernel::table(network.vni));
        let mut families: Vec<Family> = Vec::new();
        for (port, mac, addresses) in ports(network) {
            for address in addresses {
                families.push(if address.is_ipv4() { Family::V4 } else { Family::V6 });
                if !is_served(port) {
                    continue;
                }
                let port = port.to_owned();
                all.push(Entry::Neighbor { address, device: port.clone(), mac });
                all.push(Entry::Route { address, device: port, table });
                if let IpAddr::V6(address) = address {
                    all.push(Entry::Proxy { address, device: device.clone() });
                }
            }
        }
        families.sort_unstable();
        families.dedup();
        for family in families {
            all.push(Entry::Nowhere { family, device: device.clone() });
            all.push(Entry::Lookup { family, device: device.clone(), table });
        }
    }
    // What closes before what opens: a table is asked once it is behind a rule that says that there is no other.
    all.sort_by_key(|entry| match entry {
        Entry::Nowhere { .. } => 0,
        Entry::Neighbor { .. } => 1,
        Entry::Lookup { .. } => 2,
        Entry::Route { .. } | Entry::Proxy { .. } => 3,
    });
    all
}

/// Devices that are there and up, by name.
#[must_use]
pub fn is_up(links: &BTreeMap<String, Link>, name: &str) -> bool {
    links.get(name).is_some_and(|link| link.up)
}
