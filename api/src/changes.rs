//! What a reload changed, by name.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Everything that is not as it was.
#[derive(Clone, PartialEq, Eq, Debug, Default, JsonSchema, Serialize, Deserialize)]
pub struct Changes {
    /// `overlay`, `limits`
    pub settings: Vec<String>,
    /// Hosts
    pub hosts: Named,
    /// Tenants; those with changes in their networks, groups and endpoints are changed
    pub tenants: Named,
    /// Networks, as tenant/name
    pub networks: Named,
    /// Endpoints, as tenant/name
    pub endpoints: Named,
    /// Groups, as tenant/name
    pub groups: Named,
    /// Address sets, as tenant/name; those of the site as name
    pub sets: Named,
    /// Templates
    pub templates: Named,
    /// Policies, as tenant/name; those of the site as name
    pub policies: Named,
    /// Profiles of machines that stations associate, as tenant/name
    #[serde(default)]
    pub profiles: Named,
    /// Rules, as `tenant/group ingress #2: tcp port 443 with any`
    pub rules: Named,
}

/// Names of things of one kind.
#[derive(Clone, PartialEq, Eq, Debug, Default, JsonSchema, Serialize, Deserialize)]
pub struct Named {
    /// They were not there before.
    pub added: Vec<String>,
    /// They are there no more.
    pub removed: Vec<String>,
    /// They are not what they were.
    pub changed: Vec<String>,
}

impl Named {
    /// Nothing is different.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

impl Changes {
    /// The names by the kind of thing that they are of, in the singular.
    #[must_use]
    pub fn kinds(&self) -> [(&'static str, &Named); 10] {
        [
            ("host", &self.hosts),
            ("tenant", &self.tenants),
            ("network", &self.networks),
            ("endpoint", &self.endpoints),
            ("group", &self.groups),
            ("set", &self.sets),
            ("template", &self.templates),
            ("policy", &self.policies),
            ("profile", &self.profiles),
            ("rule", &self.rules),
        ]
    }

    /// Nothing is different.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.settings.is_empty() && self.kinds().iter().all(|(_, named)| named.is_empty())
    }
}
