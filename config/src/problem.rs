//! Everything that can be wrong with a configuration, and what to do about each.

use std::net::IpAddr;

use eastgate_wire::{MacAddr, Vni};
use ipnet::IpNet;
use serde::Serialize;

mod diagnostic;

pub use self::diagnostic::Diagnostic;
pub use super::near::Near;

/// Whether a configuration can be used in spite of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// No: it is refused whole.
    Error,
    /// Yes, but it is probably not what was meant.
    Warning,
}

macro_rules! problems {
    ($($(#[doc = $doc:literal])+ $variant:ident { $($field:ident: $type:ty),* } $severity:ident $code:literal $message:literal $remedy:literal;)*) => {
        /// One thing that is wrong, with the values it is about.
        #[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
        #[allow(missing_docs, reason = "the fields are the values that the message shows")]
        pub enum Problem {
            $($(#[doc = $doc])+ #[error($message)] $variant { $($field: $type),* },)*
        }

        impl Problem {
            /// The codes of all of them, in the order of their declaration.
            pub const CODES: &[&str] = &[$($code),*];

            /// A short name that stays the same: lower case, words joined by hyphens.
            #[must_use]
            pub const fn code(&self) -> &'static str {
                match self { $(Self::$variant { .. } => $code),* }
            }

            /// Whether the configuration can be used all the same.
            #[must_use]
            pub const fn severity(&self) -> Severity {
                match self { $(Self::$variant { .. } => Severity::$severity),* }
            }

            /// What to do about it.
            #[must_use]
            #[allow(unused_variables, reason = "a remedy names only some of the values")]
            pub fn remedy(&self) -> String {
                match self { $(Self::$variant { $($field),* } => format!($remedy)),* }
            }
        }
    };
}

problems! {
    /// The file cannot be read.
    Unreadable { path: String, error: String } Error "unreadable"
        "`{path}` cannot be read: {error}"
        "check that the file exists and that eastgate may read it";
    /// The file is not UTF-8.
    NotText { path: String } Error "not-text"
        "`{path}` is not UTF-8 text from here on"
        "save the file as UTF-8";
    /// The file is not TOML.
    Syntax { message: String } Error "syntax"
        "this is not TOML: {message}"
        "strings stand in \"quotes\", a table begins with [its.name], a key is followed by `=` and a value";
    /// A key or table is there twice.
    DuplicateKey { key: String } Error "duplicate-key"
        "`{key}` is here for the second time"
        "keep one of the two";
    /// A pattern that is none.
    BadInclude { pattern: String } Error "bad-include"
        "`{pattern}` is no pattern for files"
        "`*` and `?` may stand in the file name only, as in \"tenants/*.toml\"";
    /// No file matches.
    IncludeNothing { pattern: String } Error "include-nothing"
        "no file matches `{pattern}`"
        "patterns count from the folder of this file; create the file, or take the pattern out";
    /// A table that only the first file may have.
    Misplaced { key: String } Error "misplaced"
        "`{key}` stands in an included file"
        "move it to the file that has the `include`; included files hold hosts and tenants only";
    /// A key that nobody reads.
    UnknownKey { key: String, table: &'static str, near: Near } Error "unknown-key"
        "`{key}` is not a key of this {table}"
        "{near}";
    /// A key without which there is no meaning.
    MissingKey { key: &'static str, table: &'static str, example: &'static str } Error "missing-key"
        "this {table} lacks `{key}`"
        "add, for example, `{key} = {example}`";
    /// Another type was wanted.
    WrongType { wanted: &'static str, found: &'static str } Error "wrong-type"
        "this is {found}, not {wanted}"
        "write {wanted}";
    /// A number too small or too large.
    OutOfRange { value: String, min: u64, max: u64 } Error "out-of-range"
        "{value} is out of range"
        "write a number from {min} to {max}";
    /// A word that is none of those possible.
    BadWord { word: String, near: Near } Error "bad-word"
        "`{word}` is not possible here"
        "{near}";
    /// A name with bad characters.
    BadName { name: String } Error "bad-name"
        "`{name}` cannot be a name"
        "names have 1 to 63 characters, of a-z A-Z 0-9 _ - and . only, and begin with a letter or digit";
    /// Not the name of a network device.
    BadDevice { name: String } Error "bad-device"
        "`{name}` cannot be the name of a network device"
        "Linux takes 1 to 15 bytes without `/`, `:`, `%` and white space, and neither `.` nor `..`";
    /// Not a MAC.
    BadMac { text: String } Error "bad-mac"
        "`{text}` is not a MAC address"
        "write six bytes in hex, such as \"02:00:00:00:01:01\"";
    /// Not an address.
    BadAddress { text: String } Error "bad-address"
        "`{text}` is not an IP address"
        "write an address without a prefix length, such as \"10.1.0.11\" or \"fd00:1::11\"";
    /// Not a prefix.
    BadPrefix { text: String } Error "bad-prefix"
        "`{text}` is not an address prefix"
        "write an address and a prefix length, such as \"10.1.0.0/24\" or \"fd00:1::/64\"";
    /// A prefix with host bits set.
    HostBits { written: IpNet, meant: IpNet } Error "host-bits"
        "{written} has bits set beyond its prefix length"
        "write {meant} for the whole prefix, or a longer prefix length for fewer addresses";
    /// Not ports.
    BadPorts { text: String } Error "bad-ports"
        "`{text}` is neither a port nor a range of ports"
        "write a port from 0 to 65535, or a range such as \"8000-8099\"";
    /// A range from high to low.
    InvertedPorts { first: u16, last: u16 } Error "inverted-ports"
        "the range {first}-{last} is empty: it ends before it begins"
        "write \"{last}-{first}\"";
    /// A list that may not be empty.
    EmptyList { } Error "empty-list"
        "this list is empty, which could be meant as all or as none"
        "list what is meant, or take the key out";
    /// Not an ethertype that can be allowed.
    BadEthertype { text: String } Error "bad-ethertype"
        "{text} is no ethertype that endpoints can be allowed"
        "write a number from 0x600 to 0xffff, or a name such as \"lldp\"; IP, ARP, tags, flow control and slow protocols are not for this list";
    /// Not a protocol.
    BadProtocol { text: String, near: Near } Error "bad-protocol"
        "`{text}` is not a protocol"
        "{near} (others go by their number, 0 to 255)";
    /// Not the other side of a rule.
    BadPeer { text: String } Error "bad-peer"
        "`{text}` is neither an address, a prefix, a group nor a set"
        "write \"any\", an address, a prefix such as \"10.0.0.0/8\", \"group:NAME\" or \"set:NAME\"";
    /// Not an ICMP type or code.
    BadIcmp { text: String, what: &'static str, near: Near } Error "bad-icmp"
        "`{text}` is not {what}"
        "{near} (others go by their number, 0 to 255)";

    /// An address that no VTEP can have.
    VtepAddress { address: IpAddr } Error "vtep-address"
        "{address} cannot be a VTEP's address"
        "write the unicast address that other hosts reach this one by (not loopback, link-local or multicast)";
    /// Two hosts with one VTEP.
    VtepTwice { address: IpAddr, other: String } Error "vtep-twice"
        "{address} is the VTEP of host `{other}` already"
        "give each host an address of its own";
    /// A host in two files.
    HostTwice { name: String } Error "host-twice"
        "host `{name}` stands in two files"
        "keep one of the two";
    /// Datagrams would be sent from the port on which the VTEP listens.
    OwnSourcePort { port: u16 } Error "own-source-port"
        "{port} is the port on which the VTEPs listen, and the only one to send from"
        "write another port, or a range, such as \"49152-65535\"";
    /// Entropy ports that do not go.
    EntropyPorts { count: u32, most: u32 } Error "entropy-ports"
        "{count} source ports cannot be used"
        "write a power of two, at most {most}, the size of `source_ports`";

    /// A tenant in two files.
    TenantTwice { name: String } Error "tenant-twice"
        "tenant `{name}` stands in two files"
        "bring it together in one file: a tenant is wholly in one";
    /// A name that nobody has.
    UnknownName { kind: &'static str, name: String, near: Near } Error "unknown-name"
        "there is no {kind} `{name}`"
        "{near}";
    /// Two networks with one VNI.
    VniTwice { vni: Vni, other: String } Error "vni-twice"
        "VNI {vni} belongs to {other} already"
        "give each network a VNI of its own";
    /// A prefix that is no subnet of stations.
    SubnetKind { subnet: IpNet } Error "subnet-kind"
        "{subnet} holds addresses that no station can have"
        "a subnet has no loopback, multicast, reserved, link-local IPv6 or v4-mapped addresses in it";
    /// Subnets that overlap.
    SubnetOverlap { subnet: IpNet, other: IpNet } Error "subnet-overlap"
        "{subnet} overlaps {other} of the same network"
        "make the two disjoint, or keep the larger";
    /// An MTU below IPv6's minimum.
    MtuIpv6 { mtu: u16 } Error "mtu-ipv6"
        "an MTU of {mtu} is too small for the network's IPv6 subnets"
        "write at least 1280 (RFC 8200 section 5), or take the IPv6 subnets out";
    /// An MTU that does not fit the largest underlay.
    MtuTooLarge { mtu: u16, most: u16, overhead: u16 } Error "mtu-too-large"
        "an MTU of {mtu} fits no underlay"
        "write at most {most}: 65535 less the {overhead} bytes that VXLAN adds over IPv6";
    /// No VLAN.
    BadGuestVlan { text: String } Error "bad-guest-vlan"
        "{text} is no VLAN, and no range of them"
        "write a number from 1 to 4094, or a range such as \"100-199\"; 0 is a priority and no VLAN, which all frames may have where the network is vlan_aware";
    /// VLANs where no frame has a tag.
    GuestVlansUnaware { network: String } Error "guest-vlans-unaware"
        "network `{network}` is not vlan_aware: no frame in it has a tag"
        "add `vlan_aware = true` to the network, or take `guest_vlans` out";
    /// VLANs of an endpoint that are none of its network's.
    GuestVlanOutside { vlans: String, network: String } Error "guest-vlan-outside"
        "{vlans} is not among the VLANs of network `{network}`"
        "write some of those that the network carries, or add it there";
    /// A hub network without a hub.
    HubMissing { } Error "hub-missing"
        "the topology is \"hub\", and no hub is named"
        "add `hub = \"NAME\"` with the host that sends between the others";
    /// A hub in a mesh.
    HubUnused { } Error "hub-unused"
        "a hub is named, and the topology is \"mesh\""
        "add `topology = \"hub\"`, or take `hub` out";
    /// A hub that cannot be one.
    HubKind { host: String } Error "hub-kind"
        "host `{host}` does not run eastgate and cannot be a hub"
        "name a host with `runs = \"eastgate\"`";
    /// Flooding to a group that is not named.
    MulticastMissing { } Error "multicast-missing"
        "frames are to be flooded by multicast, and no group is named"
        "add `multicast_group = \"239.1.1.1\"` with a group of the underlay";
    /// A group that nothing is sent to.
    MulticastUnused { } Error "multicast-unused"
        "a multicast group is named, and frames are not flooded by multicast"
        "add `flood = \"multicast\"`, or take `multicast_group` out";
    /// A group that is none.
    NotMulticast { address: IpAddr } Error "not-multicast"
        "{address} is not a multicast address"
        "write a group of 224.0.0.0/4 or ff00::/8, such as \"239.1.1.1\" or \"ff05::5001\"";
    /// A group of the other family.
    MulticastFamily { address: IpAddr, network: String } Error "multicast-family"
        "the group {address} and the VTEPs of network `{network}` are of different families"
        "write a group of the family that the VTEPs have";
    /// VTEPs of both families.
    MixedVteps { network: String, host: String, other: String } Error "mixed-vteps"
        "the VTEPs of `{host}` and `{other}` are of different families, and both are in network `{network}`"
        "give all hosts of a network VTEP addresses of one family";

    /// An Ethernet address that no station can have.
    MacKind { mac: MacAddr } Error "mac-kind"
        "{mac} cannot be a station's MAC"
        "write a unicast address: not zero, and the first byte even";
    /// A MAC twice in a network.
    MacTwice { mac: MacAddr, other: String } Error "mac-twice"
        "{mac} is the MAC of endpoint `{other}` in the same network already"
        "give each endpoint of a network a MAC of its own";
    /// An address that no station can have.
    AddressKind { address: IpAddr } Error "address-kind"
        "{address} cannot be a station's address"
        "write a unicast address (not loopback, multicast, broadcast or unspecified)";
    /// An address outside the subnets.
    AddressOutside { address: IpAddr, network: String, subnets: String } Error "address-outside"
        "{address} is in no subnet of network `{network}`"
        "write an address of {subnets}, or add a subnet; addresses beyond the subnets go into `allowed_pairs`";
    /// The first or last address of a subnet.
    AddressReserved { address: IpAddr, role: &'static str, subnet: IpNet } Error "address-reserved"
        "{address} is {role} of {subnet}"
        "write another address of the subnet";
    /// An address twice in a network.
    AddressTwice { address: IpAddr, other: String } Error "address-twice"
        "{address} is an address of endpoint `{other}` in the same network already"
        "keep it at one endpoint; an address that moves between endpoints goes into `allowed_pairs` of each";
    /// Nowhere to learn addresses.
    LearnNowhere { network: String } Error "learn-nowhere"
        "addresses of this endpoint are to be learned, and network `{network}` has none that may be"
        "add `subnets` to the network, or take something out of its `learn_except`";
    /// A prefix that no router has anything behind.
    RouteKind { route: IpNet } Error "route-kind"
        "nothing behind a router has an address of {route}"
        "write unicast prefixes (not loopback, link-local, multicast or unspecified); any is \"0.0.0.0/0\" and \"::/0\"";
    /// An endpoint without a port.
    PortMissing { host: String } Error "port-missing"
        "the endpoint has no port on host `{host}`, which runs eastgate"
        "add `port = \"NAME\"` with the network device as the host sees it, such as a tap or a veth";
    /// Two endpoints on one port.
    PortTwice { port: String, host: String, other: String } Error "port-twice"
        "port `{port}` of host `{host}` belongs to {other} already"
        "give each endpoint a port of its own; or, where the port is a trunk, a `vlan` of it";
    /// Two endpoints on one VLAN of a trunk.
    VlanTwice { vlan: String, port: String, host: String, other: String } Error "vlan-twice"
        "{vlan} of port `{port}` of host `{host}` is for {other} already"
        "give each endpoint on a trunk a VLAN of its own";
    /// A trunk, and an endpoint that has the whole of it.
    PortMixed { port: String, host: String, other: String } Error "port-mixed"
        "of this endpoint and {other}, both on port `{port}` of host `{host}`, only one says which `vlan` is its own"
        "write `vlan` for both: the VLAN's number, or \"untagged\" for frames without a tag; an endpoint without `vlan` has the whole port";
    /// Two endpoints with one MAC on a shared segment.
    StationTwice { mac: MacAddr, segment: String, port: String, host: String, other: String } Error "station-twice"
        "MAC {mac} in {segment} of port `{port}` of host `{host}` is of {other} already"
        "give each endpoint on a shared segment a MAC of its own: it alone says whose a frame is";
    /// A shared segment, and an endpoint that has all of it.
    SharedMixed { port: String, host: String, other: String } Error "shared-mixed"
        "of this endpoint and {other}, both on port `{port}` of host `{host}`, only one is `shared` there"
        "write `shared = true` for both, so that their MACs tell them apart; or give one of them another `vlan` or port";
    /// A shared segment of no port.
    SharedAlone { } Error "shared-alone"
        "the endpoint shares a segment, and it is not said which"
        "add `port = \"NAME\"` with the device that leads to the segment, or take `shared` out";
    /// A shared segment whose machines would learn each other's MACs.
    SharedNeighbors { network: String } Error "shared-neighbors"
        "machines on a shared segment would be told each other's MACs by network `{network}`, and go past the appliance"
        "write `neighbors = \"proxy\"` for the network: for each other they have the appliance's MAC then";
    /// An endpoint that no route of the kernel can lead to.
    KernelUnroutable { network: String, because: &'static str, remedy: &'static str } Error "kernel-unroutable"
        "the kernel routes in network `{network}`, and it has no route to an endpoint {because}"
        "{remedy}, or write `neighbors = \"proxy\"` for the network";
    /// A device that eastgate makes.
    OwnDevice { name: String } Error "own-device"
        "`{name}` is the name of a device that eastgate makes, by which packets are handed to the kernel's routing"
        "give the endpoint's device another name";
    /// A network of which the kernel would have to learn.
    KernelLearns { key: &'static str } Error "kernel-learns"
        "`{key}` has no meaning where the kernel routes: its routes and neighbours are those that are written down"
        "take it out, or write `neighbors = \"proxy\"` for the network";
    /// Several MACs of an endpoint that is told from others by its MAC.
    SharedMacs { key: &'static str } Error "shared-macs"
        "`{key}` would let the endpoint use other MACs, and on a shared segment its own says which frames are its"
        "take it out, or give the endpoint a port or a VLAN of its own; pairs without `mac` are for its own MAC, and can stay";
    /// A router among those that it would tell its own MAC.
    SharedRouter { } Error "shared-router"
        "what a router advertises has its own MAC in it: machines on its shared segment would send to that, and go past the appliance"
        "give the router a port or a VLAN of its own; where gateways are configured, `routes` are enough, without `router`";
    /// A MAC that switches take for the appliance's.
    SharedOurs { mac: MacAddr } Error "shared-ours"
        "MAC {mac} is one that the appliance has on shared segments: the switch would send this machine what is the appliance's"
        "give the machine another MAC; those that begin with e2:67:77 are the appliance's";
    /// Not a VSI manager.
    BadManager { text: String } Error "bad-manager"
        "`{text}` is no VSI manager: one has 16 octets"
        "write text of 1 to 16 printable ASCII characters, or a UUID such as \"11111111-2222-3333-4444-555555555555\"";
    /// Stations at a host that eastgate does not run.
    VdpHost { host: String } Error "vdp-host"
        "host `{host}` does not run eastgate, and nobody would answer stations there"
        "take it out, or write `runs = \"eastgate\"` for the host";
    /// A device that is an endpoint's alone, and stations'.
    VdpPort { port: String, host: String } Error "vdp-port"
        "port `{port}` of host `{host}` is this endpoint's alone, and stations associate machines there"
        "write `shared = true` for the endpoint, or give it another port";
    /// A profile by which two tables are meant.
    ProfileTwice { vsi: String, other: String } Error "profile-twice"
        "stations mean {other} already by {vsi}"
        "give one of them another `vsi_manager`, `vsi_type` or `vsi_version`";
    /// A profile whose machines would have no addresses.
    ProfileLearn { network: String } Error "profile-learn"
        "nobody says which addresses machines of this profile have: network `{network}` does not learn them"
        "write `learn = \"dhcp\"` for the network or the profile; \"any\" where machines have addresses of their own choice";
    /// A VLAN of no port.
    VlanAlone { } Error "vlan-alone"
        "a VLAN is named, and not on which port"
        "add `port = \"NAME\"` with the trunk as the host sees it, or take `vlan` out";
    /// Not a VLAN.
    BadVlan { text: String } Error "bad-vlan"
        "{text} is not a VLAN of a trunk"
        "write a number from 1 to 4094 (0 is a priority without a VLAN, 4095 is reserved), or \"untagged\" for frames without a tag";
    /// Tags that would be taken for other endpoints' VLANs.
    UntaggedAware { network: String } Error "untagged-aware"
        "network `{network}` is `vlan_aware`: on a trunk the tags of its frames would be taken for VLANs of other endpoints"
        "give the endpoint a `vlan` of the trunk (tags of the network stand behind that), or a port of its own";

    /// From in egress, to in ingress.
    WrongDirection { written: &'static str, list: &'static str, meant: &'static str } Error "wrong-direction"
        "a rule of `{list}` has no `{written}`"
        "write `{meant}`: `from` says who may send to the group, `to` says where the group may send";
    /// Ports of a protocol that has none.
    PortsNotPossible { protocol: String } Error "ports-not-possible"
        "{protocol} has no ports that could be matched"
        "ports go with tcp, udp, sctp, dccp and udplite; take the ports out, or write `proto = \"tcp\"` or another of those";
    /// ICMP types of something else.
    IcmpNotPossible { protocol: String } Error "icmp-not-possible"
        "{protocol} has no ICMP type or code"
        "write `proto = \"icmp\"` or `proto = \"icmpv6\"`";
    /// A code without a type.
    IcmpCodeAlone { } Error "icmp-code-alone"
        "an ICMP code means nothing without its type"
        "add `icmp_type`";
    /// Both families in one rule that is for one.
    FamilyConflict { what: String, has: &'static str, family: &'static str } Error "family-conflict"
        "{what} is {has}, and the rule is for {family} only: it could never match"
        "take it out, or write a rule for each family";

    /// An exception that excepts nothing.
    ExceptOutside { except: IpNet, prefix: IpNet } Error "except-outside"
        "{except} is not inside {prefix}"
        "take it out, or write a wider `prefix`";
    /// Exceptions that leave nothing.
    ExceptAll { prefix: IpNet } Error "except-all"
        "nothing is left of {prefix}: the rule could never match"
        "take out some of `except`, or the rule";
    /// A group of the site, which has none.
    Whose { kind: &'static str, name: String } Error "whose"
        "outside of tenants, `{kind}:{name}` does not say whose it is"
        "write `{kind}:TENANT/{name}`";
    /// Something of another tenant that it keeps to itself.
    NotShared { kind: &'static str, name: String, tenant: String, with: String } Error "not-shared"
        "tenant `{tenant}` does not share its {kind} `{name}` with tenant `{with}`"
        "add `shared_with = [\"{with}\"]` to it, if that is meant; or write the addresses";

    /// Not a DSCP.
    BadDscp { text: String, near: Near } Error "bad-dscp"
        "`{text}` is not a DSCP"
        "{near} (others go by their number, 0 to 63)";
    /// Not TCP flags.
    BadFlags { text: String } Error "bad-flags"
        "`{text}` does not say which TCP flags are set of which"
        "write those that are set, and behind `/` those that are looked at, such as \"syn/syn,ack\" or \"none/rst\": of fin, syn, rst, psh, ack, urg, ece, cwr";
    /// TCP flags of something else.
    FlagsNotPossible { } Error "flags-not-possible"
        "only TCP has TCP flags"
        "write `proto = \"tcp\"`, or take `tcp_flags` out";

    /// More would pass than a filter lets.
    FilterContradicted { filter: &'static str, what: String } Error "filter-contradicted"
        "{what} lets more pass than the filter `{filter}`"
        "take one of the two out; `eastgate policy filters` says what each filter stands for";
    /// Answers would pass that libvirt drops.
    FilterOneWay { filter: String, rest: String, family: &'static str } Error "filter-one-way"
        "`{filter}` lets packets in whose answers `{rest}` does not let out; here the answers to what is allowed pass, too"
        "write `allow-{family}` in its place: who may begin is for `groups` to say";
    /// Not for rules.
    FilterUnsayable { filter: &'static str, asks_for: &'static str, instead: &'static str } Error "filter-unsayable"
        "`{filter}` asks for {asks_for}, which no rule here does"
        "{instead}";

    /// Nothing that a policy applies to.
    BadScope { text: String, known: &'static str } Error "bad-scope"
        "`{text}` is nothing that this policy can apply to"
        "write {known}";
    /// No endpoint of a tenant.
    BadEndpoint { text: String } Error "bad-endpoint"
        "`{text}` does not say whose endpoint it is"
        "write \"TENANT/ENDPOINT\"";
    /// Nothing comes behind to pass on to.
    PassAfter { } Error "pass-after"
        "a policy after the groups passes nothing on: nobody comes behind it"
        "write `position = \"before\"`, or take the rule out: what no rule settles is denied";
    /// Nothing comes behind.
    EndAfter { } Error "end-after"
        "a policy after the groups has no `end`: what nobody settles is denied"
        "take it out, or write `position = \"before\"`";
    /// Nothing to log.
    LogPass { } Error "log-pass"
        "a rule that passes on settles nothing that could be logged"
        "take `log` out: the rule that settles it may log it";
    /// Nothing to try out.
    AuditAllow { what: &'static str } Error "audit-allow"
        "a rule that {what} denies nothing, and so there is nothing to try out"
        "take `mode` out: it is for rules that deny or reject, or that allow so much and no more";
    /// Nothing to count.
    LimitNotAllow { key: &'static str, what: &'static str } Error "limit-not-allow"
        "a rule that {what} lets no flow in that could be counted for `{key}`"
        "take it out, or write it at the rule that allows: what is more than its limits is denied";
    /// No flow to count.
    LimitStateless { } Error "limit-stateless"
        "the limits of this rule are of flows, and its group keeps no state"
        "take `connections` and `new_connections` out, or write the rule in a group that keeps state";
    /// Nothing to read.
    HelperNotAllow { what: &'static str } Error "helper-not-allow"
        "a rule that {what} lets no flow in that a helper could read"
        "take `helper` out, or write it at the rule that allows";
    /// Another protocol's flows.
    HelperProtocol { helper: &'static str, proto: &'static str, rule: String } Error "helper-protocol"
        "helper `{helper}` reads flows of {proto} to the ports of its servers, and this is {rule}"
        "write `proto = \"{proto}\"` and `ports`: the servers' port, which is 21 for ftp and 69 for tftp if nobody chose another";
    /// No flow to read.
    HelperStateless { } Error "helper-stateless"
        "the helper of this rule reads flows, and its group keeps no state"
        "take `helper` out, or write the rule in a group that keeps state";
    /// Nothing that is counted by it.
    PrefixAlone { } Error "prefix-alone"
        "`per_prefix` says whom `connections` and `new_connections` count as one, and there is neither"
        "add one of them, or take it out";
    /// Addresses inside and outside.
    OwnMixed { endpoint: String, outside: String } Error "own-mixed"
        "endpoint `{endpoint}` may send from addresses that `own` means and from others ({outside}), and the rule could not tell"
        "name all of its addresses or none: `addresses`, `allowed_pairs`, `routes`, of IPv6 also \"fe80::/10\", without port security any; or leave it out of `applies_to`";
    /// More than a tenant may have.
    QuotaExceeded { tenant: String, what: &'static str, has: usize, most: u32 } Error "quota-exceeded"
        "tenant `{tenant}` has more than its quota: {has} of kind {what}, and {most} is the most"
        "take some out, or raise the quota";

    /// Something negated that is not there.
    NotNothing { key: &'static str } Error "not-nothing"
        "`{key}` is to be negated, and this rule has none"
        "write what is not meant into `{key}`, or take it out of `not`";
    /// Nothing is left.
    NotAll { key: &'static str } Error "not-all"
        "nothing is left: this rule is about whatever is not in `{key}`, and that is everything"
        "write less into `{key}`, or take the rule out";
    /// Names, negated.
    NotNamed { peer: String } Error "not-named"
        "`{peer}` cannot be negated: who is in it changes"
        "write a rule with it before this one that says what becomes of it, or addresses";
    /// A group that has its own rules by a detour.
    IncludeCycle { chain: String } Error "include-cycle"
        "this group includes itself: {chain}"
        "take one of the includes out; what several groups share goes into a group that includes none of them";
    /// Too much is included.
    IncludeDeep { what: String } Error "include-deep"
        "{what}"
        "include the inner ones directly, or write their rules here";
    /// A group whose members are not those of who includes it.
    IncludeAdmits { name: String } Error "include-admits"
        "`{name}` admits its members, and who includes it is none of them"
        "write the rules that both need into a group without `admit_members`, and include that in both; or put the endpoints into `{name}`";
    /// Not a variable.
    BadVariable { text: String } Error "bad-variable"
        "`{text}` is not a variable"
        "a rule names it as \"$NAME\", `variables` without the `$`; names are 1 to 63 letters, digits and _. It stands for all its values, and several in one rule for all combinations";
    /// A variable where none is heeded.
    VariableMisplaced { text: String } Error "variable-misplaced"
        "`{text}`: no variable is heeded here"
        "variables stand in `ports`, `source_ports`, `from` and `to` of groups' rules; write what is meant";
    /// Nobody says what a variable stands for.
    VariableMissing { name: String, group: String } Error "variable-missing"
        "a rule that the endpoint has by group `{group}` has `${name}`, and nobody says what that is"
        "add `variables = {{ {name} = [...] }}` to the endpoint, or to the group for all who say nothing else";
    /// A value that no rule asks for.
    VariableUnknown { name: String, near: Near } Error "variable-unknown"
        "no rule that this endpoint has by its groups has `${name}`"
        "{near}";
    /// Likewise, of a group.
    VariableUnused { name: String, near: Near } Warning "variable-unused"
        "no rule of this group, nor of what it includes, has `${name}`"
        "take it out; {near}";
    /// A policy without rules.
    PolicyEmpty { name: String } Warning "policy-empty"
        "policy `{name}` has no rules: it changes nothing"
        "add rules under `ingress` or `egress`, or take it out; one that denies everything has a rule for \"any\"";
    /// A group without members.
    GroupUnused { name: String } Warning "group-unused"
        "nobody is in group `{name}`, and no other rule names it"
        "put it into some endpoint's `groups`, or take it out";
    /// An endpoint that cannot be reached.
    EndpointUngrouped { name: String } Warning "endpoint-ungrouped"
        "endpoint `{name}` is in no group: it can neither send nor receive"
        "add `groups = [\"NAME\"]`";
    /// An endpoint with an address that is a host's.
    AddressOfHost { address: IpAddr, what: &'static str, host: String } Warning "address-of-host"
        "{address} is {what} of host `{host}`: whatever is sent to it here is dropped"
        "write another address: tenants reach neither VTEPs nor what is in `management`, but for the endpoints of `underlay_access`";
    /// A route to what no tenant reaches.
    RouteOfHost { route: IpNet, what: &'static str, host: String } Warning "route-of-host"
        "{route} is {what} of host `{host}`: whatever is sent there is dropped"
        "take it out: tenants reach neither VTEPs nor what is in `management`, but for the endpoints of `underlay_access`";
    /// A route to the network itself.
    RouteOwnSubnet { route: IpNet, subnet: IpNet } Warning "route-own-subnet"
        "{route} is behind the endpoint, and {subnet} is on its own network"
        "write what is behind it; addresses of other endpoints are never sent from by a route, and an address that both hold goes into `allowed_pairs`";
    /// A route of a family that the network has no subnet of.
    RouteFamily { route: IpNet, network: String } Warning "route-family"
        "network `{network}` has no subnet of the family of {route}"
        "add a subnet, or take the route out";
    /// A route twice.
    RouteRepeated { route: IpNet } Warning "route-repeated"
        "{route} is in this list twice"
        "keep one of the two";
    /// A pair where a route was meant.
    PairWide { address: IpNet } Warning "pair-wide"
        "with this pair the endpoint may claim every address of {address} that is no other endpoint's, as its own"
        "a machine that forwards for others has `routes = [\"{address}\"]` instead; a pair is for addresses that it shares, such as those of VRRP";
    /// A rule twice.
    RuleRepeated { } Warning "rule-repeated"
        "this rule repeats another of the same list"
        "take it out; it changes nothing";
    /// A name twice in a list.
    NameRepeated { name: String } Warning "name-repeated"
        "`{name}` is in this list twice"
        "keep one of the two";
    /// A network without hosts.
    NetworkEmpty { name: String } Warning "network-empty"
        "no host has a part in network `{name}`"
        "add endpoints, or `hosts = [\"NAME\"]`";
    /// Nothing to carry anything for.
    NoTenants {} Warning "no-tenants"
        "there is no tenant: nothing is carried"
        "add tenants, here or in files that `include` names; if there were some, look where they went";
}
