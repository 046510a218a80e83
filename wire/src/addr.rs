//! Tenants' IP addresses, in one size for both families.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};

/// The two IP families.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

/// An IPv4 or IPv6 address in 16 bytes; IPv4 in the v4-mapped form (RFC 4291 section 2.5.5.2), so that one
/// table, one hash and one prefix match serve both families. A v4-mapped address on the wire of an IPv6 packet
/// is refused by [`crate::View::parse`], so the two never meet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addr(u128);

const MAPPED: u128 = 0xffff_0000_0000;

impl Addr {
    /// From the four bytes of an IPv4 header field.
    #[must_use]
    pub const fn v4(octets: [u8; 4]) -> Self {
        Self(MAPPED | u32::from_be_bytes(octets) as u128)
    }

    /// From the sixteen bytes of an IPv6 header field.
    #[must_use]
    pub const fn v6(octets: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(octets))
    }

    /// The 128 bits; IPv4 as `::ffff:a.b.c.d`.
    #[must_use]
    pub const fn bits(self) -> u128 {
        self.0
    }

    /// The address with these 128 bits.
    #[must_use]
    pub const fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    /// Which family.
    #[must_use]
    pub const fn family(self) -> Family {
        if self.0 >> 32 == 0xffff { Family::V4 } else { Family::V6 }
    }

    /// IPv4?
    #[must_use]
    pub const fn is_v4(self) -> bool {
        matches!(self.family(), Family::V4)
    }

    /// As the standard library's type.
    #[must_use]
    pub const fn to_ip(self) -> IpAddr {
        match self.family() {
            Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(self.0 as u32)),
            Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(self.0)),
        }
    }

    /// 0.0.0.0 or ::
    #[must_use]
    pub const fn is_unspecified(self) -> bool {
        self.0 == 0 || self.0 == MAPPED
    }

    /// 224.0.0.0/4 or ff00::/8
    #[must_use]
    pub const fn is_multicast(self) -> bool {
        match self.family() {
            Family::V4 => (self.0 as u32) >> 28 == 0xe,
            Family::V6 => self.0 >> 120 == 0xff,
        }
    }

    /// 255.255.255.255
    #[must_use]
    pub const fn is_limited_broadcast(self) -> bool {
        self.0 == MAPPED | u32::MAX as u128
    }

    /// 127.0.0.0/8 or ::1
    #[must_use]
    pub const fn is_loopback(self) -> bool {
        match self.family() {
            Family::V4 => (self.0 as u32) >> 24 == 127,
            Family::V6 => self.0 == 1,
        }
    }

    /// 169.254.0.0/16 or fe80::/10
    #[must_use]
    pub const fn is_link_local(self) -> bool {
        match self.family() {
            Family::V4 => (self.0 as u32) >> 16 == 0xa9fe,
            Family::V6 => self.0 >> 118 == 0x3fa,
        }
    }

    /// Whether the address is inside the prefix `network/len`, `len` counted in the 128-bit form (an IPv4
    /// prefix has 96 added).
    #[must_use]
    pub const fn in_prefix(self, network: Addr, len: u8) -> bool {
        len == 0 || len <= 128 && (self.0 ^ network.0) >> (128 - len as u32) == 0
    }
}

impl From<Ipv4Addr> for Addr {
    fn from(ip: Ipv4Addr) -> Self {
        Self::v4(ip.octets())
    }
}

impl From<Ipv6Addr> for Addr {
    fn from(ip: Ipv6Addr) -> Self {
        Self::v6(ip.octets())
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => ip.into(),
            IpAddr::V6(ip) => ip.into(),
        }
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_ip().fmt(f)
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_ip().fmt(f)
    }
}

impl Serialize for Addr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_ip().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Addr {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IpAddr::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> Addr {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn families_keep_apart() {
        assert_eq!(addr("10.1.0.11").family(), Family::V4);
        assert_eq!(addr("fd00::1").family(), Family::V6);
        assert_eq!(addr("10.1.0.11").to_string(), "10.1.0.11");
        assert_eq!(addr("::1").family(), Family::V6);
        assert_eq!(addr("0.0.0.0").family(), Family::V4);
    }

    #[test]
    fn kinds() {
        assert!(addr("224.0.0.1").is_multicast() && addr("ff02::1").is_multicast());
        assert!(!addr("223.255.255.255").is_multicast() && !addr("fe80::1").is_multicast());
        assert!(addr("127.1.2.3").is_loopback() && addr("::1").is_loopback());
        assert!(addr("169.254.1.1").is_link_local() && addr("febf::1").is_link_local());
        assert!(!addr("fec0::1").is_link_local());
        assert!(addr("0.0.0.0").is_unspecified() && addr("::").is_unspecified());
        assert!(addr("255.255.255.255").is_limited_broadcast());
    }

    #[test]
    fn prefixes() {
        assert!(addr("10.1.0.11").in_prefix(addr("10.1.0.0"), 96 + 24));
        assert!(!addr("10.1.1.11").in_prefix(addr("10.1.0.0"), 96 + 24));
        assert!(addr("10.1.1.11").in_prefix(addr("::"), 0));
        assert!(addr("fd00:1::5").in_prefix(addr("fd00:1::"), 64));
    }
}
