//! The EVB TLV (IEEE 802.1Q D.2.12): what a station and a bridge tell each other of reflective relay, and of
//! the timers of ECP and VDP.

use std::time::Duration;

/// Organizationally specific: OUI and subtype.
pub(super) const KIND: [u8; 4] = [0x00, 0x80, 0xc2, 0x0d];
/// What follows those
const LENGTH: usize = 5;

/// An exponent of a time, 5 bits: 10 microseconds times 2 to the power of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Exponent(u8);

impl Exponent {
    /// Legal values: 0 to 31.
    #[must_use]
    pub const fn new_checked(exponent: u8) -> Option<Self> {
        if exponent < 32 { Some(Self(exponent)) } else { None }
    }

    /// Of an octet's lower five bits
    pub(super) const fn masked(octet: u8) -> Self {
        Self(octet & 0x1f)
    }

    /// Its value
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The time that it stands for: from 10 µs to nearly 6 hours.
    #[must_use]
    pub const fn duration(self) -> Duration {
        Duration::from_micros(10 << self.0)
    }
}

/// How often an ECPDU is sent again, 3 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Retries(u8);

impl Retries {
    /// Legal values: 0 to 7.
    #[must_use]
    pub const fn new_checked(retries: u8) -> Option<Self> {
        if retries < 8 { Some(Self(retries)) } else { None }
    }

    /// Of an octet's lower three bits
    pub(super) const fn masked(octet: u8) -> Self {
        Self(octet & 7)
    }

    /// Its value
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// Who sends the TLV.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// An EVB bridge
    Bridge,
    /// An EVB station
    Station,
    /// Neither, in its two bits
    Other(u8),
}

impl Role {
    const fn bits(self) -> u8 {
        match self {
            Self::Bridge => 1,
            Self::Station => 2,
            Self::Other(bits) => bits & 3,
        }
    }
}

/// What a station knows of reflective relay at its bridge (RRSTAT).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Relay {
    /// It is off.
    Off,
    /// It is on.
    On,
    /// The station has not heard of it: 3, and 2, which is reserved.
    Unknown,
}

/// EVB bridge status
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct BridgeStatus {
    /// It takes GroupIDs in VDP (BGID).
    pub groups: bool,
    /// It can send frames back where they came from (RRCAP).
    pub relay_capable: bool,
    /// It does (RRCTR).
    pub relay_on: bool,
}

/// EVB station status
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StationStatus {
    /// It wants to use GroupIDs in VDP (SGID).
    pub groups: bool,
    /// It wants reflective relay (RRREQ).
    pub relay_wanted: bool,
    /// What it knows of that
    pub relay: Relay,
}

/// A time, and whose it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wait {
    /// The other side's value is in use here (ROL).
    pub remote: bool,
    /// The value
    pub exponent: Exponent,
}

/// What the TLV says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Evb {
    /// Of the bridge; of a station, what it has heard
    pub bridge: BridgeStatus,
    /// Of the station; of a bridge, what it has heard
    pub station: StationStatus,
    /// How often an ECPDU is sent again (R)
    pub retries: Retries,
    /// After which time (RTE)
    pub timeout: Exponent,
    /// Who says this
    pub role: Role,
    /// How long the bridge may take to find resources (RWD)
    pub resource_wait: Wait,
    /// How often a station says that a VSI is still there (RKA)
    pub keep_alive: Wait,
}

impl StationStatus {
    /// What a bridge says that has heard no station.
    pub const UNHEARD: Self = Self { groups: false, relay_wanted: false, relay: Relay::Off };

    const fn octet(self) -> u8 {
        let relay = match self.relay {
            Relay::Off => 0,
            Relay::On => 1,
            Relay::Unknown => 3,
        };
        (self.groups as u8) << 3 | (self.relay_wanted as u8) << 2 | relay
    }
}

impl Wait {
    const fn octet(self) -> u8 {
        (self.remote as u8) << 5 | self.exponent.get()
    }

    const fn read(octet: u8) -> Self {
        Self { remote: octet & 0x20 != 0, exponent: Exponent::masked(octet) }
    }
}

impl Evb {
    /// What stands behind OUI and subtype. What is longer is read as far as it is known; reserved bits are
    /// not looked at.
    #[must_use]
    pub fn read(value: &[u8]) -> Option<Self> {
        let [bridge, station, ecp, mode, keep_alive] = *value.first_chunk::<LENGTH>()?;
        Some(Self {
            bridge: BridgeStatus {
                groups: bridge & 4 != 0,
                relay_capable: bridge & 2 != 0,
                relay_on: bridge & 1 != 0,
            },
            station: StationStatus {
                groups: station & 8 != 0,
                relay_wanted: station & 4 != 0,
                relay: match station & 3 {
                    0 => Relay::Off,
                    1 => Relay::On,
                    _ => Relay::Unknown,
                },
            },
            retries: Retries::masked(ecp >> 5),
            timeout: Exponent::masked(ecp),
            role: match mode >> 6 {
                1 => Role::Bridge,
                2 => Role::Station,
                other => Role::Other(other),
            },
            resource_wait: Wait::read(mode),
            keep_alive: Wait::read(keep_alive),
        })
    }

    /// The TLV's value, with OUI and subtype.
    #[must_use]
    pub const fn octets(&self) -> [u8; KIND.len() + LENGTH] {
        let BridgeStatus { groups, relay_capable, relay_on } = self.bridge;
        [
            KIND[0],
            KIND[1],
            KIND[2],
            KIND[3],
            (groups as u8) << 2 | (relay_capable as u8) << 1 | relay_on as u8,
            self.station.octet(),
            self.retries.get() << 5 | self.timeout.get(),
            self.role.bits() << 6 | self.resource_wait.octet(),
            self.keep_alive.octet(),
        ]
    }
}
