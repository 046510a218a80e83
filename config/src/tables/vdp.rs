//! Stations that associate machines, and what these are then.

use schemars::SchemaGenerator;
use toml::de::DeTable;

use super::{EndpointLimitsTable, EndpointTimeoutsTable};
use crate::{
    ethertypes::L2Protocol,
    leaf::Learn,
    problem::Problem,
    read::{At, Field, Read, Reader, Span, table},
    values::{Int, List, ManagerText, NameText, OneOrMany, Stations},
    variables::Variables,
};

table! {
    /// A device behind which stations associate machines: a segment that these share. It is closed until then.
    "vdp table"
    struct VdpTable {
        /// The stations whose machines are served: a list of the MACs that their LLDP and ECP come from, or "any".
        required stations: Stations = "[\"52:54:00:00:00:01\"]",
        /// Machines there at most.
        default machines: Int<1, 65_536> = Int(1_024),
        /// Seconds after which a station is to say again that a machine is there, at the least; rounded up to what VDP can say. A machine
        /// of which nothing is said for half as long again, and some time for repetitions, is at an end.
        default keep_alive: Int<1, 3_600> = Int(10),
    }
}

table! {
    /// What a machine is that a station associates by VDP: an endpoint of its MAC, at the device behind which the station is.
    "profile"
    struct ProfileTable {
        /// The network that its machines are in: it learns their addresses, answers as the appliance (`neighbors = "proxy"`), and has a part
        /// on the hosts where stations are (`hosts`).
        required network: NameText = "\"app\"",
        /// The VSI manager that stations name: text of up to 16 characters, or a UUID.
        required vsi_manager: ManagerText = "\"manager\"",
        /// The VSI type that they name.
        required vsi_type: Int<0, 16_777_215> = "5",
        /// In which version; in any that no other profile names, if nothing is said.
        optional vsi_version: Int<0, 255>,
        /// Security groups of its machines; of several, the union counts.
        required groups: OneOrMany<NameText> = "[\"web\"]",
        /// Values of variables in the rules of these groups, in place of those that the groups give.
        optional variables: Variables,
        /// Machines of one host that may have it at once. In a quota of endpoints it counts as so many.
        default machines: Int<1, 65_536> = Int(256),
        /// By what their addresses are learned: "dhcp", "nd" or "any"; as the network says, if nothing is said.
        optional learn: Learn,
        /// How many are learned of each at most; as the network says, if nothing is said.
        optional learn_limit: Int<1, 256>,
        /// The first address that is learned in each family is the only one; as the network says, if nothing is said.
        optional learn_lock: bool,
        /// Protocols beside IPv4, IPv6 and ARP that they may speak, beside those of the network.
        many ethertypes: List<L2Protocol>,
        /// Filters by the names that libvirt's nwfilter gives them; as the network says, if nothing is said.
        optional filters: List<NameText>,
        /// How many flows each may have opened on one host, where that is not what the network says.
        optional limits: EndpointLimitsTable,
        /// Seconds that their flows without packets are remembered, where that is not what the network says.
        optional timeouts: EndpointTimeoutsTable,
    }
}
