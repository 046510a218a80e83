//! `topology.toml`: what a story adds to its `eastgate.toml`, and what it expects to see.
//!
//! MACs, addresses and VNIs are never repeated here: every endpoint of the configuration is a machine of the
//! lab, and every host of the configuration is a node. Only what the configuration cannot know is written: the
//! switches of the underlay, how plain VTEPs flood, machines that nobody configured, and the expectations.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
};

use eastgate_wire::{Family, MacAddr};
use ipnet::IpNet;
use serde::Deserialize;

use super::error::LabError;

/// A story.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Topology {
    /// One line for a person
    pub(super) title: String,
    /// The configuration of every daemon, beside the topology
    #[serde(default = "default_config")]
    pub(super) config: PathBuf,
    /// Underlay segments: a bridge each, in a namespace of its own
    #[serde(default)]
    pub(super) switch: BTreeMap<String, Switch>,
    /// Hosts that run eastgate, where something is to be said about them
    #[serde(default)]
    pub(super) host: BTreeMap<String, HostSpec>,
    /// Plain kernel VTEPs
    #[serde(default)]
    pub(super) vtep: BTreeMap<String, VtepSpec>,
    /// Endpoints, where something is to be said about them
    #[serde(default)]
    pub(super) machine: BTreeMap<String, MachineSpec>,
    /// Machines that the configuration does not know
    #[serde(default)]
    pub(super) station: BTreeMap<String, Station>,
    /// Hypervisors that say by VDP which machines they have
    #[serde(default)]
    pub(super) hypervisor: BTreeMap<String, Hypervisor>,
    /// Further cables
    #[serde(default)]
    pub(super) link: Vec<Link>,
    /// What holds at first
    #[serde(default)]
    pub(super) expect: Vec<Expect>,
    /// What is done then, each with what holds afterwards
    #[serde(default)]
    pub(super) step: Vec<Step>,
}

/// An underlay segment.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Switch {
    /// Hosts whose VTEP address is in one of these are plugged in
    pub(super) subnets: Vec<IpNet>,
    #[serde(default = "default_mtu")]
    pub(super) mtu: u16,
    /// IGMP and MLD snooping: multicast reaches only ports that joined
    #[serde(default)]
    pub(super) snooping: bool,
}

/// What is special about a host.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct HostSpec {
    /// Another switch than the one whose subnet has the VTEP address
    pub(super) switch: Option<String>,
}

/// A kernel vxlan device and a bridge for every VNI that has a machine there.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct VtepSpec {
    pub(super) switch: Option<String>,
    /// For a VTEP that the configuration does not know
    pub(super) address: Option<IpAddr>,
    /// Whether it learns MACs from what it receives
    pub(super) learning: bool,
    /// Hosts that broadcast and unknown unicast are sent to
    pub(super) flood: Vec<String>,
    /// Or the multicast group that they are sent to
    pub(super) group: Option<IpAddr>,
    /// Whether its machines reach each other only through the tunnel (isolated bridge ports)
    pub(super) isolated: bool,
    /// Static FDB entries: machine to host
    pub(super) forward: BTreeMap<String, String>,
}

impl Default for VtepSpec {
    fn default() -> Self {
        Self {
            switch: None,
            address: None,
            learning: true,
            flood: vec![],
            group: None,
            isolated: false,
            forward: BTreeMap::new(),
        }
    }
}

/// What is special about an endpoint's machine.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct MachineSpec {
    /// Bytes; without it what fits the tunnel
    pub(super) mtu: Option<u16>,
    /// Default routes
    pub(super) gateways: Vec<IpAddr>,
}

/// A hypervisor with an `lldpad`, at a device of a host. Its machines are macvlan devices in VEPA mode: whatever they send leaves by its uplink.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Hypervisor {
    /// The host
    pub(super) on: String,
    /// The device there
    pub(super) port: String,
    /// Of its uplink, from which LLDP and ECP come
    pub(super) mac: MacAddr,
}

/// What a hypervisor says of a machine.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Profile {
    /// As a profile of the configuration has them
    pub(super) vsi_manager: String,
    pub(super) vsi_type: u32,
    #[serde(default)]
    pub(super) vsi_version: u8,
}

/// A machine that the configuration does not know.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Station {
    /// The host, VTEP or hypervisor that it is plugged into
    pub(super) on: String,
    /// `tenant/network`
    pub(super) network: String,
    /// What its hypervisor says of it, where it has one
    pub(super) profile: Option<Profile>,
    pub(super) mac: MacAddr,
    #[serde(default)]
    pub(super) addresses: Vec<IpAddr>,
    pub(super) port: Option<String>,
    pub(super) mtu: Option<u16>,
    #[serde(default)]
    pub(super) gateways: Vec<IpAddr>,
}

/// A cable from a node to a switch.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Link {
    pub(super) node: String,
    pub(super) switch: String,
    pub(super) device: String,
    #[serde(default)]
    pub(super) addresses: Vec<IpNet>,
}

/// Something is done, then something holds.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Step {
    /// One line for a person
    pub(super) say: String,
    /// The daemon of this host ends at once (SIGKILL)
    pub(super) kill: Option<String>,
    /// The daemon of this host ends in order (SIGTERM)
    pub(super) stop: Option<String>,
    /// The daemon of this host is started
    pub(super) start: Option<String>,
    /// Every daemon gets this configuration and is told to reload
    pub(super) reload: Option<PathBuf>,
    /// Every daemon tries this configuration beside the one in force
    pub(super) stage: Option<PathBuf>,
    /// What was staged is put in force everywhere
    #[serde(default)]
    pub(super) promote: bool,
    /// The station of this hypervisor says nothing any more
    pub(super) silence: Option<String>,
    /// The stations of these machines say that they are gone
    #[serde(default)]
    pub(super) deassociate: Names,
    /// The stations of these machines associate them
    #[serde(default)]
    pub(super) associate: Names,
    #[serde(default)]
    pub(super) expect: Vec<Expect>,
}

/// What holds.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Expect {
    /// One line for a person
    pub(super) story: String,
    /// Who sends: one or several
    #[serde(default)]
    pub(super) from: Names,
    /// To whom: one or several; every pair is checked
    #[serde(default)]
    pub(super) to: Names,
    pub(super) proto: Option<Proto>,
    pub(super) port: Option<u16>,
    pub(super) source_port: Option<u16>,
    /// Without it, every family that both have an address of
    pub(super) family: Option<Family>,
    #[serde(default)]
    pub(super) outcome: Outcome,
    /// The drop reason whose counter must grow
    pub(super) reason: Option<String>,
    /// The rule that the counter must name
    pub(super) rule: Option<String>,
    /// The host whose counter it is; without it any
    pub(super) at: Option<String>,
    /// Whose MAC is in the answer to ARP or ND: a machine, or `proxy` for a MAC that no machine has
    pub(super) answered_by: Option<String>,
    /// The frame says that it comes from someone else
    pub(super) spoof: Option<Spoof>,
    /// Bytes of TCP payload to carry unharmed
    pub(super) bytes: Option<u64>,
    /// Bytes of the whole IP packet of an ICMP echo with DF
    pub(super) size: Option<u16>,
    /// The MTU that the answer to a packet too big must tell
    pub(super) mtu: Option<u16>,
    /// Another pair that has a flow with the same ports at the same time
    pub(super) twin: Option<Twin>,
    /// The connection stays open under this name
    pub(super) hold: Option<String>,
    /// The connection of this name is used again
    pub(super) resume: Option<String>,
    /// Where `run` is run, or the host that `asks`
    pub(super) on: Option<String>,
    /// An address of the underlay, whose MAC the host asks for there; `answered_by` is then a HOST/DEVICE
    pub(super) asks: Option<IpAddr>,
    /// A command whose output is looked at
    pub(super) run: Option<Vec<String>>,
    /// What the output has in it
    pub(super) shows: Option<String>,
}

/// One name or several.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(untagged)]
pub(super) enum Names {
    /// None, where the check needs none
    #[default]
    None,
    /// One
    One(String),
    /// Several
    Many(Vec<String>),
}

impl Names {
    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        let names: &[String] = match self {
            Self::None => &[],
            Self::One(name) => std::slice::from_ref(name),
            Self::Many(names) => names,
        };
        names.iter().map(String::as_str)
    }
}

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Proto {
    /// A TCP connection
    Tcp,
    /// A UDP datagram and its answer
    Udp,
    /// An echo request: ICMP or ICMPv6, as the family is
    Icmp,
    /// A request for the other's IPv4 address
    Arp,
    /// A solicitation for the other's IPv6 address
    Nd,
}

/// What comes of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Outcome {
    /// It arrives at the one it was meant for, and the answer arrives too
    #[default]
    Reach,
    /// It does not arrive, and nothing answers within a bound
    Refused,
    /// It does not arrive, and an answer says so (TCP reset, ICMP unreachable)
    Rejected,
    /// It does not arrive, and an answer tells the MTU
    TooBig,
}

/// What the frame pretends.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Spoof {
    /// The machine whose IP address is the source
    pub(super) address: Option<String>,
    /// The machine whose MAC is the source
    pub(super) mac: Option<String>,
}

/// Two other machines.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Twin {
    pub(super) from: String,
    pub(super) to: String,
}

impl Topology {
    /// Reads `topology.toml` of the story in `folder`.
    pub(super) fn read(folder: &Path) -> Result<Self, LabError> {
        let path = folder.join("topology.toml");
        let text = super::story::read(&path).map_err(LabError::file(&path))?;
        toml::from_str(&text).map_err(|error| LabError::Toml { path, message: error.to_string() })
    }

    /// Every expectation with the place it stands at: 0 before the first step, n after step n.
    pub(super) fn expectations(&self) -> impl Iterator<Item = (usize, &Expect)> {
        let first = self.expect.iter().map(|expect| (0, expect));
        let later = self.step.iter().enumerate();
        first.chain(later.flat_map(|(index, step)| step.expect.iter().map(move |expect| (index + 1, expect))))
    }
}

fn default_config() -> PathBuf {
    "eastgate.toml".into()
}

fn default_mtu() -> u16 {
    1600
}
