//! The JSON schema of the files, for editors and for programs that write them.

use schemars::{Schema, generate::SchemaSettings};

use super::{read::Table as _, tables::FileTable};

/// The schema (JSON Schema 2020-12) of a configuration file, made from the same declarations as its reader.
#[must_use]
pub fn schema() -> Schema {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut generator = settings.into_generator();
    let mut schema = FileTable::table_schema(&mut generator);
    schema.insert("$schema".to_owned(), "https://json-schema.org/draft/2020-12/schema".into());
    schema.insert("title".to_owned(), "eastgate configuration".into());
    schema
}
