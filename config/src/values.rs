//! How single values are read: numbers, words, names, addresses, ports.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use eastgate_wire::{MacAddr, VlanId, Vni};
use ipnet::IpNet;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize, de::IntoDeserializer as _};
use toml::de::DeValue;

use super::{
    leaf::*,
    problem::{Near, Problem},
    read::{At, Named, Read, Reader, Span, Table, read_spanned},
    tables::PeerTable,
};

mod stations;

pub(super) use self::stations::{ManagerText, Stations};

/// A number from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(super) struct Int<const MIN: u64, const MAX: u64>(pub(super) u64);

impl<const MIN: u64, const MAX: u64> Int<MIN, MAX> {
    /// The number; only for types that hold `MAX`, which the declarations see to.
    pub(super) fn get<T: TryFrom<u64> + Default>(self) -> T {
        T::try_from(self.0).unwrap_or_default()
    }
}

/// A name of the configuration's own: of a host, tenant, network, group or endpoint.
#[derive(Clone, Debug)]
pub(super) struct NameText(pub(super) Arc<str>);

/// The name of a network device.
#[derive(Clone, Debug)]
pub(super) struct Device(pub(super) Arc<str>);

/// A list.
#[derive(Clone, Debug)]
pub(super) struct List<T> {
    /// What could be read of it.
    pub(super) items: Vec<At<T>>,
    /// Some of it could not, and that was reported.
    pub(super) partial: bool,
}

/// One value, or a list of at least one.
#[derive(Clone, Debug)]
pub(super) struct OneOrMany<T>(pub(super) Vec<At<T>>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self { items: Vec::new(), partial: false }
    }
}

/// A number or a word: what the two mean is decided where the rest of the rule is known.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub(super) struct NumberOrWord(pub(super) String);

impl Read for bool {
    fn read(value: &DeValue<'_>, span: Span, reader: &mut Reader) -> Option<Self> {
        value.as_bool().or_else(|| reader.wrong_type("true or false", value, span))
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "boolean" })
    }
}

impl<const MIN: u64, const MAX: u64> Read for Int<MIN, MAX> {
    fn read(value: &DeValue<'_>, span: Span, reader: &mut Reader) -> Option<Self> {
        let Some(written) = value.as_integer() else { return reader.wrong_type("a number", value, span) };
        match u64::from_str_radix(written.as_str(), written.radix()) {
            Ok(number) if (MIN..=MAX).contains(&number) => Some(Self(number)),
            _ => {
                reader.report(Problem::OutOfRange { value: written.to_string(), min: MIN, max: MAX }, span);
                None
            }
        }
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }
}

impl Read for Vni {
    fn read(value: &DeValue<'_>, span: Span, reader: &mut Reader) -> Option<Self> {
        let number = Int::<0, { Vni::MAX as u64 }>::read(value, span, reader)?;
        Vni::new_checked(number.get()).ok()
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        Int::<0, { Vni::MAX as u64 }>::schema(generator)
    }
}

/// The string of a value, or the report that it is none.
fn text<'v>(
    value: &'v DeValue<'_>,
    wanted: &'static str,
    span: Span,
    reader: &mut Reader,
) -> Option<&'v str> {
    value.as_str().or_else(|| reader.wrong_type(wanted, value, span))
}

/// Reads a string that `parse` understands or explains.
fn parsed<T>(
    value: &DeValue<'_>,
    wanted: &'static str,
    span: Span,
    reader: &mut Reader,
    parse: impl FnOnce(&str) -> Result<T, Problem>,
) -> Option<T> {
    parse(text(value, wanted, span, reader)?).map_err(|problem| reader.report(problem, span)).ok()
}

impl Read for Arc<str> {
    fn read(value: &DeValue<'_>, span: Span, reader: &mut Reader) -> Option<Self> {
        text(value, "a string", span, reader).map(Into::into)
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

/// A name as a regular expression, for the schema and for people.
const NAME_PATTERN: &str = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$";

pub(super) fn is_name(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    name.len() <= 63
        && name.bytes().all(good)
        && name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
}

impl Read for NameText {
    fn read(value: &DeValue<'_>, span: Span, reader: &mut Reader) -> Option<Self> {
        parsed(value, "a name in quotes", span, reader, |name| {
            if is_name(name) { Ok(Self(name.into())) } else { Err(Problem::BadName { name: name.into() }) }
        })
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": NAME_PATTERN })
    }
}

impl Read for Device {
    fn read(value: &DeValue<'_>, span: Span, reader: &mut Reader) -> Option<Self> {
        parsed(value, "a name in quotes", span, reader, |name| {
            // What dev_valid_name() of Linux refuses, and `%`, which it takes for a pattern.
            let bad =
                |b: u8| matches!(b, b'/' | b':' | b'%') || b.is_ascii_whitespace() || b.is_ascii_control();
            let good = (1..16).contains(&name.len()) && name != "." && name != ".." && !name.bytes().any(bad);
            if good { Ok(Self(name.into())) } else { Err(Problem::BadDevice { name: name.into() }) }
        })
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "maxLength": 15 })
    }
}

impl Read for MacAddr {
    fn read(value: &DeValue<'_>, span: Span, reader: &mut Reader) -> Option<Self> {
        parsed(value, "a MAC address in quotes", span, reader, |text| {
            text.parse().map_err(|_| Problem::BadMac { text: text.into() })
        })
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9a-fA-F]{1,2}([:-][0-9a-fA-F]{1,2}){5}$" })
    }
}

impl Read for IpAddr {
    fn read(value: &DeValue<'_>, span: Span, reader: &mut Reader) -> Option<Self> {
        parsed(value, "an address in quotes", span, reader, |text| {
            let address: IpAddr = text.parse().map_err(|_| Problem::BadAddress { text: text.into() })?;
            not_mapped(address).ok_or(Problem::AddressKind { address })
        })
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "anyOf": [{ "format": "ipv4" }, { "format": "ipv6" }] })
    }
}

/// The address, unless it is v4-mapped: that is IPv4 in disguise, and the wire never shows it.
fn not_mapped(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => None,
        address => Some(address),
    }
}

/// A prefix without bits beyond its length.
pub(super) fn exact_prefix(text: &str) -> Result<IpNet, Problem> {
    let prefix: IpNet = text.parse().map_err(|_| Problem::BadPrefix { text: text.into() })?;
    // A longer one is IPv4 in disguise, and what it is a part of is not IPv6 alone.
    if prefix.prefix_len() >= 96 {
        not_mapped(prefix.addr()).ok_or(Problem::AddressKind { address: prefix.addr() })?;
    }
    if prefix.trunc() == prefix {
        Ok(prefix)
    } else {
        Err(Problem::HostBits { written: prefix, meant: prefix.trunc() })
    }
}

impl Read for IpNet {
    fn read(value: &DeValue<'_>, span: Span, reader: &mut Reader) -> Option<Self> {
        parsed(value, "an address prefix in quotes", span, reader, exact_prefix)
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9a-fA-F:.]+/[0-9]{1,3}$" })
    }
}

/// The other side of a rule as it is written: a word, or a prefix but for others.
#[derive(Clone, Debug)]
pub(super) enum PeerValue {
    Word(Arc<str>),
    Table(PeerTable),
}

impl Read for PeerValue {
    fn read(value: &DeValue<'_>, span: Span, reader: &mut Reader) -> Option<Self> {
        match value {
            DeValue::String(word) => Some(Self::Word(word.as_ref().into())),
            DeValue::Table(table) => Some(Self::Table(PeerTable::read_table(table, span, reader))),
            other => reader.wrong_type("a string, or a table with `prefix` and `except`", other, span),
        }
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "string" }, PeerTable::table_schema(generator)] })
    }

    fn spans(&mut self, each: &mut dyn FnMut(&mut Span)) {
        match self {
            Self::Word(_) => {}
            Self::Table(table) => table.table_spans(each),
        }
    }
}

/// A prefix, or an address that stands for itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct AddressOrPrefix(pub(super) IpNet);

impl AddressOrPrefix {
    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        match text.parse::<IpAddr>() {
            Ok(address) => not_mapped(address)
                .map(|address| Self(address.into()))
                .ok_or(Problem::AddressKind { address }),
            Err(_) => exact_prefix(text).map(Self),
        }
    }
}

impl Read for AddressOrPrefix {
    fn read(value: &DeValue<'_>, span: Span, reader: &mut Reader) -> Option<Self> {
        parsed(value, "an address or prefix in quotes", span, reader, Self::parse)
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9a-fA-F:.]+(/[0-9]{1,3})?$" })
    }
}

impl PortRange {
    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        let bad = || Problem::BadPorts { text: text.into() };
        let port = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            if digits { text.parse::<u16>().map_err(|_| bad()) } else { Err(bad()) }
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (port(first.trim())?, port(last.trim())?);
        if first > last { Err(Problem::InvertedPorts { first, last }) } else { Ok(Self { first, last }) }
    }
}

impl Read for PortRange {
    fn read(value: &DeValue<'_>, span: Span, reader: &mut Reader) -> Option<Self> {
        if let Some(number) = value.as_integer() {
            let port = u16::from_str_radix(number.as_str(), number.radix()).map_err(|_| number.to_string());
            let report = |text| reader.report(Problem::BadPorts { text }, span);
            return port.map(|port| Self { first: port, last: port }).map_err(report).ok();
        }
        parsed(value, "a port, or a range of ports in quotes", span, reader, Self::parse)
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "integer", "minimum": 0, "maximum": 65535 },
            { "type": "string", "pattern": "^ *[0-9]{1,5} *(- *[0-9]{1,5} *)?$" },
        ] })
    }
}

impl Read for OuterField {
    fn read(value: &DeValue<'_>, span: Span, reader: &mut Reader) -> Option<Self> {
        match value {
            DeValue::Integer(_) => Some(Self::Fixed(Int::<0, 255>::read(value, span, reader)?.get())),
            DeValue::String(word) if word == "inherit" => Some(Self::Inherit),
            DeValue::String(word) => {
                let near = Near::new(word, ["inherit"]);
                reader.report(Problem::BadWord { word: word.to_string(), near }, span);
                None
            }
            other => reader.wrong_type("a number or \"inherit\"", other, span),
        }
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "integer", "minimum": 0, "maximum": 255 }, { "const": "inherit" }] })
    }
}

/// The TTL of the outer header: there is none that is 0.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(transparent)]
pub(super) struct OuterTtl(pub(super) OuterField);

impl Read for OuterTtl {
    fn read(value: &DeValue<'_>, span: Span, reader: &mut Reader) -> Option<Self> {
        if matches!(value, DeValue::Integer(_)) {
            let ttl = Int::<1, 255>::read(value, span, reader)?.get();
            return Some(Self(OuterField::Fixed(ttl)));
        }
        OuterField::read(value, span, reader).map(Self)
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "integer", "minimum": 1, "maximum": 255 }, { "const": "inherit" }] })
    }
}

/// What of a trunk is an endpoint's: a VLAN, or with none the frames without a tag.
#[derive(Clone, Copy, Debug)]
pub(super) struct TrunkVlan(pub(super) Option<VlanId>);

/// As it is written.
const UNTAGGED: &str = "untagged";

impl Read for TrunkVlan {
    fn read(value: &DeValue<'_>, span: Span, reader: &mut Reader) -> Option<Self> {
        let (text, vlan) = match value {
            DeValue::Integer(written) => {
                let number = u16::from_str_radix(written.as_str(), written.radix()).ok();
                (written.to_string(), number.and_then(VlanId::new_checked).map(Some))
            }
            DeValue::String(word) => (format!("\"{word}\""), (*word == UNTAGGED).then_some(None)),
            other => return reader.wrong_type("a number or \"untagged\"", other, span),
        };
        if vlan.is_none() {
            reader.report(Problem::BadVlan { text }, span);
        }
        vlan.map(Self)
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "integer", "minimum": 1, "maximum": 4094 }, { "const": UNTAGGED }] })
    }
}

impl Read for NumberOrWord {
    fn read(value: &DeValue<'_>, span: Span, reader: &mut Reader) -> Option<Self> {
        match value {
            DeValue::Integer(_) => Some(Self(Int::<0, 255>::read(value, span, reader)?.0.to_string())),
            DeValue::String(word) => Some(Self(word.to_string())),
            other => reader.wrong_type("a number or a name in quotes", other, span),
        }
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "integer", "minimum": 0, "maximum": 255 }, { "type": "string" }] })
    }
}

impl<T: Read> Read for List<T> {
    fn read(value: &DeValue<'_>, span: Span, reader: &mut Reader) -> Option<Self> {
        let Some(list) = value.as_array() else {
            return reader.wrong_type("a list in [brackets]", value, span);
        };
        let items: Vec<_> = list.iter().filter_map(|item| read_spanned(item, reader)).collect();
        let partial = items.len() < list.len();
        Some(Self { items, partial })
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "array", "items": T::schema(generator) })
    }

    fn spans(&mut self, each: &mut dyn FnMut(&mut Span)) {
        self.items.iter_mut().for_each(|item| item.spans(each));
    }
}

impl<T: Read> Read for OneOrMany<T> {
    fn read(value: &DeValue<'_>, span: Span, reader: &mut Reader) -> Option<Self> {
        match value {
            DeValue::Array(list) if list.is_empty() => {
                reader.report(Problem::EmptyList {}, span);
                None
            }
            DeValue::Array(_) => List::read(value, span, reader).map(|list| Self(list.items)),
            one => Some(Self(vec![At { value: T::read(one, span, reader)?, span }])),
        }
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        let one = T::schema(generator);
        json_schema!({ "anyOf": [one, { "type": "array", "items": one, "minItems": 1 }] })
    }

    fn spans(&mut self, each: &mut dyn FnMut(&mut Span)) {
        self.0.iter_mut().for_each(|item| item.spans(each));
    }
}

impl<T: Table + Clone> Read for Named<T> {
    fn read(value: &DeValue<'_>, span: Span, reader: &mut Reader) -> Option<Self> {
        let Some(tables) = value.as_table() else { return reader.wrong_type("a table", value, span) };
        let mut named = Vec::with_capacity(tables.len());
        for (key, value) in tables {
            let (name, span) = (key.get_ref(), key.span().into());
            if !is_name(name) {
                reader.report(Problem::BadName { name: name.to_string() }, span);
            }
            match value.get_ref() {
                DeValue::Table(table) => {
                    let table = T::read_table(table, span, reader);
                    named.push((At { value: name.as_ref().into(), span }, Arc::new(table)));
                }
                other => reader.wrong_type("a table", other, value.span().into()).unwrap_or_default(),
            }
        }
        Some(named)
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        let table = T::table_schema(generator);
        json_schema!({
            "type": "object", "propertyNames": { "pattern": NAME_PATTERN }, "additionalProperties": table,
        })
    }

    fn spans(&mut self, each: &mut dyn FnMut(&mut Span)) {
        for (name, table) in self {
            each(&mut name.span);
            Arc::make_mut(table).table_spans(each);
        }
    }
}

/// The error of a word that serde does not find among the variants.
#[derive(Debug)]
struct NotAWord(&'static [&'static str]);

impl fmt::Display for NotAWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "one of {:?} is wanted", self.0)
    }
}

impl std::error::Error for NotAWord {}

impl serde::de::Error for NotAWord {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self(&[])
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self(expected)
    }
}

macro_rules! words {
    ($($Type:ty),*) => {
        $(impl Read for $Type {
            fn read(value: &DeValue<'_>, span: Span, reader: &mut Reader) -> Option<Self> {
                parsed(value, "a word in quotes", span, reader, |word| {
                    Self::deserialize(word.into_deserializer()).map_err(|NotAWord(known)| Problem::BadWord {
                        word: word.into(),
                        near: Near::new(word, known.iter().copied()),
                    })
                })
            }

            fn schema(generator: &mut SchemaGenerator) -> Schema {
                generator.subschema_for::<Self>()
            }
        })*
    };
}
words!(
    Runs,
    Topology,
    Flood,
    Neighbors,
    Learn,
    Unknown,
    TcpMode,
    TcpUnknown,
    OnChange,
    Oversize,
    UdpChecksum,
    RuleFamily,
    Mode,
    RuleHelper,
    RuleKey,
    Position,
    PolicyEnd,
    Action,
    EgressDefault
);

/// Whether a station can have this address.
pub(super) fn is_station_address(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, ..] = v4.octets();
            // This network (RFC 1122), loopback, multicast and class E (RFC 5735).
            first != 0 && first != 127 && first < 224 && v4 != Ipv4Addr::BROADCAST
        }
        IpAddr::V6(v6) => {
            !v6.is_unspecified() && !v6.is_loopback() && !v6.is_multicast() && v6.to_ipv4_mapped().is_none()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is IPv4 on the wire is written as IPv4: else a rule and what it is about could be of two families.
    #[test]
    fn no_prefix_is_ipv4_in_disguise() {
        for text in ["::ffff:10.9.0.1", "::ffff:10.9.0.1/128", "::ffff:10.9.0.0/112", "::ffff:0:0/96"] {
            assert!(matches!(AddressOrPrefix::parse(text), Err(Problem::AddressKind { .. })), "{text}");
        }
        for text in ["::/0", "::1:0:0/96", "2001:db8::/96", "10.9.0.0/16", "10.9.0.1"] {
            assert!(AddressOrPrefix::parse(text).is_ok(), "{text}");
        }
    }
}
