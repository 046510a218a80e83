//! What is answered: one type for each question, and lists that come in parts.

use std::{borrow::Cow, fmt, marker::PhantomData};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{IgnoredAny, MapAccess, Visitor},
    ser::SerializeMap,
};

use crate::{
    Done, DropRows, EndpointRow, Events, ExpectationRow, FdbRow, FlowRow, MachineRow, MatrixRow, NeighborRow,
    PolicyRow, ProbeReport, RuleCountRow, StagedRows, Status, TraceReport,
};

/// The most rows of one answer. Where there are more, it says how to ask for the next.
pub const MAX_ROWS: usize = 50_000;

/// The answer to a request that was carried out.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(untagged)]
pub enum Reply {
    /// To [`Request::Status`](crate::Request::Status)
    Status(Box<Status>),
    /// To [`Request::Endpoints`](crate::Request::Endpoints)
    Endpoints(List<EndpointRow>),
    /// To [`Request::Fdb`](crate::Request::Fdb)
    Fdb(List<FdbRow>),
    /// To [`Request::Flows`](crate::Request::Flows)
    Flows(List<FlowRow>),
    /// To [`Request::Expectations`](crate::Request::Expectations)
    Expectations(List<ExpectationRow>),
    /// To [`Request::Neighbors`](crate::Request::Neighbors)
    Neighbors(List<NeighborRow>),
    /// To [`Request::Drops`](crate::Request::Drops)
    Drops(DropRows),
    /// To [`Request::Policy`](crate::Request::Policy)
    Policy(List<PolicyRow>),
    /// To [`Request::Rules`](crate::Request::Rules)
    Rules(List<RuleCountRow>),
    /// To [`Request::Matrix`](crate::Request::Matrix)
    Matrix(List<MatrixRow>),
    /// To [`Request::Events`](crate::Request::Events)
    Events(Events),
    /// To [`Request::Staged`](crate::Request::Staged)
    Staged(StagedRows),
    /// To [`Request::Machines`](crate::Request::Machines)
    Machines(List<MachineRow>),
    /// To [`Request::Trace`](crate::Request::Trace)
    Trace(TraceReport),
    /// To [`Request::Probe`](crate::Request::Probe)
    Probe(Box<ProbeReport>),
    /// To whatever changes something
    Done(Box<Done>),
}

impl From<Done> for Reply {
    fn from(done: Done) -> Self {
        Self::Done(Box::new(done))
    }
}

/// A row of a list.
pub trait Row {
    /// What the list calls its rows
    const LIST: &'static str;
}

impl Row for EndpointRow {
    const LIST: &'static str = "endpoints";
}

impl Row for FdbRow {
    const LIST: &'static str = "fdb";
}

impl Row for FlowRow {
    const LIST: &'static str = "flows";
}

impl Row for ExpectationRow {
    const LIST: &'static str = "expectations";
}

impl Row for MachineRow {
    const LIST: &'static str = "machines";
}

impl Row for NeighborRow {
    const LIST: &'static str = "neighbors";
}

impl Row for RuleCountRow {
    const LIST: &'static str = "rules";
}

impl Row for MatrixRow {
    const LIST: &'static str = "matrix";
}

impl Row for PolicyRow {
    const LIST: &'static str = "policy";
}

/// Rows, and how many there are of them altogether. In JSON the rows stand under [`Row::LIST`], beside `total` and, where
/// there are more, `next`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct List<T> {
    /// The rows that were asked for, as many as one answer has room for
    pub rows: Vec<T>,
    /// How many there are without a limit
    pub total: usize,
    /// Where the rows go on, for [`Filter::after`](crate::Filter::after); nothing after the last
    pub next: Option<String>,
}

impl<T: Row + Serialize> Serialize for List<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry(T::LIST, &self.rows)?;
        if let Some(next) = &self.next {
            map.serialize_entry("next", next)?;
        }
        map.serialize_entry("total", &self.total)?;
        map.end()
    }
}

impl<'de, T: Row + Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Reader(PhantomData))
    }
}

impl<T: Row + JsonSchema> JsonSchema for List<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("{}s", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let rows = generator.subschema_for::<Vec<T>>();
        json_schema!({
            "type": "object",
            "description": "Rows, and how many there are of them altogether",
            "properties": {
                T::LIST: rows,
                "total": {
                    "type": "integer",
                    "minimum": 0,
                    "description": "How many there are without a limit",
                },
                "next": {
                    "type": "string",
                    "description": "Where the rows go on, for `after`; nothing after the last",
                },
            },
            "required": [T::LIST, "total"],
        })
    }
}

struct Reader<T>(PhantomData<T>);

impl<'de, T: Row + Deserialize<'de>> Visitor<'de> for Reader<T> {
    type Value = List<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list with `{}` and `total`", T::LIST)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<List<T>, A::Error> {
        let (mut rows, mut total, mut next) = (None, None, None);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                key if key == T::LIST => rows = Some(map.next_value()?),
                "total" => total = Some(map.next_value()?),
                "next" => next = map.next_value()?,
                _ => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        let missing = <A::Error as serde::de::Error>::missing_field;
        let rows: Vec<T> = rows.ok_or_else(|| missing(T::LIST))?;
        Ok(List { rows, total: total.ok_or_else(|| missing("total"))?, next })
    }
}

#[cfg(test)]
mod tests {
    use eastgate_wire::{MacAddr, Vni};

    use super::*;

    #[test]
    fn a_list_is_read_as_it_was_written() {
        let row = FdbRow {
            vni: Vni::new_checked(7).unwrap(),
            mac: MacAddr::BROADCAST,
            at: "p1".into(),
            kind: "learned".into(),
            age_s: None,
        };
        for next in [None, Some("1".to_owned())] {
            let list = List { rows: vec![row.clone()], total: 2, next };
            let text = serde_json::to_string(&list).unwrap();
            assert!(text.starts_with(r#"{"fdb":[{"vni":7,"#) && text.ends_with(r#""total":2}"#), "{text}");
            assert_eq!(serde_json::from_str::<List<FdbRow>>(&text).unwrap(), list);
        }
        let later = r#"{"total":0,"fdb":[],"some":{"day":[1]}}"#;
        assert_eq!(serde_json::from_str::<List<FdbRow>>(later).unwrap().total, 0);
        let error = serde_json::from_str::<List<FdbRow>>(r#"{"flows":[],"total":0}"#).unwrap_err();
        assert!(error.to_string().contains("fdb"), "{error}");
    }
}
