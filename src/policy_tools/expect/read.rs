//! Reads a file with expectations.

use std::{net::IpAddr, sync::Arc};

use eastgate_config::{Place, Source, problem::Near};
use eastgate_wire::{DropReason, Family, names};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::faults::Faults;

/// One expectation.
#[derive(Clone, Debug)]
pub struct Expectation {
    /// Where it is written
    pub at: Place,
    /// Who sends
    pub from: End,
    /// To whom
    pub to: End,
    /// IP protocol number
    pub protocol: u8,
    /// Destination port
    pub port: u16,
    /// Source port
    pub source_port: u16,
    /// ICMP type and code
    pub icmp: Option<(u8, u8)>,
    /// Only in this family
    pub family: Option<Family>,
    /// What is to become of the packet
    pub expect: Wanted,
    /// By which rule
    pub rule: Option<String>,
}

/// One end: an endpoint, and which of its addresses; or an address of nobody's
#[derive(Clone, Debug)]
pub struct End {
    /// As written
    pub name: String,
    /// One address of the endpoint
    pub address: Option<IpAddr>,
    /// Where it is written
    pub at: Place,
}

/// What is to become of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// It passes.
    Allow,
    /// A rule, or the absence of one, drops it.
    Deny,
    /// A rule drops it and tells its sender.
    Reject,
    /// It is dropped for this reason.
    Dropped(DropReason),
}

impl Wanted {
    /// As it is written
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Reject => "reject",
            Self::Dropped(reason) => reason.name(),
        }
    }

    fn of(text: &str) -> Option<Self> {
        match text {
            "allow" => Some(Self::Allow),
            "deny" => Some(Self::Deny),
            "reject" => Some(Self::Reject),
            other => DropReason::from_name(other).map(Self::Dropped),
        }
    }
}

const KEYS: [&str; 13] = [
    "from",
    "from_address",
    "to",
    "to_address",
    "protocol",
    "port",
    "source_port",
    "icmp_type",
    "icmp_code",
    "family",
    "expect",
    "rule",
    "description",
];

/// The expectations in a text.
///
/// # Errors
/// All that is wrong with it.
pub fn read(name: &str, text: &str) -> Result<Vec<Expectation>, Faults> {
    let mut reader = Reader { source: Source::new(name, text), faults: Faults::default() };
    let mut read = Vec::new();
    match DeTable::parse(text) {
        Ok(table) => reader.file(&table, &mut read),
        Err(error) => {
            let at = reader.place(error.span().unwrap_or_default());
            reader.faults.add(
                at,
                format!("this is not TOML: {}", error.message()),
                "see `--help` for an example",
            );
        }
    }
    reader.faults.unless_any(read)
}

struct Reader {
    source: Arc<Source>,
    faults: Faults,
}

type Table<'t> = DeTable<'t>;

impl Reader {
    fn place(&self, span: std::ops::Range<usize>) -> Place {
        self.source.place(span)
    }

    fn file(&mut self, table: &Spanned<Table<'_>>, read: &mut Vec<Expectation>) {
        for (key, value) in table.get_ref() {
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("expect", DeValue::Array(list)) => {
                    for item in list {
                        match item.get_ref() {
                            DeValue::Table(table) => {
                                let at = self.place(item.span());
                                read.extend(self.expectation(table, at));
                            }
                            _ => self.wrong(
                                item.span(),
                                "this is no table",
                                "write [[expect]] over each expectation",
                            ),
                        }
                    }
                }
                _ => self.wrong(key.span(), "this file has nothing but [[expect]]", "write [[expect]]"),
            }
        }
        if read.is_empty() && self.faults.is_empty() {
            self.wrong(0..0, "there is no expectation in this file", "write [[expect]] tables; see `--help`");
        }
    }

    fn wrong(&mut self, span: std::ops::Range<usize>, message: &str, remedy: &str) {
        let at = self.place(span);
        self.faults.add(at, message, remedy);
    }

    fn expectation(&mut self, table: &Table<'_>, at: Place) -> Option<Expectation> {
        for key in table.keys().filter(|key| !KEYS.contains(&key.get_ref().as_ref())) {
            let near = Near::new(key.get_ref(), KEYS);
            self.wrong(key.span(), &format!("an expectation has no `{}`", key.get_ref()), &near.to_string());
        }
        let from = self.end(table, "from", "from_address", &at);
        let to = self.end(table, "to", "to_address", &at);
        let protocol =
            self.word(table, "protocol", names::protocol_number, "write tcp, udp, icmp or a number");
        let protocol = if table.contains_key("protocol") { protocol } else { Some(6) };
        let port = self.number(table, "port", u16::MAX.into());
        let source_port = self.number(table, "source_port", u16::MAX.into());
        let kind = self.number(table, "icmp_type", u8::MAX.into());
        let code = self.number(table, "icmp_code", u8::MAX.into());
        let has_ports = protocol.is_some_and(names::has_ports);
        if has_ports && !table.contains_key("port") {
            self.faults.add(at.clone(), "this expectation lacks `port`", "add, for example, `port = 443`");
        }
        for key in ["port", "source_port"].into_iter().filter(|_| protocol.is_some() && !has_ports) {
            if let Some(value) = table.get(key) {
                self.wrong(
                    value.span(),
                    &format!("this protocol has no `{key}`"),
                    "take it out, or write another protocol",
                );
            }
        }
        let family = self.word(
            table,
            "family",
            |text| match text {
                "ipv4" => Some(Family::V4),
                "ipv6" => Some(Family::V6),
                _ => None,
            },
            "write \"ipv4\" or \"ipv6\"",
        );
        let expect = self.word(
            table,
            "expect",
            Wanted::of,
            "write \"allow\", \"deny\", \"reject\" or a reason of `eastgate drop-reasons`",
        );
        if !table.contains_key("expect") {
            self.faults.add(
                at.clone(),
                "this expectation lacks `expect`",
                "add, for example, `expect = \"allow\"`",
            );
        }
        let rule =
            self.word(table, "rule", |text| Some(text.to_owned()), "write a rule's name as `trace` tells it");
        let at = table.get("expect").map_or(at, |value| self.place(value.span()));
        Some(Expectation {
            at,
            from: from?,
            to: to?,
            protocol: protocol?,
            port: port.unwrap_or(0) as u16,
            source_port: source_port.unwrap_or(40_000) as u16,
            icmp: kind.map(|kind| (kind as u8, code.unwrap_or(0) as u8)),
            family,
            expect: expect?,
            rule,
        })
    }

    fn end(&mut self, table: &Table<'_>, key: &str, address: &str, at: &Place) -> Option<End> {
        let address = self.word(table, address, |text| text.parse().ok(), "write an address");
        let Some(value) = table.get(key) else {
            let remedy = format!("add, for example, `{key} = \"acme/web1\"`");
            self.faults.add(at.clone(), format!("this expectation lacks `{key}`"), remedy);
            return None;
        };
        let name =
            self.word(table, key, |text| Some(text.to_owned()), "write TENANT/ENDPOINT or an address")?;
        Some(End { name, address, at: self.place(value.span()) })
    }

    /// The value of a key whose text says something; none where it is not there or says nothing, which is told.
    fn word<T>(
        &mut self,
        table: &Table<'_>,
        key: &str,
        meaning: impl Fn(&str) -> Option<T>,
        remedy: &str,
    ) -> Option<T> {
        let value = table.get(key)?;
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) => number.to_string(),
            _ => String::new(),
        };
        let meant = meaning(&text);
        if meant.is_none() || text.is_empty() {
            self.wrong(value.span(), &format!("this is no `{key}`"), remedy);
        }
        meant
    }

    fn number(&mut self, table: &Table<'_>, key: &str, most: u32) -> Option<u32> {
        let remedy = format!("write a number from 0 to {most}");
        self.word(table, key, |text| text.parse().ok().filter(|number| *number <= most), &remedy)
    }
}
