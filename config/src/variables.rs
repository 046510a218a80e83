//! Variables in the rules of groups, and their values, as they are written.

use std::sync::Arc;

use schemars::{Schema, SchemaGenerator, json_schema};
use toml::de::DeValue;

use super::{
    leaf::PortRange,
    problem::Problem,
    read::{At, Read, Reader, Span, Table as _, read_spanned},
    tables::PeerTable,
    values::OneOrMany,
};

/// Ports of a rule: a range, or a variable that stands for some.
#[derive(Clone, Debug)]
pub(super) enum PortsValue {
    Range(PortRange),
    /// As it is written, with its `$`
    Variable(Arc<str>),
}

impl PortsValue {
    /// The range, if it is one.
    pub(super) fn range(&self) -> Option<PortRange> {
        if let Self::Range(range) = self { Some(*range) } else { None }
    }
}

impl Read for PortsValue {
    fn read(value: &DeValue<'_>, span: Span, reader: &mut Reader) -> Option<Self> {
        match value.as_str() {
            Some(word) if is_variable(word) => Some(Self::Variable(word.into())),
            _ => PortRange::read(value, span, reader).map(Self::Range),
        }
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "integer", "minimum": 0, "maximum": 65535 },
            { "type": "string", "pattern": "^( *[0-9]{1,5} *(- *[0-9]{1,5} *)?|\\$[A-Za-z0-9_]{1,63})$" },
        ] })
    }
}

/// One value of a variable. What it means is decided where the variable stands.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// A port, a range of ports, or the other side of a rule
    Text(Arc<str>),
    /// A prefix but for others
    Table(PeerTable),
}

impl Value {
    /// By which equal ones are known
    pub(super) fn text(&self) -> String {
        match self {
            Self::Text(text) => text.trim().to_owned(),
            Self::Table(table) => {
                let mut except: Vec<String> =
                    table.except.value.items.iter().map(|at| at.value.0.to_string()).collect();
                except.sort_unstable();
                let prefix = table.prefix.good().map(|at| at.value.0.to_string());
                format!("{}-{}", prefix.unwrap_or_default(), except.join("-"))
            }
        }
    }
}

impl Read for Value {
    fn read(value: &DeValue<'_>, span: Span, reader: &mut Reader) -> Option<Self> {
        match value {
            DeValue::Integer(number) => {
                let port = u16::from_str_radix(number.as_str(), number.radix()).ok();
                Some(Self::Text(port.map_or_else(|| number.to_string(), |port| port.to_string()).into()))
            }
            DeValue::String(word) if is_variable(word) => {
                reader.report(misplaced(word), span);
                None
            }
            DeValue::String(word) => Some(Self::Text(word.as_ref().into())),
            DeValue::Table(table) => Some(Self::Table(PeerTable::read_table(table, span, reader))),
            other => {
                reader.wrong_type("a number, a string, or a table with `prefix` and `except`", other, span)
            }
        }
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "integer", "minimum": 0, "maximum": 65535 },
            { "type": "string", "pattern": "^[^$]" },
            PeerTable::table_schema(generator),
        ] })
    }

    fn spans(&mut self, each: &mut dyn FnMut(&mut Span)) {
        match self {
            Self::Text(_) => {}
            Self::Table(table) => table.table_spans(each),
        }
    }
}

/// What is given to one variable
pub(super) type Values = At<OneOrMany<Value>>;

/// Variables and what is given to them, sorted by name.
#[derive(Clone, Debug)]
pub(super) struct Variables(pub(super) Vec<(At<Arc<str>>, Values)>);

impl Read for Variables {
    fn read(value: &DeValue<'_>, span: Span, reader: &mut Reader) -> Option<Self> {
        let Some(table) = value.as_table() else { return reader.wrong_type("a table", value, span) };
        let mut variables = Vec::with_capacity(table.len());
        for (key, value) in table {
            let (name, span) = (key.get_ref(), key.span().into());
            if !is_variable_name(name) {
                reader.report(Problem::BadVariable { text: name.to_string() }, span);
            }
            let values = read_spanned(value, reader);
            variables.extend(values.map(|values| (At { value: name.as_ref().into(), span }, values)));
        }
        Some(Self(variables))
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        let values = OneOrMany::<Value>::schema(generator);
        json_schema!({
            "type": "object", "propertyNames": { "pattern": "^[A-Za-z0-9_]{1,63}$" }, "additionalProperties": values,
        })
    }

    fn spans(&mut self, each: &mut dyn FnMut(&mut Span)) {
        for (name, values) in &mut self.0 {
            each(&mut name.span);
            values.spans(each);
        }
    }
}

/// Whether a word stands for values, whatever it is called.
pub(super) fn is_variable(word: &str) -> bool {
    word.starts_with('$')
}

/// What is wrong with a word that is to stand for values where there are none for it.
pub(super) fn misplaced(word: &str) -> Problem {
    let text = word.to_owned();
    if word.strip_prefix('$').is_some_and(is_variable_name) {
        Problem::VariableMisplaced { text }
    } else {
        Problem::BadVariable { text }
    }
}

pub(super) fn is_variable_name(name: &str) -> bool {
    (1..=63).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}
