//! What is asked and answered. These types are what `-o json` prints, so their field names are an interface.

use std::{collections::BTreeMap, net::IpAddr};

use eastgate_wire::{Addr, MacAddr, Vni};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Changes, Filter, HelperCounts, ProbeRequest, StationPort, TraceRequest};

/// A request to the daemon.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// How the daemon is
    Status {},
    /// Reads the configuration again
    Reload {},
    /// The endpoints of this host's networks
    Endpoints(Filter),
    /// Where MACs are
    Fdb(Filter),
    /// Live flows
    Flows(Filter),
    /// Flows that helpers expect
    Expectations(Filter),
    /// Which addresses have which MAC, and who answers for them
    Neighbors(Filter),
    /// What was dropped, and why
    Drops(Filter),
    /// Compiled policy: sizes, groups and rules with their hits
    Policy(Filter),
    /// What each rule has done
    Rules(Filter),
    /// Who may reach whom, who does, and who was refused: between groups, or between an endpoint and the others
    Matrix(Filter),
    /// What has happened: the newest, or what came after [`Filter::after`]
    Events(Filter),
    /// Forgets learned FDB entries
    FdbFlush(Filter),
    /// Ends flows
    FlowsKill(Filter),
    /// Tries a version of the configuration beside the one in force, in place of the one that was tried before
    Stage {
        /// Its file, as the daemon can open it
        config: String,
    },
    /// What the staged version would do otherwise
    Staged(Filter),
    /// Throws the staged version away
    Unstage {},
    /// Machines that stations have associated
    Machines(Filter),
    /// Walks a hypothetical packet through the path
    Trace(TraceRequest),
    /// Sends packets in the name of an endpoint, or of the appliance, and tells what comes of them
    Probe(ProbeRequest),
}

/// What it takes to answer a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Little is read, however large tables are.
    Summary,
    /// Tables are walked through, which takes as long as they are.
    List,
    /// Packets are sent and answers waited for.
    Probe,
    /// Something is different afterwards.
    Change,
}

impl Request {
    /// What it takes to answer it.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::Status {} | Self::Events(_) => Class::Summary,
            Self::Endpoints(_)
            | Self::Fdb(_)
            | Self::Flows(_)
            | Self::Expectations(_)
            | Self::Neighbors(_)
            | Self::Drops(_)
            | Self::Policy(_)
            | Self::Rules(_)
            | Self::Matrix(_)
            | Self::Staged(_)
            | Self::Machines(_)
            | Self::Trace(_) => Class::List,
            Self::Probe(_) => Class::Probe,
            Self::Reload {}
            | Self::Stage { .. }
            | Self::Unstage {}
            | Self::FdbFlush(_)
            | Self::FlowsKill(_) => Class::Change,
        }
    }
}

/// What somebody may ask for, each including those before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// What changes nothing
    Read,
    /// Flows and learned addresses too: ending and forgetting them; and probes
    Operate,
    /// The configuration too
    Administer,
}

impl Role {
    /// All, the least first.
    pub const ALL: [Self; 3] = [Self::Read, Self::Operate, Self::Administer];

    /// As files and JSON have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Administer => "administer",
        }
    }
}

impl Request {
    /// Who may ask it.
    #[must_use]
    pub const fn role(&self) -> Role {
        match self {
            Self::Reload {} | Self::Stage { .. } | Self::Unstage {} => Role::Administer,
            Self::FdbFlush(_) | Self::FlowsKill(_) | Self::Probe(_) => Role::Operate,
            // What changes something and is not named here takes the most.
            _ => match self.class() {
                Class::Change => Role::Administer,
                Class::Probe => Role::Operate,
                Class::Summary | Class::List => Role::Read,
            },
        }
    }
}

/// How the daemon is.
#[derive(Clone, PartialEq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct Status {
    /// Ports are guarded, a snapshot is in force, workers run
    pub ready: bool,
    /// Its host's name in the configuration
    pub host: String,
    /// Its version
    pub version: String,
    /// Number of the snapshot in force
    pub epoch: u32,
    /// Seconds since it started
    pub uptime_s: u64,
    /// The configuration file
    pub config: String,
    /// What the configuration in force means, in a short form: hosts of one version with the same one run the same
    pub digest: String,
    /// What is not as it should be: nothing passes, or not everywhere. With any of it `eastgate status` exits with 6
    pub problems: Vec<String>,
    /// Why the last reload was refused; nothing when it was not
    pub reload_error: Option<String>,
    /// What is wrong with a file of the HTTP API, its tokens or its certificate: of another one than it had, those before hold
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_error: Option<String>,
    /// Its VTEP
    pub vtep: VtepStatus,
    /// Which dataplane, and why not a faster one
    pub dataplane: String,
    /// Worker threads
    pub workers: usize,
    /// Networks with a part on this host
    pub networks: usize,
    /// Tenant ports
    pub ports: Vec<PortStatus>,
    /// Flows in the table
    pub flows: FlowCounts,
    /// What helpers have found out
    #[serde(default)]
    pub helpers: HelperCounts,
    /// Addresses that were learned
    #[serde(default)]
    pub learned: LearnedCounts,
    /// Devices behind which stations are
    #[serde(default)]
    pub stations: Vec<StationPort>,
    /// Endpoints of this host that are carried without policy, as tenant/name
    #[serde(default)]
    pub excluded: Vec<String>,
    /// Settings that someone else changed and that were put right
    pub settings_restored: u64,
    /// How often the control socket was made again because someone had removed it
    pub control_restored: u64,
    /// What attaches programs to devices: `tcx` or `clsact`
    pub attached_by: String,
    /// What someone else took away and that was put back
    pub restored: Restored,
    /// Memory that it takes
    #[serde(default)]
    pub memory: Memory,
    /// Frames and bytes
    pub traffic: Traffic,
    /// Packets that the kernel's programs have left to the pipeline (punted), by cause; nothing without programs
    #[serde(default)]
    pub punts: BTreeMap<String, u64>,
}

/// Memory of the daemon, in bytes; the tables of the kernel's programs are as large as `[fastpath]` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, JsonSchema, Serialize, Deserialize)]
pub struct Memory {
    /// All that it has in RAM; nothing where procfs does not tell
    pub resident: Option<u64>,
    /// The compiled policies of the networks
    pub policies: u64,
}

/// What eastgate had made, someone else took away, and it put back.
#[derive(Clone, PartialEq, Eq, Debug, Default, JsonSchema, Serialize, Deserialize)]
pub struct Restored {
    /// Programs and filters on devices
    pub programs: u64,
    /// Devices of the fast path
    pub devices: u64,
    /// Pinned tables, and the record of changes
    pub files: u64,
    /// Routes, rules and neighbours of the kernel's routing
    #[serde(default)]
    pub routes: u64,
    /// The last of them
    pub last: Option<String>,
    /// What is missing and could not be put back yet, with the reason
    pub missing: Vec<String>,
}

/// The VTEP of this host.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct VtepStatus {
    /// Underlay address
    pub address: IpAddr,
    /// UDP port
    pub port: u16,
    /// Underlay devices
    pub device: String,
    /// One of them is there and up
    pub up: bool,
    /// Their smallest MTU in bytes
    pub mtu: u32,
    /// The largest IP packet a tenant can send without tags, in bytes
    pub tenant_mtu: u32,
    /// Networks whose `mtu` the underlay does not carry
    #[serde(default)]
    pub too_small_for: Vec<String>,
    /// Listening
    pub listening: bool,
    /// Why not
    #[serde(default)]
    pub problem: Option<String>,
    /// Bursts that the kernel did not take, and that were sent one datagram after the other
    #[serde(default)]
    pub bursts_refused: u64,
}

/// A tenant port.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct PortStatus {
    /// Device name
    pub name: String,
    /// Endpoint, as tenant/name
    pub endpoint: String,
    /// Network
    pub vni: Vni,
    /// `forwarding`, `down`, `absent`, or what went wrong
    pub state: String,
    /// What the host has on it that does not hold, and what to use instead
    #[serde(default)]
    pub note: Option<String>,
    /// A packet socket listens to the device (tcpdump, `eastgate capture`): the kernel's programs send by the device itself, which costs
    /// more than giving frames to the other end of a veth, so that it sees them.
    #[serde(default)]
    pub captured: bool,
}

/// Sizes of the flow table.
#[derive(Clone, PartialEq, Eq, Debug, Default, JsonSchema, Serialize, Deserialize)]
pub struct FlowCounts {
    /// Seen in both directions
    pub replied: u64,
    /// Seen in one
    pub unreplied: u64,
    /// Flows that had to make room for others since the start, by what their loss costs
    pub made_room: BTreeMap<String, u64>,
}

/// Frames and bytes since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, JsonSchema, Serialize, Deserialize)]
pub struct Traffic {
    /// Frames from tenant ports
    pub from_ports: u64,
    /// Datagrams from the underlay
    pub from_underlay: u64,
    /// Frames sent to tenant ports
    pub to_ports: u64,
    /// Datagrams sent to the underlay
    pub to_underlay: u64,
    /// ARP and ND answers given
    pub answers: u64,
    /// Those of them that the kernel's programs gave again
    pub answers_repeated: u64,
    /// Packets that did not fit the tunnel and were cut into fragments
    #[serde(default)]
    pub fragmented: u64,
    /// Flows that a change of the configuration had decided again, each when its next packet came
    pub decided_again: u64,
    /// Packets that a rule rejected, and whose senders were told
    #[serde(default)]
    pub rejects_told: u64,
    /// Those of which they were not told, for the limit of 100 a second for each endpoint
    #[serde(default)]
    pub rejects_limited: u64,
    /// Packets that passed, and would have been refused if the rule that does were not being tried out
    #[serde(default)]
    pub would_deny: u64,
    /// Frames dropped
    pub dropped: u64,
}

/// One row of `show endpoints`.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct EndpointRow {
    /// Network
    pub vni: Vni,
    /// As tenant/name
    pub endpoint: String,
    /// Its network's name
    pub network: String,
    /// Where it lives
    pub host: String,
    /// Its port, when it is on this host
    pub port: Option<String>,
    /// MAC
    pub mac: MacAddr,
    /// Addresses
    pub addresses: Vec<Addr>,
    /// Groups
    pub groups: Vec<String>,
    /// Those of its addresses that were learned
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub learned: Vec<LearnedAddress>,
    /// It is carried without policy: the operator has excluded it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub excluded: bool,
    /// The kernel has a route to it, and packets for it from here (`neighbors = "kernel"`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub routed: bool,
    /// It may send to VTEPs and to management addresses.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub underlay_access: bool,
    /// Why flows of it, or of an address of it, stay in userspace or begin there; nothing where the kernel has them
    pub userspace: Option<String>,
    /// Frames it sent that passed
    pub tx_frames: u64,
    /// Frames that reached it
    pub rx_frames: u64,
}

/// An address that was learned of an endpoint.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct LearnedAddress {
    /// The address
    pub address: Addr,
    /// `dhcp` (a lease), `nd` (the endpoint's own ARP or neighbour discovery) or `traffic`
    pub by: String,
    /// Another host has learned it, and says so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub elsewhere: bool,
    /// Seconds until it is forgotten if nothing more is heard; none where it has no end
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_s: Option<u64>,
}

/// What was learned of endpoints in all networks of a host.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, JsonSchema, Serialize, Deserialize)]
pub struct LearnedCounts {
    /// Addresses
    pub addresses: u64,
    /// How often one was not learned that might have been: of another endpoint, over a limit, locked
    pub refused: u64,
}

/// One row of `show fdb`.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct FdbRow {
    /// Network
    pub vni: Vni,
    /// MAC
    pub mac: MacAddr,
    /// Port name, or VTEP address
    pub at: String,
    /// `configured`, `held` by an endpoint for now, `learned` or `frozen`
    pub kind: String,
    /// Seconds since it was last heard
    pub age_s: Option<u64>,
}

/// One row of `show neighbors`.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct NeighborRow {
    /// Network
    pub vni: Vni,
    /// Address
    pub address: Addr,
    /// Its MAC
    pub mac: MacAddr,
    /// The MAC that requests for it are answered with
    pub answered_with: Option<MacAddr>,
    /// As tenant/name, when it is an endpoint
    pub endpoint: Option<String>,
    /// `configured`, `held` by an endpoint for now, `learned` or `frozen`
    pub kind: String,
}

/// A rule, and where it is written.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct RuleRef {
    /// Such as `acme/web ingress #2`
    pub rule: String,
    /// Such as `tenants/acme.toml:12:15`
    pub at: String,
}

/// One row of `show drops`.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct DropRow {
    /// Network, where it is known
    pub vni: Option<Vni>,
    /// Name of the reason
    pub reason: String,
    /// The reason in a sentence
    pub text: String,
    /// `refusal`, or `chatter`: what every guest sends of its own accord and does not miss
    pub class: String,
    /// The port or VTEP it came from
    pub from: Option<String>,
    /// The port it came from, when it was one
    pub port: Option<String>,
    /// The rule, or which groups had none that allows it
    pub rule: Option<String>,
    /// Where the rule or the groups are written
    pub at: Option<String>,
    /// Frames
    pub frames: u64,
    /// Bytes
    pub bytes: u64,
    /// The last one, in words
    pub last: Option<String>,
    /// Seconds since the last one
    pub last_s: u64,
    /// Its source MAC
    pub src_mac: Option<MacAddr>,
    /// Its destination MAC
    pub dst_mac: Option<MacAddr>,
    /// How many different frames are remembered one by one
    pub kinds: usize,
    /// The latest of these
    pub recent: Vec<RecentDrop>,
}

/// Frames of a row of `show drops` that differ in nothing.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct RecentDrop {
    /// In words
    pub what: String,
    /// How many
    pub frames: u64,
    /// Seconds since the last one
    pub last_s: u64,
}

/// The answer to `show drops`.
#[derive(Clone, PartialEq, Eq, Debug, Default, JsonSchema, Serialize, Deserialize)]
pub struct DropRows {
    /// The rows
    pub drops: Vec<DropRow>,
    /// How many there are without a limit
    pub total: usize,
    /// Frames of rows that were left out as chatter
    pub chatter_frames: u64,
    /// With a filter for endpoints, addresses, MACs, ports or protocols: frames of which these are remembered no more
    pub unknown_frames: u64,
    /// Where the rows go on, for [`Filter::after`]; nothing after the last
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// What `show policy` tells of a network.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct PolicyRow {
    /// Network
    pub vni: Vni,
    /// As tenant/name
    pub network: String,
    /// Rules as compiled, one for each peer
    pub rules: usize,
    /// Distinct rule lists
    pub rulesets: usize,
    /// Distinct kinds of address
    pub identities: usize,
    /// Distinct interval lists
    pub lists: usize,
    /// Bytes of the compiled tables
    pub bytes: usize,
    /// The groups
    pub groups: Vec<GroupRow>,
}

/// A group in `show policy`.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct GroupRow {
    /// As tenant/name
    pub group: String,
    /// Members in this network
    pub members: Vec<String>,
    /// Its rules
    pub rules: Vec<RuleRow>,
}

/// A rule in `show policy`.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct RuleRow {
    /// Such as `acme/web ingress #2`
    pub rule: String,
    /// In words
    pub text: String,
    /// Where it is written
    pub at: String,
    /// Flows it admitted on this host
    pub flows: u64,
}

/// One row of `show rules`: a rule, and what it has done in a network on this host.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct RuleCountRow {
    /// Network
    pub vni: Vni,
    /// Such as `acme/web ingress #2`
    pub rule: String,
    /// Where it is written
    pub at: String,
    /// `allow`, `deny`, `reject` or `pass`; `none` where it is about nobody, such as a group without members
    pub action: String,
    /// Flows that it admits and packets that it refuses are logged.
    pub log: bool,
    /// It is being tried out: what it would refuse passes.
    pub audit: bool,
    /// Flows that it admitted
    pub flows: u64,
    /// Packets of these flows, both ways, and packets that it refused or let pass without a flow
    pub packets: u64,
    /// Their bytes
    pub bytes: u64,
    /// Packets that it would have refused
    pub would_deny: u64,
    /// Seconds since it was hit first; nothing when it never was
    pub first_s: Option<u64>,
    /// Seconds since it was hit last; nothing when it never was
    pub last_s: Option<u64>,
}

/// What a command did.
#[derive(Clone, PartialEq, Eq, Debug, Default, JsonSchema, Serialize, Deserialize)]
pub struct Done {
    /// How many rows it touched
    pub count: u64,
    /// Number of the snapshot in force afterwards
    pub epoch: u32,
    /// Of a reload: [`Status::digest`] of what is in force now
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Of a reload: milliseconds until it was in force, in the pipeline and in the kernel
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_force_after: Option<u64>,
    /// Of a reload: what is not as it was
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<Changes>,
    /// Of a reload: flows that were ended because one of their ends is configured no more
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flows_ended: Option<u64>,
    /// Warnings
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}
