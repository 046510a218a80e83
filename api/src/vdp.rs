//! What stations have associated by VDP (IEEE 802.1Qbg).

use eastgate_wire::{MacAddr, Vni};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A machine that a station has associated.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct MachineRow {
    /// Network
    pub vni: Vni,
    /// The endpoint that it is, as tenant/name
    pub endpoint: String,
    /// The profile, as tenant/name
    pub profile: String,
    /// What the station calls that: VSI manager
    pub manager: String,
    /// VSI type
    pub kind: u32,
    /// Version of the type
    pub version: u8,
    /// Its MAC
    pub mac: MacAddr,
    /// The device that it is behind
    pub device: String,
    /// The VLAN there; nothing where its frames have no tag
    pub vlan: Option<u16>,
    /// The station that says so
    pub station: MacAddr,
    /// What the station calls the machine: VSI ID
    pub vsi: String,
    /// Whether its frames pass as its rules say; until then none does
    pub in_force: bool,
    /// Seconds since it is associated
    pub since_s: u64,
}

/// A device behind which stations are.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct StationPort {
    /// Its name
    pub device: String,
    /// `forwarding`, `down`, `absent`, or what went wrong
    pub state: String,
    /// The stations that are known
    pub stations: Vec<MacAddr>,
    /// Machines that they have associated
    pub machines: usize,
    /// Requests of theirs that were refused
    pub refused: u64,
    /// The last of them, and why
    pub last_refusal: Option<String>,
    /// Frames of stations that are not to be heard
    pub not_heard: u64,
}
