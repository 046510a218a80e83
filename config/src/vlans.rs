//! VLANs that frames may be tagged with: numbers and ranges of them.

use std::fmt;

use schemars::{Schema, SchemaGenerator, json_schema};
use toml::de::DeValue;

use super::{
    problem::Problem,
    read::{Read, Reader, Span},
    values::List,
};

/// VLANs from one to another, both included; each is one that IEEE 802.1Q has, from 1 to 4094.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VlanRange {
    /// The lowest
    pub first: u16,
    /// The highest
    pub last: u16,
}

impl VlanRange {
    fn new_checked(first: Option<u16>, last: Option<u16>) -> Option<Self> {
        let (first, last) = (first?, last?);
        (0 < first && first <= last && last < 4095).then_some(Self { first, last })
    }

    fn parse(text: &str) -> Option<Self> {
        let number = |text: &str| text.trim().parse::<u16>().ok();
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Self::new_checked(number(first), number(last))
    }

    /// Is every VLAN of another range in this one?
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }
}

impl fmt::Display for VlanRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => self.first.fmt(f),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl Read for VlanRange {
    fn read(value: &DeValue<'_>, span: Span, reader: &mut Reader) -> Option<Self> {
        let range = match value {
            DeValue::Integer(number) => {
                let vlan = u16::from_str_radix(number.as_str(), number.radix()).ok();
                Self::new_checked(vlan, vlan)
            }
            DeValue::String(text) => Self::parse(text),
            other => return reader.wrong_type("a VLAN, or a range of VLANs in quotes", other, span),
        };
        if range.is_none() {
            let text = reader.place(span).text().to_owned();
            reader.report(Problem::BadGuestVlan { text }, span);
        }
        range
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "integer", "minimum": 1, "maximum": 4094 },
            { "type": "string", "pattern": "^ *[0-9]{1,4} *(- *[0-9]{1,4} *)?$" },
        ] })
    }
}

/// The ranges sorted, with those that touch made one.
pub(super) fn merged(list: &List<VlanRange>) -> Vec<VlanRange> {
    let mut sorted: Vec<VlanRange> = list.items.iter().map(|range| range.value).collect();
    sorted.sort_unstable();
    let mut merged: Vec<VlanRange> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match merged.last_mut() {
            Some(before) if range.first <= before.last + 1 => before.last = before.last.max(range.last),
            _ => merged.push(range),
        }
    }
    merged
}
