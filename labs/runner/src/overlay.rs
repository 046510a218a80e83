//! What a lab needs to know of a story's `eastgate.toml`: hosts, networks and endpoints.
//!
//! It is read leniently, as plain TOML: the daemons check the file, and a story about a broken one must come up.

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use eastgate_wire::{MacAddr, Vni};
use ipnet::IpNet;
use serde::Deserialize;

use super::error::LabError;

/// The UDP port of VXLAN (RFC 7348 section 5).
const VXLAN_PORT: u16 = 4789;

/// Hosts, networks and endpoints of one configuration.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    pub(super) port: u16,
    pub(super) hosts: BTreeMap<String, Host>,
    /// By `tenant/network`
    pub(super) networks: BTreeMap<String, Network>,
    /// By `tenant/endpoint`
    pub(super) endpoints: BTreeMap<String, Endpoint>,
}

/// A host of the configuration.
#[derive(Debug, Deserialize)]
pub(super) struct Host {
    pub(super) vtep: IpAddr,
    #[serde(default)]
    pub(super) device: Devices,
    #[serde(default)]
    pub(super) runs: Runs,
}

/// The underlay devices of a host.
#[derive(Debug, Default, Deserialize)]
#[serde(untagged)]
pub(super) enum Devices {
    /// It is not said.
    #[default]
    None,
    /// One
    One(String),
    /// Several, of which the first is where its VTEP's address is
    Many(Vec<String>),
}

impl Devices {
    /// The one with the VTEP's address.
    pub(super) fn first(&self) -> Option<&str> {
        match self {
            Self::None => None,
            Self::One(device) => Some(device),
            Self::Many(devices) => devices.first().map(String::as_str),
        }
    }
}

/// What runs a host's VTEP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Runs {
    /// The daemon
    #[default]
    Eastgate,
    /// The kernel's vxlan device
    Vxlan,
}

/// A network of a tenant.
#[derive(Debug, Deserialize)]
pub(super) struct Network {
    pub(super) vni: Vni,
    #[serde(default)]
    pub(super) subnets: Vec<IpNet>,
    pub(super) mtu: Option<u16>,
}

/// An endpoint of a tenant.
#[derive(Debug, Deserialize)]
pub(super) struct Endpoint {
    /// `tenant/network` once read
    pub(super) network: String,
    pub(super) host: String,
    pub(super) port: Option<String>,
    pub(super) vlan: Option<Vlan>,
    #[serde(default)]
    pub(super) shared: bool,
    pub(super) mac: MacAddr,
    #[serde(default)]
    pub(super) addresses: Vec<IpAddr>,
}

/// Which frames of a trunk are an endpoint's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(untagged)]
pub(super) enum Vlan {
    /// Those with this tag
    Id(u16),
    /// Those without one
    Word(VlanWord),
}

/// What `vlan` may say beside a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum VlanWord {
    Untagged,
}

impl Vlan {
    /// The tag, if it has one.
    pub(super) fn id(self) -> Option<u16> {
        match self {
            Self::Id(id) => Some(id),
            Self::Word(VlanWord::Untagged) => None,
        }
    }
}

#[derive(Deserialize)]
struct File {
    overlay: Option<Tunnels>,
    #[serde(default)]
    host: BTreeMap<String, Host>,
    #[serde(default)]
    tenant: BTreeMap<String, Tenant>,
}

#[derive(Deserialize)]
struct Tunnels {
    port: Option<u16>,
}

#[derive(Deserialize)]
struct Tenant {
    #[serde(default)]
    network: BTreeMap<String, Network>,
    #[serde(default)]
    endpoint: BTreeMap<String, Endpoint>,
}

impl Overlay {
    /// Reads `path`.
    pub(super) fn read(path: &Path) -> Result<Self, LabError> {
        let text = super::story::read(path).map_err(LabError::file(path))?;
        Self::parse(&text).map_err(|error| LabError::Toml { path: path.into(), message: error.to_string() })
    }

    fn parse(text: &str) -> Result<Self, toml::de::Error> {
        let file: File = toml::from_str(text)?;
        let port = file.overlay.and_then(|tunnels| tunnels.port).unwrap_or(VXLAN_PORT);
        let mut overlay = Self { port, hosts: file.host, ..Self::default() };
        for (tenant, content) in file.tenant {
            for (name, network) in content.network {
                overlay.networks.insert(format!("{tenant}/{name}"), network);
            }
            for (name, mut endpoint) in content.endpoint {
                endpoint.network = format!("{tenant}/{}", endpoint.network);
                overlay.endpoints.insert(format!("{tenant}/{name}"), endpoint);
            }
        }
        Ok(overlay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_named_by_tenant() {
        let overlay = Overlay::parse(
            r#"
            [host.alpha]
            vtep = "192.0.2.1"
            device = "underlay0"
            some_new_key = true
            [host.beta]
            vtep = "192.0.2.2"
            runs = "vxlan"
            [tenant.acme.network.lan]
            vni = 5001
            subnets = ["10.1.0.0/24"]
            [tenant.acme.endpoint.web1]
            network = "lan"
            host = "alpha"
            port = "veth-web1"
            mac = "02:00:00:00:00:11"
            addresses = ["10.1.0.11", "fd00:1::11"]
            [tenant.acme.endpoint.web2]
            network = "lan"
            host = "alpha"
            port = "trunk0"
            vlan = 101
            mac = "02:00:00:00:00:12"
            [tenant.acme.endpoint.web3]
            network = "lan"
            host = "alpha"
            port = "trunk0"
            vlan = "untagged"
            mac = "02:00:00:00:00:13"
            "#,
        )
        .unwrap();
        assert_eq!(overlay.port, 4789);
        assert_eq!(overlay.hosts["alpha"].runs, Runs::Eastgate);
        assert_eq!(overlay.hosts["beta"].runs, Runs::Vxlan);
        let web1 = &overlay.endpoints["acme/web1"];
        assert_eq!(overlay.networks[&web1.network].vni.get(), 5001);
        assert_eq!((web1.addresses.len(), web1.vlan), (2, None));
        let tag = |name: &str| overlay.endpoints[name].vlan.map(Vlan::id);
        assert_eq!((tag("acme/web2"), tag("acme/web3")), (Some(Some(101)), Some(None)));
    }

    #[test]
    fn an_error_tells_its_line() {
        let error = Overlay::parse("[tenant.acme.network.lan]\nvni = 16777216\n").unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
    }
}
