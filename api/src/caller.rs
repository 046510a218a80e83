//! Who asks, as it is told to himself.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Role, Scope};

/// What a token stands for.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct CallerRow {
    /// What the log calls whoever has it; `owner` where the control socket was opened
    pub name: String,
    /// What may be done with it
    pub role: Role,
    /// The tenants that it is confined to; nothing where it is for all
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenants: Option<Vec<String>>,
}

impl CallerRow {
    /// Of a role in a scope.
    #[must_use]
    pub fn new(name: &str, role: Role, scope: &Scope) -> Self {
        let tenants = scope.tenants().map(|tenants| tenants.iter().cloned().collect());
        Self { name: name.to_owned(), role, tenants }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_confined_is_told_to_what() {
        let of_all = CallerRow::new("ops", Role::Administer, &Scope::all());
        assert_eq!(serde_json::to_string(&of_all).unwrap(), r#"{"name":"ops","role":"administer"}"#);
        let of_one = CallerRow::new("a", Role::Read, &Scope::of(["acme".to_owned()]));
        assert_eq!(
            serde_json::to_string(&of_one).unwrap(),
            r#"{"name":"a","role":"read","tenants":["acme"]}"#
        );
    }
}
