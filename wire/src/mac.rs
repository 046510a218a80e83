//! Ethernet addresses.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A 48-bit Ethernet address, in transmission order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddr(pub [u8; 6]);

/// Text that is no Ethernet address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a MAC address; write six bytes in hex, such as 02:00:00:00:01:01")]
pub struct BadMac(pub String);

impl MacAddr {
    /// ff:ff:ff:ff:ff:ff
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// 00:00:00:00:00:00, which no station has.
    pub const ZERO: Self = Self([0; 6]);

    /// The address at the start of `bytes`, if there are six of them.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Some(Self(*bytes.first_chunk::<6>()?))
    }

    /// Group bit set: multicast or broadcast.
    #[must_use]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// All ones.
    #[must_use]
    pub fn is_broadcast(self) -> bool {
        self == Self::BROADCAST
    }

    /// A group that is the next bridge's alone, and that no bridge hands on: IEEE 802.1Q table 8-1 (STP, pause, LACP, 802.1X, LLDP, ECP), and
    /// 01:00:0c:cc:cc:cc and cd (CDP, VTP, PVST+).
    #[must_use]
    pub const fn is_of_the_link(self) -> bool {
        matches!(self.0, [0x01, 0x80, 0xc2, 0, 0, 0..=0x0f] | [0x01, 0, 0x0c, 0xcc, 0xcc, 0xcc | 0xcd])
    }

    /// An address that a station can have: neither multicast nor zero.
    #[must_use]
    pub fn is_station(self) -> bool {
        !self.is_multicast() && self != Self::ZERO
    }
}

impl FromStr for MacAddr {
    type Err = BadMac;
    fn from_str(text: &str) -> Result<Self, BadMac> {
        let bad = || BadMac(text.to_owned());
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut bytes = [0u8; 6];
        let mut parts = text.split(separator);
        for byte in &mut bytes {
            let part = parts.next().ok_or_else(bad)?;
            if part.is_empty() || part.len() > 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(bad());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() { Err(bad()) } else { Ok(Self(bytes)) }
    }
}

impl TryFrom<String> for MacAddr {
    type Error = BadMac;
    fn try_from(text: String) -> Result<Self, BadMac> {
        text.parse()
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> String {
        mac.to_string()
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trip() {
        let mac: MacAddr = "02:00:00:0a:01:ff".parse().unwrap();
        assert_eq!(mac, MacAddr([2, 0, 0, 0x0a, 1, 0xff]));
        assert_eq!(mac.to_string().parse::<MacAddr>().unwrap(), mac);
        assert_eq!("02-00-00-0A-01-FF".parse::<MacAddr>().unwrap(), mac);
    }

    #[test]
    fn bad_text_is_refused() {
        for text in
            ["", "02:00", "02:00:00:00:00:0g", "02:00:00:00:00:01:02", "+2:00:00:00:00:01", "002:0:0:0:0:1"]
        {
            assert_eq!(text.parse::<MacAddr>(), Err(BadMac(text.into())), "{text}");
        }
    }

    #[test]
    fn kinds() {
        assert!(MacAddr::BROADCAST.is_multicast());
        assert!(MacAddr([0x33, 0x33, 0, 0, 0, 1]).is_multicast());
        assert!(!MacAddr::ZERO.is_station());
        assert!(MacAddr([2, 0, 0, 0, 0, 1]).is_station());
    }
}
