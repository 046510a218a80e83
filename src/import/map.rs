//! What only the reader knows: where the things of the other system are here.

use std::{collections::BTreeMap, ops::Range, path::Path, sync::Arc};

use anyhow::{Context, Result};
use eastgate_config::{Source, problem::Near};
use ipnet::IpNet;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::faults::Faults;

/// Where things are here.
#[derive(Clone, Debug, Default)]
pub struct Map {
    /// The tenant that everything goes to, if nothing else is said
    pub tenant: Option<String>,
    /// The host that everything is on, if nothing else is said
    pub host: Option<String>,
    projects: BTreeMap<String, String>,
    hosts: BTreeMap<String, String>,
    networks: BTreeMap<String, NetworkMap>,
    ports: BTreeMap<String, PortMap>,
}

/// What a network is here.
#[derive(Clone, Debug, Default)]
pub(super) struct NetworkMap {
    pub(super) name: Option<String>,
    pub(super) vni: Option<u32>,
    pub(super) subnets: Vec<IpNet>,
    /// Its routers
    pub(super) gateways: Vec<std::net::IpAddr>,
}

/// Where an interface is here.
#[derive(Clone, Debug, Default)]
pub(super) struct PortMap {
    pub(super) name: Option<String>,
    pub(super) host: Option<String>,
    pub(super) port: Option<String>,
    /// It is no station and is left out.
    pub(super) skip: bool,
}

impl Map {
    /// Reads a mapping file.
    ///
    /// # Errors
    /// All that is wrong with it, or why it cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).with_context(|| format!("{name} cannot be read"))?;
        Ok(Self::of(&name, &text)?)
    }

    /// What a text says.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn of(name: &str, text: &str) -> Result<Self, Faults> {
        let mut reader = Reader { source: Source::new(name, text), faults: Faults::default() };
        let mut map = Self::default();
        match DeTable::parse(text) {
            Ok(table) => reader.file(table.get_ref(), &mut map),
            Err(error) => reader.wrong(
                error.span().unwrap_or_default(),
                format!("this is not TOML: {}", error.message()),
                "see `eastgate import --help` for an example",
            ),
        }
        reader.faults.unless_any(map)
    }

    /// The tenant of a project or account.
    pub(super) fn tenant(&self, names: &[&str]) -> Option<&str> {
        first(&self.projects, names).or(self.tenant.as_ref()).map(String::as_str)
    }

    /// The host that a hypervisor is here.
    pub(super) fn host(&self, names: &[&str]) -> Option<&str> {
        first(&self.hosts, names).or(self.host.as_ref()).map(String::as_str)
    }

    pub(super) fn network(&self, names: &[&str]) -> NetworkMap {
        first(&self.networks, names).cloned().unwrap_or_default()
    }

    pub(super) fn port(&self, names: &[&str]) -> PortMap {
        first(&self.ports, names).cloned().unwrap_or_default()
    }
}

/// By which of several names it is known
fn first<'m, T>(map: &'m BTreeMap<String, T>, names: &[&str]) -> Option<&'m T> {
    names.iter().find_map(|name| map.get(*name))
}

struct Reader {
    source: Arc<Source>,
    faults: Faults,
}

type Value<'t> = Spanned<DeValue<'t>>;

impl Reader {
    fn wrong(&mut self, span: Range<usize>, message: impl Into<String>, remedy: &str) {
        self.faults.add(self.source.place(span), message, remedy);
    }

    fn file(&mut self, table: &DeTable<'_>, map: &mut Map) {
        const KEYS: [&str; 6] = ["tenant", "host", "project", "hypervisor", "network", "port"];
        self.unknown(table, &KEYS);
        map.tenant = table.get("tenant").and_then(|value| self.word(value));
        map.host = table.get("host").and_then(|value| self.word(value));
        for (name, it) in self.tables(table, "project", &["tenant"]) {
            map.projects
                .extend(it.get("tenant").and_then(|value| self.word(value)).map(|tenant| (name, tenant)));
        }
        for (name, it) in self.tables(table, "hypervisor", &["host"]) {
            map.hosts.extend(it.get("host").and_then(|value| self.word(value)).map(|host| (name, host)));
        }
        for (name, it) in self.tables(table, "network", &["name", "vni", "subnets", "gateways"]) {
            let vni = it.get("vni").and_then(|value| self.vni(value));
            let subnets = it.get("subnets").map(|value| self.subnets(value)).unwrap_or_default();
            let name_here = it.get("name").and_then(|value| self.word(value));
            let gateways = it.get("gateways").map(|value| self.addresses(value)).unwrap_or_default();
            let network = NetworkMap { name: name_here, vni, subnets, gateways };
            map.networks.insert(name, network);
        }
        for (name, it) in self.tables(table, "port", &["name", "host", "port", "skip"]) {
            let mut word = |key: &str| it.get(key).and_then(|value| self.word(value));
            let (named, host, port) = (word("name"), word("host"), word("port"));
            let skip = match it.get("skip").map(|value| (value.get_ref(), value.span())) {
                Some((DeValue::Boolean(skip), _)) => *skip,
                Some((_, span)) => {
                    self.wrong(span, "this is neither true nor false", "write `skip = true`");
                    false
                }
                None => false,
            };
            map.ports.insert(name, PortMap { name: named, host, port, skip });
        }
    }

    /// The tables below a key, by name.
    fn tables<'t>(
        &mut self,
        table: &'t DeTable<'t>,
        key: &str,
        known: &[&str],
    ) -> Vec<(String, &'t DeTable<'t>)> {
        let Some(value) = table.get(key) else { return Vec::new() };
        let DeValue::Table(tables) = value.get_ref() else {
            self.wrong(value.span(), "this is no table", &format!("write [{key}.\"NAME\"]"));
            return Vec::new();
        };
        let mut found = Vec::new();
        for (name, value) in tables {
            match value.get_ref() {
                DeValue::Table(table) => {
                    self.unknown(table, known);
                    found.push((name.get_ref().to_string(), table));
                }
                _ => self.wrong(value.span(), "this is no table", &format!("write [{key}.\"NAME\"]")),
            }
        }
        found
    }

    fn unknown(&mut self, table: &DeTable<'_>, known: &[&str]) {
        for key in table.keys().filter(|key| !known.contains(&key.get_ref().as_ref())) {
            let near = Near::new(key.get_ref(), known.iter().copied()).to_string();
            self.wrong(key.span(), format!("there is no `{}` here", key.get_ref()), &near);
        }
    }

    fn word(&mut self, value: &Value<'_>) -> Option<String> {
        match value.get_ref() {
            DeValue::String(text) if super::site::near(text).as_deref() == Some(text) => {
                Some(text.to_string())
            }
            _ => {
                let remedy =
                    "1 to 63 letters, digits, `_`, `-` and `.` in quotes, beginning with a letter or digit";
                self.wrong(value.span(), "this is no name", remedy);
                None
            }
        }
    }

    fn vni(&mut self, value: &Value<'_>) -> Option<u32> {
        let number = match value.get_ref() {
            DeValue::Integer(number) => number.to_string().parse().ok().filter(|vni| *vni < 1 << 24),
            _ => None,
        };
        if number.is_none() {
            self.wrong(value.span(), "this is no VNI", "write a number from 0 to 16777215");
        }
        number
    }

    fn subnets(&mut self, value: &Value<'_>) -> Vec<IpNet> {
        self.list(value, "this is no prefix", "write, for example, \"10.1.0.0/24\"")
    }

    fn addresses(&mut self, value: &Value<'_>) -> Vec<std::net::IpAddr> {
        self.list(value, "this is no address", "write, for example, \"10.1.0.1\"")
    }

    /// One thing, or a list of them.
    fn list<T: std::str::FromStr>(&mut self, value: &Value<'_>, message: &str, remedy: &str) -> Vec<T> {
        let list = match value.get_ref() {
            DeValue::Array(list) => list.iter().collect(),
            _ => vec![value],
        };
        let mut read = Vec::new();
        for item in list {
            let parsed = match item.get_ref() {
                DeValue::String(text) => text.parse().ok(),
                _ => None,
            };
            match parsed {
                Some(good) => read.push(good),
                None => self.wrong(item.span(), message, remedy),
            }
        }
        read
    }
}
