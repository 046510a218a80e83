//! What edge virtual bridging (VDP, IEEE 802.1Qbg) takes of a configuration: the devices behind which stations are, and the profiles
//! that machines get.

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use eastgate_wire::MacAddr;

use super::{
    model::{Endpoint, Name},
    place::Place,
};

/// A device behind which stations say by VDP which machines they have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VdpDevice {
    /// Where it is written.
    pub at: Place,
    /// The MACs of the stations that may; none where any may.
    pub stations: Option<BTreeSet<MacAddr>>,
    /// Machines there at most.
    pub machines: u32,
    /// How often a station is to say that a machine is still there, at the least.
    pub keep_alive: Duration,
}

/// What a machine is that a station associates by it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Profile {
    /// Its name.
    pub name: Name,
    /// Where its table begins.
    pub at: Place,
    /// What stations call it.
    pub vsi: VsiProfile,
    /// The network that its machines are in.
    pub network: Name,
    /// Machines of one host that may have it at once.
    pub machines: u32,
    /// A machine of it: name, host, attachment and MAC are those of the one that is associated.
    pub machine: Arc<Endpoint>,
}

/// What names a profile in VDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VsiProfile {
    /// Who knows it (VSI manager ID).
    pub manager: VsiManager,
    /// Its number there (VSI type ID).
    pub kind: u32,
    /// In which version; none for each that no other profile names.
    pub version: Option<u8>,
}

/// A VSI manager ID: 16 octets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VsiManager(pub [u8; 16]);

impl VsiManager {
    /// A UUID, or text of 1 to 16 octets, with zeros behind it: the two ways in which lldpad takes one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(uuid) = uuid(text) {
            return Some(Self(uuid));
        }
        let mut octets = [0; 16];
        let printable = text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
        octets
            .get_mut(..text.len())
            .filter(|place| printable && !place.is_empty())?
            .copy_from_slice(text.as_bytes());
        Some(Self(octets))
    }
}

/// 16 octets as RFC 9562 writes them.
fn uuid(text: &str) -> Option<[u8; 16]> {
    let lengths = text.split('-').map(str::len);
    lengths.eq([8, 4, 4, 4, 12]).then_some(())?;
    let digits: Vec<u8> =
        text.chars().filter(|c| *c != '-').map(|c| Some(c.to_digit(16)? as u8)).collect::<Option<_>>()?;
    let mut octets = [0; 16];
    for (octet, pair) in octets.iter_mut().zip(digits.chunks(2)) {
        *octet = pair.iter().fold(0, |octet, digit| octet << 4 | digit);
    }
    Some(octets)
}

/// As it is written.
impl fmt::Display for VsiManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.0.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let text = self.0.get(..end).unwrap_or_default();
        if end > 0 && text.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ') {
            return f.write_str(&String::from_utf8_lossy(text));
        }
        for (at, octet) in self.0.iter().enumerate() {
            let hyphen = if matches!(at, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{hyphen}{octet:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for VsiManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for VsiProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "type {} of manager {}", self.kind, self.manager)?;
        self.version.map_or(Ok(()), |version| write!(f, " in version {version}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_is_text_or_a_uuid() {
        let octets = |text| VsiManager::parse(text).map(|manager| manager.0);
        assert_eq!(octets("mgr"), Some(*b"mgr\0\0\0\0\0\0\0\0\0\0\0\0\0"));
        assert_eq!(octets("0123456789abcdef"), Some(*b"0123456789abcdef"));
        let uuid = "11111111-2222-3333-4444-5555555555ff";
        let value = 0x1111_1111_2222_3333_4444_5555_5555_55ff_u128;
        assert_eq!(octets(uuid), Some(value.to_be_bytes()));
        for bad in ["", "0123456789abcdefg", "a\tb", "ä\u{7}", "11111111-2222-3333-4444-55555555555g"] {
            assert_eq!(octets(bad), None, "{bad}");
        }
        for text in ["mgr", "a b", uuid] {
            assert_eq!(VsiManager::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(VsiManager([0; 16]).to_string(), "00000000-0000-0000-0000-000000000000");
    }
}
