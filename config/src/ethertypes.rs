//! Protocols beside IPv4, IPv6 and ARP that endpoints may speak with each other: by ethertype, and the spanning tree protocol,
//! which has none.

use std::fmt;

use schemars::{Schema, SchemaGenerator, json_schema};
use toml::de::DeValue;

use super::{
    problem::{Near, Problem},
    read::{Read, Reader, Span},
};

/// A protocol of layer 2.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum L2Protocol {
    /// Frames of this ethertype
    Ethertype(u16),
    /// The spanning tree protocols of IEEE 802.1Q, in LLC frames to the bridge group address
    Stp,
}

/// Names by IANA's list of IEEE 802 numbers, as tcpdump and Linux's `if_ether.h` have them.
const NAMES: [(&str, L2Protocol); 18] = [
    ("aoe", L2Protocol::Ethertype(0x88a2)),
    ("eapol", L2Protocol::Ethertype(0x888e)),
    ("ethercat", L2Protocol::Ethertype(0x88a4)),
    ("fcoe", L2Protocol::Ethertype(0x8906)),
    ("fip", L2Protocol::Ethertype(0x8914)),
    ("homeplug", L2Protocol::Ethertype(0x88e1)),
    ("ipx", L2Protocol::Ethertype(0x8137)),
    ("lldp", L2Protocol::Ethertype(0x88cc)),
    ("loopback", L2Protocol::Ethertype(0x9000)),
    ("macsec", L2Protocol::Ethertype(0x88e5)),
    ("mpls", L2Protocol::Ethertype(0x8847)),
    ("mpls-multicast", L2Protocol::Ethertype(0x8848)),
    ("pppoe-discovery", L2Protocol::Ethertype(0x8863)),
    ("pppoe-session", L2Protocol::Ethertype(0x8864)),
    ("profinet", L2Protocol::Ethertype(0x8892)),
    ("ptp", L2Protocol::Ethertype(0x88f7)),
    ("stp", L2Protocol::Stp),
    ("wake-on-lan", L2Protocol::Ethertype(0x0842)),
];

/// Those that are none of a tenant's: what eastgate speaks for itself or judges by its content (IPv4, ARP, RARP, IPv6), tags,
/// and what ends at the next device (flow control; slow protocols as LACP).
const NEVER: [u16; 9] = [0x0800, 0x0806, 0x8035, 0x86dd, 0x8100, 0x88a8, 0x9100, 0x8808, 0x8809];

/// As it is written: by its name, where it has one.
impl fmt::Debug for L2Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (NAMES.iter().find(|(_, known)| known == self), self) {
            (Some((name, _)), _) => f.write_str(name),
            (None, Self::Ethertype(number)) => write!(f, "0x{number:04x}"),
            (None, Self::Stp) => f.write_str("stp"),
        }
    }
}

impl Read for L2Protocol {
    fn read(value: &DeValue<'_>, span: Span, reader: &mut Reader) -> Option<Self> {
        let number = match value {
            DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix()).ok(),
            DeValue::String(word) => {
                if let Some((_, known)) = NAMES.iter().find(|(name, _)| *name == word.as_ref()) {
                    return Some(*known);
                }
                let Some(digits) = word.strip_prefix("0x") else {
                    let near = Near::new(word, NAMES.iter().map(|(name, _)| *name));
                    reader.report(Problem::BadWord { word: word.to_string(), near }, span);
                    return None;
                };
                u64::from_str_radix(digits, 16).ok()
            }
            other => return reader.wrong_type("an ethertype, or a name of one in quotes", other, span),
        };
        let usable = number.and_then(|number| u16::try_from(number).ok());
        let usable = usable.filter(|number| *number >= 0x600 && !NEVER.contains(number));
        if usable.is_none() {
            let text = reader.place(span).text().to_owned();
            reader.report(Problem::BadEthertype { text }, span);
        }
        usable.map(Self::Ethertype)
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
        json_schema!({ "anyOf": [
            { "type": "integer", "minimum": 0x600, "maximum": 0xffff },
            { "enum": names },
            { "type": "string", "pattern": "^0x[0-9a-fA-F]{3,4}$" },
        ] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_none_is_of_what_is_no_tenants() {
        assert!(NAMES.is_sorted_by(|(a, _), (b, _)| a < b));
        for (name, protocol) in NAMES {
            let L2Protocol::Ethertype(number) = protocol else { continue };
            assert!(number >= 0x600 && !NEVER.contains(&number), "{name}");
        }
    }
}
