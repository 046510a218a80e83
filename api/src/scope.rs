//! Whose rows somebody may see.

use std::{collections::BTreeSet, sync::Arc};

/// The tenants whose rows may be seen, and of which something may be changed; all of them where nothing else is said.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scope(Option<Arc<BTreeSet<String>>>);

impl Scope {
    /// Everything, also what is of no tenant.
    #[must_use]
    pub const fn all() -> Self {
        Self(None)
    }

    /// These tenants and nothing else.
    #[must_use]
    pub fn of(tenants: impl IntoIterator<Item = String>) -> Self {
        Self(Some(Arc::new(tenants.into_iter().collect())))
    }

    /// Nothing is kept from it.
    #[must_use]
    pub const fn is_all(&self) -> bool {
        self.0.is_none()
    }

    /// What this tenant has may be seen.
    #[must_use]
    pub fn has(&self, tenant: &str) -> bool {
        self.0.as_ref().is_none_or(|tenants| tenants.contains(tenant))
    }

    /// The tenants; nothing where it is all.
    #[must_use]
    pub fn tenants(&self) -> Option<&BTreeSet<String>> {
        self.0.as_deref()
    }
}
