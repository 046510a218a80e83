//! TOML into tables of plain values, keeping the place of each and going on after every error.
//!
//! [`table!`] declares a table once; the struct, its reader and its JSON schema all come from that declaration,
//! so the three cannot drift apart.

use std::sync::Arc;

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    diagnostics::Found,
    place::{Place, Source},
    problem::{Diagnostic, Near, Problem},
};

/// A range of bytes of the file being read, or of one of the parts that were read by themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span {
    start: u32,
    end: u32,
    /// Its number among the [`Sources`]
    source: u32,
}

/// What is read: the file, and behind it the parts of it that were read by themselves.
pub(super) type Sources = Vec<Arc<Source>>;

/// A value and where it is written. Where a default stands in for it, that is the name of its table.
#[derive(Clone, Debug, Default)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) span: Span,
}

/// What is known while one file is read.
pub(super) struct Reader {
    sources: Arc<Sources>,
    pub(super) found: Found,
    /// Keys may be lost with what is no TOML: that one is missing would be a guess.
    pub(super) guesses: bool,
}

/// What can stand as a value.
pub(super) trait Read: Sized {
    /// The value, or `None` after reporting why not.
    fn read(value: &DeValue<'_>, span: Span, reader: &mut Reader) -> Option<Self>;
    /// What is possible, as JSON schema.
    fn schema(generator: &mut SchemaGenerator) -> Schema;
    /// Hands over the place of everything in it.
    fn spans(&mut self, _each: &mut dyn FnMut(&mut Span)) {}
}

impl<T: Read> At<T> {
    /// Hands over its place, and that of everything in it.
    pub(super) fn spans(&mut self, each: &mut dyn FnMut(&mut Span)) {
        each(&mut self.span);
        self.value.spans(each);
    }
}

impl<T: Read> Field<T> {
    /// Hands over its place, and that of everything in it.
    pub(super) fn spans(&mut self, each: &mut dyn FnMut(&mut Span)) {
        if let Self::Good(value) = self {
            value.spans(each);
        }
    }
}

impl From<std::ops::Range<usize>> for Span {
    fn from(range: std::ops::Range<usize>) -> Self {
        Self { start: range.start as u32, end: range.end as u32, source: 0 }
    }
}

impl Span {
    /// The same bytes of another source.
    pub(super) fn of(self, source: u32) -> Self {
        Self { source, ..self }
    }

    /// The number of what it is a range of
    pub(super) fn source(self) -> u32 {
        self.source
    }

    /// The bytes of that
    pub(super) fn range(self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }
}

impl Reader {
    pub(super) fn new(sources: impl Into<Arc<Sources>>) -> Self {
        Self { sources: sources.into(), found: Found::default(), guesses: true }
    }

    /// Another one of the same, that has found nothing.
    pub(super) fn beside(&self) -> Self {
        Self { guesses: self.guesses, ..Self::new(self.sources.clone()) }
    }

    /// The file
    pub(super) fn source(&self) -> &Arc<Source> {
        self.source_of(Span::default())
    }

    fn source_of(&self, span: Span) -> &Arc<Source> {
        &self.sources[span.source as usize]
    }

    pub(super) fn place(&self, span: Span) -> Place {
        self.source_of(span).place(span.range())
    }

    /// What spans are sorted by to be in the order in which they are written.
    pub(super) fn order(&self, span: Span) -> u32 {
        self.source_of(span).offset(span.start)
    }

    pub(super) fn report(&mut self, problem: Problem, span: Span) {
        if self.guesses || !matches!(problem, Problem::MissingKey { .. }) {
            self.found.push(Diagnostic::new(problem, self.place(span)));
        }
    }

    pub(super) fn report_also(&mut self, problem: Problem, span: Span, also: Span, what: &'static str) {
        self.found.push(Diagnostic::new(problem, self.place(span)).and(self.place(also), what));
    }

    pub(super) fn wrong_type<T>(
        &mut self,
        wanted: &'static str,
        found: &DeValue<'_>,
        span: Span,
    ) -> Option<T> {
        self.report(Problem::WrongType { wanted, found: type_name(found) }, span);
        None
    }

    /// The value of a key, if it is there and good.
    pub(super) fn field<T: Read>(&mut self, table: &DeTable<'_>, key: &str) -> Field<T> {
        match table.get(key) {
            None => Field::Missing,
            Some(value) => match read_spanned(value, self) {
                Some(value) => Field::Good(value),
                None => Field::Bad,
            },
        }
    }

    /// Reports the keys that such a table does not have.
    fn unknown_keys<T: Table>(&mut self, table: &DeTable<'_>) {
        let known = || T::KEYS.iter().copied().flatten().copied();
        for key in table.keys() {
            if !known().any(|known| known == key.get_ref()) {
                let near = Near::new(key.get_ref(), known());
                let problem = Problem::UnknownKey { key: key.get_ref().to_string(), table: T::NAME, near };
                self.report(problem, key.span().into());
            }
        }
    }
}

/// A key of a table as it was found.
#[derive(Clone, Debug)]
pub(super) enum Field<T> {
    /// It is not there.
    Missing,
    /// It is there and has been reported.
    Bad,
    /// It is there.
    Good(At<T>),
}

impl<T> Field<T> {
    pub(super) fn good(&self) -> Option<&At<T>> {
        if let Self::Good(value) = self { Some(value) } else { None }
    }

    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Missing)
    }
}

pub(super) fn read_spanned<T: Read>(value: &Spanned<DeValue<'_>>, reader: &mut Reader) -> Option<At<T>> {
    let span = value.span().into();
    Some(At { value: T::read(value.get_ref(), span, reader)?, span })
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// A table with keys of one's own choice: names to tables of one kind, sorted by name.
/// Each is shared by all readings of a file in which it did not change.
pub(super) type Named<T> = Vec<(At<super::model::Name>, Arc<T>)>;

/// A table whose keys are known: what [`table!`] declares.
pub(super) trait Table: Sized + Default {
    const NAME: &'static str;
    /// Its own keys, and those that it shares with another kind of table.
    const KEYS: &'static [&'static [&'static str]];
    /// Reads what can be read of its keys. `at` is where the table's name is written.
    fn read_keys(table: &DeTable<'_>, at: Span, reader: &mut Reader) -> Self;
    /// Adds its keys to a schema.
    fn add_schema(generator: &mut SchemaGenerator, into: &mut TableSchema);
    fn description() -> &'static str;
    /// Hands over the place of everything in it.
    fn table_spans(&mut self, each: &mut dyn FnMut(&mut Span));

    /// Reads what can be read, and reports keys that it does not have.
    fn read_table(table: &DeTable<'_>, at: Span, reader: &mut Reader) -> Self {
        reader.unknown_keys::<Self>(table);
        Self::read_keys(table, at, reader)
    }

    fn table_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut keys = TableSchema::default();
        Self::add_schema(generator, &mut keys);
        json_schema!({
            "type": "object", "description": Self::description(), "properties": keys.properties,
            "required": keys.required, "additionalProperties": false,
        })
    }
}

impl<T: Table> Read for T {
    fn read(value: &DeValue<'_>, span: Span, reader: &mut Reader) -> Option<Self> {
        match value {
            DeValue::Table(table) => Some(T::read_table(table, span, reader)),
            other => reader.wrong_type("a table", other, span),
        }
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        T::table_schema(generator)
    }

    fn spans(&mut self, each: &mut dyn FnMut(&mut Span)) {
        self.table_spans(each);
    }
}

/// The keys of a table, as JSON schema.
#[derive(Default)]
pub(super) struct TableSchema {
    properties: Map<String, Value>,
    required: Vec<&'static str>,
}

impl TableSchema {
    pub(super) fn key(&mut self, key: &str, doc: &str, schema: Schema, default: Option<Value>) {
        let mut schema = schema.to_value();
        if let Value::Object(schema) = &mut schema {
            schema.insert("description".into(), json!(doc.trim()));
            if let Some(default) = default {
                schema.insert("default".into(), default);
            }
        }
        self.properties.insert(key.to_owned(), schema);
    }

    pub(super) fn requires(&mut self, key: Option<&'static str>) {
        self.required.extend(key);
    }
}

/// Declares a table. Every key is `required` (with an example for the diagnostic), `optional`, has a `default`, or
/// holds `many` things, of which there may be none. `with PART: TABLE` adds the keys of another declaration.
macro_rules! table {
    (
        #[doc = $doc:literal] $name:literal
        struct $Table:ident {
            $(with $part:ident: $Part:ty,)?
            $($(#[doc = $key_doc:literal])+ $mode:ident $key:ident: $Type:ty $(= $given:expr)?,)*
        }
    ) => {
        #[doc = $doc]
        #[derive(Clone, Debug)]
        pub(crate) struct $Table {
            $(pub(crate) $part: $Part,)?
            $($(#[doc = $key_doc])+ pub(crate) $key: table!(@type $mode $Type),)*
        }

        impl Default for $Table {
            fn default() -> Self {
                Self {
                    $($part: <$Part>::default(),)?
                    $($key: table!(@absent $mode Span::default(), $($given)?),)*
                }
            }
        }

        impl $crate::read::Table for $Table {
            const NAME: &'static str = $name;
            const KEYS: &'static [&'static [&'static str]] =
                &[&[$(stringify!($key)),*] $(, <$Part as $crate::read::Table>::KEYS[0])?];

            #[allow(unused_variables, reason = "tables without required keys and defaults do not ask for their place")]
            fn read_keys(table: &DeTable<'_>, at: Span, reader: &mut Reader) -> Self {
                Self {
                    $($part: <$Part as $crate::read::Table>::read_keys(table, at, reader),)?
                    $($key: match reader.field::<$Type>(table, stringify!($key)) {
                        Field::Good(value) => table!(@present $mode value),
                        Field::Bad => table!(@bad $mode at, $($given)?),
                        Field::Missing => {
                            table!(@missing $mode reader, $name, at, stringify!($key), $($given)?);
                            table!(@absent $mode at, $($given)?)
                        }
                    },)*
                }
            }

            fn table_spans(&mut self, each: &mut dyn FnMut(&mut $crate::read::Span)) {
                $($crate::read::Table::table_spans(&mut self.$part, each);)?
                $(self.$key.spans(each);)*
            }

            fn description() -> &'static str {
                $doc.trim()
            }

            fn add_schema(generator: &mut SchemaGenerator, into: &mut $crate::read::TableSchema) {
                $(<$Part as $crate::read::Table>::add_schema(generator, into);)?
                $(
                    let doc = concat!($($key_doc, "\n"),+);
                    let schema = <$Type as Read>::schema(generator);
                    into.key(stringify!($key), doc, schema, table!(@shown $mode $Type, $($given)?));
                    into.requires(table!(@require $mode stringify!($key)));
                )*
            }
        }
    };
    (@type default $Type:ty) => { At<$Type> };
    (@type many $Type:ty) => { At<$Type> };
    (@type $mode:ident $Type:ty) => { Field<$Type> };
    (@present default $value:expr) => { $value };
    (@present many $value:expr) => { $value };
    (@present $mode:ident $value:expr) => { Field::Good($value) };
    (@absent default $at:expr, $given:expr) => { At { value: $given, span: $at } };
    (@absent many $at:expr,) => { At { value: Default::default(), span: $at } };
    (@absent $mode:ident $at:expr, $($given:expr)?) => { Field::Missing };
    (@bad default $at:expr, $given:expr) => { table!(@absent default $at, $given) };
    (@bad many $at:expr,) => { table!(@absent many $at,) };
    (@bad $mode:ident $at:expr, $($given:expr)?) => { Field::Bad };
    (@missing required $reader:expr, $name:expr, $at:expr, $key:expr, $example:expr) => {
        $reader.report(Problem::MissingKey { key: $key, table: $name, example: $example }, $at)
    };
    (@missing $mode:ident $reader:expr, $name:expr, $at:expr, $key:expr, $($given:expr)?) => {};
    (@shown default $Type:ty, $given:expr) => { serde_json::to_value::<$Type>($given).ok() };
    (@shown $mode:ident $Type:ty, $($given:expr)?) => { None };
    (@require required $key:expr) => { Some($key) };
    (@require $mode:ident $key:expr) => { None };
}
pub(super) use table;
