//! The examples that users copy are good, and show all that there is.

use std::{collections::BTreeMap, path::PathBuf};

use eastgate_config::{Loader, schema};
use serde_json::Value;

use crate::{folder, toml_files};

pub(crate) fn examples() -> Vec<PathBuf> {
    let mut files = toml_files(&folder("configs"));
    files.push(folder("configs/folder/eastgate.toml"));
    files
}

#[test]
fn examples_load_without_a_warning() {
    let files = examples();
    assert!(files.len() >= 6);
    for path in files {
        let mut loader = Loader::new(&path);
        let config = loader.load().unwrap_or_else(|found| panic!("{found}"));
        assert!(loader.warnings().is_empty(), "{}", loader.warnings());
        assert!(!config.hosts.is_empty() && config.networks().count() > 0, "{}", path.display());
    }
}

/// Whether some example has each key of a schema and each of its words that is no default. `found` are the values that examples have in
/// the place at `path`. Tables of one kind are one place, wherever they stand: a rule of a group says what a policy's says.
fn see(schema: &Value, path: &str, found: &[&Value], seen: &mut BTreeMap<String, bool>) {
    let choices = ["oneOf", "anyOf"].into_iter().filter_map(|word| schema[word].as_array()).flatten();
    choices.for_each(|choice| see(choice, path, found, seen));
    let items = found.iter().filter_map(|value| value.as_array()).flatten();
    see_if_any(&schema["items"], path, items.collect(), seen);
    let named = found.iter().filter_map(|value| value.as_object()).flat_map(|named| named.values());
    see_if_any(&schema["additionalProperties"], path, named.collect(), seen);
    for (key, value) in schema["properties"].as_object().into_iter().flatten() {
        let found: Vec<&Value> = found.iter().filter_map(|table| table.get(key)).collect();
        *seen.entry(format!("{path}: {key}")).or_default() |= !found.is_empty();
        // Of names that stand for numbers, one is enough.
        let words = if key == "ethertypes" { Vec::new() } else { words(value) };
        for word in words {
            let says =
                |value: &&Value| *value == word || value.as_array().is_some_and(|list| list.contains(word));
            let is_default = value.get("default") == Some(word);
            *seen.entry(format!("{key} = {word}")).or_default() |= is_default || found.iter().any(says);
        }
        let place = match (path, key.as_str()) {
            (_, "ingress" | "egress") => "rule".to_owned(),
            (_, "from" | "to" | "variables") => "peer".to_owned(),
            (_, "policy" | "set" | "timeouts") => key.clone(),
            _ => format!("{path}.{key}"),
        };
        see(value, &place, &found, seen);
    }
}

fn see_if_any(schema: &Value, path: &str, found: Vec<&Value>, seen: &mut BTreeMap<String, bool>) {
    if schema.is_object() {
        see(schema, path, &found, seen);
    }
}

/// The words that a value may be, or the items of a list.
fn words(schema: &Value) -> Vec<&Value> {
    let choices = ["oneOf", "anyOf"].into_iter().filter_map(|word| schema[word].as_array()).flatten();
    let items = schema.get("items").into_iter();
    schema.get("const").into_iter().chain(choices.chain(items).flat_map(words)).collect()
}

#[test]
fn each_key_and_each_word_of_it_is_in_an_example() {
    let folder = folder("configs/folder");
    let included = [folder.clone(), folder.join("tenants")].into_iter().flat_map(|path| toml_files(&path));
    let files: Vec<_> = examples().into_iter().chain(included).collect();
    let read = |path: &PathBuf| toml::from_str::<Value>(&std::fs::read_to_string(path).unwrap()).unwrap();
    let examples: Vec<Value> = files.iter().map(read).collect();
    let mut seen = BTreeMap::new();
    see(&schema().to_value(), "", &examples.iter().collect::<Vec<_>>(), &mut seen);
    assert!(seen.len() > 200, "{}", seen.len());
    let missing: Vec<_> = seen.iter().filter(|(_, there)| !**there).map(|(what, _)| what).collect();
    assert!(missing.is_empty(), "no file in configs/ shows {missing:#?}");
}
