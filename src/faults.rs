//! What is wrong with files that are no configuration, all at once, each with its place and what to do about it.

use std::fmt;

use eastgate_config::Place;
use eastgate_wire::names;
use serde::{Serialize, Serializer, ser::SerializeStruct as _};

/// One thing that is wrong.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Where
    pub at: Place,
    /// What
    pub message: String,
    /// What to do about it
    pub remedy: String,
}

/// All that is wrong, in the order of the files.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// Adds one.
    pub fn add(&mut self, at: Place, message: impl Into<String>, remedy: impl Into<String>) {
        self.0.push(Fault { at, message: message.into(), remedy: remedy.into() });
    }

    /// There are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.0.iter()
    }

    /// What was made, if nothing is wrong.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn unless_any<T>(mut self, made: T) -> Result<T, Self> {
        if self.is_empty() {
            return Ok(made);
        }
        self.0.sort_by(|a, b| {
            let key = |fault: &Fault| (fault.at.file().to_owned(), fault.at.line(), fault.at.column());
            key(a).cmp(&key(b))
        });
        self.0.dedup_by(|a, b| a.at.to_string() == b.at.to_string() && a.message == b.message);
        Err(self)
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Fault { at, message, remedy } in &self.0 {
            writeln!(f, "error: {message}\n  --> {at}\nhelp: {remedy}\n")?;
        }
        writeln!(f, "{}", names::count(self.0.len(), "error"))
    }
}

impl std::error::Error for Faults {}

impl Serialize for Fault {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fault = serializer.serialize_struct("Fault", 5)?;
        fault.serialize_field("file", self.at.file())?;
        fault.serialize_field("line", &self.at.line())?;
        fault.serialize_field("column", &self.at.column())?;
        fault.serialize_field("message", &self.message)?;
        fault.serialize_field("remedy", &self.remedy)?;
        fault.end()
    }
}
