//! What stations are told by.

use eastgate_wire::MacAddr;
use schemars::{Schema, SchemaGenerator, json_schema};
use toml::de::DeValue;

use super::{List, parsed};
use crate::{
    problem::{Near, Problem},
    read::{Read, Reader, Span},
    vdp::VsiManager,
};

/// Whose associations are taken: those of these MACs, or with none those of any.
#[derive(Clone, Debug)]
pub(crate) struct Stations(pub(crate) Option<List<MacAddr>>);

/// As it is written.
const ANY: &str = "any";

impl Read for Stations {
    fn read(value: &DeValue<'_>, span: Span, reader: &mut Reader) -> Option<Self> {
        match value {
            DeValue::String(word) if word == ANY => Some(Self(None)),
            DeValue::String(word) => {
                reader
                    .report(Problem::BadWord { word: word.to_string(), near: Near::new(word, [ANY]) }, span);
                None
            }
            DeValue::Array(_) => List::read(value, span, reader).map(|list| Self(Some(list))),
            other => reader.wrong_type("a list of MAC addresses, or \"any\"", other, span),
        }
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "const": ANY }, List::<MacAddr>::schema(generator)] })
    }

    fn spans(&mut self, each: &mut dyn FnMut(&mut Span)) {
        self.0.iter_mut().for_each(|list| list.spans(each));
    }
}

/// A VSI manager.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ManagerText(pub(crate) VsiManager);

impl Read for ManagerText {
    fn read(value: &DeValue<'_>, span: Span, reader: &mut Reader) -> Option<Self> {
        parsed(value, "a VSI manager in quotes", span, reader, |text| {
            VsiManager::parse(text).map(Self).ok_or_else(|| Problem::BadManager { text: text.into() })
        })
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "maxLength": 36 })
    }
}
