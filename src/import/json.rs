//! JSON with the place of every value.

use std::{borrow::Cow, collections::BTreeMap};

use eastgate_config::Place;
use serde_json::value::RawValue;

use super::File;
use crate::faults::Faults;

/// A value, as it is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node<'f> {
    file: &'f File,
    raw: &'f str,
}

impl File {
    /// The documents of a file, one behind the other.
    pub(super) fn documents(&self, faults: &mut Faults) -> Vec<Node<'_>> {
        let mut documents = Vec::new();
        for raw in serde_json::Deserializer::from_str(&self.text).into_iter::<&RawValue>() {
            match raw {
                Ok(raw) => documents.push(Node { file: self, raw: raw.get() }),
                Err(error) => {
                    let lines = self.text.split_inclusive('\n').take(error.line().saturating_sub(1));
                    let at = lines.map(str::len).sum::<usize>() + error.column().saturating_sub(1);
                    let what = error.to_string();
                    let what = what.split(" at line ").next().unwrap_or_default();
                    faults.add(
                        self.place(at..at + 1),
                        format!("this is not JSON: {what}"),
                        "print it with `-f json`, or `cmk set output json`",
                    );
                    break;
                }
            }
        }
        documents
    }
}

impl<'f> Node<'f> {
    /// Where it is written.
    pub(super) fn at(&self) -> Place {
        // What was parsed is a part of the file's text.
        let start = (self.raw.as_ptr() as usize).saturating_sub(self.file.text.as_ptr() as usize);
        self.file.place(start..start + self.raw.len())
    }

    fn node(self, raw: &'f RawValue) -> Self {
        Self { file: self.file, raw: raw.get() }
    }

    /// The values of an object by key; none where it is something else.
    pub(super) fn object(self) -> Option<BTreeMap<String, Node<'f>>> {
        let object: BTreeMap<Cow<'f, str>, &'f RawValue> = serde_json::from_str(self.raw).ok()?;
        Some(object.into_iter().map(|(key, raw)| (key.into_owned(), self.node(raw))).collect())
    }

    /// The values of a list.
    pub(super) fn list(self) -> Option<Vec<Node<'f>>> {
        let list: Vec<&'f RawValue> = serde_json::from_str(self.raw).ok()?;
        Some(list.into_iter().map(|raw| self.node(raw)).collect())
    }

    /// The text of a string; of a number, as it is written.
    pub(super) fn text(self) -> Option<String> {
        let number = || self.raw.parse::<i64>().is_ok().then(|| self.raw.to_owned());
        serde_json::from_str(self.raw).ok().or_else(number)
    }

    /// A number, also one that is written as a string.
    pub(super) fn number(self) -> Option<i64> {
        self.text()?.parse().ok()
    }

    pub(super) fn truth(self) -> Option<bool> {
        match self.raw {
            "true" => Some(true),
            "false" => Some(false),
            _ => match self.text()?.to_ascii_lowercase().as_str() {
                "true" => Some(true),
                "false" => Some(false),
                _ => None,
            },
        }
    }
}

/// An object's values by key. What is `null` is not there.
#[derive(Clone, Debug)]
pub(super) struct Object<'f> {
    pub(super) node: Node<'f>,
    values: BTreeMap<String, Node<'f>>,
}

impl<'f> Object<'f> {
    pub(super) fn of(node: Node<'f>) -> Option<Self> {
        let mut values = node.object()?;
        values.retain(|_, value| value.raw != "null");
        Some(Self { node, values })
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    pub(super) fn get(&self, key: &str) -> Option<Node<'f>> {
        self.values.get(key).copied()
    }

    /// The text of a key; empty where it is not there.
    pub(super) fn text(&self, key: &str) -> String {
        self.get(key).and_then(Node::text).unwrap_or_default()
    }

    /// The text of a key; none where it is empty or not there.
    pub(super) fn word(&self, key: &str) -> Option<String> {
        Some(self.text(key)).filter(|text| !text.is_empty())
    }

    /// The list at a key; empty where it is not there.
    pub(super) fn list(&self, key: &str) -> Vec<Node<'f>> {
        self.get(key).and_then(Node::list).unwrap_or_default()
    }

    /// The objects of the list at a key
    pub(super) fn objects(&self, key: &str) -> Vec<Object<'f>> {
        self.list(key).into_iter().filter_map(Object::of).collect()
    }

    /// Where a key's value is written; the object, where it is not there.
    pub(super) fn at(&self, key: &str) -> Place {
        self.get(key).unwrap_or(self.node).at()
    }
}
