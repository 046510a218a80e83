//! The files' tables and keys: the one declaration that reader, defaults and JSON schema come from.

use std::{net::IpAddr, sync::Arc};

use eastgate_wire::{MacAddr, Vni};
use ipnet::IpNet;
use schemars::SchemaGenerator;
use toml::de::DeTable;

use super::{
    ethertypes::L2Protocol,
    leaf::*,
    problem::Problem,
    read::{At, Field, Named, Read, Reader, Span, table},
    values::{
        AddressOrPrefix, Device, Int, List, NameText, NumberOrWord, OneOrMany, OuterTtl, PeerValue, TrunkVlan,
    },
    variables::{PortsValue, Variables},
    vlans::VlanRange,
};

mod timeouts;
mod vdp;

pub(super) use self::{
    timeouts::{EndpointTimeoutsTable, TimeoutsTable},
    vdp::{ProfileTable, VdpTable},
};
pub(super) use super::sizes::{KernelTable, Mtu, NewConnectionsTable, PerPrefixTable, Seconds, TableSize};

table! {
    /// The configuration of an eastgate overlay: hosts, tenants, networks, groups, policies and endpoints.
    "file"
    struct FileTable {
        /// More files, as patterns counted from this file's folder; `*` and `?` in the file name. They hold hosts
        /// and tenants.
        many include: List<Arc<str>>,
        /// What all tunnels have in common.
        optional overlay: OverlayTable,
        /// Limits of one host, over all its networks.
        optional limits: HostLimitsTable,
        /// Sizes of one host's tables in the kernel.
        optional fastpath: FastpathTable,
        /// Most of what tenants may have.
        optional quota: QuotaTable,
        /// The machines with a VTEP, by name.
        many host: Named<HostTable>,
        /// The site's policies, by name: no tenant can change them.
        many policy: Named<PolicyTable>,
        /// The site's address sets, by name: for its policies and templates.
        many set: Named<SiteSetTable>,
        /// Rules that groups of any tenant may start from, by name.
        many template: Named<TemplateTable>,
        /// Endpoints that are carried without policy, as "TENANT/ENDPOINT": the exclusion list. Whose packets they are is checked all
        /// the same, and the rules of the other end hold.
        many exclude: List<Arc<str>>,
        /// Endpoints that may send to VTEPs and to `management` addresses, as "TENANT/ENDPOINT": of what they send there, policies
        /// decide. VXLAN to a VTEP they may not send.
        many underlay_access: List<Arc<str>>,
        /// The tenants, by name.
        many tenant: Named<TenantTable>,
    }
}

table! {
    /// What all tunnels have in common.
    "overlay table"
    struct OverlayTable {
        /// UDP port the VTEPs listen on.
        default port: Int<1, 65535> = Int(4789),
        /// TTL or hop limit of the outer header, or "inherit" for that of the inner packet.
        default ttl: OuterTtl = OuterTtl(OuterField::Fixed(64)),
        /// TOS or traffic class of the outer header, or "inherit". ECN always follows RFC 6040.
        default tos: OuterField = OuterField::Fixed(0),
        /// Range that outer source ports are taken from.
        default source_ports: PortRange = PortRange { first: 49152, last: 65535 },
        /// Distinct outer source ports used: a power of two.
        default entropy_ports: Int<1, 65536> = Int(256),
        /// UDP checksums of what is sent. "auto": right to plain VTEPs over IPv6, which drop datagrams without one; to
        /// others zero on single datagrams, right on bursts, which the kernel insists on. "always": right on all.
        /// "never": zero on all.
        default udp_checksum: UdpChecksum = UdpChecksum::Auto,
        /// DF on outer IPv4 headers.
        default dont_fragment: bool = true,
    }
}

table! {
    /// Sizes of one host's tables, over all its networks.
    "limits table"
    struct HostLimitsTable {
        /// Replied flows; at the limit the cheapest makes room.
        default flows: TableSize = Int(1_000_000),
        /// Unreplied flows; the oldest goes first.
        default unreplied: TableSize = Int(65_536),
        /// Datagrams in fragments: so many in the pipeline, and as many in the kernel's programs.
        default fragments: TableSize = Int(4_096),
    }
}

table! {
    /// Sizes of the tables of one host's eBPF programs. Their memory is taken when they are made, or as they fill.
    "fastpath table"
    struct FastpathTable {
        /// Networks; flows of others stay with the pipeline.
        default networks: KernelTable = Int(65_536),
        /// VTEPs of flows, this one aside; flows of others stay with the pipeline.
        default vteps: KernelTable = Int(16_384),
        /// Attachments (tenant ports); others are not served.
        default attachments: KernelTable = Int(16_384),
        /// Addresses of endpoints between which flows are decided in the kernel; flows of others are
        /// decided by the pipeline.
        default endpoints: KernelTable = Int(262_144),
        /// Memory for compiled policies, in MiB over all networks; networks that there is none for are
        /// decided by the pipeline.
        default policy_mib: Int<1, 65536> = Int(256),
        /// Policy cache: pairs and services that the policy tables do not cover and whose flows begin in the kernel all the
        /// same; the ones used last are kept.
        default policy_cache: KernelTable = Int(16_384),
        /// Neighbor cache: ARP and ND requests, by sender and target, that are answered in the kernel; the ones used last
        /// are kept.
        default neighbor_cache: KernelTable = Int(16_384),
        /// Connections replaced by others on the same ports that are not counted yet, which is done each
        /// second; what is more is not counted for its endpoints and rules.
        default closed_flows: KernelTable = Int(16_384),
        /// Policy-drop counters: kinds of packets that rules refuse in the kernel, by sender, rule and direction; others are
        /// refused by the pipeline.
        default policy_drops: KernelTable = Int(16_384),
    }
}

table! {
    /// A machine with a VTEP.
    "host"
    struct HostTable {
        /// Underlay address of its VTEP, IPv4 or IPv6.
        required vtep: IpAddr = "\"172.31.0.1\"",
        /// Underlay network device, or a list of them: all by which datagrams of other VTEPs come in. What is sent
        /// follows the host's routes.
        required device: OneOrMany<Device> = "\"eth0\"",
        /// UDP checksums of what is sent to it, where they are others than the overlay's.
        optional udp_checksum: UdpChecksum,
        /// "eastgate", or "vxlan" for a plain VTEP that nobody here controls.
        default runs: Runs = Runs::Eastgate,
        /// Prefixes that tenants may never reach.
        many management: List<IpNet>,
        /// Devices behind which stations (hypervisors in VEPA mode) say by VDP, IEEE 802.1Qbg, which machines they have, by name.
        many vdp: Named<VdpTable>,
    }
}

table! {
    /// The most that each tenant may have; what is left out has no limit.
    "quota table"
    struct QuotaTable {
        with most: TenantQuotaTable,
        /// Tenants with other quotas, by name: what one says counts instead of what is said above.
        many tenant: Named<TenantQuotaTable>,
    }
}

table! {
    /// The most that one tenant may have.
    "quota table"
    struct TenantQuotaTable {
        /// Networks.
        optional networks: TableSize,
        /// Endpoints, over all its networks.
        optional endpoints: TableSize,
        /// Security groups.
        optional groups: TableSize,
        /// Policies.
        optional policies: TableSize,
        /// Rules of groups and policies, one for each peer that they name.
        optional rules: TableSize,
        /// Address sets.
        optional sets: TableSize,
        /// Addresses and prefixes in its sets.
        optional set_addresses: TableSize,
    }
}

table! {
    /// A tenant; nothing of one is visible to another, but what it shares.
    "tenant"
    struct TenantTable {
        /// For people.
        optional description: Arc<str>,
        /// "audit": what its own rules would deny passes, and is told, and so is what no rule of it allows; "enforce" if
        /// nothing is said.
        optional mode: Mode,
        /// What becomes of flows when the policy changes, in networks that do not say it themselves: "recheck", "cut", "reset" or "keep".
        default on_change: OnChange = OnChange::Recheck,
        /// Its networks, by name.
        many network: Named<NetworkTable>,
        /// Its security groups, by name.
        many group: Named<GroupTable>,
        /// Its address sets, by name.
        many set: Named<SetTable>,
        /// Its policies, by name.
        many policy: Named<PolicyTable>,
        /// Its endpoints, by name.
        many endpoint: Named<EndpointTable>,
        /// What machines are that stations associate by VDP, by name.
        many profile: Named<ProfileTable>,
    }
}

table! {
    /// A layer 2 network: one VNI.
    "network"
    struct NetworkTable {
        /// VXLAN network identifier.
        required vni: Vni = "5001",
        /// Address prefixes of both families.
        many subnets: List<IpNet>,
        /// MTU of the tenant's interfaces in bytes; left out, it is the underlay's less 50 (IPv4) or 70 (IPv6).
        optional mtu: Mtu,
        /// "mesh": every member sends to every other; "hub": all go through one.
        default topology: Topology = Topology::Mesh,
        /// The host that members send through.
        optional hub: NameText,
        /// Hosts with a part in it beside those of its endpoints.
        many hosts: List<NameText>,
        /// Unknown hosts behind members are admitted and learned.
        default learning: bool = false,
        /// How BUM frames are sent: a copy to each member, to an underlay multicast group, or not at all.
        default flood: Flood = Flood::Replicate,
        /// The underlay multicast group.
        optional multicast_group: IpAddr,
        /// Who answers ARP and ND: "suppress" (eastgate, with the endpoint's MAC), "proxy" (eastgate, with its own), "kernel" (the
        /// kernel, which routes between the endpoints of one host; with eastgate's MAC) or "off" (the endpoints).
        default neighbors: Neighbors = Neighbors::Suppress,
        /// ARP and ND requests for addresses that no endpoint has.
        default unknown_neighbors: Unknown = Unknown::Drop,
        /// Frames to MACs that nobody is known to have.
        default unknown_destinations: Unknown = Unknown::Drop,
        /// Inner frames may carry a VLAN tag.
        default vlan_aware: bool = false,
        /// VLANs whose tags the frames of its endpoints may carry, where it is `vlan_aware`: numbers, and ranges such as "100-199"; any
        /// if nothing is said.
        optional guest_vlans: List<VlanRange>,
        /// Protocols beside IPv4, IPv6 and ARP that its endpoints may speak with each other: ethertypes such as 0x88b5, or names
        /// such as "lldp", "mpls", "stp". Rules say nothing about them.
        many ethertypes: List<L2Protocol>,
        /// Filters by libvirt's names that its endpoints have, where they say nothing themselves.
        optional filters: List<NameText>,
        /// Datagrams with reserved VXLAN bits set are dropped.
        default strict_reserved: bool = false,
        /// "strict": TCP state begins at a SYN, SCTP's at an INIT or a HEARTBEAT; "loose": at any segment.
        default tcp: TcpMode = TcpMode::Strict,
        /// Seconds in which "strict" TCP picks up the connections of an endpoint that has come to this host; 0: never.
        default tcp_pickup: Int<0, 3_600> = Int(60),
        /// TCP segments that are of no connection and begin none: dropped, or answered with a reset where both ends' rules would let
        /// the sender connect.
        default tcp_unknown: TcpUnknown = TcpUnknown::Drop,
        /// Flows when the policy changes: decided again at their next packet ("recheck"), or at once where they are allowed no more
        /// ("cut", or "reset" where the ends of TCP connections are told by a reset), or kept; as its tenant says, if nothing is said.
        optional on_change: OnChange,
        /// What endpoints may send none of whose groups has an egress rule: nothing ("deny"), or everything ("open").
        default egress_default: EgressDefault = EgressDefault::Deny,
        /// Packets that do not fit the tunnel and may be fragmented (IPv4 without DF): cut, or dropped. Senders of others
        /// are told what fits.
        default oversize: Oversize = Oversize::Fragment,
        /// The MSS of TCP SYNs is lowered to what fits.
        default mss_clamp: bool = false,
        /// Multicast and broadcast beyond ARP, ND and DHCP.
        default multicast: Unknown = Unknown::Drop,
        /// Broadcast, unknown unicast and multicast frames a second on one host.
        default bum_limit: Int<0, 4_294_967_295> = Int(1_000),
        /// Packets a second that may be punted from the fast path to the pipeline on one host, a fifth of them at once.
        default slow_path_limit: Int<1, 4_294_967_295> = Int(500_000),
        /// MACs learned on one host.
        default mac_limit: Int<0, 100_000_000> = Int(1_024),
        /// Seconds that a silent learned MAC is remembered.
        default mac_age: Seconds = Int(300),
        /// By what endpoints get their addresses that have none written down: "dhcp" (what a DHCP server leases them), "nd" (their own
        /// ARP and neighbour discovery) or "any" (both, and their packets).
        default learn: Learn = Learn::None,
        /// Addresses that are learned of one endpoint at most, where it says nothing itself.
        default learn_limit: Int<1, 256> = Int(10),
        /// The first address that is learned of an endpoint in each family is its only one, where it says nothing itself.
        default learn_lock: bool = false,
        /// Seconds that a learned address is remembered without being heard or in use; one that is leased is for as long as that.
        default learn_age: Seconds = Int(86_400),
        /// Addresses and prefixes in its subnets that are never learned: those of gateways and the like.
        many learn_except: List<AddressOrPrefix>,
        /// Seconds that flows without packets are remembered.
        optional timeouts: TimeoutsTable,
        /// Sizes of this network's tables on one host.
        optional limits: NetworkLimitsTable,
    }
}

table! {
    /// Sizes of one network's tables on one host.
    "limits table"
    struct NetworkLimitsTable {
        /// Replied flows; at the limit the cheapest makes room.
        default flows: TableSize = Int(100_000),
        /// Unreplied flows; the oldest goes first, for one source as often a second as there may be, and at least 1000 times.
        default unreplied: TableSize = Int(8_192),
        /// Of `flows`, those that one endpoint has opened; three quarters if nothing is said.
        optional endpoint_flows: TableSize,
        /// Of `unreplied`, those that one endpoint has opened; three quarters if nothing is said.
        optional endpoint_unreplied: TableSize,
        /// Flows that may begin each second, as many of them at once; any number if nothing is said.
        optional new_flows: Int<1, 1_000_000>,
        /// The same of those that one endpoint opens.
        optional endpoint_new_flows: Int<1, 1_000_000>,
        /// Datagrams in fragments: so many in the pipeline, and as many in the kernel's programs.
        default fragments: TableSize = Int(512),
    }
}

table! {
    /// A security group. What no rule of an endpoint's groups allows is dropped.
    "group"
    struct GroupTable {
        /// For people.
        optional description: Arc<str>,
        /// A template of the site whose rules it has beside its own, or a list of them.
        optional like: OneOrMany<NameText>,
        /// Its members may send each other anything.
        default admit_members: bool = false,
        /// What its rules allow begins a flow, and its answers pass with it. With `false` each packet is decided by itself: no
        /// answer passes without a rule of its own, and nobody asks for the state of a TCP connection.
        default stateful: bool = true,
        /// Rules that name the group mean also the addresses in prefixes that its members have as `allowed_pairs`.
        default prefix_pairs: bool = false,
        /// Tenants whose rules may name it, as "group:TENANT/NAME".
        many shared_with: List<NameText>,
        /// Other groups of the tenant: its members have their rules as well, and those of what they include. Who is a member of them does not
        /// change.
        many include: List<NameText>,
        /// Values of variables in its rules and in those of groups that it includes, for endpoints that give none themselves:
        /// `{ PORTS = [80, "8000-8099"], CLIENTS = "10.1.0.0/24" }`.
        optional variables: Variables,
        /// What members may receive.
        many ingress: List<RuleTable>,
        /// What members may send.
        many egress: List<RuleTable>,
    }
}

table! {
    /// Rules that groups may start from.
    "template"
    struct TemplateTable {
        /// For people.
        optional description: Arc<str>,
        /// What members of such a group may receive.
        many ingress: List<RuleTable>,
        /// What they may send.
        many egress: List<RuleTable>,
    }
}

table! {
    /// Addresses with a name: rules mean them by "set:NAME".
    "set"
    struct SetTable {
        /// For people.
        optional description: Arc<str>,
        /// Addresses and prefixes, of both families.
        required addresses: List<AddressOrPrefix> = "[\"192.0.2.0/24\"]",
        /// Tenants whose rules may name it, as "set:TENANT/NAME".
        many shared_with: List<NameText>,
    }
}

table! {
    /// Addresses with a name: rules mean them by "set:NAME".
    "set"
    struct SiteSetTable {
        /// For people.
        optional description: Arc<str>,
        /// Addresses and prefixes, of both families.
        required addresses: List<AddressOrPrefix> = "[\"192.0.2.0/24\"]",
    }
}

table! {
    /// A policy: ordered rules, of which the first that matches acts.
    "policy"
    struct PolicyTable {
        /// For people.
        optional description: Arc<str>,
        /// Whether it is asked "before" the security groups, or "after" them about what they do not allow.
        default position: Position = Position::Before,
        /// Of policies at the same place the lower one is asked first; of equal ones, the first by name.
        default order: Int<0, 1_000_000> = Int(100),
        /// "audit": what it would deny passes, and is told.
        default mode: Mode = Mode::Enforce,
        /// "deny": packets are denied that no policy at its place settles, in the directions that it has rules for; "pass" if
        /// nothing is said. Before the groups only.
        optional end: PolicyEnd,
        /// Required: whose packets it is asked about. Of a tenant's policy: "tenant", "network:NAME", "group:NAME", "endpoint:NAME", or a
        /// list; of the site's: "site", "tenant:TENANT", "network:TENANT/NAME", "group:TENANT/NAME", "endpoint:TENANT/NAME".
        optional applies_to: OneOrMany<Arc<str>>,
        /// What may come to them.
        many ingress: List<PolicyRuleTable>,
        /// What they may send.
        many egress: List<PolicyRuleTable>,
    }
}

table! {
    /// A rule of a policy: what it does with what matches all its keys.
    "policy's rule"
    struct PolicyRuleTable {
        with rule: RuleTable,
        /// "allow" and "deny" settle it; "reject" denies, and tells the sender; "pass" leaves it to what comes behind the
        /// policies at this place.
        required action: Action = "\"deny\"",
        /// Only for endpoints with these addresses: an address, a prefix, or a list.
        optional own: OneOrMany<AddressOrPrefix>,
        /// DSCPs, by number or name ("ef", "af41"), or a list: of a flow's first packet.
        optional dscp: OneOrMany<NumberOrWord>,
        /// TCP flags that are set, of those that are looked at: "syn/syn,ack", "none/fin,rst"; of a flow's first packet.
        optional tcp_flags: Arc<str>,
        /// "audit": what it would deny passes, and is told.
        default mode: Mode = Mode::Enforce,
    }
}

table! {
    /// A group's rule, which allows what matches all its keys, and what a policy's rule has in common with it.
    "rule"
    struct RuleTable {
        /// For people.
        optional description: Arc<str>,
        /// Protocol by name or number, or "any". "icmp" without a type is ICMP and ICMPv6; with a type it is ICMP.
        default proto: NumberOrWord = NumberOrWord("any".into()),
        /// Destination ports: 443, "443", "8000-8099", or a list; with tcp, udp, sctp, dccp and udplite. In a group "$NAME" stands for
        /// the values of a variable, as in `source_ports`, `from` and `to`.
        optional ports: OneOrMany<PortsValue>,
        /// Source ports, likewise.
        optional source_ports: OneOrMany<PortsValue>,
        /// ICMP type by name or number; with icmp and icmpv6.
        optional icmp_type: NumberOrWord,
        /// ICMP code by name or number; with `icmp_type`.
        optional icmp_code: NumberOrWord,
        /// "ipv4" or "ipv6" for a rule of one family.
        optional family: RuleFamily,
        /// Ingress: who may send. "any", an address, a prefix, a prefix but for some as
        /// `{ prefix = "10.0.0.0/8", except = ["10.1.0.0/16"] }`, "group:NAME", "set:NAME", or a list; of another tenant that
        /// shares it "group:TENANT/NAME", "set:TENANT/NAME".
        optional from: OneOrMany<PeerValue>,
        /// Egress: to whom, likewise.
        optional to: OneOrMany<PeerValue>,
        /// Keys of the rule that mean all but what is written, as iptables' `!` and `match='no'` of nwfilter do: `not = ["from", "ports"]`.
        many not: List<RuleKey>,
        /// "ftp" (with tcp) or "tftp" (with udp): flows that it lets in are read, and the data connections or transfers that they announce
        /// are let pass as well; with `ports`.
        optional helper: RuleHelper,
        /// Flows that each source may have at once by this rule, with each endpoint whose rule it is; what is more is denied.
        optional connections: Int<1, 1_000_000>,
        /// Flows that each source may begin, likewise: `{ per_second = 10, burst = 20 }`; a burst of as many if nothing is said.
        optional new_connections: NewConnectionsTable,
        /// How much of an address makes a source: `{ ipv4 = 24, ipv6 = 64 }`; all of it if nothing is said.
        optional per_prefix: PerPrefixTable,
        /// Flows that it lets in are logged, and what a policy's rule refuses.
        default log: bool = false,
    }
}

table! {
    /// A prefix but for others inside it.
    "peer"
    struct PeerTable {
        /// The prefix.
        required prefix: AddressOrPrefix = "\"10.0.0.0/8\"",
        /// Addresses and prefixes inside it that are not meant.
        many except: List<AddressOrPrefix>,
    }
}

table! {
    /// A station of a tenant.
    "endpoint"
    struct EndpointTable {
        /// The network it is in.
        required network: NameText = "\"app\"",
        /// The host it runs on.
        required host: NameText = "\"alpha\"",
        /// Its network device as the host sees it; may be left out where the host runs "vxlan".
        optional port: Device,
        /// The VLAN of its frames on that device, or "untagged" for those without a tag: the device is a trunk then, which it shares with
        /// endpoints of other VLANs. If nothing is said, the device is its own, and all frames of it are, whatever their tags.
        optional vlan: TrunkVlan,
        /// The device, or `vlan` of it, is a segment that it shares with other endpoints, which reach each other by this host alone (isolated ports,
        /// a private VLAN): its MAC says which frames are its own. Its network answers as the appliance: `neighbors = "proxy"`.
        default shared: bool = false,
        /// Its MAC.
        required mac: MacAddr = "\"02:00:00:00:01:01\"",
        /// Its addresses, inside the network's subnets or link-local IPv6. May be left out where they are learned.
        optional addresses: List<IpAddr>,
        /// By what addresses are learned beside those: "dhcp", "nd", "any" or "none". If nothing is said, as the network says, unless
        /// it has `addresses`.
        optional learn: Learn,
        /// How many are learned at most; as the network says, if nothing is said.
        optional learn_limit: Int<1, 256>,
        /// The first address that is learned in each family is the only one; as the network says, if nothing is said.
        optional learn_lock: bool,
        /// Its security groups; of several, the union counts.
        many groups: List<NameText>,
        /// Values of variables in the rules of its groups, in place of those that the groups give: `{ PORTS = [8080] }`.
        optional variables: Variables,
        /// More addresses that it may send from.
        many allowed_pairs: List<AllowedPairTable>,
        /// Prefixes behind it: it forwards packets from them, and is sent packets to them.
        many routes: List<AddressOrPrefix>,
        /// VLANs of its network whose tagged frames it may send and be sent; all of them if nothing is said, none with an empty list.
        optional guest_vlans: List<VlanRange>,
        /// Protocols beside IPv4, IPv6 and ARP that it may speak with other endpoints that may, beside those of its network.
        many ethertypes: List<L2Protocol>,
        /// Filters by the names that libvirt's nwfilter gives them, such as "clean-traffic"; as the network says, if nothing is said.
        optional filters: List<NameText>,
        /// Its MAC and addresses are checked.
        default port_security: bool = true,
        /// It may advertise itself as a router and send redirects. What it forwards for is in `routes`.
        default router: bool = false,
        /// It may send DHCP and DHCPv6 server messages.
        default dhcp_server: bool = false,
        /// How many flows it may have opened on one host, where that is not what its network says.
        optional limits: EndpointLimitsTable,
        /// Seconds that its flows without packets are remembered, where that is not what its network says.
        optional timeouts: EndpointTimeoutsTable,
    }
}

table! {
    /// Flows that one endpoint has opened on one host; of what is left out, as many as its network says.
    "limits table"
    struct EndpointLimitsTable {
        /// Replied flows; as `endpoint_flows` of its network, if nothing is said.
        optional flows: TableSize,
        /// Unreplied flows; as `endpoint_unreplied` of its network, if nothing is said.
        optional unreplied: TableSize,
        /// Flows that may begin each second, as many of them at once; as `endpoint_new_flows` of its network, if nothing is said.
        optional new_flows: Int<1, 1_000_000>,
    }
}

table! {
    /// An address beyond its own that an endpoint may send from.
    "allowed pair"
    struct AllowedPairTable {
        /// The address, or a prefix.
        required address: AddressOrPrefix = "\"10.1.0.100/32\"",
        /// The MAC that goes with it; left out, the endpoint's own.
        optional mac: MacAddr,
    }
}
