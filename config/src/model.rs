//! The configuration after every check: what the rest of the appliance is built from.
//!
//! Names that are referred to exist, addresses lie in their subnets, nothing is there twice where it may be
//! there once. Lists are sorted by name, so the same files give the same order.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use eastgate_wire::{Addr, Attachment, Family, Helper, MacAddr, TableSizes, Vni, VtepAddr};
use ipnet::IpNet;

pub use super::timeouts::{OwnTimeouts, Timeouts};
use super::{
    check::reserved_role,
    ethertypes::L2Protocol,
    leaf::{
        Action, EgressDefault, Flood, Learn, Mode, Neighbors, OnChange, OuterField, Oversize, PortRange,
        Runs, TcpMode, TcpUnknown, Topology, UdpChecksum, Unknown,
    },
    place::Place,
    policies::{AddressSet, Policy, SitePolicy},
    vdp::{Profile, VdpDevice},
    vlans::VlanRange,
};

/// The name of a host, tenant, network, group or endpoint: 1 to 63 characters `a-z A-Z 0-9 _ - .`, the first a
/// letter or digit.
pub type Name = Arc<str>;

/// A whole configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Config {
    /// What all tunnels have in common.
    pub overlay: Overlay,
    /// Limits of one host, over all its networks.
    pub limits: Limits,
    /// Sizes of the fast path's tables on one host.
    pub kernel_tables: TableSizes,
    /// The hosts, by name.
    pub hosts: BTreeMap<Name, Host>,
    /// What the site lays down for all tenants. The same `Arc` after a reload of which the first file did not change.
    pub site: Arc<SitePolicy>,
    /// The tenants, by name. A tenant whose file did not change is the same `Arc` after a reload.
    pub tenants: BTreeMap<Name, Arc<Tenant>>,
}

/// What all tunnels have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Overlay {
    /// UDP port the VTEPs listen on.
    pub port: u16,
    /// TTL or hop limit of the outer header.
    pub ttl: OuterField,
    /// TOS or traffic class of the outer header. The two ECN bits follow RFC 6040 whatever it says.
    pub tos: OuterField,
    /// Where outer source ports are taken from.
    pub source_ports: PortRange,
    /// How many distinct source ports are used: a power of two, at most the size of `source_ports`.
    pub entropy_ports: u32,
    /// The UDP checksum of the outer header.
    pub udp_checksum: UdpChecksum,
    /// DF on the outer IPv4 header.
    pub dont_fragment: bool,
}

/// Sizes of the tables of flows, of one host or of one network on one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Replied flows.
    pub flows: u32,
    /// Unreplied flows; the oldest goes first.
    pub unreplied: u32,
    /// Those of one endpoint that opened them, where it has no other limits of its own.
    pub endpoint: EndpointLimits,
    /// Flows that may begin each second, and at once; none where any number may.
    pub new_flows: Option<u32>,
    /// Datagrams in fragments.
    pub fragments: u32,
}

/// A machine with a VTEP.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host {
    /// Its name.
    pub name: Name,
    /// Where its table begins.
    pub at: Place,
    /// Its underlay address.
    pub vtep: VtepAddr,
    /// Its underlay network devices, at least one.
    pub devices: Box<[Arc<str>]>,
    /// The UDP checksum of what is sent to it, where it is another than the overlay's.
    pub udp_checksum: Option<UdpChecksum>,
    /// What runs the VTEP.
    pub runs: Runs,
    /// Prefixes that no tenant may reach.
    pub management: Vec<IpNet>,
    /// Devices behind which stations say which machines they have, by name.
    pub vdp: BTreeMap<Arc<str>, VdpDevice>,
}

/// A tenant. Nothing of one tenant is visible to another, but groups and sets that it shares.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tenant {
    /// Its name.
    pub name: Name,
    /// Where its name is first written.
    pub at: Place,
    /// For people.
    pub description: Option<Arc<str>>,
    /// Whether its denials are carried out, or are all being tried out
    pub mode: Mode,
    /// Where that is written, or else its name
    pub mode_at: Place,
    /// Its networks, by name, each with its endpoints.
    pub networks: BTreeMap<Name, Network>,
    /// Its groups, by name.
    pub groups: BTreeMap<Name, Arc<Group>>,
    /// Its address sets, by name.
    pub sets: BTreeMap<Name, AddressSet>,
    /// Its policies, by name.
    pub policies: BTreeMap<Name, Policy>,
    /// What machines are that stations associate, by name.
    pub profiles: BTreeMap<Name, Profile>,
}

/// A layer 2 network: one VNI.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    /// Its name.
    pub name: Name,
    /// Its tenant's name.
    pub tenant: Name,
    /// Where its table begins.
    pub at: Place,
    /// Its identifier on the wire.
    pub vni: Vni,
    /// Where the identifier is written.
    pub vni_at: Place,
    /// Its subnets, of both families, none overlapping another.
    pub subnets: Vec<IpNet>,
    /// MTU of the tenant's interfaces in bytes of IP packet; without it, the underlay's less the overhead.
    pub mtu: Option<u16>,
    /// Where the MTU is written.
    pub mtu_at: Option<Place>,
    /// Who sends to whom.
    pub topology: Topology,
    /// The hub's name; there exactly when the topology is a hub.
    pub hub: Option<HostRef>,
    /// Every host with a part in it, sorted by name: of its endpoints, of `hosts`, and the hub. The place is one
    /// that makes the host a member.
    pub members: Vec<HostRef>,
    /// Whether unknown stations behind member VTEPs are admitted and learned.
    pub learning: bool,
    /// How BUM frames are sent.
    pub flood: Flood,
    /// The group they are sent to; there exactly when `flood` is multicast.
    pub multicast_group: Option<IpAddr>,
    /// Where the group is written.
    pub multicast_group_at: Option<Place>,
    /// Who answers ARP and ND.
    pub neighbors: Neighbors,
    /// What becomes of requests for addresses that no endpoint has.
    pub unknown_neighbors: Unknown,
    /// What becomes of frames to MACs that nobody is known to have.
    pub unknown_destinations: Unknown,
    /// Whether inner frames may carry a VLAN tag.
    pub vlan_aware: bool,
    /// The VLANs whose tags they may carry, sorted and disjoint; none where that is any.
    pub guest_vlans: Option<Vec<VlanRange>>,
    /// What its endpoints may speak beside IPv4, IPv6 and ARP, sorted.
    pub ethertypes: Vec<L2Protocol>,
    /// Whether datagrams with reserved VXLAN bits set are dropped (RFC 7348 says to ignore the bits).
    pub strict_reserved: bool,
    /// Where TCP state begins.
    pub tcp: TcpMode,
    /// How long strict TCP picks up the connections of an endpoint that has come.
    pub tcp_pickup: Duration,
    /// What becomes of TCP segments that are of no connection.
    pub tcp_unknown: TcpUnknown,
    /// What becomes of flows when the policy changes.
    pub on_change: OnChange,
    /// What endpoints may send none of whose groups has an egress rule.
    pub egress_default: EgressDefault,
    /// Where that is written, or else its table.
    pub egress_default_at: Place,
    /// What becomes of packets that do not fit and may be fragmented.
    pub oversize: Oversize,
    /// Whether the MSS of TCP SYNs is lowered to what fits.
    pub mss_clamp: bool,
    /// What becomes of tenants' multicast and broadcast beyond ARP, ND and DHCP.
    pub multicast: Unknown,
    /// Broadcast, unknown unicast and multicast frames a second on one host.
    pub bum_limit: u32,
    /// Packets a second that may be punted from the fast path to the pipeline on one host.
    pub slow_path_limit: u32,
    /// MACs learned on one host.
    pub mac_limit: u32,
    /// How long a learned MAC that is silent is remembered.
    pub mac_age: Duration,
    /// How long idle flows are remembered.
    pub timeouts: Timeouts,
    /// Sizes of its tables on one host.
    pub limits: Limits,
    /// Its endpoints, sorted by name. They may be ten thousand: who wants the rest of a network copies none of them.
    pub endpoints: Arc<Vec<Arc<Endpoint>>>,
}

/// A host's name and where it is written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostRef {
    /// The host.
    pub host: Name,
    /// Where this says so.
    pub at: Place,
}

/// A security group: what its members may receive and send. An endpoint in several groups has the union.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Group {
    /// Its name.
    pub name: Name,
    /// Where its table begins.
    pub at: Place,
    /// For people.
    pub description: Option<Arc<str>>,
    /// The templates whose rules it has beside its own, in the order written.
    pub like: Vec<Name>,
    /// The group whose rules it has with other values; none where it is written so. Nobody is in one that is made.
    pub made_of: Option<Name>,
    /// The groups whose rules its members have beside its own, however deep they are included; sorted.
    pub includes: Vec<Name>,
    /// Its members may send each other anything: the last rule of both lists says so, and is written there.
    pub admits_members: bool,
    /// What its rules allow begins a flow, whose answers pass; else each packet is decided by itself.
    pub stateful: bool,
    /// Addresses in prefixes that its members share are of the group, too.
    pub wide: bool,
    /// The tenants whose rules may name it beside its own tenant's.
    pub shared_with: Vec<Name>,
    /// What members may receive, in the order written. Shared by all readings of a file in which it did not change.
    pub ingress: Arc<Vec<Rule>>,
    /// What members may send, likewise.
    pub egress: Arc<Vec<Rule>>,
}

/// One rule: what it does with what matches all its parts. A group's rules allow.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Where it is written.
    pub at: Place,
    /// For people.
    pub description: Option<Arc<str>>,
    /// The protocol.
    pub protocol: Protocol,
    /// Destination ports, sorted and disjoint; empty for any. Only with protocols that have ports.
    pub ports: Vec<PortRange>,
    /// Source ports, likewise.
    pub source_ports: Vec<PortRange>,
    /// ICMP type and code; only with protocol number 1 or 58.
    pub icmp: Option<IcmpMatch>,
    /// The family, where the rule is for one only: said, or following from protocol or peers.
    pub family: Option<Family>,
    /// The other side: one of these matches. Never empty.
    pub peers: Vec<Peer>,
    /// The endpoint's own addresses that it is about; empty for any.
    pub own: Box<[IpNet]>,
    /// DSCPs of a flow's first packet, sorted; empty for any.
    pub dscp: Box<[u8]>,
    /// TCP flags of a flow's first packet; only with TCP.
    pub tcp_flags: Option<FlagMatch>,
    /// Who reads the flows that it lets in; only where it allows, with the helper's protocol and ports.
    pub helper: Option<Helper>,
    /// What it grants each source; only where it allows.
    pub limits: Option<Box<SourceLimits>>,
    /// What it does.
    pub action: Action,
    /// Flows that it lets in or refuses are logged.
    pub log: bool,
    /// Whether it is being tried out by itself.
    pub mode: Mode,
}

/// How many flows a rule grants each source with each endpoint whose rule it is; one of both is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SourceLimits {
    /// Flows at once.
    pub connections: Option<u32>,
    /// Flows that begin.
    pub new_connections: Option<NewConnections>,
    /// The length of the prefix that makes a source, of IPv4 and IPv6.
    pub per_prefix: [u8; 2],
}

/// How often flows may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NewConnections {
    /// Flows a second.
    pub per_second: u32,
    /// Flows at once after a pause.
    pub burst: u32,
}

/// TCP flags that must be set, and those that are looked at for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlagMatch {
    /// Those that are set, all of them among the others
    pub set: u8,
    /// Those that are looked at
    pub of: u8,
    /// Anything but that.
    pub negated: bool,
}

/// The protocol of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Every protocol.
    Any,
    /// ICMP in IPv4 and ICMPv6 in IPv6. Where the rule is for one family only, it is [`Protocol::Number`].
    Icmp,
    /// The protocol with this number.
    Number(u8),
    /// Every protocol but [`Protocol::Icmp`]; of one family, it is [`Protocol::NotNumber`].
    NotIcmp,
    /// Every protocol but the one with this number.
    NotNumber(u8),
}

/// ICMP type and code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IcmpMatch {
    /// The type.
    pub kind: u8,
    /// The code, if it matters.
    pub code: Option<u8>,
    /// All but these.
    pub negated: bool,
}

/// The other side of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// Everyone.
    Any,
    /// Addresses in a prefix.
    Prefix(IpNet),
    /// Addresses in a prefix but for those in others inside it.
    Except(IpNet, Box<[IpNet]>),
    /// Members of a group of the same tenant, in the network of the rule's endpoint.
    Group(Name),
    /// Members of a group of another tenant.
    GroupOf(Name, Name),
    /// Addresses in a set of the same tenant; in rules of the site, of the site.
    Set(Name),
    /// Addresses in a set of another tenant.
    SetOf(Name, Name),
}

impl Group {
    /// Whether it says itself what its members may send. That they may send each other anything is not that.
    #[must_use]
    pub fn has_egress_rules(&self) -> bool {
        self.egress.len() > usize::from(self.admits_members)
    }
}

/// A station of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Its name, unique in the tenant.
    pub name: Name,
    /// Where its table begins.
    pub at: Place,
    /// The host it runs on.
    pub host: HostRef,
    /// How it is attached to that host; none only where the host does not run eastgate.
    pub attachment: Option<Attachment>,
    /// Where the port is written.
    pub port_at: Option<Place>,
    /// Its MAC.
    pub mac: MacAddr,
    /// Its addresses, each inside a subnet of the network.
    pub addresses: Vec<Addr>,
    /// Those of them that were learned: none in what the files say.
    pub learned: Vec<Addr>,
    /// By what addresses of it are learned; none where they are not.
    pub learning: Option<Learning>,
    /// The groups it is in, sorted.
    pub groups: Vec<Name>,
    /// The groups whose rules it has, sorted; none where those are the ones it is in, and what they include.
    pub rules_of: Option<Box<[Name]>>,
    /// What else it may send from.
    pub allowed_pairs: Vec<AllowedPair>,
    /// Prefixes that it forwards for.
    pub routes: Vec<IpNet>,
    /// The VLANs whose tagged frames it may send and be sent, likewise; none where that is its network's.
    pub guest_vlans: Option<Vec<VlanRange>>,
    /// What it may speak beside IPv4, IPv6, ARP and its network's, sorted.
    pub ethertypes: Vec<L2Protocol>,
    /// Whether its MAC and addresses are checked.
    pub port_security: bool,
    /// Whether it may send router advertisements and redirects.
    pub router: bool,
    /// Whether it may send DHCP and DHCPv6 server messages.
    pub dhcp_server: bool,
    /// How many flows it may have opened, where that is not what its network says.
    pub limits: OwnLimits,
    /// How long its flows are remembered, where that is not what its network says.
    pub timeouts: Option<Box<OwnTimeouts>>,
}

/// What one endpoint has in place of its network's [`EndpointLimits`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct OwnLimits {
    /// Replied flows
    pub flows: Option<u32>,
    /// Unreplied flows
    pub unreplied: Option<u32>,
    /// Flows that may begin each second
    pub new_flows: Option<u32>,
}

impl EndpointLimits {
    /// With those that an endpoint has of its own.
    #[must_use]
    pub fn with(self, own: OwnLimits) -> Self {
        Self {
            flows: own.flows.unwrap_or(self.flows),
            unreplied: own.unreplied.unwrap_or(self.unreplied),
            new_flows: own.new_flows.or(self.new_flows),
        }
    }
}

/// Flows that one endpoint may have opened on one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EndpointLimits {
    /// Replied flows
    pub flows: u32,
    /// Unreplied flows; the oldest goes first
    pub unreplied: u32,
    /// Flows that may begin each second, and at once; none where any number may
    pub new_flows: Option<u32>,
}

/// How addresses of an endpoint are learned.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Learning {
    /// By what; never [`Learn::None`]
    pub by: Learn,
    /// How many at most
    pub limit: u32,
    /// The first in each family is the only one.
    pub lock: bool,
    /// How long one that is silent is remembered
    pub age: Duration,
    /// Where they may be
    pub within: Box<[IpNet]>,
}

/// Another address that an endpoint may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AllowedPair {
    /// The addresses.
    pub address: IpNet,
    /// The MAC that goes with them; the endpoint's own if none is given.
    pub mac: Option<MacAddr>,
}

impl Config {
    /// The host with this name.
    #[must_use]
    pub fn host(&self, name: &str) -> Option<&Host> {
        self.hosts.get(name)
    }

    /// The tenant with this name.
    #[must_use]
    pub fn tenant(&self, name: &str) -> Option<&Arc<Tenant>> {
        self.tenants.get(name)
    }

    /// Every network of every tenant, by tenant and name.
    pub fn networks(&self) -> impl Iterator<Item = (&Arc<Tenant>, &Network)> {
        self.tenants
            .values()
            .flat_map(|tenant| tenant.networks.values().map(move |network| (tenant, network)))
    }

    /// The networks that `host` has a part in.
    pub fn networks_of(&self, host: &str) -> impl Iterator<Item = (&Arc<Tenant>, &Network)> {
        self.networks().filter(move |(_, network)| network.is_member(host))
    }

    /// The hosts with a part in a network, sorted by name.
    pub fn members<'a>(&'a self, network: &'a Network) -> impl Iterator<Item = &'a Host> {
        network.members.iter().filter_map(|member| self.hosts.get(&member.host))
    }

    /// The bytes that VXLAN adds to a tenant's IP packet in this network: 50 over IPv4, 70 over IPv6, without
    /// VLAN tags.
    #[must_use]
    pub fn overhead(&self, network: &Network) -> u16 {
        let v6 = self.members(network).next().is_some_and(|host| host.vtep.0.is_ipv6());
        if v6 { OVERHEAD_V6 } else { OVERHEAD_V4 }
    }
}

/// Outer IPv4, UDP and VXLAN headers and the inner Ethernet header, in bytes.
pub const OVERHEAD_V4: u16 = 20 + 8 + 8 + 14;
/// Outer IPv6, UDP and VXLAN headers and the inner Ethernet header, in bytes.
pub const OVERHEAD_V6: u16 = 40 + 8 + 8 + 14;

impl Tenant {
    /// Every endpoint of every network, by network and name.
    pub fn endpoints(&self) -> impl Iterator<Item = (&Network, &Endpoint)> {
        self.networks
            .values()
            .flat_map(|network| network.endpoints.iter().map(move |endpoint| (network, &**endpoint)))
    }
}

impl Network {
    /// Whether `host` has a part in it.
    #[must_use]
    pub fn is_member(&self, host: &str) -> bool {
        self.members.binary_search_by(|member| (*member.host).cmp(host)).is_ok()
    }

    /// The endpoint with this name.
    #[must_use]
    pub fn endpoint(&self, name: &str) -> Option<&Endpoint> {
        let index = self.endpoints.binary_search_by(|endpoint| (*endpoint.name).cmp(name)).ok()?;
        self.endpoints.get(index).map(AsRef::as_ref)
    }

    /// Whether no station of its subnet can have an address: that of the network, broadcast, the routers' anycast.
    #[must_use]
    pub fn is_no_stations(&self, address: Addr) -> bool {
        self.subnet_of(address).is_some_and(|subnet| reserved_role(address.to_ip(), *subnet).is_some())
    }

    /// The subnet that `address` is in.
    #[must_use]
    pub fn subnet_of(&self, address: Addr) -> Option<&IpNet> {
        let ip = address.to_ip();
        self.subnets.iter().find(|subnet| subnet.contains(&ip))
    }
}

/// What the UDP checksum of datagrams is like, by whom they are for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Checksums {
    vteps: BTreeMap<IpAddr, UdpChecksum>,
    groups: Option<UdpChecksum>,
}

impl Checksums {
    /// Of datagrams to a VTEP or a multicast group. `Auto` is left of those that need none.
    #[must_use]
    pub fn to(&self, address: IpAddr) -> UdpChecksum {
        let of_group = || self.groups.filter(|_| address.is_multicast());
        self.vteps.get(&address).copied().or_else(of_group).unwrap_or(UdpChecksum::Auto)
    }
}

impl Config {
    /// What the UDP checksums of what is sent are like. Linux, for one, drops datagrams over IPv6 that have none, unless it
    /// is told otherwise of the port (RFC 6935).
    #[must_use]
    pub fn checksums(&self) -> Checksums {
        let of_host = |host: &Host| match host.udp_checksum.unwrap_or(self.overlay.udp_checksum) {
            UdpChecksum::Auto if host.vtep.0.is_ipv6() && !host.runs_eastgate() => UdpChecksum::Always,
            other => other,
        };
        let vteps: BTreeMap<_, _> = self.hosts.values().map(|host| (host.vtep.0, of_host(host))).collect();
        // Whoever hears a group may be one that wants it.
        let wanted = vteps.values().any(|sum| *sum == UdpChecksum::Always);
        let groups = match self.overlay.udp_checksum {
            UdpChecksum::Auto if wanted => UdpChecksum::Always,
            other => other,
        };
        Checksums { vteps, groups: Some(groups) }
    }
}

impl Host {
    /// Its underlay devices, for people.
    #[must_use]
    pub fn device_names(&self) -> String {
        self.devices.join(", ")
    }

    /// Whether eastgate runs it; otherwise it is a plain VTEP.
    #[must_use]
    pub fn runs_eastgate(&self) -> bool {
        self.runs == Runs::Eastgate
    }
}
